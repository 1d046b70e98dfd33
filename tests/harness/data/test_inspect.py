"""`harness inspect`: what a dataset holds, what is wrong with it, and a picture of it."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from harness.data.contact_sheet import write_contact_sheet
from harness.data.degrade import degrade_image
from harness.data.folders import degrade_folder
from harness.data.images import encode_png, read_image
from harness.data.index import index as index_shards
from harness.data.inspect import inspect, print_summary
from harness.data.shards import Dataset
from harness.errors import DataError, InputError


def test_counts_sizes_and_codec_are_told(packed):
    summary = inspect(str(packed))
    dataset = Dataset.open(packed)
    assert summary.classes == ["hill", "lake", "wood"] and summary.num_samples == dataset.num_samples
    assert sum(cell["samples"] for row in summary.counts.values() for cell in row.values()) == summary.num_samples
    assert sum(cell["images"] for row in summary.counts.values() for cell in row.values()) == 21
    assert summary.smallest_px == (40, 40) and summary.codec in ("npy", "png") and not summary.verified
    assert inspect(str(packed), verify=True).problems == []


def test_the_printed_summary_names_classes_splits_sizes_and_problems(packed):
    console = Console(width=120, record=True, file=io.StringIO())
    summary = inspect(str(packed), verify=True)
    print_summary(console, summary)
    print_summary(console, dataclasses.replace(summary, problems=["x.tar: sample 'y' is cut off."]))
    text = console.export_text()
    for word in ("hill", "train: images", "test: images", "codec", "40 x 40 px", "every sample is sound", "is cut off"):
        assert word in text
    assert str(summary.counts["train"]["hill"]["samples"]) in text


def test_names_are_shown_as_they_are_and_command_no_terminal(packed):
    console = Console(width=120, record=True, file=io.StringIO())
    counts = {"train": {"a\x1b]0;b": {"images": 1, "samples": 2}}}
    summary = inspect(str(packed))
    strange = dataclasses.replace(summary, path="set[red]", classes=[*counts["train"]], counts=counts)
    print_summary(console, dataclasses.replace(strange, problems=["key \x1b[2J"], verified=True))
    text = console.export_text()
    assert "set[red]: " in text and r"a\x1b]0;b" in text and r"key \x1b[2J" in text


def test_verify_lists_every_bad_sample_with_shard_and_key(packed, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(packed, folder)
    dataset = Dataset.open(folder)
    bad = [int(dataset.select(split)[0]) for split in ("train", "val", "test")]
    for index in bad:
        path = folder / dataset.shards[dataset.shard_code[index]]
        content = bytearray(path.read_bytes())
        content[int(dataset.offset[index] + dataset.length[index] // 2)] ^= 255
        path.write_bytes(bytes(content))
    seen: list[tuple[int, int]] = []
    problems = inspect(str(folder), verify=True, progress=lambda *x: seen.append(x)).problems
    assert seen[-1] == (dataset.num_samples, dataset.num_samples)
    assert len(problems) == 3
    for index in bad:
        assert any(f"{dataset.shards[dataset.shard_code[index]]}: sample '{dataset.key(index)}'" in p for p in problems)


def test_verify_ends_where_there_are_too_many_problems_to_read(packed_npy, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.data.inspect._MOST_PROBLEMS", 2)
    folder = tmp_path / "copy"
    shutil.copytree(packed_npy, folder)
    shard = folder / "train-000000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    problems = inspect(str(folder), verify=True).problems
    assert len(problems) == 3 and problems[-1] == f"{folder}: stopped after 2 problems; pack the images again."


def test_verify_hands_samples_out_in_chunks(packed, monkeypatch):
    """One by one, those of a million wait in 1.7 GB."""
    submit, handed = ThreadPoolExecutor.submit, []
    monkeypatch.setattr(ThreadPoolExecutor, "submit", lambda *args: handed.append(args) or submit(*args))
    summary = inspect(str(packed), verify=True)
    assert summary.problems == [] and len(handed) == -(-summary.num_samples // 256)


def test_verify_finds_a_fingerprint_that_is_not_the_indexs(packed, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(packed, folder)
    description = json.loads((folder / "dataset.json").read_text())
    description["fingerprint"] = "0" * 64
    (folder / "dataset.json").write_text(json.dumps(description))
    problems = inspect(str(folder), verify=True).problems
    assert len(problems) == 1 and "fingerprint" in problems[0]


def test_the_contact_sheet_shows_samples_of_every_class_and_split(packed, tmp_path):
    out = write_contact_sheet(str(packed), tmp_path / "new" / "sheet.html", per_class=3)
    page = out.read_text()
    assert len(re.findall(r"<h2>", page)) == 9
    assert 9 <= len(re.findall(r"data:image/png;base64", page)) <= 27
    assert "http" not in page.replace("https://", "http").split("<style>")[0]
    write_contact_sheet(str(packed), tmp_path / "again.html", per_class=3)
    assert (tmp_path / "again.html").read_text() == page
    with pytest.raises(InputError, match="cannot be written"):
        write_contact_sheet(str(packed), out / "below.html")


def test_what_shards_of_others_say_is_no_markup_in_the_contact_sheet(tmp_path, tar_of, png_of):
    tar_of(tmp_path / "a.tar", {"<b>x.png": png_of(0)})
    index_shards(tmp_path)
    page = write_contact_sheet(str(tmp_path), tmp_path / "sheet.html").read_text()
    assert "&lt;b&gt;x" in page and "<b>x" not in page


def test_a_folder_is_degraded_as_its_images_are(tmp_path, make_image):
    folder = tmp_path / "hr"
    (folder / "sub").mkdir(parents=True)
    colour, grey = make_image(0, 41, 64), make_image(1, 40, 40)[:, :, 0].copy()
    (folder / "colour.png").write_bytes(encode_png(colour))
    (folder / "sub" / "grey.png").write_bytes(encode_png(grey))
    (folder / "colour.txt").write_text("x")
    summary = degrade_folder(folder, tmp_path / "lr", scale=4)
    assert summary.num_images == 2 and summary.cropped == [str(folder / "colour.png")]
    assert [item.path for item in summary.skipped] == [str(folder / "colour.txt")]
    assert np.array_equal(read_image(tmp_path / "lr" / "colour.png"), degrade_image(colour[:40], 4))
    assert np.array_equal(read_image(tmp_path / "lr" / "sub" / "grey.png"), degrade_image(grey, 4))


def test_degrading_follows_links_and_lists_broken_ones(tmp_path, make_image):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(encode_png(make_image(0, 40, 40)))
    (tmp_path / "hr").mkdir()
    (tmp_path / "hr" / "linked").symlink_to(tmp_path / "photos")
    (tmp_path / "hr" / "gone.png").symlink_to("nowhere.png")
    summary = degrade_folder(tmp_path / "hr", tmp_path / "lr", scale=4)
    assert [Path(item.path).name for item in summary.skipped] == ["gone.png"]
    assert read_image(tmp_path / "lr" / "linked" / "a.png").shape == (10, 10, 3)


def test_degrading_refuses_what_it_cannot_do(tmp_path, make_image):
    (tmp_path / "hr").mkdir()
    with pytest.raises(DataError, match="holds no usable image"):
        degrade_folder(tmp_path / "hr", tmp_path / "lr", scale=4)
    (tmp_path / "hr" / "a.png").write_bytes(encode_png(make_image(0, 40, 40)))
    with pytest.raises(InputError, match="kernel 'lanczos' is unknown"):
        degrade_folder(tmp_path / "hr", tmp_path / "lr", scale=4, kernel="lanczos")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is not a folder"):
        degrade_folder(tmp_path / "absent", tmp_path / "lr", scale=4)
    with pytest.raises(DataError, match=r"40 x 40 px is smaller than 64 px.*give a --scale below 64") as caught:
        degrade_folder(tmp_path / "hr", tmp_path / "lr", scale=64)
    assert "folder of images" not in str(caught.value)
    (tmp_path / "hr" / "a.bmp").write_bytes(encode_png(make_image(0, 40, 40)))
    with pytest.raises(InputError, match="would both become"):
        degrade_folder(tmp_path / "hr", tmp_path / "lr", scale=4)
    assert not (tmp_path / "lr").exists()


@pytest.mark.parametrize("out", ["hr/lr", "link/lr"])
def test_small_images_do_not_join_the_large_ones(tmp_path, make_image, out):
    """The same command again would degrade what it wrote."""
    (tmp_path / "hr").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "hr")
    (tmp_path / "hr" / "a.png").write_bytes(encode_png(make_image(0, 40, 40)))
    with pytest.raises(InputError, match=r"lr: lies inside .*hr, whose images it would join; give a folder outside"):
        degrade_folder(tmp_path / "hr", tmp_path / out, scale=4)
    assert not (tmp_path / out).exists()


@pytest.mark.parametrize("out", ["hr", "hr/../hr", "link"])
def test_no_image_is_replaced_by_its_own_small_one(tmp_path, make_image, out):
    (tmp_path / "hr").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "hr")
    (tmp_path / "hr" / "a.png").write_bytes(encode_png(make_image(0, 40, 40)))
    before = (tmp_path / "hr" / "a.png").read_bytes()
    with pytest.raises(InputError, match="would be overwritten"):
        degrade_folder(tmp_path / "hr", tmp_path / out, scale=4)
    assert (tmp_path / "hr" / "a.png").read_bytes() == before


def test_verify_lists_what_a_failing_disk_does_not_give(packed_npy, monkeypatch):
    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    summary = inspect(str(packed_npy), verify=True)
    assert len(summary.problems) >= summary.num_samples or len(summary.problems) == 101
    assert "cannot be read (Input/output error); check the disk" in summary.problems[0]
