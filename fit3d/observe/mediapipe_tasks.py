"""Landmarks from MediaPipe's face mesh by the Tasks interface, the only one of versions 0.10.30 and later.

The package holds no weights any more; they are in `face_landmarker.task`, a zip archive of networks: a detector of
faces (BlazeFace, short range) and the mesh (478 points).

Tasks offers the mesh only together with the detector, which chooses the square that the mesh sees, while the search of
`fit3d.observe.face_search` must choose it itself. So the mesh gets, in memory, an archive of its own, in which the
detector is a network without a single operation: constants, which say that a face fills the view, upright. What the
mesh then sees is the view, to a hundredth of a pixel.
"""

from __future__ import annotations

import os

# Read once, while mediapipe loads.
os.environ.setdefault("GLOG_minloglevel", "3")

import io
import weakref
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import flatbuffers
import mediapipe
import numpy as np
from mediapipe.tasks.metadata import schema_py_generated as tflite
from mediapipe.tasks.python import BaseOptions, vision

from fit3d.errors import UsageError
from fit3d.observe import weights
from fit3d.observe.base import Backend
from fit3d.observe.face_search import (
    DETECTED_AGAIN,
    DETECTOR_CONFIDENCE,
    DETECTOR_RESOLUTION,
    FACE_CONFIDENCE,
    HOPELESS,
    MESH_MARGIN,
    Detection,
    DetectorRange,
    FaceSearch,
)
from fit3d.observe.mesh_confidence import mesh_triangles
from fit3d.observe.quiet import quiet_stderr

_DETECTOR_FILE, _MESH_FILE = "face_detector.tflite", "face_landmarks_detector.tflite"
_MOST_BYTES = 64 << 20
"""A network that says to be larger than this is not read. They have 0.2 and 2.5 million bytes."""
_MESH_VALUES = 478 * 3
_BOX_VALUES = 16
"""The detector's answer at each of its places: centre and size of a box, then six keypoints, px of its input, the
places relative to the anchor."""
_FIRST_ANCHOR_PX = 4
"""Its first anchor is the middle of the first cell of 8 x 8 px."""
_CERTAIN = 100.0
"""Log-odds; the detector's decoder clips them here."""
_DOUBTFUL = (HOPELESS + FACE_CONFIDENCE) / 2
"""Stands for any confidence that is above hopeless and below that of a face."""


