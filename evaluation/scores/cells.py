"""The cache of scores on disk: a small file per (model, chunk of images, degradation), written whole or not at all.

A file holds a row per image: the identity of a metric (name, version, settings, weights) -> number. Inception features
lie beside it as .npy. Nothing is ever changed in place by two writers with different content: the names are hashes of
what decides the numbers, so an edited dataset or another checkpoint has other files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.files import whole

REALS = "reals"
"""Stands for the HR images where a model's identity is asked for."""
NOT_FINITE = "not_finite"
"""The entry of an image whose output was not finite."""

Rows = dict[str, dict[str, float]]


class ScoreCache:
    """The files below one folder; several processes may write at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, model_sha: str, cell: str) -> Rows:
        """Image key -> metric identity -> number; empty where nothing (readable) is stored."""
        return self.rows_and_codes(model_sha, cell)[0]

    def rows_and_codes(self, model_sha: str, cell: str) -> tuple[Rows, dict[str, str]]:
        """The rows, and for each metric identity the version of the code that measured it."""
        content = self._read(self._path(model_sha, cell, ".json"))
        return content.get("rows", {}), content.get("codes", {})

    def features(self, model_sha: str, cell: str, identity: str) -> np.ndarray | None:
        """Features (N, 2048) float32 in the order of the chunk's images, or None."""
        return _load(self._path(model_sha, f"{cell}-{identity}", ".npy"))

    def has_features(self, model_sha: str, cell: str, identity: str) -> bool:
        """Whether they are there and whole; a truncated file counts as absent, so that it is measured again."""
        return _load(self._path(model_sha, f"{cell}-{identity}", ".npy"), mapped=True) is not None

    def write_rows(self, model_sha: str, cell: str, rows: Rows, code: str) -> None:
        """Stores the rows that `code` measured beside those of other metrics that are there already."""
        path = self._path(model_sha, cell, ".json")
        before = self._read(path)
        merged = {key: {**before.get("rows", {}).get(key, {}), **row} for key, row in rows.items()}
        codes = before.get("codes", {}) | {identity: code for row in rows.values() for identity in row}
        _write(path, json.dumps({"codes": codes, "rows": merged}).encode())

    def write_features(self, model_sha: str, cell: str, identity: str, features_ND: np.ndarray) -> None:
        path = self._path(model_sha, f"{cell}-{identity}", ".npy")
        with whole(path) as part, part.open("wb") as file:
            np.save(file, features_ND.astype(np.float32), allow_pickle=False)

    def set_score(self, name: str) -> dict[str, float] | None:
        """A number over a whole set of images."""
        return self._read(self.folder / "sets" / f"{name}.json") or None

    def write_set_score(self, name: str, score: dict[str, float]) -> None:
        _write(self.folder / "sets" / f"{name}.json", json.dumps(score).encode())

    def _path(self, model_sha: str, cell: str, suffix: str) -> Path:
        return self.folder / model_sha[:16] / f"{cell}{suffix}"

    def _read(self, path: Path) -> dict[str, Any]:
        """The content; a file that is absent or damaged counts as nothing, so that it is measured again."""
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def is_complete(rows: Rows, keys: Sequence[str], identities: Sequence[str]) -> bool:
    """Whether each image has each number, or is known to have an output that is not finite."""
    return all(
        key in rows and (NOT_FINITE in rows[key] or all(identity in rows[key] for identity in identities))
        for key in keys
    )


def _load(path: Path, mapped: bool = False) -> np.ndarray | None:
    """The array of a file, or None; `mapped` reads the header alone and checks that the file is as long as it says."""
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def _write(path: Path, content: bytes) -> None:
    with whole(path) as part:
        part.write_bytes(content)
