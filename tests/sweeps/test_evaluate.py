"""What the report of an unfinished sweep says in its empty cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from evaluation.config import EvaluateConfig
from evaluation.scores import IMAGE_KEYS, SET_KEYS, ScoreTable
from sweeps.evaluate import Evaluation, why_unfinished, with_reasons
from sweeps.layout import SweepFolder
from sweeps.plan import Plan

SEEDS = {"name": "seed", "key": "seed", "values": [0, 1, 2]}


def table_of(scored: str, missing: dict[tuple[str, str, str], str]) -> ScoreTable:
    row: dict[str, Any] = {
        **dict.fromkeys(IMAGE_KEYS, ""),
        "model": scored,
        "condition": "c",
        "image": "i",
        "psnr": 30.0,
    }
    return ScoreTable(pd.DataFrame([row]), pd.DataFrame(columns=list(SET_KEYS)), missing, [], ["c"])


def test_empty_cells_say_how_the_training_stands(
    plan_of: Callable[..., Plan], sweep_folder: SweepFolder, write_status: Callable[..., None]
) -> None:
    plan = plan_of(SEEDS)
    done, failed, begun = plan.runs
    for key in done.phases:
        write_status(sweep_folder.runs.phase(key), state="done", step=100)
    write_status(sweep_folder.runs.phase(failed.phases[0]), state="failed", step=3, error="the loss is not finite")
    write_status(sweep_folder.runs.phase(begun.phases[0]), state="saved", step=7)

    reasons = why_unfinished(Evaluation("t", sweep_folder, plan, EvaluateConfig()))
    assert reasons.keys() == {failed.name, begun.name}
    assert "the loss is not finite" in reasons[failed.name]
    assert f"step 7 of {begun.total_steps:,}" in reasons[begun.name]

    no_weights = {(run.name, "c", "psnr"): "no weights" for run in (failed, begun)}
    table = with_reasons(table_of(done.name, {**no_weights, (done.name, "c", "fid"): "no Inception"}), reasons)
    assert table.missing[failed.name, "c", "psnr"] == reasons[failed.name]
    assert table.missing[begun.name, "c", "psnr"] == reasons[begun.name]
    assert table.missing[done.name, "c", "fid"] == "no Inception"
    assert math.isnan(table.mean(failed.name, "c", "psnr"))


def test_a_model_with_numbers_keeps_its_own_reasons(plan_of: Callable[..., Plan]) -> None:
    table = table_of("early", {("early", "c", "fid"): "no Inception"})
    assert with_reasons(table, {"early": "training saved: step 7 of 30"}).missing == table.missing
