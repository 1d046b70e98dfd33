"""TensorBoard on a sweep's runs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from harness.errors import EXIT_DONE, EXIT_FAILURE, InputError
from harness.screen import counted, say
from sweeps.layout import SweepFolder
from sweeps.plan import read_plan


def serve(folder: SweepFolder, port: int, console: Console) -> int:
    """Serves the curves of every run of a sweep under the run's own name, until interrupted."""
    found = log_dirs(folder)
    if not found:
        raise InputError(f"{folder.path}: no run has written curves yet; start it with `harness sweep`.")
    say(console, f"http://localhost:{port} shows {counted(len(found), 'phase')}; Ctrl-C ends it")
    with tempfile.TemporaryDirectory(prefix="harness-board-") as links:
        _link(found, Path(links))
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", links, "--port", str(port)]
        try:
            ended = subprocess.run(command, check=False).returncode
        except KeyboardInterrupt:
            return EXIT_DONE
    return EXIT_FAILURE if ended else EXIT_DONE  # it has said why


def _link(found: dict[str, Path], folder: Path) -> None:
    """Links the curves under their names: a list of a thousand paths would be longer than a command may be."""
    for name, path in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(path.absolute())


def log_dirs(folder: SweepFolder) -> dict[str, Path]:
    """Readable name -> folder of TensorBoard's files; a phase that several runs share stands once, by its own name."""
    plan = read_plan(folder.plan)
    users: dict[str, list[str]] = {}
    for run in plan.runs:
        for key in run.phases:
            users.setdefault(key, []).append(run.name)
    found: dict[str, Path] = {}
    for key, runs in users.items():
        path = folder.runs.phase(key) / "tensorboard"
        if path.is_dir():
            found[f"{runs[0]}/{plan.phases[key].name}" if len(runs) == 1 else f"shared/{key}"] = path
    return found
