"""What the observation is not sure of weighs less, what it cannot see nothing; and a bad fit says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fit3d.camera import Camera
from fit3d.config import FitConfig
from fit3d.energy.losses import part_loss
from fit3d.evaluate.geometry import KnownHead, aligned_errors_mm, face_vertices, observe_known
from fit3d.labels import NOSE, PRDL_PARTS
from fit3d.landmarks import BROW_LANDMARKS, LandmarkLayout
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Observation
from fit3d.solve.fit import HIDDEN_BEHIND_M, Face, face_geometry, fit_observation, prepare
from fit3d.solve.objective import hidden_landmarks, place_landmarks
from fit3d.solve.problem import Parameters
from fit3d.solve.result import Fit
from fit3d.targets import make_targets
from synthetic import synthetic_camera, synthetic_identity, synthetic_model

CONFIG = FitConfig()
FRONT = synthetic_camera()


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return synthetic_model()


def seen(model: MorphableModel, camera: Camera, layout: LandmarkLayout = "mediapipe478") -> Observation:
    """What perfect detectors say of a head, none of them telling how sure they are."""
    head = KnownHead(synthetic_identity(model, 2).float(), torch.zeros(len(model.expression)), camera)
    return observe_known(model, head, layout, 0.0, np.random.default_rng(0), CONFIG)


def trusting(observation: Observation, confidence: np.ndarray | None) -> Observation:
    return replace(observation, landmarks=replace(observation.landmarks, confidence=confidence))


def fitted(model: MorphableModel, observation: Observation, camera: Camera) -> Fit:
    return fit_observation(model, observation, camera.width, camera.height, camera.focal_px, CONFIG)


def test_landmarks_weigh_by_their_confidence_and_missing_ones_nothing(model: MorphableModel) -> None:
    silent = seen(model, FRONT)
    points = silent.landmarks.points_px.copy()
    points[[7, 400]] = np.nan
    silent = replace(silent, landmarks=replace(silent.landmarks, points_px=points))
    confidence = np.random.default_rng(0).uniform(0.1, 1.0, len(points))
    told, certain = trusting(silent, confidence), trusting(silent, np.ones(len(points)))
    by_silence, by_word, by_certainty = make_targets([silent, told, certain], CONFIG, None).landmarks.weight
    assert torch.equal(by_silence, by_certainty)
    assert by_silence[[7, 400]].tolist() == [0.0, 0.0] and int((by_silence > 0).sum()) == len(points) - 2
    torch.testing.assert_close(by_word, by_silence * torch.from_numpy(confidence).float(), rtol=1e-6, atol=0.0)


def test_parts_weigh_by_their_confidence(model: MorphableModel) -> None:
    silent = seen(model, FRONT)
    confidence = np.random.default_rng(0).uniform(0.1, 1.0, 12)
    confidence[NOSE] = 0.0
    told = replace(silent, part_confidence=confidence)
    by_silence, by_word = make_targets([silent, told], CONFIG, part_loss(CONFIG)).part_weights
    expected = by_silence * torch.from_numpy(confidence[list(PRDL_PARTS)]).float()
    torch.testing.assert_close(by_word, expected, rtol=1e-6, atol=0.0)
    assert bool((by_silence > 0).all()) and float(by_word[PRDL_PARTS.index(NOSE)]) == 0.0


def test_what_has_no_confidence_has_no_say(model: MorphableModel) -> None:
    """To the bit: wrong landmarks that nobody trusts give the fit that missing ones give."""
    whole = seen(model, FRONT)
    generator = np.random.default_rng(0)
    points, chosen = whole.landmarks.points_px.copy(), generator.choice(478, 100, replace=False)
    box = np.stack([points.min(0), points.max(0)])
    # the crop comes from the box of all points, and the line through the brows from theirs, trusted or not
    kept = [
        *points.argmin(0),
        *points.argmax(0),
        *BROW_LANDMARKS["mediapipe478"][0],
        *BROW_LANDMARKS["mediapipe478"][1],
    ]
    chosen = np.setdiff1d(chosen, kept)
    confidence = np.ones(478)
    confidence[chosen] = 0.0
    missing, wrong = points.copy(), points.copy()
    missing[chosen] = np.nan
    wrong[chosen] = generator.uniform(box[0], box[1], (len(chosen), 2))
    fits = [
        fitted(
            model,
            trusting(replace(whole, landmarks=replace(whole.landmarks, points_px=points)), confidence),
            FRONT,
        )
        for points in (missing, wrong)
    ]
    assert torch.equal(fits[0].identity, fits[1].identity) and torch.equal(fits[0].expression, fits[1].expression)
    assert torch.equal(fits[0].camera.cam_from_world, fits[1].camera.cam_from_world)
    assert fits[0].landmark_nme == fits[1].landmark_nme


@pytest.mark.parametrize("yaw_deg", [-60.0, 0.0, 25.0, 60.0])
@pytest.mark.parametrize("layout", ["ibug68", "mediapipe478"])
def test_hidden_landmarks_are_those_behind_the_first_surface_on_their_ray(
    model: MorphableModel, layout: LandmarkLayout, yaw_deg: float
) -> None:
    camera = synthetic_camera(yaw_deg=yaw_deg)
    observation = seen(model, camera, layout)
    face = Face(observation, camera.width, camera.height, camera.focal_px)
    objective = prepare(model, [face], CONFIG).objective
    geometry, within = face_geometry(model, layout, "cpu"), camera.in_crop(objective.targets.crops[0])
    pose = camera.cam_from_world.float()
    flat = torch.zeros(len(model.identity) + len(model.expression))
    at = Parameters.of_one(flat, pose[:3, :3], pose[:3, 3], within.focal_px, within.principal_px)
    (hidden,) = hidden_landmarks(objective, at, HIDDEN_BEHIND_M)

    surface = (geometry.surface.mean @ pose[:3, :3].mT + pose[:3, 3]).double()
    corners = surface[geometry.triangles]
    edge, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    behind = torch.zeros(len(hidden), dtype=torch.float64)
    for index, point in enumerate(place_landmarks(geometry, at).projected.cam[0].double()):
        # Moeller and Trumbore, "Fast, minimum storage ray/triangle intersection", 1997
        cross = torch.linalg.cross(point.expand_as(other), other)
        determinant = (edge * cross).sum(1)
        u = -(corners[:, 0] * cross).sum(1) / determinant
        around = torch.linalg.cross(-corners[:, 0], edge)
        v = (around * point).sum(1) / determinant
        share = (other * around).sum(1) / determinant
        met = share[(u >= 0) & (v >= 0) & (u + v <= 1) & (share > 0)]
        if len(met):
            behind[index] = (1.0 - met.min()) * point[2]
    slides = torch.zeros_like(hidden)
    slides[geometry.sliding] = True
    clear = ((behind - HIDDEN_BEHIND_M).abs() > 0.002) & ~slides  # the raster asks at the pixel's centre
    assert int(clear.sum()) > 0.8 * int((~slides).sum())
    differ = int((hidden != (behind > HIDDEN_BEHIND_M))[clear].sum())
    assert differ <= 1 + len(hidden) // 50  # at an outline the centre's ray may pass where the point's own hits
    assert not bool(hidden[slides].any())
    assert float(hidden.double().mean()) > 0.05 if abs(yaw_deg) > 30.0 else float(hidden.double().mean()) < 0.02


def test_a_guessed_far_side_does_not_bend_a_turned_head(model: MorphableModel) -> None:
    camera = synthetic_camera(yaw_deg=60.0)
    observation = seen(model, camera)
    face = Face(observation, camera.width, camera.height, camera.focal_px)
    weight = prepare(model, [face], CONFIG).objective.targets.landmarks.weight[0]
    guessed = (weight == 0.0).numpy()
    assert guessed.sum() > 20
    points = observation.landmarks.points_px.copy()
    points[guessed] += (12.0, -9.0)
    observation = replace(observation, landmarks=replace(observation.landmarks, points_px=points))
    silence = torch.zeros(len(model.expression))
    true = model.vertices(synthetic_identity(model, 2).float(), silence)[face_vertices(model)]
    errors = []
    for confidence in (None, np.ones(len(points))):
        fit = fitted(model, trusting(observation, confidence), camera)
        shape = model.vertices(fit.identity.float(), silence)[face_vertices(model)]
        errors.append(float(aligned_errors_mm(shape, true, with_scale=True).mean()))
    assert errors[0] < 0.5 < 1.0 < errors[1], errors


def test_a_fit_that_misses_its_parts_or_landmarks_is_poor(model: MorphableModel) -> None:
    observation = seen(model, FRONT)
    good = fitted(model, observation, FRONT)
    assert good.status == "ok" and good.mistrust == ()

    # eyes, brows and lips where nobody has them
    moved = np.where(np.isin(observation.parts, PRDL_PARTS[:-1]), np.roll(observation.parts, 90, 0), observation.parts)
    odd = fitted(model, replace(observation, parts=moved.astype(np.uint8)), FRONT)
    assert odd.status == "poor" and any("overlap" in reason for reason in odd.mistrust)
    assert set(odd.mistrust) <= set(odd.warnings)

    points = np.random.default_rng(0).permutation(observation.landmarks.points_px)
    noise = fitted(model, replace(observation, landmarks=replace(observation.landmarks, points_px=points)), FRONT)
    assert noise.status == "poor" and any("landmarks miss" in reason for reason in noise.mistrust)


def test_a_label_image_without_parts_is_told(model: MorphableModel) -> None:
    observation = seen(model, FRONT)
    empty = fitted(model, replace(observation, parts=np.zeros_like(observation.parts)), FRONT)
    assert any("no eye, brow, nose or lip is labelled" in warning for warning in empty.warnings)
    assert not any("labelled" in warning for warning in fitted(model, observation, FRONT).warnings)
