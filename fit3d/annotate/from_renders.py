"""Annotates a model that no annotated one helps with, as the bundled head, from which all others are annotated.

Parts and MediaPipe's landmarks are what renders show (`fit3d.annotate.vote`). The rims of lids and lips are loops of
the mesh that a person has picked, because renders tell them to a millimetre only, and a lid that does not end where its
mesh does never closes. iBUG's landmarks follow by their definition from MediaPipe's and from the rims. Metres of the
mean head, world frame of `fit3d.camera`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from fit3d.annotate.mesh import Mesh, Nearest, triangles_of
from fit3d.annotate.paint import IRIS_M
from fit3d.annotate.register import skin_faces, skin_of
from fit3d.annotate.transfer import Annotated, patch_of, seen_faces
from fit3d.annotate.vote import Votes, part_annotation
from fit3d.errors import ModelFileError
from fit3d.landmarks import CONTOUR_LANDMARKS, LandmarkLayout
from fit3d.morphable.annotation import OPENINGS
from fit3d.morphable.model import LandmarkEmbedding, MorphableModel, SurfacePoints
from fit3d.morphable.pieces import piece_kind

Rims = dict[str, tuple[np.ndarray, np.ndarray]]
"""By opening, upper and lower rim, vertex ids from the person's right to left, both with the shared corners."""

HEAD_CENTRE = np.array([0.0, -0.035, -0.060])
"""A point in the middle of the head, from which the face's outline is seen all around."""
HAIR_LINE = ((-0.040, 0.010), (-0.060, 0.016), (-0.095, 0.012), (-0.106, -0.020), (-0.118, -0.055), (-0.30, -0.055))
"""Lower border of the hair behind the face seen from the side, (z, y)."""
PATH_STEPS = 11
"""Candidates of each sliding landmark."""
LEAST_RAD, LEAST_BEFORE_RAD, LEAST_RANGE_RAD = np.deg2rad([22.0, 2.0, 3.0])
"""No landmark slides nearer than the first to straight ahead; each at least the second before the place where it is
seen from ahead, over at least the third."""
STEP_M = 0.0002
"""Spacing of points along a line."""

