"""The Part Re-projection Distance Loss between two rasters, as the solver minimises it.

The formulas are those of `fit3d.energy.prdl`. Between sets of pixels the nearest point is found by a feature transform
and the furthest among hull corners, so that a grid of any density costs little more than a coarse one. The mean varies
so slowly over the image that a few anchors and an even stride over the pixels tell all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d.config import PrdlConfig
from fit3d.devices import exact_dtype
from fit3d.energy.part_loss import DenseRows, Forces, PointForces, gather_forces
from fit3d.energy.pixels import (
    anchor_grid,
    count_pixels,
    furthest_pixels,
    lattice_thinning,
    nearest_pixels,
    spread_pixels,
)
from fit3d.energy.prdl import EPSILON


@dataclass(frozen=True)
class Descriptors:
    """The parts of a batch of photos as the anchors see them; NaN-free where a part is empty, but meaningless."""

    nearest: Tensor
    """(B, P, A) px; of no size where the statistic is not used."""
    furthest: Tensor
    """(B, P, A) px."""
    mean: Tensor
    """(B, P, A') px, at the coarse anchors."""
    thinning: Tensor
    """(B, P) int64: one pixel in so many counts in the mean, on both sides."""


@dataclass(frozen=True)
class PrdlRaster:
    """PRDL seen from `anchors` x `anchors` pixels of the raster; implements `PartLoss`."""

    anchors: int
    config: PrdlConfig
    dtype: torch.dtype = torch.float32

    def describe(self, masks: Tensor) -> Descriptors:
        nothing = torch.zeros(*masks.shape[:2], 0, dtype=self.dtype, device=masks.device)
        thinning = lattice_thinning(masks, self.config.mean_points)
        nearest, furthest, mean = (nothing if each is None else each.distance for each in self._look(masks, thinning))
        return Descriptors(nearest, furthest, mean, thinning)

    def see(self, masks: Tensor, target: Descriptors, weights: Tensor) -> SeenPrdl:
        nearest, furthest, mean = self._look(masks, target.thinning)
        counts = weights * (count_pixels(masks) > 0)
        singles = [
            SingleRows(each.pixel, each.distance - goal)
            for each, goal in ((nearest, target.nearest), (furthest, target.furthest))
            if each is not None
        ]
        return SeenPrdl(
            singles=tuple(singles),
            mean=None if mean is None else SingleRows(mean.pixel, mean.distance - target.mean),
            weights=counts,
            anchors=self._anchors(self.anchors, masks),
            coarse=self._anchors(self.config.mean_anchors, masks),
            resolution=masks.shape[-1],
        )

    def _anchors(self, count: int, masks: Tensor) -> Tensor:
        return anchor_grid(count, masks.shape[-1], masks.device, self.config.extent)

    def _look(self, masks: Tensor, thinning: Tensor) -> tuple[Distances | None, Distances | None, Distances | None]:
        resolution, statistics = masks.shape[-1], self.config.statistics
        anchors = self._anchors(self.anchors, masks)
        nearest = furthest = mean = None
        if "min" in statistics:
            pixel = nearest_pixels(masks, anchors)
            nearest = Distances(pixel, distance(*offset(pixel, anchors, resolution, self.dtype)))
        if "max" in statistics:
            pixel = furthest_pixels(masks, anchors)
            furthest = Distances(pixel, distance(*offset(pixel, anchors, resolution, self.dtype)))
        if "mean" in statistics:
            pixel = spread_pixels(masks, thinning, 2 * self.config.mean_points)
            coarse = self._anchors(self.config.mean_anchors, masks)
            x, y = offset(pixel[..., None, :], coarse[:, None], resolution, self.dtype)
            mean = Distances(pixel, (distance(x, y) * shares(pixel, self.dtype)).sum(-1))
        return nearest, furthest, mean


@dataclass(frozen=True)
class Distances:
    """Distances from anchors to points of the sets."""

    pixel: Tensor
    """(B, P, A) int64 for single points, (B, P, S) for the mean: which pixels the distances are to; -1 for none."""
    distance: Tensor
    """(B, P, A) px."""


def offset(pixel: Tensor, anchors: Tensor, resolution: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x and y, px, from anchors to pixels, both flat indices of shapes that broadcast."""
    pixel, anchors = pixel.int(), anchors.int()
    row, anchor_row = (torch.div(each, resolution, rounding_mode="floor") for each in (pixel, anchors))
    x = (pixel - row * resolution) - (anchors - anchor_row * resolution)
    return x.to(dtype), (row - anchor_row).to(dtype)


def distance(x: Tensor, y: Tensor) -> Tensor:
    """sqrt(x^2 + y^2 + EPSILON)."""
    return (x * x + y * y + EPSILON).sqrt()


def shares(pixel: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., 1, S): what each of the pixels (..., S) counts in their mean; nothing where it is -1."""
    present = (pixel >= 0).to(dtype)
    return (present / present.sum(-1, keepdim=True).clamp(min=1))[..., None, :]


@dataclass(frozen=True)
class SingleRows:
    """Residuals of one statistic."""

    pixel: Tensor
    """(B, P, A) int64, the pixel that each touches; of 'mean' (B, P, S), pixels that all touch."""
    residual: Tensor
    """(B, P, A) px."""


@dataclass(frozen=True)
class SeenPrdl:
    """PRDL of a batch, evaluated; implements `SeenParts`."""

    singles: tuple[SingleRows, ...]
    """Of 'min' and 'max', whose residuals touch one point each."""
    mean: SingleRows | None
    weights: Tensor
    """(B, P): energy of a squared residual averaged over the anchors; 0 where a part does not count."""
    anchors: Tensor
    """(A,) int64."""
    coarse: Tensor
    """(A',) int64, of the mean."""
    resolution: int

    @property
    def energy(self) -> Tensor:
        device = self.weights.device
        energy = torch.zeros(self.weights.shape, dtype=exact_dtype(device), device=device)
        for rows in (*self.singles, *((self.mean,) if self.mean else ())):
            energy += self.weights * rows.residual.square().mean(-1)
        return energy

    def forces(self, photos: Tensor) -> Forces:
        parts, area = self.weights.shape[1], self.resolution**2
        # the parts that count, of all photos, in one list
        part = torch.nonzero(self.weights[photos].flatten() > 0).squeeze(1)
        of = photos[torch.div(part, parts, rounding_mode="floor")] * parts + part % parts
        weight = self.weights.flatten()[of][:, None]
        photo = torch.div(part, parts, rounding_mode="floor")[:, None]
        pixels, pulls, stiffnesses, owners = [], [], [], []
        for rows in self.singles:
            pixel, residual = rows.pixel.flatten(0, 1)[of], rows.residual.flatten(0, 1)[of]
            x, y = offset(pixel, self.anchors, self.resolution, residual.dtype)
            scale = 1.0 / distance(x, y)
            x, y, w = x * scale, y * scale, (weight / residual.shape[1]).to(residual.dtype)
            wx, wy = w * x, w * y
            pixels.append(pixel.view(-1))
            owners.append(photo.expand_as(pixel).reshape(-1))
            pulls.append(torch.stack([(wx * residual).view(-1), (wy * residual).view(-1)]))
            stiffnesses.append(torch.stack([(wx * x).view(-1), (wx * y).view(-1), (wy * y).view(-1)]))
        if pixels:
            count = len(photos)
            points = gather_forces(
                torch.cat(owners), torch.cat(pixels), torch.cat(pulls, 1), torch.cat(stiffnesses, 1), count, area
            )
        else:
            points = PointForces(photos.new_zeros(0), self.weights.new_zeros(0, 2), self.weights.new_zeros(0, 3))
        return Forces(points, None if self.mean is None else self._dense(self.mean, photos))

    def _dense(self, mean: SingleRows, photos: Tensor) -> DenseRows:
        pixel, residual = mean.pixel[photos], mean.residual[photos]
        x, y = offset(pixel[..., None, :], self.coarse[:, None], self.resolution, residual.dtype)
        scale = shares(pixel, residual.dtype) / distance(x, y)
        weight = self.weights[photos] / residual.shape[-1]
        return DenseRows(pixel, torch.stack([x * scale, y * scale], -1), residual, weight)
