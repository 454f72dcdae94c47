"""MediaPipe's Tasks interface on a `face_landmarker.task` that is made of the networks inside MediaPipe 0.10.21.

That version has both interfaces, so the newer one is compared with the older one on the same networks. To try newer
versions of MediaPipe, write the file with `write_task_file` under 0.10.21 and name it in FIT3D_TEST_TASK_FILE.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fit3d.errors import UsageError
from fit3d.observe import weights
from fit3d.photo import Photo, load_photo

if TYPE_CHECKING:
    from fit3d.observe.mediapipe import MediapipeLandmarks
    from fit3d.observe.mediapipe_tasks import MediapipeTaskLandmarks

pytest.importorskip("mediapipe")
DETECTOR, MESH = "face_detector.tflite", "face_landmarks_detector.tflite"
TASK_FILE_VARIABLE = "FIT3D_TEST_TASK_FILE"
MESH_POINTS = 468
"""Of the mesh without irises."""


def wheel_networks() -> Path | None:
    """The folder with the networks inside MediaPipe, up to 0.10.21."""
    spec = importlib.util.find_spec("mediapipe")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "modules"
    return folder if (folder / "face_landmark" / "face_landmark.tflite").is_file() else None


def write_task_file(path: Path, networks: Path) -> None:
    """The detector as it is, and the mesh without attention, to which ten points are added for the irises: an upper lid
    five times each. So the mesh has the outputs that Tasks wants: 478 points, presence."""
    import flatbuffers
    from mediapipe.tasks.metadata import schema_py_generated as tflite

    content = (networks / "face_landmark" / "face_landmark.tflite").read_bytes()
    model = tflite.ModelT.InitFromObj(tflite.Model.GetRootAsModel(content, 0))
    graph = model.subgraphs[0]
    buffer = tflite.BufferT()
    points = np.r_[:MESH_POINTS, [159] * 5, [386] * 5]
    buffer.data = (3 * points[:, None] + np.arange(3)).astype(np.int32).reshape(-1).view(np.uint8)
    model.buffers.append(buffer)
    indices, values = tflite.TensorT(), tflite.TensorT()
    indices.name, indices.shape, indices.type, indices.buffer = (
        "indices",
        [1434],
        tflite.TensorType.INT32,
        len(model.buffers) - 1,
    )
    values.name, values.shape, values.type = "points", [1, 1, 1, 1434], tflite.TensorType.FLOAT32
    graph.tensors += [indices, values]
    code, gather = tflite.OperatorCodeT(), tflite.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = tflite.BuiltinOperator.GATHER
    model.operatorCodes.append(code)
    gather.opcodeIndex = len(model.operatorCodes) - 1
    gather.inputs, gather.outputs = [graph.outputs[0], len(graph.tensors) - 2], [len(graph.tensors) - 1]
    gather.builtinOptionsType, gather.builtinOptions = tflite.BuiltinOptions.GatherOptions, tflite.GatherOptionsT()
    gather.builtinOptions.axis = 3
    graph.operators.append(gather)
    graph.outputs = [len(graph.tensors) - 1, graph.outputs[1]]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(networks / "face_detection" / "face_detection_short_range.tflite", DETECTOR)
        archive.writestr(MESH, bytes(builder.Output()))


@pytest.fixture(scope="module")
def task_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given, networks = os.environ.get(TASK_FILE_VARIABLE), wheel_networks()
    if given:
        return Path(given)
    if networks is None:
        pytest.skip(f"this MediaPipe has no networks inside, and {TASK_FILE_VARIABLE} names none")
    path = tmp_path_factory.mktemp("task") / "face_landmarker.task"
    write_task_file(path, networks)
    return path


@pytest.fixture(scope="module")
def tasks(task_file: Path) -> MediapipeTaskLandmarks:
    from fit3d.observe.mediapipe_tasks import MediapipeTaskLandmarks

    return MediapipeTaskLandmarks(task_file=task_file)


@pytest.fixture(scope="module")
def solutions() -> MediapipeLandmarks:
    """The older interface, on the same networks as the newer: mesh without attention, short range detector alone."""
    if wheel_networks() is None:
        pytest.skip("this MediaPipe has no older interface")
    from fit3d.observe import mediapipe as backend

    class SameNetworks(backend.MediapipeLandmarks):
        def _points(self, image: np.ndarray) -> tuple[np.ndarray, float]:
            points, confidence = super()._points(image)
            return np.concatenate([points, points[[159] * 5 + [386] * 5]]), confidence

        def _proposals(self, image: np.ndarray, detector: Any) -> list[Any]:
            return super()._proposals(image, "short")

    whole = backend.SolutionBase

    def without_attention(**keywords: Any) -> Any:
        return whole(**{**keywords, "side_inputs": {"with_attention": False}})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "SolutionBase", without_attention)
        return SameNetworks()


@pytest.fixture(scope="module")
def example(astronaut: Path) -> np.ndarray:
    return load_photo(astronaut).pixels


def height_of(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[152] - points[10]))


def faces_of(detector: Any, pixels: np.ndarray) -> list[np.ndarray]:
    return [face.points_px for face in detector.detect(Photo.from_array(np.ascontiguousarray(pixels)))]


def moved(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Mean distance of the points of faces, in heights of the face; of the worst."""
    assert len(found) == len(expected) > 0
    return max(
        float(np.linalg.norm(one - other, axis=1).mean()) / height_of(other)
        for one, other in zip(found, expected, strict=True)
    )


