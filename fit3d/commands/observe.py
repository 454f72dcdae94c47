"""`fit3d observe`: what is found in photos, written so that it can be looked at and corrected by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fit3d.checks import check_device
from fit3d.commands.console import Console
from fit3d.commands.options import (
    DEFAULTS,
    DeviceOption,
    JsonOption,
    LandmarksOption,
    ParserOption,
    QuietOption,
    check_backends,
    choose_backends,
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
    photo_jobs,
    warn_of_photo,
)
from fit3d.observe.registry import AUTO


def observe_command(
    photos: Annotated[
        list[Path],
        typer.Argument(metavar="PHOTO...", help="Photos to look at, of at most 200 megapixels.", show_default=False),
    ],
    out: OutOption,
    landmarks: LandmarksOption = AUTO,
    parser: ParserOption = AUTO,
    landmarks_file: LandmarksFileOption = None,
    parts: PartsOption = None,
    face: FaceOption = "largest",
    device: DeviceOption = DEFAULTS.device,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> int:
    """Find landmarks and facial parts in photos and write both, and a picture of them, of each.

    Any of the files, corrected in a paint or annotation program, goes back in with `fit3d fit PHOTO --landmarks-file
    ... --parts ...`; docs/correcting.md says how.

    Exit code: 0 all done; 1 some photo shows no such face (the others are done); 2 wrong usage; 130 interrupted.
    """
    check_backends(landmarks, parser)
    check_device(device, "--device")
    choice = parse_face(face)
    jobs = photo_jobs(photos, out, parts, landmarks_file, "observation")
    console = Console(quiet=quiet, as_json=as_json)
    taken = choose_backends(landmarks, parser, console, detects=not landmarks_file, parses=not parts)
    look = Look(taken.landmarks, taken.parser, choice, taken.note, device)

    def save_face(face: Face, stage: Callable[[str], None]) -> None:
        import numpy as np

        from fit3d.sighting import others_warning

        observation = face.sighting.observations[face.number - 1]
        stage("writing")
        saved = face.sighting.save(face.folder.parent, face.folder.name, face.number)
        warnings = [*face.sighting.photo.warnings, *observation.warnings, *others_warning(face.others, "taken")]
        warn_of_photo(face.job.photo, warnings, console)
        found = observation.landmarks
        present = int(np.isfinite(found.points_px).all(1).sum())
        console.result(
            f"{saved.folder}  {present} of {len(found.points_px)} landmarks ({found.backend.name})"
            f"  parts ({observation.parser.name})  {saved.timings_s['total']:.1f} s",
            {
                "photo": str(face.job.photo),
                "face": face.told,
                "status": "ok",
                "folder": str(saved.folder),
                "files": {kind: str(path) for kind, path in saved.files.items()},
                "landmark_backend": found.backend.name,
                "landmark_layout": found.layout,
                "landmarks_present": present,
                "parser_backend": observation.parser.name,
                "face_box_px": list(found.box_px),
                "timings_s": saved.timings_s,
                "warnings": warnings,
            },
        )

    return for_each_face(jobs, out, look, console, save_face)
