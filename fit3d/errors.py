"""The one family of errors that a user, a photo or a file can cause.

Each message is one line that says what we got, what we expected and what to do. The command line prints it
without a traceback and leaves with `exit_code`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Fit3dError(Exception):
    """Base of all errors that fit3d raises on purpose. `exit_code` is what the command line returns for it.

    Messages quote names and contents of files, which may hold anything; what cannot be printed becomes an escape.
    """

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class UsageError(Fit3dError):
    """Wrong option, configuration, missing package or unusable output folder: nothing can be done at all (exit 2)."""

    exit_code = 2


class OccupiedError(UsageError):
    """A folder holds what must not be replaced by the result that was to be written there."""


class LockedError(UsageError):
    """Another process writes to the folder."""


class PhotoError(Fit3dError):
    """One photo cannot be fitted; the others of the call go on (exit 1). `status` is the word for it
    in the lines of `fit --json`."""

    exit_code = 1
    status = "failed"


class UnreadablePhotoError(PhotoError):
    """The file is missing, empty, truncated, too large or not an image."""

    status = "unreadable"


class NoFaceError(PhotoError):
    """The photo shows no face, or none of the number asked for."""

    status = "no_face"


class LabelImageError(PhotoError):
    """A label image given by the user does not belong to its photo or holds unknown ids."""


class LandmarkFileError(PhotoError):
    """A landmark file given by the user cannot be read or does not belong to its photo."""


class ObservationError(PhotoError):
    """A backend returned something unusable (NaN, too few points)."""


class ModelFileError(Fit3dError):
    """A face model file is missing, truncated or of another layout."""


def printable(text: str) -> str:
    """Control characters, which a file name may hold, as escapes: a message stays one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def concerns_all(error: Exception) -> bool:
    """Whether what went wrong with one photo would go wrong with the others too."""
    return isinstance(error, Fit3dError) and not isinstance(error, PhotoError)


def results_or_errors(many: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R | Exception]:
    """`many(items)`, where each item has its own result; where that fails, for each item its result or its error.

    Whoever fails is found by halves, so few of the others are done again. Raises what concerns all of them.
    """
    try:
        return list(many(items)) if items else []
    except Exception as error:
        if concerns_all(error):
            raise
        if len(items) == 1:
            return [error]
    middle = len(items) // 2
    return [*results_or_errors(many, items[:middle]), *results_or_errors(many, items[middle:])]
