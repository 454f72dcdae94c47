"""The Part Re-projection Distance Loss between two rasters, as the solver minimises it.

The formulas are those of `fit3d.energy.prdl`. Between sets of pixels the nearest point is found by a feature transform
and the furthest among hull corners, so that a grid of any density costs little more than a coarse one. The mean varies
so slowly over the image that a few anchors and an even stride over the pixels tell all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
            Rows(each, each.distance - goal)
            for each, goal in ((nearest, target.nearest), (furthest, target.furthest))
            if each is not None
        ]
        return SeenPrdl(
            singles=tuple(singles),
            mean=None if mean is None else Rows(mean, mean.distance - target.mean),
            weights=counts,
            resolution=masks.shape[-1],
        )

    def _anchors(self, count: int, masks: Tensor) -> Tensor:
        return anchor_grid(count, masks.shape[-1], masks.device, self.config.extent)

    def _look(self, masks: Tensor, thinning: Tensor) -> tuple[Distances | None, Distances | None, Distances | None]:
        resolution, statistics = masks.shape[-1], self.config.statistics
        anchors = self._anchors(self.anchors, masks)
        nearest = furthest = mean = None
        if "min" in statistics:
            nearest = Distances.measure(nearest_pixels(masks, anchors), anchors, resolution, self.dtype)
        if "max" in statistics:
            furthest = Distances.measure(furthest_pixels(masks, anchors), anchors, resolution, self.dtype)
        if "mean" in statistics:
            pixel = spread_pixels(masks, thinning, 2 * self.config.mean_points)
            coarse = self._anchors(self.config.mean_anchors, masks)
            each = Distances.measure(pixel[..., None, :], coarse[:, None], resolution, self.dtype)
            mean = replace(each, pixel=pixel, distance=(each.length * shares(pixel, self.dtype)).sum(-1))
        return nearest, furthest, mean


@dataclass(frozen=True)
class Distances:
    """Distances from anchors to points of the sets."""

    pixel: Tensor
    """(B, P, A) int64 for single points, (B, P, S) for the mean: which pixels the distances are to; -1 for none."""
    x: Tensor
    """(B, P, A), for the mean (B, P, A, S), px: from the anchors to the points."""
    y: Tensor
    length: Tensor
    """Likewise: how far that is."""
    distance: Tensor
    """(B, P, A) px: for single points their length."""

    @classmethod
    def measure(cls, pixel: Tensor, anchors: Tensor, resolution: int, dtype: torch.dtype) -> Distances:
        """From anchors to pixels, both flat indices of shapes that broadcast, one by one."""
        x, y = offset(pixel, anchors, resolution, dtype)
        length = (x * x).add_(y * y).add_(EPSILON).sqrt_()
        return cls(pixel, x, y, length, length)


def offset(pixel: Tensor, anchors: Tensor, resolution: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x and y, px, from anchors to pixels, both flat indices of shapes that broadcast."""
    pixel, anchors = pixel.int(), anchors.int()
    row, anchor_row = (torch.div(each, resolution, rounding_mode="floor") for each in (pixel, anchors))
    column, anchor_column = pixel - row * resolution, anchors - anchor_row * resolution
    # converted before there are many: whole numbers are exact
    return column.to(dtype) - anchor_column.to(dtype), row.to(dtype) - anchor_row.to(dtype)


def shares(pixel: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., 1, S): what each of the pixels (..., S) counts in their mean; nothing where it is -1."""
    present = (pixel >= 0).to(dtype)
    return (present / present.sum(-1, keepdim=True).clamp(min=1))[..., None, :]


@dataclass(frozen=True)
class Rows:
    """Residuals of one statistic."""

    seen: Distances
    residual: Tensor
    """(B, P, A) px."""


@dataclass(frozen=True)
class SeenPrdl:
    """PRDL of a batch, evaluated; implements `SeenParts`."""

    singles: tuple[Rows, ...]
    """Of 'min' and 'max', whose residuals touch one point each."""
    mean: Rows | None
    weights: Tensor
    """(B, P): energy of a squared residual averaged over the anchors; 0 where a part does not count."""
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
            seen = rows.seen
            columns = (seen.pixel, rows.residual, seen.x, seen.y, seen.length)
            pixel, residual, x, y, length = (each.flatten(0, 1)[of] for each in columns)
            scale = 1.0 / length
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

    def _dense(self, mean: Rows, photos: Tensor) -> DenseRows:
        every = photos.tolist() == list(range(len(self.weights)))
        some = slice(None) if every else photos  # without a copy, where it can be
        seen = mean.seen
        pixel, residual, x, y, length = (
            each[some] for each in (seen.pixel, mean.residual, seen.x, seen.y, seen.length)
        )
        scale = shares(pixel, residual.dtype) / length
        direction = torch.empty(*scale.shape, 2, dtype=scale.dtype, device=scale.device)
        torch.mul(x, scale, out=direction[..., 0])
        torch.mul(y, scale, out=direction[..., 1])
        weight = self.weights[photos] / residual.shape[-1]
        return DenseRows(pixel, direction, residual, weight)
