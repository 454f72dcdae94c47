"""Levenberg-Marquardt on a batch of sums of squares, with bounds by projection (Nocedal and Wright, "Numerical
optimization", 2006, chapters 10 and 16; Madsen, Nielsen and Tingleff, "Methods for non-linear least squares problems",
2004, for the damping rule). Each photo of the batch has its own damping and stops on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from fit3d import devices
from fit3d.solve.quadratic import Quadratic

ACTIVE_SET_ROUNDS = 12
"""Most solutions for one bounded step."""

StopReason = Literal["converged", "iterations", "stalled", "watch"]
"""'converged': steps no longer lower the energy by the tolerance; 'iterations': the limit was reached; 'stalled': more
damping did not help either; 'watch': whoever watched it (Adam only) has seen enough."""

P = TypeVar("P", bound="Batch")
Q = TypeVar("Q", covariant=True)
E = TypeVar("E", bound="HasEnergy[Any]")


class Batch(Protocol):
    """Parameters of several photos."""

    def __len__(self) -> int: ...

    def take(self: P, photos: Tensor) -> P: ...

    def with_rows(self: P, photos: Tensor, other: P) -> P: ...


class HasEnergy(Protocol[Q]):
    """An evaluated batch, whatever else it holds."""

    @property
    def at(self) -> Q:
        """Where."""
        ...

    @property
    def terms(self) -> dict[str, Tensor]:
        """Sums of squares (B,) float64 on the CPU, by name."""
        ...

    @property
    def energy(self) -> Tensor:
        """Their sum (B,) float64 on the CPU."""
        ...


class Problem(Protocol[P, E]):
    """A batch of energies to lower."""

    def take(self, photos: Tensor) -> Problem[P, E]: ...

    def evaluate(self, at: P) -> E: ...

    def quadratic(self, evaluation: E, photos: Tensor) -> Quadratic: ...

    def room(self, at: P) -> tuple[Tensor, Tensor]:
        """Lowest and highest step (B, P) float64 that the bounds allow."""
        ...

    def move(self, at: P, step: Tensor) -> P:
        """Take a step (B, P) that lies within the room."""
        ...


@dataclass(frozen=True)
class Descent:
    """How to go down."""

    iterations: int
    """Most evaluations of each photo after the first."""
    tolerance: float = 1e-3
    """Relative fall of the lowest energy under which `patience` accepted steps in a row count as converged."""
    patience: int = 2
    roughness: float = 0.0
    """A step that raises the energy by less than this share of it is taken: an energy that jumps when a pixel changes
    sides is smooth only on the whole, and the next step may fall by more. The lowest point met is returned."""
    retries: int = 12
    """So many rejected steps in a row count as stalled."""
    damping: float = 1e-3
    """First lambda; a step solves (H + lambda diag H) s = -g."""


@dataclass(frozen=True)
class Outcome(Generic[P]):
    """Where the solver ended, for each photo of the batch."""

    at: P
    """The lowest points met."""
    terms_start: dict[str, Tensor]
    """(B,) float64 energies at the start, by name."""
    terms_end: dict[str, Tensor]
    """(B,) float64 at the lowest points."""
    steps: Tensor
    """(B,) int64: accepted steps."""
    evaluations: Tensor
    """(B,) int64, the first not counted."""
    stop_reasons: tuple[StopReason, ...]

    @property
    def energy_start(self) -> Tensor:
        """(B,) float64."""
        return torch.stack(list(self.terms_start.values())).sum(0)

    @property
    def energy_end(self) -> Tensor:
        """(B,) float64."""
        return torch.stack(list(self.terms_end.values())).sum(0)


def minimise(problem: Problem[P, E], start: P, descent: Descent) -> Outcome[P]:
    """Lower the energy of each photo from `start`; the energy returned is never higher than at the start."""
    count = len(start)
    everyone = torch.arange(count)
    first = problem.evaluate(start)
    model = problem.quadratic(first, everyone)
    best, current = start, start
    terms_best = {name: values.clone() for name, values in first.terms.items()}
    energy_best, energy = first.energy.clone(), first.energy.clone()
    damping = torch.full((count,), descent.damping, dtype=torch.float64)
    growth = torch.full((count,), 2.0, dtype=torch.float64)
    steps, evaluations, idle, rejected = torch.zeros(4, count, dtype=torch.int64).unbind(0)
    reasons: list[StopReason] = ["iterations"] * count
    alive = everyone
    while len(alive):
        some, now = problem.take(alive), current.take(alive)
        local_model = model.take(alive)
        step = bounded_step(local_model, damping[alive], *some.room(now))
        trial = some.evaluate(some.move(now, step))
        reached = trial.energy
        expected = _expected_fall(local_model, step)
        evaluations[alive] += 1

        gained = reached < (1.0 - descent.tolerance) * energy_best[alive]
        lower = torch.nonzero(reached < energy_best[alive]).squeeze(1)
        energy_best[alive[lower]] = reached[lower]
        best = best.with_rows(alive[lower], trial.at.take(lower))
        for name, values in trial.terms.items():
            terms_best[name][alive[lower]] = values[lower]

        taken = reached < (1.0 + descent.roughness) * energy[alive]
        hopeless = ~taken & (expected <= 0.1 * descent.tolerance * energy[alive])
        fall = 2.0 * (energy[alive] - reached) / expected.clamp(min=1e-300) - 1.0
        factor = (1.0 - fall * fall * fall).clamp(1.0 / 3.0, 2.0)
        damping[alive] = torch.where(taken, (damping[alive] * factor).clamp(min=1e-6), damping[alive] * growth[alive])
        growth[alive] = torch.where(taken, 2.0, 2.0 * growth[alive])
        steps[alive] += taken
        rejected[alive] = torch.where(taken, 0, rejected[alive] + 1)
        idle[alive] = torch.where(gained, 0, idle[alive] + taken.long())

        converged = (idle[alive] >= descent.patience) | hopeless
        stalled = rejected[alive] >= descent.retries
        over = converged | stalled | (evaluations[alive] >= descent.iterations)
        for photo, is_converged, is_stalled in zip(alive.tolist(), converged.tolist(), stalled.tolist(), strict=True):
            if is_converged or is_stalled:
                reasons[photo] = "converged" if is_converged else "stalled"
        onwards = torch.nonzero(taken & ~over).squeeze(1)
        if len(onwards):
            current = current.with_rows(alive[onwards], trial.at.take(onwards))
            energy[alive[onwards]] = reached[onwards]
            model = model.with_rows(alive[onwards], some.quadratic(trial, onwards))
        alive = alive[~over]
    return Outcome(best, first.terms, terms_best, steps, evaluations, tuple(reasons))


def _expected_fall(model: Quadratic, step: Tensor) -> Tensor:
    """(B,) float64 on the CPU: how far the model falls along a step (B, P)."""
    along = torch.stack([h @ s for h, s in zip(model.hessian, step, strict=True)])
    return -((2.0 * model.gradient + along) * step).sum(1).cpu()


def bounded_step(model: Quadratic, damping: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Damped Gauss-Newton steps (B, P) within [low, high] (B, P), by active sets (Nocedal and Wright, section 16.5).

    Unknowns whose step would leave the bounds are held there and the rest is solved again; then those are released
    whose multiplier has the wrong sign, because the energy falls away from the bound. Ends at the constrained minimum
    of the damped model, or after `ACTIVE_SET_ROUNDS` at a point within the bounds near it. `damping` is (B,).
    """
    diagonal = model.hessian.diagonal(dim1=1, dim2=2)
    damped = model.hessian + torch.diag_embed(damping.to(diagonal)[:, None] * diagonal + 1e-12)
    if devices.on_cpu(damped):
        return torch.stack([_bounded_one(*each) for each in zip(model.gradient, damped, low, high, strict=True)])
    return _bounded_batch(model.gradient, damped, low, high)


