"""Batches that are copied ahead come in order, and no copy touches a batch that is still in use."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from harness.data.loader import Batch
from harness.train.patches import Buffers, Patches, on_device

STEPS = 7


class Event:
    """Done when the work queued on its stream before `record` is."""

    def __init__(self) -> None:
        self.recorded: tuple[Stream, int] | None = None

    def record(self, stream: Stream) -> None:
        self.recorded = (stream, len(stream.log))


class Stream:
    """What was asked of a stream, in order: waits for others and copies."""

    def __init__(self, device: Any = None) -> None:
        self.log: list[tuple[str, Any]] = []

    def wait_event(self, event: Event) -> None:
        self.log.append(("wait", event.recorded))

    def wait_stream(self, other: Stream) -> None:
        self.log.append(("wait", (other, len(other.log))))


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """The consumer's stream, and then the copies' once there is one; tensors are the host's."""
    made = [Stream()]
    monkeypatch.setattr(torch.cuda, "Stream", lambda device=None: made.append(Stream()) or made[-1])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: made[0])
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    return made


def numbered(count: int):
    for number in range(count):
        yield Batch(torch.full((2, 4, 4, 3), number, dtype=torch.uint8), torch.arange(2) + 2 * number)


def test_batches_come_in_order_and_stay_until_the_next_is_asked_for(streams):
    batches = on_device(numbered(STEPS + 1), torch.device("cpu"))
    for number in range(STEPS):
        batch = next(batches)
        assert (batch.hr_BHWC == number).all()
        assert batch.position_B.tolist() == [2 * number, 2 * number + 1]


def test_a_copy_waits_for_the_batch_before_in_its_memory_and_the_consumer_for_the_copy(streams):
    batches = on_device(numbered(STEPS + 1), torch.device("cpu"))
    consumer = streams[0]
    for number in range(STEPS):
        next(batches)
        copies = streams[1]
        copied = [entry for entry in consumer.log if entry[0] == "wait" and entry[1] and entry[1][0] is copies]
        assert len(copied) == number + 1  # each batch is waited for before it is used
        waits = [entry[1] for entry in copies.log if entry[1] is not None and entry[1][0] is consumer]
        used = [position for position, (name, _) in enumerate(consumer.log) if name == "use"]
        if number >= 2:  # the copy that has just been started is of batch number + 1, into the memory of number - 1
            assert waits[-1][1] > used[number - 1]
            assert waits[-1][1] <= len(consumer.log)
        consumer.log.append(("use", number))


def test_buffers_take_over_batches_and_patches_in_place():
    buffers = Buffers(2, 8, 4, torch.device("cpu"), torch.channels_last)
    before = [tensor.data_ptr() for tensor in (buffers.hr_BHWC, buffers.patches.lr_image, buffers.patches.position)]
    buffers.load(Batch(torch.full((2, 8, 8, 3), 7, dtype=torch.uint8), torch.tensor([3, 4])))
    buffers.patches.copy_(Patches(torch.ones(2, 3, 2, 2), torch.ones(2, 3, 8, 8), torch.tensor([5, 6])))
    after = [tensor.data_ptr() for tensor in (buffers.hr_BHWC, buffers.patches.lr_image, buffers.patches.position)]
    assert before == after
    assert (buffers.hr_BHWC == 7).all() and buffers.patches.position.tolist() == [5, 6]
    assert buffers.patches.lr_image.is_contiguous(memory_format=torch.channels_last)
    assert buffers.patches.lr_image.shape == (2, 3, 2, 2) and (buffers.patches.hr_image == 1).all()
