"""Where the landmarks of both layouts lie on the bundled head. Used by `annotate.py`.

MediaPipe's face mesh looks at renders of heads painted with the parts; what lies under each landmark is read back,
the middle over heads and views is taken, and the landmarks of lids and lips are moved onto the lines they name.
"""

from __future__ import annotations

from dataclasses import dataclass

import mediapipe
import numpy as np
import trimesh
from head_mesh import HEAD_CENTRE, Head, Lines, View, between, closed_surface, resample, split
from head_parts import BROW_ACROSS, BROW_BOTTOM, BROW_ENDS, BROW_TOP
from scipy.spatial import cKDTree

# MediaPipe's landmarks by what they lie on, from the person's right to left.
RIGHT_UPPER_LID = (33, 246, 161, 160, 159, 158, 157, 173, 133)
RIGHT_LOWER_LID = (33, 7, 163, 144, 145, 153, 154, 155, 133)
LEFT_UPPER_LID = (362, 398, 384, 385, 386, 387, 388, 466, 263)
LEFT_LOWER_LID = (362, 382, 381, 380, 374, 373, 390, 249, 263)
UPPER_LIP_BORDER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
LOWER_LIP_BORDER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
UPPER_LIP_RIM = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LOWER_LIP_RIM = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
BROWS = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55, 336, 296, 334, 293, 300, 285, 295, 282, 283, 276)
LEFT_IRIS, RIGHT_IRIS = (473, 474, 475, 476, 477), (468, 471, 470, 469, 472)
"""Centre of the iris, then its border at the outer side, top, inner side and bottom."""
FACE_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
JAW = FACE_OVAL[7:19]
"""From the left ear to the chin."""
FIXED_ON_FOREHEAD = (10, 109, 338, 67, 297)
"""Marks of the oval that lie inside the head's outline in all views, so that they need not slide."""
MIDLINE = (
    *(0, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19),
    *(94, 151, 152, 164, 168, 175, 195, 197, 199, 200),
)

BROW_RAISE = 0.018
"""MediaPipe places the landmarks of the brows higher over people's brows than over painted ones, by this share of the
distance between the eyes (measured on ten photos whose parts people had drawn)."""

IBUG_BROW_HEIGHT = 0.65
"""Height of iBUG's brow landmarks between the lower (0) and the upper border (1)."""
NOSE_RIDGE = [132, 133, 134, 135, 131, 1484, 164, 201, 291, 1555, 294, 1475]
"""Vertices from the nose's root to its tip: iBUG's landmarks 27-30, evenly spaced."""
IBUG_NOSE_BASE = ((317, 343, 0.6), (2512, 2513, 0.7), (2531, 2531, 0.0))
"""iBUG's landmarks 33-35, points (a, b, t), a + t (b - a)."""
IBUG_AS_MEDIAPIPE = {
    **{48: 61, 49: 39, 50: 37, 51: 0, 52: 267, 53: 269, 54: 291, 55: 405, 56: 314, 57: 17, 58: 84, 59: 181},
    **{60: 78, 61: 81, 62: 13, 63: 311, 64: 308, 65: 402, 66: 14, 67: 178},
}
"""iBUG's landmarks of the mouth by MediaPipe's numbers."""

VIEWS = (*((yaw, pitch) for pitch in (0, -10, 10) for yaw in (0, -12, 12, -25, 25)), (-42, 0), (42, 0))
"""Yaw and pitch of the renders, degrees."""
HEADS = 5
"""Random heads rendered besides the mean head."""
PATH_STEPS = 11
"""Candidates of each contour landmark."""

PAINT = {
    "nose": (205, 160, 138),
    "skin": (208, 164, 142),
    "upper_lip": (176, 70, 74),
    "lower_lip": (184, 78, 80),
    "right_eyebrow": (70, 48, 38),
    "left_eyebrow": (70, 48, 38),
    "right_eye": (215, 170, 160),
    "left_eye": (215, 170, 160),
    "hair": (60, 42, 34),
    "other": (198, 154, 132),
}
"""sRGB colours of the surface's parts in renders that a landmark detector should take for photos."""
EYE_WHITE, IRIS, PUPIL, CAVITY, TEETH, TONGUE = (
    *((232, 228, 225), (70, 50, 36), (15, 12, 12)),
    *((90, 30, 30), (225, 220, 205), (180, 80, 85)),
)
BACKGROUND = (150, 160, 170)
IRIS_RADIUS = 0.0059
PUPIL_RADIUS = 0.0024


