"""Whether compute nodes see the paths that were given on this machine.

Three looks, from the cheapest to the surest: the profile's own word (`shared`), the kind of file system that a path
lies on here, and a job of a second on an idle node. Where no node is idle, the first two have to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from slurm.probe import MARK
from slurm.profile import ClusterProfile
from slurm.queue import ask, client_variables, parse_fields

_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "overlay"})
"""File systems that no other machine can see."""
_IMMEDIATE_S = 10
_TIMEOUT_S = 60


@dataclass(frozen=True)
class Mount:
    """A mounted file system."""

    place: Path
    kind: str


def unseen(profile: ClusterProfile, reads: Sequence[Path], folder: Path | None, partition: str) -> Iterator[str]:
    """A sentence for each path that a compute node would not see as it is seen here.

    Args:
        reads: files and folders that jobs read.
        folder: where they write, which need not exist yet; None where even this machine cannot write there.
    """
    reads = [path.absolute() for path in reads]
    paths = [*reads, *([] if folder is None else [folder.absolute()])]
    yield from _not_shared(profile, paths)
    if not _nodes_are_here(partition):
        yield from _in_memory(paths, read_mounts())
    yield from _seen_from_a_node(profile, reads, None if folder is None else _existing(folder.absolute()), partition)


def _not_shared(profile: ClusterProfile, paths: Sequence[Path]) -> Iterator[str]:
    shared = [Path(prefix) for prefix in profile.shared]
    for path in paths:
        if shared and not any(path.is_relative_to(prefix) for prefix in shared):
            said = ", ".join(profile.shared)
            yield f"{path}: is not under what profile '{profile.name}' calls shared ({said}); move it there."


def _in_memory(paths: Sequence[Path], mounts: Sequence[Mount]) -> Iterator[str]:
    for path in paths:
        mount = mount_of(path, mounts)
        if mount is not None and mount.kind in _IN_MEMORY:
            yield f"{path}: lies on {mount.kind} of this machine, which no compute node sees; use a shared folder."


def mount_of(path: Path, mounts: Sequence[Mount]) -> Mount | None:
    """The file system that a path lies on: the innermost, and of several at one place the last."""
    above = [mount for mount in mounts if Path(os.path.realpath(path)).is_relative_to(mount.place)]
    return max(above, key=lambda mount: len(mount.place.parts), default=None)


def read_mounts(text: str | None = None) -> list[Mount]:
    """The mounts of /proc/self/mountinfo, the last of a place first; empty where there is no such file."""
    if text is None:
        try:
            text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
    mounts = []
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        place = fields.split()[4].encode("latin-1", "replace").decode("unicode_escape")  # \\040 is a space
        mounts.append(Mount(Path(place), rest.split()[0]))
    return mounts[::-1]


def _nodes_are_here(partition: str) -> bool:
    """Whether all nodes of a partition are this machine, as on a development cluster."""
    names = ask("sinfo", "--noheader", "--Node", "--partition", partition, "--format", "%N").split()
    if not names:
        return False
    nodes = map(parse_fields, ask("scontrol", "show", "node", ",".join(sorted(set(names))), "--oneliner").splitlines())
    own = {"localhost", socket.gethostname(), socket.gethostname().split(".")[0]}
    return all(node.get("NodeAddr", "").startswith("127.") or node.get("NodeHostName") in own for node in nodes)


def _seen_from_a_node(
    profile: ClusterProfile, reads: Sequence[Path], folder: Path | None, partition: str
) -> Iterator[str]:
    """Asks an idle node; a folder counts as seen where a file that was written here just now is there too."""
    if not ask("sinfo", "--noheader", "--partition", partition, "--states", "idle", "--format", "%N").strip():
        return
    with contextlib.ExitStack() as stack:
        witnesses = [] if folder is None else [stack.enter_context(_witness(folder)).name]
        said = _run_probe(profile, [str(path) for path in reads], witnesses)
    if said is None:
        return
    if isinstance(said, str):
        yield (
            f"a node of partition '{partition}' could not run this Python and project ({said});"
            " mend python, setup or container in the profile, or install the project where the nodes see it."
        )
        return
    for path in said["unread"]:
        yield f"{path}: a node of partition '{partition}' cannot read it; move it to a folder that the nodes share."
    if said["unwritten"]:
        yield f"{folder}: is not the same writable folder on a node of partition '{partition}'; give a shared one."


def _witness(folder: Path) -> IO[bytes]:
    return tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-")


def _run_probe(profile: ClusterProfile, reads: list[str], written: list[str]) -> dict[str, list[str]] | str | None:
    """What the probe found; what was said where it could not run; None where no node was free after all."""
    python = [*profile.container, profile.python or sys.executable, "-m", "slurm.probe", *reads, "--", *written]
    script = "\n".join([*profile.setup, f"exec {shlex.join(python)}"])
    words = ["srun", f"--immediate={_IMMEDIATE_S}", "--quiet", "--job-name=harness-preflight", "--time=2"]
    words += ["--nodes=1", "--ntasks=1", *_own_place(profile), "bash", "-c", script]
    environment = client_variables(profile.slurm_conf)
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return None
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return dict(json.loads(line.removeprefix(MARK)))
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if any("allocat" in line or "busy" in line for line in lines):
        return None
    own = [line for line in lines if not line.startswith("srun:")]
    return (own or lines or ["it said nothing"])[-1]


def _own_place(profile: ClusterProfile) -> list[str]:
    wanted = {
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "gpus-per-node": 1 if profile.gpus_per_node else None,
    }
    return [f"--{name}={value}" for name, value in wanted.items() if value is not None]


def _existing(folder: Path) -> Path:
    return next(place for place in [folder, *folder.parents] if place.exists())
