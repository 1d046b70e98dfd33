"""Weights under the names that other projects use: BasicSR's networks and the older ESRGAN releases, both ways.

Which name is which says `foreign_names`.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from harness.errors import CheckpointError, InputError
from harness.models.config import DiscriminatorConfig, GeneratorConfig
from harness.models.foreign_names import ARCHITECTURES, LOOKS, Format, Sizes, StateDict


class Foreign(NamedTuple):
    """Somebody else's network in this project's terms."""

    config: dict[str, Any]
    """Values of the generator's (or discriminator's) section."""
    weights: StateDict
    scale: int | None
    """Of a generator; None for a discriminator."""
    format: Format


def to_foreign(
    config: GeneratorConfig | DiscriminatorConfig, state_dict: Mapping[str, Tensor], format: Format
) -> StateDict:
    """The weights of a network of this project under another project's names.

    Raises:
        InputError: the format has no place for such a network.
    """
    architecture = ARCHITECTURES[format]
    if config.name != architecture.family:
        raise InputError(f"format {format} holds a '{architecture.family}', not a '{config.name}'; choose another one.")
    for key, value in architecture.fixed.items():
        if getattr(config, key) != value:
            raise InputError(
                f"format {format} knows only {key}: {value}, not {getattr(config, key)}; it cannot hold this."
            )
    sizes = _own_sizes(state_dict)
    scale = 2**sizes.num_doublings
    if architecture.scales and scale not in architecture.scales:
        known = " and ".join(map(str, architecture.scales))
        raise InputError(f"format {format} knows only scale {known}, not {scale}; choose another one.")
    pairs = dict(architecture.pairs(sizes))
    return {pairs[_layer(key)] + key[len(_layer(key)) :]: value for key, value in state_dict.items()}


def from_foreign(state_dict: Mapping[str, Any]) -> Foreign:
    """The configuration and the weights, under this project's names, of another project's file.

    Takes the averaged weights (`params_ema`) where there are any, and drops a `module.` prefix.

    Raises:
        CheckpointError: the file is of no known architecture, or differs from it; the sentence names the first keys.
    """
    state = _unwrapped(state_dict)
    format = _format_of(state)
    sizes = _their_sizes(format, state)
    theirs = {their: our for our, their in ARCHITECTURES[format].pairs(sizes)}
    unknown = [key for key in state if _layer(key) not in theirs]
    missing = [their for their in theirs if f"{their}.weight" not in state]
    if unknown or missing:
        raise CheckpointError(
            f"the weights look like {format} with {sizes.num_blocks} blocks, but lack {missing[:2]} and have "
            f"{unknown[:2]} besides; give a file of an unchanged network."
        )
    weights = {theirs[_layer(key)] + key[len(_layer(key)) :]: value for key, value in state.items()}
    try:
        config = ARCHITECTURES[format].config(weights, sizes)
    except CheckpointError:
        raise
    except (IndexError, KeyError, ValueError):
        raise CheckpointError(
            f"the weights look like {format}, but have unexpected shapes; give a file of an unchanged network."
        ) from None
    return Foreign(config, weights, None if format == "basicsr-vgg" else 2**sizes.num_doublings, format)


def is_foreign(state_dict: Mapping[str, Any]) -> bool:
    """Whether these are weights under another project's names."""
    return any(re.fullmatch(known.marker, key) for known in ARCHITECTURES.values() for key in state_dict)


def read_foreign_weights(path: Path) -> StateDict:
    """The weights in another project's file, under this project's names; nothing in it is executed.

    Raises:
        CheckpointError: it is no file of plain tensors, or of no known architecture.
    """
    return read_foreign(path).weights


def read_foreign(path: Path) -> Foreign:
    """The network in another project's file; nothing in it is executed.

    Raises:
        CheckpointError: it is no file of plain tensors, or of no known architecture.
    """
    try:
        return from_foreign(read_tensors(path))
    except CheckpointError as error:
        told = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path}: {told}") from None


def read_tensors(path: Path) -> Mapping[str, Any]:
    """The named tensors in a `.safetensors` file, or in one that torch saved; nothing in it is executed.

    Raises:
        CheckpointError: it is not there, damaged, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); give a weights file.") from None
    except MemoryError:
        raise CheckpointError(f"{path}: does not fit into memory; give another file.") from None
    except Exception as error:  # damaged bytes end torch's restricted reader in any way: IndexError, KeyError, ...
        raise CheckpointError(f"{path}: is no file of plain tensors ({_reason(error)}); give a state dict.") from None
    if not isinstance(stored, Mapping):
        raise CheckpointError(f"{path}: holds a {type(stored).__name__}, not named tensors; give a state dict.")
    return stored


def _reason(error: Exception) -> str:
    """What is wrong with a file; torch's own advice, to run what is in it, is not passed on."""
    if isinstance(error, safetensors.SafetensorError):
        return str(error)
    refused = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    return f"it asks for {refused[1]}, which is not run" if refused else "it is damaged, or of another kind"


def _unwrapped(stored: Mapping[str, Any]) -> StateDict:
    for key in ("params_ema", "params", "state_dict"):
        if isinstance(stored.get(key), Mapping):
            stored = stored[key]
            break
    state = {str(key).removeprefix("module."): value for key, value in stored.items()}
    wrong = next((key for key, value in state.items() if not isinstance(value, Tensor)), None)
    if wrong is not None:
        raise CheckpointError(f"'{wrong}' is no tensor; give a state dict, or one under params or params_ema.")
    return state


def _format_of(state: StateDict) -> Format:
    for format, architecture in ARCHITECTURES.items():
        if any(re.fullmatch(architecture.marker, key) for key in state):
            return format
    likeness = next((name for name, marker in LOOKS.items() if any(re.match(marker, key) for key in state)), None)
    told = f"looks like {likeness}" if likeness else "is of no known architecture"
    raise CheckpointError(f"the file {told} (its first keys are {list(state)[:3]}); give one of {list(ARCHITECTURES)}.")


def _own_sizes(state: Mapping[str, Tensor]) -> Sizes:
    return Sizes(_count(r"(?:layers\.blocks|pairs)\.(\d+)\.", state), _count(r"layers\.up\.(\d+)\.", state))


def _their_sizes(format: Format, state: StateDict) -> Sizes:
    num_blocks = _count(ARCHITECTURES[format].their_block, state)
    if format != "esrgan-old":
        return Sizes(num_blocks, _count(r"(?:conv_up|upconv)(\d)\.", state))
    last = max((int(m[1]) for m in (re.match(r"model\.(\d+)\.weight", key) for key in state) if m), default=4)
    return Sizes(num_blocks, (last - 4) // 3)


def _count(pattern: str, state: Mapping[str, Tensor]) -> int:
    """How many values the pattern's group takes at the start of the keys."""
    return len({match[1] for match in (re.match(pattern, key) for key in state) if match})


def _layer(key: str) -> str:
    """The layer that a state dict's key belongs to."""
    return key.rpartition(".")[0]
