"""Heads that change their topology: where they lie, how they move, what they wear, and what is written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d.commands.app import main
from fit3d.errors import Fit3dError, UsageError
from fit3d.export.glb import material_of
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.pieces import PieceKind, piece_kind
from fit3d.morphable.registry import load_model
from fit3d.render.atlas import make_atlas
from fit3d.transfer import source as reading
from fit3d.transfer.person import Head, bounded, named_alike, similarity_between
from fit3d.transfer.pieces import piece_kinds, sphere
from fit3d.transfer.sheet import carry_motion
from fit3d.transfer.source import Result, read_result
from fit3d.transfer.texture import carry_texture
from fit3d.transfer.transfer import Transferred, errors_between, transfer
from synthetic import synthetic_identity, synthetic_model

SIZE = 256
POSE = {"jawOpen": 0.7, "mouthSmileLeft": 0.5, "eyeBlinkRight": 0.6}


def person(model: MorphableModel) -> Head:
    """One and the same person in any resolution of the synthetic model: open mouth, crooked smile, a wink."""
    identity = synthetic_identity(model, seed=1)
    strengths = torch.tensor([POSE.get(name, 0.0) for name in model.expression_names], dtype=torch.float64)
    neutral = model.vertices(identity, torch.zeros_like(strengths)).numpy()
    return Head(model, neutral, model.vertices(identity, strengths).numpy(), POSE)


def rainbow(mean: np.ndarray) -> np.ndarray:
    """Colours (N, 3) in [0, 1] that vary smoothly over places (N, 3)."""
    return np.asarray(0.5 + 0.35 * np.sin(mean * [60.0, 45.0, 30.0] + [0.0, 1.0, 2.0]))


def painted(model: MorphableModel) -> np.ndarray:
    """(SIZE, SIZE, 3) texture in which each point has the `rainbow` of its place on the mean head, borders padded."""
    atlas = make_atlas(model, SIZE)
    flat = np.zeros((SIZE * SIZE, 3), np.uint8)
    colours = np.rint(rainbow(atlas.from_vertices @ model.mean.numpy()) * 255.0).astype(np.uint8)
    flat[atlas.texels] = colours
    flat[atlas.padding] = colours[atlas.padding_source]
    return flat.reshape(SIZE, SIZE, 3)


def as_result(head: Head) -> Result:
    return Result(head, painted(head.model), Path("x/x.json"), "x", "", {head.model.name: head.model.licence})


@pytest.fixture(scope="module")
def coarse() -> MorphableModel:
    return synthetic_model(6.0)


@pytest.fixture(scope="module")
def fine() -> MorphableModel:
    return replace(synthetic_model(5.0), name="fine", licence="Not for sale.")


@pytest.fixture(scope="module")
def other(coarse: MorphableModel, fine: MorphableModel) -> Transferred:
    """From the coarse to the fine topology."""
    return transfer(as_result(person(coarse)), fine)


@pytest.fixture(scope="module")
def same(coarse: MorphableModel) -> Transferred:
    return transfer(as_result(person(coarse)), coarse)


def away_mm(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(1000.0 * np.linalg.norm(a - b, axis=1))


def test_a_head_comes_back_to_its_own_topology(same: Transferred, coarse: MorphableModel) -> None:
    truth = person(coarse)
    skin = np.unique(coarse.faces[coarse.face_objects == 0])
    for ours, theirs in ((same.head.neutral, truth.neutral), (same.head.posed, truth.posed)):
        assert away_mm(ours, theirs)[skin[skin >= 0]].max() < 0.15  # vertex to vertex: nothing slides
    assert same.errors["refined"].to_source.mean < 0.005
    assert same.corresponding == 1.0
    for name, strength in POSE.items():
        assert same.head.expression[name] == pytest.approx(strength, abs=0.02)


def test_its_texture_comes_back(same: Transferred, coarse: MorphableModel) -> None:
    texels = make_atlas(coarse, SIZE).texels
    before, after = (texture.reshape(-1, 3)[texels].astype(float) for texture in (painted(coarse), same.texture))
    assert 10.0 * np.log10(255.0**2 / ((before - after) ** 2).mean()) > 40.0
    assert same.textured > 0.999


def test_another_topology_is_the_same_person(other: Transferred, fine: MorphableModel) -> None:
    truth = person(fine)
    # the slits of the two resolutions end at different columns, and rims go to rims: look beside them
    rims = np.unique(np.concatenate([rim.numpy() for pair in fine.annotation.rims.values() for rim in pair]))
    face = other.head.face
    apart = np.linalg.norm(truth.neutral[face][:, None] - truth.neutral[rims], axis=-1).min(1)
    beside = face[apart > 0.006]
    assert len(beside) > 300
    for ours, theirs in ((other.head.neutral, truth.neutral), (other.head.posed, truth.posed)):
        assert away_mm(ours, theirs)[beside].mean() < 0.3  # vertex to vertex
    alone, refined = other.errors["model_neutral"].to_source, other.errors["refined_neutral"].to_source
    assert refined.mean < 0.1
    assert refined.mean < 0.8 * alone.mean


def test_expressions_of_the_same_name_are_found(other: Transferred) -> None:
    found = other.head.expression
    for name in other.head.model.expression_names:
        assert found[name] == pytest.approx(POSE.get(name, 0.0), abs=0.2)


def test_lips_and_lids_keep_to_their_own_side(other: Transferred, coarse: MorphableModel, fine: MorphableModel) -> None:
    """In the neutral head the lips lie on each other; in the posed one each is on the source's."""
    posed = person(coarse).posed
    for name, pair in fine.annotation.rims.items():
        theirs = [posed[rim.numpy()] for rim in coarse.annotation.rims[name]]
        for side in (0, 1):
            ours = other.head.posed[pair[side].numpy()[1:-1]]
            own, wrong = (_to_line(ours, theirs[k]) for k in (side, 1 - side))
            assert own.max() < 0.0015
            if name != "right_eye":  # which is nearly shut
                assert (wrong > own).all()


