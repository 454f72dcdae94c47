"""The bundled head's annotation: parts, openings, landmarks, and files that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d.errors import ModelFileError
from fit3d.labels import INNER_MOUTH, LEFT_EYE, LOWER_LIP, MIRRORED_PART, NOSE, PART_IDS, RIGHT_EYE, SKIN, UPPER_LIP
from fit3d.morphable.annotation import load_annotation, strip
from fit3d.morphable.anny import load_anny
from fit3d.morphable.model import MorphableModel
from fit3d.raster import rasterise
from fit3d.resources import asset_path

IBUG_MIRROR = [
    *(*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
]
PIXELS_PER_METRE = 2000.0


@pytest.fixture(scope="module")
def anny() -> MorphableModel:
    return load_anny()


def posed(model: MorphableModel, yaw_deg: float = 0.0, **expression: float) -> Tensor:
    """Vertices (V, 3) of the mean identity, turned about the vertical axis."""
    coefficients = torch.tensor([expression.get(name, 0.0) for name in model.expression_names])
    yaw = torch.deg2rad(torch.tensor(yaw_deg))
    turn = torch.tensor([[yaw.cos(), 0, yaw.sin()], [0, 1, 0], [-yaw.sin(), 0, yaw.cos()]])
    return model.vertices(torch.zeros(len(model.identity)), coefficients) @ turn.T


def labels_seen(model: MorphableModel, vertices: Tensor) -> Tensor:
    """Label image (600, 400) of the head as seen from the front, orthographic, the eyes' middle at (200, 250)."""
    parts = model.annotation
    pixels = vertices[:, :2] * torch.tensor([PIXELS_PER_METRE, -PIXELS_PER_METRE]) + torch.tensor([200.0, 250.0])
    seen = rasterise(pixels, 1.0 - vertices[:, 2], parts.triangles, 600, 400)
    hit = seen.triangle >= 0
    values = torch.einsum("fnc,nc->fn", parts.fields[:, parts.triangles[seen.triangle[hit]]], seen.barycentric[hit])
    fixed = parts.fixed_label[seen.triangle[hit]]
    image = torch.zeros(seen.triangle.shape, dtype=torch.int64)
    image[hit] = torch.where(fixed >= 0, fixed, parts.field_labels[values.argmax(0)])
    return image


def area(image: Tensor, label: int) -> int:
    return int((image == label).sum())


def vertex_mirror(model: MorphableModel) -> Tensor:
    used = model.annotation.triangles.unique()
    mirror = torch.arange(len(model.mean))
    gap = torch.cdist(model.mean[used] * torch.tensor([-1.0, 1.0, 1.0]), model.mean[used])
    assert gap.min(1).values.max() < 1e-4
    mirror[used] = used[gap.argmin(1)]
    return mirror


def test_all_parts_are_seen_and_lie_where_a_face_has_them(anny: MorphableModel) -> None:
    image = labels_seen(anny, posed(anny))
    height: dict[str, float] = {}
    for name, label in PART_IDS.items():
        if name not in ("background", "inner_mouth"):
            assert area(image, label) > 100, name
            height[name] = float((image == label).nonzero()[:, 0].float().mean())
    assert height["hair"] < height["left_eyebrow"] < height["left_eye"] < height["nose"] < height["upper_lip"]
    assert height["upper_lip"] < height["lower_lip"]
    column = (image == LEFT_EYE).nonzero()[:, 1].float().mean()
    assert column == pytest.approx(200 + 0.031 * PIXELS_PER_METRE, abs=5), "the person's left is at the picture's right"
    assert area(image, SKIN) > 4 * area(image, NOSE)


def test_parts_and_landmarks_are_mirror_symmetric(anny: MorphableModel) -> None:
    parts, mirror = anny.annotation, vertex_mirror(anny)
    used = parts.triangles.unique()
    for index, label in enumerate(parts.field_labels.tolist()):
        same = (parts.field_labels == MIRRORED_PART[label]).nonzero().flatten()
        other = int(same[(parts.field_labels[: index + 1] == label).sum() - 1])
        torch.testing.assert_close(parts.fields[index][used], parts.fields[other][mirror[used]], atol=3e-5, rtol=0)

    flip = torch.tensor([-1.0, 1.0, 1.0])
    points = anny.landmarks["ibug68"].points.of(anny.mean)
    torch.testing.assert_close(points, points[IBUG_MIRROR] * flip, atol=4e-4, rtol=0)
    points = anny.landmarks["mediapipe478"].points.of(anny.mean)
    assert (torch.cdist(points, points * flip).min(1).values < 4e-4).all()


