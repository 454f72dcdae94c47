"""`fit3d evaluate`: how good fits are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fit3d.commands.console import Console, failure_of_photo, table_row
from fit3d.commands.options import (
    DEFAULTS,
    MEASURED_LANDMARKS,
    MEASURED_PARSER,
    AnchorsOption,
    DeviceOption,
    IterationsOption,
    LandmarksOption,
    LossOption,
    ModelOption,
    ParserOption,
    QuietOption,
    SheetOption,
    SolverOption,
    check_backends,
    fit_config,
    make_sheet_folder,
)
from fit3d.labels import IOU_PARTS, PART_NAMES, SKIN

if TYPE_CHECKING:
    from fit3d.evaluate.parts import PartScore

PART_COLUMNS = ("mean", *(PART_NAMES[label] for label in (*IOU_PARTS, SKIN)))
SHORT_NAMES = {
    "right_eye": "r eye",
    "left_eye": "l eye",
    "right_eyebrow": "r brow",
    "left_eyebrow": "l brow",
    "upper_lip": "u lip",
    "lower_lip": "l lip",
}


def evaluate_parts_command(
    folder: Annotated[
        Path, typer.Argument(help="Photos X.png or X.jpg with label images X_parts.png.", show_default=False)
    ],
    observed: Annotated[
        Literal["labels", "parser"],
        typer.Option(
            "--observed", help="What drives the fit: the people's labels (as `fit --parts`) or the face parser."
        ),
    ] = "labels",
    model: ModelOption = "anny",
    landmarks: LandmarksOption = MEASURED_LANDMARKS,
    parser: ParserOption = MEASURED_PARSER,
    loss: LossOption = DEFAULTS.loss,
    solver: SolverOption = DEFAULTS.solver,
    anchors: AnchorsOption = DEFAULTS.anchors,
    iterations: IterationsOption = DEFAULTS.iterations,
    device: DeviceOption = DEFAULTS.device,
    sheet: SheetOption = None,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Overlap (Part IoU, percent) of fitted parts with labels that people drew, photo by photo.

    The mean is over eyes, brows, nose and lips; skin stands beside it. Also shown: landmark error in percent of the
    diagonal of the landmarks' box, RMS of the identity coefficients, RMS of left minus right expression, fit seconds.

    Exit code: 0 all photos fitted; 1 some photo could not be fitted; 2 wrong usage.

    Detector and parser are the embedded ones unless others are asked for, so that figures do not depend on which
    weights are there.
    """
    check_backends(landmarks, parser)
    config = fit_config(loss=loss, solver=solver, anchors=anchors, iterations=iterations, device=device)
    import numpy as np

    from fit3d.evaluate.parts import average_score, contact_sheet, labelled_photos, score_photo
    from fit3d.export.files import write_image
    from fit3d.morphable.registry import load_model
    from fit3d.observe.label_image import read_label_image

    pairs = labelled_photos(folder)
    face_model = load_model(model)
    make_sheet_folder(sheet)
    console = Console(quiet=quiet, as_json=as_json)
    scores: list[PartScore] = []
    failures: dict[str, str] = {}
    if not as_json:
        console.result(
            table_row("photo", [SHORT_NAMES.get(name, name) for name in PART_COLUMNS] + ["lmk", "id", "asym", "s"]), {}
        )
    with console.progress(len(pairs)):
        for pair in pairs:
            console.stage(pair.photo.name)
            try:
                score, sighting, fit = score_photo(
                    pair, face_model, config, observed=observed, landmarks=landmarks, parser=parser
                )
            except Exception as error:
                failures[pair.photo.name] = failure_of_photo(error)[1]
                console.error(f"{pair.photo.name}: {failures[pair.photo.name]}")
                continue
            finally:
                console.advance()
            scores.append(score)
            if not as_json:
                console.result(_score_row(score), {})
            if sheet is not None:
                labels = read_label_image(pair.labels, sighting.photo)
                picture = contact_sheet(sighting, labels, face_model, fit)
                write_image(sheet / f"{pair.photo.stem}.png", np.asarray(picture))
    average = average_score(scores) if scores else None
    if as_json:
        report = {
            "photos": [vars(score) for score in scores],
            "failures": failures,
            "average": vars(average) if average else None,
            "identity_rms_max": max((score.identity_rms for score in scores), default=None),
        }
        console.result("", report)
    elif average:
        console.result(_score_row(average), {})
    return 1 if failures else 0


def _score_row(score: PartScore) -> str:
    overlap = [score.part_iou.get(name, math.nan) for name in PART_COLUMNS]
    cells = [f"{100.0 * value:.1f}" if math.isfinite(value) else "-" for value in overlap]
    cells += [f"{100.0 * score.landmark_nme:.1f}", f"{score.identity_rms:.2f}"]
    return table_row(score.photo, [*cells, f"{score.asymmetry:.2f}", f"{score.fit_s:.2f}"])
