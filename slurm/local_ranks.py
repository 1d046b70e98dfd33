"""The ranks of one start of a job on this machine: processes that know their places, and that leave together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from slurm.errors import EXIT_DONE, EXIT_SAVED, ClusterError
from slurm.gpus import gpus_of_slot
from slurm.profile import ClusterProfile
from slurm.queue import client_variables

# Ranks that lost a peer have nothing left to save together; the pause lets them print why they leave.
_AFTER_DEATH_S = 2.0


class LocalRanks:
    """One start of a job: its ranks begin with the object, in sessions of their own.

    Should the process that holds it end, by SIGKILL even, they notice, save and leave.

    Args:
        own: the folder of the submission, called by the job's id, which holds `payload.json` and gets the logs.
        slot: the job's place among those that run at once, which decides its GPUs.

    Raises:
        ClusterError: the profile's Python or container cannot be started.
    """

    def __init__(self, own: Path, profile: ClusterProfile, slot: int) -> None:
        self.slot = slot
        self._own = own
        self._profile = profile
        self._first_bad: int | None = None
        self._kill_at = float("inf")
        port = _free_port()
        self._ranks = [self._start(rank, port) for rank in range(profile.ranks_per_node)]

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(rank.pid for rank in self._ranks)

    def ask_to_save(self) -> None:
        """Asks every rank that is here to save and leave."""
        for rank in self._ranks:
            if rank.poll() is None:
                rank.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kills the ranks and whatever they started; each leads a process group of its own."""
        for rank in self._ranks:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(rank.pid, signal.SIGKILL)

    def poll(self, patience_s: float) -> int | None:
        """The exit code of the start, 128 + N where signal N ended it; None while a rank is here.

        Once one rank has left, the others are killed: where it died, soon, else after `patience_s`.
        """
        codes = [rank.poll() for rank in self._ranks]
        bad = [code for code in codes if code not in (None, EXIT_DONE, EXIT_SAVED)]
        if bad and self._first_bad is None:
            # A death explains the failures that it causes in the other ranks.
            self._first_bad = min(code for code in bad if code is not None)
            self._kill_at = time.monotonic() + _AFTER_DEATH_S
        elif EXIT_SAVED in codes or EXIT_DONE in codes:
            self._kill_at = min(self._kill_at, time.monotonic() + patience_s)
        if None in codes:
            if time.monotonic() > self._kill_at:
                self.kill()
            return None
        for rank in self._ranks:
            assert rank.stdin is not None
            rank.stdin.close()
        code = self._first_bad if self._first_bad is not None else codes[0]
        assert code is not None
        return 128 - code if code < 0 else code

    def _start(self, rank: int, port: int) -> subprocess.Popen[bytes]:
        command = [*self._profile.container, self._profile.python or sys.executable, "-u", "-m", "slurm.task"]
        log = f"{self._own.name}_{rank}_log"
        with open(self._own / f"{log}.out", "ab") as output, open(self._own / f"{log}.err", "ab") as errors:
            try:
                # A session of its own: Ctrl-C reaches the supervisor alone, which then asks the ranks once.
                return subprocess.Popen(
                    [*command, str(self._own / "payload.json")],
                    env=rank_environment(self._profile, self._own.name, rank, self.slot, port),
                    stdin=subprocess.PIPE,  # closes when the supervisor ends, which the rank watches
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,
                )
            except OSError as error:
                why = f"{command[0]}: cannot be started ({error.strerror})"
                raise ClusterError(f"{why}; mend python or container of the profile '{self._profile.name}'.") from None


def rank_environment(profile: ClusterProfile, job_id: str, rank: int, slot: int, port: int) -> dict[str, str]:
    """The variables by which submitit's local executor tells a rank its place, and our own."""
    environment = client_variables(None)
    gpus = profile.gpus_per_node
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus_of_slot(slot, gpus))
    return environment | {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": job_id,
        "SUBMITIT_LOCAL_NTASKS": str(profile.ranks_per_node),
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_LOCAL_NODEID": "0",
        "SUBMITIT_LOCAL_GLOBALID": str(rank),
        "SUBMITIT_LOCAL_LOCALID": str(rank),
        "HARNESS_LOCAL_PORT": str(port),
        "HARNESS_SUPERVISED": "1",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
