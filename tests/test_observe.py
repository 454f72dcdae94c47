"""Looking at photos: backends are found by name, labels are drawn where they belong."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from fit3d.errors import LabelImageError, ObservationError, UsageError
from fit3d.labels import (
    HAIR,
    INNER_MOUTH,
    IOU_PARTS,
    LEFT_EYE,
    LEFT_EYEBROW,
    LOWER_LIP,
    MIRRORED_PART,
    NOSE,
    OTHER,
    PART_COLOURS,
    RIGHT_EYE,
    RIGHT_EYEBROW,
    SKIN,
    UPPER_LIP,
)
from fit3d.landmarks import LANDMARK_COUNTS, LandmarkLayout
from fit3d.observe import label_colours, label_image, look, registry
from fit3d.observe.base import Backend, FaceParser, LandmarkDetector, Landmarks, Parsing
from fit3d.observe.contours import _OUTLINES, Anchor, ContourParser, _inside, draw_parts
from fit3d.observe.label_colours import labels_of_colours
from fit3d.observe.label_image import LabelImage, labels_of_face, read_label_image
from fit3d.observe.look import observe
from fit3d.observe.registry import FACE_PARSERS, LANDMARK_DETECTORS, face_parser, landmark_detector
from fit3d.photo import Photo, load_photo

BACKEND = Backend("test", "0")


# Registry


def test_names_are_listed_without_loading_a_backend() -> None:
    assert "mediapipe" in LANDMARK_DETECTORS and "contours" in FACE_PARSERS
    code = (
        "import sys, fit3d.observe.registry, fit3d.observe.look\n"
        "assert not {'mediapipe', 'cv2', 'torch', 'matplotlib', 'skimage'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_backends_are_loaded_once() -> None:
    assert face_parser("contours") is face_parser("contours")


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'dlib' is not known; choose one of .*mediapipe"):
        landmark_detector("dlib")
    with pytest.raises(UsageError, match=r"'bisenet' is not known; choose one of .*contours"):
        face_parser("bisenet")


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "mediapipe"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "fit3d.observe.mediapipe", raising=False)
    monkeypatch.setitem(sys.modules, "mediapipe", None)  # as if it were not installed
    with pytest.raises(UsageError, match=r'pip install -c constraints.txt "\.\[embedded\]"'):
        registry._loaded("landmark detector", "mediapipe", "another device: nothing cached")


@pytest.fixture(scope="module")
def detector() -> object:
    pytest.importorskip("mediapipe")
    return landmark_detector("mediapipe")


@pytest.fixture(scope="module")
def example(astronaut: Path) -> np.ndarray:
    return load_photo(astronaut).pixels


@pytest.fixture(scope="module")
def example_points(detector: object, example: np.ndarray) -> np.ndarray:
    """(478, 2) landmarks of the example, px."""
    (face,) = landmark_detector("mediapipe").detect(Photo.from_array(example))
    return face.points_px


# Contours


def part_iou(parts: np.ndarray, truth: np.ndarray) -> list[float]:
    return [
        float(((parts == part) & (truth == part)).sum() / max(((parts == part) | (truth == part)).sum(), 1))
        for part in IOU_PARTS
    ]


def test_agreement_with_peoples_labels(shared_data: Path, detector: object) -> None:
    scores = []
    for path in sorted((shared_data / "labelled").glob("*_parts.png")):
        photo = load_photo(path.with_name(path.name.replace("_parts", "")))
        (observation,) = observe(photo, parser="contours")
        scores.append(part_iou(observation.parts, read_label_image(path, photo)))
    assert len(scores) == 10
    mean = 100.0 * np.mean(scores, axis=0)
    assert mean.mean() > 80.0, mean  # 81.4 when this was written; plain contours of the mesh: 73.3
    assert (mean > 70.0).all(), mean


def test_points_lie_in_their_parts(example: np.ndarray, example_points: np.ndarray) -> None:
    parts = draw_parts(Landmarks("mediapipe478", example_points, BACKEND), *example.shape[:2])
    assert parts.dtype == np.uint8 and parts.shape == example.shape[:2]
    inside: dict[int, tuple[int, ...]] = {
        **{RIGHT_EYE: (468,), LEFT_EYE: (473,), NOSE: (4,), SKIN: (205, 425, 9)},
        **{RIGHT_EYEBROW: (52, 105), LEFT_EYEBROW: (282, 334)},
        **{UPPER_LIP: (0, 13), LOWER_LIP: (14, 17), INNER_MOUTH: (13, 14)},
    }
    for part, indices in inside.items():
        # brows and lips: midway between two points of their rows
        places = [example_points[list(indices)].mean(axis=0)] if len(indices) == 2 else example_points[list(indices)]
        for x, y in np.floor(places).astype(int):
            assert parts[y, x] == part, part
    assert parts[0, 0] == 0 and set(np.unique(parts)) == set(range(10))


def mirrored_points(points: np.ndarray, layout: LandmarkLayout, width: int) -> np.ndarray:
    """The points of the mirrored face: each anchor of the right takes the mirrored place of its partner on the left."""
    outlines = _OUTLINES[layout]
    pairs: dict[int, int] = {}

    def pair(right: Anchor, left: Anchor) -> None:
        rights, lefts = ((a,) if isinstance(a, int) else a[:2] for a in (right, left))
        pairs.update(zip(rights, lefts, strict=True))
        pairs.update(zip(lefts, rights, strict=True))

    sides = [(outlines.nose[0], outlines.nose[2]), (outlines.skin[0], outlines.skin[2])]
    for parts in (outlines.eyes, outlines.brows):
        sides += [(parts[0][row], parts[1][row][::-1]) for row in (0, 1)]
    sides += [(curve, curve[::-1]) for curve in outlines.lips]
    for rights, lefts in sides:
        for right, left in zip(rights, lefts, strict=True):
            pair(right, left)
    result = points * (-1.0, 1.0) + (width, 0.0)
    for index, partner in pairs.items():
        result[index] = (width - points[partner, 0], points[partner, 1])
    return result


def ibug68_points(points: np.ndarray) -> np.ndarray:
    """MediaPipe's look-alikes of the 68 points."""
    jaw = (127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356)
    brows = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
    nose = (168, 197, 5, 4, 98, 97, 2, 326, 327)
    eyes = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
    mouth = (61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 78, 81, 13, 311, 308, 402, 14, 178)
    return points[list(jaw + brows + nose + eyes + mouth)]


