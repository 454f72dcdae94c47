"""Landmark term: robust squared pixel error, with contour landmarks that slide along the silhouette."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LandmarkTarget:
    """Observed landmarks of a batch of faces and how sure we are of each."""

    px: Tensor
    """(..., N, 2) crop px."""
    weight: Tensor
    """(..., N) 1 / px^2: inverse variance times the share of independent information; 0 for a missing landmark."""
    outlier_px: float
    """Scale c of the Geman-McClure function, crop px."""

    def take(self, photos: Tensor) -> LandmarkTarget:
        """The faces `photos` (n,) int64 of the batch."""
        return LandmarkTarget(self.px[photos], self.weight[photos], self.outlier_px)


def landmark_energy(px: Tensor, target: LandmarkTarget) -> Tensor:
    """(...,) sum_i w_i rho(|p_i - l_i|^2) with rho(s) = s c^2 / (s + c^2): quadratic near zero, at most w_i c^2.

    `px` (..., N, 2) are the model's landmarks.
    """
    squared = (px - target.px).square().sum(-1)
    limit = target.outlier_px**2
    return (target.weight * squared * limit / (squared + limit)).sum(-1)


def landmark_weights(px: Tensor, target: LandmarkTarget) -> Tensor:
    """(..., N) weights of iteratively re-weighted least squares: w_i rho'(s) = w_i (c^2 / (s + c^2))^2."""
    squared = (px - target.px).square().sum(-1)
    limit = target.outlier_px**2
    return target.weight * (limit / (squared + limit)).square()


def slide(path_px: Tensor, centre_px: Tensor) -> Tensor:
    """Candidate (..., S) int64 that each contour landmark takes: of its path (..., S, C, 2) px the outermost point.

    Outermost is measured from `centre_px` (..., 2) along the mean direction of the path, so a path that folds over the
    silhouette gives the point on it (landmark marching, Zhu et al. 2015).
    """
    centre = centre_px[..., None, :]
    outwards = path_px.mean(-2) - centre
    outwards = outwards / outwards.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    x, y = ((path_px - centre[..., None, :]) * outwards[..., None, :]).unbind(-1)
    return (x + y).argmax(-1)
