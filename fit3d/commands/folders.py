"""What commands over folders of photos share: which photos, who does the work, and what is told of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fit3d.commands.console import Console
from fit3d.errors import UsageError

if TYPE_CHECKING:
    from fit3d.batch.plan import Call, Plan
    from fit3d.batch.prepare import Asked, Prepared
    from fit3d.batch.record import Record, Status
    from fit3d.batch.run import Run
    from fit3d.batch.work import Engine, Workers

EXIT_PHOTO_FAILED = 1
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class SelectionOptions:
    """Which photos."""

    recursive: Annotated[
        bool, typer.Option("--recursive/--no-recursive", help="Look into the folders of FOLDER, too.")
    ] = True
    include: Annotated[
        list[str] | None,
        typer.Option(
            "--include",
            metavar="GLOB",
            help="Only files whose path or name matches, whatever their ending; * crosses folders. Repeatable.",
            show_default=False,
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude", metavar="GLOB", help="Leave out files and folders that match. Repeatable.", show_default=False
        ),
    ] = None
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Look into folders that are symbolic links, too.")
    ] = False
    root: Annotated[
        str | None,
        typer.Option(
            "--root",
            metavar="FOLDER",
            help="With a list: the folder that results are named relative to. Default: the deepest that holds all.",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True)
class RunOptions:
    """Who does the work, and what of it is done again."""

    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Processes that fit, about 1 GB of memory each. Default: one per core, at most four per accelerator.",
            show_default=False,
        ),
    ] = None
    device: Annotated[
        str,
        typer.Option("--device", metavar="DEVICE", help="torch devices, several with commas: cpu, cuda:0,cuda:1, mps."),
    ] = "cpu"
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="Photos that a worker is given at a time. Default: 1 on a CPU, 32 on an accelerator.",
            show_default=False,
        ),
    ] = None
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=1.0,
            help="A photo that takes longer is given up; of a batch that does, photos are tried one by one.",
        ),
    ] = 600.0
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option("--engine", help="Processes of this machine, or Ray on any number of them."),
    ] = "local"
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Of the Ray cluster. Default: Ray is started on this machine.",
            show_default=False,
        ),
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-worker",
            min=0.0,
            help="With Ray and CUDA: share of a GPU that a worker needs, 0.25 for four on each. Default: 1.",
            show_default=False,
        ),
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Do the I-th of N shares of the photos, 1 to N, beside other calls on the same OUT.",
            show_default=False,
        ),
    ] = None
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try photos again that could not be fitted.")] = (
        False
    )
    force: Annotated[
        bool, typer.Option("--force", help="Do everything again, also with other options than before.")
    ] = False

    def workers_of(self) -> Workers:
        """How the work is shared out. Raises UsageError."""
        from fit3d.batch.prepare import workers_for

        devices = [each.strip() for each in self.device.split(",")]
        return workers_for(devices, self.workers, self.batch_size, self.timeout, self.address is not None)

    def engine_of(self, workers: Workers) -> Engine:
        """The engine. Raises UsageError."""
        from fit3d.batch.run import make_engine

        return make_engine(self.engine, workers, self.address, self.gpus_per_worker)


def asked_photos(argument: str, selection: SelectionOptions, running: RunOptions) -> Asked:
    """The photos of a folder, or of the list that '@FILE' or '-' names. Raises UsageError."""
    from fit3d.batch.listing import STDIN, Selection, read_list
    from fit3d.batch.manifest import Shard
    from fit3d.batch.prepare import Asked

    is_list = argument == STDIN or argument.startswith("@")
    if is_list and (selection.include or selection.exclude or selection.follow_links or not selection.recursive):
        raise UsageError(
            "--include, --exclude, --no-recursive and --follow-links choose from a folder, not from a list"
        )
    if selection.root is not None and not is_list:
        raise UsageError("--root: says what the photos of a list are named relative to; a folder's are to the folder")
    include, exclude = tuple(selection.include or ()), tuple(selection.exclude or ())
    return Asked(
        photos=read_list(argument) if is_list else argument,
        selection=Selection(selection.recursive, include, exclude, selection.follow_links),
        root=selection.root,
        source="standard input" if argument == STDIN else argument,
        shard=None if running.shard is None else Shard.parse(running.shard),
        retry_failed=running.retry_failed,
        force=running.force,
    )


@contextmanager
def opened_for(call: Call, console: Console) -> Iterator[Run]:
    """`opened`, with word of how far it is, and of earlier calls."""
    from fit3d.batch.run import opened

    with ExitStack() as held:
        with console.counting() as tell:
            run = held.enter_context(opened(call, tell))
        warn_of(run, console)
        yield run


def tell_prepared(prepared: Prepared, console: Console) -> None:
    """What was found before anything is done."""
    for warning in prepared.warnings:
        console.warn(warning)
    for note in prepared.notes:
        console.note(note)


def warn_of(run: Run, console: Console) -> None:
    """What is to be known of earlier calls."""
    for warning in run.warnings:
        console.warn(warning)


def tell_plan(plan: Plan, console: Console) -> None:
    """What --dry-run says."""
    todo = ", ".join(f"{count} {reason}" for reason, count in plan.reasons.items())
    done = f"{plan.kept.total()} done ({told_counts(plan.kept)})"
    line = f"{told_photos(plan.photos)}: {done}, {len(plan.jobs)} to do ({todo})"
    gone = f"; {plan.vanished} of earlier calls are not among them" if plan.vanished else ""
    data = {"photos": plan.photos, "done": dict(plan.kept), "to_do": dict(plan.reasons), "vanished": plan.vanished}
    console.result(line.replace(" ()", "") + gone, data)


def told_photos(count: int) -> str:
    """So many photos, in words."""
    return f"{count} photo{'' if count == 1 else 's'}"


def told_counts(counts: Counter[Status]) -> str:
    """How many photos came to what, in words."""
    from fit3d.batch.record import STATUSES

    return ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])


def do_all(run: Run, engine: Engine, console: Console) -> Counter[Status] | None:
    """Do what is to be done, and tell of it. Returns what became of the photos; None where it was interrupted."""
    from fit3d.commands.stopping import stoppable

    plan, counts = run.plan, Counter(run.plan.kept)
    left, total = len(plan.jobs), plan.photos
    if plan.vanished:
        kept = "their results stay, in the report, too"
        console.note(f"no longer among the photos: {plan.vanished} of earlier calls; {kept}")
    if plan.kept:
        console.note(f"{plan.kept.total()} of {total} photos are done already ({told_counts(plan.kept)})")
    engine.tell = console.note
    try:
        with console.progress_of_batch(left), stoppable(engine, run):
            for record in run.records(engine):
                counts[record.status] += 1
                left -= 1
                _tell_record(record, console)
    except KeyboardInterrupt:
        _tell_left(run, left, total, console)
        raise
    if not left:
        return counts
    _tell_left(run, left, total, console)
    return None


def _tell_left(run: Run, left: int, total: int, console: Console) -> None:
    """How to go on after Ctrl-C, be it the first or the second one."""
    from fit3d.batch.options import BatchOptions

    again = " without --force" if run.call.force else ""
    page = ""
    if run.call.options.command == BatchOptions.command:
        page = f"; `fit3d report {run.call.out.root}` makes the page of what there is"
    console.warn(f"{left} of {total} photos are left; the same command{again} goes on with them{page}")


def exit_code(counts: Counter[Status]) -> int:
    """0 where each photo has a result."""
    return 0 if counts.total() == counts["ok"] + counts["poor"] else EXIT_PHOTO_FAILED


def _tell_record(record: Record, console: Console) -> None:
    if not record.is_done:
        console.error(f"{record.photo}: {record.message}")
    if console.as_json:
        console.result("", record.to_json())
    console.advance(failed=not record.is_done)
