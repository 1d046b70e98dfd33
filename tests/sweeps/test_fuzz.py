"""Whatever a sweep file says, the answer is runs or one sentence, never a traceback."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from sweeps.config import load_sweep
from sweeps.grid import expand
from sweeps.plan import Identify, make_plan

PLAIN = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=True) | st.text(max_size=6) | st.dates()
WORDS = st.sampled_from(
    [
        "seed",
        "data",
        "data.sources",
        "phases",
        "phases.0",
        "phases.1.iterations",
        "phases.9",
        "a",
        "name",
        "",
        ".",
        "a.b",
    ]
)
TYPED = st.characters(blacklist_categories=["Cc", "Cs"])  # what can be typed on one line
ANYTHING = st.recursive(
    PLAIN | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.booleans() | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=8,
)
AXIS = st.fixed_dictionaries(
    {},
    optional={
        "name": ANYTHING | st.just("x"),
        "key": WORDS | ANYTHING,
        "values": ANYTHING | st.lists(st.integers(0, 3), min_size=1),
        "settings": st.dictionaries(st.text(max_size=4), st.dictionaries(WORDS, ANYTHING, max_size=2)) | ANYTHING,
        "per_class": st.fixed_dictionaries({"phases": st.just(["pretrain"]) | ANYTHING}) | ANYTHING,
        "zip": ANYTHING,
    },
)
FILE = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("s") | ANYTHING,
        "base": ANYTHING,
        "set": st.dictionaries(WORDS, ANYTHING, max_size=2) | ANYTHING,
        "data": ANYTHING,
        "axes": st.lists(AXIS, max_size=2) | ANYTHING,
        "exclude": ANYTHING,
        "naming": ANYTHING | st.just("{x}"),
        "variants": ANYTHING,
        "evaluate": ANYTHING,
    },
)


def _plan(values: Any, overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        try:
            runs = expand(load_sweep(path, overrides), lambda path: ["a", "b"], "s.yaml")
            plan = make_plan("s", runs, Identify(str))
        except InputError as error:
            assert str(error) and "\n" not in str(error)
        else:
            assert len(plan.runs) == len(runs) > 0


@given(values=FILE)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_any_file_gives_runs_or_one_sentence(values: dict[str, Any]) -> None:
    _plan(values, [])


@given(changes=FILE, overrides=st.lists(st.tuples(WORDS, st.text(TYPED, max_size=5)).map("=".join), max_size=2))
@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_any_change_to_a_good_file_gives_runs_or_one_sentence(
    recipe: dict[str, Any], changes: dict[str, Any], overrides: list[str]
) -> None:
    _plan({"name": "s", "base": copy.deepcopy(recipe), **changes}, overrides)
