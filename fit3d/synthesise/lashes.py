"""The lashes of a lid that came down: a dark line along its rim, and the hairs that hang from it."""

from __future__ import annotations

import cv2
import numpy as np

from fit3d.synthesise.eyes import EyeShape, eye_box
from fit3d.synthesise.opening import from_line

FURTHEST = 0.15
"""A line of lashes goes on beyond the fitted corners by so many widths of the eye at most."""
RISING = 0.25
"""See `lash_rim`."""
LASH_WIDTH = 0.022
"""Half thickness of the lash line of a closed eye, widths of the eye."""
LASH_FRINGE = 0.05
"""How far the lid's shade reaches below it."""
SHADE = 0.25
"""Of the lashes' dark that this shade has."""
HAIRS = 38
"""Lashes of one lid that can be told apart."""
HAIR_LENGTH, HAIR_WIDTH = 0.14, 0.0065
"""Of a lash, widths of the eye."""
HAIR_ALPHA = 0.55
"""How dark single lashes are, of their line."""
FINE = 4
"""Lashes are drawn on a grid so many times finer than the picture's."""


def lash_rim(eye: EyeShape, whole: np.ndarray) -> np.ndarray:
    """(N, 2) px: the upper rim of the edited eye, to the corners of the `whole` eye (h, w) of `find_eye`.

    Corners stay up while a lid goes down: so that its line has no hooks, it rises towards them by `RISING` at most.
    """
    axes = np.stack([(eye.down[1], -eye.down[0]), eye.down])
    rim = (eye.after_upper - eye.before_upper[0]) @ axes.T
    rows, columns = np.nonzero(whole > 0.5)
    if len(rows) < 8 or len(rim) < 8:
        return eye.after_upper
    reach = (np.stack([columns, rows], 1) + 0.5 - eye.before_upper[0]) @ axes[0]
    first, last = np.quantile(reach, (0.02, 0.98))
    inner = rim[2:-2]
    most = FURTHEST * eye.width
    left = np.clip(first, rim[0, 0] - most, rim[0, 0])
    right = np.clip(last, rim[-1, 0], rim[-1, 0] + most)
    ends = []
    for at, corner, inside in ((left, rim[0], inner[0]), (right, rim[-1], inner[-1])):
        most = RISING * abs(at - inside[0])
        ends.append((at, inside[1] + np.clip(corner[1] - inside[1], -most, most)))
    line = np.concatenate([[ends[0]], inner, [ends[1]]])
    return np.asarray(line @ axes + eye.before_upper[0])


def draw_lashes(
    picture: np.ndarray, photo: np.ndarray, eye: EyeShape, whole: np.ndarray, outer: float, seed: int
) -> np.ndarray:
    """The dark line of lashes along the rim of a lid that came down, and the lashes that hang from it.

    Args:
        picture: (h, w, 3) float32 sRGB 0 ... 255, the edited photo.
        photo: (h, w, 3) as it was.
        whole: (h, w) of `find_eye`.
        outer: -1 where the rims begin in the outer corner, 1 where they end there.
        seed: of where each lash grows.
    """
    closing = float(np.clip((eye.closing - 0.3) / 0.5, 0.0, 1.0))
    box = eye_box(eye, picture.shape[:2])
    if closing == 0.0 or box is None:
        return picture
    rows, columns = box
    offset = (columns.start, rows.start)
    rim = _smooth(lash_rim(eye, whole) - offset)
    size = rows.stop - rows.start, columns.stop - columns.start
    distance, share, below = from_line(rim, size, eye.down)
    taper = np.clip(np.minimum(share, 1.0 - share) / 0.3, 0.0, 1.0) ** 0.8
    thin = LASH_WIDTH * eye.width * (0.3 + 0.7 * taper)
    blur = softness(photo, eye)
    half = np.hypot(thin, blur)
    # a line blurred wider is fainter
    line = 0.85 * np.exp(-((distance / half) ** 2)) * (0.3 + 0.7 * taper) * np.sqrt(thin / half)
    # the lid's own shade on the cheek
    shade = SHADE * np.exp(-distance / np.hypot(LASH_FRINGE * eye.width, blur)) * below * taper
    hairs = HAIR_ALPHA * _hairs(rim, eye, size, blur, outer, seed)
    inside = (share > 0.0) & (share < 1.0)
    ends = np.where(inside, 1.0, np.exp(-distance / half))
    alpha = (closing * np.maximum(np.maximum(line, shade) * ends, hairs))[..., None]
    cut = picture[rows, columns]
    result = picture.copy()
    result[rows, columns] = cut + alpha * (np.minimum(_lash_colour(photo, eye), cut) - cut)
    return np.asarray(result)


