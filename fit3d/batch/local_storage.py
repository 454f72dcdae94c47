"""A folder on a disk, this machine's or one that several share."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from filelock import FileLock, Timeout

from fit3d.batch.storage import Entry, Storage
from fit3d.errors import LockedError
from fit3d.export.files import atomic_write, is_part, is_stage_of, usage_errors

LOCKS = ".fit3d"
"""Folder of the locks."""


@dataclass(frozen=True)
class LocalStorage(Storage):
    """A folder on a disk."""

    root: str
    follow_links: bool = False
    """Whether `entries` goes into folders that are symbolic links; each folder is visited once. Links to files are
    followed always."""
    left_out: str | None = None
    """A folder, absolute, that `entries` does not go into."""

    def __reduce__(self) -> tuple[type[LocalStorage], tuple[object, ...]]:
        # a worker may have another current folder
        return LocalStorage, (os.path.abspath(self.root), self.follow_links, self.left_out)

    @property
    def _root(self) -> Path:
        return Path(self.root)

    def entries(
        self, *, recursive: bool = True, unreadable: list[str] | None = None, linked: list[str] | None = None
    ) -> Iterator[Entry]:
        left_out = None if self.left_out is None else os.path.realpath(self.left_out)
        seen = set[tuple[int, int]]()
        folders = [""]
        while folders:
            folder = folders.pop()
            path = os.path.join(self.root, folder)
            if folder and left_out is not None and os.path.realpath(path) == left_out:
                continue
            try:
                if self.follow_links and not _is_first(path, seen):
                    continue
                with os.scandir(path) as found:
                    content = [each for each in found if not each.name.startswith(".")]
            except OSError:
                if not folder:
                    raise
                if unreadable is not None:
                    unreadable.append(folder.removesuffix("/"))
                continue
            below = []
            for each in content:
                name = f"{folder}{each.name}"
                if _is_folder(each, self.follow_links):
                    below.append(f"{name}/")
                elif (entry := _entry(name, each.path)) is not None:
                    yield entry
                elif linked is not None and recursive and each.is_symlink() and _is_folder(each, True):
                    linked.append(name)
            if recursive:
                folders.extend(below)

    def entry(self, name: str) -> Entry | None:
        return _entry(name, os.path.join(self.root, name))

    @contextmanager
    def fetch(self, name: str) -> Iterator[Path]:
        yield self._root / name

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def head(self, name: str, count: int) -> bytes:
        with open(self._root / name, "rb") as file:
            return file.read(count)

    def sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        with open(self._root / name, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()

    def write(self, name: str, content: bytes) -> None:
        with atomic_write(self._root / name) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        with usage_errors(self._root / name):
            (self._root / name).unlink(missing_ok=True)

    @contextmanager
    def result_folder(self, name: str) -> Iterator[Path]:
        yield (self._root / name).parent

    def remove_leftovers(self, folder: str, names: Iterable[str] = (), parts: bool = False) -> None:
        wanted = set(names)
        try:
            # what a link leads to is not OUT's
            found = [] if self._is_linked(folder) else [*os.scandir(self._root / folder)]
        except OSError:  # nothing was written there yet
            return
        for each in found:
            if is_stage_of(each.name, wanted) and each.is_dir(follow_symlinks=False):
                shutil.rmtree(each.path, ignore_errors=True)
            elif parts and is_part(each.name) and each.is_file(follow_symlinks=False):
                with suppress(OSError):
                    os.unlink(each.path)

    def _is_linked(self, folder: str) -> bool:
        """Whether a folder, or one that it is in, is a symbolic link; the root may be one."""
        path = PurePosixPath(folder)
        return any((self._root / each).is_symlink() for each in (path, *path.parents) if each != PurePosixPath())

    def logs(self) -> list[str]:
        with usage_errors(self.root):
            try:
                return sorted(each.name for each in os.scandir(self.root) if each.name.endswith(".jsonl"))
            except FileNotFoundError:
                return []

    def append(self, name: str, lines: Sequence[bytes]) -> None:
        path = self._root / name
        with usage_errors(path), open(path, "a+b", buffering=0) as file:
            end = _end_of_whole_lines(file)
            if end < file.seek(0, os.SEEK_END):  # a crash cut the last line off
                file.truncate(end)
            content = b"".join(lines)
            try:
                written = file.write(content)
                while written < len(content):  # a full disk takes a part, and says why the next time
                    written += file.write(content[written:])
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(end)
                raise

    def read_lines(self, name: str) -> Iterator[bytes]:
        try:
            with open(self._root / name, "rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        yield line
        except FileNotFoundError:
            return

    def rewrite(self, name: str, lines: Iterable[bytes]) -> None:
        with atomic_write(self._root / name) as file:
            file.writelines(lines)

    def drop(self, name: str) -> None:
        self.remove(name)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        folder = self._root / LOCKS
        holder = folder / f"{name}.json"
        with usage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{name}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout as error:
                raise LockedError(f"{self.root} is being written to by another `fit3d batch`{_told(holder)}") from error
            except NotImplementedError as error:
                raise LockedError(
                    f"{self.root}: the file system there has no locks, which keep two processes apart; choose another "
                    "folder (-o)"
                ) from error
        try:
            with usage_errors(holder):
                holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
            yield
        finally:
            with suppress(OSError):
                holder.unlink(missing_ok=True)
            lock.release()


def _is_folder(found: os.DirEntry[str], follow_links: bool) -> bool:
    try:
        return found.is_dir(follow_symlinks=follow_links)
    except OSError:  # a link to itself
        return False


def _is_first(folder: str, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder is not in `seen`, to which it is added: links may lead in circles."""
    status = os.stat(folder)
    key = status.st_dev, status.st_ino
    is_first = key not in seen
    seen.add(key)
    return is_first


def _entry(name: str, path: str) -> Entry | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # a link to nothing, no permission, a NUL in the name
        return None
    return Entry(name, status.st_size, str(status.st_mtime_ns)) if stat.S_ISREG(status.st_mode) else None


def _end_of_whole_lines(file: BinaryIO) -> int:
    """Offset behind the last line feed."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        piece = file.read(end - start)
        if b"\n" in piece:
            return start + piece.rindex(b"\n") + 1
        end = start
    return 0


def _told(holder: Path) -> str:
    try:
        content = json.loads(holder.read_text())
        return f" (process {int(content['pid'])} on {content['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
