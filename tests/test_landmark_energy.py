"""The landmark term: its weights, its bound, and contour landmarks on the silhouette."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from fit3d.config import FitConfig
from fit3d.energy.landmarks import LandmarkTarget, landmark_energy, landmark_weights, slide
from fit3d.evaluate.geometry import KnownHead, observe_known
from fit3d.solve.fit import face_geometry
from synthetic import synthetic_camera, synthetic_model

OUTLIER_PX = 5.0


def target() -> LandmarkTarget:
    """Four landmarks at the origin, the last one missing."""
    weight = torch.tensor([0.5, 1.0, 2.0, 0.0], dtype=torch.float64)
    return LandmarkTarget(torch.zeros(4, 2, dtype=torch.float64), weight, OUTLIER_PX)


@pytest.mark.parametrize("size", [0.01, 1.0, 5.0, 50.0])
def test_weights_are_the_derivative_of_the_energy(size: float) -> None:
    """With E = sum_i w_i rho(s_i), the re-weighted residual w_i rho'(s_i) r_i is half of dE / dp_i."""
    generator = torch.Generator().manual_seed(0)
    px = (size * torch.randn(4, 2, generator=generator, dtype=torch.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(landmark_energy(px, target()), px)
    at = px.detach()
    torch.testing.assert_close(2.0 * landmark_weights(at, target())[:, None] * at, gradient)


def test_energy_is_quadratic_nearby_and_bounded_far_away() -> None:
    near = torch.full((4, 2), 1e-3, dtype=torch.float64)
    assert float(landmark_energy(near, target())) == pytest.approx(3.5 * 2e-6, rel=1e-5)
    torch.testing.assert_close(landmark_weights(near, target()), target().weight, rtol=1e-5, atol=0)
    at_scale = torch.tensor([[OUTLIER_PX, 0.0]] * 4, dtype=torch.float64)
    assert float(landmark_energy(at_scale, target())) == pytest.approx(3.5 * OUTLIER_PX**2 / 2.0)
    far = torch.full((4, 2), 1e6, dtype=torch.float64)
    assert float(landmark_energy(far, target())) == pytest.approx(3.5 * OUTLIER_PX**2)


def test_influence_of_one_landmark_is_bounded() -> None:
    """Its pull grows up to c / sqrt(3) and then fades, so that an outlier moves nothing."""
    away = torch.linspace(0.0, 200.0, 4001, dtype=torch.float64)
    one = LandmarkTarget(torch.zeros(len(away), 2, dtype=torch.float64), torch.ones_like(away), OUTLIER_PX)
    pull = landmark_weights(torch.stack([away, torch.zeros_like(away)], 1), one) * away
    assert float(away[pull.argmax()]) == pytest.approx(OUTLIER_PX / 3**0.5, abs=0.06)
    assert float(pull[-1]) < 1e-3 * float(pull.max())


def test_faces_of_a_batch_have_energies_of_their_own() -> None:
    """Values, weights and rows taken are those of each face alone, whatever the batch axes."""
    generator = torch.Generator().manual_seed(1)
    px = 10.0 * torch.randn(2, 3, 4, 2, generator=generator, dtype=torch.float64)
    goal = torch.randn(2, 3, 4, 2, generator=generator, dtype=torch.float64)
    weight = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64)
    every = LandmarkTarget(goal, weight, OUTLIER_PX)
    energy, weights = landmark_energy(px, every), landmark_weights(px, every)
    assert energy.shape == (2, 3) and weights.shape == (2, 3, 4)
    for index in [(i, j) for i in range(2) for j in range(3)]:
        one = LandmarkTarget(goal[index], weight[index], OUTLIER_PX)
        torch.testing.assert_close(landmark_energy(px[index], one), energy[index], rtol=1e-14, atol=0)
        assert torch.equal(landmark_weights(px[index], one), weights[index])
    taken = every.take(torch.tensor([1]))
    assert torch.equal(taken.px, goal[1:]) and torch.equal(taken.weight, weight[1:]) and taken.outlier_px == OUTLIER_PX


def test_slide_takes_the_outermost_place_of_each_path() -> None:
    """Of two faces, with other middles, at once: the furthest from the middle along the mean direction of the path."""
    right = torch.tensor([[1.0, 0.0], [3.0, 0.2], [2.0, -0.2]])
    folded = torch.tensor([[0.0, 2.0], [0.5, 4.0], [3.9, 3.0]])  # the last is the furthest, but to the side
    paths = torch.stack([torch.stack([right, folded]), torch.stack([folded, right]) + 100.0])
    middles = torch.tensor([[0.0, 0.0], [100.0, 100.0]])
    away = ((folded - 0.0) @ (folded.mean(0) / folded.mean(0).norm())).argmax()
    assert slide(paths, middles).tolist() == [[1, int(away)], [int(away), 1]]
    for path, middle in zip(paths, middles, strict=True):
        assert torch.equal(slide(path, middle), slide(paths, middles)[int(middle[0] > 0)])
    # seen from the other side of a path, its other end is the outermost
    assert slide(right[None], torch.tensor([10.0, 0.0])).tolist() == [0]


@pytest.mark.parametrize(("yaw", "far_cheek"), [(30, slice(0, 5)), (-30, slice(12, 17))])
def test_contour_landmarks_slide_to_the_silhouette(yaw: float, far_cheek: slice) -> None:
    """On the cheek that is turned away they lie on the border of the drawn head; without sliding far within it.

    On the other cheek the ear, below the chin the neck is the silhouette.
    """
    model = synthetic_model()
    camera = synthetic_camera(yaw_deg=yaw)
    head = KnownHead(torch.zeros(len(model.identity)), torch.zeros(len(model.expression)), camera)
    observation = observe_known(model, head, "ibug68", 0.0, np.random.default_rng(0), FitConfig())
    contour = face_geometry(model, "ibug68", "cpu").sliding.numpy()[far_cheek]
    within = ndimage.distance_transform_edt(np.pad(observation.parts > 0, 1))[1:-1, 1:-1]

    def depth(px: np.ndarray) -> np.ndarray:
        """Distance of points (N, 2) to the border of the head, px, 0 outside of it."""
        column, row = np.floor(px.T).astype(int)
        return within[row, column]

    slid = depth(observation.landmarks.points_px[contour])
    fixed = depth(camera.project(model.landmarks["ibug68"].points.of(model.mean)).numpy()[contour])
    assert slid.max() <= 2.0
    assert fixed.min() > 8.0
