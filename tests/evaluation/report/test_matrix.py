"""Cells, ranks, means, reasons and seeds of the matrix."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from evaluation.config import EvaluateConfig
from evaluation.metrics import METRICS, small_set_note
from evaluation.model import Model
from evaluation.report.cell_scores import Cell, mean_of_models
from evaluation.report.columns import build_columns, common_name
from evaluation.report.exports import report_matrices
from evaluation.report.formats import latex
from evaluation.report.grid import BEST, SECOND, Footnotes, rank_values, shades, show_number
from evaluation.report.matrix import build_matrix, conditions_of
from evaluation.report.matrix_grid import baseline_summary, diagonal_summary, matrix_grid, reader_notes
from evaluation.report.tables import build_table, table_grid
from evaluation.scores.table import SET_KEYS, ScoreTable

MEASURES = ("mse", "psnr", "ssim")


def matrix_of(table, metric="psnr", **options):
    return build_matrix(table, METRICS[metric], conditions_of(table), **options)


def test_cells_equal_the_means_of_the_score_table(table):
    matrix = matrix_of(table)
    expected = [[table.mean(m.name, c, "psnr") for m in table.models] for c in table.conditions]
    assert matrix.values().to_numpy() == pytest.approx(np.array(expected))
    assert list(matrix.values().columns) == ["beach", "mountain", "general", "bicubic"]


def test_figure_9_of_specialized_srgan_is_marked_as_published():
    from evaluation.report.published import load_published, published_grid

    grid = published_grid(load_published("specialized_srgan"))
    titles = [head.title for head in grid.heads]
    best = {
        line.heads[0]: {title for title, entry in zip(titles, line.entries) if entry.rank == BEST}
        for line in grid.lines
    }
    assert best == {
        "beach": {"beach"},
        "mountain": {"mountain"},
        "desert": {"desert"},
        "sea": {"general"},
        "island": {"island", "general"},
        "general": {"general"},
    }
    assert [entry.own for entry in grid.lines[1].entries] == [False, True, False, False, False, False]


def test_shades_run_from_the_worst_to_the_best_whichever_way_is_better():
    assert shades([2.0, None, 3.0, 6.0], True) == [0.0, None, 0.25, 1.0]
    assert shades([2.0, None, 3.0, 6.0], False) == [1.0, None, 0.75, 0.0]


def test_a_number_is_shown_with_its_digits_and_its_deviation():
    values = [(25.126, 0.514), (-1.0, 0.0), (math.inf, None), (-math.inf, None), (math.nan, None), (None, None)]
    assert [show_number(*each) for each in ((value, 2, deviation) for value, deviation in values)] == [
        *("25.13 ± 0.51", "-1.00 ± 0.00", "∞", "−∞", "–", "–")
    ]


def test_values_alike_at_the_digits_shown_rank_alike_and_leave_no_second():
    assert rank_values([25.001, 25.004, 24.0], True, 2) == [BEST, BEST, 0]
    assert rank_values([25.001, 25.004, 24.0], True, 3) == [SECOND, BEST, 0]
    assert rank_values([0.2, None, 0.1], False, 4) == [SECOND, 0, BEST]
    assert rank_values([None, 3.0], True, 2) == [0, 0]


def test_baselines_stand_last_and_take_no_part_in_the_ranking(table):
    better = table.images["model"] == "bicubic"
    table.images.loc[better, "psnr"] += 10
    grid = matrix_grid(matrix_of(table))
    assert [head.apart for head in grid.heads] == [False, False, False, True, True]
    assert grid.lines[0].entries[0].rank == BEST and grid.lines[0].entries[3].rank == 0
    assert "bicubic is better than every model here" in [text for _, text in grid.footnotes]


def test_means_are_over_models_and_over_classes_with_equal_weight(table):
    table.images = table.images[~((table.images["image_class"] == "beach") & (table.images["image"] > "beach_003"))]
    matrix = matrix_of(table)
    values = matrix.values()
    assert matrix.row_mean(0).value == pytest.approx(values.iloc[0, :3].mean())
    assert matrix.column_mean(1).value == pytest.approx(values["mountain"].mean())


def test_a_missing_cell_says_why_and_its_means_say_what_they_lack(table):
    table.missing["mountain", "beach", "psnr"] = "stale: the dataset was changed"
    grid = matrix_grid(matrix_of(table))
    entry = grid.lines[0].entries[1]
    notes = dict(grid.footnotes)
    assert entry.text == "–" and entry.value is None and notes[entry.mark] == "stale: the dataset was changed"
    assert notes[grid.lines[0].entries[4].mark] == "mean of 2 of 3 models"
    mean = grid.lines[-1].entries[1]
    assert notes[mean.mark] == "mean of 2 of 3 classes" and mean.rank == 0


def test_a_cell_in_which_images_failed_is_shown_but_never_best(table):
    failed = (table.images["model"] == "beach") & (table.images["image"] == "beach_000")
    table.images.loc[failed, "psnr"] = np.nan
    grid = matrix_grid(matrix_of(table))
    entry = grid.lines[0].entries[0]
    assert entry.rank == 0 and entry.value is not None
    assert dict(grid.footnotes)[entry.mark] == "1 of 8 images gave no number"


def test_an_incomplete_number_is_in_no_mean_and_no_table_marks_it(table):
    own = (table.images["model"] == "beach") & (table.images["condition"] == "beach")
    table.images.loc[own, "psnr"] += 50
    table.images.loc[own & (table.images["image"] == "beach_000"), "psnr"] = np.nan
    matrix = matrix_of(table)
    values = matrix.values()
    column, row = matrix.column_mean(0), matrix.row_mean(0)
    assert (column.value, column.note) == (pytest.approx(values["beach"].iloc[1:].mean()), "mean of 2 of 3 classes")
    assert (row.value, row.note) == (pytest.approx(values.iloc[0, 1:3].mean()), "mean of 2 of 3 models")
    entry = table_grid(build_table(table, conditions_of(table), ["psnr"])).lines[0].entries[0]
    assert entry.value > 40 and entry.rank == 0
    assert not mean_of_models([Cell(1.0), Cell(2.0, comparable=False)], "seeds").comparable


def test_images_too_small_for_a_measure_leave_its_ranks_and_means_alone(table):
    """No model has a number of them, so nobody lacks one."""
    table.images.loc[table.images["image"] == "beach_000", "ssim"] = np.nan
    matrix = matrix_of(table, "ssim")
    grid = matrix_grid(matrix)
    entry = grid.lines[0].entries[0]
    assert entry.rank == BEST and entry.value == pytest.approx(table.mean("beach", "beach", "ssim"))
    assert dict(grid.footnotes)[entry.mark] == "1 of 8 images left out: no model has a number of them"
    assert matrix.column_mean(0).value == pytest.approx(matrix.values()["beach"].mean())
    assert [entry.mark for entry in grid.lines[-1].entries] == [""] * 5 and grid.lines[-1].entries[0].rank
    lines = build_table(table, conditions_of(table), ["ssim"]).lines
    assert all(line.cells["ssim"].comparable for line in lines)


def test_a_class_that_no_model_has_a_number_on_is_left_out_of_the_tables_means_alike(table):
    for model in table.models:
        table.missing[model.name, "beach", "ssim"] = "every image is too small for it"
    cell = build_table(table, conditions_of(table), ["ssim"]).lines[1].cells["ssim"]
    assert cell.value == pytest.approx(np.mean([table.mean("mountain", c, "ssim") for c in ("mountain", "general")]))
    assert cell.comparable and cell.note == "1 of 3 conditions left out: no model has a number"
    del table.missing["general", "beach", "ssim"]
    cell = build_table(table, conditions_of(table), ["ssim"]).lines[1].cells["ssim"]
    assert not cell.comparable and cell.note.startswith("mean of 2 of 3 conditions")


def test_a_condition_that_nothing_was_scored_on_keeps_its_row(table):
    table.conditions.append("desert")
    table.missing["beach", "desert", "psnr"] = "the class has no images"
    matrix = matrix_of(table)
    assert matrix.rows[-1] == "desert"
    assert [cell.value for cell in matrix.cells[-1]] == [None] * 4
    assert matrix.cells[-1][0].note == "the class has no images"


def test_a_class_without_images_stands_in_the_matrix_of_the_others_and_leaves_the_means_alone(table_maker):
    """A class of two images has none in the split `test`."""
    for kernels in (("matlab-bicubic",), ("matlab-bicubic", "nearest")):
        table = table_maker(kernels=kernels)
        before = {name.stem: name.matrix for name in report_matrices(table, EvaluateConfig())}
        rare = [f"{kernel}/rare" if len(kernels) > 1 else "rare" for kernel in kernels]
        reason = "class 'rare' has no image in split 'test'"
        missing = {(model.name, name, metric): reason for model in table.models for name in rare for metric in MEASURES}
        table = replace(table, conditions=[*rare, *table.conditions], missing=missing)
        after = {name.stem: name.matrix for name in report_matrices(table, EvaluateConfig())}
        assert after.keys() == before.keys() and [m.title for m in after.values()] == [m.title for m in before.values()]
        matrix = after["matrix_psnr"]
        assert matrix.rows == ("rare", *before["matrix_psnr"].rows)
        assert {cell.note for cell in matrix.cells[0]} == {reason}
        assert matrix.column_mean(0) == before["matrix_psnr"].column_mean(0) and matrix.column_mean(0).comparable
        unlike = {name for name in before if name.startswith("degradations")}
        assert all(after[name].cells == before[name].cells for name in unlike)
        lines = build_table(table, conditions_of(table)[-3:] + conditions_of(table)[:1], ["psnr"]).lines
        assert all(line.cells["psnr"].comparable for line in lines)


def test_seeds_of_a_run_become_one_column_with_their_deviation(table_maker):
    models = [
        Model(f"beach-seed{seed}", "checkpoint", "x", {"class": "beach", "seed": str(seed)}, "beach")
        for seed in range(3)
    ]
    table = table_maker([*models, Model("bicubic", "method")])
    matrix = matrix_of(table)
    means = [table.mean(model.name, "beach", "psnr") for model in models]
    assert [column.title for column in matrix.columns] == ["beach", "bicubic"]
    assert matrix.cells[0][0].value == pytest.approx(np.mean(means))
    assert matrix.cells[0][0].deviation == pytest.approx(np.std(means, ddof=1))
    assert matrix_grid(matrix).lines[0].entries[0].text == show_number(
        float(np.mean(means)), 2, float(np.std(means, ddof=1))
    )


def test_models_that_differ_in_more_than_the_seed_stay_apart():
    models = [
        Model("a-seed0", "checkpoint", "x", {"augment": "none", "train.seed": "0"}),
        Model("a-seed1", "checkpoint", "x", {"augment": "none", "train.seed": "1"}),
        Model("b-seed0", "checkpoint", "x", {"augment": "ada", "train.seed": "0"}),
    ]
    assert [column.models for column in build_columns(models)] == [("a-seed0", "a-seed1"), ("b-seed0",)]
    of_classes = [Model(f"{name}-s", "checkpoint", "x", {"seed": "0"}, name) for name in ("beach", "sea")]
    assert [column.models for column in build_columns(of_classes)] == [("beach-s",), ("sea-s",)]
    axes = [columns[0].axes for columns in (build_columns(models), build_columns(of_classes))]
    assert axes == [(("augment", "none"),), (("seed", "0"),)], "a seed that is the only one may be an axis of a table"


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (["beach-seed0", "beach-seed1"], "beach"),
        (["p10_s1_ada", "p10_s2_ada"], "p10_ada"),
        (["0", "1"], "0"),
        (["a"], "a"),
        (["x-1", "x-1-2"], "x-1"),
        (["beach-new-seed0", "beach-seed1"], "beach"),
    ],
)
def test_the_name_of_several_seeds_is_what_they_share(names, common):
    assert common_name(names) == common


def test_seeds_that_share_the_name_of_another_model_are_called_by_their_own():
    seeds = [Model(f"srgan-seed{s}", "checkpoint", "x", {"seed": str(s)}) for s in range(2)]
    columns = build_columns([*seeds, Model("srgan", "spandrel", "x")])
    assert [(column.title, column.models) for column in columns] == [
        ("srgan-seed0, srgan-seed1", ("srgan-seed0", "srgan-seed1")),
        ("srgan", ("srgan",)),
    ]


def test_degradation_matrix_weighs_classes_alike_and_frames_the_trained_kernel(table_maker):
    kernels = ("matlab-bicubic", "nearest")
    models = [Model(f"on-{kernel}", "checkpoint", "x", {"kernel": kernel}) for kernel in kernels]
    table = table_maker(models, kernels=kernels)
    matrix = matrix_of(table, row_kind="kernel")
    assert matrix.rows == kernels
    assert [[matrix.is_own(row, column) for column in range(2)] for row in range(2)] == [[True, False], [False, True]]
    expected = np.mean([table.mean("on-nearest", f"matlab-bicubic/{name}", "psnr") for name in ("beach", "mountain")])
    two = [c for c in conditions_of(table) if c.image_class != "general"]
    assert build_matrix(table, METRICS["psnr"], two, "kernel").cells[0][1].value == pytest.approx(expected)


def test_a_model_is_framed_on_what_it_was_made_for_whatever_it_is_called(table_maker):
    models = [Model("for-the-sea", "checkpoint", "x", {"kernel": "nearest+area:mixed"}, "sea")]
    models.append(Model("sea", "checkpoint", "x", {"kernel": "nearest-like"}))
    table = table_maker(models, classes=("sea", "beach"), kernels=("nearest", "area"))
    classes = build_matrix(table, METRICS["psnr"], conditions_of(table))
    kernels = build_matrix(table, METRICS["psnr"], conditions_of(table), "kernel")
    assert [[m.is_own(row, column) for column in (0, 1)] for m in (classes, kernels) for row in (0, 1)] == [
        *([True, False], [False, False]),
        *([True, False], [True, False]),
    ]


@pytest.mark.parametrize(
    ("metric", "num_images", "warns"), [("fid", 2047, True), ("fid", 2048, False), ("kid", 9, False)]
)
def test_fid_is_warned_of_below_as_many_images_as_features(metric, num_images, warns):
    assert bool(small_set_note(metric, num_images)) is warns


def test_fid_on_few_images_carries_a_warning_and_kid_its_deviation(table):
    rows = [
        {"model": m.name, "condition": c, "metric": metric, "value": v, "deviation": d, "num_images": n, "note": note}
        for m in table.models
        for c, n, note in (("beach", 50, "FID on 50 images: a warning."), ("mountain", 3000, ""))
        for metric, v, d in (("fid", 12.0, np.nan), ("kid", 1.5, 0.2))
    ]
    table.sets = pd.DataFrame(rows)
    table.sets.loc[table.sets["metric"] == "kid", "note"] = ""
    fid = matrix_grid(matrix_of(table, "fid"))
    assert dict(fid.footnotes)[fid.lines[0].entries[0].mark] == "FID on 50 images: a warning"
    assert fid.lines[1].entries[0].mark == ""
    kid = matrix_grid(matrix_of(table, "kid"))
    assert (
        kid.lines[0].entries[0].text == show_number(1.5, METRICS["kid"].digits, 0.2)
        and kid.lines[0].entries[0].mark == ""
    )


def test_the_caption_says_what_a_deviation_is_of(table_maker):
    models = [Model(f"beach-seed{s}", "checkpoint", "x", {"class": "beach", "seed": str(s)}, "beach") for s in range(2)]
    several, single = [*models, Model("bicubic", "method")], [Model("bicubic", "method")]
    expected = {
        "psnr": ("± is the deviation over seeds", ""),
        "diversity": (
            "± is the deviation over seeds, of a single model the deviation over images",
            "± is the deviation over images",
        ),
        "kid": (
            "± is the deviation over seeds, of a single model the standard error (above 1,000 images the deviation "
            "over subsets)",
            "± is the standard error (above 1,000 images the deviation over subsets)",
        ),
    }
    for place, names in enumerate((several, single)):
        table = table_maker(names)
        rows = [
            {"model": m.name, "condition": c, "metric": k, "value": 1.0, "deviation": 0.1, "num_images": 8, "note": ""}
            for m in table.models
            for c in table.conditions
            for k in ("diversity", "kid")
        ]
        table.sets = pd.DataFrame(rows)
        for metric, texts in expected.items():
            tail = matrix_grid(matrix_of(table, metric)).caption.partition(" is better")[2]
            assert tail == (f"; {texts[place]}" if texts[place] else "")


def test_no_baseline_is_called_better_for_what_noise_does_to_it(table):
    rows = [
        {
            "model": m.name,
            "condition": c,
            "metric": "diversity",
            "value": 9.0 if m.kind == "method" else 1.0,
            "num_images": 8,
        }
        for m in table.models
        for c in table.conditions
    ]
    table.sets = pd.DataFrame(rows, columns=list(SET_KEYS))
    assert not matrix_grid(matrix_of(table, "diversity")).footnotes


def test_identical_images_show_an_infinite_psnr(table):
    table.images["psnr"] = np.inf
    assert matrix_grid(matrix_of(table)).lines[0].entries[0].text == "∞"


def test_an_image_that_a_model_restores_exactly_is_left_out_of_the_means_of_all(table):
    """One blank image, which every interpolation gives exactly, would hide how the others are."""
    rest = table.images[~table.images["image"].isin(["beach_000", "beach_001"])]
    own = (table.images["model"] == "beach") & (table.images["condition"] == "beach")
    table.images.loc[own & table.images["image"].isin(["beach_000", "beach_001"]), "psnr"] = math.inf
    grid = matrix_grid(matrix_of(table))
    for entry, model in zip(grid.lines[0].entries, ["beach", "mountain", "general", "bicubic"]):
        values = rest[(rest["model"] == model) & (rest["condition"] == "beach")]["psnr"]
        assert entry.value == pytest.approx(values.mean())
        assert "2 of 8 images left out: a model restores them exactly" in dict(grid.footnotes)[entry.mark]
    assert grid.lines[0].entries[0].rank == BEST
    assert not grid.lines[1].entries[0].mark


def test_a_model_that_restores_every_image_exactly_is_infinitely_good_and_leaves_the_others_theirs(table):
    table.images.loc[(table.images["model"] == "beach") & (table.images["condition"] == "beach"), "psnr"] = math.inf
    grid = matrix_grid(matrix_of(table))
    perfect, other = grid.lines[0].entries[:2]
    assert perfect.text == "∞" and perfect.rank == BEST and not perfect.mark
    assert other.value == pytest.approx(table.mean("mountain", "beach", "psnr")) and not other.mark


def test_summary_counts_the_classes_whose_own_model_is_the_best(table):
    whole = "By PSNR, on 3 of 3 classes the best model is one that was made for it."
    assert diagonal_summary(matrix_of(table)) == whole
    better = (table.images["model"] == "general") & (table.images["image_class"] == "beach")
    table.images.loc[better, "psnr"] += 5
    assert diagonal_summary(matrix_of(table)) == whole.replace("3 of", "2 of")


@pytest.mark.parametrize("reason", ["stale", None])
def test_a_class_on_which_no_model_made_for_it_has_a_complete_number_is_told_apart(table, reason):
    """Whether it has no number at all, or one of some of the images."""
    if reason is None:
        own = (table.images["model"] == "beach") & (table.images["image"] == "beach_000")
        table.images.loc[own, "psnr"] = np.nan
    else:
        table.missing["beach", "beach", "psnr"] = reason
    assert diagonal_summary(matrix_of(table)) == (
        "By PSNR, on 2 of 3 classes the best model is one that was made for it; on 1 it has no complete number."
    )


def test_a_summary_names_the_degradation_where_there_are_several(table):
    matrix = matrix_of(table, detail="test, area")
    assert diagonal_summary(matrix).startswith("By PSNR (test, area), on 3 of 3")
    assert baseline_summary(matrix)[0].startswith("By PSNR (test, area), 3 of 3")


def test_a_tie_is_no_win_of_the_models_made_for_a_class(table):
    table.images["psnr"] = 25.0
    sentence = "By PSNR, on 0 of 3 classes the best model is one that was made for it; on 3 it ties with another."
    assert diagonal_summary(matrix_of(table)) == sentence
    better = (table.images["model"] == "beach") & (table.images["image_class"] == "beach")
    table.images.loc[better, "psnr"] += 5
    assert diagonal_summary(matrix_of(table)) == sentence.replace("on 0", "on 1").replace("on 3 it", "on 2 it")


def test_summary_counts_the_models_that_beat_each_baseline_on_their_own_class(table):
    assert baseline_summary(matrix_of(table)) == ["By PSNR, 3 of 3 models beat bicubic on their own class."]
    worse = (table.images["model"] == "beach") & (table.images["image_class"] == "beach")
    table.images.loc[worse, ["psnr", "mse"]] = [3.0, 1.0]
    assert baseline_summary(matrix_of(table)) == ["By PSNR, 2 of 3 models beat bicubic on their own class."]
    assert baseline_summary(matrix_of(table, "mse")) == ["By MSE, 2 of 3 models beat bicubic on their own class."]
    table.images["psnr"] = np.where(table.images["model"] == "bicubic", 25.0, 25.001)
    assert baseline_summary(matrix_of(table)) == ["By PSNR, 0 of 3 models beat bicubic on their own class."]


def test_an_incomplete_number_neither_beats_a_baseline_nor_is_passed_over_by_one(table):
    """The model's one image that gave a number is an easy one; the baseline beats the others, but not that."""
    own = (table.images["model"] == "beach") & (table.images["condition"] == "beach")
    table.images.loc[own, "psnr"] += 50
    table.images.loc[own & (table.images["image"] != "beach_000"), "psnr"] = np.nan
    sentence = "By PSNR, 2 of 3 models beat bicubic on their own class, 1 could not be compared."
    assert baseline_summary(matrix_of(table)) == [sentence]
    table.images.loc[table.images["model"] == "bicubic", "psnr"] += 10
    grid = matrix_grid(matrix_of(table))
    better = {mark for mark, text in grid.footnotes if text == "bicubic is better than every model here"}
    assert [line.entries[3].mark in better for line in grid.lines] == [False, True, True, True]


