"""The options of a fit, declared once for all commands that fit photos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from fit3d.checks import LARGEST_TEXTURE, SMALLEST_TEXTURE, check_focal
from fit3d.commands.options import (
    DEFAULTS,
    EXPORT,
    FORMATS,
    AnchorsOption,
    DelightOption,
    FocalOption,
    FormatOption,
    IterationsOption,
    LandmarksOption,
    LossOption,
    ModelOption,
    OverlayOption,
    ParserOption,
    SeedOption,
    SolverOption,
    UnitsOption,
    UpOption,
    check_backends,
    export_config,
    fit_config,
)
from fit3d.commands.photos import FaceOption
from fit3d.config import ExportConfig, FitConfig, TextureConfig
from fit3d.observe.registry import AUTO


@dataclass(frozen=True)
class FaceOptions:
    """What is fitted, and how."""

    model: ModelOption = "anny"
    landmarks: LandmarksOption = AUTO
    parser: ParserOption = AUTO
    face: FaceOption = "largest"
    loss: LossOption = DEFAULTS.loss
    solver: SolverOption = DEFAULTS.solver
    anchors: AnchorsOption = DEFAULTS.anchors
    iterations: IterationsOption = DEFAULTS.iterations
    focal: FocalOption = None

    def check(self) -> None:
        """Raises UsageError for values that cannot be."""
        check_focal(self.focal, "--focal")
        check_backends(self.landmarks, self.parser)

    def config(self, device: str, seed: int = DEFAULTS.seed) -> FitConfig:
        """How to fit; sets torch up for it."""
        return fit_config(
            loss=self.loss,
            solver=self.solver,
            anchors=self.anchors,
            iterations=self.iterations,
            seed=seed,
            device=device,
        )


@dataclass(frozen=True)
class FitOptions(FaceOptions):
    """The same, and which files are written."""

    seed: SeedOption = DEFAULTS.seed
    texture_size: Annotated[
        int,
        typer.Option(
            "--texture-size", min=SMALLEST_TEXTURE, max=LARGEST_TEXTURE, help="Side of the texture image in pixels."
        ),
    ] = TextureConfig.size
    delight: DelightOption = TextureConfig.delight
    formats: FormatOption = FORMATS
    units: UnitsOption = EXPORT.units
    up: UpOption = EXPORT.up
    overlay: OverlayOption = EXPORT.overlay

    def export(self) -> ExportConfig:
        """The files to write."""
        return export_config(self.formats, self.units, self.up, self.overlay)
