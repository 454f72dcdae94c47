"""Detectors and parsers by name. A backend's package is imported when its name is asked for, not before.

A name may carry a variant, as in 'face-alignment:blazeface'. The name 'auto' takes the best backend that can run: its
package is installed and its weights are there. It never downloads any.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from fit3d.errors import UsageError
from fit3d.observe import weights
from fit3d.resources import install_command

if TYPE_CHECKING:  # `fit3d --help` asks for the names and must not load numpy
    from fit3d.observe.base import FaceParser, LandmarkDetector

AUTO = "auto"
"""The name that stands for the best backend that can run."""
AUTO_LANDMARKS = ("face-alignment", "mediapipe")
"""What 'auto' tries, best first. FAN was trained on what people marked, iBUG's 68 points; of MediaPipe's mesh only
look-alikes of these are known. The order is a judgement, not a measurement."""
AUTO_PARSERS = ("facer:lapa", "facer:celebm", "embedded", "contours")
"""What 'auto' tries, best first. FaRL was trained to label pixels, and people's labels are what it gives; LaPa's photos
are less posed than CelebAMask-HQ's. Outlines sharpened with the photo's pixels come before bare ones. That networks
come first is a judgement, not a measurement."""

Kind = Literal["landmark detector", "face parser"]


@dataclass(frozen=True)
class _Entry:
    """Where a backend lives."""

    module: str | Callable[[], str]
    """Or what tells it."""
    class_name: str | Callable[[], str]
    package: str | None = None
    """What it imports that may be missing; None where nothing may."""
    extra: str | None = None
    """The extra of the fit3d package that installs it; None where fit3d itself does."""
    keywords: dict[str, Any] = field(default_factory=dict)
    """What its class is made with, besides the device and the variant."""
    variants: tuple[str, ...] = ()
    """Names that may follow it after a colon; the first is taken where none does."""


@dataclass(frozen=True)
class Choice:
    """What 'auto' took."""

    name: str
    warnings: tuple[str, ...] = ()
    """Why a better one, whose weights are there, was not taken."""


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # loaded, from no file
        return True


def _mediapipe_module() -> str:
    # mediapipe 0.10.21 is the last with `solutions`; without the package either module says that it is missing
    has_tasks_alone = _is_installed("mediapipe") and not weights.mediapipe_holds_weights()
    return "fit3d.observe.mediapipe_tasks" if has_tasks_alone else "fit3d.observe.mediapipe"


def _mediapipe_class() -> str:
    return "MediapipeTaskLandmarks" if _mediapipe_module().endswith("_tasks") else "MediapipeLandmarks"


_FAN_DETECTORS = ("sfd", "blazeface", "yunet", "scrfd")
_LANDMARK_DETECTORS = {
    "mediapipe": _Entry(_mediapipe_module, _mediapipe_class, "mediapipe", "embedded"),
    "face-alignment": _Entry(
        "fit3d.observe.face_alignment", "FaceAlignmentLandmarks", "face_alignment", variants=_FAN_DETECTORS
    ),
    "face-alignment-3d": _Entry(
        "fit3d.observe.face_alignment",
        "FaceAlignmentLandmarks",
        "face_alignment",
        keywords={"three_d": True},
        variants=_FAN_DETECTORS,
    ),
}
_FACE_PARSERS = {
    "embedded": _Entry("fit3d.observe.embedded", "EmbeddedParser", "cv2", "embedded"),
    "contours": _Entry("fit3d.observe.contours", "ContourParser"),
    "facer": _Entry("fit3d.observe.facer", "FacerParser", "facer", variants=("lapa", "celebm")),
}
_ENTRIES: dict[Kind, dict[str, _Entry]] = {"landmark detector": _LANDMARK_DETECTORS, "face parser": _FACE_PARSERS}
_ORDER: dict[Kind, tuple[str, ...]] = {"landmark detector": AUTO_LANDMARKS, "face parser": AUTO_PARSERS}

LANDMARK_DETECTORS: tuple[str, ...] = (AUTO, *_LANDMARK_DETECTORS)
"""Names that `landmark_detector` knows."""
FACE_PARSERS: tuple[str, ...] = (AUTO, *_FACE_PARSERS)
"""Names that `face_parser` knows."""


def landmark_detector(name: str = AUTO, device: str = "cpu") -> LandmarkDetector:
    """The landmark detector of that name, loaded once per process.

    Raises:
        UsageError: unknown name, its package is not installed, or its weights are not there.
    """
    detector: LandmarkDetector = _loaded("landmark detector", _taken("landmark detector", name), device)
    return detector


def face_parser(name: str = AUTO, device: str = "cpu") -> FaceParser:
    """The face parser of that name, loaded once per process.

    Raises:
        UsageError: unknown name, its package is not installed, or its weights are not there.
    """
    parser: FaceParser = _loaded("face parser", _taken("face parser", name), device)
    return parser


def check_name(kind: Kind, name: str) -> None:
    """Raise UsageError for a name, or a variant behind a colon, that is not known."""
    if name != AUTO:
        _entry(kind, name)


def choose(kind: Kind) -> Choice:
    """What 'auto' takes now: the first of its order whose package is installed and whose weights are there.

    Raises:
        UsageError: none can run.
    """
    hindrances, problems = [], []
    for name in _ORDER[kind]:
        hindrance = what_lacks(kind, name)
        if hindrance is None:
            try:
                import_backend(kind, name)
            except UsageError as error:
                hindrance = str(error)
                problems.append(f"{error}; taking the next best instead of {name}")
        if hindrance is None:
            return Choice(name, tuple(problems))
        hindrances.append(hindrance)
    raise UsageError(f"no {kind} can run: {'; '.join(dict.fromkeys(hindrances))}")


def able(kind: Kind, name: str) -> Choice:
    """The backend of that name, or what 'auto' takes now, after a glance at whether it can run.

    Raises:
        UsageError: it is not known, or something is missing; the message says what to type.
    """
    if name == AUTO:
        return choose(kind)
    hindrance = what_lacks(kind, name)
    if hindrance is not None:
        raise UsageError(f"{kind} {hindrance}")
    return Choice(name)


def what_lacks(kind: Kind, name: str) -> str | None:
    """What keeps a backend from running and what to type, as far as a glance tells; None where nothing does."""
    entry = _entry(kind, name)
    if entry.package is not None and not _is_installed(entry.package):
        return f"{name} needs the package {entry.package}; run: {install_command(entry.extra)}"
    try:
        weights.require(name)
    except UsageError as error:
        return str(error)
    return None


def order_of(kind: Kind) -> Sequence[str]:
    """What 'auto' tries, best first."""
    return _ORDER[kind]


def import_backend(kind: Kind, name: str) -> ModuleType:
    """The module of a backend. Raises UsageError where its package is not installed or cannot be imported."""
    entry = _entry(kind, name)
    try:
        return import_module(entry.module if isinstance(entry.module, str) else entry.module())
    except UsageError:
        raise
    except Exception as error:  # a broken package may raise anything while it is imported
        if entry.package is None or (isinstance(error, ImportError) and (error.name or "").startswith("fit3d")):
            raise
        if not isinstance(error, ModuleNotFoundError):  # installed, but a library that it needs is not: libGL, ...
            reason = " ".join(str(error).split())
            raise UsageError(f"{kind} {name!r} cannot be loaded ({reason}); see `fit3d doctor`") from error
        raise UsageError(
            f"{kind} {name!r} needs a package that is missing ({error.name}); run: {install_command(entry.extra)}"
        ) from error


def _taken(kind: Kind, name: str) -> str:
    """The name itself, or what 'auto' takes, with its warnings given."""
    if name != AUTO:
        return name
    choice = choose(kind)
    for warning in choice.warnings:
        warnings.warn(warning, stacklevel=3)
    return choice.name


@cache
def _loaded(kind: Kind, name: str, device: str) -> Any:
    """The backend of that name, made once."""
    entry = _entry(kind, name)
    hindrance = what_lacks(kind, name)
    if hindrance is not None:
        raise UsageError(f"{kind} {hindrance}")
    module = import_backend(kind, name)
    keywords = dict(entry.keywords)
    if entry.variants:
        keywords["variant"] = name.partition(":")[2] or entry.variants[0]
    class_name = entry.class_name if isinstance(entry.class_name, str) else entry.class_name()
    return getattr(module, class_name)(device=device, **keywords)


def _entry(kind: Kind, name: str) -> _Entry:
    """Raises UsageError for a name, or a variant behind a colon, that is not known."""
    base, colon, variant = name.partition(":")
    entries = _ENTRIES[kind]
    if base not in entries:
        raise UsageError(f"{kind} {name!r} is not known; choose one of {', '.join((AUTO, *entries))}")
    entry = entries[base]
    if colon and variant not in entry.variants:
        has = f"one of {', '.join(entry.variants)}" if entry.variants else "nothing"
        raise UsageError(f"{kind} {name!r}: expected {has} behind the colon")
    return entry
