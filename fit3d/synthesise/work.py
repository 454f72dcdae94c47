"""What `fit3d synthesise` does with photos: each is fitted once, then edited, looked at again and written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fit3d.batch.fit_work import FitWork, PhotoItem
from fit3d.batch.places import OWN_NAMES
from fit3d.batch.plan import Call
from fit3d.batch.record import Record
from fit3d.synthesise.options import SynthesisOptions
from fit3d.synthesise.record import EditsRecord

EDITS = "edits.jsonl"
EDITS_TABLE = "edits.parquet"
SUMMARY = "summary.json"
REJECTED = "rejected"
SHARDS = "shards"


@dataclass(frozen=True)
class EditWork(FitWork):
    """Fits photos of one storage and writes edits of them to another."""

    def start(self, device: str) -> Callable[[Sequence[PhotoItem]], list[Record]]:
        """Loads face model, detector and parser. Raises UsageError, ModelFileError."""
        from fit3d.synthesise.edit_chunk import ChunkEditor

        return ChunkEditor(self, device).fit

    def lost(self, item: PhotoItem, reason: str) -> Record:
        return EditsRecord(**vars(super().lost(item, reason)))


@dataclass(frozen=True)
class SynthesisCall(Call):
    """What the user asked for; its options are `SynthesisOptions`."""

    record_type: ClassVar[type[Record]] = EditsRecord
    own_names: ClassVar[tuple[str, ...]] = (*OWN_NAMES, EDITS, EDITS_TABLE, SUMMARY, REJECTED, SHARDS)

    def files_of(self, result: str) -> list[str]:
        base = result.removesuffix(".json")
        return [f"{base}.jpg", f"{base}.png", f"{base}_parts.png"]

    def work(self) -> EditWork:
        assert isinstance(self.options, SynthesisOptions)
        return EditWork(self.listing.photos, self.out, self.options)