def test_no_triangle_turns_over(other: Transferred, fine: MorphableModel) -> None:
    truth = person(fine)
    surface = fine.annotation.triangles[fine.annotation.fixed_label < 0].numpy()
    for ours, theirs in ((other.head.neutral, truth.neutral), (other.head.posed, truth.posed)):
        normals = [_normals(points[surface]) for points in (ours, theirs)]
        assert ((normals[0] * normals[1]).sum(1) > 0.0).mean() > 0.995


def test_eyeballs_are_the_source_s(other: Transferred, coarse: MorphableModel, fine: MorphableModel) -> None:
    truth = person(coarse)
    for name in ("left_eyeball", "right_eyeball"):
        balls = [np.unique(m.faces[m.face_objects == m.objects.index(name)]) for m in (fine, coarse)]
        ours, theirs = balls[0][balls[0] >= 0], balls[1][balls[1] >= 0]
        middle, radius = sphere(other.head.neutral[ours])
        their_middle, their_radius = sphere(truth.neutral[theirs])
        assert np.abs(middle - their_middle).max() < 1e-5
        assert radius == pytest.approx(their_radius, rel=1e-3)
        moved = similarity_between(other.head.neutral[ours], other.head.posed[ours], scaled=False)
        assert away_mm(moved.of(other.head.neutral[ours]), other.head.posed[ours]).max() < 1e-6  # rigid


def test_texture_follows_the_surface(other: Transferred, fine: MorphableModel) -> None:
    """Each texel has the colour of its place, whatever the layout."""
    atlas = make_atlas(fine, SIZE)
    wanted = painted(fine).reshape(-1, 3)[atlas.texels].astype(float)
    found = other.texture.reshape(-1, 3)[atlas.texels].astype(float)
    skin = atlas.face_object == 0
    assert np.sqrt(((wanted - found)[skin] ** 2).mean()) < 6.0
    assert np.sqrt(((wanted - wanted.mean(0))[skin] ** 2).mean()) > 40.0  # a flat picture would be far off
    padding = other.texture.reshape(-1, 3)[atlas.padding]
    assert (padding == other.texture.reshape(-1, 3)[atlas.texels][atlas.padding_source]).all()


