"""From an observation in photo pixels to what the energy compares with, in crop pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from fit3d import labels
from fit3d.camera import Crop
from fit3d.config import FitConfig
from fit3d.energy.landmarks import LandmarkTarget
from fit3d.energy.losses import loss_weight
from fit3d.energy.part_loss import PartLoss
from fit3d.energy.pixels import count_pixels, hull_corners, without_specks
from fit3d.errors import ObservationError
from fit3d.landmarks import BROW_LANDMARKS, CONTOUR_LANDMARKS, LID_LANDMARKS
from fit3d.observe.base import Landmarks, Observation

SPECK_SHARE = 0.1
"""A connected piece of a part smaller than this share of the part's largest piece is taken for label noise."""
SMALLEST_PIECE = 6
"""A connected piece of fewer crop pixels is dropped in any case."""
FEWEST_LANDMARKS = 12
"""Fewer usable landmarks do not tell a pose."""
SHUT_GAP = 0.07
"""Lids whose landmarks are nearer to each other than this share of the eye's width may meet. Detectors keep 0.02 to
0.07 between shut lids; open ones, unless narrowed by laughter, have 0.1 to 0.3."""
SHUT_AREA = 0.045
"""Of a shut eye parsers find less than this, squared widths of the eye: what their lines of lashes enclose."""
LIDS_SEEN = 0.7
"""Mean trust of the lids' landmarks below which they do not tell whether the eye is shut."""

T = TypeVar("T")


@dataclass(frozen=True)
class Targets:
    """All that the energy of a batch of B faces compares the model with."""

    crops: tuple[Crop, ...]
    landmarks: LandmarkTarget
    part_weights: Tensor
    """(B, 8) energy of an error of one squared crop px in each of `labels.PRDL_PARTS`; 0 where the photo shows none of
    it."""
    masks: Tensor
    """(B, 8, R, R) bool: the pixels of each part of the photos that count."""
    described: Any
    """What the part loss remembers of them; None without one."""
    hidden: Tensor
    """(B, R, R) bool: crop pixels that lie beyond the photo, or where something in front of the face hides it; no part
    counts there, on either side."""
    above_brows: Tensor
    """(B, R, R) bool: crop pixels beyond the line through the brows; skin does not count there, on either side."""
    shut: Tensor
    """(B, 2) energy of a squared crop px between the lids of the right and of the left eye; 0 unless it is shut."""

    def __len__(self) -> int:
        return len(self.crops)

    def take(self, photos: Tensor) -> Targets:
        """The faces `photos` (n,) int64 of the batch."""
        return replace(
            self,
            crops=tuple(self.crops[photo] for photo in photos.tolist()),
            landmarks=self.landmarks.take(photos),
            part_weights=self.part_weights[photos],
            masks=self.masks[photos],
            described=rows_of(self.described, photos),
            hidden=self.hidden[photos],
            above_brows=self.above_brows[photos],
            shut=self.shut[photos],
        )


def rows_of(batch: T, photos: Tensor) -> T:
    """Rows `photos` (n,) int64 of a tensor, or of all tensors of nested frozen dataclasses; None of None."""
    if batch is None:
        return batch
    if isinstance(batch, Tensor):
        return cast(T, batch[photos])
    assert is_dataclass(batch) and not isinstance(batch, type)
    return cast(T, type(batch)(*(rows_of(getattr(batch, each.name), photos) for each in fields(batch))))


def face_crop(observation: Observation, config: FitConfig) -> Crop:
    """The square around the landmarks' box; without landmarks around the labelled face.

    Raises ObservationError where neither shows a face.
    """
    box = observation.landmarks.box_px if enough_landmarks(observation.landmarks) else _labelled_box(observation.parts)
    left, top, right, bottom = box
    size = max(right - left, bottom - top) * (1.0 + 2.0 * config.crop.margin)
    return Crop(
        left=(left + right - size) / 2.0,
        top=(top + bottom - size) / 2.0,
        size=size,
        resolution=config.crop.resolution,
    )


def enough_landmarks(landmarks: Landmarks) -> bool:
    """Whether so many landmarks are present that they tell a pose."""
    return usable_landmarks(landmarks) >= FEWEST_LANDMARKS


def usable_landmarks(landmarks: Landmarks) -> int:
    """Landmarks that are present and trusted at all."""
    return int((landmarks.trust > 0.0).sum())


def _labelled_box(parts: np.ndarray) -> tuple[float, float, float, float]:
    """Tight box (left, top, right, bottom), photo px, of the parts from the brows down."""
    features = np.isin(parts, labels.IOU_PARTS)
    if not features.any():
        raise ObservationError(
            f"fewer than {FEWEST_LANDMARKS} landmarks are usable and no eye, brow, nose or lip is labelled: "
            "there is nothing to fit to"
        )
    face = features | (parts == labels.SKIN)
    face[: int(np.flatnonzero(features.any(1))[0])] = False
    rows, columns = np.flatnonzero(face.any(1)), np.flatnonzero(face.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def crop_labels(parts: np.ndarray, crop: Crop) -> tuple[np.ndarray, np.ndarray]:
    """The label under each crop pixel's centre (R, R) uint8, and which centres lie within the photo (R, R) bool."""
    height, width = parts.shape
    at = (np.arange(crop.resolution) + 0.5) / crop.scale
    columns, rows = np.floor(at + crop.left).astype(int), np.floor(at + crop.top).astype(int)
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None, :]
    found = parts[np.clip(rows, 0, height - 1)[:, None], np.clip(columns, 0, width - 1)[None, :]]
    return np.where(inside, found, labels.BACKGROUND), inside


