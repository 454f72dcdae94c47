"""The viewer without a browser: what it reads, what it shows, what it sends, how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d.camera import CAM_FROM_FRONTAL_WORLD
from fit3d.commands.app import main
from fit3d.errors import Fit3dError, UsageError
from fit3d.export.read_result import read_fit, result_paths
from fit3d.labels import PART_COLOURS
from fit3d.morphable.arkit import ARKIT_NAMES
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.obj_file import read_obj_positions
from fit3d.morphable.registry import load_model
from fit3d.view import subject as subjects
from fit3d.view.gallery import Gallery
from fit3d.view.groups import OTHERS, expression_groups
from fit3d.view.page_mesh import TexturedMesh, part_meshes
from fit3d.view.photo_view import front_viewpoint, photo_plane, photo_viewpoint
from fit3d.view.state import ViewState
from fit3d.view.subject import load_subject, subject_of, surface_of
from fit3d.view.tone import before_tone_mapping, tone_mapped
from synthetic import synthetic_camera, synthetic_model
from viewer import SKIN, turned_camera, write_result


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> MorphableModel:
    made = synthetic_model()
    monkeypatch.setattr(subjects, "load_model", lambda name: made)
    return made


@pytest.fixture
def result(tmp_path: Path, model: MorphableModel) -> Path:
    return write_result(tmp_path / "anna", model, turned_camera())[0]


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# What is read


def test_a_fit_is_read_back_as_it_was_written(astronaut: Path, tmp_path: Path) -> None:
    import fit3d

    done = fit3d.fit(astronaut, texture_size=32, config=fit3d.FitConfig(iterations=1), landmarks="mediapipe")
    saved = done.save(tmp_path)
    (path,) = result_paths(saved.folder)
    shown, direct = load_subject(path), subject_of(done, tmp_path)
    assert shown.missing == () and shown.name == direct.name == "astronaut"
    torch.testing.assert_close(shown.identity, done.fit.identity, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(shown.expression, done.fit.expression, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(
        shown.camera.project(done.vertices), done.fit.camera.project(done.vertices), rtol=0.0, atol=1e-4
    )
    assert shown.photo is not None and np.array_equal(shown.photo, done.photo.pixels)
    assert shown.texture is not None and np.array_equal(shown.texture, done.texture)
    torch.testing.assert_close(ViewState(shown).vertices().double(), done.vertices, rtol=0.0, atol=1e-6)
    assert torch.equal(
        ViewState(direct).vertices(), done.model.vertices(done.fit.identity.float(), done.fit.expression.float())
    )


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("schema",), 2, "layout 2"),
        (("kind",), "transfer", "transfer"),
        (("model", "version"), "9", "version '9'"),
        (("model", "name"), 7, "model.name"),
        (("parameters", "identity"), [0.0], "1 values"),
        (("parameters", "identity"), [float("nan")] * 8, "identity"),
        (("parameters", "identity"), [1e30] * 8, "identity"),
        (("parameters", "identity"), [True] * 8, "identity"),
        (("parameters", "identity"), ["0"] * 8, "identity"),
        (("parameters", "expression"), {"grin": 0.5}, "'grin'"),
        (("parameters", "expression"), {"jawOpen": 7.0}, "jawOpen is 7"),
        (("parameters", "expression"), {"jawOpen": None}, "'jawOpen' is None"),
        (("parameters", "expression"), [], "parameters.expression"),
        (("camera", "width"), 0, "camera"),
        (("camera", "height"), 1e9, "camera"),
        (("camera", "focal_px"), -1.0, "camera"),
        (("camera", "focal_px"), float("inf"), "camera"),
        (("camera", "principal_px"), [1.0], "camera"),
        (("camera", "cam_from_world"), np.zeros((4, 4)).tolist(), "camera"),
        (("camera", "cam_from_world"), np.diag([1.0, 1.0, -1.0, 1.0]).tolist(), "camera"),
        (("camera", "cam_from_world"), [[0.0] * 4] * 3, "camera"),
        (("photo", "path"), 3, "photo.path"),
        (("status",), None, "status"),
    ],
)
def test_damaged_results_are_refused_in_one_line(result: Path, keys: tuple[str, ...], value: Any, says: str) -> None:
    def damage(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    with pytest.raises(UsageError) as raised:
        load_subject(changed(result, damage))
    assert says in str(raised.value) and str(result) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "[" * 100_000, "\x00"])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"a\.json"):
        read_fit(path)


def test_what_is_missing_is_said_and_the_rest_shown(result: Path) -> None:
    texture = result.with_name("anna_texture.png")
    texture.unlink()
    (result.parent / "photo.png").unlink()
    shown = load_subject(result)
    assert shown.photo is None and shown.texture is None
    assert [("photo" in line, "texture" in line) for line in shown.missing] == [(True, False), (False, True)]
    assert ViewState(shown).looks == ("shaded", "wireframe", "parts")
    texture.write_bytes(b"no picture")
    assert "not a usable PNG" in load_subject(result).missing[1]


def test_photo_that_moved_with_its_result_is_found_and_another_is_not_shown(result: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(result.parent, moved / "anna")
    shown = load_subject(moved / "anna" / "anna.json")
    assert shown.photo is not None and "has been changed" in shown.missing[0]
    shutil.move(moved / "anna" / "photo.png", moved / "photo.png")
    assert load_subject(moved / "anna" / "anna.json").photo is not None
    Image.new("RGB", (50, 40)).save(moved / "photo.png")
    shown = load_subject(moved / "anna" / "anna.json")
    assert shown.photo is None and "50 x 40 px" in shown.missing[0]


def test_without_its_model_the_mesh_of_the_file_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = synthetic_model()
    path, identity, expression = write_result(tmp_path / "anna", made, turned_camera())

    def gone(name: str) -> MorphableModel:
        raise UsageError(f"no face model called '{name}'")

    monkeypatch.setattr(subjects, "load_model", gone)
    with pytest.raises(UsageError, match=r"anna\.obj"):
        load_subject(path)
    from fit3d.export.obj import write_obj

    write_obj(path.with_name("anna.obj"), made.vertices(identity, expression), made, "anna.mtl")
    shown = load_subject(path)
    state = ViewState(shown)
    assert "no face model" in shown.missing[0] and state.looks == ("texture", "shaded", "wireframe")
    torch.testing.assert_close(state.vertices().double(), made.vertices(identity, expression), rtol=0.0, atol=1e-6)
    with pytest.raises(UsageError, match="not installed"):
        state.export("obj")


def test_results_of_a_folder(tmp_path: Path, model: MorphableModel) -> None:
    for name in ("bert", "anna", ".hidden"):
        write_result(tmp_path / name, model, turned_camera())
    (tmp_path / "empty").mkdir()
    assert [path.name for path in result_paths(tmp_path)] == ["anna.json", "bert.json"]
    assert result_paths(tmp_path / "bert") == [tmp_path / "bert" / "bert.json"]
    for nothing in (tmp_path / "empty", tmp_path / "none", tmp_path / "bert" / "photo.png"):
        with pytest.raises(UsageError, match="result"):
            result_paths(nothing)


def test_leafing_passes_over_damaged_results_and_goes_round(tmp_path: Path, model: MorphableModel) -> None:
    for name in ("a", "b", "c", "d", "e"):
        write_result(tmp_path / name, model, turned_camera())
    for name in ("a", "c"):
        (tmp_path / name / f"{name}.json").write_text("{}", encoding="utf-8")
    gallery = Gallery(result_paths(tmp_path))
    names = []
    for step in (gallery.open_first, *(lambda by=by: gallery.step(by) for by in (1, 1, -1, -1))):
        subject, problems = step()
        names.append((subject.name, gallery.number, len(problems)))
    assert names == [("b", 2, 1), ("d", 4, 1), ("e", 5, 0), ("d", 4, 0), ("b", 2, 1)]
    gallery.step(-1)
    assert gallery.number == 5
    for name in ("b", "d", "e"):
        (tmp_path / name / f"{name}.json").unlink()
    with pytest.raises(Fit3dError):
        gallery.step(1)
    assert gallery.number == 5


# What is shown


def test_groups_hold_every_expression_once_where_it_is_looked_for() -> None:
    groups = expression_groups(ARKIT_NAMES)
    assert sorted(place for places in groups.values() for place in places) == list(range(len(ARKIT_NAMES)))
    assert {group: len(places) for group, places in groups.items()} == {
        **{"Brows": 5, "Eyes": 14, "Cheeks and nose": 5, "Jaw": 4, "Mouth": 23, "Tongue": 1}
    }
    assert expression_groups(["exp_0", "exp_1"]) == {OTHERS: (0, 1)}


def test_sliders_make_the_models_vertices_within_its_bounds(result: Path, model: MorphableModel) -> None:
    state = ViewState(load_subject(result))
    fitted_identity, fitted_expression = state.identity.clone(), state.expression.clone()
    low, high = model.expression_bounds[1].tolist()
    state.set_expression(1, 99.0)
    assert float(state.expression[1]) == high
    state.set_expression(1, -99.0)
    assert float(state.expression[1]) == low
    state.set_expression(1, float("nan"))
    assert float(state.expression[1]) == low
    state.set_identity(2, -2.5)
    state.set_identity(3, 1e300)
    assert state.identity[2:4].tolist() == [-2.5, 3.0]
    expected = model.vertices(state.identity, state.expression)
    torch.testing.assert_close(state.vertices().double(), expected, rtol=0.0, atol=1e-6)
    state.neutral()
    assert not state.expression.any() and float(state.identity[2]) == -2.5
    state.fitted()
    assert torch.equal(state.identity, fitted_identity) and torch.equal(state.expression, fitted_expression)
    state.set_expression(0, 0.9)
    assert torch.equal(state.subject.expression, fitted_expression)


def test_export_writes_new_files_of_the_pose(result: Path, model: MorphableModel) -> None:
    pytest.importorskip("pygltflib")
    state = ViewState(load_subject(result))
    state.set_expression(0, 0.9)
    paths = [state.export("obj"), state.export("obj"), state.export("glb")]
    assert [path.name for path in paths] == ["anna_view.obj", "anna_view-2.obj", "anna_view.glb"]
    wanted = model.vertices(state.identity, state.expression).numpy()
    np.testing.assert_allclose(read_obj_positions(paths[0], len(model.mean)), wanted, rtol=0.0, atol=1e-7)
    assert "anna_texture.png" in (result.parent / "anna.mtl").read_text(encoding="utf-8")
    assert b"photo_camera" in paths[2].read_bytes()


def test_photo_fills_the_frustum_behind_the_head_and_the_view_holds_it() -> None:
    camera, vertices = turned_camera(), synthetic_model().mean.numpy()
    plane, view = photo_plane(camera, vertices), photo_viewpoint(camera, vertices)
    corners = np.array([[-1, -1, 0], [1, -1, 0], [-1, 1, 0], [1, 1, 0]]) * (plane.width / 2.0, plane.height / 2.0, 0.0)
    world = torch.from_numpy(plane.centre + corners @ plane.world_from_plane.T)
    wanted = torch.tensor([[0.0, 0.0], [360.0, 0.0], [0.0, 480.0], [360.0, 480.0]], dtype=torch.float64)
    torch.testing.assert_close(camera.project(world), wanted, rtol=0.0, atol=1e-6)
    assert float(camera.to_cam(torch.from_numpy(vertices))[:, 2].max()) < float(camera.to_cam(world)[:, 2].min())
    axis = camera.project(torch.from_numpy(view.look_at)[None])[0]
    torch.testing.assert_close(axis, torch.tensor(camera.principal_px).double(), rtol=0.0, atol=1e-6)
    for aspect in (0.4, 1.0, 3.0):
        half_height = np.tan(view.fov_rad(aspect) / 2.0) * camera.focal_px
        beyond = (wanted - axis).abs().amax(0) / torch.tensor([half_height * aspect, half_height])
        assert 0.95 < float(beyond.max()) < 1.0


def test_front_view_looks_the_head_in_the_face() -> None:
    vertices = synthetic_model().mean.numpy()
    view = front_viewpoint(vertices)
    forward = (view.look_at - view.position) / np.linalg.norm(view.look_at - view.position)
    np.testing.assert_allclose(forward, CAM_FROM_FRONTAL_WORLD[2], atol=1e-7)
    seen = (vertices - view.position) @ np.array(CAM_FROM_FRONTAL_WORLD).T
    assert (np.abs(seen[:, :2]) / seen[:, 2:]).max() < view.tangents[1]


# What is sent


def test_textured_mesh_is_a_glb_of_the_surface(model: MorphableModel) -> None:
    pygltflib = pytest.importorskip("pygltflib")
    surface = surface_of(model)
    mesh = TexturedMesh(surface, np.full((32, 32, 3), SKIN, np.uint8))
    mesh.glb(model.mean.numpy())
    moved = model.mean.numpy() + np.float32(0.01)
    gltf = pygltflib.GLTF2.load_from_bytes(mesh.glb(moved))
    blob = gltf.binary_blob()

    def array(index: int, kind: str, width: int) -> np.ndarray:
        accessor = gltf.accessors[index]
        start = gltf.bufferViews[accessor.bufferView].byteOffset
        return np.frombuffer(blob, kind, accessor.count * width, start).reshape(-1, width)

    corners = array(2, "<u4", 1)[:, 0]
    np.testing.assert_array_equal(array(0, "<f4", 3)[corners], moved[surface.triangles.ravel()])
    uv = surface.uv[surface.uv_triangles.ravel()]
    np.testing.assert_allclose(array(1, "<f4", 2)[corners], np.stack([uv[:, 0], 1.0 - uv[:, 1]], 1), atol=1e-7)
    assert len(blob) == gltf.buffers[0].byteLength


def test_parts_cover_the_annotated_surface_once_each_where_the_annotation_has_it(model: MorphableModel) -> None:
    vertices, annotation = model.mean.double().numpy(), model.annotation
    label_of = {colour: label for label, colour in enumerate(PART_COLOURS)}

    def moments(places: np.ndarray, triangles: np.ndarray) -> np.ndarray:
        """(4,) area, and its integral of the position."""
        corners = places[triangles].astype(np.float64)
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2.0
        return np.concatenate([[area.sum()], (area[:, None] * corners.mean(1)).sum(0)])

    total = np.zeros(4)
    for part in part_meshes(model):
        total += moments(part.positions(vertices), part.triangles)
        fields = np.einsum("fnk,nk->fn", annotation.fields.numpy()[:, part.vertex], part.weight)
        middle = fields[:, part.triangles].mean(2)
        best = annotation.field_labels.numpy()[middle.argmax(0)]
        patches = np.isin(label_of[part.colour], annotation.fixed_label.numpy())
        assert patches or (best == label_of[part.colour]).mean() > 0.999
    np.testing.assert_allclose(total, moments(vertices, annotation.triangles.numpy()), rtol=1e-6, atol=1e-9)
    assert {label_of[part.colour] for part in part_meshes(model)} >= set(range(1, 9))


def test_colours_pass_the_pages_tone_mapping_unchanged() -> None:
    tones = np.array([[SKIN, (224, 172, 150), (90, 60, 50), (30, 24, 20), (240, 225, 215), (131, 98, 77)]], np.uint8)
    sent, gain = before_tone_mapping(tones)
    encoded = sent / 255.0
    linear = gain * np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    shown = tone_mapped(linear)
    srgb = 255.0 * np.where(shown <= 0.0031308, 12.92 * shown, 1.055 * shown ** (1.0 / 2.4) - 0.055)
    assert np.abs(srgb - tones).max() < 3.0


# How it starts and ends


def test_nothing_to_view_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(tmp_path / "none"), "--no-browser"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "none" in captured.err


def test_port_in_use_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("viser")
    write_result(tmp_path / "anna", load_model("anny"), turned_camera())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["view", str(tmp_path), "--no-browser", "--port", str(port)]) == 2
    assert f"--port {port}: in use" in capsys.readouterr().err


def test_missing_viser_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(tmp_path / "anna", load_model("anny"), turned_camera())
    monkeypatch.setitem(sys.modules, "viser", None)
    assert main(["view", str(tmp_path), "--no-browser"]) == 2
    assert '".[view]"' in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process")
def test_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    pytest.importorskip("viser")
    write_result(tmp_path / "anna", load_model("anny"), replace(synthetic_camera(), width=400))
    command = [sys.executable, "-m", "fit3d", "view", str(tmp_path), "--no-browser"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # what runs the tests in the background may have told them to ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("viewing anna at http://127.0.0.1:"), process.communicate()
            port = int(line.split(" (")[0].rsplit(":", 1)[1])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=120) as answer:
                assert answer.status == 200
            socket.create_connection(("127.0.0.1", port)).close()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "", "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
