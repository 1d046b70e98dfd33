"""The errors that a user can cause, and the exit codes that every command keeps to."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILURE = 1
EXIT_WRONG_INPUT = 2
EXIT_SAVED = 75
EXIT_LOST_RANK = 76
"""Another rank went away in the middle (it was killed, its node was lost): run me again."""


class InputError(ValueError):
    """A user's mistake, told in one sentence: what was given, what is allowed, what to do.

    The command line prints the sentence and leaves with the exit code.
    """

    exit_code = EXIT_WRONG_INPUT


class NotWritten(InputError):
    """A place that cannot be written; the sentence names it."""


class DataError(InputError):
    """A dataset, shard or sample that cannot be used; the sentence names the file and, where known, the key."""


class UnreachableError(DataError):
    """Data that cannot be had now: a network or disk that fails, a shard that was taken away, a cache without room.

    No sample is to blame, and none is replaced on its account.
    """

    exit_code = EXIT_FAILURE


class CacheFullError(UnreachableError):
    """No room in the cache: files that somebody has open fill it."""


class CheckpointError(InputError):
    """A checkpoint that cannot be used; the sentence names the file."""


class TrainingError(RuntimeError):
    """Training went wrong by itself (non-finite numbers, a collapse)."""

    exit_code = EXIT_FAILURE


class NetworksTooLarge(TrainingError):
    """The networks do not fit in memory, so nothing was trained with them."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, for a sentence; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
