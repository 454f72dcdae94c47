"""Lay the bundled model's UV islands out for pictures of faces: the face large and upright, the rest round it.

MakeHuman's seams stay, so an island keeps its triangles and its cut; only the places of the UV vertices change. The
island of the head is flattened anew, the others are turned, scaled and packed around it.

The head is flattened with the symmetric Dirichlet energy of a map whose rest shapes are the head's own triangles, each
scaled by the density wanted there: 1 over the face, less with the distance from it. The energy is infinite where a
triangle loses its area, so a start without folded triangles (MakeHuman's layout) stays free of them. One half is solved
with the midline held on the axis, the other is its mirror image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
import scipy.sparse.linalg as sparse_linalg
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

FACE, EAR, SCALP = 2, 3, 1
"""Values of `regions`; 0 is skin hidden inside (nostrils, sockets, mouth)."""
EAR_DENSITY, HIDDEN_DENSITY, FAR_DENSITY = 0.8, 0.5, 0.33
"""Texels per millimetre relative to the face's: ears, skin hidden inside, and the skin farthest from the face."""
FALL_OFF_M = 0.03
"""Over this distance from the face the density falls by 63 %."""
WEIGHTS = np.array([0.05, 0.1, 1.0, 0.25])
"""How much distortion of each region costs, per square millimetre of texture."""
HOLE_WEIGHT = 0.02
"""The same for the openings of eyes and mouth, which are flattened along to keep their rims apart."""
STEPS = 200
MARGIN = 0.006
"""Free border of the atlas: 12 texels of 2048."""


@dataclass(frozen=True)
class Layout:
    pass


def islands(uv_faces: np.ndarray, count: int) -> np.ndarray:
    """(U,) int32: the island of each of `count` UV vertices."""
    first, other = np.repeat(uv_faces[:, 0], 3), uv_faces[:, 1:].ravel()
    links = sparse.coo_matrix((np.ones(len(first)), (first, other)), (count, count))
    return np.asarray(connected_components(links, directed=False)[1])


def boundary_loops(uv_faces: np.ndarray) -> Iterator[list[int]]:
    """The closed loops of UV vertices round the given quads (F, 4), each with the quads on its left."""
    edges = np.concatenate([uv_faces[:, [i, (i + 1) % 4]] for i in range(4)]).tolist()
    inside = {(a, b) for a, b in edges}
    after = {a: b for a, b in edges if (b, a) not in inside}
    while after:
        loop = [min(after)]
        while (here := after.pop(loop[-1])) != loop[0]:
            loop.append(here)
        yield loop


def filled_hole(loop: list[int], uv: np.ndarray) -> list[tuple[int, int, int]]:
    """Triangles over the hole that `loop` runs round with the hole on its right: ears cut off, the shortest first."""
    ring, triangles = loop[::-1], []
    while len(ring) > 3:
        best = (np.inf, 0)
        for i, here in enumerate(ring):
            a, b, c = uv[ring[i - 1]], uv[here], uv[ring[(i + 1) % len(ring)]]
            others = [other for other in ring if other not in (ring[i - 1], here, ring[(i + 1) % len(ring)])]
            if cross(b - a, c - a) > 1e-9 and not any(inside(uv[other], a, b, c) for other in others):
                best = min(best, (float(np.linalg.norm(c - a)), i))
        i = best[1]
        triangles.append((ring[i - 1], ring[i], ring[(i + 1) % len(ring)]))
        del ring[i]
    return [*triangles, (ring[0], ring[1], ring[2])]


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])


