from __future__ import annotations

import errno
import itertools
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.spatial import cKDTree

from fit3d.camera import Crop
from fit3d.config import ExportConfig, FitConfig, Units
from fit3d.errors import UsageError
from fit3d.export import files
from fit3d.export.colmap import write_colmap
from fit3d.export.files import (
    atomic_write,
    output_folder,
    safe_stem,
    usage_errors,
    write_image,
    write_labels,
    write_text,
)
from fit3d.export.obj import mtl_text, obj_text, write_mtl, write_obj
from fit3d.export.result_json import GivenFile, Source, result_dict, result_text, write_result
from fit3d.labels import OTHER, PART_COLOURS, PART_NAMES, RIGHT_EYEBROW, SKIN
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Backend, Landmarks, Observation
from fit3d.photo import Photo
from fit3d.solve.result import Fit
from synthetic import synthetic_camera, synthetic_identity, synthetic_model

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return synthetic_model(6.0)


@pytest.fixture(scope="module")
def vertices(model: MorphableModel) -> torch.Tensor:
    return model.vertices(synthetic_identity(model, 3), torch.zeros(len(model.expression_names)).double())


def read_obj(text: str) -> dict[str, Any]:
    """All statements of an OBJ, as written."""
    found: dict[str, Any] = {"v": [], "vt": [], "faces": {}, "groups": {}, "mtllib": None}
    name = group = None
    for line in text.splitlines():
        keyword, _, rest = line.partition(" ")
        if keyword in ("v", "vt"):
            found[keyword].append([float(number) for number in rest.split()])
        elif keyword == "o":
            name = rest
            found["faces"][name] = []
        elif keyword == "g":
            group = rest
            assert group not in found["groups"]
            found["groups"][group] = []
        elif keyword == "f":
            found["faces"][name].append([tuple(int(k) - 1 for k in corner.split("/")) for corner in rest.split()])
            found["groups"][group].append([corner[0] for corner in found["faces"][name][-1]])
        elif keyword == "mtllib":
            found["mtllib"] = rest
    return found


def test_obj_keeps_quads_uvs_and_objects(model: MorphableModel, vertices: torch.Tensor) -> None:
    read = read_obj(obj_text(vertices, model, "a b.mtl"))
    np.testing.assert_allclose(read["v"], vertices.numpy(), rtol=0.0, atol=0.51e-7)
    np.testing.assert_allclose(read["vt"], model.uv, rtol=0.0, atol=0.51e-6)
    assert read["mtllib"] == "a b.mtl"
    assert tuple(read["faces"]) == model.objects
    for index, name in enumerate(model.objects):
        chosen = model.face_objects == index
        expected = [
            [(int(v), int(t)) for v, t in zip(face, uv, strict=True) if v >= 0]
            for face, uv in zip(model.faces[chosen], model.uv_faces[chosen], strict=True)
        ]
        assert sorted(read["faces"][name]) == sorted(expected)
    # the test model has both, so both were checked
    assert {len(face) for face in read["faces"]["head"]} == {3, 4}


def test_obj_has_a_group_for_each_part(model: MorphableModel, vertices: torch.Tensor) -> None:
    groups = read_obj(obj_text(vertices, model, "m.mtl"))["groups"]
    parts = {f"head_{PART_NAMES[label]}" for label in (*range(RIGHT_EYEBROW, SKIN + 1), OTHER)}
    assert set(groups) == parts | (set(model.objects) - {"head"})
    annotation, mean = model.annotation, model.mean.numpy()
    for name, faces in groups.items():
        # by the field that is the largest in the middle of each face
        if name.startswith("head_") and not name.endswith("other"):
            for face in faces:
                fields = annotation.fields[:, face].mean(1)
                assert PART_NAMES[int(annotation.field_labels[fields.argmax()])] == name.removeprefix("head_")
    for side, sign in (("right", -1.0), ("left", 1.0)):
        middles = [mean[face].mean(0) for face in groups[f"head_{side}_eyebrow"]]
        assert min(sign * middle[0] for middle in middles) > 0.0 < min(middle[1] for middle in middles)


