"""What the commands of `fit3d evaluate` have in common: groups of options, each declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from fit3d.commands.console import Console
from fit3d.commands.options import (
    DEFAULTS,
    MEASURED_LANDMARKS,
    MEASURED_PARSER,
    AnchorsOption,
    DeviceOption,
    IterationsOption,
    LandmarksOption,
    ParserOption,
    QuietOption,
    check_backends,
    fit_config,
)
from fit3d.config import FitConfig, Loss, Solver

Labels = Literal["auto", "fit3d", "lapa", "helen", "celebamask", "bisenet", "3ddfa-v3"]
"""`fit3d.observe.label_layouts.LayoutName`, which `--help` must not load, and 'auto'."""

LabelledFolder = Annotated[
    Path,
    typer.Argument(
        help="Photos with label images: X.png or X.jpg beside X_parts.png, or a data set as it is given away: LaPa, "
        "Helen (both with images/ and labels/) or CelebAMask-HQ.",
        show_default=False,
    ),
]
LabelsOption = Annotated[
    Labels,
    typer.Option(
        "--labels",
        help="Which ids the label images have; mapped by name, left and right to the person's own. 'auto' goes by the "
        "names of files and folders alone and asks where these do not tell.",
    ),
]
ObservedOption = Annotated[
    Literal["labels", "parser"],
    typer.Option("--observed", help="What drives the fit: the people's labels (as `fit --parts`) or the face parser."),
]


@dataclass(frozen=True)
class BackendOptions:
    """Who looks at the photos."""

    landmarks: LandmarksOption = MEASURED_LANDMARKS
    parser: ParserOption = MEASURED_PARSER

    def check(self) -> None:
        """Raises UsageError for a detector or parser that does not exist."""
        check_backends(self.landmarks, self.parser)


@dataclass(frozen=True)
class SolvingOptions:
    """How long and where the solver works."""

    anchors: AnchorsOption = DEFAULTS.anchors
    iterations: IterationsOption = DEFAULTS.iterations
    device: DeviceOption = DEFAULTS.device

    def config(self, loss: Loss, solver: Solver = "lm", seed: int = DEFAULTS.seed) -> FitConfig:
        """How to fit; sets torch up for it."""
        return fit_config(
            loss=loss,
            solver=solver,
            anchors=self.anchors,
            iterations=self.iterations,
            seed=seed,
            device=self.device,
        )


@dataclass(frozen=True)
class OutputOptions:
    """How the command speaks."""

    quiet: QuietOption = False
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False

    def console(self) -> Console:
        """Where it speaks."""
        return Console(quiet=self.quiet, as_json=self.as_json)
