"""REALY's protocol: against truth that is known, and against each step written out plainly."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.sparse import lil_matrix, vstack
from scipy.sparse.linalg import splu

from fit3d.commands.app import main
from fit3d.evaluate.mesh_file import read_mesh
from fit3d.evaluate.realy.align import Motion, global_alignment, regional_alignment
from fit3d.evaluate.realy.keypoints import (
    BENDING_KEYPOINTS,
    COUNT,
    GLOBAL_KEYPOINTS,
    REGIONS,
    RIGID_KEYPOINTS,
    USED,
    Region,
    read_keypoints,
)
from fit3d.evaluate.realy.model_keypoints import keypoints_of
from fit3d.evaluate.realy.nonrigid import Pull, deformed_onto
from fit3d.evaluate.realy.protocol import Prediction, Scan, ScanRegion, merged, score
from fit3d.evaluate.realy.surface import Surface
from fit3d.export.obj import obj_text
from synthetic import synthetic_model

MM_PER_UNIT = 9.0
"""Like REALY's own: its scans' unit is about 9 mm, and the protocol has lengths in it."""
UNITS_PER_METRE = 1000.0 / MM_PER_UNIT
COLUMNS_DEG = 4.5
"""Of the synthetic head: coarse, so that the plain steps end."""


# The protocol's steps, plainly: every pair of point and triangle, every row of every system, nothing kept or reused.


def dots(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N,) products of rows (N, 3)."""
    return np.einsum("nk,nk->n", one, other)


