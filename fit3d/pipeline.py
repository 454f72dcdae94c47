"""One photo from file to files: look, choose a face, fit, texture, write. The stages stand here in reading order."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from fit3d import __version__
from fit3d.checks import check_device, check_focal, check_texture_size, is_finite, is_whole
from fit3d.config import ExportConfig, FitConfig, Format, Overlay, TextureConfig
from fit3d.errors import NoFaceError, UsageError
from fit3d.export.colmap import COLMAP_FILES, write_colmap
from fit3d.export.files import safe_stem, staged, usage_errors, write_image, write_labels
from fit3d.export.obj import write_mtl, write_obj
from fit3d.export.observation import edited_file, observation_names, write_observation
from fit3d.export.result_json import FocalSource, GivenFile, Source, result_dict, write_result
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.registry import load_model
from fit3d.observe.base import Landmarks, Observation
from fit3d.observe.look import observe
from fit3d.observe.registry import AUTO
from fit3d.photo import Photo, load_photo
from fit3d.render.overlay import overlay
from fit3d.render.texture import project_texture
from fit3d.solve.fit import fit_observation
from fit3d.solve.result import Fit

FaceChoice = Literal["largest", "all"] | int | tuple[float, float]
"""Which faces of a photo: the largest, all, one by its number (1 is the largest, 2 the next), or the one at a place
(x, y), photo px."""


@dataclass(frozen=True)
class Sighting:
    """A photo and the faces seen in it."""

    photo: Photo
    observations: tuple[Observation, ...]
    """One for each face, the largest first; never empty."""
    timings_s: dict[str, float]
    """Seconds of the stages 'load' and 'observe'."""
    parts_file: GivenFile | None = None
    """The label image that the user gave."""
    landmarks_file: GivenFile | None = None
    """The landmarks that the user gave."""

    def save(self, folder: str | Path, name: str | None = None, face: int = 1) -> Saved:
        """Write what was found of face number `face` to `folder/name/`, to be looked at and corrected by hand.

        The files are those of docs/correcting.md; `name` and the rest are as in `Reconstruction.save`.

        Raises:
            UsageError: the folder cannot be written to, holds a fit or files edited by hand, or the disk is full.
        """
        target = Path(folder) / safe_stem(Path(self.photo.path).stem.strip("<>") if name is None else name)
        check_vacant(target, "observation")
        watch = Stopwatch(self.timings_s)
        every = tuple(observation_names(target.name).values())
        with usage_errors(target), staged(target, every) as stage, watch.stage("write"):
            files = write_observation(stage, target.name, self.photo, self.observations[face - 1], face)
        timings_s = watch.seconds | {"total": sum(watch.seconds.values())}
        return Saved(target, {kind: target / path.name for kind, path in files.items()}, timings_s)


@dataclass(frozen=True)
class Saved:
    """Where a result was written."""

    folder: Path
    files: dict[str, Path]
    """By kind. Of a fit 'json', 'texture', 'overlay', 'parts' and those of its formats ('obj', 'neutral_obj' and 'mtl';
    'glb'; 'cameras', 'images' and 'points3D'); of an observation 'landmarks', 'pts', 'labelme', 'parts', 'picture'."""
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

    def save(self, folder: str | Path, name: str | None = None, export: ExportConfig | None = None) -> Saved:
        """Write the files of README's table to `folder/name/`, `name` being the photo's stem unless given.

        All or nothing: the files are made in a hidden folder beside and then moved; an earlier result of that name
        is replaced, and stays as it is where writing fails. Characters of `name` that no folder can have become '_'.
        `export` says which files and in which units; None is `ExportConfig()`.

        Raises:
            UsageError: the folder cannot be written to or holds an observation, or the disk is full.
        """
        target = Path(folder) / safe_stem(Path(self.photo.path).stem.strip("<>") if name is None else name)
        check_vacant(target, "fit")
        every = result_names(target.name, get_args(Format)).values()
        with usage_errors(target), staged(target, tuple(every)) as stage:
            files, timings_s = self._write(stage, target.name, export or ExportConfig())
        return Saved(target, {kind: target / path.relative_to(stage) for kind, path in files.items()}, timings_s)

    def _write(self, folder: Path, stem: str, export: ExportConfig) -> tuple[dict[str, Path], dict[str, float]]:
        """Write all files to `folder`, the JSON last. Returns them by kind, and the seconds of each stage."""
        files = {kind: folder / name for kind, name in result_names(stem, export.formats, export.overlay).items()}
        watch = Stopwatch(self.timings_s)
        with watch.stage("write"):
            if "obj" in export.formats:
                write_obj(files["obj"], self.vertices, self.model, files["mtl"].name, export)
                write_obj(files["neutral_obj"], self.neutral_vertices, self.model, files["mtl"].name, export)
                write_mtl(files["mtl"], files["texture"].name)
            if "glb" in export.formats:
                from fit3d.export.glb import write_glb  # its library takes a while to import

                expression, camera, made_by = self.fit.expression, self.fit.camera, f"fit3d {__version__}"
                write_glb(files["glb"], self.neutral_vertices, expression, self.model, self.texture, camera, made_by)
            if "colmap" in export.formats:
                image = stem if self.photo.path.startswith("<") else Path(self.photo.path).name
                write_colmap(files["cameras"].parent, self.fit.camera, image)
            write_image(files["texture"], self.texture)
            write_labels(files["parts"], self.fit.parts)
            picture = overlay(
                self.photo, self.observation, self.model, self.vertices, self.fit, self.texture, export.overlay
            )
            if picture is not None:
                write_image(files["overlay"], picture)
        timings_s = watch.seconds | {"total": sum(watch.seconds.values())}
        result = result_dict(
            photo=self.photo,
            model=self.model,
            observation=self.observation,
            fit=self.fit,
            source=self.source,
            config=self.config,
            export=export,
            timings_s=timings_s,
            warnings=self.warnings,
            fit3d_version=__version__,
        )
        write_result(files["json"], result)
        return files, timings_s


def result_names(stem: str, formats: Sequence[Format], drawn: Overlay = "sheet") -> dict[str, str]:
    """Names of a result's files by kind, relative to its folder; see `Saved.files`."""
    by_format: dict[Format, dict[str, str]] = {
        "obj": {"obj": f"{stem}.obj", "neutral_obj": f"{stem}_neutral.obj", "mtl": f"{stem}.mtl"},
        "glb": {"glb": f"{stem}.glb"},
        "colmap": {name.removesuffix(".txt"): f"colmap/{name}" for name in COLMAP_FILES},
    }
    names = {kind: name for each, those in by_format.items() if each in formats for kind, name in those.items()}
    if drawn != "none":
        names["overlay"] = f"{stem}_overlay.jpg"
    return names | {
        "texture": f"{stem}_texture.png",
        "parts": f"{stem}_parts.png",
        "json": f"{stem}.json",
    }


