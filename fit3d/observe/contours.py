"""Part labels drawn from landmarks alone: smooth outlines through and beside the points, filled.

The outlines follow what people draw when they label parts, which is not where a landmark layout has its rows of
points: brows reach below MediaPipe's lower row in the middle and taper outwards, the nose ends at the creases beside
its wings and bridge, lips are a little fuller than the points, eyes a little narrower.

Parts that turn away from the camera vanish by themselves: every outline is drawn in the sense in which it is seen from
the front, and only what it encloses in that sense is filled. What lies across the face's midline is drawn as two
halves, so that in a side view the near half stays and the far half goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fit3d import __version__
from fit3d.errors import ObservationError, UsageError
from fit3d.labels import (
    INNER_MOUTH,
    LEFT_EYE,
    LEFT_EYEBROW,
    LOWER_LIP,
    NOSE,
    RIGHT_EYE,
    RIGHT_EYEBROW,
    SKIN,
    UPPER_LIP,
)
from fit3d.landmarks import LandmarkLayout
from fit3d.observe.base import Backend, FaceParser, Landmarks, Parsing
from fit3d.photo import Photo

Anchor = int | tuple[int, int, float]
"""A landmark, or the point `(1 - t) a + t b` of two landmarks (a, b, t); t may lie outside [0, 1]."""

SUBDIVISIONS = 8
"""Straight pieces between two anchors of a smooth outline."""
LEAST_SIDE = 0.03
"""A side of the face whose area is a smaller share of the other side's than this shows neither eye nor brow."""


@dataclass(frozen=True)
class _Outlines:
    """Where the parts' borders run in one landmark layout.

    All curves that go across the face run from the person's right to left (left to right in a frontal photo), all
    that go along it from top to bottom.
    """

    height: tuple[int, int]
    """Two landmarks whose distance is the unit of the lengths below: top of the face or nasion, and chin."""
    drop: float
    """All points are moved down the face by this much."""
    eyes: tuple[tuple[Sequence[Anchor], Sequence[Anchor]], ...]
    """Upper and lower lid of the right, then of the left eye, with common corners."""
    brows: tuple[tuple[Sequence[Anchor], Sequence[Anchor]], ...]
    """Upper and lower border of the right, then of the left brow, with common ends."""
    brow_thickness: float
    """Added to the brows, half above and half below, tapering to nothing at both ends."""
    nose: tuple[Sequence[Anchor], Sequence[Anchor], Sequence[Anchor]]
    """Right border, ridge and left border, with common ends."""
    lips: tuple[Sequence[Anchor], Sequence[Anchor], Sequence[Anchor], Sequence[Anchor]]
    """Upper border of the upper lip, its lower border, upper border of the lower lip, its lower border; each has its
    middle anchor on the midline."""
    fuller_lips: tuple[float, float]
    """How far the outer borders are moved outwards, and the inner borders into the mouth."""
    skin: tuple[Sequence[Anchor], Sequence[Anchor], Sequence[Anchor]]
    """Right border of the face, profile line and left border, with common ends."""


