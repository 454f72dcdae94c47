"""`fit3d fit`: one or more photos to fitted heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fit3d.commands.console import Console
from fit3d.commands.option_groups import FitOptions
from fit3d.commands.options import DEFAULTS, DeviceOption, JsonOption, QuietOption, choose_backends, parse_face
from fit3d.commands.photos import (
    Face,
    LandmarksFileOption,
    Look,
    OutOption,
    PartsOption,
    for_each_face,
    photo_jobs,
    warn_of_photo,
)
from fit3d.commands.with_options import with_options

if TYPE_CHECKING:
    from fit3d.reconstruction import Reconstruction
    from fit3d.saved import Saved


@with_options
def fit_command(
    photos: Annotated[
        list[Path],
        typer.Argument(metavar="PHOTO...", help="Photos to fit, of at most 200 megapixels.", show_default=False),
    ],
    out: OutOption,
    fitting: FitOptions,
    landmarks_file: LandmarksFileOption = None,
    parts: PartsOption = None,
    device: DeviceOption = DEFAULTS.device,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> int:
    """Fit a face model to photos and write mesh, texture, overlay and parameters of each.

    Exit code: 0 all done; 1 some photo could not be fitted (the others are done); 2 wrong usage; 130 interrupted.
    """
    fitting.check()
    choice, export = parse_face(fitting.face), fitting.export()
    jobs = photo_jobs(photos, out, parts, landmarks_file, "fit")
    config = fitting.config(device, fitting.seed)
    from fit3d import pipeline
    from fit3d.morphable.registry import load_model
    from fit3d.sighting import others_warning

    loaded = load_model(fitting.model)
    console = Console(quiet=quiet, as_json=as_json)
    taken = choose_backends(fitting.landmarks, fitting.parser, console, detects=not landmarks_file, parses=not parts)
    look = Look(taken.landmarks, taken.parser, choice, taken.note, config.device)

    def fit_face(face: Face, stage: Callable[[str], None]) -> None:
        reconstruction = pipeline.reconstruct(
            face.sighting,
            face=face.number,
            model=loaded,
            focal_px=fitting.focal,
            texture_size=fitting.texture_size,
            delight=fitting.delight,
            config=config,
            on_stage=stage,
        )
        for warning in others_warning(face.others, "fitted"):
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
