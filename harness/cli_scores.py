"""The command line's scores: evaluating, reporting, comparing, and scoring folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli_tools import RUNS, Overrides, Runs, SweepName
from harness.errors import EXIT_DONE, EXIT_FAILURE
from harness.screen import complain, make_console, progress_bar

app = typer.Typer()

USUAL_METRICS = ["psnr", "ssim"]


@app.command()
def evaluate(
    name: SweepName = None,
    overrides: Overrides = None,
    cluster: Annotated[str, typer.Option(help="A cluster profile; a SLURM one shares the work out to jobs.")] = "local",
    runs: Runs = RUNS,
) -> None:
    """Score what is missing of a sweep and write its report.

    Takes the sweep's name, or its file, whose evaluation may have been edited.
    """
    from sweeps.evaluate import evaluate_here, find_evaluation

    evaluate_here(find_evaluation(name, overrides or [], runs), make_console(), cluster=cluster)


@app.command()
def report(
    name: SweepName = None,
    overrides: Overrides = None,
    runs: Runs = RUNS,
) -> None:
    """Write the report anew from what has been scored."""
    from sweeps.evaluate import find_evaluation, report_here

    report_here(find_evaluation(name, overrides or [], runs), make_console())


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="A model of the sweep.")],
    second: Annotated[str, typer.Argument(help="Another one, or a baseline.")],
    metric: Annotated[str, typer.Option(help="A measure that was evaluated.")] = "psnr",
    name: Annotated[str | None, typer.Option("--sweep", help="Their sweep, where there are several.")] = None,
    runs: Runs = RUNS,
) -> None:
    """Test class by class whether one model beats another.

    By a paired sign-flip test over images, corrected for the number of comparisons.
    """
    from sweeps.compare import compare_here
    from sweeps.evaluate import find_evaluation

    compare_here(find_evaluation(name, [], runs), first, second, metric, make_console())


@app.command()
def score(
    sr: Annotated[Path, typer.Option(help="Folder of the images to score.")],
    hr: Annotated[Path, typer.Option(help="Folder of the true images, of the same names.")],
    json: Annotated[Path | None, typer.Option(help="Write the scores to this file.")] = None,
    color: Annotated[str, typer.Option(help="y or rgb.")] = "y",
    crop_border: Annotated[int, typer.Option(help="Pixels cropped from each border.")] = 0,
    metrics: Annotated[
        list[str],
        typer.Option(
            help="Some of mse, psnr, ssim, lpips-alex, lpips-vgg, lpips-squeeze, color-shift, fid, kid, kid-paired, "
            "with commas between, or given several times."
        ),
    ] = USUAL_METRICS,
) -> int:
    """Score any system's output images.

    Exit code 1 where nothing could be measured.
    """
    from evaluation.scores.score_folder import is_anything_measured, print_scores, score_folders, write_json

    console = make_console()
    with progress_bar(console, "scoring") as progress:
        names = tuple(name.strip() for name in ",".join(metrics).split(",") if name.strip())
        result = score_folders(sr, hr, color, crop_border, names, progress)
    print_scores(console, result)  # first: a file that cannot be written takes no scores with it
    if json is not None:
        write_json(result, json)
    if not is_anything_measured(result):
        complain("error: nothing could be measured, for the reasons above; give other images or --metrics.")
        return EXIT_FAILURE
    return EXIT_DONE
