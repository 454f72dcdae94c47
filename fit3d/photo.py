"""A photo as the rest of fit3d sees it: upright sRGB pixels, and what EXIF says about the lens."""

from __future__ import annotations

import hashlib
import io
import math
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from fit3d.errors import UnreadablePhotoError, printable

PIXEL_LIMIT = 200_000_000
"""Largest photo that is decoded, px (width x height); a decompression bomb is refused by its header alone."""
MIN_SIDE_PX = 32
"""Shortest side of a photo: a face with fewer pixels than this says nothing about its shape."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "TIFF", "BMP", "GIF", "JPEG2000", "PPM")
"""Pillow's names of the formats that are tried. Formats that start other programs (EPS) or that any bytes match (TGA)
are left out."""

FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)
"""Diagonal of the 35 mm film frame, which EXIF's 35 mm equivalent focal length refers to."""
FOCAL_RANGE = (0.2, 30.0)
"""Focal lengths outside this range, in photo diagonals (136 to 1.9 degrees of view), are taken for broken EXIF."""
CROP_TOLERANCE = 0.02
"""Relative difference of the aspect ratio, between EXIF and pixels, from which on the photo counts as cropped."""

_TAG_MAKE, _TAG_MODEL, _TAG_ORIENTATION = 0x010F, 0x0110, 0x0112
_IFD_EXIF = 0x8769
_TAG_FOCAL_LENGTH, _TAG_FOCAL_LENGTH_35MM = 0x920A, 0xA405
_TAG_EXIF_WIDTH, _TAG_EXIF_HEIGHT = 0xA002, 0xA003
_TAG_FOCAL_PLANE_X_RESOLUTION, _TAG_FOCAL_PLANE_UNIT = 0xA20E, 0xA210
_FOCAL_PLANE_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}

_pillow_lock = threading.Lock()


@dataclass(frozen=True)
class Photo:
    """One decoded photo."""

    path: str
    """Where it came from, as the user wrote it; '<array>' for pixels given from Python."""
    pixels: np.ndarray
    """(H, W, 3) uint8, sRGB, EXIF orientation applied."""
    sha256: str
    """Of the file's bytes; of the array's bytes for pixels given from Python."""
    focal_px: float | None = None
    """Focal length in pixels of `pixels`, from EXIF; None where EXIF does not tell."""
    exif: dict[str, str | float | int] = field(default_factory=dict)
    """The few EXIF entries that matter: camera make and model, orientation, focal lengths."""
    warnings: tuple[str, ...] = ()
    """What the user should know, one sentence each."""

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @classmethod
    def from_array(cls, pixels: np.ndarray, name: str = "<array>", focal_px: float | None = None) -> Photo:
        """A photo from pixels in memory.

        Args:
            pixels: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), sRGB, upright, channels in the order red, green, blue,
                alpha. uint8, uint16 (full range) or floating point in [0, 1]. Alpha is composited on white. Copied.
            name: what `Photo.path` and error messages call it.
            focal_px: focal length in pixels, where known.

        Raises:
            UnreadablePhotoError: another shape or type, values out of range, or a side shorter than `MIN_SIDE_PX`.
        """
        array = np.asarray(pixels)
        channels = array.shape[2] if array.ndim == 3 else 1
        if array.ndim not in (2, 3) or channels not in (1, 3, 4):
            raise _unreadable(
                name, f"pixels of shape {array.shape}; give an array of shape (H, W), (H, W, 3) or (H, W, 4)"
            )
        _check_size(name, array.shape[1], array.shape[0], pixel_limit=None)
        sha256 = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        rgb = _composite_on_white(_to_uint8(name, array.reshape(*array.shape[:2], channels)))
        return cls(path=name, pixels=rgb, sha256=sha256, focal_px=focal_px)


def image_endings() -> frozenset[str]:
    """Endings that files of the formats that are tried have, in lower case: '.jpg', ..."""
    Image.init()
    known = {ending for ending, format_ in Image.EXTENSION.items() if format_ in FORMATS}
    return frozenset(known | {".avif", ".heic", ".heif"})  # which Pillow may not know; then reading one says so


