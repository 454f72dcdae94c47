"""The search for faces in a photo, whatever runs the networks.

A pipeline that looks once at the whole photo misses small, turned and frame-filling faces, and its points depend on
where in the photo the face lies. Here two kinds of network are called separately: face detectors propose faces in many
views of the photo (squares of it, some of them turned), and a mesh network then looks at a square cut tightly and
upright around each proposal, again and again until the square no longer moves.

A backend derives from `FaceSearch` and runs the networks on pictures; nothing here knows what runs them.
"""

from __future__ import annotations

import math
import threading
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from fit3d.errors import ObservationError
from fit3d.observe.base import LandmarkDetector, Landmarks
from fit3d.observe.mesh_confidence import landmark_confidence, spread_of_looks
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
DETECTED_FAR = 0.6
"""Least confidence with which the full range detector, which knows faces that the frame cuts and faces from the side
better, must find the settled face where the short range one is not sure."""
STEADY = 0.011
"""Root mean square distance, in heights of the face, of points from their mean over several looks (the median over the
points), up to which one of the detectors is enough. Photos stay below 0.0095, heads of clay below 0.015 up to 70
degrees of yaw; cells and motorcycles begin at 0.014."""
CLEARLY = 0.1
"""A wavering face needs no second detector if the first sees it in both views, and the square turned round holds a face
with a confidence that is lower by this. Of cells, which have no right way up, both are the same."""
WAVERING = 0.02
"""Above this there is no face, or none that the points fit."""
SMALL_FACE = 0.25
"""Where even the largest face has a smaller square than this, in sides of the tiles looked at so far, the search for
others goes on in smaller tiles: groups of people."""
MIN_TILE_PX = 256
"""Tiles get no smaller than this: the full range detector sees faces of a twentieth of its view."""
MOST_TILES = 16
"""Nor smaller than the photo's longer side over this, so that no photo takes longer than one of 12 megapixels: in one
of 200 megapixels that has no larger face, those below some 50 px are not looked for."""

LOOKS_SCALE_TURN = ((1.0, 0.06), (1.0, -0.06), (0.96, 0.0), (1.04, 0.0))
"""Relative size and turn, radians, of the squares whose points are averaged: halves how far points move when the same
face lies elsewhere in the photo or has another size."""
WIDER_LOOK = 1.15
"""A wider square tells whether the mouth opens further than the points say."""
GAPING = 0.025
"""It does if it opens by this much more, in heights of the face; other faces stay below 0.015."""

_OUTER_EYE_RIGHT, _OUTER_EYE_LEFT, _FOREHEAD, _CHIN, _UPPER_LIP, _LOWER_LIP = 33, 263, 10, 152, 13, 14
_QUARTER_TURNS = (math.pi / 2, math.pi, -math.pi / 2)

DetectorRange = Literal["short", "full"]
"""Which detector proposes: of faces that fill a fifth of the view or more, or of smaller ones too."""


@dataclass(frozen=True)
class Detection:
    """A face that a detector sees in a view; all in pixels of the view."""

    confidence: float
    """From 0 to 1."""
    centre: np.ndarray
    """(2,) middle of the face's box."""
    side: float
    """Longer side of the face's box."""
    eyes: np.ndarray
    """(2, 2) right and left eye."""


@dataclass(frozen=True)
class Square:
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

    def scaled(self, factor: float) -> Square:
        """The square with the same centre and turn and `factor` times the side."""
        return Square(self.x, self.y, factor * self.side, self.turn)

    def agrees(self, other: Square) -> bool:
        """Whether another look at the same face may give this square."""
        distance = math.hypot(self.x - other.x, self.y - other.y)
        turn = abs(math.remainder(self.turn - other.turn, 2.0 * math.pi))
        return distance < 0.15 * other.side and 0.7 < self.side / other.side < 1.25 and turn < math.radians(25.0)

    def same_face(self, other: Square) -> bool:
        """Whether two face squares are about the same place and size."""
        distance = math.hypot(self.x - other.x, self.y - other.y)
        smaller, larger = sorted((self.side, other.side))
        return distance < 0.25 * larger and smaller > 0.5 * larger


@dataclass(frozen=True)
class FoundFace:
    """A face that the networks agree on."""

    square: Square
    """The upright square around it."""
    looks: np.ndarray
    """(L, 478, 3) its points, photo px, in each of the looks that are averaged."""

    @property
    def spread(self) -> float:
        """How far a point is from its mean over the looks, in heights of the face."""
        return float(np.median(spread_of_looks(self.looks)))


class Pyramid:
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

    def cut(self, square: Square, resolution: int, border: int) -> np.ndarray:
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