def test_what_the_source_does_not_have_is_filled_in(coarse: MorphableModel) -> None:
    head = person(coarse)
    # the left third of the head a decimetre away: nothing lies there
    moved = head.neutral + (head.neutral[:, :1] > 0.03) * np.array([0.1, 0.0, 0.0])
    texture, share = carry_texture(head, painted(coarse), coarse, moved, SIZE)
    atlas = make_atlas(coarse, SIZE)
    gone = (atlas.from_vertices @ (head.neutral[:, 0] > 0.03)) > 0.999
    colours = texture.reshape(-1, 3)[atlas.texels][gone & (atlas.face_object == 0)].astype(float)
    assert 0.3 < share < 0.95
    assert (colours.std(0) < 40.0).all()
    assert (colours.min(0) > 20.0).all()  # neither empty nor the background


def test_same_input_same_result(same: Transferred, coarse: MorphableModel) -> None:
    again = transfer(as_result(person(coarse)), coarse)
    assert (again.head.posed == same.head.posed).all()
    assert (again.texture == same.texture).all()


def test_errors_are_distances(coarse: MorphableModel) -> None:
    head = person(coarse)
    away = replace(head, neutral=head.neutral + np.array([0.0, 0.0, 0.2]), posed=head.posed)
    far = errors_between(head, away, posed=False)
    assert far.to_source.max >= far.to_source.percentile_95 >= far.to_source.mean > 50.0
    assert errors_between(head, away, posed=True).from_source.max < 1e-9


def test_bounded_least_squares_against_a_search() -> None:
    normal, right = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([3.0, -1.0])
    low, high = np.array([0.0, -0.5]), np.array([1.0, 0.5])
    grid = np.stack(np.meshgrid(np.linspace(0.0, 1.0, 201), np.linspace(-0.5, 0.5, 201)), -1).reshape(-1, 2)
    cost = 0.5 * np.einsum("ni,ij,nj->n", grid, normal, grid) - grid @ right
    assert np.abs(bounded(normal, right, low, high) - grid[cost.argmin()]).max() < 0.006


def test_names_of_both_sides_are_one_shape(coarse: MorphableModel) -> None:
    whole = replace(coarse, expression_names=("cheekPuff", *coarse.expression_names[1:]))
    halves = replace(coarse, expression_names=("cheekPuffLeft", "cheekPuffRight", *coarse.expression_names[2:]))
    head = person(coarse)
    assert named_alike(replace(head, model=whole, expression={"cheekPuff": 0.4}), halves)[:2] == pytest.approx(
        [0.4, 0.4]
    )
    both = {"cheekPuffLeft": 0.2, "cheekPuffRight": 0.6}
    assert named_alike(replace(head, model=halves, expression=both), whole)[0] == pytest.approx(0.4)


def test_pieces_are_told_by_their_names(coarse: MorphableModel) -> None:
    named = replace(coarse, objects=("head", "left_eyeball", "upper_teeth", "gums_tongue", "lash_film"))
    assert piece_kinds(named) == ("skin", "eye", "teeth", "tongue", "attached")


NAMES: dict[str, PieceKind] = {
    **{"head": "skin", "Face": "skin", "left_eyelid": "skin", "EyeLid_R": "skin", "eye_socket": "skin", "neck": "skin"},
    **{"left_eyeball": "eye", "LeftEye": "eye", "eye_r": "eye", "Iris": "eye", "sclera": "eye", "Cornea_L": "eye"},
    **{"EyeLashes": "attached", "lashes": "attached", "Eyebrow": "attached", "eye_tear": "attached"},
    **{"Teeth": "teeth", "lower_tooth": "teeth", "teeth_tongue": "teeth", "Tongue": "tongue", "gums": "tongue"},
    **{"lash_film": "film", "EYE_FILM": "film"},
}


