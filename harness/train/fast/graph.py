"""CUDA graphs: what a phase does on the device, recorded once per kind of step and then started by one launch.

With small patches and 64 channels an eager step spends its time starting kernels, some two thousand of them. A graph
repeats exactly the recorded kernels on exactly the recorded memory, so what is recorded must read its inputs from
fixed tensors, must not depend on numbers of the host, and must never wait for the device (see `steps`).

Several GPUs record the reduction of their gradients with the rest, where they are asked to. All of them must record
and repeat the same then, so none goes on without a graph where another has one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.errors import InputError, TrainingError, first_line
from harness.train.fast.fuse import as_written, compiler_failure, give_up, not_compiled
from harness.train.ranks import Ranks

T = TypeVar("T")
log = logging.getLogger(__name__)

_WARM_UP_CALLS = 3
"""Before recording: libraries open their handles, cuDNN searches its kernels, optimisers make their state."""
_WARM_UP_CALLS_OF_RANKS = 11
"""DDP times its first ten iterations by events, which a recording cannot hold, and lays its buckets out anew."""


class Backend(Protocol):
    """How work is recorded and repeated."""

    def building(self) -> AbstractContextManager[None]:
        """Around the building of what keeps to the stream that it was made on."""

    def warm_up(self, call: Callable[[], Any]) -> None:
        """Does the work a few times, as recording needs it done before."""

    def capture(self, call: Callable[[], T]) -> Callable[[], T]:
        """Records the work without doing it; the result does it and gives what `call` gave, in the same memory."""


class CudaBackend:
    """Graphs of one GPU, in one pool of memory.

    The pool may be shared because no two graphs run at once and nothing that a graph leaves in it is read after the
    next one has begun: weights, optimiser states and inputs lie outside.
    """

    def __init__(self, device: torch.device, num_ranks: int = 1) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._kept: list[KeptInputs] = []
        self._warm_up_calls = _WARM_UP_CALLS if num_ranks == 1 else _WARM_UP_CALLS_OF_RANKS

    @contextmanager
    def building(self) -> Iterator[None]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream().wait_stream(self._stream)

    def warm_up(self, call: Callable[[], Any]) -> None:
        with self.building():
            for _ in range(self._warm_up_calls):
                call()
            # Apart from the recording, in which what torch's compiler has made would not be used.
            with as_written(), KeptInputs() as kept:
                call()
        self._kept.append(kept)

    def capture(self, call: Callable[[], T]) -> Callable[[], T]:
        graph = torch.cuda.CUDAGraph()
        # Threads that read ahead or write a checkpoint may call CUDA meanwhile: only this one must not wait.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            result = call()

        def replay() -> T:
            graph.replay()
            return result

        return replay


class KeptInputs(TorchDispatchMode):
    """Holds every tensor that the operations within read and did not make themselves.

    A graph knows addresses, not tensors. Constants that a cache throws away later (the matrix of a skip, say) would be
    read from memory that is somebody else's by then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[int, torch.Tensor] = {}
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            storage = tensor.untyped_storage()._cdata
            if storage not in self._made:
                self.tensors.setdefault(storage, tensor.detach())
        result = func(*args, **(kwargs or {}))
        self._made.update(
            storage for tensor in _tensors(result) if (storage := tensor.untyped_storage()._cdata) not in self.tensors
        )
        return result


class Graphs:
    """The graphs of a phase, by a key that says what is done.

    Args:
        backend: how work is recorded and repeated.
        state: all tensors that the work changes for good; those that it makes itself begin as zeros.
        required: whether work that cannot be recorded is an error, instead of being done without a graph from then on.
        num_ranks: that record together; of several none goes on in another way than the others.
    """

    def __init__(
        self,
        backend: Backend,
        state: Callable[[], Iterable[torch.Tensor]],
        required: bool = False,
        num_ranks: int = 1,
    ) -> None:
        self.backend = backend
        self._is_alone = num_ranks == 1
        self._state = state
        self._required = required
        self._replays: dict[Hashable, Callable[[], Any]] = {}
        self.failure: str | None = None
        """Why no more graphs are recorded."""

    def run(self, key: Hashable, call: Callable[[], T]) -> T:
        """Does the work of `key`: by its graph, which is recorded from `call` when the key is new.

        Raises:
            TrainingError: it cannot be recorded although it must be.
        """
        if key not in self._replays:
            if self.failure is not None:
                return call()
            self._replays[key] = self._record(call)
        return self._replays[key]()

    def _record(self, call: Callable[[], T]) -> Callable[[], T]:
        saved = _Saved(self._state())
        try:
            self.backend.warm_up(call)
            saved.restore(self._state())
            return self.backend.capture(call)
        except RuntimeError as error:
            saved.restore(self._state())
            reason = compiler_failure(error)
            if reason and self._is_alone:
                give_up(reason)
                return self._record(call)
            if reason:
                raise not_compiled(reason) from error
            self.failure = first_line(error)
            if self._required:
                raise TrainingError(
                    f"cuda_graphs: on, but the step cannot be recorded as a graph ({self.failure}); set auto or off."
                ) from error
            log.warning("The step cannot be recorded as a CUDA graph (%s); it runs without, slower.", self.failure)
            return call


def graphs_for(
    setting: Literal["auto", "on", "off"], ranks: Ranks, state: Callable[[], Iterable[torch.Tensor]]
) -> Graphs | None:
    """The graphs that a phase uses on this device, None for none.

    Raises:
        InputError: they are asked for where there are none.
    """
    is_on_gpu, is_alone = ranks.device.type == "cuda", ranks.world_size == 1
    if setting == "on":
        if not is_on_gpu:
            raise InputError(f"cuda_graphs: on needs an NVIDIA GPU, not {ranks.device.type}; set auto.")
        if ranks.sums_in_order:
            raise InputError("cuda_graphs: on cannot record deterministic sums over several ranks; set auto.")
    elif setting == "off" or not is_on_gpu or not is_alone:
        return None
    backend = CudaBackend(ranks.device, ranks.world_size)
    return Graphs(backend, state, required=setting == "on", num_ranks=ranks.world_size)


class _Saved:
    """Copies of tensors, to be put back after work that shall not count."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self._copies = {id(tensor): (tensor, tensor.detach().clone()) for tensor in tensors}

    @torch.no_grad()
    def restore(self, tensors: Iterable[torch.Tensor]) -> None:
        """Puts the copies back; tensors that were not there before become zeros."""
        for tensor in tensors:
            _, copy = self._copies.get(id(tensor), (None, None))
            tensor.copy_(copy) if copy is not None else tensor.zero_()


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
