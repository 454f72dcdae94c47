"""Which landmarks are mirror images of each other."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from fit3d.annotate.mesh import places_of
from fit3d.landmarks import LandmarkLayout
from fit3d.morphable.model import MorphableModel

TWIN_M = 0.003
"""Two landmarks further from being mirror images are none."""


def _mirrored_mediapipe() -> np.ndarray:
    """(478,): both halves are numbered in the same order, the right half first."""
    midline = [*range(3), *range(4, 7), *range(8, 20), 94, 151, 152, 164, 168, 175, 195, 197, 199, 200]
    twin = np.arange(478)
    right = np.setdiff1d(np.arange(248), midline)
    twin[right], twin[248:468] = np.arange(248, 468), right
    twin[468:] = (473, 476, 475, 474, 477, 468, 471, 470, 469, 472)
    return twin


MIRRORED_LANDMARKS: dict[LandmarkLayout, np.ndarray] = {
    "ibug68": np.array(
        [
            *(*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31),
            *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
            *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
        ]
    ),
    "mediapipe478": _mirrored_mediapipe(),
}
"""Which landmark each becomes in a mirror."""


def mirrored_landmarks(source: MorphableModel, layout: LandmarkLayout) -> np.ndarray:
    """(N,) which landmark of a layout each becomes in a mirror, by their places on `source`; -1 for none."""
    place = places_of(source.landmarks[layout].points, source.mean.double().numpy())
    apart = np.linalg.norm(place[:, None] - place[None] * [-1.0, 1.0, 1.0], axis=2)
    every, twin = linear_sum_assignment(np.minimum(apart, TWIN_M) ** 2)
    return np.where(apart[every, twin] < TWIN_M, twin, -1)
