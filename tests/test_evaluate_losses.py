"""The comparison of losses: vertices in place of pixels, disturbed starts, ablations, weights, and the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fit3d.morphable.registry
from fit3d.commands.app import main
from fit3d.config import FitConfig, PrdlConfig, Statistic
from fit3d.energy.losses import loss_weight, part_loss
from fit3d.energy.pixels import anchor_grid, pixel_centres
from fit3d.energy.prdl import descriptor_naive
from fit3d.errors import NoFaceError
from fit3d.evaluate import losses
from fit3d.evaluate.label_files import LabelledPhoto
from fit3d.evaluate.losses import (
    KINDS,
    PART_LOSSES,
    Attempt,
    Basin,
    Disturbance,
    LabelledFace,
    LossScore,
    PhotoScore,
    Tuning,
    Variant,
    ablations,
    disturb,
    disturbances,
    measure_basin,
    reference_poses,
    score_loss,
    see_heads,
    with_weight,
)
from fit3d.evaluate.vertex_samples import VertexObjective
from fit3d.labels import LEFT_EYE, PART_IDS, PRDL_PARTS, RIGHT_EYE, SKIN
from fit3d.landmarks import LandmarkLayout
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Backend, Landmarks, Observation
from fit3d.solve.fit import Face, face_geometry, fit_observation, part_centres, visible_parts
from fit3d.solve.objective import Objective, place_landmarks
from fit3d.solve.problem import POSE_SIZE, FaceGeometry, Parameters, project
from fit3d.targets import make_targets
from synthetic import synthetic_camera, synthetic_identity, synthetic_model

LAYOUT: LandmarkLayout = "mediapipe478"
NOBODY = Backend("truth", "0")
PRDL = FitConfig(loss="prdl")
EVERY: tuple[Statistic, ...] = ("min", "max", "mean")


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return synthetic_model()


@pytest.fixture(scope="module")
def faces(model: MorphableModel) -> list[LabelledFace]:
    """Two heads of known shape, seen without error."""
    return [seen(model, "front.png", 0, 0.0), seen(model, "side.png", 1, 25.0)]


def seen(model: MorphableModel, name: str, seed: int, yaw: float) -> LabelledFace:
    camera = synthetic_camera(yaw_deg=yaw)
    geometry = face_geometry(model, LAYOUT, "cpu")
    coefficients = torch.zeros(geometry.parameter_count - POSE_SIZE)
    coefficients[: geometry.identity_count] = synthetic_identity(model, seed)
    pose = camera.cam_from_world.float()
    at = Parameters.of_one(coefficients, pose[:3, :3], pose[:3, 3], camera.focal_px, camera.principal_px)
    px = place_landmarks(geometry, at).projected.px[0].double().numpy()
    parts = visible_parts(geometry, coefficients, camera)
    face = Face(Observation(Landmarks(LAYOUT, px, NOBODY), parts, NOBODY), camera.width, camera.height, camera.focal_px)
    return LabelledFace(name, face, parts)


def vertex_problem(
    model: MorphableModel, face: LabelledFace, by_area: bool, seen_only: bool, statistics: tuple[Statistic, ...] = EVERY
) -> tuple[VertexObjective, Parameters]:
    """In double precision, away from the minimum."""
    config = replace(PRDL, anchors=8, prdl=PrdlConfig(statistics=statistics))
    loss = part_loss(config, torch.float64)
    geometry = FaceGeometry.from_model(model, LAYOUT, torch.float64, "cpu")
    targets = make_targets([face.face.observation], config, loss, torch.float64)
    plain = Objective.build(geometry, targets, config, loss, torch.tensor([False]))
    camera = synthetic_camera(yaw_deg=10.0)
    within, pose = camera.in_crop(targets.crops[0]), camera.cam_from_world
    flat = torch.zeros(geometry.parameter_count - POSE_SIZE, dtype=torch.float64)
    start = Parameters.of_one(flat, pose[:3, :3], pose[:3, 3], within.focal_px, within.principal_px)
    step = 0.3 * torch.randn(1, geometry.parameter_count, generator=torch.Generator().manual_seed(0)).double()
    step[:, -POSE_SIZE:] *= torch.tensor([0.1] * 3 + [0.02] * 3 + [0.0])
    return VertexObjective.like(plain, by_area=by_area, seen_only=seen_only), start.moved(step)


def parts_of_vertices(model: MorphableModel, objective: VertexObjective) -> list[list[tuple[int, list[int]]]]:
    """For each part its vertices, and for each of these the triangles of which a third stands for it."""
    annotation = model.annotation
    used = annotation.triangles.unique().tolist()
    number = {vertex: index for index, vertex in enumerate(used)}
    own = annotation.field_labels[annotation.fields.argmax(0)].tolist()
    triangles: dict[tuple[int, int], list[int]] = {}
    for index, (corners, fixed) in enumerate(
        zip(annotation.triangles.tolist(), annotation.fixed_label.tolist(), strict=True)
    ):
        for vertex in corners:
            triangles.setdefault((fixed if fixed >= 0 else own[vertex], number[vertex]), []).append(index)
    return [[(v, t) for (label, v), t in triangles.items() if label == part] for part in PRDL_PARTS]


def naive_energy(model: MorphableModel, objective: VertexObjective, start: Parameters, step: Tensor) -> Tensor:
    """Of the parts, after a step: loops over vertices, every distance to every anchor."""
    geometry, config, targets = objective.geometry, objective.config, objective.targets
    here = project(geometry.surface.at(start.coefficients), start)
    at = start.moved(step)
    moved = project(geometry.surface.at(at.coefficients), at).px[0]
    fragments, _ = objective.look(start)
    corners = here.px[0][geometry.triangles]
    (ax, ay), (bx, by), (cx, cy) = (corner.unbind(1) for corner in corners.unbind(1))
    areas = 0.5 * ((cx - ax) * (by - ay) - (bx - ax) * (cy - ay))
    total = step.new_zeros(())
    resolution = config.crop.resolution
    for part, members in enumerate(parts_of_vertices(model, objective)):
        vertices, weights = [], []
        for vertex, triangles in members:
            x, y = here.px[0, vertex].tolist()
            column, row = (min(max(math.floor(v), 0), resolution - 1) for v in (x, y))
            left_out = bool(targets.hidden[0, row, column])
            left_out |= PRDL_PARTS[part] == SKIN and bool(targets.above_brows[0, row, column])
            area = sum(max(float(areas[t]), 0.0) if objective.seen_only else abs(float(areas[t])) for t in triangles)
            if objective.seen_only:
                left_out |= not (0 <= x < resolution and 0 <= y < resolution)
                left_out |= float(here.cam[0, vertex, 2]) > float(fragments.depth[0, row, column]) + 0.003
            if not left_out and area > 0.0:
                vertices.append(vertex)
                weights.append(area / 3.0 if objective.by_area else 1.0)
        assert vertices
        for statistic in config.prdl.statistics:
            count = config.prdl.mean_anchors if statistic == "mean" else config.anchors
            anchors = pixel_centres(anchor_grid(count, resolution), resolution, torch.float64)
            described = {
                "min": targets.described.nearest,
                "max": targets.described.furthest,
                "mean": targets.described.mean,
            }
            found = descriptor_naive(moved[vertices], anchors, torch.tensor(weights).double(), (statistic,))[:, 0]
            total = total + targets.part_weights[0, part] * (found - described[statistic][0, part]).square().mean()
    return total


@pytest.mark.parametrize("seen_only", [False, True])
@pytest.mark.parametrize("by_area", [False, True])
def test_vertices_equal_the_formulas(
    model: MorphableModel, faces: list[LabelledFace], by_area: bool, seen_only: bool
) -> None:
    """Energy and gradient read off the formulas, by autograd."""
    objective, start = vertex_problem(model, faces[1], by_area, seen_only)
    evaluation = objective.evaluate(start)
    step = torch.zeros(1, objective.geometry.parameter_count, dtype=torch.float64, requires_grad=True)
    energy = naive_energy(model, objective, start, step)
    (gradient,) = torch.autograd.grad(energy, step)
    assert float(evaluation.terms["prdl"]) == pytest.approx(float(energy.detach()), rel=1e-9)
    rest = replace(objective, part_loss=None)
    here = torch.tensor([0])
    found = objective.quadratic(evaluation, here).gradient - rest.quadratic(rest.evaluate(start), here).gradient
    torch.testing.assert_close(2.0 * found, gradient, rtol=1e-7, atol=1e-7 * float(gradient.abs().max()))


@pytest.mark.parametrize("statistics", [("mean",), EVERY])
def test_stiffness_of_vertices_predicts_the_gradient(
    model: MorphableModel, faces: list[LabelledFace], statistics: tuple[Statistic, ...]
) -> None:
    """J^T J of autograd's Jacobian: the rows of 'mean' by themselves; min and max add theirs."""
    objective, start = vertex_problem(model, faces[0], True, True, statistics)
    evaluation, here = objective.evaluate(start), torch.tensor([0])
    rest = replace(objective, part_loss=None)
    found = objective.quadratic(evaluation, here).hessian[0] - rest.quadratic(rest.evaluate(start), here).hessian[0]

    def rows(step: Tensor) -> Tensor:
        at = start.moved(step)
        px = project(objective.geometry.surface.at(at.coefficients), at).px[0]
        every = []
        for chosen in (*evaluation.singles, evaluation.mean):  # type: ignore[attr-defined]
            points = px[objective.samples.vertex[chosen.sample[0]]]
            shape = points.shape[:-2] if chosen is evaluation.mean else points.shape[:-1]  # type: ignore[attr-defined]
            anchors = chosen.residual.shape[-1]
            weight = (objective.targets.part_weights[0] / anchors).sqrt()[:, None]
            if chosen is evaluation.mean:  # type: ignore[attr-defined]
                moved = torch.einsum("pasx,psx->pa", chosen.direction[0], points)
            else:
                moved = (chosen.direction[0] * points).sum(-1)
            assert moved.shape == (shape[0], anchors)
            every.append((weight * moved).flatten())
        return torch.cat(every)

    at_rest = torch.zeros(1, objective.geometry.parameter_count, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(rows, at_rest, strategy="forward-mode", vectorize=True).squeeze(1)
    expected = jacobian.mT @ jacobian
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))


