"""Part Re-projection Distance Loss (Wang et al., CVPR 2024, equations 4 to 6).

A part is a set of points in the image: the pixels a parser gave it, or the pixels the projected model gives it. Seen
from an anchor a, a set has three figures: the distance to its nearest point, to its furthest point, and the mean
distance to all of them. Over a grid of anchors they form the set's descriptor, and PRDL is the squared difference
between two descriptors:

    Gamma_min(a) = min_j |p_j - a|,   Gamma_max(a) = max_j |p_j - a|,   Gamma_mean(a) = sum_j m_j |p_j - a| / sum_j m_j
    loss = (1 / A) sum_a sum_f (Gamma_f(a) - Gamma*_f(a))^2

`prdl_loss` and `descriptor` say this for point sets that anyone may bring. The fit itself compares sets of pixels of
one raster, for which far fewer points tell the same (`PixelSet`); the two agree to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d.config import Statistic

EPSILON = 1e-6
"""Added to squared distances, px^2: a point that lies on an anchor keeps a finite derivative."""

STATISTICS: tuple[Statistic, ...] = ("min", "max", "mean")


def descriptor(
    points: Tensor, anchors: Tensor, weights: Tensor | None = None, statistics: Sequence[Statistic] = STATISTICS
) -> Tensor:
    """Distances (..., A, F), px, from anchors (A, 2) to a point set (..., N, 2): nearest, furthest and mean.

    `weights` (N,) are the points' areas and count in the mean only. The gradient of 'min' and 'max' goes through the
    selected point. Holds all A x N distances; raises ValueError for an empty set, which has no descriptor.
    """
    if points.shape[-2] == 0:
        raise ValueError("descriptor of an empty point set: skip parts without points")
    difference = points[..., None, :, :] - anchors[:, None, :]
    distance = (difference.square().sum(-1) + EPSILON).sqrt()
    columns = []
    for statistic in statistics:
        if statistic == "min":
            columns.append(distance.min(-1).values)
        elif statistic == "max":
            columns.append(distance.max(-1).values)
        elif weights is None:
            columns.append(distance.mean(-1))
        else:
            columns.append((distance * weights).sum(-1) / weights.sum())
    return torch.stack(columns, -1)


def prdl_loss(
    points: Tensor,
    target_points: Tensor,
    anchors: Tensor,
    weights: Tensor | None = None,
    statistics: Sequence[Statistic] = STATISTICS,
) -> Tensor:
    """PRDL (...,), px^2, of one part: points (..., N, 2) against target_points (M, 2), seen from anchors (A, 2).

    Zero with zero gradient when either set is empty: a part that is hidden on one side says nothing.
    """
    if points.shape[-2] == 0 or target_points.shape[-2] == 0:
        return (points * 0.0).sum((-2, -1))
    target = descriptor(target_points, anchors, statistics=statistics)
    residual = descriptor(points, anchors, weights, statistics) - target
    return residual.square().sum(-1).mean(-1)


def anchor_grid(count: int, resolution: int, device: torch.device | str = "cpu") -> Tensor:
    """(count^2,) int64 flat pixel indices of `count` x `count` anchors spread evenly over a square raster.

    Anchors are pixel centres, so that an anchor inside a set of pixels is one of them.
    """
    line = ((torch.arange(count, device=device) + 0.5) * resolution / count).long().clamp(max=resolution - 1)
    return (line[:, None] * resolution + line[None, :]).reshape(-1)


def pixel_centres(pixels: Tensor, resolution: int, dtype: torch.dtype) -> Tensor:
    """Centres (..., 2), px, of flat pixel indices (...)."""
    rows = torch.div(pixels, resolution, rounding_mode="floor")
    return torch.stack([pixels - rows * resolution, rows], -1).to(dtype) + 0.5


@dataclass(frozen=True)
class PixelSet:
    """A set of raster pixels, reduced to the points that decide its descriptor.

    The nearest point of a set to an anchor outside it is a border pixel, the furthest is the first or last pixel of
    its row (the corners of the convex hull are among them), and the mean is that of an even stride.
    """

    mask: Tensor
    """(R * R,) bool: the whole set."""
    border: Tensor
    """(B,) int64 flat indices of pixels with a 4-neighbour outside the set."""
    extreme: Tensor
    """(E,) int64 flat indices of the first and last pixel of each row."""
    spread: Tensor
    """(S,) int64 flat indices, an even stride over the set."""

    @property
    def empty(self) -> bool:
        return self.border.numel() == 0


def pixel_sets(masks: Tensor, spread_count: int) -> list[PixelSet]:
    """Reduce boolean rasters (P, R, R) to a `PixelSet` each."""
    inner = torch.zeros_like(masks)
    inner[:, 1:-1, 1:-1] = (
        masks[:, 1:-1, 1:-1] & masks[:, :-2, 1:-1] & masks[:, 2:, 1:-1] & masks[:, 1:-1, :-2] & masks[:, 1:-1, 2:]
    )
    border = masks & ~inner
    before = torch.cumsum(masks, 2, dtype=torch.int32)
    extreme = masks & ((before == 1) | (before == before[:, :, -1:]))
    sets = []
    for index in range(masks.shape[0]):
        covered = torch.nonzero(masks[index].view(-1)).squeeze(1)
        stride = max(1, -(-covered.numel() // spread_count))
        sets.append(
            PixelSet(
                mask=masks[index].view(-1),
                border=torch.nonzero(border[index].view(-1)).squeeze(1),
                extreme=torch.nonzero(extreme[index].view(-1)).squeeze(1),
                spread=covered[stride // 2 :: stride] if covered.numel() else covered,
            )
        )
    return sets


@dataclass(frozen=True)
class Seen:
    """How anchors see one point set: distances and which point each was taken from."""

    distance: Tensor
    """(A,) px."""
    selected: Tensor
    """(A,) int64 index into the points, -1 where the anchor is itself in the set (no gradient)."""
    direction: Tensor
    """(A, 2): derivative of the distance by the selected point."""


def see_nearest(points: Tensor, anchors: Tensor, inside: Tensor) -> Seen:
    """Nearest of the border points (B, 2) from each anchor (A, 2); `inside` (A,) marks anchors within the set."""
    return _see(points, anchors, _squared(anchors, points).argmin(1), inside)


def see_furthest(points: Tensor, anchors: Tensor) -> Seen:
    """Furthest of the extreme points (E, 2) from each anchor (A, 2)."""
    return _see(points, anchors, _squared(anchors, points).argmax(1), None)


def _squared(anchors: Tensor, points: Tensor) -> Tensor:
    """(A, N) squared distances, exact: torch.cdist's matrix product would break ties by rounding."""
    return (anchors[:, :1] - points[:, 0]).square_() + (anchors[:, 1:] - points[:, 1]).square_()


def _see(points: Tensor, anchors: Tensor, selected: Tensor, inside: Tensor | None) -> Seen:
    offset = points[selected] - anchors
    distance = (offset.square().sum(-1) + EPSILON).sqrt()
    direction = offset / distance[:, None]
    if inside is not None:
        distance = torch.where(inside, EPSILON**0.5, distance)
        direction = torch.where(inside[:, None], 0.0, direction)
        selected = torch.where(inside, -1, selected)
    return Seen(distance, selected, direction)


def see_mean(points: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean distance (A,), px, from anchors (A, 2) to points (S, 2), and its derivative (A, S, 2) by each point."""
    offset = points[None] - anchors[:, None]
    distance = (offset.square().sum(-1) + EPSILON).sqrt()
    return distance.mean(1), offset / (distance[..., None] * points.shape[0])
