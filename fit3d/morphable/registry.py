"""Face models by name."""

from __future__ import annotations

from functools import lru_cache

from fit3d.errors import UsageError
from fit3d.morphable.anny import load_anny
from fit3d.morphable.model import MorphableModel

MODEL_NAMES: tuple[str, ...] = ("anny",)
"""Models that `load_model` knows."""


@lru_cache(maxsize=4)
def load_model(name: str) -> MorphableModel:
    """The face model called `name`, read once per process. Raises UsageError for an unknown name."""
    if name not in MODEL_NAMES:
        raise UsageError(f"no face model called '{name}'; choose one of {', '.join(MODEL_NAMES)}")
    return load_anny()
