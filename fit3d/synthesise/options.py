"""The options of a data set of edited photos, and which edits they come to for a photo."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from fit3d.batch.options import WORDS, BatchOptions
from fit3d.checks import check_whole
from fit3d.errors import UsageError
from fit3d.morphable.model import MorphableModel
from fit3d.synthesise.recipes import RECIPES, Recipe, choose_recipes, draw_expression

ImageFormat = Literal["jpg", "png"]
MOST_PER_PHOTO = 100_000
"""Edits of one photo."""
TEXTURE_SIZE = 64
"""Of the fit, texels: of the texture an edit needs the light alone."""
_SEED_BYTES = 4


@dataclass(frozen=True)
class SynthesisOptions(BatchOptions):
    """All that changes the data set, as plain values."""

    command: ClassVar[str] = "synthesise"
    words: ClassVar[dict[str, str]] = WORDS | {
        "expressions": "--expressions",
        "recipes": "--recipes",
        "per_photo": "--per-photo",
        "seed": "--seed",
        "image_format": "--format",
        "keep_rejected": "--keep-rejected",
    }

    texture_size: int = TEXTURE_SIZE
    recipes: tuple[Recipe, ...] = RECIPES
    """That edits are drawn from."""
    per_photo: int = 4
    seed: int = 0
    image_format: ImageFormat = "jpg"
    """PNG keeps every bit; JPEG of quality 95 takes a fifth of the space."""
    keep_rejected: bool = False
    """Whether edits that are not confirmed are written too, to a folder of their own."""

    def to_json(self) -> dict[str, Any]:
        """As an object of plain values. Recipes are told by name, and by a hash of what they say."""
        recipes = _in_order(self.recipes)
        said = json.dumps([asdict(recipe) for recipe in recipes], sort_keys=True)
        return super().to_json() | {
            "expressions": [recipe.name for recipe in recipes],
            "recipes": hashlib.sha256(said.encode()).hexdigest()[:12],
        }

    def check(self, model: MorphableModel) -> None:
        """Raises UsageError for what cannot be."""
        check_whole("--per-photo", self.per_photo, 1)
        check_whole("--seed", self.seed, 0)
        if self.per_photo > MOST_PER_PHOTO:
            raise UsageError(f"--per-photo {self.per_photo}: expected at most {MOST_PER_PHOTO}")
        if not self.recipes:
            raise UsageError("--expressions: names no recipes")
        if self.face == "all":
            raise UsageError(
                "--face all: one face of each photo is edited; expected 'largest', a number or a place X,Y"
            )
        neutral = model.expression.new_zeros(len(model.expression_names))
        for recipe in self.recipes:
            draw_expression(recipe, model, neutral, self.seed)


@dataclass(frozen=True)
class Draw:
    """One edit that is to be made of a photo."""

    index: int
    """From 0."""
    recipe: Recipe
    seed: int
    """Of the recipe's variation."""


def draws(options: SynthesisOptions, photo_sha256: str) -> list[Draw]:
    """The edits of a photo.

    They follow from seed, recipes and the photo's bytes alone. Recipes come in rounds, each of which has every recipe
    once, in an order of its own: at every index each recipe is as likely as any other, and fewer edits of a photo are
    the first ones of more.
    """
    recipes = _in_order(options.recipes)
    found: list[Draw] = []
    for index in range(options.per_photo):
        number, place = divmod(index, len(recipes))
        if place == 0:
            order = np.random.default_rng(_seed(options.seed, photo_sha256, "round", number)).permutation(len(recipes))
        found.append(Draw(index, recipes[order[place]], _seed(options.seed, photo_sha256, "edit", index)))
    return found


def chosen_recipes(expressions: Sequence[str], own: Sequence[Recipe] = ()) -> tuple[Recipe, ...]:
    """Those that are asked for by name, of the built-in ones and the user's `own`; without names all of his own, or
    all built-in ones.

    Raises:
        UsageError: a name that there is not.
    """
    if not expressions:
        return tuple(own) or RECIPES
    return choose_recipes(expressions, (*RECIPES, *own))


def _in_order(recipes: Sequence[Recipe]) -> list[Recipe]:
    return sorted(recipes, key=lambda recipe: recipe.name)


def _seed(seed: int, photo_sha256: str, purpose: str, number: int) -> int:
    digest = hashlib.sha256(f"{seed} {photo_sha256} {purpose} {number}".encode()).digest()
    return int.from_bytes(digest[:_SEED_BYTES], "big")
