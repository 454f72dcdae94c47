"""REALY's 85 keypoints on a face model of ours.

Where each comes from, and how sure it is:

- 17 to 67, `landmark`: the model's own iBUG landmarks. REALY's are iBUG's too, set by other hands on another mesh.
- 0 to 16, `outline`: the model's landmarks of the jaw, where they lie on the frontal view of the mean head. Only 7, 8
  and 9, the chin, are used. On a photo the outline slides over the surface, so these are less sure.
- 68 to 73, 76 and 77, `grid`: points of the cheeks that REALY defines nowhere in words. They were read off its
  published keypoints of the Basel Face Model, whose mean head gives them as in `CHEEKS`; the frontal projection of that
  place onto the model's mean head. Only 70, 71 (beside the nose) and 76, 77 (outer cheeks) are used. Sure to a few
  millimetres.
- 74, 75 and 78 to 84, `unused`: no step of the protocol reads them. They repeat a landmark near them, so that the file
  is complete.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from fit3d.errors import UsageError
from fit3d.evaluate.realy.keypoints import COUNT, USED
from fit3d.morphable.model import MorphableModel

How = Literal["landmark", "outline", "grid", "unused"]
SURE: dict[How, str] = {
    "landmark": "as sure as the model's landmark",
    "outline": "a few millimetres along the jaw",
    "grid": "a few millimetres",
    "unused": "a stand-in that no figure depends on",
}
CHEEKS: dict[int, tuple[float, float]] = {68: (0.915, 0.247), 70: (0.598, 0.505), 72: (1.0, 0.902), 76: (1.259, 0.558)}
"""Keypoints of the person's right cheek; the next number is its mirror image. First how far to the side, from the
middle, as a share of half the distance between the outer corners of the eyes; then how far down, as a share of the way
from these corners to the corners of the mouth."""
STAND_INS = {74: 3, 75: 13, 78: 7, 79: 57, 80: 9, 81: 4, 82: 12, 83: 3, 84: 13}
"""Which landmark an unused keypoint repeats."""
_LANDMARKS, _OUTLINE = 68, 17
_OUTER_EYES, _MOUTH_CORNERS = (36, 45), (48, 54)


@dataclass(frozen=True)
class ModelKeypoints:
    """The keypoints of one model."""

    model: str
    version: str
    vertex_count: int
    vertices: np.ndarray
    """(85, 3) int64."""
    weights: np.ndarray
    """(85, 3) float64."""
    how: tuple[How, ...]

    def content(self) -> dict[str, Any]:
        """What fit3d's form of the file holds."""
        points = [
            {
                "index": index,
                "vertices": ids,
                "weights": [round(each, 6) for each in weights],
                "how": how,
                "sure": SURE[how],
                "used": index in USED,
            }
            for index, (ids, weights, how) in enumerate(
                zip(self.vertices.tolist(), self.weights.tolist(), self.how, strict=True)
            )
        ]
        return {
            "kind": "REALY keypoints",
            "model": self.model,
            "version": self.version,
            "vertices": self.vertex_count,
            "points": points,
        }

    def text(self) -> str:
        """The file in fit3d's form, a keypoint a line."""
        content = self.content()
        points = ",\n".join(f"    {json.dumps(point)}" for point in content.pop("points"))
        head = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in content.items())
        return f'{{\n{head}  "points": [\n{points}\n  ]\n}}\n'

    def realy_text(self) -> str:
        """The file in REALY's form, for the mesh of `template_obj`: keypoint n lies in its triangle n."""
        rows = [[index, *(round(each, 9) for each in w[:2])] for index, w in enumerate(self.weights.tolist())]
        return json.dumps(rows, separators=(",", ":")) + "\n"

    def template_obj(self, model: MorphableModel) -> str:
        """The mean head as an OBJ whose first 85 triangles are those of the keypoints."""
        triangles = np.concatenate([self.vertices, model.triangles.astype(np.int64)])
        lines = [f"v {x:.7f} {y:.7f} {z:.7f}" for x, y, z in model.mean.double().tolist()]
        lines += [f"f {a} {b} {c}" for a, b, c in (triangles + 1).tolist()]
        return "\n".join([*lines, ""])


def keypoints_of(model: MorphableModel) -> ModelKeypoints:
    """The 85 keypoints of a model. Raises UsageError where it lacks iBUG's landmarks."""
    if "ibug68" not in model.landmarks:
        raise UsageError(f"the face model '{model.name}' has no iBUG landmarks; annotate it anew")
    landmarks = model.landmarks["ibug68"].points
    ids, weights = np.zeros((COUNT, 3), np.int64), np.zeros((COUNT, 3))
    how: list[How] = ["unused"] * COUNT
    ids[:_LANDMARKS], weights[:_LANDMARKS] = landmarks.vertices.numpy(), landmarks.weights.numpy()
    for index in range(_LANDMARKS):
        how[index] = "outline" if index < _OUTLINE else "landmark"
    for index, place in _cheeks_xy(landmarks.of(model.mean.double())).items():
        ids[index], weights[index] = _in_front(model, place)
        how[index] = "grid"
    for index, landmark in STAND_INS.items():
        ids[index], weights[index] = ids[landmark], weights[landmark]
    weights /= weights.sum(1, keepdims=True)  # float32 in the model
    return ModelKeypoints(model.name, model.version, len(model.mean), ids, weights, tuple(how))


def _cheeks_xy(landmarks: Tensor) -> dict[int, np.ndarray]:
    """Where the keypoints of the cheeks lie in the frontal view, from the landmarks (68, 3) of the mean head."""
    right_eye, left_eye = landmarks[list(_OUTER_EYES)].numpy()
    mouth = landmarks[list(_MOUTH_CORNERS)].numpy().mean(0)
    eyes, half = (right_eye + left_eye) / 2.0, (left_eye - right_eye) / 2.0
    places = {}
    for index, (aside, down) in CHEEKS.items():
        middle = eyes + down * (mouth - eyes)
        places[index], places[index + 1] = (middle - aside * half)[:2], (middle + aside * half)[:2]
    return places


def _in_front(model: MorphableModel, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertex ids (3,) and weights (3,) of the foremost point of the mean head's outer surface at x, y."""
    outer = model.annotation.triangles[model.annotation.fixed_label < 0].numpy()
    corners = model.mean.double().numpy()[outer]
    a, b, c = corners[:, :, :2].transpose(1, 0, 2)
    area = _cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.stack(
            [_cross(b - place, c - place), _cross(c - place, a - place), _cross(a - place, b - place)], 1
        )
        weights /= area[:, None]
    inside = np.flatnonzero((weights >= 0.0).all(1))
    if not len(inside):
        raise UsageError(f"the face model '{model.name}' has no cheek where REALY's keypoints lie; is it a whole face?")
    depth = (corners[inside, :, 2] * weights[inside]).sum(1)
    best = inside[int(depth.argmax())]
    return outer[best], weights[best]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
