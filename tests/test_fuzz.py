"""Files that others wrote, mutated: each reader returns what keeps its promises, or says in one line what is wrong.

A few cases of each reader by default. The long run, other cases each time:

    FUZZ_CASES=20000 python -m pytest tests/test_fuzz.py -q --durations 0
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import json
import math
import os
import struct
import zlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from fit3d.batch.local_storage import LocalStorage
from fit3d.batch.options import OPTIONS_FILE, BatchOptions, read_options, write_options
from fit3d.batch.record import STATUSES, FaceRecord, Record
from fit3d.errors import Fit3dError
from fit3d.export.observation import labelme_dict, landmarks_dict
from fit3d.export.read_result import FURTHEST_SD, read_fit
from fit3d.landmarks import LANDMARK_COUNTS
from fit3d.morphable.annotation import load_annotation
from fit3d.observe.base import Backend, Landmarks
from fit3d.observe.label_image import read_label_image
from fit3d.observe.landmark_file import pts_text, read_landmark_file
from fit3d.photo import MIN_SIDE_PX, Photo, load_photo
from fit3d.synthesise.recipe_file import read_recipes

CASES = int(os.environ.get("FUZZ_CASES", "0"))
FEW = 60
"""Cases of each reader, unless more are asked for."""
LONGEST = timedelta(seconds=20)
"""Time that a file of a few kilobytes may take, on a busy machine; nearly all take milliseconds."""
PIXEL_LIMIT = 4_000_000
MEMORY_LIMIT_MB = 400
"""By which the process may grow over its size at the start of a test."""

fuzzed = settings(
    max_examples=CASES or FEW,
    derandomize=not CASES,
    database=None,
    deadline=LONGEST,
    suppress_health_check=list(HealthCheck),
)

Bytes = Callable[[bytes], bytes]
WORDS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Numbers at which readers err."""
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 10**400, -(10**30), 0.5, -0.0, 1e308, math.nan, math.inf, -math.inf),
    *("", "x", "\0", "a\nb", "\ud800", "\u202e", "../..", "/etc", "1", "NaN", "x" * 5000),
    *([], {}, [[]], [None], {"": {}}, [1, [2, [3]]], [1e400] * 3, {"x": None}),
)


# ---- mutations


def places(largest: int = 1 << 16) -> st.SearchStrategy[int]:
    return st.integers(0, largest - 1)


BYTE_CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), places(), st.integers(0, 7)),
        st.tuples(st.just("cut"), places(), st.just(0)),
        st.tuples(st.just("insert"), places(), st.binary(max_size=40)),
        st.tuples(st.just("word"), places(), st.sampled_from([struct.pack(f, w) for w in WORDS for f in ("<I", ">I")])),
        st.tuples(
            st.just("short"),
            places(),
            st.sampled_from([struct.pack(f, w & 65535) for w in WORDS for f in ["<H", ">H"]]),
        ),
        st.tuples(st.just("remove"), places(), st.integers(1, 64)),
        st.tuples(st.just("repeat"), places(), st.integers(1, 64)),
        st.tuples(st.just("swap"), places(), places()),
    ),
    min_size=1,
    max_size=6,
)


def changed(content: bytes, changes: list[tuple[str, int, Any]]) -> bytes:
    """Bytes after some accidents; places are shares of the length."""
    data = bytearray(content)
    for kind, place, value in changes:
        at = place * len(data) >> 16
        if kind == "flip" and data:
            data[at] ^= 1 << value
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = value
        elif kind in ("word", "short"):
            data[at : at + len(value)] = value
        elif kind == "remove":
            del data[at : at + value]
        elif kind == "repeat":
            data[at:at] = data[at : at + value] * 3
        elif kind == "swap":
            other, length = value * len(data) >> 16, 32
            one, two = data[at : at + length], data[other : other + length]
            data[at : at + len(two)], data[other : other + len(one)] = two, one
    return bytes(data)


def with_right_sums(png: bytes) -> bytes:
    """A PNG whose chunks have the right check sums, so that what they hold is read at all."""
    data, at = bytearray(png), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


JSON_CHANGES = st.lists(
    st.tuples(
        st.sampled_from(("set", "remove", "repeat", "swap")),
        st.lists(places(), min_size=1, max_size=5),
        st.sampled_from(range(len(ODD_VALUES))),
    ),
    min_size=1,
    max_size=4,
)


