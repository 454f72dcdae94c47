"""Whether one run is better than another on the same photos: paired differences with a bootstrap interval.

A run is a record of `fit3d evaluate ... --json`, or what `fit3d fit` and `fit3d batch` left of a folder of photos. Each
photo is its own control: how hard it is does not widen the interval.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import bootstrap, t, wilcoxon

from fit3d.batch.manifest import read_manifests
from fit3d.batch.record import Record
from fit3d.batch.storages import storage_at
from fit3d.checks import is_finite
from fit3d.errors import UsageError
from fit3d.export.read_result import read_json, result_paths, value_at
from fit3d.labels import IOU_PARTS, PART_NAMES, SKIN

CONFIDENCE = 0.95
RESAMPLES = 9999
FEWEST = 8
"""Photos below which an interval says little. The bootstrap takes the spread of the photos at hand for that of all
photos, so with few of them its interval is too narrow: at ten it holds the truth in about 90 percent of cases, not 95.
"""
MOST = 10_000
"""Photos above which the interval is that of Student's t: with so many the mean is spread normally, and the bootstrap
gives the same ends after a long time."""
BATCH = 4_000_000
"""Drawn values that the bootstrap holds at a time."""
SAME = 1e-5
"""Figures that differ by a smaller share are the same: a record that is kept has six digits."""
LARGEST_RECORD = 256 * 1024 * 1024
"""Bytes of a record that are read."""
_NO_FIGURE = ("photo", "group", "steps", "evaluations", "face", "size", "seconds", "iterations")
"""Of a row: names, and what tells of the work rather than of the result."""

_REALY_REGIONS = ("nose", "mouth", "forehead", "cheek")
"""Figures of `evaluate realy`, mm."""

Better = Literal["higher", "lower", "unknown"]


@dataclass(frozen=True)
class Run:
    """Figures of photos."""

    name: str
    kind: str
    """What its figures are: 'results', whose Part IoU is with the parts that drove the fit, or the command of a record,
    as 'evaluate parts'."""
    figures: dict[str, dict[str, float]]
    """By photo, then by figure, as 'part_iou.mean'; finite ones only."""
    data: dict[str, str]
    """What tells each photo's content, by photo, where it is known."""
    digest: str | None = None
    """Of all that was measured on, where it is known."""
    failures: dict[str, str] = field(default_factory=dict)
    """Photos without figures, and why."""


@dataclass(frozen=True)
class Difference:
    """How one figure of run B differs from that of run A, over the photos that have both."""

    figure: str
    photos: int
    mean_a: float
    mean_b: float
    mean: float
    """Of B minus A."""
    low: float
    """Ends of the interval that holds the mean difference with `CONFIDENCE`; NaN with a single photo."""
    high: float
    p: float
    """Of Wilcoxon's signed-rank test: how often photos without a true difference would differ so; NaN where no photo
    differs."""
    higher: int
    """Photos whose figure is higher in B."""
    lower: int

    @property
    def better(self) -> Better:
        """Which values are good."""
        return direction(self.figure)

    @property
    def verdict(self) -> str:
        """In one word."""
        if not (self.low > 0 or self.high < 0):
            return "undecided"
        if self.better == "unknown":
            return "differs"
        return "better" if (self.low > 0) == (self.better == "higher") else "worse"

    @property
    def improved(self) -> int:
        """Photos on which B is better; where good is unknown, on which it is higher."""
        return self.lower if self.better == "lower" else self.higher

    @property
    def worsened(self) -> int:
        return self.higher if self.better == "lower" else self.lower


@dataclass(frozen=True)
class Change:
    """One photo's figure in both runs."""

    photo: str
    a: float
    b: float


@dataclass(frozen=True)
class Comparison:
    """Two runs of the same photos."""

    a: Run
    b: Run
    differences: tuple[Difference, ...]
    changed: tuple[Change, ...]
    """Photos whose `main` figure changed most."""
    main: str
    """The figure that `changed` is about."""
    only_in_a: tuple[str, ...]
    """Photos that have figures in one run alone, as the other failed on them."""
    only_in_b: tuple[str, ...]


def direction(figure: str) -> Better:
    """Which values of a figure are good, by its name."""
    if figure.startswith("part_iou"):
        return "higher"
    is_error = figure in _REALY_REGIONS or figure.split(".")[0].endswith(("_nme", "_mm", "_deg", "_error"))
    return "lower" if is_error else "unknown"


