"""The fused search: interpreted and compiled wherever Triton is installed, run on a GPU where there is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from fit3d.energy.search import search_torch
from test_search import grid, ragged

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed: on Linux, pip install triton"
)


def compare(device: str) -> None:
    """The kernel answers as the plain search does: sets of none, one and many blocks, with and without ties."""
    from fit3d.energy.triton_search import BLOCK_ANCHORS, BLOCK_POINTS, search_triton

    block = BLOCK_POINTS
    for seed, sizes in enumerate([[0], [1], [0, 1, 0, block - 1, block, block + 1, 0, 100, 0], [5] * 5, []]):
        for kind in ("pixels", "anywhere", "one place"):
            for anchors in (grid(12), ragged([BLOCK_ANCHORS], seed, "anywhere")[0], grid(1), grid(1)[:0]):
                points, offsets = ragged(sizes, seed, kind)
                found = search_triton(points.to(device), offsets.to(device), anchors.to(device))
                for one, expected in zip(found, search_torch(points, offsets, anchors), strict=True):
                    assert one.device.type == device
                    assert torch.equal(one.cpu(), expected), (sizes, kind, anchors.shape)


@needs_triton
def test_interpreted_kernel_equals_torch() -> None:
    here = Path(__file__).resolve().parent
    paths = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", "from test_triton_search import compare; compare('cpu')"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@needs_triton
def test_kernel_compiles_for_cuda_without_fusing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused multiply-add rounds once where `search_torch` rounds twice, and would break ties differently."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fit3d.energy.triton_search import BLOCK_ANCHORS, BLOCK_POINTS, _search

    signature = {
        **{"points": "*fp32", "offsets": "*i64", "anchors": "*fp32", "nearest": "*i64", "furthest": "*i64"},
        **{"anchor_count": "i32", "BLOCK_A": "constexpr", "BLOCK_N": "constexpr"},
    }
    source = ASTSource(_search, signature, {"BLOCK_A": BLOCK_ANCHORS, "BLOCK_N": BLOCK_POINTS})
    compiled = triton.compile(source, GPUTarget("cuda", 90, 32), {"enable_fp_fusion": False})
    assert re.search(r"\bmul(\.rn)?\.f32", compiled.asm["ptx"]) and not re.search(r"\bfma\.", compiled.asm["ptx"])
    assert compiled.asm["cubin"]


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernel_equals_torch_on_cuda() -> None:
    compare("cuda")
