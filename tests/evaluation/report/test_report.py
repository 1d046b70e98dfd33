"""The whole report: files, sections, reasons, and refusals."""

from __future__ import annotations

import re
from importlib import metadata

import pandas as pd
import pytest

import harness
from evaluation.config import EvaluateConfig
from evaluation.metrics import METRICS
from evaluation.model import Model
from evaluation.report.compare import compare, specialisation_questions
from evaluation.report.facts_grids import ledger_grid, models_grid, runs_grid, show_hours
from evaluation.report.matrix import conditions_of
from evaluation.report.picture_source import PictureSource
from evaluation.report.write import RunRecord, write_report
from evaluation.scores.table import IMAGE_KEYS, SET_KEYS, ScoreTable
from harness.errors import InputError

CLASSES = ["beach", "mountain", "general"]


@pytest.fixture
def pictures(table, drawn_images):
    return PictureSource(table, EvaluateConfig(), drawn_images(CLASSES), 4)


def text_of(path) -> str:
    return path.read_text(encoding="utf-8")


def test_report_writes_every_file_and_nothing_half_written(table, tmp_path, pictures):
    path = write_report("demo", table, EvaluateConfig(), [], tmp_path / "report", None, (), pictures)
    names = {file.name for file in (tmp_path / "report").iterdir()}
    matrices = {f"matrix_{m}.{kind}" for m in ("mse", "psnr", "ssim") for kind in ("csv", "md", "tex", "png")}
    comparisons = {f"compare_{m}.csv" for m in ("mse", "psnr", "ssim")}
    assert names == {"report.html", *matrices, *comparisons, *(f"table.{k}" for k in ("csv", "md", "tex", "png"))}
    assert path == tmp_path / "report" / "report.html"
    assert "4 models, 3 conditions, 24 images; measures: MSE, PSNR, SSIM<" in text_of(path)


def test_report_is_the_same_twice_but_for_the_time(table, tmp_path, pictures):
    pages = []
    for name in ("a", "b"):
        text = text_of(write_report("demo", table, EvaluateConfig(), [], tmp_path / name, None, (), pictures))
        pages.append(re.sub(r"Written \S+ \S+ UTC", "", text))
    assert pages[0] == pages[1]