@pytest.mark.parametrize(("name", "kind"), NAMES.items())
def test_one_rule_for_names(name: str, kind: PieceKind, coarse: MorphableModel) -> None:
    materials = {"eye": "eye", "teeth": "mouth", "tongue": "mouth", "film": "film"}
    assert piece_kind(name) == kind
    assert material_of(name) == materials.get(kind, "skin")
    named = replace(coarse, objects=("head", name, *coarse.objects[2:]))
    if name != "head":
        assert piece_kinds(named)[1] == ("attached" if kind in ("skin", "film") else kind)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, coarse: MorphableModel, fine: MorphableModel) -> None:
    """The synthetic models can be asked for by name."""
    models = {model.name: model for model in (coarse, fine)}

    def load(name: str) -> MorphableModel:
        return models.get(name) or load_model(name)

    monkeypatch.setattr(reading, "load_model", load)
    monkeypatch.setattr("fit3d.transfer.transfer.load_model", load)


@pytest.fixture
def fitted(tmp_path: Path, coarse: MorphableModel) -> Path:
    """The folder of a fit, as far as a transfer looks at it."""
    folder = tmp_path / "out" / "face"
    folder.mkdir(parents=True)
    content = {
        "schema": 1,
        "model": {"name": coarse.name, "version": coarse.version, "licence": coarse.licence},
        "parameters": {"identity": synthetic_identity(coarse, seed=1).tolist(), "expression": POSE},
    }
    (folder / "face.json").write_text(json.dumps(content))
    Image.fromarray(painted(coarse)).save(folder / "face_texture.png")
    return folder


@pytest.mark.usefixtures("known")
def test_a_fit_is_made_anew_from_its_parameters(fitted: Path, coarse: MorphableModel) -> None:
    for path in (fitted, fitted / "face.json"):
        result = read_result(path)
        assert (result.head.neutral == person(coarse).neutral).all()
        assert (result.head.posed == person(coarse).posed).all()
        assert (result.texture == painted(coarse)).all()
        assert result.stem == "face"


@pytest.mark.usefixtures("known")
def test_a_transfer_is_read_from_its_meshes(other: Transferred, tmp_path: Path, coarse: MorphableModel) -> None:
    files = other.save(tmp_path)
    assert sorted(path.name for path in (tmp_path / "x-fine").iterdir()) == [
        *("x-fine.json", "x-fine.mtl", "x-fine.obj", "x-fine_neutral.obj", "x-fine_texture.png"),
    ]
    assert set(tmp_path.iterdir()) == {tmp_path / "x-fine"}  # nothing left of the making
    again = read_result(files["json"])
    assert away_mm(again.head.posed, other.head.posed).max() < 1e-3
    assert away_mm(again.head.neutral, other.head.neutral).max() < 1e-3
    assert (again.texture == other.texture).all()
    assert again.licences == {coarse.name: coarse.licence, "fine": "Not for sale."}  # both go on to hold


def test_schema_describes_the_json(other: Transferred) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parent.parent / "docs" / "transfer.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(other.as_dict(), schema)
    names = {name for name, part in schema["properties"].items() if part}
    assert names == set(schema["required"]) == set(other.as_dict())


