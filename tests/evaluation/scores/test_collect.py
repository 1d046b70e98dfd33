"""Collecting: each cell once, every kind of model, and a reason for every number that is missing."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import spandrel
import torch
import torchvision
from PIL import Image

from evaluation.config import EvaluateConfig
from evaluation.metrics import METRICS
from evaluation.model import Model, baseline
from evaluation.report.matrix import build_matrix
from evaluation.report.matrix import conditions_of as conditions_in
from evaluation.report.matrix_grid import matrix_grid
from evaluation.report.tables import build_table, table_grid
from evaluation.scores.collect import Remaining, evaluate
from evaluation.scores.frechet import squared_mmd
from evaluation.scores.images import ImageInfo, conditions_of
from evaluation.scores.inception import FIDInception
from evaluation.scores.roster import Entry
from evaluation.scores.stale import mark_stale
from evaluation.scores.table import ScoreTable
from evaluation.scores.upsamplers import MethodUpsampler, NetworkUpsampler
from evaluation.shares import finished_mark, run_share, write_shares
from harness.data.degrade import degrade_image, upscale_image
from harness.data.pack import pack
from harness.errors import InputError
from harness.networks import Network
from harness.quality.psnr import psnr


class Pictures:
    """HR images in memory, with a count of the reads."""

    path = "memory"

    def __init__(self, sizes: dict[str, Sequence[tuple[int, int]]], fingerprint: str = "f1") -> None:
        self.sizes = sizes
        self.fingerprint = fingerprint
        self.classes = list(sizes)
        self.reads: Counter[str] = Counter()

    def images(self, split: str, image_class: str) -> list[ImageInfo]:
        sizes = self.sizes[image_class] if split == "test" else ()
        names = [f"{image_class}/{i}" for i in range(len(sizes))]
        return [ImageInfo(names[i], *size, False, i, names[i]) for i, size in enumerate(sizes)]

    def read(self, image: ImageInfo) -> np.ndarray:
        self.reads[image.key] += 1
        seed = [ord(c) for c in image.key]
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        size = (image.width, image.height)
        return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


class CountingOpener:
    """Opens a stand-in that is bicubic plus the model's own offset, and counts what goes through it."""

    def __init__(self, broken: dict[str, str] | None = None) -> None:
        self.forwards: Counter[str] = Counter()
        self.broken = broken or {}

    def __call__(self, entry: Entry, scale: int, tile_px: int | None, device: str):
        if self.broken.get(entry.model.name) == "unreadable":
            raise InputError(f"{entry.model.path}: cannot be read; train it again.")
        return _Counted(entry.model.name, scale, self)


