"""The table of measures against the page that tells them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evaluation.metrics import METRICS, small_set_note

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_the_page_names_every_measure_with_its_better_direction_and_its_scope() -> None:
    told = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        names, *_, better, scope = line.strip("| ").split(" | ") if line.count(" | ") == 3 else ("", "", "")
        if better in ("higher", "lower"):
            told |= dict.fromkeys(re.findall(r"`([\w-]+)`", names), (better == "higher", scope))
    assert told == {name: (metric.higher_is_better, metric.scope) for name, metric in METRICS.items()}


@pytest.mark.parametrize(
    ("metric", "num_images", "warned"), [("fid", 2047, True), ("fid", 2048, False), ("kid", 2, False)]
)
def test_a_fid_is_warned_of_below_as_many_images_as_it_has_features(metric: str, num_images: int, warned: bool) -> None:
    assert bool(small_set_note(metric, num_images)) == warned
