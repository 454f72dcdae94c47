"""PRDL with the mesh's vertices in place of rasterised pixels as the model's points: for comparison.

The paper projects the vertices of each part. Vertices are dense where the mesh is fine, and each of them counts in the
mean; those behind the head are projected too. `VertexObjective` lets both be changed: weights by projected area, and
only vertices that are seen. Everything else is as in `Objective`: anchors, statistics, the photo's side, what is left
out above the brows and under hair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fit3d import labels
from fit3d.devices import exact_dtype
from fit3d.energy.pixels import anchor_grid, pixel_centres
from fit3d.energy.prdl import EPSILON
from fit3d.energy.prdl_raster import PrdlRaster
from fit3d.energy.search import search_segments
from fit3d.raster import Fragments
from fit3d.solve.objective import Evaluation, Objective
from fit3d.solve.problem import FaceGeometry, Parameters, Projected, jacobian, project
from fit3d.solve.quadratic import Quadratic

TOLERANCE_M = 0.003
"""A vertex at most this far behind the surface that its pixel shows is seen: the pixel's centre lies elsewhere."""


@dataclass(frozen=True)
class VertexSamples:
    """Vertices with the part they stand for; a vertex on the rim of the lids stands for its own part and the eye."""

    vertex: Tensor
    """(S,) int64 into `FaceGeometry.surface`."""
    part: Tensor
    """(S,) int64 into `labels.PRDL_PARTS`."""
    triangle: Tensor
    """(M,) int64: each triangle once for every corner of it that is a sample."""
    corner: Tensor
    """(M,) int64: that sample, which has a third of the triangle's area."""

    @classmethod
    def of(cls, geometry: FaceGeometry) -> VertexSamples:
        """The label of a vertex is that of its largest field, within a patch that of the patch."""
        own = geometry.field_labels[geometry.fields.argmax(1)]
        label = geometry.triangle_label[:, None].expand_as(geometry.triangles)
        label = torch.where(label >= 0, label, own[geometry.triangles])
        parts = torch.tensor(labels.PRDL_PARTS, device=label.device)
        triangle, which = torch.nonzero(torch.isin(label, parts), as_tuple=True)
        part = torch.searchsorted(parts, label[triangle, which])
        name = geometry.triangles[triangle, which] * len(parts) + part
        samples, corner = torch.unique(name, return_inverse=True)
        vertex = torch.div(samples, len(parts), rounding_mode="floor")
        return cls(vertex, samples - vertex * len(parts), triangle, corner)


@dataclass(frozen=True)
class Rows:
    """Residuals of one statistic for all parts of a batch of B photos, and the points that they touch."""

    sample: Tensor
    """(B, P, A) int64 the one point that each of A residuals touches; of 'mean' (B, P, S), points that all touch, with
    no direction where a part has fewer."""
    direction: Tensor
    """(B, P, A, 2), of 'mean' (B, P, A, S, 2): derivative of the residual by the point."""
    residual: Tensor
    """(B, P, A) px."""

    def energy(self, weights: Tensor) -> Tensor:
        """(B,) `exact_dtype`: mean over the anchors, summed over the parts by `weights` (B, P)."""
        exact = exact_dtype(weights.device)
        return (weights.to(exact) * self.residual.to(exact).square().mean(-1)).sum(-1)


@dataclass(frozen=True)
class VertexEvaluation(Evaluation):
    """An evaluation whose parts are compared by vertices."""

    singles: tuple[Rows, ...]
    """Of 'min' and 'max'."""
    mean: Rows | None
    part_weights: Tensor
    """(B, P); 0 where a part does not count."""


