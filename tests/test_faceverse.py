"""FaceVerse, read from small files in the layouts of its versions."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fit3d.commands.app import main
from fit3d.errors import ModelFileError
from fit3d.morphable.faceverse import read_faceverse
from fit3d.morphable.store import stored_names
from model_files import face_with_marks, faceverse

UNIT = {1: 7.0, 2: 7.0, 3: 1000.0, 4: 1000.0}
TURN = {version: np.array([1.0, -1.0, -1.0]) if version < 4 else np.array([-1.0, 1.0, 1.0]) for version in UNIT}


def write(path: Path, content: Any) -> Path:
    with open(path, "wb") as file:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)
    return path


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_every_version_becomes_the_same_head(version: int, tmp_path: Path) -> None:
    """In metres, y up, z towards the viewer, +x to the person's left, whatever frame and unit the file has."""
    content = faceverse(version, np.random.default_rng(version))
    model = read_faceverse(write(tmp_path / "faceverse.npy", content))
    place, _ = face_with_marks()
    eyes = [[36, 37, 39, 41], [42, 43, 45, 47]] if version >= 3 else [range(36, 42), range(42, 48)]
    origin = np.mean([place[list(eye)].mean(0) for eye in eyes], 0) + [0.0, 0.0, -0.012]
    assert np.allclose(model.mean, place - origin, atol=2e-7)
    for basis, stored in ((model.identity, content["idBase"]), (model.expression, content["exBase"])):
        for k in range(3):
            expected = stored[:, k].reshape(-1, 3) * TURN[version] / UNIT[version]
            assert np.allclose(basis[k], expected, atol=2e-7)
    assert model.version == {1: "0 or 1", 2: "2", 3: "3", 4: "4"}[version]
    assert "non-commercial" in model.licence
    if version in (2, 4):
        assert model.expression_names == ("jawOpen", "eyeBlinkLeft", "mouthSmileLeft")
        assert (model.expression_bounds == [0.0, 1.0]).all()
    else:
        assert model.expression_names == ("expression_0", "expression_1", "expression_2")
        assert (model.expression_bounds == [-3.0, 3.0]).all()


def test_eyeballs_are_pieces_of_their_own(tmp_path: Path) -> None:
    content = faceverse(4, np.random.default_rng(1))
    place, _ = face_with_marks()
    model = read_faceverse(write(tmp_path / "v4.npy", content))
    assert set(model.objects) == {"head", "left_eyeball", "right_eyeball", "teeth_tongue"}
    left = place[40:50, 0].mean() > place[50:60, 0].mean()
    assert model.objects[1:3] == (("left_eyeball", "right_eyeball") if left else ("right_eyeball", "left_eyeball"))
    first = content["tri"][:, 0]
    assert model.face_objects.tolist() == [0 if v < 40 else 1 if v < 50 else 2 if v < 60 else 3 for v in first]
    content["ver_inds"] = np.array([40, 54, 68])
    assert read_faceverse(write(tmp_path / "v4.npy", content)).objects[0] == "head"


def test_bases_with_an_axis_for_coordinates(tmp_path: Path) -> None:
    content = faceverse(3, np.random.default_rng(2))
    flat = read_faceverse(write(tmp_path / "flat.npy", content))
    content["idBase"] = content["idBase"].reshape(-1, 3, 3)
    content["meanshape"] = content["meanshape"].ravel()
    shaped = read_faceverse(write(tmp_path / "shaped.npy", content))
    assert np.array_equal(flat.identity, shaped.identity) and np.array_equal(flat.mean, shaped.mean)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"meanshape": None}, "meanshape holds object"),
        ({"meanshape": np.zeros((68, 3))}, "not those of a face"),
        ({"meanshape": np.full((68, 3), np.nan)}, "not finite"),
        ({"meanshape": np.zeros(7)}, "expected three per vertex"),
        ({"meanshape": np.zeros(3_000_003)}, "expected three per vertex"),
        ({"idBase": np.zeros((6, 3))}, "idBase has shape"),
        ({"idBase": np.zeros((204, 1001))}, "1001 components"),
        ({"exBase": np.zeros((204, 0))}, "0 components"),
        ({"exBase": "text"}, "exBase"),
        ({"tri": np.array([[0, 1, 68]])}, r"tri must lie in 0 \.\.\. 67"),
        ({"tri": np.array([[0.0, 0.5, 1.0]])}, "whole numbers"),
        ({"keypoints_mediapipe": np.zeros(3, int)}, "has 3 landmarks"),
        ({"keypoints_mediapipe": np.full(478, 90)}, r"must lie in 0 \.\.\. 67"),
        ({"ver_inds": np.array([40, 20, 60])}, "ver_inds is"),
        ({"ver_inds": np.array([40, 50, 600])}, r"ver_inds must lie in 0 \.\.\. 68"),
        ({"exp_name_list": ["a", "b", "a"]}, "same name"),
        ({"exp_name_list": ["a", "b", "../c"]}, "what is no name"),
    ],
)
def test_files_that_do_not_fit_are_said_in_one_line_and_nothing_is_kept(
    change: dict[str, Any],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FIT3D_HOME", str(tmp_path / "home"))
    path = write(tmp_path / "v4.npy", {**faceverse(4, np.random.default_rng(1)), **change})
    with pytest.raises(ModelFileError, match=said):
        read_faceverse(path)
    assert main(["models", "add", "faceverse", "--from", str(path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not stored_names()


@pytest.mark.parametrize("key", ["meanshape", "idBase", "exBase", "tri", "keypoints_mediapipe"])
def test_what_is_missing_is_named(key: str, tmp_path: Path) -> None:
    content = faceverse(4, np.random.default_rng(1))
    del content[key]
    with pytest.raises(ModelFileError, match=f"lacks {'landmarks' if 'points' in key else key}"):
        read_faceverse(write(tmp_path / "v4.npy", content))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files_are_refused(share: float, tmp_path: Path) -> None:
    path = write(tmp_path / "v2.npy", faceverse(2, np.random.default_rng(1)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelFileError, match="truncated"):
        read_faceverse(path)


class Payload:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_hostile_file_runs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists(), "the payload works"
    trace.unlink()
    path = write(tmp_path / "v4.npy", {**faceverse(4, np.random.default_rng(1)), "extra": Payload(trace)})
    with pytest.raises(ModelFileError, match="refused"):
        read_faceverse(path)
    assert not trace.exists()
