"""The reference solver on a model made by formula."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d.config import FitConfig
from fit3d.evaluate.geometry import KnownHead, observe_known
from fit3d.solve.adam import minimise_adam
from fit3d.solve.fit import Face, fit_landmarks, prepare, refine_with_parts
from fit3d.solve.objective import Evaluation, Objective
from fit3d.solve.problem import Parameters
from synthetic import synthetic_camera, synthetic_identity, synthetic_model

STEPS = 60


@dataclass(frozen=True)
class Task:
    objective: Objective
    start: Parameters
    """The mean heads at the closed-form poses."""
    energy: Tensor
    """(2,) there."""
    reached_by_lm: Tensor
    """(2,)"""


@pytest.fixture(scope="module")
def task() -> Task:
    """A winking face with its mouth open, and a calm one turned the other way."""
    model = synthetic_model(6.0)
    config = FitConfig(loss="prdl", anchors=8)
    faces = []
    for seed, yaw, opened, shut in ((1, 15.0, 0.5, 1.0), (2, -20.0, 0.0, 0.0)):
        camera = synthetic_camera(yaw_deg=yaw)
        expression = torch.zeros(len(model.expression))
        expression[model.expression_names.index("jawOpen")] = opened
        expression[model.expression_names.index("eyeBlinkLeft")] = shut
        head = KnownHead(synthetic_identity(model, seed).float(), expression, camera)
        observation = observe_known(model, head, "ibug68", 1.0, np.random.default_rng(0), config)
        faces.append(Face(observation, camera.width, camera.height, camera.focal_px))
    batch = prepare(model, faces, config)
    refined = refine_with_parts(batch, fit_landmarks(batch).at)
    start = batch.start
    return Task(batch.objective, start, batch.objective.evaluate(start).energy, refined.energy_end)


def test_adam_comes_near_to_levenberg_marquardt(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """From far away, within bounds, to an energy of the same size."""
    told: list[tuple[int, float]] = []
    visited: list[Parameters] = []
    plain = Objective.evaluate

    def evaluate(objective: Objective, at: Parameters) -> Evaluation:
        visited.append(at)
        return plain(objective, at)

    def watch(step: int, energy: float) -> bool:
        told.append((step, energy))
        return False

    monkeypatch.setattr(Objective, "evaluate", evaluate)
    first = torch.tensor([0])
    objective, (reached_by_lm, _) = task.objective.take(first), task.reached_by_lm.tolist()
    outcome = minimise_adam(objective, task.start.take(first), STEPS, watch=watch)
    monkeypatch.undo()
    assert outcome.steps.tolist() == [STEPS] and outcome.stop_reasons == ("iterations",)
    assert [step for step, _ in told] == list(range(10, STEPS + 1, 10))
    assert torch.equal(outcome.energy_start, task.energy[first])
    assert outcome.energy_end.tolist() == [min(energy for _, energy in told)]
    assert torch.equal(objective.evaluate(outcome.at).energy, outcome.energy_end)
    assert float(outcome.energy_start) > 5.0 * reached_by_lm
    assert float(outcome.energy_end) < 1.4 * reached_by_lm  # it goes on falling, slowly
    bounds, count = task.objective.geometry.expression_bounds, task.objective.geometry.identity_count
    assert len(visited) == 1 + len(told)
    for at in visited:
        expression = at.coefficients[:, count:]
        assert bool(((expression >= bounds[:, 0]) & (expression <= bounds[:, 1])).all())
        assert not at.zoom.any()  # the focal length is known


def test_adam_stops_when_the_watcher_says_so(task: Task) -> None:
    outcome = minimise_adam(task.objective, task.start, 3, watch=lambda step, energy: True)
    assert outcome.steps.tolist() == [3, 3] and outcome.stop_reasons == ("watch", "watch")
    assert float(outcome.energy_end[0]) < float(task.energy[0])
    assert bool((outcome.energy_end <= task.energy).all())
    second = torch.tensor([1])
    alone = minimise_adam(task.objective.take(second), task.start.take(second), 3)
    assert torch.equal(alone.at.coefficients, outcome.at.coefficients[1:])
    assert torch.equal(alone.energy_end, outcome.energy_end[1:])
