"""What is drawn of the inside of a mouth: teeth that are lit as the skin is, the tongue, and the dark behind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from zlib import crc32

import cv2
import numpy as np
import torch

from fit3d.morphable.model import MorphableModel
from fit3d.morphable.pieces import piece_kind
from fit3d.render.light import harmonics, to_linear, to_srgb
from fit3d.render.shade import vertex_normals
from fit3d.synthesise.geometry import Projection
from fit3d.synthesise.opening import Opening

UPPER, LOWER, TONGUE = 1, 2, 3
"""Kinds of triangles, see `kind_of_triangle`."""

CAVITY_COLOUR = (0.020, 0.0045, 0.004)
"""Linear colours under light in which skin is `SKIN_LIGHT` bright: of the dark behind, tongue, gums and teeth."""
TONGUE_COLOUR = (0.36, 0.110, 0.105)
GUM_COLOUR = (0.36, 0.145, 0.135)
TEETH_COLOUR = (0.63, 0.56, 0.485)
SKIN_LIGHT = 0.35
WIDTHS_M = {
    UPPER: (0.0085, 0.0065, 0.0075, 0.007, 0.007, 0.010, 0.010),
    LOWER: (0.0053, 0.0058, 0.0068, 0.007, 0.007, 0.011, 0.011),
}
"""Of one side's teeth from the middle of the face backwards, mean values of dental anatomy."""
SHORTER_M = {
    UPPER: (0.0, 0.0008, 0.0001, 0.0008, 0.0010, 0.0014, 0.0016),
    LOWER: (0.0002, 0.0, 0.0, 4e-4, 6e-4, 8e-4, 8e-4),
}
"""How far each ends short of the line that they bite on."""
BACK_M = (0.014, 0.027)
"""Teeth further back along the arch than this lie in more and more shade of the cheeks, and at last are none."""
CORNER_M = 0.0009
"""Teeth are rounded off by so much where two meet on the biting edge."""
CROWN_M = 0.0095
"""Height of a tooth up to the gums."""
GAP_M = 0.00035
"""Half width of the shadow between two teeth."""
BULGE = 0.45
"""Tangent by which a tooth's normal turns from its middle to its sides."""
DEEP_M = 0.016
"""What lies so far behind the front teeth is half as bright."""
MOST_SHOWN = 0.22
"""Share of the height of a mouth in which lower teeth are seen at most."""
MOUTH_M = 0.05
"""Width of a mouth, about."""
LIP_SHADOW = 0.045
"""How far the lips' shadow reaches into the mouth, widths of the mouth."""
HIGHLIGHT_AT = np.array([0.0, 0.3, 0.954])
"""Normal of wet teeth that mirror the light above the camera."""
HIGHLIGHT_POWER = 40.0


@dataclass(frozen=True)
class Teeth:
    """How one person's teeth differ from the mean."""

    width: float
    """Of `WIDTHS_M`."""
    brightness: float
    """Of `TEETH_COLOUR`."""
    blue: float
    """Share of blue: less is yellower."""
    gap: float
    """Depth of the shadow between two."""
    wet: float
    """Linear brightness of the highlight."""
    lower: float
    """Height of lower teeth that is seen above the lip of an open mouth, widths of the mouth."""
    each: tuple[float, ...]
    """Brightness of each from the middle backwards."""

    @classmethod
    def of(cls, identity: np.ndarray, seed: int) -> Teeth:
        """The same for the same identity (K,) float64 and seed."""
        draw = np.random.default_rng([seed, crc32(np.ascontiguousarray(identity).tobytes())]).uniform
        each = tuple(draw(0.93, 1.04, len(WIDTHS_M[UPPER])).tolist())
        return cls(
            width=draw(0.9, 1.12),
            brightness=draw(0.9, 1.2),
            blue=draw(0.86, 1.04),
            gap=draw(0.2, 0.45),
            wet=draw(0.08, 0.3),
            lower=draw(0.02, 0.075),
            each=each,
        )


