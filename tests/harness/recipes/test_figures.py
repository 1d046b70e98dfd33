"""The figures that the texts print are those of their recipes. For what no text says see `docs/decisions.md`."""

from __future__ import annotations

from typing import Any

import pytest

from harness.config import load_run_config
from sweeps.config import RECIPES

SUPERAUGAN = {
    "generator.num_blocks": 16,
    "generator.num_channels": 64,
    "generator.batch_norm": "after_blocks",
    "generator.skip": "bicubic",
    "generator.start_as_skip": True,
    "discriminator.num_channels": 64,
    "discriminator.num_dense": 1024,
    "phases.0.losses": [{"name": "l2", "weight": 1.0}],
    "phases.1.losses": [{"name": "l2", "weight": 1.0}],
    "phases.1.adversarial.form": "vanilla",
    "phases.1.adversarial.real_label": [0.9, 0.9],
    "phases.1.adversarial.fake_label": [0.0, 0.0],
    "phases.1.augment.name": "ada",
    "phases.1.augment.rule": "text",
    "phases.1.augment.every": 8,
    "phases.1.augment.target": 0.6,
    "phases.1.augment.cap": 0.85,
    "phases.1.augment.start_p": 0.0,
}
PERCEPTUAL = {
    "generator.name": "residual_cnn",
    "generator.num_channels": 64,
    "phases.0.losses.0.distance": "l2",
    "phases.0.losses.0.layers": {"relu2_2": 1.0},
}
FIGURES: dict[str, dict[str, Any]] = {
    "superaugan-ffhq": {**SUPERAUGAN, "phases.1.adversarial.weight": 4e-5, "phases.1.augment.step": 1e-3},
    "superaugan-div2k": {**SUPERAUGAN, "phases.1.adversarial.weight": 6e-5, "phases.1.augment.step": 5e-4},
    "esrdgan": {
        "data.degradation.kernels": {"cv2-cubic": 1.0},
        "data.flip": True,
        "generator.num_blocks": 12,
        "generator.num_channels": 128,
        "generator.residual_scale": 0.2,
        "generator.fusion_kernel": 3,
        "discriminator.num_channels": 96,
        "phases.0.losses.0": {"name": "l1", "weight": 1e-2},
        "phases.0.losses.1.weight": 1e-1,
        "phases.0.losses.1.layers": {"conv5_4": 1.0},
        "phases.0.losses.1.distance": "l1",
        "phases.0.adversarial.form": "relativistic",
        "phases.0.adversarial.weight": 5e-3,
        "phases.0.adversarial.instance_noise_std": 1.0,
        "phases.0.adversarial.instance_noise_steps": 60_000,
        "phases.0.generator_every": 2,
        "phases.0.generator_optimizer.schedule.milestones": [10_000, 20_000, 30_000, 40_000],
        "phases.0.generator_optimizer.schedule.factor": 0.5,
        "phases.0.discriminator_optimizer.learning_rate": 1e-4,
        "phases.0.discriminator_optimizer.schedule.milestones": [10_000, 20_000, 30_000, 40_000],
    },
    "esrgan": {
        "generator.num_blocks": 23,
        "generator.num_channels": 64,
        "generator.residual_scale": 0.2,
        "discriminator.num_channels": 64,
        "ema_decay": 0.999,
        "phases.0.losses": [{"name": "l1", "weight": 1.0}],
        "phases.0.generator_optimizer.learning_rate": 2e-4,
        "phases.0.generator_optimizer.schedule.period_steps": 250_000,
        "phases.0.generator_optimizer.schedule.minimum": 1e-7,
        "phases.1.losses.0": {"name": "l1", "weight": 1e-2},
        "phases.1.losses.1.weight": 1.0,
        "phases.1.losses.1.layers": {"conv5_4": 1.0},
        "phases.1.losses.1.distance": "l1",
        "phases.1.adversarial.form": "relativistic_average",
        "phases.1.adversarial.weight": 5e-3,
        "phases.1.generator_optimizer.schedule.milestones": [50_000, 100_000, 200_000, 300_000],
        "phases.1.discriminator_optimizer.schedule.milestones": [50_000, 100_000, 200_000, 300_000],
    },
    "specialized-landscapes": {
        "data.flip": True,
        "generator.batch_norm": "everywhere",
        "generator.activation": "relu",
        "generator.output": "tanh",
        "discriminator.name": "vgg16",
        "discriminator.weights": "pretrained",
        "phases.1.losses.0": {"name": "l2", "weight": 4.0},  # weight 1 on [-1, 1]
        "phases.1.losses.1.weight": 2e-6,
        "phases.1.losses.1.distance": "l2",
        "phases.1.adversarial.weight": 1e-3,
        "phases.2.losses.1.weight": 2e-6,
        "phases.2.adversarial.weight": 1e-3,
        "phases.2.reinit_last": 1,
        "phases.2.train_last": 1,
    },
    "srgan": {
        "generator.num_blocks": 16,
        "generator.batch_norm": "everywhere",
        "generator.activation": "prelu",
        "generator.skip": "none",
        "discriminator": {"name": "conv", "num_channels": 64, "batch_norm": True, "spectral_norm": False},
        "phases.0.losses": [{"name": "l2", "weight": 1.0}],
        "phases.1.losses.0.weight": 0.006,
        "phases.1.losses.0.layers": {"relu3_4": 1.0},  # the last of vgg19.features[:18]
        "phases.1.losses.0.distance": "l2",
        "phases.1.adversarial.real_label": [0.7, 1.0],
        "phases.1.adversarial.fake_label": [0.0, 0.3],
        "phases.1.generator_optimizer.schedule.milestones": [200 * 200],
        "phases.1.generator_optimizer.schedule.factor": 0.1,
        "phases.1.discriminator_optimizer.schedule.milestones": [200 * 200],
    },
    "perceptual-cnn": {**PERCEPTUAL, "data.degradation.kernels": {"pil-bicubic": 1.0}},
    "interpolation-robustness": {
        **PERCEPTUAL,
        "data.degradation.kernels": dict.fromkeys(["pil-bicubic", "cv2-cubic", "bilinear", "area", "nearest"], 1.0),
    },
}


def figures_of(name: str) -> dict[str, Any]:
    return load_run_config(RECIPES / f"{name}.yaml").model_dump(mode="json")


def at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[int(key)] if isinstance(values, list) else values[key]
    return values


@pytest.mark.parametrize("name", FIGURES)
def test_a_recipe_has_the_figures_that_its_text_prints(name: str) -> None:
    values = figures_of(name)
    assert {path: at(values, path) for path in FIGURES[name]} == FIGURES[name]


@pytest.mark.parametrize("name", ["perceptual-cnn", "interpolation-robustness"])
def test_the_perceptual_projects_mixture_and_losses_are_weighed_as_its_text_says(name: str) -> None:
    values = figures_of(name)
    assert sorted(source["weight"] for source in values["data"]["sources"]) == [2_500, 5_000, 15_000, 15_000]
    weights = {loss["name"]: loss["weight"] for loss in values["phases"][0]["losses"]}
    assert weights == {"features": 1.0, "l1": 1.0, "l2": 1.0, "ssim": 1.0}
