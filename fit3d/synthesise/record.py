"""What became of one photo's edits: its line in the manifest, and the line of each edit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from fit3d.batch.record import Record

EditStatus = Literal["confirmed", "rejected", "skipped"]
EDIT_STATUSES: tuple[EditStatus, ...] = get_args(EditStatus)


@dataclass(frozen=True)
class EditRecord:
    """One edit of a photo."""

    index: int
    """From 0."""
    recipe: str
    group: str
    seed: int
    status: EditStatus
    """'rejected': detector or parser do not see in it what is written; 'skipped': it was not worth asking them."""
    reasons: tuple[str, ...]
    """Why not, a phrase each; empty where it is confirmed."""
    landmark_nme: float | None
    """Between written and seen landmarks, see `Confirmation`; None where nobody looked, or saw no face."""
    part_iou: dict[str, float] | None
    """Between written and seen labels, by part, and 'mean'; likewise."""
    image: str | None
    """File relative to OUT, '/' between; None where it was not written."""
    sha256: str | None
    """Of image, label image and JSON, one after the other."""

    @property
    def files(self) -> tuple[str, str, str]:
        """Image, label image and JSON, relative to OUT."""
        assert self.image is not None
        return sample_files(self.image)


def sample_files(image: str) -> tuple[str, str, str]:
    """Image, label image and JSON of the edit whose image has this name."""
    base = image.rpartition(".")[0]
    return image, f"{base}_parts.png", f"{base}.json"


@dataclass(frozen=True)
class EditsRecord(Record):
    """What became of one photo: its fit, and its edits."""

    edits: tuple[EditRecord, ...] = ()
    """In the order of their indices; none where the photo could not be fitted."""

    @property
    def confirmed(self) -> tuple[EditRecord, ...]:
        """The edits that the data set has."""
        return tuple(edit for edit in self.edits if edit.status == "confirmed")

    def result_files(self) -> Iterator[str]:
        """The JSONs of all edits that were written."""
        return (edit.files[2] for edit in self.edits if edit.image is not None)

    @classmethod
    def own_values(cls, content: dict[str, Any]) -> dict[str, Any]:
        """See `Record`."""
        return {"edits": tuple(_edit(each) for each in content["edits"])}


def _edit(content: dict[str, Any]) -> EditRecord:
    overlap, nme, image = content["part_iou"], content["landmark_nme"], content["image"]
    texts = [content[name] for name in ("recipe", "group", *(() if image is None else ("image", "sha256")))]
    numbers = [content[name] for name in ("index", "seed")]
    if not (
        content["status"] in EDIT_STATUSES
        and all(isinstance(each, str) for each in (*texts, *content["reasons"]))
        and all(isinstance(each, int) and each >= 0 for each in numbers)
        and (image is None or not (image.startswith("/") or ".." in PurePosixPath(image).parts or "\0" in image))
    ):
        raise ValueError("an edit's value of another kind than expected")
    return EditRecord(
        index=content["index"],
        recipe=content["recipe"],
        group=content["group"],
        seed=content["seed"],
        status=content["status"],
        reasons=tuple(content["reasons"]),
        landmark_nme=None if nme is None else float(nme),
        part_iou=None if overlap is None else {str(name): _figure(value) for name, value in overlap.items()},
        image=image,
        sha256=content["sha256"],
    )


def _figure(value: float | None) -> float:
    """A number that JSON had no word for was NaN."""
    return math.nan if value is None else float(value)