# MediaPipe's landmarks
IRIS = ((468, 471, 470, 469, 472), (473, 474, 475, 476, 477))
"""Right and left: centre, then the border at the outer side, top, inner side and bottom."""
FIXED_ON_FOREHEAD = (10, 109, 338, 67, 297)
"""Marks of the outline that lie inside the head's outline in all views, so that they need not slide."""
JAW = (356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152)
"""From the left ear to the chin."""
SUBNASALE, FOREHEAD = 2, 10
GLABELLA = 9
NOSE_RIDGE = (168, 6, 197, 195, 5, 4)
LOWER_BROW, UPPER_BROW = (285, 295, 282, 283, 276), (336, 296, 334, 293, 300)
"""Of the left brow, from its inner end outwards."""
IBUG_BROW_HEIGHT = 0.65
"""Height of iBUG's brow landmarks between the lower (0) and the upper border (1)."""
NOSE_BASE = ((2, 326, 0.0), (2, 326, 0.7), (326, 327, 0.6))
"""iBUG's 33, 34 and 35: points (a, b, t), a + t (b - a)."""
IBUG_MOUTH = {
    **{48: 61, 49: 39, 50: 37, 51: 0, 52: 267, 53: 269, 54: 291, 55: 405, 56: 314, 57: 17, 58: 84, 59: 181},
    **{60: 78, 61: 81, 62: 13, 63: 311, 64: 308, 65: 402, 66: 14, 67: 178},
}
"""iBUG's landmarks of the mouth by MediaPipe's numbers."""
LIP_RIMS = (
    (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
    (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),
)
"""Upper and lower, from the person's right to left: here the lips meet."""
LEFT_LIDS = ((362, 398, 384, 385, 386, 387, 388, 466, 263), (362, 382, 381, 380, 374, 373, 390, 249, 263))
IBUG_LEFT_EYE = ((42, 43, 44, 45), (47, 46))


def annotate_from_renders(model: MorphableModel, rims: Rims, votes: Votes) -> Annotated:
    """Parts and landmarks of both layouts, of votes on MediaPipe's. Raises ModelFileError where the model's eyes or
    mouth do not suit: without eyeballs nobody knows where the irises are."""
    if votes.layout != "mediapipe478":
        raise ModelFileError(f"votes on {votes.layout} do not tell all landmarks; use a detector of mediapipe478")
    skin = skin_of(model)
    surface = np.intersect1d(seen_faces(model, rims, skin.mirror), _before_the_rims(model, rims))
    outside = Mesh(skin.points, triangles_of(model.faces[surface]))
    patches = [patch_of(rims[name], skin.points) for name in OPENINGS]
    closed = Mesh(skin.points, np.concatenate([outside.triangles, *patches]))

    places = _places(votes, [outside.points[rim] for rim in rims["inner_mouth"]])
    parts = part_annotation(votes, outside, rims, _hair_line(outside), _face(places, closed, outside))
    mediapipe = _embedded(outside.nearest(places))
    for ids, side in zip(IRIS, (-1.0, 1.0), strict=True):
        on_ball = _iris(model, side)
        mediapipe.vertices[list(ids)] = torch.from_numpy(on_ball.vertices)
        mediapipe.weights[list(ids)] = torch.from_numpy(on_ball.weights.astype(np.float32))
    sliding = np.setdiff1d(CONTOUR_LANDMARKS["mediapipe478"], FIXED_ON_FOREHEAD)
    least, greatest = _slide(votes, sliding)
    ibug = _ibug(places, rims, outside)
    near = _between(places[sliding], ibug[:17])
    landmarks: dict[LandmarkLayout, LandmarkEmbedding] = {
        "ibug68": LandmarkEmbedding(
            _embedded(outside.nearest(ibug)),
            torch.arange(17),
            _paths(ibug[:17], near @ least, near @ greatest, closed),
        ),
        "mediapipe478": LandmarkEmbedding(
            mediapipe,
            torch.from_numpy(sliding),
            _paths(places[sliding], least, greatest, closed),
        ),
    }
    return Annotated(surface, parts, landmarks)


def _before_the_rims(model: MorphableModel, rims: Rims) -> np.ndarray:
    """Ids of the faces of the skin that hang together with the face without crossing a rim: without what lies behind
    lids and lips, even where it can be seen through an open neck."""
    ids = skin_faces(model)
    faces = model.faces[ids]
    last = np.where(faces[:, 3] >= 0, faces[:, 3], faces[:, 2])
    corners = [faces[:, 0], faces[:, 1], faces[:, 2], last]
    sides = np.stack([np.sort(np.stack([a, b], 1), 1) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)])
    key = (sides[..., 0] * len(model.mean) + sides[..., 1]).T  # (F, 4), the same for both faces beside an edge
    key[sides[..., 0].T == sides[..., 1].T] = -1
    lines = [rim for pair in rims.values() for rim in pair]
    walls = np.concatenate([np.sort(np.stack([line[:-1], line[1:]], 1), 1) for line in lines])
    key[np.isin(key, walls[:, 0] * len(model.mean) + walls[:, 1])] = -1
    edge, index = np.unique(key, return_inverse=True)
    beside = csr_matrix((np.ones(key.size), (np.repeat(np.arange(len(faces)), 4), index.ravel())))
    beside = beside[:, np.flatnonzero(edge >= 0)]
    _, piece = connected_components(beside @ beside.T, directed=False)
    foremost = int(model.mean[faces[:, 0], 2].argmax())  # the tip of the nose
    return np.asarray(ids[piece == piece[foremost]])


