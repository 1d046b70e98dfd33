"""Weights to start from: a finished run, a checkpoint, or a weights file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from harness.errors import CheckpointError, first_line
from harness.models.build import build_generator
from harness.models.foreign import is_foreign, read_foreign_weights
from harness.schema import parse
from harness.screen import complain
from harness.train.checkpoint import MANIFEST, newest_good, read_manifest, verify

if TYPE_CHECKING:
    from harness.config import RunConfig

EXPORTED = "generator.safetensors"


def load_generator(path: Path, device: str = "cpu") -> tuple[nn.Module, RunConfig]:
    """The averaged generator of a run folder, a checkpoint folder or an exported file, ready for inference.

    Raises:
        CheckpointError: nothing of the kind lies there, or it is damaged.
    """
    weights, config = _read_generator(path)
    try:
        generator = build_generator(config.generator, config.scale)
    except (RuntimeError, MemoryError, OverflowError) as error:  # sizes that no machine has room for
        reason = first_line(error)
        raise CheckpointError(f"{path}: its configuration asks for an impossible network ({reason}).") from None
    _load(generator, weights, path)
    return generator.to(device).eval().requires_grad_(False), config


def load_start_weights(path: str, module: nn.Module, name: str = "generator") -> None:
    """Loads the weights of another run, checkpoint or file (also of other projects) into `module`.

    Raises:
        CheckpointError: there are none, or they are of another architecture.
    """
    _load(module, read_start_weights(Path(path), name), Path(path), name)


def read_start_weights(path: Path, name: str = "generator") -> dict[str, torch.Tensor]:
    """The state dict of `generator` or `discriminator` in a run, a checkpoint, or a weights file.

    Raises:
        CheckpointError: it cannot be read.
    """
    if path.is_dir():
        if name == "generator" and _is_finished(path):
            return _read_export(path / EXPORTED)[0]
        file = "generator_ema" if name == "generator" else name
        return _read_safetensors(_checkpoint_in(path)[0] / f"{file}.safetensors")[0]
    if path.suffix == ".safetensors":
        weights, _ = _read_safetensors(path)
        if not is_foreign(weights):
            return weights
    return read_foreign_weights(path)


def _read_generator(path: Path) -> tuple[dict[str, torch.Tensor], RunConfig]:
    from harness.config import RunConfig

    if path.is_dir() and not _is_finished(path):
        folder, manifest = _checkpoint_in(path)
        weights, _ = _read_safetensors(folder / "generator_ema.safetensors")
        return weights, parse(RunConfig, manifest["config"], str(folder / MANIFEST))
    file = path / EXPORTED if path.is_dir() else path
    weights, metadata = _read_export(file)
    try:
        values = json.loads(metadata["harness"])["config"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{file}: its configuration cannot be read; export the run again.") from None
    return weights, parse(RunConfig, values, str(file))


def _is_finished(folder: Path) -> bool:
    """Whether it is the folder of a run that has ended, whose export stands above its checkpoints."""
    return (folder / EXPORTED).exists() and not (folder / MANIFEST).exists()


def _checkpoint_in(path: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that a folder is, or the newest good one of a run folder, and its manifest.

    Raises:
        CheckpointError: it is damaged, or there is none.
    """
    if (path / MANIFEST).exists():
        return path, verify(path)
    folder = newest_good(path / "checkpoints", on_bad=lambda reason: complain(f"warning: {reason}"))
    if folder is None:
        raise CheckpointError(f"{path}: holds neither {EXPORTED} nor a checkpoint; give a run's folder.")
    return folder, read_manifest(folder)


def _read_export(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Raises:
    CheckpointError: the file cannot be read, or this project did not export it.
    """
    weights, metadata = _read_safetensors(file)
    if "harness" not in metadata:
        raise CheckpointError(f"{file}: carries no configuration, so it is no export of this project; give one.")
    return weights, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        return safetensors.torch.load_file(path), metadata
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; give a run's folder, a checkpoint or a weights file.") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: is not a readable safetensors file ({error}); give another one.") from None


def _load(module: nn.Module, weights: dict[str, Any], path: Path, name: str = "generator") -> None:
    wrong = module.load_state_dict(weights, strict=False) if _shapes_fit(module, weights, path, name) else None
    if wrong is None or wrong.missing_keys or wrong.unexpected_keys:
        missing, extra = (wrong.missing_keys, wrong.unexpected_keys) if wrong else ([], [])
        raise CheckpointError(
            f"{path}: the weights are of another architecture (missing {missing[:2]}, not expected {extra[:2]}); "
            f"set the {name}'s configuration to what the file holds."
        )


def _shapes_fit(module: nn.Module, weights: dict[str, Any], path: Path, name: str) -> bool:
    for key, value in module.state_dict().items():
        if key in weights and weights[key].shape != value.shape:
            raise CheckpointError(
                f"{path}: '{key}' has the shape {list(weights[key].shape)}, the configuration needs "
                f"{list(value.shape)}; set the {name}'s configuration to what the file holds."
            )
    return True
