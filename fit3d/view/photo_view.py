"""Where the photo and the page's camera stand, so that the head lies over its photo in a window of any shape.

The photo is a plane in the scene, behind the head, that fills the frustum of the photo's camera: seen from that camera
it lines up whatever the window's size, and from elsewhere one sees where it was taken from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from fit3d.camera import CAM_FROM_FRONTAL_WORLD, Camera

BEHIND_M = 0.15
"""Room between the head and the photo, metres, for expressions to move in."""
MARGIN = 1.02
"""Side of the view over that of the photo."""
FRONT_FOV_DEG = 24.0
"""Vertical field of view of the front view."""


@dataclass(frozen=True)
class Plane:
    """A rectangle in the world, whose own frame has x right, y down and z away from the viewer."""

    centre: np.ndarray
    """(3,) metres."""
    world_from_plane: np.ndarray
    """(3, 3) rotation."""
    width: float
    """Metres."""
    height: float


@dataclass(frozen=True)
class Viewpoint:
    """A camera of the page, which looks straight at a point."""

    position: np.ndarray
    """(3,) metres."""
    look_at: np.ndarray
    """(3,) metres: the point that orbiting goes around."""
    up: np.ndarray
    """(3,) unit."""
    tangents: tuple[float, float]
    """Tangents of half the horizontal and vertical angle that must be in view."""

    def fov_rad(self, aspect: float) -> float:
        """Vertical field of view of a window of `aspect`, width over height."""
        across, down = self.tangents
        return 2.0 * math.atan(max(down, across / aspect))


def photo_plane(camera: Camera, vertices_world: np.ndarray) -> Plane:
    """Where the photo goes: behind `vertices_world` (V, 3)."""
    depth = float(camera.to_cam(torch.as_tensor(vertices_world).double())[:, 2].max()) + BEHIND_M
    scale = depth / camera.focal_px
    cx, cy = camera.principal_px
    centre_cam = np.array([(camera.width / 2.0 - cx) * scale, (camera.height / 2.0 - cy) * scale, depth])
    rotation, position = _pose(camera)
    return Plane(position + rotation @ centre_cam, rotation, camera.width * scale, camera.height * scale)


def photo_viewpoint(camera: Camera, vertices_world: np.ndarray) -> Viewpoint:
    """The photo's camera with the whole photo in view. The page's cameras look straight at a point, so it is the one
    on the optical axis that is as far away as the middle of `vertices_world` (V, 3)."""
    rotation, position = _pose(camera)
    depth = float(camera.to_cam(torch.as_tensor(vertices_world).double())[:, 2].mean())
    cx, cy = camera.principal_px
    across = max(cx, camera.width - cx, 1.0) / camera.focal_px
    down = max(cy, camera.height - cy, 1.0) / camera.focal_px
    return Viewpoint(position, position + depth * rotation[:, 2], -rotation[:, 1], (MARGIN * across, MARGIN * down))


def front_viewpoint(vertices_world: np.ndarray) -> Viewpoint:
    """A camera straight before the face, around whose middle it orbits."""
    low, high = vertices_world.min(0), vertices_world.max(0)
    middle, half = (low + high) / 2.0, float((high - low).max()) / 2.0
    tangent = math.tan(math.radians(FRONT_FOV_DEG) / 2.0)
    away = np.array(CAM_FROM_FRONTAL_WORLD)[2] * (-half * MARGIN / tangent - half)
    return Viewpoint(middle + away, middle, np.array([0.0, 1.0, 0.0]), (tangent, tangent))


def _pose(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """(3, 3) world_from_cam and (3,) position of the camera in the world."""
    world_from_cam = torch.linalg.inv(camera.cam_from_world.double()).numpy()
    return world_from_cam[:3, :3], world_from_cam[:3, 3]