def is_image(head: bytes) -> bool:
    """Whether the first 32 bytes of a file are those of an image in a format that is tried."""
    if _iso_image_kind(head) is not None:
        return True
    Image.init()
    accepts = [Image.OPEN[format_][1] for format_ in FORMATS if format_ in Image.OPEN]
    return any(accept is not None and accept(head) is True for accept in accepts)


def load_photo(path: str | Path, pixel_limit: int = PIXEL_LIMIT) -> Photo:
    """Read a photo file.

    Grey, palette, CMYK, 16-bit and floating point pixels become 8-bit sRGB, through the embedded colour profile where
    there is one; 16-bit is scaled, not clipped. Alpha is composited on white. The EXIF orientation is applied, so that
    all eight give the same pixels. Of an animation or a multi-page file the first frame is read, with a warning.

    The focal length comes from EXIF's 35 mm equivalent, `f_px = f_35mm / 43.27 mm * diagonal_px`, else from the focal
    length and the resolution of the sensor. It stays None where these are absent or absurd, and where EXIF's own image
    size has another aspect ratio than the pixels, because then the photo was cropped.

    Args:
        path: file to read.
        pixel_limit: largest width x height that is decoded, px.

    Raises:
        UnreadablePhotoError: no such file, a folder, empty, truncated, not an image, smaller than `MIN_SIDE_PX` or
            larger than `pixel_limit`. The message is one line.
    """
    name = str(path)
    _check_is_file(name)
    try:
        with open(name, "rb") as file:
            return _decode(name, file, pixel_limit)
    except OSError as error:
        reason = error.strerror or error
        raise _unreadable(name, f"cannot be read ({reason}); check the file and its permissions") from error


