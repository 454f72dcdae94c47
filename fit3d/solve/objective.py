"""The energy of a batch of faces: its terms, their values, and their second-order model at given parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from fit3d import devices, labels
from fit3d.config import FitConfig
from fit3d.energy.landmarks import landmark_energy, landmark_weights, slide
from fit3d.energy.part_loss import DenseRows, PartLoss, SeenParts
from fit3d.energy.pixels import count_pixels
from fit3d.energy.prior import (
    Sparsity,
    expression_sparsity,
    identity_excess,
    identity_excess_slope,
    prior_precision,
)
from fit3d.raster import Fragments, rasterise_front
from fit3d.solve.problem import LID_POINTS, POSE_SIZE, FaceGeometry, Parameters, Projected, jacobian, project
from fit3d.solve.quadratic import Quadratic, solver_device
from fit3d.targets import Targets, part_masks

ZOOM_LIMIT = 0.7
"""Of the zoom: the focal length is sought between about half and twice the assumed one."""


@dataclass(frozen=True)
class Objective:
    """What is minimised for each of B faces: landmarks + parts (unless there is no part loss) + prior."""

    geometry: FaceGeometry
    targets: Targets
    config: FitConfig
    precision: Tensor
    """(P, P) float64, of the prior."""
    part_loss: PartLoss | None
    zoom_is_free: Tensor
    """(B,) bool: whose focal length is not known and is to be found."""

    @classmethod
    def build(
        cls,
        geometry: FaceGeometry,
        targets: Targets,
        config: FitConfig,
        part_loss: PartLoss | None,
        zoom_is_free: Tensor,
    ) -> Objective:
        device = solver_device(geometry.surface.mean.device)
        precision = prior_precision(
            geometry.identity_count, geometry.expression_names, geometry.mirrored_expression, config.prior
        )
        pose = torch.zeros(POSE_SIZE, dtype=precision.dtype)
        pose[-1] = 1.0 / max(config.focal.refine_sd, 1e-3) ** 2
        precision = torch.block_diag(precision, torch.diag(pose))
        return cls(geometry, targets, config, precision.to(device), part_loss, zoom_is_free)

    def take(self, photos: Tensor) -> Objective:
        """The objective of the faces `photos` (n,) int64 of the batch."""
        if photos.tolist() == list(range(len(self.targets))):
            return self
        return replace(self, targets=self.targets.take(photos), zoom_is_free=self.zoom_is_free[photos])

    def with_loss(self, part_loss: PartLoss) -> Objective:
        """The same faces with their parts compared by another loss."""
        described = part_loss.describe(self.targets.masks)
        return replace(self, part_loss=part_loss, targets=replace(self.targets, described=described))

    def room(self, at: Parameters) -> tuple[Tensor, Tensor]:
        """Lowest and highest step (B, P) float64 that keeps the expression and the zoom within their bounds."""
        low, high = self._bounds
        here = torch.cat([at.coefficients, at.translation.new_zeros(len(at), POSE_SIZE)], 1)
        here[:, -1] = at.zoom
        here = here.to(low.device).double()
        low, high = low - here, high - here
        low[:, -1] = torch.where(self.zoom_is_free.to(low.device), low[:, -1], 0.0)
        high[:, -1] = torch.where(self.zoom_is_free.to(high.device), high[:, -1], 0.0)
        return low, high

    def move(self, at: Parameters, step: Tensor) -> Parameters:
        """Take a step (B, P), bounds kept through rounding."""
        moved = at.moved(step)
        count, bounds = self.geometry.identity_count, self.geometry.expression_bounds
        expression = torch.minimum(torch.maximum(moved.coefficients[:, count:], bounds[:, 0]), bounds[:, 1])
        return replace(moved, coefficients=torch.cat([moved.coefficients[:, :count], expression], 1))

    @property
    def _bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value (P,) float64 of each parameter."""
        high = torch.full((self.geometry.parameter_count,), torch.inf, dtype=torch.float64)
        low = -high
        count, bounds = self.geometry.identity_count, self.geometry.expression_bounds.cpu().double()
        low[count:-POSE_SIZE], high[count:-POSE_SIZE] = bounds.unbind(1)
        low[-1], high[-1] = -ZOOM_LIMIT, ZOOM_LIMIT
        return low.to(self.precision.device), high.to(self.precision.device)

    def evaluate(self, at: Parameters) -> Evaluation:
        """All terms at `at`, with the pixels of each part taken from a fresh raster: the energy proper."""
        landmarks = place_landmarks(self.geometry, at)
        terms = {
            "landmarks": _double(landmark_energy(landmarks.projected.px, self.targets.landmarks)),
            "prior": self._prior_energy(at),
        }
        gaps = None
        if bool(self.targets.shut.any()):
            gaps = lid_gaps(self.geometry, at)
            terms["landmarks"] += _double(shut_energy(gaps, self.targets.shut))
        seen = fragments = None
        if self.part_loss is not None:
            fragments, part_labels = self.look(at)
            masks = part_masks(part_labels, self.targets.hidden, self.targets.above_brows)
            seen = self.part_loss.see(masks, self.targets.described, self.targets.part_weights)
            missing = self.targets.part_weights * (count_pixels(masks) == 0) * self.missing_part_energy
            terms[self.config.loss] = _double(seen.energy.sum(1) + missing.sum(1))
        return Evaluation(at, terms, landmarks, fragments, seen, gaps)

    @property
    def missing_part_energy(self) -> float:
        """Energy of a part of weight 1 that the photo shows and the model does not, `PartsConfig.missing_px`."""
        return (self.config.parts.missing_px * self.config.crop.unit_px) ** 2

    def _prior_energy(self, at: Parameters) -> Tensor:
        offset = self._prior_offset(at)
        quadratic = torch.stack([each @ self.precision @ each for each in offset])
        identity, expression = self._shape(offset)
        excess = identity_excess(identity, self.config.prior).square()
        return (quadratic + excess + self._sparsity(expression).energy).cpu()

    def _shape(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Identity (B, K) and expression (B, L) of `_prior_offset`."""
        count = self.geometry.identity_count
        return offset[:, :count], offset[:, count:-POSE_SIZE]

    def _sparsity(self, expression: Tensor) -> Sparsity:
        bounds = self.geometry.expression_bounds.to(expression.device).double()
        return expression_sparsity(expression, bounds, self.config.prior)

    def _prior_offset(self, at: Parameters) -> Tensor:
        """(B, P) float64: how far each parameter is from what the prior expects; pose is free."""
        offset = at.coefficients.new_zeros(len(at), self.geometry.parameter_count)
        offset[:, : at.coefficients.shape[1]] = at.coefficients
        offset[:, -1] = at.zoom
        return offset.to(self.precision.device).double()

    def look(self, at: Parameters) -> tuple[Fragments, Tensor]:
        """Rasterise the outer surface in the crop: fragments, and the part label (B, R, R) int32 of each pixel."""
        projected = project(self.geometry.surface.at(at.coefficients), at)
        resolution = self.config.crop.resolution
        fragments = rasterise_front(
            projected.px, projected.cam[..., 2], self.geometry.triangles, resolution, resolution
        )
        return fragments, surface_labels(self.geometry, fragments)

    def quadratic(self, evaluation: Evaluation, photos: Tensor) -> Quadratic:
        """Gauss-Newton models around an evaluation, of its photos (n,) int64, in steps of `Parameters.moved`."""
        photos = photos.to(self.geometry.surface.mean.device)
        model = self._landmark_quadratic(evaluation, photos) + self._prior_quadratic(evaluation, photos)
        if evaluation.gaps is not None:
            model = model + self._shut_quadratic(evaluation, evaluation.gaps, photos)
        return model if evaluation.seen is None else model + self._parts_quadratic(evaluation, photos)

    def _landmark_quadratic(self, evaluation: Evaluation, photos: Tensor) -> Quadratic:
        target, placed = self.targets.landmarks.take(photos), evaluation.landmarks
        px = placed.projected.px[photos]
        weight = landmark_weights(px, target)
        count = self.geometry.landmark_count
        photo = torch.arange(len(photos), device=px.device).repeat_interleave(count)
        rows = jacobian(
            self.geometry.landmarks.basis[placed.row[photos].view(-1)],
            placed.projected.cam[photos].flatten(0, 1),
            photo,
            evaluation.at.take(photos),
        )
        pull = (weight[..., None] * (px - target.px)).flatten(0, 1)
        weight = weight.view(-1)
        stiffness = torch.stack([weight, torch.zeros_like(weight), weight], 1)
        return Quadratic.from_points(photo, rows, pull, stiffness, len(photos))

    def _shut_quadratic(self, evaluation: Evaluation, gaps: LidGaps, photos: Tensor) -> Quadratic:
        photo = torch.arange(len(photos), device=photos.device).repeat_interleave(gaps.cam[0].numel() // 3)
        basis = self.geometry.lids.basis.repeat(len(photos), 1, 1)
        rows = jacobian(basis, gaps.cam[photos].flatten(0, 3), photo, evaluation.at.take(photos))
        rows = rows.unflatten(0, (len(photos), *gaps.cam.shape[1:4]))
        across = (rows[:, :, 0] - rows[:, :, 1]).flatten(0, 2)  # (n 2 E, 2, P)
        weight = (self.targets.shut[photos] / gaps.px.shape[2]).repeat_interleave(gaps.px.shape[2], 1).view(-1, 1)
        pull = weight * gaps.px[photos].flatten(0, 2)
        stiffness = torch.cat([weight, torch.zeros_like(weight), weight], 1)
        photo = torch.arange(len(photos), device=photos.device).repeat_interleave(across.shape[0] // len(photos))
        return Quadratic.from_points(photo, across, pull, stiffness, len(photos))

    def _prior_quadratic(self, evaluation: Evaluation, photos: Tensor) -> Quadratic:
        offset = self._prior_offset(evaluation.at.take(photos))
        gradient = torch.stack([self.precision @ each for each in offset])
        hessian = self.precision.repeat(len(photos), 1, 1)
        identity, expression = self._shape(offset)
        excess, slope = identity_excess(identity, self.config.prior), identity_excess_slope(identity, self.config.prior)
        count = identity.shape[1]
        gradient[:, :count] += excess[:, None] * slope
        hessian[:, :count, :count] += slope[:, :, None] * slope[:, None, :]
        sparsity = self._sparsity(expression)
        gradient[:, count:-POSE_SIZE] += sparsity.slope
        hessian.diagonal(dim1=1, dim2=2)[:, count:-POSE_SIZE] += sparsity.curvature
        return Quadratic(gradient, hessian)

    def _parts_quadratic(self, evaluation: Evaluation, photos: Tensor) -> Quadratic:
        """Accumulated per point: rows that touch one point each, and dense rows through all points of their part."""
        assert evaluation.seen is not None
        forces = evaluation.seen.forces(photos)
        area = self.config.crop.resolution**2
        points = forces.points
        photo = torch.div(points.pixel, area, rounding_mode="floor")
        rows = self.pixel_jacobian(evaluation, photos, photo, points.pixel - photo * area)
        model = Quadratic.from_points(photo, rows, points.pull, points.stiffness, len(photos))
        return model if forces.dense is None else model + self._dense_quadratic(evaluation, photos, forces.dense)

    def _dense_quadratic(self, evaluation: Evaluation, photos: Tensor, dense: DenseRows) -> Quadratic:
        batch, parts, size = dense.pixel.shape
        photo = torch.arange(batch, device=photos.device).repeat_interleave(parts * size)
        rows = self.pixel_jacobian(evaluation, photos, photo, dense.pixel.clamp(min=0).view(-1))
        by_points = rows.view(batch * parts, size * 2, -1)
        direction = dense.direction.flatten(0, 1).flatten(2)
        weight = dense.weight.to(rows.dtype).sqrt()[..., None]
        if devices.on_cpu(rows):  # one product per part, so that its rounding does not depend on its company
            whole = torch.stack([a @ b for a, b in zip(direction, by_points, strict=True)])
        else:
            whole = direction @ by_points
        whole = whole.view(batch, -1, 1, rows.shape[-1]) * weight.expand(dense.residual.shape).reshape(batch, -1, 1, 1)
        pull = (dense.residual * weight).view(-1, 1)
        photo = torch.arange(batch, device=photos.device).repeat_interleave(whole.shape[1])
        whole = whole.flatten(0, 1)
        return Quadratic.from_rows(photo, whole, whole, pull, batch)

    def pixel_jacobian(self, evaluation: Evaluation, photos: Tensor, photo: Tensor, pixel: Tensor) -> Tensor:
        """(N, 2, P): derivative of the surface points under crop pixels (N,) of faces photos[photo] (N,)."""
        assert evaluation.fragments is not None
        corners, weights = surface_points(self.geometry, evaluation.fragments, photos[photo], pixel)
        surface, at = self.geometry.surface, evaluation.at.take(photos)
        basis = embedding_bag(corners, surface.basis.flatten(1), per_sample_weights=weights, mode="sum")
        cam = self._cam_under(evaluation.fragments, photos[photo], pixel, at, photo)
        return jacobian(basis.unflatten(1, (3, -1)), cam, photo, at)

    def _cam_under(self, fragments: Fragments, of: Tensor, pixel: Tensor, at: Parameters, photo: Tensor) -> Tensor:
        """(N, 3) metres, camera frame: the surface points seen at the centres of crop pixels (N,)."""
        resolution = self.config.crop.resolution
        depth = fragments.depth.flatten(1)[of, pixel]
        depth = torch.where(torch.isfinite(depth), depth, 1.0)  # nothing there: a place that no point takes
        row = torch.div(pixel, resolution, rounding_mode="floor")
        centre = torch.stack([pixel - row * resolution, row], 1).to(depth.dtype) + 0.5
        ray = (centre - at.principal_px[photo]) / at.focal_px[photo][:, None]
        return torch.cat([ray, torch.ones_like(ray[:, :1])], 1) * depth[:, None]


@dataclass(frozen=True)
class PlacedLandmarks:
    """Where the landmarks are under given parameters."""

    row: Tensor
    """(B, N) int64 into `FaceGeometry.landmarks`: where each has slid to."""
    projected: Projected


@dataclass(frozen=True)
class Evaluation:
    """The energies of a batch at given parameters, and what they were computed from."""

    at: Parameters
    terms: dict[str, Tensor]
    """(B,) float64 on the CPU."""
    landmarks: PlacedLandmarks
    fragments: Fragments | None
    """The raster that the parts come from; None without part loss."""
    seen: SeenParts | None
    gaps: LidGaps | None
    """None where no eye of the batch is shut."""

    @property
    def energy(self) -> Tensor:
        """(B,) float64 on the CPU."""
        return torch.stack(list(self.terms.values())).sum(0)


def place_landmarks(geometry: FaceGeometry, at: Parameters) -> PlacedLandmarks:
    """Project the landmarks, each sliding one at the outermost place of its path under this pose."""
    projected = project(geometry.landmarks.at(at.coefficients), at)
    count = geometry.landmark_count
    row = torch.arange(count, device=projected.px.device).expand(len(at), count)
    slots = geometry.sliding.numel()
    if slots:
        paths = projected.px[:, count:].unflatten(1, (slots, -1))
        middle = geometry.landmarks.mean[:count].mean(0).expand(len(at), 1, 3)  # of the mean head
        chosen = slide(paths, project(middle, at).px[:, 0])
        places = paths.shape[2]
        row = row.clone()
        row[:, geometry.sliding] = count + torch.arange(slots, device=row.device) * places + chosen
    px, cam = (
        torch.gather(each, 1, row[..., None].expand(-1, -1, each.shape[2])) for each in (projected.px, projected.cam)
    )
    return PlacedLandmarks(row, Projected(px, cam))


@dataclass(frozen=True)
class LidGaps:
    """The openings of both eyes, E places along each."""

    px: Tensor
    """(B, 2, E, 2) crop px from the lower lid to the upper."""
    cam: Tensor
    """(B, 2, 2, E, 3) metres, camera frame: by eye, the places on its upper and lower lid."""


def lid_gaps(geometry: FaceGeometry, at: Parameters) -> LidGaps:
    """How far the lids are from meeting, in the picture."""
    projected = project(geometry.lids.at(at.coefficients), at)
    px, cam = (each.unflatten(1, (2, 2, LID_POINTS)) for each in (projected.px, projected.cam))
    return LidGaps(px[:, :, 0] - px[:, :, 1], cam)


def shut_energy(gaps: LidGaps, weight: Tensor) -> Tensor:
    """(B,) weight (B, 2) of each eye times the mean square of its opening: an eye seen shut has no part to compare."""
    return (weight * gaps.px.square().sum(-1).mean(-1)).sum(1)


def hidden_landmarks(objective: Objective, at: Parameters, behind_m: float) -> Tensor:
    """(B, N) bool: landmarks more than `behind_m` metres behind the surface that the camera sees in their place.

    Those that slide along the silhouette never are.
    """
    fragments, _ = objective.look(at)
    placed = place_landmarks(objective.geometry, at).projected
    resolution = fragments.depth.shape[-1]
    x, y = placed.px.floor().long().clamp(0, resolution - 1).unbind(-1)
    seen = torch.gather(fragments.depth.flatten(1), 1, y * resolution + x)
    hidden = placed.cam[..., 2] > seen + behind_m
    hidden[:, objective.geometry.sliding] = False
    return hidden


def surface_labels(geometry: FaceGeometry, fragments: Fragments) -> Tensor:
    """(..., H, W) int32 part label of each pixel: the triangle's own, or that of the largest interpolated field."""
    triangle = fragments.triangle.reshape(-1)
    outside = geometry.triangle_label.new_full((1,), labels.BACKGROUND)
    # `index_select` is several times faster on the CPU than an index in brackets
    result = torch.cat([outside, geometry.triangle_label]).index_select(0, triangle + 1)  # -1 is nothing
    mixed = devices.flat_nonzero(result < 0)
    weights = fragments.barycentric.reshape(-1, 3)[mixed]
    vertices = geometry.triangles.index_select(0, triangle.index_select(0, mixed))
    corners = geometry.fields.index_select(0, vertices.view(-1)).unflatten(0, (-1, 3))
    values = corners[:, 0] * weights[:, :1] + corners[:, 1] * weights[:, 1:2] + corners[:, 2] * weights[:, 2:]  # (N, F)
    result[mixed] = geometry.field_labels[values.argmax(1)]
    return result.view_as(fragments.triangle).int()


def surface_points(geometry: FaceGeometry, fragments: Fragments, photo: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
    """Vertices (N, 3) int64 and barycentric weights (N, 3) of the surface under crop pixels (N,) of photos (N,).

    Weights of 0 where a pixel shows nothing.
    """
    triangle = fragments.triangle.flatten(1)[photo, pixel]
    weights = fragments.barycentric.flatten(1, 2)[photo, pixel]
    return geometry.triangles[triangle.clamp(min=0)], weights


def _double(values: Tensor) -> Tensor:
    return values.detach().to("cpu").double()
