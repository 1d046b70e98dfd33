"""What a run tells at its start of how and by what it is computed, where a user would not expect that."""

from __future__ import annotations

from collections.abc import Sequence

from harness.config import RunConfig
from harness.precision import NOTE
from harness.train.ranks import Ranks


def notes_of(config: RunConfig, ranks: Ranks, trained_by: Sequence[str]) -> list[str]:
    """A line each, nothing where all is as usual.

    Args:
        trained_by: the versions of the code that trained the run so far, and this one.
    """
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
    if len(trained_by) > 1:
        notes.append(f"trained by several versions of the code: {'; '.join(trained_by)}")
    return notes