def test_left_and_right_follow_the_landmark_layouts(anny: MorphableModel) -> None:
    ibug = anny.landmarks["ibug68"].points.of(anny.mean)
    mediapipe = anny.landmarks["mediapipe478"].points.of(anny.mean)
    assert (ibug[:16, 0].diff() > 0).all() and ibug[8, 1] == ibug[:, 1].min()
    assert (ibug[17:27, 0].diff() > 0).all()
    assert (ibug[27:31, 1].diff() < 0).all() and ibug[30, 2] > ibug[:, 2].max() - 0.001
    assert (ibug[[36, 37, 38, 39, 42, 43, 44, 45], 0].diff() > 0).all()
    assert (ibug[48:55, 0].diff() > 0).all() and (ibug[54:60, 0].diff() < 0).all()
    # the same corners and lip middles under their other numbers
    same = {36: 33, 39: 133, 42: 362, 45: 263, 48: 61, 54: 291, 51: 0, 57: 17, 62: 13, 66: 14}
    torch.testing.assert_close(ibug[list(same)], mediapipe[list(same.values())], atol=1e-4, rtol=0)
    assert mediapipe[10, 1] == mediapipe[:, 1].max() and mediapipe[152, 1] == mediapipe[:, 1].min()


def test_landmarks_lie_on_the_lines_they_name(anny: MorphableModel) -> None:
    """Lip landmarks on the lips' borders, irises before the eyeballs' centres. On the lids MediaPipe's landmarks lie up
    to 2 mm outside of the borders that people draw."""
    parts, landmarks = anny.annotation, anny.landmarks["mediapipe478"]
    values = (parts.fields[:, landmarks.points.vertices] * landmarks.points.weights).sum(-1)  # (F, 478)

    def field(label: int, marks: list[int]) -> Tensor:
        return values[parts.field_labels == label].amax(0)[marks]

    lids = [263, 466, 388, 387, 386, 385, 384, 398, 362, 249, 390, 373, 374, 380, 381, 382]
    assert field(LEFT_EYE, lids).min() > -0.0025 and field(LEFT_EYE, lids).max() < 5e-4
    upper = [185, 40, 39, 37, 0, 267, 269, 270, 409]
    lower = [146, 91, 181, 84, 17, 314, 405, 321, 375]
    assert field(UPPER_LIP, upper).abs().max() < 5e-4
    assert field(LOWER_LIP, lower).min() > -1e-4 and field(LOWER_LIP, lower).max() < 1.5e-3
    assert field(NOSE, [1, 4, 5, 195]).min() > 0.003
    assert field(NOSE, [2, 98, 327]).abs().max() < 0.003
    for label, marks in ((4, [296, 334, 293]), (3, [66, 105, 63])):  # upper row of the brows: at their upper border
        above = anny.landmarks["mediapipe478"].points.of(anny.mean)[marks, 1]
        brow = (labels_seen(anny, posed(anny)) == label).nonzero()[:, 0].min()
        assert above.max() == pytest.approx((250 - float(brow)) / PIXELS_PER_METRE, abs=0.003)
    for name, marks in (("left_eyeball", [473, 474, 475, 476, 477]), ("right_eyeball", [468, 469, 470, 471, 472])):
        ball = np.unique(anny.faces[anny.face_objects == anny.objects.index(name)])
        assert np.isin(landmarks.points.vertices[marks].numpy(), ball).all()
        centre = anny.mean[torch.from_numpy(ball)].mean(0)
        iris = landmarks.points.of(anny.mean)[marks]
        torch.testing.assert_close(iris[0, :2], centre[:2], atol=5e-4, rtol=0)
        torch.testing.assert_close((iris[1:, :2] - centre[:2]).norm(dim=1), torch.full((4,), 0.0059), atol=3e-4, rtol=0)


@pytest.mark.parametrize("layout", ["ibug68", "mediapipe478"])
def test_contour_landmarks_slide_outwards_from_the_cheek(anny: MorphableModel, layout: Any) -> None:
    embedding = anny.landmarks[layout]
    for places in (embedding.points, embedding.paths):
        torch.testing.assert_close(places.weights.sum(-1), torch.ones(places.weights.shape[:-1]), atol=2e-7, rtol=0)
    paths, points = embedding.paths.of(anny.mean), embedding.points.of(anny.mean)
    assert embedding.sliding.tolist() == sorted(set(embedding.sliding.tolist()))
    offset = paths - torch.tensor([0.0, -0.035, -0.060])
    assert (torch.atan2(offset[..., :2].norm(dim=-1), offset[..., 2]).diff(dim=1) > 0).all()
    assert torch.cdist(points[embedding.sliding][:, None], paths).min(-1).values.max() < 0.012
    # on a head turned by 35 degrees the outermost candidates of the far side lie on the outline
    vertices = posed(anny, 35.0)
    outline = labels_seen(anny, vertices) > 0
    jaw = [index for index, number in enumerate(embedding.sliding.tolist()) if number in (12, 13, 361, 288)]
    candidates = embedding.paths.of(vertices)[jaw] * torch.tensor([PIXELS_PER_METRE, -PIXELS_PER_METRE, 1.0])
    for path in candidates + torch.tensor([200.0, 250.0, 0.0]):
        x, y = path[path[:, 0].argmax(), :2]
        edge = outline[int(y)].nonzero().max() + 1
        assert float(x) == pytest.approx(float(edge), abs=0.0015 * PIXELS_PER_METRE)


