"""Recipes of the user's own, from a YAML file.

    wink:
      group: winks                  # optional; the name by which several are asked for
      set: {eyeBlinkLeft: 1}        # replaces what was fitted: a number, or [lowest, highest]
      add: {mouthSmile: [0.1, 0.4]} # is added to it; without its Left or Right, both sides
      at_least: {jawOpen: 0.4}      # replaces what is less, raises what is more a little

The names of expressions are ARKit's. See `fit3d.synthesise.recipes.Recipe`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from fit3d.checks import read_bounded
from fit3d.errors import UsageError
from fit3d.synthesise.recipes import RECIPES, Range, Recipe, is_expression

LARGEST_FILE = 1024 * 1024
"""Bytes of a file of recipes that are read."""
MOST_RECIPES = 1000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Names of recipes become parts of file names."""
_KINDS = ("set", "add", "at_least")
_LOWEST, _HIGHEST = -1.0, 1.0
_KNOWN_NAMES = {each for recipe in RECIPES for each in (recipe.name, recipe.group)} | {"all"}


def read_recipes(path: str | Path) -> tuple[Recipe, ...]:
    """The recipes of a YAML file, in its order.

    Raises:
        UsageError: it cannot be read, is too large, or line so and so is not as described above.
    """
    path = Path(path)
    content = read_bounded(path, LARGEST_FILE, "a few recipes")
    try:
        root = yaml.compose(content.decode("utf-8"), Loader=_Loader)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file in UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" line {mark.line + 1}"
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UsageError(f"{path}{line}: not YAML: {problem}") from error
    except RecursionError as error:
        raise UsageError(f"{path}: nested too deeply for a file of recipes") from error
    return _Reader(path).recipes(root)


class _Loader(yaml.SafeLoader):
    """YAML's plain kinds only, and no aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed here", event.start_mark)
        return super().compose_node(parent, index)


def _number(node: yaml.Node) -> float:
    """NaN for what is none."""
    try:
        return float(node.value) if isinstance(node, yaml.ScalarNode) else math.nan
    except ValueError:
        return math.nan


class _Reader:
    """Turns YAML nodes, which know their lines, into recipes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def recipes(self, root: yaml.Node | None) -> tuple[Recipe, ...]:
        if not isinstance(root, yaml.MappingNode) or not root.value:
            raise self.error(root, "expected recipes by name, such as 'wink: {set: {eyeBlinkLeft: 1}}'")
        if len(root.value) > MOST_RECIPES:
            raise self.error(root, f"{len(root.value)} recipes, expected at most {MOST_RECIPES}")
        found: dict[str, Recipe] = {}
        for name, (key, value) in self.entries(root).items():
            if not NAME.fullmatch(name):
                raise self.error(key, f"recipe '{name}': expected letters, digits, '_', '-' and '.' only, at most 64")
            if name in _KNOWN_NAMES or is_expression(name):
                raise self.error(key, f"recipe '{name}': the name is taken; choose another")
            found[name] = self.recipe(name, key, value)
        return tuple(found.values())

    def recipe(self, name: str, key: yaml.Node, node: yaml.Node) -> Recipe:
        entries = self.entries(node) if isinstance(node, yaml.MappingNode) else {}
        unknown = [each for each in entries if each not in ("group", *_KINDS)]
        if unknown:
            expected = "expected group, set, add or at_least"
            raise self.error(entries[unknown[0]][0], f"recipe '{name}': {expected}, got '{unknown[0]}'")
        ranges = {each: self.ranges(name, entries[each][1]) for each in _KINDS if each in entries}
        if not any(ranges.values()):
            raise self.error(key, f"recipe '{name}': expected 'set', 'add' or 'at_least' with expressions and numbers")
        group = ""
        if "group" in entries:
            value = entries["group"][1]
            group = value.value if isinstance(value, yaml.ScalarNode) else ""
            if not NAME.fullmatch(group) or group in _KNOWN_NAMES or is_expression(group):
                raise self.error(value, f"recipe '{name}': group '{group}' is no name, or taken; choose another")
        return Recipe(name, group, **ranges)

    def ranges(self, recipe: str, node: yaml.Node) -> dict[str, Range]:
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, f"recipe '{recipe}': expected expressions and numbers, such as {{jawOpen: 0.5}}")
        found = {}
        for name, (key, value) in self.entries(node).items():
            if not is_expression(name):
                raise self.error(key, f"recipe '{recipe}': '{name}' is none of ARKit's expressions, such as jawOpen")
            found[name] = self.range(recipe, name, value)
        return found

    def range(self, recipe: str, name: str, node: yaml.Node) -> Range:
        ends = node.value if isinstance(node, yaml.SequenceNode) else [node, node]
        pair = [_number(each) for each in ends]
        if len(pair) != 2 or not all(_LOWEST <= each <= _HIGHEST for each in pair):
            raise self.error(
                node,
                f"recipe '{recipe}': {name}: expected a number from {_LOWEST:g} to {_HIGHEST:g} or [lowest, highest]",
            )
        low, high = pair
        if low > high:
            raise self.error(node, f"recipe '{recipe}': {name}: {low:g} is more than {high:g}")
        return low, high

    def entries(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Keys and values by name; each key once."""
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.error(key, "expected a name")
            if key.value in found:
                raise self.error(key, f"'{key.value}' stands here twice")
            found[key.value] = (key, value)
        return found

    def error(self, node: yaml.Node | None, text: str) -> UsageError:
        line = "" if node is None else f" line {node.start_mark.line + 1}"
        return UsageError(f"{self.path}{line}: {text}")
