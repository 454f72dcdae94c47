"""The bundled head's mesh, its loops around eyes and mouth, and what a camera sees of it. Used by `annotate.py`.

Lengths are metres of the mean head, world frame of `fit3d.camera`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree

from fit3d.morphable.annotation import strip
from fit3d.raster import rasterise

# The person's left half, by vertex id of `model.npz`.

LID_RIM = (2221, 2220)
"""First edge of the loop along the front edge of both lids: the border of the eye as it is seen."""
LID_INNER = (3184, 3183)
"""First edge of the loop along the back edge of both lids, which the eye's patch spans: a lid that closes too far
then hides the patch behind the other lid."""
LID_CORNERS = (22, 7)
"""Index of the inner and the outer corner in both loops."""

LIP_ROLL = (362, 2554)
"""First edge of the loop around the border of the red of the lips."""
LIP_BORDER = (455, 2650)
"""First edge of the loop along that border."""
LIP_RIM = (520, 2703)
"""First edge of the loop along which the lips meet."""
MOUTH_CORNER = 10
"""Index of the left corner in these loops, which start at the middle of the upper lip and run to the person's left."""

FOREHEAD = 1664
"""A vertex in the middle of the hairline."""

HEAD_CENTRE = (0.0, -0.035, -0.060)
"""A point in the middle of the head, from which the face's outline is seen all around."""


@dataclass(frozen=True)
class Head:
    """Arrays of `model.npz` and what follows from them."""

    mean: np.ndarray
    """(V, 3) float64."""
    identity: np.ndarray
    """(K, V, 3) float32."""
    expression: dict[str, np.ndarray]
    """(V, 3) float32 by ARKit name."""
    faces: np.ndarray
    """(F, 4) int64, quads."""
    face_objects: np.ndarray
    """(F,) index into `objects`."""
    objects: tuple[str, ...]

    @classmethod
    def load(cls, path: Path) -> Head:
        """Read `model.npz`."""
        with np.load(path, allow_pickle=False) as data:
            identity = data["identity_q"].astype(np.float32) * data["identity_scale"][:, None, None]
            expression = data["expression_q"].astype(np.float32) * data["expression_scale"][:, None, None]
            return cls(
                data["mean_m"].astype(np.float64),
                identity,
                {str(name): shape for name, shape in zip(data["expression_names"], expression, strict=True)},
                data["faces"].astype(np.int64),
                data["face_objects"],
                tuple(str(name) for name in data["objects"]),
            )

    def shape(self, identity: np.ndarray | None = None, **expression: float) -> np.ndarray:
        """Vertices (V, 3) for the first identity coefficients and named expressions."""
        vertices = self.mean.copy()
        if identity is not None:
            vertices += np.einsum("k,kvc->vc", identity, self.identity[: len(identity)])
        for name, amount in expression.items():
            vertices += amount * self.expression[name]
        return vertices

    def object_faces(self, name: str) -> np.ndarray:
        """Faces (N, 4) of one piece."""
        return np.asarray(self.faces[self.face_objects == self.objects.index(name)])

    @cached_property
    def mirror(self) -> np.ndarray:
        """(V,) id of each vertex's mirror image."""
        distance, ids = cKDTree(self.mean).query(self.mean * [-1.0, 1.0, 1.0])
        assert distance.max() < 2e-4, f"the mean head is not symmetric: {distance.max():.5f} m"
        return np.asarray(ids)

    @cached_property
    def neighbours(self) -> dict[int, set[int]]:
        """Vertices joined by an edge."""
        around: dict[int, set[int]] = defaultdict(set)
        for quad in self.faces.tolist():
            for a, b in pairs(quad):
                around[a].add(b)
                around[b].add(a)
        return around

    @cached_property
    def edge_faces(self) -> dict[frozenset[int], list[int]]:
        """Faces on both sides of each edge."""
        edges: dict[frozenset[int], list[int]] = defaultdict(list)
        for index, quad in enumerate(self.faces.tolist()):
            for edge in pairs(quad):
                edges[frozenset(edge)].append(index)
        return edges

    def edge_loop(self, first: int, second: int) -> list[int]:
        """The closed loop that starts with this edge and goes straight on at every vertex."""
        loop = [first, second]
        while True:
            beside = {int(v) for f in self.edge_faces[frozenset(loop[-2:])] for v in self.faces[f]}
            ahead = self.neighbours[loop[-1]] - beside
            assert len(ahead) == 1, f"the edge loop from {first} ends at {loop[-1]}"
            (vertex,) = ahead
            if vertex == first:
                return loop
            loop.append(vertex)

    def mirrored(self, line: list[int]) -> list[int]:
        """The same line on the other half, from the person's right to left again."""
        return [int(v) for v in self.mirror[line][::-1]]


