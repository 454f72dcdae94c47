"""Landmark files: what was written comes back, in whose pixels; what cannot be of the photo is refused in one line."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

import fit3d
from fit3d import pipeline
from fit3d.errors import LandmarkFileError, UsageError
from fit3d.export.observation import landmarks_dict
from fit3d.export.result_json import result_text
from fit3d.landmarks import LANDMARK_COUNTS, LandmarkLayout
from fit3d.morphable.registry import load_model
from fit3d.observe import landmark_file
from fit3d.observe.base import Backend, Landmarks
from fit3d.observe.landmark_file import pts_text, read_landmark_file
from fit3d.observe.look import observe
from fit3d.photo import Photo, load_photo
from fit3d.solve.fit import Face, prepare

QUICK = fit3d.FitConfig(iterations=1)
LAYOUTS: tuple[LandmarkLayout, ...] = ("ibug68", "mediapipe478")


@pytest.fixture
def photo() -> Photo:
    return Photo.from_array(np.zeros((240, 320, 3), np.uint8), name="photo.jpg")


def face(layout: LandmarkLayout = "ibug68", missing: tuple[int, ...] = ()) -> np.ndarray:
    """(N, 2) points of a face in `photo`, of three decimals, some of them missing."""
    points = np.random.default_rng(3).uniform((100, 50), (250, 200), (LANDMARK_COUNTS[layout], 2)).round(3)
    points[list(missing)] = np.nan
    return points


def read(tmp_path: Path, content: str | bytes, photo: Photo, name: str = "face.txt") -> Landmarks:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    landmarks, warnings = read_landmark_file(path, photo)
    assert warnings == ()
    return landmarks


# Kinds of files


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_observe_writes_comes_back(tmp_path: Path, photo: Photo, layout: LandmarkLayout) -> None:
    points = face(layout, missing=(0, 41))
    trust = np.linspace(0, 1, len(points)).round(3)
    landmarks = Landmarks(layout, points, Backend("test", "1"), trust)
    for name, text, expected_trust in (
        ("a.json", result_text(landmarks_dict(photo, landmarks, 2)), trust),
        ("a.pts", pts_text(points), np.isfinite(points).all(1)),  # each point that is there counts fully
    ):
        back = read(tmp_path, text, photo, name)
        assert back.layout == layout and back.backend.name == "landmark_file"
        np.testing.assert_allclose(back.points_px, points, atol=1e-9)
        assert np.isnan(back.points_px[[0, 41]]).all()
        assert back.confidence is not None and back.confidence.dtype == np.float64
        np.testing.assert_array_equal(back.confidence, expected_trust)


def test_pts_counts_pixels_from_one(tmp_path: Path, photo: Photo) -> None:
    lines = ["1 1", "320 240"] + ["100.5 60.25"] * 66
    text = "version: 1\nn_points:  68\n{\n" + "\n".join(lines) + "\n}\n"
    points = read(tmp_path, text, photo, "a.pts").points_px
    # the centres of the first and of the last pixel
    np.testing.assert_array_equal(points[:3], [[0.5, 0.5], [319.5, 239.5], [100.0, 59.75]])
    assert pts_text(points).splitlines()[:5] == ["version: 1", "n_points: 68", "{", "1.000 1.000", "320.000 240.000"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("separator", [",", ";", "\t", "  ", " , "])
@pytest.mark.parametrize("head", ["", "x{}y\n", "# x{}y\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_two_columns(tmp_path: Path, photo: Photo, layout: LandmarkLayout, separator: str, head: str, end: str) -> None:
    points = face(layout)
    text = head.format(separator) + "".join(f"{x}{separator}{y}{end}" for x, y in points.tolist())
    back = read(tmp_path, text, photo)
    assert back.layout == layout and (back.confidence == np.ones(len(points))).all()
    np.testing.assert_array_equal(back.points_px, points)


def test_lists_of_points(tmp_path: Path, photo: Photo) -> None:
    points = face().tolist()
    deep = [[x, y, -80.0] for x, y in points]
    for data in (
        points,
        {"points": points},
        {"landmarks": deep, "source": "elsewhere"},
        {"landmarks_px": points, "confidence": None},
        {"observation": {"landmarks_px": points}, "photo": {"width": 320, "height": 240}},
    ):
        np.testing.assert_array_equal(read(tmp_path, json.dumps(data), photo).points_px, points)
    text = "\ufeff" + json.dumps(points)  # as editors on Windows begin a file
    np.testing.assert_array_equal(read(tmp_path, text, photo).points_px, points)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("a.json", "null"),
        ("a.json", "[null, null]"),
        ("a.json", "[NaN, NaN]"),
        ("a.json", "[-1, -1]"),
        ("a.json", "[0, 0.0]"),
        ("a.pts", "nan nan"),
        ("a.pts", "-1 -1"),
        ("a.pts", "0.000 0.000"),
        ("a.csv", ","),
        ("a.csv", "NA,NA"),
        ("a.csv", "-1,-1"),
    ],
)
def test_missing_points(tmp_path: Path, photo: Photo, name: str, missing: str) -> None:
    points = face()
    left, between, right = {"a.json": ("[", ",", "]"), "a.pts": ("", " ", ""), "a.csv": ("", ",", "")}[name]
    items = [f"{left}{x}{between}{y}{right}" for x, y in points.tolist()]
    items[5] = missing
    text = {
        "a.json": "[" + ",".join(items) + "]",
        "a.pts": "version: 1\nn_points: 68\n{\n" + "\n".join(items) + "\n}",
        "a.csv": "\n".join(items),
    }[name]
    back = read(tmp_path, text, photo, name)
    assert np.flatnonzero(np.isnan(back.points_px).any(1)).tolist() == [5]
    np.testing.assert_array_equal(back.trust, np.where(np.arange(68) == 5, 0.0, 1.0))


def labelme(points: np.ndarray) -> dict[str, object]:
    """A file of labelme with a point for each that is present, and something else."""
    shapes: list[dict[str, object]] = [
        {"label": str(index), "points": [point], "shape_type": "point", "group_id": None, "flags": {}}
        for index, point in enumerate(points.tolist())
        if np.isfinite(point).all()
    ]
    shapes.append({"label": "hat", "points": [[1, 2], [3, 4], [5, 2]], "shape_type": "polygon"})
    return {"version": "5.5.0", "imageWidth": 320, "imageHeight": 240, "imageData": None, "shapes": shapes[::-1]}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_points_of_labelme(tmp_path: Path, photo: Photo, layout: LandmarkLayout) -> None:
    points = face(layout, missing=(0, 7))
    back = read(tmp_path, json.dumps(labelme(points)), photo)
    assert back.layout == layout
    np.testing.assert_array_equal(back.points_px, points)
    told = labelme(face("mediapipe478", missing=tuple(range(60, 299)))) | {"layout": "mediapipe478"}
    assert read(tmp_path, json.dumps(told), photo).layout == "mediapipe478"
    with pytest.raises(LandmarkFileError, match="made for a photo of 320 x 240 px"):
        read(tmp_path, json.dumps(labelme(points)), Photo.from_array(np.zeros((320, 240, 3), np.uint8)))
    with pytest.raises(LandmarkFileError, match=r"label 'mouth' of a point"):
        read(tmp_path, json.dumps(labelme(points)).replace('"3"', '"mouth"'), photo)


# What is refused


def text_of(points: np.ndarray) -> str:
    return json.dumps(points.tolist())


GOOD = face()
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "empty, or not text"),
    "binary": (b"\x89PNG\r\n\x1a\n\xff\xfe", "empty, or not text"),
    "null character": ("1 2\n\0", "empty, or not text"),
    "prose": ("the quick brown fox", "0 points; expected 68"),
    "too few": (text_of(GOOD[:67]), r"67 points; expected 68 \(ibug68\) or 478 \(mediapipe478\)"),
    "too many": (json.dumps([[1, 2]] * 100_000), "100000 points"),
    "cut off": (text_of(GOOD)[:-5], "not JSON"),
    "nested": ("[" * 100_000, "not JSON"),
    "long number": ("[" + "1" * 100_000 + "]", "not JSON|1 points"),
    "huge place": (json.dumps([[10**400, 5], *GOOD[1:].tolist()]), "point 0 is not a place"),
    "infinite": (json.dumps([[float("inf"), 5], *GOOD[1:].tolist()]), "point 0 is not a place"),
    "text in it": (json.dumps([["12", "13"], *GOOD[1:].tolist()]), "point 0 is not a place"),
    "truth": (json.dumps([[True, False], *GOOD[1:].tolist()]), "point 0 is not a place"),
    "single": (json.dumps([[3], *GOOD[1:].tolist()]), "point 0 is no pair"),
    "no landmarks": ('{"a": 1}', "no landmarks in it"),
    "a dict of menpo": (json.dumps({"landmarks": {"points": GOOD.tolist()}}), "no landmarks in it"),
    "confidence above one": (json.dumps({"points": GOOD.tolist(), "confidence": [1.5] * 68}), "'confidence'"),
    "huge confidence": (json.dumps({"points": GOOD.tolist(), "confidence": [10**400] * 68}), "'confidence'"),
    "confidence too short": (json.dumps({"points": GOOD.tolist(), "confidence": [0.5] * 67}), "'confidence'"),
    "confidence not a list": (json.dumps({"points": GOOD.tolist(), "confidence": "high"}), "'confidence'"),
    "most missing": (text_of(face(missing=tuple(range(35)))), "35 of 68 points are missing"),
    "all missing": (json.dumps([None] * 68), "68 of 68 points are missing"),
    "shares": (text_of(GOOD / 400), r"all points lie within 0\.\d+ px; expected pixels"),
    "another scale": (text_of(GOOD * 4), r"the photo photo.jpg is 320 x 240 px; give landmarks of this photo"),
    "one far away": (text_of(np.where(np.arange(68)[:, None] == 9, 5000.0, GOOD)), "give landmarks of this photo"),
    "another size": (json.dumps({"points": GOOD.tolist(), "photo": {"width": 640, "height": 480}}), "640 x 480 px"),
    "size of another kind": (json.dumps({"points": [], "width": "\x1b", "height": []}), r"'\\x1b' x \[\] "),
    "three columns": ("\n".join(f"{i},{x},{y}" for i, (x, y) in enumerate(GOOD)), "point 0 is '0 .*two numbers"),
    "decimal comma": ("\n".join(f"{x},5;{y},5" for x, y in GOOD.astype(int)), "expected two numbers"),
    "open brace": ("version: 1\nn_points: 68\n{\n1 2\n", "not a whole .pts file"),
    "wrong n_points": ("version: 1\nn_points: 68\n{\n1 2\n}\n", "n_points says 68, but 1 points follow"),
    "words in pts": (pts_text(GOOD).replace("{\n", "{\nleft eye\n").replace("68", "69"), "69 points"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_line(tmp_path: Path, photo: Photo, what: str) -> None:
    content, said = REFUSED[what]
    with pytest.raises(LandmarkFileError, match=said) as caught:
        read(tmp_path, content, photo)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "face.txt")) and "\n" not in message and len(message) < 500
    assert caught.value.exit_code == 1


def test_files_that_are_none(tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LandmarkFileError, match="no such landmark file"):
        read_landmark_file(tmp_path / "absent.pts", photo)
    with pytest.raises(LandmarkFileError, match="not a file"):
        read_landmark_file(tmp_path, photo)
    with pytest.raises(LandmarkFileError, match=r"no such|cannot be read"):
        read_landmark_file("a\0b", photo)
    monkeypatch.setattr(landmark_file, "MOST_BYTES", 100)
    with pytest.raises(LandmarkFileError, match=r"larger than .* from labelme with --nodata"):
        read(tmp_path, text_of(GOOD), photo)


def test_a_picture_that_labelme_stored_is_passed_over(
    tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = labelme(GOOD) | {"imageData": "+/aA" * 5000 + "=="}
    for text in (json.dumps(data), json.dumps(data, indent=2), json.dumps(data).replace('": ', '":')):
        monkeypatch.setattr(landmark_file, "MOST_BYTES_WITH_PICTURE", len(text))
        monkeypatch.setattr(landmark_file, "MOST_BYTES", len(text) - 15_000)
        np.testing.assert_array_equal(read(tmp_path, text, photo).points_px, GOOD)
        monkeypatch.setattr(landmark_file, "MOST_BYTES_WITH_PICTURE", len(text) - 1)
        with pytest.raises(LandmarkFileError, match="larger than"):
            read(tmp_path, text, photo)


def test_landmarks_of_another_photo_of_that_size(tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "a.json"
    other = Photo.from_array(np.ones((240, 320, 3), np.uint8))
    record = landmarks_dict(photo, Landmarks("ibug68", GOOD, Backend("test", "1")), 1)
    result = {"photo": record["photo"], "observation": {"landmarks_px": record["landmarks_px"]}}
    untold = {"photo": {"width": 320, "height": 240}, "points": GOOD.tolist()}
    for data, told in ((record, True), (result, True), (untold, False), (GOOD.tolist(), False)):
        path.write_text(json.dumps(data))
        assert read_landmark_file(path, photo)[1] == ()
        (observed,) = observe(other, landmarks_file=path, parser="contours")
        assert [
            warning.startswith(f"{path}: the landmarks were made for another photo") for warning in observed.warnings
        ] == [True] * told


def test_a_face_cut_by_the_photos_edge_is_read(tmp_path: Path, photo: Photo) -> None:
    points = GOOD - (180, 0)  # half of it lies beyond the left edge
    assert 0.3 < (points[:, 0] < 0).mean() < 0.7
    np.testing.assert_array_equal(read(tmp_path, text_of(points), photo).points_px, points)


def test_the_limits_of_a_face(tmp_path: Path, photo: Photo) -> None:
    """On either side of them: the side of the points' square, and the share of them inside the photo."""
    assert (landmark_file.SMALLEST_FACE_PX, landmark_file.LEAST_INSIDE) == (8.0, 0.25)
    shape = (GOOD - GOOD.min(0)) / np.ptp(GOOD, axis=0).max()
    shape[:, 0] /= np.ptp(shape[:, 0])
    read(tmp_path, text_of(100 + 8.01 * shape), photo)
    with pytest.raises(LandmarkFileError, match=r"all points lie within 7\.99 px"):
        read(tmp_path, text_of(100 + 7.99 * shape), photo)
    for inside in (17, 16):  # of 68
        points = GOOD.copy()
        points[inside:, 0] -= 255  # left of the photo
        assert ((points >= 0).all(1)).sum() == inside
        if inside == 17:
            read(tmp_path, text_of(points), photo)
        else:
            with pytest.raises(LandmarkFileError, match="give landmarks of this photo"):
                read(tmp_path, text_of(points), photo)


