"""A sweep file: a base recipe, axes, what to leave out and what to evaluate. Imports no torch."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, field_validator, model_validator

from evaluation.config import EvaluateConfig
from harness.errors import InputError
from harness.schema import BAD_YAML, Section, apply_overrides, load_yaml, parse, read_yaml, set_key

RECIPES = Path(__file__).parent / "recipes"
CATALOG = Path(__file__).parent / "catalog"
RESERVED_NAMES = ("phases",)
MAX_NAME_BYTES = 120


class PerClassConfig(Section):
    """An axis over the classes of the data that its phases train on, found when the sweep is planned."""

    phases: tuple[str, ...] = Field(min_length=1)
    """Names of the phases that see one class only; the others see what the recipe gives them."""
    general: str | None = "general"
    """One more label, for a model of the class of that name, or of all classes (if several) where none has it."""
    classes: tuple[str, ...] | None = None
    """Only these classes, in this order; null takes all of the dataset."""


class AxisConfig(Section):
    """One axis: `key` + `values`, or `settings` by label, or several axes that advance together, or the classes."""

    name: str | None = Field(None, min_length=1)
    key: str | tuple[str, ...] | None = None
    """Dotted key of the run's configuration (or several that get the same value)."""
    values: list[Any] | dict[str, Any] | None = None
    """Values of `key`; a mapping gives each value a label."""
    settings: dict[str, dict[str, Any] | None] | None = None
    """Label -> {dotted key: value, ...}."""
    zip: tuple[AxisConfig, ...] | None = None
    per_class: PerClassConfig | None = None

    @field_validator("values", "settings", mode="before")
    @classmethod
    def _text_labels(cls, given: Any) -> Any:
        """YAML reads `yes`, `no` and numbers as other things than text; as labels they are text."""
        return {label_of(key): value for key, value in given.items()} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _one_kind(self) -> AxisConfig:
        kinds = [kind for kind in ("values", "settings", "zip", "per_class") if getattr(self, kind) is not None]
        title = f"axis '{self.name}'" if self.name else "an axis"
        if len(kinds) != 1:
            given = " and ".join(kinds) or "none of them"
            raise ValueError(f"{title} has {given}; give exactly one of values, settings, zip, per_class")
        if (self.values is not None) != (self.key is not None):
            raise ValueError(f"{title} needs key and values together, for example key: seed, values: [0, 1]")
        if self.zip is None and self.name is None:
            raise ValueError("an axis has no name; add name: NAME")
        if not getattr(self, kinds[0]):
            raise ValueError(f"{title} has an empty {kinds[0]}; give at least one entry")
        return self


class SweepConfig(Section):
    """Everything that decides which runs there are and how they are compared."""

    name: str
    title: str = ""
    recipe: str | None = None
    """A name in sweeps/recipes, or the path of a recipe, relative to the sweep file or to the working directory."""
    base: dict[str, Any] | None = None
    """The recipe itself, instead of `recipe`."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted key -> value, applied to the recipe before the axes."""
    data: str | None = None
    """One packed dataset that replaces the paths of all training sources."""
    axes: tuple[AxisConfig, ...] = ()
    exclude: tuple[dict[str, Any], ...] = ()
    """Each leaves out the runs whose axes have all of these labels; a list of labels matches any of them."""
    naming: str | None = None
    """Name of a run, with {axis} for its label; null joins the labels."""
    evaluate: EvaluateConfig = EvaluateConfig()
    max_parallel: int | None = Field(None, gt=0)
    """Most jobs at once; null leaves it to the cluster profile."""

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if safe_name(name) != name or name.casefold() in RESERVED_NAMES:
            hint = f"; write '{safe_name(name)}'" if safe_name(name) and safe_name(name) != name else ""
            raise ValueError(f"'{name}' cannot name a folder (letters, digits, '.', '_', '+', '-'){hint}")
        return name

    @model_validator(mode="after")
    def _one_base(self) -> SweepConfig:
        if (self.recipe is None) == (self.base is None):
            raise ValueError("give either recipe (a name or a path) or base (the recipe itself)")
        return self


def safe_name(text: str) -> str:
    """`text` as one file name for any file system: letters (any script), digits, '.', '_', '+' and '-'.

    Everything else becomes '-'; the result may be empty, and is cut at 120 bytes of UTF-8.
    """
    normal = unicodedata.normalize("NFC", text)
    kept = re.sub(r"[^\w.+-]+", "-", normal).strip("-.")
    while len(kept.encode()) > MAX_NAME_BYTES:
        kept = kept[:-1]
    return kept.rstrip("-.")


