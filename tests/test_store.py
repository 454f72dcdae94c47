"""The store of imported face models: whole or not there, whatever happens meanwhile and whatever lies in its folder."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fit3d.errors import ModelFileError, UsageError
from fit3d.morphable import store
from fit3d.morphable.raw import RawModel

V = 9


def raw_model(seed: int = 0, **changes: Any) -> RawModel:
    """A model of nine vertices, a quad and two triangles, every number of it drawn."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    fields: dict[str, Any] = {
        "name": "small",
        "version": f"{seed}",
        "licence": "Results may be sold: “yes”.",
        "source": "drawn",
        "mean": draw(V, 3),
        "identity": draw(4, V, 3),
        "expression": draw(2, V, 3),
        "expression_names": ("jawOpen", "smile, both sides"),
        "expression_bounds": np.array([[0, 1], [-1, 2]], np.float32),
        "faces": np.array([[0, 1, 2, 3], [4, 5, 6, -1], [6, 7, 8, -1]], np.int32),
        "uv": draw(10, 2),
        "uv_faces": np.array([[9, 1, 2, 3], [4, 5, 6, -1], [6, 7, 8, -1]], np.int32),
        "objects": ("head", "teeth"),
        "face_objects": np.array([0, 1, 1], np.uint8),
        "landmarks68": rng.integers(0, V, 68),
        "sha256": f"{seed:064x}",
    }
    return RawModel(**(fields | changes))


def assert_same(one: RawModel, other: RawModel) -> None:
    for field in dataclasses.fields(RawModel):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        else:
            assert a == b, field.name


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIT3D_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def entries(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "models").iterdir())


# --- there and back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"landmarks68": None}, {"uv": np.zeros((0, 2), np.float32), "uv_faces": None}])
def test_comes_back_as_it_was(home: Path, changes: dict[str, Any]) -> None:
    if "uv_faces" in changes:
        changes = changes | {"uv_faces": np.zeros((3, 4), np.int32)}
    raw = raw_model(**changes)
    stored = store.store_model("small", raw)
    assert_same(store.read_stored("small"), raw)
    assert stored == store.stored_model("small")
    assert (stored.vertices, stored.faces, stored.identity, stored.sha256) == (V, 3, 4, raw.sha256)
    assert entries(home) == ["small"]
    assert [path.name for path in (home / "models" / "small").iterdir()] == ["model.safetensors"]


def test_takes_the_name_that_it_is_stored_under() -> None:
    store.store_model("other", raw_model())
    assert store.read_stored("other").name == "other"


def test_views_are_stored_in_their_own_order() -> None:
    turned = np.moveaxis(np.random.default_rng(3).normal(size=(V, 3, 4)).astype(np.float32), 2, 0)
    store.store_model("small", raw_model(identity=turned))
    np.testing.assert_array_equal(store.read_stored("small").identity, turned)


def test_a_model_without_checksum_gets_one_of_its_numbers() -> None:
    first, same = (store.store_model(name, raw_model(sha256="")) for name in ("one", "two"))
    third = store.store_model("three", raw_model(sha256="", mean=raw_model().mean + np.float32(1e-6)))
    assert first.sha256 == same.sha256 != third.sha256
    assert len(first.sha256) == 64


def test_annotation_is_copied(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"schema": 1}', encoding="utf-8")
    stored = store.store_model("small", raw_model(), own)
    assert stored.annotation is not None
    assert stored.annotation.read_bytes() == own.read_bytes()
    assert stored.annotation.parent == stored.path.parent


def test_lies_in_the_users_data_folder_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIT3D_HOME")
    monkeypatch.setattr("platformdirs.user_data_dir", lambda name, appauthor: str(tmp_path / "data" / name))
    assert store.store_model("small", raw_model()).path == tmp_path / "data" / "fit3d" / "models" / "small" / (
        "model.safetensors"
    )


def test_removed_is_gone(home: Path) -> None:
    store.store_model("small", raw_model())
    store.remove_stored("small")
    assert entries(home) == []
    with pytest.raises(UsageError, match="small"):
        store.remove_stored("small")


# --- what must not happen ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../small", "a/b", "a\\b", "/etc", "C:x", "-x", "Small", "a b", "a\n", "a\0", "x" * 65, "é"]
)
def test_a_name_cannot_lead_out_of_the_folder(home: Path, name: str) -> None:
    for function in (store.stored_model, store.read_stored, store.remove_stored):
        with pytest.raises(UsageError, match="cannot be the name"):
            function(name)
    with pytest.raises(UsageError, match="cannot be the name"):
        store.store_model(name, raw_model())
    assert not store.is_stored(name)
    assert not home.exists()


