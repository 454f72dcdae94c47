"""ARKit's shapes made of expressions that have other meanings: found, kept beside the model, offered in the GLB."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d.annotate import arkit, register
from fit3d.annotate.annotate import unannotated
from fit3d.annotate.arkit import combinations
from fit3d.annotate.mesh import Mesh
from fit3d.annotate.register import Registration, outside_of
from fit3d.commands.app import main
from fit3d.commands.arkit import models_arkit_command
from fit3d.errors import ModelFileError, UsageError
from fit3d.export.glb import morph_targets
from fit3d.morphable.arkit import MOST_RESIDUAL, Combination, arkit_shapes, near_enough, read_combinations
from fit3d.morphable.flame import read_flame
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.raw import RawModel
from fit3d.morphable.registry import load_model
from fit3d.morphable.store import read_stored, store_model, stored_model
from fit3d.resources import asset_path
from model_files import flame as flame_arrays
from model_files import write_flame
from synthetic import synthetic_model
from test_annotate import facekit_raw
from test_glb import made

NAMED = 0.1
"""RMS of what may be wrong with a combination that could be exact, as a share of it."""


def components(model: MorphableModel, expression: Tensor, bound: float = 5.0) -> MorphableModel:
    """The model with expressions that have no meaning."""
    return replace(
        model,
        name="components",
        expression=expression,
        expression_names=tuple(f"expression_{index:02d}" for index in range(len(expression))),
        expression_bounds=torch.tensor([[-bound, bound]]).repeat(len(expression), 1),
    )


def mixed(expression: Tensor) -> tuple[Tensor, np.ndarray]:
    """Other expressions (L, V, 3) that span the same, and the coefficients (L, L) of the first ones in them."""
    count = len(expression)
    mixture = torch.linalg.qr(torch.randn(count, count, generator=torch.Generator().manual_seed(1)))[0]
    scale = torch.linspace(0.5, 2.0, count)
    turned = torch.einsum("kl,lvc->kvc", scale[:, None] * mixture, expression)
    return turned, (mixture.T / scale).double().numpy()


def on_itself(model: MorphableModel) -> Registration:
    return Registration(outside_of(model), 0.0)


def make_hasty(patch: pytest.MonkeyPatch) -> None:
    """Registrations come as near as with all iterations in these tests, in a sixth of the time."""
    patch.setattr(register, "PERSON_ITERATIONS", 6)
    patch.setattr(register, "STIFFNESS", tuple(np.geomspace(300.0, 0.3, 4)))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    make_hasty(monkeypatch)


# --- the coefficients -------------------------------------------------------------------------------------------------


def with_still_eyes(model: MorphableModel) -> MorphableModel:
    """The model's brow bends its eyeballs, which no linear map of them does."""
    expression = model.expression.clone()
    for ball in arkit._eyeballs(model).values():
        expression[:, torch.from_numpy(ball.used)] = 0.0
    return replace(model, expression=expression)


def test_a_mixture_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    source = with_still_eyes(synthetic_model())
    expression, wanted = mixed(source.expression)
    found = combinations(source, components(source, expression), on_itself(source))
    assert set(found) == set(source.expression_names)
    assert max(each.residual for each in found.values()) < 0.01
    monkeypatch.setattr(arkit, "EFFORT", 1e-5)
    monkeypatch.setattr(arkit, "NUDGE", 0.0)
    found = combinations(source, components(source, expression), on_itself(source))
    for name, each in found.items():
        index = source.expression_names.index(name)
        assert each.residual < 1e-3
        np.testing.assert_allclose(each.coefficients, wanted[index], atol=2e-3)


def test_size_and_residual_are_what_they_say() -> None:
    """Every point is to go up by 2 mm; the model moves it by 1 mm at most, and aside."""
    source = synthetic_model()
    up, aside = torch.zeros(2, *source.mean.shape)
    up[:, 1], aside[:, 0] = 0.002, 0.0015
    giver = replace(
        source,
        expression=up[None],
        expression_names=("browInnerUp",),
        expression_bounds=torch.tensor([[0.0, 1.0]]),
        objects=("head", "skin", "more_skin", "teeth"),
    )
    target = components(giver, torch.stack([up / 4.0, aside]), bound=2.0)
    (found,) = combinations(giver, target, on_itself(source)).values()
    assert found.size_mm == pytest.approx(2.0, rel=1e-4)
    assert found.coefficients == pytest.approx((2.0, 0.0), abs=1e-9)
    assert found.residual == pytest.approx(0.5, rel=1e-4)


