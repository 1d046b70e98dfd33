"""The development cluster's slurm.conf: nodes that are all this machine, and two partitions over them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from slurm.dev.programs import path_of
from slurm.errors import ClusterError

_CONF = """\
ClusterName=harness-dev
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# More nodes than this machine has cores for: what slurm.conf says is believed.
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=5,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobRequeue=1
MaxJobCount=20000
SlurmctldTimeout=30
SlurmdTimeout={node_timeout_s}
KillWait={kill_wait_s}
UnkillableStepTimeout=120
GresTypes=gpu
NodeName=DEFAULT CPUs={cpus} RealMemory={memory_mb}{gpus}
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_port}-{last_port}]
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace_s} MaxTime=1-00:00:00
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=1-00:00:00
"""

# Device files that every machine has, for GPUs that are none.
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
GPU_TYPE = "dev"


@dataclass(frozen=True)
class NodeShape:
    """How many nodes there are, and what each says that it has."""

    nodes: int
    cpus: int
    gpus: int


def write_conf(folder: Path, shape: NodeShape, grace_s: int, node_timeout_s: int, kill_wait_s: int) -> None:
    """Writes slurm.conf and gres.conf, with ports that are free now."""
    ports = free_ports(shape.nodes + 1)
    text = _CONF.format(
        folder=folder,
        host=socket.gethostname().split(".")[0],
        controller_port=ports[0],
        first_port=ports[1],
        last_port=ports[-1],
        nodes=shape.nodes,
        cpus=shape.cpus,
        gpus=gpus_of_node(shape.gpus),
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        grace_s=grace_s,
        node_timeout_s=node_timeout_s,
        kill_wait_s=kill_wait_s,
    )
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(gres_conf(shape.nodes, shape.gpus))


def gpus_of_node(count: int) -> str:
    """The part of a node's line that gives it so many GPUs."""
    return f" Gres=gpu:{GPU_TYPE}:{count}" if count else ""


def gres_conf(nodes: int, count: int) -> str:
    """The text of gres.conf: up to four GPUs of each node, of type `dev`."""
    return f"NodeName=n[1-{nodes}] Name=gpu Type={GPU_TYPE} File={','.join(_DEVICES[:count])}\n" if count else ""


def with_user_signal(conf: str, on: bool) -> str:
    """The text of slurm.conf with send_user_signal on or off; SLURM 23.02 gave it another place."""
    version = subprocess.run([path_of("slurmctld"), "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    new = tuple(int(part) for part in version.split(".")[:2]) >= (23, 2)
    line = "PreemptParameters=send_user_signal" if new else "SlurmctldParameters=preempt_send_user_signal"
    lines = [other for other in conf.splitlines() if other != line]
    return "\n".join([*lines, line] if on else lines) + "\n"


def free_ports(count: int) -> list[int]:
    """So many free ports, the second to the last in one row as NodeName wants them."""
    for first in range(17000, 20000, count):
        ports = list(range(first, first + count))
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in ports:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return ports
    raise ClusterError("no free ports between 17000 and 20000; stop another development cluster.")
