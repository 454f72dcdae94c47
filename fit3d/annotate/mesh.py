"""A triangle mesh as annotation needs it: normals, nearest points, paths along edges, its mirror image.

Lengths are metres, world frame of `fit3d.camera`; ids are the model's own vertex ids throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import trimesh
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from fit3d.morphable.model import SurfacePoints
from fit3d.render.shade import vertex_normals

NORMAL_M = 0.004
"""Two places whose normals are at right angles count as this much further apart: what tells the upper lip from the
lower one that touches it, and the outside of a lid from its edge."""
LEAN_M = 0.0005
"""Greatest length of `Mesh.lean`."""
CANDIDATES = 24
"""Triangles among which a nearest point is sought."""
SYMMETRIC_M = 5e-4
"""A vertex further than this from every mirrored vertex has no mirror image."""
DETOUR = 0.5
"""The larger, the sooner a path leaves its line for a shorter way."""
ASYMMETRIC_SHARE = 0.01
"""A mesh with a larger share of such vertices is not symmetric."""


@dataclass(frozen=True)
class Mesh:
    """Positions of all vertices of a model and some of its triangles."""

    points: np.ndarray
    """(V, 3) float64."""
    triangles: np.ndarray
    """(T, 3) int64, counter-clockwise from outside."""

    @cached_property
    def used(self) -> np.ndarray:
        """Ids of the vertices that the triangles use."""
        return np.unique(self.triangles)

    @cached_property
    def normals(self) -> np.ndarray:
        """(V, 3) unit normals, 0 for unused vertices."""
        return np.asarray(vertex_normals(torch.from_numpy(self.points), torch.from_numpy(self.triangles)).numpy())

    @cached_property
    def corners(self) -> np.ndarray:
        """(T, 3, 3)."""
        return np.asarray(self.points[self.triangles])

    @cached_property
    def areas(self) -> np.ndarray:
        """(T,) square metres."""
        a, b, c = self.corners.transpose(1, 0, 2)
        return np.asarray(np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2.0)

    @cached_property
    def _centres(self) -> cKDTree:
        return cKDTree(self.corners.mean(1))

    @cached_property
    def lean(self) -> np.ndarray:
        """(V, 3) metres, at most LEAN_M long: the way from each vertex to the middle of the triangles around it. On the
        rim of an opening it points away from it, where both rims may lie in one place."""
        total, count = np.zeros_like(self.points), np.zeros(len(self.points))
        np.add.at(total, self.triangles.ravel(), np.repeat(self.corners.mean(1), 3, axis=0))
        np.add.at(count, self.triangles.ravel(), 1.0)
        lean = np.where(count[:, None] > 0, total / np.maximum(count, 1.0)[:, None] - self.points, 0.0)
        length = np.linalg.norm(lean, axis=1, keepdims=True)
        return np.asarray(lean * np.minimum(1.0, LEAN_M / np.maximum(length, 1e-12)))

    @property
    def traits(self) -> np.ndarray:
        """(V, 9) metres: position, normal and lean, by whose distance vertices are told apart."""
        return np.hstack([self.points, NORMAL_M * self.normals, self.lean])

    def nearest(self, points: np.ndarray, normals: np.ndarray | None = None, candidates: int = CANDIDATES) -> Nearest:
        """The mesh's points nearest to `points` (N, 3) with, if given, these unit normals (N, 3), among so many
        triangles `candidates`, nearest by their centres.

        Nearness is `d^2 + (NORMAL_M (1 - cos))^2` of distance and angle between the normals.
        """
        count = min(candidates, len(self.triangles))
        _, candidate = self._centres.query(points, k=count)
        candidate = candidate.reshape(len(points), count)
        corners = self.corners[candidate.ravel()]
        places = trimesh.triangles.closest_point(corners, np.repeat(points, count, axis=0)).reshape(-1, count, 3)
        cost = ((places - points[:, None]) ** 2).sum(-1)
        weights = _barycentric(corners, places.reshape(-1, 3)).reshape(-1, count, 3)
        smooth = np.einsum("ntk,ntkc->ntc", weights, self.normals[self.triangles[candidate]])
        smooth /= np.maximum(np.linalg.norm(smooth, axis=-1, keepdims=True), 1e-12)
        if normals is not None:
            cost = cost + (NORMAL_M * (1.0 - np.einsum("ntc,nc->nt", smooth, normals))) ** 2
        every, best = np.arange(len(points)), cost.argmin(1)
        place = places[every, best]
        return Nearest(
            triangle=candidate[every, best],
            vertices=self.triangles[candidate[every, best]],
            weights=weights[every, best],
            places=place,
            normals=smooth[every, best],
            distance=np.linalg.norm(place - points, axis=1),
        )

    @cached_property
    def edges(self) -> np.ndarray:
        """(E, 2) vertex ids, each edge once."""
        pairs = np.sort(
            np.concatenate([self.triangles[:, [0, 1]], self.triangles[:, [1, 2]], self.triangles[:, [2, 0]]])
        )
        return np.unique(pairs, axis=0)

    @cached_property
    def mirror(self) -> np.ndarray | None:
        """(V,) id of each used vertex's mirror image, -1 for the others; None if the mesh is not symmetric."""
        used = self.points[self.used]
        # vertices of touching lips lie in one place: normals and lean tell them apart
        traits = self.traits[self.used]
        _, ids = cKDTree(traits).query(traits * np.tile([-1.0, 1.0, 1.0], 3))
        distance = np.linalg.norm(used[ids] - used * [-1.0, 1.0, 1.0], axis=1)
        there_and_back = np.linalg.norm(used[ids[ids]] - used, axis=1)  # another vertex where pieces share a seam
        if max((distance > SYMMETRIC_M).mean(), (there_and_back > SYMMETRIC_M).mean()) > ASYMMETRIC_SHARE:
            return None
        image = np.full(len(self.points), -1)
        image[self.used] = self.used[ids]
        return image

    def along_surface(self, known: np.ndarray) -> np.ndarray:
        """(V,) for each used vertex the one of the vertices `known` (N,) that is nearest along edges; itself where no
        way leads to any."""
        a, b = self.edges.T
        length = np.maximum(np.linalg.norm(self.points[a] - self.points[b], axis=1), 1e-9)
        graph = csr_matrix((length, (a, b)), shape=(len(self.points),) * 2)
        _, _, nearest = dijkstra(graph, directed=False, indices=known, min_only=True, return_predecessors=True)
        every = np.arange(len(self.points))
        return np.where(nearest < 0, every, nearest)

    def path(self, edges: np.ndarray, guide: np.ndarray, ends: tuple[int, int], sigma: float) -> list[int]:
        """Vertices along `edges` (E, 2) from one of `ends` to the other that keep to a line of places with these
        traits (M, 9); empty if there is no way.

        The shortest path where an edge at distance d of the line is `DETOUR + (d / sigma)^2` times as long as it is.
        """
        start, end = ends
        place, traits = cKDTree(guide), self.traits
        off, _ = place.query(traits)
        a, b = edges[(off[edges] < 10.0 * sigma).all(1)].T
        between, _ = place.query((traits[a] + traits[b]) / 2.0)
        square = (off[a] ** 2 + 4.0 * between**2 + off[b] ** 2) / 6.0
        length = np.linalg.norm(self.points[a] - self.points[b], axis=1) * (DETOUR + square / sigma**2)
        graph = csr_matrix((length, (a, b)), shape=(len(self.points),) * 2)
        _, before = dijkstra(graph, directed=False, indices=start, return_predecessors=True)
        line = [end]
        while line[-1] != start:
            if before[line[-1]] < 0:
                return []
            line.append(int(before[line[-1]]))
        return line[::-1]


