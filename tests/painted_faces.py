"""Painted faces for the tests of FaRL, and networks that know them.

Each class of a network has a colour, and a face is a drawing in canonical coordinates, the middle between the eyes at
the origin, the eyes 2 apart, y down, that may be turned, scaled and moved. `ByColour` is a TorchScript network with
FaRL's inputs and outputs that answers with the class of the colour it sees; `ByPlace` answers with what was written on
its square, whatever it sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
import torch
from scipy import ndimage

from fit3d.labels import (
    BACKGROUND,
    HAIR,
    INNER_MOUTH,
    LEFT_EYE,
    LEFT_EYEBROW,
    LOWER_LIP,
    NOSE,
    OTHER,
    RIGHT_EYE,
    RIGHT_EYEBROW,
    SKIN,
    UPPER_LIP,
)
from fit3d.landmarks import LandmarkLayout
from fit3d.observe.base import Backend, Landmarks
from fit3d.photo import Photo

PARTS = {
    "lapa": (
        *(BACKGROUND, SKIN, RIGHT_EYEBROW, LEFT_EYEBROW, RIGHT_EYE, LEFT_EYE),
        *(NOSE, UPPER_LIP, INNER_MOUTH, LOWER_LIP, HAIR),
    ),
    "celebm": (
        *(BACKGROUND, OTHER, SKIN, OTHER, OTHER, OTHER, RIGHT_EYEBROW, LEFT_EYEBROW, RIGHT_EYE, LEFT_EYE),
        *(NOSE, INNER_MOUTH, LOWER_LIP, UPPER_LIP, HAIR, OTHER, OTHER, OTHER, OTHER),
    ),
}
"""Label of each class, by hand."""
VARIANTS = tuple(PARTS)
SIDE = 448
NOTHING = Backend("test", "0")


# Networks


class ByColour(torch.nn.Module):
    """The probability of a class falls off with the square of how far the colour is from its own."""

    def __init__(self, colours: np.ndarray, sharpness: float = 2000.0) -> None:
        super().__init__()
        self.register_buffer("colours", torch.from_numpy(colours).float() / 255.0)
        self.sharpness = sharpness

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, K, 448, 448) and, as FaRL gives, something beside them, of images (B, 3, 448, 448)."""
        own = self.colours.square().sum(1)[:, None, None]
        away = image.square().sum(1, keepdim=True) + own - 2.0 * torch.einsum("bchw,kc->bkhw", image, self.colours)
        return -self.sharpness * away, away.mean()


class ByPlace(torch.nn.Module):
    """The same logits for every image."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `ByColour`."""
        return self.logits[None].expand(image.size(0), -1, -1, -1).contiguous(), image.mean()


@cache
def colours_of(variant: str) -> np.ndarray:
    """(K, 3) uint8, one for each class; the first is black. Mixtures of two, as at borders, are not near to a third."""
    rng = np.random.default_rng(3)
    chosen = [np.zeros(3)]
    while len(chosen) < len(PARTS[variant]):
        new = rng.integers(0, 256, 3).astype(float)
        pairs = [(one, other) for number, one in enumerate(chosen) for other in chosen[:number]]
        mixtures = [(new, *pair) for pair in pairs] + [(three[0], new, three[1]) for three in permutations(chosen, 2)]
        if min(np.linalg.norm(new - one) for one in chosen) > 45.0 and all(
            _from_mixture(*of) > 20.0 for of in mixtures
        ):
            chosen.append(new)
    return np.array(chosen, np.uint8)


