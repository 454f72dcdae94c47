"""Which files of a folder or list are photos, and where their results go."""

from __future__ import annotations

import io
import os
import unicodedata
from collections import defaultdict
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from fit3d.batch.listing import Selection, list_folder, list_paths, read_list
from fit3d.batch.local_storage import LocalStorage
from fit3d.batch.places import OWN_NAMES, places
from fit3d.errors import UsageError
from fit3d.export.files import output_folder


def make(folder: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def listed(folder: Path, out: str = "elsewhere", **selection: object) -> list[str]:
    return [entry.name for entry in list_folder(str(folder), Selection(**selection), out).entries]  # type: ignore[arg-type]


def png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (2, 2)).save(content, "PNG")
    return content.getvalue()


def test_what_counts_as_a_photo(tmp_path: Path) -> None:
    make(tmp_path, "b.JPG", "a/z.png", "a.png", "a/b/c.heic", ".hidden.jpg", ".git/x.jpg", "a/n\new.jpg", "ä 😀.webp")
    make(tmp_path, "notes.txt", "x.CR2", "y.cr2", "v.mp4", "Thumbs.db", "README", "picture.jpg.txt")
    make(tmp_path, "noending", content=png())
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "linked.jpg").symlink_to(tmp_path / "a.png")
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    listing = list_folder(str(tmp_path), Selection(), "elsewhere")
    names = ["a.png", "a/b/c.heic", "a/n\new.jpg", "a/z.png", "b.JPG", "linked.jpg", "noending", "ä 😀.webp"]
    assert [entry.name for entry in listing.entries] == names
    assert listing.notes == (
        "7 files with other endings left out: 2 .cr2, 2 .txt, 1 without ending, 1 .db, 1 .mp4",
        "1 linked folder left out (--follow-links)",
    )
    assert listing.entries[0].size == 1
    assert listing.entries[0].version == str((tmp_path / "a.png").stat().st_mtime_ns)


def test_selections(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "b.dat", "in/c.jpg", "in/thumbs/d.jpg", "thumbs/e.jpg")
    assert listed(tmp_path, recursive=False) == ["a.jpg"]
    assert listed(tmp_path, exclude=("thumbs",)) == ["a.jpg", "in/c.jpg"]
    assert listed(tmp_path, exclude=("in/thumbs/*", "a.*")) == ["in/c.jpg", "thumbs/e.jpg"]
    assert listed(tmp_path, include=("*.dat", "in")) == ["b.dat", "in/c.jpg", "in/thumbs/d.jpg"]
    assert listed(tmp_path, include=("*.jpg",), exclude=("in/",)) == ["a.jpg", "thumbs/e.jpg"]
    with pytest.raises(UsageError, match=r"no photos in this folder; 1 file with other endings left out: 1 \.dat"):
        listed(tmp_path, exclude=("*.jpg",))


def test_links_in_circles(tmp_path: Path) -> None:
    make(tmp_path, "photos/a.jpg", "photos/in/b.jpg", "other/c.jpg")
    (tmp_path / "photos/in/up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/out").symlink_to(tmp_path / "other")
    (tmp_path / "photos/self.jpg").symlink_to("self.jpg")
    assert listed(tmp_path / "photos") == ["a.jpg", "in/b.jpg"]
    assert listed(tmp_path / "photos", follow_links=True) == ["a.jpg", "in/b.jpg", "out/c.jpg"]