@dataclass(frozen=True)
class Points:
    """Surface points."""

    vertices: np.ndarray
    """(..., 3) int64."""
    weights: np.ndarray
    """(..., 3)."""

    @classmethod
    def on_mesh(cls, mesh: trimesh.Trimesh, points: np.ndarray) -> Points:
        """The mesh's points nearest to `points` (..., 3)."""
        flat = points.reshape(-1, 3)
        _, near = cKDTree(mesh.triangles_center).query(flat, k=24)
        candidates = trimesh.triangles.closest_point(mesh.triangles[near.ravel()], np.repeat(flat, 24, axis=0))
        best = np.linalg.norm(candidates.reshape(near.shape + (3,)) - flat[:, None], axis=2).argmin(1)
        every = np.arange(len(flat))
        triangle, closest = near[every, best], candidates.reshape(near.shape + (3,))[every, best]
        weights = trimesh.triangles.points_to_barycentric(mesh.triangles[triangle], closest).clip(0, 1)
        return cls(np.array(mesh.faces)[triangle].reshape(points.shape), weights.reshape(points.shape))

    @classmethod
    def on_line(cls, line: list[int], vertices: np.ndarray, shares: np.ndarray) -> Points:
        """Points at these shares (N,) of the length of a line of vertices."""
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(vertices[line], axis=0), axis=1))])
        at = np.clip(shares, 0, 1) * along[-1]
        start = np.clip(np.searchsorted(along, at, side="right") - 1, 0, len(line) - 2)
        t = (at - along[start]) / (along[start + 1] - along[start])
        ids = np.array([*line, line[-1]])  # a third vertex of weight 0
        return cls(ids[start[:, None] + [0, 1, 2]], np.stack([1 - t, t, np.zeros_like(t)], 1))

    def of(self, positions: np.ndarray) -> np.ndarray:
        """Positions (..., 3) on a mesh with these vertices."""
        return np.asarray((positions[self.vertices] * self.weights[..., None]).sum(-2))

    def pick(self, index: list[int] | tuple[int, ...]) -> Points:
        """Some of the points."""
        return Points(self.vertices[list(index)], self.weights[list(index)])

    def mirrored(self, head: Head) -> Points:
        """Their mirror images."""
        return Points(head.mirror[self.vertices], self.weights)

    def put(self, index: list[int] | tuple[int, ...], points: Points) -> None:
        """Replace some of the points."""
        self.vertices[list(index)] = points.vertices
        self.weights[list(index)] = points.weights


@dataclass(frozen=True)
class Embedding:
    """One layout on the head."""

    points: Points
    """(N,)."""
    sliding: np.ndarray
    """(S,) ids of contour landmarks."""
    paths: Points
    """(S, PATH_STEPS): where they may slide, from the cheek outwards."""


@dataclass(frozen=True)
class Detections:
    """What MediaPipe found on R renders."""

    places: np.ndarray
    """(R, 478, 3) the landmarks' places on the mean head, NaN where they fell beside the head."""
    facing: np.ndarray
    """(R, 478) cosine between the surface's normal there and the viewing direction."""
    yaws: np.ndarray
    """(R,) degrees."""


def embed_mediapipe(head: Head, lines: Lines, fields: dict[str, np.ndarray], surface: np.ndarray) -> Embedding:
    """MediaPipe's 478 landmarks."""
    found = detect(head, fields, surface)
    pair = mirror_pairs()
    use = (found.facing > 0.35) & (np.abs(found.yaws) < 30)[:, None]
    use[:, list(FACE_OVAL)] = (found.yaws == 0)[:, None]
    use[:, ~(use | use[:, pair]).any(0)] = True
    place = _middle(found.places, pair, use)
    place[list(BROWS), 1] += BROW_RAISE * lines.unit
    outer = trimesh.Trimesh(head.mean, split(head.faces[surface]), process=False)
    points = Points.on_mesh(outer, place)

    for right, left, line in (
        (RIGHT_UPPER_LID, LEFT_UPPER_LID, lines.lid_rim[0]),
        (RIGHT_LOWER_LID, LEFT_LOWER_LID, lines.lid_rim[1]),
    ):
        on_rim = Points.on_line(line, head.mean, _shares(head.mean[line], place[list(left)]))
        points.put(left, on_rim)
        points.put(right[::-1], on_rim.mirrored(head))
    for marks, line in (
        (UPPER_LIP_BORDER, lines.lip_border[0]),
        (LOWER_LIP_BORDER, lines.lip_border[1]),
        (UPPER_LIP_RIM, lines.lip_rim[0]),
        (LOWER_LIP_RIM, lines.lip_rim[1]),
    ):
        shares = _shares(head.mean[line], place[list(marks)])
        points.put(marks, Points.on_line(line, head.mean, (shares + 1.0 - shares[::-1]) / 2.0))
    iris = _iris(head)
    points.put(LEFT_IRIS, iris)
    points.put(RIGHT_IRIS, iris.mirrored(head))

    sliding = np.array(sorted(set(FACE_OVAL) - set(FIXED_ON_FOREHEAD)))
    least, greatest = contour_range(found, pair)
    paths = contour_paths(
        closed_surface(head, lines, surface), points.of(head.mean)[sliding], least[sliding], greatest[sliding]
    )
    return Embedding(points, sliding, paths)