@pytest.mark.parametrize("layout", ["mediapipe478", "ibug68"])
def test_mirrored_landmarks_give_mirrored_labels(
    layout: LandmarkLayout, example: np.ndarray, example_points: np.ndarray
) -> None:
    height, width = example.shape[:2]
    points = example_points if layout == "mediapipe478" else ibug68_points(example_points)
    assert points.shape == (LANDMARK_COUNTS[layout], 2)
    parts = draw_parts(Landmarks(layout, points, BACKEND), height, width)
    mirrored = draw_parts(Landmarks(layout, mirrored_points(points, layout, width), BACKEND), height, width)
    np.testing.assert_array_equal(np.array(MIRRORED_PART, np.uint8)[mirrored[:, ::-1]], parts)


def test_ibug68_gives_similar_labels(example: np.ndarray, example_points: np.ndarray) -> None:
    height, width = example.shape[:2]
    full = draw_parts(Landmarks("mediapipe478", example_points, BACKEND), height, width)
    few = draw_parts(Landmarks("ibug68", ibug68_points(example_points), BACKEND), height, width)
    assert np.mean(part_iou(few, full)) > 0.6
    assert set(np.unique(few)) == set(range(10))


@pytest.mark.parametrize("scale", [1.0, 3.7])
def test_labels_scale_with_the_photo(example: np.ndarray, example_points: np.ndarray, scale: float) -> None:
    height, width = (round(scale * length) for length in example.shape[:2])
    parts = draw_parts(Landmarks("mediapipe478", scale * example_points, BACKEND), height, width)
    areas = np.bincount(parts.ravel(), minlength=10)[1:10] / scale**2
    large = draw_parts(Landmarks("mediapipe478", 8.0 * example_points, BACKEND), 8 * 512, 8 * 512)
    expected = np.bincount(large.ravel(), minlength=10)[1:10] / 64.0
    np.testing.assert_allclose(areas, expected, rtol=0.06, atol=2.0)