def _bounded_one(gradient: Tensor, damped: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`bounded_step` (P,) of one photo, solving for the free unknowns alone."""
    free = ~(((low >= 0) & (gradient > 0)) | ((high <= 0) & (gradient < 0)))
    step = torch.zeros_like(gradient)
    for _ in range(ACTIVE_SET_ROUNDS):
        index, held = torch.nonzero(free).squeeze(1), torch.nonzero(~free).squeeze(1)
        rows = damped[index]
        factor, _ = torch.linalg.cholesky_ex(rows[:, index])
        right = -(gradient[index] + rows[:, held] @ step[held])
        step[index] = torch.cholesky_solve(right[:, None], factor).squeeze(1)
        beyond = free & ((step < low) | (step > high))
        step = torch.minimum(torch.maximum(step, low), high)
        if bool(beyond.any()):
            free &= ~beyond
            continue
        slope = gradient + damped @ step
        wrong = ~free & (((step <= low) & (slope < 0) & (high > low)) | ((step >= high) & (slope > 0) & (high > low)))
        if not bool(wrong.any()):
            break
        free |= wrong
    return step


def _bounded_batch(gradient: Tensor, damped: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """`bounded_step` (B, P) of all photos at once: held unknowns stay in the system as rows of the identity."""
    free = ~(((low >= 0) & (gradient > 0)) | ((high <= 0) & (gradient < 0)))
    step = torch.zeros_like(gradient)
    busy = torch.ones_like(free[:, :1])
    for _ in range(ACTIVE_SET_ROUNDS):
        held = torch.where(free, 0.0, step)
        right = torch.where(free, -(gradient + (damped @ held[..., None]).squeeze(-1)), held)
        system = torch.where(free[:, :, None] & free[:, None, :], damped, 0.0) + torch.diag_embed((~free).to(damped))
        factor, _ = torch.linalg.cholesky_ex(system)
        solved = torch.cholesky_solve(right[..., None], factor).squeeze(-1)
        step = torch.where(busy, solved, step)
        beyond = free & ((step < low) | (step > high)) & busy
        step = torch.minimum(torch.maximum(step, low), high)
        slope = gradient + (damped @ step[..., None]).squeeze(-1)
        wrong = ~free & (((step <= low) & (slope < 0)) | ((step >= high) & (slope > 0))) & (high > low) & busy
        leaves = beyond.any(1, keepdim=True)
        free = torch.where(leaves, free & ~beyond, free | wrong)
        busy = leaves | wrong.any(1, keepdim=True)
        if not bool(busy.any()):
            break
    return step
