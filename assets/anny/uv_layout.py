"""Lay out the UV islands of the bundled model for faces: the face large and upright, everything else round it.

MakeHuman's seams stay, so an island keeps its triangles and its cut; only the places of the UV vertices change. The
island of the head is flattened anew, the others are turned, scaled and packed round it.

The head is flattened by minimising the symmetric Dirichlet energy of a map whose rest shapes are the head's own
triangles, each scaled by the density wanted there: 1 over the face, less with the distance from it. The energy is
infinite where a triangle loses its area, so a start without folds (MakeHuman's layout) stays without them. One half is
solved with the midline held on the axis; the other is its mirror image.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sparse
import scipy.sparse.linalg as sparse_linalg
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

HIDDEN, SKIN, FACE, EAR = 0, 1, 2, 3
"""Values of `regions`: inside nostrils and mouth, scalp and neck, outer face, ears."""
DENSITY = {HIDDEN: 0.5, FACE: 1.0, EAR: 0.85}
"""Texels per millimetre, relative to the face's. That of scalp and neck falls with the distance from the face."""
FAR_DENSITY = 0.4
"""What it falls to."""
FALL_OFF_M = 0.03
"""Over this distance the difference falls to 37 %."""
DISTORTION_COST = {HIDDEN: 0.05, SKIN: 0.1, FACE: 1.0, EAR: 0.25}
"""What distortion costs per area."""
OPENING_COST = 0.02
"""The same for the openings of eyes and mouth, which are flattened along so that their rims cannot cross."""
MOST_STEPS = 100

MARGIN = 0.0075
"""Free border of the atlas: 15 texels of 2048."""
PLACES = {
    "throat": (0.25, 0.115, 0.5),
    "mouth": (0.0075, 0.0075, 0.19),
    "tongue": (0.92, 0.0075, 0.07),
    "upper_teeth": (0.33, 0.0075, 0.15),
    "lower_teeth": (0.52, 0.0075, 0.15),
    "left_eye": (0.8525, 0.315, 0.14),
    "left_eye_back": (0.795, 0.2, 0.085),
    "left_socket": (0.8975, 0.172, 0.095),
}
"""Left end, bottom and width of the islands; the right eye's are the mirror images of the left's. The head is at the
top, as wide as the atlas."""


def laid_out(
    vertices: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray,
    uv_faces: np.ndarray,
    face_objects: np.ndarray,
    objects: tuple[str, ...],
    mirror: np.ndarray,
    regions: np.ndarray,
) -> np.ndarray:
    """(U, 2) float32: new places of the UV vertices.

    Args:
        vertices: (V, 3) the symmetric mean head, metres.
        faces: (F, 4) quads.
        uv: (U, 2) MakeHuman's layout, the head's island with its midline level and its chin to the right.
        uv_faces: (F, 4).
        face_objects: (F,) index into `objects`, the names of the pieces.
        mirror: (V,) the vertex on the other side.
        regions: (V,) HIDDEN, SKIN, FACE or EAR.
    """
    vertex_of = np.zeros(len(uv), np.int64)
    vertex_of[uv_faces.ravel()] = faces.ravel()
    object_of = np.zeros(len(uv), np.int64)
    object_of[uv_faces.ravel()] = np.repeat(face_objects, 4)
    points = vertices[vertex_of]
    island = islands(uv_faces, len(uv))
    named = island_names(island, points, [objects[i] for i in object_of])
    placed = np.zeros((len(uv), 2))
    for name, index in named.items():
        own = np.flatnonzero(island == index)
        if name == "head":
            quads = uv_faces[island[uv_faces[:, 0]] == index]
            partner = uv_partners(faces, uv_faces, mirror, len(uv))
            shape = flattened_head(points, uv, quads, partner, regions[vertex_of])[own]
            placed[own] = boxed(shape, MARGIN, 0.0, 1 - 2 * MARGIN)
            placed[own, 1] += 1 - MARGIN - placed[own, 1].max()
            continue
        shape = upright(uv[own], points[own]) if "eye" in name or "socket" in name else uv[own]
        left, bottom, width = PLACES[name.replace("right_", "left_")]
        placed[own] = boxed(shape, 1 - left - width if name.startswith("right_") else left, bottom, width)
    return placed.astype(np.float32)


