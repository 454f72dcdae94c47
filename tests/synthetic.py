"""A crude face model made by formula, so that tests of the whole pipeline need no asset, and cameras that see it.

An egg-shaped head of quads with lid and mouth slits, eyeballs, a plate of teeth, a neck, UVs, eight identity and six
expression directions, part fields and both landmark layouts. Mirror-symmetric in x. World frame of `fit3d.camera`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fit3d.camera import CAM_FROM_FRONTAL_WORLD, Camera
from fit3d.labels import (
    INNER_MOUTH,
    LEFT_EYE,
    LEFT_EYEBROW,
    LOWER_LIP,
    NOSE,
    OTHER,
    RIGHT_EYE,
    RIGHT_EYEBROW,
    SKIN,
    UPPER_LIP,
)
from fit3d.landmarks import LandmarkLayout
from fit3d.morphable.model import LandmarkEmbedding, MorphableModel, PartAnnotation, SurfacePoints

HALF_AXES = np.array([0.075, 0.115, 0.09])
CENTRE = np.array([0.0, 0.0, -0.07])
EYE_X, EYE_RADIUS = 0.031, 0.012
MOUTH_Y = -0.065

# MediaPipe's point numbers of the contours, from the person's right to left; the other points have no name.
MP_EYE_UPPER_RIGHT = (33, 246, 161, 160, 159, 158, 157, 173, 133)
MP_EYE_LOWER_RIGHT = (33, 7, 163, 144, 145, 153, 154, 155, 133)
MP_EYE_UPPER_LEFT = (362, 398, 384, 385, 386, 387, 388, 466, 263)
MP_EYE_LOWER_LEFT = (362, 382, 381, 380, 374, 373, 390, 249, 263)
MP_BROW_UPPER_RIGHT, MP_BROW_LOWER_RIGHT = (70, 63, 105, 66, 107), (46, 53, 52, 65, 55)
MP_BROW_UPPER_LEFT, MP_BROW_LOWER_LEFT = (336, 296, 334, 293, 300), (285, 295, 282, 283, 276)
MP_LIPS_OUTER_UPPER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
MP_LIPS_OUTER_LOWER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
MP_LIPS_INNER_UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
MP_LIPS_INNER_LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
MP_NOSE_RIDGE = (168, 6, 197, 195, 5, 4, 1)
MP_NOSE_BASE = (48, 64, 98, 97, 2, 326, 327, 294, 278)
# clockwise in a frontal photo, from the top of the forehead
MP_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
MP_IRIS_RIGHT, MP_IRIS_LEFT = (468, 469, 470, 471, 472), (473, 474, 475, 476, 477)


@dataclass(frozen=True)
class _Grid:
    """The head's vertices before splitting into pieces: rows from the neck upwards, columns from back to back."""

    positions: np.ndarray
    """(rows * columns, 3)."""
    rows: int
    columns: int
    latitude: np.ndarray
    longitude: np.ndarray


