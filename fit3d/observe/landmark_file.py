"""The user's own landmarks in place of a detector: what was found, corrected by hand, or what another program found.

Kinds of files, told by their content:

- JSON: what `fit3d observe` and `fit3d fit` write, labelme's points, or a plain list of points `[x, y]`.
- `.pts`, as iBUG annotates faces: `version: 1`, `n_points: 68`, and the points, one a line, between braces.
- CSV or text: two columns, x and y, with or without a line of names above.

The number of points tells the layout. A point is missing where it is null, NaN, `-1 -1` or `0 0` in the file.

Pixels are fit3d's, see `fit3d.camera`: the centre of the top-left pixel is (0.5, 0.5); so are labelme's. `.pts` counts
pixels from 1, as Matlab does, in which iBUG's annotations were made, and menpo takes it so: there that centre is
(1, 1). Both ways, `px_pts = px + 0.5`.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fit3d import __version__
from fit3d.checks import is_finite
from fit3d.errors import LandmarkFileError
from fit3d.landmarks import LANDMARK_COUNTS, MOST_MISSING
from fit3d.observe.base import Backend, Landmarks
from fit3d.photo import Photo

MOST_BYTES = 16 * 2**20
"""Size from which on a file is not parsed, without the picture that labelme may have put into it."""

MOST_BYTES_WITH_PICTURE = 256 * 2**20
"""Size from which on a file is not read."""

SMALLEST_FACE_PX = 8.0
"""Points that all lie in a square of this side are taken for something else than pixels."""

LEAST_INSIDE = 0.25
"""Smallest share of the points that lies inside the photo; faces may be cut by its edge."""

PTS_FROM_PX = 0.5
"""Added to fit3d's pixels it gives those of `.pts` files."""

_PICTURE = re.compile(rb'("imageData"\s*:\s*)"[A-Za-z0-9+/=]*"')
"""A picture in base64, as labelme stores it by default."""

_MISSING = ((-1.0, -1.0), (0.0, 0.0))
_LAYOUTS = {count: layout for layout, count in LANDMARK_COUNTS.items()}
_EXPECTED = " or ".join(f"{count} ({layout})" for count, layout in _LAYOUTS.items())


def read_landmark_file(path: str | Path, photo: Photo) -> tuple[Landmarks, tuple[str, ...]]:
    """Landmarks of one face of `photo` from a file, and what the user should know of it, one sentence each.

    Where the file tells no confidence, a point that is there counts fully: whoever set it knows where it lies, also
    where the head hides it.

    Raises:
        LandmarkFileError: not readable, another number of points, too few points, another size of the photo, or
            points that cannot be of a face in it.
    """
    name = str(path)
    text = _text_of(name)
    warnings: tuple[str, ...] = ()
    if text.startswith(("[", "{")) and not name.lower().endswith(".pts"):
        points, confidence, warnings = _from_json(name, text, photo)
    elif re.match(r"version|n_points|\{", text, re.IGNORECASE):
        points, confidence = _from_pts(name, text), None
    else:
        points, confidence = _from_columns(name, text), None
    if confidence is not None and (
        len(confidence) != len(points) or not all(is_finite(value) and 0 <= value <= 1 for value in confidence)
    ):
        _refuse(name, f"expected as 'confidence' null or {len(points)} numbers from 0 to 1, one for each point")
    _check_place(name, points, photo)
    trust = np.isfinite(points).all(1) if confidence is None else np.array(confidence)
    backend = Backend("landmark_file", __version__)
    return Landmarks(_LAYOUTS[len(points)], points, backend, trust.astype(np.float64)), warnings


def pts_text(points_px: np.ndarray) -> str:
    """Points (N, 2), photo px, as the text of a `.pts` file; missing ones are `-1 -1`."""
    lines = [
        f"{x + PTS_FROM_PX:.3f} {y + PTS_FROM_PX:.3f}" if math.isfinite(x + y) else "-1 -1"
        for x, y in np.asarray(points_px).tolist()
    ]
    return "\n".join(["version: 1", f"n_points: {len(lines)}", "{", *lines, "}", ""])


def _refuse(name: str, reason: str) -> NoReturn:
    raise LandmarkFileError(f"{name}: {reason}")


