"""`fit3d evaluate parts`: how well fitted parts cover those that people drew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fit3d.commands.console import Console, failure_of_photo
from fit3d.commands.evaluate_options import (
    BackendOptions,
    LabelledFolder,
    Labels,
    LabelsOption,
    OutputOptions,
    SolvingOptions,
)
from fit3d.commands.evaluate_record import Recorder
from fit3d.commands.evaluate_table import MarkdownTable, number, percent
from fit3d.commands.options import DEFAULTS, LossOption, ModelOption, SheetOption, SolverOption, make_sheet_folder
from fit3d.commands.with_options import with_options
from fit3d.errors import UsageError
from fit3d.labels import IOU_PARTS, PART_NAMES, SKIN

if TYPE_CHECKING:
    from fit3d.evaluate.label_files import LabelledPhoto
    from fit3d.evaluate.parts import PartScore
    from fit3d.evaluate.scoring import Scored

PART_COLUMNS = ("mean", *(PART_NAMES[label] for label in (*IOU_PARTS, SKIN)))
SHORT_NAMES = {
    "right_eye": "r eye",
    "left_eye": "l eye",
    "right_eyebrow": "r brow",
    "left_eyebrow": "l brow",
    "upper_lip": "u lip",
    "lower_lip": "l lip",
}
_HEADERS = {"landmark_nme": "lmk", "identity_rms": "id", "asymmetry": "asym", "fit_s": "s"}
_FITTED = tuple(_HEADERS)
"""Figures that only fits have."""


@with_options
def evaluate_parts_command(
    context: typer.Context,
    folder: LabelledFolder,
    labels: LabelsOption = "auto",
    protocol: Annotated[
        Literal["labels", "paper"],
        typer.Option(
            "--protocol",
            help="'labels' compares the fitted model's own parts; 'paper' draws the fitted head, lets detector and "
            "parser look at the picture, and compares what they see in it.",
        ),
    ] = "labels",
    against: Annotated[
        Literal["labels", "parser"] | None,
        typer.Option(
            "--against",
            help="With what: people's labels, or what the parser sees in the photo. Default: with --protocol paper the "
            "parser, as in the paper, else people.",
            show_default=False,
        ),
    ] = None,
    observed: Annotated[
        Literal["labels", "parser"] | None,
        typer.Option(
            "--observed",
            help="What drives the fit: the people's labels (as `fit --parts`) or the face parser. Default: what it is "
            "compared with.",
            show_default=False,
        ),
    ] = None,
    backdrop: Annotated[
        Literal["photo", "plain"],
        typer.Option("--backdrop", help="What is behind the head that --protocol paper draws: the photo or grey."),
    ] = "photo",
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="DIR",
            help="Fit nothing; score what lies in DIR for each photo X: results of `fit3d fit` or `batch`, label "
            "images X.png or X_parts.png of any tool, 3DDFA-V3's X.npy; with --protocol paper pictures X.png of the "
            "fits, as large as their photos.",
            show_default=False,
        ),
    ] = None,
    predicted_labels: Annotated[
        Labels, typer.Option("--predicted-labels", help="Which ids the label images in DIR have, as --labels.")
    ] = "auto",
    model: ModelOption = "anny",
    loss: LossOption = DEFAULTS.loss,
    solver: SolverOption = DEFAULTS.solver,
    sheet: SheetOption = None,
    *,
    backends: BackendOptions,
    solving: SolvingOptions,
    output: OutputOptions,
) -> int:
    """Overlap (Part IoU, percent) of fitted or otherwise predicted parts with labels that people drew, as a table in
    Markdown, photo by photo.

    The mean is over eyes, brows, nose and lips; skin stands beside it. Also shown for fits: landmark error in percent
    of the diagonal of the landmarks' box, RMS of the identity coefficients, RMS of left minus right expression, fit
    seconds. Last come the mean over the photos, its standard deviation and the photos with the lowest mean.

    Exit code: 0 all photos scored; 1 some photo could not be; 2 wrong usage.

    Detector and parser are the embedded ones unless others are asked for, so that figures do not depend on which
    weights are there.
    """
    backends.check()
    recorder = Recorder(context)
    if predictions is not None and not predictions.is_dir():
        raise UsageError(f"--predictions {predictions}: expected a folder")
    if predictions is None and predicted_labels != "auto":
        raise UsageError("--predicted-labels is for --predictions DIR, which is missing")
    config = solving.config(loss, solver)
    from fit3d.evaluate.label_files import digest_of, labelled_photos
    from fit3d.evaluate.record import Data
    from fit3d.evaluate.scoring import Scoring, sides_of
    from fit3d.morphable.registry import load_model

    pairs = labelled_photos(folder, labels)
    compared = against or ("parser" if protocol == "paper" else "labels")
    scoring = Scoring(backends.landmarks, backends.parser, protocol, compared, backdrop)
    console = output.console()
    if predictions is None:
        face_model = load_model(model)

        def score(pair: LabelledPhoto) -> Scored:
            return scoring.fitted(pair, face_model, config, observed or compared)
    else:
        found = predictions
        straight, crossed = sides_of(pairs, found, predicted_labels) if protocol == "labels" else (math.nan, math.nan)
        exchanged = crossed > straight
        if exchanged:
            overlaps = f"{percent(crossed)} % instead of {percent(straight)} %"
            console.warn(f"{found}: left and right are exchanged ({overlaps} overlap); taken the other way round")

        def score(pair: LabelledPhoto) -> Scored:
            return scoring.predicted(pair, found, predicted_labels, exchanged)

    make_sheet_folder(sheet)
    scores, failures = _score_all(pairs, score, _FITTED if predictions is None else (), sheet, console)
    if output.as_json:
        data = Data(folder.resolve().name, len(pairs), digest_of(pairs))
        console.result("", recorder.record(data, _figures(scores, failures), solving.device))
    return 1 if failures else 0


def _score_all(
    pairs: Sequence[LabelledPhoto],
    score: Callable[[LabelledPhoto], Scored],
    others: Sequence[str],
    sheet: Path | None,
    console: Console,
) -> tuple[list[PartScore], dict[str, str]]:
    """Scores, and why others have none, by photo; prints the table as it grows."""
    import numpy as np

    from fit3d.export.files import write_image

    columns = [SHORT_NAMES.get(name, name) for name in PART_COLUMNS] + [_HEADERS[name] for name in others]
    table = MarkdownTable(["photo", *columns], [max(len(pair.photo.name) for pair in pairs), *[6] * len(columns)])
    scores: list[PartScore] = []
    failures: dict[str, str] = {}
    if not console.as_json:
        console.result(table.head(), {})
    with console.progress(len(pairs)):
        for pair in pairs:
            console.stage(pair.photo.name)
            try:
                scored = score(pair)
            except Exception as error:
                failures[pair.photo.name] = message = failure_of_photo(error)[1]
                console.error(message if pair.photo.name in message else f"{pair.photo.name}: {message}")
                continue
            finally:
                console.advance()
            scores.append(scored.score)
            if not console.as_json:
                console.result(table.row(_cells(scored.score, others)), {})
            if sheet is not None:
                write_image(sheet / f"{pair.photo.stem}.png", np.asarray(scored.sheet()))
    if scores and not console.as_json:
        _say_summary(scores, others, table, sheet, console)
    return scores, failures


def _say_summary(
    scores: Sequence[PartScore], others: Sequence[str], table: MarkdownTable, sheet: Path | None, console: Console
) -> None:
    from dataclasses import replace

    from fit3d.evaluate.parts import average_score, spread_of, worst_of

    console.result(table.row(_cells(replace(average_score(scores), photo="mean"), others)), {})
    spread = [percent(spread_of(scores).get(name, math.nan)) for name in PART_COLUMNS]
    console.result(table.row(["sd", *spread, *[""] * len(others)]), {})
    worst = ", ".join(f"{score.photo} ({percent(score.part_iou['mean'])})" for score in worst_of(scores))
    pictures = f"; pictures of all are in {sheet}" if sheet is not None else ""
    console.result(f"\nLowest mean: {worst}{pictures}", {})


def _figures(scores: Sequence[PartScore], failures: dict[str, str]) -> dict[str, Any]:
    """What the JSON tells of the photos."""
    from fit3d.evaluate.parts import average_score, headline

    return {
        **(headline(scores) if scores else {"parts": {}, "mean": None, "skin": None}),
        "average": vars(average_score(scores)) if scores else None,
        "identity_rms_max": max((score.identity_rms for score in scores), default=None),
        "failures": failures,
        "photos": [vars(score) for score in scores],
    }


def _cells(score: PartScore, others: Sequence[str]) -> list[str]:
    cells = [score.photo, *(percent(score.part_iou.get(name, math.nan)) for name in PART_COLUMNS)]
    for name in others:
        value = getattr(score, name)
        cells.append(percent(value) if name == "landmark_nme" else number(value))
    return cells
