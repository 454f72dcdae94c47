"""The weights that detectors and parsers need: which files, from where, under which licence, whether they are there.

A file lies where the backend's own package looks for it, so that the package finds it as if it had fetched it itself,
or, where the package looks nowhere, in fit3d's data folder. Nothing is downloaded but by `pull`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from fit3d.download import download_file
from fit3d.errors import UsageError
from fit3d.resources import home

State = Literal["present", "missing", "damaged"]
Outcome = Literal["there", "downloaded", "copied", "failed"]


@dataclass(frozen=True)
class WeightFile:
    """One file of weights."""

    name: str
    """What it is called where its package looks for it."""
    address: str
    licence: str
    """In a sentence, with whether results may be sold."""
    about_mb: float
    """About how much there is to download, 10^6 bytes."""
    size: int | None = None
    """Bytes; None where that is not published."""
    sha256: str | None = None
    """In hexadecimal, whole or its first ten digits, which torch's hub writes into names; None where no checksum is
    published."""
    folder: Literal["torch hub", "fit3d"] = "torch hub"

    @property
    def path(self) -> Path:
        """Where it belongs."""
        return (hub_folder() if self.folder == "torch hub" else weights_folder()) / self.name

    @property
    def backends(self) -> tuple[str, ...]:
        """Names of the backends that need it."""
        return tuple(name for name, files in BACKENDS.items() if self in files)


_FAN_LICENCE = (
    "BSD-3-Clause by its author's word, which lets results be sold; he does not own the photos it was trained on "
    "(300W-LP and others, for research), so ask a lawyer before you sell."
)
_FACER_LICENCE = (
    "MIT for facer and FaRL, but trained on {0}, for non-commercial research only: take results as not for sale."
)
_FAN_URL = "https://www.adrianbulat.com/downloads/python-fan/"
_BLAZEFACE_URL = "https://github.com/hollance/BlazeFace-PyTorch/blob/master/"
_BLAZEFACE_LICENCE = "Apache-2.0 (MediaPipe's network, converted by M. Hollemans): results may be sold."
_FACER_URL = "https://github.com/FacePerceiver/facer/releases/download/models-v1/"

# Checksums: the makers publish none but the ten digits in the names of the first three. The others and the rest of
# these are those on which several independent projects that pin the same addresses agree.
FAN_2D = WeightFile(
    name="2DFAN4-11f355bf06.pth.tar",
    address=f"{_FAN_URL}2DFAN4-11f355bf06.pth.tar",
    licence=_FAN_LICENCE,
    about_mb=95.6,
    sha256="11f355bf0693120222f5955ce3f9dc8fb5763ebb30a47d7906e509490d32e4aa",
)
FAN_3D = WeightFile(
    name="3DFAN4-7835d9f11d.pth.tar",
    address=f"{_FAN_URL}3DFAN4-7835d9f11d.pth.tar",
    licence=_FAN_LICENCE,
    about_mb=95.6,
    sha256="7835d9f11d",
)
SFD = WeightFile(
    name="s3fd-619a316812.pth",
    address=f"{_FAN_URL}s3fd-619a316812.pth",
    licence="BSD-3-Clause with face-alignment, which lets results be sold; trained on WIDER FACE, photos for research.",
    about_mb=89.8,
    size=89_843_225,
    sha256="619a31681264d3f7f7fc7a16a42cbbe8b23f31a256f75a366e5a1bcd59b33543",
)
BLAZEFACE = WeightFile(
    name="blazefaceback.pth",
    address=f"{_BLAZEFACE_URL}blazefaceback.pth?raw=true",
    licence=_BLAZEFACE_LICENCE,
    about_mb=0.6,
)
BLAZEFACE_ANCHORS = WeightFile(
    name="anchorsback.npy",
    address=f"{_BLAZEFACE_URL}anchorsback.npy?raw=true",
    licence=_BLAZEFACE_LICENCE,
    about_mb=0.02,
)
YUNET = WeightFile(
    name="face_detection_yunet_2023mar.onnx",
    address="https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/face_detection_yunet_2023mar.onnx",
    licence="MIT (S. Yu, OpenCV's model zoo): results may be sold.",
    about_mb=0.2,
    size=232_589,
    sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
)
SCRFD = WeightFile(
    name="scrfd_2.5g_bnkps.onnx",  # face-alignment renames it
    address="https://github.com/yakhyo/facial-analysis/releases/download/v0.0.1/det_2.5g.onnx",
    licence="InsightFace's networks are for non-commercial research only: results may not be sold.",
    about_mb=3.3,
)
FARL_LAPA = WeightFile(
    name="face_parsing.farl.lapa.main_ema_136500_jit191.pt",
    address=f"{_FACER_URL}face_parsing.farl.lapa.main_ema_136500_jit191.pt",
    licence=_FACER_LICENCE.format("LaPa"),
    about_mb=646.6,
    size=646_604_126,
    sha256="f5a874906795ef89fadd7cf3b5b218ed8550fa9dbb383b7c0f95726c3a352914",
)
FARL_CELEBM = WeightFile(
    name="face_parsing.farl.celebm.main_ema_181500_jit.pt",
    address=f"{_FACER_URL}face_parsing.farl.celebm.main_ema_181500_jit.pt",
    licence=_FACER_LICENCE.format("CelebAMask-HQ"),
    about_mb=646.6,
    size=646_629_586,
    sha256="bbc1f0e9f68c80eb83a0b23f33850d1e10f2ec1eda96884112d111c2c1f15c79",
)
RETINAFACE = WeightFile(
    name="mobilenet0.25_Final.pth",
    address="https://github.com/elliottzheng/face-detection/releases/download/0.0.1/mobilenet0.25_Final.pth",
    licence="MIT, which lets results be sold; trained on WIDER FACE, photos for research.",
    about_mb=1.8,
    size=1_789_735,
    sha256="2979b33ffafda5d74b6948cd7a5b9a7a62f62b949cef24e95fd15d2883a65220",
)
FACE_LANDMARKER = WeightFile(
    name="face_landmarker.task",
    # version 1: under `latest` there may be another file tomorrow
    address="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
    licence="Apache-2.0: results may be sold.",
    about_mb=3.8,
    size=3_758_596,
    sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    folder="fit3d",
)

_FACE_DETECTORS: dict[str, tuple[WeightFile, ...]] = {
    "sfd": (SFD,),
    "blazeface": (BLAZEFACE, BLAZEFACE_ANCHORS),
    "yunet": (YUNET,),
    "scrfd": (SCRFD,),
}
BACKENDS: dict[str, tuple[WeightFile, ...]] = {
    **{f"face-alignment:{name}": (FAN_2D, *files) for name, files in _FACE_DETECTORS.items()},
    **{f"face-alignment-3d:{name}": (FAN_3D, *files) for name, files in _FACE_DETECTORS.items()},
    "facer:lapa": (FARL_LAPA, RETINAFACE),
    "facer:celebm": (FARL_CELEBM, RETINAFACE),
    "mediapipe": (FACE_LANDMARKER,),
}
"""The files of each backend that needs any, by its name in `fit3d.observe.registry`; of variants the first is the one
that the name without a colon means."""
FILES: tuple[WeightFile, ...] = tuple(dict.fromkeys(file for files in BACKENDS.values() for file in files))


@dataclass(frozen=True)
class Finding:
    """What was found of a file."""

    file: WeightFile
    state: State
    problem: str = ""
    """What is wrong with a damaged one."""


@dataclass(frozen=True)
class Pulled:
    """How a file came to be there, or that it did not."""

    file: WeightFile
    outcome: Outcome
    problem: str = ""
    """Why it failed."""


def hub_folder() -> Path:
    """`torch.hub.get_dir()` and its folder `checkpoints`, without importing torch, which takes seconds."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "hub"):  # it may have been told another folder: torch.hub.set_dir
        return Path(torch.hub.get_dir()) / "checkpoints"
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.path.expanduser(os.environ.get("TORCH_HOME", os.path.join(cache, "torch")))) / "hub" / "checkpoints"


