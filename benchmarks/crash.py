"""Does a batch that is killed lose or double anything? Kills one again and again, and goes on with the same command.

A batch of small photos is killed with SIGKILL at random moments: all of its processes, one worker, or the parent
alone. Each time the same command goes on, at once, until everything is done; what is in OUT then must be what an
undisturbed run wrote, byte by byte, but for times. Then it begins anew, until there were enough kills. Run from the
checkout, on Linux:

    python benchmarks/crash.py [--kills 30] [--photos 16] [--workers 2] [--seed 0]
"""

from __future__ import annotations

import html
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from PIL import Image

from fit3d.batch.local_storage import LocalStorage

CHECKOUT = Path(__file__).resolve().parent.parent
BATCH = (sys.executable, str(CHECKOUT / "cli.py"), "batch")
OPTIONS = ("--loss", "landmarks", "--texture-size", "64", "--format", "obj", "--landmarks", "mediapipe")
FACE_BOX = (120, 0, 360, 240)
"""Of the example photo, px."""
TIMES = ("seconds", "timings_s", "finished")
"""What differs from run to run in a photo's line."""
Victim = Literal["group", "worker", "parent"]
VICTIMS: tuple[Victim, ...] = ("group", "worker", "parent")
"""All processes of the run, one of its workers, or the process that the user started, alone."""
MOST_BETWEEN = 3
"""Photos between two kills, at most."""
LONGEST_PAUSE_S = 4.0
"""Between the end of a photo and a kill."""
LONGEST_S = 900.0
"""Time that one run may take."""
ORPHANS_END_S = 30.0
"""Time that workers whose parent was killed may take to end."""


def main(
    kills: Annotated[int, typer.Option(min=1, help="Times that something is killed.")] = 30,
    photos: Annotated[int, typer.Option(min=1, help="Photos of the batch.")] = 16,
    workers: Annotated[int, typer.Option(min=1, help="Of the batch.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the moments and of who is killed.")] = 0,
) -> None:
    """Print what was killed, and what was found afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        trial = Trial.begin(Path(scratch), photos, workers, seed)
        print(f"{photos} photos, {' '.join(OPTIONS)}, {workers} workers: {trial.undisturbed_s:.0f} s undisturbed")
        while trial.kills.total() < kills:
            trial.round(kills)
            print(f"  round {trial.rounds}: {trial.told()}", flush=True)
        print(f"{trial.rounds} rounds were done to the end, the same as the undisturbed run: {trial.told()}")


@dataclass
class Trial:
    """Batches that are killed, compared with one that was not."""

    photos: Path
    whole: Path
    """OUT of the undisturbed run."""
    workers: int
    undisturbed_s: float
    random: random.Random
    rounds: int = 0
    kills: Counter[Victim] = field(default_factory=Counter)
    at: list[int] = field(default_factory=list)
    """Photos that were done at each kill."""

    @classmethod
    def begin(cls, scratch: Path, photos: int, workers: int, seed: int) -> Trial:
        """Make the photos, and do the undisturbed run."""
        make_photos(scratch / "photos", photos)
        trial = cls(scratch / "photos", scratch / "whole", workers, 0.0, random.Random(seed))
        start = time.monotonic()
        with trial.started(trial.whole) as process:
            process.wait(LONGEST_S)
        trial.undisturbed_s = time.monotonic() - start
        assert process.returncode == 0, errors_of(trial.whole)
        return trial

    def started(self, out: Path) -> subprocess.Popen[bytes]:
        """The command, in a process group of its own; what it says is in files beside OUT."""
        command = [*BATCH, str(self.photos), "-o", str(out), "--workers", str(self.workers), *OPTIONS]
        temporary = out.with_name(f"{out.name}-tmp")
        temporary.mkdir(parents=True, exist_ok=True)
        with open(out.with_name(f"{out.name}-errors"), "ab") as errors:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                env=os.environ | {"TMPDIR": str(temporary)},
            )

    def round(self, most_kills: int) -> None:
        """A batch from its beginning to its end, killed on the way; `most_kills` are those of all rounds."""
        out = self.whole.with_name(f"out-{self.rounds}")
        while not self._run(out, most_kills):
            check_lines(out)
        assert not list(out.with_name(f"{out.name}-tmp").iterdir()), "something was left in the folder TMPDIR"
        compare(self.whole, out)
        with LocalStorage(str(out)).lock("results.jsonl"):
            pass  # nobody holds it
        self.rounds += 1
        shutil.rmtree(out)

    def _run(self, out: Path, most_kills: int) -> bool:
        """One start of the command, with a kill or two; returns whether it came to its end."""
        workers_killed = 0
        with self.started(out) as process:
            while self.kills.total() < most_kills:
                victim = self.random.choice(("group", "parent") if workers_killed else VICTIMS)
                if not self._moment(out, process):
                    break
                others = children(process.pid)
                if victim == "worker" and not others:
                    continue
                self.kills[victim] += 1
                self.at.append(len(lines_of(out)))
                if victim == "worker":
                    os.kill(self.random.choice(others), signal.SIGKILL)
                    workers_killed += 1  # one alone: a photo whose worker dies twice counts as the cause of it
                    continue
                if victim == "group":
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()
                    wait_for_end(others)
                return False
            process.wait(LONGEST_S)
        assert process.returncode == 0, f"exit code {process.returncode}: {errors_of(out)}"
        return True

    def _moment(self, out: Path, process: subprocess.Popen[bytes]) -> bool:
        """Wait for the next kill: some time after so and so many more photos; False where the command ends before."""
        done = len(lines_of(out))
        wanted = min(done + self.random.randint(0, MOST_BETWEEN), len(list(self.photos.rglob("*.png"))))
        start_s = self.undisturbed_s / 2 if wanted == done else LONGEST_PAUSE_S
        pause_s = self.random.uniform(0.0, start_s)
        while len(lines_of(out)) < wanted and process.poll() is None:
            time.sleep(0.02)
        try:
            process.wait(pause_s)
        except subprocess.TimeoutExpired:
            return True
        return False

    def told(self) -> str:
        killed = ", ".join(f"{self.kills[victim]} x {victim}" for victim in VICTIMS)
        return f"{self.kills.total()} kills ({killed}), with {', '.join(map(str, self.at))} photos done"


def make_photos(folder: Path, count: int) -> None:
    """Write small photos of one face, no two the same, half of them in folders."""
    face = Image.open(CHECKOUT / "examples" / "astronaut.jpg").crop(FACE_BOX)
    for number in range(count):
        path = folder / (f"in/{number // 4}" if number % 2 else "") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        face.resize((150 + number, 150 + number)).save(path)


def children(pid: int) -> list[int]:
    """Processes that a process has started to work for it."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        found = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:  # one of them has just ended
        return []


