from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial import ConvexHull
from torch import Tensor

from fit3d.camera import CAM_FROM_FRONTAL_WORLD, Camera
from fit3d.morphable.registry import load_model
from fit3d.raster import Fragments, nearest_depth, rasterise, rasterise_front, visible
from synthetic import synthetic_camera, synthetic_identity, synthetic_model

Draw = Callable[[Tensor, Tensor, Tensor, int, int], Fragments]


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


def convex_triangles(body: Tensor) -> Tensor:
    """Triangles (T, 3) of the convex hull of points (V, 3), counter-clockwise from outside as seen
    by a camera that looks along z with y down."""
    triangles = torch.from_numpy(ConvexHull(body.numpy()).simplices).long()
    a, b, c = body[triangles].unbind(1)
    inward = (torch.linalg.cross(b - a, c - a) * (a - body.mean(0))).sum(1) < 0
    return torch.where(inward[:, None], triangles[:, [0, 2, 1]], triangles)


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


@pytest.mark.parametrize("draw", [rasterise, rasterise_front])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("count", [8, 60, 1500])
def test_a_closed_mesh_covers_exactly_its_silhouette(draw: Draw, dtype: torch.dtype, count: int) -> None:
    """The silhouette of a convex body is the convex hull of its projected corners; no crack inside, nothing outside.

    Half of the bodies have their corners on the centres and borders of pixels, where rows meet corners and edges.
    """
    generator = torch.Generator().manual_seed(count)
    bodies = torch.nn.functional.normalize(torch.randn(8, count, 3, generator=generator, dtype=torch.float64), dim=2)
    bodies[4:, :, :2] = (60.0 * bodies[4:, :, :2]).round() / 60.0
    middle = torch.tensor([33.3, 33.8], dtype=torch.float64)
    centre = torch.arange(66, dtype=torch.float64) + 0.5
    at = torch.stack([centre.expand(66, 66), centre[:, None].expand(66, 66)], -1)
    for number, body in enumerate(bodies):
        px = (30.0 * body[:, :2] + (middle if number < 4 else 33.0)).to(dtype)
        covered = draw(px, (body[:, 2] + 3.0).to(dtype), convex_triangles(body), 66, 66).triangle >= 0
        hull = ConvexHull(px.double().numpy())
        plane = torch.from_numpy(hull.equations)
        outside = (at @ plane[:, :2].T + plane[:, 2]).amax(-1)  # px, by how much
        assert bool(covered[outside < -1e-4].all())
        assert not bool(covered[outside > 1e-4].any())
        if number >= 4 and draw is rasterise:  # corners of the silhouette that are centres belong to it
            corner = px[torch.from_numpy(hull.vertices).long()] - 0.5
            on_centre = corner[(corner == corner.round()).all(1)].long()
            assert bool(covered[on_centre[:, 1], on_centre[:, 0]].all())
            assert count < 1000 or len(on_centre) >= 3


@pytest.mark.parametrize("draw", [rasterise, rasterise_front])
def test_the_bundled_head_has_no_cracks(draw: Draw) -> None:
    """From every side, what is not covered is one region, the background: no pixel inside is left out."""
    model = load_model("anny")
    px, depth = head_views(model.mean.float(), (-60.0, -35.0, -10.0, 0.0, 20.0, 50.0))
    for size in (40, 224):
        fragments = draw(px * size, depth, torch.from_numpy(model.triangles).long(), size, size)
        for triangle in fragments.triangle.numpy():
            assert (triangle >= 0).mean() > 0.3
            assert ndimage.label(np.pad(triangle < 0, 1, constant_values=True))[1] == 1


