"""The photo resampled into the model's UVs, and a plausible colour wherever the photo shows nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy import ndimage, sparse
from scipy.sparse.linalg import splu
from torch import Tensor
from torch.nn import functional

from fit3d.camera import Camera
from fit3d.labels import INNER_MOUTH, LEFT_EYE, NOSE, OTHER, RIGHT_EYE, SKIN
from fit3d.morphable.model import MorphableModel
from fit3d.render.atlas import Atlas, head_object, make_atlas
from fit3d.render.shade import vertex_normals
from fit3d.render.visibility import DepthMap, depth_map

FACE_LABELS = tuple(range(RIGHT_EYE, INNER_MOUTH + 1))
"""Labels of what belongs to a face: neither hair nor ears, neck or things in front."""

GRAZING_COSINE, FULL_COSINE = 0.2, 0.55
"""Cosine between normal and view at which the photo begins to count and counts fully."""

SKIN_MARGIN, EYE_MARGIN = 0.005, 0.0008
"""How far inside their region in the photo skin and eyes are trusted, metres."""

HAIRLINE = 0.010
"""Within this distance of the face's border, metres, a pixel must also have the colour of skin to count as skin."""

NEIGHBOUR_COLOUR = 0.02
"""Pull of unseen skin to the mean skin colour, per edge: colours run on for about seven edges beyond what is seen."""

FLAT_COLOUR = 0.6
"""The same for teeth, tongue and mouth cavity, which hardly take colour from their neighbours."""

IRIS_ANGLE_DEG, PUPIL_ANGLE_DEG = 28.0, 9.0
"""Half angle of iris and pupil seen from the middle of the eyeball, degrees."""

FEWEST_EYE_TEXELS = 20
"""Texels of an eye that must be seen to tell its colours and where it looks."""

DEFAULT_SKIN = (0.78, 0.62, 0.54)
SCLERA = (0.80, 0.77, 0.74)
IRIS = (0.34, 0.24, 0.17)
TEETH = (0.76, 0.72, 0.65)
MOUTH = (0.42, 0.18, 0.17)
TONGUE = (0.62, 0.33, 0.32)
"""Colours of what is not seen, sRGB in [0, 1]."""

_LUMA = np.array([0.3, 0.6, 0.1], np.float32)


@dataclass(frozen=True)
class _Source:
    """The part of the photo around the mesh, no finer than the texture, and where each kind of surface may be read."""

    image: Tensor
    """(1, 7, h, w) float32: RGB in [0, 1], then trust in [0, 1] as each kind of surface."""
    left: float
    top: float
    scale: float
    """Pixels of `image` per photo pixel."""


@dataclass(frozen=True)
class _Sample:
    """What the photo shows at some texels."""

    rgb: np.ndarray
    """(n, 3) float32."""
    trust: np.ndarray
    """(n,) float32 in [0, 1]; 0 where the texel is hidden, turned away or covered by something else."""


