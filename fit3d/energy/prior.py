"""Prior term: what is believed of a face before seeing the photo."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d.config import RARE_EXPRESSIONS, PriorConfig

ROUNDING = 0.02
"""Of the corner of an absolute value, in expression coefficients."""


def prior_precision(
    identity_count: int, expression_names: tuple[str, ...], twins: Tensor, config: PriorConfig
) -> Tensor:
    """(K + L, K + L) float64 precision Q of the Gaussian prior, whose energy is c^T Q c.

    c^T Q c = identity |a|^2 + sum_l b_l^2 / sd_l^2 + sum over twins (b_left - b_right)^2 / asymmetry_sd^2, with
    sd_l the expression_sd, or rare_expression_sd for RARE_EXPRESSIONS, and `twins` (M, 2) the indices into c of left
    expressions and their right counterparts.
    """
    spread = [
        config.rare_expression_sd if name in RARE_EXPRESSIONS else config.expression_sd for name in expression_names
    ]
    diagonal = torch.cat(
        [
            torch.full((identity_count,), config.identity, dtype=torch.float64),
            1.0 / torch.tensor(spread, dtype=torch.float64).square(),
        ]
    )
    precision = torch.diag(diagonal)
    tie = 1.0 / config.asymmetry_sd**2
    for left, right in twins.tolist():
        precision[left, left] += tie
        precision[right, right] += tie
        precision[left, right] -= tie
        precision[right, left] -= tie
    return precision


def identity_excess(identity: Tensor, config: PriorConfig) -> Tensor:
    """(...,) residual, whose square is energy: how far the identity (..., K) lies beyond what a person can be.

    sqrt(stiffness) max(0, |a| - limit sqrt(K)). In K dimensions the population lies in a thin shell of root mean square
    1; the Gaussian prior, which draws the estimate inwards of it, gives way to strong evidence without end.
    """
    count = identity.shape[-1]
    beyond = (_length(identity) - config.identity_limit * count**0.5).clamp(min=0.0)
    return config.identity_stiffness**0.5 * beyond


def identity_excess_slope(identity: Tensor, config: PriorConfig) -> Tensor:
    """(..., K) derivative of `identity_excess`."""
    length = _length(identity)[..., None]
    beyond = length > config.identity_limit * identity.shape[-1] ** 0.5
    return torch.where(beyond, config.identity_stiffness**0.5 * identity / length.clamp(min=1e-9), 0.0)


def _length(identity: Tensor) -> Tensor:
    return (identity.square().sum(-1) + 1e-12).sqrt()


@dataclass(frozen=True)
class Sparsity:
    """What an expression costs for being an expression at all, and how that changes."""

    energy: Tensor
    """(...,)"""
    slope: Tensor
    """(..., L): half the derivative."""
    curvature: Tensor
    """(..., L): of the re-weighted least squares, which bounds half the second derivative."""


def expression_sparsity(expression: Tensor, bounds: Tensor, config: PriorConfig) -> Sparsity:
    """sparsity * sum_l |b_l| for expressions b (..., L) within `bounds` (L, 2).

    Few muscles act at a time, and an absolute value, unlike a square, leaves the rest at exactly zero (Tibshirani
    1996). One-sided coefficients, which start at zero, make it linear; for others it is sqrt(b^2 + c^2) - c with c the
    ROUNDING, so that it has a slope at zero.
    """
    one_sided = bounds[:, 0] >= 0
    length = (expression.square() + ROUNDING**2).sqrt()
    cost = torch.where(one_sided, expression, length - ROUNDING)
    half = 0.5 * config.expression_sparsity
    return Sparsity(
        energy=2.0 * half * cost.sum(-1),
        slope=torch.where(one_sided, half, half * expression / length),
        curvature=torch.where(one_sided, 0.0, half / length),
    )
