"""The inside of an opened mouth: what the photo shows of it where it went, else teeth, tongue and the dark behind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import cv2
import numpy as np
import torch

from fit3d.labels import SKIN
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.pieces import piece_kind
from fit3d.render.light import to_linear, to_srgb
from fit3d.render.shade import vertex_normals
from fit3d.synthesise.geometry import Projection, Window, look_inside
from fit3d.synthesise.open_mouth import Rims, follow_jaws
from fit3d.synthesise.opening import Opening, area, from_line
from fit3d.synthesise.picture import disc, mapped, membrane

CAVITY = (0.030, 0.008, 0.007)
"""Linear colours under light in which skin is 0.35 bright: of the dark behind, the tongue and teeth."""
TONGUE = (0.42, 0.14, 0.125)
TEETH = (0.50, 0.43, 0.335)
SKIN_LIGHT = 0.35
TOOTH_WIDTHS_M = (0.0085, 0.0065, 0.0075, 0.007, 0.007, 0.010, 0.010)
"""Of one side's upper teeth from the middle of the face backwards (mean values of dental anatomy); lower teeth are
narrower in front, which nobody sees."""
GAP_M = 0.0005
"""Half width of the shadow between two teeth."""
NARROW = 0.06
"""A mouth that gapes less than this, height over width, is as good as closed."""
TEETH_SEEN = 0.012
"""Area of teeth in the photo, squares of the mouth's width, that tells how bright they are."""
FEWEST_PX = 12
"""Pixels of the inside of a mouth that tell how dark it is."""
CRUMBS = 0.03
"""Rim of the lips that may show teeth instead, widths of the mouth."""
DEEP_M = 0.010
"""What lies so far behind the lips is half as bright."""
LIP_SHADOW = 0.045
"""How far the lips' shadow reaches into the mouth, widths of the mouth."""


HIGHLIGHT_AT = np.array([0.0, 0.3, 0.954])
"""Normal of wet teeth that mirror the light above the camera."""
HIGHLIGHT_POWER = 30.0


@dataclass(frozen=True)
class Teeth:
    """How one person's teeth differ from the mean."""

    width: float
    """Of `TOOTH_WIDTHS_M`."""
    brightness: float
    """Of `TEETH`."""
    blue: float
    """Share of blue: less is yellower."""
    gap: float
    """Depth of the shadow between two."""
    wet: float
    """Linear brightness of the highlight."""
    each: tuple[float, ...]
    """Brightness of each from the middle backwards."""

    @classmethod
    def of(cls, identity: np.ndarray, seed: int) -> Teeth:
        """The same for the same identity (K,) float64 and seed."""
        draw = np.random.default_rng([seed, crc32(np.ascontiguousarray(identity).tobytes())]).uniform
        each = tuple(draw(0.9, 1.05, len(TOOTH_WIDTHS_M)).tolist())
        return cls(draw(0.9, 1.12), draw(0.9, 1.25), draw(0.82, 1.02), draw(0.2, 0.5), draw(0.05, 0.25), each)


class MouthShape(Opening):
    """The opening between the lips."""

    @property
    def gape(self) -> float:
        """How open it is in the photo: mean height over width."""
        return area(self.before_upper, self.before_lower) / max(self.width, 1e-6) ** 2

    @property
    def stretch_weight(self) -> float:
        """How far the photo's own mouth, stretched, is the better picture: it is as good as closed and grows little."""
        if self.gape >= NARROW:
            return 0.0
        stretched = np.clip((1.35 - self.growth) / 0.3, 0.0, 1.0)
        after = area(self.after_upper, self.after_lower) / max(self.width, 1e-6) ** 2
        shut = np.clip((1.3 * NARROW - after) / (0.6 * NARROW), 0.0, 1.0)  # a slit of the model's is no opening
        return float(max(stretched, shut))


