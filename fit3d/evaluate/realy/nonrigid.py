"""Bending a region of a scan onto points of a mesh, as REALY does it: non-rigid iterated closest points.

After Amberg, Romdhani, Vetter: Optimal step nonrigid ICP algorithms for surface registration, CVPR 2007. Each vertex i
has an affine map, a matrix X_i (4, 3), and stands as d_i = (x, y, z, 1). One step minimises

    alpha^2 sum over edges (i, j) |G (X_i - X_j)|^2 + sum_i w_i^2 |d_i X_i - target_i|^2 + keypoints of the same form

where the target of a vertex is the nearest of the given points, and moves the vertices to d_i X_i. The next step starts
from there, with other targets.

Because a map's turn and shift are weighed alike (G = 1), the result depends on where the scan's origin lies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu
from scipy.spatial import cKDTree

ALPHA = 50.0
"""Stiffness of the first stage with closest points; it falls by exp(-0.5) from one to the next."""
STAGES = 3
STEADY = 1.0
"""A stage ends when the maps of all vertices, taken as one vector, change by less; half as much in the next one."""
MOST_STEPS = 11
"""In a stage, where there are keypoints; without them there is no limit but `CEILING`."""
CEILING = 200
KEYPOINT_ALPHA = 150.0
"""Stiffness of the stage before, in which only keypoints pull."""
KEYPOINT_STIFFNESS = np.array([2.0, 2.0, 3.0, 2.0])
"""G of that stage."""
KEYPOINT_WEIGHT = 50.0
LATER_KEYPOINT_WEIGHT, KEYPOINT_DECAY = 5.0, 0.9
"""In step n, counted from 0 over all stages, keypoints weigh 5 exp(-0.9 n)."""
OUTLIER_FACTOR, OUTLIER_FROM = 2.0, 1.0
"""A target counts if it is nearer than twice the mean distance or than one unit of the scan."""

_ANCHOR = 1e-15
"""Pull of every map towards "stays where it is", as a share of the largest diagonal entry: for pieces of the scan that
nothing else holds, where the problem has no single answer. Just above rounding: crumbs of a scan, a few vertices almost
in a plane, are held by little more, and from 1e-13 on their maps change how many steps are taken."""
_TOLERANCE = 1e-8
"""Residual, as a share of the right side, at which a step counts as solved."""
_PATIENCE = 20
"""Iterations of conjugate gradients after which a fresh factorisation is cheaper."""


@dataclass(frozen=True)
class Pull:
    """Vertices of the scan that are pulled towards keypoints of the prediction."""

    vertices: np.ndarray
    """(K,) ids; of a vertex that stands for several keypoints the last one counts."""
    targets: np.ndarray
    """(K, 3)."""

    def towards(self, vertices: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """For `vertices` (N, 3): squared weights (N,) and weighted gaps (N, 3) of a pull of that squared weight."""
        weight, gap = np.zeros(len(vertices)), np.zeros(vertices.shape)
        gap[self.vertices] = self.targets
        held = np.unique(self.vertices)
        weight[held] = strength
        gap[held] = strength * (gap[held] - vertices[held])
        return weight, gap


def deformed_onto(vertices: np.ndarray, triangles: np.ndarray, targets: np.ndarray, pull: Pull | None) -> np.ndarray:
    """The vertices (N, 3) of a mesh with `triangles` (T, 3), bent onto the points `targets` (M, 3).

    With a `pull` there is a stage of keypoints alone before those with closest points, in which they fade.
    """
    solver, tree, steps = _Solver(triangles, len(vertices)), cKDTree(targets), 0
    before: np.ndarray | None = None
    if pull is not None:
        weight, gap = pull.towards(vertices, KEYPOINT_WEIGHT**2)
        before = solver.solve(vertices, weight, gap, KEYPOINT_ALPHA * KEYPOINT_STIFFNESS)
        vertices, steps = _moved(vertices, before), 1
    moved = math.inf
    for stage in range(STAGES):
        stiffness = np.full(4, ALPHA * math.exp(-0.5 * stage))
        for _ in range(CEILING if pull is None else MOST_STEPS):
            if moved <= STEADY * 0.5**stage:
                break
            distance, which = tree.query(vertices)
            near = (distance < max(OUTLIER_FACTOR * float(distance.mean()), OUTLIER_FROM)).astype(np.float64)
            weight, gap = near, near[:, None] * (targets[which] - vertices)
            if pull is not None:
                strength = (LATER_KEYPOINT_WEIGHT * math.exp(-KEYPOINT_DECAY * steps)) ** 2
                weight, gap = (a + b for a, b in zip((weight, gap), pull.towards(vertices, strength), strict=True))
            change = solver.solve(vertices, weight, gap, stiffness)
            # the very first step is never the last
            moved = math.inf if before is None else float(np.linalg.norm(change - before))
            before, vertices, steps = change, _moved(vertices, change), steps + 1
    return vertices


def _moved(vertices: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Vertices (N, 3) under the maps that differ from "stay" by `change` (N, 4, 3)."""
    return vertices + np.einsum("nk,nkc->nc", _homogeneous(vertices), change)