def part_masks(part_labels: Tensor, hidden: Tensor, above_brows: Tensor) -> Tensor:
    """(B, 8, R, R) bool: the pixels of each PRDL part that count, from part labels (B, R, R).

    Photo and model go through this same function, so that what is left out is left out on both sides.
    """
    seen = part_labels.masked_fill(hidden, labels.BACKGROUND)
    masks = seen[:, None] == torch.tensor(labels.PRDL_PARTS, dtype=seen.dtype, device=seen.device)[:, None, None]
    masks[:, labels.PRDL_PARTS.index(labels.SKIN)] &= ~above_brows
    return without_specks(masks, SPECK_SHARE, SMALLEST_PIECE)


def make_targets(
    observations: Sequence[Observation],
    config: FitConfig,
    part_loss: PartLoss | None,
    dtype: torch.dtype = torch.float32,
    crops: Sequence[Crop] | None = None,
) -> Targets:
    """Crop, clean and describe observed faces of one landmark layout. Tensors are made on `config.device`.

    `crops` are the squares to measure in; None takes `face_crop` of each.
    """
    crops = tuple(crops) if crops is not None else tuple(face_crop(each, config) for each in observations)
    cut = [crop_labels(each.parts, crop) for each, crop in zip(observations, crops, strict=True)]
    observed = torch.from_numpy(np.stack([found for found, _ in cut]).astype(np.int32)).to(config.device)
    hidden = np.stack([~inside if config.parts.under_hair else _hidden(found) | ~inside for found, inside in cut])
    above = np.zeros_like(hidden)
    if not config.parts.forehead:
        triples = zip(observations, crops, cut, strict=True)
        above = np.stack([_above_brows(each.landmarks, crop, found) for each, crop, (found, _) in triples])
    out_of_sight, above_brows = torch.from_numpy(hidden).to(config.device), torch.from_numpy(above).to(config.device)
    masks = part_masks(observed, out_of_sight, above_brows)
    weights = torch.tensor(config.parts.weights, dtype=dtype, device=config.device)
    trust = torch.from_numpy(np.stack([_part_trust(each) for each in observations])).to(weights)
    part_weights = (count_pixels(masks) > 0) * weights * trust * (loss_weight(config) / config.crop.unit_px**2)
    triples = zip(observations, crops, cut, strict=True)
    shut = torch.from_numpy(np.stack([shut_eyes(each, crop, found) for each, crop, (found, _) in triples])).to(weights)
    part_weights[:, : shut.shape[1]] *= 1.0 - shut
    landmarks = [_landmark_target(each, crop, config, dtype) for each, crop in zip(observations, crops, strict=True)]
    return Targets(
        crops=crops,
        landmarks=LandmarkTarget(
            px=torch.stack([each.px for each in landmarks]),
            weight=torch.stack([each.weight for each in landmarks]),
            outlier_px=landmarks[0].outlier_px,
        ),
        part_weights=part_weights,
        masks=masks,
        described=None if part_loss is None else part_loss.describe(masks),
        hidden=out_of_sight,
        above_brows=above_brows,
        shut=shut * (config.parts.shut_weight / config.crop.unit_px**2),
    )


def _landmark_target(observation: Observation, crop: Crop, config: FitConfig, dtype: torch.dtype) -> LandmarkTarget:
    landmarks = observation.landmarks
    px = crop.crop_from_px(torch.from_numpy(np.asarray(landmarks.points_px, dtype=np.float64)))
    unit = config.crop.unit_px
    noise = torch.full((px.shape[0],), config.landmarks.noise_px * unit, dtype=torch.float64)
    noise[list(CONTOUR_LANDMARKS[landmarks.layout])] = config.landmarks.contour_noise_px * unit
    noise[torch.from_numpy(beyond_photo(landmarks, observation.parts.shape))] *= config.landmarks.beyond_photo
    share = config.landmarks.effective_count / max(usable_landmarks(landmarks), config.landmarks.effective_count)
    weight = torch.from_numpy(landmarks.trust) * share / noise.square()
    return LandmarkTarget(
        px=torch.nan_to_num(px).to(config.device, dtype),
        weight=weight.to(config.device, dtype),
        outlier_px=config.landmarks.outlier_px * unit,
    )


