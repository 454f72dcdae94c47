"""Scores one labelled photo: fitted now or predicted by some tool, by its parts or by the paper's protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from fit3d.checks import is_finite
from fit3d.config import FitConfig
from fit3d.errors import LabelImageError, NoFaceError, PhotoError, UsageError
from fit3d.evaluate.label_files import LabelFile, LabelledPhoto, predicted_labels, read_labels
from fit3d.evaluate.paper_protocol import Backdrop, FittedHead, middle_of, parse_render, render_head, render_of
from fit3d.evaluate.parts import (
    Observed,
    PartScore,
    contact_sheet,
    fit_labelled,
    look_labelled,
    prediction_sheet,
    score_fit,
)
from fit3d.export.read_result import read_fit, result_paths
from fit3d.metrics import part_iou
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.registry import load_model
from fit3d.observe.label_layouts import LayoutName, mirrored
from fit3d.photo import Photo, load_photo
from fit3d.sighting import Sighting

Protocol = Literal["labels", "paper"]
"""'labels': a model's own parts, as they are rasterised; 'paper': see `fit3d.evaluate.paper_protocol`."""
SIDES_FROM = 50
"""Photos that tell which side a tool calls left."""


@dataclass(frozen=True)
class Scored:
    """One photo."""

    score: PartScore
    sheet: Callable[[], Image.Image]
    """Draws the picture to judge it by."""


@dataclass(frozen=True)
class Scoring:
    """How photos are scored."""

    landmarks: str
    parser: str
    protocol: Protocol
    against: Observed
    """What the parts are compared with: people's labels, or what the parser sees in the photo."""
    backdrop: Backdrop

    def _look(self, pair: LabelledPhoto, observed: Observed) -> tuple[Sighting, np.ndarray]:
        """The photo with `observed` parts, and the labels that count."""
        sighting, truth = look_labelled(pair, observed=observed, landmarks=self.landmarks, parser=self.parser)
        if self.against == "labels":
            return sighting, truth
        if observed == "parser":
            return sighting, sighting.observations[0].parts
        return sighting, self._look(pair, "parser")[1]

    def _seen_in(self, picture: np.ndarray, sighting: Sighting) -> np.ndarray:
        """What the parser sees in a render. Raises NoFaceError."""
        middle = middle_of(sighting.observations[0].landmarks)
        seen = parse_render(picture, middle, self.landmarks, self.parser)
        if seen is None:
            raise NoFaceError(f"{sighting.photo.path}: no face found in the picture of the fit")
        return seen

    def fitted(self, pair: LabelledPhoto, model: MorphableModel, config: FitConfig, observed: Observed) -> Scored:
        """Fit the labelled face of a photo and score it.

        Raises:
            PhotoError: the photo or its labels cannot be read, or show no face.
        """
        sighting, truth = self._look(pair, observed)
        fit, fit_s = fit_labelled(sighting, model, config)
        if self.protocol == "labels":
            score = score_fit(pair.photo.name, part_iou(fit.parts, truth), fit, model, fit_s)
            return Scored(score, partial(contact_sheet, sighting, truth, model, fit))
        head = FittedHead(model, fit.identity, fit.expression, fit.camera, fit.parts)
        picture = render_head(head, sighting.photo, self.backdrop)
        found = self._seen_in(picture, sighting)
        score = score_fit(pair.photo.name, part_iou(found, truth), fit, model, fit_s)
        return Scored(score, partial(prediction_sheet, sighting.photo, truth, found, picture))

    def predicted(
        self, pair: LabelledPhoto, folder: Path, layout: LayoutName | Literal["auto"], exchanged: bool = False
    ) -> Scored:
        """Score what lies in `folder` for a photo: label images, with left and right `exchanged` or not, or with the
        paper's protocol results of fit3d or pictures of the fits.

        Raises:
            PhotoError: the photo, its labels or the prediction cannot be read, or are of another photo.
        """
        stored = folder / pair.photo.stem / f"{pair.photo.stem}.json"
        if self.protocol == "labels":
            return self._predicted_labels(pair, predicted_labels(folder, pair.photo.stem, layout), stored, exchanged)
        sighting, truth = self._look(pair, "parser")
        if stored.is_file():
            picture = render_head(_stored_head(stored, sighting.photo), sighting.photo, self.backdrop)
        else:
            picture = render_of(folder, pair.photo.stem, sighting.photo)
        found = self._seen_in(picture, sighting)
        score = PartScore(pair.photo.name, part_iou(found, truth))
        return Scored(score, partial(prediction_sheet, sighting.photo, truth, found, picture))

    def _predicted_labels(self, pair: LabelledPhoto, file: LabelFile, stored: Path, exchanged: bool) -> Scored:
        if self.against == "labels":
            photo = load_photo(pair.photo)
            truth = read_labels(pair.labels, photo)
        else:
            sighting, truth = self._look(pair, "parser")
            photo = sighting.photo
        found = read_labels(file, photo)
        if exchanged:
            found = mirrored(found)
        score = PartScore(pair.photo.name, part_iou(found, truth))
        if file.path.parent == stored.parent and stored.is_file():
            score = replace(score, landmark_nme=_stored_error(stored, photo))
        return Scored(score, partial(prediction_sheet, photo, truth, found))


def sides_of(pairs: Sequence[LabelledPhoto], folder: Path, layout: LayoutName | Literal["auto"]) -> tuple[float, float]:
    """Mean Part IoU of the label images in `folder` with people's, as they are and with left and right exchanged, over
    the first `SIDES_FROM` photos that can be read; NaN where none can.

    Decided once for all: a tool that mixes up the sides of some photos errs on these.
    """
    both = []
    for pair in pairs:
        try:
            photo = load_photo(pair.photo)
            truth = read_labels(pair.labels, photo)
            found = read_labels(predicted_labels(folder, pair.photo.stem, layout), photo)
        except PhotoError:  # told where the photo is scored
            continue
        overlap = part_iou(found, truth)["mean"], part_iou(mirrored(found), truth)["mean"]
        if math.isfinite(overlap[0]):
            both.append(overlap)
        if len(both) == SIDES_FROM:
            break
    straight, crossed = np.mean(both, axis=0) if both else (math.nan, math.nan)
    return float(straight), float(crossed)


def _stored_head(path: Path, photo: Photo) -> FittedHead:
    """The head of a result's JSON. Raises LabelImageError where it is of another photo or damaged."""
    try:
        (path,) = result_paths(path)
        stored = read_fit(path)
        model = load_model(stored.model_name)
        identity, expression = stored.coefficients(model)
    except UsageError as error:
        raise LabelImageError(str(error)) from error
    _check_photo(path, stored.photo_sha256, photo)
    parts = read_labels(LabelFile(path.with_name(f"{path.stem}_parts.png")), photo)
    return FittedHead(model, identity, expression, stored.camera, parts)


def _stored_error(path: Path, photo: Photo) -> float:
    """Landmark error that a result tells of; NaN where it tells none."""
    try:
        stored = read_fit(path)
    except UsageError as error:
        raise LabelImageError(str(error)) from error
    _check_photo(path, stored.photo_sha256, photo)
    found = json.loads(path.read_bytes()).get("metrics", {}).get("landmark_nme")
    return float(found) if is_finite(found) else math.nan


def _check_photo(path: Path, sha256: str, photo: Photo) -> None:
    if sha256 != photo.sha256:
        raise LabelImageError(f"{path}: the result of another photo than {photo.path}: the files differ")