def _places(votes: Votes, lip_rims: list[np.ndarray]) -> np.ndarray:
    """(478, 3) where the landmarks lie: the outline as it is seen from ahead, those where the lips meet on their rims
    (N, 3), as renders with an open mouth tell nothing of these, and all others as voted."""
    places = votes.places.copy()
    ahead = votes.seen[votes.yaws_deg == 0]
    outline = [*CONTOUR_LANDMARKS["mediapipe478"], *np.flatnonzero(~np.isfinite(places).all(1))]
    both = np.concatenate([ahead, ahead[:, votes.twin] * [-1.0, 1.0, 1.0]])[:, outline]
    places[outline] = np.nanmedian(both, axis=0)
    for marks, rim in zip(LIP_RIMS, lip_rims, strict=True):
        shares = _shares(rim, places[list(marks)])
        places[list(marks)] = at_shares(rim, (shares + 1.0 - shares[::-1]) / 2.0)
    places[~np.isfinite(places).all(1)] = 0.0  # the irises' where nobody sees them: they lie on the eyeballs
    return places


def _face(places: np.ndarray, closed: Mesh, outside: Mesh) -> np.ndarray:
    """(V,) signed distance to the outline of the face, positive inside. Detectors' outline ends below the hairline,
    which by the canon of the face's equal thirds is as far above the glabella as the base of the nose is below it."""
    outline = places[list(CONTOUR_LANDMARKS["mediapipe478"])].copy()
    brow = places[GLABELLA, 1]
    stretch = (brow - places[SUBNASALE, 1]) / (places[FOREHEAD, 1] - brow)
    higher = outline[:, 1] > brow
    outline[higher, 1] = brow + stretch * (outline[higher, 1] - brow)
    toward = outline - HEAD_CENTRE
    outline = first_hits(closed, HEAD_CENTRE + toward / np.linalg.norm(toward, axis=1, keepdims=True) * 0.4, -toward)
    line = resample(np.concatenate([outline, outline[:1]]))
    inside = _within(_directions(line), _directions(outside.points))
    return np.where(inside, 1.0, -1.0) * cKDTree(line).query(outside.points)[0]


def _hair_line(outside: Mesh) -> np.ndarray:
    """(V,) height above the lower border of the hair behind the face."""
    z, y = np.array(HAIR_LINE).T
    return np.asarray(outside.points[:, 1] - np.interp(-outside.points[:, 2], -z, y))


def _ibug(places: np.ndarray, rims: Rims, outside: Mesh) -> np.ndarray:
    """(68, 3) iBUG's landmarks; the jaw evenly spaced as seen from ahead, from the height of the eyes to the chin."""
    flip = np.array([-1.0, 1.0, 1.0])
    ibug = np.zeros((68, 3))
    upper, lower = (places[list(marks)] for marks in LEFT_LIDS)
    eye_height = (upper[:, 1].max() + lower[:, 1].min()) / 2.0
    dense = resample(places[list(JAW)])
    dense = dense[dense[:, 1] <= eye_height]
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(dense[:, :2], axis=0), axis=1))])
    jaw = dense[np.searchsorted(along, np.linspace(0.0, along[-1], 9)).clip(max=len(dense) - 1)]  # 16, 15, ... 8
    ibug[:17] = np.concatenate([jaw * flip, jaw[-2::-1]])
    low, high = places[list(LOWER_BROW)], places[list(UPPER_BROW)]
    brow = at_shares(low + IBUG_BROW_HEIGHT * (high - low), np.linspace(0.0, 1.0, 5))  # 22 ... 26
    ibug[17:27] = np.concatenate([brow[::-1] * flip, brow])
    ibug[27:31] = at_shares(places[list(NOSE_RIDGE)], np.linspace(0.0, 1.0, 4))
    base = np.array([places[a] + t * (places[b] - places[a]) for a, b, t in NOSE_BASE])  # 33, 34, 35
    ibug[31:36] = np.concatenate([base[:0:-1] * flip, base])
    thirds = np.linspace(0.0, 1.0, 4)
    top, bottom = at_shares(upper, thirds), at_shares(lower, thirds[1:3])
    ibug[list(IBUG_LEFT_EYE[0])], ibug[list(IBUG_LEFT_EYE[1])] = top, bottom
    ibug[[39, 38, 37, 36]], ibug[[40, 41]] = top * flip, bottom * flip
    ibug[list(IBUG_MOUTH)] = places[list(IBUG_MOUTH.values())]
    return ibug