@dataclass(frozen=True)
class Lines:
    """The lines of the mesh that parts and landmarks share.

    Pairs hold the upper and the lower line, vertex ids from the person's right to left, both with the shared corners;
    lids are the left eye's. Rings are loops that start at the middle of the upper lip and run to the person's left.
    """

    lid_rim: tuple[list[int], list[int]]
    """Visible edge of the lids."""
    lid_inner: tuple[list[int], list[int]]
    """Back edge of the lids."""
    lid_inner_ring: list[int]
    lip_border: tuple[list[int], list[int]]
    """Border of the red of the lips."""
    lip_rim: tuple[list[int], list[int]]
    """Where the lips meet."""
    lip_rings: list[list[int]]
    """From the border of the red to the rim; the same index is the same way around the mouth."""
    lip_roll: list[int]
    """The ring around the border."""
    unit: float
    """Distance between the centres of the eyes' openings, metres."""
    eye_height: float
    """y of these centres, metres."""

    @classmethod
    def of(cls, head: Head) -> Lines:
        """The lines of a head."""
        border, rim = head.edge_loop(*LIP_BORDER), head.edge_loop(*LIP_RIM)
        rings = [border]
        while rings[-1][0] != rim[0]:  # the next ring starts at the neighbours inwards of this one's first two
            past = {v for ring in rings[-2:] for v in ring} | set(head.edge_loop(*LIP_ROLL))
            first, second = ((head.neighbours[vertex] - past).pop() for vertex in rings[-1][:2])
            rings.append(head.edge_loop(first, second))
        lid_rim, lid_inner = head.edge_loop(*LID_RIM), head.edge_loop(*LID_INNER)
        seen = head.mean[lid_rim]
        centre = (seen.min(0) + seen.max(0)) / 2.0
        return cls(
            cls._lids(lid_rim),
            cls._lids(lid_inner),
            lid_inner,
            cls._lips(border),
            cls._lips(rim),
            rings,
            head.edge_loop(*LIP_ROLL),
            2.0 * float(centre[0]),
            float(centre[1]),
        )

    @staticmethod
    def _lids(loop: list[int]) -> tuple[list[int], list[int]]:
        # the loops run from the middle of the upper lid outwards and back along the lower lid
        inner, outer = LID_CORNERS
        return loop[inner:] + loop[: outer + 1], loop[outer : inner + 1][::-1]

    @staticmethod
    def _lips(loop: list[int]) -> tuple[list[int], list[int]]:
        right = len(loop) - MOUTH_CORNER
        return loop[right:] + loop[: MOUTH_CORNER + 1], loop[MOUTH_CORNER : right + 1][::-1]