@pytest.mark.parametrize(("units", "scale"), [("m", 1.0), ("cm", 100.0), ("mm", 1000.0)])
def test_obj_in_other_units_and_axes(model: MorphableModel, vertices: torch.Tensor, units: Units, scale: float) -> None:
    plain = np.array(read_obj(obj_text(vertices, model, "m.mtl"))["v"])
    text = obj_text(vertices, model, "m.mtl", ExportConfig(units=units, up="z"))
    turned = np.array(read_obj(text)["v"]) / scale
    np.testing.assert_allclose(turned, plain[:, [0, 2, 1]] * [1.0, -1.0, 1.0], atol=1.1e-7)
    assert "z up" in text and {"m": "Metres", "cm": "Centimetres", "mm": "Millimetres"}[units] in text
    # turned, not mirrored: the ball stays right side out
    ball = np.array([face[:3] for face in read_obj(text)["groups"]["left_eyeball"]])
    a, b, c = (turned[ball[:, k]] for k in range(3))
    assert float((a * np.cross(b, c)).sum()) - float(np.cross(b - a, c - a).sum(0) @ turned[ball].mean((0, 1))) > 0.0


def test_colmap_files_hold_the_camera(tmp_path: Path) -> None:
    camera = synthetic_camera(640, 480, yaw_deg=30.0)
    # a yaw alone makes half a turn, which is its own inverse: the head tilts as well
    tilt = torch.eye(4, dtype=torch.float64)
    tilt[:2, :2] = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    camera = replace(camera, cam_from_world=tilt @ camera.cam_from_world.double())
    paths = write_colmap(tmp_path / "colmap", camera, "a photo\n.jpg")
    assert tuple(path.name for path in paths) == ("cameras.txt", "images.txt", "points3D.txt")
    lines = [[line for line in path.read_text().split("\n") if not line.startswith("#")] for path in paths]
    number, kind, width, height, *lens = lines[0][0].split()
    assert (number, kind, width, height) == ("1", "PINHOLE", "640", "480")
    np.testing.assert_allclose(
        [float(value) for value in lens], [camera.focal_px, camera.focal_px, *camera.principal_px]
    )
    _, qw, qx, qy, qz, tx, ty, tz, camera_number, *name = lines[1][0].split()
    assert camera_number == "1" and name == ["a", "photo", ".jpg"] and lines[1][1] == ""
    w, x, y, z = (float(value) for value in (qw, qx, qy, qz))
    # the rotation as COLMAP computes it from its quaternion
    turn = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose = camera.cam_from_world.numpy()
    np.testing.assert_allclose(turn, pose[:3, :3], atol=1e-8)
    np.testing.assert_allclose([float(tx), float(ty), float(tz)], pose[:3, 3], rtol=1e-8)


def test_obj_faces_are_those_of_the_model(model: MorphableModel, vertices: torch.Tensor) -> None:
    """What all meshes of a model share is made once and must not be that of another model."""
    other = replace(model, uv=model.uv * 0.5, faces=np.roll(model.faces, 1, axis=0))
    texts = [obj_text(vertices, each, "head.mtl") for each in (model, other, model)]
    assert texts[0] == texts[2] != texts[1]
    for text, each in zip(texts, (model, other), strict=False):
        assert np.allclose(read_obj(text)["vt"], each.uv, atol=1e-6)
    moved = obj_text(vertices + 0.01, model, "head.mtl")
    assert moved.split("vt ", 1)[1] == texts[0].split("vt ", 1)[1]
    assert moved != texts[0]


def test_obj_numbers_have_one_form(model: MorphableModel, vertices: torch.Tensor) -> None:
    text = obj_text(vertices, model, "m.mtl")
    assert text == obj_text(vertices.clone(), model, "m.mtl")
    assert "\r" not in text
    lines = [line for line in text.splitlines() if line.startswith("v ")]
    assert all(re.fullmatch(r"v( -?\d+\.\d{7}){3}", line) for line in lines)
    tiny = vertices.clone()
    tiny[0] = torch.tensor([-1e-12, 0.0, 1e-12])
    assert "v 0.0000000 0.0000000 0.0000000\n" in obj_text(tiny, model, "m.mtl")
    assert "-0.0000000" not in obj_text(tiny, model, "m.mtl")


def test_obj_of_a_mesh_that_is_not_finite_is_refused(model: MorphableModel, vertices: torch.Tensor) -> None:
    broken = vertices.clone()
    broken[5, 1] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        obj_text(broken, model, "m.mtl")


