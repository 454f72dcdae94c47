"""PRDL: the formula, and the functions that hold less than the formula does, against it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fit3d.config import Statistic
from fit3d.energy import prdl, search
from fit3d.energy.prdl import (
    STATISTICS,
    descriptor,
    descriptor_naive,
    prdl_loss,
    prdl_loss_naive,
    prdl_parts_loss,
)

SIDE = 24
ORDERS = [*[list(subset) for size in (1, 2, 3) for subset in combinations(STATISTICS, size)], ["mean", "max", "min"]]
BATCHES = [(), (1,), (3, 1, 2)]
FORMS = [*[(order, ()) for order in ORDERS], *[(list(STATISTICS), batch) for batch in BATCHES[1:]]]
"""Statistics and batch axes: every subset, and every kind of batch."""
CASES = ["anywhere", "pixels", "on an anchor", "one", "coincident"]


def random_points(count: int, seed: int, batch: tuple[int, ...] = ()) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*batch, count, 2, generator=generator, dtype=torch.float64) * SIDE


def random_areas(count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64) + 0.1


def pixels(left: int, right: int, top: int, bottom: int) -> Tensor:
    """Centres of the pixels of a box."""
    y, x = torch.meshgrid(torch.arange(top, bottom), torch.arange(left, right), indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2).double() + 0.5


def grid() -> Tensor:
    """36 pixel centres all over the image."""
    return pixels(0, 6, 0, 6) * 4.0 + 0.5


def points_of(case: str, batch: tuple[int, ...] = ()) -> Tensor:
    points = {
        "anywhere": lambda: random_points(6, 3, batch),
        "pixels": lambda: random_points(80, 4, batch).floor() + 0.5,
        "on an anchor": lambda: torch.cat([grid()[4:5].expand(*batch, 1, 2), random_points(4, 5, batch)], -2),
        "one": lambda: random_points(1, 6, batch),
        "coincident": lambda: random_points(2, 7, batch).repeat_interleave(3, -2),
    }[case]()
    return points.clone().requires_grad_()


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few anchors at a time that there are many pieces, and a shorter last one."""
    for module in (prdl, search):
        monkeypatch.setattr(module, "rows_at_once", lambda device, row_bytes: 5)


@pytest.mark.parametrize("describe", [descriptor_naive, descriptor])
def test_descriptor_is_nearest_furthest_and_mean_distance(describe: Callable[..., Tensor]) -> None:
    points, areas = random_points(9, 0), random_areas(9)
    seen = describe(points, grid(), areas)
    assert seen.shape == (36, 3)
    for anchor, row in zip(grid().tolist(), seen.tolist(), strict=True):
        distances = [math.dist(anchor, point) for point in points.tolist()]
        mean = math.fsum(d * m for d, m in zip(distances, areas.tolist(), strict=True)) / math.fsum(areas.tolist())
        # sqrt(d^2 + epsilon) exceeds d by at most sqrt(epsilon), and by epsilon / (2 d) beyond
        assert row == pytest.approx([min(distances), max(distances), mean], abs=1e-6)


@pytest.mark.parametrize("loss", [prdl_loss_naive, prdl_loss])
def test_loss_by_hand(loss: Callable[..., Tensor]) -> None:
    """From (0, 0): nearest 3 against 6, furthest 5 against 6, mean 4 against 6; from (3, 4): 0, 4, 2 against 5."""
    points = torch.tensor([[3.0, 4.0], [3.0, 0.0]], dtype=torch.float64)
    target = torch.tensor([[6.0, 0.0]], dtype=torch.float64)
    anchors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    assert float(loss(points, target, anchors)) == pytest.approx((9 + 1 + 4 + 25 + 1 + 9) / 2, rel=1e-3)
    assert float(loss(points, target, anchors, torch.tensor([3.0, 1.0]).double(), ["mean"])) == pytest.approx(
        (1.5**2 + 4**2) / 2, rel=1e-3
    )


