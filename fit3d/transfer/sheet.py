"""Lets the described head leave its model until it lies on the source, and moves it as the source moves.

The neutral head is a sheet that bends less and less stiffly towards closest points (non-rigid closest points: Amberg,
Romdhani and Vetter 2007, with a Laplacian in place of their affine frames). Where the source has no counterpart (mouth
cavity, eye sockets, what lies beyond a border) only the sheet's smoothness speaks.

The expression is not sought again on the posed source. Once a vertex has its place on the neutral source it keeps it:
it moves as that place does. So both meshes correspond, no lip or lid can find another partner in a closed mouth or
eye, and the posed head lies on the posed source as the neutral one does on the neutral source.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix, diags
from scipy.sparse.linalg import splu

from fit3d.annotate.mesh import Mesh, Nearest, triangles_of
from fit3d.annotate.register import bending_of, importance_of, outside_of, skin_faces
from fit3d.morphable.model import MorphableModel
from fit3d.transfer.person import CANDIDATES, Head, Person, RimPairs, express, trust

STIFFNESS = (10.0, 0.003)
"""Of the sheet, first and last."""
STEPS = 9
LAST_STIFFEST = 0.3
"""Of a sheet so much finer than the source that it would show the facets of the source's triangles."""
ALONG = 0.05
"""Weight of the distance along the surface, over that across it: closest points slide."""
OUTLIER_M = (0.004, 0.0015)
"""Distance at which a closest point's weight has fallen to a quarter, first and last."""
LEAST_TRUST = 0.1
"""A closest point of less weight is none: a nostril that the source does not have must not be pulled shut."""
SAME_SIDE = 0.3
"""A closest point whose normal has a smaller cosine with the vertex's own is none."""
DOUBTFUL_STIFFNESS = 30.0
"""How many times stiffer the sheet is on the outer surface where it has no counterpart: the rim of a nostril that the
source does not have keeps its shape instead of folding."""
RIM_WEIGHT = 3.0
"""Of the rims of lids and lips, over that of the face's vertices."""
BACKWARD = 0.5
"""Weight of the source's vertices that look for the sheet, over that of the sheet's that look for the source."""
MOST_BACKWARD = 6000
"""Source vertices that do so: an even share of a finer mesh's."""
CARRY_STIFFNESS = 0.003
"""Of the sheet between vertices whose motion is known."""


@dataclass(frozen=True)
class Laid:
    """The target's skin on the source."""

    neutral: np.ndarray
    """(V, 3) float64; vertices off the skin are where the model has them."""
    hit: Nearest
    """For `ids`: their places on the neutral source's skin."""
    ids: np.ndarray
    """(N,) vertices of the target's outer surface."""
    trust: np.ndarray
    """(N,) in [0, 1]: how surely each has a counterpart."""


