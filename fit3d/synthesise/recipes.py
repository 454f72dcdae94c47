"""Named changes of expression, each with a seeded variation inside the model's bounds.

The groups are those of the paper's synthetic data (Wang et al., "3D Face Reconstruction with the Geometric Guidance of
Facial Part Segmentation", CVPR 2024): closed eyes, frowns, open mouths, distorted mouths, mouths with eyes, noses; 24
recipes in all. Its patterns were drawn into label images; these move ARKit's expressions of a fitted head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from fit3d.errors import UsageError
from fit3d.morphable.arkit import ARKIT_NAMES, arkit_shapes, near_enough
from fit3d.morphable.model import MorphableModel

Range = tuple[float, float]
"""Lowest and highest coefficient that is drawn, evenly."""

ASYMMETRY = 0.08
"""Largest share by which the sides of an expression that is drawn for both differ: no face is even."""


FURTHER = 0.25
"""See `Recipe.at_least`: a mouth that gapes is not closed by a recipe that opens mouths."""


@dataclass(frozen=True)
class Recipe:
    """A change of expression.

    Names are ARKit's. One without its 'Left' or 'Right', such as 'eyeBlink', means both sides, which get nearly the
    same coefficient. First what is in `set` replaces the fitted coefficients, then what is in `add` is added to
    them, and what is in `at_least` replaces those that are less, and raises those that are more by `FURTHER` of what
    is drawn; the result is kept inside the model's bounds. All other coefficients stay as they were fitted.
    """

    name: str
    group: str = ""
    set: Mapping[str, Range] = field(default_factory=dict)
    add: Mapping[str, Range] = field(default_factory=dict)
    at_least: Mapping[str, Range] = field(default_factory=dict)


IDENTITY = Recipe("identity")
"""Changes nothing."""

_LIPS_FREE = dict.fromkeys(("mouthClose", "mouthPress", "mouthRollLower", "mouthRollUpper"), (0.0, 0.0))
"""What keeps the lips together would cut through an opened mouth."""


def _closed(side: str) -> dict[str, Range]:
    """Of one side, or with '' of both."""
    return {f"eyeBlink{side}": (1.0, 1.0), f"eyeWide{side}": (0.0, 0.0), f"eyeSquint{side}": (0.0, 0.15)}


def _frown(side: str, kind: int) -> dict[str, Range]:
    """1: the brow pulled down; 2: down and the eye narrowed; 3: raised in anger, the inner end down, the outer up."""
    brow, eye = f"browDown{side}", f"eyeSquint{side}"
    raised: dict[str, Range] = {f"browOuterUp{side}": (0.0, 0.0)}
    if kind == 1:
        return raised | {brow: (0.9, 1.0), "browInnerUp": (0.0, 0.0)}
    if kind == 2:
        return raised | {brow: (0.9, 1.0), "browInnerUp": (0.0, 0.0), eye: (0.5, 0.9), f"noseSneer{side}": (0.4, 0.7)}
    return {brow: (0.9, 1.0), f"browOuterUp{side}": (0.7, 1.0), "browInnerUp": (0.0, 0.0)}


_MOUTHS: tuple[tuple[dict[str, Range], dict[str, Range]], ...] = (
    # what is set, and what is at least: a little, as in speech; wide; a cry, lips drawn back; an 'o'
    (_LIPS_FREE, {"jawOpen": (0.18, 0.30), "mouthLowerDown": (0.1, 0.4)}),
    (_LIPS_FREE, {"jawOpen": (0.45, 0.65), "mouthUpperUp": (0.0, 0.3)}),
    (
        _LIPS_FREE | {"mouthStretch": (0.2, 0.5)},
        {"jawOpen": (0.35, 0.50), "mouthUpperUp": (0.4, 0.8), "mouthLowerDown": (0.3, 0.7)},
    ),
    (_LIPS_FREE | {"mouthFunnel": (0.4, 0.8), "mouthSmile": (0.0, 0.0)}, {"jawOpen": (0.35, 0.55)}),
)
_UGLY: tuple[dict[str, Range], ...] = (
    {"mouthLeft": (0.5, 0.9), "mouthRight": (0.0, 0.0), "mouthPress": (0.2, 0.5)},
    {"mouthFrown": (0.6, 1.0), "mouthShrugLower": (0.4, 0.8), "mouthSmile": (0.0, 0.0)},
    {"mouthPucker": (0.6, 1.0), "mouthRight": (0.3, 0.6), "mouthLeft": (0.0, 0.0), "mouthSmile": (0.0, 0.0)},
)

_SIDES = (("left", "Left"), ("right", "Right"), ("both", ""))

RECIPES: tuple[Recipe, ...] = (
    *(Recipe(f"eye_close_{word}", "eye_close", _closed(side)) for word, side in _SIDES),
    *(
        Recipe(f"frown_{word}_{kind}", "frown", _frown(side, kind))
        for word, side in _SIDES
        for kind in (1, 2, 3)
    ),
    *(
        Recipe(f"mouth_open_{kind}", "mouth_open", lips, at_least=opened)
        for kind, (lips, opened) in enumerate(_MOUTHS, 1)
    ),
    *(Recipe(f"ugly_mouth_{kind}", "ugly_mouth", mouth) for kind, mouth in enumerate(_UGLY, 1)),
    *(
        Recipe(f"mouth_eye_{word}", "mouth_eye", _MOUTHS[0][0] | _closed(side), at_least=_MOUTHS[0][1])
        for word, side in _SIDES
    ),
    Recipe(
        "mouth_eye_wide", "mouth_eye", _MOUTHS[1][0] | {"eyeWide": (0.5, 0.9), "browInnerUp": (0.3, 0.7)},
        at_least=_MOUTHS[1][1],
    ),
    Recipe("nose", "nose", {"noseSneer": (0.7, 1.0)}, {"mouthUpperUp": (0.1, 0.3)}),
)  # fmt: skip
"""The paper's 24 patterns."""

