"""Which pictures a report shows, and how they are made again from the models.

Scores keep no images, so the few that are shown are upscaled anew: for each class the image whose score is the
median, for the best and the worst cell likewise (figure 10 of Specialized SR-GAN).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evaluation.columns import Column, build_columns
from evaluation.config import EvaluateConfig
from evaluation.images import name_of_image
from evaluation.matrix import Condition, Matrix, build_matrix, conditions_of
from evaluation.metrics import METRICS, Metric
from evaluation.model import Model, baseline
from evaluation.pictures import CROP_PX, Candidate, Strip, build_strip, choose_crop, median_image
from evaluation.scores import ScoreTable
from harness.data.degrade import crop_to_multiple, degrade_image, upscale_image
from harness.errors import InputError

if TYPE_CHECKING:
    from evaluation.images import ImageInfo, ImageSource
    from evaluation.upsamplers import Upsampler
    from harness.config import RunConfig

MAX_MODELS = 10
"""Models in one strip; the own, the general, the best and the worst one always stand in it."""
WINDOW_PX = 384
"""Edge of the part of a large image that is upscaled for a strip."""
MARGIN_LR_PX = 16
"""Upscaled around the window and cut off, so that its edge is what the whole image would give."""
_ALWAYS = ("nearest", "bicubic")
_UNSCORED = {"nearest": "the LR image"}
"""What stands under a picture that has no number."""


@dataclass
class PictureSource:
    """Images and models, opened when first needed; `problems` says which could not be."""

    table: ScoreTable
    config: EvaluateConfig
    images: ImageSource
    scale: int

    def __post_init__(self) -> None:
        self.problems: list[str] = []
        self._models: dict[str, Model] = {model.name: model for model in self.table.models}
        self._upsamplers: dict[str, Upsampler | None] = {}
        self._infos: dict[tuple[str, str], dict[str, ImageInfo]] = {}

    def hr_image(self, condition: Condition, key: str) -> np.ndarray:
        """The HR image of a scored output, cropped to a multiple of the scale.

        Raises:
            InputError: the dataset no longer holds it.
        """
        info = self._find(condition, key)
        return crop_to_multiple(self.images.read(info), self.scale)

    def _find(self, condition: Condition, key: str) -> ImageInfo:
        classes = [condition.image_class] if condition.image_class in self.images.classes else self.images.classes
        for name in classes:
            place = (condition.split, name)
            if place not in self._infos:
                self._infos[place] = {info.key: info for info in self.images.images(*place)}  # type: ignore[arg-type]
            if key in self._infos[place]:
                return self._infos[place][key]
        raise InputError(f"{self.images.path}: no longer holds the image '{key}'; evaluate again.")

    def outputs(
        self, hr_image: np.ndarray, kernel: str, key: str, names: Sequence[str]
    ) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
        """The SR image of each named model (or method) that can be opened, and where its top left corner lies.

        Of a large image only the window is upscaled in which bicubic loses most, so that the cost of a report does not
        grow with the size of the images.
        """
        lr_image = degrade_image(hr_image, self.scale, kernel)  # type: ignore[arg-type]
        window = self._window(hr_image, lr_image)
        found = {}
        for name in names:
            upsampler = self._open(name)
            if upsampler is None:
                continue
            try:
                found[name] = self._upscale(upsampler, name, lr_image, window, key)
            except InputError as error:
                self._note(str(error))
        return (window[0], window[1]), found

    def _window(self, hr_image: np.ndarray, lr_image: np.ndarray) -> tuple[int, int, int, int]:
        """Top, left, bottom and right in HR pixels, multiples of the scale."""
        height, width = hr_image.shape[:2]
        if max(height, width) <= WINDOW_PX:
            return 0, 0, height, width
        bicubic = upscale_image(lr_image, self.scale, "bicubic")
        top, left, size_px = choose_crop([hr_image, bicubic], WINDOW_PX)
        top, left = (place // self.scale * self.scale for place in (top, left))
        return top, left, min(height, top + size_px), min(width, left + size_px)

    def _upscale(
        self, upsampler: Upsampler, name: str, lr_image: np.ndarray, window: tuple[int, int, int, int], key: str
    ) -> np.ndarray:
        top, left, bottom, right = window
        model = self._models.get(name)
        if model is not None and model.kind == "folder":
            return upsampler(lr_image, key)[top:bottom, left:right]
        first_row, first_column = (max(0, place // self.scale - MARGIN_LR_PX) for place in (top, left))
        last_row, last_column = (-(-place // self.scale) + MARGIN_LR_PX for place in (bottom, right))
        sr_image = upsampler(lr_image[first_row:last_row, first_column:last_column], key)
        top, left = top - first_row * self.scale, left - first_column * self.scale
        return sr_image[top : top + window[2] - window[0], left : left + window[3] - window[1]]

    def _open(self, name: str) -> Upsampler | None:
        from evaluation.upsamplers import open_upsampler

        if name not in self._upsamplers:
            self._upsamplers[name] = None
            try:
                model = self._models.get(name) or baseline(name)
                latest, tile_px = self.config.latest, self.config.tile_px
                self._upsamplers[name] = open_upsampler(model, self.scale, latest, tile_px)
            except InputError as error:
                self._note(str(error))
        return self._upsamplers[name]

    def _note(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)


def open_picture_source(table: ScoreTable, config: EvaluateConfig) -> PictureSource:
    """Opens the dataset that was evaluated; what the configuration leaves open comes from the first readable model.

    Raises:
        InputError: neither says which dataset or scale, or the dataset cannot be opened.
    """
    from evaluation.images import DatasetImages

    path, scale = config.dataset, config.scale
    for model in table.models:
        if path is not None and scale is not None:
            break
        found = _run_config(model, config.latest)
        if found is not None:
            path, scale = path or found.data.sources[0].path, scale or found.scale
    if path is None or scale is None:
        raise InputError("no pictures: no model says which dataset and scale; set evaluate.dataset and evaluate.scale.")
    return PictureSource(table, config, DatasetImages(path), scale)


def _run_config(model: Model, latest: bool) -> RunConfig | None:
    """What a model was trained with; the evaluation has already said why another one cannot be read."""
    from evaluation.checkpoints import find_weights

    if model.kind != "checkpoint":
        return None
    try:
        return find_weights(model, latest).config
    except InputError:
        return None


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
    key = median_image({image: float(np.mean(list(by_model.values()))) for image, by_model in scores.items()})
    names = [column.models[0] for column in columns]
    caption = f"{name_of_image(key)}: the image of median {matrix.metric.label} over these models"
    return _strip(source, condition.image_class, caption, condition, key, names, scores[key], matrix.metric)


def _shown_columns(matrix: Matrix, row: int, pool: str | None) -> list[Column]:
    """All models, or where there are too many: own, general, best, worst, then in their order."""
    trained = [column for column in matrix.columns if not column.baseline]
    if len(trained) <= MAX_MODELS:
        return trained
    values = {c.title: cell.value for c, cell in zip(matrix.columns, matrix.cells[row]) if cell.value is not None}
    ranked = sorted((c for c in trained if c.title in values), key=lambda column: values[column.title])
    own = [c for c in trained if c.own_class == matrix.rows[row]]
    general = [c for c in trained if c.own_class in (None, "general", pool)]
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
    return "" if value is None else f"{metric.label} {metric.format(value)} {metric.unit}".strip()
