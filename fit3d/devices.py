"""Where the ways of a CPU and of an accelerator part."""

from __future__ import annotations

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
