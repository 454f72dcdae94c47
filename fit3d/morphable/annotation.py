"""Reads the annotation of a face model: which part each point of its surface is, and where its landmarks lie.

The file is JSON, so that it can be read and edited:

    schema          1
    model           name of the face model
    vertex_count    its number of vertices
    parts           by part name, `vertices` and `field_m`: the part's signed field, positive inside, roughly metres to
                    the border. Vertices that are not listed lie far outside. Several fields may belong to one part,
                    'skin' and 'skin/above_brows': what stands before the slash names the part. So a part that is
                    narrower than a triangle can still have a border on both sides of it.
    openings        by part name ('right_eye', 'left_eye', 'inner_mouth'), `upper` and `lower`: the rims that the
                    part's patch spans, vertex ids from the person's right to left, both with the shared corners
    surface         ids of the model's faces that can be seen from outside, without eyeballs and mouth cavity
    landmarks       by layout, `vertices` and `weights` (N, 3); `sliding` (S) and the places on these landmarks' paths,
                    `path_vertices` and `path_weights` (S, C, 3)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from fit3d.errors import ModelFileError
from fit3d.labels import PART_IDS
from fit3d.landmarks import LANDMARK_COUNTS, LandmarkLayout
from fit3d.morphable.model import LandmarkEmbedding, PartAnnotation, SurfacePoints

SCHEMA = 1
FAR_OUTSIDE_M = -0.1
"""Field of the vertices that a part does not list, metres."""
LONGEST_REASON = 200
"""Characters: what is wrong may quote what stands in the file."""
OPENINGS = ("right_eye", "left_eye", "inner_mouth")


def load_annotation(
    path: Path, mean: Tensor, faces: np.ndarray
) -> tuple[PartAnnotation, dict[LandmarkLayout, LandmarkEmbedding]]:
    """Parts and landmarks of the model with this mean (V, 3), metres, and these faces (F, 4), ids, -1 where there is
    no fourth. Raises `ModelFileError` where the file is missing, damaged or of another model."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}, expected {SCHEMA}")
        if content["vertex_count"] != mean.shape[0]:
            raise ValueError(f"made for {content['vertex_count']} vertices, the model has {mean.shape[0]}")
        parts = _parts(content, mean.detach().cpu().double().numpy(), faces)
        return parts, {layout: _landmarks(content, layout, mean.shape[0]) for layout in get_args(LandmarkLayout)}
    except OSError as error:
        raise ModelFileError(f"{path}: cannot read the annotation ({error.strerror}); install fit3d again") from error
    except KeyError as error:
        raise ModelFileError(f"{path}: the annotation lacks {error}") from error
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ModelFileError(f"{path}: not a usable annotation: {str(error)[:LONGEST_REASON]}") from error


def strip(upper: list[int], lower: list[int], points: np.ndarray) -> list[tuple[int, int, int]]:
    """Triangles that span the gap between two rims which share their ends, counter-clockwise from outside.

    Args:
        upper, lower: vertex ids from the person's right to left.
        points: (V, 3) positions; both rims are advanced in step with their lengths.
    """
    along = []
    for rim in (upper, lower):
        length = np.linalg.norm(np.diff(points[rim], axis=0), axis=1)
        along.append(np.concatenate([[0.0], np.cumsum(length)]) / length.sum())
    i = j = 0
    triangles = []
    while i < len(upper) - 1 or j < len(lower) - 1:
        if j == len(lower) - 1 or (i < len(upper) - 1 and along[0][i + 1] <= along[1][j + 1]):
            corners = (upper[i], lower[j], upper[i + 1])
            i += 1
        else:
            corners = (upper[i], lower[j], lower[j + 1])
            j += 1
        if len(set(corners)) == 3:
            triangles.append(corners)
    return triangles