def inside(point: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> bool:
    return min(cross(b - a, point - a), cross(c - b, point - b), cross(a - c, point - c)) > -1e-12


def corner_triangles(quads: np.ndarray) -> np.ndarray:
    """(4F, 3): the triangle at each corner of quads (F, 4). All of them positive: the quad is convex."""
    return np.concatenate([quads[:, [(i - 1) % 4, i, (i + 1) % 4]] for i in range(4)])


def flat(corners: np.ndarray) -> np.ndarray:
    """(T, 2, 2): triangles (T, 3, 3) laid flat; columns are the edges from the first corner."""
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    length = np.linalg.norm(first, axis=1)
    along = (first * second).sum(axis=1) / length
    height = np.linalg.norm(np.cross(first, second), axis=1) / length
    return np.stack([np.stack([length, along], -1), np.stack([np.zeros_like(length), height], -1)], 1)


def flattened(
    start: np.ndarray, triangles: np.ndarray, rest: np.ndarray, weights: np.ndarray, on_axis: np.ndarray
) -> np.ndarray:
    """Places (N, 2) that minimise the symmetric Dirichlet energy, from `start` (N, 2) without folds.

    Projected Newton steps, each shortened so that no triangle turns over.

    Args:
        triangles: (T, 3) ids.
        rest: (T, 2, 2) wanted shape of each, columns are the edges from the first corner.
        weights: (T,) cost of distortion per area of the rest shape.
        on_axis: (N,) bool, places whose x stays 0.
    """
    count = len(start)
    cost = weights * np.linalg.det(rest) / 2
    cost = cost / cost.sum()
    inverse = np.linalg.inv(rest)
    # J = sum over corners of place (x) gradient; flat order of J: xx, xy, yx, yy
    gradient = np.concatenate([-(inverse.sum(axis=1))[:, None], inverse], axis=1)  # (T, 3, 2)
    rows = np.arange(len(triangles))[:, None, None] * 2 + np.arange(2)
    columns = np.broadcast_to(triangles[:, :, None], gradient.shape)
    derive = sparse.csr_matrix(
        (gradient.ravel(), (np.broadcast_to(rows, gradient.shape).ravel(), columns.ravel())), (2 * len(triangles), count)
    )
    free = np.flatnonzero(np.concatenate([~on_axis, np.ones(count, bool)]))
    jacobian_of = sparse.block_diag([derive, derive]).tocsc()[:, free]
    # rows of block_diag: x parts of all triangles, then y parts; bring them together by triangle
    order = np.arange(4 * len(triangles)).reshape(2, len(triangles), 2).transpose(1, 0, 2).ravel()
    jacobian_of = jacobian_of.tocsr()[order]
    turn = np.array([[0, 0, 0, 1.0], [0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0]])

    def determinant(j: np.ndarray) -> np.ndarray:
        return np.asarray(j[:, 0] * j[:, 3] - j[:, 1] * j[:, 2])

    def energy(j: np.ndarray) -> float:
        d = determinant(j)
        return float(np.inf if d.min() <= 0 else cost @ ((j**2).sum(axis=1) * (1 + 1 / d**2)))

    places = np.concatenate([start[:, 0] * ~on_axis, start[:, 1]])[free]
    blocks = np.arange(4 * len(triangles)).reshape(-1, 4)
    pattern = np.repeat(blocks, 4, axis=1).ravel(), np.tile(blocks, (1, 4)).ravel()
    for step in range(STEPS):
        j = (jacobian_of @ places).reshape(-1, 4)
        d = determinant(j)[:, None]
        size = (j**2).sum(axis=1)[:, None]
        g = j @ turn
        slope = 2 * j * (1 + 1 / d**2) - 2 * size / d**3 * g
        mixed = j[:, :, None] * g[:, None]
        hessian = 2 * (1 + 1 / d**2)[..., None] * np.eye(4) - (2 * size / d**3)[..., None] * turn
        hessian += -(4 / d**3)[..., None] * (mixed + mixed.transpose(0, 2, 1))
        hessian += (6 * size / d**4)[..., None] * g[:, :, None] * g[:, None]
        values, vectors = np.linalg.eigh(hessian)
        hessian = (vectors * (np.maximum(values, 1e-9) * cost[:, None])[:, None]) @ vectors.transpose(0, 2, 1)
        middle = sparse.csr_matrix((hessian.ravel(), pattern))
        matrix = jacobian_of.T @ middle @ jacobian_of
        down = jacobian_of.T @ (slope * cost[:, None]).ravel()
        # a shift along the axis costs nothing: hold it
        matrix = (matrix + 1e-9 * sparse.diags(matrix.diagonal().mean() * np.ones(len(free)))).tocsc()
        move = -sparse_linalg.spsolve(matrix, down)
        length, before, gain = 1.0, energy(j), float(move @ down)
        while energy((jacobian_of @ (places + length * move)).reshape(-1, 4)) > before + 1e-4 * length * gain:
            length /= 2
            if length < 1e-12:
                break
        places = places + length * move
        import os
        if os.environ.get("UVDEBUG"): print(step, before, gain, length)
        if -gain < 1e-13 * before:
            break
    solved = np.zeros(2 * count)
    solved[free] = places
    return solved.reshape(2, count).T
