"""Pose in closed form from landmarks, or from a few points and a supposed turn of the head."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d.camera import cam_from_turned_world


def pose_from_landmarks(
    points: Tensor, px: Tensor, weights: Tensor, focal_px: float, principal_px: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Rotation (3, 3) and translation (3,), cam_from_world, of a head seen by a camera of known focal length.

    Scaled orthography: the affine map px = A X + b that fits best in weighted least squares is a scaled rotation's
    first two rows; its nearest such matrix gives the rotation, its scale the distance f / s. Exact in the limit of a
    small head; a few Gauss-Newton steps on the true projection follow it.

    Args:
        points: (N, 3) landmarks on the mean head, metres, world.
        px: (N, 2) observed landmarks.
        weights: (N,) weights, 0 for missing ones; at least 4 points not in one plane.
    """
    points, px, weights = points.double(), px.double(), weights.double()
    share = (weights / weights.sum())[:, None]
    centre, centre_px = (share * points).sum(0), (share * px).sum(0)
    x, y = points - centre, px - centre_px
    affine = torch.linalg.solve(x.mT @ (share * x), x.mT @ (share * y)).mT  # (2, 3)
    u, singular, vh = torch.linalg.svd(affine, full_matrices=False)
    scale = float(singular.mean())
    first_two = u @ vh
    rotation = torch.cat([first_two, torch.linalg.cross(first_two[0], first_two[1])[None]])
    distance = focal_px / scale
    offset = (centre_px - points.new_tensor(principal_px)) / scale
    translation = torch.cat([offset, points.new_tensor([distance])]) - rotation @ centre
    return rotation, translation


def pose_from_turn(
    points: Tensor,
    px: Tensor,
    weights: Tensor,
    focal_px: float,
    principal_px: tuple[float, float],
    yaw_deg: float,
) -> tuple[Tensor, Tensor]:
    """Rotation (3, 3) and translation (3,), cam_from_world, of a head of supposed yaw, from at least 2 points.

    Under scaled orthography the head so turned lies in the image up to a similarity: roll, scale and shift, which fit
    best in weighted least squares. For points too few or too flat to tell the pose by themselves.

    Args:
        points: (N, 3) points on the mean head, metres, world.
        px: (N, 2) where they were observed.
        weights: (N,) weights, 0 for missing ones.
    """
    points, px, weights = points.double(), px.double(), weights.double()
    turned = cam_from_turned_world(yaw_deg, 0.0)
    share = (weights / weights.sum())[:, None]
    centre, centre_px = (share * points).sum(0), (share * px).sum(0)
    x, y = ((points - centre) @ turned.mT)[:, :2], px - centre_px
    along, across = (share * x * y).sum(), (share[:, 0] * (x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0])).sum()
    length = torch.hypot(along, across)
    scale = float(length / (share * x * x).sum())
    cosine, sine = along / length, across / length
    roll = torch.eye(3, dtype=torch.float64)
    roll[:2, :2] = torch.stack([torch.stack([cosine, -sine]), torch.stack([sine, cosine])])
    rotation = roll @ turned
    offset = (centre_px - points.new_tensor(principal_px)) / scale
    translation = torch.cat([offset, points.new_tensor([focal_px / scale])]) - rotation @ centre
    return rotation, translation
