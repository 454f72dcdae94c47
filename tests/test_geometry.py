"""The measuring of heads of known shape."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import trimesh

from fit3d.camera import CAM_FROM_FRONTAL_WORLD, Camera
from fit3d.commands.app import main
from fit3d.commands.evaluate_geometry import _difference, _verdict
from fit3d.config import FitConfig, FocalConfig
from fit3d.evaluate.geometry import (
    FOV_RANGE_DEG,
    KnownPhoto,
    aligned_errors_mm,
    average_geometry,
    disturbed,
    face_vertices,
    fit_known,
    fits_apart_mm,
    known_heads,
    photographed_twice,
    resampled,
    score_known,
    seen_in_clay,
    smooth_shift,
    surface_errors_mm,
    surface_ruler,
    vertex_ruler,
)
from fit3d.labels import PRDL_PARTS
from fit3d.metrics import part_iou
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Backend, Landmarks
from fit3d.photo import Photo
from fit3d.render.overlay import BACKDROP
from fit3d.solve.result import Fit
from fit3d.targets import face_crop
from synthetic import synthetic_model

STAND_IN = Backend("stand-in", "1")


@dataclass(frozen=True)
class StandIn:
    """A landmark detector that keeps the pictures and finds all landmarks in the corners of what is not background."""

    backend: Backend = STAND_IN
    finds: int = 1
    pictures: list[np.ndarray] = field(default_factory=list)

    def detect(self, photo: Photo) -> list[Landmarks]:
        self.pictures.append(photo.pixels)
        rows, columns = np.nonzero((photo.pixels != BACKDROP).any(2))
        corners = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]], dtype=np.float64)
        return [Landmarks("mediapipe478", np.tile(corners, (239, 1)), STAND_IN)] * self.finds


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return synthetic_model()


def cloud(seed: int) -> torch.Tensor:
    return torch.randn(50, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.1


def turned_by(x: float, y: float, z: float) -> torch.Tensor:
    """Rotation by a vector, radians."""
    skew = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(skew)


def test_alignment_undoes_a_similarity() -> None:
    truth = cloud(0)
    rotation = turned_by(0.3, -2.0, 1.0)
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


@pytest.fixture(scope="module")
def photos(model: MorphableModel) -> list[KnownPhoto]:
    return photographed_twice(model, 2, 0, FitConfig())


def fit_of(photo: KnownPhoto, identity: torch.Tensor, camera: Camera) -> Fit:
    """A fit that found this identity and camera, and all else as it is."""
    return Fit(
        identity=identity.double(),
        expression=photo.head.expression.double(),
        camera=camera,
        crop=face_crop(photo.seen, FitConfig()),
        parts=photo.seen.parts,
        part_iou={"mean": 0.5},
        landmark_nme=0.0,
        energy_start={},
        energy_end={},
        iterations=1,
        stop_reason="converged",
    )


def test_lenses_differ_and_faces_stay_as_large(model: MorphableModel) -> None:
    usual, others = known_heads(model, 6, 3), known_heads(model, 6, 3, FOV_RANGE_DEG)
    face = face_vertices(model)
    for one, other in zip(usual, others, strict=True):
        assert torch.equal(one.identity, other.identity) and torch.equal(one.expression, other.expression)
        assert one.camera.fov_deg == pytest.approx(30.0)
        assert FOV_RANGE_DEG[0] <= other.camera.fov_deg <= FOV_RANGE_DEG[1]
        vertices = model.vertices(one.identity, one.expression)[face]
        sizes = [np.ptp(head.camera.project(vertices).numpy(), axis=0).max() for head in (one, other)]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.1)
    fovs = [head.camera.fov_deg for head in others]
    assert max(fovs) - min(fovs) > 10.0


def test_the_second_photo_is_of_the_same_head_otherwise(model: MorphableModel, photos: list[KnownPhoto]) -> None:
    heads = known_heads(model, 2, 0)
    assert [photo.person for photo in photos] == [0, 1, 0, 1]
    for first, second, head in zip(photos[:2], photos[2:], heads, strict=True):
        assert torch.equal(first.head.identity, head.identity) and torch.equal(second.head.identity, head.identity)
        assert torch.equal(first.head.camera.cam_from_world, head.camera.cam_from_world)
        assert not torch.equal(second.head.expression, head.expression)
        assert not torch.equal(second.head.camera.cam_from_world, head.camera.cam_from_world)


def test_smooth_shift_has_its_spread_and_correlation() -> None:
    sd, length = 2.5, 12
    shift = smooth_shift((600, 500), sd, length, np.random.default_rng(0))
    assert shift.shape == (600, 500, 2)
    assert shift.std() == pytest.approx(sd, rel=0.05)
    for axis in (0, 1):
        pairs = (shift * np.roll(shift, length, axis)).mean() / shift.var()
        assert pairs == pytest.approx(1.0 / math.e, abs=0.07)
        assert abs((shift * np.roll(shift, 5 * length, axis)).mean()) < 0.15 * shift.var()
    assert abs((shift[..., 0] * shift[..., 1]).mean()) < 0.15 * shift.var()


def test_labels_are_taken_from_where_the_shift_points() -> None:
    parts = np.arange(20, dtype=np.uint8).reshape(4, 5)
    shift = np.broadcast_to(np.array([2.2, -1.4]), (4, 5, 2))
    expected = parts[np.clip(np.arange(4) - 1, 0, 3)[:, None], np.clip(np.arange(5) + 2, 0, 4)]
    assert np.array_equal(resampled(parts, shift), expected)


@pytest.mark.parametrize("seen", ["noise", "smooth"])
def test_landmarks_err_as_much_as_stated(photos: list[KnownPhoto], seen: str) -> None:
    config, errors, steps = FitConfig(), [], []
    for index, photo in enumerate(photos):
        exact = photo.seen.landmarks.points_px
        off = disturbed(photo.seen, seen, 2.0, 0.0, np.random.default_rng(index), config)
        error = (off.landmarks.points_px - exact) * face_crop(photo.seen, config).scale
        assert np.array_equal(off.parts, photo.seen.parts)
        distance = np.linalg.norm(exact[:, None] - exact[None], axis=2) + 1e9 * np.eye(len(exact))
        errors.append(error)
        steps.append(error - error[distance.argmin(1)])
    assert np.std(errors) == pytest.approx(2.0, rel=0.2)
    apart = np.concatenate(steps).std() / np.concatenate(errors).std()  # sqrt 2 of independent errors
    assert apart > 1.2 if seen == "noise" else apart < 0.6


def test_labels_err_the_more_the_more_is_stated(photos: list[KnownPhoto]) -> None:
    config, photo = FitConfig(), photos[0]
    overlap = []
    for label_noise_px in (0.0, 0.75, 3.0):
        off = disturbed(photo.seen, "clay", 5.0, label_noise_px, np.random.default_rng(4), config)
        assert off.landmarks is photo.seen.landmarks
        overlap.append(part_iou(off.parts, photo.seen.parts)["mean"])
    assert overlap[0] == 1.0
    assert 1.0 > overlap[1] > overlap[2] + 0.1 > 0.3


def test_a_detector_looks_at_clay(model: MorphableModel, photos: list[KnownPhoto]) -> None:
    photo, detector = photos[0], StandIn()
    seen = seen_in_clay(model, photo.head, photo.seen, detector)
    assert seen is not None and seen.parts is photo.seen.parts and seen.landmarks.backend == STAND_IN
    camera = photo.head.camera
    assert detector.pictures[0].shape == (camera.height, camera.width, 3)
    px = camera.project(model.vertices(photo.head.identity, photo.head.expression)).numpy()
    assert seen.landmarks.points_px[:2] == pytest.approx(np.stack([px.min(0), px.max(0)]), abs=1.5)
    assert not np.isfinite(seen.landmarks.points_px[468:]).any()  # clay shows no irises
    assert seen_in_clay(model, photo.head, photo.seen, StandIn(finds=0)) is None
    assert photographed_twice(model, 2, 0, FitConfig(), detector=StandIn(finds=0)) == []


def test_a_perfect_fit_scores_nothing_and_each_fault_its_own(model: MorphableModel, photos: list[KnownPhoto]) -> None:
    photo, ruler = photos[0], vertex_ruler(model)
    identity, camera = photo.head.identity, photo.head.camera
    perfect = score_known(model, photo, fit_of(photo, identity, camera), ruler)
    faults = (perfect.neutral_mm, perfect.neutral_p90_mm, perfect.posed_mm, perfect.metric_mm, perfect.focal_error)
    assert faults == pytest.approx((0.0,) * 5, abs=1e-4)
    assert perfect.rotation_deg == pytest.approx(0.0, abs=1e-3)
    assert perfect.part_iou == 1.0
    assert perfect.identity_rms == pytest.approx(float(identity.square().mean().sqrt()))

    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = turned_by(0.0, 0.06, 0.08)
    other = fit_of(photo, identity, camera)
    other = replace(other, parts=resampled(other.parts, np.full((*other.parts.shape, 2), 3.0)))
    overlap = score_known(model, photo, other, ruler).part_iou
    assert overlap == part_iou(other.parts, photo.seen.parts)["mean"]
    assert 0.1 < overlap < 0.9
    turned = replace(camera, cam_from_world=turn @ camera.cam_from_world, focal_px=0.8 * camera.focal_px)
    score = score_known(model, photo, fit_of(photo, identity, turned), ruler)
    assert score.rotation_deg == pytest.approx(math.degrees(0.1))
    assert score.focal_error == pytest.approx(0.2)

    mean = score_known(model, photo, fit_of(photo, 0.0 * identity, camera), ruler)
    assert mean.neutral_mm == pytest.approx(mean.mean_head_mm)
    assert mean.neutral_mm < mean.neutral_p90_mm and 0.1 < mean.neutral_mm < mean.metric_mm


def test_fits_of_one_person_are_compared_and_others_not(model: MorphableModel, photos: list[KnownPhoto]) -> None:
    fits = [fit_of(photo, photo.head.identity, photo.head.camera) for photo in photos]
    assert fits_apart_mm(model, photos, fits) == pytest.approx([0.0, 0.0], abs=1e-4)
    assert fits_apart_mm(model, photos[:3], fits[:3]) == pytest.approx([0.0], abs=1e-4)
    assert fits_apart_mm(model, photos[:2], fits[:2]) == []
    face, silent = face_vertices(model), torch.zeros(len(model.expression_names))
    shapes = [model.vertices(photo.head.identity, silent)[face] for photo in photos[:2]]
    expected = float(aligned_errors_mm(shapes[1], shapes[0], with_scale=True).mean())
    assert fits_apart_mm(model, photos, [fits[0], fits[1], fits[1], fits[3]]) == pytest.approx(
        [expected, 0.0], abs=1e-4
    )


def test_surface_distances_are_those_to_the_nearest_point() -> None:
    """Points 1 mm outside and inside of a cube's sides by turns: by symmetry no rigid motion comes nearer."""
    cube = trimesh.creation.box((0.1, 0.1, 0.1)).subdivide().subdivide().subdivide()
    grid = np.linspace(-0.035, 0.035, 8)
    u, v = (each.reshape(-1) for each in np.meshgrid(grid, grid))
    height = np.where(np.indices((8, 8)).sum(0).reshape(-1) % 2, 0.051, 0.049)
    sides = [np.roll(np.stack([u, v, sign * height], 1), axis, axis=1) for axis in range(3) for sign in (1.0, -1.0)]
    truth = torch.from_numpy(np.concatenate(sides))
    corners, start = torch.from_numpy(cube.triangles.copy()), torch.from_numpy(cube.vertices.copy())
    turn = turned_by(0.02, -0.03, 0.04)
    rough = start @ turn.mT + 0.002
    errors = surface_errors_mm(corners, truth, (start, rough), with_scale=False)
    assert errors.numpy() == pytest.approx(np.ones(len(truth)), abs=0.05)
    grown = surface_errors_mm(1.2 * corners, truth, (1.2 * start, rough), with_scale=False)
    assert grown.numpy().mean() == pytest.approx(10.0, abs=0.2)  # sides are now 60 mm from the middle
    again = surface_errors_mm(1.2 * corners, truth, (1.2 * start, rough), with_scale=True)
    assert again.numpy() == pytest.approx(np.ones(len(truth)), abs=0.1)


