"""A batch from photos to results: opens OUT, works out what is missing, has it done, and keeps the manifest."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module

from fit3d import __version__
from fit3d.batch.fit_work import FitWork, PhotoItem
from fit3d.batch.manifest import MANIFEST, Snapshot, compact, gate, locked, manifests, read_manifests
from fit3d.batch.mark import marked
from fit3d.batch.options import BatchOptions, StoredOptions, read_options, write_options
from fit3d.batch.plan import TICK_S, Call, Job, Plan, make_plan
from fit3d.batch.record import Record
from fit3d.batch.report import write_report
from fit3d.batch.storage import OnProgress, Storage, say_nothing
from fit3d.batch.table import write_table
from fit3d.batch.thumbnail import THUMBNAILS, WITHOUT_FIT
from fit3d.batch.work import Engine, Workers
from fit3d.errors import LockedError, UsageError
from fit3d.resources import install_command

ENGINES = ("local", "ray")


def make_engine(
    name: str, workers: Workers, address: str | None = None, gpus_per_worker: float | None = None
) -> Engine:
    """The engine of that name.

    `address` is that of a Ray cluster, None starts Ray on this machine; `gpus_per_worker` is the share of a GPU that
    Ray keeps for a worker on an accelerator, None its own default.

    Raises:
        UsageError: no such engine, or its package is not installed.
    """
    if name not in ENGINES:
        raise UsageError(f"engine {name!r}: expected one of {', '.join(ENGINES)}")
    if name == "local":
        if address is not None:
            raise UsageError(f"address {address}: the local engine has none; choose the engine ray")
        if gpus_per_worker is not None:
            raise UsageError(
                "GPUs per worker: the local engine shares a device out by --workers; choose the engine ray"
            )
        engine: Engine = import_module("fit3d.batch.local_engine").LocalEngine(workers)
        return engine
    try:
        engine = import_module("fit3d.batch.ray_engine").RayEngine(
            workers, address=address, gpus_per_worker=gpus_per_worker
        )
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise UsageError(f"the engine ray needs a package that is missing; run: {install_command('ray')}") from error
    return engine


@dataclass
class Run:
    """A batch that is under way: OUT is locked."""

    call: Call
    plan: Plan
    warnings: list[str] = field(default_factory=list)
    """What the user should know of earlier calls."""

    in_flight: int = 0
    """Photos that workers have, at the moment."""
    is_given_up: bool = False
    """Whether `records`, when it is closed, gives up what is in flight instead of letting it end."""

    @property
    def manifest(self) -> str:
        return _manifest(self.call)

    def records(self, engine: Engine) -> Generator[Record, None, None]:
        """Do what is to be done; each record is in the manifest before it is told.

        Closed early, it lets the photos in flight end, and notes them too. After an error or KeyboardInterrupt what is
        in flight is given up, and what it left half written is removed.

        Raises:
            UsageError: what concerns all photos, such as a full disk.
        """
        with marked(self.call.out, self.manifest) as mark:
            yield from self._records(engine, replace(self.call.work(), mark=mark))

    def _records(self, engine: Engine, work: FitWork) -> Generator[Record, None, None]:
        flying = dict[str, Job]()
        results = engine.run(work, self._items(flying))
        try:
            try:
                for item, result in results:
                    record = self._note(flying.pop(item.photo), result)
                    self.in_flight = len(flying)
                    yield record
            except GeneratorExit:
                engine.stop()
                for item, result in () if self.is_given_up else results:
                    self._note(flying.pop(item.photo), result)
                raise
        finally:
            if isinstance(results, Generator):
                results.close()
            self._clear(job.item.folder for job in flying.values())

    def write_report(self) -> str | None:
        """Page and table of all photos of OUT. Returns what to tell the user, if anything. Raises UsageError."""
        with read_manifests(self.call.out) as snapshot:
            return _write_report(self.call.out, snapshot)

    def _items(self, flying: dict[str, Job]) -> Iterator[PhotoItem]:
        """The photos, taken off the plan as they are drawn."""
        while self.plan.jobs:
            job = self.plan.jobs.popleft()
            flying[job.item.photo] = job
            self.in_flight = len(flying)
            yield job.item

    def _note(self, job: Job, result: Record) -> Record:
        finished = max(round(time.time(), 3), job.after + TICK_S)  # other machines' clocks may be ahead
        record = replace(result, target=job.item.folder, given=job.given, finished=finished)
        self.call.out.append(self.manifest, [record.to_line()])
        if record.sha256 is not None:  # otherwise it says nothing of the photo that the results are of
            for name in set(job.results).difference(record.result_files()):
                with suppress(UsageError):  # the manifest does not tell of it any more
                    self._remove_result(name)
        return record

    def _remove_result(self, name: str) -> None:
        """Of its folder those files alone that such results have."""
        out = self.call.out
        if out.exists(name):
            for each in (name, *self.call.files_of(name)):
                out.remove(each)

    def clear(self) -> dict[str, set[str]]:
        """Remove what a call that was killed left half written. Returns the results that this one will write, as names
        by the folder that they are in."""
        names = self._clear(job.item.folder for job in self.plan.jobs)
        if self.call.shard is None:
            self.call.out.remove_leftovers("", parts=True)
        self.clear_thumbnails(names)
        return names

    def clear_thumbnails(self, parents: Iterable[str]) -> None:
        """The same of thumbnails of the results in these folders; shards leave it to a call that is alone in OUT."""
        if self.call.shard is None:
            for folder in (
                *(f"{THUMBNAILS}/{parent}".rstrip("/") for parent in parents),
                f"{THUMBNAILS}/{WITHOUT_FIT}",
            ):
                self.call.out.remove_leftovers(folder, parts=True)

    def _clear(self, folders: Iterable[str]) -> dict[str, set[str]]:
        """Remove half written results of these folders alone, as others may write beside."""
        names: dict[str, set[str]] = defaultdict(set)
        for folder in folders:
            parent, _, name = folder.rpartition("/")
            names[parent].add(name)
        for parent, those in names.items():
            self.call.out.remove_leftovers(parent, those)
        return names


@contextmanager
def opened(call: Call, tell: OnProgress = say_nothing) -> Iterator[Run]:
    """Lock OUT, and compare the photos with what was done; the manifest is compacted before and after.

    Raises:
        UsageError: OUT cannot be written to, another process writes to it, or an earlier call had other options.
    """
    with locked(call.out, _manifest(call)):
        earlier = read_options(call.out)
        warnings = check_earlier(call, earlier)
        names = manifests(call.out)
        with read_manifests(call.out, names, call.record_type, tell) as snapshot:
            if call.shard is None:
                compact(call.out, snapshot, names, MANIFEST)
            plan = make_plan(call, snapshot, earlier.forced_at if earlier else {}, tell, partial(_keep, call))
            run = Run(call, plan, [*warnings, *snapshot.damaged])
        if call.shard is not None:
            _compact_alone(call.out, call.shard.manifest)
        _write_options(run)
        if plan.refreshed:
            _keep(call, plan.refreshed)
            plan.refreshed.clear()
        written = run.clear()
        yield run
        for parent, names_there in written.items():  # workers that died may have left something
            call.out.remove_leftovers(parent, names_there)
        run.clear_thumbnails(written)
        _compact_alone(call.out, run.manifest)


def _keep(call: Call, records: Sequence[Record]) -> None:
    call.out.append(_manifest(call), [record.to_line() for record in records])


def preview(call: Call, tell: OnProgress = say_nothing) -> Run:
    """What `opened` would come to; writes nothing, and needs no lock. Raises UsageError."""
    earlier = read_options(call.out)
    warnings = check_earlier(call, earlier)
    with read_manifests(call.out, record_type=call.record_type, tell=tell) as snapshot:
        plan = make_plan(call, snapshot, earlier.forced_at if earlier else {}, tell)
        return Run(call, plan, [*warnings, *snapshot.damaged])


def _write_options(run: Run) -> None:
    """Note this call in OUT. Raises UsageError."""
    call, noted = run.call, run.plan.forced_at
    with gate(call.out):  # other shards note theirs
        earlier = read_options(call.out)
        if earlier is not None and call.shard is not None:
            own = call.shard.manifest
            noted = earlier.forced_at | {name: at for name, at in noted.items() if name == own}
        write_options(call.out, call.options, call.listing.root, noted)


def check_earlier(call: Call, earlier: StoredOptions | None) -> list[str]:
    """What the user should know of an earlier call. Raises UsageError where it had other options."""
    if earlier is None:
        return []
    _check_command(call.out, earlier, call.options.command)
    differences = call.options.differences(earlier.options)
    if differences and not call.force:
        raise UsageError(
            f"{call.out.root} was made with other options: {', '.join(differences)}; say the same ones, choose another "
            "folder (-o), or say --force to do everything again with the new ones"
        )
    warnings = []
    if earlier.fit3d_version != __version__:
        warnings.append(
            f"{call.out.root} was begun with fit3d {earlier.fit3d_version}, this is {__version__}; results that are "
            "there stay as they are (--force does everything again)"
        )
    if earlier.photos != call.listing.root:
        warnings.append(
            f"{call.out.root} has results of photos in {earlier.photos}, now they come from {call.listing.root}; of "
            "photos of the same name the newer counts"
        )
    return warnings


def report(out: Storage) -> tuple[int, str | None]:
    """Merge all manifests and write page and table of OUT anew.

    Returns the number of photos and what to tell the user, if anything.

    The manifests of shards are put into one file, unless some process is at work in OUT.

    Raises:
        UsageError: there is no manifest in OUT, or OUT cannot be written to.
    """
    names = manifests(out)
    if not names:
        raise UsageError(f"{out.root}: no {MANIFEST} here; give a folder that `fit3d batch` wrote")
    earlier = read_options(out)
    if earlier is not None:
        _check_command(out, earlier, BatchOptions.command)
    with ExitStack() as held:
        with suppress(LockedError):
            held.enter_context(locked(out, MANIFEST))
            names = manifests(out)
            with read_manifests(out, names) as snapshot:
                compact(out, snapshot, names, MANIFEST)
        with read_manifests(out) as snapshot:
            return len(snapshot.lines), _write_report(out, snapshot)


def _check_command(out: Storage, earlier: StoredOptions, command: str) -> None:
    """Raises UsageError where OUT is another command's."""
    if earlier.command != command:
        raise UsageError(
            f"{out.root} holds results of `fit3d {earlier.command}`; expected those of `fit3d {command}`, or another "
            "folder"
        )


def _write_report(out: Storage, snapshot: Snapshot) -> str | None:
    note = write_table(out, snapshot.records())
    write_report(out, snapshot.records())  # after the table, to which it links
    return note


def _manifest(call: Call) -> str:
    return MANIFEST if call.shard is None else call.shard.manifest


def _compact_alone(out: Storage, manifest: str) -> None:
    with read_manifests(out, [manifest]) as snapshot:
        compact(out, snapshot, [manifest], manifest)
