"""The report of a batch: one page that shows every photo, to be opened from the disk."""

from __future__ import annotations

import base64
import hashlib
import re
import statistics
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, FileSystemLoader
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from fit3d import __version__
from fit3d.batch.record import STATUSES, FaceRecord, Record, Status
from fit3d.batch.storage import Storage
from fit3d.batch.table import TABLE
from fit3d.batch.thumbnail import thumbnail_name
from fit3d.labels import PART_COLOURS, PART_NAMES, PRDL_PARTS
from fit3d.reconstruction import result_names

PAGE = "index.html"
DATA_FILES = ("results.jsonl", TABLE)
"""Linked where they are there."""
LARGEST = 200_000
"""Photos that the page lists at most, the worst; browsers cannot scroll through many more. Its figures are of all."""
BINS = 20
"""Of the histograms."""
UNITS = {"part_iou": 10_000, "landmark_nme": 100_000, "seconds": 1_000}
"""The page's numbers are whole multiples of 1 / this: short, and on the same side of a bin's border everywhere.
Landmark errors are shares of the diagonal of the landmarks' box."""

WORST_FIRST: tuple[Status, ...] = ("failed", "unreadable", "no_face", "poor", "ok")
_NICE = (1, 2, 5)
"""First digits of a bin's width."""
_SEEN_OF_EACH = 3
"""Results of the same options that are looked into for the kinds of files that there are."""
SCRIPTS = ("photos.js", "list.js", "page.js")
"""Pieces of the page's one script."""
_FOLDER = Path(__file__).with_name("page")