def test_visible_vertices_stand_for_the_pixels_of_their_part(model: MorphableModel, faces: list[LabelledFace]) -> None:
    """The areas of a part's visible vertices add up to its pixels."""
    objective, start = vertex_problem(model, faces[0], True, True)
    projected = project(objective.geometry.surface.at(start.coefficients), start)
    areas = torch.zeros(8).double().index_add_(0, objective.samples.part, objective._areas(projected)[0])
    _, drawn = objective.look(start)
    pixels = torch.tensor([int((drawn == part).sum()) for part in PRDL_PARTS]).double()
    torch.testing.assert_close(areas.sum(), pixels.sum(), rtol=0.02, atol=0)
    # a border that crosses triangles is drawn finer than their corners tell
    large = [PART_IDS[name] - 1 for name in ("right_eye", "left_eye", "nose", "skin")]
    torch.testing.assert_close(areas[large], pixels[large], rtol=0.15, atol=0)


def test_rim_vertices_stand_for_eye_and_lid(model: MorphableModel, faces: list[LabelledFace]) -> None:
    objective, _ = vertex_problem(model, faces[0], False, False)
    samples = objective.samples
    for label in (RIGHT_EYE, LEFT_EYE):
        patch = model.annotation.triangles[model.annotation.fixed_label == label].unique()
        used = model.annotation.triangles.unique()
        named = set(samples.vertex[samples.part == label - 1].tolist())
        assert len(patch) > 8 and set(torch.searchsorted(used, patch).tolist()) <= named
    assert len(torch.unique(samples.vertex * 8 + samples.part)) == len(samples.vertex)


