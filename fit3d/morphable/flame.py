"""Reads FLAME 2020, 2023 and 2023 Open.

Li, Bolkart, Black, Li, Romero: Learning a model of facial shape and expression from 4D scans, SIGGRAPH Asia 2017. With
shape b, expression e and pose t (a rotation for each of five joints: root, neck, jaw, left and right eye) a head is

    M(b, t, e) = W(T_P(b, t, e), J(b), t, S)                        (equation 1: linear blend skinning with weights S)
    T_P(b, t, e) = T + B_S(b) + B_P(t) + B_E(e)                     (equation 2)
    B_P(t) = sum_n (R_n(t) - R_n(0)) P_n                            (equation 4: pose correctives)

of which `fit3d.morphable.articulation` computes W and B_P. FLAME's own code takes the joints J from shape and
expression, so J(b, e), as is done here.

The rotations of neck, jaw and eyes are expressions, named as ARKit names them where it does, with an angle at
coefficient 1 (`TURNS`) and bounds: 0 ... 1, and -1 ... 1 for the neck. The root is the head's pose. A turn of the neck
looks the same as a turn of the whole head but for the neck itself, which neither landmarks nor parts see: fits leave it
at 0, and whoever poses a result may use it. FLAME's jaw does not slide, so there is no jawForward; the roll of jaw and
eyes is left out.

Where a linear model is needed, a turn is the displacement that it makes of the mean head. That is exact for the mean
head at 0 and 1. Errors elsewhere, mm, for a point of the jaw 0.1 m from its joint and a point of an eyeball at 12 mm:

                                                                                   jaw     eye
    one turn at 1 (22.5 degrees open, 8 aside; eyes 30)                            0       0
    one at 1/2: along the chord and not the arc, 2 r sin^2(angle / 4)              1.9     0.4
    two at 1 (open and aside; up and out)                                          2.7     1.6
    one at 1, on a head that differs there by d mm from the mean head, taken
    relative to the joint: 2 d sin(angle / 2)                                      0.4 d   0.5 d

Units are metres already, y up, z towards the viewer, +x to the person's left; the origin moves to midway between the
eye joints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fit3d.errors import ModelFileError
from fit3d.morphable.arrays import MOST_COMPONENTS, MOST_VERTICES, faces_of, ids, numbers
from fit3d.morphable.articulation import Articulation
from fit3d.morphable.raw import RawModel
from fit3d.morphable.restricted_pickle import array_of, load_npz, load_pickle

FlameEdition = Literal["2020", "2023", "2023 Open", "unknown"]

NON_COMMERCIAL = (
    "Non-commercial research, education and art only: results must not be sold or used in a product or service without "
    "a commercial licence from the Max Planck Society."
)
LICENCES: dict[FlameEdition, str] = {
    "2020": NON_COMMERCIAL,
    "2023": NON_COMMERCIAL,
    "2023 Open": "Creative Commons Attribution 4.0: results may be sold, if FLAME and its authors are named; not for "
    "pornographic, fake, libellous, misleading or defamatory pictures.",
    "unknown": NON_COMMERCIAL,
}
JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")
NECK, JAW, LEFT_EYE, RIGHT_EYE = 1, 2, 3, 4
LICENCE_URL = "https://flame.is.tue.mpg.de/modellicense.html"
VERTICES = 5023
IDENTITY_COUNT, EXPRESSION_COUNT = 300, 100
"""Shape components at the front of `shapedirs`, and after them those of the expressions. Both are standard normal."""
EXPRESSION_BOUND = 3.0
"""Standard deviations."""
STILL_M = 1e-6
"""A turn that moves no vertex further than this, metres, is left out: FLAME 2023 exists without jaw rotation."""

_JAW_OPEN, _JAW_ASIDE, _EYE = math.radians(22.5), math.radians(8.0), math.radians(30.0)
_NOD, _SHAKE, _TILT = math.radians(30.0), math.radians(45.0), math.radians(30.0)
TURNS: dict[str, tuple[int, tuple[float, float, float]]] = {
    "jawOpen": (JAW, (_JAW_OPEN, 0.0, 0.0)),
    "jawLeft": (JAW, (0.0, _JAW_ASIDE, 0.0)),
    "jawRight": (JAW, (0.0, -_JAW_ASIDE, 0.0)),
    "eyeLookUpLeft": (LEFT_EYE, (-_EYE, 0.0, 0.0)),
    "eyeLookUpRight": (RIGHT_EYE, (-_EYE, 0.0, 0.0)),
    "eyeLookDownLeft": (LEFT_EYE, (_EYE, 0.0, 0.0)),
    "eyeLookDownRight": (RIGHT_EYE, (_EYE, 0.0, 0.0)),
    "eyeLookInLeft": (LEFT_EYE, (0.0, -_EYE, 0.0)),
    "eyeLookInRight": (RIGHT_EYE, (0.0, _EYE, 0.0)),
    "eyeLookOutLeft": (LEFT_EYE, (0.0, _EYE, 0.0)),
    "eyeLookOutRight": (RIGHT_EYE, (0.0, -_EYE, 0.0)),
    "neckPitch": (NECK, (_NOD, 0.0, 0.0)),
    "neckYaw": (NECK, (0.0, _SHAKE, 0.0)),
    "neckRoll": (NECK, (0.0, 0.0, _TILT)),
}
"""By name: the joint and its rotation vector, radians, at coefficient 1. Positive turns of the neck look down, to the
person's left, and put the head on the right shoulder."""


