"""Every sweep of the catalog plans, full-size and smoke, to what its text says; no data are needed for it."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps.config import CATALOG, load_sweep
from sweeps.grid import Run, expand
from sweeps.plan import Identify, Plan, make_plan

NAMES = sorted(path.stem for path in CATALOG.glob("*.yaml"))
LANDSCAPES = ["beach", "desert", "general", "island", "mountain", "sea"]


def plan_of(name: str, *overrides: str) -> Plan:
    sweep = load_sweep(name, list(overrides))
    return make_plan(sweep.name, expand(sweep, lambda path: LANDSCAPES, name), Identify(lambda path: path))


@pytest.mark.parametrize(
    ("name", "runs", "phases", "iterations"),
    [
        ("superaugan-ffhq", 12, {"pretrain": 6, "adversarial": 12}, 6 * 250_000 + 12 * 1_500_000),
        ("superaugan-div2k", 12, {"pretrain": 6, "adversarial": 12}, 6 * 3_200_000 + 12 * 2_400_000),
        ("specialized-landscapes", 6, {"pretrain": 1, "adversarial": 1, "finetune": 6}, 222_000),
        ("esrdgan", 12, {"adversarial": 12}, 1_200_000),
        ("esrgan", 2, {"pretrain": 1, "adversarial": 2}, 1_800_000),
        ("srgan", 2, {"pretrain": 1, "adversarial": 2}, 600 + 2 * 48_000),
        ("perceptual-cnn", 4, {"train": 4}, 4 * 46_875),
        ("interpolation-robustness", 6, {"train": 6}, 6 * 46_875),
    ],
)
def test_full_size_sweep_is_what_its_text_describes(
    name: str, runs: int, phases: dict[str, int], iterations: int
) -> None:
    plan = plan_of(name)
    counted = [phase.name for phase in plan.phases.values()]
    assert len(plan.runs) == runs
    assert {phase: counted.count(phase) for phase in counted} == phases
    assert plan.iterations == iterations


def test_div2k_table_saves_two_sevenths_of_its_iterations() -> None:
    plan = plan_of("superaugan-div2k")
    assert plan.saved_fraction == pytest.approx(6 * 3.2 / (12 * 5.6))
    assert f"{plan.saved_fraction:.1%}" == "28.6%"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "demo"])
def test_smoke_variant_has_a_name_of_its_own_and_trains_on_the_embedded_dataset(name: str) -> None:
    plan = plan_of(name, "variant=smoke")
    assert plan.sweep == f"{name}-smoke"
    paths = {source.path for config in plan.configs.values() for source in config.data.sources}
    assert paths == {"data/demo"}
    assert max(run.total_steps for run in plan.runs) <= 1000


def test_specialisation_may_start_one_three_or_five_layers_anew() -> None:
    plan = plan_of("specialized-landscapes", "variant=layers")
    assert len(plan.runs) == 18
    assert len(plan.phases) == 2 + 18


def test_the_perceptual_projects_gan_is_the_sum_of_its_four_losses_in_several_ratios_of_updates() -> None:
    plan = plan_of("perceptual-cnn", "variant=gan")
    phases = [config.phases[0] for config in plan.configs.values()]
    assert sorted(phase.generator_every for phase in phases) == [1, 2, 4]
    for phase in phases:
        assert phase.adversarial is not None and (phase.adversarial.form, phase.adversarial.weight) == ("vanilla", 1)
        assert [(loss.name, loss.weight) for loss in phase.losses] == [("l1", 1), ("l2", 1), ("ssim", 1)]


def test_demo_specialises_five_classes_and_a_general_set_with_equal_iterations() -> None:
    plan = plan_of("demo")
    assert sorted(run.own_class or "" for run in plan.runs) == LANDSCAPES
    assert not any(run.pooled for run in plan.runs)
    assert len({run.total_steps for run in plan.runs}) == 1
    assert len(plan.phases) == 2 + 6


def test_demo_on_two_classes_of_ones_own_pools_them_for_the_general_model() -> None:
    sweep = load_sweep("demo", ["data=data/mine"])
    plan = make_plan("demo", expand(sweep, lambda path: ["Set14", "Set5"]), Identify(lambda path: path))
    assert [(run.name, run.pooled) for run in plan.runs] == [("Set14", False), ("Set5", False), ("general", True)]
    assert {config.data.sources[0].path for config in plan.configs.values()} == {"data/mine"}


@pytest.mark.parametrize("name", ["specialized-landscapes", "superaugan-div2k", "superaugan-ffhq"])
def test_published_table_of_a_sweep_exists_and_has_its_axes(name: str) -> None:
    from evaluation.report.published import load_published

    sweep = load_sweep(name)
    assert sweep.evaluate.report.reference is not None
    published = load_published(sweep.evaluate.report.reference)
    labels = {axis: {run.axes[axis] for run in plan_of(name).runs} for axis in (a.name or "" for a in sweep.axes)}
    if published.metric is not None:
        assert set(published.frame.columns[1:]) == labels["class"]
    else:
        for axis in published.axes:
            assert {str(value) for value in published.frame[axis]} == labels[axis]


def runs_of(name: str, *overrides: str) -> list[Run]:
    return expand(load_sweep(name, list(overrides)), lambda path: LANDSCAPES, name)


@pytest.mark.parametrize("name", ["superaugan-ffhq", "superaugan-div2k"])
def test_superaugans_tables_cross_six_fractions_with_augmentation_on_and_off_and_have_four_measures(name: str) -> None:
    found = {
        (run.axes["percentage"], run.axes["augmentation"]): (
            run.config.data.sources[0].fraction,
            run.config.phases[1].augment.name,
        )
        for run in runs_of(name)
    }
    assert found == {
        (f"{percent}%", label): (percent / 100, augment)
        for percent in (100, 50, 25, 10, 5, 1)
        for label, augment in (("No", "none"), ("Yes", "ada"))
    }
    assert set(load_sweep(name).evaluate.metrics) == {"fid", "lpips-alex", "psnr", "ssim"}


def test_esrdgans_changes_are_those_of_its_text_and_each_changes_nothing_else() -> None:
    runs = {run.axes["change"]: run.config.model_dump(mode="json", exclude={"name"}) for run in runs_of("esrdgan")}
    described = flat(runs["as described"])
    found = {
        change: {key: value for key, value in flat(values).items() if described.get(key) != value}
        for change, values in runs.items()
    }
    phase = "phases.0"
    assert found == {
        "as described": {},
        "no instance noise": {
            f"{phase}.adversarial.instance_noise_std": 0.0,
            f"{phase}.adversarial.instance_noise_steps": 0,
        },
        "no label smoothing": {f"{phase}.adversarial.real_label.{n}": 1.0 for n in (0, 1)},
        "generator every iteration": {f"{phase}.generator_every": 1},
        "relativistic average": {f"{phase}.adversarial.form": "relativistic_average"},
        "64 features": {"generator.num_channels": 64, "discriminator.num_channels": 64},
        "23 blocks": {"generator.num_blocks": 23},
        "noise on LR images": {"data.degradation.noise_std": 0.01},
        "noisy labels": {f"{phase}.adversarial.label_noise_std": 0.05},
        "low-level features": {f"{phase}.losses.1.layers.conv2_2": 1.0},
        "NN downsampling": {"data.degradation.kernels.nearest": 1.0},
        "fusion kernel 1": {"generator.fusion_kernel": 1},
    }
    assert "data.degradation.kernels.cv2-cubic" not in flat(runs["NN downsampling"])


def flat(values: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of nested sections by its dotted key."""
    if not isinstance(values, (dict, list)):
        return {path: values}
    items = values.items() if isinstance(values, dict) else enumerate(values)
    return {key: leaf for name, value in items for key, leaf in flat(value, f"{path}.{name}".lstrip(".")).items()}


