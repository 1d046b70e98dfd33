"""Where the networks of an evaluation run, and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.device import best_device
from harness.errors import InputError


def take_device(name: str, place: int = 0) -> str:
    """The device of this process, `cpu` or `cuda`; `auto` takes a GPU where there is one.

    Processes of one machine that are numbered by `place` share its GPUs out: each one's GPU becomes its current one.

    Raises:
        InputError: a GPU is asked for, or was given to the job, and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("evaluate.device cuda: there is no usable GPU here; set it to auto or cpu.")
    device = best_device() if name == "auto" else name
    if device == "cuda":
        torch.cuda.set_device(place % torch.cuda.device_count())
    return device


@contextmanager
def float32_proper() -> Iterator[None]:
    """Convolutions in full float32 on a GPU: TF32, their default, moves the third digit of a perceptual distance."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