def _angles(step_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes in degrees, symmetric, denser in front."""
    half = round(72.0 / step_deg)
    front = np.arange(-half, half + 1) * step_deg
    back = np.linspace(front[-1], 360.0 + front[0], 12)[1:-1]
    latitude = np.concatenate([np.arange(-20, 17) * 3.0, [60.0, 70.0, 80.0]])
    longitude = np.concatenate([front, back])
    return latitude, longitude[np.argsort((longitude + 180.0) % 360.0)]


def _bump(points: np.ndarray, x: float, y: float, width: float, height: float) -> np.ndarray:
    """(V,) smooth bump of height 1 around (x, y) on the front of the head."""
    front = 1.0 / (1.0 + np.exp(-(points[:, 2] + 0.05) / 0.01))
    return np.exp(-(((points[:, 0] - x) / width) ** 2) - ((points[:, 1] - y) / height) ** 2) * front


def _head_grid(step_deg: float) -> _Grid:
    latitude, longitude = _angles(step_deg)
    lat, lon = np.meshgrid(np.radians(latitude), np.radians(longitude), indexing="ij")
    ring = np.cos(lat) ** 0.7
    points = np.stack([ring * np.sin(lon), np.sin(lat), ring * np.cos(lon)], -1) * HALF_AXES + CENTRE
    neck = []
    for y, radius in ((-0.16, 0.052), (-0.14, 0.047), (-0.12, 0.044)):
        around = np.radians(longitude)
        neck.append(np.stack([radius * np.sin(around), np.full_like(around, y), radius * np.cos(around) - 0.075], -1))
    points = np.concatenate([np.stack(neck), points]).reshape(-1, 3)
    depth = 0.024 * _bump(points, 0.0, -0.036, 0.012, 0.016) + 0.012 * _bump(points, 0.0, -0.012, 0.009, 0.02)
    depth += 0.012 * _bump(points, 0.0, -0.098, 0.025, 0.02) + 0.006 * _bump(points, 0.0, MOUTH_Y, 0.03, 0.014)
    points[:, 2] += depth
    rows = len(latitude) + 3
    return _Grid(points, rows, len(longitude), np.concatenate([[-85.0, -78.0, -70.0], latitude]), longitude)


@functools.lru_cache(maxsize=4)
def synthetic_model(step_deg: float = 3.0) -> MorphableModel:
    """The model. `step_deg` is the spacing of its columns in front, degrees (about 3,400 vertices at 3)."""
    grid = _head_grid(step_deg)
    columns, rows = grid.columns, grid.rows
    points = list(grid.positions)
    index = np.arange(rows * columns).reshape(rows, columns)
    upper, lower = index.copy(), index.copy()  # vertex used by the quads above and below a row
    uv_row_shift: dict[int, float] = {}
    rims: dict[str, tuple[list[int], list[int]]] = {}
    grid_xy = grid.positions[index][:, :, :2]
    front = np.cos(np.radians(grid.longitude)) > 0.2

    def slit(name: str, x_from: float, x_to: float, y: float, opening: float) -> int:
        """Cut the grid along one row between two columns; the rims part by `opening` metres. Returns the row."""
        row = 3 + int(np.argmin(np.abs(grid.positions[index[3:, columns // 2], 1] - y)))
        x = np.where(front, grid_xy[row, :, 0], np.inf)
        first, last = int(np.argmin(np.abs(x - x_from))), int(np.argmin(np.abs(x - x_to)))
        first, last = min(first, last), max(first, last)
        top, bottom = [int(index[row, first])], [int(index[row, first])]
        for column in range(first + 1, last):
            share = (column - first) / (last - first)
            half = 0.5 * opening * math.sin(math.pi * share) ** 0.8
            old = int(index[row, column])
            for direction, rim, table in ((1.0, top, upper), (-1.0, bottom, lower)):
                vertex = old
                if direction > 0:
                    points.append(points[old].copy())
                    vertex = len(points) - 1
                    upper[row, column] = vertex
                uv_row_shift[vertex] = 0.3 * direction
                rim.append(vertex)
                for away in range(4):  # the neighbouring rows follow, so that no quad folds
                    mover = vertex if away == 0 else int(table[row + int(direction) * away, column])
                    points[mover] = points[mover] + np.array([0.0, direction * half * 0.6**away, 0.0])
        corner = int(index[row, last])
        rims[name] = ([*top, corner], [*bottom, corner])
        return row

    slit("right_eye", -EYE_X - 0.0145, -EYE_X + 0.0145, 0.0, 0.011)
    slit("left_eye", EYE_X - 0.0145, EYE_X + 0.0145, 0.0, 0.011)
    mouth_row = slit("inner_mouth", -0.024, 0.024, MOUTH_Y, 0.0)

    # sit the lids on the eyeballs
    position = np.asarray(points)
    for name, x in (("right_eye", -EYE_X), ("left_eye", EYE_X)):
        ids = np.unique(np.concatenate([np.asarray(rim) for rim in rims[name]]))
        around = position[ids] - [x, 0.0, 0.0]
        inside = np.maximum((EYE_RADIUS + 0.0012) ** 2 - (around[:, :2] ** 2).sum(1), 0.0)
        position[ids, 2] = np.maximum(position[ids, 2], np.sqrt(inside))

    # quads of the head, the seam at the back, a fan of triangles on top
    pole = len(position)
    position = np.concatenate([position, [[0.0, CENTRE[1] + HALF_AXES[1], CENTRE[2]]]])
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    after = (c + 1) % columns
    quads = np.stack([upper[r, c], upper[r, after], lower[r + 1, after], lower[r + 1, c]], -1).reshape(-1, 4)
    c = np.arange(columns)
    cap = np.stack([index[-1, c], index[-1, (c + 1) % columns], np.full(columns, pole), np.full(columns, -1)], -1)
    # UVs: one per (vertex, column), the first column twice
    uv: list[tuple[float, float]] = []
    uv_id: dict[tuple[int, int], int] = {}

    def head_uv(vertex: int, row: int, column: int) -> int:
        key = (vertex, column)
        if key not in uv_id:
            v = 0.25 + 0.74 * (row + uv_row_shift.get(vertex, 0.0)) / rows
            uv_id[key] = len(uv)
            uv.append((0.01 + 0.98 * column / columns, v))
        return uv_id[key]

    quad_uv = np.array(
        [
            [
                head_uv(int(upper[row, col]), row, col),
                head_uv(int(upper[row, (col + 1) % columns]), row, col + 1),
                head_uv(int(lower[row + 1, (col + 1) % columns]), row + 1, col + 1),
                head_uv(int(lower[row + 1, col]), row + 1, col),
            ]
            for row in range(rows - 1)
            for col in range(columns)
        ]
    )
    cap_uv = np.array(
        [
            [
                head_uv(int(index[-1, col]), rows - 1, col),
                head_uv(int(index[-1, (col + 1) % columns]), rows - 1, col + 1),
                head_uv(pole, rows, col),
                -1,
            ]
            for col in range(columns)
        ]
    )
    faces, uv_faces = [quads, cap], [quad_uv, cap_uv]
    objects = ("head", "left_eyeball", "right_eyeball", "teeth")
    face_objects = [np.zeros(len(quads) + len(cap), np.uint8)]
    head_count = len(position)

    def add(piece: tuple[np.ndarray, ...], which: int, corner: tuple[float, float]) -> np.ndarray:
        """Append a piece (vertices, faces, uv in the unit square, uv faces); its vertex ids."""
        nonlocal position
        vertices, piece_faces, piece_uv, piece_uv_faces = piece
        faces.append(np.where(piece_faces >= 0, piece_faces + len(position), -1))
        uv_faces.append(np.where(piece_uv_faces >= 0, piece_uv_faces + len(uv), -1))
        uv.extend((corner[0] + 0.2 * u, corner[1] + 0.2 * v) for u, v in piece_uv)
        face_objects.append(np.full(len(piece_faces), which, np.uint8))
        position = np.concatenate([position, vertices])
        return np.arange(len(position) - len(vertices), len(position))

    left_ball = add(_eyeball(EYE_X), 1, (0.02, 0.02))
    right_ball = add(_eyeball(-EYE_X), 2, (0.25, 0.02))
    teeth = add(_teeth(), 3, (0.5, 0.02))

    all_faces = np.concatenate(faces).astype(np.int32)
    skin_faces = all_faces[: len(quads) + len(cap)]
    annotation = _annotation(position, skin_faces, rims, upper, lower, index, mouth_row)
    identity = _identity_basis(position, head_count)
    names, expression = _expression_basis(position, rims, index, lower, mouth_row, teeth)
    landmarks = _landmarks(position, all_faces, skin_faces, rims, left_ball, right_ball)
    return MorphableModel(
        name="synthetic",
        version="1",
        licence="Made by formula for tests; no restrictions.",
        source="tests/synthetic.py",
        mean=torch.tensor(position, dtype=torch.float32),
        identity=torch.tensor(identity, dtype=torch.float32),
        expression=torch.tensor(expression, dtype=torch.float32),
        expression_names=names,
        expression_bounds=torch.tensor([[0.0, 1.0]] * len(names)),
        faces=all_faces,
        uv=np.asarray(uv, np.float32),
        uv_faces=np.concatenate(uv_faces).astype(np.int32),
        objects=objects,
        face_objects=np.concatenate(face_objects),
        annotation=annotation,
        landmarks=landmarks,
    )


def _eyeball(x: float) -> tuple[np.ndarray, ...]:
    """A ball whose front pole looks along +z; its UVs are a disc around that pole."""
    rings, around = 8, 16
    vertices, uv = [[x, 0.0, EYE_RADIUS]], [[0.5, 0.5]]
    for ring in range(1, rings):
        polar = math.pi * ring / rings
        for k in range(around):
            turn = 2.0 * math.pi * k / around
            across = np.array([math.cos(turn), math.sin(turn)])
            vertices.append([*(EYE_RADIUS * math.sin(polar) * across + [x, 0.0]), EYE_RADIUS * math.cos(polar)])
            uv.append(list(0.5 + 0.5 * across * ring / rings))
    faces = [[0, 1 + k, 1 + (k + 1) % around, -1] for k in range(around)]
    for ring in range(rings - 2):
        a, b = 1 + ring * around, 1 + (ring + 1) * around
        faces += [[a + k, b + k, b + (k + 1) % around, a + (k + 1) % around] for k in range(around)]
    vertices.append([x, 0.0, -EYE_RADIUS])
    last = 1 + (rings - 2) * around
    uv_faces = list(faces)
    for k in range(around):
        faces.append([last + k, len(vertices) - 1, last + (k + 1) % around, -1])
        uv_faces.append([last + k, len(uv), last + (k + 1) % around, -1])
        turn = 2.0 * math.pi * (k + 0.5) / around
        uv.append([0.5 + 0.5 * math.cos(turn), 0.5 + 0.5 * math.sin(turn)])
    return np.array(vertices), np.array(faces), np.array(uv), np.array(uv_faces)


def _teeth() -> tuple[np.ndarray, ...]:
    """A plate behind the lips."""
    share = np.linspace(-1.0, 1.0, 7)
    top, bottom = [], []
    for s in share:
        x, z = 0.02 * s, -0.006 - 0.008 * s * s
        bottom.append([x, MOUTH_Y - 0.008, z])
        top.append([x, MOUTH_Y + 0.006, z])
    faces = [[k, k + 1, k + 8, k + 7] for k in range(6)]
    uv = [[0.5 + 0.5 * s, 0.0] for s in share] + [[0.5 + 0.5 * s, 1.0] for s in share]
    return np.array(bottom + top), np.array(faces), np.array(uv), np.array(faces)


def _triangulate(faces: np.ndarray) -> np.ndarray:
    quads = faces[faces[:, 3] >= 0]
    return np.concatenate([faces[:, :3], quads[:, [0, 2, 3]]])


def _annotation(
    position: np.ndarray,
    skin_faces: np.ndarray,
    rims: dict[str, tuple[list[int], list[int]]],
    upper: np.ndarray,
    lower: np.ndarray,
    index: np.ndarray,
    mouth_row: int,
) -> PartAnnotation:
    x, y, z = position.T
    surface = _triangulate(skin_faces)
    patches, patch_label = [], []
    for name, label in (("right_eye", RIGHT_EYE), ("left_eye", LEFT_EYE), ("inner_mouth", INNER_MOUTH)):
        top, bottom = rims[name]
        strip = []
        for k in range(len(top) - 1):
            if k > 0:
                strip.append([bottom[k], bottom[k + 1], top[k]])
            if k < len(top) - 2:
                strip.append([top[k], bottom[k + 1], top[k + 1]])
        if name != "inner_mouth":
            assert len(strip) == 2 * len(top) - 4
        patches += strip
        patch_label += [label] * len(strip)

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        """Signed distance, roughly, positive inside, on the front of the head only."""
        inside = (1.0 - np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)) * min(rx, ry)
        return np.where(z > -0.06, inside, -0.02)

    brow = {RIGHT_EYEBROW: ellipse(-0.031, 0.021, 0.02, 0.0045), LEFT_EYEBROW: ellipse(0.031, 0.021, 0.02, 0.0045)}
    nose = ellipse(0.0, -0.028, 0.015, 0.024)
    lips = ellipse(0.0, MOUTH_Y, 0.026, 0.0085)
    above = np.zeros(len(position), bool)
    above[np.unique(np.concatenate([index[mouth_row + 1 :].ravel(), upper[mouth_row]]))] = True
    below = np.zeros(len(position), bool)
    below[np.unique(np.concatenate([index[:mouth_row].ravel(), lower[mouth_row]]))] = True
    below[upper[mouth_row][upper[mouth_row] != lower[mouth_row]]] = False
    shared = index[mouth_row][upper[mouth_row] == lower[mouth_row]]
    above[shared] = True
    below[shared] = True
    fields = {**brow, NOSE: nose, UPPER_LIP: np.where(above, lips, -0.01), LOWER_LIP: np.where(below, lips, -0.01)}
    face = np.minimum(ellipse(0.0, -0.025, 0.068, 0.092), np.where(y > -0.115, 0.02, -0.01))
    fields[SKIN] = np.minimum(face, -np.maximum.reduce(list(fields.values())))
    fields[OTHER] = -face
    return PartAnnotation(
        triangles=torch.tensor(np.concatenate([surface, patches]), dtype=torch.int64),
        fixed_label=torch.tensor([-1] * len(surface) + patch_label, dtype=torch.int64),
        fields=torch.tensor(np.stack(list(fields.values())), dtype=torch.float32),
        field_labels=torch.tensor(list(fields), dtype=torch.int64),
        rims={
            name: (torch.tensor(top, dtype=torch.int64), torch.tensor(bottom, dtype=torch.int64))
            for name, (top, bottom) in rims.items()
        },
    )


def _identity_basis(position: np.ndarray, head_count: int) -> np.ndarray:
    """(8, V, 3) metres per standard deviation: smooth, symmetric, near-orthogonal."""
    x, y, z = (position - CENTRE).T
    zero = np.zeros_like(x)
    jaw = 1.0 / (1.0 + np.exp((y + 0.04) / 0.015))
    nose = _bump(position, 0.0, -0.034, 0.013, 0.02)
    eyes = np.exp(-(((position[:, 1]) / 0.02) ** 2)) * (z > 0.02)
    mouth = _bump(position, 0.0, MOUTH_Y, 0.035, 0.02)
    chin = _bump(position, 0.0, -0.1, 0.035, 0.03)
    basis = [
        np.stack([0.05 * x, zero, zero], -1),
        np.stack([zero, 0.04 * y, zero], -1),
        np.stack([zero, zero, 0.05 * z], -1),
        np.stack([0.05 * x * jaw, zero, zero], -1),
        np.stack([zero, zero, 0.004 * nose], -1),
        np.stack([0.04 * position[:, 0] * eyes, zero, zero], -1),
        np.stack([zero, 0.003 * mouth, zero], -1),
        np.stack([zero, -0.003 * chin, 0.003 * chin], -1),
    ]
    assert head_count <= len(position)
    return np.stack(basis)


def _expression_basis(
    position: np.ndarray,
    rims: dict[str, tuple[list[int], list[int]]],
    index: np.ndarray,
    lower: np.ndarray,
    mouth_row: int,
    teeth: np.ndarray,
) -> tuple[tuple[str, ...], np.ndarray]:
    zero = np.zeros_like(position)
    shapes: dict[str, np.ndarray] = {}
    for name, key in (("eyeBlinkLeft", "left_eye"), ("eyeBlinkRight", "right_eye")):
        top, bottom = (np.asarray(rim) for rim in rims[key])
        shape = zero.copy()
        shape[top] = position[bottom] - position[top]
        shapes[name] = shape
    below = np.zeros(len(position), bool)
    below[np.unique(np.concatenate([index[:mouth_row].ravel(), lower[mouth_row]]))] = True
    top, bottom = (np.asarray(rim) for rim in rims["inner_mouth"])
    below[top] = False
    jaw = zero.copy()
    drop = 0.022 * _bump(position, 0.0, MOUTH_Y - 0.02, 0.05, 0.04) * below
    share = np.linspace(0.0, math.pi, len(bottom))
    drop[bottom] = np.sin(share) * 0.022 * np.exp(-0.25)
    jaw[:, 1], jaw[:, 2] = -drop, -0.3 * drop
    shapes["jawOpen"] = jaw
    for name, sign in (("mouthSmileLeft", 1.0), ("mouthSmileRight", -1.0)):
        shape = zero.copy()
        shape[:, 1] = 0.007 * _bump(position, sign * 0.026, MOUTH_Y, 0.014, 0.02)
        shape[:, 0] = sign * 0.5 * shape[:, 1]
        shape[teeth] = 0.0
        shapes[name] = shape
    shape = zero.copy()
    shape[:, 1] = 0.007 * (_bump(position, 0.018, 0.022, 0.02, 0.012) + _bump(position, -0.018, 0.022, 0.02, 0.012))
    for key in ("left_eye", "right_eye"):
        for rim in rims[key]:
            shape[np.asarray(rim)] = 0.0
    shapes["browInnerUp"] = shape
    return tuple(shapes), np.stack(list(shapes.values()))


def _hit(position: np.ndarray, triangles: np.ndarray, origin: np.ndarray, direction: np.ndarray, far: bool) -> tuple:
    """Nearest (or farthest) hit of a ray with a mesh (Möller and Trumbore 1997): vertex ids (3,) and weights (3,)."""
    a, b, c = (position[triangles[:, k]] for k in range(3))
    e1, e2 = b - a, c - a
    p = np.cross(direction, e2)
    determinant = (e1 * p).sum(1)
    safe = np.where(np.abs(determinant) < 1e-15, np.inf, determinant)
    s = origin - a
    u = (s * p).sum(1) / safe
    q = np.cross(s, e1)
    v = (q @ direction) / safe
    t = (e2 * q).sum(1) / safe
    slack = 1e-9
    hits = np.flatnonzero((u >= -slack) & (v >= -slack) & (u + v <= 1 + slack) & (t > 1e-6) & np.isfinite(safe))
    if len(hits) == 0:
        raise ValueError(f"no surface along {direction} from {origin}")
    best = hits[np.argmax(t[hits]) if far else np.argmin(t[hits])]
    return triangles[best], np.array([1.0 - u[best] - v[best], u[best], v[best]])


def _landmarks(
    position: np.ndarray,
    faces: np.ndarray,
    skin_faces: np.ndarray,
    rims: dict[str, tuple[list[int], list[int]]],
    left_ball: np.ndarray,
    right_ball: np.ndarray,
) -> dict[LandmarkLayout, LandmarkEmbedding]:
    skin = _triangulate(skin_faces)
    everything = _triangulate(faces)
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def front(x: float, y: float, mesh: np.ndarray = skin) -> tuple[np.ndarray, np.ndarray]:
        """The surface point that a frontal view sees at (x, y)."""
        ids, weights = _hit(position, mesh, np.array([x, y, 1.0]), np.array([0.0, 0.0, -1.0]), far=False)
        return ids, weights

    def at_vertex(vertex: int) -> tuple[np.ndarray, np.ndarray]:
        return np.array([vertex] * 3), np.array([1.0, 0.0, 0.0])

    def along_rim(rim: list[int], share: float) -> tuple[np.ndarray, np.ndarray]:
        where = share * (len(rim) - 1)
        k = min(int(where), len(rim) - 2)
        return np.array([rim[k], rim[k + 1], rim[k + 1]]), np.array([1.0 - (where - k), where - k, 0.0])

    def spread(numbers: tuple[int, ...], rim: list[int]) -> None:
        for k, number in enumerate(numbers):
            found[number] = along_rim(rim, k / (len(numbers) - 1))

    def arc(numbers: tuple[int, ...], cx: float, cy: float, rx: float, ry: float) -> None:
        """Points over half an ellipse from its right (-x) to its left end; negative `ry` for the lower half."""
        for k, number in enumerate(numbers):
            turn = math.pi * (1.0 - k / (len(numbers) - 1))
            found[number] = front(cx + rx * math.cos(turn), cy + ry * math.sin(turn))

    # MediaPipe
    spread(MP_EYE_UPPER_RIGHT, rims["right_eye"][0])
    spread(MP_EYE_LOWER_RIGHT, rims["right_eye"][1])
    spread(MP_EYE_UPPER_LEFT, rims["left_eye"][0])
    spread(MP_EYE_LOWER_LEFT, rims["left_eye"][1])
    spread(MP_LIPS_INNER_UPPER, rims["inner_mouth"][0])
    spread(MP_LIPS_INNER_LOWER, rims["inner_mouth"][1])
    for upper_brow, lower_brow, x in (
        (MP_BROW_UPPER_RIGHT, MP_BROW_LOWER_RIGHT, -0.031),
        (MP_BROW_UPPER_LEFT, MP_BROW_LOWER_LEFT, 0.031),
    ):
        arc(upper_brow, x, 0.021, 0.0199, 0.0045)
        arc(lower_brow, x, 0.021, 0.0195, -0.0045)
    arc(MP_LIPS_OUTER_UPPER, 0.0, MOUTH_Y, 0.026, 0.0085)
    arc(MP_LIPS_OUTER_LOWER, 0.0, MOUTH_Y, 0.026, -0.0085)
    for k, number in enumerate(MP_NOSE_RIDGE):
        found[number] = front(0.0, -0.005 - 0.005 * k)
    for k, number in enumerate(MP_NOSE_BASE):
        share = k / 4.0 - 1.0
        found[number] = front(0.0145 * share, -0.051 + 0.008 * share * share)
    balls = _triangulate(faces[np.isin(faces[:, 0], np.concatenate([left_ball, right_ball]))])
    for numbers, x in ((MP_IRIS_RIGHT, -EYE_X), (MP_IRIS_LEFT, EYE_X)):
        for number, (dx, dy) in zip(numbers, ((0, 0), (1, 0), (0, 1), (-1, 0), (0, -1)), strict=True):
            found[number] = front(x + 0.0058 * dx, 0.0058 * dy, balls)
    generator = np.random.default_rng(0)
    sliding = sorted(MP_OVAL)
    for number in range(478):
        if number not in found and number not in sliding:
            turn, radius = generator.uniform(0.0, 2.0 * math.pi), math.sqrt(generator.uniform(0.05, 0.8))
            found[number] = front(0.06 * radius * math.cos(turn), -0.025 + 0.085 * radius * math.sin(turn), everything)

    def path(turn: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Surface points on a half-plane through the middle of the head, from the cheek outwards.

        `turn` is the angle in a frontal view, counter-clockwise from the person's left (+x).
        """
        middle = np.array([0.0, -0.015, CENTRE[2]])
        last = 105.0 - 47.0 * abs(math.sin(turn)) ** 2  # below the chin the neck begins, above the forehead the scalp
        points = []
        for polar in np.radians(np.linspace(45.0, last, 13)):
            direction = np.array(
                [math.sin(polar) * math.cos(turn), math.sin(polar) * math.sin(turn) * 1.2, math.cos(polar)]
            )
            points.append(_hit(position, skin, middle, direction, far=True))
        return points

    def embedding(count: int, slide: list[int], turns: dict[int, float]) -> LandmarkEmbedding:
        paths = {number: path(turns[number]) for number in slide}
        for number in slide:
            points = paths[number]
            outermost = max(points, key=lambda p: float(np.hypot(*((position[p[0]] * p[1][:, None]).sum(0)[:2]))))
            found[number] = outermost
        ordered = [found[number] for number in range(count)]
        return LandmarkEmbedding(
            points=_surface_points(ordered),
            sliding=torch.tensor(slide, dtype=torch.int64),
            paths=SurfacePoints(
                torch.tensor(np.stack([[p[0] for p in paths[n]] for n in slide]), dtype=torch.int64),
                torch.tensor(np.stack([[p[1] for p in paths[n]] for n in slide]), dtype=torch.float32),
            ),
        )

    oval = {number: math.pi / 2.0 - 2.0 * math.pi * k / len(MP_OVAL) for k, number in enumerate(MP_OVAL)}
    # clockwise in the photo is towards the person's left, which is +x: the angle falls from the top
    mediapipe = embedding(478, sliding, oval)

    # iBUG 68: jaw 0-16 from the person's right to left, brows, nose, eyes, lips
    mp = dict(found)
    found.clear()
    jaw = {k: math.radians(185.0 + 170.0 * k / 16.0) for k in range(17)}
    for k in range(5):
        found[17 + k], found[22 + k] = mp[MP_BROW_UPPER_RIGHT[k]], mp[MP_BROW_UPPER_LEFT[k]]
    for k, number in enumerate((168, 197, 195, 4)):
        found[27 + k] = mp[number]
    for k, number in enumerate((98, 97, 2, 326, 327)):
        found[31 + k] = mp[number]
    for k, (name, rim, at) in enumerate(
        [("right_eye", 0, s / 3) for s in (0, 1, 2, 3)] + [("right_eye", 1, s / 3) for s in (2, 1)]
        + [("left_eye", 0, s / 3) for s in (0, 1, 2, 3)] + [("left_eye", 1, s / 3) for s in (2, 1)]
    ):  # fmt: skip
        found[36 + k] = along_rim(rims[name][rim], at)
    outer = (61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91)
    inner = (78, 81, 13, 311, 308, 402, 14, 178)
    for k, number in enumerate(outer + inner):
        found[48 + k] = mp[number]
    return {"ibug68": embedding(68, list(range(17)), jaw), "mediapipe478": mediapipe}


def _surface_points(points: list[tuple[np.ndarray, np.ndarray]]) -> SurfacePoints:
    return SurfacePoints(
        torch.tensor(np.stack([p[0] for p in points]), dtype=torch.int64),
        torch.tensor(np.stack([p[1] for p in points]), dtype=torch.float32),
    )


def synthetic_camera(
    width: int = 400,
    height: int = 500,
    yaw_deg: float = 0.0,
    pitch_deg: float = 0.0,
    roll_deg: float = 0.0,
    distance: float = 0.7,
    fov_deg: float = 30.0,
) -> Camera:
    """A camera `distance` metres from the middle of the face.

    Positive yaw shows the person's left side (the head turns towards its right), positive pitch shows it from above,
    positive roll turns the picture clockwise.
    """
    focal = 0.5 * max(width, height) / math.tan(math.radians(fov_deg) / 2.0)
    yaw, pitch, roll = (math.radians(angle) for angle in (yaw_deg, pitch_deg, roll_deg))
    about_y = torch.tensor(
        [[math.cos(yaw), 0.0, -math.sin(yaw)], [0.0, 1.0, 0.0], [math.sin(yaw), 0.0, math.cos(yaw)]]
    ).double()
    about_x = torch.tensor(
        [[1.0, 0.0, 0.0], [0.0, math.cos(pitch), -math.sin(pitch)], [0.0, math.sin(pitch), math.cos(pitch)]]
    ).double()
    about_z = torch.tensor(
        [[math.cos(roll), -math.sin(roll), 0.0], [math.sin(roll), math.cos(roll), 0.0], [0.0, 0.0, 1.0]]
    ).double()
    rotation = about_z @ torch.tensor(CAM_FROM_FRONTAL_WORLD).double() @ about_x @ about_y
    middle = torch.tensor([0.0, -0.02, -0.03]).double()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = rotation
    pose[:3, 3] = torch.tensor([0.0, 0.0, distance]).double() - rotation @ middle
    return Camera(width, height, focal, (width / 2.0, height / 2.0), pose)


def synthetic_identity(model: MorphableModel, seed: int = 0, scale: float = 0.7) -> Tensor:
    """(K,) float64 random identity with standard deviation `scale`."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(model.identity.shape[0], generator=generator, dtype=torch.float64)
