"""What is left to do of a batch: which photos are new, changed, or failed, and which are done."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import PurePosixPath
from typing import ClassVar, Literal, get_args

from fit3d.batch.fit_work import FitWork, PhotoItem
from fit3d.batch.listing import Listing, absolute, relative
from fit3d.batch.manifest import MANIFEST, Shard, Snapshot, forced_at
from fit3d.batch.options import BatchOptions
from fit3d.batch.places import OWN_NAMES, places
from fit3d.batch.record import Record, Status
from fit3d.batch.storage import Entry, OnProgress, Storage, say_nothing
from fit3d.batch.storages import is_url, redacted, storage_at
from fit3d.batch.thumbnail import THUMBNAILS
from fit3d.config import Format
from fit3d.errors import UsageError

Reason = Literal["new", "changed", "retried", "other options", "results missing", "forced"]
LANDMARK_ENDINGS = (".json", ".pts", ".txt", ".csv")
"""Of files that landmarks are looked for in; the first that there is counts."""
LABEL_ENDINGS = (".png",)
TICK_S = 0.001
"""Between the times that two records of one photo finished, at least."""
REFRESHED = 1000
"""Records of photos that were touched but are the same, after which they are noted."""


@dataclass(frozen=True)
class Given:
    """A folder of files, mirroring that of the photos, that the user gave instead of a detector or parser."""

    option: str
    folder: str
    files: dict[str, Entry]
    """By name without ending."""

    @classmethod
    def read(cls, option: str, folder: str, endings: tuple[str, ...], tell: OnProgress = say_nothing) -> Given:
        """All files in `folder`. Raises UsageError."""
        if is_url(folder):
            raise UsageError(f"{option} {redacted(folder)}: expected a folder on a disk that all workers can read")
        files: dict[str, Entry] = {}
        try:
            for entry in storage_at(folder).entries():
                tell(f"listing the files of {option} for", len(files), None)
                path = PurePosixPath(entry.name)
                if path.suffix.lower() in endings:
                    stem = str(path.with_suffix(""))
                    files[stem] = min(files.get(stem, entry), entry, key=lambda each: _rank(each, endings))
        except OSError as error:
            raise UsageError(f"{option} {folder}: cannot be read ({error.strerror or error})") from error
        if not files:
            raise UsageError(f"{option} {folder}: no files in this folder that end in {', '.join(endings)}")
        return cls(option, folder, files)

    def of(self, photo: str) -> Entry | None:
        """The file of a photo: that of the same path, but for the ending."""
        return self.files.get(str(PurePosixPath(photo).with_suffix("")))


def _rank(entry: Entry, endings: tuple[str, ...]) -> tuple[int, str]:
    return endings.index(PurePosixPath(entry.name).suffix.lower()), entry.name


@dataclass(frozen=True, slots=True)
class Job:
    """A photo that is to be fitted."""

    item: PhotoItem
    given: tuple[str, ...]
    """See `Record.given`."""
    after: float
    """When its earlier record finished, or a --force began; 0 where there is none."""
    results: tuple[str, ...] = ()
    """JSONs of its earlier record, see `Record.result_files`."""


@dataclass
class Plan:
    """What a call has to do."""

    jobs: deque[Job] = field(default_factory=deque)
    """In the order of the photos' names."""
    reasons: Counter[Reason] = field(default_factory=Counter)
    """Why, with the number of photos."""
    kept: Counter[Status] = field(default_factory=Counter)
    """What became of the photos that need nothing."""
    refreshed: list[Record] = field(default_factory=list)
    """Records of photos that were touched but are the same."""
    forced_at: dict[str, float] = field(default_factory=dict)
    """See `StoredOptions`; of this call, too."""
    vanished: int = 0
    """Photos of earlier calls that are no longer among those of this one; their results stay."""

    @property
    def photos(self) -> int:
        """Of the call, its shard's alone."""
        return len(self.jobs) + self.kept.total()


@dataclass(frozen=True)
class Call:
    """What the user asked for."""

    listing: Listing
    out: Storage
    options: BatchOptions
    parts: Given | None = None
    landmarks_files: Given | None = None
    shard: Shard | None = None
    retry_failed: bool = False
    force: bool = False
    """Whether to do everything again."""

    record_type: ClassVar[type[Record]] = Record
    own_names: ClassVar[tuple[str, ...]] = OWN_NAMES
    """Names at the top of OUT that no result may have."""

    def work(self) -> FitWork:
        """What is done with each photo; its results are of `record_type`."""
        return FitWork(self.listing.photos, self.out, self.options)

    def files_of(self, result: str) -> list[str]:
        """All files in OUT that belong to the result that a JSON means, but for the JSON itself."""
        from fit3d.reconstruction import result_names  # its imports are heavy

        folder = PurePosixPath(result).parent
        names = result_names(folder.name, get_args(Format)).values()
        return [*(f"{folder}/{name}" for name in names if f"{folder}/{name}" != result), f"{THUMBNAILS}/{folder}.jpg"]

    def given_to(self, photo: str) -> tuple[Entry | None, Entry | None]:
        """Label image and landmark file of a photo."""
        parts, landmarks = self.parts, self.landmarks_files
        return parts.of(photo) if parts else None, landmarks.of(photo) if landmarks else None


