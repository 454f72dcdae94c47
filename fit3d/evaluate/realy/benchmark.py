"""The files of the benchmark, as its owners give them out, and those of the meshes that are measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fit3d.errors import UsageError
from fit3d.evaluate.mesh_file import read_mesh
from fit3d.evaluate.realy.keypoints import COUNT, REGIONS
from fit3d.evaluate.realy.protocol import Scan, ScanRegion
from fit3d.morphable.obj_file import read_obj_positions

KEYPOINTS_FOLDER, REGIONS_FOLDER, SCALES_FILE = "REALY_HIFI3D_keypoints", "REALY_scan_region", "metrical_scale.txt"
WHERE = (
    f"expected {KEYPOINTS_FOLDER}/<id>.obj, {REGIONS_FOLDER}/<id>/{{{','.join(REGIONS)}}}.obj and {SCALES_FILE}; the "
    "scans need the Headspace agreement of the University of York "
    "(https://www-users.york.ac.uk/~np7/research/Headspace/, name REALY in it), the scales are in data/ of "
    "github.com/czh-98/REALY; see docs/realy.md"
)
LARGEST_SCALES = 1024 * 1024
VIEWS = ("frontal", "side")
"""Folders in which the predictions of the two sets of images may lie."""
ALL = "all"
"""Name of the one set where there are no such folders."""
_MESHES = (".obj", ".ply")


@dataclass(frozen=True)
class Benchmark:
    """A folder with REALY's data. Subjects are numbered from 1."""

    folder: Path
    mm_per_unit: tuple[float, ...]
    """By subject, from 1 on."""

    def scan(self, subject: int) -> Scan:
        """The scan of a subject. Raises a Fit3dError where a file of it is missing or damaged."""
        if not 1 <= subject <= len(self.mm_per_unit):
            raise UsageError(f"subject {subject}: the benchmark has 1 to {len(self.mm_per_unit)}")
        keypoints = read_obj_positions(self.folder / KEYPOINTS_FOLDER / f"{subject}.obj", COUNT)
        regions = {}
        for name in REGIONS:
            mesh = read_mesh(self.folder / REGIONS_FOLDER / str(subject) / f"{name}.obj")
            regions[name] = ScanRegion(mesh.vertices, mesh.triangles)
        return Scan(keypoints.astype(np.float64), regions, self.mm_per_unit[subject - 1])


def open_benchmark(folder: Path) -> Benchmark:
    """The benchmark in `folder`. Raises UsageError that says what is missing and where to ask for it."""
    for name in (KEYPOINTS_FOLDER, REGIONS_FOLDER):
        if not (folder / name).is_dir():
            raise UsageError(f"{folder}: no folder {name} in it: {WHERE}")
    path = folder / SCALES_FILE
    if not path.is_file():
        raise UsageError(f"{folder}: no file {SCALES_FILE} in it: {WHERE}")
    return Benchmark(folder, _scales(path))


def _scales(path: Path) -> tuple[float, ...]:
    try:
        with open(path, "rb") as file:
            raw = file.read(LARGEST_SCALES + 1)
        if len(raw) > LARGEST_SCALES:
            raise ValueError("too large")
        scales = tuple(float(each) for each in raw.split())
        if not scales or not all(0.0 < each < 1e6 for each in scales):
            raise ValueError("a scale is not positive")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: expected millimetres per unit, a number a line for each subject ({error})"
        ) from error
    return scales


@dataclass(frozen=True)
class PredictionFile:
    """A mesh to be measured."""

    view: str
    name: str
    """Of the image that it was made from, without ending."""
    path: Path
    subject: int | None
    """Which the name begins with; None where it does not."""


def find_predictions(folder: Path) -> list[PredictionFile]:
    """The meshes in `folder`, or in its folders `frontal` and `side`: X.obj or X.ply, or X/X.obj as `fit3d fit` writes.

    X begins with the number of the subject, and an underscore may follow with anything behind it, as in REALY.

    Raises:
        UsageError: there are none, or two for one image.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; expected predicted meshes, named as their images")
    views = [view for view in VIEWS if (folder / view).is_dir()]
    found = [each for view in views for each in _in_folder(folder / view, view)] or _in_folder(folder, ALL)
    if not found:
        raise UsageError(
            f"{folder}: no meshes; expected X.obj, X.ply or X/X.obj, X as the images are named, such as 12"
        )
    return found


def _in_folder(folder: Path, view: str) -> list[PredictionFile]:
    files: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        path = entry / f"{entry.name}.obj" if entry.is_dir() else entry
        if entry.name.startswith(".") or path.suffix.lower() not in _MESHES or not path.is_file():
            continue
        if path.stem in files:
            raise UsageError(f"{folder}: {files[path.stem].name} and {path.name} are for one image; keep one of them")
        files[path.stem] = path
    numbered = [PredictionFile(view, name, path, _subject(name)) for name, path in files.items()]
    return sorted(numbered, key=lambda each: (_order(each.name), each.name))


def _subject(name: str) -> int | None:
    match = re.fullmatch(r"([0-9]{1,9})(_.*)?", name)
    return int(match[1]) if match else None


def _order(name: str) -> int:
    digits = name.replace("_", "")
    return int(digits) if re.fullmatch("[0-9]{1,18}", digits) else 10**18
