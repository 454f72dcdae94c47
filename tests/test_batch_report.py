"""The page and the table of a batch, and the page in a real browser (skipped where Chromium is missing)."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pytest
from PIL import Image

import fit3d.batch.report
from fit3d import __version__
from fit3d.batch.local_storage import LocalStorage
from fit3d.batch.record import STATUSES, FaceRecord, Record, Status
from fit3d.batch.report import BINS, UNITS, WORST_FIRST, write_report
from fit3d.batch.table import PARTS, STAGES, write_table
from fit3d.batch.thumbnail import thumbnail_name
from fit3d.labels import PART_NAMES, PRDL_PARTS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 60_000

HOSTILE = [
    "</script><img src=x onerror=alert(1)>.jpg",
    "<!--<script>.jpg",
    "a\"b'c&amp;{{ 7 * 7 }}.jpg",
    "line\nfeed\r\ttab.jpg",
    "emoji 😀 \u2028.jpg",
    "latin \udce4 bytes.jpg",
    "rtl \u202egnp.exe.jpg",
    "50% of #1?x=1&y=2;3.jpg",
    " space before and after .jpg",
    "javascript:alert(1).jpg",
    "back\\slash.jpg",
    "folder #2/%41/same.jpg",
]
"""Names that a disk may hold."""


def record(number: int, status: Status = "ok", **changes: Any) -> Record:
    """A photo with figures that follow from its number."""
    generator = random.Random(number)
    fitted = status in ("ok", "poor")
    seen = {PART_NAMES[part]: generator.uniform(0.5, 1.0) for part in PRDL_PARTS}
    photo = changes.get("photo", f"day {number % 3}/photo{number}.jpg")
    values: dict[str, Any] = {
        "photo": photo,
        "sha256": hashlib.sha256(photo.encode("utf-8", "surrogateescape")).hexdigest(),
        "size": 1000 + number,
        "version": str(number),
        "status": status,
        "message": "" if status == "ok" else f"message {number}",
        "part_iou": seen | {"mean": generator.uniform(0.3, 1.0)} if fitted else None,
        "landmark_nme": generator.lognormvariate(-4.5, 0.5) if fitted else None,
        "seconds": generator.uniform(0.2, 2.0),
        "timings_s": {"load": 0.1, "fit": generator.uniform(0.1, 0.5)} if fitted else {"load": 0.1},
        "folder": str(Path(photo).with_suffix("")) if fitted else None,
        "faces": (),
        "options": "abc",
    }
    return Record(**values | changes)


def mixed(count: int) -> list[Record]:
    generator = random.Random(count)
    weights = {"ok": 80, "poor": 8, "no_face": 6, "unreadable": 3, "failed": 3}
    return [record(k, generator.choices(STATUSES, [weights[s] for s in STATUSES])[0]) for k in range(count)]


class Scripts(HTMLParser):
    """Content of the page's scripts and styles, and all its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[tuple[str, dict[str, str | None], str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: tuple[str, dict[str, str | None]] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs)) if tag in ("script", "style") else None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.texts.append((*self._open, data))
            self._open = None


def written(folder: Path, records: list[Record]) -> tuple[str, dict[str, Any]]:
    """The page and the data in it."""
    write_report(LocalStorage(str(folder)), iter(records))
    page = (folder / "index.html").read_text(encoding="utf-8")
    (data,) = (text for _, attributes, text in Scripts(page).texts if attributes.get("id") == "data")
    return page, json.loads(data)


def whole(value: float | None, unit: int) -> int | None:
    return None if value is None or not math.isfinite(value) else round(value * unit)