def _from_mixture(colour: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """Distance of a colour from the line between two others."""
    along = other - one
    share = np.clip((colour - one) @ along / (along @ along), 0.0, 1.0)
    return float(np.linalg.norm(colour - one - share * along))


# Faces

FIVE = np.array([(-1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (-0.6, 2.24), (0.6, 2.24)])
"""Eyes, tip of the nose, corners of the mouth, as facer's standard face has them, in half distances of its eyes."""
_ELLIPSES: tuple[tuple[str, float, float, float, float], ...] = (
    ("hair", 0.0, 0.4, 2.9, 3.6),
    ("face", 0.0, 1.0, 2.3, 3.0),
    ("rb", -1.0, -0.75, 0.6, 0.22),
    ("lb", 1.0, -0.75, 0.6, 0.22),
    ("re", -1.0, 0.0, 0.45, 0.25),
    ("le", 1.0, 0.0, 0.45, 0.25),
    ("nose", 0.0, 0.8, 0.4, 0.7),
    ("ulip", 0.0, 2.1, 0.75, 0.3),
    ("llip", 0.0, 2.5, 0.65, 0.3),
    ("imouth", 0.0, 2.3, 0.5, 0.2),
    ("eyeg", -2.1, 0.0, 0.2, 0.2),
    ("earr", 2.5, 1.2, 0.2, 0.3),
    ("hat", 0.0, -2.6, 1.5, 0.5),
    ("cloth", 0.0, 3.9, 2.0, 0.2),
    ("neck", 0.0, 3.5, 0.8, 0.3),
    ("rr", -2.4, 0.8, 0.15, 0.4),
    ("lr", 2.4, 0.5, 0.15, 0.3),
    ("neck_l", 0.0, 3.5, 0.8, 0.1),
)
"""Class, centre and half axes, canonical; later ones hide earlier ones."""


@dataclass(frozen=True)
class Face:
    """Where a face lies in a photo."""

    x: float
    y: float
    """Middle between the eyes, photo px, the corner of the photo at (0, 0)."""
    unit: float
    """Half the distance between the eyes, px."""
    turn: float = 0.0
    """Radians, clockwise as seen."""

    def px(self, canonical: np.ndarray) -> np.ndarray:
        """Photo px (..., 2)."""
        cos, sin = self.unit * math.cos(self.turn), self.unit * math.sin(self.turn)
        return canonical @ np.array([[cos, sin], [-sin, cos]]) + (self.x, self.y)

    def classes(self, height: int, width: int, names: Sequence[str]) -> np.ndarray:
        """(H, W) class of each pixel's centre."""
        y, x = np.mgrid[0:height, 0:width] + 0.5
        cos, sin = math.cos(self.turn) / self.unit, math.sin(self.turn) / self.unit
        u, v = cos * (x - self.x) + sin * (y - self.y), -sin * (x - self.x) + cos * (y - self.y)
        result = np.zeros((height, width), np.int64)
        for name, at_u, at_v, across, along in _ELLIPSES:
            if name in names:
                result[((u - at_u) / across) ** 2 + ((v - at_v) / along) ** 2 < 1.0] = list(names).index(name)
        return result

    def landmarks(self, layout: LandmarkLayout = "ibug68") -> Landmarks:
        """The five points where they belong, all others on the outline of the face."""
        count, (right, left, nose, *corners) = {
            "ibug68": (68, ((36, 39), (42, 45), 30, 48, 54)),
            "mediapipe478": (478, ((33, 133), (362, 263), 4, 61, 291)),
        }[layout]
        around = np.linspace(0.0, 2.0 * np.pi, count)
        points = np.stack([2.0 * np.sin(around), 1.0 + 2.6 * np.cos(around)], -1)
        for (outer, inner), eye in ((right, FIVE[0]), (left, FIVE[1])):
            points[outer], points[inner] = eye - (0.4, 0.02), eye + (0.4, 0.02)
        points[[nose, *corners]] = FIVE[2:]
        return Landmarks(layout, self.px(points), NOTHING)


def painted(face: Face, height: int, width: int, variant: str, names: Sequence[str]) -> tuple[Photo, np.ndarray]:
    """A photo of a face and its labels."""
    classes = face.classes(height, width, names)
    photo = Photo.from_array(colours_of(variant)[classes], name="painted.png")
    return photo, np.array(PARTS[variant], np.uint8)[classes]


def near_borders(labels: np.ndarray, distance_px: float) -> np.ndarray:
    """Pixels (H, W) so near to another label, or to the end of the photo."""
    padded = np.pad(labels, 1, constant_values=255)
    same = ndimage.maximum_filter(padded, 3) == ndimage.minimum_filter(padded, 3)
    return (ndimage.distance_transform_edt(same) <= distance_px)[1:-1, 1:-1]
