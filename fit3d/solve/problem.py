"""The fit's unknowns, and the part of the face model that the fit needs, arranged for fast Jacobians."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fit3d import devices
from fit3d.landmarks import LandmarkLayout
from fit3d.morphable.model import MorphableModel, PartAnnotation, SurfacePoints

POSE_SIZE = 7
"""Rotation, translation, zoom."""
LID_POINTS = 9
"""Places along each lid at which the opening of an eye is measured, without its corners."""


@dataclass(frozen=True)
class Parameters:
    """The unknowns of a batch of B faces, ordered [identity K | expression L | rotation 3 | translation 3 | zoom 1].

    Nothing here or in the projection mixes photos, and every operation is exact to the rounding of IEEE arithmetic, so
    that on a CPU a photo's numbers do not depend on its company.
    """

    coefficients: Tensor
    """(B, K + L) identity in standard deviations, then expression."""
    rotation: Tensor
    """(B, 3, 3) cam_from_world."""
    translation: Tensor
    """(B, 3) metres, the head's origin in the camera frame."""
    zoom: Tensor
    """(B,): focal length over the assumed one is (1 + zoom / 2) / (1 - zoom / 2), exp(zoom) to second order."""
    assumed_focal_px: Tensor
    """(B,) crop px."""
    principal_px: Tensor
    """(B, 2) crop px; known beforehand."""

    @classmethod
    def of_one(
        cls,
        coefficients: Tensor,
        rotation: Tensor,
        translation: Tensor,
        focal_px: float,
        principal_px: tuple[float, float],
    ) -> Parameters:
        """A batch of one face: coefficients (K + L,), rotation (3, 3), translation (3,)."""
        return cls(
            coefficients[None],
            rotation[None],
            translation[None],
            coefficients.new_zeros(1),
            coefficients.new_tensor([focal_px]),
            coefficients.new_tensor([principal_px]),
        )

    @classmethod
    def stack(cls, faces: Sequence[Parameters]) -> Parameters:
        """One batch of several."""
        return cls(*(torch.cat([getattr(face, each.name) for face in faces]) for each in fields(cls)))

    @property
    def focal_px(self) -> Tensor:
        """(B,) crop px."""
        return self.assumed_focal_px * (1.0 + 0.5 * self.zoom) / (1.0 - 0.5 * self.zoom)

    def __len__(self) -> int:
        return len(self.coefficients)

    def take(self, photos: Tensor) -> Parameters:
        """The faces `photos` (n,) int64 of the batch."""
        return Parameters(*(getattr(self, each.name)[photos] for each in fields(self)))

    def with_rows(self, photos: Tensor, other: Parameters) -> Parameters:
        """The same with the faces of `other` in place of the faces `photos` (n,)."""
        names, photos = [each.name for each in fields(self)], photos.to(self.rotation.device)
        return Parameters(*(getattr(self, name).index_copy(0, photos, getattr(other, name)) for name in names))

    def moved(self, step: Tensor) -> Parameters:
        """Take a step (B, K + L + 7): all add but the rotation, which turns from the left by the Cayley map of the
        step, a rotation by its vector to second order."""
        size = self.coefficients.shape[1]
        step = step.to(self.coefficients)
        turn = cayley(step[:, size : size + 3])
        return replace(
            self,
            coefficients=self.coefficients + step[:, :size],
            rotation=sum_of_three(turn[:, :, :, None] * self.rotation[:, None], 2),
            translation=self.translation + step[:, size + 3 : size + 6],
            zoom=self.zoom + step[:, size + 6],
        )


