"""A worker's share of a data set: a few photos from their files to the files of their edits."""

from __future__ import annotations

import math
import re
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePosixPath

from fit3d.batch.fit_chunk import FaceJob, PhotoChunks, PhotoJob, photo_record
from fit3d.batch.record import Record
from fit3d.batch.storages import storage_at
from fit3d.errors import OccupiedError, concerns_all
from fit3d.export.files import of_one_folder
from fit3d.observe.registry import face_parser, landmark_detector
from fit3d.reconstruction import Reconstruction
from fit3d.saved import Stopwatch
from fit3d.synthesise.confirm import Confirmation, confirm, poor_fit
from fit3d.synthesise.edit import edit_photo
from fit3d.synthesise.options import Draw, SynthesisOptions, draws
from fit3d.synthesise.record import EditRecord, EditsRecord, EditStatus
from fit3d.synthesise.sample import encode, sample_dict, write_sample
from fit3d.synthesise.work import REJECTED, EditWork


class ChunkEditor(PhotoChunks[Record]):
    """Edits the fitted faces."""

    def __init__(self, work: EditWork, device: str, threads: int | None = None) -> None:
        """See `PhotoChunks`."""
        super().__init__(work.photos, work.options, device, threads, work.source)
        assert isinstance(work.options, SynthesisOptions)
        self._synthesis, self._results = work.options, work.results
        self._looking = threading.Lock()
        """Detectors and parsers serve one thread at a time."""

    def _write(self, job: PhotoJob) -> EditsRecord:
        edits: tuple[EditRecord, ...] = ()
        for face in job.faces:  # one, as not all are asked for
            try:
                edits = self._edits(face)
            except Exception as error:
                if concerns_all(error) and not isinstance(error, OccupiedError) and not of_one_folder(error):
                    raise
                face.error = error
        return EditsRecord(**vars(photo_record(job, self._options)), edits=edits)

    def _edits(self, face: FaceJob) -> tuple[EditRecord, ...]:
        """Make and write all edits of a photo."""
        if face.fitted is None:
            return ()
        assert face.owner.sha256 is not None
        reconstruction = self._reconstruction(face)
        face.warnings = reconstruction.warnings
        face.seconds["texture"] = reconstruction.timings_s["texture"]
        watch = Stopwatch()
        with watch.stage("write"):
            self._clear(face.folder)
        wanted = draws(self._synthesis, face.owner.sha256)
        edits = tuple(self._edit(reconstruction, face, draw, watch) for draw in wanted)
        face.seconds |= watch.seconds
        return edits

    def _edit(self, reconstruction: Reconstruction, face: FaceJob, draw: Draw, watch: Stopwatch) -> EditRecord:
        if poor := poor_fit(reconstruction):
            return _record(draw, "skipped", poor)
        with watch.stage("edit"):
            edit = edit_photo(reconstruction, draw.recipe, draw.seed)
        if edit.doubts:
            return _record(draw, "skipped", edit.doubts)
        with watch.stage("write"):
            encoded = encode(edit, self._synthesis.image_format)
        options, device = self._options, self._config.device
        with watch.stage("confirm"), self._looking:
            seen = confirm(
                encoded.edit, landmark_detector(options.landmarks, device), face_parser(options.parser, device)
            )
        status: EditStatus = "confirmed" if seen.is_confirmed else "rejected"
        if not (seen.is_confirmed or self._synthesis.keep_rejected):
            return _record(draw, status, seen.reasons, seen)
        folder = face.folder if seen.is_confirmed else f"{REJECTED}/{face.folder}"
        name = f"{PurePosixPath(folder).name}_{draw.index:03d}_{draw.recipe.name}.{self._synthesis.image_format}"
        with watch.stage("write"):
            sample = sample_dict(reconstruction, face.owner.item.photo, draw, edit, seen, name)
            sha256 = write_sample(self._results, f"{folder}/{name}", encoded.content, edit.parts, sample)
        return replace(_record(draw, status, seen.reasons, seen), image=f"{folder}/{name}", sha256=sha256)

    def _clear(self, folder: str) -> None:
        """Remove what an earlier call made of the photo, or left half written: the JSON of each edit first."""
        ours = re.compile(rf"{re.escape(PurePosixPath(folder).name)}_[0-9]{{3,}}_.+\.(?:json|jpg|png)")
        for place in (folder, f"{REJECTED}/{folder}"):
            self._results.remove_leftovers(place, parts=True)
            with suppress(OSError):  # no such folder
                entries = storage_at(f"{self._results.address.rstrip('/')}/{place}").entries(recursive=False)
                names = [entry.name for entry in entries if ours.fullmatch(entry.name)]
                for name in sorted(names, key=lambda name: not name.endswith(".json")):
                    self._results.remove(f"{place}/{name}")


def _record(draw: Draw, status: EditStatus, reasons: tuple[str, ...], seen: Confirmation | None = None) -> EditRecord:
    return EditRecord(
        index=draw.index,
        recipe=draw.recipe.name,
        group=draw.recipe.group,
        seed=draw.seed,
        status=status,
        reasons=reasons,
        landmark_nme=None if seen is None or math.isnan(seen.landmark_nme) else seen.landmark_nme,
        part_iou=None if seen is None else seen.part_iou,
        image=None,
        sha256=None,
    )
