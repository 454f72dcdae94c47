"""Energy, normal equations and the fit, on a model made by formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import fit3d.targets
from fit3d.camera import Camera
from fit3d.config import FitConfig, Loss
from fit3d.energy.prdl import descriptor, pixel_centres
from fit3d.landmarks import LandmarkLayout
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Backend, Landmarks, Observation
from fit3d.solve.adam import differentiable_energy
from fit3d.solve.fit import face_geometry, fit_observation, start_from_pose, visible_parts
from fit3d.solve.levenberg_marquardt import bounded_step, minimise
from fit3d.solve.objective import Objective, surface_points
from fit3d.solve.pose import pose_from_landmarks
from fit3d.solve.problem import FaceGeometry, Parameters, project
from fit3d.solve.quadratic import Quadratic
from fit3d.targets import make_targets
from synthetic import synthetic_camera, synthetic_identity, synthetic_model

NOBODY = Backend("truth", "0")


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return synthetic_model()


def truth(model: MorphableModel, camera: Camera, seed: int = 0, **expression: float) -> Parameters:
    """A head of known shape before a camera, in photo pixels."""
    coefficients = torch.zeros(len(model.identity) + len(model.expression))
    coefficients[: len(model.identity)] = synthetic_identity(model, seed)
    for name, value in expression.items():
        coefficients[len(model.identity) + model.expression_names.index(name)] = value
    pose = camera.cam_from_world.float()
    return Parameters(coefficients, pose[:3, :3], pose[:3, 3], camera.focal_px, camera.principal_px)


def look(
    model: MorphableModel, camera: Camera, at: Parameters, layout: LandmarkLayout = "mediapipe478", noise: float = 0.0
) -> Observation:
    """What perfect detectors would say of that head, with landmarks disturbed by `noise` px."""
    geometry = face_geometry(model, layout, "cpu")
    target = make_targets(
        Observation(
            Landmarks(layout, project(geometry.landmarks.at(at.coefficients), at).px.double().numpy(), NOBODY),
            np.zeros((camera.height, camera.width), np.uint8),
            NOBODY,
        ),
        FitConfig(),
    )
    points = Objective.build(geometry, target, FitConfig(), False).landmark_points(at)
    px = project(points.at(at.coefficients), at).px.double().numpy()
    px = px + noise * np.random.default_rng(0).normal(size=px.shape)
    return Observation(Landmarks(layout, px, NOBODY), visible_parts(geometry, at, camera), NOBODY)


@pytest.mark.parametrize("statistics", [("min",), ("max",), ("mean",), ("min", "max", "mean")])
@pytest.mark.parametrize("with_parts", [False, True])
def test_normal_equations_equal_autograd(model: MorphableModel, statistics: tuple, with_parts: bool) -> None:
    camera = synthetic_camera(yaw_deg=15)
    config = replace(FitConfig(), prdl=replace(FitConfig().prdl, statistics=statistics))
    observation = look(model, camera, truth(model, camera, jawOpen=0.3), noise=1.0)
    geometry = FaceGeometry.from_model(model, "mediapipe478", torch.float64, "cpu")
    targets = make_targets(observation, config, torch.float64)
    objective = Objective.build(geometry, targets, config, with_parts)
    start = start_from_pose(geometry, targets, camera.focal_px, camera.principal_px)
    generator = torch.Generator().manual_seed(0)
    size = geometry.parameter_count
    step = torch.randn(size, generator=generator, dtype=torch.float64) * 0.3
    step[-6:-3], step[-3:] = step[-6:-3] * 0.1, step[-3:] * 0.02
    evaluation = objective.evaluate(start.moved(step))
    model_of_energy = objective.quadratic(evaluation)

    at_rest = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    energy = differentiable_energy(objective, evaluation.at, at_rest)
    (gradient,) = torch.autograd.grad(energy, at_rest)
    assert evaluation.energy == pytest.approx(float(energy.detach()), rel=1e-9)
    difference = float((2.0 * model_of_energy.gradient - gradient).norm() / gradient.norm())
    # where two pixels are equally near, or equally far, either may carry the gradient; 'mean' knows no such choice
    assert difference < (1e-6 if statistics == ("mean",) or not with_parts else 1e-2)


def test_hessian_is_that_of_the_rows(model: MorphableModel) -> None:
    """J^T J from autograd's full Jacobian of the residuals of one statistic equals the accumulated matrix."""
    camera = synthetic_camera()
    config = replace(FitConfig(), anchors=8, prdl=replace(FitConfig().prdl, statistics=("min",)))
    geometry = FaceGeometry.from_model(model, "mediapipe478", torch.float64, "cpu")
    observation = look(model, camera, truth(model, camera, seed=4))
    targets = replace(make_targets(observation, config, torch.float64))
    targets = replace(targets, parts=tuple(part for part in targets.parts if part.label == 5))
    objective = Objective.build(geometry, targets, config, True)
    here = objective.evaluate(start_from_pose(geometry, targets, camera.focal_px, camera.principal_px))

    assert here.raster is not None
    (pixels,) = here.raster.sets
    whole = torch.nonzero(pixels.mask).squeeze(1)
    points = surface_points(geometry, here.raster.fragments, whole)
    anchors = pixel_centres(targets.anchors, targets.crop.resolution, torch.float64)

    def residuals(step: torch.Tensor) -> torch.Tensor:
        at = here.at.moved(step)
        seen = descriptor(project(points.at(at.coefficients), at).px, anchors, statistics=("min",))[:, 0]
        return (targets.parts[0].weight / anchors.shape[0]) ** 0.5 * (seen - targets.parts[0].nearest)

    rows = torch.autograd.functional.jacobian(residuals, torch.zeros(geometry.parameter_count, dtype=torch.float64))
    accumulated = objective._prdl_quadratic(here)
    torch.testing.assert_close(accumulated.hessian, rows.mT @ rows, rtol=1e-3, atol=1e-3 * float(rows.square().sum()))
    assert float(rows.square().sum()) > 1.0