def label_of(value: Any) -> str:
    """The label of a plain value: yes and no for booleans, as YAML spells them."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def load_sweep(path: str | Path, overrides: list[str] | None = None) -> SweepConfig:
    """Reads a sweep file, or a recipe as a sweep of one, and applies `key=value` overrides.

    An override whose first part is a key of the sweep file changes the sweep (`data` and `name` only as a whole);
    every other one changes the configuration of all its runs. `variant=NAME` applies one of the file's variants.
    A recipe is read into `base`, so that the result can be stored and read without it.

    Raises:
        InputError: one sentence that names the file and the key.
    """
    file = find_sweep(path)
    values = read_yaml(file)
    if isinstance(values, dict) and "phases" in values:
        values = {"name": safe_name(str(values.get("name", file.stem))), "base": values}
    if isinstance(values, dict):
        values = _override(_plain(values), overrides or [], str(file))
    sweep = parse(SweepConfig, values, str(file))
    if sweep.recipe is None:
        return sweep
    try:
        base = read_yaml(find_recipe(sweep.recipe, file.parent))
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    if not isinstance(base, dict):
        raise InputError(f"{sweep.recipe}: a recipe is keys and values; write `key: value` lines.")
    return sweep.model_copy(update={"recipe": None, "base": _plain(base)})


def find_sweep(path: str | Path) -> Path:
    """The sweep file that `path` means: a file, or the name of one in the catalog."""
    given = Path(path)
    named = CATALOG / f"{path}.yaml"
    if not given.exists() and named.exists():
        return named
    if given.is_dir():
        raise InputError(f"{path}: is a folder; give the path of a sweep file, such as sweeps/catalog/demo.yaml.")
    if not given.exists():
        raise InputError(f"{path}: no such file; give the path of one, or a sweep of the catalog: {_names(CATALOG)}.")
    return given


def find_recipe(recipe: str | Path, beside: Path = Path()) -> Path:
    """The recipe that is meant: a name in sweeps/recipes, or a path from the folder `beside` or from here.

    Raises:
        InputError: there is no such recipe.
    """
    for candidate in (RECIPES / f"{recipe}.yaml", beside / recipe, Path(recipe)):
        if candidate.is_file():
            return candidate
    raise InputError(f"recipe '{recipe}': is neither a file nor one of: {_names(RECIPES)}.")


def _names(folder: Path) -> str:
    return ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))


def dump_sweep(sweep: SweepConfig) -> str:
    """The resolved sweep as YAML; reading it back gives an equal sweep."""
    return yaml.safe_dump(sweep.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    """Keys as text, and nothing but what JSON can hold: YAML also knows yes/no keys and dates."""
    if isinstance(value, dict):
        return {label_of(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _override(values: dict[str, Any], overrides: list[str], source: str) -> dict[str, Any]:
    values = dict(values)
    variants = values.pop("variants", None) or {}
    chosen = [text.partition("=")[2] for text in overrides if text.startswith("variant=")]
    rest = [text for text in overrides if not text.startswith("variant=")]
    for name in chosen:
        values = _with_variant(values, variants, name, source)
    for override in rest:
        key = override.partition("=")[0]
        if _is_sweep_key(key):
            values = apply_overrides(values, [override])
        else:
            values["set"] = {**_settings(values, source), **_one_setting(override, key)}
    return values


def _with_variant(values: dict[str, Any], variants: Any, name: str, source: str) -> dict[str, Any]:
    if not isinstance(variants, dict) or name not in variants:
        known = ", ".join(map(str, variants)) or "none"
        raise InputError(f"{source}: has no variant '{name}'; its variants are: {known}.")
    changed: dict[str, Any] = apply_overrides(values, [])
    changes = variants[name] or {}
    if not isinstance(changes, dict):
        raise InputError(f"{source}: variant '{name}': expected keys and values, got {changes!r}; write `seed: 1`.")
    for key, value in changes.items():
        if key == "set":
            changed["set"] = {**_settings(changed, source), **_settings({"set": value}, source)}
        else:
            set_key(changed, key, value, f"{source}: variant '{name}'")
    return changed


def _settings(values: dict[str, Any], source: str) -> dict[str, Any]:
    given = values.get("set") or {}
    if not isinstance(given, dict):
        raise InputError(f"{source}: key 'set': expected dotted keys and values, got {given!r}; write `seed: 1`.")
    return given


def _is_sweep_key(key: str) -> bool:
    first, _, rest = key.partition(".")
    return first in SweepConfig.model_fields and not (first in ("data", "name") and rest)


def _one_setting(override: str, key: str) -> dict[str, Any]:
    _, found, text = override.partition("=")
    if not found or not key:
        raise InputError(f"override {override!r}: expected key=value; write for example seed=1.")
    try:
        return {key: _plain(load_yaml(text))}
    except BAD_YAML:
        raise InputError(f"override {override!r}: the value is not valid YAML; quote it.") from None
