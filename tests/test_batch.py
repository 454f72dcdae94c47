"""Faces in one batch: each is fitted as if it were alone, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import fit3d.devices
from fit3d.config import FitConfig, FocalConfig, Loss
from fit3d.evaluate.geometry import KnownHead, observe_known
from fit3d.labels import HAIR, LEFT_EYE, NOSE, SKIN
from fit3d.morphable.model import MorphableModel
from fit3d.solve.fit import Face, fit_landmarks, fit_observations, prepare, refine_with_parts
from fit3d.solve.levenberg_marquardt import Outcome
from fit3d.solve.problem import Parameters
from fit3d.solve.quadratic import Quadratic
from fit3d.solve.result import Fit
from synthetic import synthetic_camera, synthetic_identity, synthetic_model

CONFIG = FitConfig(anchors=16, focal=FocalConfig(refine_sd=0.2))


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return synthetic_model()


@pytest.fixture(scope="module")
def faces(model: MorphableModel) -> list[Face]:
    """Near to the mean head and far from it, turned, with an eye shut, without a nose, without half of the landmarks,
    of another size, with a focal length to be found."""

    def seen(
        seed: int, yaw: float, scale: float, noise: float, focal_is_known: bool = True, **expression: float
    ) -> Face:
        camera = synthetic_camera(width=240 + 40 * seed, height=300, yaw_deg=yaw)
        values = torch.zeros(len(model.expression))
        for name, value in expression.items():
            values[model.expression_names.index(name)] = value
        head = KnownHead(synthetic_identity(model, seed, scale).float(), values, camera)
        observation = observe_known(model, head, "ibug68", noise, np.random.default_rng(seed), CONFIG)
        return Face(observation, camera.width, camera.height, camera.focal_px if focal_is_known else None)

    near = seen(0, 0.0, 0.0, 0.0)
    far = seen(1, 25.0, 1.5, 2.5, jawOpen=0.8)
    winking = seen(2, -15.0, 0.7, 1.0, focal_is_known=False, eyeBlinkLeft=1.0)
    hidden = relabelled(seen(3, 10.0, 0.7, 1.0), NOSE, HAIR)
    points = hidden.observation.landmarks.points_px.copy()
    points[::2] = np.nan
    landmarks = replace(hidden.observation.landmarks, points_px=points)
    thin = replace(hidden, observation=replace(hidden.observation, landmarks=landmarks))
    return [near, far, winking, hidden, thin]


def relabelled(face: Face, label: int, to: int) -> Face:
    parts = face.observation.parts.copy()
    assert (parts == label).any()
    parts[parts == label] = to
    return replace(face, observation=replace(face.observation, parts=parts))


def check_same_bits(one: Fit, two: Fit) -> None:
    """Everything that a fit returns."""
    for name in (each.name for each in fields(Fit)):
        a, b = getattr(one, name), getattr(two, name)
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b), name
        elif isinstance(a, np.ndarray):
            assert np.array_equal(a, b), name
        elif name == "camera":
            assert torch.equal(a.cam_from_world, b.cam_from_world)
            assert (a.width, a.height, a.focal_px, a.principal_px) == (b.width, b.height, b.focal_px, b.principal_px)
        else:
            assert a == b, name


@pytest.fixture(scope="module")
def alone(model: MorphableModel, faces: list[Face]) -> list[Fit]:
    return [fit_observations(model, [face], CONFIG)[0] for face in faces]


COMPANIES = [
    *([0, 1], [1, 0], [2, 1], [3, 4], [4, 2], [0, 3]),
    *([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]),
    *([1, 1, 1], [2, 3] * 4),
]


@pytest.mark.parametrize("company", COMPANIES, ids=str)
def test_a_face_is_fitted_as_if_alone(
    model: MorphableModel, faces: list[Face], alone: list[Fit], company: list[int]
) -> None:
    together = fit_observations(model, [faces[index] for index in company], CONFIG)
    assert len(together) == len(company)
    for index, fit in zip(company, together, strict=True):
        check_same_bits(fit, alone[index])


def test_the_faces_have_different_ways_to_go(alone: list[Fit]) -> None:
    """Otherwise the test above would say little."""
    assert len({fit.iterations for fit in alone}) >= 3
    assert len({tuple(sorted(fit.part_iou)) for fit in alone}) >= 2
    assert all(fit.part_iou["mean"] > 0.85 for fit in alone)
    assert all(sum(fit.energy_end.values()) <= sum(fit.energy_start.values()) for fit in alone)


@pytest.mark.parametrize("loss", ["landmarks", "prdl"])
def test_stages_are_those_of_each_face(model: MorphableModel, faces: list[Face], loss: str) -> None:
    """Start, parameters, energies, steps, evaluations and stop reasons of both stages."""
    config = replace(CONFIG, loss=loss)

    def stages(some: Sequence[Face]) -> tuple[Parameters, list[Outcome[Parameters]]]:
        batch = prepare(model, some, config)
        outcomes = [fit_landmarks(batch)]
        if loss == "prdl":
            outcomes.append(refine_with_parts(batch, outcomes[0].at))
        return batch.start, outcomes

    start, together = stages(faces)
    assert len(set(together[-1].evaluations.tolist())) >= 2
    for index, face in enumerate(faces):
        here = torch.tensor([index])
        begun, ones = stages([face])
        check_same_rows(start.take(here), begun)
        for many, one in zip(together, ones, strict=True):
            check_same_rows(many.at.take(here), one.at)
            assert many.stop_reasons[index] == one.stop_reasons[0]
            for name in ("steps", "evaluations", "energy_start", "energy_end"):
                assert torch.equal(getattr(many, name)[here], getattr(one, name)), name
            assert many.terms_end.keys() == one.terms_end.keys()
            for name in one.terms_end:
                assert torch.equal(many.terms_start[name][here], one.terms_start[name])
                assert torch.equal(many.terms_end[name][here], one.terms_end[name])


def test_a_part_only_the_model_shows_is_left_alone(model: MorphableModel, faces: list[Face]) -> None:
    """A face without an eye in its labels, beside one with both."""
    blind = relabelled(faces[1], LEFT_EYE, SKIN)
    pair = fit_observations(model, [blind, faces[1]], CONFIG)
    check_same_bits(pair[0], fit_observations(model, [blind], CONFIG)[0])
    assert "left_eye" not in pair[0].part_iou and "left_eye" in pair[1].part_iou
    assert not torch.equal(pair[0].identity, pair[1].identity)


def check_same_rows(one: Parameters, two: Parameters) -> None:
    for each in fields(Parameters):
        assert torch.equal(getattr(one, each.name), getattr(two, each.name)), each.name


def some_parameters(count: int, seed: int) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(5,), (3, 3), (3,), (), (), (2,)]
    return Parameters(*(torch.randn(count, *shape, generator=generator) for shape in shapes))


def test_take_and_with_rows() -> None:
    """Any rows in any order; what is put back where it was taken from changes nothing; the source stays as it was."""
    whole, other = some_parameters(4, 0), some_parameters(2, 1)
    before = some_parameters(4, 0)
    photos = torch.tensor([3, 1])
    taken = whole.take(photos)
    assert len(whole) == 4 and len(taken) == 2
    mixed = whole.with_rows(photos, other)
    for each in fields(Parameters):
        values, new, put = (getattr(p, each.name) for p in (whole, other, mixed))
        assert torch.equal(getattr(taken, each.name), torch.stack([values[3], values[1]]))
        assert torch.equal(put, torch.stack([values[0], new[1], values[2], new[0]]))
    check_same_rows(whole, before)
    check_same_rows(whole.with_rows(photos, taken), whole)
    check_same_rows(mixed.take(photos), other)
    check_same_rows(Parameters.stack([whole.take(one) for one in torch.arange(4).split(1)]), whole)
    nobody = torch.zeros(0, dtype=torch.int64)
    assert len(whole.take(nobody)) == 0
    check_same_rows(whole.with_rows(nobody, whole.take(nobody)), whole)


def test_moves_of_one_face_move_no_other() -> None:
    whole = some_parameters(3, 2)
    step = torch.randn(3, 12, generator=torch.Generator().manual_seed(3))
    moved = whole.moved(step)
    for one in torch.arange(3).split(1):
        check_same_rows(moved.take(one), whole.take(one).moved(step[one]))
    check_same_rows(whole.moved(torch.zeros(3, 12)), whole)


def test_rows_of_quadratics() -> None:
    generator = torch.Generator().manual_seed(4)
    whole, other = (
        Quadratic(torch.randn(n, 3, generator=generator), torch.randn(n, 3, 3, generator=generator)) for n in (4, 2)
    )
    photos = torch.tensor([2, 0])
    mixed = whole.with_rows(photos, other)
    for name in ("gradient", "hessian"):
        values, new, put = (getattr(q, name) for q in (whole, other, mixed))
        assert torch.equal(put, torch.stack([new[1], values[1], new[0], values[3]]))
        assert torch.equal(getattr(whole.take(photos), name), values[[2, 0]])


def test_points_of_a_face_count_for_no_other() -> None:
    """Sums over ragged runs of points, also of faces without any, are those of each face; both against the formula."""
    generator = torch.Generator().manual_seed(5)
    counts = [0, 7, 1, 0, 30, 0]
    photo = torch.arange(6).repeat_interleave(torch.tensor(counts))
    rows = torch.randn(38, 2, 4, generator=generator, dtype=torch.float64)
    pull = torch.randn(38, 2, generator=generator, dtype=torch.float64)
    stiffness = torch.rand(38, 3, generator=generator, dtype=torch.float64)
    found = Quadratic.from_points(photo, rows, pull, stiffness, 6)
    assert found.gradient.shape == (6, 4) and found.hessian.shape == (6, 4, 4)
    xx, xy, yy = stiffness.unbind(1)
    matrix = torch.stack([torch.stack([xx, xy], 1), torch.stack([xy, yy], 1)], 1)
    for face, count in enumerate(counts):
        own = photo == face
        assert int(own.sum()) == count
        gradient = torch.einsum("nip,ni->p", rows[own], pull[own])
        hessian = torch.einsum("nip,nij,njq->pq", rows[own], matrix[own], rows[own])
        torch.testing.assert_close(found.gradient[face], gradient)
        torch.testing.assert_close(found.hessian[face], hessian)
        alone = Quadratic.from_points(torch.zeros(count, dtype=torch.int64), rows[own], pull[own], stiffness[own], 1)
        assert torch.equal(alone.gradient[0], found.gradient[face])
        assert torch.equal(alone.hessian[0], found.hessian[face])


@pytest.mark.parametrize(("loss", "pulls_apart"), [("prdl", 0.01), ("prdl+icp", 0.3)])
def test_the_program_for_accelerators_comes_to_the_same(
    model: MorphableModel, faces: list[Face], loss: Loss, pulls_apart: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run on a CPU: energies, gradients and curvatures of all faces agree with those of the CPU's way."""
    config = replace(CONFIG, loss=loss)

    def evaluated() -> tuple[torch.Tensor, Quadratic]:
        batch = prepare(model, faces, config)
        seen = batch.objective.evaluate(batch.start)
        return seen.energy, batch.objective.quadratic(seen, torch.arange(len(faces)))

    energy, expected = evaluated()
    monkeypatch.setattr(fit3d.devices, "on_cpu", lambda tensor: False)
    other_energy, found = evaluated()
    torch.testing.assert_close(other_energy, energy, rtol=1e-5, atol=0)
    # of equally near pixels either way may take another, which pulls to another side: between outlines a pixel or two
    # apart often
    for one, two, apart in ((found.gradient, expected.gradient, pulls_apart), (found.hessian, expected.hessian, 0.03)):
        for face in range(len(faces)):
            assert float((one[face] - two[face]).norm()) < apart * float(two[face].norm())
