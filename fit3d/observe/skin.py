"""Where a face shows skin, and where hair, a hand, glasses, a hat or anything else hides it.

Skin has one colour and the light on it changes slowly across a face. So the colour of skin is taken for a smooth
function of the place, a quadratic in the face's own axes fitted to the face robustly: it follows light from the side,
and what does not follow it is no skin. Against it stand the colours of the surroundings, of hair and background. The
log-odds of both are smoothed along the photo's own edges (guided filter, He, Sun and Tang, ECCV 2010), and what is
skin by them, connected and within the face is skin. The face's outline from landmarks ends at the forehead; there the
region reaches further up, as far as the skin does.

Make-up and lashes have any colour: right around eyes, brows and lips what lies further out decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from fit3d.labels import BACKGROUND, HAIR, INNER_MOUTH, LOWER_LIP, NOSE, OTHER, SKIN, UPPER_LIP
from fit3d.observe.contours import FaceOutlines, fill_outlines
from fit3d.observe.face_view import FaceView, sample

AROUND_EYES = 0.09
"""Width, units of the face, of the surroundings of eyes in which colours do not tell skin."""
AROUND_FEATURES = 0.035
"""The same of brows and mouth."""
FOREHEAD = 1.65
"""How many times as high as its outline from landmarks the forehead may be."""
STRONGEST = 4.0
"""Largest log-odds of a pixel's colour."""
SKIN_NOISE = (6.0, 3.0, 3.0)
"""Standard deviation of skin's L*, a*, b* on top of what is measured around the smooth colour."""
OUTLIER = 14.0
"""Squared Mahalanobis distance from the smooth colour beyond which a pixel does not take part in fitting it."""
FILTER_RADIUS, FILTER_EVENNESS = 4, 1e-3
"""Of the guided filter: px, and variance of L* / 100 below which the photo counts as even."""
SPECK = 0.002
"""Area, squared units, of holes and islands that are filled or dropped."""
LIPS_LIGHTER, LIPS_LESS_RED = 3.0, -1.0
"""What is lighter than the skin around by this L* and less red by this a* is no mouth: a hand, a cup."""
AROUND_STRANGE = 0.12
"""So near to such a thing, units, nobody knows what is skin."""
FRAME_ODDS, FRAME_DARKER = -1.0, 15.0
"""The frame of glasses has lower log-odds of skin than this, and is darker than most skin by this much L*."""
AROUND_FRAMES = 0.015
"""So near to an eye or a brow, units, nothing counts as frame: lashes."""
BRIDGE_HALF, BRIDGE_TOP, BRIDGE_BOTTOM, BRIDGE_COLUMNS = 0.045, 0.02, 0.15, 8
"""There are glasses where something dark crosses the nose from side to side: half width, top and bottom below the
brows, units, of where it does, and in how many columns it must be seen."""
FEATURE_HIDDEN = -3.0
"""Below these log-odds of its surroundings a feature's pixel is hidden."""
LOW, HIGH, BINS = np.array([0.0, -45.0, -45.0]), np.array([100.0, 75.0, 75.0]), np.array([20, 24, 24])
"""Range and number of cells of colour histograms, L*, a*, b*."""


@dataclass(frozen=True)
class SkinMap:
    """What is skin in a view, all (h, w)."""

    odds: np.ndarray
    """float32: log-odds of skin, smoothed; below zero something hides the face or the face ends."""
    parts: np.ndarray
    """uint8: the parts as outlined, hidden or not."""
    unit_px: float
    """The face's unit."""
    cover: np.ndarray
    """uint8: what hides it, `HAIR` or `OTHER`; `SKIN` where nothing does, `BACKGROUND` beyond the face."""


@dataclass(frozen=True)
class _Place:
    """Where the pixels of a view lie on the face, all (h, w)."""

    across: np.ndarray
    """Units, towards the person's left, from between the brows."""
    down: np.ndarray
    """Units, towards the chin, from between the brows."""
    depth: np.ndarray
    """Units inside the face's outline; negative outside."""
    depth_of_forehead: np.ndarray
    """The same with the forehead drawn up."""