def json_changed(content: Any, changes: list[tuple[str, list[int], int]]) -> Any:
    """Plain values after some accidents."""
    content = copy.deepcopy(content)
    for kind, path, odd in changes:
        holder, key = None, None
        node = content
        for step in path:
            keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
            if not keys:
                break
            holder, key = node, keys[step % len(keys)]
            node = node[key]
        if holder is None:
            return copy.deepcopy(ODD_VALUES[odd])
        if kind == "set":
            holder[key] = copy.deepcopy(ODD_VALUES[odd])
        elif kind == "remove":
            del holder[key]
        elif kind == "repeat" and isinstance(holder, list):
            holder.append(copy.deepcopy(node))
        elif kind == "swap":
            other = list(holder)[-1] if isinstance(holder, dict) else len(holder) - 1
            holder[key], holder[other] = holder[other], holder[key]
    return content


DAMAGE = st.one_of(st.tuples(st.just("json"), JSON_CHANGES), st.tuples(st.just("bytes"), BYTE_CHANGES))


def json_damaged(content: Any, damage: tuple[str, Any]) -> bytes:
    kind, changes = damage
    if kind == "bytes":
        return changed(json.dumps(content).encode(), changes)
    return json.dumps(json_changed(content, changes)).encode("utf-8", "surrogatepass")


# ---- what holds of every reader


def read(reader: Callable[[], Any]) -> Any:
    """What a reader returns; None where it refuses, in one printable line."""
    try:
        return reader()
    except Fit3dError as error:
        message = str(error)
        assert message.isprintable() and 10 < len(message) < 1000, message
        return None