def read_runs(path: Path) -> dict[str, Run]:
    """The runs at `path` by group ('' where there is but one): a record, a manifest, or a folder of results.

    Raises:
        UsageError: it is none of these, or damaged.
    """
    if path.is_dir():
        return {"": _of_manifests(path) if any(path.glob("results*.jsonl")) else _of_results(path)}
    if path.suffix.lower() == ".jsonl":
        return {"": _of_manifest(path)}
    content = _json(path, _text(path))
    if not isinstance(content, dict) or not str(content.get("schema", "")).startswith("fit3d-evaluation/"):
        raise UsageError(f"{path}: not a record of `fit3d evaluate ... --json`, nor a folder of results")
    rows, data = content.get("photos"), content.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "photo" in row for row in rows) or not rows:
        raise UsageError(f"{path}: this record has no rows of photos that could be compared")
    digest = data.get("digest") if isinstance(data, dict) else None
    failures = content.get("failures")
    failures = {str(key): str(value) for key, value in failures.items()} if isinstance(failures, dict) else {}
    kind = " ".join(str(content.get("command", "")).split()[1:3])
    runs: dict[str, Run] = {}
    for row in rows:
        group = str(row.get("group", ""))
        name = f"{path.name}, {group}" if group else path.name
        run = runs.setdefault(
            group,
            Run(name, kind, {}, {}, digest, failures),
        )
        photo = str(row["photo"])
        if photo in run.figures:
            raise UsageError(f"{path}: two rows of {photo}{f' in {group}' if group else ''}; rows cannot be paired")
        run.figures[photo] = figures_of(row)
    return runs


