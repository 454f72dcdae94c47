"""What the solver costs: stages of one fit, the Adam reference on the same energy, anchors, batches, memory.

Faces are heads drawn from the bundled model, seen with exact parts and noisy landmarks, so that no data is needed. All
figures of one run belong together; compare them as ratios. Run from the checkout:

    python benchmarks/solver.py [--photos 64] [--threads 2] [--adam-steps 300] [--device cpu]
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import torch
import typer

from fit3d.config import FitConfig, Loss
from fit3d.evaluate.geometry import known_heads, observe_known
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.registry import load_model
from fit3d.solve.adam import minimise_adam
from fit3d.solve.fit import Face, fit_landmarks, fit_observations, prepare, refine_with_parts

REPEATS = 9
"""Fits of which a time is the median."""


def main(
    photos: Annotated[int, typer.Option(min=1, help="Faces of the largest batch.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Groups fitted at a time.")] = 2,
    adam_steps: Annotated[int, typer.Option(min=0, help="Most Adam steps; 0 leaves Adam out.")] = 300,
    loss: Annotated[str, typer.Option(help=f"One of {', '.join(get_args(Loss))}.")] = FitConfig().loss,
    device: Annotated[str, typer.Option(help="torch device of the fit.")] = "cpu",
) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    config = FitConfig(loss=loss, device=device)  # type: ignore[arg-type]
    model = load_model("anny")
    faces = observed_faces(model, REPEATS, config)
    print(f"torch {torch.__version__}, {device}, {threads} threads, loss {loss}\n")
    one_photo(model, faces, config)
    if adam_steps:
        against_adam(model, faces[0], replace(config, loss="prdl"), adam_steps)
    batches(photos, threads, config)


def observed_faces(model: MorphableModel, count: int, config: FitConfig) -> list[Face]:
    """Random heads with exact parts and landmarks disturbed by 1.5 crop px."""
    generator = np.random.default_rng(0)
    heads = known_heads(model, count, seed=0)
    seen = [observe_known(model, head, "mediapipe478", 1.5, generator, config) for head in heads]
    return [
        Face(observation, head.camera.width, head.camera.height, head.camera.focal_px)
        for observation, head in zip(seen, heads, strict=True)
    ]


def median_s(work: Callable[[Face], object], faces: list[Face]) -> float:
    """Seconds of one call, the median over the faces, after one for warming up."""
    work(faces[0])
    seconds = []
    for face in faces:
        start = time.perf_counter()
        work(face)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def one_photo(model: MorphableModel, faces: list[Face], config: FitConfig) -> None:
    """Seconds of a whole fit, from observation to parts drawn at the photo's size, one photo at a time."""
    print(f"{'one photo':40}{'seconds':>9}{'ratio':>8}")
    rows = [("landmarks alone", replace(config, loss="landmarks"))]
    rows += [(f"{config.loss}, {count} x {count} anchors", replace(config, anchors=count)) for count in (32, 56, 224)]
    seconds = {name: median_s(lambda face, c=each: fit_observations(model, [face], c), faces) for name, each in rows}  # type: ignore[misc]
    for name, value in seconds.items():
        print(f"{name:40}{value:9.3f}{value / seconds[rows[2][0]]:8.2f}")
    print()


def against_adam(model: MorphableModel, face: Face, config: FitConfig, steps: int) -> None:
    """Both solvers on the same energy from the same start."""
    batch = prepare(model, [face], config)
    start = fit_landmarks(batch).at
    refine_with_parts(batch, start)
    began = time.perf_counter()
    fast = refine_with_parts(batch, start)
    fast_s, goal = time.perf_counter() - began, float(fast.energy_end)
    title = f"prdl, one photo, {config.anchors} x {config.anchors}"
    print(f"{title:32}{'steps':>8}{'energy':>9}{'seconds':>9}")
    print(f"{'start: landmarks':32}{0:8}{float(fast.energy_start):9.1f}")
    print(f"{'Levenberg-Marquardt':32}{int(fast.steps):8}{goal:9.1f}{fast_s:9.3f}")
    began = time.perf_counter()
    slow = minimise_adam(batch.objective, start, steps, watch=lambda step, energy: energy <= goal)
    slow_s = time.perf_counter() - began
    print(f"{'Adam':32}{int(slow.steps):8}{float(slow.energy_end):9.1f}{slow_s:9.3f}")
    verdict = "as long to come as low" if slow.stop_reasons[0] == "watch" else "as long and is not as low yet"
    print(f"Adam takes {slow_s / fast_s:.0f} times {verdict}\n")


def batches(photos: int, threads: int, config: FitConfig) -> None:
    """Photos a second against batch size, each in a process of its own, with the memory that it took."""
    print(f"{'batch':>8}{'threads':>9}{'photos/s':>10}{'ms/photo':>10}{'peak MB':>9}{'before MB':>11}")
    fresh = get_context("spawn")
    for size in sorted({size for size in (1, 8, 64, photos) if size <= photos}):
        for count in sorted({1, threads}):
            with ProcessPoolExecutor(1, mp_context=fresh) as process:
                seconds, before, peak = process.submit(one_batch, size, count, config).result()
            print(f"{size:8}{count:9}{size / seconds:10.2f}{1000 * seconds / size:10.0f}{peak:9.0f}{before:11.0f}")


def one_batch(size: int, threads: int, config: FitConfig) -> tuple[float, float, float]:
    """Seconds of a warm batch, and the process's highest memory, MB, before the first fit and after the last."""
    torch.set_num_threads(1)
    model = load_model("anny")
    faces = observed_faces(model, size, config)
    before = peak_mb(config.device)
    fit_observations(model, faces[:1], config)
    began = time.perf_counter()
    fit_observations(model, faces, config, threads=threads)
    return time.perf_counter() - began, before, peak_mb(config.device)


def peak_mb(device: str) -> float:
    """Highest memory so far: of the device where it keeps count, else of the process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss there remembers the process that started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    typer.run(main)
