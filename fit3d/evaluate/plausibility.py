"""Whether fitted heads are people one could meet: their coefficients, and what a landmark detector sees in their clay.

The fitted head is drawn in clay as the photo's camera sees it and shown to the detector that looked at the photo; it
should find a face, with its landmarks where it found them in the photo. Clay has no irises and no dark brows, so a
detector is off by nearly 1 % of the landmarks' diagonal on clay even where the shape is right. The figure tells a fit
that went astray from one that did not; it does not see a contorted head, on which a detector finds its landmarks just
as well. The identity's size and the sheet do.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fit3d.camera import Crop
from fit3d.config import FitConfig
from fit3d.errors import UsageError
from fit3d.evaluate.label_files import LABELS_SUFFIX, PHOTO_SUFFIXES
from fit3d.evaluate.parts import (
    PANEL_PX,
    VIEWS_YAW_DEG,
    Observed,
    cut_square,
    expression_asymmetry,
)
from fit3d.landmarks import BROW_LANDMARKS, CONTOUR_LANDMARKS, LANDMARK_COUNTS, LandmarkLayout
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import LandmarkDetector, Landmarks
from fit3d.observe.registry import landmark_detector
from fit3d.photo import Photo
from fit3d.pipeline import look
from fit3d.render.drawing import side_by_side
from fit3d.render.overlay import BACKDROP, contact_view
from fit3d.render.shade import over, shade
from fit3d.sighting import Sighting
from fit3d.solve.fit import fit_observation
from fit3d.solve.result import Fit

ACTIVE = 0.1
"""An expression coefficient further from zero than this counts as shown."""

CROP_PX = 512
"""Side of the fit's crop in the picture that the detector is shown, px."""
ROOM = 1.5
"""Side of that picture, in sides of the fit's crop: it holds the whole head."""

