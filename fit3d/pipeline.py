"""One photo from file to files: look, choose a face, fit, texture, write. The stages stand here in reading order."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from fit3d import __version__
from fit3d.checks import check_device, check_focal, check_texture_size, is_whole
from fit3d.config import FitConfig, TextureConfig
from fit3d.errors import NoFaceError, UsageError
from fit3d.export.files import safe_stem, usage_errors, write_image, write_labels
from fit3d.export.obj import write_mtl, write_obj
from fit3d.export.result_json import FocalSource, PartsFile, Source, result_dict, write_result
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.registry import load_model
from fit3d.observe.base import Observation
from fit3d.observe.look import observe
from fit3d.photo import Photo, load_photo
from fit3d.render.overlay import overlay
from fit3d.render.texture import project_texture
from fit3d.solve.fit import fit_observation
from fit3d.solve.result import Fit

FaceChoice = Literal["largest", "all"] | int
"""Which faces of a photo: the largest, all, or one by its number; 1 is the largest, 2 the next."""


@dataclass(frozen=True)
class Sighting:
    """A photo and the faces seen in it."""

    photo: Photo
    observations: tuple[Observation, ...]
    """One for each face, the largest first; never empty."""
    timings_s: dict[str, float]
    """Seconds of the stages 'load' and 'observe'."""
    parts_file: PartsFile | None = None
    """The label image that the user gave."""


@dataclass(frozen=True)
class Saved:
    """Where a result was written."""

    folder: Path
    files: dict[str, Path]
    """By kind: 'json', 'obj', 'mtl', 'texture', 'neutral_obj', 'overlay', 'parts'."""
    timings_s: dict[str, float]
    """Seconds of each stage, 'write' and 'total' included."""


@dataclass(frozen=True)
class Reconstruction:
    """One face of one photo, fitted."""

    photo: Photo
    observation: Observation
    model: MorphableModel
    fit: Fit
    vertices: Tensor
    """(V, 3) float64, world, metres: the face as in the photo, with expression."""
    neutral_vertices: Tensor
    """(V, 3) float64, world, metres: the same person without expression."""
    texture: np.ndarray
    """(S, S, 3) uint8, sRGB, in the model's UV layout: the photo where the head is visible, filled in elsewhere."""
    config: FitConfig
    source: Source
    """Which face it is and where the focal length and the labels came from."""
    timings_s: dict[str, float]
    """Seconds of the stages 'load', 'observe', 'fit' and 'texture'."""
    warnings: tuple[str, ...] = ()
    """All that the user should know, one sentence each."""

    def with_warning(self, text: str) -> Reconstruction:
        """The same with one warning more."""
        return replace(self, warnings=(*self.warnings, text))

    def save(self, folder: str | Path, name: str | None = None) -> Saved:
        """Write the files of README's table to `folder/name/`, `name` being the photo's stem unless given.

        All or nothing: the files are made in a hidden folder beside and then moved; an earlier result of that name
        is replaced, and stays as it is where writing fails. Characters of `name` that no folder can have become '_'.

        Raises:
            UsageError: the folder cannot be written to, or the disk is full.
        """
        target = Path(folder) / safe_stem(Path(self.photo.path).stem.strip("<>") if name is None else name)
        with usage_errors(target), _staged(target) as stage:
            files, timings_s = self._write(stage, target.name)
        return Saved(target, {kind: target / path.name for kind, path in files.items()}, timings_s)

    def _write(self, folder: Path, stem: str) -> tuple[dict[str, Path], dict[str, float]]:
        """Write all files to `folder`, the JSON last. Returns them by kind, and the seconds of each stage."""
        files = {
            "obj": folder / f"{stem}.obj",
            "mtl": folder / f"{stem}.mtl",
            "texture": folder / f"{stem}_texture.png",
            "neutral_obj": folder / f"{stem}_neutral.obj",
            "overlay": folder / f"{stem}_overlay.jpg",
            "parts": folder / f"{stem}_parts.png",
            "json": folder / f"{stem}.json",
        }
        watch = Stopwatch(self.timings_s)
        with watch.stage("write"):
            write_obj(files["obj"], self.vertices, self.model, files["mtl"].name)
            write_obj(files["neutral_obj"], self.neutral_vertices, self.model, files["mtl"].name)
            write_mtl(files["mtl"], files["texture"].name)
            write_image(files["texture"], self.texture)
            write_labels(files["parts"], self.fit.parts)
            write_image(files["overlay"], overlay(self.photo, self.observation, self.model, self.vertices, self.fit))
        timings_s = watch.seconds | {"total": sum(watch.seconds.values())}
        result = result_dict(
            photo=self.photo,
            model=self.model,
            observation=self.observation,
            fit=self.fit,
            source=self.source,
            config=self.config,
            timings_s=timings_s,
            warnings=self.warnings,
            fit3d_version=__version__,
        )
        write_result(files["json"], result)
        return files, timings_s


