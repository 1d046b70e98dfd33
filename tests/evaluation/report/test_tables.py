"""Tables over axes, and the published figures beside them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from evaluation.metrics import small_set_note
from evaluation.model import Model
from evaluation.report.grid import BEST, SECOND, show_number
from evaluation.report.matrix import conditions_of
from evaluation.report.published import REFERENCE, Published, load_published, match_lines, published_grid, same_point
from evaluation.report.tables import build_table, table_grid
from harness.errors import InputError


def fractions(seeds: int = 1) -> list[Model]:
    return [
        Model(f"p{fraction}-{ada}-s{seed}", "checkpoint", "x", {"data": fraction, "ada": ada, "seed": str(seed)})
        for fraction in ("1.0", "0.01")
        for ada in ("no", "yes")
        for seed in range(seeds)
    ]


def find_line(published: Published, labels: list[str]) -> dict[str, str] | None:
    return match_lines(published, [labels])[0]


def test_rows_are_the_points_of_the_axes_and_cells_the_means_over_classes(table_maker):
    table = table_maker(fractions())
    axis_table = build_table(table, conditions_of(table), ["psnr", "ssim"])
    assert axis_table.axes == ("data", "ada")
    assert [line.labels for line in axis_table.lines] == [
        ("1.0", "no"),
        ("1.0", "yes"),
        ("0.01", "no"),
        ("0.01", "yes"),
    ]
    expected = np.mean([table.mean("p0.01-yes-s0", name, "psnr") for name in table.conditions])
    assert axis_table.lines[3].cells["psnr"].value == pytest.approx(expected)


def test_several_seeds_give_mean_and_deviation(table_maker):
    table = table_maker(fractions(3))
    axis_table = build_table(table, conditions_of(table)[:1], ["psnr"])
    means = [table.mean(f"p1.0-no-s{seed}", "beach", "psnr") for seed in range(3)]
    cell = axis_table.lines[0].cells["psnr"]
    assert (cell.value, cell.deviation) == (pytest.approx(np.mean(means)), pytest.approx(np.std(means, ddof=1)))
    assert table_grid(axis_table).lines[0].entries[0].text == show_number(cell.value, 2, cell.deviation)
    assert axis_table.frame().loc[0, "psnr_deviation"] == pytest.approx(np.std(means, ddof=1))
    assert not table_grid(axis_table).footnotes


def test_the_caption_says_what_a_deviation_is_of(table_maker):
    one, several = table_maker(fractions()), table_maker(fractions(3))
    captions = [table_grid(build_table(t, conditions_of(t), ["psnr", "ssim"])).caption for t in (one, several)]
    assert "±" not in captions[0]
    assert captions[1].endswith("lower is better; PSNR, SSIM: ± is the deviation over the models of a row")


def test_point_without_any_number_gives_the_reason_alone(table_maker):
    table = table_maker(fractions(2))
    for model in table.models:
        for condition in table.conditions:
            table.missing[model.name, condition, "psnr"] = "weights absent"
    grid = table_grid(build_table(table, conditions_of(table), ["psnr"]))
    assert grid.footnotes == (("a", "weights absent"),)


def test_fewer_axes_average_over_the_others_and_say_so(table_maker):
    table = table_maker(fractions())
    grid = table_grid(build_table(table, conditions_of(table), ["psnr"], ["data"]))
    assert [line.heads for line in grid.lines] == [("1.0",), ("0.01",)]
    assert "over 2 models that differ in other axes" in grid.footnotes[0][1]


def test_a_mean_over_conditions_is_of_all_their_images_together(table_maker):
    table = table_maker(fractions(), num_images=8)
    kept = (table.images["condition"] != "mountain") | (table.images["image"] < "mountain_005")
    frame = build_table(replace(table, images=table.images[kept]), conditions_of(table), ["psnr"]).frame()
    assert set(frame["psnr_images"]) == {8 + 5 + 8}


def test_images_are_those_of_the_seeds_that_have_a_number(table_maker):
    table = table_maker(fractions(2), num_images=8)
    table.missing |= {("p1.0-no-s0", condition, "psnr"): "diverged" for condition in table.conditions}
    row = build_table(table, conditions_of(table), ["psnr"]).frame().iloc[0]
    assert row["psnr"] > 0 and row["psnr_images"] == 3 * 8


def test_a_condition_that_nothing_was_scored_on_is_no_lack_of_a_table(table_maker):
    table = table_maker(fractions())
    empty = replace(conditions_of(table)[0], name="rare", image_class="rare")
    axis_table = build_table(table, [*conditions_of(table), empty], ["psnr"])
    assert axis_table.caption == "mean over 3 conditions"
    assert not table_grid(axis_table).footnotes


def test_unknown_axis_is_refused_with_those_that_exist(table_maker):
    table = table_maker(fractions())
    with pytest.raises(InputError, match=r"no model has an axis 'colour'; use some of \['data', 'ada'"):
        build_table(table, conditions_of(table), ["psnr"], ["colour"])


def test_sweep_without_axes_gets_a_row_for_each_model(table):
    for model in table.models:
        model.axes.clear()
    axis_table = build_table(table, conditions_of(table), ["psnr"])
    assert axis_table.axes == ("model",)
    assert [line.labels for line in axis_table.lines] == [("beach",), ("mountain",), ("general",), ("bicubic",)]


def test_best_of_each_column_is_marked_and_baselines_take_no_part(table_maker):
    table = table_maker([*fractions(), Model("bicubic", "method")])
    table.images.loc[table.images["model"] == "bicubic", "psnr"] += 20
    grid = table_grid(build_table(table, conditions_of(table), ["psnr", "mse"]))
    values = [line.entries[0].value for line in grid.lines[:-1]]
    ranks = [line.entries[0].rank for line in grid.lines]
    assert ranks.index(BEST) == int(np.argmax(values)) and ranks[-1] == 0
    assert grid.lines[-1].apart and grid.lines[-1].heads == ("bicubic", "")
    assert [head.title for head in grid.heads] == ["PSNR ↑", "MSE ↓"]
    errors = [line.entries[1].value for line in grid.lines[:-1]]
    assert [line.entries[1].rank for line in grid.lines].index(BEST) == int(np.argmin(errors))


def test_a_baseline_that_is_better_than_every_row_is_noted_in_its_column_alone(table_maker):
    table = table_maker([*fractions(), Model("bicubic", "method")])
    of_bicubic = table.images["model"] == "bicubic"
    table.images.loc[of_bicubic, "psnr"] += 9.0
    grid = table_grid(build_table(table, conditions_of(table), ["psnr", "ssim"]))
    assert grid.lines[-1].heads[0] == "bicubic" and [entry.mark for entry in grid.lines[-1].entries] == ["a", ""]
    assert grid.footnotes == (("a", "bicubic is better than every model here"),)


def test_published_figures_stand_beside_the_rows_that_they_belong_to(table_maker):
    table = table_maker(fractions())
    published = load_published("superaugan_ffhq")
    axis_table = build_table(table, conditions_of(table), ["psnr"], None, published)
    frame = axis_table.frame()
    assert list(frame["fid_published"]) == ["2.62", "2.87", "2.69", "2.70"]
    grid = table_grid(axis_table)
    assert [head.title for head in grid.heads if head.group == "published"] == ["FID", "LPIPS (Alex)", "PSNR", "SSIM"]
    assert "SupeRAuGAN" in grid.caption
    assert any("82.94 is 26.42 dB" in text for _, text in grid.footnotes)
    table = table_maker([*fractions(), Model("bicubic", "method")])
    last = table_grid(build_table(table, conditions_of(table), ["psnr"], None, published)).lines[-1]
    assert [entry.text for entry in last.entries[1:]] == ["–"] * 4


def test_published_figures_that_fit_no_row_stay_out(table):
    published = load_published("superaugan_ffhq")
    assert build_table(table, conditions_of(table), ["psnr"], None, published).published is None


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("100%", "1.0", True),
        ("1%", "0.01", True),
        ("Yes", "ada", True),
        ("No", "none", True),
        ("100%", "Yes", False),
        ("1%", "1", False),
        ("x4", "4", False),
    ],
)
def test_labels_mean_the_same_however_they_are_written(left, right, same):
    assert (type(same_point(left)) is type(same_point(right)) and same_point(left) == same_point(right)) is same


def test_every_published_table_has_a_source_and_is_quoted_as_printed():
    names = {path.stem for path in REFERENCE.glob("*.csv")}
    assert names == {"superaugan_ffhq", "superaugan_div2k", "specialized_srgan"}
    for name in names:
        published = load_published(name)
        assert published.source
        texts = [entry.text for line in published_grid(published).lines for entry in line.entries]
        raw = (REFERENCE / f"{name}.csv").read_text()
        assert all(text in raw for text in texts)


@pytest.mark.parametrize(("name", "batch_size"), [("superaugan_ffhq", 32), ("superaugan_div2k", 1)])
def test_the_note_gives_the_published_psnr_on_the_usual_scale(name, batch_size):
    """The authors' code takes 20 log10(1 / (MSE / batch size))."""
    published = load_published(name)
    printed = find_line(published, ["1.0", "none"])["psnr"]
    error = batch_size * 10 ** (-float(printed) / 20)
    assert any(f"its {printed} is {-10 * np.log10(error):.2f} dB" in note for note in published.notes)


