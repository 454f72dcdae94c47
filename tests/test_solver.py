"""Energy, normal equations and the fit, on a model made by formula."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import fit3d.solve.fit
import fit3d.targets
from fit3d.camera import Camera, Crop, cam_from_turned_world
from fit3d.config import RARE_EXPRESSIONS, FitConfig, FocalConfig, Loss, PrdlConfig, PriorConfig, Statistic
from fit3d.energy.landmarks import landmark_weights
from fit3d.energy.losses import part_loss
from fit3d.energy.pixels import anchor_grid, pixel_centres
from fit3d.energy.prdl import EPSILON
from fit3d.energy.prdl_raster import SeenPrdl
from fit3d.energy.prior import ROUNDING
from fit3d.evaluate.geometry import aligned_errors_mm, face_vertices
from fit3d.labels import PRDL_PARTS
from fit3d.landmarks import LandmarkLayout
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.registry import load_model
from fit3d.observe.base import Backend, Landmarks, Observation
from fit3d.solve.adam import differentiable_energy
from fit3d.solve.fit import (
    COARSE_ANCHORS,
    Face,
    face_geometry,
    fit_landmarks,
    fit_observation,
    prepare,
    refine_with_parts,
    visible_parts,
)
from fit3d.solve.levenberg_marquardt import (
    Descent,
    Outcome,
    minimise,
)
from fit3d.solve.objective import Evaluation, Objective, place_landmarks, surface_points
from fit3d.solve.pose import pose_from_landmarks, pose_from_turn
from fit3d.solve.problem import POSE_SIZE, FaceGeometry, LinearPoints, Parameters, project
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
    return Parameters.of_one(coefficients, pose[:3, :3], pose[:3, 3], camera.focal_px, camera.principal_px)


def look(
    model: MorphableModel, camera: Camera, at: Parameters, layout: LandmarkLayout = "mediapipe478", noise: float = 0.0
) -> Observation:
    """What perfect detectors would say of that head, with landmarks disturbed by `noise` px."""
    geometry = face_geometry(model, layout, "cpu")
    px = place_landmarks(geometry, at).projected.px[0].double().numpy()
    px = px + noise * np.random.default_rng(0).normal(size=px.shape)
    return Observation(Landmarks(layout, px, NOBODY), visible_parts(geometry, at.coefficients[0], camera), NOBODY)


STATISTICS: tuple[tuple[Statistic, ...] | None, ...] = (None, ("min",), ("max",), ("mean",), ("min", "max", "mean"))
"""Which statistics of the parts are compared; None for landmarks and prior alone."""


def two_faces(
    model: MorphableModel, statistics: tuple[Statistic, ...] | None, zoom: float = 0.2
) -> tuple[Objective, Parameters]:
    """In double precision, away from any minimum: a face with its mouth open whose focal length is to be found, and
    one of which an eye is hidden and whose focal length is known."""
    # without the one term that is not a sum of squares: `test_prior_beyond_the_limit_equals_its_formula`
    prior = PriorConfig(expression_sparsity=0.0)
    config = FitConfig(loss="prdl", anchors=8, focal=FocalConfig(refine_sd=0.3), prior=prior)
    config = (
        replace(config, prdl=PrdlConfig(statistics=statistics)) if statistics else replace(config, loss="landmarks")
    )
    geometry = FaceGeometry.from_model(model, "mediapipe478", torch.float64, "cpu")
    generator = torch.Generator().manual_seed(0)
    observations, starts, crops = [], [], []
    for seed, yaw, opened in ((0, 15.0, 0.3), (4, -25.0, 0.0)):
        camera = synthetic_camera(yaw_deg=yaw)
        at = truth(model, camera, seed, jawOpen=opened)
        observation = look(model, camera, at, noise=1.0)
        parts = observation.parts.copy()
        parts[(parts == 2) & (seed == 4)] = 8
        observations.append(replace(observation, parts=parts))
        crops.append(fit3d.targets.face_crop(observation, config))
        within = camera.in_crop(crops[-1])
        pose = camera.cam_from_world
        start = Parameters.of_one(
            torch.zeros_like(at.coefficients[0]).double(),
            pose[:3, :3],
            pose[:3, 3],
            within.focal_px,
            within.principal_px,
        )
        step = torch.randn(1, geometry.parameter_count, generator=generator, dtype=torch.float64) * 0.3
        step[:, -7:] *= torch.tensor([0.1] * 3 + [0.02] * 3 + [0.0], dtype=torch.float64)
        step[:, -1] = zoom if seed == 0 else 0.0
        starts.append(start.moved(step))
    loss = part_loss(config, torch.float64)
    targets = make_targets(observations, config, loss, torch.float64, crops)
    objective = Objective.build(geometry, targets, config, loss, torch.tensor([True, False]))
    return objective, Parameters.stack(starts)


def residuals(objective: Objective, evaluation: Evaluation, step: Tensor) -> dict[str, Tensor]:
    """Weighted residuals (N,) of one face, by name, after a step (1, P), from nothing but positions of points.

    Held as they are at the evaluation: where landmarks have slid to and how far each is trusted, and which pixels of
    the model the anchors selected.
    """
    geometry, targets, resolution = objective.geometry, objective.targets, objective.config.crop.resolution
    at = evaluation.at.moved(step)
    (row,) = evaluation.landmarks.row
    landmarks = LinearPoints(geometry.landmarks.mean[row], geometry.landmarks.basis[row])
    off = project(landmarks.at(at.coefficients), at).px - targets.landmarks.px
    trust = landmark_weights(evaluation.landmarks.projected.px, targets.landmarks).sqrt()
    offset = torch.cat([at.coefficients[0], at.translation.new_zeros(POSE_SIZE - 1), at.zoom])
    # with a pose that is free the precision is singular: its root by eigenvectors
    values, vectors = torch.linalg.eigh(objective.precision)
    found = {
        "landmarks": (trust[..., None] * off).flatten(),
        "prior": values.clamp(min=0.0).sqrt() * (vectors.mT @ offset),
    }
    if evaluation.seen is None:
        return found
    seen, fragments = evaluation.seen, evaluation.fragments
    assert isinstance(seen, SeenPrdl) and fragments is not None

    def seen_at(pixel: Tensor) -> Tensor:
        """(..., 2) px: where the surface points under pixels (...) are."""
        flat = pixel.clamp(min=0).flatten()
        corners, weights = surface_points(geometry, fragments, torch.zeros_like(flat), flat)
        points = LinearPoints(
            (geometry.surface.mean[corners] * weights[..., None]).sum(1),
            (geometry.surface.basis[corners] * weights[..., None, None]).sum(1),
        )
        return project(points.at(at.coefficients), at).px[0].view(*pixel.shape, 2)

    def distance(points: Tensor, anchors: Tensor) -> Tensor:
        return ((points - anchors).square().sum(-1) + EPSILON).sqrt()

    def centres(count: int) -> Tensor:
        return pixel_centres(anchor_grid(count, resolution), resolution, torch.float64)

    statistics = objective.config.prdl.statistics
    weight = seen.weights[0, :, None]
    singles = iter(seen.singles)
    for name, goal in (("min", targets.described.nearest), ("max", targets.described.furthest)):
        if name in statistics:
            rows = distance(seen_at(next(singles).seen.pixel[0]), centres(objective.config.anchors)) - goal[0]
            found[name] = ((weight / rows.shape[1]).sqrt() * rows).flatten()
    if "mean" in statistics:
        assert seen.mean is not None
        pixel = seen.mean.seen.pixel[0]  # (P, S)
        anchors = centres(objective.config.prdl.mean_anchors)
        counts = (pixel >= 0)[:, None].double()
        each = distance(seen_at(pixel)[:, None], anchors[:, None])
        rows = (each * counts).sum(2) / counts.sum(2).clamp(min=1.0) - targets.described.mean[0]
        found["mean"] = ((weight / rows.shape[1]).sqrt() * rows).flatten()
    return found


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("face", [0, 1])
def test_normal_equations_are_those_of_all_rows(
    model: MorphableModel, statistics: tuple[Statistic, ...] | None, face: int
) -> None:
    """J^T J and J^T r with autograd's full Jacobian of every residual: each term, and their sum."""
    both, start = two_faces(model, statistics)
    photo = torch.tensor([face])
    objective = both.take(photo)
    evaluation = objective.evaluate(start.take(photo))
    at_rest = torch.zeros(1, objective.geometry.parameter_count, dtype=torch.float64)
    rows = residuals(objective, evaluation, at_rest)
    jacobians = torch.autograd.functional.jacobian(
        lambda step: tuple(residuals(objective, evaluation, step).values()),
        at_rest,
        strategy="forward-mode",
        vectorize=True,
    )
    jacobian = {name: each.squeeze(1) for name, each in zip(rows, jacobians, strict=True)}

    def check(found: Quadratic, *names: str) -> None:
        every = torch.cat([jacobian[name] for name in names])
        r = torch.cat([rows[name] for name in names])
        check_equal(found, Quadratic((every.mT @ r)[None], (every.mT @ every)[None]), float(r @ r))

    parts = tuple(name for name in rows if name not in ("landmarks", "prior"))
    assert parts == (statistics or ())
    here = torch.tensor([0])
    check(objective._landmark_quadratic(evaluation, here), "landmarks")
    check(objective._prior_quadratic(evaluation, here), "prior")
    if parts:
        check(objective._parts_quadratic(evaluation, here), *parts)
        assert len(objective.targets.part_weights[0].nonzero()) == (8 if face == 0 else 7)
        # the parts' energy is the sum of the squares; that of the landmarks is not, as outliers count for less
        squares = sum(float(rows[name].square().sum()) for name in parts)
        assert float(evaluation.terms["prdl"]) == pytest.approx(squares, rel=1e-9)
    assert float(evaluation.terms["prior"]) == pytest.approx(float(rows["prior"].square().sum()), rel=1e-9)
    check(objective.quadratic(evaluation, here), *rows)
    # every column says something, the zoom's too
    assert bool((jacobian["landmarks"].square().sum(0) > 1e-3).all())
    assert all(float(jacobian[name][:, -1].abs().max()) > 0.1 for name in rows if name != "prior")
    # in company and chosen by number it is the same
    check(both.quadratic(both.evaluate(start), photo), *rows)


