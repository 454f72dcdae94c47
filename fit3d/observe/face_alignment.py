"""Landmarks from FAN, the network of the face-alignment package, in places that one of its face detectors proposes.

Only the package's networks and detectors run. What surrounds them is done here, because the package's own way loses
accuracy: it looks once at the whole photo, upright and at full size, cuts with whole pixels and without smoothing, and
rounds landmarks down to whole pixels.

**Pixels.** FAN gives each landmark a heatmap of 64 x 64 over a square crop of 256 x 256. In its training a landmark at
crop position u, counted from the crop's corner, lifted the heatmap's pixel floor(u / 4) (`transform` and `crop` of
github.com/1adrianb/face-alignment-training; mirrored copies even out what remains). So the mean position of a peak at
pixel p is 4 (p + 1/2) crop px from the corner: heatmap, crop and photo are all counted as fit3d counts, the centre of
the first pixel at (0.5, 0.5). Between the pixels of a heatmap the peak is found by a parabola through its logarithm,
exact for the Gaussian that FAN was trained to draw.

**Confidence.** That Gaussian has height 1 and a standard deviation of s0 = 1.75 heatmap px. Where FAN is unsure by a
standard deviation of s, its best answer is the Gaussian smeared by s, of height s0^2 / (s0^2 + s^2). So the height of
the peak is itself the landmark's weight, inverse variance relative to a sure one; clipped to [0, 1] it is the
confidence. By its author's word 0.92 and 0.96 are alike and 0.6 is worse
(github.com/1adrianb/face-alignment/issues/325). The package's own score adds the peaks of the crop and of its mirror
image (up to 2); here their mean heatmap counts, whose peak is low where the two disagree.

**Contour.** Points 0 to 16 of the 2D network follow the visible outline, as iBUG's annotation does and as landmarks
that slide along the silhouette expect. Those of the 3D network belong to places on the surface, which a cheek may hide:
the more the head is turned, the further from the outline lie those of its far side, and the less say they have here.
"""

from __future__ import annotations

import contextlib
import io
import math
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, Literal

import cv2
import face_alignment
import numpy as np
import torch
from face_alignment import LandmarksType
from face_alignment.utils import CENTER_Y_OFFSET, CROP_RESOLUTION, HEATMAP_RESOLUTION, SCALE_FACTOR, flip

from fit3d.errors import ObservationError, UsageError
from fit3d.landmarks import CONTOUR_LANDMARKS, LANDMARK_COUNTS
from fit3d.observe import weights
from fit3d.observe.base import Backend, LandmarkDetector, Landmarks
from fit3d.observe.face_search import Pyramid, Square, tiles
from fit3d.observe.weights import WeightFile
from fit3d.photo import Photo

FaceDetectorName = Literal["sfd", "blazeface", "yunet", "scrfd"]
"""Face detectors of the package that fit3d offers. Its retinaface needs torchvision, its dlib is on the way out."""

SMALL_FACE = 0.1
"""Where even the largest face is smaller than this, in longer sides of the photo, a closer look is taken for others."""
TURNED_LEVELS = 2
"""The first so many looks, from coarse to fine, are repeated at quarter turns if the photo shows no face upright."""
LEAST_CONFIDENCE = 0.2
"""Mean confidence below which a proposed face is none: its points would be unsure by 3.5 heatmap px, 5 % of
the crop."""
DOUBTFUL = 0.4
"""Mean confidence below which quarter turns of the crop are tried: detectors take faces that lie for upright ones."""
MOST_TILT = math.radians(15.0)
"""A face found to be turned further than this in its crop is cut again upright. FAN has seen turned faces in its
training, but fewer."""
LEVELS = 5
"""Most looks, each twice as fine as the one before."""
LEAST_VIEW_PX = 64
"""Shortest side of a view: detectors halve a picture up to seven times."""
BATCH = 32
"""Pictures that go through a network at once on an accelerator."""

