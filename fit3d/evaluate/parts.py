"""Part IoU on photos whose part labels were drawn by people."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from fit3d.config import FitConfig
from fit3d.errors import LabelImageError, NoFaceError
from fit3d.evaluate.label_files import LabelFile, LabelledPhoto, read_labels
from fit3d.export.files import write_labels
from fit3d.labels import IOU_PARTS, PART_NAMES
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Landmarks
from fit3d.observe.label_layouts import sides_exchanged
from fit3d.photo import Photo, load_photo
from fit3d.pipeline import look
from fit3d.render.drawing import draw_parts
from fit3d.render.overlay import contact_view
from fit3d.render.shade import over, shade
from fit3d.sighting import Sighting
from fit3d.solve.fit import fit_observation
from fit3d.solve.result import Fit

Observed = Literal["labels", "parser"]
"""What drives the fit: the label image drawn by people (as `fit --parts`), or the face parser."""

PANEL_PX = 320
"""Side of each picture of a contact sheet."""
VIEWS_YAW_DEG = (0.0, 40.0)
SHEET_MARGIN = 0.25
"""Room of a picture around what it shows, on each side, in longer sides of that."""
WORST = 5
"""How many photos are named as the worst."""
LEAST_SHARED = 0.1
"""Overlap (intersection over union) of the boxes of a face's landmarks and of its labelled parts, below which the
labels are of something else; of a face seen from the front it is about a half."""


@dataclass(frozen=True)
class PartScore:
    """How well the fitted, or otherwise predicted, parts of one photo cover the parts that people drew."""

    photo: str
    part_iou: dict[str, float]
    """Of the predicted parts with the people's labels, by part name; 'mean' is over parts 1-7."""
    landmark_nme: float = math.nan
    """Against the detected landmarks, see `Fit.landmark_nme`; NaN where nothing was fitted."""
    identity_rms: float = math.nan
    """Root mean square of the identity coefficients, standard deviations: a typical person has about 1."""
    asymmetry: float = math.nan
    """See `expression_asymmetry`."""
    fit_s: float = math.nan
    """Seconds of the fit stage."""


def look_labelled(
    pair: LabelledPhoto, *, observed: Observed, landmarks: str, parser: str
) -> tuple[Sighting, np.ndarray]:
    """The labelled face of a photo, alone, and people's labels (H, W) of it.

    Raises:
        PhotoError: the photo or its labels cannot be read, or no face is found where the labels are.
        LabelImageError: left and right of the labels are exchanged.
    """
    photo = load_photo(pair.photo)
    truth = read_labels(pair.labels, photo)
    if observed == "parser":
        sighting = look(photo, landmarks=landmarks, parser=parser)
    elif pair.labels == LabelFile(pair.labels.path):
        sighting = look(photo, landmarks=landmarks, parser=parser, parts=pair.labels.path)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{pair.photo.stem}_parts.png"
            write_labels(path, truth)
            sighting = look(photo, landmarks=landmarks, parser=parser, parts=path)
    which = labelled_face([each.landmarks for each in sighting.observations], truth, photo)
    sighting = replace(sighting, observations=(sighting.observations[which],))
    if sides_exchanged(truth, sighting.observations[0].landmarks):
        raise LabelImageError(
            f"{pair.labels.path}: left and right are exchanged: most pixels of eyes and brows lie nearer to the other "
            "eye; check --labels, or whether the photo or its labels were mirrored"
        )
    return sighting, truth