def island_names(island: np.ndarray, points: np.ndarray, pieces: list[str]) -> dict[str, int]:
    """The island of each name: 'head' and those of PLACES. `island` (U,), `points` (U, 3) metres, U `pieces`."""
    named = {}
    largest = np.bincount(island).argmax()
    for index in range(island.max() + 1):
        own = island == index
        name = pieces[int(np.argmax(own))]
        x, y, z = points[own].mean(axis=0)
        side = "left" if x > 0 else "right"
        if name.endswith("_eyeball"):
            whole = points[[piece == name for piece in pieces], 2]
            name = f"{side}_eye" if z > (whole.min() + whole.max()) / 2 else f"{side}_eye_back"
        elif name == "head" and index != largest:
            name = f"{side}_socket" if abs(x) > 0.02 else "throat" if y < -0.1 else "mouth"
        named[name] = index
    return named


def boxed(shape: np.ndarray, left: float, bottom: float, width: float) -> np.ndarray:
    """`shape` (N, 2) scaled and shifted so that its box has this left end, bottom and width."""
    low = shape.min(axis=0)
    return (shape - low) * (width / np.ptp(shape[:, 0])) + (left, bottom)


def upright(shape: np.ndarray, points: np.ndarray) -> np.ndarray:
    """`shape` (N, 2) turned so that the head's up, as the places `points` (N, 3) tell, is up."""
    slopes = np.linalg.lstsq(points - points.mean(axis=0), shape - shape.mean(axis=0), rcond=None)[0]
    up = slopes[1] / np.linalg.norm(slopes[1])
    return shape @ np.array([[up[1], up[0]], [-up[0], up[1]]])


def islands(uv_faces: np.ndarray, count: int) -> np.ndarray:
    """(U,) int32: the island of each of `count` UV vertices."""
    first, other = np.repeat(uv_faces[:, 0], 3), uv_faces[:, 1:].ravel()
    links = sparse.coo_matrix((np.ones(len(first)), (first, other)), (count, count))
    return np.asarray(connected_components(links, directed=False)[1])


def boundary_loops(quads: np.ndarray) -> Iterator[list[int]]:
    """The closed loops of vertices round quads (F, 4), which lie on the left of each."""
    edges = np.concatenate([quads[:, [i, (i + 1) % 4]] for i in range(4)]).tolist()
    directed = {(a, b) for a, b in edges}
    after = {a: b for a, b in edges if (b, a) not in directed}
    while after:
        loop = [min(after)]
        while (here := after.pop(loop[-1])) != loop[0]:
            loop.append(here)
        yield loop


def uv_partners(faces: np.ndarray, uv_faces: np.ndarray, mirror: np.ndarray, count: int) -> np.ndarray:
    """(U,) int64: the UV vertex on the other side of each, told by the faces; `mirror` (V,) is the vertex there."""
    face_of = {tuple(sorted(face)): index for index, face in enumerate(faces.tolist())}
    partner = np.zeros(count, np.int64)
    for face, uv_face in zip(faces.tolist(), uv_faces.tolist(), strict=True):
        mirrored = [int(mirror[vertex]) for vertex in face]
        index = face_of[tuple(sorted(mirrored))]
        uv_of = dict(zip(faces[index].tolist(), uv_faces[index].tolist(), strict=True))
        partner[uv_face] = [uv_of[vertex] for vertex in mirrored]
    return partner


