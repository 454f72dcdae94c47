"""Pose in closed form from landmarks."""

from __future__ import annotations

import torch
from torch import Tensor


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
