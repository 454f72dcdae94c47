"""Every default of the fit, once: frozen dataclasses with the meaning and unit of each value.

Lengths in 'crop px' are pixels of the 224-pixel square around the face, in which one pixel is about one millimetre.
A value that makes no sense raises UsageError where it is set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from fit3d.checks import check_choice, check_positive, check_texture_size, check_whole
from fit3d.errors import UsageError
from fit3d.labels import PRDL_PARTS

Loss = Literal["prdl+icp", "prdl", "chamfer", "density-chamfer", "icp", "silhouette", "landmarks"]
Solver = Literal["lm", "adam"]
Statistic = Literal["min", "max", "mean"]
Units = Literal["m", "cm", "mm"]
Up = Literal["y", "z"]
Format = Literal["obj", "glb", "colmap"]
Overlay = Literal["sheet", "shaded", "wireframe", "parts", "none"]


@dataclass(frozen=True)
class CropConfig:
    """The square around the face in which the energy is measured."""

    resolution: int = 224
    """Side of the crop's raster, px."""
    margin: float = 0.25
    """Room left on each side of the landmarks' box, as a share of its longer side."""

    def __post_init__(self) -> None:
        check_whole("crop.resolution", self.resolution, 2)
        check_positive("crop.margin", self.margin, zero=True)

    @property
    def unit_px(self) -> float:
        """Raster pixels of the crop per 'crop px', which are those of a 224-pixel crop."""
        return self.resolution / 224.0


@dataclass(frozen=True)
class FocalConfig:
    """What is assumed of the lens when neither the user nor EXIF tells."""

    default_fov_deg: float = 30.0
    """Field of view along the photo's longer side, degrees."""
    refine_sd: float = 0.3
    """Standard deviation of the logarithm of the focal length around that default, within which the fit looks for it;
    0 keeps the default."""

    def __post_init__(self) -> None:
        check_positive("focal.refine_sd", self.refine_sd, zero=True)
        check_positive("focal.default_fov_deg", self.default_fov_deg)
        if self.default_fov_deg >= 180.0:
            raise UsageError(f"focal.default_fov_deg {self.default_fov_deg:g}: expected less than 180 degrees")


@dataclass(frozen=True)
class PartsConfig:
    """What every loss between the parts of photo and model has in common."""

    weights: tuple[float, ...] = (2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0, 0.3)
    """Weight of each part of `labels.PRDL_PARTS`: small parts count more, skin, whose border hair hides, less."""
    missing_px: float = 6.0
    """Error, crop px, charged for a part that the photo shows and the model at the moment does not. It has no
    direction; it only makes a step that loses a part from sight not worth while."""
    shut_weight: float = 5.0
    """Energy of one crop px, squared, root mean square, between the lids of an eye that the photo shows shut: it has no
    part to compare."""
    forehead: bool = False
    """Whether skin above the line through the brows counts, which hair and hats end anywhere."""
    under_hair: bool = False
    """Whether pixels that hair or something else before the face covers count as 'not this part', instead of saying
    nothing."""

    def __post_init__(self) -> None:
        if len(self.weights) != len(PRDL_PARTS):
            raise UsageError(
                f"parts.weights: got {len(self.weights)} weights, expected {len(PRDL_PARTS)}, one per part"
            )
        for weight in self.weights:
            check_positive("parts.weights", weight, zero=True)
        check_positive("parts.missing_px", self.missing_px, zero=True)
        check_positive("parts.shut_weight", self.shut_weight, zero=True)


