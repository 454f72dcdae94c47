"""A model with joints: its geometry, its linearisations, its store, and fits that find the turns of jaw and eyes."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pygltflib import GLTF2
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor

from fit3d.annotate.annotate import unannotated
from fit3d.camera import Camera
from fit3d.config import FitConfig, LandmarkConfig, Loss, PriorConfig
from fit3d.errors import ModelFileError
from fit3d.evaluate.geometry import KnownHead, observe_known
from fit3d.export.glb import pieces, write_glb
from fit3d.morphable.articulation import ARRAYS, Articulation
from fit3d.morphable.flame import JAW, JOINTS, LEFT_EYE, NECK, RIGHT_EYE, TURNS
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.raw import RawModel
from fit3d.morphable.store import read_stored, store_model
from fit3d.observe.base import Observation
from fit3d.solve.fit import fit_observation
from fit3d.transfer.person import similarity_between
from synthetic import synthetic_camera, synthetic_identity, synthetic_model


@functools.lru_cache(maxsize=1)
def turning_model() -> MorphableModel:
    """The synthetic head with FLAME's joints: its jaw, eyeballs and neck turn, its lips bend with the jaw."""
    plain = synthetic_model()
    mean = plain.mean.double().numpy()
    ball = {LEFT_EYE: "left_eyeball", RIGHT_EYE: "right_eyeball"}
    ids = {
        joint: np.unique(faces[faces >= 0])
        for joint, name in ball.items()
        for faces in [plain.faces[plain.face_objects == plain.objects.index(name)]]
    }
    opened = plain.expression_names.index("jawOpen")
    jaw = -plain.expression[opened, :, 1].double().numpy()
    weights = np.zeros((len(mean), 5))
    weights[:, JAW] = jaw / jaw.max()
    weights[:, 0] = 1.0 / (1.0 + np.exp((mean[:, 1] + 0.13) / 0.008))
    weights[:, 0] = np.minimum(weights[:, 0], 1.0 - weights[:, JAW])
    weights[:, NECK] = 1.0 - weights.sum(1)
    regressor = np.zeros((5, len(mean)))
    for joint, place in ((0, (0.0, -0.16, -0.07)), (NECK, (0.0, -0.12, -0.07)), (JAW, (0.0, -0.015, -0.09))):
        regressor[joint] = np.exp(-(((mean - place) / 0.04) ** 2).sum(1))
    for joint, own in ids.items():
        weights[own] = np.eye(5)[joint]
        regressor[joint, own] = 1.0
    regressor /= regressor.sum(1, keepdims=True)
    random = np.random.default_rng(3)
    correctives = 0.006 * random.normal(size=(36, 1, 3)) * weights[:, JAW, None]
    correctives[18:] = 0.0  # of the eyes
    kept = [index for index in range(len(plain.expression_names)) if index != opened]
    names = (*TURNS, *(plain.expression_names[index] for index in kept))
    vectors = np.array([*(vector for _, vector in TURNS.values()), *np.zeros((len(kept), 3))])
    held = tuple(name for name, (joint, _) in TURNS.items() if joint == NECK)
    articulation = Articulation(
        joints=JOINTS,
        parents=(-1, 0, 1, 1, 1),
        held=held,
        rest=torch.from_numpy(regressor @ mean),
        joints_from_vertices=torch.from_numpy(regressor),
        weights=torch.from_numpy(weights),
        correctives=torch.from_numpy(correctives),
        turn_joint=torch.tensor([*(joint for joint, _ in TURNS.values()), *[-1] * len(kept)]),
        turn_vector=torch.from_numpy(vectors),
    ).to(torch.float32)
    model = replace(
        plain,
        expression=torch.cat([torch.zeros(len(TURNS), *plain.mean.shape), plain.expression[kept]]),
        expression_names=names,
        expression_bounds=torch.tensor([[-1.0 if name in held else 0.0, 1.0] for name in names]),
        articulation=articulation,
    )
    return replace(model, expression=model.morphing(model.mean).expression)


def coefficients(model: MorphableModel, **amounts: float) -> Tensor:
    """(L,) float64."""
    expression = torch.zeros(len(model.expression_names), dtype=torch.float64)
    for name, amount in amounts.items():
        expression[model.expression_names.index(name)] = amount
    return expression


def error_mm(found: Tensor, true: Tensor) -> float:
    """Largest distance of two heads (N, 3), metres, in the world frame."""
    return 1000.0 * float((found - true).norm(dim=1).max())


