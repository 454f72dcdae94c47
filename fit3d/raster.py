"""Z-buffer rasterisation in plain torch: one program for CPU, CUDA and MPS, for one picture or many."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = 1e-30
"""Keeps divisors and 1/z above zero; far below any length in px or 1/m that matters."""


@dataclass(frozen=True)
class Fragments:
    """What each pixel of a raster sees. Leading axes are batch axes, one picture each."""

    triangle: Tensor
    """(..., H, W) int64: the nearest triangle at the pixel's centre, -1 where there is none."""
    barycentric: Tensor
    """(..., H, W, 3) float: perspective-correct weights of its corners, none negative, so that interpolated world
    positions project onto the pixel centre; 0 where there is no triangle."""
    depth: Tensor
    """(..., H, W) float: camera z in metres, inf where there is no triangle."""


def rasterise(
    points_px: Tensor, depth: Tensor, triangles: Tensor, height: int, width: int, chunk: int = 4_000_000
) -> Fragments:
    """Nearest triangle and barycentric weights at each pixel centre.

    Args:
        points_px: (..., V, 2) projected vertices, px of the raster (pixel centres at +0.5).
        depth: (..., V) camera z of the vertices, metres; triangles with a corner at z <= 0 are not drawn.
        triangles: (T, 3) int64 vertex ids, the same in every picture; both windings are drawn.
        height, width: size of the raster, px.
        chunk: pixels of pictures, and of the boxes of triangles, that are worked on at a time; bounds memory only.

    A centre exactly on an edge shared by two triangles goes to the nearer one, on equal depth to the lower triangle
    index, so the result does not depend on the order of work. Both triangles cut a row of pixels at the same place,
    so a closed surface has no cracks. Degenerate triangles cover nothing.

    A picture does not depend on the others of its batch: on the CPU its bits are those it has alone. No gradient
    flows through the result.
    """
    return _rasterise(points_px, depth, triangles, height, width, chunk, front_only=False)


def rasterise_front(
    points_px: Tensor, depth: Tensor, triangles: Tensor, height: int, width: int, chunk: int = 4_000_000
) -> Fragments:
    """`rasterise` for triangles that run counter-clockwise from outside, without those turned away from the camera.

    For surfaces of which only the outside can be seen: half the work.
    """
    return _rasterise(points_px, depth, triangles, height, width, chunk, front_only=True)