@dataclass(frozen=True)
class VertexObjective(Objective):
    """`Objective` for the loss 'prdl' whose model points are vertices."""

    samples: VertexSamples
    by_area: bool
    """Whether a vertex counts in the mean by the projected area around it, or each as one."""
    seen_only: bool
    """Whether only vertices that the camera sees count, or those behind the head too."""

    @classmethod
    def like(cls, objective: Objective, *, by_area: bool, seen_only: bool) -> VertexObjective:
        """The same problem with vertices."""
        samples = VertexSamples.of(objective.geometry)
        return cls(**vars(objective), samples=samples, by_area=by_area, seen_only=seen_only)

    def evaluate(self, at: Parameters) -> Evaluation:
        """All terms at `at`, with the vertices of each part chosen and weighed as they are projected there."""
        loss, described = self.part_loss, self.targets.described
        if loss is None:
            return super().evaluate(at)
        assert isinstance(loss, PrdlRaster), "vertices are compared by PRDL"
        without = replace(self, part_loss=None).evaluate(at)
        projected = project(self.geometry.surface.at(at.coefficients), at)
        area = self._areas(projected)
        member = (area > 0) & self._within(projected, self.look(at)[0] if self.seen_only else None)
        parts = torch.arange(len(labels.PRDL_PARTS), device=area.device)
        photo, part, sample = torch.nonzero(member[:, None] & (self.samples.part == parts[:, None]), as_tuple=True)
        weight = area[photo, sample]
        points = PartPoints(
            projected.px[photo, self.samples.vertex[sample]],
            weight if self.by_area else torch.ones_like(weight),
            sample,
            photo * len(parts) + part,
            (len(at), len(parts)),
        )
        config = loss.config

        def anchors(count: int) -> Tensor:
            resolution = self.config.crop.resolution
            grid = anchor_grid(count, resolution, area.device, config.extent)
            return pixel_centres(grid, resolution, area.dtype)

        mean, singles = None, []
        if "mean" in config.statistics:
            mean = points.mean(anchors(config.mean_anchors), described.mean)
        if "min" in config.statistics:
            singles.append(points.single(0, anchors(loss.anchors), described.nearest))
        if "max" in config.statistics:
            singles.append(points.single(1, anchors(loss.anchors), described.furthest))
        counted = self.targets.part_weights * ~points.empty
        missing = (self.targets.part_weights * points.empty).sum(1).to(exact_dtype(area.device))
        energy = missing * self.missing_part_energy
        for rows in (*singles, *((mean,) if mean else ())):
            energy += rows.energy(counted)
        fields = {**vars(without), "terms": {**without.terms, self.config.loss: energy.cpu().double()}}
        return VertexEvaluation(**fields, singles=tuple(singles), mean=mean, part_weights=counted)

    def quadratic(self, evaluation: Evaluation, photos: Tensor) -> Quadratic:
        """Gauss-Newton models around an evaluation, see `Objective.quadratic`; areas and choices are held."""
        photos = photos.to(self.geometry.surface.mean.device)
        model = super().quadratic(evaluation, photos)
        if not isinstance(evaluation, VertexEvaluation):
            return model
        at, surface, count = evaluation.at.take(photos), self.geometry.surface, len(photos)
        cam = project(surface.at(at.coefficients), at).cam
        weights, size = evaluation.part_weights[photos], len(self.samples.vertex)

        def rows_of(photo: Tensor, sample: Tensor) -> Tensor:
            vertex = self.samples.vertex[sample]
            return jacobian(surface.basis[vertex], cam[photo, vertex], photo, at)

        forces = surface.mean.new_zeros(count * size, 5)
        for rows in evaluation.singles:
            residual, (x, y) = rows.residual[photos], rows.direction[photos].unbind(-1)
            weight = (weights / residual.shape[-1])[..., None]
            place = rows.sample[photos] + size * torch.arange(count, device=photos.device)[:, None, None]
            pulls = torch.stack([x * residual, y * residual, x * x, x * y, y * y], -1) * weight[..., None]
            forces.index_add_(0, place.view(-1), pulls.view(-1, 5))
        touched = torch.nonzero(forces.any(1)).squeeze(1)
        photo = torch.div(touched, size, rounding_mode="floor")
        pull, stiffness = forces[touched].split([2, 3], 1)
        model = model + Quadratic.from_points(photo, rows_of(photo, touched - photo * size), pull, stiffness, count)
        if evaluation.mean is None:
            return model
        sample, residual = evaluation.mean.sample[photos], evaluation.mean.residual[photos]
        photo = torch.arange(count, device=photos.device)[:, None, None].expand_as(sample)
        points = rows_of(photo.reshape(-1), sample.view(-1)).view(*sample.shape, 2, -1)
        whole = torch.einsum("bpasx,bpsxk->bpak", evaluation.mean.direction[photos], points)
        scale = (weights / residual.shape[-1]).sqrt()[..., None]
        whole, pull = (whole * scale[..., None]).flatten(1, 2), (residual * scale).flatten(1, 2)
        photo = torch.arange(count, device=photos.device).repeat_interleave(whole.shape[1])
        whole = whole.flatten(0, 1)[:, None]
        return model + Quadratic.from_rows(photo, whole, whole, pull.view(-1, 1), count)

    def _areas(self, projected: Projected) -> Tensor:
        """(B, S) px^2: area of the image that each sample stands for; of the side that is seen, or of both.

        It is held for the derivative, as the choice of pixels is.
        """
        first, second, third = projected.px[:, self.geometry.triangles].unbind(2)
        u, v = second - first, third - first
        area = 0.5 * (u[..., 1] * v[..., 0] - u[..., 0] * v[..., 1])  # y runs down: positive where the outside is seen
        area = area.clamp(min=0.0) if self.seen_only else area.abs()
        shares = area[:, self.samples.triangle] / 3.0
        return area.new_zeros(len(area), len(self.samples.vertex)).index_add_(1, self.samples.corner, shares)

    def _within(self, projected: Projected, fragments: Fragments | None) -> Tensor:
        """(B, S) bool: samples where their part counts in the photo and, with a raster, that are seen."""
        resolution = self.config.crop.resolution
        px = projected.px[:, self.samples.vertex].floor()
        column, row = px.clamp(0, resolution - 1).long().unbind(-1)
        at = row * resolution + column

        def under(picture: Tensor) -> Tensor:
            return picture.flatten(1).gather(1, at)

        skin = self.samples.part == labels.PRDL_PARTS.index(labels.SKIN)
        counted = ~under(self.targets.hidden) & ~(skin & under(self.targets.above_brows))
        if fragments is None:
            return counted
        inside = ((px >= 0) & (px < resolution)).all(-1)
        depth = projected.cam[:, self.samples.vertex, 2]
        return counted & inside & (depth <= under(fragments.depth) + TOLERANCE_M)


