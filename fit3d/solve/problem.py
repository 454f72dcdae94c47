"""The fit's unknowns, and the part of the face model that the fit needs, arranged for fast Jacobians."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fit3d.camera import px_from_cam
from fit3d.landmarks import LandmarkLayout
from fit3d.morphable.model import MorphableModel, PartAnnotation, SurfacePoints

POSE_SIZE = 6


@dataclass(frozen=True)
class Parameters:
    """The unknowns of one face, ordered [identity K | expression L | rotation 3 | translation 3]."""

    coefficients: Tensor
    """(K + L,) identity in standard deviations, then expression."""
    rotation: Tensor
    """(3, 3) cam_from_world."""
    translation: Tensor
    """(3,) metres, the head's origin in the camera frame."""
    focal_px: float
    """Crop px; known beforehand."""
    principal_px: tuple[float, float]
    """Crop px; known beforehand."""

    def moved(self, step: Tensor) -> Parameters:
        """Take a step (K + L + 6,): coefficients and translation add, the rotation turns by exp(step) from the left."""
        size = self.coefficients.numel()
        step = step.to(self.coefficients)
        return replace(
            self,
            coefficients=self.coefficients + step[:size],
            rotation=torch.linalg.matrix_exp(cross_matrix(step[size : size + 3])) @ self.rotation,
            translation=self.translation + step[size + 3 :],
        )


def cross_matrix(vector: Tensor) -> Tensor:
    """(..., 3, 3) matrix of the cross product with `vector` (..., 3)."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


@dataclass(frozen=True)
class LinearPoints:
    """Points whose head-frame positions are linear in the coefficients: `mean + basis @ coefficients`."""

    mean: Tensor
    """(..., 3) metres."""
    basis: Tensor
    """(..., 3, K + L) metres per unit coefficient."""

    def at(self, coefficients: Tensor) -> Tensor:
        """Positions (..., 3), metres, world frame."""
        return self.mean + self.basis @ coefficients

    def __getitem__(self, index: Tensor) -> LinearPoints:
        return LinearPoints(self.mean[index], self.basis[index])


@dataclass(frozen=True)
class FaceGeometry:
    """The face model as the fit sees it: its outer surface and its landmarks, as linear points."""

    identity_count: int
    surface: LinearPoints
    """(V', 3): the vertices that the outer surface uses."""
    triangles: Tensor
    """(T, 3) int64 into `surface`."""
    triangle_label: Tensor
    """(T,) int64: the label of all points of a triangle, -1 where a border crosses it."""
    fields: Tensor
    """(V', F) see `PartAnnotation`."""
    field_labels: Tensor
    """(F,) int64."""
    landmarks: LinearPoints
    """(N, 3)."""
    sliding: Tensor
    """(S,) int64: landmarks that slide."""
    paths: LinearPoints
    """(S, C, 3): where they may slide."""
    expression_names: tuple[str, ...]
    expression_bounds: Tensor
    """(L, 2)."""
    mirrored_expression: Tensor
    """(M, 2) int64: coefficient indices of left expressions and their right twins."""

    @classmethod
    def from_model(cls, model: MorphableModel, layout: LandmarkLayout, dtype: torch.dtype, device: str) -> FaceGeometry:
        """Gather what the fit needs of `model` for detectors of one landmark layout."""
        annotation, embedding = model.annotation, model.landmarks[layout]
        used, triangles = torch.unique(annotation.triangles, return_inverse=True)
        # (V, 3, K + L): all coefficients of one coordinate side by side, as Jacobians need them
        basis = torch.cat([model.identity, model.expression]).permute(1, 2, 0).to(device, dtype).contiguous()
        mean = model.mean.to(device, dtype)

        def linear(points: SurfacePoints) -> LinearPoints:
            weights = points.weights.to(device, dtype)
            corners = points.vertices.to(device)
            return LinearPoints(
                torch.einsum("...k,...kc->...c", weights, mean[corners]),
                torch.einsum("...k,...kcp->...cp", weights, basis[corners]),
            )

        names = model.expression_names
        count = model.identity.shape[0]
        twins = [
            (count + names.index(name), count + names.index(name[: -len("Left")] + "Right"))
            for name in names
            if name.endswith("Left") and name[: -len("Left")] + "Right" in names and not name.startswith("eyeLook")
        ]
        used = used.to(device)
        return cls(
            identity_count=count,
            surface=LinearPoints(mean[used], basis[used]),
            triangles=triangles.to(device),
            triangle_label=_triangle_labels(annotation).to(device),
            fields=annotation.fields.to(device, dtype)[:, used].mT.contiguous(),
            field_labels=annotation.field_labels.to(device),
            landmarks=linear(embedding.points),
            sliding=embedding.sliding.to(device),
            paths=linear(embedding.paths),
            expression_names=names,
            expression_bounds=model.expression_bounds.to(device, dtype),
            mirrored_expression=torch.tensor(twins, dtype=torch.int64, device=device).reshape(-1, 2),
        )

    @property
    def parameter_count(self) -> int:
        return self.surface.basis.shape[-1] + POSE_SIZE


def _triangle_labels(annotation: PartAnnotation) -> Tensor:
    """(T,) int64: label of a whole triangle, -1 where a border crosses it.

    A field that is the largest at all three corners is the largest everywhere between them; two fields of the same
    label may have a third part between them.
    """
    largest = annotation.fields.argmax(0)[annotation.triangles]
    uniform = (largest == largest[:, :1]).all(1)
    by_field = torch.where(uniform, annotation.field_labels[largest[:, 0]], -1)
    return torch.where(annotation.fixed_label >= 0, annotation.fixed_label, by_field)


@dataclass(frozen=True)
class Projected:
    """Points in the image with all that their derivatives need."""

    px: Tensor
    """(N, 2) crop px."""
    cam: Tensor
    """(N, 3) metres."""


def project(positions: Tensor, at: Parameters) -> Projected:
    """Project head-frame positions (N, 3), metres, into the crop."""
    cam = positions @ at.rotation.mT + at.translation
    return Projected(px_from_cam(cam, at.focal_px, at.principal_px), cam)


def jacobian(points: LinearPoints, projected: Projected, at: Parameters) -> Tensor:
    """Derivative (N, 2, K + L + 6) of projected points by the parameters.

    With X the point in the camera frame, dX = R basis dc + dw x (X - t) + dt, and
    d px = f / z (dX_xy - (X_xy / z) dX_z).
    """
    cam = projected.cam
    inverse_z = 1.0 / cam[:, 2]
    # (N, 2, 3): derivative of the pixel by the camera point
    px_by_cam = cam.new_zeros(cam.shape[0], 2, 3)
    px_by_cam[:, 0, 0] = px_by_cam[:, 1, 1] = at.focal_px * inverse_z
    px_by_cam[:, :, 2] = -at.focal_px * cam[:, :2] * (inverse_z * inverse_z)[:, None]
    by_coefficients = (px_by_cam @ at.rotation) @ points.basis
    by_rotation = -px_by_cam @ cross_matrix(cam - at.translation)
    return torch.cat([by_coefficients, by_rotation, px_by_cam], -1)
