"""One photo from file to reconstruction: look, choose a face, fit, texture. The stages stand here in reading order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np

from fit3d.checks import check_device, check_focal, check_texture_size
from fit3d.config import FitConfig, TextureConfig
from fit3d.export.result_json import FocalSource, GivenFile, Source
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.registry import load_model
from fit3d.observe.look import observe
from fit3d.observe.registry import AUTO
from fit3d.photo import Photo, load_photo
from fit3d.reconstruction import Reconstruction
from fit3d.render.texture import project_texture
from fit3d.saved import Stopwatch
from fit3d.sighting import Sighting, check_face, choose_faces
from fit3d.solve.fit import fit_observation
from fit3d.solve.result import Fit


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
        parts_file=given_file(parts),
        landmarks_file=given_file(landmarks_file),
    )


def given_file(path: str | Path | None) -> GivenFile | None:
    """What a result says of a file that the user gave."""
    return None if path is None else GivenFile(str(path), sha256(Path(path).read_bytes()).hexdigest())


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
    photo = sighting.photo
    focal = focal_length(photo, focal_px, config)
    with watch.stage("load"):
        loaded = load_model(model) if isinstance(model, str) else model
    on_stage("fitting")
    with watch.stage("fit"):
        observation = sighting.observations[face - 1]
        fitted = fit_observation(loaded, observation, photo.width, photo.height, focal.px, config)
    on_stage("texturing")
    return with_texture(
        replace(sighting, timings_s=watch.seconds), face, loaded, fitted, focal.source, texture_size, delight, config
    )


@dataclass(frozen=True)
class FocalLength:
    """Of a photo, as far as it is known before the fit."""

    px: float | None
    """None where nobody tells."""
    source: FocalSource


def focal_length(photo: Photo, focal_px: float | None, config: FitConfig) -> FocalLength:
    """The user's word, else that of EXIF, else none. Raises UsageError for one that no camera has."""
    if focal_px is not None:
        return FocalLength(focal_px, "user")
    check_focal(photo.focal_px)  # pixels from memory come with one that nobody looked at
    if photo.focal_px is not None:
        return FocalLength(photo.focal_px, "exif" if photo.exif else "user")
    return FocalLength(None, "fitted" if config.focal.refine_sd > 0 else "default")


def with_texture(
    sighting: Sighting,
    face: int,
    model: MorphableModel,
    fitted: Fit,
    focal_source: FocalSource,
    texture_size: int,
    delight: bool,
    config: FitConfig,
) -> Reconstruction:
    """The result of a fit of `model` to face number `face` of a sighting, whose timings include that of the fit."""
    watch = Stopwatch(sighting.timings_s)
    photo, observation = sighting.photo, sighting.observations[face - 1]
    with watch.stage("texture"):
        vertices = model.vertices(fitted.identity, fitted.expression)
        neutral = model.vertices(fitted.identity, fitted.expression.new_zeros(len(model.expression_names)))
        texture = project_texture(
            photo.pixels, vertices, model, fitted.camera, observation.parts, texture_size, delight
        )
    return Reconstruction(
        photo=photo,
        observation=observation,
        model=model,
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


def _check(focal_px: float | None, texture_size: int, config: FitConfig | None) -> None:
    """Raises UsageError for what cannot be, before any work."""
    check_focal(focal_px)
    check_texture_size(texture_size)
    if config is not None:
        check_device(config.device)
