"""The command line: the one place that joins all parts. Each command imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from harness.errors import EXIT_DONE, EXIT_FAILURE, EXIT_WRONG_INPUT, InputError, TrainingError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Train and evaluate super-resolution GANs: one sweep file in, a tested comparison out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Runs = Annotated[Path, typer.Option("--runs", envvar="HARNESS_RUNS", help="Folder of all sweeps and runs.")]
Cluster = Annotated[str, typer.Option(help="A cluster profile's name or file; auto takes SLURM where there is one.")]
SweepName = Annotated[Optional[str], typer.Argument(help="Name of a sweep; may be left out where there is one.")]
Overrides = Annotated[Optional[list[str]], typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the file.")]
RUNS = Path("runs")


def main() -> None:
    """Runs a command; a user's mistake is one sentence on stderr and exit code 2."""
    from slurm.errors import ClusterError

    try:
        code = app(standalone_mode=False)
    except (InputError, ClusterError) as error:
        _leave(f"error: {error}", EXIT_WRONG_INPUT)
    except TrainingError as error:
        _leave(f"error: {error}", EXIT_FAILURE)
    except (typer.Exit, typer.Abort, KeyboardInterrupt) as stop:
        sys.exit(getattr(stop, "exit_code", 130))
    except OSError as error:
        _leave(f"error: {error.filename or 'a file'}: {error.strerror or error}; free space or mend its rights.", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _leave(f"error: {error.format_message()} Try --help.", EXIT_WRONG_INPUT)
    sys.exit(code if isinstance(code, int) else EXIT_DONE)


def _leave(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)


# -- data -------------------------------------------------------------------------------------------------------------


@app.command()
def synth(
    out: Annotated[Path, typer.Option(help="Folder for the class folders.")],
    images_per_class: Annotated[int, typer.Option(help="Images drawn for each class.")] = 200,
    size: Annotated[int, typer.Option(help="Edge of the images in pixels.")] = 384,
    seed: Annotated[int, typer.Option(help="Another seed draws other images.")] = 0,
    workers: Annotated[Optional[int], typer.Option(help="Processes; all cores unless given.")] = None,
) -> None:
    """Draw the embedded dataset: procedural landscapes in classes, as PNG folders."""
    from harness.data.synth import write_dataset

    console = _console()
    with _progress(console, "drawing") as progress:
        drawn = write_dataset(out, images_per_class, size, seed, workers, progress)
    console.print(f"{out}: {drawn} images drawn", markup=False, highlight=False)


@app.command()
def pack(
    sources: Annotated[list[Path], typer.Argument(help="Folders of images, or of class folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the shards and their sidecar.")],
    codec: Annotated[str, typer.Option(help="npy (raw, fastest) or png (smaller).")] = "npy",
    tile: Annotated[int, typer.Option(help="Edge of the training tiles in pixels; 0 keeps whole images.")] = 192,
    workers: Annotated[Optional[int], typer.Option(help="Processes; all cores unless given.")] = None,
    shard_mb: Annotated[int, typer.Option(help="Size of a shard in MB.")] = 256,
    val: Annotated[float, typer.Option(help="Validation images a class: a share below 1, or a count.")] = 0.05,
    test: Annotated[float, typer.Option(help="Test images a class: a share below 1, or a count.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Another seed splits otherwise.")] = 0,
) -> None:
    """Pack images into shards with a sidecar."""
    from harness.data.pack import pack as pack_images

    console = _console()
    with _progress(console, "packing") as progress:
        summary = pack_images(
            sources,
            out,
            codec=codec,  # type: ignore[arg-type]
            tile_px=tile,
            workers=workers,
            shard_mb=shard_mb,
            val=_count_or_share(val),
            test=_count_or_share(test),
            seed=seed,
            progress=progress,
        )
    _tell_packed(summary, console)


@app.command()
def degrade(
    hr_dir: Annotated[Path, typer.Argument(help="Folder of HR images.")],
    out_dir: Annotated[Path, typer.Argument(help="Folder for the LR images.")],
    scale: Annotated[int, typer.Option(help="How many times smaller.")] = 4,
    kernel: Annotated[str, typer.Option(help="matlab-bicubic, pil-bicubic, cv2-cubic, bilinear, area or nearest.")] = (
        "matlab-bicubic"
    ),
) -> None:
    """Write the LR images that training would see."""
    from harness.data.folders import degrade_folder

    console = _console()
    with _progress(console, "degrading") as progress:
        count = degrade_folder(hr_dir, out_dir, scale, kernel, progress)
    console.print(f"{out_dir}: {count} images", markup=False, highlight=False)


# -- runs -------------------------------------------------------------------------------------------------------------


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A run's configuration.")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The run's folder; what it holds is continued.")] = Path("runs/run"),
) -> int:
    """Train one run here, resuming what its folder holds."""
    from harness.config import load_run_config
    from harness.train.job import train_recipe

    return train_recipe(load_run_config(recipe, overrides or []), out)


