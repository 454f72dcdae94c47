"""The judging of fitted heads: what is measured, on which photos, and where the detector's points come to lie."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d.camera import Crop
from fit3d.commands.app import main
from fit3d.errors import UsageError
from fit3d.evaluate.plausibility import (
    BLIND,
    REGIONS,
    PhotoWithLabels,
    PlausibilityScore,
    average_plausibility,
    look_at_clay,
    photos_of,
    plausibility_sheet,
    region_nme,
    worst_plausibility,
)
from fit3d.landmarks import LANDMARK_COUNTS, LandmarkLayout
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Backend, Landmarks, Observation
from fit3d.photo import Photo
from fit3d.pipeline import Sighting
from fit3d.render.overlay import BACKDROP
from fit3d.render.shade import shade
from fit3d.solve.result import Fit
from synthetic import synthetic_camera, synthetic_identity, synthetic_model

LAYOUTS: tuple[LandmarkLayout, ...] = ("ibug68", "mediapipe478")
STAND_IN = Backend("stand-in", "1")


@dataclass(frozen=True)
class SilhouetteDetector:
    """A landmark detector whose every landmark is a corner of the box around whatever is not background."""

    backend: Backend = STAND_IN
    finds: int = 1

    def detect(self, photo: Photo) -> list[Landmarks]:
        rows, columns = np.nonzero((photo.pixels != BACKDROP).any(2))
        corners = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]], dtype=np.float64)
        return [Landmarks("ibug68", np.tile(corners, (34, 1)), STAND_IN)] * self.finds


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return synthetic_model()


@pytest.fixture(scope="module")
def fitted(model: MorphableModel) -> Fit:
    """A head in a photo of 300 x 240 px whose crop is off its middle and not of whole pixels."""
    expression = torch.zeros(len(model.expression_names), dtype=torch.float64)
    expression[0] = 0.5
    return Fit(
        identity=synthetic_identity(model).double(),
        expression=expression,
        camera=synthetic_camera(300, 240, yaw_deg=20.0),
        crop=Crop(left=41.3, top=-7.6, size=230.7, resolution=224),
        parts=np.zeros((240, 300), np.uint8),
        part_iou={"mean": 0.5},
        landmark_nme=0.01,
        energy_start={},
        energy_end={},
        iterations=1,
        stop_reason="converged",
    )


def observed(layout: LandmarkLayout, seed: int = 0) -> Landmarks:
    points = np.random.default_rng(seed).uniform(50.0, 200.0, (LANDMARK_COUNTS[layout], 2))
    return Landmarks(layout, points, STAND_IN)


def diagonal(landmarks: Landmarks) -> float:
    left, top, right, bottom = landmarks.box_px
    return math.hypot(right - left, bottom - top)


def score(**changes: object) -> PlausibilityScore:
    plain = PlausibilityScore("a.png", "contours", 0.5, 1.0, 0.1, 10, 0.8, 0.01, {"all": 0.01, "eyes": 0.02})
    return replace(plain, **changes)  # type: ignore[arg-type]


# --- the clay picture -------------------------------------------------------------------------------------------


def test_what_the_detector_finds_in_the_clay_lies_where_the_head_is_in_the_photo(
    model: MorphableModel, fitted: Fit
) -> None:
    rendered = look_at_clay(model, fitted, SilhouetteDetector())
    px = fitted.camera.project(model.vertices(fitted.identity, fitted.expression)).numpy()
    truth = np.stack([px.min(0), px.max(0)])
    assert rendered.points_px is not None
    # the whole head lies in the picture, the crop in its middle; a pixel of it is less than half a pixel of the photo
    window, crop = rendered.window, fitted.crop
    assert window.scale > 2.0
    assert window.left + window.size / 2 == pytest.approx(crop.left + crop.size / 2)
    assert window.top + window.size / 2 == pytest.approx(crop.top + crop.size / 2)
    assert np.abs(rendered.points_px[:2] - truth).max() < 1.5 / rendered.window.scale


def test_the_clay_shows_the_expression(model: MorphableModel, fitted: Fit) -> None:
    silent = replace(fitted, expression=torch.zeros_like(fitted.expression))
    pictures = [look_at_clay(model, fit, SilhouetteDetector()).picture for fit in (fitted, silent)]
    assert (pictures[0] != pictures[1]).any()


def test_a_head_in_which_no_face_is_found(model: MorphableModel, fitted: Fit) -> None:
    assert look_at_clay(model, fitted, SilhouetteDetector(finds=0)).points_px is None


# --- distances --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("region", ["eyes", "brows", "nose", "mouth", "contour"])
def test_a_shifted_region_counts_there_and_by_its_share_over_all(layout: LandmarkLayout, region: str) -> None:
    landmarks = observed(layout)
    ids = list(REGIONS[layout][region])
    moved = landmarks.points_px.copy()
    moved[ids] += [3.0, -4.0]
    shares = region_nme(moved, landmarks)
    seen = LANDMARK_COUNTS[layout] - len(BLIND[layout])
    assert shares.pop(region) == pytest.approx(5.0 / diagonal(landmarks))
    assert shares.pop("all") == pytest.approx(5.0 / diagonal(landmarks) * len(ids) / seen)
    assert set(shares.values()) == {0.0}


def test_irises_do_not_count() -> None:
    landmarks = observed("mediapipe478")
    moved = landmarks.points_px.copy()
    moved[list(BLIND["mediapipe478"])] += 100.0
    assert set(region_nme(moved, landmarks).values()) == {0.0}


def test_missing_landmarks_are_left_out() -> None:
    landmarks = observed("ibug68")
    points = landmarks.points_px.copy()
    points[36] = np.nan
    partly = Landmarks("ibug68", points, STAND_IN)
    shares = region_nme(landmarks.points_px + [0.0, 2.0], partly)
    assert shares["eyes"] == pytest.approx(2.0 / diagonal(partly))
    assert shares["all"] == pytest.approx(2.0 / diagonal(partly))
    points[list(REGIONS["ibug68"]["nose"])] = np.nan
    shares = region_nme(landmarks.points_px, Landmarks("ibug68", points, STAND_IN))
    assert math.isnan(shares.pop("nose"))
    assert set(shares.values()) == {0.0}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_regions_lie_where_they_are_on_a_face(model: MorphableModel, layout: LandmarkLayout) -> None:
    """On the mean head: eyes and brows above the nose's base, brows above eyes, mouth below, all inside the contour,
    and each region as much to the right as to the left."""
    points = model.landmarks[layout].points.of(model.mean).numpy()
    centre = {name: points[list(ids)].mean(0) for name, ids in REGIONS[layout].items()}
    assert centre["brows"][1] > centre["eyes"][1] > centre["nose"][1] > centre["mouth"][1]
    for name, ids in REGIONS[layout].items():
        assert len(set(ids)) == len(ids)
        assert abs(centre[name][0]) < 0.002, name
    outline = points[list(REGIONS[layout]["contour"])]
    inner = points[[index for name, ids in REGIONS[layout].items() if name != "contour" for index in ids]]
    assert outline[:, 0].min() < inner[:, 0].min() and inner[:, 0].max() < outline[:, 0].max()
    assert outline[:, 1].min() < inner[:, 1].min()


# --- sums over photos -------------------------------------------------------------------------------------------


def test_average_and_worst() -> None:
    scores = [
        score(),
        score(parser="label_image", identity_rms=0.7, identity_max=3.0, part_iou=0.6, render_nme={}),
        score(part_iou=math.nan, active_expressions=4, render_nme={"all": 0.03, "eyes": 0.01}),
    ]
    average, worst = average_plausibility(scores), worst_plausibility(scores)
    assert average.identity_rms == pytest.approx(1.7 / 3)
    assert average.part_iou == pytest.approx(0.7)
    assert average.active_expressions == pytest.approx(8)
    assert average.render_nme == pytest.approx({"all": 0.02, "eyes": 0.015})
    assert average.parser == "contours, label_image"
    assert (worst.identity_rms, worst.identity_max, worst.part_iou, worst.active_expressions) == (0.7, 3.0, 0.6, 10)
    assert worst.render_nme == {"all": 0.03, "eyes": 0.02}


def test_no_face_in_any_clay_picture() -> None:
    assert average_plausibility([score(render_nme={})]).render_nme == {}


# --- which photos -----------------------------------------------------------------------------------------------


def test_folders_give_their_photos_by_name_and_label_images_are_no_photos(tmp_path: Path) -> None:
    for name in ("b.png", "b_parts.png", "a.JPG", "notes.txt", "c.webp"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    single = tmp_path / "b.png"
    found = photos_of([single, tmp_path], "labels")
    assert [pair.photo.name for pair in found] == ["b.png", "a.JPG", "b.png", "c.webp"]
    assert [pair.labels for pair in found] == [tmp_path / "b_parts.png", None, tmp_path / "b_parts.png", None]
    assert photos_of([single], "parser") == [PhotoWithLabels(single, None)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty: no photo found"):
        photos_of([tmp_path / "empty"], "parser")


# --- the sheet --------------------------------------------------------------------------------------------------


def test_sheet_shows_photo_clay_front_and_three_quarters(model: MorphableModel, fitted: Fit) -> None:
    photo = Photo.from_array(np.full((240, 300, 3), (10, 200, 90), np.uint8))
    rendered = look_at_clay(model, fitted, SilhouetteDetector())
    there = Landmarks("ibug68", np.full((68, 2), 150.0), STAND_IN)
    sighting = Sighting(photo, (Observation(there, fitted.parts, STAND_IN),), {})
    found = plausibility_sheet(sighting, model, fitted, rendered, score())
    unfound = plausibility_sheet(sighting, model, fitted, replace(rendered, points_px=None), score(render_nme={}))
    gap, side = 2, 320
    panels = [found[:side, start : start + side] for start in range(0, found.shape[1], side + gap)]
    assert [panel.shape for panel in panels] == [(side, side, 3)] * 4
    # the photo in the crop: the top 7.6 of 230.7 px lie beyond it
    assert tuple(panels[0][side // 2, side // 2]) == (10, 200, 90)
    assert tuple(panels[0][3, side // 2]) == (0, 0, 0)
    # the clay stands where the photo's camera sees it, and the landmarks' dot where it lies in the photo
    bare = unfound[:side, side + gap : 2 * side + gap]
    camera = fitted.camera.in_crop(replace(fitted.crop, resolution=side))
    drawn = shade(model.vertices(fitted.identity, fitted.expression), model.triangles, camera)[..., 3] > 127
    assert 0.1 < drawn.mean() < 0.9
    assert ((np.abs(bare.astype(int) - BACKDROP).max(2) > 20) != drawn).mean() < 0.02
    rows, columns = np.nonzero((panels[1] != bare).any(2))
    dot = (np.array([150.0 - 41.3, 150.0 + 7.6]) * side / 230.7).round().astype(int)
    assert tuple(dot) in set(zip(columns.tolist(), rows.tolist(), strict=True))
    assert all((panel != BACKDROP).any() for panel in panels[2:])
    assert (panels[2] != panels[3]).any()


# --- the command ------------------------------------------------------------------------------------------------


def test_command(astronaut: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mediapipe")
    (tmp_path / "astronaut.jpg").write_bytes(astronaut.read_bytes())
    Image.new("RGB", (64, 64)).save(tmp_path / "nobody.png")
    sheets = tmp_path / "sheets"
    quick = ["--iterations", "2"]
    code = main(["evaluate", "plausibility", str(tmp_path), str(astronaut), "--json", "--sheet", str(sheets), *quick])
    assert code == 1
    said = capfd.readouterr()
    report = json.loads(said.out)
    assert [photo["photo"] for photo in report["photos"]] == ["astronaut.jpg", "astronaut.jpg"]
    assert set(report["failures"]) == {str(tmp_path / "nobody.png")}
    assert len(said.err.splitlines()) == 1
    assert report["faces_found_in_clay"] == 2
    (judged, _), worst = report["photos"], report["worst"]
    assert 0 < judged["identity_rms"] < judged["identity_max"]
    assert 0 < judged["render_nme"]["all"] < 0.04
    assert report["average"]["render_nme"] == pytest.approx(judged["render_nme"])
    assert {name: worst[name] for name in ("identity_rms", "part_iou")} == pytest.approx(
        {name: judged[name] for name in ("identity_rms", "part_iou")}
    )
    assert {path.name for path in sheets.iterdir()} == {"astronaut.png", "astronaut-2.png"}

    assert main(["evaluate", "plausibility", str(astronaut), *quick]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["photo", "astronaut.jpg", "average", "worst", "face"]
    # every row has a cell under each name
    assert {len(line.split()) for line in lines[:4]} == {13}
    assert lines[4] == "face found in the clay of 1 of 1 heads"


@pytest.mark.parametrize("arguments", [[], ["empty"], ["x.jpg", "--landmarks", "0"], ["x.jpg", "--sheet", "x.txt/s"]])
def test_wrong_use_is_one_line(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("")
    assert main(["evaluate", "plausibility", *arguments]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("error: ")
