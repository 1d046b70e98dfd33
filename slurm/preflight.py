"""What this cluster would refuse or break later, found before anything is submitted; every reason at once."""

from __future__ import annotations

import contextlib
import math
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slurm.batches import Batch
from slurm.errors import ClusterError
from slurm.gpus import allowed_gpus, gpus_here
from slurm.job import Job
from slurm.launch import make_executor, task_command
from slurm.profile import ClusterProfile
from slurm.queue import ask, client_environment, minutes, parse_fields
from slurm.reach import unseen

_BYTES_A_GB = 1 << 30
# Of sinfo's `gpu:4`, `gpu:a100:4(S:0-1)` or `gpu:(null):4`: type and number.
_GPUS = re.compile(r"\bgpu(?::(\(null\)|[^:,()]+))?:(\d+)")


@dataclass(frozen=True)
class Node:
    """What one node of a partition has."""

    cpus: int
    memory_mb: int
    gpus: int


def cluster_reasons(
    profile: ClusterProfile,
    folder: Path,
    *,
    num_jobs: int = 1,
    save_s: float | None = None,
    need_gb: float = 0,
    reads: Sequence[Path] = (),
) -> list[str]:
    """Why jobs with this profile cannot run, or could not come back; empty where nothing speaks against it.

    Args:
        folder: where runs and logs go.
        save_s: how long a save was measured to take, signal to exit; None where it is not known.
        need_gb: the space that the runs are estimated to need.
        reads: files and folders that the jobs will read.
    """
    reasons = list(_folder(folder, need_gb))
    can_write = not reasons
    if profile.executor == "local":
        reasons += _own_gpus(profile, gpus_here())
    if profile.executor == "slurm":
        if "%" in str(folder.absolute()):
            reasons.append(f"{folder}: SLURM replaces '%' in paths of logs; give a folder without it.")
        with client_environment(profile.slurm_conf):
            try:
                reasons += _slurm(profile, num_jobs, save_s, reads, folder if can_write else None)
            except ClusterError as error:
                reasons.append(str(error))
    return reasons


def _folder(folder: Path, need_gb: float) -> Iterator[str]:
    place = folder.absolute()
    existing = next(parent for parent in [place, *place.parents] if parent.exists())
    if not existing.is_dir():
        yield f"{existing}: is a file where a folder is needed; give another."
        return
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        yield f"{existing}: cannot be written ({error.strerror}); give another folder."
        return
    about = os.statvfs(existing)
    free_gb = about.f_bavail * about.f_frsize / _BYTES_A_GB
    if free_gb < need_gb:
        yield f"{existing}: has {free_gb:.1f} GiB free, the runs need about {need_gb:.1f}; free some, or give another."


def _own_gpus(profile: ClusterProfile, there: int | None) -> Iterator[str]:
    wanted = profile.gpus_per_node * profile.max_parallel
    if there is not None and wanted > there:
        asked = f"gpus_per_node {profile.gpus_per_node} x max_parallel {profile.max_parallel}"
        has = there or "none"
        who = "this machine has" if allowed_gpus() is None else "CUDA_VISIBLE_DEVICES leaves"
        yield f"profile '{profile.name}': {asked} GPUs are wanted here, but {who} {has}; lower one of them."


def _slurm(
    profile: ClusterProfile, num_jobs: int, save_s: float | None, reads: Sequence[Path], folder: Path | None
) -> list[str]:
    partitions = read_partitions()
    name = profile.partition or default_partition(partitions)
    if name is None:
        return [f"the cluster has no default partition; name one of {', '.join(partitions)} in the profile."]
    names = name.split(",")  # sbatch takes several: a job runs in any of them
    unknown = [each for each in names if each not in partitions]
    if unknown:
        return [f"partition '{unknown[0]}' does not exist; use one of {', '.join(partitions)}."]
    config = read_config()
    reasons = [*_queue(config, num_jobs), *_time_signal(profile, save_s)]
    for each in names:
        reasons += [*_limits(profile, each, partitions[each]), *_nodes(profile, each)]
        reasons += _preemption(profile, each, partitions[each], config, save_s)
    reasons += unseen(profile, reads, folder, name)
    return reasons or list(_trial(profile))


