"""The face cut out of its photo at a fixed size and in Lab, so that lengths and colour differences mean the same in
every photo."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fit3d.observe.contours import FaceOutlines
from fit3d.photo import Photo

UNIT_PX = 256.0
"""The face's unit, from the top of what is measured to the chin, in px of a view."""
MARGIN = 0.55
"""What a view shows around the outlines, units: the hair beside the face and above the forehead."""
LARGEST_PX = 1024
"""Longer side of a view at most; of use only where landmarks are far from any face's proportions."""


@dataclass(frozen=True)
class FaceView:
    """An upright rectangle of a photo, scaled."""

    lab: np.ndarray
    """(h, w, 3) float32: L* from 0 to 100, a*, b*."""
    left: int
    top: int
    """Its first column and row in the photo."""
    width: int
    height: int
    """Its size in the photo, px."""

    @property
    def offset(self) -> np.ndarray:
        """(2,) photo px: `view_px = (photo_px - offset) * scale`, pixel centres at halves in both."""
        return np.array([self.left, self.top], dtype=np.float64)

    @property
    def scale(self) -> np.ndarray:
        """(2,) view px in a photo px."""
        return np.array([self.lab.shape[1] / self.width, self.lab.shape[0] / self.height])

    def halved(self) -> FaceView:
        """The same rectangle at half the resolution."""
        height, width = (max(length // 2, 1) for length in self.lab.shape[:2])
        small = cv2.resize(self.lab, (width, height), interpolation=cv2.INTER_AREA)
        return FaceView(small, self.left, self.top, self.width, self.height)


def view_face(photo: Photo, outlines: FaceOutlines) -> FaceView | None:
    """The view of the face with these outlines, photo px; None where they have no size or lie outside the photo."""
    curves = [curve for pair in (*outlines.eyes, *outlines.brows) for curve in pair]
    points = np.concatenate([*curves, *outlines.nose, *outlines.lips, *outlines.skin])
    points = points[np.isfinite(points).all(axis=1)]
    unit = outlines.unit_px
    if not len(points) or not unit > 0.0:
        return None
    hw = photo.pixels.shape[:2]
    low = np.clip(np.floor(points.min(axis=0) - MARGIN * unit), 0, hw[::-1]).astype(int)
    high = np.clip(np.ceil(points.max(axis=0) + MARGIN * unit), 0, hw[::-1]).astype(int)
    if (high <= low).any():
        return None
    (left, top), (width, height) = low.tolist(), (high - low).tolist()
    scale = min(UNIT_PX / unit, LARGEST_PX / max(width, height))
    size = tuple(max(round(scale * length), 1) for length in (width, height))
    cut = photo.pixels[top : top + height, left : left + width]
    cut = cv2.resize(cut, size, interpolation=cv2.INTER_AREA if scale < 1.0 else cv2.INTER_CUBIC)
    lab = cv2.cvtColor(cut.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)
    return FaceView(lab, left, top, width, height)


def sample(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Bilinear values (..., C) of an image (h, w, C) float32 at points (..., 2), px; beyond it as at its border."""
    x, y = (points[..., axis].astype(np.float32) - 0.5 for axis in (0, 1))
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
