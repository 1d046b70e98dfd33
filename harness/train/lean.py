"""Adam without torch's compiler, which a process that compiles nothing need not import."""

from __future__ import annotations

from typing import Any

import torch

_MARKED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def _without_compiler(build: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The same optimiser, whose step and bookkeeping do not import `torch._dynamo`.

    Importing it takes a third of the time until a run's first step. Torch does so in `step`, to mark a place where a
    compiled step would be cut, and in the methods marked as not to be compiled, to learn what that means; it keeps
    that answer on the function, where it is put here beforehand. A torch that does otherwise is not affected.
    """
    for name in _MARKED:
        plain = getattr(getattr(torch.optim.Optimizer, name, None), "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            plain.__dynamo_disable = plain
    step: Any = getattr(build.step, "__wrapped__", build.step)
    return type(f"Lean{build.__name__}", (build,), {"step": torch.no_grad()(step)})


LeanAdam = _without_compiler(torch.optim.Adam)
LeanAdamW = _without_compiler(torch.optim.AdamW)
