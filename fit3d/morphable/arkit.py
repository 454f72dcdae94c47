"""ARKit's 52 facial expressions, and how a face model offers them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fit3d.checks import is_finite
from fit3d.errors import ModelFileError

SCHEMA = 1
MOST_RESIDUAL = 0.7
"""A combination with a larger residual is not offered by ARKit's name. A model whose shapes are all symmetric makes of
the smile of one side half a smile on both, and so leaves 1 / sqrt 2 of it: that is not that shape any more."""
LARGEST_FILE = 4 * 1024 * 1024
"""Bytes of a file of combinations that are read."""
LARGEST_COEFFICIENT = 1000.0
_AGAIN = "make it again with: fit3d models arkit NAME"

ARKIT_NAMES: tuple[str, ...] = (
    *("browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff"),
    *("cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight"),
    *("eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight"),
    *("eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight"),
    *("mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel"),
    *("mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker"),
    *("mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft"),
    *("mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight"),
    *("noseSneerLeft", "noseSneerRight", "tongueOut"),
)
"""The names of ARKit's blend shapes (`ARFaceAnchor.BlendShapeLocation`)."""


def arkit_shapes(expression_names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The expressions whose sum is ARKit's shape, by ARKit's name, for those of its names that a model can offer.

    Most are one expression of that name. Where a model has only `...Left` and `...Right` of a shape that ARKit has once
    (ICT-FaceKit's `browInnerUp` and `cheekPuff`), it is both. Nothing is added to the model for it: a fit with both
    sides and their sum as unknowns would have no single answer.
    """
    place = {name: index for index, name in enumerate(expression_names)}
    shapes = {}
    for name in ARKIT_NAMES:
        parts = (name,) if name in place else (f"{name}Left", f"{name}Right")
        if all(part in place for part in parts):
            shapes[name] = tuple(place[part] for part in parts)
    return shapes


@dataclass(frozen=True)
class Combination:
    """What comes nearest to one of ARKit's shapes that a model has no expression for."""

    coefficients: tuple[float, ...]
    """(L,) of the model's expressions at full strength."""
    size_mm: float
    """RMS over the face of the displacement that was wanted."""
    residual: float
    """RMS over the face of what the combination does otherwise, as a share of `size_mm`."""


def read_combinations(path: Path, model_sha256: str, expression_names: Sequence[str]) -> dict[str, Combination]:
    """All combinations in a file of `fit3d models arkit`, near or not, in ARKit's order.

    Raises:
        ModelFileError: it is missing, damaged or of a model with another checksum or other expressions.
    """
    place = {name: index for index, name in enumerate(expression_names)}
    own = arkit_shapes(expression_names)
    found = {}
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise ValueError(f"more than {LARGEST_FILE} bytes")
        content = json.loads(text)
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}, expected {SCHEMA}")
        if content["model_sha256"] != model_sha256:
            raise ValueError("made for another version of the model")
        for name, entry in content["shapes"].items():
            if name not in ARKIT_NAMES or name in own:
                raise ValueError(f"'{name}' is no shape that the model lacks")
            coefficients = [0.0] * len(expression_names)
            for expression, value in entry["coefficients"].items():
                if expression not in place:
                    raise ValueError(f"the model has no expression '{expression}'")
                coefficients[place[expression]] = _number(value, -LARGEST_COEFFICIENT, LARGEST_COEFFICIENT)
            found[name] = Combination(
                tuple(coefficients), _number(entry["size_mm"], 0.0, math.inf), _number(entry["residual"], 0.0, math.inf)
            )
    except OSError as error:
        raise ModelFileError(f"{path}: cannot read it ({error.strerror}); {_AGAIN}") from error
    except KeyError as error:
        raise ModelFileError(f"{path}: it lacks {error}; {_AGAIN}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path}: not usable: {error}; {_AGAIN}") from error
    return {name: found[name] for name in ARKIT_NAMES if name in found}


def near_enough(combinations: dict[str, Combination]) -> dict[str, Combination]:
    """Those that may bear ARKit's names."""
    return {name: each for name, each in combinations.items() if each.residual <= MOST_RESIDUAL}


def _number(value: object, low: float, high: float) -> float:
    if not is_finite(value) or not low <= value <= high:  # type: ignore[operator]  # is_finite takes numbers only
        raise ValueError(f"{value!r} is no number from {low:g} to {high:g}")
    return float(value)  # type: ignore[arg-type]
