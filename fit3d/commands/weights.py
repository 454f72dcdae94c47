"""`fit3d weights`: the files that detectors and parsers need, getting them, and reading them again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fit3d.commands.console import Console
from fit3d.commands.options import QuietOption
from fit3d.errors import UsageError

if TYPE_CHECKING:
    from fit3d.observe.weights import Pulled, WeightFile

EXIT_DAMAGED = 1
EXIT_FAILED = 2

AsJsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per file and line.")]
_NAMES_HELP = "Backends, such as 'face-alignment' or 'facer:celebm', or files, see `fit3d weights list`."


def weights_list_command(as_json: AsJsonOption = False) -> None:
    """List every file of weights: which backend needs it, size, licence, address, and whether it is there."""
    from fit3d.observe import weights

    console = Console(as_json=as_json)
    for file in weights.FILES:
        console.result(_lines(file), _facts(file))


def weights_pull_command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help=_NAMES_HELP, show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All files that `fit3d weights list` shows.")] = False,
    from_folder: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            help="Copy the files, by their names, from this folder (a mirror, a USB stick) instead of downloading.",
            show_default=False,
        ),
    ] = None,
    quiet: QuietOption = False,
    as_json: AsJsonOption = False,
) -> int:
    """Download weights to where their packages look for them, or copy them there.

    Files that are there and right stay, damaged ones are replaced. An interrupted download goes on where it stopped.
    What comes is checked before it takes its place. Where one file fails, the others come all the same.

    Exit code: 0 all are there; 2 some failed, which are named at the end, or wrong usage.
    """
    from fit3d.observe import weights

    if bool(names) == everything:
        raise UsageError("give the names of backends or files, or --all; see `fit3d weights list`")
    wanted = [file.name for file in weights.FILES] if everything else list(names or [])
    console = Console(quiet=quiet, as_json=as_json)
    count = len({file for name in wanted for file in weights.files_of(name)})

    def on_bytes(file: WeightFile, so_far: int) -> None:
        console.stage(f"{file.name}  {so_far / 1e6:.1f} of {_size(file)}")

    problems: list[str] = []

    def on_file(pulled: Pulled) -> None:
        said = {"there": "was there"}.get(pulled.outcome, pulled.outcome)
        facts = _facts(pulled.file)
        record = facts | {"outcome": pulled.outcome, "problem": pulled.problem}
        console.result(f"{said:10} {facts['path']}", record)
        if pulled.outcome == "failed":
            problems.append(pulled.problem)
        elif pulled.outcome != "there":
            console.note(f"{pulled.file.name}: {pulled.file.licence}")
        console.advance()

    with console.progress(count):
        try:
            weights.pull(wanted, from_folder, on_bytes, on_file)
        except UsageError:
            if not problems:  # nothing was begun
                raise
    unreached = [problem for problem in problems if weights.is_of_connection(problem)]
    for problem in problems:
        hint = f"; without internet: fit3d weights pull {' '.join(names or ['--all'])} --from FOLDER"
        console.error(problem + (hint if problem in unreached[-1:] else ""))
    return EXIT_FAILED if problems else 0


def weights_verify_command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help=f"{_NAMES_HELP} Default: all.", show_default=False)
    ] = None,
    quiet: QuietOption = False,
    as_json: AsJsonOption = False,
) -> int:
    """Read the weights that are there from end to end and compare them with their checksums.

    Exit code: 0 none is damaged (missing ones are no damage); 1 some are; 2 wrong usage.
    """
    from fit3d.observe import weights

    console = Console(quiet=quiet, as_json=as_json)
    damaged = 0
    for finding in weights.verify(names or None):
        file = finding.file
        console.result(
            f"{finding.state:10} {file.name}{_how_sure(file) if finding.state == 'present' else ''}",
            _facts(file) | {"present": finding.state == "present", "state": finding.state, "problem": finding.problem},
        )
        if finding.state == "damaged":
            damaged += 1
            console.error(f"{finding.problem} ({file.path}); run: fit3d weights pull {file.name}")
    return EXIT_DAMAGED if damaged else 0


def _facts(file: WeightFile) -> dict[str, Any]:
    """What there is to say of a file, ready for JSON; None for what is not published."""
    from fit3d.observe import weights

    state = weights.state_of(file)
    return {
        "file": file.name,
        "backends": list(file.backends),
        "present": state == "present",
        "state": state,
        "size": file.size,
        "about_mb": file.about_mb,
        "sha256": file.sha256,
        "licence": file.licence,
        "address": file.address,
        "path": str(file.path),
    }


def _lines(file: WeightFile) -> str:
    """The lines of one file in the list."""
    from fit3d.observe import weights

    state = weights.state_of(file)
    where = f"in {file.path.parent}" if state != "missing" else f"get it: fit3d weights pull {file.backends[0]}"
    lines = [
        f"{file.name}",
        f"{state}, {_size(file)}, for {_users(file)}",
        where,
        file.licence,
        f"from {file.address}{_how_sure(file)}",
    ]
    return "\n    ".join(lines)


def _users(file: WeightFile) -> str:
    """The backends that need it, in words."""
    variants: dict[str, list[str]] = {}
    for backend in file.backends:
        name, _, variant = backend.partition(":")
        variants.setdefault(name, []).append(variant)
    words = [f"{name} ({', '.join(known)})" if any(known) else name for name, known in variants.items()]
    return ", ".join(words).replace("mediapipe", "mediapipe 1.0 and later (up to 0.10.21 they are in the package)")


def _size(file: WeightFile) -> str:
    return f"{file.about_mb:g} MB"


def _how_sure(file: WeightFile) -> str:
    """Which checksum the file is checked against, where that is not a whole one."""
    if file.sha256 is None:
        return " (checksum not published)"
    return "" if len(file.sha256) == 64 else f" (of its SHA-256 the first {len(file.sha256)} digits are published)"
