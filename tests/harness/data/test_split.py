"""Splits by content: nothing crosses, nothing moves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.packing.split import SPLITS, assign_splits, count_or_share
from harness.errors import InputError

contents = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 40).map(str)), min_size=1, max_size=80, unique=True
)


@settings(max_examples=80, deadline=None)
@given(contents, st.integers(0, 3))
def test_the_same_content_never_lies_on_two_sides(images, seed):
    splits = assign_splits(images, seed=seed)
    for (_, first), a in zip(images, splits):
        for (_, second), b in zip(images, splits):
            assert first != second or a == b


@settings(max_examples=50, deadline=None)
@given(contents)
def test_what_one_class_tests_on_no_other_class_trains_on(images):
    together = dict(zip(images, assign_splits(images)))
    for class_name in "abc":
        of_class = [image for image in images if image[0] == class_name]
        for image, split in zip(of_class, assign_splits(of_class)):
            assert together[image] in {"test": ["test"], "val": ["val", "test"], "train": SPLITS}[split]


@settings(max_examples=50, deadline=None)
@given(contents, st.randoms())
def test_the_split_does_not_depend_on_the_order_of_the_files(images, rng):
    shuffled = images[:]
    rng.shuffle(shuffled)
    assert dict(zip(images, assign_splits(images))) == dict(zip(shuffled, assign_splits(shuffled)))


def test_shares_and_counts_are_kept_per_class():
    images = [("a", f"a{i}") for i in range(100)] + [("b", f"b{i}") for i in range(3)] + [("c", "c0"), ("c", "c1")]
    splits = assign_splits(images, val=0.05, test=0.1)
    by_class = {name: [s for (c, _), s in zip(images, splits) if c == name] for name in "abc"}
    assert by_class["a"].count("test") == 10 and by_class["a"].count("val") == 5
    assert sorted(by_class["b"]) == ["test", "train", "val"]
    assert by_class["c"] == ["train", "train"]
    exact = assign_splits(images[:100], val=0, test=7)
    assert exact.count("test") == 7 and exact.count("val") == 0


def test_another_seed_chooses_otherwise_and_no_seed_by_the_digests_order():
    images = [("a", f"{i:02d}") for i in range(40)]
    tests = [[i for i, split in enumerate(assign_splits(images, 0, 5, seed)) if split == "test"] for seed in (0, 1, 2)]
    assert len(set(map(tuple, [*tests, range(5), range(35, 40)]))) == 5


@pytest.mark.parametrize(("share", "count"), [(0.24, 2), (0.25, 3), (0.26, 3), (0.01, 1)])
def test_a_share_is_rounded_to_the_nearest_count(share, count):
    assert assign_splits([("a", str(i)) for i in range(10)], val=0, test=share).count("test") == count


def test_counts_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(InputError, match="class 'a' has 4 images, but 3 for test and 1 for val leave none"):
        assign_splits([("a", str(i)) for i in range(4)], val=1, test=3)


def test_amounts_are_counts_or_shares():
    assert count_or_share(100.0, "--test") == 100 and isinstance(count_or_share(100.0, "--test"), int)
    assert count_or_share(0.1, "--test") == 0.1
    assert count_or_share(0, "--val") == 0
    for wrong in (-1, -0.1, 1.5, float("nan"), float("inf"), float("-inf")):
        with pytest.raises(InputError, match=r"--test .* is no amount"):
            count_or_share(wrong, "--test")