def write_report(out: Storage, records: Iterable[Record]) -> None:
    """Write OUT/index.html, which needs no other file than the thumbnails and results beside it.

    Args:
        out: where the results are.
        records: one for each photo, in any order. Read once; of each a short row is kept.

    Raises:
        UsageError: it cannot be written.
    """
    content = _Content(out)
    for record in records:
        content.add(record)
    out.write(PAGE, _page(out.root, content).encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class _Row:
    """A photo as the page lists it. Numbers are multiples of 1 / `UNITS`; None where there is none."""

    photo: str
    status: int
    """Index of `STATUSES`."""
    message: str
    part_iou: int | None
    parts: tuple[int | None, ...]
    """Of each of `PRDL_PARTS`."""
    landmark_nme: int | None
    seconds: int
    folder: str | int | None
    """Of the result; 0 where it is the photo's name without its ending, as most are."""
    picture: str | int | None
    """The thumbnail; 0 where it lies under the folder's name."""
    options: int
    """Index of the options."""
    faces: tuple[FaceRecord, ...]
    """Of a photo in which several were asked for, else empty."""

    @property
    def badness(self) -> tuple[int, int, int, str]:
        """Lower is worse."""
        rank = WORST_FIRST.index(STATUSES[self.status])
        return rank, -1 if self.part_iou is None else self.part_iou, -(self.landmark_nme or 0), self.photo


@dataclass
class _Content:
    """What the page shows, gathered record by record."""

    out: Storage
    rows: list[_Row] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    part_iou: array[int] = field(default_factory=lambda: array("q"))
    landmark_nme: array[int] = field(default_factory=lambda: array("q"))
    by_part: dict[str, list[float]] = field(default_factory=dict)
    """Sum and number of photos."""
    seconds: float = 0.0
    """Of all photos."""
    at_work: list[tuple[float, float]] = field(default_factory=list)
    """When each photo was begun and finished, seconds since 1970; left out where it is not known."""
    by_stage: Counter[str] = field(default_factory=Counter)
    """Seconds of all photos."""
    options: dict[str, int] = field(default_factory=dict)
    files: list[dict[str, str]] = field(default_factory=list)
    """For each options, by kind, what the file's name adds to that of its folder."""
    looked: Counter[int] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        row = self._row(record)
        self.rows.append(row)
        self.counts[record.status] += 1
        self.seconds += record.seconds
        self.by_stage.update(record.timings_s)
        if record.finished > 0.0:
            self.at_work.append((record.finished - record.seconds, record.finished))
        if row.part_iou is not None:
            self.part_iou.append(row.part_iou)
        if row.landmark_nme is not None:
            self.landmark_nme.append(row.landmark_nme)
        for name, value in (record.part_iou or {}).items():
            if _whole(value, 1) is not None:
                total = self.by_part.setdefault(name, [0.0, 0])
                total[0] += value
                total[1] += 1
        if len(self.rows) >= 2 * LARGEST:
            self._keep_worst()

    def _keep_worst(self) -> None:
        if len(self.rows) > LARGEST:
            self.rows = sorted(self.rows, key=lambda row: row.badness)[:LARGEST]

    def listed(self) -> list[_Row]:
        """In the order of their names, numbers in them by value."""
        self._keep_worst()
        return sorted(self.rows, key=lambda row: _natural(row.photo))

    def _row(self, record: Record) -> _Row:
        number = self.options.setdefault(record.options, len(self.options))
        if number == len(self.files):
            self.files.append({})
        self._look_for_files(number, record.folder)
        overlap = record.part_iou or {}
        picture = thumbnail_name(record)
        usual = str(PurePosixPath(record.photo).with_suffix("")) if PurePosixPath(record.photo).name else None
        return _Row(
            photo=record.photo,
            status=STATUSES.index(record.status),
            message=record.message,
            part_iou=_whole(overlap.get("mean"), UNITS["part_iou"]),
            parts=tuple(_whole(overlap.get(PART_NAMES[part]), UNITS["part_iou"]) for part in PRDL_PARTS),
            landmark_nme=_whole(record.landmark_nme, UNITS["landmark_nme"]),
            seconds=_whole(record.seconds, UNITS["seconds"]) or 0,
            folder=0 if record.folder == usual and record.folder is not None else record.folder,
            picture=0 if record.folder is not None else picture,
            options=number,
            faces=record.faces if len(record.faces) > 1 else (),
        )

    def _look_for_files(self, options: int, folder: str | None) -> None:
        """Results of the same options have files of the same kinds: the first few tell which."""
        if folder is None or self.looked[options] >= _SEEN_OF_EACH:
            return
        self.looked[options] += 1
        stem = PurePosixPath(folder).name
        for kind, name in result_names(stem, ("obj", "glb")).items():
            if kind not in self.files[options] and self.out.exists(f"{folder}/{name}"):
                self.files[options][kind] = name.removeprefix(stem)


def _whole(value: float | None, unit: int) -> int | None:
    """`value` in whole 1 / `unit`; None for none and for what is no number."""
    return None if value is None or not abs(value) < float("inf") else round(value * unit)


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts 'b9' before 'B10', and tells the two apart that differ in case only."""
    pieces = re.split(r"([0-9]+)", name.casefold())
    return [(int(each[:300]), "") if k % 2 else (-1, each) for k, each in enumerate(pieces)], name


def _union(spans: Iterable[tuple[float, float]]) -> float:
    """Length of all that any of the spans covers: with times of work, pauses between two calls do not count."""
    covered, until = 0.0, float("-inf")
    for start, stop in sorted(spans):
        covered += max(0.0, stop - max(start, until))
        until = max(until, stop)
    return covered


def _page(root: str, content: _Content) -> str:
    data = htmlsafe_json_dumps(_data(content), separators=(",", ":"), allow_nan=False)
    style, *pieces = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", *SCRIPTS))
    style, script = Markup(style), Markup("\n".join(pieces))
    environment = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(
        title=re.split(r"[/\\]", root.rstrip("/\\"))[-1] or root,
        version=__version__,
        files=[name for name in DATA_FILES if content.out.exists(name)],
        counts={status: content.counts[status] for status in STATUSES},
        total=content.counts.total(),
        listed=min(content.counts.total(), len(content.rows)),
        parts=_part_figures(content.by_part),
        part_iou=_figures(content.part_iou, UNITS["part_iou"], worst_is_low=True),
        landmark_nme=_figures(content.landmark_nme, UNITS["landmark_nme"], worst_is_low=False),
        seconds=content.seconds,
        duration=_union(content.at_work),
        stages={name: seconds for name, seconds in content.by_stage.items() if seconds > 0.0},
        data=data,
        style=style,
        script=script,
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


def _csp_hash(text: str) -> str:
    """How a content security policy names the one style or script that it lets pass."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _figures(values: Sequence[int], unit: int, worst_is_low: bool) -> dict[str, float] | None:
    """Median, mean and the limit of the worst tenth, linearly interpolated; None of nothing."""
    if not values:
        return None
    tenths = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else [values[0]] * 9
    worst = tenths[0] if worst_is_low else tenths[-1]
    return {"median": statistics.median(values) / unit, "mean": statistics.fmean(values) / unit, "worst": worst / unit}


def _part_figures(by_part: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Mean overlap of each part that was seen anywhere, with its colour."""
    return [
        {
            "name": PART_NAMES[part].replace("_", " "),
            "mean": by_part[PART_NAMES[part]][0] / by_part[PART_NAMES[part]][1],
            "colour": _colour(part),
        }
        for part in PRDL_PARTS
        if PART_NAMES[part] in by_part
    ]


def _colour(part: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*PART_COLOURS[part])


def _data(content: _Content) -> dict[str, Any]:
    """What the page's script reads. Columns hold an entry for each listed photo."""
    rows = content.listed()
    names = ("photo", "status", "message", "part_iou", "landmark_nme", "seconds", "folder", "picture", "options")
    return {
        "units": UNITS,
        "statuses": STATUSES,
        "worst_first": WORST_FIRST,
        "parts": [{"name": PART_NAMES[part].replace("_", " "), "colour": _colour(part)} for part in PRDL_PARTS],
        "files": content.files,
        "histograms": {
            "part_iou": _histogram(content.part_iou, UNITS["part_iou"] // BINS),
            "landmark_nme": _histogram(content.landmark_nme, _bin_width(content.landmark_nme)),
        },
        "columns": {name: [getattr(row, name) for row in rows] for name in names},
        "part_columns": [[row.parts[k] for row in rows] for k in range(len(PRDL_PARTS))],
        "faces": {str(k): [_face(face) for face in row.faces] for k, row in enumerate(rows) if row.faces},
    }


def _face(face: FaceRecord) -> dict[str, Any]:
    return {
        "face": face.face,
        "status": STATUSES.index(face.status),
        "message": face.message,
        "part_iou": _whole((face.part_iou or {}).get("mean"), UNITS["part_iou"]),
        "landmark_nme": _whole(face.landmark_nme, UNITS["landmark_nme"]),
        "folder": face.folder,
    }


def _bin_width(values: Sequence[int]) -> int:
    """A round width with which all but the worst hundredth of the values fall below the last bin's end."""
    most = sorted(values)[int(0.99 * (len(values) - 1))] if values else 0
    return next(w for k in range(18) for w in (digit * 10**k for digit in _NICE) if w * BINS > most)


def _histogram(values: Sequence[int], width: int) -> dict[str, Any]:
    """Counts of `BINS` bins from 0 on, `width` wide; the last one holds all beyond."""
    counts = Counter(min(value // width, BINS - 1) for value in values)
    return {"width": width, "counts": [counts[k] for k in range(BINS)]}