def test_what_is_half_made_is_not_there(home: Path) -> None:
    for name in ("empty", ".fit3d-0123.part", "annotated", "Upper"):
        (home / "models" / name).mkdir(parents=True)
    (home / "models" / "annotated" / "annotation.json").write_text("{}")
    for name in (".fit3d-0123.part", "Upper"):
        (home / "models" / name / "model.safetensors").write_bytes(b"half")
    (home / "models" / "file").write_text("no folder")
    assert store.stored_names() == []
    for name in ("empty", "annotated"):
        with pytest.raises(UsageError, match="no face model"):
            store.read_stored(name)
        store.store_model(name, raw_model())  # and it does not stand in the way
    assert store.stored_names() == ["annotated", "empty"]
    assert store.stored_model("annotated").annotation is None


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("there", [False, True])
def test_an_interrupted_write_leaves_what_was(
    home: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, there: bool
) -> None:
    if there:
        store.store_model("small", raw_model(0))

    def fail(arrays: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with pytest.raises((UsageError, KeyboardInterrupt)) as caught:
        store.store_model("small", raw_model(1), replace=True)
    if isinstance(error, OSError):
        assert "No space left" in str(caught.value)
    assert entries(home) == (["small"] if there else [])
    if there:
        assert_same(store.read_stored("small"), raw_model(0))


def test_a_model_is_replaced_only_on_demand(home: Path) -> None:
    store.store_model("small", raw_model(0))
    store.store_model("small", raw_model(0))  # the same once more
    with pytest.raises(UsageError, match="--replace"):
        store.store_model("small", raw_model(1))
    assert_same(store.read_stored("small"), raw_model(0))
    mapped = store.read_stored("small")
    store.store_model("small", raw_model(1), replace=True)
    assert_same(store.read_stored("small"), raw_model(1))
    assert_same(mapped, raw_model(0))  # who has it open keeps what it had
    assert entries(home) == ["small"]


def test_an_unwritable_folder_is_said(home: Path) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file")
    with pytest.raises(UsageError, match="FIT3D_HOME"):
        store.store_model("small", raw_model())
    assert store.stored_names() == []


def _store_many(home: str, first: int, start: Any) -> None:
    os.environ["FIT3D_HOME"] = home
    start.wait()
    for seed in range(first, first + 20):
        store.store_model("small", raw_model(seed), replace=True)
        assert store.read_stored("small").mean.shape == (V, 3)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="starts processes by fork")
