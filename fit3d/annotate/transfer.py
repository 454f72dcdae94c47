"""Carries the annotation of one model over to another that it has been laid onto."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch

from fit3d.annotate.mesh import Mesh, Nearest, edges_of, places_of, triangles_of
from fit3d.annotate.register import Registration, outside_of, skin_faces
from fit3d.annotate.views import VIEW_PX, turned_view
from fit3d.errors import ModelFileError
from fit3d.labels import LEFT_EYEBROW, PART_IDS, PART_NAMES, RIGHT_EYEBROW, SKIN
from fit3d.landmarks import LandmarkLayout
from fit3d.morphable.annotation import FAR_OUTSIDE_M, OPENINGS, strip
from fit3d.morphable.model import LandmarkEmbedding, MorphableModel, PartAnnotation, SurfacePoints
from fit3d.morphable.pieces import piece_kind
from fit3d.raster import rasterise

REACH_M = 0.006
"""A vertex of the target further from the source than this has no counterpart."""
NUDGE = 0.2
"""How far a vertex is moved along its lean to look for its counterpart."""
SAME_SIDE = 0.3
"""Nor has one whose normal has a smaller cosine with that of the nearest point."""
RIM_STEP_M = 0.0003
"""Spacing of the points that lead along a rim."""
RIM_SIGMA_M = 0.0007
"""How far the target's rims may be off those of the source before a detour along other edges is the shorter way."""
CORNER_SHARE = 0.2
"""Share of a rim's vertices, from each end, within which both rims may be one line: there is its corner."""
SEEN_PITCHES_DEG = (-60, -40, -10, 20)
SEEN_YAWS_DEG: tuple[tuple[tuple[str, ...], tuple[int, ...]], ...] = (
    ((), (-90, -60, -30, 0, 30, 60, 90)),
    (("jawOpen",), (-60, 0, 60)),
    (("eyeBlinkLeft", "eyeBlinkRight"), (-60, 0, 60)),
    (("noseSneerLeft", "noseSneerRight"), (0,)),
)
"""Expressions, at 1, and the views that tell which faces can be seen."""
IRISES = tuple(range(468, 478))
"""MediaPipe's landmarks that lie on the eyeballs."""
BROW_SIDE = {RIGHT_EYEBROW: -1.0, LEFT_EYEBROW: 1.0}


@dataclass(frozen=True)
class Annotated:
    """All that an annotation file tells of a model."""

    surface: np.ndarray
    """(S,) ids of the model's faces that can be seen from outside, without eyeballs and mouth cavity."""
    parts: PartAnnotation
    landmarks: dict[LandmarkLayout, LandmarkEmbedding]

    def on(self, model: MorphableModel) -> MorphableModel:
        """The model with this annotation."""
        return replace(model, annotation=self.parts, landmarks=self.landmarks)


def transfer(source: MorphableModel, target: MorphableModel, laid: Registration) -> Annotated:
    """The annotation of `source` on `target`: part fields and landmarks at nearest points, rims along edges.

    Where the target's mesh is symmetric its annotation is too. Raises ModelFileError where its lids or lips cannot be
    told apart.
    """
    skin = target.faces[skin_faces(target)]
    whole, edges = Mesh(target.mean.double().numpy(), triangles_of(skin)), edges_of(skin)
    mirror = whole.mirror if laid.source.mirror is not None else None
    rims = {name: _rims(source, whole, edges, laid, name, target.name) for name in OPENINGS}
    if mirror is not None:
        upper, lower = (mirror[rim][::-1].copy() for rim in rims["left_eye"])
        rims["right_eye"] = upper, lower
        upper, lower = (_mirrored_line(rim, mirror, whole.points) for rim in rims["inner_mouth"])
        rims["inner_mouth"] = upper, lower
    surface = seen_faces(target, rims, mirror)
    outside = Mesh(whole.points, triangles_of(target.faces[surface]))
    patches = [patch_of(rims[name], whole.points) for name in OPENINGS]
    fields, labels = _fields(source, outside, laid, mirror)
    fixed = [np.full(len(outside.triangles), -1)]
    fixed += [np.full(len(patch), PART_IDS[name]) for name, patch in zip(OPENINGS, patches, strict=True)]
    parts = PartAnnotation(
        triangles=torch.from_numpy(np.concatenate([outside.triangles, *patches]).astype(np.int64)),
        fixed_label=torch.from_numpy(np.concatenate(fixed).astype(np.int64)),
        fields=torch.from_numpy(fields.astype(np.float32)),
        field_labels=torch.from_numpy(labels),
        rims={name: (torch.from_numpy(upper), torch.from_numpy(lower)) for name, (upper, lower) in rims.items()},
    )
    closed = Mesh(whole.points, parts.triangles.numpy())
    landmarks = {
        layout: LandmarkEmbedding(
            points=_landmarks(
                source, target, laid, outside, embedding.points, IRISES if layout == "mediapipe478" else ()
            ),
            sliding=embedding.sliding,
            paths=_landmarks(source, target, laid, closed, embedding.paths, ()),
        )
        for layout, embedding in source.landmarks.items()
    }
    return Annotated(surface, parts, landmarks)