def resident_mb(name: str) -> float:
    """'VmRSS' now, or 'VmHWM', the most so far; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


@pytest.fixture(autouse=True)
def memory_is_bounded() -> Any:
    before = max(resident_mb("VmRSS"), resident_mb("VmHWM"))
    yield
    assert resident_mb("VmHWM") < before + MEMORY_LIMIT_MB


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


# ---- photos


@functools.cache
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (9, 10, 3), np.uint8)
    return Image.fromarray(values).resize((44, 40), Image.Resampling.BICUBIC)


def saved(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    # copies, as saving leaves settings of its format behind
    more = [each.copy() for each in options.pop("append_images", ())]
    image.copy().save(file, **options, **({"append_images": more} if more else {}))
    return file.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    exif.get_ifd(0x8769).update({0xA405: 50, 0x920A: 35.0, 0xA002: 44, 0xA003: 40, 0xA20E: 3000.0, 0xA210: 2})
    return exif


@functools.cache
def photo_files() -> dict[str, bytes]:
    """Small photos of every format that Pillow can write, with all that readers look at."""
    image, profile = picture(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 300, zip=True)
    wide = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257)
    grey, alpha, frames = image.convert("L"), image.convert("RGBA"), [image.rotate(90), image.rotate(180)]
    several: dict[str, Any] = {"save_all": True, "append_images": frames}
    files = {
        "jpeg": saved(image, format="JPEG", exif=_exif(), icc_profile=profile),
        "progressive": saved(image, format="JPEG", progressive=True),
        "cmyk": saved(image.convert("CMYK"), format="JPEG"),
        "mpo": saved(image, format="MPO", **several),
        "png": saved(image, format="PNG", exif=_exif(), icc_profile=profile, pnginfo=text),
        "png16": saved(wide, format="PNG"),
        "palette": saved(alpha.quantize(16), format="PNG", transparency=3),
        "apng": saved(alpha, format="PNG", **several),
        "webp": saved(alpha, format="WEBP", exif=_exif(), icc_profile=profile),
        "lossless": saved(alpha, format="WEBP", lossless=True),
        "moving": saved(image, format="WEBP", **several),
        "gif": saved(image, format="GIF", **several),
        "tiff": saved(image, format="TIFF", compression="tiff_lzw", exif=_exif(), icc_profile=profile),
        "pages": saved(image, format="TIFF", **several),
        "float": saved(Image.fromarray(np.asarray(grey, np.float32) / 255), format="TIFF"),
        "lab": saved(
            ImageCms.profileToProfile(
                image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
            )
            or image,
            format="TIFF",
        ),
        "bmp": saved(image, format="BMP"),
        "ppm": saved(image, format="PPM"),
        "pgm": saved(wide, format="PPM"),
        "plain": b"P3\n33 33\n255\n" + b"1 2 3 " * (33 * 33),
        "jpeg2000": saved(image, format="JPEG2000"),
    }
    if "AVIF" in Image.SAVE:
        files["avif"] = saved(image, format="AVIF", exif=_exif())
    return files


def check_photo(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    photo = read(lambda: load_photo(path, PIXEL_LIMIT))
    if photo is None:
        return
    height, width, channels = photo.pixels.shape
    assert photo.pixels.dtype == np.uint8 and channels == 3 and photo.pixels.flags.c_contiguous
    assert min(height, width) >= MIN_SIDE_PX and height * width <= PIXEL_LIMIT
    assert photo.sha256 == hashlib.sha256(content).hexdigest()
    diagonal = math.hypot(height, width)
    assert photo.focal_px is None or 0.2 * diagonal <= photo.focal_px <= 30 * diagonal
    assert all(text.isprintable() for text in photo.warnings)
    json.dumps(photo.exif, allow_nan=False).encode()
    assert all(text.isprintable() for text in photo.exif.values() if isinstance(text, str))


@pytest.mark.parametrize("kind", photo_files())
def test_photos_are_read_as_they_are(kind: str, file: Path) -> None:
    file.write_bytes(photo_files()[kind])
    assert sorted(load_photo(file).pixels.shape)[0] == 3  # else the cases below would test nothing


def test_photos(file: Path) -> None:
    @fuzzed
    @given(st.sampled_from(sorted(photo_files())), BYTE_CHANGES, st.booleans())
    def check(kind: str, changes: list[tuple[str, int, Any]], mend: bool) -> None:
        content = changed(photo_files()[kind], changes)
        check_photo(file, with_right_sums(content) if mend and content.startswith(b"\x89PNG") else content)

    check()


def test_photos_of_nothing_but_a_beginning(file: Path) -> None:
    heads = sorted({content[: 2**k] for content in photo_files().values() for k in (2, 3, 4, 5)})

    @fuzzed
    @given(st.sampled_from([*heads, b"\0\0\0\x20ftypheic", b"\0\0\0\x20ftypavif"]), st.binary(max_size=200))
    def check(head: bytes, rest: bytes) -> None:
        check_photo(file, head + rest)

    check()


# ---- label images


PHOTO = Photo.from_array(np.zeros((40, 44, 3), np.uint8), "photo.jpg")


@functools.cache
def label_files() -> list[bytes]:
    labels = np.random.default_rng(0).integers(0, 12, (40, 44), np.uint8)
    grey, palette = Image.fromarray(labels), Image.fromarray(labels, "L").convert("P")
    palette.putpalette([value for each in range(12) for value in (20 * each, 255 - 20 * each, each)])
    kinds = [(grey, "PNG"), (palette, "PNG"), (grey.convert("RGB"), "PNG"), (grey.convert("LA"), "PNG")]
    others = [(grey, "TIFF"), (grey, "BMP"), (palette, "GIF"), (grey.convert("RGBA"), "WEBP"), (grey, "PPM")]
    return [saved(image, format=kind, lossless=True) for image, kind in kinds + others]


def test_label_images(file: Path) -> None:
    @fuzzed
    @given(st.sampled_from(label_files()), BYTE_CHANGES, st.booleans())
    def check(content: bytes, changes: list[tuple[str, int, Any]], mend: bool) -> None:
        content = changed(content, changes)
        file.write_bytes(with_right_sums(content) if mend and content.startswith(b"\x89PNG") else content)
        labels = read(lambda: read_label_image(file, PHOTO))
        if labels is not None:
            assert labels.shape == (40, 44) and labels.dtype == np.uint8 and labels.max() < 12
            labels[0, 0] = 0  # may be written to

    check()


# ---- landmarks


@functools.cache
def landmark_files() -> list[Any]:
    """Texts, and contents of JSON files."""
    files: list[Any] = []
    for layout, count in LANDMARK_COUNTS.items():
        points = np.random.default_rng(count).uniform(2, 38, (count, 2))
        points[5] = np.nan
        landmarks = Landmarks(layout, points, Backend("hand", "1"), np.linspace(0, 1, count))
        shown = np.round(np.nan_to_num(points, nan=-1), 2).tolist()
        files += [landmarks_dict(PHOTO, landmarks, 1), labelme_dict(PHOTO, landmarks), shown]
        files += [pts_text(points), "x,y\n" + "\n".join(f"{x},{y}" for x, y in shown)]
    return files


def test_landmark_files(tmp_path: Path) -> None:
    @fuzzed
    @given(st.integers(0, len(landmark_files()) - 1), DAMAGE, st.sampled_from((".json", ".pts", ".txt", "")))
    def check(number: int, damage: tuple[str, Any], ending: str) -> None:
        content = landmark_files()[number]
        path = tmp_path / f"face{ending}"
        if isinstance(content, str):
            path.write_bytes(changed(content.encode(), damage[1] if damage[0] == "bytes" else []))
        else:
            path.write_bytes(json_damaged(content, damage))
        found = read(lambda: read_landmark_file(path, PHOTO))
        if found is not None:
            landmarks, warnings = found
            count = LANDMARK_COUNTS[landmarks.layout]
            assert landmarks.points_px.shape == (count, 2) and landmarks.points_px.dtype == np.float64
            assert not np.isinf(landmarks.points_px).any()
            assert np.isfinite(landmarks.points_px).all(1).sum() >= count // 2
            assert landmarks.confidence.shape == (count,)
            assert (landmarks.confidence >= 0).all() and (landmarks.confidence <= 1).all()
            assert all(text.isprintable() for text in warnings)

    check()


# ---- results, manifests, options, recipes, annotations


def result() -> dict[str, Any]:
    """The least that is read of a result."""
    return {
        "schema": 1,
        "photo": {"path": "a.jpg", "sha256": "0" * 64, "width": 64, "height": 48},
        "model": {"name": "anny", "version": "1"},
        "status": "ok",
        "parameters": {"identity": [0.5, -1.0, 2.0], "expression": {"jawOpen": 0.5, "mouthSmileLeft": 0.0}},
        "camera": {
            "width": 64,
            "height": 48,
            "focal_px": 80.0,
            "principal_px": [32.0, 24.0],
            "cam_from_world": [[1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, -1.0, 0.5], [0.0, 0, 0, 1.0]],
        },
    }


def test_results(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(result()))
    read_fit(path)

    @fuzzed
    @given(DAMAGE)
    def check(damage: tuple[str, Any]) -> None:
        path.write_bytes(json_damaged(result(), damage))
        fit = read(lambda: read_fit(path))
        if fit is not None:
            camera = fit.camera
            assert all(math.isfinite(value) and abs(value) <= FURTHEST_SD for value in fit.identity)
            assert all(math.isfinite(value) for value in fit.expression.values())
            assert type(camera.width) is int and 0 < camera.width <= 100_000
            assert camera.focal_px > 0 and math.isfinite(camera.focal_px)
            rotation = camera.cam_from_world[:3, :3]
            assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-3)
            assert all(isinstance(text, str) for text in (fit.model_name, fit.photo_path, fit.status))

    check()


def line() -> dict[str, Any]:
    overlap = {"mean": 0.5, "nose": math.nan}
    faces = tuple(FaceRecord(number, "ok", "", overlap, 0.01, f"in/a-face{number}") for number in (1, 2))
    record = Record(
        photo="in/a.jpg",
        sha256="0" * 64,
        size=10,
        version="123",
        status="ok",
        message="",
        part_iou=overlap,
        landmark_nme=0.01,
        seconds=1.0,
        timings_s={"fit": 1.0},
        folder="in/a-face1",
        faces=faces,
        options="abc",
        target="in/a",
        given=("1:2", ""),
        finished=1.7e9,
    )
    return record.to_json()


def test_manifest_lines() -> None:
    @fuzzed
    @given(DAMAGE)
    def check(damage: tuple[str, Any]) -> None:
        raw = json_damaged(line(), damage)
        try:
            record = Record.from_line(raw)
        except ValueError:  # the reader of the manifest tells of it
            return
        check_record(record)
        assert Record.from_line(record.to_line()).to_line() == record.to_line()  # NaN is not itself

    check()


def check_record(record: Record) -> None:
    for each in (record, *record.faces):
        assert each.status in STATUSES and isinstance(each.message, str)
        assert each.landmark_nme is None or isinstance(each.landmark_nme, float)
        assert each.part_iou is None or all(isinstance(value, float) for value in each.part_iou.values())
        if each.folder is not None:
            assert not each.folder.startswith("/") and ".." not in each.folder.split("/")
    assert math.isfinite(record.seconds) and math.isfinite(record.finished)
    assert all(math.isfinite(value) for value in record.timings_s.values())
    assert record.size is None or (type(record.size) is int and record.size >= 0)
    assert all(face.face >= 0 and type(face.face) is int for face in record.faces)


def test_options_of_a_batch(tmp_path: Path) -> None:
    out = LocalStorage(str(tmp_path))
    write_options(out, BatchOptions(), "/photos")
    content = json.loads((tmp_path / OPTIONS_FILE).read_text())

    @fuzzed
    @given(DAMAGE)
    def check(damage: tuple[str, Any]) -> None:
        (tmp_path / OPTIONS_FILE).write_bytes(json_damaged(content, damage))
        stored = read(lambda: read_options(out))
        if stored is not None:
            assert all(isinstance(text, str) for text in BatchOptions().differences(stored.options))
            assert isinstance(stored.text("parser"), str | None)
            assert isinstance(stored.photos + stored.fit3d_version, str)

    check()


RECIPES = b"""wink:
  group: winks
  set: {eyeBlinkLeft: 1}
  add: {mouthSmile: [0.1, 0.4]}