def embed_ibug(head: Head, lines: Lines, surface: np.ndarray, mediapipe478: Embedding) -> Embedding:
    """iBUG's 68 landmarks by their definition; the jaw slides as MediaPipe's oval does there."""
    outer = trimesh.Trimesh(head.mean, split(head.faces[surface]), process=False)
    on_mean = mediapipe478.points.of(head.mean)
    # the jaw from the height of the eyes to the chin, evenly spaced as seen from the front
    dense = resample(on_mean[list(JAW)])
    dense = dense[dense[:, 1] <= lines.eye_height]
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(dense[:, :2], axis=0), axis=1))])
    jaw = dense[np.searchsorted(along, np.linspace(0.0, along[-1], 9))]  # 16, 15, ... 8

    across = np.linspace(BROW_ENDS[0] + 0.02, BROW_ENDS[1] - 0.01, 5)
    top, bottom = np.interp(across, BROW_ACROSS, BROW_TOP), np.interp(across, BROW_ACROSS, BROW_BOTTOM)
    height = lines.eye_height + lines.unit * (bottom + IBUG_BROW_HEIGHT * (top - bottom))
    ahead = np.tile([0.0, 0.0, -1.0], (5, 1))
    brow = _hits(outer, np.stack([lines.unit * across, height, np.ones(5)], 1), ahead)  # 22 ... 26
    nose_base = between(head, IBUG_NOSE_BASE)  # 33, 34, 35

    flip = np.array([-1.0, 1.0, 1.0])
    places = np.zeros((68, 3))
    places[:17] = np.concatenate([jaw * flip, jaw[-2::-1]])
    places[17:27] = np.concatenate([brow[::-1] * flip, brow])
    places[31:36] = np.concatenate([nose_base[:0:-1] * flip, nose_base])
    points = Points.on_mesh(outer, places)
    points.put((27, 28, 29, 30), Points.on_line(NOSE_RIDGE, head.mean, np.linspace(0.0, 1.0, 4)))
    thirds = np.linspace(0.0, 1.0, 4)
    upper = Points.on_line(lines.lid_rim[0], head.mean, thirds)
    lower = Points.on_line(lines.lid_rim[1], head.mean, thirds[1:3])
    points.put((42, 43, 44, 45), upper)
    points.put((47, 46), lower)
    points.put((39, 38, 37, 36), upper.mirrored(head))
    points.put((40, 41), lower.mirrored(head))
    points.put(tuple(IBUG_AS_MEDIAPIPE), mediapipe478.points.pick(tuple(IBUG_AS_MEDIAPIPE.values())))

    on_jaw = points.of(head.mean)[:17]
    reach = contour_angle(mediapipe478.paths.of(head.mean)[:, [0, -1]])  # (S, 2)
    gap, near = cKDTree(on_mean[mediapipe478.sliding][:, :2]).query(on_jaw[:, :2], k=2)
    share = 1.0 / np.maximum(gap, 1e-6)
    least, greatest = np.einsum("nk,nkc->cn", share / share.sum(1, keepdims=True), reach[near])
    return Embedding(
        points, np.arange(17), contour_paths(closed_surface(head, lines, surface), on_jaw, least, greatest)
    )


