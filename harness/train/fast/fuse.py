"""Fused kernels: the parts of a step on a GPU that torch's compiler turns into few passes over memory.

With 64 channels a step moves more bytes than it computes: an eager convolution's bias, batch norm, activation and
residual sum are a pass each, and the discriminator's augmentation is some three hundred small operations. The compiler
joins what lies between two convolutions. It takes a minute when a run starts for the first time; what it made is kept
in the run's folder, or beside the phases of a sweep, which share it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from harness import random
from harness.augment.pipeline import AugmentPipeline
from harness.errors import InputError, TrainingError
from harness.losses.features import FeatureLoss
from harness.losses.pixel import CharbonnierLoss, PixelLoss
from harness.models.skip import GlobalSkip
from harness.train.ranks import Ranks

log = logging.getLogger(__name__)
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_WORTH_COMPILING = 10_000
"""Iterations of a phase."""
MOST_CONVS_AT_ONCE = 48
"""Convolutions of a network that is compiled as one; 23 RRDB blocks have 351, and would take minutes."""
_LEAST_ALIKE = 3
"""So many blocks of one kind in a row are compiled as one block that is used many times."""
_MOST_VARIANTS = 64
"""Shapes and kinds of call that one piece of code may be compiled for."""
_KERNELS = "gpu/*.py"
"""Those of our own, in `harness/models`."""


def compiler_for(
    setting: Literal["auto", "on", "off"], ranks: Ranks, num_iterations: int, channels_last: bool
) -> Compiler | None:
    """The compiler that a phase of so many iterations uses, None for none.

    Raises:
        InputError: it is asked for where there is no GPU, or not what the compiler needs itself.
    """
    is_auto = setting == "auto"
    if setting == "off" or (is_auto and not pays(ranks, num_iterations)):
        return None
    if ranks.device.type != "cuda":
        raise InputError(f"compile: on needs an NVIDIA GPU, not {ranks.device.type}; set auto.")
    c_compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    for name, there in (("Triton", importlib.util.find_spec("triton")), ("a C compiler", c_compiler)):
        if not there and is_auto:
            log.warning("torch's compiler needs %s, which is not installed; the steps run without it, slower.", name)
            return None
        if not there:
            raise InputError(f"compile: on needs {name}, which is not installed; install it, or set compile=off.")
    return Compiler(channels_last=channels_last)


def pays(ranks: Ranks, num_iterations: int) -> bool:
    """Whether `auto` compiles a phase: where it was measured, and sums need not be the same in every run."""
    is_alone_on_gpu = ranks.device.type == "cuda" and ranks.world_size == 1
    return is_alone_on_gpu and is_long(num_iterations) and not torch.are_deterministic_algorithms_enabled()


def is_long(num_iterations: int) -> bool:
    """Whether so many iterations win more than the minute that compiling takes."""
    return num_iterations >= _WORTH_COMPILING


def keep_compiled(out: Path, is_shared: bool = False) -> None:
    """Has what the compiler makes kept in a run's folder, unless the user says where.

    Args:
        is_shared: beside it instead, for all phases of a user's sweeps there: code that others wrote is not run.
    """
    folder = out.resolve().parent / f".compiled-{os.getuid()}" if is_shared else out.resolve() / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / _version_of_kernels()))


def _version_of_kernels() -> str:
    """Of the kernels of our own: what was made around others would be found, and counts on their results' shapes."""
    files = sorted((Path(__file__).parents[2] / "models").glob(_KERNELS))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


class Compiler:
    """Compiles functions for the shapes that they are first called with.

    Args:
        backend: who makes the kernels.
        channels_last: keep images so in all that is compiled. By itself inductor does so where no convolution has many
            more inputs than outputs; elsewhere it would copy images between two orders, and cast biases apart.
    """

    def __init__(self, backend: str | Callable[..., Any] = "inductor", channels_last: bool = False) -> None:
        from torch import _dynamo  # takes seconds
        from torch._functorch import config

        if importlib.util.find_spec("triton"):
            # So that they are there when networks are traced.
            from harness.models.gpu import shuffle as shuffle_gpu  # noqa: F401

        self._backend = backend
        self._options: dict[str, Any] | None = {"force_layout_optimization": True} if channels_last else None
        # Else whatever has a function of our own is traced and differentiated anew at each start.
        config.autograd_cache_allow_custom_autograd_functions = True
        _dynamo.config.recompile_limit = max(_dynamo.config.recompile_limit, _MOST_VARIANTS)

    def __call__(self, function: F) -> F:
        made: F = torch.compile(  # type: ignore[assignment]
            function, dynamic=False, fullgraph=True, backend=self._backend, options=self._options
        )
        return made