HIDDEN_RATIO, SEEN_RATIO = 0.4, 0.7
"""Half-widths of the face, far over near: with the smaller ratio the far contour of the surface has no say (head turned
by 19 degrees or more), from the larger on (8 degrees or less) its full say."""

_RIGHT_EYE, _LEFT_EYE = slice(36, 42), slice(42, 48)
_NASION, _CHIN, _JAW_RIGHT, _JAW_LEFT = 27, 8, 0, 16
_QUARTER_TURNS = (math.pi / 2, math.pi, -math.pi / 2)


@dataclass(frozen=True)
class _Variant:
    """How one of the package's face detectors wants to be fed."""

    files: dict[str, WeightFile]
    """Its weights, by the argument under which it takes their path. Given a path, it reads them as data; left to find
    them itself, it would unpickle whatever lies there."""
    view_px: int
    """Longer side of its coarsest view."""
    most_px: int | None
    """Longer side of the finest view of the whole photo; None where its input has a fixed size, so that a finer look
    needs tiles of the photo."""
    batches: bool = False
    """Whether it takes several pictures at once."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """What else it is made with."""


_VARIANTS: dict[FaceDetectorName, _Variant] = {
    # Its smallest anchors are 16 px. A view of 2048 px takes a core of a CPU half a minute.
    "sfd": _Variant({"path_to_detector": weights.SFD}, view_px=320, most_px=2048, batches=True),
    # The model for the camera at a telephone's back, which sees smaller faces.
    "blazeface": _Variant(
        {"path_to_detector": weights.BLAZEFACE, "path_to_anchor": weights.BLAZEFACE_ANCHORS},
        view_px=256,
        most_px=None,
        batches=True,
        arguments={"back_model": True},
    ),
    # Trained on faces of 10 to 300 px.
    "yunet": _Variant({"path_to_detector": weights.YUNET}, view_px=320, most_px=4096),
    "scrfd": _Variant({"path_to_detector": weights.SCRFD}, view_px=640, most_px=None),
}


@dataclass(frozen=True)
class _Proposal:
    """A face box of a detector."""

    x: float
    y: float
    """Centre, photo px."""
    width: float
    height: float
    """Photo px, along the axes of the view it was seen in."""
    turn: float
    """Radians that the view was turned clockwise, as seen, from the photo."""

    def crop(self, reference: float) -> Square:
        """What FAN wants to see; `reference` is the detector's mean side of a box, in the package's units."""
        side = SCALE_FACTOR * (self.width + self.height) / reference
        up = CENTER_Y_OFFSET * self.height
        return Square(self.x + up * math.sin(self.turn), self.y - up * math.cos(self.turn), side, self.turn)


@dataclass(frozen=True)
class _Face:
    """A face with its landmarks."""

    square: Square
    """Of the crop."""
    points: np.ndarray
    """(68, 2) photo px."""
    confidence: np.ndarray
    """(68,) from 0 to 1."""

    @property
    def sure(self) -> float:
        return float(self.confidence.mean())


@dataclass(frozen=True)
class _Request:
    """Pictures that a search wants to have looked at."""

    network: Literal["boxes", "heatmaps"]
    pictures: list[np.ndarray]


_Search = Generator[_Request, list[Any], list[_Face]]


class FaceAlignmentLandmarks(LandmarkDetector):
    """The 68 points of FAN.

    What it returns depends on the photo alone. On a CPU it does so to the last bit, also in a batch.
    """

    def __init__(self, device: str = "cpu", variant: FaceDetectorName = "sfd", three_d: bool = False) -> None:
        """Load the networks.

        Args:
            device: torch device of the networks; YuNet runs on the CPU all the same.
            variant: the package's face detector.
            three_d: take the landmarks that FAN learnt from projected 3D heads.

        Raises:
            UsageError: weights are missing or broken, or the detector needs another package. Nothing is downloaded.
        """
        self.backend = Backend(f"face-alignment{'-3d' if three_d else ''}:{variant}", version("face-alignment"))
        self._variant = _VARIANTS[variant]
        self._device = device
        self._three_d = three_d
        self._batched = torch.device(device).type != "cpu"
        self._lock = threading.Lock()
        weights.require(self.backend.name)  # or the package would download them
        paths = {argument: str(file.path) for argument, file in self._variant.files.items()}
        try:
            with _quiet(), _settled_algorithms():
                self._package = face_alignment.FaceAlignment(
                    LandmarksType.TWO_HALF_D if three_d else LandmarksType.TWO_D,
                    device=device,
                    face_detector=variant,
                    face_detector_kwargs=paths | self._variant.arguments,
                    compile=False,
                )
        except ImportError as error:
            raise UsageError(
                f"{self.backend.name} needs a package that is missing; run: pip install onnxruntime"
            ) from error
        except Exception as error:  # readers raise nearly anything on broken files
            raise UsageError(
                f"face-alignment cannot load its weights on {device!r} ({_first_line(error)}); "
                f"run: fit3d weights verify, then: fit3d weights pull {self.backend.name}"
            ) from error

    def detect(self, photo: Photo) -> list[Landmarks]:
        """Landmarks of each face, largest first; an empty list where there is none.

        Raises:
            ObservationError: a network returned NaN or infinity.
        """
        (faces,) = self._detect([photo])
        return faces

    def detect_batch(self, photos: Sequence[Photo]) -> list[list[Landmarks]]:
        """`detect` of each photo. An accelerator sees many at once, a CPU gains nothing from that."""
        size = BATCH if self._batched else 1
        groups = [photos[start : start + size] for start in range(0, len(photos), size)]
        return [faces for group in groups for faces in self._detect(group)]

    def _detect(self, photos: Sequence[Photo]) -> list[list[Landmarks]]:
        with self._lock, _settled_algorithms(), torch.inference_mode():
            found = self._run([self._search(Pyramid(photo.pixels)) for photo in photos])
        result = []
        for photo, faces in zip(photos, found, strict=True):
            if not all(np.isfinite(face.confidence).all() for face in faces):
                raise ObservationError(
                    f"{photo.path}: face-alignment returned scores that are not numbers; check its weights with: "
                    "fit3d weights verify"
                )
            faces.sort(key=lambda face: -face.square.side)
            result.append([Landmarks("ibug68", face.points, self.backend, self._trust(face)) for face in faces])
        return result

    def _trust(self, face: _Face) -> np.ndarray:
        return face.confidence * surface_contour_share(face.points) if self._three_d else face.confidence

    # The search, which asks for pictures to be looked at and knows nothing of devices and batches.

    def _search(self, pyramid: Pyramid) -> _Search:
        """Faces of one photo. The search widens while nothing is found."""
        longer = max(pyramid.hw)
        whole = Square(pyramid.hw[1] / 2, pyramid.hw[0] / 2, longer)
        levels = list(_levels(pyramid, self._variant))
        faces: list[_Face] = []
        for number, (views, resolution) in enumerate(levels):
            if number < TURNED_LEVELS:
                if all(face.square.side < 2.0 * SMALL_FACE * longer for face in faces):  # a crop is twice the face
                    yield from self._look(pyramid, views, resolution, faces)
                continue
            if faces:
                break
            if number == TURNED_LEVELS:
                yield from self._look_turned(pyramid, whole, levels, faces)
            if not faces:
                yield from self._look(pyramid, views, resolution, faces)
        if not faces and len(levels) <= TURNED_LEVELS:
            yield from self._look_turned(pyramid, whole, levels, faces)
        return faces

    def _look_turned(
        self, pyramid: Pyramid, whole: Square, levels: list[tuple[list[Square], int]], faces: list[_Face]
    ) -> Generator[_Request, list[Any], None]:
        """Look at faces larger than the photo, then at those that lie or stand on their head."""
        yield from self._look(pyramid, [whole.scaled(2.0)], levels[0][1], faces)
        for views, resolution in levels[:TURNED_LEVELS]:
            if not faces:
                turned = [replace(view, turn=turn) for turn in _QUARTER_TURNS for view in views]
                yield from self._look(pyramid, turned, resolution, faces)

    def _look(
        self, pyramid: Pyramid, views: list[Square], resolution: int, faces: list[_Face]
    ) -> Generator[_Request, list[Any], None]:
        """Add to `faces` what the detector proposes in `views`, FAN confirms and is not known yet."""
        pictures, corners = [], []
        for view in views:
            picture, corner = _within_photo(pyramid, view, resolution, fixed=self._variant.most_px is None)
            pictures.append(picture)
            corners.append(corner)
        boxes = yield _Request("boxes", pictures)
        proposals: list[tuple[float, _Proposal]] = []
        for view, corner, found in zip(views, corners, boxes, strict=True):
            proposals += _proposals(np.asarray(found, dtype=np.float64), view, resolution, corner)
        proposals.sort(key=lambda each: -each[0])
        for _, proposal in proposals:
            if any(self._crop(proposal).same_face(known.square) for known in faces):
                continue
            face = yield from self._settle(pyramid, proposal)
            if not (face.sure < LEAST_CONFIDENCE or any(face.square.same_face(known.square) for known in faces)):
                faces.append(face)

    def _settle(self, pyramid: Pyramid, proposal: _Proposal) -> Generator[_Request, list[Any], _Face]:
        """The landmarks at a proposed place, of whichever turn of the crop FAN is surest of."""
        (face,) = yield from self._align(pyramid, [proposal])
        best = proposal
        if face.sure < DOUBTFUL:
            others = [replace(proposal, turn=proposal.turn + turn) for turn in _QUARTER_TURNS]
            turned = yield from self._align(pyramid, others)
            best, face = max([(best, face), *zip(others, turned, strict=True)], key=lambda pair: pair[1].sure)
        tilt = _tilt(face)
        if abs(tilt) > MOST_TILT:
            (upright,) = yield from self._align(pyramid, [replace(best, turn=best.turn + tilt)])
            if upright.sure >= face.sure:
                face = upright
        return face

    def _align(self, pyramid: Pyramid, proposals: list[_Proposal]) -> Generator[_Request, list[Any], list[_Face]]:
        """One pass of FAN over each place."""
        squares = [self._crop(proposal) for proposal in proposals]
        crops = [pyramid.cut(square, CROP_RESOLUTION, cv2.BORDER_CONSTANT) for square in squares]
        heatmaps = yield _Request("heatmaps", crops)
        faces = []
        for square, each in zip(squares, heatmaps, strict=True):
            at, confidence = read_heatmaps(each)
            photo_from_heatmap = square.photo_from_view(HEATMAP_RESOLUTION)
            faces.append(_Face(square, at @ photo_from_heatmap[:, :2].T + photo_from_heatmap[:, 2], confidence))
        return faces

    def _crop(self, proposal: _Proposal) -> Square:
        return proposal.crop(self._package.face_detector.reference_scale)

    # The networks.

    def _run(self, searches: list[_Search]) -> list[list[_Face]]:
        """Run searches side by side, so that what they want at one time goes through the networks together."""
        results: list[list[_Face]] = [[] for _ in searches]
        requests: dict[int, _Request] = {}
        answers: dict[int, Any] = dict.fromkeys(range(len(searches)))
        while answers:
            requests.clear()
            for number, answer in answers.items():
                try:
                    requests[number] = searches[number].send(answer)
                except StopIteration as stop:
                    results[number] = stop.value
            answers = {}
            for network in ("boxes", "heatmaps"):
                asking = {number: each.pictures for number, each in requests.items() if each.network == network}
                pictures = [picture for each in asking.values() for picture in each]
                seen = iter(self._boxes(pictures) if network == "boxes" else self._heatmaps(pictures))
                answers |= {number: [next(seen) for _ in each] for number, each in asking.items()}
        return results

    def _boxes(self, pictures: list[np.ndarray]) -> list[Any]:
        """Face boxes (left, top, right, bottom, score) of each picture (h, w, 3) uint8, px of the picture."""
        detector = self._package.face_detector
        if not (self._batched and self._variant.batches):
            return [detector.detect_from_image(picture) for picture in pictures]
        boxes: list[Any] = [None] * len(pictures)
        for shape in {picture.shape for picture in pictures}:
            same = [number for number, picture in enumerate(pictures) if picture.shape == shape]
            for start in range(0, len(same), BATCH):
                some = same[start : start + BATCH]
                batch = torch.from_numpy(np.stack([pictures[number] for number in some])).permute(0, 3, 1, 2)
                for number, found in zip(some, detector.detect_from_batch(batch), strict=True):
                    boxes[number] = found
        return boxes

    def _heatmaps(self, crops: list[np.ndarray]) -> list[np.ndarray]:
        """Heatmaps (68, 64, 64) of each crop (256, 256, 3) uint8: mean of the crop's and of its mirror image's."""
        size = BATCH if self._batched else 1
        heatmaps: list[np.ndarray] = []
        for start in range(0, len(crops), size):
            batch = torch.from_numpy(np.stack(crops[start : start + size])).to(self._device)
            batch = batch.permute(0, 3, 1, 2).to(torch.float32) / 255.0
            plain = self._package.face_alignment_net(batch)[-1]
            mirrored = flip(self._package.face_alignment_net(flip(batch))[-1], is_label=True)
            heatmaps.extend(((plain + mirrored) / 2.0).to("cpu", torch.float32).numpy())
        return heatmaps


def read_heatmaps(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where heatmaps (N, H, W) peak, (N, 2) heatmap px from the corner, and the peaks' height clipped to [0, 1] (N,).

    Between pixels: the vertex of the parabola through the logarithms of the highest pixel and its two neighbours, in
    each direction; at the border and on a plateau the pixel's centre. Confidence is NaN where a heatmap holds NaN.
    """
    count, height, width = heatmaps.shape
    highest = np.nan_to_num(heatmaps.reshape(count, -1), nan=-np.inf).argmax(1)
    rows, columns = np.divmod(highest, width)
    each = np.arange(count)
    at = np.empty((count, 2))
    for axis, (place, length, step) in enumerate(((columns, width, (0, 1)), (rows, height, (1, 0)))):
        inside = (place > 0) & (place < length - 1)
        before, middle, after = (
            np.log(np.maximum(heatmaps[each, rows + inside * sign * step[0], columns + inside * sign * step[1]], 1e-3))
            for sign in (-1, 0, 1)
        )
        bend = 2.0 * middle - before - after
        shift = np.where(bend > 1e-9, (after - before) / np.maximum(2.0 * bend, 1e-9), 0.0)
        at[:, axis] = place + 0.5 + np.clip(np.nan_to_num(shift), -0.5, 0.5)
    peaks = heatmaps[each, rows, columns].astype(np.float64)
    peaks[~np.isfinite(heatmaps).all((1, 2))] = np.nan
    return at, np.clip(peaks, 0.0, 1.0)