def fit(
    photo: str | Path | Photo | np.ndarray,
    *,
    model: str | MorphableModel = "anny",
    landmarks: str = AUTO,
    parser: str = AUTO,
    parts: str | Path | None = None,
    landmarks_file: str | Path | None = None,
    face: Literal["largest"] | int | tuple[float, float] = "largest",
    focal_px: float | None = None,
    texture_size: int = TextureConfig.size,
    delight: bool = TextureConfig.delight,
    config: FitConfig | None = None,
) -> Reconstruction:
    """Fit a face model to one face of a photo.

    Args:
        photo: an image file, or its upright sRGB pixels (H, W, 3) uint8.
        model: name of a face model (`fit3d models list`), or one that is loaded.
        landmarks: landmark detector; 'auto' takes the best one that can run, see `fit3d.observe.registry`.
        parser: face parser; the same.
        parts: label image of the photo's size with the ids of `fit3d.labels`, used instead of the parser; the parts
            of other faces in it are left out.
        landmarks_file: landmarks of one face of the photo, used instead of the detector, see
            `fit3d.observe.landmark_file`.
        face: 'largest', the number of the face, 1 being the largest, or a place (x, y) in it, photo px.
        focal_px: focal length in pixels; None takes it from EXIF, else the default field of view of `config`.
        texture_size: side of the texture, px.
        delight: take the light's slow changes out of the texture.
        config: how to fit; None is `FitConfig()`. Its device is also that of detectors and parsers.

    Raises:
        PhotoError: the photo cannot be read, or holds no such face.
        UsageError: an unknown model, detector or parser, or one that is not installed; a face number, focal length,
            texture size or device that cannot be.
    """
    check_face(face, every=False)
    _check(focal_px, texture_size, config)
    sighting = look(
        photo,
        landmarks=landmarks,
        parser=parser,
        parts=parts,
        landmarks_file=landmarks_file,
        device=(config or FitConfig()).device,
    )
    chosen = choose_faces(sighting, face)[0]
    return reconstruct(
        sighting,
        face=chosen,
        model=model,
        focal_px=focal_px,
        texture_size=texture_size,
        delight=delight,
        config=config,
    )


