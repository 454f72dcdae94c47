"""Soft silhouettes of the parts compared by their overlap, as differentiable renderers do: a rival of PRDL."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d.devices import exact_dtype
from fit3d.energy.pixels import border_of, nearest_pixels, pixel_centres
from fit3d.energy.pulls import Pulls, SeenPulls, counted_weights, normals_at, raster_pixels

SIGMA_PX = 4.0
"""Default softness of `SilhouetteRaster`, px of a 224-pixel crop: of 1, 2, 3, 4 and 8 the smallest with which fits to
parts alone found back from heads turned and moved by up to 15 degrees and 15 px. Sharper ones cover a little more where
landmarks have brought the parts together before."""
SCALE_PX = 12.0
"""Default scale of `SilhouetteRaster`, px of a 224-pixel crop: an outline off by a px then costs about as much as with
`IcpRaster` where a part is some 6 px wide."""
FAINT = 1e-6
"""Where S (1 - S) is less than this, a pixel's coverage S does not feel the outline."""


@dataclass(frozen=True)
class Coverage:
    """The parts of a batch of photos as soft silhouettes."""

    mask: Tensor
    """(B, P, R, R) bool."""
    coverage: Tensor
    """(B, P, R * R), in (0, 1)."""


@dataclass(frozen=True)
class SilhouetteRaster:
    """IoU loss between soft silhouettes of each part; implements `PartLoss`.

        energy = weight * scale^2 * (1 - I / U),   I = sum_i S_i M_i,   U = sum_i (S_i^2 + M_i^2 - S_i M_i)
        S_i = sigmoid(s_i / sigma),   s_i = signed distance of pixel i to the part's outline, positive inside

    over all pixels i of the raster, S for the model and M, made from the photo's region in the same way, for the
    photo. SoftRas (Liu et al., ICCV 2019) and DIB-R (Chen et al., NeurIPS 2019) train shapes from silhouettes by
    1 - sum S M / sum (S + M - S M), with coverage that falls with the distance to the triangles. Departures, each in
    favour of the rival:

    - Their loss is biased wherever a silhouette is soft: against a hard M, and against an M as soft as S, its
      derivative at S = M pushes the outline outwards. U with squares (Tanimoto's form) is the same number where S and
      M are 0 or 1, and makes the loss sum (S - M)^2 / U: zero, with zero gradient, at the truth and nowhere else.
    - Distances are to the outline of the visible part, not to every triangle within it, and enter the sigmoid plainly:
      squared ones, as theirs, have no slope on the outline itself.

    The outline runs half a pixel outside the centres of the region's border pixels: s_i = 1/2 + d inside and 1/2 - d
    outside, with d the distance to the nearest border pixel, which moves with the surface. ds_i/dp is then the unit
    vector across the outline, out of the region; for a border pixel itself, the outline's normal.

    The gradient is the exact one of that quotient. The stiffness is sum_i dS_i dS_i^T / U, Gauss-Newton for the rows
    (S_i - M_i) / sqrt(U) with U held. It bounds the exact curvature in S: lowering the loss L at hand is lowering
    sum (S - M)^2 - L U (Dinkelbach 1967), whose own diagonal is 2 (1 - L), between 0 and the 2 taken here.
    """

    sigma_px: float = SIGMA_PX
    """Raster px: an outline is felt over some five times this to each side."""
    scale_px: float = SCALE_PX
    """Raster px: a part without overlap costs weight * scale^2. An outline off by e px costs about
    weight * e^2 * scale^2 / (6 sigma a), with a the part's area over the length of its outline, px, where that is
    well above sigma."""
    dtype: torch.dtype = torch.float32

    def describe(self, masks: Tensor) -> Coverage:
        return Coverage(masks, self._look(masks).coverage)

    def see(self, masks: Tensor, target: Coverage, weights: Tensor) -> SeenPulls:
        area = masks.shape[-1] ** 2
        counted = counted_weights(weights, masks, target.mask)
        seen = self._look(masks)
        difference = seen.coverage - target.coverage
        apart = (difference * difference).sum(-1)
        union = torch.where(counted > 0, apart + (seen.coverage * target.coverage).sum(-1), 1.0)
        loss = torch.where(counted > 0, apart / union, 0.0)
        price = counted * self.scale_px**2

        felt = (seen.coverage * (1.0 - seen.coverage) > FAINT) & (counted > 0)[..., None]
        place = torch.nonzero(felt.view(-1)).squeeze(1)
        part = torch.div(place, area, rounding_mode="floor")
        soft, wanted = seen.coverage.view(-1)[place], target.coverage.view(-1)[place]
        by_distance = soft * (1.0 - soft) / self.sigma_px
        by_coverage = (soft - wanted) - loss.view(-1)[part] * (soft - 0.5 * wanted)
        weight = (price / union).to(self.dtype).view(-1)[part]
        pulls = Pulls(
            part,
            seen.nearest.view(-1)[place],
            _outwards(masks, seen, place),
            weight * by_coverage * by_distance,
            weight * by_distance.square(),
        )
        exact = exact_dtype(masks.device)
        return SeenPulls(price.to(exact) * loss.to(exact), pulls, area)

    def _look(self, masks: Tensor) -> Softened:
        everywhere = raster_pixels(masks)
        nearest = nearest_pixels(border_of(masks), everywhere)
        x, y = pixel_centres(everywhere, masks.shape[-1], self.dtype).unbind(-1)
        across, down = x[nearest] - x, y[nearest] - y  # an empty mask's -1 takes the last pixel; nothing counts it
        distance = (across * across + down * down).sqrt()
        signed = 0.5 + torch.where(masks.flatten(2), distance, -distance)
        return Softened(torch.sigmoid(signed / self.sigma_px), nearest, across, down, distance)


@dataclass(frozen=True)
class Softened:
    """Soft silhouettes of masks (B, P, R, R), and the way from each pixel to the nearest one of the border."""

    coverage: Tensor
    """(B, P, R * R), in (0, 1)."""
    nearest: Tensor
    """(B, P, R * R) int64 flat pixel."""
    across: Tensor
    """(B, P, R * R) px to the right."""
    down: Tensor
    """(B, P, R * R) px."""
    distance: Tensor
    """(B, P, R * R) px."""


def _outwards(masks: Tensor, seen: Softened, place: Tensor) -> Tensor:
    """(M, 2): unit vector out of the region at the border pixel that is nearest to `place` (M,), flat in (B, P, R * R):
    derivative of the signed distance by that border pixel."""
    distance = seen.distance.view(-1)[place]
    inside = masks.reshape(-1)[place]
    scale = torch.where(inside, 1.0, -1.0) / distance.clamp(min=1)
    outwards = torch.stack([seen.across.view(-1)[place] * scale, seen.down.view(-1)[place] * scale], 1)
    on = torch.nonzero(distance == 0).squeeze(1)
    area = masks.shape[-1] ** 2
    part = torch.div(place[on], area, rounding_mode="floor")
    outwards[on] = normals_at(masks.flatten(0, 1), part, place[on] - part * area, outwards.dtype)
    return outwards
