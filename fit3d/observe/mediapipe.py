"""Landmarks from MediaPipe's face mesh; all weights are inside the mediapipe package.

MediaPipe's own pipeline looks once at the whole photo, so it misses small, turned and frame-filling faces, and its
points depend on where in the photo the face lies. Here its networks are called separately: two face detectors propose
faces in many views of the photo (squares of it, some of them turned), and the mesh network then looks at a square cut
tightly and upright around each proposal, again and again until the square no longer moves.
"""

from __future__ import annotations

import os

# Read once, while mediapipe loads.
os.environ.setdefault("GLOG_minloglevel", "3")

import math
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import cv2
import numpy as np
from google.protobuf import text_format
from mediapipe.calculators.util import thresholding_calculator_pb2  # noqa: F401  makes the graph's options known
from mediapipe.framework import calculator_pb2
from mediapipe.framework.formats import rect_pb2
from mediapipe.python.solution_base import SolutionBase
from mediapipe.python.solutions.face_detection import FaceDetection

from fit3d.errors import ObservationError
from fit3d.observe.base import Backend, LandmarkDetector, Landmarks
from fit3d.photo import Photo

MESH_RESOLUTION = 192
"""Side of the mesh network's input, px."""
MESH_MARGIN = 1.5
"""Side of the square that the mesh network sees, over the longer side of the face: what it was trained with."""
DETECTOR_RESOLUTION = 256
"""Side of the views the detectors get, px; they scale them to 128 (short range) and 192 (full range)."""
DETECTOR_CONFIDENCE = 0.3
"""Least confidence of a proposal. Low, because the mesh network judges each one again and far more sharply."""
FACE_CONFIDENCE = 0.5
"""Least confidence of the mesh network that its square holds a face: faces give 1.0, anything else nearly 0."""
HOPELESS = 0.01
"""Below this confidence no further pass is made."""
MESH_PASSES = 6
"""Most passes of the mesh network over a proposal."""
SETTLED = 0.002
"""The passes end when the points move by less than this, on average, in sides of the square."""
AGREEMENT = 0.02
"""The last two passes must agree within this, in sides of the square, or there is no face."""
DETECTED_AGAIN = 0.7
"""Least confidence with which the short range detector must find the settled face once more, in its own upright
square. The mesh network alone sees faces in clocks and rockets, and lets points of a half hidden face slide off."""
SMALL_FACE = 0.25
"""Where even the largest face has a smaller square than this, in longer sides of the photo, the search for others goes
on in tiles: groups of people."""
MIN_TILE_PX = 256
"""Tiles get no smaller than this: the full range detector sees faces of a twentieth of its view."""

LOOKS_SCALE_TURN = ((1.0, 0.06), (1.0, -0.06), (0.96, 0.0), (1.04, 0.0))
"""Relative size and turn, radians, of the squares whose points are averaged: halves how far points move when the same
face lies elsewhere in the photo or has another size."""
WIDER_LOOK = 1.15
"""A wider square tells whether the mouth opens further than the points say."""
GAPING = 0.025
"""It does if it opens by this much more, in heights of the face; other faces stay below 0.015."""

_OUTER_EYE_RIGHT, _OUTER_EYE_LEFT, _FOREHEAD, _CHIN, _UPPER_LIP, _LOWER_LIP = 33, 263, 10, 152, 13, 14

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

_DetectorRange = Literal["short", "full"]


