"""Fits may not get worse than recorded. What is measured, and how the record is renewed: quality_guard.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fit3d.config import FitConfig
from quality_guard import (
    RECORDED,
    TOLERANCE,
    complaints,
    measure_example,
    measure_heads,
    measure_labelled,
    with_loss,
)


@pytest.fixture(scope="module")
def recorded() -> dict[str, float]:
    content: dict[str, float] = json.loads(RECORDED.read_text())
    return content


def test_the_example(recorded: dict[str, float]) -> None:
    pytest.importorskip("mediapipe")
    assert complaints(measure_example(FitConfig()), recorded) == []


def test_heads_of_known_shape(recorded: dict[str, float]) -> None:
    assert complaints(measure_heads(FitConfig()), recorded) == []


def test_photos_that_people_labelled(recorded: dict[str, float], shared_data: Path) -> None:
    pytest.importorskip("mediapipe")
    assert complaints(measure_labelled(shared_data / "labelled", FitConfig()), recorded) == []


def test_the_guard_sees_a_worsening(recorded: dict[str, float]) -> None:
    """Without parts, fits are worse in shape and in overlap."""
    assert [line.split(":")[0] for line in complaints(measure_heads(with_loss("landmarks")), recorded)] == [
        "heads_mm",
        "heads_iou",
    ]
    # and so they are with PRDL alone
    assert complaints(measure_heads(with_loss("prdl")), recorded)


def test_the_guard_counts_the_right_way() -> None:
    recorded = {"heads_mm": 1.0, "heads_iou": 0.8, "example_nme": 0.004}
    assert complaints(recorded, recorded) == []
    assert complaints({"heads_mm": 0.5, "heads_iou": 0.95, "example_nme": 0.001}, recorded) == []
    for name, sign in (("heads_mm", 1.0), ("heads_iou", -1.0), ("example_nme", 1.0)):
        step = sign * TOLERANCE[name.rpartition("_")[2]]
        assert complaints({name: recorded[name] + 0.9 * step}, recorded) == []
        assert len(complaints({name: recorded[name] + 1.1 * step}, recorded)) == 1
    assert len(complaints({"heads_iou": float("nan")}, recorded)) == 1
