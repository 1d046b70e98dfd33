"""The errors that a user can cause here, and the exit codes that a job's target and every command keep to."""

from __future__ import annotations

import signal

EXIT_DONE = 0
EXIT_FAILURE = 1
EXIT_WRONG_INPUT = 2
EXIT_SAVED = 75
"""Saved, run me again."""
EXIT_LOST_RANK = 76
"""Another rank went away in the middle (its node failed, it was killed): run me again."""


def has_died(code: int) -> bool:
    """Whether an exit code tells of a death, which running again may mend, and not of a mistake."""
    return code >= 128 or code == EXIT_LOST_RANK


def death_of(code: int) -> str:
    """How a job died, in words, by an exit code that tells of a death."""
    if code <= 128:
        return f"lost a rank (exit code {code})"
    try:
        return f"was killed by {signal.Signals(code - 128).name}"
    except ValueError:
        return f"died with exit code {code}"


class ClusterError(ValueError):
    """A user's mistake about the cluster, told in one sentence: what was given, what is allowed, what to do.

    The command line prints the sentence and leaves with exit code 2.
    """
