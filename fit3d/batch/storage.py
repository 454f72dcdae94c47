"""Where photos are read from and results are written to: a folder on a disk, or, by URL, one in an object store."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

OnProgress = Callable[[str, int, int | None], None]
"""Is told, photo by photo, what is being done that may take long, of how many photos it was done, and of how many it is
to be done, None where that is not known."""


def say_nothing(what: str, done: int, total: int | None) -> None:
    """An `OnProgress`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a storage."""

    name: str
    """Relative to the storage's root, '/' between."""
    size: int | None
    """Bytes; None where there is no such file, as a list of names may have it."""
    version: str | None
    """Differs once the file was changed: mtime in nanoseconds on a disk, ETag or the like in an object store."""


class Storage(ABC):
    """A folder. Names are relative to it, with '/' between; it travels to workers by pickle.

    Files whose name, or a folder of whose path, begins with a dot are hidden: `entries` leaves them out.
    """

    root: str
    """Path or URL, as the user wrote it, to be told and written: a password in it is hidden."""

    @property
    def address(self) -> str:
        """The same to open it by, password and all; for nobody's eyes."""
        return self.root

    @abstractmethod
    def entries(
        self, *, recursive: bool = True, unreadable: list[str] | None = None, linked: list[str] | None = None
    ) -> Iterator[Entry]:
        """All regular files, at any depth or in the root alone, hidden ones left out, in any order.

        Names of folders below the root that cannot be read are added to `unreadable`, those of folders that are left
        out as they are symbolic links to `linked`. Raises OSError for the root.
        """

    @abstractmethod
    def entry(self, name: str) -> Entry | None:
        """One regular file; None where there is none."""

    def entries_of(self, names: Sequence[str]) -> Iterable[Entry | None]:
        """`entry` of each of many names, as they are found."""
        return map(self.entry, names)

    def whether_there(self) -> Callable[[str], bool]:
        """`exists`, for very many names: what changes after the first one was asked for may go unseen."""
        return self.exists

    @abstractmethod
    def fetch(self, name: str) -> AbstractContextManager[Path]:
        """The file as one on this machine's disk, for as long as the block lasts. Raises OSError."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return self.entry(name) is not None

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError, OSError."""

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a file, `count` at most. Raises OSError."""
        return self.read(name)[:count]

    def sha256(self, name: str) -> str:
        """Of the bytes of a file. Raises OSError."""
        return hashlib.sha256(self.read(name)).hexdigest()

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
    def remove_leftovers(self, folder: str, names: Iterable[str] = (), parts: bool = False) -> None:
        """Remove what processes that were killed left half written in `folder`: of the results of these names (the
        last component), and with `parts` of single files. Nobody else may be writing these at the same time. A
        storage that leaves nothing behind does nothing."""

    @abstractmethod
    def logs(self) -> list[str]:
        """Names of the files at the root, ending in '.jsonl', that `append` or `rewrite` made, in order."""

    @abstractmethod
    def append(self, name: str, lines: Sequence[bytes]) -> None:
        """Add lines, each ending in a line feed, to a file or to what `read_lines` reads as one; they are on the
        disk, or in the store, when this returns. Without lines it sees to it that `logs` tells of it.
        Raises UsageError."""

    @abstractmethod
    def read_lines(self, name: str) -> Iterator[bytes]:
        """What was appended, whole lines only, with their line feeds: a last line that a crash cut off is left out.
        Nothing where there is no such file."""

    @abstractmethod
    def rewrite(self, name: str, lines: Iterable[bytes]) -> None:
        """Replace all lines, at once or not at all. Raises UsageError."""

    @abstractmethod
    def drop(self, name: str) -> None:
        """Remove a file of lines that may be there."""

    @abstractmethod
    def lock(self, name: str) -> AbstractContextManager[None]:
        """Held by one process at a time, by that name; gone with its process, however that ends.
        Raises `Locked` at once where another one holds it."""
