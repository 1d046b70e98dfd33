"""Finds the weights that a model means: those of a finished run, of its newest checkpoint, or of a single file."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors

from evaluation.model import Model
from harness.config import RunConfig, load_run_config
from harness.errors import CheckpointError, first_line
from harness.files import sha256_of
from harness.schema import parse

FINAL_WEIGHTS = "generator.safetensors"
EXPORT_MARK = "harness"
EMA_WEIGHTS = "generator_ema.safetensors"
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Weights:
    """What will be loaded for a model of kind `checkpoint`."""

    path: Path
    """What `open_network` is given: a run folder, a checkpoint folder or a file."""
    sha256: str
    config: RunConfig
    notes: tuple[str, ...] = ()


def find_weights(model: Model, latest: bool) -> Weights:
    """The final weights of a finished run or exported file; with `latest`, an unfinished run's newest checkpoint.

    Where the final weights cannot be read, the newest good checkpoint takes their place, and a note says so.

    Raises:
        CheckpointError: no such folder, an unfinished run without `latest`, or nothing readable.
    """
    folder = Path(model.path or "")
    if (folder / _MANIFEST).exists():
        return _of_checkpoint(folder)
    if folder.is_file():
        return Weights(folder, sha256_of(folder), _exported_config(folder))
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such run; train it first, or remove model '{model.name}'.")
    if _state(folder) == "done":
        problem = _damage(folder / FINAL_WEIGHTS)
        if problem is None:
            config = load_run_config(folder / "config.yaml")
            return Weights(folder, sha256_of(folder / FINAL_WEIGHTS), config)
        return _of_newest(folder, [f"{problem} The newest good checkpoint is used."])
    if not latest:
        raise CheckpointError(
            f"{folder}: is not finished ({_progress(folder)}); wait, or set evaluate.latest for its newest checkpoint."
        )
    return _of_newest(folder, [f"{model.name}: not finished ({_progress(folder)}); its newest checkpoint is used."])


def _of_newest(folder: Path, notes: list[str]) -> Weights:
    from harness.train.checkpoint import newest_good

    newest = newest_good(folder / "checkpoints", on_bad=notes.append)
    if newest is None:
        raise CheckpointError(f"{folder}: has no readable checkpoint ({' '.join(notes)}); train it again.")
    found = _of_checkpoint(newest)
    return Weights(found.path, found.sha256, found.config, (*notes[:-1], f"{notes[-1]} ({newest.name})"))


def _of_checkpoint(folder: Path) -> Weights:
    from harness.train.checkpoint import verify

    manifest = verify(folder)
    config = parse(RunConfig, manifest["config"], str(folder / _MANIFEST))
    return Weights(folder, str(manifest["files"][EMA_WEIGHTS]), config)


def _exported_config(file: Path) -> RunConfig:
    """The configuration inside a file that this project exported."""
    metadata: dict[str, str] = {}
    with contextlib.suppress(OSError, safetensors.SafetensorError):
        metadata = read_metadata(file)
    if EXPORT_MARK not in metadata:
        raise CheckpointError(f"{file}: is no export of this project; evaluate it as a model of kind spandrel.")
    try:
        values = json.loads(metadata[EXPORT_MARK])["config"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{file}: its configuration cannot be read; export the run again.") from None
    return parse(RunConfig, values, str(file))


def read_metadata(file: Path) -> dict[str, str]:
    """What a safetensors file says about itself.

    Raises:
        OSError, SafetensorError: it is absent or damaged.
    """
    with safetensors.safe_open(file, framework="numpy") as content:
        return content.metadata() or {}


def _damage(file: Path) -> str | None:
    try:
        read_metadata(file)
    except (OSError, safetensors.SafetensorError) as error:
        return f"{file}: cannot be read ({first_line(error)})."
    return None


def _status(folder: Path) -> dict[str, object]:
    try:
        status = json.loads((folder / "status.json").read_text())
        return status if isinstance(status, dict) else {}
    except (OSError, ValueError):
        return {}


def _state(folder: Path) -> object:
    """The state that the run reports; a folder with final weights and no status is finished."""
    return _status(folder).get("state", "done" if (folder / FINAL_WEIGHTS).exists() else None)


def _progress(folder: Path) -> str:
    status = _status(folder)
    if "step" not in status:
        return "not started"
    return f"{status.get('state')} at step {status['step']} of {status.get('total_steps')}"
