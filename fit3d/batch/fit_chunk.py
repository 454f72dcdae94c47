"""A worker's share of a batch: a few photos from their files to the files of their results, stage by stage."""

from __future__ import annotations

import io
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import numpy as np
import torch
from PIL import Image

from fit3d.batch.blame import raise_if_exhausted, raise_unless_of_photo
from fit3d.batch.local_storage import LocalStorage
from fit3d.batch.options import BatchOptions
from fit3d.batch.record import STATUSES, FaceRecord, Record, Status
from fit3d.batch.source import AT_START
from fit3d.batch.storage import Storage
from fit3d.batch.storages import is_url
from fit3d.batch.thumbnail import fitted_thumbnail, photo_thumbnail, thumbnail_name
from fit3d.checks import check_device
from fit3d.errors import (
    Fit3dError,
    OccupiedError,
    PhotoError,
    UnreadablePhotoError,
    UsageError,
    concerns_all,
    printable,
    results_or_errors,
)
from fit3d.export.files import of_one_folder
from fit3d.morphable.registry import load_model
from fit3d.observe.look import Subject, observe_each
from fit3d.observe.registry import face_parser, landmark_detector
from fit3d.photo import Photo, load_photo
from fit3d.pipeline import FocalLength, focal_length, given_file, with_texture
from fit3d.reconstruction import Reconstruction
from fit3d.saved import Stopwatch
from fit3d.sighting import Sighting, choose_faces, others_warning
from fit3d.solve.fit import Face, fit_observations
from fit3d.solve.result import Fit

if TYPE_CHECKING:
    from fit3d.batch.fit_work import FitWork, PhotoItem

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")
THREADS = 4
"""Of a worker on an accelerator, which read and write while it fits. A worker on a CPU has but one core."""
GROUP = 16
"""Photos that such a worker fits in one tensor program."""
JPEG_QUALITY = 85
"""Of thumbnails."""


@dataclass
class FaceJob:
    """One face on its way through the stages."""

    owner: PhotoJob
    number: int
    """From 1, the largest."""
    folder: str
    focal: FocalLength
    seconds: dict[str, float] = field(default_factory=dict)
    """Of the stages 'fit', 'texture' and 'write'."""
    fitted: Fit | None = None
    """None until it is fitted, or where that failed."""
    warnings: tuple[str, ...] = ()
    error: Exception | None = None

    @property
    def seen(self) -> Sighting:
        assert self.owner.sighting is not None
        return self.owner.sighting


