"""Joints of a face model: linear blend skinning with pose correctives, and its derivatives.

Li, Bolkart, Black, Li, Romero: Learning a model of facial shape and expression from 4D scans, SIGGRAPH Asia 2017. A
head with vertices x, still without pose, and rotations R_j of its joints against their parents becomes

    sum_j S_vj (A_j (x_v + c_v) + b_j)          (equation 1: linear blend skinning with weights S)
    c = sum_n (R_n - I_n) P_n                   (equation 4: pose correctives P, n over the entries of the rotation
                                                matrices of all joints but the first)

where x -> A_j x + b_j turns about joint j and then as its parent does. The joints' places are linear in x, and so b is:
with the rotations fixed the posed head is linear in the head. That makes its derivative by shape and expression exact
at the cost of one skinning; only the few by angles need the derivative of a rotation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

NUMBERS = ("rest", "joints_from_vertices", "weights", "correctives", "turn_vector")
"""The arrays of an `Articulation` that are not ids."""
ARRAYS = (*NUMBERS, "turn_joint")


@dataclass(frozen=True, eq=False)
class Articulation:
    """J joints that turn a head of V vertices, and which of its L expressions are turns."""

    joints: tuple[str, ...]
    """(J,) names; the first is never turned, since that is the head's pose."""
    parents: tuple[int, ...]
    """(J,) joint ids, -1 for the first; a parent comes before its children."""
    held: tuple[str, ...]
    """Turns that a photo of the face does not tell from the head's pose: a fit leaves them as they are."""
    rest: Tensor
    """(J, 3) metres: the joints of the mean head."""
    joints_from_vertices: Tensor
    """(J, V): displacements of the joints by those of the vertices."""
    weights: Tensor
    """(V, J) S, rows sum to 1."""
    correctives: Tensor
    """(9 (J - 1), V, 3) metres: P, joints in order without the first, matrix entries row by row."""
    turn_joint: Tensor
    """(L,) int64: the joint that an expression turns, -1 for one that is a displacement."""
    turn_vector: Tensor
    """(L, 3) rotation vector of that joint at coefficient 1, radians; 0 for displacements. Those of one joint add
    up."""

    @property
    def is_turn(self) -> Tensor:
        """(L,) bool."""
        return self.turn_joint >= 0

    def problem(self, vertices: int, expression_names: tuple[str, ...]) -> str | None:
        """Why it cannot belong to a model of so many vertices and these expressions, in words, or None."""
        joints, expressions = len(self.joints), len(expression_names)
        shapes = {
            "rest": (joints, 3),
            "joints_from_vertices": (joints, vertices),
            "weights": (vertices, joints),
            "correctives": (9 * (joints - 1), vertices, 3),
            "turn_joint": (expressions,),
            "turn_vector": (expressions, 3),
        }
        for name, shape in shapes.items():
            array: Tensor = getattr(self, name)
            if tuple(array.shape) != shape:
                return f"its joints' {name} has shape {tuple(array.shape)}, expected {shape}"
            if array.dtype != (torch.float32 if name in NUMBERS else torch.int64):
                return f"its joints' {name} holds {array.dtype}"
            if not bool(torch.isfinite(array).all()):
                return f"its joints' {name} holds numbers that are not finite"
        if joints == 0 or len(self.parents) != joints or self.parents[0] != -1:
            return f"its joints {', '.join(self.joints)} have the parents {self.parents}"
        if any(not 0 <= parent < joint for joint, parent in enumerate(self.parents[1:], start=1)):
            return f"its joints have the parents {self.parents}; each must come before its children"
        if bool(((self.turn_joint < -1) | (self.turn_joint >= joints) | (self.turn_joint == 0)).any()):
            return f"its expressions turn joints outside 1 ... {joints - 1}"
        if not set(self.held) <= set(expression_names):
            return f"it has no expression {', '.join(sorted(set(self.held) - set(expression_names)))}"
        return None

    def to(self, dtype: torch.dtype) -> Articulation:
        """The same with its numbers in another precision."""
        return replace(self, **{name: getattr(self, name).to(dtype) for name in NUMBERS})

    def pose(self, expression: Tensor) -> Pose:
        """What the turns among the coefficients (..., L) do, in their precision."""
        return self.turned(torch.linalg.matrix_exp(cross_product(self._vectors(expression))))

    def turned(self, R: Tensor) -> Pose:
        """What rotations (..., J, 3, 3) of the joints against their parents do."""
        A, b = self._chain(R)
        weights = self.weights.to(R)
        correction = self._correction(R - torch.eye(3).to(R))
        return Pose(torch.einsum("vj,...jab->...vab", weights, A), correction, b, weights)

    def turn_rates(self, expression: Tensor, vertices: Tensor, joints: Tensor) -> Tensor:
        """(T, V, 3) metres: derivative of the posed head by the coefficients that are turns, in their order, at the
        coefficients (L,), for the head (V, 3) with joints (J, 3).

        Derivatives go along as the upper right blocks of matrices ((M, dM), (0, M)): these multiply as the product rule
        has it, and the exponential of one holds that of its diagonal and the derivative (Higham, "Functions of
        matrices", 2008, equation 3.16).
        """
        turns = torch.eye(len(expression)).to(expression)[self.is_turn]
        M = cross_product(self._vectors(expression)).expand(len(turns), -1, -1, -1)
        upper = torch.cat([M, cross_product(self._vectors(turns))], -1)
        doubled = torch.linalg.matrix_exp(torch.cat([upper, torch.cat([torch.zeros_like(M), M], -1)], -2))
        A, b = (values[..., :3, 3:] for values in self._chain(doubled))
        pose = self.pose(expression)
        rate = Pose(torch.einsum("vj,njab->nvab", pose.weights, A), pose.correction, b.clone(), pose.weights)
        corrected = torch.einsum("vab,nvb->nva", pose.blend, self._correction(doubled[..., :3, 3:]))
        return rate.of(vertices, joints) + corrected

    def _vectors(self, expression: Tensor) -> Tensor:
        """(..., J, 3) rotation vectors of the joints against their parents, radians."""
        vectors = torch.zeros(*expression.shape[:-1], len(self.joints), 3).to(expression)
        # displacements, which have the joint -1 and the vector 0, add nothing to the first
        angles = expression[..., None] * self.turn_vector.to(expression)
        return vectors.index_add(-2, self.turn_joint.clamp(min=0), angles)

    def _correction(self, change: Tensor) -> Tensor:
        """(..., V, 3) metres: correctives for the changes (..., J, 3, 3) of the joints' rotations."""
        flat = change[..., 1:, :, :].flatten(-3) @ self.correctives.to(change).flatten(1)
        return flat.unflatten(-1, (-1, 3))

    def _chain(self, R: Tensor) -> tuple[Tensor, Tensor]:
        """A (..., J, n, n) and b (..., J, J, n, n), a sum over the joints whose places it is
        linear in, from rotations (..., J, n, n)."""
        identity = torch.eye(R.shape[-1]).to(R)
        A: list[Tensor] = []
        b: list[Tensor] = []
        for joint, parent in enumerate(self.parents):
            own = R[..., joint, :, :]
            before = identity if parent < 0 else A[parent]
            about = torch.nn.functional.one_hot(torch.tensor(joint), len(self.joints)).to(R)[:, None, None]
            shift = about * (before @ (identity - own))[..., None, :, :]
            A.append(before @ own)
            b.append(shift if parent < 0 else shift + b[parent])
        return torch.stack(A, -3), torch.stack(b, -4)

    def joints_of(self, offset: Tensor) -> Tensor:
        """(..., J, 3): the joints of a head that differs from the mean one by `offset` (..., V, 3), metres."""
        return self.rest.to(offset) + self.joint_offset(offset)

    def joint_offset(self, offset: Tensor) -> Tensor:
        """(..., J, 3): how displacements of the vertices (..., V, 3) move the joints."""
        return torch.einsum("jv,...vc->...jc", self.joints_from_vertices.to(offset), offset)


