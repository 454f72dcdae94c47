"""FLAME, read from small files in the layout of the original, and its pose-corrective skinning."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from scipy import sparse

from fit3d.annotate.annotate import unannotated
from fit3d.errors import ModelFileError
from fit3d.morphable.articulation import cross_product
from fit3d.morphable.flame import (
    EXPRESSION_BOUND,
    JOINTS,
    LICENCES,
    TURNS,
    Flame,
    articulation_of,
    read_flame,
    read_flame_arrays,
)
from model_files import Chumpy, flame, python2_pickle, write_flame

HEAD_TURNS = ("neckPitch", "neckYaw", "neckRoll")


def skin(flame: Flame, vertices: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """The head (V, 3) with rotation vectors (5, 3) of its joints, by the product."""
    joints = articulation_of(flame, tuple(TURNS), 0)
    pose = joints.turned(torch.linalg.matrix_exp(cross_product(torch.from_numpy(rotations))))
    return pose.of(torch.from_numpy(vertices), torch.from_numpy(flame.joints_from_vertices @ vertices)).numpy()


def turned(flame: Flame, amounts: dict[str, float]) -> np.ndarray:
    """The mean head (V, 3) with these turns, by the product."""
    joints = articulation_of(flame, tuple(TURNS), 0)
    coefficients = torch.tensor([amounts.get(name, 0.0) for name in TURNS], dtype=torch.float64)
    template = torch.from_numpy(flame.template)
    return joints.pose(coefficients).of(template, joints.joints_of(torch.zeros_like(template))).numpy()


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.dtype == np.float32 and np.allclose(found, expected, rtol=1e-5, atol=2e-8)


def rotation_naive(vector: ArrayLike) -> np.ndarray:
    """Rodrigues' formula."""
    vector = np.asarray(vector, float)
    angle = float(np.linalg.norm(vector))
    if angle == 0:
        return np.eye(3)
    x, y, z = vector / angle
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * K + (1 - math.cos(angle)) * K @ K


