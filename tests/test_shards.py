"""Tar shards of a data set: their content, their bytes, and what is made again."""

from __future__ import annotations

import hashlib
import io
import json
import math
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fit3d.batch.local_storage import LocalStorage
from fit3d.batch.storage import Storage
from fit3d.errors import UsageError
from fit3d.synthesise.record import EditRecord, EditsRecord, sample_files
from fit3d.synthesise.shards import INDEX, Sample, samples_of, write_shards


def edit(index: int, image: str | None = None, recipe: str = "nose") -> EditRecord:
    return EditRecord(
        index=index,
        recipe=recipe,
        group="",
        seed=5,
        status="rejected" if image is None else "confirmed",
        reasons=("nose overlaps by 3 %",) if image is None else (),
        landmark_nme=0.01,
        part_iou={"mean": 0.5, "nose": math.nan},
        image=image,
        sha256=None if image is None else hashlib.sha256(image.encode()).hexdigest(),
    )


def record(photo: str, sha256: str, *edits: EditRecord) -> EditsRecord:
    return EditsRecord(
        photo=photo,
        sha256=sha256,
        size=1,
        version="1",
        status="ok",
        message="",
        part_iou=None,
        landmark_nme=None,
        seconds=0.0,
        timings_s={},
        folder=photo,
        faces=(),
        options="",
        edits=edits,
    )


@pytest.fixture
def out(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path))


def write_files(out: Storage, image: str, size: int = 300) -> None:
    for name in sample_files(image):
        out.write(name, (name.encode() * size)[:size])


def make(out: Storage, count: int, size: int = 300) -> list[Sample]:
    """Samples of `count` photos, with files of `size` bytes each."""
    records = []
    for number in range(count):
        image = f"in.to/p{number}/p{number}_000_nose.jpg"
        write_files(out, image, size)
        records.append(record(f"p{number}", hashlib.sha256(str(number).encode()).hexdigest(), edit(0, image), edit(1)))
    return samples_of(records)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


def test_a_line_is_read_as_it_was_written() -> None:
    written = record("a.jpg", "0" * 64, edit(0, "a/a_000_nose.jpg"), edit(1))
    read = EditsRecord.from_line(written.to_line())
    assert repr(read) == repr(written)  # a NaN is equal to no other
    assert [edit.index for edit in read.confirmed] == [0] and list(read.result_files()) == ["a/a_000_nose.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"image": "../x.jpg"},
        {"image": "/x.jpg"},
        {"image": 3},
        {"status": "fine"},
        {"index": -1},
        {"seed": "a"},
        {"reasons": [1]},
        {"part_iou": [1]},
        {"sha256": 1},
    ],
)
def test_a_damaged_edit_is_no_record(change: dict[str, object]) -> None:
    content = json.loads(record("a.jpg", "0" * 64, edit(0, "a/a_000_nose.jpg")).to_line())
    content["edits"][0].update(change)
    with pytest.raises(ValueError, match=r"edit|photo's line"):
        EditsRecord.from_line(json.dumps(content).encode())


def test_each_sample_is_three_files_of_one_key(out: LocalStorage, tmp_path: Path) -> None:
    samples = make(out, 5)
    assert len(samples) == 5  # rejected ones are not among them
    done = write_shards(out, samples, most_samples=2)
    assert (done.count, done.samples, done.made) == (3, 5, 3)
    found, sizes = [], []
    for number in range(3):
        with tarfile.open(tmp_path / f"shards/fit3d-{number:06d}.tar") as tar:
            members = tar.getmembers()
            sizes.append(len(members) // 3)
            for member in members:
                assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
                file = tar.extractfile(member)
                assert file is not None
                found.append((member.name, file.read()))
    assert sizes == [2, 2, 1]
    expected = [
        (f"{sample.key}.{suffix}", out.read(name))
        for sample in samples
        for suffix, name in zip(("jpg", "parts.png", "json"), sample_files(sample.image), strict=True)
    ]
    assert found == expected
    assert all("." not in sample.key for sample in samples)


def test_the_index_tells_what_is_where(out: LocalStorage, tmp_path: Path) -> None:
    samples = make(out, 3)
    write_shards(out, samples, most_samples=2)
    lines = [json.loads(line) for line in (tmp_path / INDEX).read_text().splitlines()]
    assert [key for line in lines for key in line["keys"]] == [sample.key for sample in samples]
    for line in lines:
        assert (tmp_path / line["file"]).stat().st_size == line["bytes"]


def test_people_are_mixed_and_bytes_do_not_depend_on_the_order(out: LocalStorage) -> None:
    shas = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(8)]
    records = [
        record(f"{number}", sha, *(edit(index, f"{number}/{number}_{index:03d}_nose.jpg") for index in range(4)))
        for number, sha in enumerate(shas)
    ]
    samples = samples_of(records)
    assert samples == samples_of(records[::-1])
    assert len({sample.key[:16] for sample in samples[:8]}) > 4


