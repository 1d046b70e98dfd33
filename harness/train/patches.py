"""What an update looks at, and how it gets to the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from harness.data.loader import Batch


@dataclass(frozen=True)
class Patches:
    """What one update looks at: images float32 NCHW in [0, 1], and each sample's global position."""

    lr_image: torch.Tensor
    hr_image: torch.Tensor
    position: torch.Tensor

    def split(self, parts: int) -> list[Patches]:
        """Micro-batches of equal size."""
        if parts == 1:
            return [self]
        return [
            Patches(*tensors)
            for tensors in zip(self.lr_image.chunk(parts), self.hr_image.chunk(parts), self.position.chunk(parts))
        ]

    def copy_(self, other: Patches) -> None:
        """Takes over another one's values, in its own memory."""
        self.lr_image.copy_(other.lr_image, non_blocking=True)
        self.hr_image.copy_(other.hr_image, non_blocking=True)
        self.position.copy_(other.position, non_blocking=True)


class Buffers:
    """The fixed memory that recorded work reads: a batch as it comes from the loader, and the patches made of it."""

    def __init__(
        self, batch_size: int, patch_px: int, scale: int, device: torch.device, memory_format: torch.memory_format
    ) -> None:
        def images(edge_px: int) -> torch.Tensor:
            return torch.zeros(batch_size, 3, edge_px, edge_px, device=device).to(memory_format=memory_format)

        position = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.hr_BHWC = torch.zeros(batch_size, patch_px, patch_px, 3, dtype=torch.uint8, device=device)
        self.patches = Patches(images(patch_px // scale), images(patch_px), position)

    def load(self, batch: Batch) -> None:
        """Takes over a batch."""
        self.hr_BHWC.copy_(batch.hr_BHWC, non_blocking=True)
        self.patches.position.copy_(batch.position_B, non_blocking=True)


class _Slot:
    """Device memory of one batch, and the two moments that its users wait for."""

    def __init__(self, batch: Batch, device: torch.device, copies: torch.cuda.Stream) -> None:
        hr_BHWC = torch.empty_like(batch.hr_BHWC, device=device)
        position_B = torch.empty_like(batch.position_B, device=device)
        copies.wait_stream(torch.cuda.current_stream(device))  # for who had this memory before
        hr_BHWC.record_stream(copies)
        position_B.record_stream(copies)
        self.batch = Batch(hr_BHWC, position_B)
        self.filled = torch.cuda.Event()
        self.read = torch.cuda.Event()


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches in the same order on a GPU, each copied on a stream of its own while the one before is used.

    A batch is valid until the next one is asked for: two buffers take turns, and a copy into a buffer begins when all
    that was started on its last batch has ended. The host waits for nothing but the loader.
    """
    copies = torch.cuda.Stream(device)
    slots: list[_Slot] = []

    def send(batch: Batch, number: int) -> _Slot:
        if len(slots) < 2:
            slots.append(_Slot(batch, device, copies))
        slot = slots[number % 2]
        copies.wait_event(slot.read)
        with torch.cuda.stream(copies):
            slot.batch.hr_BHWC.copy_(batch.hr_BHWC, non_blocking=True)
            slot.batch.position_B.copy_(batch.position_B, non_blocking=True)
            slot.filled.record(copies)
        return slot

    slot, number = send(next(batches), 0), 0
    while True:
        number += 1
        following = send(next(batches), number)
        torch.cuda.current_stream(device).wait_event(slot.filled)
        yield slot.batch
        slot.read.record(torch.cuda.current_stream(device))
        slot = following
