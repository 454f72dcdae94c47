"""From an observation in photo pixels to what the energy compares with, in crop pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from fit3d import labels
from fit3d.camera import Crop
from fit3d.config import FitConfig
from fit3d.energy.landmarks import LandmarkTarget
from fit3d.energy.prdl import PixelSet, anchor_grid, pixel_centres, pixel_sets, see_furthest, see_mean, see_nearest
from fit3d.landmarks import BROW_LANDMARKS, CONTOUR_LANDMARKS
from fit3d.observe.base import Landmarks, Observation

SPECK_SHARE = 0.1
"""A connected piece of a part smaller than this share of the part's largest piece is taken for label noise."""
SMALLEST_PIECE = 6
"""A connected piece of fewer crop pixels is dropped in any case."""


@dataclass(frozen=True)
class PartTarget:
    """What one part of the photo looks like from the anchors."""

    label: int
    weight: float
    """Energy of a descriptor error of one px^2, averaged over the anchors."""
    nearest: Tensor
    """(A,) px."""
    furthest: Tensor
    """(A,) px."""
    mean: Tensor
    """(A',) px, at the coarse anchors."""


@dataclass(frozen=True)
class Targets:
    """All that the energy of one face compares the model with."""

    crop: Crop
    landmarks: LandmarkTarget
    parts: tuple[PartTarget, ...]
    """The parts that are seen at all."""
    hidden: Tensor
    """(R, R) bool: crop pixels that lie beyond the photo, or where something in front of the face hides it; no part
    counts there, on either side."""
    above_brows: Tensor
    """(R, R) bool: crop pixels beyond the line through the brows; skin does not count there, on either side."""
    anchors: Tensor
    """(A,) int64 flat crop pixels."""
    coarse_anchors: Tensor
    """(A',) int64 flat crop pixels, for 'mean'."""


def face_crop(landmarks: Landmarks, config: FitConfig) -> Crop:
    """The square around the landmarks' box."""
    left, top, right, bottom = landmarks.box_px
    size = max(right - left, bottom - top) * (1.0 + 2.0 * config.crop.margin)
    return Crop(
        left=(left + right - size) / 2.0,
        top=(top + bottom - size) / 2.0,
        size=size,
        resolution=config.crop.resolution,
    )


def unit_px(config: FitConfig) -> float:
    """Raster pixels of the crop per 'crop px' of the configuration, which are those of a 224-pixel crop."""
    return config.crop.resolution / 224.0


def crop_labels(parts: np.ndarray, crop: Crop) -> tuple[np.ndarray, np.ndarray]:
    """The label under each crop pixel's centre (R, R) uint8, and which centres lie within the photo (R, R) bool."""
    height, width = parts.shape
    at = (np.arange(crop.resolution) + 0.5) / crop.scale
    columns, rows = np.floor(at + crop.left).astype(int), np.floor(at + crop.top).astype(int)
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None, :]
    found = parts[np.clip(rows, 0, height - 1)[:, None], np.clip(columns, 0, width - 1)[None, :]]
    return np.where(inside, found, labels.BACKGROUND), inside


def without_specks(mask: np.ndarray) -> np.ndarray:
    """`mask` (R, R) bool without connected pieces that are small beside the largest one, or tiny."""
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= max(SPECK_SHARE * sizes.max(), SMALLEST_PIECE))[pieces] & mask)


def part_masks(part_labels: Tensor, hidden: Tensor, above_brows: Tensor) -> Tensor:
    """(8, R, R) bool: the pixels of each PRDL part that count, from part labels (R, R).

    Photo and model go through this same function, so that what is left out is left out on both sides.
    """
    seen = torch.where(hidden, 0, part_labels)
    masks = torch.stack([seen == label for label in labels.PRDL_PARTS])
    masks[labels.PRDL_PARTS.index(labels.SKIN)] &= ~above_brows
    cleaned = np.stack([without_specks(mask) for mask in masks.cpu().numpy()])
    return torch.from_numpy(cleaned).to(masks.device)


def make_targets(observation: Observation, config: FitConfig, dtype: torch.dtype = torch.float32) -> Targets:
    """Crop, clean and describe one observed face. Tensors are made on `config.device`."""
    crop = face_crop(observation.landmarks, config)
    device = config.device
    resolution = crop.resolution
    observed, inside = crop_labels(observation.parts, crop)
    hidden = torch.from_numpy(_hidden(observed) | ~inside).to(device)
    above = torch.from_numpy(_above_brows(observation.landmarks, crop)).to(device)
    masks = part_masks(torch.from_numpy(observed.astype(np.int64)).to(device), hidden, above)
    anchors = anchor_grid(config.anchors, resolution, device)
    coarse = anchor_grid(config.prdl.mean_anchors, resolution, device)
    parts = tuple(
        _describe(label, weight, pixels, anchors, coarse, resolution, config, dtype)
        for label, weight, pixels in zip(
            labels.PRDL_PARTS, config.prdl.part_weights, pixel_sets(masks, config.prdl.mean_points), strict=True
        )
        if not pixels.empty
    )
    return Targets(
        crop=crop,
        landmarks=_landmark_target(observation, crop, config, dtype),
        parts=parts,
        hidden=hidden,
        above_brows=above,
        anchors=anchors,
        coarse_anchors=coarse,
    )