def fit(
    photo: str | Path | Photo | np.ndarray,
    *,
    model: str | MorphableModel = "anny",
    landmarks: str = "mediapipe",
    parser: str = "contours",
    parts: str | Path | None = None,
    face: Literal["largest"] | int = "largest",
    focal_px: float | None = None,
    texture_size: int = TextureConfig.size,
    config: FitConfig | None = None,
) -> Reconstruction:
    """Fit a face model to one face of a photo.

    Args:
        photo: an image file, or its upright sRGB pixels (H, W, 3) uint8.
        model: name of a face model (`fit3d models list`), or one that is loaded.
        landmarks: landmark detector.
        parser: face parser.
        parts: label image of the photo's size with the ids of `fit3d.labels`, used instead of the parser; the parts
            of other faces in it are left out.
        face: 'largest', or the number of the face, 1 being the largest.
        focal_px: focal length in pixels; None takes it from EXIF, else the default field of view of `config`.
        texture_size: side of the texture, px.
        config: how to fit; None is `FitConfig()`.

    Raises:
        PhotoError: the photo cannot be read, or holds no such face.
        UsageError: an unknown model, detector or parser, or one that is not installed; a face number, focal length,
            texture size or device that cannot be.
    """
    check_face(face, every=False)
    _check(focal_px, texture_size, config)
    sighting = look(photo, landmarks=landmarks, parser=parser, parts=parts)
    chosen = choose_faces(sighting, face)[0]
    return reconstruct(sighting, face=chosen, model=model, focal_px=focal_px, texture_size=texture_size, config=config)


def fit_faces(
    photo: str | Path | Photo | np.ndarray,
    *,
    model: str | MorphableModel = "anny",
    landmarks: str = "mediapipe",
    parser: str = "contours",
    focal_px: float | None = None,
    texture_size: int = TextureConfig.size,
    config: FitConfig | None = None,
) -> list[Reconstruction]:
    """Fit a face model to every face of a photo, the largest first. Arguments and errors are those of `fit`."""
    _check(focal_px, texture_size, config)
    sighting = look(photo, landmarks=landmarks, parser=parser)
    return [
        reconstruct(sighting, face=face, model=model, focal_px=focal_px, texture_size=texture_size, config=config)
        for face in choose_faces(sighting, "all")
    ]


def look(
    photo: str | Path | Photo | np.ndarray,
    *,
    landmarks: str = "mediapipe",
    parser: str = "contours",
    parts: str | Path | None = None,
) -> Sighting:
    """Read a photo and find the faces in it.

    Raises:
        UnreadablePhotoError: the file is not a usable image.
        NoFaceError: there is no face.
        LabelImageError: `parts` does not belong to the photo.
    """
    watch = Stopwatch()
    with watch.stage("load"):
        if isinstance(photo, np.ndarray):
            photo = Photo.from_array(photo)
        elif not isinstance(photo, Photo):
            photo = load_photo(photo)
    with watch.stage("observe"):
        observations = observe(photo, landmarks=landmarks, parser=parser, parts_file=parts)
        parts_file = None if parts is None else PartsFile(str(parts), sha256(Path(parts).read_bytes()).hexdigest())
    return Sighting(photo=photo, observations=tuple(observations), timings_s=watch.seconds, parts_file=parts_file)