def nearest_naive(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The nearest point of triangles (T, 3, 3) to each of (N, 3): the foot on each plane where it lies inside, else the
    nearest foot on an edge."""
    found = []
    a, b, c = corners.transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    edges = [(one, other - one) for one, other in ((a, b), (b, c), (c, a))]
    inwards = [np.cross(normal, edge) for _, edge in edges]
    for p in points:
        foot = p - (dots(p - a, normal) / dots(normal, normal))[:, None] * normal
        inside = np.ones(len(corners), bool)
        candidates = []
        for (one, edge), inward in zip(edges, inwards, strict=True):
            inside &= dots(foot - one, inward) >= 0
            along = dots(p - one, edge) / dots(edge, edge)
            candidates.append(one + np.clip(along, 0, 1)[:, None] * edge)
        candidates.append(np.where(inside[:, None], foot, np.inf))
        every = np.concatenate(candidates)
        found.append(every[np.argmin(((every - p) ** 2).sum(1))])
    return np.array(found)


def fitted_naive(source: np.ndarray, target: np.ndarray, scaled: bool) -> tuple[float, np.ndarray, np.ndarray]:
    s, t = source - source.mean(0), target - target.mean(0)
    u, _, v = np.linalg.svd(t.T @ s)
    rotation = u @ v
    scale = np.abs(t).sum() / np.abs(s @ rotation.T).sum() if scaled else 1.0
    return scale, rotation, (target - scale * source @ rotation.T).mean(0)


def rigid_naive(
    vertices: np.ndarray, triangles: np.ndarray, points: np.ndarray, ours: np.ndarray, theirs: np.ndarray, rate: int
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and keypoints after the alignment of a region."""
    ours_many, theirs_many, before = np.vstack([ours] * rate), np.vstack([theirs] * rate), 0.0
    for iteration in range(101):
        source = np.vstack([nearest_naive(points, vertices[triangles]), ours_many])
        target = np.vstack([points, theirs_many])
        _, rotation, shift = fitted_naive(source, target, scaled=False)
        error = ((source @ rotation.T + shift - target) ** 2).sum(1).mean()
        if abs(error - before) < 1e-6 or iteration == 100:
            break
        before = error
        vertices, ours_many = vertices @ rotation.T + shift, ours_many @ rotation.T + shift
    return vertices, ours_many[: len(ours)]


def bent_naive(
    vertices: np.ndarray, triangles: np.ndarray, aims: np.ndarray, held: np.ndarray | None, goals: np.ndarray | None
) -> np.ndarray:
    """All maps as one least-squares problem, row by row."""
    count = len(vertices)
    edges = sorted({(min(i, j), max(i, j)) for t in triangles.tolist() for i, j in ((t[0], t[1]), (t[0], t[2]), t[1:])})
    maps, before, steps = np.ones((4 * count, 3)), np.zeros((4 * count, 3)), 0
    for stage in range(-1 if held is not None else 0, 3):
        alpha, diagonal = (150.0, (2.0, 2.0, 3.0, 2.0)) if stage < 0 else (50.0 * math.exp(-0.5 * stage), (1.0,) * 4)
        done = 0
        while np.linalg.norm(maps - before) > 0.5**stage and not (held is not None and done > 10):
            before = maps
            stiff = lil_matrix((4 * len(edges), 4 * count))
            for row, (i, j) in enumerate(edges):
                for k in range(4):
                    stiff[4 * row + k, 4 * i + k] = alpha * diagonal[k]
                    stiff[4 * row + k, 4 * j + k] = -alpha * diagonal[k]
            data = lil_matrix((count, 4 * count))
            for i, v in enumerate(vertices):
                data[i, 4 * i : 4 * i + 4] = (*v, 1.0)
            far = np.linalg.norm(vertices[:, None] - aims[None], axis=2)
            aim, gap = aims[far.argmin(1)], far.min(1)
            near = (gap < max(2.0 * gap.mean(), 1.0)).astype(float)[:, None]
            systems, sides = [stiff], [np.zeros((stiff.shape[0], 3))]
            if stage >= 0:
                systems, sides = [*systems, data.multiply(near)], [*sides, near * aim]
            if held is not None and goals is not None:
                weight = np.zeros((count, 1))
                weight[held] = 50.0 if stage < 0 else 5.0 * math.exp(-0.9 * steps)
                there = aim.copy()
                there[held] = goals
                systems, sides = [*systems, data.multiply(weight)], [*sides, weight * there]
            rows, right = vstack(systems).tocsc(), np.vstack(sides)
            maps = splu((rows.T @ rows).tocsc()).solve(rows.T @ right)
            vertices = data @ maps
            done, steps = done + 1, steps + 1
            if stage < 0:
                break
    return vertices


def score_naive(prediction: Prediction, scan: Scan, name: Region) -> float:
    seven = list(GLOBAL_KEYPOINTS)
    scale, rotation, shift = fitted_naive(prediction.keypoints[seven], scan.keypoints[seven], scaled=True)
    vertices, keypoints = (scale * each @ rotation.T + shift for each in (prediction.vertices, prediction.keypoints))
    region, chosen, held = scan.regions[name], list(RIGID_KEYPOINTS[name]), list(BENDING_KEYPOINTS[name])
    rate = int(len(region.vertices) / len(chosen) / (4 if name == "cheek" else 1))
    ours, theirs = keypoints[chosen], scan.keypoints[chosen]
    vertices, _ = rigid_naive(vertices, prediction.triangles, region.vertices, ours, theirs, rate)
    _, rotation, shift = fitted_naive(scale * prediction.vertices, vertices, scaled=False)
    keypoints = scale * prediction.keypoints @ rotation.T + shift
    corners = vertices[prediction.triangles]
    region = trimesh.Trimesh(region.vertices, region.triangles, process=True)  # as REALY reads it
    at = [int(np.linalg.norm(region.vertices - p, axis=1).argmin()) for p in scan.keypoints[held]]
    pulls = (np.array(at), keypoints[held]) if held else (None, None)
    bent = bent_naive(region.vertices, region.faces, nearest_naive(region.vertices, corners), *pulls)
    return float(np.linalg.norm(nearest_naive(bent, corners) - region.vertices, axis=1).mean()) * scan.mm_per_unit


# A scan of the synthetic head, and predictions of it.


@functools.cache
def head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3) in units of the scan, off the origin; triangles of the outer surface; the 85 keypoints."""
    model = synthetic_model(COLUMNS_DEG)
    vertices = model.mean.double().numpy() * UNITS_PER_METRE + np.array([1.0, -2.0, 3.0])
    keypoints = keypoints_of(model)
    triangles = model.annotation.triangles[model.annotation.fixed_label < 0].numpy()
    points = (vertices[keypoints.vertices] * keypoints.weights[..., None]).sum(1)
    return vertices, triangles, points


def region_of(name: Region, middles: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(T,) bool: which triangles, by their middles, are of a region; boxes between landmarks."""
    x, y = np.abs(middles[:, 0] - points[33, 0]), middles[:, 1]
    in_front = middles[:, 2] > points[[36, 45], 2].mean() - 3.0
    eyes, brows, nose, mouth = (points[list(ids), 1].mean() for ids in ((36, 45), (19, 24), (33,), (48, 54)))
    wing, corner, eye = (abs(points[i, 0] - points[33, 0]) for i in (35, 54, 45))
    box = {
        "nose": (x < 1.3 * wing) & (y > nose - 0.5) & (y < eyes),
        "mouth": (x < 1.2 * corner) & (np.abs(y - mouth) < 1.8),
        "forehead": (x < 1.6 * eye) & (y > eyes - 1.0) & (y < brows + 2.0),
        "cheek": (x > 1.3 * wing) & (x < 1.4 * eye) & (y < eyes - 1.0) & (y > mouth),
    }
    return box[name] & in_front