def _mediapipe478() -> _Outlines:
    # The fractions are means over the borders that people drew on ten photos (Helen, CelebAMask-HQ), right and left
    # sides together. Found on five of them and tried on the other five, both ways, they agree with people's labels at a
    # mean IoU of 80.5 % over the seven parts, plain contours of the mesh at 73.3 %.
    brow_right = (
        ((46, 70, 0.6), (53, 63, 1.0), (52, 105, 1.14), (65, 66, 1.12), (55, 107, 0.78), 55),
        ((46, 70, 0.6), (53, 63, -0.05), (52, 105, -0.33), (65, 66, -0.62), 55),
    )
    brow_left = (
        (285, (285, 336, 0.78), (295, 296, 1.12), (282, 334, 1.14), (283, 293, 1.0), (276, 300, 0.6)),
        (285, (295, 296, -0.62), (282, 334, -0.33), (283, 293, -0.05), (276, 300, 0.6)),
    )
    outer_right, inner_right = (33, 133, 0.05), (133, 33, 0.06)
    inner_left, outer_left = (362, 263, 0.06), (263, 362, 0.05)
    nose_top = (6, 168, 1.33)
    return _Outlines(
        height=(10, 152),
        # Mesh points lie this much above the borders people draw, at lids, brows and lips alike; across the face
        # there is no such shift.
        drop=0.0022,
        eyes=(
            (
                (outer_right, 246, 161, 160, 159, 158, 157, 173, inner_right),
                (outer_right, 7, 163, 144, 145, 153, 154, 155, inner_right),
            ),
            (
                (inner_left, 398, 384, 385, 386, 387, 388, 466, outer_left),
                (inner_left, 382, 381, 380, 374, 373, 390, 249, outer_left),
            ),
        ),
        brows=(brow_right, brow_left),
        brow_thickness=0.0,
        nose=(
            (
                *(nose_top, (168, 193, 0.89), (6, 188, 0.92), (197, 114, 0.72), 198),
                *((4, 49, 0.92), (4, 48, 0.97), (1, 64, 0.92), 97, 2),
            ),
            (nose_top, 6, 197, 195, 5, 4, 1, 19, 94, 2),
            (
                *(nose_top, (168, 417, 0.89), (6, 412, 0.92), (197, 343, 0.72), 420),
                *((4, 279, 0.92), (4, 278, 0.97), (1, 294, 0.92), 326, 2),
            ),
        ),
        lips=(
            (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291),
            (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
            (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),
            (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291),
        ),
        fuller_lips=(0.003, 0.002),
        skin=(
            (10, 109, 67, 103, 54, 21, 162, 127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152),
            (10, 151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 164, 0, 13, 14, 17, 18, 200, 199, 175, 152),
            (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152),
        ),
    )


def _ibug68() -> _Outlines:
    # Brows are one row of points here, and neither the wings of the nose nor the forehead have any: thickness, wings
    # and forehead follow from the other points in the proportions of a mean face.
    nose_top, forehead, chin = 27, (33, 27, 1.85), 8
    return _Outlines(
        height=(27, 8),
        drop=0.0,
        eyes=(((36, 37, 38, 39), (36, 41, 40, 39)), ((42, 43, 44, 45), (42, 47, 46, 45))),
        brows=(((17, 18, 19, 20, 21),) * 2, ((22, 23, 24, 25, 26),) * 2),
        brow_thickness=0.065,
        nose=(
            (nose_top, (27, 39, 0.35), (31, 33, -0.45), 33),
            (nose_top, 28, 29, 30, 33),
            (nose_top, (27, 42, 0.35), (35, 33, -0.45), 33),
        ),
        lips=(
            (48, 49, 50, 51, 52, 53, 54),
            (60, 61, 62, 63, 64),
            (60, 67, 66, 65, 64),
            (48, 59, 58, 57, 56, 55, 54),
        ),
        fuller_lips=(0.0, 0.0),
        skin=(
            (forehead, (37, 19, 2.0), (36, 17, 1.7), 0, 1, 2, 3, 4, 5, 6, 7, chin),
            (forehead, 27, 28, 29, 30, 33, 51, 57, chin),
            (forehead, (44, 24, 2.0), (45, 26, 1.7), 16, 15, 14, 13, 12, 11, 10, 9, chin),
        ),
    )


_OUTLINES: dict[LandmarkLayout, _Outlines] = {"mediapipe478": _mediapipe478(), "ibug68": _ibug68()}


@dataclass(frozen=True)
class FaceOutlines:
    """Borders of the parts of one face in a picture: curves (M, 2), px of that picture, in the order of `_Outlines`.

    A curve of a missing (NaN) landmark is not finite.
    """

    eyes: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Upper and lower lid of the right, then of the left eye."""
    brows: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Upper and lower border of the right, then of the left brow."""
    nose: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Right border, ridge and left border."""
    lips: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    """Upper border of the upper lip, its lower border, upper border of the lower lip, its lower border."""
    skin: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Right border of the face, profile line and left border."""
    down: np.ndarray
    """(2,) from the top of what is measured to the chin, px: the direction in which the face stands, and its unit."""

    @property
    def unit_px(self) -> float:
        """The length of `down`: the unit of lengths that go with the face."""
        return float(np.linalg.norm(self.down))

    def moved(self, offset: np.ndarray, scale: np.ndarray) -> FaceOutlines:
        """The outlines in another picture of the face: `(px - offset) * scale`, offset and scale (2,)."""

        def move(curves: Any) -> Any:
            return tuple(map(move, curves)) if isinstance(curves, tuple) else (curves - offset) * scale

        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return FaceOutlines(**{name: move(curves) for name, curves in named.items()} | {"down": self.down * scale})


class ContourParser(FaceParser):
    """Labels from nothing but the landmarks; it never labels hair or anything that covers the face."""

    def __init__(self, device: str = "cpu") -> None:
        """`device` makes no difference: this parser draws on the CPU."""
        self.backend = Backend("contours", __version__)

    def parse(self, photo: Photo, landmarks: Landmarks) -> Parsing:
        """See `draw_parts`.

        Raises:
            UsageError: a landmark layout without outlines.
            ObservationError: no landmark is a number.
        """
        check_landmarks(photo, landmarks, self.backend)
        return Parsing(draw_parts(landmarks, photo.height, photo.width))


def check_landmarks(photo: Photo, landmarks: Landmarks, parser: Backend) -> None:
    """Raise what keeps a parser from drawing outlines: UsageError, a landmark layout without outlines;
    ObservationError, no landmark is a number."""
    if landmarks.layout not in _OUTLINES:
        raise UsageError(
            f"the parser '{parser.name}' cannot use landmarks of layout '{landmarks.layout}', only of "
            f"{', '.join(_OUTLINES)}; choose another parser (--parser)"
        )
    if not np.isfinite(landmarks.points_px).any():
        raise ObservationError(
            f"{photo.path}: no usable landmark from {landmarks.backend.name}; try another detector (--landmarks)"
        )


def draw_parts(landmarks: Landmarks, height: int, width: int) -> np.ndarray:
    """Label image (height, width) uint8 of the face that `landmarks` outlines, ids of `fit3d.labels`.

    A pixel belongs to a part if its centre lies inside the outline. A part with a missing (NaN) landmark is left out.
    """
    return fill_outlines(outlines_of(landmarks), height, width)


def outlines_of(landmarks: Landmarks) -> FaceOutlines:
    """The borders that the landmarks tell, photo px. What is missing (NaN) makes the curves through it NaN."""
    outlines = _OUTLINES[landmarks.layout]
    points = np.where(np.isfinite(landmarks.points_px), landmarks.points_px, np.nan).astype(np.float64)
    top, chin = outlines.height
    down = points[chin] - points[top]
    if not np.isfinite(down).all():  # upright is the best guess
        down = np.array([0.0, np.nanmax(points[:, 1]) - np.nanmin(points[:, 1])])
    points = points + outlines.drop * down
    unit = float(np.linalg.norm(down))

    brows = []
    for rows in outlines.brows:
        above, below = (_curve(points, row) for row in rows)
        if outlines.brow_thickness:
            thickness = outlines.brow_thickness * unit * np.sin(np.linspace(0.0, np.pi, len(above)))[:, None] ** 0.5
            normal = normals(above)
            above, below = above + 0.5 * thickness * normal, below - 0.5 * thickness * normal
        brows.append((above, below))
    outer, inner = (amount * unit for amount in outlines.fuller_lips)
    lip_1, lip_2, lip_3, lip_4 = (_curve(points, anchors) for anchors in outlines.lips)
    lip_1, lip_4 = _widened(lip_1, lip_4, outer)
    lip_2, lip_3 = _widened(lip_2, lip_3, -inner)
    nose_right, ridge, nose_left = (_curve(points, anchors) for anchors in outlines.nose)
    skin_right, profile, skin_left = (_curve(points, anchors) for anchors in outlines.skin)
    return FaceOutlines(
        eyes=tuple((_curve(points, upper), _curve(points, lower)) for upper, lower in outlines.eyes),
        brows=tuple(brows),
        nose=(nose_right, ridge, nose_left),
        lips=(lip_1, lip_2, lip_3, lip_4),
        skin=(skin_right, profile, skin_left),
        down=down,
    )


def fill_outlines(outlines: FaceOutlines, height: int, width: int) -> np.ndarray:
    """Label image (height, width) uint8, ids of `fit3d.labels`, of outlines in px of that image."""
    parts = np.zeros((height, width), dtype=np.uint8)
    halves = _halves(*outlines.skin)
    _fill(parts, halves, SKIN)
    areas = [_area(half) for half in halves]
    # of a side that the head itself hides, points crowd beyond the profile line: its eye may still wind as if seen
    in_sight = [not area < LEAST_SIDE * max(areas) for area in areas]  # NaN: nobody knows
    # Eyes and brows do not reach over the silhouette; where the skin could not be drawn, nobody knows where that is.
    on_skin = SKIN if (parts == SKIN).any() else None
    for labels, pairs in (((RIGHT_EYEBROW, LEFT_EYEBROW), outlines.brows), ((RIGHT_EYE, LEFT_EYE), outlines.eyes)):
        for label, rows, seen in zip(labels, pairs, in_sight, strict=True):
            if seen:
                _fill(parts, [_between(*rows)], label, only_on=on_skin)
    _fill(parts, _halves(*outlines.nose), NOSE)
    lip_1, lip_2, lip_3, lip_4 = outlines.lips
    _fill(parts, _split(lip_1, lip_2), UPPER_LIP)
    _fill(parts, _split(lip_3, lip_4), LOWER_LIP)
    _fill(parts, _split(lip_2, lip_3), INNER_MOUTH)
    return parts


def _curve(points: np.ndarray, anchors: Sequence[Anchor]) -> np.ndarray:
    """Catmull-Rom curve (M, 2) through the anchors, `SUBDIVISIONS` pieces between two."""
    knots = np.array(
        [points[a] if isinstance(a, int) else (1.0 - a[2]) * points[a[0]] + a[2] * points[a[1]] for a in anchors]
    )
    padded = np.concatenate([2.0 * knots[:1] - knots[1:2], knots, 2.0 * knots[-1:] - knots[-2:-1]])
    before, start, end, after = (padded[k : len(padded) - 3 + k, None] for k in range(4))
    t = (np.arange(SUBDIVISIONS) / SUBDIVISIONS)[:, None]
    pieces = 0.5 * (
        2.0 * start
        + (end - before) * t
        + (2.0 * before - 5.0 * start + 4.0 * end - after) * t**2
        + (3.0 * start - before - 3.0 * end + after) * t**3
    )
    return np.concatenate([pieces.reshape(-1, 2), knots[-1:]])


def normals(curve: np.ndarray) -> np.ndarray:
    """Unit normals (M, 2) to the left of the direction of travel as seen on screen: up for a curve to the right."""
    tangent = np.gradient(curve, axis=0)
    normal = np.column_stack([tangent[:, 1], -tangent[:, 0]])
    return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)


