"""The data that a sweep trains on, where it can be made here: the embedded dataset, or the user's own images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.errors import InputError
from harness.screen import progress_bar
from sweeps.config import load_sweep, safe_name
from sweeps.grid import expand

EMBEDDED = Path("data/demo")
IMAGES_PER_CLASS = 120
IMAGE_PX = 256
TILE_PX = 96
TEST_IMAGES = 20
VAL_IMAGES = 4


def provide(sweep_file: str, overrides: Sequence[str], folder: Path | None, console: Console) -> list[str]:
    """Makes sure that the sweep's data is there, as far as it can be made here.

    Args:
        folder: the user's own images, in class folders; packed beside the embedded dataset.

    Returns:
        Overrides that point the sweep to the data.

    Raises:
        InputError: the folder holds no usable images.
    """
    if folder is not None:
        return [f"data={pack_own(folder, console)}", f"name={_own_name(sweep_file, overrides, folder)}"]
    if _uses_embedded(sweep_file, overrides):
        make_embedded(console)
    return []


def make_embedded(console: Console) -> None:
    """Draws and packs the embedded dataset, unless it is there."""
    if (EMBEDDED / "dataset.json").exists():
        return
    from harness.data.synth import write_dataset

    images = EMBEDDED.with_name(f"{EMBEDDED.name}-images")
    with progress_bar(console, "drawing the embedded dataset") as progress:
        write_dataset(images, IMAGES_PER_CLASS, IMAGE_PX, progress=progress)
    _pack(images, EMBEDDED, console, TEST_IMAGES, VAL_IMAGES)


def pack_own(folder: Path, console: Console) -> Path:
    """Packs a folder of the user's, once."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give a folder that holds a folder of images for each class.")
    out = EMBEDDED.with_name(safe_name(folder.resolve().name) or "own")
    _pack(folder, out, console, 0.2, 0.1)
    return out


def _pack(images: Path, out: Path, console: Console, test: float, val: float) -> None:
    from harness.data.pack import pack

    with progress_bar(console, f"packing {images}") as progress:
        summary = pack([images], out, tile_px=TILE_PX, test=test, val=val, progress=progress)
    for skipped in summary.skipped[:10]:
        console.print(f"skipped: {skipped.path}: {skipped.reason}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{out}: {summary.num_images} images as {summary.num_samples} samples; {len(summary.skipped)} files skipped",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _own_name(sweep_file: str, overrides: Sequence[str], folder: Path) -> str:
    sweep = load_sweep(sweep_file, list(overrides))
    return safe_name(f"{sweep.name}-{folder.resolve().name}")


def _uses_embedded(sweep_file: str, overrides: Sequence[str]) -> bool:
    sweep = load_sweep(sweep_file, list(overrides))
    runs = expand(sweep, lambda _: ["general"], sweep_file)
    return any(
        Path(source.path) == EMBEDDED
        for run in runs
        for number in range(len(run.config.phases))
        for source in run.config.sources(number)
    )