def test_the_mesh_sees_the_view_and_nothing_else(
    tasks: MediapipeTaskLandmarks, solutions: MediapipeLandmarks, example: np.ndarray
) -> None:
    """A hundredth of a pixel between the interfaces, wherever the face lies in the view and however it is turned."""
    import cv2

    from fit3d.observe.face_search import Pyramid, Square

    pyramid = Pyramid(example)
    assert tasks.mesh_resolution == solutions.mesh_resolution == 192
    for square in (Square(224, 121, 170), Square(236, 128, 190, 0.2), Square(215, 110, 150, -0.15)):
        view = pyramid.cut(square, 192, cv2.BORDER_REPLICATE)
        (found, sure), (expected, presence) = tasks._points(view), solutions._points(view)
        assert sure == 1.0 and presence > 0.9 and found.shape == expected.shape == (478, 3)
        assert np.abs(found - expected)[:, :2].max() < 0.05
        assert np.abs(found - expected)[:, 2].max() < 0.2


def test_detector_sees_what_the_older_one_sees(
    tasks: MediapipeTaskLandmarks, solutions: MediapipeLandmarks, example: np.ndarray
) -> None:
    """Boxes are in whole pixels here, all else is the same."""
    import cv2

    from fit3d.observe.face_search import Pyramid, Square

    pyramid = Pyramid(example)
    for square in (Square(230, 140, 300), Square(256, 256, 512, 0.3), Square(200, 100, 250)):
        view = pyramid.cut(square, 256, cv2.BORDER_CONSTANT)
        (found,), (expected,) = tasks._proposals(view, "short"), solutions._proposals(view, "short")
        assert found.confidence == pytest.approx(expected.confidence, abs=0.02)
        np.testing.assert_allclose(found.centre, expected.centre, atol=0.8)
        np.testing.assert_allclose(found.eyes, expected.eyes, atol=0.4)
        assert found.side == pytest.approx(expected.side, abs=1.5)


def test_same_landmarks_as_by_the_older_interface(
    tasks: MediapipeTaskLandmarks, solutions: MediapipeLandmarks, example: np.ndarray
) -> None:
    two = np.full((300, 620, 3), 90, np.uint8)
    two[20:220, 30:230] = example[:200, 130:330]
    two[60:260:1, 400:600] = example[:200, 330:130:-1]
    for pixels in (example, np.rot90(example), example[40:200, 160:290], two):
        found, expected = faces_of(tasks, pixels), faces_of(solutions, pixels)
        assert moved(found, expected) < 0.003  # half of what settling leaves open
    assert len(found) == 2


def test_landmarks_of_the_example(tasks: MediapipeTaskLandmarks, example: np.ndarray) -> None:
    (face,) = tasks.detect(Photo.from_array(example))
    assert face.layout == "mediapipe478" and face.points_px.shape == (478, 2) and face.points_px.dtype == np.float64
    assert face.backend.name == "mediapipe" and face.backend.version[0].isdigit()
    # Read off the enlarged photo by eye: corners of the mouth, chin.
    for index, place in {61: (202.5, 140.0), 291: (245.5, 141.0), 152: (224.0, 177.5)}.items():
        assert np.linalg.norm(face.points_px[index] - place) < 3.5, (index, face.points_px[index])


def test_small_face_in_a_large_photo(tasks: MediapipeTaskLandmarks, example: np.ndarray) -> None:
    """40 px: the short range detector finds it on tiles, in place of the full range one, which Tasks lacks."""
    import cv2

    (whole,) = faces_of(tasks, example)
    scale = 40.0 / height_of(whole)
    side = round(scale * example.shape[0])
    large = np.full((1500, 2000, 3), 110, np.uint8)
    large[900 : 900 + side, 1300 : 1300 + side] = cv2.resize(example, (side, side), interpolation=cv2.INTER_AREA)
    found = [(points - (1300, 900)) * (example.shape[0] / side) for points in faces_of(tasks, large)]
    assert moved(found, [whole]) < 0.03


