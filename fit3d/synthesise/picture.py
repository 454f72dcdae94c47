"""Masks and colours within a picture."""

from __future__ import annotations

import cv2
import numpy as np

from fit3d.synthesise.warp import harmonic


def disc(radius: float) -> np.ndarray:
    """Structuring element of this radius, px."""
    size = 2 * max(round(radius), 1) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))


def square(radius: float) -> np.ndarray:
    """Structuring element of half this side, px: morphology with it takes the same time whatever its size."""
    size = 2 * max(round(radius), 1) + 1
    return np.ones((size, size), np.uint8)


def polygon(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) float32: share of each pixel within the ring of points (N, 2) px."""
    mask = np.zeros(shape, np.uint8)
    # OpenCV has pixel centres at whole numbers, and takes fixed-point coordinates
    points = np.rint((ring - 0.5) * 16.0).astype(np.int32)
    cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, 4)
    return np.asarray(mask, np.float32) / 255.0


def mapped(mask: np.ndarray, field: np.ndarray) -> np.ndarray:
    """(h, w) float32: a mask (h, w) at `field` (h, w, 2) px from each pixel."""
    h, w = mask.shape
    x = np.arange(w, dtype=np.float32)[None] + field[..., 0].astype(np.float32)
    y = np.arange(h, dtype=np.float32)[:, None] + field[..., 1].astype(np.float32)
    return np.asarray(cv2.remap(mask.astype(np.float32), x, y, cv2.INTER_LINEAR))


def membrane(picture: np.ndarray, unknown: np.ndarray, width: float) -> np.ndarray:
    """(h, w, C) float32: the colours of `picture` around `unknown` (h, w) bool continued harmonically into it."""
    step = max(1, int(width / 40.0))
    h, w = unknown.shape
    small = (max(w // step, 2), max(h // step, 2))
    known = (~unknown).astype(np.float32)
    share = cv2.resize(known, small, interpolation=cv2.INTER_AREA)
    total = cv2.resize(picture * known[..., None], small, interpolation=cv2.INTER_AREA)
    sigma = max(0.02 * width / step, 0.5)
    share, total = cv2.GaussianBlur(share, (0, 0), sigma), cv2.GaussianBlur(total, (0, 0), sigma)
    total = total.reshape(*share.shape, -1)
    fixed = cv2.resize(unknown.astype(np.float32), small, interpolation=cv2.INTER_AREA) < 0.5
    if not fixed.any():
        return picture.reshape(h, w, -1)
    values = total / np.maximum(share, 1e-3)[..., None]
    filled = harmonic(np.where(fixed[..., None], values, 0.0), fixed).astype(np.float32)
    return np.asarray(cv2.resize(filled, (w, h), interpolation=cv2.INTER_CUBIC).reshape(h, w, -1))
