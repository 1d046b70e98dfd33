"""Foreign WebDataset shards: indexed, read by ranges, or refused with shard and member named."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from harness.data.index import index
from harness.data.inspect import inspect
from harness.data.loader import PatchLoader
from harness.data.shards import Dataset
from harness.errors import DataError, InputError


def write_foreign(folder: Path, make_image, kind: str, count: int = 12) -> dict[str, np.ndarray]:
    """Shards as stock webdataset writes them."""
    folder.mkdir()
    images = {}
    with webdataset.ShardWriter(str(folder / "part-%03d.tar"), maxcount=5, verbose=0) as writer:
        for number in range(count):
            image = make_image(number, 40 + number, 50)
            key = f"photos/{number:04d}"
            buffer = io.BytesIO()
            if kind == "npy":
                np.save(buffer, image)
            else:
                Image.fromarray(image).save(buffer, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[kind], quality=95)
                image = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
            sample = {"__key__": key, kind: buffer.getvalue()}
            sample["cls" if number % 2 else "json"] = b"cats" if number % 2 else b'{"class": "dogs", "caption": "x"}'
            writer.write(sample)
            images[key] = image
    return images


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "npy"])
def test_shards_that_webdataset_wrote_are_read_by_ranges(tmp_path, make_image, data_config, kind, read_crop):
    images = write_foreign(tmp_path / "set", make_image, kind)
    summary = index(tmp_path / "set")
    assert (summary.num_samples, summary.num_shards, summary.skipped) == (12, 3, [])
    dataset = Dataset.open(tmp_path / "set")
    assert dataset.classes == ["cats", "dogs"]
    for i in range(12):
        assert np.array_equal(dataset.read(i), images[dataset.key(i)])
        assert dataset.classes[dataset.class_code[i]] == ("cats" if int(dataset.key(i)[-1]) % 2 else "dogs")
        whole = images[dataset.key(i)]
        assert np.array_equal(read_crop(dataset, i, 3, 5, 20, 30), whole[3:23, 5:35])
    assert inspect(str(tmp_path / "set"), verify=True).problems == []
    data = data_config(tmp_path / "set")
    loader = PatchLoader(data, data.sources, seed=0, batch_size=4)
    assert next(loader.batches(0)).hr_BHWC.shape == (4, 24, 24, 3)


@pytest.mark.parametrize("key", ["source", "source_sha256"])
def test_tiles_of_one_image_stay_in_one_split_whatever_names_the_image(tmp_path, make_image, key):
    images = ["lake.png", "-5", "beef", 0, "a" * 64, "a" * 64 + "-2"]
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(24):
            buffer = io.BytesIO()
            np.save(buffer, make_image(number, 16, 16))
            writer.write({"__key__": f"{number:04d}", "npy": buffer.getvalue(), "json": {key: images[number // 4]}})
    index(tmp_path, val=1, test=1)
    dataset = Dataset.open(tmp_path)
    found = {
        (int(key) // 4, dataset.source_hash[i], dataset.split_code[i])
        for i, key in enumerate(dataset.keys(np.arange(24)))
    }
    assert len(found) == len({source_hash for _, source_hash, _ in found}) == 6


def test_a_tile_that_says_no_split_lies_where_another_tile_of_its_image_says(tmp_path, tar_of, png_of):
    said = {"lake": ["", "", "test", ""], "hill": ["", "train", "", ""], "wood": [""] * 4}
    members = {}
    for source, splits in said.items():
        for number, split in enumerate(splits):
            about = {"source": source} | ({"split": split} if split else {})
            key = f"{source}-{number}"
            members |= {f"{key}.png": png_of(len(members)), f"{key}.json": json.dumps(about).encode()}
    tar_of(tmp_path / "a.tar", members)
    index(tmp_path, val=0, test=0)
    dataset = Dataset.open(tmp_path)
    splits = [dataset.splits[code] for code in dataset.split_code]
    found = {source: [s for i, s in enumerate(splits) if dataset.source(i) == source] for source in said}
    assert found == {"lake": ["test"] * 4, "hill": ["train"] * 4, "wood": ["train"] * 4}


@pytest.mark.parametrize("splits", [("train", "test"), ("val", "test"), ("test", "train")])
def test_tiles_of_one_image_that_say_different_splits_are_refused(tmp_path, tar_of, png_of, splits):
    for name, split in zip("ab", splits):
        about = json.dumps({"source": "lake", "split": split}).encode()
        tar_of(tmp_path / f"{name}.tar", {f"{name}.png": png_of(0), f"{name}.json": about})
    one, other = splits
    sides = (
        rf"the image 'lake' is on two sides, 'a' in a\.tar says {one} and 'b' in b\.tar says {other}; give its tiles"
    )
    with pytest.raises(DataError, match=sides):
        index(tmp_path)
    assert not (tmp_path / "index.parquet").exists()


def test_the_same_image_under_two_keys_is_one_image(tmp_path, tar_of, png_of):
    tar_of(tmp_path / "a.tar", {f"{name}{i}.png": png_of(i) for name in "ab" for i in range(4)})
    counts = index(tmp_path, val=1, test=1).counts
    assert counts == {
        split: {"all": {"images": images, "samples": 2 * images}}
        for split, images in (("test", 1), ("train", 2), ("val", 1))
    }


def test_a_split_of_another_name_counts_as_not_said(tmp_path, tar_of, png_of):
    pngs = {f"{i}.png": png_of(i) for i in range(6)}
    tar_of(tmp_path / "a.tar", pngs | {f"{i}.json": b'{"split": "train2017"}' for i in range(6)})
    assert sorted(index(tmp_path, val=1, test=1).counts) == ["test", "train", "val"]


def test_indexing_our_own_shards_gives_the_sidecar_that_pack_wrote(packed, tmp_path):
    import shutil

    shutil.copytree(packed, tmp_path / "bare")
    for name in ("index.parquet", "dataset.json"):
        (tmp_path / "bare" / name).unlink()
    assert index(tmp_path / "bare").fingerprint == Dataset.open(packed).fingerprint


def test_indexing_a_pack_keeps_what_only_packing_knows(packed, tmp_path):
    import shutil

    shutil.copytree(packed, tmp_path / "copy")
    (tmp_path / "copy" / "index.parquet").write_bytes(b"damaged")
    index(tmp_path / "copy")
    assert Dataset.open(tmp_path / "copy").description == Dataset.open(packed).description

    next((tmp_path / "copy").glob("*.tar")).unlink()
    before = (tmp_path / "copy" / "dataset.json").read_bytes()
    with pytest.raises(InputError, match=r"dataset\.json: is of a pack whose shards were changed since; pack"):
        index(tmp_path / "copy")
    assert (tmp_path / "copy" / "dataset.json").read_bytes() == before


def test_a_pickled_member_beside_a_sound_index_is_found_by_verify(tmp_path, tar_of, png_of):
    tar_of(tmp_path / "a.tar", {f"s{i}.png": png_of(i) for i in range(4)})
    index(tmp_path)
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        archive.addfile(tarfile.TarInfo("s9.pkl"), io.BytesIO())
    description = json.loads((tmp_path / "dataset.json").read_text())
    description["shards"]["a.tar"] = (tmp_path / "a.tar").stat().st_size
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    problems = inspect(str(tmp_path), verify=True).problems
    assert len(problems) == 1 and "sample 's9' has a pickled member" in problems[0]


def test_a_cut_off_shard_is_refused(tmp_path, tar_of, png_of):
    tar_of(tmp_path / "a.tar", {f"s{i}.png": png_of(i) for i in range(4)})
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[: len(content) // 3])
    with pytest.raises(DataError, match=r"a\.tar: (is cut off|is not a sound tar)"):
        index(tmp_path)


def test_compressed_tars_beside_the_shards_are_listed(tmp_path, tar_of, png_of):
    tar_of(tmp_path / "a.tar", {"x.png": png_of(0)})
    for name in ("b.tar.gz", "c.tgz", "D.TAR", "a.tar.idx", "notes.txt"):
        (tmp_path / name).touch()
    skipped = index(tmp_path).skipped
    assert [Path(item.path).name for item in skipped] == ["D.TAR", "b.tar.gz", "c.tgz"]
    assert {item.reason for item in skipped} == {"is no .tar (a compressed one cannot be read by ranges)"}


@pytest.mark.parametrize("name", ["a\\b.tar", "caf\udce9.tar"])
def test_shards_of_names_that_a_dataset_cannot_have_are_refused(tmp_path, name, tar_of, png_of):
    tar_of(tmp_path / name, {"x.png": png_of(0)})
    with pytest.raises(InputError, match="has a name with a backslash or with bytes that are no UTF-8; rename it"):
        index(tmp_path)


def test_counts_for_val_and_test_are_those_asked_for(tmp_path, tar_of, png_of):
    tar_of(tmp_path / "a.tar", {f"s{i}.png": png_of(i) for i in range(9)})
    counts = index(tmp_path, val=1, test=3).counts
    assert {split: cells["all"]["images"] for split, cells in counts.items()} == {"train": 5, "val": 1, "test": 3}


def test_another_seed_splits_otherwise(tmp_path, tar_of, png_of):
    tar_of(tmp_path / "a.tar", {f"s{i}.png": png_of(i) for i in range(9)})
    split = {seed: Dataset.open(index(tmp_path, val=1, test=3, seed=seed).path).split_code.tolist() for seed in (0, 1)}
    assert split[0] != split[1]


def test_the_same_key_twice_is_refused(tmp_path, tar_of, png_of):
    for name in "ab":
        tar_of(tmp_path / f"{name}.tar", {"x.png": png_of(0)})
    with pytest.raises(DataError, match=r"the key 'x' is in a\.tar and in b\.tar"):
        index(tmp_path)
    (tmp_path / "b.tar").unlink()
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        archive.addfile(tarfile.TarInfo("x.png"), io.BytesIO())
    with pytest.raises(DataError, match=r"a\.tar: has the member 'x\.png' twice; give the samples different keys"):
        index(tmp_path)


def test_folders_without_shards_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no \.tar files"):
        index(tmp_path)
    with pytest.raises(InputError, match="is not a local folder"):
        index(tmp_path / "absent")