def test_published_figures_spot_checked_against_the_papers():
    div2k = load_published("superaugan_div2k")
    assert find_line(div2k, ["0.01", "ada"]) == {
        "fid": "67.88",
        "lpips-alex": "0.2101",
        "psnr": "51.03",
        "ssim": "0.7125",
    }
    assert find_line(div2k, ["1.0"]) is None, "1.0 is 100%, and no Yes"
    assert len(div2k.frame) == len(load_published("superaugan_ffhq").frame) == 12
    matrix = load_published("specialized_srgan").frame.set_index("class")
    assert matrix.loc["sea", "general"] == "0.012200" and matrix.loc["island", "desert"] == "0.028700"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# source: Müller\nmodel,psnr\na,1\n".encode("latin-1"), "is no text in UTF-8"),
        (b"# source: x\nmodel,psnr\na,1,2,3\n", "'a,1,2,3' has 4 values for 2 columns"),
        (b"# source: x\nmodel,psnr\na\n", "'a' has 1 values for 2 columns"),
        (b"# source: x\nmodel,psnr,psnr\na,1,2\n", "names a column twice"),
        (b"# source: x\npsnr,ssim\n25,0.7\n", "has only measures"),
        (b"# source: x\n", "holds no line of columns"),
    ],
    ids=["latin-1", "too long", "too short", "twice", "no axis", "empty"],
)
def test_a_published_table_that_could_be_read_wrongly_is_refused(tmp_path, content, message):
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        load_published(str(path))


