"""Iterated closest point between the outlines of two parts: a rival of PRDL."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d.devices import exact_dtype
from fit3d.energy.pixels import border_of, nearest_pixels, nearest_to_each
from fit3d.energy.pulls import (
    Matches,
    Pulls,
    SeenPulls,
    counted_weights,
    matches_from,
    outline_normals,
    point_weights,
    raster_pixels,
    sum_by_part,
)


@dataclass(frozen=True)
class Outlines:
    """The outlines of the parts of a batch of photos, with the way to each from everywhere."""

    mask: Tensor
    """(B, P, R, R) bool: the outline's pixels."""
    nearest: Tensor
    """(B, P, R * R) int32: the outline's pixel nearest to each pixel of the raster; -1 where the part is empty."""
    normal: Tensor
    """(B, P, R * R, 2): outward unit normal at the outline's pixels, 0 elsewhere."""


@dataclass(frozen=True)
class IcpRaster:
    """Iterated closest point on outlines (Besl and McKay 1992), matched both ways; implements `PartLoss`.

        energy = weight * ((1 / |dS|) sum_{p in dS} min_{t in dT} |p - t|^2 + the same from T to S)

    with dS and dT the border pixels of the model's and the photo's region. Each evaluation matches anew, and each
    Gauss-Newton step moves the points towards their matches: that is ICP, with the parameters of a face in place of a
    rigid motion. It was stated with matches from the model to the data only, which lets a model shrink into a corner of
    its target at no cost; here both sides choose, as PRDL's target side does too.

    It differs from `ChamferRaster` in the points: outlines instead of whole regions. Every point of a shifted outline
    is off, whereas of a shifted region only a crescent is, whose width shrinks with the error; so the energy of ICP is
    quadratic in a small shift, and that of chamfer cubic. But an outline that has left its target's neighbourhood
    cannot tell inside from outside.

    The curvature is that of the squared distance to a curve: along the line to the match, and along the outline's
    normal where both outlines pass through one pixel, so that it holds still across the outline and slides along it
    (Pottmann and Hofer, "Geometry of the squared distance function to curves and surfaces", 2003: tangent distance
    minimisation; the point-to-line ICP of Chen and Medioni 1992, with point-to-point energy).
    """

    dtype: torch.dtype = torch.float32

    def describe(self, masks: Tensor) -> Outlines:
        border = border_of(masks)
        return Outlines(
            border,
            nearest_pixels(border, raster_pixels(masks)).int(),
            outline_normals(masks, border, self.dtype),
        )

    def see(self, masks: Tensor, target: Outlines, weights: Tensor) -> SeenPulls:
        resolution = masks.shape[-1]
        counted = counted_weights(weights, masks, target.mask)
        active = (counted > 0)[..., None, None]
        border = border_of(masks)
        pulls, energy = [], torch.zeros(weights.shape, dtype=exact_dtype(weights.device), device=weights.device)
        back = target.mask & active
        part, pixel, nearest = nearest_to_each(border, back)
        for matches, chosen in (
            (matches_from(border & active, target.nearest, moves=True), border),
            (Matches(part, model=nearest, photo=pixel), target.mask),
        ):
            weight = point_weights(counted, chosen).to(self.dtype).view(-1)[matches.part]
            offset = matches.offset(resolution, self.dtype)
            distance = offset.square().sum(1).sqrt()
            energy += sum_by_part(weight * distance.square(), matches.part, weights)
            normal = target.normal.flatten(0, 1)[matches.part, matches.photo]
            direction = torch.where(distance[:, None] > 0, offset / distance.clamp(min=1)[:, None], normal)
            pulls.append(Pulls(matches.part, matches.model, direction, weight * distance, weight))
        return SeenPulls(energy, Pulls.join(*pulls), resolution**2)