@dataclass(frozen=True)
class MouthLight:
    """The light on the mouth, as the skin tells it."""

    colour: np.ndarray
    """(3,) linear, 1 where skin is as bright as `SKIN_LIGHT`."""
    harmonics: np.ndarray | None
    """(9, 3) of `fit3d.render.light`, or None."""

    @classmethod
    def of(cls, photo: np.ndarray, skin: np.ndarray, light: np.ndarray | None) -> MouthLight:
        """Of a photo (h, w, 3) sRGB 0 ... 255 and its `skin` (h, w) bool; damped, for a skin's colour is not all the
        light's."""
        if skin.sum() < 50:
            return cls(np.ones(3), light)
        colour = np.median(to_linear(photo[skin] / 255.0), axis=0)
        bright = float(colour @ (0.3, 0.6, 0.1))
        tint = (colour / max(bright, 1e-4) / np.array([1.32, 0.93, 0.72])).clip(0.5, 2.0) ** 0.4  # of usual skin
        tint[1] = np.sqrt(tint[0] * tint[2])  # lights are warm or cold; green or magenta is the skin itself
        return cls(np.asarray((bright / SKIN_LIGHT) ** 0.6 * tint), light)

    def on(self, normals: np.ndarray) -> np.ndarray:
        """(n, 1) how brightly a surface of these normals (n, 3), world, is lit; 1 is the mean over the skin."""
        if self.harmonics is None:
            return np.asarray(0.5 + 0.5 * normals[:, 2:].clip(0.0, 1.0))
        return np.asarray((harmonics(normals) @ self.harmonics.mean(1)).clip(0.35, 1.6)[:, None])