def test_a_vertex_fit_ends_near_the_truth(model: MorphableModel, faces: list[LabelledFace]) -> None:
    score = score_loss(model, faces[:1], [], Variant(PRDL, (True, True)))
    assert not score.failures and score.part_iou["mean"] > 0.85


@pytest.mark.parametrize("starts", [1, 4])
def test_disturbances(starts: int) -> None:
    drawn = disturbances(starts, np.random.default_rng(3))
    assert drawn == disturbances(starts, np.random.default_rng(3)) != disturbances(starts, np.random.default_rng(4))
    levels = [(index + 1) / starts for index in range(starts)]
    for kind, angle in (("pitch", 0), ("yaw", 1), ("roll", 2)):
        some = [each for each in drawn if each.kind == kind]
        assert [abs(each.turn_deg[angle]) for each in some] == pytest.approx([40.0 * level for level in levels])
        assert all(each.shift == (0.0, 0.0) and each.scale == 1.0 for each in some)
        assert all(sum(map(bool, each.turn_deg)) == 1 for each in some)
    shifts = [math.hypot(*each.shift) for each in drawn if each.kind == "shift"]
    assert shifts == pytest.approx([0.3 * level for level in levels])
    scales = [abs(math.log(each.scale)) for each in drawn if each.kind == "scale"]
    assert scales == pytest.approx([level * math.log(1.5) for level in levels])
    together = [each for each in drawn if each.kind == "together"]
    assert len(drawn) == 6 * starts and len(together) == starts
    for each in together:
        assert max(map(abs, each.turn_deg)) <= 40.0 and math.hypot(*each.shift) <= 0.3
        assert 1.0 / 1.5 <= each.scale <= 1.5 and all(each.turn_deg) and each.scale != 1.0