@dataclass
class PhotoJob:
    """One photo on its way through the stages."""

    item: PhotoItem
    told: str
    """Path or URL, as results and messages say it."""
    source: str
    """See `FitWork`."""
    sha256: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Of the stages 'load' and 'observe', and 'write' where no face of it is written."""
    photo: Photo | None = None
    sighting: Sighting | None = None
    faces: list[FaceJob] = field(default_factory=list)
    error: Exception | None = None
    """Of the photo as a whole."""


class PhotoChunks(ABC, Generic[R]):
    """What a worker that fits photos holds from its start to its end; what becomes of the fits is a subclass's."""

    def __init__(
        self,
        photos: Storage,
        options: BatchOptions,
        device: str,
        threads: int | None = None,
        source: str = AT_START,
    ) -> None:
        """Loads the face model, and detector and parser where they can be; who needs them otherwise says what lacks.

        `threads` read and write beside the fit; 0: it does so itself; None takes what suits the device. `source` is
        that of the work.
        """
        check_device(device)
        _one_thread_each()
        self._photos, self._options, self._source = photos, options, source
        self._config = replace(options.config, device=device)
        self._model = load_model(options.model)
        with suppress(UsageError):
            landmark_detector(options.landmarks, device)
        with suppress(UsageError):
            face_parser(options.parser, device)
        on_cpu = torch.device(device).type == "cpu" if threads is None else not threads
        self._threads = None if on_cpu else ThreadPoolExecutor(threads or THREADS)
        self._group = None if on_cpu else GROUP

    def fit(self, items: Sequence[PhotoItem]) -> list[R]:
        """See `Work.start`. With threads, one group is read and another one written while a third one is fitted."""
        size = self._group or len(items)
        groups = [items[start : start + size] for start in range(0, len(items), size)]
        reading = [self._begin(self._load, item) for item in groups[0]]
        writing: list[Callable[[], R]] = []
        records: list[R] = []
        for following in [*groups[1:], []]:
            photos = [read() for read in reading]
            reading = [self._begin(self._load, item) for item in following]
            self._look([photo for photo in photos if photo.photo is not None])
            self._fit([face for photo in photos for face in photo.faces])
            records += [written() for written in writing]
            writing = [self._begin(self._write, photo) for photo in photos]
        return records + [written() for written in writing]

    @abstractmethod
    def _write(self, job: PhotoJob) -> R:
        """What becomes of a photo, its faces fitted as far as that went. May be called in threads."""

    def _begin(self, do: Callable[[T], S], item: T) -> Callable[[], S]:
        """Returns what waits for the result: of a thread, or got at once."""
        if self._threads is not None:
            return self._threads.submit(do, item).result
        result = do(item)
        return lambda: result

    def _load(self, item: PhotoItem) -> PhotoJob:
        storage, watch = self._photos, Stopwatch()
        job = PhotoJob(item, _told_path(storage, item.photo), self._source)
        with watch.stage("load"):
            try:
                with storage.fetch(item.photo) as path:
                    try:
                        photo = load_photo(path)
                    except PhotoError as error:
                        job.sha256 = _sha256(path)
                        raise type(error)(_without_path(str(error), str(path))) from error
                job.photo, job.sha256 = replace(photo, path=job.told), photo.sha256
            except OSError as error:
                raise_if_exhausted(error)
                job.error = UnreadablePhotoError(f"cannot be read ({error.strerror or error})")
            except Exception as error:
                if concerns_all(error):
                    raise
                job.error = error
        if isinstance(job.error, UnreadablePhotoError) and job.sha256 is None and item.size is not None:
            _check_still_there(storage)
        job.seconds = watch.seconds
        return job

    def _look(self, jobs: Sequence[PhotoJob]) -> None:
        """Find the faces of photos that could be read, and choose those that are wanted."""
        options, start = self._options, time.perf_counter()
        subjects = [Subject(job.photo, job.item.parts, job.item.landmarks_file) for job in jobs if job.photo]
        seen = observe_each(subjects, options.landmarks, options.parser, self._config.device)
        share = (time.perf_counter() - start) / max(len(jobs), 1)
        for job, observations in zip(jobs, seen, strict=True):
            job.seconds["observe"] = share
            if isinstance(observations, Exception):
                job.error = observations
                continue
            assert job.photo is not None
            given = given_file(job.item.parts), given_file(job.item.landmarks_file)
            job.sighting = Sighting(job.photo, tuple(observations), job.seconds, *given)
            try:
                chosen = choose_faces(job.sighting, options.face)
            except PhotoError as error:
                job.error = error
                continue
            focal = focal_length(job.photo, options.focal_px, self._config)
            suffixes = [f"-face{number}" if options.face == "all" else "" for number in chosen]
            job.faces = [
                FaceJob(job, number, job.item.folder + suffix, focal)
                for number, suffix in zip(chosen, suffixes, strict=True)
            ]

    def _fit(self, jobs: Sequence[FaceJob]) -> None:
        """Fit faces together, those with landmarks of one layout."""
        layouts = {job.seen.observations[job.number - 1].landmarks.layout for job in jobs}
        for layout in sorted(layouts):
            alike = [job for job in jobs if job.seen.observations[job.number - 1].landmarks.layout == layout]
            start = time.perf_counter()
            fits = results_or_errors(self._fits, alike)
            share = (time.perf_counter() - start) / len(alike)
            for job, fitted in zip(alike, fits, strict=True):
                job.seconds["fit"] = share
                if isinstance(fitted, Exception):
                    job.error = fitted
                else:
                    job.fitted = fitted

    def _fits(self, jobs: Sequence[FaceJob]) -> list[Fit]:
        faces = [
            Face(job.seen.observations[job.number - 1], job.seen.photo.width, job.seen.photo.height, job.focal.px)
            for job in jobs
        ]
        return fit_observations(self._model, faces, self._config)

    def _reconstruction(self, job: FaceJob) -> Reconstruction:
        """Of a face that is fitted, with its texture."""
        assert job.fitted is not None
        options = self._options
        sighting = replace(job.seen, timings_s=job.seen.timings_s | job.seconds)
        return with_texture(
            sighting,
            job.number,
            self._model,
            job.fitted,
            job.focal.source,
            options.texture_size,
            options.delight,
            options.config,
        )


