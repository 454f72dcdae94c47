"""fit3d fits a 3D morphable face model to photos by optimisation.

The public names, by what they are for (loaded when first used, so that `import fit3d` is instant):

    Fitting        fit, fit_faces, fit_batch, Reconstruction
    Editing        edit_photo, synthesise_batch, Edit, Recipe
    Configuration  FitConfig, CropConfig, FocalConfig, PartsConfig, PrdlConfig, CombinedConfig, RivalConfig,
                   LandmarkConfig, PriorConfig, TextureConfig, ExportConfig
    Face models    load_model, MorphableModel
    Photos         load_photo, Photo, Observation
    Geometry       Camera, Crop
    Errors         Fit3dError, UsageError, PhotoError, UnreadablePhotoError, NoFaceError, LabelImageError,
                   LandmarkFileError, ObservationError, ModelFileError
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fit3d.batch.library import fit_batch
    from fit3d.camera import Camera, Crop
    from fit3d.config import (
        CombinedConfig,
        CropConfig,
        ExportConfig,
        FitConfig,
        FocalConfig,
        LandmarkConfig,
        PartsConfig,
        PrdlConfig,
        PriorConfig,
        RivalConfig,
        TextureConfig,
    )
    from fit3d.errors import (
        Fit3dError,
        LabelImageError,
        LandmarkFileError,
        ModelFileError,
        NoFaceError,
        ObservationError,
        PhotoError,
        UnreadablePhotoError,
        UsageError,
    )
    from fit3d.morphable.model import MorphableModel
    from fit3d.morphable.registry import load_model
    from fit3d.observe.base import Observation
    from fit3d.photo import Photo, load_photo
    from fit3d.pipeline import fit, fit_faces
    from fit3d.reconstruction import Reconstruction
    from fit3d.synthesise.edit import Edit, edit_photo
    from fit3d.synthesise.library import synthesise_batch
    from fit3d.synthesise.recipes import Recipe

__version__ = "0.1.0"

_MODULE_OF = {
    "fit": "fit3d.pipeline",
    "fit_faces": "fit3d.pipeline",
    "fit_batch": "fit3d.batch.library",
    "Reconstruction": "fit3d.reconstruction",
    "edit_photo": "fit3d.synthesise.edit",
    "synthesise_batch": "fit3d.synthesise.library",
    "Edit": "fit3d.synthesise.edit",
    "Recipe": "fit3d.synthesise.recipes",
    "FitConfig": "fit3d.config",
    "CropConfig": "fit3d.config",
    "FocalConfig": "fit3d.config",
    "PartsConfig": "fit3d.config",
    "PrdlConfig": "fit3d.config",
    "CombinedConfig": "fit3d.config",
    "RivalConfig": "fit3d.config",
    "LandmarkConfig": "fit3d.config",
    "PriorConfig": "fit3d.config",
    "TextureConfig": "fit3d.config",
    "ExportConfig": "fit3d.config",
    "load_model": "fit3d.morphable.registry",
    "MorphableModel": "fit3d.morphable.model",
    "load_photo": "fit3d.photo",
    "Photo": "fit3d.photo",
    "Observation": "fit3d.observe.base",
    "Camera": "fit3d.camera",
    "Crop": "fit3d.camera",
    "Fit3dError": "fit3d.errors",
    "UsageError": "fit3d.errors",
    "PhotoError": "fit3d.errors",
    "UnreadablePhotoError": "fit3d.errors",
    "NoFaceError": "fit3d.errors",
    "LabelImageError": "fit3d.errors",
    "LandmarkFileError": "fit3d.errors",
    "ObservationError": "fit3d.errors",
    "ModelFileError": "fit3d.errors",
}

__all__ = [
    "Camera",
    "CombinedConfig",
    "Crop",
    "CropConfig",
    "Edit",
    "ExportConfig",
    "Fit3dError",
    "FitConfig",
    "FocalConfig",
    "LabelImageError",
    "LandmarkConfig",
    "LandmarkFileError",
    "ModelFileError",
    "MorphableModel",
    "NoFaceError",
    "Observation",
    "ObservationError",
    "PartsConfig",
    "Photo",
    "PhotoError",
    "PrdlConfig",
    "PriorConfig",
    "Recipe",
    "Reconstruction",
    "RivalConfig",
    "TextureConfig",
    "UnreadablePhotoError",
    "UsageError",
    "__version__",
    "edit_photo",
    "fit",
    "fit_batch",
    "fit_faces",
    "load_model",
    "load_photo",
    "synthesise_batch",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fit3d' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
