"""Opening and reading datasets: by ranges, and with one sentence for everything that is wrong."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.data import reading, sidecar
from harness.data.pack import pack
from harness.data.shards import Dataset
from harness.errors import DataError, InputError, UnreachableError
from harness.files import sha256_of


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    shutil.copytree(packed, tmp_path / "copy")
    return tmp_path / "copy"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_crop_is_the_part_of_the_whole(packed, read_crop, data):
    dataset = Dataset.open(packed)
    index = data.draw(st.integers(0, dataset.num_samples - 1))
    whole = dataset.read(index)
    height = data.draw(st.integers(1, whole.shape[0]))
    width = data.draw(st.integers(1, whole.shape[1]))
    top = data.draw(st.integers(0, whole.shape[0] - height))
    left = data.draw(st.integers(0, whole.shape[1] - width))
    for _ in range(2):  # compared with its checksum, and not any more
        crop = read_crop(dataset, index, top, left, height, width)
        assert np.array_equal(crop, whole[top : top + height, left : left + width])


@pytest.mark.parametrize("width", [300, 4000])
def test_only_the_rows_of_the_crop_are_read_from_large_samples(tmp_path, make_image, monkeypatch, width, read_crop):
    (tmp_path / "in").mkdir()
    for number in range(3):
        Image.fromarray(make_image(number, 600, width)).save(tmp_path / "in" / f"{number}.png")
    pack([tmp_path / "in"], tmp_path / "set", tile_px=0, workers=1)
    dataset = Dataset.open(tmp_path / "set")
    index = int(dataset.select("train")[0])
    expected = dataset.read(index)[100:164, 50:114]
    counted = []
    preadv = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda fd, buffers, at: counted.append(len(buffers[0])) or preadv(fd, buffers, at)
    )
    monkeypatch.setattr(os, "pread", lambda *args: pytest.fail("the whole sample was read"))
    assert np.array_equal(read_crop(dataset, index, 100, 50, 64, 64), expected)
    assert sum(counted) <= 64 * width * 3  # none at all where the crop comes out of the memory map


def test_a_crop_of_a_sample_that_is_compared_comes_out_of_what_is_compared(packed_npy, monkeypatch, read_crop):
    dataset, read = Dataset.open(packed_npy), []
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda fd, length, at: read.append("all") or pread(fd, length, at))
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: read.append("rows") or preadv(fd, buffers, at))
    index = int(dataset.select("train")[3])
    crops = [read_crop(dataset, index, 5, 7, 20, 24) for _ in range(2)]
    assert read == ["all", "rows"]
    assert all(np.array_equal(crop, dataset.read(index)[5:25, 7:31]) for crop in crops)


def test_threads_read_the_same(packed):
    dataset = Dataset.open(packed)
    expected = [dataset.read(i).tobytes() for i in range(dataset.num_samples)]
    fresh = Dataset.open(packed)
    wrong: list[int] = []

    def work() -> None:
        for i in range(fresh.num_samples):
            if fresh.read(i).tobytes() != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"is not a packed dataset \(no dataset\.json\); run `harness pack`"):
        Dataset.open(tmp_path)
    with pytest.raises(DataError, match="absent: is not a packed dataset"):
        Dataset.open(tmp_path / "absent")


def test_a_missing_shard_is_named_when_the_dataset_is_opened(copy):
    (copy / "val-000000.tar").unlink()
    with pytest.raises(DataError, match=r"val-000000.tar: the shard is missing; copy or pack it again"):
        Dataset.open(copy)


@pytest.mark.parametrize("more", [-5000, 512])
def test_a_shard_of_another_size_is_named_when_the_dataset_is_opened(copy, more):
    shard = copy / "train-000000.tar"
    os.truncate(shard, shard.stat().st_size + more)
    with pytest.raises(DataError, match=r"train-000000.tar: the shard has \d+ bytes instead of \d+"):
        Dataset.open(copy)


def test_a_shard_truncated_after_opening_is_an_error_that_names_the_sample(copy, read_crop):
    dataset = Dataset.open(copy)
    index = int(dataset.select("train")[-1])
    dataset.read(int(dataset.select("train")[0]))
    os.truncate(copy / "train-000000.tar", int(dataset.offset[index]) + 100)
    with pytest.raises(DataError, match=f"sample '{dataset.key(index)}' is cut off"):
        dataset.read(index)
    with pytest.raises(DataError, match=f"sample '{dataset.key(index)}' is cut off"):
        read_crop(dataset, index, 0, 0, 8, 8)


def test_a_sample_truncated_after_it_was_checked_is_an_error(packed_npy, tmp_path, read_crop):
    """Else what the reader read before would stand in for the rest."""
    shutil.copytree(packed_npy, tmp_path / "set")
    dataset = Dataset.open(tmp_path / "set")
    index = int(dataset.select("train")[-1])
    read_crop(dataset, index, 0, 0, 24, 24)
    os.truncate(tmp_path / "set" / "train-000000.tar", int(dataset.offset[index] + dataset.header[index]) + 1000)
    with pytest.raises(DataError, match=f"sample '{dataset.key(index)}' is cut off"):
        read_crop(dataset, index, 0, 0, 24, 24)


def test_a_large_sample_truncated_after_opening_is_an_error_and_not_a_signal(tmp_path, make_image, read_crop):
    (tmp_path / "in").mkdir()
    for number in range(3):
        Image.fromarray(make_image(number, 300, 1000)).save(tmp_path / "in" / f"{number}.png")
    pack([tmp_path / "in"], tmp_path / "set", tile_px=0, workers=1)
    dataset = Dataset.open(tmp_path / "set")
    index = int(dataset.select("train")[0])
    read_crop(dataset, index, 200, 0, 64, 64)
    first = int(dataset.offset[index] + dataset.header[index]) + 200 * 3000
    for size in (first + 63 * 3000, first + 5000, 100_000):
        os.truncate(tmp_path / "set" / "train-000000.tar", size)
        with pytest.raises(DataError, match="is cut off"):
            read_crop(dataset, index, 200, 0, 64, 64)


def test_a_disk_that_fails_is_an_error_that_names_the_shard(packed_npy, monkeypatch, read_crop):
    dataset = Dataset.open(packed_npy)
    index = int(dataset.select("train")[0])
    dataset.read(index)

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    monkeypatch.setattr(os, "pread", fail)
    for read in (dataset.read, lambda i: read_crop(dataset, i, 0, 0, 8, 8)):
        with pytest.raises(DataError, match=r"train-000000.tar: cannot be read \(Input/output error\)"):
            read(index)


@pytest.mark.parametrize("name", ["dataset.json", "index.parquet"])
@pytest.mark.parametrize(
    ("number", "kind", "mend"),
    [(errno.EACCES, DataError, "check its rights"), (errno.ESTALE, UnreachableError, "try again once the disk")],
)
def test_a_sidecar_that_cannot_be_read_is_named_with_the_mend(packed_npy, monkeypatch, name, number, kind, mend):
    real = io.open

    def opened(path: object, *arguments: object, **options: object) -> object:
        if path == packed_npy / name:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(io, "open", opened)
    with pytest.raises(kind, match=rf"{name}: cannot be read \(.*\); {mend}") as raised:
        Dataset.open(packed_npy)
    assert type(raised.value) is kind


def test_a_flipped_byte_is_named_with_shard_and_key(copy, read_crop):
    dataset = Dataset.open(copy)
    index = int(dataset.select("train")[2])
    shard = copy / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[int(dataset.offset[index] + dataset.length[index]) - 9] ^= 1
    shard.write_bytes(bytes(content))
    fresh = Dataset.open(copy)
    for read in (fresh.read, lambda i: read_crop(fresh, i, 0, 0, 8, 8)):
        with pytest.raises(
            DataError, match=rf"train-000000.tar: sample '{fresh.key(index)}' differs from its checksum"
        ):
            read(index)
    fresh.read(int(dataset.select("train")[3]))


def test_a_sidecar_that_does_not_match_is_refused(copy, packed_npy, image_folder, tmp_path):
    pack([image_folder], tmp_path / "other", tile_px=32, workers=1)
    shutil.copy(tmp_path / "other" / "index.parquet", copy / "index.parquet")
    with pytest.raises(DataError, match=r"index.parquet: does not match dataset.json"):
        Dataset.open(copy)
    (copy / "index.parquet").unlink()
    with pytest.raises(DataError, match=r"index.parquet: is missing"):
        Dataset.open(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(version=9), "has version 9"),
        (lambda d: d.pop("shards"), "is not the description of a dataset"),
        (lambda d: d["shards"].update({"../evil.tar": 5}), "a name with a folder in it"),
        (lambda d: d["shards"].pop("train-000000.tar"), "names the shard train-000000.tar"),
        (lambda d: d["shards"].update({"train-000000.tar": 4096}), "does not fit its shard"),
        (lambda d: d["shards"].update({"train-000000.tar": -1}), "or no size"),
        (lambda d: d["shards"].update({"train-000000.tar": 2**70}), "or no size"),
        (lambda d: d.update(num_samples=3), "rows instead of 3"),
    ],
)
def test_a_description_that_was_tampered_with_is_refused(copy, change, message):
    path = copy / "dataset.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))
    with pytest.raises(DataError, match=message):
        Dataset.open(copy)
    path.write_text("[1, 2]")
    with pytest.raises(DataError, match="is not the description of a dataset"):
        Dataset.open(copy)


def with_value(folder: Path, row: int, column: str, value: object) -> None:
    """Writes another value into an index, which `dataset.json` then knows as its own."""
    rows = sidecar.read_columns(folder / "index.parquet", sidecar.SCHEMA.names).to_pylist()
    rows[row][column] = value
    sidecar.write_index(pa.Table.from_pylist(rows, sidecar.SCHEMA), folder / "index.parquet")
    description = json.loads((folder / "dataset.json").read_text())
    description["index_sha256"] = sha256_of(folder / "index.parquet")
    (folder / "dataset.json").write_text(json.dumps(description))


@pytest.mark.parametrize("row", [0, -1])
@pytest.mark.parametrize(
    ("column", "value"),
    [("offset", -1), ("offset", 2**62), ("length", 0), ("height", 0), ("width", -1), ("header", -1)],
)
def test_places_that_no_sample_can_have_are_refused_with_its_key(copy, monkeypatch, row, column, value):
    with_value(copy, row, column, value)
    monkeypatch.setattr(sidecar, "ROW_GROUP", 7)  # the index is checked in parts
    key = sidecar.read_columns(copy / "index.parquet", ["key"])["key"][row].as_py()
    with pytest.raises(DataError, match=f"sample '{key}' has a place in the index that does not fit its shard"):
        Dataset.open(copy)


def test_a_raw_sample_whose_pixels_do_not_fill_its_place_is_refused(packed_npy, tmp_path):
    shutil.copytree(packed_npy, tmp_path / "set")
    with_value(tmp_path / "set", 5, "height", 39)
    with pytest.raises(DataError, match="has a place in the index that does not fit its shard"):
        Dataset.open(tmp_path / "set")


def test_an_index_with_a_missing_value_is_refused(copy):
    with_value(copy, 3, "crc32", None)
    with pytest.raises(DataError, match=r"index\.parquet: is not a sound index \(a value is missing\); run"):
        Dataset.open(copy)


def test_an_image_of_another_size_than_the_index_says_is_named(copy):
    if Dataset.open(copy).header.any():
        pytest.skip("a raw one does not fill its place, and is refused before")
    with_value(copy, 5, "height", 39)
    dataset = Dataset.open(copy)
    with pytest.raises(DataError, match=f"sample '{dataset.key(5)}' is .*, the index says otherwise"):
        dataset.read(5)


def test_a_shard_that_another_was_put_in_the_place_of_is_compared_with_its_checksums_again(copy, read_crop):
    """As by packing again under the same name while a run is on."""
    dataset = Dataset.open(copy)
    index = int(dataset.select("train")[0])
    read_crop(dataset, index, 0, 0, 8, 8)
    path = copy / "train-000000.tar"
    other = bytearray(path.read_bytes())
    other[int(dataset.offset[index]) + int(dataset.length[index]) - 1] ^= 1
    (copy / "new").write_bytes(other)
    os.replace(copy / "new", path)
    dataset.close()
    with pytest.raises(DataError, match=f"sample '{dataset.key(index)}' differs from its checksum"):
        read_crop(dataset, index, 0, 0, 8, 8)


def test_so_many_shards_are_open_at_once_and_the_oldest_is_closed_first(packed_npy, monkeypatch):
    monkeypatch.setattr("harness.data.shards._MAX_OPEN_SHARDS", 2)
    dataset = Dataset.open(packed_npy)
    codes = [int(dataset.shard_code[dataset.select(split)[0]]) for split in ("train", "val", "test")]
    for code in codes:
        dataset.shard_file(code)
        assert code in dataset._open and len(dataset._open) <= 2
    assert codes[0] not in dataset._open and dataset.shard_file(codes[0]).path.name == "train-000000.tar"


def test_an_announcement_leaves_open_what_is_read_now_and_closes_the_rest(packed_npy):
    dataset = Dataset.open(packed_npy)
    codes = np.array([dataset.shard_code[dataset.select(split)[0]] for split in ("train", "val", "test")])
    for code in codes:
        dataset.shard_file(code)
    dataset.announce(codes[:1], codes[1:2])
    assert list(dataset._open) == codes[:1].tolist()


def test_samples_of_a_type_that_would_have_to_be_unpickled_are_refused(copy):
    with_value(copy, 3, "extension", "pyd")
    with pytest.raises(DataError, match=r"sample '.*' is of type '\.pyd', which is never read"):
        Dataset.open(copy)


@pytest.mark.parametrize(
    "url", ["pipe:cat /etc/passwd", "pipe://cat", "ssh://host/x", "simplecache::http://host/x", "http://a::pipe:b"]
)
def test_urls_that_could_start_programs_or_log_in_are_refused(url):
    with pytest.raises(DataError, match=r"(never|not) read"):
        Dataset.open(url)


def test_every_column_of_the_index_counts_for_the_fingerprint(packed):
    table = sidecar.read_columns(packed / "index.parquet", sidecar.SCHEMA.names)
    rows = table.to_pylist()
    prints = {sidecar.fingerprint_of(table)}
    for name, value in rows[0].items():
        other = f"{value}x" if isinstance(value, str) else type(value)(not value)
        changed = pa.Table.from_pylist([{**rows[0], name: other}, *rows[1:]], sidecar.SCHEMA)
        prints.add(sidecar.fingerprint_of(changed))
    assert len(prints) == 1 + len(sidecar.SCHEMA)


def test_unknown_splits_classes_and_fractions_are_named(packed):
    dataset = Dataset.open(packed)
    with pytest.raises(InputError, match="has no class 'hil'; choose among hill, lake, wood"):
        dataset.select("train", ["hil"])
    with pytest.raises(InputError, match="has no split 'all'"):
        dataset.select("all")
    with pytest.raises(InputError, match="fraction 0"):
        dataset.select("train", None, 0)


def test_npy_payloads_of_objects_or_other_types_are_refused_and_never_unpickled():
    import io

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    for array in (np.array([Trap()], object), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        with pytest.raises(DataError, match=r"x: (is|only)"):
            reading.decode_payload(buffer.getvalue(), "npy", "x")