def map_skin(view: FaceView, outlines: FaceOutlines) -> SkinMap:
    """What is skin in a view of the face with these outlines, photo px."""
    seen = outlines.moved(view.offset, view.scale)
    height, width = view.lab.shape[:2]
    parts = fill_outlines(seen, height, width)
    unit = seen.unit_px
    place = _place(parts, seen)
    lab = cv2.GaussianBlur(view.lab, (0, 0), 1.0)
    strange = _hidden_mouth(lab, parts, unit)
    features = (parts > BACKGROUND) & (parts != SKIN) & (parts != NOSE) & ~strange
    unsure = _grown(features, AROUND_FEATURES * unit) | _grown((parts == 1) | (parts == 2), AROUND_EYES * unit)
    usable = ~(unsure | _grown(strange, AROUND_STRANGE * unit))
    colour_odds = _colour_odds(lab, place, usable, strange)

    sure = np.where(unsure, 0.0, 1.0).astype(np.float32)
    around = _spread(colour_odds, sure, 0.05 * unit)
    odds = np.where(unsure, around, colour_odds) + _prior(place)
    odds = _guided(view.lab[..., 0] / 100.0, odds.astype(np.float32))
    cover = _cover(odds, around, place, features, strange, unit)
    bare = cover == SKIN
    if bare.any():
        dark = (colour_odds < FRAME_ODDS) & (lab[..., 0] < np.median(lab[..., 0][bare]) - FRAME_DARKER)
        dark &= bare & (place.depth > 0.02) & ~_grown(features, AROUND_FRAMES * unit)
        cover[_glasses(dark, place)] = OTHER
    return SkinMap(odds, parts, unit, cover)


def _place(parts: np.ndarray, outlines: FaceOutlines) -> _Place:
    height, width = parts.shape
    unit = outlines.unit_px
    down = outlines.down / unit
    left = np.array([down[1], -down[0]])
    brows = np.concatenate([curve for pair in outlines.brows for curve in pair])
    brows = brows[np.isfinite(brows).all(axis=1)]
    top, chin = outlines.skin[1][0], outlines.skin[1][-1]
    middle = brows.mean(axis=0) if len(brows) else 0.75 * top + 0.25 * chin
    x = (np.arange(width, dtype=np.float32) + 0.5 - np.float32(middle[0])) / np.float32(unit)
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5 - np.float32(middle[1])) / np.float32(unit)
    left, down = left.astype(np.float32), down.astype(np.float32)
    across, below = x * left[0] + y * left[1], x * down[0] + y * down[1]
    face = (parts > BACKGROUND).astype(np.uint8)
    inwards, outwards = (np.minimum(cv2.distanceTransform(mask, cv2.DIST_L2, 5), 1e4) for mask in (face, 1 - face))
    depth = (inwards - outwards) / unit  # 1e4: a view of nothing but face, or of none, has no distance to its border
    lower = np.where(below < 0.0, below / FOREHEAD, below)
    drawn_up = middle + unit * (across[..., None] * left + lower[..., None] * down)
    return _Place(across, below, depth, sample(depth.astype(np.float32), drawn_up))


