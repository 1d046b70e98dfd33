"""TensorBoard on a sweep's runs."""

from __future__ import annotations

import subprocess
import sys

from rich.console import Console

from harness.errors import EXIT_DONE, EXIT_FAILURE, InputError
from sweeps.layout import SweepFolder
from sweeps.plan import read_plan


def serve(folder: SweepFolder, port: int, console: Console) -> int:
    """Serves the curves of every run of a sweep under the run's own name, until interrupted."""
    spec = log_dirs(folder)
    if not spec:
        raise InputError(f"{folder.path}: no run has written curves yet; start it with `harness sweep`.")
    console.print(f"http://localhost:{port} shows {len(spec)} phases; Ctrl-C ends it", markup=False, highlight=False)
    named = ",".join(f"{name}:{path}" for name, path in spec.items())
    command = [sys.executable, "-m", "tensorboard.main", "--logdir_spec", named, "--port", str(port)]
    try:
        ended = subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return EXIT_DONE
    return EXIT_FAILURE if ended else EXIT_DONE  # it has said why


def log_dirs(folder: SweepFolder) -> dict[str, str]:
    """Readable name -> folder of TensorBoard's files; a phase that several runs share stands once, by its own name."""
    plan = read_plan(folder.plan)
    users: dict[str, list[str]] = {}
    for run in plan.runs:
        for key in run.phases:
            users.setdefault(key, []).append(run.name)
    found = {}
    for key, runs in users.items():
        path = folder.runs.phase(key) / "tensorboard"
        if path.is_dir():
            title = runs[0] if len(runs) == 1 else "shared"
            found[f"{title}/{plan.phases[key].name}" if len(runs) == 1 else f"{title}/{key}"] = str(path)
    return found