def test_far_side_of_a_profile_vanishes(example_points: np.ndarray) -> None:
    """Squeeze the face's left half onto and past the midline, as a turned head shows it."""
    points = example_points.copy()
    middle = points[168, 0]
    left = points[:, 0] > middle
    points[left, 0] = middle - 0.2 * (points[left, 0] - middle)
    parts = draw_parts(Landmarks("mediapipe478", points, BACKEND), 512, 512)
    present = set(np.unique(parts))
    assert LEFT_EYE not in present and LEFT_EYEBROW not in present
    assert {RIGHT_EYE, RIGHT_EYEBROW, NOSE, UPPER_LIP, LOWER_LIP, SKIN} <= present
    for index, part in {5: NOSE, 9: SKIN, 200: SKIN}.items():  # the near half reaches the profile line
        x, y = np.floor(points[index] - (1.5, 0.0)).astype(int)
        assert parts[y, x] == part, index
    # nothing is drawn beyond the profile line
    assert not parts[:, int(np.ceil(points[:, 0].max())) + 1 :].any()


def test_missing_points_leave_out_their_part(example_points: np.ndarray) -> None:
    points = example_points.copy()
    points[159] = np.nan  # an upper lid
    complete = draw_parts(Landmarks("mediapipe478", example_points, BACKEND), 512, 512)
    parts = draw_parts(Landmarks("mediapipe478", points, BACKEND), 512, 512)
    assert RIGHT_EYE not in parts
    changed = parts != complete
    assert (complete[changed] == RIGHT_EYE).all() and (parts[changed] == SKIN).all()
    points[10] = np.nan  # where the face's height is measured
    assert LEFT_EYE in draw_parts(Landmarks("mediapipe478", points, BACKEND), 512, 512)


def test_parts_outside_the_photo_are_clipped(example_points: np.ndarray) -> None:
    whole = draw_parts(Landmarks("mediapipe478", example_points, BACKEND), 512, 512)
    corner = draw_parts(Landmarks("mediapipe478", example_points - (220, 110), BACKEND), 60, 50)
    np.testing.assert_array_equal(corner, whole[110:170, 220:270])
    assert not draw_parts(Landmarks("mediapipe478", example_points + 5000, BACKEND), 60, 50).any()


def test_no_usable_landmark_and_unknown_layout() -> None:
    photo = Photo.from_array(np.zeros((64, 64, 3), np.uint8), name="a.jpg")
    with pytest.raises(ObservationError, match=r"a\.jpg: no usable landmark"):
        ContourParser().parse(photo, Landmarks("mediapipe478", np.full((478, 2), np.nan), BACKEND))
    with pytest.raises(UsageError, match=r"'wflw98'.*mediapipe478"):
        ContourParser().parse(photo, Landmarks("wflw98", np.zeros((98, 2)), BACKEND))  # type: ignore[arg-type]


def test_a_pixel_is_inside_if_its_centre_is() -> None:
    clockwise = np.array([[1.4, 1.0], [4.6, 1.0], [4.6, 3.51], [1.4, 3.51]])
    expected = np.zeros((6, 7), bool)
    expected[1:4, 1:5] = True  # centres from 1.5 to 4.5 across and from 1.5 to 3.5 down
    np.testing.assert_array_equal(_inside(clockwise, 6, 7), expected)
    assert not _inside(clockwise[::-1], 6, 7).any()  # seen from behind


def test_filling_agrees_with_the_winding_number() -> None:
    rng = np.random.default_rng(5)
    outline = rng.uniform(-4, 24, (9, 2))  # crosses itself and the border
    y, x = np.mgrid[0:20, 0:18] + 0.5
    start = outline[:, None, None] - np.stack([x, y], axis=-1)
    end = np.roll(start, -1, axis=0)
    cross = start[..., 0] * end[..., 1] - start[..., 1] * end[..., 0]
    angle = np.arctan2(cross, (start * end).sum(axis=-1)).sum(axis=0)
    winding = np.rint(angle / (2 * np.pi)).astype(int)
    assert winding.min() < 0 < winding.max()  # the outline is a good one
    np.testing.assert_array_equal(_inside(outline, 20, 18), winding > 0)


