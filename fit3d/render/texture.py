"""The photo resampled into the model's UVs, and a plausible colour wherever the photo shows nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fit3d.camera import Camera
from fit3d.labels import LOWER_LIP, SKIN, UPPER_LIP
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.pieces import piece_kind
from fit3d.render.atlas import CHUNK, FACE, Atlas, head_object, make_atlas
from fit3d.render.base_colours import base_colours
from fit3d.render.eyes import paint_eyes
from fit3d.render.light import Light, estimate_light, even_out, relight
from fit3d.render.photo_source import (
    FULL_COSINE,
    GRAZING_COSINE,
    Box,
    Sample,
    bare_skin,
    cut_box,
    label_trust,
    make_source,
    smooth_step,
)
from fit3d.render.shade import vertex_normals
from fit3d.render.visibility import DepthMap, depth_map

LIGHT_SAMPLES = 20_000
"""Texels, about, by which the light is told."""

LEAST_SURE = 0.4
"""Share of the light's changes that what is turned away from the camera is lit with."""

NEAR_EYE = 0.03
"""Skin within this distance of an eyeball's middle tells the light on it, metres."""


@dataclass(frozen=True)
class Texture:
    """The texture of one fitted head."""

    image: np.ndarray
    """(S, S, 3) uint8 sRGB, in the model's UV layout."""
    light: Light | None
    """The photo's light; None where too little skin is seen to tell."""


def project_texture(
    photo: np.ndarray,
    vertices_world: Tensor,
    model: MorphableModel,
    camera: Camera,
    parts: np.ndarray,
    size: int = 2048,
    delight: bool = False,
) -> Texture:
    """The texture of one fitted head.

    A texel takes the photo's colour where the camera sees it from the front and the label image says that skin, eye or
    mouth is what stands there. Elsewhere it takes the mirrored side's detail where that is seen, on a base colour that
    runs on smoothly over the surface from what is seen; both as they were in even light, and then lit as this side is.
    Eyeballs get a whole iris.

    Args:
        photo: (H, W, 3) uint8 sRGB.
        vertices_world: (V, 3) metres, with expression.
        camera: of the photo.
        parts: (H, W) uint8 observed label image.
        size: side of the texture, texels.
        delight: take the light's slow changes out of the texture.
    """
    atlas = make_atlas(model, size)
    assert photo.shape[:2] == parts.shape == (camera.height, camera.width)
    vertices = vertices_world.detach().double().cpu()
    triangles = torch.as_tensor(model.triangles, dtype=torch.int64)
    normals = vertex_normals(vertices, triangles)
    seen_by = _seen_by(vertices, normals, camera)
    depth = depth_map(vertices, triangles[torch.from_numpy(model.opaque)], camera)
    box = cut_box(photo, parts, seen_by, atlas, camera)
    light = _light(box, seen_by, normals.numpy(), atlas, depth)
    shading = _shading(light, vertices.numpy(), normals.numpy(), seen_by[:, 3], model, atlas)
    source = make_source(box, vertices, shading, _bare(model, size), atlas, depth, camera)

    direct = source.read(source.candidates(seen_by, atlas, np.ones(len(triangles), bool)), seen_by, atlas)
    lit_here = atlas.at(direct.texels, shading)
    even = Sample(direct.texels, even_out(direct.rgb, lit_here), direct.trust)
    base = base_colours(even, model, atlas)
    final = base.colours if delight else relight(base.colours, shading)
    texels = _interpolated(final, atlas)

    # detail of the mirrored side: the same texels with each vertex where its partner is
    partner = np.where(atlas.mirror >= 0, atlas.mirror, 0)
    across = seen_by[partner]
    across[atlas.mirror < 0, 3] = -1.0
    outer = (atlas.triangle_object == head_object(model)) & ~atlas.triangle_inner
    wanted = source.candidates(across, atlas, outer)
    known = np.zeros(len(texels), bool)
    known[direct.texels[direct.trust >= 1.0]] = True
    mirrored = source.read(wanted[~known[wanted]], across, atlas)
    there = atlas.some(mirrored.texels)
    detail = even_out(mirrored.rgb, there @ shading[partner])
    detail -= there @ base.colours[partner]
    filled = there @ base.colours + mirrored.trust[:, None] * detail
    if not delight:
        filled = relight(filled, there @ shading)
    _put(texels, mirrored.texels, filled)

    shown = even if delight else direct
    for ball, colours in paint_eyes(vertices.numpy(), model, atlas, shown, base.tone):
        _put(texels, ball, colours)
    under = texels.take(direct.texels, axis=0) / np.float32(255.0)
    _put(texels, direct.texels, under + direct.trust[:, None] * (shown.rgb - under))
    return Texture(_placed(texels, _background(final), atlas), light)


@lru_cache(maxsize=1)
def _bare(model: MorphableModel, size: int) -> np.ndarray:
    """`bare_skin` of a model; the last is kept for the next photo."""
    return bare_skin(model.mean.double().numpy(), make_atlas(model, size))


def _seen_by(vertices: Tensor, normals: Tensor, camera: Camera) -> np.ndarray:
    """(V, 4) float32: homogeneous photo px, camera depth and cosine between the unit normals (V, 3), world, and the
    view. Interpolated linearly and divided afterwards, so that perspective stays exact."""
    cam = camera.to_cam(vertices)
    facing = normals @ camera.cam_from_world[:3, :3].to(normals).T
    cosine = -(facing * functional.normalize(cam, dim=1)).sum(1)
    cx, cy = camera.principal_px
    z = cam[:, 2]
    columns = [camera.focal_px * cam[:, 0] + cx * z, camera.focal_px * cam[:, 1] + cy * z, z, cosine]
    return torch.stack(columns, 1).numpy().astype(np.float32)


