"""A face model as a loader reads it: geometry without parts and landmarks, in fit3d's units and frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fit3d.errors import ModelFileError
from fit3d.morphable.annotation import load_annotation
from fit3d.morphable.articulation import Articulation
from fit3d.morphable.model import MorphableModel


@dataclass(frozen=True, eq=False)
class RawModel:
    """What a loader makes of a model's files, before its annotation.

    World frame of `fit3d.camera`: metres, y up, z towards the viewer, +x to the person's left, the origin midway
    between the eyeball centres of the mean head.

    Raises:
        ModelFileError: shapes do not fit together, a number is not finite, an id is out of range.
    """

    name: str
    version: str
    licence: str
    """One plain sentence: what may be done with results, and whether they may be sold."""
    source: str
    """Who made the model and where it comes from."""
    mean: np.ndarray
    """(V, 3) float32, metres."""
    identity: np.ndarray
    """(K, V, 3) float32, metres per standard deviation."""
    expression: np.ndarray
    """(L, V, 3) float32, metres at coefficient 1; L may be 0. Of a turn, the displacement that it makes of the mean
    head."""
    expression_names: tuple[str, ...]
    expression_bounds: np.ndarray
    """(L, 2) float32, lowest and highest coefficient."""
    faces: np.ndarray
    """(F, 4) int32, vertex ids, counter-clockwise from outside; a triangle's last id is -1."""
    uv: np.ndarray
    """(U, 2) float32, origin bottom left; U is 0 where the model has no UVs."""
    uv_faces: np.ndarray
    """(F, 4) int32, uv ids of `faces`; all 0 where the model has no UVs."""
    objects: tuple[str, ...]
    """Names of the separate pieces; the skin is called 'head'."""
    face_objects: np.ndarray
    """(F,) uint8, index into `objects`."""
    landmarks68: np.ndarray | None = None
    """(68,) int64, vertex id of each iBUG-68 landmark, where the model's makers give them."""
    articulation: Articulation | None = None
    """float32: joints, where the model has some."""
    sha256: str = ""
    """Of what was read: it tells two versions of a model's files apart."""

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem is not None:
            raise ModelFileError(f"the face model '{self.name}' is not usable: {problem}")

    def _problem(self) -> str | None:
        """What is wrong, in words, or None."""
        vertices, faces = len(self.mean), len(self.faces)
        shapes: dict[str, tuple[np.ndarray, tuple[int, ...], type]] = {
            "mean": (self.mean, (vertices, 3), np.float32),
            "identity": (self.identity, (len(self.identity), vertices, 3), np.float32),
            "expression": (self.expression, (len(self.expression_names), vertices, 3), np.float32),
            "expression_bounds": (self.expression_bounds, (len(self.expression_names), 2), np.float32),
            "faces": (self.faces, (faces, 4), np.int32),
            "uv": (self.uv, (len(self.uv), 2), np.float32),
            "uv_faces": (self.uv_faces, (faces, 4), np.int32),
            "face_objects": (self.face_objects, (faces,), np.uint8),
        }
        if self.landmarks68 is not None:
            shapes["landmarks68"] = (self.landmarks68, (68,), np.int64)
        for what, (array, shape, dtype) in shapes.items():
            if array.shape != shape:
                return f"{what} has shape {array.shape}, expected {shape}"
            if array.dtype != dtype:
                return f"{what} holds {array.dtype}, expected {np.dtype(dtype)}"
            if dtype is np.float32 and not np.isfinite(array).all():
                return f"{what} holds numbers that are not finite"
        if vertices == 0 or faces == 0:
            return f"it has {vertices} vertices and {faces} faces"
        if len(self.identity) == 0 and len(self.expression_names) == 0:
            return "it has neither identity nor expression shapes"
        if len(set(self.expression_names)) < len(self.expression_names):
            return "two expressions have the same name"
        if (self.expression_bounds[:, 0] > self.expression_bounds[:, 1]).any():
            return "an expression's lowest coefficient lies above its highest"
        if self.faces[:, :3].min() < 0 or self.faces.min() < -1 or self.faces.max() >= vertices:
            return f"its faces name vertices outside 0 ... {vertices - 1}"
        if len(self.uv) > 0:
            corners = self.uv_faces[self.faces >= 0]
            if corners.min() < 0 or corners.max() >= len(self.uv):
                return f"its faces name UVs outside 0 ... {len(self.uv) - 1}"
        elif self.uv_faces.any():
            return "its faces name UVs and it has none"
        if self.face_objects.max() >= len(self.objects):
            return f"its faces name {self.face_objects.max() + 1} objects, it has {len(self.objects)}"
        if self.landmarks68 is not None and not (0 <= self.landmarks68.min() <= self.landmarks68.max() < vertices):
            return f"its landmarks name vertices outside 0 ... {vertices - 1}"
        return None if self.articulation is None else self.articulation.problem(vertices, self.expression_names)


def with_annotation(raw: RawModel, annotation: Path) -> MorphableModel:
    """The model that can be fitted: `raw` with the parts and landmarks of the file `annotation`.

    Raises:
        ModelFileError: the annotation is missing, damaged or of another model.
    """
    mean = torch.from_numpy(raw.mean)
    parts, landmarks = load_annotation(annotation, mean, raw.faces)
    return MorphableModel(
        name=raw.name,
        version=raw.version,
        licence=raw.licence,
        source=raw.source,
        mean=mean,
        identity=torch.from_numpy(raw.identity),
        expression=torch.from_numpy(raw.expression),
        expression_names=raw.expression_names,
        expression_bounds=torch.from_numpy(raw.expression_bounds),
        faces=raw.faces,
        uv=raw.uv,
        uv_faces=raw.uv_faces,
        objects=raw.objects,
        face_objects=raw.face_objects,
        annotation=parts,
        landmarks=landmarks,
        articulation=raw.articulation,
    )
