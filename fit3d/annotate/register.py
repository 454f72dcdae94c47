"""Lays an annotated head onto the mean head of another model, so that what is known of one is known of the other.

First as a person whom the annotated model can describe: a similarity, identity and a little expression that bring
its surface near the other (iterated closest points under the model's own prior). That places brows, lips and nose, of
which a smooth forehead tells nothing, as they go together in people. Then as a sheet that bends less and less stiffly
until it lies on the other surface (non-rigid closest points: Amberg, Romdhani and Vetter 2007, with a Laplacian in
place of their affine frames).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csc_matrix, csr_matrix, diags, identity
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from fit3d.annotate.mesh import Mesh, places_of, triangles_of
from fit3d.errors import ModelFileError
from fit3d.morphable.model import MorphableModel, SurfacePoints
from fit3d.morphable.pieces import piece_kind

PERSON_ITERATIONS = 25
PERSON_NOISE_M = 0.001
"""Standard deviation of distances between the surfaces when the model describes the person."""
PERSON_SAMPLES = 500.0
"""The surface tells as much as this many independent points."""
EXPRESSION_SD = 0.15
"""Mean heads look neutral."""
MARK_NOISE_M = 0.0015
MARK_SAMPLES = 68.0
"""Landmarks err by this much and together tell as much as this many independent ones."""
ALONG = 0.05
"""Weight of the distance along the surface, over that across it: closest points slide."""
OUTLIER_M = 0.008
"""Distance at which a closest point's weight has fallen to a quarter: ears and necks differ, or are missing."""
BEYOND_FACE = 0.1
"""Weight of what lies outside the face."""
STIFFNESS = tuple(float(value) for value in np.geomspace(300.0, 0.3, 16))
"""Of the sheet, from first to last; each is used twice."""
FACE_REACH_M = 0.02
"""The face: whatever is nearer to a landmark than this."""
FARTHEST_M = (0.003, 0.001)
"""A larger mean distance over the face after the first or second stage than this means that the registration failed."""
MOST_SCALED = 1.4
"""So does a head this many times larger or smaller,"""
MOST_TURNED_DEG = 30.0
"""or turned by more than this."""

SKIN_OBJECT = "head"


@dataclass(frozen=True)
class Registration:
    """The annotated model's outer surface laid onto another mean head."""

    source: Mesh
    """Its outer surface, at the places where it came to lie; vertex ids of the annotated model."""
    distance_m: float
    """Mean distance between the surfaces over the face."""


def skin_faces(model: MorphableModel) -> np.ndarray:
    """Ids of the faces of the model's skin: of the piece called 'head' or, without one, of all that are not eyeballs,
    teeth, lashes or the like by their names."""
    if SKIN_OBJECT in model.objects:
        return np.flatnonzero(model.face_objects == model.objects.index(SKIN_OBJECT))
    inner = [index for index, name in enumerate(model.objects) if piece_kind(name) != "skin"]
    found = np.flatnonzero(~np.isin(model.face_objects, inner))
    return np.asarray(found if len(found) else np.arange(len(model.faces)))


def skin_of(model: MorphableModel) -> Mesh:
    """The model's skin, cavities included, on the mean head."""
    return Mesh(model.mean.double().numpy(), triangles_of(model.faces[skin_faces(model)]))


def outside_of(model: MorphableModel, points: np.ndarray | None = None) -> Mesh:
    """The outer surface of an annotated model, without the patches that span its openings."""
    parts = model.annotation
    triangles = parts.triangles[parts.fixed_label < 0].numpy()
    return Mesh(model.mean.double().numpy() if points is None else points, triangles)


@dataclass(frozen=True)
class Marks:
    """Landmarks whose places on the target are known."""

    points: SurfacePoints
    """(N, 3) on the source."""
    places: np.ndarray
    """(N, 3) on the target's mean head."""


