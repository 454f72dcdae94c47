"""The photo resampled into the model's UVs, and a plausible colour wherever the photo shows nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor
from torch.nn import functional

from fit3d.camera import Camera
from fit3d.labels import INNER_MOUTH, LEFT_EYE, NOSE, OTHER, RIGHT_EYE, SKIN
from fit3d.morphable.model import MorphableModel
from fit3d.render.atlas import Atlas, head_object, make_atlas
from fit3d.render.shade import vertex_normals
from fit3d.render.visibility import DepthMap, depth_map

GRAZING_COSINE, FULL_COSINE = 0.15, 0.5
"""Cosine between normal and view at which the photo begins to count and counts fully."""

SKIN_MARGIN, EYE_MARGIN = 0.0025, 0.0004
"""How far inside their region in the photo skin and eyes are trusted, metres."""

NEIGHBOUR_COLOUR = 0.006
"""Pull of unseen skin to the mean skin colour, per edge: colours run on for about ten edges beyond what is seen."""

FLAT_COLOUR = 0.6
"""The same for teeth, tongue and mouth cavity, which hardly take colour from their neighbours."""

IRIS_ANGLE_DEG, PUPIL_ANGLE_DEG = 28.0, 9.0
"""Half angle of iris and pupil seen from the middle of the eyeball, degrees."""

DEFAULT_SKIN = (0.78, 0.62, 0.54)
SCLERA = (0.86, 0.83, 0.80)
IRIS = (0.34, 0.24, 0.17)
TEETH = (0.82, 0.78, 0.70)
MOUTH = (0.42, 0.18, 0.17)
TONGUE = (0.62, 0.33, 0.32)
"""Colours of what is not seen, sRGB in [0, 1]."""


@dataclass(frozen=True)
class _Source:
    """The part of the photo around the mesh, no finer than the texture, and where each kind of surface may be read."""

    image: Tensor
    """(1, 6, h, w) float32: RGB in [0, 1], then trust in [0, 1] as skin, eye, mouth."""
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
    atlas: Atlas | None = None,
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
        atlas: of the model at this size, to save its making when many photos are textured.

    Returns:
        (size, size, 3) uint8 sRGB.
    """
    atlas = atlas or make_atlas(model, size)
    assert atlas.size == size and photo.shape[:2] == parts.shape == (camera.height, camera.width)
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
    depth = depth_map(vertices, triangles, camera)
    source = _source(photo, parts, seen_by, atlas, head, camera)
    kind = _kind(model, atlas, head)

    direct = _sample(atlas.from_vertices @ seen_by, kind, source, depth, camera)
    base = _base_colours(direct, model, atlas, kind)
    colours = atlas.from_vertices @ base
    rest = np.flatnonzero(direct.trust < 1.0)
    partner = np.where(atlas.mirror >= 0, atlas.mirror, 0)
    mirrored = rest[(atlas.face_object[rest] == head) & ~atlas.inner[rest]]
    across = atlas.from_vertices[mirrored]
    other_side = _sample(across @ seen_by[partner], kind[mirrored], source, depth, camera)
    lonely = across @ (atlas.mirror < 0).astype(np.float32)
    detail = other_side.rgb - across @ base[partner]
    colours[mirrored] += (other_side.trust * (1.0 - lonely))[:, None] * detail
    _complete_eyes(colours, direct, vertices.numpy(), model, atlas)
    colours += direct.trust[:, None] * (direct.rgb - colours)
    return _texture(colours, base, atlas)


# kinds of surface, the channel of `_Source.image` that says where each may be read is 3 + kind
_SKIN, _EYE, _MOUTH = 0, 1, 2