def test_a_published_axis_is_held_against_the_one_that_has_most_of_its_values():
    """The weight 1.0 is no 100 %, and a run without pretraining is none without augmentation."""
    ffhq = load_published("superaugan_ffhq")
    rows = [(part, "1.0", ada, "none") for part in ("1.0", "0.05", "0.02") for ada in ("ada", "none")]
    assert [line and line["fid"] for line in match_lines(ffhq, rows)] == ["2.87", "2.62", "2.81", "2.71", None, None]
    several = [(part, weight, "ada") for part in ("1.0", "0.5") for weight in ("1.0", "0.5")]
    assert match_lines(ffhq, several) == [None] * 4, "either could be the percentage"


def test_a_number_sign_in_a_published_label_is_a_part_of_it(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('# source: x\nmodel,psnr\nno. #2 of ours,25.1\n"C#, large",26.2\n')
    assert find_line(load_published(str(path)), ["C#, large"]) == {"psnr": "26.2"}
    assert find_line(load_published(str(path)), ["no. #2 of ours"]) == {"psnr": "25.1"}


def test_own_table_is_read_from_a_path_and_mistakes_are_named(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("# source: my paper\nmodel,psnr\na,25.1\nb,\n")
    assert [line.entries[0].text for line in published_grid(load_published(str(path))).lines] == ["25.1", "–"]
    path.write_text("# source: my paper\nmodel,psnr\na,25.123\nb,25.124\nc,25.12\n")
    ranks = [line.entries[0].rank for line in published_grid(load_published(str(path))).lines]
    assert ranks == [SECOND, BEST, 0], "by the digits that are printed"
    path.write_text("model,psnr\na,25.1\n")
    with pytest.raises(InputError, match="says no source"):
        load_published(str(path))
    path.write_text("# source: s\nmodel,psnr\na,high\n")
    with pytest.raises(InputError, match="'high' under 'psnr' is no number"):
        load_published(str(path))
    path.write_text("# source: s\nmodel,colour\na,1\n")
    with pytest.raises(InputError, match="no column of a measure"):
        load_published(str(path))
    with pytest.raises(InputError, match="no such table or file; use one of specialized_srgan, superaugan_div2k"):
        load_published("nonsense")


def test_fid_warning_is_in_every_table(table_maker):
    table = table_maker(fractions())
    rows = [
        {
            "model": m.name,
            "condition": c,
            "metric": "fid",
            "value": 9.0,
            "deviation": np.nan,
            "num_images": 20,
            "note": small_set_note("fid", 20),
        }
        for m in table.models
        for c in table.conditions
    ]
    table.sets = pd.DataFrame(rows)
    grid = table_grid(build_table(table, conditions_of(table), ["fid"]))
    assert all(line.entries[0].mark for line in grid.lines)
    assert grid.footnotes[0][1].startswith("FID on 20 images: below 2,048 images")
