"""`fit3d batch`: a folder of photos to fitted heads, however many there are. `fit3d report`: its report anew."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from fit3d.commands.console import Console
from fit3d.commands.folders import (
    EXIT_INTERRUPTED,
    RunOptions,
    SelectionOptions,
    asked_photos,
    do_all,
    exit_code,
    opened_for,
    tell_plan,
    tell_prepared,
    told_counts,
    told_photos,
    warn_of,
)
from fit3d.commands.option_groups import FitOptions
from fit3d.commands.options import JsonOption, QuietOption, parse_face
from fit3d.commands.photos import out_place
from fit3d.commands.with_options import with_options

if TYPE_CHECKING:
    from fit3d.batch.options import BatchOptions
    from fit3d.batch.record import Status
    from fit3d.batch.run import Run
    from fit3d.batch.work import Engine


@with_options
def batch_command(
    photos: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|@LIST|-",
            help="Folder of photos, its folders included: path or URL (s3://...); or @LIST, a file of paths of "
            "photos, one a line or ended by NULs, relative to the current folder; - reads it from standard input.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            parser=out_place,
            help="Folder or URL of the results: those of FOLDER/a/b.jpg go to OUT/a/b/.",
            show_default=False,
        ),
    ],
    fitting: FitOptions,
    selection: SelectionOptions,
    running: RunOptions,
    parts: Annotated[
        str | None,
        typer.Option(
            "--parts",
            metavar="FOLDER",
            help="Label images, used instead of the parser: FOLDER/a/b.png is that of a/b.jpg. Photos without one are "
            "parsed.",
            show_default=False,
        ),
    ] = None,
    landmarks_files: Annotated[
        str | None,
        typer.Option(
            "--landmarks-file",
            metavar="FOLDER",
            help="Landmarks, used instead of the detector: FOLDER/a/b.json (.pts, .txt, .csv) are those of a/b.jpg. "
            "Photos without any go through the detector.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is done and what is missing, and do nothing.")
    ] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Do not write OUT/index.html at the end.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> int:
    """Fit a face model to every photo of a folder; the same command again does only what is missing or changed.

    OUT/results.jsonl has a line for each photo, OUT/index.html shows them all. Ctrl-C lets the photos in flight end.

    Exit code: 0 all photos are fitted; 1 some photo could not be; 2 wrong usage, or the disk is full; 130 interrupted.
    """
    fitting.check()
    options = _batch_options(fitting, parts, landmarks_files)
    from fit3d.batch.prepare import prepare
    from fit3d.batch.run import preview

    asked, shared_out = asked_photos(photos, selection, running), running.workers_of()
    console = Console(quiet=quiet, as_json=as_json)
    with console.counting() as tell:
        prepared = prepare(asked, out, options, tell)
    tell_prepared(prepared, console)
    if dry_run:
        with console.counting() as tell:
            run = preview(prepared.call, tell)
        warn_of(run, console)
        tell_plan(run.plan, console)
        return 0
    engine = running.engine_of(shared_out)
    with opened_for(prepared.call, console) as run:
        return _do(run, engine, console, report=not no_report and asked.shard is None)


def report_command(
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="Folder or URL that `fit3d batch` wrote.", show_default=False)
    ],
    quiet: QuietOption = False,
) -> int:
    """Write the report of a batch anew, OUT/index.html and OUT/results.parquet, from all its manifests."""
    from fit3d.batch.run import report
    from fit3d.batch.storages import storage_at

    storage = storage_at(out)
    count, note = report(storage)
    console = Console(quiet=quiet)
    if note is not None:
        console.warn(note)
    console.result(f"{storage.root.rstrip('/')}/index.html  {told_photos(count)}", {})
    return 0


def _batch_options(fitting: FitOptions, parts: str | None, landmarks_files: str | None) -> BatchOptions:
    face, export = parse_face(fitting.face), fitting.export()
    config = fitting.config("cpu", fitting.seed)  # imports torch; wrong words were told before
    from fit3d.batch.options import BatchOptions

    return BatchOptions(
        model=fitting.model,
        landmarks=fitting.landmarks,
        parser=fitting.parser,
        face=face,
        focal_px=fitting.focal,
        texture_size=fitting.texture_size,
        delight=fitting.delight,
        config=config,
        export=export,
        parts=parts,
        landmarks_files=landmarks_files,
    )


def _do(run: Run, engine: Engine, console: Console, report: bool) -> int:
    """Run, and tell of it. Returns the exit code."""
    counts = do_all(run, engine, console)
    if counts is None:
        return EXIT_INTERRUPTED
    note = run.write_report() if report else None
    if note is not None:
        console.note(note)
    _tell_end(run, counts, console, report)
    return exit_code(counts)


def _tell_end(run: Run, counts: Counter[Status], console: Console, report: bool) -> None:
    out = run.call.out.root.rstrip("/" + os.sep)
    files = [f"{out}/index.html"] if report else []
    line = f"{told_photos(counts.total())}: {told_counts(counts)}  {'  '.join([*files, f'{out}/{run.manifest}'])}"
    if not console.as_json:
        console.result(line, {})
    if run.call.shard is not None:
        console.note(f"once all {run.call.shard.count} shards are done, `fit3d report {out}` writes the report of all")
