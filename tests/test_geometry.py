"""The measuring of heads of known shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fit3d.config import FitConfig
from fit3d.evaluate.geometry import (
    aligned_errors_mm,
    average_geometry,
    face_vertices,
    known_heads,
    observe_known,
    score_known,
)
from fit3d.labels import PRDL_PARTS
from fit3d.morphable.model import MorphableModel
from fit3d.solve.problem import cross_matrix
from synthetic import synthetic_model


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return synthetic_model()


def cloud(seed: int) -> torch.Tensor:
    return torch.randn(50, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.1


def test_alignment_undoes_a_similarity() -> None:
    truth = cloud(0)
    rotation = torch.linalg.matrix_exp(cross_matrix(torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64)))
    moved = 1.3 * truth @ rotation.mT + torch.tensor([1.0, -2.0, 0.5])
    assert float(aligned_errors_mm(moved, truth, with_scale=True).max()) < 1e-9
    assert float(aligned_errors_mm(moved, truth, with_scale=False).mean()) > 10.0
    assert float(aligned_errors_mm(moved / 1.3, truth, with_scale=False).max()) < 1e-9


def test_alignment_does_not_mirror() -> None:
    truth = cloud(1)
    assert float(aligned_errors_mm(truth * torch.tensor([-1.0, 1.0, 1.0]), truth, with_scale=True).mean()) > 10.0


def test_errors_are_millimetres() -> None:
    truth = cloud(2)
    spread = truth - truth.mean(0)
    outwards = 0.002 * spread / spread.norm(dim=1, keepdim=True)
    errors = aligned_errors_mm(truth + outwards, truth, with_scale=False)
    assert float(errors.mean()) == pytest.approx(2.0, rel=0.05)


def test_heads_repeat_with_the_seed_and_keep_their_bounds(model: MorphableModel) -> None:
    one, two, other = known_heads(model, 5, 7), known_heads(model, 5, 7), known_heads(model, 5, 8)
    for a, b, c in zip(one, two, other, strict=True):
        assert torch.equal(a.identity, b.identity) and torch.equal(a.expression, b.expression)
        assert torch.equal(a.camera.cam_from_world, b.camera.cam_from_world)
        assert not torch.equal(a.identity, c.identity)
        assert bool((a.expression >= model.expression_bounds[:, 0]).all())
        assert bool((a.expression <= model.expression_bounds[:, 1]).all())


def test_face_is_the_outer_surface_of_the_scored_parts(model: MorphableModel) -> None:
    face = face_vertices(model)
    label = model.annotation.field_labels[model.annotation.fields.argmax(0)]
    assert 0 < len(face) < len(model.mean)
    assert set(label[face].tolist()) <= set(PRDL_PARTS)


def test_a_fit_beats_the_mean_head_and_noise_hurts(model: MorphableModel) -> None:
    config, heads = FitConfig(), known_heads(model, 3, 0)

    def measured(noise_px: float) -> float:
        generator = np.random.default_rng(0)
        scores = [
            score_known(model, head, observe_known(model, head, "mediapipe478", noise_px, generator, config), config)
            for head in heads
        ]
        average = average_geometry(scores)
        assert average.part_iou > 0.9
        assert average.rotation_deg < 3.0
        assert average.neutral_mm < average.mean_head_mm
        return average.neutral_mm

    assert measured(0.0) < measured(20.0)