def test_disturbed_poses(model: MorphableModel) -> None:
    """The middle of the head lies where the shift says, as large as the scale says, turned as the angles say."""
    geometry = FaceGeometry.from_model(model, LAYOUT, torch.float64, "cpu")
    camera = synthetic_camera(width=224, height=224, yaw_deg=15.0, pitch_deg=5.0)
    pose = camera.cam_from_world.double()
    flat = torch.zeros(geometry.parameter_count - POSE_SIZE, dtype=torch.float64)
    start = Parameters.of_one(flat, pose[:3, :3], pose[:3, 3], camera.focal_px, camera.principal_px)
    middle = part_centres(geometry)[1:].nanmean(0)
    before = project(middle[None, None], start)
    still = disturb(start, Disturbance(None, 0.0), middle, 224.0)
    torch.testing.assert_close(still.rotation, start.rotation, rtol=0, atol=1e-12)
    torch.testing.assert_close(still.translation, start.translation, rtol=0, atol=1e-12)
    moved = disturb(start, Disturbance("shift", 1.0, shift=(0.2, -0.1)), middle, 224.0)
    after = project(middle[None, None], moved)
    torch.testing.assert_close(after.px - before.px, torch.tensor([[[44.8, -22.4]]]).double(), rtol=0, atol=1e-5)
    larger = disturb(start, Disturbance("scale", 1.0, scale=1.5), middle, 224.0)
    after = project(middle[None, None], larger)
    torch.testing.assert_close(after.px, before.px, rtol=0, atol=1e-5)
    assert float(before.cam[..., 2] / after.cam[..., 2]) == pytest.approx(1.5)
    for axis, angle in ((0, 30.0), (1, -40.0), (2, 20.0)):
        turn = [0.0, 0.0, 0.0]
        turn[axis] = angle
        turned = disturb(start, Disturbance("together", 1.0, turn_deg=(turn[0], turn[1], turn[2])), middle, 224.0)
        after = project(middle[None, None], turned)
        torch.testing.assert_close(after.cam, before.cam, rtol=0, atol=1e-12)
        between = start.rotation[0].mT @ turned.rotation[0]  # in the head's frame
        axes = [1.0 if index == axis else 0.0 for index in range(3)]
        torch.testing.assert_close(between @ torch.tensor(axes).double(), torch.tensor(axes).double())
        first, second = (axis + 1) % 3, (axis + 2) % 3
        assert math.degrees(math.atan2(float(between[second, first]), float(between[first, first]))) == pytest.approx(
            angle
        )


