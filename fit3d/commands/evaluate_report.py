"""`fit3d evaluate report`: the page of results."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fit3d.commands.console import Console, table_row
from fit3d.commands.options import QuietOption
from fit3d.errors import UsageError

if TYPE_CHECKING:
    from fit3d.evaluate.report import RecordedRun

_FOLDERS = {"{labelled}": "FOLDER", "{photos}": "PHOTOS"}
"""As people read them."""


def evaluate_report_command(
    records: Annotated[
        Path, typer.Option("--records", metavar="DIR", help="Recorded runs NAME.json and the template of the page.")
    ] = Path("docs/results"),
    out: Annotated[Path, typer.Option("-o", "--out", metavar="PAGE.md", help="The page.")] = Path("docs/results.md"),
    run: Annotated[bool, typer.Option("--run", help="First measure anew, which takes long; see --list.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="With --run: this run; may be given again.", show_default=False),
    ] = None,
    labelled: Annotated[
        Path | None,
        typer.Option("--labelled", metavar="DIR", help="With --run: photos that people labelled.", show_default=False),
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option("--photos", metavar="DIR", help="With --run: photos without labels.", show_default=False),
    ] = None,
    list_runs: Annotated[
        bool, typer.Option("--list", help="Only say which runs there are, and how many minutes each takes.")
    ] = False,
    quiet: QuietOption = False,
) -> int:
    """Write the page of results from recorded runs; with --run, record them anew first.

    A run is one command of `fit3d evaluate`, and its record what that prints with --json: figures, the command, data
    with their digest, versions, hardware.

    Exit code: 0 written; 1 some run failed, whose earlier record stays; 2 wrong usage.
    """
    from fit3d.evaluate.report import chosen_runs, render
    from fit3d.export.files import write_text

    console = Console(quiet=quiet)
    chosen = chosen_runs(only or [])
    if list_runs:
        for each in chosen:
            typed = " ".join(_FOLDERS.get(word, word) for word in each.arguments)
            console.result(f"{each.minutes:5.1f} min  {each.name:22} fit3d evaluate {typed}", {})
        return 0
    if not run and (only or labelled or photos):
        raise UsageError("--only, --labelled and --photos are for --run, which is missing")
    failed = _record_all(chosen, records, labelled, photos, console) if run else []
    write_text(out, render(records))
    console.result(str(out), {})
    return 1 if failed else 0


def _record_all(
    runs: Sequence[RecordedRun], folder: Path, labelled: Path | None, photos: Path | None, console: Console
) -> list[str]:
    """Run each in a process of its own; returns the names of those that failed."""
    from fit3d.evaluate.report import LABELLED, PHOTOS

    for option, mark, given in (("--labelled", LABELLED, labelled), ("--photos", PHOTOS, photos)):
        if given is None and (needing := [run.name for run in runs if mark in run.arguments]):
            raise UsageError(f"{option} is missing, which {', '.join(needing)} need; --only leaves them out")
    failed = []
    with console.progress(len(runs)):
        for run in runs:
            console.stage(f"{run.name}, about {run.minutes:g} min")
            places = {LABELLED: str(labelled), PHOTOS: str(photos)}
            reason = _record(run, [places.get(word, word) for word in run.arguments], folder)
            console.advance()
            if reason:
                failed.append(run.name)
                console.error(f"{run.name}: {reason}")
            else:
                console.result(table_row(run.name, ["recorded"]), {})
    return failed


def _record(run: RecordedRun, arguments: Sequence[str], folder: Path) -> str:
    """Run a command and keep its record. Returns why that could not be, or ''."""
    from fit3d.evaluate.record import as_text
    from fit3d.evaluate.report import parse_record
    from fit3d.export.files import write_text

    command = [sys.executable, "-m", "fit3d", "evaluate", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        found = parse_record(done.stdout, run.name)
    except UsageError:
        said = done.stderr.strip().splitlines()
        return (said[-1] if said else f"ended with {done.returncode}").removeprefix("error: ")
    write_text(folder / f"{run.name}.json", as_text(found))
    return ""
