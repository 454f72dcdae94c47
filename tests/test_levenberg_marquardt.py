"""The solver on problems made for it: bounded steps, descents smooth and rough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fit3d.solve.levenberg_marquardt import (
    Descent,
    Outcome,
    _bounded_batch,
    _bounded_one,
    bounded_step,
    minimise,
)
from fit3d.solve.quadratic import Quadratic


def random_steps(seed: int, count: int, size: int = 6) -> tuple[Quadratic, Tensor, Tensor]:
    """Models and bounds around zero, of which some are tight, some are none, and some lock an unknown."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(count, size, size, generator=generator, dtype=torch.float64)
    hessian = root @ root.mT + 0.1 * torch.eye(size, dtype=torch.float64)
    gradient = torch.randn(count, size, generator=generator, dtype=torch.float64)
    low, high = -0.5 * torch.rand(2, count, size, generator=generator, dtype=torch.float64)
    high = -high
    kind = torch.randint(5, (count, size), generator=generator)
    low[(kind == 0) | (kind == 1)], high[(kind == 0) | (kind == 2)] = -torch.inf, torch.inf
    low[kind == 3] = 0.0
    locked = torch.rand(count, size, generator=generator) < 0.15
    low[locked] = high[locked] = 0.0
    return Quadratic(gradient, hessian), low, high


def check_constrained_minimum(step: Tensor, gradient: Tensor, damped: Tensor, low: Tensor, high: Tensor) -> None:
    """Karush-Kuhn-Tucker: no slope where free, and at a bound a slope that pushes outwards; locked, any slope."""
    assert bool(((step >= low) & (step <= high)).all())
    slope = gradient + (damped @ step[..., None]).squeeze(-1)
    at_low, at_high, locked = step <= low, step >= high, low == high
    assert float(slope[~at_low & ~at_high].abs().max()) < 1e-8
    assert bool((slope[at_low & ~locked] > -1e-8).all()) and bool((slope[at_high & ~locked] < 1e-8).all())


