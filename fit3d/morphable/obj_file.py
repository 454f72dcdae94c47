"""Reads the Wavefront OBJ files that face models come as: positions, UVs, quads and materials, in the file's order.

The statements are read by hand: trimesh cuts quads into triangles and repeats the vertices along UV seams, meshio keeps
quads but no UVs of their own and no order of materials, and a morphable model is nothing but the order of its vertices.
What a face model does not need (normals, lines, curves, groups) is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fit3d.checks import read_bounded
from fit3d.errors import ModelFileError

LARGEST_FILE = 256 * 1024 * 1024
"""Bytes; a mesh of a million vertices has about 100 MB."""
EXPECTED = "the mesh of a head"


@dataclass(frozen=True)
class ObjMesh:
    """The content of one OBJ file."""

    vertices: np.ndarray
    """(V, 3) float32, as in the file."""
    uv: np.ndarray
    """(U, 2) float32; U is 0 where the file has none."""
    faces: np.ndarray
    """(F, 4) int32 vertex ids from 0; a triangle's last id is -1. Faces of more corners are cut into fans."""
    uv_faces: np.ndarray
    """(F, 4) int32 UV ids of `faces`, -1 at a triangle's end; all 0 where not every corner has a UV."""
    materials: tuple[str, ...]
    """Names of `usemtl`, else of `o` or `g`, in order of appearance."""
    face_materials: np.ndarray
    """(F,) int32, index into `materials`."""


def read_obj(path: Path) -> ObjMesh:
    """The mesh in the file `path`.

    Raises:
        ModelFileError: the file is missing, too large, truncated, or names vertices that it does not have.
    """
    lines = read_bounded(path, LARGEST_FILE, EXPECTED, ModelFileError).splitlines()
    vertices = _numbers(path, lines, b"v", 3)
    uv = _numbers(path, lines, b"vt", 2)
    faces: list[tuple[int, ...]] = []
    uv_faces: list[tuple[int, ...]] = []
    names: dict[str, int] = {}
    owners: list[int] = []
    current, by_material = "head", any(line.startswith(b"usemtl") for line in lines)
    seen_v = seen_vt = 0
    for number, line in enumerate(lines, start=1):
        if line.startswith(b"f ") or line.startswith(b"f\t"):
            corners = [corner.split(b"/") for corner in line.split()[1:]]
            try:
                ids = [_index(corner[0], seen_v) for corner in corners]
                has_uv = all(len(corner) > 1 and corner[1] for corner in corners)
                uv_ids = [_index(corner[1], seen_vt) for corner in corners] if has_uv else [-1] * len(ids)
            except ValueError as error:
                raise ModelFileError(f"{path}, line {number}: {error}; the file is damaged or truncated") from error
            if len(ids) < 3:
                raise ModelFileError(f"{path}, line {number}: a face needs three corners, this one has {len(ids)}")
            for some, some_uv in zip(_fan(ids), _fan(uv_ids), strict=True):
                faces.append(some)
                uv_faces.append(some_uv)
                owners.append(names.setdefault(current, len(names)))
        elif line.startswith(b"v "):
            seen_v += 1
        elif line.startswith(b"vt "):
            seen_vt += 1
        elif line.startswith(b"usemtl ") or (not by_material and line.startswith((b"o ", b"g "))):
            current = " ".join(line.decode("utf-8", "replace").split()[1:]) or "head"
    if not faces:
        raise ModelFileError(f"{path}: no faces; expected a mesh as OBJ")
    face_ids = np.array(faces, np.int32)
    uv_ids_all = np.array(uv_faces, np.int32)
    if (uv_ids_all[face_ids >= 0] < 0).any():
        uv, uv_ids_all = np.zeros((0, 2), np.float32), np.zeros_like(face_ids)
    return ObjMesh(vertices, uv, face_ids, uv_ids_all, tuple(names), np.array(owners, np.int32))


def read_obj_positions(path: Path, count: int) -> np.ndarray:
    """(`count`, 3) float32: the vertices of the file `path`, whose faces are not looked at.

    Raises:
        ModelFileError: as `read_obj`, or the file has another number of vertices.
    """
    content = read_bounded(path, LARGEST_FILE, EXPECTED, ModelFileError)
    # nothing is read behind the last vertex: the faces are most of the lines
    end = content.find(b"\n", content.rfind(b"\nv ") + 1)
    vertices = _numbers(path, content[: end if end > 0 else None].splitlines(), b"v", 3)
    if len(vertices) != count:
        raise ModelFileError(
            f"{path}: {len(vertices)} vertices where the neutral mesh has {count}; the file is truncated or of another "
            "topology"
        )
    return vertices


def _numbers(path: Path, lines: list[bytes], keyword: bytes, count: int) -> np.ndarray:
    """(N, `count`) float32: the first numbers of the statements `keyword`."""
    start = keyword + b" "
    rows = [line[len(start) :] for line in lines if line.startswith(start)]
    if not rows:
        if keyword == b"v":
            raise ModelFileError(f"{path}: no vertices; expected a mesh as OBJ")
        return np.zeros((0, count), np.float32)
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            values = np.loadtxt(rows, usecols=range(count), comments=None, ndmin=2).astype(np.float32)
        if values.shape != (len(rows), count) or not np.isfinite(values).all():
            raise ValueError("numbers are missing or not finite")
    except ValueError as error:
        number = next(i for i, line in enumerate(lines, start=1) if line.startswith(start) and _is_bad(line, count))
        shown = lines[number - 1][:60].decode("ascii", "backslashreplace")
        raise ModelFileError(
            f"{path}, line {number}: expected {count} numbers, got '{shown}'; the file is damaged or truncated"
        ) from error
    return values


def _is_bad(line: bytes, count: int) -> bool:
    try:
        values = [float(token) for token in line.split()[1 : count + 1]]
    except ValueError:
        return True
    return len(values) < count or not (np.abs(values) < np.finfo(np.float32).max).all()


def _index(token: bytes, seen: int) -> int:
    """Id from 0 of an OBJ index: from 1 or, negative, from the end of what stands above. Raises ValueError."""
    try:
        index = int(token)
    except ValueError:
        raise ValueError(f"corner '{token[:20].decode('ascii', 'backslashreplace')}' is not a number") from None
    found = index - 1 if index > 0 else seen + index
    if index == 0 or not 0 <= found < seen:
        raise ValueError(f"corner {index} names something that the {seen} lines above do not hold")
    return found


def _fan(ids: list[int]) -> list[tuple[int, ...]]:
    """A quad or triangle as one row of four ids; more corners as triangles round the first."""
    if len(ids) == 4:
        return [tuple(ids)]
    return [(ids[0], ids[i], ids[i + 1], -1) for i in range(1, len(ids) - 1)]
