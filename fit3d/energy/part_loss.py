"""What every loss between the parts of the model and the parts of the photo has in common.

Both sides are rasters: a mask of pixels for each of the eight parts. The model's pixels are points of its surface and
move with it; which pixels they are is taken from a fresh raster at every evaluation. A loss says how much energy a
pair of masks has, and how that energy pulls at the model's pixels; the solver needs nothing else of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fit3d.devices import flat_nonzero


@dataclass(frozen=True)
class PointForces:
    """The second-order model of an energy by points of the image, for a batch of photos.

    With points p_j(theta) and J_j their Jacobian, the energy's half gradient is sum_j J_j^T b_j and its Gauss-Newton
    matrix sum_j J_j^T B_j J_j.
    """

    pixel: Tensor
    """(N,) int64, not falling: photo * R * R + row * R + column, the pixel whose surface point is pulled."""
    pull: Tensor
    """(N, 2): b, energy / px."""
    stiffness: Tensor
    """(N, 3): B as (xx, xy, yy), energy / px^2."""


@dataclass(frozen=True)
class DenseRows:
    """Residuals that touch many points each."""

    pixel: Tensor
    """(B, P, S) int64 flat crop pixels of the points; -1 marks places that no point takes."""
    direction: Tensor
    """(B, P, A, S, 2): derivative of each residual by each point; 0 where there is no point."""
    residual: Tensor
    """(B, P, A)."""
    weight: Tensor
    """(B, P): energy of one squared residual."""


@dataclass(frozen=True)
class Forces:
    """How the energy of an evaluated batch pulls at the model."""

    points: PointForces
    dense: DenseRows | None = None


class SeenParts(Protocol):
    """The parts of a batch of B photos compared."""

    @property
    def energy(self) -> Tensor:
        """(B, P) `devices.exact_dtype`, weighted; 0 where either side of a part is empty."""
        ...

    def forces(self, photos: Tensor) -> Forces:
        """Of the photos (n,) int64 of the batch, which are numbered 0 to n - 1 in the answer."""
        ...


class PartLoss(Protocol):
    """A loss between two sets of part masks.

    Masks are (B, P, R, R) bool. `describe` is called once on the photo's side; its answer is a frozen dataclass of
    tensors with leading axis B, of which the solver takes rows when photos finish. `weights` (B, P) is the energy of
    one squared crop px of error, 0 for parts that the photo does not show.
    """

    def describe(self, masks: Tensor) -> Any: ...

    def see(self, masks: Tensor, target: Any, weights: Tensor) -> SeenParts: ...


def gather_forces(photo: Tensor, pixel: Tensor, pull: Tensor, stiffness: Tensor, photos: int, area: int) -> PointForces:
    """Add up forces (2, M) and (3, M) that act on the same pixel (M,) of the same photo (M,); R * R is `area`."""
    place = photo * area + pixel
    size = photos * area
    columns = [
        torch.zeros(size, dtype=pull.dtype, device=pull.device).scatter_add_(0, place, column)
        for column in (*pull, *stiffness)
    ]
    touched = flat_nonzero((columns[2] != 0) | (columns[4] != 0))
    px, py, xx, xy, yy = (column[touched] for column in columns)
    return PointForces(touched, torch.stack([px, py], 1), torch.stack([xx, xy, yy], 1))
