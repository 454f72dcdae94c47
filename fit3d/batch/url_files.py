"""Files of a folder that a URL names, through fsspec."""

from __future__ import annotations

import errno
import hashlib
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from fit3d.batch.storage import Entry
from fit3d.batch.storages import redacted
from fit3d.errors import UsageError

OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss", "tos", "memory"}
"""Protocols whose files appear whole or not at all, and in folders that nobody has to make."""
_OPTIONS: dict[str, dict[str, Any]] = {
    # botocore's own waits between tries, which grow; its default of 4 tries is over within seconds
    protocol: {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": 10}}}
    for protocol in ("s3", "s3a")
}
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "content_md5", "mtime", "LastModified", "modified", "created")
"""What tells of a file's last change, in the words of the implementations, the surest first."""


class UrlFiles:
    """The folder at a URL. Names are relative to it, with '/' between; it travels to workers by pickle.

    What is wrong with one file is an OSError, as on a disk; what concerns all, such as a network that stays away or a
    login that is missing, a UsageError.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        """With the password, if there is one in it."""
        self.root = redacted(url)
        """Without, to be told to people."""
        self._filesystem = _open(url)

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}  # connections do not travel

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"])  # type: ignore[misc]

    @cached_property
    def _path(self) -> str:
        path: str = self._filesystem._strip_protocol(self.url)
        return path.rstrip("/")

    @cached_property
    def _is_object_store(self) -> bool:
        return self.url.partition("://")[0] in OBJECT_STORES

    def where(self, name: str) -> str:
        """The URL of a file, to be told to people."""
        return f"{self.root.rstrip('/')}/{name}"

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}" if name else self._path

    def listing(self, folder: str = "") -> tuple[list[Entry], list[str]]:
        """Files and folders in a folder, by name. Raises FileNotFoundError where there is none."""
        with self._reading(folder):
            found = self._filesystem.ls(self._at(folder), detail=True)
        files, folders = [], []
        for info in found:
            base = str(info["name"]).rstrip("/").rpartition("/")[2]
            name = f"{folder}/{base}" if folder else base
            if info["type"] == "directory":
                folders.append(name)
            elif info["type"] == "file" and not str(info["name"]).endswith("/"):  # a mark of an empty folder
                files.append(_entry(name, info))
        return sorted(files, key=lambda each: each.name), sorted(folders)

    def listing_or_none(self, folder: str) -> tuple[list[Entry], list[str]]:
        """The same; nothing where there is no such folder."""
        try:
            return self.listing(folder)
        except (FileNotFoundError, NotADirectoryError):
            return [], []

    def all_names(self, ending: str) -> Iterator[str]:
        """Names of all files, at any depth, that end so; nothing where there is no such folder. An object store is
        asked once for each thousand or so of its files, another one once for each folder."""
        prefix = f"{self._path}/"
        with self._reading(""):
            try:
                found: list[str] = self._filesystem.find(self._path)
            except FileNotFoundError:
                return
        for path in found:
            at = path.find(prefix)  # some begin with the '/' that others leave out
            if at in (0, 1) and path.endswith(ending):
                yield path[at + len(prefix) :]

    def entry(self, name: str) -> Entry | None:
        """One file; None where there is none."""
        with self._reading(name):
            try:
                info = self._filesystem.info(self._at(name))
            except FileNotFoundError:
                return None
        return _entry(name, info) if info["type"] == "file" else None

    def read(self, name: str, count: int | None = None) -> bytes:
        """The bytes of a file, the first `count` of them."""
        with self._reading(name):
            if count is not None:
                with self._filesystem.open(self._at(name), "rb", block_size=count, cache_type="none") as file:
                    head: bytes = file.read(count)
                    return head
            content: bytes = self._filesystem.cat_file(self._at(name))
            return content

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """The bytes of several files, fetched at the same time where the store can."""
        with self._reading(names[0]):
            paths = [self._at(name) for name in names]
            contents: list[bytes] = self._filesystem.cat_ranges(paths, None, None, on_error="raise")
            return contents

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file, read as they are asked for."""
        with self._reading(name), self._filesystem.open(self._at(name), "rb") as file:
            yield from file

    def sha256(self, name: str) -> str:
        """Of the bytes of a file."""
        digest = hashlib.sha256()
        with self._reading(name), self._filesystem.open(self._at(name), "rb") as file:
            while piece := file.read(1 << 22):
                digest.update(piece)
        return digest.hexdigest()

    def download(self, name: str, path: Path) -> None:
        """Write a file's bytes to this machine's disk."""
        with self._reading(name):
            self._filesystem.get_file(self._at(name), str(path))

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        with self._writing(name), self._whole(name) as path:
            self._filesystem.pipe_file(path, content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one. Returns whether it was written; two at a time are told apart only by
        stores that can create exclusively."""
        with self._writing(name):
            self._make_parent(name)
            try:
                self._filesystem.pipe_file(self._at(name), content, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno == errno.EEXIST or "PreconditionFailed" in str(error) or "412" in str(error):
                    return False
                raise
        return True

    def upload(self, path: Path, name: str) -> None:
        """Write a file from this machine's disk, whole or not at all."""
        with self._writing(name), self._whole(name) as target:
            self._filesystem.put_file(str(path), target)

    def upload_all(self, files: dict[str, Path]) -> None:
        """Write files by name, at the same time where the store can."""
        if not files:
            return
        with self._writing(next(iter(files))):
            for name in files:
                self._make_parent(name)
            self._filesystem.put([str(path) for path in files.values()], [self._at(name) for name in files])

    def remove(self, name: str) -> None:
        """Remove a file that may be there."""
        with self._writing(name), suppress(FileNotFoundError):
            self._filesystem.rm_file(self._at(name))

    @contextmanager
    def _whole(self, name: str) -> Iterator[str]:
        """The path to write to, so that the file appears whole."""
        if self._is_object_store:
            yield self._at(name)
            return
        self._make_parent(name)
        folder, _, base = self._at(name).rpartition("/")
        temporary = f"{folder}/.{base}-{secrets.token_hex(4)}"
        try:
            yield temporary
            self._filesystem.mv(temporary, self._at(name))
        except BaseException:
            with suppress(Exception):
                self._filesystem.rm_file(temporary)
            raise

    def _make_parent(self, name: str) -> None:
        if not self._is_object_store:
            self._filesystem.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if _is_of_one_file(error):
                if redacted(str(error)) != str(error):
                    raise type(error)(redacted(str(error))) from None
                raise
            raise UsageError(f"cannot read {self.where(name)}: {_reason(error)}") from error

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"cannot write {self.where(name)}: {_reason(error)}") from error