def test_tiles_of_a_view_show_smaller_faces(tasks: MediapipeTaskLandmarks, example: np.ndarray) -> None:
    import cv2

    (whole,) = faces_of(tasks, example)
    side, x, y = 110, 140, 5
    view = np.full((256, 256, 3), 110, np.uint8)
    view[y : y + side, x : x + side] = cv2.resize(example, (side, side), interpolation=cv2.INTER_AREA)
    eyes = np.stack([whole[[33, 133]].mean(0), whole[[362, 263]].mean(0)]) * side / example.shape[0] + (x, y)
    assert tasks._proposals(view, "short") == []
    surest = max(tasks._proposals(view, "full"), key=lambda face: face.confidence)
    np.testing.assert_allclose(surest.eyes, eyes, atol=4.0)
    assert np.abs(surest.centre - eyes.mean(0)).max() < 0.4 * surest.side and 10 < surest.side < 35


def test_no_face_and_a_doubtful_one(tasks: MediapipeTaskLandmarks, example: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for pixels in (np.zeros((300, 400, 3), np.uint8), rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)):
        assert faces_of(tasks, pixels) == []
    points, confidence = tasks._points(np.zeros((192, 192, 3), np.uint8))
    assert confidence == 0.0 and points.shape == (478, 3) and np.isfinite(points).all()


def test_same_bytes_whatever_came_before(tasks: MediapipeTaskLandmarks, example: np.ndarray) -> None:
    (expected,) = faces_of(tasks, example)
    for other in (np.zeros((64, 64, 3), np.uint8), example[:, ::-1]):
        faces_of(tasks, other)
        (again,) = faces_of(tasks, example)
        assert again.tobytes() == expected.tobytes()


def test_another_process_gives_the_same_bytes_and_says_nothing(
    tasks: MediapipeTaskLandmarks, task_file: Path, astronaut: Path, example: np.ndarray
) -> None:
    """Not when it ends either, where MediaPipe's objects outlive the thread that would close them."""
    code = (
        "import sys, pathlib\n"
        "from fit3d.observe.mediapipe_tasks import MediapipeTaskLandmarks\n"
        "from fit3d.photo import load_photo\n"
        f"detector = MediapipeTaskLandmarks(task_file=pathlib.Path({str(task_file)!r}))\n"
        f"faces = detector.detect(load_photo({str(astronaut)!r}))\n"
        "sys.stdout.buffer.write(faces[0].points_px.tobytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert done.stdout == faces_of(tasks, example)[0].tobytes()
    assert done.stderr == b""


def test_real_photos(shared_data: Path, tasks: MediapipeTaskLandmarks) -> None:
    """Every face of the photos is found once; both of the picture with two."""
    for path in sorted((shared_data / "photos").iterdir()):
        if path.name not in ("fire.webp", "sideface.jpg"):  # hardly to be seen, exactly from the side
            faces = tasks.detect(load_photo(path))
            assert len(faces) == {"twogirls.jpg": 2}.get(path.name, 1), path.name


# The file


def refused(path: Path) -> str:
    from fit3d.observe.mediapipe_tasks import MediapipeTaskLandmarks

    with pytest.raises(UsageError, match=r"run: fit3d weights pull mediapipe$") as caught:
        MediapipeTaskLandmarks(task_file=path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path))
    return message


def test_it_lies_where_weights_pull_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task_file: Path, example: np.ndarray
) -> None:
    from fit3d.observe.mediapipe_tasks import MediapipeTaskLandmarks

    monkeypatch.setenv("FIT3D_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"face_landmarker\.task is missing.*; run: fit3d weights pull mediapipe$"):
        MediapipeTaskLandmarks()
    place = weights.path("face_landmarker.task")
    place.parent.mkdir(parents=True)
    place.write_bytes(task_file.read_bytes())
    assert len(faces_of(MediapipeTaskLandmarks(), example)) == 1


def test_files_that_are_something_else(tmp_path: Path, task_file: Path) -> None:
    path = tmp_path / "face_landmarker.task"
    path.write_bytes(b"<html>")
    assert "not a zip file" in refused(path)
    with zipfile.ZipFile(task_file) as archive:
        detector, mesh = archive.read(DETECTOR), archive.read(MESH)
    for members, said in (
        ({DETECTOR: detector}, MESH),
        ({DETECTOR: mesh, MESH: detector}, "a network from 192 x 192 x 3"),
        ({DETECTOR: detector, MESH: b"\0" * 4096}, "not the face_landmarker.task"),
        ({DETECTOR: detector, MESH: mesh[:64]}, "not the face_landmarker.task"),
        ({DETECTOR: detector, MESH: bytes(65 << 20)}, "at most 67108864"),
    ):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        assert said in refused(path)
    whole = task_file.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path)
