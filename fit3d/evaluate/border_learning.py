"""Learning `fit3d.observe.border_weights` from photos whose part labels were drawn by people.

Each family's weights are a conditional logit (McFadden 1974): the odds of a point's offsets, judged by itself, are to
give people's offset the highest likelihood. That is a convex problem. Points beside each other tell nearly the same, so
`ALIKE` of them count as one against the pull of the weights to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from fit3d import labels
from fit3d.observe.base import Landmarks
from fit3d.observe.borders import BLUR_PX, FEATURES, OFFSETS, STEP, Border, border_features, borders_of
from fit3d.observe.contours import outlines_of
from fit3d.observe.face_view import sample, view_face
from fit3d.photo import Photo

ALIKE = 20.0
"""Neighbouring points and sides of a face that count as one observation."""
RIDGE = 0.03
"""Pull of the weights, in standard deviations of their features, to zero."""
SHARPNESS = 3.0
"""How much likelier an offset is that explains one more place across the border; with it, offsets between which
people's label image cannot decide count alike."""
OPEN_ENDS = 5
"""Points at the ends of an open border that tell nothing: there both lips meet."""

LABELS_OF_BORDER = {
    "right eye": (labels.RIGHT_EYE,),
    "left eye": (labels.LEFT_EYE,),
    "right brow": (labels.RIGHT_EYEBROW,),
    "left brow": (labels.LEFT_EYEBROW,),
    "nose": (labels.NOSE,),
    "mouth": (labels.UPPER_LIP, labels.LOWER_LIP, labels.INNER_MOUTH),
    "upper lip": (labels.UPPER_LIP,),
    "lower lip": (labels.LOWER_LIP,),
}
"""What lies inside of each of `borders_of`."""
COLOURLESS = ("eye",)
"""Families whose borders are judged by lightness alone: eyes and eye make-up have any colour."""


@dataclass(frozen=True)
class BorderExamples:
    """Points of borders of one family, of one photo or several."""

    features: np.ndarray
    """(N, K, F), see `border_features`."""
    drawn: np.ndarray
    """(N, K) probability that people drew the border at each offset."""
    allowed: np.ndarray
    """(N, K) bool."""


def border_examples(photo: Photo, landmarks: Landmarks, truth: np.ndarray) -> dict[str, BorderExamples]:
    """What the label image (H, W) of people tells of the borders of a face, by family; under hair they tell nothing."""
    outlines = outlines_of(landmarks)
    view = view_face(photo, outlines)
    assert view is not None, "the face lies in its photo"
    seen = outlines.moved(view.offset, view.scale)
    blurred = cv2.GaussianBlur(view.lab, (0, 0), BLUR_PX)
    parts: dict[str, list[BorderExamples]] = {}
    for name, border in borders_of(seen).items():
        drawn, usable = _drawn(border, view.offset, view.scale, truth, LABELS_OF_BORDER[name])
        features = border_features(blurred, border)
        for family in dict.fromkeys(border.families):
            chosen = usable & (np.array(border.families) == family)
            examples = BorderExamples(features[chosen], drawn[chosen], border.allowed[chosen])
            parts.setdefault(family, []).append(examples)
    return {family: _joined(examples) for family, examples in parts.items()}


def learn_border_weights(photos: Sequence[dict[str, BorderExamples]]) -> dict[str, tuple[float, ...]]:
    """Weights of `FEATURES` of each family from the `border_examples` of several photos."""
    weights = {}
    for family in dict.fromkeys(family for photo in photos for family in photo):
        examples = _joined([photo[family] for photo in photos if family in photo])
        used = [
            index
            for index, feature in enumerate(FEATURES)
            if not (feature.startswith("redness") and family.startswith(COLOURLESS))
        ]
        weights[family] = _learn(examples, used)
    return weights


def _drawn(
    border: Border, offset: np.ndarray, scale: np.ndarray, truth: np.ndarray, inside: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """(M, K) probability that people drew the border at each offset, and (M,) whether they drew one there."""
    places = border.points[:, None] + (OFFSETS - STEP / 2.0)[None, :, None] * border.unit_px * border.normals[:, None]
    places = places / scale + offset
    is_inside, is_hair = (
        sample(np.isin(truth, chosen).astype(np.float32), places) for chosen in (inside, (labels.HAIR,))
    )
    explained = np.cumsum(2.0 * is_inside - 1.0, axis=1)
    drawn = softmax(np.where(border.allowed, SHARPNESS * explained, -np.inf), axis=1)
    usable = (is_inside.max(axis=1) > 0.5) & ~(is_hair.max(axis=1) > 0.5)
    if not border.closed:
        usable[:OPEN_ENDS] = usable[-OPEN_ENDS:] = False
    return drawn, usable


def _joined(examples: Sequence[BorderExamples]) -> BorderExamples:
    return BorderExamples(
        np.concatenate([each.features for each in examples]),
        np.concatenate([each.drawn for each in examples]),
        np.concatenate([each.allowed for each in examples]),
    )


def _learn(examples: BorderExamples, used: Sequence[int]) -> tuple[float, ...]:
    features = examples.features[..., used]
    spread = features.reshape(-1, len(used)).std(axis=0) + 1e-6
    features = features / spread
    share = 1.0 / ALIKE

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        odds = np.where(examples.allowed, features @ weights, -np.inf)
        missed = np.exp(odds - logsumexp(odds, axis=1, keepdims=True)) - examples.drawn
        likelihood = (examples.drawn * np.where(examples.allowed, odds, 0.0)).sum() - logsumexp(odds, axis=1).sum()
        slope = np.einsum("nk,nkf->f", missed, features)
        return RIDGE / 2.0 * weights @ weights - share * likelihood, RIDGE * weights + share * slope

    learnt = minimize(loss, np.zeros(len(used)), jac=True, method="L-BFGS-B").x / spread
    table = np.zeros(len(FEATURES))
    table[list(used)] = learnt
    return tuple(table.round(3).tolist())
