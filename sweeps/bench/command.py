"""`make bench`: the speed figures that the documentation quotes, and the same as JSON."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.config import RunConfig, load_run_config
from harness.errors import InputError
from harness.files import whole
from sweeps.config import RECIPES

PARTS = ("data", "step", "ranks", "precision", "eval", "resume", "sweep")
_WITH_RECIPES = ("step", "ranks", "all")
STEP_RECIPES = ("superaugan-ffhq", "esrdgan", "esrgan", "specialized-landscapes", "srgan", "perceptual-cnn", "demo")


@dataclass(frozen=True)
class Ask:
    """What a measurement is asked for; each part takes what concerns it."""

    recipes: Sequence[str] = ()
    changes: Sequence[str] = ()
    """KEY=VALUE, to every recipe."""
    batch_size: int | None = None
    """Patches a step (of a rank); unless given what the device can bear."""
    steps: int = 0
    """For `step`: real runs of so many steps of each phase too; for `precision`: instead of the recipe's."""
    ranks: int = 2


def run_bench(part: str, ask: Ask, out: Path | None, console: Console) -> None:
    """Measures one part or all of them, prints tables and, with `out`, writes JSON.

    Raises:
        InputError: an unknown part or recipe, or a file that cannot be written.
    """
    if part not in (*PARTS, "all"):
        raise InputError(f"bench '{part}' is unknown; choose one of {', '.join(PARTS)} or all.")
    words = [*ask.recipes, *ask.changes]
    if words and part not in _WITH_RECIPES:
        raise InputError(f"bench {part}: takes no recipes, but got {', '.join(words)}; they are for `bench step`.")
    with whole(out) if out else nullcontext() as file:  # asked for room before minutes are spent
        if file:
            file.touch()
        results = {name: _MEASURE[name](ask, console) for name in (PARTS if part == "all" else (part,))}
        if file:
            file.write_text(json.dumps(results, indent=1), encoding="utf-8")


def _data(ask: Ask, console: Console) -> Any:
    from harness.bench import data as bench
    from harness.bench import data_figures

    figures = bench.run()
    console.print(data_figures.table_of(figures))
    return [asdict(figure) for figure in figures]


def _step(ask: Ask, console: Console) -> Any:
    from harness.bench import kernels, step_table
    from harness.bench import step as bench
    from harness.train.fast.fuse import keep_compiled

    configs = _configs(ask.recipes or STEP_RECIPES, ask.changes)
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        keep_compiled(Path(folder))  # so that the real runs find what the measured steps had compiled
        figures = bench.run(configs, ask.batch_size, say=lambda text: console.print(text, markup=False))
        console.print(step_table.table_of(figures))
        console.print(step_table.rates_text(figures[0]), markup=False, highlight=False)
        for f in figures:
            if f.work.kernels:
                console.print(kernels.table_of(f"{f.recipe}, {f.phase}: what the GPU does", f.work.kernels))
        runs = _runs(configs, ask, console) if ask.steps else []
    return {"steps": step_table.as_json(figures), "runs": runs}


def _runs(configs: dict[str, RunConfig], ask: Ask, console: Console) -> Any:
    """Short real runs, from which the hours of whole ones follow."""
    from harness.bench.runs import measure_runs

    titles = ("recipe", "phase", "batch", "steps", "ms a step", "s once", "iterations", "hours")
    table = Table(*titles, title="Real runs")
    figures = []
    for name, config in configs.items():
        with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
            found = measure_runs(name, config, ask.steps, Path(folder), ask.batch_size)
        for f in found:
            pace = (f"{f.step_s * 1e3:.2f}", f"{f.once_s:.1f}")
            whole = (f"{f.iterations:,}", f"{f.hours:,.1f}")
            table.add_row(f.recipe, f.phase, str(f.batch_size), str(f.steps), *pace, *whole)
        total = sum(f.hours for f in found)
        table.add_row(name, "all", "", "", "", "", f"{sum(f.iterations for f in found):,}", f"{total:,.1f}")
        figures += [{**asdict(f), "hours": f.hours} for f in found]
    console.print(table)
    return figures


