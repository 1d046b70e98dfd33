"""Which devices compute in bfloat16, and what is done where one does not.

A processor without the instructions computes bfloat16 two to ten times slower than float32, and less exactly: there
float32 is taken, which is what a recipe's `bf16` only approximates.
"""

from __future__ import annotations

import platform

import torch

NOTE = "has no bfloat16 instructions, so bf16 is computed in fp32 here (more exact, and faster)"


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine() in ("x86_64", "AMD64") and not _has_products():
        return False
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a torch without that library has slow loops alone
        return False


def _has_products() -> bool:
    """Whether an x86 processor multiplies bfloat16; with AVX-512 alone torch's library supports it by emulation."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
