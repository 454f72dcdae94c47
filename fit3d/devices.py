"""Where the ways of a CPU and of an accelerator part."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def on_cpu(tensor: Tensor) -> bool:
    """Whether to work photo by photo, with the libraries of a CPU.

    There a product or a sum over one photo has the same bits whatever else is in the batch. On an accelerator the
    whole batch goes through each operation, rounding may differ in the last bits, and searches are tensor programs.
    Tests run the accelerator's way on a CPU by replacing this function.
    """
    return tensor.device.type == "cpu"


def exact_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 where a device has no doubles (MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def flat_nonzero(mask: Tensor) -> Tensor:
    """(n,) int64, ascending: the flat ids of what holds of `mask` (...). On the CPU numpy is several times faster."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return torch.nonzero(mask.flatten()).squeeze(1)


def nonzero_in_rows(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column, each (n,) int64, of what holds of `masks` (N, M) bool, row by row."""
    flat = flat_nonzero(masks)
    row = torch.div(flat, masks.shape[1], rounding_mode="floor")
    return row, flat - row * masks.shape[1]