REGIONS: dict[LandmarkLayout, dict[str, tuple[int, ...]]] = {
    "ibug68": {
        "eyes": tuple(range(36, 48)),
        "brows": sum(BROW_LANDMARKS["ibug68"], ()),
        "nose": tuple(range(27, 36)),
        "mouth": tuple(range(48, 68)),
        "contour": CONTOUR_LANDMARKS["ibug68"],
    },
    "mediapipe478": {
        "eyes": (
            *(33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
            *(362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382),
        ),
        "brows": sum(BROW_LANDMARKS["mediapipe478"], ()),
        "nose": (168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 48, 64, 98, 97, 326, 327, 294, 278),
        "mouth": (
            *(61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146),
            *(78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95),
        ),
        "contour": CONTOUR_LANDMARKS["mediapipe478"],
    },
}
"""Landmarks of each region: lids, brows, ridge and base of the nose, borders of the lips, outline of the face."""

BLIND: dict[LandmarkLayout, tuple[int, ...]] = {"ibug68": (), "mediapipe478": tuple(range(468, 478))}
"""Landmarks that clay does not show: irises."""

SHIFT_COLOUR = (230, 60, 40)


@dataclass(frozen=True)
class PhotoWithLabels:
    """A photo and, where one is to be used, its label image."""

    photo: Path
    labels: Path | None


@dataclass(frozen=True)
class RenderedFace:
    """The fitted head in clay as the photo's camera sees it, and what the landmark detector finds in that picture."""

    window: Crop
    """The square of the photo that the picture shows."""
    picture: np.ndarray
    """(S, S, 3) uint8, S = window.resolution."""
    points_px: np.ndarray | None
    """(N, 2) float64, photo px, in the layout of the photo's landmarks; None where no face was found."""


@dataclass(frozen=True)
class PlausibilityScore:
    """How plausible the fit of one photo is."""

    photo: str
    parser: str
    """What said where the parts are: the name of the parser, or 'label_image'."""
    identity_rms: float
    """Root mean square of the identity coefficients, standard deviations: a typical person has about 1."""
    identity_max: float
    """Largest absolute identity coefficient, standard deviations."""
    asymmetry: float
    """See `expression_asymmetry`."""
    active_expressions: float
    """How many expression coefficients are further from zero than `ACTIVE`."""
    part_iou: float
    """Mean over parts 1 to 7, with the parts that drove the fit."""
    landmark_nme: float
    """Of the model's own landmarks, which the fit moves, see `Fit.landmark_nme`."""
    render_nme: dict[str, float]
    """Mean distance between the landmarks detected in the clay picture and in the photo, over the diagonal of the
    photo's landmark box: 'all' and each of `REGIONS`. Empty where no face was found in the clay picture."""


def photos_of(paths: Sequence[Path], observed: Observed) -> list[PhotoWithLabels]:
    """The photos among `paths` and in the folders among them, each folder's by name.

    With 'labels', a photo X.png or X.jpg beside which lies X_parts.png gets it. Label images are no photos.

    Raises:
        UsageError: a folder without photos, or one that cannot be read.
    """
    photos: list[Path] = []
    for path in paths:
        if not path.is_dir():
            photos.append(path)
            continue
        try:
            files = sorted(file for file in path.iterdir() if file.is_file())
        except OSError as error:
            raise UsageError(f"{path}: cannot read this folder: {error.strerror}") from error
        inside = [
            file for file in files if file.suffix.lower() in PHOTO_SUFFIXES and not file.name.endswith(LABELS_SUFFIX)
        ]
        if not inside:
            raise UsageError(f"{path}: no photo found; expected files ending in {', '.join(PHOTO_SUFFIXES)}")
        photos += inside
    return [PhotoWithLabels(photo, _labels_beside(photo) if observed == "labels" else None) for photo in photos]


def _labels_beside(photo: Path) -> Path | None:
    labels = photo.with_name(photo.stem + LABELS_SUFFIX)
    return labels if labels.is_file() else None


def judge_photo(
    pair: PhotoWithLabels, model: MorphableModel, config: FitConfig, *, landmarks: str, parser: str
) -> tuple[PlausibilityScore, Sighting, Fit, RenderedFace]:
    """Fit the largest face of a photo and judge the result."""
    sighting = look(pair.photo, landmarks=landmarks, parser=parser, parts=pair.labels)
    photo, observation = sighting.photo, sighting.observations[0]
    fit = fit_observation(model, observation, photo.width, photo.height, photo.focal_px, config)
    rendered = look_at_clay(model, fit, landmark_detector(landmarks))
    score = PlausibilityScore(
        photo=pair.photo.name,
        parser=observation.parser.name,
        identity_rms=float(fit.identity.square().mean().sqrt()),
        identity_max=float(fit.identity.abs().max()),
        asymmetry=expression_asymmetry(dict(zip(model.expression_names, fit.expression.tolist(), strict=True))),
        active_expressions=int((fit.expression.abs() > ACTIVE).sum()),
        part_iou=fit.part_iou["mean"],
        landmark_nme=fit.landmark_nme,
        render_nme={} if rendered.points_px is None else region_nme(rendered.points_px, observation.landmarks),
    )
    return score, sighting, fit, rendered


def look_at_clay(model: MorphableModel, fit: Fit, detector: LandmarkDetector) -> RenderedFace:
    """Draw the whole fitted head in clay, as the photo's camera sees it, and show it to a landmark detector.

    Of several faces found the largest counts.
    """
    crop = fit.crop
    beyond = 0.5 * (ROOM - 1.0) * crop.size
    window = Crop(crop.left - beyond, crop.top - beyond, ROOM * crop.size, round(ROOM * CROP_PX))
    layer = shade(
        model.vertices(fit.identity, fit.expression), model.triangles[model.opaque], fit.camera.in_crop(window)
    )
    picture = over(np.full((window.resolution, window.resolution, 3), BACKDROP, np.uint8), layer)
    faces = detector.detect(Photo.from_array(picture, "<clay>"))
    points = faces[0].points_px / window.scale + [window.left, window.top] if faces else None
    return RenderedFace(window, picture, points)


def region_nme(points_px: np.ndarray, observed: Landmarks) -> dict[str, float]:
    """Mean distance of `points_px` (N, 2) to the observed landmarks, photo px, over the diagonal of the latter's box.

    'all' is the mean over all landmarks but `BLIND`; then each of `REGIONS`. Landmarks missing in either are left out;
    a region without any is NaN.
    """
    distance = np.linalg.norm(points_px - observed.points_px, axis=1)
    left, top, right, bottom = observed.box_px
    share = distance / math.hypot(right - left, bottom - top)

    def mean(ids: Sequence[int]) -> float:
        known = share[list(ids)]
        known = known[np.isfinite(known)]
        return float(known.mean()) if known.size else math.nan

    regions = {name: mean(ids) for name, ids in REGIONS[observed.layout].items()}
    return {"all": mean(_shown_by_clay(observed.layout)), **regions}


def average_plausibility(scores: Sequence[PlausibilityScore]) -> PlausibilityScore:
    """Means over the photos, those of the clay picture over the photos where a face was found in it."""
    return _combined(scores, "average", statistics.fmean, statistics.fmean)


def worst_plausibility(scores: Sequence[PlausibilityScore]) -> PlausibilityScore:
    """The largest of each figure, the smallest overlap: what a limit has to be compared with."""
    return _combined(scores, "worst", max, min)


def _combined(
    scores: Sequence[PlausibilityScore],
    name: str,
    of_small: Callable[[list[float]], float],
    of_large: Callable[[list[float]], float],
) -> PlausibilityScore:
    """One score from several: `of_small` of figures that are best small, `of_large` of overlap, NaN left out."""

    def combine(values: Iterable[float], how: Callable[[list[float]], float]) -> float:
        known = [value for value in values if math.isfinite(value)]
        return how(known) if known else math.nan

    found = [score.render_nme for score in scores if score.render_nme]
    return PlausibilityScore(
        photo=name,
        parser=", ".join(sorted({score.parser for score in scores})),
        identity_rms=combine((score.identity_rms for score in scores), of_small),
        identity_max=combine((score.identity_max for score in scores), of_small),
        asymmetry=combine((score.asymmetry for score in scores), of_small),
        active_expressions=combine((score.active_expressions for score in scores), of_small),
        part_iou=combine((score.part_iou for score in scores), of_large),
        landmark_nme=combine((score.landmark_nme for score in scores), of_small),
        render_nme={
            region: combine((nme[region] for nme in found), of_small) for region in (found[0] if found else {})
        },
    )


def plausibility_sheet(
    sighting: Sighting, model: MorphableModel, fit: Fit, rendered: RenderedFace, score: PlausibilityScore
) -> np.ndarray:
    """Pictures side by side with their titles: the face in the photo; the clay picture that the detector saw, with
    lines from where it found the landmarks to where they lie in the photo, a dot there; the head from the front and
    from three quarters."""
    crop, scale = fit.crop, rendered.window.scale
    left, top, size = round(crop.left), round(crop.top), round(crop.size)
    photo = cut_square(sighting.photo.pixels, (left, top, left + size, top + size), Image.Resampling.BICUBIC)
    inset, side = round((crop.left - rendered.window.left) * scale), round(crop.size * scale)
    clay = cut_square(rendered.picture, (inset, inset, inset + side, inset + side), Image.Resampling.BICUBIC)
    title = "no face found in the clay"
    if rendered.points_px is not None:
        title = f"clay; landmarks off by {100.0 * score.render_nme['all']:.2f} %"
        clay = _with_shifts(clay, rendered.points_px, sighting.observations[0].landmarks, crop)
    views = contact_view(model.vertices(fit.identity, fit.expression), model, size=PANEL_PX, yaws_deg=VIEWS_YAW_DEG)
    titles = [
        f"{score.photo}, Part IoU {100.0 * score.part_iou:.1f} %",
        title,
        f"identity RMS {score.identity_rms:.2f}, largest {score.identity_max:.2f}",
        f"{score.active_expressions:.0f} expressions, asymmetry {score.asymmetry:.2f}",
    ]
    return side_by_side([photo, clay, *np.split(views, len(VIEWS_YAW_DEG), axis=1)], titles)


def _with_shifts(picture: np.ndarray, points_px: np.ndarray, observed: Landmarks, crop: Crop) -> np.ndarray:
    """A picture of `crop` with a line from each point (N, 2), photo px, to the observed landmark, and a dot there."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    ends = np.stack([points_px, observed.points_px], axis=1)
    ends = (ends - [crop.left, crop.top]) * (image.width / crop.size)
    for index in _shown_by_clay(observed.layout):
        if np.isfinite(ends[index]).all():
            (x0, y0), (x1, y1) = ends[index].tolist()
            draw.line((x0, y0, x1, y1), fill=SHIFT_COLOUR)
            draw.ellipse((x1 - 1.0, y1 - 1.0, x1 + 1.0, y1 + 1.0), fill=SHIFT_COLOUR)
    return np.asarray(image)


def _shown_by_clay(layout: LandmarkLayout) -> list[int]:
    """Numbers of all landmarks but `BLIND`."""
    return [index for index in range(LANDMARK_COUNTS[layout]) if index not in BLIND[layout]]