def _colour_odds(lab: np.ndarray, place: _Place, usable: np.ndarray, strange: np.ndarray) -> np.ndarray:
    """(h, w) log-odds of skin by colour alone, within `STRONGEST`.

    Skin's colour is learnt where pixels are `usable` (h, w); what is `strange` (h, w) is known to be none.
    """
    inner = (place.depth > 0.04) & usable
    core = inner & (place.down > 0.02)  # below the brows, where a fringe or a hat seldom reaches
    core = core if core.sum() > 50 else inner
    height, width = lab.shape[:2]
    if core.sum() < 20:
        return np.zeros((height, width), np.float32)
    across, down = np.clip(place.across, -0.55, 0.55), np.clip(place.down, -0.25, 0.95)
    terms = np.stack([np.ones_like(across), across, down, across**2, across * down, down**2], axis=-1)
    coefficients, precision, trust = _smooth_colour(terms[core].astype(np.float64), lab[core].astype(np.float64))
    # the squared Mahalanobis distance from the smooth colour is the squared length of the whitened difference
    white = np.linalg.cholesky(precision).astype(np.float32)
    distance = np.square((lab - terms @ coefficients.astype(np.float32)) @ white).sum(axis=-1)

    cell = float(np.prod((HIGH - LOW) / BINS))
    cells = _cells(lab)
    height_of_gauss = float(np.sqrt(np.linalg.det(precision) / (2.0 * np.pi) ** 3))
    skin = 0.7 * height_of_gauss * np.exp(-0.5 * np.minimum(distance, 60.0))
    skin += 0.3 / cell * _histogram(cells[core][trust > 0.2])[cells]
    other = np.full(cells.shape, 1.0 / np.prod(HIGH - LOW), np.float32)
    beyond = (place.depth < -0.10) & (place.down < 0.25) & ((np.abs(place.across) > 0.45) | (place.down < -0.45))
    for known in (beyond, strange):
        if known.sum() > 200:
            other += 0.75 / cell * _histogram(cells[known])[cells]
    return np.clip(np.log((skin + 1e-12) / (other + 1e-12)), -STRONGEST, STRONGEST).astype(np.float32)


def _smooth_colour(terms: np.ndarray, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients (6, 3) of the quadratic through most of the colours (N, 3), the precision (3, 3) of colours around
    it, and how much each takes part (N,): iteratively reweighted least squares with Tukey's weights."""
    noise = np.array(SKIN_NOISE)
    middle = np.median(colours, axis=0)
    deviation = 1.4826 * np.median(np.abs(colours - middle), axis=0) + noise
    trust = np.clip(1.0 - (((colours - middle) / deviation) ** 2).sum(axis=1) / 12.0, 0.0, 1.0) + 1e-3
    stiff = 0.05 * len(terms) * np.diag([0.0, 0.02, 0.02, 0.1, 0.1, 0.1])
    for _ in range(5):
        weighted = terms * trust[:, None]
        coefficients = np.linalg.solve(weighted.T @ terms + trust.mean() * stiff, weighted.T @ colours)
        residual: np.ndarray = colours - terms @ coefficients
        covariance = 1.3 * (residual * trust[:, None]).T @ residual / trust.sum() + np.diag(noise**2)
        precision = np.linalg.inv(covariance)
        distance = np.einsum("ni,ij,nj->n", residual, precision, residual)
        trust = np.clip(1.0 - distance / OUTLIER, 0.0, 1.0) ** 2 + 1e-3
    return coefficients, precision, trust


def _prior(place: _Place) -> np.ndarray:
    """(h, w) log-odds of skin by place: inside the outline rather yes, beyond it no; above the brows colours decide."""
    below = np.clip(place.depth / 0.012, -12.0, 2.0)
    above = np.clip(place.depth_of_forehead / 0.03, -12.0, 0.0) + np.clip(place.depth / 0.05, -1.0, 1.0)
    return np.where(place.down < 0.0, above, below)


def _cover(
    odds: np.ndarray, around: np.ndarray, place: _Place, features: np.ndarray, strange: np.ndarray, unit: float
) -> np.ndarray:
    """(h, w) uint8, see `SkinMap`; `around` are the log-odds of what surrounds each pixel of the features (h, w)."""
    face = (place.depth > 0.0) | ((place.down < 0.0) & (place.depth_of_forehead > 0.0))
    hidden = (face & (odds <= 0.0) & ~features) | strange
    # what hides the face comes from beyond it; other spots are highlights, moles, shadows
    seeds = strange | (hidden & (place.depth_of_forehead < 0.02) & (place.depth < 0.02))
    pieces, count = ndimage.label(hidden)
    areas = np.bincount(pieces.ravel(), minlength=count + 1)
    from_outside = np.bincount(pieces[seeds], minlength=count + 1) > 0
    kept = from_outside & (areas > SPECK * unit**2)
    kept[0] = False
    high = np.bincount(pieces[place.down < 0.25], minlength=count + 1) > 0.3 * areas
    cover = np.where(face, SKIN, BACKGROUND).astype(np.uint8)
    hidden = kept[pieces]
    cover[hidden] = np.where(high[pieces], HAIR, OTHER)[hidden]
    cover[features & (around < FEATURE_HIDDEN)] = HAIR
    return cover


def _hidden_mouth(lab: np.ndarray, parts: np.ndarray, unit: float) -> np.ndarray:
    """(h, w) bool: all that is outlined as mouth, if it is no mouth: lips are redder or darker than the skin around."""
    lips, mouth = (parts == UPPER_LIP) | (parts == LOWER_LIP), (parts >= UPPER_LIP) & (parts <= INNER_MOUTH)
    mouth &= parts != SKIN
    ring = _grown(mouth, 0.08 * unit) & ~_grown(mouth, 0.02 * unit) & (parts == SKIN)
    if lips.any() and ring.any():
        lightness, redness, _ = lab[lips].mean(axis=0) - lab[ring].mean(axis=0)
        if lightness > LIPS_LIGHTER and redness < LIPS_LESS_RED:
            return mouth
    return np.zeros_like(mouth)


def _glasses(dark: np.ndarray, place: _Place) -> np.ndarray:
    """(h, w) bool: the frame of glasses among the dark pixels (h, w); nothing without a bridge over the nose."""
    bridge = dark & (np.abs(place.across) < BRIDGE_HALF) & (place.down > BRIDGE_TOP) & (place.down < BRIDGE_BOTTOM)
    columns = np.floor((place.across[bridge] / BRIDGE_HALF + 1.0) * 0.5 * BRIDGE_COLUMNS).astype(int)
    if len(np.unique(columns)) < BRIDGE_COLUMNS:
        return np.zeros_like(dark)
    near = dark & (place.down > -0.08) & (place.down < 0.28)
    pieces, _ = ndimage.label(near, structure=np.ones((3, 3)))
    return np.isin(pieces, np.unique(pieces[bridge]))


def _grown(mask: np.ndarray, by_px: float) -> np.ndarray:
    """(h, w) bool: the mask and all within `by_px` of it."""
    if not mask.any():
        return mask
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5) <= by_px)


