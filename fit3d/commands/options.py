"""Options that several commands share: their types, their help and their checks."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast, get_args

import typer

from fit3d.checks import check_device
from fit3d.config import ExportConfig, FitConfig, Format, Loss, Overlay, Solver, Units, Up
from fit3d.errors import UsageError
from fit3d.observe.registry import AUTO, FACE_PARSERS, LANDMARK_DETECTORS, Kind, able, check_name

if TYPE_CHECKING:
    from fit3d.commands.console import Console
    from fit3d.sighting import FaceChoice

DEFAULTS = FitConfig()
EXPORT = ExportConfig()
FORMATS = ",".join(EXPORT.formats)
LANDMARKS_KIND: Kind = "landmark detector"
PARSER_KIND: Kind = "face parser"
MEASURED_LANDMARKS, MEASURED_PARSER = "mediapipe", "embedded"
"""What `fit3d evaluate` looks with unless told otherwise: the same on every machine, whichever weights are there."""

ModelOption = Annotated[str, typer.Option("--model", help="Face model, see `fit3d models list`.", metavar="NAME")]
LandmarksOption = Annotated[
    str,
    typer.Option(
        "--landmarks",
        metavar="|".join(LANDMARK_DETECTORS),
        help="Landmark detector; 'auto' takes the best one whose weights are there, see `fit3d doctor`.",
    ),
]
ParserOption = Annotated[
    str,
    typer.Option(
        "--parser",
        metavar="|".join(FACE_PARSERS),
        help="Face parser, which labels the photo's pixels; 'auto' takes the best one whose weights are there.",
    ),
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
    str, typer.Option("--device", help="torch device that computes: cpu, cuda, cuda:1, mps.", metavar="DEVICE")
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
DelightOption = Annotated[
    bool, typer.Option("--delight", help="Take the photo's light, as far as it changes slowly, out of the texture.")
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="|".join(get_args(Format)),
        help="Files to write, several with commas: OBJ with its material, rigged GLB, camera for COLMAP. Texture, "
        "overlay, parts and JSON are always written.",
    ),
]
UnitsOption = Annotated[Units, typer.Option("--units", help="Units of the OBJ; GLB has metres.")]
OverlayOption = Annotated[
    Overlay,
    typer.Option(
        "--overlay",
        help="Picture to judge the fit by: 'sheet' has all; the others draw one thing over the whole photo.",
    ),
]
UpOption = Annotated[Up, typer.Option("--up", help="Axis of the OBJ that points up; GLB has y.")]
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


def export_config(formats: str, units: Units, up: Up, overlay: Overlay) -> ExportConfig:
    """The files that the options ask for."""
    names = tuple(dict.fromkeys(name.strip() for name in formats.split(",")))
    known = get_args(Format)
    for name in names:
        if name not in known:
            raise UsageError(f"--format {formats}: expected one or more of {', '.join(known)}, with commas")
    for option, value, default in (("--units", units, EXPORT.units), ("--up", up, EXPORT.up)):
        if value != default and "obj" not in names:
            raise UsageError(f"{option} {value}: only an OBJ has a choice, and --format {formats} writes none")
    return ExportConfig(formats=cast(tuple[Format, ...], names), units=units, up=up, overlay=overlay)


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
    for option, kind, name, known in (
        ("--landmarks", LANDMARKS_KIND, landmarks, LANDMARK_DETECTORS),
        ("--parser", PARSER_KIND, parser, FACE_PARSERS),
    ):
        if name.partition(":")[0] not in known:
            raise UsageError(f"{option} {name}: expected one of {', '.join(known)}")
        try:
            check_name(kind, name)
        except UsageError as error:
            raise UsageError(f"{option}: {error}") from error


@dataclass(frozen=True)
class Backends:
    """Which backends the photos of a call are looked at with."""

    landmarks: str
    parser: str
    note: str
    """What 'auto' took, for people; empty where it was not asked."""


def choose_backends(
    landmarks: str, parser: str, console: Console, *, detects: bool = True, parses: bool = True
) -> Backends:
    """What the options name, with 'auto' replaced by what it takes now.

    Args:
        detects: whether any photo comes without landmarks.
        parses: whether any photo comes without labels.

    Raises:
        UsageError: a detector or parser that does not exist, or none can run.
    """
    check_backends(landmarks, parser)
    notes = []
    if detects:
        asked, landmarks = landmarks, _able(LANDMARKS_KIND, landmarks, console)
        notes += [f"landmarks by {landmarks}"] if asked == AUTO else []
    if parses:
        asked, parser = parser, _able(PARSER_KIND, parser, console)
        notes += [f"parts by {parser}"] if asked == AUTO else []
    note = f"{', '.join(notes)} (`fit3d doctor` says what else there is)" if notes else ""
    return Backends(landmarks, parser, note)


def _able(kind: Kind, name: str, console: Console) -> str:
    """The name itself, or what 'auto' takes; raises UsageError at once where it cannot run."""
    choice = able(kind, name)
    for warning in choice.warnings:
        console.warn(warning)
    return choice.name


def parse_face(text: str) -> FaceChoice:
    """'largest', 'all', the number of a face, 1 being the largest, or the place X,Y of a face, photo px."""
    named: dict[str, Literal["largest", "all"]] = {"largest": "largest", "all": "all"}
    if text in named:
        return named[text]
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text) >= 1:
        return int(text)
    if place := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]*)?),([0-9]{1,9}(?:\.[0-9]*)?)", text):
        return float(place[1]), float(place[2])
    raise UsageError(
        f"--face {text}: expected 'largest', 'all', a number from 1 (the largest face) on or a pixel X,Y of the photo"
    )
