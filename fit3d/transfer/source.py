"""Reads a result back: the head that a fit or an earlier transfer wrote."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fit3d.checks import LARGEST_TEXTURE, SMALLEST_TEXTURE, is_finite
from fit3d.errors import UsageError
from fit3d.export.result_json import SCHEMA_VERSION
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.obj_file import read_obj_positions
from fit3d.morphable.registry import load_model
from fit3d.transfer.person import Head

LARGEST_JSON = 32 * 1024 * 1024
"""Bytes of a result's JSON that are read."""


@dataclass(frozen=True)
class Result:
    """A head with its texture, as it lies in a folder."""

    head: Head
    texture: np.ndarray
    """(S, S, 3) uint8 sRGB."""
    path: Path
    """Of its JSON."""
    stem: str
    sha256: str
    """Of the JSON's bytes."""
    licences: dict[str, str]
    """By name of the model, of all models that the head has been through."""
    warnings: tuple[str, ...] = ()


def read_result(path: str | Path) -> Result:
    """The head in a result folder `OUT/<stem>/`, or of its `<stem>.json`.

    That of a fit is made anew from its parameters, that of a transfer, which has left its model, is read from its
    meshes.

    Raises:
        UsageError: there is no result, it is of another version, incomplete or damaged, or its model is missing.
        ModelFileError: a mesh is damaged, or not of the model's topology.
    """
    path = _json_of(Path(path))
    content, digest = _read_json(path)
    name = _get(content, path, "model", "name", kind=str)
    model = load_model(name)
    if not len(model.uv):
        raise UsageError(f"{path}: the face model '{name}' has no UVs, so there is no texture to transfer")
    version = _get(content, path, "model", "version", kind=str)
    if version != model.version:
        raise UsageError(
            f"{path}: made with version '{version}' of the face model '{name}', installed is '{model.version}'; "
            "fit the photo again"
        )
    expression = _expression(content, path, model)
    transferred = content.get("kind") == "transfer"
    if transferred:
        neutral, posed = (
            read_obj_positions(_beside(path, end), len(model.mean)).astype(np.float64)
            for end in ("_neutral.obj", ".obj")
        )
    else:
        identity = _get(content, path, "parameters", "identity", kind=list)
        if len(identity) != len(model.identity) or not all(map(is_finite, identity)):
            raise UsageError(
                f"{path}: parameters.identity has {len(identity)} values, expected {len(model.identity)} finite numbers"
            )
        coefficients = torch.tensor(identity, dtype=torch.float64)
        strengths = torch.tensor([expression.get(each, 0.0) for each in model.expression_names], dtype=torch.float64)
        neutral = model.vertices(coefficients, torch.zeros_like(strengths)).numpy()
        posed = model.vertices(coefficients, strengths).numpy()
    licences = {name: model.licence}
    if transferred:
        earlier = _get(content, path, "licences", kind=dict)
        licences = {**{str(key): str(value) for key, value in earlier.items()}, **licences}
    doubts = ("its fit is marked as poor",) if content.get("status") == "poor" else ()
    return Result(
        head=Head(model, neutral, posed, expression),
        texture=_texture(_beside(path, "_texture.png")),
        path=path,
        stem=path.stem,
        sha256=digest,
        licences=licences,
        warnings=tuple(f"{path.stem}: {doubt}" for doubt in doubts),
    )


def _json_of(path: Path) -> Path:
    if path.is_dir():
        name = path.resolve().name
        if (path / f"{name}.json").is_file():
            return path / f"{name}.json"
        found = sorted(each for each in path.glob("*.json") if not each.name.endswith("_landmarks.json"))
        if len(found) == 1:
            return found[0]
        raise UsageError(
            f"{path}: no result here (expected {name}.json, as `fit3d fit` writes it); give the folder of one photo"
        )
    if path.suffix.lower() == ".json" and path.is_file():
        return path
    raise UsageError(f"{path}: no such result; give the folder that `fit3d fit` wrote for one photo, or its JSON")


def _read_json(path: Path) -> tuple[dict[str, Any], str]:
    try:
        with open(path, "rb") as file:
            raw = file.read(LARGEST_JSON + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot read it ({error.strerror})") from error
    if len(raw) > LARGEST_JSON:
        raise UsageError(f"{path}: larger than {LARGEST_JSON // 1024**2} MB; expected a result of `fit3d fit`")
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON ({error}); expected a result of `fit3d fit`") from error
    if not isinstance(content, dict) or "schema" not in content or "parameters" not in content:
        raise UsageError(f"{path}: not a result of `fit3d fit`")
    if content["schema"] != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: written in layout {content['schema']!r}, this fit3d reads {SCHEMA_VERSION}; fit the photo again"
        )
    return content, sha256(raw).hexdigest()


def _get(content: dict[str, Any], path: Path, *keys: str, kind: type) -> Any:
    """The value of type `kind` at `keys`. Raises UsageError."""
    value: Any = content
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, kind):
        raise UsageError(f"{path}: '{'.'.join(keys)}' is missing or damaged; fit the photo again")
    return value


def _expression(content: dict[str, Any], path: Path, model: MorphableModel) -> dict[str, float]:
    """Coefficients by name, checked. Raises UsageError."""
    expression = _get(content, path, "parameters", "expression", kind=dict)
    for name, value in expression.items():
        if name not in model.expression_names:
            raise UsageError(f"{path}: the face model '{model.name}' has no expression called '{name}'")
        if not is_finite(value) or not math.isfinite(float(value)):
            raise UsageError(f"{path}: expression {name} is {value!r}, expected a finite number")
    return {name: float(value) for name, value in expression.items()}


def _beside(path: Path, ending: str) -> Path:
    """The result's file of that ending. Raises UsageError where it is missing."""
    found = path.with_name(path.stem + ending)
    if not found.is_file():
        raise UsageError(f"{found}: missing; a result's files belong together, fit the photo again")
    return found


def _texture(path: Path) -> np.ndarray:
    """(S, S, 3) uint8. Raises UsageError."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            width, height = image.size
            if width != height or not SMALLEST_TEXTURE <= width <= LARGEST_TEXTURE:
                raise UsageError(
                    f"{path}: {width} x {height} px, expected a square texture of {SMALLEST_TEXTURE} to "
                    f"{LARGEST_TEXTURE} px"
                )
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path}: not a usable PNG ({error}); fit the photo again") from error
