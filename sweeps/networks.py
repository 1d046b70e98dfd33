"""The networks of a plan, built without memory: what they weigh, and whether their phases fit them."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING

from harness.config import RunConfig
from harness.errors import InputError

if TYPE_CHECKING:
    from torch import nn

_SHAPES = {"generator", "discriminator", "scale"}
_STARTS = {"init_from", "init_discriminator_from"}


def sizes(configs: Iterable[RunConfig]) -> Iterator[tuple[int, int]]:
    """Parameters of each configuration's generator and discriminator (0 without one)."""
    from harness.models.build import num_parameters

    known: dict[str, tuple[int, int]] = {}
    for config in configs:
        shape = _shape(config)
        if shape not in known:
            generator, discriminator = _build(config)
            known[shape] = num_parameters(generator), num_parameters(discriminator) if discriminator else 0
        yield known[shape]


def misfits(configs: Iterable[RunConfig], missing: Container[str] = ()) -> Iterator[str]:
    """Networks that cannot be built, and layers or first weights that do not fit them, each told once.

    Args:
        missing: paths of weights that are not there, which is told elsewhere.
    """
    asked = set()
    for config in configs:
        phase = config.phases[-1]  # the one that a phase's configuration is for
        wanted = (_shape(config), config.model_dump_json(include=_STARTS), phase.train_last, phase.reinit_last)
        if wanted not in asked:
            asked.add(wanted)
            try:
                _check(config, missing)
            except InputError as error:
                yield f"phase '{phase.name}': {error}"


def _shape(config: RunConfig) -> str:
    return f"{config.model_dump_json(include=_SHAPES)} {config.data.patch_px}"


def _build(config: RunConfig) -> tuple[nn.Module, nn.Module | None]:
    import torch

    from harness.models.build import build_discriminator, build_generator

    chosen = config.discriminator
    if chosen is not None and chosen.name == "vgg16":
        chosen = chosen.model_copy(update={"weights": "random"})
    with torch.device("meta"):
        generator = build_generator(config.generator, config.scale)
        return generator, None if chosen is None else build_discriminator(chosen, config.data.patch_px)


def _check(config: RunConfig, missing: Container[str]) -> None:
    from harness.train.fit import check_layers
    from harness.train.start import load_start_weights

    generator, discriminator = _build(config)
    check_layers(config.phases[-1], generator)
    starts = (
        ("generator", config.init_from, generator),
        ("discriminator", config.init_discriminator_from, discriminator),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that networks without memory take no values
        for name, path, network in starts:
            if path is not None and path not in missing and network is not None:
                load_start_weights(path, network, name)
