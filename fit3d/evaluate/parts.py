"""Part IoU on photos whose part labels were drawn by people."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from fit3d.config import FitConfig
from fit3d.errors import UsageError
from fit3d.metrics import part_iou
from fit3d.morphable.model import MorphableModel
from fit3d.observe.label_image import read_label_image
from fit3d.pipeline import Sighting, look
from fit3d.render.drawing import draw_parts
from fit3d.render.overlay import contact_view
from fit3d.render.shade import over, shade
from fit3d.solve.fit import fit_observation
from fit3d.solve.result import Fit

Observed = Literal["labels", "parser"]
"""What drives the fit: the label image drawn by people (as `fit --parts`), or the face parser."""

LABELS_SUFFIX = "_parts.png"
PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

PANEL_PX = 320
"""Side of each picture of a contact sheet."""
VIEWS_YAW_DEG = (0.0, 40.0)


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo and its part labels drawn by people."""

    photo: Path
    labels: Path


@dataclass(frozen=True)
class PartScore:
    """How well the fit of one photo covers the parts that people drew."""

    photo: str
    part_iou: dict[str, float]
    """Of the fitted model's parts with the people's labels, by part name; 'mean' is over parts 1-7."""
    landmark_nme: float
    """Against the detected landmarks, see `Fit.landmark_nme`."""
    identity_rms: float
    """Root mean square of the identity coefficients, standard deviations: a typical person has about 1."""
    asymmetry: float
    """See `expression_asymmetry`."""
    fit_s: float
    """Seconds of the fit stage."""


def labelled_photos(folder: Path) -> list[LabelledPhoto]:
    """The photos X.png (or .jpg, .jpeg, .webp) of `folder` that have a label image X_parts.png, by name.

    Raises:
        UsageError: there are none.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of photos X.png or X.jpg with label images X{LABELS_SUFFIX}")
    pairs = []
    for labels in sorted(folder.glob(f"*{LABELS_SUFFIX}")):
        stem = labels.name.removesuffix(LABELS_SUFFIX)
        photos = [folder / f"{stem}{suffix}" for suffix in PHOTO_SUFFIXES if (folder / f"{stem}{suffix}").is_file()]
        pairs += [LabelledPhoto(photo, labels) for photo in photos[:1]]
    if not pairs:
        raise UsageError(f"{folder}: no photo X.png or X.jpg with a label image X{LABELS_SUFFIX} found")
    return pairs


def score_photo(
    pair: LabelledPhoto,
    model: MorphableModel,
    config: FitConfig,
    *,
    observed: Observed,
    landmarks: str,
    parser: str,
) -> tuple[PartScore, Sighting, Fit]:
    """Fit the largest face of a photo and compare its parts with the people's labels."""
    sighting = look(pair.photo, landmarks=landmarks, parser=parser, parts=pair.labels if observed == "labels" else None)
    photo, observation = sighting.photo, sighting.observations[0]
    truth = read_label_image(pair.labels, photo)
    start = time.perf_counter()
    fit = fit_observation(model, observation, photo.width, photo.height, photo.focal_px, config)
    fit_s = time.perf_counter() - start
    score = PartScore(
        photo=pair.photo.name,
        part_iou=part_iou(fit.parts, truth),
        landmark_nme=fit.landmark_nme,
        identity_rms=float(fit.identity.square().mean().sqrt()),
        asymmetry=expression_asymmetry(dict(zip(model.expression_names, fit.expression.tolist(), strict=True))),
        fit_s=fit_s,
    )
    return score, sighting, fit


def average_score(scores: Sequence[PartScore]) -> PartScore:
    """Means over the photos, each part over the photos where people drew it; of the seconds the median."""
    seen: dict[str, list[float]] = {}
    for score in scores:
        for name, value in score.part_iou.items():
            if math.isfinite(value):
                seen.setdefault(name, []).append(value)
    return PartScore(
        photo="average (s: median)",
        part_iou={name: statistics.fmean(values) for name, values in seen.items()},
        landmark_nme=statistics.fmean(score.landmark_nme for score in scores),
        identity_rms=statistics.fmean(score.identity_rms for score in scores),
        asymmetry=statistics.fmean(score.asymmetry for score in scores),
        fit_s=statistics.median(score.fit_s for score in scores),
    )


def expression_asymmetry(expression: dict[str, float]) -> float:
    """Root mean square of left minus right over the pairs of expression coefficients, by ARKit's names.

    Gaze is left out: eyes that look aside move unequal coefficients.
    """
    differences = [
        value - expression[name.removesuffix("Left") + "Right"]
        for name, value in expression.items()
        if name.endswith("Left")
        and not name.startswith("eyeLook")
        and name.removesuffix("Left") + "Right" in expression
    ]
    return float(np.sqrt(np.mean(np.square(differences)))) if differences else 0.0


def contact_sheet(sighting: Sighting, labels: np.ndarray, model: MorphableModel, fit: Fit) -> Image.Image:
    """Pictures side by side: the face; the head in clay over it; the head from the front and from three quarters;
    the labels (H, W) it is compared with; the fitted parts."""
    left, top, size = round(fit.crop.left), round(fit.crop.top), round(fit.crop.size)
    box = (left, top, left + size, top + size)
    photo = cut_square(sighting.photo.pixels, box, Image.Resampling.BICUBIC)
    vertices = model.vertices(fit.identity, fit.expression)
    clay = cut_square(shade(vertices, model.triangles[model.opaque], fit.camera), box, Image.Resampling.BICUBIC)
    views = contact_view(vertices, model, size=PANEL_PX, yaws_deg=VIEWS_YAW_DEG)
    maps = [
        draw_parts(photo, cut_square(image, box, Image.Resampling.NEAREST), fill=0.35) for image in (labels, fit.parts)
    ]
    return Image.fromarray(np.concatenate([photo, over(photo, clay), views, *maps], axis=1))


def cut_square(pixels: np.ndarray, box: tuple[int, int, int, int], resampling: Image.Resampling) -> np.ndarray:
    """The `box` (left, top, right, bottom) of an image as a square of PANEL_PX; black beyond the image."""
    return np.asarray(Image.fromarray(pixels).crop(box).resize((PANEL_PX, PANEL_PX), resampling))