def fit_faces(
    photo: str | Path | Photo | np.ndarray,
    *,
    model: str | MorphableModel = "anny",
    landmarks: str = AUTO,
    parser: str = AUTO,
    focal_px: float | None = None,
    texture_size: int = TextureConfig.size,
    delight: bool = TextureConfig.delight,
    config: FitConfig | None = None,
) -> list[Reconstruction]:
    """Fit a face model to every face of a photo, the largest first. Arguments and errors are those of `fit`."""
    _check(focal_px, texture_size, config)
    sighting = look(photo, landmarks=landmarks, parser=parser, device=(config or FitConfig()).device)
    return [
        reconstruct(
            sighting,
            face=face,
            model=model,
            focal_px=focal_px,
            texture_size=texture_size,
            delight=delight,
            config=config,
        )
        for face in choose_faces(sighting, "all")
    ]


def look(
    photo: str | Path | Photo | np.ndarray,
    *,
    landmarks: str = AUTO,
    parser: str = AUTO,
    parts: str | Path | None = None,
    landmarks_file: str | Path | None = None,
    device: str = FitConfig.device,
) -> Sighting:
    """Read a photo and find the faces in it; with `landmarks_file`, the one face that it tells of.

    `device` is the torch device of detectors and parsers that compute with torch. The other arguments are those of
    `fit`.

    Raises:
        UnreadablePhotoError: the file is not a usable image.
        NoFaceError: there is no face.
        LandmarkFileError: `landmarks_file` does not belong to the photo.
        LabelImageError: `parts` does not belong to the photo.
        UsageError: an unknown detector or parser, or one that is not installed; a device that cannot be.
    """
    check_device(device)
    watch = Stopwatch()
    with watch.stage("load"):
        if isinstance(photo, np.ndarray):
            photo = Photo.from_array(photo)
        elif not isinstance(photo, Photo):
            photo = load_photo(photo)
    with watch.stage("observe"):
        observations = observe(
            photo,
            landmarks=landmarks,
            parser=parser,
            parts_file=parts,
            device=device,
            landmarks_file=landmarks_file,
        )
    return Sighting(
        photo=photo,
        observations=tuple(observations),
        timings_s=watch.seconds,
        parts_file=_given(parts),
        landmarks_file=_given(landmarks_file),
    )


def _given(path: str | Path | None) -> GivenFile | None:
    return None if path is None else GivenFile(str(path), sha256(Path(path).read_bytes()).hexdigest())


def choose_faces(sighting: Sighting, face: FaceChoice) -> list[int]:
    """Numbers of the wanted faces, counted from 1, the largest.

    Raises:
        NoFaceError: the photo has fewer faces than the number asked for, or none at the place asked for.
        UsageError: not a face that there can be.
    """
    check_face(face)
    count = len(sighting.observations)
    if face == "all":
        return list(range(1, count + 1))
    if isinstance(face, tuple | list):
        return [_face_at(sighting, float(face[0]), float(face[1]))]
    number = 1 if face == "largest" else face
    if number > count:
        has = "1 face was" if count == 1 else f"{count} faces were"
        raise NoFaceError(f"{sighting.photo.path}: face {number} was asked for, but only {has} found")
    return [number]


