"""A face model of one's own, from OBJ files of one topology: a mean head, people, and expressions of the mean head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from fit3d.errors import ModelFileError
from fit3d.morphable.arrays import eyes_from_nose
from fit3d.morphable.obj_file import ObjMesh, read_obj
from fit3d.morphable.raw import RawModel

MeshUnit = Literal["m", "dm", "cm", "mm"]
METRES: dict[MeshUnit, float] = {"m": 1.0, "dm": 0.1, "cm": 0.01, "mm": 0.001}
FACE_HEIGHT_M = (0.1, 0.6)
"""Heights, metres, from a bare face mask to a head with shoulders."""
MOST_OBJECTS = 256


def read_meshes(
    mean: Path,
    identity_folder: Path | None = None,
    expression_folder: Path | None = None,
    name: str = "mine",
    unit: MeshUnit | None = None,
) -> RawModel:
    """The model whose mean is the mesh `mean` and whose directions are the other meshes minus it.

    Every .obj of a folder, in the order of the names, is one direction. Identities: the file shows the mean head one
    standard deviation away in that direction, so a coefficient of 1 is that file, and coefficients are taken to be
    standard normal and uncorrelated (as ICT-FaceKit's are; of scanned people, give principal components). Expressions:
    a coefficient of 1 is that file, bounds are 0 ... 1, and the name is the file's, best one of ARKit's.

    All files have the vertices and faces of `mean` in its order; UVs and materials are read from `mean` alone, each
    material being an object. The head is expected with y up and looking along +z, its left at +x.

    Args:
        unit: of the files; by default the one of METRES that makes the mean 10 to 60 cm high.

    Raises:
        ModelFileError: a file is damaged, of another topology, or no unit makes it a head; a folder holds no mesh.
    """
    mesh = read_obj(mean)
    metres = METRES[unit] if unit else _guessed_metres(mean, mesh.vertices)
    identity, _ = _directions(mean, mesh, identity_folder, metres)
    expression, expression_names = _directions(mean, mesh, expression_folder, metres)
    if len(mesh.materials) > MOST_OBJECTS:
        raise ModelFileError(f"{mean}: {len(mesh.materials)} materials, at most {MOST_OBJECTS} are kept apart")
    vertices = mesh.vertices.astype(np.float64) * metres
    try:
        return RawModel(
            name=name,
            version="1",
            licence="Your own meshes: what may be done with results depends on where you have them from.",
            source=f"{mean.name} with {len(identity)} identity and {len(expression)} expression meshes",
            mean=(vertices - eyes_from_nose(vertices)).astype(np.float32),
            identity=identity,
            expression=expression,
            expression_names=tuple(expression_names),
            expression_bounds=np.tile(np.array([0.0, 1.0], np.float32), (len(expression), 1)),
            faces=mesh.faces,
            uv=mesh.uv,
            uv_faces=mesh.uv_faces,
            objects=mesh.materials,
            face_objects=mesh.face_materials.astype(np.uint8),
        )
    except ModelFileError as error:
        raise ModelFileError(f"{mean}: {error}") from error


def _directions(mean: Path, mesh: ObjMesh, folder: Path | None, metres: float) -> tuple[np.ndarray, Sequence[str]]:
    """(N, V, 3) float32, metres, and the names of the N files."""
    if folder is None:
        return np.zeros((0, len(mesh.vertices), 3), np.float32), []
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".obj")
    except OSError as error:
        raise ModelFileError(f"{folder}: cannot read the folder ({error.strerror})") from error
    if not files:
        raise ModelFileError(f"{folder}: no .obj file; expected one mesh per direction")
    directions = np.empty((len(files), len(mesh.vertices), 3), np.float32)
    for k, path in enumerate(files):
        other = read_obj(path)
        if len(other.vertices) != len(mesh.vertices):
            counts = f"{len(other.vertices)} vertices, {mean.name} has {len(mesh.vertices)}"
            raise ModelFileError(f"{path}: {counts}; all meshes of a model need one topology")
        if not np.array_equal(other.faces, mesh.faces):
            raise ModelFileError(f"{path}: other faces than {mean.name}; all meshes of a model need one topology")
        directions[k] = (other.vertices.astype(np.float64) - mesh.vertices) * metres
    return directions, [path.stem for path in files]


def _guessed_metres(path: Path, vertices: np.ndarray) -> float:
    height = float(np.ptp(vertices[:, 1]))
    low, high = FACE_HEIGHT_M
    for metres in METRES.values():
        if low <= height * metres < high:
            return metres
    raise ModelFileError(
        f"{path}: {height:g} high, which is no head in metres, decimetres, centimetres or millimetres; "
        "expected y up and one of these units"
    )