def damped_by(model: Quadratic, damping: Tensor) -> Tensor:
    """(B, P, P): H + lambda diag H."""
    return model.hessian + torch.diag_embed(damping[:, None] * model.hessian.diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize("seed", range(4))
def test_bounded_step_is_the_constrained_minimum(seed: int) -> None:
    model, low, high = random_steps(seed, 50)
    damping = torch.logspace(-3, 1, 50, dtype=torch.float64)
    step = bounded_step(model, damping, low, high)
    damped = damped_by(model, damping)
    check_constrained_minimum(step, model.gradient, damped, low, high)
    held = (step <= low) | (step >= high)
    assert bool(((low == high) & held).any()) and bool(((low < high) & held).any()) and bool((~held).any())
    fall = (2.0 * model.gradient * step).sum(1) + (step * (damped @ step[..., None]).squeeze(-1)).sum(1)
    assert bool((fall < 0.0).all())


@pytest.mark.parametrize("seed", range(4))
def test_bounded_steps_of_a_batch_are_those_of_each(seed: int) -> None:
    """The way of devices, all photos in one system, against the way of the CPU, one after the other."""
    model, low, high = random_steps(10 + seed, 50, size=9)
    damped = damped_by(model, torch.zeros(50, dtype=torch.float64))
    together = _bounded_batch(model.gradient, damped, low, high)
    alone = torch.stack([_bounded_one(*each) for each in zip(model.gradient, damped, low, high, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-11)
    check_constrained_minimum(together, model.gradient, damped, low, high)


def test_bounded_step_without_room_stays() -> None:
    model, low, _ = random_steps(0, 3)
    nothing = torch.zeros_like(low)
    for find in (_bounded_one, lambda *each: _bounded_batch(*(one[None] for one in each))[0]):
        for gradient, hessian in zip(model.gradient, model.hessian, strict=True):
            assert not find(gradient, hessian, nothing[0], nothing[0]).any()


def test_bounded_step_holds_what_would_leave_at_once() -> None:
    """At a bound with the downhill direction outwards: held, the multiplier's sign is right, the rest is free."""
    hessian = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 3.0]], dtype=torch.float64)[None]
    gradient = torch.tensor([[4.0, -0.5, -6.0]], dtype=torch.float64)
    free, undamped = torch.full((1, 3), torch.inf, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    low, high = -free, free.clone()
    low[0, 0], high[0, 2] = 0.0, 0.0
    step = bounded_step(Quadratic(gradient, hessian), undamped, low, high)
    torch.testing.assert_close(step, torch.tensor([[0.0, 0.5, 0.0]], dtype=torch.float64))
    slope = gradient[0] + hessian[0] @ step[0]
    assert float(slope[0]) > 0.0 and float(slope[2]) < 0.0
    # the other way round nothing is in the way of either
    inwards = bounded_step(Quadratic(-gradient, hessian), undamped, low, high)
    torch.testing.assert_close(inwards, torch.linalg.solve(hessian, gradient))


@dataclass(frozen=True)
class Points:
    """Points of the plane."""

    x: Tensor
    """(B, 2)."""

    def __len__(self) -> int:
        return len(self.x)

    def take(self, photos: Tensor) -> Points:
        return Points(self.x[photos])

    def with_rows(self, photos: Tensor, other: Points) -> Points:
        return Points(self.x.index_copy(0, photos, other.x))


@dataclass(frozen=True)
class Heights:
    at: Points
    rows: Tensor
    """(B, 2) residuals."""

    @property
    def terms(self) -> dict[str, Tensor]:
        return {"steep": self.rows[:, 0].square(), "flat": self.rows[:, 1].square()}

    @property
    def energy(self) -> Tensor:
        return torch.stack(list(self.terms.values())).sum(0)


@dataclass(frozen=True)
class Valley:
    """Rosenbrock's: residuals 10 (y - x^2) and 1 - x, in a strip x <= limit, of several walkers with strips of their
    own."""

    limit: Tensor
    """(B,)."""

    def take(self, photos: Tensor) -> Valley:
        return Valley(self.limit[photos])

    def evaluate(self, at: Points) -> Heights:
        assert len(at) == len(self.limit)
        x, y = at.x.unbind(1)
        return Heights(at, torch.stack([10.0 * (y - x * x), 1.0 - x], 1))

    def quadratic(self, evaluation: Heights, photos: Tensor) -> Quadratic:
        x, one = evaluation.at.x[photos, 0], torch.ones(len(photos), dtype=torch.float64)
        rows = torch.stack([torch.stack([-20.0 * x, 10.0 * one], 1), torch.stack([-one, 0.0 * one], 1)], 1)
        gradient = (rows.mT @ evaluation.rows[photos][..., None]).squeeze(2)
        return Quadratic(gradient, rows.mT @ rows)

    def room(self, at: Points) -> tuple[Tensor, Tensor]:
        low, high = torch.full_like(at.x, -torch.inf), torch.full_like(at.x, torch.inf)
        high[:, 0] = self.limit - at.x[:, 0]
        return low, high

    def move(self, at: Points, step: Tensor) -> Points:
        return Points(at.x + step)


STARTS = torch.tensor([[-1.2, 1.0], [1.0, 1.0], [0.0, 0.0], [3.0, -2.0], [-4.0, 9.0], [-1.2, 1.0]], dtype=torch.float64)
LIMITS = torch.tensor([torch.inf, torch.inf, torch.inf, torch.inf, torch.inf, 0.5], dtype=torch.float64)


def test_minimise_solves_rosenbrock_from_everywhere_at_once() -> None:
    """Each walker finds the bottom, or the lowest point of its strip, in its own number of steps, as if alone."""
    descent = Descent(200, tolerance=1e-12)
    outcome = minimise(Valley(LIMITS), Points(STARTS), descent)
    bottom = torch.tensor([[1.0, 1.0]] * 5 + [[0.5, 0.25]], dtype=torch.float64)
    torch.testing.assert_close(outcome.at.x, bottom, atol=1e-5, rtol=0)
    torch.testing.assert_close(outcome.energy_end, torch.tensor([0.0] * 5 + [0.25], dtype=torch.float64))
    torch.testing.assert_close(outcome.energy_start, Valley(LIMITS).evaluate(Points(STARTS)).energy)
    assert set(outcome.stop_reasons) == {"converged"}
    assert int(outcome.steps[1]) <= 2 and int(outcome.steps[0]) > 8
    assert len(set(outcome.evaluations.tolist())) >= 4
    for walker in torch.arange(len(STARTS)).split(1):
        alone = minimise(Valley(LIMITS[walker]), Points(STARTS[walker]), descent)
        torch.testing.assert_close(alone.at.x, outcome.at.x[walker], rtol=0, atol=0)
        assert (alone.steps[0], alone.evaluations[0]) == (outcome.steps[walker][0], outcome.evaluations[walker][0])
        for name in ("steep", "flat"):
            assert torch.equal(alone.terms_start[name], outcome.terms_start[name][walker])
            assert torch.equal(alone.terms_end[name], outcome.terms_end[name][walker])


@pytest.mark.parametrize("limit", range(1, 30))
def test_energy_never_rises_however_soon_it_ends(limit: int) -> None:
    """The point returned has the energy returned; more evaluations never end higher; none takes more than allowed."""
    shorter, longer = (minimise(Valley(LIMITS), Points(STARTS), Descent(limit + more, 1e-12)) for more in (0, 1))
    assert bool((shorter.energy_end <= shorter.energy_start).all())
    assert bool((longer.energy_end <= shorter.energy_end).all())
    torch.testing.assert_close(Valley(LIMITS).evaluate(shorter.at).energy, shorter.energy_end, rtol=0, atol=0)
    assert bool((shorter.evaluations <= limit).all()) and bool((shorter.steps <= shorter.evaluations).all())
    assert bool((shorter.at.x[:, 0] <= LIMITS).all())
    for reason, count in zip(shorter.stop_reasons, shorter.evaluations.tolist(), strict=True):
        assert reason == "converged" or (reason == "iterations" and count == limit)


def test_minimise_takes_no_photos() -> None:
    outcome = minimise(Valley(LIMITS[:0]), Points(STARTS[:0]), Descent(5))
    assert len(outcome.at) == 0 and outcome.stop_reasons == ()


@dataclass(frozen=True)
class Walkers:
    """Points on a line, each with the number of its script."""

    x: Tensor
    script: Tensor
    """(B,) int64."""

    def __len__(self) -> int:
        return len(self.x)

    def take(self, photos: Tensor) -> Walkers:
        return Walkers(self.x[photos], self.script[photos])

    def with_rows(self, photos: Tensor, other: Walkers) -> Walkers:
        assert torch.equal(self.script[photos], other.script)
        return Walkers(self.x.index_copy(0, photos, other.x), self.script)


@dataclass(frozen=True)
class Told:
    at: Walkers
    energy: Tensor

    @property
    def terms(self) -> dict[str, Tensor]:
        return {"told": self.energy}


class Scripted:
    """The n-th evaluated point of a walker has the n-th energy of its script, whatever the step; the model always asks
    for a step of 1. Remembers where each step began and how long it was."""

    def __init__(self, scripts: Sequence[Sequence[float]]) -> None:
        self.rest = [iter(script) for script in scripts]
        self.taken: list[list[tuple[float, float]]] = [[] for _ in scripts]

    def take(self, photos: Tensor) -> Scripted:
        return self

    def evaluate(self, at: Walkers) -> Told:
        energy = torch.tensor([next(self.rest[script]) for script in at.script.tolist()], dtype=torch.float64)
        return Told(at, energy)

    def quadratic(self, evaluation: Told, photos: Tensor) -> Quadratic:
        ones = torch.ones(len(photos), 1, dtype=torch.float64)
        return Quadratic(-ones, ones[..., None])

    def room(self, at: Walkers) -> tuple[Tensor, Tensor]:
        free = torch.full((len(at), 1), torch.inf, dtype=torch.float64)
        return -free, free

    def move(self, at: Walkers, step: Tensor) -> Walkers:
        for script, x, length in zip(at.script.tolist(), at.x.tolist(), step[:, 0].tolist(), strict=True):
            self.taken[script].append((x, length))
        return Walkers(at.x + step[:, 0], at.script)


def descend_rough(*scripts: list[float], iterations: int) -> tuple[Outcome[Walkers], list[list[tuple[float, float]]]]:
    """The minimiser with roughness on scripts; also where each step began and how long it was."""
    problem = Scripted(scripts)
    start = Walkers(torch.zeros(len(scripts), dtype=torch.float64), torch.arange(len(scripts)))
    descent = Descent(iterations, tolerance=3e-3, roughness=0.05, retries=3)
    return minimise(problem, start, descent), problem.taken


def test_rough_descent_returns_the_lowest_point() -> None:
    """It goes on over a small rise, and what it met before is not lost."""
    outcome, (taken, _) = descend_rough([10.0, 8.0, 8.2, 8.3], [10.0, 8.0, 8.2, 5.0], iterations=3)
    assert outcome.energy_end.tolist() == [8.0, 5.0]
    assert outcome.at.x.tolist() == pytest.approx([1.0, 3.0], abs=0.01)
    assert [round(start) for start, _ in taken] == [0, 1, 2]
    cut_short, _ = descend_rough([10.0, 8.0, 8.2], iterations=2)
    assert (cut_short.stop_reasons, cut_short.energy_end.tolist()) == (("iterations",), [8.0])


@pytest.mark.parametrize("energies", [[10.0, 10.2, 10.4, 10.6, 10.8], [10.0, 30.0, 20.0, 30.0, 20.0]])
def test_rough_descent_never_ends_higher(energies: list[float]) -> None:
    outcome, _ = descend_rough(energies, iterations=4)
    assert outcome.at.x.tolist() == [0.0] and outcome.energy_end.tolist() == outcome.energy_start.tolist() == [10.0]
    assert outcome.stop_reasons in (("converged",), ("stalled",))


def test_without_roughness_no_rise_is_taken() -> None:
    problem = Scripted([[10.0, 8.0, 8.001, 7.0]])
    start = Walkers(torch.zeros(1, dtype=torch.float64), torch.arange(1))
    outcome = minimise(problem, start, Descent(3))
    (starts,) = ([x for x, _ in taken] for taken in problem.taken)
    assert starts[1] == starts[2] == pytest.approx(1.0, abs=0.01)
    assert (int(outcome.steps), outcome.energy_end.tolist()) == (2, [7.0])


def test_rough_descent_retries_a_jump_with_more_damping() -> None:
    """From the same point, ever shorter; once a step is accepted, damping falls again."""
    outcome, (taken,) = descend_rough([10.0, 50.0, 40.0, 6.0, 5.0, 4.0], iterations=5)
    starts, lengths = zip(*taken, strict=True)
    assert starts[:3] == (0.0, 0.0, 0.0) and starts[3] == lengths[2]
    damping = [1.0 / length - 1.0 for length in lengths]
    assert damping == pytest.approx([1e-3, 2e-3, 8e-3, 8e-3 / 3.0, 8e-3 / 9.0], rel=1e-6)
    assert outcome.energy_end.tolist() == [4.0]
    assert (int(outcome.steps), int(outcome.evaluations)) == (3, 5)


def test_damping_follows_the_gain() -> None:
    """Madsen's rule: as much as the model promised makes lambda a third, half of it leaves it, less makes it more.

    The model promises a fall of 1 from a step of 1.
    """

    def change(fall: float) -> float:
        _, ((_, (_, second), (_, third)),) = descend_rough([100.0, 99.0, 99.0 - fall, 50.0], iterations=3)
        return (1.0 / third - 1.0) / (1.0 / second - 1.0)

    assert change(1.0) == pytest.approx(1.0 / 3.0, rel=0.01)
    assert change(5.0) == pytest.approx(1.0 / 3.0, rel=0.01)
    assert change(0.5) == pytest.approx(1.0, rel=0.01)
    assert change(0.2) == pytest.approx(1.0 + 0.6**3, rel=0.01)
    assert change(-2.0) == pytest.approx(2.0, rel=0.01)


def test_rough_descent_gives_up_in_order() -> None:
    """Rejections in a row end it as stalled; idle steps as converged; rejections are not counted as idle steps.

    Each walker for itself: in one batch, that go on and stop at different times.
    """
    scripts = (
        [10.0] + [50.0] * 9,
        [10.0] + [9.999] * 9,
        [10.0, 50.0, 50.0, 9.0, 50.0, 50.0, 8.0, 50.0, 50.0, 7.0],
        [10.0, 9.0, 8.999, 50.0, 8.998, 50.0, 50.0, 50.0, 50.0, 50.0],
    )
    outcome, taken = descend_rough(*scripts, iterations=9)
    assert outcome.stop_reasons == ("stalled", "converged", "iterations", "converged")
    assert outcome.evaluations.tolist() == [3, 2, 9, 4] and outcome.steps.tolist() == [0, 2, 3, 3]
    assert outcome.energy_end.tolist() == [10.0, 9.999, 7.0, 8.998]
    assert outcome.energy_start.tolist() == [10.0] * 4
    assert [len(each) for each in taken] == outcome.evaluations.tolist()
    for number, script in enumerate(scripts):
        alone, (steps,) = descend_rough(script, iterations=9)
        assert steps == taken[number] and alone.at.x.tolist() == outcome.at.x[number : number + 1].tolist()