def wait_for_end(pids: list[int]) -> None:
    """Workers must not outlive their parent, or they would write beside those of the next run."""
    deadline = time.monotonic() + ORPHANS_END_S
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"workers {alive} outlive their parent"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process is at work; one that only waits to be taken note of is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def lines_of(out: Path) -> list[dict[str, Any]]:
    """The whole lines of the manifest."""
    try:
        raw = (out / "results.jsonl").read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in raw.split(b"\n")[:-1]]


def check_lines(out: Path) -> None:
    """After a kill: every line is whole, every photo has one at most, and what counts as done is there, whole."""
    records = lines_of(out)
    assert len({record["photo"] for record in records}) == len(records)
    for record in records:
        assert record["status"] == "ok", record
        result = json.loads((out / record["folder"] / f"{Path(record['folder']).name}.json").read_bytes())
        assert result["photo"]["sha256"] == record["sha256"]


def compare(whole: Path, out: Path) -> None:
    """That two folders of results hold the same, but for times."""
    expected, found = contents(whole), contents(out)
    assert sorted(expected) == sorted(found), sorted(expected.keys() ^ found.keys())
    for name, content in expected.items():
        assert found[name] == content, f"{name} differs"


def contents(out: Path) -> dict[str, Any]:
    """By name, all that lies in a folder of results, without times; of the locks their names alone."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir() or name.startswith(".fit3d/"):
            found[name] = None
        elif name == "results.jsonl":
            found[name] = [{key: record[key] for key in record if key not in TIMES} for record in lines_of(out)]
        elif name == "index.html":
            found[name] = without_times(path.read_text())
        elif name == "results.parquet":
            from pyarrow import parquet

            rows = parquet.read_table(path).to_pylist()
            found[name] = [{key: row[key] for key in row if not key.startswith(TIMES)} for row in rows]
        elif path.suffix == ".json" and name != "batch.json":
            found[name] = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "timings_s"}
        else:
            found[name] = path.read_bytes()
    return found


def without_times(page: str) -> dict[str, Any]:
    """What the report's script reads."""
    match = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert match is not None
    data: dict[str, Any] = json.loads(html.unescape(match[1]))
    del data["columns"]["seconds"]
    return data


def errors_of(out: Path) -> str:
    """The end of what the command said."""
    return out.with_name(f"{out.name}-errors").read_text(errors="replace")[-2000:]


if __name__ == "__main__":
    typer.run(main)