def _ranks(ask: Ask, console: Console) -> Any:
    from harness.bench.ranks import measure_ranks

    table = Table(
        *("recipe", "phase", "ranks", "batch a rank", "one /s", "all /s", "of linear", "work", "agreeing", "start s"),
        title="Ranks",
    )
    figures = []
    for name, config in _configs(ask.recipes or ("superaugan-ffhq",), ask.changes).items():
        with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
            f = measure_ranks(name, config, Path(folder), ask.ranks, ask.batch_size or 4)
        numbers = (f.num_ranks, f.rank_batch, f"{f.one_patches_s:.2f}", f"{f.all_patches_s:.2f}")
        shares = (f"{f.efficiency:.0%}", f"{f.work_efficiency:.0%}", f"{f.agreement_share:.3%}")
        table.add_row(f.recipe, f.phase, *map(str, numbers), *shares, f"{f.start_s:.1f}")
        figures.append({**asdict(f), "efficiency": f.efficiency, "agreement_share": f.agreement_share})
    console.print(table)
    return figures


def _precision(ask: Ask, console: Console) -> Any:
    from harness.bench.runs import measure_precision
    from sweeps.dataset import make_embedded

    make_embedded(console)
    config = load_run_config(RECIPES / "demo.yaml")
    source = str(Path(config.data.sources[0].path).resolve())
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        steps = ask.steps or config.phases[0].iterations
        found = measure_precision(
            config, source, steps, Path(folder), lambda text: console.print(text, markup=False, highlight=False)
        )
    console.print(f"bf16 is {found['bf16'] - found['fp32']:+.3f} dB from fp32 (bar: within 0.05)", highlight=False)
    return {"psnr": found, "steps": steps}


def _configs(names: Sequence[str], changes: Sequence[str]) -> dict[str, RunConfig]:
    unknown = [name for name in names if not (RECIPES / f"{name}.yaml").exists()]
    if unknown:
        raise InputError(f"recipe '{unknown[0]}' is unknown; choose from {', '.join(STEP_RECIPES)}.")
    return {name: load_run_config(RECIPES / f"{name}.yaml", list(changes)) for name in names}


def _eval(ask: Ask, console: Console) -> Any:
    from evaluation.bench import speed as bench

    figures = bench.run(say=lambda text: console.print(text, markup=False))
    bench.print_figures(console, figures)
    return [asdict(figure) for figure in figures]


def _resume(ask: Ask, console: Console) -> Any:
    from sweeps.bench.resume import measure_resume

    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        figures = measure_resume(Path(folder))
    return _show_seconds("starting, saving, stopping (SRGAN, 128 px)", figures, console)


def _sweep(ask: Ask, console: Console) -> Any:
    from sweeps.bench.thousand import NUM_RUNS, measure_thousand

    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        figures = measure_thousand(Path(folder), lambda text: console.print(text, markup=False))
    return _show_seconds(f"a sweep of {NUM_RUNS:,} runs, {3 * NUM_RUNS:,} phases", figures, console)


def _show_seconds(title: str, figures: Sequence[tuple[str, float, float | None]], console: Console) -> Any:
    table = Table(title, "measured", "bar", title_justify="left")
    for name, value, bar in figures:
        table.add_row(name, f"{value:.3f} s", "" if bar is None else f"at most {bar:g} s")
    console.print(table)
    return [{"what": name, "seconds": value, "bar_seconds": bar} for name, value, bar in figures]


_MEASURE: dict[str, Callable[[Ask, Console], Any]] = {
    "data": _data,
    "step": _step,
    "ranks": _ranks,
    "precision": _precision,
    "eval": _eval,
    "resume": _resume,
    "sweep": _sweep,
}
