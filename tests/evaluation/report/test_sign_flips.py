"""The sign-flip test and its interval, against independent implementations and simulations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from evaluation.report.sign_flips import ALPHA, holm, intervals, num_splits, p_values, subset_means, undecidable

NULLS = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "heavy tails": lambda rng, shape: rng.standard_t(2, shape),
    "skewed sizes": lambda rng, shape: rng.choice([-1, 1], shape) * rng.lognormal(0, 1, shape),
}


def means_of(differences_UK: np.ndarray, resamples: int = 10_000, stream: int = 1) -> np.ndarray:
    return subset_means(differences_UK, np.ones(len(differences_UK)), resamples, stream)


@pytest.mark.parametrize("units", [2, 5, 9])
def test_p_is_exact_where_all_flips_are_counted(units):
    values_UK = np.random.default_rng(units).normal(0.5, 1, (units, 3))
    for p, values in zip(p_values(means_of(values_UK)), values_UK.T, strict=True):
        reference = scipy.stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert p == pytest.approx(reference.pvalue)


def test_p_of_random_flips_agrees_with_the_exact_one():
    values_UK = np.random.default_rng(3).normal(0.4, 1, (12, 4))
    exact = p_values(means_of(values_UK))
    drawn = p_values(means_of(values_UK, resamples=2000))
    assert drawn == pytest.approx(exact, abs=4 * 0.5 / np.sqrt(2000))
    assert not np.array_equal(drawn, exact)


def test_p_of_ties_counts_them_as_far_as_what_was_seen():
    values_UK = np.array([[0.1, 0.0, 1.0]] * 3 + [[-0.1, 0.0, 1.0]] * 3)
    assert list(p_values(means_of(values_UK))) == [1.0, 1.0, 2 / 2**6]


@pytest.mark.parametrize("units", [8, 20])
def test_interval_holds_exactly_what_the_test_does_not_reject(units):
    values_U = np.random.default_rng(units).normal(0.5, 1, units)
    low, high = (end[0] for end in intervals(means_of(values_U[:, None])))
    inside, outside = [low + 1e-9, high - 1e-9, 0.5 * (low + high)], [low - 1e-9, high + 1e-9, low - 1]
    assert (p_values(means_of(values_U[:, None] - np.array(inside))) >= ALPHA).all()
    assert (p_values(means_of(values_U[:, None] - np.array(outside))) < ALPHA).all()


def test_interval_is_that_of_all_subset_means():
    values_U = np.array([0.3, -0.2, 0.9, 1.4, 0.6, 0.1, 0.8])
    sizes = range(1, len(values_U) + 1)
    means = sorted(np.mean(part) for size in sizes for part in itertools.combinations(values_U, size))
    low, high = intervals(means_of(values_U[:, None]))
    # Of 2^7 ways 2.5 % are 3.2: the empty subset and the two least means are rejected on either side.
    assert (low[0], high[0]) == pytest.approx((means[2], means[-3]))


def test_fewer_than_six_units_bound_and_decide_nothing():
    for units, is_bounded in ((5, False), (6, True)):
        means = means_of(np.arange(1.0, units + 1)[:, None])
        assert np.isfinite(intervals(means)).all() == is_bounded == (p_values(means)[0] < ALPHA)


def test_units_of_several_images_weigh_as_many():
    sums_UK, counts_U = np.array([[2.0], [9.0], [-1.0]]), np.array([2, 3, 1])
    means = subset_means(sums_UK, counts_U, 100, 0)[:, 0]
    parts = [[0], [1], [0, 1], [2], [1, 2], [0, 2], [0, 1, 2]]
    expected = [sums_UK[part].sum() / counts_U[part].sum() for part in parts]
    assert sorted(means[~np.isnan(means)]) == pytest.approx(sorted(expected))


def test_random_subsets_do_not_depend_on_how_they_are_cut(monkeypatch):
    values_UK = np.random.default_rng(0).normal(0, 1, (70, 2))
    whole = means_of(values_UK, 100)
    monkeypatch.setattr("evaluation.report.sign_flips._CHUNK", 700)
    assert means_of(values_UK, 100) == pytest.approx(whole, rel=1e-12, nan_ok=True)
    assert not np.allclose(means_of(values_UK, 100, stream=2)[1:100], whole[1:100])


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("units", [5, 15, 30, 100])
def test_equal_models_are_told_apart_no_more_often_than_said(null, units):
    trials = 2000
    means = means_of(NULLS[null](np.random.default_rng(units), (units, trials)), resamples=400)
    low, high = intervals(means)
    alarms, covered = np.mean(p_values(means) < ALPHA), np.mean((low <= 0) & (high >= 0))
    deviation = np.sqrt(ALPHA * (1 - ALPHA) / trials)
    assert alarms < ALPHA + 4 * deviation and covered == pytest.approx(1 - alarms)
    assert units == 5 or alarms > ALPHA - 4 * deviation, "nor much more seldom, or nothing is ever found"


def test_holm_equals_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_can_be_decided_at_all_depends_on_units_resamples_and_comparisons():
    assert [num_splits(units, 10_000) for units in (2, 14, 15, 5000)] == [2, 8192, 10_001, 10_001]
    assert (undecidable([100] * 500, 10_000), undecidable([100] * 501, 10_000)) == (0, 501)
    assert (undecidable([8] * 6, 10_000), undecidable([8] * 7, 10_000)) == (0, 7)
    assert undecidable([5, 100], 10_000) == 1


@pytest.mark.parametrize("unit", [1.0, 0.1, 0.3, 1e-7])
def test_p_is_the_same_in_any_unit_though_sums_that_cancel_leave_rounding(unit):
    """0.1 + 0.2 - 0.3 is not 0. In whole numbers, 10 of 32 ways to turn the signs reach the sum that was seen."""
    whole = [1, 2, -3, 4, 4]
    flipped = [sum(map(int.__mul__, whole, signs)) for signs in itertools.product((1, -1), repeat=5)]
    expected = sum(abs(total) >= abs(sum(whole)) for total in flipped) / 32
    means = subset_means(np.array(whole)[:, None] * unit, np.ones(5, int), 10_000, 0)
    assert p_values(means).tolist() == [expected] == [10 / 32]
