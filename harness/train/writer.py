"""Checkpoints written behind the training thread, which waits for nothing but a copy in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.train.checkpoint import Snapshot, remove_old, write_checkpoint


class HostCopier:
    """Copies nested states to host memory, into the same buffers each time, so that no page is touched anew.

    The first touch of a page costs five times the copy: `reserve` does it beforehand, in any thread.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def copy(self, value: Any, path: str = "") -> Any:
        """`value` with each tensor replaced by its copy on the host; valid until the next call for this path."""
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        copied = self._walk(value, path, pairs)
        if pairs:
            torch._foreach_copy_([buffer for buffer, _ in pairs], [tensor for _, tensor in pairs], non_blocking=True)
        if any(tensor.is_cuda for _, tensor in pairs):
            torch.cuda.current_stream().synchronize()
        return copied

    def reserve(self, values: dict[str, Any]) -> None:
        """Makes the buffers that `copy` of these values, each under its name as path, will need; touches all pages."""
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        for path, value in values.items():
            self._walk(value, path, pairs)
        for buffer, _ in pairs:
            buffer.zero_()

    def _walk(self, value: Any, path: str, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
        if isinstance(value, torch.Tensor):
            pairs.append((self._buffer(value, path), value.detach() if value.requires_grad else value))
            return pairs[-1][0]
        if isinstance(value, dict):
            return {key: self._walk(item, f"{path}/{key}", pairs) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._walk(item, f"{path}/{i}", pairs) for i, item in enumerate(value))
        return value

    def _buffer(self, value: torch.Tensor, path: str) -> torch.Tensor:
        buffer = self._buffers.get(path)
        if buffer is None or buffer.shape != value.shape or buffer.stride() != value.stride():
            buffer = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda, requires_grad=False)
            self._buffers[path] = buffer
        return buffer


class CheckpointWriter:
    """Writes snapshots behind the training thread, one at a time, and then removes the oldest.

    A write that fails (a full disk) leaves the older checkpoints as they are; `failed` tells why.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        on_written: Callable[[int, float], None] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            on_written: is told the step and the seconds of each write, in the writing thread.
            before: is called first, in the writing thread: what a checkpoint relies on is made durable there.
        """
        self._folder = folder
        self._keep = keep
        self._on_written = on_written
        self._before = before
        self._thread: threading.Thread | None = None
        self.copier = HostCopier()
        self.failed: Exception | None = None

    def reserve(self, states: dict[str, Any]) -> None:
        """Makes room for copies of `states`, by the path that they will be copied under, while training goes on."""
        self.wait()
        self._run(lambda: self.copier.reserve(states))

    def start(self, snapshot: Snapshot) -> None:
        """Begins to write; `wait` first, since the copier's buffers are in use until then."""
        assert self._thread is None, "wait() comes before start()"
        self._run(lambda: self._write(snapshot))

    def wait(self) -> None:
        """Waits until the last write has ended."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, work: Callable[[], Any]) -> None:
        thread = threading.Thread(target=work, name="checkpoint")
        thread.start()  # which may fail: then there is none to wait for
        self._thread = thread

    def _write(self, snapshot: Snapshot) -> None:
        begin = time.monotonic()
        self.failed = None
        try:
            if self._before:
                self._before()
            write_checkpoint(self._folder, snapshot)
            remove_old(self._folder, self._keep, snapshot.step)
        except Exception as error:  # whatever it is, the training thread must hear of it
            self.failed = error
        if self._on_written:
            self._on_written(snapshot.step, time.monotonic() - begin)
