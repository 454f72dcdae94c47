"""What a fit returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from fit3d.camera import Camera, Crop

Status = Literal["ok", "poor"]


@dataclass(frozen=True)
class Fit:
    """One face fitted: parameters, camera, and how the optimisation went."""

    identity: Tensor
    """(K,) float64, standard deviations."""
    expression: Tensor
    """(L,) float64, within the model's bounds."""
    camera: Camera
    """Of the whole photo."""
    crop: Crop
    """Where the energy was measured."""
    parts: np.ndarray
    """(H, W) uint8: the fitted model's visible part labels at the photo's size."""
    part_iou: dict[str, float]
    """Overlap of `parts` with the observed label image by part name, and 'mean' over parts 1-7; a part absent
    from the observation is left out."""
    landmark_nme: float
    """Mean distance of fitted to observed landmarks that had a say, over the diagonal of their box."""
    energy_start: dict[str, float]
    """Value of each energy term at the start of the last stage; weighted, so without unit."""
    energy_end: dict[str, float]
    """Value of each energy term at the end."""
    iterations: int
    """Steps taken, of both stages together."""
    stop_reason: str
    """Of the last stage, see `solve.levenberg_marquardt.StopReason`."""
    mistrust: tuple[str, ...] = ()
    """Why the fit is not to be trusted, one sentence each."""
    warnings: tuple[str, ...] = ()
    """All that the user should check by eye, `mistrust` included."""

    @property
    def status(self) -> Status:
        """'poor' where the fit is not to be trusted."""
        return "poor" if self.mistrust else "ok"
