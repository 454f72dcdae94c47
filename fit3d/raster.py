"""Z-buffer rasterisation in plain torch: one function for CPU, CUDA and MPS."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fragments:
    """What each pixel of a raster sees."""

    triangle: Tensor
    """(H, W) int64: the nearest triangle at the pixel's centre, -1 where there is none."""
    barycentric: Tensor
    """(H, W, 3) float: perspective-correct weights of its corners, so that interpolated world positions project
    exactly onto the pixel centre; 0 where there is no triangle."""
    depth: Tensor
    """(H, W) float: camera z in metres, inf where there is no triangle."""


def rasterise(
    points_px: Tensor, depth: Tensor, triangles: Tensor, height: int, width: int, chunk: int = 4_000_000
) -> Fragments:
    """Nearest triangle and barycentric weights at each pixel centre.

    Args:
        points_px: (V, 2) projected vertices, px of the raster (pixel centres at +0.5).
        depth: (V,) camera z of the vertices, metres; triangles with a corner at z <= 0 are not drawn.
        triangles: (T, 3) int64 vertex ids; both windings are drawn.
        height, width: size of the raster, px.
        chunk: candidate pixels tested at a time; bounds memory only.

    A centre exactly on an edge shared by two triangles goes to the nearer one, on equal depth to the lower triangle
    index, so the result does not depend on the order of work. Degenerate triangles cover nothing.
    """
    device, dtype = points_px.device, points_px.dtype
    nearest = torch.full((height * width,), torch.inf, device=device, dtype=dtype)
    winner = torch.full((height * width,), triangles.shape[0], device=device, dtype=torch.int64)

    corner = points_px[triangles]  # (T, 3, 2)
    z = depth[triangles]  # (T, 3)
    edge = corner[:, 1:] - corner[:, :1]
    area = edge[:, 0, 0] * edge[:, 1, 1] - edge[:, 0, 1] * edge[:, 1, 0]
    limit = points_px.new_tensor([width, height])
    # first and last pixel whose centre can lie inside the triangle's box
    low = torch.ceil(corner.amin(1) - 0.5).clamp(min=0)
    high = torch.minimum(torch.floor(corner.amax(1) - 0.5), limit - 1)
    size = (high - low + 1).clamp(min=0)
    count = size[:, 0] * size[:, 1]
    drawn = torch.nonzero((area != 0) & (count > 0) & (z > 0).all(1) & torch.isfinite(area)).squeeze(1)
    if drawn.numel() == 0:
        return _fragments(nearest, winner, points_px, depth, triangles, height, width)
    count = count[drawn].long()
    ends = torch.cumsum(count, 0)
    start = 0
    while start < drawn.numel():  # runs of triangles with at most `chunk` candidates (or one large triangle)
        before = int(ends[start - 1]) if start else 0
        stop = max(int(torch.searchsorted(ends, before + chunk, right=True)), start + 1)
        _draw(
            drawn[start:stop], count[start:stop], low, size, corner, z, area, width, nearest, winner, triangles.shape[0]
        )
        start = stop
    return _fragments(nearest, winner, points_px, depth, triangles, height, width)


def rasterise_front(points_px: Tensor, depth: Tensor, triangles: Tensor, height: int, width: int) -> Fragments:
    """`rasterise` for triangles that run counter-clockwise from outside, without those turned away from the camera.

    For surfaces of which only the outside can be seen; about twice as fast.
    """
    a, b, c = points_px[triangles].unbind(1)
    u, v = b - a, c - a
    front = torch.nonzero(u[:, 0] * v[:, 1] < u[:, 1] * v[:, 0]).squeeze(1)
    fragments = rasterise(points_px, depth, triangles[front], height, width)
    original = torch.cat([front, front.new_full((1,), -1)])  # -1, nothing, stays -1
    return replace(fragments, triangle=original[fragments.triangle])


