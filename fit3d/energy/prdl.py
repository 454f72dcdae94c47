"""Part Re-projection Distance Loss (Wang et al., CVPR 2024, equations 4 to 6).

A part is a set of points in the image: the pixels a parser gave it, or the points the projected model gives it. Seen
from an anchor a, a set has three figures: the distance to its nearest point, to its furthest point, and the mean
distance to all of them. Over many anchors they form the set's descriptor, and PRDL is the squared difference between
two descriptors:

    Gamma_min(a) = min_j |p_j - a|,   Gamma_max(a) = max_j |p_j - a|,   Gamma_mean(a) = sum_j m_j |p_j - a| / sum_j m_j
    loss = (1 / A) sum_a sum_f (Gamma_f(a) - Gamma*_f(a))^2

Lengths are in pixels. The paper takes every pixel of its 224 x 224 crop as an anchor and normalises by their number,
as here. |p - a| stands for sqrt(|p - a|^2 + EPSILON), so that a point on an anchor has a derivative (zero).

The weights m_j are areas. A mask has one point for each pixel, evenly spread; vertices of a mesh are dense where the
mesh is fine, and the mean of their distances leans towards there. Weighted by the area of the image that each stands
for, both sides measure the mean over the part's region. Nearest and furthest distances take no weights.

Each function has a `..._naive` twin that is written as the formula and holds all distances from anchors to points;
the others give the same values and gradients and hold a few rows of them at a time: 50,176 anchors and 3,000 points
take some tens of megabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fit3d.config import Statistic
from fit3d.energy.search import rows_at_once, search_segments

EPSILON = 1e-6
"""Added to squared distances, px^2: a point that lies on an anchor keeps a finite derivative."""

STATISTICS: tuple[Statistic, ...] = get_args(Statistic)


def descriptor_naive(
    points: Tensor, anchors: Tensor, weights: Tensor | None = None, statistics: Sequence[Statistic] = STATISTICS
) -> Tensor:
    """`descriptor`, as the formula says it: holds all distances (..., A, N)."""
    squared = (points[..., None, :, :] - anchors[:, None, :]).square().sum(-1)
    distance = (squared + EPSILON).sqrt()
    weights = torch.ones_like(points[..., 0]) if weights is None else weights
    columns = {
        "min": distance.gather(-1, squared.argmin(-1, keepdim=True)).squeeze(-1),
        "max": distance.gather(-1, squared.argmax(-1, keepdim=True)).squeeze(-1),
        "mean": (distance * weights[..., None, :]).sum(-1) / weights.sum(-1, keepdim=True),
    }
    return torch.stack([columns[statistic] for statistic in statistics], -1)


def prdl_loss_naive(
    points: Tensor,
    target_points: Tensor,
    anchors: Tensor,
    weights: Tensor | None = None,
    statistics: Sequence[Statistic] = STATISTICS,
) -> Tensor:
    """`prdl_loss`, as the formula says it, for sets with points: holds all distances (..., A, N)."""
    target = descriptor_naive(target_points, anchors, statistics=statistics)
    return (descriptor_naive(points, anchors, weights, statistics) - target).square().sum(-1).mean(-1)


def descriptor(
    points: Tensor, anchors: Tensor, weights: Tensor | None = None, statistics: Sequence[Statistic] = STATISTICS
) -> Tensor:
    """Distances (..., A, F), px, from anchors (A, 2) to a point set (..., N, 2): `statistics` in the order given.

    Gamma of equation 4 of the paper for the model's points, Gamma* of equation 5 for the photo's. `weights` (N,) are
    the points' areas, in any unit; they count in the mean only, and None means equal areas. Anchors and weights are
    taken in the type and on the device of the points.

    Differentiable once, by points, anchors and weights. The gradient of 'min' and 'max' goes through the selected
    point, the first of equally near or far ones. Raises ValueError for an empty set, which has no distances.
    """
    _check(points, anchors, weights, statistics)
    if points.shape[-2] == 0:
        raise ValueError("points: got an empty set, which has no descriptor; leave out parts without points")
    anchors = anchors.to(points)
    sets = points.reshape(-1, *points.shape[-2:])
    columns: dict[str, Tensor] = {}
    if "min" in statistics or "max" in statistics:
        flat = sets.reshape(-1, 2)
        offsets = torch.arange(sets.shape[0] + 1, device=points.device) * points.shape[-2]
        for name, index in zip(("min", "max"), search_segments(flat.detach(), offsets, anchors.detach()), strict=True):
            columns[name] = ((flat[index] - anchors).square().sum(-1) + EPSILON).sqrt()
    if "mean" in statistics:
        areas = points.new_ones(points.shape[-2]) if weights is None else weights.to(points)
        columns["mean"] = _MeanDistance.apply(sets, anchors, areas / areas.sum())
    seen = torch.stack([columns[statistic] for statistic in statistics], -1)
    return seen.reshape(*points.shape[:-2], *seen.shape[1:])


def prdl_loss(
    points: Tensor,
    target_points: Tensor,
    anchors: Tensor,
    weights: Tensor | None = None,
    statistics: Sequence[Statistic] = STATISTICS,
) -> Tensor:
    """PRDL (...,), px^2, of one part: points (..., N, 2) against target_points (M, 2), seen from anchors (A, 2).

    The mean over anchors of the squared differences of their `statistics`: a part's summand of equation 6 of the
    paper, divided by A. `weights` (N,) are the areas of `points`; every target point, a pixel, has the same.

    Zero with zero gradient when either set is empty: a part that is hidden on one side says nothing.
    """
    _check(points, anchors, weights, statistics)
    _check_pairs(target_points=target_points)
    if points.shape[-2] == 0 or target_points.shape[-2] == 0:
        return points[..., :0, :].sum((-2, -1))
    target = descriptor(target_points.to(points), anchors, statistics=statistics)
    return (descriptor(points, anchors, weights, statistics) - target).square().sum(-1).mean(-1)


def prdl_parts_loss(
    points: Sequence[Tensor],
    target_points: Sequence[Tensor],
    anchors: Tensor,
    weights: Sequence[Tensor | None] | None = None,
    part_weights: Sequence[float] | Tensor | None = None,
    statistics: Sequence[Statistic] = STATISTICS,
) -> Tensor:
    """PRDL (...,), px^2, of P parts: the sum of `prdl_loss` over parts, each times its part weight.

    Equation 6 of the paper, sum_p w_p |Gamma_p - Gamma*_p|^2, divided by the number of anchors, with w_p = 0 for parts
    that are empty on either side. Per part: points (..., N_p, 2), target_points (M_p, 2), `weights` (N_p,) or None
    for equal areas, and a number in `part_weights`, 1 by default. The paper does not say which part weights it used.
    """
    count = len(points)
    areas = [None] * count if weights is None else weights
    factors = [1.0] * count if part_weights is None else part_weights
    lengths = [count, len(target_points), len(areas), len(factors)]
    if count == 0 or len(set(lengths)) > 1:
        raise ValueError(f"parts: got {lengths} points, target_points, weights, part_weights, expected as many of each")
    losses = [
        factor * prdl_loss(own, target, anchors, area, statistics)
        for own, target, area, factor in zip(points, target_points, areas, factors, strict=True)
    ]
    return torch.stack(losses).sum(0)


class _MeanDistance(torch.autograd.Function):
    """Mean distance (B, A) from anchors (A, 2) to each set of points (B, N, 2), by weights (N,) of sum 1.

    Keeps its arguments only: distances are computed again for the gradient, a few anchors at a time.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, anchors: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(points, anchors, weights)
        mean = points.new_empty(points.shape[0], anchors.shape[0])
        for own, row in zip(points, mean, strict=True):
            for at in _few_anchors(own, anchors):
                distance = (anchors[at, :1] - own[:, 0]).square_()
                distance.add_((anchors[at, 1:] - own[:, 1]).square_()).add_(EPSILON).sqrt_()
                row[at] = distance @ weights
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        points, anchors, weights = ctx.saved_tensors
        by_points, by_anchors, by_weights = map(torch.zeros_like, (points, anchors, weights))
        for own, by_own, pull in zip(points, by_points, gradient, strict=True):
            for at in _few_anchors(own, anchors):
                dx, dy = own[:, 0] - anchors[at, :1], own[:, 1] - anchors[at, 1:]
                squared = dx.square().add_(dy.square()).add_(EPSILON)
                inverse = squared.rsqrt()
                for axis, direction in enumerate((dx.mul_(inverse), dy.mul_(inverse))):
                    by_own[:, axis] += pull[at] @ direction
                    if ctx.needs_input_grad[1]:
                        by_anchors[at, axis] -= pull[at] * (direction @ weights)
                if ctx.needs_input_grad[2]:
                    by_weights += pull[at] @ squared.mul_(inverse)
            by_own *= weights[:, None]
        return by_points, by_anchors, by_weights