def paint_mouth(
    photo: np.ndarray,
    model: MorphableModel,
    before: Projection,
    after: Projection,
    window: Window,
    mouth: MouthShape,
    skin: np.ndarray,
    teeth: Teeth,
) -> np.ndarray:
    """(h, w, 3) float32 sRGB 0 ... 255: the inside of the mouth; of use within its opening only.

    Args:
        photo: (h, w, 3) float32 sRGB 0 ... 255, the window of the photo.
        skin: (h, w) bool: where the photo shows the face's skin, by which the light is judged.
        teeth: how to draw those that the photo does not show.
    """
    is_open = mouth.gape >= NARROW
    chosen = np.isin(_kind_of_triangle(model), (3,) if is_open else (1, 2, 3))
    now, then = (look_inside(model, head, window, chosen) for head in (after, before))
    drawn = _draw(photo, model, after, (now.triangle.numpy(), now.barycentric.numpy()), mouth, skin, teeth)
    if not is_open:
        place = now.triangle.numpy(), now.barycentric.numpy()
        return _with_photo(drawn, photo, model, before, window, place, then.triangle.numpy(), mouth)
    inside = photo[mouth.mask((window.height, window.width), before=True) > 0.9]
    if len(inside) >= FEWEST_PX:  # no brighter than the dark that was seen
        seen = inside[np.argsort(inside.sum(1))[: max(len(inside) // 8, 3)]].mean(0)
        dark = drawn[mouth.mask((window.height, window.width), before=False) > 0.5]
        drawn *= (seen / np.maximum(np.median(dark, axis=0), 1.0)).clip(0.3, 1.0).astype(np.float32)
    quarter = len(mouth.before_lower) // 4
    jaw = (mouth.after_lower - mouth.before_lower)[quarter:-quarter].mean(0)
    bright = float(np.median(photo[skin].mean(-1))) if skin.any() else 128.0
    return follow_jaws(photo, drawn, Rims.of(mouth.before_upper, mouth.before_lower), jaw, bright)


def clean_lips(picture: np.ndarray, field: np.ndarray, mouth: MouthShape) -> np.ndarray:
    """The edited photo without what lips took along of the teeth or the dark behind them: parsers miss rims by a pixel
    or two. Where a rim moved, its last pixels are continued from the lip further out.

    Args:
        picture: (h, w, 3) float32 sRGB 0 ... 255, the warped photo.
        field: (h, w, 2) px, where it came from.
    """
    shape = picture.shape[0], picture.shape[1]
    opening = mouth.mask(shape, before=False)
    was = cv2.dilate(mouth.mask(shape, before=True), disc(max(CRUMBS * mouth.width, 1.5)))
    lower = from_line(mouth.after_lower, shape, mouth.down)[2]  # light falls on the lower lip, and shows them
    stained = mapped(was, field) * (opening < 0.99) * lower
    moved = (np.hypot(*field.transpose(2, 0, 1)) / (0.05 * mouth.width)).clip(0.0, 1.0)
    if mouth.gape < NARROW or not (stained * moved > 0.1).any():
        return picture
    away = membrane(picture, (stained > 0.1) | (opening > 0.01), mouth.width)
    matte = cv2.GaussianBlur(stained * moved, (0, 0), max(0.3 * CRUMBS * mouth.width, 0.5))[..., None]
    return np.asarray(picture + matte * (away - picture))


def _draw(
    photo: np.ndarray,
    model: MorphableModel,
    after: Projection,
    place: tuple[np.ndarray, np.ndarray],
    mouth: MouthShape,
    skin: np.ndarray,
    teeth: Teeth,
) -> np.ndarray:
    """(h, w, 3) float32 sRGB 0 ... 255: teeth, tongue and the dark behind, where triangles (h, w) of them are seen at
    barycentric (h, w, 3)."""
    triangle, weights = place
    shape = photo.shape[0], photo.shape[1]
    light = _light(photo, skin)
    colour = np.broadcast_to(np.array(CAVITY) * light, (*shape, 3)).copy()
    kind = _kind_of_triangle(model)[triangle]
    hit = (triangle >= 0) & (kind != 2)  # lower teeth mostly hide behind the lip, and the model's are a bare strip
    if hit.any():
        colour[hit] = _drawn(model, after, triangle[hit], weights[hit], teeth) * light
    soft = cv2.GaussianBlur(colour, (0, 0), max(0.035 * mouth.width, 0.6))
    colour = np.where((hit & (kind == 1))[..., None], colour, soft)
    opening = mouth.mask(shape, before=False)
    colour *= _lip_shadow(opening, mouth)[..., None]
    picture = to_srgb(colour).astype(np.float32) * 255.0
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), max(0.008 * mouth.width, 0.6)))


