"""PRDL: the public formula, and the reduced pixel sets that the fit uses, against it."""

from __future__ import annotations

import pytest
import torch

from fit3d.energy.prdl import (
    anchor_grid,
    descriptor,
    pixel_centres,
    pixel_sets,
    prdl_loss,
    see_furthest,
    see_mean,
    see_nearest,
)

RESOLUTION = 24


def random_points(count: int, seed: int, batch: tuple[int, ...] = ()) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*batch, count, 2, generator=generator, dtype=torch.float64) * RESOLUTION


def grid() -> torch.Tensor:
    return pixel_centres(anchor_grid(6, RESOLUTION), RESOLUTION, torch.float64)


def test_descriptor_is_nearest_furthest_and_mean_distance() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    anchors = torch.tensor([[0.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 5.0, 2.5], [3.0, 4.0, 3.5]], dtype=torch.float64)
    torch.testing.assert_close(descriptor(points, anchors), expected, atol=1.1e-3, rtol=0)


def test_descriptor_weights_count_in_the_mean_only() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    anchors = torch.zeros(1, 2, dtype=torch.float64)
    weighted = descriptor(points, anchors, weights=torch.tensor([1.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(weighted, torch.tensor([[0.0, 5.0, 3.75]], dtype=torch.float64), atol=1.1e-3, rtol=0)


@pytest.mark.parametrize("batch", [(), (1,), (3, 1, 2)])
def test_loss_keeps_batch_axes(batch: tuple[int, ...]) -> None:
    points, target = random_points(7, 0, batch), random_points(5, 1)
    loss = prdl_loss(points, target, grid())
    assert loss.shape == batch
    for one, value in zip(points.reshape(-1, 7, 2), loss.reshape(-1), strict=True):
        torch.testing.assert_close(prdl_loss(one, target, grid()), value)


def test_loss_is_zero_only_for_equal_sets() -> None:
    target = random_points(9, 2)
    assert float(prdl_loss(target.flip(0), target, grid())) < 1e-20
    assert float(prdl_loss(target + 0.5, target, grid())) > 0.1


@pytest.mark.parametrize("case", ["random", "on_anchor", "single", "coincident"])
@pytest.mark.parametrize("statistic", ["min", "max", "mean"])
def test_gradient(case: str, statistic: str) -> None:
    points = {
        "random": random_points(6, 3),
        "on_anchor": torch.cat([grid()[:1], random_points(4, 4)]),
        "single": random_points(1, 5),
        "coincident": random_points(2, 6).repeat(2, 1)[:3],
    }[case].requires_grad_()
    if case == "coincident":
        # equal points share the selected distance, whose derivative goes to one of them: check that it is finite
        prdl_loss(points, random_points(5, 7), grid(), statistics=(statistic,)).backward()
        assert points.grad is not None and bool(torch.isfinite(points.grad).all())
        return
    assert torch.autograd.gradcheck(
        lambda p: prdl_loss(p, random_points(5, 7), grid(), statistics=(statistic,)), points, eps=1e-7, atol=1e-4
    )


def test_empty_sets_say_nothing() -> None:
    points = random_points(4, 8).requires_grad_()
    loss = prdl_loss(points, points[:0], grid())
    loss.backward()
    assert float(loss.detach()) == 0.0 and points.grad is not None and not points.grad.any()
    assert float(prdl_loss(points[:0], points, grid()).detach()) == 0.0
    with pytest.raises(ValueError, match="empty"):
        descriptor(points[:0], grid())


def blobs() -> torch.Tensor:
    """Masks (4, R, R): a disc, a ring, two pieces touching the border, nothing."""
    y, x = torch.meshgrid(torch.arange(RESOLUTION), torch.arange(RESOLUTION), indexing="ij")
    radius = ((x - 11.0) ** 2 + (y - 12.0) ** 2).sqrt()
    pieces = ((x < 5) & (y < 7)) | ((x > 15) & (y > 18))
    return torch.stack([radius < 6, (radius < 9) & (radius > 5), pieces, torch.zeros_like(pieces)])


@pytest.mark.parametrize("index", [0, 1, 2])
def test_pixel_sets_tell_the_same_as_all_pixels(index: int) -> None:
    masks = blobs()
    pixels = pixel_sets(masks, spread_count=10**6)[index]
    anchors_at = anchor_grid(8, RESOLUTION)
    anchors = pixel_centres(anchors_at, RESOLUTION, torch.float64)
    whole = pixel_centres(torch.nonzero(masks[index].view(-1)).squeeze(1), RESOLUTION, torch.float64)
    expected = descriptor(whole, anchors)
    border = pixel_centres(pixels.border, RESOLUTION, torch.float64)
    extreme = pixel_centres(pixels.extreme, RESOLUTION, torch.float64)
    assert border.shape[0] < whole.shape[0]
    torch.testing.assert_close(see_nearest(border, anchors, pixels.mask[anchors_at]).distance, expected[:, 0])
    torch.testing.assert_close(see_furthest(extreme, anchors).distance, expected[:, 1])
    torch.testing.assert_close(
        see_mean(pixel_centres(pixels.spread, RESOLUTION, torch.float64), anchors)[0], expected[:, 2]
    )


def test_pixel_sets_of_nothing_are_empty() -> None:
    assert pixel_sets(blobs(), 10)[3].empty


def test_spread_is_an_even_stride() -> None:
    pixels = pixel_sets(blobs(), spread_count=20)[0]
    covered = torch.nonzero(pixels.mask).squeeze(1)
    assert pixels.spread.numel() <= 20
    where = torch.searchsorted(covered, pixels.spread.contiguous())
    assert len(set(where.diff().tolist())) == 1


@pytest.mark.parametrize("count", [1, 7, 16, 24])
def test_anchors_are_distinct_pixel_centres_spread_evenly(count: int) -> None:
    anchors = anchor_grid(count, RESOLUTION)
    assert anchors.unique().numel() == count * count
    centre = pixel_centres(anchors, RESOLUTION, torch.float64).mean(0)
    assert bool(((centre - RESOLUTION / 2).abs() <= 0.5).all())
