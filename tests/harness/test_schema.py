"""A section takes numbers for numbers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from harness.errors import InputError
from harness.schema import Section, apply_overrides, load_yaml, parse, read_yaml


class Settings(Section):
    seed: int = 0
    rate: float | None = None
    betas: tuple[Annotated[float, Field(ge=0)], float] = (0.5, 0.9)
    layers: dict[str, float] = Field(default_factory=dict)
    flips: bool = False
    name: str = ""
    graphs: Literal["auto", "on", "off"] = "auto"
    inner: tuple[Settings, ...] = ()


@pytest.mark.parametrize(
    ("text", "key", "wanted", "shown"),
    [
        ("seed: yes", "seed", "a whole number", "true"),
        ("seed: off", "seed", "a whole number", "false"),
        ("rate: true", "rate", "a number", "true"),
        ("betas: [0.5, no]", "betas.1", "a number", "false"),
        ("layers: {relu: on}", "layers.relu", "a number", "true"),
        ("inner: [{seed: 1}, {seed: yes}]", "inner.1.seed", "a whole number", "true"),
    ],
)
def test_yes_is_no_number(text: str, key: str, wanted: str, shown: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(Settings, load_yaml(text), "my.yaml")
    assert str(caught.value) == f"my.yaml: key '{key}': must be {wanted}, got '{shown}'."


def test_yes_and_numbers_stand_where_they_belong() -> None:
    settings = parse(Settings, load_yaml("{seed: 1, rate: 2, betas: [0, 1], flips: yes, inner: [{flips: no}]}"), "x")
    assert (settings.seed, settings.rate, settings.betas, settings.flips) == (1, 2.0, (0.0, 1.0), True)
    assert settings.inner[0].flips is False and settings.inner[0].rate is None


@pytest.mark.parametrize(
    ("text", "value"), [("on", "on"), ("off", "off"), ("true", "on"), ("auto", "auto"), ("'on'", "on")]
)
def test_on_and_off_are_not_taken_for_yes_and_no(text: str, value: str) -> None:
    assert parse(Settings, load_yaml(f"graphs: {text}"), "x").graphs == value
    assert parse(Settings, load_yaml(f"inner: [graphs: {text}]"), "x").inner[0].graphs == value


def test_overrides_change_a_copy_by_path_and_open_what_is_empty() -> None:
    given = {"a": {"b": [{"c": 1}, {"c": 2}]}, "empty": None}
    changed = apply_overrides(given, ["a.b.1.c=[3, x]", "empty.d.e=yes", "new=3"])
    assert changed == {"a": {"b": [{"c": 1}, {"c": [3, "x"]}]}, "empty": {"d": {"e": True}}, "new": 3}
    assert given == {"a": {"b": [{"c": 1}, {"c": 2}]}, "empty": None}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("a.2=3", "'2' in 'a.2' is not a place in a list of 2; use 0 to 1."),
        ("a.2.b=3", "'2' in 'a.2.b' is not a place in a list of 2; use 0 to 1."),
        ("a.-1=3", "'-1' in 'a.-1' is not a place in a list of 2; use 0 to 1."),
        ("b.c=3", "'b.c' leads into a single value; name a key that exists."),
        ("b.c.d=3", "'b.c.d' leads into a single value at 'c'; name a key that exists."),
    ],
)
def test_override_of_what_is_not_there_is_refused(override: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        apply_overrides({"a": [0, 1], "b": 2}, [override])
    assert str(caught.value) == f"override '{override}': {said}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: 1\nb:\n\tc: 2\n", "at line 3, where a tab stands; indent with spaces."),
        ("a: 1\nb: *base\n", "at line 2 (found undefined alias 'base'); mend"),
        ("a: b: c\n", "at line 1 (mapping values are not allowed here); mend"),
    ],
)
def test_a_file_that_is_not_yaml_is_told_line_and_reason(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "my.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_yaml(tmp_path / "my.yaml")
    assert f"my.yaml: is not valid YAML {why}" in str(caught.value)
    assert "\n" not in str(caught.value)