@dataclass(frozen=True)
class PrdlConfig:
    """The Part Re-projection Distance Loss."""

    weight: float = 3.0
    """Energy of one squared crop px of mean descriptor error, with the loss 'prdl'; see `CombinedConfig` for
    'prdl+icp'."""
    statistics: tuple[Statistic, ...] = ("min", "max", "mean")
    """Distances compared at each anchor: to the nearest, the furthest, and the mean over all points of a part."""
    extent: float = 1.0
    """Side of the square of anchors around the crop's middle, as a share of the crop's."""
    mean_anchors: int = 12
    """Anchors along each side for 'mean', which varies so slowly that a coarse grid tells all."""
    mean_points: int = 128
    """Points of a part, about, that 'mean' averages: an even share of its pixels."""

    def __post_init__(self) -> None:
        check_positive("prdl.weight", self.weight)
        if not self.statistics:
            raise UsageError(f"prdl.statistics: got none, expected one or more of {get_args(Statistic)}")
        for statistic in self.statistics:
            check_choice("prdl.statistics", statistic, get_args(Statistic))
        check_positive("prdl.extent", self.extent)
        if self.extent > 1.0:
            raise UsageError(f"prdl.extent {self.extent:g}: expected at most 1, the whole crop")
        check_whole("prdl.mean_anchors", self.mean_anchors, 2)
        check_whole("prdl.mean_points", self.mean_points, 1)


@dataclass(frozen=True)
class CombinedConfig:
    """The loss 'prdl+icp': energy of one squared crop px of error in a part of weight 1."""

    prdl: float = 1.0
    """Of mean descriptor error, see `PrdlConfig`."""
    icp: float = 10.0
    """Of mean distance between outlines, each way."""

    def __post_init__(self) -> None:
        check_positive("combined.prdl", self.prdl)
        check_positive("combined.icp", self.icp)


@dataclass(frozen=True)
class RivalConfig:
    """Losses between parts that PRDL is compared with: energy of one squared crop px of error, see each loss.

    Each weight, PRDL's and the combination's too, is the one that brings heads of known shape nearest to the truth
    when landmarks and labels are as noisy as real ones (docs/results.md).
    """

    chamfer: float = 50.0
    density_chamfer: float = 100.0
    icp: float = 10.0
    silhouette: float = 3.0

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            check_positive(f"rivals.{name}", weight)


@dataclass(frozen=True)
class LandmarkConfig:
    """The landmark term."""

    noise_px: float = 1.5
    """Standard deviation of a detector's landmark, crop px."""
    contour_noise_px: float = 3.0
    """The same for landmarks of the face contour, which detectors place less surely."""
    beyond_photo: float = 3.0
    """How many times less sure a landmark is that lies outside the photo, where the detector can only guess."""
    outlier_px: float = 6.0
    """Residual, crop px, at which a landmark's pull stops growing (Geman-McClure scale)."""
    effective_count: float = 68.0
    """Landmarks of one detector err together: however many there are, they weigh as this many independent ones."""

    def __post_init__(self) -> None:
        check_positive("landmarks.noise_px", self.noise_px)
        check_positive("landmarks.contour_noise_px", self.contour_noise_px)
        check_positive("landmarks.beyond_photo", self.beyond_photo)
        check_positive("landmarks.outlier_px", self.outlier_px)
        check_positive("landmarks.effective_count", self.effective_count)


RARE_EXPRESSIONS: frozenset[str] = frozenset(
    (
        "cheekPuff",
        "cheekPuffLeft",
        "cheekPuffRight",
        "jawForward",
        "jawLeft",
        "jawRight",
        "mouthLeft",
        "mouthRight",
        "tongueOut",
    )
)


