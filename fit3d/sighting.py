"""A photo and the faces seen in it, and which of them are wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fit3d.checks import is_finite, is_whole
from fit3d.errors import NoFaceError, UsageError
from fit3d.export.files import safe_stem, staged, usage_errors
from fit3d.export.observation import observation_names, write_observation
from fit3d.export.result_json import GivenFile
from fit3d.observe.base import Landmarks, Observation
from fit3d.photo import Photo
from fit3d.saved import Saved, Stopwatch, check_vacant

FaceChoice = Literal["largest", "all"] | int | tuple[float, float]
"""Which faces of a photo: the largest, all, one by its number (1 is the largest, 2 the next), or the one at a place
(x, y), photo px."""


@dataclass(frozen=True)
class Sighting:
    """A photo and the faces seen in it."""

    photo: Photo
    observations: tuple[Observation, ...]
    """One for each face, the largest first; never empty."""
    timings_s: dict[str, float]
    """Seconds of the stages 'load' and 'observe'."""
    parts_file: GivenFile | None = None
    """The label image that the user gave."""
    landmarks_file: GivenFile | None = None
    """The landmarks that the user gave."""

    def save(self, folder: str | Path, name: str | None = None, face: int = 1) -> Saved:
        """Write what was found of face number `face` to `folder/name/`, to be looked at and corrected by hand.

        The files are those of docs/correcting.md; `name` and the rest are as in `Reconstruction.save`.

        Raises:
            UsageError: the folder cannot be written to, holds a fit or files edited by hand, or the disk is full.
        """
        target = Path(folder) / safe_stem(Path(self.photo.path).stem.strip("<>") if name is None else name)
        check_vacant(target, "observation")
        watch = Stopwatch(self.timings_s)
        every = tuple(observation_names(target.name).values())
        with usage_errors(target), staged(target, every) as stage, watch.stage("write"):
            files = write_observation(stage, target.name, self.photo, self.observations[face - 1], face)
        timings_s = watch.seconds | {"total": sum(watch.seconds.values())}
        return Saved(target, {kind: target / path.name for kind, path in files.items()}, timings_s)


def choose_faces(sighting: Sighting, face: FaceChoice) -> list[int]:
    """Numbers of the wanted faces, counted from 1, the largest.

    Raises:
        NoFaceError: the photo has fewer faces than the number asked for, or none at the place asked for.
        UsageError: not a face that there can be.
    """
    check_face(face)
    count = len(sighting.observations)
    if face == "all":
        return list(range(1, count + 1))
    if isinstance(face, tuple | list):
        return [_face_at(sighting, float(face[0]), float(face[1]))]
    number = 1 if face == "largest" else face
    if number > count:
        has = "1 face was" if count == 1 else f"{count} faces were"
        raise NoFaceError(f"{sighting.photo.path}: face {number} was asked for, but only {has} found")
    return [number]


def _face_at(sighting: Sighting, x: float, y: float) -> int:
    """Number of the face at a place, photo px: the one whose landmarks' hull holds it or, if none does, whose box.

    Where several do, it is the one whose middle is nearest, in sides of its box.

    Raises:
        NoFaceError: no face holds it.
    """

    def rank(landmarks: Landmarks) -> tuple[int, float]:
        left, top, right, bottom = landmarks.box_px
        distance = math.hypot(x - (left + right) / 2.0, y - (top + bottom) / 2.0) / max(right - left, bottom - top)
        in_box = left <= x <= right and top <= y <= bottom
        return 0 if in_box and _in_hull(landmarks.points_px, x, y) else 1 if in_box else 2, distance

    ranks = [rank(observation.landmarks) for observation in sighting.observations]
    best = ranks.index(min(ranks))
    if ranks[best][0] == 2:
        photo = sighting.photo
        if x > photo.width or y > photo.height:
            raise NoFaceError(
                f"{photo.path}: no face at pixel {x:g},{y:g}, which is outside the photo of {photo.width} x "
                f"{photo.height} px"
            )
        left, top, right, bottom = sighting.observations[best].landmarks.box_px
        raise NoFaceError(
            f"{photo.path}: no face at pixel {x:g},{y:g}; the nearest is face {best + 1}, which reaches from "
            f"{left:.0f},{top:.0f} to {right:.0f},{bottom:.0f}"
        )
    return best + 1


def _in_hull(points: np.ndarray, x: float, y: float) -> bool:
    """Whether a place lies in the convex hull of points (N, 2): seen from it, they leave no half plane free."""
    away = points[np.isfinite(points).all(1)] - (x, y)
    angles = np.sort(np.arctan2(away[:, 1], away[:, 0]))
    return bool(np.diff(angles, append=angles[0] + 2.0 * np.pi).max() <= np.pi)


def check_face(face: Any, every: bool = True) -> None:
    """Raises UsageError for what is neither 'largest', the number of a face, a place (x, y) nor, if `every` face may
    be asked for, 'all'."""
    if isinstance(face, str):
        known = face == "largest" or (every and face == "all")
    elif isinstance(face, tuple | list):
        known = len(face) == 2 and all(is_finite(value) and value >= 0 for value in face)
    else:
        known = is_whole(face) and face >= 1
    if not known:
        names = "'largest', 'all'" if every else "'largest'"
        raise UsageError(
            f"face {face!r}: expected {names}, a number from 1 (the largest face) on or a place (x, y) in photo pixels"
        )


def others_warning(others: int, done: str) -> tuple[str, ...]:
    """What the user should know where the largest of several faces was taken, `others` beside it; `done` says what
    became of it."""
    if not others:
        return ()
    return (
        f"{others + 1} faces found, the largest was {done}; --face all takes all, --face 2 the second largest, "
        "--face X,Y the one at a pixel",
    )