def test_the_page_holds_every_record(tmp_path: Path) -> None:
    records = [*mixed(60), *(record(100 + k, photo=name) for k, name in enumerate(HOSTILE))]
    records[3] = replace(records[3], status="ok", part_iou={"nose": 0.25, "mean": math.nan}, landmark_nme=math.nan)
    faces = tuple(FaceRecord(k, "poor", HOSTILE[0], {"mean": 0.5}, 0.01, f"day 1/photo4-face{k}") for k in (1, 2))
    records[4] = record(4, "poor", folder="day 1/photo4-face1", faces=faces)
    _, data = written(tmp_path, records)
    columns = data["columns"]
    assert len(columns["photo"]) == len(records) and set(columns["photo"]) == {each.photo for each in records}
    for each in records:
        row = columns["photo"].index(each.photo)
        assert data["statuses"][columns["status"][row]] == each.status
        assert columns["message"][row] == each.message
        assert columns["part_iou"][row] == whole((each.part_iou or {}).get("mean"), UNITS["part_iou"])
        assert columns["landmark_nme"][row] == whole(each.landmark_nme, UNITS["landmark_nme"])
        assert columns["seconds"][row] == whole(each.seconds, UNITS["seconds"])
        for part, column in zip(PRDL_PARTS, data["part_columns"], strict=True):
            assert column[row] == whole((each.part_iou or {}).get(PART_NAMES[part]), UNITS["part_iou"])
        folder = columns["folder"][row]
        assert (re.sub(r"\.[^./]+$", "", each.photo) if folder == 0 else folder) == each.folder
        picture = columns["picture"][row]
        assert (f"thumbnails/{each.folder}.jpg" if picture == 0 else picture) == thumbnail_name(each)
    row = columns["photo"].index(records[4].photo)
    assert list(data["faces"]) == [str(row)]
    assert [face["folder"] for face in data["faces"][str(row)]] == [face.folder for face in faces]
    assert {face["message"] for face in data["faces"][str(row)]} == {HOSTILE[0]}


def test_photos_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["b2/a.jpg", "B10/a.jpg", "a.jpg", "IMG_9.jpg", "img_10.jpg", "\udcff.jpg", "9.jpg", "10.jpg", "٣.jpg"]
    _, data = written(tmp_path, [record(k, photo=name) for k, name in enumerate(names)])
    found = data["columns"]["photo"]
    assert found[:7] == ["9.jpg", "10.jpg", "a.jpg", "b2/a.jpg", "B10/a.jpg", "IMG_9.jpg", "img_10.jpg"]


def test_figures_are_those_of_the_records(tmp_path: Path) -> None:
    records = mixed(300)
    page, data = written(tmp_path, records)
    overlaps = np.array([each.part_iou["mean"] for each in records if each.part_iou])
    errors = np.array([each.landmark_nme for each in records if each.landmark_nme is not None])
    shown = [float(value) for value in re.findall(r"<dd>([0-9.]+)<small> %", page)]
    wanted = [np.median(overlaps), overlaps.mean(), np.quantile(overlaps, 0.1)]
    wanted += [np.median(errors), errors.mean(), np.quantile(errors, 0.9)]
    np.testing.assert_allclose(shown, 100.0 * np.array(wanted), atol=0.06)
    np.testing.assert_allclose(shown[3:], 100.0 * np.array(wanted[3:]), atol=0.006)
    for status in STATUSES:
        count = sum(each.status == status for each in records)
        assert re.search(rf'data-status="{status}".*?<b>{count}</b>', page)
    for part in PRDL_PARTS:
        mean = np.mean([each.part_iou[PART_NAMES[part]] for each in records if each.part_iou])
        found = re.search(rf"<li><span>{PART_NAMES[part].replace('_', ' ')}</span>.*?<b>([0-9.]+)<small> %", page)
        assert found is not None and float(found[1]) == pytest.approx(100.0 * mean, abs=0.051)
    each = re.search(r"each photo</dt><dd>([0-9.]+)<small> s", page)
    assert each is not None and float(each[1]) == pytest.approx(np.mean([r.seconds for r in records]), abs=0.0051)
    assert "photos a second</dt><dd>–" in page  # it is not known when they were done
    for key, values in (("part_iou", overlaps), ("landmark_nme", errors)):
        histogram = data["histograms"][key]
        width = histogram["width"] / UNITS[key]
        edges = [*(width * np.arange(BINS)), np.inf]
        assert sum(histogram["counts"]) == len(values)
        # values are rounded before they are counted: one that lies on a border may change its bin
        assert np.abs(np.array(histogram["counts"]) - np.histogram(values, edges)[0]).sum() <= 2
    assert data["histograms"]["part_iou"]["width"] * BINS == UNITS["part_iou"]
    assert 0.005 * len(errors) <= (errors > BINS * data["histograms"]["landmark_nme"]["width"] / 1e5).sum() + 3
    beyond = (errors > BINS * data["histograms"]["landmark_nme"]["width"] / UNITS["landmark_nme"]).mean()
    assert beyond <= 0.011


