"""Every sweep of the catalog plans, full-size and smoke, to what its text says; no data are needed for it."""

from __future__ import annotations

import pytest

from sweeps.config import CATALOG, load_sweep
from sweeps.grid import expand
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
    from evaluation.published import load_published

    sweep = load_sweep(name)
    assert sweep.evaluate.report.reference is not None
    published = load_published(sweep.evaluate.report.reference)
    labels = {axis: {run.axes[axis] for run in plan_of(name).runs} for axis in (a.name or "" for a in sweep.axes)}
    if published.metric is not None:
        assert set(published.frame.columns[1:]) == labels["class"]
    else:
        for axis in published.axes:
            assert {str(value) for value in published.frame[axis]} == labels[axis]
