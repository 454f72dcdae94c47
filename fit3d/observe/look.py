"""One look at a photo: its faces, each with landmarks and part labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fit3d.errors import NoFaceError, ObservationError
from fit3d.labels import PART_NAMES
from fit3d.landmarks import LANDMARK_COUNTS, MOST_MISSING
from fit3d.observe.base import FaceParser, Landmarks, Observation
from fit3d.observe.label_image import LabelImage
from fit3d.observe.landmark_file import read_landmark_file
from fit3d.observe.registry import AUTO, face_parser, landmark_detector
from fit3d.photo import Photo


def observe(
    photo: Photo,
    landmarks: str = AUTO,
    parser: str = AUTO,
    parts_file: str | Path | None = None,
    device: str = "cpu",
    landmarks_file: str | Path | None = None,
) -> list[Observation]:
    """Observations of all faces of a photo, largest face first.

    Args:
        photo: what to look at.
        landmarks: name of a landmark detector, one of `LANDMARK_DETECTORS`; not used where `landmarks_file` is given.
        parser: name of a face parser, one of `FACE_PARSERS`; not used where `parts_file` is given.
        parts_file: the user's own label image, see `read_label_image`.
        device: torch device of backends that compute with torch.
        landmarks_file: the user's own landmarks of one face, see `read_landmark_file`; with `parts_file`, no detector
            or parser is loaded.

    Raises:
        NoFaceError: the detector found no face.
        LandmarkFileError: `landmarks_file` does not belong to the photo.
        LabelImageError: `parts_file` does not belong to the photo.
        ObservationError: a backend returned something unusable.
        UsageError: unknown name, or a package is missing.
    """
    labeller: FaceParser = face_parser(parser, device) if parts_file is None else LabelImage(parts_file)
    if landmarks_file is not None:
        face, warnings = read_landmark_file(landmarks_file, photo)
        return [_observation(photo, face, labeller, warnings)]
    detector = landmark_detector(landmarks, device)
    faces = detector.detect(photo)
    if not faces:
        raise NoFaceError(
            f"{photo.path}: no face found ({detector.backend.name}, searched at all sizes and turns); "
            "give a photo that shows the face larger, sharper or less hidden"
        )
    return [_observation(photo, face, labeller) for face in faces]


def _observation(photo: Photo, landmarks: Landmarks, parser: FaceParser, warnings: tuple[str, ...] = ()) -> Observation:
    """The labels added to one face; what both backends returned is checked here, once for all of them."""
    points = landmarks.points_px
    missing = np.isnan(points).any(axis=-1)
    if (
        points.shape != (LANDMARK_COUNTS[landmarks.layout], 2)
        or np.isinf(points).any()
        or missing.mean() > MOST_MISSING
        or not _are_shares(landmarks.confidence, len(points))
    ):
        raise ObservationError(
            f"{photo.path}: {landmarks.backend.name} returned unusable landmarks (shape {points.shape}, "
            f"{int(missing.sum())} missing); try another detector (--landmarks)"
        )
    parsing = parser.parse(photo, landmarks)
    parts = parsing.labels
    if (
        parts.shape != (photo.height, photo.width)
        or parts.dtype != np.uint8
        or parts.max() >= len(PART_NAMES)
        or not _are_shares(parsing.confidence, len(PART_NAMES))
    ):
        raise ObservationError(
            f"{photo.path}: {parser.backend.name} returned an unusable label image (shape {parts.shape}, "
            f"{parts.dtype}); try another parser (--parser)"
        )
    return Observation(landmarks, parts, parser.backend, parsing.confidence, warnings)


def _are_shares(values: np.ndarray | None, count: int) -> bool:
    """Whether these are `count` numbers from 0 to 1, or none were told."""
    return values is None or (values.shape == (count,) and bool(((values >= 0.0) & (values <= 1.0)).all()))