def test_a_shape_out_of_reach_is_not_offered() -> None:
    source = synthetic_model()
    left, right = (source.expression_names.index(f"mouthSmile{side}") for side in ("Left", "Right"))
    both = source.expression[left] + source.expression[right]
    others = [index for index in range(len(source.expression)) if index not in (left, right)]
    found = combinations(
        source, components(source, torch.cat([source.expression[others], both[None]])), on_itself(source)
    )
    # half a smile on both sides leaves 1 / sqrt 2 of a smile of one side
    assert found["mouthSmileLeft"].coefficients[-1] == pytest.approx(0.5, abs=0.05)
    assert (
        found["mouthSmileLeft"].residual == pytest.approx(0.5**0.5, abs=0.02)
        and found["mouthSmileLeft"].residual > MOST_RESIDUAL
    )
    assert set(near_enough(found)) == {"eyeBlinkLeft", "eyeBlinkRight", "jawOpen", "browInnerUp"}


def test_own_names_stay_and_what_cannot_be_seen_is_not_tried() -> None:
    source = synthetic_model()
    jaw = source.expression_names.index("jawOpen")
    renamed = list(source.expression_names)
    renamed[0], renamed[1] = "tongueOut", "eyeLookUpLeft"
    giver = replace(source, expression_names=tuple(renamed))
    target = components(source, source.expression)
    names = list(target.expression_names)
    names[jaw] = "jawOpen"
    target = replace(target, expression_names=tuple(names))
    assert set(arkit.sought(giver, target)) == {*renamed[1:]} - {"jawOpen"}
    blind = replace(target, objects=("head", "patch", "other_patch", "teeth"))
    assert set(arkit.sought(giver, blind)) == {*renamed[2:]} - {"jawOpen"}
    stiff = replace(target, expression_bounds=torch.zeros_like(target.expression_bounds))
    assert not arkit.sought(giver, stiff) and not combinations(giver, stiff, on_itself(source))


def test_turns_that_a_fit_leaves_alone_take_no_part(tmp_path: Path) -> None:
    write_flame(tmp_path / "generic_model.pkl", flame_arrays(np.random.default_rng(0)))
    model = unannotated(read_flame(tmp_path / "generic_model.pkl", edition="2020"))
    left_out = {name for name, usable in zip(model.expression_names, arkit._usable(model), strict=True) if not usable}
    assert left_out and all(name.startswith("neck") for name in left_out)


def test_eyeballs_turn_about_their_own_middle() -> None:
    source = synthetic_model()
    (ball, *_) = arkit._eyeballs(source).values()
    turn = register.rotation_of(np.array([0.4, 0.2, 0.0]))
    middle = (ball.points[ball.used].min(0) + ball.points[ball.used].max(0)) / 2.0
    shape = np.zeros((1, *ball.points.shape))
    shape[0, ball.used] = (ball.points[ball.used] - middle) @ (turn.T - np.eye(3))
    other = Mesh(1.3 * ball.points + [0.01, 0.02, 0.03], ball.triangles)
    moved = arkit._eyeball_motion(ball, other, shape)[0]
    here = other.points[ball.used] - (1.3 * middle + [0.01, 0.02, 0.03])
    np.testing.assert_allclose(here + moved, here @ turn.T, atol=1e-9)


def test_motion_ends_where_the_other_head_has_its_end() -> None:
    """On a head with eyes a third taller the lid has a third further to go."""
    source = synthetic_model(3.0)
    outside = outside_of(source)
    place = outside.points.copy()
    place[:, 1] += 0.006 * np.tanh(place[:, 1] / 0.018)  # steepest between the lids
    blink = source.expression[source.expression_names.index("eyeBlinkLeft")].double().numpy()
    (moved,) = arkit._warped(source, Registration(Mesh(place, outside.triangles), 0.0), blink[None])
    inner = source.annotation.rims["left_eye"][0].numpy()[2:-2]
    end = outside.points[inner] + blink[inner]
    wanted = end[:, 1] + 0.006 * np.tanh(end[:, 1] / 0.018) - place[inner, 1]
    plain = np.abs(blink[inner, 1] - wanted).max()
    assert plain > 0.001
    assert np.abs(moved[inner, 1] - wanted).max() < 0.35 * plain