def _widened(upper: np.ndarray, lower: np.ndarray, amount: float) -> tuple[np.ndarray, np.ndarray]:
    """Two curves with common ends, moved apart by `amount` each, px. The ends stay."""
    inside = np.ones((len(upper), 1))
    inside[[0, -1]] = 0.0
    return upper + amount * inside * normals(upper), lower - amount * inside * normals(lower)


def _between(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Outline of the region between two curves from right to left: clockwise on screen."""
    return np.concatenate([upper, lower[::-1]])


def _split(upper: np.ndarray, lower: np.ndarray) -> list[np.ndarray]:
    """The region between two curves across the face as two outlines, cut where each curve has its middle."""
    a, b = len(upper) // 2, len(lower) // 2
    return [_between(upper[: a + 1], lower[: b + 1]), _between(upper[a:], lower[b:])]


def _halves(right: np.ndarray, midline: np.ndarray, left: np.ndarray) -> list[np.ndarray]:
    """The region between two curves down the face as two outlines, clockwise on screen, that meet in the midline."""
    return [_between(midline, right), _between(left, midline)]


def _area(outline: np.ndarray) -> float:
    """Area within an outline (M, 2), squared px, positive where it runs clockwise on screen."""
    after = np.roll(outline, -1, axis=0)
    return 0.5 * float((outline[:, 0] * after[:, 1] - outline[:, 1] * after[:, 0]).sum())


def _fill(parts: np.ndarray, outlines: Sequence[np.ndarray], label: int, only_on: int | None = None) -> None:
    """Set `label` where the centre of a pixel lies inside one of the outlines (M, 2) and, if given, was `only_on`."""
    for outline in outlines:
        if not np.isfinite(outline).all():
            continue
        left, top = np.maximum(np.floor(outline.min(axis=0)), 0).astype(int)
        right, bottom = np.minimum(np.ceil(outline.max(axis=0)), parts.shape[::-1]).astype(int)
        if left >= right or top >= bottom:
            continue
        window = parts[top:bottom, left:right]
        inside = _inside(outline - (left, top), window.shape[0], window.shape[1])
        if only_on is not None:
            inside &= window == only_on
        window[inside] = label


def _inside(outline: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) bool: pixel centres around which the closed outline (M, 2) winds clockwise, as seen on screen."""
    start = outline - 0.5  # so that pixel centres have whole numbers
    end = np.roll(start, -1, axis=0)
    upwards = start[:, 1] > end[:, 1]
    low, high = np.where(upwards[:, None], end, start), np.where(upwards[:, None], start, end)
    first = np.clip(np.ceil(low[:, 1]), 0, height).astype(int)
    count = np.clip(np.ceil(high[:, 1]), 0, height).astype(int) - first
    edge = np.repeat(np.arange(len(outline)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (high[:, 0] - low[:, 0]) / np.maximum(high[:, 1] - low[:, 1], 1e-12)
    column = np.ceil(low[edge, 0] + (row - low[edge, 1]) * slope[edge])
    # Each border that runs up the screen starts the inside to its right, each that runs down ends it.
    change = np.zeros((height, width + 1), dtype=np.int16)
    np.add.at(change, (row, np.clip(column, 0, width).astype(int)), np.where(upwards[edge], 1, -1))
    return np.cumsum(change, axis=1, dtype=np.int16)[:, :width] > 0
