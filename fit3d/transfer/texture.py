"""Carries a texture image from one model's UV layout to another's, by correspondence of the surfaces."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch.nn import functional

from fit3d.annotate.mesh import Mesh, triangles_of
from fit3d.labels import SKIN
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.pieces import PieceKind
from fit3d.render.atlas import Atlas, make_atlas, triangulate
from fit3d.render.colours import DEFAULT_SKIN, FLAT_COLOUR, MOUTH, NEIGHBOUR_COLOUR, TEETH, TONGUE
from fit3d.render.texture import place_texels
from fit3d.transfer.person import Head
from fit3d.transfer.pieces import piece_kinds

NEAR_M, FAR_M = 0.002, 0.004
"""Distance to the source up to which its colour counts fully, and from which on it does not count."""
LEAST_COSINE, FULL_COSINE = 0.1, 0.5
"""The same for the cosine between the normals."""
BLOCK = 3
"""Side, texels, of the squares whose texels take their colour from one triangle's plane."""
CANDIDATES = 6
"""Triangles among which a block's is sought."""
CHUNK = 100_000
"""Blocks at a time."""

OUTWARD_M = 0.004
"""How far before eyeballs, teeth and tongues their counterparts are sought: one model's teeth stand behind the other's,
and an eyeball may have an iris inside its cornea. What is seen is the front."""

_FROM: dict[PieceKind, PieceKind] = {"attached": "skin"}
"""Where a piece takes its colours from that is not of the source's kind of the same name."""
_FLAT: dict[PieceKind, tuple[float, float, float]] = {"teeth": TEETH, "tongue": TONGUE}


def carry_texture(
    source: Head, texture: np.ndarray, target: MorphableModel, neutral: np.ndarray, size: int
) -> tuple[np.ndarray, float]:
    """The source's texture in the target's layout, and the share of the target's face that has it from there.

    A texel takes the colour, interpolated linearly, of the nearest point of the source's neutral surface of the same
    kind (skin, eyeball, teeth, tongue) whose normal agrees. Where there is none near enough, colours run on smoothly
    over the surface from where there is one.

    Args:
        source: the head that the texture is of.
        texture: (S, S, 3) uint8 sRGB, in the source model's layout.
        neutral: (V, 3) the target's neutral vertices, on the source.
        size: side of the new texture, texels.

    Returns:
        (size, size, 3) uint8 sRGB, and a number in [0, 1].
    """
    atlas = make_atlas(target, size)
    kinds = np.array(piece_kinds(target))[atlas.face_object]
    points = atlas.from_vertices @ neutral
    normals = atlas.from_vertices @ Mesh(neutral, triangles_of(target.faces)).normals
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    read, trust = np.zeros((len(points), 3), np.float32), np.zeros(len(points), np.float32)
    for kind in np.unique(kinds).tolist():
        of = np.flatnonzero(kinds == kind)
        surface = _Surface.of(source, _FROM.get(kind, kind))
        if surface is None:
            continue
        places = points[of] if _FROM.get(kind, kind) == "skin" else points[of] + OUTWARD_M * normals[of]
        uv, distance, cosine = surface.uv_at(places, normals[of], _blocks(atlas.texels[of], size))
        read[of] = _sampled(texture, uv)
        sure = ((FAR_M - distance) / (FAR_M - NEAR_M)).clip(0.0, 1.0)
        sure = sure * ((cosine - LEAST_COSINE) / (FULL_COSINE - LEAST_COSINE)).clip(0.0, 1.0)
        trust[of] = sure if kind == "skin" else 1.0
    base = _base_colours(read, trust, target, atlas)
    colours = atlas.from_vertices @ base
    colours += trust[:, None] * (read - colours)
    on_face = (atlas.from_vertices @ np.isin(np.arange(len(neutral)), Head(target, neutral, neutral, {}).face)) > 0.99
    share = float(trust[on_face].mean()) if on_face.any() else 0.0
    return place_texels(colours, base, atlas), share


