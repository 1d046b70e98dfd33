"""Checkpoints: a directory per step, complete or absent, verified when it is read.

`step_000012000/` holds the weights as safetensors, `training_state.pt` and `manifest.json`, which lists the sha256 of
every file. It is written under a temporary name, fsynced and renamed; only then are older ones removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch

from harness.errors import CheckpointError, first_line
from harness.files import sha256_of, whole
from harness.train.durable import HashedFile, safetensors_pieces, sync_folder, write_durably
from harness.train.version import versions

T = TypeVar("T")
MANIFEST = "manifest.json"
TRAINING_STATE = "training_state.pt"
_PREFIX = "step_"
_STATE: dict[str, type] = {
    "weights/generator": dict,
    "weights/generator_ema": dict,
    "phase": int,
    "phase_state/optimizers/generator": dict,
    "phase_state/augment": dict,
    "meter/sums": dict,
    "meter/counts": dict,
    "rollbacks": int,
}
"""What training continues from."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read into host memory."""

    path: Path
    step: int
    manifest: dict[str, Any]
    weights: dict[str, dict[str, torch.Tensor]]
    """State dicts by name: generator, generator_ema and, from the first adversarial phase on, discriminator."""
    training: dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """A copy in host memory of everything that a checkpoint holds."""

    step: int
    weights: dict[str, dict[str, torch.Tensor]]
    training: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    """For the manifest: phase, config, dataset_fingerprint, trained_by."""


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return folder / f"{_PREFIX}{step:09d}"