def weights_folder() -> Path:
    """Where fit3d keeps weights whose package looks nowhere."""
    return home() / "weights"


def mediapipe_holds_weights() -> bool:
    """Whether the installed MediaPipe has FaceMesh and its weights inside, as up to version 0.10.21."""
    try:
        spec = find_spec("mediapipe")
    except ValueError:  # loaded, from no file
        return True
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    return any((Path(folder) / "python" / "solutions").is_dir() for folder in folders)


def files_of(name: str) -> tuple[WeightFile, ...]:
    """The files of a backend, or the file of that name.

    Raises:
        UsageError: nothing that has weights is called so.
    """
    found = _files_of_backend(name) or tuple(file for file in FILES if file.name == name)
    if not found:
        known = dict.fromkeys([*(backend.partition(":")[0] for backend in BACKENDS), *BACKENDS])
        raise UsageError(f"there are no weights for {name!r}; choose of {', '.join(known)}")
    return found


def path(name: str) -> Path:
    """Where the file of that name belongs. Raises UsageError where there is none such."""
    (file,) = files_of(name)
    return file.path


def state_of(file: WeightFile) -> State:
    """What a glance at the file says; `verify` reads it from end to end."""
    try:
        found = file.path.stat()
    except OSError:
        return "missing"
    right = file.path.is_file() and found.st_size > 0 and file.size in (None, found.st_size)
    return "present" if right else "damaged"