def _draw(
    chosen: Tensor,
    count: Tensor,
    low: Tensor,
    size: Tensor,
    corner: Tensor,
    z: Tensor,
    area: Tensor,
    width: int,
    nearest: Tensor,
    winner: Tensor,
    nothing: int,
) -> None:
    """Test every pixel of the boxes of `chosen` triangles and keep the nearest in `nearest` and `winner`."""
    first = torch.cumsum(count, 0) - count
    owner = torch.repeat_interleave(torch.arange(chosen.numel(), device=chosen.device), count)
    # one gather of all that a candidate needs to know of its triangle, which is what takes the time
    a, b, c = corner[chosen].unbind(1)
    inverse_area = 1.0 / area[chosen]
    second = torch.stack([c[:, 1] - a[:, 1], a[:, 0] - c[:, 0]], 1) * inverse_area[:, None]
    third = torch.stack([a[:, 1] - b[:, 1], b[:, 0] - a[:, 0]], 1) * inverse_area[:, None]
    origin = low[chosen] + 0.5 - a  # from the first corner to the centre of the box's first pixel
    inverse_z = 1.0 / z[chosen]
    place = torch.stack([first, size[chosen, 0].long(), (low[chosen, 1] * width + low[chosen, 0]).long()], 1)
    first_of, columns, corner_pixel = place[owner].unbind(1)
    within = torch.arange(owner.numel(), device=chosen.device) - first_of
    row = torch.div(within, columns, rounding_mode="floor")
    column = within - row * columns
    d, v, w = torch.cat([origin, second, third], 1)[owner].view(-1, 3, 2).unbind(1)
    dx, dy = column + d[:, 0], row + d[:, 1]
    w1 = v[:, 0] * dx + v[:, 1] * dy
    w2 = w[:, 0] * dx + w[:, 1] * dy
    w0 = 1.0 - w1 - w2
    inside = torch.nonzero((w0 >= 0) & (w1 >= 0) & (w2 >= 0)).squeeze(1)
    owner, pixel = owner[inside], (corner_pixel + row * width + column)[inside]
    weights = torch.stack([w0[inside], w1[inside], w2[inside]], 1)
    at_depth = 1.0 / (weights * inverse_z[owner]).sum(1)
    closest = nearest.scatter_reduce(0, pixel, at_depth, "amin", include_self=True)
    # pixels whose depth this run improved forget their former triangle
    winner[closest < nearest] = nothing
    hit = at_depth == closest[pixel]
    winner.scatter_reduce_(0, pixel[hit], chosen[owner[hit]], "amin", include_self=True)
    nearest.copy_(closest)


def _fragments(
    nearest: Tensor, winner: Tensor, points_px: Tensor, depth: Tensor, triangles: Tensor, height: int, width: int
) -> Fragments:
    """Assemble the result; the weights are computed again for the winners only."""
    covered = torch.nonzero(torch.isfinite(nearest)).squeeze(1)
    barycentric = points_px.new_zeros(height * width, 3)
    triangle = torch.full_like(winner, -1)
    if covered.numel():
        triangle[covered] = winner[covered]
        ids = triangles[winner[covered]]
        centre = (
            torch.stack([covered % width, torch.div(covered, width, rounding_mode="floor")], 1).to(points_px.dtype)
            + 0.5
        )
        barycentric[covered] = perspective_weights(centre, points_px[ids], depth[ids])
    return Fragments(triangle.view(height, width), barycentric.view(height, width, 3), nearest.view(height, width))


def perspective_weights(at_px: Tensor, corners_px: Tensor, depth: Tensor) -> Tensor:
    """Perspective-correct barycentric weights (N, 3) of points (N, 2) px in triangles (N, 3, 2) px, depths (N, 3).

    With screen weights l_k, w_k = (l_k / z_k) / sum_j (l_j / z_j).
    """
    a, b, c = corners_px.unbind(1)
    u, v, d = b - a, c - a, at_px - a
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    l1 = (d[:, 0] * v[:, 1] - d[:, 1] * v[:, 0]) / area
    l2 = (u[:, 0] * d[:, 1] - u[:, 1] * d[:, 0]) / area
    weights = torch.stack([1.0 - l1 - l2, l1, l2], 1) / depth
    return weights / weights.sum(1, keepdim=True)
