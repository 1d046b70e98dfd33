"""What the report of an unfinished sweep says in its empty cells."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from evaluation.config import EvaluateConfig
from evaluation.model import Model
from evaluation.report import write as report
from evaluation.scores import stale as stale_cells
from evaluation.scores.table import IMAGE_KEYS, SET_KEYS, ScoreTable
from harness.errors import EXIT_DONE, EXIT_WRONG_INPUT
from sweeps.config import SweepConfig
from sweeps.evaluate import (
    Evaluation,
    evaluation_config,
    main,
    print_matrices,
    show_results,
    why_unfinished,
    with_reasons,
)
from sweeps.layout import SweepFolder
from sweeps.plan import Plan, plan_json, read_plan

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


def test_numbers_of_data_that_has_changed_are_not_shown_after_a_sweep(
    plan_of: Callable[..., Plan], sweep_folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = Evaluation("t", sweep_folder, plan_of(), EvaluateConfig(metrics=("psnr",)))
    replace(table_of("early", {}), models=[Model("early", "checkpoint", "x")]).save(sweep_folder.report)
    (sweep_folder.report / "report.html").touch()

    def shown(missing: dict[tuple[str, str, str], str]) -> str:
        monkeypatch.setattr(stale_cells, "mark_stale", lambda table, *rest: replace(table, missing=missing))
        console = Console(file=io.StringIO(), width=120)
        assert show_results(evaluation, console)
        return str(console.file.getvalue())  # type: ignore[attr-defined]

    assert "30.00" in shown({})
    stale = shown({("early", "c", "psnr"): "stale: the dataset was edited"})
    assert "30.00" not in stale and "stale: the dataset was edited" in stale


def test_report_tells_that_runs_were_trained_by_several_versions_of_the_code(
    plan_of: Callable[..., Plan],
    sweep_folder: SweepFolder,
    write_status: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, tables = plan_of(), []
    for number, key in enumerate(plan.phases):
        write_status(sweep_folder.runs.phase(key), state="done", trained_by=[f"harness {number}"])
    monkeypatch.setattr(report, "write_report", lambda title, table, *rest: tables.append(table))
    Evaluation("t", sweep_folder, plan, EvaluateConfig()).write_report(replace(table_of("m", {}), notes=["a note"]))
    before, told = tables[0].notes
    assert before == "a note" and told.startswith("trained by 2 versions of the code") and "harness 1" in told


def test_of_the_ranks_of_the_gathering_job_the_first_alone_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(str(tmp_path / "nothing")) == EXIT_DONE
    monkeypatch.setenv("RANK", "0")
    assert main(str(tmp_path / "nothing")) == EXIT_WRONG_INPUT and "no such sweep here" in capsys.readouterr().err


def test_a_measure_without_any_number_is_one_sentence_in_the_terminal_instead_of_a_table_of_dashes() -> None:
    reason = "no Inception; run `harness weights fetch inception-fid`"
    table = table_of("m", {("m", "c", "fid"): reason, ("m", "c", "kid"): reason})
    table = replace(table, models=[Model("m", "checkpoint", "x")], notes=[f"FID, KID: {reason}", "m: step 3 is used"])
    sets = pd.DataFrame([["m", "c", "diversity", 1.5, math.nan, 1, ""]], columns=list(SET_KEYS))
    console = Console(file=io.StringIO(), width=120)
    print_matrices(console, replace(table, sets=sets), EvaluateConfig())
    text = str(console.file.getvalue())  # type: ignore[attr-defined]
    assert "PSNR by class" in text and "Diversity by class" in text
    assert "FID by class" not in text and "KID by class" not in text
    assert f"note: FID, KID: no numbers. {reason}\n" in text and text.count(reason) == 1
    assert "note: m: step 3 is used\n" in text


def test_evaluation_reads_the_data_where_it_lay_when_the_sweep_was_last_planned(
    plan_of: Callable[..., Plan], sweep_of: Callable[..., SweepConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.json").write_text(plan_json(plan_of()))
    monkeypatch.chdir("/")
    plan = read_plan(tmp_path / "plan.json")
    assert evaluation_config(sweep_of(), plan).dataset == str(tmp_path / "data" / "photos")
    assert evaluation_config(sweep_of(evaluate={"dataset": "/data/div2k-valid"}), plan).dataset == "/data/div2k-valid"
