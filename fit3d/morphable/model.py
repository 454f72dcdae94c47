"""The morphable face model, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fit3d.landmarks import LandmarkLayout
from fit3d.morphable.arkit import Combination
from fit3d.morphable.articulation import Articulation

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
    """A face model with linear geometry, `mean + sum_k a_k identity_k + sum_l b_l expression_l`, unless it has joints:
    then this is the head that they pose, and expressions that are turns are left out of the sum.

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
    """(L, V, 3) float32, metres at coefficient 1; of a turn, the displacement that it makes of the mean head."""
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
    articulation: Articulation | None = None
    """Joints, where the model has some."""
    arkit: dict[str, Combination] = field(default_factory=dict)
    """By ARKit's names, shapes that no expression is but a combination of them nearly is."""

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
        if self.articulation is None:
            return self.mean.to(identity) + self._offset(identity, expression)
        offset = self._offset(identity, torch.where(self.articulation.is_turn, 0.0, expression))
        pose = self.articulation.pose(expression)
        return pose.of(self.mean.to(offset) + offset, self.articulation.joints_of(offset))

    def linear_at(self, identity: Tensor, expression: Tensor) -> MorphableModel:
        """The linear model with the same vertices and first derivatives at identity (K,) and expression (L,), in their
        precision; a linear model itself.

        Bounds stay, but those of the turns that a fit leaves as they are close around their coefficients.
        """
        joints = self.articulation
        if joints is None:
            return self
        is_turn = joints.is_turn
        offset = self._offset(identity, torch.where(is_turn, 0.0, expression))
        unposed, places = self.mean.to(offset) + offset, joints.joints_of(offset)
        pose = joints.pose(expression)

        def moved(basis: Tensor) -> Tensor:
            return pose.linear_part(basis, joints.joint_offset(basis))

        columns = moved(self.expression.to(offset))
        columns[is_turn] = joints.turn_rates(expression, unposed, places)
        linear = replace(self, identity=moved(self.identity.to(offset)), expression=columns, articulation=None)
        held = torch.tensor([name in joints.held for name in self.expression_names])
        bounds = torch.where(held[:, None], expression[:, None].to(self.expression_bounds), self.expression_bounds)
        mean = pose.of(unposed, places) - linear._offset(identity, expression)
        return replace(linear, mean=mean, expression_bounds=bounds)

    def morphing(self, neutral: Tensor) -> MorphableModel:
        """The linear model for morph targets: each expression moves the head `neutral` (V, 3), metres, which has none,
        as it does alone at coefficient 1; a linear model itself.

        So a turn goes along the chord of its arc, and two turns of one joint, or of one and its parent, add up.
        """
        joints = self.articulation
        if joints is None:
            return self
        alone = torch.eye(len(self.expression_names)).to(neutral)[joints.is_turn]
        turned = joints.pose(alone).of(neutral, joints.joints_of(neutral - self.mean.to(neutral)))
        expression = self.expression.clone()
        expression[joints.is_turn] = (turned - neutral).to(expression)
        return replace(self, expression=expression, articulation=None)

    def _offset(self, identity: Tensor, expression: Tensor) -> Tensor:
        """(..., V, 3) metres: the linear combination of the shapes."""
        offset = torch.einsum("...k,kvc->...vc", identity, self.identity.to(identity))
        return offset + torch.einsum("...l,lvc->...vc", expression, self.expression.to(expression))