def _check_is_file(name: str) -> None:
    try:
        status = Path(name).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _unreadable(name, "no such file; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        raise _unreadable(name, f"cannot be read ({reason}); check the path and its permissions") from error
    if stat.S_ISDIR(status.st_mode):
        raise _unreadable(name, f"is a folder, not a photo; give its files, such as {name}/*.jpg")
    if not stat.S_ISREG(status.st_mode):
        raise _unreadable(name, "is not a regular file; give a photo file")
    if status.st_size == 0:
        raise _unreadable(name, "is empty (0 bytes); copy or download it again")


def _decode(name: str, file: BinaryIO, pixel_limit: int) -> Photo:
    """Everything that asks Pillow; no exception or warning of Pillow leaves this function."""
    notes: list[str] = []
    with quiet_pillow():
        image = _open(name, file)
        _check_size(name, image.width, image.height, pixel_limit)
        try:
            if image.format != "MPO" and getattr(image, "is_animated", False):
                notes.append("It has several frames; only the first one is used.")
                image.seek(0)
            image.load()
            # After loading, because Pillow turns TIFF files itself and then drops the orientation.
            exif, focal_tags = _read_exif(image)
            pixels = _to_srgb(name, image, notes)
        except UnreadablePhotoError:
            raise
        except Exception as error:  # Pillow's readers raise nearly anything on broken data, struct.error to KeyError
            raise _unreadable(
                name, f"a broken or truncated {image.format} file ({_one_line(error)}); copy or download it again"
            ) from error
    pixels = _turn_upright(pixels, int(exif.get("Orientation", 1)))
    _check_size(name, pixels.shape[1], pixels.shape[0], pixel_limit)
    focal_px = _focal_from_exif(exif, focal_tags, pixels.shape[1], pixels.shape[0], notes)
    return Photo(name, pixels, _sha256(file), focal_px, exif, tuple(notes))


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow without warnings, and without its own pixel limit in place of ours."""
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _open(name: str, file: BinaryIO) -> Image.Image:
    """Read the header only."""
    head = file.read(32)
    file.seek(0)
    kind = _iso_image_kind(head)
    if kind == "HEIC":
        _register_heif_reader()
    Image.init()
    known = [format_ for format_ in FORMATS if format_ in Image.OPEN]
    try:
        return Image.open(file, formats=known)
    except UnidentifiedImageError as error:
        if kind is not None:
            how = "`pip install pillow-heif`" if kind == "HEIC" else "`pip install --upgrade pillow`"
            raise _unreadable(
                name, f"{kind} pictures cannot be read here; convert it to JPEG or PNG, or run {how}"
            ) from error
        raise _unreadable(
            name, f"not an image in a known format; give one of {', '.join(known)}, and check that it is complete"
        ) from error
    except Exception as error:  # see _decode
        raise _unreadable(name, f"broken image header ({_one_line(error)}); copy or download it again") from error


def _iso_image_kind(head: bytes) -> str | None:
    """'HEIC' or 'AVIF' if the first bytes of a file say so."""
    if head[4:8] != b"ftyp":
        return None
    brands = head[8:]
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    return "HEIC" if any(brand in brands for brand in (b"heic", b"heix", b"heim", b"hevc", b"mif1")) else None


def _register_heif_reader() -> None:
    """Let Pillow read HEIC if the user has installed pillow-heif, which is optional."""
    try:
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return
    register_heif_opener()


def _check_size(name: str, width: int, height: int, pixel_limit: int | None) -> None:
    if min(width, height) < MIN_SIDE_PX:
        raise _unreadable(
            name, f"is {width} x {height} px, too small; give a photo of at least {MIN_SIDE_PX} x {MIN_SIDE_PX} px"
        )
    if pixel_limit is not None and width * height > pixel_limit:
        raise _unreadable(
            name,
            f"is {width} x {height} px, {width * height / 1e6:.1f} megapixels, more than the limit of "
            f"{pixel_limit / 1e6:g}; scale it down",
        )


def _to_srgb(name: str, image: Image.Image, notes: list[str]) -> np.ndarray:
    """(H, W, 3) uint8 sRGB pixels of a loaded image, not yet turned upright."""
    profile = image.info.get("icc_profile")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = _to_uint8(name, _wide_grey(image))
        image = Image.fromarray(grey)
    elif image.mode == "1":
        image = image.convert("L")
    alpha = None
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        image = image.convert("RGB")
    elif image.mode in ("P", "YCbCr", "HSV", "RGBX"):
        image = image.convert("RGB")
    rgb = np.asarray(_through_profile(image, profile, notes))
    return rgb.copy() if alpha is None else _composite_on_white(np.dstack([rgb, alpha]))


def _wide_grey(image: Image.Image) -> np.ndarray:
    """(H, W) grey of more than 8 bits as uint16 or floating point in [0, 1]."""
    values = np.asarray(image)
    if image.mode == "F":
        return values
    if image.mode == "I":  # 32-bit integers; older Pillow reads 16-bit PNGs so, hence the smaller range where it fits
        top = 65535 if values.max() <= 65535 else np.iinfo(np.int32).max
        return np.clip(values / top, 0.0, 1.0)
    return values.astype(np.uint16)  # drops the byte order


def _through_profile(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """The image as RGB in sRGB. A profile that does not fit or is broken is ignored, with a note."""
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        return converted
    if not profile:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if image.mode == "RGB" and space == "RGB" and "sRGB" in (source.profile.profile_description or ""):
            return image
        if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space) != image.mode:
            if space == "RGB" and image.mode == "L":  # a grey picture in an RGB space
                image = image.convert("RGB")
            else:
                raise ImageCms.PyCMSError(f"a profile for {space} on a {image.mode} picture")
        converted = ImageCms.profileToProfile(
            image,
            source,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        assert converted is not None
        return converted
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        notes.append("Its colour profile could not be used; the colours are taken as sRGB.")
        return image.convert("RGB")


def _to_uint8(name: str, array: np.ndarray) -> np.ndarray:
    """Any supported pixel type scaled to uint8, rounding to nearest."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high) and low >= 0.0 and high <= 1.0):
            raise _unreadable(
                name, f"floating point pixels between {low:g} and {high:g}; give finite values from 0 to 1, or uint8"
            )
        return np.rint(array * 255.0).astype(np.uint8)
    raise _unreadable(name, f"pixels of type {array.dtype}; give uint8, uint16 or floating point from 0 to 1")


def _composite_on_white(array: np.ndarray) -> np.ndarray:
    """(H, W, 1 | 3 | 4) uint8 to a new, contiguous (H, W, 3) uint8."""
    if array.shape[2] == 4:
        colour, alpha = array[..., :3].astype(np.uint16), array[..., 3:].astype(np.uint16)
        return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3))).copy()


