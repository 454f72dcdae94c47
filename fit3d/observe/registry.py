"""Detectors and parsers by name. A backend's package is imported when its name is asked for, not before.

A name may carry a variant, as in 'face-alignment:blazeface'.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fit3d.errors import UsageError
from fit3d.resources import install_command

if TYPE_CHECKING:  # `fit3d --help` asks for the names and must not load numpy
    from fit3d.observe.base import FaceParser, LandmarkDetector


@dataclass(frozen=True)
class _Entry:
    """Where a backend lives."""

    module: str
    class_name: str
    extra: str | None = None
    """The extra of the fit3d package that installs what it needs; None where fit3d itself needs it."""
    keywords: dict[str, Any] = field(default_factory=dict)
    """What its class is made with, besides the device and the variant."""
    variants: tuple[str, ...] = ()
    """Names that may follow it after a colon; the first is taken where none does."""


_LANDMARK_DETECTORS = {
    "mediapipe": _Entry("fit3d.observe.mediapipe", "MediapipeLandmarks", "embedded"),
}
_FACE_PARSERS = {
    "contours": _Entry("fit3d.observe.contours", "ContourParser"),
}

LANDMARK_DETECTORS: tuple[str, ...] = tuple(_LANDMARK_DETECTORS)
"""Names that `landmark_detector` knows."""
FACE_PARSERS: tuple[str, ...] = tuple(_FACE_PARSERS)
"""Names that `face_parser` knows."""


@cache
def landmark_detector(name: str, device: str = "cpu") -> LandmarkDetector:
    """The landmark detector of that name, loaded once per process.

    Raises:
        UsageError: unknown name, or its package is not installed.
    """
    detector: LandmarkDetector = _load("landmark detector", _LANDMARK_DETECTORS, name, device)
    return detector


@cache
def face_parser(name: str, device: str = "cpu") -> FaceParser:
    """The face parser of that name, loaded once per process.

    Raises:
        UsageError: unknown name, or its package is not installed.
    """
    parser: FaceParser = _load("face parser", _FACE_PARSERS, name, device)
    return parser


def _load(kind: str, entries: dict[str, _Entry], name: str, device: str) -> Any:
    base, colon, variant = name.partition(":")
    if base not in entries:
        raise UsageError(f"{kind} {name!r} is not known; choose one of {', '.join(entries)}")
    entry = entries[base]
    if colon and variant not in entry.variants:
        has = f"one of {', '.join(entry.variants)}" if entry.variants else "nothing"
        raise UsageError(f"{kind} {name!r}: expected {has} behind the colon")
    try:
        module = import_module(entry.module)
    except ImportError as error:
        if entry.extra is None or (error.name or "").startswith("fit3d"):
            raise
        if not isinstance(error, ModuleNotFoundError):  # installed, but a library of the system is not: libGL, ...
            raise UsageError(f"{kind} {name!r} cannot be loaded ({error}); see `fit3d doctor`") from error
        raise UsageError(
            f"{kind} {name!r} needs a package that is missing ({error.name}); run: {install_command(entry.extra)}"
        ) from error
    keywords = dict(entry.keywords)
    if entry.variants:
        keywords["variant"] = variant or entry.variants[0]
    return getattr(module, entry.class_name)(device=device, **keywords)