def test_obj_reads_back_in_trimesh(model: MorphableModel, vertices: torch.Tensor, tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    write_image(tmp_path / "face 1_texture.png", colours)
    write_mtl(tmp_path / "face 1.mtl", "face 1_texture.png")
    write_obj(tmp_path / "face 1.obj", vertices, model, "face 1.mtl")
    mesh = trimesh.load(tmp_path / "face 1.obj", force="mesh", process=False)
    assert len(mesh.faces) == len(model.triangles)
    # trimesh splits vertices along UV seams and quads along a diagonal of its choice: each triangle must consist of
    # three corners of one face, and each face must be covered by as many triangles as it needs
    owners: dict[tuple[tuple[int, int], ...], int] = {}
    pairs = np.stack([model.faces, model.uv_faces], -1)
    for index, face in enumerate(pairs):
        corners = [(int(v), int(t)) for v, t in face if v >= 0]
        owners.update({tuple(sorted(three)): index for three in itertools.combinations(corners, 3)})
    known = np.unique(pairs[pairs[..., 0] >= 0], axis=0)
    places = np.concatenate([vertices.numpy()[known[:, 0]], model.uv[known[:, 1]]], axis=1)
    off, which = cKDTree(places).query(np.concatenate([mesh.vertices, mesh.visual.uv], axis=1))
    assert off.max() < 1e-6
    named = [tuple(int(k) for k in known[corner]) for corner in which]
    count = np.bincount([owners[tuple(sorted(named[k] for k in face))] for face in mesh.faces.tolist()])
    np.testing.assert_array_equal(count, np.where(model.faces[:, 3] >= 0, 2, 1))
    np.testing.assert_array_equal(np.asarray(mesh.visual.material.image.convert("RGB")), colours)
    # counter-clockwise from outside: the head's volume is positive
    names = read_obj((tmp_path / "face 1.obj").read_text())["faces"]
    ball = np.array([[corner[0] for corner in face[:3]] for face in names["left_eyeball"]])
    a, b, c = (vertices.numpy()[ball[:, k]] for k in range(3))
    middle = np.concatenate([a, b, c]).mean(0)
    assert (((a - middle) * np.cross(b - a, c - a)).sum(1) > 0).mean() > 0.99


def make_fit(model: MorphableModel) -> Fit:
    return Fit(
        identity=synthetic_identity(model, 1),
        expression=torch.linspace(0.0, 1.0, len(model.expression_names)).double(),
        camera=synthetic_camera(64, 48, yaw_deg=10.0),
        crop=Crop(1.0, 2.0, 40.0, 224),
        parts=np.zeros((48, 64), np.uint8),
        part_iou={"right_eye": 0.5, "nose": math.nan, "mean": 1.0 / 3.0},
        landmark_nme=0.0123456789123,
        energy_start={"landmarks": 3.0, "prdl": math.inf},
        energy_end={"landmarks": 1.0, "prdl": 0.5},
        iterations=12,
        stop_reason="converged",
        warnings=("a warning",),
    )


def make_observation() -> Observation:
    points = np.random.default_rng(0).uniform(0.0, 48.0, (478, 2))
    points[3] = math.nan
    landmarks = Landmarks("mediapipe478", points, Backend("mediapipe", "0.10.21"))
    return Observation(landmarks, np.zeros((48, 64), np.uint8), Backend("contours", "1"))


def make_result(model: MorphableModel, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "photo": Photo(path="folder/äöü \udcff.jpg", pixels=np.zeros((48, 64, 3), np.uint8), sha256="ab" * 32),
        "model": model,
        "observation": make_observation(),
        "fit": make_fit(model),
        "source": Source("exif", 2, GivenFile("labels.png", "cd" * 32), 512),
        "config": FitConfig(seed=7),
        "export": ExportConfig(units="cm"),
        "timings_s": {"load": 0.1, "observe": 0.2, "fit": 0.3, "texture": 0.4, "write": 0.5, "total": 1.5},
        "warnings": ("a warning", "another"),
        "fit3d_version": "0.1.0",
    }
    return result_dict(**{**arguments, **changes})


def schema() -> dict[str, Any]:
    return json.loads((REPOSITORY / "docs" / "result.schema.json").read_text())


def test_result_follows_its_schema(model: MorphableModel, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_result(path, make_result(model))
    read = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    checker = jsonschema.Draft202012Validator(schema())
    checker.check_schema(schema())
    assert [error.message for error in checker.iter_errors(read)] == []
    without = json.loads(result_text(make_result(model, source=Source("default", 1, None, 16))))
    assert [error.message for error in checker.iter_errors(without)] == []
    assert without["observation"]["parts_file"] is None
    # and the schema does say no
    for spoil in (
        {"schema": 2},
        {"surprise": 1},
        {"metrics": {**read["metrics"], "landmark_nme": "small"}},
        {"camera": {**read["camera"], "K": [[1.0]]}},
        {"camera": {**read["camera"], "focal_source": "guess"}},
    ):
        assert not checker.is_valid({**read, **spoil}), spoil
    for name in read:
        assert not checker.is_valid({key: value for key, value in read.items() if key != name}), name


def test_result_says_what_was_fitted(model: MorphableModel) -> None:
    fit = make_fit(model)
    read = json.loads(result_text(make_result(model)))
    np.testing.assert_allclose(read["parameters"]["identity"], fit.identity, rtol=1e-8)
    assert list(read["parameters"]["expression"]) == sorted(model.expression_names)
    assert read["parameters"]["expression"][model.expression_names[-1]] == 1.0
    np.testing.assert_allclose(read["camera"]["K"], fit.camera.K, rtol=1e-8)
    np.testing.assert_allclose(read["camera"]["cam_from_world"], fit.camera.cam_from_world, rtol=1e-8, atol=1e-12)
    # the two matrices alone project as the camera does
    points = model.mean[:50].double()
    pose, intrinsic = np.array(read["camera"]["cam_from_world"]), np.array(read["camera"]["K"])
    homogeneous = (points.numpy() @ pose[:3, :3].T + pose[:3, 3]) @ intrinsic.T
    np.testing.assert_allclose(homogeneous[:, :2] / homogeneous[:, 2:], fit.camera.project(points), atol=1e-5)
    assert (read["observation"]["face"], read["camera"]["focal_source"], read["texture_size"]) == (2, "exif", 512)
    assert read["observation"]["parts_file"] == {"path": "labels.png", "sha256": "cd" * 32}
    assert read["observation"]["crop"] == {"left": 1.0, "top": 2.0, "size": 40.0, "resolution": 224}
    assert read["observation"]["landmarks_px"][3] == [None, None]
    assert len(read["observation"]["landmarks_px"]) == 478
    assert read["metrics"]["part_iou"] == {"mean": 0.333333333, "nose": None, "right_eye": 0.5}
    assert read["metrics"]["energy"]["start"] == {"landmarks": 3.0, "prdl": None}
    assert read["metrics"]["landmark_nme"] == 0.0123456789
    assert read["solver"]["seed"] == 7
    assert read["solver"]["config"]["crop"]["resolution"] == FitConfig().crop.resolution
    assert read["photo"]["width"] == 64
    assert read["model"]["units"] == "metres"
    assert read["warnings"] == ["a warning", "another"]


def test_how_sure_detectors_and_the_fit_are_is_told(model: MorphableModel) -> None:
    silent = make_result(model)
    assert silent["status"] == "ok" and silent["status_reasons"] == []
    assert silent["observation"]["landmark_confidence"] is None and silent["observation"]["part_confidence"] is None

    observation, fit = make_observation(), replace(make_fit(model), mistrust=("it misses",))
    landmarks = replace(observation.landmarks, confidence=np.linspace(0.0, 1.0, 478))
    observation = replace(observation, landmarks=landmarks, part_confidence=np.arange(12) / 11.0)
    told = make_result(model, observation=observation, fit=fit)
    assert told["status"] == "poor" and told["status_reasons"] == ["it misses"]
    assert told["observation"]["landmark_confidence"][:3] == [0.0, 0.002, 0.004]
    assert told["observation"]["part_confidence"]["nose"] == pytest.approx(5 / 11, abs=5e-4)
    assert list(told["observation"]["part_confidence"]) == list(PART_NAMES)
    for result in (silent, told):
        read = json.loads(result_text(result))
        assert [error.message for error in jsonschema.Draft202012Validator(schema()).iter_errors(read)] == []


def test_result_text_is_stable(model: MorphableModel) -> None:
    first, second = result_text(make_result(model)), result_text(make_result(model))
    assert first == second
    assert first.endswith("}\n")
    assert json.loads(first) == make_result(model)
    other = result_text(make_result(model, timings_s={"load": 9.0}))
    changed = [line.strip() for line in first.splitlines() if line not in other.splitlines()]
    assert {line.split(":")[0] for line in changed} == {
        '"fit"',
        '"observe"',
        '"texture"',
        '"total"',
        '"write"',
        '"load"',
    }
    # keys are sorted at every level and lists of numbers take one line
    assert list(json.loads(first)) == sorted(json.loads(first))
    assert max(len(line) for line in first.splitlines() if "null" in line) < 100


def test_numbers_have_nine_digits_and_no_minus_zero(model: MorphableModel) -> None:
    energy_end = {"a": 1.0 / 3.0, "b": 1e-20 / 3.0, "c": np.float32(0.1)}
    fit = replace(make_fit(model), landmark_nme=-0.0, energy_end=energy_end)
    text = result_text(make_result(model, fit=fit))
    assert '"landmark_nme": 0.0' in text
    energy = json.loads(text)["metrics"]["energy"]["end"]
    assert energy["a"] == 0.333333333
    assert energy["b"] == 3.33333333e-21
    assert np.float32(energy["c"]) == np.float32(0.1)


def test_what_json_cannot_hold_is_refused(model: MorphableModel) -> None:
    with pytest.raises(TypeError, match="object"):
        make_result(model, timings_s={"load": object()})


def test_atomic_write_makes_the_file_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "ä\n")
    assert path.read_bytes() == b"\xc3\xa4\n"

    def half() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            file.flush()
            assert path.read_bytes() == b"\xc3\xa4\n"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_bytes() == b"\xc3\xa4\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permission denied"), (errno.EROFS, "read-only")],
)
def test_disk_errors_become_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    path = tmp_path / "a.obj"

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(UsageError, match=said) as caught:
        write_text(path, "text")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="a file stands where a folder is needed"):
        write_text(tmp_path / "out" / "a.txt", "x")
    with pytest.raises(UsageError, match="a file stands"):
        write_text(tmp_path / "out" / "deeper" / "a.txt", "x")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UsageError, match="permission denied"):
            write_text(tmp_path / "a.txt", "x")
    finally:
        tmp_path.chmod(0o700)


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), usage_errors(tmp_path):
        raise ZeroDivisionError


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_images_are_what_their_ending_says(tmp_path: Path, name: str) -> None:
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(32, axis=0) * 2
    write_image(tmp_path / name, ramp)
    first = (tmp_path / name).read_bytes()
    with Image.open(tmp_path / name) as image:
        assert image.format == ("PNG" if name.endswith("png") else "JPEG")
        off = np.abs(np.asarray(image).astype(int) - ramp).max()
    assert off == 0 if name.endswith("png") else off <= 3
    write_image(tmp_path / name, ramp)
    assert (tmp_path / name).read_bytes() == first


