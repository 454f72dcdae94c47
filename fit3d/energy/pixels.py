"""Sets of raster pixels: grids of anchors, and which pixel of a set an anchor sees as nearest and as furthest.

A part of the photo and a part of the rasterised model are both sets of pixels of one raster. Pixels are named by their
flat index, row * R + column; -1 stands for none. The furthest pixel of a set is a corner of its convex hull, and the
nearest pixel to every pixel of the raster is its Euclidean feature transform, which costs the same for one anchor as
for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError, cKDTree
from torch import Tensor

from fit3d import devices

THINNEST = 512
"""Of a set of pixels at least one in so many is taken."""

FEW_ANCHORS = 12
"""Up to one anchor for so many pixels of the raster, the anchors' rows and columns are looked at by themselves."""


def anchor_grid(count: int, resolution: int, device: torch.device | str = "cpu", extent: float = 1.0) -> Tensor:
    """(count^2,) int64 flat pixel indices of `count` x `count` anchors spread evenly over a square raster.

    They cover the share `extent` of its side, around the middle. Anchors are pixel centres, so that an anchor inside a
    set of pixels is one of them.
    """
    # over whole numbers, so that rounding takes no anchor across a pixel's edge
    along = (2 * torch.arange(count, device=device) + 1) * (resolution * extent) / (2 * count)
    line = (along + 0.5 * resolution * (1.0 - extent)).long().clamp(max=resolution - 1)
    return (line[:, None] * resolution + line[None, :]).reshape(-1)


def pixel_centres(pixels: Tensor, resolution: int, dtype: torch.dtype) -> Tensor:
    """Centres (..., 2), px, of flat pixel indices (...)."""
    rows = torch.div(pixels, resolution, rounding_mode="floor")
    return torch.stack([pixels - rows * resolution, rows], -1).to(dtype) + 0.5


def nearest_pixels(masks: Tensor, anchors: Tensor) -> Tensor:
    """(..., A) int64: the pixel of each mask (..., R, R) bool that is nearest to each anchor (A,) int64.

    An anchor within the set is its own nearest pixel; -1 where the set is empty. Of equally near pixels any one.
    """
    if devices.on_cpu(masks):
        return _each_mask(masks, anchors, _nearest_of, _nearest_of_lines)
    return _search(border_of(masks), anchors, masks)[0]