def _spread(values: np.ndarray, sure: np.ndarray, width_px: float) -> np.ndarray:
    """(h, w) mean of what is sure around each pixel, wider where nothing is near."""
    total, count = np.zeros_like(values), np.full_like(values, 1e-9)
    for scale, share in ((1.0, 1.0), (3.0, 1e-3)):
        total += share * cv2.GaussianBlur(values * sure, (0, 0), scale * width_px)
        count += share * cv2.GaussianBlur(sure, (0, 0), scale * width_px)
    return total / count


def _guided(guide: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(h, w) float32: the guided filter of values by a grey guide."""

    def mean(image: np.ndarray) -> np.ndarray:
        side = 2 * FILTER_RADIUS + 1
        return np.asarray(cv2.blur(image, (side, side), borderType=cv2.BORDER_REFLECT))

    guide_mean, values_mean = mean(guide), mean(values)
    slope = (mean(guide * values) - guide_mean * values_mean) / (mean(guide * guide) - guide_mean**2 + FILTER_EVENNESS)
    return mean(slope) * guide + mean(values_mean - slope * guide_mean)


def _cells(lab: np.ndarray) -> np.ndarray:
    """(...) number of the histogram's cell of colours (..., 3)."""
    place = (lab - LOW.astype(np.float32)) * (BINS / (HIGH - LOW)).astype(np.float32)
    cell = np.clip(place, 0.0, BINS.astype(np.float32) - 0.5).astype(np.int32)
    return np.asarray((cell[..., 0] * BINS[1] + cell[..., 1]) * BINS[2] + cell[..., 2])


def _histogram(cells: np.ndarray) -> np.ndarray:
    """Smoothed share of each cell, (prod(BINS),) float32, among cells (N,)."""
    counts = np.bincount(cells, minlength=int(np.prod(BINS))).reshape(tuple(BINS)).astype(np.float32)
    smooth = ndimage.gaussian_filter(counts, 1.0).ravel()
    return np.asarray(smooth / max(float(smooth.sum()), 1e-9))