def _kind(model: MorphableModel, atlas: Atlas, head: int) -> np.ndarray:
    """(N,) int64: which kind of surface each texel lies on."""
    by_object = np.array(
        [_SKIN if k == head else _EYE if "eye" in name else _MOUTH for k, name in enumerate(model.objects)]
    )
    kind = by_object[atlas.face_object]
    cavity = (atlas.from_vertices @ atlas.inner_mouth.astype(np.float32)) > 0.99
    kind[cavity & (atlas.face_object == head)] = _MOUTH
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
    face = (labels >= RIGHT_EYE) & (labels <= INNER_MOUTH)
    eye, mouth = (labels == RIGHT_EYE) | (labels == LEFT_EYE), labels == INNER_MOUTH
    skin = face | _skin_coloured(pixels, labels)
    eye_trust = _soft(eye, EYE_MARGIN * cells_per_metre)
    mouth_trust = _soft(mouth, EYE_MARGIN * cells_per_metre)
    # the white of the eye and the teeth are not painted on lids and lips
    skin_trust = _soft(skin, SKIN_MARGIN * cells_per_metre) * _soft(~(eye | mouth), EYE_MARGIN * cells_per_metre)
    rgb = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255.0
    image = torch.cat([rgb, torch.stack([skin_trust, eye_trust, mouth_trust])])[None]
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


