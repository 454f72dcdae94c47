"""Reads `<stem>.json` back: parameters of a fit or a transfer, camera and photo of a fit; checked, whoever wrote it."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

import torch
from torch import Tensor

from fit3d.camera import Camera
from fit3d.checks import is_finite, is_whole, read_bounded
from fit3d.errors import UsageError
from fit3d.export.result_json import SCHEMA_VERSION
from fit3d.morphable.model import MorphableModel

LARGEST_JSON = 32 * 1024 * 1024
"""Bytes of a result's JSON that are read."""
LARGEST_SIDE_PX = 100_000
"""Of a photo."""
FURTHEST_SD = 50.0
"""Largest identity coefficient that is taken, standard deviations: one beyond it was not written by a fit."""
BEYOND_BOUNDS = 1e-3
"""How far beyond the model's bounds a written expression may lie."""
OBSERVATION_ENDINGS = ("_landmarks.json", "_labelme.json")
"""Of the JSON files in a folder that `fit3d observe` wrote."""
NO_FIT = "holds an observation, not a fit; `fit3d fit` makes one of its photo"
RIGID = 1e-4
"""How far the rotation of a written pose may be from one."""


@dataclass(frozen=True)
class StoredParameters:
    """The head that a result's JSON tells of, checked as far as that can be done without the face model."""

    path: Path
    """Of the JSON."""
    sha256: str
    """Of its bytes."""
    model_name: str
    model_version: str
    identity: tuple[float, ...]
    """Standard deviations."""
    expression: dict[str, float]
    """Coefficients by name."""

    @property
    def stem(self) -> str:
        return self.path.stem

    def coefficients(self, model: MorphableModel) -> tuple[Tensor, Tensor]:
        """Identity (K,) and expression (L,), float64, for `model`.

        Raises:
            UsageError: they are not of this model or version, or beyond its bounds.
        """
        if model.version != self.model_version:
            raise UsageError(
                f"{self.path}: made with version '{self.model_version}' of the face model '{model.name}', installed is "
                f"'{model.version}'; fit the photo again"
            )
        if len(self.identity) != len(model.identity):
            raise UsageError(
                f"{self.path}: parameters.identity has {len(self.identity)} values, expected {len(model.identity)}"
            )
        bounds = dict(zip(model.expression_names, model.expression_bounds.tolist(), strict=True))
        for name, value in self.expression.items():
            if name not in bounds:
                raise UsageError(f"{self.path}: the face model '{model.name}' has no expression called '{name}'")
            low, high = bounds[name]
            if not low - BEYOND_BOUNDS <= value <= high + BEYOND_BOUNDS:
                raise UsageError(f"{self.path}: expression {name} is {value:g}, expected {low:g} to {high:g}")
        strengths = [self.expression.get(name, 0.0) for name in model.expression_names]
        return torch.tensor(self.identity, dtype=torch.float64), torch.tensor(strengths, dtype=torch.float64)


@dataclass(frozen=True)
class StoredFit(StoredParameters):
    """What the JSON of a fit tells besides."""

    camera: Camera
    """Of the whole photo."""
    photo_path: str
    """As the user wrote it."""
    photo_sha256: str
    status: str
    """'ok' or 'poor'."""


def result_paths(path: str | Path) -> list[Path]:
    """The JSON files of the results at `path`: of one result (its folder or JSON), or of a folder of results, by name.

    Raises:
        UsageError: there is no result.
    """
    path = Path(path)
    if path.suffix.lower() == ".json" and path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"{path}: no such result; give a folder that `fit3d fit` wrote, or the JSON in it")
    name = path.resolve().name
    if (path / f"{name}.json").is_file():
        return [path / f"{name}.json"]
    found = sorted(
        json_path
        for entry in os.scandir(path)
        if not entry.name.startswith(".") and entry.is_dir()
        if (json_path := path / entry.name / f"{entry.name}.json").is_file()
    )
    if found:
        return found
    others = [each for each in path.glob("*.json") if not each.name.endswith(OBSERVATION_ENDINGS)]
    if len(others) == 1:  # somebody gave the folder another name
        return others
    if any(path.glob(f"*{OBSERVATION_ENDINGS[0]}")):
        raise UsageError(f"{path}: {NO_FIT}")
    raise UsageError(f"{path}: no result here; expected {name}.json, or folders that `fit3d fit` wrote")


def result_path(path: str | Path) -> Path:
    """The JSON file of the one result at `path`. Raises UsageError where there is none, or several."""
    found = result_paths(path)
    if len(found) > 1:
        raise UsageError(f"{path}: holds {len(found)} results; give the folder of one, such as {found[0].parent}")
    return found[0]


