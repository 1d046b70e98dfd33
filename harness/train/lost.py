"""Tells the loss of another rank, which is worth another try, from a failure of one's own."""

from __future__ import annotations

_WORDS = ("Connection closed by peer", "Connection reset by peer")


def lost_a_rank(error: BaseException) -> bool:
    """Whether a collective failed because another rank went away; gloo tells it in words alone."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or any(word in str(error) for word in _WORDS)
