"""The memory that batches are read into."""

from __future__ import annotations

import sys
import threading

import numpy as np
import torch


class BufferRing:
    """Batch buffers that are used again once nobody else refers to them, which saves the page faults of new ones."""

    def __init__(self, shape_BHX: tuple[int, int, int], most: int = 32) -> None:
        self._shape = shape_BHX
        self._most = most
        self._buffers: list[np.ndarray] = []
        self._lock = threading.Lock()
        self.pinned = torch.cuda.is_available()
        self._references_when_free = _references([np.empty(0)])[0]

    def take(self) -> tuple[np.ndarray, torch.Tensor]:
        """(the buffer as B x H x 3W, the same memory as a tensor B x H x W x 3)."""
        size_B, height, width3 = self._shape
        if self.pinned:  # torch's own cache of pinned memory knows when a copy to the device has ended
            tensor = torch.empty((size_B, height, width3 // 3, 3), dtype=torch.uint8, pin_memory=True)
            return tensor.numpy().reshape(self._shape), tensor
        with self._lock:
            buffer = self._free_or_new()
            return buffer, torch.from_numpy(buffer).view(size_B, height, width3 // 3, 3)

    def _free_or_new(self) -> np.ndarray:
        for place, references in enumerate(_references(self._buffers)):
            if references == self._references_when_free:
                return self._buffers[place]
        buffer = np.empty(self._shape, np.uint8)
        if len(self._buffers) < self._most:
            self._buffers.append(buffer)
        return buffer


def _references(buffers: list[np.ndarray]) -> list[int]:
    """How many references each buffer has, as counted from here (the interpreter's own ones included)."""
    return [sys.getrefcount(buffer) for buffer in buffers]
