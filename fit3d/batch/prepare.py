"""All that is checked before a batch begins: photos, backends, face model, devices."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from fit3d.batch.listing import ALL, Selection, absolute, list_folder, list_paths
from fit3d.batch.manifest import Shard
from fit3d.batch.options import BatchOptions, StoredOptions, read_options
from fit3d.batch.plan import LABEL_ENDINGS, LANDMARK_ENDINGS, Call, Given
from fit3d.batch.storage import OnProgress, say_nothing
from fit3d.batch.storages import storage_at
from fit3d.batch.work import Workers
from fit3d.checks import check_device, check_positive, check_whole
from fit3d.errors import UsageError
from fit3d.morphable.registry import load_model
from fit3d.observe.registry import AUTO, Kind, able

ACCELERATOR_CHUNK = 32
"""Photos that a worker on an accelerator is given at a time."""
ACCELERATOR_WORKERS = 4
"""Most workers on an accelerator unless told otherwise: while one fits, others read, texture and write on the cores."""
TIMEOUT_S = 600.0
"""A photo that takes longer is given up."""


@dataclass(frozen=True)
class Asked:
    """Which photos a call is about, and what of them is done again."""

    photos: str | Sequence[str]
    """Path or URL of a folder, or those of photos."""
    selection: Selection = ALL
    """Which files of the folder."""
    root: str | None = None
    """Of a list, see `list_paths`."""
    source: str = "the list"
    """What messages call a list."""
    shard: Shard | None = None
    """The photos that are this call's."""
    retry_failed: bool = False
    """Whether photos that failed are tried again."""
    force: bool = False
    """Whether all are done again, and other options than the earlier call's are allowed."""

    @classmethod
    def by_python(
        cls,
        photos: str | Path | Iterable[str | Path],
        selection: Selection,
        root: str | Path | None,
        shard: tuple[int, int] | None,
        retry_failed: bool,
        force: bool,
    ) -> Asked:
        """As the functions of the library are called. Raises UsageError."""
        return cls(
            photos=os.fspath(photos) if isinstance(photos, str | Path) else [os.fspath(photo) for photo in photos],
            selection=selection,
            root=None if root is None else os.fspath(root),
            shard=None if shard is None else Shard.parse(f"{shard[0]}/{shard[1]}"),
            retry_failed=retry_failed,
            force=force,
        )


@dataclass
class Prepared:
    """A call that can begin."""

    call: Call
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def prepare(
    asked: Asked, out: str, options: BatchOptions, tell: OnProgress = say_nothing, call_type: type[Call] = Call
) -> Prepared:
    """Find the photos and check that they can be fitted. Nothing is written.

    Args:
        asked: the photos.
        out: path or URL of the results.
        options: as the user said them; 'auto' takes the backends of an earlier call, if there was one.
        tell: see `OnProgress`.
        call_type: what is done with the photos.

    Raises:
        UsageError: no photos, a backend or face model that is not there, a folder that cannot be read; a script that
            begins a batch whenever it is loaded.
        ModelFileError: the face model is damaged.
    """
    _check_not_loading()
    results = storage_at(out)
    earlier = None if asked.force else read_options(results)
    if isinstance(asked.photos, str):
        listing = list_folder(asked.photos, asked.selection, out, tell)
    else:
        listing = list_paths(asked.photos, asked.root, earlier.photos if earlier else None, asked.source, tell)
    prepared = Prepared(Call(listing, results, options), list(listing.notes), list(listing.warnings))
    parts = _given("--parts", options.parts, LABEL_ENDINGS, prepared, tell)
    landmarks_files = _given("--landmarks-file", options.landmarks_files, LANDMARK_ENDINGS, prepared, tell)
    options = replace(
        options,
        landmarks=_backend("landmark detector", options.landmarks, earlier, landmarks_files, prepared),
        parser=_backend("face parser", options.parser, earlier, parts, prepared),
        parts=None if parts is None else parts.folder,
        landmarks_files=None if landmarks_files is None else landmarks_files.folder,
    )
    load_model(options.model)
    prepared.call = call_type(
        listing, results, options, parts, landmarks_files, asked.shard, asked.retry_failed, asked.force
    )
    return prepared


def workers_for(
    devices: Sequence[str],
    count: int | None,
    chunk: int | None,
    timeout_s: float | None = TIMEOUT_S,
    elsewhere: bool = False,
) -> Workers:
    """How the work is shared out; what is None is chosen by the devices.

    Workers `elsewhere`, in a cluster, have devices and cores that are not known here.

    Raises:
        UsageError: a device that is not there, or a number that cannot be.
    """
    if elsewhere and count is None:
        raise UsageError("--address: say with --workers how many workers the cluster is to run")
    for device in () if elsewhere else devices:
        check_device(device, "--device")
    on_cpu = all(device == "cpu" for device in devices)
    if count is not None:
        check_whole("--workers", count, 1)
    if chunk is not None:
        check_whole("--batch-size", chunk, 1)
    if timeout_s is not None:
        check_positive("--timeout", timeout_s)
    return Workers(
        count=count or (_cores() if on_cpu else max(len(devices), min(_cores(), ACCELERATOR_WORKERS * len(devices)))),
        devices=tuple(devices),
        chunk=chunk or (1 if on_cpu else ACCELERATOR_CHUNK),
        timeout_s=timeout_s,
    )


def _check_not_loading() -> None:
    """Raises UsageError in a worker that is still loading the program which began the batch and meets its call."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError(
            'a batch starts processes, which load the program again: call it below `if __name__ == "__main__":`'
        )


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _given(
    option: str, folder: str | None, endings: tuple[str, ...], prepared: Prepared, tell: OnProgress
) -> Given | None:
    if folder is None:
        return None
    entries = prepared.call.listing.entries
    given = Given.read(option, absolute(folder), endings, tell)
    missing = sum(given.of(entry.name) is None for entry in entries)
    if missing == len(entries):
        raise UsageError(
            f"{option} {folder}: no file in it is named as any photo is; for a/b/c.jpg it is a/b/c{endings[0]}"
        )
    if missing:
        who = "parser" if option == "--parts" else "detector"
        prepared.warnings.append(
            f"{missing} of {len(entries)} photos have no file in {option} {folder}; the {who} looks at them"
        )
    return given


def _backend(kind: Kind, name: str, earlier: StoredOptions | None, given: Given | None, prepared: Prepared) -> str:
    """The name itself, or what 'auto' takes: the backend of the earlier call, else the best one.

    Raises:
        UsageError: it cannot run, and there are photos that need it.
    """
    asked = name
    if name == AUTO and earlier is not None:
        name = earlier.text("landmarks" if kind == "landmark detector" else "parser") or name
    is_needed = given is None or any(given.of(entry.name) is None for entry in prepared.call.listing.entries)
    with suppress(*() if is_needed else (UsageError,)):
        choice = able(kind, name)
        prepared.warnings += choice.warnings
        if asked == AUTO and is_needed:
            what = "landmarks" if kind == "landmark detector" else "parts"
            prepared.notes.append(f"{what} by {choice.name}")
        return choice.name
    return name
