"""The energy of one face: its terms, their values, and their second-order model at given parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d import labels
from fit3d.config import FitConfig
from fit3d.energy.landmarks import landmark_energy, landmark_weights, slide
from fit3d.energy.prdl import PixelSet, Seen, pixel_centres, pixel_sets, see_furthest, see_mean, see_nearest
from fit3d.energy.prior import prior_precision
from fit3d.raster import Fragments, rasterise_front
from fit3d.solve.problem import FaceGeometry, LinearPoints, Parameters, Projected, jacobian, project
from fit3d.solve.quadratic import Quadratic
from fit3d.targets import PartTarget, Targets, part_masks, unit_px


@dataclass(frozen=True)
class Objective:
    """What is minimised: landmarks + PRDL (unless switched off) + prior, for one face."""

    geometry: FaceGeometry
    targets: Targets
    config: FitConfig
    precision: Tensor
    """(K + L, K + L) float64, of the prior."""
    with_parts: bool
    """Whether PRDL counts."""

    @classmethod
    def build(cls, geometry: FaceGeometry, targets: Targets, config: FitConfig, with_parts: bool) -> Objective:
        precision = prior_precision(
            geometry.identity_count, geometry.expression_names, geometry.mirrored_expression, config.prior
        )
        return cls(geometry, targets, config, precision, with_parts)

    def evaluate(self, at: Parameters) -> Evaluation:
        """All terms at `at`, with the pixels of each part taken from a fresh raster: the energy proper."""
        if not self.with_parts:
            return self._evaluate(at, None)
        fragments, part_labels = self.look(at)
        targets = self.targets
        masks = part_masks(part_labels, targets.hidden, targets.above_brows)
        sets = pixel_sets(masks, self.config.prdl.mean_points)
        chosen = tuple(sets[labels.PRDL_PARTS.index(target.label)] for target in targets.parts)
        return self._evaluate(at, Raster(fragments, chosen))

    def _evaluate(self, at: Parameters, raster: Raster | None) -> Evaluation:
        landmarks = self.landmark_points(at)
        landmark_positions = project(landmarks.at(at.coefficients), at)
        terms = {"landmarks": float(landmark_energy(landmark_positions.px, self.targets.landmarks))}
        coefficients = at.coefficients.cpu().double()
        terms["prior"] = float(coefficients @ self.precision @ coefficients)
        parts: tuple[SeenPart, ...] = ()
        if raster is not None:
            parts = self._see_parts(raster.sets)
            terms["prdl"] = sum(part.energy for part in parts)
        return Evaluation(at, terms, landmarks, landmark_positions, raster, parts)

    def landmark_points(self, at: Parameters) -> LinearPoints:
        """The landmarks as linear points, each sliding one at the outermost place of its path under this pose."""
        points, paths = self.geometry.landmarks, self.geometry.paths
        sliding = self.geometry.sliding
        if sliding.numel() == 0:
            return points
        shape = paths.mean.shape[:2]
        on_path = project(paths.at(at.coefficients).flatten(0, 1), at).px.unflatten(0, shape)
        centre = project(points.mean.mean(0, keepdim=True), at).px[0]
        chosen = slide(on_path, centre)
        every = torch.arange(sliding.numel(), device=chosen.device)
        mean, basis = points.mean.clone(), points.basis.clone()
        mean[sliding] = paths.mean[every, chosen]
        basis[sliding] = paths.basis[every, chosen]
        return LinearPoints(mean, basis)

    def look(self, at: Parameters) -> tuple[Fragments, Tensor]:
        """Rasterise the outer surface in the crop: fragments, and the part label (R, R) int64 of each pixel."""
        projected = project(self.geometry.surface.at(at.coefficients), at)
        resolution = self.targets.crop.resolution
        fragments = rasterise_front(projected.px, projected.cam[:, 2], self.geometry.triangles, resolution, resolution)
        return fragments, surface_labels(self.geometry, fragments)

    def _see_parts(self, sets: tuple[PixelSet, ...]) -> tuple[SeenPart, ...]:
        targets, dtype = self.targets, self.geometry.surface.mean.dtype
        anchors = pixel_centres(targets.anchors, targets.crop.resolution, dtype)
        coarse = pixel_centres(targets.coarse_anchors, targets.crop.resolution, dtype)
        return tuple(
            _see_part(pixels, target, targets, anchors, coarse, self.config)
            for pixels, target in zip(sets, targets.parts, strict=True)
        )

    def quadratic(self, evaluation: Evaluation) -> Quadratic:
        """Gauss-Newton model around an evaluation, in steps of `Parameters.moved`."""
        model = self._landmark_quadratic(evaluation) + self._prior_quadratic(evaluation)
        if not self.with_parts:
            return model
        model = model + self._prdl_quadratic(evaluation)
        return model

    def _landmark_quadratic(self, evaluation: Evaluation) -> Quadratic:
        target, projected = self.targets.landmarks, evaluation.landmark_positions
        weight = landmark_weights(projected.px, target)
        rows = jacobian(evaluation.landmarks, projected, evaluation.at)
        pull = weight[:, None] * (projected.px - target.px)
        stiffness = weight[:, None, None] * torch.eye(2, dtype=weight.dtype, device=weight.device)
        return Quadratic.from_points(evaluation.terms["landmarks"], rows, pull, stiffness)

    def _prior_quadratic(self, evaluation: Evaluation) -> Quadratic:
        size = self.geometry.parameter_count
        count = self.precision.shape[0]
        model = Quadratic.zero(size)
        model.hessian[:count, :count] = self.precision
        model.gradient[:count] = self.precision @ evaluation.at.coefficients.cpu().double()
        return Quadratic(evaluation.terms["prior"], model.gradient, model.hessian)

    def _prdl_quadratic(self, evaluation: Evaluation) -> Quadratic:
        """Accumulated per point: min and max rows touch one point each, mean rows all points of their part."""
        model = Quadratic.zero(self.geometry.parameter_count)
        model = Quadratic(evaluation.terms["prdl"], model.gradient, model.hessian)
        pixels, pulls, stiffnesses = [], [], []
        for part in evaluation.parts:
            for rows in part.single:
                pull, stiffness = gather_rows(rows, part.point_weight)
                touched = torch.nonzero(stiffness.flatten(1).any(1)).squeeze(1)
                pixels.append(rows.pixels[touched])
                pulls.append(pull[touched])
                stiffnesses.append(stiffness[touched])
            if part.mean is not None:
                by_points = self._pixel_jacobian(part.mean.pixels, evaluation)
                dense = part.mean.direction.flatten(1) @ by_points.flatten(0, 1)
                model = model + Quadratic(
                    0.0,
                    part.mean_weight * (dense.mT @ part.mean.residual).cpu().double(),
                    part.mean_weight * (dense.mT @ dense).cpu().double(),
                )
        if pixels:
            by_points = self._pixel_jacobian(torch.cat(pixels), evaluation)
            model = model + Quadratic.from_points(0.0, by_points, torch.cat(pulls), torch.cat(stiffnesses))
        return model

    def _pixel_jacobian(self, pixels: Tensor, evaluation: Evaluation) -> Tensor:
        """(N, 2, P): derivative of the surface points under crop pixels (N,)."""
        assert evaluation.raster is not None
        points = surface_points(self.geometry, evaluation.raster.fragments, pixels)
        return jacobian(points, project(points.at(evaluation.at.coefficients), evaluation.at), evaluation.at)


@dataclass(frozen=True)
class Raster:
    """What the model showed when it was last rasterised."""

    fragments: Fragments
    sets: tuple[PixelSet, ...]
    """Of each part of the targets."""


@dataclass(frozen=True)
class SingleRows:
    """Residuals that touch one point each: of 'min', or of 'max'."""

    seen: Seen
    residual: Tensor
    """(A,) px."""
    pixels: Tensor
    """(N,) int64: the crop pixels of the points that `seen` selects from."""


@dataclass(frozen=True)
class MeanRows:
    """Residuals of 'mean', each of which touches all points."""

    residual: Tensor
    """(A',) px."""
    direction: Tensor
    """(A', S, 2)."""
    pixels: Tensor
    """(S,) int64: the crop pixels of the points."""


@dataclass(frozen=True)
class SeenPart:
    """One part of the model as the anchors see it, beside its target."""

    energy: float
    point_weight: float
    """Weight of one squared residual of min or max."""
    mean_weight: float
    """Weight of one squared residual of mean."""
    single: tuple[SingleRows, ...]
    mean: MeanRows | None


@dataclass(frozen=True)
class Evaluation:
    """The energy at given parameters, and what it was computed from."""

    at: Parameters
    terms: dict[str, float]
    landmarks: LinearPoints
    landmark_positions: Projected
    raster: Raster | None
    """The raster that the parts come from."""
    parts: tuple[SeenPart, ...]

    @property
    def energy(self) -> float:
        return sum(self.terms.values())


def surface_labels(geometry: FaceGeometry, fragments: Fragments) -> Tensor:
    """(H, W) int64 part label of each pixel: the triangle's own, or that of the largest interpolated field."""
    triangle = fragments.triangle.view(-1)
    outside = geometry.triangle_label.new_full((1,), labels.BACKGROUND)
    result = torch.cat([geometry.triangle_label, outside])[triangle]  # -1, nothing, takes the last
    mixed = torch.nonzero(result < 0).squeeze(1)
    weights = fragments.barycentric.view(-1, 3)[mixed]
    values = (geometry.fields[geometry.triangles[triangle[mixed]]] * weights[..., None]).sum(1)  # (N, F)
    result[mixed] = geometry.field_labels[values.argmax(1)]
    return result.view_as(fragments.triangle)


def surface_points(geometry: FaceGeometry, fragments: Fragments, pixels: Tensor) -> LinearPoints:
    """The surface points (N,) that project onto the centres of covered pixels (N,), as linear points."""
    triangle = fragments.triangle.view(-1)[pixels]
    weights = fragments.barycentric.view(-1, 3)[pixels]
    corners = geometry.surface[geometry.triangles[triangle]]
    basis = torch.einsum("nk,nkcp->ncp", weights, corners.basis)
    return LinearPoints(torch.einsum("nk,nkc->nc", weights, corners.mean), basis)


def gather_rows(rows: SingleRows, weight: float) -> tuple[Tensor, Tensor]:
    """Sum the rows of anchors by the point they selected: b (N, 2) and B (N, 2, 2).

    b_j = w sum r_i u_i and B_j = w sum u_i u_i^T over the anchors i with selected(i) = j.
    """
    seen, count = rows.seen, rows.pixels.numel()
    active = torch.nonzero(seen.selected >= 0).squeeze(1)
    chosen, u = seen.selected[active], seen.direction[active]
    pull = u.new_zeros(count, 2).index_add_(0, chosen, weight * rows.residual[active, None] * u)
    stiffness = u.new_zeros(count, 2, 2).index_add_(0, chosen, weight * u[:, :, None] * u[:, None, :])
    return pull, stiffness


def missing_part_energy(target: PartTarget, config: FitConfig) -> float:
    """Energy of a part that the photo shows and the model does not: a constant, see `PrdlConfig.missing_part_px`."""
    return target.weight * (config.prdl.missing_part_px * unit_px(config)) ** 2


def _see_part(
    pixels: PixelSet,
    target: PartTarget,
    targets: Targets,
    anchors: Tensor,
    coarse: Tensor,
    config: FitConfig,
) -> SeenPart:
    if pixels.empty:
        return SeenPart(missing_part_energy(target, config), 0.0, 0.0, (), None)

    def centres(chosen: Tensor) -> Tensor:
        return pixel_centres(chosen, targets.crop.resolution, anchors.dtype)

    point_weight = target.weight / anchors.shape[0]
    mean_weight = target.weight / coarse.shape[0]
    energy, single, mean = 0.0, [], None
    if "min" in config.prdl.statistics:
        nearest = see_nearest(centres(pixels.border), anchors, pixels.mask[targets.anchors])
        single.append(SingleRows(nearest, nearest.distance - target.nearest, pixels.border))
    if "max" in config.prdl.statistics:
        furthest = see_furthest(centres(pixels.extreme), anchors)
        single.append(SingleRows(furthest, furthest.distance - target.furthest, pixels.extreme))
    for rows in single:
        energy += point_weight * float(rows.residual.square().sum())
    if "mean" in config.prdl.statistics:
        distance, direction = see_mean(centres(pixels.spread), coarse)
        mean = MeanRows(distance - target.mean, direction, pixels.spread)
        energy += mean_weight * float(mean.residual.square().sum())
    return SeenPart(energy, point_weight, mean_weight, tuple(single), mean)
