"""What all results have in common: where they were written, what they must not replace, how long they took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fit3d.errors import OccupiedError
from fit3d.export.files import usage_errors
from fit3d.export.observation import edited_file


@dataclass(frozen=True)
class Saved:
    """Where a result was written."""

    folder: Path
    files: dict[str, Path]
    """By kind. Of a fit 'json', 'texture', 'overlay', 'parts' and those of its formats ('obj', 'neutral_obj' and 'mtl';
    'glb'; 'cameras', 'images' and 'points3D'); of an observation 'landmarks', 'pts', 'labelme', 'parts', 'picture'."""
    timings_s: dict[str, float]
    """Seconds of each stage, 'write' and 'total' included."""


def check_vacant(folder: Path, kind: Literal["fit", "observation"]) -> None:
    """Raises OccupiedError where `folder` holds the other kind of files, as both have a label image of the same name
    and one may have been painted by hand, or files of an observation that were edited."""
    other, mark = ("observation", "_landmarks.json") if kind == "fit" else ("fit", ".json")
    with usage_errors(folder):
        occupied = (folder / f"{folder.name}{mark}").exists()
    if occupied:
        raise OccupiedError(
            f"{folder} holds the {other} of a photo, whose {folder.name}_parts.png would be replaced; choose another "
            "folder (-o)"
        )
    edited = edited_file(folder, folder.name) if kind == "observation" else None
    if edited is not None:
        raise OccupiedError(
            f"{edited} is not as fit3d wrote it and would be replaced; move it away or choose another folder (-o)"
        )


class Stopwatch:
    """Adds up the seconds of named stages."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = dict(seconds or {})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