class _Counted(MethodUpsampler):
    def __init__(self, name: str, scale: int, counter: CountingOpener) -> None:
        super().__init__("bicubic", scale)
        self.name, self.counter = name, counter

    def batch(self, lr_NHWC: np.ndarray, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        sr_NHWC, finite_N = super().batch(lr_NHWC, keys)
        self.counter.forwards.update(f"{self.name}|{key}" for key in keys)
        finite_N = np.array([self.counter.broken.get(self.name) != key for key in keys])
        return np.clip(sr_NHWC.astype(int) + len(self.name), 0, 255).astype(np.uint8), finite_N


def stand_ins(tmp_path: Path, *names: str) -> list[Model]:
    """Models whose file exists, so that they have an identity; a test's opener loads them."""
    models = []
    for name in names:
        (tmp_path / f"{name}.pth").write_text(name)
        models.append(Model(name, "spandrel", str(tmp_path / f"{name}.pth")))
    return models


TWO_CLASSES = {"sea": [(32, 40), (32, 40), (24, 24)], "sand": [(29, 30), (36, 32)]}
CONFIG = EvaluateConfig(scale=4, metrics=("mse", "psnr", "ssim", "color-shift"))


def test_each_number_is_the_mean_over_the_images_of_its_condition(tmp_path: Path) -> None:
    pictures = Pictures(TWO_CLASSES)
    table = evaluate([baseline("bicubic")], CONFIG.model_copy(update={"color": "rgb"}), tmp_path, source=pictures)
    expected = {}
    for image in (image for name in TWO_CLASSES for image in pictures.images("test", name)):
        hr_image = pictures.read(image)[: image.height // 4 * 4, : image.width // 4 * 4]
        sr_image = upscale_image(degrade_image(hr_image, 4), 4)
        pair = (torch.from_numpy(x[4:-4, 4:-4].astype(float))[None] for x in (sr_image, hr_image))
        expected[image.key] = psnr(*pair, data_range=255).item()
    for name in TWO_CLASSES:
        of_class = {key: value for key, value in expected.items() if key.startswith(name)}
        assert table.mean("bicubic", name, "psnr") == pytest.approx(np.mean(list(of_class.values())), abs=1e-9)
        assert table.values("bicubic", name, "psnr").to_dict() == pytest.approx(of_class, abs=1e-9)
    sizes = table.images.set_index("image")[["height", "width"]]
    assert [sizes.loc[key].tolist() for key in ("sand/0", "sand/1")] == [[28, 28], [36, 32]]
    assert table.metrics == CONFIG.metrics and not table.missing
    assert ScoreTable.load(tmp_path).mean("bicubic", "sand", "psnr") == table.mean("bicubic", "sand", "psnr")


def test_code_version_is_that_of_the_code_that_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def versions(code: str, *metrics: str) -> list[str]:
        monkeypatch.setattr("evaluation.scores.collect.code_version", lambda: code)
        config = CONFIG.model_copy(update={"metrics": metrics})
        table = evaluate([baseline("nearest")], config, tmp_path, source=Pictures(TWO_CLASSES))
        return sorted(table.images["code_version"].unique())

    assert versions("1", "psnr") == ["1"]
    assert versions("2", "ssim") == ["2"]
    assert versions("3", "psnr", "ssim") == ["1, 2"]
    assert versions("4", "psnr", "mse") == ["4"], "both were measured anew"


def test_one_forward_per_model_and_image_serves_every_measure_and_the_pooled_row(
    tmp_path: Path, inception_file: Path
) -> None:
    pictures, opener = Pictures(TWO_CLASSES), CountingOpener()
    config = CONFIG.model_copy(update={"pool": "all", "metrics": (*CONFIG.metrics, "fid", "kid")})
    models = stand_ins(tmp_path, "a", "b")
    table = evaluate(models, config, tmp_path, source=pictures, opener=opener, find=lambda name: inception_file)
    assert set(opener.forwards.values()) == {1} and len(opener.forwards) == 2 * 5
    assert set(pictures.reads.values()) == {1}
    assert table.conditions == ["sea", "sand", "all"]
    assert len(table.values("a", "all", "psnr")) == 5
    assert table.images[table.images["condition"] == "all"]["image_class"].unique().tolist() == ["sea", "sand"]
    rows = table.sets.set_index(["model", "condition", "metric"])
    assert rows.loc[("a", "all", "fid"), "num_images"] == 5
    assert "below 2,048 images" in rows.loc[("a", "all", "fid"), "note"]
    assert rows.loc[("a", "all", "kid"), "note"] == ""


def test_kid_of_a_condition_is_that_of_its_images_features(tmp_path: Path, inception_file: Path) -> None:
    pictures = Pictures(TWO_CLASSES)
    config = EvaluateConfig(scale=4, metrics=("kid", "kid-paired"), classes=("sea",))
    table = evaluate([baseline("nearest")], config, tmp_path, source=pictures, find=lambda name: inception_file)
    network = FIDInception(inception_file)

    def features(image: np.ndarray) -> np.ndarray:
        return network.describe(torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255)[0]

    hr_images = [pictures.read(image) for image in pictures.images("test", "sea")]
    real = np.stack([features(image) for image in hr_images])
    fake = np.stack([features(upscale_image(degrade_image(image, 4), 4, "nearest")) for image in hr_images])
    for metric in config.metrics:
        expected, _ = squared_mmd(real, fake, np.arange(len(real)), paired=metric == "kid-paired")
        assert table.mean("nearest", "sea", metric) == pytest.approx(expected, rel=1e-4)


class Tiles(Pictures):
    """Two tiles of each source image."""

    def images(self, split: str, image_class: str) -> list[ImageInfo]:
        found = super().images(split, image_class)
        return [replace(image, source_hash=f"{image_class}/{image.index // 2}") for image in found]


def test_tiles_of_one_image_count_as_one_in_the_deviation_of_diversity(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"metrics": ("diversity",)})
    pictures = Tiles({"sea": [(24, 24)] * 4, "ice": [(24, 24)] * 2})
    table = evaluate([baseline("bicubic")], config, tmp_path, source=pictures)
    cached = [json.loads(file.read_text())["rows"] for file in (tmp_path / "cache").rglob("sea-*.json")]
    values = {key: next(iter(row.values())) for rows in cached for key, row in rows.items()}
    of_sources = [np.mean([values[f"sea/{i}"], values[f"sea/{i + 1}"]]) for i in (0, 2)]
    found = table.sets.set_index("condition")
    assert found.loc["sea", "value"] == pytest.approx(np.mean(list(values.values())))
    assert found.loc["sea", "deviation"] == pytest.approx(np.std(of_sources, ddof=1))
    assert math.isnan(found.loc["ice", "deviation"]), "both are tiles of one image"


def test_kid_for_pairs_needs_images_that_are_not_tiles_of_one(tmp_path: Path, inception_file: Path) -> None:
    config = CONFIG.model_copy(update={"metrics": ("kid", "kid-paired")})
    pictures = Tiles({"sea": [(24, 24)] * 3, "ice": [(24, 24)] * 2})
    table = evaluate([baseline("nearest")], config, tmp_path, source=pictures, find=lambda name: inception_file)
    assert all(math.isfinite(table.mean("nearest", "sea", metric)) for metric in config.metrics)
    assert math.isfinite(table.mean("nearest", "ice", "kid"))
    assert (
        table.missing["nearest", "ice", "kid-paired"] == "needs at least 2 images (not tiles of one), the class has 1"
    )


def test_a_second_evaluation_measures_nothing_and_gives_the_same(tmp_path: Path) -> None:
    models = [*stand_ins(tmp_path, "a"), baseline("bicubic")]
    first = evaluate(models, CONFIG, tmp_path, source=Pictures(TWO_CLASSES), opener=CountingOpener())
    pictures, opener = Pictures(TWO_CLASSES), CountingOpener()
    second = evaluate(models, CONFIG, tmp_path, source=pictures, opener=opener)
    assert not opener.forwards and not pictures.reads
    assert second.images.equals(first.images)


def test_another_model_class_or_metric_adds_only_its_own_cells(tmp_path: Path) -> None:
    models = stand_ins(tmp_path, "a", "b")
    one_class = CONFIG.model_copy(update={"classes": ("sea",)})
    evaluate(models[:1], one_class, tmp_path, source=Pictures(TWO_CLASSES), opener=CountingOpener())
    opener = CountingOpener()
    evaluate(models, one_class, tmp_path, source=Pictures(TWO_CLASSES), opener=opener)
    assert set(opener.forwards) == {"b|sea/0", "b|sea/1", "b|sea/2"}
    opener = CountingOpener()
    evaluate(models, CONFIG, tmp_path, source=Pictures(TWO_CLASSES), opener=opener)
    assert set(opener.forwards) == {"a|sand/0", "a|sand/1", "b|sand/0", "b|sand/1"}


@pytest.mark.parametrize("change", ["dataset", "weights", "border", "kernel"])
def test_what_decides_a_number_decides_whether_it_is_measured_again(change: str, tmp_path: Path) -> None:
    models = stand_ins(tmp_path, "a")
    evaluate(models, CONFIG, tmp_path, source=Pictures(TWO_CLASSES), opener=CountingOpener())
    config, pictures = CONFIG, Pictures(TWO_CLASSES, "f2" if change == "dataset" else "f1")
    if change == "weights":
        (tmp_path / "a.pth").write_text("other")
    if change == "border":
        config = CONFIG.model_copy(update={"border_px": 0})
    if change == "kernel":
        config = CONFIG.model_copy(update={"kernels": ("area",)})
    opener = CountingOpener()
    evaluate(models, config, tmp_path, source=pictures, opener=opener)
    assert len(opener.forwards) == 5


class Killed(BaseException):
    pass


def test_a_killed_evaluation_continues_and_ends_with_the_same_table(tmp_path: Path) -> None:
    sizes = {"sea": [(24, 24)] * 40, "sand": [(24, 24)] * 5}
    models = stand_ins(tmp_path, "a", "b")
    expected = evaluate(models, CONFIG, tmp_path / "whole", source=Pictures(sizes), opener=CountingOpener())

    def kill_in_the_middle(done: int, total: int) -> None:
        if done > 0.6 * total:
            raise Killed

    first, second = CountingOpener(), CountingOpener()
    with pytest.raises(Killed):
        evaluate(models, CONFIG, tmp_path / "torn", kill_in_the_middle, source=Pictures(sizes), opener=first)
    torn = next((tmp_path / "torn").rglob("sea-*.json"))
    torn.write_bytes(torn.read_bytes()[:40])
    continued = evaluate(models, CONFIG, tmp_path / "torn", source=Pictures(sizes), opener=second)
    assert continued.images.equals(expected.images)
    assert 0 < len(second.forwards) < len(expected.images)
    repeated = set(first.forwards) & set(second.forwards)
    assert len(repeated) <= 3 * 16, "at most the chunk that was at work, for both models, and the one that was torn"


def test_an_output_that_is_not_finite_is_named_and_no_number_is_made_of_it(
    tmp_path: Path, inception_file: Path
) -> None:
    models = stand_ins(tmp_path, "good", "bad")
    config = CONFIG.model_copy(update={"metrics": ("psnr", "kid", "diversity")})
    pictures = Pictures({"sea": [(32, 40)] * 2, "sand": [(24, 24)] * 2})
    opener = CountingOpener(broken={"bad": "sea/1"})
    for _ in range(2):
        table = evaluate(models, config, tmp_path, source=pictures, opener=opener, find=lambda name: inception_file)
        for metric in ("psnr", "kid", "diversity"):
            reason = table.missing["bad", "sea", metric]
            assert "sea/1" in reason and "not finite" in reason
            assert math.isnan(table.mean("bad", "sea", metric))
            assert math.isfinite(table.mean("good", "sea", metric)) and math.isfinite(table.mean("bad", "sand", metric))
    assert opener.forwards["bad|sea/1"] == 1 + config.diversity.num_samples, "it is not tried again"


class _NaNWhereBlack(torch.nn.Module):
    def forward(self, lr_image_BCHW: torch.Tensor) -> torch.Tensor:
        sr_BCHW = torch.nn.functional.interpolate(lr_image_BCHW, scale_factor=4.0)
        return torch.where(sr_BCHW == 0, torch.nan, sr_BCHW)


@pytest.mark.parametrize("tile_px", [None, 16])
def test_an_image_that_turns_to_nan_fails_its_cell_alone_whole_or_in_tiles(tmp_path: Path, tile_px: int | None) -> None:
    class Half(Pictures):
        def read(self, image: ImageInfo) -> np.ndarray:
            pixels = np.full((image.height, image.width, 3), 90, np.uint8)
            pixels[100:140, 100:140] = 0 if image.key == "sea/1" else 90
            return pixels

    def opened(entry: Entry, scale: int, tile_px: int | None, device: str) -> NetworkUpsampler:
        return NetworkUpsampler(Network(_NaNWhereBlack(), 4), entry.model.name, tile_px)

    config = CONFIG.model_copy(update={"tile_px": tile_px})
    pictures = Half({"sea": [(160, 160)] * 3, "sand": [(160, 160)] * 2})
    table = evaluate(stand_ins(tmp_path, "a"), config, tmp_path, source=pictures, opener=opened)
    assert set(table.missing) == {("a", "sea", metric) for metric in CONFIG.metrics}
    assert "sea/1 of 3 images is not finite" in table.missing["a", "sea", "psnr"]
    assert table.mean("a", "sand", "mse") == 0


def test_a_model_that_cannot_be_read_says_so_in_each_of_its_cells_and_the_others_are_scored(tmp_path: Path) -> None:
    models = [*stand_ins(tmp_path, "a", "b"), Model("gone", "checkpoint", str(tmp_path / "gone"))]
    opener = CountingOpener(broken={"a": "unreadable"})
    table = evaluate(models, CONFIG, tmp_path, source=Pictures(TWO_CLASSES), opener=opener)
    assert "cannot be read; train it again" in table.missing["a", "sea", "psnr"]
    assert "no such run" in table.missing["gone", "sand", "ssim"]
    assert math.isfinite(table.mean("b", "sea", "psnr"))
    assert set(table.images["model"]) == {"b"}


def test_an_empty_class_says_so(tmp_path: Path) -> None:
    table = evaluate([baseline("bicubic")], CONFIG, tmp_path, source=Pictures({**TWO_CLASSES, "ice": []}))
    assert table.missing["bicubic", "ice", "psnr"] == "class 'ice' has no image in split 'test'"
    assert table.conditions == ["sea", "sand", "ice"]


def test_a_metric_without_its_network_has_a_reason_in_every_cell(tmp_path: Path) -> None:
    def absent(name: str) -> Path:
        raise InputError(f"{name} is absent; run `harness weights fetch {name}`.")

    config = CONFIG.model_copy(update={"metrics": ("psnr", "lpips-vgg", "fid")})
    models = [baseline("bicubic"), Model("gone", "checkpoint", str(tmp_path / "gone"))]
    table = evaluate(models, config, tmp_path, source=Pictures(TWO_CLASSES), find=absent)
    assert "no such run" in table.missing["gone", "sea", "fid"], "no weights would give it numbers"
    assert "fetch vgg16" in table.missing["bicubic", "sea", "lpips-vgg"]
    assert "fetch inception-fid" in table.missing["bicubic", "sand", "fid"]
    assert "lpips-vgg" in table.metrics and table.values("bicubic", "sea", "lpips-vgg").empty


def test_a_damaged_network_file_counts_as_absent(tmp_path: Path) -> None:
    torn = tmp_path / "torn.pth"
    torn.write_bytes(b"no weights")
    config = CONFIG.model_copy(update={"metrics": ("psnr", "lpips-alex")})
    table = evaluate([baseline("bicubic")], config, tmp_path, source=Pictures(TWO_CLASSES), find=lambda name: torn)
    assert "cannot be read as weights" in table.missing["bicubic", "sea", "lpips-alex"]
    assert math.isfinite(table.mean("bicubic", "sea", "psnr"))


def test_tiny_images_have_no_ssim_but_the_rest(tmp_path: Path) -> None:
    pictures = Pictures({"sea": [(16, 60), (40, 40)], "ice": [(16, 16)]})
    table = evaluate([baseline("bicubic")], CONFIG, tmp_path, source=pictures)
    assert len(table.values("bicubic", "sea", "psnr")) == 2 and len(table.values("bicubic", "sea", "ssim")) == 1
    assert table.missing == {("bicubic", "ice", "ssim"): "every image is too small for it"}
    assert math.isfinite(table.mean("bicubic", "ice", "psnr"))


def test_conditions_are_split_times_degradation_times_class(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"kernels": ("matlab-bicubic", "nearest"), "pool": "sea"})
    table = evaluate([baseline("bicubic")], config, tmp_path, source=Pictures(TWO_CLASSES))
    assert table.conditions == ["matlab-bicubic/sea", "matlab-bicubic/sand", "nearest/sea", "nearest/sand"]
    scores = [table.mean("bicubic", f"{kernel}/sea", "psnr") for kernel in config.kernels]
    assert scores[0] > scores[1], "bicubic fits its own degradation better"


