"""Claims on phases that survive a dead owner, for processes that share a file system and nothing else.

A claim is a file `lock/NNNNNN`, made by a hard link, which one process alone can make. The highest number holds. A
free or dead claim is never removed but outnumbered: taking over number n means making n + 1, so two processes that
both find n dead cannot both get it, and a late release of n touches nobody else's claim. Works on NFS, where links are
atomic and file locks often are not.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from harness.errors import InputError
from sweeps.layout import create_private, read_json, write_atomically
from sweeps.owner import JobAlive, Owner, is_alive, this_process

HEARTBEAT_S = 15.0
STALE_AFTER_S = 120.0
_KEPT_NUMBERS = 2
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}


@dataclass(frozen=True)
class Claim:
    """A claim that this process made on the thing whose folder holds `path`."""

    path: Path
    owner: Owner

    @property
    def holds(self) -> bool:
        """Whether nobody has taken it over in the meantime."""
        return _highest(self.path.parent) == int(self.path.name)

    def hand_over(self, owner: Owner) -> Claim:
        """Gives the claim to another owner, such as the SLURM job that was submitted under it."""
        write_atomically(self.path, _text(owner))
        return Claim(self.path, owner)

    def release(self) -> None:
        """Frees it, unless somebody else holds it by now."""
        if self.holds:
            write_atomically(self.path, _text(None))

    def touch(self) -> None:
        """Says that the owner lives, for readers on other machines."""
        os.utime(self.path)


def claim(folder: Path, owner: Owner | None = None, job_alive: JobAlive = lambda job: None) -> Claim | Owner:
    """Claims what lies in `folder` for `owner` (this process by default).

    Returns:
        The claim, or the living owner that is in the way.

    Raises:
        InputError: the file system has no hard links.
    """
    owner = owner or this_process()
    lock = folder / "lock"
    create_private(lock)
    while True:
        number = _highest(lock)
        current = _read(lock, number)
        if current is not None and _lives(lock, number, current, job_alive):
            return current
        if _read(lock, number) != current:  # handed over just now, by a process that is gone since
            continue
        if _make(lock, number + 1, owner):
            _forget_old(lock, number + 1)
            return Claim(lock / _name(number + 1), owner)


@contextmanager
def alone(folder: Path, on_wait: Callable[[Owner], None] = lambda other: None, poll_s: float = 0.2) -> Iterator[None]:
    """Waits until no other process holds what lies in `folder`, and holds it over the block.

    `on_wait` is called for each process that is waited for.
    """
    told = None
    while isinstance(held := claim(folder), Owner):
        if held != told:
            told = held
            on_wait(held)
        time.sleep(poll_s)
    try:
        with Heartbeat(lambda: [held]):
            yield
    finally:
        held.release()


def holder(folder: Path, job_alive: JobAlive = lambda job: None) -> Owner | None:
    """The living owner of what lies in `folder`, if any."""
    lock = folder / "lock"
    number = _highest(lock)
    current = _read(lock, number)
    return current if current is not None and _lives(lock, number, current, job_alive) else None


class Heartbeat:
    """Touches this process's claims from a thread, as long as it lives. A context manager."""

    def __init__(self, claims: Callable[[], Iterable[Claim]], every_s: float = HEARTBEAT_S) -> None:
        self._claims = claims
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._every_s):
            for claimed in list(self._claims()):
                try:
                    claimed.touch()
                except OSError:  # forgotten or removed; a file server's hiccup is over by a later beat
                    continue


def _lives(lock: Path, number: int, owner: Owner, job_alive: JobAlive) -> bool:
    return is_alive(owner, lambda: _age_s(lock, number), STALE_AFTER_S, job_alive)


def _age_s(lock: Path, number: int) -> float:
    """Seconds since the heartbeat, both times by the file server's clock: clocks of machines differ."""
    probe = lock / f".now.{uuid.uuid4().hex}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        return now - (lock / _name(number)).stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    except OSError:  # no right to write there, a disk that is full or read-only: this machine's clock has to do
        return time.time() - (lock / _name(number)).stat().st_mtime


def _make(lock: Path, number: int, owner: Owner) -> bool:
    """Makes claim `number` whole and at once; False where another process was faster."""
    temporary = lock / f".claim.{uuid.uuid4().hex}"
    temporary.write_text(_text(owner), encoding="utf-8")
    try:
        if not _linked(temporary, lock / _name(number)):
            return False
    finally:
        temporary.unlink()
    # A listing from a cache may have missed higher numbers: then this claim counts for nothing.
    return _highest(lock) == number


def _linked(temporary: Path, target: Path) -> bool:
    """Whether the file has its second name now; on NFS, asking again after a lost answer finds that it already has."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return temporary.stat().st_nlink == 2
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise InputError(
            f"{target.parent}: this file system has no hard links, by which one process alone can take a phase; give "
            "--runs a folder on another."
        ) from None
    return True


def _forget_old(lock: Path, number: int) -> None:
    for old in _numbers(lock):
        if old <= number - _KEPT_NUMBERS:
            (lock / _name(old)).unlink(missing_ok=True)


def _numbers(lock: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(lock) if name.isdigit()]
    except FileNotFoundError:
        return []


def _highest(lock: Path) -> int:
    return max(_numbers(lock), default=0)


def _name(number: int) -> str:
    return f"{number:06d}"


def _text(owner: Owner | None) -> str:
    return json.dumps({"owner": asdict(owner) if owner else None})


def _read(lock: Path, number: int) -> Owner | None:
    """The owner named by a claim; None where it is free, or damaged. What a later version says besides is left out."""
    if number == 0:
        return None
    values: Any = (read_json(lock / _name(number)) or {}).get("owner")
    try:
        return Owner(**{key.name: values[key.name] for key in fields(Owner) if key.name in values})
    except TypeError:
        return None
