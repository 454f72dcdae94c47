"""The photos of a batch: which files of a folder or a list are meant."""

from __future__ import annotations

import codecs
import fnmatch
import itertools
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fit3d.batch.manifest import MANIFEST
from fit3d.batch.options import OPTIONS_FILE
from fit3d.batch.storage import Entry, OnProgress, Storage, say_nothing
from fit3d.batch.storages import is_url, local_path, redacted, storage_at
from fit3d.errors import UsageError
from fit3d.photo import image_endings, is_image

STDIN = "-"
_HEAD_BYTES = 32
_MOST_ENDINGS = 8
"""That a note names."""


_MARKS = {OPTIONS_FILE, MANIFEST}
"""Files of a folder of results."""


@dataclass(frozen=True)
class Selection:
    """Which files of a folder are meant."""

    recursive: bool = True
    include: tuple[str, ...] = ()
    """Globs; with any, files that match one are photos, whatever their ending, and no others."""
    exclude: tuple[str, ...] = ()
    """Globs of files that are left out, and of folders."""
    follow_links: bool = False
    """Whether to go into folders that are symbolic links."""


ALL = Selection()


@dataclass(frozen=True)
class Listing:
    """The photos of a call."""

    photos: Storage
    """That they are in."""
    root: str
    """Of it: an absolute path, or a URL, without a password."""
    entries: list[Entry]
    """In the order of their names, which are unique."""
    notes: tuple[str, ...] = ()
    """What the user should know of files that were left out."""
    warnings: tuple[str, ...] = ()
    """What is probably not as the user meant it."""


def list_folder(folder: str, selection: Selection, out: str, tell: OnProgress = say_nothing) -> Listing:
    """The photos in a folder, given as path or URL.

    A photo is a regular file, or a link to one, with the ending of an image, or without any ending but with the first
    bytes of one. Hidden files and the folder `out` are left out; so is what is no file, without being opened.

    Raises:
        UsageError: there is no such folder, or no photo in it.
    """
    storage = storage_at(folder, left_out=out, follow_links=selection.follow_links)
    if not is_url(folder) and not os.path.isdir(storage.root):
        raise UsageError(_no_folder(folder))
    include, exclude = _matcher(selection.include), _matcher(selection.exclude)
    if _is_same_folder(folder, out):
        raise UsageError(f"{redacted(out)}: the folder of the photos; choose another one for the results (-o)")
    endings, others = image_endings(), Counter[str]()
    marks: dict[str, set[str]] = defaultdict(set)
    unreadable: list[str] = []
    linked: list[str] = []
    entries: list[Entry] = []
    try:
        for entry in storage.entries(recursive=selection.recursive, unreadable=unreadable, linked=linked):
            tell("listing", len(entries), None)
            if exclude is not None and _matches(exclude, entry.name):
                continue
            head, _, tail = entry.name.rpartition("/")
            if tail in _MARKS:
                marks[head].add(tail)
            if include is not None:
                if _matches(include, entry.name):
                    entries.append(entry)
            elif _is_photo(storage, entry, endings):
                entries.append(entry)
            else:
                others[PurePosixPath(entry.name).suffix.lower()] += 1
    except OSError as error:
        raise UsageError(f"{redacted(folder)}: cannot be read ({error.strerror or error})") from error
    notes = [*_told_others(others), *(f"the folder {name} cannot be read and is left out" for name in unreadable)]
    if linked:
        notes.append(f"{len(linked)} linked folder{'s' if len(linked) > 1 else ''} left out (--follow-links)")
    results = tuple(f"{head}/" for head, found in marks.items() if head and found == _MARKS)
    if results:
        entries = [entry for entry in entries if not entry.name.startswith(results)]
        notes += [f"{name} holds results of `fit3d batch` and is left out" for name in results]
    if not entries:
        raise UsageError("; ".join([f"{redacted(folder)}: no photos in this folder", *notes]))
    entries.sort(key=lambda entry: entry.name)
    return Listing(storage, redacted(absolute(folder)), entries, tuple(notes))