def test_the_general_class_stands_last_and_the_pooled_row_after_it(tmp_path: Path) -> None:
    source = Pictures({"beach": [(24, 24)], "general": [(24, 24)], "sea": [(24, 24)]})
    config = CONFIG.model_copy(update={"pool": "all"})
    assert [c.name for c in conditions_of(config, source)] == ["beach", "sea", "general", "all"]
    given = config.model_copy(update={"classes": ("general", "sea")})
    assert [c.name for c in conditions_of(given, source)] == ["general", "sea", "all"], "as the configuration says"


def test_a_class_that_the_dataset_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no class 'moon'; choose among sea, sand"):
        evaluate(
            [baseline("bicubic")],
            CONFIG.model_copy(update={"classes": ("moon",)}),
            tmp_path,
            source=Pictures(TWO_CLASSES),
        )


def test_without_a_scale_or_a_dataset_the_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"set evaluate\.dataset"):
        evaluate([baseline("bicubic")], EvaluateConfig(), tmp_path)
    with pytest.raises(InputError, match=r"set evaluate\.scale"):
        evaluate([baseline("bicubic")], EvaluateConfig(), tmp_path, source=Pictures(TWO_CLASSES))
    with pytest.raises(InputError, match="two models are named 'bicubic'"):
        evaluate([baseline("bicubic")] * 2, CONFIG, tmp_path, source=Pictures(TWO_CLASSES))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_gives_the_same_scores_as_the_processor(tmp_path: Path, inception_file: Path) -> None:
    """Float32 proper on both sides; with TF32 the perceptual distances differ in the third digit."""
    torch.manual_seed(0)
    network = spandrel.architectures.ESRGAN.ESRGAN(num_filters=32, num_blocks=3, scale=4)
    torch.save({"params": network.state_dict()}, tmp_path / "net.pth")
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), tmp_path / "alex.pth")
    files = {"inception-fid": inception_file, "alexnet": tmp_path / "alex.pth"}
    models = [Model("net", "spandrel", str(tmp_path / "net.pth"))]
    metrics = ("psnr", "ssim", "lpips-alex", "fid", "kid")
    tables = {}
    for device in ("cpu", "cuda"):
        config = EvaluateConfig(scale=4, metrics=metrics, device=device)
        pictures = Pictures({"sea": [(64, 64)] * 4})
        tables[device] = evaluate(models, config, tmp_path / device, source=pictures, find=files.__getitem__)
    for metric in metrics:
        scores = [table.mean("net", "sea", metric) for table in tables.values()]
        assert scores[0] == pytest.approx(scores[1], rel=1e-3, abs=1e-7), metric


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="there is no usable GPU here"):
        evaluate(
            [baseline("bicubic")], CONFIG.model_copy(update={"device": "cuda"}), tmp_path, source=Pictures(TWO_CLASSES)
        )