@dataclass(frozen=True, eq=False)
class Flame:
    """The arrays of a FLAME file, metres, in FLAME's own frame; V vertices, J = 5 joints."""

    template: np.ndarray
    """(V, 3) float64."""
    shape: np.ndarray
    """(V, 3, B) float64: identity components, then expression components."""
    pose: np.ndarray
    """(V, 3, 9 (J - 1)) float64: P_n, joints in order without the root, matrix entries row by row."""
    joints_from_vertices: np.ndarray
    """(J, V) float64."""
    weights: np.ndarray
    """(V, J) float64, rows sum to 1."""
    parents: tuple[int, ...]
    """(J,) joint ids, -1 for the root; a parent comes before its children."""
    triangles: np.ndarray
    """(T, 3) int64."""


def articulation_of(flame: Flame, turns: Sequence[str], components: int) -> Articulation:
    """float64, in FLAME's own frame; the expressions are these `turns`, then `components` displacements."""
    turned = [TURNS[name] for name in turns]
    vectors = np.zeros((len(turned) + components, 3))
    vectors[: len(turned)] = np.reshape([vector for _, vector in turned], (-1, 3))
    return Articulation(
        joints=JOINTS,
        parents=flame.parents,
        held=tuple(name for name in turns if TURNS[name][0] == NECK),
        rest=torch.from_numpy(flame.joints_from_vertices @ flame.template),
        joints_from_vertices=torch.from_numpy(flame.joints_from_vertices),
        weights=torch.from_numpy(flame.weights),
        correctives=torch.from_numpy(np.ascontiguousarray(np.moveaxis(flame.pose, 2, 0))),
        turn_joint=torch.tensor([joint for joint, _ in turned] + [-1] * components, dtype=torch.int64),
        turn_vector=torch.from_numpy(vectors),
    )


