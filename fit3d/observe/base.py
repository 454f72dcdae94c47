"""What a look at the photo yields, and the interface of the backends that look."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

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
    confidence: np.ndarray | None = None
    """(N,) float64 from 0, hidden or guessed, which has no say in the fit, to 1; None where the backend tells none."""

    @property
    def trust(self) -> np.ndarray:
        """(N,) float64: the confidence, 1 where the backend tells none, 0 where a point is missing."""
        told = np.ones(len(self.points_px)) if self.confidence is None else self.confidence
        return np.where(np.isfinite(self.points_px).all(1), told, 0.0)

    @property
    def box_px(self) -> tuple[float, float, float, float]:
        """Tight box (left, top, right, bottom), photo px."""
        low, high = np.nanmin(self.points_px, axis=0), np.nanmax(self.points_px, axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


@dataclass(frozen=True)
class Parsing:
    """The labelled pixels of one face."""

    labels: np.ndarray
    """(H, W) uint8 label image at the photo's size, ids of `fit3d.labels`."""
    confidence: np.ndarray | None = None
    """(12,) float64 by label id, from 0, which has no say in the fit, to 1; None where the parser tells none."""


@dataclass(frozen=True)
class Observation:
    """All that the fit knows of one face of one photo."""

    landmarks: Landmarks
    parts: np.ndarray
    """(H, W) uint8 label image at the photo's size, ids of `fit3d.labels`."""
    parser: Backend
    part_confidence: np.ndarray | None = None
    """(12,) float64 by label id, see `Parsing`."""
    warnings: tuple[str, ...] = ()


class LandmarkDetector(ABC):
    """Finds all faces of a photo. One file per backend, imported only when asked for by name."""

    backend: Backend

    @abstractmethod
    def detect(self, photo: Photo) -> list[Landmarks]:
        """Landmarks of each face, largest face first; an empty list where there is none."""

    def detect_batch(self, photos: Sequence[Photo]) -> list[list[Landmarks]]:
        """`detect` of each photo; what it gives for one does not depend on the others."""
        return [self.detect(photo) for photo in photos]


class FaceParser(ABC):
    """Labels the pixels of one face."""

    backend: Backend

    @abstractmethod
    def parse(self, photo: Photo, landmarks: Landmarks) -> Parsing:
        """Labels of the face that `landmarks` outlines."""

    def parse_batch(self, photos: Sequence[Photo], landmarks: Sequence[Landmarks]) -> list[Parsing]:
        """`parse` of each face, given with its photo; what it gives for one does not depend on the others."""
        return [self.parse(photo, face) for photo, face in zip(photos, landmarks, strict=True)]
