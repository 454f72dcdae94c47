"""`fit3d models`: ICT-FaceKit in its true layout, from files to a model that can be fitted, and everything between."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fit3d.download
from fit3d.commands.app import main
from fit3d.errors import ModelFileError, UsageError
from fit3d.landmarks import LANDMARK_COUNTS
from fit3d.morphable import flame, ict, registry, store
from fit3d.morphable.arkit import ARKIT_NAMES, arkit_shapes
from fit3d.morphable.obj_file import ObjMesh, read_obj, read_obj_positions
from fit3d.morphable.raw import RawModel

Arrays = dict[str, np.ndarray]
FEW = 2
"""Identities of the copy that the tests write: the hundred take a minute."""


# --- the true layout --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays(shared_models: Path) -> Arrays:
    with np.load(shared_models / "ict" / "ict_facekit.npz", allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def vertex_lines(values: np.ndarray) -> list[str]:
    """Nine digits carry a float32 there and back."""
    text = "v %.9g %.9g %.9g\n" * len(values) % tuple(values.astype(np.float64).ravel().tolist())
    return text.splitlines(keepends=True)


def write_layout(folder: Path, arrays: Arrays) -> None:
    """`FaceXModel/` as the repository has it, but with the first `FEW` identities only."""
    folder.mkdir(parents=True)
    neutral = arrays["neutral_cm"]
    lines = [f"vt {u:.9g} {v:.9g}\n" for u, v in arrays["uv"].tolist()]
    material = None
    for face, uv_face, name in zip(
        arrays["faces"].tolist(), arrays["uv_faces"].tolist(), arrays["face_materials"].tolist(), strict=True
    ):
        if name != material:
            lines.append(f"usemtl {name}\n")
            material = name
        lines.append("f " + " ".join(f"{v + 1}/{t + 1}" for v, t in zip(face, uv_face, strict=True) if v >= 0) + "\n")
    head, tail, rest = "# ICT FaceKit\n\nmtllib ICTFaceModelMaterial.mtl\n", "".join(lines), vertex_lines(neutral)

    def write(name: str, step: np.ndarray) -> None:
        moved = np.flatnonzero(step.any(axis=1))
        own = rest.copy()
        places = (neutral[moved].astype(np.float64) + step[moved]).astype(np.float32)
        for index, line in zip(moved.tolist(), vertex_lines(places), strict=True):
            own[index] = line
        (folder / f"{name}.obj").write_text(head + "".join(own) + tail, encoding="ascii")

    write("generic_neutral_mesh", np.zeros_like(neutral))
    for index in range(FEW):
        write(f"identity{index:03d}", arrays["identity_cm"][index])
    for name, step in zip(arrays["expression_names"].tolist(), arrays["expression_cm"], strict=True):
        write(name, step)
    indices = {
        "expressions": [name for name in arrays["expression_names"].tolist() if name[0].islower()],
        "incompatibilities": [],
        "idx_to_landmark_verts": arrays["landmarks68"].tolist(),
    }
    (folder / "vertex_indices.json").write_text(json.dumps(indices), encoding="utf-8")


@pytest.fixture(scope="module")
def checkout(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ICT-FaceKit")
    write_layout(folder / "FaceXModel", arrays)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ict, "IDENTITIES", FEW)
    monkeypatch.setenv("FIT3D_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def raw(checkout: Path) -> RawModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ict, "IDENTITIES", FEW)
        return ict.read_ict(checkout)


def test_all_numbers_arrive(raw: RawModel, arrays: Arrays) -> None:
    np.testing.assert_array_equal(raw.identity, arrays["identity_cm"][:FEW] * np.float32(0.01))
    np.testing.assert_array_equal(raw.expression, arrays["expression_cm"] * np.float32(0.01))
    np.testing.assert_array_equal(raw.faces, arrays["faces"])
    np.testing.assert_array_equal(raw.uv_faces, arrays["uv_faces"])
    assert raw.landmarks68 is not None
    np.testing.assert_array_equal(raw.landmarks68, arrays["landmarks68"])
    shift = raw.mean * 100.0 - arrays["neutral_cm"]
    assert np.ptp(shift, axis=0).max() < 1e-5, "the mean is the neutral mesh, moved"


def test_the_shapes_are_those_that_the_annotation_was_made_for(arrays: Arrays) -> None:
    mesh = ObjMesh(arrays["neutral_cm"], arrays["uv"], arrays["faces"], arrays["uv_faces"], (), np.zeros(0, np.int32))
    assert ict.content_sha256(mesh, arrays["identity_cm"], arrays["expression_cm"]) == ict.CONTENT_SHA256
    arrays["identity_cm"][99, -1, -1] += 1e-6
    try:
        assert ict.content_sha256(mesh, arrays["identity_cm"], arrays["expression_cm"]) != ict.CONTENT_SHA256
    finally:
        arrays["identity_cm"][99, -1, -1] -= 1e-6


def test_another_revision_is_called_so(raw: RawModel) -> None:
    assert raw.version == "light, another revision"  # the copy has few identities


def test_frame(raw: RawModel) -> None:
    centres = {}
    for side in ("left", "right"):
        ids = raw.faces[raw.face_objects == raw.objects.index(f"{side}_eyeball")]
        points = raw.mean[np.unique(ids[ids >= 0])]
        centres[side] = (points.min(axis=0) + points.max(axis=0)) / 2
    assert 0.025 < centres["left"][0] < 0.040, "the person's left is +x, in metres"
    assert np.abs(centres["left"] + centres["right"]).max() < 1.5e-3, "the origin is midway between the eyes"
    assert raw.landmarks68 is not None
    tip, chin = raw.mean[raw.landmarks68[30]], raw.mean[raw.landmarks68[8]]
    assert tip[2] == pytest.approx(0.05, abs=0.01)
    assert chin[1] == pytest.approx(-0.11, abs=0.01)


def test_objects_keep_all_geometry(raw: RawModel, arrays: Arrays) -> None:
    counts = dict(zip(raw.objects, np.bincount(raw.face_objects).tolist(), strict=True))
    assert counts == {
        "head": 9230 + 4804,
        "gums_tongue": 2972,
        "teeth": 4490,
        "left_eyeball": 1598,
        "right_eyeball": 1598,
        "tear_film": 326,
        "lid_blend_film": 30,
        "lid_shadow_film": 256,
        "lash_film": 1080,
    }
    for name in ("M_ScleraRight", "M_IrisRight"):
        assert set(raw.face_objects[arrays["face_materials"] == name]) == {raw.objects.index("right_eyeball")}


def test_uvs_of_all_objects_lie_in_one_square_apart(raw: RawModel, arrays: Arrays) -> None:
    assert raw.uv.min() >= 0.0
    assert raw.uv.max() <= 1.0
    boxes = []
    for name in np.unique(arrays["face_materials"]):
        ids = raw.uv_faces[arrays["face_materials"] == name]
        ids = np.unique(ids[ids >= 0])
        for tile in np.unique(np.floor(arrays["uv"][ids, 0])):
            own = ids[np.floor(arrays["uv"][ids, 0]) == tile]
            before, after = arrays["uv"][own] - [tile, 0.0], raw.uv[own]
            scale = np.ptp(after, axis=0) / np.ptp(before, axis=0)
            assert scale[0] == pytest.approx(scale[1], rel=1e-3), "texels stay square"
            np.testing.assert_allclose(after - after[0], (before - before[0]) * scale, atol=1e-5)
            boxes.append((after.min(axis=0), after.max(axis=0)))
    assert len(boxes) == 13
    for index, (low, high) in enumerate(boxes):
        for other_low, other_high in boxes[:index]:
            assert ((high <= other_low) | (other_high <= low)).any()


# --- names of expressions ---------------------------------------------------------------------------------------


def test_expressions_have_arkits_names(raw: RawModel, arrays: Arrays) -> None:
    names = dict(zip(arrays["expression_names"].tolist(), raw.expression_names, strict=True))
    assert names["browDown_L"] == "browDownLeft"
    assert names["mouthSmile_R"] == "mouthSmileRight"
    assert names["jawLeft"] == "jawLeft"
    assert names["PupilDilate_L"] == "pupilDilateLeft"
    shapes = arkit_shapes(raw.expression_names)
    assert set(ARKIT_NAMES) - set(shapes) == {"tongueOut"}
    assert list(shapes) == [name for name in ARKIT_NAMES if name in shapes]
    sums = {name: [raw.expression_names[i] for i in parts] for name, parts in shapes.items() if len(parts) > 1}
    assert sums == {
        "browInnerUp": ["browInnerUpLeft", "browInnerUpRight"],
        "cheekPuff": ["cheekPuffLeft", "cheekPuffRight"],
    }
    assert {raw.expression_names[parts[0]] for parts in shapes.values() if len(parts) == 1} == set(shapes) - set(sums)


def test_arkits_names_are_52() -> None:
    assert len(set(ARKIT_NAMES)) == len(ARKIT_NAMES) == 52
    model = registry.load_model("anny")
    assert set(model.expression_names) == set(ARKIT_NAMES)
    assert all(len(parts) == 1 for parts in arkit_shapes(model.expression_names).values())


def test_no_expression_is_a_sum_of_others(raw: RawModel) -> None:
    rows = raw.expression.reshape(len(raw.expression), -1).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.linalg.eigvalsh(rows @ rows.T)[0] > 1e-3
    both = rows[raw.expression_names.index("cheekPuffLeft")] + rows[raw.expression_names.index("cheekPuffRight")]
    with_sum = np.vstack([rows, both / np.linalg.norm(both)])
    assert np.linalg.eigvalsh(with_sum @ with_sum.T)[0] < 1e-9


# --- from the command line to a model -----------------------------------------------------------------------------


def annotation_text(vertex_count: int) -> str:
    """An annotation that nobody would want but that can be read."""
    rim = {"upper": [0, 1, 2], "lower": [0, 3, 2]}

    def points(*shape: int) -> tuple[Any, Any]:
        return np.zeros((*shape, 3), int).tolist(), np.tile([1.0, 0.0, 0.0], (*shape, 1)).tolist()

    landmarks = {}
    for layout, count in LANDMARK_COUNTS.items():
        vertices, weights = points(count)
        path_vertices, path_weights = points(2, 3)
        landmarks[layout] = {
            "vertices": vertices,
            "weights": weights,
            "sliding": [0, 16],
            "path_vertices": path_vertices,
            "path_weights": path_weights,
        }
    content = {
        "schema": 1,
        "model": "ict",
        "vertex_count": vertex_count,
        "parts": {"nose": {"vertices": [0, 1], "field_m": [0.01, 0.02]}},
        "openings": dict.fromkeys(("right_eye", "left_eye", "inner_mouth"), rim),
        "surface": list(range(100)),
        "landmarks": landmarks,
    }
    return json.dumps(content)


@pytest.fixture
def annotation(tmp_path: Path, arrays: Arrays) -> Path:
    path = tmp_path / "own.json"
    path.write_text(annotation_text(len(arrays["neutral_cm"])), encoding="utf-8")
    return path


def test_add_load_list_info_remove(
    checkout: Path, annotation: Path, raw: RawModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "list", "--json"]) == 0
    before = {facts["name"]: facts for facts in map(json.loads, capsys.readouterr().out.splitlines())}
    assert before["anny"]["installed"] is True
    assert before["ict"]["installed"] is False
    assert before["ict"]["vertices"] == 26719
    assert "sold" in before["ict"]["licence"]
    assert "fit3d models pull ict" in before["ict"]["get"]
    assert all("sold" in facts["licence"] or "commercial" in facts["licence"] for facts in before.values())
    assert main(["models", "info", "ict"]) == 0
    assert "fit3d models pull ict" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"not installed.*fit3d models pull ict"):
        registry.load_model("ict")

    assert main(["models", "add", "ict", "--from", str(checkout), "--annotation", str(annotation)]) == 0
    said = capsys.readouterr()
    assert "26,719 vertices" in said.out
    assert said.err == ""

    model = registry.load_model("ict")
    assert registry.load_model("ict") is model, "read once per process"
    assert model.name == "ict"
    assert "sold" in model.licence
    np.testing.assert_array_equal(model.mean.numpy(), raw.mean)
    np.testing.assert_array_equal(model.identity.numpy(), raw.identity)
    np.testing.assert_array_equal(model.expression.numpy(), raw.expression)
    np.testing.assert_array_equal(model.faces, raw.faces)
    assert model.objects == raw.objects
    assert set(model.landmarks) == {"ibug68", "mediapipe478"}

    assert main(["models", "info", "ict", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["installed"] is True
    assert facts["sha256"] == raw.sha256
    assert facts["arkit"] == 51
    assert facts["landmarks"] == ["ibug68", "mediapipe478"]
    assert main(["models", "list"]) == 0
    listed = capsys.readouterr().out
    assert f"installed, version light, another revision, sha256 {raw.sha256[:12]}" in listed
    assert "results may be used for any purpose and sold" in listed

    assert main(["models", "remove", "ict"]) == 0
    assert store.stored_names() == []
    assert main(["models", "remove", "ict"]) == 2
    assert main(["models", "remove", "anny"]) == 2


def test_the_list_says_of_every_known_model_what_is_known_before_it_is_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Published sizes: 3,448 vertices of Surrey, ...; whether results may be sold, where that stands, how to get it."""
    assert main(["models", "list", "--json"]) == 0
    listed = {facts["name"]: facts for facts in map(json.loads, capsys.readouterr().out.splitlines())}
    sizes = {name: tuple(listed[name][key] for key in ("vertices", "identity", "expressions")) for name in listed}
    assert sizes["ict"] == (26719, 100, 57)
    assert sizes["bfm2009"] == (35709, 80, 64)
    assert (sizes["bfm2017"], sizes["bfm2019"]) == ((53149, 199, 100), (47439, 199, 100))
    of_flame = (5023, 300, 100 + len(flame.TURNS))
    assert sizes["flame2020"] == sizes["flame2023"] == sizes["flame2023-open"] == of_flame
    assert (sizes["surrey"], sizes["faceverse"]) == ((3448, 63, 6), (28632, 150, 52))
    for name in registry.KNOWN:
        assert listed[name]["licence_source"].startswith("https://")
        assert f"fit3d models add {name} --from" in listed[name]["get"]
    assert main(["models", "list"]) == 0
    text = capsys.readouterr().out
    assert "47,439 vertices, 199 identity shapes, 100 expression shapes (model2019_bfm.h5)" in text
    assert "See https://flame.is.tue.mpg.de/modellicense.html" in text