@pytest.mark.usefixtures("known")
def test_command_writes_beside_the_result_and_prints_errors(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "transfer", str(fitted), "--to", "fine", "--texture-size", "64"]) == 0
    said = capsys.readouterr().out
    assert (fitted.parent / "face-fine" / "face-fine.json").is_file()
    assert Image.open(fitted.parent / "face-fine" / "face-fine_texture.png").size == (64, 64)
    content = json.loads((fitted.parent / "face-fine" / "face-fine.json").read_text())
    for when in ("model", "refined", "model_neutral", "refined_neutral"):
        assert f"{content['errors_mm'][when]['to_source']['mean']:.3f}" in said
        assert f"{content['errors_mm'][when]['from_source']['max']:.2f}" in said
    assert "Not for sale." in said
    assert "Made by formula for tests; no restrictions." in said
    assert main(["models", "transfer", str(fitted), "--to", "fine", "-o", str(fitted / "a"), "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["errors_mm"] == content["errors_mm"]
    assert Path(line["files"]["obj"]) == fitted / "a" / "face-fine" / "face-fine.obj"


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 99}, "layout 99"),
        ({"model": {"name": "nobody", "version": "1"}}, "no face model called 'nobody'"),
        ({"model": {"name": "ict", "version": "light"}}, "not installed"),
        ({"model": {"name": "synthetic", "version": "2"}}, "version '2'"),
        ({"model": "synthetic"}, "'model.name' is missing"),
        ({"parameters": {"identity": [0.0], "expression": {}}}, "has 1 values, expected 8"),
        ({"parameters": {"identity": [float("nan")] * 8, "expression": {}}}, "finite"),
        ({"parameters": {"identity": ["0"] * 8, "expression": {}}}, "finite"),
        ({"parameters": {"identity": [10**400] * 8, "expression": {}}}, "finite"),
        ({"parameters": {"identity": [0.0] * 8, "expression": {"wink": 1.0}}}, "no expression called 'wink'"),
        ({"parameters": {"identity": [0.0] * 8, "expression": {"jawOpen": None}}}, "jawOpen"),
        ({"parameters": []}, "missing"),
        ({"parameters": {"identity": [1e30] * 8, "expression": {}}}, "at most 50 standard deviations"),
        ({"parameters": {"identity": [-50.1] + [0.0] * 7, "expression": {}}}, "at most 50 standard deviations"),
        (
            {"parameters": {"identity": [0.0] * 8, "expression": {"jawOpen": 1e9}}},
            r"jawOpen is 1e\+09, expected 0 to 1",
        ),
        (
            {"parameters": {"identity": [0.0] * 8, "expression": {"jawOpen": -0.01}}},
            "jawOpen is -0.01, expected 0 to 1",
        ),
    ],
)
def test_a_damaged_result_is_refused(
    fitted: Path, change: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FIT3D_HOME", str(tmp_path / "home"))
    content = json.loads((fitted / "face.json").read_text())
    (fitted / "face.json").write_text(json.dumps(content | change))
    with pytest.raises(Fit3dError, match=says) as error:
        read_result(fitted)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("known")
def test_missing_and_broken_files_are_named(fitted: Path, tmp_path: Path, other: Transferred) -> None:
    with pytest.raises(UsageError, match="no such result"):
        read_result(tmp_path / "nothing")
    with pytest.raises(UsageError, match="no result here"):
        read_result(tmp_path)
    texture = fitted / "face_texture.png"
    whole = texture.read_bytes()
    texture.write_bytes(whole[:200])
    with pytest.raises(UsageError, match="not a usable PNG"):
        read_result(fitted)
    Image.new("RGB", (64, 32)).save(texture)
    with pytest.raises(UsageError, match="64 x 32 px, expected a square"):
        read_result(fitted)
    texture.unlink()
    with pytest.raises(UsageError, match=r"face_texture\.png: missing"):
        read_result(fitted)
    for text, says in (("{", "not JSON"), ("[]", "not a result"), ("[" * 100_000, "not JSON"), ("{}", "not a result")):
        (fitted / "face.json").write_text(text)
        with pytest.raises(UsageError, match=says):
            read_result(fitted)
    files = other.save(tmp_path)
    files["neutral_obj"].unlink()
    with pytest.raises(UsageError, match=r"_neutral\.obj: missing"):
        read_result(files["json"])
    shutil.copy(files["obj"], files["neutral_obj"])
    lines = files["obj"].read_text().splitlines()
    vertices = [index for index, line in enumerate(lines) if line.startswith("v ")]
    lines[vertices[0]] = "v 0 1e9 0"
    files["obj"].write_text("\n".join(lines))
    with pytest.raises(UsageError, match="reaches beyond 10 m"):
        read_result(files["json"])
    content = json.loads(files["json"].read_text())
    content["parameters"]["expression"]["jawOpen"] = 1e9
    files["json"].write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"jawOpen is 1e\+09"):
        read_result(files["json"])
    content["parameters"]["expression"]["jawOpen"] = 0.0
    files["json"].write_text(json.dumps(content))
    files["obj"].write_text("v 0 0 0\n")
    with pytest.raises(Fit3dError, match="1 vertices"):
        read_result(files["json"])