def _with_photo(
    picture: np.ndarray,
    photo: np.ndarray,
    model: MorphableModel,
    before: Projection,
    window: Window,
    now: tuple[np.ndarray, np.ndarray],
    then: np.ndarray,
    mouth: MouthShape,
) -> np.ndarray:
    """Upper teeth that the photo shows between lips that hardly part, where they are now; else what was drawn."""
    triangle, weights = now
    shape = window.height, window.width
    shown = cv2.erode(mouth.mask(shape, before=True), np.ones((3, 3), np.uint8))
    if shown.max() < 0.5 or mouth.gape < 0.5 * NARROW:
        return picture
    corners = model.triangles[np.maximum(triangle, 0)]
    source = (before.in_window(window)[corners] * weights[..., None]).sum(-2)
    # the cavity's pixels have no place of their own; what moves least is above
    still = np.stack(np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5), -1)
    source = np.where((triangle >= 0)[..., None], source, still).astype(np.float32)
    x, y = source[..., 0] - 0.5, source[..., 1] - 0.5
    moved = cv2.remap(photo, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).clip(0.0, 255.0)
    kind = _kind_of_triangle(model)
    there = np.where(then >= 0, kind[np.maximum(then, 0)], 0)
    here = np.where(triangle >= 0, kind[np.maximum(triangle, 0)], 0)
    column, row = (np.rint(v).astype(int).clip(0, size - 1) for v, size in ((x, shape[1]), (y, shape[0])))
    # little is seen below the upper teeth, and what it is is a guess
    trust = cv2.remap(shown, x, y, cv2.INTER_LINEAR) * ((there[row, column] == 1) & (here == 1))
    sure = (trust > 0.5) & (here == 1)
    if sure.sum() >= TEETH_SEEN * mouth.width**2:  # as dark as the photo's own, which lips may shade
        ratio = np.median(moved[sure], axis=0) / np.maximum(np.median(picture[sure], axis=0), 1.0)
        picture = np.where((here == 1)[..., None], picture * ratio.clip(0.1, 1.6), picture).astype(np.float32)
    trust = cv2.GaussianBlur(trust.astype(np.float32), (0, 0), max(0.01 * mouth.width, 0.6))[..., None]
    return np.asarray(picture + trust * (moved - picture))


def _drawn(
    model: MorphableModel, after: Projection, triangle: np.ndarray, weights: np.ndarray, teeth: Teeth
) -> np.ndarray:
    """(n, 3) linear colours of teeth and tongue under light of strength 1."""
    kind = _kind_of_triangle(model)[triangle]
    corners = model.triangles[triangle]
    enamel = np.array(TEETH) * teeth.brightness * np.array([1.0, 1.0, teeth.blue])
    colour = np.where((kind == 3)[:, None], np.array(TONGUE), enamel)
    along = (_arch(model)[corners] * weights).sum(1)
    joints = np.cumsum((0.0, *TOOTH_WIDTHS_M)) * teeth.width
    gap = np.abs(np.abs(along)[:, None] - joints).min(1)
    lines = 1.0 - teeth.gap * np.exp(-0.5 * (gap / GAP_M) ** 2)
    own = np.array(teeth.each)[np.searchsorted(joints, np.abs(along)).clip(1, len(teeth.each)) - 1]
    colour = colour * np.where(kind == 3, 1.0, lines * own)[:, None]
    normals = vertex_normals(after.vertices, torch.from_numpy(model.triangles.astype(np.int64))).numpy()
    normals = (normals[corners] * weights[..., None]).sum(1)
    facing = normals[:, 2].clip(0.0, 1.0)
    wet = teeth.wet * (normals @ HIGHLIGHT_AT).clip(0.0, 1.0) ** HIGHLIGHT_POWER * np.where(kind == 3, 0.3, lines)
    rim = model.annotation.rims["inner_mouth"]
    front = float(torch.cat([after.depth[rim[0]], after.depth[rim[1]]]).median())
    depth = (after.depth.numpy()[corners] * weights).sum(1) - front
    dim = 0.5 ** (np.maximum(depth - 0.004, 0.0) / DEEP_M)
    return np.asarray((colour * (0.45 + 0.55 * facing)[:, None] + wet[:, None]) * dim[:, None])


