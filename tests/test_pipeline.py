"""fit3d from Python: one photo from file or array to a reconstruction and its files."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fit3d
from fit3d import pipeline
from fit3d.commands.options import export_config
from fit3d.config import PartsConfig, Units, Up
from fit3d.errors import NoFaceError, UsageError
from fit3d.export.result_json import GivenFile, Source

QUICK = fit3d.FitConfig(iterations=1)


@pytest.fixture(scope="module")
def head(astronaut: Path) -> fit3d.Reconstruction:
    return fit3d.fit(astronaut, texture_size=64, config=QUICK)


def test_reconstruction_is_consistent(head: fit3d.Reconstruction) -> None:
    model, fit = head.model, head.fit
    assert head.photo.pixels.shape == (512, 512, 3)
    assert head.texture.shape == (64, 64, 3)
    assert head.texture.dtype == np.uint8
    torch.testing.assert_close(head.vertices, model.vertices(fit.identity, fit.expression))
    torch.testing.assert_close(head.neutral_vertices, model.vertices(fit.identity, 0.0 * fit.expression))
    assert (fit.camera.width, fit.camera.height) == (512, 512)
    assert set(head.timings_s) == {"load", "observe", "fit", "texture"}
    assert head.config is QUICK


def test_mesh_lies_over_the_face_of_the_photo(head: fit3d.Reconstruction) -> None:
    points = head.model.landmarks["mediapipe478"].points.of(head.vertices)
    seen = head.observation.landmarks.points_px
    nose_tip = 4
    assert np.linalg.norm(head.fit.camera.project(points)[nose_tip].numpy() - seen[nose_tip]) < 6.0


def test_array_gives_the_same_fit_as_its_file(head: fit3d.Reconstruction, astronaut: Path) -> None:
    same = fit3d.fit(np.asarray(Image.open(astronaut)), texture_size=64, config=QUICK)
    assert torch.equal(same.vertices, head.vertices)
    assert np.array_equal(same.texture, head.texture)
    assert same.photo.path == "<array>"


def test_focal_length_given_by_the_user_is_taken(astronaut: Path) -> None:
    sighting = pipeline.look(astronaut)
    long = pipeline.reconstruct(sighting, focal_px=3000.0, texture_size=16, config=QUICK)
    assert long.fit.camera.focal_px == 3000.0
    assert long.source == Source("user", 1, None, 16)
    known = replace(sighting, photo=replace(sighting.photo, focal_px=2000.0, exif={"FocalLength": 50.0}))
    from_exif = pipeline.reconstruct(known, texture_size=16, config=QUICK)
    assert (from_exif.source.focal, from_exif.fit.camera.focal_px) == ("exif", 2000.0)
    found = pipeline.reconstruct(sighting, texture_size=16, config=QUICK)
    held = replace(QUICK, focal=fit3d.FocalConfig(refine_sd=0.0))
    assumed = pipeline.reconstruct(sighting, texture_size=16, config=held)
    assert (found.source.focal, assumed.source.focal) == ("fitted", "default")
    assert assumed.fit.camera.fov_deg == pytest.approx(30.0)
    assert 15.0 < found.fit.camera.fov_deg < 60.0 and abs(found.fit.camera.fov_deg - 30.0) > 0.1


def test_parts_file_is_remembered(head: fit3d.Reconstruction, astronaut: Path, tmp_path: Path) -> None:
    parts = head.save(tmp_path).files["parts"]
    again = fit3d.fit(astronaut, parts=parts, texture_size=16, config=QUICK)
    assert np.array_equal(again.observation.parts, head.fit.parts)
    assert again.source.parts_file == GivenFile(str(parts), sha256(parts.read_bytes()).hexdigest())


IMPOSSIBLE: list[dict[str, Any]] = [
    {"focal_px": 0},
    {"focal_px": -5.0},
    {"focal_px": float("nan")},
    {"focal_px": float("inf")},
    {"focal_px": "long"},
    {"texture_size": 15},
    {"texture_size": 8193},
    {"texture_size": 64.0},
    {"face": 0},
    {"face": -1},
    {"face": "smallest"},
    {"face": 1.0},
    {"face": True},
]


@pytest.mark.parametrize("options", IMPOSSIBLE, ids=str)
def test_what_cannot_be_is_said_before_the_photo_is_read(options: dict[str, Any], astronaut: Path) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=f"^{name} .*: expected "):
        fit3d.fit("missing.jpg", **options)
    if name != "face":
        with pytest.raises(UsageError, match=f"^{name} "):
            fit3d.fit_faces("missing.jpg", **options)
    sighting = pipeline.Sighting(pipeline.Photo.from_array(np.zeros((32, 32, 3), np.uint8)), (None,), {})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"^{name} "):
        pipeline.reconstruct(sighting, **options)


def test_face_all_belongs_to_fit_faces() -> None:
    with pytest.raises(UsageError, match="face 'all'"):
        fit3d.fit("missing.jpg", face="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["meta", "xla:0", "nonsense", "cuda:99", ""])
def test_devices_that_do_not_compute(device: str) -> None:
    with pytest.raises(UsageError, match=f"^device {device}: "):
        fit3d.fit("missing.jpg", config=fit3d.FitConfig(device=device))


def test_focal_length_of_an_array_is_checked() -> None:
    photo = pipeline.Photo.from_array(np.zeros((32, 32, 3), np.uint8), focal_px=0.0)
    with pytest.raises(UsageError, match=r"^focal_px 0\.0: expected a positive number"):
        pipeline.reconstruct(pipeline.Sighting(photo, (None,), {}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (fit3d.FitConfig, {"loss": "photo"}),
        (fit3d.FitConfig, {"solver": "sgd"}),
        (fit3d.FitConfig, {"anchors": 1}),
        (fit3d.FitConfig, {"anchors": 225}),
        (fit3d.FitConfig, {"anchors": 8.5}),
        (fit3d.FitConfig, {"iterations": 0}),
        (fit3d.FitConfig, {"seed": -1}),
        (fit3d.CropConfig, {"resolution": 0}),
        (fit3d.CropConfig, {"margin": -0.1}),
        (fit3d.FocalConfig, {"default_fov_deg": 0.0}),
        (fit3d.FocalConfig, {"default_fov_deg": 180.0}),
        (fit3d.FocalConfig, {"refine_sd": -0.1}),
        (PartsConfig, {"weights": (1.0,) * 7}),
        (PartsConfig, {"weights": (1.0,) * 7 + (-1.0,)}),
        (PartsConfig, {"missing_px": -1.0}),
        (fit3d.PrdlConfig, {"weight": 0.0}),
        (fit3d.PrdlConfig, {"extent": 0.0}),
        (fit3d.PrdlConfig, {"extent": 1.1}),
        (fit3d.PrdlConfig, {"statistics": ("min", "median")}),
        (fit3d.PrdlConfig, {"statistics": ()}),
        (fit3d.PrdlConfig, {"mean_anchors": 1}),
        (fit3d.PrdlConfig, {"mean_points": 0}),
        (fit3d.LandmarkConfig, {"noise_px": 0.0}),
        (fit3d.LandmarkConfig, {"contour_noise_px": float("nan")}),
        (fit3d.LandmarkConfig, {"beyond_photo": 0.0}),
        (fit3d.LandmarkConfig, {"outlier_px": -1.0}),
        (fit3d.LandmarkConfig, {"effective_count": float("inf")}),
        (fit3d.PriorConfig, {"identity": 0.0}),
        (fit3d.PriorConfig, {"expression_sd": 0.0}),
        (fit3d.PriorConfig, {"rare_expression_sd": "small"}),
        (fit3d.PriorConfig, {"asymmetry_sd": -1.0}),
        (fit3d.TextureConfig, {"size": 1}),
    ],
)
def test_configuration_that_makes_no_sense(make: Any, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=name):
        make(**options)


def test_anchors_must_fit_into_the_crop() -> None:
    fit3d.FitConfig(anchors=16, crop=fit3d.CropConfig(resolution=16))
    with pytest.raises(UsageError, match="anchors 17: expected a whole number from 2 to 16"):
        fit3d.FitConfig(anchors=17, crop=fit3d.CropConfig(resolution=16))


def test_every_public_name_is_there() -> None:
    assert all(getattr(fit3d, name) is not None for name in fit3d.__all__)
    assert issubclass(fit3d.LabelImageError, fit3d.PhotoError)


def test_save_and_save_again(head: fit3d.Reconstruction, tmp_path: Path) -> None:
    saved = head.with_warning("mind the gap").save(tmp_path)
    assert saved.folder == tmp_path / "astronaut"
    assert {path.name for path in saved.folder.iterdir()} == {path.name for path in saved.files.values()}
    result = json.loads(saved.files["json"].read_text(encoding="utf-8"))
    assert result["warnings"] == ["mind the gap"]
    total = saved.timings_s["total"]
    assert total == pytest.approx(sum(saved.timings_s.values()) - total, abs=1e-3)

    (saved.folder / "notes.txt").write_text("mine")
    head.save(tmp_path)
    assert json.loads(saved.files["json"].read_text(encoding="utf-8"))["warnings"] == []
    assert (saved.folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["astronaut"]

    assert head.save(tmp_path / "deep", "../x/y").folder == tmp_path / "deep" / "___x_y"
    other = head.save(tmp_path, "another name")
    assert other.folder == tmp_path / "another name"
    assert (other.folder / "another name.obj").is_file()


def test_files_of_other_formats_are_not_left_behind(head: fit3d.Reconstruction, tmp_path: Path) -> None:
    """What an earlier call wrote and this one does not is of another fit: it goes, and what others wrote stays."""
    always = {"astronaut.json", "astronaut_overlay.jpg", "astronaut_parts.png", "astronaut_texture.png"}
    colmap = {"cameras.txt", "images.txt", "points3D.txt"}
    saved = head.save(tmp_path, export=fit3d.ExportConfig(formats=("glb", "colmap")))
    folder = saved.folder
    assert {path.name for path in folder.iterdir()} == always | {"astronaut.glb", "colmap"}
    assert {path.name for path in (folder / "colmap").iterdir()} == colmap
    assert all(path.is_file() for path in saved.files.values())
    assert "1 PINHOLE 512 512" in saved.files["cameras"].read_text()
    (folder / "colmap" / "mine.txt").write_text("mine")

    saved = head.save(tmp_path, export=fit3d.ExportConfig(formats=("obj",), units="mm", up="z"))
    assert {path.name for path in folder.iterdir()} == always | {
        *("astronaut.obj", "astronaut.mtl", "astronaut_neutral.obj", "colmap")
    }
    assert [path.name for path in (folder / "colmap").iterdir()] == ["mine.txt"]
    told = json.loads(saved.files["json"].read_text(encoding="utf-8"))["export"]
    assert told == {"formats": ["obj"], "units": "mm", "up": "z", "overlay": "sheet"}
    first = next(line for line in saved.files["obj"].read_text().splitlines() if line.startswith("v "))
    x, y, z = head.vertices[0].tolist()
    np.testing.assert_allclose([float(value) for value in first.split()[1:]], [1e3 * x, -1e3 * z, 1e3 * y], atol=1e-3)

    again = head.save(tmp_path, export=fit3d.ExportConfig(formats=("glb", "colmap"), overlay="none"))
    assert "overlay" not in again.files and not (folder / "astronaut_overlay.jpg").exists()
    assert {path.name for path in (folder / "colmap").iterdir()} == colmap | {"mine.txt"}
    assert not (folder / "astronaut.obj").exists() and again.files["glb"].is_file()


@pytest.mark.parametrize(("units", "up", "said"), [("mm", "y", "--units mm"), ("m", "z", "--up z")])
def test_units_and_axis_without_an_obj_are_refused(units: Units, up: Up, said: str) -> None:
    for formats in ("glb", "glb,colmap"):
        with pytest.raises(UsageError, match=f"^{said}: .*--format {formats} writes none$"):
            export_config(formats, units, up, "sheet")
    assert export_config("obj,glb", units, up, "sheet") == fit3d.ExportConfig(
        formats=("obj", "glb"), units=units, up=up
    )
    assert export_config("glb", "m", "y", "sheet").formats == ("glb",)


def test_array_has_a_name_of_its_own_in_files(astronaut: Path, tmp_path: Path) -> None:
    head = fit3d.fit(np.asarray(Image.open(astronaut)), texture_size=16, config=QUICK)
    assert head.save(tmp_path).folder == tmp_path / "array"


def test_faces_by_number(shared_data: Path) -> None:
    girls = shared_data / "photos" / "twogirls.jpg"
    first, second = fit3d.fit_faces(girls, texture_size=16, config=QUICK)
    assert torch.equal(fit3d.fit(girls, face=2, texture_size=16, config=QUICK).vertices, second.vertices)
    widths = [box[2] - box[0] for box in (head.observation.landmarks.box_px for head in (first, second))]
    assert widths[0] > 0.8 * widths[1]
    with pytest.raises(NoFaceError, match="face 3 was asked for, but only 2 faces were found"):
        fit3d.fit(girls, face=3, config=QUICK)


@pytest.mark.parametrize("options", [{"model": "none"}, {"landmarks": "none"}, {"parser": "none"}])
def test_unknown_names(astronaut: Path, options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="none"):
        fit3d.fit(astronaut, config=QUICK, **options)  # type: ignore[arg-type]
