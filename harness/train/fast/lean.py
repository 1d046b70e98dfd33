"""Adam and DDP without torch's compiler, which a process that compiles nothing need not import.

Importing it takes a third of the time until a run's first step. Torch does so in functions that are marked as not to be
compiled, to learn what that means; it keeps the answer on the function, where it is put here beforehand. A torch that
does otherwise is not affected.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

_MARKED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def _without_compiler(build: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The same optimiser, whose step (where a compiled one would be cut) and bookkeeping do not import the compiler."""
    for name in _MARKED:
        _mark(torch.optim.Optimizer, name)
    step: Any = getattr(build.step, "__wrapped__", build.step)
    return type(f"Lean{build.__name__}", (build,), {"step": torch.no_grad()(step)})


def _mark(owner: type, name: str) -> None:
    """Puts the answer on a method, beneath whatever is wrapped around it."""
    method: Any = getattr(owner, name, None)
    plain: Any = inspect.unwrap(method) if method is not None else None
    if plain is not None and not hasattr(plain, "__dynamo_disable"):
        plain.__dynamo_disable = plain


@contextmanager
def ddp_without_compiler() -> Iterator[None]:
    """Within it, DDP is made without asking the compiler, which is not imported yet, whether that reduces gradients.

    It does where its configuration says so, and this project's never does. Forward passes do not import it either.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    _mark(DistributedDataParallel, "_inside_ddp_forward")
    utils = _Unimported("torch._dynamo.utils", get_optimize_ddp_mode=lambda: "ddp_optimizer")
    answer = vars(torch)["_dynamo"] = _Unimported("torch._dynamo", utils=utils)
    try:
        yield
    finally:
        if vars(torch).get("_dynamo") is answer:
            del vars(torch)["_dynamo"]


class _Unimported:
    """Stands for a module: has what it was given, and imports the module for anything else."""

    def __init__(self, name: str, **given: Any) -> None:
        self._name = name
        vars(self).update(given)

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


LeanAdam = _without_compiler(torch.optim.Adam)
LeanAdamW = _without_compiler(torch.optim.AdamW)
