"""Paired differences of two runs: what the interval covers, what is refused, and what the command tells."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fit3d.batch.record import Record
from fit3d.commands.app import main
from fit3d.errors import UsageError
from fit3d.evaluate.compare import BATCH, MOST, Run, compare, difference, direction, figures_of, interval, read_runs
from fit3d.evaluate.record import Data, as_text, record

FACES = [f"{number}.png" for number in range(12)]


def run_of(values: dict[str, float], name: str = "a", **others: Any) -> Run:
    return Run(
        name, "evaluate parts", {photo: {"part_iou.mean": value} for photo, value in values.items()}, {}, **others
    )


def written(path: Path, rows: list[dict[str, Any]], digest: str = "d" * 64, command: str = "parts") -> Path:
    content = record(f"fit3d evaluate {command} FOLDER", Data("folder", len(rows), digest), {"photos": rows}, 1.0)
    path.write_text(as_text(content), encoding="utf-8")
    return path


def row(photo: str, mean: float, nme: float = 0.01, **others: Any) -> dict[str, Any]:
    return {"photo": photo, "part_iou": {"nose": mean, "mean": mean}, "landmark_nme": nme, "fit_s": 0.1, **others}


# --- the interval -----------------------------------------------------------------------------------------------


def coverage(photos: int, skewed: bool, trials: int = 400) -> float:
    """How often the interval holds the true mean of differences that are drawn around it."""
    generator, inside = np.random.default_rng(1), 0
    for trial in range(trials):
        drawn = generator.normal(size=photos) if not skewed else generator.exponential(size=photos) - 1.0
        low, high = interval(0.02 + 0.03 * drawn, seed=trial, resamples=499)
        inside += low <= 0.02 <= high
    return inside / trials


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """A share of 400 trials has a standard deviation of 1.1 points around 95 percent."""
    assert 0.915 <= coverage(60, skewed=False) <= 0.98
    assert 0.89 <= coverage(60, skewed=True) <= 0.98
    # with as few photos as the labelled folder has it is too narrow, as the command says
    assert 0.85 <= coverage(10, skewed=False) <= 0.95


def test_many_photos_have_the_interval_of_students_t() -> None:
    drawn = np.random.default_rng(3).exponential(size=MOST + 1)
    low, high = interval(drawn)
    margin = 1.9602 * drawn.std(ddof=1) / math.sqrt(len(drawn))
    assert (low, high) == pytest.approx((drawn.mean() - margin, drawn.mean() + margin), abs=1e-5)
    # the bootstrap's ends at the bound are near them, and it holds few values at a time
    tracemalloc.start()
    assert interval(drawn[:MOST], resamples=999) == pytest.approx((low, high), abs=0.004)
    assert tracemalloc.get_traced_memory()[1] < 40 * BATCH
    tracemalloc.stop()


def test_pairs_tell_what_means_do_not() -> None:
    """Photos differ far more from each other than the runs do; paired, the difference shows all the same."""
    generator = np.random.default_rng(0)
    hard = generator.uniform(0.2, 0.9, 30)
    b = hard + 0.01 + generator.normal(scale=0.005, size=30)
    found = difference("part_iou.mean", hard.tolist(), b.tolist())
    assert found.low < 0.01 + 0.002 and found.high > 0.01 - 0.002 and found.high - found.low < 0.005
    assert found.verdict == "better" and found.p < 1e-4
    unpaired = difference("part_iou.mean", hard.tolist(), generator.permutation(b).tolist())
    assert unpaired.verdict == "undecided"


def test_the_seed_decides_all() -> None:
    values = np.random.default_rng(2).normal(size=9)
    assert interval(values, 3) == interval(values, 3) != interval(values, 4)


def test_no_interval_where_there_cannot_be_one() -> None:
    alone = difference("part_iou.mean", [0.5], [0.6])
    assert math.isnan(alone.low) and math.isnan(alone.high) and alone.verdict == "undecided"
    same = difference("part_iou.mean", [0.5, 0.6], [0.5, 0.6])
    assert (same.low, same.high, same.verdict, same.higher, same.lower) == (0.0, 0.0, "undecided", 0, 0)
    assert math.isnan(same.p)
    rounded = difference("part_iou.mean", [0.654321, 0.7], [0.65432123, 0.69999961])
    assert (rounded.mean, rounded.higher, rounded.lower) == (0.0, 0, 0)
    shifted = difference("part_iou.mean", [0.5, 0.75], [0.625, 0.875])
    assert (shifted.low, shifted.high) == (0.125, 0.125)


@pytest.mark.parametrize(
    ("figure", "good"),
    [
        ("part_iou.mean", "higher"),
        ("landmark_nme", "lower"),
        ("render_nme.all", "lower"),
        ("neutral_mm", "lower"),
        ("forehead", "lower"),
        ("rotation_deg", "lower"),
        ("focal_error", "lower"),
        ("identity_rms", "unknown"),
    ],
)
def test_which_values_are_good(figure: str, good: str) -> None:
    assert direction(figure) == good
    higher = difference(figure, [1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert higher.verdict == {"higher": "better", "lower": "worse", "unknown": "differs"}[good]
    assert (higher.improved, higher.worsened) == ((0, 3) if good == "lower" else (3, 0))


# --- what is compared -------------------------------------------------------------------------------------------


def test_photos_that_one_run_lacks_do_not_count() -> None:
    a, b = dict.fromkeys(FACES, 0.5), dict.fromkeys(FACES[1:], 0.75)
    b[FACES[3]] = 0.25
    found = compare(run_of(a, digest="x"), run_of(b, "b", digest="x", failures={FACES[0]: "no face"}), most_changed=2)
    (mean,) = found.differences
    assert (mean.photos, mean.higher, mean.lower) == (11, 10, 1)
    assert mean.mean == pytest.approx((10 * 0.25 - 0.25) / 11)
    assert found.only_in_a == (FACES[0],) and found.only_in_b == ()
    assert len(found.changed) == 2


def test_the_photos_that_changed_most() -> None:
    a = {"x": 0.5, "y": 0.5, "z": 0.5, "same": 0.5}
    found = compare(run_of(a), run_of({"x": 0.6, "y": 0.2, "z": 0.7, "same": 0.5}, "b"))
    assert [(change.photo, change.b) for change in found.changed] == [("y", 0.2), ("z", 0.7), ("x", 0.6)]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (run_of({"x": 1.0, "z": 1.0}, "b"), "different photos: a lacks z; b lacks y"),
        (run_of({"x": 1.0, "y": 1.0}, "b", digest="2" * 64), "different data: a of 111111111111, b of 222222222222"),
        (Run("b", "results", {"x": {"part_iou.mean": 1.0}}, {}), "a tells of evaluate parts, b of results"),
        (Run("b", "evaluate parts", {"x": {"other": 1.0}, "y": {"other": 1.0}}, {}), "no figure in common"),
    ],
)
def test_what_cannot_be_compared(other: Run, message: str) -> None:
    a = run_of({"x": 1.0, "y": 1.0}, digest="1" * 64 if other.digest else None)
    with pytest.raises(UsageError, match=message):
        compare(a, other)


def test_other_bytes_under_the_same_name_are_another_photo() -> None:
    a, b = (Run(name, "results", {"x": {"part_iou.mean": 1.0}}, {"x": sha}) for name, sha in (("a", "1"), ("b", "2")))
    with pytest.raises(UsageError, match="x is not the same file in both"):
        compare(a, b)


def test_figures_of_a_row() -> None:
    found = figures_of(row("x", 0.5, float("nan"), group="g", steps=3, worst=None, ok=True, by={"a": {"b": 2}}))
    assert found == {"part_iou.nose": 0.5, "part_iou.mean": 0.5, "by.a.b": 2.0}


def test_manifests_of_a_batch(tmp_path: Path) -> None:
    def line(photo: str, iou: float | None, finished: float, **others: Any) -> bytes:
        told = None if iou is None else {"mean": iou, "nose": math.nan}
        done = Record(
            photo=photo,
            sha256="0" * 64,
            size=1,
            version=None,
            status="ok" if iou is not None else "no_face",
            message="" if iou is not None else "no face found",
            part_iou=told,
            landmark_nme=None if iou is None else 0.01,
            seconds=1.0,
            timings_s={},
            folder=None,
            faces=(),
            options="",
            target=photo,
            finished=finished,
        )
        return done.to_line()

    strange = "b\u2028\u0085.png"  # these end lines of text, but not of a manifest
    lines = [line("a.png", 0.5, 1.0), line(strange, None, 2.0), line("a.png", 0.75, 3.0)]
    (tmp_path / "results.jsonl").write_bytes(b"".join(lines))
    for place in (tmp_path, tmp_path / "results.jsonl"):
        (run,) = read_runs(place).values()
        assert run.kind == "results"
        assert run.figures == {"a.png": {"part_iou.mean": 0.75, "landmark_nme": 0.01}}
        assert run.failures == {strange: "no face found"} and run.data["a.png"] == "0" * 64
    (tmp_path / "results.jsonl").write_bytes(lines[0] + b"{}\n")
    for place in (tmp_path, tmp_path / "results.jsonl"):
        with pytest.raises(UsageError, match="line 2"):
            read_runs(place)


# --- the command ------------------------------------------------------------------------------------------------


def test_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hard = np.linspace(0.4, 0.9, len(FACES))
    a = written(tmp_path / "a.json", [row(name, value, 0.02) for name, value in zip(FACES, hard, strict=True)])
    gains = 0.02 + 0.01 * np.cos(np.arange(len(FACES)))
    rows = [row(name, value + gain, 0.01) for name, value, gain in zip(FACES, hard, gains, strict=True)]
    b = written(tmp_path / "b.json", rows)
    assert main(["evaluate", "compare", str(a), str(b), "--json"]) == 0
    (found,) = json.loads(capfd.readouterr().out)["comparisons"]
    mean, nose, nme = found["differences"]
    assert [each["figure"] for each in found["differences"]] == ["part_iou.mean", "part_iou.nose", "landmark_nme"]
    assert mean["mean"] == pytest.approx(gains.mean(), abs=1e-6) and mean["low"] < gains.mean() < mean["high"]
    assert mean["verdict"] == nose["verdict"] == nme["verdict"] == "better" and nme["improved"] == len(FACES)
    assert found["most_changed"][0]["photo"] == FACES[int(gains.argmax())]

    assert main(["evaluate", "compare", str(a), str(b), "--most-changed", "1"]) == 0
    said = capfd.readouterr()
    tables = [block for block in said.out.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2 and said.err == ""
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "| part_iou.mean | 65.00 |" in said.out and f"| {FACES[int(gains.argmax())]} |" in said.out

    other = written(tmp_path / "other.json", rows, "e" * 64)
    assert main(["evaluate", "compare", str(a), str(other)]) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.startswith("error: the runs are of different data: a.json of ddd")
    assert said.err.count("\n") == 1


def test_groups_of_one_record(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [
        row(name, 0.5 + gain + 0.01 * number, group=group)
        for group, gain in (("prdl", 0.0), ("prdl+icp", 0.1))
        for number, name in enumerate(FACES)
    ]
    path = str(written(tmp_path / "losses.json", rows, command="losses"))
    assert main(["evaluate", "compare", path, path, "--group", "prdl+icp", "--against", "prdl", "--json"]) == 0
    (found,) = json.loads(capfd.readouterr().out)["comparisons"]
    assert found["group"] == "prdl+icp against prdl"
    assert found["differences"][0]["mean"] == pytest.approx(0.1, abs=1e-6)
    assert main(["evaluate", "compare", path, path, "--json"]) == 0
    assert [each["group"] for each in json.loads(capfd.readouterr().out)["comparisons"]] == ["prdl", "prdl+icp"]
    assert main(["evaluate", "compare", path, path, "--group", "chamfer"]) == 2
    assert "--group chamfer: expected one of prdl; prdl+icp" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[1]", "not a record"),
        ('{"schema": "fit3d-evaluation/1", "photos": []}', "no rows of photos"),
        ('{"schema": "fit3d-evaluation/1", "photos": [{"photo": "x"}, {"photo": "x"}]}', "two rows of x"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_record(text: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert main(["evaluate", "compare", str(path), str(path)]) == 2
    said = capfd.readouterr()
    assert said.err.startswith("error: ") and message in said.err and said.err.count("\n") == 1
    assert main(["evaluate", "compare", str(path), str(tmp_path / "missing.json")]) == 2