def test_an_incomplete_number_of_a_baseline_beats_nobody(table):
    failed = (table.images["model"] == "bicubic") & (table.images["image"] == "beach_000")
    table.images.loc[table.images["model"] == "bicubic", "psnr"] += 10
    table.images.loc[failed, "psnr"] = np.nan
    notes = dict(matrix_grid(matrix_of(table)).footnotes)
    assert notes[matrix_grid(matrix_of(table)).lines[0].entries[3].mark] == "1 of 8 images gave no number"


def test_a_measure_is_said_to_lack_what_most_cells_lack_not_why_a_model_failed(table):
    table.missing = {(m.name, c, "lpips-vgg"): "no weights; get them." for m in table.models for c in table.conditions}
    for metric in ("psnr", "lpips-vgg"):
        table.missing |= {("mountain", condition, metric): "mountain failed." for condition in table.conditions}
    matrices = [matrix_of(table, metric) for metric in ("psnr", "lpips-vgg")]
    notes = ["LPIPS (VGG): no weights; get them.", "beach: step 3 is used"]
    assert reader_notes(matrices, notes) == ["LPIPS (VGG): no numbers. no weights; get them", "beach: step 3 is used"]


def test_a_measure_that_has_numbers_elsewhere_is_named_with_the_degradation_that_lacks_them(table_maker):
    table = table_maker(kernels=("matlab-bicubic", "nearest"))
    lacking = [name for name in table.conditions if name.startswith("nearest/")]
    table.missing = {(model.name, name, "psnr"): "not scored" for model in table.models for name in lacking}
    matrices = [named.matrix for named in report_matrices(table, EvaluateConfig(report={"matrix_metrics": ["psnr"]}))]
    assert reader_notes(matrices, []) == ["PSNR (test, nearest): no numbers. not scored"]


