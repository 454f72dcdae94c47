"""Levenberg-Marquardt on a sum of squares, with bounds by projection (Nocedal and Wright, chapter 10; Madsen, Nielsen
and Tingleff, "Methods for non-linear least squares problems", 2004, for the damping rule)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from fit3d.solve.quadratic import Quadratic

ACTIVE_SET_ROUNDS = 12
"""Most solutions for one bounded step."""

E = TypeVar("E", bound="HasEnergy")


class HasEnergy(Protocol):
    """An evaluated point, whatever else it holds."""

    @property
    def energy(self) -> float:
        """Sum of squares at the point."""
        ...


@dataclass(frozen=True)
class Outcome(Generic[E]):
    """Where the solver ended."""

    start: E
    end: E
    steps: int
    """Accepted steps."""
    evaluations: int
    stop_reason: str
    """'converged': the energy fell by less than the tolerance; 'iterations': the limit was reached; 'stalled': more
    damping did not help either."""


def minimise(
    start: E,
    quadratic: Callable[[E], Quadratic],
    step_to: Callable[[E, Tensor], E],
    room: Callable[[E], tuple[Tensor, Tensor]],
    iterations: int,
    tolerance: float = 1e-3,
    damping: float = 1e-3,
) -> Outcome[E]:
    """Lower the energy from `start`; it never rises.

    Args:
        start: evaluated starting point.
        quadratic: Gauss-Newton model at an evaluated point.
        step_to: evaluate the point reached by a step (P,).
        room: lowest and highest step (P,) that the bounds allow from a point.
        iterations: most evaluations after the first.
        tolerance: relative fall of the energy under which two steps in a row count as converged.
        damping: initial lambda; the step solves (H + lambda diag H) s = -g.
    """
    current, growth, evaluations, steps, slow = start, 2.0, 0, 0, 0
    stop_reason = "iterations"
    model = quadratic(current)
    low, high = room(current)
    while evaluations < iterations:
        step = bounded_step(model, damping, low, high)
        trial = step_to(current, step)
        evaluations += 1
        expected = -float(2.0 * model.gradient @ step + step @ model.hessian @ step)
        fall = current.energy - trial.energy
        if fall > 0.0 and expected > 0.0:
            gain = fall / expected
            damping = max(damping * max(1.0 / 3.0, 1.0 - (2.0 * gain - 1.0) ** 3), 1e-9)
            growth = 2.0
            slow = slow + 1 if fall < tolerance * current.energy else 0
            current, steps = trial, steps + 1
            if slow == 2:
                stop_reason = "converged"
                break
            if evaluations < iterations:
                model = quadratic(current)
                low, high = room(current)
        else:
            if expected <= tolerance * 0.1 * current.energy:
                stop_reason = "converged"
                break
            damping *= growth
            growth *= 2.0
            if damping > 1e6:
                stop_reason = "stalled"
                break
    return Outcome(start, current, steps, evaluations, stop_reason)


def minimise_rough(
    start: E,
    quadratic: Callable[[E], Quadratic],
    step_to: Callable[[E, Tensor], E],
    room: Callable[[E], tuple[Tensor, Tensor]],
    iterations: int,
    tolerance: float = 3e-3,
    roughness: float = 0.05,
    patience: int = 2,
    retries: int = 3,
    damping: float = 1e-3,
) -> Outcome[E]:
    """Lower an energy that is smooth only on the whole, such as one that jumps when a pixel changes sides.

    A step that raises the energy by up to `roughness` of it is taken, since the next may fall by more; a worse one is
    tried again with more damping. Returns the lowest point met, so the energy never rises from start to end. Stops
    when `patience` accepted steps in a row have not lowered the best energy by `tolerance` of itself ('converged'), or
    when `retries` steps in a row were rejected ('stalled').
    """
    best = current = start
    evaluations, steps, idle, rejected, growth = 0, 0, 0, 0, 4.0
    model = quadratic(current)
    while evaluations < iterations:
        trial = step_to(current, bounded_step(model, damping, *room(current)))
        evaluations += 1
        gained = trial.energy < (1.0 - tolerance) * best.energy
        if trial.energy < best.energy:
            best = trial
        if trial.energy < (1.0 + roughness) * current.energy:
            current, steps, rejected = trial, steps + 1, 0
            damping, growth = max(damping / 3.0, 1e-6), 4.0
            idle = 0 if gained else idle + 1
            if idle == patience:
                return Outcome(start, best, steps, evaluations, "converged")
            if evaluations < iterations:
                model = quadratic(current)
        else:
            rejected += 1
            if rejected == retries:
                return Outcome(start, best, steps, evaluations, "stalled")
            damping *= growth
            growth *= 2.0
    return Outcome(start, best, steps, evaluations, "iterations")


def bounded_step(model: Quadratic, damping: float, low: Tensor, high: Tensor) -> Tensor:
    """Damped Gauss-Newton step (P,) within [low, high], by active sets (Nocedal and Wright, section 16.5).

    Unknowns whose step would leave the bounds are held there and the rest is solved again; then those are released
    whose multiplier has the wrong sign, because the energy falls away from the bound. Ends at the constrained minimum
    of the damped model, or after `ACTIVE_SET_ROUNDS` at a point within the bounds near it.
    """
    damped = model.hessian + torch.diag(damping * model.hessian.diagonal() + 1e-12)
    free = ~(((low >= 0) & (model.gradient > 0)) | ((high <= 0) & (model.gradient < 0)))
    step = torch.zeros_like(model.gradient)
    for _ in range(ACTIVE_SET_ROUNDS):
        index, held = torch.nonzero(free).squeeze(1), torch.nonzero(~free).squeeze(1)
        factor, _ = torch.linalg.cholesky_ex(damped[index][:, index])
        right = -(model.gradient[index] + damped[index][:, held] @ step[held])
        step[index] = torch.cholesky_solve(right[:, None], factor).squeeze(1)
        beyond = free & ((step < low) | (step > high))
        step = torch.minimum(torch.maximum(step, low), high)
        if bool(beyond.any()):
            free &= ~beyond
            continue
        slope = model.gradient + damped @ step
        wrong = ~free & (((step <= low) & (slope < 0)) | ((step >= high) & (slope > 0)))
        if not bool(wrong.any()):
            break
        free |= wrong
    return step
