"""What an update looks at, and how it gets to the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


def measure_images(sr_image: torch.Tensor, hr_image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is logged of generated images: their deviation, and how far their mean colour is from the real ones'."""
    shift = (sr_image.mean(dim=(0, 2, 3)) - hr_image.mean(dim=(0, 2, 3))).abs().mean()
    return sr_image.std(), shift


def held_patches(
    batch_size: int, patch_px: int, scale: int, device: torch.device, memory_format: torch.memory_format
) -> Patches:
    """Patches in fixed memory, which recorded work reads."""

    def images(edge_px: int) -> torch.Tensor:
        return torch.zeros(batch_size, 3, edge_px, edge_px, device=device).to(memory_format=memory_format)

    position = torch.zeros(batch_size, dtype=torch.int64, device=device)
    return Patches(images(patch_px // scale), images(patch_px), position)


class _Slot:
    """Device memory of one batch, the patches made of it, and the two moments that its users wait for."""

    def __init__(self, batch: Batch, device: torch.device, side: torch.cuda.Stream) -> None:
        hr_BHWC = torch.empty_like(batch.hr_BHWC, device=device)
        position_B = torch.empty_like(batch.position_B, device=device)
        side.wait_stream(torch.cuda.current_stream(device))  # for who had this memory before
        hr_BHWC.record_stream(side)
        position_B.record_stream(side)
        self.batch = Batch(hr_BHWC, position_B)
        self.patches: Patches | None = None
        self.ready = torch.cuda.Event()
        self.read = torch.cuda.Event()


def made_ahead(
    batches: Iterator[Batch], device: torch.device, prepare: Callable[[Batch], Patches]
) -> Iterator[Patches]:
    """The patches of the same batches in the same order on a GPU.

    Each batch is copied there, and its patches are made, on a stream of its own while the one before is used. Patches
    are valid until the next are asked for: two slots take turns, and work on a slot begins when all that was started on
    its last patches has ended. The host waits for nothing but the loader.
    """
    side = torch.cuda.Stream(device)
    slots: list[_Slot] = []

    def send(batch: Batch, number: int) -> _Slot:
        if len(slots) < 2:
            slots.append(_Slot(batch, device, side))
        slot = slots[number % 2]
        side.wait_event(slot.read)
        with torch.cuda.stream(side):
            slot.batch.hr_BHWC.copy_(batch.hr_BHWC, non_blocking=True)
            slot.batch.position_B.copy_(batch.position_B, non_blocking=True)
            slot.patches = prepare(slot.batch)  # the memory of those before is this stream's again
            slot.ready.record(side)
        return slot

    slot, number = send(next(batches), 0), 0
    while True:
        number += 1
        following = send(next(batches), number)
        torch.cuda.current_stream(device).wait_event(slot.ready)
        assert slot.patches is not None
        yield slot.patches
        slot.read.record(torch.cuda.current_stream(device))
        slot = following