def surface_contour_share(points: np.ndarray) -> np.ndarray:
    """(68,) the say, from 0 to 1, that contour points on the surface have as points of the visible outline.

    The head's turn shows in the ratio r of the distances, across the face, from the nasion to the ends of the jaw on
    either side: with 70 mm of half-width and the ears 90 mm behind the nasion, r = (70 cos - 90 sin) / (70 cos + 90
    sin) of the yaw. Between `HIDDEN_RATIO` and `SEEN_RATIO` the share of the far side grows from 0 to 1. The chin and
    all other landmarks keep theirs.
    """
    across = points[_LEFT_EYE].mean(0) - points[_RIGHT_EYE].mean(0)
    across = across / max(float(np.linalg.norm(across)), 1e-9)
    right = float((points[_NASION] - points[_JAW_RIGHT]) @ across)
    left = float((points[_JAW_LEFT] - points[_NASION]) @ across)
    ratio = min(right, left) / max(right, left, 1e-9)
    far = [point for point in CONTOUR_LANDMARKS["ibug68"] if (point < _CHIN if right < left else point > _CHIN)]
    share = np.ones(LANDMARK_COUNTS["ibug68"])
    share[far] = np.clip((ratio - HIDDEN_RATIO) / (SEEN_RATIO - HIDDEN_RATIO), 0.0, 1.0)
    return share


