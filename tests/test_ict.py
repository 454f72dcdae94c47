"""ICT-FaceKit in its true layout: that all its numbers arrive, and what is said of files that are damaged."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from fit3d.commands.app import main
from fit3d.morphable import ict, registry
from fit3d.morphable.arkit import ARKIT_NAMES, arkit_shapes
from fit3d.morphable.obj_file import ObjMesh
from fit3d.morphable.raw import RawModel
from ict_layout import FEW, Arrays

pytestmark = pytest.mark.usefixtures("ict_home")


def test_all_numbers_arrive(ict_raw: RawModel, ict_arrays: Arrays) -> None:
    np.testing.assert_array_equal(ict_raw.identity, ict_arrays["identity_cm"][:FEW] * np.float32(0.01))
    np.testing.assert_array_equal(ict_raw.expression, ict_arrays["expression_cm"] * np.float32(0.01))
    np.testing.assert_array_equal(ict_raw.faces, ict_arrays["faces"])
    np.testing.assert_array_equal(ict_raw.uv_faces, ict_arrays["uv_faces"])
    assert ict_raw.landmarks68 is not None
    np.testing.assert_array_equal(ict_raw.landmarks68, ict_arrays["landmarks68"])
    shift = ict_raw.mean * 100.0 - ict_arrays["neutral_cm"]
    assert np.ptp(shift, axis=0).max() < 1e-5, "the mean is the neutral mesh, moved"


def test_the_shapes_are_those_that_the_annotation_was_made_for(ict_arrays: Arrays) -> None:
    mesh = ObjMesh(
        ict_arrays["neutral_cm"],
        ict_arrays["uv"],
        ict_arrays["faces"],
        ict_arrays["uv_faces"],
        (),
        np.zeros(0, np.int32),
    )
    assert ict.content_sha256(mesh, ict_arrays["identity_cm"], ict_arrays["expression_cm"]) == ict.CONTENT_SHA256
    other = ict_arrays["identity_cm"].copy()
    other[99, -1, -1] += 1e-6
    assert ict.content_sha256(mesh, other, ict_arrays["expression_cm"]) != ict.CONTENT_SHA256


def test_another_revision_is_called_so(ict_raw: RawModel) -> None:
    assert ict_raw.version == "light, another revision"  # the copy has few identities


def test_frame(ict_raw: RawModel) -> None:
    centres = {}
    for side in ("left", "right"):
        ids = ict_raw.faces[ict_raw.face_objects == ict_raw.objects.index(f"{side}_eyeball")]
        points = ict_raw.mean[np.unique(ids[ids >= 0])]
        centres[side] = (points.min(axis=0) + points.max(axis=0)) / 2
    assert 0.025 < centres["left"][0] < 0.040, "the person's left is +x, in metres"
    assert np.abs(centres["left"] + centres["right"]).max() < 1.5e-3, "the origin is midway between the eyes"
    assert ict_raw.landmarks68 is not None
    tip, chin = ict_raw.mean[ict_raw.landmarks68[30]], ict_raw.mean[ict_raw.landmarks68[8]]
    assert tip[2] == pytest.approx(0.05, abs=0.01)
    assert chin[1] == pytest.approx(-0.11, abs=0.01)


def test_objects_keep_all_geometry(ict_raw: RawModel, ict_arrays: Arrays) -> None:
    counts = dict(zip(ict_raw.objects, np.bincount(ict_raw.face_objects).tolist(), strict=True))
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
        assert set(ict_raw.face_objects[ict_arrays["face_materials"] == name]) == {
            ict_raw.objects.index("right_eyeball")
        }


def test_uvs_of_all_objects_lie_in_one_square_apart(ict_raw: RawModel, ict_arrays: Arrays) -> None:
    assert ict_raw.uv.min() >= 0.0
    assert ict_raw.uv.max() <= 1.0
    boxes = []
    for name in np.unique(ict_arrays["face_materials"]):
        ids = ict_raw.uv_faces[ict_arrays["face_materials"] == name]
        ids = np.unique(ids[ids >= 0])
        for tile in np.unique(np.floor(ict_arrays["uv"][ids, 0])):
            own = ids[np.floor(ict_arrays["uv"][ids, 0]) == tile]
            before, after = ict_arrays["uv"][own] - [tile, 0.0], ict_raw.uv[own]
            scale = np.ptp(after, axis=0) / np.ptp(before, axis=0)
            assert scale[0] == pytest.approx(scale[1], rel=1e-3), "texels stay square"
            np.testing.assert_allclose(after - after[0], (before - before[0]) * scale, atol=1e-5)
            boxes.append((after.min(axis=0), after.max(axis=0)))
    assert len(boxes) == 13
    for index, (low, high) in enumerate(boxes):
        for other_low, other_high in boxes[:index]:
            assert ((high <= other_low) | (other_high <= low)).any()


# --- names of expressions ---------------------------------------------------------------------------------------


def test_expressions_have_arkits_names(ict_raw: RawModel, ict_arrays: Arrays) -> None:
    names = dict(zip(ict_arrays["expression_names"].tolist(), ict_raw.expression_names, strict=True))
    assert names["browDown_L"] == "browDownLeft"
    assert names["mouthSmile_R"] == "mouthSmileRight"
    assert names["jawLeft"] == "jawLeft"
    assert names["PupilDilate_L"] == "pupilDilateLeft"
    shapes = arkit_shapes(ict_raw.expression_names)
    assert set(ARKIT_NAMES) - set(shapes) == {"tongueOut"}
    assert list(shapes) == [name for name in ARKIT_NAMES if name in shapes]
    sums = {name: [ict_raw.expression_names[i] for i in parts] for name, parts in shapes.items() if len(parts) > 1}
    assert sums == {
        "browInnerUp": ["browInnerUpLeft", "browInnerUpRight"],
        "cheekPuff": ["cheekPuffLeft", "cheekPuffRight"],
    }
    assert {ict_raw.expression_names[parts[0]] for parts in shapes.values() if len(parts) == 1} == set(shapes) - set(
        sums
    )


def test_arkits_names_are_52() -> None:
    assert len(set(ARKIT_NAMES)) == len(ARKIT_NAMES) == 52
    model = registry.load_model("anny")
    assert set(model.expression_names) == set(ARKIT_NAMES)
    assert all(len(parts) == 1 for parts in arkit_shapes(model.expression_names).values())


def test_no_expression_is_a_sum_of_others(ict_raw: RawModel) -> None:
    rows = ict_raw.expression.reshape(len(ict_raw.expression), -1).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.linalg.eigvalsh(rows @ rows.T)[0] > 1e-3
    both = (
        rows[ict_raw.expression_names.index("cheekPuffLeft")] + rows[ict_raw.expression_names.index("cheekPuffRight")]
    )
    with_sum = np.vstack([rows, both / np.linalg.norm(both)])
    assert np.linalg.eigvalsh(with_sum @ with_sum.T)[0] < 1e-9


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
    case: str, ict_checkout: Path, tmp_path: Path, ict_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, said = BAD[case]
    folder = spoilt(ict_checkout, tmp_path / "spoilt", name, content(ict_checkout))
    assert main(["models", "add", "ict", "--from", str(folder)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert str(folder) in error
    assert error.count("\n") == 1
    assert "unexpected" not in error
    assert not ict_home.exists()