@dataclass(frozen=True)
class _Square:
    """A square of the photo, possibly turned and reaching beyond it."""

    x: float
    y: float
    """Centre, photo px."""
    side: float
    """Photo px."""
    turn: float = 0.0
    """Radians that the square's x axis is turned clockwise, as seen, from the photo's."""

    def photo_from_view(self, resolution: int) -> np.ndarray:
        """(2, 3) affine map from pixels of the square cut out at `resolution` to photo pixels, corner-based."""
        scale = self.side / resolution
        cos, sin = scale * math.cos(self.turn), scale * math.sin(self.turn)
        linear = np.array([[cos, -sin], [sin, cos]])
        offset = np.array([self.x, self.y]) - linear @ np.full(2, resolution / 2)
        return np.column_stack([linear, offset])

    def scaled(self, factor: float) -> _Square:
        """The square with the same centre and turn and `factor` times the side."""
        return _Square(self.x, self.y, factor * self.side, self.turn)

    def agrees(self, other: _Square) -> bool:
        """Whether another look at the same face may give this square."""
        distance = math.hypot(self.x - other.x, self.y - other.y)
        turn = abs(math.remainder(self.turn - other.turn, 2.0 * math.pi))
        return distance < 0.15 * other.side and 0.7 < self.side / other.side < 1.25 and turn < math.radians(25.0)

    def same_face(self, other: _Square) -> bool:
        """Whether two face squares are about the same place and size."""
        distance = math.hypot(self.x - other.x, self.y - other.y)
        smaller, larger = sorted((self.side, other.side))
        return distance < 0.25 * larger and smaller > 0.5 * larger


class _Pyramid:
    """A photo at full, half, quarter, ... size, so that cutting out large squares does not alias."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.levels = [pixels]
        while min(self.levels[-1].shape[:2]) > 16:
            height, width = self.levels[-1].shape[:2]
            half = cv2.resize(self.levels[-1], ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
            self.levels.append(half)

    @property
    def hw(self) -> tuple[int, int]:
        height, width = self.levels[0].shape[:2]
        return height, width

    def cut(self, square: _Square, resolution: int, border: int) -> np.ndarray:
        """(resolution, resolution, 3) uint8; `border` is OpenCV's rule for what lies outside the photo."""
        octave = math.floor(math.log2(max(square.side / resolution, 1.0)))
        level = self.levels[min(octave, len(self.levels) - 1)]
        shrink = np.array([level.shape[1] / self.hw[1], level.shape[0] / self.hw[0]])
        level_from_view = shrink[:, None] * square.photo_from_view(resolution)
        # OpenCV counts from pixel centres.
        level_from_view[:, 2] += level_from_view[:, :2] @ np.full(2, 0.5) - 0.5
        return cv2.warpAffine(
            level,
            level_from_view,
            (resolution, resolution),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=border,
        )