def scan_of(vertices: np.ndarray, triangles: np.ndarray, finer: int = 0) -> Scan:
    """The head as a scan, its triangles cut in four `finer` times."""
    _, _, points = head()
    for _ in range(finer):
        vertices, triangles = trimesh.remesh.subdivide(vertices, triangles)
    regions: dict[Region, ScanRegion] = {}
    for name in REGIONS:
        chosen = triangles[region_of(name, vertices[triangles].mean(1), points)]
        used, where = np.unique(chosen, return_inverse=True)
        regions[name] = ScanRegion(vertices[used], where.reshape(-1, 3))
    return Scan(points, regions, MM_PER_UNIT)


def posed(vertices: np.ndarray) -> np.ndarray:
    """In another size and pose."""
    turn = trimesh.transformations.rotation_matrix(1.1, [0.3, -0.5, 0.8])[:3, :3]
    return 0.37 * vertices @ turn.T + np.array([5.0, -40.0, 12.0])


def errors(prediction: Prediction, scan: Scan) -> dict[Region, float]:
    return {name: each.error_mm for name, each in score(prediction, scan).items()}


def waves(vertices: np.ndarray, triangles: np.ndarray, height: float, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices moved along their normals by a product of sines of `height` and wave `length`, and by how much."""
    normals = trimesh.Trimesh(vertices, triangles, process=False).vertex_normals
    k = 2.0 * math.pi / length
    by = height * np.sin(k * vertices[:, 0]) * np.sin(k * vertices[:, 1])
    return vertices + by[:, None] * normals, by


class TestSurface:
    def test_finds_the_nearest_point_of_all_triangles(self) -> None:
        generator = np.random.default_rng(1)
        # sizes from a hundredth to ten, so that large triangles with far centroids matter, and one without area
        middles, size = generator.normal(size=(300, 1, 3)), 10.0 ** generator.uniform(-2, 1, (300, 1, 1))
        corners = middles + size * generator.normal(size=(300, 3, 3))
        corners[0] = corners[0, 0]
        points = 2.0 * generator.normal(size=(200, 3))
        surface = Surface(corners.reshape(-1, 3), np.arange(900).reshape(-1, 3))
        np.testing.assert_allclose(surface.nearest(points), nearest_naive(points, corners[1:]), atol=1e-9)


class TestSteps:
    def test_global_alignment_undoes_size_and_pose(self) -> None:
        points = head()[2]
        motion = global_alignment(posed(points), points)
        np.testing.assert_allclose(motion.of(posed(points)), points, atol=1e-9)

    def test_global_scale_is_the_ratio_of_absolute_coordinates(self) -> None:
        source = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 3], [0, 0, -3]])
        target = source * [2.0, 1.0, 1.0]
        # 2 (2 + 2 + 3) / 2 (1 + 2 + 3), where least squares would give (2 + 4 + 9) / (1 + 4 + 9)
        assert global_alignment(source, target).scale == pytest.approx(7.0 / 6.0)

    def test_mirrored_keypoints_are_refused(self) -> None:
        points = head()[2]
        with pytest.raises(ValueError, match="mirror image"):
            global_alignment(points * [-1.0, 1.0, 1.0], points)

    def test_regional_alignment_is_the_plain_one(self) -> None:
        vertices, triangles, points = head()
        moved, _ = waves(vertices, triangles, 0.1, 5.0)
        region = scan_of(vertices, triangles).regions["nose"].vertices
        chosen = list(RIGID_KEYPOINTS["nose"])
        ours = points[chosen] + 0.05
        near = triangles[np.linalg.norm(moved[triangles].mean(1) - region.mean(0), axis=1) < 8.0]
        expected, _ = rigid_naive(moved, near, region, ours, points[chosen], 3)
        motion = regional_alignment(Surface(moved, near), region, ours, points[chosen], 3)
        assert np.abs(motion.of(moved) - moved).max() > 0.01
        np.testing.assert_allclose(motion.of(moved), expected, atol=1e-9)

    @pytest.mark.parametrize("held", [False, True])
    def test_bending_is_the_plain_one(self, held: bool) -> None:
        vertices, triangles, _ = head()
        region = merged(scan_of(vertices, triangles).regions["mouth"])
        generator = np.random.default_rng(2)
        aims = region.vertices + 0.1 * np.sin(region.vertices[:, [1, 2, 0]]) + 0.02 * generator.normal(size=(1, 3))
        ids = np.array([0, 5, 17, 17, 40, 55, 70, 90, 105])
        goals = aims[ids] + 0.05 * generator.normal(size=(9, 3))
        expected = bent_naive(region.vertices, region.triangles, aims, *((ids, goals) if held else (None, None)))
        bent = deformed_onto(region.vertices, region.triangles, aims, Pull(ids, goals) if held else None)
        assert np.abs(bent - region.vertices).max() > 0.05
        np.testing.assert_allclose(bent, expected, atol=1e-6)

    def test_pieces_that_nothing_holds_stay(self) -> None:
        vertices, triangles, _ = head()
        region = merged(scan_of(vertices, triangles).regions["mouth"])
        alone = region.vertices[:3] + [0.0, 0.0, -50.0]
        both = np.concatenate([region.vertices, alone])
        count = len(region.vertices)
        all_triangles = np.concatenate([region.triangles, [[count, count + 1, count + 2]]])
        bent = deformed_onto(
            both, all_triangles, region.vertices, Pull(np.array([3, 9, 30]), region.vertices[[3, 9, 30]])
        )
        np.testing.assert_allclose(bent, both, atol=1e-6)

    def test_crumbs_bend_as_in_the_plain_one(self) -> None:
        """A few vertices nearly in a plane hold their map across it by little: what else holds it must be far less."""
        vertices, triangles, _ = head()
        region = merged(scan_of(vertices, triangles).regions["mouth"])
        generator, count = np.random.default_rng(4), len(region.vertices)
        flat = np.array([[0.0, 0, 0], [0.15, 0, 0], [0, 0.15, 0], [0.15, 0.15, 0], [0.3, 0.1, 0]])
        crumb = region.vertices[0] + [0.0, 0.0, 3.0] + flat + [0.0, 0.0, 1.0] * generator.normal(0.0, 0.003, (5, 1))
        both = np.concatenate([region.vertices, crumb])
        pieces = np.concatenate([region.triangles, count + np.array([[0, 1, 2], [1, 3, 2], [1, 4, 3]])])
        aims = both + 0.1 * np.sin(both[:, [1, 2, 0]]) + 0.02 * generator.normal(size=both.shape)
        expected = bent_naive(both, pieces, aims, None, None)
        np.testing.assert_allclose(deformed_onto(both, pieces, aims, None), expected, atol=1e-6)

    def test_merging(self) -> None:
        vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [9, 9, 9]])
        region = merged(ScanRegion(vertices, np.array([[0, 1, 2], [3, 5, 4]])))
        assert len(region.vertices) == 4
        np.testing.assert_array_equal(region.vertices[region.triangles], vertices[[[0, 1, 2], [3, 5, 4]]])


class TestProtocol:
    def test_is_the_plain_one(self) -> None:
        """All steps at once, within a hundred-thousandth."""
        vertices, triangles, points = head()
        moved, _ = waves(vertices, triangles, 0.12, 4.0)
        moved = moved + 0.03 * (vertices - vertices.mean(0)) * [1.0, -1.0, 0.5]
        generator = np.random.default_rng(3)
        scan = scan_of(vertices, triangles)
        near = triangles[np.linalg.norm(vertices[triangles].mean(1) - points[28], axis=1) < 11.0]
        prediction = Prediction(posed(moved), near, posed(points + 0.05 * generator.normal(size=points.shape)))
        found = errors(prediction, scan)
        expected = {name: score_naive(prediction, scan, name) for name in REGIONS}
        assert min(expected.values()) > 0.2
        assert found == pytest.approx(expected, rel=1e-5)

    def test_the_scan_itself_has_no_error(self) -> None:
        """But for what the protocol itself adds: it pulls the vertex nearest to a keypoint, which lies beside it, so
        the rest falls with the distance between the scan's vertices. The cheek has no such pulls."""
        vertices, triangles, points = head()
        prediction = Prediction(posed(vertices), triangles, posed(points))
        coarse, fine = (errors(prediction, scan_of(vertices, triangles, finer)) for finer in (0, 2))
        assert max(coarse["cheek"], fine["cheek"]) < 1e-9
        assert all(fine[name] < 0.2 * coarse[name] and fine[name] < 0.02 for name in ("nose", "mouth", "forehead"))

    def test_a_nose_moved_as_a_whole_has_no_error(self) -> None:
        """1.5 mm aside: the seven keypoints make the mesh a little too large, which is all that is left."""
        vertices, triangles, points = head()
        scan = scan_of(vertices, triangles, finer=1)
        shift = np.array([1.5 / MM_PER_UNIT, 0.0, 0.0])
        moved, keypoints = vertices + shift, points.copy()
        keypoints[list(RIGID_KEYPOINTS["nose"])] += shift
        found = errors(Prediction(moved, triangles, keypoints), scan)
        assert found["nose"] < 0.1
        assert found["mouth"] > 2.0 * found["nose"]  # its keypoints did not move with it

    def test_waves_give_their_height(self) -> None:
        """A displacement along the normals that no rigid motion can take up: the error is its mean size."""
        vertices, triangles, points = head()
        fine, fine_triangles = vertices, triangles
        for _ in range(2):
            fine, fine_triangles = trimesh.remesh.subdivide(fine, fine_triangles)
        moved, by = waves(fine, fine_triangles, 1.0 / MM_PER_UNIT, 22.0 / MM_PER_UNIT)
        scan = scan_of(vertices, triangles, finer=2)
        found = errors(Prediction(moved, fine_triangles, points), scan)
        for name in REGIONS:
            inside = region_of(name, fine, points)
            assert found[name] == pytest.approx(np.abs(by[inside]).mean() * MM_PER_UNIT, rel=0.1), name

    def test_size_and_pose_do_not_matter(self) -> None:
        vertices, triangles, points = head()
        scan = scan_of(vertices, triangles)
        moved, _ = waves(vertices, triangles, 0.1, 4.0)
        here = errors(Prediction(moved, triangles, points), scan)
        there = errors(Prediction(posed(moved), triangles, posed(points)), scan)
        assert there == pytest.approx(here, rel=1e-5)

    def test_topology_does_not_matter(self) -> None:
        """The same surface from other triangles, vertices in another order."""
        vertices, triangles, points = head()
        scan = scan_of(vertices, triangles)
        moved, _ = waves(vertices, triangles, 0.1, 4.0)
        here = errors(Prediction(moved, triangles, points), scan)
        finer, finer_triangles = trimesh.remesh.subdivide(moved, triangles)
        order = np.random.default_rng(4).permutation(len(finer))
        place = np.argsort(order)
        there = errors(Prediction(finer[order], place[finer_triangles][::-1], points), scan)
        assert there == pytest.approx(here, rel=1e-5)


class TestKeypoints:
    def test_of_a_model(self) -> None:
        model = synthetic_model(COLUMNS_DEG)
        made, positions = keypoints_of(model), head()[2]
        landmarks = model.landmarks["ibug68"].points.of(model.mean.double()).numpy()
        np.testing.assert_allclose(positions[:68], landmarks * UNITS_PER_METRE + [1.0, -2.0, 3.0], atol=1e-5)
        np.testing.assert_allclose(made.weights.sum(1), 1.0)
        for right in (68, 70, 72, 76):  # the head is symmetric
            np.testing.assert_allclose((positions[right] + positions[right + 1])[0], 2.0, atol=1e-3)
            np.testing.assert_allclose(positions[right, 1:], positions[right + 1, 1:], atol=5e-3)
        eyes, mouth = positions[[36, 45], 1].mean(), positions[[48, 54], 1].mean()
        assert (positions[76, 1] - eyes) / (mouth - eyes) == pytest.approx(0.558, abs=1e-3)
        assert (positions[77, 0] - positions[76, 0]) / (positions[45, 0] - positions[36, 0]) == pytest.approx(1.259)
        assert {index for index, how in enumerate(made.how) if how == "unused"}.isdisjoint(USED)

    def test_both_forms_say_the_same(self, tmp_path: Path) -> None:
        model = synthetic_model(COLUMNS_DEG)
        made = keypoints_of(model)
        (tmp_path / "own.json").write_text(made.text())
        (tmp_path / "realy.txt").write_text(made.realy_text())
        (tmp_path / "realy.obj").write_text(made.template_obj(model))
        template = read_mesh(tmp_path / "realy.obj")
        vertices = model.mean.double().numpy()
        for name in ("own.json", "realy.txt"):
            read = read_keypoints(tmp_path / name).on(template.triangles, len(vertices))
            expected = (vertices[made.vertices] * made.weights[..., None]).sum(1)
            np.testing.assert_allclose(read.of(vertices), expected, atol=1e-6)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("[[0, 1, 0]]", "1 keypoints, expected 85"),
            ("[" * 5000, "not JSON"),
            (json.dumps([[0, 0.5, "x"]] * COUNT), "keypoint 0 is"),
            (json.dumps([[10**30, 0.5, 0.5]] * COUNT), "keypoint 0 is"),
            (
                json.dumps({"vertices": 9, "points": [{"vertices": [0, 1, -2], "weights": [1, 0, 0]}] * COUNT}),
                "keypoint 0",
            ),
            (
                json.dumps({"vertices": 9, "points": [{"vertices": [0, 1, 2], "weights": [1, 1, 0]}] * COUNT}),
                "of sum 1",
            ),
            (json.dumps({"vertices": "many", "points": [{"vertex": 1}] * COUNT}), "'vertices' is"),
            ("{}", "'points'"),
        ],
    )
    def test_damaged_files(self, tmp_path: Path, text: str, says: str) -> None:
        (tmp_path / "keypoints.json").write_text(text)
        with pytest.raises(Exception, match=says) as caught:
            read_keypoints(tmp_path / "keypoints.json")
        assert "\n" not in str(caught.value)


