"""Whatever a recipe, an override or a cluster profile says, the answer is a configuration or one sentence."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.config import RunConfig, dump_yaml, load_run_config
from harness.errors import InputError
from harness.schema import parse, read_yaml
from slurm.errors import ClusterError
from slurm.profile import ClusterProfile
from slurm.profile_file import load_profile

QUICK = settings(
    deadline=None, max_examples=int(os.environ.get("FUZZ_EXAMPLES", 50)), suppress_health_check=list(HealthCheck)
)
ADAM = {"learning_rate": 1e-3, "schedule": {"name": "cosine", "period_steps": 3}}
FEATURES = {"name": "features", "network": "vgg19", "layers": {"conv5_4": 1}, "distance": "l1"}
RECIPE: dict[str, Any] = {
    "data": {"sources": [{"path": "data/x"}], "patch_px": 32, "degradation": {"kernels": {"area": 1.0}}},
    "generator": {"name": "srresnet"},
    "discriminator": {"name": "vgg"},
    "phases": [
        {
            "name": "a",
            "iterations": 10,
            "batch_size": 4,
            "losses": [{"name": "l1"}, FEATURES],
            "adversarial": {"weight": 0.1},
            "augment": {"name": "ada", "rule": "text"},
            "generator_optimizer": ADAM,
            "discriminator_optimizer": ADAM,
        }
    ],
}
ODD = [0, -1, 10**400, 1e308, float("nan"), "", "..", "/", "name", "{", "\u202e", "l1", "a" * 3000]
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.sampled_from(ODD)
)
ANYTHING = st.recursive(
    PLAIN | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a nested value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def changed(values: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    result = copy.deepcopy(values)
    node = result
    for part in place[:-1]:
        node = node[part]
    node[place[-1]] = new
    return result


def answer(text: bytes, overrides: list[str]) -> None:
    """A configuration that reads back equal, or one sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_bytes(text)
        try:
            config = load_run_config(path, overrides)
        except InputError as error:
            assert str(error) and "\n" not in str(error)
            return
        path.write_text(dump_yaml(config), encoding="utf-8")
        assert load_run_config(path) == config


@given(place=st.sampled_from(places(RECIPE)), new=ANYTHING)
@QUICK
def test_a_recipe_with_anything_anywhere_is_read_or_refused(place: tuple[Any, ...], new: Any) -> None:
    answer(yaml.dump(changed(RECIPE, place, new)).encode("utf-8", "surrogatepass"), [])


@given(text=st.binary(max_size=60) | st.text("[]{}&*!:-?|>%@`'\"#<=, \n\tab01.eé", max_size=60).map(str.encode))
@QUICK
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    answer(text, [])
    answer(text, ["seed=1"])


TYPED = st.characters(blacklist_categories=["Cc", "Cs"])  # what can be typed on one line
KEYS = [".".join(map(str, place)) for place in places(RECIPE)]


@given(key=st.sampled_from(KEYS) | st.text(TYPED, max_size=8), value=st.text(TYPED, max_size=12))
@QUICK
def test_any_override_is_taken_or_refused(key: str, value: str) -> None:
    answer(yaml.dump(RECIPE).encode(), [f"{key}={value}"])


@pytest.mark.parametrize(
    "text",
    [
        "seed: 2024-01-01",
        "seed: 2024-99-99",
        "seed: !!int x",
        "seed: !!timestamp x",
        "seed: " + "9" * 5000,
        "x: " + "[" * 600,  # deeper than Python recurses
        "a: &a [*a]",
        "a: &a [1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh")),
        'name: "\\ud800"',
        "name: !!python/object/apply:os.system [exit 3]",
        "? {a: b}\n: c",
        "seed: 1\nseed: 2",
        "data: {patch_px: 32, patch_px: 32}",
    ],
    ids=lambda text: text[:24],
)
def test_texts_that_the_yaml_reader_stumbles_over_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    for overrides in ([], ["seed=1"], ["seed=" + text.partition(": ")[2].split("\n")[0]]):
        with pytest.raises(InputError) as caught:
            load_run_config(tmp_path / "x.yaml", overrides)
        assert "\n" not in str(caught.value)
    with pytest.raises(ClusterError):
        load_profile(tmp_path / "x.yaml")


PROFILE = {"executor": "slurm", "nodes": 2, "time_min": 60, "environment": {"A": "b"}, "options": {"mail-type": "END"}}


@given(
    key=st.sampled_from(sorted(ClusterProfile.model_fields)) | st.text(TYPED, max_size=5),
    value=ANYTHING | st.text(max_size=5).map(lambda text: [text]) | st.text("a;$`\n'\"", max_size=9),
)
@QUICK
def test_a_profile_with_anything_in_it_is_read_or_refused(key: str, value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.yaml"
        path.write_text(yaml.safe_dump({**PROFILE, key: value}), encoding="utf-8")
        try:
            profile = load_profile(path)
        except ClusterError as error:
            assert str(error)
            return
        for word in (profile.partition, profile.account, profile.qos, profile.constraint):
            assert word is None or not set(word) & set(" ;$`'\"\n")


def test_a_key_that_stands_twice_is_named(tmp_path: Path) -> None:
    """YAML's readers keep the last one and say nothing: half of a user's change would be lost."""
    (tmp_path / "x.yaml").write_text("name: a\nphases:\n  - {name: b}\nname: c\n")
    with pytest.raises(InputError, match="'name' is a key at line 4 for the second time"):
        load_run_config(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("a: &a {seed: 1}\nb: &b {<<: *a, seed: 2}\nc: {<<: *b, seed: 3}\n")
    assert read_yaml(tmp_path / "x.yaml")["c"] == {"seed": 3}  # what is merged in may be replaced


def test_values_that_are_no_mapping_are_refused() -> None:
    for values in (None, 3, "x", [1], {1: 2}):
        with pytest.raises(InputError):
            parse(RunConfig, values, "x")
