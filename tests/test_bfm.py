"""The Basel Face Models, read from small files in the layouts of the originals."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from fit3d.errors import ModelFileError, UsageError
from fit3d.morphable.bfm import LICENCE, LICENCE_2009, read_3ddfa_v3, read_bfm2009, read_bfm_h5
from model_files import bfm2009, bfm_h5, eye_corners_json, face_model_v3, head, write_bfm2009, write_h5

EYES_FROM_NOSE = np.array([0.0, 0.036, -0.048])


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.dtype == np.float32 and np.allclose(found, expected, rtol=2e-6, atol=2e-9)


@pytest.mark.parametrize("compressed", [True, False])
def test_bfm2009_as_deep3d_combines_it(compressed: bool, tmp_path: Path) -> None:
    stored = bfm2009(np.random.default_rng(1))
    write_bfm2009(tmp_path / "BFM", stored, front=True, compressed=compressed)
    model = read_bfm2009(tmp_path / "BFM")
    # one vertex after another, in Deep3D's words
    kept = [stored.kept[f - 1] - 1 for f in stored.front]
    mean = np.array([stored.mean[v] * 1e-6 for v in kept])
    lids = [mean[stored.keypoints[first : first + 6] - 1].mean(axis=0) for first in (36, 42)]
    origin = (lids[0] + lids[1]) / 2 + [0, 0, -0.012]
    assert close(model.mean, mean - origin)
    assert model.identity.shape == (80, 36, 3)
    assert model.expression.shape == (64, 36, 3)
    for k in (0, 79):
        expected = np.array([stored.basis[3 * v : 3 * v + 3, k] for v in kept]) * stored.deviation[k] * 1e-6
        assert close(model.identity[k], expected)
    for k in (0, 63):
        expected = np.array([stored.motion[k, f - 1] for f in stored.front]) * stored.motion_deviation[k] * 1e-6
        assert close(model.expression[k], expected)
    assert model.expression_names[0] == "expression_00"
    assert (model.expression_bounds == [-3, 3]).all()
    assert (model.faces[:, :3] == stored.front_triangles - 1).all()
    assert (model.faces[:, 3] == -1).all()
    assert model.landmarks68 is not None
    assert (model.landmarks68 == stored.keypoints - 1).all()
    assert (model.name, model.version, model.licence) == ("bfm2009", "2009", LICENCE_2009)
    assert "must not be sold" in model.licence


def test_bfm2009_without_deep3ds_crop(tmp_path: Path) -> None:
    stored = bfm2009(np.random.default_rng(2), identity=9, expression=5)
    write_bfm2009(tmp_path, stored, front=False)
    model = read_bfm2009(tmp_path)
    kept = stored.kept - 1
    mean = stored.mean[kept] * 1e-6
    assert close(model.mean, mean - mean[mean[:, 2].argmax()] - EYES_FROM_NOSE)
    assert close(model.identity[8], stored.basis[:, 8].reshape(42, 3)[kept] * stored.deviation[8] * 1e-6)
    assert close(model.expression[4], stored.motion[4] * stored.motion_deviation[4] * 1e-6)
    # the triangles of the kept vertices, all turned outwards
    clockwise = stored.triangles - 1
    expected = [[kept.tolist().index(v) for v in t[::-1]] for t in clockwise.tolist() if set(t) <= set(kept.tolist())]
    assert model.faces[:, :3].tolist() == expected
    assert model.landmarks68 is None


def damage(folder: Path, name: str) -> str:
    """Breaks one file of the folder; returns its name."""
    path = folder / name.split(":")[0]
    content = path.read_bytes()
    kind = name.split(":")[1]
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(content[: len(content) * 2 // 3])
    elif kind == "garbage":
        path.write_bytes(content[:200] + bytes(255 - byte for byte in content[200:]))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "matlab 7.3":
        path.write_bytes(b"MATLAB 7.3 MAT-file, HDF5" + bytes(1000))
    return path.name


@pytest.mark.parametrize(
    "name",
    [
        *(f"01_MorphableModel.mat:{kind}" for kind in ("missing", "truncated", "garbage", "empty", "matlab 7.3")),
        *(f"Exp_Pca.bin:{kind}" for kind in ("missing", "truncated", "empty")),
        *("std_exp.txt:missing", "std_exp.txt:truncated", "std_exp.txt:empty"),
        *("BFM_exp_idx.mat:missing", "BFM_exp_idx.mat:garbage"),
        *("BFM_front_idx.mat:truncated", "facemodel_info.mat:truncated"),
    ],
)
def test_damaged_files_of_2009_are_one_clear_line(name: str, tmp_path: Path) -> None:
    write_bfm2009(tmp_path, bfm2009(np.random.default_rng(3)), front=True)
    culprit = damage(tmp_path, name)
    with pytest.raises(ModelFileError) as caught:
        read_bfm2009(tmp_path)
    assert culprit in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("01_MorphableModel.mat", {"shapeMU": np.zeros((126, 1))}, "lacks shapePC, shapeEV, tl"),
        ("BFM_exp_idx.mat", {"trimIndex": np.arange(0, 40)}, r"trimIndex must lie in 1 \.\.\. 42, got 0 \.\.\. 39"),
        ("BFM_exp_idx.mat", {"trimIndex": np.full(40, 7)}, "trimIndex names a vertex twice"),
        ("BFM_exp_idx.mat", {"trimIndex": np.arange(1, 40)}, "Exp_Pca.bin: .*for 39 vertices"),
        ("BFM_exp_idx.mat", {"trimIndex": np.array([[1 + 2j]])}, "trimIndex holds complex128"),
        ("BFM_exp_idx.mat", {"trimIndex": "text"}, "trimIndex is of type char"),
        ("BFM_exp_idx.mat", {"trimIndex": {"a": 1}}, "trimIndex is of type struct"),
        ("BFM_front_idx.mat", {"idx": np.arange(30, 50)}, r"BFM_front_idx\.mat: idx must lie in 1 \.\.\. 40"),
        ("facemodel_info.mat", {"tri": np.full((3, 3), 37), "keypoints": np.ones(68)}, r"tri must lie in 1 \.\.\. 36"),
        ("facemodel_info.mat", {"tri": np.full((3, 3), 36), "keypoints": np.ones(67)}, r"keypoints has shape \(67,\)"),
    ],
)
def test_files_of_2009_that_do_not_fit(file: str, content: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_bfm2009(tmp_path, bfm2009(np.random.default_rng(4)), front=True)
    savemat(tmp_path / file, content)
    with pytest.raises(ModelFileError, match=message):
        read_bfm2009(tmp_path)


@pytest.mark.parametrize("field", ["mean", "basis", "deviation", "motion", "motion_deviation"])
def test_nan_in_2009_is_refused(field: str, tmp_path: Path) -> None:
    stored = bfm2009(np.random.default_rng(5))
    getattr(stored, field).ravel()[0] = np.nan
    write_bfm2009(tmp_path, stored, front=True)
    with pytest.raises(ModelFileError, match="not finite"):
        read_bfm2009(tmp_path)


def test_absurd_sizes_of_2009_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bfm2009(tmp_path, bfm2009(np.random.default_rng(6)), front=True)
    content = (tmp_path / "Exp_Pca.bin").read_bytes()
    for components in (0, -1, 2**31 - 1):
        (tmp_path / "Exp_Pca.bin").write_bytes(struct.pack("<i", components) + content[4:])
        with pytest.raises(ModelFileError, match=f"begin with {components} components"):
            read_bfm2009(tmp_path)
    savemat(tmp_path / "01_MorphableModel.mat", {"shapePC": np.zeros((3000, 1000))}, do_compression=True)
    assert (tmp_path / "01_MorphableModel.mat").stat().st_size < 100_000
    monkeypatch.setattr("fit3d.morphable.bfm.LARGEST_UNPACKED", 10_000_000)
    with pytest.raises(ModelFileError, match="would unpack to more than"):
        read_bfm2009(tmp_path)


def test_face_model_of_3ddfa_v3(tmp_path: Path) -> None:
    stored = face_model_v3(np.random.default_rng(1))
    np.save(tmp_path / "face_model.npy", np.array(stored, dtype=object), allow_pickle=True)
    model = read_3ddfa_v3(tmp_path / "face_model.npy")
    mean = stored["u"].reshape(42, 3).astype(np.float64) * 0.1
    lids = [mean[stored["ldm68"][first : first + 6]].mean(axis=0) for first in (36, 42)]
    assert close(model.mean, mean - (lids[0] + lids[1]) / 2 - [0, 0, -0.012])
    assert model.identity.shape[0] == 80
    assert model.expression.shape[0] == 64
    for v in (0, 41):
        assert close(model.identity[:, v], stored["id"][3 * v : 3 * v + 3].T * 0.1)
        assert close(model.expression[:, v], stored["exp"][3 * v : 3 * v + 3].T * 0.1)
    assert (model.faces[:, :3] == stored["tri"]).all()
    assert close(model.uv, stored["uv_coords"][:, :2])
    assert (model.uv_faces == model.faces).all()
    assert (model.landmarks68 == stored["ldm68"]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": None}, "u holds object"),
        ({"u": np.zeros(125)}, "u has 125 numbers"),
        ({"id": np.zeros((125, 80))}, r"id has shape \(125, 80\)"),
        ({"exp": np.full((126, 64), np.nan)}, "exp holds numbers that are not finite"),
        ({"tri": np.full((4, 3), 42)}, r"tri must lie in 0 \.\.\. 41"),
        ({"ldm68": np.zeros(67, int)}, r"ldm68 has shape \(67,\)"),
        ({"uv_coords": np.zeros((42, 1))}, "uv_coords has no two columns"),
    ],
)
def test_face_models_of_3ddfa_v3_that_do_not_fit(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = {**face_model_v3(np.random.default_rng(2)), **change}
    np.save(tmp_path / "face_model.npy", np.array(content, dtype=object), allow_pickle=True)
    with pytest.raises(ModelFileError, match=message):
        read_3ddfa_v3(tmp_path / "face_model.npy")
    del content["exp"]
    np.save(tmp_path / "face_model.npy", np.array(content, dtype=object), allow_pickle=True)
    with pytest.raises(ModelFileError, match="lacks exp"):
        read_3ddfa_v3(tmp_path / "face_model.npy")


@pytest.mark.parametrize("length", [0, 5, 100, 3000])
def test_truncated_face_model_of_3ddfa_v3(length: int, tmp_path: Path) -> None:
    np.save(tmp_path / "face_model.npy", np.array(face_model_v3(np.random.default_rng(3)), dtype=object))
    content = (tmp_path / "face_model.npy").read_bytes()
    (tmp_path / "face_model.npy").write_bytes(content[:length])
    with pytest.raises(ModelFileError, match="truncated"):
        read_3ddfa_v3(tmp_path / "face_model.npy")
    np.save(tmp_path / "face_model.npy", np.zeros(3))
    with pytest.raises(ModelFileError, match="holds no dict"):
        read_3ddfa_v3(tmp_path / "face_model.npy")


@pytest.mark.parametrize("version", ["2017", "2019"])
@pytest.mark.parametrize("landmarks", ["list", "bytes", "mapping", "none"])
def test_bfm_2017_and_2019(version: str, landmarks: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    stored: dict[str, Any] = dict(bfm_h5(rng))
    corners = rng.normal(size=(4, 3))
    text = eye_corners_json(corners)
    if landmarks == "mapping":
        names = [f"{side}.eye.corner_{place}" for side in ("right", "left") for place in ("outer", "inner")]
        text = repr(dict(zip(names, corners.tolist(), strict=True))).replace("'", '"').encode()
    if landmarks != "none":
        stored["metadata/landmarks/json"] = np.frombuffer(text, np.int8) if landmarks == "bytes" else text.decode()
    path = tmp_path / f"model{version}-1_face12_nomouth.h5"
    write_h5(path, stored)
    model = read_bfm_h5(path)
    mean = (stored["shape/model/mean"].astype(float) + stored["expression/model/mean"]).reshape(-1, 3) * 1e-3
    if landmarks == "none":
        origin = mean[mean[:, 2].argmax()] + EYES_FROM_NOSE
    else:
        origin = corners.mean(axis=0) * 1e-3 + [0, 0, -0.012]
    assert close(model.mean, mean - origin)
    for field, name, count in (("identity", "shape", 7), ("expression", "expression", 5)):
        found = getattr(model, field)
        assert found.shape == (count, 42, 3)
        for k in range(count):
            direction = stored[f"{name}/model/pcaBasis"][:, k].astype(float).reshape(42, 3)
            assert close(found[k], direction * np.sqrt(float(stored[f"{name}/model/pcaVariance"][k])) * 1e-3)
    assert (model.faces[:, :3] == head()[1]).all()
    assert (model.name, model.version, model.licence) == (f"bfm{version}", version, LICENCE)
    assert model.expression_names == ("expression_0", "expression_1", "expression_2", "expression_3", "expression_4")


def test_the_other_years_h5_is_refused(tmp_path: Path) -> None:
    write_h5(tmp_path / "model2017-1_bfm_nomouth.h5", bfm_h5(np.random.default_rng(12)))
    with pytest.raises(ModelFileError, match="named as the Basel Face Model 2017; add it as bfm2017"):
        read_bfm_h5(tmp_path / "model2017-1_bfm_nomouth.h5", "bfm2019")
    assert read_bfm_h5(tmp_path / "model2017-1_bfm_nomouth.h5", "mine").name == "mine"
    (tmp_path / "model2017-1_bfm_nomouth.h5").rename(tmp_path / "copy.h5")
    model = read_bfm_h5(tmp_path / "copy.h5", "bfm2019")
    assert (model.name, model.version) == ("bfm2019", "2019")


def test_without_h5py_the_message_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"model2017\.h5 needs h5py; type: pip install .*\[basel\]"):
        read_bfm_h5(tmp_path / "model2017.h5")


def test_truncated_and_foreign_h5(tmp_path: Path) -> None:
    path = tmp_path / "model2019.h5"
    write_h5(path, bfm_h5(np.random.default_rng(8)))
    whole = path.read_bytes()
    for length in (0, 8, 500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match=r"model2019\.h5") as caught:
            read_bfm_h5(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelFileError, match="no such file"):
        read_bfm_h5(tmp_path / "missing.h5")
    write_h5(path, {"something": np.zeros(3)})
    with pytest.raises(ModelFileError, match="lacks shape/model/mean; expected the Basel Face Model"):
        read_bfm_h5(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape/model/mean": np.zeros(125)}, "has 125 numbers"),
        ({"shape/model/mean": np.full(126, np.nan)}, "shape/model/mean holds numbers that are not finite"),
        ({"shape/model/mean": np.zeros((126, 1))}, "shape/model/mean is float64"),
        ({"shape/model/pcaBasis": np.zeros((125, 7))}, r"pcaBasis has shape \(125, 7\)"),
        ({"shape/model/pcaBasis": np.zeros((126, 7), "S3")}, "pcaBasis is "),
        ({"shape/model/pcaVariance": -np.ones(7)}, "negative"),
        ({"expression/model/mean": np.zeros(123)}, "expected 126"),
        ({"shape/representer/cells": np.full((3, 9), 42)}, r"cells must lie in 0 \.\.\. 41"),
        ({"shape/representer/cells": np.zeros((4, 9), int)}, "expected any x 3"),
        ({"metadata/landmarks/json": "no json"}, "Expecting value"),
        ({"metadata/landmarks/json": "[1]"}, "expected the Basel"),
        ({"metadata/landmarks/json": "x" * 2_000_000}, "expected the Basel"),
    ],
)
def test_h5_files_that_do_not_fit(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_h5(tmp_path / "model2017.h5", {**bfm_h5(np.random.default_rng(9)), **change})
    with pytest.raises(ModelFileError, match=message) as caught:
        read_bfm_h5(tmp_path / "model2017.h5")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["shape/model/mean", "shape/model/pcaBasis", "expression/model/pcaVariance"])
def test_absurd_sizes_in_h5_are_refused_before_anything_is_allocated(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model2017.h5"
    content = bfm_h5(np.random.default_rng(10))
    shape = content[name].shape
    for size in (3 * 10**11, 3 * 42 * 10**4):
        write_h5(path, {key: value for key, value in content.items() if key != name})
        with h5py.File(path, "a") as file:
            # nothing of it is stored
            file.create_dataset(name, (size, *shape[1:]), "f8", chunks=(900, *shape[1:]))
        with pytest.raises(ModelFileError, match=name):
            read_bfm_h5(path)


def test_compressed_zeros_in_h5_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model2017.h5"
    write_h5(path, {})
    with h5py.File(path, "a") as file:
        file.create_dataset("shape/model/mean", data=np.zeros(600_000), compression="gzip", compression_opts=9)
    assert path.stat().st_size < 50_000
    with pytest.raises(ModelFileError, match="more than a face model has or the file stores"):
        read_bfm_h5(path)


def test_h5_does_not_read_other_files(tmp_path: Path) -> None:
    content = bfm_h5(np.random.default_rng(11))
    other, path = tmp_path / "other.h5", tmp_path / "model2017.h5"
    write_h5(other, content)
    mean = content.pop("shape/model/mean")

    def refused(message: str) -> None:
        with pytest.raises(ModelFileError, match=f"shape/model/mean {message}"):
            read_bfm_h5(path)

    for link in (h5py.ExternalLink("other.h5", "shape/model/mean"), h5py.SoftLink("/shape/model/pcaVariance")):
        write_h5(path, content)
        with h5py.File(path, "a") as file:
            file["shape/model/mean"] = link
        refused("is a link to somewhere else")
    layout = h5py.VirtualLayout(mean.shape, mean.dtype)
    layout[:] = h5py.VirtualSource(other, "shape/model/mean", mean.shape)
    write_h5(path, content)
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("shape/model/mean", layout)
    refused("lies in another file")
    (tmp_path / "secret").write_bytes(mean.tobytes())
    write_h5(path, content)
    with h5py.File(path, "a") as file:
        external = [(str(tmp_path / "secret"), 0, mean.nbytes)]
        file.create_dataset("shape/model/mean", mean.shape, mean.dtype, external=external)
    refused("lies in another file")
