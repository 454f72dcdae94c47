"""How good are the photos that `fit3d synthesise` makes: confirmed or not, their labels, what a new fit reads in them.

All recipes on each photo of a folder, on one core, as the command makes them. What a detector and a parser confirm is
counted by recipe, with the overlap of written labels and those that the parser sees. Confirmed edits are then fitted
anew, from their image alone, and each expression coefficient that a recipe moved is compared with the one written. Run
from the checkout:

    python benchmarks/synthesise.py FOLDER [--photos 6] [--per-photo 24] [--refits 144] [--seed 0]
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

import fit3d

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FEWEST = 8
"""Edits that moved a coefficient, below which its correlation says nothing."""
MOVED = 0.05
"""A recipe moved a coefficient that differs by more from the photo's."""
NOSE = slice(27, 36)
"""Of the 68 landmarks: the face that is fitted anew is the one there."""
ENOUGH = 0.75
"""Overlap of written and seen labels that is asked of a data set."""


def main(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Photos with faces.")],
    photos: Annotated[int, typer.Option(min=1, help="So many photos of it, evenly chosen by name.")] = 6,
    per_photo: Annotated[int, typer.Option(min=1, help="Edits of each; 24 are all recipes once.")] = 24,
    refits: Annotated[int, typer.Option(min=0, help="So many confirmed edits are fitted anew, evenly chosen.")] = 144,
    seed: Annotated[int, typer.Option(help="Of the edits.")] = 0,
) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    chosen = evenly(sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES), photos)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        begun = time.perf_counter()
        done = list(
            fit3d.synthesise_batch(
                chosen, out, per_photo=per_photo, seed=seed, landmarks="mediapipe", parser="embedded", workers=1
            )
        )
        seconds = time.perf_counter() - begun
        edits = [json.loads(line) for line in (out / "edits.jsonl").read_text(encoding="utf-8").split("\n") if line]
        print(f"{len(done)} photos of {folder.name}, {len(edits)} edits, seed {seed}\n")
        say_confirmed(edits)
        confirmed = [edit for edit in edits if edit["status"] == "confirmed"]
        print(f"\n{seconds / max(len(confirmed), 1):.2f} s for each confirmed edit, one worker, start included")
        say_refitted(out, evenly(confirmed, refits))


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of them, from first to last."""
    return [items[index] for index in sorted(set(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)))]


def say_confirmed(edits: Iterable[dict[str, Any]]) -> None:
    """A row for each recipe."""
    by_recipe: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for edit in edits:
        by_recipe[edit["recipe"]].append(edit)
    rows = [*sorted(by_recipe.items()), ("all", [edit for each in by_recipe.values() for edit in each])]
    print("| recipe | edits | confirmed | labels' overlap, mean | least | share from 75 % |\n" + "| --- " * 6 + "|")
    for name, every in rows:
        overlaps = [edit["part_iou"]["mean"] for edit in every if edit["status"] == "confirmed"]
        share = f"{len(overlaps)} ({100 * len(overlaps) / len(every):.0f} %)"
        told = (statistics.fmean(overlaps), min(overlaps), np.mean(np.array(overlaps) >= ENOUGH)) if overlaps else ()
        print(f"| {name} | {len(every)} | {share} | {' | '.join(f'{100 * value:.0f}' for value in told)} |")


def say_refitted(out: Path, edits: Sequence[dict[str, Any]]) -> None:
    """Correlation of written and fitted coefficients over the edits, for those that recipes moved."""
    written: dict[str, list[tuple[float, float]]] = defaultdict(list)
    moved: dict[str, int] = defaultdict(int)
    failed = 0
    for edit in edits:
        truth = json.loads((out / edit["json"]).read_bytes())
        x, y = np.mean([point for point in truth["landmarks"]["ibug68"]["points_px"][NOSE] if None not in point], 0)
        try:
            found = fit3d.fit(
                out / edit["image"],
                landmarks="mediapipe",
                parser="embedded",
                face=(float(x), float(y)),
                texture_size=16,
            )
        except fit3d.PhotoError:
            failed += 1
            continue
        fitted = dict(zip(found.model.expression_names, found.fit.expression.tolist(), strict=True))
        before = truth["parameters"]["photo_expression"]
        for name, value in truth["parameters"]["expression"].items():
            written[name].append((value, fitted[name]))
            moved[name] += abs(value - before[name]) > MOVED
    rows = {name: correlation(pairs) for name, pairs in written.items() if moved[name] >= FEWEST}
    if not rows:
        return
    print(f"\n{len(edits)} edits fitted anew, {failed} could not be\n\n| coefficient | moved in | correlation |")
    print("| --- " * 3 + "|")
    for name, value in sorted(rows.items(), key=lambda row: -row[1]):
        print(f"| {name} | {moved[name]} | {value:.2f} |")
    print(f"\nmedian {statistics.median(rows.values()):.2f}")


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Pearson's, of written and fitted values."""
    return float(np.corrcoef(np.array(pairs).T)[0, 1])


if __name__ == "__main__":
    typer.run(main)