class FaceSearch(LandmarkDetector):
    """The 478 points of each face, by a search that uses nothing of its networks but `_proposals` and `_points`.

    What it returns depends on the photo alone, not on photos seen before.
    """

    mesh_resolution = MESH_RESOLUTION
    """Side of the mesh network's input, px."""

    def __init__(self, triangles: np.ndarray) -> None:
        """`triangles` (T, 3) of the mesh, see `mesh_triangles`."""
        self._lock = threading.Lock()
        self._triangles = triangles

    @abstractmethod
    def _proposals(self, image: np.ndarray, detector: DetectorRange) -> list[Detection]:
        """Faces that a detector sees in a view, a picture (DETECTOR_RESOLUTION, DETECTOR_RESOLUTION, 3) uint8."""

    @abstractmethod
    def _points(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        """What the mesh network makes of a square picture uint8 of side `mesh_resolution` that holds one face.

        Points (478, 3) and the network's confidence that this is a face. The third coordinate grows away from the
        viewer; all are px of the picture, corner-based.
        """

    def detect(self, photo: Photo) -> list[Landmarks]:
        """Landmarks of each face, largest first; an empty list where there is none.

        Raises:
            ObservationError: the mesh network returned NaN or infinity.
        """
        with self._lock:
            faces = self._search(Pyramid(photo.pixels))
        faces.sort(key=lambda face: -face.square.side)
        if not all(np.isfinite(face.looks).all() for face in faces):
            raise ObservationError(
                f"{photo.path}: mediapipe returned landmarks that are not numbers; try another detector (--landmarks)"
            )
        return [
            Landmarks(
                "mediapipe478",
                face.looks.mean(axis=0)[:, :2],
                self.backend,
                landmark_confidence(face.looks, self._triangles, (photo.height, photo.width)),
            )
            for face in faces
        ]

    def _warm_up(self) -> None:
        """Run each network once: some complain only then."""
        side = self.mesh_resolution
        blank, whole = Pyramid(np.zeros((side, side, 3), np.uint8)), Square(side / 2, side / 2, side)
        self._propose(blank, whole, "short")
        self._propose(blank, whole, "full")
        self._run_mesh(blank, whole)

    def _search(self, pyramid: Pyramid) -> list[FoundFace]:
        """Faces with their squares. The search widens while nothing is found."""
        height, width = pyramid.hw
        longer = max(height, width)
        faces: list[FoundFace] = []
        whole = Square(width / 2, height / 2, longer)
        self._look(pyramid, [whole, whole.scaled(2.0)], "short", faces)
        self._look(pyramid, [whole], "full", faces)

        side, smallest = float(longer), max(MIN_TILE_PX, longer / MOST_TILES)
        turns: tuple[float, ...] = (0.0,)
        while all(face.square.side < SMALL_FACE * side for face in faces):
            side /= 2
            if side < smallest and side < longer / 2:
                if faces or len(turns) > 1:
                    break
                # The short range detector finds turned faces too, where they fill a fifth of its view; now the smaller.
                side, turns = longer, _QUARTER_TURNS
            grid = list(tiles(width, height, side))
            views = [Square(tile.x, tile.y, tile.side, turn) for turn in turns for tile in grid]
            self._look(pyramid, views, "full", faces)
            if len(turns) == 1 and (side == longer / 2 or not faces):
                self._look(pyramid, views, "short", faces)
        return faces

    def _look(
        self,
        pyramid: Pyramid,
        views: list[Square],
        detector: DetectorRange,
        faces: list[FoundFace],
    ) -> None:
        """Add to `faces` what `detector` proposes in `views`, the mesh network confirms and is not known yet."""
        proposals = [proposal for view in views for proposal in self._propose(pyramid, view, detector)]
        proposals.sort(key=lambda proposal: -proposal[0])
        for _, square in proposals:
            if any(square.same_face(known.square) for known in faces):
                continue
            face = self._settle(pyramid, square)
            if face is not None and not any(face.square.same_face(known.square) for known in faces):
                faces.append(face)

    def _propose(self, pyramid: Pyramid, view: Square, detector: DetectorRange) -> list[tuple[float, Square]]:
        """Confidence and upright square of each face that a detector sees in a view."""
        photo_from_view = view.photo_from_view(DETECTOR_RESOLUTION)
        proposals = []
        for face in self._proposals(pyramid.cut(view, DETECTOR_RESOLUTION, cv2.BORDER_CONSTANT), detector):
            x, y = photo_from_view[:, :2] @ face.centre + photo_from_view[:, 2]
            right_eye, left_eye = face.eyes
            turn = view.turn + math.atan2(left_eye[1] - right_eye[1], left_eye[0] - right_eye[0])
            side = MESH_MARGIN * face.side / DETECTOR_RESOLUTION * view.side
            values = (float(x), float(y), side, turn)
            if all(math.isfinite(value) for value in values) and side > 0:
                proposals.append((face.confidence, Square(*values)))
        return proposals

    def _settle(self, pyramid: Pyramid, proposal: Square) -> FoundFace | None:
        """The face at `proposal`; None if there is none.

        The detectors take some faces that are upside down for upright ones, so other turns are tried as well.
        """
        for turn in (0.0, *_QUARTER_TURNS):
            square = Square(proposal.x, proposal.y, proposal.side, proposal.turn + turn)
            points, confidence = self._run_mesh(pyramid, square)
            moved = math.inf
            for _ in range(MESH_PASSES - 1):
                if not np.isfinite(points).all():
                    return FoundFace(square, points[None])  # `detect` reports it
                if confidence < HOPELESS or moved < SETTLED:
                    break
                square = _square_around(points[:, :2])
                again, confidence = self._run_mesh(pyramid, square)
                moved = float(np.linalg.norm((again - points)[:, :2], axis=1).mean()) / square.side
                points = again
            if confidence >= FACE_CONFIDENCE and moved < AGREEMENT:
                face = FoundFace(square, self._refined(pyramid, square, points))
                if self._detected_again(pyramid, square, face.spread):
                    return face
        return None

    def _refined(self, pyramid: Pyramid, square: Square, points: np.ndarray) -> np.ndarray:
        """Several looks (L, 478, 3) at a settled face with `points` (478, 3); their mean is better than any one.

        A mouth may gape so far that the chin lies outside what the network expects. Then the points have settled on a
        face that ends within the mouth; a wider square shows the mouth far more open, and is taken instead.
        """
        wider, confidence = self._run_mesh(pyramid, square.scaled(WIDER_LOOK))
        gained = _distance(wider, _LOWER_LIP, _UPPER_LIP) - _distance(points, _LOWER_LIP, _UPPER_LIP)
        if confidence >= FACE_CONFIDENCE and gained > GAPING * _distance(points, _CHIN, _FOREHEAD):
            square = square.scaled(WIDER_LOOK)
        squares = [Square(square.x, square.y, scale * square.side, square.turn + t) for scale, t in LOOKS_SCALE_TURN]
        looks = [look for look, sure in (self._run_mesh(pyramid, each) for each in squares) if sure >= HOPELESS]
        return np.stack(looks or [points])

    def _detected_again(self, pyramid: Pyramid, square: Square, spread: float) -> bool:
        """Whether the detectors, looking again at the square and its surroundings, see this very face.

        Points of an upside-down face may settle with the eyes on its eyes and the mouth on its forehead. Then the
        detector is surer of the face it sees with the square turned round.
        """
        if spread > WAVERING:
            return False
        around = square.scaled(1.5)
        upside_down = Square(around.x, around.y, around.side, around.turn + math.pi)
        (confidence, found), (wider_confidence, wider_found), (opposite_confidence, _) = (
            max(self._propose(pyramid, view, "short"), key=lambda proposal: proposal[0], default=(0.0, view))
            for view in (square, around, upside_down)
        )
        agreeing = [
            sure
            for sure, face in ((confidence, found), (wider_confidence, wider_found))
            if sure > 0.0 and face.agrees(square)
        ]
        near = max(agreeing, default=0.0) >= DETECTED_AGAIN
        surest = max(confidence, wider_confidence)
        if near and spread <= STEADY:
            return opposite_confidence <= surest
        if near and len(agreeing) == 2 and opposite_confidence <= surest - CLEARLY:
            return True
        if not near and spread > STEADY:
            return False
        views = (around, square.scaled(2.0), square.scaled(3.0))
        proposals = [proposal for view in views for proposal in self._propose(pyramid, view, "full")]
        far = max((confidence for confidence, found in proposals if found.agrees(square)), default=0.0)
        return far >= DETECTED_FAR and opposite_confidence <= max(surest, far)

    def _run_mesh(self, pyramid: Pyramid, square: Square) -> tuple[np.ndarray, float]:
        """One pass of the mesh network: points (478, 3), photo px, and its confidence that this is a face."""
        points, confidence = self._points(pyramid.cut(square, self.mesh_resolution, cv2.BORDER_REPLICATE))
        photo_from_view = square.photo_from_view(self.mesh_resolution)
        xy = points[:, :2] @ photo_from_view[:, :2].T + photo_from_view[:, 2]
        return np.column_stack([xy, points[:, 2] * (square.side / self.mesh_resolution)]), confidence


def _distance(points: np.ndarray, first: int, second: int) -> float:
    """Between two points of (478, 3), px of the photo."""
    return float(np.linalg.norm(points[first, :2] - points[second, :2]))


def tiles(width: int, height: int, side: float) -> Iterator[Square]:
    """Squares that cover the photo and overlap by half."""
    columns, rows = (max(math.ceil(length / (side / 2)) - 1, 1) for length in (width, height))
    for row in range(rows):
        for column in range(columns):
            x = width / 2 if columns == 1 else side / 2 + (width - side) * column / (columns - 1)
            y = height / 2 if rows == 1 else side / 2 + (height - side) * row / (rows - 1)
            yield Square(x, y, side)


def _square_around(points: np.ndarray) -> Square:
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
    return Square(float(x), float(y), MESH_MARGIN * float((high - low).max()), turn)