def project_texture(
    photo: np.ndarray,
    vertices_world: Tensor,
    model: MorphableModel,
    camera: Camera,
    parts: np.ndarray,
    size: int = 2048,
) -> np.ndarray:
    """The texture of one fitted head.

    A texel takes the photo's colour where the camera sees it from the front and the label image says that skin, eye or
    mouth is what stands there. Elsewhere it takes the mirrored side's detail where that is seen, on a base colour that
    runs on smoothly over the surface from what is seen. Eyeballs get a whole iris.

    Args:
        photo: (H, W, 3) uint8 sRGB.
        vertices_world: (V, 3) metres, with expression.
        camera: of the photo.
        parts: (H, W) uint8 observed label image.
        size: side of the texture, texels.

    Returns:
        (size, size, 3) uint8 sRGB.
    """
    atlas = make_atlas(model, size)
    assert photo.shape[:2] == parts.shape == (camera.height, camera.width)
    vertices = vertices_world.detach().double().cpu()
    triangles = torch.as_tensor(model.triangles, dtype=torch.int64)
    cam = camera.to_cam(vertices)
    normals = vertex_normals(cam, triangles)
    cosine = -(normals * functional.normalize(cam, dim=1)).sum(1)
    cx, cy = camera.principal_px
    # interpolated linearly and divided afterwards, so that perspective stays exact
    seen_by = np.column_stack(
        [
            (camera.focal_px * cam[:, 0] + cx * cam[:, 2]).numpy(),
            (camera.focal_px * cam[:, 1] + cy * cam[:, 2]).numpy(),
            cam[:, 2].numpy(),
            cosine.numpy(),
        ]
    ).astype(np.float32)
    head = head_object(model)
    depth = depth_map(vertices, triangles[torch.from_numpy(model.opaque)], camera)
    source = _source(photo, parts, seen_by, atlas, head, camera)
    kind = _kind(model, atlas, head)

    every = np.arange(len(atlas.texels))
    direct = _sample(every, seen_by, kind, atlas, source, depth, camera)
    base, exposure = _base_colours(direct, model, atlas, kind)
    colours = atlas.from_vertices @ base

    # detail of the mirrored side: the same texels with each vertex where its partner is
    partner = np.where(atlas.mirror >= 0, atlas.mirror, 0)
    across = seen_by[partner]
    across[atlas.mirror < 0, 3] = -1.0
    unseen = np.flatnonzero((direct.trust < 1.0) & (atlas.face_object == head) & ~atlas.inner)
    mirrored = _sample(unseen, across, kind, atlas, source, depth, camera)
    some = np.flatnonzero(mirrored.trust > 0.0)
    detail = mirrored.rgb[some] - atlas.from_vertices[unseen[some]] @ base[partner]
    colours[unseen[some]] += mirrored.trust[some, None] * detail
    _paint_eyes(colours, _eyeballs(vertices.numpy(), model, atlas, direct), exposure)
    some = np.flatnonzero(direct.trust > 0.0)
    colours[some] += direct.trust[some, None] * (direct.rgb[some] - colours[some])
    return _texture(colours, base, atlas)


@dataclass(frozen=True)
class _Eyeball:
    """The n texels of one eyeball."""

    texels: np.ndarray
    """(n,) indices into the atlas's texels."""
    towards: np.ndarray
    """(n, 3) unit vectors from the middle of the ball to the texels, world."""
    ahead: np.ndarray
    """(3,) unit vector to the front pole, world."""
    rgb: np.ndarray
    """(n, 3) what the photo shows there."""
    trust: np.ndarray
    """(n,) as in `_Sample`."""

    @property
    def seen(self) -> np.ndarray:
        """(n,) bool."""
        return np.asarray(self.trust > 0.4)

    def angle_deg(self, look: np.ndarray) -> np.ndarray:
        """(n,) angle between the texels and the direction `look`, degrees."""
        return np.asarray(np.degrees(np.arccos((self.towards @ look).clip(-1.0, 1.0))))


# kinds of surface, the channel of `_Source.image` that says where each may be read is 3 + kind
_FACE, _BESIDE, _EYE, _MOUTH = 0, 1, 2, 3


def _kind(model: MorphableModel, atlas: Atlas, head: int) -> np.ndarray:
    """(N,) int64: which kind of surface each texel lies on."""
    by_object = np.array(
        [_FACE if k == head else _EYE if "eye" in name else _MOUTH for k, name in enumerate(model.objects)]
    )
    kind = by_object[atlas.face_object]
    # ears, neck and scalp, and the cavity of the mouth
    shares = atlas.from_vertices @ np.column_stack([~np.isin(atlas.label, FACE_LABELS), atlas.inner_mouth]).astype(
        np.float32
    )
    skin = kind == _FACE
    kind[skin & (shares[:, 0] > 0.5)] = _BESIDE
    kind[skin & (shares[:, 1] > 0.99)] = _MOUTH
    return np.asarray(kind)


