"""The samples that a run trains on, of one dataset or several, and which of them is read at which global position."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from harness.data.cache import NodeCache
from harness.data.config import DataConfig, SourceConfig
from harness.data.order import EpochOrder, Mixture
from harness.data.shards import Dataset
from harness.errors import DataError

_ALWAYS = {"split", "classes", "fraction", "fraction_seed", "weight"}
"""Keys of a source that its fingerprint names in any case."""


class Samples:
    """The selected samples of every source, in an order that is a pure function of (data, seed, position)."""

    def __init__(self, data: DataConfig, sources: tuple[SourceConfig, ...], seed: int) -> None:
        """Opens the sources; raises as `open_sources`."""
        self._sources = sources
        self.datasets, self.selected = open_sources(data, sources)
        self.num_samples = sum(map(len, self.selected))
        self.fingerprint = self._fingerprint()
        """Of what is selected and how it is mixed, wherever it lies."""
        self._order = self._make_order(data, seed)

    def at(self, position_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(number of the source, sample in its dataset) at these global positions."""
        source_B, place_B = self._order.at(position_B)
        if len(self._pool_end):
            source_B = np.searchsorted(self._pool_end, place_B, side="right")
            place_B = place_B - np.concatenate([[0], self._pool_end])[source_B]
        if len(self.selected) == 1:
            return source_B, self.selected[0][place_B]
        sample_B = np.empty_like(place_B)
        for source in np.unique(source_B):
            chosen = source_B == source
            sample_B[chosen] = self.selected[source][place_B[chosen]]
        return source_B, sample_B

    def keys(self, position_B: np.ndarray | list[int]) -> list[str]:
        """The keys of the samples at these global positions."""
        source_B, sample_B = self.at(np.asarray(position_B, np.int64))
        result = [""] * len(source_B)
        for source in np.unique(source_B):
            places = np.flatnonzero(source_B == source)
            for place, key in zip(places, self.datasets[source].keys(sample_B[places])):
                result[place] = key
        return result

    def sizes(self, source_B: np.ndarray, sample_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(height, width) of samples."""
        if len(self.datasets) == 1:
            return self.datasets[0].height[sample_B], self.datasets[0].width[sample_B]
        pairs = list(zip(source_B.tolist(), sample_B.tolist()))
        height_B = np.array([self.datasets[source].height[sample] for source, sample in pairs])
        width_B = np.array([self.datasets[source].width[sample] for source, sample in pairs])
        return height_B, width_B

    def _fingerprint(self) -> str:
        parts = [[dataset.fingerprint, _asked(source)] for dataset, source in zip(self.datasets, self._sources)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _make_order(self, data: DataConfig, seed: int) -> Mixture:
        """One order per weighted source; sources without weights are pooled into a single one."""
        window, repeats = data.window, data.crops_per_tile
        codes = [dataset.shard_code[chosen] for dataset, chosen in zip(self.datasets, self.selected)]
        if self._sources[0].weight is None:
            self._pool_end = np.cumsum([len(chosen) for chosen in self.selected])
            base = np.cumsum([0, *(len(dataset.shards) for dataset in self.datasets)])
            shard_of_N = np.concatenate([code + int(first) for code, first in zip(codes, base)])
            return Mixture([EpochOrder(shard_of_N, seed, self.fingerprint, window, repeats)], [1.0], seed, "")
        self._pool_end = np.zeros(0, np.int64)
        orders = [
            EpochOrder(code, seed, f"{self.fingerprint}/{number}", window, repeats) for number, code in enumerate(codes)
        ]
        return Mixture(orders, [source.weight or 0.0 for source in self._sources], seed, self.fingerprint)


def _asked(source: SourceConfig) -> dict[str, Any]:
    """What a source asks for; a key that a later version adds is left out at its default, as it seeds the order."""
    always = source.model_dump(mode="json", include=_ALWAYS)
    return always | source.model_dump(mode="json", exclude={"path", *_ALWAYS}, exclude_defaults=True)


def open_sources(data: DataConfig, sources: tuple[SourceConfig, ...]) -> tuple[list[Dataset], list[np.ndarray]]:
    """The dataset of each source, opened once for each path, and the indices of the samples that it asks for.

    Raises:
        InputError: a source lacks what is asked of it.
        DataError: it is no sound dataset, or holds samples smaller than a patch.
    """
    cache = NodeCache.of(data, sources)
    opened: dict[str, Dataset] = {}
    for source in sources:
        if source.path not in opened:
            opened[source.path] = Dataset.open(source.path, cache)
    datasets = [opened[source.path] for source in sources]
    selected = [
        dataset.select(source.split, source.classes, source.fraction, source.fraction_seed)
        for dataset, source in zip(datasets, sources)
    ]
    for dataset, chosen in zip(datasets, selected):
        _check_sizes(dataset, chosen, data.patch_px)
    return datasets, selected


def _check_sizes(dataset: Dataset, selected: np.ndarray, patch_px: int) -> None:
    small = selected[np.minimum(dataset.height[selected], dataset.width[selected]) < patch_px]
    if len(small):
        raise DataError(
            f"{dataset.path}: {len(small)} samples are smaller than the patch of {patch_px} px (the first: "
            f"'{dataset.key(small[0])}', {dataset.width[small[0]]} x {dataset.height[small[0]]} px); "
            f"lower data.patch_px or pack with --tile {patch_px}."
        )
