"""How much memory a network takes for each pixel that goes in."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

_PROBE_PX = 32


class _LiveBytes(TorchDispatchMode):
    """Follows how many bytes of tensors, made while it is on, are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._seen: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to mark this as not to be compiled, torch would import its compiler, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self._note(value.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address not in self._seen:
            self._seen.add(address)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, address, storage.nbytes())

    def _forget(self, address: int, size: int) -> None:
        self.live -= size
        self._seen.discard(address)


def peak_bytes_per_pixel(module: nn.Module, device: torch.device, align_px: int = 1) -> float:
    """Most bytes of tensors alive at once per input pixel (float32 input of 3 channels), tried on a small image."""
    edge = -(-_PROBE_PX // align_px) * align_px
    image_BCHW = torch.zeros(1, 3, edge, edge, device=device)
    with _LiveBytes() as follower:
        module(image_BCHW)
    return follower.peak / edge**2
