"""What `fit3d batch` does with photos: as `fit3d fit`, to the same bytes, but several at a time."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fit3d.batch.mark import Mark
from fit3d.batch.options import BatchOptions
from fit3d.batch.record import Record
from fit3d.batch.source import AT_START
from fit3d.batch.storage import Storage
from fit3d.batch.storages import is_of_one_process, is_url
from fit3d.batch.work import Work
from fit3d.errors import UsageError


@dataclass(frozen=True)
class PhotoItem:
    """One photo of a batch."""

    photo: str
    """Its name in the storage of the photos."""
    size: int | None
    """Bytes, as the storage tells."""
    version: str | None
    """See `fit3d.batch.storage.Entry`."""
    folder: str
    """Of its result, relative to OUT; with all faces asked for, '-face1', '-face2', ... are added."""
    parts: str | None = None
    """The user's label image, a path on this machine or one that all share; None takes the parser."""
    landmarks_file: str | None = None
    """The user's landmarks, likewise."""


@dataclass(frozen=True)
class FitWork(Work[PhotoItem, Record]):
    """Fits photos of one storage and writes the results to another.

    The photos of a chunk go through detector, parser and fit together, where these gain by it. On an accelerator a
    few threads read and write while others wait for the disk; to keep it busy in between, give a device several
    workers, which are then at different stages.
    """

    photos: Storage
    results: Storage
    options: BatchOptions
    mark: Mark | None = None
    """Of OUT, to be found by the workers."""
    source: str = AT_START
    """Hash of the fit3d that gives out the work, see `raise_unless_of_photo`."""

    def start(self, device: str) -> Callable[[Sequence[PhotoItem]], list[Record]]:
        """Loads face model, detector and parser. Raises UsageError, ModelFileError."""
        from fit3d.batch.fit_chunk import ChunkFitter

        return ChunkFitter(self, device).fit

    def name(self, item: PhotoItem) -> str:
        return item.photo

    def check_shared(self) -> None:
        here, alike = socket.gethostname(), "must be at the same path, or URL, on all machines"
        for storage in (self.photos, self.results):
            if is_of_one_process(storage.address):
                raise UsageError(
                    f"{storage.root}: no process but this one sees what is there, and photos are fitted by others; "
                    "choose a folder, or a URL that they can read"
                )
        if not is_url(self.photos.address) and not os.path.isdir(self.photos.address):
            raise UsageError(f"{self.photos.root}: no such folder on {here}; the photos {alike}")
        if self.mark is not None and not self.mark.is_in(self.results):
            raise UsageError(f"{self.results.root}: on {here} this is not the folder of this run; the results {alike}")

    def lost(self, item: PhotoItem, reason: str) -> Record:
        return Record(
            photo=item.photo,
            sha256=None,
            size=item.size,
            version=item.version,
            status="failed",
            message=reason,
            part_iou=None,
            landmark_nme=None,
            seconds=0.0,
            timings_s={},
            folder=None,
            faces=(),
            options=self.options.digest,
        )
