"""Out of memory: told from other failures, and as too large networks where these were being built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.errors import NetworksTooLarge

_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "can't start new thread",  # Python's, where there is no room for a stack
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the device or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


@contextmanager
def building_networks() -> Iterator[None]:
    """Around the building of networks, and of nothing else.

    Raises:
        NetworksTooLarge: they do not fit in memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise NetworksTooLarge(
            "out of memory while the networks were built; take a smaller generator or discriminator, or a device "
            "with more memory."
        ) from None
