"""Places teeth and tongue in the bundled head and lets them move as bone and jaw do. Called by `bake.py`.

MakeHuman's teeth and tongue are crude helpers: an arch 72 mm wide that its targets shear and shift with the skin. Here
they get the size of real ones and three motions only:

- identity: one similarity (shift, rotation, scale) for all of them, the one that follows lips and mouth cavity best, so
  that the bite never opens and the clearance behind the lips stays;
- jaw: the rigid motion that follows the chin best, for lower teeth and tongue;
- `tongueOut`: MakeHuman's, for the tongue.

Upper teeth belong to the skull: no expression moves them. World frame of `fit3d.camera`, metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy.spatial import cKDTree

JAW_UNITS = ("jawOpen", "jawForward", "jawLeft", "jawRight")
"""Expressions that move the lower jaw."""
MOUTH_REACH_M = 0.008
"""How far from the teeth skin has a say in how they follow an identity (standard deviation of a Gaussian)."""
CHIN_CENTRE_M = (0.0, -0.1, 0.025)
CHIN_REACH_M = 0.012
"""Where the skin of the chin lies on the mean head, and how far round it (standard deviation of a Gaussian)."""
TONGUE_OUT = 0.85
"""How much of MakeHuman's tongueOut, scaled with the tongue, stays behind closed lips."""
ROTATION_HOLD = 0.3
"""How much a rotation with the identity is held back, relative to the data: lips tilt more than bone does."""


@dataclass(frozen=True)
class Placement:
    """Where a piece goes on the mean head: the anchor is moved to a place, the piece scaled about it."""

    edge_of_piece: str
    """The piece whose middle incisal edge is the anchor."""
    anchor_to: tuple[float, float]
    """y and z of the anchor afterwards, metres. The lips of the mean head meet at y = -0.071, z = 0.029 to 0.033."""
    scale: tuple[float, float, float]
    """Along x, y and z."""
    lean: float = 0.0
    """Afterwards, metres forwards per metre upwards: sets the crowns upright."""
    tilt: float = 0.0
    """Metres upwards per metre forwards: parts the molars, so that closed lips that gape a little show none."""


PLACEMENTS = MappingProxyType(
    {
        # 55 mm wide at the last molars, 11.5 mm high, edge 2 mm below where the lips meet
        "upper_teeth": Placement("upper_teeth", (-0.073, 0.0185), (0.765, 0.68, 0.9), lean=-0.17, tilt=-0.1),
        # inside the upper arch, edge 1 mm above and behind the upper one's
        "lower_teeth": Placement("lower_teeth", (-0.072, 0.0167), (0.71, 0.54, 0.88), tilt=0.17),
        "tongue": Placement("lower_teeth", (-0.0735, 0.0135), (0.7, 0.6, 0.8)),
    }
)


def middle_edge(mean: np.ndarray, piece: str, pieces: dict[str, slice]) -> np.ndarray:
    """(3,) the biting edge in the middle of 'upper_teeth' or 'lower_teeth'."""
    part = mean[pieces[piece]]
    middle = part[np.abs(part[:, 0]) < 1e-4]
    front = middle[middle[:, 2] > middle[:, 2].max() - 0.004]
    return front[np.argmin(front[:, 1]) if piece == "upper_teeth" else np.argmax(front[:, 1])]


def placed(mean: np.ndarray, pieces: dict[str, slice]) -> np.ndarray:
    """The mean head (V, 3) with teeth and tongue in their places."""
    moved = mean.copy()
    for name, placement in PLACEMENTS.items():
        anchor = middle_edge(mean, placement.edge_of_piece, pieces)
        to = np.array([0.0, *placement.anchor_to])
        arms = (mean[pieces[name]] - anchor) * np.array(placement.scale)
        up, forwards = arms[:, 1].copy(), arms[:, 2].copy()
        arms[:, 1] += placement.tilt * forwards
        arms[:, 2] += placement.lean * up
        moved[pieces[name]] = to + arms
    return moved


def similarity_motions(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(7, N, 3) the small shifts, rotations (about `centre`) and the scaling of points (N, 3)."""
    arms = points - centre
    shifts = [np.broadcast_to(axis, arms.shape) for axis in np.eye(3)]
    return np.array([*shifts, *(np.cross(axis, arms) for axis in np.eye(3)), arms])


def following_mouth(components: np.ndarray, mean: np.ndarray, pieces: dict[str, slice]) -> np.ndarray:
    """Identity components (K, V, 3) with teeth and tongue moving together by the mouth's similarity; linear in them.

    `mean` has the teeth in their places. Weighted least squares over the skin of lips and mouth cavity near the teeth.
    """
    hard = np.concatenate([mean[pieces["upper_teeth"]], mean[pieces["lower_teeth"]]])
    skin = mean[pieces["head"]]
    away, _ = cKDTree(hard).query(skin)
    near = np.flatnonzero(away < 3 * MOUTH_REACH_M)
    weights = np.exp(-((away[near] / MOUTH_REACH_M) ** 2) / 2)
    centre = np.average(skin[near], axis=0, weights=weights)
    motions = similarity_motions(skin[near], centre).reshape(7, -1)
    weighted = motions * np.repeat(weights, 3)
    gram = weighted @ motions.T
    hold = np.diag(np.diag(gram) * np.array([0.0, 0.0, 0.0, *[ROTATION_HOLD] * 3, 0.0]))
    solved = np.linalg.solve(gram + hold, weighted @ components[:, near].reshape(len(components), -1).T)
    followed = components.copy()
    for name in PLACEMENTS:
        followed[:, pieces[name]] = np.tensordot(solved.T, similarity_motions(mean[pieces[name]], centre), 1)
    return followed


def rigid_motion(points: np.ndarray, to: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation R (3, 3) and shift t (3,) with points @ R + t nearest to `to` (N, 3), least squares (Kabsch)."""
    centre, centre_to = np.average(points, axis=0, weights=weights), np.average(to, axis=0, weights=weights)
    u, _, vt = np.linalg.svd(((points - centre) * weights[:, None]).T @ (to - centre_to))
    rotation = (u * np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])) @ vt
    return rotation, centre_to - centre @ rotation


def on_jaw_and_skull(units: dict[str, np.ndarray], mean: np.ndarray, pieces: dict[str, slice]) -> dict[str, np.ndarray]:
    """Expressions (V, 3), metres at the size of `mean`, with the motions of jaw, skull and tongue.

    `mean` has the teeth in their places.
    """
    skin = mean[pieces["head"]]
    weights = np.exp(-(((skin - np.array(CHIN_CENTRE_M)) / CHIN_REACH_M) ** 2).sum(axis=1) / 2)
    on_bone = {}
    for name, field in units.items():
        moved = field.copy()
        for piece in PLACEMENTS:
            moved[pieces[piece]] = 0.0
        if name in JAW_UNITS:
            rotation, shift = rigid_motion(skin, skin + field[pieces["head"]], weights)
            for piece in ("lower_teeth", "tongue"):
                moved[pieces[piece]] = mean[pieces[piece]] @ rotation + shift - mean[pieces[piece]]
        elif name == "tongueOut":
            scale = TONGUE_OUT * np.array(PLACEMENTS["tongue"].scale)
            moved[pieces["tongue"]] = field[pieces["tongue"]] * scale
        on_bone[name] = moved
    return on_bone