def settle_jaw(model: MorphableModel, head: Projection, mouth: Opening, teeth: Teeth) -> Projection:
    """The head with lower teeth and tongue moved in the picture, so that as much of the teeth as `teeth` says is seen
    above the lip of the edit: fitted lips know nothing of the model's teeth."""
    kinds = kind_of_triangle(model)
    ids, jaw = (np.unique(model.triangles[np.isin(kinds, which)]) for which in ((LOWER,), (LOWER, TONGUE)))
    if not len(ids):
        return head
    front = ids[np.abs(_along_arch(model)[ids]) < WIDTHS_M[LOWER][0]]
    px = head.px.numpy()
    edge = (px[front] @ mouth.down).min()
    # rims are those of the window, whose origin is not the photo's: only the difference to the head's own rim counts
    top, lip = (
        float((px[rim[2 * len(rim) // 5 : -(2 * len(rim) // 5)]] @ mouth.down).mean())
        for rim in (each.numpy() for each in model.annotation.rims["inner_mouth"])
    )
    shown = min(teeth.lower * mouth.width, MOST_SHOWN * max(lip - top, 0.0))
    moved = px.copy()
    moved[jaw] += (lip - shown - edge) * mouth.down
    return replace(head, px=torch.from_numpy(moved))


def draw_inside(
    model: MorphableModel,
    head: Projection,
    place: tuple[np.ndarray, np.ndarray],
    mouth: Opening,
    light: MouthLight,
    teeth: Teeth,
) -> np.ndarray:
    """(h, w, 3) float32 sRGB 0 ... 255: teeth, tongue and the dark behind, where triangles (h, w) of them are seen at
    barycentric (h, w, 3)."""
    whole = mouth.mask((place[0].shape[0], place[0].shape[1]), before=False)
    picture = np.zeros((*whole.shape, 3), np.float32)
    rows, columns = (np.flatnonzero(whole.any(axis)) for axis in (1, 0))
    if not len(rows):
        return picture
    room = round(0.15 * mouth.width) + 2  # beyond what is blurred into the opening
    box = tuple(slice(max(int(each[0]) - room, 0), int(each[-1]) + room + 1) for each in (rows, columns))
    triangle, weights, opening = place[0][box], place[1][box], whole[box]
    colour = np.broadcast_to(np.array(CAVITY_COLOUR) * light.colour, (*opening.shape, 3)).copy()
    kind = np.where(triangle >= 0, kind_of_triangle(model)[triangle], 0)
    seen = cv2.dilate(opening, np.ones((3, 3))) > 0.0
    normals = vertex_normals(head.vertices, torch.from_numpy(model.triangles.astype(np.int64))).numpy()
    hit = (kind == TONGUE) & seen
    if hit.any():
        surface = _Surface.of(model, head, normals, triangle[hit], weights[hit])
        colour[hit] = surface.dim[:, None] * np.array(TONGUE_COLOUR) * light.on(surface.normals) * light.colour
        colour *= _let_in(opening, mouth.down)
    colour = cv2.GaussianBlur(colour, (0, 0), max(0.03 * mouth.width, 0.6))
    for jaw in (LOWER, UPPER):
        hit = (kind == jaw) & seen
        if hit.any():
            surface = _Surface.of(model, head, normals, triangle[hit], weights[hit])
            enamel, share = _teeth(surface, jaw, light, teeth, mouth.width / MOUTH_M)
            colour[hit] += share[:, None] * (enamel - colour[hit])
    upper = mouth.after_upper - (box[1].start, box[0].start)
    colour *= _lip_shadow(opening, upper, LIP_SHADOW * mouth.width)[..., None]
    bright = to_srgb(colour).astype(np.float32) * 255.0
    picture[box] = cv2.GaussianBlur(bright, (0, 0), max(0.008 * mouth.width, 0.5))
    return picture


@dataclass(frozen=True)
class _Surface:
    """Points of teeth or tongue."""

    normals: np.ndarray
    """(n, 3) unit, world."""
    along: np.ndarray
    """(n,) metres along the arch, see `_along_arch`."""
    height: np.ndarray
    """(n,) metres from the biting edge, see `_height`."""
    dim: np.ndarray
    """(n,) how much less light they get as they lie behind the front teeth."""

    @classmethod
    def of(
        cls, model: MorphableModel, head: Projection, normals: np.ndarray, triangle: np.ndarray, weights: np.ndarray
    ) -> _Surface:
        corners = model.triangles[triangle]
        each = (normals[corners] * weights[..., None]).sum(1)
        each = each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-9)
        along, height = ((of(model)[corners] * weights).sum(1) for of in (_along_arch, _height))
        front = float(head.depth[torch.from_numpy(np.flatnonzero(_along_arch(model)))].min())
        depth = (head.depth.numpy()[corners] * weights).sum(1) - front
        return cls(each, along, height, 0.5 ** (np.maximum(depth, 0.0) / DEEP_M))


def _teeth(surface: _Surface, jaw: int, light: MouthLight, teeth: Teeth, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) linear colours of teeth and gums, and (n,) how far they cover what is behind; `scale` is px per metre."""
    joints = np.cumsum((0.0, *WIDTHS_M[jaw])) * teeth.width
    away = np.abs(surface.along)
    which = np.searchsorted(joints, away).clip(1, len(teeth.each)) - 1
    left, right = joints[which], joints[which + 1]
    across = ((2.0 * away - left - right) / (right - left)).clip(-1.0, 1.0)
    pixel = 1.0 / scale
    gap = (1.0 - np.abs(across)) * (right - left) / 2.0
    joint = teeth.gap * min(1.0, 1.5 * GAP_M / pixel) * np.exp(-0.5 * (gap / max(GAP_M, 0.5 * pixel)) ** 2)
    # a tooth bulges to the sides and towards the gums and the edge
    up = (surface.height / CROWN_M - 0.5).clip(-0.5, 0.5) * (1.0 if jaw == UPPER else -1.0)
    sideways = np.sign(surface.along) * across * np.abs(across)
    normals = surface.normals + BULGE * (
        sideways[:, None] * np.array([1.0, 0.0, 0.0]) + up[:, None] * np.array([0.0, 1.0, 0.0])
    )
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    lit = light.on(normals) * (0.55 + 0.45 * normals[:, 2:].clip(0.0, 1.0))
    enamel = np.array(TEETH_COLOUR) * teeth.brightness * np.array([1.0, 1.0, teeth.blue])
    # thin towards the edge, where the dark behind shines through, and yellower towards the gums
    root = (surface.height / CROWN_M).clip(0.0, 1.0)[:, None]
    enamel = enamel * (0.86 + 0.14 * (root / 0.25).clip(0.0, 1.0)) * (1.0 - 0.16 * root**2 * np.array([0.4, 0.7, 1.0]))
    colour = enamel * (np.array(teeth.each)[which] * (1.0 - joint))[:, None]
    gums = ((surface.height - CROWN_M + 0.0012 * across**2) / 0.0006 + 0.5).clip(0.0, 1.0)[:, None]
    colour = colour + gums * (np.array(GUM_COLOUR) - colour)
    wet = teeth.wet * (normals @ HIGHLIGHT_AT).clip(0.0, 1.0) ** HIGHLIGHT_POWER
    colour = (colour * lit + wet[:, None]) * surface.dim[:, None] * light.colour
    edge = np.array(SHORTER_M[jaw])[which] + CORNER_M * np.abs(across) ** 4
    cheeks = ((BACK_M[1] - away) / (BACK_M[1] - BACK_M[0])).clip(0.0, 1.0)
    return colour * cheeks[:, None], cheeks * ((surface.height - edge) / max(pixel, 2e-4) + 0.5).clip(0.0, 1.0)


def _let_in(opening: np.ndarray, downwards: np.ndarray) -> np.ndarray:
    """(h, w, 1) how much light falls on tongue and throat: more in front and below, where the mouth opens to it."""
    rows, columns = np.nonzero(opening > 0.5)
    if not len(rows):
        return np.ones((*opening.shape, 1))
    x, y = np.meshgrid(np.arange(opening.shape[1]), np.arange(opening.shape[0]))
    down = x * downwards[0] + y * downwards[1]
    top, bottom = np.quantile(down[rows, columns], (0.02, 0.98))
    share = ((down - top) / max(bottom - top, 1.0)).clip(0.0, 1.0)
    return np.asarray(0.12 + 0.88 * share**1.5)[..., None]


def _lip_shadow(opening: np.ndarray, upper: np.ndarray, reach: float) -> np.ndarray:
    """(h, w) float32: how much light the lips let in, least at the rims, the `upper` (N, 2) above all: light is from
    above."""
    away = cv2.distanceTransform((opening > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    rest = np.ones(opening.shape, np.uint8)
    cv2.polylines(rest, [np.rint(upper).astype(np.int32)], False, 0)
    under = cv2.distanceTransform(rest, cv2.DIST_L2, 5)
    reach = max(reach, 0.5)
    return np.asarray((1.0 - 0.4 * np.exp(-away / reach)) * (1.0 - 0.35 * np.exp(-under / (1.5 * reach))))


@lru_cache(maxsize=2)
def kind_of_triangle(model: MorphableModel) -> np.ndarray:
    """(T,) uint8 of each of the model's triangles: `UPPER` or `LOWER` teeth, `TONGUE`, 0 all else."""
    kinds = np.zeros(len(model.objects), np.uint8)
    for index, name in enumerate(model.objects):
        piece = piece_kind(name)
        if piece == "teeth":
            kinds[index] = LOWER if "lower" in name.lower() else UPPER
        elif piece == "tongue":
            kinds[index] = TONGUE
    objects = np.concatenate([model.face_objects, model.face_objects[model.faces[:, 3] >= 0]])
    return np.asarray(kinds[objects])


@lru_cache(maxsize=2)
def _along_arch(model: MorphableModel) -> np.ndarray:
    """(V,) metres along the dental arch from the middle of the face, to the left positive; 0 off the teeth."""
    along = np.zeros(len(model.mean))
    for which in (UPPER, LOWER):
        ids = _vertices(model, which)
        if not len(ids):
            continue
        place = model.mean[torch.from_numpy(ids)].double().numpy()
        # the arch is about a parabola z = top - c x^2, whose length has a closed form; a fit tells c
        x, z = place[:, 0], place[:, 2]
        c = max(-np.polyfit(x**2, z, 1)[0], 1e-3)
        steep = 2.0 * c * np.abs(x)
        along[ids] = np.sign(x) * (steep * np.sqrt(1 + steep**2) + np.arcsinh(steep)) / (4.0 * c)
        along[ids[x == 0.0]] = 1e-9  # still on the teeth
    return along


@lru_cache(maxsize=2)
def _height(model: MorphableModel) -> np.ndarray:
    """(V,) metres from the edge on which teeth bite; 0 off the teeth."""
    height = np.zeros(len(model.mean))
    for which, sign in ((UPPER, 1.0), (LOWER, -1.0)):
        ids = _vertices(model, which)
        if not len(ids):
            continue
        rise = sign * model.mean[torch.from_numpy(ids)].double().numpy()[:, 1]
        along = _along_arch(model)[ids]
        near = np.abs(along[:, None] - along) < 0.5 * WIDTHS_M[LOWER][0]
        height[ids] = rise - np.where(near, rise[None], np.inf).min(1)
    return height


def _vertices(model: MorphableModel, kind: int) -> np.ndarray:
    """(N,) int64 ids."""
    return np.unique(model.triangles[kind_of_triangle(model) == kind]).astype(np.int64)
