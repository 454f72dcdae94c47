"""Sets of raster pixels: what anchors select of them, and how they are cleaned and thinned, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial import ConvexHull
from torch import Tensor

from fit3d.energy import pixels
from fit3d.energy.pixels import (
    anchor_grid,
    border_of,
    furthest_pixels,
    hull_corners,
    lattice_thinning,
    nearest_pixels,
    pixel_centres,
    row_ends_of,
    spread_pixels,
    without_specks,
    without_specks_by_labels,
)

RESOLUTION = 24


def random_mask(seed: int, share: float, resolution: int = RESOLUTION) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(resolution, resolution, generator=generator) < share


def drawn(*rows: str) -> Tensor:
    """A mask drawn with '#'."""
    return torch.tensor([[character == "#" for character in row] for row in rows])


def square(top: int, left: int, height: int, width: int, resolution: int = RESOLUTION) -> Tensor:
    mask = torch.zeros(resolution, resolution, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def spiral(resolution: int) -> Tensor:
    """One piece, a path of width 1 that winds inwards with gaps of width 1: the longest way there is for a name."""
    mask = np.zeros((resolution, resolution), dtype=bool)
    row, column = 0, 0
    mask[0, 0] = True
    lengths = (resolution - 1, *(n for n in range(resolution - 1, 0, -2) for _ in "ab"))
    for turn, length in enumerate(lengths):
        down, right = ((0, 1), (1, 0), (0, -1), (-1, 0))[turn % 4]
        for _ in range(length):
            row, column = row + down, column + right
            mask[row, column] = True
    return torch.from_numpy(mask)


def comb(resolution: int) -> Tensor:
    """Teeth joined at the bottom only: their names meet late."""
    mask = torch.zeros(resolution, resolution, dtype=torch.bool)
    mask[:, ::2] = True
    mask[-1] = True
    return mask


SETS = {
    "few": random_mask(0, 0.02),
    "some": random_mask(1, 0.3),
    "most": random_mask(2, 0.9),
    "one pixel": square(17, 5, 1, 1),
    "corner": square(0, 0, 1, 1),
    "row": square(9, 2, 1, 20),
    "column": square(2, 9, 20, 1),
    "diagonal": torch.eye(RESOLUTION, dtype=torch.bool),
    "square": square(6, 9, 7, 5),
    "two": square(1, 1, 3, 3) | square(18, 20, 4, 2),
    "ring": square(3, 3, 15, 15) & ~square(6, 6, 9, 9),
    "full": torch.ones(RESOLUTION, RESOLUTION, dtype=torch.bool),
    "empty": torch.zeros(RESOLUTION, RESOLUTION, dtype=torch.bool),
}
ALL = torch.stack(list(SETS.values()))
EVERY_PIXEL = anchor_grid(RESOLUTION, RESOLUTION)


def squared_distances(selected: Tensor, anchors: Tensor, resolution: int) -> Tensor:
    """int64, px^2, from anchors (A,) to the pixels (..., A) that they selected."""
    u, v = selected % resolution - anchors % resolution, selected // resolution - anchors // resolution
    return u * u + v * v


def check_selection(nearest: Tensor, furthest: Tensor, masks: Tensor, anchors: Tensor) -> None:
    """Pixels of the set, at the very distances that comparing all pixels gives; which of equals is free."""
    resolution = masks.shape[-1]
    assert nearest.shape == furthest.shape == (*masks.shape[:-2], len(anchors))
    assert nearest.dtype == furthest.dtype == torch.int64
    rows = zip(*(each.reshape(-1, each.shape[-1]) for each in (nearest, furthest)), strict=True)
    for mask, (near, far) in zip(masks.reshape(-1, resolution, resolution), rows, strict=True):
        own = torch.nonzero(mask.view(-1)).squeeze(1)
        if len(own) == 0:
            assert bool((near == -1).all()) and bool((far == -1).all())
            continue
        assert bool(mask.view(-1)[near].all()) and bool(mask.view(-1)[far].all())
        everything = squared_distances(own[:, None].expand(-1, len(anchors)), anchors, resolution)
        assert torch.equal(squared_distances(near, anchors, resolution), everything.amin(0))
        assert torch.equal(squared_distances(far, anchors, resolution), everything.amax(0))


@pytest.mark.parametrize("name", SETS)
def test_nearest_and_furthest_pixel(name: str) -> None:
    mask = SETS[name]
    check_selection(nearest_pixels(mask, EVERY_PIXEL), furthest_pixels(mask, EVERY_PIXEL), mask, EVERY_PIXEL)


def test_many_sets_at_once_are_each_as_alone() -> None:
    masks, anchors = ALL[:12].view(3, 4, RESOLUTION, RESOLUTION), anchor_grid(7, RESOLUTION)
    for find in (nearest_pixels, furthest_pixels):
        found = find(masks, anchors)
        assert found.shape == (3, 4, 49)
        for mask, one in zip(masks.flatten(0, 1), found.flatten(0, 1), strict=True):
            assert torch.equal(find(mask, anchors), one)


def test_selection_on_a_raster_of_the_real_size() -> None:
    """Squared distances up to 10^5, of which single precision must not confuse any two."""
    masks = torch.stack([random_mask(seed, 0.003, 224) for seed in range(3)])
    anchors = anchor_grid(19, 224)
    check_selection(nearest_pixels(masks, anchors), furthest_pixels(masks, anchors), masks, anchors)


def search_as_on_a_device(masks: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest and furthest as they are found where there is no scipy."""
    return (
        pixels._search(border_of(masks), anchors, masks)[0],
        pixels._search(row_ends_of(masks), anchors, masks)[1],
    )