@pytest.mark.parametrize("yaw", [0, 30, 60])
@pytest.mark.parametrize("expression", [{}, {"jawOpen": 0.8}, {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}])
def test_energy_is_zero_at_the_truth(model: MorphableModel, yaw: float, expression: dict[str, float]) -> None:
    """Labels made by the model itself at the crop's own pixels: not one anchor sees a difference, and no force acts."""
    camera = synthetic_camera(width=224, height=224, yaw_deg=yaw)
    at = truth(model, camera, **expression)
    observation = look(model, camera, at)
    config = FitConfig()
    geometry = face_geometry(model, "mediapipe478", "cpu")
    targets = make_targets(observation, config)
    # measure at the photo's own pixels, so that both sides are the same raster
    whole = replace(targets.crop, left=0.0, top=0.0, size=224.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit3d.targets, "face_crop", lambda landmarks, config: whole)
        targets = make_targets(observation, config)
    objective = Objective.build(geometry, targets, config, with_parts=True)
    evaluation = objective.evaluate(at)
    assert len(evaluation.parts) >= (4 if yaw == 60 else 5)
    # single precision: rounding of distances of up to 300 px, squared
    assert evaluation.terms["prdl"] < 1e-5
    assert float(objective._prdl_quadratic(evaluation).gradient.abs().max()) < 1e-2


@pytest.mark.parametrize("yaw", [-50, -20, 0, 35])
@pytest.mark.parametrize("roll", [0, 90, 180])
def test_pose_in_closed_form(model: MorphableModel, yaw: float, roll: float) -> None:
    camera = synthetic_camera(yaw_deg=yaw, roll_deg=roll, distance=3.0)
    points = model.landmarks["mediapipe478"].points.of(model.mean)
    px = camera.project(points.double())
    rotation, translation = pose_from_landmarks(
        points, px, torch.ones(len(points)), camera.focal_px, camera.principal_px
    )
    difference = rotation @ camera.cam_from_world[:3, :3].mT
    angle = torch.rad2deg(torch.arccos(((difference.trace() - 1) / 2).clamp(-1, 1)))
    assert float(angle) < 3.0
    assert float((translation - camera.cam_from_world[:3, 3]).norm()) < 0.1
    assert float(torch.linalg.det(rotation)) == pytest.approx(1.0)


