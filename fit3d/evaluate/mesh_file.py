"""Meshes that others made, scans and predictions, as OBJ, PLY or STL: vertices in the file's order, and triangles."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fit3d.errors import UsageError
from fit3d.morphable.obj_file import read_obj

ENDINGS = (".obj", ".ply", ".stl")
LARGEST_FILE = 2**30
"""Bytes of a PLY or STL; of an OBJ see `fit3d.morphable.obj_file`."""
LARGEST_HEADER = 65536
"""Bytes of a PLY."""


@dataclass(frozen=True)
class Mesh:
    """Triangles in space, in the file's own unit and axes."""

    vertices: np.ndarray
    """(V, 3) float64, finite."""
    triangles: np.ndarray
    """(T, 3) int64, vertex ids; a quad gives (0, 1, 2) and (0, 2, 3), one after the other."""


def read_mesh(path: Path) -> Mesh:
    """The mesh in the file `path`.

    Raises:
        UsageError, ModelFileError: it cannot be read, is too large, damaged or without triangles.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(f"{path}: expected a mesh as {', '.join(ENDINGS)}")
    mesh = _from_obj(path) if ending == ".obj" else _from_trimesh(path, ending)
    if not len(mesh.triangles):
        raise UsageError(f"{path}: no triangles; a cloud of points has no surface, give a mesh")
    if not np.isfinite(mesh.vertices).all():
        raise UsageError(f"{path}: positions that are not finite; the file is damaged")
    if mesh.triangles.min() < 0 or mesh.triangles.max() >= len(mesh.vertices):
        raise UsageError(f"{path}: triangles of vertices that it does not have; the file is damaged")
    return mesh


def _from_obj(path: Path) -> Mesh:
    obj = read_obj(path)
    quads = obj.faces[:, 3] >= 0
    halves = np.stack([obj.faces[:, [0, 1, 2]], obj.faces[:, [0, 2, 3]]], axis=1)
    there = np.stack([np.ones_like(quads), quads], axis=1)
    return Mesh(obj.vertices.astype(np.float64), halves[there].astype(np.int64))


def _from_trimesh(path: Path, ending: str) -> Mesh:
    import trimesh

    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise UsageError(f"{path}: larger than {LARGEST_FILE >> 20} MiB; expected the mesh of a head")
        with open(path, "rb") as file:
            if ending == ".ply":
                _check_header(path, file.read(LARGEST_HEADER), size)
                file.seek(0)
            loaded = trimesh.load(file, file_type=ending[1:], process=False, maintain_order=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot read it ({error.strerror})") from error
    except UsageError:
        raise
    except Exception as error:  # trimesh says of a damaged file whatever stumbled over it
        reason = str(error).split("\n")[0][:80] or type(error).__name__
        raise UsageError(f"{path}: not a {ending[1:].upper()} that can be read ({reason})") from error
    if not isinstance(loaded, trimesh.Trimesh):
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))
    return Mesh(np.asarray(loaded.vertices, np.float64), np.asarray(loaded.faces, np.int64))


def _check_header(path: Path, start: bytes, size: int) -> None:
    """Refuses a PLY whose header promises more than the file can hold, before anything is made room for."""
    header, end, _ = start.partition(b"end_header")
    if not header.startswith(b"ply") or not end:
        raise UsageError(f"{path}: not a PLY; expected a header from 'ply' to 'end_header'")
    counts = [int(digits) for digits in re.findall(rb"^element[ \t]+\S+[ \t]+(\d{1,18})\s*$", header, re.MULTILINE)]
    if sum(counts) > size:
        raise UsageError(f"{path}: promises {sum(counts)} elements in {size} bytes; the file is damaged or truncated")