def test_results_are_no_photos(tmp_path: Path) -> None:
    make(
        tmp_path,
        "a.jpg",
        "out/a/a_texture.png",
        "old/results.jsonl",
        "old/batch.json",
        "old/b/b_overlay.jpg",
        "old.jpg",
    )
    assert listed(tmp_path, out=str(tmp_path / "out")) == ["a.jpg", "old.jpg"]
    with pytest.raises(UsageError, match="the folder of the photos"):
        listed(tmp_path, out=f"{tmp_path}/.")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_folder_that_may_not_be_read(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    listing = list_folder(str(tmp_path), Selection(), "out")
    (tmp_path / "closed").chmod(0o700)
    assert [entry.name for entry in listing.entries] == ["a.jpg"]
    assert listing.notes == ("the folder closed cannot be read and is left out",)


def test_no_folder(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    for folder, told in ((tmp_path / "none", "no such photo or folder"), (tmp_path / "a.jpg", "`fit3d fit`")):
        with pytest.raises(UsageError, match=told):
            listed(folder)


def test_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "photos/a/x.jpg", "photos/b/any.thing", "photos/b/line\nfeed.jpg")
    monkeypatch.chdir(tmp_path)
    lines = tmp_path / "list.txt"
    lines.write_bytes(
        b"photos/a/x.jpg\r\n\nphotos/b/any.thing\nphotos/b/../b/any.thing\nphotos/missing.jpg\n./photos/b/-x"
    )
    listing = list_paths(read_list(f"@{lines}"), None)
    assert listing.root == str(tmp_path / "photos")
    sizes = {entry.name: entry.size for entry in listing.entries}
    assert sizes == {"a/x.jpg": 1, "b/-x": None, "b/any.thing": 1, "missing.jpg": None}
    assert list(sizes) == sorted(sizes)
    lines.write_bytes(b"photos/b/line\nfeed.jpg\0photos/a/x.jpg\0" + b"photos/\xff.jpg\0")
    names = [entry.name for entry in list_paths(read_list(f"@{lines}"), ".").entries]
    assert names == ["photos/a/x.jpg", "photos/b/line\nfeed.jpg", os.fsdecode(b"photos/\xff.jpg")]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"photos/a/x.jpg")))
    assert read_list("-") == ["photos/a/x.jpg"]
    with pytest.raises(UsageError, match="cannot read the list"):
        read_list("@none")
    with pytest.raises(UsageError, match="names no photos"):
        list_paths([], None)


def test_lists_stay_within_their_root(tmp_path: Path) -> None:
    make(tmp_path, "photos/a.jpg", "b.jpg", "photos2/c.jpg")
    (tmp_path / "photos/link").symlink_to(tmp_path / "photos2")
    for path in ("b.jpg", "photos2/c.jpg", "photos/../b.jpg", "photos/link/../b.jpg"):
        with pytest.raises(UsageError, match="lies outside --root"):
            list_paths([str(tmp_path / path)], str(tmp_path / "photos"))
    # results keep the names that they had, whatever is left of the list
    photos = [str(tmp_path / "photos/a.jpg")]
    assert list_paths(photos, None, str(tmp_path)).root == str(tmp_path)
    with pytest.raises(UsageError, match=r"outside .*photos2"):
        list_paths(photos, None, str(tmp_path / "photos2"))


# --- where results go -------------------------------------------------------------------------------------------


def placed(*names: str, earlier: dict[str, str] | None = None, every_face: bool = False) -> dict[str, str]:
    names = tuple(sorted(names))
    return dict(zip(names, places(names, (earlier or {}).items(), every_face), strict=True))


def test_folders_are_mirrored() -> None:
    assert placed("a/b/c.jpg", "a/d.png", "e") == {"a/b/c.jpg": "a/b/c", "a/d.png": "a/d", "e": "e"}


def test_a_name_is_in_use_once() -> None:
    assert placed("c.jpg", "c.png", "C.gif", "c/x.jpg", "c-2.jpg") == {
        "C.gif": "C-2",
        "c-2.jpg": "c-2-2",
        "c.jpg": "c-3",
        "c.png": "c-4",
        "c/x.jpg": "c/x",
    }
    own = placed(*(f"{name}.jpg" for name in OWN_NAMES), "results-1-of-4.jsonl.png", "thumbnails/x.jpg")
    assert own["index.html.jpg"] == "index.html-2"
    assert own["results-1-of-4.jsonl.png"] == "_results-1-of-4.jsonl"
    assert own["thumbnails/x.jpg"] == "thumbnails-2/x"
    assert placed("c.jpg", "c-face1/x.jpg", every_face=True) == {"c.jpg": "c", "c-face1/x.jpg": "c-face1_/x"}


