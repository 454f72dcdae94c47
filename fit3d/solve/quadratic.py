"""A sum of squares near one point, as the solver sees it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Quadratic:
    """`energy + 2 gradient . step + step . hessian step`: the Gauss-Newton model of an energy `sum r^2`.

    Kept on the CPU in double precision, wherever the energy is computed: it is small, and not every device has doubles.
    """

    energy: float
    gradient: Tensor
    """(P,) float64: J^T r, half the derivative of the energy."""
    hessian: Tensor
    """(P, P) float64: J^T J."""

    def __add__(self, other: Quadratic) -> Quadratic:
        return Quadratic(self.energy + other.energy, self.gradient + other.gradient, self.hessian + other.hessian)

    @classmethod
    def zero(cls, size: int) -> Quadratic:
        """Of an energy that is nowhere."""
        zeros = torch.zeros(size, size, dtype=torch.float64)
        return cls(0.0, zeros[0].clone(), zeros)

    @classmethod
    def from_points(cls, energy: float, jacobian: Tensor, pull: Tensor, stiffness: Tensor) -> Quadratic:
        """From 2D points with Jacobian (N, 2, P), weighted residual sums b (N, 2) and curvatures B (N, 2, 2).

        gradient = sum_j J_j^T b_j, hessian = sum_j J_j^T B_j J_j.
        """
        flat = jacobian.flatten(0, 1)
        gradient, hessian = flat.mT @ pull.reshape(-1), flat.mT @ (stiffness @ jacobian).flatten(0, 1)
        return cls(energy, gradient.cpu().double(), hessian.cpu().double())