def flattened_head(
    points: np.ndarray, uv: np.ndarray, quads: np.ndarray, partner: np.ndarray, regions: np.ndarray
) -> np.ndarray:
    """(U, 2) the head's island, upright, x = 0 on the midline, the face in metres; other islands' vertices stay 0.

    Args:
        points: (U, 3) metres.
        uv: (U, 2) the start.
        quads: (F, 4) ids into both, of the head's island only.
        partner: (U,) the UV vertex on the other side.
        regions: (U,).
    """
    on_left = points[quads][:, :, 0].mean(axis=1) > 0
    half = quads[on_left]
    midline = np.intersect1d(half, quads[~on_left])
    start = np.stack([uv[:, 1] - uv[midline, 1].mean(), -uv[:, 0]], axis=1)
    start[midline, 0] = 0.0
    loops = sorted(boundary_loops(quads), key=len)[:-1]  # the longest is the outline
    rims = np.concatenate(loops)
    after = np.concatenate([np.roll(loop, -1) for loop in loops])
    start *= (
        np.linalg.norm(points[after] - points[rims], axis=1).sum()
        / np.linalg.norm(start[after] - start[rims], axis=1).sum()
    )
    skin = corner_triangles(half)
    openings = np.array([triangle for loop in loops for triangle in filled(half_of(loop, half), start)])
    from_face, _ = cKDTree(points[regions == FACE]).query(points)
    density = FAR_DENSITY + (1 - FAR_DENSITY) * np.exp(-from_face / FALL_OFF_M)
    cost = np.full(len(points), DISTORTION_COST[SKIN])
    for region, value in DENSITY.items():
        density[regions == region] = value
        cost[regions == region] = DISTORTION_COST[region]
    rest = np.concatenate([flat(points[skin]) * density[skin].mean(axis=1)[:, None, None], flat(start[openings])])
    costs = np.concatenate([cost[skin].mean(axis=1), np.full(len(openings), OPENING_COST)])
    ids, local = np.unique(np.concatenate([skin, openings]), return_inverse=True)
    solved = np.zeros((len(points), 2))
    solved[ids] = flattened(start[ids], local.reshape(-1, 3), rest, costs, np.isin(ids, midline))
    other = np.setdiff1d(quads, half)
    solved[other] = solved[partner[other]] * [-1, 1]
    return solved


def half_of(loop: list[int], half: np.ndarray) -> list[int]:
    """The vertices of `loop` that belong to the faces `half`, as one closed loop: cut along the midline."""
    own = np.isin(loop, half)
    begin = next((i for i in range(len(loop)) if own[i] and not own[i - 1]), 0)
    return [loop[i - len(loop)] for i in range(begin, begin + len(loop)) if own[i - len(loop)]]