def test_pauses_are_no_time_at_work(tmp_path: Path) -> None:
    spans = [(0.0, 10.0), (2.0, 4.0), (8.0, 13.0), (5000.0, 5007.0), (5002.0, 5007.0)]  # two calls, two workers
    records = [record(k, seconds=stop - start, finished=1e9 + stop) for k, (start, stop) in enumerate(spans)]
    page, _ = written(tmp_path, records)
    assert re.search(r"photos a second</dt><dd>0.25</dd>", page)
    assert re.search(r"in all, no pauses</dt><dd>20.0<small> s", page)


def test_nothing_but_its_own_script_may_run_and_nothing_remote_be_loaded(tmp_path: Path) -> None:
    page, _ = written(tmp_path, [record(k, photo=name, message=name) for k, name in enumerate(HOSTILE)])
    parsed = Scripts(page)
    (policy,) = (a["content"] for tag, a in parsed.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    directives = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    assert directives["default-src"] == "'none'" and directives["img-src"] == "'self' file:"
    for tag, key in (("script", "script-src"), ("style", "style-src")):
        (text,) = (text for name, a, text in parsed.texts if name == tag and a.get("id") != "data")
        digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
        assert directives[key] == f"'sha256-{digest}'"
    assert sum(tag == "script" for tag, _ in parsed.tags) == 2
    assert not any("src" in a or "style" in a or any(name.startswith("on") for name in a) for _, a in parsed.tags)
    assert all(not urlsplit(a["href"] or "").netloc for _, a in parsed.tags if "href" in a)


def test_an_empty_batch_and_one_without_any_fit_have_a_page(tmp_path: Path) -> None:
    page, data = written(tmp_path, [])
    assert data["columns"]["photo"] == [] and "0 photos" in page
    page, data = written(tmp_path, [record(1, "no_face", seconds=0.0)])
    assert data["columns"]["photo"] == ["day 1/photo1.jpg"] and "no photo was fitted" in page
    written(tmp_path, [record(1)])


def test_of_too_many_photos_the_worst_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit3d.batch.report, "LARGEST", 40)
    records = mixed(300)
    page, data = written(tmp_path, records)

    def badness(each: Record) -> tuple[int, float]:
        return WORST_FIRST.index(each.status), round((each.part_iou or {}).get("mean", -1.0), 4)

    worst = sorted(records, key=badness)[:40]
    assert set(data["columns"]["photo"]) == {each.photo for each in worst}
    assert "The 40 photos that look worst are listed" in page and "of all 300" in page
    assert sum(data["histograms"]["part_iou"]["counts"]) == sum(each.part_iou is not None for each in records)


def test_links_are_to_the_files_that_there_are(tmp_path: Path) -> None:
    for name, endings in (("a", (".obj", ".json")), ("b", (".glb", "_overlay.jpg", ".json"))):
        (tmp_path / name).mkdir()
        for ending in endings:
            (tmp_path / name / f"{name}{ending}").touch()
    records = [record(1, photo="a.jpg", options="x"), record(2, photo="b.jpg", options="y")]
    _, data = written(tmp_path, records)
    files = dict(zip(data["columns"]["photo"], (data["files"][k] for k in data["columns"]["options"]), strict=True))
    assert files["a.jpg"] == {"obj": ".obj", "json": ".json"}
    assert files["b.jpg"] == {"glb": ".glb", "overlay": "_overlay.jpg", "json": ".json"}


def test_the_table_holds_every_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow", exc_type=ImportError)
    from pyarrow import parquet, types

    monkeypatch.setattr("fit3d.batch.table.ROWS", 25)  # several groups
    records = [*mixed(60), record(61, photo="latin \udce4.jpg", part_iou={"nose": 0.5, "mean": math.nan})]
    records += [record(62, "failed", sha256=None, size=None, version=None), record(63, options="other")]
    face = FaceRecord(1, "ok", "", {"mean": 0.5}, 0.01, "a-face1")
    records[0] = replace(records[0], faces=(face, replace(face, face=2, status="failed", folder=None)))
    assert write_table(LocalStorage(str(tmp_path)), iter(records)) is None
    table = parquet.read_table(tmp_path / "results.parquet")
    rows = table.to_pylist()
    assert len(rows) == len(records)
    for each, row in zip(records, rows, strict=True):
        assert row["photo"] == each.photo.replace("\udce4", "?")
        for name in ("sha256", "size", "version", "status", "message", "seconds", "options"):
            assert row[name] == getattr(each, name), name
        assert row["folder"] == (each.folder and each.folder.replace("\udce4", "?"))
        assert row["landmark_nme"] == each.landmark_nme
        for name in PARTS:
            value = (each.part_iou or {}).get(name)
            assert row[f"part_iou_{name}"] == (None if value is None or math.isnan(value) else value)
        for stage in STAGES:
            assert row[f"seconds_{stage}"] == each.timings_s.get(stage)
        assert (row["faces"], row["fitted_faces"]) == (len(each.faces), sum(f.folder is not None for f in each.faces))
    schema = table.schema
    assert types.is_dictionary(schema.field("status").type) and types.is_int64(schema.field("size").type)
    assert types.is_float64(schema.field("part_iou_left_eye").type)
    assert schema.metadata[b"fit3d_version"].decode() == __version__
    assert schema.field("seconds").metadata[b"unit"] == b"second"
    assert all(schema.field(name).metadata[b"description"] for name in schema.names)


