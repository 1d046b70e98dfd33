"""The score table: what was measured, for whom, on which images, and what is missing and why."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from evaluation.metrics import METRICS
from evaluation.model import Model
from harness.errors import InputError, first_line
from harness.files import not_written, whole

IMAGE_KEYS = (
    "model",
    "model_kind",
    "checkpoint_sha",
    "dataset_fingerprint",
    "condition",
    "split",
    "image_class",
    "kernel",
    "image",
    "source_hash",
    "height",
    "width",
    "code_version",
    "metric_version",
)
SET_KEYS = ("model", "condition", "metric", "value", "deviation", "num_images", "note")
_COLORS = {"y": "of luma (Y)", "rgb": "of RGB"}
SCORES_FILE = "scores.parquet"
SET_SCORES_FILE = "set_scores.parquet"
MISSING_FILE = "missing.json"
MODELS_FILE = "models.json"
NOT_FINITE_REASON = "images is not finite (NaN)"
"""How the reason ends where single images failed: the others of the cell are as good as any."""


@dataclass
class ScoreTable:
    """All scores of one evaluation.

    images: a row per (model, condition, image) with `IMAGE_KEYS` and a float column per metric of scope `image`.
    sets: a row per (model, condition, metric of scope `set`) with `SET_KEYS`.
    missing: (model, condition, metric) -> why there is no number, in words.
    models, conditions: the order of columns and rows.
    notes: what a reader of the numbers must know (a fallback to an older checkpoint, for example).
    """

    images: pd.DataFrame
    sets: pd.DataFrame
    missing: dict[tuple[str, str, str], str] = field(default_factory=dict)
    models: list[Model] = field(default_factory=list)
    conditions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that have a number or a reason for its absence, in the order of `METRICS`."""
        present = {*self.images.columns, *self.sets["metric"], *(metric for _, _, metric in self.missing)}
        return tuple(name for name in METRICS if name in present)

    def values(self, model: str, condition: str, metric: str) -> pd.Series:
        """The finite or infinite numbers of a cell by image; empty where there are none (or the metric is of a set)."""
        if metric not in self.images.columns:
            return pd.Series(dtype=float)
        rows = self.images[(self.images["model"] == model) & (self.images["condition"] == condition)]
        return rows.set_index("image")[metric].dropna()

    def mean(self, model: str, condition: str, metric: str) -> float:
        """The number of a cell: the mean over its images, or the set's own value; NaN where it is missing."""
        if (model, condition, metric) in self.missing:
            return math.nan
        if METRICS[metric].scope == "image":
            values = self.values(model, condition, metric)
            return float(values.mean()) if len(values) else math.nan
        sets = self.sets
        rows = sets[(sets["model"] == model) & (sets["condition"] == condition) & (sets["metric"] == metric)]
        return float(rows["value"].iloc[0]) if len(rows) else math.nan

    def how_measured(self, metric: str) -> str:
        """The colour and the border that a measure was taken with, in words; empty where it has neither, or several."""
        texts = self.images["metric_version"].unique() if "metric_version" in self.images else ()
        versions = {word for text in texts for word in str(text).split()}
        found = [version.split(":")[2:] for version in versions if version.split(":")[0] == metric]
        return _settings_in_words(found[0]) if len(found) == 1 else ""

    def save(self, folder: Path) -> None:
        """Writes the table into `folder`; each file appears whole or not at all."""
        missing = [{"model": m, "condition": c, "metric": k, "reason": why} for (m, c, k), why in self.missing.items()]
        models = {"models": [m.as_dict() for m in self.models], "conditions": self.conditions, "notes": self.notes}
        _write_parquet(folder / SCORES_FILE, self.images)
        _write_parquet(folder / SET_SCORES_FILE, self.sets)
        _write_json(folder / MISSING_FILE, missing)
        _write_json(folder / MODELS_FILE, models)

    @classmethod
    def load(cls, folder: Path) -> ScoreTable:
        """Reads what `save` wrote.

        Raises:
            InputError: a file is absent or damaged.
        """
        try:
            return cls._read(folder)
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = first_line(error)
            raise InputError(f"{folder}: holds no score table ({reason}); run `harness evaluate` first.") from None

    @classmethod
    def _read(cls, folder: Path) -> ScoreTable:
        models = json.loads((folder / MODELS_FILE).read_text(encoding="utf-8"))
        missing = json.loads((folder / MISSING_FILE).read_text(encoding="utf-8"))
        reasons = {(row["model"], row["condition"], row["metric"]): row["reason"] for row in missing}
        return cls(
            images=_read_parquet(folder / SCORES_FILE, ("model", "condition", "image", "source_hash"), "image"),
            sets=_read_parquet(folder / SET_SCORES_FILE, ("model", "condition", "metric", "value"), "set"),
            missing={_texts(key): _texts((why,))[0] for key, why in reasons.items()},
            models=[Model(**values) for values in models["models"]],
            conditions=list(_texts(models["conditions"])),
            notes=list(_texts(models["notes"])),
        )


def _settings_in_words(settings: Sequence[str]) -> str:
    """`y` and `border4`, as `Job.identity` writes them: "of luma (Y), without 4 px at each edge"."""
    words = [_COLORS[setting] for setting in settings if setting in _COLORS]
    borders = [setting.removeprefix("border") for setting in settings if setting.startswith("border")]
    return ", ".join([*words, *(f"without {px} px at each edge" for px in borders if px != "0")])


def make_writable(folder: Path) -> None:
    """Makes the folder and tries to write there, before minutes are spent.

    Raises:
        InputError: it cannot be written. OSError: the disk is full.
    """
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        raise not_written(folder, error) from None


def _texts(values: Any) -> Any:
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{values!r} are not texts")
    return values


def _read_parquet(path: Path, keys: tuple[str, ...], scope: str) -> pd.DataFrame:
    table = pd.read_parquet(path)
    lacking = [key for key in keys if key not in table.columns]
    if lacking:
        raise ValueError(f"{path.name} has no column {lacking[0]}")
    for name in ["value"] if scope == "set" else [name for name in METRICS if name in table.columns]:
        if len(table) and not pd.api.types.is_numeric_dtype(table[name]):  # without rows there is no kind either
            raise ValueError(f"column {name} of {path.name} holds no numbers")
    return table


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    with whole(path) as part:
        table.to_parquet(part, index=False)


def _write_json(path: Path, content: object) -> None:
    with whole(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