def _rasterise(
    points_px: Tensor, depth: Tensor, triangles: Tensor, height: int, width: int, chunk: int, front_only: bool
) -> Fragments:
    batch, triangle_count = depth.shape[:-1], triangles.shape[0]
    assert points_px.shape == (*depth.shape, 2), "one depth for each point"
    assert triangle_count < 2**24, "triangle ids are compared as float32, the one type that MPS scatters by minimum"
    pictures = batch.numel()
    x, y = (v.detach().reshape(pictures, depth.shape[-1]) for v in points_px.unbind(-1))
    z = depth.detach().reshape(pictures, depth.shape[-1])
    triangle = torch.full((pictures, height, width), -1, dtype=torch.int64, device=z.device)
    weights = z.new_zeros(3, pictures, height, width)  # a component at a time, which is how they are made
    nearness = z.new_zeros(pictures, height, width)
    if triangle_count and triangle.numel():
        together = max(1, chunk // max(height * width, triangle_count))
        corners = triangles.T.contiguous()
        for start in range(0, pictures, together):
            some = slice(start, start + together)
            into = (triangle[some], weights[:, some], nearness[some])
            _rasterise_some(x[some], y[some], z[some], corners, chunk, front_only, *into)
    shape = (*batch, height, width)
    return Fragments(triangle.view(shape), weights.view(3, -1).T.view(*shape, 3), (1.0 / nearness).view(shape))


def _rasterise_some(
    x_of: Tensor,
    y_of: Tensor,
    z_of: Tensor,
    triangles: Tensor,
    chunk: int,
    front_only: bool,
    triangle: Tensor,
    weights: Tensor,
    nearness: Tensor,
) -> None:
    """Rasterise pictures of vertices (P, V) and triangles (3, T) into `triangle` (P, H, W), `weights` (3, P, H, W) and
    `nearness` (P, H, W), which is 1/z, 0 where there is nothing."""
    (pictures, vertex_count), triangle_count, (height, width) = z_of.shape, triangles.shape[1], triangle.shape[1:]
    # All pictures lie in one row: vertices (P * V,), triangles (P * T,), pixels (P * H * W,).
    picture = torch.arange(pictures, device=z_of.device)[:, None]
    corners = (triangles[:, None] + picture * vertex_count).reshape(3, -1)
    x_of, y_of, inverse_z = x_of.reshape(-1), y_of.reshape(-1), 1.0 / z_of.reshape(-1)
    x, y, w = (_select(v, corners) for v in (x_of, y_of, inverse_z))

    ux, uy, vx, vy = x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]
    area = ux * vy - uy * vx  # twice the area; y runs down, so it is negative where the outside is seen
    columns = _last(x.amax(0), width) - _first(x.amin(0)) + 1
    rows = _last(y.amax(0), height) - _first(y.amin(0)) + 1
    in_front = (w.amin(0) > 0) & (w.amax(0) < torch.inf)  # 1/0 is inf
    drawn = (area < 0 if front_only else area != 0) & torch.isfinite(area) & in_front & (columns > 0) & (rows > 0)
    ids = torch.nonzero(drawn).squeeze(1)
    ends = torch.cumsum(_select(columns * rows, ids).long(), 0)
    raster = _Raster(
        nearness.view(-1), z_of.new_full((nearness.numel(),), triangle_count), height, width, triangle_count
    )
    start = 0
    while start < ids.numel():  # runs of triangles with at most `chunk` pixels in their boxes (or one large triangle)
        before = int(ends[start - 1]) if start else 0
        stop = max(int(torch.searchsorted(ends, before + chunk, right=True)), start + 1)
        raster.draw(ids[start:stop], corners.index_select(1, ids[start:stop]), x_of, y_of, inverse_z)
        start = stop

    covered = nearness > 0
    triangle.copy_(raster.triangle.view(nearness.shape)).masked_fill_(~covered, -1)
    # w_k = z l_k / z_k with the screen weights l_1 = (d x v) / area and l_2 = (u x d) / area, d from corner 0
    second, third = w[1] / area, w[2] / area
    table = torch.stack([x[0], y[0], vy * second, vx * second, uy * third, ux * third])
    table.nan_to_num_(0.0, 0.0, 0.0)  # of triangles that are not drawn; where nothing is, any finite value will do
    of = triangle.clamp(min=0) + picture[:, None] * triangle_count
    x0, y0, vy1, vx1, uy2, ux2 = (_select(v, of) for v in table)
    dx = torch.arange(width, device=z_of.device) + 0.5 - x0
    dy = (torch.arange(height, device=z_of.device) + 0.5)[:, None] - y0
    whole = covered.to(nearness.dtype)
    at_z = whole / nearness.clamp(min=_TINY)
    # clamped: in a triangle thin as a hair rounding alone would throw the point far out of it
    torch.clamp((dx * vy1 - dy * vx1) * at_z, 0.0, 1.0, out=weights[1])
    rest = whole - weights[1]
    torch.minimum(((dy * ux2 - dx * uy2) * at_z).clamp_(min=0.0), rest, out=weights[2])
    torch.sub(rest, weights[2], out=weights[0])


