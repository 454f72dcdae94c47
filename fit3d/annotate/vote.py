"""Asks a landmark detector and a face parser where they see landmarks and parts on renders of a model, and lets the
renders vote, as the authors of the Part Re-projection Distance Loss did (Wang et al., "3D Face Reconstruction with the
Geometric Guidance of Facial Part Segmentation", CVPR 2024).

Seeded shapes and mild expressions are rendered from many views, with eyeballs and teeth where the model has them. What
a pixel shows is known, so that each landmark found is a place on the mean head, of which the median is taken, and each
vertex that is seen gets the label of its pixel and its distance to every part's border. A head in plain clay is looked
at first; then it is painted with the parts found so far and looked at again, because detectors place brows and lips
better where there are any.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from fit3d.annotate.mesh import Mesh, triangles_of
from fit3d.annotate.mirror import MIRRORED_LANDMARKS, mirrored_landmarks
from fit3d.annotate.paint import base_colours, colour_of, draw
from fit3d.annotate.register import Marks, Registration, register, skin_faces, skin_of
from fit3d.annotate.transfer import BROW_SIDE, IRISES, Annotated, narrow, patch_of, transfer
from fit3d.annotate.views import turned_view
from fit3d.camera import Camera
from fit3d.errors import ModelFileError
from fit3d.labels import (
    HAIR,
    INNER_MOUTH,
    IOU_PARTS,
    LOWER_LIP,
    MIRRORED_PART,
    OTHER,
    PART_IDS,
    PART_NAMES,
    PRDL_PARTS,
    SKIN,
    UPPER_LIP,
)
from fit3d.landmarks import CONTOUR_LANDMARKS, LandmarkLayout
from fit3d.morphable.annotation import FAR_OUTSIDE_M, OPENINGS
from fit3d.morphable.model import LandmarkEmbedding, MorphableModel, PartAnnotation, SurfacePoints
from fit3d.observe.base import FaceParser, LandmarkDetector
from fit3d.photo import Photo

VIEWS_DEG = ((0, 0), (0, -10), (0, 10), (-12, 0), (12, 0), (-25, 0), (25, 0))
"""Yaw and pitch of the renders."""
OUTLINE_VIEWS_DEG = ((-42, 0), (42, 0))
"""Of further renders, which tell only how the landmarks of the outline slide."""
PICTURE_PX = 512
PICTURE_HALF_M = 0.15
PICTURE_CENTRE_M = (0.0, -0.025, 0.0)
SHAPE_SD = 0.6
"""Standard deviation of the random identities."""
MILD = {"mouthSmileLeft": 0.5, "mouthSmileRight": 0.5, "jawOpen": 0.2, "browInnerUp": 0.3}
"""Largest coefficient of the expressions that are drawn, where the model has them; left and right together."""
FACING = 0.35
"""Least cosine between a place's normal and the direction to the camera for its vote to count."""
BESIDE_PX = 8.0
"""A landmark further than this beside the head does not count."""
BEHIND_M = 0.002
"""A vertex this far behind what its pixel shows is hidden."""
OFF_SURFACE_M = 0.003
"""A landmark whose votes' median lies further off the surface is left where the source's came to lie: its votes fell on
both sides of an open mouth, say."""
MOUTH = (UPPER_LIP, LOWER_LIP, INNER_MOUTH)
FEWEST_RENDERS = 5
"""With a face found in fewer there is no vote."""


