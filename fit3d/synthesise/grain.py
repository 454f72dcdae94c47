"""Grain of skin: what is fine in a piece of a photo, made anew without its places."""

from __future__ import annotations

import cv2
import numpy as np

MOST = 3.0
"""Details beyond so many standard deviations are hairs and edges, and left out."""


def grain(patch: np.ndarray, coarsest_px: float, shape: tuple[int, int], seed: int) -> np.ndarray:
    """(h, w, 3) float32, mean 0: noise of the spectrum of the details in a piece of skin.

    Random phases with the moduli of the piece's Fourier transform, the same for its three channels, keep its
    covariances (Galerne, Gousseau, Morel, "Random phase textures: theory and synthesis", 2011); whatever stood where in
    the piece is not to be seen.

    Args:
        patch: (m, n, 3) float32, any values; zeros are returned where it is smaller than 8 px.
        coarsest_px: standard deviation of the blur that takes away what is too coarse for grain.
        shape: rows and columns of the noise; it repeats beyond the size of the patch.
        seed: of the phases.
    """
    height, width = patch.shape[:2]
    if min(height, width) < 8:
        return np.zeros((*shape, 3), np.float32)
    detail = patch - cv2.GaussianBlur(patch, (0, 0), coarsest_px)
    usual = 1.4826 * float(np.median(np.abs(detail))) + 1e-6
    window = np.hanning(height + 2)[1:-1, None, None] * np.hanning(width + 2)[None, 1:-1, None]
    detail = np.where(np.abs(detail).max(-1, keepdims=True) < MOST * usual, detail, 0.0) * window
    # faded out towards the edges, for a transform takes them for neighbours
    detail = (detail - detail.mean((0, 1))) / np.sqrt((window**2).mean())
    # the spectrum of noise has the phases of real noise, so that its transform is real
    noise = np.fft.rfft2(np.random.default_rng([seed, height, width]).standard_normal((height, width)))
    phase = noise / np.maximum(np.abs(noise), 1e-12)
    texture = np.fft.irfft2(np.fft.rfft2(detail, axes=(0, 1)) * phase[..., None], s=(height, width), axes=(0, 1))
    rows, columns = (np.arange(size) % own for size, own in zip(shape, (height, width), strict=True))
    return np.asarray(texture[rows[:, None], columns[None]], np.float32)
