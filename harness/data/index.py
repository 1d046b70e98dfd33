"""The sidecar for WebDataset shards that others wrote, so that they are read by ranges like our own.

What the shards do not say of a sample's split is decided by its source, as `harness pack` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.data import sidecar
from harness.data.foreign_shard import read_shard
from harness.data.packing.split import assign_splits, count_or_share
from harness.data.packing.survey import Skipped, storable
from harness.data.shards import EXTENSIONS
from harness.data.sidecar import Sample
from harness.errors import DataError, InputError

_OTHER_TAR = re.compile(r".*\.(tar|tar\.(gz|bz2|xz|zst|lz4)|tgz|tbz2?|txz|tzst)", re.IGNORECASE)


@dataclass(frozen=True)
class IndexSummary:
    """What an index covers."""

    path: Path
    fingerprint: str
    num_samples: int
    num_shards: int
    counts: dict[str, dict[str, dict[str, int]]]
    skipped: list[Skipped]


def index(
    folder: Path,
    *,
    val: float | int = 0.05,
    test: float | int = 0.1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> IndexSummary:
    """Writes `index.parquet` and `dataset.json` beside the `*.tar` files of a local folder.

    Args:
        val, test: samples a class for validation and test where the shards do not say; a count or a share.
        progress: called with (shards done, shards in all).

    Raises:
        InputError: no folder, no shards, a pack whose shards were changed since, or it cannot be written.
        DataError: a shard is damaged, or has an unsafe or a pickled member (names both), two samples have one key, or
            tiles of one image say different splits.
    """
    if "://" in str(folder) or not folder.is_dir():
        raise InputError(f"{folder}: is not a local folder; index the shards where they lie before uploading them.")
    shards, skipped = _find_shards(folder)
    val, test = count_or_share(val, "--val"), count_or_share(test, "--test")
    samples: list[Sample] = []
    for number, shard in enumerate(shards):
        for item in read_shard(shard):
            if isinstance(item, Sample):
                samples.append(item)
            else:
                skipped.append(item)
        if progress:
            progress(number + 1, len(shards))
    if not samples:
        raise DataError(f"{folder}: none of its samples has an image ({', '.join(sorted(EXTENSIONS))}).")
    _check_keys(samples, folder)
    samples = _with_splits(samples, folder, val, test, seed)
    sizes = {shard.name: shard.stat().st_size for shard in shards}
    extensions = sorted({sample.extension for sample in samples})
    packed = _packed(folder, samples)
    codec, tile_px, options = "+".join(extensions), 0, {"indexed": True, "skipped": [asdict(item) for item in skipped]}
    if packed is not None:
        codec, tile_px, options = packed.codec, packed.tile_px, packed.options
    description = sidecar.write_sidecar(folder, samples, sizes, codec, tile_px, options)
    return IndexSummary(folder, description.fingerprint, len(samples), len(shards), description.counts, skipped)


def _find_shards(folder: Path) -> tuple[list[Path], list[Skipped]]:
    """The shards of a folder, and the tars in it that cannot be read by ranges or are not called so.

    Raises:
        InputError: there are no shards, or one has a name that the sidecar cannot hold.
    """
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise InputError(f"{folder}: holds no .tar files (compressed ones cannot be read by ranges); give another.")
    for shard in shards:
        if storable(shard.name) != shard.name or not sidecar.is_plain(shard.name):
            raise InputError(f"{shard}: has a name with a backslash or with bytes that are no UTF-8; rename it.")
    others = sorted(path for path in {*folder.iterdir()}.difference(shards) if _OTHER_TAR.fullmatch(path.name))
    return shards, [Skipped(str(path), "is no .tar (a compressed one cannot be read by ranges)") for path in others]


def _packed(folder: Path, samples: list[Sample]) -> sidecar.Description | None:
    """What `harness pack` wrote of these samples beside them; it is kept, since only packing knows its options.

    Raises:
        InputError: it was of other samples.
    """
    path = folder / sidecar.DESCRIPTION_NAME
    try:
        packed = sidecar.read_description(path.read_bytes(), str(path))
    except (OSError, DataError):
        return None
    if "plan" not in packed.options:
        return None
    if packed.fingerprint != sidecar.fingerprint_of(sidecar.table_of(samples)):
        raise InputError(
            f"{path}: is of a pack whose shards were changed since; pack the images again, or remove the file to index "
            f"the shards as another's."
        )
    return packed


def _check_keys(samples: list[Sample], folder: Path) -> None:
    seen: dict[str, str] = {}
    for sample in samples:
        if sample.key in seen:
            raise DataError(
                f"{folder}: the key '{sample.key}' is in {seen[sample.key]} and in {sample.shard}; "
                "give the samples different keys."
            )
        seen[sample.key] = sample.shard


def _with_splits(samples: list[Sample], folder: Path, val: float | int, test: float | int, seed: int) -> list[Sample]:
    """Decides the splits that the shards do not say, by source: that of another tile of the image, if one says it."""
    said = _said_splits(samples, folder)
    samples = [s if s.split else replace(s, split=said.get(s.source_hash, "")) for s in samples]
    open_ones = [place for place, sample in enumerate(samples) if not sample.split]
    pairs = [(samples[place].class_name, f"{samples[place].source_hash:016x}") for place in open_ones]
    for place, split in zip(open_ones, assign_splits(pairs, val, test, seed)):
        samples[place] = replace(samples[place], split=split)
    return samples


def _said_splits(samples: list[Sample], folder: Path) -> dict[int, str]:
    """The split of each source image of which a tile says one.

    Raises:
        DataError: another tile says another, so that the image would be on two sides.
    """
    said: dict[int, Sample] = {}
    for sample in (sample for sample in samples if sample.split):
        first = said.setdefault(sample.source_hash, sample)
        if first.split != sample.split:
            raise DataError(
                f"{folder}: the image '{sample.source}' is on two sides, '{first.key}' in {first.shard} says "
                f"{first.split} and '{sample.key}' in {sample.shard} says {sample.split}; give its tiles one split, or "
                "different images different sources."
            )
    return {source_hash: sample.split for source_hash, sample in said.items()}