class _Surface:
    """The source's pieces of one kind with their UVs."""

    def __init__(self, mesh: Mesh, corners_uv: np.ndarray) -> None:
        self.mesh = mesh
        a, b, c = mesh.corners.transpose(1, 0, 2)
        u, v = b - a, c - a
        uu, uv, vv = ((p * q).sum(1) for p, q in ((u, u), (u, v), (v, v)))
        det = (uu * vv - uv * uv)[:, None]
        safe = np.where(det > 1e-24, det, 1.0)
        second = np.where(det > 1e-24, (vv[:, None] * u - uv[:, None] * v) / safe, 0.0)
        third = np.where(det > 1e-24, (uu[:, None] * v - uv[:, None] * u) / safe, 0.0)
        to_b, to_c = corners_uv[:, 1] - corners_uv[:, 0], corners_uv[:, 2] - corners_uv[:, 0]
        # (T, 2, 3): what a step in the triangle's plane is in the UV layout
        self.slope = to_b[:, :, None] * second[:, None] + to_c[:, :, None] * third[:, None]
        self.corners_uv = corners_uv

    @classmethod
    def of(cls, source: Head, kind: PieceKind) -> _Surface | None:
        model = source.model
        objects = [index for index, each in enumerate(piece_kinds(model)) if each == kind]
        faces = np.isin(model.face_objects, objects)
        if not faces.any():
            return None
        mesh = Mesh(source.neutral, triangles_of(model.faces[faces]))
        return cls(mesh, model.uv[triangulate(model.uv_faces[faces])].astype(np.float64))

    def uv_at(
        self, points: np.ndarray, normals: np.ndarray, blocks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """UV (N, 2) under points (N, 3) with unit normals, distances (N,) and cosines (N,) between the normals.

        One point of each block (N,) looks for its triangle, the others are a texel or two away in its plane.
        """
        _, first, back = np.unique(blocks, return_index=True, return_inverse=True)
        triangle = np.empty(len(first), np.int64)
        distance, cosine, uv = np.empty(len(first)), np.empty(len(first)), np.empty((len(first), 2))
        for begin in range(0, len(first), CHUNK):
            part = slice(begin, begin + CHUNK)
            hit = self.mesh.nearest(points[first[part]], normals[first[part]], CANDIDATES)
            triangle[part], distance[part] = hit.triangle, hit.distance
            cosine[part] = (hit.normals * normals[first[part]]).sum(1)
            uv[part] = np.einsum("nk,nkc->nc", hit.weights, self.corners_uv[hit.triangle])
        step = points - points[first][back]
        return uv[back] + np.einsum("nij,nj->ni", self.slope[triangle[back]], step), distance[back], cosine[back]


def _blocks(texels: np.ndarray, size: int) -> np.ndarray:
    """(N,) number of the square of BLOCK texels that each flat texel id lies in."""
    return np.asarray(texels // size // BLOCK * (size // BLOCK + 1) + texels % size // BLOCK)


def _sampled(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """(N, 3) float32 in [0, 1]: the texture (S, S, 3) uint8 at UVs (N, 2), origin bottom left, bilinear."""
    grid = torch.from_numpy(np.stack([2.0 * uv[:, 0] - 1.0, 1.0 - 2.0 * uv[:, 1]], 1).astype(np.float32))
    image = torch.tensor(texture).permute(2, 0, 1)[None].float() / 255.0
    read = functional.grid_sample(image, grid[None, None], padding_mode="border", align_corners=False)
    return np.asarray(read[0, :, 0].T.numpy())


def _base_colours(read: np.ndarray, trust: np.ndarray, model: MorphableModel, atlas: Atlas) -> np.ndarray:
    """(V, 3) float32, one smooth colour per vertex.

    Minimises, over the mesh's edges ij and vertices i,
    sum |x_i - x_j|^2 + sum 4 d_i |x_i - read_i|^2 + sum p_i |x_i - prior_i|^2, d_i being the trust around vertex i.
    """
    count = atlas.from_vertices.shape[1]
    spread = atlas.from_vertices.T @ np.column_stack([trust[:, None] * read, trust])
    texels = np.maximum(np.asarray(atlas.from_vertices.sum(0)).ravel(), 1e-6)
    seen, known = spread[:, :3] / np.maximum(spread[:, 3:], 1e-6), spread[:, 3] / texels
    prior, pull = np.empty((count, 3)), np.full(count, NEIGHBOUR_COLOUR)
    prior[:] = _median(seen[(known > 0.5) & (atlas.label == SKIN)], DEFAULT_SKIN)
    prior[atlas.inner_mouth] = _median(seen[(known > 0.5) & atlas.inner_mouth], MOUTH)
    pull[atlas.inner_mouth] = FLAT_COLOUR
    for index, kind in enumerate(piece_kinds(model)):
        if kind in _FLAT:
            ids = model.faces[model.face_objects == index]
            prior[ids[ids >= 0]], pull[ids[ids >= 0]] = _FLAT[kind], FLAT_COLOUR
    i, j = atlas.edges.T
    neighbours = sparse.coo_matrix((np.ones(len(i)), (i, j)), shape=(count, count))
    degree = np.bincount(i, minlength=count) + np.bincount(j, minlength=count)
    system = sparse.diags(degree + 4.0 * known + pull) - neighbours - neighbours.T
    right = 4.0 * known[:, None] * seen + pull[:, None] * prior
    return np.asarray(splu(system.tocsc()).solve(right), np.float32).clip(0.0, 1.0)


def _median(colours: np.ndarray, otherwise: tuple[float, float, float]) -> np.ndarray:
    return np.asarray(np.median(colours, axis=0) if len(colours) else otherwise)