def make_plan(
    call: Call,
    snapshot: Snapshot,
    earlier: Mapping[str, float],
    tell: OnProgress = say_nothing,
    keep: Callable[[Sequence[Record]], None] | None = None,
) -> Plan:
    """Compare the photos with what the manifests tell. Photos are read only where their time of change differs.

    Args:
        earlier: when earlier calls had --force, see `StoredOptions.forced_at`.
        tell: see `OnProgress`.
        keep: takes records of photos that were touched but are the same, a thousand at a time: of very many photos
            that are read, an interruption loses few. The plan has the last ones.
    """
    plan = Plan(forced_at=_forced_at(call, snapshot, earlier))
    names = [entry.name for entry in call.listing.entries]
    every_face, places_of_all = call.options.face == "all", cache(lambda: frozenset(where))
    digest, is_there = call.options.digest, call.out.whether_there()
    taken = relative(call.listing.root, absolute(call.out.root)) or ""
    own_names = (*call.own_names, taken.partition("/")[0])
    where = list(places(names, snapshot.places(), every_face, own_names, call.shard is not None))
    for number, (entry, place) in enumerate(zip(call.listing.entries, where, strict=True)):
        tell("comparing with what was done", number, len(where))
        if call.shard is not None and not call.shard.holds(entry.name):
            continue
        given = call.given_to(entry.name)
        versions = () if not (call.parts or call.landmarks_files) else tuple(map(_version, given))
        record = snapshot.record(entry.name)
        forced = forced_at(entry.name, plan.forced_at)
        reason = _reason(call, digest, entry, versions, record, forced, is_there)
        if reason is not None:
            after = max(record.finished if record else 0.0, forced)
            results = () if record is None else tuple(_results(record, place, places_of_all))
            plan.reasons[reason] += 1
            plan.jobs.append(Job(_item(call, entry, place, *given), versions, after, results))
            continue
        assert record is not None
        plan.kept[record.status] += 1
        if record.version != entry.version:
            plan.refreshed.append(replace(record, version=entry.version, finished=record.finished + TICK_S))
            if keep is not None and len(plan.refreshed) == REFRESHED:
                keep(plan.refreshed)
                plan.refreshed.clear()
    known = set(names)
    plan.vanished = sum(name not in known for name in snapshot.lines)
    return plan


def _forced_at(call: Call, snapshot: Snapshot, earlier: Mapping[str, float]) -> dict[str, float]:
    """`earlier`, and the beginning of this call if it has --force."""
    if not call.force:
        return dict(earlier)
    now = max(round(time.time(), 3), snapshot.last_finished() + TICK_S)  # other machines' clocks may be ahead
    return {MANIFEST: now} if call.shard is None else {**earlier, call.shard.manifest: now}


def _results(record: Record, place: str, places_of_all: Callable[[], Set[str]]) -> Iterator[str]:
    """The JSONs of a photo's results, but for those in the place of another photo: results with every face and with
    one can have the same names."""
    for name in record.result_files():
        folder = str(PurePosixPath(name).parent)
        if folder == place or folder not in places_of_all():
            yield name


def _reason(
    call: Call,
    digest: str,
    entry: Entry,
    given: tuple[str, ...],
    record: Record | None,
    forced: float,
    is_there: Callable[[str], bool],
) -> Reason | None:
    """Why a photo is to be fitted, None where it need not."""
    if record is None:
        return "new"
    if record.finished < forced:
        return "forced"
    if record.options != digest:
        return "other options"
    if record.given != given or record.size != entry.size:
        return "changed"
    if record.version != entry.version and not _is_same(call.listing.photos, entry, record):
        return "changed"
    if record.status == "unreadable" and record.sha256 is None and entry.size is not None:
        return "retried"  # not the photo was bad, but the way to it: a disk or network that had gone away
    if not record.is_done:
        return "retried" if call.retry_failed else None
    return None if all(map(is_there, record.result_files())) else "results missing"


def _is_same(photos: Storage, entry: Entry, record: Record) -> bool:
    """Whether a photo that was touched has the content that it had."""
    try:
        return record.sha256 is not None and photos.sha256(entry.name) == record.sha256
    except OSError:
        return False


def _item(call: Call, entry: Entry, place: str, parts: Entry | None, landmarks: Entry | None) -> PhotoItem:
    def path(given: Given | None, file: Entry | None) -> str | None:
        return None if given is None or file is None else f"{given.folder}/{file.name}"

    return PhotoItem(
        photo=entry.name,
        size=entry.size,
        version=entry.version,
        folder=place,
        parts=path(call.parts, parts),
        landmarks_file=path(call.landmarks_files, landmarks),
    )


def _version(file: Entry | None) -> str:
    return "" if file is None else f"{file.size}:{file.version}"