def test_label_images_keep_their_ids_and_are_visible(tmp_path: Path) -> None:
    parts = (np.arange(480).reshape(20, 24) % len(PART_NAMES)).astype(np.uint8)
    write_labels(tmp_path / "a.png", parts)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), parts)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.array(PART_COLOURS, np.uint8)[parts])


def test_folders_of_one_call_do_not_collide(tmp_path: Path) -> None:
    used: set[str] = set()
    stems = ["a", "b", "a", "A", "a-2", "a"]
    names = [output_folder(tmp_path, stem, used).name for stem in stems]
    assert names == ["a", "b", "a-2", "A-3", "a-2-2", "a-4"]
    assert list(tmp_path.iterdir()) == []
    assert output_folder(tmp_path, "../../x", set()).parent == tmp_path
    # numbers are not cut off, whatever follows
    first, second = (output_folder(tmp_path, "x" * 300, used).name for _ in "ab")
    assert second == f"{first}-2"
    assert safe_stem(f"{second}-face12") == f"{second}-face12"


@pytest.mark.parametrize(
    ("stem", "safe"),
    [
        ("IMG 1.final", "IMG 1.final"),
        ("Grüße 日本", "Grüße 日本"),
        ("", "photo"),
        (" . ", "_"),
        ("..", "__"),
        (".hidden", "_hidden"),
        ('a/b\\c:d*e?f"g<h>i|j', "a_b_c_d_e_f_g_h_i_j"),
        ("tab\there\n", "tab_here_"),
        ("con", "_con"),
        ("LPT1.x", "_LPT1.x"),
        ("end. ", "end"),
        ("bad\udcffbyte", "bad_byte"),
    ],
)
def test_stems_that_cannot_be_folders(stem: str, safe: str) -> None:
    assert safe_stem(stem) == safe
    assert safe_stem(safe) == safe


def test_long_stems_leave_room_for_suffixes(tmp_path: Path) -> None:
    name = safe_stem("日" * 300)
    assert 190 < len(name.encode()) <= files.LONGEST_STEM
    write_text(tmp_path / name / f"{name}_overlay.jpg", "x")


def test_films_are_clear_and_hide_nothing() -> None:
    """An object named '..._film' has a clear material and is not drawn."""
    model = synthetic_model()
    assert model.opaque.all() and "usemtl film" not in obj_text(model.mean, model, "head.mtl")
    last = model.objects[-1]
    filmed = replace(model, objects=(*model.objects[:-1], f"{last}_film"))
    drawn = filmed.triangles[filmed.opaque]
    of_last = model.faces[model.face_objects == len(model.objects) - 1]
    assert 0 < len(drawn) < len(model.triangles) and not np.isin(drawn, of_last[of_last >= 0]).any()
    text = obj_text(model.mean, filmed, "head.mtl")
    assert f"o {last}_film\nusemtl film\n" in text and text.count("usemtl film") == 1
    assert "newmtl film" in mtl_text("head.png")
