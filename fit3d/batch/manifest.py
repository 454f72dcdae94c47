"""`results.jsonl`: a line for each photo that is done, and who may add to it.

A run adds lines; of several lines of a photo the one that finished last counts. Before and after a run the file is
rewritten with one line per photo, in the order of their names. With shards, each has a file of its own.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import IO

from fit3d.batch.record import Record
from fit3d.batch.storage import OnProgress, Storage, say_nothing
from fit3d.errors import LockedError, UsageError
from fit3d.export.files import usage_errors

MANIFEST = "results.jsonl"
_SHARD_MANIFEST = re.compile(r"results-([0-9]{1,9})-of-([0-9]{1,9})\.jsonl")
_MOST_DAMAGED = 5
"""Damaged lines that are told of one by one."""
_GATE = "gate"
"""Lock under which the others are taken, so that two calls cannot take one each and refuse each other."""
_GATE_WAIT_S = 10.0


@dataclass(frozen=True)
class Shard:
    """The photos of one of several calls that share a folder's."""

    number: int
    """From 1."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of 'I/N'. Raises UsageError."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--shard {text}: expected I/N with I from 1 to N, such as 1/4, 2/4, 3/4 and 4/4")
        return cls(int(match[1]), int(match[2]))

    @property
    def manifest(self) -> str:
        return f"results-{self.number}-of-{self.count}.jsonl"

    def holds(self, photo: str) -> bool:
        """Whether a photo, by its name, is this shard's: the same on every machine and whatever photos there are."""
        digest = sha256(photo.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1


def forced_at(photo: str, by_manifest: Mapping[str, float]) -> float:
    """When the last --force began that concerns a photo, see `StoredOptions`; 0 where none did."""
    found = 0.0
    for manifest, at in by_manifest.items():
        match = _SHARD_MANIFEST.fullmatch(manifest)
        if match is None or Shard(int(match[1]), max(int(match[2]), 1)).holds(photo):
            found = max(found, at)
    return found


def manifests(out: Storage) -> list[str]:
    """Names of all manifests in OUT."""
    return [name for name in out.logs() if name == MANIFEST or _SHARD_MANIFEST.fullmatch(name)]


@contextmanager
def locked(out: Storage, manifest: str) -> Iterator[None]:
    """Keeps others from adding to `manifest`, and from sharing out the photos otherwise, while the block runs.

    Raises:
        LockedError: somebody does already.
        UsageError: OUT cannot be written to.
    """
    with ExitStack() as held:
        with gate(out):
            held.enter_context(out.lock(manifest))
            for other in manifests(out):
                if _conflict(manifest, other):
                    with out.lock(other):
                        pass
            out.append(manifest, [])
        yield


@contextmanager
def gate(out: Storage) -> Iterator[None]:
    """Held for a moment, by one call at a time. Raises LockedError, UsageError."""
    deadline = time.monotonic() + _GATE_WAIT_S
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(out.lock(_GATE))
                break
            except LockedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield


def _conflict(manifest: str, other: str) -> bool:
    """Whether two manifests may not be added to at the same time: all but those of shards of one count."""
    one, two = _SHARD_MANIFEST.fullmatch(manifest), _SHARD_MANIFEST.fullmatch(other)
    return manifest != other and not (one and two and one[2] == two[2])


@dataclass(frozen=True, slots=True)
class _Line:
    """Where a photo's line is in the copy, and what is asked of it often."""

    finished: float
    offset: int
    length: int
    target: str


@dataclass
class Snapshot:
    """The lines that count, of one or several manifests, in a copy on this machine's disk: memory holds names alone."""

    lines: dict[str, _Line] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    """What is wrong with lines that do not count, a sentence each; the first few."""
    is_compact: bool = True
    """Whether there is nothing but one whole line for each photo, in order."""
    record_type: type[Record] = Record
    """Of the lines."""
    _copy: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    _damaged_count: int = 0

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *error: object) -> None:
        self._copy.close()

    def add(self, manifest: str, out: Storage, tell: OnProgress = say_nothing) -> None:
        """Take up the lines of a manifest."""
        last = ""
        for number, raw in enumerate(out.read_lines(manifest), 1):
            tell("reading what was done", len(self.lines), None)
            try:
                record = self.record_type.from_line(raw)
            except ValueError as error:
                self._tell_damaged(f"{manifest}, line {number}: damaged and left out ({error})")
                continue
            earlier = self.lines.get(record.photo)
            self.is_compact = self.is_compact and record.photo > last
            last = record.photo
            if earlier is None or record.finished >= earlier.finished:
                self.lines[record.photo] = _Line(record.finished, self._copy.tell(), len(raw), record.target)
                self._copy.write(raw)

    def _tell_damaged(self, message: str) -> None:
        self.is_compact = False
        self._damaged_count += 1
        if self._damaged_count <= _MOST_DAMAGED:
            self.damaged.append(message)
        elif self._damaged_count == _MOST_DAMAGED + 1:
            self.damaged.append("... and more damaged lines")

    def names(self) -> list[str]:
        """Of all photos, in order."""
        return sorted(self.lines)

    def last_finished(self) -> float:
        """When the last photo finished, seconds since 1970; 0 where there is none."""
        return max((line.finished for line in self.lines.values()), default=0.0)

    def places(self) -> Iterator[tuple[str, str]]:
        """All photos with their folders."""
        return ((photo, line.target) for photo, line in self.lines.items())

    def raw(self) -> Iterator[bytes]:
        """All lines, in the order of the photos' names."""
        for name in self.names():
            yield self._line(name)

    def records(self) -> Iterator[Record]:
        """The same, read."""
        return map(self.record_type.from_line, self.raw())

    def record(self, photo: str) -> Record | None:
        """A photo's; None where it has none."""
        return self.record_type.from_line(self._line(photo)) if photo in self.lines else None

    def _line(self, photo: str) -> bytes:
        line = self.lines[photo]
        self._copy.seek(line.offset)
        return self._copy.read(line.length)


def read_manifests(
    out: Storage,
    names: Sequence[str] | None = None,
    record_type: type[Record] = Record,
    tell: OnProgress = say_nothing,
) -> Snapshot:
    """The lines that count in these manifests, or in all that are in OUT.

    Raises:
        UsageError: one cannot be read, or the disk for temporary files is full.
    """
    names = manifests(out) if names is None else names
    with usage_errors(tempfile.gettempdir()):
        snapshot = Snapshot(record_type=record_type)
        try:
            for name in names:
                snapshot.add(name, out, tell)
        except BaseException:
            snapshot._copy.close()
            raise
    return snapshot


def compact(out: Storage, snapshot: Snapshot, names: Sequence[str], manifest: str) -> None:
    """Put the lines that count, a snapshot of the manifests `names`, into one of them alone. Raises UsageError."""
    if list(names) != [manifest] or not snapshot.is_compact:
        out.rewrite(manifest, snapshot.raw())
    for name in names:
        if name != manifest:
            out.drop(name)
