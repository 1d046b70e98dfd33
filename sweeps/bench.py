"""`make bench`: the speed figures that the documentation quotes, and the same as JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.config import load_run_config
from harness.errors import InputError
from harness.files import whole
from sweeps.config import RECIPES

PARTS = ("data", "step", "eval", "resume", "sweep")
STEP_RECIPES = ("superaugan-ffhq", "esrdgan", "esrgan", "specialized-landscapes", "srgan", "perceptual-cnn", "demo")


def run_bench(part: str, recipes: Sequence[str], out: Path | None, console: Console) -> None:
    """Measures one part or all of them, prints tables and, with `out`, writes JSON.

    Raises:
        InputError: an unknown part or recipe, or a file that cannot be written.
    """
    if part not in (*PARTS, "all"):
        raise InputError(f"bench '{part}' is unknown; choose one of {', '.join(PARTS)} or all.")
    if recipes and part not in ("step", "all"):
        raise InputError(f"bench {part}: takes no recipes, but got {', '.join(recipes)}; they are for `bench step`.")
    with whole(out) if out else nullcontext() as file:  # asked for room before minutes are spent
        if file:
            file.touch()
        results = {name: _MEASURE[name](recipes, console) for name in (PARTS if part == "all" else (part,))}
        if file:
            file.write_text(json.dumps(results, indent=1), encoding="utf-8")


def _data(recipes: Sequence[str], console: Console) -> Any:
    from harness.data import bench

    figures = bench.run()
    console.print(bench.table_of(figures))
    return [asdict(figure) for figure in figures]


def _step(recipes: Sequence[str], console: Console) -> Any:
    from harness.train import bench

    names = recipes or STEP_RECIPES
    unknown = [name for name in names if not (RECIPES / f"{name}.yaml").exists()]
    if unknown:
        raise InputError(f"recipe '{unknown[0]}' is unknown; choose from {', '.join(STEP_RECIPES)}.")
    configs = {name: load_run_config(RECIPES / f"{name}.yaml") for name in names}
    figures = bench.run(configs, say=lambda text: console.print(text, markup=False))
    console.print(bench.table_of(figures))
    console.print(bench.rates_text(figures[0]), markup=False, highlight=False)
    return bench.as_json(figures)


def _eval(recipes: Sequence[str], console: Console) -> Any:
    from evaluation import bench

    figures = bench.run(say=lambda text: console.print(text, markup=False))
    bench.print_figures(console, figures)
    return [asdict(figure) for figure in figures]


def _resume(recipes: Sequence[str], console: Console) -> Any:
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        figures = measure_resume(Path(folder))
    return _show_seconds("starting, saving, stopping (SRGAN, 128 px)", figures, console)


def _sweep(recipes: Sequence[str], console: Console) -> Any:
    from sweeps.bench_thousand import NUM_RUNS, measure_thousand

    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        figures = measure_thousand(Path(folder), lambda text: console.print(text, markup=False))
    return _show_seconds(f"a sweep of {NUM_RUNS:,} runs, {3 * NUM_RUNS:,} phases", figures, console)


def _show_seconds(title: str, figures: Sequence[tuple[str, float, float | None]], console: Console) -> Any:
    table = Table(title, "measured", "bar", title_justify="left")
    for name, value, bar in figures:
        table.add_row(name, f"{value:.3f} s", "" if bar is None else f"at most {bar:g} s")
    console.print(table)
    return [{"what": name, "seconds": value, "bar_seconds": bar} for name, value, bar in figures]


def measure_resume(folder: Path) -> list[tuple[str, float, float]]:
    """(what, seconds, bar) of starting anew, of a checkpoint, of a stop signal and of starting from a checkpoint."""
    from harness.data.pack import pack
    from harness.data.synth import write_dataset

    write_dataset(folder / "images", 6, size_px=192)
    pack([folder / "images"], folder / "data", tile_px=144, val=1, test=1)
    config = load_run_config(RECIPES / "superaugan-ffhq.yaml")
    values = json.loads(config.model_dump_json())
    values["data"]["sources"] = [{"path": str(folder / "data")}]
    values |= {"validation": {"max_images": 0}, "checkpoint": {"every": 2}, "log_every": 1}
    for phase in values["phases"]:
        phase |= {"batch_size": 2, "sources": None}
    values["phases"] = [{**values["phases"][-1], "iterations": 1000}]
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(values), encoding="utf-8")
    first_s, stop_s = _start_and_stop(recipe, folder / "run")
    again_s, stop_again_s = _start_and_stop(recipe, folder / "run")
    saves = [event for event in _events(folder / "run") if event["event"] == "checkpoint"]
    blocked = sorted(event["blocked_s"] for event in saves)
    return [
        ("process start to the end of the first step", first_s, 8.0),
        ("the same from a checkpoint", again_s, 8.0),
        ("a checkpoint holds the loop up (median)", blocked[len(blocked) // 2], 0.05),
        ("stop signal to exit, saved", max(stop_s, stop_again_s), 5.0),
    ]


def _start_and_stop(recipe: Path, out: Path) -> tuple[float, float]:
    begin = time.time()
    with open(os.devnull, "wb") as nothing:
        command = [sys.executable, "-m", "harness", "train", str(recipe), "--out", str(out)]
        process = subprocess.Popen(command, stdout=nothing)
    known = len(_events(out))
    while sum(e["event"] == "checkpoint" for e in _events(out)[known:]) < 3 and process.poll() is None:
        time.sleep(0.05)
    asked = time.time()
    process.send_signal(signal.SIGTERM)
    process.wait()
    stopped_s = time.time() - asked
    first = next(event["time"] for event in _events(out)[known:] if event["event"] == "first_step")
    return first - begin, stopped_s


def _events(out: Path) -> list[dict[str, Any]]:
    try:
        text = (out / "events.jsonl").read_text(encoding="utf-8")
    except OSError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


_MEASURE: dict[str, Callable[[Sequence[str], Console], Any]] = {
    "data": _data,
    "step": _step,
    "eval": _eval,
    "resume": _resume,
    "sweep": _sweep,
}
