"""Pictures of a head for detectors and parsers to look at."""

from __future__ import annotations

import numpy as np
import torch

from fit3d.camera import Camera
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.pieces import PieceKind, piece_kind
from fit3d.raster import rasterise
from fit3d.render.shade import vertex_normals

BACKGROUND, BALL, IRIS, TEETH, TONGUE = (150, 160, 170), (232, 228, 225), (60, 45, 35), (225, 220, 205), (180, 80, 85)
PAINT = {
    **{1: (215, 170, 160), 2: (215, 170, 160), 3: (70, 48, 38), 4: (70, 48, 38), 5: (205, 160, 138)},
    **{6: (176, 70, 74), 7: (184, 78, 80)},
}
"""sRGB colour of parts that have been found."""
PLAIN = (208, 164, 142)
IRIS_M = 0.0059
"""Radius of an iris."""


def colour_of(piece: str) -> tuple[int, int, int] | None:
    """Colour of a piece that is not skin; None if it is not drawn or is skin."""
    colours: dict[PieceKind, tuple[int, int, int]] = {"eye": BALL, "teeth": TEETH, "tongue": TONGUE}
    return colours.get(piece_kind(piece))


def base_colours(model: MorphableModel) -> np.ndarray:
    """(V, 3) colours of the vertices before any part is painted."""
    colours = np.tile(np.array(PLAIN, float), (len(model.mean), 1))
    mean = model.mean.double().numpy()
    for index, name in enumerate(model.objects):
        rgb = colour_of(name)
        if rgb is None:
            continue
        corners = model.faces[model.face_objects == index]
        ids = np.unique(corners[corners >= 0])
        colours[ids] = rgb
        if piece_kind(name) == "eye":
            for side in (-1.0, 1.0):
                ball = ids[mean[ids, 0] * side > 0]
                if len(ball):
                    middle = (mean[ball].min(0) + mean[ball].max(0)) / 2.0
                    off_axis = np.linalg.norm(mean[ball, :2] - middle[:2], axis=1)
                    colours[ball[(off_axis < IRIS_M) & (mean[ball, 2] > middle[2])]] = IRIS
    return colours


def draw(
    positions: np.ndarray, triangles: np.ndarray, view: Camera, base: np.ndarray, paint: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A picture (H, W, 3) uint8 of the head, and triangle (H, W), weights (H, W, 3) and depth (H, W) behind it."""
    at, faces = torch.from_numpy(positions), torch.from_numpy(triangles)
    cam = view.to_cam(at)
    fragments = rasterise(view.project(at), cam[:, 2], faces, view.height, view.width)
    triangle, weights = fragments.triangle.numpy(), fragments.barycentric.double().numpy()
    colours = base.copy()
    for label, rgb in PAINT.items():
        colours[paint == label] = rgb
    hit = triangle >= 0
    corners, share = triangles[triangle[hit]], weights[hit]
    normals = np.einsum("nk,nkc->nc", share, vertex_normals(cam, faces).numpy()[corners])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    key, fill = normals @ [0.25, -0.45, -0.86], normals @ [-0.6, -0.1, -0.5]
    light = 0.35 + 0.55 * np.clip(key, 0.0, 1.0) + 0.2 * np.clip(fill, 0.0, 1.0)
    picture = np.full((view.height, view.width, 3), BACKGROUND, np.uint8)
    shaded = np.einsum("nk,nkc->nc", share, colours[corners]) * light[:, None]
    picture[hit] = np.clip(shaded, 0.0, 255.0).astype(np.uint8)
    return picture, triangle, weights, fragments.depth.numpy()
