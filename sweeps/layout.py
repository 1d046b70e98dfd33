"""Where everything of a sweep lies: the one place that knows the names of files and folders."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError

PHASES = "phases"


@dataclass(frozen=True)
class RunsFolder:
    """The folder of all sweeps and of the phases that they share."""

    root: Path

    @property
    def phases(self) -> Path:
        return self.root / PHASES

    def phase(self, key: str) -> Path:
        return self.phases / key

    def sweep(self, name: str) -> SweepFolder:
        return SweepFolder(self, self.root / name)

    def sweeps(self) -> Iterator[SweepFolder]:
        """The sweeps that were planned here, by name."""
        if not self.root.is_dir():
            return
        for entry in sorted(self.root.iterdir()):
            if entry.name != PHASES and (entry / "plan.json").is_file():
                yield SweepFolder(self, entry)


@dataclass(frozen=True)
class SweepFolder:
    """The folder of one sweep."""

    runs: RunsFolder
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def left(self) -> Path:
        """Run -> its phases that earlier plans had and this one has no more."""
        return self.path / "left.json"

    @property
    def sweep(self) -> Path:
        """The resolved sweep file."""
        return self.path / "sweep.yaml"

    @property
    def models(self) -> Path:
        """Links with readable names to the folders of the finished phases."""
        return self.path / "models"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def jobs(self) -> Path:
        """What the launchers write: payloads, sbatch files, logs."""
        return self.path / "jobs"

    @property
    def evaluation(self) -> Path:
        """Where the evaluation runs as a job: its run file and its log."""
        return self.path / "evaluation"


def create_private(folder: Path) -> None:
    """Creates a folder that only its owner can enter; one that exists is left as it is.

    Raises:
        InputError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(f"{folder}: cannot be created ({error.strerror}); give another --runs folder.") from None


def write_atomically(path: Path, text: str) -> None:
    """Replaces a small text file so that a reader sees the old or the new one, never half of it.

    Raises:
        OSError: it cannot be written; names the file, which a full disk does not.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none yet, or what is there is no JSON object."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a line that a kill tore is left out."""
    try:
        return parse_rows(path.read_bytes())
    except OSError:
        return []


def parse_rows(text: bytes) -> list[dict[str, Any]]:
    """The objects of JSON lines; a line that is none is left out."""
    return [row for row in map(_row, text.splitlines()) if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def link_model(sweep: SweepFolder, run: str, key: str) -> None:
    """Points models/RUN at the folder of its last phase, by a relative link that survives moving the runs folder."""
    link = sweep.models / run
    target = os.path.relpath(sweep.runs.phase(key), sweep.models)
    if link.is_symlink() and os.readlink(link) == target:
        return
    temporary = sweep.models / f".{run}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)
