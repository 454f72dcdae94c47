"""The cameras that look at a head to be annotated."""

from __future__ import annotations

import math

import torch

from fit3d.camera import Camera, cam_from_turned_world

VIEW_PX = 800
"""Side of the pictures."""
VIEW_HALF_M = 0.16
"""What they show to each side of their centre."""
VIEW_CENTRE_M = (0.0, -0.03, -0.05)
VIEW_FOV_DEG = 30.0


def turned_view(
    yaw_deg: float,
    pitch_deg: float,
    size: int = VIEW_PX,
    half_m: float = VIEW_HALF_M,
    centre_m: tuple[float, float, float] = VIEW_CENTRE_M,
) -> Camera:
    """A camera around the head: positive yaw shows more of the person's left side, positive pitch looks from above."""
    rotation = cam_from_turned_world(yaw_deg, pitch_deg)
    tangent = math.tan(math.radians(VIEW_FOV_DEG) / 2.0)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = rotation
    pose[:3, 3] = torch.tensor([0.0, 0.0, half_m / tangent], dtype=torch.float64) - rotation @ torch.tensor(
        centre_m, dtype=torch.float64
    )
    return Camera(size, size, size / 2.0 / tangent, (size / 2.0, size / 2.0), pose)
