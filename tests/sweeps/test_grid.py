"""Expansion of sweeps into runs: counted by hand, and against itertools over random axes."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from sweeps.config import AxisConfig, SweepConfig, safe_name
from sweeps.grid import expand

SweepOf = Callable[..., SweepConfig]


def runs_of(sweep: SweepConfig, classes: list[str] | None = None) -> list[Any]:
    return expand(sweep, lambda path: classes or [], "sweep.yaml")


SEEDS = {"name": "seed", "key": "seed", "values": [0, 1, 2]}
RATES = {"name": "rate", "key": "phases.0.generator_optimizer.learning_rate", "values": [1e-4, 1e-3]}


def test_sweep_without_axes_is_one_run_with_its_name(sweep_of: SweepOf) -> None:
    (run,) = runs_of(sweep_of())
    assert (run.name, run.axes, run.own_class, run.config.name) == ("s", {}, None, "s")


def test_axes_make_their_product_with_the_last_one_fastest(sweep_of: SweepOf) -> None:
    runs = runs_of(sweep_of(SEEDS, RATES))
    assert [run.axes for run in runs] == [
        {"seed": s, "rate": r} for s, r in itertools.product(["0", "1", "2"], ["0.0001", "0.001"])
    ]
    assert [run.config.seed for run in runs] == [0, 0, 1, 1, 2, 2]
    assert [run.config.phases[0].generator_optimizer.learning_rate for run in runs] == [1e-4, 1e-3] * 3
    assert runs[3].name == "1-0.001"
    assert runs[3].differences == {"seed": "1", "phases.0.generator_optimizer.learning_rate": "0.001"}


def test_a_mistake_is_told_of_the_axes_only_where_they_made_it(sweep_of: SweepOf) -> None:
    with pytest.raises(InputError, match=r"^sweep\.yaml: unknown key 'images'"):
        runs_of(sweep_of(SEEDS, set={"images": "all"}))
    with pytest.raises(InputError, match=r"^sweep\.yaml: axes \{'rate': '0'\}: unknown key 'images'"):
        runs_of(sweep_of({"name": "rate", "key": "images", "values": [0]}))


def test_zipped_axes_advance_together(sweep_of: SweepOf) -> None:
    runs = runs_of(sweep_of({"zip": [{**SEEDS, "values": [5, 6]}, RATES]}))
    assert [(run.config.seed, run.axes["rate"]) for run in runs] == [(5, "0.0001"), (6, "0.001")]


def test_settings_give_several_keys_to_one_label(sweep_of: SweepOf) -> None:
    axis = {"name": "size", "settings": {"small": None, "big": {"generator.num_blocks": 9, "seed": 4}}}
    small, big = runs_of(sweep_of(axis))
    assert (small.config.generator.num_blocks, small.config.seed) == (1, 0)
    assert (big.config.generator.num_blocks, big.config.seed) == (9, 4)


def test_labelled_values_and_several_keys_of_one_value(sweep_of: SweepOf) -> None:
    keys = ["data.sources.0.fraction", "seed"]
    axis = {"name": "share", "key": keys, "values": {"all of it": 1}}
    (run,) = runs_of(sweep_of(axis))
    assert (run.name, run.config.data.sources[0].fraction, run.config.seed) == ("all-of-it", 1.0, 1)


def test_yes_and_no_stay_the_labels_that_they_look_like(sweep_of: SweepOf) -> None:
    axis = {"name": "flip", "key": "data.flip", "values": [True, False]}
    assert [run.name for run in runs_of(sweep_of(axis))] == ["yes", "no"]
    axis = {"name": "flip", "settings": {True: {"data.flip": True}, False: {}}}
    assert [run.name for run in runs_of(sweep_of(axis))] == ["yes", "no"]


def test_excludes_match_labels_and_lists_of_labels(sweep_of: SweepOf) -> None:
    runs = runs_of(sweep_of(SEEDS, RATES, exclude=[{"seed": [1, 2], "rate": 0.001}]))
    assert [run.name for run in runs] == ["0-0.0001", "0-0.001", "1-0.0001", "2-0.0001"]


def test_axes_come_after_set_and_set_after_the_recipe(sweep_of: SweepOf) -> None:
    axis = {"name": "seed", "settings": {"one": {"seed": 1}, "as set": {}}}
    runs = runs_of(sweep_of(axis, set={"seed": 9, "ema_decay": 0.5}))
    assert [run.config.seed for run in runs] == [1, 9]
    assert {run.config.ema_decay for run in runs} == {0.5}
    assert [run.config.seed for run in runs_of(sweep_of())] == [0], "the recipe itself was changed"


@pytest.mark.parametrize(
    ("axes", "given", "said"),
    [
        ([SEEDS], {"seed": 9}, "'seed' is set, but an axis gives every run its own; change that axis"),
        (
            [{"name": "net", "key": "generator", "values": {"small": {"name": "srcnn"}}}],
            {"generator.num_blocks": 2},
            "'generator.num_blocks' is set, but",
        ),
        ([SEEDS, {"name": "again", "settings": {"a": {"seed": 7}, "b": {}}}], {}, "two axes give 'seed', of which one"),
    ],
)
def test_setting_that_no_run_would_have_is_refused(
    sweep_of: SweepOf, axes: list[dict[str, Any]], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        runs_of(sweep_of(*axes, set=given))


def test_setting_of_the_tenth_phase_is_none_of_what_an_axis_gives_the_first(
    sweep_of: SweepOf, recipe: dict[str, Any]
) -> None:
    phases = [{**recipe["phases"][0], "name": f"p{number}"} for number in range(11)]
    axis = {"name": "length", "key": "phases.1", "values": {"long": {**phases[1], "iterations": 500}}}
    (run,) = runs_of(sweep_of(axis, base={**recipe, "phases": phases}, set={"phases.10.iterations": 7}))
    assert [run.config.phases[number].iterations for number in (1, 10)] == [500, 7]


def test_data_replaces_the_path_of_every_source_and_keeps_their_filters(
    sweep_of: SweepOf, recipe: dict[str, Any]
) -> None:
    recipe["data"]["sources"] = [{"path": "x", "fraction": 0.5, "weight": 0.3}, {"path": "y", "weight": 0.7}]
    recipe["phases"][1]["sources"] = [{"path": "z", "classes": ["a"]}]
    (run,) = runs_of(sweep_of(base=recipe, data="mine"))
    (source,) = run.config.data.sources
    assert (source.path, source.fraction, source.weight) == ("mine", 0.5, None)
    assert [(source.path, source.classes) for source in run.config.sources(1)] == [("mine", ("a",))]


PER_CLASS = {"name": "class", "per_class": {"phases": ["adversarial"]}}


@pytest.mark.parametrize("written", [None, 3, "photos", []])
def test_data_of_a_recipe_that_is_no_section_is_told_when_a_sweep_replaces_it_too(
    sweep_of: SweepOf, recipe: dict[str, Any], written: Any
) -> None:
    with pytest.raises(InputError, match="key 'data"):
        runs_of(sweep_of(base={**recipe, "data": written}, data="mine"))


def test_class_axis_pools_all_classes_for_general_where_the_data_has_no_such_class(sweep_of: SweepOf) -> None:
    runs = runs_of(sweep_of(PER_CLASS), ["Set5", "Set14"])
    assert [(run.name, run.own_class, run.pooled) for run in runs] == [
        ("Set5", "Set5", False),
        ("Set14", "Set14", False),
        ("general", "general", True),
    ]
    assert [run.config.sources(1)[0].classes for run in runs] == [("Set5",), ("Set14",), None]
    assert all(run.config.sources(0)[0].classes is None for run in runs), "pretraining was specialised too"


def test_class_axis_takes_a_general_class_that_the_data_has(sweep_of: SweepOf) -> None:
    runs = runs_of(sweep_of(PER_CLASS), ["general", "sea"])
    assert [(run.name, run.pooled, run.config.sources(1)[0].classes) for run in runs] == [
        ("sea", False, ("sea",)),
        ("general", False, ("general",)),
    ]


def test_class_axis_sees_what_other_axes_set(sweep_of: SweepOf) -> None:
    fraction = {"name": "share", "key": "data.sources.0.fraction", "values": [0.5]}
    for axes in ((PER_CLASS, fraction), (fraction, PER_CLASS)):
        assert {run.config.sources(1)[0].fraction for run in runs_of(sweep_of(*axes), ["a"])} == {0.5}


@pytest.mark.parametrize("classes", [None, ["beach", "sea"]])
def test_class_axis_goes_over_the_classes_that_its_phases_train_on(
    sweep_of: SweepOf, recipe: dict[str, Any], classes: list[str] | None
) -> None:
    """The phases before may train on other data, such as a general set without classes."""
    recipe["phases"][1]["sources"] = [{"path": "coasts", "fraction": 0.5}]
    axis = {"name": "class", "per_class": {"phases": ["adversarial"], "classes": classes}}
    found = {"data/photos": ["all"], "coasts": ["sea", "beach"]}
    runs = expand(sweep_of(axis, base=recipe), found.__getitem__)
    assert [run.name for run in runs] == [*(classes or ["sea", "beach"]), "general"]
    sources = [(run.config.sources(0)[0].path, *run.config.sources(1)) for run in runs]
    assert {(first, second.path, second.fraction) for first, second in sources} == {("data/photos", "coasts", 0.5)}
    assert [second.classes for _, second in sources[:-1]] == [(run.name,) for run in runs[:-1]]


def test_chosen_classes_are_the_pool_of_their_general_model(sweep_of: SweepOf) -> None:
    axis = {"name": "class", "per_class": {"phases": ["adversarial"], "classes": ["b", "c"]}}
    runs = runs_of(sweep_of(axis), ["a", "b", "c"])
    classes = [(run.name, run.config.sources(1)[0].classes) for run in runs]
    assert classes == [("b", ("b",)), ("c", ("c",)), ("general", ("b", "c"))]


def test_a_single_class_gets_no_general_model_that_would_be_the_same_again(sweep_of: SweepOf) -> None:
    chosen = {"name": "class", "per_class": {"phases": ["adversarial"], "classes": ["b"]}}
    assert [run.name for run in runs_of(sweep_of(PER_CLASS), ["a"])] == ["a"]
    assert [run.name for run in runs_of(sweep_of(chosen), ["a", "b"])] == ["b"]
    assert [run.name for run in runs_of(sweep_of(chosen), ["b", "general"])] == ["b", "general"]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("a value that stands twice", {"axes": [{**SEEDS, "values": [1, 1]}]}, "the run {'seed': '1'} comes twice; remove"),
    ("two runs of one name", {"axes": [{**SEEDS, "values": {"a/b": 1, "a b": 2}}]}, "would both be called 'a-b'"),
    ("names that differ in case", {"axes": [{"name": "x", "settings": {"A": {}, "a": {}}}]}, "would both be called"),
    ("a name of nothing", {"axes": [{"name": "x", "settings": {"///": {}}}]}, "leaves no letter or digit"),
    ("naming without an axis", {"axes": [SEEDS], "naming": "{sede}"}, "the axes are ['seed']"),
    ("naming too short", {"axes": [SEEDS, RATES], "naming": "{seed}"}, "give naming with every axis"),
    ("one axis twice", {"axes": [SEEDS, SEEDS]}, "two axes are named 'seed'"),
    ("a zip that does not fit", {"axes": [{"zip": [SEEDS, RATES]}]}, "seed has 3, rate has 2"),
    ("an exclude of an unknown axis", {"axes": [SEEDS], "exclude": [{"sed": 1}]}, "the axes are ['seed']"),
    ("an exclude of an unknown label", {"axes": [SEEDS], "exclude": [{"seed": 9}]}, "names '9' of axis 'seed'"),
    ("an exclude of everything", {"axes": [SEEDS], "exclude": [{"seed": [0, 1, 2]}]}, "leaves no run of 3"),
    ("an unlabelled mapping", {"axes": [{**SEEDS, "values": [{"a": 1}]}]}, "give each a label"),
    ("an unknown key", {"set": {"sede": 1}}, "did you mean 'seed'?"),
    ("a key below a value", {"set": {"data.patch_px.x": 1}}, "'data.patch_px.x' leads into a single value"),
    ("a place that is not there", {"axes": [{**SEEDS, "key": "phases.7.iterations"}]}, "use 0 to 1"),
    ("a value of the wrong type", {"axes": [{**SEEDS, "values": ["many"]}]}, "key 'seed'"),
    (
        "a phase that is not there",
        {"axes": [{"name": "c", "per_class": {"phases": ["tune"]}}]},
        "names the phase 'tune'",
    ),
    (
        "a class that is not there",
        {"axes": [{"name": "c", "per_class": {"phases": ["pretrain"], "classes": ["z"]}}]},
        "the data has no class 'z'",
    ),
]


@pytest.mark.parametrize(("given_", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_mistake_is_told_in_one_sentence_that_names_the_file(
    sweep_of: SweepOf, given_: dict[str, Any], message: str
) -> None:
    sweep = sweep_of(*given_.get("axes", ()), **{key: value for key, value in given_.items() if key != "axes"})
    with pytest.raises(InputError) as error:
        runs_of(sweep, ["a", "b"])
    text = str(error.value)
    assert message in text
    assert text.startswith("sweep.yaml") and text.endswith((".", "?")) and "\n" not in text


LABELS = st.text(min_size=1, max_size=12)


@given(st.text(max_size=300))
@settings(deadline=None, max_examples=300)
def test_safe_names_can_be_folders_on_any_file_system(text: str) -> None:
    name = safe_name(text)
    assert not re.search(r"[^\w.+-]", name)
    assert not name.startswith((".", "-")) and not name.endswith((".", "-"))
    assert len(name.encode()) <= 120
    assert name == safe_name(name)
    assert name == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize("text", ["a b/c", "it's", 'say "hi"', "../../etc", "-rf", "null\0byte", "tab\there"])
def test_spaces_slashes_and_quotes_never_reach_a_file_name(text: str) -> None:
    assert re.fullmatch(r"\w[\w.+-]*", safe_name(text))


def test_letters_of_any_script_stay_themselves() -> None:
    assert safe_name("Küste 海") == "Küste-海"
    assert safe_name("Ku\u0308ste") == "Küste", "the decomposed form names the same folder"


@given(
    st.lists(st.lists(LABELS, min_size=1, max_size=4, unique=True), min_size=1, max_size=3),
    st.data(),
)
@settings(deadline=None, max_examples=100)
def test_runs_are_the_product_of_the_labels_less_the_excluded_ones(
    sweep_of: SweepOf, labels: list[list[str]], data: st.DataObject
) -> None:
    axes = [{"name": f"axis{i}", "settings": {label: {} for label in group}} for i, group in enumerate(labels)]
    points = list(itertools.product(*labels))
    left_out = data.draw(st.lists(st.sampled_from(points), max_size=len(points) - 1, unique=True))
    exclude = [{f"axis{i}": label for i, label in enumerate(point)} for point in left_out]
    kept = [point for point in points if point not in left_out]
    try:
        runs = runs_of(sweep_of(*axes, exclude=exclude))
    except InputError as error:
        assert "would both be called" in str(error) or "leaves no letter" in str(error)
        names = [safe_name("-".join(point)).casefold() for point in kept]
        assert "" in names or len(set(names)) < len(names)
        return
    assert [tuple(run.axes.values()) for run in runs] == kept
    assert len({run.name.casefold() for run in runs}) == len(kept)


def test_axis_needs_exactly_one_kind() -> None:
    with pytest.raises(ValueError, match="give exactly one of values, settings, zip, per_class"):
        AxisConfig.model_validate({"name": "x"})
    with pytest.raises(ValueError, match="needs key and values together"):
        AxisConfig.model_validate({"name": "x", "settings": {"a": {}}, "key": "seed"})
