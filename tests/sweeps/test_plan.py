"""The graph of phases: what is shared, what is saved, and against counting by hand over random grids."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import RunConfig
from harness.errors import InputError
from harness.identity import phase_keys
from sweeps.config import SweepConfig
from sweeps.grid import expand
from sweeps.plan import Identify, Plan, content_identity, make_plan, phase_config, plan_json, read_plan

PlanOf = Callable[..., Plan]

FRACTION = {"name": "fraction", "key": "data.sources.0.fraction", "values": [1, 0.5, 0.25, 0.1, 0.05, 0.01]}
AUGMENT = {"name": "augment", "settings": {"no": {}, "yes": {"phases.1.augment": {"name": "fixed", "p": 0.5}}}}


@pytest.mark.parametrize(
    ("pretrain", "adversarial", "saved"), [(3_200_000, 2_400_000, 0.286), (250_000, 1_500_000, 0.071)]
)
def test_table_of_superaugan_plans_6_pretrainings_for_12_runs(
    plan_of: PlanOf, pretrain: int, adversarial: int, saved: float
) -> None:
    """SupeRAuGAN's DIV2K and FFHQ tables: 12 x (a + b) iterations become 6 x a + 12 x b."""
    iterations = {"phases.0.iterations": pretrain, "phases.1.iterations": adversarial}
    plan = plan_of(FRACTION, AUGMENT, set=iterations)
    assert len(plan.runs) == 12
    assert sum(phase.name == "pretrain" for phase in plan.phases.values()) == 6
    assert sum(phase.name == "adversarial" for phase in plan.phases.values()) == 12
    assert plan.iterations_alone == 12 * (pretrain + adversarial)
    assert plan.iterations == 6 * pretrain + 12 * adversarial
    assert round(plan.saved_fraction, 3) == saved


def test_each_phase_comes_after_the_one_before_it(plan_of: PlanOf, recipe: dict[str, Any]) -> None:
    third = {**recipe["phases"][1], "name": "finetune"}
    plan = plan_of(
        {"name": "x", "key": "phases.2.iterations", "values": [1, 2]}, set={"phases": [*recipe["phases"], third]}
    )
    pretrain, adversarial, *last = plan.phases
    assert [phase.parent for phase in plan.phases.values()] == [None, pretrain, adversarial, adversarial]
    assert [phase.first_step for phase in plan.phases.values()] == [0, 100, 150, 150]
    assert [run.phases for run in plan.runs] == [(pretrain, adversarial, key) for key in last]


def test_specialising_to_classes_shares_everything_before(plan_of: PlanOf) -> None:
    plan = plan_of({"name": "class", "per_class": {"phases": ["adversarial"]}})
    assert [run.name for run in plan.runs] == ["a", "b", "general"]
    assert [len(phase.runs) for phase in plan.phases.values()] == [3, 1, 1, 1]


def test_discriminator_changes_only_the_phases_that_have_one(plan_of: PlanOf) -> None:
    plan = plan_of({"name": "d", "key": "discriminator.num_channels", "values": [4, 8]})
    assert [phase.name for phase in plan.phases.values()] == ["pretrain", "adversarial", "adversarial"]


def test_phases_before_the_discriminator_do_not_know_what_it_starts_from(plan_of: PlanOf) -> None:
    plan = plan_of({"name": "d", "key": "init_discriminator_from", "values": ["x", "y"]})
    assert [plan.configs[key].init_discriminator_from for key in plan.phases] == [None, "x", "y"]


def test_each_path_is_read_once() -> None:
    read: list[str] = []
    identify = Identify(lambda path: read.append(path) or path)  # type: ignore[func-returns-value]
    assert [identify(path) for path in ("a", "b", "a")] == ["a", "b", "a"] and read == ["a", "b"]


@pytest.mark.parametrize("key", ["validation.every", "log_every", "checkpoint.every", "data.read_threads"])
def test_how_a_run_is_watched_makes_no_new_phase(plan_of: PlanOf, key: str) -> None:
    plan = plan_of({"name": "x", "key": key, "values": [1, 2]})
    assert (len(plan.runs), len(plan.phases)) == (2, 2)


def test_moving_the_data_changes_no_key_and_other_data_changes_all(recipe: dict[str, Any]) -> None:
    def keys(path: str, content: str) -> list[str]:
        recipe["data"]["sources"] = [{"path": path}]
        return phase_keys(RunConfig.model_validate(recipe), lambda path: content)

    assert keys("here", "X") == keys("there", "X")
    assert not set(keys("here", "X")) & set(keys("here", "Y"))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