def test_without_pyarrow_the_user_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    note = write_table(LocalStorage(str(tmp_path)), iter(mixed(3)))
    assert note is not None and "pip install" in note and "[parquet]" in note and "\n" not in note
    assert not (tmp_path / "results.parquet").exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """A report in the browser, what it complains of and what it asks for."""

    def __init__(self, browser: Any, folder: Path, width: int = 1300, height: int = 800, view: str = "") -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.tab = browser.new_page(viewport={"width": width, "height": height})
        self.tab.set_default_timeout(PATIENCE_MS)
        self.tab.on("console", lambda m: self.complaints.append(m.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.complaints.append(dialog.message) or dialog.dismiss())
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto((folder / "index.html").as_uri() + view)

    def names(self) -> list[str]:
        """Of the photos on the screen, in their order there."""
        return self.tab.evaluate("[...document.querySelectorAll('.item .name')].map(each => each.textContent)")

    def order(self) -> list[str]:
        """Of all photos that pass the filters."""
        return self.tab.evaluate("Array.from(shown, row => rows.photo[row])")

    def count(self, selector: str) -> int:
        return self.tab.evaluate("selector => document.querySelectorAll(selector).length", selector)

    def wait(self, expression: str) -> None:
        """Until it holds. (Playwright's own way needs `eval` in the page, whose policy forbids it.)"""
        end = time.monotonic() + PATIENCE_MS / 1000.0
        while not self.tab.evaluate(expression) and time.monotonic() < end:
            self.tab.wait_for_timeout(50)
        assert self.tab.evaluate(expression), expression

    def close(self) -> None:
        self.tab.close()
        assert self.complaints == []
        assert all(url.startswith("file://") for url in self.requests)


def with_pictures(folder: Path, records: list[Record]) -> list[Record]:
    for each in records:
        name = thumbnail_name(each)
        if name is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 4), (200, 100, 50)).save(path, format="JPEG")
    return records


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    folder = tmp_path_factory.mktemp("report")
    records = with_pictures(folder, mixed(300))
    write_report(LocalStorage(str(folder)), iter(records))
    return folder, records


def test_sorting(browser: Any, report: tuple[Path, list[Record]]) -> None:
    folder, records = report
    page = Opened(browser, folder)
    rank = {status: k for k, status in enumerate(WORST_FIRST)}
    by_number = {each.photo: (int(each.photo[4]), int(re.findall(r"[0-9]+", each.photo)[1])) for each in records}

    def value(each: Record, key: str) -> int | None:
        number = (each.part_iou or {}).get("mean") if key == "part_iou" else getattr(each, key)
        return whole(number, UNITS[key])

    def badness(each: Record) -> tuple[int, int, int]:
        return rank[each.status], value(each, "part_iou") or -1, -(value(each, "landmark_nme") or 0)

    worst = {each.photo: badness(each) for each in records}
    assert [worst[name] for name in page.order()] == sorted(worst.values())
    assert page.names() == page.order()[: len(page.names())] and len(page.names()) >= 5
    page.tab.get_by_role("button", name="name").click()
    assert page.order() == sorted(by_number, key=by_number.__getitem__)
    page.tab.get_by_role("button", name="name").click()
    assert page.order() == sorted(by_number, key=by_number.__getitem__, reverse=True)
    for key, label in (("part_iou", "Part IoU"), ("landmark_nme", "landmark error"), ("seconds", "seconds")):
        values = {each.photo: value(each, key) for each in records}
        known = {name: number for name, number in values.items() if number is not None}
        for reverse in (False, True):
            page.tab.get_by_role("columnheader", name=label).get_by_role("button").click()
            found = page.order()
            assert [known[name] for name in found[: len(known)]] == sorted(known.values(), reverse=reverse)
            assert len(found) == len(records) and not set(found[len(known) :]) & set(known)
            ordered = page.tab.get_by_role("columnheader", name=label).get_attribute("aria-sort")
            assert ordered == ("descending" if reverse else "ascending")
    page.tab.get_by_label("sort by").select_option("status")
    statuses = {each.photo: rank[each.status] for each in records}
    assert [statuses[name] for name in page.order()] == sorted(statuses.values())
    assert page.names() == page.order()[: len(page.names())]
    page.close()


