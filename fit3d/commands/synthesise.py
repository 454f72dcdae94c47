"""`fit3d synthesise`: photos with other expressions, with exact labels, for training."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fit3d.commands.console import Console
from fit3d.commands.evaluate_table import as_table
from fit3d.commands.folders import (
    EXIT_INTERRUPTED,
    EXIT_PHOTO_FAILED,
    RunOptions,
    SelectionOptions,
    asked_photos,
    do_all,
    exit_code,
    opened_for,
    tell_prepared,
    told_counts,
    told_photos,
)
from fit3d.commands.option_groups import FaceOptions
from fit3d.commands.options import JsonOption, QuietOption, SeedOption, parse_face
from fit3d.commands.photos import out_place
from fit3d.commands.with_options import with_options
from fit3d.errors import UsageError

if TYPE_CHECKING:
    from fit3d.batch.plan import Call
    from fit3d.batch.record import Status
    from fit3d.batch.run import Run
    from fit3d.synthesise.dataset import Finished

PER_PHOTO = 4
SHARDS_SIZE, SHARDS_MB = 1000, 256
"""Defaults; the same as those of `fit3d.synthesise`, which `--help` must not load."""


@with_options
def synthesise_command(
    photos: Annotated[
        str,
        typer.Argument(
            metavar="PHOTO|FOLDER|@LIST|-",
            help="A photo; or a folder of photos, its folders included: path or URL (s3://...); or @LIST, a file of "
            "paths of photos, one a line or ended by NULs; - reads the list from standard input.",
            show_default=False,
        ),
    ],
    fitting: FaceOptions,
    selection: SelectionOptions,
    running: RunOptions,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            parser=out_place,
            help="Folder or URL of the data set: edits of FOLDER/a/b.jpg go to OUT/a/b/. Only --preview does without.",
            show_default=False,
        ),
    ] = None,
    expressions: Annotated[
        str,
        typer.Option(
            "--expressions",
            metavar="NAMES",
            help="Recipes or groups of recipes, with commas: eye_close, frown, mouth_open, ugly_mouth, mouth_eye, "
            "nose, all; ARKit's expressions such as jawOpen; those of --recipes. Default: all of --recipes, else all.",
            show_default=False,
        ),
    ] = "",
    recipes: Annotated[
        Path | None,
        typer.Option("--recipes", metavar="FILE.yaml", help="Recipes of your own.", show_default=False),
    ] = None,
    per_photo: Annotated[int, typer.Option("--per-photo", min=1, help="Edits of each photo.")] = PER_PHOTO,
    seed: SeedOption = 0,
    image_format: Annotated[
        Literal["jpg", "png"], typer.Option("--format", help="Of the images: JPEG of quality 95, or PNG.")
    ] = "jpg",
    keep_rejected: Annotated[
        bool,
        typer.Option("--keep-rejected", help="Write edits that were not confirmed, too, to OUT/rejected/."),
    ] = False,
    webdataset: Annotated[
        bool, typer.Option("--webdataset", help="Write the confirmed edits to OUT/shards/ as tars for training, too.")
    ] = False,
    shards_size: Annotated[int, typer.Option("--shards-size", min=1, help="Most samples of a tar.")] = SHARDS_SIZE,
    shards_mb: Annotated[
        int, typer.Option("--shards-mb", min=1, help="Most megabytes (2^20 bytes) of a tar.")
    ] = SHARDS_MB,
    preview: Annotated[
        Path | None,
        typer.Option(
            "--preview",
            metavar="FILE",
            help="Write a sheet (PNG or JPEG) of each recipe on the photo, or on a few of the folder; without -o "
            "nothing else is done.",
            show_default=False,
        ),
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> int:
    """Give photos other expressions, with exact labels and landmarks; the same command again does only what is missing.

    Each photo is fitted once and edited by recipes that are drawn for it. An edit in which landmark detector and face
    parser do not see what is written about it is dropped and counted. OUT/edits.jsonl has a line for each edit,
    OUT/summary.json the counts. Ctrl-C lets the photos in flight end.

    Exit code: 0 all photos were edited; 1 some photo could not be; 2 wrong usage, or the disk is full; 130 interrupted.
    """
    fitting.check()
    if out is None and preview is None:
        raise UsageError("say where the data set goes (-o OUT), or where a sheet of a few photos goes (--preview FILE)")
    if preview is not None and preview.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--preview {preview}: expected a name that ends in .png or .jpg")
    config = fitting.config("cpu")  # imports torch; wrong words were told before
    from fit3d.synthesise.library import prepare_synthesis
    from fit3d.synthesise.options import SynthesisOptions, chosen_recipes
    from fit3d.synthesise.recipe_file import read_recipes

    own = () if recipes is None else read_recipes(recipes)
    options = SynthesisOptions(
        model=fitting.model,
        landmarks=fitting.landmarks,
        parser=fitting.parser,
        face=parse_face(fitting.face),
        focal_px=fitting.focal,
        config=config,
        recipes=chosen_recipes([name.strip() for name in expressions.split(",") if name.strip()], own),
        per_photo=per_photo,
        seed=seed,
        image_format=image_format,
        keep_rejected=keep_rejected,
    )
    asked, workers = asked_photos(photos, selection, running), running.workers_of()
    console = Console(quiet=quiet, as_json=as_json)
    with tempfile.TemporaryDirectory() as unused, console.counting() as tell:
        prepared = prepare_synthesis(asked, unused if out is None else out, options, tell)
    tell_prepared(prepared, console)
    if preview is not None:
        code = _preview(prepared.call, preview, workers.devices[0], console)
        if out is None:
            return code
    engine = running.engine_of(workers)
    with opened_for(prepared.call, console) as run:
        counts = do_all(run, engine, console)
        if counts is None:
            return EXIT_INTERRUPTED
        if asked.shard is None:
            _finish(run, counts, console, shards_size if webdataset else None, shards_mb * 1024 * 1024)
        else:
            console.note(
                f"once all {asked.shard.count} shares are done, the same command without --shard writes what OUT has "
                "of all"
            )
        return exit_code(counts)


def _preview(call: Call, path: Path, device: str, console: Console) -> int:
    """Write the sheet. Returns the exit code."""
    from fit3d.export.files import write_image
    from fit3d.synthesise.preview import PHOTOS, preview_sheet

    failed = 0

    def on_failure(message: str) -> None:
        nonlocal failed
        failed += 1
        console.error(message)
        console.advance(failed=True)

    with console.progress(min(PHOTOS, len(call.listing.entries))):
        sheet = preview_sheet(call, device, lambda photo: console.advance(), on_failure)
    if sheet is not None:
        write_image(path, sheet)
        height, width = sheet.shape[:2]
        console.result(str(path), {"preview": str(path), "width": width, "height": height})
    return EXIT_PHOTO_FAILED if failed else 0


def _finish(run: Run, counts: Counter[Status], console: Console, shard_samples: int | None, shard_bytes: int) -> None:
    """Write what the data set has beside its images, and say what came of it."""
    from fit3d.morphable.registry import load_model
    from fit3d.synthesise.dataset import finish
    from fit3d.synthesise.options import SynthesisOptions

    options = run.call.options
    assert isinstance(options, SynthesisOptions)
    licence = load_model(options.model).licence
    finished = finish(run.call.out, options, licence, shard_samples, shard_bytes)
    if finished.note is not None:
        console.note(finished.note)
    _tell_end(run, counts, console, finished, licence)


def _tell_end(run: Run, counts: Counter[Status], console: Console, finished: Finished, licence: str) -> None:
    from fit3d.synthesise.summary import HEADERS

    out, shards = run.call.out.root.rstrip("/" + os.sep), finished.shards
    lines = [as_table(HEADERS, finished.summary.rows())]
    if shards is not None:
        lines.append(
            f"shards: {shards.count} with {shards.samples} samples, {shards.made} of them made now  {out}/shards/"
        )
    lines.append(f"{told_photos(counts.total())}: {told_counts(counts)}  {out}/edits.jsonl  {out}/summary.json")
    data = finished.summary.to_json()
    if shards is not None:
        data["shards"] = {"count": shards.count, "samples": shards.samples, "made": shards.made}
    console.result("\n".join(lines), {"summary": data})
    console.note(f"licence of {run.call.options.model}: {licence}")
