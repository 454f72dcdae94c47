"""Measuring one prediction after the other, in this process or in several."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fit3d.batch.local_engine import LocalEngine
from fit3d.batch.work import Work, Workers
from fit3d.errors import Fit3dError, UsageError
from fit3d.evaluate.mesh_file import read_mesh
from fit3d.evaluate.realy.benchmark import Benchmark, PredictionFile
from fit3d.evaluate.realy.keypoints import REGIONS, KeypointFile, Region
from fit3d.evaluate.realy.protocol import Prediction, score


@dataclass(frozen=True)
class Measured:
    """What came of one prediction."""

    file: PredictionFile
    errors_mm: dict[Region, float]
    """Empty where it failed."""
    failure: str | None = None


@dataclass(frozen=True)
class RealyWork(Work[PredictionFile, Measured]):
    """Measures predictions."""

    benchmark: Benchmark
    keypoints: KeypointFile
    template: np.ndarray | None
    """(T, 3) triangles that the keypoints refer to; None: those of the prediction."""
    face: np.ndarray | None
    """(V,) bool: vertices that may be met after the rigid alignment; None: all."""

    def start(self, device: str) -> Callable[[Sequence[PredictionFile]], list[Measured]]:
        return lambda files: [self._measure(file) for file in files]

    def lost(self, item: PredictionFile, reason: str) -> Measured:
        return Measured(item, {}, reason)

    def _measure(self, file: PredictionFile) -> Measured:
        try:
            return Measured(file, self._errors(file))
        except (Fit3dError, ValueError, np.linalg.LinAlgError, RuntimeError, MemoryError) as error:
            return Measured(file, {}, " ".join(str(error).split()) or type(error).__name__)

    def _errors(self, file: PredictionFile) -> dict[Region, float]:
        if file.subject is None:
            raise UsageError(
                f"{file.path}: its name does not begin with the number of a subject, as in 12.obj or 12_3.obj"
            )
        scan, mesh = self.benchmark.scan(file.subject), read_mesh(file.path)
        triangles = mesh.triangles if self.template is None else self.template
        keypoints = self.keypoints.on(triangles, len(mesh.vertices)).of(mesh.vertices)
        bending = None
        if self.face is not None:
            if len(self.face) != len(mesh.vertices):
                raise UsageError(f"{file.path}: {len(mesh.vertices)} vertices, the mask has {len(self.face)}")
            bending = mesh.triangles[self.face[mesh.triangles].all(1)]
        scores = score(Prediction(mesh.vertices, mesh.triangles, keypoints, bending), scan)
        return {name: each.error_mm for name, each in scores.items()}


def measure(work: RealyWork, files: Sequence[PredictionFile], workers: int) -> Iterator[Measured]:
    """What comes of each file, as they finish: in order with one worker, in any order with more."""
    if workers == 1:
        yield from (work.start("cpu")([file])[0] for file in files)
    else:
        for _, result in LocalEngine(Workers(min(workers, len(files)))).run(work, files):
            yield result


@dataclass(frozen=True)
class Summary:
    """Of the predictions of one set of images, mm."""

    count: int
    mean: dict[Region, float]
    std: dict[Region, float]
    """Unbiased; NaN of a single prediction."""
    median: dict[Region, float]
    all: float
    """Mean of the four means."""


def summarise(results: Sequence[Measured]) -> Summary | None:
    """Over those that did not fail; None where all did."""
    good = [result.errors_mm for result in results if result.failure is None]
    if not good:
        return None
    by_region = {name: [errors[name] for errors in good] for name in REGIONS}
    mean = {name: statistics.fmean(errors) for name, errors in by_region.items()}
    std = {name: statistics.stdev(errors) if len(errors) > 1 else math.nan for name, errors in by_region.items()}
    median = {name: statistics.median(errors) for name, errors in by_region.items()}
    return Summary(len(good), mean, std, median, statistics.fmean(mean.values()))