@dataclass(frozen=True)
class Pose:
    """What given rotations do to every head."""

    blend: Tensor
    """(..., V, 3, 3): sum_j S_vj A_j."""
    correction: Tensor
    """(..., V, 3) metres: c."""
    shift_by_joints: Tensor
    """(..., J, J, 3, 3): b_j is the sum of these times the joints' places."""
    weights: Tensor
    """(V, J)."""

    def of(self, vertices: Tensor, joints: Tensor) -> Tensor:
        """The posed head (..., V, 3) of a head (..., V, 3) with joints (..., J, 3)."""
        return self.linear_part(vertices + self.correction, joints)

    def linear_part(self, displacement: Tensor, joints: Tensor) -> Tensor:
        """How displacements (..., V, 3) of the vertices and (..., J, 3) of the joints move the posed head."""
        shift = torch.einsum("...jiab,...ib->...ja", self.shift_by_joints, joints)
        x, y, z = (self.blend[..., axis] * displacement[..., axis, None] for axis in range(3))
        return x + y + z + self.weights @ shift


def cross_product(vectors: Tensor) -> Tensor:
    """(..., 3, 3) matrices that multiply as the cross product with vectors (..., 3) does; their exponentials are the
    rotations by these vectors, radians, with all derivatives at 0 too."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
