"""Every default of the fit, once: frozen dataclasses with the meaning and unit of each value.

Lengths in 'crop px' are pixels of the 224-pixel square around the face, in which one pixel is about one millimetre.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Loss = Literal["prdl", "landmarks"]
Solver = Literal["lm", "adam"]
Statistic = Literal["min", "max", "mean"]


@dataclass(frozen=True)
class CropConfig:
    """The square around the face in which the energy is measured."""

    resolution: int = 224
    """Side of the crop's raster, px."""
    margin: float = 0.25
    """Room left on each side of the landmarks' box, as a share of its longer side."""


@dataclass(frozen=True)
class FocalConfig:
    """What is assumed of the lens when neither the user nor EXIF tells."""

    default_fov_deg: float = 30.0
    """Field of view along the photo's longer side, degrees."""


@dataclass(frozen=True)
class PrdlConfig:
    """The Part Re-projection Distance Loss."""

    weight: float = 10.0
    """Energy of one squared crop px of mean descriptor error."""
    statistics: tuple[Statistic, ...] = ("min", "max", "mean")
    """Distances compared at each anchor: to the nearest, the furthest, and the mean over all points of a part."""
    part_weights: tuple[float, ...] = (2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0, 0.3)
    """Weight of each part of `labels.PRDL_PARTS`: small parts count more, skin, whose border hair hides, less."""
    mean_anchors: int = 12
    """Anchors along each side for 'mean', which varies so slowly that a coarse grid tells all."""
    missing_part_px: float = 6.0
    """Descriptor error, crop px, charged for a part that the photo shows and the model at the moment does not. It has
    no direction; it only makes a step that loses a part from sight not worth while."""
    mean_points: int = 128
    """Most points of a part that 'mean' averages, an even stride over all of them."""


@dataclass(frozen=True)
class LandmarkConfig:
    """The landmark term."""

    noise_px: float = 1.5
    """Standard deviation of a detector's landmark, crop px."""
    contour_noise_px: float = 3.0
    """The same for landmarks of the face contour, which detectors place less surely."""
    outlier_px: float = 6.0
    """Residual, crop px, at which a landmark's pull stops growing (Geman-McClure scale)."""
    effective_count: float = 68.0
    """Landmarks of one detector err together: however many there are, they weigh as this many independent ones."""


RARE_EXPRESSIONS: frozenset[str] = frozenset(
    ("cheekPuff", "jawForward", "jawLeft", "jawRight", "mouthLeft", "mouthRight", "tongueOut")
)


@dataclass(frozen=True)
class PriorConfig:
    """What is believed of a face before seeing the photo."""

    identity: float = 1.0
    """Weight of the squared Mahalanobis length of the identity."""
    expression_sd: float = 0.35
    """Standard deviation of an expression coefficient around zero."""
    rare_expression_sd: float = 0.15
    """The same for expressions that faces in photos hardly ever show, and that would else stand in for an unusual
    shape: `RARE_EXPRESSIONS`."""
    asymmetry_sd: float = 0.15
    """Standard deviation of the difference between a left expression and its right twin."""


@dataclass(frozen=True)
class FitConfig:
    """How a face is fitted."""

    loss: Loss = "prdl"
    """'prdl': part re-projection distance and landmarks; 'landmarks': landmarks alone."""
    solver: Solver = "lm"
    """'lm': Levenberg-Marquardt on exact normal equations; 'adam': the plain autograd reference."""
    anchors: int = 32
    """Anchors along each side of the crop."""
    iterations: int = 15
    """Most Levenberg-Marquardt steps with PRDL (Adam takes 20 times as many)."""
    seed: int = 0
    """Seed of every random draw."""
    device: str = "cpu"
    """torch device of the fit."""
    crop: CropConfig = field(default_factory=CropConfig)
    focal: FocalConfig = field(default_factory=FocalConfig)
    prdl: PrdlConfig = field(default_factory=PrdlConfig)
    landmarks: LandmarkConfig = field(default_factory=LandmarkConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)


@dataclass(frozen=True)
class TextureConfig:
    """The texture image."""

    size: int = 2048
    """Side, px."""