def figures_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row, those of nested tables as 'table.name'; no seconds."""
    found: dict[str, float] = {}
    for name, value in row.items():
        if name in _NO_FIGURE or name.endswith("_s"):
            continue
        if isinstance(value, Mapping):
            found.update({f"{name}.{inner}": number for inner, number in figures_of(value).items()})
        elif is_finite(value) and not isinstance(value, bool):
            found[name] = float(value)
    return found


def _of_manifests(folder: Path) -> Run:
    """What `fit3d batch` wrote of each photo."""
    with read_manifests(storage_at(folder)) as snapshot:
        if snapshot.damaged:
            raise UsageError(f"{folder}: {snapshot.damaged[0]}; `fit3d batch` with the same options mends it")
        return _of_records(folder.resolve().name, snapshot.records())


def _of_manifest(path: Path) -> Run:
    """One manifest; of several lines of a photo the one that finished last counts."""
    last: dict[str, Record] = {}
    # only \n ends a line: a photo's name may hold other characters that Python takes for ends
    for number, line in enumerate(_text(path).removesuffix("\n").split("\n"), 1):
        try:
            record = Record.from_line(line.encode())
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: {error}; expected what `fit3d batch` writes") from error
        if record.photo not in last or record.finished >= last[record.photo].finished:
            last[record.photo] = record
    return _of_records(path.name, last.values())


def _of_records(name: str, records: Iterable[Record]) -> Run:
    run = Run(name, "results", {}, {})
    for record in records:
        figures = figures_of({"part_iou": record.part_iou or {}, "landmark_nme": record.landmark_nme})
        if record.is_done and figures:
            run.figures[record.photo] = figures
        else:
            run.failures[record.photo] = record.message or record.status
        if record.sha256 is not None:
            run.data[record.photo] = record.sha256
    return run


def _of_results(folder: Path) -> Run:
    """What `fit3d fit` wrote of each photo."""
    run = Run(folder.resolve().name, "results", {}, {})
    for path in result_paths(folder):
        content, _ = read_json(path)
        metrics = value_at(content, path, "metrics", kind=dict)
        photo = Path(value_at(content, path, "photo", "path", kind=str)).name
        if photo in run.figures:
            raise UsageError(f"{path}: a second result of a photo called {photo}; results cannot be paired")
        run.figures[photo] = figures_of({name: metrics.get(name) for name in ("part_iou", "landmark_nme")})
        run.data[photo] = value_at(content, path, "photo", "sha256", kind=str)
    return run


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_RECORD:
            raise UsageError(f"{path}: larger than {LARGEST_RECORD // 1024**2} MB; expected a record of an evaluation")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot read it ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not text in UTF-8; expected a record of an evaluation") from error


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON ({error})") from error


def check_comparable(a: Run, b: Run) -> None:
    """Raises UsageError where two runs are of different photos, or their figures of different kinds."""
    if a.kind != b.kind:
        raise UsageError(
            f"{a.name} tells of {a.kind}, {b.name} of {b.kind}: their figures are not of one kind; to measure results "
            "against people's labels run fit3d evaluate parts FOLDER --predictions DIR --json"
        )
    if a.digest is not None and b.digest is not None:
        if a.digest != b.digest:
            raise UsageError(
                f"the runs are of different data: {a.name} of {a.digest[:12]}, {b.name} of {b.digest[:12]} (SHA-256 of "
                "photos and labels); run both on the same"
            )
        return
    names_a, names_b = ({*run.figures, *run.failures} for run in (a, b))
    if names_a != names_b:
        lacking = [
            f"{run.name} lacks {', '.join(sorted(names)[:3])}{' and others' if len(names) > 3 else ''}"
            for run, names in ((a, names_b - names_a), (b, names_a - names_b))
            if names
        ]
        raise UsageError(f"the runs are of different photos: {'; '.join(lacking)}; run both on the same")
    changed = sorted(photo for photo in a.data if photo in b.data and a.data[photo] != b.data[photo])
    if changed:
        raise UsageError(f"the runs are of different photos: {changed[0]} is not the same file in both")


def compare(a: Run, b: Run, *, seed: int = 0, most_changed: int = 5, resamples: int = RESAMPLES) -> Comparison:
    """Paired differences of all figures that both runs have, B minus A.

    Raises:
        UsageError: the runs are of different data, or have no figure in common.
    """
    check_comparable(a, b)
    both = [photo for photo in a.figures if photo in b.figures]
    names = _ordered({name for photo in both for name in a.figures[photo].keys() & b.figures[photo].keys()})
    if not names:
        raise UsageError(f"{a.name} and {b.name} have no figure in common")
    differences, values = [], {}
    for name in names:
        values[name] = [
            Change(photo, a.figures[photo][name], b.figures[photo][name])
            for photo in both
            if name in a.figures[photo] and name in b.figures[photo]
        ]
        pair = [change.a for change in values[name]], [change.b for change in values[name]]
        differences.append(difference(name, *pair, seed, resamples))
    changes = [change for change in values[names[0]] if not math.isclose(change.a, change.b, rel_tol=SAME)]
    changes.sort(key=lambda change: -abs(change.b - change.a))
    return Comparison(
        a,
        b,
        tuple(differences),
        tuple(changes[:most_changed]),
        names[0],
        tuple(photo for photo in a.figures if photo not in b.figures),
        tuple(photo for photo in b.figures if photo not in a.figures),
    )


def difference(
    figure: str, a: Sequence[float], b: Sequence[float], seed: int = 0, resamples: int = RESAMPLES
) -> Difference:
    """Of figures of the same photos, in the same order: mean of B minus A with its interval by the bias-corrected and
    accelerated bootstrap (Efron 1987), photos drawn with replacement."""
    ones, others = np.asarray(a, float), np.asarray(b, float)
    gaps = others - ones
    gaps[np.abs(gaps) <= SAME * np.maximum(np.abs(ones), np.abs(others))] = 0.0
    mean, told = float(gaps.mean()), gaps[gaps != 0.0]
    p = float(wilcoxon(told).pvalue) if len(told) else math.nan
    return Difference(
        figure,
        len(gaps),
        statistics.fmean(a),
        statistics.fmean(b),
        mean,
        *interval(gaps, seed, resamples),
        p,
        int((told > 0).sum()),
        int((told < 0).sum()),
    )


def interval(values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Of the mean of `values` (N,), see `CONFIDENCE`; NaN with fewer than two."""
    if len(values) < 2:
        return math.nan, math.nan
    if np.ptp(values) < 1e-12:
        return float(values.mean()), float(values.mean())
    if len(values) > MOST:
        low, high = t.interval(CONFIDENCE, len(values) - 1, values.mean(), values.std(ddof=1) / math.sqrt(len(values)))
        return float(low), float(high)
    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        batch=BATCH // len(values),
        confidence_level=CONFIDENCE,
        method="BCa",
        vectorized=True,
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _ordered(names: set[str]) -> list[str]:
    """The mean overlap first, then parts, landmark error, the rest by name."""
    parts = [f"part_iou.{PART_NAMES[label]}" for label in (*IOU_PARTS, SKIN)]
    first = ["part_iou.mean", "neutral_mm", *parts, "landmark_nme"]
    return [name for name in first if name in names] + sorted(names.difference(first))