@dataclass(frozen=True)
class View:
    """A camera at the distance where `half` metres to each side of `centre` fill the picture at a FOV of 30 degrees."""

    yaw_deg: float = 0.0
    """Turn of the head, positive to its left: its right side is seen."""
    pitch_deg: float = 0.0
    """Positive: the head looks down."""
    size: int = 512
    """Side of the picture, px."""
    centre: tuple[float, float, float] = (0.0, -0.025, 0.0)
    half: float = 0.15

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3): world points to axes x right, y up, z towards the viewer."""
        yaw, pitch = np.deg2rad([self.yaw_deg, self.pitch_deg])
        about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
        return np.asarray(about_x @ about_y)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (N, 2) and depths (N,) of world points."""
        tangent = np.tan(np.deg2rad(15.0))
        x, y, z = ((points - self.centre) @ self.rotation.T).T
        depth = self.half / tangent - z
        return (self.size / 2) * (1.0 + np.stack([x, -y], 1) / (tangent * depth[:, None])), depth

    def rasterise(self, points: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Triangle (H, W), -1 where there is none, and barycentric weights (H, W, 3) seen by each pixel."""
        pixels, depth = self.project(points)
        seen = rasterise(torch.tensor(pixels), torch.tensor(depth), torch.tensor(triangles), self.size, self.size)
        return seen.triangle.numpy(), seen.barycentric.numpy()


def outer_faces(head: Head, lines: Lines) -> np.ndarray:
    """Ids of the head's faces that some view from ahead or the side sees, without what lies behind the patches."""
    walls = {frozenset(edge) for ring in (lines.lid_inner_ring, lines.lip_rings[-1]) for edge in pairs(ring)}
    walls |= {frozenset(int(head.mirror[v]) for v in wall) for wall in walls}
    reached: set[int] = set()
    frontier = {int(np.flatnonzero((head.faces == FOREHEAD).any(1))[0])}
    while frontier:
        reached |= frontier
        edges = {frozenset(edge) for f in frontier for edge in pairs(head.faces[f].tolist())} - walls
        frontier = {f for edge in edges for f in head.edge_faces[edge]} - reached
    candidates = np.array(sorted(reached))
    triangles = split(head.faces[candidates])
    seen = np.zeros(len(candidates), bool)
    for vertices in (head.mean, head.shape(jawOpen=1.0), head.shape(noseSneerLeft=1.0, noseSneerRight=1.0)):
        for yaw in (0, 30, 60, 90):
            for pitch in (-40, -10, 20):
                raster, _ = View(yaw, pitch, 800, (0.0, -0.03, -0.05), 0.16).rasterise(vertices, triangles)
                seen[np.unique(raster[raster >= 0]) // 2] = True
    index = {frozenset(quad): i for i, quad in enumerate(head.faces[candidates].tolist())}
    twin = [index[frozenset(quad)] for quad in head.mirror[head.faces[candidates]].tolist()]
    return np.asarray(candidates[seen | seen[twin]])


def closed_surface(head: Head, lines: Lines, surface: np.ndarray) -> trimesh.Trimesh:
    """The outer faces with the openings of eyes and mouth spanned."""
    right_eye = [head.mirrored(line) for line in lines.lid_inner]
    patches = [strip(upper, lower, head.mean) for upper, lower in (lines.lid_inner, right_eye, lines.lip_rim)]
    return trimesh.Trimesh(head.mean, np.concatenate([split(head.faces[surface]), *patches]), process=False)


def pairs(loop: list[int]) -> list[tuple[int, int]]:
    """Consecutive pairs of a closed loop."""
    return list(zip(loop, loop[1:] + loop[:1], strict=True))


def split(quads: np.ndarray) -> np.ndarray:
    """Quads (F, 4) as triangles (2F, 3), the two of a quad next to each other."""
    return np.asarray(quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3))


def resample(points: np.ndarray, step: float = 0.0004) -> np.ndarray:
    """A line (N, 3) with a point about every `step` metres."""
    pieces = [points[:1]]
    for a, b in pairwise(points):
        count = max(1, int(np.ceil(np.linalg.norm(b - a) / step)))
        pieces.append(a + (b - a) * np.linspace(0.0, 1.0, count + 1)[1:, None])
    return np.concatenate(pieces)


def between(head: Head, places: tuple[tuple[int, int, float], ...]) -> np.ndarray:
    """Points (N, 3) a + t (b - a) between two vertices each."""
    return np.array([head.mean[a] + t * (head.mean[b] - head.mean[a]) for a, b, t in places])