def test_halves_leave_no_seam(example: np.ndarray, example_points: np.ndarray) -> None:
    parts = draw_parts(Landmarks("mediapipe478", example_points, BACKEND), *example.shape[:2])
    rows = slice(*np.floor(example_points[[168, 1], 1]).astype(int))
    for row in parts[rows]:
        nose = np.flatnonzero(row == NOSE)
        assert np.array_equal(nose, np.arange(nose[0], nose[-1] + 1))
        face = np.flatnonzero(row)
        assert np.array_equal(face, np.arange(face[0], face[-1] + 1))


# Label images


@pytest.fixture
def photo() -> Photo:
    return Photo.from_array(np.zeros((40, 50, 3), np.uint8), name="photo.jpg")


@pytest.fixture
def labels() -> np.ndarray:
    return (np.arange(2000).reshape(40, 50) % 12).astype(np.uint8)


def test_grey_palette_and_equal_channels(tmp_path: Path, photo: Photo, labels: np.ndarray) -> None:
    palette = Image.fromarray(labels)
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 36, dtype=np.uint8).tobytes())
    for name, image in {
        "grey.png": Image.fromarray(labels),
        "palette.png": palette,
        "rgb.png": Image.fromarray(labels[..., None].repeat(3, axis=2)),
    }.items():
        image.save(tmp_path / name)
        result = read_label_image(tmp_path / name, photo)
        assert result.dtype == np.uint8 and result.flags.writeable
        np.testing.assert_array_equal(result, labels)


def label_error(path: Path, photo: Photo) -> str:
    with pytest.raises(LabelImageError) as caught:
        read_label_image(path, photo)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path)) and caught.value.exit_code == 1
    return message


def test_label_image_of_another_size_names_both(tmp_path: Path, photo: Photo, labels: np.ndarray) -> None:
    Image.fromarray(labels[:, ::2]).save(tmp_path / "a.png")
    message = label_error(tmp_path / "a.png", photo)
    assert "25 x 40" in message and "50 x 40" in message and "photo.jpg" in message


def test_unknown_ids_are_listed(tmp_path: Path, photo: Photo, labels: np.ndarray) -> None:
    labels[0, :3] = (12, 255, 19)
    Image.fromarray(labels).save(tmp_path / "a.png")
    assert "unknown label ids 12, 19, 255;" in label_error(tmp_path / "a.png", photo)
    Image.fromarray((np.arange(2000).reshape(40, 50) % 256).astype(np.uint8)).save(tmp_path / "b.png")
    assert "12, 13, 14, 15, 16, 17, 18, 19, ...;" in label_error(tmp_path / "b.png", photo)


def test_label_images_that_are_none(tmp_path: Path, photo: Photo, labels: np.ndarray) -> None:
    assert "no such" in label_error(tmp_path / "absent.png", photo)
    assert "not a readable" in label_error(tmp_path, photo)
    (tmp_path / "text.png").write_bytes(b"text")
    assert "not a readable" in label_error(tmp_path / "text.png", photo)
    Image.fromarray(labels).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    assert "not a readable" in label_error(tmp_path / "cut.png", photo)
    Image.fromarray(labels).save(tmp_path / "a.jpg")
    assert "JPEG" in label_error(tmp_path / "a.jpg", photo)
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    assert "colours" in label_error(tmp_path / "colours.png", photo)
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "wide.png")
    assert "8-bit" in label_error(tmp_path / "wide.png", photo)


def test_a_label_image_starts_no_other_program(
    tmp_path: Path, photo: Photo, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **_: started.append(given))
    Image.fromarray(PALETTE[labels]).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")  # formats are told by content
    assert "not a readable" in label_error(tmp_path / "a.png", photo)
    assert started == []


PALETTE = np.array(PART_COLOURS, np.uint8)


@pytest.fixture
def painted() -> np.ndarray:
    """(40, 50) labels with regions, thin lines and corners where several meet."""
    labels = np.zeros((40, 50), np.uint8)
    labels[2:38, 3:47] = SKIN
    labels[2:8, 3:47] = HAIR
    labels[12:15, 8:18], labels[12:15, 30:42] = RIGHT_EYEBROW, LEFT_EYEBROW
    labels[17:20, 9:17], labels[17:20, 31:41] = RIGHT_EYE, LEFT_EYE
    labels[14:27, 21:28] = NOSE
    labels[29:31, 15:35], labels[31, 17:33], labels[32:34, 15:35] = UPPER_LIP, INNER_MOUTH, LOWER_LIP
    labels[20:36, 44:50] = OTHER
    return labels


