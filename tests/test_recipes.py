"""Recipes of expressions: the paper's groups, seeded draws inside the model's bounds, and the user's own from YAML."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from fit3d import MorphableModel, UsageError, load_model
from fit3d.morphable.arkit import ARKIT_NAMES
from fit3d.synthesise.recipe_file import LARGEST_FILE, read_recipes
from fit3d.synthesise.recipes import GROUPS, IDENTITY, RECIPES, Recipe, choose_recipes, draw_expression, sides_of


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return load_model("anny")


def fitted(model: MorphableModel, **coefficients: float) -> torch.Tensor:
    expression = torch.zeros(len(model.expression_names), dtype=torch.float64)
    for name, value in coefficients.items():
        expression[model.expression_names.index(name)] = value
    return expression


def by_name(model: MorphableModel, expression: torch.Tensor) -> dict[str, float]:
    return {name: float(value) for name, value in zip(model.expression_names, expression, strict=True) if value}


def test_the_groups_are_the_papers() -> None:
    counts = {"eye_close": 3, "frown": 9, "mouth_open": 4, "ugly_mouth": 3, "mouth_eye": 4, "nose": 1}
    assert Counter(recipe.group for recipe in RECIPES) == counts
    assert tuple(counts) == GROUPS
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES) == 24


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_draws_stay_inside_ranges_and_bounds(recipe: Recipe, model: MorphableModel) -> None:
    start = fitted(model, jawOpen=0.9, mouthUpperUpLeft=0.95, browInnerUp=0.3)
    low, high = model.expression_bounds.double().unbind(1)
    touched = {
        side for ranges in (recipe.set, recipe.add, recipe.at_least) for name in ranges for side in sides_of(name)
    }
    for seed in range(20):
        drawn = draw_expression(recipe, model, start, seed)
        assert ((drawn >= low) & (drawn <= high)).all()
        for index, name in enumerate(model.expression_names):
            if name not in touched:
                assert drawn[index] == start[index], f"{name} is no part of the recipe"
        for name, (least, most) in recipe.set.items():
            for side in sides_of(name):
                # sides differ by a few per cent
                assert 0.9 * least <= drawn[model.expression_names.index(side)] <= most
        for name, (least, _) in recipe.at_least.items():
            for side in sides_of(name):
                index = model.expression_names.index(side)
                assert drawn[index] >= max(0.9 * least, float(start[index]))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_seed_always_draws_the_same_and_others_differ(recipe: Recipe, model: MorphableModel) -> None:
    start = fitted(model)
    assert torch.equal(draw_expression(recipe, model, start, 3), draw_expression(recipe, model, start, 3))
    assert not torch.equal(draw_expression(recipe, model, start, 3), draw_expression(recipe, model, start, 4))


def test_what_is_set_replaces_and_what_is_added_adds_up_to_the_bound(model: MorphableModel) -> None:
    start = fitted(model, jawOpen=0.5, mouthSmileLeft=0.2, mouthSmileRight=0.95, eyeWideLeft=0.7)
    recipe = Recipe("mine", "", {"jawOpen": (0.1, 0.1)}, {"mouthSmile": (0.25, 0.25)})
    drawn = by_name(model, draw_expression(recipe, model, start, 0))
    expected = {"jawOpen": 0.1, "mouthSmileLeft": 0.45, "mouthSmileRight": 1.0, "eyeWideLeft": 0.7}
    assert drawn == pytest.approx(expected)


def test_what_is_at_least_opens_what_is_closed_and_never_closes_what_gapes(model: MorphableModel) -> None:
    recipe = Recipe("open", "", at_least={"jawOpen": (0.4, 0.4)})
    for start, expected in ((0.0, 0.4), (0.35, 0.45), (0.39, 0.49), (0.4, 0.5), (0.7, 0.8), (0.95, 1.0)):
        drawn = by_name(model, draw_expression(recipe, model, fitted(model, jawOpen=start), 0))
        assert drawn == pytest.approx({"jawOpen": expected})


def test_the_identity_changes_nothing(model: MorphableModel) -> None:
    start = fitted(model, jawOpen=0.123456789)
    assert torch.equal(draw_expression(IDENTITY, model, start, 5), start)


def test_a_wink_is_of_one_side(model: MorphableModel) -> None:
    drawn = by_name(model, draw_expression(choose_recipes(["eye_close_left"])[0], model, fitted(model), 0))
    assert drawn["eyeBlinkLeft"] == 1.0 and "eyeBlinkRight" not in drawn


def test_names_choose_groups_recipes_and_expressions_each_once() -> None:
    chosen = choose_recipes(["eye_close", "nose", "eye_close_left", "jawOpen", "eyeBlink"])
    names = [recipe.name for recipe in chosen]
    assert names == ["eye_close_left", "eye_close_right", "eye_close_both", "nose", "jawOpen", "eyeBlink"]
    assert chosen[4].set == {"jawOpen": (0.5, 1.0)}
    assert choose_recipes(["all"]) == RECIPES
    with pytest.raises(UsageError, match=r"expression 'smirk': expected 'all', a group \(eye_close, frown, "):
        choose_recipes(["nose", "smirk"])


def test_a_model_without_an_expression_is_told(model: MorphableModel) -> None:
    from dataclasses import replace

    renamed = replace(model, expression_names=tuple(f"shape{k}" for k in range(len(model.expression_names))))
    with pytest.raises(UsageError, match="recipe nose: model anny has no expression 'noseSneerLeft'"):
        draw_expression(choose_recipes(["nose"])[0], renamed, fitted(model), 0)


def test_every_name_in_a_recipe_is_arkits() -> None:
    for recipe in RECIPES:
        for name in (*recipe.set, *recipe.add, *recipe.at_least):
            assert set(sides_of(name)) <= set(ARKIT_NAMES)


def test_reads_recipes_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "wink:\n  group: play\n  set: {eyeBlinkLeft: 1, jawOpen: .25}\n  add:\n    mouthSmile: [0.1, 0.4]\n"
        "  at_least: {jawOpen: 0.4}\n"
    )
    (wink,) = read_recipes(path)
    expected = {"eyeBlinkLeft": (1.0, 1.0), "jawOpen": (0.25, 0.25)}
    assert wink == Recipe("wink", "play", expected, {"mouthSmile": (0.1, 0.4)}, {"jawOpen": (0.4, 0.4)})
    assert choose_recipes(["play", "nose"], (*RECIPES, wink))[0] is wink


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 0, "expected recipes by name"),
        ("[1, 2]", 1, "expected recipes by name"),
        ("a: 1", 1, "expected 'set', 'add' or 'at_least'"),
        ("a:\n  set: {}", 1, "expected 'set', 'add' or 'at_least'"),
        ("a:\n  set:\n    jawOpn: 1", 3, "'jawOpn' is none of ARKit's expressions"),
        ("a:\n  set:\n    jawOpen: 1\n    jawOpen: 0", 4, "'jawOpen' stands here twice"),
        ("a:\n  sett: {jawOpen: 1}", 2, "expected group, set, add or at_least, got 'sett'"),
        ("a:\n  set: {jawOpen: 1.5}", 2, "expected a number from -1 to 1"),
        ("a:\n  set: {jawOpen: .nan}", 2, "expected a number from -1 to 1"),
        ("a:\n  set: {jawOpen: yes}", 2, "expected a number from -1 to 1"),
        ("a:\n  set: {jawOpen: [0, 1, 1]}", 2, "expected a number from -1 to 1"),
        ("a:\n  set: {jawOpen: [0.5, 0.2]}", 2, "0.5 is more than 0.2"),
        ("nose:\n  set: {jawOpen: 1}", 1, "the name is taken"),
        ("jawOpen:\n  set: {jawOpen: 1}", 1, "the name is taken"),
        ("../a:\n  set: {jawOpen: 1}", 1, "expected letters, digits"),
        ("a: {group: frown, set: {jawOpen: 1}}", 1, "group 'frown' is no name, or taken"),
        ("a: [", 1, "not YAML"),
        ("a: &x {set: {jawOpen: 1}}\nb: *x", 2, "aliases are not allowed"),
        ("a: {set: {jawOpen: !!python/object/apply:os.abort []}}", 1, "expected a number from -1 to 1"),
        ("[" * 5000, 0, "nested too deeply"),
    ],
)
def test_a_wrong_recipe_file_is_told_in_one_line(text: str, line: int, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_recipes(path)
    message = str(caught.value)
    assert message.startswith(f"{path} line {line}: " if line else f"{path}: ")
    assert problem in message and "\n" not in message


def test_a_recipe_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read it"):
        read_recipes(tmp_path / "missing.yaml")
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * (LARGEST_FILE + 1))
    with pytest.raises(UsageError, match="larger than"):
        read_recipes(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        read_recipes(path)