def read_flame(path: Path, name: str = "flame", edition: FlameEdition | None = None) -> RawModel:
    """FLAME as downloaded (`generic_model.pkl`, `flame2023.pkl`, `flame2023_Open.pkl`) or the same entries as `.npz`.

    Args:
        edition: which FLAME it is and so which licence holds; by default told from the names of the file and its
            folder. A `generic_model.pkl` in a folder of another name counts as 'unknown' and non-commercial.

    Raises:
        ModelFileError: the file is truncated, asks for more than numbers, or is another model.
    """
    flame = read_flame_arrays(path)
    edition = edition or _edition(path)
    template = flame.template
    joints = flame.joints_from_vertices @ template
    identity = min(IDENTITY_COUNT, flame.shape.shape[2])
    components = flame.shape.shape[2] - identity
    every = articulation_of(flame, tuple(TURNS), 0).pose(torch.eye(len(TURNS), dtype=torch.float64))
    displacements = every.of(torch.from_numpy(template), torch.from_numpy(joints)).numpy() - template
    moving = np.abs(displacements).max(axis=(1, 2)) > STILL_M
    names = tuple(name for name, moves in zip(TURNS, moving, strict=True) if moves)
    posed = articulation_of(flame, names, components)
    bounds = [[-1.0 if name in posed.held else 0.0, 1.0] for name in names]
    bounds += [[-EXPRESSION_BOUND, EXPRESSION_BOUND]] * components
    origin = joints[[LEFT_EYE, RIGHT_EYE]].mean(axis=0)
    by_component = np.moveaxis(flame.shape, 2, 0)
    faces = faces_of(flame.triangles)
    # the eyeballs are pieces of their own and turn as a whole
    moved_by = flame.weights.argmax(axis=1)[flame.triangles[:, 0]]
    return RawModel(
        name=name,
        version=edition,
        licence=LICENCES[edition],
        source=f"FLAME {edition} (Li et al. 2017, flame.is.tue.mpg.de), {path.name}",
        mean=(template - origin).astype(np.float32),
        identity=by_component[:identity].astype(np.float32),
        expression=np.concatenate([displacements[moving], by_component[identity:]]).astype(np.float32),
        expression_names=(*names, *(f"expression_{k:02d}" for k in range(components))),
        expression_bounds=np.array(bounds, np.float32),
        faces=faces,
        uv=np.zeros((0, 2), np.float32),
        uv_faces=np.zeros_like(faces),
        objects=("head", "left_eyeball", "right_eyeball"),
        face_objects=np.select([moved_by == LEFT_EYE, moved_by == RIGHT_EYE], [1, 2], 0).astype(np.uint8),
        articulation=replace(posed, rest=posed.rest - torch.from_numpy(origin)).to(torch.float32),
    )


def read_flame_arrays(path: Path) -> Flame:
    """The arrays of a FLAME file, checked. Raises ModelFileError as `read_flame` does."""
    wanted = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
    content: Any = load_npz(path, wanted) if path.suffix.lower() == ".npz" else load_pickle(path)
    try:
        if not isinstance(content, dict):
            raise ValueError("holds no dict")
        lacking = [key for key in wanted if key not in content]
        if lacking:
            raise ValueError(f"lacks {', '.join(lacking)}")
        arrays = {}
        for key in wanted:
            try:
                arrays[key] = array_of(content[key])
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
        template = numbers(arrays["v_template"], "v_template", (None, 3))
        count, joints = len(template), len(JOINTS)
        if not 0 < count <= MOST_VERTICES:
            raise ValueError(f"v_template has {count} vertices")
        shape = numbers(arrays["shapedirs"], "shapedirs", (count, 3, None))
        if not 0 < shape.shape[2] <= MOST_COMPONENTS:
            raise ValueError(f"shapedirs has {shape.shape[2]} components")
        weights = numbers(arrays["weights"], "weights", (count, joints))
        if np.abs(weights.sum(axis=1) - 1.0).max() > 1e-3:
            raise ValueError("the skinning weights of a vertex do not sum to 1")
        table = numbers(arrays["kintree_table"], "kintree_table", (2, joints))
        # the root's parent is written as 2^32 - 1, -1 or its own id
        parents = (-1, *(int(parent) for parent in table[0, 1:]))
        if any(not 0 <= parent < j for j, parent in enumerate(parents[1:], start=1)):
            raise ValueError(f"kintree_table has the parents {parents}")
        return Flame(
            template=template,
            shape=shape,
            pose=numbers(arrays["posedirs"], "posedirs", (count, 3, 9 * (joints - 1))),
            joints_from_vertices=numbers(arrays["J_regressor"], "J_regressor", (joints, count)),
            weights=weights / weights.sum(axis=1, keepdims=True),
            parents=parents,
            triangles=ids(arrays["f"], "f", (None, 3), count),
        )
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}; expected FLAME 2020, 2023 or 2023 Open") from error


def _edition(path: Path) -> FlameEdition:
    """By the names of the file and its folder; the open licence only where they name it in full."""
    text = f"{path.resolve().parent.name}/{path.name}".lower()
    if re.search(r"flame[ _-]?2023[ _-]?open", text):
        return "2023 Open"
    year = re.search(r"flame[ _-]?(2020|2023)", text)
    if year is None:
        return "unknown"
    return "2023" if year[1] == "2023" else "2020"
