"""The light of a photo, as far as it varies slowly with direction, and its removal.

Nine spherical harmonics describe the light that a matt surface reflects to within some per cent, whatever the lamps
(Ramamoorthi and Hanrahan, "An efficient representation for irradiance environment maps", SIGGRAPH 2001). Skin of one
person is taken for one colour on the whole; what differs with the normal is light, what differs otherwise is skin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ORDER_PULL = (0.0, 0.01, 0.03)
"""Ridge on the harmonics of order 0, 1 and 2, as a share of the samples: one photo shows half of all normals, and
what it does not show must not run off."""
OUTLIER = 0.25
"""Relative error at which a sample's pull fades (Geman-McClure scale): brows, beard, glints and cast shadows."""
ROUNDS = 8
"""Of re-weighted least squares."""
LEAST_SHADING, MOST_SHADING = 0.25, 2.5
"""Shading is clipped to this before anything is divided by it."""
FEWEST_SAMPLES = 200


@dataclass(frozen=True)
class Light:
    """How brightly a surface of the skin's mean colour appears, by its normal."""

    coefficients: np.ndarray
    """(9, 3) float64 of `harmonics`, for linear red, green and blue; the shading of all seen skin is 1 on average."""
    darkest: np.ndarray
    """(3,) the least shading of any skin that was seen."""
    brightest: np.ndarray
    """(3,) the most."""

    def shading(self, normals: np.ndarray) -> np.ndarray:
        """(N, 3) linear light on unit `normals` (N, 3), world; 1 is the average over the skin seen.

        Never beyond what was seen: harmonics may swing anywhere on the side that the photo does not show.
        """
        return np.asarray((harmonics(normals) @ self.coefficients).clip(self.darkest, self.brightest))

    def removed(self, rgb: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """(N, 3) float32 sRGB in [0, 1]: colours `rgb` (N, 3), sRGB, as they were in even light."""
        return even_out(rgb, self.shading(normals))


def even_out(rgb: np.ndarray, shading: np.ndarray) -> np.ndarray:
    """(N, 3) float32 sRGB in [0, 1]: colours `rgb` (N, 3) under linear `shading` (N, 3) as they were in even light."""
    return np.asarray(to_srgb(to_linear(rgb) / shading), np.float32)


def relight(rgb: np.ndarray, shading: np.ndarray) -> np.ndarray:
    """(N, 3) float32 sRGB in [0, 1]: the inverse of `even_out`, but for what is clipped."""
    return np.asarray(to_srgb(to_linear(rgb.clip(0.0, 1.0)) * shading), np.float32)


def harmonics(normals: np.ndarray) -> np.ndarray:
    """(N, 9) real spherical harmonics of order 0 to 2, without their constant factors, of unit `normals` (N, 3)."""
    x, y, z = np.asarray(normals, np.float64).T
    return np.stack([np.ones_like(x), x, y, z, x * y, y * z, z * x, x * x - y * y, 3.0 * z * z - 1.0], 1)


def estimate_light(rgb: np.ndarray, normals: np.ndarray, weight: np.ndarray) -> Light | None:
    """The light on skin of one colour.

    Minimises, for each channel, sum_i w_i rho(E(n_i) / I_i - 1) + ridge, with E the harmonics and I the linear colour.

    Args:
        rgb: (N, 3) sRGB in [0, 1] of skin.
        normals: (N, 3) unit, world.
        weight: (N,) trust in each sample.

    Returns:
        None where too little skin is seen to tell.
    """
    some = np.flatnonzero(weight > 0.0)
    if len(some) < FEWEST_SAMPLES:
        return None
    colour, basis, trust = (
        to_linear(np.asarray(rgb[some], np.float64)),
        harmonics(normals[some]),
        weight[some].astype(np.float64),
    )
    mean = (trust[:, None] * colour).sum(0) / trust.sum()
    seen = colour / np.maximum(mean, 1e-4)
    ridge = np.repeat(ORDER_PULL, (1, 3, 5)) * trust.sum()
    columns, darkest, brightest = [], [], []
    sure = trust >= 0.5 * trust.max()
    for channel in seen.T:
        solution = np.zeros(9)
        solution[0] = 1.0
        for _ in range(ROUNDS):
            # relative to the shading: a shadow's error counts as much as a highlight's
            expected = np.maximum(basis @ solution, 0.1)
            error = (channel / expected - 1.0) ** 2
            robust = trust / expected**2 * (OUTLIER**2 / (error + OUTLIER**2)) ** 2
            weighted = basis * robust[:, None]
            solution = np.linalg.solve(weighted.T @ basis + np.diag(ridge), weighted.T @ channel)
        solution = solution / max(float((trust * (basis @ solution)).sum() / trust.sum()), 1e-3)
        columns.append(solution)
        shown = (basis[sure] @ solution).clip(LEAST_SHADING, MOST_SHADING)
        darkest.append(shown.min())
        brightest.append(shown.max())
    return Light(np.stack(columns, 1), np.array(darkest), np.array(brightest))


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """Linear light of sRGB values in [0, 1] (IEC 61966-2-1), in the floating type of `srgb`."""
    values = np.asarray(srgb)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """sRGB values in [0, 1] of linear light, in the floating type of `linear`."""
    values = np.asarray(linear).clip(0.0, 1.0)
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1.0 / 2.4) - 0.055)
