"""A folder in an object store, or wherever else a URL of fsspec leads."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from fit3d.batch.storage import Entry, Storage
from fit3d.batch.storages import redacted
from fit3d.batch.url_files import UrlFiles
from fit3d.batch.url_lease import Lease
from fit3d.batch.url_lines import UrlLines
from fit3d.config import Format
from fit3d.errors import OccupiedError
from fit3d.export.files import safe_stem

LOCKS = ".fit3d"
"""Folder of the leases."""
LISTED_FROM = 16
"""So many files of one folder are looked up in a listing of it rather than one by one."""


class UrlStorage(Storage):
    """The folder at a URL such as 's3://bucket/photos'.

    What is wrong with one file is an OSError, as on a disk; a network that stays away, a login or a package that is
    missing is a UsageError of one line, when the first file is looked for at the latest.
    """

    def __init__(self, url: str, left_out: str | None = None) -> None:
        self._files = UrlFiles(url)
        self.root = self._files.root
        self.left_out = None if left_out is None else redacted(left_out)
        """URL of a folder that `entries` does not go into."""

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "left_out": self.left_out, "_files": self._files}

    @property
    def address(self) -> str:
        return self._files.url

    @cached_property
    def _lines(self) -> dict[str, UrlLines]:
        """By name, those that this process appended to."""
        return {}

    @cached_property
    def _leases(self) -> dict[str, Lease]:
        """By name, those that this process holds."""
        return {}

    def entries(
        self, *, recursive: bool = True, unreadable: list[str] | None = None, linked: list[str] | None = None
    ) -> Iterator[Entry]:
        left_out = None if self.left_out is None else self.left_out.rstrip("/")
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                files, below = self._files.listing(folder)
            except OSError:
                if not folder:
                    raise
                if unreadable is not None:
                    unreadable.append(folder)
                continue
            for entry in files:
                if not _is_hidden(entry.name):
                    yield entry
            if recursive:
                wanted = (name for name in below if not _is_hidden(name) and self._files.where(name) != left_out)
                folders.extend(reversed(list(wanted)))

    def entry(self, name: str) -> Entry | None:
        return self._files.entry(name)

    def entries_of(self, names: Sequence[str]) -> list[Entry | None]:
        by_folder: dict[str, list[str]] = defaultdict(list)
        for name in names:
            by_folder[name.rpartition("/")[0]].append(name)
        found: dict[str, Entry | None] = {}
        for folder, those in by_folder.items():
            listed = self._listed(folder) if len(those) >= LISTED_FROM else None
            found |= listed if listed is not None else {name: self.entry(name) for name in those}
        return [found.get(name) for name in names]

    def _listed(self, folder: str) -> dict[str, Entry] | None:
        """The files in a folder; None where that may not be listed, though its files may perhaps be read."""
        try:
            return {entry.name: entry for entry in self._files.listing_or_none(folder)[0]}
        except PermissionError:
            return None

    def whether_there(self) -> Callable[[str], bool]:
        there: set[str] | None = None

        def is_there(name: str) -> bool:
            nonlocal there
            if not name.endswith(".json"):
                return self.exists(name)
            if there is None:  # what is asked for are JSONs of results, and there are several files beside each
                there = set(self._files.all_names(".json"))
            return name in there

        return is_there

    @contextmanager
    def fetch(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="fit3d-") as folder:
            path = Path(folder) / safe_stem(name.rpartition("/")[2])
            self._files.download(name, path)
            yield path

    def read(self, name: str) -> bytes:
        return self._files.read(name)

    def head(self, name: str, count: int) -> bytes:
        return self._files.read(name, count)

    def sha256(self, name: str) -> str:
        return self._files.sha256(name)

    def write(self, name: str, content: bytes) -> None:
        self._files.write(name, content)

    def remove(self, name: str) -> None:
        self._files.remove(name)

    @contextmanager
    def result_folder(self, name: str) -> Iterator[Path]:
        stem = name.rpartition("/")[2]
        there = {entry.name.removeprefix(f"{name}/"): entry for entry in self._result_files(name)}
        if f"{stem}_landmarks.json" in there:
            raise OccupiedError(
                f"{self._files.where(name)} holds the observation of a photo, whose {stem}_parts.png would be "
                "replaced; choose another folder (-o)"
            )
        with tempfile.TemporaryDirectory(prefix="fit3d-") as folder:
            yield Path(folder)
            made = {
                path.relative_to(folder).as_posix(): path
                for path in sorted((Path(folder) / stem).rglob("*"))
                if path.is_file()
            }
            self._replace_result(name, {name.removeprefix(f"{stem}/"): path for name, path in made.items()}, set(there))

    def _replace_result(self, name: str, made: dict[str, Path], there: set[str]) -> None:
        """Write files to the result `name`: its JSON is removed first and written last, as it means a complete one."""
        from fit3d.reconstruction import result_names  # its imports are heavy, and a worker has them

        stem = name.rpartition("/")[2]
        last = f"{stem}.json"
        if last in there:
            self._files.remove(f"{name}/{last}")
        for outdated in sorted((there & set(result_names(stem, get_args(Format)).values())) - made.keys() - {last}):
            self._files.remove(f"{name}/{outdated}")
        self._files.upload_all({f"{name}/{each}": path for each, path in made.items() if each != last})
        if last in made:
            self._files.upload(made[last], f"{name}/{last}")

    def _result_files(self, name: str) -> Iterator[Entry]:
        files, folders = self._files.listing_or_none(name)
        yield from files
        for folder in folders:
            yield from self._files.listing_or_none(folder)[0]

    def remove_leftovers(self, folder: str, names: Iterable[str] = (), parts: bool = False) -> None:
        return  # an upload that did not end is not seen, and what was made on this machine's disk is in its own folder

    def logs(self) -> list[str]:
        files, folders = self._files.listing_or_none("")
        names = {entry.name for entry in files if entry.name.endswith(".jsonl")}
        parted = [folder for folder in folders if folder.endswith(".jsonl.d")]
        # a disk keeps a folder whose last file was removed
        names |= {folder.removesuffix(".d") for folder in parted if self._files.listing_or_none(folder)[0]}
        return sorted(names)

    def append(self, name: str, lines: Sequence[bytes]) -> None:
        self._check_leases()
        self._lines_of(name).append(lines)

    def read_lines(self, name: str) -> Iterator[bytes]:
        return UrlLines(self._files, name).read()

    def rewrite(self, name: str, lines: Iterable[bytes]) -> None:
        self._check_leases(afresh=True)
        self._lines_of(name).rewrite(lines)

    def drop(self, name: str) -> None:
        self._check_leases(afresh=True)
        self._lines_of(name).drop()

    def _check_leases(self, afresh: bool = False) -> None:
        """Raises LockedError where this process lost one. What removes lines asks the store, as another process may
        have added some since the last renewal."""
        for lease in self._leases.values():
            lease.check(afresh)

    def _lines_of(self, name: str) -> UrlLines:
        return self._lines.setdefault(name, UrlLines(self._files, name))

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """See `fit3d.batch.url_lease` for what it can promise. What was appended while it was held is one object,
        without parts, once it is let go."""
        lease = Lease(self._files, f"{LOCKS}/{name}.json")
        with lease.held():
            self._leases[name] = lease
            try:
                yield
                lease.check(afresh=True)
                for lines in self._lines.values():
                    lines.publish()
            finally:
                del self._leases[name]


def _is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")
