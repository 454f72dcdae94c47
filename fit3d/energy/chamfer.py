"""Chamfer distances between the pixels of two parts, plain and density-aware: rivals of PRDL.

Both sides are all the pixels of a region. A pixel that lies in both regions is its own nearest neighbour, so only
pixels of one region outside the other pull, each along the line to its nearest pixel over there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d.devices import exact_dtype, nonzero_in_rows
from fit3d.energy.pixels import border_of, nearest_pixels
from fit3d.energy.pulls import (
    Pulls,
    SeenPulls,
    counted_weights,
    matches_from,
    outline_normals,
    point_weights,
    raster_pixels,
    sum_by_part,
)

REACH_PX = 16.0
"""Default reach of `DensityAwareChamferRaster`, px of a 224-pixel crop: alpha 88 for a face of 150 px. Fits of labelled
photos hardly depended on it between 5 and 32."""


@dataclass(frozen=True)
class Regions:
    """The parts of a batch of photos, with the way to each from everywhere."""

    mask: Tensor
    """(B, P, R, R) bool."""
    nearest: Tensor
    """(B, P, R * R) int32: the part's pixel nearest to each pixel of the raster; -1 where the part is empty."""
    border: Tensor
    """(B, P, R, R) bool: the pixels of the outline."""
    normal: Tensor
    """(B, P, R * R, 2): outward unit normal at the pixels of the outline, 0 elsewhere."""

    @classmethod
    def of(cls, masks: Tensor, dtype: torch.dtype) -> Regions:
        """Of the photo's masks (B, P, R, R) bool."""
        border = border_of(masks)
        return cls(
            masks, nearest_pixels(masks, raster_pixels(masks)).int(), border, outline_normals(masks, border, dtype)
        )

    def hold(self, masks: Tensor, weight: Tensor) -> Pulls:
        """Stiffness without pull where the outline of the masks (B, P, R, R) and that of the photo are one pixel.

        `weight` (B, P) is the energy of one squared px of one pixel. A region moved by a small s has left s pixels
        per px of its outline outside the other, on average s / 2 away: half gradient s^2 / 2, Gauss-Newton stiffness s.
        On a raster it has left a share s of the outline's pixels, each 1 away: half gradient s, stiffness s, so that
        the step would be one px however small s is. With the other pixels of the outline stiff too, it is s.
        """
        together = border_of(masks) & self.border & (weight > 0)[..., None, None]
        part, pixel = nonzero_in_rows(together.flatten(2).flatten(0, 1))
        normal = self.normal.flatten(0, 1)[part, pixel]
        stiffness = weight.view(-1)[part].to(normal)
        return Pulls(part, pixel, normal, torch.zeros_like(stiffness), stiffness)


@dataclass(frozen=True)
class ChamferRaster:
    """Chamfer distance (Barrow et al., IJCAI 1977) in its usual present form; implements `PartLoss`.

        energy = weight * ((1 / |S|) sum_{p in S} min_{t in T} |p - t|^2
                         + (1 / |T|) sum_{t in T} min_{p in S} |p - t|^2)

    with S the model's pixels and T the photo's: squared distances, mean over the points of each side, both sides added,
    as `pytorch3d.loss.chamfer_distance` has it by default (Ravi et al. 2020; Fan et al., CVPR 2017).

    The residual of a match is its distance, whose derivative is the unit vector along it (Fitzgibbon, "Robust
    registration of 2D and 3D point sets", BMVC 2001, minimises squared distances so). The gradient is the same as with
    two residuals, x and y, but a point may slide across the line to its match, which would be renewed at once anyway.
    Likewise a pixel that lies in both regions has distance zero for small moves and holds nothing still; with two
    residuals the many pixels of the interior would all but stop the part. Only where both outlines are one pixel is
    there stiffness without pull (`Regions.hold`), so that steps of less than a px come out right.
    """

    dtype: torch.dtype = torch.float32

    def describe(self, masks: Tensor) -> Regions:
        return Regions.of(masks, self.dtype)

    def see(self, masks: Tensor, target: Regions, weights: Tensor) -> SeenPulls:
        resolution = masks.shape[-1]
        counted = counted_weights(weights, masks, target.mask)
        active = (counted > 0)[..., None, None]
        each_model, each_photo = point_weights(counted, masks), point_weights(counted, target.mask)
        seen = nearest_pixels(masks, raster_pixels(masks))
        pulls = [target.hold(masks, (each_model + each_photo) / 2)]
        energy = torch.zeros(weights.shape, dtype=exact_dtype(weights.device), device=weights.device)
        for matches, each in (
            (matches_from(masks & ~target.mask & active, target.nearest, moves=True), each_model),
            (matches_from(target.mask & ~masks & active, seen, moves=False), each_photo),
        ):
            weight = each.to(self.dtype).view(-1)[matches.part]
            offset = matches.offset(resolution, self.dtype)
            distance = offset.square().sum(1).sqrt()  # at least 1: the pixel is not in the other region
            energy += sum_by_part(weight * distance.square(), matches.part, weights)
            pulls.append(Pulls(matches.part, matches.model, offset / distance[:, None], weight * distance, weight))
        return SeenPulls(energy, Pulls.join(*pulls), resolution**2)


