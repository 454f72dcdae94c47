"""Photos of a batch: the same files as `fit3d fit` writes, whatever else is in the chunk."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fit3d.batch import blame, fit_chunk
from fit3d.batch.fit_chunk import ChunkFitter
from fit3d.batch.fit_work import FitWork, PhotoItem
from fit3d.batch.local_engine import LocalEngine
from fit3d.batch.local_storage import LocalStorage
from fit3d.batch.options import BatchOptions
from fit3d.batch.record import FaceRecord, Record
from fit3d.batch.source import AT_START
from fit3d.batch.work import Workers
from fit3d.commands.app import main
from fit3d.config import ExportConfig, FitConfig
from fit3d.errors import ModelFileError, ObservationError, UnreadablePhotoError, UsageError
from fit3d.observe.mediapipe import MediapipeLandmarks

pytest.importorskip("mediapipe")

QUICK = BatchOptions(
    landmarks="mediapipe",
    parser="embedded",
    texture_size=64,
    config=FitConfig(loss="landmarks"),
    export=ExportConfig(formats=("obj",), overlay="none"),
)
LIKE_QUICK = [
    *("--landmarks", "mediapipe", "--parser", "embedded", "--texture-size", "64", "--loss", "landmarks"),
    *("--format", "obj", "--overlay", "none"),
]
FACES = ("whole.jpg", "sub/cropped.png", "sub/mirrored.png", "dark.png", "two.png")
BAD = ("black.png", "broken.jpg", "missing.jpg")


@pytest.fixture(scope="module")
def photos(astronaut: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with FACES and all of BAD but the missing one."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    face = Image.open(astronaut).crop((120, 0, 340, 260))
    (folder / "whole.jpg").write_bytes(astronaut.read_bytes())
    face.save(folder / "sub" / "cropped.png")
    face.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "sub" / "mirrored.png")
    face.point(lambda value: value // 2).save(folder / "dark.png")
    two = Image.new("RGB", (440, 260))
    two.paste(face, (0, 0))
    two.paste(face.resize((176, 208)), (250, 20))
    two.save(folder / "two.png")
    Image.new("RGB", (64, 64)).save(folder / "black.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def one_by_one(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What `fit3d fit` writes for FACES."""
    out = tmp_path_factory.mktemp("one")
    assert main(["fit", *(str(photos / name) for name in FACES), "-o", str(out), *LIKE_QUICK]) == 0
    return files_in(out)


def items_of(names: Sequence[str]) -> list[PhotoItem]:
    return [PhotoItem(name, 7, "v1", Path(name).stem) for name in names]


def work_on(photos: Path, out: Path, options: BatchOptions = QUICK) -> FitWork:
    return FitWork(LocalStorage(str(photos)), LocalStorage(str(out)), options)


def files_in(out: Path) -> dict[str, bytes]:
    """Contents of a folder's files, thumbnails apart, by name; JSON without its timings."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        if path.is_file() and name.parts[0] != "thumbnails":
            content = path.read_bytes()
            if path.suffix == ".json":
                content = re.sub(rb'"timings_s": \{[^}]*\}', b"", content)
            found[str(name)] = content
    return found


@pytest.mark.parametrize("size", [1, 3, 8])
def test_same_bytes_as_one_by_one_in_any_company(
    size: int, photos: Path, one_by_one: dict[str, bytes], tmp_path: Path
) -> None:
    """With photos among them that cannot be fitted."""
    names = [FACES[0], BAD[0], FACES[1], BAD[1], FACES[2], FACES[3], BAD[2], FACES[4]]
    fitter = ChunkFitter(work_on(photos, tmp_path), "cpu")
    items = items_of(names)
    records = [record for start in range(0, 8, size) for record in fitter.fit(items[start : start + size])]
    assert files_in(tmp_path) == one_by_one
    assert [record.photo for record in records] == names
    by_name = {record.photo: record for record in records}
    assert {name: by_name[name].status for name in BAD} == {
        "black.png": "no_face",
        "broken.jpg": "unreadable",
        "missing.jpg": "unreadable",
    }
    assert all(by_name[name].is_done and by_name[name].folder == Path(name).stem for name in FACES)


@pytest.mark.parametrize("group", [2, 16])
def test_same_bytes_with_threads(
    group: int, photos: Path, one_by_one: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator: a group is read and another one written while a third one is fitted."""
    monkeypatch.setattr(fit_chunk, "GROUP", group)
    fitter = ChunkFitter(work_on(photos, tmp_path), "cpu", threads=4)
    records = fitter.fit(items_of([*FACES, *BAD]))
    assert files_in(tmp_path) == one_by_one
    assert [record.photo for record in records] == [*FACES, *BAD]


