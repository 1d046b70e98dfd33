"""A development cluster: a real SLURM of several nodes on this machine, under a folder of its own.

`python -m slurm.devcluster start|stop|status --nodes N --folder DIR`. It runs as root, because munged and slurmd want
it; on Debian and Ubuntu the packages are installed where they are missing. No configuration of the system is touched:
munged has its own key and socket, and SLURM reads `DIR/slurm.conf`. Two partitions lie over the same nodes: `low`,
whose jobs are preempted by those of `high` (SIGTERM, some seconds of grace, then requeued by SLURM).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slurm.dev.conf import NodeShape, with_user_signal, write_conf
from slurm.dev.processes import is_alive, job_processes
from slurm.dev.programs import install, path_of
from slurm.dev.requirements import why_not
from slurm.errors import EXIT_DONE, EXIT_WRONG_INPUT, ClusterError
from slurm.queue import ask, client_variables

DEFAULT_FOLDER = Path(".dev-slurm")
_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class DevCluster:
    """One development cluster, by its folder."""

    folder: Path
    nodes: int = 2
    cpus: int = 4
    grace_s: int = 30
    """Between the signal of a preemption and SIGKILL."""
    node_timeout_s: int = 20
    """A slurmd that is silent so long has failed."""
    kill_wait_s: int = 30
    """Between SIGTERM and SIGKILL of a cancelled job."""
    gpus: int = 0
    """GPUs of each node that SLURM hands out, of type `dev`; there is nothing behind them."""
    user_signal: bool = False
    """Preempted jobs get the signal of `--signal` instead of SIGTERM (send_user_signal)."""

    @property
    def conf(self) -> Path:
        return self.folder.absolute() / "slurm.conf"

    def start(self) -> None:
        """Starts every daemon that does not run, and waits until all nodes can take jobs.

        Raises:
            ClusterError: not root, the programs cannot be installed, or a daemon does not come up.
        """
        reason = why_not()
        if reason:
            raise ClusterError(f"the development cluster cannot run here: {reason}.")
        # An address of a Unix socket holds 107 bytes.
        if len(os.fsencode(self.folder.absolute() / "munge.socket")) > 107:
            raise ClusterError(f"{self.folder.absolute()}: is too long a path for munge's socket; give a shorter one.")
        if not self.is_up():
            self.stop()
            install()
            self._write_files()
            self._start_munged()
            self._run("slurmctld")
        for node in self.node_names():
            if not is_alive(self._pid(f"slurmd-{node}")):
                self.start_node(node)
        _wait(self._all_here, _START_TIMEOUT_S, f"the nodes did not come up; see {self.folder}/log")

    def stop(self) -> None:
        """Cancels what runs, ends every daemon and every process of a job, and waits until they are gone."""
        if not self.conf.exists():
            return
        if self.is_up():
            with contextlib.suppress(ClusterError):
                self.ask("scancel", "--signal=KILL", "--full", "--user", "root", timeout_s=10)
                self.ask("scancel", "--user", "root", timeout_s=10)
        for name in [*(f"slurmd-{node}" for node in self.node_names()), "slurmctld", "munged"]:
            self._end(name)
        for pid in self.job_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def node_names(self) -> list[str]:
        """The nodes of the cluster as it was started."""
        if not self.conf.exists():
            return [f"n{number}" for number in range(1, self.nodes + 1)]
        line = next(line for line in self.conf.read_text().splitlines() if line.startswith("NodeName=n["))
        return [f"n{n}" for n in range(1, int(line.split("-")[1].split("]")[0]) + 1)]

    def is_up(self) -> bool:
        """Whether the controller answers."""
        if not self.conf.exists() or not is_alive(self._pid("slurmctld")):
            return False
        try:
            return "UP" in self.ask("scontrol", "ping", timeout_s=10)
        except ClusterError:
            return False

    def ask(self, *words: str, timeout_s: float = 60) -> str:
        """The output of one of SLURM's commands on this cluster."""
        return ask(*words, timeout_s=timeout_s, slurm_conf=str(self.conf))

    def node_states(self) -> dict[str, str]:
        """SLURM's state of each node, for example `idle` or `down*`."""
        lines = self.ask("sinfo", "--noheader", "--Node", "--partition", "low", "--format", "%N %t").splitlines()
        return dict(line.split() for line in lines)  # type: ignore[misc]

    def start_node(self, node: str) -> None:
        """Starts (again) the slurmd of a node."""
        self._run("slurmd", "-N", node)

    def end_node(self, node: str) -> None:
        """Ends the slurmd of a node in an orderly way."""
        self._end(f"slurmd-{node}")

    def wait_state(self, node: str, state: str) -> None:
        """Waits until SLURM says this of a node."""
        _wait(lambda: self.node_states()[node] == state, _START_TIMEOUT_S, f"{node} did not become {state}")

    def node_pid(self, node: str) -> int:
        """The process id of a node's slurmd."""
        pid = self._pid(f"slurmd-{node}")
        assert pid is not None, f"{node} was never started"
        return pid

    def kill_node(self, node: str) -> None:
        """The node fails: its slurmd and everything that it started are killed at once."""
        os.kill(self.node_pid(node), signal.SIGKILL)
        for job_pid in self.job_processes(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(job_pid, signal.SIGKILL)

    def use_user_signal(self, on: bool) -> None:
        """Switches send_user_signal; the controller is started anew, since it reads that only once. Jobs run on."""
        self.conf.write_text(with_user_signal(self.conf.read_text(), on))
        self.end_controller()
        self.start_controller()

    def end_controller(self) -> None:
        """Ends slurmctld; jobs run on."""
        self._end("slurmctld")

    def start_controller(self) -> None:
        """Starts slurmctld again, with what it knew, and waits until it answers."""
        self._run("slurmctld")
        _wait(self.is_up, _START_TIMEOUT_S, f"slurmctld did not come back; see {self.folder}/log")

    def job_processes(self, node: str | None = None) -> list[int]:
        """Processes of jobs (of one node): ranks, batch shells, and SLURM's own attendants of each step."""
        return job_processes(self.conf, self.node_names(), node)

    def _write_files(self) -> None:
        folder = self.folder.absolute()
        for part in ("state", "spool", "log"):
            shutil.rmtree(folder / part, ignore_errors=True)
            (folder / part).mkdir(parents=True)
        folder.chmod(0o755)
        key = folder / "munge.key"
        key.unlink(missing_ok=True)
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(1024))
        shape = NodeShape(self.nodes, self.cpus, self.gpus)
        write_conf(folder, shape, self.grace_s, self.node_timeout_s, self.kill_wait_s)
        if self.user_signal:
            self.conf.write_text(with_user_signal(self.conf.read_text(), True))

    def _start_munged(self) -> None:
        folder = self.folder.absolute()
        names = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        words = [f"--{option}={folder / name}" for option, name in {**names, "log-file": "log/munged.log"}.items()]
        self._run("munged", "--force", *words)

    def _run(self, program: str, *words: str) -> None:
        command = [path_of(program), *words]
        environment = client_variables(str(self.conf))
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_START_TIMEOUT_S, check=False
        )
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())
            raise ClusterError(f"{program} did not start ({said}); see {self.folder}/log.")

    def _pid(self, name: str) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int((self.folder / f"{name}.pid").read_text())
        return None

    def _end(self, name: str) -> None:
        pid = self._pid(name)
        if not is_alive(pid):
            return
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(ClusterError):
            _wait(lambda: not is_alive(pid), _STOP_TIMEOUT_S, "")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        (self.folder / f"{name}.pid").unlink(missing_ok=True)

    def _all_here(self) -> bool:
        try:
            states = self.node_states()
        except ClusterError:
            return False
        return len(states) == len(self.node_names()) and set(states.values()) <= {"idle", "mix", "alloc", "comp"}


def _wait(condition: Callable[[], bool], timeout_s: float, message: str) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise ClusterError(message)
        time.sleep(0.1)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m slurm.devcluster", description="A real SLURM on this machine.")
    parser.add_argument("action", choices=["start", "stop", "status"])
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--grace", type=int, default=30, help="seconds between a preemption's signal and SIGKILL")
    parser.add_argument("--user-signal", action="store_true", help="preemption sends the signal of --signal")
    given = parser.parse_args(arguments)
    cluster = DevCluster(given.folder, nodes=given.nodes, grace_s=given.grace, user_signal=given.user_signal)
    try:
        if given.action == "start":
            cluster.start()
        elif given.action == "stop":
            cluster.stop()
        print(_describe(cluster))
    except ClusterError as error:
        print(error, file=sys.stderr)
        return EXIT_WRONG_INPUT
    return EXIT_DONE


def _describe(cluster: DevCluster) -> str:
    if not cluster.is_up():
        return f"no development cluster runs in {cluster.folder}"
    nodes = ", ".join(f"{node} {state}" for node, state in cluster.node_states().items())
    return f"{nodes}\nexport SLURM_CONF={cluster.conf}"


if __name__ == "__main__":
    sys.exit(main())
