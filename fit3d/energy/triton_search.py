"""The search of `fit3d.energy.search` as one Triton kernel, for CUDA.

Each program answers for a block of anchors and one set of points: it walks through the set block by block and keeps,
for each anchor and each place in a block, the best so far, so that nothing of the size anchors x points leaves the
registers. Fusing multiplication and addition is switched off: answers equal those of `search_torch` bit for bit.

Tested in Triton's interpreter (TRITON_INTERPRET=1) and compiled for CUDA, but not yet run on a device: the sizes of the
blocks are not tuned.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_ANCHORS = 64
BLOCK_POINTS = 16


def search_triton(points: Tensor, offsets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest and furthest (S, A) int64 of ragged sets: points (N, 2) float32, offsets (S + 1,) int64, anchors (A, 2).

    See `fit3d.energy.search` for what the answers mean.
    """
    assert points.dtype == torch.float32 and offsets.dtype == torch.int64
    points, offsets, anchors = points.contiguous(), offsets.contiguous(), anchors.to(points).contiguous()
    sets, count = offsets.numel() - 1, anchors.shape[0]
    nearest = torch.empty((sets, count), dtype=torch.int64, device=points.device)
    furthest = torch.empty_like(nearest)
    if nearest.numel():
        with torch.cuda.device_of(points):
            _search[(sets, triton.cdiv(count, BLOCK_ANCHORS))](
                points,
                offsets,
                anchors,
                nearest,
                furthest,
                count,
                BLOCK_A=BLOCK_ANCHORS,
                BLOCK_N=BLOCK_POINTS,
                enable_fp_fusion=False,
            )
    return nearest, furthest


@triton.jit
def _search(points, offsets, anchors, nearest, furthest, anchor_count, BLOCK_A: tl.constexpr, BLOCK_N: tl.constexpr):  # type: ignore[no-untyped-def]
    segment = tl.program_id(0).to(tl.int64)
    anchor = tl.program_id(1) * BLOCK_A + tl.arange(0, BLOCK_A)
    wanted = anchor < anchor_count
    ax = tl.load(anchors + 2 * anchor, mask=wanted, other=0.0)[:, None]
    ay = tl.load(anchors + 2 * anchor + 1, mask=wanted, other=0.0)[:, None]
    begin = tl.load(offsets + segment)
    size = (tl.load(offsets + segment + 1) - begin).to(tl.int32)
    own = points + 2 * begin
    lane = tl.arange(0, BLOCK_N)
    low = tl.full((BLOCK_A, BLOCK_N), float("inf"), tl.float32)
    high = tl.full((BLOCK_A, BLOCK_N), -1.0, tl.float32)
    low_at = tl.zeros((BLOCK_A, BLOCK_N), tl.int32)
    high_at = tl.zeros((BLOCK_A, BLOCK_N), tl.int32)
    for start in range(0, size, BLOCK_N):
        point = start + lane
        there = point < size
        dx = ax - tl.load(own + 2 * point, mask=there, other=0.0)[None, :]
        dy = ay - tl.load(own + 2 * point + 1, mask=there, other=0.0)[None, :]
        squared = dx * dx + dy * dy
        # strictly better: of equal points in one lane the first stays
        nearer = there[None, :] & (squared < low)
        further = there[None, :] & (squared > high)
        low = tl.where(nearer, squared, low)
        high = tl.where(further, squared, high)
        low_at = tl.where(nearer, point[None, :], low_at)
        high_at = tl.where(further, point[None, :], high_at)
    # between lanes the first is the one with the lowest index
    low_at = tl.where(low == tl.min(low, 1)[:, None], low_at, 2147483647)
    high_at = tl.where(high == tl.max(high, 1)[:, None], high_at, 2147483647)
    answer = segment * anchor_count + anchor
    tl.store(nearest + answer, tl.where(size > 0, begin + tl.min(low_at, 1), -1), mask=wanted)
    tl.store(furthest + answer, tl.where(size > 0, begin + tl.min(high_at, 1), -1), mask=wanted)
