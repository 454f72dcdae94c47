"""A folder of files that are bad, odd or not what they are called, and what a batch must make of each.

Every name is told as bytes, as the file system has it. What is expected is a status and a piece of the message; files
that are no photos have none and must not be in the manifest at all.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin

FITTED = ("ok", "poor")
FACE_BOX = (120, 0, 360, 240)
"""Of the example photo, px."""
SIDE_PX = 160
GIF_FRAMES = 100_000
TEXT_BOMB_BYTES = 50_000_000


@dataclass(frozen=True)
class Expected:
    """What the manifest must say of a file."""

    statuses: tuple[str, ...]
    message: str = ""
    """A piece of it."""


OK = Expected(FITTED)
NO_FACE = Expected(("no_face",), "no face")
NO_IMAGE = Expected(("unreadable",), "not an image in a known format")
BROKEN = Expected(("unreadable",), "broken")
ANY_END = Expected((*FITTED, "no_face", "unreadable"))
TOO_LARGE = Expected(("unreadable",), "more than the limit of 200")
TOO_SMALL = Expected(("unreadable",), "too small; give a photo of at least 32 x 32 px")
LEFT_OUT = None


class HostileFolder:
    """Makes the files. `expected` tells of each, by its name as bytes, relative to the folder."""

    def __init__(self, folder: Path, example: Path) -> None:
        self.folder = os.fsencode(folder)
        self.expected: dict[bytes, Expected | None] = {}
        self.face = Image.open(example).convert("RGB").crop(FACE_BOX).resize((SIDE_PX, SIDE_PX))
        os.makedirs(self.folder)
        for make in (
            self._cut_short,
            self._misnamed,
            self._bombs,
            self._no_files,
            self._names,
            self._formats,
            self._sizes,
            self._pixels,
            self._profiles,
            self._turned,
            self._subjects,
        ):
            make()

    def path(self, name: bytes) -> bytes:
        return os.path.join(self.folder, name)

    def add(self, name: str | bytes, content: bytes, expected: Expected | None) -> None:
        """A file, unless the file system has no such names."""
        raw = name if isinstance(name, bytes) else os.fsencode(name)
        path = self.path(raw)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(path, "xb") as file:
                file.write(content)
        except FileExistsError:  # names that differ only in case, where that makes none
            return
        except OSError:
            return
        self.expected[raw] = expected

    def photo(self, kind: str = "JPEG", image: Image.Image | None = None, **options: Any) -> bytes:
        file = io.BytesIO()
        (image or self.face).save(file, format=kind, **options)
        return file.getvalue()

    def _cut_short(self) -> None:
        for kind, ending in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")):
            content = self.photo(kind)
            for quarter in (1, 2, 3):
                self.add(f"cut/{quarter}.{ending}", content[: quarter * len(content) // 4], BROKEN)
            self.add(f"cut/0.{ending}", b"", Expected(("unreadable",), "is empty (0 bytes)"))
        self.add("cut/flipped.png", self.photo("PNG")[:500] + b"\0" + self.photo("PNG")[501:], BROKEN)

    def _misnamed(self) -> None:
        self.add("misnamed/png.jpg", self.photo("PNG"), OK)
        self.add("misnamed/jpeg.png", self.photo(), OK)
        self.add("misnamed/jpeg.heic", self.photo(), OK)
        self.add("misnamed/page.jpg", b"<!DOCTYPE html><title>404 Not Found</title>" + b" " * 900, NO_IMAGE)
        self.add("misnamed/zip.jpg", b"PK\x03\x04" + bytes(200), NO_IMAGE)
        self.add("misnamed/video.jpg", b"\0\0\0\x18ftypmp42" + bytes(200), NO_IMAGE)
        self.add("misnamed/zeros.png", bytes(4096), NO_IMAGE)
        self.add("misnamed/photo.txt", self.photo(), LEFT_OUT)
        self.add("misnamed/photo.jpg.part", self.photo(), LEFT_OUT)
        self.add("misnamed/Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(500), LEFT_OUT)
        self.add("misnamed/no-ending", self.photo(), OK)
        self.add("misnamed/no-photo", b"Nothing to see.\n", LEFT_OUT)
        self.add("misnamed/UPPER.JPEG", self.photo(), OK)

    def _bombs(self) -> None:
        self.add("bomb/60000.png", png(60_000, 60_000, rows=200), TOO_LARGE)
        self.add("bomb/black.png", png(1_500, 1_500, rows=1_500, grey=True), NO_FACE)
        self.add(
            "bomb/header.bmp",
            b"BM" + struct.pack("<IIIIiiHHI", 54, 0, 54, 40, 60_000, 60_000, 1, 24, 0) + bytes(20),
            TOO_LARGE,
        )
        self.add("bomb/header.gif", b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(20), NO_IMAGE)
        self.add("bomb/header.ppm", b"P6 100000 100000 255\n" + bytes(100), TOO_LARGE)
        self.add("bomb/fields.tif", tiff(60_000, 60_000), TOO_LARGE)
        self.add("bomb/circle.tif", tiff(64, 64, next_at=8), ANY_END)
        webp = bytearray(self.photo("WEBP", lossless=True))
        webp[21:25] = struct.pack("<I", 16_383 | 16_383 << 14)
        self.add("bomb/header.webp", bytes(webp), TOO_LARGE)
        self.add("bomb/frames.gif", gif(GIF_FRAMES), NO_FACE)
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", "0" * TEXT_BOMB_BYTES, zip=True)
        self.add("bomb/text.png", self.photo("PNG", pnginfo=text), BROKEN)
        self.add("bomb/profile.png", self.photo("PNG", icc_profile=bytes(TEXT_BOMB_BYTES)), ANY_END)
        self.add("bomb/scans.jpg", scans(self.photo(progressive=True)), ANY_END)

    def _no_files(self) -> None:
        link, inside = os.symlink, self.path(b"no-file")
        os.mkdir(inside)
        link(b"itself.jpg", self.path(b"no-file/itself.jpg"))
        link(b"nowhere", self.path(b"no-file/nowhere.jpg"))
        link(b".", self.path(b"no-file/circle"))
        link(b"../..", self.path(b"no-file/above"))
        link(b"/dev/zero", self.path(b"no-file/zero.jpg"))
        os.mkfifo(self.path(b"no-file/pipe.jpg"))
        with suppress(OSError), socket.socket(socket.AF_UNIX) as listener:  # paths of sockets are short
            listener.bind(self.path(b"no-file/socket.jpg"))
        for name in (b"itself.jpg", b"nowhere.jpg", b"circle", b"above", b"zero.jpg", b"pipe.jpg", b"socket.jpg"):
            self.expected[b"no-file/" + name] = LEFT_OUT
        self.add("no-file/folder.jpg/inside.jpg", self.photo(), OK)
        link(b"folder.jpg/inside.jpg", self.path(b"no-file/link.jpg"))
        self.expected[b"no-file/link.jpg"] = OK
        self.add("no-file/secret.jpg", self.photo(), Expected((*FITTED, "unreadable")))  # root may read all
        os.chmod(self.path(b"no-file/secret.jpg"), 0)
        self.add(".hidden.jpg", self.photo(), LEFT_OUT)
        self.add(".hidden/photo.jpg", self.photo(), LEFT_OUT)

    def _names(self) -> None:
        content = self.photo(quality=90)
        longest = "l" * 251 + ".jpg"
        for name in (
            *(
                "new\nline.jpg",
                "tab\t.jpg",
                "\U0001f600.jpg",
                longest,
                "-o.jpg",
                "--help.png",
                " .jpg",
                "   ",
                "..foo.jpg",
            ),
            *("a..jpg", "CON.jpg", "nul.png", "dot..jpg", "\u202egpj.exe.jpg", "\x1b[2J.jpg", "*?[x].jpg", "a\\b.jpg"),
            *("$(touch pwned).jpg", "<script>alert(1)</script>.jpg", "'\";.jpg", "%s%n.jpg", "%2e%2e.jpg", "~.jpg"),
            *("twin.jpg", "twin.png", "twin.jpeg", "Twin.jpg", "twin-2.jpg", "twin/twin.jpg", "results.jsonl.jpg"),
            *("index.html.png", "thumbnails.jpg", ".fit3d/no.jpg", "batch.json/photo.jpg", "e\u0301.jpg", "\u00e9.jpg"),
        ):
            fits = not name.startswith((".f", "..foo"))
            self.add(f"names/{name}", content, OK if fits else LEFT_OUT)
        self.add(b"names/\xff\xfe\x80.jpg", content, OK)
        self.add("thumbnails/photo.jpg", content, OK)
        self.add("results.jsonl.jpg", content, OK)
        self.add("batch.jpg", content, OK)
        self.add("index.jpg", content, OK)

    def _formats(self) -> None:
        for kind, ending in (("WEBP", "webp"), ("TIFF", "tif"), ("BMP", "bmp"), ("GIF", "gif"), ("PPM", "ppm")):
            self.add(f"format/face.{ending}", self.photo(kind), OK)
        self.add("format/face.jp2", self.photo("JPEG2000"), OK)
        self.add("format/face.avif", self.photo("AVIF") if "AVIF" in Image.SAVE else heif(b"avif"), ANY_END)
        self.add("format/face.heic", heif(b"heic"), Expected(("unreadable",)))
        self.add("format/psd.jpg", b"8BPS\0\1" + bytes(300), NO_IMAGE)
        self.add("format/svg.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>', NO_IMAGE)
        self.add("format/pdf.jpg", b"%PDF-1.7\n" + bytes(300), NO_IMAGE)
        self.add("format/eps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(x) run\n", NO_IMAGE)
        self.add("format/icon.jpg", self.photo("ICO", sizes=[(64, 64)]), NO_IMAGE)
        for ending in ("psd", "svg", "pdf", "eps", "ico", "mp4", "xcf"):
            self.add(f"format/other.{ending}", b"\0", LEFT_OUT)

    def _sizes(self) -> None:
        self.add("size/1.png", self.photo("PNG", Image.new("RGB", (1, 1))), TOO_SMALL)
        self.add("size/wide.png", self.photo("PNG", Image.new("RGB", (30_000, 10))), TOO_SMALL)
        self.add("size/strip.png", self.photo("PNG", Image.new("L", (30_000, 40), 128)), NO_FACE)
        self.add("size/tall.png", self.photo("PNG", Image.new("L", (40, 30_000), 128)), NO_FACE)
        self.add("size/31.jpg", self.photo(image=self.face.resize((31, 99))), TOO_SMALL)
        self.add("size/32.jpg", self.photo(image=self.face.resize((32, 32))), ANY_END)

    def _pixels(self) -> None:
        grey = self.face.convert("L")
        wide = np.asarray(grey, np.uint16) * 257
        shares = np.asarray(grey, np.float32) / 255
        broken = shares.copy()
        broken[5, 5] = np.nan
        add = self.add
        add("pixels/cmyk.jpg", self.photo(image=self.face.convert("CMYK")), ANY_END)
        add("pixels/grey.jpg", self.photo(image=grey), OK)
        add("pixels/16-bit.png", self.photo("PNG", Image.fromarray(wide)), OK)
        add("pixels/16-bit.tif", self.photo("TIFF", Image.fromarray(wide)), OK)
        add("pixels/float.tif", self.photo("TIFF", Image.fromarray(shares)), OK)
        add(
            "pixels/float255.tif",
            self.photo("TIFF", Image.fromarray(shares * 255)),
            Expected(("unreadable",), "floating point pixels between"),
        )
        add(
            "pixels/nan.tif",
            self.photo("TIFF", Image.fromarray(broken)),
            Expected(("unreadable",), "floating point pixels"),
        )
        add("pixels/palette.png", self.photo("PNG", self.face.quantize(250), transparency=3), OK)
        add("pixels/palette.gif", self.photo("GIF", self.face.quantize(64), transparency=3), OK)
        add("pixels/one-bit.png", self.photo("PNG", self.face.convert("1")), ANY_END)
        clear = self.face.convert("RGBA")
        clear.putalpha(0)
        add("pixels/clear.png", self.photo("PNG", clear), NO_FACE)
        add("pixels/black.png", self.photo("PNG", Image.new("RGB", (200, 200))), NO_FACE)
        more: dict[str, Any] = {"save_all": True, "append_images": [self.face.rotate(90), self.face.rotate(180)]}
        add("pixels/moving.gif", self.photo("GIF", self.face.copy(), **more), OK)
        add("pixels/moving.webp", self.photo("WEBP", self.face.copy(), **more), OK)
        add("pixels/pages.tif", self.photo("TIFF", self.face.copy(), **more), OK)

    def _profiles(self) -> None:
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
        self.add("profile/foreign.jpg", self.photo(icc_profile=lab), OK)
        self.add("profile/nonsense.jpg", self.photo(icc_profile=b"no profile" * 20), OK)
        self.add("profile/cut.jpg", self.photo(icc_profile=bytes(srgb[:200])), OK)
        srgb[128:132] = b"\xff" * 4  # number of its tags
        self.add("profile/tags.png", self.photo("PNG", icc_profile=bytes(srgb)), OK)
        self.add("profile/exif.jpg", self.photo(exif=b"Exif\0\0II*\0" + b"\xff" * 60), OK)

    def _turned(self) -> None:
        back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what undoes each orientation, as Pillow numbers them
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            image = self.face if orientation == 1 else self.face.transpose(Image.Transpose(back[orientation]))
            self.add(f"turned/{orientation}.jpg", self.photo(image=image, exif=exif), OK)

    def _subjects(self) -> None:
        wood = np.random.default_rng(0).normal(128, 40, (200, 200, 3)).clip(0, 255).astype(np.uint8)
        self.add("subject/noise.png", self.photo("PNG", Image.fromarray(wood)), NO_FACE)
        self.add("subject/cartoon.png", self.photo("PNG", cartoon()), ANY_END)
        marble = Image.fromarray(np.asarray(self.face.convert("L"), np.float32).__pow__(0.7).astype(np.uint8) + 60)
        self.add("subject/statue.jpg", self.photo(image=marble), ANY_END)
        self.add("subject/cut-left.jpg", self.photo(image=self.face.crop((75, 0, SIDE_PX, SIDE_PX))), ANY_END)
        self.add("subject/cut-below.jpg", self.photo(image=self.face.crop((0, 0, SIDE_PX, 70))), ANY_END)
        self.add("subject/upside-down.jpg", self.photo(image=self.face.rotate(180)), ANY_END)
        crowd = Image.new("RGB", (10 * SIDE_PX, 5 * SIDE_PX))
        for number in range(50):
            crowd.paste(self.face, (number % 10 * SIDE_PX, number // 10 * SIDE_PX))
        self.add("subject/fifty.jpg", self.photo(image=crowd), OK)
        labels = Image.fromarray(np.random.default_rng(0).integers(0, 12, (SIDE_PX, SIDE_PX), np.uint8))
        self.add("subject/labels.png", self.photo("PNG", labels), NO_FACE)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A piece of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: int, grey: bool = False) -> bytes:
    """A black PNG, small as a file, of which the first rows are there."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width if grey else 3 * width))
    data = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if grey else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(width: int, height: int, next_at: int = 0) -> bytes:
    """A TIFF of one strip that is not there; `next_at` is the place of its next page."""
    fields = ((256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 99))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + struct.pack("<I", next_at)


