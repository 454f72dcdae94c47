"""An opening of the face between two rims, of an eye or of the mouth, in the photo and in the edit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fit3d.synthesise.picture import polygon
from fit3d.synthesise.warp import STILL_PX


@dataclass(frozen=True)
class Opening:
    """Rims (N, 2), px of the window, from the person's right corner to the left."""

    before_upper: np.ndarray
    """In the photo."""
    before_lower: np.ndarray
    after_upper: np.ndarray
    """In the edit."""
    after_lower: np.ndarray

    @property
    def moves(self) -> bool:
        """Whether the edit moves it at all."""
        upper, lower = self.after_upper - self.before_upper, self.after_lower - self.before_lower
        return bool(max(np.abs(upper).max(), np.abs(lower).max()) > STILL_PX)

    @property
    def width(self) -> float:
        """px between the corners in the photo."""
        return float(np.linalg.norm(self.before_upper[-1] - self.before_upper[0]))

    @property
    def down(self) -> np.ndarray:
        """(2,) unit: from forehead to chin."""
        along = self.before_upper[-1] - self.before_upper[0]
        return np.array([-along[1], along[0]]) / max(float(np.linalg.norm(along)), 1e-9)

    @property
    def growth(self) -> float:
        """Its area in the edit over that in the photo."""
        return area(self.after_upper, self.after_lower) / max(area(self.before_upper, self.before_lower), 1e-6)

    def mask(self, shape: tuple[int, int], before: bool) -> np.ndarray:
        """(h, w) float32 in [0, 1]: the opening in the photo or in the edit, with smooth edges."""
        upper, lower = (self.before_upper, self.before_lower) if before else (self.after_upper, self.after_lower)
        return polygon(np.concatenate([upper, lower[-2:0:-1]]), shape)


def area(upper: np.ndarray, lower: np.ndarray) -> float:
    """px^2 between two rims (N, 2) with the same ends."""
    x, y = np.concatenate([upper, lower[-2:0:-1]]).T
    return abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2.0)


def from_line(line: np.ndarray, shape: tuple[int, int], down: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each pixel (h, w): px to the line (N, 2), share of the way along it, and bool whether it lies below."""
    h, w = shape
    x, y = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    along = line[-1] - line[0]
    length = max(float(np.linalg.norm(along)), 1e-6)
    along = along / length
    s = ((x - line[0, 0]) * along[0] + (y - line[0, 1]) * along[1]) / length
    v = (x - line[0, 0]) * down[0] + (y - line[0, 1]) * down[1]
    rim_s = np.maximum.accumulate((line - line[0]) @ along / length)
    height = v - np.interp(s, rim_s, (line - line[0]) @ down)
    slope = np.gradient(np.interp(np.linspace(0, 1, 64), rim_s, (line - line[0]) @ down)) * 64.0 / length
    cosine = 1.0 / np.sqrt(1.0 + np.interp(s, np.linspace(0, 1, 64), slope) ** 2)
    beyond = np.maximum(np.maximum(-s, s - 1.0), 0.0) * length
    return np.hypot(height * cosine, beyond), s, height > 0