def _turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _read_exif(image: Image.Image) -> tuple[dict[str, str | float | int], dict[int, Any]]:
    """The entries for `Photo.exif`, and the raw Exif block for the focal length. Broken EXIF counts as none."""
    try:
        main = image.getexif()
        block: dict[int, Any] = dict(main.get_ifd(_IFD_EXIF))
    except Exception:  # see _decode
        return {}, {}
    entries: dict[str, str | float | int] = {}
    for name, tag in (("Make", _TAG_MAKE), ("Model", _TAG_MODEL)):
        value = main.get(tag)
        if isinstance(value, str) and value.strip("\0 "):
            entries[name] = "".join(c for c in value.strip("\0 ") if c.isprintable())
    orientation: Any = main.get(_TAG_ORIENTATION)
    if orientation in range(1, 9):
        entries["Orientation"] = int(orientation)
    for name, tag in (("FocalLength", _TAG_FOCAL_LENGTH), ("FocalLengthIn35mmFilm", _TAG_FOCAL_LENGTH_35MM)):
        value = _positive(block.get(tag))
        if value is not None:
            entries[name] = value
    return entries, block


def _focal_from_exif(
    exif: dict[str, str | float | int], block: dict[int, Any], width: int, height: int, notes: list[str]
) -> float | None:
    """Focal length in pixels of a `width` x `height` photo, None where EXIF does not tell (see `load_photo`)."""
    focal_mm, focal_35mm = exif.get("FocalLength"), exif.get("FocalLengthIn35mmFilm")
    if focal_mm is None and focal_35mm is None:
        return None
    exif_width, exif_height = _positive(block.get(_TAG_EXIF_WIDTH)), _positive(block.get(_TAG_EXIF_HEIGHT))
    resize = None
    if exif_width is not None and exif_height is not None:
        # Long side over short side, because software that turns a photo does not always swap these two.
        exif_aspect = max(exif_width, exif_height) / min(exif_width, exif_height)
        aspect = max(width, height) / min(width, height)
        if abs(aspect / exif_aspect - 1.0) > CROP_TOLERANCE:
            notes.append("The photo was cropped after it was taken, so EXIF's focal length is not used.")
            return None
        resize = max(width, height) / max(exif_width, exif_height)
    diagonal_px = math.hypot(width, height)
    candidates = []
    if focal_35mm is not None:
        candidates.append(float(focal_35mm) / FILM_DIAGONAL_MM * diagonal_px)
    resolution = _positive(block.get(_TAG_FOCAL_PLANE_X_RESOLUTION))
    unit_mm = _FOCAL_PLANE_UNIT_MM.get(block.get(_TAG_FOCAL_PLANE_UNIT, 2))
    if focal_mm is not None and resolution is not None and unit_mm is not None and resize is not None:
        candidates.append(float(focal_mm) * resolution / unit_mm * resize)
    low, high = FOCAL_RANGE
    return next((focal for focal in candidates if low * diagonal_px <= focal <= high * diagonal_px), None)


def _positive(value: Any) -> float | None:
    """An EXIF number as a float, None unless it is finite and positive (0 means 'unknown' in EXIF)."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0.0 else None


def _sha256(file: BinaryIO) -> str:
    """Of the whole file, read in pieces."""
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _unreadable(name: str, text: str) -> UnreadablePhotoError:
    return UnreadablePhotoError(f"{name}: {text}")


def _one_line(error: BaseException) -> str:
    return printable(" ".join(str(error).split())).rstrip(".")[:120] or type(error).__name__
