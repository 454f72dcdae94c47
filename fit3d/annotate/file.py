"""Writes an annotation as the JSON file that `fit3d.morphable.annotation` reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from fit3d.annotate.transfer import Annotated
from fit3d.export.files import write_text
from fit3d.labels import PART_NAMES
from fit3d.morphable.annotation import SCHEMA
from fit3d.morphable.model import MorphableModel

REACH_M = 0.02
"""Fields are listed where they exceed minus this, and cut off at this."""


def as_json(annotated: Annotated, model: MorphableModel) -> dict[str, Any]:
    """The content of the file."""
    used = np.zeros(len(model.mean), bool)
    corners = model.faces[annotated.surface]
    used[np.unique(corners[corners >= 0])] = True
    parts: dict[str, Any] = {}
    for field, label in zip(
        annotated.parts.fields.double().numpy(), annotated.parts.field_labels.tolist(), strict=True
    ):
        name = PART_NAMES[label]
        again = sum(each.split("/")[0] == name for each in parts)
        ids = np.flatnonzero(used & (field > -REACH_M))
        if len(ids) == 0:
            continue
        rounded = np.round(np.minimum(field[ids], REACH_M), 5) + 0.0  # -0.0 becomes 0.0: the same file every time
        parts[f"{name}/{again + 1}" if again else name] = {"vertices": ids.tolist(), "field_m": rounded.tolist()}
    return {
        "schema": SCHEMA,
        "model": model.name,
        "vertex_count": len(model.mean),
        "parts": parts,
        "openings": {
            name: {"upper": upper.tolist(), "lower": lower.tolist()}
            for name, (upper, lower) in annotated.parts.rims.items()
        },
        "surface": annotated.surface.tolist(),
        "landmarks": {
            layout: {
                "vertices": embedding.points.vertices.tolist(),
                "weights": _rounded(embedding.points.weights.double().numpy()),
                "sliding": embedding.sliding.tolist(),
                "path_vertices": embedding.paths.vertices.tolist(),
                "path_weights": _rounded(embedding.paths.weights.double().numpy()),
            }
            for layout, embedding in sorted(annotated.landmarks.items())
        },
    }


def write_annotation(annotated: Annotated, model: MorphableModel, path: Path) -> None:
    """Replace the file in one go; a line for each list, so that changes can be read."""
    text = re.sub(r'("\w+(?:/\w+)?":)', r"\n\1", json.dumps(as_json(annotated, model), separators=(",", ":")))
    write_text(path, text + "\n")


def _rounded(weights: np.ndarray) -> Any:
    return (np.round(weights, 4) + 0.0).tolist()
