"""Other ways to load crops, for `harness bench data`: each in its plain recommended form, on the same pixels."""

from __future__ import annotations

import importlib.util
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harness.data.shards import Dataset

Step = Callable[[], object]


def raw_peers(packed: Path, patch_px: int, batch: int) -> Iterator[tuple[str, Step]]:
    """(name, a step that gives a batch) of every peer that is installed, on raw tiles."""
    if importlib.util.find_spec("webdataset") is not None:
        yield "webdataset, raw arrays", _webdataset(packed, patch_px, batch)
    if importlib.util.find_spec("streaming") is not None:
        yield "mosaicml-streaming, raw arrays", _mosaicml(packed, patch_px, batch)


def png_files(folder: Path, patch_px: int, batch: int) -> Step:
    """The usual loader: open a PNG file, decode it, crop, stack."""
    paths = sorted(folder.glob("*.png"))
    rng = np.random.default_rng(0)

    def step() -> torch.Tensor:
        chosen = [paths[number] for number in rng.integers(len(paths), size=batch)]
        return torch.from_numpy(np.stack([_crop(np.asarray(Image.open(path)), patch_px, rng) for path in chosen]))

    return step


def decoders(folder: Path) -> Iterator[tuple[str, Step]]:
    """(name, a step that decodes one PNG) of the decoders that are installed."""
    contents = itertools.cycle([path.read_bytes() for path in sorted(folder.glob("*.png"))[:16]])
    yield "Pillow", lambda: np.asarray(Image.open(io.BytesIO(next(contents))))
    from torchvision.io import decode_png

    yield "torchvision", lambda: decode_png(torch.frombuffer(bytearray(next(contents)), dtype=torch.uint8))
    if importlib.util.find_spec("cv2") is not None:
        import cv2

        cv2.setNumThreads(1)
        yield "OpenCV", lambda: cv2.imdecode(np.frombuffer(next(contents), np.uint8), cv2.IMREAD_COLOR)


def _crop(image_HWC: np.ndarray, patch_px: int, rng: np.random.Generator) -> np.ndarray:
    top = rng.integers(image_HWC.shape[0] - patch_px + 1)
    left = rng.integers(image_HWC.shape[1] - patch_px + 1)
    return image_HWC[top : top + patch_px, left : left + patch_px]


def _webdataset(packed: Path, patch_px: int, batch: int) -> Step:
    import webdataset

    rng = np.random.default_rng(0)

    def to_patch(sample: dict) -> np.ndarray:
        return _crop(np.frombuffer(sample["npy"], np.uint8, offset=128).reshape(144, 144, 3), patch_px, rng)

    shards = [str(path) for path in sorted(packed.glob("train-*.tar"))]
    pipeline = webdataset.WebDataset(shards, shardshuffle=False).shuffle(1000).map(to_patch)
    batches = iter(pipeline.repeat().batched(batch, collation_fn=lambda patches: torch.from_numpy(np.stack(patches))))
    return lambda: next(batches)


def _mosaicml(packed: Path, patch_px: int, batch: int) -> Step:
    import streaming

    folder = packed.parent / "mosaicml"
    dataset = Dataset.open(packed)
    if not folder.exists():
        with streaming.MDSWriter(out=str(folder), columns={"tile": "ndarray:uint8:144,144,3"}) as writer:
            for index in range(dataset.num_samples):
                writer.write({"tile": dataset.read(index)})
    tiles = streaming.StreamingDataset(local=str(folder), shuffle=True, batch_size=batch, num_canonical_nodes=1)
    rng = np.random.default_rng(0)

    def endless() -> Iterator[np.ndarray]:
        while True:
            for sample in tiles:
                yield _crop(sample["tile"], patch_px, rng)

    patches = endless()
    return lambda: torch.from_numpy(np.stack(list(itertools.islice(patches, batch))))
