"""Landmarks of a scan, as its owners give them: where iBUG's points lie in space.

- Text: a point a line, three numbers, separated by blanks, commas or semicolons; lines that begin with # do not count.
- JSON: a list of `[x, y, z]`, or an object that gives the points by iBUG's numbers, `{"36": [x, y, z], ...}`.
- `.pp`: MeshLab's picked points, in the file's order; points that are not active do not count.

Without numbers the count tells which points they are: 68 are iBUG's, 51 those of iBUG without the outline (17 to 67),
7 the corners of the eyes, the base of the nose and the corners of the mouth, as the NoW benchmark gives them. Other
selections need their numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from fit3d.checks import is_finite, read_bounded
from fit3d.errors import UsageError

LARGEST_FILE = 4 * 2**20
BY_COUNT: dict[int, tuple[int, ...]] = {
    68: tuple(range(68)),
    51: tuple(range(17, 68)),
    7: (36, 39, 42, 45, 33, 48, 54),
}
"""iBUG's numbers of points that come without."""
_LEAST = 3


def read_scan_landmarks(path: Path, numbers: Sequence[int] | None = None) -> dict[int, np.ndarray]:
    """By iBUG's numbers the points (3,) in the file, in the scan's unit.

    Args:
        path: text, JSON or `.pp`.
        numbers: iBUG's number of each point in the file, in its order; None: the file or its count tells.

    Raises:
        UsageError: it cannot be read, or it is not clear which points they are.
    """
    raw = read_bounded(path, LARGEST_FILE, "the landmarks of one scan")
    try:
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not text; expected landmarks as text, JSON or MeshLab's .pp") from error
    if text.startswith("{"):
        return _by_number(path, text)
    if text.startswith("<"):
        points = _picked(path, raw)
    elif text.startswith("["):
        points = _list(path, text)
    else:
        points = _columns(path, text)
    named = BY_COUNT.get(len(points)) if numbers is None else tuple(numbers)
    if named is None:
        counts = ", ".join(map(str, sorted(BY_COUNT)))
        raise UsageError(
            f"{path}: {len(points)} points, which is none of {counts}; say which they are with --landmark-ids"
        )
    if len(named) != len(points):
        raise UsageError(f"{path}: {len(points)} points, but --landmark-ids has {len(named)} numbers")
    return _checked(path, dict(zip(named, points, strict=True)))


def _by_number(path: Path, text: str) -> dict[int, np.ndarray]:
    content = _parsed(path, text)
    found = {}
    for key, value in content.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 2 and int(key) < 68):
            raise UsageError(f"{path}: '{key[:20]}' is none of iBUG's numbers, 0 to 67")
        found[int(key)] = _point(path, key, value)
    return _checked(path, found)


def _list(path: Path, text: str) -> list[np.ndarray]:
    content = _parsed(path, text)
    return [_point(path, str(index), value) for index, value in enumerate(content)]


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON ({error})") from error


def _point(path: Path, name: str, value: Any) -> np.ndarray:
    if not (isinstance(value, list) and len(value) == 3 and all(is_finite(each) for each in value)):
        raise UsageError(f"{path}: point {name} is {json.dumps(value)[:60]}, expected [x, y, z]")
    return np.array(value, np.float64)


def _columns(path: Path, text: str) -> list[np.ndarray]:
    points = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.replace(",", " ").replace(";", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            x, y, z = (float(word) for word in words)
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: expected three numbers, got '{line.strip()[:60]}'") from error
        points.append(np.array([x, y, z]))
    return points


def _picked(path: Path, raw: bytes) -> list[np.ndarray]:
    """The active points of MeshLab's XML. Entities, of which a small file can make gigabytes, are refused."""
    points: list[np.ndarray] = []

    def begin(tag: str, attributes: dict[str, str]) -> None:
        if tag == "point" and attributes.get("active", "1") != "0":
            points.append(np.array([float(attributes[axis]) for axis in ("x", "y", "z")]))

    def refuse(*_: Any) -> int:
        raise ValueError("it declares entities")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(raw, True)
    except (expat.ExpatError, ValueError, KeyError) as error:
        raise UsageError(f"{path}: not MeshLab's picked points ({error})") from error
    return points


def _checked(path: Path, found: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    for number, point in found.items():
        if not 0 <= number < 68:
            raise UsageError(f"{path}: {number} is none of iBUG's numbers, 0 to 67")
        if not (np.abs(point) < 1e9).all():
            raise UsageError(f"{path}: point {number} is not finite")
    if len(found) < _LEAST:
        raise UsageError(f"{path}: {len(found)} points; an alignment needs {_LEAST} or more")
    return found