def register(source: MorphableModel, target: MorphableModel, marks: Marks | None = None) -> Registration:
    """Lay the annotated `source` onto `target`, of which only geometry is used. Both heads look ahead, in metres, with
    the origin between the eyes, as the contract of `fit3d.camera` has it; `marks` guide the first stage if given.

    Raises ModelFileError where the surfaces do not come together.
    """
    skin = skin_of(target)
    outside = outside_of(source)
    importance = importance_of(source, outside)
    mirror = outside.mirror if skin.mirror is not None else None
    face = outside.used[importance[outside.used] == 1.0]

    def distance(points: np.ndarray) -> float:
        """Mean distance over the face to the target."""
        return float(skin.nearest(points[face], Mesh(points, outside.triangles).normals[face]).distance.mean())

    points, scale, turn_deg = _as_person(source, outside, skin, importance, marks)
    first = distance(points)
    points = _as_sheet(Mesh(points, outside.triangles), skin, importance, mirror)
    last = distance(points)
    plausible = 1.0 / MOST_SCALED < scale < MOST_SCALED and turn_deg < MOST_TURNED_DEG
    if not (plausible and first < FARTHEST_M[0] and last < FARTHEST_M[1]):
        raise ModelFileError(
            f"{source.name} could not be laid onto the face of {target.name} ({1000.0 * first:.1f} mm apart, scaled by "
            f"{scale:.2f}, turned by {turn_deg:.0f} degrees): does the head look along +z, y up, in metres, its origin "
            "between the eyes?"
        )
    return Registration(Mesh(points, outside.triangles), last)


def importance_of(model: MorphableModel, outside: Mesh) -> np.ndarray:
    """(V,) weight of the vertices: 1 in the face, which is what lies near a landmark, `BEYOND_FACE` elsewhere."""
    marks = np.concatenate([places_of(embedding.points, outside.points) for embedding in model.landmarks.values()])
    return np.asarray(np.where(cKDTree(marks).query(outside.points)[0] < FACE_REACH_M, 1.0, BEYOND_FACE))


def _as_person(
    source: MorphableModel, outside: Mesh, skin: Mesh, importance: np.ndarray, marks: Marks | None
) -> tuple[np.ndarray, float, float]:
    """(V, 3): `source` with the similarity, identity and expression that fit `skin` best; the similarity's scale and
    the angle of its rotation, degrees."""
    used = outside.used
    basis = torch.cat([source.identity, source.expression])[:, used].double().numpy()  # (P, n, 3)
    count = len(basis)
    prior = np.concatenate([np.ones(len(source.identity)), np.full(count - len(source.identity), EXPRESSION_SD**-2)])
    prior = np.concatenate([prior, np.zeros(7)])
    mean = outside.points[used]
    if marks is not None:
        every = torch.cat([source.identity, source.expression])
        mark_basis = (
            torch.einsum("nk,pnkc->pnc", marks.points.weights, every[:, marks.points.vertices]).double().numpy()
        )
        mark_mean = places_of(marks.points, outside.points)
    unknowns = np.zeros(count + 7)
    rotation, scale, shift = np.eye(3), 1.0, np.zeros(3)
    points = outside.points.copy()
    for _ in range(PERSON_ITERATIONS):
        shape = mean + np.einsum("p,pnc->nc", unknowns[:count], basis)
        placed = scale * shape @ rotation.T + shift
        points[used] = placed
        hit = skin.nearest(placed, Mesh(points, outside.triangles).normals[used])
        weight = importance[used] / (1.0 + (hit.distance / OUTLIER_M) ** 2) ** 2
        weight *= PERSON_SAMPLES / weight.sum() / PERSON_NOISE_M**2
        columns = placed_derivatives(basis, placed - shift, rotation, scale)
        across = hit.normals
        rows = np.concatenate([np.einsum("nc,ncp->np", across, columns)[:, None], columns], 1)
        residual = hit.places - placed
        residual = np.concatenate([(across * residual).sum(1)[:, None], residual], 1)
        weights = weight[:, None] * np.array([1.0, ALONG, ALONG, ALONG])
        rows, residual, weights = rows.reshape(-1, count + 7), residual.ravel(), weights.ravel()
        if marks is not None:
            marked = scale * (mark_mean + np.einsum("p,pnc->nc", unknowns[:count], mark_basis)) @ rotation.T + shift
            rows = np.concatenate(
                [rows, placed_derivatives(mark_basis, marked - shift, rotation, scale).reshape(-1, count + 7)]
            )
            residual = np.concatenate([residual, (marks.places - marked).ravel()])
            weights = np.concatenate([weights, np.full(marked.size, MARK_SAMPLES / len(marked) / MARK_NOISE_M**2)])
        normal = (rows * weights[:, None]).T @ rows + np.diag(prior + 1e-9)
        step = np.linalg.solve(normal, rows.T @ (weights * residual) - prior * unknowns)
        unknowns[:count] += step[:count]
        turn = rotation_of(step[count : count + 3])
        rotation, shift = turn @ rotation, shift + step[count + 3 : count + 6]
        scale *= 1.0 + step[count + 6]
    points[used] = scale * (mean + np.einsum("p,pnc->nc", unknowns[:count], basis)) @ rotation.T + shift
    return points, scale, float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1.0) / 2.0, -1.0, 1.0))))


