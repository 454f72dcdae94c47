from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fit3d.camera import Camera
from fit3d.raster import perspective_weights, rasterise
from synthetic import synthetic_camera, synthetic_identity, synthetic_model


def rasterise_naive(
    points_px: Tensor, depth: Tensor, triangles: Tensor, height: int, width: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Nearest triangle and its depth for each pixel, one pixel and one triangle at a time, from the definition."""
    nearest = [[-1] * width for _ in range(height)]
    at = [[math.inf] * width for _ in range(height)]
    for t, (i, j, k) in enumerate(triangles.tolist()):
        (ax, ay), (bx, by), (cx, cy) = (points_px[v].tolist() for v in (i, j, k))
        za, zb, zc = (float(depth[v]) for v in (i, j, k))
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0 or min(za, zb, zc) <= 0.0:
            continue
        for y in range(height):
            for x in range(width):
                dx, dy = x + 0.5 - ax, y + 0.5 - ay
                w1 = (dx * (cy - ay) - dy * (cx - ax)) / area
                w2 = (dy * (bx - ax) - dx * (by - ay)) / area
                if w1 < 0.0 or w2 < 0.0 or w1 + w2 > 1.0:
                    continue
                z = 1.0 / ((1.0 - w1 - w2) / za + w1 / zb + w2 / zc)
                if z < at[y][x]:
                    nearest[y][x], at[y][x] = t, z
    return nearest, at


def random_scene(seed: int, count: int = 30, size: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Triangles of all sizes, some reaching out of the picture."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(3 * count, 2, generator=generator, dtype=torch.float64) * (1.5 * size) - 0.25 * size
    depth = 0.5 + torch.rand(3 * count, generator=generator, dtype=torch.float64)
    return points, depth, torch.arange(3 * count).view(count, 3)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_naive_loop(seed: int) -> None:
    points, depth, triangles = random_scene(seed)
    fragments = rasterise(points, depth, triangles, 24, 31)
    nearest, at = rasterise_naive(points, depth, triangles, 24, 31)
    assert fragments.triangle.tolist() == nearest
    torch.testing.assert_close(fragments.depth, torch.tensor(at, dtype=torch.float64), rtol=1e-12, atol=0.0)
    assert (fragments.triangle >= 0).float().mean() > 0.5


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000, 10_000_000])
def test_chunks_do_not_matter(chunk: int) -> None:
    points, depth, triangles = random_scene(9)
    whole = rasterise(points, depth, triangles, 40, 40)
    parts = rasterise(points, depth, triangles, 40, 40, chunk=chunk)
    assert torch.equal(whole.triangle, parts.triangle)
    assert torch.equal(whole.depth, parts.depth)
    assert torch.equal(whole.barycentric, parts.barycentric)


def test_the_order_of_triangles_does_not_matter() -> None:
    points, depth, triangles = random_scene(5)
    order = torch.randperm(len(triangles), generator=torch.Generator().manual_seed(1))
    first = rasterise(points, depth, triangles, 32, 32)
    second = rasterise(points, depth, triangles[order], 32, 32)
    back = torch.where(second.triangle >= 0, order[second.triangle], -1)
    assert torch.equal(first.triangle, back)
    assert torch.equal(first.depth, second.depth)


def test_pixels_on_shared_edges_belong_to_exactly_one_triangle() -> None:
    # a fan whose edges pass exactly through pixel centres; integers plus a half are exact in float
    rim = [(0.5, 0.5), (8.5, 0.5), (16.5, 0.5), (16.5, 8.5), (16.5, 16.5), (8.5, 16.5), (0.5, 16.5), (0.5, 8.5)]
    points = torch.tensor([(8.5, 8.5), *rim], dtype=torch.float64)
    triangles = torch.tensor([[0, k + 1, (k + 1) % 8 + 1] for k in range(8)])
    fragments = rasterise(points, torch.ones(9, dtype=torch.float64), triangles, 18, 18)
    covered = fragments.triangle >= 0
    expected = torch.zeros(18, 18, dtype=torch.bool)
    expected[:17, :17] = True
    assert torch.equal(covered, expected)
    # equal depth: the lower triangle wins, so the centre, which all share, is the first one's
    assert fragments.triangle[8, 8] == 0
    # and the diagonal belongs to the lower of its two triangles
    assert fragments.triangle[4, 4] == 0
    assert fragments.triangle[12, 12] == 3


def test_a_closed_mesh_has_no_holes() -> None:
    """Float32, random view: every pixel well inside the silhouette is covered."""
    generator = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(400, 3, generator=generator), dim=1)
    from scipy.spatial import ConvexHull

    triangles = torch.from_numpy(ConvexHull(ball.numpy()).simplices).long()
    fragments = rasterise(ball[:, :2] * 60.0 + 64.3, ball[:, 2] + 3.0, triangles, 128, 128)
    y, x = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    inside = (x - 64.3) ** 2 + (y - 64.3) ** 2 < 50.0**2
    assert bool((fragments.triangle >= 0)[inside].all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_project_onto_the_pixel_centre(dtype: torch.dtype) -> None:
    model = synthetic_model(6.0)
    camera: Camera = synthetic_camera(60, 80, yaw_deg=35.0, distance=0.3, fov_deg=60.0)
    vertices = model.mean.to(dtype)
    triangles = torch.from_numpy(model.triangles).long()
    fragments = rasterise(camera.project(vertices), camera.to_cam(vertices)[:, 2], triangles, 80, 60)
    row, column = torch.nonzero(fragments.triangle >= 0, as_tuple=True)
    weights = fragments.barycentric[row, column]
    points = (vertices[triangles[fragments.triangle[row, column]]] * weights[..., None]).sum(1)
    centres = torch.stack([column, row], 1).to(dtype) + 0.5
    tolerance = 1e-9 if dtype == torch.float64 else 5e-3
    torch.testing.assert_close(camera.project(points), centres, rtol=0.0, atol=tolerance)
    torch.testing.assert_close(
        camera.to_cam(points)[:, 2], fragments.depth[row, column], rtol=0.0, atol=1e-9 if tolerance < 1e-6 else 1e-4
    )
    assert bool((weights >= -1e-4).all())
    assert len(row) > 1000


def test_perspective_weights_are_not_screen_weights() -> None:
    corners = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]], dtype=torch.float64)
    depth = torch.tensor([[1.0, 3.0, 3.0]], dtype=torch.float64)
    weights = perspective_weights(torch.tensor([[5.0, 0.0]], dtype=torch.float64), corners, depth)
    # halfway on the screen between depth 1 and 3 lies a quarter of the way on the edge
    torch.testing.assert_close(weights, torch.tensor([[0.75, 0.25, 0.0]], dtype=torch.float64))


def test_the_nearer_of_two_triangles_wins_where_they_intersect() -> None:
    points = torch.tensor([[0, 0], [20, 0], [0, 20], [20, 20]], dtype=torch.float64)
    both = torch.cat([points, points])
    # two squares that cross along a line of constant x
    depth = torch.tensor([1.0, 2.0, 1.0, 2.0, 2.0, 1.0, 2.0, 1.0], dtype=torch.float64)
    triangles = torch.tensor([[0, 1, 2], [1, 3, 2], [4, 5, 6], [5, 7, 6]])
    fragments = rasterise(both, depth, triangles, 20, 20)
    assert bool((fragments.triangle[:, :9] <= 1).all())
    assert bool((fragments.triangle[:, 11:] >= 2).all())


@pytest.mark.parametrize("behind", [0.0, -0.5])
def test_triangles_behind_the_camera_are_not_drawn(behind: float) -> None:
    points = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    one_behind = rasterise(points, torch.tensor([1.0, 1.0, behind]), torch.tensor([[0, 1, 2]]), 8, 8)
    assert bool((one_behind.triangle == -1).all())
    assert bool(torch.isinf(one_behind.depth).all())
    assert bool((one_behind.barycentric == 0).all())


@pytest.mark.parametrize(
    "points",
    [
        [[1.0, 1.0], [5.0, 5.0], [3.0, 3.0]],
        [[2.5, 2.5], [2.5, 2.5], [2.5, 2.5]],
        [[float("nan"), 1.0], [5.0, 5.0], [3.0, 1.0]],
    ],
)
def test_degenerate_triangles_cover_nothing(points: list[list[float]]) -> None:
    fragments = rasterise(torch.tensor(points), torch.ones(3), torch.tensor([[0, 1, 2]]), 8, 8)
    assert bool((fragments.triangle == -1).all())


def test_no_triangles_and_no_pixels() -> None:
    nothing = rasterise(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 3, dtype=torch.int64), 3, 4)
    assert nothing.triangle.tolist() == [[-1] * 4] * 3
    assert nothing.barycentric.shape == (3, 4, 3)
    points, depth, triangles = random_scene(0)
    assert rasterise(points, depth, triangles, 0, 5).triangle.shape == (0, 5)


def test_triangles_outside_the_picture_are_not_drawn() -> None:
    points = torch.tensor([[30.0, 30.0], [40.0, 30.0], [30.0, 40.0], [-9.0, -9.0], [-1.0, -9.0], [-9.0, -1.0]])
    fragments = rasterise(points, torch.ones(6), torch.tensor([[0, 1, 2], [3, 4, 5]]), 20, 20)
    assert bool((fragments.triangle == -1).all())


def test_both_windings_are_drawn() -> None:
    points = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    first = rasterise(points, torch.ones(3), torch.tensor([[0, 1, 2]]), 8, 8)
    second = rasterise(points, torch.ones(3), torch.tensor([[0, 2, 1]]), 8, 8)
    assert torch.equal(first.triangle, second.triangle)
    assert int((first.triangle == 0).sum()) == 36


def test_same_result_twice() -> None:
    model = synthetic_model(6.0)
    vertices = model.vertices(synthetic_identity(model), torch.zeros(len(model.expression_names)).double()).float()
    camera = synthetic_camera(200, 200)
    arguments = (camera.project(vertices), camera.to_cam(vertices)[:, 2], torch.from_numpy(model.triangles).long())
    first, second = rasterise(*arguments, 200, 200), rasterise(*arguments, 200, 200)
    assert torch.equal(first.triangle, second.triangle)
    assert torch.equal(first.barycentric, second.barycentric)
