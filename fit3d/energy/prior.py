"""Prior term: what is believed of a face before seeing the photo."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d.config import RARE_EXPRESSIONS, PriorConfig


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
