"""Out of memory, told as a batch that would fit: measured on two small batches once the large one has failed."""

from __future__ import annotations

import ctypes
import gc
import resource
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from harness.config import RunConfig
from harness.errors import TrainingError
from harness.train.phase import Patches, Phase
from harness.train.ranks import Ranks
from harness.train.shortage import is_out_of_memory
from harness.train.steps import update

_MARGIN = 0.95
"""Share of the memory that a step may plan with: allocators cut it into pieces."""
_PROBES = ((2, 4), (1, 2))
"""Patches of the two measurements; the second pair where the first does not fit."""


def explain_out_of_memory(error: BaseException, config: RunConfig, phase: Phase, ranks: Ranks) -> TrainingError:
    """What to tell when a step did not fit: the batch that was given, the one that would fit, and how to set it.

    The failed step's tensors are let go, and two small steps are measured. They spoil the weights in memory, which
    nobody saves any more, and no other rank takes part.
    """
    traceback.clear_frames(error.__traceback__)
    given = phase.config.batch_size // ranks.world_size // phase.config.accumulate
    needs = _probe(config, phase, ranks.device)
    room = room_bytes(ranks.device)
    start = (
        f"phase '{phase.config.name}': out of memory with {given} patches at a time on each of {ranks.world_size} "
        f"ranks (batch_size {phase.config.batch_size}, accumulate {phase.config.accumulate})"
    )
    fits = 0 if needs is None else needs.fits(room)
    if fits < 1:
        return TrainingError(
            f"{start}; not even one fits in the {room / 2**30:.1f} GiB here; take a smaller data.patch_px or networks, "
            f"or a device with more memory."
        )
    return TrainingError(f"{start}; about {fits} fit in {room / 2**30:.1f} GiB; {_advice(config, phase, ranks, fits)}.")


@dataclass(frozen=True)
class Needs:
    """Memory of a step: a fixed part (weights, gradients, optimisers, libraries) and a part for each patch."""

    fixed_bytes: float
    patch_bytes: float

    @classmethod
    def of(cls, small: tuple[int, float], large: tuple[int, float]) -> Needs:
        """From (patches, peak bytes) of two steps."""
        patch_bytes = max(1.0, (large[1] - small[1]) / (large[0] - small[0]))
        return cls(small[1] - small[0] * patch_bytes, patch_bytes)

    def fits(self, room: float) -> int:
        """Patches that fit at a time."""
        return max(0, int((_MARGIN * room - self.fixed_bytes) / self.patch_bytes))


def _advice(config: RunConfig, phase: Phase, ranks: Ranks, fits: int) -> str:
    key = f"phases.{config.phases.index(phase.config)}"
    share = phase.config.batch_size // ranks.world_size
    accumulate = next(
        (n for n in range(phase.config.accumulate + 1, share + 1) if share % n == 0 and share // n <= fits), None
    )
    smaller = f"{key}.batch_size={min(fits * phase.config.accumulate, share) * ranks.world_size}"
    if accumulate is None:
        return f"set {smaller}"
    kept = "keeps the batch, and its result without batch norm and relativistic_average"
    return f"set {key}.accumulate={accumulate}, which {kept}, or {smaller}"


def _probe(config: RunConfig, phase: Phase, device: torch.device) -> Needs | None:
    """Peak memory of a step on few patches, at two sizes; None where not even those fit."""
    phase.generator = phase.nets.generator  # unwrapped: no reduction, which other ranks would have to join
    phase.discriminator = phase.nets.discriminator if phase.is_adversarial else None
    for sizes in _PROBES:
        try:
            peaks = [(size, _peak_bytes(config, phase, device, size)) for size in sizes]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
            continue
        return Needs.of(*peaks)
    return None


def _peak_bytes(config: RunConfig, phase: Phase, device: torch.device, size: int) -> float:
    patches = _drawn(config, device, size * phase.config.accumulate)
    kind = replace(phase.kind(phase.first_step, log_norms=False), updates_generator=True, moves_p=False)
    reset_peak(device)
    update(phase, patches, kind)
    return read_peak(device)


def _drawn(config: RunConfig, device: torch.device, size: int) -> Patches:
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    edges = (config.data.patch_px // config.scale, config.data.patch_px)
    lr_image, hr_image = (
        torch.rand(size, 3, edge, edge, device=device).contiguous(memory_format=memory_format) for edge in edges
    )
    return Patches(lr_image, hr_image, torch.arange(size, device=device))


def room_bytes(device: torch.device) -> float:
    """Memory that this process may use on a device, what it holds already included."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    _give_back_freed_memory()
    status, system = _fields("/proc/self/status"), _fields("/proc/meminfo")
    room = float(system.get("MemAvailable", 0) + status.get("VmRSS", 0))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        room = min(room, limit - (status.get("VmSize", 0) - status.get("VmRSS", 0)))
    return room


def reset_peak(device: torch.device) -> None:
    """Measures peak memory anew from here on."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    _give_back_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is resident now


def read_peak(device: torch.device) -> float:
    """The most bytes held at a time since `reset_peak`: reserved on a GPU, resident in all on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))
    return float(_fields("/proc/self/status")["VmHWM"])


def _give_back_freed_memory() -> None:
    """What the C library keeps for later would hide how little the next step needs."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _fields(path: str) -> dict[str, int]:
    """The sizes in a file of /proc, in bytes."""
    rows = (line.split() for line in Path(path).read_text(encoding="ascii", errors="replace").splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}
