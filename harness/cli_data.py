"""The command line's data: drawing, packing, indexing, inspecting and degrading images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.data.config import Kernel
from harness.errors import EXIT_DONE, EXIT_WRONG_INPUT
from harness.screen import counted, make_console, progress_bar, say

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer()


@app.command()
def synth(
    out: Annotated[Path, typer.Option(help="Folder for the class folders.")],
    images_per_class: Annotated[int, typer.Option(help="Images drawn for each class.")] = 200,
    size: Annotated[int, typer.Option(help="Edge of the images in pixels.")] = 384,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other images.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; all cores unless given.")] = None,
) -> None:
    """Draw the embedded dataset: landscapes in classes, as PNGs."""
    from harness.data.synth import write_dataset

    console = make_console()
    with progress_bar(console, "drawing") as progress:
        drawn = write_dataset(out, images_per_class, size, seed, workers, progress)
    say(console, f"{out}: {counted(drawn, 'image')} drawn")


@app.command()
def pack(
    sources: Annotated[list[Path], typer.Argument(help="Folders of images, or of class folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the shards and their sidecar.")],
    codec: Annotated[str, typer.Option(help="npy (raw, fastest) or png (smaller).")] = "npy",
    tile: Annotated[int, typer.Option(help="Edge of the training tiles in pixels; 0 keeps whole images.")] = 192,
    workers: Annotated[int | None, typer.Option(help="Processes; all cores unless given.")] = None,
    shard_mb: Annotated[int, typer.Option(help="Size of a shard in MB.")] = 256,
    val: Annotated[float, typer.Option(help="Validation images a class: a share below 1, or a count.")] = 0.05,
    test: Annotated[float, typer.Option(help="Test images a class: a share below 1, or a count.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Another seed splits otherwise.")] = 0,
) -> None:
    """Pack images into shards with a sidecar."""
    from harness.data.pack import pack as pack_images

    console = make_console()
    with progress_bar(console, "packing") as progress:
        summary = pack_images(
            sources,
            out,
            codec=codec,  # type: ignore[arg-type]
            tile_px=tile,
            workers=workers,
            shard_mb=shard_mb,
            val=val,
            test=test,
            seed=seed,
            progress=progress,
        )
    _say_skipped(console, summary.skipped)
    samples = f"{counted(summary.num_images, 'image')} as {counted(summary.num_samples, 'sample')}"
    shards, skipped = counted(summary.num_shards, "shard"), counted(len(summary.skipped), "file")
    say(console, f"{summary.path}: {samples} in {shards}, {skipped} skipped")


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="Folder of WebDataset shards that others wrote.")],
    val: Annotated[float, typer.Option(help="Validation images a class: a share below 1, or a count.")] = 0.05,
    test: Annotated[float, typer.Option(help="Test images a class: a share below 1, or a count.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Another seed splits otherwise.")] = 0,
) -> None:
    """Write the sidecar for WebDataset shards that others wrote."""
    from harness.data.index import index as index_shards

    console = make_console()
    with progress_bar(console, "indexing") as progress:
        found = index_shards(folder, val=val, test=test, seed=seed, progress=progress)
    _say_skipped(console, found.skipped)
    shards = f"{counted(found.num_samples, 'sample')} in {counted(found.num_shards, 'shard')}"
    say(console, f"{folder}: {shards}, {len(found.skipped)} skipped")


@app.command()
def inspect(
    dataset: Annotated[str, typer.Argument(help="A packed dataset: a folder or an fsspec URL.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read, check and decode every sample.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with random samples of each class.")] = None,
) -> int:
    """Show what a packed dataset holds, and whether it is sound."""
    from harness.data.contact_sheet import write_contact_sheet
    from harness.data.inspect import inspect as inspect_dataset
    from harness.data.inspect import print_summary

    console = make_console()
    with progress_bar(console, "verifying") as progress:
        summary = inspect_dataset(dataset, verify, progress)
    print_summary(console, summary)
    if html is not None:
        say(console, f"samples: {write_contact_sheet(dataset, html)}")
    return EXIT_WRONG_INPUT if summary.problems else EXIT_DONE


@app.command()
def degrade(
    hr_dir: Annotated[Path, typer.Argument(help="Folder of HR images.")],
    out_dir: Annotated[Path, typer.Argument(help="Folder for the LR images.")],
    scale: Annotated[int, typer.Option(help="How many times smaller.")] = 4,
    kernel: Annotated[Kernel, typer.Option(help="How LR images are made.")] = "matlab-bicubic",
) -> None:
    """Write the LR images that training would see."""
    from harness.data.folders import degrade_folder

    console = make_console()
    with progress_bar(console, "degrading") as progress:
        summary = degrade_folder(hr_dir, out_dir, scale, kernel, progress)
    _say_skipped(console, summary.skipped)
    say(console, f"{out_dir}: {counted(summary.num_images, 'image')}")


def _say_skipped(console: Console, skipped: Sequence[Any]) -> None:
    for file in skipped[:10]:
        say(console, f"skipped: {file.path}: {file.reason}")
    if len(skipped) > 10:
        say(console, f"... {len(skipped)} files skipped in all")
