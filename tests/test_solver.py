"""Energy, normal equations and the fit, on a model made by formula."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import fit3d.solve.fit
import fit3d.targets
from fit3d.camera import Camera
from fit3d.config import FitConfig, Loss, PrdlConfig, Statistic
from fit3d.energy.prdl import descriptor, pixel_centres
from fit3d.evaluate.geometry import aligned_errors_mm, face_vertices
from fit3d.labels import PRDL_PARTS
from fit3d.landmarks import LandmarkLayout
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Backend, Landmarks, Observation
from fit3d.solve.adam import differentiable_energy
from fit3d.solve.fit import face_geometry, fit_observation, start_from_pose, visible_parts
from fit3d.solve.levenberg_marquardt import Outcome, bounded_step, minimise, minimise_rough
from fit3d.solve.objective import Objective, surface_points
from fit3d.solve.pose import pose_from_landmarks
from fit3d.solve.problem import FaceGeometry, Parameters, project
from fit3d.solve.quadratic import Quadratic
from fit3d.solve.result import Fit
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


@pytest.mark.parametrize("statistics", [None, ("min",), ("max",), ("mean",), ("min", "max", "mean")])
def test_normal_equations_equal_autograd(model: MorphableModel, statistics: tuple[Statistic, ...] | None) -> None:
    """Of landmarks and prior alone (None), and with the parts seen through some statistics."""
    camera = synthetic_camera(yaw_deg=15)
    config = FitConfig(prdl=PrdlConfig(statistics=statistics)) if statistics else FitConfig()
    observation = look(model, camera, truth(model, camera, jawOpen=0.3), noise=1.0)
    geometry = FaceGeometry.from_model(model, "mediapipe478", torch.float64, "cpu")
    targets = make_targets(observation, config, torch.float64)
    objective = Objective.build(geometry, targets, config, with_parts=statistics is not None)
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
    assert difference < (1e-6 if statistics in (None, ("mean",)) else 1e-2)


def test_hessian_is_that_of_the_rows(model: MorphableModel) -> None:
    """J^T J from autograd's full Jacobian of the residuals of one statistic equals the accumulated matrix."""
    camera = synthetic_camera()
    config = replace(FitConfig(), anchors=8, prdl=replace(FitConfig().prdl, statistics=("min",)))
    geometry = FaceGeometry.from_model(model, "mediapipe478", torch.float64, "cpu")
    observation = look(model, camera, truth(model, camera, seed=4))
    targets = make_targets(observation, config, torch.float64)
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
    expected = rows.mT @ rows
    largest = float(expected.abs().max())
    assert largest > 1.0
    torch.testing.assert_close(accumulated.hessian, expected, rtol=0, atol=1e-6 * largest)


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
    assert face_error_mm(model, fit, at) < 0.6
    assert face_error_mm(model, fit, at) < 0.5 * face_error_mm(model, None, at)


def face_error_mm(model: MorphableModel, fit: Fit | None, at: Parameters) -> float:
    """Mean distance of the fitted face's vertices (the mean head's without a fit), up to size, from the true ones."""
    face, count = face_vertices(model), len(model.identity)
    wanted = model.vertices(at.coefficients[:count], at.coefficients[count:])
    found = model.mean if fit is None else model.vertices(fit.identity.float(), fit.expression.float())
    return float(aligned_errors_mm(found[face], wanted[face], with_scale=True).mean())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_parts_mend_what_noisy_landmarks_spoil(model: MorphableModel, seed: int) -> None:
    """With few landmarks of realistic noise, PRDL brings parts and vertices nearer to the truth."""
    camera = synthetic_camera(yaw_deg=15)
    at = truth(model, camera, seed=seed, jawOpen=0.3)
    observation = look(model, camera, at, "ibug68", noise=4.0)

    def fitted(loss: Loss) -> tuple[float, float]:
        config = FitConfig(loss=loss)
        fit = fit_observation(model, observation, camera.width, camera.height, camera.focal_px, config)
        return fit.part_iou["mean"], face_error_mm(model, fit, at)

    overlap, error = fitted("prdl")
    overlap_alone, error_alone = fitted("landmarks")
    assert overlap > overlap_alone + 0.02
    assert error < 0.9 * error_alone


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


