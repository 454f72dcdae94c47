"""One photo's line in the manifest of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

Status = Literal["ok", "poor", "no_face", "unreadable", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class FaceRecord:
    """One fitted or failed face of a photo."""

    face: int
    """From 1, the largest."""
    status: Status
    message: str
    """Warnings or error, one line; empty where there is nothing to say."""
    part_iou: dict[str, float] | None
    """By part, and 'mean'; NaN where a part was not seen. None where the face was not fitted."""
    landmark_nme: float | None
    """Landmark error, share of the face's size."""
    folder: str | None
    """Of its result, relative to OUT, '/' between; None where there is none."""


@dataclass(frozen=True)
class Record:
    """What became of one photo. The line in the manifest has these names as keys."""

    photo: str
    """Path relative to the folder, '/' between."""
    sha256: str | None
    """Of the photo's bytes; None where they could not be read."""
    size: int | None
    """Of the photo, bytes."""
    version: str | None
    """What the storage tells of the photo's last change (a disk: mtime in nanoseconds; an object store: its ETag)."""
    status: Status
    """The worst of its faces."""
    message: str
    """One line; empty where there is nothing to say."""
    part_iou: dict[str, float] | None
    """Of the first fitted face, see `FaceRecord`."""
    landmark_nme: float | None
    """Of the same."""
    seconds: float
    """That the photo took a worker, from reading to writing."""
    timings_s: dict[str, float]
    """The same by stage: 'load', 'observe', 'fit', 'texture', 'write'."""
    folder: str | None
    """Of the first fitted face's result, relative to OUT, '/' between; None where there is none."""
    faces: tuple[FaceRecord, ...]
    """Every face that was asked for and found, by number."""
    options: str
    """Short hash of the options that made it."""

    @property
    def is_done(self) -> bool:
        """Whether a result was written."""
        return self.status in ("ok", "poor")

    def to_json(self) -> dict[str, Any]:
        """The manifest's line as an object of plain values; numbers that JSON has no word for are None."""
        content = dict(vars(self), faces=[dict(vars(face)) for face in self.faces])
        plain = _plain(content)
        assert isinstance(plain, dict)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