def test_lids_and_lips_open_and_close_their_patches(anny: MorphableModel) -> None:
    rest = labels_seen(anny, posed(anny))
    lips = area(rest, UPPER_LIP) + area(rest, LOWER_LIP)
    assert area(rest, INNER_MOUTH) < 0.03 * lips
    assert area(labels_seen(anny, posed(anny, jawOpen=0.5)), INNER_MOUTH) > 0.3 * lips
    blink = labels_seen(anny, posed(anny, eyeBlinkLeft=1.0))
    assert area(blink, LEFT_EYE) < 0.05 * area(rest, LEFT_EYE)
    assert area(blink, RIGHT_EYE) == area(rest, RIGHT_EYE)


def test_rims_bound_the_patches(anny: MorphableModel) -> None:
    parts = anny.annotation
    for name, (upper, lower) in parts.rims.items():
        patch = parts.triangles[parts.fixed_label == PART_IDS[name]]
        assert len(patch) == len(upper) + len(lower) - 4
        assert set(patch.unique().tolist()) == set(upper.tolist()) | set(lower.tolist())
        assert (upper[0], upper[-1]) == (lower[0], lower[-1])
        assert anny.mean[upper[0], 0] < anny.mean[upper[-1], 0], "from the person's right to left"
        assert anny.mean[upper, 1].mean() > anny.mean[lower, 1].mean()
    assert len(parts.triangles) <= 9000


def test_annotation_was_made_for_this_mean_head(anny: MorphableModel) -> None:
    """Irises lie on the axis of the eyeballs and landmarks of the lips' inside on their rims, which would move with
    `model.npz`; make the annotation again, as assets/anny/README.md says, if they do not."""
    places = anny.landmarks["mediapipe478"].points.of(anny.mean)
    for name, iris in (("right_eyeball", 468), ("left_eyeball", 473)):
        ball = anny.mean[np.unique(anny.faces[anny.face_objects == anny.objects.index(name)])]
        assert (places[iris, :2] - ball.mean(0)[:2]).abs().max() < 2e-4
        assert abs(places[iris, 2] - ball[:, 2].max()) < 1e-3
    for rim, marks in zip(anny.annotation.rims["inner_mouth"], ([81, 13, 311], [178, 14, 402]), strict=True):
        pairs = pairwise(anny.mean[rim])
        dense = torch.cat([a + (b - a) * torch.linspace(0, 1, 20)[:, None] for a, b in pairs])
        assert torch.cdist(places[marks], dense).min(1).values.max() < 5e-4


def test_strip_spans_the_gap_between_two_rims() -> None:
    # upper rim of five points on an arc, lower rim of three on a straight line
    points = np.array([[0, 0, 0], [1, 1, 0], [2, 1.5, 0], [3, 1, 0], [4, 0, 0], [2, -1, 0]], float)
    triangles = np.array(strip([0, 1, 2, 3, 4], [0, 5, 4], points))
    a, b, c = points[triangles].transpose(1, 0, 2)
    areas = np.cross(b - a, c - a)[:, 2] / 2
    assert (areas > 0).all(), "counter-clockwise from outside"
    assert areas.sum() == pytest.approx(0.5 + 1.25 + 1.25 + 0.5 + 2.0)  # trapezia above, triangle below the line


def _set(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("schema", value=2), "schema 2, expected 1"),
        (_set("vertex_count", value=7), "made for 7 vertices"),
        (lambda content: content.pop("openings"), "lacks 'openings'"),
        (lambda content: content["landmarks"].pop("ibug68"), "lacks 'ibug68'"),
        (_set("parts", "beard", value={"vertices": [0], "field_m": [0.1]}), "unknown part 'beard'"),
        (_set("parts", "nose", "vertices", 0, value=10**6), "part 'nose': ids must lie in"),
        (_set("parts", "nose", "vertices", 0, value=1.5), "expected whole numbers"),
        (lambda content: content["parts"]["skin"]["field_m"].pop(), "part 'skin' has"),
        (_set("parts", "skin", "field_m", 0, value=float("nan")), "not a finite number"),
        (_set("surface", value=[-1]), "surface: ids must lie in"),
        (_set("openings", "left_eye", "lower", 0, value=3), "must share their two corners"),
        (lambda content: content["landmarks"]["ibug68"]["vertices"].pop(), "must both be"),
        (_set("landmarks", "ibug68", "weights", 0, value=[0.5, 0.2, 0.1]), "must sum to 1"),
        (lambda content: content["landmarks"]["mediapipe478"]["sliding"].pop(), "sliding landmarks and paths"),
        (_set("landmarks", "mediapipe478", value=None), "not a usable annotation"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    anny: MorphableModel, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    content = json.loads(asset_path("anny/annotation.json").read_text(encoding="utf-8"))
    change(content)
    path = tmp_path / "annotation.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelFileError, match=message) as caught:
        load_annotation(path, anny.mean, anny.faces)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "", "[1, 2]", '{"schema": 1', "\xff"])
def test_missing_and_damaged_files_are_refused(anny: MorphableModel, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "annotation.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelFileError, match=r"annotation\.json"):
        load_annotation(path, anny.mean, anny.faces)
