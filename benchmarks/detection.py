"""How well a landmark detector finds faces that are turned in the picture, small, or cut by the photo's frame.

Each photo of a folder is looked at as it is, and what is found there is the reference: the same photo is then turned,
shrunk, laid small into a large picture, and cut through its largest face, and the points found there are carried back.
A face counts as found if they lie within 10 % of the face's height of the reference, on average. Run from the checkout:

    python benchmarks/detection.py FOLDER [--detector mediapipe] [--turn-step 15]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from fit3d.observe.base import LandmarkDetector
from fit3d.observe.registry import landmark_detector
from fit3d.photo import Photo, load_photo

FACE_PX = (160, 80, 56, 40, 32)
"""Heights, from chin to forehead, to which faces are shrunk."""
GROUP_WH = (2000, 1500)
"""Size of the large picture that a small face is laid into."""
CUTS = (0.25, 0.4)
"""Share of the face's box that is cut off."""
FOUND = 0.1
"""Mean distance to the reference, in heights of the face, below which it is the same face."""
FOREHEAD_CHIN = {"mediapipe478": (10, 152), "ibug68": (27, 8)}
"""Two landmarks whose distance is taken for the height of the face."""
GREY = (110, 110, 110)


@dataclass(frozen=True)
class Changed:
    """A photo made from another one."""

    kind: str
    """Line of the table."""
    pixels: np.ndarray
    """(H, W, 3) uint8."""
    changed_from_original: np.ndarray
    """(2, 3) affine map of px, corner-based."""


def main(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Photos with faces.")],
    detector: Annotated[str, typer.Option(help="Landmark detector.")] = "mediapipe",
    turn_step: Annotated[int, typer.Option(min=1, max=90, help="Degrees between two turns.")] = 15,
) -> None:
    """Print the table."""
    backend = landmark_detector(detector)
    lines: dict[str, list[tuple[float, float]]] = {}
    seconds = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp") or path.stem.endswith("_parts"):
            continue
        photo = load_photo(path)
        backend.detect(photo)
        start = time.perf_counter()
        faces = backend.detect(photo)
        original_s = time.perf_counter() - start
        if not faces:
            print(f"{path.name}: no face found, left out")
            continue
        seconds.append(original_s)
        top, bottom = FOREHEAD_CHIN[faces[0].layout]
        points = faces[0].points_px
        height = float(np.linalg.norm(points[top] - points[bottom]))
        for changed in (*turned(photo, turn_step), *shrunk(photo, height), *cut(photo, points)):
            error, changed_s = look(backend, changed, points, height)
            lines.setdefault(changed.kind, []).append((error, changed_s / original_s))
            if error > FOUND:
                print(f"missed: {path.name}, {changed.kind}")
    print(f"\n{detector} {backend.backend.version}, {len(seconds)} photos, {statistics.median(seconds):.2f} s each")
    print(f"{'':28}{'found':>9}{'error, % of face height':>25}{'time, ratio':>14}")
    for kind, results in lines.items():
        found = [error for error, _ in results if error <= FOUND]
        mean = f"{100.0 * statistics.fmean(found):.2f}" if found else "-"
        ratio = statistics.median(ratio for _, ratio in results)
        print(f"{kind:28}{len(found):>5}/{len(results):<3}{mean:>25}{ratio:>14.1f}")


def look(backend: LandmarkDetector, changed: Changed, points: np.ndarray, height: float) -> tuple[float, float]:
    """Mean error over the landmarks within the changed photo, in heights of the face, of the face that is nearest to
    where the reference `points` (N, 2) went; and seconds. Infinity where there is none."""
    linear, offset = changed.changed_from_original[:, :2], changed.changed_from_original[:, 2]
    expected = points @ linear.T + offset
    wh = np.array(changed.pixels.shape[1::-1])
    within = ((expected >= 0) & (expected <= wh)).all(1)
    start = time.perf_counter()
    faces = backend.detect(Photo.from_array(changed.pixels))
    seconds = time.perf_counter() - start
    scale = float(np.sqrt(np.linalg.det(linear)))
    errors = [np.linalg.norm(face.points_px - expected, axis=1)[within].mean() for face in faces]
    return min(errors, default=np.inf) / (scale * height), seconds


def turned(photo: Photo, step_deg: int) -> Iterator[Changed]:
    """The photo turned clockwise by each multiple of an angle, on a canvas that holds all of it."""
    wh = np.array([photo.width, photo.height])
    for angle in range(0, 360, step_deg):
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        linear = np.array([[cos, -sin], [sin, cos]])
        canvas = np.ceil(np.abs(linear) @ wh - 1e-9).astype(int)
        changed_from_original = np.column_stack([linear, canvas / 2 - linear @ (wh / 2)])
        back = np.column_stack([linear.T, wh / 2 - linear.T @ (canvas / 2)])
        image = Image.fromarray(photo.pixels).transform(
            (int(canvas[0]), int(canvas[1])),
            Image.Transform.AFFINE,
            tuple(back.ravel()),
            Image.Resampling.BICUBIC,
            fillcolor=GREY,
        )
        yield Changed(f"turned {angle} degrees", np.asarray(image), changed_from_original)


def shrunk(photo: Photo, height_px: float) -> Iterator[Changed]:
    """The photo at other sizes, alone and within a large picture; larger where its face is smaller than asked for."""
    for face_px in FACE_PX:
        width, height = (max(round(length * face_px / height_px), 1) for length in (photo.width, photo.height))
        small = Image.fromarray(photo.pixels).resize((width, height), Image.Resampling.LANCZOS)
        scale = np.diag([width / photo.width, height / photo.height])
        yield Changed(f"face of {face_px} px", np.asarray(small), np.column_stack([scale, np.zeros(2)]))
        if width <= GROUP_WH[0] and height <= GROUP_WH[1]:
            place = (round(0.8 * (GROUP_WH[0] - width)), round(0.8 * (GROUP_WH[1] - height)))
            large = Image.new("RGB", GROUP_WH, GREY)
            large.paste(small, place)
            yield Changed(f"{face_px} px within {GROUP_WH[0]} px", np.asarray(large), np.column_stack([scale, place]))


def cut(photo: Photo, points: np.ndarray) -> Iterator[Changed]:
    """The photo ending within the face, on each side."""
    low, high = points.min(0), points.max(0)
    for share in CUTS:
        for side in ("left", "right", "top", "bottom"):
            left, top, right, bottom = 0, 0, photo.width, photo.height
            at = np.rint(low + share * (high - low)).astype(int)
            until = np.rint(high - share * (high - low)).astype(int)
            if side == "left":
                left = max(int(at[0]), 0)
            elif side == "top":
                top = max(int(at[1]), 0)
            elif side == "right":
                right = min(int(until[0]), photo.width)
            else:
                bottom = min(int(until[1]), photo.height)
            pixels = np.ascontiguousarray(photo.pixels[top:bottom, left:right])
            map_ = np.column_stack([np.eye(2), (-left, -top)])
            yield Changed(f"{share:.0%} cut off, {side}", pixels, map_)


if __name__ == "__main__":
    typer.run(main)
