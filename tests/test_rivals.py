"""The rivals of PRDL: energies against loops, forces against autograd, and that they lead to the truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fit3d.config import CombinedConfig, FitConfig, PrdlConfig
from fit3d.energy.chamfer import ChamferRaster, DensityAwareChamferRaster
from fit3d.energy.combined import CombinedRaster
from fit3d.energy.icp import IcpRaster
from fit3d.energy.losses import part_loss
from fit3d.energy.part_loss import PartLoss, PointForces
from fit3d.energy.pixels import (
    anchor_grid,
    border_of,
    furthest_pixels,
    nearest_pixels,
    nearest_to_each,
    pixel_centres,
)
from fit3d.energy.prdl import EPSILON
from fit3d.energy.prdl_raster import PrdlRaster
from fit3d.energy.pulls import normals_at
from fit3d.energy.silhouette import SilhouetteRaster
from fit3d.targets import rows_of

DOUBLE = torch.float64
LOSSES: dict[str, Any] = {
    "chamfer": ChamferRaster(DOUBLE),
    "density-chamfer": DensityAwareChamferRaster(3.0, DOUBLE),
    "icp": IcpRaster(DOUBLE),
    "silhouette": SilhouetteRaster(1.5, 5.0, DOUBLE),
    # the mean of PRDL, whose rows touch all points of a part, stands apart: `test_combined_forces_are_the_sum_by_pixel`
    "prdl+icp": CombinedRaster(
        PrdlRaster(5, PrdlConfig(statistics=("min", "max")), DOUBLE), IcpRaster(DOUBLE), 0.7, 4.0
    ),
}
by_loss = pytest.mark.parametrize("name", LOSSES)


def single(name: str) -> Any:
    """The loss in single precision, as the solver takes it."""
    loss, dtype = LOSSES[name], torch.float32
    if isinstance(loss, CombinedRaster):
        return replace(loss, first=replace(loss.first, dtype=dtype), second=replace(loss.second, dtype=dtype))
    return replace(loss, dtype=dtype)


def region(seed: int, resolution: int = 13) -> Tensor:
    """(R, R) bool: an uneven region, with a hole or in pieces as it may be."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(resolution), torch.arange(resolution), indexing="ij")
    centre = 3.0 + (resolution - 6.0) * torch.rand(2, generator=generator)
    inside = ((x - centre[0]) / 4.0) ** 2 + ((y - centre[1]) / 2.5) ** 2 <= 1.0
    return inside & (torch.rand(resolution, resolution, generator=generator) > 0.1)


def ellipse(centre: Tensor, semi_axes: tuple[float, float], resolution: int) -> Tensor:
    """(1, 1, R, R) bool."""
    y, x = torch.meshgrid(torch.arange(resolution) + 0.5, torch.arange(resolution) + 0.5, indexing="ij")
    return (((x - centre[0]) / semi_axes[0]) ** 2 + ((y - centre[1]) / semi_axes[1]) ** 2 <= 1.0)[None, None]


def every(photos: int) -> Tensor:
    return torch.arange(photos)


def flat_pixels(mask: Tensor) -> list[int]:
    return [int(pixel) for pixel in torch.nonzero(mask.reshape(-1)).squeeze(1)]


# Each naive loss takes the model's region and the photo's (R, R), and where the model's pixels are now (R * R, 2). It
# returns the energy, and the rows whose J^T J the stiffness is, both with matches held as they are on the raster.
Naive = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, list[Tensor]]]