def lacking(name: str) -> tuple[WeightFile, ...]:
    """The files that a backend needs and that are not there, or of a wrong size; none for one without weights."""
    if name == "mediapipe" and mediapipe_holds_weights():
        return ()
    return tuple(file for file in _files_of_backend(name) if state_of(file) != "present")


def present(name: str) -> bool:
    """Whether a backend has all the weights it needs."""
    return not lacking(name)


def require(name: str) -> None:
    """Raise UsageError, which says what to type, unless a backend has all the weights it needs."""
    files = lacking(name)
    if files:
        what = ", ".join(f"{file.name} ({state_of(file)})" for file in files)
        raise UsageError(f"{name} needs weights: {what}; run: fit3d weights pull {name}")


def verify(names: Sequence[str] | None = None) -> list[Finding]:
    """Read the files of some backends, by default all files, from end to end."""
    findings = []
    for file in FILES if names is None else _files_of_all(names):
        state, problem = state_of(file), ""
        if state != "missing":
            try:
                check(file, file.path)
            except (UsageError, OSError) as error:
                state, problem = "damaged", str(error)
        findings.append(Finding(file, state, problem))
    return findings


def check(file: WeightFile, found: Path) -> None:
    """Raise UsageError unless what lies at `found` is `file`: its size and checksum, as far as they are published."""
    size = found.stat().st_size
    if file.size not in (None, size):
        raise UsageError(f"{file.name}: {size} bytes, expected {file.size}")
    if file.sha256 is not None:
        sha256 = _sha256(found)
        if not sha256.startswith(file.sha256):
            raise UsageError(f"{file.name}: SHA-256 {sha256[:12]}..., expected {file.sha256[:12]}...")
        return
    with open(found, "rb") as stream:
        start = stream.read(1024)
    if b"\0" not in start:  # all weights hold zero bytes; pages of servers and proxies that answer for them do not
        raise UsageError(f"{file.name}: holds text, expected weights")


