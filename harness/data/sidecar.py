"""The sidecar of a dataset: `index.parquet` (a row per sample) and `dataset.json`, with the dataset's fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import DataError, first_line
from harness.files import sha256_of, whole

VERSION = 1
INDEX_NAME = "index.parquet"
DESCRIPTION_NAME = "dataset.json"
ROW_GROUP = 1 << 16
MOST_CLASSES = (1 << 15) - 1
_TOO_LARGE = 1 << 62

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("class", pa.dictionary(pa.int16(), pa.string())),
        ("split", pa.dictionary(pa.int8(), pa.string())),
        ("source", pa.string()),
        ("source_hash", pa.uint64()),
        ("shard", pa.dictionary(pa.int32(), pa.string())),
        ("extension", pa.dictionary(pa.int8(), pa.string())),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("header", pa.int16()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("crc32", pa.uint32()),
        ("grey", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Sample:
    """A row of the sidecar. `header` bytes precede the pixels of an `npy` payload; 0 for encoded images."""

    key: str
    class_name: str
    split: str
    source: str
    source_hash: int
    shard: str
    extension: str
    offset: int
    length: int
    header: int
    height: int
    width: int
    crc32: int
    grey: bool


@dataclass(frozen=True)
class Description:
    """`dataset.json`: what the dataset is, and what its shards and its index must look like."""

    version: int
    fingerprint: str
    index_sha256: str
    codec: str
    tile_px: int
    num_samples: int
    shards: dict[str, int]
    """Shard file -> bytes."""
    classes: list[str]
    counts: dict[str, dict[str, dict[str, int]]]
    """Split -> class -> {images, samples}."""
    options: dict[str, Any]


def check_number_of_classes(names: Collection[str]) -> None:
    """Raises DataError where there are more than the index can tell apart."""
    if len(names) > MOST_CLASSES:
        raise DataError(
            f"{len(names):,} classes are more than the {MOST_CLASSES:,} that a dataset can have (the first: "
            f"'{min(names)}'); put the images into fewer folders, or into one."
        )


def table_of(samples: list[Sample]) -> pa.Table:
    """The index as an Arrow table."""
    check_number_of_classes({sample.class_name for sample in samples})
    columns: dict[str, Any] = {}
    for field in SCHEMA:
        name = "class_name" if field.name == "class" else field.name
        values = [getattr(sample, name) for sample in samples]
        if pa.types.is_dictionary(field.type):
            names = sorted(set(values))
            codes = {value: code for code, value in enumerate(names)}
            indices = pa.array([codes[value] for value in values], field.type.index_type)
            columns[field.name] = pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string()))
        else:
            columns[field.name] = pa.array(values, field.type)
    return pa.table(columns, schema=SCHEMA)


def fingerprint_of(table: pa.Table) -> str:
    """A hash over the content of the index; it does not depend on the version of the library that wrote the file."""
    digest = hashlib.sha256(f"sidecar {VERSION}".encode())
    for field in SCHEMA:
        column = table.column(field.name)
        digest.update(field.name.encode())
        if pa.types.is_dictionary(field.type) or pa.types.is_string(field.type):
            for chunk in column.cast(pa.string()).chunks:
                digest.update("\n".join(chunk.to_pylist()).encode() + b"\n")
        else:
            values = column.to_numpy(zero_copy_only=False)
            digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def count_images(samples: list[Sample]) -> dict[str, dict[str, dict[str, int]]]:
    """Split -> class -> number of source images (different by content, as for splits and fractions) and of samples."""
    num_samples = Counter((sample.split, sample.class_name) for sample in samples)
    sources = {(sample.split, sample.class_name, sample.source_hash) for sample in samples}
    num_images = Counter((split, class_name) for split, class_name, _ in sources)
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for (split, class_name), number in sorted(num_samples.items()):
        cell = {"images": num_images[split, class_name], "samples": number}
        counts.setdefault(split, {})[class_name] = cell
    return counts


def write_sidecar(
    folder: Path, samples: list[Sample], shards: dict[str, int], codec: str, tile_px: int, options: dict[str, Any]
) -> Description:
    """Writes index.parquet and dataset.json, both to their ends before either gets its name; returns the latter."""
    table = table_of(samples)
    with whole(folder / DESCRIPTION_NAME, sync=True) as about, whole(folder / INDEX_NAME, sync=True) as index:
        write_index(table, index)
        description = Description(
            version=VERSION,
            fingerprint=fingerprint_of(table),
            index_sha256=sha256_of(index),
            codec=codec,
            tile_px=tile_px,
            num_samples=len(samples),
            shards=shards,
            classes=sorted({sample.class_name for sample in samples}),
            counts=count_images(samples),
            options=options,
        )
        about.write_text(json.dumps(asdict(description), indent=1) + "\n", encoding="utf-8")
    return description


def write_index(table: pa.Table, path: Path) -> None:
    """Writes an index in row groups, so that a single key is found without reading them all."""
    repeated = ["class", "split", "shard", "extension", "source"]
    pq.write_table(table, path, compression="zstd", use_dictionary=repeated, row_group_size=ROW_GROUP)


def read_texts(path: Path, name: str, row_N: np.ndarray) -> list[str]:
    """The texts of a column at some rows; only the row groups that hold them are read."""
    row_N = np.asarray(row_N, np.int64)
    result = [""] * len(row_N)
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            wanted = np.flatnonzero((row_N >= first) & (row_N < first + count))
            if len(wanted):
                column = file.read_row_group(group, columns=[name]).column(0)
                for place in wanted:
                    result[place] = column[int(row_N[place]) - first].as_py()
            first += count
    return result


def read_description(content: bytes, name: str) -> Description:
    """`dataset.json` from its bytes.

    Raises:
        DataError: not the description of a dataset, or of another version.
    """
    try:
        values = json.loads(content)
        version = values["version"]
        if version == VERSION:
            description = Description(**{field.name: values[field.name] for field in fields(Description)})
            if not all(
                is_plain(shard) and type(size) is int and 0 <= size < _TOO_LARGE
                for shard, size in description.shards.items()
            ):
                raise DataError(f"{name}: a shard has a name with a folder in it or no size; pack the images again.")
            if _sound(description):
                return description
            raise ValueError
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{name}: is not the description of a dataset; pack or index the images again.") from None
    raise DataError(f"{name}: has version {version!r}, this program reads {VERSION}; pack the images again.")


def _sound(description: Description) -> bool:
    """Whether every value has the type that readers rely on."""
    texts = (description.fingerprint, description.index_sha256, description.codec, *description.classes)
    numbers = (description.num_samples, description.tile_px)
    cells = [cell for row in description.counts.values() for cell in row.values()]
    counted = all(type(cell[key]) is int for cell in cells for key in ("images", "samples"))
    lists = isinstance(description.classes, list) and isinstance(description.options, dict)
    return counted and lists and all(isinstance(t, str) for t in texts) and all(type(n) is int for n in numbers)


def is_plain(shard: str) -> bool:
    """Whether a shard's name is one of a file in the dataset's folder, on every system."""
    return shard not in ("", ".", "..") and not set(shard) & set("/\\\0")


def read_columns(path: Path, columns: list[str]) -> pa.Table:
    """Columns of an index file.

    Raises:
        DataError: unreadable, or a column is missing or of another type.
    """
    try:
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:  # read_table would import pandas
            table = file.read(columns=columns, use_threads=False)
        table = table.cast(pa.schema([SCHEMA.field(name) for name in columns]))
        if any(column.null_count for column in table.columns):
            raise ValueError("a value is missing")
        return table
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = first_line(error)
        raise DataError(f"{path}: is not a sound index ({reason}); run `harness index` or pack again.") from None


def codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """A dictionary column as (codes, names)."""
    combined = column.unify_dictionaries().combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        combined = combined.chunk(0) if combined.num_chunks else pa.array([], column.type)
    return numbers(pa.chunked_array([combined.indices])), combined.dictionary.to_pylist()


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A copy of a column without nulls; `to_numpy` would import pandas, which every start of a run would pay for."""
    if not column.num_chunks:
        return np.empty(0, column.type.to_pandas_dtype())
    is_bool = pa.types.is_boolean(column.type)
    parts = [np.from_dlpack(chunk.cast(pa.uint8()) if is_bool else chunk) for chunk in column.chunks]
    return np.concatenate(parts).view(bool) if is_bool else np.concatenate(parts)