def somewhere(model: MorphableModel, seed: int) -> tuple[Tensor, Tensor]:
    """Identity and expression, every coefficient drawn; the two turns of a joint do not lie in one line."""
    generator = torch.Generator().manual_seed(seed)
    expression = torch.rand(len(model.expression_names), generator=generator, dtype=torch.float64)
    return synthetic_identity(model, seed), expression


@pytest.mark.parametrize("seed", [0, 1])
def test_a_linearisation_has_the_models_value_and_slopes(seed: int) -> None:
    model = turning_model()
    identity, expression = somewhere(model, seed)
    linear = model.linear_at(identity, expression)
    assert linear.articulation is None
    assert torch.allclose(linear.vertices(identity, expression), model.vertices(identity, expression), atol=1e-15)
    for index in range(len(identity)):
        along = torch.zeros_like(identity)
        along[index] = 1e-6
        before, after = (model.vertices(identity + sign * along, expression) for sign in (-1.0, 1.0))
        assert torch.allclose(linear.identity[index], (after - before) / 2e-6, atol=1e-9)
    for index in range(len(expression)):
        along = torch.zeros_like(expression)
        along[index] = 1e-6
        before, after = (model.vertices(identity, expression + sign * along) for sign in (-1.0, 1.0))
        assert torch.allclose(linear.expression[index], (after - before) / 2e-6, atol=1e-9)


@pytest.mark.parametrize("at_rest", [False, True])
def test_slopes_are_those_of_automatic_differentiation(at_rest: bool) -> None:
    """At rest too, where an angle divided by itself would be no number."""
    model = turning_model()
    identity, expression = somewhere(model, 2)
    expression = expression * (0.0 if at_rest else 1.0)
    some = torch.arange(0, len(model.mean), 37)
    by_identity, by_expression = torch.autograd.functional.jacobian(
        lambda *at: model.vertices(*at)[some], (identity, expression)
    )
    linear = model.linear_at(identity, expression)
    assert torch.allclose(linear.identity[:, some], by_identity.permute(2, 0, 1), atol=1e-14)
    assert torch.allclose(linear.expression[:, some], by_expression.permute(2, 0, 1), atol=1e-14)


def test_the_error_of_a_linearisation_falls_with_the_square_of_the_step() -> None:
    model = turning_model()
    identity, expression = somewhere(model, 3)
    linear, along = model.linear_at(identity, expression), coefficients(model, jawOpen=1.0, eyeLookOutLeft=-1.0)
    errors = [
        error_mm(linear.vertices(identity, at), model.vertices(identity, at))
        for at in (expression + 0.1 * along, expression + 0.05 * along)
    ]
    assert errors[0] > 0.01 and errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


def test_leading_axes_are_batch_axes() -> None:
    model = turning_model()
    heads = [somewhere(model, seed) for seed in range(4)]
    identity, expression = (torch.stack(rows).unflatten(0, (2, 2)) for rows in zip(*heads, strict=True))
    found = model.vertices(identity, expression)
    assert found.shape == (2, 2, *model.mean.shape)
    for place, head in zip(found.flatten(0, 1), heads, strict=True):
        assert torch.allclose(place, model.vertices(*head), atol=1e-15)
    shared = model.vertices(identity[0, 0], expression[0])
    assert torch.allclose(shared[1], model.vertices(identity[0, 0], expression[0, 1]), atol=1e-15)


def test_without_turns_a_model_with_joints_is_linear() -> None:
    model = turning_model()
    identity, expression = somewhere(model, 4)
    assert model.articulation is not None
    expression = torch.where(model.articulation.is_turn, 0.0, expression)
    plain = replace(model, articulation=None)
    assert error_mm(model.vertices(identity, expression), plain.vertices(identity, expression)) < 1e-4


def test_an_eyeball_turns_rigidly_about_its_own_centre() -> None:
    """Of this person's head, whose eyes lie elsewhere than the mean head's."""
    model = turning_model()
    identity = synthetic_identity(model, 5, 1.5)
    ball = model.faces[model.face_objects == model.objects.index("left_eyeball")]
    ids = np.unique(ball[ball >= 0])
    still = model.vertices(identity, coefficients(model))[ids]
    turned = model.vertices(identity, coefficients(model, eyeLookUpLeft=1.0))[ids]
    centre, degrees = still.mean(0), -math.radians(30.0)
    R = torch.tensor(
        [[1, 0, 0], [0, math.cos(degrees), -math.sin(degrees)], [0, math.sin(degrees), math.cos(degrees)]]
    ).double()
    assert float((centre - model.mean[ids].double().mean(0)).norm()) > 1e-3
    assert error_mm(turned, (still - centre) @ R.T + centre) < 1e-4
    others = np.setdiff1d(np.arange(len(model.mean)), ids)
    whole = [model.vertices(identity, coefficients(model, eyeLookUpLeft=amount))[others] for amount in (0.0, 1.0)]
    assert whole[0].equal(whole[1])