def reordered(labels: np.ndarray, order: np.ndarray, colours: np.ndarray = PALETTE) -> Image.Image:
    """A palette picture whose index k has the colour of label `order[k]`."""
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[labels])
    image.putpalette(colours[order].tobytes())
    return image


def softened(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W, C) moved right and down by a quarter of one, each then a mean of those that it covers."""
    large = np.pad(pixels.repeat(4, 0).repeat(4, 1), ((1, 0), (1, 0), (0, 0)), mode="edge")[:-1, :-1].astype(float)
    return large.reshape(40, 4, 50, 4, -1).mean((1, 3)).round().astype(np.uint8)


def test_colours_of_a_paint_program(tmp_path: Path, photo: Photo, painted: np.ndarray) -> None:
    order = np.random.default_rng(1).permutation(12)
    rgb = PALETTE[painted]
    shifted = np.clip(rgb.astype(int) + np.random.default_rng(2).integers(-12, 13, rgb.shape), 0, 255).astype(np.uint8)
    rgba = np.dstack([rgb, np.full((40, 50), 255, np.uint8)])
    rubbed = rgba.copy()
    rubbed[painted == 0] = (255, 255, 255, 0)
    grey = np.dstack([painted[..., None].repeat(3, 2), np.where(painted == 0, 0, 255).astype(np.uint8)])
    clear = reordered(painted, order)
    for name, image in {
        "reordered": reordered(painted, order),
        "quantised": Image.fromarray(rgb).quantize(32),
        "near colours": reordered(painted, order, np.clip(PALETTE.astype(int) + 3, 0, 255).astype(np.uint8)),
        "rgb": Image.fromarray(rgb),
        "shifted": Image.fromarray(shifted),
        "rgba": Image.fromarray(rgba),
        "rubbed out": Image.fromarray(rubbed),
        "grey with alpha": Image.fromarray(grey),
        "two colours": None,
    }.items():
        path, expected = tmp_path / f"{name}.png", painted
        if image is None:  # black and grey, which are colours and no ids
            expected = np.where(painted == OTHER, OTHER, 0)
            image = Image.fromarray(PALETTE[expected])
        image.save(path)
        np.testing.assert_array_equal(read_label_image(path, photo), expected, err_msg=name)
    clear.save(tmp_path / "clear.png", transparency=int(np.argsort(order)[0]))
    np.testing.assert_array_equal(read_label_image(tmp_path / "clear.png", photo), painted)
    # the ids of a palette in grey steps are no colours, near as they are to black
    ramp = Image.fromarray(painted)
    ramp.putpalette(bytes(value for value in range(256) for _ in range(3)))
    ramp.save(tmp_path / "ramp.png")
    np.testing.assert_array_equal(read_label_image(tmp_path / "ramp.png", photo), painted)


def test_softened_borders_snap_to_the_nearer_part(tmp_path: Path, photo: Photo, painted: np.ndarray) -> None:
    soft = softened(PALETTE[painted])
    mixed = (soft[:, :, None] != PALETTE).any(-1).all(-1)
    assert 0.1 < mixed.mean() < 0.5
    Image.fromarray(soft).save(tmp_path / "soft.png")
    # each pixel is as before in 9 of 16 shares, so every border snaps back, but for a pixel where several parts meet
    assert (read_label_image(tmp_path / "soft.png", photo) != painted).sum() <= 2
    in_light = (((PALETTE[painted] / 255.0) ** 2.2) * 255.0).round().astype(np.uint8)
    Image.fromarray(((softened(in_light) / 255.0) ** (1 / 2.2) * 255.0).round().astype(np.uint8)).save(
        tmp_path / "light.png"
    )
    # of mixed light the brighter part has the larger share, so borders move by up to a pixel
    labels = read_label_image(tmp_path / "light.png", photo)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(painted, 1, mode="edge"), (3, 3))
    assert (labels[..., None, None] == around).any((2, 3)).all() and (labels != painted).mean() < 0.1


def test_a_colour_of_no_part_is_named_with_a_place(tmp_path: Path, photo: Photo, painted: np.ndarray) -> None:
    rgb = PALETTE[painted]
    rgb[22:24, 30:32] = (255, 0, 0)
    Image.fromarray(rgb).save(tmp_path / "red.png")
    assert "(#ff0000 at pixel 30, 22)" in label_error(tmp_path / "red.png", photo)
    indexed = Image.fromarray(painted)
    indexed.putpalette(PALETTE.tobytes() + bytes((255, 0, 0)))
    indexed.putpixel((30, 22), 12)
    indexed.save(tmp_path / "indexed.png")
    assert "(#ff0000 at pixel 30, 22)" in label_error(tmp_path / "indexed.png", photo)


def test_a_picture_with_more_soft_than_plain_pixels_is_no_label_image(tmp_path: Path, photo: Photo) -> None:
    mixed = PALETTE[[SKIN, NOSE]].mean(0).round()
    rgb = np.tile(np.stack([PALETTE[SKIN], mixed, mixed, PALETTE[NOSE]]), (40, 13, 1))[:, :50].astype(np.uint8)
    rgb[:, 48], rgb[:, 49] = mixed, PALETTE[NOSE]
    assert (rgb == mixed).all(-1).mean() == 0.5
    Image.fromarray(rgb).save(tmp_path / "soft.png")
    assert set(np.unique(read_label_image(tmp_path / "soft.png", photo))) <= {SKIN, NOSE}
    rgb[7, 49] = mixed
    Image.fromarray(rgb).save(tmp_path / "softer.png")
    assert "colours that are no part's" in label_error(tmp_path / "softer.png", photo)


def test_mixtures_are_found_as_by_trying_each_at_each_pixel(painted: np.ndarray) -> None:
    soft = softened(PALETTE[painted])
    found = labels_of_colours(soft)
    colours, ids = PALETTE.astype(float), np.arange(12)
    plain = (soft[:, :, None] == PALETTE).all(-1)
    shares = [(a / 8, b / 8, 1 - (a + b) / 8) for a in range(9) for b in range(9 - a)]
    mixed = np.argwhere(~plain.any(-1))
    compared = 0
    for y, x in mixed[::3]:
        near = ids[plain[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4].any((0, 1))]
        off_two, label_two = min(
            (abs(colours[a] + share * (colours[b] - colours[a]) - soft[y, x]).max(), b if share > 0.5 else a)
            for a, b in itertools.combinations(near, 2)
            for line in [colours[b] - colours[a]]
            for share in [np.clip((soft[y, x] - colours[a]) @ line / (line @ line), 0, 1)]
        )
        if off_two <= 32:
            assert found[y, x] == label_two
            compared += 1
            continue
        off, label = min(
            (abs(np.array(share) @ colours[list(three)] - soft[y, x]).max(), three[int(np.argmax(share))])
            for three in itertools.combinations(near, 3)
            for share in shares
        )
        if off <= 32:  # else a part that is nowhere plain takes part
            assert found[y, x] == label
            compared += 1
    assert compared > 60


def test_wrong_pictures_are_refused_with_little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in comparisons of a colour with a mixture."""
    compared = 0

    def counted(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
        def count(colours: np.ndarray, others: np.ndarray) -> np.ndarray:
            nonlocal compared
            compared += len(colours) * len(others)
            return function(colours, others)

        return count

    for name in ("_of_two", "_of_three"):
        monkeypatch.setattr(label_colours, name, counted(getattr(label_colours, name)))
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 256, (700, 900, 3), dtype=np.uint8)
    plain = PALETTE[rng.integers(0, 12, (700, 900))]
    pictures = {
        "noise": noise,
        "half noise": np.where(rng.random((700, 900, 1)) < 0.45, noise, plain),
        "few among noise": np.where(rng.random((700, 900, 1)) < 0.02, noise, plain),
    }
    for name, picture in pictures.items():
        compared = 0
        with pytest.raises(label_colours.UnknownColoursError, match="at pixel"):
            labels_of_colours(picture)
        assert compared < 300_000, name
    monkeypatch.setattr(label_colours, "_distances", None)  # called, it fails
    monkeypatch.setattr(label_colours, "MOST_COLOURS", 1000)
    with pytest.raises(label_colours.UnknownColoursError, match="at pixel"):
        labels_of_colours(noise)


