"""What runs on each rank: finds its place, exports it, calls the job's target and leaves with its exit code.

Run as `python -m slurm.task PAYLOAD`. Stop signals belong to the target, which installs handlers of its own; until it
has, nothing has begun that could be lost, and a signal ends the rank as "saved, run me again".
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
import zlib
from pathlib import Path
from types import FrameType

from slurm.errors import EXIT_DONE, EXIT_FAILURE, EXIT_SAVED, EXIT_WRONG_INPUT, ClusterError
from slurm.job import Job, Payload, read_payload, write_private
from slurm.requeue import restart_count, saved_note

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
# Ranks whose supervisor is gone save on SIGTERM; this long at most.
_ORPHAN_GRACE_S = 60.0


def main(payload_path: str) -> int:
    """Runs this rank's part of the job; returns the exit code of the process."""
    for number in _STOP_SIGNALS:
        signal.signal(number, _leave_unstarted)
    try:
        payload = read_payload(Path(payload_path))
        job = payload.jobs[int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))]
    except ClusterError as error:
        print(error, file=sys.stderr)
        return EXIT_WRONG_INPUT
    _watch_supervisor()
    export(payload)
    return _report(call(job), Path(payload_path))


def _report(code: int, payload_path: Path) -> int:
    """The exit code of this process for the target's.

    SLURM ends all ranks as soon as one leaves with something else than 0, even where the others are about to leave
    with the same. So "saved" is told by a file of rank 0, which `slurm.requeue` reads after all have left.
    """
    if code != EXIT_SAVED:
        return code
    leads = os.environ["RANK"] == "0"
    if "SLURM_JOB_ID" not in os.environ:
        return EXIT_SAVED if leads else EXIT_DONE
    if leads:
        write_private(saved_note(payload_path), restart_count())
    return EXIT_DONE


def call(job: Job) -> int:
    """Imports the target by name and calls it."""
    module, _, function = job.target.partition(":")
    code = getattr(importlib.import_module(module), function)(job.argument)
    if not isinstance(code, int):
        raise TypeError(f"{job.target} returned {code!r}; a target returns its exit code")
    return code


def export(payload: Payload) -> None:
    """Exports this rank's place (RANK, WORLD_SIZE, ...), its threads, the profile's variables and the network card.

    CUDA_VISIBLE_DEVICES stays as SLURM set it: a rank takes the device of its LOCAL_RANK.
    """
    # After the signal handlers: these imports take a while.
    from submitit.core.job_environment import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    from slurm.network import address_of, name_the_card

    os.environ.pop("MASTER_PORT", None)
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    environment = JobEnvironment()
    is_here = "HARNESS_LOCAL_PORT" in os.environ
    os.environ["MASTER_ADDR"] = "127.0.0.1" if is_here else address_of(os.environ["MASTER_ADDR"])
    os.environ["MASTER_PORT"] = str(_port(environment.job_id))
    os.environ["OMP_NUM_THREADS"] = str(payload.threads)
    os.environ["HARNESS_GPUS_PER_NODE"] = str(payload.gpus_per_node)
    os.environ.update(payload.environment)
    if not is_here:
        name_the_card(environment.hostnames, own=os.environ.get("SLURMD_NODENAME", environment.hostname))


def _port(job_id: str) -> int:
    """The same on every rank, another one after a requeue: the old one may still be held. Below the ephemeral range."""
    if "HARNESS_LOCAL_PORT" in os.environ:
        return int(os.environ["HARNESS_LOCAL_PORT"])
    return 20000 + zlib.crc32(f"{job_id}/{restart_count()}".encode()) % 12000


def _leave_unstarted(number: int, frame: FrameType | None) -> None:
    print(f"{signal.Signals(number).name} before the job had begun: leaving", file=sys.stderr, flush=True)
    os._exit(EXIT_SAVED)


def _watch_supervisor() -> None:
    """Ends this rank when the local supervisor that started it is gone."""
    if os.environ.pop("HARNESS_SUPERVISED", ""):
        threading.Thread(target=_end_with_supervisor, daemon=True).start()


def _end_with_supervisor() -> None:
    """The supervisor holds the other end of this rank's input, which closes with it, however it ends."""
    while os.read(0, 1):
        pass
    print("the supervisor is gone: saving and leaving", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _leave(code: int) -> None:
    """Ends the process at once: all is written, and tearing down a process group's threads may hang or abort it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m slurm.task PAYLOAD", file=sys.stderr)
        sys.exit(EXIT_WRONG_INPUT)
    try:
        exit_code = main(sys.argv[1])
    except Exception:
        import traceback

        traceback.print_exc()
        exit_code = EXIT_FAILURE
    _leave(exit_code)