def _slide(votes: Votes, sliding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the landmarks `sliding` (S,) slide: least and greatest angle (S,), radians, at which renders showed them.

    On the side turned away they follow the silhouette over the cheek, on the near side they stay before the ear.
    """
    here, there = _angle(votes.seen[:, sliding]), _angle(votes.seen[:, votes.twin[sliding]])
    on_left = np.nanmedian(votes.seen[:, sliding, 0], axis=0) >= 0

    def seen_at(yaw: float) -> np.ndarray:
        """Median angle of the left half's landmarks at a yaw, and of the right half's at the opposite one."""
        one, other = votes.yaws_deg == yaw, votes.yaws_deg == -yaw
        of_left = np.nanmedian(np.concatenate([here[one], there[other]]), axis=0)
        of_right = np.nanmedian(np.concatenate([there[one], here[other]]), axis=0)
        return np.where(on_left, of_left, of_right)

    yaws = sorted({float(yaw) for yaw in np.abs(votes.yaws_deg)} - {0.0})
    ahead = seen_at(0.0)
    turned_away = np.min([seen_at(-yaw) for yaw in yaws], axis=0)  # positive yaw shows more of the left side
    near = np.min([ahead, *(seen_at(yaw) for yaw in yaws[:-1])], axis=0)
    least = np.maximum(np.minimum(turned_away, ahead - LEAST_BEFORE_RAD), LEAST_RAD)
    return least, np.maximum((ahead + near) / 2.0, least + LEAST_RANGE_RAD)


def _paths(points: np.ndarray, least: np.ndarray, greatest: np.ndarray, closed: Mesh) -> SurfacePoints:
    """Candidates (S, PATH_STEPS) of sliding landmarks (S, 3): the surface cut by the plane through the landmark and
    the axis from the middle of the head straight ahead, between two angles (S,), from the cheek outwards."""
    turn = (points - HEAD_CENTRE) * [1.0, 1.0, 0.0]
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    angle = np.linspace(least, greatest, PATH_STEPS, axis=1)[..., None]
    outwards = np.cos(angle) * [0.0, 0.0, 1.0] + np.sin(angle) * turn[:, None]
    starts = HEAD_CENTRE + 0.3 * outwards  # from outside, so that the first hit is the outer surface
    hits = first_hits(closed, starts.reshape(-1, 3), -outwards.reshape(-1, 3))
    found = _embedded(closed.nearest(hits))
    return SurfacePoints(found.vertices.reshape(*angle.shape[:2], 3), found.weights.reshape(*angle.shape[:2], 3))


def _iris(model: MorphableModel, side: float) -> Nearest:
    """(5,) the landmarks of an iris on the eyeball of that side, which looks straight ahead."""
    balls = [index for index, name in enumerate(model.objects) if piece_kind(name) == "eye"]
    triangles = triangles_of(model.faces[np.isin(model.face_objects, balls)])
    points = model.mean.double().numpy()
    triangles = triangles[(points[triangles][..., 0] * side > 0).all(1)] if len(triangles) else triangles
    if len(triangles) == 0:
        raise ModelFileError(f"{model.name} has no eyeballs, which the irises lie on; annotate it from another model")
    x, y, _ = points[np.unique(triangles)].mean(0)
    ring = IRIS_M * np.array([[0, 0], [side, 0], [0, 1], [-side, 0], [0, -1]])
    starts = np.concatenate([ring + [x, y], np.ones((5, 1))], axis=1)
    ball = Mesh(points, triangles)
    return ball.nearest(first_hits(ball, starts, np.tile([0.0, 0.0, -1.0], (5, 1))))


def _between(places: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, S) weights by which points (N, 3) lie between the two of places (S, 3) next to them, seen from ahead."""
    gap, near = cKDTree(places[:, :2]).query(points[:, :2], k=2)
    share = 1.0 / np.maximum(gap, 1e-6)
    weights = np.zeros((len(points), len(places)))
    np.put_along_axis(weights, near, share / share.sum(1, keepdims=True), 1)
    return weights


def _embedded(hit: Nearest) -> SurfacePoints:
    return SurfacePoints(torch.from_numpy(hit.vertices.copy()), torch.from_numpy(hit.weights.astype(np.float32)))


def _angle(points: np.ndarray) -> np.ndarray:
    """Angle (...) between the direction from the middle of the head to points (..., 3) and straight ahead, radians."""
    offset = points - HEAD_CENTRE
    return np.asarray(np.arctan2(np.hypot(offset[..., 0], offset[..., 1]), offset[..., 2]))


def _directions(points: np.ndarray) -> np.ndarray:
    """Azimuth from straight ahead and elevation (N, 2) of points (N, 3) as seen from the middle of the head."""
    x, y, z = (points - HEAD_CENTRE).T
    return np.stack([np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))], axis=1)


