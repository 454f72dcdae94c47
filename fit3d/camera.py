"""The pinhole camera, and the one place where frames and pixel centres are defined.

Frames
    world   the head's own frame, which is what is exported: metres, y up, z towards the viewer of a frontal
            photo, x to the person's left; the origin is midway between the eyeball centres of the mean head.
    cam     OpenCV's: metres, x right, y down, z forward.
    px      pixels of the photo: (0, 0) is the top-left corner of the top-left pixel, whose centre is (0.5, 0.5).
    crop    pixels of a square cut from the photo and resampled, same convention.

A name says both ends, target first: `cam_from_world`, `px_from_cam`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

CAM_FROM_FRONTAL_WORLD = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
"""Rotation of a camera that looks straight at the face: y and z change sign between world and cam."""


@dataclass(frozen=True)
class Camera:
    """Intrinsics and pose of a pinhole camera without distortion."""

    width: int
    """Image width, px."""
    height: int
    """Image height, px."""
    focal_px: float
    """Focal length, px, the same in x and y."""
    principal_px: tuple[float, float]
    """Principal point (x, y), px."""
    cam_from_world: Tensor
    """(4, 4) float64, rigid."""

    @property
    def K(self) -> Tensor:
        """(3, 3) float64 intrinsic matrix: `px ~ K @ point_cam`."""
        cx, cy = self.principal_px
        return torch.tensor([[self.focal_px, 0.0, cx], [0.0, self.focal_px, cy], [0.0, 0.0, 1.0]], dtype=torch.float64)

    @property
    def fov_deg(self) -> float:
        """Field of view along the longer side, degrees."""
        return math.degrees(2.0 * math.atan(max(self.width, self.height) / (2.0 * self.focal_px)))

    def to_cam(self, points_world: Tensor) -> Tensor:
        """World points (..., N, 3), metres, in the camera frame (..., N, 3)."""
        pose = self.cam_from_world.to(points_world)
        return points_world @ pose[:3, :3].mT + pose[:3, 3]

    def project(self, points_world: Tensor) -> Tensor:
        """World points (..., N, 3), metres, to pixels (..., N, 2). Points behind the camera give meaningless pixels."""
        return px_from_cam(self.to_cam(points_world), self.focal_px, self.principal_px)

    def in_crop(self, crop: Crop) -> Camera:
        """The same camera seeing only `crop`, in crop pixels."""
        cx, cy = self.principal_px
        return replace(
            self,
            width=crop.resolution,
            height=crop.resolution,
            focal_px=self.focal_px * crop.scale,
            principal_px=((cx - crop.left) * crop.scale, (cy - crop.top) * crop.scale),
        )


@dataclass(frozen=True)
class Crop:
    """A square of the photo resampled to `resolution` x `resolution` pixels. It may reach beyond the photo."""

    left: float
    """x of the square's left edge, photo px."""
    top: float
    """y of the square's top edge, photo px."""
    size: float
    """Side of the square, photo px."""
    resolution: int
    """Side of the resampled crop, crop px."""

    @property
    def scale(self) -> float:
        """Crop pixels per photo pixel."""
        return self.resolution / self.size

    def crop_from_px(self, points_px: Tensor) -> Tensor:
        """Photo pixels (..., 2) to crop pixels (..., 2)."""
        return (points_px - points_px.new_tensor([self.left, self.top])) * self.scale


def cam_from_turned_world(yaw_deg: float, pitch_deg: float) -> Tensor:
    """(3, 3) float64 rotation of a camera that goes around the head: positive yaw shows more of the person's left side,
    positive pitch looks from above; 0, 0 looks straight at the face."""
    yaw, pitch = math.radians(yaw_deg), math.radians(pitch_deg)
    about_y = torch.tensor(
        [[math.cos(yaw), 0.0, -math.sin(yaw)], [0.0, 1.0, 0.0], [math.sin(yaw), 0.0, math.cos(yaw)]],
        dtype=torch.float64,
    )
    about_x = torch.tensor(
        [[1.0, 0.0, 0.0], [0.0, math.cos(pitch), -math.sin(pitch)], [0.0, math.sin(pitch), math.cos(pitch)]],
        dtype=torch.float64,
    )
    return torch.tensor(CAM_FROM_FRONTAL_WORLD, dtype=torch.float64) @ about_x @ about_y


def px_from_cam(points_cam: Tensor, focal_px: float | Tensor, principal_px: tuple[float, float]) -> Tensor:
    """Pinhole projection `f * (x / z, y / z) + c` of camera points (..., 3), metres, to pixels (..., 2)."""
    return focal_px * points_cam[..., :2] / points_cam[..., 2:] + points_cam.new_tensor(principal_px)
