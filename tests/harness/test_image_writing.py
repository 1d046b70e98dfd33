"""Pictures are written whole, and only where nothing of them is lost."""

from __future__ import annotations

import os

import numpy as np
import pytest

from harness.errors import DataError
from harness.image_writing import write_picture
from harness.images import Picture, read_picture


def values(*shape: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "picture", "words"),
    [
        ("a.jpg", Picture(values(4, 4, 3), values(4, 4)), "alpha"),
        ("a.jpg", Picture(values(4, 4, dtype=np.uint16)), "16 bits"),
        ("a.gif", Picture(values(4, 4, 3)), "256 colours"),
        ("a.xyz", Picture(values(4, 4)), "no known image format"),
        ("a.webp", Picture(values(1, 16_384)), r"at most 16,383 px a side, not 16,384; write \.png"),
        ("a.jpg", Picture(values(65_501, 1)), "at most 65,500 px a side, not 65,501"),
        ("a.jpg", Picture(values(4, 4), exif=bytes(65_534)), "EXIF block, which is too long"),
    ],
)
def test_format_that_would_lose_something_is_refused(tmp_path, name, picture, words):
    with pytest.raises(DataError, match=words):
        write_picture(tmp_path / name, picture)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "picture", [Picture(values(1, 16_383)), Picture(values(2, 2), exif=b"II*\0\x08" + bytes(65_528))]
)
def test_what_a_format_can_just_hold_is_written(tmp_path, picture):
    for name in ("a.webp", "a.jpg"):
        write_picture(tmp_path / name, picture)
        assert read_picture(tmp_path / name).pixels.shape[:2] == picture.pixels.shape


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_picture(path, Picture(values(4, 4)))
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_picture(path, Picture(values(9, 9)))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_file_in_the_folders_place_is_one_sentence(tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        write_picture(tmp_path / "out" / "a.png", Picture(values(4, 4)))