@dataclass(frozen=True)
class PartPoints:
    """The model's points of all parts of a batch of B photos, part after part."""

    px: Tensor
    """(N, 2) crop px."""
    weight: Tensor
    """(N,) in the mean."""
    sample: Tensor
    """(N,) int64."""
    segment: Tensor
    """(N,) int64, not falling: photo * P + part."""
    shape: tuple[int, int]
    """B, P."""

    @property
    def offsets(self) -> Tensor:
        """(B * P + 1,) int64: where each part begins."""
        count = self.shape[0] * self.shape[1]
        return torch.searchsorted(self.segment, torch.arange(count + 1, device=self.segment.device))

    @property
    def empty(self) -> Tensor:
        """(B, P) bool: parts without points."""
        return (self.offsets.diff() == 0).view(self.shape)

    def single(self, which: int, anchors: Tensor, goal: Tensor) -> Rows:
        """Distances from anchors (A, 2) to the nearest (0) or the furthest (1) point, less the photo's (B, P, A)."""
        index = search_segments(self.px, self.offsets, anchors)[which].view(goal.shape)
        px, sample = torch.cat([self.px, self.px.new_zeros(1, 2)]), torch.cat([self.sample, self.sample.new_zeros(1)])
        offset = px[index] - anchors  # -1, of a part without points, takes the last; it has no weight
        distance = (offset.square().sum(-1) + EPSILON).sqrt()
        return Rows(sample[index], offset / distance[..., None], distance - goal)

    def mean(self, anchors: Tensor, goal: Tensor) -> Rows:
        """Weighted mean distances from anchors (A, 2) to the points, less the photo's (B, P, A)."""
        size = max(1, int(self.offsets.diff().max()))
        place = self.segment * size + torch.arange(len(self.segment), device=self.px.device)
        place = place - self.offsets[self.segment]

        def padded(values: Tensor) -> Tensor:
            full = values.new_zeros(self.shape[0] * self.shape[1] * size, *values.shape[1:])
            return full.index_copy_(0, place, values).view(*self.shape, size, *values.shape[1:])

        share = padded(self.weight)
        share = (share / share.sum(-1, keepdim=True).clamp(min=1e-9))[..., None, :]
        offset = padded(self.px)[..., None, :, :] - anchors[:, None]
        distance = (offset.square().sum(-1) + EPSILON).sqrt()
        direction = offset * (share / distance)[..., None]
        return Rows(padded(self.sample), direction, (distance * share).sum(-1) - goal)