@dataclass(frozen=True)
class Votes:
    """What the renders said, on the model's mean head."""

    layout: LandmarkLayout
    places: np.ndarray
    """(N, 3) median place of each landmark, metres; NaN where none was seen."""
    spread_mm: np.ndarray
    """(N,) median distance of the votes from that place."""
    label: np.ndarray
    """(V,) uint8 label that most renders gave a vertex, 0 where none saw it."""
    share: np.ndarray
    """(V,) share of the renders that saw the vertex and said so."""
    field: np.ndarray
    """(12, V) metres: mean signed distance of a vertex to the border of each part, positive inside."""
    mouth: np.ndarray
    """(V,) metres: the same for both lips and what lies between them together. Where the skin ends at thin lips only
    this tells: halfway between their borders the field of each is small."""
    around_brows: np.ndarray
    """(3, V) metres: mean signed distance of a vertex to where the brow of its side begins above, below and beside
    it, positive outside of the brow. A brow may be narrower than a triangle; each of these varies slowly over it."""
    renders: int
    """Renders in which a face was found."""
    seen: np.ndarray
    """(R, N, 3) what lies under each landmark in each render, whichever way it faces; NaN beside the head."""
    yaws_deg: np.ndarray
    """(R,) yaw of these renders, `OUTLINE_VIEWS_DEG` included."""
    twin: np.ndarray
    """(N,) which landmark each becomes in a mirror, -1 for none."""

    def as_text(self, mesh: Mesh) -> list[str]:
        """How far the renders agree, a line each."""
        area = np.bincount(mesh.triangles.ravel(), np.repeat(mesh.areas / 3.0, 3), len(mesh.points))
        shares = []
        for part in PRDL_PARTS:
            here = self.label == part
            if area[here].sum() > 0:
                shares.append(
                    f"{PART_NAMES[part]} {100.0 * float((area * self.share)[here].sum() / area[here].sum()):.0f}"
                )
        return [
            f"votes of {self.renders} renders: share that agrees with the most frequent label, %: {', '.join(shares)}",
            f"votes for landmarks lie {float(np.nanmedian(self.spread_mm)):.1f} mm from their median",
        ]


def cast_votes(
    model: MorphableModel,
    source: MorphableModel | None,
    detector: LandmarkDetector,
    parser: FaceParser,
    shapes: int = 5,
    seed: int = 0,
) -> Votes:
    """Votes of renders of the mean head and `shapes` random ones. Of `model` only geometry is used, of the annotated
    `source`, if there is one, which landmarks are mirror images of each other.

    Raises ModelFileError where hardly any render shows a face.
    """
    plain = np.zeros(len(model.mean), np.uint8)
    first = _round(model, source, detector, parser, shapes, seed, plain)
    return _round(model, source, detector, parser, shapes, seed, first.label)


def register_by_votes(source: MorphableModel, target: MorphableModel, votes: Votes) -> Registration:
    """Lay the annotated `source` onto `target` with the voted landmarks as a guide."""
    points = source.landmarks[votes.layout].points
    known = np.isfinite(votes.places).all(1)
    known[[*CONTOUR_LANDMARKS[votes.layout], *(IRISES if votes.layout == "mediapipe478" else ())]] = False
    chosen = torch.from_numpy(np.flatnonzero(known))
    marks = Marks(SurfacePoints(points.vertices[chosen], points.weights[chosen]), votes.places[known])
    return register(source, target, marks)


def annotate_by_votes(source: MorphableModel, target: MorphableModel, votes: Votes) -> Annotated:
    """Parts and landmarks as the renders voted; rims, the other layout and the paths of sliding landmarks are those of
    `source`, laid onto `target` by the voted landmarks."""
    carried = transfer(source, target, register_by_votes(source, target, votes))
    outside = Mesh(target.mean.double().numpy(), triangles_of(target.faces[carried.surface]))
    old, fields = carried.parts.field_labels.numpy(), carried.parts.fields.double().numpy()
    hair, other = (fields[old == label].max(0, initial=FAR_OUTSIDE_M) for label in (HAIR, OTHER))
    rims = {name: (upper.numpy(), lower.numpy()) for name, (upper, lower) in carried.parts.rims.items()}
    parts = part_annotation(votes, outside, rims, np.where(hair > other, -FAR_OUTSIDE_M, FAR_OUTSIDE_M))
    return replace(carried, parts=parts, landmarks=_landmarks(carried, votes, outside))


