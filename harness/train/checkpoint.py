"""Checkpoints: a directory per step, complete or absent, verified when it is read.

`step_000012000/` holds the weights as safetensors, `training_state.pt` and `manifest.json`, which lists the sha256 of
every file. It is written under a temporary name, fsynced and renamed; only then are older ones removed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from harness import __version__
from harness.errors import CheckpointError

MANIFEST = "manifest.json"
TRAINING_STATE = "training_state.pt"
_PREFIX = "step_"


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
    """For the manifest: phase, config, dataset_fingerprint."""


class HostCopier:
    """Copies nested states to host memory, into the same buffers each time, so that no page is touched anew."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def copy(self, value: Any, path: str = "") -> Any:
        """`value` with each tensor replaced by its copy on the host; valid until the next call."""
        if isinstance(value, torch.Tensor):
            return self._copy_tensor(value.detach(), path)
        if isinstance(value, dict):
            return {key: self.copy(item, f"{path}/{key}") for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.copy(item, f"{path}/{i}") for i, item in enumerate(value))
        return value

    def _copy_tensor(self, value: torch.Tensor, path: str) -> torch.Tensor:
        buffer = self._buffers.get(path)
        if buffer is None or buffer.shape != value.shape or buffer.stride() != value.stride():
            buffer = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
            self._buffers[path] = buffer
        return buffer.copy_(value)


class CheckpointWriter:
    """Writes snapshots behind the training thread, one at a time, and then removes the oldest.

    A write that fails (a full disk) leaves the older checkpoints as they are; `failed` tells why.
    """

    def __init__(self, folder: Path, keep: int, on_written: Callable[[int, float], None] | None = None) -> None:
        self._folder = folder
        self._keep = keep
        self._on_written = on_written
        self._thread: threading.Thread | None = None
        self.copier = HostCopier()
        self.failed: OSError | None = None

    def start(self, snapshot: Snapshot) -> None:
        """Begins to write; `wait` first, since the copier's buffers are in use until then."""
        assert self._thread is None, "wait() comes before start()"
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Waits until the last write has ended."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, snapshot: Snapshot) -> None:
        begin = time.monotonic()
        self.failed = None
        try:
            write_checkpoint(self._folder, snapshot)
            remove_old(self._folder, self._keep)
        except OSError as error:
            self.failed = error
        if self._on_written:
            self._on_written(snapshot.step, time.monotonic() - begin)


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
        for name, content in _contents(snapshot):
            files[name] = hashlib.sha256(content).hexdigest()
            _write_durably(temporary / name, content)
        manifest = {"step": snapshot.step, **snapshot.facts, "versions": _versions(), "files": files}
        _write_durably(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        _sync_folder(temporary)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        _sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def remove_old(folder: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints, and what killed writers left behind."""
    for path in checkpoint_folders(folder)[keep:]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f".{_PREFIX}*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first, unverified."""
    return sorted((path for path in folder.glob(f"{_PREFIX}*") if path.is_dir()), reverse=True)


def newest_good(folder: Path, on_bad: Callable[[str], None] | None = None) -> Path | None:
    """The newest checkpoint whose files are all there and unchanged; each bad one is told to `on_bad`."""
    for path in checkpoint_folders(folder):
        try:
            verify(path)
        except CheckpointError as error:
            if on_bad:
                on_bad(f"{error} The one before is used.")
            continue
        return path
    return None


def verify(path: Path) -> dict[str, Any]:
    """Checks a checkpoint against its manifest, which it returns.

    Raises:
        CheckpointError: a file is missing, torn or changed.
    """
    manifest = read_manifest(path)
    for name, expected in manifest["files"].items():
        try:
            actual = hashlib.sha256((path / name).read_bytes()).hexdigest()
        except OSError as error:
            raise CheckpointError(
                f"{path / name}: cannot be read ({error.strerror}); use another checkpoint."
            ) from None
        if actual != expected:
            raise CheckpointError(f"{path / name}: differs from its checksum in {MANIFEST}; use another checkpoint.")
    return manifest


def _is_good(path: Path) -> bool:
    try:
        verify(path)
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


def _read(path: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    try:
        content = read(path)
    except Exception as error:  # bytes that fit their checksum and nothing else end these readers in any way
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read ({first}); use another checkpoint.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not named values; use another checkpoint.")
    return content


def write_weights(path: Path, weights: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Writes one safetensors file durably, under its name only when it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_durably(temporary, _safetensors(weights, metadata))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _contents(snapshot: Snapshot) -> list[tuple[str, bytes]]:
    buffer = io.BytesIO()
    torch.save(snapshot.training, buffer)
    files = [(f"{name}.safetensors", _safetensors(weights)) for name, weights in snapshot.weights.items()]
    return [*files, (TRAINING_STATE, buffer.getvalue())]


def _safetensors(weights: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    return safetensors.torch.save({name: value.contiguous() for name, value in weights.items()}, metadata)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _versions() -> dict[str, str]:
    return {"harness": __version__, "torch": torch.__version__}
