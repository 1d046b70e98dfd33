"""The numbers in the cells of matrices and tables: means of scores, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evaluation.metrics import Metric
from evaluation.scores.table import ScoreTable


@dataclass(frozen=True)
class Cell:
    """A number or the reason why there is none; `note` may also say why a number is not to be trusted."""

    value: float | None = None
    deviation: float | None = None
    num_images: int = 0
    note: str = ""
    comparable: bool = True
    """False for stale and partial numbers: they are shown, but never ranked."""
    num_models: int = 1
    """Over how many models (seeds of a run, say) the number is a mean, and the deviation one."""


class CellScores:
    """Means of one measure by (model, condition), with the reasons where they are missing."""

    def __init__(self, table: ScoreTable, metric: Metric) -> None:
        self._metric = metric
        self._missing: Mapping[tuple[str, str, str], str] = table.missing
        self._found = _FINDERS[metric.scope](table, metric.name)
        self._known = {place[1] for place, found in self._found.items() if self._is_number(place, found[0])}

    def _is_number(self, place: tuple[str, str], value: float) -> bool:
        return not np.isnan(value) and (*place, self._metric.name) not in self._missing

    def over(self, conditions: Sequence[str], model: str) -> Cell:
        """The mean over several conditions of one model, each with the same weight.

        A condition on which no model has a number is left out for all alike.
        """
        if len(conditions) == 1:
            return self.one(conditions[0], model)
        kept = [condition for condition in conditions if condition in self._known] or conditions
        cells = [self.one(condition, model) for condition in kept]
        values = [cell.value for cell in cells if cell.value is not None]
        notes = list(dict.fromkeys(cell.note for cell in cells if cell.note))
        if len(kept) < len(conditions):
            notes.append(
                f"{len(conditions) - len(kept)} of {len(conditions)} conditions left out: no model has a number"
            )
        num_images = sum(cell.num_images for cell in cells)
        if not values:
            return Cell(note="; ".join(notes[:3]) or "nothing was scored", comparable=False)
        if len(values) < len(cells):
            notes.insert(0, f"mean of {len(values)} of {len(cells)} conditions")
        return Cell(float(np.mean(values)), None, num_images, "; ".join(notes[:3]), all(c.comparable for c in cells))

    def one(self, condition: str, model: str) -> Cell:
        """The cell of one model and condition. Its note may be joined with others: it ends without a full stop."""
        reason = self._missing.get((model, condition, self._metric.name), "").removesuffix(".")
        found = self._found.get((model, condition))
        if reason or found is None:
            return Cell(note=reason or "not scored yet; run the evaluation again", comparable=False)
        value, num_images, num_failed, note, deviation = found
        failed = f"{num_failed} of {num_images + num_failed} images gave no number" if num_failed else ""
        note = "; ".join(filter(None, [failed, note.removesuffix(".")]))
        return Cell(None if np.isnan(value) else value, deviation, num_images, note, not failed)


_Found = dict[tuple[str, str], tuple[float, int, int, str, "float | None"]]


def _per_image(table: ScoreTable, name: str) -> _Found:
    images = table.images
    if name not in images.columns or images.empty:
        return {}
    keys = [images["model"], images["condition"]]
    exact = _restored_exactly(images, name)
    measured = images[name].groupby(keys, sort=False, observed=True).count()
    grouped = images[name].mask(exact).groupby(keys, sort=False, observed=True)
    num_exact = exact.groupby(keys, sort=False, observed=True).sum()
    known = images[images[name].notna()].groupby("condition", observed=True)["image"].nunique()
    found: _Found = {}
    facts = zip(grouped.mean().items(), grouped.count(), grouped.size(), measured, num_exact)
    for ((model, condition), mean), count, size, num_measured, left_out in facts:
        total = int(known.get(condition, 0))
        note = "; ".join(filter(None, [_why_left_out(size - total, size), _why_exact_left_out(left_out, size)]))
        found[str(model), str(condition)] = (mean, int(count), total - int(num_measured), note, None)
    return found


def _restored_exactly(images: pd.DataFrame, name: str) -> pd.Series:
    """Which rows are of an image that some model restores exactly, such as a blank one, so that its PSNR is infinite.

    One of them would make the mean of its model infinite, and hide how the others are. A model that restores every
    image of a condition exactly is infinitely good, and says nothing about the images.
    """
    infinite = np.isinf(images[name])
    if not infinite.any():
        return infinite
    perfect = infinite.groupby([images["model"], images["condition"]], observed=True).transform("all")
    one_is = (infinite & ~perfect).groupby([images["condition"], images["image"]], observed=True).transform("any")
    return one_is & ~perfect


def _why_left_out(num_unknown: int, num_images: int) -> str:
    """What is said of images that no model has a number of (too small, say): nobody's lack, so the rest is ranked."""
    return f"{num_unknown} of {num_images} images left out: no model has a number of them" if num_unknown else ""


def _why_exact_left_out(num_exact: int, num_images: int) -> str:
    """What is said of images that count for no model, so that all means are over the same ones."""
    return f"{num_exact} of {num_images} images left out: a model restores them exactly" if num_exact else ""


def _per_set(table: ScoreTable, name: str) -> _Found:
    rows = table.sets[table.sets["metric"] == name]
    found: _Found = {}
    for row in rows.itertuples(index=False):
        deviation = None if pd.isna(row.deviation) else float(row.deviation)
        note = "" if pd.isna(row.note) else str(row.note)
        found[(str(row.model), str(row.condition))] = (float(row.value), int(row.num_images), 0, note, deviation)
    return found


_FINDERS = {"image": _per_image, "set": _per_set}


def mean_of_models(cells: Sequence[Cell], what: str, remark: str = "") -> Cell:
    """Mean ± sample deviation over the cells of several models; a single one stays as it is.

    Numbers over other images or conditions than the others', or infinite ones, leave no deviation: it would tell these
    apart, not the models.

    Args:
        what: the models' name in the note that some of them have no number.
        remark: added to the notes of a mean.
    """
    if len(cells) == 1:
        return cells[0]
    values = [cell.value for cell in cells if cell.value is not None]
    notes = list(dict.fromkeys(cell.note for cell in cells if cell.note))
    if not values:
        return Cell(note="; ".join(notes[:3]), comparable=False)
    if len(values) < len(cells):
        notes.insert(0, f"mean of {len(values)} of {len(cells)} {what}")
    if remark:
        notes.append(remark)
    alike = np.isfinite(values).all() and all(cell.comparable for cell in cells if cell.value is not None)
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 and alike else None
    comparable = all(cell.comparable for cell in cells)
    note = "; ".join(notes[:3])
    num_images = max(cell.num_images for cell in cells)
    return Cell(float(np.mean(values)), deviation, num_images, note, comparable, len(values))


def explain_deviation(cells: Iterable[Cell], metric: Metric, models: str) -> str:
    """What ± means in these cells, for their caption; empty where none has it.

    Args:
        models: what a mean of several models is over (seeds, say).
    """
    kinds = {cell.num_models > 1 for cell in cells if cell.deviation is not None}
    if not kinds:
        return ""
    if kinds == {False}:
        return f"± is {metric.deviation}"
    return f"± is the deviation over {models}" + (f", of a single model {metric.deviation}" if False in kinds else "")
