"""The parser that comes with fit3d: outlines from landmarks, sharpened with the photo's own pixels."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from fit3d import __version__
from fit3d.labels import (
    BACKGROUND,
    HAIR,
    INNER_MOUTH,
    LEFT_EYE,
    LEFT_EYEBROW,
    LOWER_LIP,
    NOSE,
    OTHER,
    PART_NAMES,
    RIGHT_EYE,
    RIGHT_EYEBROW,
    SKIN,
    UPPER_LIP,
)
from fit3d.observe.base import Backend, FaceParser, Landmarks, Parsing
from fit3d.observe.border_weights import BORDER_WEIGHTS
from fit3d.observe.borders import FoundBorder, find_borders
from fit3d.observe.contours import check_landmarks, fill_outlines, outlines_of
from fit3d.observe.face_view import FaceView, view_face
from fit3d.observe.skin import SkinMap, map_skin
from fit3d.photo import Photo

BORDERS_OF_PART = {
    RIGHT_EYE: ("right eye",),
    LEFT_EYE: ("left eye",),
    RIGHT_EYEBROW: ("right brow",),
    LEFT_EYEBROW: ("left brow",),
    NOSE: ("nose",),
    UPPER_LIP: ("mouth", "upper lip"),
    LOWER_LIP: ("mouth", "lower lip"),
    INNER_MOUTH: ("upper lip", "lower lip"),
}
"""Which of `borders_of` a part lies within; of the mouth's, each lip has half."""
LEAST_SEEN = 0.25
"""A part of which less than this share is seen is left out: the rest tells nothing of where it is."""


class EmbeddedParser(FaceParser):
    """Borders of the parts where the photo shows them, and skin without what hides it.

    See `fit3d.observe.borders` and `fit3d.observe.skin`. Needs no network and no weights beside the few in
    `fit3d.observe.border_weights`. The borders are drawn at the photo's resolution, what hides them is found at a
    fixed size of the face.
    """

    def __init__(self, device: str = "cpu", weights: Mapping[str, tuple[float, ...]] = BORDER_WEIGHTS) -> None:
        """`device` makes no difference: this parser computes on the CPU. `weights` judge borders."""
        self.backend = Backend("embedded", __version__)
        self._weights = weights

    def parse(self, photo: Photo, landmarks: Landmarks) -> Parsing:
        """Labels of the face that `landmarks` outlines, and the overlap expected of each part.

        The confidence of a part is the overlap expected from how sure its borders are, times the share of it that
        nothing hides; of skin, hair and other it is the mean certainty of the pixels; 0 for what is not there. It is
        an optimist: over parts 1-7 of ten photos, held out, its mean is 0.90 where the overlap with people's labels
        is 0.85, and their rank correlation is 0.37. What it tells well is what is hidden.

        Raises:
            UsageError: a landmark layout without outlines.
            ObservationError: no landmark is a number.
        """
        check_landmarks(photo, landmarks, self.backend)
        outlines = outlines_of(landmarks)
        view = view_face(photo, outlines)
        if view is None:  # nothing of the face lies in the photo
            return Parsing(fill_outlines(outlines, photo.height, photo.width), np.zeros(len(PART_NAMES)))
        outlines, found = find_borders(view, outlines, self._weights)
        small = view.halved()
        skin = map_skin(small, outlines)
        labels = fill_outlines(outlines, photo.height, photo.width)
        _lay_over(labels, small, skin)
        _drop_remains(labels, small, skin)
        return Parsing(labels, _confidence(skin, found))


def _lay_over(labels: np.ndarray, view: FaceView, skin: SkinMap) -> None:
    """Add the forehead's skin to a label image (H, W) and put over it what hides it, in place."""
    window = labels[view.top : view.top + view.height, view.left : view.left + view.width]
    added = (skin.cover == SKIN) & (skin.parts == BACKGROUND)
    for label, place in ((SKIN, added), (HAIR, skin.cover == HAIR), (OTHER, skin.cover == OTHER)):
        if not place.any():
            continue
        here, share = _enlarged(skin.cover == label, place, view.scale, window.shape)
        covered = share > 127
        window[here][covered & (window[here] == BACKGROUND) if label == SKIN else covered] = label


def _drop_remains(labels: np.ndarray, view: FaceView, skin: SkinMap) -> None:
    """Label what is left of parts that are nearly all hidden as what hides them, in place."""
    window = labels[view.top : view.top + view.height, view.left : view.left + view.width]
    for part in BORDERS_OF_PART:
        drawn = skin.parts == part
        over = np.bincount(skin.cover[drawn], minlength=len(PART_NAMES))
        if drawn.any() and over[SKIN] < LEAST_SEEN * over.sum():
            window[window == part] = HAIR if over[HAIR] > over[OTHER] else OTHER


def _enlarged(
    mask: np.ndarray, place: np.ndarray, scale: np.ndarray, hw: tuple[int, ...]
) -> tuple[tuple[slice, slice], np.ndarray]:
    """A mask (h, w) at the size `hw` of what it shows, bilinear, 255 where it is set; only around `place` (h, w), as
    large pictures show little of most labels."""
    low, high = [], []
    for axis, length in ((1, hw[1]), (0, hw[0])):
        at = np.flatnonzero(place.any(axis=1 - axis))
        low.append(max(int((at[0] - 1) / scale[1 - axis]), 0))
        high.append(min(int((at[-1] + 2) / scale[1 - axis]) + 1, length))
    offset = (np.array(low) + 0.5) * scale - 0.5
    view_from_here = np.array([[scale[0], 0.0, offset[0]], [0.0, scale[1], offset[1]]])
    share = cv2.warpAffine(
        mask.astype(np.uint8) * 255,
        view_from_here,
        (high[0] - low[0], high[1] - low[1]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return (slice(low[1], high[1]), slice(low[0], high[0])), share


def _confidence(skin: SkinMap, found: Mapping[str, FoundBorder]) -> np.ndarray:
    """(12,) see `EmbeddedParser.parse`."""
    confidence = np.zeros(len(PART_NAMES))
    confidence[BACKGROUND] = 1.0
    for part, names in BORDERS_OF_PART.items():
        drawn = skin.parts == part
        pixels = int(np.count_nonzero(drawn))
        if not pixels or not all(name in found for name in names):
            continue
        area = pixels / skin.unit_px**2
        doubt = sum((0.5 if name == "mouth" else 1.0) * found[name].doubtful_area for name in names)
        seen = np.count_nonzero(drawn & (skin.cover == SKIN)) / pixels
        if seen >= LEAST_SEEN:
            confidence[part] = max(area - doubt / 2.0, 0.0) / (area + doubt / 2.0) * seen
    certainty = 1.0 / (1.0 + np.exp(-np.abs(skin.odds)))
    for label in (SKIN, HAIR, OTHER):
        pixels = skin.cover == label
        if pixels.any():
            confidence[label] = float(certainty[pixels].mean())
    return confidence
