"""A synthetic score table whose numbers are known by construction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from evaluation.model import Model
from evaluation.scores.images import ImageInfo
from evaluation.scores.table import SET_KEYS, ScoreTable

CLASSES = ("beach", "mountain", "general")

TableMaker = Callable[..., ScoreTable]


def make_table(
    models: list[Model] | None = None,
    classes: tuple[str, ...] = CLASSES,
    kernels: tuple[str, ...] = ("matlab-bicubic",),
    num_images: int = 8,
    seed: int = 0,
) -> ScoreTable:
    """Scores that favour each model on its own class; images differ in difficulty, as real ones do."""
    if models is None:
        models = [Model(name, "checkpoint", f"/none/{name}", {"class": name}, name) for name in classes]
        models.append(Model("bicubic", "method"))
    rng = np.random.default_rng(seed)
    rows = []
    for kernel in kernels:
        for image_class in classes:
            difficulty = rng.normal(26, 2, num_images)
            for model in models:
                gain = -1.0 if model.kind == "method" else 0.6 if model.own_class == image_class else 0.1
                psnr = difficulty + gain + rng.normal(0, 0.2, num_images)
                rows += _rows(model, image_class, kernel, psnr, condition_name(image_class, kernel, kernels))
    conditions = [condition_name(image_class, kernel, kernels) for kernel in kernels for image_class in classes]
    return ScoreTable(pd.DataFrame(rows), pd.DataFrame(columns=list(SET_KEYS)), {}, models, conditions)


def condition_name(image_class: str, kernel: str, kernels: tuple[str, ...]) -> str:
    """As the evaluation names conditions: the class, with the kernel before it where there are several."""
    return f"{kernel}/{image_class}" if len(kernels) > 1 else image_class


def _rows(model: Model, image_class: str, kernel: str, psnr: np.ndarray, condition: str) -> list[dict[str, object]]:
    common = {
        "model": model.name,
        "model_kind": model.kind,
        "checkpoint_sha": "0" * 64,
        "dataset_fingerprint": "f" * 64,
        "condition": condition,
        "split": "test",
        "image_class": image_class,
        "kernel": kernel,
    }
    images = [f"{image_class}_{i:03d}" for i in range(len(psnr))]
    sizes = {"height": 96, "width": 96, "code_version": "0.1.0", "metric_version": "1"}
    ssim = 1 / (1 + np.exp(-(psnr - 22) / 4))
    return [
        {**common, "image": image, "source_hash": image, **sizes, "psnr": p, "mse": 4 * 10 ** (-p / 10), "ssim": s}
        for image, p, s in zip(images, psnr, ssim, strict=True)
    ]


@pytest.fixture
def table() -> ScoreTable:
    return make_table()


@pytest.fixture(scope="session")
def table_maker() -> TableMaker:
    return make_table


class DrawnImages:
    """Noise with edges, as a dataset would give it; 98 x 130 px is no multiple of 4."""

    path, fingerprint = "drawn", "f"

    def __init__(self, classes: list[str], height: int = 98, width: int = 130) -> None:
        self.classes = classes
        self.size = (height, width)

    def images(self, split, image_class):
        names = [f"{image_class}_{i:03d}" for i in range(8)]
        return [ImageInfo(name, *self.size, False, i, name) for i, name in enumerate(names)]

    def read(self, image):
        rng = np.random.default_rng(image.index)
        blocks = rng.integers(0, 255, (17, 17, 3)).astype(np.uint8)
        return np.kron(blocks, np.ones((8, 8, 1), np.uint8))[: self.size[0], : self.size[1]]


@pytest.fixture(scope="session")
def drawn_images() -> type[DrawnImages]:
    return DrawnImages
