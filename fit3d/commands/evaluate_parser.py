"""`fit3d evaluate parser`: how well a face parser agrees with people."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fit3d.commands.console import failure_of_photo, table_row
from fit3d.commands.evaluate import PART_COLUMNS, SHORT_NAMES
from fit3d.commands.evaluate_options import LabelledFolder, LabelsOption, OutputOptions
from fit3d.commands.evaluate_record import Recorder
from fit3d.commands.options import (
    MEASURED_LANDMARKS,
    LandmarksOption,
    ParserOption,
    SheetOption,
    check_backends,
    make_sheet_folder,
)
from fit3d.commands.with_options import with_options
from fit3d.errors import UsageError

if TYPE_CHECKING:
    from fit3d.evaluate.parser import Labelled, ParserScore

_EMBEDDED = "embedded"
_COLUMNS = (*PART_COLUMNS, "inner_mouth", "hair")
_SHORT_NAMES = SHORT_NAMES | {"inner_mouth": "mouth"}


@with_options
def evaluate_parser_command(
    context: typer.Context,
    folder: LabelledFolder,
    labels: LabelsOption = "auto",
    landmarks: LandmarksOption = MEASURED_LANDMARKS,
    parser: ParserOption = _EMBEDDED,
    held_out: Annotated[
        bool,
        typer.Option(
            "--held-out",
            help="Learn the embedded parser's weights of borders anew for each photo, from the other photos alone.",
        ),
    ] = False,
    sheet: SheetOption = None,
    *,
    output: OutputOptions,
) -> int:
    """Overlap (Part IoU, percent) of a parser's labels with labels that people drew, photo by photo.

    The mean is over eyes, brows, nose and lips; skin, the inside of the mouth and hair stand beside it. Also shown:
    seconds of the parser, and how the confidence that it tells of parts 1-7 goes with their overlap (rank correlation).

    Exit code: 0 all photos parsed; 1 some photo could not be parsed; 2 wrong usage.
    """
    check_backends(landmarks, parser)
    recorder = Recorder(context)
    if held_out and parser != _EMBEDDED:
        raise UsageError(f"--held-out is for --parser {_EMBEDDED}, whose weights can be learnt here; got {parser!r}")
    import numpy as np

    from fit3d.evaluate.label_files import digest_of, labelled_photos
    from fit3d.evaluate.parser import (
        average_parser_score,
        confidence_rank_correlation,
        held_out_parsers,
        parser_sheet,
        read_labelled,
        score_parser,
    )
    from fit3d.evaluate.record import Data
    from fit3d.export.files import write_image
    from fit3d.observe.registry import face_parser

    pairs = labelled_photos(folder, labels)
    if held_out and len(pairs) < 2:
        raise UsageError(f"{folder}: --held-out needs two labelled photos or more; got {len(pairs)}")
    make_sheet_folder(sheet)
    console = output.console()
    photos: list[Labelled] = []
    scores: list[ParserScore] = []
    failures: dict[str, str] = {}

    def failed(name: str, error: Exception) -> None:
        failures[name] = failure_of_photo(error)[1]
        console.error(f"{name}: {failures[name]}")

    for pair in pairs:
        try:
            photos.append(read_labelled(pair, landmarks))
        except Exception as error:
            failed(pair.photo.name, error)
    parsers = held_out_parsers(photos) if held_out else [face_parser(parser)] * len(photos)
    if not output.as_json:
        console.result(table_row("photo", [_SHORT_NAMES.get(name, name) for name in _COLUMNS] + ["s"]), {})
    with console.progress(len(photos)):
        for labelled, labeller in zip(photos, parsers, strict=True):
            console.stage(labelled.name)
            try:
                score, parsing = score_parser(labelled, labeller)
            except Exception as error:
                failed(labelled.name, error)
                continue
            finally:
                console.advance()
            scores.append(score)
            if not output.as_json:
                console.result(_score_row(score), {})
            if sheet is not None:
                write_image(sheet / f"{Path(labelled.name).stem}.png", np.asarray(parser_sheet(labelled, parsing)))
    average = average_parser_score(scores) if scores else None
    correlation = confidence_rank_correlation(scores)
    if output.as_json:
        figures = {
            "photos": [vars(score) for score in scores],
            "failures": failures,
            "average": vars(average) if average else None,
            "confidence_rank_correlation": correlation if math.isfinite(correlation) else None,
        }
        data = Data(folder.resolve().name, len(pairs), digest_of(pairs))
        console.result("", recorder.record(data, figures))
    elif average:
        console.result(_score_row(average), {})
        if math.isfinite(correlation):
            console.result(f"rank correlation of confidence and overlap: {correlation:.2f}", {})
    return 1 if failures else 0


def _score_row(score: ParserScore) -> str:
    overlap = [score.part_iou.get(name, math.nan) for name in _COLUMNS]
    cells = [f"{100.0 * value:.1f}" if math.isfinite(value) else "-" for value in overlap]
    return table_row(score.photo, [*cells, f"{score.parse_s:.2f}"])