def _levels(pyramid: Pyramid, variant: _Variant) -> Iterator[tuple[list[Square], int]]:
    """Upright views of the photo and their resolution, px, from coarse to fine.

    They end where the next would show no more than the photo's own pixels.
    """
    height, width = pyramid.hw
    longer = max(height, width)
    for level in range(LEVELS):
        parts = 2**level
        if level > 0 and variant.view_px * parts >= 2 * longer:
            return
        if variant.most_px is None:
            yield list(tiles(width, height, longer / parts)), variant.view_px
        else:
            resolution = min(variant.view_px * parts, variant.most_px)
            yield [Square(width / 2, height / 2, longer)], resolution
            if resolution == variant.most_px:
                return


def _within_photo(
    pyramid: Pyramid, view: Square, resolution: int, fixed: bool
) -> tuple[np.ndarray, tuple[float, float]]:
    """A view as a picture, and where in the view its corner lies, px.

    A detector whose input has a `fixed` size gets the square; others do without what lies beyond the photo.
    """
    picture = pyramid.cut(view, resolution, cv2.BORDER_CONSTANT)
    if fixed:
        return picture, (0.0, 0.0)
    photo_from_view = view.photo_from_view(resolution)
    height, width = pyramid.hw
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) - photo_from_view[:, 2]
    seen = np.linalg.solve(photo_from_view[:, :2], corners.T).T
    low = np.clip(np.floor(seen.min(0) + 1e-6).astype(int), 0, resolution - LEAST_VIEW_PX)
    high = np.clip(np.ceil(seen.max(0) - 1e-6).astype(int), low + LEAST_VIEW_PX, resolution)
    picture = np.ascontiguousarray(picture[low[1] : high[1], low[0] : high[0]])
    return picture, (float(low[0]), float(low[1]))


