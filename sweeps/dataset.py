"""The data that a sweep trains on, where it can be made here: the embedded dataset, or the user's own images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from harness.config import RunConfig
from harness.data.config import SourceConfig
from harness.errors import InputError
from harness.screen import counted, progress_bar, say
from sweeps.config import load_sweep, safe_name
from sweeps.grid import expand

EMBEDDED = Path("data/demo")
IMAGES_PER_CLASS = 120
IMAGE_PX = 256
TILE_PX = 96
TEST_IMAGES = 20
VAL_IMAGES = 4


def provide(sweep_file: str, overrides: Sequence[str], own: Path | None, console: Console) -> list[str]:
    """Makes sure that the sweep's data is there, as far as it can be made here; a mistake in the sweep comes first.

    Args:
        own: the user's images, in class folders, or a packed dataset of theirs.

    Returns:
        Overrides that point the sweep to the data.

    Raises:
        InputError: a mistake in the sweep, or the folder holds no usable images.
    """
    sweep = load_sweep(sweep_file, list(overrides))
    if own is None:
        provide_embedded((run.config for run in expand(sweep, classes_to_be, sweep_file)), console)
        return []
    own_classes = classes_of_own(own)
    patches_px = [run.config.data.patch_px for run in expand(sweep, lambda _: own_classes, sweep_file)]
    name = safe_name(f"{sweep.name}-{own.resolve().name}")
    changes = {"data": str(pack_own(own, console, max(TILE_PX, *patches_px))), "name": name}
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items()]


def classes_to_be(path: str) -> list[str]:
    """The classes of a dataset that is there, or will be once it is drawn.

    Raises:
        DataError: there is none at `path`.
    """
    from harness.data.shards import Dataset
    from harness.data.synth import CLASSES

    return list(CLASSES) if _is_to_be_drawn(path) else list(Dataset.open(path).classes)


def classes_of_own(folder: Path) -> list[str]:
    """The classes of a folder of the user's, packed or not.

    Raises:
        InputError: it is no folder, or two of its folders would be one class.
    """
    from harness.data.packing.survey import find_files
    from harness.data.shards import Dataset

    if is_packed(folder):
        return list(Dataset.open(str(folder)).classes)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give a folder that holds a folder of images for each class.")
    return sorted({name for name, *_ in find_files([folder])})


def is_packed(folder: Path) -> bool:
    """Whether a folder is a packed dataset, finished."""
    return (folder / "dataset.json").exists()


def provide_embedded(configs: Iterable[RunConfig], console: Console) -> None:
    """Draws the embedded dataset where one of the runs trains on it and it is not there."""
    if any(_is_to_be_drawn(source.path) for config in configs for source in all_sources(config)):
        make_embedded(console)


def all_sources(config: RunConfig) -> list[SourceConfig]:
    """The training sources of every phase of a run."""
    return [source for number in range(len(config.phases)) for source in config.sources(number)]


def _is_to_be_drawn(path: str) -> bool:
    return Path(path) == EMBEDDED and not is_packed(EMBEDDED)


def make_embedded(console: Console) -> None:
    """Draws and packs the embedded dataset, unless it is there."""
    if is_packed(EMBEDDED):
        return
    from harness.data.synth import write_dataset

    images = EMBEDDED.with_name(f"{EMBEDDED.name}-images")
    with progress_bar(console, "drawing the embedded dataset") as progress:
        write_dataset(images, IMAGES_PER_CLASS, IMAGE_PX, progress=progress)
    _pack(images, EMBEDDED, console, TILE_PX, TEST_IMAGES, VAL_IMAGES)


def pack_own(folder: Path, console: Console, tile_px: int = TILE_PX) -> Path:
    """Packs a folder of the user's, once, beside the embedded dataset; returns the dataset. A packed one is as it is.

    Its name tells the size of the tiles, so that it is not taken for one that the user packs there.

    Args:
        tile_px: edge of the tiles that are trained on; no patch of the sweep may be larger.

    Raises:
        InputError: there is no usable image, or others of that name, or that have changed since, are packed there.
    """
    if is_packed(folder):
        return folder
    out = EMBEDDED.with_name(f"{safe_name(folder.resolve().name) or 'own'}-{tile_px}px")
    try:
        _pack(folder, out, console, tile_px, 0.2, 0.1)
    except InputError as error:  # in the words of a command that has another option
        raise InputError(str(error).replace("give another --out", "rename your folder of images")) from None
    return out


def _pack(images: Path, out: Path, console: Console, tile_px: int, test: float, val: float) -> None:
    from harness.data.pack import pack

    with progress_bar(console, f"packing {images}") as progress:
        summary = pack([images], out, tile_px=tile_px, test=test, val=val, progress=progress)
    for skipped in summary.skipped[:10]:
        console.print(f"skipped: {skipped.path}: {skipped.reason}", markup=False, highlight=False, soft_wrap=True)
    samples = f"{counted(summary.num_images, 'image')} as {counted(summary.num_samples, 'sample')}"
    say(console, f"{out}: {samples}; {counted(len(summary.skipped), 'file')} skipped")