def test_a_picture_of_very_many_mixtures_is_refused_before_they_are_tried(
    painted: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_colours, "_labels_of_cases", None)  # called, it fails
    monkeypatch.setattr(label_colours, "MOST_MIXTURES", 20)
    with pytest.raises(label_colours.UnknownColoursError, match="at pixel"):
        labels_of_colours(softened(PALETTE[painted]))


def test_a_colour_that_is_named_is_one_that_is_no_mixture(painted: np.ndarray) -> None:
    soft = softened(PALETTE[painted])
    soft[20, 31] = (0, 255, 0)
    with pytest.raises(label_colours.UnknownColoursError, match=r"^#00ff00 at pixel 31, 20$"):
        labels_of_colours(soft)


def test_label_image_as_a_parser(tmp_path: Path, photo: Photo, labels: np.ndarray) -> None:
    Image.fromarray(labels).save(tmp_path / "a.png")
    parser = LabelImage(tmp_path / "a.png")
    assert parser.backend.name == "label_image"
    np.testing.assert_array_equal(parser.parse(photo, OVER_ALL).labels, labels)


OVER_ALL = Landmarks("ibug68", np.random.default_rng(0).uniform((0, 0), (50, 40), (68, 2)), BACKEND)
"""Of a face that fills `photo`."""