def test_same_bytes_from_worker_processes(photos: Path, one_by_one: dict[str, bytes], tmp_path: Path) -> None:
    engine = LocalEngine(Workers(2, chunk=2))
    done = dict(engine.run(work_on(photos, tmp_path), items_of([*FACES, *BAD])))
    assert files_in(tmp_path) == one_by_one
    assert {item.photo for item in done} == {*FACES, *BAD}
    assert all(item.photo == record.photo for item, record in done.items())


def test_records(photos: Path, tmp_path: Path) -> None:
    names = [FACES[0], "two.png", *BAD]
    whole, two, black, broken, missing = ChunkFitter(work_on(photos, tmp_path), "cpu").fit(items_of(names))
    content = json.loads((tmp_path / "whole" / "whole.json").read_text())
    assert (whole.sha256, whole.size, whole.version) == (content["photo"]["sha256"], 7, "v1")
    assert whole.part_iou is not None and whole.landmark_nme is not None
    assert whole.part_iou["mean"] == pytest.approx(content["metrics"]["part_iou"]["mean"], nan_ok=True)
    assert whole.landmark_nme == pytest.approx(content["metrics"]["landmark_nme"])
    assert list(whole.timings_s) == ["load", "observe", "fit", "texture", "write"]
    assert whole.seconds == pytest.approx(sum(whole.timings_s.values()))
    assert whole.options == QUICK.digest
    assert whole.faces == (FaceRecord(1, whole.status, whole.message, whole.part_iou, whole.landmark_nme, "whole"),)

    assert two.message.startswith("2 faces found, the largest was fitted; ")
    assert black.message.startswith("no face found") and black.faces == () and black.sha256 is not None
    assert broken.message.startswith("not an image in a known format") and broken.sha256 is not None
    assert missing.message == "no such file; check the path" and missing.sha256 is None
    thumbnails = {str(path.relative_to(tmp_path / "thumbnails")) for path in (tmp_path / "thumbnails").rglob("*.jpg")}
    assert thumbnails == {"whole.jpg", "two.jpg", f"without-fit/{black.sha256[:32]}.jpg"}


def test_all_faces_and_a_number_that_is_not_there(photos: Path, tmp_path: Path) -> None:
    every = ChunkFitter(work_on(photos, tmp_path / "all", replace(QUICK, face="all")), "cpu")
    one, two = every.fit(items_of(["dark.png", "two.png"]))
    assert (one.folder, two.folder) == ("dark-face1", "two-face1")
    assert [(face.face, face.folder) for face in two.faces] == [(1, "two-face1"), (2, "two-face2")]
    assert "found" not in two.message
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        "dark-face1",
        "two-face1",
        "two-face2",
        "thumbnails",
    }

    second = ChunkFitter(work_on(photos, tmp_path / "second", replace(QUICK, face=2)), "cpu")
    one, two = second.fit(items_of(["dark.png", "two.png"]))
    assert (one.status, one.message) == ("no_face", "face 2 was asked for, but only 1 face was found")
    assert [face.face for face in two.faces] == [2] and two.folder == "two"


