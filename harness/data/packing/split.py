"""Which source images train, validate and test: decided by their content, never by their names or by tiles."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from harness import random
from harness.errors import InputError

SPLITS = ("train", "val", "test")
"""From the least to the most guarded: what lies in several belongs to the last of them."""


def count_or_share(value: float, name: str) -> float | int:
    """An amount of images a class: a number below 1 is a share, a whole one a count.

    Raises:
        InputError: neither a count nor a share.
    """
    if 0 <= value < 1:
        return value
    if value < 0 or not math.isfinite(value) or value != int(value):
        raise InputError(f"{name} {value:g} is no amount; give a count such as 100 or a share below 1 such as 0.1.")
    return int(value)


def assign_splits(
    images: Sequence[tuple[str, str]], val: float | int = 0.05, test: float | int = 0.1, seed: int = 0
) -> list[str]:
    """The split of each (class, content digest).

    Inside a class the images are ordered by a seeded hash of their content; the first `test` go to test, the next
    `val` to val, the rest to train. A share is rounded, and is at least one image of a class with three or more. The
    same content in two classes gets one split: test before val before train, so that it never crosses.

    Raises:
        InputError: counts that leave a class without a training image.
    """
    by_class: dict[str, set[str]] = defaultdict(set)
    for class_name, digest in images:
        by_class[class_name].add(digest)
    chosen: dict[str, str] = {}
    for class_name, digests in sorted(by_class.items()):
        ordered = sorted(digests, key=lambda digest: random.key(seed, "split", digest))
        num_test, num_val = _amount(test, len(ordered)), _amount(val, len(ordered))
        if num_test + num_val >= len(ordered) > 0 and num_test + num_val > 0:
            raise InputError(
                f"class '{class_name}' has {len(ordered)} images, but {num_test} for test and {num_val} for val leave "
                "none to train on; ask for fewer."
            )
        for place, digest in enumerate(ordered):
            split = "test" if place < num_test else "val" if place < num_test + num_val else "train"
            chosen[digest] = max(split, chosen.get(digest, "train"), key=SPLITS.index)
    return [chosen[digest] for _, digest in images]


def _amount(wanted: float | int, count: int) -> int:
    if isinstance(wanted, int) or wanted == 0:
        return int(wanted)
    if count < 3:
        return 0
    return max(1, math.floor(wanted * count + 0.5))
