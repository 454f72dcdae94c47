"""What the rivals of PRDL share: matches between pixels of two regions, and straight pulls at points of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d.devices import exact_dtype, flat_nonzero, nonzero_in_rows
from fit3d.energy.part_loss import Forces, gather_forces
from fit3d.energy.pixels import count_pixels, pixel_centres

NORMAL_RADIUS = 2
"""Pixels to each side that tell the direction of an outline."""
FLAT = 1e-3
"""A fall smaller than this share of a pixel's has no direction."""


@dataclass(frozen=True)
class Pulls:
    """What a loss does to single points of the model: each is pulled along one line."""

    part: Tensor
    """(M,) int64: photo * P + part."""
    pixel: Tensor
    """(M,) int64 flat crop pixel of the point that is pulled."""
    direction: Tensor
    """(M, 2) unit vector of the line."""
    slope: Tensor
    """(M,): half the derivative of the energy as the point moves along the line, energy / px."""
    stiffness: Tensor
    """(M,): half its second derivative, or a bound on it, energy / px^2."""

    @classmethod
    def join(cls, *several: Pulls) -> Pulls:
        """All the pulls of several sets."""
        return cls(
            torch.cat([each.part for each in several]),
            torch.cat([each.pixel for each in several]),
            torch.cat([each.direction for each in several]),
            torch.cat([each.slope for each in several]),
            torch.cat([each.stiffness for each in several]),
        )


@dataclass(frozen=True)
class SeenPulls:
    """A loss made of pulls, evaluated on a batch; implements `SeenParts`."""

    energy: Tensor
    """(B, P) `exact_dtype`; 0 where either side of a part is empty."""
    pulls: Pulls
    area: int
    """Pixels of the raster."""

    def forces(self, photos: Tensor) -> Forces:
        number = torch.full((self.energy.shape[0],), -1, dtype=torch.int64, device=photos.device)
        number[photos] = torch.arange(photos.numel(), device=photos.device)
        pulls = self.pulls
        photo = number[torch.div(pulls.part, self.energy.shape[1], rounding_mode="floor")]
        chosen = flat_nonzero(photo >= 0)
        x, y = pulls.direction[chosen].unbind(1)
        slope, stiffness = pulls.slope[chosen], pulls.stiffness[chosen]
        return Forces(
            gather_forces(
                photo[chosen],
                pulls.pixel[chosen],
                torch.stack([slope * x, slope * y]),
                torch.stack([stiffness * x * x, stiffness * x * y, stiffness * y * y]),
                photos.numel(),
                self.area,
            )
        )


def raster_pixels(masks: Tensor) -> Tensor:
    """(R * R,) int64: every flat pixel of the raster of masks (..., R, R)."""
    return torch.arange(masks.shape[-1] ** 2, device=masks.device)


def counted_weights(weights: Tensor, masks: Tensor, target_masks: Tensor) -> Tensor:
    """Weights (B, P) with 0 for parts of which either side (B, P, R, R) has no pixel."""
    return weights * ((count_pixels(masks) > 0) & (count_pixels(target_masks) > 0))


def point_weights(weights: Tensor, masks: Tensor) -> Tensor:
    """(B, P): weights (B, P) shared out evenly among the pixels of the masks (B, P, R, R)."""
    return weights / count_pixels(masks).clamp(min=1)


def sum_by_part(values: Tensor, part: Tensor, like: Tensor) -> Tensor:
    """(B, P) `exact_dtype`: values (M,) summed by part (M,) int64; `like` (B, P) tells shape and device."""
    total = torch.zeros(like.numel(), dtype=exact_dtype(like.device), device=like.device)
    return total.index_add_(0, part, values.to(total)).view_as(like)


@dataclass(frozen=True)
class Matches:
    """Every pixel of a region with the nearest pixel of the other region."""

    part: Tensor
    """(M,) int64: photo * P + part."""
    model: Tensor
    """(M,) int64: flat pixel of the model, which moves."""
    photo: Tensor
    """(M,) int64: flat pixel of the photo's part, which stays."""

    def offset(self, resolution: int, dtype: torch.dtype) -> Tensor:
        """(M, 2) px, from the photo's pixel to the model's."""
        return pixel_centres(self.model, resolution, dtype) - pixel_centres(self.photo, resolution, dtype)


def matches_from(chosen: Tensor, nearest: Tensor, moves: bool) -> Matches:
    """Of the `chosen` pixels (B, P, R, R) bool of one side to their `nearest` (B, P, R * R) of the other.

    `moves` says whether the chosen pixels are the model's.
    """
    part, pixel = nonzero_in_rows(chosen.flatten(2).flatten(0, 1))
    other = nearest.flatten(0, 1)[part, pixel].long()
    return Matches(part, pixel, other) if moves else Matches(part, other, pixel)


def outline_normals(masks: Tensor, border: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, P, R * R, 2): `normals_at` the `border` (B, P, R, R) of the masks (B, P, R, R); 0 elsewhere."""
    part, pixel = nonzero_in_rows(border.flatten(2).flatten(0, 1))
    normal = torch.zeros(*masks.shape[:2], masks.shape[-1] ** 2, 2, dtype=dtype, device=masks.device)
    normal.flatten(0, 1)[part, pixel] = normals_at(masks.flatten(0, 1), part, pixel, dtype)
    return normal


def normals_at(masks: Tensor, part: Tensor, pixel: Tensor, dtype: torch.dtype) -> Tensor:
    """(M, 2): unit normals, out of the region, at flat pixels (M,) of the masks (N, R, R) numbered by `part` (M,).

    The steepest fall of the region smoothed over a few pixels (2 `NORMAL_RADIUS` + 1 square, weighted by a Gaussian).
    Zero where the region falls to no side, as on a line one pixel wide.
    """
    resolution = masks.shape[-1]
    row = torch.div(pixel, resolution, rounding_mode="floor")
    column = pixel - row * resolution
    steps = torch.arange(-NORMAL_RADIUS, NORMAL_RADIUS + 1, device=masks.device)
    x, y = torch.zeros(2, pixel.numel(), dtype=dtype, device=masks.device)
    for down in steps.tolist():
        for right in steps.tolist():
            at_row, at_column = row + down, column + right
            within = (at_row >= 0) & (at_row < resolution) & (at_column >= 0) & (at_column < resolution)
            at = masks[part, at_row.clamp(0, resolution - 1), at_column.clamp(0, resolution - 1)] & within
            weight = at.to(dtype) * math.exp(-(down**2 + right**2) / NORMAL_RADIUS**2)
            x -= right * weight
            y -= down * weight
    normal = torch.stack([x, y], 1)
    length = normal.square().sum(1, keepdim=True).sqrt()
    return torch.where(length > FLAT, normal / length.clamp(min=FLAT), 0.0)