def head_views(vertices: Tensor, yaws_deg: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """A head (V, 3) at 0.8 m, turned: points (N, V, 2) in a unit square that it nearly fills, and depths (N, V)."""
    views = []
    for yaw in torch.tensor(yaws_deg).deg2rad():
        c, s, zero, one = yaw.cos(), yaw.sin(), torch.tensor(0.0), torch.tensor(1.0)
        turn = torch.stack([c, zero, s, zero, one, zero, -s, zero, c]).view(3, 3)
        cam = (vertices - vertices.mean(0)) @ (torch.tensor(CAM_FROM_FRONTAL_WORLD) @ turn).T
        views.append(cam + torch.tensor([0.0, 0.0, 0.8]))
    cam = torch.stack(views)
    px = cam[..., :2] / cam[..., 2:]
    low, high = px.amin(1, keepdim=True), px.amax(1, keepdim=True)
    return 0.02 + 0.96 * (px - low) / (high - low).amax(2, keepdim=True), cam[..., 2]


def pictures_of_a_scene(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Float32 pictures of a mesh of large and small triangles; by turns all, half or nothing of it is to be seen."""
    generator = torch.Generator().manual_seed(seed)
    number = math.prod(shape)
    body = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator), dim=1)
    moved = body + 0.2 * torch.randn(number, 200, 3, generator=generator)
    across = torch.tensor([0.0, 20.0, 90.0])[torch.arange(number) % 3]
    points = moved[..., :2] * 14.0 + 17.2 + torch.stack([across, torch.zeros(number)], 1)[:, None]
    triangles = convex_triangles(body.double())
    return points.view(*shape, 200, 2), (moved[..., 2] + 1.3).view(*shape, 200), triangles


def assert_same(first: Fragments, second: Fragments) -> None:
    """Bit by bit."""
    assert torch.equal(first.triangle, second.triangle)
    assert torch.equal(first.barycentric, second.barycentric)
    assert torch.equal(first.depth, second.depth)


@pytest.mark.parametrize("draw", [rasterise, rasterise_front])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2), (0,), (2, 0)])
def test_a_batch_holds_what_each_picture_gives_alone(draw: Draw, shape: tuple[int, ...]) -> None:
    points, depth, triangles = pictures_of_a_scene(shape)
    together = draw(points, depth, triangles, 35, 40)
    assert together.triangle.shape == together.depth.shape == (*shape, 35, 40)
    assert together.barycentric.shape == (*shape, 35, 40, 3)
    for at in np.ndindex(shape):
        alone = draw(points[at], depth[at], triangles, 35, 40)
        assert_same(Fragments(together.triangle[at], together.barycentric[at], together.depth[at]), alone)
        if at in ((), (0,), (0, 0)):
            assert 500 < int((alone.triangle >= 0).sum()) < 1400


@pytest.mark.parametrize("chunk", [100, 3000, 10_000_000])
def test_pictures_do_not_depend_on_their_company(chunk: int) -> None:
    points, depth, triangles = pictures_of_a_scene((7,))
    whole = rasterise(points, depth, triangles, 35, 40)
    for members in ([6, 2, 4], [1], [0, 0, 5], [3, 6, 5, 4, 2, 1, 0]):
        part = rasterise(points[members], depth[members], triangles, 35, 40, chunk=chunk)
        expected = Fragments(whole.triangle[members], whole.barycentric[members], whole.depth[members])
        assert_same(part, expected)


def test_front_leaves_out_what_is_turned_away() -> None:
    points, depth, triangles = pictures_of_a_scene((3,), seed=4)
    for px, z in zip(points, depth, strict=True):
        a, b, c = px[triangles].double().unbind(1)
        front = torch.nonzero((b - a)[:, 0] * (c - a)[:, 1] < (b - a)[:, 1] * (c - a)[:, 0]).squeeze(1)
        kept = rasterise(px, z, triangles[front], 35, 40)
        fragments = rasterise_front(px, z, triangles, 35, 40)
        assert torch.equal(fragments.triangle, torch.cat([front, torch.tensor([-1])])[kept.triangle])
        assert torch.equal(fragments.depth, kept.depth)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_corners_on_pixel_centres_are_covered(dtype: torch.dtype) -> None:
    """Also where the other corners are odd numbers, so that cuts must be exact at the ends of edges."""
    generator = torch.Generator().manual_seed(8)
    points = (torch.rand(2000, 3, 2, generator=generator, dtype=torch.float64) * 90.0 - 30.0).to(dtype)
    points[:, 0] = (points[:, 0] / 3.0 + 10.0).floor() + 0.5
    points[:1000, 1, 1] = points[:1000, 0, 1]  # a horizontal edge
    fragments = rasterise(points, torch.ones(2000, 3, dtype=dtype), torch.tensor([[0, 1, 2]]), 30, 30)
    column, row = points[:, 0].long().unbind(1)
    assert bool((fragments.triangle[torch.arange(2000), row, column] == 0).all())


def test_of_equal_triangles_the_first_is_seen() -> None:
    points, depth, triangles = random_scene(2)
    once = rasterise(points, depth, triangles, 24, 31)
    count = len(triangles)
    order = torch.randperm(3 * count, generator=torch.Generator().manual_seed(0))
    thrice = rasterise(points, depth, triangles[order % count], 24, 31, chunk=700)
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(3 * count)).view(3, count)
    assert torch.equal(thrice.triangle, torch.where(once.triangle >= 0, place.amin(0)[once.triangle], -1))


def test_needles_stay_within_their_corners() -> None:
    """Triangles as thin as rounding allows, in float32: weights and depths no wider than their corners'."""
    generator = torch.Generator().manual_seed(3)
    centre = torch.randint(0, 60, (4000, 1, 2), generator=generator) + 0.5
    along = torch.randn(4000, 1, 2, generator=generator) * 20.0
    place = torch.rand(4000, 3, 1, generator=generator) * torch.tensor([1.0, -1.0, 1.0])[:, None]
    points = (centre + along * place + 1e-6 * torch.randn(4000, 3, 2, generator=generator)).view(-1, 2)
    depth = 0.5 + torch.rand(12000, generator=generator)
    triangles = torch.arange(12000).view(-1, 3)
    fragments = rasterise(points, depth, triangles, 60, 60)
    seen = fragments.triangle >= 0
    assert int(seen.sum()) > 100
    z, w = depth[triangles[fragments.triangle[seen]]], fragments.barycentric[seen]
    assert bool((w >= 0).all())
    torch.testing.assert_close(w.sum(1), torch.ones(len(w)), rtol=0.0, atol=1e-6)
    assert bool((fragments.depth[seen] >= z.amin(1) * (1.0 - 1e-5)).all())
    assert bool((fragments.depth[seen] <= z.amax(1) * (1.0 + 1e-5)).all())


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
    assert bool((weights >= 0).all())
    assert len(row) > 1000


def test_weights_are_not_those_of_the_screen() -> None:
    points = torch.tensor([[0.5, 0.5], [10.5, 0.5], [0.5, 10.5]], dtype=torch.float64)
    fragments = rasterise(points, torch.tensor([1.0, 3.0, 3.0]).double(), torch.tensor([[0, 1, 2]]), 12, 12)
    # halfway on the screen between depth 1 and 3 lies a quarter of the way on the edge
    expected = torch.tensor([0.75, 0.25, 0.0], dtype=torch.float64)
    torch.testing.assert_close(fragments.barycentric[0, 5], expected)
    torch.testing.assert_close(fragments.depth[0, 5], torch.tensor(1.5, dtype=torch.float64))


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


@pytest.mark.parametrize("chunk", [1, 300, 1 << 18])
def test_visible_equals_rasterise(chunk: int) -> None:
    points, depth, triangles = random_scene(5)
    values = torch.rand(len(triangles), 3, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    fragments = rasterise(points, depth, triangles, 24, 31)
    covered = fragments.triangle >= 0
    expected = (values[fragments.triangle[covered]] * fragments.barycentric[covered][..., None]).sum(1)
    drawn = torch.full((24 * 31, 4), torch.nan, dtype=torch.float64)
    pixels = []
    for pixel, found in visible(points, depth, triangles, values, 24, 31, chunk):
        drawn[pixel] = found.T
        pixels.append(pixel)
    # no centre lies on an edge here, so each comes once
    assert torch.cat(pixels).sort().values.tolist() == torch.nonzero(covered.view(-1)).squeeze(1).tolist()
    torch.testing.assert_close(drawn[covered.view(-1)], expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(nearest_depth(points, depth, triangles, 24, 31, chunk), fragments.depth)


def test_visible_takes_both_sides_of_a_seam_on_a_centre() -> None:
    """The diagonal of a square runs through centres, which both triangles hold at the same depth."""
    points = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3]])
    values = torch.tensor([[[1.0]] * 3, [[2.0]] * 3])
    ((pixel, found),) = visible(points, torch.ones(4), triangles, values, 4, 4)
    by_triangle = {value: sorted(pixel[found[0] == value].tolist()) for value in (1.0, 2.0)}
    assert by_triangle == {
        1.0: [4 * y + x for y in range(4) for x in range(4) if x >= y],
        2.0: [4 * y + x for y in range(4) for x in range(4) if x <= y],
    }
    assert list(visible(points, -torch.ones(4), triangles, values, 4, 4)) == []