def pull(
    names: Sequence[str],
    from_folder: str | Path | None = None,
    on_bytes: Callable[[WeightFile, int], None] = lambda file, so_far: None,
    on_file: Callable[[Pulled], None] = lambda pulled: None,
) -> list[Pulled]:
    """Get the weights of some backends to where their packages look; good ones stay, damaged ones are replaced.

    Where one fails, the others are got all the same.

    Args:
        names: of backends, with or without variant, or of files.
        from_folder: copy the files from this folder, by their names, instead of downloading them.
        on_bytes: told now and then how many bytes of a file have come.
        on_file: told of each file that is there, and of each that failed.

    Raises:
        UsageError: nothing has such a name, or the folder lacks a file, which is said before any work; at the end, all
            that went wrong: the network, the server or the folder failed, or a file is not the right one. Of those that
            failed no package finds anything.
    """
    files = _files_of_all(names)
    wanted = [finding.file for finding in verify(names) if finding.state != "present"]
    sources = {} if from_folder is None else _sources(wanted, Path(from_folder))
    pulled = []
    silent: set[str] = set()
    for file in files:
        host = urlparse(file.address).netloc
        outcome: Outcome = "there"
        problem = ""
        try:
            if file in sources:
                _copy(sources[file], file)
                outcome = "copied"
            elif file in wanted and host in silent:
                raise UsageError(f"{file.address} was not tried: no connection to {host}")
            elif file in wanted:
                _download(file, on_bytes)
                outcome = "downloaded"
        except UsageError as error:
            outcome, problem = "failed", str(error)
            if is_of_connection(problem):
                silent.add(host)  # each of its files would wait as long, in vain
        pulled.append(Pulled(file, outcome, problem))
        on_file(pulled[-1])
    problems = [each.problem for each in pulled if each.outcome == "failed"]
    if problems:
        raise UsageError("; ".join(problems))
    return pulled


def is_of_connection(problem: str) -> bool:
    """Whether a file failed because its server cannot be reached, as words of `fit3d.download` tell."""
    return any(sign in problem for sign in ("no connection", "no answer"))


def _download(file: WeightFile, on_bytes: Callable[[WeightFile, int], None]) -> None:
    def heed(part: Path) -> None:
        try:
            check(file, part)
        except UsageError as error:
            raise UsageError(
                f"what came from {file.address} was deleted: {error}; run the same command again"
            ) from error

    # without a checksum nobody could tell that the file has changed between two halves of its download
    download_file(file.address, file.path, heed, lambda so_far: on_bytes(file, so_far), resume=file.sha256 is not None)


def _sources(files: Sequence[WeightFile], folder: Path) -> dict[WeightFile, Path]:
    """Where the files lie in a folder, under their own names or those of their addresses."""
    found: dict[WeightFile, Path] = {}
    for file in files:
        names = (file.name, Path(urlparse(file.address).path).name)
        for candidate in (folder / name for name in names):
            if candidate.is_file():
                found.setdefault(file, candidate)
    absent = [file.name for file in files if file not in found]
    if absent:
        raise UsageError(f"{folder} does not hold {', '.join(absent)}; `fit3d weights list` says where to get them")
    return found


def _copy(source: Path, file: WeightFile) -> None:
    target = file.path
    temporary = target.with_name(f".fit3d-{secrets.token_hex(8)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, temporary)
            check(file, temporary)
            with open(temporary, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except UsageError as error:
        raise UsageError(f"{source} was not taken: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot copy {source} to {target}: {error.strerror or error}") from error


def _files_of_backend(name: str) -> tuple[WeightFile, ...]:
    """None for a backend without weights."""
    if name in BACKENDS:
        return BACKENDS[name]
    return next((files for backend, files in BACKENDS.items() if backend.startswith(f"{name}:")), ())


def _files_of_all(names: Sequence[str]) -> list[WeightFile]:
    """Each file once."""
    return list(dict.fromkeys(file for name in names for file in files_of(name)))


def _sha256(found: Path) -> str:
    digest = hashlib.sha256()
    with open(found, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