@pytest.mark.parametrize("name", SETS)
def test_search_of_devices_selects_at_the_same_distances(name: str) -> None:
    check_selection(*search_as_on_a_device(SETS[name], EVERY_PIXEL), SETS[name], EVERY_PIXEL)


def test_search_of_devices_takes_many_sets() -> None:
    masks, anchors = ALL[-12:].view(2, 6, RESOLUTION, RESOLUTION), anchor_grid(9, RESOLUTION)
    check_selection(*search_as_on_a_device(masks, anchors), masks, anchors)
    large = torch.stack([random_mask(seed, 0.003, 224) for seed in range(3)])
    check_selection(*search_as_on_a_device(large, anchor_grid(19, 224)), large, anchor_grid(19, 224))


@pytest.mark.parametrize("name", SETS)
def test_border_and_row_ends(name: str) -> None:
    mask = SETS[name]
    inside = torch.from_numpy(ndimage.binary_erosion(mask.numpy()))
    assert torch.equal(border_of(mask), mask & ~inside)
    expected = torch.zeros_like(mask)
    for row, line in zip(expected, mask, strict=True):
        columns = torch.nonzero(line).squeeze(1)
        if len(columns):
            row[columns[0]] = row[columns[-1]] = True
    assert torch.equal(row_ends_of(mask), expected)


@pytest.mark.parametrize(
    ("count", "resolution", "line"),
    [
        (2, 224, [56, 168]),
        (4, 8, [1, 3, 5, 7]),
        (8, 8, list(range(8))),
        (3, 8, [1, 4, 6]),
        (32, 224, [3 + 7 * k for k in range(32)]),
    ],
)
def test_anchors_are_an_even_grid_of_pixels(count: int, resolution: int, line: list[int]) -> None:
    grid = anchor_grid(count, resolution)
    assert grid.tolist() == [row * resolution + column for row in line for column in line]
    centres = pixel_centres(grid, resolution, torch.float64)
    assert centres.tolist() == [[column + 0.5, row + 0.5] for row in line for column in line]
    # each within half a pixel of the middle of its cell
    middle = (torch.arange(count) + 0.5) * resolution / count
    assert float((centres[:count, 0] - middle).abs().max()) <= 0.5