GROUPS: tuple[str, ...] = tuple(dict.fromkeys(recipe.group for recipe in RECIPES))


def choose_recipes(names: Sequence[str], known: Sequence[Recipe] = RECIPES) -> tuple[Recipe, ...]:
    """The recipes of these names, each once, in the order asked for.

    A name is a recipe's, a group's, 'all', or that of one of ARKit's expressions, which is then drawn from its upper
    half.

    Raises:
        UsageError: a name that there is not.
    """
    by_name: dict[str, list[Recipe]] = {"all": list(known)}
    for recipe in known:
        by_name.setdefault(recipe.name, []).append(recipe)
        if recipe.group and recipe.group != recipe.name:
            by_name.setdefault(recipe.group, []).append(recipe)
    chosen: dict[str, Recipe] = {}
    for name in names:
        single = [Recipe(name, "", {name: (0.5, 1.0)})] if is_expression(name) else None
        found = by_name.get(name, single)
        if found is None:
            groups = ", ".join(dict.fromkeys(recipe.group or recipe.name for recipe in known))
            raise UsageError(
                f"expression '{name}': expected 'all', a group ({groups}), a recipe such as {known[0].name}, or one of "
                "ARKit's expressions such as jawOpen"
            )
        chosen |= {recipe.name: recipe for recipe in found}
    return tuple(chosen.values())


def is_expression(name: str) -> bool:
    """Whether a recipe may speak of it: one of ARKit's names, or one without its side."""
    return name in ARKIT_NAMES or f"{name}Left" in ARKIT_NAMES


def draw_expression(recipe: Recipe, model: MorphableModel, fitted: Tensor, seed: int) -> Tensor:
    """Coefficients (L,) float64 of the edited face: see `Recipe`. The same for the same recipe, seed and fit.

    Raises:
        UsageError: the model has no such expression.
    """
    generator = np.random.default_rng([seed, crc32(recipe.name.encode())])
    result = fitted.detach().double().clone()
    shapes = shapes_of(model)
    for ranges, replaces in ((recipe.set, True), (recipe.add, False), (recipe.at_least, False)):
        for name, (low, high) in ranges.items():
            value = generator.uniform(low, high)
            for side in sides_of(name):
                own = (
                    value
                    if side == name
                    else value * (1.0 + ASYMMETRY * generator.uniform(-1.0, 1.0))
                    if low < high
                    else value
                )
                if side not in shapes:
                    raise UsageError(f"recipe {recipe.name}: model {model.name} has no expression '{side}'")
                direction = shapes[side]
                own = min(own, high)
                if replaces:
                    result[direction != 0] = 0.0
                elif ranges is recipe.at_least:
                    now = float(result @ direction / (direction @ direction))
                    own = max(own - now, FURTHER * own)
                result += own * direction
    bounds = model.expression_bounds.to(result)
    return result.clamp(bounds[:, 0], bounds[:, 1])


def sides_of(name: str) -> tuple[str, ...]:
    """ARKit's names that a recipe's name stands for."""
    if name in ARKIT_NAMES:
        return (name,)
    return (f"{name}Left", f"{name}Right")


def shapes_of(model: MorphableModel) -> dict[str, Tensor]:
    """By ARKit's name, the coefficients (L,) float64 that make it at full strength."""
    count = len(model.expression_names)
    shapes = {name: torch.tensor(each.coefficients).double() for name, each in near_enough(model.arkit).items()}
    for name, places in arkit_shapes(model.expression_names).items():
        shapes[name] = torch.zeros(count, dtype=torch.float64).index_fill_(0, torch.tensor(places), 1.0)
    return shapes
