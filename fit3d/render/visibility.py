"""Which surface points a camera sees, by comparing their depth with a z-buffer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fit3d.camera import Camera, px_from_cam
from fit3d.raster import nearest_depth

SMALLEST_BIAS = 0.0004
"""Depth by which a point may lie behind the z-buffer and still count as seen, metres; lids are about 1 mm thick."""
STEEPEST = 4.0
"""Largest slope of a surface (tangent of the angle between normal and view) that the bias follows."""


@dataclass(frozen=True)
class DepthMap:
    """Depth of the nearest surface on a grid over the mesh's box in the photo."""

    depth: np.ndarray
    """(h, w) float32 camera z, metres, inf where there is no surface."""
    left: float
    """x of the grid's left edge, photo px."""
    top: float
    """y of the grid's top edge, photo px."""
    scale: float
    """Grid cells per photo pixel."""
    focal_px: float
    """Focal length, grid cells."""

    def sees(self, points_px: np.ndarray, depth: np.ndarray, cosine: np.ndarray) -> np.ndarray:
        """Share of the four cells around each point that do not hide it.

        Args:
            points_px: (N, 2) photo px.
            depth: (N,) camera z, metres.
            cosine: (N,) cosine of the angle between the surface's normal and the way to the camera.

        Returns:
            (N,) float32 in [0, 1], bilinear, so that shadow borders are soft; points beside the grid are seen.
        """
        height, width = self.depth.shape
        x = (points_px[:, 0] - self.left) * self.scale - 0.5
        y = (points_px[:, 1] - self.top) * self.scale - 0.5
        column, row = np.floor(x), np.floor(y)
        fx, fy = (x - column).astype(np.float32), (y - row).astype(np.float32)
        # a cell's depth was taken at its centre, up to one cell away from the point: a slanted surface differs there
        slope = np.sqrt(np.maximum(1.0 / np.maximum(cosine, 1e-3) ** 2 - 1.0, 0.0)).clip(max=STEEPEST)
        limit = depth - (SMALLEST_BIAS + 1.5 * slope * depth / self.focal_px)
        share = np.zeros(len(x), np.float32)
        columns = [(column + right).clip(0, width - 1).astype(np.int64) for right in (0, 1)]
        cells = self.depth.ravel()
        for down in (0, 1):
            first = (row + down).clip(0, height - 1).astype(np.int64) * width
            for right in (0, 1):
                weight = (fx if right else 1.0 - fx) * (fy if down else 1.0 - fy)
                share += weight * (cells.take(first + columns[right]) >= limit)
        return share


def faces_camera(points_px: Tensor, triangles: Tensor) -> Tensor:
    """(T,) bool: which triangles (T, 3), counter-clockwise from outside, show their outer side, by their projected
    vertices (V, 2)."""
    a, b, c = points_px[triangles].unbind(1)
    # y runs down in pixels, so what is counter-clockwise there has a negative area
    return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]) < 0


def depth_map(vertices_world: Tensor, triangles: Tensor, camera: Camera, resolution: int = 640) -> DepthMap:
    """Depth of a mesh seen by `camera`, `resolution` cells along the longer side of the mesh's box in the photo.

    Only triangles (T, 3) that face the camera are drawn: of a closed surface no other can be in front.
    """
    cam = camera.to_cam(vertices_world.detach().double().cpu())
    points = px_from_cam(cam, camera.focal_px, camera.principal_px)
    in_front = cam[:, 2] > 0
    if not bool(in_front.any()):
        return DepthMap(np.full((1, 1), np.inf, np.float32), 0.0, 0.0, 1.0, camera.focal_px)
    photo = points.new_tensor([camera.width, camera.height])
    low = points[in_front].amin(0).clamp(min=0).minimum(photo - 1)
    high = points[in_front].amax(0).minimum(photo).maximum(low + 1)
    scale = resolution / float((high - low).max())
    width, height = (int(torch.ceil(side * scale)) for side in high - low)
    nearest = nearest_depth(
        ((points - low) * scale).float(), cam[:, 2].float(), triangles[faces_camera(points, triangles)], height, width
    )
    return DepthMap(nearest.numpy(), float(low[0]), float(low[1]), scale, camera.focal_px * scale)
