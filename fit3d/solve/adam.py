"""The plain reference solver: autograd and Adam on the same energy, read off the formulas.

Slow on purpose: every point of a set is compared with every anchor by `energy.prdl.descriptor`. The fast solver is
tested against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fit3d import labels
from fit3d.energy.landmarks import landmark_energy
from fit3d.energy.prdl import descriptor, pixel_centres, pixel_sets
from fit3d.solve.objective import Evaluation, Objective, missing_part_energy, surface_points
from fit3d.solve.problem import POSE_SIZE, Parameters, project
from fit3d.targets import part_masks

STEPS_PER_ITERATION = 20
"""Adam steps taken for each Levenberg-Marquardt step of the same configuration."""


@dataclass(frozen=True)
class AdamOutcome:
    """Where Adam ended: `stop_reason` is 'iterations', or 'watch' when the watcher stopped it."""

    start: Evaluation
    end: Evaluation
    steps: int
    stop_reason: str


def differentiable_energy(objective: Objective, start: Parameters, step: Tensor) -> Tensor:
    """Energy, a scalar with gradient, after a step (P,) of `Parameters.moved` from `start`.

    Which pixels belong to which part is taken at the given parameters and held fixed for the derivative.
    """
    at = start.moved(step)
    here = replace(
        at,
        coefficients=at.coefficients.detach(),
        rotation=at.rotation.detach(),
        translation=at.translation.detach(),
    )
    targets, config = objective.targets, objective.config
    landmarks = objective.landmark_points(here)
    energy = landmark_energy(project(landmarks.at(at.coefficients), at).px, targets.landmarks)
    energy = energy + at.coefficients @ objective.precision.to(at.coefficients) @ at.coefficients
    if not objective.with_parts:
        return energy
    fragments, part_labels = objective.look(here)
    sets = pixel_sets(part_masks(part_labels, targets.hidden, targets.above_brows), config.prdl.mean_points)
    resolution, dtype = targets.crop.resolution, step.dtype
    fine = pixel_centres(targets.anchors, resolution, dtype)
    coarse = pixel_centres(targets.coarse_anchors, resolution, dtype)
    for target in targets.parts:
        pixels = sets[labels.PRDL_PARTS.index(target.label)]
        if pixels.empty:
            energy = energy + missing_part_energy(target, config)
            continue
        whole = torch.nonzero(pixels.mask).squeeze(1)
        for statistic, chosen, anchors, goal in (
            ("min", whole, fine, target.nearest),
            ("max", whole, fine, target.furthest),
            ("mean", pixels.spread, coarse, target.mean),
        ):
            if statistic not in config.prdl.statistics:
                continue
            points = surface_points(objective.geometry, fragments, chosen)
            seen = descriptor(project(points.at(at.coefficients), at).px, anchors, statistics=(statistic,))[..., 0]
            energy = energy + target.weight * (seen - goal).square().mean()
    return energy


def minimise_adam(
    objective: Objective,
    start: Evaluation,
    steps: int,
    learning_rate: float = 0.02,
    watch: Callable[[int, Evaluation], bool] = lambda step, evaluation: False,
) -> AdamOutcome:
    """Lower the energy with Adam over coefficients (learning rate as given) and pose (a tenth of it).

    Expression coefficients are clamped to their bounds after each step. Every tenth point is evaluated; the lowest is
    returned. `watch` is told of each and ends the descent by returning True.
    """
    bounds = objective.geometry.expression_bounds
    count = objective.geometry.identity_count
    current, best = start.at, start
    size = objective.geometry.parameter_count
    rate = torch.full((size,), learning_rate, dtype=current.coefficients.dtype, device=bounds.device)
    rate[-POSE_SIZE:] *= 0.1
    first = torch.zeros_like(rate)
    second = torch.zeros_like(rate)
    for index in range(1, steps + 1):
        step = torch.zeros_like(rate, requires_grad=True)
        (gradient,) = torch.autograd.grad(differentiable_energy(objective, current, step), step)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.square()
        move = -rate * (first / (1 - 0.9**index)) / ((second / (1 - 0.999**index)).sqrt() + 1e-8)
        moved = current.moved(move)
        coefficients = moved.coefficients.clone()
        coefficients[count:] = torch.minimum(torch.maximum(coefficients[count:], bounds[:, 0]), bounds[:, 1])
        current = replace(moved, coefficients=coefficients)
        if index % 10 == 0 or index == steps:
            evaluation = objective.evaluate(current)
            if evaluation.energy < best.energy:
                best = evaluation
            if watch(index, evaluation):
                return AdamOutcome(start, best, index, "watch")
    return AdamOutcome(start, best, steps, "iterations")