def _rims(
    source: MorphableModel, whole: Mesh, edges: np.ndarray, laid: Registration, name: str, target_name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower rim of an opening of the target, from the person's right to left, with shared corners."""
    traits, all_traits = laid.source.traits, whole.traits[whole.used]
    guides = [_dense(laid.source.points[rim], traits[rim]) for rim in (r.numpy() for r in source.annotation.rims[name])]
    ends = [((all_traits[:, :6] - guides[0][end, :6]) ** 2).sum(1).argmin() for end in (0, -1)]  # both rims lean there
    corners = int(whole.used[ends[0]]), int(whole.used[ends[1]])
    lines = [whole.path(edges, guide, corners, RIM_SIGMA_M) for guide in guides]
    upper, lower = _parted(lines[0], lines[1])
    if min(len(upper), len(lower)) < 3:
        raise ModelFileError(
            f"{target_name}: no rims of '{name}' found; the mesh must be cut open there, so that upper and lower "
            "rim can part"
        )
    return np.array(upper), np.array(lower)


def patch_of(rims: tuple[np.ndarray, np.ndarray], points: np.ndarray) -> np.ndarray:
    """(T, 3) triangles that span an opening."""
    upper, lower = rims
    return np.array(strip(upper.tolist(), lower.tolist(), points), np.int64)


def _parted(upper: list[int], lower: list[int]) -> tuple[list[int], list[int]]:
    """Both lines between the last vertex that they share near their start and the first one near their end; empty where
    they meet in between."""
    shared = [(i, lower.index(vertex)) for i, vertex in enumerate(upper) if vertex in lower]
    near_start = [(i, j) for i, j in shared if max(i / len(upper), j / len(lower)) < CORNER_SHARE]
    near_end = [(i, j) for i, j in shared if min(i / len(upper), j / len(lower)) > 1.0 - CORNER_SHARE]
    if not near_start or not near_end or len(near_start) + len(near_end) < len(shared):
        return [], []
    (i, j), (k, m) = max(near_start), min(near_end)
    return upper[i : k + 1], lower[j : m + 1]


def _dense(line: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(M, C) values (N, C) interpolated along a line (N, 3) every RIM_STEP_M."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.linspace(0.0, along[-1], max(2, int(along[-1] / RIM_STEP_M)))
    return np.stack([np.interp(at, along, column) for column in values.T], 1)


def _mirrored_line(line: np.ndarray, mirror: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A symmetric line: the left half (x > 0) of a line from right to left and its mirror image."""
    left = line[points[line, 0] > 1e-6]
    middle = line[np.abs(points[line, 0]) <= 1e-6]
    return np.concatenate([mirror[left][::-1], middle, left])


def seen_faces(
    model: MorphableModel, rims: dict[str, tuple[np.ndarray, np.ndarray]], mirror: np.ndarray | None
) -> np.ndarray:
    """Ids of the faces of the skin that some view from ahead or the side sees while patches span the openings."""
    candidates = skin_faces(model)
    faces = model.faces[candidates]
    is_quad = faces[:, 3] >= 0
    face_of = np.concatenate([np.arange(len(faces)), np.flatnonzero(is_quad)])
    skin = triangles_of(faces)
    mean = model.mean.double().numpy()
    patches = [patch_of(pair, mean) for pair in rims.values()]
    triangles = torch.from_numpy(np.concatenate([skin, *patches]).astype(np.int64))
    seen = np.zeros(len(faces), bool)
    for names, yaws in SEEN_YAWS_DEG:
        if not set(names) <= set(model.expression_names):
            continue
        positions = model.mean.double()
        for name in names:
            positions = positions + model.expression[model.expression_names.index(name)].double()
        for yaw, pitch in product(yaws, SEEN_PITCHES_DEG):
            view = turned_view(yaw, pitch)
            cam = view.to_cam(positions)
            hit = rasterise(view.project(positions), cam[:, 2], triangles, VIEW_PX, VIEW_PX).triangle
            ids = torch.unique(hit[hit >= 0]).numpy()
            seen[face_of[ids[ids < len(skin)]]] = True
    if mirror is not None:
        key = {frozenset(face[face >= 0].tolist()): index for index, face in enumerate(faces)}
        twin = np.array(
            [key.get(frozenset(mirror[face[face >= 0]].tolist()), index) for index, face in enumerate(faces)]
        )
        seen |= seen[twin]
    return np.asarray(candidates[seen])


def _fields(
    source: MorphableModel, outside: Mesh, laid: Registration, mirror: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(F, V) part fields of the target and (F,) their labels."""
    used = outside.used
    # a little to the side where its own triangles lie, so that a rim of touching lips finds its own lip
    hit = laid.source.nearest(outside.points[used] + NUDGE * outside.lean[used], outside.normals[used])
    parts = source.annotation
    labels = parts.field_labels.numpy()
    fields = np.full((len(labels), len(outside.points)), FAR_OUTSIDE_M)
    fields[:, used] = hit.interpolate(parts.fields.double().numpy().T).T
    same_side = (hit.normals * outside.normals[used]).sum(1) > SAME_SIDE
    # nostrils, shoulders: they are what their border is
    fields = fields[:, outside.along_surface(used[(hit.distance < REACH_M) & same_side])]
    if mirror is not None:
        fields[:, used] = (fields[:, used] + fields[_mirrored_fields(source)][:, mirror[used]]) / 2.0
    for label, side in BROW_SIDE.items():
        narrow(fields, labels, label, outside, side)
    return fields, labels


def _mirrored_fields(source: MorphableModel) -> np.ndarray:
    """(F,) which field each field is after mirroring the head."""
    labels = source.annotation.field_labels.tolist()
    swap = {
        "right_eye": "left_eye",
        "left_eye": "right_eye",
        "right_eyebrow": "left_eyebrow",
        "left_eyebrow": "right_eyebrow",
    }
    twins = []
    for index, label in enumerate(labels):
        name = PART_NAMES[label]
        other = PART_IDS[swap.get(name, name)]
        nth = labels[:index].count(label)
        twins.append([k for k, each in enumerate(labels) if each == other][nth])
    return np.array(twins)


def narrow(fields: np.ndarray, labels: np.ndarray, label: int, outside: Mesh, side: float) -> None:
    """Make the field of a brow 0 on the corners of all triangles that it touches, if the skin has borders of its own on
    both sides of it: the brow, narrower than a triangle, is where all of these are negative."""
    skin = np.flatnonzero(labels == SKIN)
    if len(skin) < 2:
        return
    (own,) = np.flatnonzero(labels == label)
    borders = fields[skin]
    near = (outside.points[:, 0] * side > 0.0) & (fields[own] > -0.02)
    grid = np.array([[a, b, 8 - a - b] for a in range(9) for b in range(9 - a)]) / 8.0
    triangles = outside.triangles[near[outside.triangles].all(1)]
    within = np.einsum("sc,ftc->fts", grid, borders[:, triangles]).max(0) < 0.0
    # where skin is negative because of nose, eye or hairline it is not the brow
    others = np.delete(fields, [own, *skin], axis=0)
    beside = np.einsum("sc,ftc->fts", grid, others[:, triangles]).max(0) < 0.0
    touched = np.unique(triangles[(within & beside).any(1)])
    fields[own, near] = np.minimum(fields[own, near], -0.001)
    fields[own, touched] = 0.0


def _landmarks(
    source: MorphableModel,
    target: MorphableModel,
    laid: Registration,
    mesh: Mesh,
    points: SurfacePoints,
    irises: tuple[int, ...],
) -> SurfacePoints:
    """Surface points of the source on `mesh`, a surface of the target; `irises` on its eyeballs."""
    vertices, weights = points.vertices.numpy(), points.weights.double().numpy()
    shape = vertices.shape
    flat_vertices, flat_weights = vertices.reshape(-1, 3), weights.reshape(-1, 3)
    place = np.einsum("nk,nkc->nc", flat_weights, laid.source.points[flat_vertices])
    normal = np.einsum("nk,nkc->nc", flat_weights, laid.source.normals[flat_vertices])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    hit = mesh.nearest(place, normal)
    found, share = hit.vertices.copy(), hit.weights.copy()
    if irises:
        on_ball = _on_eyeballs(source, target, points, irises)
        found[list(irises)], share[list(irises)] = on_ball.vertices, on_ball.weights
    return SurfacePoints(
        torch.from_numpy(found.reshape(shape)), torch.from_numpy(share.reshape(shape).astype(np.float32))
    )


def _on_eyeballs(
    source: MorphableModel, target: MorphableModel, points: SurfacePoints, irises: tuple[int, ...]
) -> Nearest:
    """The irises on the target's eyeballs, at the source's distances from their middles; where the target has none, on
    whatever lies nearest."""
    picked = SurfacePoints(points.vertices[list(irises)], points.weights[list(irises)])
    place = places_of(picked, source.mean.double().numpy())
    mean = target.mean.double().numpy()
    balls = [index for index, name in enumerate(target.objects) if piece_kind(name) == "eye"]
    if not balls:
        return Mesh(mean, triangles_of(target.faces)).nearest(place)
    mesh = Mesh(mean, triangles_of(target.faces[np.isin(target.face_objects, balls)]))
    from_source = outside_of(source).points
    for side in (-1.0, 1.0):
        here = place[:, 0] * side > 0
        ours = mesh.points[mesh.used][mesh.points[mesh.used, 0] * side > 0]
        ball = np.flatnonzero([piece_kind(name) == "eye" for name in source.objects])
        if len(ball) == 0:
            continue
        theirs = from_source[np.unique(triangles_of(source.faces[np.isin(source.face_objects, ball)]))]
        theirs = theirs[theirs[:, 0] * side > 0]
        middle, their_middle = (each.min(0) / 2.0 + each.max(0) / 2.0 for each in (ours, theirs))
        place[here] += middle - their_middle
    return mesh.nearest(place, np.tile([0.0, 0.0, 1.0], (len(place), 1)))
