"""The nearest point of a triangle mesh: exact, for very many points at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from trimesh.triangles import closest_point

CANDIDATES = 8
"""Triangles, by nearest centroid, that are looked at first."""
MORE = 4
"""By so much their number grows for points whose nearest triangle is not certain to be among them."""
COARSER = 4.0
"""Triangles are sorted by size, each class at most so much larger than the one before: a large one is near to a point
whose centroid is far."""
CHUNK = 65536
"""Points searched for at a time."""


@dataclass(frozen=True)
class _SizeClass:
    """Triangles of similar size."""

    ids: np.ndarray
    """(T,) int64."""
    tree: cKDTree
    """Of their centroids."""
    radius: float
    """No point of a triangle is farther from its centroid."""


@dataclass(frozen=True)
class _Best:
    """What was found so far for points (N, 3)."""

    distance: np.ndarray
    """(N,)."""
    point: np.ndarray
    """(N, 3)."""
    triangle: np.ndarray
    """(N,) int64."""


class Surface:
    """Triangles among which the one nearest to a point is sought.

    A triangle whose centroid is at distance d, and all of which lies within r of it, has no point nearer than d - r. So
    the search ends for a point when the next centroid is farther than the best distance plus the largest r.
    """

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray) -> None:
        """`vertices` (V, 3), `triangles` (T, 3) vertex ids; triangles without area do not count."""
        corners = np.asarray(vertices, np.float64)[triangles]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        self.corners = corners[area > 0.0]
        """(T, 3, 3)."""
        if not len(self.corners):
            raise ValueError("a surface needs a triangle")
        centroid = self.corners.mean(1)
        self._radius = np.linalg.norm(self.corners - centroid[:, None], axis=2).max(1)
        size = np.floor(np.log(self._radius / self._radius.min()) / np.log(COARSER)).astype(int)
        self._classes = [
            _SizeClass(ids, cKDTree(centroid[ids]), float(self._radius[ids].max()))
            for ids in (np.flatnonzero(size == each) for each in np.unique(size))
        ]

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """(N, 3): the point of the surface nearest to each of `points` (N, 3)."""
        return self.find(points)[0]

    def find(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`nearest` and for each of these points the triangle (N,) that it is of, an index into `corners`."""
        points = np.asarray(points, np.float64)
        found = [self._find(points[first : first + CHUNK]) for first in range(0, max(len(points), 1), CHUNK)]
        nearest, triangles = zip(*found, strict=True)
        return np.concatenate(nearest), np.concatenate(triangles)

    def _find(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        best = _Best(np.full(len(points), np.inf), np.zeros_like(points), np.zeros(len(points), np.int64))
        for group in self._classes:
            rows, seen, count = np.arange(len(points)), 0, min(CANDIDATES, len(group.ids))
            while len(rows):
                far, which = group.tree.query(points[rows], k=np.arange(seen + 1, count + 1))
                for distance, candidate in zip(far.T, group.ids[which].T, strict=True):
                    may = distance - self._radius[candidate] < best.distance[rows]
                    self._improve(points, rows[may], candidate[may], best)
                if count == len(group.ids):
                    break
                rows = rows[far[:, -1] - group.radius < best.distance[rows]]
                seen, count = count, min(MORE * count, len(group.ids))
        return best.point, best.triangle

    def _improve(self, points: np.ndarray, rows: np.ndarray, triangles: np.ndarray, best: _Best) -> None:
        """Puts into `best` what one triangle for each of the `rows` gives, where it is nearer."""
        if not len(rows):
            return
        there = closest_point(self.corners[triangles], points[rows])
        distance = np.linalg.norm(there - points[rows], axis=1)
        nearer = distance < best.distance[rows]
        changed = rows[nearer]
        best.distance[changed], best.point[changed] = distance[nearer], there[nearer]
        best.triangle[changed] = triangles[nearer]