def cayley(vector: Tensor) -> Tensor:
    """(..., 3, 3) rotation `I + 2 ([c] + [c]^2) / (1 + |c|^2)` with c = vector / 2 (..., 3).

    Its angle is 2 atan(|c|); it needs no sine, so its rounding is the same on every machine.
    """
    half = 0.5 * vector
    x, y, z = half.unbind(-1)
    scale = 2.0 / (1.0 + (x * x + y * y + z * z))
    rows = [
        *(1.0 - scale * (y * y + z * z), scale * (x * y - z), scale * (x * z + y)),
        *(scale * (x * y + z), 1.0 - scale * (x * x + z * z), scale * (y * z - x)),
        *(scale * (x * z - y), scale * (y * z + x), 1.0 - scale * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def sum_of_three(values: Tensor, axis: int) -> Tensor:
    """Sum over an axis of length 3, in its order: `sum` and `matmul` may add in an order that depends on the batch."""
    a, b, c = values.unbind(axis)
    return a + b + c


@dataclass(frozen=True)
class LinearPoints:
    """Points whose head-frame positions are linear in the coefficients: `mean + basis @ coefficients`."""

    mean: Tensor
    """(N, 3) metres."""
    basis: Tensor
    """(N, 3, K + L) metres per unit coefficient."""

    def at(self, coefficients: Tensor) -> Tensor:
        """Positions (B, N, 3), metres, world frame, for coefficients (B, K + L)."""
        flat = self.basis.flatten(0, 1)
        if devices.on_cpu(coefficients):  # one product per photo: see `Parameters`
            offset = torch.stack([flat @ each for each in coefficients])
        else:
            offset = coefficients @ flat.mT
        return self.mean + offset.unflatten(-1, (-1, 3))


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
    landmark_count: int
    """N."""
    landmarks: LinearPoints
    """(N + S C, 3): the landmarks, then the C places of each sliding landmark's path."""
    sliding: Tensor
    """(S,) int64: landmarks that slide."""
    lids: LinearPoints
    """(2 E, 3): `LID_POINTS` places along the upper, then along the lower lid of the right, then of the left eye; lids
    that meet have the same place in both."""
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
        fixed, paths = linear(embedding.points), linear(embedding.paths)
        return cls(
            identity_count=count,
            surface=LinearPoints(mean[used], basis[used]),
            triangles=triangles.to(device),
            triangle_label=_triangle_labels(annotation).to(device),
            fields=annotation.fields.to(device, dtype)[:, used].mT.contiguous(),
            field_labels=annotation.field_labels.to(device),
            landmark_count=len(fixed.mean),
            landmarks=LinearPoints(
                torch.cat([fixed.mean, paths.mean.flatten(0, 1)]), torch.cat([fixed.basis, paths.basis.flatten(0, 1)])
            ),
            sliding=embedding.sliding.to(device),
            lids=linear(_lid_points(model)),
            expression_names=names,
            expression_bounds=model.expression_bounds.to(device, dtype),
            mirrored_expression=torch.tensor(twins, dtype=torch.int64, device=device).reshape(-1, 2),
        )

    @property
    def parameter_count(self) -> int:
        return self.surface.basis.shape[-1] + POSE_SIZE


def _lid_points(model: MorphableModel) -> SurfacePoints:
    """(4 LID_POINTS,) points of both eyes' lids, evenly spread over the length of each rim."""
    vertices, weights = [], []
    at = torch.linspace(0.0, 1.0, LID_POINTS + 2, dtype=torch.float64)[1:-1]
    for eye in ("right_eye", "left_eye"):
        for rim in model.annotation.rims[eye]:
            lengths = (model.mean[rim][1:] - model.mean[rim][:-1]).norm(dim=1).double()
            along = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]) / lengths.sum()
            piece = torch.searchsorted(along, at).clamp(1, len(rim) - 1)
            share = (at - along[piece - 1]) / (along[piece] - along[piece - 1])
            vertices.append(torch.stack([rim[piece - 1], rim[piece], rim[piece]], 1))
            weights.append(torch.stack([1.0 - share, share, torch.zeros_like(share)], 1))
    return SurfacePoints(torch.cat(vertices), torch.cat(weights))


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
    """(B, N, 2) crop px."""
    cam: Tensor
    """(B, N, 3) metres."""


def project(positions: Tensor, at: Parameters) -> Projected:
    """Project head-frame positions (B, N, 3), metres, into the crop."""
    turned = sum_of_three(positions[:, :, None, :] * at.rotation[:, None], 3)
    cam = turned + at.translation[:, None]
    px = at.focal_px[:, None, None] * cam[..., :2] / cam[..., 2:] + at.principal_px[:, None]
    return Projected(px, cam)


def jacobian(basis: Tensor, cam: Tensor, photo: Tensor, at: Parameters) -> Tensor:
    """Derivative (N, 2, K + L + 7) of projected points by the parameters of `Parameters.moved`.

    With X the point in the camera frame, dX = R basis dc + dw x (X - t) + dt, and
    d px = f / z (dX_xy - (X_xy / z) dX_z) + f X_xy / z dzoom / (1 - zoom^2 / 4).

    Args:
        basis: (N, 3, K + L) of each point.
        cam: (N, 3) its position in the camera frame, metres.
        photo: (N,) int64, which of the faces `at` it belongs to.
    """
    x, y, z = cam.unbind(1)
    focal = at.focal_px[photo]
    scale, u, v = focal / z, x / z, y / z
    zero = torch.zeros_like(scale)
    # (N, 2, 3): derivative of the pixel by the camera point
    by_cam = torch.stack([torch.stack([scale, zero, -scale * u], 1), torch.stack([zero, scale, -scale * v], 1)], 1)
    by_world = sum_of_three(by_cam[..., None] * at.rotation[photo][:, None], 2)
    size = basis.shape[-1]
    rows = basis.new_empty(len(basis), 2, size + POSE_SIZE)
    torch.mul(by_world[:, :, :1], basis[:, None, 0], out=rows[:, :, :size])
    rows[:, :, :size] += by_world[:, :, 1:2] * basis[:, None, 1]
    rows[:, :, :size] += by_world[:, :, 2:] * basis[:, None, 2]
    rows[:, :, size : size + 3] = torch.linalg.cross((cam - at.translation[photo])[:, None], by_cam)
    rows[:, :, size + 3 : size + 6] = by_cam
    zoom = at.zoom[photo]
    rows[:, :, size + 6] = torch.stack([u, v], 1) * (focal / (1.0 - 0.25 * zoom * zoom))[:, None]
    return rows