def read_json(path: Path) -> tuple[dict[str, Any], str]:
    """The content of a result's JSON, its layout checked, and the SHA-256 of its bytes.

    Raises:
        UsageError: it cannot be read, is too large, not JSON, no result, or of another layout.
    """
    raw = read_bounded(path, LARGEST_JSON, "a result of `fit3d fit`")
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON ({error}); expected a result of `fit3d fit`") from error
    if isinstance(content, dict) and "landmarks_px" in content and "parameters" not in content:
        raise UsageError(f"{path}: {NO_FIT}")
    if not isinstance(content, dict) or "schema" not in content or "parameters" not in content:
        raise UsageError(f"{path}: not a result of `fit3d fit`")
    if content["schema"] != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: written in layout {shorten(content['schema'])}, this fit3d reads {SCHEMA_VERSION}; fit the photo "
            "again"
        )
    return content, sha256(raw).hexdigest()


def read_fit(path: Path) -> StoredFit:
    """The fit in the JSON file `path`, as `result_paths` gives it.

    Raises:
        UsageError: it is damaged, of another layout, or not of a fit.
    """
    content, digest = read_json(path)
    if content.get("kind") is not None:
        raise UsageError(f"{path}: the result of a {shorten(content['kind'])}, expected one of `fit3d fit`")
    return StoredFit(
        **vars(parameters_of(content, path, digest)),
        camera=_camera(content, path),
        photo_path=value_at(content, path, "photo", "path", kind=str),
        photo_sha256=value_at(content, path, "photo", "sha256", kind=str),
        status=value_at(content, path, "status", kind=str),
    )


def parameters_of(content: dict[str, Any], path: Path, digest: str) -> StoredParameters:
    """The head that the content of a result's JSON tells of, as `read_json` gives both. Raises UsageError."""
    identity = value_at(content, path, "parameters", "identity", kind=list)
    if not all(is_finite(value) and abs(value) <= FURTHEST_SD for value in identity):
        raise UsageError(
            f"{path}: 'parameters.identity' is damaged, expected finite numbers of at most {FURTHEST_SD:g} standard "
            "deviations; fit the photo again"
        )
    expression = value_at(content, path, "parameters", "expression", kind=dict)
    for name, value in expression.items():
        if not is_finite(value):
            raise UsageError(f"{path}: expression {shorten(name)} is {shorten(value)}, expected a finite number")
    return StoredParameters(
        path=path,
        sha256=digest,
        model_name=value_at(content, path, "model", "name", kind=str),
        model_version=value_at(content, path, "model", "version", kind=str),
        identity=tuple(map(float, identity)),
        expression={str(name): float(value) for name, value in expression.items()},
    )


def value_at(content: dict[str, Any], path: Path, *keys: str, kind: type) -> Any:
    """The value of type `kind` at `keys`. Raises UsageError."""
    value: Any = content
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, kind):
        raise UsageError(f"{path}: '{'.'.join(keys)}' is missing or damaged; fit the photo again")
    return value


def _camera(content: dict[str, Any], path: Path) -> Camera:
    camera = value_at(content, path, "camera", kind=dict)
    damaged = UsageError(f"{path}: 'camera' is damaged; fit the photo again")
    width, height, focal = (camera.get(name) for name in ("width", "height", "focal_px"))
    if not all(is_whole(side) and 0 < side <= LARGEST_SIDE_PX for side in (width, height)):
        raise damaged
    if not (is_finite(focal) and 0 < focal < 1e9):
        raise damaged
    principal, pose = _numbers(camera.get("principal_px"), (2,)), _numbers(camera.get("cam_from_world"), (4, 4))
    if principal is None or pose is None:
        raise damaged
    last_row = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    turned = pose[:3, :3] @ pose[:3, :3].T - torch.eye(3, dtype=torch.float64)
    rigid = bool((turned.abs() < RIGID).all()) and float(torch.linalg.det(pose[:3, :3])) > 0.0
    if not rigid or not torch.equal(pose[3], last_row) or float(principal.abs().max()) > 1e9:
        raise damaged
    return Camera(width, height, float(focal), (float(principal[0]), float(principal[1])), pose)


def _numbers(value: Any, shape: tuple[int, ...]) -> Tensor | None:
    """Nested lists of finite numbers as float64; None for anything else."""

    def fits(each: Any, sizes: tuple[int, ...]) -> bool:
        if not sizes:
            return is_finite(each) and math.isfinite(float(each))
        return isinstance(each, list) and len(each) == sizes[0] and all(fits(item, sizes[1:]) for item in each)

    return torch.tensor(value, dtype=torch.float64) if fits(value, shape) else None
