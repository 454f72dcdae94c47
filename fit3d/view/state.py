"""What the page shows at a moment, apart from any browser: one head, its coefficients and how it is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fit3d.config import ExportConfig
from fit3d.errors import UsageError
from fit3d.export.files import usage_errors
from fit3d.export.obj import write_mtl, write_obj
from fit3d.view.subject import Subject

Look = Literal["texture", "shaded", "wireframe", "parts"]
LOOKS: tuple[Look, ...] = get_args(Look)
ExportFormat = Literal["obj", "glb"]

IDENTITY_SLIDERS = 10
"""Identity shapes that can be moved: the first, which vary most from person to person."""
IDENTITY_LIMIT = 3.0
"""Standard deviations to either side that a slider reaches, unless the fit went further."""
PLAIN = (204, 196, 189)
"""sRGB colour of the texture in a GLB where the result has none."""


class ViewState:
    """One head and what the user has made of it. Not for several threads at a time."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.identity = subject.identity.clone()
        """(K,) float64."""
        self.expression = subject.expression.clone()
        """(L,) float64."""
        self.photo_opacity = 1.0
        self.look: Look = self.looks[0]

    @property
    def looks(self) -> tuple[Look, ...]:
        """The ways in which this head can be drawn."""
        lacking = {"texture": self.subject.texture is None, "parts": self.subject.model is None}
        return tuple(look for look in LOOKS if not lacking.get(look, False))

    def choose_look(self, look: str) -> None:
        """Draw the head that way, where it can be."""
        self.look = next((each for each in self.looks if each == look), self.looks[0])

    def expression_range(self, place: int) -> tuple[float, float]:
        """Bounds of an expression, wide enough for the fit."""
        model = self.subject.model
        assert model is not None
        low, high = model.expression_bounds[place].double().tolist()
        fitted = float(self.subject.expression[place])
        return min(low, fitted), max(high, fitted)

    def identity_range(self, place: int) -> tuple[float, float]:
        """Bounds of an identity shape, standard deviations."""
        fitted = float(self.subject.identity[place])
        return min(-IDENTITY_LIMIT, fitted), max(IDENTITY_LIMIT, fitted)

    @property
    def identity_sliders(self) -> int:
        return min(IDENTITY_SLIDERS, len(self.identity))

    def set_expression(self, place: int, value: float) -> None:
        """Set one coefficient; what lies beyond its bounds, or is no number, goes to the nearest bound or is left."""
        self.expression[place] = _within(value, self.expression_range(place), float(self.expression[place]))

    def set_identity(self, place: int, value: float) -> None:
        """Set one coefficient, standard deviations."""
        self.identity[place] = _within(value, self.identity_range(place), float(self.identity[place]))

    def neutral(self) -> None:
        """No expression; the identity stays."""
        self.expression.zero_()

    def fitted(self) -> None:
        """Everything as the fit found it."""
        self.identity.copy_(self.subject.identity)
        self.expression.copy_(self.subject.expression)

    def vertices(self) -> Tensor:
        """(V, 3) float32, world, metres: quick, for the page."""
        model = self.subject.model
        if model is None:
            return torch.from_numpy(np.asarray(self.subject.still, np.float32))
        return model.vertices(self.identity.float(), self.expression.float())

    def export(self, kind: ExportFormat) -> Path:
        """Write the head as it stands now beside its result, to a new file, and return its path.

        Raises:
            UsageError: there is no model to make it, or the folder cannot be written to.
        """
        subject, model = self.subject, self.subject.model
        if model is None:
            raise UsageError("the face model is not installed: the head is as its OBJ has it")
        with usage_errors(subject.folder):
            subject.folder.mkdir(parents=True, exist_ok=True)
            path = _vacant(subject.folder, subject.name, kind)
            if kind == "obj":
                mtl = subject.folder / f"{subject.name}.mtl"
                if not mtl.exists():
                    write_mtl(mtl, f"{subject.name}_texture.png")
                write_obj(path, model.vertices(self.identity, self.expression), model, mtl.name, ExportConfig())
            else:
                from fit3d.export.glb import write_glb

                neutral = model.vertices(self.identity, torch.zeros_like(self.expression))
                texture = subject.texture
                if texture is None:
                    texture = np.full((16, 16, 3), PLAIN, np.uint8)
                write_glb(path, neutral, self.expression, model, texture, subject.camera)
        return path


def _within(value: float, bounds: tuple[float, float], otherwise: float) -> float:
    # not a number is below and above nothing
    return min(max(float(value), bounds[0]), bounds[1]) if value == value else otherwise


def _vacant(folder: Path, name: str, kind: ExportFormat) -> Path:
    """`<name>_view.<kind>`, or the first of `<name>_view-2.<kind>` and so on that is not there."""
    number, path = 1, folder / f"{name}_view.{kind}"
    while path.exists():
        number += 1
        path = folder / f"{name}_view-{number}.{kind}"
    return path
