"""A model from one's own OBJ files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fit3d.errors import ModelFileError
from fit3d.morphable.obj_model import read_meshes
from model_files import head, write_obj

EYES_FROM_NOSE = np.array([0.0, 0.036, -0.048])


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.dtype == np.float32 and np.allclose(found, expected, atol=3e-8)


@pytest.fixture
def meshes(tmp_path: Path) -> dict[str, Any]:
    """Files in centimetres: a mean, two people, three expressions; one face is a quad."""
    rng = np.random.default_rng(1)
    vertices, triangles = head()
    faces = np.column_stack([triangles, np.full(80, -1)])
    faces[3] = [0, 1, 2, 3]
    moved = {
        name: vertices + rng.normal(scale=0.004, size=vertices.shape)
        for name in ("people/b.obj", "people/a.OBJ", "faces/smile.obj", "faces/jawOpen.obj", "faces/blink_L.obj")
    }
    uv = rng.uniform(size=(42, 2))
    write_obj(tmp_path / "mean.obj", vertices * 100, faces, uv)
    for name, positions in moved.items():
        write_obj(tmp_path / name, positions * 100, faces)
    (tmp_path / "people" / "notes.txt").write_text("not a mesh")
    return {"folder": tmp_path, "vertices": vertices, "faces": faces, "uv": uv, "moved": moved}


def read(meshes: dict[str, Any], **options: Any) -> Any:
    folder = meshes["folder"]
    return read_meshes(folder / "mean.obj", folder / "people", folder / "faces", **options)


def test_meshes_become_directions(meshes: dict[str, Any]) -> None:
    model = read(meshes, name="hero")
    vertices, moved = meshes["vertices"], meshes["moved"]
    assert model.name == "hero"
    assert close(model.mean, vertices - vertices[vertices[:, 2].argmax()] - EYES_FROM_NOSE)
    assert close(model.identity, np.stack([moved["people/a.OBJ"], moved["people/b.obj"]]) - vertices)
    assert model.expression_names == ("blink_L", "jawOpen", "smile")
    assert close(model.expression, np.stack([moved[f"faces/{n}.obj"] for n in model.expression_names]) - vertices)
    assert (model.expression_bounds == [0, 1]).all()
    assert (model.faces == meshes["faces"]).all()
    assert close(model.uv, meshes["uv"])
    assert (model.uv_faces == meshes["faces"]).all()
    assert model.objects == ("head",)
    assert "where you have them from" in model.licence


@pytest.mark.parametrize(("unit", "metres"), [("m", 1.0), ("dm", 0.1), ("cm", 0.01), ("mm", 0.001)])
def test_units(unit: Any, metres: float, tmp_path: Path) -> None:
    vertices, triangles = head()
    faces = np.column_stack([triangles, np.full(80, -1)])
    write_obj(tmp_path / "mean.obj", vertices / metres, faces)
    write_obj(tmp_path / "people" / "a.obj", (vertices + [0, 0, 0.01]) / metres, faces)
    guessed = read_meshes(tmp_path / "mean.obj", tmp_path / "people")
    told = read_meshes(tmp_path / "mean.obj", tmp_path / "people", unit=unit)
    for model in (guessed, told):
        assert np.abs(np.ptp(model.mean, axis=0) - np.ptp(vertices, axis=0)).max() < 1e-6
        assert np.abs(model.identity - [0, 0, 0.01]).max() < 1e-6
        assert model.expression.shape == (0, 42, 3)


def test_no_unit_makes_it_a_head(tmp_path: Path) -> None:
    vertices, triangles = head()
    write_obj(tmp_path / "mean.obj", vertices * 3, np.column_stack([triangles, np.full(80, -1)]))
    with pytest.raises(ModelFileError, match=r"mean\.obj: 0\.\d+ high, which is no head"):
        read_meshes(tmp_path / "mean.obj", None, None)


@pytest.mark.parametrize("name", ["people/b.obj", "faces/smile.obj"])
@pytest.mark.parametrize("damage", ["vertices", "order of faces", "other face", "nan", "truncated", "empty"])
def test_other_topology_and_damage_name_the_file(name: str, damage: str, meshes: dict[str, Any]) -> None:
    path = meshes["folder"] / name
    vertices, faces = meshes["moved"][name] * 100, meshes["faces"].copy()
    message = "all meshes of a model need one topology"
    if damage == "vertices":
        write_obj(path, np.concatenate([vertices, vertices[:1]]), faces)
        message = f"43 vertices, mean.obj has 42; {message}"
    elif damage == "order of faces":
        write_obj(path, vertices, faces[::-1])
    elif damage == "other face":
        faces[7, 0] = faces[8, 0]
        faces[7] = faces[7, [1, 2, 0, 3]]
        write_obj(path, vertices, faces)
    elif damage == "nan":
        vertices[5, 1] = np.nan
        write_obj(path, vertices, faces)
        message = "damaged"
    elif damage == "truncated":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 3])
        message = "no faces|damaged"
    else:
        path.write_bytes(b"")
        message = "no vertices"
    with pytest.raises(ModelFileError, match=message) as caught:
        read(meshes)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_without_meshes(meshes: dict[str, Any]) -> None:
    folder = meshes["folder"]
    (folder / "nothing").mkdir()
    with pytest.raises(ModelFileError, match=r"nothing: no \.obj file"):
        read_meshes(folder / "mean.obj", folder / "nothing", None)
    with pytest.raises(ModelFileError, match="missing: cannot read the folder"):
        read_meshes(folder / "mean.obj", folder / "people", folder / "missing")
    with pytest.raises(ModelFileError, match=r"mean\.obj: .*neither identity nor expression"):
        read_meshes(folder / "mean.obj", None, None)
