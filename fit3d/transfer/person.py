"""Describes a head by another model: the similarity, identity and expression of that model that come nearest to it.

World frame of `fit3d.camera`, metres. The source is a head of one model, the target the model that is to describe it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import lsq_linear
from scipy.spatial import cKDTree

from fit3d.annotate.mesh import Mesh, places_of, triangles_of
from fit3d.annotate.register import (
    importance_of,
    outside_of,
    placed_derivatives,
    rotation_of,
    skin_faces,
)
from fit3d.config import RARE_EXPRESSIONS, PriorConfig
from fit3d.morphable.annotation import OPENINGS
from fit3d.morphable.arkit import arkit_shapes
from fit3d.morphable.model import MorphableModel

ITERATIONS = 15
MOST_VERTICES = 2000
"""Vertices that take part in the fit: an even share of a finer mesh's."""
NOISE_M = 0.0005
"""Standard deviation of the distance between surfaces of the same person in two models."""
SAMPLES = 500.0
"""The surface tells as much as this many independent points."""
MARK_NOISE_M = 0.002
"""Two models' landmarks and rims of one person lie this far apart, for their annotations differ."""
MARK_SAMPLES = 60.0
"""Landmarks tell as much together as this many independent ones; so do rims."""
ALONG = 0.05
"""Weight of the distance along the surface, over that across it: closest points slide."""
OUTLIER_M = 0.008
"""Distance at which a closest point's weight has fallen to a quarter: ears and necks differ, or are missing."""
NEUTRAL_SD = 0.15
"""Of expression coefficients in a face without expression: what one model calls neutral another may not."""
CANDIDATES = 12
"""Triangles among which a closest point is sought."""
RIM_STEPS = 400
"""Places along a rim among which the nearest is sought."""


