from __future__ import annotations

import pytest

from slurm.job import Payload
from slurm.queue import parse_fields
from slurm.requeue import count_deaths, decide

LIMITS = Payload({}, {}, max_requeues=5, max_deaths=2, threads=1)
RUNNING = {"JobState": "RUNNING", "Restarts": "1", "Requeue": "1"}


@pytest.mark.parametrize(
    ("code", "changes", "deaths", "comes_back"),
    [
        (75, {}, 0, True),
        (137, {}, 1, True),
        (143, {}, 2, True),
        (76, {}, 1, True),
        (76, {}, 3, False),
        (137, {}, 3, False),
        (0, {}, 0, False),
        (1, {}, 0, False),
        (2, {}, 0, False),
        (75, {"JobState": "CANCELLED"}, 0, False),
        (75, {"JobState": "COMPLETING"}, 0, False),
        (75, {"JobState": "PREEMPTED"}, 0, False),
        (75, {"Requeue": "0"}, 0, False),
        (75, {"Restarts": "4"}, 0, True),
        (75, {"Restarts": "5"}, 0, False),
    ],
)
def test_who_comes_back(code, changes, deaths, comes_back):
    decision = decide(code, RUNNING | changes, deaths, LIMITS)
    assert decision.requeue is comes_back
    assert decision.reason


def test_deaths_are_counted_until_the_job_has_saved(tmp_path):
    note = tmp_path / "deaths"
    assert [count_deaths(note, code) for code in (137, 143, 75, 137)] == [1, 2, 0, 1]


def test_fields_of_scontrol_are_read():
    text = "JobId=7 JobName=a b=c JobState=RUNNING Reason=None TRES=cpu=2,node=2 Command=/a b/c.sh"
    fields = parse_fields(text)
    assert fields["JobState"] == "RUNNING" and fields["TRES"] == "cpu=2,node=2" and fields["Command"] == "/a b/c.sh"