def part_annotation(
    votes: Votes,
    outside: Mesh,
    rims: dict[str, tuple[np.ndarray, np.ndarray]],
    hair: np.ndarray,
    face: np.ndarray | None = None,
) -> PartAnnotation:
    """The parts that were voted for on the surface `outside`, with these rims of the openings.

    Args:
        hair: (V,) metres: beyond the face there is hair where this is positive, and ears and neck elsewhere.
        face: (V,) metres: signed distance to the face's outline, positive inside; if not given, as voted.
    """
    seen = outside.used[votes.share[outside.used] > 0]
    nearest = outside.along_surface(seen)
    voted, mouth, around = votes.field[:, nearest], votes.mouth[nearest], votes.around_brows[:, nearest]
    if face is None:
        face = voted[[*IOU_PARTS, SKIN]].max(0)
    others = np.maximum(voted[[label for label in IOU_PARTS if label not in (*BROW_SIDE, *MOUTH)]].max(0), mouth)
    labels = np.array([*IOU_PARTS, SKIN, SKIN, SKIN, HAIR, OTHER])
    fields = np.stack(
        [
            *voted[list(IOU_PARTS)],
            *np.minimum(np.minimum(-others, face), around),
            *(np.minimum(-face, hair), np.minimum(-face, -hair)),
        ]
    )
    for label, side in BROW_SIDE.items():
        narrow(fields, labels, label, outside, side)
    patches = [patch_of(rims[name], outside.points) for name in OPENINGS]
    fixed = [np.full(len(outside.triangles), -1)]
    fixed += [np.full(len(patch), PART_IDS[name]) for name, patch in zip(OPENINGS, patches, strict=True)]
    return PartAnnotation(
        triangles=torch.from_numpy(np.concatenate([outside.triangles, *patches]).astype(np.int64)),
        fixed_label=torch.from_numpy(np.concatenate(fixed).astype(np.int64)),
        fields=torch.from_numpy(fields.astype(np.float32)),
        field_labels=torch.from_numpy(labels),
        rims={name: (torch.from_numpy(upper), torch.from_numpy(lower)) for name, (upper, lower) in rims.items()},
    )


def _landmarks(carried: Annotated, votes: Votes, outside: Mesh) -> dict[LandmarkLayout, LandmarkEmbedding]:
    """Voted places in the layout that was voted on, where there are any."""
    layout = votes.layout
    embedding = carried.landmarks[layout]
    known = np.isfinite(votes.places).all(1)
    known[[*embedding.sliding.tolist(), *(IRISES if layout == "mediapipe478" else ())]] = False
    known[known] = outside.nearest(votes.places[known]).distance < OFF_SURFACE_M
    hit = outside.nearest(votes.places[known])
    vertices, weights = embedding.points.vertices.numpy().copy(), embedding.points.weights.numpy().copy()
    vertices[known], weights[known] = hit.vertices, hit.weights
    points = SurfacePoints(torch.from_numpy(vertices), torch.from_numpy(weights))
    return {**carried.landmarks, layout: replace(embedding, points=points)}


