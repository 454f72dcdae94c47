"""Z-buffer rasterisation in plain torch: one program for CPU, CUDA and MPS, for one picture or many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d.devices import flat_nonzero

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


def visible(
    points_px: Tensor,
    depth: Tensor,
    triangles: Tensor,
    at_corners: Tensor,
    height: int,
    width: int,
    chunk: int = 1 << 18,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The covered pixels of one picture and what lies there: faster than `rasterise` for large pictures.

    Args:
        points_px: (V, 2), depth: (V,), triangles: (T, 3), height and width: as for `rasterise`.
        at_corners: (T, 3, C) values at the triangles' corners.
        chunk: pixels of the boxes of triangles that are worked on at a time, few enough for the processor's cache.

    Yields:
        Flat ids (n,) of pixels and the perspective-correct values (C, n) there; all together the pixels that
        `rasterise` covers. A centre exactly on an edge shared by two triangles comes from both, on equal depth.
    """
    at_corners = at_corners.permute(2, 1, 0).contiguous()
    nearness = depth.new_zeros(height * width)
    drawn = list(_fragments(points_px, depth, triangles, height, width, chunk))
    for _, _, fragments, near in drawn:
        nearness.scatter_reduce_(0, fragments.pixel, near, "amax")
    for names, spans, fragments, near in drawn:
        which = flat_nonzero(near == _select(nearness, fragments.pixel))
        fragments, near = fragments.some(which), _select(near, which)
        values = near.new_empty(len(at_corners), len(near))
        for value, of in zip(values, at_corners, strict=True):
            linear = _select(of[:, names].reshape(-1), spans.order) * spans.inverse_z
            torch.div(fragments.linear(*spans.along(linear)), near, out=value)
        yield fragments.pixel, values


def nearest_depth(
    points_px: Tensor, depth: Tensor, triangles: Tensor, height: int, width: int, chunk: int = 1 << 18
) -> Tensor:
    """(H, W) depth of `rasterise` alone, for one picture; arguments as for `visible`."""
    nearness = depth.new_zeros(height * width)
    for _, _, fragments, near in _fragments(points_px, depth, triangles, height, width, chunk):
        nearness.scatter_reduce_(0, fragments.pixel, near, "amax")
    return (1.0 / nearness).view(height, width)


def _fragments(
    points_px: Tensor, depth: Tensor, triangles: Tensor, height: int, width: int, chunk: int
) -> Iterator[tuple[Tensor, _Spans, _Fragments, Tensor]]:
    """Ids (n,) of some triangles of one picture, their spans, the pixels of these and 1/z there (F,)."""
    x, y = (v.detach().contiguous() for v in points_px.unbind(1))
    inverse_z = 1.0 / depth.detach()
    corners = triangles.T.contiguous()
    ids, ends, _ = _drawn(_select(x, corners), _select(y, corners), _select(inverse_z, corners), height, width)
    for run in _runs(ends, chunk):
        spans = _cut_to_spans(corners.index_select(1, ids[run]), x, y, inverse_z, height, width)
        fragments = spans.fragments()
        yield ids[run], spans, fragments, fragments.nearness(spans)


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

    ids, ends, area = _drawn(x, y, w, height, width, front_only)
    raster = _Raster(
        nearness.view(-1), z_of.new_full((nearness.numel(),), triangle_count), height, width, triangle_count
    )
    for run in _runs(ends, chunk):
        raster.draw(ids[run], corners.index_select(1, ids[run]), x_of, y_of, inverse_z, run.start == 0)

    covered = nearness > 0
    triangle.copy_(raster.triangle.view(nearness.shape)).masked_fill_(~covered, -1)
    # w_k = z l_k / z_k with the screen weights l_1 = (d x v) / area and l_2 = (u x d) / area, d from corner 0
    ux, uy, vx, vy = x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]
    second, third = w[1] / area, w[2] / area
    table = torch.stack([x[0], y[0], vy * second, vx * second, uy * third, ux * third])
    table.nan_to_num_(0.0, 0.0, 0.0)  # of triangles that are not drawn; where nothing is, any finite value will do
    of = (triangle.clamp(min=0) + picture[:, None] * triangle_count).int()  # half as far to read
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


