"""Prior term: what is believed of a face before seeing the photo."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d.config import PriorConfig


def prior_precision(identity_count: int, expression_count: int, twins: Tensor, config: PriorConfig) -> Tensor:
    """(K + L, K + L) float64 precision Q of the Gaussian prior, whose energy is c^T Q c.

    c^T Q c = identity |a|^2 + |b|^2 / expression_sd^2 + sum over twins (b_left - b_right)^2 / asymmetry_sd^2, with
    `twins` (M, 2) the indices into c of left expressions and their right counterparts.
    """
    size = identity_count + expression_count
    diagonal = torch.full((size,), config.identity, dtype=torch.float64)
    diagonal[identity_count:] = 1.0 / config.expression_sd**2
    precision = torch.diag(diagonal)
    tie = 1.0 / config.asymmetry_sd**2
    for left, right in twins.tolist():
        precision[left, left] += tie
        precision[right, right] += tie
        precision[left, right] -= tie
        precision[right, left] -= tie
    return precision
