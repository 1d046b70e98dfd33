"""Tells the loss of another rank, which is worth another try, from a failure of one's own."""

from __future__ import annotations

import os

_WORDS = ("Connection closed by peer", "Connection reset by peer")


def lost_a_rank(error: BaseException) -> bool:
    """Whether a collective failed because another rank went away; gloo tells it in words alone.

    A rank that is alone has lost none: the connection that such words are about is one to its data or its trackers.
    """
    from torch.distributed import DistError

    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, DistError) or any(word in str(error) for word in _WORDS)