@pytest.mark.parametrize(("statistics", "batch"), FORMS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.usefixtures("few_at_once")
def test_fast_equals_naive(weighted: bool, case: str, statistics: list[Statistic], batch: tuple[int, ...]) -> None:
    """In value and in the gradient by everything, also where several points are equally near or far."""
    points, anchors = points_of(case, batch), grid().requires_grad_()
    areas = random_areas(points.shape[-2]).requires_grad_() if weighted else None
    arguments = [points, anchors, *([areas] if areas is not None else [])]
    seen, expected = (call(points, anchors, areas, statistics) for call in (descriptor, descriptor_naive))
    assert seen.shape == (*batch, 36, len(statistics))
    torch.testing.assert_close(seen, expected, rtol=1e-13, atol=1e-13)
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    allow = {"allow_unused": True, "materialize_grads": True}
    for one, other in zip(
        torch.autograd.grad(seen, arguments, pull, **allow),
        torch.autograd.grad(expected, arguments, pull, **allow),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)

    target = (random_points(50, 9).floor() + 0.5).requires_grad_()
    arguments.append(target)
    loss, expected = (call(points, target, anchors, areas, statistics) for call in (prdl_loss, prdl_loss_naive))
    assert loss.shape == batch
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-13)
    for one, other in zip(
        torch.autograd.grad(loss.sum(), arguments, **allow),
        torch.autograd.grad(expected.sum(), arguments, **allow),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("statistics", "batch"), [(["min"], ()), (["max"], ()), (["mean"], ()), *FORMS[-2:]])
@pytest.mark.parametrize("case", ["anywhere", "on an anchor", "one"])
@pytest.mark.usefixtures("few_at_once")
def test_gradient_is_the_derivative(case: str, statistics: list[Statistic], batch: tuple[int, ...]) -> None:
    points, anchors = points_of(case, batch), grid()[3:9].requires_grad_()
    areas = random_areas(points.shape[-2]).requires_grad_()
    target = random_points(3, 10).requires_grad_()
    # a step well below sqrt(EPSILON), the width of the rounded tip of the distance from a point on an anchor
    step = {"eps": 1e-6, "atol": 1e-5}
    assert gradcheck(lambda *inputs: descriptor(*inputs, statistics), (points, anchors, areas), **step)
    assert gradcheck(lambda *inputs: prdl_loss(*inputs, statistics), (points, target, anchors, areas), **step)


def test_gradient_of_coincident_points_is_the_derivative_of_the_mean_and_goes_to_the_first_of_the_others() -> None:
    points = points_of("coincident")
    assert gradcheck(lambda points: descriptor(points, grid(), statistics=["mean"]), points, eps=1e-6, atol=1e-5)
    for statistic in ("min", "max"):
        (gradient,) = torch.autograd.grad(descriptor(points, grid(), statistics=[statistic]).sum(), points)
        assert gradient[[0, 3]].all() and not gradient[[1, 2, 4, 5]].any()