def test_what_fails_disturbs_no_other(
    photos: Path, one_by_one: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each stage another photo."""
    detect, fits, texture = MediapipeLandmarks.detect, fit_chunk.fit_observations, fit_chunk.with_texture

    def broken_detect(self: MediapipeLandmarks, photo: Any) -> Any:
        if photo.path.endswith("whole.jpg"):
            raise ValueError("detector\nbroke")
        return detect(self, photo)

    def broken_fits(model: Any, faces: Sequence[Any], config: Any) -> Any:
        if any(face.width == 440 for face in faces):
            raise ObservationError("nothing to go by")
        return fits(model, faces, config)

    def broken_texture(sighting: Any, *arguments: Any) -> Any:
        if sighting.photo.path.endswith("dark.png"):
            raise RuntimeError("texture broke")
        return texture(sighting, *arguments)

    monkeypatch.setattr(MediapipeLandmarks, "detect", broken_detect)
    monkeypatch.setattr(fit_chunk, "fit_observations", broken_fits)
    monkeypatch.setattr(fit_chunk, "with_texture", broken_texture)
    monkeypatch.setattr(fit_chunk, "fitted_thumbnail", lambda reconstruction: 1 / 0)
    monkeypatch.setattr(blame, "source_hash", lambda: AT_START)  # whoever edits fit3d meanwhile
    (tmp_path / "mirrored").write_text("a file where a folder is needed")
    (tmp_path / "cropped").mkdir()
    (tmp_path / "cropped" / "notes.txt").write_text("mine")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "again_landmarks.json").write_text("by hand")
    items = [*items_of(FACES), replace(items_of(["whole.jpg"])[0], photo="sub/cropped.png", folder="again")]
    records = ChunkFitter(work_on(photos, tmp_path), "cpu").fit(items)
    assert {record.status for record in records} == {"failed", records[1].status}
    assert [record.message.replace(str(tmp_path), "OUT") for record in records] == [
        "unexpected ValueError: detector broke",
        "",
        "cannot write OUT/mirrored: a file stands where a folder is needed; choose another folder",
        "unexpected RuntimeError: texture broke",
        "nothing to go by",
        "OUT/again holds the observation of a photo, whose again_parts.png would be replaced; choose another folder "
        "(-o)",
    ]
    written = files_in(tmp_path)
    for name, content in one_by_one.items():
        if name.startswith("cropped"):
            assert written.pop(name) == content
    assert set(written) == {"mirrored", "cropped/notes.txt", "again/again_landmarks.json"}


def test_what_concerns_all_ends_the_run(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    fitter = ChunkFitter(work_on(photos, tmp_path), "cpu")
    monkeypatch.setattr("fit3d.reconstruction.write_obj", full)
    with pytest.raises(UsageError, match="the disk is full"):
        fitter.fit(items_of(FACES[:2]))
    assert files_in(tmp_path) == {}


@pytest.mark.parametrize("options", [replace(QUICK, model="nonsense"), replace(QUICK, landmarks="nonsense")])
def test_what_is_missing_is_said_once(options: BatchOptions, photos: Path, tmp_path: Path) -> None:
    engine = LocalEngine(Workers(1))
    with pytest.raises((UsageError, ModelFileError), match="nonsense"):
        list(engine.run(work_on(photos, tmp_path, options), items_of(FACES)))


def test_files_of_the_user_by_photo(photos: Path, tmp_path: Path) -> None:
    """One with landmarks of another layout, one with labels, and one without either, in one chunk."""
    out = tmp_path / "seen"
    named = ["--landmarks", "mediapipe", "--parser", "embedded"]
    assert main(["observe", str(photos / "dark.png"), "-o", str(out), *named]) == 0
    given = [out / "dark" / "dark_landmarks.json", out / "dark" / "dark_parts.png"]
    plain, landmarks, parts = items_of(["sub/cropped.png", "dark.png", "dark.png"])
    items = [
        plain,
        replace(landmarks, folder="by-landmarks", landmarks_file=str(given[0])),
        replace(parts, folder="by-parts", parts=str(given[1])),
    ]
    records = ChunkFitter(work_on(photos, tmp_path / "out"), "cpu").fit(items)
    assert all(record.is_done for record in records)
    told = [json.loads((tmp_path / "out" / f"{name}/{name}.json").read_text()) for name in ("by-landmarks", "by-parts")]
    assert told[0]["observation"]["landmarks_file"]["path"] == str(given[0])
    assert told[1]["observation"]["parts_file"]["path"] == str(given[1])


def test_lost() -> None:
    work = work_on(Path("a"), Path("b"))
    record = work.lost(items_of(["c/d.jpg"])[0], "it took longer than 600 s")
    assert isinstance(record, Record) and record.to_json()["status"] == "failed"
    assert (record.photo, record.message, record.sha256) == ("c/d.jpg", "it took longer than 600 s", None)


@pytest.mark.parametrize("how", ["folder", "empty", "unreadable"])
def test_photos_that_go_away_end_the_run(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is taken out says nothing of the photos that were on it; a photo that was removed is told of."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "other.txt").touch()
    fitter = object.__new__(ChunkFitter)
    fitter._photos, fitter._source = LocalStorage(str(disk)), ""
    item = PhotoItem("a.jpg", 7, "v1", "a")
    job = fitter._load(item)
    assert isinstance(job.error, UnreadablePhotoError) and "no such file" in str(job.error)
    (disk / "other.txt").unlink()
    assert isinstance(fitter._load(replace(item, size=None)).error, UnreadablePhotoError)  # it never was there
    if how == "folder":
        disk.rmdir()
    if how == "unreadable":

        def scan(path: str) -> Any:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("fit3d.batch.local_storage.os.scandir", scan)
    with pytest.raises(UsageError, match=f"^{disk}: the photos are gone"):
        fitter._load(item)
