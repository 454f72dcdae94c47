"""What the viewer knows of one result: head, camera, photo and texture, and which of them are missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fit3d.camera import Camera
from fit3d.checks import LARGEST_TEXTURE, SMALLEST_TEXTURE
from fit3d.errors import UnreadablePhotoError, UsageError
from fit3d.export.read_result import StoredFit, read_fit
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.obj_file import read_obj
from fit3d.morphable.registry import load_model
from fit3d.photo import load_photo

if TYPE_CHECKING:
    from fit3d.reconstruction import Reconstruction

UPWARDS = 3
"""Folders above a result in which a photo that has moved is looked for, besides the result's own."""


@dataclass(frozen=True)
class Surface:
    """The faces that are drawn."""

    triangles: np.ndarray
    """(T, 3) int64, vertex ids."""
    uv: np.ndarray
    """(U, 2) float32, origin bottom left; U is 0 where there are none."""
    uv_triangles: np.ndarray
    """(T, 3) int64, UV ids of `triangles`."""


@dataclass(frozen=True)
class Subject:
    """One head to look at."""

    name: str
    folder: Path
    """Where exports go."""
    camera: Camera
    """Of the whole photo."""
    model: MorphableModel | None
    """None where it is not installed: the head then keeps the pose of its file."""
    identity: Tensor
    """(K,) float64 as fitted; K is 0 without a model."""
    expression: Tensor
    """(L,) float64 as fitted."""
    still: np.ndarray | None
    """(V, 3) float32, world: the head as its file has it; None where the model makes it."""
    surface: Surface
    photo: np.ndarray | None
    """(H, W, 3) uint8."""
    texture: np.ndarray | None
    """(S, S, 3) uint8 sRGB."""
    missing: tuple[str, ...]
    """What could not be found, a line each."""


def load_subject(path: Path) -> Subject:
    """The result whose JSON is `path`.

    A missing model, photo or texture is said in `missing`, and the rest is shown.

    Raises:
        UsageError: the JSON is damaged, or does not belong to the model.
        ModelFileError: the model or, where it is missing, the result's mesh is damaged.
    """
    stored = read_fit(path)
    missing = []
    model: MorphableModel | None = None
    identity, expression = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    still = None
    try:
        model = load_model(stored.model_name)
    except UsageError as error:
        mesh_path = path.with_name(f"{path.stem}.obj")
        if not mesh_path.is_file():
            raise UsageError(f"{path}: {error}; nor is there the mesh {mesh_path.name} to show instead") from error
        missing.append(f"{error}; the head cannot be moved")
        mesh = read_obj(mesh_path)
        still, surface = mesh.vertices, _surface(mesh.faces, mesh.uv, mesh.uv_faces)
    if model is not None:
        identity, expression = stored.coefficients(model)
        surface = surface_of(model)
    photo, lacks = _photo(stored)
    missing += [] if lacks is None else [lacks]
    texture, lacks = _texture(path.with_name(f"{path.stem}_texture.png"))
    if lacks is None and not len(surface.uv):
        texture, lacks = None, "the head has no UVs to put the texture on"
    missing += [] if lacks is None else [lacks]
    return Subject(
        name=stored.stem,
        folder=path.parent,
        camera=stored.camera,
        model=model,
        identity=identity,
        expression=expression,
        still=still,
        surface=surface,
        photo=photo,
        texture=texture,
        missing=tuple(missing),
    )


def subject_of(reconstruction: Reconstruction, folder: Path) -> Subject:
    """A fit that lies in memory; exports go to `folder`."""
    model = reconstruction.model
    return Subject(
        name=Path(reconstruction.photo.path).stem.strip("<>") or "photo",
        folder=folder,
        camera=reconstruction.fit.camera,
        model=model,
        identity=reconstruction.fit.identity.detach().double().cpu(),
        expression=reconstruction.fit.expression.detach().double().cpu(),
        still=None,
        surface=surface_of(model),
        photo=reconstruction.photo.pixels,
        texture=reconstruction.texture if len(model.uv) else None,
        missing=(),
    )


def surface_of(model: MorphableModel) -> Surface:
    """What is drawn of a model: all but clear films."""
    whole = _surface(model.faces, model.uv, model.uv_faces)
    return Surface(whole.triangles[model.opaque], whole.uv, whole.uv_triangles[model.opaque])


def _surface(faces: np.ndarray, uv: np.ndarray, uv_faces: np.ndarray) -> Surface:
    """Of faces (F, 4) and their UV ids, in the order of `MorphableModel.triangles`."""
    quads = faces[:, 3] >= 0
    cut = [np.concatenate([ids[:, :3], ids[quads][:, [0, 2, 3]]]).astype(np.int64) for ids in (faces, uv_faces)]
    return Surface(cut[0], uv, cut[1])


def _photo(stored: StoredFit) -> tuple[np.ndarray | None, str | None]:
    """The photo's pixels, or why there are none. One that has moved along with the result is found by its name."""
    written = Path(stored.photo_path)
    folders = [stored.path.parent, *stored.path.resolve().parents[1 : 1 + UPWARDS]]
    problem = f"the photo {written} is not there any more"
    for place in (written, *(folder / written.name for folder in folders)):
        try:
            if not place.is_file():
                continue
            photo = load_photo(place)
        except (OSError, ValueError, UnreadablePhotoError) as error:
            problem = f"the photo cannot be shown: {error}"
            continue
        if (photo.width, photo.height) == (stored.camera.width, stored.camera.height):
            return photo.pixels, None if photo.sha256 == stored.photo_sha256 else f"the photo {place} has been changed"
        problem = (
            f"the photo {place} is {photo.width} x {photo.height} px now, was {stored.camera.width} x "
            f"{stored.camera.height}"
        )
    return None, problem


def _texture(path: Path) -> tuple[np.ndarray | None, str | None]:
    """(S, S, 3) uint8, or why there is none."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            width, height = image.size
            if width != height or not SMALLEST_TEXTURE <= width <= LARGEST_TEXTURE:
                return None, f"the texture {path} is {width} x {height} px, expected a square"
            return np.array(image.convert("RGB")), None
    except FileNotFoundError:
        return None, f"the texture {path.name} is missing"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return None, f"the texture {path.name} is not a usable PNG ({error})"