def _source(
    photo: np.ndarray, parts: np.ndarray, seen_by: np.ndarray, atlas: Atlas, head: int, camera: Camera
) -> _Source:
    """Cut the mesh's box out of the photo, shrink it to the texture's resolution, and mark what may be read where."""
    height, width = parts.shape
    front = seen_by[:, 2] > 0
    px = seen_by[front, :2] / seen_by[front, 2:3] if front.any() else np.zeros((1, 2), np.float32)
    low = np.clip(np.floor(px.min(0)) - 2, 0, [width - 1, height - 1]).astype(int)
    high = np.maximum(np.clip(np.ceil(px.max(0)) + 2, 0, [width, height]).astype(int), low + 1)
    pixels = photo[low[1] : high[1], low[0] : high[0]]
    labels = parts[low[1] : high[1], low[0] : high[0]]

    # photo pixels per texel, where the texture is finest: shrink by area averaging so that nothing aliases
    ratio = _pixels_per_texel(seen_by, atlas, head)
    scale = 1.0 / ratio if ratio > 1.2 else 1.0
    if scale < 1.0:
        shape = (max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1))
        pixels = np.asarray(Image.fromarray(pixels).resize(shape, Image.Resampling.BOX))
        labels = np.asarray(Image.fromarray(labels).resize(shape, Image.Resampling.NEAREST))

    cells_per_metre = scale * camera.focal_px / float(np.median(seen_by[:, 2])) if front.any() else 1.0
    face = np.isin(labels, FACE_LABELS)
    eye, mouth = (labels == RIGHT_EYE) | (labels == LEFT_EYE), labels == INNER_MOUTH
    likeness = _skin_likeness(pixels, (labels == SKIN) | (labels == NOSE), face, HAIRLINE * cells_per_metre)
    beside = np.where(labels == OTHER, likeness, face)
    # labels are no finer than a strand of hair: near the border the colour must be that of skin as well
    face_skin = np.where(labels == SKIN, likeness, face)
    eye_trust = _soft(eye, EYE_MARGIN * cells_per_metre)
    mouth_trust = _soft(mouth, EYE_MARGIN * cells_per_metre)
    # the white of the eye and the teeth are not painted on lids and lips
    no_opening = _soft(~(eye | mouth), EYE_MARGIN * cells_per_metre)
    face_trust = _soft(face_skin, SKIN_MARGIN * cells_per_metre) * no_opening
    beside_trust = _soft(np.maximum(face_skin, beside * (labels == OTHER)), SKIN_MARGIN * cells_per_metre) * no_opening
    rgb = torch.tensor(pixels).permute(2, 0, 1).float() / 255.0
    image = torch.cat([rgb, torch.from_numpy(np.stack([face_trust, beside_trust, eye_trust, mouth_trust]))])[None]
    return _Source(image, float(low[0]), float(low[1]), scale)


def _pixels_per_texel(seen_by: np.ndarray, atlas: Atlas, head: int) -> float:
    """Photo pixels per texel (linear), a low quantile over the head's texels that face the camera."""
    here = np.flatnonzero(atlas.face_object == head)[::61]
    here = here[(here + 1 < len(atlas.texels))]
    here = here[atlas.texels[here + 1] == atlas.texels[here] + 1]
    a, b = atlas.from_vertices[here] @ seen_by, atlas.from_vertices[here + 1] @ seen_by
    good = (a[:, 3] > FULL_COSINE) & (a[:, 2] > 0) & (b[:, 2] > 0)
    if not good.any():
        return 1.0
    step = np.linalg.norm(b[good, :2] / b[good, 2:3] - a[good, :2] / a[good, 2:3], axis=1)
    return float(np.quantile(step, 0.2))


