"""The cameras that look at a head to be annotated."""

from __future__ import annotations

import math

import torch

from fit3d.camera import CAM_FROM_FRONTAL_WORLD, Camera

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
    yaw, pitch = math.radians(yaw_deg), math.radians(pitch_deg)
    about_y = torch.tensor(
        [[math.cos(yaw), 0.0, -math.sin(yaw)], [0.0, 1.0, 0.0], [math.sin(yaw), 0.0, math.cos(yaw)]],
        dtype=torch.float64,
    )
    about_x = torch.tensor(
        [[1.0, 0.0, 0.0], [0.0, math.cos(pitch), -math.sin(pitch)], [0.0, math.sin(pitch), math.cos(pitch)]],
        dtype=torch.float64,
    )
    rotation = torch.tensor(CAM_FROM_FRONTAL_WORLD, dtype=torch.float64) @ about_x @ about_y
    tangent = math.tan(math.radians(VIEW_FOV_DEG) / 2.0)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = rotation
    pose[:3, 3] = torch.tensor([0.0, 0.0, half_m / tangent], dtype=torch.float64) - rotation @ torch.tensor(
        centre_m, dtype=torch.float64
    )
    return Camera(size, size, size / 2.0 / tangent, (size / 2.0, size / 2.0), pose)