def test_a_fit_leaves_the_neck_as_it_is() -> None:
    model = turning_model()
    expression = coefficients(model, neckYaw=0.3, jawOpen=0.5)
    linear = model.linear_at(synthetic_identity(model), expression)
    for name, (low, high) in zip(model.expression_names, linear.expression_bounds.tolist(), strict=True):
        if name.startswith("neck"):
            assert low == high == pytest.approx(0.3 if name == "neckYaw" else 0.0)
        else:
            assert (low, high) == (0.0, 1.0)
    assert model.expression_bounds[model.expression_names.index("neckYaw")].tolist() == [-1.0, 1.0]


def test_morph_targets_move_this_person_as_the_model_does() -> None:
    model = turning_model()
    identity = synthetic_identity(model, 6, 1.5)
    neutral = model.vertices(identity, coefficients(model))
    morphing = model.morphing(neutral)
    assert morphing.articulation is None
    for index, name in enumerate(model.expression_names):
        moved = model.vertices(identity, coefficients(model, **{name: 1.0})) - neutral
        assert error_mm(morphing.expression[index].double(), moved) < 1e-4
    # the mean head's turns would be off by more
    jaw = model.expression_names.index("jawOpen")
    assert error_mm(morphing.expression[jaw], model.expression[jaw]) > 0.2


def test_a_glb_opens_the_mouth_of_this_person(tmp_path: Path) -> None:
    model = turning_model()
    neutral = model.vertices(synthetic_identity(model, 6, 1.5), coefficients(model))
    expected = model.morphing(neutral.float()).expression
    write_glb(
        tmp_path / "head.glb", neutral, coefficients(model, jawOpen=0.5), model, np.full((8, 8, 3), 128, np.uint8)
    )
    gltf = GLTF2.load(str(tmp_path / "head.glb"))
    (mesh,) = [mesh for mesh in gltf.meshes if mesh.name == "head"]
    place = mesh.extras["targetNames"].index("jawOpen")
    accessor = gltf.accessors[mesh.primitives[0].targets[place]["POSITION"]]
    (piece,) = [piece for piece in pieces(model) if piece.name == "head"]
    offset = expected[model.expression_names.index("jawOpen")][piece.vertex].numpy()
    assert mesh.weights[place] == 0.5
    assert np.allclose(accessor.min, offset.min(0), atol=1e-5) and np.allclose(accessor.max, offset.max(0), atol=1e-5)


def raw_of(model: MorphableModel) -> RawModel:
    return RawModel(
        **{key: getattr(model, key) for key in ("name", "version", "licence", "source")},
        **{key: getattr(model, key).numpy() for key in ("mean", "identity", "expression", "expression_bounds")},
        **{key: getattr(model, key) for key in ("expression_names", "faces", "uv", "uv_faces", "objects")},
        face_objects=model.face_objects,
        articulation=model.articulation,
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIT3D_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_joints_are_stored_and_come_back(home: Path) -> None:
    model = turning_model()
    stored = store_model("turning", raw_of(model))
    assert stored.joints == JOINTS
    found, true = read_stored("turning").articulation, model.articulation
    assert found is not None and true is not None
    assert (found.joints, found.parents, found.held) == (true.joints, true.parents, true.held)
    for name in ARRAYS:
        one, other = getattr(found, name), getattr(true, name)
        assert one.dtype == other.dtype and one.equal(other)
    identity, expression = somewhere(model, 7)
    assert (
        unannotated(read_stored("turning")).vertices(identity, expression).equal(model.vertices(identity, expression))
    )


def test_a_model_stored_without_joints_is_linear(home: Path) -> None:
    stored = store_model("plain", replace(raw_of(turning_model()), articulation=None))
    assert stored.joints == ()
    assert read_stored("plain").articulation is None
    assert not any("articulation" in key for key in load_file(stored.path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.zeros(7, 5)}, "weights has shape"),
        ({"rest": torch.full((5, 3), torch.nan)}, "rest holds numbers that are not finite"),
        ({"rest": torch.zeros(5, 3).double()}, "rest holds torch.float64"),
        ({"turn_joint": torch.full((19,), 5)}, "turn joints outside 1 ... 4"),
        ({"turn_joint": torch.zeros(19, dtype=torch.int64)}, "turn joints outside 1 ... 4"),
        ({"parents": (-1, 0, 3, 1, 1)}, "each must come before its children"),
        ({"parents": (0, 0, 1, 1, 1)}, "have the parents"),
        ({"parents": (-1, 0)}, "have the parents"),
        ({"held": ("neckPitch", "tailWag")}, "no expression tailWag"),
    ],
)
def test_joints_that_do_not_fit_the_model(change: dict[str, Any], message: str, home: Path) -> None:
    raw = raw_of(turning_model())
    assert raw.articulation is not None
    with pytest.raises(ModelFileError, match=message):
        replace(raw, articulation=replace(raw.articulation, **change))


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '{"joints": ["root"], "parents": [-1]}',
        '{"joints": ["root"], "parents": ["-1"], "held": []}',
        '{"joints": ["root"], "parents": [-1], "held": []}',
    ],
)
def test_damaged_joints_in_the_store(text: str, home: Path) -> None:
    path = store_model("turning", raw_of(turning_model())).path
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, {**metadata, "articulation": text})
    with pytest.raises(ModelFileError, match=r"turning.*not a usable face model"):
        read_stored("turning")


