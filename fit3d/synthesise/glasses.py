"""Whether a face wears glasses whose frame parsers do not tell: it would bend with the brows."""

from __future__ import annotations

import numpy as np

from fit3d.synthesise.open_mouth import sample

STEP = 0.35
"""Step of brightness across the bridge of the nose, shares of the skin's, from which on it is a frame; of 18 photos the
three with glasses have 0.45 to 0.70, the others up to 0.13."""
LEAST_PX = 12.0
"""Eyes nearer to each other than this are too small to tell."""


def wears_glasses(photo: np.ndarray, right: np.ndarray, left: np.ndarray) -> bool:
    """Look for the bridge of a frame, a line across the nose between the inner corners of the eyes.

    Args:
        photo: (h, w, 3) sRGB 0 ... 255.
        right: (2,) px: inner corner of the person's right eye.
        left: (2,) px: of the left.
    """
    apart = float(np.linalg.norm(left - right))
    if apart < LEAST_PX:
        return False
    along = (left - right) / apart
    down = np.array([-along[1], along[0]])
    across, height = np.linspace(0.3, 0.7, 13) * apart, np.linspace(-0.45, 0.2, 33) * apart
    points = right + across[None, :, None] * along + height[:, None, None] * down
    profile = np.median(sample(photo, points).mean(-1), axis=1)
    return bool(np.abs(profile[3:] - profile[:-3]).max() > STEP * max(float(np.median(profile)), 1.0))