def write_benchmark(folder: Path, scan: Scan, subjects: int) -> None:
    """In the benchmark's layout, every subject the same."""
    (folder / "REALY_HIFI3D_keypoints").mkdir(parents=True)
    (folder / "metrical_scale.txt").write_text(f"{scan.mm_per_unit:e}\n" * subjects)
    for subject in range(1, subjects + 1):
        lines = "".join(f"v {x:.9g} {y:.9g} {z:.9g}\n" for x, y, z in scan.keypoints)
        (folder / "REALY_HIFI3D_keypoints" / f"{subject}.obj").write_text(lines)
        there = folder / "REALY_scan_region" / str(subject)
        there.mkdir(parents=True)
        for name, region in scan.regions.items():
            vertices = "".join(f"v {x:.9g} {y:.9g} {z:.9g}\n" for x, y, z in region.vertices)
            faces = "".join(f"f {a} {b} {c}\n" for a, b, c in region.triangles + 1)
            (there / f"{name}.obj").write_text(vertices + faces)


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    vertices, triangles, _ = head()
    write_benchmark(tmp_path / "benchmark", scan_of(vertices, triangles), 2)
    return tmp_path / "benchmark"


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """A fit3d OBJ with quads and UVs as a result's folder, a PLY, one without a scan, one of another topology."""
    model = synthetic_model(COLUMNS_DEG)
    (tmp_path / "keypoints.json").write_text(keypoints_of(model).text())
    shape = model.mean + 0.6 * model.identity[0]
    folder = tmp_path / "predictions"
    (folder / "1_2").mkdir(parents=True)
    (folder / "1_2" / "1_2.obj").write_text(obj_text(shape, model, "1_2.mtl"))
    triangles = read_mesh(folder / "1_2" / "1_2.obj").triangles
    trimesh.Trimesh(shape.numpy(), triangles, process=False).export(folder / "2.ply")
    (folder / "7.obj").write_text((folder / "1_2" / "1_2.obj").read_text())
    trimesh.creation.icosphere().export(folder / "1_3.obj")
    (folder / "1.obj").write_text("v 0 0 nan\nf 1 1 1\n")
    return folder