open: {set: {jawOpen: 0.5}}
"""


def test_recipes(tmp_path: Path) -> None:
    path = tmp_path / "recipes.yaml"
    path.write_bytes(RECIPES)
    assert len(read_recipes(path)) == 2
    yaml_words = (b"&a ", b"*a", b"!!python/object:os.system ", b"- ", b"? ", b": ", b"{", b"[", b"|\n", b"<<", b"\t")
    odd = st.tuples(st.just("insert"), places(), st.sampled_from((*yaml_words, b".nan", b".inf", b"1e400", b"0o7")))

    @fuzzed
    @given(BYTE_CHANGES | st.lists(odd, min_size=1, max_size=4))
    def check(changes: list[tuple[str, int, Any]]) -> None:
        path.write_bytes(changed(RECIPES, changes))
        for recipe in read(lambda: read_recipes(path)) or ():
            assert recipe.name.isprintable() and (recipe.set or recipe.add)
            ends = [end for ranges in (recipe.set, recipe.add) for range_ in ranges.values() for end in range_]
            assert all(-1.0 <= end <= 1.0 for end in ends)

    check()


@functools.cache
def annotation() -> tuple[dict[str, Any], torch.Tensor, np.ndarray]:
    """Of a model of a few vertices: file, mean and faces."""
    mean = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 3)))
    faces = np.array([[k, k + 1, k + 2, k + 3 if k % 2 else -1] for k in range(27)])
    rims = {"upper": [1, 2, 3, 4], "lower": [1, 5, 6, 4]}
    points = {
        layout: {
            "vertices": [[k % 30, (k + 1) % 30, (k + 2) % 30] for k in range(count)],
            "weights": [[0.5, 0.25, 0.25]] * count,
            "sliding": [0, 1],
            "path_vertices": [[[0, 1, 2], [3, 4, 5]]] * 2,
            "path_weights": [[[1.0, 0.0, 0.0]] * 2] * 2,
        }
        for layout, count in LANDMARK_COUNTS.items()
    }
    content = {
        "schema": 1,
        "model": "small",
        "vertex_count": 30,
        "parts": {name: {"vertices": [1, 2], "field_m": [0.01, -0.01]} for name in ("nose", "skin", "skin/brows")},
        "openings": dict.fromkeys(("right_eye", "left_eye", "inner_mouth"), rims),
        "surface": list(range(20)),
        "landmarks": points,
    }
    return content, mean, faces


def test_annotations(file: Path) -> None:
    content, mean, faces = annotation()
    file.write_text(json.dumps(content))
    load_annotation(file, mean, faces)

    @fuzzed
    @given(DAMAGE)
    def check(damage: tuple[str, Any]) -> None:
        file.write_bytes(json_damaged(content, damage))
        found = read(lambda: load_annotation(file, mean, faces))
        if found is not None:
            parts, landmarks = found
            assert int(parts.triangles.min()) >= 0 and int(parts.triangles.max()) < 30
            assert bool(parts.fields.isfinite().all())
            for layout, embedding in landmarks.items():
                assert embedding.points.vertices.shape == (LANDMARK_COUNTS[layout], 3)
                assert embedding.paths.vertices.shape == embedding.paths.weights.shape
                assert bool(embedding.points.weights.isfinite().all())

    check()
