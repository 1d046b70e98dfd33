"""What the development cluster needs of this machine, and whether that is here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from slurm.dev.conf import free_ports
from slurm.dev.programs import install, missing
from slurm.errors import ClusterError


def why_not_installed() -> str:
    """Why the programs are not here and could not be installed; empty once they are here."""
    try:
        install()
    except ClusterError as error:
        return str(error)
    return ""


def why_not() -> str:
    """Why no development cluster can run here; empty where it can."""
    if os.getuid() != 0:
        return "it needs root (munged and slurmd run as root)"
    try:
        free_ports(1)
    except ClusterError as error:
        return str(error)
    if not Path("/proc/self/environ").exists():
        return "there is no /proc, by which it knows the processes of jobs"
    if not missing():
        return ""
    if not shutil.which("apt-get"):
        return f"{', '.join(missing())} are missing, and they are installed only on Debian and Ubuntu"
    return ""