class TestCommand:
    def test_measures_all_that_can_be(
        self, benchmark: Path, predictions: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        call = ["evaluate", "realy", "--predictions", str(predictions), "--benchmark", str(benchmark)]
        call += ["--keypoints", str(predictions.parent / "keypoints.json"), "--errors", str(predictions / "errors.txt")]
        assert main([*call, "--json", "--workers", "1"]) == 1
        out, err = capfd.readouterr()
        report = json.loads(out)
        rows = report["photos"]
        assert [row["photo"] for row in rows] == ["2", "1_2"]
        # a result's OBJ and a PLY of the same shape, against the same scan
        assert all(rows[0][name] == pytest.approx(rows[1][name], rel=1e-4) and rows[0][name] > 0.05 for name in REGIONS)
        assert report["views"]["all"]["all"] == pytest.approx(np.mean([row[name] for row in rows for name in REGIONS]))
        assert [Path(name).name for name in report["failures"]] == ["1.obj", "7.obj", "1_3.obj"]
        lines = err.strip().splitlines()
        assert len(lines) == 3 and all(line.startswith("error: ") for line in lines)
        assert "the benchmark has 1 to 2" in err and "this one has 642" in err
        written = [line.split("\t") for line in (predictions / "errors.txt").read_text().splitlines()]
        assert [(row[0], row[1], len(row)) for row in written] == [("2", "", 6), ("1_2", "", 6)]
        assert float(written[0][2]) == pytest.approx(rows[0]["nose"], abs=1e-6)

    def test_workers_change_nothing(
        self, benchmark: Path, predictions: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        call = ["evaluate", "realy", "--predictions", str(predictions), "--benchmark", str(benchmark), "--json"]
        call += ["--keypoints", str(predictions.parent / "keypoints.json")]
        found = []
        for workers in ("1", "2"):
            main([*call, "--workers", workers])
            report = json.loads(capfd.readouterr().out)
            found.append((report["photos"], report["views"], report["failures"]))
        assert found[0] == found[1]

    def test_frontal_and_side_are_told_apart(
        self, benchmark: Path, predictions: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for view in ("frontal", "side"):
            (predictions / view).mkdir()
            (predictions / view / "1.obj").write_text((predictions / "7.obj").read_text())
        call = ["evaluate", "realy", "--predictions", str(predictions), "--benchmark", str(benchmark)]
        assert main([*call, "--keypoints", str(predictions.parent / "keypoints.json"), "--workers", "1"]) == 0
        out = capfd.readouterr().out
        assert "frontal (1)" in out and "side (1)" in out and "forehead" in out

    @pytest.mark.parametrize("missing", ["REALY_HIFI3D_keypoints", "REALY_scan_region", "metrical_scale.txt"])
    def test_says_what_is_missing_and_where_to_ask(
        self, tmp_path: Path, missing: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for name in {"REALY_HIFI3D_keypoints", "REALY_scan_region"} - {missing}:
            (tmp_path / name).mkdir()
        assert main(["evaluate", "realy", "--predictions", str(tmp_path), "--benchmark", str(tmp_path)]) == 2
        err = capfd.readouterr().err
        assert err.count("\n") == 1 and f"{missing} in it" in err
        assert "Headspace agreement" in err and "metrical_scale.txt" in err and "docs/realy.md" in err

    def test_keypoints_of_the_bundled_model(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["models", "realy-keypoints", "anny", "-o", str(tmp_path / "anny.txt")]) == 0
        assert "8 grid" in capfd.readouterr().out
        mesh = read_mesh(tmp_path / "anny.obj")
        points = read_keypoints(tmp_path / "anny.txt").on(mesh.triangles, len(mesh.vertices)).of(mesh.vertices)
        assert np.abs(points[[70, 71], 0]).mean() == pytest.approx(0.027, abs=0.003)
        assert points[8, 1] == points[:68, 1].min()


def test_motions_chain() -> None:
    one = global_alignment(posed(head()[2]), head()[2])
    other = Motion(1.0, one.rotation, np.array([1.0, 2.0, 3.0]))
    points = np.eye(3)
    np.testing.assert_allclose(other.after(one).of(points), other.of(one.of(points)), atol=1e-12)
    np.testing.assert_allclose(one.back(one.of(points)), points, atol=1e-12)