def _lip_shadow(opening: np.ndarray, mouth: MouthShape) -> np.ndarray:
    """(h, w) float32: how much light the lips let in, least at the rims, the upper above all: light is from above."""
    away = cv2.distanceTransform((opening > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    rest = np.ones(opening.shape, np.uint8)
    cv2.polylines(rest, [np.rint(mouth.after_upper).astype(np.int32)], False, 0)
    under = cv2.distanceTransform(rest, cv2.DIST_L2, 5)
    reach = max(LIP_SHADOW * mouth.width, 0.5)
    return np.asarray((1.0 - 0.4 * np.exp(-away / reach)) * (1.0 - 0.3 * np.exp(-under / (1.5 * reach))))


def _light(photo: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """(3,) linear light on the mouth, 1 where skin is as bright as `SKIN_LIGHT`; damped, for a skin's colour is not all
    the light's."""
    if skin.sum() < 50:
        return np.ones(3)
    colour = np.median(to_linear(photo[skin] / 255.0), axis=0)
    bright = float(colour @ (0.3, 0.6, 0.1))
    tint = colour / max(bright, 1e-4) / np.array([1.32, 0.93, 0.72])  # of usual skin
    strength = (bright / SKIN_LIGHT) ** 0.6
    return np.asarray(strength * tint.clip(0.5, 2.0) ** 0.4)


@lru_cache(maxsize=2)
def _kind_of_triangle(model: MorphableModel) -> np.ndarray:
    """(T,) uint8 of each of the model's triangles: 1 upper teeth, 2 lower teeth, 3 tongue, 0 all else."""
    kinds = np.zeros(len(model.objects), np.uint8)
    for index, name in enumerate(model.objects):
        piece = piece_kind(name)
        if piece == "teeth":
            kinds[index] = 2 if "lower" in name.lower() else 1
        elif piece == "tongue":
            kinds[index] = 3
    objects = np.concatenate([model.face_objects, model.face_objects[model.faces[:, 3] >= 0]])
    return np.asarray(kinds[objects])


@lru_cache(maxsize=2)
def _arch(model: MorphableModel) -> np.ndarray:
    """(V,) metres along the dental arch from the middle of the face, to the left positive; 0 off the teeth."""
    along = np.zeros(len(model.mean))
    kind = _kind_of_triangle(model)
    for which in (1, 2):
        ids = np.unique(model.triangles[kind == which])
        if not len(ids):
            continue
        place = model.mean[torch.from_numpy(ids.astype(np.int64))].double().numpy()
        # the arch is about a parabola z = top - c x^2, whose length has a closed form; a fit tells c
        x, z = place[:, 0], place[:, 2]
        c = -np.polyfit(x**2, z, 1)[0]
        steep = 2.0 * max(c, 1e-3) * np.abs(x)
        along[ids] = np.sign(x) * (steep * np.sqrt(1 + steep**2) + np.arcsinh(steep)) / (4.0 * max(c, 1e-3))
    return along


def skin_of(parts: np.ndarray) -> np.ndarray:
    """(h, w) bool: the skin of a label image."""
    return np.asarray(parts == SKIN)
