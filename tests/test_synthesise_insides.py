"""What an edit keeps of an open mouth, and of the eyes: teeth with their jaw, whole eyes under their lids."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fit3d.labels import LEFT_EYEBROW, SKIN
from fit3d.synthesise.eyes import EyeShape, find_eye
from fit3d.synthesise.glasses import wears_glasses
from fit3d.synthesise.inside import Teeth
from fit3d.synthesise.open_mouth import Rims, find_split, follow_jaws

SKIN_COLOUR, TEETH, DARK = (200.0, 150.0, 120.0), (230.0, 225.0, 210.0), (20.0, 8.0, 6.0)
TONGUE, DRAWN = (150.0, 60.0, 60.0), 77.0
HEIGHT, WIDTH = 120, 160
LEFT, RIGHT, TOP, BOTTOM = 30.0, 130.0, 40.0, 70.0
"""Of a rectangular mouth, px."""


def mouth(*layers: tuple[float, tuple[float, float, float]]) -> tuple[np.ndarray, Rims]:
    """A photo of a mouth of layers, each down to a share of its height, and its rims."""
    photo = np.full((HEIGHT, WIDTH, 3), SKIN_COLOUR, np.float32)
    start = TOP
    for share, colour in layers:
        end = TOP + share * (BOTTOM - TOP)
        photo[int(start) : int(end), int(LEFT) : int(RIGHT)] = colour
        start = end
    x = np.linspace(LEFT, RIGHT, 21)
    upper, lower = (np.stack([x, np.full(21, y)], 1) for y in (TOP, BOTTOM))
    upper[[0, -1], 1] = lower[[0, -1], 1] = 0.5 * (TOP + BOTTOM)
    return photo, Rims.of(upper, lower)


def opened(photo: np.ndarray, rims: Rims, by: float) -> np.ndarray:
    behind = np.full_like(photo, DRAWN)
    return follow_jaws(photo, behind, rims, np.array([0.0, by]), float(np.mean(SKIN_COLOUR)))


@pytest.mark.parametrize("by", [8.0, 15.0, 30.0])
def test_upper_teeth_stay_the_tongue_goes_with_the_jaw_and_the_dark_between_grows(by: float) -> None:
    photo, rims = mouth((0.3, TEETH), (0.6, DARK), (1.0, TONGUE))
    middle = opened(photo, rims, by)[:, 80]
    assert np.allclose(middle[43:48], TEETH, atol=2.0)  # where they were, 40 to 49
    assert np.allclose(middle[int(58 + by + 2) : int(70 + by - 3)], TONGUE, atol=2.0)  # 58 to 70, further down
    between = middle[51 : int(58 + by - 1)]
    assert (between.mean(-1) < 35.0).all() and len(between) >= 7 + by - 1


def test_below_teeth_that_reach_the_lower_lip_is_what_was_drawn() -> None:
    photo, rims = mouth((1.0, TEETH))
    split = find_split(photo, rims, float(np.mean(SKIN_COLOUR)))
    assert (split.dark == 0.0).all() and (split.at == 1.0).all()
    middle = opened(photo, rims, 20.0)[:, 80]
    assert np.allclose(middle[44:66], TEETH, atol=2.0)
    assert np.allclose(middle[72:88], DRAWN, atol=2.0)


def test_a_lip_s_shade_on_teeth_is_not_the_dark_between_the_jaws() -> None:
    photo, rims = mouth((0.22, DARK), (1.0, TEETH))
    assert (find_split(photo, rims, float(np.mean(SKIN_COLOUR))).dark < 0.02).all()


def test_a_mouth_that_does_not_move_is_the_photo() -> None:
    photo, rims = mouth((0.3, TEETH), (0.6, DARK), (1.0, TONGUE))
    inside = (slice(43, 67), slice(50, 110))
    assert np.abs(opened(photo, rims, 0.0)[inside] - photo[inside]).mean() < 2.0


def test_teeth_are_the_person_s_and_the_seed_s() -> None:
    one, other = np.arange(5.0), np.arange(5.0) + 1e-3
    assert Teeth.of(one, 3) == Teeth.of(one.copy(), 3)
    assert len({Teeth.of(one, 3), Teeth.of(one, 4), Teeth.of(other, 3)}) == 3


def eye_and_photo() -> tuple[EyeShape, np.ndarray, np.ndarray]:
    """An eye that was fitted 40 px wide, in a photo where it is 60 px wide; and labels with a brow above."""
    photo = np.full((140, 160, 3), SKIN_COLOUR, np.float32)
    cv2.ellipse(photo, (80, 80), (30, 9), 0, 0, 360, (240.0, 240.0, 240.0), -1)
    parts = np.full((140, 160), SKIN, np.uint8)
    parts[50:58, 45:115] = LEFT_EYEBROW
    photo[50:58, 45:115] = DARK
    x = np.linspace(60.0, 100.0, 15)
    bow = 5.0 * np.sin(np.linspace(0.0, np.pi, 15))
    return EyeShape(*(np.stack([x, 80.0 + sign * bow], 1) for sign in (-1.0, 1.0, -1.0, 1.0))), photo, parts


def test_all_of_an_eye_is_found_though_less_was_fitted() -> None:
    eye, photo, parts = eye_and_photo()
    found = find_eye(photo, eye, parts) > 0.5
    truth = np.zeros((140, 160), np.uint8)
    cv2.ellipse(truth, (80, 80), (30, 9), 0, 0, 360, 1, -1)
    assert found[truth > 0].mean() > 0.95 and found[truth == 0].mean() < 0.01
    assert (eye.mask((140, 160), before=True) > 0.5).sum() < 0.4 * truth.sum()
    assert not found[45:63].any()  # the brow is none of it


@pytest.mark.parametrize("worn", [True, False])
def test_a_bridge_across_the_nose_is_glasses(worn: bool) -> None:
    photo = np.full((100, 160, 3), SKIN_COLOUR, np.float32)
    photo[:, 78:82] += 25.0  # the light on the ridge of the nose
    photo[20:30] *= np.linspace(0.8, 1.0, 10)[:, None, None]
    if worn:
        photo[45:48, 40:120] = DARK
    assert wears_glasses(photo, np.array([60.0, 50.0]), np.array([100.0, 50.0])) is worn
