"""Levenberg-Marquardt against the Adam reference on the same energy of one photo.

Prints, for each solver, the steps it took, the energy it reached and its seconds, and how much longer Adam takes
to come as low as Levenberg-Marquardt, or how high it still is at its limit. Run from the checkout:

    python benchmarks/solver.py [PHOTO] [--adam-steps 300] [--threads 2]
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from fit3d.config import FitConfig
from fit3d.morphable.registry import load_model
from fit3d.pipeline import look
from fit3d.solve.adam import minimise_adam
from fit3d.solve.fit import fit_landmarks, refine_with_parts
from fit3d.solve.objective import Evaluation

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "astronaut.jpg"


def main(
    photo: Annotated[Path, typer.Argument(help="The photo.")] = EXAMPLE,
    adam_steps: Annotated[int, typer.Option(help="Most Adam steps.")] = 300,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
) -> None:
    """Compare the two solvers."""
    torch.set_num_threads(threads)
    config = FitConfig()
    model = load_model("anny")
    sighting = look(photo)
    observation, seen = sighting.observations[0], sighting.photo

    fit_landmarks(model, observation, seen.width, seen.height, seen.focal_px, config)  # warm up
    start = time.perf_counter()
    stage = fit_landmarks(model, observation, seen.width, seen.height, seen.focal_px, config)
    landmarks_s = time.perf_counter() - start
    print(f"{'stage':28}{'steps':>7}{'energy':>10}{'seconds':>9}")
    print(f"{'landmarks, LM':28}{stage.outcome.steps:7}{stage.outcome.end.energy:10.1f}{landmarks_s:9.3f}")

    refine_with_parts(stage, config)
    start = time.perf_counter()
    fast = refine_with_parts(stage, config)
    fast_s = time.perf_counter() - start
    print(f"{'with parts, before':28}{0:7}{fast.start.energy:10.1f}")
    print(f"{'with parts, LM':28}{fast.steps:7}{fast.end.energy:10.1f}{fast_s:9.3f}")

    reached: list[float] = []

    def watch(step: int, evaluation: Evaluation) -> bool:
        if evaluation.energy <= fast.end.energy:
            reached.append(time.perf_counter() - start)
        return bool(reached)

    start = time.perf_counter()
    slow = minimise_adam(replace(stage.objective, with_parts=True), fast.start, adam_steps, watch=watch)
    slow_s = time.perf_counter() - start
    print(f"{'with parts, Adam':28}{slow.steps:7}{slow.end.energy:10.1f}{slow_s:9.3f}")
    if reached:
        print(f"Adam needs {reached[0] / fast_s:.0f} times as long to reach the energy of LM")
    else:
        print(f"Adam has not reached the energy of LM after {slow_s / fast_s:.0f} times as long")


if __name__ == "__main__":
    typer.run(main)
