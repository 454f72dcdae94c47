"""Checks and conversions that the loaders of other people's models share: from the arrays of a file to a `RawModel`.

All raise ValueError with what is wrong; the loader adds which file it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MOST_VERTICES = 300_000
MOST_COMPONENTS = 1_000

LIDS_TO_EYEBALL_M = np.array([0.0, 0.0, -0.012])
"""From the middle of an eye's lids to the centre of its eyeball, metres."""
NOSE_TIP_TO_EYES_M = np.array([0.0, 0.036, -0.048])
"""From the tip of the nose to midway between the eyeball centres, metres: the mean of Anny's and ICT's mean heads."""


def numbers(value: Any, what: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """`value` as float64 of this `shape`, None standing for any length; all finite."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{what} holds {array.dtype}, expected numbers")
    expected = " x ".join("any" if n is None else str(n) for n in shape)
    if array.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{what} has shape {array.shape}, expected {expected}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} holds numbers that are not finite")
    return array.astype(np.float64)


def ids(value: Any, what: str, shape: tuple[int | None, ...], count: int, first: int = 0) -> np.ndarray:
    """`value` as int64 ids from 0 of this `shape`, where the file counts `count` things from `first`."""
    array = numbers(value, what, shape)
    if array.size == 0 or (array != np.round(array)).any():
        raise ValueError(f"{what} must be whole numbers")
    if array.min() < first or array.max() >= first + count:
        low, high = int(array.min()), int(array.max())
        raise ValueError(f"{what} must lie in {first} ... {first + count - 1}, got {low} ... {high}")
    return array.astype(np.int64) - first


def displacements(basis: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(K, V, 3) float32 from a basis (3V, K) whose rows are x, y, z of one vertex after another, and (K,) factors."""
    count = len(basis) // 3
    return np.ascontiguousarray((basis * scale).T.reshape(len(scale), count, 3).astype(np.float32))


def faces_of(triangles: np.ndarray) -> np.ndarray:
    """(T, 4) int32 faces of triangles (T, 3)."""
    return np.column_stack([triangles, np.full(len(triangles), -1)]).astype(np.int32)


def outward(triangles: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """The triangles (T, 3), all turned round where they look inwards: seen from the middle of the vertices (V, 3),
    the volume that they span has to be positive. One orientation is taken to hold for all of them."""
    corners = vertices[triangles] - vertices.mean(axis=0)
    volume = np.einsum("ti,ti->t", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum()
    return triangles if volume >= 0 else triangles[:, ::-1]


def eyes_from_landmarks(vertices: np.ndarray, landmarks68: np.ndarray) -> np.ndarray:
    """(3,) midway between the eyeball centres of a head (V, 3), metres, that looks along +z."""
    right, left = (vertices[landmarks68[first : first + 6]].mean(axis=0) for first in (36, 42))
    return (right + left) / 2 + LIDS_TO_EYEBALL_M


def eyes_from_nose(vertices: np.ndarray) -> np.ndarray:
    """(3,) about midway between the eyeball centres of a head (V, 3), metres, that looks along +z: measured from the
    vertex that stands furthest forward, the tip of the nose, by the proportions of a mean adult. Good to about 1 cm."""
    return vertices[vertices[:, 2].argmax()] + NOSE_TIP_TO_EYES_M