class ChunkFitter(PhotoChunks[Record]):
    """Writes the fits as `fit3d fit` does."""

    def __init__(self, work: FitWork, device: str, threads: int | None = None) -> None:
        """See `PhotoChunks`."""
        super().__init__(work.photos, work.options, device, threads, work.source)
        self._results = work.results

    def _write(self, job: PhotoJob) -> Record:
        """Files of a photo, or what the report shows of one without any fit."""
        for face in job.faces:
            self._write_face(face)
        photo = job.photo
        if job.error is not None and photo is not None:
            self._save_thumbnail(self._record(job), lambda: photo_thumbnail(photo), job.seconds)
        return self._record(job)

    def _record(self, job: PhotoJob) -> Record:
        return photo_record(job, self._options)

    def _write_face(self, job: FaceJob) -> None:
        """Texture and files of one face."""
        if job.fitted is None:
            return
        options, results = self._options, self._results
        try:
            reconstruction = self._reconstruction(job)
            if options.face == "largest":
                for warning in others_warning(len(job.seen.observations) - 1, "fitted"):
                    reconstruction = reconstruction.with_warning(warning)
            job.warnings = reconstruction.warnings
            with results.result_folder(job.folder) as parent:
                saved = reconstruction.save(parent, PurePosixPath(job.folder).name, options.export)
        except Exception as error:
            if concerns_all(error) and not isinstance(error, OccupiedError) and not of_one_folder(error):
                raise
            job.error = error
            return
        job.seconds |= {stage: saved.timings_s[stage] for stage in ("texture", "write")}
        self._save_thumbnail(_face_record(job), lambda: fitted_thumbnail(reconstruction), job.seconds)

    def _save_thumbnail(
        self, record: Record | FaceRecord, make: Callable[[], np.ndarray], seconds: dict[str, float]
    ) -> None:
        """Write a thumbnail, which is not worth failing for, and add the time to that of writing."""
        start, name = time.perf_counter(), thumbnail_name(record)
        with suppress(Exception):
            if name is not None:
                content = io.BytesIO()
                Image.fromarray(make()).save(content, format="JPEG", quality=JPEG_QUALITY)
                self._results.write(name, content.getvalue())
        seconds["write"] = seconds.get("write", 0.0) + time.perf_counter() - start


def photo_record(job: PhotoJob, options: BatchOptions) -> Record:
    """The manifest's line of a photo, whose faces are as far as they got."""
    faces = tuple(_face_record(face) for face in job.faces)
    if job.error is not None:
        status, message = _failure(job.error, job)
    else:
        status = max((face.status for face in faces), key=STATUSES.index)
        message = "; ".join(_numbered(face, len(faces) > 1) for face in faces if face.message)
    first = next((face for face in faces if face.folder is not None), None)
    timings_s = dict(job.seconds)
    for face in job.faces:
        for stage, seconds in face.seconds.items():
            timings_s[stage] = timings_s.get(stage, 0.0) + seconds
    return Record(
        photo=job.item.photo,
        sha256=job.sha256,
        size=job.item.size,
        version=job.item.version,
        status=status,
        message=message,
        part_iou=None if first is None else first.part_iou,
        landmark_nme=None if first is None else first.landmark_nme,
        seconds=sum(timings_s.values()),
        timings_s=timings_s,
        folder=None if first is None else first.folder,
        faces=faces,
        options=options.digest,
    )


def _face_record(job: FaceJob) -> FaceRecord:
    if job.error is not None:
        status, message = _failure(job.error, job.owner)
        return FaceRecord(job.number, status, message, None, None, None)
    assert job.fitted is not None
    message = "; ".join(_without_path(warning, job.owner.told).rstrip(".") for warning in job.warnings)
    fitted = job.fitted
    return FaceRecord(job.number, fitted.status, message, fitted.part_iou, fitted.landmark_nme, job.folder)


def _numbered(face: FaceRecord, is_one_of_several: bool) -> str:
    return f"face {face.face}: {face.message}" if is_one_of_several else face.message


def _failure(error: Exception, job: PhotoJob) -> tuple[Status, str]:
    """Status word and message, which does not repeat the photo's path. Raises what the photo is not to blame for."""
    if isinstance(error, PhotoError):
        return cast(Status, error.status), _without_path(str(error), job.told)
    if isinstance(error, Fit3dError):
        return "failed", _without_path(str(error), job.told)
    raise_unless_of_photo(error, job.source)
    return "failed", printable(f"unexpected {type(error).__name__}: {' '.join(str(error).split())}")


def _without_path(message: str, path: str) -> str:
    """A message as one line, without the path that it may begin with."""
    message = " ".join(message.split())
    for begin in (path, printable(path)):
        message = message.removeprefix(f"{' '.join(begin.split())}: ")
    return message


def _told_path(storage: Storage, name: str) -> str:
    """How results and messages call a photo."""
    return f"{storage.root.rstrip('/')}/{name}" if is_url(storage.root) else str(Path(storage.root) / name)


def _check_still_there(photos: Storage) -> None:
    """Raises UsageError where not a photo vanished but all of them, with the disk or the network that they are on."""
    try:
        if next(iter(photos.entries()), None) is not None:
            return
        reason = "no files are left there"
    except OSError as error:
        reason = error.strerror or str(error)
    raise UsageError(f"{photos.root}: the photos are gone ({reason}); once they are back, the same command goes on")


def _sha256(path: Path) -> str | None:
    """Of a file that may be anything; None where it cannot be read."""
    try:
        return LocalStorage(str(path.parent)).sha256(path.name) if path.is_file() else None
    except (OSError, ValueError):
        return None


def _one_thread_each() -> None:
    """Libraries that would start a thread for each core: the cores are shared out by process."""
    torch.set_num_threads(1)
    if find_spec("cv2") is not None:
        import cv2

        cv2.setNumThreads(1)
