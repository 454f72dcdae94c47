"""The linear morphable face model, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fit3d.landmarks import LandmarkLayout

FILM_SUFFIX = "_film"
"""Ends the names of objects that one looks through."""


@dataclass(frozen=True)
class SurfacePoints:
    """Points fixed to the surface: weighted sums of three vertices each."""

    vertices: Tensor
    """(..., 3) int64, vertex ids."""
    weights: Tensor
    """(..., 3) float32, barycentric weights, sum 1."""

    def of(self, positions: Tensor) -> Tensor:
        """Positions (..., 3) of the points on a mesh with vertex `positions` (V, 3)."""
        return (positions[self.vertices] * self.weights.to(positions)[..., None]).sum(dim=-2)


@dataclass(frozen=True)
class LandmarkEmbedding:
    """Where the landmarks of one layout lie on the model."""

    points: SurfacePoints
    """(N, 3): one surface point per landmark; for sliding landmarks their place on the frontal mean head."""
    sliding: Tensor
    """(S,) int64: landmarks of the face contour, which lie on the silhouette and not on a fixed surface point."""
    paths: SurfacePoints
    """(S, C, 3): for each sliding landmark the surface points it may slide to, from the cheek outwards."""


@dataclass(frozen=True)
class PartAnnotation:
    """Which part each point of the outer surface belongs to.

    A point inside triangle t belongs to `fixed_label[t]` or, where that is negative, to the part whose field,
    interpolated linearly between the three corners, is largest. So borders cross triangles where they like.
    """

    triangles: Tensor
    """(T, 3) int64, vertex ids: the outer surface of the face (skin, ears, neck, scalp), then the patches that
    span the lid openings and the mouth opening between their rims, which shrink to nothing when lids or lips close."""
    fixed_label: Tensor
    """(T,) int64: the label of patch triangles, -1 elsewhere."""
    fields: Tensor
    """(F, V) float32: a part's field, positive inside and negative outside, roughly metres to the border."""
    field_labels: Tensor
    """(F,) int64: the label id of each field."""
    rims: dict[str, tuple[Tensor, Tensor]]
    """Vertex ids of the upper and lower rim of each opening ('right_eye', 'left_eye', 'inner_mouth'), from the
    person's right to left, both including the shared corners."""


@dataclass(frozen=True, eq=False)  # compared and hashed by identity, so that caches can hold it
class MorphableModel:
    """A face model with linear geometry, `mean + sum_k a_k identity_k + sum_l b_l expression_l`.

    World frame of `fit3d.camera` (metres, y up, z towards the viewer, +x to the person's left).
    """

    name: str
    version: str
    licence: str
    """One plain sentence: what may be done with results."""
    source: str
    mean: Tensor
    """(V, 3) float32, metres."""
    identity: Tensor
    """(K, V, 3) float32, metres per standard deviation: coefficients are standard normal in the population."""
    expression: Tensor
    """(L, V, 3) float32, metres at coefficient 1."""
    expression_names: tuple[str, ...]
    expression_bounds: Tensor
    """(L, 2) float32, lowest and highest coefficient."""
    faces: np.ndarray
    """(F, 4) int32, vertex ids of the quads, counter-clockwise from outside; a triangle's last id is -1."""
    uv: np.ndarray
    """(U, 2) float32, origin bottom left."""
    uv_faces: np.ndarray
    """(F, 4) int32, uv ids of `faces`."""
    objects: tuple[str, ...]
    """Names of the separate pieces: 'head', 'left_eyeball', 'right_eyeball', 'teeth', 'tongue', ..."""
    face_objects: np.ndarray
    """(F,) uint8, index into `objects`."""
    annotation: PartAnnotation
    landmarks: dict[LandmarkLayout, LandmarkEmbedding]

    @property
    def triangles(self) -> np.ndarray:
        """(T, 3) int32: all faces as triangles."""
        quads = self.faces[self.faces[:, 3] >= 0]
        return np.concatenate([self.faces[:, :3], quads[:, [0, 2, 3]]])

    @property
    def opaque(self) -> np.ndarray:
        """(T,) bool: which of `triangles` are drawn; objects named '..._film', such as a tear film, are clear."""
        clear = np.array([name.endswith(FILM_SUFFIX) for name in self.objects])[self.face_objects]
        return ~np.concatenate([clear, clear[self.faces[:, 3] >= 0]])

    def vertices(self, identity: Tensor, expression: Tensor) -> Tensor:
        """Vertices (..., V, 3), metres, for coefficients identity (..., K) and expression (..., L)."""
        offset = torch.einsum("...k,kvc->...vc", identity, self.identity.to(identity))
        offset = offset + torch.einsum("...l,lvc->...vc", expression, self.expression.to(expression))
        return self.mean.to(identity) + offset
