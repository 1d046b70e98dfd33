"""Patches that are made ahead come in order, and no work touches memory that is still in use."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from harness.data.loader import Batch
from harness.train.patches import Patches, held_patches, made_ahead

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


def prepared(batch: Batch) -> Patches:
    return Patches(batch.hr_BHWC[:, ::4, ::4].clone(), batch.hr_BHWC.clone(), batch.position_B)


def test_patches_come_in_order_and_stay_until_the_next_is_asked_for(streams):
    batches = made_ahead(numbered(STEPS + 1), torch.device("cpu"), prepared)
    for number in range(STEPS):
        patches = next(batches)
        assert (patches.hr_image == number).all() and (patches.lr_image == number).all()
        assert patches.position.tolist() == [2 * number, 2 * number + 1]


def test_a_copy_waits_for_the_batch_before_in_its_memory_and_the_consumer_for_the_copy(streams):
    batches = made_ahead(numbered(STEPS + 1), torch.device("cpu"), prepared)
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


def test_held_patches_take_over_others_in_place():
    held = held_patches(2, 8, 4, torch.device("cpu"), torch.channels_last)
    tensors = (held.lr_image, held.hr_image, held.position)
    before = [tensor.data_ptr() for tensor in tensors]
    held.copy_(Patches(torch.ones(2, 3, 2, 2), torch.ones(2, 3, 8, 8), torch.tensor([5, 6])))
    assert [tensor.data_ptr() for tensor in tensors] == before
    assert held.position.tolist() == [5, 6]
    assert held.lr_image.is_contiguous(memory_format=torch.channels_last)
    assert held.lr_image.shape == (2, 3, 2, 2) and (held.hr_image == 1).all()
