"""Where the ways of a CPU and of an accelerator part."""

from __future__ import annotations

from torch import Tensor


def on_cpu(tensor: Tensor) -> bool:
    """Whether to work photo by photo, with the libraries of a CPU.

    There a product or a sum over one photo has the same bits whatever else is in the batch. On an accelerator the
    whole batch goes through each operation, rounding may differ in the last bits, and searches are tensor programs.
    Tests run the accelerator's way on a CPU by replacing this function.
    """
    return tensor.device.type == "cpu"
