"""What a look at the photo yields, and the interface of the backends that look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fit3d.landmarks import LandmarkLayout
from fit3d.photo import Photo


@dataclass(frozen=True)
class Backend:
    """Which detector or parser spoke."""

    name: str
    version: str


@dataclass(frozen=True)
class Landmarks:
    """Landmarks of one face."""

    layout: LandmarkLayout
    """Which named points, see `fit3d.landmarks`."""
    points_px: np.ndarray
    """(N, 2) float64, photo px; NaN marks a missing point."""
    backend: Backend

    @property
    def box_px(self) -> tuple[float, float, float, float]:
        """Tight box (left, top, right, bottom), photo px."""
        low, high = np.nanmin(self.points_px, axis=0), np.nanmax(self.points_px, axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


@dataclass(frozen=True)
class Observation:
    """All that the fit knows of one face of one photo."""

    landmarks: Landmarks
    parts: np.ndarray
    """(H, W) uint8 label image at the photo's size, ids of `fit3d.labels`."""
    parser: Backend
    warnings: tuple[str, ...] = ()


class LandmarkDetector(Protocol):
    """Finds all faces of a photo. One file per backend, imported only when asked for by name."""

    backend: Backend

    def detect(self, photo: Photo) -> list[Landmarks]:
        """Landmarks of each face, largest face first; an empty list where there is none."""
        ...


class FaceParser(Protocol):
    """Labels the pixels of one face."""

    backend: Backend

    def parse(self, photo: Photo, landmarks: Landmarks) -> np.ndarray:
        """(H, W) uint8 label image of the face that `landmarks` outlines."""
        ...
