"""Shards for training: a data set's samples in a few large tar files, as WebDataset reads them.

A sample is three files of one key: `<key>.jpg` (or `.png`), `<key>.parts.png` and `<key>.json`. Samples are mixed, so
that a shard has many people: their order is that of a hash of their keys. `index.jsonl` has a line for each shard.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fit3d.batch.storage import Storage
from fit3d.errors import UsageError
from fit3d.synthesise.record import EditsRecord, sample_files

FOLDER = "shards"
INDEX = f"{FOLDER}/index.jsonl"
SAMPLES = 1000
BYTES = 256 * 1024 * 1024
"""Largest shard that is made unless asked otherwise; one is held in memory at a time."""
_SHARD = f"{FOLDER}/fit3d-{{:06d}}.tar"
_BLOCK = 512
"""Bytes, of which a tar is made."""
_END = 20 * _BLOCK
"""A tar's size is a multiple of this."""
_HASH_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """One confirmed edit."""

    key: str
    """Its name in the shards: a hash of the photo, the edit's index and its recipe."""
    image: str
    """File relative to OUT."""
    sha256: str
    """See `EditRecord`."""

    @property
    def order(self) -> bytes:
        """By which samples are sorted."""
        return hashlib.sha256(self.key.encode()).digest()


@dataclass(frozen=True)
class Shards:
    """What `write_shards` came to."""

    count: int
    samples: int
    made: int
    """Shards that were written; the others were there."""


def samples_of(records: Iterable[EditsRecord]) -> list[Sample]:
    """The confirmed edits, in the order of the shards. Of photos with the same bytes the first counts."""
    found: dict[str, Sample] = {}
    for record in records:
        for edit in record.confirmed:
            assert edit.image is not None and edit.sha256 is not None and record.sha256 is not None
            recipe = edit.recipe.replace(".", "_")  # a key ends at its first full stop
            key = f"{record.sha256[:_HASH_DIGITS]}_{edit.index:03d}_{recipe}"
            found.setdefault(key, Sample(key, edit.image, edit.sha256))
    return sorted(found.values(), key=lambda sample: sample.order)


def write_shards(
    out: Storage, samples: Sequence[Sample], most_samples: int = SAMPLES, most_bytes: int = BYTES
) -> Shards:
    """Bring OUT/shards up to date: the same samples give the same bytes, and shards that are as they should be stay.

    A shard has at most `most_samples` samples and, unless it has but one, at most `most_bytes` bytes.

    Raises:
        UsageError: a sample's file is not there, or the disk is full.
    """
    there = _read_index(out)
    wanted = [
        _line(number, each, size) for number, (each, size) in enumerate(_share(out, samples, most_samples, most_bytes))
    ]
    kept = {line["file"]: line for line in wanted if _is_there(out, line, there.get(line["file"]))}
    # until a shard is whole, the index does not speak of it
    if there != kept:
        _write_index(out, [line for line in wanted if line["file"] in kept])
    by_key = {sample.key: sample for sample in samples}
    for line in wanted:
        if line["file"] not in kept:
            content = _tar(out, [by_key[key] for key in line["keys"]])
            assert len(content) == line["bytes"], "the size that was reckoned with"
            out.write(line["file"], content)
    for file in there.keys() - {line["file"] for line in wanted}:
        out.remove(file)
    _write_index(out, wanted)
    return Shards(len(wanted), len(samples), len(wanted) - len(kept))


def _share(
    out: Storage, samples: Sequence[Sample], most_samples: int, most_bytes: int
) -> Iterator[tuple[list[Sample], int]]:
    """The samples of each shard, with the size of its tar in bytes."""
    some: list[Sample] = []
    size = 0
    for sample in samples:
        added = sum(_BLOCK + -(-_size(out, name) // _BLOCK) * _BLOCK for name in sample_files(sample.image))
        if some and (len(some) == most_samples or _whole(size + added) > most_bytes):
            yield some, _whole(size)
            some, size = [], 0
        some.append(sample)
        size += added
    if some:
        yield some, _whole(size)


def _whole(size: int) -> int:
    """Size of a tar whose members take `size` bytes: two empty blocks end it."""
    return -(-(size + 2 * _BLOCK) // _END) * _END


def _size(out: Storage, name: str) -> int:
    entry = out.entry(name)
    if entry is None or entry.size is None:
        raise _missing(out, name)
    return entry.size


def _missing(out: Storage, name: str) -> UsageError:
    return UsageError(f"{out.root}/{name}: this file of a confirmed edit is not there; --force makes all anew")


def _line(number: int, samples: Sequence[Sample], size: int) -> dict[str, Any]:
    """Of the index."""
    digest = hashlib.sha256("".join(f"{each.key} {each.sha256}\n" for each in samples).encode()).hexdigest()
    return {
        "file": _SHARD.format(number),
        "samples": len(samples),
        "bytes": size,
        "content_sha256": digest,
        "keys": [each.key for each in samples],
    }


def _is_there(out: Storage, line: dict[str, Any], earlier: dict[str, Any] | None) -> bool:
    if line != earlier:
        return False
    entry = out.entry(line["file"])
    return entry is not None and entry.size == line["bytes"]


def _tar(out: Storage, samples: Sequence[Sample]) -> bytes:
    """A plain tar (POSIX 1003.1-1988) with nothing in it that changes from one writing to the next."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            image, parts, data = sample_files(sample.image)
            ending = image.rpartition(".")[2]
            for name, suffix in ((image, ending), (parts, "parts.png"), (data, "json")):
                try:
                    body = out.read(name)
                except OSError as error:
                    raise _missing(out, name) from error
                member = tarfile.TarInfo(f"{sample.key}.{suffix}")
                member.size, member.mode = len(body), 0o644
                tar.addfile(member, io.BytesIO(body))
    return content.getvalue()


def _read_index(out: Storage) -> dict[str, dict[str, Any]]:
    """Its lines by file; none where it is not there, or damaged."""
    try:
        lines = [json.loads(line) for line in out.read(INDEX).splitlines()]
        return {str(line["file"]): line for line in lines if _is_shard(line["file"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _is_shard(name: Any) -> bool:
    """Whether it is the name of a shard: others are never removed."""
    digits = str(name).removeprefix(f"{FOLDER}/fit3d-").removesuffix(".tar")
    return digits.isdecimal() and _SHARD.format(int(digits)) == name


def _write_index(out: Storage, lines: Iterable[dict[str, Any]]) -> None:
    out.write(INDEX, "".join(json.dumps(line) + "\n" for line in lines).encode())