@dataclass(frozen=True)
class Head:
    """A person in one model's topology."""

    model: MorphableModel
    neutral: np.ndarray
    """(V, 3) float64, without expression."""
    posed: np.ndarray
    """(V, 3) float64, with expression."""
    expression: dict[str, float]
    """Coefficients by the model's own names; those not named are 0."""

    @cached_property
    def skin(self) -> Mesh:
        """The neutral skin, cavities included."""
        return Mesh(self.neutral, triangles_of(self.model.faces[skin_faces(self.model)]))

    @cached_property
    def outside(self) -> Mesh:
        """The neutral outer surface."""
        return outside_of(self.model, self.neutral)

    @cached_property
    def border(self) -> np.ndarray:
        """(V,) bool: vertices on the skin's open border, beyond which the head is not known; not the rims of lids and
        lips, which have counterparts of their own."""
        sides = np.sort(self.skin.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        edges, count = np.unique(sides, axis=0, return_counts=True)
        on_border = np.zeros(len(self.neutral), bool)
        on_border[edges[count == 1]] = True
        on_border[_rim_ids(self.model)] = False
        return on_border

    @cached_property
    def face(self) -> np.ndarray:
        """Ids of the vertices of the face: of the outer surface, near a landmark."""
        used = self.outside.used
        return np.asarray(used[importance_of(self.model, outside_of(self.model))[used] == 1.0])


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + shift."""

    scale: float
    rotation: np.ndarray
    """(3, 3)."""
    shift: np.ndarray
    """(3,) metres."""

    def of(self, points: np.ndarray) -> np.ndarray:
        """(..., 3)."""
        return np.asarray(self.scale * points @ self.rotation.T + self.shift)

    def turned(self, directions: np.ndarray) -> np.ndarray:
        """(..., 3) differences of points."""
        return np.asarray(self.scale * directions @ self.rotation.T)


@dataclass(frozen=True)
class Person:
    """What a model makes of a head."""

    world_from_model: Similarity
    identity: np.ndarray
    """(K,) standard deviations."""
    neutral_expression: np.ndarray
    """(L,) of the face without expression, within bounds."""

    def vertices(self, model: MorphableModel, expression: np.ndarray) -> np.ndarray:
        """(V, 3) float64, world, with expression (L,)."""
        offset = np.einsum("k,kvc->vc", self.identity, model.identity.double().numpy())
        offset += np.einsum("l,lvc->vc", expression, model.expression.double().numpy())
        return self.world_from_model.of(model.mean.double().numpy() + offset)


def similarity_between(points: np.ndarray, onto: np.ndarray, scaled: bool = True) -> Similarity:
    """The similarity, or without `scaled` the rigid motion, of points (N, 3) onto others (N, 3) in least squares
    (Umeyama 1991)."""
    middle, other = points.mean(0), onto.mean(0)
    a, b = points - middle, onto - other
    u, singular, vh = np.linalg.svd(b.T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vh))])
    rotation = (u * sign) @ vh
    scale = float((singular * sign).sum() / max((a**2).sum(), 1e-12)) if scaled else 1.0
    return Similarity(scale, rotation, other - scale * rotation @ middle)


def describe(source: Head, target: MorphableModel) -> Person:
    """The person that `target` can describe nearest to the neutral `source`.

    Starts with the similarity between both models' landmarks. Then Gauss-Newton steps on the distances of the target's
    outer surface to the source's skin, across the surface and a little along it, on landmarks and on the rims of lids
    and lips, with a Gaussian prior; closest points are sought anew at every step, with normals, so that no lip finds
    the other one. Expressions keep their bounds.
    """
    mean = target.mean.double().numpy()
    outside = outside_of(target)
    importance = importance_of(target, outside)
    chosen = np.union1d(outside.used[:: max(1, -(-len(outside.used) // MOST_VERTICES))], _rim_ids(target))
    identities, expressions = len(target.identity), len(target.expression)
    count = identities + expressions
    every = np.concatenate([target.identity.double().numpy(), target.expression.double().numpy()])  # (P, V, 3)
    basis, surface = every[:, chosen], every[:, outside.used]
    layouts = [layout for layout in target.landmarks if layout in source.model.landmarks]
    marks, mark_weights, goals, mark_basis = [], [], [], []
    for layout in layouts:
        ours, theirs = target.landmarks[layout], source.model.landmarks[layout]
        fixed = np.setdiff1d(np.arange(len(ours.points.vertices)), ours.sliding.numpy())
        marks.append(places_of(ours.points, mean)[fixed])
        goals.append(places_of(theirs.points, source.neutral)[fixed])
        weights = ours.points.weights.double().numpy()[fixed]
        mark_basis.append(np.einsum("nk,pnkc->pnc", weights, every[:, ours.points.vertices.numpy()[fixed]]))
        mark_weights.append(np.full(len(fixed), 1.0 / len(fixed) / len(layouts)))
    mark_mean, goal, marked = np.concatenate(marks), np.concatenate(goals), np.concatenate(mark_basis, 1)
    mark_weight = np.concatenate(mark_weights) * MARK_SAMPLES / MARK_NOISE_M**2
    rims = RimPairs.between(source, target)
    rim_place = np.searchsorted(chosen, rims.ids)

    low, high = np.full(count + 7, -np.inf), np.full(count + 7, np.inf)
    low[identities:count], high[identities:count] = target.expression_bounds.double().numpy().T
    prior = np.concatenate([np.ones(identities), np.full(expressions, NEUTRAL_SD**-2), np.zeros(7)])
    unknowns = np.zeros(count + 7)
    place = similarity_between(mark_mean, goal)
    points = mean.copy()
    for _ in range(ITERATIONS):
        points[outside.used] = place.of(mean[outside.used] + np.einsum("p,pnc->nc", unknowns[:count], surface))
        here = points[chosen]
        hit = source.skin.nearest(here, Mesh(points, outside.triangles).normals[chosen], CANDIDATES)
        weight = importance[chosen] * trust(hit.distance, OUTLIER_M)
        weight *= SAMPLES / weight.sum() / NOISE_M**2
        columns = placed_derivatives(basis, here - place.shift, place.rotation, place.scale)
        away = hit.places - here
        across = np.einsum("nc,ncp->np", hit.normals, columns)
        mark_here = place.of(mark_mean + np.einsum("p,pnc->nc", unknowns[:count], marked))
        rows = [
            across,
            columns.reshape(-1, count + 7),
            placed_derivatives(marked, mark_here - place.shift, place.rotation, place.scale).reshape(-1, count + 7),
            columns[rim_place].reshape(-1, count + 7),
        ]
        residuals = [
            (hit.normals * away).sum(1),
            away,
            goal - mark_here,
            rims.places(here[rim_place]) - here[rim_place],
        ]
        weights = [
            weight,
            np.repeat(ALONG * weight, 3),
            np.repeat(mark_weight, 3),
            np.full(3 * len(rims.ids), MARK_SAMPLES / len(rims.ids) / MARK_NOISE_M**2),
        ]
        normal, right = np.diag(prior + 1e-9), -prior * unknowns
        for row, residual, w in zip(rows, residuals, weights, strict=True):
            normal += (row * w[:, None]).T @ row
            right += row.T @ (w * residual.ravel())
        step = bounded(normal, right, low - unknowns, high - unknowns)
        unknowns[:count] += step[:count]
        turn = rotation_of(step[count : count + 3])
        place = Similarity(
            place.scale * (1.0 + step[count + 6]), turn @ place.rotation, place.shift + step[count + 3 : count + 6]
        )
    return Person(place, unknowns[:identities], unknowns[identities:count])


def express(source: Head, target: MorphableModel, person: Person, ids: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """(L,) the target's expression, within bounds, by which its vertices `ids` (N,) come nearest to the way (N, 3) that
    their counterparts `moved` between the neutral and the posed source.

    Where both models know an expression by the same name, its coefficient is expected to be the same; a difference
    costs as much as the prior's `expression_sd` makes it.
    """
    count = len(target.expression_names)
    basis = person.world_from_model.turned(target.expression[:, ids].double().numpy()).reshape(count, -1).T
    expected, config = named_alike(source, target), PriorConfig()
    rare = np.array([name in RARE_EXPRESSIONS for name in target.expression_names], bool)
    prior = np.where(rare, config.rare_expression_sd, config.expression_sd) ** -2.0
    weight = SAMPLES / len(ids) / NOISE_M**2
    low, high = target.expression_bounds.double().numpy().T
    start = np.clip(person.neutral_expression + expected, low, high)
    residual = moved.ravel() - basis @ (start - person.neutral_expression)
    step = bounded(weight * basis.T @ basis + np.diag(prior), weight * basis.T @ residual, low - start, high - start)
    return np.asarray(start + step)


def named_alike(source: Head, target: MorphableModel) -> np.ndarray:
    """(L,) the source's coefficients at the target's expressions of the same name, ARKit's sums of sides included; 0
    where the source knows none."""
    names = source.model.expression_names
    values = np.array([source.expression.get(name, 0.0) for name in names])
    known = dict(zip(names, values.tolist(), strict=True))
    known |= {name: float(values[list(parts)].mean()) for name, parts in arkit_shapes(names).items()}
    expected = np.array([known.get(name, 0.0) for name in target.expression_names])
    for name, parts in arkit_shapes(target.expression_names).items():
        if len(parts) > 1:
            expected[list(parts)] = [known.get(target.expression_names[part], known.get(name, 0.0)) for part in parts]
    return expected


@dataclass(frozen=True)
class RimPairs:
    """Lids and lips: the target's rim vertices and the source's rims, on which they belong."""

    ids: np.ndarray
    """(N,) vertex ids of the target."""
    group: np.ndarray
    """(N,) number of the rim that each lies on."""
    fixed: np.ndarray
    """(N, 3) places of the corners, NaN elsewhere."""
    lines: tuple[np.ndarray, ...]
    """(RIM_STEPS, 3) each rim of the source, neutral."""

    @classmethod
    def between(cls, source: Head, target: MorphableModel) -> RimPairs:
        ids, group, fixed = [], [], []
        lines: list[np.ndarray] = []
        for name in OPENINGS:
            if name not in source.model.annotation.rims or name not in target.annotation.rims:
                continue
            pairs = zip(source.model.annotation.rims[name], target.annotation.rims[name], strict=True)
            for theirs, ours in ((a.numpy(), b.numpy()) for a, b in pairs):
                line = source.neutral[theirs]
                along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
                at = np.linspace(0.0, along[-1], RIM_STEPS)
                corners = np.full((len(ours), 3), np.nan)
                corners[[0, -1]] = line[[0, -1]]
                ids.append(ours)
                group.append(np.full(len(ours), len(lines)))
                fixed.append(corners)
                lines.append(np.stack([np.interp(at, along, column) for column in line.T], 1))
        if not ids:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3)), ())
        return cls(np.concatenate(ids), np.concatenate(group), np.concatenate(fixed), tuple(lines))

    def places(self, here: np.ndarray) -> np.ndarray:
        """(N, 3) for the rim vertices, now `here` (N, 3), their nearest places on the source's rims; corners on
        corners."""
        found = self.fixed.copy()
        for number, line in enumerate(self.lines):
            of = self.group == number
            nearest = line[cKDTree(line).query(here[of])[1]]
            found[of] = np.where(np.isnan(self.fixed[of]), nearest, self.fixed[of])
        return found


def trust(distance: np.ndarray, outlier: float) -> np.ndarray:
    """Weight of closest points at a `distance`, bounded influence (Geman and McClure 1987)."""
    return np.asarray(1.0 / (1.0 + (distance / outlier) ** 2) ** 2)


def bounded(normal: np.ndarray, right: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(P,) the x within [low, high] that minimises x^T normal x / 2 - right^T x, for a positive definite `normal`."""
    factor = np.linalg.cholesky(normal)
    goal = np.linalg.solve(factor, right)
    free = np.linalg.solve(factor.T, goal)
    if ((free >= low) & (free <= high)).all():
        return np.asarray(free)
    # an interval without room is no interval to scipy
    room = np.maximum(high, low + 1e-12)
    return np.asarray(lsq_linear(factor.T, goal, (low, room), method="bvls").x)


def _rim_ids(model: MorphableModel) -> np.ndarray:
    rims = [rim.numpy() for pair in model.annotation.rims.values() for rim in pair]
    return np.unique(np.concatenate(rims)) if rims else np.zeros(0, np.int64)