def test_several_processes_add_at_once(home: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Event()
    processes = [context.Process(target=_store_many, args=(str(home), first, start)) for first in (0, 100, 200)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert entries(home) == ["small"]
    last = store.read_stored("small")
    assert int(last.version) % 100 == 19
    assert_same(last, raw_model(int(last.version)))


# --- damaged files ----------------------------------------------------------------------------------------------


def damaged(kind: str, path: Path) -> None:
    """Spoil the model file at `path`."""
    content, arrays = path.read_bytes(), dict(load_file(path))
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header["__metadata__"]
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "truncated":
        path.write_bytes(content[:-40])
    elif kind == "absurd size":
        path.write_bytes((1 << 60).to_bytes(8, "little") + content[8:])
    elif kind == "absurd shape":
        header["identity"]["shape"] = [1 << 40, V, 3]
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    elif kind == "no metadata":
        save_file(arrays, path)
    elif kind == "other schema":
        save_file(arrays, path, metadata | {"schema": str(store.LAYOUT + 1)})
    elif kind == "names no list":
        save_file(arrays, path, metadata | {"objects": '{"head": 1}'})
    elif kind == "an array is missing":
        del arrays["faces"]
        save_file(arrays, path, metadata)
    elif kind == "vertex out of range":
        arrays["faces"] = arrays["faces"] + 100
        save_file(arrays, path, metadata)
    else:
        assert kind == "not a number"
        arrays["identity"] = np.full_like(arrays["identity"], np.nan)
        save_file(arrays, path, metadata)


KINDS = (
    *("empty", "noise", "truncated", "absurd size", "absurd shape", "no metadata", "other schema", "names no list"),
    *("an array is missing", "vertex out of range", "not a number"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_said_in_one_line(kind: str) -> None:
    path = store.store_model("small", raw_model()).path
    copy = path.with_name("copy")  # the file may be mapped: never write into it
    shutil.copyfile(path, copy)
    damaged(kind, copy)
    os.replace(copy, path)
    with pytest.raises(ModelFileError) as caught:
        store.read_stored("small")
    message = str(caught.value)
    assert str(path) in message
    assert "fit3d models remove small" in message
    assert "\n" not in message
    store.remove_stored("small")


def of_older_layout(path: Path) -> None:
    """Makes a stored model one that the first fit3d added, whose pieces had other names."""
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    arrays = load_file(path)
    path.unlink()  # the file may be mapped: never write into it
    save_file(arrays, path, metadata | {"schema": "1", "objects": '["head", "lashes"]'})


def test_what_an_older_fit3d_added_is_to_be_added_again(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"schema": 1}', encoding="utf-8")
    of_older_layout(store.store_model("small", raw_model(), own).path)
    for function in (store.stored_model, store.read_stored):
        with pytest.raises(ModelFileError, match="was added by an older fit3d: run `fit3d models add small ") as caught:
            function("small")
        assert "\n" not in str(caught.value) and "damaged" not in str(caught.value)
    assert store.is_outdated("small") and store.stored_model("small", older=True).objects == ("head", "lashes")

    with pytest.raises(UsageError, match="already"):
        store.store_model("small", raw_model(1))
    again = store.store_model("small", raw_model(), own)  # without replace
    assert again.objects == ("head", "teeth") and not store.is_outdated("small")
    assert_same(store.read_stored("small"), raw_model())


def test_add_again_keeps_what_the_user_has_annotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fit3d.commands import models
    from fit3d.commands.console import Console

    monkeypatch.setattr("fit3d.morphable.raw.with_annotation", lambda raw, path: None)
    monkeypatch.setattr(
        models, "_stored_facts", lambda stored: dict.fromkeys(("vertices", "identity", "expressions"), 1)
    )
    own = tmp_path / "own.json"
    own.write_text('{"schema": 1}', encoding="utf-8")
    of_older_layout(store.store_model("small", raw_model(), own).path)
    models._store("small", raw_model(), None, False, Console(quiet=True))
    kept = store.stored_model("small").annotation
    assert kept is not None and kept.read_bytes() == own.read_bytes()


# --- RawModel's own checks --------------------------------------------------------------------------------------

INFINITE = np.full((V, 3), np.inf, np.float32)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mean": np.zeros((V, 2), np.float32)}, "mean has shape"),
        ({"mean": np.zeros((V - 1, 3), np.float32)}, "identity has shape"),
        ({"mean": np.zeros((V, 3))}, "mean holds float64"),
        ({"mean": INFINITE}, "mean holds numbers that are not finite"),
        ({"expression": INFINITE[None].repeat(2, 0)}, "expression holds numbers"),
        ({"expression_names": ("jawOpen",)}, "expression has shape"),
        ({"expression_names": ("jawOpen", "jawOpen")}, "same name"),
        ({"expression_bounds": np.array([[0, 1], [1, 0]], np.float32)}, "lowest coefficient"),
        ({"faces": np.array([[0, 1, 2, 3], [4, 5, 6, -1], [6, 7, 9, -1]], np.int32)}, "vertices outside 0 ... 8"),
        ({"faces": np.array([[0, 1, 2, 3], [4, 5, -1, 6], [6, 7, 8, -1]], np.int32)}, "vertices outside"),
        ({"faces": np.array([[0, 1, 2, 3], [4, 5, 6, -2], [6, 7, 8, -1]], np.int32)}, "vertices outside"),
        ({"faces": np.zeros((0, 4), np.int32)}, "shape"),
        ({"uv": np.zeros((9, 2), np.float32)}, "UVs outside 0 ... 8"),
        ({"uv": np.zeros((0, 2), np.float32)}, "it has none"),
        ({"face_objects": np.array([0, 2, 1], np.uint8)}, "3 objects"),
        ({"landmarks68": np.full(68, V)}, "landmarks name vertices"),
        ({"landmarks68": np.zeros(67, np.int64)}, "landmarks68 has shape"),
    ],
)
def test_a_model_that_does_not_fit_together_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelFileError, match="small") as caught:
        raw_model(**changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
