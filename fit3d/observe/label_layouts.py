"""Which part each class of other people's label images is, by name, and whose left they mean.

**Left and right.** fit3d's are the person's own. 'viewer' says that a layout means the picture's: what it calls left is
on the left in an upright picture, the person's right.

- LaPa: the viewer's. facer, whose authors trained on it, gives its classes the person's sides and exchanges the names.
- CelebAMask-HQ: the viewer's, as the landmarks of CelebA, whose lefteye_x is less than its righteye_x.
- Helen (as labelled by Smith et al. 2013): its list of classes is the one that LaPa took over; taken for the same.
- 3DDFA-V3: the person's own, as iBUG's 68 landmarks, with which its parts come; taken from its names alone.

A wrong belief about sides halves a figure without a word, so whoever reads labels should ask `sides_exchanged`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fit3d.labels import (
    BACKGROUND,
    HAIR,
    INNER_MOUTH,
    LEFT_EYE,
    LEFT_EYEBROW,
    LOWER_LIP,
    MIRRORED_PART,
    NOSE,
    OTHER,
    PART_NAMES,
    RIGHT_EYE,
    RIGHT_EYEBROW,
    SKIN,
    UPPER_LIP,
)
from fit3d.landmarks import LID_LANDMARKS
from fit3d.observe.base import Landmarks

LayoutName = Literal["fit3d", "lapa", "helen", "celebamask", "bisenet", "3ddfa-v3"]

_PART_OF: dict[str, int] = {
    "background": BACKGROUND,
    "skin": SKIN,
    "l_brow": LEFT_EYEBROW,
    "r_brow": RIGHT_EYEBROW,
    "l_eye": LEFT_EYE,
    "r_eye": RIGHT_EYE,
    "nose": NOSE,
    "u_lip": UPPER_LIP,
    "mouth": INNER_MOUTH,
    "l_lip": LOWER_LIP,
    "hair": HAIR,
    **dict.fromkeys(("eye_g", "l_ear", "r_ear", "ear_r", "neck", "neck_l", "cloth", "hat"), OTHER),
}
"""By CelebAMask-HQ's names, which stand for the others' too: 'mouth' is its inside, 'eye_g' are glasses, 'ear_r' is an
earring, 'neck_l' a necklace."""

_LAPA = ("background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "u_lip", "mouth", "l_lip", "hair")
CELEBAMASK_CLASSES = (
    *("background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip"),
    *("l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)
"""By id. Where the masks of two parts overlap, the later one is on top."""
_BISENET = (
    *("background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r", "nose", "mouth"),
    *("u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat"),
)


@dataclass(frozen=True)
class LabelLayout:
    """The ids of one kind of label image."""

    name: LayoutName
    parts: tuple[int, ...]
    """fit3d's label of each id."""
    what: str
    """In a few words, for people."""

    def to_fit3d(self, ids: np.ndarray) -> np.ndarray:
        """Label image (H, W) uint8 with the ids of `fit3d.labels`.

        Raises:
            ValueError: an id that the layout does not have; the message names some.
        """
        unknown = np.setdiff1d(ids, np.arange(len(self.parts)))
        if unknown.size:
            shown = ", ".join(str(value) for value in unknown[:8]) + (", ..." if unknown.size > 8 else "")
            raise ValueError(f"ids {shown} are not among 0 to {len(self.parts) - 1} of {self.what}")
        return np.asarray(self.parts, np.uint8)[ids]


def _by_viewer(name: LayoutName, classes: tuple[str, ...], what: str) -> LabelLayout:
    """A layout whose left is the viewer's."""
    return LabelLayout(name, tuple(MIRRORED_PART[_PART_OF[each]] for each in classes), what)


LAYOUTS: dict[LayoutName, LabelLayout] = {
    layout.name: layout
    for layout in (
        LabelLayout("fit3d", tuple(range(len(PART_NAMES))), "fit3d's parts"),
        _by_viewer("lapa", _LAPA, "LaPa's 11 classes"),
        _by_viewer("helen", _LAPA, "Helen's 11 classes"),
        _by_viewer("celebamask", CELEBAMASK_CLASSES, "CelebAMask-HQ's 19 classes"),
        _by_viewer("bisenet", _BISENET, "the 19 classes of face-parsing.PyTorch (BiSeNet)"),
        LabelLayout(
            "3ddfa-v3",
            (BACKGROUND, RIGHT_EYE, LEFT_EYE, RIGHT_EYEBROW, LEFT_EYEBROW, NOSE, UPPER_LIP, LOWER_LIP, SKIN),
            "3DDFA-V3's 8 parts",
        ),
    )
}

_SIDED = ((RIGHT_EYE, RIGHT_EYEBROW), (LEFT_EYE, LEFT_EYEBROW))


def sides_exchanged(labels: np.ndarray, landmarks: Landmarks) -> bool:
    """Whether most pixels of eyes and brows, (H, W) fit3d ids, lie nearer to the other eye of the landmarks."""
    eyes = [landmarks.points_px[[upper[0], upper[-1]]].mean(0) for upper, _ in LID_LANDMARKS[landmarks.layout]]
    own = other = 0
    for side, parts in enumerate(_SIDED):
        rows, columns = np.nonzero(np.isin(labels, parts))
        at = np.stack([columns, rows], 1) + 0.5
        away = [np.linalg.norm(at - eyes[which], axis=1) for which in (side, 1 - side)]
        own += int((away[0] < away[1]).sum())
        other += int((away[1] < away[0]).sum())
    return other > own


def mirrored(labels: np.ndarray) -> np.ndarray:
    """The label image (H, W) with left and right exchanged; nothing moves."""
    return np.asarray(MIRRORED_PART, np.uint8)[labels]
