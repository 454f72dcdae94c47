"""Landmark layouts: which named points detectors find and face models carry, and what some of them mark.

'Left' and 'right' are the person's own.
"""

from __future__ import annotations

from typing import Literal

LandmarkLayout = Literal["ibug68", "mediapipe478"]
"""'ibug68': the 68 points of iBUG's annotation; 'mediapipe478': MediaPipe's face mesh, irises last."""

LANDMARK_COUNTS: dict[LandmarkLayout, int] = {"ibug68": 68, "mediapipe478": 478}

MOST_MISSING = 0.5
"""A face with a larger share of missing landmarks than this cannot be fitted."""

CONTOUR_LANDMARKS: dict[LandmarkLayout, tuple[int, ...]] = {
    "ibug68": tuple(range(17)),
    "mediapipe478": (
        *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152),
        *(148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
    ),
}
"""Landmarks on the outline of the face."""

LID_LANDMARKS: dict[LandmarkLayout, tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]] = {
    "ibug68": (((36, 37, 38, 39), (36, 41, 40, 39)), ((42, 43, 44, 45), (42, 47, 46, 45))),
    "mediapipe478": (
        ((33, 246, 161, 160, 159, 158, 157, 173, 133), (33, 7, 163, 144, 145, 153, 154, 155, 133)),
        ((362, 398, 384, 385, 386, 387, 388, 466, 263), (362, 382, 381, 380, 374, 373, 390, 249, 263)),
    ),
}
"""Upper and lower lid of the right and of the left eye, from the person's right corner to the left, in pairs of
opposite points."""

BROW_LANDMARKS: dict[LandmarkLayout, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "ibug68": (tuple(range(17, 22)), tuple(range(22, 27))),
    "mediapipe478": (
        (46, 53, 52, 65, 55, 70, 63, 105, 66, 107),
        (276, 283, 282, 295, 285, 300, 293, 334, 296, 336),
    ),
}
"""Landmarks on the right and on the left eyebrow."""
