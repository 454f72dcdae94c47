"""Lines in an object store, which cannot append: each call writes a small object, and those are merged by and by.

The lines of `<name>` are those of the object of that name, then those of its parts, `<name>.d/<first>-<last>.jsonl`.
The numbers are times in nanoseconds, made to grow: a part holds what was appended from `first` to `last`. Where
the span of a part lies in that of another one, it was merged into that one and counts no more; a part from 0 on
holds all before it, `<name>` included. So every moment of a merge, which writes the new part whole and then removes
the old ones, reads as the same lines, and a crash in the midst of it loses and doubles nothing.
"""

from __future__ import annotations

import itertools
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fit3d.batch.url_files import UrlFiles

FAN = 64
"""So many parts of the same rank become one of the next."""
MOST_RANK = 2
"""Parts of this rank, of up to FAN ** MOST_RANK calls, are left as they are until `publish`."""
READS = 20
"""Times that reading is begun again because others merged parts in the midst of it."""
_PART = re.compile(r"(?P<first>[0-9]{20})-(?P<last>[0-9]{20})\.(?P<rank>[0-9])\.jsonl")


@dataclass(frozen=True)
class _Part:
    name: str
    first: int
    last: int
    rank: int
    """Merges that it went through."""


class UrlLines:
    """The lines of one name, which one process at a time appends to."""

    def __init__(self, files: UrlFiles, name: str) -> None:
        self._files = files
        self._name = name
        self._parts: list[_Part] | None = None
        """What counts, in order, as this process left it."""

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines; they are in the store when this returns."""
        if self._parts is None:
            self._parts = self._clean()
        if not lines:
            if not self._parts and self._files.entry(self._name) is None:
                self._files.write(self._name, b"")
            return
        stamp = max(time.time_ns(), self._parts[-1].last + 1 if self._parts else 1)  # a clock may go backwards
        self._parts.append(self._write(stamp, stamp, 0, b"".join(lines)))
        self._merge(self._parts)

    def read(self) -> Iterator[bytes]:
        """All lines, whole ones only; nothing where there is no such file."""
        told = 0
        for _ in range(READS):
            try:
                for line in itertools.islice(self._read(), told, None):
                    told += 1  # lines are only added, so their numbers stay
                    yield line
                return
            except FileNotFoundError:
                continue
        raise OSError(f"{self._files.where(self._name)} changes too fast to be read")

    def _read(self) -> Iterator[bytes]:
        parts, _ = self._list()
        if not (parts and parts[0].first == 0) and self._files.entry(self._name) is not None:
            for line in self._files.lines(self._name):
                if line.endswith(b"\n"):
                    yield line
        for part in parts:
            yield from self._files.lines(part.name)

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """Replace all lines, at once or not at all; they are in the object `<name>` afterwards, without parts."""
        with tempfile.TemporaryDirectory(prefix="fit3d-") as folder:
            path = Path(folder) / "lines"
            with open(path, "wb") as file:
                file.writelines(lines)
            self._replace(path)

    def _replace(self, path: Path) -> None:
        parts, outdated = self._list()
        last = max([time.time_ns(), *(part.last for part in (*parts, *outdated))])
        whole = self._part(0, last, 9)
        self._files.upload(path, whole.name)  # from here on the new lines count
        self._files.upload(path, self._name)
        for part in (*outdated, *parts):
            if part.name != whole.name:
                self._files.remove(part.name)
        self._files.remove(whole.name)
        self._parts = []

    def publish(self) -> None:
        """Put all lines into the object `<name>`, for other programs to read."""
        parts, outdated = self._list()
        if parts or outdated:
            self.rewrite(self.read())

    def drop(self) -> None:
        """Remove all."""
        self._files.remove(self._name)
        parts, outdated = self._list()
        for part in (*outdated, *reversed(parts)):
            self._files.remove(part.name)
        self._parts = None

    def _merge(self, parts: list[_Part]) -> None:
        """Make one of the last parts as long as there are `FAN` of one rank; changes the list."""
        while len(parts) >= FAN:
            tail = parts[-FAN:]
            rank = tail[-1].rank
            if rank >= MOST_RANK or any(part.rank != rank for part in tail):
                return
            content = b"".join(self._files.read_all([part.name for part in tail]))
            parts[-FAN:] = [self._write(tail[0].first, tail[-1].last, rank + 1, content)]
            for part in tail:
                self._files.remove(part.name)

    def _clean(self) -> list[_Part]:
        """Remove what a crash left behind of a merge. Returns the parts that count."""
        parts, outdated = self._list()
        for part in outdated:
            self._files.remove(part.name)
        return parts

    def _list(self) -> tuple[list[_Part], list[_Part]]:
        """Parts that count, in order, and those that were merged into others."""
        found = []
        for entry in self._files.listing_or_none(f"{self._name}.d")[0]:
            if match := _PART.fullmatch(entry.name.rpartition("/")[2]):
                found.append(_Part(entry.name, int(match["first"]), int(match["last"]), int(match["rank"])))
        counting, outdated, reached = list[_Part](), list[_Part](), -1
        for part in sorted(found, key=lambda part: (part.first, -part.last, -part.rank)):
            (outdated if part.last <= reached else counting).append(part)
            reached = max(reached, part.last)
        return counting, outdated

    def _write(self, first: int, last: int, rank: int, content: bytes) -> _Part:
        part = self._part(first, last, rank)
        self._files.write(part.name, content)
        return part

    def _part(self, first: int, last: int, rank: int) -> _Part:
        return _Part(f"{self._name}.d/{first:020d}-{last:020d}.{rank}.jsonl", first, last, rank)
