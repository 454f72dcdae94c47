"""What `fit3d batch` gains over `fit3d fit`, where the time of its workers goes, and what memory it takes.

The photos are made from those of a folder: each one shrunk and cut a little otherwise, so that no two have the same
pixels. Both commands are run as a user runs them, start of the processes included. Run from the checkout, on a machine
that has nothing else to do:

    python benchmarks/batch.py FOLDER [--photos 200] [--workers 2] [--texture-size 1024] [--format obj]
    python benchmarks/batch.py FOLDER --memory 100,10000

Memory is that of small photos and of the smallest results there are (see TINY), which take a tenth of the time; it is
asked for while the command runs, from /proc, so that mode needs Linux.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from fit3d.photo import load_photo

COMMAND = (sys.executable, str(Path(__file__).resolve().parent.parent / "cli.py"))
BACKENDS = ("--landmarks", "mediapipe", "--parser", "embedded")
TINY = ("--loss", "landmarks", "--texture-size", "16", "--format", "colmap", "--overlay", "none")
STAGES = ("load", "observe", "fit", "texture", "write")
LARGEST_CUT = 0.03
"""Share of a photo's side that is cut off, at most, at each side."""
SMALL_PX = 160
"""Longer side of photos of which memory is measured."""
EVERY_S = 0.5
"""How often memory is asked for."""


def main(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Photos with faces.")],
    photos: Annotated[int, typer.Option(min=1, help="Photos of the batch.")] = 200,
    workers: Annotated[int, typer.Option(min=1, help="Of the batch.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Photos that a worker is given at a time.")] = 1,
    texture_size: Annotated[int, typer.Option(help="Side of the texture, px.")] = 1024,
    format_: Annotated[str, typer.Option("--format", help="Files to write.")] = "obj",
    overlay: Annotated[str, typer.Option(help="Picture to judge by.")] = "sheet",
    one_by_one: Annotated[int | None, typer.Option(help="Photos fitted one by one; 0: none; default: all.")] = None,
    engine: Annotated[str, typer.Option(help="Of the batch.")] = "local",
    memory: Annotated[str, typer.Option(help="Measure memory instead, with so many photos: 100,10000.")] = "",
) -> None:
    """Print the tables."""
    shared_out = ["--workers", str(workers), "--batch-size", str(batch_size), "--engine", engine]
    with tempfile.TemporaryDirectory() as scratch:
        if memory:
            for count in map(int, memory.split(",")):
                measure_memory(Path(scratch), folder, count, shared_out)
            return
        options = ["--texture-size", str(texture_size), "--format", format_, "--overlay", overlay]
        names = make_photos(folder, Path(scratch) / "photos", photos)
        print(f"{photos} photos, {' '.join([*options, *shared_out])}, {os.cpu_count()} cores\n")
        alone = names[: photos if one_by_one is None else one_by_one]
        speed = None
        if alone:
            speed = run_fit(alone, Path(scratch) / "one", options)
        batch_speed = run_batch(Path(scratch) / "photos", Path(scratch) / "out", [*options, *shared_out], workers)
        if speed is not None:
            print(f"\nThe batch is {batch_speed / speed:.2f} times as fast as one by one.")