def test_reasons_that_are_joined_or_end_a_sentence_have_one_full_stop(table_maker):
    models = [Model(f"beach-seed{s}", "checkpoint", "x", {"class": "beach", "seed": str(s)}, "beach") for s in range(3)]
    table = table_maker([*models, Model("bicubic", "method")])
    for model in ("beach-seed1", "beach-seed2"):
        table.missing[model, "beach", "psnr"] = f"{model} failed; run it again."
    grid = matrix_grid(matrix_of(table))
    reasons = "mean of 1 of 3 seeds; beach-seed1 failed; run it again; beach-seed2 failed; run it again"
    assert grid.footnotes[0] == ("a", reasons)
    for text in (reasons, f"{reasons}."):
        assert rf"\textsuperscript{{a}}~{reasons}.\\" in latex(replace(grid, footnotes=(("a", text),)))


def test_a_mean_without_a_number_says_why(table):
    table.missing |= {("beach", condition, "psnr"): "failed" for condition in table.conditions}
    table.missing |= {(model.name, "mountain", "psnr"): "not finished" for model in table.models}
    grid = matrix_grid(matrix_of(table))
    notes = dict(grid.footnotes)
    assert [grid.lines[-1].entries[0].text, grid.lines[1].entries[-1].text] == ["–", "–"]
    assert notes[grid.lines[-1].entries[0].mark] == notes[grid.lines[1].entries[-1].mark]
    assert notes[grid.lines[1].entries[-1].mark] == "no complete number to average"