def two_faces(distance: int) -> tuple[np.ndarray, np.ndarray, list[Landmarks]]:
    """Label images (H, W) of two faces `distance` px apart, together and of the first alone, and their landmarks."""
    face = np.zeros((60, 40), np.uint8)
    face[5:55, 3:37] = SKIN
    face[25:40, 16:24] = NOSE
    face[20:24, 8:14], face[20:24, 26:32] = RIGHT_EYE, LEFT_EYE
    alone, both = np.zeros((2, 80, 160), np.uint8)
    alone[10:70, 10:50] = both[10:70, 10:50] = face
    place = both[10:70, 10 + distance : 50 + distance]
    place[face > 0] = face[face > 0]
    y, x = np.mgrid[0:10, 0:7].reshape(2, -1)[:, :68]
    points = np.stack([15.0 + x * 5.0, 18.0 + y * 5.2], -1)
    return both, alone, [Landmarks("ibug68", points + (move, 0), BACKEND) for move in (0, distance)]


def test_label_image_of_two_faces_is_told_apart() -> None:
    both, alone, (left, right) = two_faces(60)
    both[2:6, 2:150] = HAIR  # whose it is, nobody knows
    expected = np.where(both == HAIR, HAIR, alone)
    np.testing.assert_array_equal(labels_of_face(both, left), expected)
    np.testing.assert_array_equal(labels_of_face(both, right), np.where(both == HAIR, HAIR, np.roll(alone, 60, 1)))
    # without skin every feature is a piece of its own
    np.testing.assert_array_equal(
        labels_of_face(np.where(both == SKIN, 0, both).astype(np.uint8), left), np.where(expected == SKIN, 0, expected)
    )


def test_label_image_of_two_faces_that_touch_is_cut() -> None:
    both, alone, (left, right) = two_faces(32)
    for landmarks, own in ((left, alone), (right, np.roll(alone, 32, 1))):
        parts = labels_of_face(both, landmarks)
        for label in (NOSE, RIGHT_EYE, LEFT_EYE):
            np.testing.assert_array_equal(parts == label, own == label)
        reach = np.flatnonzero((parts > 0).any(0))
        box = landmarks.box_px
        assert reach[0] >= box[0] - 0.15 * (box[2] - box[0]) - 1
        assert reach[-1] <= box[2] + 0.15 * (box[2] - box[0])