def test_photos_with_the_same_bytes_are_one(out: LocalStorage) -> None:
    same = [record(name, "1" * 64, edit(0, f"{name}/{name}_000_nose.jpg")) for name in ("a", "b")]
    assert [sample.image for sample in samples_of(same)] == ["a/a_000_nose.jpg"]


def test_no_shard_is_larger_than_asked(out: LocalStorage, tmp_path: Path) -> None:
    samples = make(out, 9, size=3000)
    write_shards(out, samples, most_bytes=40_000)
    sizes = [path.stat().st_size for path in (tmp_path / "shards").glob("*.tar")]
    assert len(sizes) > 1 and max(sizes) <= 40_000
    write_shards(out, samples, most_bytes=10)  # a sample that is larger has a shard of its own
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 9


def test_nothing_is_made_twice(out: LocalStorage, tmp_path: Path) -> None:
    samples = make(out, 6)
    write_shards(out, samples, most_samples=2)
    before = contents(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").glob("*.tar")}
    assert write_shards(out, samples, most_samples=2).made == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times and contents(tmp_path) == before


def test_what_changed_is_made_again_and_nothing_else(out: LocalStorage, tmp_path: Path) -> None:
    samples = make(out, 6)
    write_shards(out, samples, most_samples=2)
    before = contents(tmp_path)
    write_files(out, samples[2].image, size=299)
    changed = [*samples[:2], replace(samples[2], sha256="2" * 64), *samples[3:]]
    assert write_shards(out, changed, most_samples=2).made == 1
    after = contents(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"fit3d-000001.tar", "index.jsonl"}
    (tmp_path / "shards/fit3d-000002.tar").write_bytes(b"cut off")
    assert write_shards(out, changed, most_samples=2).made == 1
    assert contents(tmp_path) == after


def test_fewer_samples_leave_no_old_shards_and_other_files_stay(out: LocalStorage, tmp_path: Path) -> None:
    samples = make(out, 6)
    write_shards(out, samples, most_samples=2)
    (tmp_path / "shards/mine.tar").write_bytes(b"mine")
    with (tmp_path / INDEX).open("a") as file:  # whoever writes there cannot have files removed
        file.write(json.dumps({"file": "shards/mine.tar"}) + "\n" + json.dumps({"file": "../x"}) + "\n")
    write_shards(out, samples[:2], most_samples=2)
    assert sorted(contents(tmp_path)) == ["fit3d-000000.tar", "index.jsonl", "mine.tar"]


def test_a_shard_that_could_not_be_written_is_made_the_next_time(out: LocalStorage, tmp_path: Path) -> None:
    samples = make(out, 4)
    write_shards(out, samples, most_samples=2)
    whole = contents(tmp_path)

    class Full(LocalStorage):
        def write(self, name: str, content: bytes) -> None:
            if name.endswith("000001.tar"):
                raise UsageError("the disk is full")
            super().write(name, content)

    changed = [replace(sample, sha256="3" * 64) for sample in samples]
    with pytest.raises(UsageError, match="full"):
        write_shards(Full(str(tmp_path)), changed, most_samples=2)
    assert b"000001" not in contents(tmp_path)["index.jsonl"]
    write_shards(out, samples, most_samples=2)
    assert contents(tmp_path) == whole


def test_a_missing_file_is_told(out: LocalStorage, tmp_path: Path) -> None:
    samples = make(out, 1)
    (tmp_path / sample_files(samples[0].image)[1]).unlink()
    with pytest.raises(UsageError, match=r"_parts\.png: this file of a confirmed edit is not there"):
        write_shards(out, samples)


def test_webdataset_reads_them(out: LocalStorage, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    image = "p/p_000_nose.png"
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4) % 12
    for name, array in zip(sample_files(image), (pixels, labels), strict=False):
        content = io.BytesIO()
        Image.fromarray(array).save(content, format="PNG")
        out.write(name, content.getvalue())
    out.write(sample_files(image)[2], b'{"seed": 7}')
    write_shards(out, samples_of([record("p", "4" * 64, edit(0, image))]))
    data = wds.WebDataset(str(tmp_path / "shards/fit3d-000000.tar"), shardshuffle=False).decode("rgb8")
    ((read, parts, told),) = list(data.to_tuple("png", "parts.png", "json"))
    assert np.array_equal(read, pixels) and told == {"seed": 7}
    assert np.array_equal(parts, labels[..., None].repeat(3, 2))  # ids, in each of the channels that it makes
