"""The command line: the one place that joins all parts. Each command imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from harness import cli_data, cli_scores, cli_tools
from harness.cli_tools import RUNS, Overrides, Runs, SweepName
from harness.cli_usage import refuse_empty, wrong_usage
from harness.errors import EXIT_DONE, EXIT_FAILURE, EXIT_SAVED, EXIT_WRONG_INPUT, InputError, TrainingError
from harness.screen import complain, make_console, prepare_streams, say

app = typer.Typer(
    help="Train and evaluate super-resolution GANs: one sweep file in, a tested comparison out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        from harness import __version__

        sys.stdout.write(f"{__version__}\n")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """What stands before a command."""


Cluster = Annotated[str, typer.Option(help="A cluster profile's name or file; auto takes SLURM where there is one.")]


def main() -> None:
    """Runs a command; a user's mistake is one sentence on stderr and exit code 2."""
    from slurm.errors import ClusterError

    prepare_streams()
    try:
        refuse_empty(sys.argv[1:])
        code = app(prog_name="harness", standalone_mode=False)
    except (InputError, TrainingError) as error:
        _leave(f"error: {error}", error.exit_code)
    except ClusterError as error:
        _leave(f"error: {error}", EXIT_WRONG_INPUT)
    except (typer.Exit, typer.Abort, KeyboardInterrupt) as stop:
        sys.exit(getattr(stop, "exit_code", 130))
    except OSError as error:
        _leave(f"error: {error.filename or 'a file'}: {error.strerror or error}; free space or mend its rights.", 1)
    except Exception as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # the second is torch's
            _leave("error: out of memory; ask for a smaller network or image, or use a larger machine.", EXIT_FAILURE)
        if "home directory" in str(error):  # pathlib's, of a user whom the system does not know, as in some containers
            _leave("error: HOME is not set and the system knows no home of this user; set HOME.", EXIT_WRONG_INPUT)
        if not hasattr(error, "format_message"):
            raise
        _leave(wrong_usage(error), EXIT_WRONG_INPUT)
    sys.exit(code if isinstance(code, int) else EXIT_DONE)


def _leave(message: str, code: int) -> None:
    complain(message)
    sys.exit(code)


# -- runs -------------------------------------------------------------------------------------------------------------


_HOW_TRAINING_ENDED = {
    EXIT_DONE: "finished; its generator is generator.safetensors",
    EXIT_SAVED: "saved; the same command goes on from here",
}


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's file, or its name in sweeps/recipes.")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The run's folder; what it holds is continued.")] = Path("runs/run"),
) -> int:
    """Train one run here, resuming what its folder holds."""
    from harness.config import load_run_config
    from harness.show_training import shown_training
    from harness.train.stop import leaving_unstarted
    from sweeps.config import find_recipe
    from sweeps.dataset import provide_embedded

    config, console = load_run_config(find_recipe(recipe), overrides or []), make_console()
    if "RANK" not in os.environ:  # of several ranks, each would draw it
        provide_embedded([config], console)
    is_shown = os.environ.get("RANK", "0") == "0"
    with leaving_unstarted(), shown_training(console, out) if is_shown else nullcontext():
        from harness.train.job import leave, train_recipe  # takes seconds

        code = train_recipe(config, out)
    if is_shown and code in _HOW_TRAINING_ENDED:
        say(console, f"{out}: {_HOW_TRAINING_ENDED[code]}")
    if "RANK" in os.environ:
        leave(code)
    return code


@app.command()
def sweep(
    sweep_file: Annotated[str, typer.Argument(help="A sweep file, or a name in the catalog.")],
    overrides: Overrides = None,
    cluster: Cluster = "auto",
    data: Annotated[
        Path | None, typer.Option(help="Your own images instead: class folders, or a packed dataset.")
    ] = None,
    runs: Runs = RUNS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return once all is submitted (SLURM).")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also start failed phases again.")] = False,
    preflight: Annotated[bool, typer.Option(help="Check first what would fail later.")] = True,
    cancel_gone: Annotated[bool, typer.Option("--cancel-gone", help="Cancel runs that left the file.")] = False,
) -> int:
    """Plan a sweep, train what is missing, evaluate and report."""
    from sweeps.run import run_sweep

    return run_sweep(
        sweep_file,
        cluster=cluster,
        overrides=overrides or [],
        data=data,
        runs_dir=runs,
        detach=detach,
        dry_run=dry_run,
        retry_failed=retry_failed,
        check=preflight,
        cancel_gone=cancel_gone,
        console=make_console(),
    )


@app.command()
def preflight(
    sweep_file: Annotated[str, typer.Argument(help="A sweep file, or a name in the catalog.")],
    overrides: Overrides = None,
    cluster: Cluster = "auto",
    runs: Runs = RUNS,
) -> int:
    """Check what would make a sweep fail later, and nothing else."""
    from sweeps.run import preflight_sweep

    return preflight_sweep(
        sweep_file, cluster=cluster, overrides=overrides or [], runs_dir=runs, console=make_console()
    )


@app.command()
def status(
    name: SweepName = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing until nothing runs any more.")] = False,
    runs: Runs = RUNS,
) -> int:
    """Show a row for each run, and where the compute went."""
    from sweeps.follow import print_status

    return print_status(runs, name, watch=watch, console=make_console())


@app.command()
def cancel(
    name: SweepName = None,
    run: Annotated[list[str] | None, typer.Option(help="Only this run; may be given several times.")] = None,
    runs: Runs = RUNS,
) -> int:
    """Cancel a sweep: what runs is saved, what waits never starts."""
    from sweeps.control import cancel_sweep, find_sweep_folder

    return cancel_sweep(find_sweep_folder(runs, name), run or [], make_console())


@app.command()
def resume(
    name: SweepName = None,
    cluster: Cluster = "auto",
    detach: Annotated[bool, typer.Option("--detach", help="Return once all is submitted (SLURM).")] = False,
    runs: Runs = RUNS,
) -> int:
    """Start failed and timed-out phases of a sweep again.

    The stored configuration is taken, so the sweep file may be gone or edited.
    """
    from sweeps.control import find_sweep_folder
    from sweeps.run import resume_sweep

    return resume_sweep(find_sweep_folder(runs, name), cluster=cluster, detach=detach, console=make_console())


@app.command()
def logs(
    run: Annotated[str, typer.Argument(help="A run's name.")],
    name: Annotated[str | None, typer.Option("--sweep", help="Its sweep, where there are several.")] = None,
    phase: Annotated[str | None, typer.Option(help="A phase's name; the newest unless given.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on printing what is added.")] = False,
    runs: Runs = RUNS,
) -> None:
    """Print the losses and the log of a run's newest phase."""
    from sweeps.control import find_sweep_folder
    from sweeps.logs import find_logs, read_logs

    for text in read_logs(find_logs(find_sweep_folder(runs, name), run, phase), follow):
        sys.stdout.write(text)
        sys.stdout.flush()


app.registered_commands = [
    *cli_data.app.registered_commands,
    *app.registered_commands,
    *cli_scores.app.registered_commands,
    *cli_tools.app.registered_commands,
]
app.registered_groups += cli_tools.app.registered_groups
