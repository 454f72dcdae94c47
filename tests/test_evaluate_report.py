"""The page of results is what its records and its template make, and records say where they come from."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fit3d.commands.app import main
from fit3d.evaluate.record import Data, as_text, record
from fit3d.evaluate.report import RUNS, TEMPLATE, parts_cells, render, signed

REPOSITORY = Path(__file__).resolve().parent.parent
RECORDS = REPOSITORY / "docs" / "results"


def a_record(figures: dict[str, Any], command: str = "fit3d evaluate parts FOLDER") -> str:
    return as_text(record(command, Data("folder", 2, "0" * 64), figures, 12.3))


def test_the_page_is_what_its_records_make(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    assert main(["evaluate", "report", "--records", str(RECORDS), "-o", str(page), "--quiet"]) == 0
    assert page.read_text(encoding="utf-8") == (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8"), (
        "docs/results.md is not what `fit3d evaluate report` writes"
    )


def test_tables_of_the_page_are_tables() -> None:
    blocks = re.findall(r"(?:^\|.*\n)+", (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8"), re.M)
    assert len(blocks) > 12
    for block in blocks:
        head, ruler, *rows = block.splitlines()
        assert set(ruler) == {"|", "-", " "}, block
        assert rows and {line.count("|") for line in (head, ruler, *rows)} == {head.count("|")}, block


def test_every_record_says_where_it_comes_from() -> None:
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RECORDS.glob("*.json")}
    assert set(found) == {run.name for run in RUNS}
    for run in RUNS:
        content = found[run.name]
        words = [word for word in run.arguments if not word.startswith("{")]
        said = content["command"].split()[2:]
        assert sorted(word for word in said if not word.isupper() and word != "PHOTO...") == sorted(words), run.name
        assert content["data"]["photos"] > 0 and re.fullmatch(r"[0-9a-f]{64}", content["data"]["digest"])
        assert {"fit3d", "torch", "numpy", "python"} <= set(content["versions"]) and content["hardware"]["processor"]
        assert "/" not in content["data"]["name"] and content["photos"], run.name


def test_figures_of_the_page_are_those_of_its_records(tmp_path: Path) -> None:
    """Another figure in a record changes the page there, and nowhere else."""
    folder = tmp_path / "results"
    shutil.copytree(RECORDS, folder)
    before = render(folder).splitlines()
    path = folder / "parts-prdl.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["average"]["part_iou"]["nose"] = 0.12345
    path.write_text(as_text(content), encoding="utf-8")
    changed = [line for line, old in zip(render(folder).splitlines(), before, strict=True) if line != old]
    assert len(changed) == 1 and "`--loss prdl`" in changed[0] and "| 12.3 |" in changed[0]


def test_a_missing_record_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "results"
    shutil.copytree(RECORDS, folder)
    (folder / "parser.json").unlink()
    arguments = ["evaluate", "report", "--records", str(folder), "-o", str(tmp_path / "page.md")]
    assert main(arguments) == 2
    said = capfd.readouterr().err
    assert "'dict object' has no attribute 'parser'" in said and said.count("\n") == 1
    (folder / "parser.json").write_text("{}")
    assert main(arguments) == 2
    assert "not a record of layout fit3d-evaluation/1" in capfd.readouterr().err
    assert main(["evaluate", "report", "--records", str(tmp_path)]) == 2
    assert "expected the template" in capfd.readouterr().err
    assert not (tmp_path / "page.md").exists()


def test_a_template_cannot_run_anything(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / TEMPLATE).write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    assert main(["evaluate", "report", "--records", str(tmp_path), "-o", str(tmp_path / "page.md")]) == 2
    assert "unsafe" in capfd.readouterr().err


def test_runs_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / TEMPLATE).write_text("{% for name in records %}{{ name }} {{ records[name].seconds }}\n{% endfor %}")
    asked: list[list[str]] = []

    def typed(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        if "--held-out" in command:
            return subprocess.CompletedProcess(command, 2, "", "warning: x\nerror: no photo found\n")
        return subprocess.CompletedProcess(command, 1, a_record({"photos": [{"photo": "x", "nan": float("nan")}]}), "")

    monkeypatch.setattr(subprocess, "run", typed)
    page = tmp_path / "page.md"
    arguments = ["evaluate", "report", "--records", str(tmp_path), "-o", str(page), "--run"]
    assert main([*arguments, "--only", "parser", "--only", "parser-held-out", "--labelled", "my photos"]) == 1
    assert asked == [
        [sys.executable, "-m", "fit3d", "evaluate", "parser", "my photos", *options, "--json"]
        for options in (["--held-out"], [])
    ]
    assert capfd.readouterr().err == "error: parser-held-out: no photo found\n"
    assert page.read_text() == "parser 12.3\n"
    assert json.loads((tmp_path / "parser.json").read_text())["photos"] == [{"photo": "x", "nan": None}]

    assert main(arguments) == 2
    assert "--labelled is missing, which parts-landmarks, parts," in capfd.readouterr().err
    assert main([*arguments[:-1], "--only", "parser"]) == 2
    assert main([*arguments, "--only", "nonsense"]) == 2
    assert "--only nonsense: expected one of parts-landmarks" in capfd.readouterr().err
    assert main(["evaluate", "report", "--list"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == len(RUNS)


def test_cells() -> None:
    names = ("right_eye", "left_eye", "right_eyebrow", "left_eyebrow", "nose", "upper_lip", "lower_lip", "skin")
    overlap = {"mean": 0.5} | {name: 0.1 * number for number, name in enumerate(names, 1)}
    assert parts_cells(overlap) == "50.0 | 10.0, 20.0 | 30.0, 40.0 | 50.0 | 60.0, 70.0 | 80.0"
    assert parts_cells({"mean": 0.5}) == "50.0 | -, - | -, - | - | -, - | -"
    assert (signed(-0.0914), signed(0.5, 1)) == ("−0.091", "+0.5")


def test_a_record_is_kept_as_it_was() -> None:
    figures = {"mean": 1.0 / 3.0, "none": float("inf"), "photos": [{"photo": "a", "x": 1e-9}, {"photo": "b|c", "x": 2}]}
    text = a_record(figures)
    content = json.loads(text)
    assert content["mean"] == 0.333333 and content["none"] is None
    assert content["photos"] == [{"photo": "a", "x": 1e-9}, {"photo": "b|c", "x": 2}]
    assert sum('{"photo"' in line for line in text.splitlines()) == 2