def _drawn(
    x: Tensor, y: Tensor, w: Tensor, height: int, width: int, front_only: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Which triangles (n,) may cover pixels, how many pixels the boxes of them and all before hold (n,), and twice the
    area of every triangle (T,), by the places and 1/z of their corners (3, T)."""
    # y runs down, so the area is negative where the outside is seen
    area = (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0])
    columns = _last(x.amax(0), width) - _first(x.amin(0)) + 1
    rows = _last(y.amax(0), height) - _first(y.amin(0)) + 1
    in_front = (w.amin(0) > 0) & (w.amax(0) < torch.inf)  # 1/0 is inf
    drawn = (area < 0 if front_only else area != 0) & torch.isfinite(area) & in_front & (columns > 0) & (rows > 0)
    ids = flat_nonzero(drawn)
    return ids, torch.cumsum(_select(columns * rows, ids).long(), 0), area


def _runs(ends: Tensor, chunk: int) -> Iterator[slice]:
    """Runs of triangles with at most `chunk` pixels in their boxes, or one large triangle, by `_drawn`'s sums (n,)."""
    start = 0
    while start < ends.numel():
        before = int(ends[start - 1]) if start else 0
        stop = max(int(torch.searchsorted(ends, before + chunk, right=True)), start + 1)
        yield slice(start, stop)
        start = stop


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

    def draw(self, ids: Tensor, corners: Tensor, x_of: Tensor, y_of: Tensor, inverse_z: Tensor, first: bool) -> None:
        """Draw triangles `ids` (n,) with vertices `corners` (3, n), all counted over all pictures.

        `first`: nothing has been drawn before.
        """
        picture = torch.div(ids, self.triangle_count, rounding_mode="floor")
        spans = _cut_to_spans(corners, x_of, y_of, inverse_z, self.height, self.width)
        name = _select((ids - picture * self.triangle_count).to(inverse_z.dtype), spans.triangle)
        fragments = spans.fragments(_select(picture * (self.height * self.width), spans.triangle))
        nearness = fragments.nearness(spans)
        former = None if first else self.nearness.clone()
        self.nearness.scatter_reduce_(0, fragments.pixel, nearness, "amax")
        if former is not None:  # pixels in which something nearer was drawn forget their former triangle
            self.triangle.masked_fill_(self.nearness > former, self.triangle_count)
        nearest = nearness == _select(self.nearness, fragments.pixel)
        names = torch.where(nearest, _select(name, fragments.span), torch.inf)
        self.triangle.scatter_reduce_(0, fragments.pixel, names, "amin")


@dataclass(frozen=True)
class _Spans:
    """Runs of pixel centres in one row and one triangle.

    Scan conversion: a triangle is two halves, above and below its middle corner; each row of pixel centres in a half is
    cut by the long edge and by one of the short ones, and what is linear on the screen, as 1/z is, runs linearly from
    cut to cut. A cut depends on nothing but its edge, taken from the upper end to the lower one, and is exact at both
    ends.
    """

    triangle: Tensor
    """(S,) int32: which of the n triangles."""
    half: Tensor
    """(S,) int32: which half, the n upper ones first."""
    pixel: Tensor
    """(S,) int32: the first pixel's flat id."""
    length: Tensor
    """(S,) int32, px; may be 0."""
    t_long: Tensor
    """(S,) where on its edge a cut lies, 0 at the upper end and 1 at the lower one."""
    t_short: Tensor
    after: Tensor
    """(S,) way from the cut of the long edge to the first pixel's centre, px."""
    across: Tensor
    """(S,) and to the cut of the short edge; 1 where there is no way between them."""
    order: Tensor
    """(3 n,) int64: the corners from top to bottom, as ids into what is given by corner, (3, n) in one row."""
    inverse_z: Tensor
    """(3 n,) of the corners from top to bottom, 1/m."""

    def along(self, at_corners: Tensor) -> tuple[Tensor, Tensor]:
        """Value at the first pixel and change per pixel (S,) of what is linear on the screen, by its values (3 n,) at
        the corners from top to bottom."""
        count = at_corners.numel() // 3
        at_long = _between(at_corners, at_corners[2 * count :], self.t_long, self.triangle)
        at_short = _between(at_corners, at_corners[count:], self.t_short, self.half)
        slope = (at_short - at_long) / self.across
        return at_long + self.after * slope, slope

    def fragments(self, first_pixel: Tensor | int = 0) -> _Fragments:
        """The pixels of all spans; `first_pixel` (S,) is the flat id of their picture's first."""
        span = _repeated(self.length)
        before = torch.cumsum(self.length, 0, dtype=torch.int32) - self.length
        column = torch.arange(span.numel(), dtype=torch.int32, device=span.device) - _select(before, span)
        pixel = (column + _select(self.pixel + first_pixel, span)).long()
        return _Fragments(span, pixel, column.to(self.inverse_z.dtype))


@dataclass(frozen=True)
class _Fragments:
    """Pixels of spans, one after another."""

    span: Tensor
    """(F,) int32, ascending."""
    pixel: Tensor
    """(F,) int64 flat id."""
    column: Tensor
    """(F,) float: which of its span's pixels it is, from 0."""

    def linear(self, first: Tensor, slope: Tensor) -> Tensor:
        """(F,) of `_Spans.along`."""
        return _select(first, self.span) + self.column * _select(slope, self.span)

    def some(self, which: Tensor) -> _Fragments:
        """Those of ids `which`, ascending."""
        return _Fragments(_select(self.span, which), _select(self.pixel, which), _select(self.column, which))

    def nearness(self, spans: _Spans) -> Tensor:
        """(F,) 1/z, 1/m."""
        return self.linear(*spans.along(spans.inverse_z)).clamp_(min=_TINY)


def _cut_to_spans(corners: Tensor, x_of: Tensor, y_of: Tensor, inverse_z: Tensor, height: int, width: int) -> _Spans:
    """The spans of triangles `corners` (3, n), ids into the vertices' `x_of`, `y_of` and `inverse_z`."""
    assert height * width < 2**31, "ids of pixels are int32, for speed"
    count, device, dtype = corners.shape[1], corners.device, inverse_z.dtype
    corners = corners.reshape(-1)
    top, middle, bottom = torch.arange(3 * count, device=device).view(3, count)
    y0, y1, y2 = _select(y_of, corners).view(3, count)
    y0, y1, top, middle = _ascending(y0, y1, top, middle)
    y1, y2, middle, bottom = _ascending(y1, y2, middle, bottom)
    y0, y1, top, middle = _ascending(y0, y1, top, middle)
    order = torch.cat([top, middle, bottom])
    vertices = _select(corners, order)
    x, y = _select(x_of, vertices), torch.cat([y0, y1, y2])

    first = _first(y[: 2 * count]).clamp_(max=height)  # of the upper halves, then of the lower ones
    stop = torch.cat([first[count:], _last(y2, height) + 1])
    rows = (stop - first).clamp_(min=0).int()
    half = _repeated(rows)
    within = torch.arange(half.numel(), dtype=torch.int32, device=device)
    row = within + _select(first.int() - (torch.cumsum(rows, 0, dtype=torch.int32) - rows), half)
    triangle = _select(torch.arange(count, dtype=torch.int32, device=device).repeat(2), half)
    centre = row.to(dtype) + 0.5

    def cut(end: int, edge: Tensor) -> tuple[Tensor, Tensor]:
        """x, and the share of the way from the upper end, where `centre` cuts edges; the lower end's corners begin at
        `end`."""
        upper = _select(y, edge)
        # a horizontal edge ends a triangle below and is cut at its first end: 0 / tiny
        t = (centre - upper) / (_select(y[end:], edge) - upper).clamp_(min=_TINY)
        return _between(x, x[end:], t, edge), t

    x_long, t_long = cut(2 * count, triangle)
    x_short, t_short = cut(count, half)
    across = x_short - x_long
    begin = _first(torch.minimum(x_long, x_short)).clamp_(max=width)
    length = (_last(torch.maximum(x_long, x_short), width) - begin + 1).clamp_(min=0).int()
    return _Spans(
        triangle=triangle,
        half=half,
        pixel=row * width + begin.int(),
        length=length,
        t_long=t_long,
        t_short=t_short,
        after=begin + 0.5 - x_long,
        across=across + (across == 0),
        order=order,
        inverse_z=_select(inverse_z, vertices),
    )


def _repeated(count: Tensor) -> Tensor:
    """(n,) int32: each of the numbers from 0 on as often as `count` (N,) int32 says."""
    if count.device.type != "cpu":
        return torch.repeat_interleave(torch.arange(count.numel(), dtype=torch.int32, device=count.device), count)
    # twice as fast on the CPU: how many have ended up to each place
    ended = torch.zeros(int(count.sum()) + 1, dtype=torch.int32)
    ended.scatter_add_(0, torch.cumsum(count, 0), torch.ones_like(count))
    return torch.cumsum(ended[:-1], 0, dtype=torch.int32)


def _between(upper: Tensor, lower: Tensor, t: Tensor, edge: Tensor) -> Tensor:
    """Values (S,) on edges, a share `t` of the way down, by those at their ends."""
    return (1.0 - t) * _select(upper, edge) + t * _select(lower, edge)


def _select(values: Tensor, index: Tensor) -> Tensor:
    """values[index] of values (N,): several times faster on the CPU."""
    if index.ndim == 1:
        return values.index_select(0, index)
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
