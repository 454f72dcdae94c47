"""`fit3d fit`: one or more photos to fitted heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fit3d.checks import LARGEST_TEXTURE, SMALLEST_TEXTURE, check_focal
from fit3d.commands.console import Console
from fit3d.commands.options import (
    DEFAULTS,
    EXPORT,
    FORMATS,
    AnchorsOption,
    DelightOption,
    DeviceOption,
    FocalOption,
    FormatOption,
    IterationsOption,
    JsonOption,
    LandmarksOption,
    LossOption,
    ModelOption,
    OverlayOption,
    ParserOption,
    QuietOption,
    SeedOption,
    SolverOption,
    UnitsOption,
    UpOption,
    check_backends,
    choose_backends,
    export_config,
    fit_config,
    parse_face,
)
from fit3d.commands.photos import (
    Face,
    FaceOption,
    LandmarksFileOption,
    Look,
    OutOption,
    PartsOption,
    for_each_face,
    others_warning,
    photo_jobs,
    warn_of_photo,
)
from fit3d.config import TextureConfig
from fit3d.observe.registry import AUTO

if TYPE_CHECKING:
    from fit3d.pipeline import Reconstruction, Saved


def fit_command(
    photos: Annotated[
        list[Path],
        typer.Argument(metavar="PHOTO...", help="Photos to fit, of at most 200 megapixels.", show_default=False),
    ],
    out: OutOption,
    model: ModelOption = "anny",
    landmarks: LandmarksOption = AUTO,
    parser: ParserOption = AUTO,
    landmarks_file: LandmarksFileOption = None,
    parts: PartsOption = None,
    face: FaceOption = "largest",
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
    delight: DelightOption = TextureConfig.delight,
    formats: FormatOption = FORMATS,
    units: UnitsOption = EXPORT.units,
    up: UpOption = EXPORT.up,
    overlay: OverlayOption = EXPORT.overlay,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> int:
    """Fit a face model to photos and write mesh, texture, overlay and parameters of each.

    Exit code: 0 all done; 1 some photo could not be fitted (the others are done); 2 wrong usage; 130 interrupted.
    """
    check_focal(focal, "--focal")
    check_backends(landmarks, parser)
    choice = parse_face(face)
    export = export_config(formats, units, up, overlay)
    jobs = photo_jobs(photos, out, parts, landmarks_file, "fit")
    config = fit_config(loss=loss, solver=solver, anchors=anchors, iterations=iterations, seed=seed, device=device)
    from fit3d import pipeline
    from fit3d.morphable.registry import load_model

    loaded = load_model(model)
    console = Console(quiet=quiet, as_json=as_json)
    taken = choose_backends(landmarks, parser, console, detects=not landmarks_file, parses=not parts)
    look = Look(taken.landmarks, taken.parser, choice, taken.note, config.device)

    def fit_face(face: Face, stage: Callable[[str], None]) -> None:
        reconstruction = pipeline.reconstruct(
            face.sighting,
            face=face.number,
            model=loaded,
            focal_px=focal,
            texture_size=texture_size,
            delight=delight,
            config=config,
            on_stage=stage,
        )
        for warning in others_warning(face, "fitted"):
            reconstruction = reconstruction.with_warning(warning)
        stage("writing")
        saved = reconstruction.save(face.folder.parent, face.folder.name, export)
        _report(face, reconstruction, saved, console)

    return for_each_face(jobs, out, look, console, fit_face)


def _report(face: Face, reconstruction: Reconstruction, saved: Saved, console: Console) -> None:
    warn_of_photo(face.job.photo, reconstruction.warnings, console)
    fit = reconstruction.fit
    mean = fit.part_iou["mean"]  # NaN where no part was seen
    overlap = f"{100.0 * mean:.1f} %" if math.isfinite(mean) else "-"
    console.result(
        f"{saved.folder}  Part IoU {overlap}  landmark error {100.0 * fit.landmark_nme:.1f} %"
        f"  {saved.timings_s['total']:.1f} s",
        {
            "photo": str(face.job.photo),
            "face": face.told,
            "status": fit.status,
            "folder": str(saved.folder),
            "files": {kind: str(path) for kind, path in saved.files.items()},
            "landmark_backend": reconstruction.observation.landmarks.backend.name,
            "parser_backend": reconstruction.observation.parser.name,
            "part_iou": fit.part_iou,
            "landmark_nme": fit.landmark_nme,
            "iterations": fit.iterations,
            "stop_reason": fit.stop_reason,
            "timings_s": saved.timings_s,
            "warnings": list(reconstruction.warnings),
        },
    )