def detect(head: Head, fields: dict[str, np.ndarray], surface: np.ndarray) -> Detections:
    """Run MediaPipe on the mean head and on seeded random ones with mild expressions, from all VIEWS."""
    rng = np.random.default_rng(0)
    shapes = [head.mean]
    for _ in range(HEADS):
        smile, jaw, brows = rng.uniform(0, (0.5, 0.2, 0.3))
        shapes.append(
            head.shape(
                0.6 * rng.standard_normal(20),
                mouthSmileLeft=smile,
                mouthSmileRight=smile,
                jawOpen=jaw,
                browInnerUp=brows,
            )
        )
    places, facing, yaws = [], [], []
    with mediapipe.solutions.face_mesh.FaceMesh(
        static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.2
    ) as detector:
        for vertices in shapes:
            for yaw, pitch in VIEWS:
                view = View(yaw, pitch)
                picture, raster, weights = paint(head, vertices, fields, surface, view)
                faces = detector.process(picture).multi_face_landmarks
                if not faces:
                    continue
                pixels = np.array([(p.x, p.y) for p in faces[0].landmark]) * view.size
                visible = np.argwhere(raster >= 0)
                gap, nearest = cKDTree(visible[:, ::-1] + 0.5).query(pixels)
                row, column = visible[nearest].T
                corners, weight = split(head.faces)[raster[row, column]], weights[row, column]
                place = np.einsum("ncx,nc->nx", head.mean[corners], weight)
                place[gap > 8.0] = np.nan
                edges = vertices[corners[:, 1:]] - vertices[corners[:, :1]]
                normal = np.cross(edges[:, 0], edges[:, 1])
                places.append(place)
                facing.append(normal @ view.rotation[2] / np.linalg.norm(normal, axis=1))
                yaws.append(yaw)
    return Detections(np.array(places), np.array(facing), np.array(yaws))


