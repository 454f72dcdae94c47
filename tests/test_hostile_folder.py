"""A batch over a folder of bad and odd files: each comes to one clear end, and nothing else is touched."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hostile_files import OK, HostileFolder, others

SECRET = b"no-file/secret.jpg"
"""That all but root may not read: it is tried again, as its permissions may have changed."""
CLI = Path(__file__).resolve().parent.parent / "cli.py"
QUICK = ["--loss", "landmarks", "--texture-size", "16", "--overlay", "none", "--format", "colmap"]
BACKENDS = ["--landmarks", "mediapipe", "--parser", "embedded"]
LONGEST_S = 1800.0
MEMORY_LIMIT_MB = 2_500
"""Of any process of the batch, about 1 GB of which it takes for any photo."""


def batch(folder: Path, during: threading.Thread | None = None) -> tuple[int, str, str]:
    """Run the batch in `folder`; returns exit code, output and messages."""
    command = [sys.executable, str(CLI), "batch", "photos", "-o", "out", "--workers", "2", "--json", *QUICK, *BACKENDS]
    said, errors = folder.with_name("said"), folder.with_name("errors")
    with open(said, "wb") as output, open(errors, "wb") as messages:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=messages, env=os.environ | {"TMPDIR": str(folder / "tmp")}
        )
        stop = threading.Timer(LONGEST_S, process.kill)
        stop.start()
        if during is not None:
            during.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stop.cancel()
    assert usage.ru_maxrss / 1024 < MEMORY_LIMIT_MB
    return process.returncode, said.read_text(), errors.read_text()


def records(out: Path) -> dict[bytes, dict[str, Any]]:
    """The manifest's lines by photo."""
    lines = [json.loads(line) for line in (out / "results.jsonl").read_bytes().splitlines()]
    found = {os.fsencode(line["photo"]): line for line in lines}
    assert len(found) == len(lines)
    return found


def test_each_file_comes_to_its_end(tmp_path: Path, astronaut: Path) -> None:
    folder = tmp_path / "all"
    (folder / "tmp").mkdir(parents=True)
    hostile = HostileFolder(folder / "photos", astronaut)
    assert len(hostile.expected) > 140  # of which the file system takes nearly all
    for name in ("zz/removed.jpg", "zz/replaced.jpg"):
        hostile.add(name, hostile.photo(), OK)
    changing, out = folder / "photos" / "zz", folder / "out"
    before = untouched(folder)
    new = hostile.photo(quality=60)

    def change() -> None:
        while not (out / "results.jsonl").exists() or not (out / "results.jsonl").stat().st_size:
            time.sleep(0.05)
        (changing / "removed.jpg").unlink()
        (changing / "new.part").write_bytes(new)
        (changing / "new.part").replace(changing / "replaced.jpg")

    thread = threading.Thread(target=change, daemon=True)
    code, said, errors = batch(folder, thread)
    thread.join(LONGEST_S)
    assert code == 1, errors
    assert "Traceback" not in errors
    assert all(line.isprintable() for line in errors.splitlines())

    found = records(out)
    removed, replaced = found.pop(b"zz/removed.jpg"), found.pop(b"zz/replaced.jpg")
    assert (removed["status"], removed["message"]) == ("unreadable", "no such file; check the path")
    assert replaced["sha256"] == hashlib.sha256(new).hexdigest()
    expected = {name: each for name, each in hostile.expected.items() if each and not name.startswith(b"zz/")}
    assert sorted(found) == sorted(expected)
    for name, each in expected.items():
        record = found[name]
        assert record["status"] in each.statuses and each.message in record["message"], (name, record)
        assert record["message"].isprintable() and len(record["message"]) < 500, (name, record)
        is_done = record["status"] in ("ok", "poor")
        assert bool(record["folder"]) == is_done
        if is_done:
            result = out / record["folder"] / f"{Path(record['folder']).name}.json"
            assert json.loads(result.read_bytes())["photo"]["sha256"] == record["sha256"]
        else:
            assert record["message"]
    assert len({record["target"].casefold() for record in found.values()}) == len(found)

    assert len(said.splitlines()) == len(found) + 2
    assert untouched(folder) == before
    assert not list((folder / "tmp").iterdir())
    assert sorted(path.name for path in folder.iterdir()) == ["out", "photos", "tmp"]
    assert [path.name for path in out.rglob(".*")] == [".fit3d"]
    check_page(out, Counter(record["status"] for record in (*found.values(), removed, replaced)))

    manifest = records(out)
    code, said, _ = batch(folder)
    assert code == 1
    expected_again = {"zz/replaced.jpg"} | ({"no-file/secret.jpg"} if manifest[SECRET]["sha256"] is None else set())
    assert {json.loads(line)["photo"] for line in said.splitlines()} == expected_again
    again = records(out)
    for photo in expected_again:
        assert again.pop(photo.encode()) != manifest.pop(photo.encode())
    assert again == manifest


def untouched(folder: Path) -> list[tuple[str, str]]:
    """All that a batch may not change."""
    found = others(folder, folder / "out")
    return [(name, state) for name, state in found if "/zz" not in name and not name.endswith("/tmp'")]


def check_page(out: Path, counts: Counter[str]) -> None:
    """The report lists every photo, and a name cannot put anything into it."""
    page = (out / "index.html").read_text(encoding="utf-8")
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    data = json.loads(match[1])
    assert Counter(data["statuses"][number] for number in data["columns"]["status"]) == counts
    assert "<script>alert" not in page and page.count("<script") == 2
