from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.batches import Batch, array_text, dependency_text, most_at_once, plan_batches
from slurm.errors import ClusterError
from slurm.job import Job


def job(name, *after):
    return Job(name, Path(name), "", after)


def shape(batches):
    return [({place: j.name for place, j in b.jobs.items()}, b.after, b.aligned_with) for b in batches]


def test_independent_jobs_are_one_array():
    assert shape(plan_batches([job("a"), job("b")], 1001)) == [({0: "a", 1: "b"}, (), None)]


def test_arrays_are_split_at_max_array_size():
    batches = plan_batches([job(str(i)) for i in range(7)], 3)
    assert [len(b.jobs) for b in batches] == [3, 3, 1]
    assert all(place < 3 for b in batches for place in b.jobs)


def test_children_of_one_parent_are_one_array_after_it():
    batches = plan_batches([job("general"), *[job(c, "general") for c in "xyz"]], 1001)
    assert shape(batches) == [({0: "general"}, (), None), ({0: "x", 1: "y", 2: "z"}, ("general",), None)]


def test_children_of_many_parents_are_aligned_place_by_place():
    parents = [job(f"p{i}") for i in range(6)]
    children = [job(f"c{i}{n}", f"p{i}") for i in range(6) for n in range(2)]
    batches = plan_batches(parents + children, 1001)
    assert [b.aligned_with for b in batches] == [None, 0, 0]
    for batch in batches[1:]:
        assert {place: j.after[0] for place, j in batch.jobs.items()} == {i: f"p{i}" for i in range(6)}


def test_a_thousand_runs_of_two_phases_are_two_calls():
    jobs = [job(f"p{i}") for i in range(1000)] + [job(f"c{i}", f"p{i}") for i in range(1000)]
    assert len(plan_batches(jobs, 1001)) == 2


def test_what_may_follow_a_failure_waits_for_the_end_alone():
    jobs = [job("a"), job("b"), job("c", "a"), Job("report", Path("r"), "", ("a", "b"), after_failure=True)]
    batches = plan_batches(jobs, 1001)
    ids = {"a": "1_0", "b": "1_1", "c": "2"}
    texts = {b.jobs[0].name: dependency_text(b, batches, {0: "1"}, ids) for b in batches}
    assert texts == {"a": "", "c": "afterok:1_0", "report": "afterany:1"}


def test_what_may_follow_a_failure_is_never_aligned_with_its_parents():
    jobs = [job(f"p{i}") for i in range(3)]
    jobs += [Job(f"c{i}", Path("c"), "", (f"p{i}",), after_failure=True) for i in range(3)]
    assert [batch.aligned_with for batch in plan_batches(jobs, 1001)] == [None] * 4


@pytest.mark.parametrize(
    ("jobs", "most"),
    [
        ([], 0),
        ([job("a"), job("b"), job("c", "a")], 2),
        ([job("general"), *[job(name, "general") for name in "xyz"]], 3),
        ([*[job(f"p{i}") for i in range(6)], *[job(f"c{i}", f"p{i % 6}") for i in range(12)]], 12),
        ([job("a"), job("b", "a"), job("c", "b"), job("d", "a"), job("report", "c", "d")], 2),
        ([job("a"), *[job(f"share{i}", "a", "old") for i in range(4)]], 4),
        ([*map(job, "ab"), *[job(f"s{i}", "a", "b") for i in range(3)], job("all", "s0", "s1", "s2")], 3),
    ],
    ids=["nothing", "chain beside", "one parent", "two children each", "gathered", "shares", "shares gathered"],
)
def test_how_many_could_run_at_once(jobs, most):
    assert most_at_once(jobs) == most


def test_arrays_that_take_turns_wait_for_the_end_of_the_one_before():
    batches = plan_batches([job(f"p{i}") for i in range(3)] + [job(f"c{i}", f"p{i}") for i in range(3)], 1001)
    assert dependency_text(batches[0], batches, {}, {}, one_by_one=True) == ""
    assert dependency_text(batches[1], batches, {0: "7"}, {}, one_by_one=True) == "aftercorr:7,afterany:7"
    third = plan_batches([job(str(i)) for i in range(3)], 1)[2]
    assert dependency_text(third, [], {0: "7", 1: "8"}, {}, one_by_one=True) == "afterany:8"


@st.composite
def forests(draw):
    count = draw(st.integers(1, 25))
    jobs = []
    for i in range(count):
        parents = draw(st.lists(st.integers(0, i - 1), unique=True, max_size=2)) if i else []
        jobs.append(job(str(i), *[str(p) for p in parents]))
    return draw(st.permutations(jobs)), draw(st.integers(1, 6))


@given(forests())
def test_every_job_once_and_after_what_it_waits_for(forest):
    jobs, size = forest
    batches = plan_batches(jobs, size)
    place_of = {j.name: (n, place) for n, b in enumerate(batches) for place, j in b.jobs.items()}
    assert sorted(place_of) == sorted(j.name for j in jobs)
    assert sum(len(b.jobs) for b in batches) == len(jobs)
    for n, batch in enumerate(batches):
        assert max(batch.jobs) < size
        for place, j in batch.jobs.items():
            if batch.aligned_with is not None:
                assert [place_of[parent] for parent in j.after] == [(batch.aligned_with, place)]
            else:
                assert set(batch.after) == set(j.after)
            assert all(place_of[parent][0] < n for parent in j.after)


def test_circles_unknown_parents_and_twins_are_refused():
    for jobs, said in [
        ([job("a", "b"), job("b", "a")], "'a' waits for 'b', in a circle"),
        ([job("a", "z")], "waits for 'z', which is not among the jobs"),
        ([job("a"), job("a")], "two jobs are called 'a'"),
    ]:
        with pytest.raises(ClusterError, match=said):
            plan_batches(jobs, 10)


def test_array_text():
    assert array_text([0, 1, 2, 5, 7, 8], 4) == "0-2,5,7-8%4"
    assert array_text([3], 4) == "3%1"


def test_dependency_text_names_whole_arrays_and_single_places():
    batches = [
        Batch({0: job("a"), 1: job("b")}),
        Batch({0: job("c"), 1: job("d")}),
        Batch({0: job("e")}, ("a", "b", "c", "old")),
    ]
    ids = {"a": "7_0", "b": "7_1", "c": "8_0", "d": "8_1", "old": "3"}
    assert dependency_text(batches[2], batches, {0: "7", 1: "8"}, ids) == "afterok:7:8_0:3"
    assert dependency_text(batches[0], batches, {}, {}) == ""
    assert dependency_text(Batch({0: job("f", "a")}, (), 0), batches, {0: "7"}, ids) == "aftercorr:7"


def test_single_child_at_its_parents_place_is_an_array_still():
    """Else SLURM would give it another place than the one that it waits for."""
    jobs = [*map(job, "abc"), job("a1", "a"), job("b1", "b"), job("c1", "c"), job("b2", "b")]
    *_, last = plan_batches(jobs, 1001)
    assert shape([last]) == [({1: "b2"}, (), 0)]
    assert last.is_array and array_text(list(last.jobs), 5) == "1%1"