def _round(
    model: MorphableModel,
    source: MorphableModel | None,
    detector: LandmarkDetector,
    parser: FaceParser,
    shapes: int,
    seed: int,
    paint: np.ndarray,
) -> Votes:
    """Votes of renders painted with the labels (V,)."""
    drawn = np.flatnonzero([colour_of(name) is not None for name in model.objects])
    faces = np.flatnonzero(np.isin(model.face_objects, drawn))
    faces = np.union1d(faces, skin_faces(model))
    triangles = triangles_of(model.faces[faces])
    skin = skin_of(model)
    is_skin = np.zeros(len(model.mean), bool)
    is_skin[skin.used] = True
    skin_triangle = np.append(is_skin[triangles].all(1), False)  # the last for pixels that show nothing
    mean = model.mean.double().numpy()
    label_votes = np.zeros((len(PART_NAMES), len(mean)))
    distances = np.zeros((len(PART_NAMES), len(mean)))
    around = np.zeros((3, len(mean)))
    mouth = np.zeros(len(mean))
    seen_in = np.zeros(len(mean))
    found: list[np.ndarray] = []
    everywhere: list[np.ndarray] = []
    yaws: list[float] = []
    layout: LandmarkLayout | None = None
    base = base_colours(model)
    for positions in _shapes(model, shapes, seed):
        for yaw, pitch in (*VIEWS_DEG, *(OUTLINE_VIEWS_DEG if source is None else ())):
            view = turned_view(yaw, pitch, PICTURE_PX, PICTURE_HALF_M, PICTURE_CENTRE_M)
            picture, triangle, weights, depth = draw(positions, triangles, view, base, paint)
            photo = Photo.from_array(picture, f"<{model.name}>")
            sightings = detector.detect(photo)
            if not sightings:
                continue
            landmarks = sightings[0]
            layout = landmarks.layout
            on_skin = np.where(skin_triangle[triangle], triangle, -1)
            place, facing = _places(landmarks.points_px, positions, mean, triangles, on_skin, weights, view)
            everywhere.append(place)
            yaws.append(yaw)
            if (yaw, pitch) in OUTLINE_VIEWS_DEG:
                continue
            found.append(np.where((facing > FACING)[:, None], place, np.nan))
            parts = parser.parse(photo, landmarks).labels
            ids, column, row, metres = _visible(positions, skin, view, depth)
            label_votes[parts[row, column], ids] += 1.0
            seen_in[ids] += 1.0
            for label, side in BROW_SIDE.items():
                here = mean[ids, 0] * side > 0.0
                around[:, ids[here]] += _around_brow(parts == label)[:, row[here], column[here]] * metres[here]
            mouth[ids] += _signed(np.isin(parts, MOUTH))[row, column] * metres
            for label in PRDL_PARTS:
                distances[label, ids] += _signed(parts == label)[row, column] * metres
    if len(found) < FEWEST_RENDERS or layout is None:
        raise ModelFileError(
            f"{model.name}: {detector.backend.name} found a face in {len(found)} renders only; does the head look "
            "along +z, y up, in metres, its origin between the eyes?"
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        field = np.where(seen_in > 0, distances / seen_in, FAR_OUTSIDE_M)
        around = np.where(seen_in > 0, around / seen_in, -FAR_OUTSIDE_M)
        mouth = np.where(seen_in > 0, mouth / seen_in, FAR_OUTSIDE_M)
        mirror = skin.mirror
        if mirror is not None:
            used, flip = skin.used, np.array(MIRRORED_PART)
            field[:, used] = (field[:, used] + field[flip][:, mirror[used]]) / 2.0
            mouth[used] = (mouth[used] + mouth[mirror[used]]) / 2.0
            around[:, used] = (around[:, used] + around[:, mirror[used]]) / 2.0
            label_votes[:, used] += label_votes[flip][:, mirror[used]]
        total = label_votes.sum(0)
        most = np.where(total > 0, label_votes.argmax(0), 0).astype(np.uint8)
        share = np.where(total > 0, label_votes.max(0) / total, 0.0)
    votes = np.array(found)
    twin = MIRRORED_LANDMARKS[layout] if source is None else mirrored_landmarks(source, layout)
    if mirror is not None:
        both = np.where((twin >= 0)[:, None], votes[:, twin] * [-1.0, 1.0, 1.0], np.nan)
        votes = np.concatenate([votes, both])
    return Votes(
        *(layout, *_median(votes), most, share, field, mouth, around, len(found)),
        seen=np.array(everywhere),
        yaws_deg=np.array(yaws),
        twin=twin,
    )


def _shapes(model: MorphableModel, count: int, seed: int) -> list[np.ndarray]:
    """Vertices (V, 3) of the mean head and random ones with mild expressions."""
    random = np.random.default_rng(seed)
    shapes = [model.mean.double().numpy()]
    for _ in range(count):
        identity = SHAPE_SD * random.standard_normal(len(model.identity))
        amounts = dict(zip(MILD, random.uniform(0.0, list(MILD.values())), strict=True))
        amounts["mouthSmileRight"] = amounts["mouthSmileLeft"]
        expression = [amounts.get(name, 0.0) for name in model.expression_names]
        vertices = model.vertices(torch.from_numpy(identity), torch.tensor(expression, dtype=torch.float64))
        shapes.append(vertices.numpy())
    return shapes


def _places(
    points_px: np.ndarray,
    positions: np.ndarray,
    mean: np.ndarray,
    triangles: np.ndarray,
    triangle: np.ndarray,
    weights: np.ndarray,
    view: Camera,
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) what lies under landmarks (N, 2), on the mean head, NaN beside the head; and (N,) the cosine between the
    surface's normal there and the direction to the camera."""
    visible = np.argwhere(triangle >= 0)
    points = np.where(np.isfinite(points_px), points_px, -1e6)
    gap, nearest = cKDTree(visible[:, ::-1] + 0.5).query(points)
    row, column = visible[nearest].T
    corners, share = triangles[triangle[row, column]], weights[row, column]
    place = np.einsum("nk,nkc->nc", share, mean[corners])
    seen = positions[corners]
    normal = np.cross(seen[:, 1] - seen[:, 0], seen[:, 2] - seen[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)
    away = normal @ view.cam_from_world[2, :3].numpy()
    place[gap > BESIDE_PX] = np.nan
    return np.asarray(place), -away


def _visible(
    positions: np.ndarray, skin: Mesh, view: Camera, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ids (n,) of the skin's vertices that are seen, their pixel columns and rows (n,), and metres per pixel there."""
    ids = skin.used
    at = torch.from_numpy(positions[ids])
    px, away = view.project(at).numpy(), view.to_cam(at)[:, 2].numpy()
    column, row = np.floor(px).astype(int).T
    within = (column >= 0) & (row >= 0) & (column < view.width) & (row < view.height)
    column, row = column.clip(0, view.width - 1), row.clip(0, view.height - 1)
    normals = Mesh(positions, skin.triangles).normals[ids] @ view.cam_from_world[2, :3].numpy()
    seen = within & (away < depth[row, column] + BEHIND_M) & (-normals > FACING)
    return ids[seen], column[seen], row[seen], away[seen] / view.focal_px


def _signed(inside: np.ndarray) -> np.ndarray:
    """(H, W) signed distance of each pixel to the border of a region (H, W), px, positive inside; far outside where
    there is none."""
    if not inside.any():
        return np.full(inside.shape, -float(max(inside.shape)))
    return np.asarray(distance_transform_edt(inside) - distance_transform_edt(~inside))


def _around_brow(brow: np.ndarray) -> np.ndarray:
    """(3, H, W) signed distance of each pixel to where a brow (H, W) begins above, below and to its sides, px, positive
    outside of it. Where there is no brow everything is far outside."""
    height, width = brow.shape
    columns = np.flatnonzero(brow.any(0))
    if len(columns) == 0:
        return np.full((3, height, width), float(max(height, width)))
    top, bottom = brow.argmax(0), height - brow[::-1].argmax(0)
    at = np.arange(width)
    rows = np.arange(height)[:, None]
    regions = (
        rows < np.interp(at, columns, top[columns]),
        rows >= np.interp(at, columns, bottom[columns]),
        np.broadcast_to((at < columns[0]) | (at > columns[-1]), brow.shape),
    )
    return np.stack([_signed(region) for region in regions])


def _median(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) median of places (R, N, 3) and (N,) the median distance from it, mm; NaN where there are none."""
    known = np.isfinite(votes).all(2).any(0)
    middle, spread = np.full(votes.shape[1:], np.nan), np.full(votes.shape[1], np.nan)
    middle[known] = np.nanmedian(votes[:, known], axis=0)
    spread[known] = 1000.0 * np.nanmedian(np.linalg.norm(votes[:, known] - middle[known], axis=2), axis=0)
    return middle, spread
