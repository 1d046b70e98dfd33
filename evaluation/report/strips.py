"""Which pictures a report shows: for each class the image whose score is the median, for the best and the worst cell
likewise (figure 10 of Specialized SR-GAN).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.metrics import METRICS, Metric
from evaluation.report.columns import Column, build_columns
from evaluation.report.compare import is_general
from evaluation.report.grid import show_number
from evaluation.report.matrix import Condition, Matrix, build_matrix, conditions_of
from evaluation.report.picture_source import PictureSource
from evaluation.report.pictures import CROP_PX, Candidate, Strip, build_strip, median_image
from evaluation.scores.images import name_of_image
from evaluation.scores.table import ScoreTable

MAX_MODELS = 10
"""Models in one strip; the own, the general, the best and the worst one always stand in it."""
_ALWAYS = ("nearest", "bicubic")
_UNSCORED = {"nearest": "the LR image"}
"""What stands under a picture that has no number."""


def report_strips(source: PictureSource) -> list[Strip]:
    """A strip for each class (at most `report.num_strips`), then the best and the worst cell."""
    metric = _picture_metric(source.table)
    if metric is None or not source.config.report.num_strips:
        return []
    conditions = conditions_of(source.table)
    first = [c for c in conditions if (c.split, c.kernel) == (conditions[0].split, conditions[0].kernel)]
    matrix = build_matrix(source.table, metric, first)
    classes = sorted(first, key=lambda condition: condition.image_class == source.config.pool)
    strips = [_class_strip(source, matrix, condition) for condition in classes[: source.config.report.num_strips]]
    return [strip for strip in [*strips, *_extreme_strips(source, matrix, first)] if strip is not None]


def _picture_metric(table: ScoreTable) -> Metric | None:
    """PSNR where it was measured, else the first measure of single images."""
    names = [
        name for name in ("psnr", *table.metrics) if name in table.images.columns and METRICS[name].scope == "image"
    ]
    return METRICS[names[0]] if names else None


def _class_strip(source: PictureSource, matrix: Matrix, condition: Condition) -> Strip | None:
    columns = _shown_columns(matrix, matrix.rows.index(condition.image_class), source.config.pool)
    scores = _image_scores(source.table, condition, matrix.metric, [column.models[0] for column in columns])
    if not scores:
        return None
    names = [column.models[0] for column in columns]
    key = median_image({image: _mean_over(names, by_model) for image, by_model in scores.items()})
    caption = f"{name_of_image(key)}: the image of median {matrix.metric.label} over these models"
    return _strip(source, condition.image_class, caption, condition, key, names, scores[key], matrix.metric)


def _mean_over(names: Sequence[str], by_model: Mapping[str, float]) -> float:
    """The mean over the models of these names; where none has a number, over those that have one."""
    shown = [by_model[name] for name in names if name in by_model]
    return float(np.mean(shown or list(by_model.values())))


def _shown_columns(matrix: Matrix, row: int, pool: str | None) -> list[Column]:
    """All models, or where there are too many: own, general, best, worst, then in their order."""
    trained = [column for column in matrix.columns if not column.baseline]
    if len(trained) <= MAX_MODELS:
        return trained
    values = {c.title: cell.value for c, cell in zip(matrix.columns, matrix.cells[row]) if cell.value is not None}
    ranked = sorted((c for c in trained if c.title in values), key=lambda column: values[column.title])
    own = [c for c in trained if c.own_class == matrix.rows[row]]
    general = [c for c in trained if is_general(c, pool)]
    wanted = dict.fromkeys([*own[:1], *general[:1], *ranked[:1], *ranked[-1:], *trained])
    kept = list(wanted)[:MAX_MODELS]
    return [column for column in trained if column in kept]


def _image_scores(
    table: ScoreTable, condition: Condition, metric: Metric, models: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Image -> model -> score, baselines included, for images that every shown model has a number of."""
    rows = table.images[table.images["condition"] == condition.name]
    wide = rows.pivot_table(index="image", columns="model", values=metric.name, aggfunc="first")
    present = [model for model in models if model in wide.columns]
    wide = wide.dropna(subset=present) if present else wide
    return {str(image): values.dropna().to_dict() for image, values in wide.iterrows()}


def _extreme_strips(source: PictureSource, matrix: Matrix, conditions: Sequence[Condition]) -> list[Strip | None]:
    cells = [
        (cell.value, column, conditions[row])
        for row, line in enumerate(matrix.cells)
        for cell, column in zip(line, matrix.columns)
        if cell.value is not None and cell.comparable and not column.baseline
    ]
    if len(cells) < 2:
        return []
    ordered = sorted(cells, key=lambda item: item[0], reverse=matrix.metric.higher_is_better)
    return [_cell_strip(source, matrix, "Best", *ordered[0]), _cell_strip(source, matrix, "Worst", *ordered[-1])]


def _cell_strip(
    source: PictureSource, matrix: Matrix, which: str, value: float, column: Column, condition: Condition
) -> Strip | None:
    model, metric = column.models[0], matrix.metric
    scores = _image_scores(source.table, condition, metric, [model])
    own = {image: by_model[model] for image, by_model in scores.items() if model in by_model}
    if not own:
        return None
    key = median_image(own)
    title = f"{which} cell of the matrix: {column.title} on {condition.image_class}"
    num_seeds = len(column.models)
    over, whose = (f" over {num_seeds} seeds", f"{model}'s") if num_seeds > 1 else ("", "its")
    caption = f"mean {_detail(value, metric)}{over}; {name_of_image(key)}: {whose} median image"
    strip = _strip(source, title, caption, condition, key, [model], scores[key], metric)
    return strip if any(crop.title == model for crop in strip.crops) else None


def _strip(
    source: PictureSource,
    title: str,
    caption: str,
    condition: Condition,
    key: str,
    models: Sequence[str],
    scores: Mapping[str, float],
    metric: Metric,
) -> Strip:
    hr_image = source.hr_image(condition, key)
    corner, outputs = source.outputs(hr_image, condition.kernel, key, [*_ALWAYS, *models])
    own = {c.models[0]: c.own_class == condition.image_class for c in build_columns(source.table.models)}
    candidates = [
        Candidate(name, image, _detail(scores.get(name), metric) or _UNSCORED.get(name, ""), own.get(name, False))
        for name, image in outputs.items()
    ]
    rivals = models if len(models) > 1 else [*models, "bicubic"]
    where = "the models differ" if len(models) > 1 else "model and bicubic differ"
    caption += f"; crop of {CROP_PX} px where {where} most, LR by {condition.kernel}"
    return build_strip(title, caption, hr_image, candidates, rivals, corner)


def _detail(value: float | None, metric: Metric) -> str:
    return "" if value is None else f"{metric.label} {show_number(value, metric.digits)} {metric.unit}".strip()