def note_of_gpus(profile: ClusterProfile) -> str | None:
    """What a profile without GPUs leaves idle on nodes that have some; None where it leaves none, or nobody knows."""
    if profile.gpus_per_node or any("gpu" in f"{key} {value}" for key, value in profile.options.items()):
        return None
    if profile.executor == "local":
        there = gpus_here() or 0
        text = f"this machine has {there} GPUs, of which all jobs take the first"
        return f"{text}; give each its own by gpus_per_node in a profile." if there > 1 else None
    with contextlib.suppress(ClusterError), client_environment(profile.slurm_conf):
        name = profile.partition or default_partition(read_partitions())
        there = max((node.gpus for node in read_nodes(name)), default=0) if name else 0
        if there:
            text = f"the nodes of partition '{name}' have up to {there} GPUs, but profile '{profile.name}'"
            return f"{text} asks for none, so its jobs compute on CPUs; set its gpus_per_node."
    return None


def read_partitions() -> dict[str, dict[str, str]]:
    """The fields of every partition by its name."""
    lines = ask("scontrol", "--all", "show", "partition", "--oneliner").splitlines()  # hidden ones may be used as well
    found = [parse_fields(line) for line in lines if line.strip()]
    return {fields["PartitionName"]: fields for fields in found}


def default_partition(partitions: dict[str, dict[str, str]]) -> str | None:
    """The partition of a job that names none."""
    return next((name for name, fields in partitions.items() if fields.get("Default") == "YES"), None)


def read_config() -> dict[str, str]:
    """SLURM's configuration as `scontrol show config` prints it."""
    lines = ask("scontrol", "show", "config").splitlines()
    pairs = [line.split("=", 1) for line in lines if "=" in line]
    return {key.strip(): value.strip() for key, value in pairs}


def _limits(profile: ClusterProfile, name: str, partition: dict[str, str]) -> Iterator[str]:
    if partition.get("State", "UP") != "UP":
        yield f"partition '{name}' is {partition['State']}; use another, or wait until it is up."
    most_min = minutes(partition.get("MaxTime", "UNLIMITED"))
    if profile.time_min > most_min:
        yield f"time_min {profile.time_min} is above the {most_min:.0f} min of partition '{name}'; lower it."
    most_nodes = partition.get("MaxNodes", "UNLIMITED")
    if most_nodes.isdigit() and profile.nodes > int(most_nodes):
        yield f"nodes {profile.nodes} is above the {most_nodes} that partition '{name}' gives one job; lower it."
    for given, kind, key in ((profile.account, "account", "Accounts"), (profile.qos, "qos", "Qos")):
        allowed, denied = partition.get(f"Allow{key}", "ALL"), partition.get(f"Deny{key}", "").split(",")
        if given and (given in denied or (allowed != "ALL" and given not in allowed.split(","))):
            yield f"{kind} '{given}' may not use partition '{name}' (allowed: {allowed}); use another."