def test_names_that_differ_only_in_their_encoding_are_in_use_once() -> None:
    """One 'é' is a character, the other a letter and an accent: one folder to macOS, two to Linux."""
    one, two = "\u00e9", "e\u0301"
    assert placed(f"{one}.jpg") == {f"{one}.jpg": one} and placed(f"{two}.jpg") == {f"{two}.jpg": two}
    assert placed(f"{one}.jpg", f"{two}.jpg", "\u00c9.png", f"{one}/x.jpg", f"{two}/x.jpg", f"in/{two}.jpg") == {
        f"{two}/x.jpg": f"{two}/x",
        f"{one}/x.jpg": f"{one}-2/x",
        f"{two}.jpg": f"{two}-3",
        "\u00c9.png": "\u00c9-4",
        f"{one}.jpg": f"{one}-5",
        f"in/{two}.jpg": f"in/{two}",
    }
    # the Angstrom sign is an A with a ring; what there was keeps its name
    assert placed("\u00e5.jpg", "\u212b.jpg", earlier={"\u212b.jpg": "\u212b"})["\u00e5.jpg"] == "\u00e5-2"


def test_a_photo_keeps_its_name() -> None:
    first = placed("b.png", "d/x.png")
    assert placed("a.jpg", "b.gif", "b.png", "b/y.jpg", "d.jpg", "d/x.gif", "d/x.png", earlier=first) == {
        "a.jpg": "a",
        "b.gif": "b-3",
        "b.png": "b",
        "b/y.jpg": "b-2/y",
        "d.jpg": "d-2",
        "d/x.gif": "d/x-2",
        "d/x.png": "d/x",
    }
    # of a photo that vanished, the results are still there
    assert placed("b.jpg", earlier=first) == {"b.jpg": "b-2"}


NAME = st.text("aA.-1_eéÉ\u0301\\:\n\x7f ", min_size=1, max_size=6).filter(lambda name: name.strip(".") == name)
PATH = st.lists(NAME, min_size=1, max_size=3).map("/".join)


def as_a_disk_sees(name: str) -> str:
    """That of macOS."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).lower())


@example({"\u00e9", "e\u0301", "\u00e9e/a", "e\u0301e/a"}, {"\u00c9"}, False)
@given(st.sets(PATH, max_size=12), st.sets(PATH, max_size=6), st.booleans())
@settings(max_examples=150, deadline=None)
def test_results_never_collide(now: set[str], before: set[str], every_face: bool) -> None:
    """Neither with each other, nor with folders of results, nor with what OUT itself holds; now and later."""
    files = {name for name in now | before if not any(f"{name}/" == other[: len(name) + 1] for other in now | before)}
    earlier = placed(*(before & files), every_face=every_face)
    later = earlier | placed(*(now & files), earlier=earlier, every_face=every_face)
    assert {name: later[name] for name in earlier} == earlier
    endings = ["-face1", "-face2"] if every_face else [""]
    results = [as_a_disk_sees(place + ending) for place in later.values() for ending in endings]
    assert len(set(results)) == len(results)
    parents = {
        as_a_disk_sees(str(each)) for place in later.values() for each in list(PurePosixPath(place).parents)[:-1]
    }
    assert not parents & set(results)
    assert not {place.split("/")[0] for place in results} & set(OWN_NAMES)
    assert all(".." not in place.split("/") and not place.startswith(("/", ".")) for place in results)
    for name, place in later.items():
        assert len(PurePosixPath(name).parts) == len(place.split("/"))


def test_entries_are_told_of_one_by_one(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    storage = LocalStorage(str(tmp_path))
    assert storage.entry("a.jpg") == next(iter(storage.entries()))
    assert storage.entry("none.jpg") is None
    assert storage.entry("a.jpg/b") is None
    assert storage.entry("\0") is None


def test_numbers_of_one_stem_are_not_counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 photos of one stem and some of its numbers: each name is looked for about once."""
    looked = 0

    class Counting(set[str]):
        def __contains__(self, name: object) -> bool:
            nonlocal looked
            looked += 1
            return super().__contains__(name)

    used, last = Counting({"a-7"}), dict[str, int]()
    names = [output_folder("", "a", used, last).name for _ in range(10_000)]
    assert names == ["a", *(f"a-{number}" for number in range(2, 10_002) if number != 7)]
    assert looked < 20_100
    monkeypatch.setattr("fit3d.batch.places.defaultdict", lambda made: defaultdict(Counting if made is set else made))
    looked = 0
    photos = [f"in/a.{number:05}" for number in range(10_000)]
    assert len(set(places(photos, [], False))) == 10_000
    assert looked < 20_100
