"""Faces of dots for the tests of FAN: what they look like, and a network and detectors that know them.

The photos show 68 soft dots in place of a face, both of a pair in one colour. `DotNetwork` stands for a trained FAN: it
knows all dots, tells left from right by their place beside the midline, and guesses, unsure, that a face that lies
stands.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.nn import functional

from fit3d.observe.base import Landmarks
from fit3d.photo import Photo

PAIRS = (
    *((right, 16 - right) for right in range(8)),
    *((17 + step, 26 - step) for step in range(5)),
    *((31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
    *((48, 54), (49, 53), (50, 52), (58, 56), (59, 55), (60, 64), (61, 63), (67, 65)),
)
"""iBUG's points on the person's right, which lie left in a photo, and their partners."""
MIDLINE = (27, 28, 29, 30, 33, 51, 62, 66, 57, 8)
"""From the nasion down to the chin."""
SPACING = 6.0 / 64.0
"""Between dots, in sides of FAN's crop."""
DOT = 1.2 / 64.0
"""Standard deviation of a dot, in sides of FAN's crop."""


def _colours(count: int) -> np.ndarray:
    """(count, 3) unit vectors, far apart."""
    at = np.arange(count) + 0.5
    height, turn = 1.0 - 2.0 * at / count, np.pi * (1.0 + 5.0**0.5) * at
    radius = np.sqrt(1.0 - height**2)
    return np.column_stack([radius * np.cos(turn), radius * np.sin(turn), height])


COLOUR = np.empty((68, 3))
"""Of each landmark's dot, from grey; both of a pair have the same."""
PLACE = np.empty((68, 2))
"""Of each dot, from the middle of the crop, in sides of the crop."""
_each = _colours(len(MIDLINE) + len(PAIRS))
for _row, _point in enumerate(MIDLINE):
    COLOUR[_point], PLACE[_point] = _each[_row], (0.0, _row - 4.5)