def filled(loop: list[int], places: np.ndarray) -> list[tuple[int, int, int]]:
    """Triangles over the opening on the right of `loop`: corners are cut off one by one, shortest cut first."""
    ring = loop[::-1]
    triangles = []
    while len(ring) > 3:
        shortest, corner = np.inf, 0
        for i in range(len(ring)):
            before, here, after = ring[i - 1], ring[i], ring[(i + 1) % len(ring)]
            a, b, c = places[[before, here, after]]
            cut = float(np.linalg.norm(c - a))
            rest = places[[other for other in ring if other not in (before, here, after)]]
            hit = (cross(b - a, rest - a) >= 0) & (cross(c - b, rest - b) >= 0) & (cross(a - c, rest - c) >= 0)
            if cut < shortest and cross(b - a, c - a) > 0 and not hit.any():
                shortest, corner = cut, i
        triangles.append((ring[corner - 1], ring[corner], ring[(corner + 1) % len(ring)]))
        del ring[corner]
    return [*triangles, (ring[0], ring[1], ring[2])] if len(ring) == 3 else []


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(...) the z of the cross product of vectors (..., 2)."""
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])


def corner_triangles(quads: np.ndarray) -> np.ndarray:
    """(4F, 3) the triangle at each corner of quads (F, 4): where all have positive area, the quad is convex."""
    return np.concatenate([quads[:, [i - 1, i, (i + 1) % 4]] for i in range(4)])


def flat(corners: np.ndarray) -> np.ndarray:
    """(T, 2, 2) triangles (T, 3, 2 or 3) laid flat; the columns are the edges from the first corner."""
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    length = np.linalg.norm(first, axis=1)
    along = (first * second).sum(axis=1) / length
    height = np.linalg.norm(second - first * (along / length)[:, None], axis=1)
    return np.stack([np.stack([length, along], axis=-1), np.stack([np.zeros_like(length), height], axis=-1)], axis=1)


def flattened(
    start: np.ndarray, triangles: np.ndarray, rest: np.ndarray, costs: np.ndarray, on_axis: np.ndarray
) -> np.ndarray:
    """(N, 2) the places that minimise the symmetric Dirichlet energy |J|^2 + |J^-1|^2.

    Newton steps with the negative curvature of each triangle removed, shortened until no triangle turns over and the
    energy falls.

    Args:
        start: (N, 2) places without a triangle turned over.
        triangles: (T, 3) ids.
        rest: (T, 2, 2) the wanted shapes; columns are the edges from the first corner.
        costs: (T,) of distortion per area of the rest shape.
        on_axis: (N,) bool, places whose x stays 0.
    """
    count = len(start)
    cost = costs * np.linalg.det(rest)
    cost = cost / cost.sum()
    inverse = np.linalg.inv(rest)
    slope = np.concatenate([-inverse.sum(axis=1, keepdims=True), inverse], axis=1)  # of J by the place of each corner
    row = 4 * np.arange(len(triangles))[:, None, None] + np.broadcast_to(np.arange(2), slope.shape)
    column = np.broadcast_to(triangles[:, :, None], slope.shape)
    # rows: xx, xy, yx, yy of the first triangle's J, then the next one's; columns: all x, then all y
    jacobian = sparse.coo_matrix(
        (
            np.tile(slope.ravel(), 2),
            (
                np.concatenate([row.ravel(), row.ravel() + 2]),
                np.concatenate([column.ravel(), column.ravel() + count]),
            ),
        ),
        (4 * len(triangles), 2 * count),
    ).tocsc()
    free = np.flatnonzero(np.concatenate([~on_axis, np.ones(count, bool)]))
    jacobian = jacobian[:, free].tocsr()
    turned = np.array([[0.0, 0, 0, 1], [0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0]])  # J @ turned: slope of det J
    block = np.arange(4 * len(triangles)).reshape(-1, 4)
    pattern = np.repeat(block, 4, axis=1).ravel(), np.tile(block, (1, 4)).ravel()

    def energy(places: np.ndarray) -> float:
        j = (jacobian @ places).reshape(-1, 4)
        det = j[:, 0] * j[:, 3] - j[:, 1] * j[:, 2]
        return float(np.inf if det.min() <= 0 else cost @ ((j**2).sum(axis=1) * (1 + 1 / det**2)))

    places = start.T.ravel()[free]
    for _ in range(MOST_STEPS):
        j = (jacobian @ places).reshape(-1, 4)
        det = (j[:, 0] * j[:, 3] - j[:, 1] * j[:, 2])[:, None]
        size = (j**2).sum(axis=1)[:, None]
        of_det = j @ turned
        mixed = (j / det**3)[:, :, None] * of_det[:, None]
        curvature = (
            2 * (1 + 1 / det**2)[..., None] * np.eye(4)
            - 2 * (size / det**3)[..., None] * turned
            - 4 * (mixed + mixed.transpose(0, 2, 1))
            + 6 * (size / det**4)[..., None] * of_det[:, :, None] * of_det[:, None]
        )
        values, vectors = np.linalg.eigh(curvature)
        values = np.maximum(values, 1e-9) * cost[:, None]
        curvature = (vectors * values[:, None]) @ vectors.transpose(0, 2, 1)
        matrix = jacobian.T @ sparse.csr_matrix((curvature.ravel(), pattern)) @ jacobian
        # shifting everything along the axis costs nothing: a trace of identity makes the matrix regular
        matrix = matrix + 1e-9 * matrix.diagonal().mean() * sparse.identity(len(free))
        down = jacobian.T @ ((2 * j * (1 + 1 / det**2) - 2 * size / det**3 * of_det) * cost[:, None]).ravel()
        move = -sparse_linalg.spsolve(matrix.tocsc(), down)
        before, gain, length = energy(places), float(move @ down), 1.0
        while length > 1e-9 and energy(places + length * move) > before + 1e-4 * length * gain:
            length /= 2
        if -gain < 1e-13 * before or length <= 1e-9:
            break
        places = places + length * move
    solved = np.zeros(2 * count)
    solved[free] = places
    return solved.reshape(2, count).T