@pytest.mark.usefixtures("known")
def test_an_observation_and_several_results_are_named_as_such(fitted: Path, coarse: MorphableModel) -> None:
    renamed = fitted.with_name("renamed")
    shutil.copytree(fitted, renamed)
    (renamed / "face_landmarks.json").write_text("{}")
    assert (read_result(renamed).head.posed == person(coarse).posed).all()
    shutil.copytree(fitted, fitted.with_name("other"))
    (fitted.with_name("other") / "face.json").rename(fitted.with_name("other") / "other.json")
    with pytest.raises(UsageError, match=r"holds 2 results; give the folder of one, such as .*face$"):
        read_result(fitted.parent)

    seen = fitted.with_name("seen")
    seen.mkdir()
    (seen / "seen_landmarks.json").write_text(json.dumps({"schema": 1, "landmarks_px": []}))
    (seen / "seen_labelme.json").write_text("{}")
    for path in (seen, seen / "seen_landmarks.json"):
        with pytest.raises(UsageError, match="holds an observation, not a fit"):
            read_result(path)


@pytest.mark.usefixtures("known")
def test_wrong_targets_are_refused(fitted: Path, coarse: MorphableModel) -> None:
    with pytest.raises(UsageError, match="no face model called 'nobody'"):
        transfer(fitted, "nobody")
    with pytest.raises(UsageError, match="texture_size"):
        transfer(fitted, "fine", texture_size=3)
    with pytest.raises(UsageError, match="no UVs"):
        transfer(fitted, replace(coarse, uv=np.zeros((0, 2), np.float32)))


def waved(model: MorphableModel, high_m: float) -> MorphableModel:
    """A head with waves 3 cm long on it, which no identity takes away."""
    x, y, z = model.mean.unbind(1)
    wave = high_m * (torch.sin(200.0 * x) + torch.sin(170.0 * y))
    return replace(model, mean=torch.stack([x, y, z + wave], 1), identity=torch.zeros_like(model.identity))


def test_a_model_that_cannot_lie_on_the_head_is_refused() -> None:
    model = synthetic_model(8.0)
    source = as_result(person(model))
    near = transfer(source, waved(model, 0.005), texture_size=16)
    assert 1.0 < near.errors["refined_neutral"].to_source.mean < 3.0
    with pytest.raises(UsageError, match="could not be laid onto"):
        transfer(source, waved(model, 0.010), texture_size=16)  # 4.4 mm off


def test_a_head_that_is_off_only_with_its_expression_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = synthetic_model(8.0)

    def moved(away_m: float) -> None:
        def carry(*arguments: Any) -> tuple[np.ndarray, np.ndarray]:
            motion, expression = carry_motion(*arguments)
            return motion + np.array([0.0, 0.0, away_m]), expression

        monkeypatch.setattr("fit3d.transfer.transfer.carry_motion", carry)

    moved(0.002)
    near = transfer(as_result(person(model)), model, texture_size=16)
    assert 1.0 < near.errors["refined"].to_source.mean < 2.0
    assert near.errors["refined_neutral"].to_source.mean < 0.1
    moved(0.006)
    with pytest.raises(UsageError, match="could not be laid onto"):
        transfer(as_result(person(model)), model, texture_size=16)


def test_a_result_is_not_written_over_its_source(other: Transferred, tmp_path: Path) -> None:
    inside = replace(other, source=replace(other.source, path=tmp_path / "x-fine" / "x-fine.json"))
    with pytest.raises(UsageError, match="folder of the result itself"):
        inside.save(tmp_path)


def _to_line(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """(N,) distance from points (N, 3) to a polyline (M, 3), metres."""
    fine = np.concatenate([np.linspace(a, b, 50) for a, b in pairwise(line)])
    return np.asarray(np.linalg.norm(points[:, None] - fine[None], axis=-1).min(1))


def _normals(corners: np.ndarray) -> np.ndarray:
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return np.asarray(normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12))