def _within(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) whether points (N, 2) lie in the closed polygon (M, 2)."""
    a, b = polygon, np.roll(polygon, -1, axis=0)
    rise = b[:, 1] - a[:, 1]
    slope = np.divide(b[:, 0] - a[:, 0], rise, out=np.zeros(len(a)), where=rise != 0)
    crosses = (a[:, 1] > points[:, None, 1]) != (b[:, 1] > points[:, None, 1])
    left_of = points[:, None, 0] < a[:, 0] + slope * (points[:, None, 1] - a[:, 1])
    return np.asarray((crosses & left_of).sum(1) % 2 == 1)


def resample(points: np.ndarray) -> np.ndarray:
    """A line (N, 3) with a point about every `STEP_M`."""
    pieces = [points[:1]]
    for a, b in pairwise(points):
        count = max(1, int(np.ceil(np.linalg.norm(b - a) / STEP_M)))
        pieces.append(a + (b - a) * np.linspace(0.0, 1.0, count + 1)[1:, None])
    return np.concatenate(pieces)


def _shares(line: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(M,) share of a line's length (N, 3) at which points (M, 3) come nearest to it, never falling, 0 and 1 at its
    ends."""
    dense = resample(line)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))])
    shares = np.maximum.accumulate(along[cKDTree(dense).query(points)[1]] / along[-1])
    shares[[0, -1]] = 0.0, 1.0
    return np.asarray(shares)


def at_shares(line: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(M, 3) points at these shares (M,) of the length of a line (N, 3)."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    return np.stack([np.interp(shares * along[-1], along, column) for column in line.T], 1)


def first_hits(mesh: Mesh, starts: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(N, 3) where rays from `starts` (N, 3) along `directions` (N, 3) first meet the mesh (Moeller and Trumbore 1997).

    Raises ModelFileError where one misses it.
    """
    corner = mesh.corners[:, 0]
    u, v = mesh.corners[:, 1] - corner, mesh.corners[:, 2] - corner
    hits = np.empty_like(starts)
    for ray, (start, direction) in enumerate(zip(starts, directions, strict=True)):
        across = np.cross(direction, v)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1.0 / (u * across).sum(1)
            from_corner = start - corner
            b = (from_corner * across).sum(1) * inverse
            turned = np.cross(from_corner, u)
            c = turned @ direction * inverse
            distance = (v * turned).sum(1) * inverse
            met = (b >= -1e-9) & (c >= -1e-9) & (b + c <= 1.0 + 1e-9) & (distance > 0.0)
        if not met.any():
            raise ModelFileError("a ray misses the head: does it look along +z, its origin between the eyes?")
        hits[ray] = start + distance[met].min() * direction
    return hits