def _parts(content: dict[str, Any], mean: np.ndarray, faces: np.ndarray) -> PartAnnotation:
    fields, labels = [], []
    for name, part in content["parts"].items():
        label = PART_IDS.get(name.split("/")[0])
        if label is None:
            raise ValueError(f"unknown part '{name}'")
        ids = _ids(part["vertices"], len(mean), f"part '{name}'")
        values = _numbers(part["field_m"], f"part '{name}'")
        if ids.ndim != 1 or ids.shape != values.shape:
            raise ValueError(f"part '{name}' has {ids.size} vertices and {values.size} values")
        field = np.full(len(mean), FAR_OUTSIDE_M, np.float32)
        field[ids] = values
        fields.append(field)
        labels.append(label)

    surface = faces[_list_of_ids(content["surface"], len(faces), "surface")]
    quads = surface[surface[:, 3] >= 0]
    triangles = [surface[:, :3], quads[:, [0, 2, 3]]]
    fixed = [np.full(len(surface) + len(quads), -1)]
    rims = {}
    for name in OPENINGS:
        upper, lower = (_list_of_ids(content["openings"][name][side], len(mean), name) for side in ("upper", "lower"))
        if min(len(upper), len(lower)) < 3 or upper[0] != lower[0] or upper[-1] != lower[-1]:
            raise ValueError(f"the rims of '{name}' must share their two corners")
        patch = np.array(strip(upper.tolist(), lower.tolist(), mean))
        triangles.append(patch)
        fixed.append(np.full(len(patch), PART_IDS[name]))
        rims[name] = (torch.from_numpy(upper), torch.from_numpy(lower))
    return PartAnnotation(
        triangles=torch.from_numpy(np.concatenate(triangles).astype(np.int64)),
        fixed_label=torch.from_numpy(np.concatenate(fixed).astype(np.int64)),
        fields=torch.from_numpy(np.stack(fields)),
        field_labels=torch.tensor(labels, dtype=torch.int64),
        rims=rims,
    )


def _landmarks(content: dict[str, Any], layout: LandmarkLayout, vertex_count: int) -> LandmarkEmbedding:
    entry = content["landmarks"][layout]
    points = _surface_points(entry["vertices"], entry["weights"], vertex_count, layout)
    if points.vertices.shape != (LANDMARK_COUNTS[layout], 3):
        raise ValueError(
            f"{layout} has shape {tuple(points.vertices.shape)}, expected {LANDMARK_COUNTS[layout]} points"
        )
    sliding = _ids(entry["sliding"], LANDMARK_COUNTS[layout], f"{layout} sliding")
    paths = _surface_points(entry["path_vertices"], entry["path_weights"], vertex_count, f"{layout} paths")
    if sliding.ndim != 1 or paths.vertices.ndim != 3 or paths.vertices.shape[0] != sliding.shape[0]:
        raise ValueError(f"{layout} has {sliding.size} sliding landmarks and paths {tuple(paths.vertices.shape)}")
    return LandmarkEmbedding(points, torch.from_numpy(sliding), paths)


def _surface_points(vertices: Any, weights: Any, vertex_count: int, what: str) -> SurfacePoints:
    ids, values = _ids(vertices, vertex_count, what), _numbers(weights, what)
    if ids.shape != values.shape or ids.shape[-1] != 3:
        raise ValueError(f"{what}: vertices {ids.shape} and weights {values.shape} must both be (..., 3)")
    total = values.sum(axis=-1, keepdims=True)
    if np.abs(total - 1.0).max() > 1e-2:
        raise ValueError(f"{what}: weights must sum to 1")
    return SurfacePoints(torch.from_numpy(ids), torch.from_numpy((values / total).astype(np.float32)))


def _ids(values: Any, count: int, what: str) -> np.ndarray:
    ids = np.array(values)
    if ids.size == 0 or ids.dtype.kind != "i":
        raise ValueError(f"{what}: expected whole numbers")
    if ids.min() < 0 or ids.max() >= count:
        raise ValueError(f"{what}: ids must lie in 0 ... {count - 1}, got {ids.min()} ... {ids.max()}")
    return ids.astype(np.int64)


def _list_of_ids(values: Any, count: int, what: str) -> np.ndarray:
    ids = _ids(values, count, what)
    if ids.ndim != 1:
        raise ValueError(f"{what}: expected a list of whole numbers")
    return ids


def _numbers(values: Any, what: str) -> np.ndarray:
    numbers = np.array(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{what}: not a finite number")
    return numbers