@dataclass(frozen=True)
class _Raster:
    """The z-buffers of all pictures, pixel after pixel."""

    nearness: Tensor
    """(N,) 1/z of the nearest triangle, 1/m; 0 where there is none."""
    triangle: Tensor
    """(N,) its id within its picture, as a float; T where there is none."""
    height: int
    width: int
    triangle_count: int

    def draw(self, ids: Tensor, corners: Tensor, x_of: Tensor, y_of: Tensor, inverse_z: Tensor) -> None:
        """Draw triangles `ids` (n,) with vertices `corners` (3, n), all counted over all pictures.

        Scan conversion: a triangle is two halves, above and below its middle corner; each row of pixel centres in a
        half is cut by the long edge and by one of the short ones, and 1/z runs linearly from cut to cut. A cut depends
        on nothing but its edge, taken from the upper end to the lower one, and is exact at both ends.
        """
        count, device, dtype = ids.numel(), ids.device, inverse_z.dtype
        top, middle, bottom = corners
        y0, y1, y2 = (_select(y_of, k) for k in (top, middle, bottom))
        y0, y1, top, middle = _ascending(y0, y1, top, middle)
        y1, y2, middle, bottom = _ascending(y1, y2, middle, bottom)
        y0, y1, top, middle = _ascending(y0, y1, top, middle)
        vertices = torch.cat([top, middle, bottom])
        x, y, w = _select(x_of, vertices), torch.cat([y0, y1, y2]), _select(inverse_z, vertices)

        first = _first(y[: 2 * count]).clamp_(max=self.height)  # of the upper halves, then of the lower ones
        stop = torch.cat([first[count:], _last(y2, self.height) + 1])
        rows = (stop - first).clamp_(min=0).long()
        half = torch.repeat_interleave(rows)
        within = torch.arange(half.numel(), device=device)
        row = within + _select(first.long() - (torch.cumsum(rows, 0) - rows), half)
        triangle = _select(torch.arange(count, device=device).repeat(2), half)
        centre = row.to(dtype) + 0.5

        def cut(start: int, end: int, edge: Tensor) -> tuple[Tensor, Tensor]:
            """x and 1/z where `centre` cuts edges, whose ends lie at `start` and `end` of the sorted corners."""
            upper = _select(y[start:], edge)
            # a horizontal edge ends a triangle below and is cut at its first end: 0 / tiny
            t = (centre - upper) / (_select(y[end:], edge) - upper).clamp_(min=_TINY)
            s = 1.0 - t
            return (
                s * _select(x[start:], edge) + t * _select(x[end:], edge),
                s * _select(w[start:], edge) + t * _select(w[end:], edge),
            )

        x_long, w_long = cut(0, 2 * count, triangle)
        x_short, w_short = cut(0, count, half)
        begin = _first(torch.minimum(x_long, x_short)).clamp_(max=self.width)
        span = (_last(torch.maximum(x_long, x_short), self.width) - begin + 1).clamp_(min=0).long()
        across = x_short - x_long
        slope = (w_short - w_long) / (across + (across == 0))
        w_begin = w_long + (begin + 0.5 - x_long) * slope
        picture = torch.div(ids, self.triangle_count, rounding_mode="floor")
        pixel_begin = row * self.width + begin.long() + _select(picture * (self.height * self.width), triangle)
        name = _select((ids - picture * self.triangle_count).to(dtype), triangle)

        line = torch.repeat_interleave(span)
        before = torch.cumsum(span, 0) - span
        within = torch.arange(line.numel(), device=device)
        pixel = within + _select(pixel_begin - before, line)
        column = (within - _select(before, line)).to(dtype)
        nearness = (_select(w_begin, line) + column * _select(slope, line)).clamp_(min=_TINY)
        former = self.nearness.clone()
        self.nearness.scatter_reduce_(0, pixel, nearness, "amax")
        # pixels in which something nearer was drawn forget their former triangle
        self.triangle.masked_fill_(self.nearness > former, self.triangle_count)
        nearest = nearness == _select(self.nearness, pixel)
        self.triangle.scatter_reduce_(0, pixel, torch.where(nearest, _select(name, line), torch.inf), "amin")


def _select(values: Tensor, index: Tensor) -> Tensor:
    """values[index] of values (N,): several times faster on the CPU."""
    return values.index_select(0, index.reshape(-1)).view(index.shape)


def _first(low: Tensor) -> Tensor:
    """The first pixel in the picture whose centre is not before `low`, as a float."""
    return torch.ceil(low - 0.5).clamp_(min=0)


def _last(high: Tensor, size: int) -> Tensor:
    """The last of `size` pixels whose centre is not beyond `high`, as a float; negative if there is none."""
    return torch.floor(high - 0.5).clamp_(max=size - 1)


def _ascending(y0: Tensor, y1: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Exchange the ends of edges where the second lies above the first."""
    swap = y0 > y1
    return (
        torch.minimum(y0, y1),
        torch.maximum(y0, y1),
        torch.where(swap, second, first),
        torch.where(swap, first, second),
    )