def _homogeneous(vertices: np.ndarray) -> np.ndarray:
    return np.concatenate([vertices, np.ones((len(vertices), 1))], axis=1)


class _Solver:
    """Solves the steps for one mesh. The unknowns are how far each map X_i is from the one that stays.

    The normal equations (4 N unknowns, 3 right sides) are factorised once and then solved by conjugate gradients with
    that factorisation as preconditioner, because from one step to the next they change little; anew when it takes long.
    """

    def __init__(self, triangles: np.ndarray, count: int) -> None:
        ends = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
        edges = np.unique(ends[ends[:, 0] != ends[:, 1]], axis=0)
        rows = np.repeat(np.arange(len(edges)), 2)
        signs = np.tile([1.0, -1.0], len(edges))
        incidence = sparse.csr_matrix((signs, (rows, edges.ravel())), shape=(len(edges), count))
        self._laplacian = (incidence.T @ incidence).tocsr()
        self._factor: SuperLU | None = None

    def solve(self, vertices: np.ndarray, weight: np.ndarray, gap: np.ndarray, stiffness: np.ndarray) -> np.ndarray:
        """(N, 4, 3): the change of the maps that one step asks for.

        Args:
            vertices: (N, 3) where they stand.
            weight: (N,) squared weight of each vertex's targets, summed.
            gap: (N, 3) the sum of the squared weights times the way to the targets.
            stiffness: (4,) alpha times G.
        """
        here = _homogeneous(vertices)
        matrix = self._matrix(here, weight, stiffness)
        right = (here[:, :, None] * gap[:, None, :]).reshape(-1, 3)
        uniform = len(np.unique(stiffness)) == 1
        if not uniform:  # solved once: not worth keeping
            return _factorised(matrix).solve(right).reshape(-1, 4, 3)
        solution = None if self._factor is None else _conjugate_gradients(matrix, right, self._factor)
        if solution is None:
            self._factor = _factorised(matrix)
            solution = self._factor.solve(right)
        return solution.reshape(-1, 4, 3)

    def _matrix(self, here: np.ndarray, weight: np.ndarray, stiffness: np.ndarray) -> sparse.csc_matrix:
        count = len(here)
        blocks = weight[:, None, None] * here[:, :, None] * here[:, None, :]
        pulls = sparse.bsr_matrix((blocks, np.arange(count), np.arange(count + 1)), shape=(4 * count, 4 * count))
        matrix = (sparse.kron(self._laplacian, sparse.diags(stiffness**2), format="csr") + pulls.tocsr()).tocsc()
        return matrix + _ANCHOR * float(matrix.diagonal().max()) * sparse.identity(4 * count, format="csc")


def _factorised(matrix: sparse.csc_matrix) -> SuperLU:
    """The matrix is symmetric and positive definite: no pivots are sought, and the order is that of least fill."""
    return splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})


def _conjugate_gradients(matrix: sparse.csc_matrix, right: np.ndarray, factor: SuperLU) -> np.ndarray | None:
    """Solves for all right sides (M, C) at a time, each with its own step lengths; None where it takes too long."""
    solution = np.zeros_like(right)
    residual = right.copy()
    enough = _TOLERANCE * np.linalg.norm(right, axis=0)
    direction, last = np.zeros_like(right), np.ones(right.shape[1])
    for _ in range(_PATIENCE):
        preconditioned = factor.solve(residual)
        now = (residual * preconditioned).sum(0)
        direction = preconditioned + _ratio(now, last) * direction
        image = matrix @ direction
        step = _ratio(now, (direction * image).sum(0))
        solution += step * direction
        residual -= step * image
        last = now
        if (np.linalg.norm(residual, axis=0) <= enough).all():
            return solution
    return None


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 0 where b is 0: a right side that is solved exactly has no direction left."""
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0.0)
