"""How sure each landmark of MediaPipe's face mesh is: what the head hides, what lies beyond the photo, what wavers.

A confidence is a ratio of variances, that of a usual landmark over its own, as the fit takes it: 1 for a landmark as
sure as those of a face seen from the front, 0 where the photo tells nothing of its place.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fit3d.landmarks import CONTOUR_LANDMARKS

USUAL_SPREAD, USUAL_CONTOUR_SPREAD = 0.005, 0.006
"""Root mean square distance, in heights of the face, of a landmark from its mean over the looks that are averaged, up
to which it is as sure as any. On most photos nine in ten landmarks stay below."""
SPREAD_ALIKE = 0.002
"""The same where the looks agree as well as they ever do: what they err by together. Errors grow as the root of the sum
of both squares: measured on heads of known shape, 1.1 % of the face's height at a spread of 0.2 %, 5.5 % at 1.25 %."""
EDGE_ON, IN_FULL_VIEW = 0.0, 0.3
"""Cosines of the angle between the surface and the line of sight. Below the first a landmark is turned away; above the
second its error depends on the angle no more."""
IN_FRONT = 0.01
"""A landmark that lies this far, in heights of the face, behind a part of the mesh that is turned away is hidden by a
nose, a brow or a cheek."""

_FOREHEAD, _CHIN = 10, 152
_IRISES = {468: (33, 133, 159, 145), 473: (362, 263, 386, 374)}
"""The first of five points of each iris, which the triangles leave out, and the lid points around it."""
_CONTOUR = list(CONTOUR_LANDMARKS["mediapipe478"])


def mesh_triangles(edges: Iterable[tuple[int, int]]) -> np.ndarray:
    """(T, 3) int64 landmark ids of the mesh's triangles, clockwise as seen, from their edges, three in a row of one."""
    return np.array(list(edges), dtype=np.int64).reshape(-1, 3, 2)[:, :, 0]


def landmark_confidence(looks: np.ndarray, triangles: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """(478,) from 0 to 1.

    Args:
        looks: (L, 478, 3) the points in each of several looks at one face, photo px; z grows away from the viewer.
        triangles: (T, 3) of `mesh_triangles`.
        hw: height and width of the photo.
    """
    points = looks.mean(axis=0)
    usual = np.full(len(points), USUAL_SPREAD)
    usual[_CONTOUR] = USUAL_CONTOUR_SPREAD
    steady = (usual**2 + SPREAD_ALIKE**2) / (np.square(spread_of_looks(looks)) + SPREAD_ALIKE**2)
    seen = seen_share(points / _height(points), triangles)
    seen[_CONTOUR] = 1.0  # both slide along the silhouette: the detector's contour and the model's
    within = ((points[:, :2] >= 0) & (points[:, :2] <= hw[::-1])).all(1)
    return np.asarray(np.minimum(steady, 1.0) * seen * within)


def spread_of_looks(looks: np.ndarray) -> np.ndarray:
    """(478,) root mean square distance of each point from its mean over looks (L, 478, 3), in heights of the face."""
    points = looks.mean(axis=0)
    return np.asarray(np.sqrt(np.square((looks - points)[..., :2]).sum(-1).mean(axis=0)) / _height(points))


def _height(points: np.ndarray) -> float:
    """From forehead to chin in the picture, px."""
    return max(float(np.linalg.norm((points[_CHIN] - points[_FOREHEAD])[:2])), 1e-9)


def seen_share(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(478,) from 0, hidden by the head itself, to 1; of points (478, 3) in heights of the face.

    A ray to a hidden point passes through a part of the surface that is turned away, so it is enough to look there.
    """
    corners = points[triangles]
    a, b, c = corners.swapaxes(0, 1)
    normals = np.cross(b - a, c - a)
    corner = triangles.ravel()
    x, y, z = (np.bincount(corner, each.repeat(3), minlength=len(points)) for each in normals.T)
    facing = -z / np.maximum(np.sqrt(x * x + y * y + z * z), 1e-12)
    share = np.clip((facing - EDGE_ON) / (IN_FULL_VIEW - EDGE_ON), 0.0, 1.0)
    some = np.flatnonzero(share)
    share[some[covered(points[some], corners[normals[:, 2] > 0])]] = 0.0
    for first, lids in _IRISES.items():
        share[first : first + 5] = share[list(lids)].mean()
    return share


def covered(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(N,) bool: which points (N, 3) lie more than IN_FRONT behind one of the triangles with corners (T, 3, 3)."""
    a, b, c = corners.swapaxes(0, 1)
    (ux, uy, uz), (vx, vy, vz) = (b - a).T, (c - a).T
    area = ux * vy - uy * vx
    area = np.where(np.abs(area) < 1e-12, np.inf, area)
    x, y, z = (points[:, None] - a).transpose(2, 0, 1)
    second, third = (x * vy - y * vx) / area, (ux * y - uy * x) / area
    inside = (second >= 0) & (third >= 0) & (second + third <= 1)
    return np.asarray((inside & (z - second * uz - third * vz > IN_FRONT)).any(1))
