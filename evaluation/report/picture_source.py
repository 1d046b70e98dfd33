"""How a report's pictures are made again: scores keep no images, so the few that are shown are upscaled anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evaluation.config import EvaluateConfig
from evaluation.model import Model, baseline
from evaluation.report.matrix import Condition
from evaluation.report.pictures import choose_crop
from evaluation.scores.table import ScoreTable
from harness.data.degrade import crop_to_multiple, degrade_image, upscale_image
from harness.errors import InputError

if TYPE_CHECKING:
    from evaluation.scores.images import ImageInfo, ImageSource
    from evaluation.scores.upsamplers import Upsampler
    from harness.config import RunConfig

WINDOW_PX = 384
"""Edge of the part of a large image that is upscaled for a strip."""
MARGIN_LR_PX = 16
"""Upscaled around the window and cut off, so that its edge is what the whole image would give."""


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
        """Top, left, bottom and right in HR pixels."""
        height, width = hr_image.shape[:2]
        if max(height, width) <= WINDOW_PX:
            return 0, 0, height, width
        bicubic = upscale_image(lr_image, self.scale, "bicubic")
        top, left, size_px = choose_crop([hr_image, bicubic], WINDOW_PX)
        return top, left, top + size_px, left + size_px

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
        from evaluation.scores.upsamplers import open_upsampler

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
    from evaluation.scores.images import DatasetImages

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
    from evaluation.scores.checkpoints import find_weights

    if model.kind != "checkpoint":
        return None
    try:
        return find_weights(model, latest).config
    except InputError:
        return None