def test_an_empty_table_gives_a_matrix_of_reasons():
    images = pd.DataFrame({key: [] for key in ("model", "condition", "split", "image_class", "kernel", "image")})
    model = Model("a", "checkpoint", "x")
    no_sets = pd.DataFrame(columns=list(SET_KEYS))
    table = ScoreTable(images, no_sets, {("a", "beach", "psnr"): "not finished"}, [model], ["beach"])
    grid = matrix_grid(matrix_of(table))
    assert grid.lines[0].entries[0].text == "–" and grid.footnotes == (("a", "not finished"),)


def test_footnotes_give_the_same_remark_the_same_mark():
    notes = Footnotes()
    assert [notes.mark(text) for text in ("x", "y", "", "x")] == ["a", "b", "", "a"]
    assert [notes.mark(str(i)) for i in range(30)][-1] == "af"


def test_general_models_stand_after_the_special_ones_and_before_the_baselines():
    names = ["all", "general", "beach", "sea"]
    models = [Model(name, "checkpoint", "/none", {"class": name}, name) for name in names]
    models.insert(0, Model("bicubic", "method"))
    assert [column.title for column in build_columns(models)] == ["beach", "sea", "general", "all", "bicubic"]
    plain = [Model(name, "checkpoint", "/none") for name in ("z", "a", "m")]
    assert [column.title for column in build_columns(plain)] == ["z", "a", "m"], "no classes, no order of classes"