def _face_at(sighting: Sighting, x: float, y: float) -> int:
    """Number of the face at a place, photo px: the one whose landmarks' hull holds it or, if none does, whose box.

    Where several do, it is the one whose middle is nearest, in sides of its box.

    Raises:
        NoFaceError: no face holds it.
    """

    def rank(landmarks: Landmarks) -> tuple[int, float]:
        left, top, right, bottom = landmarks.box_px
        distance = math.hypot(x - (left + right) / 2.0, y - (top + bottom) / 2.0) / max(right - left, bottom - top)
        in_box = left <= x <= right and top <= y <= bottom
        return 0 if in_box and _in_hull(landmarks.points_px, x, y) else 1 if in_box else 2, distance

    ranks = [rank(observation.landmarks) for observation in sighting.observations]
    best = ranks.index(min(ranks))
    if ranks[best][0] == 2:
        photo = sighting.photo
        if x > photo.width or y > photo.height:
            raise NoFaceError(
                f"{photo.path}: no face at pixel {x:g},{y:g}, which is outside the photo of {photo.width} x "
                f"{photo.height} px"
            )
        left, top, right, bottom = sighting.observations[best].landmarks.box_px
        raise NoFaceError(
            f"{photo.path}: no face at pixel {x:g},{y:g}; the nearest is face {best + 1}, which reaches from "
            f"{left:.0f},{top:.0f} to {right:.0f},{bottom:.0f}"
        )
    return best + 1


def _in_hull(points: np.ndarray, x: float, y: float) -> bool:
    """Whether a place lies in the convex hull of points (N, 2): seen from it, they leave no half plane free."""
    away = points[np.isfinite(points).all(1)] - (x, y)
    angles = np.sort(np.arctan2(away[:, 1], away[:, 0]))
    return bool(np.diff(angles, append=angles[0] + 2.0 * np.pi).max() <= np.pi)


def reconstruct(
    sighting: Sighting,
    *,
    face: int = 1,
    model: str | MorphableModel = "anny",
    focal_px: float | None = None,
    texture_size: int = TextureConfig.size,
    delight: bool = TextureConfig.delight,
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
        texture = project_texture(
            photo.pixels, vertices, loaded, fitted.camera, observation.parts, texture_size, delight
        )
    return Reconstruction(
        photo=photo,
        observation=observation,
        model=loaded,
        fit=fitted,
        vertices=vertices,
        neutral_vertices=neutral,
        texture=texture.image,
        config=config,
        source=Source(
            focal=focal_source,
            face=face,
            parts_file=sighting.parts_file,
            texture_size=texture_size,
            landmarks_file=sighting.landmarks_file,
            delight=delight,
            light=None if texture.light is None else texture.light.coefficients,
        ),
        timings_s=watch.seconds,
        warnings=(*photo.warnings, *observation.warnings, *fitted.warnings),
    )


def check_face(face: Any, every: bool = True) -> None:
    """Raises UsageError for what is neither 'largest', the number of a face, a place (x, y) nor, if `every` face may
    be asked for, 'all'."""
    if isinstance(face, str):
        known = face == "largest" or (every and face == "all")
    elif isinstance(face, tuple | list):
        known = len(face) == 2 and all(is_finite(value) and value >= 0 for value in face)
    else:
        known = is_whole(face) and face >= 1
    if not known:
        names = "'largest', 'all'" if every else "'largest'"
        raise UsageError(
            f"face {face!r}: expected {names}, a number from 1 (the largest face) on or a place (x, y) in photo pixels"
        )


def check_vacant(folder: Path, kind: Literal["fit", "observation"]) -> None:
    """Raises UsageError where `folder` holds the other kind of files, as both have a label image of the same name and
    one may have been painted by hand, or files of an observation that were edited."""
    other, mark = ("observation", "_landmarks.json") if kind == "fit" else ("fit", ".json")
    with usage_errors(folder):
        occupied = (folder / f"{folder.name}{mark}").exists()
    if occupied:
        raise UsageError(
            f"{folder} holds the {other} of a photo, whose {folder.name}_parts.png would be replaced; choose another "
            "folder (-o)"
        )
    edited = edited_file(folder, folder.name) if kind == "observation" else None
    if edited is not None:
        raise UsageError(
            f"{edited} is not as fit3d wrote it and would be replaced; move it away or choose another folder (-o)"
        )


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
