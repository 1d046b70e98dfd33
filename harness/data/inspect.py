"""What a dataset holds, and whether all of it is sound."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.data import sidecar
from harness.data.cache import NodeCache
from harness.data.foreign_shard import PICKLED, split_name
from harness.data.packing.split import SPLITS
from harness.data.shards import Dataset
from harness.data.store import LocalStore
from harness.data.tar import list_members
from harness.errors import DataError, UnreachableError
from harness.process import num_usable_cores
from harness.screen import counted, printable, say

if TYPE_CHECKING:
    from rich.console import Console

_MOST_PROBLEMS = 100
_CHUNK = 256
"""Samples that a thread is given at a time; one by one, a million would wait in 1.7 GB."""


@dataclass(frozen=True)
class Summary:
    """Counts and sizes of a dataset; `problems` is one sentence per unsound part (empty unless verified)."""

    path: str
    fingerprint: str
    codec: str
    tile_px: int
    num_samples: int
    num_shards: int
    num_bytes: int
    classes: list[str]
    counts: dict[str, dict[str, dict[str, int]]]
    """Split -> class -> {images, samples}."""
    smallest_px: tuple[int, int]
    """Height and width of the sample with the shortest edge."""
    largest_px: tuple[int, int]
    num_grey: int
    num_skipped: int
    """Files that were found when the dataset was packed, and left out."""
    verified: bool
    problems: list[str]


def inspect(
    path: str,
    verify: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cache: NodeCache | None = None,
) -> Summary:
    """Opens a dataset and sums it up; `verify` reads every sample, checks and decodes it.

    Raises:
        DataError: it cannot be opened at all, or fetched. What `verify` finds is listed in `problems` instead.
    """
    dataset = Dataset.open(path, cache)
    problems = _verify(dataset, progress) if verify else []
    edge = np.minimum(dataset.height, dataset.width)
    small, large = int(np.argmin(edge)), int(np.argmax(edge))
    description = dataset.description
    return Summary(
        path=dataset.path,
        fingerprint=dataset.fingerprint,
        codec=description.codec,
        tile_px=description.tile_px,
        num_samples=dataset.num_samples,
        num_shards=len(description.shards),
        num_bytes=sum(description.shards.values()),
        classes=dataset.classes,
        counts=description.counts,
        smallest_px=(int(dataset.height[small]), int(dataset.width[small])),
        largest_px=(int(dataset.height[large]), int(dataset.width[large])),
        num_grey=int(dataset.grey.sum()),
        num_skipped=len(description.options.get("skipped", [])),
        verified=verify,
        problems=problems,
    )


def print_summary(console: Console, summary: Summary) -> None:
    """Prints a summary: what it is, a table of classes and splits, and the problems."""
    from rich.table import Table
    from rich.text import Text

    splits = [split for split in SPLITS if split in summary.counts]
    title = f"{summary.path}: {counted(summary.num_samples, 'sample')} in {counted(summary.num_shards, 'shard')}"
    table = Table(title=Text(printable(title), style="table.title"))
    table.add_column("class")
    for split in splits:
        table.add_column(f"{split}: images", justify="right")
        table.add_column("samples", justify="right")
    for class_name in summary.classes:
        cells = [summary.counts[split].get(class_name, {"images": 0, "samples": 0}) for split in splits]
        table.add_row(
            Text(printable(class_name)), *[str(cell[name]) for cell in cells for name in ("images", "samples")]
        )
    console.print(table)
    tile = f"tiles of {summary.tile_px} px" if summary.tile_px else "whole images"
    lines = [
        f"codec {summary.codec}, {tile}, {summary.num_bytes / 1e6:,.1f} MB, fingerprint {summary.fingerprint[:16]}",
        f"smallest sample {_size(summary.smallest_px)}, largest {_size(summary.largest_px)}, {summary.num_grey} grey; "
        f"files left out when it was packed: {summary.num_skipped}",
    ]
    if summary.verified:
        problems = counted(len(summary.problems), "problem")
        lines.append(f"{problems}:" if summary.problems else "every sample is sound")
    for line in [*lines, *summary.problems]:
        say(console, line)


def _size(height_width: tuple[int, int]) -> str:
    return f"{height_width[1]} x {height_width[0]} px"


def _verify(dataset: Dataset, progress: Callable[[int, int], None] | None) -> list[str]:
    """Every sample's bytes against their checksum, decoded; every shard's members; the sidecar's fingerprint."""
    problems = _sidecar_problems(dataset)
    if isinstance(dataset.store, LocalStore):
        for shard in dataset.description.shards:
            problems += _shard_problems(dataset.store.folder / shard)

    chunks = [range(dataset.num_samples)[first : first + _CHUNK] for first in range(0, dataset.num_samples, _CHUNK)]
    with ThreadPoolExecutor(num_usable_cores()) as threads:
        for chunk, found in zip(chunks, threads.map(partial(_sample_problems, dataset), chunks)):
            problems += found
            if progress:
                progress(chunk.stop, dataset.num_samples)
            if len(problems) >= _MOST_PROBLEMS:
                stopped = f"{dataset.path}: stopped after {_MOST_PROBLEMS} problems; pack the images again."
                return [*problems[:_MOST_PROBLEMS], stopped]
    return problems


def _sample_problems(dataset: Dataset, indices: range) -> list[str]:
    problems = []
    for index in indices:
        try:
            dataset.read(index)
        except DataError as error:
            if isinstance(error, UnreachableError) and dataset.store.remote:
                raise  # it is no fault of the sample, and each would wait as long again
            problems.append(str(error))
    return problems


def _sidecar_problems(dataset: Dataset) -> list[str]:
    table = sidecar.read_columns(dataset.index_path, sidecar.SCHEMA.names)
    if sidecar.fingerprint_of(table) == dataset.fingerprint:
        return []
    name = dataset.store.name(sidecar.DESCRIPTION_NAME)
    return [f"{name}: its fingerprint is not that of the index; run `harness index` or pack again."]


def _shard_problems(shard: Path) -> list[str]:
    try:
        for member in list_members(shard):
            key, extension = split_name(member.name)
            if extension.split(".")[-1] in PICKLED:
                return [f"{shard}: sample '{key}' has a pickled member '.{extension}', which is never read; remove it."]
    except DataError as error:
        return [str(error)]
    return []
