"""Where each pixel of the edited photo comes from: by the mesh on the face, smoothly dying away around it."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import sparse
from scipy.ndimage import distance_transform_edt
from scipy.sparse.linalg import splu

GRID = 144
"""Cells along the longer side of the window on which the field beside the face is solved for; it is smooth."""
STILL_PX = 0.02
"""A pixel that moves by less is copied, not resampled."""


def extend(field: np.ndarray, known: np.ndarray, reach_px: float) -> np.ndarray:
    """A displacement field continued smoothly to where it is not known.

    Beside the known pixels it is harmonic, equal to them at their border and zero from `reach_px` on and at the
    window's edge, where the edited window meets the photo.

    Args:
        field: (h, w, 2) px.
        known: (h, w) bool.

    Returns:
        (h, w, 2) float32; `field` itself where it is known.
    """
    height, width = known.shape
    step = max(1, -(-max(height, width) // GRID))
    rows, columns = -(-height // step), -(-width // step)
    share = _blocks(known.astype(np.float64), rows, columns, step)
    total = np.stack([_blocks(np.where(known, field[..., axis], 0.0), rows, columns, step) for axis in (0, 1)], -1)
    fixed = share > 0.5 * step * step
    values = np.where(fixed[..., None], total / np.maximum(share, 1.0)[..., None], 0.0)
    pinned = distance_transform_edt(~fixed) * step > reach_px
    pinned[[0, -1]] = True
    pinned[:, [0, -1]] = True
    coarse = harmonic(values * ~pinned[..., None], fixed | pinned)
    smooth = _enlarged(coarse, height, width, step)
    # the coarse grid misses the border by part of a cell: what it misses dies away within a few
    away, nearest = distance_transform_edt(~known, return_indices=True)
    missed = (field - smooth)[nearest[0], nearest[1]]
    fade = np.exp(-0.5 * (away / (2.0 * step)) ** 2) * (away < 8.0 * step)
    result = smooth + fade[..., None] * missed
    result[[0, -1]] = 0.0
    result[:, [0, -1]] = 0.0
    return np.where(known[..., None], field, result).astype(np.float32)


def resample(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    """(h, w, C) float32: `image` (h, w, C) at `field` (h, w, 2) px from each pixel; a copy where that is nowhere."""
    height, width = field.shape[:2]
    x = np.arange(width, dtype=np.float32) + field[..., 0].astype(np.float32)
    y = np.arange(height, dtype=np.float32)[:, None] + field[..., 1].astype(np.float32)
    source = np.ascontiguousarray(image, np.float32)
    moved = cv2.remap(source, x, y, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
    still = (np.abs(field) < STILL_PX).all(-1)
    low, high = source.min(), source.max()
    result = moved.clip(low, high)
    result[still] = source[still]
    return np.asarray(result)


def resample_nearest(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    """(h, w): a label image (h, w) at `field` (h, w, 2) px from each pixel."""
    height, width = field.shape[:2]
    x = np.rint(np.arange(width) + field[..., 0]).astype(int).clip(0, width - 1)
    y = np.rint(np.arange(height)[:, None] + field[..., 1]).astype(int).clip(0, height - 1)
    return np.asarray(image[y, x])


def _blocks(values: np.ndarray, rows: int, columns: int, step: int) -> np.ndarray:
    """(rows, columns): sums of (h, w) over squares of `step` px."""
    padded = np.zeros((rows * step, columns * step))
    padded[: values.shape[0], : values.shape[1]] = values
    return np.asarray(padded.reshape(rows, step, columns, step).sum((1, 3)))


def _enlarged(coarse: np.ndarray, height: int, width: int, step: int) -> np.ndarray:
    """(height, width, C): cells (rows, columns, C) of `step` px, bilinear between their centres."""
    x = ((np.arange(width, dtype=np.float32) + 0.5) / step - 0.5)[None].repeat(height, 0)
    y = ((np.arange(height, dtype=np.float32) + 0.5) / step - 0.5)[:, None].repeat(width, 1)
    return np.asarray(cv2.remap(coarse.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def harmonic(values: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """(h, w, C): `values` where `fixed`, elsewhere the mean of the four neighbours."""
    height, width = fixed.shape
    free = np.flatnonzero(~fixed.ravel())
    if not len(free):
        return values
    index = np.full(height * width, -1)
    index[free] = np.arange(len(free))
    row, column = np.divmod(free, width)
    flat = values.reshape(height * width, -1).astype(np.float64)
    right = np.zeros((len(free), flat.shape[1]))
    degree, i, j = np.zeros(len(free)), [], []
    for down, across in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        r, c = row + down, column + across
        inside = np.flatnonzero((r >= 0) & (r < height) & (c >= 0) & (c < width))
        other = r[inside] * width + c[inside]
        degree[inside] += 1.0
        unknown = index[other] >= 0
        i.append(inside[unknown])
        j.append(index[other[unknown]])
        right[inside[~unknown]] += flat[other[~unknown]]
    rows, columns = np.concatenate(i), np.concatenate(j)
    links = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(free), len(free)))
    flat[free] = splu((sparse.diags(degree) - links).tocsc()).solve(right)
    return np.asarray(flat.reshape(values.shape))