def test_surfaces_of_other_meshes_are_compared(model: MorphableModel) -> None:
    """The same heads with other vertices are the same; other heads differ by no more than corresponding vertices do."""
    finer = synthetic_model(2.0)
    assert len(finer.mean) > len(model.mean)
    ruler, same = surface_ruler(model, finer, "mediapipe478"), surface_ruler(model, model, "mediapipe478")
    vertices = vertex_ruler(model)
    for head in known_heads(model, 1, 5):
        true = finer.vertices(head.identity, head.expression)
        moved = model.vertices(head.identity, head.expression) @ torch.tensor(CAM_FROM_FRONTAL_WORLD) * 1.1 + 0.3
        assert float(ruler.errors_mm(moved, true, with_scale=True).mean()) < 0.1
        assert float(ruler.errors_mm(moved, true, with_scale=False).mean()) > 0.5
        truth = model.vertices(head.identity, head.expression)
        by_surface = float(same.errors_mm(model.mean, truth, with_scale=True).mean())
        by_vertices = float(vertices.errors_mm(model.mean, truth, with_scale=True).mean())
        assert 0.2 * by_vertices < by_surface < by_vertices


def test_a_fit_beats_the_mean_head_and_noise_hurts(model: MorphableModel, photos: list[KnownPhoto]) -> None:
    config, ruler = FitConfig(), vertex_ruler(model)

    def measured(noise_px: float, label_noise_px: float) -> float:
        generator = np.random.default_rng(0)
        seen = [disturbed(each.seen, "smooth", noise_px, label_noise_px, generator, config) for each in photos]
        fits = fit_known(model, photos, seen, config)
        average = average_geometry([score_known(model, *pair, ruler) for pair in zip(photos, fits, strict=True)])
        if not noise_px and not label_noise_px:
            assert average.neutral_mm < average.mean_head_mm
            assert average.part_iou > 0.9
            assert average.rotation_deg < 3.0
            assert max(fits_apart_mm(model, photos, fits)) < average.mean_head_mm
        assert average.focal_error == 0.0
        return average.neutral_mm

    exact = measured(0.0, 0.0)
    assert exact < measured(6.0, 0.0)
    assert exact < measured(0.0, 1.5)