def shut_eyes(observation: Observation, crop: Crop, observed: np.ndarray) -> np.ndarray:
    """(2,) bool: whether the right and the left eye are seen to be shut.

    An eye that the parser does not find may be hidden, or shut. It is shut where the detector sees both lids, and sees
    them meet, and nothing but skin and a sliver of eye lies on the line where they do. `observed` (R, R) are the labels
    in the crop.
    """
    landmarks = observation.landmarks
    shut = np.zeros(2, dtype=bool)
    if landmarks.confidence is None:  # it would say the same of lids that it only guesses
        return shut
    px = (landmarks.points_px - np.array([crop.left, crop.top])) * crop.scale
    trust = landmarks.trust
    for eye, lids in enumerate(LID_LANDMARKS[landmarks.layout]):
        label, (upper, lower) = labels.PRDL_PARTS[eye], px[np.array(lids)]
        width, area = np.linalg.norm(upper[-1] - upper[0]), np.count_nonzero(observed == label)
        gap = np.linalg.norm(upper - lower, axis=1)[1:-1].mean()
        # not a number where a landmark is missing, and then nothing is below anything
        meet = gap < SHUT_GAP * width and area < SHUT_AREA * width**2
        if not meet or trust[np.array(lids)].mean() < LIDS_SEEN:
            continue
        column, row = np.floor((upper + lower) / 2.0).astype(int).clip(0, crop.resolution - 1).T
        shut[eye] = np.isin(observed[row, column], (labels.SKIN, label)).all()
    return shut


def _part_trust(observation: Observation) -> np.ndarray:
    """(8,) how sure the parser is of each of `labels.PRDL_PARTS`."""
    if observation.part_confidence is None:
        return np.ones(len(labels.PRDL_PARTS))
    return np.asarray(observation.part_confidence[list(labels.PRDL_PARTS)])


def beyond_photo(landmarks: Landmarks, hw: tuple[int, ...]) -> np.ndarray:
    """(N,) bool: landmarks outside a photo of height and width `hw`, where no detector can see them."""
    with np.errstate(invalid="ignore"):
        return np.asarray(((landmarks.points_px < 0) | (landmarks.points_px > np.array(hw[::-1]))).any(1))


def _hidden(observed: np.ndarray) -> np.ndarray:
    """(R, R) bool: hair anywhere, and other things (hand, glasses, microphone) within the face.

    'Other' outside the face's convex hull is neck or ear, which the face does not reach; there it must count against
    a model that is too large.
    """
    hidden = observed == labels.HAIR
    rows, columns = np.nonzero(observed == labels.OTHER)
    within = _within_hull(rows, columns, np.isin(observed, (*labels.PRDL_PARTS, labels.INNER_MOUTH)))
    hidden[rows[within], columns[within]] = True
    return hidden


def _within_hull(rows: np.ndarray, columns: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(N,) bool: which pixels lie within the convex hull of `mask` (R, R); none where it is too small to have one."""
    corners = np.stack(np.divmod(hull_corners(mask), mask.shape[1]), 1)
    try:
        facets = ConvexHull(corners).equations
    except (QhullError, ValueError, IndexError):
        return np.zeros(len(rows), dtype=bool)
    pixels = np.stack([rows, columns, np.ones_like(rows)], 1)
    return np.asarray((pixels @ facets.T <= 1e-9).all(1))


def _above_brows(landmarks: Landmarks, crop: Crop, observed: np.ndarray) -> np.ndarray:
    """(R, R) bool: crop pixels beyond the straight line through the centroids of both brows.

    Of the brows' landmarks, because a fringe, a hat or a turned head hides brows and would take the line with them; of
    the labels (R, R) where the landmarks do not tell a pose. Nothing where a brow is missing.
    """
    nothing = np.zeros((crop.resolution, crop.resolution), dtype=bool)
    points = (landmarks.points_px - np.array([crop.left, crop.top])) * crop.scale
    present = np.isfinite(points).all(1)
    if enough_landmarks(landmarks):
        brows = [points[np.array(side)[present[list(side)]]] for side in BROW_LANDMARKS[landmarks.layout]]
        below = points[present]
    else:
        brows = [label_points(observed, label) for label in (labels.RIGHT_EYEBROW, labels.LEFT_EYEBROW)]
        below = label_points(observed, labels.NOSE, labels.UPPER_LIP, labels.LOWER_LIP)
    if min(len(side) for side in (*brows, below)) == 0:
        return nothing
    right, left = (side.mean(0) for side in brows)
    normal = np.array([left[1] - right[1], right[0] - left[0]])
    if np.linalg.norm(normal) < 1e-9:
        return nothing
    if (below.mean(0) - right) @ normal > 0:  # the face lies below its brows, whichever way it is turned
        normal = -normal
    at = np.arange(crop.resolution) + 0.5
    return np.asarray((at[None, :] - right[0]) * normal[0] + (at[:, None] - right[1]) * normal[1] > 0)


def label_points(observed: np.ndarray, *chosen: int) -> np.ndarray:
    """(N, 2) px: centres of the pixels of a label image (R, R) that have one of the chosen labels."""
    rows, columns = np.nonzero(np.isin(observed, chosen))
    return np.stack([columns, rows], 1) + 0.5
