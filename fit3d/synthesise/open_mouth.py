"""The inside of a mouth that was open already: what the photo shows of it stays with the jaw that it belongs to.

Upper teeth stand still while lips move over them; lower teeth and tongue go with the lower jaw. Between them, where
the photo is darkest, the dark goes on; where upper teeth reach down to the lower lip, what is below them is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SAMPLES = 25
"""Heights at which each column of the opening is looked at."""
DARK = 0.36
"""Of the skin's brightness, sRGB: what is darker lies between or behind the teeth."""
HIGHEST = 0.22
"""What is dark only so far below the upper lip, heights of the opening, is the lip's shade on the teeth."""
INSET = 0.02
"""Rim of the opening that is as much lip as mouth, widths of the mouth."""
SOFT = 0.015
"""Softness of the edges of what stays with a jaw, widths of the mouth."""


@dataclass(frozen=True)
class Rims:
    """The opening in the photo, seen along its own axes: from corner to corner, and downwards."""

    origin: np.ndarray
    """(2,) px: the corner on the person's right."""
    along: np.ndarray
    """(2,) unit."""
    upper: np.ndarray
    """(N, 2) px along and down."""
    lower: np.ndarray

    @classmethod
    def of(cls, upper: np.ndarray, lower: np.ndarray) -> Rims:
        """Of the rims (N, 2) px from the person's right to left."""
        along = upper[-1] - upper[0]
        along = along / max(float(np.linalg.norm(along)), 1e-6)
        axes = np.stack([along, (-along[1], along[0])])
        rims = [(rim - upper[0]) @ axes.T for rim in (upper, lower)]
        for rim in rims:
            rim[:, 0] = np.maximum.accumulate(rim[:, 0])
        return cls(upper[0], along, rims[0], rims[1])

    @property
    def width(self) -> float:
        return float(self.upper[-1, 0])

    def local(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Along and down, px, of points (..., 2)."""
        away = points - self.origin
        return away @ self.along, away @ np.array([-self.along[1], self.along[0]])

    def picture(self, along: np.ndarray, down: np.ndarray) -> np.ndarray:
        """(..., 2) px of the window."""
        axis = np.array([-self.along[1], self.along[0]])
        return np.asarray(self.origin + along[..., None] * self.along + down[..., None] * axis)

    def heights(self, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Upper and lower rim at `along`, px down, the lips' own edges left out."""
        top = np.interp(along, *self.upper.T)
        bottom = np.interp(along, *self.lower.T)
        inset = np.minimum(max(INSET * self.width, 0.8), 0.35 * np.maximum(bottom - top, 0.0))
        return top + inset, bottom - inset


@dataclass(frozen=True)
class Split:
    """Where the photo's mouth parts into what belongs to the upper and what to the lower jaw."""

    at: np.ndarray
    """(S,) share of the way from the upper to the lower rim, per column of the opening."""
    dark: np.ndarray
    """(S,) from 0, teeth down to the lip, to 1: the dark between the jaws is seen."""

    def height(self, rims: Rims, along: np.ndarray) -> np.ndarray:
        """px down of the split at `along`."""
        top, bottom = rims.heights(along)
        return np.asarray(top + self._of(self.at, rims, along) * np.maximum(bottom - top, 0.0))

    def darkness(self, rims: Rims, along: np.ndarray) -> np.ndarray:
        return self._of(self.dark, rims, along)

    def _of(self, values: np.ndarray, rims: Rims, along: np.ndarray) -> np.ndarray:
        return np.asarray(np.interp(along, np.linspace(0.0, rims.width, len(values)), values))


def find_split(photo: np.ndarray, rims: Rims, skin_brightness: float) -> Split:
    """Look for the dark between the jaws in `photo` (h, w, 3) sRGB 0 ... 255."""
    columns = np.linspace(0.0, rims.width, max(round(rims.width), 16))
    top, bottom = rims.heights(columns)
    share = np.linspace(0.0, 1.0, SAMPLES)
    down = top[:, None] + share * (bottom - top)[:, None]
    bright = sample(photo, rims.picture(np.broadcast_to(columns[:, None], down.shape), down)).mean(-1)
    bright = cv2.GaussianBlur(bright, (0, 0), sigmaX=1.5, sigmaY=max(0.03 * rims.width, 0.6))
    darkest = share[bright.argmin(1)]
    dark = (bright.min(1) < DARK * skin_brightness) & (darkest > HIGHEST)
    at = np.where(dark, darkest, 1.0)
    # corners, where the opening is low and mostly lip, go by what is next to them
    weight, blur = (bottom - top).clip(0.0) ** 2 + 1e-3, max(0.1 * len(columns), 1.0)
    whole = _smoothed(weight, blur)
    return Split(_smoothed(at * weight, blur) / whole, _smoothed(dark * weight, blur) / whole)


def follow_jaws(
    photo: np.ndarray, behind: np.ndarray, rims: Rims, jaw: np.ndarray, skin_brightness: float
) -> np.ndarray:
    """(h, w, 3) float32 sRGB 0 ... 255: the inside of the mouth in the edit; of use within its opening only.

    Args:
        photo: (h, w, 3) float32 sRGB 0 ... 255, the window of the photo.
        behind: (h, w, 3) what is drawn where the photo tells nothing.
        rims: of the opening in the photo.
        jaw: (2,) px by which the lower jaw moved.
        skin_brightness: of the photo, sRGB 0 ... 255.
    """
    split = find_split(photo, rims, skin_brightness)
    h, w = photo.shape[:2]
    here = np.stack(np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5), -1)
    upper, above = _jaw(photo, rims, split, here, lower=False)
    lower, below = _jaw(photo, rims, split, here - jaw, lower=True)
    along, _ = rims.local(here)
    share = (above / np.maximum(above + below, 1e-6)).clip(0.0, 1.0)[..., None]
    soft = cv2.GaussianBlur(photo, (0, 0), max(0.03 * rims.width, 0.6))
    columns = (along.clip(0.0, rims.width), rims.local(here - jaw)[0].clip(0.0, rims.width))
    edges = [sample(soft, rims.picture(x, split.height(rims, x))) for x in columns]
    between = edges[0] + share * (edges[1] - edges[0])
    between = behind + split.darkness(rims, along)[..., None] * (between - behind)
    edge = max(SOFT * rims.width, 0.7)
    for own, beyond in ((lower, below), (upper, above)):
        between = between + (0.5 - beyond / edge).clip(0.0, 1.0)[..., None] * (own - between)
    return np.asarray(between, np.float32)