def lay(source: Head, target: MorphableModel, start: np.ndarray) -> Laid:
    """Bend the target's skin from `start` (V, 3) onto the neutral source."""
    skin = Mesh(start, triangles_of(target.faces[skin_faces(target)]))
    outside = outside_of(target, start)
    used, ids = skin.used, outside.used
    place = np.full(len(start), -1)
    place[used] = np.arange(len(used))
    importance = importance_of(target, outside_of(target))[ids]
    rims = RimPairs.between(source, target)
    theirs = source.face[:: max(1, -(-len(source.face) // MOST_BACKWARD))]
    points = start.copy()
    stiffnesses = np.geomspace(STIFFNESS[0], _last_stiffness(source, outside), STEPS)
    for stiffness, outlier in zip(stiffnesses, np.geomspace(*OUTLIER_M, STEPS), strict=True):
        now = Mesh(points, outside.triangles)
        hit, sure = _partners(source, now, ids, outlier)
        weight, goal, stiff = np.zeros(len(used)), np.zeros((len(used), 3)), np.ones(len(used))
        stiff[place[ids]] += (DOUBTFUL_STIFFNESS - 1.0) * (1.0 - sure)
        _add(weight, goal, place[ids], importance * sure, _slid(points[ids], hit) - start[ids])
        _add(weight, goal, place[rims.ids], RIM_WEIGHT, rims.places(points[rims.ids]) - start[rims.ids])
        # what the source has and the sheet passes by, such as a ridge between two vertices
        back = now.nearest(source.neutral[theirs], source.skin.normals[theirs], CANDIDATES)
        same = (back.normals * source.skin.normals[theirs]).sum(1) > SAME_SIDE
        pull = trust(back.distance, outlier)
        pull *= BACKWARD * (same & (pull > LEAST_TRUST))
        rows = csr_matrix(
            (back.weights.ravel(), place[back.vertices].ravel(), np.arange(0, 3 * len(theirs) + 1, 3)),
            shape=(len(theirs), len(used)),
        )
        across = ((source.neutral[theirs] - back.places) * back.normals).sum(1, keepdims=True) * back.normals
        wanted = across + back.places - rows @ start[used]
        system = (diags(weight) + rows.T @ diags(pull) @ rows + stiffness * bending_of(skin, stiff)).tocsc()
        points[used] = start[used] + _solve(system, goal + rows.T @ (pull[:, None] * wanted))
    hit, sure = _partners(source, Mesh(points, outside.triangles), ids, OUTLIER_M[1])
    return Laid(points, hit, ids, sure)


def carry_motion(source: Head, target: MorphableModel, person: Person, laid: Laid) -> tuple[np.ndarray, np.ndarray]:
    """The way (V, 3) of every vertex from the neutral to the posed head, and the expression (L,) that is nearest to it.

    On the outer surface it is the way of the vertex's place on the source. Elsewhere it is what the expression makes
    of the model, plus, on the skin, what the outer surface adds to that, which runs on smoothly.
    """
    moved = laid.hit.interpolate(source.posed - source.neutral)
    near = laid.trust > 0.5
    expression = express(source, target, person, laid.ids[near], moved[near])
    difference = np.einsum("l,lvc->vc", expression - person.neutral_expression, target.expression.double().numpy())
    motion = person.world_from_model.turned(difference)
    skin = Mesh(laid.neutral, triangles_of(target.faces[skin_faces(target)]))
    place = np.full(len(motion), -1)
    place[skin.used] = np.arange(len(skin.used))
    weight, goal = np.zeros(len(skin.used)), np.zeros((len(skin.used), 3))
    stiff = np.ones(len(skin.used))
    stiff[place[laid.ids]] += (DOUBTFUL_STIFFNESS - 1.0) * (1.0 - laid.trust)
    _add(weight, goal, place[laid.ids], laid.trust, moved - motion[laid.ids])
    rest = _solve((diags(weight) + CARRY_STIFFNESS * bending_of(skin, stiff)).tocsc(), goal)
    motion[skin.used] += rest
    # exactly what the source does where it is known, however sharply it moves
    motion[laid.ids] += laid.trust[:, None] * (moved - motion[laid.ids])
    return motion, expression


def _last_stiffness(source: Head, sheet: Mesh) -> float:
    """A sheet of stiffness k gives way to waves longer than about 2 pi k^(1/4) of its edges: over a source whose edges
    are longer than its own it stays stiff enough to pass smoothly over each facet."""
    theirs, ours = (float(np.median(_edge_lengths(mesh))) for mesh in (source.outside, sheet))
    return float(np.clip(STIFFNESS[1] * (theirs / ours) ** 4, STIFFNESS[1], LAST_STIFFEST))


def _edge_lengths(mesh: Mesh) -> np.ndarray:
    return np.linalg.norm(mesh.points[mesh.edges[:, 0]] - mesh.points[mesh.edges[:, 1]], axis=1)


def _partners(source: Head, now: Mesh, ids: np.ndarray, outlier: float) -> tuple[Nearest, np.ndarray]:
    """The nearest points of the source's skin to the vertices `ids`, and how far each is to be believed."""
    hit = source.skin.nearest(now.points[ids], now.normals[ids], CANDIDATES)
    same = (hit.normals * now.normals[ids]).sum(1) > SAME_SIDE
    inside = hit.interpolate(~source.border) > 1e-3
    sure = np.zeros(len(now.points))
    sure[ids] = trust(hit.distance, outlier)
    sure[ids] *= same & inside & (sure[ids] > LEAST_TRUST)
    # beside a vertex without a counterpart a closest point is doubtful too: what it pulls at would fold
    least, (a, b) = sure.copy(), now.edges.T
    np.minimum.at(least, a, sure[b])
    np.minimum.at(least, b, sure[a])
    return hit, least[ids]


def _slid(here: np.ndarray, hit: Nearest) -> np.ndarray:
    """(N, 3) goals: across the surface all the way to the nearest point, along it a little."""
    away = hit.places - here
    across = (away * hit.normals).sum(1, keepdims=True) * hit.normals
    return np.asarray(here + across + ALONG * (away - across))


def _add(weight: np.ndarray, goal: np.ndarray, at: np.ndarray, w: np.ndarray | float, wanted: np.ndarray) -> None:
    """Add the wishes `wanted` (N, 3) of weight `w` at the unknowns `at` (N,), in place."""
    w = np.broadcast_to(w, len(at))
    np.add.at(weight, at, w)
    np.add.at(goal, at, w[:, None] * wanted)


def _solve(system: csc_matrix, right: np.ndarray) -> np.ndarray:
    """(U, 3) solution of a symmetric system. A whole piece without any wish stays where it is."""
    count = system.shape[0]
    factor = splu(
        (system + diags(np.full(count, 1e-9))).tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}
    )
    return np.asarray(factor.solve(right))