def _few_anchors(points: Tensor, anchors: Tensor) -> list[slice]:
    """Slices of the anchors (A, 2) whose distances to the points (N, 2) may be held at a time."""
    step = rows_at_once(points.device, points.shape[0] * points.element_size())
    return [slice(start, start + step) for start in range(0, anchors.shape[0], step)]


def _check(points: Tensor, anchors: Tensor, weights: Tensor | None, statistics: Sequence[Statistic]) -> None:
    _check_pairs(points=points, anchors=anchors)
    if anchors.ndim != 2 or anchors.shape[0] == 0:
        raise ValueError(f"anchors: got shape {tuple(anchors.shape)}, expected (A, 2) with at least one anchor")
    if not statistics or not set(statistics) <= set(STATISTICS):
        raise ValueError(f"statistics: got {list(statistics)}, expected one or more of {list(STATISTICS)}")
    if weights is not None and weights.shape != points.shape[-2:-1]:
        raise ValueError(
            f"weights: got shape {tuple(weights.shape)}, expected one for each of {points.shape[-2]} points"
        )
    if weights is not None and weights.numel() and not bool(weights.sum() > 0):
        raise ValueError("weights: the areas add up to nothing; leave out parts without area")


def _check_pairs(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or tensor.shape[-1] != 2:
            raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected pairs of coordinates, (..., 2)")
