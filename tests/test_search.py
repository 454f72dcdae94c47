"""The search for the nearest and furthest points of ragged sets: every path against whole numbers, ties included."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from fit3d.energy import search
from fit3d.energy.search import search_segments, search_tiled, search_torch

SEARCHES = [search_torch, search_tiled, search_segments]


def ragged(
    sizes: list[int], seed: int, kind: str = "pixels", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Points (N, 2) in sets of these sizes, and their offsets (S + 1,).

    'pixels' are pixel centres of a coarse raster, of which many are equally far from an anchor.
    """
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(sum(sizes), 2, generator=generator, dtype=dtype) * 40
    if kind == "pixels":
        points = points.floor() + 0.5
    elif kind == "line":
        points[:, 1] = 7.5
    elif kind == "one place":
        points[:] = 7.25
    elif kind == "afar":
        points += 1e4
    return points, torch.tensor([0, *sizes]).cumsum(0)


def grid(side: int, dtype: torch.dtype = torch.float32, spacing: float = 1.0) -> Tensor:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2).to(dtype) * spacing + 0.5


@pytest.mark.parametrize("find", SEARCHES)
def test_first_of_the_nearest_and_furthest(find: search.Search) -> None:
    sizes = [0, 1, 0, 90, 17, 0]
    points, offsets = ragged(sizes, 0)
    anchors = grid(25, spacing=2.0)
    nearest, furthest = find(points, offsets, anchors)
    assert nearest.dtype == furthest.dtype == torch.int64
    whole = (points * 2).long().tolist()
    ties = 0
    for row, (begin, size) in enumerate(zip(offsets.tolist(), sizes, strict=False)):
        for column, (x, y) in enumerate((anchors * 2).long().tolist()):
            squared = [(u - x) ** 2 + (v - y) ** 2 for u, v in whole[begin : begin + size]]
            expected = (begin + squared.index(min(squared)), begin + squared.index(max(squared))) if size else (-1, -1)
            assert (int(nearest[row, column]), int(furthest[row, column])) == expected
            ties += size > 0 and (squared.count(min(squared)) > 1 or squared.count(max(squared)) > 1)
    assert ties > 100


@pytest.mark.parametrize("kind", ["pixels", "anywhere", "line", "one place", "afar"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("anchors", ["grid", "anywhere", "line", "one place"])
def test_tiles_change_nothing(kind: str, dtype: torch.dtype, anchors: str) -> None:
    points, offsets = ragged([700, 3, 0, 65, 300], 1, kind, dtype)
    places = grid(40, dtype) if anchors == "grid" else ragged([1500], 2, anchors, dtype)[0]
    expected = search_torch(points, offsets, places)
    for found, one in zip(search_tiled(points, offsets, places), expected, strict=True):
        assert torch.equal(found, one)


def test_ties_at_the_very_bound_of_a_tile_are_kept() -> None:
    """The first point is as near (far) as the others from one anchor, but 2 r further from (closer to) the centre."""
    for radius in range(1, 20):
        anchors = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]) * radius
        for distance in range(2 * radius, 2 * radius + 20):
            near = torch.tensor([distance + 2.0 * radius, *[-float(distance)] * 70])[:, None].expand(-1, 2)
            far = torch.tensor([2.0 * radius - distance, *[float(distance)] * 70])[:, None].expand(-1, 2)
            offsets = torch.tensor([0, 71, 142])
            nearest, furthest = search_tiled(torch.cat([near, far]), offsets, anchors)
            assert int(nearest[0, 0]) == 0 and int(furthest[1, 0]) == 71


def test_tiles_leave_points_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above would compare the plain search with itself."""
    points, offsets = ragged([1000], 3, "anywhere")
    compared = 0

    def counted(anchors: Tensor, points: Tensor, squared=search._squared) -> Tensor:  # type: ignore[no-untyped-def]
        nonlocal compared
        compared += anchors.shape[0] * points.shape[0]
        return squared(anchors, points)

    monkeypatch.setattr(search, "_squared", counted)
    search_tiled(points, offsets, grid(100, spacing=0.4))
    assert 0 < compared < 0.5 * (2 * 1000 * 10000)


@pytest.mark.parametrize("find", SEARCHES)
def test_rows_at_a_time_change_nothing(find: search.Search, monkeypatch: pytest.MonkeyPatch) -> None:
    points, offsets = ragged([200, 5], 4)
    expected = find(points, offsets, grid(20))
    monkeypatch.setattr(search, "rows_at_once", lambda device, row_bytes: 7)
    for found, one in zip(find(points, offsets, grid(20)), expected, strict=True):
        assert torch.equal(found, one)


@pytest.mark.parametrize("find", SEARCHES)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_points_that_are_no_numbers_do_not_break_it(find: search.Search, wrong: float) -> None:
    points, offsets = ragged([200], 5)
    points[17, 0] = wrong
    for found, one in zip(find(points, offsets, grid(20)), search_torch(points, offsets, grid(20)), strict=True):
        assert torch.equal(found, one)


@pytest.mark.parametrize("find", SEARCHES)
@pytest.mark.parametrize(("sizes", "anchors"), [([], 3), ([4], 0), ([], 0), ([0, 0], 3)])
def test_nothing_to_search(find: search.Search, sizes: list[int], anchors: int) -> None:
    points, offsets = ragged(sizes, 6)
    for found in find(points, offsets, grid(2)[:anchors]):
        assert found.shape == (len(sizes), anchors) and bool((found == -1).all() if not sum(sizes) else True)


@pytest.mark.parametrize(
    ("error", "warned"), [(RuntimeError("no C compiler"), True), (ModuleNotFoundError("triton"), False)]
)
def test_a_kernel_that_cannot_run_is_done_without(
    error: Exception, warned: bool, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def fail(*arguments: Tensor) -> None:
        raise error

    module = ModuleType("triton_search")
    module.search_triton = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fit3d.energy.triton_search", module)
    assert search._fused_search.__wrapped__(torch.device("cpu")) is None
    assert ["no C compiler" in str(warning.message) for warning in recwarn] == [True] * warned