# In a fit


def test_no_backend_is_loaded_where_both_files_are_given(
    tmp_path: Path, astronaut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = fit3d.fit(astronaut, texture_size=16, config=QUICK)
    saved = head.save(tmp_path / "first")
    monkeypatch.setattr("fit3d.observe.look.landmark_detector", None)  # called, they fail
    monkeypatch.setattr("fit3d.observe.look.face_parser", None)
    for name in [name for name in sys.modules if name.split(".")[0] == "mediapipe"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mediapipe", None)  # as if it were not installed
    given = {"landmarks_file": saved.files["json"], "parts": saved.files["parts"]}
    again = fit3d.fit(astronaut, texture_size=16, config=QUICK, **given)  # type: ignore[arg-type]
    np.testing.assert_allclose(
        again.observation.landmarks.points_px, head.observation.landmarks.points_px, rtol=0, atol=6e-4
    )
    np.testing.assert_array_equal(again.observation.parts, head.fit.parts)
    result = json.loads(again.save(tmp_path / "second").files["json"].read_text())["observation"]
    for key, kind in (("landmarks_file", "json"), ("parts_file", "parts")):
        path = saved.files[kind]
        assert result[key] == {"path": str(path), "sha256": sha256(path.read_bytes()).hexdigest()}
    assert (result["landmark_backend"]["name"], result["parser_backend"]["name"]) == ("landmark_file", "label_image")


def test_the_parser_draws_from_the_given_landmarks(tmp_path: Path, astronaut: Path) -> None:
    photo = load_photo(astronaut)
    (found,) = pipeline.look(photo, parser="contours").observations
    path = tmp_path / "moved.pts"
    path.write_text(pts_text(found.landmarks.points_px + (40, 16)))
    (moved,) = pipeline.look(photo, parser="contours", landmarks_file=path).observations
    # three decimals of the file may move a border by a pixel here and there
    assert (moved.parts != np.roll(found.parts, (16, 40), (0, 1))).sum() < 10
    assert moved.parser.name == "contours"


def test_a_moved_mouth_moves_the_mouth(tmp_path: Path, astronaut: Path) -> None:
    (found,) = pipeline.look(astronaut).observations
    points = found.landmarks.points_px.copy()
    upper, lower, chin = 13, 14, 152
    below = points[:, 1] > points[upper, 1] + 1.0
    points[below, 1] += 14.0  # the jaw drops
    (tmp_path / "open.pts").write_text(pts_text(points))
    closed = fit3d.fit(astronaut, texture_size=16)
    opened = fit3d.fit(astronaut, landmarks_file=tmp_path / "open.pts", texture_size=16)

    def gap_and_chin(head: fit3d.Reconstruction) -> np.ndarray:
        placed = head.fit.camera.project(head.model.landmarks["mediapipe478"].points.of(head.vertices)).numpy()
        return np.array([placed[lower, 1] - placed[upper, 1], placed[chin, 1]])

    assert (gap_and_chin(opened) - gap_and_chin(closed) > 8.0).all()


def test_landmarks_of_face_alignment_are_fitted(shared_data: Path) -> None:
    """Those that face-alignment's own test expects of its 3D network, for its own photo."""
    fan = shared_data / "fan"
    head = fit3d.fit(fan / "aflw-test.jpg", landmarks_file=fan / "aflw-test.json", texture_size=16)
    given = np.array(json.loads((fan / "aflw-test.json").read_text())["landmarks"])[:, :2]
    assert head.observation.landmarks.layout == "ibug68"
    np.testing.assert_array_equal(head.observation.landmarks.points_px, given)
    assert head.fit.landmark_nme < 0.03
    assert head.fit.part_iou["mean"] > 0.6
    # what mediapipe sees in the same photo is the same face: its eyes' corners, nose and mouth
    seen = fit3d.fit(fan / "aflw-test.jpg", texture_size=16)
    points = head.model.landmarks["ibug68"].points
    ours, theirs = (each.fit.camera.project(points.of(each.vertices))[27:] for each in (head, seen))
    size = float(np.ptp(given, axis=0).max())
    assert float(torch.linalg.norm(ours - theirs, dim=1).mean()) < 0.04 * size


def test_points_that_the_head_hides_count_where_someone_set_them(tmp_path: Path, astronaut: Path) -> None:
    photo = load_photo(astronaut)
    (found,) = pipeline.look(photo, parser="contours").observations
    points = found.landmarks.points_px.copy()
    points[:, 0] = points[:, 0].mean() + (points[:, 0] - points[:, 0].mean()) * 0.5  # as if seen from the side
    model = load_model("anny")

    def silenced(landmarks: Landmarks) -> int:
        face = Face(replace(found, landmarks=landmarks), photo.width, photo.height, None)
        return int((prepare(model, [face], QUICK).objective.targets.landmarks.weight == 0).sum())

    assert silenced(Landmarks("mediapipe478", points, found.landmarks.backend)) > 0  # a detector's guesses
    (tmp_path / "a.pts").write_text(pts_text(points))
    assert silenced(read_landmark_file(tmp_path / "a.pts", photo)[0]) == 0


def test_one_file_is_one_face(tmp_path: Path, astronaut: Path) -> None:
    (found,) = pipeline.look(astronaut).observations
    (tmp_path / "a.pts").write_text(pts_text(found.landmarks.points_px))
    with pytest.raises(fit3d.NoFaceError, match="face 2 was asked for, but only 1 face was found"):
        fit3d.fit(astronaut, landmarks_file=tmp_path / "a.pts", face=2)


# A face at a pixel


@pytest.mark.parametrize("place", [(-1, 5), (1, float("nan")), (1, 2, 3), ("1", "2"), (1,), (True, 2)])
def test_places_that_cannot_be(place: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="a place \\(x, y\\) in photo pixels"):
        fit3d.fit("missing.jpg", face=place)


def test_the_face_at_a_pixel() -> None:
    photo = Photo.from_array(np.zeros((300, 400, 3), np.uint8), name="p.jpg")
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], -1)
    diamond = circle / np.abs(circle).sum(1, keepdims=True)
    backend = Backend("test", "0")
    nothing = np.zeros((300, 400), np.uint8)
    observations = tuple(
        fit3d.Observation(Landmarks("ibug68", outline + middle, backend), nothing, backend)
        for outline, middle in ((60 * diamond, (100, 100)), (50 * circle, (180, 150)), (40 * circle, (320, 200)))
    )
    observations[2].landmarks.points_px[::9] = np.nan
    sighting = pipeline.Sighting(photo, observations, {})

    def at(x: float, y: float) -> int:
        (number,) = pipeline.choose_faces(sighting, (x, y))
        return number

    assert (at(100, 100), at(190, 150), at(320, 200), at(349.5, 200)) == (1, 2, 3, 3)
    assert at(135, 135) == 2  # in the boxes of two, nearer to the first, in the hull of the second alone
    assert at(52, 52) == 1  # in the first's box alone
    with pytest.raises(fit3d.NoFaceError, match=r"p\.jpg: no face at pixel 390,200; the nearest is face 3, .* 280,160"):
        at(390, 200)
    for place in ((401, 10), (10, 301), (5000, 5000)):
        with pytest.raises(
            fit3d.NoFaceError, match=r"p\.jpg: no face at pixel .*, which is outside the photo of 400 x 300 px"
        ):
            at(*place)


# Pixels from Python


def test_pixels_from_python_have_no_file_to_point_to(tmp_path: Path, astronaut: Path) -> None:
    pixels = load_photo(astronaut).pixels
    saved = pipeline.look(pixels, parser="contours").save(tmp_path / "seen", "me")
    assert {path.name for path in saved.folder.iterdir()} == {path.name for path in saved.files.values()}
    assert set(saved.files) == {"landmarks", "pts", "parts", "picture"}
    pipeline.look(astronaut, parser="contours").save(tmp_path / "seen", "me")
    assert (saved.folder / "me_labelme.json").exists()
    pipeline.look(pixels, parser="contours").save(tmp_path / "seen", "me")
    assert not (saved.folder / "me_labelme.json").exists()
    head = fit3d.fit(pixels, texture_size=16, config=QUICK)
    for name in (None, "me"):
        written = head.save(tmp_path / "fitted", name, fit3d.ExportConfig(formats=("colmap",)))
        assert written.files["images"].read_text().split("\n")[1].endswith(f" 1 {name or 'array'}")
