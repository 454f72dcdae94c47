"""A batch of sums of squares, each near one point, as the solver sees them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d import devices


@dataclass(frozen=True)
class Quadratic:
    """`energy + 2 gradient . step + step . hessian step` for each of B photos: the Gauss-Newton models of `sum r^2`.

    Kept in double precision on `solver_device` of the device where the energy is computed.
    """

    gradient: Tensor
    """(B, P) float64: J^T r, half the derivative of the energy."""
    hessian: Tensor
    """(B, P, P) float64: J^T J."""

    def __add__(self, other: Quadratic) -> Quadratic:
        return Quadratic(self.gradient + other.gradient, self.hessian + other.hessian)

    def take(self, photos: Tensor) -> Quadratic:
        """The photos (n,) int64 of the batch."""
        return Quadratic(self.gradient[photos], self.hessian[photos])

    def with_rows(self, photos: Tensor, other: Quadratic) -> Quadratic:
        """The same with `other` (of n photos) in place of the photos (n,)."""
        photos = photos.to(self.gradient.device)
        return Quadratic(
            self.gradient.index_copy(0, photos, other.gradient), self.hessian.index_copy(0, photos, other.hessian)
        )

    @classmethod
    def from_points(cls, photo: Tensor, jacobian: Tensor, pull: Tensor, stiffness: Tensor, photos: int) -> Quadratic:
        """Of 2D points: gradient = sum_j J_j^T b_j, hessian = sum_j J_j^T B_j J_j, each over the points of one photo.

        Args:
            photo: (N,) int64, ascending, which of the `photos` photos each point belongs to.
            jacobian: (N, 2, P) J.
            pull: (N, 2) b, sums of weighted residuals.
            stiffness: (N, 3) B as (xx, xy, yy).
        """
        xx, xy, yy = stiffness[:, :, None].unbind(1)
        x, y = jacobian.unbind(1)
        stiff = torch.empty_like(jacobian)
        torch.add(xx * x, xy * y, out=stiff[:, 0])
        torch.add(xy * x, yy * y, out=stiff[:, 1])
        return cls.from_rows(photo, jacobian, stiff, pull, photos)

    @classmethod
    def from_rows(cls, photo: Tensor, left: Tensor, right: Tensor, pull: Tensor, photos: int) -> Quadratic:
        """hessian = sum_n left_n^T right_n, gradient = sum_n left_n^T pull_n over the points (N,) of each photo.

        `left` and `right` are (N, R, P), `pull` (N, R), `photo` (N,) int64 ascending.
        """
        device = solver_device(left.device)
        count = torch.bincount(photo, minlength=photos)
        if devices.on_cpu(left):  # one product per photo, so that its rounding does not depend on its company
            gradients, hessians = [], []
            for one_left, one_right, one_pull in zip(
                *(torch.split(each, count.tolist()) for each in (left, right, pull)), strict=True
            ):
                flat = one_left.flatten(0, 1)
                gradients.append(flat.mT @ one_pull.reshape(-1))
                hessians.append(flat.mT @ one_right.flatten(0, 1))
            return cls(torch.stack(gradients).double(), torch.stack(hessians).double())
        first = torch.cumsum(count, 0) - count
        place = torch.arange(len(photo), device=photo.device) - first[photo]
        size = int(count.max()) if photos else 0

        def padded(values: Tensor) -> Tensor:
            return values.new_zeros(photos, size, *values.shape[1:]).index_put_((photo, place), values)

        flat = padded(left).flatten(1, 2)
        gradient = (flat.mT @ padded(pull).flatten(1)[..., None]).squeeze(-1)
        hessian = flat.mT @ padded(right).flatten(1, 2)
        return cls(gradient.to(device).double(), hessian.to(device).double())


def solver_device(device: torch.device) -> torch.device:
    """Where small double-precision algebra is done: on the device, or on the CPU for devices without doubles.

    Tensors go there first and become doubles there: MPS does not do both in one step.
    """
    return device if device.type == "cuda" else torch.device("cpu")
