"""Mistakes in a section that is one of several alternatives: the key is named as an override spells it."""

import copy
from datetime import date

import pytest

import harness.config
from harness.errors import InputError
from harness.schema import parse

RUN = {
    "data": {"sources": [{"path": "data/demo"}], "patch_px": 64},
    "generator": {"name": "srresnet", "num_blocks": 2},
    "phases": [
        {
            "name": "train",
            "iterations": 1,
            "batch_size": 1,
            "losses": [{"name": "l1"}],
            "generator_optimizer": {"learning_rate": 1e-4},
        }
    ],
}


@pytest.mark.parametrize(
    ("generator", "loss", "sentence"),
    [
        ({"num_block": 3}, {}, "r.yaml: unknown key 'generator.num_block'; did you mean 'num_blocks'?"),
        ({"num_channels": 2**70}, {}, "r.yaml: key 'generator.num_channels': must be less than or equal to 100000"),
        ({"num_blocks": "x"}, {}, "r.yaml: key 'generator.num_blocks': must be a whole number, got 'x'"),
        ({"name": None}, {}, "r.yaml: key 'generator.name' is missing; add it."),
        ({"name": "resnet"}, {}, "r.yaml: key 'generator.name': there is no 'resnet'; choose one of 'srresnet', "),
        ({}, {"wieght": 1}, "r.yaml: unknown key 'phases.0.losses.0.wieght'; did you mean 'weight'?"),
        ({}, {"name": "charbonnier", "eps": 0}, "r.yaml: key 'phases.0.losses.0.eps': must be greater than 0"),
    ],
)
def test_the_key_is_named_without_the_alternatives_name(generator, loss, sentence):
    values = copy.deepcopy(RUN)
    values["generator"] |= generator
    values["phases"][0]["losses"][0] |= loss
    with pytest.raises(InputError) as caught:
        parse(harness.config.RunConfig, values, "r.yaml")
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"flip": True}, "unknown key 'flip'; did you mean 'data.flip'?"),
        ({"learning_rate": 1}, "did you mean 'phases.N.generator_optimizer.learning_rate'?"),
        ({"batch_size": 1}, "unknown key 'batch_size'; did you mean 'phases.N.batch_size'?"),  # not the key 'watch'
        ({"foo": 1}, "unknown key 'foo'; remove it."),
        ({"seed": 1.5}, "key 'seed': must be a whole number, got 1.5."),
        ({"phases": 3}, "key 'phases': must be a list, as in [a, b], got 3."),
        ({"data": 3}, "key 'data': must be keys and values, as in {key: value}, got 3."),
        ({"channels_last": "maybe"}, "key 'channels_last': must be true or false, got 'maybe'."),
        ({"phases": []}, "key 'phases': must have at least 1 item, has 0."),
        ({"phases": None}, "key 'phases': must be a list, as in [a, b], got nothing."),
        ({"seed": [1]}, "key 'seed': must be a whole number, got a list."),
        ({"name": {"a": 1}}, "key 'name': must be text, got keys and values."),
        ({"seed": date(2026, 1, 2)}, "key 'seed': must be a whole number, got 2026-01-02."),
        ({"data": {"sources": [{"path": 3}], "patch_px": 64}}, "key 'data.sources.0.path': must be text, got 3."),
        ({"seed": -1, "log_every": 0}, "key 'seed': must be greater than or equal to 0, got -1. (and 1 more)"),
        (
            {"phases": [{**RUN["phases"][0], "augment": {"name": "ada", "rule": "txt"}}]},
            "key 'phases.0.augment.rule': must be 'text' or 'paper', got 'txt'.",
        ),
        ({"data": {**RUN["data"], "degradation": {"kernels": {"aera": 1}}}}, "or 'nearest', got 'aera'."),
    ],
)
def test_the_sentence_says_what_was_wanted_or_where_the_key_belongs(extra, sentence):
    with pytest.raises(InputError) as caught:
        parse(harness.config.RunConfig, {**RUN, **extra}, "r.yaml")
    assert str(caught.value).endswith(sentence)


def test_a_missing_name_is_asked_for():
    values = {**RUN, "generator": {"num_blocks": 2}}
    with pytest.raises(InputError, match=r"r\.yaml: key 'generator\.name' is missing; add it\."):
        parse(harness.config.RunConfig, values, "r.yaml")


def test_an_empty_file_is_told_in_the_terms_of_yaml():
    with pytest.raises(InputError, match=r"r\.yaml: expected keys and values, got nothing; write"):
        parse(harness.config.RunConfig, None, "r.yaml")


def test_the_run_itself_is_right():
    assert parse(harness.config.RunConfig, RUN, "r.yaml").generator.num_blocks == 2
