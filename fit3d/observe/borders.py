"""Where the borders of the parts run in this photo: each point of an outline slides along its normal.

What a photo says about a border lies across it: a lid's edge, brow hair against skin, a lip's red. So every outline is
taken as a row of points, each with `OFFSETS` places along its normal where the border may be, and the places are judged
by a linear-chain conditional random field (Lafferty, McCallum and Pereira, ICML 2001): the log-odds of an offset are a
weighted sum of how fast lightness and redness change across it and beside it and of the offset and its square, which
say where borders lie that the photo does not show; neighbours want like offsets. Sums over all chains, forward and
backward, give the mean offset, where the border is drawn, and the spread, which tells how sure that is.

The weights are few and were learnt from what people drew, see `fit3d.observe.border_weights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np

from fit3d.observe.border_weights import BORDER_WEIGHTS
from fit3d.observe.contours import FaceOutlines, normals
from fit3d.observe.face_view import FaceView, sample

REACH = 0.04
"""Farthest offset, units of the face, either way."""
OFFSETS = np.linspace(-REACH, REACH, 33)
"""Where a border may lie from its outline, units, outwards positive."""
STEP = float(OFFSETS[1] - OFFSETS[0])
BESIDE = 3
"""Changes are also seen this many steps inside and outside of an offset: a brow's or a lash line's other side."""
BLUR_PX = 1.2
"""Standard deviation, view px, of the blur that takes noise and single hairs away."""
STIFFNESS = 0.3
"""Energy of neighbours whose offsets differ by one step; it grows with the square, to `LOOSE` steps."""
LOOSE = 6
POINTS = 32
"""Points of a curve."""
ROOM = 0.55
"""Share of a part's thickness by which a border may move inwards, not past the border on the other side."""
LEAST_ROOM = 0.008
"""But it may always move by this, units."""
LENGTH_SCALE = 0.01
"""Unit of offsets and changes in features, units of the face."""

FEATURES = (
    *("lightness inside", "lightness", "lightness outside"),
    *("redness inside", "redness", "redness outside"),
    *("offset", "offset squared"),
)
"""What is known of an offset: change outwards of L* and a* there, `BESIDE` steps inside and outside, per `LENGTH_SCALE`
and over the standard deviation around the whole border; the offset over `LENGTH_SCALE`; minus half its square."""


@dataclass(frozen=True)
class Border:
    """A row of points that slide along normals."""

    points: np.ndarray
    """(M, 2) px of a view."""
    normals: np.ndarray
    """(M, 2) outward."""
    families: tuple[str, ...]
    """(M,) which weights judge each point: keys of `BORDER_WEIGHTS`."""
    closed: bool
    unit_px: float
    room: np.ndarray
    """(M,) how far inwards each may move, units."""

    @property
    def allowed(self) -> np.ndarray:
        """(M, K) bool: the offsets within reach."""
        return np.asarray(OFFSETS[None, :] >= -self.room[:, None] - 1e-9)


@dataclass(frozen=True)
class FoundBorder:
    """A border as the photo shows it."""

    border: Border
    offset: np.ndarray
    """(M,) mean, units."""
    spread: np.ndarray
    """(M,) standard deviation, units."""

    @property
    def points(self) -> np.ndarray:
        """(M, 2) px of the view."""
        border = self.border
        return border.points + (self.offset * border.unit_px)[:, None] * border.normals

    @property
    def doubtful_area(self) -> float:
        """Squared units of the face: the mean distance from where the border may be, summed along it."""
        after = (
            np.roll(self.points, -1, axis=0) if self.border.closed else np.append(self.points[1:], self.points[-1:], 0)
        )
        lengths = np.linalg.norm(after - self.points, axis=1) / self.border.unit_px
        return float(np.sqrt(2.0 / np.pi) * (self.spread @ lengths))


def find_borders(
    view: FaceView, outlines: FaceOutlines, weights: Mapping[str, tuple[float, ...]] = BORDER_WEIGHTS
) -> tuple[FaceOutlines, dict[str, FoundBorder]]:
    """The outlines, photo px, drawn where the view shows borders, and what was found, by the names of `borders_of`.

    Outlines with missing (NaN) points, the face's own border and the ridge of the nose stay as they are.
    """
    seen = outlines.moved(view.offset, view.scale)
    blurred = cv2.GaussianBlur(view.lab, (0, 0), BLUR_PX)
    borders = borders_of(seen)
    found: dict[str, FoundBorder] = {}
    for closed in (True, False):
        alike = {name: border for name, border in borders.items() if border.closed == closed}
        if alike:
            odds = [border_odds(border_features(blurred, border), border, weights) for border in alike.values()]
            allowed = np.stack([border.allowed for border in alike.values()])
            moments = zip(alike.items(), *chain_moments(np.stack(odds), allowed, closed), strict=True)
            found |= {name: FoundBorder(border, offset, spread) for (name, border), offset, spread in moments}
    moved = _with_borders(seen, {name: each.points for name, each in found.items()})
    return moved.moved(-view.offset * view.scale, 1.0 / view.scale), found