def test_basin_is_that_of_single_fits(
    model: MorphableModel, faces: list[LabelledFace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known faces are found from a little away, and not from where the head is out of sight."""
    config = replace(PRDL, anchors=16)
    poses = reference_poses(model, faces, config)
    drawn = [Disturbance("yaw", 0.5, (0.0, 8.0, 0.0)), Disturbance("shift", 1.0, shift=(3.0, 0.0))]
    monkeypatch.setattr(losses, "disturbances", lambda starts, generator: drawn)
    basin = measure_basin(model, faces, poses, config, 1, 0)
    assert [attempt.photo for attempt in basin.attempts] == ["front.png"] * 2 + ["side.png"] * 2
    assert [attempt.recovered for attempt in basin.attempts] == [True, False, True, False]
    assert basin.undisturbed_iou > 0.9 and basin.share("yaw") == 1.0 and basin.share("shift", furthest=True) == 0.0
    assert basin.share() == 0.5 and math.isnan(basin.share("yaw", furthest=True))
    alone = measure_basin(model, faces[1:], poses[1:], config, 1, 0)
    assert [attempt.part_iou for attempt in alone.attempts] == [attempt.part_iou for attempt in basin.attempts[2:]]


def test_shares_of_a_basin() -> None:
    def attempt(kind: losses.Kind, level: float, recovered: bool) -> Attempt:
        return Attempt("a.png", Disturbance(kind, level), 0.5 + 0.2 * recovered, recovered)

    basin = Basin(
        0.8,
        (
            *(attempt("yaw", 0.5, True), attempt("yaw", 1.0, False), attempt("yaw", 1.0, True)),
            *(attempt("roll", 1.0, True), attempt("together", 1.0, False)),
        ),
    )
    assert basin.share("yaw") == pytest.approx(2 / 3) and basin.share("yaw", furthest=True) == 0.5
    assert basin.share() == pytest.approx(3 / 5) and basin.share(furthest=True) == 0.5
    assert basin.mean_iou == pytest.approx((3 * 0.7 + 2 * 0.5) / 5)
    summary = basin.summary()
    assert summary["by_kind"]["yaw"] == {"all": pytest.approx(2 / 3), "furthest": 0.5}
    assert list(summary["by_kind"]) == list(KINDS)


def test_score_is_that_of_the_fit(model: MorphableModel, faces: list[LabelledFace]) -> None:
    config = replace(PRDL, loss="icp")
    heads = see_heads(model, 1, 0, config)
    score = score_loss(model, faces, heads, Variant(config))
    for labelled, found in zip(faces, score.photos, strict=True):
        face = labelled.face
        fit = fit_observation(model, face.observation, face.width, face.height, face.focal_px, config)
        assert found.photo == labelled.photo and found.part_iou == fit.part_iou
        assert found.identity_rms == pytest.approx(float(fit.identity.square().mean().sqrt()))
        assert 0 < found.steps <= found.evaluations <= config.iterations
    assert not score.failures and 0.0 < score.neutral_mm[0] < 10.0
    summary = score.summary()
    assert summary["part_iou"]["mean"] == pytest.approx(np.mean([each.part_iou["mean"] for each in score.photos]))
    assert summary["identity_rms_max"] == max(each.identity_rms for each in score.photos)


def test_without_landmarks_no_landmark_counts(model: MorphableModel, faces: list[LabelledFace]) -> None:
    """Parts alone: landmarks that are wrong change nothing, and those of the original stay."""
    first = faces[0].face.observation
    wrong = replace(first, landmarks=replace(first.landmarks, points_px=first.landmarks.points_px + 40.0))
    other = replace(faces[0], face=replace(faces[0].face, observation=wrong))
    config = replace(PRDL, iterations=3)
    one, two = (score_loss(model, [each.without_landmarks()], [], Variant(config)) for each in (faces[0], other))
    assert one.photos[0].part_iou == two.photos[0].part_iou and not one.failures
    assert np.isfinite(first.landmarks.points_px).all()
    with_them = score_loss(model, [other], [], Variant(config)).photos[0]
    assert with_them.part_iou != one.photos[0].part_iou


def test_failures_are_counted_and_errors_are_in_no_mean(model: MorphableModel, faces: list[LabelledFace]) -> None:
    nothing = faces[0].without_landmarks()
    blank = replace(nothing.face.observation, parts=np.zeros_like(nothing.truth))
    unfit = replace(nothing, photo="blank.png", face=replace(nothing.face, observation=blank))
    mirrored = replace(faces[1], photo="else.png", truth=np.roll(faces[1].truth, 60, axis=1))
    score = score_loss(model, [unfit, mirrored, faces[0]], [], Variant(replace(PRDL, iterations=2)))
    assert set(score.failures) == {"blank.png", "else.png"}
    assert "nothing to fit to" in score.failures["blank.png"] and "Part IoU" in score.failures["else.png"]
    assert [each.photo for each in score.photos] == ["else.png", "front.png"]


def test_ablations_change_one_thing_each() -> None:
    config = PRDL
    every = ablations(config)
    assert len({(each.group, each.value) for each in every}) == len(every)
    groups: dict[str, list[Variant]] = {}
    for each in every:
        groups.setdefault(each.group, []).append(each.variant)
    expected = {"statistics": 7, "anchors": 6, "extent": 3, "brow cut": 2, "hair": 2, "model's points": 5}
    assert {group: len(set(variants)) for group, variants in groups.items()} == expected
    for variants in groups.values():
        assert Variant(config) in variants or config.anchors not in (8, 16, 32, 56, 112, 224)
        changed = {
            name
            for variant in variants
            for name, value in vars(variant.config).items()
            if value != getattr(config, name)
        }
        assert len(changed) <= 1
    assert len({each.config.prdl.statistics for each in groups["statistics"]}) == 7
    assert {each.vertices for each in groups["model's points"]} == {
        None,
        *((area, visible) for area in (False, True) for visible in (False, True)),
    }


@pytest.mark.parametrize("loss", PART_LOSSES)
def test_with_weight(loss: losses.Loss) -> None:
    config = with_weight(replace(PRDL, loss=loss), 37.0)
    assert config.loss == loss
    if loss == "prdl+icp":
        default = PRDL.combined
        assert config.combined.icp == 37.0
        assert config.combined.prdl / config.combined.icp == pytest.approx(default.prdl / default.icp)
    else:
        assert loss_weight(config) == 37.0


def scored(ious: list[float], rms: list[float], millimetres: list[float]) -> LossScore:
    photos = [
        PhotoScore(f"{index}.png", {"mean": iou}, identity, 1, 1, 0.1)
        for index, (iou, identity) in enumerate(zip(ious, rms, strict=True))
    ]
    return LossScore(tuple(photos), tuple(millimetres), {})


def test_weights_are_chosen_by_the_others() -> None:
    """The last photo alone speaks for 100, the first head alone for 10; 30 covers more but is not eligible."""
    tuning = Tuning(
        {
            10.0: scored([0.80, 0.80, 0.80], [0.5, 0.5, 0.5], [1.0, 3.0, 3.0]),
            30.0: scored([0.99, 0.99, 0.99], [0.9, 0.9, 0.9], [9.0, 9.0, 9.0]),
            100.0: scored([0.79, 0.79, 0.95], [0.6, 0.6, 0.6], [8.0, 2.0, 2.0]),
        }
    )
    assert tuning.choose_by_photos() == 100.0
    assert tuning.by_photos == [100.0, 100.0, 10.0]
    assert tuning.choose_by_heads() == 10.0
    assert tuning.by_heads == [100.0, 10.0, 10.0]
    summary = tuning.summary()
    assert summary["by_photos"] == {"100": 2, "10": 1} and summary["by_heads"] == {"10": 2, "100": 1}
    assert summary["held_out_iou"] == pytest.approx((0.79 + 0.79 + 0.80) / 3)
    assert summary["held_out_mm"] == pytest.approx((8.0 + 3.0 + 3.0) / 3)
    implausible = Tuning({1.0: scored([0.5], [0.9], [1.0]), 2.0: scored([0.9], [1.1], [0.5])})
    assert implausible.by_photos == [1.0] and implausible.by_heads == [2.0]


FEW: tuple[losses.Loss, ...] = ("prdl", "icp")
"""Losses that are compared here, for speed."""


@pytest.fixture
def folder(model: MorphableModel, faces: list[LabelledFace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos that are not looked at; 'none.png' shows no face."""
    for name in ("front", "none"):
        (tmp_path / f"{name}.png").touch()
        (tmp_path / f"{name}_parts.png").touch()

    def look_at(pair: LabelledPhoto, **options: str) -> LabelledFace:
        assert options == {"observed": "labels", "landmarks": "mediapipe", "parser": "embedded"}
        if pair.photo.stem == "none":
            raise NoFaceError(f"{pair.photo}: no face")
        return next(face for face in faces if face.photo == pair.photo.name)

    monkeypatch.setattr(fit3d.morphable.registry, "load_model", lambda name: model)
    monkeypatch.setattr(losses, "see_labelled", look_at)
    monkeypatch.setattr(losses, "PART_LOSSES", FEW)
    monkeypatch.setattr(losses, "WEIGHTS", (10.0, 30.0))
    few = ablations(PRDL)
    monkeypatch.setattr(losses, "ablations", lambda config: [few[0], few[-1]])
    return tmp_path


QUICK = ["--iterations", "2", "--anchors", "8", "--starts"]


def test_command_reports_everything(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["evaluate", "losses", str(folder), "--json", *QUICK, "1", "--known-heads", "1", "--ablate", "--tune"])
        == 1
    )
    said = capfd.readouterr()
    assert said.err.splitlines() == [f"error: none.png: {folder / 'none.png'}: no face"]
    report = json.loads(said.out)
    assert {row["photo"] for row in report["photos"]} == {"front.png"} and list(report["failures"]) == ["none.png"]
    drivers = [(loss, driver) for driver in ("landmarks and parts", "parts alone") for loss in (*FEW, "landmarks")]
    assert {row["group"] for row in report["photos"]} == {
        f"{driver}, {loss}" for loss, driver in drivers if (loss, driver) != ("landmarks", "parts alone")
    }
    assert report["command"].startswith("fit3d evaluate losses FOLDER --")
    assert set(report["parts_alone"]) == set(FEW)
    assert set(report["landmarks_and_parts"]) == {*FEW, "landmarks"}
    for driver in ("landmarks_and_parts", "parts_alone"):
        for summary in report[driver].values():
            assert 0.3 < summary["part_iou"]["mean"] <= 1.0 and summary["neutral_mm"] > 0.0
    assert report["landmarks_and_parts"]["prdl"]["part_iou"] != report["parts_alone"]["prdl"]["part_iou"]
    assert set(report["basin"]) == set(FEW)
    assert all(basin["starts"] == len(KINDS) for basin in report["basin"].values())
    assert [each["value"] for each in report["ablations"]] == ["min", "vertices by area, visible"]
    assert set(report["tuning"]) == set(FEW)
    assert all(sum(each["by_photos"].values()) == 1 for each in report["tuning"].values())


def test_command_prints_tables(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "none_parts.png").unlink()
    assert main(["evaluate", "losses", str(folder), *QUICK, "0"]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    tables = [block.splitlines() for block in said.out.split("### ")[1:]]
    assert len(tables) == 2
    for title, blank, header, ruler, *rows in tables:
        assert title and not blank and set(ruler) == {"|", "-", " "}
        assert {line.count("|") for line in (header, ruler, *rows) if line} == {header.count("|")}
        assert [row.split()[1] for row in rows if row][: len(FEW)] == list(FEW)
    again = main(["evaluate", "losses", str(folder), *QUICK, "0", "--quiet"])
    assert again == 0 and capfd.readouterr().out == ""


def test_command_without_photos(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "losses", str(tmp_path)]) == 2
    assert capfd.readouterr().err.startswith("error: ")
