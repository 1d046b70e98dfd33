"""Which devices compute in bfloat16, and what is done where one does not.

A processor without the instructions computes bfloat16 ten times slower than float32, and less exactly: there float32
is taken, which is what a recipe's `bf16` only approximates.
"""

from __future__ import annotations

import torch

NOTE = "has no bfloat16 instructions, so bf16 is computed in fp32 here (more exact, and about ten times as fast)"


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a torch without that library has slow loops alone
        return False