def _hairs(rim: np.ndarray, eye: EyeShape, size: tuple[int, int], blur: float, outer: float, seed: int) -> np.ndarray:
    """(h, w) float32 in [0, 1]: lashes from the rim (N, 2) px of a shut eye, down and outwards, the longer the nearer
    to the outer corner."""
    draw = np.random.default_rng([seed, len(rim)]).normal
    across = np.array([eye.down[1], -eye.down[0]])
    mask = np.zeros((size[0] * FINE, size[1] * FINE), np.uint8)
    for place in np.linspace(0.06, 0.97, HAIRS):
        out = place + 0.012 * draw()
        share = (out if outer > 0.0 else 1.0 - out) * (len(rim) - 1)
        root = np.array([np.interp(share, np.arange(len(rim)), rim[:, k]) for k in (0, 1)])
        length = HAIR_LENGTH * eye.width * (0.45 + 0.55 * min(place / 0.6, 1.0)) * (1.0 + 0.15 * draw())
        lean = outer * (1.1 * place - 0.35 + 0.12 * draw())
        t = np.linspace(0.0, 1.0, 7)[:, None]
        # it bends outwards, and up again at its tip
        curve = root + length * ((lean * (0.5 * t + 0.5 * t**2)) * across + (t - 0.45 * t**2) * eye.down)
        points = np.rint((curve - 0.5) * FINE * 16.0).astype(np.int32)
        cv2.polylines(mask, [points], False, 255, max(round(HAIR_WIDTH * eye.width * FINE), 1), cv2.LINE_AA, 4)
    small = cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
    return np.asarray(cv2.GaussianBlur(small, (0, 0), max(0.6 * blur, 0.4)))


def softness(photo: np.ndarray, eye: EyeShape) -> float:
    """Standard deviation, px, of the blur of the photo's edges across the upper lid: contrast over slope."""
    steps = np.arange(-0.15 * eye.width, 0.2 * eye.width, 0.5)
    profile = _across_rim(photo, eye, steps).mean(-1)
    slope = np.abs(np.diff(profile, axis=1)).max(1) / 0.5
    contrast = np.ptp(profile, axis=1)
    return float(np.clip(np.median(contrast / np.maximum(slope, 1e-3)) / 2.5, 0.6, max(0.08 * eye.width, 0.6)))


def _across_rim(photo: np.ndarray, eye: EyeShape, steps: np.ndarray) -> np.ndarray:
    """(N, S, 3): the photo `steps` (S,) px below the vertices of the upper rim, but for its ends."""
    x = eye.before_upper[2:-2, None, 0] + steps * eye.down[0] - 0.5
    y = eye.before_upper[2:-2, None, 1] + steps * eye.down[1] - 0.5
    picture = np.ascontiguousarray(photo, np.float32)
    return np.asarray(
        cv2.remap(
            picture, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    )


def _lash_colour(photo: np.ndarray, eye: EyeShape) -> np.ndarray:
    """(3,) the dark of the photo's lashes: of the darkest pixels along the upper rim."""
    found = _across_rim(photo, eye, np.linspace(-0.06, 0.03, 7) * eye.width).reshape(-1, 3)
    dark = found[np.argsort(found.sum(1))[: max(len(found) // 8, 3)]].mean(0)
    return np.asarray(dark * 0.9, np.float32)


def _smooth(line: np.ndarray) -> np.ndarray:
    """(32, 2) a smooth curve through a polyline (N, 2), with its ends."""
    step = np.linalg.norm(np.diff(line, axis=0), axis=1)
    at = np.concatenate([[0.0], np.cumsum(step)]) / max(float(step.sum()), 1e-6)
    where = np.linspace(0.0, 1.0, 32)
    return np.stack([np.polynomial.Polynomial.fit(at, line[:, k], 5)(where) for k in (0, 1)], 1)