def fuse_generator(generator: nn.Module, compiler: Compiler) -> None:
    """Compiles a generator's layers: all at once where they are few, else part by part, equal blocks once."""
    layers = generator.get_submodule("layers")
    for part in [layers] if _is_small(layers) else parts_of(layers):
        fuse_module(part, compiler)


def _is_small(network: nn.Module) -> bool:
    modules = list(network.modules())
    # A skip inside would have the compiler look at how its matrices are made.
    has_skip = any(isinstance(module, GlobalSkip) for module in modules)
    return not has_skip and sum(isinstance(module, nn.Conv2d) for module in modules) <= MOST_CONVS_AT_ONCE


def fuse_module(module: nn.Module, compiler: Compiler) -> None:
    """Compiles what a call of the module does; its names, state and copies stay as they are."""
    module._compiled_call_impl = compiler(module.forward)


def unfuse(network: nn.Module) -> None:
    """Leaves nothing of a network compiled."""
    for module in network.modules():
        module._compiled_call_impl = None


def fuse_parts(module: nn.Module, compiler: Compiler) -> None:
    """Compiles those parts of losses or of an augmentation that are several operations."""
    for part in module.modules():
        if isinstance(part, (FeatureLoss, AugmentPipeline)):
            part.join_operations(compiler)
        elif isinstance(part, (PixelLoss, CharbonnierLoss)):
            fuse_module(part, compiler)


def fused_normal(compiler: Compiler) -> Callable[[int, torch.Tensor, tuple[int, ...]], torch.Tensor]:
    """`harness.random.normal_tensor`, compiled."""
    normal = compiler(random.normal_tensor)
    streams: dict[tuple[int, tuple[int, ...]], random.DeviceStream] = {}

    def call(key: int, position_B: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        if (key, shape) not in streams:
            (streams[key, shape],) = random.on_device([key], random.draws_of(shape), position_B.device)
        return normal(streams[key, shape], position_B, shape)

    return call


def as_written() -> AbstractContextManager[Any]:
    """Within, what was compiled is computed as it is written.

    Needed around a dispatch mode: what is called within one, torch's compiler would leave alone from then on.
    """
    if "torch._dynamo" not in sys.modules:  # nothing was compiled
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def compiler_failure(error: RuntimeError) -> str | None:
    """Why torch's compiler failed; None for an error that is not the compiler's."""
    exceptions = sys.modules.get("torch._dynamo.exc")
    if exceptions is None or not isinstance(error, exceptions.TorchDynamoException):
        return None
    return " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__  # who failed, and how


def not_compiled(reason: str) -> TrainingError:
    return TrainingError(f"torch's compiler failed ({reason}); set compile=off.")


def give_up(reason: str) -> None:
    """Has all that was to be compiled computed as it is written from now on."""
    torch.compiler.set_stance("force_eager")
    log.warning("torch's compiler failed (%s); the steps run without it, slower; compile=off does not try.", reason)


def done_or_given_up(call: Callable[[], T], may_give_up: bool) -> T:
    """Does work that is not recorded; where torch's compiler fails, as it is written, if that may be.

    Raises:
        TrainingError: the compiler failed, and may not.
    """
    try:
        return call()
    except RuntimeError as error:
        reason = compiler_failure(error)
        if reason is None:
            raise
        if not may_give_up:
            raise not_compiled(reason) from error
        give_up(reason)
        return call()


def parts_of(network: nn.Module) -> Iterator[nn.Module]:
    """The children of a network that have parameters; of several blocks of one kind in a row each block."""
    for child in network.children():
        blocks = list(child.children())
        alike = len(blocks) >= _LEAST_ALIKE and len({type(block) for block in blocks}) == 1
        if isinstance(child, nn.ModuleList) or (isinstance(child, nn.Sequential) and alike):
            yield from blocks
        elif any(True for _ in child.parameters()):
            yield child