def _proposals(
    boxes: np.ndarray, view: Square, resolution: int, corner: tuple[float, float]
) -> Iterator[tuple[float, _Proposal]]:
    """Score and place of each box (n, 5) of a detector in a picture that begins at `corner` of the view."""
    photo_from_view = view.photo_from_view(resolution)
    scale = view.side / resolution
    for left, top, right, bottom, score in boxes.reshape(-1, 5):
        if not (math.isfinite(left + top + right + bottom + score) and right > left and bottom > top):
            continue
        centre = np.array([(left + right) / 2 + corner[0], (top + bottom) / 2 + corner[1]])
        x, y = photo_from_view[:, :2] @ centre + photo_from_view[:, 2]
        yield float(score), _Proposal(float(x), float(y), (right - left) * scale, (bottom - top) * scale, view.turn)


def _tilt(face: _Face) -> float:
    """Radians that a face is turned clockwise, as seen, in its crop.

    The lines between the eyes and from nasion to chin each count by their length, so that a profile, whose eyes nearly
    coincide, is turned by the other.
    """
    across = face.points[_LEFT_EYE].mean(0) - face.points[_RIGHT_EYE].mean(0)
    down = face.points[_CHIN] - face.points[_NASION]
    turn = math.atan2(across[1] - down[0], across[0] + down[1])
    return math.remainder(turn - face.square.turn, 2.0 * math.pi)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the package says while it loads."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _settled_algorithms() -> contextlib.AbstractContextManager[None]:
    """Without cuDNN's choice of algorithms by their speed of the day, which the package switches on for all."""
    settled: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, benchmark=False)
    return settled
