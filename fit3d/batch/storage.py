"""Where photos are read from and results are written to: a folder on a disk, or, by URL, one in an object store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A file in a storage."""

    name: str
    """Relative to the storage's root, '/' between."""
    size: int
    """Bytes."""
    version: str
    """Differs once the file was changed: mtime in nanoseconds on a disk, ETag or the like in an object store."""


class Storage(ABC):
    """A folder. Names are relative to it, with '/' between; it travels to workers by pickle."""

    root: str
    """Path or URL, as the user wrote it."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """All regular files at any depth, hidden ones left out, in the order of their names within each folder."""

    @abstractmethod
    def fetch(self, name: str) -> AbstractContextManager[Path]:
        """The file as one on this machine's disk, for as long as the block lasts. Raises OSError."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError, OSError."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all. Raises UsageError."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file that may be there."""

    @abstractmethod
    def result_folder(self, name: str) -> AbstractContextManager[Path]:
        """A parent folder on this disk into which `Reconstruction.save` writes the result's folder `name` (its last
        component); what it wrote is at `name` once the block has ended well, the JSON last. Raises UsageError."""

    @abstractmethod
    def append(self, name: str, lines: Sequence[bytes]) -> None:
        """Add lines, each ending in a line feed, to a file or to what `read_lines` reads as one; they are on the
        disk, or in the store, when this returns. Raises UsageError."""

    @abstractmethod
    def read_lines(self, name: str) -> Iterator[bytes]:
        """What was appended, whole lines only: a last line that a crash cut off is left out."""

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Held by the one process that appends. Raises UsageError where another one holds it."""