def test_a_label_image_of_very_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece by its own centroid, whatever strip of rows it lies in; none is looked at one by one."""
    _, _, (landmarks, _) = two_faces(60)
    dots = np.zeros((80, 160), np.uint8)
    dots[::2, ::2] = NOSE
    left, top, right, bottom = landmarks.box_px
    reach_x, reach_y = 0.15 * (right - left), 0.15 * (bottom - top)
    y, x = np.mgrid[:80, :160] + 0.5
    inside = (x >= left - reach_x) & (x <= right + reach_x) & (y >= top - reach_y) & (y <= bottom + reach_y)
    monkeypatch.setattr(label_image, "_ROWS_AT_ONCE", 7)
    monkeypatch.setattr("scipy.ndimage.find_objects", None)  # called, it fails
    np.testing.assert_array_equal(labels_of_face(dots, landmarks), np.where(inside, dots, 0))
    bars = np.zeros((80, 160), np.uint8)
    bars[:, ::2] = NOSE  # higher than a strip, their middles inside
    expected = np.where(((x >= left - reach_x) & (x <= right + reach_x)), bars, 0)
    np.testing.assert_array_equal(labels_of_face(bars, landmarks), expected)


def test_label_image_of_one_face_stays_whole() -> None:
    _, alone, (landmarks, _) = two_faces(60)
    alone[64:80, 20:40] = SKIN  # a neck that nobody cut off
    np.testing.assert_array_equal(labels_of_face(alone, landmarks), alone)


# One look


@dataclass
class FakeDetector(LandmarkDetector):
    """Returns what it is told to."""

    faces: list[Landmarks]
    backend: Backend = BACKEND

    def detect(self, photo: Photo) -> list[Landmarks]:
        return self.faces


def use_fake(monkeypatch: pytest.MonkeyPatch, *points: np.ndarray) -> None:
    fake = FakeDetector([Landmarks("ibug68", array, BACKEND) for array in points])
    monkeypatch.setattr(look, "landmark_detector", lambda name, device: fake)


def test_one_observation_per_face_in_the_detectors_order(
    monkeypatch: pytest.MonkeyPatch, example_points: np.ndarray
) -> None:
    points = ibug68_points(example_points)
    use_fake(monkeypatch, points, points / 2)
    big, small = observe(Photo.from_array(np.zeros((512, 512, 3), np.uint8)), parser="contours")
    assert big.landmarks.points_px is points and big.parser.name == "contours"
    assert (big.parts > 0).sum() > 3 * (small.parts > 0).sum() > 0


def test_parts_file_replaces_the_parser(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo: Photo, labels: np.ndarray
) -> None:
    use_fake(monkeypatch, OVER_ALL.points_px)
    Image.fromarray(labels).save(tmp_path / "a.png")
    (observation,) = observe(photo, parts_file=tmp_path / "a.png")
    np.testing.assert_array_equal(observation.parts, labels)
    assert observation.parser.name == "label_image"


@pytest.mark.parametrize(
    "points",
    [
        np.full((68, 2), np.nan),
        np.full((68, 2), np.inf),
        np.where(np.arange(68)[:, None] < 40, np.nan, 1.0) * np.ones(2),
        np.ones((67, 2)),
        np.ones((68, 3)),
    ],
)
def test_unusable_landmarks(monkeypatch: pytest.MonkeyPatch, photo: Photo, points: np.ndarray) -> None:
    use_fake(monkeypatch, points)
    with pytest.raises(ObservationError, match=r"photo\.jpg: test returned unusable landmarks"):
        observe(photo)


@pytest.mark.parametrize(
    "unusable",
    [
        Parsing(np.full((40, 50), 12, np.uint8)),
        Parsing(np.zeros((50, 40), np.uint8)),
        Parsing(np.zeros((40, 50), np.int64)),
        Parsing(np.zeros((40, 50), np.uint8), np.ones(11)),
        Parsing(np.zeros((40, 50), np.uint8), np.full(12, 1.1)),
        Parsing(np.zeros((40, 50), np.uint8), np.full(12, np.nan)),
    ],
)
def test_unusable_label_image(monkeypatch: pytest.MonkeyPatch, photo: Photo, unusable: Parsing) -> None:
    class FakeParser(FaceParser):
        backend = BACKEND

        def parse(self, photo: Photo, landmarks: Landmarks) -> Parsing:
            return unusable

    use_fake(monkeypatch, np.ones((68, 2)))
    monkeypatch.setattr(look, "face_parser", lambda name, device: FakeParser())
    with pytest.raises(ObservationError, match="unusable label image"):
        observe(photo)