def gif(frames: int) -> bytes:
    """A black GIF of many frames of one pixel."""
    head = b"GIF89a" + struct.pack("<HHBBB", 64, 64, 0x80, 0, 0) + bytes(6)
    frame = b"\x21\xf9\x04\0\x01\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return head + frame * frames + b";"


def scans(jpeg: bytes) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    start = jpeg.rindex(b"\xff\xda")
    return jpeg[:-2] + jpeg[start:-2] * 2000 + jpeg[-2:]


def heif(brand: bytes) -> bytes:
    """The beginning of a HEIC or AVIF file."""
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1" + brand + bytes(300)


def cartoon() -> Image.Image:
    """A face of a few strokes."""
    image = Image.new("RGB", (200, 200), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((30, 20, 170, 190), "peachpuff", "black", 4)
    for x in (75, 125):
        draw.ellipse((x - 12, 75, x + 12, 95), "white", "black", 2)
        draw.ellipse((x - 5, 80, x + 5, 90), "black")
        draw.line((x - 15, 62, x + 15, 60), "black", 4)
    draw.line((100, 95, 93, 125, 105, 127), "black", 3)
    draw.chord((70, 130, 130, 165), 0, 180, "firebrick", "black", 2)
    return image


def others(folder: Path, left_out: Path) -> Iterator[tuple[str, str]]:
    """Of all that lies in a folder, beside `left_out`: name, and what would change with it."""
    for path in sorted(folder.rglob("*")):
        if path != left_out and left_out not in path.parents:
            status = path.lstat()
            yield repr(str(path)), f"{status.st_mode} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
