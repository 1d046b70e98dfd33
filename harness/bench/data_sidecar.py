"""What opening the sidecar of a million samples costs, in a fresh process.

The seconds are those of all processors together, so that other work on the machine does not count; on an idle machine
the wall clock shows no more.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from harness.data import sidecar

NUM_SAMPLES = 1_000_000
PER_SHARD = 4000


def write(folder: Path) -> None:
    """A dataset without pixels: sparse shard files, and an index that fits them."""
    number = np.arange(NUM_SAMPLES)
    shards = [f"train-{s:06d}.tar" for s in range(NUM_SAMPLES // PER_SHARD)]
    classes, source = ["a", "b", "c"], number // 4

    def coded(names: list[str], values: np.ndarray, kind: pa.DataType) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(values, kind), pa.array(names))

    columns = {
        "key": pa.array([f"a/photo_{n // 4:08d}-{n * 2654435761 % 2**40:010x}-{n % 4}x0" for n in number]),
        "class": coded(classes, number % 3, pa.int16()),
        "split": coded(["train"], number * 0, pa.int8()),
        "source": pa.array([f"photographs/a/photo_{n:08d}.png" for n in source]),
        "source_hash": pa.array(source.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)),
        "shard": coded(shards, number // PER_SHARD, pa.int32()),
        "extension": coded(["npy"], number * 0, pa.int8()),
        "offset": pa.array((number % PER_SHARD) * 64_000 + 512),
        "length": pa.array(number * 0 + 62_336),
        "header": pa.array((number * 0 + 128).astype(np.int16)),
        "height": pa.array((number * 0 + 144).astype(np.int32)),
        "width": pa.array((number * 0 + 144).astype(np.int32)),
        "crc32": pa.array((number * 2654435761 % 2**32).astype(np.uint32)),
        "grey": pa.array(number < 0),
    }
    sidecar.write_index(pa.table(columns, schema=sidecar.SCHEMA), folder / sidecar.INDEX_NAME)
    size = PER_SHARD * 64_000 + 1024
    for shard in shards:
        with (folder / shard).open("wb") as file:
            file.truncate(size)
    description = sidecar.Description(
        version=sidecar.VERSION,
        fingerprint="0" * 64,
        index_sha256=hashlib.sha256((folder / sidecar.INDEX_NAME).read_bytes()).hexdigest(),
        codec="npy",
        tile_px=144,
        num_samples=NUM_SAMPLES,
        shards=dict.fromkeys(shards, size),
        classes=classes,
        counts={},
        options={},
    )
    (folder / sidecar.DESCRIPTION_NAME).write_text(json.dumps(asdict(description)))


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_it(folder: Path) -> None:
    """Prints what opening, selecting all samples, and looking up a key cost."""
    from harness.data.shards import Dataset

    gc.collect()
    before = resident_mb()
    start = time.process_time()
    dataset = Dataset.open(folder)
    seconds = time.process_time() - start
    assert len(dataset.select("train")) == NUM_SAMPLES
    assert dataset.key(999_999).startswith("a/photo_00249999-")
    print(f"{seconds:.3f} {resident_mb() - before:.1f}")


def measure(folder: Path) -> tuple[float, float]:
    """(seconds, megabytes) that opening costs, in a fresh process; `folder` must be empty."""
    write(folder)
    command = [sys.executable, "-m", "harness.bench.data_sidecar", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


if __name__ == "__main__":
    open_it(Path(sys.argv[1]))