@dataclass(frozen=True)
class DensityAwareChamferRaster:
    """Density-aware chamfer distance (Wu et al., NeurIPS 2021); implements `PartLoss`.

        energy = weight * reach^2 * ((1 / |S|) sum_{p in S} (1 - exp(-d(p)^2 / reach^2) / n(p))
                                   + (1 / |T|) sum_{t in T} (1 - exp(-d(t)^2 / reach^2) / n(t)))

    with d the distance to the nearest pixel of the other side, and n how many pixels of one's own side chose the same
    one. That is 2 reach^2 times the paper's distance, so that single small errors cost as much as with `ChamferRaster`.
    Squared distances stand in the exponential, as in the authors' code (the paper writes plain ones), which makes it
    Welsch's function, smooth at zero. Their code multiplies 1 / n by the ratio of the sets' sizes, which would reward
    pixels in both regions where the sizes differ; pixels of one raster are equally dense on both sides, so the ratio of
    densities is 1.

    With n held constant, as in the paper, half the derivative by d is exactly v d with
    v = weight exp(-d^2 / reach^2) / (n |S|). 1 - exp(-z) is concave in z = d^2, so least squares of the residual d
    with weight v touch the energy and lie above it (iteratively re-weighted least squares, Holland and Welsch 1977):
    v is the stiffness, never negative. As with `ChamferRaster` it acts along the match, and outlines that are one pixel
    are held. Much of the energy near the truth is that of shared matches, which changes by jumps and pulls at nothing.
    """

    reach_px: float = REACH_PX
    """Raster px, 1 / sqrt(alpha): an error of this length pulls 1 / e times as much as least squares would. The paper's
    alpha is for clouds of about unit size: the 40 of the authors' training and the 1000 of their evaluation are 24 and
    5 px of a face of 150 crop px."""
    dtype: torch.dtype = torch.float32

    def describe(self, masks: Tensor) -> Regions:
        return Regions.of(masks, self.dtype)

    def see(self, masks: Tensor, target: Regions, weights: Tensor) -> SeenPulls:
        resolution = masks.shape[-1]
        counted = counted_weights(weights, masks, target.mask)
        active = (counted > 0)[..., None, None]
        each_model, each_photo = point_weights(counted, masks), point_weights(counted, target.mask)
        seen = nearest_pixels(masks, raster_pixels(masks))
        pulls = [target.hold(masks, (each_model + each_photo) / 2)]
        energy = torch.zeros(weights.shape, dtype=exact_dtype(weights.device), device=weights.device)
        for matches, each, chosen in (
            (model := matches_from(masks & active, target.nearest, moves=True), each_model, model.photo),
            (photo := matches_from(target.mask & active, seen, moves=False), each_photo, photo.model),
        ):
            place = matches.part * resolution**2 + chosen
            sharing = torch.bincount(place, minlength=weights.numel() * resolution**2)[place]
            weight = each.to(self.dtype).view(-1)[matches.part]
            offset = matches.offset(resolution, self.dtype)
            squared = offset.square().sum(1)
            kept = torch.exp(-squared / self.reach_px**2) / sharing
            energy += sum_by_part(weight * self.reach_px**2 * (1.0 - kept), matches.part, weights)
            apart = torch.nonzero(squared > 0).squeeze(1)
            distance, stiffness = squared[apart].sqrt(), (weight * kept)[apart]
            pulls.append(
                Pulls(
                    matches.part[apart],
                    matches.model[apart],
                    offset[apart] / distance[:, None],
                    stiffness * distance,
                    stiffness,
                )
            )
        return SeenPulls(energy, Pulls.join(*pulls), resolution**2)
