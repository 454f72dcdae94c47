"""What a data set as a whole has beside its images: a line and a row for each edit, the summary, the shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fit3d import __version__
from fit3d.batch.manifest import Snapshot, read_manifests
from fit3d.batch.storage import Storage
from fit3d.batch.table import column, number, text, write_rows
from fit3d.export.result_json import plain
from fit3d.labels import IOU_PARTS, PART_NAMES
from fit3d.synthesise.options import SynthesisOptions
from fit3d.synthesise.record import EditsRecord
from fit3d.synthesise.shards import Shards, samples_of, write_shards
from fit3d.synthesise.summary import Summary
from fit3d.synthesise.work import EDITS, EDITS_TABLE, SUMMARY

_PARTS = ("mean", *(PART_NAMES[part] for part in IOU_PARTS))
_TEXTS = ("photo", "photo_sha256", "recipe", "group", "status", "image", "parts", "json", "sha256", "model", "licence")


@dataclass(frozen=True)
class Finished:
    """What `finish` came to."""

    summary: Summary
    shards: Shards | None
    note: str | None
    """What to tell the user, if anything."""


def finish(
    out: Storage,
    options: SynthesisOptions,
    licence: str,
    shard_samples: int | None = None,
    shard_bytes: int | None = None,
) -> Finished:
    """Write what OUT has of all photos together; the same edits give the same bytes.

    Args:
        licence: of the face model.
        shard_samples: most samples of a shard; None makes no shards.
        shard_bytes: its most bytes; likewise.

    Raises:
        UsageError: something cannot be written.
    """
    with read_manifests(out, record_type=EditsRecord) as snapshot:
        lines = (json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in _lines(snapshot, options, licence))
        out.rewrite(EDITS, lines)
        note = write_rows(out, EDITS_TABLE, _columns, map(_row, _lines(snapshot, options, licence)))
        summary = Summary.of(_records(snapshot))
        content = {"fit3d_version": __version__, "options": options.to_json()} | summary.to_json()
        out.write(SUMMARY, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
        shards = None
        if shard_samples is not None and shard_bytes is not None:
            shards = write_shards(out, samples_of(_records(snapshot)), shard_samples, shard_bytes)
    return Finished(summary, shards, note)


def _records(snapshot: Snapshot) -> Iterator[EditsRecord]:
    for record in snapshot.records():
        assert isinstance(record, EditsRecord)
        yield record


def _lines(snapshot: Snapshot, options: SynthesisOptions, licence: str) -> Iterator[dict[str, Any]]:
    """Of `edits.jsonl`: one for each edit, in the order of the photos' names, with all that it came from."""
    for record in _records(snapshot):
        for edit in record.edits:
            files = (
                dict.fromkeys(("image", "parts", "json"))
                if edit.image is None
                else dict(zip(("image", "parts", "json"), edit.files, strict=True))
            )
            yield plain(
                {
                    "photo": record.photo,
                    "photo_sha256": record.sha256,
                    "photo_status": record.status,
                    "index": edit.index,
                    "recipe": edit.recipe,
                    "group": edit.group,
                    "seed": edit.seed,
                    "status": edit.status,
                    "reasons": list(edit.reasons),
                    "landmark_nme": edit.landmark_nme,
                    "part_iou": edit.part_iou,
                    **files,
                    "sha256": edit.sha256,
                    "model": options.model,
                    "licence": licence,
                    "options": record.options,
                    "fit3d_version": __version__,
                }
            )


def _columns(pa: Any) -> list[Any]:
    """Of `edits.parquet`."""
    word = pa.dictionary(pa.int32(), pa.string())
    overlap = "overlap of the written part with the parser's (intersection over union)"
    return [
        column(pa, "photo", pa.string(), "path relative to the folder of photos", nullable=False),
        column(pa, "photo_sha256", pa.string(), "of the photo's bytes"),
        column(pa, "index", pa.int32(), "of the edit among the photo's, from 0", nullable=False),
        column(pa, "recipe", word, "change of expression", nullable=False),
        column(pa, "group", word, "of recipes, empty where it has none", nullable=False),
        column(pa, "seed", pa.int64(), "of the recipe's variation", nullable=False),
        column(pa, "status", word, "confirmed, rejected or skipped", nullable=False),
        column(pa, "reasons", pa.list_(pa.string()), "why it is not confirmed", nullable=False),
        column(pa, "landmark_nme", pa.float64(), "between written and seen landmarks", "diagonal of their box"),
        *(column(pa, f"part_iou_{name}", pa.float64(), overlap, "1") for name in _PARTS),
        column(pa, "image", pa.string(), "relative to the output folder; null where it was not written"),
        column(pa, "parts", pa.string(), "label image, likewise"),
        column(pa, "json", pa.string(), "landmarks and parameters, likewise"),
        column(pa, "sha256", pa.string(), "of these three, one after the other"),
        column(pa, "model", word, "face model", nullable=False),
        column(pa, "licence", word, "of the face model", nullable=False),
    ]


def _row(line: dict[str, Any]) -> dict[str, Any]:
    overlap = line["part_iou"] or {}
    return {
        **{name: text(line[name]) for name in _TEXTS},
        "index": line["index"],
        "seed": line["seed"],
        "reasons": line["reasons"],
        "landmark_nme": number(line["landmark_nme"]),
        **{f"part_iou_{name}": number(overlap.get(name)) for name in _PARTS},
    }
