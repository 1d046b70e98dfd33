"""Recipes: each parses, quotes its text's numbers, and has a smoke variant that is the same experiment, and trains."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

import sweeps
from harness.config import RunConfig, load_run_config, pretrained_networks
from harness.data.pack import pack
from harness.data.synth import write_dataset
from harness.models.build import build_generator
from harness.train.job import train_recipe

RECIPES = Path(sweeps.__file__).parent / "recipes"
NAMES = [
    "superaugan-ffhq",
    "superaugan-div2k",
    "esrdgan",
    "esrgan",
    "specialized-landscapes",
    "srgan",
    "perceptual-cnn",
    "interpolation-robustness",
]


def recipe(name, *overrides):
    return load_run_config(RECIPES / f"{name}.yaml", list(overrides))


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}-smoke" for name in NAMES)])
def test_a_recipe_bears_the_name_of_its_file(name):
    assert recipe(name).name == name


@pytest.mark.parametrize(
    ("name", "iterations", "batch_size", "patch_px", "learning_rate"),
    [
        ("superaugan-ffhq", [250_000, 1_500_000], 32, 128, 1e-4),
        ("superaugan-div2k", [3_200_000, 2_400_000], 32, 128, 1e-4),
        ("esrdgan", [100_000], 8, 128, 1e-4),
        ("esrgan", [1_000_000, 400_000], 16, 128, 1e-4),
        ("specialized-landscapes", [10_000, 200_000, 2_000], 8, 384, 1e-4),
        ("srgan", [3 * 200, 240 * 200], 4, 256, 1e-4),
        ("perceptual-cnn", [20 * 37_500 // 16], 16, 256, 1e-3),
        ("interpolation-robustness", [20 * 37_500 // 16], 16, 256, 1e-3),
    ],
)
def test_a_recipe_has_its_texts_schedule(name, iterations, batch_size, patch_px, learning_rate):
    config = recipe(name)
    assert config.scale == 4 and config.data.patch_px == patch_px
    assert [phase.iterations for phase in config.phases] == iterations
    assert {phase.batch_size for phase in config.phases} == {batch_size}
    assert config.phases[-1].generator_optimizer.learning_rate == learning_rate


@pytest.mark.parametrize(
    ("name", "betas", "networks"),
    [
        ("superaugan-ffhq", (0.9, 0.999), []),
        ("superaugan-div2k", (0.9, 0.999), []),
        ("esrdgan", (0.9, 0.999), ["vgg19"]),  # the ESRGAN paper's, which the author's code has, too
        ("esrgan", (0.9, 0.99), ["vgg19"]),  # BasicSR's
        ("specialized-landscapes", (0.9, 0.999), ["vgg16"]),
        ("srgan", (0.9, 0.999), ["vgg19"]),
        ("perceptual-cnn", (0.9, 0.999), ["vgg16"]),
        ("interpolation-robustness", (0.9, 0.999), ["vgg16"]),
    ],
)
def test_a_recipe_has_its_texts_adam_and_vgg(name, betas, networks):
    config = recipe(name)
    for phase in config.phases:
        optimizers = filter(None, (phase.generator_optimizer, phase.discriminator_optimizer))
        assert {optimizer.betas for optimizer in optimizers} == {betas}
    assert pretrained_networks(config, config.phases[-1]) == networks


def structure(config: RunConfig):
    """What a smoke variant may not change: the kind of everything, and the tricks."""
    return {
        "generator": config.generator.model_dump(exclude={"num_blocks", "num_channels", "growth"}),
        "discriminator": config.discriminator and config.discriminator.name,
        "degradation": config.data.degradation,
        "jitter": (config.data.flip, config.data.rotate, config.data.brightness, config.data.contrast),
        "num_sources": len(config.data.sources) > 1,
        "averaged": config.ema_decay > 0,
        "phases": [phase_structure(phase) for phase in config.phases],
    }


def phase_structure(phase):
    game = phase.adversarial and phase.adversarial.model_dump(exclude={"instance_noise_steps"})
    keep = ("name", "generator_every", "reinit_last", "reinit_std", "train_last")
    return {
        **{key: getattr(phase, key) for key in keep},
        "losses": [(loss.name, getattr(loss, "network", ""), getattr(loss, "distance", "")) for loss in phase.losses],
        "game": game,
        "augment": phase.augment.model_dump(exclude={"step"}),
        "schedule": phase.generator_optimizer.schedule.name,
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_variant_is_the_same_experiment(name):
    assert structure(recipe(f"{name}-smoke")) == structure(recipe(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_variant_needs_only_the_embedded_dataset(name):
    config = recipe(f"{name}-smoke")
    sources = [source for number in range(len(config.phases)) for source in config.sources(number)]
    assert {source.path for source in sources} == {"data/demo"}
    assert '"weights": "pretrained"' not in json.dumps(config.model_dump(mode="json"))


@pytest.mark.parametrize("name", NAMES)
def test_full_size_networks_can_be_built(name):
    config = recipe(name)
    with torch.device("meta"):
        generator = build_generator(config.generator, config.scale)
    assert sum(p.numel() for p in generator.parameters()) > 500_000


@pytest.fixture(scope="session")
def landscapes(tmp_path_factory):
    """A few small drawings of each class, packed."""
    root = tmp_path_factory.mktemp("landscapes")
    write_dataset(root / "images", images_per_class=3, size_px=128, workers=1)
    pack([root / "images"], root / "packed", tile_px=96, workers=1, val=1, test=1)
    return root / "packed"


def few_steps(config: RunConfig, dataset: Path) -> RunConfig:
    """The same run on `dataset` with three steps a phase and small batches, in float32."""
    values = json.loads(json.dumps(config.model_dump(mode="json")).replace('"data/demo"', json.dumps(str(dataset))))
    for phase in values["phases"]:
        phase |= {"iterations": 4, "batch_size": 2}
    values |= {"log_every": 1, "trackers": [], "precision": "fp32"}
    values["validation"] |= {"every": 100, "max_images": 0}
    values["checkpoint"]["every"] = 100
    return RunConfig.model_validate(values)


@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_variant_trains(name, landscapes, tmp_path):
    config = few_steps(recipe(f"{name}-smoke"), landscapes)
    assert train_recipe(config, tmp_path / "run") == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == config.total_steps
    for phase in config.phases:
        logged = {key for row in rows if row["phase"] == phase.name for key in row}
        assert {f"loss/{loss.name}" for loss in phase.losses} <= logged
        assert ("loss/adversarial" in logged) == (phase.adversarial is not None)
        assert ("augment/p" in logged) == (phase.augment.name == "ada")
    weights = safetensors.torch.load_file(tmp_path / "run" / "generator.safetensors")
    fresh = build_generator(config.generator, config.scale).state_dict()
    assert weights.keys() == fresh.keys()
    assert all(value.isfinite().all() for value in weights.values())
