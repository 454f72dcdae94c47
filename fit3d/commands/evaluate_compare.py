"""`fit3d evaluate compare`: whether one run is better than another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fit3d.commands.console import Console
from fit3d.commands.evaluate_options import OutputOptions
from fit3d.commands.evaluate_table import as_table, number
from fit3d.commands.options import SeedOption
from fit3d.commands.with_options import with_options
from fit3d.errors import UsageError

if TYPE_CHECKING:
    from fit3d.evaluate.compare import Comparison, Difference, Run

_RUN = "A file of `fit3d evaluate ... --json`, a folder that `fit3d batch` or `fit3d fit` wrote, or a results.jsonl."


@with_options
def evaluate_compare_command(
    a: Annotated[Path, typer.Argument(metavar="A", help=_RUN, show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="The same, of the same photos.", show_default=False)],
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            help="Which run of A and B, where a file holds several, such as one for each loss; asked for by a part of "
            "its name. Default: all that both have.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Which run of A, where it is another than --group of B.", show_default=False),
    ] = None,
    most_changed: Annotated[
        int, typer.Option("--most-changed", min=0, help="How many photos to name whose figure changed most.")
    ] = 5,
    seed: SeedOption = 0,
    *,
    output: OutputOptions,
) -> int:
    """Paired differences, B minus A, of every figure that both runs have of each photo, as tables in Markdown.

    Overlap and landmark errors are in percent (differences in points), other figures in their own unit. The interval
    holds the mean difference with a confidence of 95 percent (bias-corrected and accelerated bootstrap over the
    photos, which are few: at ten it holds in about 90 of 100 cases). Photos count as better by any difference. p is
    that of Wilcoxon's signed-rank test. Last come the photos whose first figure changed most.

    Runs on different photos, or on other labels of them, are refused.

    Exit code: 0 compared, whichever is better; 2 wrong usage.
    """
    from fit3d.evaluate.compare import compare, read_runs

    console = output.console()
    pairs = _pairs(read_runs(a), read_runs(b), group, against)
    found = {name: compare(one, two, seed=seed, most_changed=most_changed) for name, (one, two) in pairs.items()}
    if output.as_json:
        console.result("", {"a": str(a), "b": str(b), "comparisons": [_report(*item) for item in found.items()]})
    for name, comparison in found.items():
        if not output.as_json:
            _say(name, comparison, console)
    return 0


def _pairs(a: dict[str, Run], b: dict[str, Run], group: str | None, against: str | None) -> dict[str, tuple[Run, Run]]:
    """Runs to compare, by name. Raises UsageError where the names do not tell which."""
    if group is None and against is None:
        if len(a) == len(b) == 1:
            return {"": (next(iter(a.values())), next(iter(b.values())))}
        same = {name: (a[name], b[name]) for name in a if name in b}
        if same:
            return same
    name_b = _chosen(b, group, "--group")
    name_a = _chosen(a, against or group, "--against" if against else "--group")
    name = name_b if name_a == name_b else f"{name_b} against {name_a}"
    return {name: (a[name_a], b[name_b])}


def _chosen(runs: dict[str, Run], text: str | None, option: str) -> str:
    named = [text] if text in runs else [name for name in runs if (text or "") in name]
    if len(named) == 1 and named[0] is not None:
        return named[0]
    raise UsageError(f"{option} {text or ''}: expected one of {'; '.join(runs)}")


def _say(name: str, comparison: Comparison, console: Console) -> None:
    from fit3d.evaluate.compare import FEWEST

    first = comparison.differences[0]
    title = f"### {comparison.b.name} (B) against {comparison.a.name} (A)" + (f": {name}" if name else "")
    rows = [_row(each) for each in comparison.differences]
    headers = ["figure", "A", "B", "B - A", "95 % interval", "p", "better", "worse", ""]
    console.result(f"{title}\n\n{first.photos} photos\n\n{as_table(headers, rows)}\n", {})
    if comparison.changed:
        scale, digits = _scale(comparison.main)
        table = as_table(
            ["photo", "A", "B", "B - A"],
            [
                [change.photo, *(number(scale * value, digits) for value in (change.a, change.b, change.b - change.a))]
                for change in comparison.changed
            ],
        )
        console.result(f"Photos whose {comparison.main} changed most:\n\n{table}\n", {})
    for run, other in ((comparison.a, comparison.only_in_b), (comparison.b, comparison.only_in_a)):
        if other:
            console.warn(f"{run.name} has no figures of {', '.join(other)}; these photos do not count")
    if first.photos < FEWEST:
        console.warn(f"{first.photos} photos are too few for an interval that means much")


def _row(each: Difference) -> list[str]:
    scale, digits = _scale(each.figure)
    low, high = (f"{scale * value:+.{digits}f}" if value == value else "-" for value in (each.low, each.high))
    return [
        each.figure,
        number(scale * each.mean_a, digits),
        number(scale * each.mean_b, digits),
        f"{scale * each.mean:+.{digits}f}",
        f"{low} to {high}",
        number(each.p, 3),
        str(each.improved) if each.better != "unknown" else "-",
        str(each.worsened) if each.better != "unknown" else "-",
        each.verdict,
    ]


def _scale(figure: str) -> tuple[float, int]:
    """By what a figure is multiplied, and its decimals."""
    share = figure.startswith(("part_iou", "confidence", "render_nme")) or figure.endswith(("_nme", "focal_error"))
    return (100.0, 2) if share else (1.0, 3)


def _report(name: str, comparison: Comparison) -> dict[str, Any]:
    return {
        "group": name,
        "a": comparison.a.name,
        "b": comparison.b.name,
        "differences": [
            {**vars(each), "better": each.better, "verdict": each.verdict, "improved": each.improved}
            | {"worsened": each.worsened}
            for each in comparison.differences
        ],
        "figure": comparison.main,
        "most_changed": [vars(change) for change in comparison.changed],
        "only_in_a": list(comparison.only_in_a),
        "only_in_b": list(comparison.only_in_b),
    }