def test_unknown_lenses_are_not_told(model: MorphableModel) -> None:
    config = FitConfig(loss="landmarks", focal=FocalConfig(refine_sd=0.0))
    photos = photographed_twice(model, 1, 0, config, FOV_RANGE_DEG)
    fits = fit_known(model, photos, [photo.seen for photo in photos], config, focal_is_known=False)
    assert [fit.camera.fov_deg for fit in fits] == pytest.approx([config.focal.default_fov_deg] * 2)


def test_a_loss_is_told_to_be_worse() -> None:
    mean, error = _difference([1.0, 1.5, 2.0], [1.1, 1.4, 1.4])
    assert mean == pytest.approx(0.2)
    assert error == pytest.approx(math.sqrt(0.13 / 3.0))
    assert math.isnan(_difference([1.0], [2.0])[1])
    assert _verdict("prdl", {0.0: (-0.2, 0.1), 1.5: (0.0, 0.1)}).endswith(": never worse")
    assert _verdict("prdl", {0.0: (-0.2, 0.1), 1.5: (0.001, 0.1)}).endswith(": worse at 1.5 px")


def test_wrong_usage_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "geometry", "--loss", "prdl,x"]) == 2
    assert capsys.readouterr().err.startswith("error: --loss prdl,x: expected some of prdl+icp, prdl, ")
    assert main(["evaluate", "geometry", "--label-noise", "inf"]) == 2
    assert capsys.readouterr().err.startswith("error: --label-noise inf: expected a number from 0 on")
    assert main(["evaluate", "geometry", "--truth", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err


def test_the_table_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "evaluate",
        "geometry",
        "--heads",
        "1",
        "--loss",
        "landmarks,icp",
        "--noise",
        "2",
        "--focal",
        "unknown",
    ]
    assert main(arguments) == 0
    names, alone, with_parts, verdict = capsys.readouterr().out.splitlines()
    assert names[20:].split() == ["neutral", "p90", "posed", "metric", "twice", "mean", "deg", "focal", "IoU", "id"]
    assert alone.startswith("2, landmarks ") and with_parts.startswith("2, icp ")
    assert len(alone) == len(with_parts) == len(names)
    assert verdict.startswith("icp against landmarks, neutral mm, 2 px: ")
