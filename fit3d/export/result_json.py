"""`<stem>.json`: everything needed to use or repeat a fit. `docs/result.schema.json` describes it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fit3d.camera import Camera
from fit3d.config import ExportConfig, FitConfig
from fit3d.export.files import write_text
from fit3d.labels import PART_NAMES
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Observation
from fit3d.photo import Photo
from fit3d.solve.result import Fit

FocalSource = Literal["user", "exif", "default", "fitted"]

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or vanishes; new fields alone do not raise it."""

SIGNIFICANT_DIGITS = 9
"""Digits of every number: enough to give a float32 back exactly."""

LANDMARK_DECIMALS = 3
"""Decimals of landmarks, px."""

CONFIDENCE_DECIMALS = 3
"""Decimals of confidences."""


@dataclasses.dataclass(frozen=True)
class GivenFile:
    """A label image or landmark file that the user gave."""

    path: str
    """As the user wrote it."""
    sha256: str
    """Of the file's bytes."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a fit's inputs came from."""

    focal: FocalSource
    """'user', 'exif', or 'default': the field of view of the configuration."""
    face: int
    """Number of the face in its photo, 1 being the largest."""
    parts_file: GivenFile | None
    """None where a parser labelled the photo."""
    texture_size: int
    """Side of the texture, px."""
    landmarks_file: GivenFile | None = None
    """None where a detector found the landmarks."""
    delight: bool = False
    """Whether the light was taken out of the texture."""
    light: np.ndarray | None = None
    """(9, 3) coefficients of `fit3d.render.light`; None where too little skin was seen to tell."""


def result_dict(
    photo: Photo,
    model: MorphableModel,
    observation: Observation,
    fit: Fit,
    source: Source,
    config: FitConfig,
    export: ExportConfig,
    timings_s: Mapping[str, float],
    warnings: Sequence[str],
    fit3d_version: str,
) -> dict[str, Any]:
    """The content of the file: plain dicts, lists, strings, numbers and None (for what is missing or not finite).

    Args:
        photo: as read.
        model: that was fitted.
        observation: of the face that was fitted.
        fit: the result.
        source: of what the user can choose besides `config`.
        config: how it was fitted.
        export: which files lie beside it.
        timings_s: seconds by stage: load, observe, fit, texture, write, total.
        warnings: all of them, of photo, observation and fit.
        fit3d_version: of the program.
    """
    camera, landmarks = fit.camera, observation.landmarks
    expression = dict(zip(model.expression_names, fit.expression.tolist(), strict=True))
    return plain(
        {
            "schema": SCHEMA_VERSION,
            "fit3d_version": fit3d_version,
            "status": fit.status,
            "status_reasons": list(fit.mistrust),
            "photo": {
                "path": photo.path,
                "width": photo.width,
                "height": photo.height,
                "sha256": photo.sha256,
                "exif": photo.exif,
            },
            "model": {
                "name": model.name,
                "version": model.version,
                "licence": model.licence,
                "source": model.source,
                "units": "metres",
            },
            "observation": {
                "face": source.face,
                "landmarks_file": None if source.landmarks_file is None else dataclasses.asdict(source.landmarks_file),
                "parts_file": None if source.parts_file is None else dataclasses.asdict(source.parts_file),
                "crop": dataclasses.asdict(fit.crop),
                "landmark_backend": dataclasses.asdict(landmarks.backend),
                "parser_backend": dataclasses.asdict(observation.parser),
                "landmark_layout": landmarks.layout,
                "landmarks_px": np.round(landmarks.points_px, LANDMARK_DECIMALS),
                "landmark_confidence": _confidence(landmarks.confidence),
                "part_confidence": None
                if observation.part_confidence is None
                else dict(zip(PART_NAMES, _confidence(observation.part_confidence), strict=True)),
                "face_box_px": np.round(landmarks.box_px, LANDMARK_DECIMALS),
            },
            "parameters": {"identity": fit.identity, "expression": expression},
            "camera": camera_dict(camera, source.focal),
            "metrics": {
                "part_iou": fit.part_iou,
                "landmark_nme": fit.landmark_nme,
                "energy": {"start": fit.energy_start, "end": fit.energy_end},
            },
            "solver": {
                "iterations": fit.iterations,
                "stop_reason": fit.stop_reason,
                "seed": config.seed,
                "config": dataclasses.asdict(config),
            },
            "texture_size": source.texture_size,
            "texture": {"size": source.texture_size, "delight": source.delight, "light": source.light},
            "export": dataclasses.asdict(export),
            "timings_s": dict(timings_s),
            "warnings": list(warnings),
        }
    )


def camera_dict(camera: Camera, focal_source: FocalSource) -> dict[str, Any]:
    """A camera as files tell of it."""
    return {
        "width": camera.width,
        "height": camera.height,
        "focal_px": camera.focal_px,
        "focal_source": focal_source,
        "principal_px": camera.principal_px,
        "K": camera.K,
        "cam_from_world": camera.cam_from_world,
    }


def _confidence(values: np.ndarray | None) -> Any:
    return None if values is None else np.round(values, CONFIDENCE_DECIMALS)


def write_result(path: str | Path, result: Mapping[str, Any]) -> None:
    """Write what `result_dict` made, atomically. Write it last: a JSON means that the result is complete."""
    write_text(path, result_text(result))


def result_text(result: Mapping[str, Any]) -> str:
    """`result` as JSON: keys sorted, one key per line, lists of numbers on one line. The same input always gives
    the same text."""
    return _dump(result, 0) + "\n"


def plain(value: Any) -> Any:
    """`value` with tensors, arrays and tuples as lists, and floats rounded; not a number becomes None."""
    if isinstance(value, torch.Tensor):
        return plain(value.detach().cpu().tolist())
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {_text(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        # adding 0 turns -0 into 0
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}") + 0.0 if math.isfinite(value) else None
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool | int):
        return value
    raise TypeError(f"cannot write a {type(value).__name__} to JSON")


def _text(text: str) -> str:
    """`text` without lone surrogates, which undecodable file names contain and UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _dump(value: Any, depth: int) -> str:
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, Mapping) and value:
        lines = [f"{inner}{_scalars(key)}: {_dump(value[key], depth + 1)}" for key in sorted(value)]
        return "{\n" + ",\n".join(lines) + f"\n{outer}}}"
    if isinstance(value, list) and any(isinstance(item, list | Mapping | str) for item in value):
        return "[\n" + ",\n".join(inner + _dump(item, depth + 1) for item in value) + f"\n{outer}]"
    return _scalars(value)


def _scalars(value: Any) -> str:
    """A string, a number, None, or a list of such, on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
