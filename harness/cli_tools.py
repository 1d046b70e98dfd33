"""The command line's tools: upscaling, export, pretrained networks, curves, benchmarks and smoke runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.errors import EXIT_DONE, EXIT_FAILURE, InputError
from harness.screen import make_console, progress_bar, say, still_working

app = typer.Typer()

Runs = Annotated[Path, typer.Option("--runs", envvar="HARNESS_RUNS", help="Folder of all sweeps and runs.")]
SweepName = Annotated[str | None, typer.Argument(help="Name of a sweep; may be left out where there is one.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the file, as in seed=1.")
]
RUNS = Path("runs")


@app.command()
def board(
    name: SweepName = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 6006,
    runs: Runs = RUNS,
) -> int:
    """Open TensorBoard on a sweep's runs, by their readable names."""
    from sweeps.board import serve
    from sweeps.control import find_sweep_folder

    return serve(find_sweep_folder(runs, name), port, make_console())


@app.command()
def upscale(
    inputs: Annotated[list[str], typer.Argument(help="Image files, folders or quoted patterns, then the output.")],
    checkpoint: Annotated[Path | None, typer.Option(help="A run, a checkpoint, or a weights file.")] = None,
    method: Annotated[str | None, typer.Option(help="bicubic, bilinear or nearest instead of a network.")] = None,
    scale: Annotated[int | None, typer.Option(help="How many times larger; needed for a method.")] = None,
    tile: Annotated[int | None, typer.Option(help="Edge of a tile in input pixels; chosen unless given.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    samples: Annotated[int, typer.Option(help="Different outputs of each image.")] = 1,
    noise: Annotated[float, typer.Option(help="Deviation of the noise on the input, in [0, 1].")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other noise.")] = 0,
    format: Annotated[str, typer.Option(help="png, jpg, webp, tif, or same.")] = "png",
) -> int:
    """Upscale images with a network or an interpolation."""
    from harness.terminal import upscale_shown
    from harness.upscale import Options

    if len(inputs) < 2:
        raise InputError("upscale: got one path; give the images and then the output, as in `harness upscale IN OUT`.")
    options = Options(checkpoint, method, scale, tile, device, precision, samples, noise, seed, format)  # type: ignore[arg-type]
    console = make_console()
    with progress_bar(console, "upscaling") as progress:
        summary = upscale_shown(inputs[:-1], Path(inputs[-1]), options, console, progress)
    return EXIT_FAILURE if summary.failures else EXIT_DONE


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run, a checkpoint, or an exported file.")],
    format: Annotated[str, typer.Option(help="basicsr, esrgan-old, safetensors or onnx.")],
    out: Annotated[Path | None, typer.Option(help="The file; named after the run unless given.")] = None,
) -> None:
    """Write a generator as a file that other programs load."""
    from harness.export import export as export_generator

    console = make_console()
    with still_working(console, f"exporting {run}"):
        written = export_generator(run, format, out)
    say(console, str(written))


weights_app = typer.Typer(rich_markup_mode=None)
app.add_typer(weights_app, name="weights")


@weights_app.callback(invoke_without_command=True)
def weights_alone(context: typer.Context) -> None:
    """The pretrained networks: list, fetch, verify."""
    if context.invoked_subcommand is None:
        weights_list()


@weights_app.command("list")
def weights_list() -> None:
    """Show every pretrained network, and whether it is here."""
    from harness.terminal import show_weights
    from harness.weights import list_weights

    show_weights(make_console(), list_weights())


@weights_app.command("verify")
def weights_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Networks; all unless given.")] = None,
) -> int:
    """Check the files that are here against their checksums."""
    from harness.terminal import show_weights
    from harness.weights import verify

    console = make_console()
    with progress_bar(console, "verifying") as progress:
        statuses = verify(names or None, progress)
    return EXIT_DONE if show_weights(console, statuses, verified=True) else EXIT_FAILURE


@weights_app.command("fetch")
def weights_fetch(names: Annotated[list[str], typer.Argument(help="Networks, or all.")]) -> None:
    """Download networks; not inside a job, compute nodes never do."""
    from harness.weights import TABLE, fetch

    console = make_console()
    for name in TABLE if names == ["all"] else names:
        with progress_bar(console, f"fetching {name}") as progress:
            say(console, f"{name}: {fetch(name, progress=progress)}")


@app.command()
def bench(
    part: Annotated[str, typer.Argument(help="data, step, ranks, precision, eval, resume, sweep or all.")],
    recipes: Annotated[
        list[str] | None, typer.Argument(help="For step: recipes, all unless given, and changes KEY=VALUE to each.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Patches a step; what fits the device unless given.")] = None,
    steps: Annotated[int, typer.Option(help="For step: also train so many steps of each phase, for the hours.")] = 0,
    ranks: Annotated[int, typer.Option(help="For ranks: how many.")] = 2,
) -> None:
    """Measure the speed figures that the documentation quotes."""
    from sweeps.bench.command import Ask, run_bench

    changes = [word for word in recipes or () if "=" in word]
    names = [word for word in recipes or () if "=" not in word]
    run_bench(part, Ask(names, changes, batch_size, steps, ranks), json, make_console())


@app.command()
def smoke(
    recipes: Annotated[list[str] | None, typer.Argument(help="Recipes; all unless given.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("runs/smoke"),
) -> int:
    """Train the smoke variant of every recipe and print one table."""
    from sweeps.smoke import run_smoke

    return run_smoke(recipes or [], out, make_console())
