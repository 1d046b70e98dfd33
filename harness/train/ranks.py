"""The ranks of one run: Accelerate's device, process group and autocast, and the few words that ranks exchange."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, ProjectConfiguration
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from harness.device import best_device
from harness.errors import InputError
from harness.precision import has_bf16
from harness.train.fast.heap import keep_freed_memory

if TYPE_CHECKING:
    from harness.config import RunConfig

_COLLECTIVE_TIMEOUT = timedelta(minutes=10)


class Ranks:
    """What a run needs to know about its processes; one process is a group of one."""

    def __init__(self, config: RunConfig, out: str) -> None:
        use_cpu = best_device() == "cpu"
        self.bf16 = config.precision == "bf16" and has_bf16(torch.device("cpu" if use_cpu else "cuda"))
        """Whether networks are computed in bfloat16."""
        self.accelerator = Accelerator(
            cpu=use_cpu,
            mixed_precision="bf16" if self.bf16 else "no",
            log_with=list(config.trackers) or None,
            project_config=ProjectConfiguration(project_dir=out, logging_dir=os.path.join(out, "tensorboard")),
            kwargs_handlers=[
                # Buffers (batch norm's) stay each rank's own while training: rank 0's are the ones saved and shown.
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=_COLLECTIVE_TIMEOUT),
            ],
        )
        self.device: torch.device = self.accelerator.device
        if use_cpu:
            keep_freed_memory()
        self.rank: int = self.accelerator.process_index
        self.world_size: int = self.accelerator.num_processes
        # Words between ranks go over the CPU, so that they never wait for the device's queue.
        needs_own_group = self.world_size > 1 and distributed.get_backend() != "gloo"
        self._words: Any = distributed.new_group(backend="gloo") if needs_own_group else None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def largest(self, values: list[float]) -> list[float]:
        """The element-wise maximum over all ranks."""
        return self._reduce(values, distributed.ReduceOp.MAX)

    def total(self, values: list[float]) -> list[float]:
        """The element-wise sum over all ranks."""
        return self._reduce(values, distributed.ReduceOp.SUM)

    def barrier(self) -> None:
        """Waits until every rank is here."""
        self.total([0.0])

    def sum_tensor(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks of a tensor on the device; `value` itself stays as it is."""
        if self.world_size > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value

    def mean_tensor(self, value: torch.Tensor) -> torch.Tensor:
        """The mean over all ranks of a tensor on the device."""
        return self.sum_tensor(value) / self.world_size

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Gives every rank rank 0's buffers (the running statistics that it would save)."""
        if self.world_size > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, src=0)

    def share_of(self, batch_size: int, what: str) -> int:
        """This rank's part of a global batch.

        Raises:
            InputError: the number of ranks does not divide it.
        """
        if batch_size % self.world_size:
            raise InputError(
                f"{what}: batch_size {batch_size} is not divisible by {self.world_size} ranks; "
                f"give a multiple of {self.world_size}, or another number of ranks."
            )
        return batch_size // self.world_size

    @property
    def sums_in_order(self) -> bool:
        """Whether the ranks' gradients are added up in a fixed order."""
        exact = self.device.type == "cpu" or torch.are_deterministic_algorithms_enabled()
        return self.world_size > 2 and exact

    def fix_order_of_sums(self, module: DistributedDataParallel) -> None:
        """Has a network's gradients added up in the order of the ranks, where a run shall be exactly resumable.

        DDP arranges the gradients anew after its first backward pass, and what a reduction rounds depends on where a
        number lies. So the first step of a resumed run would differ in the last bit from the same step of a run that
        was not interrupted. Two ranks have one order only, and a GPU is exact in deterministic mode alone.
        """
        if self.sums_in_order:
            # A lambda, since DDP compares a hook's annotations and cannot read those that are text.
            module.register_comm_hook(None, lambda _, bucket: _mean_in_rank_order(bucket))

    def close(self) -> None:
        """Ends the trackers and the process group, so that another run may begin in this process."""
        for tracker in self.accelerator.trackers:
            tracker.finish()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)

    def _reduce(self, values: list[float], op: Any) -> list[float]:
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor, op=op, group=self._words)
        return tensor.tolist()


def _mean_in_rank_order(bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """The mean of a bucket over all ranks, each number summed from rank 0 on."""
    own = bucket.buffer()
    parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]

    def add_up(gathered: torch.futures.Future[Any]) -> torch.Tensor:
        gathered.wait()
        for part in parts[1:]:
            parts[0].add_(part)
        return parts[0].div_(len(parts))

    return distributed.all_gather(parts, own, async_op=True).get_future().then(add_up)


def make_deterministic() -> None:
    """Asks torch for bitwise repeatable kernels, at some cost in speed on a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def make_fast() -> None:
    """TF32 for what stays fp32 on a GPU, and cuDNN's search for the best kernel of each fixed shape."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
