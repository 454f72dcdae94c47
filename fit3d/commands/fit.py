"""`fit3d fit`: one or more photos to fitted heads."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fit3d.checks import LARGEST_TEXTURE, SMALLEST_TEXTURE, check_focal
from fit3d.commands.console import Console, failure_of_photo
from fit3d.commands.options import (
    DEFAULTS,
    AnchorsOption,
    DeviceOption,
    FocalOption,
    IterationsOption,
    JsonOption,
    LandmarksOption,
    LossOption,
    ModelOption,
    ParserOption,
    QuietOption,
    SeedOption,
    SolverOption,
    check_backends,
    fit_config,
    parse_face,
)
from fit3d.config import TextureConfig
from fit3d.errors import UsageError

if TYPE_CHECKING:
    from fit3d.config import FitConfig
    from fit3d.morphable.model import MorphableModel
    from fit3d.pipeline import FaceChoice, Reconstruction, Saved


def fit_command(
    photos: Annotated[
        list[Path],
        typer.Argument(metavar="PHOTO...", help="Photos to fit, of at most 200 megapixels.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="OUT", help="Results go to OUT/<photo's name>/.", show_default=False),
    ],
    model: ModelOption = "anny",
    landmarks: LandmarksOption = "mediapipe",
    parser: ParserOption = "contours",
    parts: Annotated[
        list[Path] | None,
        typer.Option(
            "--parts",
            metavar="LABELS.png",
            help="Label image of the photo's size with the ids of fit3d, used instead of the parser; other faces in it "
            "are left out. "
            "With several photos give it once for each, in their order.",
            show_default=False,
        ),
    ] = None,
    face: Annotated[
        str, typer.Option("--face", metavar="largest|all|N", help="Which faces: N counts from 1, the largest.")
    ] = "largest",
    loss: LossOption = DEFAULTS.loss,
    solver: SolverOption = DEFAULTS.solver,
    anchors: AnchorsOption = DEFAULTS.anchors,
    iterations: IterationsOption = DEFAULTS.iterations,
    seed: SeedOption = DEFAULTS.seed,
    device: DeviceOption = DEFAULTS.device,
    focal: FocalOption = None,
    texture_size: Annotated[
        int,
        typer.Option(
            "--texture-size", min=SMALLEST_TEXTURE, max=LARGEST_TEXTURE, help="Side of the texture image in pixels."
        ),
    ] = TextureConfig.size,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> int:
    """Fit a face model to photos and write mesh, texture, overlay and parameters of each.

    Exit code: 0 all done; 1 some photo could not be fitted (the others are done); 2 wrong usage; 130 interrupted.
    """
    check_focal(focal, "--focal")
    check_backends(landmarks, parser)
    choice = parse_face(face)
    label_images = _label_images(photos, parts or [])
    config = fit_config(loss=loss, solver=solver, anchors=anchors, iterations=iterations, seed=seed, device=device)
    from fit3d.export.files import output_folder
    from fit3d.morphable.registry import load_model

    job = _Job(
        model=load_model(model),
        landmarks=landmarks,
        parser=parser,
        face=choice,
        focal_px=focal,
        texture_size=texture_size,
        config=config,
    )
    console = Console(quiet=quiet, as_json=as_json)
    with _output_folder(out), console.progress(len(photos)):
        failed, used = 0, set[str]()
        for photo, labels in zip(photos, label_images, strict=True):
            if not _fit_photo(photo, labels, output_folder(out, photo.stem, used), job, console):
                failed += 1
            console.advance()
    return 1 if failed else 0


@dataclass(frozen=True)
class _Job:
    """What is the same for every photo of the call."""

    model: MorphableModel
    landmarks: str
    parser: str
    face: FaceChoice
    focal_px: float | None
    texture_size: int
    config: FitConfig


def _fit_photo(photo: Path, labels: Path | None, folder: Path, job: _Job, console: Console) -> bool:
    """Fits the chosen faces of one photo and writes them to `folder`, or to `folder`-face1, `folder`-face2, ...

    Returns False where any could not be fitted, which is reported.
    """
    from fit3d import pipeline

    def stage(description: str) -> None:
        console.stage(f"{photo.name}: {description}")

    try:
        stage("looking")
        sighting = pipeline.look(photo, landmarks=job.landmarks, parser=job.parser, parts=labels)
        chosen = pipeline.choose_faces(sighting, job.face)
    except Exception as error:
        _report_failure(photo, None, error, console)
        return False

    fitted_all = True
    for face in chosen:
        number = face if job.face == "all" else None
        try:
            reconstruction = pipeline.reconstruct(
                sighting,
                face=face,
                model=job.model,
                focal_px=job.focal_px,
                texture_size=job.texture_size,
                config=job.config,
                on_stage=stage,
            )
            if job.face == "largest" and len(sighting.observations) > 1:
                reconstruction = reconstruction.with_warning(
                    f"{len(sighting.observations)} faces found, the largest was fitted; "
                    "--face all fits all, --face 2 the second largest"
                )
            stage("writing")
            saved = reconstruction.save(folder.parent, folder.name if number is None else f"{folder.name}-face{number}")
        except Exception as error:
            _report_failure(photo, number, error, console)
            fitted_all = False
        else:
            _report_success(photo, number, reconstruction, saved, console)
    return fitted_all


def _report_failure(photo: Path, number: int | None, error: Exception, console: Console) -> None:
    """Says that a photo, or its face `number`, could not be fitted; raises again what concerns the whole call."""
    where = str(photo) if number is None else f"{photo}, face {number}"
    status, message = failure_of_photo(error)
    console.error(message if str(photo) in message else f"{where}: {message}")
    if console.as_json:
        record: dict[str, Any] = {"photo": str(photo), "face": number, "status": status, "error": message}
        console.result("", record)


def _report_success(
    photo: Path, number: int | None, reconstruction: Reconstruction, saved: Saved, console: Console
) -> None:
    warnings = reconstruction.warnings
    for warning in warnings:
        console.warn(warning if str(photo) in warning else f"{photo}: {warning}")
    fit = reconstruction.fit
    mean = fit.part_iou["mean"]  # NaN where no part was seen
    overlap = f"{100.0 * mean:.1f} %" if math.isfinite(mean) else "-"
    console.result(
        f"{saved.folder}  Part IoU {overlap}  landmark error {100.0 * fit.landmark_nme:.1f} %"
        f"  {saved.timings_s['total']:.1f} s",
        {
            "photo": str(photo),
            "face": number,
            "status": "ok",
            "folder": str(saved.folder),
            "files": {kind: str(path) for kind, path in saved.files.items()},
            "part_iou": fit.part_iou,
            "landmark_nme": fit.landmark_nme,
            "iterations": fit.iterations,
            "stop_reason": fit.stop_reason,
            "timings_s": saved.timings_s,
            "warnings": list(warnings),
        },
    )


def _label_images(photos: Sequence[Path], parts: Sequence[Path]) -> list[Path | None]:
    """The label image of each photo."""
    if not parts:
        return [None] * len(photos)
    if len(parts) != len(photos):
        raise UsageError(
            f"--parts was given {len(parts)} times for {len(photos)} photos: expected once for each, in their order"
        )
    return list(parts)


@contextmanager
def _output_folder(out: Path) -> Iterator[None]:
    """Makes the folder OUT, checks before any work that it can be written to, and removes it if it stays empty.

    Raises:
        UsageError: it cannot be written to.
    """
    made: list[Path] = []
    try:
        missing = [folder for folder in (out, *out.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            made.append(folder)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        _remove_empty(made)
        from fit3d.export.files import reason_of

        raise UsageError(f"cannot write to the output folder {out}: {reason_of(error)}") from error
    try:
        yield
    finally:
        _remove_empty(made)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Removes those of `folders`, outermost first, that are empty."""
    for folder in reversed(folders):
        with suppress(OSError):  # not empty
            folder.rmdir()