def test_another_topology(hasty: None) -> None:
    source, other = (with_still_eyes(synthetic_model(step_deg)) for step_deg in (3.0, 4.0))
    coefficients = torch.tensor([0.8, -0.6, 0.7, 0.5, -1.0, 0.6, 0.5, -0.8])
    mean = other.mean + torch.einsum("k,kvc->vc", coefficients, other.identity)
    expression, _ = mixed(other.expression)
    target = components(replace(other, mean=1.04 * mean), expression)
    found = combinations(source, target, register.register(source, target))
    for name, each in found.items():
        recovered = torch.einsum("l,lvc->vc", torch.tensor(each.coefficients).double(), expression.double())
        own = other.expression[other.expression_names.index(name)].double()
        assert float((recovered - own).norm() / own.norm()) < NAMED, name
        assert each.residual < NAMED, name


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIT3D_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def small_raw(**changes: Any) -> RawModel:
    rng = np.random.default_rng(0)
    names = ("jawOpen", "a", "b")
    return RawModel(
        **{
            **{"name": "small", "version": "1", "licence": "Free.", "source": "a test", "sha256": ""},
            "mean": rng.normal(size=(4, 3)).astype(np.float32),
            "identity": rng.normal(size=(1, 4, 3)).astype(np.float32),
            "expression": rng.normal(size=(3, 4, 3)).astype(np.float32),
            "expression_names": names,
            "expression_bounds": np.tile(np.array([-1.0, 1.0], np.float32), (3, 1)),
            "faces": np.array([[0, 1, 2, 3]], np.int32),
            "uv": np.zeros((0, 2), np.float32),
            "uv_faces": np.zeros((1, 4), np.int32),
            "objects": ("head",),
            "face_objects": np.zeros(1, np.uint8),
            **changes,
        }
    )


SOME = {"mouthFunnel": Combination((0.25, 0.0, -0.5), 1.5, 0.4), "browInnerUp": Combination((0.0, 1.0, 0.0), 2.0, 0.9)}


def test_there_and_back(home: Path) -> None:
    stored = store_model("small", small_raw())
    assert stored.arkit is None
    path = stored.path.parent / "arkit.json"
    arkit.write_combinations(path, stored, "giver", SOME)
    assert stored_model("small").arkit == path
    assert read_combinations(path, stored.sha256, stored.expression_names) == SOME
    assert list(read_combinations(path, stored.sha256, stored.expression_names)) == ["browInnerUp", "mouthFunnel"]
    assert near_enough(SOME) == {"mouthFunnel": SOME["mouthFunnel"]}
    before = path.read_bytes()
    arkit.write_combinations(path, stored, "giver", SOME)
    assert path.read_bytes() == before
    store_model("small", small_raw(version="2"), replace=True)
    assert stored_model("small").arkit is None  # they were another model's


def spoilt(content: dict[str, Any], kind: str) -> str:
    funnel = content["shapes"]["mouthFunnel"]
    if kind == "no JSON":
        return "{"
    if kind == "deep":
        return "[" * 100_000
    if kind == "large":
        return json.dumps(content) + " " * (4 * 1024 * 1024)
    if kind == "list":
        return "[1]"
    if kind == "schema":
        content["schema"] = 2
    elif kind == "another version":
        content["model_sha256"] = "0" * 64
    elif kind == "no shapes":
        del content["shapes"]
    elif kind == "own shape":
        content["shapes"]["jawOpen"] = funnel
    elif kind == "unknown shape":
        content["shapes"]["mouthFunny"] = funnel
    elif kind == "unknown expression":
        funnel["coefficients"]["c"] = 1.0
    elif kind == "no residual":
        del funnel["residual"]
    else:
        value = {"NaN": float("nan"), "text": "1", "huge": 1e9, "true": True}[kind]
        funnel["coefficients"]["a"] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    "kind",
    [
        *("no JSON", "deep", "large", "list", "schema", "another version", "no shapes", "own shape", "unknown shape"),
        *("unknown expression", "no residual", "NaN", "text", "huge", "true"),
    ],
)
def test_damaged_files_are_refused(home: Path, kind: str) -> None:
    stored = store_model("small", small_raw())
    path = stored.path.parent / "arkit.json"
    arkit.write_combinations(path, stored, "giver", SOME)
    path.write_text(spoilt(json.loads(path.read_text()), kind), encoding="utf-8")
    with pytest.raises(ModelFileError, match="fit3d models arkit"):
        read_combinations(path, stored.sha256, stored.expression_names)


# --- the GLB ----------------------------------------------------------------------------------------------------------


def test_combinations_are_offered_at_rest_with_their_residuals() -> None:
    plain = synthetic_model()
    count = len(plain.expression_names)
    coefficients = np.zeros((2, count))
    coefficients[0, :2], coefficients[1, 2] = (0.5, -0.25), 1.0
    model = replace(
        plain,
        arkit={
            "mouthFunnel": Combination(tuple(coefficients[0].tolist()), 1.0, 0.31239),
            "mouthClose": Combination(tuple(coefficients[1].tolist()), 1.0, 0.5),
        },
    )
    glb, _, expression = made(model)
    extras, weights = glb.mesh("head")["extras"], glb.mesh("head")["weights"]
    assert extras["targetNames"] == [*plain.expression_names, "mouthFunnel", "mouthClose"]
    assert weights == pytest.approx([*expression.tolist(), 0.0, 0.0])
    assert extras["arkitResiduals"] == {"mouthFunnel": 0.3124, "mouthClose": 0.5}
    assert "extras" not in glb.mesh("teeth")  # they keep still
    by_name = {target.name: target for target in morph_targets(model)}
    wanted = 0.5 * plain.expression[0] - 0.25 * plain.expression[1]
    torch.testing.assert_close(by_name["mouthFunnel"].offset, wanted)
    assert not by_name["mouthClose"].own and by_name["jawOpen"].own
    assert "arkitResiduals" not in made(plain)[0].mesh("head")["extras"]


