"""The GLB: read back number by number, by trimesh, the Khronos validator, three.js and Blender."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import queue
import shutil
import struct
import subprocess
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor

from fit3d.camera import Camera
from fit3d.export.files import write_image
from fit3d.export.glb import FILM_OPACITY, STILL_M, glb_bytes, material_of, morph_targets, pieces, write_glb
from fit3d.export.obj import write_mtl, write_obj
from fit3d.morphable.arkit import ARKIT_NAMES
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.registry import load_model
from fit3d.render.shade import shade
from synthetic import synthetic_camera, synthetic_identity, synthetic_model

JSON_CHUNK, BIN_CHUNK = 0x4E4F534A, 0x004E4942
BLENDER_SCRIPT = Path(__file__).parent / "blender_look.py"


@pytest.fixture(scope="module")
def model() -> MorphableModel:
    return synthetic_model()


class Glb:
    """A file taken apart by the letter of the glTF 2.0 specification, without the library that wrote it."""

    def __init__(self, content: bytes) -> None:
        magic, version, length = struct.unpack_from("<4sII", content)
        assert (magic, version, length) == (b"glTF", 2, len(content))
        size, kind = struct.unpack_from("<II", content, 12)
        assert kind == JSON_CHUNK and size % 4 == 0
        self.json: dict[str, Any] = json.loads(content[20 : 20 + size])
        length, kind = struct.unpack_from("<II", content, 20 + size)
        assert kind == BIN_CHUNK and length % 4 == 0
        self.bin = content[28 + size :]
        assert len(self.bin) == length >= self.json["buffers"][0]["byteLength"]

    def bytes_of(self, view: int) -> bytes:
        there = self.json["bufferViews"][view]
        return self.bin[there["byteOffset"] : there["byteOffset"] + there["byteLength"]]

    def array(self, accessor: int) -> np.ndarray:
        told = self.json["accessors"][accessor]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[told["type"]]
        kind = {5126: np.float32, 5125: np.uint32}
        if "bufferView" in told:
            values = np.frombuffer(self.bytes_of(told["bufferView"]), kind[told["componentType"]]).copy()
        else:
            values = np.zeros(told["count"] * width, kind[told["componentType"]])
        values = values.reshape(told["count"], width)
        if "sparse" in told:
            where, what = told["sparse"]["indices"], told["sparse"]["values"]
            rows = np.frombuffer(self.bytes_of(where["bufferView"]), kind[where["componentType"]])
            assert len(rows) == told["sparse"]["count"] and (np.diff(rows.astype(int)) > 0).all()
            values[rows] = np.frombuffer(self.bytes_of(what["bufferView"]), np.float32).reshape(-1, width)
        if "min" in told:
            assert (np.array(told["min"], np.float32) == values.min(0)).all()
            assert (np.array(told["max"], np.float32) == values.max(0)).all()
        return values

    def mesh(self, name: str) -> dict[str, Any]:
        (found,) = [mesh for mesh in self.json["meshes"] if mesh["name"] == name]
        return found


def made(model: MorphableModel, camera: Camera | None = None) -> tuple[Glb, Tensor, Tensor]:
    """A file, and the neutral vertices and expression in it."""
    identity = synthetic_identity(model, 1).float()
    expression = torch.linspace(0.05, 0.6, len(model.expression_names))
    neutral = model.vertices(identity, torch.zeros_like(expression))
    texture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return Glb(glb_bytes(neutral, expression, model, texture, camera)), neutral, expression


def test_pieces_hold_the_neutral_mesh(model: MorphableModel) -> None:
    glb, neutral, _ = made(model)
    assert [mesh["name"] for mesh in glb.json["meshes"]] == list(model.objects)
    nodes = glb.json["nodes"]
    assert [nodes[child]["name"] for child in nodes[0]["children"]] == list(model.objects)
    drawn = []
    for piece in pieces(model):
        (primitive,) = glb.mesh(piece.name)["primitives"]
        attributes = {name: glb.array(index) for name, index in primitive["attributes"].items()}
        assert (attributes["POSITION"] == neutral.numpy()[piece.vertex]).all()
        np.testing.assert_allclose(np.linalg.norm(attributes["NORMAL"], axis=1), 1.0, atol=1e-5)
        drawn.append(attributes["POSITION"][glb.array(primitive["indices"]).reshape(-1, 3)])
        # texels where the model has them: glTF counts v from the top
        at = np.stack([attributes["TEXCOORD_0"][:, 0], 1.0 - attributes["TEXCOORD_0"][:, 1]], 1)
        wanted = {(int(v), *uv) for v, uv in zip(piece.vertex, at.round(5).tolist(), strict=True)}
        faces = np.flatnonzero(model.face_objects == model.objects.index(piece.name))
        ids, uvs = model.faces[faces].ravel(), model.uv_faces[faces].ravel()
        told = zip(ids[ids >= 0], model.uv[uvs[ids >= 0]].astype(np.float32).round(5).tolist(), strict=True)
        assert wanted == {(int(v), *uv) for v, uv in told}
    triangles = neutral.numpy()[model.triangles]

    def sorted_rows(corners: np.ndarray) -> np.ndarray:
        rows = corners.reshape(-1, 9)
        return rows[np.lexsort(rows.T)]

    assert (sorted_rows(np.concatenate(drawn)) == sorted_rows(triangles)).all()


def test_default_weights_give_the_fitted_expression(model: MorphableModel) -> None:
    glb, neutral, expression = made(model)
    posed = model.vertices(synthetic_identity(model, 1).float(), expression).numpy()
    silence = neutral.numpy()
    told = set()
    for piece in pieces(model):
        mesh = glb.mesh(piece.name)
        (primitive,) = mesh["primitives"]
        positions = glb.array(primitive["attributes"]["POSITION"]).astype(np.float64)
        names = mesh.get("extras", {}).get("targetNames", [])
        assert len(names) == len(mesh.get("weights", [])) == len(primitive.get("targets", []))
        told |= set(names)
        for name, weight, target in zip(names, mesh.get("weights", []), primitive.get("targets", []), strict=True):
            offset = glb.array(target["POSITION"])
            assert np.abs(offset).max() > STILL_M
            index = model.expression_names.index(name)
            np.testing.assert_allclose(offset, model.expression[index].numpy()[piece.vertex], atol=STILL_M)
            assert weight == pytest.approx(float(expression[index]))
            positions += weight * offset
        np.testing.assert_allclose(positions, posed[piece.vertex], atol=len(names) * STILL_M + 1e-7)
        assert names or np.abs(positions - silence[piece.vertex]).max() < 1e-7
    assert told == set(model.expression_names)


def test_morph_normals_turn_with_the_surface(model: MorphableModel) -> None:
    glb, neutral, _ = made(model)
    (piece,) = [piece for piece in pieces(model) if piece.name == "head"]
    mesh = glb.mesh("head")
    (primitive,) = mesh["primitives"]
    rest = glb.array(primitive["attributes"]["NORMAL"]).astype(np.float64)
    for name, target in zip(mesh["extras"]["targetNames"], primitive["targets"], strict=True):
        moved = neutral + model.expression[model.expression_names.index(name)]
        whole = trimesh.Trimesh(moved.numpy(), model.triangles, process=False)
        by_area = np.zeros((len(moved), 3))
        for corner in range(3):
            np.add.at(by_area, model.triangles[:, corner], whole.face_normals * whole.area_faces[:, None])
        length = np.linalg.norm(by_area, axis=1)
        wanted = by_area[piece.vertex] / length[piece.vertex, None]
        turned = rest + glb.array(target["NORMAL"])
        sure = length[piece.vertex] > 1e-9
        assert np.abs((turned - wanted)[sure]).max() < 0.01, name


def test_sums_of_sides_are_offered_at_rest(model: MorphableModel) -> None:
    sides = ("cheekPuffLeft", "cheekPuffRight", *model.expression_names[2:])
    split = replace(model, expression_names=sides)
    glb, _, expression = made(split)
    names, weights = glb.mesh("head")["extras"]["targetNames"], glb.mesh("head")["weights"]
    assert names[-1] == "cheekPuff" and weights[-1] == 0.0
    assert weights[names.index("cheekPuffLeft")] == pytest.approx(float(expression[0]))
    by_name = {target.name: target for target in morph_targets(split)}
    both = model.expression[0] + model.expression[1]
    assert torch.equal(by_name["cheekPuff"].offset, both) and not by_name["cheekPuff"].own


def test_the_camera_sees_what_the_photos_camera_saw(model: MorphableModel) -> None:
    camera = replace(synthetic_camera(640, 480, yaw_deg=25.0), principal_px=(320.0, 240.0))
    glb, neutral, _ = made(model, camera)
    (node,) = [node for node in glb.json["nodes"] if "camera" in node]
    assert glb.json["scenes"][0]["nodes"] == [0, glb.json["nodes"].index(node)]
    lens = glb.json["cameras"][node["camera"]]["perspective"]
    assert lens["aspectRatio"] == pytest.approx(640 / 480)
    world_from_eye = np.array(node["matrix"]).reshape(4, 4).T
    points = np.c_[neutral.double().numpy(), np.ones(len(neutral))] @ np.linalg.inv(world_from_eye).T
    assert (points[:, 2] < 0).all()  # glTF looks along -z
    # the projection matrix of section 3.10.3.1
    top = math.tan(lens["yfov"] / 2.0)
    x = points[:, 0] / (-points[:, 2] * top * lens["aspectRatio"])
    y = points[:, 1] / (-points[:, 2] * top)
    px = np.stack([(x + 1.0) / 2.0 * 640, (1.0 - y) / 2.0 * 480], 1)
    np.testing.assert_allclose(px, camera.project(neutral.double()).numpy(), atol=1e-3)
    assert "cameras" not in made(model)[0].json or not made(model)[0].json["cameras"]


def test_texture_and_materials(model: MorphableModel) -> None:
    assert [material_of(name) for name in ("head", "left_eyeball", "upper_teeth", "tongue", "gums", "tear_film")] == [
        *("skin", "eye", "mouth", "mouth", "mouth", "film")
    ]
    clear = replace(model, objects=(*model.objects[:-1], "tear_film"))
    glb = made(clear)[0]
    texture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    (image,) = glb.json["images"]
    with Image.open(io.BytesIO(glb.bytes_of(image["bufferView"]))) as read:
        assert read.format == "JPEG" and image["mimeType"] == "image/jpeg"
        assert np.abs(np.asarray(read).astype(int) - texture).mean() < 6
    materials = {material["name"]: material for material in glb.json["materials"]}
    used = {
        mesh["name"]: glb.json["materials"][mesh["primitives"][0]["material"]]["name"] for mesh in glb.json["meshes"]
    }
    assert used == {name: material_of(name) for name in clear.objects}
    for name, material in materials.items():
        assert material["pbrMetallicRoughness"]["metallicFactor"] == 0.0
        assert ("baseColorTexture" in material["pbrMetallicRoughness"]) == (name != "film")
    assert materials["film"]["alphaMode"] == "BLEND"
    assert materials["film"]["pbrMetallicRoughness"]["baseColorFactor"][3] == FILM_OPACITY


def test_same_bytes_and_no_half_files(model: MorphableModel, tmp_path: Path) -> None:
    neutral, expression = model.mean, torch.zeros(len(model.expression_names))
    texture = np.zeros((16, 16, 3), np.uint8)
    for name in ("a.glb", "b.glb"):
        write_glb(tmp_path / name, neutral, expression, model, texture, synthetic_camera())
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()
    broken = neutral.clone()
    broken[3, 1] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        write_glb(tmp_path / "c.glb", broken, expression, model, texture)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.glb", "b.glb"]


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MorphableModel, Tensor, Camera]:
    """A file of the bundled model with a smile before a turned camera, and the vertices that it shows."""
    model = load_model("anny")
    generator = torch.Generator().manual_seed(0)
    identity = 0.5 * torch.randn(len(model.identity), generator=generator)
    expression = torch.zeros(len(model.expression_names))
    for name in ("mouthSmileLeft", "mouthSmileRight", "browInnerUp"):
        expression[model.expression_names.index(name)] = 0.6
    neutral = model.vertices(identity, torch.zeros_like(expression))
    camera = synthetic_camera(320, 400, yaw_deg=20.0)
    camera = replace(camera, principal_px=(160.0, 200.0))
    path = tmp_path_factory.mktemp("glb") / "head.glb"
    write_glb(path, neutral, expression, model, np.full((256, 256, 3), 180, np.uint8), camera)
    return path, model, model.vertices(identity, expression), camera


def test_bundled_model_offers_arkits_names(bundled: tuple[Path, MorphableModel, Tensor, Camera]) -> None:
    glb = Glb(bundled[0].read_bytes())
    told = {name for mesh in glb.json["meshes"] for name in mesh.get("extras", {}).get("targetNames", [])}
    assert told == set(ARKIT_NAMES)


def test_trimesh_reads_it(bundled: tuple[Path, MorphableModel, Tensor, Camera]) -> None:
    path, model, _, _ = bundled
    scene = trimesh.load(path)
    assert set(scene.geometry) == set(model.objects)
    assert sum(len(mesh.faces) for mesh in scene.geometry.values()) == len(model.triangles)
    assert scene.geometry["head"].visual.material.baseColorTexture.size == (256, 256)


def node_modules(package: str) -> Path:
    """Where npm put a package; skips the test where it did not."""
    modules = Path(__file__).parent / "js" / "node_modules"
    if shutil.which("node") is None or not (modules / package).is_dir():
        pytest.skip(f"needs node and {package}: npm install --prefix tests/js")
    return modules


def test_khronos_validator(bundled: tuple[Path, MorphableModel, Tensor, Camera]) -> None:
    modules = node_modules("gltf-validator")
    script = (
        "const validator = require('gltf-validator'), fs = require('fs');"
        "validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))"
        ".then(report => console.log(JSON.stringify(report)))"
    )
    told = subprocess.run(
        ["node", "-e", script, str(bundled[0])],
        env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(told.stdout)
    assert report["issues"]["numErrors"] == report["issues"]["numWarnings"] == 0, report["issues"]["messages"][:5]
    assert report["info"]["hasMorphTargets"] and report["info"]["hasTextures"]


def test_threejs_shows_it(bundled: tuple[Path, MorphableModel, Tensor, Camera], tmp_path: Path) -> None:
    """three.js in a real browser finds the names and weights, and its camera sees what the photo's camera saw."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    modules = node_modules("three")
    if browser is None:
        pytest.skip("needs Chromium")
    path, model, posed, camera = bundled

    told: queue.Queue[bytes] = queue.Queue()

    class Shelf(SimpleHTTPRequestHandler):
        def translate_path(self, path_of_url: str) -> str:
            name = path_of_url.lstrip("/")
            return str({"head.glb": path, "look.html": modules.parent / "three_look.html"}.get(name, modules / name))

        def do_POST(self) -> None:
            told.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    options = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Shelf) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        page = f"http://127.0.0.1:{server.server_port}/look.html"
        command = [browser, *options, f"--user-data-dir={tmp_path}", "--remote-debugging-port=0", page]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                seen = json.loads(told.get(timeout=120))
            finally:
                process.terminate()
        server.shutdown()
    assert "error" not in seen, seen["error"]
    assert set(seen["meshes"]) == set(model.objects)
    assert {name for keys in seen["meshes"].values() for name in keys} == set(ARKIT_NAMES)
    assert seen["meshes"]["head"]["mouthSmileLeft"] == pytest.approx(0.6, abs=1e-5)
    with Image.open(io.BytesIO(base64.b64decode(seen["picture"].split(",")[1]))) as image:
        shown = np.asarray(image.convert("RGBA"))[..., 3] > 127
    drawn = shade(posed, model.triangles[model.opaque], camera)[..., 3] > 127
    assert (drawn & shown).sum() / (drawn | shown).sum() >= 0.98


