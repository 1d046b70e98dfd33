"""Cluster profiles: where and how jobs run, checked before anything is submitted."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

_SECRET_IN_SETUP = re.compile(r"\b\w*(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY)\w*=", re.IGNORECASE)


def _one_line(value: str) -> str:
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise ValueError("has a line break or another control character; write one plain line")
    return value


# What SLURM's own names and expressions are made of; a value with anything else never reaches a command.
SlurmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,:@+/-]{0,127}$")]
SlurmExpression = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:@+&|*!()\[\]-]{1,256}$")]
GpuType = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$")]
PlainLine = Annotated[str, AfterValidator(_one_line)]


class ClusterProfile(BaseModel):
    """One way of running jobs. Every job of a submission takes `nodes` x `tasks_per_node` ranks."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field("local", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    executor: Literal["slurm", "local"] = "local"
    partition: SlurmName | None = None
    account: SlurmName | None = None
    qos: SlurmName | None = None
    constraint: SlurmExpression | None = None
    nodes: int = Field(1, gt=0)
    gpus_per_node: int = Field(0, ge=0)
    gpu_type: GpuType | None = None
    """What the site calls those GPUs, for example a100; null takes any."""
    tasks_per_node: int = Field(0, ge=0)
    """Ranks on each node; 0 takes one a GPU, or one where there is none."""
    cpus_per_task: int = Field(1, gt=0)
    memory_gb: float | None = Field(None, gt=0)
    """Memory of each node's share; null leaves it to the site."""
    time_min: int = Field(60, gt=0)
    signal_s: int = Field(90, ge=1)
    """SLURM sends SIGUSR2 this many seconds before the time limit."""
    max_parallel: int = Field(1, gt=0)
    """Jobs of one submission that run at the same time."""
    max_requeues: int = Field(1000, ge=0)
    """A job that saved and left is run again at most so often."""
    max_deaths: int = Field(3, ge=0)
    """A job that died (a killed rank, out of memory) is run again at most so often without having saved in between."""
    setup: tuple[PlainLine, ...] = ()
    """Shell lines of the user's own, run once before the ranks start; never the place for a secret."""
    environment: dict[str, PlainLine] = {}
    """Variables of every rank; they reach the ranks in a private file, never through a shell or a command line."""
    container: tuple[PlainLine, ...] = ()
    """Words put before the Python command of each rank, for example [apptainer, exec, --nv, image.sif]."""
    python: PlainLine | None = None
    """The Python of the compute nodes; null takes the one that submits."""
    options: dict[str, PlainLine | int | bool] = {}
    """Further sbatch options by their long names, for example {mail-type: END}."""
    shared: tuple[PlainLine, ...] = ()
    """Folders that compute nodes see as this machine does; given them, the preflight refuses any path elsewhere."""
    slurm_conf: str | None = None
    """The cluster's slurm.conf where it is not the system's; a relative path starts at the working folder."""

    @model_validator(mode="before")
    @classmethod
    def _no_number_from_yes(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Writes out true and false where numbers are asked: pydantic would take them for 1 and 0, but refuses text."""
        numbers = {name for name, field in cls.model_fields.items() if field.annotation in (int, float, float | None)}
        flags = {name: value for name, value in values.items() if isinstance(value, bool) and name in numbers}
        return {**values, **{name: str(value).lower() for name, value in flags.items()}}

    @field_validator("environment")
    @classmethod
    def _variable_names(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"'{name}' cannot be a variable's name; use letters, digits and underscores")
        return environment

    @field_validator("setup")
    @classmethod
    def _no_secret_in_setup(cls, setup: tuple[str, ...]) -> tuple[str, ...]:
        for line in setup:
            if _SECRET_IN_SETUP.search(line):
                variable = line.split("=")[0].split()[-1]
                raise ValueError(
                    f"'{variable}=' looks like a secret, and setup is written into the sbatch file;"
                    " move it to environment"
                )
        return setup

    @field_validator("shared")
    @classmethod
    def _shared_from_the_root(cls, shared: tuple[str, ...]) -> tuple[str, ...]:
        for folder in shared:
            if not folder.startswith("/"):
                raise ValueError(f"'{folder}' is not the path of a folder from the root; write for example /home")
        return shared

    @field_validator("options")
    @classmethod
    def _option_names(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                raise ValueError(f"'{name}' is not the long name of an sbatch option; write for example mail-type")
            if name in _OWN_OPTIONS:
                raise ValueError(f"sbatch option '{name}' is set by the launcher; use the profile's own keys")
        return options

    @model_validator(mode="after")
    def _consistent(self) -> ClusterProfile:
        if self.gpus_per_node and self.tasks_per_node not in (0, self.gpus_per_node):
            raise ValueError(
                f"tasks_per_node {self.tasks_per_node} with gpus_per_node {self.gpus_per_node}: a task has"
                " one GPU; leave tasks_per_node out"
            )
        if self.gpu_type and not self.gpus_per_node:
            raise ValueError(f"gpu_type {self.gpu_type} without gpus_per_node; say how many of them a node gives")
        if self.executor == "local" and self.nodes != 1:
            raise ValueError(f"nodes {self.nodes} with executor local; use nodes 1, or executor slurm")
        if self.executor == "local":
            skipped = [key for key in _SLURM_ONLY if getattr(self, key) != type(self).model_fields[key].default]
            if skipped:
                raise ValueError(f"{skipped[0]} is for SLURM alone; write executor: slurm, or leave it out")
        if self.executor == "slurm" and self.signal_s >= 60 * self.time_min:
            raise ValueError(f"signal_s {self.signal_s} is not before the time limit of {self.time_min} min; lower it")
        return self

    @property
    def ranks_per_node(self) -> int:
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def gpus_text(self) -> str | None:
        """The GPUs of a node as sbatch takes them, `a100:4` or `4`; None where there are none."""
        if not self.gpus_per_node:
            return None
        return ":".join([*([self.gpu_type] if self.gpu_type else []), str(self.gpus_per_node)])


# What the supervisor of this machine would skip without a word.
_SLURM_ONLY = (
    *("partition", "account", "qos", "constraint", "gpu_type", "memory_gb", "time_min", "signal_s", "setup", "options"),
    *("shared", "slurm_conf"),
)
# Options that the launcher decides: changing them would break stopping, logs or the job's shape.
_OWN_OPTIONS = frozenset(
    [
        *("partition", "account", "qos", "constraint", "time", "mem", "nodes", "ntasks-per-node", "cpus-per-task"),
        *("gpus-per-node", "job-name", "array", "dependency", "kill-on-invalid-dep", "hold", "signal", "requeue"),
        *("no-requeue", "output", "error", "open-mode", "wrap", "chdir", "export", "parsable"),
    ]
)