def choose_faces(sighting: Sighting, face: FaceChoice) -> list[int]:
    """Numbers of the wanted faces, counted from 1, the largest.

    Raises:
        NoFaceError: the photo has fewer faces than the number asked for.
        UsageError: not a face that there can be.
    """
    check_face(face)
    count = len(sighting.observations)
    if face == "all":
        return list(range(1, count + 1))
    number = 1 if face == "largest" else face
    if number > count:
        has = "1 face was" if count == 1 else f"{count} faces were"
        raise NoFaceError(f"{sighting.photo.path}: face {number} was asked for, but only {has} found")
    return [number]


def reconstruct(
    sighting: Sighting,
    *,
    face: int = 1,
    model: str | MorphableModel = "anny",
    focal_px: float | None = None,
    texture_size: int = TextureConfig.size,
    config: FitConfig | None = None,
    on_stage: Callable[[str], None] = lambda description: None,
) -> Reconstruction:
    """Fit the model to face number `face` of a sighting and take its texture from the photo.

    `on_stage` is told what begins, in a word or two. The other arguments and the errors are those of `fit`.
    """
    config = config or FitConfig()
    _check(focal_px, texture_size, config)
    (face,) = choose_faces(sighting, face)
    watch = Stopwatch(sighting.timings_s)
    photo, observation = sighting.photo, sighting.observations[face - 1]
    assumed: FocalSource = "fitted" if config.focal.refine_sd > 0 else "default"
    focal_source: FocalSource = assumed if photo.focal_px is None else "exif" if photo.exif else "user"
    if focal_px is None:
        focal_px = photo.focal_px
        check_focal(focal_px)  # pixels from memory come with one that nobody looked at
    else:
        focal_source = "user"
    with watch.stage("load"):
        loaded = load_model(model) if isinstance(model, str) else model
    on_stage("fitting")
    with watch.stage("fit"):
        fitted = fit_observation(loaded, observation, photo.width, photo.height, focal_px, config)
        vertices = loaded.vertices(fitted.identity, fitted.expression)
        neutral = loaded.vertices(fitted.identity, fitted.expression.new_zeros(len(loaded.expression_names)))
    on_stage("texturing")
    with watch.stage("texture"):
        texture = project_texture(photo.pixels, vertices, loaded, fitted.camera, observation.parts, texture_size)
    return Reconstruction(
        photo=photo,
        observation=observation,
        model=loaded,
        fit=fitted,
        vertices=vertices,
        neutral_vertices=neutral,
        texture=texture,
        config=config,
        source=Source(focal_source, face, sighting.parts_file, texture_size),
        timings_s=watch.seconds,
        warnings=(*photo.warnings, *observation.warnings, *fitted.warnings),
    )


def check_face(face: Any, every: bool = True) -> None:
    """Raises UsageError for what is neither 'largest', the number of a face nor, if `every` face may be asked for,
    'all'."""
    if isinstance(face, str):
        known = face == "largest" or (every and face == "all")
    else:
        known = is_whole(face) and face >= 1
    if not known:
        names = "'largest', 'all'" if every else "'largest'"
        raise UsageError(f"face {face!r}: expected {names} or a number from 1 (the largest face) on")


def _check(focal_px: float | None, texture_size: int, config: FitConfig | None) -> None:
    """Raises UsageError for what cannot be, before any work."""
    check_focal(focal_px)
    check_texture_size(texture_size)
    if config is not None:
        check_device(config.device)


class Stopwatch:
    """Adds up the seconds of named stages."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = dict(seconds or {})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, which takes its place if the block ends well and vanishes if it does not.

    Where `target` exists, files are replaced one by one, its JSON first removed and last moved, because a JSON means
    a complete result; files of other names in it stay.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    stage.mkdir()
    try:
        yield stage
        if not target.exists():
            stage.rename(target)
            return
        last = f"{target.name}.json"
        (target / last).unlink(missing_ok=True)
        for path in sorted(stage.iterdir(), key=lambda path: path.name == last):
            os.replace(path, target / path.name)
    except UsageError as error:  # speaks of a folder that the user does not know
        raise UsageError(str(error).replace(stage.name, target.name)) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
