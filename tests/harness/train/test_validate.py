"""Validation in batches: the same scores as one image at a time, and no more of the time than its share unsaid."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.config import RunConfig
from harness.data.cache import NodeCache
from harness.data.config import SourceConfig
from harness.data.degrade import degrade_image
from harness.data.shards import Dataset
from harness.errors import EXIT_DONE, InputError
from harness.train import validate
from harness.train.job import train_recipe
from harness.train.nets import Nets
from harness.train.ranks import Ranks
from harness.train.validate import Pair, Validation, batches_of


def pair(height: int, width: int, number: int = 0) -> Pair:
    lr_image = np.full((height, width, 3), number, np.uint8)
    return Pair(lr_image, np.zeros((4 * height, 4 * width, 3), np.uint8))


def test_batches_keep_the_order_and_one_size_each(monkeypatch):
    monkeypatch.setattr(validate, "_BATCH_PIXELS", 3 * 8 * 8)
    pairs = [pair(8, 8, i) for i in range(4)] + [pair(8, 10, 4), pair(8, 8, 5), pair(40, 40, 6)]
    batches = batches_of(pairs)
    assert [len(batch) for batch in batches] == [3, 1, 1, 1, 1]
    assert [p.lr_image[0, 0, 0] for batch in batches for p in batch] == list(range(7))
    assert all(len({p.lr_image.shape for p in batch}) == 1 for batch in batches)


def test_scores_of_batches_are_those_of_single_images(recipe, tmp_path, monkeypatch):
    config = RunConfig.model_validate({**recipe, "validation": {"max_images": 4, "sample_images": 2}})
    ranks = Ranks(config, str(tmp_path))
    try:
        scores = []
        for budget in (2**16, 1):
            monkeypatch.setattr(validate, "_BATCH_PIXELS", budget)
            validation = Validation(config, config.data.sources, Nets(config, ranks), ranks)
            assert len(validation.pairs) >= 2
            assert (len(validation._batches) < len(validation.pairs)) is (budget > 1)
            scores.append(validation.run(None))
        assert scores[0] == pytest.approx(scores[1], rel=1e-4)
    finally:
        ranks.close()


def psnr_by_hand(sr_image: np.ndarray, hr_image: np.ndarray) -> float:
    """On the luma of ITU-R BT.601, in levels from 16 to 235, without 4 pixels at each border."""
    weights = np.array([65.481, 128.553, 24.966]) / 255
    error = ((sr_image.astype(float) - hr_image.astype(float)) @ weights)[4:-4, 4:-4]
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def test_scores_are_of_the_averaged_generator_on_what_the_commonest_kernel_makes(recipe, tmp_path):
    kernels = {"area": 3.0, "nearest": 1.0}
    data = {**recipe["data"], "degradation": {"kernels": kernels}}
    config = RunConfig.model_validate({**recipe, "data": data, "validation": {"max_images": 2}})
    ranks = Ranks(config, str(tmp_path))
    try:
        nets = Nets(config, ranks)
        for parameter in nets.ema.module.parameters():
            parameter.data.add_(0.002)
        validation = Validation(config, config.data.sources, nets, ranks)
        expected = []
        for pair in validation.pairs:
            assert np.array_equal(pair.lr_image, degrade_image(pair.hr_image, 4, "area"))
            lr_image = torch.from_numpy(pair.lr_image).permute(2, 0, 1)[None].float() / 255
            sr_image = nets.ema.module(lr_image)[0].permute(1, 2, 0).clamp(0, 1) * 255
            expected.append(psnr_by_hand(np.rint(sr_image.numpy()), pair.hr_image))
        assert validation.run(None)["val/psnr"] == pytest.approx(np.mean(expected), abs=1e-3)
    finally:
        ranks.close()


def test_an_image_restored_exactly_is_left_out_of_the_mean_psnr(recipe, tmp_path, monkeypatch):
    """One blank image would make the mean infinite at every step: no curve, and no number that JSON knows."""
    config = RunConfig.model_validate({**recipe, "validation": {"max_images": 2}})
    ranks = Ranks(config, str(tmp_path))
    try:
        validation = Validation(config, config.data.sources, Nets(config, ranks), ranks)
        whole = validation.run(None)
        blank = np.zeros_like(validation.pairs[0].hr_image)
        found = iter([(math.inf, 1.0), (30.0, 0.5), (math.inf, 1.0), (math.inf, 1.0)])
        monkeypatch.setattr(validate, "_scores", lambda *_: next(found))
        assert validation.run(None) == {"val/psnr": 30.0, "val/ssim": 0.75}
        assert validation.run(None) == {"val/ssim": 1.0}
        monkeypatch.undo()
        assert whole.keys() == {"val/psnr", "val/ssim"} and math.isinf(validate._scores(blank, blank, 4)[0])
    finally:
        ranks.close()


def test_remote_images_keep_to_the_bound_of_the_runs_cache(recipe, monkeypatch):
    """A second bound over the same folder would evict, or refuse for want of room, what training's allows."""
    data = {**recipe["data"], "sources": [{"path": "memory://nowhere"}], "cache_gb": 77}
    config = RunConfig.model_validate({**recipe, "data": data})
    bounds = []

    def opened(_: str, cache: NodeCache) -> None:
        bounds.append(cache.limit_bytes)
        raise InputError("enough is known")

    monkeypatch.setattr(Dataset, "open", opened)
    with pytest.raises(InputError, match="enough is known"):
        Validation(config, config.data.sources, None, None)  # type: ignore[arg-type]
    assert bounds == [77_000_000_000]


