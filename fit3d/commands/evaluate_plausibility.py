"""`fit3d evaluate plausibility`: whether fitted heads are people one could meet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fit3d.commands.console import failure_of_photo, table_row
from fit3d.commands.evaluate_options import BackendOptions, OutputOptions, SolvingOptions
from fit3d.commands.evaluate_record import Recorder
from fit3d.commands.options import DEFAULTS, LossOption, ModelOption, SheetOption, SolverOption, make_sheet_folder
from fit3d.commands.with_options import with_options

if TYPE_CHECKING:
    from fit3d.evaluate.plausibility import PlausibilityScore

_REGIONS = ("all", "eyes", "brows", "nose", "mouth", "contour")
_SHORT = {"contour": "cont."}


@with_options
def evaluate_plausibility_command(
    context: typer.Context,
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTO...", help="Photos, or folders of them.", show_default=False)
    ],
    observed: Annotated[
        Literal["labels", "parser"],
        typer.Option(
            "--observed",
            help="What says where the parts are: always the face parser, or a label image X_parts.png where one lies "
            "beside the photo X.png or X.jpg.",
        ),
    ] = "parser",
    model: ModelOption = "anny",
    loss: LossOption = DEFAULTS.loss,
    solver: SolverOption = DEFAULTS.solver,
    sheet: SheetOption = None,
    *,
    backends: BackendOptions,
    solving: SolvingOptions,
    output: OutputOptions,
) -> int:
    """Whether the fitted heads are people one could meet, photo by photo. The largest face of each photo counts.

    Columns: RMS and largest of the identity coefficients in standard deviations; RMS of left minus right expression;
    number of expression coefficients above 0.1; mean Part IoU with the parts that drove the fit, in percent; error of
    the model's own landmarks. Then the landmarks that the detector finds in a clay picture of the head, seen by the
    photo's camera, against those it found in the photo: over all (irises aside), eyes, brows, nose, mouth and contour.
    Landmark errors are mean distances in percent of the diagonal of the landmarks' box.

    Exit code: 0 all photos fitted; 1 some photo could not be fitted; 2 wrong usage.

    Detector and parser are the embedded ones unless others are asked for, so that figures do not depend on which
    weights are there.
    """
    backends.check()
    recorder = Recorder(context)
    config = solving.config(loss, solver)
    from fit3d.evaluate.plausibility import (
        average_plausibility,
        judge_photo,
        photos_of,
        plausibility_sheet,
        worst_plausibility,
    )
    from fit3d.evaluate.record import Data
    from fit3d.export.files import output_folder, write_image
    from fit3d.morphable.registry import load_model

    pairs = photos_of(photos, observed)
    face_model = load_model(model)
    make_sheet_folder(sheet)
    console = output.console()
    scores: list[PlausibilityScore] = []
    failures: dict[str, str] = {}
    used = set[str]()
    if not output.as_json:
        names = ["id", "|id|", "asym", "expr", "IoU", "lmk", *(_SHORT.get(name, name) for name in _REGIONS)]
        console.result(table_row("photo", names), {})
    with console.progress(len(pairs)):
        for pair in pairs:
            console.stage(pair.photo.name)
            try:
                score, sighting, fit, rendered = judge_photo(
                    pair, face_model, config, landmarks=backends.landmarks, parser=backends.parser
                )
            except Exception as error:
                message = failure_of_photo(error)[1]
                failures[str(pair.photo)] = message
                console.error(message if str(pair.photo) in message else f"{pair.photo}: {message}")
                continue
            finally:
                console.advance()
            scores.append(score)
            if not output.as_json:
                console.result(_score_row(score), {})
            if sheet is not None:
                picture = plausibility_sheet(sighting, face_model, fit, rendered, score)
                write_image(output_folder(sheet, pair.photo.stem, used).with_suffix(".png"), picture)
    found = sum(bool(score.render_nme) for score in scores)
    average, worst = (average_plausibility(scores), worst_plausibility(scores)) if scores else (None, None)
    if output.as_json:
        figures = {
            "photos": [vars(score) for score in scores],
            "failures": failures,
            "average": vars(average) if average else None,
            "worst": vars(worst) if worst else None,
            "faces_found_in_clay": found,
        }
        data = Data.of_files(
            photos[0].resolve().name if len(photos) == 1 else f"{len(pairs)} photos", [pair.photo for pair in pairs]
        )
        console.result("", recorder.record(data, figures, solving.device))
    elif average and worst:
        console.result(_score_row(average), {})
        console.result(_score_row(worst), {})
        console.result(f"face found in the clay of {found} of {len(scores)} heads", {})
    return 1 if failures else 0


def _score_row(score: PlausibilityScore) -> str:
    values = [score.part_iou, score.landmark_nme, *(score.render_nme.get(name, math.nan) for name in _REGIONS)]
    count = score.active_expressions
    cells = [f"{score.identity_rms:.2f}", f"{score.identity_max:.2f}", f"{score.asymmetry:.2f}"]
    cells += [f"{count:.0f}" if count == int(count) else f"{count:.1f}"]
    cells += [f"{100.0 * values[0]:.1f}" if math.isfinite(values[0]) else "-"]
    cells += [f"{100.0 * value:.2f}" if math.isfinite(value) else "-" for value in values[1:]]
    return table_row(score.photo, cells)