# --- on a real packed dataset -------------------------------------------------------------------------------------


@pytest.fixture
def packed(write_images, tmp_path: Path) -> str:
    for image_class, noise in [("calm", 3.0), ("rough", 25.0)]:
        write_images(tmp_path / "photos" / image_class, 6, noise)
    pack([tmp_path / "photos"], tmp_path / "packed", codec="npy", tile_px=32, test=2, val=0, seed=0)
    return str(tmp_path / "packed")


def on(packed: str, **changes: object) -> EvaluateConfig:
    return EvaluateConfig(dataset=packed, scale=4, metrics=("psnr", "ssim"), **changes)  # type: ignore[arg-type]


def test_tiles_of_one_image_share_its_hash_in_the_table(packed: str, tmp_path: Path) -> None:
    images = evaluate([baseline("nearest")], on(packed, splits=("train",)), tmp_path / "out").images
    photographs = images["image"].str.rsplit("-", n=1).str[0]
    assert images.groupby(photographs)["source_hash"].nunique().eq(1).all()
    assert (images["source_hash"].nunique(), len(images)) == (8, 8 * 4)


def test_two_processes_give_the_same_table_as_one(packed: str, tmp_path: Path) -> None:
    models = [baseline("bicubic"), baseline("nearest")]
    alone = evaluate(models, on(packed), tmp_path / "one")
    done: list[tuple[int, int]] = []
    shared = evaluate(models, on(packed, workers=2), tmp_path / "two", lambda *counts: done.append(counts))
    assert shared.images.equals(alone.images)
    assert done[-1] == (8, 8)


