"""REALY's 85 keypoints: which are used for what, and where they lie on a mesh.

Numbers 0 to 67 are iBUG's 68 landmarks, 68 to 84 lie on cheeks and chin. Files of them come in two forms:

- REALY's own text, a JSON list of 85 `[triangle, w0, w1]`: the number of a triangle of the template mesh, from 0, and
  the weights of its first two corners; the third is 1 - w0 - w1. A quad counts as two triangles, (0, 1, 2) and
  (0, 2, 3).
- fit3d's: a JSON object with the number of `vertices` of the mesh and 85 `points`, each an object with `vertices`,
  three ids from 0, and their `weights`; or, for a point at a vertex, just `vertex`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

import numpy as np

from fit3d.checks import is_finite, read_bounded
from fit3d.errors import UsageError

COUNT = 85
Region = Literal["nose", "mouth", "forehead", "cheek"]
REGIONS: tuple[Region, ...] = get_args(Region)

GLOBAL_KEYPOINTS = (36, 39, 42, 45, 33, 48, 54)
"""Corners of the eyes, base of the nose, corners of the mouth: where the alignment starts."""
_MOUTH = (*range(48, 61), 64)
_EYES_AND_BROWS = (*range(36, 48), *range(17, 27))
RIGID_KEYPOINTS: dict[Region, tuple[int, ...]] = {
    "nose": (*range(27, 36), 70, 71),
    "mouth": _MOUTH,
    "forehead": _EYES_AND_BROWS,
    "cheek": (*_MOUTH, 76, 77, 36, 41, 40, 39, 42, 47, 46, 45, 7, 8, 9),
}
"""For the rigid alignment of each region."""
BENDING_KEYPOINTS: dict[Region, tuple[int, ...]] = {
    "nose": tuple(range(27, 36)),
    "mouth": _MOUTH,
    "forehead": _EYES_AND_BROWS,
    "cheek": (),
}
"""For its deformation."""
USED = frozenset(GLOBAL_KEYPOINTS).union(*RIGID_KEYPOINTS.values(), *BENDING_KEYPOINTS.values())
"""The other keypoints do not touch any figure."""

LARGEST_FILE = 1024 * 1024


@dataclass(frozen=True)
class Keypoints:
    """Where the 85 keypoints lie on meshes of one topology."""

    vertices: np.ndarray
    """(85, 3) int64, vertex ids."""
    weights: np.ndarray
    """(85, 3) float64, sum 1; a weight may be slightly negative."""
    vertex_count: int | None
    """Of the meshes that they belong to, where the file tells it."""

    def of(self, vertices: np.ndarray) -> np.ndarray:
        """(85, 3): their positions on a mesh with `vertices` (V, 3)."""
        return (vertices[self.vertices] * self.weights[..., None]).sum(axis=1)


@dataclass(frozen=True)
class KeypointFile:
    """The content of a keypoint file, before the mesh is known that its triangles may refer to."""

    path: Path
    ids: np.ndarray
    """(85, 3) vertex ids or (85,) triangle numbers."""
    weights: np.ndarray
    """(85, 3)."""
    vertex_count: int | None

    def on(self, triangles: np.ndarray, vertex_count: int) -> Keypoints:
        """For meshes with so many vertices and `triangles` (T, 3). Raises UsageError where they do not fit."""
        if self.vertex_count not in (None, vertex_count):
            raise UsageError(
                f"{self.path}: keypoints for meshes of {self.vertex_count} vertices, this one has {vertex_count}"
            )
        high = vertex_count if self.ids.ndim == 2 else len(triangles)
        if int(self.ids.max()) >= high:
            what = "vertex" if self.ids.ndim == 2 else "triangle"
            raise UsageError(f"{self.path}: {what} {int(self.ids.max())} is beyond the mesh's last one, {high - 1}")
        ids = self.ids if self.ids.ndim == 2 else triangles[self.ids]
        return Keypoints(np.asarray(ids, np.int64), self.weights, self.vertex_count)


def read_keypoints(path: Path) -> KeypointFile:
    """The keypoint file `path`, in either form. Raises UsageError where it is damaged."""
    raw = read_bounded(path, LARGEST_FILE, f"{COUNT} keypoints")
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON ({error}); expected {COUNT} keypoints, see docs/realy.md") from error
    if isinstance(content, list):
        return _realy_form(path, content)
    if isinstance(content, dict) and isinstance(content.get("points"), list):
        return _own_form(path, content)
    raise UsageError(f"{path}: expected a list of {COUNT} keypoints, or an object with 'points', see docs/realy.md")


def _realy_form(path: Path, rows: list[Any]) -> KeypointFile:
    _check_count(path, rows)
    for index, row in enumerate(rows):
        if not (
            isinstance(row, list) and len(row) == 3 and _is_id(row[0]) and all(is_finite(each) for each in row[1:])
        ):
            raise UsageError(f"{path}: keypoint {index} is {_short(row)}, expected [triangle, weight, weight]")
    table = np.array(rows, np.float64)
    weights = np.stack([table[:, 1], table[:, 2], 1.0 - table[:, 1] - table[:, 2]], axis=1)
    return KeypointFile(path, table[:, 0].astype(np.int64), weights, None)


def _own_form(path: Path, content: dict[str, Any]) -> KeypointFile:
    points: list[Any] = content["points"]
    count: Any = content.get("vertices")
    _check_count(path, points)
    if not (_is_id(count) and count > 0):
        raise UsageError(f"{path}: 'vertices' is {_short(count)}, expected the number of vertices of the mesh")
    ids, weights = np.zeros((COUNT, 3), np.int64), np.zeros((COUNT, 3))
    for index, point in enumerate(points):
        ids[index], weights[index] = _own_point(path, index, point)
    return KeypointFile(path, ids, weights, int(count))


def _own_point(path: Path, index: int, point: Any) -> tuple[list[int], list[float]]:
    """Vertex ids and weights of one keypoint."""
    read: dict[str, Any] = point if isinstance(point, dict) else {}
    if _is_id(read.get("vertex")):
        return [int(read["vertex"])] * 3, [1.0, 0.0, 0.0]
    ids, weights = read.get("vertices"), read.get("weights")
    if _is_triple(ids, _is_id) and _is_triple(weights, is_finite) and abs(sum(weights) - 1.0) < 1e-3:
        return [int(each) for each in ids], [float(each) for each in weights]
    raise UsageError(
        f"{path}: keypoint {index} is {_short(point)}, expected 'vertex', or three 'vertices' and 'weights' of sum 1"
    )


def _check_count(path: Path, points: list[Any]) -> None:
    if len(points) != COUNT:
        raise UsageError(f"{path}: {len(points)} keypoints, expected {COUNT}")


def _is_id(value: Any) -> bool:
    """Whether it is a whole number from 0 that an array can hold; JSON of other programs writes 12 as 12.0."""
    return is_finite(value) and not isinstance(value, bool) and 0 <= value < 2**31 and float(value).is_integer()


def _is_triple(value: Any, fits: Callable[[Any], bool]) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and len(value) == 3 and all(fits(each) for each in value)


def _short(value: Any) -> str:
    return json.dumps(value)[:60]
