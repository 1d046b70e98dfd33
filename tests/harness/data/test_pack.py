"""Packing: what goes in comes out, whoever did the work and however often it was interrupted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from harness.alone import alone_in
from harness.bench import data_sidecar
from harness.data.inspect import inspect
from harness.data.pack import pack
from harness.data.packing.layout import Group, Options, tile_places
from harness.data.packing.survey import SourceImage, judge
from harness.data.packing.write_group import is_written, write_group
from harness.data.shards import Dataset
from harness.errors import DataError, InputError

SIDECAR = ("index.parquet", "dataset.json")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_tiles_cover_the_image_evenly_and_lie_inside():
    for height, width, tile_px in ((40, 40, 40), (41, 100, 40), (97, 203, 32)):
        covered = np.zeros((height, width), int)
        places = tile_places(height, width, tile_px)
        for top, left, rows, columns in places:
            assert (rows, columns) == (tile_px, tile_px)
            covered[top : top + rows, left : left + columns] += 1
        assert covered.shape == (height, width) and covered.min() == 1
        for starts in (sorted({top for top, *_ in places}), sorted({left for _, left, *_ in places})):
            assert np.ptp(np.diff(starts)) <= 1 if len(starts) > 1 else starts == [0]
        assert len(places) == -(-height // tile_px) * -(-width // tile_px)
    assert tile_places(30, 50, 0) == [(0, 0, 30, 50)]


def test_every_sample_is_the_part_of_its_source_that_its_json_says(packed, image_folder):
    dataset = Dataset.open(packed)
    seen = set()
    for sample in webdataset.WebDataset([str(p) for p in sorted(packed.glob("*.tar"))], shardshuffle=False):
        about = json.loads(sample["json"])
        source = np.asarray(Image.open(image_folder.parent / about["source"]))
        top, left = about["top"], about["left"]
        part = source[top : top + about["height"], left : left + about["width"]]
        stored = (
            np.load(io.BytesIO(sample["npy"])) if "npy" in sample else np.asarray(Image.open(io.BytesIO(sample["png"])))
        )
        assert np.array_equal(stored, part)
        seen.add(sample["__key__"])
    assert seen == {dataset.key(i) for i in range(dataset.num_samples)}
    for i in range(dataset.num_samples):
        assert dataset.read(i).shape == (dataset.height[i], dataset.width[i], 3)


def test_no_source_image_is_on_two_sides_and_held_out_ones_are_whole(packed, image_folder):
    dataset = Dataset.open(packed)
    sides: dict[str, set[str]] = {}
    for i in range(dataset.num_samples):
        split = dataset.splits[dataset.split_code[i]]
        sides.setdefault(dataset.source(i), set()).add(split)
        if split != "train":
            source = Image.open(image_folder.parent / dataset.source(i))
            assert (dataset.width[i], dataset.height[i]) == source.size
    assert all(len(side) == 1 for side in sides.values()) and len(sides) == 21
    assert dataset.description.counts["test"].keys() == {"hill", "lake", "wood"}


def test_bytes_do_not_depend_on_the_number_of_workers(image_folder, tmp_path):
    for workers in (1, 2):
        pack([image_folder], tmp_path / str(workers), tile_px=32, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_an_image_found_on_two_ways_is_packed_as_the_first_whoever_is_through_first(
    image_folder, tmp_path, monkeypatch
):
    sources = [image_folder, image_folder / "hill"]
    expected = pack(sources, tmp_path / "forwards", tile_px=32, workers=1)
    assert expected.num_images == 21 and len(expected.skipped) == 9

    @contextmanager
    def backwards(*_: object) -> Iterator[object]:
        yield lambda function, items, chunk=1: map(function, list(items)[::-1])

    monkeypatch.setattr("harness.data.pack.pool", backwards)
    pack(sources, tmp_path / "backwards", tile_px=32)
    assert contents(tmp_path / "forwards") == contents(tmp_path / "backwards")


def test_packing_again_changes_nothing_and_other_options_are_refused(image_folder, tmp_path):
    first = pack([image_folder], tmp_path / "set", tile_px=32, workers=1)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "set").iterdir()}
    assert pack([image_folder], tmp_path / "set", tile_px=32, workers=1) == first
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "set").iterdir()} == before
    with pytest.raises(InputError, match="holds another dataset; give another --out"):
        pack([image_folder], tmp_path / "set", tile_px=24, workers=1)


KILLED = """
import os, sys
from pathlib import Path
from harness.data import pack as module
from harness.data.packing import layout
layout.GROUP_BYTES = 60_000
def progress(done, total):
    if done >= int(sys.argv[3]):
        os.kill(os.getpid(), 9)