def test_report_of_a_clone_that_is_not_installed_names_the_version_of_its_code(table, tmp_path, monkeypatch):
    def absent(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", absent)
    text = text_of(write_report("demo", table, EvaluateConfig(report={"num_strips": 0}), [], tmp_path))
    assert f"by sr-harness {harness.__version__}" in text and "<dt>sr-harness</dt><dd>not installed" not in text


def test_page_is_self_contained(table, tmp_path, pictures):
    text = text_of(write_report("demo", table, EvaluateConfig(), [], tmp_path, None, (), pictures))
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert "url(" not in text and "@import" not in text and "<script" not in text


def test_numbers_of_compare_csv_are_those_of_compare_with_the_configured_resamples_and_seed(table_maker, tmp_path):
    table = table_maker(num_images=20)
    config = EvaluateConfig(report={"num_strips": 0, "resamples": 200, "seed": 5, "matrix_metrics": ["psnr"]})
    write_report("demo", table, config, [], tmp_path)
    frame = pd.read_csv(tmp_path / "compare_psnr.csv")
    questions = specialisation_questions(table, conditions_of(table))
    answers = compare(table, METRICS["psnr"], questions, 200, 5)
    assert set(frame["metric"]) == {"psnr"}
    assert list(frame["difference"]) == pytest.approx([answer.difference for answer in answers], rel=1e-14)
    assert list(frame["p_holm"]) == pytest.approx([answer.p_holm for answer in answers], rel=1e-14)
    assert list(frame["low"]) == pytest.approx([answer.low for answer in answers], rel=1e-14)
    others = compare(table, METRICS["psnr"], questions, 200, 6)
    assert list(frame["low"]) != pytest.approx([answer.low for answer in others], rel=1e-6)


def test_measures_without_numbers_are_one_sentence_with_its_reason_on_the_page(table, tmp_path):
    """Whether the evaluation noted it, or only the cells know it; the files, which stand alone, have their columns."""
    weights = "weights absent; run `harness weights fetch alexnet`"
    table.images["lpips-alex"] = float("nan")
    for model in table.models:
        for condition in table.conditions:
            table.missing |= {(model.name, condition, name): weights for name in ("lpips-alex", "lpips-vgg")}
            table.missing[model.name, condition, "fid"] = "needs at least 2 images, the class has 1"
    table.notes = [f"LPIPS (Alex), LPIPS (VGG): {weights}", "beach: not finished; its newest checkpoint is used."]
    config = EvaluateConfig(report={"num_strips": 0})
    text = text_of(write_report("demo", table, config, [], tmp_path))
    assert "<p>LPIPS (Alex), LPIPS (VGG): no numbers. weights absent; run `harness weights fetch alexnet`</p>" in text
    assert "<p>FID: no numbers. needs at least 2 images, the class has 1</p><p>beach: not finished" in text
    assert text.count("weights absent") == text.count("needs at least 2 images") == 1
    assert "cells without a number" not in text and "cannot be compared" not in text
    assert "lpips-alex" in text_of(tmp_path / "table.csv") and "weights absent" in text_of(tmp_path / "table.md")


@pytest.mark.parametrize(("counts", "warned"), [((50, 2047), "FID on 2,047 images: "), ((2048, 3000), None)])
def test_a_fid_on_few_images_is_warned_of_before_what_is_said_by_it(table, tmp_path, counts, warned):
    rows = [(m.name, c, "fid", 9.0, None, n, "") for m in table.models for c, n in zip(table.conditions, counts)]
    table.sets = pd.DataFrame(rows, columns=list(SET_KEYS))
    text = text_of(write_report("demo", table, EvaluateConfig(report={"num_strips": 0}), [], tmp_path))
    assert (f"<p>{warned}" in text.split("<section")[0]) if warned else ("FID on" not in text)


def test_report_of_models_that_could_not_be_scored_at_all_gives_the_reasons(tmp_path):
    images = pd.DataFrame({**{key: [] for key in IMAGE_KEYS}, "psnr": pd.Series(dtype=float)})
    models = [Model("beach", "checkpoint", "/none/beach", {"class": "beach"}, "beach"), Model("bicubic", "method")]
    missing = {(m.name, c, "psnr"): f"{m.name} is not finished" for m in models for c in CLASSES}
    table = ScoreTable(images, pd.DataFrame(columns=list(SET_KEYS)), missing, models, CLASSES)
    text = text_of(write_report("demo", table, EvaluateConfig(), [], tmp_path))
    assert "beach is not finished" in text
    assert "No general model was evaluated that those made for one class could be compared with." in text
    assert (tmp_path / "matrix_psnr.csv").read_text().splitlines()[1] == "beach,,"


def test_failed_models_share_a_line_and_leave_room_for_the_reasons_of_single_cells(table_maker, tmp_path):
    models = [Model(f"beach-{n}", "checkpoint", f"/none/{n}", {"n": str(n)}, "beach") for n in range(7)]
    table = table_maker(models)
    failed = [model.name for model in models[:6]]
    table.images = table.images[~table.images["model"].isin(failed)]
    cells = [(name, c, metric) for name in failed for c in table.conditions for metric in table.metrics]
    table.missing = {cell: f"{cell[0]} failed at step {100 + failed.index(cell[0])}." for cell in cells}
    table.missing["beach-6", "beach", "psnr"] = "one output is not finite"
    text = text_of(write_report("demo", table, EvaluateConfig(report={"num_strips": 0}), [], tmp_path))
    names = ", ".join(failed[:5])
    assert f"<p>6 models without a number: {names} and 1 more. beach-0: beach-0 failed at step 100.</p>" in text
    assert "<p>1 cell without a number: one output is not finite</p>" in text and "6 cells" not in text


def test_pictures_that_cannot_be_made_give_a_reason_instead(table, tmp_path):
    text = text_of(write_report("demo", table, EvaluateConfig(), [], tmp_path))
    assert "no pictures: no model says which dataset and scale" in text
    gone = EvaluateConfig(dataset=str(tmp_path / "gone"), scale=4)
    assert str(tmp_path / "gone") in text_of(write_report("demo", table, gone, [], tmp_path))


def test_only_the_measures_that_are_asked_for_are_shown(table, tmp_path, pictures):
    config = EvaluateConfig(report={"matrix_metrics": ["psnr"], "table_metrics": ["ssim"], "compare": False})
    text = text_of(write_report("demo", table, config, [], tmp_path, None, (), pictures))
    assert {file.stem for file in tmp_path.iterdir()} == {"report", "matrix_psnr", "table"}
    assert list(pd.read_csv(tmp_path / "table.csv").columns) == ["class", "ssim", "ssim_deviation", "ssim_images"]
    assert "Comparisons" not in text


def test_each_degradation_has_a_table_and_a_matrix_of_its_own_and_the_first_bears_the_short_name(table_maker, tmp_path):
    kernels = ("matlab-bicubic", "nearest")
    table = table_maker(kernels=kernels)
    only_psnr = {"matrix_metrics": ["psnr"], "table_metrics": ["psnr"]}
    config = EvaluateConfig(report={"num_strips": 0, "compare": False, **only_psnr})
    write_report("demo", table, config, [], tmp_path)
    for kernel, more in zip(kernels, ("", "_test_nearest")):
        expected = [table.mean("beach", f"{kernel}/{name}", "psnr") for name in CLASSES]
        rows = pd.read_csv(tmp_path / f"table{more}.csv").set_index("class")
        assert rows.loc["beach", "psnr"] == pytest.approx(sum(expected) / 3)
        assert list(pd.read_csv(tmp_path / f"matrix_psnr{more}.csv")["beach"]) == pytest.approx(expected)


def test_a_report_leaves_no_numbers_of_an_earlier_one_and_nothing_else_is_touched(table, table_maker, tmp_path):
    config = EvaluateConfig(report={"num_strips": 0, "reference": "superaugan_div2k"})
    write_report("demo", table_maker(kernels=("matlab-bicubic", "nearest")), config, [], tmp_path)
    others = ["table_of_mine.csv", "matrix_mine.csv", "compare_psnr.ods", "scores.parquet", "notes.md"]
    for name in others:
        (tmp_path / name).write_text("mine")
    former = {file.name for file in tmp_path.iterdir()}
    assert {"degradations_ssim.tex", "matrix_ssim_test_nearest.csv", "table_test_nearest.md", "published.png"} <= former
    config = EvaluateConfig(report={"num_strips": 0, "matrix_metrics": ["psnr"], "compare": False})
    write_report("demo", table, config, [], tmp_path)
    written = {f"{stem}.{kind}" for stem in ("matrix_psnr", "table") for kind in ("csv", "md", "tex", "png")}
    assert {file.name for file in tmp_path.iterdir()} == {"report.html", *written, *others}


def test_the_report_names_no_winner_by_what_noise_does_to_the_outputs(table, tmp_path):
    rows = [
        {"model": m.name, "condition": c, "metric": "diversity", "value": 1.0, "num_images": 8}
        for m in table.models
        for c in table.conditions
    ]
    table.sets = pd.DataFrame(rows, columns=list(SET_KEYS))
    config = EvaluateConfig(report={"num_strips": 0, "matrix_metrics": ["diversity"], "compare": False})
    text = text_of(write_report("demo", table, config, [], tmp_path))
    assert "Diversity by class" in text and "By Diversity" not in text


def test_sweep_over_one_condition_begins_with_the_table(table_maker, tmp_path):
    config = EvaluateConfig(report={"num_strips": 0})
    orders = []
    for classes in (("beach", "mountain"), ("beach",)):
        text = text_of(write_report("demo", table_maker(classes=classes), config, [], tmp_path))
        orders.append(re.findall(r"<section id=\"(\w+)\"", text)[:2])
    assert orders == [["matrices", "tables"], ["tables", "matrices"]]


def test_unknown_reference_and_unwritable_folder_are_refused(table, tmp_path):
    with pytest.raises(InputError, match="no such table or file"):
        write_report("demo", table, EvaluateConfig(report={"reference": "nonsense"}), [], tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_report("demo", table, EvaluateConfig(), [], tmp_path / "file" / "report")


def test_published_tables_warn_of_the_unusual_psnr(table, tmp_path, pictures):
    config = EvaluateConfig(report={"reference": "superaugan_div2k"})
    text = text_of(write_report("demo", table, config, [], tmp_path, None, (), pictures))
    assert "doubles PSNR, differences included" in text and "Compare its differences" not in text
    assert "limits PSNR to 58.9 dB" in text and (tmp_path / "published.tex").exists()


def test_configuration_of_sweep_and_run_stand_in_the_report(table, tmp_path, pictures):
    out = tmp_path / "sweep" / "report"
    out.mkdir(parents=True)
    (tmp_path / "sweep" / "sweep.yaml").write_text("name: <demo>\n")
    phase = tmp_path / "phases" / "finetune-0"
    phase.mkdir(parents=True)
    (phase / "config.yaml").write_text("seed: 17\n")
    text = text_of(
        write_report("demo", table, EvaluateConfig(), [RunRecord("a", {}, [phase])], out, None, (), pictures)
    )
    assert "name: &lt;demo&gt;" in text and "seed: 17" in text and "make sweep SWEEP=sweep.yaml" in text


def test_runs_show_only_the_keys_in_which_they_differ():
    grid = runs_grid([("a", {"seed": "0", "scale": "4"}), ("b", {"seed": "1", "scale": "4"}), ("c", {"scale": "4"})])
    assert [head.title for head in grid.heads] == ["seed"]
    assert [line.entries[0].text for line in grid.lines] == ["0", "1", "as the recipe"]
    assert [head.title for head in runs_grid([("a", {"seed": "0"})]).heads] == ["seed"], "a single one has no other"


def test_ledger_shares_leave_out_what_occupied_nothing():
    grid = ledger_grid({"useful_h": 3.0, "lost_h": 1.0, "queued_h": 10.0, "note": "x"})
    cells = {line.heads[0]: [entry.text for entry in line.entries] for line in grid.lines}
    assert cells["training, for the first time"] == ["3.0 h", "75.0%"]
    assert cells["all that was occupied"][0] == "4.0 h"
    assert cells["waiting in the queue (occupies nothing)"] == ["10.0 h", ""]


@pytest.mark.parametrize(("hours", "text"), [(0.0, "0.0 s"), (0.01, "36.0 s"), (0.5, "30.0 min"), (7.25, "7.2 h")])
def test_hours_are_shown_in_a_sensible_unit(hours, text):
    assert show_hours(hours) == text


def test_time_is_not_called_hours_where_it_is_shown_in_seconds():
    grid = ledger_grid({"useful_h": 0.01})
    assert grid.heads[0].title == "time x ranks" and grid.lines[0].entries[0].text == "36.0 s"


def test_models_are_listed_with_the_hash_of_their_weights(table):
    grid = models_grid(table)
    assert [line.heads[0] for line in grid.lines] == ["beach", "mountain", "general", "bicubic"]
    assert grid.lines[0].entries[1].text == "0" * 12


def test_sentences_say_which_degradation_and_a_reason_stands_once(table_maker, tmp_path):
    table = table_maker(kernels=("matlab-bicubic", "nearest"))
    for model in table.models:
        for condition in table.conditions:
            table.missing |= {(model.name, condition, metric): "weights absent" for metric in ("fid", "kid")}
    table.notes.append("FID, KID: weights absent")
    config = EvaluateConfig(report={"num_strips": 0, "resamples": 100})
    text = text_of(write_report("demo", table, config, [], tmp_path))
    words = "by class and model"
    for kernel in ("matlab-bicubic", "nearest"):
        assert f"PSNR {words} (test, {kernel})" in text
        assert re.search(rf"<li>By [^<]*PSNR \(test, {kernel}\)[^<]*, on 3 of 3 classes", text)
    assert "3 of 3 models beat bicubic on their own class" in text
    assert "cells without a number" not in text and text.count("FID, KID: no numbers. weights absent") == 1


def test_the_images_of_a_pooled_row_are_counted_once_in_the_table(table, tmp_path):
    table.images = pd.concat([table.images, table.images.assign(condition="everything")])
    table.conditions = [*table.conditions, "everything"]
    only_psnr = {"matrix_metrics": ["psnr"], "table_metrics": ["psnr"]}
    config = EvaluateConfig(pool="everything", report={"num_strips": 0, "compare": False, **only_psnr})
    write_report("demo", table, config, [], tmp_path)
    assert set(pd.read_csv(tmp_path / "table.csv")["psnr_images"]) == {24}


def test_a_class_that_has_the_name_of_the_pooled_row_stands_in_the_table(table, tmp_path):
    config = EvaluateConfig(pool="general", report={"num_strips": 0, "compare": False})
    write_report("demo", table, config, [], tmp_path)
    assert set(pd.read_csv(tmp_path / "table.csv")["psnr_images"]) == {24}
