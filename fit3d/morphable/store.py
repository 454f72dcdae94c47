"""Keeps imported face models in the user's data folder, ready to be mapped into memory.

A model NAME is a folder `models/NAME` in `fit3d.resources.home()`:

    model.safetensors   the arrays of a `RawModel`; its texts are in the header's metadata
    annotation.json     parts and landmarks (see `fit3d.morphable.annotation`); a model that fit3d knows may do with the
                        annotation that comes with fit3d
    arkit.json          ARKit's shapes as combinations of the model's expressions (see `fit3d.morphable.arkit`), where
                        somebody has made them

What is new is written under another name and renamed at the end, so that a model is whole or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fit3d.errors import ModelFileError, UsageError
from fit3d.morphable.articulation import ARRAYS as JOINT_ARRAYS
from fit3d.morphable.articulation import Articulation
from fit3d.morphable.raw import RawModel
from fit3d.resources import HOME_VARIABLE, home

LAYOUT = 2
"""Number of the header's entries, of the arrays and of what readers make of a model's files, such as the names of its
pieces: raised when any of these changes, so that a model added before is not taken for one of now."""
MODEL_FILE = "model.safetensors"
ANNOTATION_FILE = "annotation.json"
ARKIT_FILE = "arkit.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_TEXTS = ("name", "version", "licence", "source", "sha256")
_LISTS = ("expression_names", "objects")
_ARRAYS = ("mean", "identity", "expression", "expression_bounds", "faces", "uv", "uv_faces", "face_objects")
_JOINTS = "articulation"
"""Where a model has joints, its metadata says under this name what they are called, and so begin their arrays' names.
"""


@dataclass(frozen=True)
class StoredModel:
    """What the header of a stored model says; no geometry is read for it."""

    name: str
    version: str
    licence: str
    source: str
    sha256: str
    """Of what the model was made from."""
    vertices: int
    faces: int
    identity: int
    expression_names: tuple[str, ...]
    objects: tuple[str, ...]
    joints: tuple[str, ...]
    """Names; none where the geometry is linear."""
    path: Path
    annotation: Path | None
    """Annotation of the user's own, where there is one."""
    arkit: Path | None
    """ARKit's shapes as combinations, where there are some."""
    outdated: bool = False
    """Whether an older fit3d added it."""


def models_folder() -> Path:
    """The folder of the stored models; it need not exist."""
    return home() / "models"


def downloads_folder() -> Path:
    """Where downloads wait until they are whole; it need not exist."""
    return home() / "downloads"