module.pack([Path(sys.argv[1])], Path(sys.argv[2]), tile_px=32, workers=1, progress=progress)
"""


@pytest.mark.parametrize("killed_after", [4, 14])
def test_a_killed_pack_goes_on_after_its_finished_pieces(image_folder, tmp_path, monkeypatch, killed_after):
    monkeypatch.setattr("harness.data.packing.layout.GROUP_BYTES", 60_000)
    pack([image_folder], tmp_path / "whole", tile_px=32, workers=1)
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(image_folder), str(out), str(killed_after)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (out / "dataset.json").exists()
    with pytest.raises(DataError, match="not a packed dataset"):
        Dataset.open(out)
    seen: list[int] = []
    pack([image_folder], out, tile_px=32, workers=1, progress=lambda done, total: seen.append(done))
    assert seen[0] >= killed_after
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("options", [{}, {"tile_px": 20}, {"codec": "png"}, {"test": 1}])
def test_what_a_killed_pack_left_of_other_images_or_options_is_not_used(tmp_path, make_image, monkeypatch, options):
    """Without other options an image is: it has the size, the name and the place of the one that was packed."""
    monkeypatch.setattr("harness.data.packing.layout.GROUP_BYTES", 1)
    folder, out = tmp_path / "in" / "hill", tmp_path / "out"
    folder.mkdir(parents=True)
    usual: dict[str, Any] = {"tile_px": 40, "val": 0, "test": 0, "workers": 1}

    def killed(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    def digest_of_new(name: str, seed: int) -> str:
        Image.fromarray(make_image(seed, 40, 40)).save(folder / f"{name}.png")
        return hashlib.sha256((folder / f"{name}.png").read_bytes()).hexdigest()

    first, *others = sorted((digest_of_new(name, seed), name) for seed, name in enumerate("abc"))
    with pytest.raises(KeyboardInterrupt):
        pack([folder], out, **usual, progress=killed)
    assert len(list((out / ".building").glob("train-*.part"))) == 1
    if not options:
        assert any(digest_of_new(first[1], seed) < min(others)[0] for seed in range(3, 50))
    pack([folder], out, **usual | options)
    pack([folder], tmp_path / "fresh", **usual | options)
    assert contents(out) == contents(tmp_path / "fresh")


def test_shards_do_not_depend_on_how_the_work_is_cut(image_folder, tmp_path, monkeypatch):
    pack([image_folder], tmp_path / "one", tile_px=32, workers=1)
    monkeypatch.setattr("harness.data.packing.layout.GROUP_BYTES", 60_000)
    pack([image_folder], tmp_path / "many", tile_px=32, workers=1)
    one, many = contents(tmp_path / "one"), contents(tmp_path / "many")
    assert (
        one.keys() == many.keys() and [one[name] == many[name] for name in one if name != "dataset.json"] == [True] * 4
    )
    assert inspect(str(tmp_path / "many"), verify=True).problems == []


def test_a_pack_that_was_killed_while_its_shards_were_moved_reads_no_image_again(image_folder, tmp_path, monkeypatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("harness.data.sidecar.write_sidecar", killed)
        pack([image_folder], tmp_path / "set", tile_px=32, workers=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").glob("*.tar")}
    seen: list[int] = []
    pack([image_folder], tmp_path / "set", tile_px=32, workers=1, progress=lambda done, total: seen.append(done))
    assert seen == [21] and len(before) == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_shard_none_of_whose_images_can_be_decoded_is_not_there(tmp_path, make_image):
    (tmp_path / "in").mkdir()
    for number in range(3):
        Image.fromarray(make_image(number, 600, 620)).save(tmp_path / "in" / f"{number}.png")
    cut = tmp_path / "in" / "0.png"
    cut.write_bytes(cut.read_bytes()[:-900])
    summary = pack([tmp_path / "in"], tmp_path / "out", tile_px=0, val=0, test=0, workers=1, shard_mb=1)
    assert [Path(item.path) for item in summary.skipped] == [cut]
    names = {path.name for path in (tmp_path / "out").glob("*.tar")}
    assert len(names) == 2 and names == set(Dataset.open(tmp_path / "out").shards)


@pytest.mark.parametrize("left", [b"", b"{}", bytes(20_000)])
@pytest.mark.parametrize("killed_after", [4, 17])
def test_what_a_power_failure_left_of_a_pack_is_not_taken_for_finished(
    image_folder, tmp_path, monkeypatch, killed_after, left
):
    """It can leave files that have their names, and nothing or zeros in them: of each kind, the first.

    So does a pack of an older version, whose records may lack a key.
    """
    monkeypatch.setattr("harness.data.packing.layout.GROUP_BYTES", 60_000)
    pack([image_folder], tmp_path / "whole", tile_px=32, workers=1)
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(image_folder), str(out), str(killed_after)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert any((out / ".building").glob("*.tar")) is (killed_after == 17)
    for kind in ("*.part", "*-0001.json", "*.tar"):
        for path in sorted((out / ".building").glob(kind))[:1]:
            path.write_bytes(left)
    pack([image_folder], out, tile_px=32, workers=1)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["a hole", "cut off", "too long"])
def test_a_piece_of_a_shard_counts_as_written_only_with_all_its_bytes(image_folder, tmp_path, damage):
    image = judge(("hill", str(image_folder / "hill" / "img 0.v1.png"), "img 0.v1.png"), smallest_px=16)
    assert isinstance(image, SourceImage)
    group = Group("train-000000-0000", (image,))
    write_group(tmp_path, Options(tile_px=32), group)
    assert is_written(tmp_path, group)
    part = tmp_path / "train-000000-0000.part"
    whole = part.read_bytes()
    damaged = {
        "a hole": whole[:1000] + bytes(100) + whole[1100:],
        "cut off": whole[:-512],
        "too long": whole + bytes(512),
    }
    part.write_bytes(damaged[damage])
    assert not is_written(tmp_path, group)


def test_a_shard_and_the_sidecar_are_on_the_disk_before_they_count(image_folder, tmp_path, monkeypatch):
    """A full disk cache is lost with its power: what stands for finished work must not."""
    synced: set[str] = set()
    fsync, replace = os.fsync, os.replace
    unsynced, named = [], []

    def noted(old: Path, new: Path) -> None:
        named.append(Path(new).name)
        if (Path(new).suffix == ".tar" and Path(new).parent.name == ".building") or Path(new).name in SIDECAR:
            unsynced.extend({str(old)} - synced)
        replace(old, new)

    monkeypatch.setattr(os, "fsync", lambda fd: synced.add(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    monkeypatch.setattr(os, "replace", noted)
    pack([image_folder], tmp_path / "out", tile_px=32, workers=1)
    assert unsynced == [] and len(synced) == 5
    assert named[-2:] == list(SIDECAR), "where dataset.json is, there is a dataset"


def test_two_packs_into_one_folder_are_not_at_work_at_once(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.data.pack.alone_in", partial(alone_in, patience_s=0))
    with (
        alone_in(tmp_path, lock=None),
        pytest.raises(InputError, match=f"{tmp_path}: another process is at work there; wait"),
    ):
        pack([image_folder], tmp_path, tile_px=32, workers=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lost", ["val-000000.tar", "index.parquet"])
def test_packing_again_mends_what_is_missing(image_folder, tmp_path, lost):
    first = pack([image_folder], tmp_path / "set", tile_px=32, workers=1)
    before = contents(tmp_path / "set")
    (tmp_path / "set" / lost).unlink()
    with pytest.raises(DataError, match=r"missing; copy or pack .* again"):
        Dataset.open(tmp_path / "set")
    assert pack([image_folder], tmp_path / "set", tile_px=32, workers=1) == first
    assert contents(tmp_path / "set") == before


@pytest.mark.parametrize("description", ["", '{"version": 2}'])
def test_what_another_version_packed_is_not_written_over(image_folder, tmp_path, description):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset.json").write_text(description)
    with pytest.raises(InputError, match="holds another dataset; give another --out, or remove that folder first"):
        pack([image_folder], tmp_path / "set", tile_px=32, workers=1)
    assert contents(tmp_path / "set") == {"dataset.json": description.encode()}


def test_small_shards_hold_the_same_samples(image_folder, tmp_path, make_image):
    folder = tmp_path / "in" / "big"
    folder.mkdir(parents=True)
    for number in range(6):
        Image.fromarray(make_image(number, 400, 500)).save(folder / f"{number}.png")
    few = pack([tmp_path / "in"], tmp_path / "few", tile_px=100, workers=1)
    many = pack([tmp_path / "in"], tmp_path / "many", tile_px=100, workers=1, shard_mb=1)
    assert many.num_shards > few.num_shards and many.num_samples == few.num_samples
    a, b = Dataset.open(few.path), Dataset.open(many.path)
    pixels = {a.key(i): a.read(i).tobytes() for i in range(a.num_samples)}
    assert pixels == {b.key(i): b.read(i).tobytes() for i in range(b.num_samples)}


@pytest.fixture
def mixed_bag(tmp_path: Path, make_image) -> Path:
    """Good images among files that are not, as users have them."""
    folder = tmp_path / "bag" / "things"
    folder.mkdir(parents=True)
    for number in range(6):
        Image.fromarray(make_image(number, 50, 60)).save(folder / f"good{number}.png")
    (folder / "notes.txt").write_text("not an image")
    (folder / "empty.jpg").write_bytes(b"")
    whole = (folder / "good0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "same.png").write_bytes(whole)
    Image.fromarray(make_image(50, 20, 80)).save(folder / "small.png")
    return folder.parent


def test_what_cannot_be_packed_is_listed_with_the_reason(mixed_bag, tmp_path):
    summary = pack([mixed_bag], tmp_path / "out", tile_px=40, workers=1)
    reasons = {Path(item.path).name: item.reason for item in summary.skipped}
    assert set(reasons) == {"notes.txt", "empty.jpg", "cut.png", "same.png", "small.png"}
    assert "not an image" in reasons["notes.txt"] and "not an image" in reasons["empty.jpg"]
    assert "truncated" in reasons["cut.png"]
    assert "same content as" in reasons["same.png"] and "good0.png" in reasons["same.png"]
    assert "80 x 20 px is smaller than 40 px" in reasons["small.png"]
    assert summary.num_images == 6
    assert inspect(str(tmp_path / "out"), verify=True).num_skipped == 5


def test_a_damaged_image_is_listed_whatever_split_it_would_have_joined(mixed_bag, tmp_path):
    for name, amounts in {"train": {}, "test": {"test": 5, "val": 0}, "val": {"test": 0, "val": 5}}.items():
        summary = pack([mixed_bag], tmp_path / name, tile_px=40, workers=1, **amounts)
        listed = [Path(item.path).name for item in summary.skipped]
        assert sorted(listed) == ["cut.png", "empty.jpg", "notes.txt", "same.png", "small.png"]
        assert summary.num_images == 6
        assert summary.counts[name]["things"]["images"] == (5 if amounts else 4), "as many as asked for are sound"


@pytest.mark.parametrize("content", ["nothing", "no images", "only small ones", "only cut ones"])
def test_nothing_to_pack_is_refused_and_leaves_nothing_behind(tmp_path, make_image, content):
    folder = tmp_path / "in"
    folder.mkdir()
    if content == "no images":
        (folder / "a.txt").write_text("x")
    if content == "only small ones":
        Image.fromarray(make_image(0, 20, 20)).save(folder / "small.png")
    if content == "only cut ones":
        for number in range(2):
            Image.fromarray(make_image(number, 90, 90)).save(folder / f"cut{number}.png")
            path = folder / f"cut{number}.png"
            path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=str(folder)) as caught:
        pack([folder], tmp_path / "out", tile_px=40, workers=1)
    assert "give" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_wrong_options_and_places_are_refused(image_folder, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        pack([image_folder], tmp_path / "file" / "out", workers=1)
    with pytest.raises(InputError, match="holds files that are no dataset"):
        pack([image_folder], tmp_path, workers=1)
    with pytest.raises(InputError, match="is not a folder"):
        pack([tmp_path / "absent"], tmp_path / "out", workers=1)
    with pytest.raises(InputError, match="codec 'qoi' is unknown"):
        pack([image_folder], tmp_path / "out", codec="qoi", workers=1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--tile 4 is too small"):
        pack([image_folder], tmp_path / "out", tile_px=4, workers=1)
    assert not (tmp_path / "out").exists()


def test_flat_folders_are_a_class_named_after_them(tmp_path, make_image):
    for name in ("set one", "two"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.fromarray(make_image(number + 10 * len(name), 40, 40)).save(tmp_path / name / f"{number}.png")
    summary = pack([tmp_path / "set one", tmp_path / "two"], tmp_path / "out", tile_px=32, workers=1)
    assert summary.counts["train"].keys() == {"set_one", "two"}


def test_the_same_image_in_two_classes_lies_on_one_side(tmp_path, make_image):
    for class_name in ("a", "b"):
        (tmp_path / "in" / class_name).mkdir(parents=True)
        for number in range(12 if class_name == "a" else 30):
            Image.fromarray(make_image(number, 40, 40)).save(tmp_path / "in" / class_name / f"{number}.png")
    pack([tmp_path / "in"], tmp_path / "out", tile_px=40, workers=1)
    dataset = Dataset.open(tmp_path / "out")
    sides: dict[int, set[int]] = {}
    for code, split in zip(dataset.source_hash.tolist(), dataset.split_code.tolist()):
        sides.setdefault(code, set()).add(split)
    assert len(sides) == 30 and all(len(side) == 1 for side in sides.values())
    assert len(set(dataset.keys(np.arange(dataset.num_samples)))) == dataset.num_samples


def test_links_are_followed_but_not_in_circles(tmp_path, make_image):
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.fromarray(make_image(number, 40, 40)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "back").symlink_to(tmp_path / "photos")
    summary = pack([tmp_path / "in"], tmp_path / "out", tile_px=32, workers=1)
    assert summary.num_images == 4 and summary.skipped == []
    assert list(summary.counts["train"]) == ["linked"]


def test_grey_images_are_remembered(tmp_path, make_image):
    (tmp_path / "in").mkdir()
    for number in range(4):
        image = Image.fromarray(make_image(number, 40, 40))
        (image.convert("L") if number % 2 else image).save(tmp_path / "in" / f"{number}.png")
    pack([tmp_path / "in"], tmp_path / "out", tile_px=32, workers=1)
    dataset = Dataset.open(tmp_path / "out")
    by_source = {dataset.source(i): bool(dataset.grey[i]) for i in range(dataset.num_samples)}
    assert by_source == {"in/0.png": False, "in/1.png": True, "in/2.png": False, "in/3.png": True}
    assert inspect(str(tmp_path / "out")).num_grey == int(dataset.grey.sum())


def test_fractions_are_nested_by_source_image_and_class(packed_npy):
    dataset = Dataset.open(packed_npy)
    last: set[str] = set()
    for fraction in (0.01, 0.2, 0.5, 0.8, 1.0):
        chosen = dataset.select("train", None, fraction)
        sources = {dataset.source(i) for i in chosen}
        assert last <= sources
        whole = [i for i in dataset.select("train") if dataset.source(i) in sources]
        assert chosen.tolist() == whole  # all tiles of an image or none
        assert {dataset.classes[dataset.class_code[i]] for i in chosen} == {"hill", "lake", "wood"}
        last = sources
    assert dataset.select("train").tolist() == dataset.select("train", None, 1.0, fraction_seed=5).tolist()
    assert dataset.select("train", None, 0.5).tolist() != dataset.select("train", None, 0.5, 1).tolist()


@pytest.mark.parametrize(
    ("fraction", "counts"), [(0.01, [1, 1, 1]), (0.2, [1, 1, 1]), (0.5, [4, 3, 2]), (0.8, [6, 4, 2]), (1.0, [7, 5, 3])]
)
def test_a_fraction_of_each_classs_images_is_rounded_and_one_at_least(packed_npy, fraction, counts):
    dataset = Dataset.open(packed_npy)
    chosen = dataset.select("train", None, fraction)
    found = {(code, source) for code, source in zip(dataset.class_code[chosen], dataset.source_hash[chosen])}
    assert [sum(code == number for code, _ in found) for number in range(3)] == counts


@pytest.mark.slow
def test_a_million_samples_take_under_150_mb(tmp_path):
    _, megabytes = data_sidecar.measure(tmp_path)
    assert megabytes < 150


def test_progress_counts_every_image(image_folder, tmp_path):
    seen: list[tuple[int, int]] = []
    pack([image_folder], tmp_path / "out", tile_px=32, workers=1, progress=lambda *x: seen.append(x))
    assert seen[-1] == (21, 21) and [s[0] for s in seen] == sorted(s[0] for s in seen)