@dataclass(frozen=True)
class PriorConfig:
    """What is believed of a face before seeing the photo."""

    identity: float = 1.2
    """Weight of the squared Mahalanobis length of the identity. 1 would be the population's own prior, if the errors of
    parts and landmarks were independent; they are not."""
    identity_limit: float = 0.95
    """Root mean square of the identity, standard deviations, beyond which it is held back by `identity_stiffness`."""
    identity_stiffness: float = 100.0
    """Energy of an identity one standard deviation longer (Mahalanobis length) than the limit allows."""
    expression_sparsity: float = 4.0
    """Energy of an expression at its full strength for not being absent: keeps expressions few."""
    expression_sd: float = 0.5
    """Standard deviation of an expression coefficient around zero."""
    rare_expression_sd: float = 0.15
    """The same for expressions that faces in photos hardly ever show, and that would else stand in for an unusual
    shape: `RARE_EXPRESSIONS`."""
    asymmetry_sd: float = 0.15
    """Standard deviation of the difference between a left expression and its right twin."""

    def __post_init__(self) -> None:
        check_positive("prior.identity", self.identity)
        check_positive("prior.identity_limit", self.identity_limit)
        check_positive("prior.identity_stiffness", self.identity_stiffness, zero=True)
        check_positive("prior.expression_sparsity", self.expression_sparsity, zero=True)
        check_positive("prior.expression_sd", self.expression_sd)
        check_positive("prior.rare_expression_sd", self.rare_expression_sd)
        check_positive("prior.asymmetry_sd", self.asymmetry_sd)


@dataclass(frozen=True)
class FitConfig:
    """How a face is fitted."""

    loss: Loss = "prdl+icp"
    """'prdl': part re-projection distance and landmarks, as the paper has it; 'prdl+icp': the same with the parts'
    outlines matched too; 'landmarks': landmarks alone; the others compare parts by a loss that PRDL is measured
    against."""
    solver: Solver = "lm"
    """'lm': Levenberg-Marquardt on exact normal equations; 'adam': the plain autograd reference."""
    anchors: int = 32
    """Anchors along each side of the crop."""
    iterations: int = 15
    """Most evaluations of the energy with parts, rejected steps included (Adam takes 20 times as many steps)."""
    seed: int = 0
    """Seed of random draws. The present solvers draw nothing; results say which seed they were made with."""
    device: str = "cpu"
    """torch device of the fit, and of detectors and parsers that compute with torch."""
    crop: CropConfig = field(default_factory=CropConfig)
    focal: FocalConfig = field(default_factory=FocalConfig)
    parts: PartsConfig = field(default_factory=PartsConfig)
    prdl: PrdlConfig = field(default_factory=PrdlConfig)
    combined: CombinedConfig = field(default_factory=CombinedConfig)
    rivals: RivalConfig = field(default_factory=RivalConfig)
    landmarks: LandmarkConfig = field(default_factory=LandmarkConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, get_args(Loss))
        check_choice("solver", self.solver, get_args(Solver))
        if self.solver == "adam" and self.loss not in ("prdl", "landmarks"):
            raise UsageError(f"solver adam: knows the losses prdl and landmarks, not {self.loss}; use solver lm")
        check_whole("anchors", self.anchors, 2, self.crop.resolution)
        check_whole("prdl.mean_anchors", self.prdl.mean_anchors, 2, self.crop.resolution)
        check_whole("iterations", self.iterations, 1)
        check_whole("seed", self.seed, 0)


@dataclass(frozen=True)
class TextureConfig:
    """The texture image."""

    size: int = 2048
    """Side, px."""
    delight: bool = False
    """Whether the light's slow changes are taken out."""

    def __post_init__(self) -> None:
        check_texture_size(self.size, "texture.size")


@dataclass(frozen=True)
class ExportConfig:
    """The files of a result."""

    formats: tuple[Format, ...] = ("obj", "glb")
    """'obj': meshes with their material; 'glb': the rigged head; 'colmap': the camera as COLMAP's text files."""
    units: Units = "m"
    """Of the OBJ. GLB is in metres by its specification, JSON and COLMAP speak of metres too."""
    up: Up = "y"
    """Which axis of the OBJ points up: 'y' is the world frame; 'z' looks along -y, as Blender has it. GLB has y."""
    overlay: Overlay = "sheet"
    """The picture to judge the fit by, see `render.overlay.overlay`."""

    def __post_init__(self) -> None:
        for each in self.formats:
            check_choice("export.formats", each, get_args(Format))
        check_choice("export.units", self.units, get_args(Units))
        check_choice("export.up", self.up, get_args(Up))
        check_choice("export.overlay", self.overlay, get_args(Overlay))
