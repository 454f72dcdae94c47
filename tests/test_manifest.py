"""The lines of a batch's photos: written, read back, torn, compacted, locked, shared out."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fit3d.batch.local_storage import LocalStorage
from fit3d.batch.manifest import MANIFEST, Shard, compact, locked, manifests, read_manifests
from fit3d.batch.record import FaceRecord, Record
from fit3d.errors import LockedError, UsageError
from fit3d.export.files import atomic_write, staged

FACE = FaceRecord(1, "poor", "look at it", {"nose": 0.5, "mean": math.nan}, 0.01, "a/b")


def record(photo: str, **changes: object) -> Record:
    made = Record(
        photo=photo,
        sha256="0" * 64,
        size=3,
        version="7",
        status="poor",
        message="zwei\nZeilen, é 😀",
        part_iou=FACE.part_iou,
        landmark_nme=0.01,
        seconds=1.5,
        timings_s={"load": 0.5, "fit": 1.0},
        folder="a/b",
        faces=(FACE,),
        options="abc",
        target="a/b",
        given=("1:2", ""),
        finished=5.0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def stored(folder: Path) -> dict[str, Record]:
    with read_manifests(LocalStorage(str(folder))) as snapshot:
        return {each.photo: each for each in snapshot.records()}


@pytest.mark.parametrize(
    "name", ["a/b.jpg", "new\nline.jpg", "\u2028\x85.jpg", '"\\.jpg', os.fsdecode(b"\xff.jpg"), "-x"]
)
def test_a_line_tells_all(name: str) -> None:
    line = record(name).to_line()
    assert line.count(b"\n") == 1
    back = Record.from_line(line)
    assert repr(back) == repr(record(name))  # NaN is not equal to itself


@pytest.mark.parametrize(
    "change",
    [
        (b'"poor"', b'"good"'),
        (b'"size": 3', b'"size": "3"'),
        (b'"photo": "x.jpg"', b'"photo": "../x.jpg"'),
        (b'"folder": "a/b"', b'"folder": "/etc"'),
        (b'"folder": "a/b"', b'"folder": ""'),
        (b'"folder": "a/b"', b'"folder": "a//b"'),
        (b'"folder": "a/b"', b'"folder": "./b"'),
        (b'"target": "a/b"', b'"target": "../../b"'),
        (b'"faces": [', b'"faces": ["'),
        (b'"finished": 5.0', b'"finished": "noon"'),
        (b'"timings_s": {', b'"timings": {'),
        (b'{"photo"', b'[{"photo"'),
        (b"0.5", b'"much"'),
    ],
)
def test_a_damaged_line_is_none(change: tuple[bytes, bytes]) -> None:
    line = record("x.jpg").to_line()
    assert change[0] in line
    with pytest.raises(ValueError, match=r"."):
        Record.from_line(line.replace(*change))


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"null\n", b"[]\n", b"{}\n", b"\xff\n", b"[" * 100_000 + b"\n", b"1e999\n"]
)
def test_what_is_no_line(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Record.from_line(line)


def test_a_torn_line_is_not_read_and_cut_off(tmp_path: Path) -> None:
    """At whichever byte a crash stopped the last write."""
    storage, path = LocalStorage(str(tmp_path)), tmp_path / MANIFEST
    first, second, third = (record(name, faces=()).to_line() for name in ("a", "b", "c"))
    for length in range(len(second) + 1):
        path.write_bytes(first + second[:length])
        whole = length == len(second)
        assert list(storage.read_lines(MANIFEST)) == [first, second][: 1 + whole]
        storage.append(MANIFEST, [third])
        assert path.read_bytes() == first + second * whole + third
    path.write_bytes(b"torn from the first byte on")
    storage.append(MANIFEST, [third])
    assert path.read_bytes() == third
    path.write_bytes(first + b"x" * 200_000)  # longer than a piece that is looked through
    storage.append(MANIFEST, [])
    assert path.read_bytes() == first


def test_a_full_disk_leaves_the_lines(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    storage, path = LocalStorage(str(tmp_path)), tmp_path / MANIFEST
    line = record("a").to_line()
    storage.append(MANIFEST, [line])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # a file that may not grow is refused as on a full disk; here it may by a part of the line
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(line) + 10, limits[1]))
    try:
        with pytest.raises(UsageError, match="cannot write"):
            storage.append(MANIFEST, [record("b").to_line()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == line


def test_the_newest_line_counts_and_one_is_left(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    lines = [record("b", finished=1.0), record("a", finished=2.0), record("b", status="ok", finished=3.0)]
    storage.append(MANIFEST, [line.to_line() for line in lines])
    with read_manifests(storage) as snapshot:
        assert not snapshot.is_compact
        compact(storage, snapshot, [MANIFEST], MANIFEST)
    assert (tmp_path / MANIFEST).read_bytes() == lines[1].to_line() + lines[2].to_line()
    before = (tmp_path / MANIFEST).stat().st_ino
    with read_manifests(storage) as snapshot:
        assert snapshot.is_compact
        compact(storage, snapshot, [MANIFEST], MANIFEST)
    assert (tmp_path / MANIFEST).stat().st_ino == before  # not written again


def test_damaged_lines_are_told_of(tmp_path: Path) -> None:
    good = record("a").to_line()
    (tmp_path / MANIFEST).write_bytes(good + b"{broken\n" * 7 + record("b").to_line())
    with read_manifests(LocalStorage(str(tmp_path))) as snapshot:
        assert snapshot.names() == ["a", "b"]
        assert [each.split(":")[0] for each in snapshot.damaged] == [
            *(f"results.jsonl, line {number}" for number in range(2, 7)),
            "... and more damaged lines",
        ]
        assert not snapshot.is_compact


def test_shards_share_out_all_photos(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(300)] + [os.fsdecode(b"\xff.jpg")]
    shards = [Shard.parse(f"{number}/4") for number in range(1, 5)]
    owners = [[shard.number for shard in shards if shard.holds(name)] for name in names]
    assert all(len(each) == 1 for each in owners)
    assert all(50 < owners.count([shard.number]) < 100 for shard in shards)
    assert [shard.holds("portrait.jpg") for shard in shards] == [True, False, False, False]  # on every machine
    for text in ("0/4", "5/4", "1", "a/b", "1/0", "-1/2", "1/2/3", ""):
        with pytest.raises(UsageError, match="--shard"):
            Shard.parse(text)


def test_manifests_of_shards_become_one(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    storage.append("results-1-of-2.jsonl", [record("c", finished=9.0, status="ok").to_line()])
    storage.append("results-2-of-2.jsonl", [record("a").to_line()])
    storage.append(MANIFEST, [record("c", finished=8.0).to_line(), record("b").to_line()])
    (tmp_path / "others.jsonl").write_text("not ours\n")
    names = manifests(storage)
    assert names == ["results-1-of-2.jsonl", "results-2-of-2.jsonl", MANIFEST]
    with read_manifests(storage) as snapshot:
        compact(storage, snapshot, names, MANIFEST)
    assert manifests(storage) == [MANIFEST]
    assert list(stored(tmp_path)) == ["a", "b", "c"]
    assert stored(tmp_path)["c"].status == "ok"


# --- locks ------------------------------------------------------------------------------------------------------


@contextmanager
def held_elsewhere(folder: Path, manifest: str) -> Iterator[subprocess.Popen[str]]:
    """Another process has the lock, until it is killed."""
    code = (
        "import sys, time\n"
        "from fit3d.batch.local_storage import LocalStorage\n"
        "from fit3d.batch.manifest import locked\n"
        "with locked(LocalStorage(sys.argv[1]), sys.argv[2]):\n    print('locked', flush=True)\n    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(folder), manifest]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def test_the_second_is_refused(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path / "out"))
    with held_elsewhere(tmp_path / "out", MANIFEST) as holder:
        for manifest in (MANIFEST, "results-1-of-2.jsonl"):
            with pytest.raises(LockedError, match=f"process {holder.pid} on "), locked(storage, manifest):
                pass
        holder.kill()
        holder.wait()
        with locked(storage, MANIFEST):  # gone with its process
            pass


def test_shards_work_side_by_side(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    with held_elsewhere(tmp_path, "results-1-of-2.jsonl"):
        with locked(storage, "results-2-of-2.jsonl"):
            pass
        for manifest in (MANIFEST, "results-1-of-2.jsonl", "results-1-of-3.jsonl", "results-3-of-3.jsonl"):
            with pytest.raises(LockedError), locked(storage, manifest):
                pass


def test_leftovers_of_killed_processes(tmp_path: Path) -> None:
    storage, stamp, part = LocalStorage(str(tmp_path)), "0123456789abcdef", ".fit3d-fedcba9876543210.part"
    # what users and other programs call their own, results of other names and files of their names
    kept = [".a-12345678", ".backup-20240131", ".fit3d", "a", f".fit3d-{stamp}-b.stage", f".fit3d-{stamp}.stage"]
    for name in (*kept, f".fit3d-{stamp}-a.stage", f".fit3d-{stamp}-a-face12.stage", f".fit3d-{stamp}-c-face1.stage"):
        (tmp_path / "in" / name).mkdir(parents=True)
    (tmp_path / "in" / part).touch()
    (tmp_path / "in" / f"x{part}").touch()
    (tmp_path / "link").symlink_to("in")
    for folder in ("link", "link/..", "nowhere"):
        storage.remove_leftovers(folder, ["a", "c-face1"], parts=True)
    storage.remove_leftovers("in")
    assert len(list((tmp_path / "in").iterdir())) == len(kept) + 5
    storage.remove_leftovers("in", ["a", "c-face1"])
    assert {path.name for path in (tmp_path / "in").iterdir()} == {*kept, part, f"x{part}"}
    storage.remove_leftovers("in", parts=True)
    assert {path.name for path in (tmp_path / "in").iterdir()} == {*kept, f"x{part}"}


@pytest.mark.parametrize("name", ["a", "a-face3", "\u00e4" * 92, "a" * 200, "face.of.a"])
def test_what_is_staged_is_known_as_a_leftover(tmp_path: Path, name: str) -> None:
    storage = LocalStorage(str(tmp_path))
    with staged(tmp_path / name) as stage:
        storage.remove_leftovers("", ["b", f"{name}-face1", name[1:] + "."], parts=True)
        with atomic_write(tmp_path / "x") as file:
            (part,) = (path for path in tmp_path.iterdir() if path.is_file())
            storage.remove_leftovers("", [name])
            assert part.exists() and not stage.exists()
            stage.mkdir()
            storage.remove_leftovers("", parts=True)
            assert stage.exists() and not part.exists()
            part.touch()
            file.write(b"y")
    assert (tmp_path / name).is_dir()