@settings(deadline=None, max_examples=25)
def test_phases_are_the_distinct_prefixes_of_the_runs(plan_of: PlanOf, first: int, second: int, both: int) -> None:
    """Pretraining depends on `first` and `both`, the adversarial phase on all three."""
    axes = [
        {"name": "first", "key": "phases.0.iterations", "values": list(range(1, first + 1))},
        {"name": "second", "key": "phases.1.iterations", "values": list(range(1, second + 1))},
        {"name": "both", "key": "seed", "values": list(range(both))},
    ]
    plan = plan_of(*axes)
    assert len(plan.runs) == first * second * both
    assert len(plan.phases) == first * both + first * second * both
    triples = itertools.product(range(1, first + 1), range(1, second + 1), range(both))
    assert plan.iterations_alone == sum(a + b for a, b, _ in triples)
    order = list(plan.phases)
    for key, phase in plan.phases.items():
        assert phase.parent is None or order.index(phase.parent) < order.index(key), "a child comes before its parent"
        assert set(phase.runs) == {run.name for run in plan.runs if key in run.phases}


def test_phase_is_given_the_same_configuration_by_every_run_that_shares_it(
    sweep_of: Callable[..., SweepConfig],
) -> None:
    axes = [AUGMENT, {"name": "d", "key": "discriminator.num_channels", "values": [4, 8]}]
    runs = expand(sweep_of(*axes), lambda path: [])
    assert len({phase_config(run.config, 0).model_dump_json() for run in runs}) == 1
    assert len({phase_config(run.config, 1).model_dump_json() for run in runs}) == 4


def test_configuration_of_a_phase_keeps_its_key_and_first_step(recipe: dict[str, Any]) -> None:
    config = RunConfig.model_validate(recipe)
    for number in (0, 1):
        alone = phase_config(config, number)
        assert phase_keys(alone, str)[number] == phase_keys(config, str)[number]
        assert alone.first_step(number) == config.first_step(number)


def test_stored_plan_reads_back_equal(plan_of: PlanOf, tmp_path: Path) -> None:
    plan = plan_of(FRACTION, AUGMENT)
    (tmp_path / "plan.json").write_text(plan_json(plan))
    assert read_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(("content", "message"), [(None, "no such sweep"), ("{", "cannot be read"), ("{}", "version")])
def test_plan_that_cannot_be_read_is_refused_by_name(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "plan.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_plan(tmp_path / "plan.json")


@pytest.mark.parametrize("key", ["runs", "pooled", "iterations"])
def test_plan_that_another_version_wrote_with_other_keys_is_told_as_that(
    plan_of: PlanOf, tmp_path: Path, key: str
) -> None:
    text = plan_json(plan_of(FRACTION, AUGMENT))
    (tmp_path / "plan.json").write_text(text.replace(f'"{key}"', '"other"'))
    with pytest.raises(InputError, match=r"another version .* run `harness sweep` again"):
        read_plan(tmp_path / "plan.json")


def test_missing_data_are_named_and_do_not_stop_the_plan(sweep_of: Callable[..., SweepConfig], tmp_path: Path) -> None:
    sweep = sweep_of(FRACTION, AUGMENT, data=str(tmp_path / "nowhere"))
    plan = make_plan("s", expand(sweep, lambda path: []), Identify())
    assert list(plan.missing) == [str(tmp_path / "nowhere")]
    assert "nowhere" in plan.missing[str(tmp_path / "nowhere")]
    assert len(plan.phases) == 18


def test_weights_that_are_not_there_are_no_dataset_to_be_packed(recipe: dict[str, Any], tmp_path: Path) -> None:
    gone = str(tmp_path / "models" / "general")
    sweep = SweepConfig.model_validate({"name": "s", "base": {**recipe, "init_from": gone}})
    plan = make_plan("s", expand(sweep, lambda path: []), Identify())
    assert plan.missing[gone] == f"{gone}: no such file or folder; mend the path, or run `harness pack` for a dataset."


def test_weights_are_told_apart_by_content_not_by_name(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "generator.safetensors").write_bytes(content)
    a, b, c = (content_identity(str(tmp_path / name)) for name in "abc")
    assert a == b != c
    assert a == content_identity(str(tmp_path / "a" / "generator.safetensors"))


def test_checkpoint_is_known_by_its_averaged_weights_which_are_what_a_training_takes(tmp_path: Path) -> None:
    for name, averaged in (("a", b"decay 0.9"), ("b", b"decay 0.999"), ("c", b"decay 0.9")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "generator.safetensors").write_bytes(b"the same, as averages change no training")
        (tmp_path / name / "generator_ema.safetensors").write_bytes(averaged)
    first, second, third = (content_identity(str(tmp_path / name)) for name in "abc")
    assert first == third != second