def list_paths(
    paths: Iterable[str],
    root: str | None,
    earlier_root: str | None = None,
    source: str = "the list",
    tell: OnProgress = say_nothing,
) -> Listing:
    """Photos that are named one by one, whatever their endings; those that do not exist are told of again when their
    turn comes.

    Args:
        paths: as the shell has them: relative to the current folder; or URLs, all in one storage.
        root: folder that results are named relative to; None is that of the earlier call, if all are in it, else the
            deepest one that holds all.
        earlier_root: of the earlier call on the same OUT.
        source: what messages call the list.
        tell: see `OnProgress`; likewise of `list_folder`.

    Raises:
        UsageError: no paths, none of a file, or one outside `root`.
    """
    full = list(dict.fromkeys(_full(path) for path in paths if path))
    if not full:
        raise UsageError(f"{source}: names no photos")
    if root is None:
        root = _common(full, source)
        if earlier_root is not None and earlier_root != redacted(root):
            below = relative(redacted(root), earlier_root)
            if below is None:
                raise UsageError(
                    f"{source}: names photos outside {earlier_root}, which the results of the earlier call are named "
                    "relative to; choose another folder (-o), or say --root and --force to do everything again"
                )
            root = root.removesuffix(below).rstrip("/") or "/"  # as written now: passwords are not noted
    else:
        root = absolute(root)
    storage = storage_at(root)
    names = []
    for path in full:
        name = relative(path, root)
        if not name:
            raise UsageError(f"{source}: {redacted(path)} lies outside --root {redacted(root)}")
        names.append(name)
    entries: list[Entry] = []
    for name, entry in zip(names, storage.entries_of(names), strict=True):
        tell("looking for", len(entries), len(names))
        entries.append(entry or Entry(name, None, None))
    entries.sort(key=lambda entry: entry.name)
    missing = [entry.name for entry in entries if entry.size is None]
    if not missing:
        return Listing(storage, redacted(root), entries)
    example = f"{redacted(root).rstrip('/')}/{missing[0]}"
    if len(missing) == len(entries):
        raise UsageError(
            f"{source}: none of its {len(entries)} photos exists, such as {example}; paths are relative to the current "
            "folder"
        )
    warning = f"{source}: {len(missing)} of {len(entries)} photos do not exist, such as {example}"
    return Listing(storage, redacted(root), entries, warnings=(warning,))


def read_list(argument: str) -> list[str]:
    """The paths in the file of '@FILE', or those on standard input for '-': one a line, or ended by NULs, as
    `find -print0` writes them.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        raw = sys.stdin.buffer.read() if argument == STDIN else Path(argument[1:]).read_bytes()
    except OSError as error:
        raise UsageError(f"{argument}: cannot read the list ({error.strerror or error})") from error
    raw = raw.removeprefix(codecs.BOM_UTF8)
    pieces = raw.split(b"\0") if b"\0" in raw else [line.removesuffix(b"\r") for line in raw.split(b"\n")]
    return [os.fsdecode(piece) for piece in pieces if piece]


def absolute(place: str) -> str:
    """A path from the root of the file system on; a URL as it is, without '/' at its end."""
    return place.rstrip("/") if is_url(place) else os.path.abspath(local_path(place))


def _is_same_folder(one: str, two: str) -> bool:
    """Whether two paths or URLs name one folder, be it through links."""
    if is_url(one) or is_url(two):
        return absolute(one) == absolute(two)
    return os.path.realpath(local_path(one)) == os.path.realpath(local_path(two))


def _is_photo(storage: Storage, entry: Entry, endings: frozenset[str]) -> bool:
    ending = PurePosixPath(entry.name).suffix.lower()
    if ending:
        return ending in endings
    try:
        return is_image(storage.head(entry.name, _HEAD_BYTES))
    except OSError:
        return False


def _told_others(others: Counter[str]) -> list[str]:
    """A note of the files that are no photos, by ending."""
    if not others:
        return []
    kinds = sorted(others.items(), key=lambda each: (-each[1], each[0]))
    told = [f"{count} {ending or 'without ending'}" for ending, count in kinds[:_MOST_ENDINGS]]
    more = ", ..." if len(kinds) > _MOST_ENDINGS else ""
    count = others.total()
    return [f"{count} file{'s' if count > 1 else ''} with other endings left out: {', '.join(told)}{more}"]


def _matcher(globs: Sequence[str]) -> re.Pattern[str] | None:
    """Of any of the globs, in which '*' crosses folders; None where there are none."""
    return re.compile("|".join(fnmatch.translate(glob.rstrip("/")) for glob in globs)) if globs else None


def _matches(pattern: re.Pattern[str], name: str) -> bool:
    """Whether a pattern matches the path, a folder that it is in, or the name alone of either."""
    path = PurePosixPath(name)
    return any(pattern.match(str(each)) or pattern.match(each.name) for each in (path, *path.parents[:-1]))


def _no_folder(folder: str) -> str:
    if os.path.exists(folder):
        return f"{folder}: not a folder; a single photo is for `fit3d fit`, a list of photos is written @{folder}"
    return f"{folder}: no such photo or folder"


def _full(path: str) -> str:
    """Absolute, '..' resolved as the file system does where there is one."""
    if is_url(path):
        return path
    path = local_path(path)
    head, tail = os.path.split(os.path.abspath(path) if ".." not in Path(path).parts else path)
    return os.path.join(os.path.realpath(head) if ".." in Path(head).parts else head, tail)


def _common(full: Sequence[str], source: str) -> str:
    """The deepest folder that holds all."""
    if not any(map(is_url, full)):
        return os.path.commonpath([os.path.dirname(path) for path in full])
    columns = zip(*(path.split("/")[:-1] for path in full), strict=False)
    same = [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]
    if len(same) < 3:  # 's3:', '', the bucket
        raise UsageError(f"{source}: names photos in several storages; expected all in one")
    return "/".join(same)


def relative(path: str, root: str) -> str | None:
    """Name of what is at `path` within `root`, '' for itself; None outside of it."""
    if path == root:
        return ""
    prefix = root if root.endswith("/") else f"{root}/"
    name = path[len(prefix) :] if path.startswith(prefix) else None
    return None if name is None or ".." in name.split("/") else name
