"""Writing files so that a reader never meets half of one, and choosing folder names."""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import shutil
import unicodedata
import zlib
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image

from fit3d.errors import UsageError
from fit3d.labels import PART_COLOURS

LONGEST_STEM = 200
"""Bytes of a stem in UTF-8: file systems allow 255 for a name, and suffixes such as '_overlay.jpg' need room."""
_ROOM_FOR_NUMBERS = 16
"""Bytes kept free for '-2' and '-face1', which must not be cut off."""

_STAGE = re.compile(r"\.fit3d-[0-9a-f]{16}-(?P<name>.+?)(?P<face>-face[0-9]+)?\.stage", re.DOTALL)
_PART = re.compile(r"\.fit3d-[0-9a-f]{16}\.part")

_DEVICE_NAMES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another folder",
    errno.EEXIST: "a file stands where a folder is needed; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}
_OF_ONE_FOLDER = (
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
)
"""Why one result's folder may not be written to where those of others may: no full disk is among them."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing bytes; it appears, whole, only when the block ends without an error.

    The bytes go to a temporary file in the same folder, are forced to disk and then renamed; an older file at `path`
    stays as it is until then. After an error the temporary file is gone.

    Raises:
        UsageError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    with usage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".fit3d-{secrets.token_hex(8)}.part")
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def staged(target: Path, outdated: Sequence[str] = ()) -> Iterator[Path]:
    """A hidden folder beside `target`, which takes its place if the block ends well and vanishes if it does not.

    Where `target` exists, files are replaced one by one, its JSON first removed and last moved, because a JSON means
    a complete result; files of other names in it stay, but for those of `outdated`, paths relative to it, that the
    block did not make again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = target.with_name(f".fit3d-{secrets.token_hex(8)}-{safe_stem(target.name)}.stage")
    stage.mkdir()
    try:
        yield stage
        if not target.exists():
            stage.rename(target)
            return
        last = f"{target.name}.json"
        (target / last).unlink(missing_ok=True)
        made = {path.relative_to(stage): path for path in sorted(stage.rglob("*")) if path.is_file()}
        for old in (target / name for name in outdated if Path(name) not in made):
            old.unlink(missing_ok=True)
            if old.parent != target:
                with suppress(OSError):  # not there, or others' files in it
                    old.parent.rmdir()
        for name, path in sorted(made.items(), key=lambda each: str(each[0]) == last):
            (target / name).parent.mkdir(exist_ok=True)
            os.replace(path, target / name)
    except UsageError as error:  # speaks of a folder that the user does not know
        raise UsageError(str(error).replace(stage.name, target.name)) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def is_stage_of(hidden: str, names: Set[str]) -> bool:
    """Whether `hidden` is the name of a folder that `staged` made for a target of one of these names, or for a face
    of it ('-face1', '-face2', ... behind the name)."""
    match = _STAGE.fullmatch(hidden)
    return match is not None and not names.isdisjoint({match["name"], f"{match['name']}{match['face'] or ''}"})


def is_part(hidden: str) -> bool:
    """Whether `hidden` is the name of a temporary file of `atomic_write`."""
    return _PART.fullmatch(hidden) is not None


@contextmanager
def usage_errors(path: str | Path) -> Iterator[None]:
    """Turn what the operating system says about writing `path` into a `UsageError` of one line."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise UsageError(f"cannot write {path}: {reason_of(error)}") from error


def of_one_folder(error: BaseException | None) -> bool:
    """Whether the operating system forbade to write to the folder of one result."""
    while isinstance(error, UsageError):
        error = error.__cause__
    return isinstance(error, OSError) and error.errno in _OF_ONE_FOLDER


def reason_of(error: OSError) -> str:
    """Why something cannot be written and what to do, in the words of the messages."""
    return _REASONS.get(error.errno or 0) or error.strerror or str(error)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 with line feeds, atomically; bytes of file names that are no text as they are."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def write_image(path: str | Path, pixels: np.ndarray) -> None:
    """Write (H, W), (H, W, 3) or (H, W, 4) uint8 `pixels` as PNG or JPEG, by the ending of `path`, atomically."""
    _write_picture(path, Image.fromarray(np.ascontiguousarray(pixels)))


def write_labels(path: str | Path, parts: np.ndarray) -> None:
    """Write a label image (H, W) uint8 as PNG, atomically: values are the ids, the palette holds their colours."""
    image = Image.fromarray(np.ascontiguousarray(parts))
    image.putpalette(bytes(channel for colour in PART_COLOURS for channel in colour))
    _write_picture(path, image)


def _write_picture(path: str | Path, image: Image.Image) -> None:
    # Made in memory first, because Pillow does not say why it cannot write: a full disk would be an unknown error.
    with atomic_write(path) as file:
        file.write(picture_bytes(image, "png" if Path(path).suffix.lower() == ".png" else "jpg"))


def picture_bytes(image: Image.Image, kind: Literal["png", "jpg"], quality: int = 92) -> bytes:
    """The content of a file with the picture; `quality` is that of a JPEG."""
    content = io.BytesIO()
    if kind == "png":
        # The default level of 6 takes two to three times as long for a few per cent. In photos nothing repeats but
        # runs: looking for these only makes smaller files in less time.
        strategy = zlib.Z_DEFAULT_STRATEGY if image.mode == "P" else zlib.Z_RLE
        image.save(content, format="PNG", compress_level=3, compress_type=strategy)
    else:
        image.save(content, format="JPEG", quality=quality, subsampling=0)
    return content.getvalue()


def output_folder(out: str | Path, stem: str, used: set[str], last: dict[str, int] | None = None) -> Path:
    """The folder `out/stem` of one photo, not made yet.

    A stem that is in `used` already gets '-2', '-3', ...; the chosen name is added to `used`, which the caller keeps
    for the photos of one call. Names that are alike to some file system count as the same, see `folded`.
    In `last`, if given, the caller keeps the numbers that were found, so that many photos of one stem take no longer.
    """
    stem = safe_stem(stem, LONGEST_STEM - _ROOM_FOR_NUMBERS)
    last = {} if last is None else last
    number = last.get(folded(stem), 1)
    name = stem if number == 1 else f"{stem}-{number}"
    while folded(name) in used:
        number += 1
        name = f"{stem}-{number}"
    used.add(folded(name))
    last[folded(stem)] = number
    return Path(out) / name


def folded(name: str) -> str:
    """Alike for names that some file system takes for one: those that differ only in case, or in how a letter with an
    accent is encoded, as one character or as two. Unicode's canonical caseless matching (section 3.13, D145)."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def safe_stem(stem: str, longest: int = LONGEST_STEM) -> str:
    """`stem` as a name that every file system takes and that stays inside its folder.

    Characters that Windows forbids and control characters become '_'; so do leading dots; names of devices get a
    '_' in front; the end is cut after `longest` bytes; an empty name becomes 'photo'.
    """
    # undecodable bytes of file names reach Python as lone surrogates, which no text file can hold
    stem = stem.encode("utf-8", "replace").decode("utf-8")
    stem = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "_", stem).lstrip(" ")
    stem = re.sub(r"^\.+", lambda dots: "_" * len(dots.group()), stem)
    stem = stem.encode("utf-8")[:longest].decode("utf-8", "ignore").strip(" ").rstrip(".")
    if stem.split(".")[0].casefold() in _DEVICE_NAMES:
        stem = "_" + stem
    return stem or "photo"