def labelled_face(faces: Sequence[Landmarks], truth: np.ndarray, photo: Photo) -> int:
    """Index of the face, the largest first, whose eyes, brows, nose and lips `truth` (H, W) labels.

    Raises:
        NoFaceError: none of them lies there.
    """
    rows, columns = np.nonzero(np.isin(truth, IOU_PARTS))
    if not len(rows):
        return 0
    drawn = float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)
    shared = [_overlap(face.box_px, drawn) for face in faces]
    best = int(np.argmax(shared))
    if shared[best] < LEAST_SHARED:
        left, top, right, bottom = drawn
        raise NoFaceError(
            f"{photo.path}: no face found where the labels are, from {left:.0f},{top:.0f} to {right:.0f},{bottom:.0f}"
        )
    return best


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0.0) * max(height, 0.0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def fit_labelled(sighting: Sighting, model: MorphableModel, config: FitConfig) -> tuple[Fit, float]:
    """The fit of the labelled face, and how many seconds it took."""
    photo, start = sighting.photo, time.perf_counter()
    fit = fit_observation(model, sighting.observations[0], photo.width, photo.height, photo.focal_px, config)
    return fit, time.perf_counter() - start


def score_fit(photo: str, overlap: dict[str, float], fit: Fit, model: MorphableModel, fit_s: float) -> PartScore:
    """A fit with its overlap, however that was measured."""
    return PartScore(
        photo=photo,
        part_iou=overlap,
        landmark_nme=fit.landmark_nme,
        identity_rms=float(fit.identity.square().mean().sqrt()),
        asymmetry=expression_asymmetry(dict(zip(model.expression_names, fit.expression.tolist(), strict=True))),
        fit_s=fit_s,
    )


def average_score(scores: Sequence[PartScore]) -> PartScore:
    """Means over the photos, each part over the photos where people drew it; of the seconds the median."""

    def mean(values: Sequence[float]) -> float:
        told = [value for value in values if math.isfinite(value)]
        return statistics.fmean(told) if told else math.nan

    return PartScore(
        photo="average (s: median)",
        part_iou={name: statistics.fmean(values) for name, values in _by_part(scores).items()},
        landmark_nme=mean([score.landmark_nme for score in scores]),
        identity_rms=mean([score.identity_rms for score in scores]),
        asymmetry=mean([score.asymmetry for score in scores]),
        fit_s=statistics.median(score.fit_s for score in scores),
    )


def spread_of(scores: Sequence[PartScore]) -> dict[str, float]:
    """Standard deviation over the photos, by part; NaN where fewer than two show it."""
    return {
        name: statistics.stdev(values) if len(values) > 1 else math.nan for name, values in _by_part(scores).items()
    }


def worst_of(scores: Sequence[PartScore], count: int = WORST) -> list[PartScore]:
    """The photos with the lowest mean, the worst first."""
    told = [score for score in scores if math.isfinite(score.part_iou["mean"])]
    return sorted(told, key=lambda score: score.part_iou["mean"])[:count]


def headline(scores: Sequence[PartScore]) -> dict[str, object]:
    """What the JSON tells first: `parts` 1 to 7, their `mean`, `skin`, and how both spread over the photos."""
    average, spread = average_score(scores).part_iou, spread_of(scores)
    usual = [PART_NAMES[label] for label in IOU_PARTS]
    return {
        "parts": {name: average[name] for name in usual if name in average},
        "mean": average.get("mean", math.nan),
        "skin": average.get("skin", math.nan),
        "spread": spread,
        "worst": [score.photo for score in worst_of(scores)],
    }


def _by_part(scores: Sequence[PartScore]) -> dict[str, list[float]]:
    seen: dict[str, list[float]] = {}
    for score in scores:
        for name, value in score.part_iou.items():
            if math.isfinite(value):
                seen.setdefault(name, []).append(value)
    return seen


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


def prediction_sheet(
    photo: Photo, truth: np.ndarray, found: np.ndarray, render: np.ndarray | None = None
) -> Image.Image:
    """Pictures of the face side by side: the photo, the labels (H, W) that count, the predicted ones, on the `render`
    (H, W, 3) in which they were seen where there is one."""
    rows, columns = np.nonzero(np.isin(truth, IOU_PARTS) | np.isin(found, IOU_PARTS))
    if not len(rows):
        rows, columns = np.array([0, photo.height - 1]), np.array([0, photo.width - 1])
    box = square_around(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    plain = cut_square(photo.pixels, box, Image.Resampling.BICUBIC)
    drawn = plain if render is None else cut_square(render, box, Image.Resampling.BICUBIC)
    maps = [
        draw_parts(picture, cut_square(image, box, Image.Resampling.NEAREST), fill=0.35)
        for picture, image in ((plain, truth), (drawn, found))
    ]
    return Image.fromarray(np.concatenate([plain, *([] if render is None else [drawn]), *maps], axis=1))


def square_around(left: float, top: float, right: float, bottom: float) -> tuple[int, int, int, int]:
    """The square (left, top, right, bottom), px, around a box with `SHEET_MARGIN`."""
    half = (0.5 + SHEET_MARGIN) * max(right - left, bottom - top)
    x, y = (left + right) / 2.0, (top + bottom) / 2.0
    return round(x - half), round(y - half), round(x + half), round(y + half)