def check_name(name: str) -> None:
    """Raise UsageError unless `name` can be the name of a stored model, and so of a folder."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot be the name of a face model; use up to 64 lower-case letters, digits, '-' and '_'"
        )


def stored_names() -> list[str]:
    """The models that are there, whole, in alphabetical order."""
    try:
        entries = sorted(entry.name for entry in models_folder().iterdir())
    except OSError:
        return []
    return [name for name in entries if is_stored(name)]


def is_stored(name: str) -> bool:
    """Whether a model of that name is there. A folder without its model file is none."""
    return _NAME.fullmatch(name) is not None and (models_folder() / name / MODEL_FILE).is_file()


def stored_model(name: str, *, older: bool = False) -> StoredModel:
    """What is known of the stored model `name`; with `older`, also of one that is to be added again.

    Raises:
        UsageError: there is none.
        ModelFileError: its file is damaged, or was added by an older fit3d.
    """
    folder = _folder_of(name)
    with _opened(folder, older) as file:
        texts = _texts(file.metadata())
        joints = _joint_texts(file.metadata())
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in ("mean", "identity", "faces")}
        outdated = _layout(file.metadata()) < LAYOUT
    own, arkit = folder / ANNOTATION_FILE, folder / ARKIT_FILE
    return StoredModel(
        **{key: texts[key] for key in (*_TEXTS, *_LISTS)},
        vertices=shapes["mean"][0],
        faces=shapes["faces"][0],
        identity=shapes["identity"][0],
        joints=() if joints is None else joints["joints"],
        path=folder / MODEL_FILE,
        annotation=own if own.is_file() else None,
        arkit=arkit if arkit.is_file() else None,
        outdated=outdated,
    )


def is_outdated(name: str) -> bool:
    """Whether a model of that name is there, and an older fit3d added it. Raises ModelFileError where it is damaged."""
    return is_stored(name) and stored_model(name, older=True).outdated


def read_stored(name: str) -> RawModel:
    """The stored model `name`; its arrays are mapped from the file and read from disk where they are used.

    Raises:
        UsageError: there is none.
        ModelFileError: its file is damaged, or was added by an older fit3d.
    """
    with _opened(_folder_of(name)) as file:
        texts = _texts(file.metadata())
        # torch's tensors are views of the mapped file; those that safetensors makes for numpy are copies
        arrays: dict[str, Any] = {key: file.get_tensor(key).numpy() for key in _ARRAYS}
        if "landmarks68" in file.keys():  # noqa: SIM118, it is no dict
            arrays["landmarks68"] = file.get_tensor("landmarks68").numpy()
        joints = _joint_texts(file.metadata())
        if joints is not None:
            moved = {key: file.get_tensor(f"{_JOINTS}.{key}") for key in JOINT_ARRAYS}
            arrays["articulation"] = Articulation(**joints, **moved)
        return RawModel(**{key: texts[key] for key in (*_TEXTS, *_LISTS)}, **arrays)


def store_model(name: str, raw: RawModel, annotation: Path | None = None, *, replace: bool = False) -> StoredModel:
    """Keep `raw` as `name`, with a copy of the file `annotation`, an annotation that the caller has tried.

    Args:
        replace: take the place of a stored model of that name; without it, one of the same files stays as it is, but
            for one that an older fit3d added.

    Raises:
        UsageError: another model has the name, or the folder cannot be written.
    """
    from safetensors.numpy import save_file

    check_name(name)
    target = models_folder() / name
    temporary = models_folder() / f".fit3d-{secrets.token_hex(8)}.part"
    names = _ARRAYS if raw.landmarks68 is None else (*_ARRAYS, "landmarks68")
    # safetensors writes the memory of a view as it lies, in the wrong order
    arrays = {key: np.ascontiguousarray(getattr(raw, key)) for key in names}
    metadata = {"format": "fit3d face model", "schema": str(LAYOUT)}
    joints = raw.articulation
    if joints is not None:
        arrays |= {f"{_JOINTS}.{key}": np.ascontiguousarray(getattr(joints, key).numpy()) for key in JOINT_ARRAYS}
        metadata[_JOINTS] = json.dumps({"joints": joints.joints, "parents": joints.parents, "held": joints.held})
    sha256 = raw.sha256 or _sha256(arrays)
    metadata |= {key: getattr(raw, key) for key in _TEXTS} | {"name": name, "sha256": sha256}
    metadata |= {key: json.dumps(list(getattr(raw, key))) for key in _LISTS}
    with _written(target):
        temporary.mkdir(parents=True)
        try:
            save_file(arrays, temporary / MODEL_FILE, metadata)
            if annotation is not None:
                shutil.copyfile(annotation, temporary / ANNOTATION_FILE)
            _move_in(temporary, target, name, sha256, replace)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return stored_model(name)


def remove_stored(name: str) -> None:
    """Delete the stored model `name`. Raises UsageError where there is none or it cannot be deleted."""
    folder = _folder_of(name)
    going = folder.with_name(f".fit3d-{secrets.token_hex(8)}.part")
    with _written(folder):
        os.rename(folder, going)  # at once and whole; deleting takes longer
    shutil.rmtree(going, ignore_errors=True)


def _move_in(temporary: Path, target: Path, name: str, sha256: str, replace: bool) -> None:
    """Make `temporary` the folder `target`, in competition with other processes that may do the same."""
    try:
        os.rename(temporary, target)
        return
    except OSError:
        if not target.is_dir():
            raise
    if is_stored(name) and not replace:
        there = stored_model(name, older=True)
        if there.sha256 != sha256:
            raise UsageError(f"there is a face model '{name}' already; remove it first or use --replace")
        if not there.outdated:
            return
    # file by file, so that there is a whole model at every moment; who has the old one mapped keeps it
    (target / ARKIT_FILE).unlink(missing_ok=True)  # of another model, perhaps
    os.replace(temporary / MODEL_FILE, target / MODEL_FILE)
    if (temporary / ANNOTATION_FILE).is_file():
        os.replace(temporary / ANNOTATION_FILE, target / ANNOTATION_FILE)
    else:
        (target / ANNOTATION_FILE).unlink(missing_ok=True)


def _sha256(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key, array in arrays.items():
        digest.update(f"{key} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _folder_of(name: str) -> Path:
    check_name(name)
    if not is_stored(name):
        raise UsageError(f"no face model '{name}' is stored in {models_folder()}; see `fit3d models list`")
    return models_folder() / name


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Says which folder cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror or error}; set {HOME_VARIABLE} to a folder that you may write to"
        ) from error


@contextmanager
def _opened(folder: Path, older: bool = False) -> Iterator[Any]:
    """The model file of `folder`; whatever is wrong with it becomes a ModelFileError, so does, unless it may be
    `older`, that an older fit3d wrote it."""
    from safetensors import SafetensorError, safe_open

    path = folder / MODEL_FILE
    try:
        with safe_open(path, framework="pt") as file:
            if _layout(file.metadata()) < LAYOUT and not older:
                raise _OutdatedError
            yield file
    except _OutdatedError:
        raise ModelFileError(
            f"the face model '{folder.name}' was added by an older fit3d: run `fit3d models add {folder.name} ...` "
            f"again, or `fit3d models pull {folder.name}` where it was downloaded"
        ) from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, ModelFileError) as error:
        raise ModelFileError(
            f"{path}: not a usable face model ({error}); run: fit3d models remove {folder.name}, and add it again"
        ) from error


class _OutdatedError(Exception):
    """An older fit3d wrote the file."""


def _layout(metadata: dict[str, str] | None) -> int:
    """Which `LAYOUT` a header is of. Raises ValueError where it is none that there has been."""
    found = None if metadata is None else metadata.get("schema")
    if found is None or found not in {str(each) for each in range(1, LAYOUT + 1)}:
        raise ValueError(f"layout {found}, expected {LAYOUT}")
    return int(found)


def _texts(metadata: dict[str, str]) -> dict[str, Any]:
    """The texts in a header. Raises KeyError, ValueError where they are not fit3d's."""
    texts: dict[str, Any] = {key: metadata[key] for key in _TEXTS}
    for key in _LISTS:
        values = json.loads(metadata[key])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ValueError(f"'{key}' is no list of names")
        texts[key] = tuple(values)
    return texts


def _joint_texts(metadata: dict[str, str]) -> dict[str, Any] | None:
    """What a header says of a model's joints; None where it has none. Raises ValueError where it is damaged."""
    if _JOINTS not in metadata:
        return None
    content = json.loads(metadata[_JOINTS])
    kinds = {"joints": str, "parents": int, "held": str}
    if not isinstance(content, dict) or set(content) != set(kinds):
        raise ValueError(f"'{_JOINTS}' does not hold {', '.join(kinds)}")
    for key, kind in kinds.items():
        if not isinstance(content[key], list) or not all(type(value) is kind for value in content[key]):
            raise ValueError(f"'{_JOINTS}' has no list of {kind.__name__} as '{key}'")
    return {key: tuple(values) for key, values in content.items()}