def test_a_pooled_row_is_shown_but_not_counted_again_in_the_mean_over_classes(table):
    beach = table.images[table.images["image_class"] == "beach"]
    others = table.images[table.images["image_class"] != "beach"]
    table.images = pd.concat([table.images, beach.assign(condition="all"), others.assign(condition="all")])
    table.conditions.append("all")
    conditions = conditions_of(table)
    assert [condition.pooled for condition in conditions] == [False, False, False, True]
    only_beach = replace(table, images=table.images[table.images["image_class"] == "beach"])
    assert [condition.pooled for condition in conditions_of(only_beach)] == [False, False, False, True]
    matrix = build_matrix(table, METRICS["psnr"], conditions)
    assert matrix.rows[-1] == "all"
    matrix = replace(matrix, cells=(*matrix.cells[:-1], tuple(Cell(99.0) for _ in matrix.columns)))
    expected = [np.mean([line[column].value for line in matrix.cells[:-1]]) for column in range(len(matrix.columns))]
    assert [matrix.column_mean(column).value for column in range(len(matrix.columns))] == pytest.approx(expected)


def test_a_baseline_that_reads_the_same_as_the_best_model_is_not_called_better(table):
    table.images["psnr"] = 27.131
    table.images.loc[table.images["model"] == "bicubic", "psnr"] = 27.134
    assert not matrix_grid(matrix_of(table)).footnotes
    table.images.loc[table.images["model"] == "bicubic", "psnr"] = 27.14
    assert "bicubic is better than every model here" in [text for _, text in matrix_grid(matrix_of(table)).footnotes]


def test_seeds_of_which_one_is_infinite_have_no_deviation():
    cell = mean_of_models([Cell(30.0), Cell(math.inf)], "seeds")
    assert (cell.value, cell.deviation) == (math.inf, None)


def test_seeds_of_which_one_lacks_images_have_no_deviation_but_those_beside_an_absent_one_do():
    alike, lacking, absent = [Cell(30.0), Cell(32.0)], Cell(35.0, comparable=False), Cell(comparable=False)
    assert mean_of_models([*alike, lacking], "seeds").deviation is None
    assert mean_of_models([*alike, absent], "seeds").deviation == pytest.approx(math.sqrt(2))
