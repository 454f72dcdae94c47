"""Whether a detector and a parser see in an edited photo what is written about it; what they do not is dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fit3d.labels import IOU_PARTS, LEFT_EYE, PART_NAMES, RIGHT_EYE
from fit3d.metrics import part_iou
from fit3d.observe.base import FaceParser, LandmarkDetector, Landmarks
from fit3d.photo import Photo
from fit3d.reconstruction import Reconstruction
from fit3d.synthesise.edit import Edit

MOST_LANDMARK_NME = 0.02
"""Mean distance between written and seen landmarks, over the diagonal of their box, above which an edit is dropped."""
WORST_LANDMARK = 0.08
"""The same for the landmark that is furthest off, the worst per cent left aside."""
LEAST_PART_IOU = 0.65
"""Mean Part IoU between the written and the parser's labels below which an edit is dropped."""
LEAST_EACH = 0.25
"""The same for the worst of the parts; small ones lose much to a pixel."""
SMALL = 4e-4
"""A part with less area than this, squares of the landmarks' diagonal, counts as closed or hidden: it has no overlap to
speak of."""
STILL_THERE = 3.0
"""An eye that is written to be closed must not be seen with more than this many times `SMALL`. What is written to be
covered may be seen: parsers change their minds about that."""


@dataclass(frozen=True)
class Confirmation:
    """What detector and parser think of an edited photo."""

    is_confirmed: bool
    reasons: tuple[str, ...]
    """Why not, a phrase each."""
    landmark_nme: float
    """NaN where no face was found."""
    part_iou: dict[str, float]
    """By part name, of the parts that are written and not small, and their 'mean'; empty where no face was found."""


def confirm(edit: Edit, detector: LandmarkDetector, parser: FaceParser) -> Confirmation:
    """Look at the edited photo as if it were any, and compare with what is written about it."""
    photo = Photo.from_array(edit.image)
    faces = detector.detect(photo)
    written = edit.landmarks[faces[0].layout] if faces else None
    if written is None:
        return Confirmation(False, ("no face is found",), float("nan"), {})
    face = min(faces, key=lambda each: _distance(each, written.points_px))
    reasons = list(edit.doubts)
    diagonal = float(np.linalg.norm(np.ptp(written.points_px, axis=0)))
    counted = written.visible & np.isfinite(face.points_px).all(1)
    away = np.linalg.norm(face.points_px - written.points_px, axis=1)[counted] / diagonal
    nme = float(away.mean()) if len(away) else float("nan")
    if not nme <= MOST_LANDMARK_NME:
        reasons.append(f"landmarks are off by {100.0 * nme:.1f} % of the face's size")
    elif np.quantile(away, 0.99) > WORST_LANDMARK:
        reasons.append(f"a landmark is off by {100.0 * np.quantile(away, 0.99):.0f} % of the face's size")
    overlap, doubts = _overlap(edit.parts, parser.parse(photo, face).labels, SMALL * diagonal**2)
    return Confirmation(not (reasons or doubts), (*reasons, *doubts), nme, overlap)


def _distance(face: Landmarks, written: np.ndarray) -> float:
    return float(np.nanmean(np.linalg.norm(face.points_px - written, axis=1)))


def _overlap(written: np.ndarray, seen: np.ndarray, small_px: float) -> tuple[dict[str, float], list[str]]:
    """Part IoU of the label images (H, W), by part name, and what speaks against them; parts of less than `small_px`
    pixels are closed or hidden."""
    every = part_iou(seen, written)
    scores, doubts = {}, []
    for label in IOU_PARTS:
        name = PART_NAMES[label]
        here, there = (int(np.count_nonzero(labels == label)) for labels in (written, seen))
        if here >= small_px:
            scores[name] = every[name]
            if every[name] < LEAST_EACH:
                doubts.append(f"{name} overlaps by {100.0 * every[name]:.0f} %")
        elif label in (RIGHT_EYE, LEFT_EYE) and there > STILL_THERE * small_px:
            doubts.append(f"{name} is seen where none is written")
    if not scores:
        return {}, [*doubts, "no part is written"]
    scores["mean"] = float(np.mean(list(scores.values())))
    if scores["mean"] < LEAST_PART_IOU:
        doubts.append(f"parts overlap by {100.0 * scores['mean']:.0f} %")
    return scores, doubts


def poor_fit(reconstruction: Reconstruction) -> tuple[str, ...]:
    """Why edits of this head would be worth nothing; empty where it is trusted."""
    return tuple(f"the fit is poor: {each.rstrip('.')}" for each in reconstruction.fit.mistrust)
