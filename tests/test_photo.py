"""Reading photos: every kind of bad file gives one clear line, every kind of good file the same pixels."""

from __future__ import annotations

import hashlib
import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from fit3d.errors import UnreadablePhotoError
from fit3d.photo import FILM_DIAGONAL_MM, MIN_SIDE_PX, Photo, load_photo

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def pixels() -> np.ndarray:
    """A smooth picture that no turn or mirror maps to itself."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.dstack([x * 4, y * 5, 255 - x * 2 - y]).astype(np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels to show for it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def one_line_error(path: Path, **options: Any) -> str:
    """The message of the error that reading `path` raises; no warning and nothing of Pillow may come along."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadablePhotoError) as caught:
            load_photo(path, **options)
    message = str(caught.value)
    assert "\n" not in message and not message.endswith(".") and caught.value.exit_code == 1
    return message


# What cannot be read


def test_no_such_file(tmp_path: Path) -> None:
    assert "no such file" in one_line_error(tmp_path / "absent.jpg")
    (tmp_path / "file").write_bytes(b"x")
    assert "no such file" in one_line_error(tmp_path / "file" / "below.jpg")


def test_folder_asks_for_its_files(tmp_path: Path) -> None:
    message = one_line_error(tmp_path)
    assert "is a folder" in message and "/*.jpg" in message


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    assert "empty" in one_line_error(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "content", [b"hello, this is a text", b"\0" * 1000, b"%PDF-1.4 ...", b"GIF", b"%!PS-Adobe-3.0"]
)
def test_not_an_image_names_the_formats(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    message = one_line_error(tmp_path / "a.jpg")
    assert "not an image" in message and "JPEG" in message and "PNG" in message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(tmp_path: Path, kind: str, share: float, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind, **({"compression": "tiff_lzw"} if kind == "TIFF" else {}))
    path = tmp_path / "a"
    path.write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    message = one_line_error(path)
    assert "truncated" in message or "header" in message or "not an image" in message
    assert capfd.readouterr() == ("", "")  # the C libraries are quiet as well


def test_broken_in_the_middle(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(content)
    assert "broken or truncated PNG" in one_line_error(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (MIN_SIDE_PX - 1, MIN_SIDE_PX)])
def test_too_small_states_both_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    message = one_line_error(tmp_path / "a.png")
    assert f"{size[0]} x {size[1]}" in message and f"{MIN_SIDE_PX} x {MIN_SIDE_PX}" in message


def test_pixel_limit_is_checked_on_the_header_alone(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
    message = one_line_error(tmp_path / "bomb.png")
    assert "60000 x 60000" in message and "3600.0 megapixels" in message and "200" in message


def test_pixel_limit_can_be_set(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert load_photo(tmp_path / "a.png", pixel_limit=HEIGHT * WIDTH).width == WIDTH
    assert "limit" in one_line_error(tmp_path / "a.png", pixel_limit=HEIGHT * WIDTH - 1)


def test_pillows_own_limit_does_not_interfere_and_is_kept(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for limit in (HEIGHT * WIDTH // 3, HEIGHT * WIDTH - 1):  # Pillow would raise, and warn
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_photo(tmp_path / "a.png")
        assert limit == Image.MAX_IMAGE_PIXELS


def test_heic_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100)
    message = one_line_error(tmp_path / "a.heic")
    assert "HEIC" in message or "HEIF" in message


def test_control_characters_in_the_path_stay_in_one_line(tmp_path: Path) -> None:
    assert r"a\nb.jpg" in one_line_error(tmp_path / "a\nb.jpg")
    assert "cannot be read" in one_line_error(Path("a\0b.jpg"))


# What can be read


def test_plain_photo(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    photo = load_photo(path)
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert photo.pixels.flags.c_contiguous and photo.pixels.flags.writeable
    assert (photo.width, photo.height) == (WIDTH, HEIGHT)
    assert photo.path == str(path) and photo.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert photo.focal_px is None and photo.exif == {} and photo.warnings == ()


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    wide = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    expected = np.rint(wide / 257.0).astype(np.uint8)[..., None].repeat(3, axis=2)
    for name in ("a.png", "a.tif"):
        Image.fromarray(wide).save(tmp_path / name)
        np.testing.assert_array_equal(load_photo(tmp_path / name).pixels, expected)


def test_16_bit_colour_png(tmp_path: Path, pixels: np.ndarray) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + (row.astype(">u2") * 257).astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    np.testing.assert_array_equal(load_photo(tmp_path / "a.png").pixels, pixels)


def test_float_tiff(tmp_path: Path) -> None:
    values = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    Image.fromarray(values).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(load_photo(tmp_path / "a.tif").pixels[..., 0], np.rint(values * 255))
    values[3, 4] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert "nan" in one_line_error(tmp_path / "a.tif")


def test_grey_and_one_bit(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels[..., 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_photo(tmp_path / "a.png").pixels, pixels[..., :1].repeat(3, axis=2))
    Image.fromarray(pixels[..., 0] > 100).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_photo(tmp_path / "a.png").pixels[..., 1], (pixels[..., 0] > 100) * 255)


def test_alpha_is_composited_on_white(tmp_path: Path, pixels: np.ndarray) -> None:
    alpha = np.broadcast_to(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, WIDTH))
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "a.png")
    expected = np.rint((pixels * (alpha / 255.0)[..., None]) + 255.0 * (1.0 - alpha / 255.0)[..., None])
    result = load_photo(tmp_path / "a.png").pixels
    assert np.abs(result - expected).max() <= 1
    assert (result[:, 0] == 255).all() and (result[:, -1] == pixels[:, -1]).all()


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    index = np.zeros((HEIGHT, WIDTH), np.uint8)
    index[:, 32:] = 1
    image = Image.fromarray(index)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "a.png")
    assert load_photo(tmp_path / "a.png").pixels[0, [0, -1]].tolist() == [[10, 20, 30], [200, 100, 50]]
    image.save(tmp_path / "b.png", transparency=0)
    assert load_photo(tmp_path / "b.png").pixels[0, [0, -1]].tolist() == [[255, 255, 255], [200, 100, 50]]


def test_cmyk(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "a.jpg", quality=98, subsampling=0)
    assert np.abs(load_photo(tmp_path / "a.jpg").pixels.astype(int) - pixels).mean() < 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_give_the_first_and_a_warning(tmp_path: Path, kind: str, pixels: np.ndarray) -> None:
    first, second = Image.fromarray(pixels[..., 0]).convert("RGB"), Image.new("RGB", (WIDTH, HEIGHT), (255, 0, 0))
    lossless = {"lossless": True} if kind == "WEBP" else {}
    first.save(tmp_path / "a", kind, save_all=True, append_images=[second], **lossless)
    photo = load_photo(tmp_path / "a")
    assert np.abs(photo.pixels.astype(int) - np.asarray(first)).max() <= 2
    assert photo.warnings == ("It has several frames; only the first one is used.",)
    first.save(tmp_path / "b", kind, **lossless)
    assert load_photo(tmp_path / "b").warnings == ()


def profile_bytes(primaries: str) -> bytes:
    """A minimal matrix ICC profile: gamma 1 with sRGB's primaries, red and green exchanged if so named."""

    def tag_xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    red, green, blue = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    if primaries == "exchanged":
        red, green = green, red
    text = b"test"
    desc = b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + b"\0" * 78
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)
    tags = [
        *((b"desc", desc), (b"wtpt", tag_xyz((0.9642, 1.0, 0.8249))), (b"cprt", b"text\0\0\0\0none\0")),
        *((b"rXYZ", tag_xyz(red)), (b"gXYZ", tag_xyz(green)), (b"bXYZ", tag_xyz(blue))),
        *((b"rTRC", curve), (b"gTRC", curve), (b"bTRC", curve)),
    ]
    offset, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags:
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", offset + len(data), len(content))
        data += content
    body = struct.pack(">I", len(tags)) + table + data
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + struct.pack(">3i", 63190, 65536, 54061)
    return head + b"\0" * (128 - len(head)) + body


def srgb_from_linear(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("primaries", ["same", "exchanged"])
def test_colour_profile_is_converted_to_srgb(tmp_path: Path, pixels: np.ndarray, primaries: str) -> None:
    expected = 255.0 * srgb_from_linear(pixels / 255.0)
    if primaries == "exchanged":
        expected = expected[..., [1, 0, 2]]
    for name, array in (("a.png", pixels), ("b.png", np.dstack([pixels, np.full((HEIGHT, WIDTH), 255, np.uint8)]))):
        Image.fromarray(array).save(tmp_path / name, icc_profile=profile_bytes(primaries))
        photo = load_photo(tmp_path / name)
        assert np.abs(photo.pixels - expected).max() <= 2 and photo.warnings == ()


def test_srgb_profile_changes_nothing(tmp_path: Path, pixels: np.ndarray) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_array_equal(load_photo(tmp_path / "a.png").pixels, pixels)


@pytest.mark.parametrize("profile", [b"garbage", b"\0" * 500, profile_bytes("same")[:200]])
def test_broken_colour_profile_is_ignored_with_a_note(tmp_path: Path, pixels: np.ndarray, profile: bytes) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    photo = load_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert photo.warnings == ("Its colour profile could not be used; the colours are taken as sRGB.",)


def test_profile_of_another_colour_space(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png", icc_profile=profile_bytes("same"))
    photo = load_photo(tmp_path / "grey.png")  # an RGB profile on a grey picture is meant for its equal channels
    assert np.abs(photo.pixels[..., 0] - 255.0 * srgb_from_linear(pixels[..., 0] / 255.0)).max() <= 2
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "cmyk.jpg", icc_profile=profile_bytes("same"))
    assert "colour profile" in load_photo(tmp_path / "cmyk.jpg").warnings[0]


# EXIF

STORED_AS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),  # stored turned left, to be turned right
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_all_orientations_give_identical_pixels(tmp_path: Path, kind: str) -> None:
    # Blocks of 16 pixels survive JPEG's blocks and WebP in every turn, so that equality is exact where it can be.
    blocks = np.random.default_rng(1).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    upright = blocks.repeat(16, axis=0).repeat(16, axis=1)
    lossless: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    options = lossless.get(kind, {})
    results = []
    for orientation, store in STORED_AS.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{kind.lower()}"
        Image.fromarray(np.ascontiguousarray(store(upright))).save(path, kind, exif=exif, **options)
        results.append(load_photo(path))
    for photo in results:
        np.testing.assert_array_equal(photo.pixels, results[0].pixels)
    assert np.abs(results[0].pixels.astype(int) - upright).max() <= (2 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientation_counts_as_upright(tmp_path: Path, pixels: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_photo(tmp_path / "a.png").pixels, pixels)


def photo_with_exif(tmp_path: Path, entries: dict[int, Any], main: dict[int, Any] | None = None) -> Photo:
    exif = Image.Exif()
    for tag, value in (main or {}).items():
        exif[tag] = value
    exif.get_ifd(0x8769).update(entries)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.jpg", exif=exif)
    return load_photo(tmp_path / "a.jpg")


DIAGONAL = math.hypot(WIDTH, HEIGHT)


def test_focal_length_from_35mm_equivalent(tmp_path: Path) -> None:
    photo = photo_with_exif(tmp_path, {0x920A: 4.2, 0xA405: 26}, {0x010F: "Maker\0", 0x0110: "Model"})
    assert photo.focal_px == pytest.approx(26 / 43.2666 * DIAGONAL, rel=1e-5)
    assert pytest.approx(43.2666, abs=1e-4) == FILM_DIAGONAL_MM
    assert photo.exif == {"Make": "Maker", "Model": "Model", "FocalLength": 4.2, "FocalLengthIn35mmFilm": 26.0}


def test_focal_length_from_the_sensor(tmp_path: Path) -> None:
    # 640 px across an inch, the photo is a tenth of that size: 50 mm are 50 / 25.4 * 640 / 10 px.
    entries = {0x920A: 50.0, 0xA20E: 640.0, 0xA210: 2, 0xA002: WIDTH * 10, 0xA003: HEIGHT * 10}
    assert photo_with_exif(tmp_path, entries).focal_px == pytest.approx(50 / 25.4 * 64)
    assert photo_with_exif(tmp_path, {**entries, 0xA210: 3}).focal_px == pytest.approx(50 / 10.0 * 64)
    assert photo_with_exif(tmp_path, {**entries, 0xA210: 1}).focal_px is None
    without_size = {tag: value for tag, value in entries.items() if tag not in (0xA002, 0xA003)}
    assert photo_with_exif(tmp_path, without_size).focal_px is None


@pytest.mark.parametrize("focal", [0, 1, 60000])
def test_absurd_focal_length_is_ignored(tmp_path: Path, focal: int) -> None:
    assert photo_with_exif(tmp_path, {0xA405: focal}).focal_px is None


def test_zero_and_broken_fractions_are_ignored(tmp_path: Path) -> None:
    from PIL.TiffImagePlugin import IFDRational

    photo = photo_with_exif(tmp_path, {0x920A: IFDRational(1, 0), 0xA20E: IFDRational(0, 1), 0xA002: 0, 0xA003: 0})
    assert photo.focal_px is None and photo.exif == {}


def test_cropped_photo_has_no_focal_length_and_says_so(tmp_path: Path) -> None:
    photo = photo_with_exif(tmp_path, {0xA405: 26, 0xA002: WIDTH * 3, 0xA003: HEIGHT * 2})
    assert photo.focal_px is None and "cropped" in photo.warnings[0]


def test_resized_or_turned_photo_keeps_its_focal_length(tmp_path: Path) -> None:
    expected = 26 / FILM_DIAGONAL_MM * DIAGONAL
    for size in ((WIDTH * 3, HEIGHT * 3), (HEIGHT * 3, WIDTH * 3)):
        photo = photo_with_exif(tmp_path, {0xA405: 26, 0xA002: size[0], 0xA003: size[1]})
        assert photo.focal_px == pytest.approx(expected) and photo.warnings == ()
    assert photo_with_exif(tmp_path, {0xA405: 26}, {0x0112: 6}).focal_px == pytest.approx(expected)


def test_garbage_exif_counts_as_none(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_photo(tmp_path / "a.png").exif == {}


# Pixels from Python


def test_from_array_copies_and_hashes(pixels: np.ndarray) -> None:
    photo = Photo.from_array(pixels, name="mine", focal_px=70.0)
    assert photo.path == "mine" and photo.focal_px == 70.0
    assert photo.sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
    before = photo.pixels.copy()
    pixels[:] = 0
    np.testing.assert_array_equal(photo.pixels, before)


def test_from_array_types_and_shapes_agree(pixels: np.ndarray) -> None:
    same = [
        *(pixels, pixels.astype(np.uint16) * 257, pixels / 255.0, (pixels / 255.0).astype(np.float32)),
        *(np.dstack([pixels, np.full((HEIGHT, WIDTH), 255, np.uint8)]), np.asfortranarray(pixels)),
    ]
    for array in same:
        np.testing.assert_array_equal(Photo.from_array(array).pixels, pixels)
    grey = pixels[..., 0]
    np.testing.assert_array_equal(Photo.from_array(grey).pixels, grey[..., None].repeat(3, axis=2))
    np.testing.assert_array_equal(Photo.from_array(grey[..., None]).pixels, Photo.from_array(grey).pixels)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((40, 40, 2), np.uint8), "(40, 40, 2)"),
        (np.zeros((3, 40, 40, 3), np.uint8), "(3, 40, 40, 3)"),
        (np.zeros(5, np.uint8), "(5,)"),
        (np.zeros((1, 1, 3), np.uint8), "1 x 1"),
        (np.zeros((40, 40, 3), np.int64), "int64"),
        (np.full((40, 40, 3), 255.0), "255"),
        (np.full((40, 40, 3), np.nan), "nan"),
        (np.full((40, 40, 3), -0.5), "-0.5"),
    ],
)
def test_from_array_refuses_what_it_cannot_know(array: np.ndarray, said: str) -> None:
    with pytest.raises(UnreadablePhotoError) as caught:
        Photo.from_array(array)
    assert said in str(caught.value) and str(caught.value).startswith("<array>: ")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.avif", quality=100)
    assert np.abs(load_photo(tmp_path / "a.avif").pixels.astype(int) - pixels).mean() < 3
