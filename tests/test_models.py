"""`fit3d models`: from files to a model that can be fitted, by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fit3d.commands.app import main
from fit3d.errors import UsageError
from fit3d.landmarks import LANDMARK_COUNTS
from fit3d.morphable import flame, registry, store
from fit3d.morphable.raw import RawModel
from ict_layout import Arrays

pytestmark = pytest.mark.usefixtures("ict_home")


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
def annotation(tmp_path: Path, ict_arrays: Arrays) -> Path:
    path = tmp_path / "own.json"
    path.write_text(annotation_text(len(ict_arrays["neutral_cm"])), encoding="utf-8")
    return path


def test_add_load_list_info_remove(
    ict_checkout: Path, annotation: Path, ict_raw: RawModel, capsys: pytest.CaptureFixture[str]
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

    assert main(["models", "add", "ict", "--from", str(ict_checkout), "--annotation", str(annotation)]) == 0
    said = capsys.readouterr()
    assert "26,719 vertices" in said.out
    assert said.err == ""

    model = registry.load_model("ict")
    assert registry.load_model("ict") is model, "read once per process"
    assert model.name == "ict"
    assert "sold" in model.licence
    np.testing.assert_array_equal(model.mean.numpy(), ict_raw.mean)
    np.testing.assert_array_equal(model.identity.numpy(), ict_raw.identity)
    np.testing.assert_array_equal(model.expression.numpy(), ict_raw.expression)
    np.testing.assert_array_equal(model.faces, ict_raw.faces)
    assert model.objects == ict_raw.objects
    assert set(model.landmarks) == {"ibug68", "mediapipe478"}

    assert main(["models", "info", "ict", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["installed"] is True
    assert facts["sha256"] == ict_raw.sha256
    assert facts["arkit"] == 51
    assert facts["landmarks"] == ["ibug68", "mediapipe478"]
    assert main(["models", "list"]) == 0
    listed = capsys.readouterr().out
    assert f"installed, version light, another revision, sha256 {ict_raw.sha256[:12]}" in listed
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


def test_an_edited_annotation_counts_at_once_and_survives_replacing(ict_checkout: Path, annotation: Path) -> None:
    add = ["models", "add", "ict", "--from", str(ict_checkout)]
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
    ict_checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "bundled_annotation", lambda name: None)
    assert main(["models", "add", "ict", "--from", str(ict_checkout / "FaceXModel"), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="fit3d models annotate ict"):
        registry.load_model("ict")
    assert main(["models", "list"]) == 0
    assert "fit3d models annotate ict" in capsys.readouterr().out


def test_comes_with_its_annotation(ict_checkout: Path, ict_raw: RawModel) -> None:
    assert main(["models", "add", "ict", "--from", str(ict_checkout), "--quiet"]) == 0
    assert store.stored_model("ict").annotation is None, "a new annotation of a new fit3d counts"
    model = registry.load_model("ict")
    labelled = set(model.annotation.field_labels.tolist()) | set(model.annotation.fixed_label.tolist())
    assert {1, 2, 3, 4, 5, 6, 7, 8, 9} <= labelled
    face = model.annotation.triangles.numpy()
    assert face.max() < 14062, "the outer surface is skin: no teeth, eyeballs or lashes"
    assert ict_raw.landmarks68 is not None
    points = model.landmarks["ibug68"].points.of(model.mean).numpy()
    makers = ict_raw.mean[ict_raw.landmarks68]
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
    ict_checkout: Path, annotation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotation.write_text(annotation_text(4832), encoding="utf-8")
    assert main(["models", "add", "ict", "--from", str(ict_checkout), "--annotation", str(annotation)]) == 2
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
def test_wrong_usage_is_said(
    arguments: list[str], said: str, ict_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not ict_home.exists()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fit3d.commands.app import main\nassert main(['models', 'add', '--help']) == 0\n"
        "assert not {'torch', 'numpy', 'pooch', 'safetensors', 'requests'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
