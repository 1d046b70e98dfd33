"""Foreign WebDataset shards: indexed, read by ranges, or refused with shard and member named."""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from harness.data.index import index, split_name
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


def tar_of(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def png(make_image, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(make_image(seed, 40, 40)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["/etc/cron.d/x.png", "../../x.png", "a/../../x.png", "a\\..\\x.png"])
def test_members_that_lead_outside_are_refused(tmp_path, make_image, name):
    tar_of(tmp_path / "a.tar", {"good.png": png(make_image), name: png(make_image, 1)})
    with pytest.raises(DataError, match=r"a\.tar: member '.*' leads outside the shard"):
        index(tmp_path)
    assert not (tmp_path / "index.parquet").exists()


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("x.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DataError, match=r"member 'x\.png' is no regular file"):
        index(tmp_path)


@pytest.mark.parametrize("extension", ["pyd", "pickle", "pth", "meta.pkl"])
def test_pickled_members_are_refused(tmp_path, make_image, extension):
    tar_of(tmp_path / "a.tar", {"s1.png": png(make_image), f"s1.{extension}": b"cos\nsystem\n(S'false'\ntR."})
    with pytest.raises(
        DataError, match=rf"a\.tar: sample 's1' has a pickled member '\.{extension}', which is never read"
    ):
        index(tmp_path)


def test_a_pickled_member_beside_a_sound_index_is_found_by_verify(tmp_path, make_image):
    import json

    tar_of(tmp_path / "a.tar", {f"s{i}.png": png(make_image, i) for i in range(4)})
    index(tmp_path)
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        archive.addfile(tarfile.TarInfo("s9.pkl"), io.BytesIO())
    description = json.loads((tmp_path / "dataset.json").read_text())
    description["shards"]["a.tar"] = (tmp_path / "a.tar").stat().st_size
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    problems = inspect(str(tmp_path), verify=True).problems
    assert len(problems) == 1 and "sample 's9' has a pickled member" in problems[0]


def test_a_cut_off_shard_is_refused(tmp_path, make_image):
    tar_of(tmp_path / "a.tar", {f"s{i}.png": png(make_image, i) for i in range(4)})
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[: len(content) // 3])
    with pytest.raises(DataError, match=r"a\.tar: (is cut off|is not a sound tar)"):
        index(tmp_path)


def test_a_decompression_bomb_is_skipped_with_its_key(tmp_path, make_image):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = (50_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    tar_of(tmp_path / "a.tar", {"bomb.png": bomb, **{f"s{i}.png": png(make_image, i) for i in range(4)}})
    summary = index(tmp_path)
    assert [item.path for item in summary.skipped] == [f"{tmp_path}/a.tar: sample 'bomb'"]
    assert "decompression bomb" in summary.skipped[0].reason and summary.num_samples == 4


def test_an_array_that_is_not_as_long_as_its_header_says_is_skipped(tmp_path, make_image):
    buffer = io.BytesIO()
    np.save(buffer, make_image(0, 20, 20))
    tar_of(
        tmp_path / "a.tar",
        {"long.npy": buffer.getvalue() + bytes(48), **{f"s{i}.png": png(make_image, i) for i in (1, 2)}},
    )
    summary = index(tmp_path)
    assert [(item.path, item.reason) for item in summary.skipped] == [
        (f"{tmp_path}/a.tar: sample 'long'", "is not as long as its header says")
    ]
    assert len(Dataset.open(str(tmp_path)).offset) == 2


def test_an_array_without_pixels_is_skipped_and_the_rest_can_be_read(tmp_path, make_image):
    buffer = io.BytesIO()
    np.save(buffer, make_image(0, 20, 20)[:0])
    tar_of(tmp_path / "a.tar", {"none.npy": buffer.getvalue(), "s.png": png(make_image)})
    summary = index(tmp_path)
    assert [(item.path, item.reason) for item in summary.skipped] == [
        (f"{tmp_path}/a.tar: sample 'none'", "has no pixels")
    ]
    assert Dataset.open(tmp_path).num_samples == 1


def test_compressed_tars_beside_the_shards_are_listed(tmp_path, make_image):
    tar_of(tmp_path / "a.tar", {"x.png": png(make_image)})
    for name in ("b.tar.gz", "c.tgz", "D.TAR", "a.tar.idx", "notes.txt"):
        (tmp_path / name).touch()
    skipped = index(tmp_path).skipped
    assert [Path(item.path).name for item in skipped] == ["D.TAR", "b.tar.gz", "c.tgz"]
    assert {item.reason for item in skipped} == {"is no .tar (a compressed one cannot be read by ranges)"}


@pytest.mark.parametrize("name", ["a\\b.tar", "caf\udce9.tar"])
def test_shards_of_names_that_a_dataset_cannot_have_are_refused(tmp_path, make_image, name):
    tar_of(tmp_path / name, {"x.png": png(make_image)})
    with pytest.raises(InputError, match="has a name with a backslash or with bytes that are no UTF-8; rename it"):
        index(tmp_path)


def test_samples_without_one_image_are_listed(tmp_path, make_image):
    members = {f"s{i}.png": png(make_image, i) for i in range(4)}
    tar_of(tmp_path / "a.tar", {**members, "text.txt": b"x", "two.png": png(make_image, 8), "two.jpg": b"x"})
    reasons = {item.path.split("'")[1]: item.reason for item in index(tmp_path).skipped}
    assert reasons == {"text": "has no image", "two": "has several images (jpg, png)"}


def test_counts_for_val_and_test_are_those_asked_for(tmp_path, make_image):
    tar_of(tmp_path / "a.tar", {f"s{i}.png": png(make_image, i) for i in range(9)})
    counts = index(tmp_path, val=1, test=3).counts
    assert {split: cells["all"]["images"] for split, cells in counts.items()} == {"train": 5, "val": 1, "test": 3}


def test_another_seed_splits_otherwise(tmp_path, make_image):
    tar_of(tmp_path / "a.tar", {f"s{i}.png": png(make_image, i) for i in range(9)})
    split = {seed: Dataset.open(index(tmp_path, val=1, test=3, seed=seed).path).split_code.tolist() for seed in (0, 1)}
    assert split[0] != split[1]


def test_grey_images_are_known_as_grey_and_arrays_by_what_is_said(tmp_path):
    buffer, array = io.BytesIO(), io.BytesIO()
    Image.new("L", (20, 20), 9).save(buffer, "PNG")
    np.save(array, np.full((20, 20, 3), 9, np.uint8))
    members = {"a.png": buffer.getvalue(), "b.npy": array.getvalue(), "c.npy": array.getvalue()}
    tar_of(tmp_path / "a.tar", {**members, "c.json": b'{"grey": true}'})
    index(tmp_path)
    assert Dataset.open(tmp_path).grey.tolist() == [True, False, True]


def test_what_a_large_json_says_counts_and_one_that_is_too_large_is_listed(tmp_path, make_image, monkeypatch):
    about = b'{"class": "hill", "outlines": [' + b"0, " * 500_000 + b"0]}"
    tar_of(tmp_path / "a.tar", {"x.png": png(make_image), "x.json": about, "y.png": png(make_image, 1)})
    assert sorted(index(tmp_path).counts["train"]) == ["all", "hill"]
    monkeypatch.setattr("harness.data.index._LARGEST_JSON", 1 << 20)
    assert [(item.path, item.reason) for item in index(tmp_path).skipped] == [
        (f"{tmp_path}/a.tar: sample 'x'", "its .json is larger than 1 MB")
    ]


def test_the_same_key_twice_is_refused(tmp_path, make_image):
    for name in "ab":
        tar_of(tmp_path / f"{name}.tar", {"x.png": png(make_image)})
    with pytest.raises(DataError, match=r"the key 'x' is in a\.tar and in b\.tar"):
        index(tmp_path)
    (tmp_path / "b.tar").unlink()
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        archive.addfile(tarfile.TarInfo("x.png"), io.BytesIO())
    with pytest.raises(DataError, match=r"a\.tar: has the member 'x\.png' twice; give the samples different keys"):
        index(tmp_path)


def test_what_lies_in_no_folder_is_of_the_class_all_however_tar_names_it(tmp_path, make_image):
    names = ["./a.png", "b.png", "./hill/c.png", "hill/d.png"]
    tar_of(tmp_path / "a.tar", {name: png(make_image, seed) for seed, name in enumerate(names)})
    index(tmp_path, val=0, test=0)
    dataset = Dataset.open(tmp_path)
    assert [dataset.classes[code] for code in dataset.class_code] == ["all", "all", "hill", "hill"]


def test_names_that_are_no_utf_8_are_indexed(tmp_path, make_image):
    about = {"x.png": png(make_image, 1), "x.json": rb'{"source": "\udcff"}'}
    tar_of(tmp_path / "a.tar", {"caf\udce9.png": png(make_image), **about})
    index(tmp_path, val=0, test=0)
    dataset = Dataset.open(tmp_path)
    assert dataset.keys(np.arange(2)) == [r"caf\udce9", "x"]
    assert dataset.sources(np.arange(2)) == [r"caf\udce9", r"\udcff"]
    assert inspect(str(tmp_path), verify=True).problems == []


def test_folders_without_shards_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no \.tar files"):
        index(tmp_path)
    with pytest.raises(InputError, match="is not a local folder"):
        index(tmp_path / "absent")


def test_keys_are_parted_as_webdataset_parts_them():
    for name in ("a.png", "x/y.z/b.seg.png", "c.PNG", "d/e"):
        key, extension = split_name(name)
        expected = webdataset.tariterators.base_plus_ext(name)
        assert (key, extension) == ((expected[0], expected[1].lower()) if expected[0] else ("d/e", ""))
