"""Which point of a set is nearest to an anchor, and which is furthest: for many anchors and many sets at once.

The sets are ragged: all points in one tensor (N, 2), set s being points[offsets[s] : offsets[s + 1]]. Answers are
indices into that tensor, (S, A) int64 for S sets and A anchors; the first of equally near or far points; -1 for an
empty set. Distances are compared as dx * dx + dy * dy, each operation rounded on its own, so that every device and
every path here gives the same index for the same points, ties included. Nothing holds all anchors x points.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

Search = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""points (N, 2), offsets (S + 1,) int64 and anchors (A, 2) to the indices (S, A) of the nearest and of the furthest."""

TILE = 256
"""Anchors of one tile of `search_tiled`: fewer leave fewer candidates to each, more share the cost of finding them."""

FEW = 64
"""Sets of at most so many points are searched whole: the candidates of a tile cost more to find than they save."""

ROUNDING = 32.0
"""Slack of `search_tiled`, in units of rounding of the largest distance: the errors of the few operations involved."""


def search_segments(points: Tensor, offsets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest and furthest (S, A) by the fastest search there is for the device and type of `points` (N, 2)."""
    if points.device.type == "cpu":
        return search_tiled(points, offsets, anchors)
    fused = _fused_search(points.device) if points.device.type == "cuda" and points.dtype == torch.float32 else None
    return (fused or search_torch)(points, offsets, anchors)


def search_torch(points: Tensor, offsets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest and furthest (S, A) by comparing every point with every anchor, some anchors at a time.

    The reference for the others, and the search of devices without one of their own.
    """
    nearest, furthest = _nothing_found(points, offsets, anchors)
    for row, (begin, end) in enumerate(pairwise(offsets.tolist())):
        if begin < end:
            nearest[row] = begin + _nearest(points[begin:end], anchors)
            furthest[row] = begin + _furthest(points[begin:end], anchors)
    return nearest, furthest


def search_tiled(points: Tensor, offsets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """`search_torch` with the same answers, in less time on a CPU.

    Neighbouring anchors see nearly the same: if those of a tile lie within r of its centre c, then the nearest point
    to any of them is at most 2 r further from c than the nearest point to c, and the furthest at most 2 r closer to c
    than the furthest (triangle inequality). Only such points are compared with the tile's anchors.
    """
    nearest, furthest = _nothing_found(points, offsets, anchors)
    segments = [(row, begin, end) for row, (begin, end) in enumerate(pairwise(offsets.tolist())) if begin < end]
    for tile in _tiles(anchors):
        near_anchors = anchors[tile]
        centre = near_anchors.mean(0)
        radius = (near_anchors - centre).square().sum(1).amax().sqrt()
        for row, begin, end in segments:
            own = points[begin:end]
            if end - begin <= FEW:
                nearest[row, tile] = begin + _nearest(own, near_anchors)
                furthest[row, tile] = begin + _furthest(own, near_anchors)
                continue
            distance = (own - centre).square().sum(1).sqrt()
            low, high = distance.aminmax()
            slack = 2.0 * radius + ROUNDING * torch.finfo(points.dtype).eps * (high + radius)
            # negated, so that points that are not numbers stay in and are answered as by `search_torch`
            close = torch.nonzero(~(distance > low + slack)).squeeze(1)
            far = torch.nonzero(~(distance < high - slack)).squeeze(1)
            nearest[row, tile] = begin + close[_nearest(own[close], near_anchors)]
            furthest[row, tile] = begin + far[_furthest(own[far], near_anchors)]
    return nearest, furthest


def rows_at_once(device: torch.device, row_bytes: int) -> int:
    """Rows of anchors x points to hold at a time: what stays in a CPU's cache, or fills another device."""
    return max(1, (2**20 if device.type == "cpu" else 2**26) // max(1, row_bytes))


def _nothing_found(points: Tensor, offsets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    shape = (offsets.numel() - 1, anchors.shape[0])
    nearest = torch.full(shape, -1, dtype=torch.int64, device=points.device)
    return nearest, nearest.clone()


def _nearest(points: Tensor, anchors: Tensor) -> Tensor:
    """(A,) index of the point (N, 2) nearest to each anchor (A, 2), N > 0."""
    return torch.cat([_squared(rows, points).argmin(1) for rows in _split(anchors, points)])


def _furthest(points: Tensor, anchors: Tensor) -> Tensor:
    """(A,) index of the point (N, 2) furthest from each anchor (A, 2), N > 0."""
    return torch.cat([_squared(rows, points).argmax(1) for rows in _split(anchors, points)])


def _squared(anchors: Tensor, points: Tensor) -> Tensor:
    """(A, N) squared distances. Not torch.cdist: its matrix product breaks ties by rounding."""
    return (anchors[:, :1] - points[:, 0]).square_().add_((anchors[:, 1:] - points[:, 1]).square_())


def _split(anchors: Tensor, points: Tensor) -> tuple[Tensor, ...]:
    return anchors.split(rows_at_once(points.device, points.shape[0] * points.element_size()))


def _tiles(anchors: Tensor) -> list[Tensor]:
    """Indices of the anchors (A, 2) in each cell, not empty, of a grid of about A / TILE cells over all of them."""
    count = max(1, round((anchors.shape[0] / TILE) ** 0.5))
    if count == 1:
        return [torch.arange(anchors.shape[0], device=anchors.device)] if anchors.shape[0] else []
    corner, extent = anchors.amin(0), anchors.amax(0) - anchors.amin(0)
    cell = ((anchors - corner) / extent.clamp(min=torch.finfo(anchors.dtype).tiny) * count).long().clamp(0, count - 1)
    number = cell[:, 1] * count + cell[:, 0]
    sizes = [size for size in torch.bincount(number).tolist() if size]
    return list(number.argsort().split(sizes))


@cache
def _fused_search(device: torch.device) -> Search | None:
    """The search as one kernel, if Triton is there and can compile for the device (it needs a C compiler)."""
    try:
        from fit3d.energy.triton_search import search_triton

        one = torch.zeros(1, 2, device=device)
        search_triton(one, torch.tensor([0, 1], device=device), one)
    except Exception as error:  # whatever is wrong with it, the plain search gives the same answers
        if not isinstance(error, ModuleNotFoundError):
            warnings.warn(f"the anchor search runs without its Triton kernel, slower: {error}", stacklevel=2)
        return None
    return search_triton