def skin_naive(arrays: dict[str, np.ndarray], vertices: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Li et al. 2017, equations 1, 2 and 4, one vertex, joint and matrix entry after another, with 4 x 4 matrices."""
    R = [rotation_naive(vector) for vector in rotations]
    joints = [sum(arrays["J_regressor"][j, v] * vertices[v] for v in range(len(vertices))) for j in range(5)]
    world: list[np.ndarray] = []
    for j in range(5):
        local = np.eye(4)
        local[:3, :3] = R[j]
        if j == 0:
            local[:3, 3] = joints[0]
            world.append(local)
        else:
            parent = int(arrays["kintree_table"][0, j])
            local[:3, 3] = joints[j] - joints[parent]
            world.append(world[parent] @ local)
    posed = np.zeros_like(vertices)
    for v in range(len(vertices)):
        corrected = vertices[v].copy()
        n = 0
        for j in range(1, 5):
            for row in range(3):
                for column in range(3):
                    corrected += (R[j][row, column] - float(row == column)) * arrays["posedirs"][v, :, n]
                    n += 1
        for j in range(5):
            at_rest = np.eye(4)
            at_rest[:3, 3] = -joints[j]
            posed[v] += arrays["weights"][v, j] * (world[j] @ at_rest @ np.append(corrected, 1.0))[:3]
    return posed


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return flame(np.random.default_rng(1))


@pytest.fixture
def path(arrays: dict[str, np.ndarray], tmp_path: Path) -> Path:
    write_flame(tmp_path / "generic_model.pkl", arrays)
    return tmp_path / "generic_model.pkl"


@pytest.mark.parametrize("seed", range(3))
def test_skinning_is_the_papers(seed: int, arrays: dict[str, np.ndarray], path: Path) -> None:
    rng = np.random.default_rng(seed)
    rotations = rng.normal(scale=0.4, size=(5, 3))
    vertices = arrays["v_template"] + rng.normal(scale=0.01, size=arrays["v_template"].shape)
    expected = skin_naive(arrays, vertices, rotations)
    assert np.abs(expected - vertices).max() > 0.05
    assert np.allclose(skin(read_flame_arrays(path), vertices, rotations), expected, atol=1e-12)


def test_no_rotation_moves_nothing_and_the_root_turns_rigidly(arrays: dict[str, np.ndarray], path: Path) -> None:
    model = read_flame_arrays(path)
    assert np.allclose(skin(model, model.template, np.zeros((5, 3))), model.template, atol=1e-15)
    rotations = np.zeros((5, 3))
    rotations[0] = [0.3, -0.2, 0.5]
    root = model.joints_from_vertices[0] @ model.template
    expected = (model.template - root) @ rotation_naive(rotations[0]).T + root
    assert np.allclose(skin(model, model.template, rotations), expected, atol=1e-12)


@pytest.mark.parametrize("layout", ["python 2, protocol 0", "python 2, protocol 2", "npz", "npz of pickles"])
def test_flame_is_read_exactly(layout: str, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "generic_model.pkl"
    if layout.startswith("python 2"):
        write_flame(path, arrays, protocol=int(layout[-1]))
    else:
        path = tmp_path / "generic_model.npz"
        regressor = arrays["J_regressor"]
        content = {**arrays, "J_regressor": sparse.csc_matrix(regressor) if "pickles" in layout else regressor}
        np.savez(path, **content)
    model = read_flame(path)
    joints = arrays["J_regressor"] @ arrays["v_template"]
    assert close(model.mean, arrays["v_template"] - (joints[3] + joints[4]) / 2)
    assert np.abs((arrays["J_regressor"] @ model.mean)[3:].sum(axis=0)).max() < 1e-8
    assert close(model.identity, np.moveaxis(arrays["shapedirs"][..., :300], 2, 0))
    assert close(model.expression[len(TURNS) :], np.moveaxis(arrays["shapedirs"][..., 300:], 2, 0))
    assert model.expression_names == (*TURNS, "expression_00", "expression_01")
    bounds = [[-1, 1] if name in HEAD_TURNS else [0, 1] for name in TURNS] + [[-EXPRESSION_BOUND, EXPRESSION_BOUND]] * 2
    assert (model.expression_bounds == bounds).all()
    assert (model.faces[:, :3] == arrays["f"]).all()
    assert model.objects == ("head", "left_eyeball", "right_eyeball")
    assert model.face_objects.tolist() == [0] * 80 + [1] * 20 + [2] * 20


@pytest.mark.parametrize("name", TURNS)
def test_a_turn_is_the_skinned_displacement(name: str, arrays: dict[str, np.ndarray], path: Path) -> None:
    model = read_flame(path)
    rotations = np.zeros((5, 3))
    rotations[TURNS[name][0]] = TURNS[name][1]
    expected = skin_naive(arrays, arrays["v_template"], rotations) - arrays["v_template"]
    assert close(model.expression[model.expression_names.index(name)], expected)


def test_joints_are_read_exactly(arrays: dict[str, np.ndarray], path: Path) -> None:
    model = read_flame(path)
    assert model.articulation is not None
    found = model.articulation
    assert (found.joints, found.parents, found.held) == (JOINTS, (-1, 0, 1, 1, 1), HEAD_TURNS)
    assert close(found.weights.numpy(), arrays["weights"])
    assert close(found.joints_from_vertices.numpy(), arrays["J_regressor"])
    assert close(found.correctives.numpy(), np.moveaxis(arrays["posedirs"], 2, 0))
    assert found.turn_joint.tolist() == [TURNS[name][0] for name in TURNS] + [-1, -1]
    assert close(found.turn_vector.numpy(), np.array([vector for _, vector in TURNS.values()] + [(0.0, 0.0, 0.0)] * 2))
    joints = arrays["J_regressor"] @ arrays["v_template"]
    assert close(found.rest.numpy(), joints - joints[3:].mean(axis=0))


def test_vertices_are_the_papers(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Shape, expression and turns together: equations 1, 2 and 4, in the world frame."""
    raw, rng = read_flame(path), np.random.default_rng(5)
    assert raw.articulation is not None
    identity, components = rng.normal(size=300), rng.normal(size=2)
    amounts = {"jawOpen": 0.9, "jawLeft": 0.4, "eyeLookUpRight": 0.7, "eyeLookInRight": 0.3, "neckYaw": -0.6}
    vectors = np.zeros((5, 3))
    for name, amount in amounts.items():
        vectors[TURNS[name][0]] += amount * np.array(TURNS[name][1])
    unposed = arrays["v_template"] + arrays["shapedirs"] @ np.concatenate([identity, components])
    origin = (arrays["J_regressor"] @ arrays["v_template"])[3:].mean(axis=0)
    expected = skin_naive(arrays, unposed, vectors) - origin
    expression = np.array([*(amounts.get(name, 0.0) for name in TURNS), *components])
    found = unannotated(raw).vertices(torch.from_numpy(identity), torch.from_numpy(expression)).numpy()
    assert np.abs(expected - (unposed - origin)).max() > 0.02
    assert np.abs(found - expected).max() < 1e-6  # the arrays are kept in single precision


@pytest.mark.parametrize(
    ("name", "joint", "direction"),
    [
        ("jawOpen", "jaw", [0, -1, 0]),
        ("jawLeft", "jaw", [1, 0, 0]),
        ("jawRight", "jaw", [-1, 0, 0]),
        ("eyeLookUpLeft", "left_eye", [0, 1, 0]),
        ("eyeLookDownRight", "right_eye", [0, -1, 0]),
        ("eyeLookOutLeft", "left_eye", [1, 0, 0]),
        ("eyeLookInLeft", "left_eye", [-1, 0, 0]),
        ("eyeLookOutRight", "right_eye", [-1, 0, 0]),
        ("eyeLookInRight", "right_eye", [1, 0, 0]),
        ("neckPitch", "neck", [0, -1, 0]),
        ("neckYaw", "neck", [1, 0, 0]),
    ],
)
def test_turns_go_the_way_their_names_say(name: str, joint: str, direction: list[int]) -> None:
    assert JOINTS[TURNS[name][0]] == joint
    # what lies before the joint moves down, up, or to the person's left (+x) or right
    moved = rotation_naive(TURNS[name][1]) @ [0, 0, 1] - [0, 0, 1]
    assert moved @ direction > 0.1
    assert abs(moved @ np.cross(direction, [0, 0, 1])) < 1e-12


def test_error_of_the_straight_line_is_as_stated(path: Path) -> None:
    model = read_flame_arrays(path)
    rigid = np.zeros_like(model.weights)
    rigid[:, 2] = 1.0  # everything turns with the jaw, so each vertex goes along its own arc
    model = replace(model, weights=rigid, pose=np.zeros_like(model.pose))
    still, half, whole = (turned(model, {"jawOpen": amount}) for amount in (0.0, 0.5, 1.0))
    error = np.linalg.norm((still + whole) / 2 - half, axis=1)
    radius = np.linalg.norm((model.template - model.joints_from_vertices[2] @ model.template)[:, 1:], axis=1)
    angle = math.radians(22.5)
    assert np.allclose(error, 2 * radius * math.sin(angle / 4) ** 2, atol=1e-12)


def largest_error_mm(radius_mm: float, amounts: dict[str, float]) -> float:
    """Over all points at this distance from the joint: the sum of the displacements against that of the turn."""
    vectors = {name: np.array(TURNS[name][1]) for name in amounts}
    linear = sum(amounts[name] * (rotation_naive(vectors[name]) - np.eye(3)) for name in amounts)
    true = rotation_naive(sum(amounts[name] * vectors[name] for name in amounts)) - np.eye(3)
    return radius_mm * float(np.linalg.norm(linear - true, 2))


def test_table_of_errors_in_the_module() -> None:
    assert largest_error_mm(100, {"jawOpen": 1}) < 1e-12
    assert largest_error_mm(100, {"jawOpen": 0.5}) == pytest.approx(1.9, abs=0.05)
    assert largest_error_mm(12, {"eyeLookUpLeft": 0.5}) == pytest.approx(0.4, abs=0.05)
    assert largest_error_mm(100, {"jawOpen": 1, "jawLeft": 1}) == pytest.approx(2.7, abs=0.05)
    assert largest_error_mm(12, {"eyeLookUpLeft": 1, "eyeLookOutLeft": 1}) == pytest.approx(1.6, abs=0.05)
    for name, factor in (("jawOpen", 0.4), ("eyeLookOutRight", 0.5)):
        assert np.linalg.norm(rotation_naive(TURNS[name][1]) - np.eye(3), 2) == pytest.approx(factor, abs=0.05)


def test_weights_that_sum_to_almost_1_leave_a_head_without_turns_where_it_is(
    arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write_flame(tmp_path / "generic_model.pkl", {**arrays, "weights": arrays["weights"] * (1.0 + 8e-4)})
    model = read_flame_arrays(tmp_path / "generic_model.pkl")
    assert np.allclose(skin(model, model.template, np.zeros((5, 3))), model.template, atol=1e-15)


def test_turns_that_move_nothing_are_left_out(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    weights = arrays["weights"].copy()
    weights[:, 1] += weights[:, 2]
    weights[:, 2] = 0.0
    posedirs = arrays["posedirs"].copy()
    posedirs[..., 9:18] = 0.0
    write_flame(tmp_path / "flame2023_no_jaw.pkl", {**arrays, "weights": weights, "posedirs": posedirs})
    model = read_flame(tmp_path / "flame2023_no_jaw.pkl")
    assert model.expression_names[:2] == ("eyeLookUpLeft", "eyeLookUpRight")
    assert len(model.expression_names) == len(TURNS) - 3 + 2


@pytest.mark.parametrize(
    ("name", "edition"),
    [
        ("FLAME2020/generic_model.pkl", "2020"),
        ("flame2023.pkl", "2023"),
        ("flame2023_no_jaw.pkl", "2023"),
        ("flame2023_Open.pkl", "2023 Open"),
        ("FLAME2023_Open/model.pkl", "2023 Open"),
        ("downloads/generic_model.pkl", "unknown"),
        ("open_models/flame2023.pkl", "2023"),
        ("openflame/2023.pkl", "unknown"),
    ],
)
def test_licence_by_edition(name: str, edition: Any, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "x" / name
    path.parent.mkdir(parents=True)
    write_flame(path, arrays)
    model = read_flame(path)
    assert model.version == edition
    assert model.licence == LICENCES[edition]
    assert ("may be sold" in model.licence) == (edition == "2023 Open")
    assert read_flame(path, edition="2023 Open").licence == LICENCES["2023 Open"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v_template": np.zeros((66, 2))}, "v_template has shape"),
        ({"v_template": Chumpy(np.zeros(3), name="Select", module="chumpy.reordering")}, "v_template: a formula"),
        ({"v_template": "text"}, "v_template: no array"),
        ({"shapedirs": np.zeros((66, 3, 0))}, "shapedirs has 0 components"),
        ({"shapedirs": np.zeros((66, 3, 5000))}, "shapedirs has 5000 components"),
        ({"posedirs": np.zeros((66, 3, 207))}, "posedirs has shape"),
        ({"J_regressor": np.zeros((24, 66))}, r"J_regressor has shape \(24, 66\), expected 5 x 66"),
        ({"weights": np.zeros((66, 5))}, "the skinning weights of a vertex do not sum to 1"),
        ({"kintree_table": np.array([[0, 0, 3, 1, 1], [0, 1, 2, 3, 4]])}, "kintree_table has the parents"),
        ({"f": np.full((9, 3), 66)}, r"f must lie in 0 \.\.\. 65"),
        ({"f": np.full((9, 3), 0.5)}, "f must be whole numbers"),
    ],
)
def test_files_that_do_not_fit(
    change: dict[str, Any], message: str, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "flame.pkl").write_bytes(python2_pickle({**arrays, **change}, 2))
    with pytest.raises(ModelFileError, match=f"flame.pkl: {message}.*expected FLAME 2020, 2023 or 2023 Open") as caught:
        read_flame(tmp_path / "flame.pkl")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f"])
def test_missing_and_infinite_entries(key: str, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "flame.pkl"
    path.write_bytes(python2_pickle({name: value for name, value in arrays.items() if name != key}, 2))
    with pytest.raises(ModelFileError, match=f"lacks {key}"):
        read_flame(path)
    broken = arrays[key].astype(float)
    broken.ravel()[-1] = np.nan
    path.write_bytes(python2_pickle({**arrays, key: broken}, 2))
    with pytest.raises(ModelFileError, match=f"{key} holds numbers that are not finite"):
        read_flame(path)


@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
def test_truncated_files(suffix: str, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = (tmp_path / "flame").with_suffix(suffix)
    if suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    else:
        write_flame(path, arrays)
    whole = path.read_bytes()
    for part in (0, 1, 30, 60, 90, 99):
        path.write_bytes(whole[: len(whole) * part // 100])
        with pytest.raises(ModelFileError, match="truncated") as caught:
            read_flame(path)
        assert "\n" not in str(caught.value)