def _skin_likeness(pixels: np.ndarray, skin: np.ndarray, face: np.ndarray, margin: float) -> np.ndarray:
    """(h, w) float32: 1 deep inside the `face`, elsewhere how much a pixel has this person's skin colour.

    Skin colour is a normal distribution of chromaticity and log brightness over the `skin` further than `margin` px
    from the face's border; likeness falls from 1 to 0 between Mahalanobis distances of 2.2 and 3.2.
    """
    deep = _soft(face, margin) > 0.99
    known = skin & deep
    if known.sum() < 200:
        return face.astype(np.float32)

    def features(rgb: np.ndarray) -> np.ndarray:
        total = rgb.sum(1, keepdims=True) + 1.0
        return np.concatenate([rgb[:, :2] / total, np.log(total) / 3.0], 1)

    sample = features(pixels[known][:: max(int(known.sum()) // 5000, 1)].astype(np.float32))
    mean, covariance = sample.mean(0), np.cov(sample.T) + 1e-5 * np.eye(3)
    likeness = np.ones(face.shape, np.float32)
    rest = ~deep
    away = features(pixels[rest].astype(np.float32)) - mean
    distance = np.sqrt(((away @ np.linalg.inv(covariance)) * away).sum(1))
    likeness[rest] = (3.2 - distance).clip(0.0, 1.0)
    return likeness


def _soft(mask: np.ndarray, margin: float) -> np.ndarray:
    """(h, w) float32: 1 where `mask` in [0, 1] holds for `margin` px all around, falling to 0 at its border.

    The picture's own border counts as a border: beyond it nothing is known.
    """
    radius = max(round(margin / 2.0), 1)
    soft = mask.astype(np.float32)
    # an erosion, then a box blur of the same width, which stays inside the mask
    for axis in (0, 1):
        soft = ndimage.minimum_filter1d(soft, 2 * radius + 1, axis=axis, mode="constant", cval=0.0)
    for axis in (0, 1):
        soft = ndimage.uniform_filter1d(soft, 2 * radius + 1, axis=axis, mode="constant", cval=0.0)
    return np.asarray(soft)


def _sample(
    texels: np.ndarray,
    seen_by: np.ndarray,
    kind: np.ndarray,
    atlas: Atlas,
    source: _Source,
    depth: DepthMap,
    camera: Camera,
) -> _Sample:
    """Read the photo at `texels` (n,), indices into the atlas's, whose vertices are `seen_by` (V, 4) the camera as
    homogeneous photo px, depth and cosine; `kind` (N,) of all texels."""
    rgb, trust = np.zeros((len(texels), 3), np.float32), np.zeros(len(texels), np.float32)
    # teeth and tongue lie in a hole and are rough: their slope says little
    least = np.where(kind[texels] == _MOUTH, -0.5, GRAZING_COSINE)
    near = np.flatnonzero((atlas.from_vertices @ seen_by[:, 3])[texels] > least)
    at = atlas.from_vertices[texels[near]] @ seen_by
    rough = kind[texels[near]] == _MOUTH
    at[rough, 3] = np.maximum(at[rough, 3], FULL_COSINE)
    px = at[:, :2] / np.maximum(at[:, 2:3], 1e-6)
    x, y = px[:, 0], px[:, 1]
    inside = (at[:, 2] > 1e-6) & (x >= 0) & (x <= camera.width) & (y >= 0) & (y <= camera.height)
    near, at, px = near[inside], at[inside], px[inside]
    if len(near) == 0:
        return _Sample(rgb, trust)
    height, width = source.image.shape[2:]
    x = (px[:, 0] - source.left) * (2.0 * source.scale / width) - 1.0
    y = (px[:, 1] - source.top) * (2.0 * source.scale / height) - 1.0
    grid = torch.from_numpy(np.stack([x, y], 1))[None, None].to(source.image.dtype)
    read = functional.grid_sample(source.image, grid, padding_mode="border", align_corners=False)[0, :, 0].numpy()
    allowed = read[3:][kind[texels[near]], np.arange(len(near))]
    fade = ((at[:, 3] - GRAZING_COSINE) / (FULL_COSINE - GRAZING_COSINE)).clip(0.0, 1.0)
    fade = fade * fade * (3.0 - 2.0 * fade)
    candidate = allowed * fade
    some = candidate > 0.0
    candidate[some] *= depth.sees(px[some], at[some, 2], at[some, 3])
    rgb[near], trust[near] = read[:3].T, candidate
    return _Sample(rgb, trust)


def _base_colours(direct: _Sample, model: MorphableModel, atlas: Atlas, kind: np.ndarray) -> tuple[np.ndarray, float]:
    """(V, 3) float32, one smooth colour per vertex, and by how much eyes and teeth are darkened to suit the photo.

    Minimises, over the mesh's edges ij and vertices i,
    sum |x_i - x_j|^2 + sum d_i |x_i - seen_i|^2 + sum m_i |x_i - seen_mirrored_i|^2 + sum p_i |x_i - prior_i|^2,
    with d_i the trust in the photo around vertex i and m_i a small share of that around its mirrored partner.
    """
    count = atlas.from_vertices.shape[1]
    few = np.arange(0, len(atlas.texels), 3)
    weights = atlas.from_vertices[few]
    spread = weights.T @ np.column_stack([direct.trust[few, None] * direct.rgb[few], direct.trust[few]])
    texels = np.maximum(np.asarray(weights.sum(0)).ravel(), 1e-6)
    seen = spread[:, :3] / np.maximum(spread[:, 3:], 1e-6)
    trust = spread[:, 3] / texels
    on_skin = np.asarray(weights.T @ (kind[few] <= _BESIDE).astype(np.float32)).ravel() > 0.5 * texels
    partner = np.where(atlas.mirror >= 0, atlas.mirror, 0)
    mirrored_trust = np.where(atlas.mirror >= 0, trust[partner], 0.0) * (1.0 - trust)
    mirrored_trust[~on_skin] = 0.0

    skin = _skin_colour(seen, trust * _vertex_area(model) * (atlas.label == SKIN))
    exposure = math.sqrt(min(max(float(skin @ _LUMA) / float(np.dot(DEFAULT_SKIN, _LUMA)), 0.4), 1.0))
    prior = np.tile(skin, (count, 1))
    pull = np.full(count, NEIGHBOUR_COLOUR)
    for index, name in enumerate(model.objects):
        colour = SCLERA if "eye" in name else TONGUE if "tongue" in name else TEETH if "teeth" in name else None
        if colour is not None:
            ids = model.faces[model.face_objects == index]
            prior[ids[ids >= 0]], pull[ids[ids >= 0]] = np.multiply(exposure, colour), FLAT_COLOUR
    prior[atlas.inner_mouth], pull[atlas.inner_mouth] = np.multiply(exposure, MOUTH), FLAT_COLOUR

    i, j = atlas.edges.T
    # squared, because what is seen at a slant or near hair is the darker for it
    data = 4.0 * trust**2
    half = 0.25 * mirrored_trust
    degree = np.bincount(i, minlength=count) + np.bincount(j, minlength=count)
    ones = np.ones(len(i))
    neighbours = sparse.coo_matrix((ones, (i, j)), shape=(count, count))
    system = sparse.diags(degree + data + half + pull) - neighbours - neighbours.T
    right = data[:, None] * seen + half[:, None] * seen[partner] + pull[:, None] * prior
    return np.asarray(splu(system.tocsc()).solve(right), np.float32).clip(0.0, 1.0), exposure


def _skin_colour(seen: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(3,) the weighted median of vertex colours `seen` (V, 3), by channel; a default where hardly any counts."""
    good = np.flatnonzero(weight > 0.0)
    if len(good) < 20:
        return np.asarray(DEFAULT_SKIN, np.float32)
    median = []
    for channel in seen[good].T:
        order = np.argsort(channel, kind="stable")
        total = np.cumsum(weight[good][order])
        median.append(channel[order][np.searchsorted(total, 0.5 * total[-1])])
    return np.asarray(median, np.float32)


def _vertex_area(model: MorphableModel) -> np.ndarray:
    """(V,) area of the mean mesh around each vertex, square metres."""
    triangles, mean = model.triangles, model.mean.double().numpy()
    a, b, c = (mean[triangles[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6.0
    return np.bincount(triangles.ravel(), np.repeat(area, 3), len(mean))


def _eyeballs(vertices: np.ndarray, model: MorphableModel, atlas: Atlas, direct: _Sample) -> list[_Eyeball]:
    """The model's eyeballs, as fitted to `vertices` (V, 3) and seen in the photo."""
    rest = model.mean.double().numpy()
    found = []
    for index, name in enumerate(model.objects):
        ids = np.unique(model.faces[model.face_objects == index])
        ids = ids[ids >= 0]
        texels = np.flatnonzero(atlas.face_object == index)
        if "eye" not in name or len(ids) == 0 or len(texels) == 0:
            continue
        middle = vertices[ids].mean(0)
        towards = atlas.from_vertices[texels] @ (vertices - middle).astype(np.float32)
        towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-9)
        ahead = vertices[ids[np.argmax(rest[ids, 2])]] - middle
        ahead = (ahead / max(float(np.linalg.norm(ahead)), 1e-9)).astype(np.float32)
        found.append(_Eyeball(texels, towards, ahead, direct.rgb[texels], direct.trust[texels]))
    return found


def _paint_eyes(colours: np.ndarray, balls: list[_Eyeball], exposure: float) -> None:
    """Paint white, iris and pupil on the eyeballs in `colours` (N, 3), in place, in the colours that the photo shows.

    An eye of which too little is seen looks the way of the other, and without either both look ahead.
    """
    if not balls:
        return
    rgb = np.concatenate([ball.rgb[ball.seen] for ball in balls])
    white, iris = np.asarray(SCLERA, np.float32) * exposure, np.asarray(IRIS, np.float32)
    gaze: list[np.ndarray | None] = [None] * len(balls)
    if len(rgb) >= FEWEST_EYE_TEXELS:
        light = rgb @ _LUMA
        # glints are brighter than the white of the eye, so take the middle of the bright half
        white = np.median(rgb[(light >= np.quantile(light, 0.5)) & (light <= np.quantile(light, 0.95))], axis=0)
        # an eye in deep shade says little of what the lids hide
        white *= max(1.0, 0.6 * exposure * float(np.dot(SCLERA, _LUMA)) / max(float(white @ _LUMA), 1e-3))
        dark, bright = np.quantile(light, [0.1, 0.8])
        gaze = [_gaze(ball, float(dark), float(bright)) for ball in balls]
        rings = [
            ball.rgb[ball.seen & (ball.angle_deg(look) > 1.3 * PUPIL_ANGLE_DEG)
                     & (ball.angle_deg(look) < 0.8 * IRIS_ANGLE_DEG)]
            for ball, look in zip(balls, gaze, strict=True)
            if look is not None
        ]  # fmt: skip
        found = np.concatenate([*rings, np.zeros((0, 3), np.float32)])
        if len(found) >= FEWEST_EYE_TEXELS:
            iris = np.median(found, axis=0)
    known = [look for look in gaze if look is not None]
    for ball, look in zip(balls, gaze, strict=True):
        angle = ball.angle_deg(look if look is not None else known[0] if known else ball.ahead)
        in_iris = ((IRIS_ANGLE_DEG + 1.5 - angle) / 3.0).clip(0.0, 1.0)[:, None]
        in_pupil = ((PUPIL_ANGLE_DEG + 1.0 - angle) / 2.0).clip(0.0, 1.0)[:, None]
        painted = white + in_iris * (iris - white)
        colours[ball.texels] = painted + in_pupil * (0.25 * iris - painted)


def _gaze(ball: _Eyeball, dark: float, bright: float) -> np.ndarray | None:
    """(3,) unit direction to the middle of the iris, the dark that is seen; None where too little is seen."""
    if ball.seen.sum() < FEWEST_EYE_TEXELS:
        return None
    towards = ball.towards[ball.seen]
    weight = ((bright - ball.rgb[ball.seen] @ _LUMA) / max(bright - dark, 1e-3) - 0.45).clip(0.0, 1.0)
    # lashes and the shadow of the lid are dark too, but lie far from the front pole
    weight *= (towards @ ball.ahead > math.cos(math.radians(50.0))) * ball.trust[ball.seen]
    if weight.sum() < 0.03 * len(weight):
        return None
    middle = (weight[:, None] * towards).sum(0)
    return np.asarray(middle / np.linalg.norm(middle))


def _texture(colours: np.ndarray, base: np.ndarray, atlas: Atlas) -> np.ndarray:
    """Place texel colours (N, 3) in the texture; beyond the padding it has the skin's mean colour."""
    flat = np.empty((atlas.size * atlas.size, 3), np.uint8)
    flat[:] = np.rint(np.median(base, axis=0) * 255.0).astype(np.uint8)
    texels = np.rint(colours.clip(0.0, 1.0) * 255.0).astype(np.uint8)
    flat[atlas.texels] = texels
    flat[atlas.padding] = texels[atlas.padding_source]
    return flat.reshape(atlas.size, atlas.size, 3)