def make_photos(source: Path, folder: Path, count: int, longest_px: int | None = None) -> list[Path]:
    """Write `count` photos to `folder`, each a cut of one of `source`, at most `longest_px` large."""
    originals = [path for path in sorted(source.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")]
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    names = []
    for number in range(count):
        image = Image.fromarray(load_photo(originals[number % len(originals)]).pixels)
        if longest_px is not None:
            image.thumbnail((longest_px, longest_px))
        left, top, right, bottom = generator.uniform(0.0, LARGEST_CUT, 4)
        box = (left * image.width, top * image.height, (1 - right) * image.width, (1 - bottom) * image.height)
        names.append(folder / f"{number:06d}.jpg")
        image.resize(image.size, Image.Resampling.BICUBIC, box).save(names[-1], quality=92)
    return names


@dataclass(frozen=True)
class Usage:
    """What a command took."""

    wall_s: float
    cpu_s: float
    """Of it and its workers."""
    output: str


def run(arguments: Sequence[str]) -> Usage:
    """Run fit3d. Exit code 1 tells of photos that could not be fitted."""
    start, before = time.perf_counter(), os.times()
    done = subprocess.run([*COMMAND, *arguments, *BACKENDS], stdout=subprocess.PIPE, text=True)
    after = os.times()
    if done.returncode not in (0, 1):
        sys.exit(f"exit code {done.returncode}")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Usage(time.perf_counter() - start, cpu_s, done.stdout)


def run_fit(photos: Sequence[Path], out: Path, options: Sequence[str]) -> float:
    """Photos per second, one by one."""
    usage = run(["fit", *map(str, photos), "-o", str(out), "--json", *options])
    lines = [json.loads(line) for line in usage.output.splitlines()]
    timings = [line["timings_s"] for line in lines if "timings_s" in line]
    tell("one by one", usage, len(photos), timings, workers=1)
    return len(photos) / usage.wall_s


def run_batch(folder: Path, out: Path, options: Sequence[str], workers: int) -> float:
    """Photos per second of a batch."""
    usage = run(["batch", str(folder), "-o", str(out), "--quiet", *options])
    records = read_records(out)
    tell("batch", usage, len(records), [record["timings_s"] for record in records], workers)
    tell_sizes(out, len(records))
    return len(records) / usage.wall_s


def read_records(out: Path) -> list[dict[str, dict[str, float]]]:
    """The manifest of a batch."""
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def tell(name: str, usage: Usage, count: int, timings: Sequence[dict[str, float]], workers: int) -> None:
    """One table: speed, and what the workers' time went into; 'other' is what no photo's timings account for."""
    given = workers * usage.wall_s
    seconds = {stage: sum(each.get(stage, 0.0) for each in timings) for stage in STAGES}
    seconds["other"] = given - sum(seconds.values())
    print(f"{name}: {count} photos in {usage.wall_s:.1f} s, {count / usage.wall_s:.2f} a second")
    print(
        f"  {usage.cpu_s / count:.2f} s of CPU a photo, {usage.cpu_s / given:.0%} of {workers} x {usage.wall_s:.0f} s"
    )
    for stage, value in seconds.items():
        print(f"  {stage:10}{value / count:8.3f} s a photo{value / given:8.1%}")
    outside = seconds["load"] + seconds["other"]
    print(f"  outside detecting, fitting and writing (textures counted as written): {outside / given:.1%}")


def tell_sizes(out: Path, count: int) -> None:
    """What a photo leaves on the disk, by the end of the files' names."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for path in out.rglob("*"):
        if path.is_file() and path.parent != out:  # what tells of all photos lies in OUT itself
            own = path.name.startswith(path.parent.name)
            sizes[path.name.removeprefix(path.parent.name) if own else f"others{path.suffix}"].append(
                path.stat().st_size
            )
    sizes["all"] = [size for every in sizes.values() for size in every]
    for name, every in sorted(sizes.items()):
        print(f"  {name:16}{sum(every) / count / 1e6:8.3f} MB in {len(every) / count:.1f} files a photo")
    print(f"  {(out / 'results.jsonl').stat().st_size / count:.0f} bytes of manifest a photo")


def measure_memory(scratch: Path, source: Path, count: int, shared_out: Sequence[str]) -> None:
    """Resident memory of a batch's processes at the end of the last photo, and the most that they had."""
    folder, out = scratch / f"photos-{count}", scratch / f"out-{count}"
    make_photos(source, folder, count, SMALL_PX)
    command = [*COMMAND, "batch", str(folder), "-o", str(out), "--quiet", *TINY, *shared_out, *BACKENDS]
    with subprocess.Popen(command) as process:
        last: dict[int, dict[str, float]] = {}
        while process.poll() is None:
            for pid in [process.pid, *workers_of(process.pid)]:
                if memory := memory_mb(pid):
                    last[pid] = memory
            time.sleep(EVERY_S)
    print(f"{count} photos of {SMALL_PX} px, {' '.join([*TINY, *shared_out])}: {len(read_records(out))} results")
    for pid, memory in last.items():
        name = "parent" if pid == process.pid else "worker"
        print(f"  {name:8}{memory['VmRSS']:8.0f} MB at the end{memory['VmHWM']:8.0f} MB at most")
    shutil.rmtree(folder)
    shutil.rmtree(out)


def workers_of(pid: int) -> list[int]:
    """Processes that a process has started to work for it."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:  # one of them has just ended
        return []


def memory_mb(pid: int) -> dict[str, float]:
    """'VmRSS', resident now, and 'VmHWM', the most so far; nothing of a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM") if name in fields}


if __name__ == "__main__":
    typer.run(main)