@pytest.mark.parametrize("resolution", [8, 25, 224])
def test_anchors_lie_under_the_middle_of_their_cells(resolution: int) -> None:
    """For every count: also where a middle falls on the edge of two pixels, and rounding could take either."""
    for count in range(2, resolution + 1):
        line = [(2 * k + 1) * resolution // (2 * count) for k in range(count)]
        assert (anchor_grid(count, resolution)[:count] % resolution).tolist() == line, count


def test_anchors_of_a_smaller_square_lie_around_the_middle() -> None:
    line = [40, 56, 72, 88, 104, 119, 135, 151, 167, 183]
    grid = anchor_grid(10, 224, extent=159 / 224)
    assert grid.tolist() == [row * 224 + column for row in line for column in line]
    assert line == [223 - column for column in reversed(line)]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("thinning", [1, 2, 7, 64])
def test_spread_takes_one_pixel_in_so_many(name: str, thinning: int) -> None:
    """Each once, all of the set, all of it at 1, and of no place of the raster more than its share."""
    own = torch.nonzero(SETS[name].view(-1)).squeeze(1)
    spread = spread_pixels(SETS[name], torch.tensor(thinning), RESOLUTION**2)
    taken = spread[spread >= 0]
    assert spread.shape == (RESOLUTION**2,) and bool((spread[len(taken) :] == -1).all())
    assert len(taken.unique()) == len(taken) and bool(torch.isin(taken, own).all())
    if thinning == 1:
        assert torch.equal(taken, own)
    if name == "full":
        rows = torch.bincount(torch.div(taken, RESOLUTION, rounding_mode="floor"), minlength=RESOLUTION)
        assert bool(((rows >= RESOLUTION // thinning) & (rows <= -(-RESOLUTION // thinning))).all())


@pytest.mark.parametrize("thinning", [3, 20, 150])
def test_a_spread_changes_only_where_the_set_does(thinning: int) -> None:
    """Pixels that a border uncovers do not move those that were taken elsewhere."""
    whole = torch.ones(60, 60, dtype=torch.bool)
    part = whole.clone()
    part[:7], part[:, 50:] = False, False
    thin = torch.tensor(thinning)
    before, after = spread_pixels(whole, thin, 3600), spread_pixels(part, thin, 3600)
    kept = before[(before >= 0) & part.view(-1)[before]]
    assert len(kept) and torch.equal(kept, after[after >= 0])


@pytest.mark.parametrize("count", [32, 128])
def test_a_spread_has_the_mean_of_its_set(count: int) -> None:
    """As regions grow pixel by pixel, their spread's centre stays with theirs: no row or column of it is left out."""
    y, x = torch.meshgrid(torch.arange(120), torch.arange(120), indexing="ij")
    off = []
    for radius in torch.linspace(18.0, 48.0, 31).tolist():
        mask = ((x - 60.2) / 1.3) ** 2 + (y - 55.7) ** 2 < radius**2
        pixels = spread_pixels(mask, lattice_thinning(mask, count), 2 * count)
        pixels = pixels[pixels >= 0]
        assert 0.7 * count < len(pixels) < 1.2 * count
        centre = torch.stack([pixels % 120, pixels // 120]).double().mean(1)
        off.append((centre - torch.stack([x[mask], y[mask]]).double().mean(1)) / radius)
    assert float(torch.stack(off).square().mean().sqrt()) < 2.0 / count  # in reading order: 3 to 4


def test_too_large_a_spread_keeps_an_even_share() -> None:
    mask = torch.ones(1, 2, 20, 20, dtype=torch.bool)
    mask[0, 1, 10:] = False
    spread = spread_pixels(mask, torch.ones(1, 2, dtype=torch.int64), 100)
    for found, size in zip(spread[0], (400, 200), strict=True):
        assert torch.equal(found, torch.arange(0, size, size // 100))


def test_spread_of_many_sets_is_each_as_alone() -> None:
    masks = ALL[:12].view(2, 6, RESOLUTION, RESOLUTION)
    thinning = lattice_thinning(masks, 20)
    found = spread_pixels(masks, thinning, 40)
    assert found.shape == (2, 6, 40)
    for mask, thin, one in zip(masks.flatten(0, 1), thinning.flatten(), found.flatten(0, 1), strict=True):
        assert torch.equal(spread_pixels(mask, thin, 40), one)


@pytest.mark.parametrize("seed", range(8))
def test_hull_corners_hold_the_convex_hull(seed: int) -> None:
    """All corners that scipy finds of all pixels are among them, they are pixels of the set, and few."""
    mask = random_mask(seed, (0.01, 0.1, 0.5, 0.95)[seed % 4], 40).numpy()
    corners = hull_corners(mask)
    everything = np.flatnonzero(mask)
    expected = everything[ConvexHull(np.stack(np.divmod(everything, 40), 1).astype(float)).vertices]
    assert np.array_equal(corners, np.unique(corners))
    assert np.isin(corners, everything).all()
    assert np.isin(expected, corners).all()
    assert len(corners) <= max(7, len(expected))


@pytest.mark.parametrize(
    ("name", "corners"),
    [
        ("empty", []),
        ("one pixel", [(17, 5)]),
        ("row", [(9, 2), (9, 21)]),
        ("column", [(2, 9), (21, 9)]),
        ("diagonal", [(0, 0), (23, 23)]),
        ("square", [(6, 9), (6, 13), (12, 9), (12, 13)]),
        ("ring", [(3, 3), (3, 17), (17, 3), (17, 17)]),
        ("full", [(0, 0), (0, 23), (23, 0), (23, 23)]),
    ],
)
def test_hull_corners_of_plain_sets(name: str, corners: list[tuple[int, int]]) -> None:
    """Also where there is no hull: nothing, a point, a line."""
    found = hull_corners(SETS[name].numpy())
    assert {row * RESOLUTION + column for row, column in corners} <= set(found.tolist())
    assert SETS[name].numpy().ravel()[found].all()


PIECES = {
    **SETS,
    "spiral": spiral(33),
    "comb": comb(32),
    "serpentine": comb(32) | comb(32).flip(0),
    "chessboard": (torch.arange(20)[:, None] + torch.arange(20)) % 2 == 0,
    "wide": random_mask(5, 0.6)[:9],
    "tall": random_mask(6, 0.6)[:, :7],
    "joined by a corner": drawn("##...", "##...", "..###", "..###", "....."),
}


@pytest.mark.parametrize("name", PIECES)
@pytest.mark.parametrize(("share", "smallest"), [(0.1, 6), (0.5, 1), (1.0, 1), (0.0, 3), (0.0, 0)])
def test_specks_are_left_out(name: str, share: float, smallest: int) -> None:
    """By both ways, as a flood over the pixels says."""
    mask = PIECES[name]
    pieces, count = ndimage.label(mask.numpy(), structure=[[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    sizes = [int((pieces == number + 1).sum()) for number in range(count)]
    expected = torch.zeros_like(mask)
    for number, size in enumerate(sizes):
        if size >= smallest and size >= share * max(sizes):
            expected |= torch.from_numpy(pieces == number + 1)
    assert torch.equal(without_specks(mask, share, smallest), expected)
    assert torch.equal(without_specks_by_labels(mask, share, smallest), expected)


def test_a_long_path_is_one_piece() -> None:
    """Broken in the middle it is two, of which the shorter goes."""
    path = spiral(41)
    assert ndimage.label(path.numpy())[1] == 1 and int(path.sum()) > 800
    broken = path.clone()
    broken[0, 20] = False
    for clean in (without_specks, without_specks_by_labels):
        assert torch.equal(clean(path, 1.0, 1), path)
        kept = clean(broken, 1.0, 1)
        assert int(kept.sum()) == int(path.sum()) - 21 and not bool(kept[0, :21].any())


@pytest.mark.parametrize("share", [0.05, 0.3, 0.41, 0.5, 0.59, 0.7])
def test_specks_by_labels_equal_the_librarys(share: float) -> None:
    """Near 59 % of the pixels, where pieces have the most tangled shapes; many masks at once do not mix."""
    masks = torch.stack([random_mask(seed, share, 40) for seed in range(12)]).view(3, 4, 40, 40)
    masks[1, 2] = False
    expected = without_specks(masks, 0.1, 6)
    assert torch.equal(without_specks_by_labels(masks, 0.1, 6), expected)
    for mask, one in zip(masks.flatten(0, 1), expected.flatten(0, 1), strict=True):
        assert torch.equal(without_specks(mask, 0.1, 6), one)
        assert torch.equal(without_specks_by_labels(mask, 0.1, 6), one)
    assert share > 0.6 or not torch.equal(expected, masks)
