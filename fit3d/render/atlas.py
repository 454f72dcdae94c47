"""How the texels of a texture lie on a face model: once per model and texture size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from fit3d.labels import INNER_MOUTH, LEFT_EYE, OTHER, RIGHT_EYE
from fit3d.morphable.model import MorphableModel
from fit3d.morphable.pieces import piece_kind

PADDING = 12
"""Texels that are filled beyond the borders of the UV islands, so that filtering never reaches empty ones."""

LARGEST_MIRROR_ERROR = 0.004
"""Vertices without a mirrored partner within this distance, metres, have none."""

FACE_LABELS = tuple(range(RIGHT_EYE, INNER_MOUTH + 1))
"""Labels of what belongs to a face: neither hair nor ears, neck or things in front."""

FACE, BESIDE, EYE, MOUTH = 0, 1, 2, 3
"""Kinds of surface: skin of the face; ears, neck and scalp; eyeballs; teeth, tongue and the mouth's cavity."""

CHUNK = 1 << 18
"""Texels that are worked on at a time; bounds memory only."""


@dataclass(frozen=True)
class Atlas:
    """The texels that lie on the model, and what does not depend on the person."""

    size: int
    """Side of the texture, texels; row 0 is the top (v = 1)."""
    texels: np.ndarray
    """(N,) int64 flat ids of the texels on the model, ascending."""
    from_vertices: sparse.csr_matrix
    """(N, V) float32: `from_vertices @ values` interpolates vertex values (V, C) at the texels."""
    triangle: np.ndarray
    """(N,) int32: the triangle that each texel lies on."""
    triangles: np.ndarray
    """(T, 3) int32 vertex ids."""
    triangle_object: np.ndarray
    """(T,) uint8, index into the model's `objects`."""
    triangle_inner: np.ndarray
    """(T,) bool: of the head but not of its outer surface (mouth cavity, eye sockets)."""
    kind: np.ndarray
    """(N,) uint8: FACE, BESIDE, EYE or MOUTH."""
    texels_around: np.ndarray
    """(V,) float32: sum of the weights by which each vertex enters its texels."""
    padding: np.ndarray
    """(M,) int64 flat ids of the texels just beyond the islands."""
    padding_source: np.ndarray
    """(M,) int64: which of the N texels each takes its colour from."""
    mirror: np.ndarray
    """(V,) int64: the vertex at the mirrored place; -1 where the model has none."""
    label: np.ndarray
    """(V,) uint8: the part of each vertex by the model's annotation, 'other' away from the face."""
    inner_mouth: np.ndarray
    """(V,) bool: vertices of the mouth cavity."""
    lids: np.ndarray
    """(V,) bool: vertices of the lids' rims and between them."""
    edges: np.ndarray
    """(E, 2) int32: vertex ids of the mesh edges, without the diagonals of quads."""

    @property
    def face_object(self) -> np.ndarray:
        """(N,) uint8, index into the model's `objects`."""
        return np.asarray(self.triangle_object[self.triangle])

    @property
    def inner(self) -> np.ndarray:
        """(N,) bool: on the head but not on its outer surface."""
        return np.asarray(self.triangle_inner[self.triangle])

    @cached_property
    def rough(self) -> np.ndarray:
        """(T,) bool: triangles that may hold texels of kind MOUTH."""
        rough = np.zeros(len(self.triangles), bool)
        rough[self.triangle[self.kind == MOUTH]] = True
        return rough

    @cached_property
    def of_eyes(self) -> dict[int, np.ndarray]:
        """By index into the model's `objects`, the texels (n,) int64 of each eyeball that has some."""
        texels = np.flatnonzero(self.kind == EYE)
        objects = self.triangle_object[self.triangle[texels]]
        return {int(index): texels[objects == index] for index in np.unique(objects)}

    def at(self, texels: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(n, C): vertex values (V, C) interpolated at some `texels` (n,)."""
        return np.asarray(self.some(texels) @ values)

    def some(self, texels: np.ndarray) -> sparse.csr_matrix:
        """`from_vertices[texels]`: (n, V)."""
        # every row holds three numbers, so rows are picked faster than a matrix of any kind can
        matrix = self.from_vertices
        weights, corners = (each.reshape(-1, 3).take(texels, axis=0).ravel() for each in (matrix.data, matrix.indices))
        ends = np.arange(0, 3 * len(texels) + 1, 3, dtype=np.int32)
        return sparse.csr_matrix((weights, corners, ends), shape=(len(texels), matrix.shape[1]))

    def rows(self, first: int, last: int) -> Any:
        """`from_vertices[first:last]` without a copy."""
        matrix = self.from_vertices
        start, stop = int(matrix.indptr[first]), int(matrix.indptr[last])
        return sparse.csr_matrix(
            (matrix.data[start:stop], matrix.indices[start:stop], matrix.indptr[first : last + 1] - start),
            shape=(last - first, matrix.shape[1]),
        )


@lru_cache(maxsize=1)
def make_atlas(model: MorphableModel, size: int) -> Atlas:
    """Rasterise the model's UV layout into a texture of `size` x `size` texels. Where islands overlap, the later
    triangle wins. The last atlas is kept for the next photo."""
    quads = model.faces[:, 3] >= 0
    triangles = model.triangles
    uv_triangles = triangulate(model.uv_faces)
    objects = np.concatenate([model.face_objects, model.face_objects[quads]])
    owner = _fill(model.uv[uv_triangles], size)
    texels = np.flatnonzero(owner >= 0)
    owner = owner[texels]
    count = len(texels)
    weights, corners = np.empty((count, 3), np.float32), np.empty((count, 3), np.int32)
    for start in range(0, count, CHUNK):
        some = slice(start, start + CHUNK)
        weights[some] = _uv_weights(model.uv[uv_triangles[owner[some]]], texels[some], size)
        corners[some] = triangles[owner[some]]
    from_vertices = sparse.csr_matrix(
        (weights.ravel(), corners.ravel(), np.arange(0, 3 * count + 1, 3, dtype=np.int32)),
        shape=(count, len(model.mean)),
    )
    inner_vertex = _inner_vertices(model)
    inner_mouth, label = _of_mouth(model, inner_vertex), _vertex_labels(model)
    padding, padding_source = _padding(texels, size)
    edges = _edges(model.faces)
    return Atlas(
        size=size,
        texels=texels,
        from_vertices=from_vertices,
        triangle=owner,
        triangles=triangles,
        triangle_object=objects,
        triangle_inner=inner_vertex[triangles].any(1),
        kind=_kinds(model, corners, weights, objects[owner], label, inner_mouth),
        texels_around=np.bincount(corners.ravel(), weights.ravel(), len(model.mean)).astype(np.float32),
        padding=padding,
        padding_source=padding_source,
        mirror=_mirror(model.mean.double().numpy(), edges),
        label=label,
        inner_mouth=inner_mouth,
        lids=_lids(model, label),
        edges=edges,
    )


def _kinds(
    model: MorphableModel,
    corners: np.ndarray,
    weights: np.ndarray,
    face_object: np.ndarray,
    label: np.ndarray,
    inner_mouth: np.ndarray,
) -> np.ndarray:
    """(N,) uint8: kind of the texels between vertices `corners` (N, 3) by `weights` (N, 3)."""
    head = head_object(model)
    by_object = [
        FACE if k == head else EYE if piece_kind(name) == "eye" else MOUTH for k, name in enumerate(model.objects)
    ]
    kind = np.array(by_object, np.uint8)[face_object]
    beside = ~np.isin(label, FACE_LABELS)
    for start in range(0, len(kind), CHUNK):
        some = slice(start, start + CHUNK)
        part, corner, weight = kind[some], corners[some], weights[some]
        skin = part == FACE
        part[skin & ((beside[corner] * weight).sum(1) > 0.5)] = BESIDE
        part[skin & ((inner_mouth[corner] * weight).sum(1) > 0.99)] = MOUTH
    return kind


def triangulate(faces: np.ndarray) -> np.ndarray:
    """(T, 3) int64 triangles of quads (F, 4), in the order of `MorphableModel.triangles`."""
    quads = faces[faces[:, 3] >= 0]
    return np.concatenate([faces[:, :3], quads[:, [0, 2, 3]]]).astype(np.int64)


def _edges(faces: np.ndarray) -> np.ndarray:
    """(E, 2) int32, each side of the faces (F, 4) once. Diagonals would make the two sides of a head differ."""
    after = np.roll(faces, -1, axis=1)
    triangle = faces[:, 3] < 0
    after[triangle, 2] = faces[triangle, 0]
    sides = np.stack([faces, after], -1).reshape(-1, 2)
    return np.unique(np.sort(sides[(sides >= 0).all(1)], axis=1), axis=0).astype(np.int32)


def _fill(corners_uv: np.ndarray, size: int) -> np.ndarray:
    """(size * size,) int32: the triangle of each texel, -1 where there is none. `corners_uv` (T, 3, 2).

    Rows of a triangle are cut with its edges and filled from crossing to crossing. Charts do not overlap, so unlike
    `rasterise` it knows no depth.
    """
    x = corners_uv[..., 0].astype(np.float64) * size
    y = (1.0 - corners_uv[..., 1].astype(np.float64)) * size
    first = np.ceil(y.min(1) - 0.5).clip(0, size).astype(np.int64)
    rows = np.maximum(np.ceil(y.max(1) - 0.5).clip(0, size).astype(np.int64) - first, 0)
    triangle = np.repeat(np.arange(len(x)), rows)
    row = first[triangle] + np.arange(len(triangle)) - np.repeat(np.cumsum(rows) - rows, rows)
    centre = row + 0.5
    left, right = np.full(len(triangle), np.inf), np.full(len(triangle), -np.inf)
    for start, end in ((0, 1), (1, 2), (2, 0)):
        x0, y0, x1, y1 = x[:, start], y[:, start], x[:, end], y[:, end]
        # from the upper to the lower end on both sides of a shared edge, so that both get the same crossing
        swap = (y0 > y1) | ((y0 == y1) & (x0 > x1))
        x0, x1, y0, y1 = np.where(swap, x1, x0), np.where(swap, x0, x1), np.where(swap, y1, y0), np.where(swap, y0, y1)
        slope = (x1 - x0) / np.where(y1 > y0, y1 - y0, 1.0)
        crosses = (y0[triangle] <= centre) & (centre < y1[triangle])
        at = x0[triangle] + (centre - y0[triangle]) * slope[triangle]
        left = np.where(crosses, np.minimum(left, at), left)
        right = np.where(crosses, np.maximum(right, at), right)
    begin = np.ceil(np.where(np.isfinite(left), left, 0.0) - 0.5).clip(0, size).astype(np.int64)
    stop = np.ceil(np.where(np.isfinite(right), right, 0.0) - 0.5).clip(0, size).astype(np.int64)
    length = np.maximum(stop - begin, 0)
    span = np.repeat(row * size + begin - (np.cumsum(length) - length), length)
    filled = np.full(size * size, -1, np.int32)
    filled[span + np.arange(len(span))] = np.repeat(triangle, length)
    return filled


def _uv_weights(corners_uv: np.ndarray, texels: np.ndarray, size: int) -> np.ndarray:
    """(N, 3) float32 barycentric weights of texel centres in their triangles, `corners_uv` (N, 3, 2)."""
    x = ((texels % size + 0.5) / size).astype(np.float32)
    y = (1.0 - (texels // size + 0.5) / size).astype(np.float32)
    a, b, c = corners_uv[:, 0], corners_uv[:, 1], corners_uv[:, 2]
    ux, uy, vx, vy, dx, dy = (
        b[:, 0] - a[:, 0],
        b[:, 1] - a[:, 1],
        c[:, 0] - a[:, 0],
        c[:, 1] - a[:, 1],
        *(
            x - a[:, 0],
            y - a[:, 1],
        ),
    )
    area = ux * vy - uy * vx
    safe = np.where(area == 0.0, 1.0, area)
    second = ((dx * vy - dy * vx) / safe).clip(0.0, 1.0)
    third = ((ux * dy - uy * dx) / safe).clip(0.0, 1.0 - second)
    return np.stack([1.0 - second - third, second, third], 1)


def _padding(texels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Texels beyond the islands, ring by ring, and which island texel each copies."""
    source = np.full(size * size, -1, np.int32)
    source[texels] = np.arange(len(texels), dtype=np.int32)
    free = source < 0
    square = free.reshape(size, size)
    near = np.zeros_like(square)
    near[1:] |= square[:-1]
    near[:-1] |= square[1:]
    near[:, 1:] |= square[:, :-1]
    near[:, :-1] |= square[:, 1:]
    ring = np.flatnonzero(near.ravel() & ~free)
    rings = []
    for step in range(PADDING):
        grown = []
        # alternate between 4 and 8 neighbours: the rings stay nearly round
        ways = ((0, 1), (0, -1), (1, 0), (-1, 0)) + (((1, 1), (1, -1), (-1, 1), (-1, -1)) if step % 2 else ())
        row, column = np.divmod(ring, size)
        for down, right in ways:
            r, c = row + down, column + right
            inside = (r >= 0) & (r < size) & (c >= 0) & (c < size)
            to, come = (r * size + c)[inside], ring[inside]
            fresh = source[to] < 0
            to, first = np.unique(to[fresh], return_index=True)
            source[to] = source[come[fresh][first]]
            grown.append(to)
        ring = np.concatenate(grown)
        rings.append(ring)
    padding = np.concatenate(rings).astype(np.int64)
    return padding, source[padding].astype(np.int64)


def _mirror(mean: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(V,) int64: each vertex's partner under x -> -x.

    Matched by place and by the mean place of the neighbours: vertices of closed lips share their place, not their
    neighbours.
    """
    both = np.concatenate([edges, edges[:, ::-1]]).astype(np.int64)
    total = np.stack([np.bincount(both[:, 0], mean[both[:, 1], axis], len(mean)) for axis in range(3)], 1)
    around = total / np.maximum(np.bincount(both[:, 0], minlength=len(mean)), 1)[:, None]
    flip = np.array([-1.0, 1.0, 1.0, -1.0, 1.0, 1.0])
    features = np.concatenate([mean, around], 1)
    distance, partner = cKDTree(features).query(features * flip)
    return np.where(distance <= LARGEST_MIRROR_ERROR, partner, -1).astype(np.int64)


def _inner_vertices(model: MorphableModel) -> np.ndarray:
    """(V,) bool: vertices of the head that are not on its outer surface."""
    outer = np.zeros(len(model.mean), bool)
    surface = model.annotation.triangles[model.annotation.fixed_label < 0]
    outer[surface.numpy().ravel()] = True
    head = np.zeros(len(model.mean), bool)
    ids = model.faces[model.face_objects == head_object(model)]
    head[ids[ids >= 0]] = True
    return np.asarray(head & ~outer)


def head_object(model: MorphableModel) -> int:
    """Index of the skin in the model's `objects`."""
    return model.objects.index("head") if "head" in model.objects else 0


def _vertex_labels(model: MorphableModel) -> np.ndarray:
    """(V,) uint8: the label of each vertex's largest part field; 'other' off the annotated surface."""
    labels = np.full(len(model.mean), OTHER, np.uint8)
    surface = np.unique(model.annotation.triangles[model.annotation.fixed_label < 0].numpy())
    best = model.annotation.fields.argmax(0)[surface]
    labels[surface] = model.annotation.field_labels[best].numpy()
    return labels


def _lids(model: MorphableModel, label: np.ndarray) -> np.ndarray:
    """(V,) bool, see `Atlas.lids`; `label` (V,)."""
    lids = np.isin(label, (RIGHT_EYE, LEFT_EYE))
    for name in ("right_eye", "left_eye"):
        for rim in model.annotation.rims.get(name, ()):
            lids[rim.numpy()] = True
    return lids


def _of_mouth(model: MorphableModel, inner_vertex: np.ndarray) -> np.ndarray:
    """(V,) bool: the inner vertices that are nearer to the mouth's rim than to the lids'."""
    places = model.mean.double().numpy()
    names = [name for name in ("inner_mouth", "right_eye", "left_eye") if name in model.annotation.rims]
    if "inner_mouth" not in names:
        return np.zeros(len(places), bool)
    away = []
    for name in names:
        rim = np.concatenate([ids.numpy() for ids in model.annotation.rims[name]])
        away.append(np.linalg.norm(places - places[rim].mean(0), axis=1))
    return np.asarray(inner_vertex & (np.argmin(away, axis=0) == 0))