def check_equal(found: Quadratic, expected: Quadratic, energy: float) -> None:
    """To rounding, for the size of each unknown's column of J; `energy` is r^T r."""
    assert found.gradient.dtype == found.hessian.dtype == torch.float64
    size = expected.hessian[0].diagonal().sqrt()
    assert float(size.max()) > 1.0
    size = size.clamp(min=1e-6 * float(size.max()))
    for one, other, scale in (
        (found.gradient, expected.gradient, energy**0.5 * size),
        (found.hessian, expected.hessian, size[:, None] * size),
    ):
        assert one.shape == other.shape
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=1e-9)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_energy_and_gradient_equal_the_formulas(
    model: MorphableModel, statistics: tuple[Statistic, ...] | None
) -> None:
    """Read off the formulas by comparing every point with every anchor, and by autograd: the reference solver's."""
    both, start = two_faces(model, statistics)
    evaluation = both.evaluate(start)
    quadratic = both.quadratic(evaluation, torch.arange(2))
    for face in range(2):
        photo = torch.tensor([face])
        step = torch.zeros(1, both.geometry.parameter_count, dtype=torch.float64, requires_grad=True)
        energy = differentiable_energy(both.take(photo), start.take(photo), step)
        (gradient,) = torch.autograd.grad(energy, step)
        assert float(evaluation.energy[face]) == pytest.approx(float(energy.detach()), rel=1e-9)
        difference = float((2.0 * quadratic.gradient[face] - gradient[0]).norm() / gradient.norm())
        # where two pixels are equally near, or equally far, either may carry the gradient; 'mean' knows no such choice
        assert difference < (1e-9 if statistics in (None, ("mean",)) else 1e-2)