def _skin_coloured(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(h, w) bool: pixels labelled 'other' that have the colour of this person's skin: ears and neck, not cloth.

    Colour is compared without brightness (Mahalanobis distance of the chromaticity), and brightness by a wide margin.
    """
    other = labels == OTHER
    sure = (labels == SKIN) | (labels == NOSE)
    if not other.any() or sure.sum() < 50:
        return np.zeros_like(other)

    def features(rgb: np.ndarray) -> np.ndarray:
        total = rgb.sum(1, keepdims=True) + 1.0
        return np.concatenate([rgb[:, :2] / total, np.log(total) / 3.0], 1)

    known = features(pixels[sure][:: max(int(sure.sum()) // 5000, 1)].astype(np.float32))
    mean, covariance = known.mean(0), np.cov(known.T) + 1e-5 * np.eye(3)
    away = features(pixels[other].astype(np.float32)) - mean
    alike = np.zeros_like(other)
    alike[other] = ((away @ np.linalg.inv(covariance)) * away).sum(1) < 9.0
    return alike


def _soft(mask: np.ndarray, margin: float) -> Tensor:
    """(h, w) float32: 1 deep inside `mask`, falling to 0 before its border, about `margin` pixels from it.

    The picture's own border does not count as a border.
    """
    radius = max(round(margin), 1)
    values = torch.from_numpy(mask.astype(np.float32))[None, None]
    padded = functional.pad(values, (radius,) * 4, mode="replicate")
    # separable erosion, then a box blur of the same width, which stays inside the mask
    eroded = -functional.max_pool2d(-padded, (1, 2 * radius + 1), stride=1)
    eroded = -functional.max_pool2d(-eroded, (2 * radius + 1, 1), stride=1)
    padded = functional.pad(eroded, (radius,) * 4, mode="replicate")
    blurred = functional.avg_pool2d(padded, (1, 2 * radius + 1), stride=1)
    return functional.avg_pool2d(blurred, (2 * radius + 1, 1), stride=1)[0, 0]


def _sample(at: np.ndarray, kind: np.ndarray, source: _Source, depth: DepthMap, camera: Camera) -> _Sample:
    """Read the photo at texels `at` (n, 4): homogeneous photo px, depth, cosine."""
    rgb, trust = np.zeros((len(at), 3), np.float32), np.zeros(len(at), np.float32)
    near = np.flatnonzero((at[:, 3] > GRAZING_COSINE) & (at[:, 2] > 1e-6))
    px = at[near, :2] / at[near, 2:3]
    inside = ((px >= 0) & (px <= [camera.width, camera.height])).all(1)
    near, px = near[inside], px[inside]
    if len(near) == 0:
        return _Sample(rgb, trust)
    height, width = source.image.shape[2:]
    x = (px[:, 0] - source.left) * (2.0 * source.scale / width) - 1.0
    y = (px[:, 1] - source.top) * (2.0 * source.scale / height) - 1.0
    grid = torch.from_numpy(np.stack([x, y], 1))[None, None].to(source.image.dtype)
    read = functional.grid_sample(source.image, grid, padding_mode="border", align_corners=False)[0, :, 0].numpy()
    allowed = read[3:][kind[near], np.arange(len(near))]
    fade = ((at[near, 3] - GRAZING_COSINE) / (FULL_COSINE - GRAZING_COSINE)).clip(0.0, 1.0)
    fade = fade * fade * (3.0 - 2.0 * fade)
    candidate = allowed * fade
    some = candidate > 0.0
    candidate[some] *= depth.sees(px[some], at[near[some], 2], at[near[some], 3])
    rgb[near], trust[near] = read[:3].T, candidate
    return _Sample(rgb, trust)


def _base_colours(direct: _Sample, model: MorphableModel, atlas: Atlas, kind: np.ndarray) -> np.ndarray:
    """(V, 3) float32: one smooth colour per vertex.

    Minimises, over the mesh's edges and vertices, sum |x_i - x_j|^2 + sum d_i |x_i - seen_i|^2 + sum p_i |x_i - prior_i|^2
    with d_i the trust in the photo around vertex i, or a small share of that of its mirrored partner.
    """
    count = atlas.from_vertices.shape[1]
    few = np.arange(0, len(atlas.texels), 3)
    weights = atlas.from_vertices[few]
    spread = weights.T @ np.column_stack([direct.trust[few, None] * direct.rgb[few], direct.trust[few]])
    texels = np.maximum(np.asarray(weights.sum(0)).ravel(), 1e-6)
    seen = spread[:, :3] / np.maximum(spread[:, 3:], 1e-6)
    trust = spread[:, 3] / texels
    on_skin = np.asarray(weights.T @ (kind[few] == _SKIN).astype(np.float32)).ravel() > 0.5 * texels
    partner = np.where(atlas.mirror >= 0, atlas.mirror, 0)
    mirrored_trust = np.where(atlas.mirror >= 0, trust[partner], 0.0) * (1.0 - trust)
    mirrored_trust[~on_skin] = 0.0

    skin = _skin_colour(seen, trust, on_skin & (atlas.beside_face == 0))
    prior = np.tile(skin, (count, 1))
    pull = np.full(count, NEIGHBOUR_COLOUR)
    for index, name in enumerate(model.objects):
        colour = SCLERA if "eye" in name else TONGUE if "tongue" in name else TEETH if "teeth" in name else None
        if colour is not None:
            ids = model.faces[model.face_objects == index]
            prior[ids[ids >= 0]], pull[ids[ids >= 0]] = colour, FLAT_COLOUR
    prior[atlas.inner_mouth], pull[atlas.inner_mouth] = MOUTH, FLAT_COLOUR

    i, j = atlas.edges.T
    data = 4.0 * trust
    half = 0.25 * mirrored_trust
    degree = np.bincount(i, minlength=count) + np.bincount(j, minlength=count)
    ones = np.ones(len(i))
    neighbours = sparse.coo_matrix((ones, (i, j)), shape=(count, count))
    system = sparse.diags(degree + data + half + pull) - neighbours - neighbours.T
    right = data[:, None] * seen + half[:, None] * seen[partner] + pull[:, None] * prior
    return np.asarray(splu(system.tocsc()).solve(right), np.float32).clip(0.0, 1.0)


def _skin_colour(seen: np.ndarray, trust: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(3,) the middle of the skin colours that are seen well; a default where hardly any is."""
    good = among & (trust > 0.5)
    if good.sum() < 20:
        return np.asarray(DEFAULT_SKIN, np.float32)
    return np.asarray(np.median(seen[good], axis=0), np.float32)


def _complete_eyes(
    colours: np.ndarray, direct: _Sample, vertices: np.ndarray, model: MorphableModel, atlas: Atlas
) -> None:
    """Paint white, iris and pupil on the eyeballs in `colours` (N, 3), in place, in the colours that the photo shows.

    The iris sits where the dark of the eye is seen; an eye that is not seen looks the way of the other, and without
    either both look ahead.
    """
    balls = []
    for index, name in enumerate(model.objects):
        if "eye" not in name:
            continue
        ids = np.unique(model.faces[model.face_objects == index])
        ids = ids[ids >= 0]
        if len(ids) == 0:
            continue
        middle = vertices[ids].mean(0)
        texels = np.flatnonzero(atlas.face_object == index)
        way = atlas.from_vertices[texels] @ (vertices - middle).astype(np.float32)
        way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9)
        rest = model.mean.double().numpy()
        front = ids[np.argmax(rest[ids, 2])]
        ahead = vertices[front] - middle
        balls.append((texels, way, ahead / max(float(np.linalg.norm(ahead)), 1e-9)))
    if not balls:
        return
    seen = [texels[direct.trust[texels] > 0.5] for texels, _, _ in balls]
    together = direct.rgb[np.concatenate(seen)]
    white, iris = np.asarray(SCLERA, np.float32), np.asarray(IRIS, np.float32)
    gaze: list[np.ndarray | None] = [None] * len(balls)
    if len(together) >= 60:
        light = together @ np.array([0.3, 0.6, 0.1], np.float32)
        bright = float(np.quantile(light, 0.85))
        white = 0.5 * white * min(bright / 0.83, 1.0) + 0.5 * np.median(together[light >= bright], axis=0)
        dark = float(np.quantile(light, 0.1))
        for k, (texels, way, ahead) in enumerate(balls):
            visible = direct.trust[texels] > 0.5
            if visible.sum() < 30:
                continue
            level = direct.rgb[texels[visible]] @ np.array([0.3, 0.6, 0.1], np.float32)
            # lashes and the shadow of the lid are dark too, but lie far from the front pole
            toward = way[visible]
            weight = ((bright - level) / max(bright - dark, 1e-3) - 0.45).clip(0.0, 1.0)
            weight *= (toward @ ahead > math.cos(math.radians(50.0))) * direct.trust[texels[visible]]
            if weight.sum() > 0.03 * visible.sum():
                centre = (weight[:, None] * toward).sum(0)
                gaze[k] = centre / np.linalg.norm(centre)
        rings = []
        for (texels, way, _), look in zip(balls, gaze, strict=True):
            if look is not None:
                angle = np.degrees(np.arccos((way @ look).clip(-1.0, 1.0)))
                ring = (angle > 1.3 * PUPIL_ANGLE_DEG) & (angle < 0.8 * IRIS_ANGLE_DEG)
                rings.append(direct.rgb[texels[ring & (direct.trust[texels] > 0.5)]])
        found = np.concatenate(rings) if rings else np.zeros((0, 3), np.float32)
        if len(found) >= 20:
            iris = np.median(found, axis=0)
    known = [look for look in gaze if look is not None]
    for (texels, way, ahead), look in zip(balls, gaze, strict=True):
        look = look if look is not None else known[0] if known else ahead
        angle = np.degrees(np.arccos((way @ look).clip(-1.0, 1.0)))
        in_iris = ((IRIS_ANGLE_DEG + 1.5 - angle) / 3.0).clip(0.0, 1.0)[:, None]
        in_pupil = ((PUPIL_ANGLE_DEG + 1.0 - angle) / 2.0).clip(0.0, 1.0)[:, None]
        painted = white + in_iris * (iris - white)
        colours[texels] = painted + in_pupil * (0.25 * iris - painted)


def _texture(colours: np.ndarray, base: np.ndarray, atlas: Atlas) -> np.ndarray:
    """Place texel colours (N, 3) in the texture; beyond the padding it has the skin's mean colour."""
    flat = np.empty((atlas.size * atlas.size, 3), np.uint8)
    flat[:] = np.rint(np.median(base, axis=0) * 255.0).astype(np.uint8)
    texels = np.rint(colours.clip(0.0, 1.0) * 255.0).astype(np.uint8)
    flat[atlas.texels] = texels
    flat[atlas.padding] = texels[atlas.padding_source]
    return flat.reshape(atlas.size, atlas.size, 3)