def _text_of(name: str) -> str:
    """The file's text without what is blank around it."""
    try:
        if not Path(name).exists():
            _refuse(name, "no such landmark file; check the path given with --landmarks-file")
        if not Path(name).is_file():
            _refuse(name, "not a file; give a landmark file: JSON, .pts, or two columns of text")
        with open(name, "rb") as file:
            content = file.read(MOST_BYTES_WITH_PICTURE + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise LandmarkFileError(f"{name}: cannot be read ({reason}); check the file and its permissions") from error
    if MOST_BYTES < len(content) <= MOST_BYTES_WITH_PICTURE:
        content = _PICTURE.sub(rb"\1null", content)
    if len(content) > MOST_BYTES:
        _refuse(
            name,
            f"larger than {MOST_BYTES >> 20} MiB (with labelme's picture, {MOST_BYTES_WITH_PICTURE >> 20} MiB); give "
            "landmarks only, from labelme with --nodata",
        )
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text:
        _refuse(name, "empty, or not text; give a landmark file: JSON, .pts, or two columns of text")
    return text


def _from_json(name: str, text: str, photo: Photo) -> tuple[np.ndarray, list[Any] | None, tuple[str, ...]]:
    """Points (N, 2), the confidences that the file tells, not checked yet, and warnings."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise LandmarkFileError(f"{name}: not JSON ({reason}); give the file as `fit3d observe` writes it") from error
    confidence, holder, warnings = None, data, tuple[str, ...]()
    if isinstance(data, dict):
        size = data["photo"] if isinstance(data.get("photo"), dict) else data
        _check_size(name, photo, size.get("width"), size.get("height"))
        if size.get("sha256") not in (None, photo.sha256):
            warnings = (
                f"{name}: the landmarks were made for another photo (of the same size, or this one before it "
                "was saved again); check that they lie on the face",
            )
        if isinstance(data.get("shapes"), list):
            _check_size(name, photo, data.get("imageWidth"), data.get("imageHeight"))
            return _from_labelme(name, data["shapes"], data.get("layout")), None, warnings
        inner = data["observation"] if isinstance(data.get("observation"), dict) else data
        holder = next((inner[key] for key in ("landmarks_px", "landmarks", "points") if key in inner), None)
        confidence = inner.get("confidence", inner.get("landmark_confidence"))
    if not isinstance(holder, list):
        _refuse(name, "no landmarks in it; expected a list of points [x, y], or one under the key 'landmarks_px'")
    if confidence is not None and not isinstance(confidence, list):
        _refuse(name, "expected as 'confidence' null or a list of numbers from 0 to 1")
    _check_count(name, len(holder))
    points = np.array([_point(name, index, item, 0.0) for index, item in enumerate(holder)]).reshape(-1, 2)
    return points, confidence, warnings


def _from_labelme(name: str, shapes: list[Any], layout: Any) -> np.ndarray:
    """Points (N, 2) of labelme's shapes of type 'point', labelled by their number, from 0; the others are missing.

    Where the file does not tell the layout, it is the smallest that holds them.
    """
    found: dict[int, np.ndarray] = {}
    for shape in shapes:
        if not isinstance(shape, dict) or shape.get("shape_type") != "point":
            continue
        label, points = str(shape.get("label")).strip(), shape.get("points")
        if not re.fullmatch(r"[0-9]{1,3}", label) or int(label) >= max(_LAYOUTS) or int(label) in found:
            _refuse(name, f"label {label[:20]!r} of a point; expected each number from 0 on at most once")
        if not isinstance(points, list) or len(points) != 1:
            _refuse(name, f"point {label} has no place; expected one pair [x, y]")
        found[int(label)] = _point(name, int(label), points[0], 0.0)
    told = [count for count, name_of in _LAYOUTS.items() if name_of == layout]
    count = next(count for count in told + sorted(_LAYOUTS) if count > max(found, default=0))
    return np.array([found.get(index, np.full(2, np.nan)) for index in range(count)])


def _from_pts(name: str, text: str) -> np.ndarray:
    head, brace, body = text.partition("{")
    body, end, _ = body.partition("}")
    declared = re.search(r"n_points\s*:\s*([0-9]{1,9})\b", head, re.IGNORECASE)
    if not (brace and end):
        _refuse(name, "not a whole .pts file; expected the points between braces, each on a line")
    lines = [line.split() for line in body.splitlines() if line.strip()]
    if declared and int(declared[1]) != len(lines):
        _refuse(name, f"n_points says {int(declared[1])}, but {len(lines)} points follow; expected {_EXPECTED}")
    return _from_lines(name, lines, PTS_FROM_PX, most_columns=3)


def _from_columns(name: str, text: str) -> np.ndarray:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    # an empty field is a missing number, so commas and semicolons count even where nothing is between them
    fields = [re.split(r"\s*[,;]\s*|\s+", line.strip()) for line in lines]
    if fields and all(_number(field) is None for field in fields[0]):
        fields = fields[1:]  # names of the columns
    return _from_lines(name, fields, 0.0, most_columns=2)


def _from_lines(name: str, lines: list[list[str]], offset: float, most_columns: int) -> np.ndarray:
    _check_count(name, len(lines))
    points = []
    for index, fields in enumerate(lines):
        values = [math.nan if field.lower() in ("", "null", "none", "na") else _number(field) for field in fields]
        if not 2 <= len(values) <= most_columns or any(value is None for value in values):
            shown = " ".join(fields)[:40]
            _refuse(name, f"point {index} is {shown!r}; expected two numbers, x and y, in photo pixels")
        points.append(_point(name, index, values, offset))
    return np.array(points).reshape(-1, 2)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _point(name: str, index: int, item: Any, offset: float) -> np.ndarray:
    """(2,) photo px, NaN where missing, of a pair that a file holds; a depth behind it is left out."""
    if item is None:
        return np.full(2, np.nan)
    if not isinstance(item, list) or len(item) not in (2, 3):
        _refuse(name, f"point {index} is no pair; expected [x, y] in photo pixels, or null where it is missing")
    x, y = item[:2]
    if any(value is None or (isinstance(value, float) and math.isnan(value)) for value in (x, y)):
        return np.full(2, np.nan)
    if not (_is_place(x) and _is_place(y)):
        _refuse(name, f"point {index} is not a place; expected two finite numbers, x and y, in photo pixels")
    if (x, y) in _MISSING:
        return np.full(2, np.nan)
    return np.array([x, y], np.float64) - offset


def _is_place(value: Any) -> bool:
    """Whether it is a number that could be of a pixel; whole numbers in JSON may be too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _check_count(name: str, count: int) -> None:
    """Raises before anything is made of too many points."""
    if count not in _LAYOUTS:
        _refuse(name, f"{count} points; expected {_EXPECTED}, with missing points as -1 -1")


def _check_size(name: str, photo: Photo, width: Any, height: Any) -> None:
    """Raises where the file tells a size that its photo does not have."""
    if width is None and height is None:
        return
    if (width, height) != (photo.width, photo.height):
        _refuse(
            name,
            f"made for a photo of {width!r:.20} x {height!r:.20} px, {photo.path} has {photo.width} x "
            f"{photo.height} px (upright); give landmarks of this photo",
        )


def _check_place(name: str, points: np.ndarray, photo: Photo) -> None:
    """Raises where points (N, 2) are too few for a face or cannot be of one in the photo."""
    present = points[np.isfinite(points).all(1)]
    if len(present) < (1.0 - MOST_MISSING) * len(points):
        _refuse(name, f"{len(points) - len(present)} of {len(points)} points are missing; give at least half of them")
    size = np.array([photo.width, photo.height])
    low, high = present.min(0), present.max(0)
    if (high - low).max() < SMALLEST_FACE_PX:
        _refuse(
            name,
            f"all points lie within {(high - low).max():.3g} px; expected pixels of the photo "
            f"({photo.width} x {photo.height}), not shares of its size",
        )
    inside = ((present >= 0) & (present <= size)).all(1).mean()
    if inside < LEAST_INSIDE or (low < -size.max()).any() or (high > size + size.max()).any():
        _refuse(
            name,
            f"the points reach from ({low[0]:.0f}, {low[1]:.0f}) to ({high[0]:.0f}, {high[1]:.0f}), the photo "
            f"{photo.path} is {photo.width} x {photo.height} px; give landmarks of this photo at this size",
        )