def test_prior_beyond_the_limit_equals_its_formula(model: MorphableModel) -> None:
    """With an identity that no person has and one that is free of the limit, and with expressions of either sign."""
    landmarks, start = two_faces(model, None)
    prior = PriorConfig(
        identity=1.1,
        identity_limit=0.9,
        identity_stiffness=90.0,
        expression_sparsity=4.0,
        expression_sd=0.4,
        rare_expression_sd=0.15,
        asymmetry_sd=0.2,
    )
    geometry = landmarks.geometry
    count, names = geometry.identity_count, geometry.expression_names
    bounds = geometry.expression_bounds.clone()
    two_sided = torch.arange(len(names)) % 2 == 1
    bounds[two_sided, 0] = -1.0
    config = FitConfig(loss="landmarks", focal=FocalConfig(refine_sd=0.3), prior=prior)
    geometry = replace(geometry, expression_bounds=bounds)
    objective = Objective.build(geometry, landmarks.targets, config, None, landmarks.zoom_is_free)
    generator = torch.Generator().manual_seed(1)
    identity = torch.randn(2, count, generator=generator, dtype=torch.float64)
    identity *= torch.tensor([[1.5], [0.5]]) / identity.square().mean(1, keepdim=True).sqrt()
    expression = 0.3 * torch.randn(2, len(names), generator=generator, dtype=torch.float64)
    expression[0, ::3] = expression[1, 1::3] = 0.0
    expression = torch.where(two_sided, expression, expression.abs())
    at = replace(start, coefficients=torch.cat([identity, expression], 1))
    parameters = torch.cat([at.coefficients, at.coefficients.new_zeros(2, POSE_SIZE - 1), at.zoom[:, None]], 1)
    spread = torch.tensor([0.15 if name in RARE_EXPRESSIONS else 0.4 for name in names], dtype=torch.float64)

    def gaussian(x: Tensor) -> Tensor:
        energy = 1.1 * x[:count].square().sum() + (x[count:-POSE_SIZE] / spread).square().sum()
        for left, right in geometry.mirrored_expression.tolist():
            energy = energy + ((x[left] - x[right]) / 0.2) ** 2
        return energy + (x[-1] / 0.3) ** 2

    def excess(x: Tensor) -> Tensor:
        return 90.0**0.5 * (x[:count].norm() - 0.9 * count**0.5).clamp(min=0.0)

    def sparsity(x: Tensor) -> Tensor:
        rounded = (x.square() + ROUNDING**2).sqrt() - ROUNDING
        return 4.0 * torch.where(two_sided, rounded[count:-POSE_SIZE], x[count:-POSE_SIZE]).sum()

    found, energies = objective._prior_quadratic(objective.evaluate(at), torch.arange(2)), objective._prior_energy(at)
    step = torch.zeros(2, geometry.parameter_count, dtype=torch.float64, requires_grad=True)
    (by_autograd,) = torch.autograd.grad(objective._prior_energy(at.moved(step)).sum(), step)
    torch.testing.assert_close(2.0 * found.gradient, by_autograd, rtol=1e-9, atol=1e-9)
    for face, x in enumerate(parameters):
        energy = gaussian(x) + excess(x) ** 2 + sparsity(x)
        torch.testing.assert_close(energies[face], energy, rtol=1e-9, atol=0)
        slope = torch.autograd.functional.jacobian(excess, x)
        assert bool(slope.any()) == (face == 0)
        curvature = torch.zeros_like(x)
        # of re-weighted least squares, weight / 2 of which each absolute value is
        curvature[count:-POSE_SIZE][two_sided] = 2.0 / (expression[face, two_sided].square() + ROUNDING**2).sqrt()
        hessian = torch.autograd.functional.hessian(gaussian, x) / 2.0
        hessian = hessian + slope[:, None] * slope + torch.diag(curvature)
        torch.testing.assert_close(found.hessian[face], hessian, rtol=1e-9, atol=1e-9)