def nearest_to_each(masks: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel of the `queries` (..., R, R) bool the nearest pixel of the masks (..., R, R) bool.

    Returns, each (M,) int64 in ascending order of the first two: which mask, the query's pixel, and the nearest pixel,
    -1 where the mask is empty. Of equally near pixels any one.
    """
    resolution = masks.shape[-1]
    part, pixel = devices.nonzero_in_rows(queries.reshape(-1, resolution * resolution))
    if not devices.on_cpu(masks):
        every = torch.arange(resolution * resolution, device=masks.device)
        return part, pixel, nearest_pixels(masks, every).flatten(0, -2)[part, pixel]
    flat = masks.numpy().reshape(-1, resolution * resolution)
    found = np.full(len(part), -1)
    ends = np.searchsorted(part.numpy(), np.arange(len(flat) + 1))
    for mask, begin, end in zip(flat, ends, ends[1:], strict=False):
        points = np.flatnonzero(mask)
        if points.size and end > begin:
            at = np.stack(np.divmod(pixel.numpy()[begin:end], resolution), 1)
            found[begin:end] = points[cKDTree(np.stack(np.divmod(points, resolution), 1)).query(at)[1]]
    return part, pixel, torch.from_numpy(found)


def furthest_pixels(masks: Tensor, anchors: Tensor) -> Tensor:
    """(..., A) int64: the pixel of each mask (..., R, R) bool that is furthest from each anchor (A,) int64.

    -1 where the set is empty. Of equally far pixels any one.
    """
    if devices.on_cpu(masks):
        return _each_mask(masks, anchors, _furthest_of, _furthest_of_lines)
    return _search(row_ends_of(masks), anchors, masks)[1]


def count_pixels(masks: Tensor) -> Tensor:
    """(...,) int64: how many pixels each mask (..., R, R) bool has."""
    if masks.device.type != "cpu":
        return masks.flatten(-2).sum(-1)
    flat = masks.numpy().reshape(-1, masks.shape[-2] * masks.shape[-1])  # each by itself: ten times faster
    return torch.tensor([np.count_nonzero(mask) for mask in flat], dtype=torch.int64).view(masks.shape[:-2])


def lattice_thinning(masks: Tensor, count: int) -> Tensor:
    """(...,) int64: n such that one pixel in n of each mask (..., R, R) bool is about `count` pixels; at least 1."""
    covered = count_pixels(masks)
    return torch.div(covered + count - 1, count, rounding_mode="floor").clamp(1, THINNEST)


def spread_pixels(masks: Tensor, thinning: Tensor, capacity: int) -> Tensor:
    """(..., capacity) int64: one pixel in n of each mask (..., R, R) bool, n its `thinning` (...,), then -1.

    A pixel is taken if (column + s(n) row) mod n is 0, with s(n) / n near the golden section: a rank-1 lattice, which
    has a pixel in every stretch of n along any row, at shifts that are as even as can be from row to row (Niederreiter
    1992, chapter 5). It is fixed to the raster: where a border moves, pixels come or go at that border only. A set
    with more than `capacity` such pixels keeps an even share of them.
    """
    resolution = masks.shape[-1]
    part, pixel = devices.nonzero_in_rows(masks.reshape(-1, resolution * resolution))
    row = torch.div(pixel, resolution, rounding_mode="floor")
    thin = thinning.reshape(-1)[part]
    slope = torch.tensor(_golden_slopes(), device=masks.device)[thin]
    chosen = devices.flat_nonzero((pixel - row * resolution + slope * row) % thin == 0)
    part, pixel = part[chosen], pixel[chosen]
    sets = thinning.numel()
    size = torch.bincount(part, minlength=sets)
    rank = torch.arange(len(part), device=masks.device) - (torch.cumsum(size, 0) - size)[part]
    if int(size.max()) > capacity:
        place = torch.div(rank * capacity, size[part].clamp(min=capacity), rounding_mode="floor")
        first = torch.ones_like(place, dtype=torch.bool)
        first[1:] = (place[1:] != place[:-1]) | (part[1:] != part[:-1])
        part, pixel, rank = part[first], pixel[first], place[first]
    spread = torch.full((sets, capacity), -1, dtype=torch.int64, device=masks.device)
    spread[part, rank] = pixel
    return spread.view(*masks.shape[:-2], capacity)


@cache
def _golden_slopes() -> tuple[int, ...]:
    """s(n) of `spread_pixels` for n from 0 on: coprime to n, and s / n near (sqrt(5) - 1) / 2."""
    slopes = [0, 0]
    for n in range(2, THINNEST + 1):
        golden = 0.5 * (5.0**0.5 - 1.0) * n
        slopes.append(min((s for s in range(1, n) if math.gcd(s, n) == 1), key=lambda s: abs(s - golden)))
    return tuple(slopes)


def border_of(masks: Tensor) -> Tensor:
    """(..., R, R) bool: pixels of the masks (..., R, R) with a 4-neighbour outside; those at the raster's edge too."""
    inner = torch.zeros_like(masks)
    inner[..., 1:-1, 1:-1] = (
        masks[..., 1:-1, 1:-1]
        & masks[..., :-2, 1:-1]
        & masks[..., 2:, 1:-1]
        & masks[..., 1:-1, :-2]
        & masks[..., 1:-1, 2:]
    )
    return masks & ~inner


def row_ends_of(masks: Tensor) -> Tensor:
    """(..., R, R) bool: the first and the last pixel of each row of the masks (..., R, R)."""
    before = torch.cumsum(masks, -1, dtype=torch.int32)
    return masks & ((before == 1) | (before == before[..., -1:]))


Find = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From a mask (R, R) and anchors (A,) to pixels (A,)."""
FindOnLines = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""From a mask (R, R) and anchors in each of the rows (N,) and columns (M,) to pixels (N, M)."""


def _each_mask(masks: Tensor, anchors: Tensor, find: Find, find_on_lines: FindOnLines) -> Tensor:
    flat = masks.numpy().reshape(-1, *masks.shape[-2:])
    at = anchors.numpy()
    found = np.empty((len(flat), len(at)), dtype=np.int64)
    v, u = np.divmod(at, masks.shape[-1])
    rows, columns = np.unique(v), np.unique(u)
    # with many anchors it is quicker to look at the whole raster
    if rows.size * columns.size <= min(at.size, flat[0].size // FEW_ANCHORS):
        place = np.searchsorted(rows, v) * columns.size + np.searchsorted(columns, u)
        for index, mask in enumerate(flat):
            found[index] = find_on_lines(mask, rows, columns).ravel()[place] if mask.any() else -1
    else:
        for index, mask in enumerate(flat):
            found[index] = find(mask, at)
    return torch.from_numpy(found).view(*masks.shape[:-2], len(at))


def _nearest_of(mask: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(A,) flat indices by the Euclidean feature transform of the whole raster (Maurer et al. 2003).

    Of equally near pixels that of the lowest column, then of the lowest row.
    """
    if not mask.any():
        return np.full(len(anchors), -1)
    rows, columns = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return np.asarray((rows.ravel()[anchors].astype(np.int64) * mask.shape[1]) + columns.ravel()[anchors])


def _nearest_of_lines(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(N, M): as `_nearest_of`, by the same two steps, of the rows (N,) and columns (M,) of anchors alone.

    First the nearest pixel in each column of the mask's box, then the nearest of those.
    """
    filled_rows, filled_columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = filled_rows[0], filled_rows[-1], filled_columns[0], filled_columns[-1]
    box = mask[top : bottom + 1, left : right + 1]
    far = np.int32(4 * sum(mask.shape))
    row = np.arange(top, bottom + 1, dtype=np.int32)[:, None]
    within = rows.clip(top, bottom) - top
    above = np.maximum.accumulate(box * (far + row))[within] - far
    below = far - np.maximum.accumulate((box * (far - row))[::-1])[::-1][within]
    at = rows.astype(np.int32)[:, None]
    up, down = np.abs(at - above), np.abs(below - at)
    dx = np.arange(left, right + 1, dtype=np.int32) - columns.astype(np.int32)[:, None]
    nearest = (np.minimum(up, down)[:, None] ** 2 + dx**2).argmin(2)
    nearest_row = np.take_along_axis(np.where(up <= down, above, below), nearest, 1)
    return np.asarray(nearest_row * np.int64(mask.shape[1]) + (left + nearest))


def _furthest_of(mask: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(A,) flat indices: the first of the best of the corners of the convex hull."""
    corners = hull_corners(mask)
    if corners.size == 0:
        return np.full(len(anchors), -1)
    y, x = np.divmod(corners, mask.shape[1])
    v, u = np.divmod(anchors, mask.shape[1])
    # |p - a|^2 without |a|^2, in whole pixels: exact in single precision
    score = np.stack([u, v], 1).astype(np.float32) @ np.stack([-2.0 * x, -2.0 * y]).astype(np.float32)
    score += (x * x + y * y).astype(np.float32)
    return np.asarray(corners[score.argmax(1)])


def _furthest_of_lines(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(N, M): as `_furthest_of`, of the rows (N,) and columns (M,) of anchors: of each row of the mask the further end,
    then the furthest of those. A point that is no corner of the hull is never furthest, so it need not be left out."""
    y, first, last = row_ends(mask)
    y, first, last, v, u = (each.astype(np.int32) for each in (y, first, last, rows, columns))
    to_first, to_last = np.abs(u[:, None] - first), np.abs(u[:, None] - last)
    furthest = ((v[:, None] - y)[:, None] ** 2 + np.maximum(to_first, to_last) ** 2).argmax(2)
    end = np.take_along_axis(np.where(to_first >= to_last, first, last), furthest.T, 1).T
    return np.asarray(y[furthest] * np.int64(mask.shape[1]) + end)


def row_ends(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (n,) of `mask` (R, R) bool that are not empty, and the columns (n,) of the first and last pixel of each."""
    rows = np.flatnonzero(mask.any(1))
    lines = mask[rows]
    return rows, lines.argmax(1), mask.shape[1] - 1 - lines[:, ::-1].argmax(1)


def hull_corners(mask: np.ndarray) -> np.ndarray:
    """(H,) flat indices, ascending, of pixels of `mask` (R, R) bool among which are the corners of its convex hull."""
    rows, first, last = row_ends(mask)
    ends = np.unique(np.concatenate([rows * mask.shape[1] + first, rows * mask.shape[1] + last]))
    if ends.size < 8:
        return ends
    try:
        hull = ConvexHull(np.stack(np.divmod(ends, mask.shape[1]), 1).astype(np.float64)).vertices
    except QhullError:  # all on one line
        return ends
    return ends[np.sort(hull)]


def _search(points: Tensor, anchors: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest and furthest (..., A) of the pixels marked in `points` (..., R, R), by the search of the device."""
    from fit3d.energy.search import search_segments

    resolution = masks.shape[-1]
    flat = points.reshape(-1, resolution * resolution)
    segment, pixel = devices.nonzero_in_rows(flat)
    offsets = torch.searchsorted(segment, torch.arange(len(flat) + 1, device=masks.device))
    centres = pixel_centres(pixel, resolution, torch.float32)
    at = pixel_centres(anchors, resolution, torch.float32)
    none = torch.full((1,), -1, dtype=torch.int64, device=masks.device)
    nearest, furthest = (
        torch.cat([pixel, none])[found] for found in search_segments(centres, offsets, at)
    )  # -1 takes the last
    within = masks.reshape(-1, resolution * resolution)[:, anchors]
    nearest = torch.where(within, anchors, nearest)
    shape = (*masks.shape[:-2], anchors.numel())
    return nearest.view(shape), furthest.view(shape)


def without_specks(masks: Tensor, share: float, smallest: int) -> Tensor:
    """Masks (..., R, R) bool without pieces smaller than `share` of the largest piece of their mask, or than `smallest`
    pixels. Pieces are joined by edges, not corners."""
    if devices.on_cpu(masks) or masks.device.type == "mps":  # MPS scatters no whole numbers by minimum
        flat = masks.cpu().numpy().reshape(-1, *masks.shape[-2:])
        kept = np.stack([_without_specks(mask, share, smallest) for mask in flat])
        return torch.from_numpy(kept).to(masks.device).view_as(masks)
    return without_specks_by_labels(masks, share, smallest)


def _without_specks(mask: np.ndarray, share: float, smallest: int) -> np.ndarray:
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    if not width:
        return mask
    box = slice(top, top + height), slice(left, left + width)
    count, pieces = cv2.connectedComponents(mask[box].view(np.uint8), connectivity=4)
    if count == 2 and np.count_nonzero(mask[box]) >= smallest:  # the first is what is not set
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    kept = np.zeros_like(mask)
    kept[box] = (sizes >= max(share * sizes.max(), smallest))[pieces] & mask[box]
    return kept


def without_specks_by_labels(masks: Tensor, share: float, smallest: int) -> Tensor:
    """`without_specks` in tensor operations, for devices that no library labels pieces on.

    Each piece is named by its lowest pixel; names spread to neighbours and are compressed by pointer jumping (Shiloach
    and Vishkin 1982).
    """
    height, width = masks.shape[-2:]
    flat = masks.reshape(-1, height, width)
    nothing = flat.numel()
    own = torch.arange(nothing, device=masks.device).view_as(flat)
    name = torch.where(flat, own, nothing)
    while True:
        lowest = name.clone()
        lowest[:, 1:] = torch.minimum(lowest[:, 1:], name[:, :-1])
        lowest[:, :-1] = torch.minimum(lowest[:, :-1], name[:, 1:])
        lowest[:, :, 1:] = torch.minimum(lowest[:, :, 1:], name[:, :, :-1])
        lowest[:, :, :-1] = torch.minimum(lowest[:, :, :-1], name[:, :, 1:])
        lowest = torch.where(flat, lowest, nothing)
        table = torch.arange(nothing + 1, device=masks.device)
        table.scatter_reduce_(0, name.view(-1), lowest.view(-1), "amin")
        table = table[table]
        table = table[table]
        joined = table[name]
        if bool((joined == name).all()):
            break
        name = joined
    sizes = torch.bincount(name.view(-1), minlength=nothing + 1)
    sizes[nothing] = 0
    size = sizes[name]
    largest = size.flatten(1).amax(1)[:, None, None]
    return (flat & (size >= torch.clamp(share * largest, min=smallest))).view_as(masks)