class MediapipeTaskLandmarks(FaceSearch):
    """The 478 points of MediaPipe's face mesh.

    Tasks does not tell the mesh's confidence, only whether it exceeds a threshold: what `_points` gives is 1, a value
    below that of a face, or 0. There is no full range detector: the short range one looks at tiles of the view instead.
    """

    def __init__(self, device: str = "cpu", task_file: Path | None = None) -> None:
        """Always on the CPU, whatever `device` says; `task_file` is by default where `fit3d weights pull` puts it."""
        edges = vision.FaceLandmarksConnections.FACE_LANDMARKS_TESSELATION
        super().__init__(mesh_triangles((edge.start, edge.end) for edge in edges))
        self.backend = Backend("mediapipe", version("mediapipe"))
        networks = _Networks.read(weights.path("face_landmarker.task") if task_file is None else task_file)
        self.mesh_resolution = networks.mesh_side_px
        archive = _archive(_always_a_face(networks.detector), networks.mesh)
        with quiet_stderr():
            self._detector = vision.FaceDetector.create_from_options(
                vision.FaceDetectorOptions(
                    BaseOptions(model_asset_buffer=networks.detector), min_detection_confidence=DETECTOR_CONFIDENCE
                )
            )
            self._sure, self._hopeful = (
                vision.FaceLandmarker.create_from_options(
                    vision.FaceLandmarkerOptions(
                        BaseOptions(model_asset_buffer=archive), min_face_presence_confidence=confidence
                    )
                )
                for confidence in (FACE_CONFIDENCE, HOPELESS)
            )
            self._warm_up()
        weakref.finalize(self, _close, self._detector, self._sure, self._hopeful)

    def _proposals(self, image: np.ndarray, detector: DetectorRange) -> list[Detection]:
        detections = self._detections(image)
        if detector == "full":
            sure = [face for face in detections if face.confidence >= DETECTED_AGAIN]
            half = DETECTOR_RESOLUTION // 2  # the network's own resolution: no tile loses detail
            for y, x in product((0, half // 2, half), repeat=2):
                for face in self._detections(image[y : y + half, x : x + half], np.array([x, y])):
                    # seen so closely, a nose with its nostrils may pass for a face
                    if not any(np.abs(face.centre - whole.centre).max() < whole.side / 2 for whole in sure):
                        detections.append(face)
        return detections

    def _detections(self, image: np.ndarray, corner_px: np.ndarray | float = 0.0) -> list[Detection]:
        """What the detector sees in a square picture, moved by where its corner lies."""
        side = image.shape[0]
        found = []
        for detection in self._detector.detect(_image(image)).detections:
            box = detection.bounding_box
            # Tasks cuts off the fractions of these four; the mean of what is lost is a half
            corner = np.array([box.origin_x, box.origin_y]) + 0.5
            size = np.array([box.width, box.height]) + 0.5
            eyes = np.array([(point.x, point.y) for point in detection.keypoints[:2]]) * side
            score = float(detection.categories[0].score)
            found.append(Detection(score, corner + size / 2 + corner_px, float(size.max()), eyes + corner_px))
        return found

    def _points(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        view = _image(image)
        for landmarker, confidence in ((self._sure, 1.0), (self._hopeful, _DOUBTFUL)):
            faces = landmarker.detect(view).face_landmarks
            if faces:
                points = np.array([(point.x, point.y, point.z) for point in faces[0]])
                return points * self.mesh_resolution, confidence
        return np.full((478, 3), self.mesh_resolution / 2), 0.0


def _close(*tasks: Any) -> None:
    for task in tasks:
        try:
            task.close()
        except RuntimeError:
            # At the end of the process the thread that closes them has ended already, and they would say so on the
            # terminal. The end frees them, too; without a handle they believe that they are closed.
            task._handle = None


def _image(pixels: np.ndarray) -> Any:
    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))


@dataclass(frozen=True)
class _Networks:
    """What fit3d takes from a `face_landmarker.task`, as TensorFlow Lite's flat buffers."""

    detector: bytes
    mesh: bytes
    mesh_side_px: int
    """Of the mesh's square input."""

    @staticmethod
    def read(path: Path) -> _Networks:
        """Raises UsageError if the file is missing or is no such archive."""
        try:
            with zipfile.ZipFile(path) as archive:
                detector, mesh = (_member(archive, name) for name in (_DETECTOR_FILE, _MESH_FILE))
            _input_side(detector, (_BOX_VALUES, 1))
            return _Networks(detector, mesh, _input_side(mesh, (_MESH_VALUES, 1)))
        except FileNotFoundError as error:
            needs = f"mediapipe {version('mediapipe')} needs it"
            raise UsageError(f"{path} is missing; {needs}; run: fit3d weights pull mediapipe") from error
        except Exception as error:  # zip archive and flat buffer may be wrong in many ways
            raise UsageError(
                f"{path} is not the face_landmarker.task that fit3d knows ({' '.join(str(error).split())}); "
                "delete it and run: fit3d weights pull mediapipe"
            ) from error


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > _MOST_BYTES:
        raise ValueError(f"{name} has {size} bytes, expected at most {_MOST_BYTES}")
    return archive.read(name)


def _input_side(network: bytes, output_lengths: tuple[int, ...]) -> int:
    """Side, px, of a network's square input, after a look at the last dimensions of its first outputs."""
    model = _unpacked(network)
    graph = model.subgraphs[0]
    lengths = tuple(int(tensor.shape[-1]) for tensor in _outputs(model)[: len(output_lengths)])
    _, height, width, channels = map(int, graph.tensors[graph.inputs[0]].shape)
    if lengths != output_lengths or height != width or channels != 3:
        raise ValueError(f"a network from {height} x {width} x {channels} to {lengths}, expected {output_lengths}")
    return height


def _always_a_face(detector: bytes) -> bytes:
    """A network with the inputs, outputs and metadata of the detector, but without operations.

    Its outputs are constants: at the first anchor, and nowhere else, a face whose box, enlarged by MESH_MARGIN as
    Tasks will do, is the whole view, and whose eyes are level.
    """
    model = _unpacked(detector)
    graph = model.subgraphs[0]
    image, boxes, scores = graph.tensors[graph.inputs[0]], *_outputs(model)
    side = float(image.shape[1])
    centre = side / 2 - _FIRST_ANCHOR_PX
    box = np.zeros(boxes.shape, np.float32)
    box[0, 0, :4] = centre, centre, side / MESH_MARGIN, side / MESH_MARGIN
    box[0, 0, 4:8] = centre - side / 8, centre, centre + side / 8, centre
    score = np.full(scores.shape, -_CERTAIN, np.float32)
    score[0, 0] = _CERTAIN

    buffers = [tflite.BufferT()]  # the first is empty by convention, for tensors without values
    for entry in model.metadata:
        buffers.append(model.buffers[entry.buffer])
        entry.buffer = len(buffers) - 1
    image.buffer = 0
    for tensor, values in ((boxes, box), (scores, score)):
        buffer = tflite.BufferT()
        buffer.data = values.reshape(-1).view(np.uint8)
        buffers.append(buffer)
        tensor.buffer = len(buffers) - 1
    model.buffers, model.operatorCodes = buffers, []
    graph.tensors, graph.operators = [image, boxes, scores], []
    graph.inputs, graph.outputs = [0], [1, 2]
    builder = flatbuffers.Builder(2 * len(detector))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _archive(detector: bytes, mesh: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:  # stored, not compressed: Tasks maps the networks where they lie
        archive.writestr(_DETECTOR_FILE, detector)
        archive.writestr(_MESH_FILE, mesh)
    return stream.getvalue()


def _unpacked(network: bytes) -> Any:
    return tflite.ModelT.InitFromObj(tflite.Model.GetRootAsModel(network, 0))


def _outputs(model: Any) -> list[Any]:
    graph = model.subgraphs[0]
    return [graph.tensors[index] for index in graph.outputs]
