"""Options that several commands share: their types, their help and their checks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fit3d.checks import check_device
from fit3d.config import FitConfig, Loss, Solver
from fit3d.errors import UsageError
from fit3d.observe.registry import FACE_PARSERS, LANDMARK_DETECTORS

if TYPE_CHECKING:
    from fit3d.pipeline import FaceChoice

DEFAULTS = FitConfig()

ModelOption = Annotated[str, typer.Option("--model", help="Face model, see `fit3d models list`.", metavar="NAME")]
LandmarksOption = Annotated[
    str, typer.Option("--landmarks", metavar="|".join(LANDMARK_DETECTORS), help="Landmark detector.")
]
ParserOption = Annotated[
    str,
    typer.Option("--parser", metavar="|".join(FACE_PARSERS), help="Face parser, which labels the photo's pixels."),
]
LossOption = Annotated[
    Loss,
    typer.Option(
        "--loss",
        help="'prdl' compares facial parts (Part Re-projection Distance Loss) and landmarks; 'prdl+icp' matches the "
        "parts' outlines too; 'landmarks' looks at them alone; the others are what PRDL is measured against.",
    ),
]
SolverOption = Annotated[
    Solver,
    typer.Option(
        "--solver", help="'lm' is Levenberg-Marquardt, 'adam' the slow reference, for --loss prdl or landmarks."
    ),
]
AnchorsOption = Annotated[
    int, typer.Option("--anchors", min=2, max=224, help="Anchor points along each side of the face crop.")
]
IterationsOption = Annotated[
    int,
    typer.Option(
        "--iterations", min=1, help="Most evaluations of the energy with parts (Adam takes 20 times as many steps)."
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of random draws.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="torch device of the fit: cpu, cuda, cuda:1, mps.", metavar="DEVICE")
]
FocalOption = Annotated[
    float | None,
    typer.Option(
        "--focal",
        help="Focal length in pixels of the photo. Default: from EXIF, else fitted, near a field of view of "
        f"{DEFAULTS.focal.default_fov_deg:g} degrees along the longer side.",
        show_default=False,
        metavar="PX",
    ),
]
SheetOption = Annotated[
    Path | None,
    typer.Option("--sheet", metavar="FOLDER", help="Write a picture of each fit to this folder.", show_default=False),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON lines on stdout: one object per face or failed photo.")
]


def fit_config(
    *,
    loss: Loss,
    solver: Solver,
    anchors: int,
    iterations: int,
    seed: int = DEFAULTS.seed,
    device: str = DEFAULTS.device,
) -> FitConfig:
    """The configuration that the options ask for, its device checked, torch set up for it."""
    check_device(device, "--device")
    import torch

    # One thread: sums come out the same on any number of cores, and the fit's many small operations gain little from
    # a second one but lose tenfold where another process wants the same cores.
    torch.set_num_threads(1)
    return replace(DEFAULTS, loss=loss, solver=solver, anchors=anchors, iterations=iterations, seed=seed, device=device)


def make_sheet_folder(sheet: Path | None) -> None:
    """Make the folder of `--sheet`, if it is asked for, before any work. Raises UsageError if that cannot be."""
    if sheet is None:
        return
    from fit3d.export.files import reason_of

    try:
        sheet.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--sheet {sheet}: cannot write to this folder: {reason_of(error)}") from error


def check_backends(landmarks: str, parser: str) -> None:
    """Raises UsageError for a detector or parser that does not exist."""
    for option, name, known in (
        ("--landmarks", landmarks, LANDMARK_DETECTORS),
        ("--parser", parser, FACE_PARSERS),
    ):
        if name not in known:
            raise UsageError(f"{option} {name}: expected one of {', '.join(known)}")


def parse_face(text: str) -> FaceChoice:
    """'largest', 'all' or the number of a face, 1 being the largest."""
    named: dict[str, Literal["largest", "all"]] = {"largest": "largest", "all": "all"}
    if text in named:
        return named[text]
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    raise UsageError(f"--face {text}: expected 'largest', 'all' or a number from 1 (the largest face) on")