@pytest.mark.parametrize("layout", ["ibug68", "mediapipe478"])
@pytest.mark.parametrize("yaw", [0, 25])
def test_recovers_a_known_head(model: MorphableModel, layout: LandmarkLayout, yaw: float) -> None:
    camera = synthetic_camera(yaw_deg=yaw)
    at = truth(model, camera, seed=1, jawOpen=0.4)
    observation = look(model, camera, at, layout)
    fit = fit_observation(model, observation, camera.width, camera.height, camera.focal_px, FitConfig())
    assert fit.part_iou["mean"] > 0.95
    opened = float(fit.expression[model.expression_names.index("jawOpen")])
    assert opened == pytest.approx(0.4, abs=0.1)
    turned = fit.camera.cam_from_world[:3, :3] @ camera.cam_from_world[:3, :3].mT
    assert float(torch.rad2deg(torch.arccos(((turned.trace() - 1) / 2).clamp(-1, 1)))) < 2.0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_parts_mend_what_noisy_landmarks_spoil(model: MorphableModel, seed: int) -> None:
    """With few landmarks of realistic noise, PRDL brings parts and vertices nearer to the truth."""
    camera = synthetic_camera(yaw_deg=15)
    at = truth(model, camera, seed=seed, jawOpen=0.3)
    observation = look(model, camera, at, "ibug68", noise=4.0)
    wanted = model.vertices(at.coefficients[: len(model.identity)], at.coefficients[len(model.identity) :])

    def fitted(loss: Loss) -> tuple[float, float]:
        config = FitConfig(loss=loss)
        fit = fit_observation(model, observation, camera.width, camera.height, camera.focal_px, config)
        error = (model.vertices(fit.identity.float(), fit.expression.float()) - wanted).norm(dim=1).mean()
        return fit.part_iou["mean"], float(error)

    overlap, error = fitted("prdl")
    overlap_alone, error_alone = fitted("landmarks")
    assert overlap > overlap_alone + 0.02
    assert error < 1.05 * error_alone


def test_energy_never_rises_and_bounds_hold(model: MorphableModel) -> None:
    camera = synthetic_camera(yaw_deg=10)
    observation = look(model, camera, truth(model, camera, seed=2, eyeBlinkLeft=1.0), noise=2.0)
    fit = fit_observation(model, observation, camera.width, camera.height, camera.focal_px, FitConfig())
    assert sum(fit.energy_end.values()) <= sum(fit.energy_start.values())
    bounds = model.expression_bounds
    assert bool(((fit.expression >= bounds[:, 0]) & (fit.expression <= bounds[:, 1])).all())
    assert fit.stop_reason in ("converged", "iterations", "stalled")


def test_same_bytes_twice(model: MorphableModel) -> None:
    camera = synthetic_camera(yaw_deg=-10)
    observation = look(model, camera, truth(model, camera, seed=3), noise=1.0)
    one, two = (
        fit_observation(model, observation, camera.width, camera.height, camera.focal_px, FitConfig()) for _ in "ab"
    )
    assert torch.equal(one.identity, two.identity) and torch.equal(one.expression, two.expression)
    assert torch.equal(one.camera.cam_from_world, two.camera.cam_from_world)
    assert np.array_equal(one.parts, two.parts)


def test_missing_landmarks_are_left_out(model: MorphableModel) -> None:
    camera = synthetic_camera()
    observation = look(model, camera, truth(model, camera, seed=5))
    points = observation.landmarks.points_px.copy()
    points[::3] = np.nan
    thinned = replace(observation, landmarks=replace(observation.landmarks, points_px=points))
    fit = fit_observation(model, thinned, camera.width, camera.height, camera.focal_px, FitConfig())
    assert fit.part_iou["mean"] > 0.9


def test_bounded_step_is_the_constrained_minimum() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    hessian = root @ root.mT + torch.eye(6, dtype=torch.float64)
    gradient = torch.randn(6, generator=generator, dtype=torch.float64) * 3
    low, high = torch.full((6,), -0.2, dtype=torch.float64), torch.full((6,), 0.3, dtype=torch.float64)
    step = bounded_step(Quadratic(0.0, gradient, hessian), 0.0, low, high)
    slope = gradient + hessian @ step
    for index in range(6):
        if low[index] < step[index] < high[index]:
            assert abs(float(slope[index])) < 1e-8
    assert bool(((step >= low) & (step <= high)).all())


def test_minimise_solves_rosenbrock() -> None:
    class Point:
        def __init__(self, x: torch.Tensor) -> None:
            self.x = x
            self.residual = torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])
            self.energy = float(self.residual.square().sum())

    def quadratic(point: Point) -> Quadratic:
        rows = torch.tensor([[-20 * float(point.x[0]), 10.0], [-1.0, 0.0]], dtype=torch.float64)
        return Quadratic(point.energy, rows.mT @ point.residual, rows.mT @ rows)

    free = torch.full((2,), torch.inf, dtype=torch.float64)
    outcome = minimise(
        Point(torch.tensor([-1.2, 1.0], dtype=torch.float64)),
        quadratic,
        lambda point, step: Point(point.x + step),
        lambda point: (-free, free),
        iterations=100,
        tolerance=1e-12,
    )
    torch.testing.assert_close(outcome.end.x, torch.ones(2, dtype=torch.float64), atol=1e-4, rtol=0)