@pytest.mark.parametrize("seed", range(4))
def test_bounded_step_is_the_constrained_minimum(seed: int) -> None:
    """Karush-Kuhn-Tucker: no slope where free, and at a bound a slope that pushes outwards."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    hessian = root @ root.mT + torch.eye(6, dtype=torch.float64)
    gradient = torch.randn(6, generator=generator, dtype=torch.float64)
    low, high = torch.full((6,), -0.3, dtype=torch.float64), torch.full((6,), 0.4, dtype=torch.float64)
    low[2], high[4] = 0.0, 0.0
    step = bounded_step(Quadratic(0.0, gradient, hessian), 0.0, low, high)
    assert bool(((step >= low) & (step <= high)).all())
    free = (step > low) & (step < high)
    assert bool(free.any()) and bool((~free).any())
    slope = gradient + hessian @ step
    assert float(slope[free].abs().max()) < 1e-8
    assert bool((slope[step <= low] > -1e-8).all()) and bool((slope[step >= high] < 1e-8).all())
    assert float(2.0 * gradient @ step + step @ hessian @ step) < 0.0


def test_bounded_step_holds_what_would_leave_at_once() -> None:
    """At a bound with the downhill direction outwards: held, the multiplier's sign is right, the rest is free."""
    hessian = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 3.0]], dtype=torch.float64)
    gradient = torch.tensor([4.0, -0.5, -6.0], dtype=torch.float64)
    free = torch.full((3,), torch.inf, dtype=torch.float64)
    low, high = -free, free.clone()
    low[0], high[2] = 0.0, 0.0
    step = bounded_step(Quadratic(0.0, gradient, hessian), 0.0, low, high)
    torch.testing.assert_close(step, torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64))
    slope = gradient + hessian @ step
    assert float(slope[0]) > 0.0 and float(slope[2]) < 0.0
    # the other way round nothing is in the way of either
    inwards = bounded_step(Quadratic(0.0, -gradient, hessian), 0.0, low, high)
    torch.testing.assert_close(inwards, torch.linalg.solve(hessian, gradient))


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


@dataclass(frozen=True)
class Scripted:
    """A point on a line."""

    x: float
    energy: float


def descend_rough(energies: list[float], iterations: int) -> tuple[Outcome[Scripted], list[tuple[float, float]]]:
    """Run the rough minimiser where the n-th evaluated point has the n-th energy, whatever the step; the model always
    asks for a step of 1. Also returns where each step began and how long it was."""
    rest, taken = iter(energies[1:]), list[tuple[float, float]]()

    def step_to(point: Scripted, step: torch.Tensor) -> Scripted:
        taken.append((point.x, float(step)))
        return Scripted(point.x + float(step), next(rest))

    one, free = torch.ones(1, dtype=torch.float64), torch.full((1,), torch.inf, dtype=torch.float64)
    outcome = minimise_rough(
        Scripted(0.0, energies[0]),
        lambda point: Quadratic(point.energy, -one, torch.diag(one)),
        step_to,
        lambda point: (-free, free),
        iterations,
    )
    return outcome, taken


def test_rough_descent_returns_the_lowest_point() -> None:
    """It goes on over a small rise, and what it met before is not lost."""
    outcome, taken = descend_rough([10.0, 8.0, 8.2, 8.3], iterations=3)
    assert outcome.end.energy == 8.0 and outcome.end.x == pytest.approx(1.0, abs=0.01)
    assert [round(start) for start, _ in taken] == [0, 1, 2]
    cut_short, _ = descend_rough([10.0, 8.0, 8.2], iterations=2)
    assert (cut_short.stop_reason, cut_short.end.energy) == ("iterations", 8.0)
    over, _ = descend_rough([10.0, 8.0, 8.2, 5.0], iterations=3)
    assert over.end.energy == 5.0 and over.end.x == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("energies", [[10.0, 10.2, 10.4, 10.6, 10.8], [10.0, 30.0, 20.0, 30.0, 20.0]])
def test_rough_descent_never_ends_higher(energies: list[float]) -> None:
    outcome, _ = descend_rough(energies, iterations=4)
    assert outcome.end is outcome.start and outcome.end.energy == 10.0
    assert outcome.stop_reason in ("converged", "stalled")


def test_rough_descent_retries_a_jump_with_more_damping() -> None:
    """From the same point, ever shorter; once a step is accepted, damping falls again."""
    outcome, taken = descend_rough([10.0, 50.0, 40.0, 6.0, 5.0, 4.0], iterations=5)
    starts, lengths = zip(*taken, strict=True)
    assert starts[:3] == (0.0, 0.0, 0.0) and starts[3] == lengths[2]
    damping = [1.0 / length - 1.0 for length in lengths]
    assert damping[2] > 2.0 * damping[1] > 4.0 * damping[0] > 0.0
    assert damping[2] > 2.0 * damping[3] > 4.0 * damping[4] > 0.0
    assert outcome.end.energy == 4.0 and outcome.steps == 3 and outcome.evaluations == 5


