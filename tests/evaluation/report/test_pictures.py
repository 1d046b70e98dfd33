"""Crops, strips and the choice of images."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from evaluation.config import EvaluateConfig
from evaluation.model import Model
from evaluation.report.picture_source import PictureSource
from evaluation.report.pictures import Candidate, build_strip, choose_crop, median_image, png_uri
from evaluation.scores.images import ImageInfo
from harness.data.degrade import degrade_image, upscale_image

CLASSES = ["beach", "mountain", "general"]


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


def test_crop_lies_where_the_images_differ_most():
    first = np.full((200, 300, 3), 90, np.uint8)
    second = first.copy()
    second[120:140, 230:250] = 200
    top, left, size_px = choose_crop([first, second], 64)
    assert size_px == 64 and top <= 120 and top + 64 >= 140 and left <= 230 and left + 64 >= 250


def test_crop_of_the_brute_force_search_is_found():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (23, 19, 3)).astype(np.uint8) for _ in range(3)]
    luma = np.stack([image @ np.array([0.299, 0.587, 0.114]) for image in images]).var(axis=0)
    places = [(y, x) for y in range(16) for x in range(12)]
    expected = max(places, key=lambda place: luma[place[0] : place[0] + 8, place[1] : place[1] + 8].sum())
    assert choose_crop(images, 8)[:2] == expected


def test_images_smaller_than_the_crop_are_shown_whole():
    image = np.zeros((20, 31, 3), np.uint8)
    assert choose_crop([image, image], 64)[2] == 20
    assert choose_crop([image], 64) == (0, 5, 20)


def test_strip_shows_the_same_lossless_crop_of_every_candidate_and_the_original_last():
    rng = np.random.default_rng(1)
    hr_image, sr_image = (rng.integers(0, 255, (80, 90, 3)).astype(np.uint8) for _ in range(2))
    strip = build_strip("sea", "why", hr_image, [Candidate("model", sr_image, own=True)], ["model"])
    crop, original = strip.crops
    assert (original.title, crop.own) == ("HR", True)
    top, left, size_px = choose_crop([sr_image])
    assert np.array_equal(pixels(crop.uri), sr_image[top : top + size_px, left : left + size_px])
    assert np.array_equal(pixels(original.uri), hr_image[top : top + size_px, left : left + size_px])
    assert all(picture.alt.startswith("sea: ") for picture in (strip.whole, *strip.crops))


def test_the_whole_image_frames_the_crop_which_lies_where_the_asked_ones_differ():
    hr_image = np.full((320, 640, 3), 90, np.uint8)
    images = {name: hr_image.copy() for name in ("a", "b", "nearest")}
    images["a"][200:264, 400:464] = 120
    images["nearest"][:64, :64] = 0
    strip = build_strip("t", "c", hr_image, [Candidate(*item) for item in images.items()], ["a", "b"])
    assert (pixels(strip.crops[0].uri) == 120).all()
    whole = pixels(strip.whole.uri)
    rows, columns = (np.flatnonzero((whole > 200).all(axis=2).any(axis=axis)) for axis in (1, 0))
    assert whole.shape == (160, 320, 3)
    assert [rows[0], rows[-1], columns[0], columns[-1]] == pytest.approx([100, 131, 200, 231], abs=2)


def test_png_uri_keeps_every_pixel():
    image = np.random.default_rng(2).integers(0, 255, (7, 5, 3)).astype(np.uint8)
    assert np.array_equal(pixels(png_uri(image)), image)


def test_median_image_is_neither_the_best_nor_the_worst():
    assert median_image({"a": 3.0, "b": 1.0, "c": 2.0}) == "c"
    assert median_image({"a": 1.0, "b": 2.0}) == "a"


@pytest.fixture
def source(table_maker, drawn_images):
    models = [Model("bilinear", "method"), Model("bicubic", "method"), Model("nearest", "method")]
    table = table_maker(models, classes=tuple(CLASSES))
    return PictureSource(table, EvaluateConfig(), drawn_images(CLASSES), 4)


def test_outputs_are_those_of_the_models_on_the_degraded_image(source, drawn_images):
    hr_image = drawn_images(CLASSES).read(ImageInfo("beach_000", 98, 130, False, 0, "beach_000"))[:96, :128]
    corner, outputs = source.outputs(hr_image, "area", "beach_000", ["nearest", "bicubic"])
    assert corner == (0, 0)
    lr_image = degrade_image(hr_image, 4, "area")
    assert np.array_equal(outputs["bicubic"], upscale_image(lr_image, 4, "bicubic"))
    assert list(outputs) == ["nearest", "bicubic"]


@pytest.mark.parametrize("detail", [(0, 0), (301, 502), (596, 796)])
def test_window_of_a_large_image_is_what_the_whole_image_gives_there(source, detail, tmp_path):
    hr_image = np.random.default_rng(1).integers(110, 130, (600, 800, 3)).astype(np.uint8)
    top, left = detail
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3))
    hr_image[max(0, top - 40) : top + 40, max(0, left - 40) : left + 40][:40, :40] = noise
    whole = upscale_image(degrade_image(hr_image, 4, "matlab-bicubic"), 4, "bicubic")
    Image.fromarray(whole).save(tmp_path / "beach_000.png")
    source._models["finished"] = Model("finished", "folder", str(tmp_path))
    (top, left), outputs = source.outputs(hr_image, "matlab-bicubic", "beach_000", ["bicubic", "finished"])
    height, width = outputs["bicubic"].shape[:2]
    assert (height, width) == (384, 384)
    assert np.array_equal(outputs["bicubic"], whole[top : top + height, left : left + width])
    assert np.array_equal(outputs["bicubic"], outputs["finished"])
    assert np.abs(outputs["bicubic"].astype(int) - 120).max() > 20


def test_strip_of_a_window_shows_hr_at_the_same_place():
    hr_image = np.random.default_rng(3).integers(0, 255, (300, 400, 3)).astype(np.uint8)
    window = hr_image[100:200, 160:260]
    strip = build_strip("t", "c", hr_image, [Candidate("same", window)], ["same"], (100, 160))
    assert np.array_equal(pixels(strip.crops[0].uri), pixels(strip.crops[1].uri))