def test_filters_and_the_address_that_keeps_them(browser: Any, report: tuple[Path, list[Record]]) -> None:
    folder, records = report
    page = Opened(browser, folder)
    for status in ("failed", "poor"):
        page.tab.click(f".chip[data-status={status}]")
    assert set(page.order()) == {each.photo for each in records if each.status in ("failed", "poor")}
    page.tab.fill("#text", "MESSAGE 1")
    page.wait("location.hash.includes('text')")
    wanted = {e.photo for e in records if e.status in ("failed", "poor") and "message 1" in e.message}
    assert wanted and set(page.order()) == wanted
    address = page.tab.evaluate("location.hash")
    other = Opened(browser, folder, view=address)
    assert set(other.order()) == wanted and other.tab.input_value("#text") == "MESSAGE 1"
    assert other.tab.get_attribute(".chip[data-status=poor]", "aria-pressed") == "true"
    other.close()
    page.tab.click("#reset")
    assert len(page.order()) == len(records)

    # a bar of the histogram, then several, then none
    counts = page.tab.evaluate("data.histograms.part_iou.counts")
    box = page.tab.locator("#part_iou-histogram").bounding_box()

    def place(k: int) -> dict[str, float]:
        return {"x": box["x"] + (k + 0.5) * box["width"] / BINS, "y": box["y"] + box["height"] / 2}

    page.tab.mouse.click(**place(15))
    values = {each.photo: whole(each.part_iou["mean"], 10_000) for each in records if each.part_iou}
    assert set(page.order()) == {name for name, value in values.items() if 7500 <= (value or 0) < 8000}
    assert len(page.order()) == counts[15] > 0
    page.tab.mouse.click(**place(15))
    assert len(page.order()) == len(records)
    page.tab.mouse.move(**place(12))
    page.tab.mouse.down()
    page.tab.mouse.move(**place(19), steps=4)
    page.tab.mouse.up()
    assert set(page.order()) == {name for name, value in values.items() if (value or 0) >= 6000}
    assert page.tab.input_value("#part_iou-from") == "60" and page.tab.input_value("#part_iou-below") == ""
    page.tab.fill("#part_iou-below", "62.5")
    page.tab.press("#part_iou-below", "Enter")
    assert set(page.order()) == {name for name, value in values.items() if 6000 <= (value or 0) < 6250}
    page.tab.fill("#landmark_nme-from", "99")
    page.tab.press("#landmark_nme-from", "Enter")
    assert page.order() == [] and page.tab.is_visible("#empty")
    page.tab.evaluate("location.hash = '#status=ok,nonsense&part_iou=1-x&sort=nothing'")
    page.wait("state.status.length === 1")
    assert set(page.order()) == {each.photo for each in records if each.status == "ok"}
    page.close()


def test_hostile_names_and_messages_do_nothing(browser: Any, tmp_path: Path) -> None:
    records = [record(k, photo=name, message=name, status="poor") for k, name in enumerate(HOSTILE)]
    try:
        with_pictures(tmp_path, records)
    except OSError:
        pytest.skip("the file system does not take such names")
    for each in records:
        assert each.folder is not None
        os.makedirs(tmp_path / each.folder)
        stem = os.path.basename(each.folder)
        for ending in (".json", ".obj", "_overlay.jpg"):
            shutil.copy(tmp_path / f"thumbnails/{each.folder}.jpg", tmp_path / each.folder / f"{stem}{ending}")
    write_report(LocalStorage(str(tmp_path)), iter(records))
    page = Opened(browser, tmp_path, height=3000)
    page.wait("[...document.images].every(each => each.complete)")
    assert page.count(".item") == len(HOSTILE) and page.count("img") == len(HOSTILE)
    assert page.tab.evaluate("[...document.images].every(each => each.naturalWidth === 8)")
    codes = page.tab.evaluate(
        "[...document.querySelectorAll('.item .name')].map(e => [...e.textContent].map(c => c.codePointAt(0)))"
    )
    texts = {"".join(map(chr, each)) for each in codes}
    assert texts == {re.sub(r"[\x00-\x1f]", lambda c: chr(0x2400 + ord(c[0])), name) for name in HOSTILE}
    # every link leads to the file that it names
    links = page.tab.evaluate("[...document.querySelectorAll('.item a')].map(each => each.href)")
    assert len(links) == 4 * len(HOSTILE)
    for link in links:
        parts = urlsplit(link)
        assert parts.scheme == "file" and not parts.query and not parts.fragment
        assert os.path.exists(unquote_to_bytes(parts.path))
    for k in range(len(HOSTILE)):
        page.tab.locator(".item .picture").nth(k).click()
        page.wait("document.querySelector('#dialog img').complete")
        assert page.tab.evaluate("document.querySelector('#dialog img').naturalWidth") == 8
        page.tab.keyboard.press("Escape")
    assert page.count("script") == 2
    page.close()


