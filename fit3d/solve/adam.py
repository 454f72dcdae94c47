"""The plain reference solver: autograd and Adam on the same energy, read off the formulas.

Slow on purpose: every point of a set is compared with every anchor by `energy.prdl.descriptor_naive`. The fast solver
is tested against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fit3d import labels
from fit3d.energy.landmarks import landmark_energy
from fit3d.energy.part_loss import PartLoss
from fit3d.energy.pixels import anchor_grid, pixel_centres, spread_pixels
from fit3d.energy.prdl import descriptor_naive
from fit3d.energy.prdl_raster import PrdlRaster
from fit3d.energy.prior import expression_sparsity, identity_excess
from fit3d.solve.levenberg_marquardt import Outcome, StopReason
from fit3d.solve.objective import Objective, lid_gaps, place_landmarks, shut_energy, surface_points
from fit3d.solve.problem import POSE_SIZE, LinearPoints, Parameters, project
from fit3d.targets import part_masks

STEPS_PER_ITERATION = 20
"""Adam steps taken for each Levenberg-Marquardt step of the same configuration."""


def differentiable_energy(objective: Objective, start: Parameters, step: Tensor) -> Tensor:
    """Energy, a scalar with gradient, of one face after a step (1, P) of `Parameters.moved` from `start`.

    Which pixels belong to which part, and where landmarks slide to, is taken at the given parameters and held fixed
    for the derivative.
    """
    geometry, config = objective.geometry, objective.config
    at = start.moved(step)
    here = start.moved(step.detach())
    (row,) = place_landmarks(geometry, here).row
    landmarks = LinearPoints(geometry.landmarks.mean[row], geometry.landmarks.basis[row])
    energy = landmark_energy(project(landmarks.at(at.coefficients), at).px, objective.targets.landmarks).sum()
    energy = energy + shut_energy(lid_gaps(geometry, at), objective.targets.shut).sum()
    offset = torch.cat([at.coefficients[0], at.coefficients.new_zeros(POSE_SIZE - 1), at.zoom])
    energy = energy + offset @ objective.precision.to(offset) @ offset
    identity, expression = offset[: geometry.identity_count], offset[geometry.identity_count : -POSE_SIZE]
    energy = energy + identity_excess(identity, config.prior).square()
    energy = energy + expression_sparsity(expression, geometry.expression_bounds, config.prior).energy
    if objective.part_loss is None:
        return energy
    prdl = _prdl(objective.part_loss)
    fragments, part_labels = objective.look(here)
    (masks,) = part_masks(part_labels, objective.targets.hidden, objective.targets.above_brows)
    resolution, target = config.crop.resolution, objective.targets.described
    fine, coarse = (
        pixel_centres(anchor_grid(count, resolution, step.device, prdl.config.extent), resolution, step.dtype)
        for count in (prdl.anchors, prdl.config.mean_anchors)
    )
    for part in range(len(labels.PRDL_PARTS)):
        weight, mask = objective.targets.part_weights[0, part], masks[part]
        if weight == 0:
            continue
        if not mask.any():
            energy = energy + weight * objective.missing_part_energy
            continue
        whole = torch.nonzero(mask.view(-1)).squeeze(1)
        spread = spread_pixels(mask, target.thinning[0, part], 2 * prdl.config.mean_points)
        for statistic, pixels, anchors, goals in (
            ("min", whole, fine, target.nearest),
            ("max", whole, fine, target.furthest),
            ("mean", spread[spread >= 0], coarse, target.mean),
        ):
            if statistic not in prdl.config.statistics:
                continue
            corners, weights = surface_points(geometry, fragments, torch.zeros_like(pixels), pixels)
            surface = LinearPoints(
                (geometry.surface.mean[corners] * weights[..., None]).sum(1),
                (geometry.surface.basis[corners] * weights[..., None, None]).sum(1),
            )
            points = project(surface.at(at.coefficients), at).px[0]
            seen = descriptor_naive(points, anchors, statistics=(statistic,))[..., 0]
            energy = energy + weight * (seen - goals[0, part]).square().mean()
    return energy


def _prdl(loss: PartLoss) -> PrdlRaster:
    assert isinstance(loss, PrdlRaster), "the configuration refuses Adam for other losses"
    return loss


def minimise_adam(
    objective: Objective,
    start: Parameters,
    steps: int,
    learning_rate: float = 0.02,
    watch: Callable[[int, float], bool] = lambda step, energy: False,
) -> Outcome[Parameters]:
    """Lower the energy with Adam, one photo after the other, over coefficients (learning rate as given) and pose (a
    tenth of it).

    Expression coefficients are clamped to their bounds after each step. Every tenth point is evaluated; the lowest is
    returned. `watch` is told the step and the energy of each and ends the descent by returning True; the stop reason
    is then 'watch'.
    """
    every = [
        _minimise_one(objective.take(photo), start.take(photo), steps, learning_rate, watch)
        for photo in torch.arange(len(start)).split(1)
    ]
    return Outcome(
        Parameters.stack([each.at for each in every]),
        {name: torch.cat([each.terms_start[name] for each in every]) for name in every[0].terms_start},
        {name: torch.cat([each.terms_end[name] for each in every]) for name in every[0].terms_end},
        torch.cat([each.steps for each in every]),
        torch.cat([each.evaluations for each in every]),
        tuple(each.stop_reasons[0] for each in every),
    )


def _minimise_one(
    objective: Objective, start: Parameters, steps: int, learning_rate: float, watch: Callable[[int, float], bool]
) -> Outcome[Parameters]:
    bounds = objective.geometry.expression_bounds
    count = objective.geometry.identity_count
    first = best = objective.evaluate(start)
    current = start
    rate = torch.full((1, objective.geometry.parameter_count), learning_rate).to(start.coefficients)
    rate[:, -POSE_SIZE:] *= 0.1
    rate[:, -1] *= objective.zoom_is_free.to(rate)
    mean, square = torch.zeros_like(rate), torch.zeros_like(rate)
    reason: StopReason = "iterations"
    index = 0
    for index in range(1, steps + 1):
        step = torch.zeros_like(rate, requires_grad=True)
        (gradient,) = torch.autograd.grad(differentiable_energy(objective, current, step), step)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient.square()
        move = -rate * (mean / (1 - 0.9**index)) / ((square / (1 - 0.999**index)).sqrt() + 1e-8)
        moved = current.moved(move)
        coefficients = moved.coefficients.clone()
        coefficients[:, count:] = torch.minimum(torch.maximum(coefficients[:, count:], bounds[:, 0]), bounds[:, 1])
        current = replace(moved, coefficients=coefficients)
        if index % 10 == 0 or index == steps:
            evaluation = objective.evaluate(current)
            if float(evaluation.energy) < float(best.energy):
                best = evaluation
            if watch(index, float(evaluation.energy)):
                reason = "watch"
                break
    taken = torch.tensor([index])
    return Outcome(best.at, first.terms, best.terms, taken, taken, (reason,))
