"""Overlap and landmark error, on images and points small enough to count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fit3d.labels import INNER_MOUTH, LEFT_EYE, LOWER_LIP, NOSE, OTHER, RIGHT_EYE, SKIN
from fit3d.metrics import landmark_nme, part_iou


def test_iou_of_each_part_and_their_mean() -> None:
    observed = np.array([[NOSE, NOSE, NOSE, LEFT_EYE], [SKIN, SKIN, SKIN, SKIN], [0, 0, OTHER, INNER_MOUTH]], np.uint8)
    fitted = np.array([[NOSE, NOSE, 0, LEFT_EYE], [NOSE, SKIN, 0, 0], [0, 0, OTHER, INNER_MOUTH]], np.uint8)
    scores = part_iou(fitted, observed)
    # nose: 2 in both, 3 + 3 - 2 in either; skin, 1 of 4, is told but not averaged
    assert scores == pytest.approx({"nose": 0.5, "left_eye": 1.0, "skin": 0.25, "mean": 0.75})


def test_iou_of_parts_that_one_side_lacks() -> None:
    """Missing from the fit counts as 0; missing from the photo does not count."""
    observed = np.array([[NOSE, NOSE, RIGHT_EYE, 0]], np.uint8)
    fitted = np.array([[NOSE, NOSE, 0, LOWER_LIP]], np.uint8)
    assert part_iou(fitted, observed) == pytest.approx({"nose": 1.0, "right_eye": 0.0, "mean": 0.5})


def test_mean_iou_of_no_parts_is_not_a_number() -> None:
    observed, fitted = np.full((2, 2), SKIN, np.uint8), np.full((2, 2), NOSE, np.uint8)
    scores = part_iou(fitted, observed)
    assert scores["skin"] == 0.0 and math.isnan(scores["mean"])


def test_iou_is_not_symmetric_in_what_is_left_out() -> None:
    one, two = np.array([[NOSE, NOSE]], np.uint8), np.array([[NOSE, SKIN]], np.uint8)
    assert part_iou(one, two).keys() == {"nose", "skin", "mean"}
    assert part_iou(two, one).keys() == {"nose", "mean"}


def test_landmark_error_is_a_share_of_the_diagonal() -> None:
    observed = np.array([[10.0, 10.0], [40.0, 50.0], [20.0, 20.0], [np.nan, np.nan]])
    fitted = observed + np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -10.0], [0.0, 0.0]])
    fitted[3] = 1000.0  # nobody saw that one
    assert landmark_nme(fitted, observed) == pytest.approx((5.0 + 0.0 + 10.0) / 3.0 / 50.0)


def test_landmark_error_does_not_depend_on_the_size_of_the_photo() -> None:
    generator = np.random.default_rng(0)
    observed = generator.uniform(0.0, 100.0, (20, 2))
    fitted = observed + generator.normal(size=(20, 2))
    assert landmark_nme(7.0 * fitted + 30.0, 7.0 * observed + 30.0) == pytest.approx(landmark_nme(fitted, observed))
