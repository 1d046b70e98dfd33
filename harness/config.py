"""A run's configuration: read, overridden, validated and stored before anything is touched. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from harness.augment.config import AugmentConfig, NoAugmentConfig
from harness.data.config import DataConfig, SourceConfig
from harness.errors import InputError
from harness.losses.config import AdversarialConfig, LossConfig
from harness.models.config import DiscriminatorConfig, GeneratorConfig
from harness.schema import Section, apply_overrides, parse, read_yaml
from harness.train.config import CheckpointConfig, OptimizerConfig, ValidationConfig, WatchConfig


class PhaseConfig(Section):
    """A stretch of a run with its own losses, optimisers and data."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")
    iterations: int = Field(gt=0)
    """Steps of this phase; each updates the discriminator, where there is one."""
    batch_size: int = Field(gt=0)
    """Global batch, over all ranks."""
    losses: tuple[LossConfig, ...] = ()
    """The generator's terms beside the adversarial one; each name once."""
    adversarial: AdversarialConfig | None = None
    """The game with the discriminator; null trains the generator alone."""
    generator_optimizer: OptimizerConfig
    discriminator_optimizer: OptimizerConfig | None = None
    generator_every: int = Field(1, gt=0)
    """The generator is updated in every so-manieth iteration; the discriminator in each."""
    augment: AugmentConfig = NoAugmentConfig()
    """What the discriminator sees instead of the plain images."""
    sources: tuple[SourceConfig, ...] | None = None
    """This phase's own training data instead of the run's."""
    reinit_last: int = Field(0, ge=0)
    """The generator's last so many convolutions start anew from a normal distribution."""
    reinit_std: float = Field(0.02, ge=0)
    """Deviation of that normal distribution."""
    train_last: int | None = Field(None, gt=0)
    """Only the generator's last so many convolutions are trained; null trains all."""
    accumulate: int = Field(1, gt=0)
    """Micro-batches per update on each rank."""

    @model_validator(mode="after")
    def _consistent(self) -> PhaseConfig:
        if not self.losses and self.adversarial is None:
            raise ValueError(f"phase '{self.name}' has no loss; give losses or adversarial")
        if self.adversarial is not None and self.discriminator_optimizer is None:
            raise ValueError(f"phase '{self.name}' is adversarial; give discriminator_optimizer")
        if self.adversarial is None and self.augment.name != "none":
            raise ValueError(f"phase '{self.name}' augments a discriminator but is not adversarial; remove augment")
        names = [loss.name for loss in self.losses]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"phase '{self.name}' has the loss {twice} twice; keep one and add the weights")
        if self.adversarial is None and not any(loss.weight for loss in self.losses):
            raise ValueError(f"phase '{self.name}' has no loss with a weight above 0; raise one")
        most = self.iterations if self.adversarial else 1
        if self.generator_every > most:
            why = "the generator is never updated" if self.adversarial else "iterations between update nothing"
            raise ValueError(
                f"phase '{self.name}' has generator_every {self.generator_every}, so that {why}; give at most {most}"
            )
        if self.train_last is not None and self.reinit_last > self.train_last:
            raise ValueError(
                f"phase '{self.name}' would leave layers random: reinit_last {self.reinit_last} is above train_last "
                f"{self.train_last}; lower it"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate {self.accumulate} does not divide batch_size {self.batch_size}")
        return self


class RunConfig(Section):
    """One run: everything that decides its result, and how it is watched and saved."""

    name: str = Field("run", pattern="^[^/]+$")
    """What trackers call it."""
    seed: int = Field(0, ge=0)
    """Every random number of the run follows from it."""
    scale: Literal[2, 4, 8, 16] = 4
    """How many times larger the SR image is than the LR image."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes the networks under autocast, where a device has it; weights and losses stay fp32."""
    channels_last: bool = True
    """Networks in torch's channels_last memory format, faster with convolutions; equal up to rounding."""
    deterministic: bool = False
    """Bitwise repeatable on a GPU too, at some cost in speed."""
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    """Start a step's work on a GPU all at once; auto does so on a single rank. On several GPUs, where it has not been
    tried yet, `on` records the reduction of gradients too. It changes no result."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Have torch's compiler join operations of a step on a GPU, which takes a minute at first; auto does so on a single
    rank in phases of 10,000 iterations and more, unless `deterministic`. Equal up to rounding."""
    data: DataConfig
    generator: GeneratorConfig
    discriminator: DiscriminatorConfig | None = None
    """Needed as soon as a phase is adversarial."""
    init_from: str | None = None
    """Weights that the generator starts from: a checkpoint folder, a finished run, or a weights file."""
    init_discriminator_from: str | None = None
    """The same for the discriminator."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the averaged generator, per update; 0 does not average."""
    phases: tuple[PhaseConfig, ...] = Field(min_length=1)
    """Trained one after the other; each continues the weights of the one before."""
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    watch: WatchConfig = WatchConfig()
    log_every: int = Field(50, gt=0)
    """Steps between two rows of metrics.jsonl."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        patch_px = self.data.patch_px
        if patch_px % self.scale:
            raise ValueError(f"data.patch_px {patch_px} is not a multiple of scale {self.scale}; change one of them")
        names = [phase.name for phase in self.phases]
        if len(set(names)) != len(names):
            raise ValueError(f"two phases share a name in {names}; rename one")
        if self.discriminator is None and any(phase.adversarial for phase in self.phases):
            raise ValueError("a phase is adversarial but there is no discriminator; give one")
        for phase in self.phases:
            _check_patch(phase, patch_px)
        return self

    @property
    def total_steps(self) -> int:
        return sum(phase.iterations for phase in self.phases)

    def first_step(self, phase: int) -> int:
        """Steps done before phase number `phase` begins."""
        return sum(before.iterations for before in self.phases[:phase])

    def first_position(self, phase: int) -> int:
        """Samples consumed (the global position g) before phase number `phase` begins."""
        return sum(before.iterations * before.batch_size for before in self.phases[:phase])

    def sources(self, phase: int) -> tuple[SourceConfig, ...]:
        """The training sources of phase number `phase`."""
        return self.phases[phase].sources or self.data.sources


def _check_patch(phase: PhaseConfig, patch_px: int) -> None:
    """A loss that can compare any patch need not have `smallest_px`."""
    for loss in phase.losses:
        smallest_px = getattr(loss, "smallest_px", 1)
        if patch_px < smallest_px:
            raise ValueError(
                f"data.patch_px {patch_px} is too small for the loss {loss.name} of phase '{phase.name}', which needs "
                f"{smallest_px}; raise it or remove the loss"
            )


def pretrained_networks(config: RunConfig, phase: PhaseConfig) -> list[str]:
    """Names of the pretrained networks that a phase's losses and discriminator need (see `harness.weights`)."""
    losses = [loss for loss in phase.losses if loss.name == "features" and loss.weights == "pretrained"]
    names = [loss.network for loss in losses]
    discriminator = config.discriminator if phase.adversarial else None
    if discriminator is not None and discriminator.name == "vgg16" and discriminator.weights == "pretrained":
        names.append("vgg16")
    return list(dict.fromkeys(names))


def load_run_config(path: Path, overrides: list[str] | None = None) -> RunConfig:
    """Reads and validates a recipe.

    Raises:
        InputError: one sentence that names the file and the key.
    """
    return parse(RunConfig, apply_overrides(read_yaml(path), overrides or []), str(path))


def dump_yaml(section: Section) -> str:
    """The resolved configuration as YAML; reading it back gives an equal configuration."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


# Keys that change how a run is watched or stored, never what it learns.
HARMLESS_KEYS = ("name", "validation", "checkpoint", "log_every", "trackers", "watch", "cuda_graphs")
_HARMLESS_DATA_KEYS = ("read_threads", "cache_gb")


def result_keys(config: RunConfig) -> dict[str, Any]:
    """The part of the configuration that decides the weights, phases left out."""
    values = config.model_dump(mode="json", exclude={*HARMLESS_KEYS, "phases"})
    for key in _HARMLESS_DATA_KEYS:
        values["data"].pop(key)
    return values


def phase_keys(config: RunConfig, fingerprint_of: Callable[[str], str]) -> list[str]:
    """A key per phase: NAME-HASH of everything that decides its result, its parent's key included.

    `fingerprint_of` maps the path of a dataset (or of a weights file) to the hash of its content, so that moving data
    changes no key. A phase without a discriminator does not depend on the discriminator's configuration.
    """
    keys: list[str] = []
    for number, phase in enumerate(config.phases):
        values = result_keys(config)
        del values["data"]["sources"]
        values["sources"] = [_source_identity(source, fingerprint_of) for source in config.sources(number)]
        values["phase"] = phase.model_dump(mode="json", exclude={"sources"})
        values["parent"] = keys[-1] if keys else None
        if number or config.init_from is None:
            values["init_from"] = None
        else:
            values["init_from"] = fingerprint_of(config.init_from)
        if not any(p.adversarial for p in config.phases[: number + 1]):
            values["discriminator"] = values["init_discriminator_from"] = None
        elif config.init_discriminator_from is not None:
            values["init_discriminator_from"] = fingerprint_of(config.init_discriminator_from)
        text = json.dumps(values, sort_keys=True)
        keys.append(f"{phase.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}")
    return keys


def _source_identity(source: SourceConfig, fingerprint_of: Callable[[str], str]) -> dict[str, Any]:
    return {**source.model_dump(mode="json"), "path": fingerprint_of(source.path)}


def check_same_result(
    stored: RunConfig, given: RunConfig, where: Path, named_by_content: bool = False, num_begun: int | None = None
) -> list[str]:
    """The harmless differences between a stored configuration and the given one, one line each.

    Args:
        named_by_content: the folder's name stands for what its weights to start from hold, wherever they lie.
        num_begun: phases of which something has been trained; later ones may differ. None: all.

    Raises:
        InputError: a difference would change the result; the sentence shows the first ones.
    """
    num_begun = len(stored.phases) if num_begun is None else num_begun
    old, new = stored.model_dump(mode="json"), given.model_dump(mode="json")
    differences = list(_differences(old, new, ""))
    moved = {"init_from", "init_discriminator_from"} if named_by_content else set()
    harmless = {path for path, _ in differences if _is_harmless(path) or path in moved or _is_ahead(path, num_begun)}
    grave = [line for path, line in differences if path not in harmless]
    if grave:
        shown = "; ".join(grave[:3])
        raise InputError(
            f"{where}: was started with another configuration ({shown}); give another --out, or undo the change."
        )
    return [line for _, line in differences]


def _is_harmless(path: str) -> bool:
    """Where a dataset lies is harmless, too: what it holds is guarded by its fingerprint."""
    is_source_path = ".sources." in f".{path}" and path.endswith(".path")
    is_watching = path.split(".")[0] in HARMLESS_KEYS or path in {f"data.{key}" for key in _HARMLESS_DATA_KEYS}
    return is_watching or is_source_path


def _is_ahead(path: str, num_begun: int) -> bool:
    """Whether a key is of a phase of which nothing has been trained."""
    first, *rest = path.split(".")
    return first == "phases" and len(rest) > 1 and int(rest[0]) >= num_begun


def _differences(old: Any, new: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(key, old.get(key), new.get(key)) for key in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(old, new))]
    else:
        return [] if old == new else [(path, f"{path}: {old} -> {new}")]
    return [d for key, a, b in pairs for d in _differences(a, b, f"{path}.{key}" if path else key)]
