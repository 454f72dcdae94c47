"""The one family of errors that a user, a photo or a file can cause.

Each message is one line that says what we got, what we expected and what to do. The command line prints it
without a traceback and leaves with `exit_code`.
"""

from __future__ import annotations


class Fit3dError(Exception):
    """Base of all errors that fit3d raises on purpose. `exit_code` is what the command line returns for it."""

    exit_code = 2


class UsageError(Fit3dError):
    """Wrong option, configuration, missing package or unusable output folder: nothing can be done at all (exit 2)."""

    exit_code = 2


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