def _nodes(profile: ClusterProfile, name: str) -> Iterator[str]:
    nodes = read_nodes(name, profile.gpu_type)
    cpus = profile.ranks_per_node * profile.cpus_per_task
    memory_mb = (profile.memory_gb or 0) * 1024
    of_type = f" (gpu_type {profile.gpu_type})" if profile.gpu_type else ""
    wanted: list[tuple[str, float, list[float]]] = [
        (f"gpus_per_node{of_type}", profile.gpus_per_node, [node.gpus for node in nodes]),
        ("cpus_per_task times the ranks of a node", cpus, [node.cpus for node in nodes]),
        ("memory_gb", profile.memory_gb or 0, [node.memory_mb / 1024 for node in nodes]),
    ]
    for key, number, there in wanted:
        most = max(there, default=0.0)
        if number > most:
            yield f"{key} is {number:g}, but the nodes of partition '{name}' have at most {most:g}; lower it."
    if profile.nodes > len(nodes):
        yield f"nodes is {profile.nodes}, but partition '{name}' has {len(nodes)}; lower it."
    fitting = [n for n in nodes if n.gpus >= profile.gpus_per_node and n.cpus >= cpus and n.memory_mb >= memory_mb]
    if 0 < len(fitting) < profile.nodes <= len(nodes):
        yield f"only {len(fitting)} nodes of partition '{name}' have all that {profile.nodes} nodes need; ask for less."


def read_nodes(partition: str, gpu_type: str | None = None) -> list[Node]:
    """The nodes of a partition, whatever their state, with their GPUs of one type or of all."""
    lines = ask("sinfo", "--noheader", "--Node", "--partition", partition, "--format", "%N|%c|%m|%G").splitlines()
    found = {}
    for line in lines:
        if line.count("|") != 3:  # a site's own
            continue
        name, cpus, memory_mb, gres = line.strip().split("|")
        gpus = [int(number) for kind, number in _GPUS.findall(gres) if gpu_type in (None, kind)]
        found[name] = Node(int(cpus.rstrip("+")), int(memory_mb.rstrip("+")), sum(gpus))
    return list(found.values())


def _queue(config: dict[str, str], num_jobs: int) -> Iterator[str]:
    most = int(config.get("MaxJobCount", "10000"))
    if num_jobs > most:
        yield f"{num_jobs} jobs are more than the {most} that this cluster keeps (MaxJobCount); split the sweep."


def _preemption(
    profile: ClusterProfile, name: str, partition: dict[str, str], config: dict[str, str], save_s: float | None
) -> Iterator[str]:
    mode = partition.get("PreemptMode", "OFF")
    if config.get("PreemptType", "preempt/none") == "preempt/none" or mode in ("OFF", "SUSPEND", "GANG"):
        return
    if profile.max_requeues == 0:
        yield f"partition '{name}' preempts jobs, but max_requeues 0 lets none of them come back; raise it."
    grace_s = int(partition.get("GraceTime", "0"))
    if mode == "CANCEL" and not grace_s:
        yield (
            f"partition '{name}' cancels preempted jobs at once (PreemptMode=CANCEL, no GraceTime), so none comes back;"
            " ask for PreemptMode=REQUEUE, or use another."
        )
    elif save_s is not None and 0 < grace_s < save_s:  # with REQUEUE and none, what is lost is known
        yield (
            f"partition '{name}' gives {grace_s} s of grace, but saving takes {save_s:.1f} s;"
            f" ask for GraceTime={math.ceil(2 * save_s)}, or use another."
        )


def _time_signal(profile: ClusterProfile, save_s: float | None) -> Iterator[str]:
    if save_s is not None and profile.signal_s < save_s:
        longer_s = math.ceil(2 * save_s)
        yield f"signal_s {profile.signal_s} is shorter than a save of {save_s:.1f} s; raise it to {longer_s}."


def _trial(profile: ClusterProfile) -> Iterator[str]:
    """Asks SLURM itself, which knows rules that nothing else shows."""
    with tempfile.TemporaryDirectory(prefix="preflight-") as folder:
        own = Path(folder)
        batch = Batch({0: Job("preflight", own, "")})
        executor = make_executor(profile, own, own / "payload.json", "preflight", "", batch, hold=False)
        script = own / "submission.sh"
        script.write_text(executor._make_submission_file_text(task_command(profile, own / "payload.json"), ""))
        words = ["sbatch", "--test-only", str(script)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        yield f"sbatch would refuse a job with the profile '{profile.name}' ({said}); mend the profile."
