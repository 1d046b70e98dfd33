"""Claims: one owner at a time, whoever dies, whoever comes late; with real processes."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from itertools import pairwise
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.process import process_start
from sweeps import lock as lock_module
from sweeps.lock import STALE_AFTER_S, Claim, Heartbeat, alone, claim, holder
from sweeps.owner import Owner, this_machine, this_process

ELSEWHERE = Owner("another-host/boot/pid", 7, "123")


def take(folder: Path, owner: Owner | None = None) -> Claim:
    result = claim(folder, owner)
    assert isinstance(result, Claim)
    return result


def test_second_claim_is_told_who_holds_it(tmp_path: Path) -> None:
    take(tmp_path)
    assert claim(tmp_path, ELSEWHERE) == this_process()
    assert holder(tmp_path) == this_process()


def test_released_claim_can_be_taken(tmp_path: Path) -> None:
    take(tmp_path).release()
    assert holder(tmp_path) is None
    take(tmp_path, ELSEWHERE)
    assert holder(tmp_path) == ELSEWHERE


def test_listing_that_misses_a_claim_lets_nobody_take_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network file system's cache may, for some seconds."""
    real, listings = lock_module._numbers, [[], []]
    take(tmp_path)
    monkeypatch.setattr(lock_module, "_numbers", lambda lock: listings.pop() if listings else real(lock))
    assert claim(tmp_path, ELSEWHERE) == this_process()
    assert not listings


def test_claim_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from sweeps.lock import claim; import time; claim(Path({str(tmp_path)!r}));"
    child = subprocess.Popen(
        [sys.executable, "-c", code + "print('claimed', flush=True); time.sleep(60)"], stdout=subprocess.PIPE
    )
    assert child.stdout is not None and child.stdout.readline() == b"claimed\n"
    held = claim(tmp_path)
    assert isinstance(held, Owner) and held.pid == child.pid
    child.send_signal(signal.SIGKILL)
    child.wait()
    take(tmp_path)


