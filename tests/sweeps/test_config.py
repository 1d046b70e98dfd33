"""Sweep files: overrides, variants, and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import InputError
from sweeps.config import SweepConfig, dump_sweep, load_sweep


def write(path: Path, values: Any) -> Path:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture
def sweep_file(tmp_path: Path, recipe: dict[str, Any]) -> Path:
    axes = [{"name": "seed", "key": "seed", "values": [0, 1]}]
    variants = {"smoke": {"set": {"log_every": 1}, "evaluate.max_images": 2, "axes": axes[:1]}}
    return write(tmp_path / "s.yaml", {"name": "s", "base": recipe, "axes": axes, "variants": variants})


def test_override_of_a_sweep_key_changes_the_sweep_and_any_other_the_runs(sweep_file: Path) -> None:
    sweep = load_sweep(sweep_file, ["max_parallel=3", "data=mine", "data.patch_px=64", "seed=5", "name=t"])
    assert (sweep.max_parallel, sweep.data, sweep.name) == (3, "mine", "t")
    assert sweep.set == {"data.patch_px": 64, "seed": 5}


def test_override_of_the_evaluation_reaches_into_it(sweep_file: Path) -> None:
    assert load_sweep(sweep_file, ["evaluate.max_images=7"]).evaluate.max_images == 7


def test_variant_changes_what_it_names_and_overrides_come_after_it(sweep_file: Path) -> None:
    sweep = load_sweep(sweep_file, ["evaluate.max_images=9", "variant=smoke", "log_every=2"])
    assert sweep.evaluate.max_images == 9
    assert sweep.set == {"log_every": 2}
    assert load_sweep(sweep_file).set == {}


def test_stored_sweep_reads_back_equal(sweep_file: Path, tmp_path: Path) -> None:
    sweep = load_sweep(sweep_file, ["seed=3", "evaluate.kernels=[bilinear]"])
    (tmp_path / "stored.yaml").write_text(dump_sweep(sweep), encoding="utf-8")
    assert load_sweep(tmp_path / "stored.yaml") == sweep


def test_stored_sweep_needs_its_recipe_no_more(tmp_path: Path, recipe: dict[str, Any]) -> None:
    write(tmp_path / "r.yaml", recipe)
    sweep = load_sweep(write(tmp_path / "s.yaml", {"name": "s", "recipe": "r.yaml"}))
    (tmp_path / "r.yaml").unlink()
    (tmp_path / "stored.yaml").write_text(dump_sweep(sweep), encoding="utf-8")
    assert load_sweep(tmp_path / "stored.yaml").base == recipe


def test_recipe_is_a_sweep_of_one(tmp_path: Path, recipe: dict[str, Any]) -> None:
    sweep = load_sweep(write(tmp_path / "my recipe.yaml", recipe), ["seed=2"])
    assert (sweep.name, sweep.axes, sweep.set) == ("my-recipe", (), {"seed": 2})


SEEDS = {"name": "seed", "key": "seed", "values": [0, 1]}
WRONG: list[tuple[str, dict[str, Any], list[str], str]] = [
    ("an unknown key", {"axis": []}, [], "did you mean 'axes'?"),
    ("an unknown key of the evaluation", {"evaluate": {"metric": []}}, [], "did you mean 'metrics'?"),
    ("two bases", {"recipe": "srgan"}, [], "give either recipe"),
    ("a name with a slash", {"name": "a/b"}, [], "write 'a-b'"),
    ("a name that leads out", {"name": ".."}, [], "cannot name a folder"),
    ("the name of the shared folder", {"name": "phases"}, [], "cannot name a folder"),
    ("an override without a value", {}, ["seed"], "expected key=value"),
    ("an unknown variant", {}, ["variant=smok"], "its variants are: none"),
    ("a negative parallelism", {"max_parallel": 0}, [], "key 'max_parallel'"),
    ("axes as a mapping", {"axes": {"seed": [0, 1]}}, [], "key 'axes'"),
    (
        "a value of no kind that fits",
        {"axes": [{**SEEDS, "values": 3}]},
        [],
        "'axes.0.values': must be a list, as in [a, b] or keys",
    ),
    (
        "a wrong item of one kind",
        {"axes": [{**SEEDS, "key": ["seed", 3]}]},
        [],
        "key 'axes.0.key.1': must be text, got 3.",
    ),
]


@pytest.mark.parametrize(("more", "overrides", "message"), [c[1:] for c in WRONG], ids=[c[0] for c in WRONG])
def test_mistake_in_a_sweep_file_is_one_sentence(
    tmp_path: Path, recipe: dict[str, Any], more: dict[str, Any], overrides: list[str], message: str
) -> None:
    path = write(tmp_path / "s.yaml", {"name": "s", "base": recipe, **more})
    with pytest.raises(InputError) as error:
        load_sweep(path, overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("a: [", "is not valid YAML"),
        ("- 1\n", "expected keys and values"),
        ("", "expected keys and values"),
        ("\xff\x00", "YAML"),
        ("name: s\nrecipe: nowhere\n", "is neither a file nor one of"),
    ],
)
def test_file_that_is_no_sweep_is_refused_by_name(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "s.yaml"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"s\.yaml") as error:
        load_sweep(path)
    assert message in str(error.value)


def test_folder_given_as_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        load_sweep(tmp_path)


def test_sweep_config_is_frozen(sweep_file: Path) -> None:
    sweep = load_sweep(sweep_file)
    with pytest.raises(ValueError, match="frozen"):
        sweep.name = "x"  # type: ignore[misc]
    assert isinstance(sweep, SweepConfig)
