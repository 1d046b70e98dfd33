"""`make smoke`: trains the smoke variant of every recipe and shows what came of it in one table."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from harness.alone import alone_in
from harness.config import RunConfig, load_run_config
from harness.errors import EXIT_DONE, EXIT_FAILURE, InputError
from harness.show_training import shown_training
from sweeps.config import RECIPES
from sweeps.dataset import make_embedded

_SUFFIX = "-smoke"


@dataclass(frozen=True)
class SmokeResult:
    """What a smoke run did; PSNR (dB, Y) is the mean over the run's validation images."""

    recipe: str
    num_parameters: int
    iterations: int
    seconds: float
    exit_code: int
    bicubic_psnr: float
    psnr_before: float
    psnr_after: float


def run_smoke(names: Sequence[str], out: Path, console: Console) -> int:
    """Trains the smoke variants called `names` (all without any), one after another; 1 where one failed.

    Raises:
        InputError: a name without a smoke variant, or another process trains them in `out`; nothing is trained then.
    """
    for name in names:
        recipe_path(name)
    out.mkdir(parents=True, exist_ok=True)
    with alone_in(out):
        make_embedded(console)
        results = [_told(name, out, console) for name in names or known()]
    console.print(table_of(results))
    return EXIT_DONE if all(result.exit_code == EXIT_DONE for result in results) else EXIT_FAILURE


def _told(name: str, out: Path, console: Console) -> SmokeResult:
    console.print(f"{name} ...", markup=False, highlight=False)
    with shown_training(console, out / name):
        result = train_smoke(name, out / name)
    console.print(f"{name}: {_in_words(result)}", markup=False, highlight=False)
    return result


def _in_words(result: SmokeResult) -> str:
    if result.exit_code != EXIT_DONE:
        return f"left with exit code {result.exit_code} after {result.seconds:.0f} s"
    return f"{result.psnr_after:.2f} dB (bicubic {result.bicubic_psnr:.2f}) after {result.seconds:.0f} s"


def known() -> list[str]:
    """The recipes that have a smoke variant."""
    return sorted(path.stem.removesuffix(_SUFFIX) for path in RECIPES.glob(f"*{_SUFFIX}.yaml"))


def recipe_path(name: str) -> Path:
    """Raises InputError where the recipe has no smoke variant."""
    if name not in known():
        raise InputError(f"recipe '{name}' has no smoke variant; choose one of {', '.join(known())}.")
    return RECIPES / f"{name}{_SUFFIX}.yaml"


def train_smoke(name: str, out: Path) -> SmokeResult:
    """Trains one variant in a process of its own, from its beginning."""
    recipe = recipe_path(name)
    config = load_run_config(recipe)
    _forget(out)
    begin = time.monotonic()
    log = out.with_name(f"{out.name}.log")
    with log.open("wb") as output:
        command = [sys.executable, "-m", "harness", "train", str(recipe), "--out", str(out)]
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    seconds = time.monotonic() - begin
    before, bicubic, parameters = _at_start(config, out)
    return SmokeResult(name, parameters, config.total_steps, seconds, code, bicubic, before, _last_psnr(out))


def table_of(results: Sequence[SmokeResult]) -> Table:
    """A row a recipe."""
    table = Table(title="Smoke runs: PSNR on validation images", title_justify="left")
    table.add_column("recipe")
    for title in ("parameters", "iterations", "seconds", "bicubic", "before", "after", "exit code"):
        table.add_column(title, justify="right")
    for r in results:
        figures = (f"{r.bicubic_psnr:.2f}", f"{r.psnr_before:.2f}", f"{r.psnr_after:.2f}")
        table.add_row(
            r.recipe, f"{r.num_parameters:,}", str(r.iterations), f"{r.seconds:.0f}", *figures, str(r.exit_code)
        )
    return table


def _forget(out: Path) -> None:
    import shutil

    shutil.rmtree(out, ignore_errors=True)


def _at_start(config: RunConfig, out: Path) -> tuple[float, float, int]:
    """PSNR before training and of bicubic, and the generator's number of parameters."""
    from harness.data.degrade import upscale_image
    from harness.models.build import num_parameters
    from harness.train.nets import Nets
    from harness.train.ranks import Ranks
    from harness.train.validate import Validation

    ranks = Ranks(config.model_copy(update={"trackers": ()}), str(out))
    try:
        nets = Nets(config, ranks)
        validation = Validation(config, config.sources(0), nets, ranks)
        bicubic = [validation.psnr(upscale_image(p.lr_image, config.scale), p) for p in validation.pairs]
        before = validation.run(None).get("val/psnr", float("nan"))
        return before, float(np.mean(bicubic)), num_parameters(nets.generator)
    finally:
        ranks.close()


def _last_psnr(out: Path) -> float:
    """The last validation's PSNR; not a number where there was none."""
    try:
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return float("nan")
    return next((row["val/psnr"] for row in reversed(rows) if "val/psnr" in row), float("nan"))