def test_an_edited_annotation_counts_at_once_and_survives_replacing(checkout: Path, annotation: Path) -> None:
    add = ["models", "add", "ict", "--from", str(checkout)]
    assert main([*add, "--annotation", str(annotation)]) == 0
    first = registry.load_model("ict")
    own = store.stored_model("ict").annotation
    assert own is not None
    content = json.loads(own.read_text(encoding="utf-8"))
    content["parts"]["nose"]["field_m"] = [0.05, 0.06]
    own.write_text(json.dumps(content), encoding="utf-8")
    os.utime(own, ns=(0, 1))
    second = registry.load_model("ict")
    assert second is not first
    assert second.annotation.fields.max().item() == pytest.approx(0.06)
    assert main([*add, "--replace"]) == 0
    assert registry.load_model("ict").annotation.fields.max().item() == pytest.approx(0.06)


def test_a_model_without_annotation_says_what_to_type(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "bundled_annotation", lambda name: None)
    assert main(["models", "add", "ict", "--from", str(checkout / "FaceXModel"), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="fit3d models annotate ict"):
        registry.load_model("ict")
    assert main(["models", "list"]) == 0
    assert "fit3d models annotate ict" in capsys.readouterr().out


def test_comes_with_its_annotation(checkout: Path, raw: RawModel) -> None:
    assert main(["models", "add", "ict", "--from", str(checkout), "--quiet"]) == 0
    assert store.stored_model("ict").annotation is None, "a new annotation of a new fit3d counts"
    model = registry.load_model("ict")
    labelled = set(model.annotation.field_labels.tolist()) | set(model.annotation.fixed_label.tolist())
    assert {1, 2, 3, 4, 5, 6, 7, 8, 9} <= labelled
    face = model.annotation.triangles.numpy()
    assert face.max() < 14062, "the outer surface is skin: no teeth, eyeballs or lashes"
    assert raw.landmarks68 is not None
    points = model.landmarks["ibug68"].points.of(model.mean).numpy()
    makers = raw.mean[raw.landmarks68]
    # but for the contour, which every detector draws in its own way
    assert np.linalg.norm(points - makers, axis=1)[17:].max() < 0.010


def test_a_damaged_model_does_not_hide_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    store.models_folder().joinpath("broken").mkdir(parents=True)
    store.models_folder().joinpath("broken", store.MODEL_FILE).write_bytes(b"nothing")
    assert main(["models", "list"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("anny")
    assert "fit3d models remove broken" in said.err
    assert said.err.count("\n") == 1
    assert main(["models", "info", "broken"]) == 2
    assert main(["models", "remove", "broken"]) == 0
    assert store.stored_names() == []


def test_a_wrong_annotation_keeps_the_model_out(
    checkout: Path, annotation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotation.write_text(annotation_text(4832), encoding="utf-8")
    assert main(["models", "add", "ict", "--from", str(checkout), "--annotation", str(annotation)]) == 2
    assert "made for 4832 vertices, the model has 26719" in capsys.readouterr().err
    assert store.stored_names() == []


def test_meshes_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    square = "v -9 -9 0\nv 9 -9 0\nv 9 9 0\nv -9 9 {}\nf 1 2 3 4\n"
    for path, z in (("mean", 1), ("id/a", 2), ("ex/jawOpen", 0)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / f"{path}.obj").write_text(square.format(z))
    own = ["--mean", str(tmp_path / "mean.obj"), "--identity", str(tmp_path / "id")]
    assert main(["models", "add", "mine", *own, "--expression", str(tmp_path / "ex")]) == 0
    assert "4 vertices, 1 identity shapes, 1 expression shapes" in capsys.readouterr().out
    assert store.read_stored("mine").name == "mine"
    assert store.read_stored("mine").identity[0, 3, 2] == pytest.approx(0.01)
    assert main(["models", "add", "ict", *own]) == 2
    assert main(["models", "add", "other", "--from", str(tmp_path), *own]) == 2
    assert main(["models", "add", "other"]) == 2
    assert main(["models", "add", "other", "--from", str(tmp_path), "--identity", str(tmp_path / "id")]) == 2
    assert store.stored_names() == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "../ict", "--from", "x"], "cannot be the name"),
        (["add", "anny", "--from", "x"], "comes with fit3d"),
        (["add", "nonsense", "--from", "x"], "it knows ict"),
        (["pull", "flame2020"], "registering"),
        (["pull", "nonsense"], "fit3d models list"),
        (["info", "nonsense"], "there are anny, ict"),
        (["remove", "../../home"], "cannot be the name"),
        (["add", "flame2023-open", "--from", "x.pkl"], "x.pkl"),
    ],
)
def test_wrong_usage_is_said(arguments: list[str], said: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not home.exists()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fit3d.commands.app import main\nassert main(['models', 'add', '--help']) == 0\n"
        "assert not {'torch', 'numpy', 'pooch', 'safetensors', 'requests'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# --- bad files --------------------------------------------------------------------------------------------------


def spoilt(checkout: Path, folder: Path, name: str, content: bytes | None) -> Path:
    """The checkout with another content of one file; without it where that is None."""
    shutil.copytree(checkout, folder, copy_function=os.link)
    (folder / "FaceXModel" / name).unlink()
    if content is not None:
        (folder / "FaceXModel" / name).write_bytes(content)
    return folder


def obj(checkout: Path, name: str) -> bytes:
    return (checkout / "FaceXModel" / f"{name}.obj").read_bytes()


BAD = {
    "neutral missing": ("generic_neutral_mesh.obj", lambda c: None, "expected a checkout"),
    "neutral cut": ("generic_neutral_mesh.obj", lambda c: obj(c, "generic_neutral_mesh")[:2_000_000], "truncated"),
    "neutral empty": ("generic_neutral_mesh.obj", lambda c: b"", "no vertices"),
    "other material": (
        "generic_neutral_mesh.obj",
        lambda c: obj(c, "generic_neutral_mesh").replace(b"M_Teeth", b"M_Gold"),
        "M_Gold",
    ),
    "identity missing": ("identity001.obj", lambda c: None, "cannot read it"),
    "identity cut": ("identity000.obj", lambda c: obj(c, "identity000")[:400_000], "truncated"),
    "identity cut in a line": ("identity000.obj", lambda c: obj(c, "identity000")[:54], "line 4: expected 3 numbers"),
    "not a number": ("identity000.obj", lambda c: b"v nan 0 0\n" + obj(c, "identity000"), "line 1: expected 3 numbers"),
    "infinite": ("identity000.obj", lambda c: b"v 1e39 0 0\n" + obj(c, "identity000"), "line 1: expected 3 numbers"),
    "binary": ("identity000.obj", lambda c: b"\x89PNG\r\n\x1a\n" + bytes(1000), "no vertices"),
    "one vertex more": ("identity000.obj", lambda c: b"v 0 0 0\n" + obj(c, "identity000"), "26720 vertices"),
    "other order": (
        "identity000.obj",
        lambda c: b"".join(sorted(obj(c, "identity000").splitlines(keepends=True), reverse=True)),
        "order of its vertices",
    ),
    "expression missing": ("jawOpen.obj", lambda c: None, "jawOpen.obj"),
    "indices missing": ("vertex_indices.json", lambda c: None, "vertex_indices.json"),
    "indices cut": ("vertex_indices.json", lambda c: b'{"idx_to_landmark_verts": [1, 2', "vertex_indices.json"),
    "indices deep": ("vertex_indices.json", lambda c: b"[" * 200_000, "vertex_indices.json"),
    "indices lacking": ("vertex_indices.json", lambda c: b"{}", "idx_to_landmark_verts"),
    "indices large": (
        "vertex_indices.json",
        lambda c: json.dumps({"idx_to_landmark_verts": [26719] * 68}).encode(),
        "68 vertex ids",
    ),
    "indices no list": ("vertex_indices.json", lambda c: b'{"idx_to_landmark_verts": 3}', "vertex_indices.json"),
    "indices no text": ("vertex_indices.json", lambda c: b"\xff\xfe\x00", "vertex_indices.json"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_said_in_one_line_and_nothing_is_kept(
    case: str, checkout: Path, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, said = BAD[case]
    folder = spoilt(checkout, tmp_path / "spoilt", name, content(checkout))
    assert main(["models", "add", "ict", "--from", str(folder)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert str(folder) in error
    assert error.count("\n") == 1
    assert "unexpected" not in error
    assert not home.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "line 4"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 0\n", "line 4"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -4\n", "line 4"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 x\n", "line 4"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2\n", "three corners"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\n", "no faces"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1/1 2/1 3/1\n", "line 4"),
        ("v 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "line 1"),
    ],
)
def test_damaged_obj(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.obj").write_text(text)
    with pytest.raises(ModelFileError, match=said) as caught:
        read_obj(tmp_path / "x.obj")
    assert "\n" not in str(caught.value)


def test_obj_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "x.obj"
    corners = "v 0 0 0 0.5 0.5 0.5\r\nv  1 0 0\r\nv 1 1 0\r\nv 0.5 2 0\r\nv 0 1 0\r\n"
    path.write_bytes((corners + "vn 0 0 1\r\no skin\r\nf 1//1 2//1 3//1\r\ng rest\r\nf -5 -3 -2 -1\r\n").encode())
    mesh = read_obj(path)
    np.testing.assert_array_equal(mesh.vertices[3], [0.5, 2, 0])
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2, -1], [0, 2, 3, 4]])
    assert mesh.uv.shape == (0, 2)
    assert not mesh.uv_faces.any()
    assert [mesh.materials[i] for i in mesh.face_materials] == ["skin", "rest"]
    path.write_bytes((corners + "f 1 2 3 4 5\r\n").encode())
    np.testing.assert_array_equal(read_obj(path).faces, [[0, 1, 2, -1], [0, 2, 3, -1], [0, 3, 4, -1]])
    np.testing.assert_array_equal(read_obj_positions(path, 5), read_obj(path).vertices)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.obj"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # a hole, no bytes on disk
    with pytest.raises(ModelFileError, match="larger than 256 MB"):
        read_obj(path)


# --- download ---------------------------------------------------------------------------------------------------


class Server:
    """Serves a folder on this machine, counts what is asked for, and fails on demand."""

    def __init__(self, folder: Path) -> None:
        self.asked: Counter[str] = Counter()
        self.failing: set[str] = set()
        self.cut: set[str] = set()
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[-1]
                server.asked[name] += 1
                if name in server.failing:
                    self.send_error(503)
                elif name in server.cut:
                    content = (folder / name).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2])
                else:
                    super().do_GET()

            def log_message(self, *arguments: Any) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"


