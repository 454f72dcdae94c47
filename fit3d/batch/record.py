"""One photo's line in the manifest of a batch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, TypeVar, get_args

Status = Literal["ok", "poor", "no_face", "unreadable", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)

R = TypeVar("R", bound="Record")


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
    target: str = ""
    """Folder of the photo's result, there or not, relative to OUT; with every face asked for, '-face1', '-face2', ...
    follow."""
    given: tuple[str, ...] = ()
    """Versions of the label image and the landmark file that the user gave, '' where there was none; empty where none
    was asked for."""
    finished: float = 0.0
    """When, seconds since 1970."""

    @property
    def is_done(self) -> bool:
        """Whether a result was written."""
        return self.status in ("ok", "poor")

    def result_files(self) -> Iterator[str]:
        """The files, relative to OUT, that mean that the results of the photo are whole."""
        for face in self.faces:
            if face.folder is not None:
                yield f"{face.folder}/{PurePosixPath(face.folder).name}.json"

    def to_json(self) -> dict[str, Any]:
        """The manifest's line as an object of plain values; numbers that JSON has no word for are None."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        return plain

    def to_line(self) -> bytes:
        """The manifest's line. Bytes of a name that are no text are kept, as escapes."""
        content = self.to_json()
        try:
            return json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        except UnicodeEncodeError:
            return json.dumps(content, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_line(cls: type[R], line: bytes) -> R:
        """Of a line, whoever wrote it.

        Raises:
            ValueError: it is damaged.
        """
        try:
            content = json.loads(line)
            faces = tuple(_face(each) for each in content["faces"])
            texts = ("photo", "status", "message", "options", "target")
            _check(content["status"] in STATUSES and all(isinstance(content[name], str) for name in texts))
            _check(_is_name(content["photo"]) and (not content["target"] or _is_name(content["target"])))
            _check(all(isinstance(content[name], str | None) for name in ("sha256", "version")))
            _check(content["size"] is None or _is_count(content["size"]))
            timings_s = {str(name): _seconds(value) for name, value in content["timings_s"].items()}
            given = tuple(content["given"])
            _check(all(isinstance(each, str) for each in given))
            record = cls(
                photo=content["photo"],
                sha256=content["sha256"],
                size=content["size"],
                version=content["version"],
                status=content["status"],
                message=content["message"],
                part_iou=_figures(content["part_iou"]),
                landmark_nme=_figure(content["landmark_nme"]),
                seconds=_seconds(content["seconds"]),
                timings_s=timings_s,
                folder=_folder(content["folder"]),
                faces=faces,
                options=content["options"],
                target=content["target"],
                given=given,
                finished=_seconds(content["finished"]),
                **cls.own_values(content),
            )
        except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(f"not a photo's line ({error})") from error
        return record

    @classmethod
    def own_values(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Of a line, the values of the fields that a subclass adds. Raises what `from_line` catches."""
        return {}


def _face(content: dict[str, Any]) -> FaceRecord:
    _check(_is_count(content["face"]) and content["status"] in STATUSES and isinstance(content["message"], str))
    return FaceRecord(
        face=content["face"],
        status=content["status"],
        message=content["message"],
        part_iou=_figures(content["part_iou"]),
        landmark_nme=_figure(content["landmark_nme"]),
        folder=_folder(content["folder"]),
    )


def _figures(content: dict[str, float | None] | None) -> dict[str, float] | None:
    """A number that JSON had no word for was NaN."""
    if content is None:
        return None
    return {name: math.nan if value is None else float(value) for name, value in content.items()}


def _figure(value: float | None) -> float | None:
    return None if value is None else float(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _seconds(value: float) -> float:
    """A finite number, which can be added to others."""
    _check(math.isfinite(value))
    return float(value)


def _folder(name: str | None) -> str | None:
    _check(name is None or (isinstance(name, str) and _is_name(name)))
    return name


def _is_name(name: str) -> bool:
    """Whether it stays in its folder."""
    return "\0" not in name and not {"", ".", ".."}.intersection(name.split("/"))


def _check(holds: bool) -> None:
    if not holds:
        raise ValueError("a value of another kind than expected")


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