def write_checkpoint(folder: Path, snapshot: Snapshot) -> Path:
    """Writes a checkpoint; a kill at any byte leaves at most a temporary directory that nothing reads."""
    final = step_folder(folder, snapshot.step)
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    if _is_good(final):
        return final  # the same step of the same run: nothing to gain, and no moment without it
    try:
        temporary.mkdir()
        files = {}
        for name, weights in snapshot.weights.items():
            file = f"{name}.safetensors"
            files[file] = write_durably(temporary / file, partial(_fill, safetensors_pieces(weights)))
        files[TRAINING_STATE] = write_durably(temporary / TRAINING_STATE, partial(torch.save, snapshot.training))
        manifest = {"step": snapshot.step, **snapshot.facts, "versions": versions(), "files": files}
        write_durably(temporary / MANIFEST, partial(_fill, [json.dumps(manifest, indent=1).encode()]))
        sync_folder(temporary)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def remove_old(folder: Path, keep: int, newest: int) -> None:
    """Removes all but the `keep` newest checkpoints up to that of step `newest`, and what killed writers left behind.

    Those ahead of it go as well: they were bad, or the run would not be here, and must not count as kept. Renamed
    first: a kill in the middle leaves nothing that looks like a checkpoint and is none.
    """
    there = checkpoint_folders(folder)
    kept = [path for path in there if path <= step_folder(folder, newest)][:keep]
    for path in set(there) - set(kept):
        doomed = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        shutil.rmtree(doomed, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.replace(path, doomed)
    for path in folder.glob(f".{_PREFIX}*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first, unverified; what else lies there, as a copy of one, is none."""
    found = (path for path in folder.glob(f"{_PREFIX}*") if path.name[len(_PREFIX) :].isdecimal() and path.is_dir())
    return sorted(found, reverse=True)


def newest_good(folder: Path, on_bad: Callable[[str], None] | None = None) -> Path | None:
    """The newest checkpoint whose files are all there and unchanged; each bad one is told to `on_bad`."""

    def verified(path: Path) -> Path:
        verify(path)
        return path

    return _newest(folder, verified, on_bad)


def read_newest(folder: Path, on_bad: Callable[[str], None] | None = None) -> Checkpoint | None:
    """The newest checkpoint of a run that training can continue from; each one that is no use is told to `on_bad`."""

    def read(path: Path) -> Checkpoint:
        checkpoint = read_checkpoint(path)
        _check_state(checkpoint)
        return checkpoint

    return _newest(folder, read, on_bad)


def _newest(folder: Path, read: Callable[[Path], T], on_bad: Callable[[str], None] | None) -> T | None:
    """What `read` makes of the newest checkpoint that it raises no CheckpointError of."""
    paths = checkpoint_folders(folder)
    for path in paths:
        try:
            return read(path)
        except CheckpointError as error:
            if on_bad:
                on_bad(f"{error} {'There is none before it.' if path == paths[-1] else 'The one before is used.'}")
    return None


def verify(path: Path) -> dict[str, Any]:
    """Checks a checkpoint against its manifest, which it returns.

    Raises:
        CheckpointError: a file is missing, torn or changed.
    """
    manifest = read_manifest(path)
    with ThreadPoolExecutor() as pool:  # hashing takes longest of all that a run does to go on
        checked = {name: pool.submit(sha256_of, path / name) for name in manifest["files"]}
    for name, expected in manifest["files"].items():
        try:
            actual = checked[name].result()
        except OSError as error:
            raise CheckpointError(
                f"{path / name}: cannot be read ({error.strerror}); use another checkpoint."
            ) from None
        if actual != expected:
            raise CheckpointError(f"{path / name}: differs from its checksum in {MANIFEST}; use another checkpoint.")
    return manifest


def _is_good(path: Path) -> bool:
    """Whether training could go on from it; what it could not has to be written anew."""
    try:
        _check_state(read_checkpoint(path))
    except CheckpointError:
        return False
    return True


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: there is none, or it is torn.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        complete = _is_manifest(manifest)
    except (OSError, ValueError, RecursionError):
        complete = False
    if not complete:
        raise CheckpointError(f"{path}: has no readable {MANIFEST}, so it is no complete checkpoint; use another one.")
    return manifest


def _is_manifest(values: Any) -> bool:
    """Whether it says what a checkpoint holds, in file names that stay within its folder."""
    if not isinstance(values, dict) or not isinstance(values.get("config"), dict):
        return False
    step, files = values.get("step"), values.get("files")
    if type(step) is not int or step < 0 or not isinstance(files, dict):
        return False
    return all(isinstance(files[name], str) and not set(name) & set("/\0") for name in files)


def read_checkpoint(path: Path) -> Checkpoint:
    """Verifies and reads a checkpoint.

    Raises:
        CheckpointError: it is torn or changed.
    """
    manifest = verify(path)
    names = [name for name in manifest["files"] if name.endswith(".safetensors")]
    weights = {name.removesuffix(".safetensors"): _read(path / name, safetensors.torch.load_file) for name in names}
    training = _read(path / TRAINING_STATE, lambda file: torch.load(file, map_location="cpu", weights_only=True))
    return Checkpoint(path, manifest["step"], manifest, weights, training)


def _check_state(checkpoint: Checkpoint) -> None:
    """That a checkpoint holds all that a run saves, beneath checksums that only say that nothing changed since."""
    state: dict[str, Any] = {"weights": checkpoint.weights, **checkpoint.training}
    for names, expected in _STATE.items():
        value: Any = state
        for name in names.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if not isinstance(value, expected):
            file = checkpoint.path if names.startswith("weights/") else checkpoint.path / TRAINING_STATE
            raise CheckpointError(f"{file}: lacks '{names}', so training cannot go on from it; use another checkpoint.")


def _read(path: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    try:
        content = read(path)
    except Exception as error:  # bytes that fit their checksum and nothing else end these readers in any way
        first = first_line(error)
        raise CheckpointError(f"{path}: cannot be read ({first}); use another checkpoint.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not named values; use another checkpoint.")
    return content


def write_weights(path: Path, weights: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Writes one safetensors file durably, under its name only when it is whole."""
    with whole(path) as part:
        write_durably(part, partial(_fill, safetensors_pieces(weights, metadata)))


def _fill(pieces: Iterable[bytes | memoryview], file: HashedFile) -> None:
    for piece in pieces:
        file.write(piece)
