"""Makes ARKit's shapes that a model has no expression for, from the expressions that it has, as nearly as they can.

What each shape should do to the model's face is told by an annotated model that has the shape and was laid onto it
(`fit3d.annotate.register`): a point of its skin that goes from x to x + d goes, on the other head, from where x came to
lie to where x + d would. So a lid has further to go where the eye is taller. Each eyeball moves by the linear map of
its points that the shape makes of the source's. The coefficients c, within the model's bounds, then minimise

    sum_v w_v |d_v - sum_l c_l B_lv|^2 / sum_v w_v |d_v|^2 + EFFORT^2 sum_l (c_l / s_l)^2

over the vertices of outer surface and eyeballs, w their area, ten times as much in the face, s the larger bound.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from trimesh.registration import procrustes

from fit3d.annotate.mesh import Mesh, triangles_of
from fit3d.annotate.register import Registration, importance_of, outside_of
from fit3d.annotate.transfer import NUDGE, REACH_M, SAME_SIDE
from fit3d.export.files import write_text
from fit3d.morphable.arkit import SCHEMA, Combination, arkit_shapes
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.pieces import piece_kind
from fit3d.morphable.store import StoredModel
from fit3d.solve.levenberg_marquardt import bounded_step
from fit3d.solve.quadratic import Quadratic

EFFORT = 0.05
"""Moving one expression from end to end of its bounds costs as much as this share of the shape's size as residual."""
SMOOTH_M = 0.004
"""Standard deviation of the weights by which the registration is averaged between its points."""
NEIGHBOURS = 32
"""Points that it is averaged over."""
UNSEEN = ("tongueOut",)
"""Shapes that are neither on the skin nor on the eyeballs."""
GAZE = "eyeLook"
"""Begins the names of shapes that are nothing without eyeballs."""


def combinations(source: MorphableModel, target: MorphableModel, laid: Registration) -> dict[str, Combination]:
    """For each of ARKit's shapes that `source` offers and `target` does not, the combination that comes nearest.

    Left out are the tongue and, where the target has no eyeballs, the gaze: the skin does not show them.

    Args:
        source: an annotated model.
        target: an annotated model with expressions.
        laid: `source` on the mean head of `target`.
    """
    wanted = sought(source, target)
    if not wanted:
        return {}
    usable = _usable(target)
    shapes = np.stack([source.expression[list(parts)].double().sum(0).numpy() for parts in wanted.values()])
    ids, weight, goal = _carried(source, target, laid, shapes)
    square = np.einsum("n,snc->s", weight, goal**2)
    worth = square > 0.0  # a shape that does nothing where it can be seen is none
    names, goal, square = (
        [name for name, is_one in zip(wanted, worth, strict=True) if is_one],
        goal[worth],
        square[worth],
    )
    basis = target.expression[:, ids].double().numpy() * usable[:, None, None]
    coefficients = _solved(basis, weight, goal, square, target, usable)
    rest = goal - np.einsum("sl,lnc->snc", coefficients, basis)
    share = np.sqrt(np.einsum("n,snc->s", weight, rest**2) / square)
    size_mm = 1000.0 * np.sqrt(square / weight.sum())
    return {
        name: Combination(tuple(row.tolist()), float(size), float(left))
        for name, row, size, left in zip(names, coefficients, size_mm, share, strict=True)
    }


def sought(source: MorphableModel, target: MorphableModel) -> dict[str, tuple[int, ...]]:
    """The expressions of `source` whose sum it is, by ARKit's name, for each shape that `combinations` tries."""
    offered = arkit_shapes(target.expression_names)
    balls = _eyeballs(target)
    if not _usable(target).any():
        return {}
    return {
        name: parts
        for name, parts in arkit_shapes(source.expression_names).items()
        if name not in offered and name not in UNSEEN and (balls or not name.startswith(GAZE))
    }


def write_combinations(path: Path, model: StoredModel, source: str, found: Mapping[str, Combination]) -> None:
    """Replace the file that `fit3d.morphable.arkit.read_combinations` reads, a line for each shape, which `source`
    gave."""
    head = {"schema": SCHEMA, "model": model.name, "model_sha256": model.sha256, "shapes_of": source}
    lines = []
    for name, each in found.items():
        pairs = zip(model.expression_names, np.round(each.coefficients, 5).tolist(), strict=True)
        entry = {
            "size_mm": round(each.size_mm, 4),
            "residual": round(each.residual, 4),
            "coefficients": {expression: value for expression, value in pairs if value != 0.0},
        }
        lines.append(f"{json.dumps(name)}: {json.dumps(entry)}")
    shapes = "{\n" + ",\n".join(lines) + "\n}" if lines else "{}"
    write_text(path, json.dumps(head)[:-1] + f', "shapes": {shapes}}}\n')


def _usable(model: MorphableModel) -> np.ndarray:
    """(L,) bool: the expressions that have room and are no turn that fits leave alone."""
    held = () if model.articulation is None else model.articulation.held
    low, high = model.expression_bounds.double().numpy().T
    return np.array([name not in held for name in model.expression_names], bool) & (low < high)