def test_no_process_is_started_for_less_work_than_its_start_takes(
    packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four images of 48 px for each of two models are 18,432 pixels."""
    models, asked = [baseline("bicubic"), baseline("nearest")], []
    monkeypatch.setattr("evaluation.scores.collect.run_units", lambda *values: asked.append(values[4]) or {})
    for number, (pixels, most, changes) in enumerate(
        [(9_216, 4, {}), (9_217, 4, {}), (1, 2, {}), (1, 1, {}), (9_217, 4, {"workers": 2})]
    ):
        monkeypatch.setattr("evaluation.scores.parallel.PIXELS_A_PROCESS", pixels)
        evaluate(models, on(packed, **changes), tmp_path / str(number), max_processes=most)
    assert asked == [2, 2, 2]


def test_shares_of_a_cluster_measure_everything_between_them(packed: str, tmp_path: Path) -> None:
    models, out = [baseline("bicubic"), baseline("nearest")], tmp_path / "out"
    files = write_shares(models, on(packed), out, 2, tmp_path / "shares")
    remaining = Remaining(models, on(packed), out / "cache")
    counts = [remaining.count()]
    for file in files:
        assert not finished_mark(file).exists()
        assert run_share(str(file)) == 0
        assert finished_mark(file).exists()
        counts.append(remaining.count())
    assert counts == [8, 4, 0] and remaining.total == 8
    stored = {path: path.stat().st_mtime_ns for path in (out / "cache").rglob("*.json")}
    table = evaluate(models, on(packed), out)
    assert not table.missing and len(table.images) == 8
    assert stored == {path: path.stat().st_mtime_ns for path in (out / "cache").rglob("*.json")}


def test_a_share_that_cannot_be_measured_leaves_with_wrong_input(tmp_path: Path, capsys) -> None:
    config = EvaluateConfig(scale=4, dataset=str(tmp_path / "gone"))
    (file,) = write_shares([baseline("bicubic")], config, tmp_path / "out", 1, tmp_path / "shares")
    assert run_share(str(file)) == 2
    assert "gone" in capsys.readouterr().err and not finished_mark(file).exists()


def save_sr_images(table: ScoreTable, packed: str, folder: Path) -> None:
    """Bicubic SR images of the test split under CLASS/FILE names, as another system would leave them."""
    from evaluation.scores.images import DatasetImages

    source = DatasetImages(packed)
    for image_class in source.classes:
        for image in source.images("test", image_class):
            name = image.key.rsplit("-", 2)[0]
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            sr_image = upscale_image(degrade_image(source.read(image), 4), 4)
            Image.fromarray(sr_image).save(folder / f"{name}.png")


def test_a_folder_of_sr_images_scores_as_the_model_that_made_them(packed: str, tmp_path: Path) -> None:
    models = [baseline("bicubic")]
    table = evaluate(models, on(packed), tmp_path / "out")
    save_sr_images(table, packed, tmp_path / "sr")
    models.append(Model("theirs", "folder", str(tmp_path / "sr")))
    table = evaluate(models, on(packed), tmp_path / "out")
    for condition in table.conditions:
        assert table.mean("theirs", condition, "psnr") == table.mean("bicubic", condition, "psnr")


def test_models_that_the_configuration_names_become_columns_before_the_baselines(packed: str, tmp_path: Path) -> None:
    table = evaluate([baseline("bicubic")], on(packed), tmp_path / "out")
    save_sr_images(table, packed, tmp_path / "sr")
    config = on(packed, models=(f"theirs={tmp_path / 'sr'}",))
    table = evaluate([baseline("bicubic")], config, tmp_path / "out")
    assert [(model.name, model.kind) for model in table.models] == [("theirs", "folder"), ("bicubic", "method")]
    assert not mark_stale(table, [baseline("bicubic")], config).missing


def test_a_folder_that_does_not_match_shows_both_lists(packed: str, tmp_path: Path) -> None:
    table = evaluate([baseline("bicubic")], on(packed), tmp_path / "out")
    save_sr_images(table, packed, tmp_path / "sr")
    file = next((tmp_path / "sr" / "calm").iterdir())
    file.rename(file.with_name("elsewhere.png"))
    table = evaluate([Model("theirs", "folder", str(tmp_path / "sr"))], on(packed), tmp_path / "out")
    reason = table.missing["theirs", "calm", "psnr"]
    assert f"only in the dataset: calm/{file.stem};" in reason and "only in the folder: calm/elsewhere;" in reason


def test_a_file_that_spandrel_reads_is_a_model(packed: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = spandrel.architectures.ESRGAN.ESRGAN(num_filters=8, num_blocks=1, scale=4)
    torch.save({"params": network.state_dict()}, tmp_path / "theirs.pth")
    models = [Model("theirs", "spandrel", str(tmp_path / "theirs.pth"))]
    table = evaluate(models, on(packed), tmp_path / "out")
    assert not table.missing
    (tmp_path / "theirs.pth").write_bytes(b"torn")
    table = evaluate(models, on(packed), tmp_path / "out")
    assert "is no file of plain tensors" in table.missing["theirs", "calm", "psnr"]
    wrong_scale = on(packed).model_copy(update={"scale": 2})
    torch.save({"params": network.state_dict()}, tmp_path / "theirs.pth")
    table = evaluate(models, wrong_scale, tmp_path / "out")
    assert "upscales by 4, not 2" in table.missing["theirs", "calm", "psnr"]


def test_an_edited_dataset_makes_stored_cells_stale_instead_of_wrong(write_images, packed: str, tmp_path: Path) -> None:
    models = [baseline("bicubic")]
    table = evaluate(models, on(packed), tmp_path / "out")
    assert not mark_stale(table, models, on(packed)).missing
    write_images(tmp_path / "photos" / "calm", 9, 3.0)
    pack([tmp_path / "photos"], tmp_path / "again", codec="npy", tile_px=32, test=2, val=0, seed=0)
    stale = mark_stale(table, models, on(str(tmp_path / "again")))
    assert "the dataset was edited" in stale.missing["bicubic", "calm", "psnr"]
    assert math.isnan(stale.mean("bicubic", "rough", "ssim"))


def test_changed_weights_make_stored_cells_stale(packed: str, tmp_path: Path) -> None:
    table = evaluate([baseline("bicubic")], on(packed), tmp_path / "out")
    table.images["checkpoint_sha"] = "before"
    stale = mark_stale(table, [baseline("bicubic")], on(packed))
    assert "the weights changed" in stale.missing["bicubic", "calm", "psnr"]


def test_numbers_of_a_model_that_is_gone_or_cannot_be_read_any_more_are_stale(packed: str, tmp_path: Path) -> None:
    table = evaluate([baseline(name) for name in ("bicubic", "nearest", "bilinear")], on(packed), tmp_path / "out")
    table.images["model"] = table.images["model"].replace({"nearest": "left", "bilinear": "mine"})
    now = [baseline("bicubic"), Model("mine", "spandrel", str(tmp_path / "gone.pth"))]
    missing = mark_stale(table, now, on(packed)).missing
    assert {model for model, _, _ in missing} == {"left", "mine"}
    assert missing["left", "calm", "psnr"] == "stale: the model is no longer part of the evaluation"
    assert (
        "stale: " in missing["mine", "calm", "psnr"] and "gone.pth: no such weights" in missing["mine", "calm", "psnr"]
    )


def test_numbers_of_a_network_stay_where_its_weights_are_absent(
    packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Path:
        raise InputError(f"{name} is absent.")

    monkeypatch.setattr("evaluation.scores.networks._find", absent)
    table = evaluate([baseline("bicubic")], on(packed), tmp_path / "out")
    table.images["lpips-alex"] = 0.5
    table.images["metric_version"] += " lpips-alex:1:0123456789"
    assert not mark_stale(table, [baseline("bicubic")], on(packed)).missing


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({"color": "rgb"}, {"psnr", "ssim"}),
        ({"border_px": 0}, {"psnr", "ssim"}),
        ({"diversity": {"num_samples": 2, "noise_std": 0.5}}, {"diversity"}),
        ({"max_images": 1, "workers": 2, "pool": "all"}, set()),
    ],
)
def test_scores_that_were_measured_in_another_way_are_stale(
    packed: str, tmp_path: Path, changes: dict[str, object], stale: set[str]
) -> None:
    config = EvaluateConfig(dataset=packed, scale=4, metrics=("psnr", "ssim", "color-shift", "diversity"))
    evaluate([baseline("bicubic")], config, tmp_path / "out")
    table = ScoreTable.load(tmp_path / "out")
    assert not mark_stale(table, [baseline("bicubic")], config).missing
    changed = EvaluateConfig.model_validate(config.model_dump() | changes)
    missing = mark_stale(table, [baseline("bicubic")], changed).missing
    assert {metric for _, _, metric in missing} == stale
    assert all("stale: measured as" in reason for reason in missing.values())


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({"workers": 2, "report": {"num_strips": 0}}, None),
        ({"max_images": 1}, "images"),
        ({"classes": ["calm"]}, "conditions"),
        ({"metrics": ["psnr", "mse"], "kernels": ["area", "nearest"]}, "conditions and measures"),
        ({"models": ["nearest"]}, "models"),
    ],
)
def test_scores_of_other_things_than_are_asked_for_now_say_so(
    packed: str, tmp_path: Path, changes: dict[str, object], asked: str | None
) -> None:
    table = evaluate([baseline("bicubic")], on(packed), tmp_path)
    changed = EvaluateConfig.model_validate(on(packed).model_dump() | changes)
    notes = mark_stale(table, [baseline("bicubic")], changed).notes
    again = "are asked for now than these numbers are of; run `harness evaluate` again."
    assert notes == ([f"Other {asked} {again}"] if asked else [])


def test_scores_of_an_older_version_of_a_measure_are_stale(packed: str, tmp_path: Path) -> None:
    table = evaluate([baseline("bicubic")], on(packed), tmp_path / "out")
    table.images["metric_version"] = table.images["metric_version"].str.replace("psnr:1", "psnr:0")
    missing = mark_stale(table, [baseline("bicubic")], on(packed)).missing
    assert missing.keys() == {("bicubic", name, "psnr") for name in ("calm", "rough")}


@pytest.mark.parametrize(
    ("changes", "of_psnr", "of_mse"),
    [
        ({}, "of luma (Y), without 4 px at each edge", "without 4 px at each edge"),
        ({"color": "rgb", "border_px": 0}, "of RGB", ""),
    ],
)
def test_matrices_and_tables_say_the_colour_and_the_border(
    packed: str, tmp_path: Path, changes: dict[str, object], of_psnr: str, of_mse: str
) -> None:
    """PSNR of luma is a decibel or two above that of RGB: a table in a paper must say which it is."""
    config = on(packed).model_copy(update={"metrics": ("mse", "psnr", "color-shift"), **changes})
    table = evaluate([baseline("bicubic")], config, tmp_path)
    conditions = conditions_in(table)
    psnr, shift = (build_matrix(table, METRICS[name], conditions) for name in ("psnr", "color-shift"))
    assert matrix_grid(psnr).caption == f"peak signal-to-noise ratio in dB, {of_psnr}; higher is better"
    assert shift.how == "" and table.how_measured("mse") == of_mse
    caption = table_grid(build_table(table, conditions, table.metrics)).caption
    assert caption.endswith((f"; MSE: {of_mse}" if of_mse else "") + f"; PSNR: {of_psnr}")


def test_truncated_features_are_measured_again(tmp_path: Path, inception_file: Path) -> None:
    config = CONFIG.model_copy(update={"metrics": ("kid",), "classes": ("sea",)})

    def measured() -> float:
        pictures = Pictures(TWO_CLASSES)
        table = evaluate([baseline("nearest")], config, tmp_path, source=pictures, find=lambda name: inception_file)
        return table.mean("nearest", "sea", "kid")

    first = measured()
    for file in (tmp_path / "cache").rglob("*.npy"):
        file.write_bytes(file.read_bytes()[:-8])
    for file in (tmp_path / "cache" / "sets").iterdir():
        file.unlink()
    assert measured() == pytest.approx(first)


def test_noisy_input_that_gives_nan_is_the_reason_and_one_image_has_no_deviation(tmp_path: Path) -> None:
    class BrokenByNoise(_Counted):
        def batch(self, lr_NHWC: np.ndarray, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            sr_NHWC, _ = super().batch(lr_NHWC, keys)
            return sr_NHWC, np.array([key != "sea/1" or self.counter.forwards[f"a|{key}"] == 1 for key in keys])

    def opened(entry: Entry, scale: int, tile_px: int | None, device: str) -> BrokenByNoise:
        return BrokenByNoise(entry.model.name, scale, CountingOpener())

    config = CONFIG.model_copy(update={"metrics": ("psnr", "diversity")})
    pictures = Pictures({"sea": [(24, 24)] * 2, "ice": [(24, 24)]})
    table = evaluate(stand_ins(tmp_path, "a"), config, tmp_path, source=pictures, opener=opened)
    assert "the output for noisy input is not finite" in table.missing["a", "sea", "diversity"]
    assert math.isfinite(table.mean("a", "sea", "psnr")) and math.isfinite(table.mean("a", "ice", "diversity"))
    assert table.sets["deviation"].isna().all()
