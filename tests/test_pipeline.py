"""fit3d from Python: one photo from file or array to a reconstruction and its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fit3d
from fit3d import pipeline
from fit3d.errors import NoFaceError, UsageError

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

    other = head.save(tmp_path, "another name")
    assert other.folder == tmp_path / "another name"
    assert (other.folder / "another name.obj").is_file()


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
