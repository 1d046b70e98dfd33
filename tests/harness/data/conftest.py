"""Small datasets that the tests of the data plane share."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from harness.data.config import DataConfig, SourceConfig
from harness.data.pack import pack
from harness.data.reading import CropReader
from harness.data.shards import Dataset

TILE_PX = 40
CLASSES = {"hill": 9, "lake": 7, "wood": 5}


@pytest.fixture(scope="session")
def make_image() -> Callable[[int, int, int], np.ndarray]:
    """(seed, height, width) -> a picture of smooth colours and some noise."""
    return smooth_image


def smooth_image(seed: int, height: int, width: int) -> np.ndarray:
    """A picture of smooth colours and some noise, uint8 H x W x 3."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    picture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    return np.clip(picture + rng.integers(-20, 21, picture.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of PNG images of assorted sizes."""
    folder = tmp_path_factory.mktemp("images")
    seed = 0
    for class_name, count in CLASSES.items():
        (folder / class_name).mkdir()
        for number in range(count):
            seed += 1
            image = smooth_image(seed, 48 + 13 * (number % 4), 60 + 17 * (number % 3))
            Image.fromarray(image).save(folder / class_name / f"img {number}.v1.png")
    return folder


@pytest.fixture(scope="session", params=["npy", "png"])
def packed(request: pytest.FixtureRequest, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images packed, once raw and once as PNG."""
    out = tmp_path_factory.mktemp("packed") / "set"
    pack([image_folder], out, codec=request.param, tile_px=TILE_PX, workers=1)
    return out


@pytest.fixture(scope="session")
def packed_npy(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images packed raw."""
    out = tmp_path_factory.mktemp("packed_npy") / "set"
    pack([image_folder], out, tile_px=TILE_PX, workers=1)
    return out


@pytest.fixture(scope="session")
def read_crop() -> Callable[[Dataset, int, int, int, int, int], np.ndarray]:
    """(dataset, index, top, left, height, width) -> the crop as training reads it, uint8 height x width x 3."""

    def read(dataset: Dataset, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        out_HX = np.empty((height, width * 3), np.uint8)
        CropReader(dataset).read(index, top, left, out_HX)
        return out_HX.reshape(height, width, 3)

    return read


@pytest.fixture(scope="session")
def tar_of() -> Callable[[Path, dict[str, bytes]], None]:
    """Writes a tar of members with these names and contents."""

    def write(path: Path, members: dict[str, bytes]) -> None:
        with tarfile.open(path, "w") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    return write


@pytest.fixture(scope="session")
def png_of() -> Callable[[int], bytes]:
    """(seed) -> the PNG of a picture of 40 x 40 px."""

    def make(seed: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(smooth_image(seed, 40, 40)).save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.fixture
def url() -> Iterator[str]:
    """A URL of ten bytes."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/shards/a.tar", b"0123456789")
    yield "memory://shards/a.tar"
    memory.rm("/shards", recursive=True)


@pytest.fixture
def benchmark_images() -> Path:
    """The folder of Set5 and Set14 with their MATLAB-made LR images."""
    folder = os.environ.get("SR_BENCHMARK_DIR")
    if not folder:
        pytest.skip("SR_BENCHMARK_DIR does not name the folder of Set5 and Set14")
    return Path(folder)


@pytest.fixture(scope="session")
def data_config() -> Callable[..., DataConfig]:
    """Makes a data section with one source and a patch of 24 px, unless said otherwise."""

    def make(path: Path | str, **values: Any) -> DataConfig:
        names = ("classes", "fraction", "split", "weight")
        source = SourceConfig(path=str(path), **{name: values.pop(name) for name in names if name in values})
        return DataConfig(**{"sources": (source,), "patch_px": 24, "read_threads": 0, **values})

    return make