def paint(
    head: Head, vertices: np.ndarray, fields: dict[str, np.ndarray], surface: np.ndarray, view: View
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A shaded picture (H, W, 3) uint8 of the painted head, and the raster (H, W) and the weights (H, W, 3) of the
    triangles `split(head.faces)` behind it."""
    triangles = split(head.faces)
    raster, weights = view.rasterise(vertices, triangles)
    hit = raster >= 0
    corners, weight, face = triangles[raster[hit]], weights[hit], raster[hit] // 2
    palette = np.array([PAINT[name.split("/")[0]] for name in fields], float)
    colour = palette[np.einsum("fnc,nc->fn", np.stack(list(fields.values()))[:, corners], weight).argmax(0)]
    colour[~np.isin(face, surface)] = CAVITY
    piece = head.face_objects[face]
    for name, rgb in (("upper_teeth", TEETH), ("lower_teeth", TEETH), ("tongue", TONGUE)):
        colour[piece == head.objects.index(name)] = rgb
    place = np.einsum("ncx,nc->nx", head.mean[corners], weight)
    for name in ("left_eyeball", "right_eyeball"):
        centre = head.mean[np.unique(head.object_faces(name))].mean(0)
        on = piece == head.objects.index(name)
        off_axis = np.where(place[:, 2] > centre[2], np.linalg.norm(place[:, :2] - centre[:2], axis=1), np.inf)
        colour[on] = EYE_WHITE
        colour[on & (off_axis < IRIS_RADIUS)] = IRIS
        colour[on & (off_axis < PUPIL_RADIUS)] = PUPIL
    normals = trimesh.Trimesh(vertices, triangles, process=False).vertex_normals
    normal = np.einsum("ncx,nc->nx", normals[corners], weight) @ view.rotation.T
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    key, fill = normal @ [0.25, 0.45, 0.86], normal @ [-0.6, 0.1, 0.5]
    light = 0.35 + 0.55 * np.clip(key, 0, 1) + 0.2 * np.clip(fill, 0, 1)
    picture = np.full((view.size, view.size, 3), BACKGROUND, np.uint8)
    picture[hit] = np.clip(colour * light[:, None], 0, 255).astype(np.uint8)
    return picture, raster, weights


def mirror_pairs() -> np.ndarray:
    """(478,) MediaPipe's landmark on the other side: both halves are numbered in the same order, right half first."""
    pair = np.arange(478)
    right = np.setdiff1d(np.arange(248), MIDLINE)
    pair[right] = np.arange(248, 468)
    pair[248:468] = right
    pair[list(LEFT_IRIS + RIGHT_IRIS)] = RIGHT_IRIS + LEFT_IRIS
    return pair


def contour_angle(points: np.ndarray) -> np.ndarray:
    """Angle (...) between the direction from the middle of the head to points (..., 3) and straight ahead, radians."""
    offset = points - HEAD_CENTRE
    return np.asarray(np.arctan2(np.hypot(offset[..., 0], offset[..., 1]), offset[..., 2]))


def contour_range(found: Detections, pair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far landmarks slide: least and greatest angle (478,), radians, at which the renders showed them.

    On the side turned away they follow the silhouette over the cheek, on the near side they stay before the ear.
    """
    angles = contour_angle(found.places)  # (R, 478)
    on_left = np.nanmedian(found.places[..., 0], axis=0) >= 0

    def seen_at(yaw: float) -> np.ndarray:
        """Median angle of the left half's landmarks at a yaw, and of the right half's at the opposite one."""
        here, there = angles[found.yaws == yaw], angles[found.yaws == -yaw]
        of_left = np.nanmedian(np.concatenate([here, there[:, pair]]), axis=0)
        of_right = np.nanmedian(np.concatenate([there, here[:, pair]]), axis=0)
        return np.where(on_left, of_left, of_right)

    ahead = seen_at(0)
    turned_away = np.min([seen_at(yaw) for yaw in (12, 25, 42)], axis=0)  # positive yaw turns the left side away
    near = np.min([ahead, seen_at(-12), seen_at(-25)], axis=0)
    least = np.maximum(np.minimum(turned_away, ahead - np.deg2rad(2.0)), np.deg2rad(22.0))
    return least, np.maximum((ahead + near) / 2.0, least + np.deg2rad(3.0))


def contour_paths(mesh: trimesh.Trimesh, points: np.ndarray, least: np.ndarray, greatest: np.ndarray) -> Points:
    """Candidates (S, PATH_STEPS) of contour landmarks (S, 3): the surface cut by the plane through the landmark and
    the axis from the middle of the head straight ahead, between two angles (S,), from the cheek outwards."""
    turn = (points - HEAD_CENTRE) * [1.0, 1.0, 0.0]
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    angle = np.linspace(least, greatest, PATH_STEPS, axis=1)[..., None]
    outwards = np.cos(angle) * [0.0, 0.0, 1.0] + np.sin(angle) * turn[:, None]
    starts = HEAD_CENTRE + 0.3 * outwards  # from outside, so that the first hit is the outer surface
    hits = _hits(mesh, starts.reshape(-1, 3), -outwards.reshape(-1, 3))
    return Points.on_mesh(mesh, hits.reshape(outwards.shape))


def _middle(places: np.ndarray, pair: np.ndarray, use: np.ndarray) -> np.ndarray:
    """(N, 3) median over the renders of the places (R, N, 3) that are of use (R, N), the same on both sides."""
    places = np.where(use[..., None], places, np.nan)
    return np.asarray(np.nanmedian(np.concatenate([places, places[:, pair] * [-1.0, 1.0, 1.0]]), axis=0))


def _shares(line: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) share of the line's length at which the points come nearest to it, never falling, 0 and 1 at its ends."""
    dense = resample(line, 0.0001)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))])
    shares = np.maximum.accumulate(along[cKDTree(dense).query(points)[1]] / along[-1])
    shares[[0, -1]] = 0.0, 1.0
    return np.asarray(shares)


def _iris(head: Head) -> Points:
    """(5,) LEFT_IRIS on the eyeball, which looks straight ahead."""
    ball = head.object_faces("left_eyeball")
    x, y, _ = head.mean[np.unique(ball)].mean(0)
    ring = IRIS_RADIUS * np.array([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]])
    starts = np.concatenate([ring + [x, y], np.ones((5, 1))], axis=1)
    mesh = trimesh.Trimesh(head.mean, split(ball), process=False)
    return Points.on_mesh(mesh, _hits(mesh, starts, np.tile([0.0, 0.0, -1.0], (5, 1))))


def _hits(mesh: trimesh.Trimesh, starts: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(N, 3) where rays first meet the mesh; every one must."""
    where, ray, _ = mesh.ray.intersects_location(starts, directions, multiple_hits=False)
    hits = np.full(starts.shape, np.nan)
    hits[ray] = where
    assert np.isfinite(hits).all(), "a ray misses the head"
    return hits