@pytest.mark.parametrize(("scale", "edges_px"), [(2, range(12, 20)), (4, range(16, 24)), (16, range(44, 52))])
def test_images_too_small_to_be_scored_are_refused_and_no_others(scale, edges_px):
    passed, scored = [], []
    for edge_px in edges_px:
        sizes = {"height": [edge_px], "width": [52], "path": "photos", "key": str}
        image = np.zeros((edge_px, 52, 3), np.uint8)
        dataset = SimpleNamespace(**sizes, read=lambda _, image=image: image)
        with suppress(InputError):
            validate.check_size(dataset, 0, scale)
            passed.append(edge_px)
        with suppress(ValueError):
            hr_image = validate._pair(dataset, 0, scale, "area").hr_image
            validate._scores(hr_image, hr_image, scale)
            scored.append(edge_px)
    assert passed == scored
    assert 0 < len(passed) < len(edges_px)


@pytest.mark.parametrize(("max_share", "says"), [(0.0001, True), (1.0, False)])
def test_a_run_says_once_that_validating_takes_more_than_its_share(recipe, tmp_path, capfd, max_share, says):
    short = {**recipe, "phases": [{**recipe["phases"][0], "iterations": 12}]}
    short["validation"] = {"every": 3, "max_images": 2, "max_share": max_share}
    assert train_recipe(RunConfig.model_validate(short), tmp_path / "run") == EXIT_DONE
    assert capfd.readouterr().out.count("note: validating takes") == int(says)
    rows = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    told = [SimpleNamespace(**row) for row in rows if row["event"] == "validation"]
    assert [row.step for row in told] == [3, 6, 9, 12]
    assert all(row.seconds > 0 and 0 < row.share <= 1 for row in told)


def test_images_are_taken_from_the_classes_in_turn_and_none_from_a_class_without(dataset, monkeypatch):
    opened = Dataset.open(dataset)
    val = np.flatnonzero(opened.split_code == opened.splits.index("val"))
    classes = opened.class_code[val]
    assert set(classes.tolist()) == {0, 1}
    monkeypatch.setattr(Dataset, "open", lambda *_: opened)
    source = SourceConfig(path=str(dataset))
    chosen = [index for _, index in validate.first_images((source,), 2, 4)]
    assert chosen == [val[classes == 0][0], val[classes == 1][0]]
    opened.split_code[val[classes == 0]] = opened.splits.index("train")
    left = val[classes == 1]
    assert [index for _, index in validate.first_images((source,), 100, 4)] == left.tolist()
    without = opened.classes[0]
    with pytest.raises(InputError, match=f"has no images of {without} to validate on; pack some with --val"):
        validate.first_images((SourceConfig(path=str(dataset), classes=(without,)),), 2, 4)
    opened.splits = ["train", "test"]
    with pytest.raises(InputError, match=r"has no images to validate on; pack some with --val"):
        validate.first_images((source,), 2, 4)