def test_ten_thousand_photos_keep_the_document_small(browser: Any, tmp_path: Path) -> None:
    records = mixed(10_000)
    write_report(LocalStorage(str(tmp_path)), iter(records))
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg")
    page = Opened(browser, tmp_path)
    # pictures that are not there would be complained of, which is not what this test is about
    page.complaints.clear()
    page.tab.route("**/thumbnails/**", lambda route: route.fulfill(path=tmp_path / "x.jpg"))
    page.tab.reload()
    page.complaints.clear()
    assert page.tab.inner_text("#shown") == "10,000 photos"
    assert page.count("*") < 1200 and 5 <= page.count(".item") < 30
    order = page.order()
    assert len(order) == 10_000
    page.requests.clear()
    page.tab.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.tab.get_by_text(order[-1], exact=True).wait_for()
    assert page.names()[-1] == order[-1] and page.names() == order[-len(page.names()) :]
    page.tab.wait_for_timeout(300)
    assert 1 <= len([url for url in page.requests if "/thumbnails/" in url]) < 30
    assert page.count("*") < 1200
    page.tab.click("#grid")
    assert page.count(".item") < 100 and page.count("*") < 2500
    page.tab.fill("#text", "photo9999.jpg")
    page.wait("shown.length === 1")
    assert page.names() == ["day 0/photo9999.jpg"]
    page.close()


def test_keyboard(browser: Any, report: tuple[Path, list[Record]]) -> None:
    folder, _ = report
    page = Opened(browser, folder, view="#sort=photo&status=ok")
    order = page.order()

    def focused() -> str:
        return page.tab.evaluate("document.activeElement.getAttribute('aria-label')")

    page.tab.locator(".picture").first.focus()
    for k in range(1, 40):
        page.tab.keyboard.press("ArrowDown")
        assert focused() == f"Look at {order[k]}"
    page.tab.keyboard.press("ArrowUp")
    page.tab.keyboard.press("Enter")
    title = page.tab.locator("#dialog-name")
    assert title.inner_text() == order[38]
    page.tab.keyboard.press("ArrowRight")
    page.tab.keyboard.press("ArrowRight")
    assert title.inner_text() == order[40]
    page.tab.keyboard.press("Escape")
    assert page.tab.evaluate("document.getElementById('dialog').open") is False
    assert focused() == f"Look at {order[40]}"
    # a focused row stays where it is when it is scrolled out of sight
    page.tab.evaluate("scrollTo(0, 0)")
    page.tab.wait_for_timeout(100)
    assert focused() == f"Look at {order[40]}"
    page.close()


@pytest.mark.parametrize("width", [390, 700, 1300])
@pytest.mark.parametrize("view", ["", "#view=grid"])
def test_nothing_is_wider_than_the_window(
    browser: Any, report: tuple[Path, list[Record]], width: int, view: str
) -> None:
    page = Opened(browser, report[0], width=width, view=view)
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
    items = page.tab.evaluate(
        "[...document.querySelectorAll('.item')].map(each => each.getBoundingClientRect())"
        ".map(box => [box.left, box.top, box.right, box.bottom])"
    )
    boxes = np.array(items)
    assert (boxes[:, 0] >= 0).all() and (boxes[:, 2] <= width).all()
    overlap = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    np.fill_diagonal(overlap[..., 0], 0)
    assert ((overlap > 1.0).all(-1).sum()) == 0
    page.close()
