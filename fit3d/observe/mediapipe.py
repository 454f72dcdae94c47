"""Landmarks from MediaPipe's face mesh; all weights are inside the mediapipe package, up to its version 0.10.21."""

from __future__ import annotations

import os

# Read once, while mediapipe loads.
os.environ.setdefault("GLOG_minloglevel", "3")

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
from google.protobuf import text_format
from mediapipe.calculators.util import thresholding_calculator_pb2  # noqa: F401  makes the graph's options known
from mediapipe.framework import calculator_pb2
from mediapipe.framework.formats import rect_pb2
from mediapipe.python.solution_base import SolutionBase
from mediapipe.python.solutions.face_detection import FaceDetection
from mediapipe.tasks.python.vision.face_landmarker import FaceLandmarksConnections

from fit3d.observe.base import Backend
from fit3d.observe.face_search import (
    DETECTOR_CONFIDENCE,
    DETECTOR_RESOLUTION,
    MESH_RESOLUTION,
    Detection,
    DetectorRange,
    FaceSearch,
)
from fit3d.observe.mesh_confidence import mesh_triangles
from fit3d.observe.quiet import quiet_stderr

_SCORE_STREAM = "facelandmarkcpu__face_presence_score"
_MESH_GRAPH = """
    input_stream: "image"
    input_stream: "roi"
    input_side_packet: "with_attention"
    output_stream: "landmarks"
    node {
        calculator: "FaceLandmarkCpu"
        input_stream: "IMAGE:image"
        input_stream: "ROI:roi"
        input_side_packet: "WITH_ATTENTION:with_attention"
        output_stream: "LANDMARKS:landmarks"
    }
"""


class MediapipeLandmarks(FaceSearch):
    """The 478 points of MediaPipe's attention mesh, run by mediapipe's older interface, 'solutions'."""

    def __init__(self, device: str = "cpu") -> None:
        edges = FaceLandmarksConnections.FACE_LANDMARKS_TESSELATION
        super().__init__(mesh_triangles((edge.start, edge.end) for edge in edges))
        self.backend = Backend("mediapipe", version("mediapipe"))
        with quiet_stderr():
            self._detectors = {
                "short": FaceDetection(model_selection=0, min_detection_confidence=DETECTOR_CONFIDENCE),
                "full": FaceDetection(model_selection=1, min_detection_confidence=DETECTOR_CONFIDENCE),
            }
            self._mesh = SolutionBase(
                graph_config=text_format.Parse(_MESH_GRAPH, calculator_pb2.CalculatorGraphConfig()),
                side_inputs={"with_attention": True},
                outputs=["landmarks", _SCORE_STREAM],
                calculator_params={"facelandmarkcpu__ThresholdingCalculator.threshold": 0.0},
            )
            self._warm_up()

    def _proposals(self, image: np.ndarray, detector: DetectorRange) -> list[Detection]:
        with _no_python_warnings():
            found = self._detectors[detector].process(image).detections or []
        detections = []
        for detection in found:
            location: Any = detection.location_data
            box = location.relative_bounding_box
            centre = np.array([box.xmin + box.width / 2, box.ymin + box.height / 2])
            eyes = np.array([(point.x, point.y) for point in location.relative_keypoints[:2]])
            side = DETECTOR_RESOLUTION * max(box.width, box.height)
            score = float(detection.score[0])
            detections.append(Detection(score, DETECTOR_RESOLUTION * centre, side, DETECTOR_RESOLUTION * eyes))
        return detections

    def _points(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        everything = rect_pb2.NormalizedRect(x_center=0.5, y_center=0.5, width=1.0, height=1.0, rotation=0.0)
        with _no_python_warnings():
            result: Any = self._mesh.process({"image": image, "roi": everything})
        points = np.array([(point.x, point.y, point.z) for point in result.landmarks.landmark]) * MESH_RESOLUTION
        return points, float(getattr(result, _SCORE_STREAM))


@contextmanager
def _no_python_warnings() -> Iterator[None]:
    """Without protobuf's deprecation warning, which mediapipe sets off in each call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
