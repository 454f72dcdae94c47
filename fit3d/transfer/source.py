"""Reads a result back: the head that a fit or an earlier transfer wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fit3d.checks import LARGEST_TEXTURE, SMALLEST_TEXTURE
from fit3d.errors import UsageError
from fit3d.export.read_result import parameters_of, read_json, result_path, value_at
from fit3d.morphable.obj_file import read_obj_positions
from fit3d.morphable.registry import load_model
from fit3d.transfer.person import Head

FARTHEST_M = 10.0
"""From the origin, which lies between the eyes, to any vertex of a head, or of a whole body."""


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
    path = result_path(path)
    content, digest = read_json(path)
    stored = parameters_of(content, path, digest)
    name = stored.model_name
    model = load_model(name)
    if not len(model.uv):
        raise UsageError(f"{path}: the face model '{name}' has no UVs, so there is no texture to transfer")
    identity, expression = stored.coefficients(model)
    transferred = content.get("kind") == "transfer"
    if transferred:
        neutral, posed = (_mesh(_beside(path, end), len(model.mean)) for end in ("_neutral.obj", ".obj"))
    else:
        neutral = model.vertices(identity, torch.zeros_like(expression)).numpy()
        posed = model.vertices(identity, expression).numpy()
    licences = {name: model.licence}
    if transferred:
        earlier = value_at(content, path, "licences", kind=dict)
        licences = {**{str(key): str(value) for key, value in earlier.items()}, **licences}
    doubts = ("its fit is marked as poor",) if content.get("status") == "poor" else ()
    return Result(
        head=Head(model, neutral, posed, stored.expression),
        texture=_texture(_beside(path, "_texture.png")),
        path=path,
        stem=path.stem,
        sha256=digest,
        licences=licences,
        warnings=tuple(f"{path.stem}: {doubt}" for doubt in doubts),
    )


def _beside(path: Path, ending: str) -> Path:
    """The result's file of that ending. Raises UsageError where it is missing."""
    found = path.with_name(path.stem + ending)
    if not found.is_file():
        raise UsageError(f"{found}: missing; a result's files belong together, fit the photo again")
    return found


def _mesh(path: Path, count: int) -> np.ndarray:
    """(`count`, 3) float64, metres. Raises UsageError or ModelFileError."""
    vertices = read_obj_positions(path, count).astype(np.float64)
    if np.abs(vertices).max() > FARTHEST_M:
        raise UsageError(f"{path}: damaged, it reaches beyond {FARTHEST_M:g} m; transfer the head again")
    return vertices


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
