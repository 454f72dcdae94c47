"""`fit3d batch` as its users call it: what is done again and what is not, how it ends, what it leaves."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

import fit3d
from fit3d.batch import plan
from fit3d.batch import run as batch_run
from fit3d.batch.fit_work import FitWork, PhotoItem
from fit3d.batch.local_storage import LocalStorage
from fit3d.batch.options import BatchOptions
from fit3d.batch.record import FaceRecord, Record, Status
from fit3d.batch.work import Engine, Item, Result, Work, Workers
from fit3d.commands import console
from fit3d.commands.app import main
from fit3d.config import FitConfig
from fit3d.errors import UsageError

QUICK = ["--loss", "landmarks", "--texture-size", "64", "--overlay", "none", "--format", "obj"]
CLI = Path(__file__).resolve().parent.parent / "cli.py"


class PretendEngine(Engine):
    """Fits nothing: what becomes of a photo stands in its file, as a status, or as 'full' for a full disk."""

    interrupt_after: ClassVar[int | None] = None
    """Photos after which Ctrl-C comes."""

    def __init__(self, workers: Workers, **ignored: object) -> None:
        super().__init__(workers)
        self.done: list[PhotoItem] = []
        self.stopped = False

    def run(self, work: Work[Item, Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        assert isinstance(work, FitWork)
        for item in items:
            assert isinstance(item, PhotoItem)
            self.done.append(item)
            yield item, _pretend(work, item)  # type: ignore[misc]
            if len(self.done) == self.interrupt_after:
                os.kill(os.getpid(), signal.SIGINT)
            if self.stopped:
                return

    def stop(self) -> None:
        self.stopped = True


def _pretend(work: FitWork, item: PhotoItem) -> Record:
    content = b"unreadable" if item.size is None else work.photos.read(item.photo)
    word = content.decode().split()[0]
    if word == "full":
        raise UsageError("cannot write x: the disk is full; free some space or choose another folder")
    status: Status = word  # type: ignore[assignment]
    folder = item.folder if status in ("ok", "poor") else None
    if folder is not None:
        with work.results.result_folder(folder) as parent:
            (parent / folder.split("/")[-1]).mkdir(parents=True, exist_ok=True)
        work.results.write(f"{folder}/{folder.split('/')[-1]}.json", content)
    record = work.lost(item, "" if folder else f"because it is {status}")
    face = FaceRecord(1, status, "", {"mean": 0.5}, 0.01, folder)
    sha256 = None if item.size is None else work.photos.sha256(item.photo)
    return replace(record, sha256=sha256, status=status, folder=folder, faces=(face,) if folder else ())


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[PretendEngine]:
    """Those that were made, the last one last."""
    made: list[PretendEngine] = []

    def make(name: str, workers: Workers, *ignored: object) -> PretendEngine:
        made.append(PretendEngine(workers))
        return made[-1]

    monkeypatch.setattr(batch_run, "make_engine", make)
    monkeypatch.setattr("fit3d.batch.library.make_engine", make)
    return made


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name, content in {"a.jpg": "ok", "in/b.jpg": "poor", "in/c.png": "no_face", "d.jpg": "ok 1"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


class Batch:
    """Calls the command on the photos, and tells which ones it did."""

    def __init__(self, photos: Path, out: Path, engines: list[PretendEngine]) -> None:
        self.photos, self.out, self.engines = photos, out, engines
        self.code = -1

    def __call__(self, *options: str, source: str | None = None) -> list[str]:
        count = len(self.engines)
        self.code = main(["batch", source or str(self.photos), "-o", str(self.out), "--no-report", *options])
        return [item.photo for engine in self.engines[count:] for item in engine.done]

    def lines(self) -> dict[str, dict[str, Any]]:
        lines = (self.out / "results.jsonl").read_text().splitlines()
        return {content["photo"]: content for content in map(json.loads, lines)}


@pytest.fixture
def batch(photos: Path, tmp_path: Path, engines: list[PretendEngine]) -> Batch:
    return Batch(photos, tmp_path / "out", engines)


EVERY = ["a.jpg", "d.jpg", "in/b.jpg", "in/c.png"]


def test_what_is_done_is_not_done_again(batch: Batch, capfd: pytest.CaptureFixture[str]) -> None:
    assert batch() == EVERY
    assert batch.code == 1
    said = capfd.readouterr()
    assert said.out == f"4 photos: 2 ok, 1 poor, 1 no_face  {batch.out}/results.jsonl\n"
    assert "error: in/c.png: because it is no_face\n" in said.err
    lines = batch.lines()
    assert list(lines) == EVERY
    assert {name: line["target"] for name, line in lines.items()} == {name: name.rsplit(".")[0] for name in EVERY}
    manifest = (batch.out / "results.jsonl").read_bytes()
    assert batch() == []
    assert batch.code == 1  # a photo is still without a fit
    assert (batch.out / "results.jsonl").read_bytes() == manifest
    said = capfd.readouterr()
    assert said.out == f"4 photos: 2 ok, 1 poor, 1 no_face  {batch.out}/results.jsonl\n"
    assert "4 of 4 photos are done already (2 ok, 1 poor, 1 no_face)\n" in said.err
    (batch.photos / "in/c.png").unlink()
    assert batch() == []
    assert batch.code == 0
    assert list(batch.lines()) == EVERY  # what vanished stays in the manifest
    assert (
        "no longer among the photos: 1 of earlier calls; their results stay, in the report, too\n"
        in capfd.readouterr().err
    )


def test_only_what_is_missing_or_changed_is_done(batch: Batch) -> None:
    batch()
    first = batch.lines()
    (batch.photos / "e.jpg").write_text("ok")
    (batch.photos / "a.jpg").touch()  # the same, but for its time
    (batch.photos / "in/c.png").write_text("no_face still")
    os.utime(batch.photos / "d.jpg", ns=(1, 1))
    (batch.out / "in/b/b.json").unlink()
    assert batch("--dry-run") == []
    assert batch.lines() == first
    assert batch() == ["e.jpg", "in/b.jpg", "in/c.png"]
    second = batch.lines()
    assert second["a.jpg"]["version"] != first["a.jpg"]["version"]
    assert second["d.jpg"]["version"] == "1"
    assert batch() == []
    (batch.photos / "d.jpg").write_text("ok 2")  # as many bytes
    assert batch() == ["d.jpg"]


def test_touched_photos_are_noted_as_they_are_compared(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    batch()
    first = batch.lines()
    for name in EVERY:
        (batch.photos / name).touch()
    monkeypatch.setattr(plan, "REFRESHED", 2)
    monkeypatch.setattr(console, "LINE_EVERY_S", -1.0)
    sha256, read = LocalStorage.sha256, list[str]()

    def interrupted(self: LocalStorage, name: str) -> str:
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(name)
        return sha256(self, name)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "sha256", interrupted)
        assert batch() == []
        assert batch.code == 130
        assert "comparing with what was done: 1 of 4 photos\n" in capfd.readouterr().err
        read.clear()
        assert batch() == []
        assert read == EVERY[2:]
    changed = batch.lines()
    assert all(changed[name]["version"] != line["version"] for name, line in first.items())


def test_signs_of_life_before_anything_is_done(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "LINE_EVERY_S", -1.0)
    (tmp_path / "list.txt").write_text("".join(f"{batch.photos}/{name}\n" for name in EVERY))
    counted = [f"comparing with what was done: {count} of 4 photos" for count in range(4)]
    batch()
    said = capfd.readouterr().err.splitlines()
    assert said[:4] == [f"listing: {count} photos" for count in range(4)]
    assert [line for line in said if line.startswith("comparing")] == counted
    batch(source=f"@{tmp_path}/list.txt")
    said = capfd.readouterr().err.splitlines()
    assert said[:4] == [f"looking for: {count} of 4 photos" for count in range(4)]
    done = [f"reading what was done: {count} photos" for count in range(4)]
    assert [line for line in said if line.startswith(("reading", "comparing"))][:8] == [*done, *counted]
    batch("--dry-run")
    assert set(counted) < set(capfd.readouterr().err.splitlines())
    batch("--quiet", "--retry-failed")
    assert capfd.readouterr().err == "error: in/c.png: because it is no_face\n"
    monkeypatch.setattr(console, "LINE_EVERY_S", 30.0)
    batch()
    assert "listing" not in capfd.readouterr().err


def test_signs_of_life_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(console, "STATUS_EVERY_S", -1.0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    speaker = console.Console()
    with speaker.counting() as tell:
        tell("listing", 12345, None)
        time.sleep(0.3)  # it is drawn by the clock
        speaker.warn("[red]")
        tell("comparing with what was done", 7, 12345)
    shown = terminal.getvalue()
    assert "listing: 12,345 photos" in shown and "comparing with what was done: 7 of 12,345 photos" in shown
    assert "warning: [red]\n" in shown and shown.endswith("\x1b[2K")  # the line is empty again
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with console.Console(quiet=True).counting() as tell:
        tell("listing", 12345, None)
    assert terminal.getvalue() == ""


def test_retry_failed(batch: Batch) -> None:
    batch()
    assert batch("--retry-failed") == ["in/c.png"]
    assert batch("--retry-failed") == ["in/c.png"]
    assert batch() == []


def test_other_options_are_refused(batch: Batch, capfd: pytest.CaptureFixture[str]) -> None:
    batch("--seed", "1", "--format", "obj")
    assert batch.code == 1
    before = (batch.out / "results.jsonl").read_bytes()
    capfd.readouterr()
    assert batch("--seed", "2", "--delight", "--face", "all") == []
    assert batch.code == 2
    error = capfd.readouterr().err.splitlines()[-1]
    for words in (
        "--seed 1 (now 2)",
        "--delight no (now yes)",
        "--face largest (now all)",
        "--format obj (now obj,glb)",
        "--force",
    ):
        assert words in error
    assert "--loss" not in error
    assert (batch.out / "results.jsonl").read_bytes() == before
    # what only changes the speed may differ
    assert batch("--seed", "1", "--format", "obj", "--workers", "7", "--batch-size", "3", "--timeout", "5") == []
    assert batch.code == 1
    assert batch("--seed", "2", "--force") == EVERY
    assert batch("--seed", "2") == []
    assert batch("--seed", "2", "--force") == EVERY


def test_an_option_that_a_later_version_adds_changes_nothing() -> None:
    @dataclass(frozen=True)
    class Later(BatchOptions):
        added: int = 3

    earlier = BatchOptions(texture_size=64, config=FitConfig(seed=5))
    for value, told in ((3, []), (4, ["added 3 (now 4)"])):
        later = Later(texture_size=64, config=FitConfig(seed=5), added=value)
        assert (later.digest == earlier.digest) == (not told)
        assert later.differences(earlier.to_json()) == told
    old = earlier.to_json()
    del old["config"]["iterations"]
    old["config"]["solver"] = "of old"  # which was another default
    told = [f"--solver of old (now {FitConfig().solver})"]
    assert earlier.differences(old) == told
    assert earlier.differences(earlier.to_json() | {"gone": 1}) == ["gone 1 (now not given)"]
    others = [BatchOptions(), BatchOptions(texture_size=64), BatchOptions(config=FitConfig(seed=5)), earlier]
    assert len({options.digest for options in others}) == len(others)


def test_interrupted_with_force_goes_on_without(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    batch("--seed", "1")
    monkeypatch.setattr(PretendEngine, "interrupt_after", 2)
    assert batch("--seed", "2", "--force") == EVERY[:2]
    assert batch.code == 130
    assert "2 of 4 photos are left; the same command without --force goes on" in capfd.readouterr().err
    monkeypatch.setattr(PretendEngine, "interrupt_after", None)
    assert batch("--seed", "2") == EVERY[2:]


@pytest.mark.parametrize("shard", [[], ["--shard", "1/2"]])
def test_what_was_forced_with_the_same_options_is_done_again(
    shard: list[str], batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (batch.photos / f"{number}.jpg").write_text("ok")
    batch()
    mine = batch("--force", *shard)
    others = sorted({*(f"{number}.jpg" for number in range(20)), *EVERY} - {*mine})
    assert len(mine) > 4 and bool(others) == bool(shard)
    monkeypatch.setattr(PretendEngine, "interrupt_after", 2)
    assert batch("--force", *shard) == mine[:2]
    assert batch(*shard) == mine[2:4]
    if shard:  # beside it another one, which it does not concern
        assert batch("--shard", "2/2", "--force") == others[:2]
        assert batch(*shard) == mine[4:6]
        mine = mine[2:] + others[2:]
    monkeypatch.setattr(PretendEngine, "interrupt_after", None)
    assert batch() == sorted(mine[4:])
    assert batch() == batch(*shard) == []


def test_clocks_that_are_behind_do_not_undo_a_force(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    batch()
    path = batch.out / "results.jsonl"
    lines = [line | {"finished": line["finished"] + 3600.0} for line in batch.lines().values()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(PretendEngine, "interrupt_after", 1)
    assert batch("--force") == EVERY[:1]
    monkeypatch.setattr(PretendEngine, "interrupt_after", None)
    assert batch() == EVERY[1:]
    assert batch() == []


def test_photos_that_could_not_be_reached_are_tried_again(batch: Batch) -> None:
    (batch.photos / "e.jpg").write_text("unreadable")
    (batch.photos / "f.jpg").write_text("unreadable too")
    batch()
    path = batch.out / "results.jsonl"
    path.write_text(path.read_text().replace(f'"{batch.lines()["f.jpg"]["sha256"]}"', "null"))
    assert {name: line["sha256"] is None for name, line in batch.lines().items() if name in ("e.jpg", "f.jpg")} == {
        "e.jpg": False,
        "f.jpg": True,
    }
    assert batch() == ["f.jpg"]


def test_a_result_that_a_photo_lost_is_removed(batch: Batch) -> None:
    (batch.photos / "in/e.jpg").write_text("ok")
    batch()
    out = batch.out
    for folder in ("a", "in/b", "in/e"):
        stem = folder.rpartition("/")[2]
        (out / folder / "colmap").mkdir()
        for name in (f"{stem}.obj", f"{stem}_parts.png", "colmap/cameras.txt", "mine.txt"):
            (out / folder / name).touch()
        thumbnail = out / "thumbnails" / f"{folder}.jpg"
        thumbnail.parent.mkdir(parents=True, exist_ok=True)
        thumbnail.touch()
    (batch.photos / "in/b.jpg").write_text("no_face now")
    (batch.photos / "a.jpg").write_text("poor now")
    before = sorted(path for path in out.rglob("*") if "b" not in path.relative_to(out).parts)
    assert batch() == ["a.jpg", "in/b.jpg"]
    assert sorted(path.name for path in (out / "in/b").iterdir() if path.is_file()) == ["mine.txt"]
    assert not list((out / "in/b/colmap").iterdir())
    gone = {out / "thumbnails/in/b.jpg"}
    assert sorted(path for path in out.rglob("*") if "b" not in path.relative_to(out).parts) == sorted({*before} - gone)
    listed = out.with_name("list.txt")
    listed.write_text(f"{batch.photos}/a.jpg\n{batch.photos}/in/e.jpg\n")
    (batch.photos / "in/e.jpg").unlink()  # perhaps it comes back
    assert batch(source=f"@{listed}") == ["in/e.jpg"]
    assert (out / "in/e/e.json").exists() and (out / "in/e/e.obj").exists()


def test_faces_that_are_no_longer_asked_for(batch: Batch) -> None:
    """Results of several faces of a photo, one of them in the place of a photo that is called so."""
    (batch.photos / "a-face1.jpg").write_text("ok")
    batch()
    path, lines = batch.out / "results.jsonl", batch.lines()
    for number in (1, 2, 3):
        folder = batch.out / f"a-face{number}"
        folder.mkdir(exist_ok=True)
        (folder / f"a-face{number}.json").write_text("{}")
    face = lines["a.jpg"]["faces"][0]
    lines["a.jpg"]["faces"] = [face | {"face": number, "folder": f"a-face{number}"} for number in (1, 2, 3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines.values()))
    (batch.photos / "a.jpg").write_text("ok again")
    assert batch() == ["a.jpg"]
    assert sorted(path.name for path in batch.out.rglob("a*.json")) == ["a-face1.json", "a.json"]


def test_a_record_that_says_other_options_counts_as_none(batch: Batch) -> None:
    batch()
    path = batch.out / "results.jsonl"
    digest = batch.lines()["a.jpg"]["options"]
    path.write_text(path.read_text().replace(digest, "0" * 12, 1))
    assert batch() == ["a.jpg"]


def test_another_version_of_fit3d_and_another_folder(batch: Batch, capfd: pytest.CaptureFixture[str]) -> None:
    batch()
    note = batch.out / "batch.json"
    note.write_text(note.read_text().replace(f'"{fit3d.__version__}"', '"0.0.1"'))
    capfd.readouterr()
    moved = batch.photos.rename(batch.photos.with_name("moved"))
    assert batch(source=str(moved)) == []
    version, folder = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "0.0.1" in version and "moved" in folder
    for damaged in ("{", note.read_text().replace('"forced_at": {}', '"forced_at": {"results.jsonl": "x"}')):
        note.write_text(damaged)
        assert batch(source=str(moved)) == []
        assert batch.code == 2
        error = capfd.readouterr().err
        assert "batch.json: damaged" in error and "; remove it," in error and "--force" not in error
    note.unlink()
    assert batch(source=str(moved)) == []
    assert batch.code == 1


def test_dry_run(batch: Batch, capfd: pytest.CaptureFixture[str]) -> None:
    assert batch("--dry-run") == []
    assert (batch.code, capfd.readouterr().out) == (0, "4 photos: 0 done, 4 to do (4 new)\n")
    assert not batch.out.exists()
    batch()
    (batch.photos / "a.jpg").write_text("poor")
    capfd.readouterr()
    assert batch("--dry-run", "--json", "--retry-failed") == []
    assert json.loads(capfd.readouterr().out) == {
        "photos": 4,
        "done": {"ok": 1, "poor": 1},
        "to_do": {"changed": 1, "retried": 1},
        "vanished": 0,
    }


def test_results_where_a_file_is(batch: Batch, capfd: pytest.CaptureFixture[str]) -> None:
    batch.out.touch()
    for options in ([], ["--dry-run"]):
        assert batch(*options) == []
        assert batch.code == 2
        error = capfd.readouterr().err.splitlines()[-1]
        assert error.startswith(f"error: cannot write {batch.out}") and "a file stands where a folder is" in error


def test_a_disk_too_full_for_the_lock(
    batch: Batch, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("fit3d.batch.local_storage.Path.write_text", full)
        assert batch() == []
    assert batch.code == 2
    assert "the disk is full" in capfd.readouterr().err.splitlines()[-1]
    assert batch() == EVERY  # the lock was let go


def test_a_second_interrupt_says_how_to_go_on(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PretendEngine, "interrupt_after", 2)
    monkeypatch.setattr(PretendEngine, "stop", lambda self: os.kill(os.getpid(), signal.SIGINT))
    assert batch("--force") == EVERY[:2]
    assert batch.code == 130
    said = "2 of 4 photos are left; the same command without --force goes on with them; `fit3d report "
    assert f"{said}{batch.out}` makes the page of what there is\n" in capfd.readouterr().err


def test_json_and_quiet(batch: Batch, capfd: pytest.CaptureFixture[str]) -> None:
    batch("--json", "--quiet")
    said = capfd.readouterr()
    assert {line["photo"]: line for line in map(json.loads, said.out.splitlines())} == batch.lines()
    assert said.err == "error: in/c.png: because it is no_face\n"


def test_lists(batch: Batch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.txt").write_text(f"{batch.photos}/in/b.jpg\n{batch.photos}/missing.jpg\n")
    assert batch(source=f"@{tmp_path}/list.txt") == ["in/b.jpg", "missing.jpg"]
    assert batch.lines()["missing.jpg"]["status"] == "unreadable"
    said = capfd.readouterr().err
    assert f"warning: @{tmp_path}/list.txt: 1 of 2 photos do not exist, such as {batch.photos}/missing.jpg\n" in said
    (tmp_path / "list.txt").write_text(f"{batch.photos}/in/b.jpg\n")
    assert batch(source=f"@{tmp_path}/list.txt") == []  # still called in/b.jpg
    (batch.photos / "missing.jpg").write_text("ok")
    (tmp_path / "list.txt").write_text(f"{batch.photos}/missing.jpg\n")
    assert batch(source=f"@{tmp_path}/list.txt") == ["missing.jpg"]
    assert batch.code == 0
    for options in (["--include", "x"], ["--no-recursive"], ["--follow-links"]):
        assert batch(*options, source=f"@{tmp_path}/list.txt") == []
        assert batch.code == 2
    assert batch("--root", str(tmp_path)) == []
    assert batch.code == 2


def test_a_list_of_nothing_that_exists(batch: Batch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("x/a.jpg\nx/b.jpg\n")
    assert batch(source=f"@{listed}") == []
    assert batch.code == 2 and not batch.out.exists()
    error = capfd.readouterr().err
    assert "none of its 2 photos exists" in error and "relative to the current folder" in error
    listed.write_bytes(f"{batch.photos}/a.jpg\n".encode("utf-8-sig"))  # as Windows' editors write it
    assert batch(source=f"@{listed}") == ["a.jpg"]
    assert batch.code == 0 and capfd.readouterr().out.startswith("1 photo: 1 ok ")
    listed.write_text(f"file://{batch.photos}/in/b.jpg\n")
    assert batch("--root", batch.photos.as_uri(), source=f"@{listed}") == ["in/b.jpg"]
    assert batch.lines()["in/b.jpg"]["status"] == "poor"


def test_the_photos_folder_is_not_that_of_results(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(batch.photos.rglob("*"))
    (tmp_path / "link").symlink_to(batch.photos)
    for out in (f"{batch.photos}/", str(tmp_path / "link"), batch.photos.as_uri(), ""):
        assert main(["batch", str(batch.photos), "-o", out, "--no-report"]) == 2
    monkeypatch.chdir(batch.photos)
    assert main(["batch", "", "-o", str(batch.out)]) == 2
    assert main(["batch", ".", "-o", str(batch.out), "--parts", ""]) == 2
    assert sorted(batch.photos.rglob("*")) == before and not batch.out.exists()


def test_places_as_file_urls(batch: Batch) -> None:
    """They are the paths that they mean, also to later calls."""
    photos, out = batch.photos.rename(batch.photos.with_name("pho tos")), batch.out
    assert main(["batch", photos.as_uri(), "-o", out.as_uri(), "--no-report"]) == 1
    assert list(batch.lines()) == EVERY
    assert json.loads((out / "batch.json").read_text())["photos"] == str(photos)
    assert batch(source=str(photos)) == []


def test_linked_folders_are_told_of(batch: Batch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "e.jpg").write_text("ok")
    (batch.photos / "link").symlink_to(elsewhere)
    (batch.photos / "l.jpg").symlink_to(elsewhere / "e.jpg")
    assert batch("--dry-run", "--no-recursive") == []
    assert "linked" not in capfd.readouterr().err
    assert batch() == sorted([*EVERY, "l.jpg"])
    assert "1 linked folder left out (--follow-links)\n" in capfd.readouterr().err
    assert batch("--follow-links") == ["link/e.jpg"]
    assert "linked" not in capfd.readouterr().err


def test_shards(batch: Batch, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(20):
        (batch.photos / f"{number}.jpg").write_text("ok")
    done = [batch("--shard", f"{number}/3") for number in (1, 2, 3)]
    assert all(done)
    every = sorted(name for names in done for name in names)
    assert every == sorted([*EVERY, *(f"{number}.jpg" for number in range(20))])
    assert not (batch.out / "results.jsonl").exists()
    assert "fit3d report" in capfd.readouterr().err
    assert batch("--shard", "2/3") == []
    assert batch("--shard", "1/5") == []  # shared out otherwise: still done
    assert batch() == []
    assert {path.name for path in batch.out.glob("*.jsonl")} == {"results.jsonl"}
    assert list(batch.lines()) == every
    assert batch("--shard", "1/2") == []


def test_shards_that_begin_at_different_times_write_to_different_folders(batch: Batch) -> None:
    """The second one sees photos that the first did not, and nothing of what that is about to write."""
    stems = [f"p{number}" for number in range(8)]
    for stem in stems:
        (batch.photos / f"{stem}.png").write_text("ok")
    batch("--shard", "1/2")
    manifest = batch.out / "results-1-of-2.jsonl"
    first = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.unlink()  # not noted yet when the other one begins
    for stem in stems:
        (batch.photos / f"{stem}.jpg").write_text("ok")
    batch("--shard", "2/2")
    second = [json.loads(line) for line in (batch.out / "results-2-of-2.jsonl").read_text().splitlines()]
    targets = [line["target"] for line in (*first, *second)]
    assert len(set(targets)) == len(targets)
    assert {"p0.jpg", "p0"} & set(targets) and {line["target"] for line in second} >= {
        line["photo"] for line in second if line["photo"].startswith("p")
    }


def test_report(batch: Batch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for number in (1, 2):
        batch("--shard", f"{number}/2")
    assert not (batch.out / "index.html").exists()
    capfd.readouterr()
    assert main(["report", str(batch.out)]) == 0
    assert capfd.readouterr().out == f"{batch.out}/index.html  4 photos\n"
    assert "in/c.png" in (batch.out / "index.html").read_text()
    assert list(batch.lines()) == EVERY
    assert main(["report", str(tmp_path)]) == 2
    assert "no results.jsonl here" in capfd.readouterr().err


def test_given_files(
    batch: Batch, tmp_path: Path, engines: list[PretendEngine], capfd: pytest.CaptureFixture[str]
) -> None:
    labels, landmarks = tmp_path / "labels", tmp_path / "landmarks"
    for path in (
        labels / "in/b.png",
        landmarks / "a.pts",
        landmarks / "a.txt",
        landmarks / "a.json",
        landmarks / "d.csv",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    options = ["--parts", str(labels), "--landmarks-file", str(landmarks)]
    assert batch(*options) == EVERY
    given = {item.photo: (item.parts, item.landmarks_file) for item in engines[-1].done}
    assert given == {
        "a.jpg": (None, f"{landmarks}/a.json"),
        "d.jpg": (None, f"{landmarks}/d.csv"),
        "in/b.jpg": (f"{labels}/in/b.png", None),
        "in/c.png": (None, None),
    }
    assert "3 of 4 photos have no file in --parts" in capfd.readouterr().err
    assert batch(*options) == []
    (labels / "in/b.png").write_text("painted")
    (labels / "a.png").write_text("x")
    (landmarks / "a.json").unlink()
    assert batch(*options) == ["a.jpg", "in/b.jpg"]
    (tmp_path / "none").mkdir()
    assert batch("--parts", str(tmp_path / "none"), "--force") == []
    assert batch.code == 2
    (tmp_path / "none/z.png").write_text("x")
    assert batch("--parts", str(tmp_path / "none"), "--force") == []
    assert batch.code == 2


def test_a_full_disk_stops_all(batch: Batch, capfd: pytest.CaptureFixture[str]) -> None:
    (batch.photos / "b.jpg").write_text("full")
    assert batch() == ["a.jpg", "b.jpg"]
    assert batch.code == 2
    errors = capfd.readouterr().err.splitlines()
    assert errors[-1].startswith("error: cannot write x: the disk is full")
    assert list(batch.lines()) == ["a.jpg"]
    (batch.photos / "b.jpg").write_text("ok")
    assert batch() == ["b.jpg", *EVERY[1:]]


def test_what_a_killed_call_left_is_removed(batch: Batch) -> None:
    batch()
    (batch.photos / "in/b.jpg").write_text("ok, changed")
    stage, part = ".fit3d-0123456789abcdef-b.stage", ".fit3d-0123456789abcdef.part"
    parts = [batch.out / folder / part for folder in ("", "thumbnails/in", "thumbnails/without-fit")]
    for folder in (batch.out / "in" / stage, batch.out / ".backup-20240131", *(each.parent for each in parts)):
        folder.mkdir(parents=True, exist_ok=True)
    for each in (*parts, batch.out / "a" / part):
        each.touch()
    (batch.out / "results.jsonl").write_bytes((batch.out / "results.jsonl").read_bytes()[:-5])
    assert batch() == ["in/b.jpg", "in/c.png"]
    assert not (batch.out / "in" / stage).exists()
    assert not any(each.exists() for each in parts)
    assert (batch.out / "a" / part).exists() and (batch.out / ".backup-20240131").exists()  # not this call's
    assert list(batch.lines()) == EVERY


@pytest.mark.parametrize(
    "options",
    [
        ["--shard", "3/2"],
        ["--workers", "0"],
        ["--batch-size", "0"],
        ["--timeout", "0"],
        ["--engine", "nonsense"],
        ["--device", "cpu,nonsense"],
        ["--model", "nonsense"],
        ["--landmarks", "nonsense"],
        ["--face", "smallest"],
        ["--focal", "-1"],
        ["--format", "nonsense"],
        ["--parts", "nowhere"],
    ],
)
def test_wrong_option(options: list[str], batch: Batch, capfd: pytest.CaptureFixture[str]) -> None:
    assert batch(*options) == []
    assert batch.code == 2
    said = capfd.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert options[0].lstrip("-") in errors[0] or options[1] in errors[0]
    assert not batch.out.exists()


def test_no_photos(batch: Batch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for source in (str(tmp_path / "empty"), str(tmp_path / "none"), f"@{tmp_path}/none", "http:/x"):
        assert batch(source=source) == []
        assert batch.code == 2
        assert len(capfd.readouterr().err.splitlines()) == 1
    assert not batch.out.exists()


# --- from Python ------------------------------------------------------------------------------------------------


def test_library_form(photos: Path, tmp_path: Path, engines: list[PretendEngine]) -> None:
    out = tmp_path / "out"
    records = fit3d.fit_batch(photos, out, parser="embedded", landmarks="mediapipe", workers=3)
    assert next(records).photo == "a.jpg"
    records.close()  # early: what is in flight is finished and noted
    assert engines[0].stopped
    assert engines[0].workers.count == 3
    rest = list(fit3d.fit_batch(photos, out, parser="embedded", landmarks="mediapipe"))
    assert [record.photo for record in rest] == EVERY[1:]
    assert rest[1].folder == "in/b"
    assert (out / "index.html").exists()
    assert list(fit3d.fit_batch([photos / "a.jpg", photos / "in/c.png"], str(out))) == []
    with pytest.raises(UsageError, match="other options"):
        list(fit3d.fit_batch(photos, out, delight=True))
    with pytest.raises(UsageError, match="focal"):
        fit3d.fit_batch(photos, out, focal_px=-1)


def test_a_worker_that_meets_the_call_that_began_it_says_how_to_write_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(UsageError, match='below `if __name__ == "__main__":`'):
        fit3d.fit_batch(photos, tmp_path / "out")


def test_fit_does_not_write_among_the_results_of_a_batch(
    photos: Path, tmp_path: Path, engines: list[PretendEngine], capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    list(fit3d.fit_batch(photos, out))
    capfd.readouterr()
    assert main(["fit", str(photos / "a.jpg"), "-o", str(out)]) == 2
    assert capfd.readouterr().err.startswith(f"error: {out}: holds the results of `fit3d batch` ")


def test_memory_does_not_grow_with_the_photos_that_are_done(
    photos: Path, tmp_path: Path, engines: list[PretendEngine]
) -> None:
    """Nothing is kept of a photo once it is told of."""
    for number in range(50):
        (photos / f"{number}.jpg").write_text("ok")
    told: list[weakref.ref[Record | PhotoItem]] = []
    for record in fit3d.fit_batch(photos, tmp_path / "out", report=False):
        told += [weakref.ref(record), weakref.ref(engines[-1].done.pop())]
        del record
        # the engine has its last item and record still at hand
        assert sum(each() is not None for each in told) <= 2
    assert len(told) == 2 * 54


# --- real ones --------------------------------------------------------------------------------------------------


def start(*arguments: str) -> subprocess.Popen[str]:
    """A batch of its own, in a group of its own, as a terminal has it."""
    return subprocess.Popen(
        [sys.executable, str(CLI), "batch", *arguments, *QUICK],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120.0
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def results(out: Path) -> dict[str, bytes]:
    """All bytes but times."""
    content = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if (
            path.is_file()
            and not name.startswith(".fit3d")
            and name
            not in (
                "index.html",
                "results.jsonl",
                "results.parquet",
            )
        ):
            content[name] = path.read_bytes()
            if path.suffix == ".json" and name != "batch.json":
                result = json.loads(content[name])
                del result["timings_s"]
                content[name] = json.dumps(result).encode()
    return content


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small photos of one face."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("portraits")
    face = Image.open(CLI.parent / "examples" / "astronaut.jpg").crop((120, 0, 360, 240))
    for number in range(4):
        face.resize((150 + number, 150 + number)).save(folder / f"{number}.png")
    return folder


def test_ctrl_c_finishes_what_is_in_flight(portraits: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    with start(str(portraits), "-o", str(whole), "--workers", "2") as process:
        said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert said.startswith("4 photos: ")

    manifest = out / "results.jsonl"
    with start(str(portraits), "-o", str(out), "--workers", "1") as process:
        wait_for(lambda: manifest.exists() and manifest.stat().st_size > 0, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    # two, where the signal came as one was noted already and not yet counted as done
    assert re.search(r"^finishing (1 photo|2 photos) in flight; Ctrl-C again to stop at once$", errors, re.MULTILINE)
    done = {json.loads(line)["photo"] for line in manifest.read_text().splitlines()}
    assert 1 <= len(done) < 4
    left = "photos are left; the same command goes on with them; `fit3d report"
    assert f"{4 - len(done)} of 4 {left} {out}` makes the page of what there is\n" in errors
    assert {f"{path.name}.png" for path in out.iterdir() if path.is_dir() and path.name[0].isdigit()} == done

    with start(str(portraits), "-o", str(out), "--workers", "1") as process:
        wait_for(lambda: len(manifest.read_text().splitlines()) > len(done), process)
        os.killpg(process.pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.count(f"{left} {out}` makes the page") == 1
    assert not [path for path in out.iterdir() if path.name.startswith(".") and path.name != ".fit3d"]

    assert main(["batch", str(portraits), "-o", str(out), "--workers", "2", *QUICK]) == 0
    assert results(out) == results(whole)


def test_a_second_call_is_refused(portraits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with start(str(portraits), "-o", str(out), "--workers", "1") as process:
        wait_for((out / "results.jsonl").exists, process)
        for options in ([], ["--shard", "1/2"]):
            assert main(["batch", str(portraits), "-o", str(out), *QUICK, *options]) == 2
            error = capfd.readouterr().err.splitlines()[-1]
            assert error.startswith(
                f"error: {out} is being written to by another `fit3d batch` (process {process.pid} "
            )
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
