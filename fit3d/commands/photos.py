"""What commands over photos share: one folder and one line for each face, and photos that fail on the way."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fit3d.commands.console import Console, failure_of_photo
from fit3d.errors import UsageError

if TYPE_CHECKING:
    from fit3d.sighting import FaceChoice, Sighting


def out_place(text: str) -> str:
    """Path or URL of a folder of results, as `--out` has it. Raises UsageError for an empty one, as an unset variable
    of a shell makes it, which would mean the current folder."""
    if not text:
        raise UsageError("--out: an empty path; expected a folder, '.' is the current one")
    return text


def out_folder(text: str) -> Path:
    """The same as a path."""
    return Path(out_place(text))


OutOption = Annotated[
    Path,
    typer.Option(
        "-o", "--out", metavar="OUT", parser=out_folder, help="Results go to OUT/<photo's name>/.", show_default=False
    ),
]
PartsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--parts",
        metavar="LABELS.png",
        help="Label image of the photo's size with the ids or colours of fit3d, used instead of the parser; other "
        "faces in it are left out. With several photos give it once for each, in their order.",
        show_default=False,
    ),
]
LandmarksFileOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--landmarks-file",
        metavar="FILE",
        help="Landmarks of one face, used instead of the detector: JSON, .pts, or two columns of text, in pixels. "
        "With several photos give it once for each, in their order.",
        show_default=False,
    ),
]
FaceOption = Annotated[
    str,
    typer.Option(
        "--face",
        metavar="largest|all|N|X,Y",
        help="Which faces: N counts from 1, the largest; X,Y is a pixel of the photo that the face covers.",
    ),
]


@dataclass(frozen=True)
class Look:
    """How the photos of a call are looked at."""

    landmarks: str
    parser: str
    face: FaceChoice
    note: str = ""
    """What to tell about the choice of both, once anything was found."""
    device: str = "cpu"
    """torch device of detectors and parsers."""


@dataclass(frozen=True)
class PhotoJob:
    """One photo of a call."""

    photo: Path
    folder: Path
    """Where its files go; with `--face all`, '-face1', '-face2', ... are added."""
    parts: Path | None
    landmarks_file: Path | None
    kind: Literal["fit", "observation"]
    """Of the files to be written."""


@dataclass(frozen=True)
class Face:
    """One face that was asked for."""

    job: PhotoJob
    sighting: Sighting
    number: int
    """From 1, the largest."""
    folder: Path
    """Where its files go."""
    told: int | None
    """The number as lines of output tell it: None where one face of the photo was asked for."""
    others: int
    """Faces beside it that may be the wanted one; 0 where the user told which."""


def photo_jobs(
    photos: Sequence[Path],
    out: Path,
    parts: Sequence[Path] | None,
    landmarks_files: Sequence[Path] | None,
    kind: Literal["fit", "observation"],
) -> list[PhotoJob]:
    """The photos of a call with their folders and files.

    Raises:
        UsageError: not as many files as photos; a fit into the results of a batch, whose manifest tells of its own.
    """
    given_parts = _one_for_each("--parts", parts or [], len(photos))
    given_landmarks = _one_for_each("--landmarks-file", landmarks_files or [], len(photos))
    from fit3d.batch.options import OPTIONS_FILE
    from fit3d.export.files import output_folder

    if kind == "fit" and (out / OPTIONS_FILE).is_file():
        raise UsageError(
            f"{out}: holds the results of `fit3d batch` or `fit3d synthesise`, whose manifest would not know of this "
            "fit; choose another folder"
        )
    used = set[str]()
    return [
        PhotoJob(photo, output_folder(out, photo.stem, used), labels, landmarks, kind)
        for photo, labels, landmarks in zip(photos, given_parts, given_landmarks, strict=True)
    ]


def _one_for_each(option: str, files: Sequence[Path], count: int) -> list[Path | None]:
    if not files:
        return [None] * count
    if len(files) != count:
        raise UsageError(
            f"{option} was given {len(files)} times for {count} photos: expected once for each, in their order"
        )
    return list(files)


def for_each_face(
    jobs: Sequence[PhotoJob], out: Path, look: Look, console: Console, do: Callable[[Face, Callable[[str], None]], None]
) -> int:
    """Look at each photo and call `do` with each face that was asked for, and with what it tells its stages to.

    What goes wrong with a photo or a face is reported, and the others go on.

    Returns:
        The exit code: 1 where anything failed, else 0.

    Raises:
        UsageError: a folder holds files of the other kind or edited ones, or the disk is full.
    """
    failed = 0
    with _writable_folder(out):
        _check_vacant(jobs, look.face)
        with console.progress(len(jobs)):
            for job in jobs:
                failed += not _faces_of_photo(job, look, console, do)
                console.advance()
    return 1 if failed else 0


def _check_vacant(jobs: Sequence[PhotoJob], face: FaceChoice) -> None:
    """Raises UsageError, before any work, where a folder that may be written to holds what must not be replaced."""
    from fit3d.export.files import of_one_folder
    from fit3d.saved import check_vacant

    for job in jobs:
        folders = [job.folder]
        if face == "all":
            of_face = re.compile(re.escape(job.folder.name) + "-face[0-9]+")
            folders = sorted(path for path in job.folder.parent.iterdir() if of_face.fullmatch(path.name))
        for folder in folders:
            try:
                check_vacant(folder, job.kind)
            except UsageError as error:
                if not of_one_folder(error):  # else said when its photo's turn comes
                    raise


def _faces_of_photo(
    job: PhotoJob, look: Look, console: Console, do: Callable[[Face, Callable[[str], None]], None]
) -> bool:
    """Returns False where any face failed."""
    from fit3d.pipeline import look as look_at
    from fit3d.sighting import choose_faces

    def stage(description: str) -> None:
        console.stage(f"{job.photo.name}: {description}")

    try:
        stage("looking")
        sighting = look_at(
            job.photo,
            landmarks=look.landmarks,
            parser=look.parser,
            parts=job.parts,
            landmarks_file=job.landmarks_file,
            device=look.device,
        )
        chosen = choose_faces(sighting, look.face)
    except Exception as error:
        _report_failure(job.photo, None, error, console)
        return False

    every_one = True
    for number in chosen:
        told = number if look.face == "all" else None
        folder = job.folder if told is None else job.folder.with_name(f"{job.folder.name}-face{told}")
        others = len(sighting.observations) - 1 if look.face == "largest" else 0
        try:
            do(Face(job, sighting, number, folder, told, others), stage)
            if look.note:
                console.note(look.note)
        except Exception as error:
            _report_failure(job.photo, told, error, console)
            every_one = False
    return every_one


def warn_of_photo(photo: Path, warnings: Sequence[str], console: Console) -> None:
    """The warnings of one photo, each with its name."""
    for warning in warnings:
        console.warn(warning if str(photo) in warning else f"{photo}: {warning}")


def _report_failure(photo: Path, number: int | None, error: Exception, console: Console) -> None:
    """Says that a photo, or its face `number`, could not be done; raises again what concerns the whole call."""
    from fit3d.export.files import of_one_folder

    where = str(photo) if number is None else f"{photo}, face {number}"
    status, message = ("failed", str(error)) if of_one_folder(error) else failure_of_photo(error)
    console.error(message if str(photo) in message else f"{where}: {message}")
    if console.as_json:
        record: dict[str, Any] = {"photo": str(photo), "face": number, "status": status, "error": message}
        console.result("", record)


@contextmanager
def _writable_folder(out: Path) -> Iterator[None]:
    """Makes the folder OUT, checks before any work that it can be written to, and removes it if it stays empty.

    Raises:
        UsageError: it cannot be written to.
    """
    made: list[Path] = []
    try:
        missing = [folder for folder in (out, *out.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            made.append(folder)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        _remove_empty(made)
        from fit3d.export.files import reason_of

        raise UsageError(f"cannot write to the output folder {out}: {reason_of(error)}") from error
    try:
        yield
    finally:
        _remove_empty(made)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Removes those of `folders`, outermost first, that are empty."""
    for folder in reversed(folders):
        with suppress(OSError):  # not empty
            folder.rmdir()
