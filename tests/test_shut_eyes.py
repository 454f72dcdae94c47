"""Eyes that a photo shows shut: which those are, and that their lids meet in the fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d import labels
from fit3d.camera import Crop
from fit3d.config import FitConfig
from fit3d.landmarks import LID_LANDMARKS
from fit3d.morphable.registry import load_model
from fit3d.observe.base import Backend, Landmarks, Observation
from fit3d.solve.adam import differentiable_energy
from fit3d.solve.fit import Face, FaceBatch, fit_observations, prepare
from fit3d.solve.objective import lid_gaps
from fit3d.targets import LIDS_SEEN, SHUT_AREA, SHUT_GAP, shut_eyes
from synthetic import synthetic_camera, synthetic_model
from test_solver import look, truth

SIZE, WIDTH = 224, 40.0
CROP = Crop(0.0, 0.0, float(SIZE), SIZE)
SEEN = Backend("test", "1")


def two_eyes(right_gap: float, left_gap: float, trust: float | None = 1.0) -> Observation:
    """Two level eyes of WIDTH on bare skin, opened by shares of it."""
    points = np.full((478, 2), 112.0)
    for lids, x, gap in zip(LID_LANDMARKS["mediapipe478"], (50.0, 130.0), (right_gap, left_gap), strict=True):
        for rows, side in zip(lids, (-0.5, 0.5), strict=True):
            points[list(rows), 0] = np.linspace(x, x + WIDTH, len(rows))
            points[list(rows), 1] = 100.5
            points[list(rows[1:-1]), 1] += side * gap * WIDTH
    told = None if trust is None else np.full(478, trust)
    parts = np.full((SIZE, SIZE), labels.SKIN, np.uint8)
    return Observation(Landmarks("mediapipe478", points, SEEN, told), parts, SEEN)


def found(observation: Observation) -> list[bool]:
    return [bool(each) for each in shut_eyes(observation, CROP, observation.parts)]


def test_an_eye_without_pixels_is_shut_where_its_lids_are_seen_to_meet() -> None:
    assert found(two_eyes(0.9 * SHUT_GAP, 1.1 * SHUT_GAP)) == [True, False]
    assert found(two_eyes(1.1 * SHUT_GAP, 0.0)) == [False, True]
    assert found(two_eyes(0.0, 0.0, LIDS_SEEN + 0.01)) == [True, True]


def test_an_eye_that_nobody_sees_is_not_shut() -> None:
    """Lids that a detector guesses, or does not tell whether it guesses, that are missing or lie behind something."""
    assert found(two_eyes(0.0, 0.0, LIDS_SEEN - 0.01)) == [False, False]
    assert found(two_eyes(0.0, 0.0, None)) == [False, False]
    missing = two_eyes(0.0, 0.0)
    missing.landmarks.points_px[LID_LANDMARKS["mediapipe478"][1][0][3]] = np.nan
    assert found(missing) == [True, False]
    for label in (labels.HAIR, labels.OTHER, labels.BACKGROUND):
        covered = two_eyes(0.0, 0.0)
        covered.parts[:, 80:] = label
        assert found(covered) == [False, False]
        covered.parts[:, :120] = labels.SKIN
        assert found(covered) == [True, False]


def test_an_eye_that_the_parser_sees_is_not_shut() -> None:
    rows = int(SHUT_AREA * WIDTH)
    for height, shut in ((rows, True), (rows + 1, False)):
        seen = two_eyes(0.0, 0.0)
        seen.parts[100 : 100 + height, 50 : 50 + int(WIDTH)] = labels.RIGHT_EYE
        assert found(seen) == [shut, True]


def shut_batch() -> FaceBatch:
    """Two faces; the first shows its right eye shut, the second its left."""
    model, faces = synthetic_model(), []
    for seed, winking in enumerate(("Right", "Left")):
        camera = synthetic_camera(yaw_deg=10.0 * seed)
        seen = look(model, camera, truth(model, camera, seed, **{f"eyeBlink{winking}": 1.0}))
        seen = replace(seen, landmarks=replace(seen.landmarks, confidence=np.ones(478)))
        faces.append(Face(seen, camera.width, camera.height, camera.focal_px))
    return prepare(model, faces, FitConfig(loss="prdl", anchors=8))


def test_parts_of_shut_eyes_have_no_weight_and_their_lids_have() -> None:
    batch = shut_batch()
    weight = batch.config.parts.shut_weight
    assert batch.objective.targets.shut.tolist() == [[weight, 0.0], [0.0, weight]]
    assert batch.objective.targets.part_weights[:, :2].bool().tolist() == [[False, True], [True, False]]


def test_energy_and_quadratic_of_shut_eyes_equal_the_formula() -> None:
    """Of the second face: weight times the mean square of the opening, and its derivatives by autograd."""
    batch = shut_batch()
    without = replace(
        batch.objective,
        targets=replace(batch.objective.targets, shut=torch.zeros(2, 2)),
    )
    at, photos = batch.start, torch.arange(2)
    (ours, free) = (each.evaluate(at) for each in (batch.objective, without))
    step = torch.zeros(batch.objective.geometry.parameter_count)
    one = torch.tensor([1])

    def opening(step: Tensor) -> Tensor:
        gaps = lid_gaps(batch.objective.geometry, at.take(one).moved(step[None]))
        return gaps.px[0, 1].flatten()

    r, slope = opening(step), torch.autograd.functional.jacobian(opening, step)
    share = batch.config.parts.shut_weight / (len(r) // 2)
    assert float(r.abs().max()) > 1.0
    grown = ours.terms["landmarks"] - free.terms["landmarks"]
    torch.testing.assert_close(float(grown[1]), share * float(r.square().sum()), rtol=1e-4, atol=0.0)
    model = batch.objective.quadratic(ours, photos).take(one)
    plain = without.quadratic(free, photos).take(one)
    for difference, formula in (
        (model.gradient - plain.gradient, share * slope.T @ r),
        (model.hessian - plain.hessian, share * slope.T @ slope),
    ):
        scale = float(formula.abs().max())
        torch.testing.assert_close(difference[0] / scale, formula.double() / scale, rtol=0.0, atol=1e-4)
    reference = [
        float(differentiable_energy(each.take(one), at.take(one), step[None])) for each in (batch.objective, without)
    ]
    assert reference[0] - reference[1] == pytest.approx(float(grown[1]), rel=1e-3)


def test_a_face_is_fitted_alike_in_company_of_one_with_shut_eyes() -> None:
    model, camera = synthetic_model(), synthetic_camera()
    config, faces = FitConfig(loss="prdl", anchors=8), []
    for blink in (0.0, 1.0):
        seen = look(model, camera, truth(model, camera, eyeBlinkRight=blink, eyeBlinkLeft=blink))
        seen = replace(seen, landmarks=replace(seen.landmarks, confidence=np.ones(478)))
        faces.append(Face(seen, camera.width, camera.height, camera.focal_px))
    together = fit_observations(model, faces, config)
    for face, fit in zip(faces, together, strict=True):
        (alone,) = fit_observations(model, [face], config)
        assert torch.equal(alone.identity, fit.identity) and torch.equal(alone.expression, fit.expression)


def test_lids_meet_where_the_photo_shows_them_meet() -> None:
    """The bundled head, its lids as far apart as detectors keep those of shut eyes."""
    model, camera = load_model("anny"), synthetic_camera()
    seen = look(model, camera, truth(model, camera, eyeBlinkRight=0.5, eyeBlinkLeft=0.5))
    parts = seen.parts.copy()
    parts[np.isin(parts, (labels.RIGHT_EYE, labels.LEFT_EYE))] = labels.SKIN
    lids = seen.landmarks.points_px.copy()
    for upper, lower in LID_LANDMARKS["mediapipe478"]:
        middle = (lids[list(upper)] + lids[list(lower)]) / 2.0
        for rows in (upper, lower):
            lids[list(rows)] = middle + 0.15 * (lids[list(rows)] - middle)
    shown = []
    for told in (np.ones(478), None):
        landmarks = replace(seen.landmarks, points_px=lids, confidence=told)
        face = Face(replace(seen, landmarks=landmarks, parts=parts), camera.width, camera.height, camera.focal_px)
        (fit,) = fit_observations(model, [face], FitConfig())
        shown.append(int(np.isin(fit.parts, (labels.RIGHT_EYE, labels.LEFT_EYE)).sum()))
    assert shown[0] < 0.25 * shown[1]
