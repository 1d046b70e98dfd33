"""What a run tells at its start of how this machine computes it, where a user would not expect that."""

from __future__ import annotations

from harness.config import RunConfig
from harness.precision import NOTE
from harness.train.ranks import Ranks


def notes_of(config: RunConfig, ranks: Ranks) -> list[str]:
    """A line each, nothing where all is as usual."""
    notes = []
    if config.precision == "bf16" and not ranks.bf16:
        notes.append(f"this {ranks.device.type} {NOTE}")
    if (
        ranks.device.type == "cuda"
        and ranks.world_size > 1
        and config.cuda_graphs == "auto"
        and not ranks.sums_in_order
    ):
        notes.append(
            "several GPUs start a step's kernels one by one, which with small networks takes longer than computing "
            "them; cuda_graphs=on starts them at once and compile=on joins them (tried on one GPU only: see whether it "
            f"pays with `harness bench ranks RECIPE cuda_graphs=on compile=on --ranks {ranks.world_size}`)"
        )
    return notes
