"""One look at a photo: its faces, each with landmarks and part labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fit3d.errors import NoFaceError, ObservationError, results_or_errors
from fit3d.labels import PART_NAMES
from fit3d.landmarks import LANDMARK_COUNTS, MOST_MISSING
from fit3d.observe.base import Backend, FaceParser, LandmarkDetector, Landmarks, Observation, Parsing
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
    (seen,) = observe_each([Subject(photo, parts_file, landmarks_file)], landmarks, parser, device)
    if isinstance(seen, Exception):
        raise seen
    return seen


@dataclass(frozen=True)
class Subject:
    """A photo to look at; the fields are arguments of `observe`."""

    photo: Photo
    parts_file: str | Path | None = None
    landmarks_file: str | Path | None = None


@dataclass(frozen=True)
class _Found:
    """One face of a photo, not parsed yet."""

    subject: Subject
    landmarks: Landmarks
    warnings: tuple[str, ...] = ()


def observe_each(
    subjects: Sequence[Subject],
    landmarks: str = AUTO,
    parser: str = AUTO,
    device: str = "cpu",
) -> list[list[Observation] | Exception]:
    """`observe` of each of several photos, which a detector or parser may see together: its observations, or what went
    wrong with it. Raises what concerns all of them, such as UsageError."""
    labeller = None if all(each.parts_file is not None for each in subjects) else face_parser(parser, device)
    detector = (
        None if all(each.landmarks_file is not None for each in subjects) else landmark_detector(landmarks, device)
    )
    found = _find_faces(subjects, detector)
    faces = [face for those in found if not isinstance(those, Exception) for face in those]
    observations = iter(results_or_errors(lambda some: _observations(some, labeller), faces))
    result: list[list[Observation] | Exception] = []
    for those in found:
        if isinstance(those, Exception):
            result.append(those)
            continue
        seen = [next(observations) for _ in those]
        errors = [each for each in seen if isinstance(each, Exception)]
        result.append(errors[0] if errors else [each for each in seen if isinstance(each, Observation)])
    return result


def _find_faces(subjects: Sequence[Subject], detector: LandmarkDetector | None) -> list[list[_Found] | Exception]:
    """The faces of each photo, by its landmark file or the detector; an error where there is none."""
    searched = [each for each in subjects if each.landmarks_file is None]
    detected: Iterator[list[Landmarks] | Exception] = iter(())
    if detector is not None:
        detected = iter(results_or_errors(lambda some: detector.detect_batch([each.photo for each in some]), searched))
    result: list[list[_Found] | Exception] = []
    for subject in subjects:
        if subject.landmarks_file is not None:
            result += results_or_errors(lambda some: [_told_face(each) for each in some], [subject])
            continue
        assert detector is not None
        faces = next(detected)
        if isinstance(faces, Exception):
            result.append(faces)
        elif faces:
            result.append([_Found(subject, face) for face in faces])
        else:
            result.append(
                NoFaceError(
                    f"{subject.photo.path}: no face found ({detector.backend.name}, searched at all sizes and turns); "
                    "give a photo that shows the face larger, sharper or less hidden"
                )
            )
    return result


def _told_face(subject: Subject) -> list[_Found]:
    """The face that a landmark file tells of."""
    assert subject.landmarks_file is not None
    face, warnings = read_landmark_file(subject.landmarks_file, subject.photo)
    return [_Found(subject, face, warnings)]


def _observations(faces: Sequence[_Found], labeller: FaceParser | None) -> list[Observation]:
    """The labels added to each face, by the label image of its photo or the parser."""
    for face in faces:
        _check_landmarks(face.subject.photo, face.landmarks)
    parsed = [face for face in faces if face.subject.parts_file is None]
    parsings: Iterator[Parsing] = iter(())
    if parsed:
        assert labeller is not None
        parsings = iter(
            labeller.parse_batch([face.subject.photo for face in parsed], [face.landmarks for face in parsed])
        )
    result = []
    for face in faces:
        photo, landmarks, file = face.subject.photo, face.landmarks, face.subject.parts_file
        parser = labeller if file is None else LabelImage(file)
        assert parser is not None
        parsing = next(parsings) if file is None else parser.parse(photo, landmarks)
        _check_parsing(photo, parsing, parser.backend)
        result.append(Observation(landmarks, parsing.labels, parser.backend, parsing.confidence, face.warnings))
    return result


def _check_landmarks(photo: Photo, landmarks: Landmarks) -> None:
    """What a detector returned, once for all of them. Raises ObservationError."""
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


def _check_parsing(photo: Photo, parsing: Parsing, backend: Backend) -> None:
    """What a parser returned, once for all of them. Raises ObservationError."""
    parts = parsing.labels
    if (
        parts.shape != (photo.height, photo.width)
        or parts.dtype != np.uint8
        or parts.max() >= len(PART_NAMES)
        or not _are_shares(parsing.confidence, len(PART_NAMES))
    ):
        raise ObservationError(
            f"{photo.path}: {backend.name} returned an unusable label image (shape {parts.shape}, "
            f"{parts.dtype}); try another parser (--parser)"
        )


def _are_shares(values: np.ndarray | None, count: int) -> bool:
    """Whether these are `count` numbers from 0 to 1, or none were told."""
    return values is None or (values.shape == (count,) and bool(((values >= 0.0) & (values <= 1.0)).all()))