class MediapipeLandmarks(LandmarkDetector):
    """The 478 points of MediaPipe's attention mesh.

    What it returns depends on the photo alone, not on photos seen before.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.backend = Backend("mediapipe", version("mediapipe"))
        self._lock = threading.Lock()
        with _quiet_stderr():
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
            # The networks complain once more when they first run.
            blank = _Pyramid(np.zeros((MESH_RESOLUTION, MESH_RESOLUTION, 3), np.uint8))
            whole = _Square(MESH_RESOLUTION / 2, MESH_RESOLUTION / 2, MESH_RESOLUTION)
            self._propose(blank, whole, "short")
            self._propose(blank, whole, "full")
            self._run_mesh(blank, whole)

    def detect(self, photo: Photo) -> list[Landmarks]:
        """Landmarks of each face, largest first; an empty list where there is none.

        Raises:
            ObservationError: the mesh network returned NaN or infinity.
        """
        with self._lock:
            faces = self._search(_Pyramid(photo.pixels))
        faces.sort(key=lambda face: -face[0].side)
        if not all(np.isfinite(points).all() for _, points in faces):
            raise ObservationError(
                f"{photo.path}: mediapipe returned landmarks that are not numbers; try another detector (--landmarks)"
            )
        return [Landmarks("mediapipe478", points, self.backend) for _, points in faces]

    def _search(self, pyramid: _Pyramid) -> list[tuple[_Square, np.ndarray]]:
        """Faces with their squares. The search widens while nothing is found."""
        height, width = pyramid.hw
        longer = max(height, width)
        faces: list[tuple[_Square, np.ndarray]] = []
        whole = _Square(width / 2, height / 2, longer)
        self._look(pyramid, [whole, whole.scaled(2.0)], "short", faces)
        self._look(pyramid, [whole], "full", faces)

        if all(square.side < SMALL_FACE * longer for square, _ in faces):
            halves = list(_tiles(width, height, longer / 2))
            self._look(pyramid, halves, "full", faces)
            self._look(pyramid, halves, "short", faces)
        if not faces:
            # The short range detector finds turned faces too, where they fill a fifth of its view; here the smaller.
            turns = [_Square(tile.x, tile.y, tile.side, turn) for turn in _QUARTER_TURNS for tile in [whole, *halves]]
            self._look(pyramid, turns, "full", faces)
        side = longer / 4
        while not faces and side >= MIN_TILE_PX:
            tiles = list(_tiles(width, height, side))
            self._look(pyramid, tiles, "full", faces)
            if not faces:
                self._look(pyramid, tiles, "short", faces)
            side /= 2
        return faces

    def _look(
        self,
        pyramid: _Pyramid,
        views: list[_Square],
        detector: _DetectorRange,
        faces: list[tuple[_Square, np.ndarray]],
    ) -> None:
        """Add to `faces` what `detector` proposes in `views`, the mesh network confirms and is not known yet."""
        proposals = [proposal for view in views for proposal in self._propose(pyramid, view, detector)]
        proposals.sort(key=lambda proposal: -proposal[0])
        for _, square in proposals:
            if any(square.same_face(known) for known, _ in faces):
                continue
            face = self._settle(pyramid, square)
            if face is not None and not any(face[0].same_face(known) for known, _ in faces):
                faces.append(face)

    def _propose(self, pyramid: _Pyramid, view: _Square, detector: _DetectorRange) -> list[tuple[float, _Square]]:
        """Confidence and upright square of each face that a detector sees in a view."""
        image = pyramid.cut(view, DETECTOR_RESOLUTION, cv2.BORDER_CONSTANT)
        with _no_python_warnings():
            detections = self._detectors[detector].process(image).detections or []
        photo_from_view = view.photo_from_view(DETECTOR_RESOLUTION)
        proposals = []
        for detection in detections:
            location: Any = detection.location_data
            box = location.relative_bounding_box
            centre = np.array([box.xmin + box.width / 2, box.ymin + box.height / 2]) * DETECTOR_RESOLUTION
            x, y = photo_from_view[:, :2] @ centre + photo_from_view[:, 2]
            right_eye, left_eye = location.relative_keypoints[:2]
            turn = view.turn + math.atan2(left_eye.y - right_eye.y, left_eye.x - right_eye.x)
            side = MESH_MARGIN * max(box.width, box.height) * view.side
            values = (x, y, side, turn)
            if all(math.isfinite(value) for value in values) and side > 0:
                proposals.append((float(detection.score[0]), _Square(*values)))
        return proposals

    def _settle(self, pyramid: _Pyramid, proposal: _Square) -> tuple[_Square, np.ndarray] | None:
        """The face at `proposal`: its own square and its points (478, 2), photo px; None if there is none.

        The detectors take some faces that are upside down for upright ones, so other turns are tried as well.
        """
        for turn in (0.0, *_QUARTER_TURNS):
            square = _Square(proposal.x, proposal.y, proposal.side, proposal.turn + turn)
            points, confidence = self._run_mesh(pyramid, square)
            moved = math.inf
            for _ in range(MESH_PASSES - 1):
                if not np.isfinite(points).all():
                    return square, points  # `detect` reports it
                if confidence < HOPELESS or moved < SETTLED:
                    break
                square = _square_around(points)
                again, confidence = self._run_mesh(pyramid, square)
                moved = float(np.linalg.norm(again - points, axis=1).mean()) / square.side
                points = again
            if confidence >= FACE_CONFIDENCE and moved < AGREEMENT and self._detected_again(pyramid, square):
                return square, self._refined(pyramid, square, points)
        return None

    def _refined(self, pyramid: _Pyramid, square: _Square, points: np.ndarray) -> np.ndarray:
        """Mean points (478, 2) of several looks at a settled face.

        A mouth may gape so far that the chin lies outside what the network expects. Then the points have settled on a
        face that ends within the mouth; a wider square shows the mouth far more open, and is taken instead.
        """
        wider, confidence = self._run_mesh(pyramid, square.scaled(WIDER_LOOK))
        height = float(np.linalg.norm(points[_CHIN] - points[_FOREHEAD]))
        gained = float(np.linalg.norm(wider[_LOWER_LIP] - wider[_UPPER_LIP]))
        gained -= float(np.linalg.norm(points[_LOWER_LIP] - points[_UPPER_LIP]))
        if confidence >= FACE_CONFIDENCE and gained > GAPING * height:
            square = square.scaled(WIDER_LOOK)
        looks = [
            _Square(square.x, square.y, scale * square.side, square.turn + turn) for scale, turn in LOOKS_SCALE_TURN
        ]
        return np.mean([self._run_mesh(pyramid, look)[0] for look in looks], axis=0)

    def _detected_again(self, pyramid: _Pyramid, square: _Square) -> bool:
        """Whether the short range detector, looking again at the square and its surroundings, sees this very face.

        Points of an upside-down face may settle with the eyes on its eyes and the mouth on its forehead. Then the
        detector is surer of the face it sees with the square turned round.
        """
        around = square.scaled(1.5)
        upside_down = _Square(around.x, around.y, around.side, around.turn + math.pi)
        (confidence, found), (wider_confidence, wider_found), (opposite_confidence, _) = (
            max(self._propose(pyramid, view, "short"), key=lambda proposal: proposal[0], default=(0.0, view))
            for view in (square, around, upside_down)
        )
        if opposite_confidence > max(confidence, wider_confidence):
            return False
        return (confidence >= DETECTED_AGAIN and found.agrees(square)) or (
            wider_confidence >= DETECTED_AGAIN and wider_found.agrees(square)
        )

    def _run_mesh(self, pyramid: _Pyramid, square: _Square) -> tuple[np.ndarray, float]:
        """One pass of the mesh network: points (478, 2), photo px, and its confidence that this is a face."""
        image = pyramid.cut(square, MESH_RESOLUTION, cv2.BORDER_REPLICATE)
        everything = rect_pb2.NormalizedRect(x_center=0.5, y_center=0.5, width=1.0, height=1.0, rotation=0.0)
        with _no_python_warnings():
            result: Any = self._mesh.process({"image": image, "roi": everything})
        points = np.array([(point.x, point.y) for point in result.landmarks.landmark]) * MESH_RESOLUTION
        photo_from_view = square.photo_from_view(MESH_RESOLUTION)
        return points @ photo_from_view[:, :2].T + photo_from_view[:, 2], float(getattr(result, _SCORE_STREAM))


_QUARTER_TURNS = (math.pi / 2, math.pi, -math.pi / 2)


def _tiles(width: int, height: int, side: float) -> Iterator[_Square]:
    """Squares that cover the photo and overlap by half."""
    columns, rows = (max(math.ceil(length / (side / 2)) - 1, 1) for length in (width, height))
    for row in range(rows):
        for column in range(columns):
            x = width / 2 if columns == 1 else side / 2 + (width - side) * column / (columns - 1)
            y = height / 2 if rows == 1 else side / 2 + (height - side) * row / (rows - 1)
            yield _Square(x, y, side)


def _square_around(points: np.ndarray) -> _Square:
    """The upright square that the mesh network wants around a face with these points (478, 2).

    Upright: the line between the eyes and the line from forehead to chin agree with the square's axes as well as
    they can, each weighed by its length, so that a profile, whose eyes nearly coincide, is turned by the other line.
    """
    across = points[_OUTER_EYE_LEFT] - points[_OUTER_EYE_RIGHT]
    down = points[_CHIN] - points[_FOREHEAD]
    turn = math.atan2(across[1] - down[0], across[0] + down[1])
    cos, sin = math.cos(turn), math.sin(turn)
    square_from_photo = np.array([[cos, sin], [-sin, cos]])
    turned = points @ square_from_photo.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    x, y = square_from_photo.T @ ((low + high) / 2)
    return _Square(float(x), float(y), MESH_MARGIN * float((high - low).max()), turn)


@contextmanager
def _no_python_warnings() -> Iterator[None]:
    """Without protobuf's deprecation warning, which mediapipe sets off in each call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Without what C++ writes to file descriptor 2 before its logging can be told to be quiet."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