def test_rough_descent_gives_up_in_order() -> None:
    """Rejections in a row end it as stalled; idle steps as converged; rejections are not counted as idle steps."""
    stalled, _ = descend_rough([10.0] + [50.0] * 9, iterations=9)
    assert (stalled.stop_reason, stalled.evaluations, stalled.steps) == ("stalled", 3, 0)
    idle, _ = descend_rough([10.0] + [9.999] * 9, iterations=9)
    assert (idle.stop_reason, idle.evaluations, idle.steps) == ("converged", 2, 2)
    mixed, _ = descend_rough([10.0, 50.0, 50.0, 9.0, 50.0, 50.0, 8.0, 50.0, 50.0, 7.0], iterations=9)
    assert (mixed.stop_reason, mixed.end.energy) == ("iterations", 7.0)


@pytest.mark.parametrize("limit", [600, 1000])
def test_large_parts_are_enlarged_in_place(model: MorphableModel, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head larger than the limit is drawn smaller: borders may be a little coarser, nothing may shift."""
    camera = synthetic_camera(width=1500, height=1500, distance=0.6)
    at, geometry = truth(model, camera, seed=1), face_geometry(model, "ibug68", "cpu")
    monkeypatch.setattr(fit3d.solve.fit, "PARTS_RASTER_LIMIT", 10**6)
    exact = visible_parts(geometry, at, camera)
    monkeypatch.setattr(fit3d.solve.fit, "PARTS_RASTER_LIMIT", limit)
    enlarged = visible_parts(geometry, at, camera)
    assert np.ptp(np.nonzero(exact)[0]) > 1200
    assert 0.0 < (exact != enlarged).mean() < 0.01
    for label in PRDL_PARTS:
        centroids = [np.stack(np.nonzero(image == label)).mean(1) for image in (exact, enlarged)]
        assert float(np.abs(centroids[0] - centroids[1]).max()) < 0.5, label
    whole = [np.stack(np.nonzero(image)).mean(1) for image in (exact, enlarged)]
    assert float(np.abs(whole[0] - whole[1]).max()) < 0.15


def test_a_face_cut_by_the_photo_is_completed_not_squeezed(model: MorphableModel) -> None:
    """Beyond the photo nothing is known; that must not read as 'no face there'."""
    camera = synthetic_camera(yaw_deg=10)
    whole = look(model, camera, truth(model, camera, seed=1))
    width = int(np.nanmean(whole.landmarks.points_px[:, 0]))
    half = replace(whole, parts=np.ascontiguousarray(whole.parts[:, :width]))
    seen = fit_observation(model, whole, camera.width, camera.height, camera.focal_px, FitConfig())
    cut = fit_observation(model, half, width, camera.height, camera.focal_px, FitConfig())
    silent = torch.zeros(len(model.expression))
    face = face_vertices(model)
    moved = aligned_errors_mm(
        model.vertices(cut.identity.float(), silent)[face],
        model.vertices(seen.identity.float(), silent)[face],
        with_scale=True,
    )
    assert float(moved.mean()) < 1.0
    assert any("beyond the photo" in warning for warning in cut.warnings)
    assert not any("beyond the photo" in warning for warning in seen.warnings)


def test_a_part_that_the_model_does_not_show_costs_a_bounded_constant(model: MorphableModel) -> None:
    camera = synthetic_camera()
    at = truth(model, camera)
    observation = look(model, camera, at)
    geometry, config = face_geometry(model, "mediapipe478", "cpu"), FitConfig()
    targets = make_targets(observation, config)
    eye = next(part for part in targets.parts if part.label == 1)
    objective = Objective.build(geometry, targets, config, with_parts=True)
    crop = targets.crop
    in_crop = camera.in_crop(crop)
    here = replace(at, focal_px=in_crop.focal_px, principal_px=in_crop.principal_px)
    shown = objective.evaluate(here)
    hidden = replace(targets, hidden=targets.hidden | (objective.look(here)[1] == 1))
    lost = replace(objective, targets=hidden).evaluate(here)
    assert lost.terms["prdl"] - shown.terms["prdl"] <= eye.weight * config.prdl.missing_part_px**2 + 1e-6
    assert lost.terms["prdl"] > shown.terms["prdl"]
    assert bool(torch.isfinite(objective.quadratic(lost).hessian).all())