# --- a model of another topology, from the command line to the model --------------------------------------------------


@pytest.fixture(scope="module")
def facekit(shared_models: Path) -> RawModel:
    raw = facekit_raw(shared_models)
    return replace(raw, identity=raw.identity[:1].copy())


@pytest.fixture(scope="module")
def nameless(facekit: RawModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with ICT-FaceKit, whose expressions have lost their names, after `fit3d models annotate`."""
    home = tmp_path_factory.mktemp("home")
    names = tuple(f"expression_{index:02d}" for index in range(len(facekit.expression_names)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIT3D_HOME", str(home))
        make_hasty(patch)
        store_model("nameless", replace(facekit, expression_names=names))
        assert main(["models", "annotate", "nameless", "--no-check", "--quiet"]) == 0
        yield home


def test_facekit_gets_its_names_back(nameless: Path, facekit: RawModel) -> None:
    """The bundled head's shapes, sculpted by others, find those of the same name: none of the others is nearer, but for
    the gaze, of which FaceKit has only the lids."""
    model = load_model("nameless")
    stored = stored_model("nameless")
    assert stored.arkit is not None
    found = read_combinations(stored.arkit, stored.sha256, model.expression_names)
    assert model.arkit == near_enough(found) and len(model.arkit) > 30
    own = arkit_shapes(facekit.expression_names)
    face = register.importance_of(model, outside_of(model)) == 1.0
    shapes = {
        name: model.expression[list(parts)].sum(0)[face].flatten()
        for name, parts in own.items()
        if not name.startswith("eyeLook")
    }
    for name, least in (("jawOpen", 0.98), ("eyeBlinkLeft", 0.85), ("mouthSmileLeft", 0.88)):
        each = model.arkit[name]
        made_of = torch.einsum("l,lvc->vc", torch.tensor(each.coefficients).float(), model.expression)[face].flatten()
        alike = {other: float(made_of @ shape / made_of.norm() / shape.norm()) for other, shape in shapes.items()}
        assert max(alike, key=lambda other: alike[other]) == name, sorted(alike.items(), key=lambda pair: -pair[1])[:3]
        assert alike[name] > least, (name, alike[name])
        assert each.residual < 0.45, (name, each.residual)
    # FaceKit's eyeballs do not turn, and no tongue shows on the skin
    assert min(found[name].residual for name in found if name.startswith("eyeLook")) > 0.95
    assert "tongueOut" not in found


def test_made_anew_it_is_the_same(nameless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = stored_model("nameless").arkit
    assert path is not None
    before = path.read_bytes()
    path.write_text("{", encoding="utf-8")  # a damaged one does not stand in the way
    models_arkit_command("nameless", as_json=True)
    assert path.read_bytes() == before
    facts = json.loads(capsys.readouterr().out)
    assert (
        facts["file"] == str(path)
        and facts["arkit_nearly"]["jawOpen"] == load_model("nameless").arkit["jawOpen"].residual
    )


def test_info_says_how_near(nameless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "info", "nameless", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["arkit"] == 0 and len(facts["arkit_nearly"]) + len(facts["arkit_missing"]) == 52
    assert facts["arkit_nearly"] == {
        name: pytest.approx(each.residual) for name, each in load_model("nameless").arkit.items()
    }
    assert main(["models", "info", "nameless"]) == 0
    mean = np.mean(list(facts["arkit_nearly"].values()))
    assert f"{len(facts['arkit_nearly'])} (residual {mean:.2f} on average, " in capsys.readouterr().out


def test_a_damaged_file_stops_the_model_until_it_is_made_anew(nameless: Path, facekit: RawModel) -> None:
    stored = stored_model("nameless")
    assert stored.arkit is not None
    whole = stored.arkit.read_bytes()
    stored.arkit.write_bytes(b"{")
    try:
        with pytest.raises(ModelFileError, match="fit3d models arkit"):
            load_model("nameless")
    finally:
        stored.arkit.write_bytes(whole)
    assert load_model("nameless").arkit


def test_what_has_all_names_needs_no_combinations(nameless: Path, facekit: RawModel, capsys: Any) -> None:
    with pytest.raises(UsageError, match="itself"):
        models_arkit_command("anny")
    store_model("named", facekit, asset_path("ict/annotation.json"))
    models_arkit_command("named")
    assert capsys.readouterr().out == "named offers 51 of ARKit's 52 shapes itself; not: tongueOut\n"
    assert stored_model("named").arkit is None
    assert read_stored("named").expression_names == facekit.expression_names