@pytest.mark.parametrize(("statistic", "selected"), [("min", 1), ("max", 2)])
def test_pull_of_one_anchor(statistic: Statistic, selected: int) -> None:
    """Equation 9 of the paper: -dE/dv_n = 2 (v_n - a) (d_m / d_n - 1), to the anchor where the target is nearer."""
    anchor = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    points = torch.tensor([[9.0, 9.0], [5.0, 7.0], [14.0, 8.0]], dtype=torch.float64, requires_grad=True)
    for distance in (2.0, 20.0):
        target = anchor + distance * torch.tensor([[0.6, -0.8]], dtype=torch.float64)
        (gradient,) = torch.autograd.grad(prdl_loss(points, target, anchor, statistics=[statistic]), points)
        arm = points[selected].detach() - anchor[0]
        expected = torch.zeros(3, 2, dtype=torch.float64)
        expected[selected] = 2.0 * arm * (distance / arm.norm() - 1.0)
        torch.testing.assert_close(-gradient, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("case", CASES)
def test_nothing_to_do_at_the_truth(case: str, batch: tuple[int, ...], dtype: torch.dtype) -> None:
    truth = points_of(case).detach().to(dtype)
    points = truth.expand(*batch, *truth.shape).clone().requires_grad_()
    loss = prdl_loss(points, truth, grid().to(dtype), torch.ones(truth.shape[0], dtype=dtype))
    loss.sum().backward()
    assert loss.shape == batch and not loss.detach().any()
    assert points.grad is not None and not points.grad.any()


def test_each_statistic_sees_what_it_should() -> None:
    """A hole in the middle is seen by 'min' and 'mean', a lone point outside by all, a moved set by all."""
    box = pixels(6, 18, 6, 18)
    hollow = box[((box - 12.0).abs() > 3.0).any(1)]
    for moved, blind in (
        (hollow, ["max"]),
        (torch.cat([box, box[:1] - 5.0]), []),
        (box + 0.5, []),
        (box.flip(0), STATISTICS),
    ):
        for statistic in STATISTICS:
            loss = float(prdl_loss(moved, box, grid(), statistics=[statistic]))
            assert loss < 1e-20 if statistic in blind else loss > 1e-4


@pytest.mark.parametrize("weighted", [False, True])
def test_moving_everything_changes_nothing(weighted: bool) -> None:
    """By a shift and at places for which every difference is exact."""
    points = ((random_points(30, 11) * 64).round() / 64).requires_grad_()
    target, shift = (random_points(20, 12) * 64).round() / 64, torch.tensor([96.25, -31.5], dtype=torch.float64)
    areas = random_areas(30) if weighted else None
    loss = prdl_loss(points, target, grid(), areas)
    moved = prdl_loss(points + shift, target + shift, grid() + shift, areas)
    assert float(loss.detach()) > 0.1 and torch.equal(loss, moved)
    (gradient,), (moved_gradient,) = torch.autograd.grad(loss, points), torch.autograd.grad(moved, points)
    assert gradient.any() and torch.equal(gradient, moved_gradient)


def test_sets_of_a_batch_do_not_see_each_other() -> None:
    points = random_points(40, 13, (3, 1, 2)).requires_grad_()
    target, anchors = random_points(50, 14), grid()
    loss = prdl_loss(points, target, anchors)
    (gradient,) = torch.autograd.grad(loss.sum(), points)
    for one, value, pull in zip(points.reshape(-1, 40, 2), loss.reshape(-1), gradient.reshape(-1, 40, 2), strict=True):
        alone = one.detach().requires_grad_()
        again = prdl_loss(alone, target, anchors)
        assert torch.equal(again, value) and torch.equal(torch.autograd.grad(again, alone)[0], pull)


def test_single_precision_is_close_to_double() -> None:
    points, target, anchors = random_points(300, 15), pixels(5, 20, 3, 22), pixels(0, SIDE, 0, SIDE)
    results = []
    for dtype in (torch.float64, torch.float32):
        moving = points.to(dtype).requires_grad_()
        loss = prdl_loss(moving, target, anchors, random_areas(300))  # the others follow the points
        assert loss.dtype == dtype
        results.append((loss.detach().double(), torch.autograd.grad(loss, moving)[0].double()))
    (loss, gradient), (loss32, gradient32) = results
    torch.testing.assert_close(loss32, loss, rtol=1e-5, atol=0)
    assert float((gradient32 - gradient).norm() / gradient.norm()) < 1e-5


@pytest.mark.parametrize("batch", BATCHES)
def test_empty_sets_say_nothing(batch: tuple[int, ...]) -> None:
    points, nothing = random_points(4, 16, batch).requires_grad_(), torch.zeros(0, 2, dtype=torch.float64)
    for loss in (prdl_loss(points, nothing, grid()), prdl_loss(points[..., :0, :], points.reshape(-1, 2), grid())):
        assert loss.shape == batch and not loss.detach().any()
        (gradient,) = torch.autograd.grad(loss.sum(), points)
        assert not gradient.any()
    with pytest.raises(ValueError, match="empty set"):
        descriptor(points[..., :0, :], grid())
    assert descriptor(points.reshape(-1, 4, 2)[:0], grid()).shape == (0, 36, 3)


@pytest.mark.parametrize("batch", BATCHES)
def test_parts_add_up(batch: tuple[int, ...]) -> None:
    nothing = torch.zeros(*batch, 0, 2, dtype=torch.float64)
    points = [
        random_points(5, 17, batch).requires_grad_(),
        random_points(8, 18, batch),
        nothing,
        random_points(3, 19, batch),
    ]
    targets = [random_points(6, 20), random_points(7, 21), random_points(4, 22), nothing.reshape(-1, 2)]
    areas, factors = [random_areas(5), None, None, random_areas(3)], [2.0, 0.5, 7.0, 11.0]
    loss = prdl_parts_loss(points, targets, grid(), areas, factors)
    expected = 2.0 * prdl_loss(points[0], targets[0], grid(), areas[0]) + 0.5 * prdl_loss(points[1], targets[1], grid())
    assert loss.shape == batch
    torch.testing.assert_close(loss, expected, rtol=1e-15, atol=0)
    for one, other in zip(*(torch.autograd.grad(value.sum(), points[:1]) for value in (loss, expected)), strict=True):
        assert torch.equal(one, other)
    plain = prdl_parts_loss(points, targets, grid(), statistics=["max"])
    both = [prdl_loss(points[part], targets[part], grid(), statistics=["max"]) for part in (0, 1)]
    torch.testing.assert_close(plain, both[0] + both[1], rtol=1e-15, atol=0)


def test_parts_must_match() -> None:
    one = [random_points(3, 23)]
    for arguments in (([], []), (one, []), (one, one * 2)):
        with pytest.raises(ValueError, match="as many of each"):
            prdl_parts_loss(*arguments, grid())
    for wrong in ({"weights": []}, {"part_weights": [1.0, 2.0]}):
        with pytest.raises(ValueError, match="as many of each"):
            prdl_parts_loss(one, one, grid(), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"points": torch.zeros(4, 3)}, "points: got shape"),
        ({"anchors": torch.zeros(0, 2)}, "anchors: got shape"),
        ({"anchors": torch.zeros(1, 5, 2)}, "anchors: got shape"),
        ({"weights": torch.ones(3)}, "weights: got shape"),
        ({"weights": torch.zeros(4)}, "weights: the areas add up to nothing"),
        ({"statistics": []}, "statistics: got"),
        ({"statistics": ["median"]}, "statistics: got"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Tensor | Sequence[Statistic]], named: str) -> None:
    right = {"points": torch.rand(4, 2), "anchors": torch.rand(5, 2)}
    with pytest.raises(ValueError, match=named):
        descriptor(**{**right, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=named):
        prdl_loss(**{**right, "target_points": torch.rand(4, 2), **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(4, 3), (4,), (0, 3)])
def test_wrong_target_points_are_named(shape: tuple[int, ...]) -> None:
    """Not as the points, which are right."""
    with pytest.raises(ValueError, match=r"^target_points: got shape"):
        prdl_loss(torch.rand(4, 2), torch.zeros(shape), torch.rand(5, 2))


def test_second_derivatives_are_refused() -> None:
    points = points_of("anywhere")
    loss = prdl_loss(points, random_points(5, 24), grid())
    (gradient,) = torch.autograd.grad(loss, points, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


FULL_SIZE = """
import torch
from fit3d.energy.prdl import prdl_loss

def peak_mb():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024

def step(side, count):
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    anchors = torch.stack([x, y], -1).reshape(-1, 2) + 0.5
    generator = torch.Generator().manual_seed(0)
    points, target = torch.rand(2, count, 2, generator=generator) * side
    loss = prdl_loss(points.requires_grad_(), target, anchors, torch.ones(count))
    loss.backward()
    assert points.grad.any()

torch.set_num_threads(1)
step(16, 100)
before = peak_mb()
step(224, 3000)
print(peak_mb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
def test_the_paper_s_size_takes_little_memory() -> None:
    """One matrix of 50,176 anchors x 3,000 points would take 574 MB. The peak is that of a fresh process."""
    repository = Path(__file__).resolve().parent.parent
    paths = os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", FULL_SIZE],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 150