for _number, (_right, _left) in enumerate(PAIRS):
    COLOUR[[_right, _left]] = _each[len(MIDLINE) + _number]
    PLACE[_right] = (-(_number // 8) - 1.0, _number % 8 - 3.5)
    PLACE[_left] = (_number // 8 + 1.0, _number % 8 - 3.5)
PLACE *= SPACING


@dataclass(frozen=True)
class Head:
    """A face of dots."""

    x: float
    y: float
    """Where the middle of FAN's crop belongs, photo px."""
    face: float
    """Side of the box that a detector would draw, photo px."""
    turn: float = 0.0
    """Radians clockwise, as seen."""

    @property
    def side(self) -> float:
        """Of FAN's crop, photo px: the package takes 200 / 195 times width and height together."""
        return 200.0 * 2.0 * self.face / 195.0

    @property
    def points(self) -> np.ndarray:
        """(68, 2) photo px."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return np.array([self.x, self.y]) + self.side * PLACE @ np.array([[cos, sin], [-sin, cos]])

    def box(self) -> np.ndarray:
        """(5,) what a detector says of it upright; the package's crop is centred 0.12 box heights above the box's."""
        x, y = self.x, self.y + 0.12 * self.face
        return np.array([x - self.face / 2, y - self.face / 2, x + self.face / 2, y + self.face / 2, 0.9])


def draw(width: int, height: int, *heads: Head, only: tuple[int, ...] = tuple(range(68))) -> Photo:
    """A grey photo with dots at the points of some faces."""
    pixels = np.full((height, width, 3), 0.5)
    for head in heads:
        spread = DOT * head.side
        reach = int(np.ceil(4.0 * spread))
        for point in only:
            x, y = head.points[point]
            left, right = max(int(x) - reach, 0), min(int(x) + reach + 1, width)
            top, bottom = max(int(y) - reach, 0), min(int(y) + reach + 1, height)
            if left >= right or top >= bottom:
                continue
            columns, rows = np.arange(left, right) + 0.5 - x, np.arange(top, bottom) + 0.5 - y
            dot = np.exp(-(columns[None] ** 2 + rows[:, None] ** 2) / (2.0 * spread**2))
            pixels[top:bottom, left:right] += 0.45 * dot[..., None] * COLOUR[point]
    return Photo.from_array(np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8))


def gaussians(at: np.ndarray, height: np.ndarray | float = 1.0) -> np.ndarray:
    """Heatmaps (N, 64, 64) with a peak at each of `at` (N, 2), px from the corner, as FAN was trained to draw them."""
    centres = np.arange(64) + 0.5
    squared = (centres - at[:, :1])[:, None, :] ** 2 + (centres - at[:, 1:])[:, :, None] ** 2
    return np.asarray(height).reshape(-1, 1, 1) * np.exp(-squared / (2.0 * 1.75**2))


class DotNetwork(torch.nn.Module):
    """Heatmaps (N, 68, 64, 64) of crops (N, 3, 256, 256), as a trained FAN gives them."""

    def forward(self, crops: torch.Tensor) -> list[torch.Tensor]:
        colour = torch.from_numpy(COLOUR).to(crops)
        crops = torch.where(crops.sum(1, keepdim=True) < 0.1, 0.5, crops)  # beyond the photo
        seen = torch.einsum("pc,nchw->nphw", colour, functional.avg_pool2d(crops, 4) - 0.5) / 0.45
        grid = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="xy"))
        for each in seen:
            nasion, chin = (grid.flatten(1)[:, each[point].argmax()] for point in (27, 8))
            down = (chin - nasion) / (chin - nasion).norm().clamp(min=1e-3)
            left = (grid - nasion[:, None, None]).mul(torch.stack([down[1], -down[0]])[:, None, None]).sum(0) > 0.0
            for point_right, point_left in PAIRS:
                each[point_right] *= ~left
                each[point_left] *= left
            if down[1] < 0.5:
                each[:] = 0.15 * torch.from_numpy(gaussians(64.0 * PLACE + 32.0)).to(each)
            else:
                each *= 0.05 + 0.85 * float(down[1]) ** 2
        return [torch.zeros_like(seen), seen]


class Finder:
    """A detector that sees faces of dots which stand upright and are at least `least_px` large in the picture."""

    reference_scale = 195

    def __init__(self, least_px: float = 24.0) -> None:
        self.least_px = least_px
        self.shapes: list[tuple[int, ...]] = []

    def detect_from_image(self, picture: np.ndarray) -> list[np.ndarray]:
        self.shapes.append(picture.shape)
        shown = cv2.GaussianBlur(picture.astype(np.float32) / 255.0 - 0.5, (0, 0), 0.8)
        # the dots of lids and lips give the same colour again at the border to black, but fainter
        nasion, chin = (self._brightest(shown @ COLOUR[point].astype(np.float32)) for point in (27, 8))
        if nasion is None or chin is None or chin[1] - nasion[1] <= 3.0 * abs(chin[0] - nasion[0]):
            return []
        side = np.linalg.norm(chin - nasion) / (9.0 * SPACING)
        head = Head(*(nasion + chin) / 2.0, face=side * 195.0 / 400.0)
        return [head.box()] if head.face >= self.least_px else []

    def detect_from_batch(self, batch: torch.Tensor) -> list[list[np.ndarray]]:
        return [self.detect_from_image(picture.permute(1, 2, 0).numpy()) for picture in batch]

    @staticmethod
    def _brightest(response: np.ndarray) -> np.ndarray | None:
        row, column = np.unravel_index(response.argmax(), response.shape)
        return np.array([column + 0.5, row + 0.5]) if response[row, column] > 0.2 else None


class Boxes:
    """A detector that knows the faces of a photo of some size and sees them in any upright view of all of it."""

    reference_scale = 195

    def __init__(self, width: int, *heads: Head) -> None:
        self.width, self.heads, self.looks = width, heads, 0

    def detect_from_image(self, picture: np.ndarray) -> list[np.ndarray]:
        self.looks += 1
        return [np.append(head.box()[:4] * picture.shape[1] / self.width, 0.9) for head in self.heads]


def assert_found(found: Landmarks, head: Head, points: np.ndarray | None = None, tolerance: float = 0.03) -> None:
    """Each landmark at its dot: within `tolerance` pixels of a heatmap, which is far less than half a crop px."""
    apart = np.abs(found.points_px - (head.points if points is None else points)).max(1)
    assert found.layout == "ibug68"
    assert apart.max() < tolerance * head.side / 64.0, (apart.argmax(), apart.max())
