"""Two losses between parts added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fit3d.energy.part_loss import Forces, PartLoss, PointForces, SeenParts


@dataclass(frozen=True)
class Both:
    """What two losses remember of the photos."""

    first: Any
    second: Any


@dataclass(frozen=True)
class CombinedRaster:
    """`first_share` of one loss and `second_share` of another; implements `PartLoss`.

    PRDL draws a model from far away but weighs an outline by how much of the image sees it as nearest, mostly its
    protruding corners; a loss that matches outlines weighs them evenly but loses its way from far.
    """

    first: PartLoss
    second: PartLoss
    first_share: float
    second_share: float

    def describe(self, masks: Tensor) -> Both:
        return Both(self.first.describe(masks), self.second.describe(masks))

    def see(self, masks: Tensor, target: Both, weights: Tensor) -> SeenBoth:
        return SeenBoth(
            self.first.see(masks, target.first, self.first_share * weights),
            self.second.see(masks, target.second, self.second_share * weights),
        )


@dataclass(frozen=True)
class SeenBoth:
    """Two losses of a batch, evaluated; implements `SeenParts`."""

    first: SeenParts
    second: SeenParts

    @property
    def energy(self) -> Tensor:
        return self.first.energy + self.second.energy

    def forces(self, photos: Tensor) -> Forces:
        first, second = self.first.forces(photos), self.second.forces(photos)
        assert second.dense is None, "only the first loss may have dense rows"
        pixel = torch.cat([first.points.pixel, second.points.pixel])
        order = torch.argsort(pixel, stable=True)
        points = PointForces(
            pixel[order],
            torch.cat([first.points.pull, second.points.pull])[order],
            torch.cat([first.points.stiffness, second.points.stiffness])[order],
        )
        return Forces(points, first.dense)
