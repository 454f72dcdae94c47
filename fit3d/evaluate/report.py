"""The page of results: made from recorded evaluations and a template of prose, so that it can be made anew at once.

A record is what `fit3d evaluate ... --json` printed, one file for each of `RUNS`. The template says what the figures
mean; it holds no figure that a record holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fit3d.errors import UsageError
from fit3d.evaluate.record import SCHEMA
from fit3d.labels import IOU_PARTS, PART_NAMES, SKIN

TEMPLATE = "page.md.j2"
LABELLED, PHOTOS = "{labelled}", "{photos}"
"""Stand for the two folders in the commands of `RUNS`."""


@dataclass(frozen=True)
class RecordedRun:
    """An evaluation that the page tells of."""

    name: str
    """Of its record."""
    arguments: tuple[str, ...]
    """After `fit3d evaluate`; no option at its default."""
    minutes: float
    """It takes, about, on one core that is not wanted by others."""


def _run(name: str, arguments: str, minutes: float) -> RecordedRun:
    return RecordedRun(name, tuple(arguments.split()), minutes)


RUNS: tuple[RecordedRun, ...] = (
    _run("parts-landmarks", "parts {labelled} --loss landmarks", 0.2),
    _run("parts", "parts {labelled}", 0.2),
    _run("parts-prdl", "parts {labelled} --loss prdl", 0.2),
    _run("parts-parser", "parts {labelled} --observed parser", 0.2),
    _run("parts-paper", "parts {labelled} --protocol paper", 0.3),
    _run("parts-paper-people", "parts {labelled} --protocol paper --against labels --observed parser", 0.3),
    _run("parser-contours", "parser {labelled} --parser contours", 0.1),
    _run("parser-held-out", "parser {labelled} --held-out", 0.2),
    _run("parser", "parser {labelled}", 0.1),
    _run("plausibility-labelled", "plausibility {labelled} --observed labels", 0.3),
    _run("plausibility", "plausibility {photos}", 0.5),
    _run("geometry", "geometry --heads 24 --seen smooth", 4.0),
    _run("geometry-clay", "geometry --seen clay --noise 1.5", 1.5),
    _run("geometry-lenses", "geometry --seen smooth --focal unknown --noise 1.5", 1.0),
    _run("geometry-ict-truth", "geometry --truth ict --heads 4 --noise 0,1.5 --seen smooth", 2.0),
    _run("parts-ict", "parts {labelled} --model ict", 0.7),
    _run("geometry-ict", "geometry --model ict --heads 8 --noise 0,1.5 --loss landmarks,prdl+icp", 2.0),
    _run("losses", "losses {labelled} --known-heads 8 --ablate", 15.0),
    _run("weights", "losses {labelled} --tune --known-heads 16 --starts 0", 15.0),
)


def chosen_runs(names: Sequence[str]) -> list[RecordedRun]:
    """Those of `RUNS` with these names, or all. Raises UsageError for a name that there is not."""
    by_name = {run.name: run for run in RUNS}
    for name in names:
        if name not in by_name:
            raise UsageError(f"--only {name}: expected one of {', '.join(by_name)}")
    return [run for run in RUNS if not names or run.name in names]


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records NAME.json of a folder, by name, those of `RUNS` first.

    Raises:
        UsageError: there is no such folder, or a file in it is no record.
    """
    if not (folder / TEMPLATE).is_file():
        raise UsageError(
            f"{folder}: expected the template {TEMPLATE} and records; give --records, such as docs/results"
        )
    order = [run.name for run in RUNS]
    paths = sorted(folder.glob("*.json"), key=lambda path: (_place(order, path.stem), path.stem))
    return {path.stem: parse_record(path.read_text(encoding="utf-8"), str(path)) for path in paths}


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def parse_record(text: str, where: str) -> dict[str, Any]:
    """The record in `text`. Raises UsageError for anything else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UsageError(f"{where}: not a record of layout {SCHEMA}; expected the output of fit3d evaluate ... --json")
    return content


def render(folder: Path) -> str:
    """The page from the records and the template of a folder.

    Raises:
        UsageError: a record is missing that the template needs, or lacks a figure.
    """
    records = read_records(folder)
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(pct=pct, num=num, signed=signed, short=lambda text, length=12: text[:length])
    environment.globals.update(parts_cells=parts_cells, PART_COLUMNS=_COLUMNS, spread_cells=spread_cells)
    try:
        return environment.get_template(TEMPLATE).render(records=records, runs=RUNS)
    except TemplateError as error:
        raise UsageError(f"{folder / TEMPLATE}: {error}; is a record missing or of an older fit3d?") from error


_COLUMNS = ("mean", *(PART_NAMES[label] for label in (*IOU_PARTS, SKIN)))


def pct(share: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return num(None if share is None else 100.0 * share, digits)


def num(value: float | None, digits: int = 2) -> str:
    """A number; '-' for none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign, the minus as typographers have it."""
    return f"{value:+.{digits}f}".replace("-", "−")


def parts_cells(overlap: Mapping[str, float]) -> str:
    """Mean, eyes, brows, nose, lips and skin as cells of a row, in percent."""
    of = {name: pct(overlap.get(name)) for name in _COLUMNS}
    pairs = (("right_eye", "left_eye"), ("right_eyebrow", "left_eyebrow"))
    eyes, brows = (", ".join(of[name] for name in pair) for pair in pairs)
    return " | ".join([of["mean"], eyes, brows, of["nose"], f"{of['upper_lip']}, {of['lower_lip']}", of["skin"]])


def spread_cells(mean: Mapping[str, float], spread: Mapping[str, float]) -> str:
    """Parts 1 to 7 and their mean, each with its standard deviation over the photos, as cells of a row, in percent."""
    names = [*(PART_NAMES[label] for label in IOU_PARTS), "mean"]
    return " | ".join(f"{pct(mean.get(name))} ± {pct(spread.get(name))}" for name in names)