def exactly_known(loss: Loss) -> FitConfig:
    """For landmarks without error: they outweigh what is believed of faces beforehand."""
    landmarks = LandmarkConfig(noise_px=0.005, contour_noise_px=0.05, effective_count=478.0)
    prior = PriorConfig(
        identity_limit=2.0, expression_sparsity=0.01, expression_sd=2.0, rare_expression_sd=2.0, asymmetry_sd=2.0
    )
    return FitConfig(loss=loss, landmarks=landmarks, prior=prior)


def seen_by_perfect_detectors(
    model: MorphableModel, identity: Tensor, expression: Tensor, camera: Camera, config: FitConfig
) -> Observation:
    """The head of these coefficients (K,) and (L,), exactly."""
    head = KnownHead(identity.float(), expression.float(), camera)
    exact = model.linear_at(head.identity, head.expression)
    return observe_known(exact, head, "mediapipe478", 0.0, np.random.default_rng(0), config)


def turned_deg(model: MorphableModel, expression: Tensor, joint: int) -> np.ndarray:
    """(3,) rotation vector, degrees, of a joint."""
    joints = model.articulation
    assert joints is not None
    own = joints.turn_joint == joint
    return np.degrees((expression[own, None] * joints.turn_vector[own].double()).sum(0).numpy())


def as_large_as(true: Tensor, found: Tensor) -> Tensor:
    """A head (V, 3), moved, turned and scaled onto another."""
    return torch.from_numpy(similarity_between(found.numpy(), true.numpy()).of(found.numpy()))


@pytest.mark.parametrize("loss", ["landmarks", "prdl+icp"])
@pytest.mark.parametrize("seed", [0, 1])
def test_turned_jaw_and_eyes_are_recovered(seed: int, loss: Loss) -> None:
    model, camera, config = turning_model(), synthetic_camera(yaw_deg=12.0 - 30.0 * seed), exactly_known(loss)
    identity = synthetic_identity(model, seed)
    # the jaw 20 degrees open; the eyes 12 up and 15 to the person's left
    looks = {"eyeLookUpLeft": 0.4, "eyeLookUpRight": 0.4, "eyeLookOutLeft": 0.5, "eyeLookInRight": 0.5}
    true = coefficients(model, jawOpen=20.0 / 22.5, **looks)
    vertices = model.vertices(identity, true)
    observation = seen_by_perfect_detectors(model, identity, true, camera, config)

    fit = fit_observation(model, observation, camera.width, camera.height, camera.focal_px, config)
    for joint, degrees in ((JAW, [20.0, 0.0, 0.0]), (LEFT_EYE, [-12.0, 15.0, 0.0]), (RIGHT_EYE, [-12.0, 15.0, 0.0])):
        assert np.abs(turned_deg(model, fit.expression, joint) - degrees).max() < 0.5
    assert not turned_deg(model, fit.expression, NECK).any()
    found = model.vertices(fit.identity, fit.expression)
    assert error_mm(found, vertices) < 0.3
    assert error_mm(as_large_as(vertices, found), vertices) < 0.01  # size is known by perspective alone
    # what is told of the fit is told of the model itself, not of a linearisation
    assert fit.part_iou["mean"] > 0.999
    assert fit.landmark_nme < 1e-5

    chords = replace(model, articulation=None)
    linear = fit_observation(chords, observation, camera.width, camera.height, camera.focal_px, config)
    assert np.abs(turned_deg(model, linear.expression, JAW) - [20.0, 0.0, 0.0]).max() > 0.5
    found = chords.vertices(linear.identity, linear.expression)
    assert error_mm(found, vertices) > 3.0
    assert error_mm(as_large_as(vertices, found), vertices) > 1.0
