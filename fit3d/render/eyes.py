"""Eyeballs with a whole white, iris and pupil, in the colours and looking the way that the photo shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fit3d.morphable.model import MorphableModel
from fit3d.morphable.pieces import piece_kind
from fit3d.render.atlas import Atlas
from fit3d.render.colours import IRIS, LUMA, SCLERA
from fit3d.render.photo_source import Sample

IRIS_ANGLE_DEG, PUPIL_ANGLE_DEG = 28.0, 9.0
"""Half angle of iris and pupil seen from the middle of the eyeball, degrees."""

FEWEST_EYE_TEXELS = 20
"""Texels of an eye that must be seen to tell its colours and where it looks."""


@dataclass(frozen=True)
class _Eyeball:
    """The n texels of one eyeball."""

    texels: np.ndarray
    """(n,) indices into the atlas's texels."""
    towards: np.ndarray
    """(n, 3) unit vectors from the middle of the ball to the texels, world."""
    ahead: np.ndarray
    """(3,) unit vector to the front pole, world."""
    rgb: np.ndarray
    """(n, 3) what the photo shows there."""
    trust: np.ndarray
    """(n,) as in `Sample`; 0 where nothing is seen."""

    @property
    def seen(self) -> np.ndarray:
        """(n,) bool."""
        return np.asarray(self.trust > 0.4)

    def angle_deg(self, look: np.ndarray) -> np.ndarray:
        """(n,) angle between the texels and the direction `look`, degrees."""
        return np.asarray(np.degrees(np.arccos((self.towards @ look).clip(-1.0, 1.0))))


def paint_eyes(
    vertices: np.ndarray, model: MorphableModel, atlas: Atlas, direct: Sample, tone: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """White, iris and pupil on each eyeball in the colours that the photo shows: its texels (n,) and their (n, 3).

    An eye of which too little is seen looks the way of the other, and without either both look ahead. `tone` (3,) is
    by how much what is not seen is darkened and tinted to suit the photo.
    """
    balls = _eyeballs(vertices, model, atlas, direct)
    if not balls:
        return []
    rgb = np.concatenate([ball.rgb[ball.seen] for ball in balls])
    usual = np.asarray(SCLERA, np.float32) * tone.astype(np.float32)
    white, iris = usual, np.asarray(IRIS, np.float32)
    gaze: list[np.ndarray | None] = [None] * len(balls)
    if len(rgb) >= FEWEST_EYE_TEXELS:
        light = rgb @ LUMA
        # glints are brighter than the white of the eye, so take the middle of the bright half
        white = np.median(rgb[(light >= np.quantile(light, 0.5)) & (light <= np.quantile(light, 0.95))], axis=0)
        # what is read there is half skin
        white = 0.5 * (white + usual * float(white @ LUMA) / float(usual @ LUMA))
        # an eye in deep shade says little of what the lids hide
        white *= max(1.0, 0.6 * float(usual @ LUMA) / max(float(white @ LUMA), 1e-3))
        dark, bright = np.quantile(light, [0.1, 0.8])
        gaze = [_gaze(ball, float(dark), float(bright)) for ball in balls]
        rings = [
            ball.rgb[ball.seen & (ball.angle_deg(look) > 1.3 * PUPIL_ANGLE_DEG)
                     & (ball.angle_deg(look) < 0.8 * IRIS_ANGLE_DEG)]
            for ball, look in zip(balls, gaze, strict=True)
            if look is not None
        ]  # fmt: skip
        found = np.concatenate([*rings, np.zeros((0, 3), np.float32)])
        if len(found) >= FEWEST_EYE_TEXELS:
            iris = np.median(found, axis=0)
    known = [look for look in gaze if look is not None]
    painted = []
    for ball, look in zip(balls, gaze, strict=True):
        angle = ball.angle_deg(look if look is not None else known[0] if known else ball.ahead)
        in_iris = ((IRIS_ANGLE_DEG + 1.5 - angle) / 3.0).clip(0.0, 1.0)[:, None]
        in_pupil = ((PUPIL_ANGLE_DEG + 1.0 - angle) / 2.0).clip(0.0, 1.0)[:, None]
        colours = white + in_iris * (iris - white)
        painted.append((ball.texels, colours + in_pupil * (0.25 * iris - colours)))
    return painted


def _eyeballs(vertices: np.ndarray, model: MorphableModel, atlas: Atlas, direct: Sample) -> list[_Eyeball]:
    """The model's eyeballs, as fitted to `vertices` (V, 3) and seen in the photo."""
    rest = model.mean.double().numpy()
    found = []
    for index, name in enumerate(model.objects):
        if piece_kind(name) != "eye":
            continue
        ids = np.unique(model.faces[model.face_objects == index])
        ids = ids[ids >= 0]
        texels = atlas.of_eyes.get(index)
        if len(ids) == 0 or texels is None:
            continue
        middle = vertices[ids].mean(0)
        towards = atlas.at(texels, (vertices - middle).astype(np.float32))
        towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-9)
        ahead = vertices[ids[np.argmax(rest[ids, 2])]] - middle
        ahead = (ahead / max(float(np.linalg.norm(ahead)), 1e-9)).astype(np.float32)
        rgb, trust = np.zeros((len(texels), 3), np.float32), np.zeros(len(texels), np.float32)
        # both ascend, and no texel is there twice
        _, here, place = np.intersect1d(direct.texels, texels, assume_unique=True, return_indices=True)
        rgb[place], trust[place] = direct.rgb[here], direct.trust[here]
        found.append(_Eyeball(texels, towards, ahead, rgb, trust))
    return found


def _gaze(ball: _Eyeball, dark: float, bright: float) -> np.ndarray | None:
    """(3,) unit direction to the middle of the iris, the dark that is seen; None where too little is seen."""
    if ball.seen.sum() < FEWEST_EYE_TEXELS:
        return None
    towards = ball.towards[ball.seen]
    weight = ((bright - ball.rgb[ball.seen] @ LUMA) / max(bright - dark, 1e-3) - 0.45).clip(0.0, 1.0)
    # lashes and the shadow of the lid are dark too, but lie far from the front pole
    weight *= (towards @ ball.ahead > math.cos(math.radians(50.0))) * ball.trust[ball.seen]
    if weight.sum() < 0.03 * len(weight):
        return None
    middle = (weight[:, None] * towards).sum(0)
    return np.asarray(middle / np.linalg.norm(middle))
