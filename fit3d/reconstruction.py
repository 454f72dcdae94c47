"""One fitted face and its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from torch import Tensor

from fit3d import __version__
from fit3d.config import ExportConfig, FitConfig, Format, Overlay
from fit3d.export.colmap import COLMAP_FILES, write_colmap
from fit3d.export.files import safe_stem, staged, usage_errors, write_image, write_labels
from fit3d.export.obj import write_mtl, write_obj
from fit3d.export.result_json import Source, result_dict, write_result
from fit3d.morphable.model import MorphableModel
from fit3d.observe.base import Observation
from fit3d.photo import Photo
from fit3d.render.overlay import overlay
from fit3d.saved import Saved, Stopwatch, check_vacant
from fit3d.solve.result import Fit


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
