"""The GPUs of this machine that jobs may use here, and which of them each job at a time gets."""

from __future__ import annotations

import itertools
import os
from pathlib import Path


def allowed_gpus() -> list[str] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process, by number or name; None where it leaves all."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return None
    return list(itertools.takewhile(lambda gpu: gpu not in ("", "-1"), (gpu.strip() for gpu in named.split(","))))


def gpus_here() -> int | None:
    """How many GPUs this process may use here; None where there are some that no device file counts."""
    allowed = allowed_gpus()
    if allowed is not None:
        return len(allowed)
    dev = Path("/dev")
    nvidia = [device for device in dev.glob("nvidia*") if device.name.removeprefix("nvidia").isdecimal()]
    uncounted = any((dev / name).exists() for name in ("kfd", "dxg"))  # AMD's, and those of a Windows host
    return len(nvidia) if nvidia or not uncounted else None


def gpus_of_slot(slot: int, count: int) -> list[str]:
    """The `count` GPUs of the job at place `slot` among those that run at once, as CUDA_VISIBLE_DEVICES names them."""
    allowed, places = allowed_gpus(), range(slot * count, (slot + 1) * count)
    return [*map(str, places)] if allowed is None else allowed[places.start : places.stop]
