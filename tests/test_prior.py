"""The prior against its formula."""

from __future__ import annotations

import pytest
import torch

from fit3d.config import RARE_EXPRESSIONS, PriorConfig
from fit3d.energy.prior import prior_precision

NAMES = ("jawOpen", "cheekPuff", "mouthSmileLeft", "mouthSmileRight", "jawLeft", "eyeBlinkLeft", "eyeBlinkRight")
IDENTITY = 3
TWINS = torch.tensor([[IDENTITY + 2, IDENTITY + 3], [IDENTITY + 5, IDENTITY + 6]])
CONFIG = PriorConfig(identity=1.5, expression_sd=0.4, rare_expression_sd=0.1, asymmetry_sd=0.2)


def test_diagonal_by_name() -> None:
    """No two values of the configuration are the same, so none can stand in for another."""
    precision = prior_precision(IDENTITY, NAMES, TWINS, CONFIG)
    usual, rare, tie = 1.0 / 0.4**2, 1.0 / 0.1**2, 1.0 / 0.2**2
    wanted = {
        "jawOpen": usual,
        "cheekPuff": rare,
        "mouthSmileLeft": usual + tie,
        "mouthSmileRight": usual + tie,
        "jawLeft": rare,
        "eyeBlinkLeft": usual + tie,
        "eyeBlinkRight": usual + tie,
    }
    assert precision.diagonal()[:IDENTITY].tolist() == [1.5] * IDENTITY
    assert dict(zip(NAMES, precision.diagonal()[IDENTITY:].tolist(), strict=True)) == pytest.approx(wanted)


def test_only_twins_are_tied() -> None:
    precision = prior_precision(IDENTITY, NAMES, TWINS, CONFIG)
    beside = precision - torch.diag(precision.diagonal())
    wanted = torch.zeros_like(precision)
    for left, right in TWINS.tolist():
        wanted[left, right] = wanted[right, left] = -1.0 / 0.2**2
    torch.testing.assert_close(beside, wanted)
    assert float(torch.linalg.eigvalsh(precision).min()) > 0.0


def test_energy_is_the_sum_of_the_formula() -> None:
    precision = prior_precision(IDENTITY, NAMES, TWINS, CONFIG)
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(IDENTITY + len(NAMES), generator=generator, dtype=torch.float64)
    identity = coefficients[:IDENTITY].tolist()
    expression = dict(zip(NAMES, coefficients[IDENTITY:].tolist(), strict=True))
    wanted = sum(1.5 * a * a for a in identity)
    for name, b in expression.items():
        wanted += (b / (0.1 if name in ("cheekPuff", "jawLeft") else 0.4)) ** 2
    for kind in ("mouthSmile", "eyeBlink"):
        wanted += ((expression[f"{kind}Left"] - expression[f"{kind}Right"]) / 0.2) ** 2
    assert float(coefficients @ precision @ coefficients) == pytest.approx(wanted)


def test_rare_expressions_are_held_tighter() -> None:
    assert {"cheekPuff", "jawLeft", "tongueOut"} <= RARE_EXPRESSIONS
    assert PriorConfig().rare_expression_sd < PriorConfig().expression_sd
