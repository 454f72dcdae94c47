"""A mesh against any scan of the true face: aligned, then the distance from each point of the scan to the mesh.

Face and distance are those of the NoW benchmark (Sanyal et al. 2019): points of the scan within a sphere around the
face, each to the nearest point of the mesh. There the mesh is aligned with a scale, from seven landmarks and then so
that the distances become smallest; with that the size of the head does not count. A rigid alignment lets it count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fit3d.errors import UsageError
from fit3d.evaluate.geometry import Similarity
from fit3d.evaluate.mesh_file import Mesh
from fit3d.evaluate.realy.surface import Surface

Alignment = Literal["similarity", "rigid"]
ScanUnit = Literal["mm", "cm", "m"]
MM_PER_UNIT: dict[ScanUnit, float] = {"mm": 1.0, "cm": 10.0, "m": 1000.0}

FACE_SHARE, FACE_UP = 1.4, 0.3
"""Radius of the face over the mean of the distance between the outer corners of the eyes and the length of the nose;
its middle on the way from the base of the nose to midway between the inner corners of the eyes."""
_FACE_LANDMARKS = (33, 36, 39, 42, 45)
STEPS, SMALLEST_STEP = 60, 1e-5
"""The alignment ends with a step shorter than this, mm or radians or a share of the size."""
MOST_POINTS = 10_000
"""Of the scan, evenly from its list, that the alignment looks at; all are measured."""
_FLAT = 1e-3
"""Landmarks on one line: their second singular value as a share of the first."""


@dataclass(frozen=True)
class MeasuredScan:
    """Distances of the face of a scan to a mesh."""

    points: np.ndarray
    """(N, 3) the face's vertices, mm, the scan's axes."""
    triangles: np.ndarray
    """(T, 3) of the face."""
    distances_mm: np.ndarray
    """(N,)."""
    motion: Similarity
    """Of the mesh, mm, onto the scan, mm."""

    def figures(self) -> dict[str, float]:
        """What is reported."""
        d = self.distances_mm
        return {
            "mean_mm": float(d.mean()),
            "median_mm": float(np.median(d)),
            "rms_mm": float(np.sqrt((d**2).mean())),
            "p90_mm": float(np.quantile(d, 0.9)),
            "max_mm": float(d.max()),
            "points": len(d),
            "scale": self.motion.scale,
        }


def measure_scan(
    mesh: Mesh,
    mesh_landmarks: dict[int, np.ndarray],
    scan: Mesh,
    scan_landmarks: dict[int, np.ndarray],
    alignment: Alignment,
) -> MeasuredScan:
    """Distances from the face of `scan` to `mesh`, all in millimetres; landmarks by iBUG's numbers.

    Raises:
        UsageError: fewer than three landmarks in common, all on one line, or none of the scan in the face.
    """
    common = sorted(mesh_landmarks.keys() & scan_landmarks.keys())
    source = np.array([mesh_landmarks[each] for each in common])
    target = np.array([scan_landmarks[each] for each in common])
    if len(common) < 3 or min(map(_flatness, (source, target))) < _FLAT:
        raise UsageError(
            f"landmarks {common} are in both files; an alignment needs three or more that are not on one line"
        )
    with_scale = alignment == "similarity"
    start = Similarity.best(torch.from_numpy(source), torch.from_numpy(target), with_scale)
    points, triangles = _face(scan, scan_landmarks)
    surface = Surface(mesh.vertices, mesh.triangles)
    some = torch.from_numpy(points[:: max(1, -(-len(points) // MOST_POINTS))])
    motion = _refined(surface, some, start, with_scale)
    nearest = motion.of(torch.from_numpy(surface.nearest(motion.back(torch.from_numpy(points)).numpy()))).numpy()
    return MeasuredScan(points, triangles, np.linalg.norm(nearest - points, axis=1), motion)


def _refined(surface: Surface, points: Tensor, motion: Similarity, with_scale: bool) -> Similarity:
    """The motion of the surface for which it is nearest to the points (N, 3): Gauss-Newton steps on the distances along
    the normals of the nearest triangles (Chen and Medioni 1992)."""
    corners = torch.from_numpy(surface.corners)
    for _ in range(STEPS):
        nearest, ids = surface.find(motion.back(points).numpy())
        a, b, c = corners[torch.from_numpy(ids)].unbind(1)
        normals = normalize(torch.linalg.cross(b - a, c - a), dim=1)
        motion, step = motion.stepped(torch.from_numpy(nearest), normals, points, with_scale)
        if step < SMALLEST_STEP:
            break
    return motion


def _face(scan: Mesh, landmarks: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N, 3) of the scan that belong to the face, and the triangles (T, 3) between them."""
    missing = [each for each in _FACE_LANDMARKS if each not in landmarks]
    if missing:
        raise UsageError(f"the scan's landmarks lack {missing} of {list(_FACE_LANDMARKS)}, by which its face is found")
    base = landmarks[33]
    bridge = (landmarks[39] + landmarks[42]) / 2.0
    across, along = np.linalg.norm(landmarks[36] - landmarks[45]), np.linalg.norm(bridge - base)
    inside = (
        np.linalg.norm(scan.vertices - (base + FACE_UP * (bridge - base)), axis=1)
        <= FACE_SHARE * (across + along) / 2.0
    )
    used = np.zeros(len(inside), bool)
    used[scan.triangles] = True
    inside &= used
    if not inside.any():
        raise UsageError("no point of the scan lies near its landmarks; are both in one unit and frame?")
    new = np.cumsum(inside) - 1
    return scan.vertices[inside], new[scan.triangles[inside[scan.triangles].all(1)]]


def _flatness(points: np.ndarray) -> float:
    """Second over first singular value of points (N, 3) about their mean: 0 where they are on one line."""
    values = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return float(values[1] / values[0]) if len(values) > 1 and values[0] > 0.0 else 0.0
