"""The steps of REALY's protocol for one predicted mesh and one scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from fit3d.evaluate.realy.align import Motion, global_alignment, regional_alignment
from fit3d.evaluate.realy.keypoints import BENDING_KEYPOINTS, GLOBAL_KEYPOINTS, REGIONS, RIGID_KEYPOINTS, Region
from fit3d.evaluate.realy.nonrigid import Pull, deformed_onto
from fit3d.evaluate.realy.surface import Surface

CHEEK_KEYPOINT_SHARE = 0.25
"""Keypoints count as much as the points of the region in the rigid alignment, those of the cheek a quarter as much."""


@dataclass(frozen=True)
class ScanRegion:
    """A region of a scan, in the scan's own unit."""

    vertices: np.ndarray
    """(N, 3)."""
    triangles: np.ndarray
    """(T, 3) int64."""


@dataclass(frozen=True)
class Scan:
    """One subject of the benchmark."""

    keypoints: np.ndarray
    """(85, 3)."""
    regions: dict[Region, ScanRegion]
    mm_per_unit: float


@dataclass(frozen=True)
class Prediction:
    """A predicted mesh, in any unit and pose."""

    vertices: np.ndarray
    """(V, 3)."""
    triangles: np.ndarray
    """(T, 3) int64."""
    keypoints: np.ndarray
    """(85, 3)."""
    bending_triangles: np.ndarray | None = None
    """(T', 3): where not all triangles may be met after the rigid alignment, those that may."""


@dataclass(frozen=True)
class RegionScore:
    """How far a prediction is from one region."""

    error_mm: float
    """Mean of `distances_mm`."""
    distances_mm: np.ndarray
    """(M,) of the region's merged vertices, see `merged`."""


def score(prediction: Prediction, scan: Scan) -> dict[Region, RegionScore]:
    """The error of each region. Raises ValueError where the keypoints cannot be aligned."""
    chosen = list(GLOBAL_KEYPOINTS)
    start = global_alignment(prediction.keypoints[chosen], scan.keypoints[chosen])
    vertices, keypoints = start.of(prediction.vertices), start.of(prediction.keypoints)
    surface = Surface(vertices, prediction.triangles)
    bending = surface if prediction.bending_triangles is None else Surface(vertices, prediction.bending_triangles)
    return {name: _score_region(surface, bending, keypoints, scan, name) for name in REGIONS}


def _score_region(surface: Surface, bending: Surface, keypoints: np.ndarray, scan: Scan, name: Region) -> RegionScore:
    region, chosen = scan.regions[name], list(RIGID_KEYPOINTS[name])
    share = CHEEK_KEYPOINT_SHARE if name == "cheek" else 1.0
    repeat = int(len(region.vertices) / len(chosen) * share)
    motion = regional_alignment(surface, region.vertices, keypoints[chosen], scan.keypoints[chosen], repeat)
    region = merged(region)
    targets = _on(bending, motion, region.vertices)
    held = list(BENDING_KEYPOINTS[name])
    pull = None
    if held:
        _, ids = cKDTree(region.vertices).query(scan.keypoints[held])
        pull = Pull(ids, motion.of(keypoints[held]))
    bent = deformed_onto(region.vertices, region.triangles, targets, pull)
    distances = np.linalg.norm(_on(bending, motion, bent) - region.vertices, axis=1) * scan.mm_per_unit
    return RegionScore(float(distances.mean()), distances)


def _on(surface: Surface, motion: Motion, points: np.ndarray) -> np.ndarray:
    """The points nearest to `points` (N, 3) of a surface that was moved: it is the points that are moved back."""
    return motion.of(surface.nearest(motion.back(points)))


def merged(region: ScanRegion) -> ScanRegion:
    """The region with vertices at the same place made one, and without those that no triangle has.

    REALY bends and measures the region so; scans that come as separate triangles hold together only then.
    """
    used = np.unique(region.triangles)
    vertices, where = np.unique(region.vertices[used], axis=0, return_inverse=True)
    new = np.zeros(len(region.vertices), np.int64)
    new[used] = where.ravel()
    return ScanRegion(vertices, new[region.triangles])
