"""`fit3d models annotate`: finds the parts and landmarks of a face model that has none yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fit3d.commands.console import Console
from fit3d.commands.options import LandmarksOption, ParserOption, QuietOption, SeedOption, check_backends
from fit3d.errors import UsageError


def models_annotate_command(
    name: Annotated[str, typer.Argument(help="Name of the model.", metavar="NAME")],
    method: Annotated[
        Literal["transfer", "vote"],
        typer.Option(
            "--method",
            help="'transfer' lays the bundled, annotated head onto the model; 'vote' asks detector and parser about "
            "renders of it.",
        ),
    ] = "transfer",
    source: Annotated[
        str, typer.Option("--source", help="The annotated model to carry over.", metavar="NAME")
    ] = "anny",
    rims: Annotated[
        Path | None,
        typer.Option(
            "--rims",
            help="An annotation of this model (JSON) whose rims of lids and lips are kept; the rest is voted for, with "
            "no annotated model's help. So the bundled head is annotated, from which all others are.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Whether to try the other method too and compare.")
    ] = True,
    shapes: Annotated[
        int, typer.Option("--heads", min=0, help="Random heads to vote on besides the mean head, 7 views each.")
    ] = 5,
    seed: SeedOption = 0,
    landmarks: LandmarksOption = "mediapipe",
    parser: ParserOption = "contours",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Where to write the annotation (JSON). Default: beside the stored model, where `fit` finds it.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture",
            help="Where to draw parts and landmarks from three views (PNG or JPEG). Default: beside the annotation.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find where parts and landmarks lie on a face model, and write them to a small JSON file that can be edited.

    Two independent ways: the bundled head's annotation carried over by registration, and votes of a landmark detector
    and a face parser on renders of the model. One makes the annotation, both say how far they agree: by part, the area
    that both give the label over the area that either does, and the distance between the landmarks.

    With parts and landmarks there, ARKit's shapes that the model lacks are made of its expressions, as `fit3d models
    arkit` does.
    """
    from fit3d.annotate.annotate import annotate, annotate_alone, unannotated
    from fit3d.annotate.file import write_annotation
    from fit3d.annotate.picture import annotation_sheet
    from fit3d.annotate.register import skin_of
    from fit3d.commands.arkit import keep_combinations
    from fit3d.export.files import usage_errors, write_image
    from fit3d.morphable.annotation import load_annotation
    from fit3d.morphable.raw import with_annotation
    from fit3d.morphable.registry import BUNDLED, load_model
    from fit3d.morphable.store import ANNOTATION_FILE, models_folder, read_stored, stored_model
    from fit3d.observe.registry import face_parser, landmark_detector

    console = Console(quiet=quiet, as_json=as_json)
    if rims is not None:
        method = "vote"
    voting = check or method == "vote"
    if voting:
        check_backends(landmarks, parser)
    if name == BUNDLED and output is None:
        raise UsageError(f"the annotation of '{BUNDLED}' comes with fit3d; to make another one give --output FILE")
    target = load_model(name) if name == BUNDLED else unannotated(read_stored(name))
    if rims is not None:
        kept, _ = load_annotation(rims, target.mean, target.faces)
        openings = {opening: (upper.numpy(), lower.numpy()) for opening, (upper, lower) in kept.rims.items()}
        voters = landmark_detector(landmarks), face_parser(parser)
        outcome = annotate_alone(target, openings, *voters, shapes, seed)
    else:
        outcome = annotate(
            target,
            load_model(source),
            method,
            landmark_detector(landmarks) if voting else None,
            face_parser(parser) if voting else None,
            shapes,
            seed,
        )
    path = output or models_folder() / name / ANNOTATION_FILE
    drawing = picture or path.with_suffix(".png")
    with usage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_annotation(outcome.annotated, target, path)
    load_annotation(path, target.mean, target.faces)  # what was written can be read
    write_image(drawing, annotation_sheet(outcome.annotated.on(target)))

    lines = [f"wrote {path} and {drawing}"]
    if outcome.distance_mm is not None:
        lines.append(f"{source} laid onto {name}: {outcome.distance_mm:.2f} mm apart over the face")
    if outcome.votes is not None:
        lines += outcome.votes.as_text(skin_of(target))
    if outcome.agreement is not None:
        lines += [f"transfer and vote agree: {line}" for line in outcome.agreement.as_text()]
    if outcome.failure is not None:
        console.warn(f"nothing to compare with: {outcome.failure}")
    facts: dict[str, Any] = {}
    if output is None and outcome.laid is not None:
        annotated = with_annotation(read_stored(name), path)
        found, facts = keep_combinations(stored_model(name), annotated, load_model(source), outcome.laid)
        lines.append(found[-1])
    elif output is None:
        console.warn(f"no ARKit shapes were made for {name}, because {source} could not be laid onto it")
    agreement = None if outcome.agreement is None else vars(outcome.agreement)
    console.result(
        "\n".join(lines),
        {
            "annotation": str(path),
            "picture": str(drawing),
            "method": method,
            "distance_mm": outcome.distance_mm,
            "renders": None if outcome.votes is None else outcome.votes.renders,
            "agreement": agreement,
            **facts,
        },
    )