def _open(url: str) -> Any:
    """The file system of a URL. Raises UsageError."""
    protocol = url.partition("://")[0]
    try:
        # what others write must be seen, so nothing is remembered of folders
        return fsspec.url_to_fs(url, use_listings_cache=False, **_OPTIONS.get(protocol, {}))[0]
    except ImportError as error:
        cause = error.__cause__ or error.__context__ or error
        package = (getattr(cause, "name", None) or protocol).partition(".")[0]
        raise UsageError(
            f"{redacted(url)}: URLs of this kind need a package that is not installed: pip install {package}"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{redacted(url)}: expected a folder or a URL such as s3://bucket/folder; {_reason(error)}"
        ) from error


def _entry(name: str, info: dict[str, Any]) -> Entry:
    version = next((info[key] for key in _VERSIONS if info.get(key) is not None), "")
    if isinstance(version, datetime):  # some tell it as seconds, or as either
        version = version.timestamp()
    return Entry(name, int(info.get("size") or 0), str(version).strip('"'))


def _is_of_one_file(error: Exception) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError):
        return True
    if not isinstance(error, OSError) or isinstance(error, ConnectionError | TimeoutError):
        return False
    return error.errno not in (None, errno.EIO, errno.EBUSY)


def _reason(error: Exception) -> str:
    """One line of what a package said."""
    text = redacted(" ".join(str(error).split())) or type(error).__name__
    if type(error).__name__ == "NoCredentialsError":
        return "no login was found; set the store's access keys as its own tools expect them"
    return text if len(text) <= 300 else f"{text[:300]}…"