def _light(box: Box, seen_by: np.ndarray, normals: np.ndarray, atlas: Atlas, depth: DepthMap) -> Light | None:
    """The light by the face's skin in the photo; `normals` (V, 3), world."""
    facing = (seen_by[:, 3] > GRAZING_COSINE) & (seen_by[:, 2] > 1e-6)
    few = np.flatnonzero(facing[atlas.triangles].any(1).take(atlas.triangle) & (atlas.kind == FACE))
    few = few[:: max(len(few) // LIGHT_SAMPLES, 1)]
    at = atlas.at(few, np.column_stack([seen_by, normals, atlas.label == SKIN]).astype(np.float32))
    px = at[:, :2] / np.maximum(at[:, 2:3], 1e-6)
    row, column = box.cell(px)
    inside = (px >= [box.left, box.top]).all(1) & (px <= [box.left + box.width, box.top + box.height]).all(1)
    fade = smooth_step((at[:, 3] - GRAZING_COSINE) / (FULL_COSINE - GRAZING_COSINE)) * (at[:, 2] > 1e-6) * inside
    trust = fade * label_trust(box)[row, column] * depth.sees(px, at[:, 2], at[:, 3]) * (at[:, 7] > 0.5)
    length = np.maximum(np.linalg.norm(at[:, 4:7], axis=1, keepdims=True), 1e-6)
    return estimate_light(box.coarse[row, column] / np.float32(255.0), at[:, 4:7] / length, trust)


def _shading(
    light: Light | None,
    vertices: np.ndarray,
    normals: np.ndarray,
    cosine: np.ndarray,
    model: MorphableModel,
    atlas: Atlas,
) -> np.ndarray:
    """(V, 3) float32 linear light on each vertex.

    What is turned away, by the `cosine` (V,) between normal and view, is lit more evenly: the light there is a guess.
    Eyeballs are lit as the lids around them are on the whole, mouth and teeth as the lips are: their own normals say
    little of the light in a hollow.
    """
    if light is None:
        return np.ones((len(vertices), 3), np.float32)
    sure = LEAST_SURE + (1.0 - LEAST_SURE) * smooth_step((cosine[:, None] + FULL_COSINE) / (2.0 * FULL_COSINE))
    shading = 1.0 + sure * (light.shading(normals) - 1.0)
    lips = np.isin(atlas.label, (UPPER_LIP, LOWER_LIP))
    for index, name in enumerate(model.objects):
        if index == head_object(model):
            continue
        ids = np.unique(model.faces[model.face_objects == index])
        ids = ids[ids >= 0]
        near = lips
        if piece_kind(name) == "eye":
            near = atlas.lids & (np.linalg.norm(vertices - vertices[ids].mean(0), axis=1) < NEAR_EYE)
        shading[ids] = shading[near].mean(0) if near.any() else 1.0
    shading[atlas.inner_mouth] = shading[lips].mean(0) if lips.any() else 1.0
    return np.asarray(shading, np.float32)


def place_texels(colours: np.ndarray, base: np.ndarray, atlas: Atlas) -> np.ndarray:
    """Place texel colours (N, 3) in the texture; beyond the padding it has the median of the vertices' `base` (V, 3).

    Returns:
        (S, S, 3) uint8 sRGB.
    """
    return _placed(_bytes(colours), _background(base), atlas)


def _placed(texels: np.ndarray, background: np.ndarray, atlas: Atlas) -> np.ndarray:
    """Place texels (N, 3) uint8 in the texture on a background (3,) uint8."""
    image = np.empty((atlas.size, atlas.size, 3), np.uint8)
    image[0] = background
    image[1:] = image[0]
    whole, some = _whole(image.reshape(-1, 3)), _whole(np.ascontiguousarray(texels))
    whole[atlas.texels] = some
    whole[atlas.padding] = some[atlas.padding_source]
    return image


def _put(texels: np.ndarray, ids: np.ndarray, colours: np.ndarray) -> None:
    """Overwrite some (n,) of the texels (N, 3) uint8 with colours (n, 3) in [0, 1]."""
    _whole(texels)[ids] = _whole(np.ascontiguousarray(_bytes(colours)))


def _whole(texels: np.ndarray) -> np.ndarray:
    """(N,) view of texels (N, 3) uint8, three bytes at a time: one index for each instead of three."""
    return texels.view("V3")[:, 0]


def _background(base: np.ndarray) -> np.ndarray:
    """(3,) uint8: the median of vertex colours (V, 3)."""
    return _bytes(np.median(base, axis=0))


def _interpolated(colours: np.ndarray, atlas: Atlas) -> np.ndarray:
    """(N, 3) uint8: vertex colours (V, 3) in [0, 1] at every texel."""
    texels = np.empty((len(atlas.texels), 3), np.uint8)
    # half a level more, because whole numbers are cut, not rounded
    level = (255.0 * colours + 0.5).astype(np.float32)
    for first in range(0, len(texels), CHUNK):
        last = min(first + CHUNK, len(texels))
        texels[first:last] = atlas.rows(first, last) @ level
    return texels


def _bytes(colours: np.ndarray) -> np.ndarray:
    """uint8 of colours in [0, 1]."""
    return np.asarray((colours.clip(0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
