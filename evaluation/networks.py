"""The pretrained networks that some measures need, or the reason why a measure has no number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from evaluation.inception import FIDInception
from harness.errors import InputError
from harness.quality.lpips import LPIPS, LPIPSNetwork

LPIPS_OF: dict[str, LPIPSNetwork] = {"lpips-alex": "alex", "lpips-vgg": "vgg", "lpips-squeeze": "squeeze"}
INCEPTION_METRICS = ("fid", "kid")
WEIGHTS_OF = {
    "lpips-alex": "alexnet",
    "lpips-vgg": "vgg16",
    "lpips-squeeze": "squeezenet",
    "fid": "inception-fid",
    "kid": "inception-fid",
}
"""Metric -> the name of its network in `harness weights`."""

Finder = Callable[[str], Path]


class Networks:
    """The networks of the asked metrics, loaded once; a metric whose network is absent has a reason instead."""

    def __init__(self, metrics: Iterable[str], find: Finder | None = None) -> None:
        """`find` gives the weights file of a network by name, or raises InputError with how to get it."""
        self.lpips: dict[str, LPIPS] = {}
        self.inception: FIDInception | None = None
        self.missing: dict[str, str] = {}
        for metric in metrics:
            if metric in WEIGHTS_OF:
                self._load(metric, find or _find)

    def _load(self, metric: str, find: Finder) -> None:
        try:
            file = find(WEIGHTS_OF[metric])
            if metric in LPIPS_OF:
                self.lpips[metric] = LPIPS(LPIPS_OF[metric], file)
            elif self.inception is None:
                self.inception = FIDInception(file)
        except InputError as error:
            self.missing[metric] = str(error)


def _find(name: str) -> Path:
    from harness.weights import find

    return find(name)