@app.command()
def sweep(
    sweep_file: Annotated[str, typer.Argument(help="A sweep file, or a name in the catalog.")],
    overrides: Overrides = None,
    cluster: Cluster = "auto",
    data: Annotated[Optional[Path], typer.Option(help="Your own images instead: a folder of class folders.")] = None,
    runs: Runs = RUNS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return once all is submitted (SLURM).")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also start failed phases again.")] = False,
    preflight: Annotated[bool, typer.Option(help="Check first what would fail later.")] = True,
    cancel_gone: Annotated[bool, typer.Option("--cancel-gone", help="Cancel runs that left the file.")] = False,
) -> int:
    """Plan a sweep, train what is missing, evaluate and report."""
    from sweeps.dataset import provide
    from sweeps.run import run_sweep

    console = _console()
    changes = [*(overrides or []), *provide(sweep_file, overrides or [], data, console)]
    return run_sweep(
        sweep_file,
        cluster=cluster,
        overrides=changes,
        runs_dir=runs,
        detach=detach,
        dry_run=dry_run,
        retry_failed=retry_failed,
        check=preflight,
        cancel_gone=cancel_gone,
        console=console,
    )


# -- evaluation -------------------------------------------------------------------------------------------------------


@app.command()
def score(
    sr: Annotated[Path, typer.Option(help="Folder of the images to score.")],
    hr: Annotated[Path, typer.Option(help="Folder of the true images, of the same names.")],
    json: Annotated[Optional[Path], typer.Option(help="Write the scores to this file.")] = None,
    color: Annotated[str, typer.Option(help="y or rgb.")] = "y",
    crop_border: Annotated[int, typer.Option(help="Pixels cropped from each border.")] = 0,
    metrics: Annotated[str, typer.Option(help="Comma-separated names.")] = "psnr,ssim",
) -> None:
    """Score any system's output images."""
    from evaluation.score_folder import print_scores, score_folders, write_json

    console = _console()
    with _progress(console, "scoring") as progress:
        names = tuple(name.strip() for name in metrics.split(",") if name.strip())
        result = score_folders(sr, hr, color, crop_border, names, progress)
    print_scores(console, result)
    if json is not None:
        write_json(result, json)


# -- what the commands share --------------------------------------------------------------------------------------------


def _console() -> Console:
    from rich.console import Console

    # A log file has no width: do not wrap sentences there.
    return Console() if sys.stdout.isatty() else Console(width=int(os.environ.get("COLUMNS", "120")))


@contextmanager
def _progress(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    from sweeps.evaluate import progress_bar

    with progress_bar(console, title) as progress:
        yield progress


def _count_or_share(value: float) -> int | float:
    return int(value) if value >= 1 and value == int(value) else value


def _tell_packed(summary, console: Console) -> None:  # type: ignore[no-untyped-def]
    for skipped in summary.skipped[:10]:
        console.print(f"skipped: {skipped.path}: {skipped.reason}", markup=False, highlight=False, soft_wrap=True)
    more = f", {len(summary.skipped)} files skipped" if summary.skipped else ""
    console.print(
        f"{summary.path}: {summary.num_images} images as {summary.num_samples} samples in {summary.num_shards} shards"
        f"{more}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