def test_zombie_counts_as_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 10
    while process_start(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process_start(child.pid) is None, "an ended process that nobody waited for yet passes for alive"
    child.wait()


def test_pid_that_came_again_is_another_process(tmp_path: Path) -> None:
    take(tmp_path, Owner(this_machine(), os.getpid(), "an earlier start"))
    assert holder(tmp_path) is None


def test_claim_from_another_machine_lives_by_its_heartbeat(tmp_path: Path) -> None:
    claimed = take(tmp_path, ELSEWHERE)
    assert holder(tmp_path) == ELSEWHERE
    past = time.time() - STALE_AFTER_S - 1
    os.utime(claimed.path, (past, past))
    assert holder(tmp_path) is None
    claimed.touch()
    assert holder(tmp_path) == ELSEWHERE


@pytest.mark.parametrize("trouble", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_claim_from_another_machine_can_be_seen_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: int
) -> None:
    take(tmp_path, ELSEWHERE)

    def touch(path: Path) -> None:
        raise OSError(trouble, os.strerror(trouble), str(path))

    monkeypatch.setattr(Path, "touch", touch)
    assert holder(tmp_path) == ELSEWHERE


def test_claim_of_a_job_lives_as_long_as_the_job(tmp_path: Path) -> None:
    take(tmp_path).hand_over(Owner("", 0, "", "17_3"))
    assert holder(tmp_path, lambda job: job.job_id == "17_3") is not None
    assert holder(tmp_path, lambda job: False) is None
    assert holder(tmp_path, lambda job: None) is not None, "a queue that does not answer frees nothing"


def test_claim_that_a_later_version_tells_more_of_holds_and_a_damaged_one_does_not(tmp_path: Path) -> None:
    path = take(tmp_path, ELSEWHERE).path
    path.write_text(json.dumps({"owner": {**asdict(ELSEWHERE), "later": 1}}))
    assert holder(tmp_path) == ELSEWHERE
    path.write_text('{"owner": {"machine": "another-host/boot/pid"}}')
    assert holder(tmp_path) is None
    assert take(tmp_path).holds


def test_late_release_does_not_free_what_another_took_over(tmp_path: Path) -> None:
    old = take(tmp_path, Owner(this_machine(), os.getpid(), "dead"))
    new = take(tmp_path)
    old.release()
    assert holder(tmp_path) == this_process()
    assert new.holds and not old.holds


def test_claim_handed_over_by_a_process_that_left_at_once_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, job = take(tmp_path), Owner("", 0, "", "5")

    def look(owner: Owner, *rest: object) -> bool:
        """Finds the process gone, which handed its claim over after it was read."""
        if owner != job:
            held.hand_over(job)
        return owner == job

    monkeypatch.setattr(lock_module, "is_alive", look)
    assert claim(tmp_path, ELSEWHERE) == job


def test_one_process_after_the_other_is_alone(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from sweeps.lock import alone
place = Path({str(tmp_path)!r})
with alone(place, poll_s=0.01):
    began = time.monotonic()
    time.sleep(0.3)
    print(began, time.monotonic())
"""
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    times = sorted(tuple(map(float, child.communicate(timeout=30)[0].split())) for child in children)
    assert all(ended <= began for (_, ended), (began, _) in pairwise(times)), times


def test_old_claims_do_not_pile_up(tmp_path: Path) -> None:
    for _ in range(10):
        take(tmp_path).release()
    assert len(os.listdir(tmp_path / "lock")) <= 3


def test_claim_made_behind_a_stale_listing_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server's cache may show an old listing: then the number after it may even be free again."""
    for _ in range(5):
        take(tmp_path).release()
    take(tmp_path)
    numbers = lock_module._numbers
    stale = iter([[1]])
    monkeypatch.setattr(lock_module, "_numbers", lambda lock: next(stale, None) or numbers(lock))
    assert claim(tmp_path, ELSEWHERE) == this_process()


def _race(folder: str, start: float, queue: multiprocessing.Queue[bool], all_have_tried: Event) -> None:
    while time.time() < start:
        pass
    queue.put(isinstance(claim(Path(folder)), Claim))
    all_have_tried.wait(60)  # a claim of one that has left may be taken over


def test_a_link_whose_answer_got_lost_is_a_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An NFS client asks again, and the server says that the name is there: it is this very file."""
    link = os.link

    def asked_twice(*names: Path) -> None:
        link(*names)
        link(*names)

    monkeypatch.setattr(os, "link", asked_twice)
    made = claim(tmp_path)
    assert isinstance(made, Claim) and made.holds


def test_a_file_system_without_hard_links_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), *names)

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(InputError, match=r"has no hard links.* give --runs a folder on another\.$"):
        claim(tmp_path)
    assert list((tmp_path / "lock").iterdir()) == []


@pytest.mark.parametrize("before", ["nobody", "a dead owner", "a released claim"])
def test_of_eight_processes_that_want_it_at_once_one_gets_it(tmp_path: Path, before: str) -> None:
    if before == "a dead owner":
        take(tmp_path, Owner(this_machine(), 2**22 + 1, "0"))
    elif before == "a released claim":
        take(tmp_path).release()
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[bool] = context.Queue()
    start, all_have_tried = time.time() + 0.3, context.Event()
    racers = [context.Process(target=_race, args=(str(tmp_path), start, queue, all_have_tried)) for _ in range(8)]
    for racer in racers:
        racer.start()
    won = [queue.get(timeout=30) for _ in racers]
    all_have_tried.set()
    for racer in racers:
        racer.join()
    assert sum(won) == 1


def test_clock_of_this_machine_makes_no_heartbeat_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of files are the file server's."""
    take(tmp_path, ELSEWHERE)
    now = time.time()
    monkeypatch.setattr(lock_module.time, "time", lambda: now + 10 * STALE_AFTER_S)
    assert holder(tmp_path) == ELSEWHERE


def test_one_that_is_alone_says_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beaten: list[Claim] = []

    class Watched(Heartbeat):
        def __enter__(self) -> Heartbeat:
            beaten.extend(self._claims())
            return super().__enter__()

    monkeypatch.setattr(lock_module, "Heartbeat", Watched)
    with alone(tmp_path):
        assert [claimed.path.parent.parent for claimed in beaten] == [tmp_path]


def test_heartbeat_touches_the_claims_that_it_is_given(tmp_path: Path) -> None:
    claimed = take(tmp_path)
    os.utime(claimed.path, (1, 1))
    with Heartbeat(lambda: [claimed], every_s=0.01):
        deadline = time.monotonic() + 5
        while claimed.path.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert claimed.path.stat().st_mtime > 2


def test_heartbeat_outlives_a_passing_error_of_the_file_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = take(tmp_path)
    os.utime(claimed.path, (1, 1))
    errors = iter([OSError(errno.ESTALE, "Stale file handle"), OSError(errno.EIO, "Input/output error")])
    touch = Claim.touch

    def flaky(self: Claim) -> None:
        error = next(errors, None)
        if error is not None:
            raise error
        touch(self)

    monkeypatch.setattr(Claim, "touch", flaky)
    with Heartbeat(lambda: [claimed], every_s=0.01):
        deadline = time.monotonic() + 5
        while claimed.path.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert claimed.path.stat().st_mtime > 2


def test_heartbeat_outlives_a_phase_folder_that_was_removed(tmp_path: Path) -> None:
    claimed, other = take(tmp_path / "a"), take(tmp_path / "b")
    claimed.path.unlink()
    os.utime(other.path, (1, 1))
    with Heartbeat(lambda: [claimed, other], every_s=0.01):
        deadline = time.monotonic() + 5
        while other.path.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert other.path.stat().st_mtime > 2
