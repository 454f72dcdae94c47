from __future__ import annotations

import importlib.util
import json
import os
import pickle
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fit3d.batch import url_lease, url_lines
from fit3d.batch.fit_work import FitWork, PhotoItem
from fit3d.batch.listing import Listing, Selection, list_folder, list_paths
from fit3d.batch.local_engine import LocalEngine
from fit3d.batch.local_storage import LocalStorage
from fit3d.batch.options import BatchOptions
from fit3d.batch.plan import Call
from fit3d.batch.record import FaceRecord, Record
from fit3d.batch.run import opened
from fit3d.batch.storage import Storage
from fit3d.batch.storages import redacted, storage_at
from fit3d.batch.url_files import UrlFiles
from fit3d.batch.url_lines import UrlLines
from fit3d.batch.url_storage import UrlStorage
from fit3d.batch.work import Engine, Item, Result, Work, Workers
from fit3d.config import ExportConfig, FitConfig
from fit3d.errors import LockedError, OccupiedError, UsageError


class Crash(BaseException):
    """The process died here."""


@pytest.fixture(params=["memory", "local"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder in an object store, which needs no folders to be made, and one on a disk, which does."""
    if request.param == "local":
        yield f"local://{tmp_path}/store"
        return
    name = uuid.uuid4().hex
    yield f"memory://{name}"
    with suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm(f"/{name}", recursive=True)


@pytest.fixture
def storage(url: str) -> UrlStorage:
    found = storage_at(url)
    assert isinstance(found, UrlStorage)
    return found


def names(storage: UrlStorage, recursive: bool = True) -> list[str]:
    try:
        return [entry.name for entry in storage.entries(recursive=recursive)]
    except FileNotFoundError:  # no file, no folder
        return []


def test_what_was_written_is_read(storage: UrlStorage) -> None:
    assert not storage.exists("a/b.txt") and storage.entry("a/b.txt") is None and names(storage) == []
    storage.write("a/b.txt", b"first, longer")
    old = storage.entry("a/b.txt")
    time.sleep(0.02)
    storage.write("a/b.txt", b"second")
    new = storage.entry("a/b.txt")
    assert old is not None and new is not None and (old.size, new.size) == (13, 6) and old.version != new.version
    assert storage.read("a/b.txt") == b"second" and storage.head("a/b.txt", 3) == b"sec"
    assert storage.sha256("a/b.txt") == "16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4"
    with storage.fetch("a/b.txt") as path:
        assert path.read_bytes() == b"second" and path.name == "b.txt"
    assert not path.exists()
    assert not storage.exists("a")
    storage.remove("a/b.txt")
    storage.remove("a/b.txt")
    for read in (storage.read, storage.sha256, lambda name: storage.head(name, 3)):
        with pytest.raises(FileNotFoundError):
            read("a/b.txt")
    with pytest.raises(FileNotFoundError), storage.fetch("a/b.txt"):
        pass


def test_entries_are_all_files_but_hidden_ones(storage: UrlStorage) -> None:
    odd = ["b.jpg", "a.jpg", "dir/z[1].jpg", "dir/deeper/100 %*.png", "dir/-x", "dir/ä\U0001f600.jpg"]
    for name in [*odd, ".hidden/x.jpg", "dir/.y.jpg"]:
        storage.write(name, name.encode())
    found = list(storage.entries())
    assert sorted(entry.name for entry in found) == sorted(odd)
    assert all(entry.size == len(entry.name.encode()) and entry.version for entry in found)
    assert found == [storage.entry(entry.name) for entry in found]
    assert names(storage, recursive=False) == ["a.jpg", "b.jpg"]
    assert all(storage.read(name) == name.encode() for name in odd)
    assert sorted(names(UrlStorage(storage.root, left_out=f"{storage.root}/dir"))) == ["a.jpg", "b.jpg"]


def test_the_same_interface_as_a_disk(tmp_path: Path) -> None:
    """On the same folder, a URL tells what a path tells."""
    for name in ("a.jpg", "b/c.jpg", "b/.d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "results.jsonl").write_bytes(b"1\n2\ncut")
    disk, url = LocalStorage(str(tmp_path)), UrlStorage(f"local://{tmp_path}")
    assert {(entry.name, entry.size) for entry in disk.entries()} == {(each.name, each.size) for each in url.entries()}
    assert list(disk.read_lines("results.jsonl")) == list(url.read_lines("results.jsonl")) == [b"1\n", b"2\n"]
    assert disk.logs() == url.logs() == ["results.jsonl"]


def test_travels_by_pickle(storage: UrlStorage) -> None:
    storage.write("x", b"1")
    with storage.lock("run"):
        storage.append("lines.jsonl", [b"1\n"])
        copy = pickle.loads(pickle.dumps(storage))
    assert copy.root == storage.root and copy.read("x") == b"1" and list(copy.read_lines("lines.jsonl")) == [b"1\n"]


def save(folder: Path, stem: str, files: dict[str, str]) -> None:
    """As `Reconstruction.save` does it."""
    for name, content in files.items():
        path = folder / stem / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_a_result_replaces_the_earlier_one(storage: UrlStorage) -> None:
    with storage.result_folder("people/ann") as folder:
        save(folder, "ann", {"ann.json": "1", "ann.obj": "o", "colmap/cameras.txt": "c", "ann_parts.png": "p"})
    storage.write("people/ann/mine.txt", b"m")
    assert names(storage) == [
        *("people/ann/ann.json", "people/ann/ann.obj", "people/ann/ann_parts.png", "people/ann/mine.txt"),
        "people/ann/colmap/cameras.txt",
    ]
    with storage.result_folder("people/ann") as folder:
        save(folder, "ann", {"ann.json": "2", "ann.glb": "g", "ann_parts.png": "q"})
    assert not folder.exists()
    contents = {name: storage.read(name) for name in names(storage)}
    assert contents == {
        "people/ann/ann.json": b"2",
        "people/ann/ann.glb": b"g",
        "people/ann/ann_parts.png": b"q",
        "people/ann/mine.txt": b"m",
    }


def test_a_result_that_was_not_made_leaves_the_earlier_one(storage: UrlStorage) -> None:
    with storage.result_folder("ann") as folder:
        save(folder, "ann", {"ann.json": "1", "ann.obj": "o"})
    with suppress(UsageError), storage.result_folder("ann") as folder:
        save(folder, "ann", {"ann.obj": "half"})
        raise UsageError("the disk is full")
    assert storage.read("ann/ann.json") == b"1" and storage.read("ann/ann.obj") == b"o"


def test_an_observation_is_not_replaced(storage: UrlStorage) -> None:
    storage.write("ann/ann_landmarks.json", b"by hand")
    with pytest.raises(OccupiedError, match="holds the observation of a photo"), storage.result_folder("ann"):
        pytest.fail("must not begin")


def test_a_json_means_a_complete_result(storage: UrlStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the upload of a second result ends, the store has a JSON only beside files of the same result."""
    files = {"ann.json": "{}", "ann.obj": "{}", "ann.mtl": "{}", "ann_parts.png": "{}"}
    for crash_at in range(20):
        with storage.result_folder("ann") as folder:
            save(folder, "ann", dict.fromkeys((*files, "ann.glb"), "old"))
        done = crash_after(crash_at, monkeypatch)
        try:
            with storage.result_folder("ann") as folder:
                save(folder, "ann", dict.fromkeys(files, "new"))
            done = True
        except Crash:
            pass
        monkeypatch.undo()
        contents = {name.removeprefix("ann/"): storage.read(name).decode() for name in names(storage)}
        if "ann.json" in contents:
            assert set(contents.values()) == {contents["ann.json"]}
            assert contents.keys() == ({*files} if contents["ann.json"] == "new" else {*files, "ann.glb"})
        if done:
            assert crash_at > 3 and contents == dict.fromkeys(files, "new")
            return
    pytest.fail("never came to its end")


def crash_after(count: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The process dies when it writes or removes a file for the (count + 1)th time."""
    left = [count]

    def counted(name: str) -> None:
        original = getattr(UrlFiles, name)

        def change(self: UrlFiles, *args: object) -> object:
            if left[0] == 0:
                raise Crash
            left[0] -= 1
            return original(self, *args)

        monkeypatch.setattr(UrlFiles, name, change)

    for name in ("write", "upload", "upload_all", "remove"):
        counted(name)
    return False


def lines(first: int, last: int) -> list[bytes]:
    return [f"{number}\n".encode() for number in range(first, last)]


def test_lines_come_back_in_order_from_few_objects(storage: UrlStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_lines, "FAN", 4)
    storage.write("results.jsonl", b"".join(lines(0, 3)) + b"cut off")
    assert storage.logs() == ["results.jsonl"]
    most = 0
    for number in range(3, 100):
        storage.append("results.jsonl", lines(number, number + 1))
        most = max(most, sum(name.startswith("results.jsonl.d/") for name in names(storage)))
    assert most <= 3 + 3 + 100 / 16 + 1
    assert list(storage.read_lines("results.jsonl")) == lines(0, 100)
    other = UrlStorage(storage.root)  # another process goes on
    other.append("results.jsonl", lines(100, 105))
    assert list(storage.read_lines("results.jsonl")) == lines(0, 105)
    assert storage.logs() == ["results.jsonl"]
    UrlLines(UrlFiles(storage.root), "results.jsonl").publish()
    assert names(storage) == ["results.jsonl"] and storage.read("results.jsonl") == b"".join(lines(0, 105))
    other.rewrite("results.jsonl", iter(lines(7, 9)))
    assert list(other.read_lines("results.jsonl")) == lines(7, 9)
    other.append("results.jsonl", lines(9, 10))
    other.drop("results.jsonl")
    other.drop("results.jsonl")
    assert names(storage) == [] and list(storage.read_lines("results.jsonl")) == [] and storage.logs() == []
    storage.append("results-1-of-2.jsonl", [])
    assert storage.logs() == ["results-1-of-2.jsonl"] and list(storage.read_lines("results-1-of-2.jsonl")) == []


def test_a_clock_that_goes_backwards_keeps_the_order(storage: UrlStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.append("a.jsonl", [b"1\n"])
    monkeypatch.setattr(url_lines.time, "time_ns", lambda: 5)
    storage.append("a.jsonl", [b"2\n"])
    UrlStorage(storage.root).append("a.jsonl", [b"3\n"])
    assert list(storage.read_lines("a.jsonl")) == [b"1\n", b"2\n", b"3\n"]


@pytest.mark.parametrize("act", ["append", "publish", "rewrite"])
def test_a_crash_at_any_point_loses_and_doubles_no_line(
    storage: UrlStorage, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    monkeypatch.setattr(url_lines, "FAN", 3)
    for crash_at in range(40):
        storage.drop("a.jsonl")
        storage.write("a.jsonl", b"".join(lines(0, 2)))
        for number in range(2, 10):  # the next one is the third of rank 0 and of rank 1
            storage.append("a.jsonl", lines(number, number + 1))
        wanted = {"append": [lines(0, 10), lines(0, 11)], "publish": [lines(0, 10)]}
        wanted["rewrite"] = [lines(0, 10), lines(50, 53)]
        victim = UrlLines(UrlFiles(storage.root), "a.jsonl")
        crash_after(crash_at, monkeypatch)
        try:
            if act == "append":
                victim.append(lines(10, 11))
            elif act == "publish":
                victim.publish()
            else:
                victim.rewrite(lines(50, 53))
            crashed = False
        except Crash:
            crashed = True
        monkeypatch.undo()
        monkeypatch.setattr(url_lines, "FAN", 3)
        found = list(storage.read_lines("a.jsonl"))
        assert found in wanted[act]
        UrlStorage(storage.root).append("a.jsonl", [b"next\n"])  # goes on, and cleans up
        assert list(storage.read_lines("a.jsonl")) == [*found, b"next\n"]
        UrlLines(UrlFiles(storage.root), "a.jsonl").publish()
        assert list(storage.read_lines("a.jsonl")) == [*found, b"next\n"] and names(storage) == ["a.jsonl"]
        if not crashed:
            assert crash_at > (0 if act == "append" else 2) and found == wanted[act][-1]
            return
    pytest.fail("never came to its end")


def test_lines_are_read_while_they_are_merged(storage: UrlStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_lines, "FAN", 4)
    for number in range(7):
        storage.append("a.jsonl", lines(number, number + 1))
    found = []
    for line in storage.read_lines("a.jsonl"):
        found.append(line)
        if len(found) == 5:
            UrlLines(UrlFiles(storage.root), "a.jsonl").publish()
    assert found == lines(0, 7)


def test_one_run_at_a_time(storage: UrlStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    other = UrlStorage(storage.root)
    with storage.lock("results"):
        with (
            pytest.raises(LockedError, match=rf"process {os.getpid()} on '{socket.gethostname()}'"),
            other.lock("results"),
        ):
            pytest.fail("two at a time")
        with other.lock("results-1-of-2"):
            pass
    with other.lock("results"):
        pass
    assert names(storage) == [] and not storage.exists(".fit3d/results.json")


def lease_of(storage: UrlStorage, **other: object) -> None:
    holder = {"owner": "x", "host": "elsewhere", "pid": 1, "since": time.time(), "renewed": time.time()}
    storage.write(".fit3d/run.json", json.dumps(holder | other).encode())


def test_a_lease_outlives_its_holder_for_some_minutes(storage: UrlStorage) -> None:
    lease_of(storage, renewed=time.time() - 0.9 * url_lease.STALE_S)
    with pytest.raises(LockedError), storage.lock("run"):
        pass
    lease_of(storage, renewed=time.time() - 1.1 * url_lease.STALE_S)
    with storage.lock("run"):
        pass
    lease_of(storage, host=socket.gethostname(), pid=2**22 + 1)  # no process has that number
    with storage.lock("run"):
        pass
    storage.write(".fit3d/run.json", b"damaged")
    with storage.lock("run"):
        pass


def test_who_loses_the_lease_writes_no_more(storage: UrlStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_lease, "RENEW_S", 0.01)

    def write_on() -> None:
        with storage.lock("run"):
            lease_of(storage)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                storage.append("a.jsonl", [])
                time.sleep(0.01)

    with pytest.raises(LockedError, match="taken over by another"):
        write_on()
    assert storage.exists(".fit3d/run.json")  # the other one's


def test_a_lease_is_renewed(storage: UrlStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_lease, "RENEW_S", 0.01)
    with storage.lock("run"):
        first = json.loads(storage.read(".fit3d/run.json"))["renewed"]
        deadline = time.monotonic() + 60
        while json.loads(storage.read(".fit3d/run.json"))["renewed"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_who_lost_the_lease_removes_no_lines(storage: UrlStorage) -> None:
    """Even before it was due to renew it, and also where the other one is through already."""
    storage.append("a.jsonl", [b"1\n"])
    changes = (lambda: storage.rewrite("a.jsonl", [b"2\n"]), lambda: storage.drop("a.jsonl"), lambda: None)
    for others in ({"owner": "x"}, None):
        for change in changes:  # the last one is the end of the lock, which puts the lines into one object

            def run_on(change: Callable[[], None] = change, others: dict[str, str] | None = others) -> None:
                with storage.lock("run"):
                    if others is None:
                        storage.remove(".fit3d/run.json")
                    else:
                        lease_of(storage, **others)
                    change()

            with pytest.raises(LockedError, match="taken over by another"):
                run_on()
            assert list(storage.read_lines("a.jsonl")) == [b"1\n"]
            assert not storage.exists("a.jsonl")  # its parts alone
            storage.remove(".fit3d/run.json")


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sftp://ann:hunter2@host:22/a:b@c", "sftp://ann:***@host:22/a:b@c"),
        (
            "cannot reach 'ftp://ann:hun@ter2@host'; or http://:x@h",
            "cannot reach 'ftp://ann:***@host'; or http://:***@h",
        ),
        ("sftp://ann@host:22/x@y and s3://bucket/a:b@c", "sftp://ann@host:22/x@y and s3://bucket/a:b@c"),
        ("simplecache::ftp://u:p@h/x", "simplecache::ftp://u:***@h/x"),
    ],
)
def test_passwords_are_hidden(text: str, told: str) -> None:
    assert redacted(text) == told


class HereEngine(Engine):
    """Says of each photo, in this process, that it is fitted."""

    def run(self, work: Work[Item, Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        assert isinstance(work, FitWork)
        for item in items:
            assert isinstance(item, PhotoItem)
            work.results.write(f"{item.folder}/{item.folder.rpartition('/')[2]}.json", b"{}")
            face = FaceRecord(1, "ok", "", {"mean": 0.5}, 0.01, item.folder)
            yield item, replace(work.lost(item, ""), status="ok", faces=(face,))  # type: ignore[misc]

    def stop(self) -> None:
        raise AssertionError("nobody asked for that")


def run_all(listing: Listing, out: Storage) -> tuple[list[Record], list[str]]:
    """Records of a run, and what the user is told before it."""
    with opened(Call(listing, out, BatchOptions())) as run:
        return list(run.records(HereEngine(Workers(1)))), run.warnings


def test_a_password_is_written_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"memory://ann:{SECRET}@{uuid.uuid4().hex}"
    photos, out = f"{place}/photos", storage_at(f"{place}/out")
    for name in ("a.jpg", "b/c.jpg", "b/d.jpg"):
        storage_at(photos).write(name, b"x")
    for opener in (out, pickle.loads(pickle.dumps(out))):
        assert opener.address == f"{place}/out" and opener.root == f"{place.replace(SECRET, '***')}/out"
    listing = list_folder(photos, Selection(), f"{place}/out")
    records, warnings = run_all(listing, out)
    assert [record.photo for record in records] == ["a.jpg", "b/c.jpg", "b/d.jpg"] and not warnings
    assert run_all(listing, out) == ([], [])
    some = list_paths([f"{photos}/b/c.jpg", f"{photos}/b/d.jpg"], None, listing.root)
    assert some.root == listing.root and [entry.name for entry in some.entries] == ["b/c.jpg", "b/d.jpg"]
    assert some.photos.read("b/c.jpg") == b"x" and run_all(some, out) == ([], [])
    with pytest.raises(UsageError, match=r"outside memory://ann:\*\*\*@") as error:
        list_paths([f"{place}/elsewhere/c.jpg"], None, listing.root)
    everything = [out.read(entry.name) for entry in out.entries()]
    assert len(everything) > 4 and not any(SECRET.encode() in content for content in everything)
    assert any(b"/photos" in content for content in everything)

    def fails(*args: object, **kwargs: object) -> None:
        raise ConnectionError(f"cannot connect to {place}")

    def is_not_there(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError(f"{place}/x")

    storage_at(f"{place}/texts").write("a.txt", b"x")
    told = [str(error.value)]
    for failure, kind in ((fails, UsageError), (is_not_there, FileNotFoundError)):
        monkeypatch.setattr(MemoryFileSystem, "cat_file", failure)
        with pytest.raises(kind) as problem:
            out.read("x")
        told.append(str(problem.value))
    for wrong in (f"nosuch://ann:{SECRET}@host/x", f"{place}/texts"):
        with pytest.raises(UsageError) as usage:
            list_folder(wrong, Selection(), "out")
        told.append(str(usage.value))
    assert all("ann:***@" in text and SECRET not in text for text in told)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What a store is asked, which lists a thousand files at a time, however deep they lie."""
    counts: Counter[str] = Counter()

    def counted(name: str) -> None:
        original = getattr(MemoryFileSystem, name)

        def ask(self: MemoryFileSystem, *args: object, **kwargs: object) -> object:
            counts[name] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(MemoryFileSystem, name, ask)

    def find(self: MemoryFileSystem, path: str, **kwargs: object) -> list[str]:
        found = sorted(name for name in self.store if name.startswith(f"{path}/"))
        counts["find"] += -(-len(found) // 1000)
        return found

    monkeypatch.setattr(MemoryFileSystem, "find", find)
    for name in ("ls", "info", "cat_file", "_open", "exists", "isfile", "isdir"):
        counted(name)
    return counts


def test_what_a_resume_asks_the_store_does_not_grow_with_the_photos(requests: Counter[str]) -> None:
    asked = []
    for count in (30, 60):
        root = f"memory://{uuid.uuid4().hex}"
        out = storage_at(f"{root}/out")
        urls = [f"{root}/photos/{number}.jpg" for number in range(count)]
        for number in range(count):
            storage_at(f"{root}/photos").write(f"{number}.jpg", b"x")
        assert len(run_all(list_paths(urls, None), out)[0]) == count
        requests.clear()
        assert run_all(list_paths([*urls, f"{root}/photos/gone.jpg"], None), out)[0][0].photo == "gone.jpg"
        asked.append(dict(requests))
        out.remove("7/7.json")
        assert [record.photo for record in run_all(list_paths(urls, None), out)[0]] == ["7.jpg"]
    assert asked[0] == asked[1] and asked[0]["find"] == 1


def test_listed_photos_of_a_folder_that_may_not_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = UrlStorage(f"memory://{uuid.uuid4().hex}")
    names = [f"a/{number}.jpg" for number in range(20)]
    for name in names[1:]:
        storage.write(name, b"x")
    listed = storage.entries_of([*names, "b/c.jpg"])

    def forbidden(*args: object, **kwargs: object) -> None:
        raise PermissionError("ListBucket")

    monkeypatch.setattr(MemoryFileSystem, "ls", forbidden)
    assert storage.entries_of([*names, "b/c.jpg"]) == listed == [None, *map(storage.entry, names[1:]), None]


@pytest.mark.parametrize("kind", ["memory://x", "simplecache::memory://x"])
def test_what_other_processes_cannot_see_is_refused_by_workers(kind: str, tmp_path: Path) -> None:
    there, nobodys = LocalStorage(str(tmp_path)), storage_at(kind)
    for work in (FitWork(nobodys, there, BatchOptions()), FitWork(there, nobodys, BatchOptions())):
        with pytest.raises(UsageError, match=f"^{kind}: no process but this one sees what is there"):
            next(iter(LocalEngine(Workers(1)).run(work, [PhotoItem("a.jpg", 1, "1", "a")])))


def test_what_concerns_all_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^nosuch://x/y: expected a folder or a URL such as s3://bucket/folder; "):
        storage_at("nosuch://x/y")
    storage = UrlStorage("memory://away")

    def fails(*args: object, **kwargs: object) -> None:
        raise ConnectionError("cannot connect\nto host")

    for name in ("cat_file", "pipe_file", "ls", "info", "get_file", "put_file", "rm_file"):
        monkeypatch.setattr(MemoryFileSystem, name, fails, raising=False)
    for call in (
        lambda: storage.read("a"),
        lambda: storage.write("a", b""),
        lambda: list(storage.entries()),
        lambda: storage.entry("a"),
        lambda: storage.fetch("a").__enter__(),
        lambda: storage.append("a.jsonl", [b"1\n"]),
        lambda: storage.remove("a"),
    ):
        with pytest.raises(UsageError, match=r"^cannot (read|write) memory://away/\S*: cannot connect to host$"):
            call()


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UsageError, match=r"^s3://bucket/photos: .* not installed: pip install s3fs$"):
        storage_at("s3://bucket/photos")


def test_photos_in_a_store_come_to_the_same_bytes_as_on_a_disk(astronaut: Path, tmp_path: Path) -> None:
    pytest.importorskip("mediapipe")
    options = BatchOptions(
        landmarks="mediapipe",
        parser="embedded",
        texture_size=64,
        config=FitConfig(loss="landmarks"),
        export=ExportConfig(formats=("obj",), overlay="none"),
    )
    memory = UrlStorage(f"memory://{uuid.uuid4().hex}")
    memory.write("a/ann.jpg", astronaut.read_bytes())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "ann.jpg").write_bytes(astronaut.read_bytes())
    disk = LocalStorage(str(tmp_path))
    items = [PhotoItem(name, None, None, f"out/{name[:-4]}") for name in ("a/ann.jpg", "a/gone.jpg")]
    made = []
    for storage in (memory, disk):
        records = [record.to_json() for record in FitWork(storage, storage, options).start("cpu")(items)]
        assert [record["status"] for record in records] == ["ok", "unreadable"]
        result = json.loads(storage.read("out/a/ann/ann.json"))
        assert result["photo"].pop("path") == f"{storage.root}/a/ann.jpg"
        del result["timings_s"]
        names = sorted(entry.name for entry in storage.entries() if entry.name.startswith("out/"))
        made.append((result, {name: storage.read(name) for name in names if not name.endswith(".json")}))
        for record in records:
            del record["seconds"], record["timings_s"]
        made.append((records[0], [record["photo"] for record in records]))
    assert made[:2] == made[2:] and len(made[0][1]) > 4


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a server on this machine that speaks S3."""
    if not all(importlib.util.find_spec(name) for name in ("moto", "s3fs", "flask")):
        pytest.skip("needs the packages moto[server] and s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("photos")
    yield "s3://photos"
    server.stop()


def test_the_protocol_of_s3(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_lines, "FAN", 3)
    storage = storage_at(f"{bucket}/in a folder")
    assert isinstance(storage, UrlStorage)
    test_entries_are_all_files_but_hidden_ones(storage)
    test_what_was_written_is_read(storage_at(f"{bucket}/2"))  # type: ignore[arg-type]
    test_a_result_replaces_the_earlier_one(storage_at(f"{bucket}/3"))  # type: ignore[arg-type]
    test_one_run_at_a_time(storage_at(f"{bucket}/4"), monkeypatch)  # type: ignore[arg-type]
    test_a_json_means_a_complete_result(storage_at(f"{bucket}/5"), monkeypatch)  # type: ignore[arg-type]
    test_a_crash_at_any_point_loses_and_doubles_no_line(storage_at(f"{bucket}/6"), monkeypatch, "publish")  # type: ignore[arg-type]
    test_lines_are_read_while_they_are_merged(storage_at(f"{bucket}/7"), monkeypatch)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="cannot write s3://nosuch/a"):
        storage_at("s3://nosuch").write("a", b"")