@pytest.fixture
def server(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(checkout / "FaceXModel")
    threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(ict, "EXPRESSIONS", ("browDown_L", "jawLeft", "jawOpen", "jawRight"))
    monkeypatch.setattr(fit3d.download, "RETRIES", 0)
    monkeypatch.setattr(ict, "URL", server.url)
    monkeypatch.setattr(ict, "CONTENT_SHA256", ict.read_ict(checkout).sha256)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_pull(server: Server, home: Path, arrays: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "pull", "ict"]) == 0
    said = capsys.readouterr()
    assert "added ict (light)" in said.out
    assert said.err == ""
    assert server.asked == Counter(ict.file_names())
    stored = store.read_stored("ict")
    index = arrays["expression_names"].tolist().index("jawOpen")
    np.testing.assert_array_equal(stored.expression[2], arrays["expression_cm"][index] * np.float32(0.01))
    assert stored.version == "light"
    assert list((home / "downloads").iterdir()) == []
    assert main(["models", "pull", "ict"]) == 2
    assert "--replace" in capsys.readouterr().err
    assert server.asked == Counter(ict.file_names())


@pytest.mark.parametrize("how", ["failing", "cut"])
def test_an_interrupted_pull_goes_on_where_it_stopped(
    server: Server, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    getattr(server, how).add("jawOpen.obj")
    assert main(["models", "pull", "ict"]) == 2
    error = capsys.readouterr().err
    assert "jawOpen.obj" in error
    assert "run the same command again" in error
    assert error.count("\n") == 1
    assert store.stored_names() == []
    names = ict.file_names()
    assert server.asked == Counter(names[: names.index("jawOpen.obj") + 1])

    getattr(server, how).clear()
    assert main(["models", "pull", "ict"]) == 0
    assert server.asked == Counter([*names, "jawOpen.obj"]), "nothing is fetched twice"
    assert store.stored_names() == ["ict"]


def test_a_pull_of_something_else_is_thrown_away(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ict, "CONTENT_SHA256", "0" * 64)
    assert main(["models", "pull", "ict"]) == 2
    error = capsys.readouterr().err
    assert "SHA-256" in error
    assert error.count("\n") == 1
    assert store.stored_names() == []
    assert list((home / "downloads").iterdir()) == []


def test_pull_names_a_commit_and_no_branch() -> None:
    assert len(ict.COMMIT) == 40
    assert int(ict.COMMIT, 16)
    assert f"/{ict.COMMIT}/" in f"{ict.URL}/"