def test_specialised_models_are_scored_on_twenty_images_and_train_just_the_layers_that_start_anew() -> None:
    assert load_sweep("specialized-landscapes").evaluate.max_images == 20
    found = {
        (run.axes["layers"], run.config.phases[2].reinit_last, run.config.phases[2].train_last)
        for run in runs_of("specialized-landscapes", "variant=layers")
    }
    assert found == {("1", 1, 1), ("3", 3, 3), ("5", 5, 5)}


def test_robustness_is_tested_on_each_kernel_that_a_model_is_trained_on_and_one_is_trained_on_all() -> None:
    trained = {
        run.axes["trained on"]: run.config.data.degradation.kernels for run in runs_of("interpolation-robustness")
    }
    kernels = set(load_sweep("interpolation-robustness").evaluate.kernels)
    assert trained.pop("all") == dict.fromkeys(kernels, 1.0)
    assert trained == {kernel: {kernel: 1.0} for kernel in kernels}
    assert {"nearest", "pil-bicubic"} <= kernels


def test_the_srgan_blogs_soft_labels_are_held_against_hard_ones() -> None:
    games = {run.axes["labels"]: run.config.phases[1].adversarial for run in runs_of("srgan")}
    labels = {name: (game.real_label, game.fake_label) for name, game in games.items() if game is not None}
    assert labels == {"soft": ((0.7, 1.0), (0.0, 0.3)), "hard": ((1.0, 1.0), (0.0, 0.0))}