def _carried(
    source: MorphableModel, target: MorphableModel, laid: Registration, shapes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices of the target that have a counterpart (N,), their weights (N,) and what the source's shapes (S, V, 3)
    make of them, (S, N, 3) metres."""
    outside = outside_of(target)
    used = outside.used
    # a little to the side where its own triangles lie, so that a rim of touching lips finds its own lip
    hit = laid.source.nearest(outside.points[used] + NUDGE * outside.lean[used], outside.normals[used])
    sure = (hit.distance < REACH_M) & ((hit.normals * outside.normals[used]).sum(1) > SAME_SIDE)
    skin = np.stack([hit.interpolate(each)[sure] for each in _warped(source, laid, shapes)])
    ids, goals = [used[sure]], [skin]
    weights = [importance_of(target, outside)[used[sure]] * _area(outside)[used[sure]]]
    theirs = _eyeballs(source)
    for side, ball in _eyeballs(target).items():
        if side in theirs:
            ids.append(ball.used)
            goals.append(_eyeball_motion(theirs[side], ball, shapes))
            weights.append(_area(ball)[ball.used])
    return np.concatenate(ids), np.concatenate(weights), np.concatenate(goals, axis=1)


def _warped(source: MorphableModel, laid: Registration, shapes: np.ndarray) -> np.ndarray:
    """(S, V, 3) the shapes (S, V, 3) of the source as motions of the head that it was laid onto.

    The map from head to head is the similarity of the faces plus what the registration adds to it, averaged so that it
    is smooth and defined off the surface too.
    """
    outside = outside_of(source)
    used = outside.used
    face = used[importance_of(source, outside)[used] == 1.0]
    matrix, _, _ = procrustes(outside.points[face], laid.source.points[face], reflection=False)
    beyond = laid.source.points[face] - (outside.points[face] @ matrix[:3, :3].T + matrix[:3, 3])
    tree = cKDTree(outside.points[face])

    def added(points: np.ndarray) -> np.ndarray:
        distance, near = tree.query(points, k=min(NEIGHBOURS, len(face)))
        weight = np.exp((distance[:, :1] ** 2 - distance**2) / (2.0 * SMOOTH_M**2))
        return np.asarray(np.einsum("nk,nkc->nc", weight / weight.sum(1, keepdims=True), beyond[near]))

    warped = np.zeros_like(shapes)
    rest = added(outside.points[used])
    for shape, out in zip(shapes, warped, strict=True):
        moved = shape[used].any(1)
        here, way = outside.points[used[moved]], shape[used[moved]]
        out[used[moved]] = way @ matrix[:3, :3].T + added(here + way) - rest[moved]
    return warped


def _eyeballs(model: MorphableModel) -> dict[float, Mesh]:
    """The model's eyeballs by their side, -1 the right and 1 the left one."""
    mean = model.mean.double().numpy()
    pieces = [index for index, name in enumerate(model.objects) if piece_kind(name) == "eye"]
    triangles = triangles_of(model.faces[np.isin(model.face_objects, pieces)])
    middle = mean[triangles].mean(1)[:, 0]
    sides = {side: triangles[middle * side > 0.0] for side in (-1.0, 1.0)}
    return {side: Mesh(mean, own) for side, own in sides.items() if len(own)}


def _eyeball_motion(theirs: Mesh, ours: Mesh, shapes: np.ndarray) -> np.ndarray:
    """(S, N, 3) what shapes (S, V, 3) that move the source's eyeball make of the N vertices of another one."""
    from_middle, our_from_middle = (
        ball.points[ball.used] - (ball.points[ball.used].min(0) + ball.points[ball.used].max(0)) / 2.0
        for ball in (theirs, ours)
    )
    columns = np.column_stack([from_middle, np.ones(len(from_middle))])
    motion = shapes[:, theirs.used].transpose(1, 0, 2).reshape(len(columns), -1)
    linear = np.linalg.lstsq(columns, motion, rcond=None)[0].reshape(4, len(shapes), 3)
    our_columns = np.column_stack([our_from_middle, np.ones(len(our_from_middle))])
    return np.asarray(np.einsum("nk,ksc->snc", our_columns, linear))


def _area(mesh: Mesh) -> np.ndarray:
    """(V,) square metres around each vertex."""
    area = np.zeros(len(mesh.points))
    np.add.at(area, mesh.triangles.ravel(), np.repeat(mesh.areas / 3.0, 3))
    return area


def _solved(
    basis: np.ndarray,
    weight: np.ndarray,
    goal: np.ndarray,
    square: np.ndarray,
    target: MorphableModel,
    usable: np.ndarray,
) -> np.ndarray:
    """(S, L) coefficients that minimise the sum above for goals (S, N, 3) of weighted squares (S,); 0 of expressions
    that are not `usable` (L,)."""
    low, high = target.expression_bounds.double()[usable].clone().T
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    reach = torch.maximum(-low, high).numpy()
    root = np.sqrt(weight)[:, None]
    rows = (root * basis[usable]).reshape(int(usable.sum()), -1)
    right = (root * goal).reshape(len(goal), -1) @ rows.T / square[:, None]
    hessian = (rows @ rows.T) / square[:, None, None] + np.diag((EFFORT / reach) ** 2)
    quadratic = Quadratic(torch.from_numpy(-right), torch.from_numpy(hessian))
    step = bounded_step(quadratic, torch.zeros(len(goal)), low.expand(len(goal), -1), high.expand(len(goal), -1))
    coefficients = np.zeros((len(goal), len(usable)))
    coefficients[:, usable] = step.numpy()
    return coefficients