def closest(pixel: int, others: list[int], mask: Tensor, by_tree: bool = False) -> int:
    """The match that the loss takes among equally near ones, which no other pixel may beat.

    `by_tree`: the loss looks it up in a tree of points, not in a map of the whole raster.
    """
    resolution = mask.shape[0]
    query = torch.zeros_like(mask)
    query.view(-1)[pixel] = True
    tie = int(nearest_to_each(mask[None], query[None])[2][0]) if by_tree else None
    chosen = int(nearest_pixels(mask, torch.tensor([pixel]))[0]) if tie is None else tie

    def squared(other: int) -> int:
        return (pixel % resolution - other % resolution) ** 2 + (pixel // resolution - other // resolution) ** 2

    assert chosen in others and squared(chosen) == min(squared(other) for other in others)
    return chosen


def directed(mask: Tensor, goal: Tensor, by_tree: bool = False) -> list[tuple[list[tuple[int, int, int]], int]]:
    """Matches of both directions as (model's pixel, photo's pixel, the one that was chosen), and how many there are."""
    model, photo = flat_pixels(mask), flat_pixels(goal)
    forth = [(p, t, t) for p in model for t in [closest(p, photo, goal)]]
    back = [(p, t, p) for t in photo for p in [closest(t, model, mask, by_tree)]]
    return [(forth, len(model)), (back, len(photo))]


def at_rest(mask: Tensor) -> Tensor:
    return pixel_centres(torch.arange(mask.numel()), mask.shape[0], DOUBLE)


def held(mask: Tensor, goal: Tensor, points: Tensor) -> list[Tensor]:
    """Shared pixels of both outlines resist moving across them."""
    weight = (1.0 / mask.sum() + 1.0 / goal.sum()) / 2.0
    rows = []
    for pixel in flat_pixels(border_of(mask) & border_of(goal)):
        normal = normals_at(goal[None], torch.tensor([0]), torch.tensor([pixel]), DOUBLE)[0]
        rows.append(weight.sqrt() * ((points[pixel] - at_rest(mask)[pixel]) @ normal))
    return rows


def chamfer_naive(mask: Tensor, goal: Tensor, points: Tensor) -> tuple[Tensor, list[Tensor]]:
    energy, rows = points.new_zeros(()), held(mask, goal, points)
    for matches, size in directed(mask, goal):
        for p, t, _ in matches:
            if p != t:
                distance = (points[p] - at_rest(goal)[t]).norm()
                energy = energy + distance**2 / size
                rows.append(distance / math.sqrt(size))
    return energy, rows


def density_chamfer_naive(mask: Tensor, goal: Tensor, points: Tensor) -> tuple[Tensor, list[Tensor]]:
    reach = LOSSES["density-chamfer"].reach_px
    energy, rows = points.new_zeros(()), held(mask, goal, points)
    for matches, size in directed(mask, goal):
        for p, t, chosen in matches:
            count = sum(chosen == other for _, _, other in matches)
            if p == t:
                energy = energy + reach**2 * (1.0 - 1.0 / count) / size
                continue
            distance = (points[p] - at_rest(goal)[t]).norm()
            kept = torch.exp(-(distance**2) / reach**2) / count
            energy = energy + reach**2 * (1.0 - kept) / size
            rows.append(distance * (kept.detach() / size).sqrt())
    return energy, rows


def icp_naive(mask: Tensor, goal: Tensor, points: Tensor) -> tuple[Tensor, list[Tensor]]:
    energy, rows = points.new_zeros(()), []
    for matches, size in directed(border_of(mask), border_of(goal), by_tree=True):
        for p, t, _ in matches:
            offset = points[p] - at_rest(goal)[t]
            if p == t:
                normal = normals_at(goal[None], torch.tensor([0]), torch.tensor([t]), DOUBLE)[0]
                rows.append((offset @ normal) / math.sqrt(size))
            else:
                energy = energy + offset.norm() ** 2 / size
                rows.append(offset.norm() / math.sqrt(size))
    return energy, rows


def soft_naive(mask: Tensor, points: Tensor, sigma: float) -> list[Tensor]:
    border, coverage = flat_pixels(border_of(mask)), []
    for pixel in range(mask.numel()):
        nearest = closest(pixel, border, border_of(mask))
        offset = points[nearest] - at_rest(mask)[pixel]
        if pixel == nearest:
            signed = 0.5 + offset @ normals_at(mask[None], torch.tensor([0]), torch.tensor([pixel]), DOUBLE)[0]
        else:
            signed = 0.5 + (offset.norm() if mask.reshape(-1)[pixel] else -offset.norm())
        coverage.append(torch.sigmoid(signed / sigma))
    return coverage


def silhouette_naive(mask: Tensor, goal: Tensor, points: Tensor) -> tuple[Tensor, list[Tensor]]:
    loss = LOSSES["silhouette"]
    soft, wanted = soft_naive(mask, points, loss.sigma_px), soft_naive(goal, at_rest(goal), loss.sigma_px)
    common, union = points.new_zeros(()), points.new_zeros(())
    for s, m in zip(soft, wanted, strict=True):
        common = common + s * m
        union = union + s * s + m * m - s * m
    rows = [loss.scale_px / union.detach().sqrt() * s for s in soft]
    return loss.scale_px**2 * (1.0 - common / union), rows


def distances_naive(mask: Tensor, points: Tensor, anchors: list[int]) -> list[Tensor]:
    """From each anchor to the nearest and to the furthest of the mask's points, by their places in the raster."""
    found = []
    for anchor in anchors:
        furthest = int(furthest_pixels(mask, torch.tensor([anchor]))[0])
        away = (at_rest(mask)[flat_pixels(mask)] - at_rest(mask)[anchor]).norm(dim=1)
        assert float((at_rest(mask)[furthest] - at_rest(mask)[anchor]).norm()) == float(away.max())
        for pixel in (closest(anchor, flat_pixels(mask), mask), furthest):
            found.append(((points[pixel] - at_rest(mask)[anchor]).square().sum() + EPSILON).sqrt())
    return found


def prdl_icp_naive(mask: Tensor, goal: Tensor, points: Tensor) -> tuple[Tensor, list[Tensor]]:
    loss = LOSSES["prdl+icp"]
    anchors = anchor_grid(loss.first.anchors, mask.shape[0]).tolist()
    seen, wanted = distances_naive(mask, points, anchors), distances_naive(goal, at_rest(goal), anchors)
    rows = [math.sqrt(0.7 / len(anchors)) * (one - other) for one, other in zip(seen, wanted, strict=True)]
    energy, outlines = icp_naive(mask, goal, points)
    both = torch.stack(rows).square().sum() + 4.0 * energy
    return both, [*rows, *(math.sqrt(4.0) * row for row in outlines)]


NAIVE: dict[str, Naive] = {
    "chamfer": chamfer_naive,
    "density-chamfer": density_chamfer_naive,
    "icp": icp_naive,
    "silhouette": silhouette_naive,
    "prdl+icp": prdl_icp_naive,
}


@by_loss
@pytest.mark.parametrize("seed", range(4))
def test_energy_and_forces_equal_loops_and_autograd(name: str, seed: int) -> None:
    """Half gradient and Gauss-Newton matrix of all points' motion by five parameters."""
    mask, goal = region(2 * seed), region(2 * seed + 1)
    generator = torch.Generator().manual_seed(seed)
    motion = torch.randn(mask.numel(), 2, 5, generator=generator, dtype=DOUBLE)
    weight = 1.7

    def naive(step: Tensor) -> Tensor:
        energy, rows = NAIVE[name](mask, goal, at_rest(mask) + motion @ step)
        return torch.stack([energy, *rows])

    start = torch.zeros(5, dtype=DOUBLE)
    energy = naive(start)[0]
    derivative = torch.autograd.functional.jacobian(naive, start, vectorize=True)
    gradient, rows = derivative[0], derivative[1:]

    loss = LOSSES[name]
    seen = loss.see(mask[None, None], loss.describe(goal[None, None]), torch.full((1, 1), weight, dtype=DOUBLE))
    points = seen.forces(every(1)).points
    moved = motion[points.pixel]
    xx, xy, yy = points.stiffness.unbind(1)
    stiffness = torch.stack([torch.stack([xx, xy], 1), torch.stack([xy, yy], 1)], 1)
    assert float(energy) > 0.5
    torch.testing.assert_close(seen.energy, weight * energy.view(1, 1))
    torch.testing.assert_close(
        torch.einsum("nip,ni->p", moved, points.pull), weight * gradient / 2.0, rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        torch.einsum("nip,nij,njq->pq", moved, stiffness, moved), weight * rows.mT @ rows, rtol=1e-5, atol=1e-5
    )


@by_loss
def test_truth_has_no_energy_and_no_pull(name: str) -> None:
    loss = single(name)
    masks = torch.stack([region(seed) for seed in range(6)]).view(2, 3, 13, 13)
    seen = loss.see(masks, loss.describe(masks), torch.ones(2, 3, dtype=DOUBLE))
    points = seen.forces(every(2)).points
    assert points.pixel.numel() > 0, "outlines resist moving"
    assert not bool(seen.energy.any()) and not bool(points.pull.any())


@by_loss
def test_nothing_is_as_good_as_the_truth(name: str) -> None:
    """Not a region grown or shrunk by a pixel either, to which soft overlaps are drawn."""
    middle = torch.tensor([20.0, 20.0])
    loss, truth = LOSSES[name], ellipse(middle, (9.0, 5.0), 40)
    target = loss.describe(truth)
    others = [((9.0, 5.0), (1.0, 0.0)), ((10.0, 6.0), (0.0, 0.0)), ((8.0, 4.0), (0.0, 0.0)), ((9.4, 5.4), (0.0, 0.0))]
    for semi_axes, shift in others:
        other = ellipse(middle + torch.tensor(shift), semi_axes, 40)
        assert not torch.equal(other, truth)
        assert float(loss.see(other, target, torch.ones(1, 1, dtype=DOUBLE)).energy) > 0.01


@by_loss
def test_empty_sides_say_nothing(name: str) -> None:
    loss, nothing, something = LOSSES[name], torch.zeros(13, 13, dtype=torch.bool), region(0)
    masks = torch.stack([nothing, something, nothing, something])[None]
    goals = torch.stack([something, nothing, nothing, region(1)])[None]
    weights = torch.ones(1, 4, dtype=DOUBLE)
    if name == "prdl+icp":  # PRDL leaves it to the weights what the photo does not show
        weights[0, 1:3] = 0.0
    seen = loss.see(masks, loss.describe(goals), weights)
    alone = loss.see(masks[:, 3:], loss.describe(goals[:, 3:]), weights[:, 3:])
    assert seen.energy[0, :3].tolist() == [0.0, 0.0, 0.0]
    assert float(seen.energy[0, 3]) == float(alone.energy) > 0.0
    assert_same(seen.forces(every(1)).points, alone.forces(every(1)).points)
    silent = loss.see(masks, loss.describe(goals), torch.zeros(1, 4, dtype=DOUBLE))
    assert not bool(silent.energy.any()) and silent.forces(every(1)).points.pixel.numel() == 0


def assert_same(one: Any, other: Any) -> None:
    """Every bit of two nested dataclasses of finite tensors."""
    assert type(one) is type(other)
    for field in fields(one):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if isinstance(first, Tensor):
            assert torch.equal(first, second) and bool(torch.isfinite(first.double()).all()), field.name
        else:
            assert_same(first, second)


@by_loss
def test_photos_do_not_depend_on_their_batch(name: str) -> None:
    """Bit by bit, and whichever photos of the batch are asked for, in whichever order."""
    loss = single(name)
    masks = torch.stack([region(seed, 40) for seed in range(10)]).view(5, 2, 40, 40)
    goals = torch.stack([region(seed, 40) for seed in range(10, 20)]).view(5, 2, 40, 40)
    goals[2, 0] = False
    weights = torch.rand(5, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    target = loss.describe(goals)
    together = loss.see(masks, target, weights)
    asked = torch.tensor([3, 0, 2])
    forces = together.forces(asked).points
    for number, photo in enumerate(asked.tolist()):
        row = slice(photo, photo + 1)
        own = rows_of(target, torch.tensor([photo]))
        assert_same(own, loss.describe(goals[row]))
        alone = loss.see(masks[row], own, weights[row])
        assert torch.equal(alone.energy, together.energy[row])
        mine = torch.div(forces.pixel, 1600, rounding_mode="floor") == number
        assert_same(
            PointForces(forces.pixel[mine] - number * 1600, forces.pull[mine], forces.stiffness[mine]),
            alone.forces(every(1)).points,
        )


@by_loss
@pytest.mark.parametrize("shift", [(1.2, 0.7), (-6.0, 2.0), (0.0, 11.0)])
def test_steps_lead_to_the_truth(name: str, shift: tuple[float, float]) -> None:
    """A region moved by Gauss-Newton steps, with the raster and the matches renewed at each."""
    loss: PartLoss = {
        "density-chamfer": DensityAwareChamferRaster(),
        "silhouette": SilhouetteRaster(),
    }.get(name, LOSSES[name])
    middle = torch.tensor([50.0, 50.0])
    target = loss.describe(ellipse(middle, (16.0, 9.0), 100))
    centre, errors = middle + torch.tensor(shift), []
    for _ in range(14):
        seen = loss.see(ellipse(centre, (16.0, 9.0), 100), target, torch.ones(1, 1, dtype=DOUBLE))
        points = seen.forces(every(1)).points
        xx, xy, yy = points.stiffness.double().sum(0)
        matrix = torch.stack([torch.stack([xx, xy]), torch.stack([xy, yy])])
        errors.append(float((centre - middle).norm()))
        centre = centre - torch.linalg.solve(matrix, points.pull.double().sum(0)).float()
    assert errors[1] < 0.9 * errors[0] and errors[-1] < 0.2, errors


def test_combined_forces_are_the_sum_by_pixel() -> None:
    """Of the default loss, mean statistic included: each loss alone, times its share, added up at every pixel."""
    config = FitConfig(anchors=5, combined=CombinedConfig(prdl=0.7, icp=4.0))
    loss = part_loss(config, DOUBLE)
    assert isinstance(loss, CombinedRaster)
    masks = torch.stack([region(seed) for seed in range(6)]).view(2, 3, 13, 13)
    goals = torch.stack([region(seed) for seed in range(6, 12)]).view(2, 3, 13, 13)
    weights = torch.rand(2, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) + 0.5
    seen = loss.see(masks, loss.describe(goals), weights)
    alone = [
        (share, each.see(masks, each.describe(goals), weights))
        for share, each in (
            (0.7, PrdlRaster(5, config.prdl, DOUBLE)),
            (4.0, IcpRaster(DOUBLE)),
        )
    ]
    torch.testing.assert_close(seen.energy, sum(share * each.energy for share, each in alone))
    for photos in (every(2), torch.tensor([1])):
        found, size = seen.forces(photos), len(photos) * 13 * 13
        expected, total = torch.zeros(2, size, 5, dtype=DOUBLE)
        for share, each in alone:
            add_up(each.forces(photos).points, share, expected)
        add_up(found.points, 1.0, total)
        torch.testing.assert_close(total, expected)
        assert bool((found.points.pixel.diff() >= 0).all())
        share, prdl = alone[0]
        dense, own = found.dense, prdl.forces(photos).dense
        assert dense is not None and own is not None and float(own.residual.abs().max()) > 0.1
        for name in ("pixel", "direction", "residual"):
            assert torch.equal(getattr(dense, name), getattr(own, name))
        torch.testing.assert_close(dense.weight, share * own.weight)


def add_up(points: PointForces, share: float, total: Tensor) -> None:
    """Forces by pixel (M, 5): pull and stiffness."""
    for pixel, pull, stiffness in zip(points.pixel.tolist(), points.pull, points.stiffness, strict=True):
        total[pixel] += share * torch.cat([pull, stiffness])


def pair(apart: int) -> tuple[Tensor, Tensor]:
    """One pixel each, on a row."""
    masks = torch.zeros(2, 1, 1, 60, 60, dtype=torch.bool)
    masks[0, 0, 0, 30, 5 + apart] = masks[1, 0, 0, 30, 5] = True
    return masks[0], masks[1]


def test_density_aware_chamfer_is_bounded_by_its_quadratic_model() -> None:
    """The re-weighted least squares touch the energy and lie above it; far errors cost the bound and pull no more."""
    loss, weights = DensityAwareChamferRaster(8.0, DOUBLE), torch.ones(1, 1, dtype=DOUBLE)

    def look(apart: int) -> tuple[float, float, float]:
        mask, goal = pair(apart)
        seen = loss.see(mask, loss.describe(goal), weights)
        points = seen.forces(every(1)).points
        return float(seen.energy), float(points.pull[0, 0]), float(points.stiffness[0, 0])

    for apart, other in itertools.product((2, 8, 20), (1, 2, 5, 8, 12, 20, 40)):
        energy, pull, stiffness = look(apart)
        step = other - apart
        assert look(other)[0] <= energy + 2.0 * pull * step + stiffness * step**2 + 1e-9
    far, pull, _ = look(50)
    assert far == pytest.approx(2.0 * 8.0**2) and pull == pytest.approx(0.0, abs=1e-12)


def test_small_single_errors_cost_the_same_by_either_chamfer_distance() -> None:
    mask, goal = pair(1)
    weights = torch.full((1, 1), 3.0, dtype=DOUBLE)
    plain, aware = ChamferRaster(DOUBLE), DensityAwareChamferRaster(100.0, DOUBLE)
    expected = plain.see(mask, plain.describe(goal), weights).energy
    assert float(expected) == pytest.approx(6.0)
    torch.testing.assert_close(aware.see(mask, aware.describe(goal), weights).energy, expected, rtol=1e-3, atol=0)


def test_silhouettes_apart_cost_the_scale() -> None:
    loss = SilhouetteRaster(1.0, 5.0, DOUBLE)
    goal, mask = (ellipse(torch.tensor([at, 50.0]), (16.0, 9.0), 100) for at in (25.0, 75.0))
    energy = loss.see(mask, loss.describe(goal), torch.full((1, 1), 2.0, dtype=DOUBLE)).energy
    assert float(energy) == pytest.approx(50.0, rel=1e-3)


def test_a_shifted_outline_costs_as_documented() -> None:
    """A bar of width 2 a = 40 px, two long sides for its length, moved across by one px."""
    loss = SilhouetteRaster(1.5, 5.0, DOUBLE)
    masks = torch.zeros(2, 1, 1, 120, 120, dtype=torch.bool)
    masks[0, ..., 40:80], masks[1, ..., 41:81] = True, True
    energy = loss.see(masks[0], loss.describe(masks[1]), torch.ones(1, 1, dtype=DOUBLE)).energy
    assert float(energy) == pytest.approx(25.0 / (6.0 * 1.5 * 20.0), rel=0.1)


def test_normals_of_a_disc_point_outwards() -> None:
    middle = torch.tensor([20.0, 20.0])
    disc = ellipse(middle, (11.0, 11.0), 40)[0, 0]
    pixel = torch.nonzero(border_of(disc).view(-1)).squeeze(1)
    normal = normals_at(disc[None], torch.zeros_like(pixel), pixel, DOUBLE)
    outwards = torch.nn.functional.normalize(pixel_centres(pixel, 40, DOUBLE) - middle, dim=1)
    assert float((normal * outwards).sum(1).min()) > math.cos(math.radians(12.0))
    line = torch.zeros(1, 9, 9, dtype=torch.bool)
    line[0, 4] = True
    assert not bool(normals_at(line, torch.tensor([0]), torch.tensor([4 * 9 + 4]), DOUBLE).any())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@by_loss
def test_cuda_agrees_with_the_cpu(name: str) -> None:
    """Equally near pixels may be chosen otherwise, which changes how many share one, and where a pull acts."""
    loss = single(name)
    masks = torch.stack([region(seed, 40) for seed in range(8)]).view(2, 4, 40, 40)
    goals = torch.stack([region(seed, 40) for seed in range(8, 16)]).view(2, 4, 40, 40)
    goals[1, 2], masks[0, 1] = False, False
    weights = torch.ones(2, 4, dtype=DOUBLE)
    seen = loss.see(masks, loss.describe(goals), weights)
    there = loss.see(masks.cuda(), loss.describe(goals.cuda()), weights.cuda())
    tolerance = 0.1 if name == "density-chamfer" else 1e-4
    torch.testing.assert_close(there.energy.cpu(), seen.energy, rtol=tolerance, atol=1e-6)
    expected, points = seen.forces(every(2)).points, there.forces(every(2).cuda()).points
    total, there_total = expected.stiffness.double().sum(0), points.stiffness.cpu().double().sum(0)
    torch.testing.assert_close(there_total[0] + there_total[2], total[0] + total[2], rtol=tolerance, atol=0)
    assert bool(torch.isfinite(points.pull).all())
