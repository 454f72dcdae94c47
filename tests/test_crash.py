"""Batches that die: killed, stopped, out of disk, or with nobody who reads what they say."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fit3d.batch.local_storage import LocalStorage

CHECKOUT = Path(__file__).resolve().parent.parent
KILLS = 3
QUICK = ["--loss", "landmarks", "--texture-size", "64", "--overlay", "none", "--landmarks", "mediapipe"]


@pytest.fixture(scope="module")
def crash() -> ModuleType:
    """The benchmark, of which this is the short form."""
    spec = importlib.util.spec_from_file_location("crash", CHECKOUT / "benchmarks" / "crash.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["crash"] = module
    spec.loader.exec_module(module)
    return module


def test_what_is_killed_goes_on(crash: ModuleType, tmp_path: Path) -> None:
    trial = crash.Trial.begin(tmp_path, photos=4, workers=2, seed=1)
    while trial.kills.total() < KILLS:
        trial.round(KILLS)
    assert trial.kills.total() == KILLS


def run(photos: Path, out: Path, *options: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """A batch of a worker, to its end."""
    command = [sys.executable, str(CHECKOUT / "cli.py"), "batch", str(photos), "-o", str(out), "--workers", "1"]
    return subprocess.run([*command, *QUICK, *options], stderr=subprocess.PIPE, text=True, timeout=600, **settings)


def test_a_full_disk_ends_the_batch_and_nothing_is_half_done(crash: ModuleType, tmp_path: Path) -> None:
    crash.make_photos(tmp_path / "photos", 3)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "none", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("a disk that is full needs the right to mount one")
    try:
        ended = run(tmp_path / "photos", disk / "out", "--format", "obj")
        assert ended.returncode == 2, ended.stderr
        assert ended.stderr.splitlines()[-1].startswith("error: cannot write ")
        assert "the disk is full" in ended.stderr.splitlines()[-1]
        assert "Traceback" not in ended.stderr
        assert 0 <= len(crash.lines_of(disk / "out")) < 3
        crash.check_lines(disk / "out")
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        assert run(tmp_path / "photos", disk / "out", "--format", "obj").returncode == 0
        assert run(tmp_path / "photos", tmp_path / "whole", "--format", "obj").returncode == 0
        crash.compare(tmp_path / "whole", disk / "out")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_nobody_reads_and_nobody_writes(crash: ModuleType, tmp_path: Path) -> None:
    crash.make_photos(tmp_path / "photos", 3)
    reader, writer = os.pipe()
    os.close(reader)
    ended = run(tmp_path / "photos", tmp_path / "out", "--json", stdout=writer)
    os.close(writer)
    assert ended.returncode == 130 and "Traceback" not in ended.stderr
    done = len(crash.lines_of(tmp_path / "out"))
    assert 1 <= done < 3
    crash.check_lines(tmp_path / "out")

    def close() -> None:
        os.closerange(0, 2)

    assert run(tmp_path / "photos", tmp_path / "out", preexec_fn=close).returncode == 0
    assert len(crash.lines_of(tmp_path / "out")) == 3
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.name != ".fit3d"]
    with LocalStorage(str(tmp_path / "out")).lock("results.jsonl"):
        pass  # nobody holds it