def borders_of(outlines: FaceOutlines) -> dict[str, Border]:
    """The borders, by name, of outlines in px of a view; those with missing points are left out."""
    unit = outlines.unit_px
    borders = {}
    for kind, pairs, ends in (("eye", outlines.eyes, 4), ("brow", outlines.brows, 5)):
        for side, (upper, lower) in zip(("right", "left"), pairs, strict=True):
            points = _loop(upper, lower)
            at = _from_corner(len(points))
            families = np.where(np.arange(len(points)) < POINTS, f"{kind} upper", f"{kind} lower").astype(object)
            first, last = ("outer", "inner") if side == "right" else ("inner", "outer")
            families[at <= ends] = f"{kind} {first} end"
            families[_from_corner(len(points), POINTS - 1) <= ends] = f"{kind} {last} end"
            borders[f"{side} {kind}"] = _closed_border(points, families, unit)

    right, _, left = outlines.nose
    points = _loop(left, right)  # down the left side, clockwise on screen, and up the right
    families = np.full(POINTS, "nose side", dtype=object)
    families[POINTS * 5 // 9 :] = "nose wing"
    families[POINTS * 6 // 7 :] = "nose base"
    families[: POINTS // 7] = "nose top"
    borders["nose"] = _closed_border(points, np.concatenate([families, families[::-1][1:-1]]), unit)

    lip_1, lip_2, lip_3, lip_4 = outlines.lips
    points = _loop(lip_1, lip_4)
    families = np.where(np.arange(len(points)) < POINTS, "mouth upper", "mouth lower").astype(object)
    for corner in (0, POINTS - 1):
        families[_from_corner(len(points), corner) <= 3] = "mouth corner"
    borders["mouth"] = _closed_border(points, families, unit)
    for name, curve, outwards in (("upper lip", lip_2, -1.0), ("lower lip", lip_3, 1.0)):
        points = _resampled(curve)
        room = np.full(POINTS, REACH)
        borders[name] = Border(points, outwards * normals(points), (f"{name} inside",) * POINTS, False, unit, room)
    return {name: border for name, border in borders.items() if np.isfinite(border.points).all()}


def border_features(lab: np.ndarray, border: Border) -> np.ndarray:
    """(M, K, 8) `FEATURES` of each offset of each point, from a blurred view (h, w, 3)."""
    across = np.append(OFFSETS - STEP / 2.0, OFFSETS[-1] + STEP / 2.0) * border.unit_px
    seen = sample(lab, border.points[:, None] + across[None, :, None] * border.normals[:, None])[..., :2]
    contrast = seen.reshape(-1, 2).std(axis=0) + 2.0  # 2: what noise and JPEG make of an even surface
    change = np.diff(seen, axis=1) * (LENGTH_SCALE / STEP / contrast)
    padded = np.pad(change, ((0, 0), (BESIDE, BESIDE), (0, 0)), mode="edge")
    count = len(OFFSETS)
    changes = [padded[:, BESIDE + lag : BESIDE + lag + count] for lag in (-BESIDE, 0, BESIDE)]
    offset = np.broadcast_to(OFFSETS / LENGTH_SCALE, change.shape[:2])
    columns = [each[..., channel] for channel in (0, 1) for each in changes]
    return np.stack([*columns, offset, -0.5 * offset**2], axis=-1).astype(np.float64)


def border_odds(
    features: np.ndarray, border: Border, weights: Mapping[str, tuple[float, ...]] = BORDER_WEIGHTS
) -> np.ndarray:
    """(M, K) log-odds of the offsets, each point judged by itself."""
    table = np.array([weights[family] for family in border.families])
    return np.asarray(np.einsum("mkf,mf->mk", features, table))


def chain_moments(odds: np.ndarray, allowed: np.ndarray, closed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (..., M), units, of each point's offset, given all points' log-odds (..., M, K).

    A closed border is gone round three times, as an open one, and its second round taken: by then nothing is left of
    where it was opened.
    """
    count = odds.shape[-2]
    steps = np.minimum(np.abs(np.arange(odds.shape[-1])[:, None] - np.arange(odds.shape[-1])[None]), LOOSE)
    pull = np.exp(-STIFFNESS * steps**2.0)
    likely = np.exp(
        odds - odds.max(axis=-1, keepdims=True, where=allowed, initial=-np.inf), where=allowed, out=0 * odds
    )
    likely = np.maximum(likely, np.where(allowed, 1e-12, 1e-30))  # so that a chain can pass anywhere
    chain = np.moveaxis(np.concatenate([likely] * 3, axis=-2) if closed else likely, -2, 0)
    forward, backward = np.empty_like(chain), np.ones_like(chain)
    forward[0] = chain[0]
    for at in range(1, len(chain)):
        here = (forward[at - 1] @ pull) * chain[at]
        forward[at] = here / here.sum(axis=-1, keepdims=True)
    for at in range(len(chain) - 2, -1, -1):
        here = (chain[at + 1] * backward[at + 1]) @ pull
        backward[at] = here / here.sum(axis=-1, keepdims=True)
    belief = forward * backward
    belief = np.moveaxis(belief[count : 2 * count] if closed else belief, 0, -2)
    belief /= belief.sum(axis=-1, keepdims=True)
    mean = belief @ OFFSETS
    return mean, np.sqrt(np.maximum(belief @ OFFSETS**2 - mean**2, 0.0))


def _with_borders(outlines: FaceOutlines, points: Mapping[str, np.ndarray]) -> FaceOutlines:
    """The outlines with these borders in place of theirs."""
    eyes, brows = (
        tuple(
            _halves(points[f"{side} {kind}"]) if f"{side} {kind}" in points else pair
            for side, pair in zip(("right", "left"), pairs, strict=True)
        )
        for kind, pairs in (("eye", outlines.eyes), ("brow", outlines.brows))
    )
    nose = outlines.nose
    if "nose" in points:
        left, right = _halves(points["nose"])
        nose = right, outlines.nose[1], left
    lip_1, lip_2, lip_3, lip_4 = outlines.lips
    if "mouth" in points:
        lip_1, lip_4 = _halves(points["mouth"])
    lips = lip_1, points.get("upper lip", lip_2), points.get("lower lip", lip_3), lip_4
    return replace(outlines, eyes=eyes, brows=brows, nose=nose, lips=lips)


def _resampled(curve: np.ndarray) -> np.ndarray:
    """`POINTS` points (M, 2) at even distances along a curve (N, 2)."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    at = np.linspace(0.0, along[-1], POINTS)
    return np.stack([np.interp(at, along, curve[:, axis]) for axis in (0, 1)], axis=1)


def _loop(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """(2 POINTS - 2, 2): along one curve and back along another with the same ends."""
    return np.concatenate([_resampled(there), _resampled(back)[-2:0:-1]])


def _halves(loop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two curves of a `_loop`, in the same direction."""
    return loop[:POINTS], np.concatenate([loop[:1], loop[: POINTS - 2 : -1]])


def _from_corner(count: int, corner: int = 0) -> np.ndarray:
    """(count,) number of points from a corner of a loop, the shorter way round."""
    apart = np.abs(np.arange(count) - corner)
    return np.minimum(apart, count - apart)


def _closed_border(points: np.ndarray, families: np.ndarray, unit_px: float) -> Border:
    """A loop, clockwise on screen, with its normals and its room.

    The normals are those of the smoothed loop, so that they fan out around its corners.
    """
    smooth = points
    for _ in range(3):
        shifted = [np.roll(smooth, shift, axis=0) for shift in range(-2, 3)]
        smooth = np.average(shifted, axis=0, weights=(1, 4, 6, 4, 1))
    tangent = np.roll(smooth, -1, axis=0) - np.roll(smooth, 1, axis=0)
    outward = np.column_stack([tangent[:, 1], -tangent[:, 0]])
    outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-12)
    # thickness: distance to the nearest point of the other side, not counting neighbours around a corner
    index = np.arange(len(points))
    opposite = (index[:, None] < POINTS) != (index[None] < POINTS)
    between = np.abs(index[:, None] - index[None])
    opposite &= np.minimum(between, len(points) - between) > 3
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    thickness = np.where(opposite, apart, np.inf).min(axis=1) / unit_px
    room = np.maximum(ROOM * thickness, LEAST_ROOM)
    return Border(points, outward, tuple(families), True, unit_px, room)
