"""What stands before the face in the photo (hands, hats, broad frames): it stays where it is while the face moves."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fit3d.labels import OTHER
from fit3d.synthesise.picture import disc, membrane

THIN = 0.015
"""Of what parsers call 'other', less than this across, heights of the face, is the rim of the face's own outline."""

DEEP = 0.08
"""What reaches no further than this into the face is the shade along its outline."""


@dataclass(frozen=True)
class Cover:
    """What stands before the face in a window."""

    mask: np.ndarray
    """(h, w) bool."""
    matte: np.ndarray
    """(h, w, 1) float32 in [0, 1]: the same with soft edges."""
    face: np.ndarray
    """(h, w, 3) float32 sRGB 0 ... 255: the photo without it, its place filled from around."""

    def over(self, picture: np.ndarray, photo: np.ndarray) -> np.ndarray:
        """(h, w, 3) float32: the photo's cover over the edited face."""
        return np.asarray(picture + self.matte * (photo - picture))


def find_cover(photo: np.ndarray, parts: np.ndarray, face: np.ndarray, height: float) -> Cover | None:
    """What covers the fitted face, None where nothing does.

    Args:
        photo: (h, w, 3) float32 sRGB 0 ... 255.
        parts: (h, w) uint8 observed labels.
        face: (h, w) bool: where the fitted face is.
        height: of the face, px.
    """
    radius = THIN * height
    mask = cv2.morphologyEx(((parts == OTHER) & face).astype(np.uint8), cv2.MORPH_OPEN, disc(radius))
    inward = cv2.distanceTransform(face.astype(np.uint8), cv2.DIST_L2, 5)
    count, pieces = cv2.connectedComponents(mask, connectivity=8)
    for piece in range(1, count):
        if inward[pieces == piece].max() < DEEP * height:
            mask[pieces == piece] = 0
    if not mask.any():
        return None
    wide = cv2.dilate(mask, disc(0.5 * radius))
    matte = cv2.GaussianBlur(wide.astype(np.float32), (0, 0), max(0.3 * radius, 0.5))[..., None]
    hidden = cv2.dilate(mask, disc(1.5 * radius)) > 0
    around = membrane(photo, hidden, height / 4.0)
    blend = cv2.GaussianBlur(hidden.astype(np.float32), (0, 0), max(0.3 * radius, 0.5))[..., None]
    return Cover(mask > 0, matte, (photo + blend * (around - photo)).astype(np.float32))
