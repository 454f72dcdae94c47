"""Checks of what a user sets, from Python and from the command line alike. Nothing heavy is imported at the top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from fit3d.errors import Fit3dError, UsageError

SMALLEST_TEXTURE, LARGEST_TEXTURE = 16, 8192
"""Sides of the texture, px, that can be asked for."""

DEVICE_TYPES = ("cpu", "cuda", "mps")
"""Types of torch devices that the fit knows."""


def is_whole(value: Any) -> bool:
    """Whether it is a whole number; True and False are none."""
    return not isinstance(value, bool) and isinstance(value, Integral)


def is_finite(value: Any) -> bool:
    """Whether it is a finite number; True and False are none."""
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # JSON's whole numbers may be larger than any float
        return False


def read_bounded(path: str | Path, largest: int, expected: str, error: type[Fit3dError] = UsageError) -> bytes:
    """The bytes of a file that somebody gave; at most `largest` of them are read.

    Raises:
        Fit3dError: of type `error`; it cannot be read, or is larger: `expected` says what a smaller one would be.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(largest + 1)
    except OSError as problem:
        raise error(f"{path}: cannot read it ({problem.strerror})") from problem
    if len(content) > largest:
        raise error(f"{path}: larger than {largest / 1024**2:g} MB; expected {expected}")
    return content


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises UsageError unless `value` is one of `choices`."""
    if not (isinstance(value, str) and value in choices):
        raise UsageError(f"{name} {value!r}: expected one of {', '.join(map(repr, choices))}")


def check_whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raises UsageError unless `value` is a whole number from `low` to `high`."""
    if not is_whole(value) or value < low or (high is not None and value > high):
        limits = f"from {low} on" if high is None else f"from {low} to {high}"
        raise UsageError(f"{name} {value!r}: expected a whole number {limits}")


def check_positive(name: str, value: Any, *, zero: bool = False) -> None:
    """Raises UsageError unless `value` is a finite number above 0, or 0 itself where `zero` allows it."""
    if not is_finite(value) or value < 0 or (value == 0 and not zero):
        raise UsageError(f"{name} {value!r}: expected a {'number from 0 on' if zero else 'positive number'}")


def check_focal(focal_px: Any, name: str = "focal_px") -> None:
    """Raises UsageError for a focal length that no camera has; None means that it is not known."""
    if focal_px is not None and not (is_finite(focal_px) and focal_px > 0):
        raise UsageError(f"{name} {focal_px}: expected a positive number of pixels")


def check_texture_size(size: Any, name: str = "texture_size") -> None:
    """Raises UsageError for a side of the texture that is too small or too large."""
    check_whole(name, size, SMALLEST_TEXTURE, LARGEST_TEXTURE)


def check_device(device: str, name: str = "device") -> None:
    """Raises UsageError where torch cannot compute on `device`."""
    if device == "cpu":
        return
    if not isinstance(device, str) or device.split(":")[0] not in DEVICE_TYPES:
        raise UsageError(f"{name} {device}: expected cpu, cuda, cuda:1 (the second of several) or mps")
    import torch

    try:
        torch.empty(0, device=torch.device(device))
    except (RuntimeError, AssertionError) as error:
        # AssertionError: a torch built without CUDA says so that way
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UsageError(f"{name} {device}: torch cannot use it ({reason}); try {name} cpu") from error
