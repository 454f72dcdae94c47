"""The reference solver on a model made by formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fit3d.config import FitConfig
from fit3d.evaluate.geometry import KnownHead, observe_known
from fit3d.solve.adam import minimise_adam
from fit3d.solve.fit import fit_landmarks, refine_with_parts, start_from_pose
from fit3d.solve.levenberg_marquardt import Outcome
from fit3d.solve.objective import Evaluation, Objective
from synthetic import synthetic_camera, synthetic_identity, synthetic_model

STEPS = 50


@pytest.fixture(scope="module")
def problem() -> tuple[Objective, Evaluation, float]:
    """A winking face with its mouth open; the mean head at the closed-form pose; the energy that LM ends at."""
    model = synthetic_model()
    camera = synthetic_camera(yaw_deg=15)
    expression = torch.zeros(len(model.expression))
    expression[model.expression_names.index("jawOpen")] = 0.5
    expression[model.expression_names.index("eyeBlinkLeft")] = 1.0
    head = KnownHead(synthetic_identity(model, 1).float(), expression, camera)
    config = FitConfig(anchors=8)
    observation = observe_known(model, head, "ibug68", 1.0, np.random.default_rng(0), config)
    stage = fit_landmarks(model, observation, camera.width, camera.height, camera.focal_px, config)
    objective = replace(stage.objective, with_parts=True)
    refined = refine_with_parts(stage, config)
    assert isinstance(refined, Outcome)
    principal = camera.principal_px
    start = objective.evaluate(start_from_pose(objective.geometry, objective.targets, stage.focal_px, principal))
    return objective, start, refined.end.energy


def test_adam_comes_near_to_levenberg_marquardt(problem: tuple[Objective, Evaluation, float]) -> None:
    """From far away, within bounds, to an energy of the same size."""
    objective, start, reached_by_lm = problem
    told: list[tuple[int, Evaluation]] = []

    def watch(step: int, evaluation: Evaluation) -> bool:
        told.append((step, evaluation))
        return False

    outcome = minimise_adam(objective, start, STEPS, watch=watch)
    assert outcome.steps == STEPS and outcome.stop_reason == "iterations"
    assert [step for step, _ in told] == [10, 20, 30, 40, 50]
    assert outcome.start is start
    assert outcome.end.energy == min(evaluation.energy for _, evaluation in told)
    assert start.energy > 5.0 * reached_by_lm
    assert outcome.end.energy < 1.4 * reached_by_lm  # it goes on falling, slowly
    bounds, count = objective.geometry.expression_bounds, objective.geometry.identity_count
    for _, evaluation in told:
        expression = evaluation.at.coefficients[count:]
        assert bool(((expression >= bounds[:, 0]) & (expression <= bounds[:, 1])).all())


def test_adam_stops_when_the_watcher_says_so(problem: tuple[Objective, Evaluation, float]) -> None:
    objective, start, _ = problem
    outcome = minimise_adam(objective, start, 3, watch=lambda step, evaluation: True)
    assert (outcome.steps, outcome.stop_reason) == (3, "watch")
    assert outcome.end.energy < start.energy
