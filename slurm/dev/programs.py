"""The programs that the development cluster runs: where they are, and how they come here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from slurm.errors import ClusterError

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
_SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def path_of(program: str) -> str:
    """Where a program lies; its name where it is nowhere."""
    return shutil.which(program, path=_SEARCH_PATH) or program


def missing() -> list[str]:
    """Programs that are not here."""
    return [program for program in _PROGRAMS if not shutil.which(program, path=_SEARCH_PATH)]


def install() -> None:
    """Installs what is missing.

    Raises:
        ClusterError: it cannot be installed.
    """
    if not missing():
        return
    print("installing slurm-wlm and munge", file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "slurm-wlm", "munge"]
    for command in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            said = " ".join(done.stderr.split())[-300:]
            raise ClusterError(f"`{' '.join(command)}` failed ({said}); install slurm-wlm and munge by hand.")
