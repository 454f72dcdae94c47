"""`fit3d.synthesise_batch`: a data set of edited photos from Python."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fit3d.batch.listing import Selection
from fit3d.batch.plan import Call
from fit3d.batch.prepare import TIMEOUT_S, Asked, Prepared, prepare, workers_for
from fit3d.batch.run import make_engine, opened
from fit3d.batch.storage import OnProgress, say_nothing
from fit3d.batch.work import Engine
from fit3d.checks import check_focal, check_whole
from fit3d.config import FitConfig
from fit3d.morphable.registry import load_model
from fit3d.observe.registry import AUTO
from fit3d.sighting import check_face
from fit3d.synthesise.dataset import finish
from fit3d.synthesise.options import ImageFormat, SynthesisOptions, chosen_recipes
from fit3d.synthesise.recipe_file import read_recipes
from fit3d.synthesise.recipes import Recipe
from fit3d.synthesise.record import EditsRecord
from fit3d.synthesise.shards import BYTES, SAMPLES
from fit3d.synthesise.work import SynthesisCall


def synthesise_batch(
    photos: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    expressions: Sequence[str] = (),
    recipes: str | Path | Sequence[Recipe] = (),
    per_photo: int = SynthesisOptions.per_photo,
    seed: int = SynthesisOptions.seed,
    image_format: ImageFormat = SynthesisOptions.image_format,
    keep_rejected: bool = False,
    webdataset: bool = False,
    shard_samples: int = SAMPLES,
    shard_bytes: int = BYTES,
    model: str = "anny",
    landmarks: str = AUTO,
    parser: str = AUTO,
    face: Literal["largest"] | int | tuple[float, float] = "largest",
    focal_px: float | None = None,
    config: FitConfig | None = None,
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
) -> Generator[EditsRecord, None, None]:
    """Give each photo of a folder, or of a list, other expressions: `fit3d synthesise`.

    Args:
        photos: path or URL of a folder, or the paths of photos.
        out: path or URL of the data set's folder.
        expressions: names of recipes or groups, see `choose_recipes`; none takes all.
        recipes: recipes of the caller's own, or the YAML file that they stand in.
        per_photo: edits of each photo.
        seed: of which edits these are.
        image_format: of the images.
        keep_rejected: write edits that were not confirmed to `out/rejected/`.
        webdataset: write tar shards to `out/shards/`, too.
        shard_samples, shard_bytes: at most, of each.

    The others are those of `fit_batch`; as there, keep the call behind `if __name__ == "__main__":`.

    Yields:
        A record for each photo as it finishes, with those of its edits.

    Raises:
        UsageError: before any work, what cannot be; later a full disk.
    """
    check_focal(focal_px)
    check_face(face, every=False)
    check_whole("shard_samples", shard_samples, 1)
    check_whole("shard_bytes", shard_bytes, 1)
    config = config or FitConfig()
    own = read_recipes(recipes) if isinstance(recipes, str | Path) else tuple(recipes)
    options = SynthesisOptions(
        model=model,
        landmarks=landmarks,
        parser=parser,
        face=face,
        focal_px=focal_px,
        config=replace(config, device="cpu"),
        recipes=chosen_recipes(expressions, own),
        per_photo=per_photo,
        seed=seed,
        image_format=image_format,
        keep_rejected=keep_rejected,
    )
    selection = Selection(recursive, tuple(include), tuple(exclude), follow_links)
    asked = Asked.by_python(photos, selection, root, shard, retry_failed, force)
    prepared = prepare_synthesis(asked, os.fspath(out), options)
    for warning in prepared.warnings:
        warnings.warn(warning, stacklevel=2)
    shared_out = workers_for(devices or [config.device], workers, batch_size, timeout_s, address is not None)
    chosen = make_engine(engine, shared_out, address, gpus_per_worker)
    return _records(prepared.call, chosen, (shard_samples, shard_bytes) if webdataset else (None, None))


def prepare_synthesis(asked: Asked, out: str, options: SynthesisOptions, tell: OnProgress = say_nothing) -> Prepared:
    """Find the photos and check that they can be edited, see `prepare`; a photo's path stands for a list of one."""
    options.check(load_model(options.model))
    if isinstance(asked.photos, str) and os.path.isfile(asked.photos):
        asked = replace(asked, photos=[asked.photos])
    return prepare(asked, out, options, tell, SynthesisCall)


def _records(call: Call, engine: Engine, shards: tuple[int | None, int | None]) -> Generator[EditsRecord, None, None]:
    options = call.options
    assert isinstance(options, SynthesisOptions)
    with opened(call) as run:
        for warning in run.warnings:
            warnings.warn(warning, stacklevel=2)
        for record in run.records(engine):
            assert isinstance(record, EditsRecord)
            yield record
        if call.shard is None:
            finished = finish(call.out, options, load_model(options.model).licence, *shards)
            if finished.note is not None:
                warnings.warn(finished.note, stacklevel=2)
