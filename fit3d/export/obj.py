"""Wavefront OBJ and MTL: the fitted mesh with its quads and UVs, an object per piece and a group per facial part.

The files are written by hand: trimesh splits quads into triangles and duplicates the vertices along UV seams, meshio
keeps quads but knows one UV per vertex and no objects, and animators need the model's own topology back.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor

from fit3d.config import ExportConfig, Units
from fit3d.export.files import write_text
from fit3d.labels import OTHER, PART_NAMES
from fit3d.morphable.model import FILM_SUFFIX, MorphableModel

POSITION_DECIMALS = 7
"""Decimals of a position in metres: a tenth of a micrometre."""
UV_DECIMALS = 6
PER_METRE: dict[Units, int] = {"m": 1, "cm": 100, "mm": 1000}
UNIT_NAMES: dict[Units, str] = {"m": "Metres", "cm": "Centimetres", "mm": "Millimetres"}


def write_obj(
    path: str | Path,
    vertices: Tensor | np.ndarray,
    model: MorphableModel,
    mtl_name: str,
    export: ExportConfig | None = None,
) -> None:
    """Write a mesh of `model` with `vertices` (V, 3), world, metres, as OBJ.

    Args:
        path: ends in '.obj'.
        vertices: positions.
        model: gives faces, UVs and objects.
        mtl_name: name of the material file in the same folder.
        export: units and axes of the file; None is `ExportConfig()`.
    """
    write_text(path, obj_text(vertices, model, mtl_name, export))


def write_mtl(path: str | Path, texture_name: str) -> None:
    """Write the material file that maps `texture_name`, an image in the same folder, onto the mesh."""
    write_text(path, mtl_text(texture_name))


def obj_text(
    vertices: Tensor | np.ndarray, model: MorphableModel, mtl_name: str, export: ExportConfig | None = None
) -> str:
    """The text of `write_obj`: the same input always gives the same bytes."""
    export = export or ExportConfig()
    positions = in_frame(np.asarray(vertices, np.float64), export)
    assert positions.shape == tuple(model.mean.shape), (positions.shape, model.mean.shape)
    if not np.isfinite(positions).all():
        raise ValueError("the mesh has positions that are not finite")
    parts = [
        f"# {_one_line(model.name)} {_one_line(model.version)}, fitted by fit3d. {_frame_line(export)}\n",
        f"# {_one_line(model.licence)}\n",
        f"mtllib {_one_line(mtl_name)}\n",
        _lines("v", positions, POSITION_DECIMALS - len(str(PER_METRE[export.units])) + 1),
        _topology_text(model),
    ]
    return "".join(parts)


@lru_cache(maxsize=4)
def _topology_text(model: MorphableModel) -> str:
    """UVs, objects, groups and faces, which are the same in every mesh of a model."""
    parts = [_lines("vt", model.uv.astype(np.float64), UV_DECIMALS)]
    part = part_of_faces(model)
    for index, name in enumerate(model.objects):
        chosen = model.face_objects == index
        if not chosen.any():
            continue
        material = "film" if name.endswith(FILM_SUFFIX) else "head"
        parts.append(f"o {name}\nusemtl {material}\ns 1\n")
        labels = np.unique(part[chosen])
        for label in labels:
            group = name if len(labels) == 1 else f"{name}_{PART_NAMES[label]}"
            some = chosen & (part == label)
            parts.append(f"g {group}\n" + _faces(model.faces[some], model.uv_faces[some]))
    return "".join(parts)


@lru_cache(maxsize=4)
def part_of_faces(model: MorphableModel) -> np.ndarray:
    """(F,) uint8: which part of `fit3d.labels` each face belongs to, by its middle; 'other' off the annotated surface,
    as eyeballs and teeth are."""
    annotation = model.annotation
    surface = np.zeros(len(model.mean), bool)
    surface[annotation.triangles[annotation.fixed_label < 0].numpy().ravel()] = True
    corners = np.where(model.faces >= 0, model.faces, model.faces[:, :1])
    known = np.flatnonzero(surface[corners].all(1))
    weight = (model.faces[known] >= 0).astype(np.float32)
    fields = annotation.fields.numpy()[:, corners[known]]
    best = (fields * weight).sum(2).argmax(0)
    part = np.full(len(model.faces), OTHER, np.uint8)
    part[known] = annotation.field_labels.numpy()[best]
    return part


def in_frame(positions: np.ndarray, export: ExportConfig) -> np.ndarray:
    """World positions (N, 3), metres, in the units and axes of `export`."""
    if export.up == "z":
        positions = np.stack([positions[:, 0], -positions[:, 2], positions[:, 1]], 1)
    return positions * PER_METRE[export.units]


def _frame_line(export: ExportConfig) -> str:
    axes = "y up, z towards the viewer" if export.up == "y" else "z up, -y towards the viewer"
    return f"{UNIT_NAMES[export.units]}, {axes}."


def mtl_text(texture_name: str) -> str:
    """The text of `write_mtl`: 'head', matt and white, shows the texture as it is; 'film' is clear."""
    return (
        "newmtl head\n"
        "Ka 1.000000 1.000000 1.000000\n"
        "Kd 1.000000 1.000000 1.000000\n"
        "Ks 0.000000 0.000000 0.000000\n"
        "d 1.000000\n"
        "illum 1\n"
        f"map_Kd {_one_line(texture_name)}\n"
        "newmtl film\n"
        "Kd 1.000000 1.000000 1.000000\n"
        "d 0.000000\n"
        "illum 1\n"
    )


def _lines(keyword: str, values: np.ndarray, decimals: int) -> str:
    """One line per row. Formatting all numbers with one '%' is fast; adding 0 turns -0 into 0."""
    rounded = np.round(values, decimals) + 0.0
    return (keyword + f" %.{decimals}f" * values.shape[1] + "\n") * len(values) % tuple(rounded.ravel().tolist())


def _faces(faces: np.ndarray, uv_faces: np.ndarray) -> str:
    """Face lines of quads (F, 4), in order; a last id of -1 makes a triangle. OBJ counts from 1."""
    numbers = np.stack([faces, uv_faces], -1) + 1
    is_quad = faces[:, 3] >= 0
    quad, triangle = "f %d/%d %d/%d %d/%d %d/%d\n", "f %d/%d %d/%d %d/%d\n"
    if is_quad.all():
        return quad * len(faces) % tuple(numbers.ravel().tolist())
    keep = np.repeat(is_quad[:, None], 4, axis=1)
    keep[:, :3] = True
    return "".join([quad if four else triangle for four in is_quad]) % tuple(numbers[keep].ravel().tolist())


def _one_line(text: str) -> str:
    """`text` without line breaks, which would end a statement early."""
    return " ".join(text.split("\n")).replace("\r", " ")