@dataclass(frozen=True)
class Nearest:
    """Points of a mesh."""

    triangle: np.ndarray
    """(N,) int64."""
    vertices: np.ndarray
    """(N, 3) int64."""
    weights: np.ndarray
    """(N, 3)."""
    places: np.ndarray
    """(N, 3)."""
    normals: np.ndarray
    """(N, 3) unit normals, interpolated between the vertices."""
    distance: np.ndarray
    """(N,) from the points asked for."""

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """(N, ...) of values (V, ...) at the vertices."""
        return np.asarray(np.einsum("nk,nk...->n...", self.weights, values[self.vertices]))


def triangles_of(faces: np.ndarray) -> np.ndarray:
    """(T, 3) int64: quads and triangles (F, 4), a triangle's last id -1, as triangles."""
    quads = faces[faces[:, 3] >= 0]
    return np.concatenate([faces[:, :3], quads[:, [0, 2, 3]]]).astype(np.int64)


def edges_of(faces: np.ndarray) -> np.ndarray:
    """(E, 2) vertex ids, each edge of quads and triangles (F, 4) once, without the quads' diagonals."""
    last = np.where(faces[:, 3] >= 0, faces[:, 3], faces[:, 2])
    pairs = [faces[:, [0, 1]], faces[:, [1, 2]], np.stack([faces[:, 2], last], 1), np.stack([last, faces[:, 0]], 1)]
    edges = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)
    return np.asarray(edges[edges[:, 0] != edges[:, 1]].astype(np.int64))


def places_of(points: SurfacePoints, positions: np.ndarray) -> np.ndarray:
    """Positions (..., 3) of surface points on a mesh with vertex `positions` (V, 3)."""
    return np.asarray((positions[points.vertices.numpy()] * points.weights.double().numpy()[..., None]).sum(-2))


def _barycentric(corners: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(N, 3) weights of the corners (N, 3, 3) of triangles at places (N, 3) in them; a flat triangle gives its first
    corner."""
    u, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    w = places - corners[:, 0]
    uu, uv, vv, wu, wv = ((a * b).sum(1) for a, b in ((u, u), (u, v), (v, v), (w, u), (w, v)))
    det = uu * vv - uv * uv
    with np.errstate(divide="ignore", invalid="ignore"):
        second = np.where(det > 1e-24, (vv * wu - uv * wv) / det, 0.0)
        third = np.where(det > 1e-24, (uu * wv - uv * wu) / det, 0.0)
    weights = np.stack([1.0 - second - third, second, third], 1).clip(0.0, 1.0)
    return np.asarray(weights / weights.sum(1, keepdims=True))
