"""MediaPipe's detector finds faces wherever they are, turned, small or cut off, and knows what it cannot see."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d.errors import NoFaceError, ObservationError
from fit3d.landmarks import CONTOUR_LANDMARKS
from fit3d.morphable.registry import load_model
from fit3d.observe.base import Backend, Landmarks
from fit3d.observe.face_search import Detection, DetectorRange, FaceSearch, Pyramid, Square
from fit3d.observe.look import observe
from fit3d.observe.mesh_confidence import (
    SPREAD_ALIKE,
    USUAL_SPREAD,
    landmark_confidence,
    mesh_triangles,
    spread_of_looks,
)
from fit3d.observe.registry import landmark_detector
from fit3d.photo import Photo, load_photo
from fit3d.raster import rasterise
from fit3d.render.overlay import BACKDROP
from fit3d.render.shade import over, shade, three_quarter_camera


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
    return points_of(example)


def face_of(pixels: np.ndarray) -> Landmarks:
    """The only face."""
    (face,) = landmark_detector("mediapipe").detect(Photo.from_array(np.ascontiguousarray(pixels)))
    return face


def points_of(pixels: np.ndarray) -> np.ndarray:
    return face_of(pixels).points_px


def face_height(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[152] - points[10]))


# Where faces are found


def test_landmarks_of_the_example(example: np.ndarray, example_points: np.ndarray) -> None:
    (face,) = landmark_detector("mediapipe").detect(Photo.from_array(example))
    assert face.layout == "mediapipe478" and face.points_px.shape == (478, 2) and face.points_px.dtype == np.float64
    assert face.backend.name == "mediapipe" and face.backend.version[0].isdigit()
    # Read off the enlarged photo by eye: iris centres, corners of the mouth, chin.
    by_eye = {468: (203.5, 101.0), 473: (246.5, 103.0), 61: (202.5, 140.0), 291: (245.5, 141.0), 152: (224.0, 177.5)}
    for index, place in by_eye.items():
        assert np.linalg.norm(face.points_px[index] - place) < 3.0, (index, face.points_px[index])


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_turned_photo_gives_turned_landmarks(
    example: np.ndarray, example_points: np.ndarray, quarter_turns: int
) -> None:
    found = points_of(np.rot90(example, quarter_turns))
    size = example.shape[0]
    for _ in range(quarter_turns):  # turn back, to the right
        found = np.column_stack([size - found[:, 1], found[:, 0]])
    assert np.linalg.norm(found - example_points, axis=1).mean() < 0.01 * face_height(example_points)


@pytest.mark.parametrize("turn_deg", [45, 120, 200])
def test_face_turned_by_any_angle(example: np.ndarray, example_points: np.ndarray, turn_deg: float) -> None:
    turned = np.asarray(Image.fromarray(example).rotate(turn_deg, Image.Resampling.BICUBIC))
    centre, angle = np.array([256.0, 256.0]), np.radians(turn_deg)
    back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = (points_of(turned) - centre) @ back.T + centre
    assert np.linalg.norm(found - example_points, axis=1).mean() < 0.01 * face_height(example_points)


@pytest.mark.parametrize("corner", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.9)])
def test_small_face_in_a_large_photo(
    example: np.ndarray, example_points: np.ndarray, corner: tuple[float, float]
) -> None:
    height, width, side = 1500, 2000, 190
    scale = side / example.shape[0]
    assert 38 < scale * face_height(example_points) < 42
    large = np.full((height, width, 3), 110, np.uint8)
    x, y = round(corner[0] * (width - side)), round(corner[1] * (height - side))
    small = Image.fromarray(example).resize((side, side), Image.Resampling.LANCZOS)
    large[y : y + side, x : x + side] = np.asarray(small)
    found = (points_of(large) - (x, y)) / scale
    assert np.linalg.norm(found - example_points, axis=1).mean() < 0.03 * face_height(example_points)


def test_face_that_fills_the_photo(example: np.ndarray, example_points: np.ndarray) -> None:
    left, top = np.floor(example_points.min(axis=0)).astype(int) - 4
    right, bottom = np.ceil(example_points.max(axis=0)).astype(int) + 4
    found = points_of(example[top:bottom, left:right]) + (left, top)
    assert np.linalg.norm(found - example_points, axis=1).mean() < 0.02 * face_height(example_points)


def test_place_of_the_face_does_not_matter(example: np.ndarray, example_points: np.ndarray) -> None:
    found = points_of(np.pad(example, ((37, 300), (211, 90), (0, 0)))) - (211, 37)
    assert np.linalg.norm(found - example_points, axis=1).mean() < 0.005 * face_height(example_points)


def test_several_faces_largest_first(example: np.ndarray, example_points: np.ndarray) -> None:
    left, top, right, bottom = 130, 0, 330, 200
    face = Image.fromarray(example[top:bottom, left:right])
    canvas = np.full((420, 900, 3), 90, np.uint8)
    sizes, places = (150, 400, 260), (10, 180, 620)
    for size, place in zip(sizes, places, strict=True):
        canvas[10 : 10 + size, place : place + size] = np.asarray(face.resize((size, size)))
    faces = landmark_detector("mediapipe").detect(Photo.from_array(canvas))
    assert len(faces) == 3
    for found, (size, place) in zip(faces, ((400, 180), (260, 620), (150, 10)), strict=True):
        expected = (example_points - (left, top)) * size / 200 + (place, 10)
        assert np.linalg.norm(found.points_px - expected, axis=1).mean() < 0.02 * face_height(expected)


@pytest.mark.parametrize("kind", ["black", "noise", "disc", "stripes", "tiny", "wide"])
def test_no_face_where_there_is_none(detector: object, kind: str) -> None:
    y, x = np.mgrid[0:300, 0:400]
    disc = np.hypot(x - 200, y - 150) < 100
    pictures = {
        "black": np.zeros((300, 400), np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8),
        "disc": np.where(disc, 210, 60).astype(np.uint8),
        "stripes": (x // 20 % 2 * 255).astype(np.uint8),
        "tiny": np.full((32, 32), 128, np.uint8),
        "wide": np.full((32, 3000), 128, np.uint8),
    }
    photo = Photo.from_array(pictures[kind], name="photo.jpg")
    assert landmark_detector("mediapipe").detect(photo) == []
    with pytest.raises(NoFaceError, match=r"photo\.jpg: no face found") as caught:
        observe(photo)
    assert "\n" not in str(caught.value)


def test_same_bytes_whatever_came_before(example: np.ndarray, example_points: np.ndarray) -> None:
    for other in (np.zeros((64, 64, 3), np.uint8), example[:, ::-1], example[:300, :300]):
        landmark_detector("mediapipe").detect(Photo.from_array(np.ascontiguousarray(other)))
        assert points_of(example).tobytes() == example_points.tobytes()


def test_another_process_gives_the_same_bytes_and_says_nothing(astronaut: Path, example_points: np.ndarray) -> None:
    code = (
        "import sys, hashlib\n"
        "from fit3d.observe.registry import landmark_detector\n"
        "from fit3d.photo import load_photo\n"
        f"faces = landmark_detector('mediapipe').detect(load_photo({str(astronaut)!r}))\n"
        "sys.stdout.buffer.write(faces[0].points_px.tobytes())"
    )
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], check=True, capture_output=True)
    assert done.stdout == example_points.tobytes()
    assert done.stderr == b""


def test_nan_from_the_network(example: np.ndarray, detector: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def nan_mesh(*_: object) -> tuple[np.ndarray, float]:
        return np.full((478, 3), np.nan), 1.0

    monkeypatch.setattr(detector, "_run_mesh", nan_mesh)
    with pytest.raises(ObservationError, match="not numbers"):
        landmark_detector("mediapipe").detect(Photo.from_array(example))


def test_upside_down_photos(shared_data: Path, detector: object) -> None:
    """Faces whose eyes and forehead, seen upside down, pass for a face to the networks."""
    for name in ("h1033", "h14253", "h4"):
        photo = load_photo(shared_data / "labelled" / f"{name}.png")
        large = np.full((1500, 2000, 3), 100, np.uint8)
        large[300 : 300 + photo.height, 900 : 900 + photo.width] = photo.pixels
        expected = points_of(photo.pixels) + (900, 300)
        found = (2000, 1500) - points_of(large[::-1, ::-1])
        assert np.linalg.norm(found - expected, axis=1).mean() < 0.01 * face_height(expected), name


def test_real_photos(shared_data: Path, detector: object) -> None:
    """Every face of the photos is found once, whatever it does; both of the picture with two."""
    expected = {"twogirls.jpg": 2}
    for path in sorted((shared_data / "photos").iterdir()):
        if path.name in (
            "fire.webp",
            "sideface.jpg",
        ):  # hardly to be seen, exactly from the side: either answer will do
            continue
        faces = landmark_detector("mediapipe").detect(load_photo(path))
        assert len(faces) == expected.get(path.name, 1), path.name


@pytest.mark.parametrize("quarter_turns", [1, 2])
def test_small_face_that_is_turned_in_a_large_photo(
    example: np.ndarray, example_points: np.ndarray, quarter_turns: int
) -> None:
    height, width, side = 1100, 1400, 190
    scale = side / example.shape[0]
    large = np.full((height, width, 3), 110, np.uint8)
    large[800 : 800 + side, 150 : 150 + side] = np.asarray(Image.fromarray(example).resize((side, side)))
    found = points_of(np.rot90(large, quarter_turns))
    size = (height, width) if quarter_turns % 2 else (width, height)
    for _ in range(quarter_turns):
        found = np.column_stack([size[1] - found[:, 1], found[:, 0]])
        size = size[::-1]
    found = (found - (150, 800)) / scale
    assert np.linalg.norm(found - example_points, axis=1).mean() < 0.03 * face_height(example_points)


def test_small_face_beside_a_larger_one(example: np.ndarray, example_points: np.ndarray) -> None:
    """Of 140 and 40 px, both small in the photo."""
    canvas = np.full((1200, 1800, 3), 90, np.uint8)
    places = {900: (40, 200), 256: (1500, 900)}
    for side, (x, y) in places.items():
        canvas[y : y + side, x : x + side] = np.asarray(Image.fromarray(example).resize((side, side)))
    faces = landmark_detector("mediapipe").detect(Photo.from_array(canvas))
    assert len(faces) == 2
    for found, (side, place) in zip(faces, places.items(), strict=True):
        expected = example_points * side / example.shape[0] + place
        assert np.linalg.norm(found.points_px - expected, axis=1).mean() < 0.03 * face_height(expected)


@pytest.mark.parametrize(("side", "share"), [("left", 0.4), ("right", 0.4), ("top", 0.25), ("bottom", 0.4)])
def test_face_cut_by_the_frame(example: np.ndarray, example_points: np.ndarray, side: str, share: float) -> None:
    low, high = example_points.min(0), example_points.max(0)
    cut = np.rint(share * (high - low))
    first, last = np.rint(low + cut).astype(int), np.rint(high - cut).astype(int)
    left, top = (first[0] if side == "left" else 0), (first[1] if side == "top" else 0)
    right, bottom = (last[0] if side == "right" else 512), (last[1] if side == "bottom" else 512)
    face = face_of(example[top:bottom, left:right])
    within = ((example_points > (left, top)) & (example_points < (right, bottom))).all(1)
    errors = np.linalg.norm(face.points_px + (left, top) - example_points, axis=1) / face_height(example_points)
    assert errors[within].mean() < 0.05
    assert face.confidence is not None
    found_within = ((face.points_px >= 0) & (face.points_px <= (right - left, bottom - top))).all(1)
    assert 0.2 < found_within.mean() < 0.95
    assert not face.confidence[~found_within].any()
    assert face.confidence[found_within].mean() > 0.2


@pytest.mark.parametrize("quarter_turns", [1, 3])
def test_cells_are_no_faces(detector: object, quarter_turns: int) -> None:
    """A picture in which both networks see a face, but not the same one at a second look."""
    cells = pytest.importorskip("skimage.data").cell()
    assert landmark_detector("mediapipe").detect(Photo.from_array(np.rot90(cells, quarter_turns).copy())) == []


# Confidence


TRIANGLES = np.array([(0, 1, 2), (2, 1, 3)])


def test_triangles_of_edges() -> None:
    edges = [(0, 1), (1, 2), (2, 0), (2, 1), (1, 3), (3, 2)]
    np.testing.assert_array_equal(mesh_triangles(iter(edges)), TRIANGLES)


@pytest.fixture(scope="module")
def plane() -> np.ndarray:
    """(478, 3) landmarks of a flat face, 100 px high, in a photo of 200 x 200."""
    points = np.random.default_rng(0).uniform((60, 60, 0), (140, 140, 0), (478, 3))
    points[10], points[152] = (100, 50, 0), (100, 150, 0)
    return points


def test_wavering_points_count_by_their_variance(plane: np.ndarray) -> None:
    """Two looks, each point moved by its own distance one way and the other."""
    triangles = np.arange(477).reshape(-1, 3)[:, [0, 1, 2]]
    a, b, c = plane[triangles].swapaxes(0, 1)
    clockwise = (b - a)[:, 0] * (c - a)[:, 1] > (b - a)[:, 1] * (c - a)[:, 0]
    triangles[clockwise] = triangles[clockwise][:, ::-1]
    moved = np.zeros((478, 3))
    moved[:, 0] = np.linspace(0.0, 3.0, 478)
    moved[[10, 152]] = 0.0
    looks = np.stack([plane - moved, plane + moved])
    spread = moved[:, 0] / 100.0
    np.testing.assert_allclose(spread_of_looks(looks), spread, atol=1e-12)
    confidence = landmark_confidence(looks, triangles, (200, 200))
    inner = [i for i in range(468) if i not in CONTOUR_LANDMARKS["mediapipe478"]]
    expected = (USUAL_SPREAD**2 + SPREAD_ALIKE**2) / (spread**2 + SPREAD_ALIKE**2)
    np.testing.assert_allclose(confidence[inner], np.minimum(expected, 1.0)[inner], rtol=1e-9)
    # the same face half outside
    shifted = landmark_confidence(looks - (100, 0, 0), triangles, (200, 200))
    outside = plane[:, 0] < 100
    assert not shifted[outside].any()
    np.testing.assert_array_equal(shifted[~outside], confidence[~outside])


def turned_head(yaw_deg: float) -> tuple[Landmarks, np.ndarray]:
    """What is found on the bundled model's mean head in clay, and (478,) how far, metres, each of its landmarks lies
    behind the surface that is seen there."""
    model = load_model("anny")
    camera = three_quarter_camera(model.mean, yaw_deg, 512)
    layer = shade(model.mean, model.triangles[model.opaque], camera)
    face = face_of(over(np.full((512, 512, 3), BACKDROP, np.uint8), layer))
    landmarks = model.landmarks["mediapipe478"].points.of(model.mean)
    seen, placed = (camera.to_cam(points.double()) for points in (model.mean, landmarks))
    px, at = camera.project(model.mean.double()), camera.project(landmarks.double())
    depth = rasterise(px, seen[:, 2], torch.as_tensor(np.asarray(model.triangles[model.opaque])), 512, 512).depth
    x, y = at.floor().long().clamp(0, 511).unbind(1)
    return face, (placed[:, 2] - depth[y, x]).numpy()


def test_landmarks_that_the_head_hides_have_no_say(detector: object) -> None:
    inner = np.ones(478, bool)
    inner[list(CONTOUR_LANDMARKS["mediapipe478"])] = False
    face, behind = turned_head(50.0)
    assert face.confidence is not None
    hidden, seen = inner & (behind > 0.01), inner & (behind < 0.003)
    assert hidden.sum() > 50 and seen.sum() > 150
    assert (face.confidence[hidden] == 0.0).mean() > 0.7 and face.confidence[hidden].mean() < 0.1
    assert (face.confidence[seen] == 0.0).mean() < 0.1 and face.confidence[seen].mean() > 0.4
    # the outer corners of the eyes
    assert face.confidence[33] == 0.0 < 0.3 < face.confidence[263]
    # from the other side the other half is hidden
    mirrored, _ = turned_head(-50.0)
    assert mirrored.confidence is not None
    assert mirrored.confidence[263] == 0.0 < 0.3 < mirrored.confidence[33]


def test_face_from_the_front_is_trusted(detector: object, example: np.ndarray) -> None:
    confidence = face_of(example).confidence
    assert confidence is not None and confidence.shape == (478,)
    assert confidence.min() >= 0.0 and confidence.max() == 1.0 and confidence.mean() > 0.85
    assert (confidence > 0.5).mean() > 0.9


def test_small_face_is_trusted_less(example: np.ndarray) -> None:
    """Fewer pixels, and points that waver more."""
    small = np.asarray(Image.fromarray(example).resize((150, 150)))
    large, little = face_of(example).confidence, face_of(small).confidence
    assert large is not None and little is not None and little.mean() < large.mean() - 0.05


class CountingSearch(FaceSearch):
    """Sees no face anywhere, and counts how often it looked."""

    backend = Backend("counting", "1")
    looks = 0

    def _proposals(self, image: np.ndarray, detector: DetectorRange) -> list[Detection]:
        self.looks += 1
        return []

    def _points(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        raise AssertionError("nothing was proposed")


class VastPhoto(Pyramid):
    """A black photo of any size that takes no memory, and no time to cut."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(np.zeros((32, 32, 3), np.uint8))
        self.size = height, width

    @property
    def hw(self) -> tuple[int, int]:
        return self.size

    def cut(self, square: Square, resolution: int, border: int) -> np.ndarray:
        return np.broadcast_to(np.uint8(0), (resolution, resolution, 3))


def looks_at(height: int, width: int) -> int:
    search = CountingSearch(np.zeros((1, 3), np.int64))
    assert search._search(VastPhoto(height, width)) == []
    return search.looks


def test_a_vast_photo_without_a_face_takes_no_longer_than_a_large_one() -> None:
    large = looks_at(4_096, 4_096)
    assert looks_at(14_000, 14_000) == large
    assert looks_at(100, 30_000) <= large
    assert looks_at(2_048, 2_048) < large  # small faces are looked for as far as they have pixels
