"""Which storage a path or URL is in."""

from __future__ import annotations

import os
import re
from importlib import import_module
from urllib.parse import unquote, urlsplit

from fit3d.batch.local_storage import LocalStorage
from fit3d.batch.storage import Storage
from fit3d.errors import UsageError

_PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s]*@")
_OF_ONE_PROCESS = {"memory"}
"""Protocols whose files no other process sees."""


def redacted(text: str) -> str:
    """A text that is told or written, with what URLs in it have as password, 'sftp://user:password@host', hidden."""
    return _PASSWORD.sub(r"\1:***@", text)


def is_of_one_process(place: str) -> bool:
    """Whether it is a URL of what only the process that wrote it sees, chained ones ('simplecache::...') included."""
    return is_url(place) and any(part.partition("://")[0] in _OF_ONE_PROCESS for part in place.split("::"))


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether it names a folder in another storage than this machine's disks."""
    return "://" in str(place) and not str(place).startswith("file://")


def storage_at(
    place: str | os.PathLike[str], *, left_out: str | os.PathLike[str] | None = None, follow_links: bool = False
) -> Storage:
    """The folder at a path, or at a URL that fsspec knows ('s3://bucket/photos'); nothing is made or read yet.

    Args:
        place: path or URL.
        left_out: path or URL of a folder within it whose files are not among its entries.
        follow_links: whether its entries are looked for in folders that are symbolic links, too.

    Raises:
        UsageError: the path is empty; fsspec, or its package for such URLs, is not installed.
    """
    text = os.fspath(place)
    if is_url(text):
        outside = left_out is None or not is_url(left_out)
        url_storage = import_module("fit3d.batch.url_storage")
        storage: Storage = url_storage.UrlStorage(text, None if outside else os.fspath(left_out or ""))
        return storage
    inside = left_out is not None and not is_url(left_out)
    return LocalStorage(local_path(text), follow_links, local_path(os.fspath(left_out or "")) if inside else None)


def local_path(text: str) -> str:
    """A path on this machine's disks, which may be written as a URL. Raises UsageError for an empty one."""
    if not text:
        raise UsageError("an empty path: expected a folder or a URL; '.' is the current folder")
    return unquote(urlsplit(text).path) if text.startswith("file://") else text
