"""Sorts a model's expressions into the groups that a person looks for them in."""

from __future__ import annotations

from collections.abc import Sequence

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Brows", ("brow",)),
    ("Eyes", ("eye", "lid", "blink", "gaze")),
    ("Cheeks and nose", ("cheek", "nose")),
    ("Jaw", ("jaw",)),
    ("Mouth", ("mouth", "lip", "smile")),
    ("Tongue", ("tongue",)),
)
"""Name of each group, and the words that tell its expressions: the earliest word in a name decides."""
OTHERS = "Expressions"
"""The group of those that no word tells, as in models whose expressions only have numbers."""


def expression_groups(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Places in `names` by group, in the order of `GROUPS`; groups without expressions are left out."""
    found: dict[str, list[int]] = {group: [] for group in (*dict(GROUPS), OTHERS)}
    for place, name in enumerate(names):
        found[_group_of(name.lower())].append(place)
    return {group: tuple(places) for group, places in found.items() if places}


def _group_of(name: str) -> str:
    hits = [(name.find(word), group) for group, words in GROUPS for word in words if word in name]
    return min(hits)[1] if hits else OTHERS
