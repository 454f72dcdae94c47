"""Annotates a model: finds its parts and landmarks by two ways and says how far they agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from fit3d.annotate.agreement import Agreement, compare
from fit3d.annotate.from_renders import Rims, annotate_from_renders
from fit3d.annotate.register import Registration, register
from fit3d.annotate.transfer import Annotated, transfer
from fit3d.annotate.vote import Votes, annotate_by_votes, cast_votes
from fit3d.errors import ModelFileError
from fit3d.morphable.model import MorphableModel, PartAnnotation
from fit3d.morphable.raw import RawModel
from fit3d.observe.base import FaceParser, LandmarkDetector

Method = Literal["transfer", "vote"]


@dataclass(frozen=True)
class Outcome:
    """A model's annotation, and what speaks for it."""

    annotated: Annotated
    distance_mm: float | None
    """Mean distance over the face between the model and the annotated one laid onto it; None if that failed."""
    votes: Votes | None
    """None if nobody was asked."""
    agreement: Agreement | None
    """Of both methods; None if only one gave an annotation."""
    failure: str | None
    """Why the other method gave none."""
    laid: Registration | None = None
    """The annotated model laid onto this one; None if that failed."""


def annotate(
    target: MorphableModel,
    source: MorphableModel,
    method: Method,
    detector: LandmarkDetector | None,
    parser: FaceParser | None,
    shapes: int = 5,
    seed: int = 0,
) -> Outcome:
    """The annotation of `target`, of which only geometry is used, by `method`.

    Args:
        source: an annotated model.
        detector, parser: who votes; None does without a vote, and so without a figure for the agreement.
        shapes: random heads to vote on besides the mean head.
        seed: of these heads.

    Raises:
        ModelFileError: the method gives no annotation; the other's failure is only reported.
    """
    failure: str | None = None
    by_transfer: Annotated | None = None
    by_vote: Annotated | None = None
    votes: Votes | None = None
    distance: float | None = None
    laid: Registration | None = None
    try:
        laid = register(source, target)
        distance = 1000.0 * laid.distance_m
        by_transfer = transfer(source, target, laid)
    except ModelFileError as error:
        if method == "transfer":
            raise ModelFileError(f"{error} Or try --method vote") from error
        failure = str(error)
    if detector is not None and parser is not None:
        try:
            votes = cast_votes(target, source, detector, parser, shapes, seed)
            by_vote = annotate_by_votes(source, target, votes)
        except ModelFileError as error:
            if method == "vote":
                raise
            failure = str(error)
    chosen = by_transfer if method == "transfer" else by_vote
    assert chosen is not None, "a vote needs voters"
    agreement = None
    if by_transfer is not None and by_vote is not None:
        agreement = compare(by_transfer.on(target), by_vote.on(target))
    return Outcome(chosen, distance, votes, agreement, failure, laid)


def annotate_alone(
    target: MorphableModel, rims: Rims, detector: LandmarkDetector, parser: FaceParser, shapes: int = 5, seed: int = 0
) -> Outcome:
    """The annotation of `target` by votes alone, with no other model's help but these rims of its openings.

    Raises ModelFileError where the votes give none.
    """
    votes = cast_votes(target, None, detector, parser, shapes, seed)
    return Outcome(annotate_from_renders(target, rims, votes), None, votes, None, None)


def unannotated(raw: RawModel) -> MorphableModel:
    """A model as its loader reads it, with no parts and landmarks."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return MorphableModel(
        name=raw.name,
        version=raw.version,
        licence=raw.licence,
        source=raw.source,
        mean=torch.from_numpy(np.asarray(raw.mean)),
        identity=torch.from_numpy(np.asarray(raw.identity)),
        expression=torch.from_numpy(np.asarray(raw.expression)),
        expression_names=raw.expression_names,
        expression_bounds=torch.from_numpy(np.asarray(raw.expression_bounds)),
        faces=raw.faces,
        uv=raw.uv,
        uv_faces=raw.uv_faces,
        objects=raw.objects,
        face_objects=raw.face_objects,
        annotation=PartAnnotation(nothing.reshape(0, 3), nothing, torch.zeros(0, len(raw.mean)), nothing, {}),
        landmarks={},
        articulation=raw.articulation,
    )
