"""ARKit's 52 facial expressions, and how a face model offers them."""

from __future__ import annotations

from collections.abc import Sequence

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
