"""The embedded dataset: drawn from (class, seed, index) alone, with detail at every scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.degrade import degrade_image, upscale_image
from harness.data.synth import CLASSES, draw, write_dataset
from harness.errors import InputError


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_files_do_not_depend_on_workers_or_on_the_number_of_images(tmp_path):
    assert write_dataset(tmp_path / "one", 3, 48, seed=1, workers=1) == 18
    write_dataset(tmp_path / "two", 5, 48, seed=1, workers=2)
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert set(one) < set(two) and all(two[name] == content for name, content in one.items())
    assert len(two) == 5 * len(CLASSES) and len(set(two.values())) == len(two)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "one" / "sea" / "sea_00002.png")), draw("sea", 1, 2, 48))


def test_every_image_has_random_numbers_of_its_own(monkeypatch):
    monkeypatch.setattr("harness.data.synth.paint", lambda rng, painter, size_px: rng.random())
    drawn = {draw(name, seed, index, 32) for name in CLASSES for seed in range(2) for index in range(2)}
    assert len(drawn) == len(CLASSES) * 4


def test_an_image_that_was_not_written_to_its_end_is_not_kept(tmp_path, monkeypatch):
    def torn(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:50])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "write_bytes", torn)
        write_dataset(tmp_path, 1, 32, workers=1)
    assert files(tmp_path) == {}


def test_drawing_goes_on_after_what_is_there(tmp_path):
    write_dataset(tmp_path, 2, 32, workers=1)
    seen: list[tuple[int, int]] = []
    assert write_dataset(tmp_path, 3, 32, workers=1, progress=lambda *x: seen.append(x)) == len(CLASSES)
    assert seen[-1] == (18, 18)


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("px", [32, 100, 257])
def test_any_size_is_drawn(class_name, px):
    image = draw(class_name, 0, 0, px)
    assert image.shape == (px, px, 3) and image.dtype == np.uint8
    assert image.std() > 10
    assert not np.array_equal(image, draw(class_name, 1, 0, px))


@pytest.mark.parametrize("class_name", [name for name in CLASSES if name != "general"])
def test_a_bicubic_round_trip_loses_detail_at_every_scale(class_name):
    """At each scale the loss is well above the sensor noise (below 1 level) and below chance."""
    for scale in (2, 4, 8):
        images = [draw(class_name, 0, index, 192) for index in range(4)]
        losses = [
            np.sqrt(((upscale_image(degrade_image(i, scale), scale).astype(float) - i) ** 2).mean()) for i in images
        ]
        assert 2 < np.mean(losses) < 40


def test_classes_differ_in_their_statistics():
    """A nearest-centroid rule on simple statistics tells the landscapes apart."""

    def features(image: np.ndarray) -> np.ndarray:
        grey = image.astype(float).mean(axis=2)
        edges = [np.abs(np.diff(grey, axis=axis)).mean() for axis in (0, 1)]
        return np.array([*image.reshape(-1, 3).mean(axis=0) / 20, *edges, grey.std() / 10])

    names = [name for name in CLASSES if name != "general"]
    centroid = {name: np.mean([features(draw(name, 0, i, 96)) for i in range(8)], axis=0) for name in names}
    right = 0
    for name in names:
        for index in range(8, 14):
            distance = {other: np.linalg.norm(features(draw(name, 0, index, 96)) - c) for other, c in centroid.items()}
            right += min(distance, key=distance.__getitem__) == name
    assert right >= 24  # of 30; chance is 6


def test_wrong_amounts_and_places_are_refused(tmp_path):
    with pytest.raises(InputError, match="--images-per-class 0"):
        write_dataset(tmp_path, 0)
    with pytest.raises(InputError, match="--size 8"):
        write_dataset(tmp_path, 1, 8)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        write_dataset(tmp_path / "file" / "sub", 1, 32)


@pytest.mark.parametrize("other", [{"seed": 1}, {"size_px": 48}])
def test_images_of_another_seed_or_size_are_not_taken_for_these(tmp_path, other):
    write_dataset(tmp_path, 1, 32, workers=1)
    before = files(tmp_path)
    with pytest.raises(InputError, match="another --size or --seed"):
        write_dataset(tmp_path, 2, **{"size_px": 32, "seed": 0, "workers": 1, **other})
    assert files(tmp_path) == before


@pytest.mark.parametrize("workers", [0, -1])
def test_fewer_than_one_worker_is_refused(tmp_path, workers):
    with pytest.raises(InputError, match=f"--workers {workers} is too few"):
        write_dataset(tmp_path, 1, 32, workers=workers)
