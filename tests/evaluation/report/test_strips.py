"""Which pictures stand in a report: the median image of each class, of the best cell and of the worst."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from evaluation.config import EvaluateConfig
from evaluation.model import Model
from evaluation.report.matrix import conditions_of
from evaluation.report.picture_source import PictureSource
from evaluation.report.strips import MAX_MODELS, report_strips
from evaluation.scores.upsamplers import MethodUpsampler
from harness.data.degrade import degrade_image, upscale_image

CLASSES = ["beach", "mountain", "general"]


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


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


def test_the_pooled_class_comes_last_and_other_degradations_are_not_shown(table_maker, drawn_images):
    classes = ("all", "beach", "mountain")
    table = table_maker([Model("bicubic", "method")], classes=classes, kernels=("area", "nearest"))
    source = PictureSource(table, EvaluateConfig(pool="all"), drawn_images(list(classes)), 4)
    strips = report_strips(source)
    assert [strip.title for strip in strips] == ["beach", "mountain", "all"]
    assert all(strip.caption.endswith("LR by area") for strip in strips)


def test_the_picture_of_a_model_is_made_from_the_degradation_that_was_scored(table_maker, drawn_images):
    table = table_maker([Model("bicubic", "method")], classes=("beach",), kernels=("nearest", "area"))
    table.images = table.images[table.images["kernel"] == "nearest"]
    table.conditions = ["nearest/beach"]
    source = PictureSource(table, EvaluateConfig(), drawn_images(["beach"]), 4)
    (strip,) = report_strips(source)
    key = strip.caption.split(":")[0]
    hr_image = source.hr_image(conditions_of(table)[0], key)
    whole = upscale_image(degrade_image(hr_image, 4, "nearest"), 4, "bicubic")
    shown = pixels(next(crop.uri for crop in strip.crops if crop.title == "bicubic"))
    assert any(
        np.array_equal(shown, whole[top : top + 64, left : left + 64])
        for top in range(len(whole) - 63)
        for left in range(whole.shape[1] - 63)
    )


def test_the_best_and_the_worst_cell_are_of_models_with_every_image(table_maker, drawn_images):
    models = [Model(name, "checkpoint", "x", {}, "beach") for name in ("bilinear-a", "bilinear-b")]
    table = table_maker([*models, Model("bicubic", "method")], classes=("beach",))
    table.images.loc[table.images["model"] == "bicubic", "psnr"] = 99
    source = PictureSource(table, EvaluateConfig(report={"num_strips": 1}), drawn_images(["beach"]), 4)
    for model in models:
        source._upsamplers[model.name] = MethodUpsampler("bilinear", 4)
    means = {model.name: table.mean(model.name, "beach", "psnr") for model in models}
    order = sorted(means, key=lambda name: -means[name])
    titles = [strip.title.split(": ")[1] for strip in report_strips(source)[1:]]
    assert titles == [f"{name} on beach" for name in order]
    failed = table.images["image"] == "beach_003"
    table.images.loc[failed & (table.images["model"] == "bilinear-a"), "psnr"] = np.nan
    assert len(report_strips(source)) == 1, "one complete cell is neither"


def test_the_image_of_a_class_has_a_number_of_every_model_that_is_shown(table_maker, drawn_images):
    models = [Model(name, "checkpoint", "x", {}, "beach") for name in ("a", "b")]
    table = table_maker(models, classes=("beach",), num_images=7)
    table.images["psnr"] = table.images["image"].str[-1].astype(float)
    failed = (table.images["image"] == "beach_003") & (table.images["model"] == "a")
    table.images.loc[failed, "psnr"] = np.nan
    strip = report_strips(PictureSource(table, EvaluateConfig(), drawn_images(["beach"]), 4))[0]
    assert strip.caption.startswith("beach_002: ")


def test_a_cell_whose_model_cannot_be_opened_has_no_strip(table_maker, drawn_images):
    models = [Model(name, "checkpoint", f"/none/{name}", {}, "beach") for name in ("a", "b")]
    table = table_maker(models, classes=("beach",))
    source = PictureSource(table, EvaluateConfig(), drawn_images(["beach"]), 4)
    assert [strip.title for strip in report_strips(source)] == ["beach"]


def test_the_crop_of_a_cell_lies_where_the_model_differs_from_bicubic(table_maker, drawn_images):
    class Spotted(MethodUpsampler):
        def __call__(self, lr_image, key=None):
            image = super().__call__(lr_image, key).copy()
            image[-64:, -64:] ^= 1
            return image

    models = [Model(name, "checkpoint", "x", {}, "beach") for name in ("a", "b")]
    table = table_maker(models, classes=("beach",))
    source = PictureSource(table, EvaluateConfig(report={"num_strips": 1}), drawn_images(["beach"]), 4)
    for model in models:
        source._upsamplers[model.name] = Spotted("bicubic", 4)
    best = report_strips(source)[1]
    bicubic, shown = (pixels(crop.uri) for crop in best.crops[1:3])
    assert np.array_equal(bicubic ^ 1, shown)


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
