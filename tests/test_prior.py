"""The prior against its formula."""

from __future__ import annotations

import pytest
import torch

from fit3d.config import RARE_EXPRESSIONS, PriorConfig
from fit3d.energy.prior import (
    ROUNDING,
    expression_sparsity,
    identity_excess,
    identity_excess_slope,
    prior_precision,
)

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


BOUNDS = torch.tensor([[0.0, 1.0], [0.0, 0.7], [-1.0, 1.0], [-0.2, 1.0]], dtype=torch.float64)


def test_sparsity_is_an_absolute_value() -> None:
    """Exactly for one-sided coefficients; rounded at zero for others, where it would have no slope."""
    config = PriorConfig(expression_sparsity=6.0)
    expression = torch.tensor([[0.0, 0.7, -1.0, 0.5], [0.3, 0.0, 0.0, -0.2]], dtype=torch.float64)
    found = expression_sparsity(expression, BOUNDS, config)
    torch.testing.assert_close(found.energy, 6.0 * expression.abs().sum(1), rtol=0, atol=6.0 * 2 * ROUNDING)
    one_sided = expression_sparsity(expression[:, :2], BOUNDS[:2], config)
    torch.testing.assert_close(one_sided.energy, 6.0 * expression[:, :2].sum(1))
    assert float(expression_sparsity(torch.zeros(4, dtype=torch.float64), BOUNDS, config).energy) == 0.0


def test_sparsity_pulls_as_its_energy_falls() -> None:
    config = PriorConfig(expression_sparsity=6.0)
    generator = torch.Generator().manual_seed(0)
    expression = (0.3 * torch.randn(20, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    found = expression_sparsity(expression, BOUNDS, config)
    (derivative,) = torch.autograd.grad(found.energy.sum(), expression)
    torch.testing.assert_close(2.0 * found.slope, derivative)
    assert bool((found.curvature[:, :2] == 0).all()) and bool((found.curvature[:, 2:] > 0).all())
    # a step of the re-weighted model never overshoots: the parabola lies above the energy everywhere
    other = torch.linspace(-1.0, 1.0, 101, dtype=torch.float64)
    for at in (-0.6, -0.01, 0.0, 0.3):
        here = torch.full((4,), at, dtype=torch.float64)
        model = expression_sparsity(here, BOUNDS, config)
        step = other - at
        parabola = 2.0 * model.slope[2] * step + model.curvature[2] * step**2
        three = here.expand(101, 4).clone()
        three[:, 2] = other
        rise = expression_sparsity(three, BOUNDS, config).energy - model.energy
        assert bool((parabola >= rise - 1e-12).all())


def test_identity_is_free_within_the_limit_and_held_beyond() -> None:
    config = PriorConfig(identity_limit=0.9, identity_stiffness=50.0)
    direction = torch.randn(3, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    unit = direction / direction.norm(dim=1, keepdim=True) * 4.0  # root mean square 1
    assert not bool(identity_excess(0.89 * unit, config).any())
    assert not bool(identity_excess_slope(0.89 * unit, config).any())
    beyond = identity_excess(1.4 * unit, config).square()
    torch.testing.assert_close(beyond, torch.full((3,), 50.0 * (0.5 * 4.0) ** 2, dtype=torch.float64))
    at = (1.4 * unit).requires_grad_()
    (derivative,) = torch.autograd.grad(identity_excess(at, config).sum(), at)
    torch.testing.assert_close(identity_excess_slope(at.detach(), config), derivative)