def _jaw(photo: np.ndarray, rims: Rims, split: Split, source: np.ndarray, lower: bool) -> tuple[np.ndarray, np.ndarray]:
    """What stays with one jaw, (h, w, 3), from places `source` (h, w, 2) of the photo, and px beyond its end (h, w)."""
    along, down = rims.local(source)
    along = along.clip(0.0, rims.width)
    top, bottom = rims.heights(along)
    middle = split.height(rims, along)
    beyond = middle - down if lower else down - middle
    colour = sample(photo, rims.picture(along, np.clip(down, top, np.maximum(bottom, top))))
    return colour, np.where(split.darkness(rims, along) < 0.02, np.inf, beyond) if lower else beyond


def sample(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(..., C) float32: `picture` (h, w, C) at points (..., 2) px."""
    shape = points.shape[:-1]
    flat = points.reshape(shape[0], -1, 2).astype(np.float32) - np.float32(0.5)
    source = np.ascontiguousarray(picture, np.float32)
    found = cv2.remap(source, flat[..., 0], flat[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found.reshape(*shape, -1))


def _smoothed(values: np.ndarray, sigma: float) -> np.ndarray:
    """(S,) float32."""
    line = np.asarray(values, np.float32)[None]
    return np.asarray(cv2.GaussianBlur(line, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)[0])
