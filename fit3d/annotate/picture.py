"""Pictures by which a person judges an annotation."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw

from fit3d.annotate.mesh import places_of
from fit3d.annotate.views import turned_view
from fit3d.camera import Camera
from fit3d.labels import PART_COLOURS
from fit3d.landmarks import LandmarkLayout
from fit3d.morphable.model import MorphableModel, PartAnnotation
from fit3d.raster import Fragments, rasterise_front
from fit3d.render.shade import vertex_normals

PANEL_PX = 620
YAWS_DEG = (0.0, 40.0, -40.0)
LIGHT = (0.25, -0.45, -0.86)
"""Direction towards the light, camera frame."""
HIDDEN_M = 0.004
"""A landmark this far behind what its pixel shows is not drawn."""


def surface_labels(parts: PartAnnotation, fragments: Fragments) -> np.ndarray:
    """(H, W) uint8 part labels of what a raster of `parts.triangles` shows, 0 where there is nothing."""
    hit = fragments.triangle >= 0
    triangle = fragments.triangle[hit]
    values = torch.einsum(
        "fnc,nc->fn", parts.fields[:, parts.triangles[triangle]].double(), fragments.barycentric[hit].double()
    )
    labels = torch.zeros(fragments.triangle.shape, dtype=torch.uint8)
    fixed = parts.fixed_label[triangle]
    labels[hit] = torch.where(fixed >= 0, fixed, parts.field_labels[values.argmax(0)]).to(torch.uint8)
    return np.asarray(labels.numpy())


def annotation_sheet(model: MorphableModel, positions: torch.Tensor | None = None, size: int = PANEL_PX) -> np.ndarray:
    """(2 size, 3 size, 3) uint8: the labelled mean head (or vertices (V, 3)) from three sides with iBUG's landmarks,
    numbered, in the upper row, with MediaPipe's in the lower one; lines are the paths of sliding landmarks."""
    at = (model.mean if positions is None else positions).double()
    rows = [
        np.concatenate(
            [_panel(model, at, turned_view(yaw, 0.0, size, 0.125, (0.0, -0.03, -0.02)), layout) for yaw in YAWS_DEG], 1
        )
        for layout in sorted(model.landmarks)
    ]
    return np.concatenate(rows)


def _panel(model: MorphableModel, at: torch.Tensor, view: Camera, layout: LandmarkLayout) -> np.ndarray:
    parts = model.annotation
    cam = view.to_cam(at)
    fragments = rasterise_front(view.project(at), cam[:, 2], parts.triangles, view.height, view.width)
    hit = (fragments.triangle >= 0).numpy()
    corners = parts.triangles[fragments.triangle[fragments.triangle >= 0]]
    normals = (
        vertex_normals(cam, parts.triangles)[corners] * fragments.barycentric[fragments.triangle >= 0][..., None]
    ).sum(1)
    light = 0.5 + 0.55 * np.clip(normals.numpy() @ LIGHT, 0.0, 1.0)
    picture = np.full((view.height, view.width, 3), 255, np.uint8)
    labels = surface_labels(parts, fragments)[hit]
    picture[hit] = np.clip(np.array(PART_COLOURS, float)[labels] * light[:, None], 0, 255).astype(np.uint8)

    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    embedding = model.landmarks[layout]
    positions = at.numpy()

    def visible(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (N, 2) of points (N, 3) and whether they are seen (N,)."""
        world = torch.from_numpy(points)
        px, depth = view.project(world).numpy(), view.to_cam(world)[:, 2].numpy()
        column, row = np.clip(px.astype(int), 3, view.width - 4).T
        window = np.arange(-3, 4)
        around = fragments.depth.numpy()[row[:, None, None] + window[:, None], column[:, None, None] + window]
        around = np.where(np.isfinite(around), around, -np.inf).max((1, 2))
        return px, depth < around + HIDDEN_M

    for path in places_of(embedding.paths, positions):
        px, seen = visible(path)
        for start in range(len(px) - 1):
            if seen[start : start + 2].all():
                pen.line([*px[start], *px[start + 1]], fill=(170, 30, 30))
    px, seen = visible(places_of(embedding.points, positions))
    for number, (x, y) in enumerate(px):
        if seen[number]:
            pen.ellipse((x - 1.6, y - 1.6, x + 1.6, y + 1.6), fill=(0, 0, 0))
            if layout == "ibug68":
                pen.text((x + 3, y - 5), str(number), fill=(0, 0, 0))
    return np.asarray(image)
