"""Where FAN's landmarks come to lie: the search for faces, the crops, and what is read from heatmaps."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import face_alignment
import numpy as np
import pytest
import torch
from face_alignment import utils

from dot_faces import COLOUR, SPACING, Boxes, DotNetwork, Finder, Head, assert_found, draw, gaussians
from fit3d.errors import ObservationError
from fit3d.observe import weights
from fit3d.observe.face_alignment import FaceAlignmentLandmarks, read_heatmaps, surface_contour_share
from fit3d.photo import Photo


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FaceAlignmentLandmarks]:
    """A backend whose FAN is the network of dots; `finder` stands in for its detector."""

    def made(finder: Any = None, **keywords: Any) -> FaceAlignmentLandmarks:
        networks = SimpleNamespace(face_alignment_net=DotNetwork(), face_detector=finder or Finder())
        with monkeypatch.context() as patch:
            patch.setattr(weights, "require", lambda name: None)
            patch.setattr(face_alignment, "FaceAlignment", lambda *kind, **keywords: networks)
            return FaceAlignmentLandmarks(**keywords)

    return made


@pytest.mark.parametrize(
    ("width", "height", "head"),
    [
        (512, 512, Head(260.3, 244.8, face=180.0)),
        (700, 400, Head(581.2, 191.7, face=140.0)),
        (400, 701, Head(190.0, 540.4, face=150.0)),
        (480, 480, Head(239.7, 241.1, face=205.0)),
        (3000, 2000, Head(1700.4, 911.9, face=700.0)),
        (300, 200, Head(149.6, 101.3, face=40.0)),
        (1600, 1200, Head(410.5, 733.2, face=60.0)),
    ],
    ids=["square", "wide", "tall", "filling", "six megapixels", "40 px", "small"],
)
def test_every_landmark_lies_on_its_dot(
    make: Callable[..., FaceAlignmentLandmarks], width: int, height: int, head: Head
) -> None:
    detector, points, photo = make(), head.points, draw(width, height, head)
    for _ in range(4):
        (face,) = detector.detect(photo)
        assert_found(face, head, points)
        assert face.confidence is not None
        assert face.confidence.min() > 0.5 and face.confidence.max() <= 0.95 and face.confidence.mean() > 0.7
        # a quarter turn against the clock takes (x, y) to (y, width - x)
        photo = Photo.from_array(np.rot90(photo.pixels))
        points = np.column_stack([points[:, 1], photo.height - points[:, 0]])


@pytest.mark.parametrize("degrees", [-40.0, -17.0, 8.0, 30.0, 75.0, 130.0])
def test_tilted_faces_are_cut_upright(make: Callable[..., FaceAlignmentLandmarks], degrees: float) -> None:
    class Tilted(Finder):
        """Sees a face up to 50 degrees from upright; its box stands upright all the same."""

        def detect_from_image(self, picture: np.ndarray) -> list[np.ndarray]:
            shown = picture.astype(np.float32) / 255.0 - 0.5
            nasion, chin = (self._brightest(shown @ COLOUR[point].astype(np.float32)) for point in (27, 8))
            if nasion is None or chin is None:
                return []
            if abs(np.degrees(np.arctan2(nasion[0] - chin[0], chin[1] - nasion[1]))) > 50.0:
                return []
            face = float(np.linalg.norm(chin - nasion)) / (9.0 * SPACING) * 195.0 / 400.0
            return [Head(*(nasion + chin) / 2.0, face=face).box()]

    head = Head(402.0, 377.0, face=200.0, turn=float(np.radians(degrees)))
    (face,) = make(Tilted()).detect(draw(800, 700, head))
    assert_found(face, head)


def test_a_lying_face_taken_for_upright_is_turned(make: Callable[..., FaceAlignmentLandmarks]) -> None:
    for turns in (1, 2, 3):
        head = Head(250.0, 250.0, face=150.0)
        photo = Photo.from_array(np.rot90(draw(500, 500, head).pixels, turns))
        points = head.points - 250.0
        for _ in range(turns):
            points = np.column_stack([points[:, 1], -points[:, 0]])
        finder = Boxes(500, Head(250.0, 250.0 - 0.12 * 150.0, face=150.0))
        (face,) = make(finder).detect(photo)
        assert_found(face, head, points + 250.0, tolerance=0.05)
        assert finder.looks == 1


def test_faces_come_largest_first(make: Callable[..., FaceAlignmentLandmarks]) -> None:
    heads = (Head(150.0, 160.0, face=60.0), Head(480.0, 300.0, face=120.0), Head(170.0, 480.0, face=80.0))
    photo = draw(700, 600, *heads)
    found = make(Boxes(700, *heads, heads[1])).detect(photo)
    assert len(found) == 3
    for face, head in zip(found, (heads[1], heads[2], heads[0]), strict=True):
        assert_found(face, head)


def test_the_first_look_is_coarse_and_a_finer_one_follows_only_where_needed(
    make: Callable[..., FaceAlignmentLandmarks],
) -> None:
    large, small = Finder(), Finder()
    make(large).detect(draw(2000, 1500, Head(900.0, 700.0, face=500.0)))
    assert large.shapes == [(240, 320, 3)]
    make(small).detect(draw(2000, 1500, Head(900.0, 700.0, face=60.0)))
    assert small.shapes[-1] == (960, 1280, 3) and (320, 240, 3) in small.shapes


def test_what_fan_does_not_recognise_is_no_face(make: Callable[..., FaceAlignmentLandmarks]) -> None:
    assert make(Boxes(400, Head(200.0, 150.0, face=100.0))).detect(draw(400, 300)) == []
    assert make().detect(draw(90, 64)) == []


@pytest.mark.parametrize("shape", [(32, 2000), (2000, 32)])
def test_strips_are_searched(make: Callable[..., FaceAlignmentLandmarks], shape: tuple[int, int]) -> None:
    finder = Finder()
    assert make(finder).detect(draw(*shape)) == []
    assert all(min(each[:2]) >= 64 for each in finder.shapes)


def test_batches_give_what_single_photos_give(make: Callable[..., FaceAlignmentLandmarks]) -> None:
    heads = [
        Head(210.0, 150.0, face=120.0),
        Head(200.0, 170.0, face=40.0),
        Head(190.0, 140.0, face=90.0, turn=np.pi / 2),
    ]
    photos = [draw(400, 300, heads[0]), draw(400, 300), draw(500, 400, heads[1]), draw(400, 300, heads[2])]
    detector = make()
    single = [detector.detect(photo) for photo in photos]
    assert [len(faces) for faces in single] == [1, 0, 1, 1]
    for batched in (False, True):
        detector._batched = batched
        together = detector.detect_batch(photos)
        for one, other in zip(single, together, strict=True):
            assert len(one) == len(other)
            for face, again in zip(one, other, strict=True):
                assert again.confidence is not None and face.confidence is not None
                np.testing.assert_allclose(again.points_px, face.points_px, atol=0.0 if not batched else 1e-3)
                np.testing.assert_allclose(again.confidence, face.confidence, atol=0.0 if not batched else 1e-5)


def test_broken_detector_boxes_are_passed_over(make: Callable[..., FaceAlignmentLandmarks]) -> None:
    head = Head(200.0, 150.0, face=100.0)

    class Broken(Boxes):
        def detect_from_image(self, picture: np.ndarray) -> list[np.ndarray]:
            nonsense = [[np.nan, 0, 10, 10, 1], [50, 50, 40, 60, 1], [0, 0, np.inf, 9, 1]]
            return [*map(np.array, nonsense), *super().detect_from_image(picture)]

    (face,) = make(Broken(400, head)).detect(draw(400, 300, head))
    assert_found(face, head)


def test_scores_that_are_not_numbers_are_reported(make: Callable[..., FaceAlignmentLandmarks]) -> None:
    class Broken(DotNetwork):
        def forward(self, crops: torch.Tensor) -> list[torch.Tensor]:
            heatmaps = super().forward(crops)
            heatmaps[-1][:, 40, 3, 3] = torch.nan
            return heatmaps

    detector = make()
    detector._package.face_alignment_net = Broken()
    with pytest.raises(ObservationError, match="not numbers"):
        detector.detect(draw(400, 300, Head(200.0, 150.0, face=120.0)))


# Heatmaps


def test_peaks_are_read_between_pixels() -> None:
    at = np.random.default_rng(2).uniform(4.0, 60.0, (200, 2))
    found, _ = read_heatmaps(gaussians(at))
    np.testing.assert_allclose(found, at, atol=1e-6)


def test_peaks_agree_with_the_package_to_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    at = np.random.default_rng(3).uniform(2.0, 62.0, (68, 2))
    heatmaps = gaussians(at).astype(np.float32)
    # the same code without minutes of compilation
    monkeypatch.setattr(utils, "transform_np", utils.transform_np.py_func)
    monkeypatch.setattr(utils, "_get_preds_fromhm", utils._get_preds_fromhm.py_func)
    theirs, _, scores = utils.get_preds_fromhm(heatmaps[None])
    ours, confidence = read_heatmaps(heatmaps)
    assert np.abs(ours - theirs[0]).max() <= 0.2501  # it moves a quarter of a pixel towards the higher neighbour
    np.testing.assert_allclose(confidence, scores[0])


def test_confidence_is_the_height_of_the_peak() -> None:
    at = np.full((5, 2), 20.5)
    heights = np.array([-0.5, 0.0, 0.3, 0.9, 1.7])
    _, confidence = read_heatmaps(gaussians(at, heights))
    np.testing.assert_allclose(confidence, [0.0, 0.0, 0.3, 0.9, 1.0], atol=1e-12)
    # smeared by the uncertainty s, the Gaussian keeps the share s0^2 / (s0^2 + s^2) of its height
    sharp = gaussians(np.array([[32.5, 32.5]]))[0]
    _, smeared = read_heatmaps(cv2.GaussianBlur(sharp, (0, 0), 1.75)[None])
    assert smeared[0] == pytest.approx(0.5, abs=0.01)


def test_peaks_at_the_border_and_plateaus_stay_at_pixels() -> None:
    heatmaps = np.zeros((4, 64, 64))
    heatmaps[0, 0, 63] = heatmaps[1, 63, 0] = 1.0
    heatmaps[2] = 0.4
    heatmaps[3, 5, 5] = np.nan
    at, confidence = read_heatmaps(heatmaps)
    np.testing.assert_array_equal(at[:3], [[63.5, 0.5], [0.5, 63.5], [0.5, 0.5]])
    assert np.isfinite(at).all()
    np.testing.assert_array_equal(confidence, [1.0, 1.0, 0.4, np.nan])


# The contour of 3D-FAN


def _jaw(yaw_deg: float, roll: float = 0.0) -> np.ndarray:
    """Points (68, 2) of a simple head, px: the jaw 70 mm to either side and 90 mm behind the nasion."""
    head = np.zeros((68, 3))
    for point in range(17):
        share = (point - 8) / 8.0
        head[point] = (70.0 * share, 110.0 * (1.0 - share**2), -90.0 * share**2)
    head[36:42], head[42:48] = (-30.0, 5.0, -20.0), (30.0, 5.0, -20.0)
    yaw = np.radians(yaw_deg)
    seen = np.column_stack([head[:, 0] * np.cos(yaw) + head[:, 2] * np.sin(yaw), head[:, 1]])
    return seen @ np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])


def test_contour_of_the_surface_has_no_say_where_a_cheek_hides_it() -> None:
    np.testing.assert_array_equal(surface_contour_share(_jaw(0.0)), 1.0)
    np.testing.assert_array_equal(surface_contour_share(_jaw(7.0)), 1.0)
    for yaw, far, near in ((30.0, range(9, 17), range(8)), (-30.0, range(8), range(9, 17))):
        share = surface_contour_share(_jaw(yaw, roll=2.0))
        np.testing.assert_array_equal(share[list(far)], 0.0)
        np.testing.assert_array_equal(share[[*near, *range(17, 68), 8]], 1.0)
    between = surface_contour_share(_jaw(13.0))
    assert 0.0 < between.min() < 1.0