def placed_derivatives(basis: np.ndarray, arm: np.ndarray, rotation: np.ndarray, scale: float) -> np.ndarray:
    """(n, 3, P + 7) derivatives of placed points by coefficients, rotation vector, shift and relative scale, from their
    basis (P, n, 3) and their places without the shift (n, 3)."""
    count = len(basis)
    columns = np.empty((len(arm), 3, count + 7))
    columns[:, :, :count] = scale * np.einsum("ij,pnj->nip", rotation, basis)
    columns[:, :, count : count + 3] = np.stack([np.cross(axis, arm) for axis in np.eye(3)], -1)
    columns[:, :, count + 3 : count + 6] = np.eye(3)
    columns[:, :, count + 6] = arm
    return columns


def _as_sheet(start: Mesh, skin: Mesh, importance: np.ndarray, mirror: np.ndarray | None) -> np.ndarray:
    """(V, 3): `start` bent until it lies on `skin`, the same on both sides if `mirror` says what that is."""
    used = start.used
    bending = bending_of(start)
    points = start.points.copy()
    for stiffness in np.repeat(STIFFNESS, 2):
        here = points[used]
        laid = Mesh(points, start.triangles)
        hit = skin.nearest(here, laid.normals[used])
        weight = importance[used] / (1.0 + (hit.distance / OUTLIER_M) ** 2) ** 2
        away = hit.places - here
        across = (away * hit.normals).sum(1, keepdims=True) * hit.normals
        wanted = here + across + ALONG * (away - across) - start.points[used]
        moved = splu((diags(weight) + stiffness * bending).tocsc()).solve(weight[:, None] * wanted)
        points[used] = start.points[used] + moved
        if mirror is not None:
            points[used] = (points[used] + points[mirror[used]] * [-1.0, 1.0, 1.0]) / 2.0
    return points


def bending_of(mesh: Mesh, weight: np.ndarray | None = None) -> csc_matrix:
    """(U, U) quadratic form of the used vertices' displacements: the sum over them of the squared difference between
    each one's and its neighbours' mean, times their `weight` (U,) if given."""
    index = np.full(len(mesh.points), -1)
    index[mesh.used] = np.arange(len(mesh.used))
    a, b = index[mesh.edges].T
    ones = np.ones(2 * len(a))
    edges = csr_matrix((ones, (np.concatenate([a, b]), np.concatenate([b, a]))), shape=(len(mesh.used),) * 2)
    laplacian = identity(len(mesh.used)) - diags(1.0 / np.asarray(edges.sum(1)).ravel()) @ edges
    return (laplacian.T @ (laplacian if weight is None else diags(weight) @ laplacian)).tocsc()


def rotation_of(vector: np.ndarray) -> np.ndarray:
    """(3, 3) rotation by a rotation vector (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    k = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(np.eye(3) + np.sin(angle) * k + (1.0 - np.cos(angle)) * (k @ k))