def _describe(
    label: int,
    weight: float,
    pixels: PixelSet,
    anchors: Tensor,
    coarse: Tensor,
    resolution: int,
    config: FitConfig,
    dtype: torch.dtype,
) -> PartTarget:
    at, coarse_at = pixel_centres(anchors, resolution, dtype), pixel_centres(coarse, resolution, dtype)
    return PartTarget(
        label=label,
        weight=weight * config.prdl.weight / unit_px(config) ** 2,
        nearest=see_nearest(pixel_centres(pixels.border, resolution, dtype), at, pixels.mask[anchors]).distance,
        furthest=see_furthest(pixel_centres(pixels.extreme, resolution, dtype), at).distance,
        mean=see_mean(pixel_centres(pixels.spread, resolution, dtype), coarse_at)[0],
    )


def _landmark_target(observation: Observation, crop: Crop, config: FitConfig, dtype: torch.dtype) -> LandmarkTarget:
    landmarks = observation.landmarks
    px = crop.crop_from_px(torch.from_numpy(np.asarray(landmarks.points_px, dtype=np.float64)))
    unit = unit_px(config)
    noise = torch.full((px.shape[0],), config.landmarks.noise_px * unit, dtype=torch.float64)
    noise[list(CONTOUR_LANDMARKS[landmarks.layout])] = config.landmarks.contour_noise_px * unit
    noise[torch.from_numpy(beyond_photo(landmarks, observation.parts.shape))] *= config.landmarks.beyond_photo
    present = torch.isfinite(px).all(-1)
    share = config.landmarks.effective_count / max(float(present.sum()), config.landmarks.effective_count)
    weight = torch.where(present, share / noise.square(), 0.0)
    return LandmarkTarget(
        px=torch.nan_to_num(px).to(config.device, dtype),
        weight=weight.to(config.device, dtype),
        outlier_px=config.landmarks.outlier_px * unit,
    )


def beyond_photo(landmarks: Landmarks, hw: tuple[int, ...]) -> np.ndarray:
    """(N,) bool: landmarks outside a photo of height and width `hw`, where no detector can see them."""
    with np.errstate(invalid="ignore"):
        return np.asarray(((landmarks.points_px < 0) | (landmarks.points_px > np.array(hw[::-1]))).any(1))


def _hidden(observed: np.ndarray) -> np.ndarray:
    """(R, R) bool: hair anywhere, and other things (hand, glasses, microphone) within the face.

    'Other' outside the face's convex hull is neck or ear, which the face does not reach; there it must count against
    a model that is too large.
    """
    face = np.isin(observed, (*labels.PRDL_PARTS, labels.INNER_MOUTH))
    hull = _convex_hull(face)
    return (observed == labels.HAIR) | ((observed == labels.OTHER) & hull)


def _convex_hull(mask: np.ndarray) -> np.ndarray:
    """(R, R) bool: pixels within the convex hull of `mask`; the mask itself where it is too small to have one."""
    rows, columns = np.nonzero(mask & ~ndimage.binary_erosion(mask))
    try:
        facets = ConvexHull(np.stack([columns, rows], 1)).equations
    except (QhullError, ValueError):
        return mask
    y, x = np.indices(mask.shape)
    inside = np.ones(mask.shape, dtype=bool)
    for nx, ny, offset in facets:
        inside &= nx * x + ny * y + offset <= 1e-9
    return inside


def _above_brows(landmarks: Landmarks, crop: Crop) -> np.ndarray:
    """(R, R) bool: crop pixels beyond the straight line through the centroids of both brows' landmarks.

    Nothing where all landmarks of a brow are missing. Landmarks, not labels, because a fringe, a hat or a turned head
    hides brows and would take the line with them.
    """
    nothing = np.zeros((crop.resolution, crop.resolution), dtype=bool)
    points = (landmarks.points_px - np.array([crop.left, crop.top])) * crop.scale
    present = np.isfinite(points).all(1)
    brows = [np.array(side)[present[list(side)]] for side in BROW_LANDMARKS[landmarks.layout]]
    if min(len(side) for side in brows) == 0:
        return nothing
    right, left = (points[side].mean(0) for side in brows)
    normal = np.array([left[1] - right[1], right[0] - left[0]])
    if np.linalg.norm(normal) < 1e-9:
        return nothing
    if (points[present].mean(0) - right) @ normal > 0:  # the face lies below its brows, whichever way it is turned
        normal = -normal
    at = np.arange(crop.resolution) + 0.5
    return np.asarray((at[None, :] - right[0]) * normal[0] + (at[:, None] - right[1]) * normal[1] > 0)
