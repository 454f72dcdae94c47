"""`fit3d.fit_batch`: a batch from Python."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fit3d.batch.listing import Selection
from fit3d.batch.options import BatchOptions
from fit3d.batch.plan import Call
from fit3d.batch.prepare import TIMEOUT_S, Asked, prepare, workers_for
from fit3d.batch.record import Record
from fit3d.batch.run import make_engine, opened
from fit3d.batch.work import Engine
from fit3d.checks import check_focal, check_texture_size
from fit3d.config import ExportConfig, FitConfig, TextureConfig
from fit3d.observe.registry import AUTO
from fit3d.sighting import check_face


def fit_batch(
    photos: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    model: str = "anny",
    landmarks: str = AUTO,
    parser: str = AUTO,
    parts: str | Path | None = None,
    landmarks_files: str | Path | None = None,
    face: Literal["largest", "all"] | int | tuple[float, float] = "largest",
    focal_px: float | None = None,
    texture_size: int = TextureConfig.size,
    delight: bool = TextureConfig.delight,
    config: FitConfig | None = None,
    export: ExportConfig | None = None,
    recursive: bool = True,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    follow_links: bool = False,
    root: str | Path | None = None,
    engine: str = "local",
    address: str | None = None,
    gpus_per_worker: float | None = None,
    workers: int | None = None,
    devices: Sequence[str] | None = None,
    batch_size: int | None = None,
    timeout_s: float | None = TIMEOUT_S,
    shard: tuple[int, int] | None = None,
    retry_failed: bool = False,
    force: bool = False,
    report: bool = True,
) -> Generator[Record, None, None]:
    """Fit a face model to each photo of a folder, or of a list, that `out` has no result of yet: `fit3d batch`.

    Photos are fitted in other processes, which import the script that calls this: keep the call behind
    `if __name__ == "__main__":`.

    Args:
        photos: path or URL of a folder, or the paths of photos.
        out: path or URL of the folder of results.
        parts: folder of label images, mirroring that of the photos; photos without one are parsed.
        landmarks_files: the same of landmark files.
        face: as in `fit`, or 'all'.
        export: which files to write; None is `ExportConfig()`.
        recursive, include, exclude, follow_links: see `Selection`.
        root: folder that results of listed photos are named relative to.
        engine: 'local' or 'ray'.
        address: of the Ray cluster, which needs `workers`; None starts Ray on this machine.
        gpus_per_worker: share of a GPU that Ray keeps for each worker on CUDA.
        workers: processes that fit; None takes one for each core, at most four for each accelerator.
        devices: torch devices, which workers take in turn; None takes that of `config`.
        batch_size: photos that a worker is given at a time.
        timeout_s: after which a photo is given up; None waits forever.
        shard: (i, n) does the i-th of n shares of the photos, from 1.
        retry_failed: try photos again that could not be fitted.
        force: fit all again, with other options than before, too.
        report: write `out/index.html` and `out/results.parquet` at the end.

    The others are those of `fit`.

    Yields:
        A record for each photo as it finishes; those that were done before are not among them. Closing the generator
        early lets photos in flight end; the same call goes on from there.

    Raises:
        UsageError: before any work, what cannot be; later a full disk.
    """
    check_focal(focal_px)
    check_texture_size(texture_size)
    check_face(face)
    config = config or FitConfig()
    options = BatchOptions(
        model=model,
        landmarks=landmarks,
        parser=parser,
        face=face,
        focal_px=focal_px,
        texture_size=texture_size,
        delight=delight,
        config=replace(config, device="cpu"),
        export=export or ExportConfig(),
        parts=None if parts is None else os.fspath(parts),
        landmarks_files=None if landmarks_files is None else os.fspath(landmarks_files),
    )
    selection = Selection(recursive, tuple(include), tuple(exclude), follow_links)
    asked = Asked.by_python(photos, selection, root, shard, retry_failed, force)
    prepared = prepare(asked, os.fspath(out), options)
    for warning in prepared.warnings:
        warnings.warn(warning, stacklevel=2)
    shared_out = workers_for(devices or [config.device], workers, batch_size, timeout_s, address is not None)
    chosen = make_engine(engine, shared_out, address, gpus_per_worker)
    return _records(prepared.call, chosen, report)


def _records(call: Call, engine: Engine, report: bool) -> Generator[Record, None, None]:
    with opened(call) as run:
        for warning in run.warnings:
            warnings.warn(warning, stacklevel=2)
        yield from run.records(engine)
        if report and call.shard is None:
            note = run.write_report()
            if note is not None:
                warnings.warn(note, stacklevel=2)
