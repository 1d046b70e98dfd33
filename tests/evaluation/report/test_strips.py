"""Which pictures stand in a report: the median image of each class, of the best cell and of the worst."""

from __future__ import annotations

import numpy as np

from evaluation.config import EvaluateConfig
from evaluation.model import Model
from evaluation.picture_source import PictureSource
from evaluation.strips import MAX_MODELS, report_strips
from evaluation.upsamplers import MethodUpsampler

CLASSES = ["beach", "mountain", "general"]


def test_a_model_that_cannot_be_opened_is_left_out_and_named(table_maker, drawn_images):
    table = table_maker([Model("gone", "checkpoint", "/none/gone", {}, "beach"), Model("bicubic", "method")])
    source = PictureSource(table, EvaluateConfig(), drawn_images(CLASSES), 4)
    strips = report_strips(source)
    assert [picture.title for picture in strips[0].crops] == ["nearest", "bicubic", "HR"]
    assert len(source.problems) == 1 and "/none/gone" in source.problems[0]


def test_picture_of_a_cell_of_several_seeds_names_the_seed_that_it_shows(table_maker, drawn_images):
    models = [Model(f"sea-seed{s}", "checkpoint", "x", {"seed": str(s)}, "beach") for s in range(2)]
    models.append(Model("bicubic", "method"))
    table = table_maker(models, classes=("beach", "mountain"))
    source = PictureSource(table, EvaluateConfig(report={"num_strips": 1}), drawn_images(CLASSES), 4)
    source._upsamplers["sea-seed0"] = MethodUpsampler("bilinear", 4)
    best = report_strips(source)[-2]
    means = [table.mean(f"sea-seed{s}", "beach", "psnr") for s in range(2)]
    assert best.title == "Best cell of the matrix: sea on beach"
    assert best.caption.startswith(f"mean PSNR {np.mean(means):.2f} dB over 2 seeds; beach_")
    assert ": sea-seed0's median image;" in best.caption
    nearest, _, shown, _ = best.crops
    key = best.caption.split("; ")[1].split(":")[0]
    assert (nearest.detail, shown.title) == ("the LR image", "sea-seed0")
    assert shown.detail == f"PSNR {table.values('sea-seed0', 'beach', 'psnr')[key]:.2f} dB"


def test_no_strips_are_made_where_none_are_asked_for(table_maker, drawn_images):
    config = EvaluateConfig(report={"num_strips": 0})
    assert report_strips(PictureSource(table_maker(), config, drawn_images(CLASSES), 4)) == []


def test_of_too_many_models_the_own_the_general_the_best_and_the_worst_are_shown(table_maker, drawn_images):
    """On the class beach; the others fill up in their order."""
    names = [f"m{number:02d}" for number in range(MAX_MODELS + 4)]
    own_of = {"m11": "beach", "m12": "all"}
    models = [Model(name, "checkpoint", "x", {}, own_of.get(name, "mountain")) for name in names]
    table = table_maker(models, classes=("beach", "mountain"))
    on_beach = table.images["condition"] == "beach"
    for name, psnr in (("m10", 60.0), ("m13", 2.0)):
        table.images.loc[on_beach & (table.images["model"] == name), "psnr"] = psnr
    source = PictureSource(table, EvaluateConfig(), drawn_images(CLASSES), 4)
    for name in names:
        source._upsamplers[name] = MethodUpsampler("bilinear", 4)
    first = report_strips(source)[0]
    shown = [picture.title for picture in first.crops if picture.title in names]
    assert first.title == "beach" and sorted(shown) == [*names[: MAX_MODELS - 4], "m10", "m11", "m12", "m13"]
    assert [picture.title for picture in first.crops if picture.own] == ["m11"]


def test_the_image_of_a_class_is_the_median_by_the_models_mean_score(table_maker, drawn_images):
    """Whatever the baselines, and models that are not shown, have."""
    models = [Model(name, "checkpoint", "x", {}, own) for name, own in (("a", "beach"), ("b", "mountain"))]
    table = table_maker([*models, Model("bicubic", "method")], classes=("beach", "mountain"), num_images=7)
    is_shown = table.images["model"] != "bicubic"
    of_class = table.images[(table.images["condition"] == "mountain") & is_shown]
    means = sorted((float(np.mean(rows["psnr"])), image) for image, rows in of_class.groupby("image"))
    table.images.loc[~is_shown & (table.images["image"] == means[3][1]), "psnr"] = -1000
    source = PictureSource(table, EvaluateConfig(), drawn_images(CLASSES), 4)
    assert report_strips(source)[1].caption.startswith(f"{means[3][1]}: the image of median PSNR")


def test_a_class_that_only_baselines_were_scored_on_shows_their_median_image(table_maker, drawn_images):
    table = table_maker([Model("bicubic", "method")], classes=("beach",), num_images=7)
    scores = table.values("bicubic", "beach", "psnr").sort_values()
    (strip,) = report_strips(PictureSource(table, EvaluateConfig(), drawn_images(CLASSES), 4))
    assert strip.caption.startswith(f"{scores.index[3]}: the image of median PSNR")
