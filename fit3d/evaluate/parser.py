"""How well a face parser agrees with people: Part IoU of its labels, before any model is fitted."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.stats import spearmanr

from fit3d.errors import NoFaceError
from fit3d.evaluate.border_learning import BorderExamples, border_examples, learn_border_weights
from fit3d.evaluate.label_files import LabelledPhoto, read_labels
from fit3d.evaluate.parts import cut_square, labelled_face, square_around
from fit3d.labels import HAIR, INNER_MOUTH, IOU_PARTS, PART_IDS, PART_NAMES
from fit3d.metrics import part_iou
from fit3d.observe.base import FaceParser, Landmarks, Parsing
from fit3d.observe.embedded import EmbeddedParser
from fit3d.observe.registry import landmark_detector
from fit3d.photo import Photo, load_photo
from fit3d.render.drawing import draw_parts

BESIDE = (INNER_MOUTH, HAIR)
"""Told beside the usual parts. People label all hair, a parser perhaps only what is near the face."""


@dataclass(frozen=True)
class Labelled:
    """A photo, the face in it that is labelled and what people drew."""

    name: str
    photo: Photo
    landmarks: Landmarks
    truth: np.ndarray
    """(H, W) uint8 label image."""


@dataclass(frozen=True)
class ParserScore:
    """How well the labels of one photo agree with people's."""

    photo: str
    part_iou: dict[str, float]
    """By part name; 'mean' is over parts 1-7. A part that people did not draw is left out."""
    confidence: dict[str, float]
    """What the parser says of each of these parts; empty where it tells nothing."""
    parse_s: float
    """Seconds of the parser alone."""


def read_labelled(pair: LabelledPhoto, landmarks: str) -> Labelled:
    """A labelled photo with the landmarks of the face that is labelled.

    Raises:
        PhotoError: the photo or its labels cannot be read, or no face is found where the labels are.
        UsageError: an unknown detector.
    """
    photo = load_photo(pair.photo)
    faces = landmark_detector(landmarks).detect(photo)
    if not faces:
        raise NoFaceError(f"{pair.photo}: no face found ({landmarks})")
    truth = read_labels(pair.labels, photo)
    return Labelled(pair.photo.name, photo, faces[labelled_face(faces, truth, photo)], truth)


def score_parser(labelled: Labelled, parser: FaceParser) -> tuple[ParserScore, Parsing]:
    """Parse the face of a labelled photo and compare."""
    start = time.perf_counter()
    parsing = parser.parse(labelled.photo, labelled.landmarks)
    parse_s = time.perf_counter() - start
    overlap = part_iou(parsing.labels, labelled.truth)
    for label in BESIDE:
        drawn = labelled.truth == label
        if drawn.any():
            found = parsing.labels == label
            overlap[PART_NAMES[label]] = np.count_nonzero(drawn & found) / np.count_nonzero(drawn | found)
    sure = {} if parsing.confidence is None else {n: float(parsing.confidence[PART_IDS[n]]) for n in _parts(overlap)}
    return ParserScore(labelled.name, overlap, sure, parse_s), parsing


def held_out_parsers(photos: Sequence[Labelled]) -> list[FaceParser]:
    """For each photo the embedded parser with weights of borders that were learnt from the other photos alone."""
    examples: list[dict[str, BorderExamples]] = [
        border_examples(each.photo, each.landmarks, each.truth) for each in photos
    ]
    return [
        EmbeddedParser(weights=learn_border_weights([*examples[:index], *examples[index + 1 :]]))
        for index in range(len(photos))
    ]


def average_parser_score(scores: Sequence[ParserScore]) -> ParserScore:
    """Means over the photos, each part over the photos where people drew it; of the seconds the median."""

    def mean_of(tables: Sequence[dict[str, float]]) -> dict[str, float]:
        names = dict.fromkeys(name for table in tables for name in table)
        values = {name: [table[name] for table in tables if math.isfinite(table.get(name, math.nan))] for name in names}
        return {name: statistics.fmean(seen) for name, seen in values.items() if seen}

    return ParserScore(
        photo="average (s: median)",
        part_iou=mean_of([score.part_iou for score in scores]),
        confidence=mean_of([score.confidence for score in scores]),
        parse_s=statistics.median(score.parse_s for score in scores),
    )


def confidence_rank_correlation(scores: Sequence[ParserScore]) -> float:
    """Spearman's rank correlation of confidence and Part IoU over the parts 1-7 of all photos; NaN without any."""
    usual = {PART_NAMES[label] for label in IOU_PARTS}
    pairs = [(score.confidence[name], score.part_iou[name]) for score in scores for name in score.confidence]
    names = [name for score in scores for name in score.confidence]
    pairs = [pair for pair, name in zip(pairs, names, strict=True) if name in usual]
    return float(spearmanr(*np.array(pairs).T).statistic) if len(pairs) > 2 else math.nan


def parser_sheet(labelled: Labelled, parsing: Parsing) -> Image.Image:
    """Pictures of the face side by side: the photo, the parser's labels, people's labels."""
    box = square_around(*labelled.landmarks.box_px)
    photo = cut_square(labelled.photo.pixels, box, Image.Resampling.BICUBIC)
    maps = [
        draw_parts(photo, cut_square(image, box, Image.Resampling.NEAREST), fill=0.35)
        for image in (parsing.labels, labelled.truth)
    ]
    return Image.fromarray(np.concatenate([photo, *maps], axis=1))


def _parts(overlap: dict[str, float]) -> list[str]:
    return [name for name in overlap if name != "mean"]
