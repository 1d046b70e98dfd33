"""What the phases to come need, looked for before the first step: what is missing is told now, not days into a run."""

from __future__ import annotations

from torch import nn

from harness.config import PhaseConfig, RunConfig, pretrained_networks
from harness.data.cache import NodeCache
from harness.data.config import SourceConfig
from harness.data.samples import open_sources
from harness.errors import InputError
from harness.models.transfer import last_convolutions
from harness.train.nets import Nets
from harness.train.ranks import Ranks
from harness.train.shortage import building_networks
from harness.train.validate import first_images
from harness.weights import find


def check_phases(config: RunConfig, numbers: list[int], nets: Nets, ranks: Ranks) -> None:
    """Looks at phases before they are opened; of the first of them, only at what opening it does not check at once.

    Args:
        numbers: the phases that are not finished, in their order.

    Raises:
        InputError: a phase lacks something, or does not fit its networks, its data or the number of ranks.
    """
    opened: set[tuple[SourceConfig, ...]] = set()
    for number in numbers:
        phase, sources = config.phases[number], config.sources(number)
        check_batch(config, phase, ranks)
        try:
            for name in pretrained_networks(config, phase):
                find(name)
            if number > numbers[0]:
                check_layers(phase, nets.generator)
                if sources not in opened:
                    check_sources(config, sources)
        except InputError as error:
            raise InputError(f"phase '{phase.name}': {error}") from None
        opened.add(sources)
    if nets.discriminator is None and any(config.phases[number].adversarial for number in numbers[1:]):
        with building_networks():
            nets.new_discriminator()


def check_batch(config: RunConfig, phase: PhaseConfig, ranks: Ranks) -> None:
    """Raises:
    InputError: the ranks, or their micro-batches, do not divide the batch, or are too small for batch norm.
    """
    share = ranks.share_of(phase.batch_size, f"phase '{phase.name}'")
    if share % phase.accumulate:
        raise InputError(
            f"phase '{phase.name}': accumulate {phase.accumulate} does not divide the {share} patches of each of "
            f"{ranks.world_size} ranks; give another batch_size or accumulate."
        )
    if share == phase.accumulate:
        check_one_patch(config, phase)


def check_one_patch(config: RunConfig, phase: PhaseConfig) -> None:
    """Raises InputError: of a single patch at a time, batch norm would see one pixel."""
    patch_px, generator = config.data.patch_px, config.generator
    judge = config.discriminator if phase.adversarial else None
    if generator.name == "unet" and generator.normalizes_one_pixel(patch_px):
        where, mend = f"depth {generator.depth} of the U-Net", "more patches, larger ones, or a smaller generator.depth"
    elif judge is not None and judge.name in ("srgan", "conv") and judge.normalizes_one_pixel(patch_px):
        where, mend = f"the end of the discriminator {judge.name}", "more patches, or larger ones"
    else:
        return
    raise InputError(
        f"phase '{phase.name}': batch norm has a single value at {where}, with one patch of {patch_px} px at a time; "
        f"give {mend}."
    )


def check_layers(phase: PhaseConfig, generator: nn.Module) -> None:
    """Raises InputError: the phase names more of the last convolutions than the generator has."""
    if phase.reinit_last:
        last_convolutions(generator, phase.reinit_last, "reinit_last")
    if phase.train_last is not None:
        last_convolutions(generator, phase.train_last, "train_last")


def check_sources(config: RunConfig, sources: tuple[SourceConfig, ...]) -> None:
    """Raises:
    InputError: a source lacks what is asked of it, or has samples or val images that are too small.
    """
    datasets, _ = open_sources(config.data, sources)
    for dataset in datasets:
        dataset.close()
    first_images(sources, config.validation.max_images, config.scale, NodeCache.of(config.data, sources))