def test_energy_of_a_part_that_either_side_lacks_equals_the_formulas(model: MorphableModel) -> None:
    """The photo shows eyes that the model has shut: a constant without gradient. The other way round: nothing."""
    both, start = two_faces(model, ("min", "max", "mean"))
    names, count = both.geometry.expression_names, both.geometry.identity_count
    shut = start.coefficients.clone()
    shut[:, [count + names.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")]] = 1.0
    start = replace(start, coefficients=shut)
    evaluation = both.evaluate(start)
    assert evaluation.seen is not None
    assert both.targets.part_weights[:, :2].bool().tolist() == [[True, True], [True, False]]
    assert not evaluation.seen.energy[:, :2].any() and bool(evaluation.seen.energy[:, 2:].all())
    charged = both.targets.part_weights[:, :2].sum(1).double() * both.config.parts.missing_px**2
    torch.testing.assert_close(evaluation.terms["prdl"] - evaluation.seen.energy.sum(1), charged)
    for face in range(2):
        photo = torch.tensor([face])
        step = torch.zeros(1, both.geometry.parameter_count, dtype=torch.float64)
        energy = differentiable_energy(both.take(photo), start.take(photo), step)
        assert float(evaluation.energy[face]) == pytest.approx(float(energy), rel=1e-9)


def test_a_known_focal_length_stays(model: MorphableModel) -> None:
    """There is no room to move it; one that is not known may go to half and to twice the assumed one."""
    objective, start = two_faces(model, None, zoom=0.6)
    low, high = objective.room(start)
    assert (float(low[1, -1]), float(high[1, -1])) == (0.0, 0.0)
    for limit, factor in ((low, 0.5), (high, 2.0)):
        end = start.moved(limit.nan_to_num(0.0, 0.0, 0.0))
        assert float(end.focal_px[0] / end.assumed_focal_px[0]) == pytest.approx(factor, rel=0.05)
    outcome = minimise(objective, start, Descent(20))
    assert float(outcome.at.zoom[1]) == 0.0 and abs(float(outcome.at.zoom[0])) < 0.5


ALL_PARTS = set(PRDL_PARTS)
WITHOUT_EYES = ALL_PARTS - {1, 2}
SHUT = {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0}


@pytest.mark.parametrize("loss_name", ["prdl", "prdl+icp"])
@pytest.mark.parametrize(
    ("name", "expression", "yaw", "expected"),
    [
        ("synthetic", {}, 0, ALL_PARTS),
        ("synthetic", {}, 30, ALL_PARTS),
        ("synthetic", {}, 60, ALL_PARTS - {3}),
        ("synthetic", {"jawOpen": 0.8}, 0, ALL_PARTS),
        ("synthetic", {"jawOpen": 0.8}, 30, ALL_PARTS),
        ("synthetic", {"jawOpen": 0.8}, 60, ALL_PARTS - {3}),
        ("synthetic", SHUT, 0, WITHOUT_EYES),
        ("synthetic", SHUT, 30, WITHOUT_EYES),
        ("synthetic", SHUT, 60, WITHOUT_EYES - {3}),
        ("anny", {}, 0, ALL_PARTS),
        ("anny", {}, 30, ALL_PARTS),
        ("anny", {}, 60, ALL_PARTS - {1}),  # behind the bridge of the nose
        ("anny", {"jawOpen": 0.8}, 0, ALL_PARTS),
        ("anny", {"jawOpen": 0.8}, 30, ALL_PARTS),
        ("anny", {"jawOpen": 0.8}, 60, ALL_PARTS - {1}),
        ("anny", SHUT, 0, WITHOUT_EYES),
        ("anny", SHUT, 30, WITHOUT_EYES),
        ("anny", SHUT, 60, WITHOUT_EYES),
    ],
)
def test_unbiased_at_the_truth(
    name: str, expression: dict[str, float], yaw: float, expected: set[int], loss_name: Loss
) -> None:
    """With labels made by the model itself, no anchor and no outline sees a difference in any part, and nothing is
    pulled at."""
    model = synthetic_model() if name == "synthetic" else load_model(name)
    camera = synthetic_camera(width=224, height=224, yaw_deg=yaw)
    at = truth(model, camera, **expression)
    # measured at the photo's own pixels, so that both sides are the same raster; eight times the same photo, of which
    # each time another part counts
    crop, config = Crop(left=0.0, top=0.0, size=224.0, resolution=224), FitConfig(loss=loss_name)
    loss, photos = part_loss(config), torch.arange(8)
    targets = make_targets([look(model, camera, at)] * 8, config, loss, crops=[crop] * 8)
    seen = targets.part_weights[0] > 0
    assert {part for part, is_seen in zip(PRDL_PARTS, seen.tolist(), strict=True) if is_seen} == expected
    targets = replace(targets, part_weights=torch.diag(targets.part_weights[0]))
    geometry = face_geometry(model, "mediapipe478", "cpu")
    objective = Objective.build(geometry, targets, config, loss, torch.zeros(8, dtype=torch.bool))
    evaluation = objective.evaluate(Parameters.stack([at] * 8))
    forces = objective._parts_quadratic(evaluation, photos)
    # the same pixels are at the same distances, to the last bit
    assert evaluation.terms[loss_name].tolist() == [0.0] * 8
    assert not forces.gradient.any()
    stiffness = forces.hessian.diagonal(dim1=1, dim2=2).amax(1)
    assert torch.equal(stiffness > 1.0, seen) and not stiffness[~seen].any()
    # two millimetres higher up there are both
    step = torch.zeros(8, geometry.parameter_count)
    step[:, -POSE_SIZE + 4] = 0.002
    away = objective.evaluate(evaluation.at.moved(step))
    pull = objective._parts_quadratic(away, photos).gradient.abs().amax(1)
    assert torch.equal(away.terms[loss_name] > 0.1, seen) and torch.equal(pull > 1.0, seen)


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


@pytest.mark.parametrize("yaw", [-40.0, 0.0, 25.0])
@pytest.mark.parametrize("roll_deg", [0.0, 70.0, -160.0])
def test_pose_of_a_supposed_turn(yaw: float, roll_deg: float) -> None:
    """Exact under scaled orthography, for any roll, scale and shift, where the supposed turn is the true one."""
    points = 0.1 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    roll = math.radians(roll_deg)
    turn = torch.tensor(
        [[math.cos(roll), -math.sin(roll), 0.0], [math.sin(roll), math.cos(roll), 0.0], [0.0, 0.0, 1.0]]
    )
    rotation = turn.double() @ cam_from_turned_world(yaw, 0.0)
    px = 900.0 * (points @ rotation.mT)[:, :2] + torch.tensor([40.0, -70.0], dtype=torch.float64)
    found, translation = pose_from_turn(points, px, torch.ones(5), 1800.0, (10.0, 20.0), yaw)
    torch.testing.assert_close(found, rotation, rtol=0, atol=1e-6)
    # the middle of the points lies at focal / scale, on the ray through the middle of their pixels
    middle = found @ points.mean(0) + translation
    assert float(middle[2]) == pytest.approx(2.0)
    expected = (px.mean(0) - torch.tensor([10.0, 20.0])) / 900.0
    torch.testing.assert_close(middle[:2], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("yaw", [-35, 30])
def test_parts_alone_find_a_turned_head(model: MorphableModel, yaw: float) -> None:
    """Without a single landmark: crop, start and brow line come from the labels."""
    camera = synthetic_camera(yaw_deg=yaw)
    observation = look(model, camera, truth(model, camera, seed=1))
    blind = replace(
        observation,
        landmarks=replace(observation.landmarks, points_px=np.full_like(observation.landmarks.points_px, np.nan)),
    )
    fit = fit_observation(model, blind, camera.width, camera.height, camera.focal_px, FitConfig())
    assert fit.part_iou["mean"] > 0.9 and math.isnan(fit.landmark_nme)
    turned = fit.camera.cam_from_world[:3, :3] @ camera.cam_from_world[:3, :3].mT
    assert float(torch.rad2deg(torch.arccos(((turned.trace() - 1) / 2).clamp(-1, 1)))) < 6.0


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
    (coefficients,) = at.coefficients
    wanted = model.vertices(coefficients[:count], coefficients[count:])
    found = model.mean if fit is None else model.vertices(fit.identity.float(), fit.expression.float())
    return float(aligned_errors_mm(found[face], wanted[face], with_scale=True).mean())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_parts_mend_what_noisy_landmarks_spoil(model: MorphableModel, seed: int) -> None:
    """With 68 landmarks, each coordinate off by a normal error of 1.5 crop px, PRDL, alone and with outlines, brings
    parts and vertices nearer to the truth."""
    camera = synthetic_camera(yaw_deg=15)
    at = truth(model, camera, seed=seed, jawOpen=0.3)
    scale = fit3d.targets.face_crop(look(model, camera, at, "ibug68"), FitConfig()).scale
    observation = look(model, camera, at, "ibug68", noise=1.5 / scale)

    def fitted(loss: Loss) -> tuple[float, float]:
        config = FitConfig(loss=loss)
        fit = fit_observation(model, observation, camera.width, camera.height, camera.focal_px, config)
        return fit.part_iou["mean"], face_error_mm(model, fit, at)

    overlap_alone, error_alone = fitted("landmarks")
    losses: tuple[Loss, ...] = ("prdl", "prdl+icp")
    for loss in losses:
        overlap, error = fitted(loss)
        assert overlap > overlap_alone + 0.05, loss
        assert error < 0.9 * error_alone, loss


def test_a_denser_grid_goes_on_from_the_coarse_one(model: MorphableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told of the stage: steps of both grids, energies of the dense one, why the coarse one stopped."""
    camera, config = synthetic_camera(yaw_deg=10), FitConfig(anchors=112)
    observations = [look(model, camera, truth(model, camera, seed=seed), noise=2.0) for seed in (1, 2)]
    faces = [Face(each, camera.width, camera.height, camera.focal_px) for each in observations]
    batch = prepare(model, faces, config)
    start = fit_landmarks(batch).at
    runs: list[tuple[Objective, Outcome[Parameters]]] = []

    def watched(objective: Objective, at: Parameters, descent: Descent) -> Outcome[Parameters]:
        runs.append((objective, minimise(objective, at, descent)))
        return runs[-1][1]

    monkeypatch.setattr(fit3d.solve.fit, "minimise", watched)
    outcome = refine_with_parts(batch, start)
    (coarse, first), (dense, last) = runs
    assert coarse.part_loss == part_loss(replace(config, anchors=COARSE_ANCHORS))
    assert dense.part_loss == part_loss(config)
    assert bool((first.steps > 0).all()) and outcome.steps.tolist() == (first.steps + last.steps).tolist()
    assert outcome.evaluations.tolist() == (first.evaluations + last.evaluations).tolist()
    assert outcome.stop_reasons == first.stop_reasons != last.stop_reasons
    assert bool((outcome.energy_end <= outcome.energy_start).all())
    torch.testing.assert_close(outcome.energy_start, batch.objective.evaluate(first.at).energy, rtol=0, atol=0)
    torch.testing.assert_close(outcome.energy_end, batch.objective.evaluate(outcome.at).energy, rtol=0, atol=0)
    coarse_energy = coarse.evaluate(start).energy
    assert bool((coarse.evaluate(first.at).energy < coarse_energy).all())


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


@pytest.mark.parametrize("limit", [600, 1000])
def test_large_parts_are_enlarged_in_place(model: MorphableModel, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head larger than the limit is drawn smaller: borders may be a little coarser, nothing may shift."""
    camera = synthetic_camera(width=1500, height=1500, distance=0.6)
    at, geometry = truth(model, camera, seed=1), face_geometry(model, "ibug68", "cpu")
    monkeypatch.setattr(fit3d.solve.fit, "PARTS_RASTER_LIMIT", 10**6)
    exact = visible_parts(geometry, at.coefficients[0], camera)
    monkeypatch.setattr(fit3d.solve.fit, "PARTS_RASTER_LIMIT", limit)
    enlarged = visible_parts(geometry, at.coefficients[0], camera)
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
    geometry, config = face_geometry(model, "mediapipe478", "cpu"), FitConfig(loss="prdl")
    loss, photo = part_loss(config), torch.tensor([0])
    targets = make_targets([look(model, camera, at)], config, loss)
    eye = float(targets.part_weights[0, PRDL_PARTS.index(1)])
    assert eye == config.parts.weights[0] * config.prdl.weight
    objective = Objective.build(geometry, targets, config, loss, torch.tensor([False]))
    in_crop = camera.in_crop(targets.crops[0])
    here = Parameters.of_one(
        at.coefficients[0], at.rotation[0], at.translation[0], in_crop.focal_px, in_crop.principal_px
    )
    shown = objective.evaluate(here)
    hidden = replace(targets, hidden=targets.hidden | (objective.look(here)[1] == 1))
    lost = replace(objective, targets=hidden).evaluate(here)
    assert lost.seen is not None and shown.seen is not None
    others = shown.seen.energy[0].index_fill(0, torch.tensor([PRDL_PARTS.index(1)]), 0.0)
    assert torch.equal(lost.seen.energy[0], others)
    assert float(lost.terms["prdl"]) == pytest.approx(float(others.sum()) + eye * config.parts.missing_px**2)
    assert float(lost.terms["prdl"]) > float(shown.terms["prdl"])
    assert bool(torch.isfinite(objective.quadratic(lost, photo).hessian).all())
