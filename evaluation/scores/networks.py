"""The pretrained networks that some measures need, or the reason why a measure has no number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import InputError

if TYPE_CHECKING:
    from evaluation.scores.inception import FIDInception
    from harness.quality.lpips import LPIPS, LPIPSNetwork

LPIPS_OF: dict[str, LPIPSNetwork] = {"lpips-alex": "alex", "lpips-vgg": "vgg", "lpips-squeeze": "squeeze"}
INCEPTION_METRICS = ("fid", "kid", "kid-paired")
WEIGHTS_OF = {
    "lpips-alex": "alexnet",
    "lpips-vgg": "vgg16",
    "lpips-squeeze": "squeezenet",
    "fid": "inception-fid",
    "kid": "inception-fid",
    "kid-paired": "inception-fid",
}
"""Metric -> the name of its network in `harness weights`."""

Finder = Callable[[str], Path]
_ENDS_BYTES = 1 << 20


@dataclass
class Located:
    """Where the networks' files are; metrics without one have a reason in `missing`."""

    files: dict[str, Path] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def identity(self, metric: str) -> str:
        """A short hash of the network's file: other weights give other numbers. Empty for metrics without network."""
        return _file_identity(self.files[metric]) if metric in self.files else ""


def locate(metrics: Iterable[str], find: Finder | None = None) -> Located:
    """Looks the networks of the metrics up, without loading them.

    `find` gives the weights file of a network by name, or raises InputError with how to get it; by default
    `harness.weights.find`.
    """
    located = Located()
    for metric in metrics:
        if metric not in WEIGHTS_OF:
            continue
        try:
            located.files[metric] = (find or _find)(WEIGHTS_OF[metric])
        except InputError as error:
            located.missing[metric] = str(error)
    return located


class Networks:
    """The located networks, loaded; one whose file turns out to be damaged has a reason in `missing`."""

    def __init__(self, located: Located, device: str = "cpu") -> None:
        self.device = device
        self.lpips: dict[str, LPIPS] = {}
        self.inception: FIDInception | None = None
        self.missing = dict(located.missing)
        for metric, file in located.files.items():
            try:
                self._load(metric, file)
            except InputError as error:
                self.missing[metric] = str(error)

    def _load(self, metric: str, file: Path) -> None:
        # torchvision takes a second to import, which an evaluation without networks need not wait for.
        if metric in LPIPS_OF:
            from harness.quality.lpips import LPIPS

            self.lpips[metric] = LPIPS(LPIPS_OF[metric], file).to(self.device)
        elif self.inception is None:
            from evaluation.scores.inception import FIDInception

            self.inception = FIDInception(file).to(self.device)


def _find(name: str) -> Path:
    from harness.weights import find

    return find(name)


def _file_identity(file: Path) -> str:
    status = file.stat()
    return _hash_of_ends(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=32)
def _hash_of_ends(file: Path, size: int, changed_ns: int) -> str:
    """A hash of the size and both ends; the whole of 550 MB would take longer than a small evaluation."""
    with file.open("rb") as content:
        head = content.read(_ENDS_BYTES)
        content.seek(max(0, size - _ENDS_BYTES))
        return hashlib.sha256(str(size).encode() + head + content.read()).hexdigest()[:10]