def test_blender_reads_it(bundled: tuple[Path, MorphableModel, Tensor, Camera], tmp_path: Path) -> None:
    """Blender finds the shape keys, opens the mouth, and its imported camera sees what the photo's camera saw."""
    if shutil.which("blender") is None:
        pytest.skip("needs Blender")
    path, model, posed, camera = bundled
    command = ["blender", "--background", "--factory-startup", "--python-exit-code", "9", "--python"]
    write_obj(tmp_path / "head.obj", posed, model, "head.mtl")
    write_mtl(tmp_path / "head.mtl", "head.png")
    write_image(tmp_path / "head.png", np.full((32, 32, 3), 90, np.uint8))
    files = [str(path), str(tmp_path / "head.obj"), str(camera.width), str(camera.height), str(tmp_path)]
    request = [str(BLENDER_SCRIPT), "--", *files]
    done = subprocess.run([*command, *request], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert {name for keys in seen["shape_keys"].values() for name in keys} == set(ARKIT_NAMES)
    assert seen["shape_keys"]["head"]["mouthSmileLeft"] == pytest.approx(0.6, abs=1e-5)

    drawn = shade(posed, model.triangles[model.opaque], camera)[..., 3] > 127
    with Image.open(tmp_path / "photo_camera.png") as image:
        blender = np.asarray(image)[..., 3] > 127
    assert (drawn & blender).sum() / (drawn | blender).sum() >= 0.98

    # with jawOpen at 1 the lips part: the rims of the mouth, in Blender's own evaluated mesh
    upper, lower = (ids.numpy() for ids in model.annotation.rims["inner_mouth"])
    (piece,) = [piece for piece in pieces(model) if piece.name == "head"]
    opening = []
    for key in ("closed", "open"):
        positions = np.array(seen[key])
        place = np.full(len(model.mean), -1)
        place[piece.vertex] = np.arange(len(piece.vertex))
        opening.append(np.linalg.norm(positions[place[upper]].mean(0) - positions[place[lower]].mean(0)))
    assert opening[1] > opening[0] + 0.01, opening

    # the OBJ keeps quads, pieces, UVs, a group per part, its texture, and every vertex in the model's order
    assert set(seen["obj"]) == set(model.objects) and seen["image"] == [[32, 32]]
    for index, name in enumerate(model.objects):
        faces = model.faces[model.face_objects == index]
        there = seen["obj"][name]
        assert sorted(there["corners"]) == sorted((faces >= 0).sum(1).tolist()) and there["uvs"] == 1
        own = np.unique(faces[faces >= 0])
        np.testing.assert_allclose(there["vertices"], posed.numpy()[own], atol=1e-6)
    assert {f"head_{part}" for part in ("nose", "upper_lip", "left_eyebrow", "skin")} <= set(
        seen["obj"]["head"]["groups"]
    )
