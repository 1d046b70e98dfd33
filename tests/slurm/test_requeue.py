from __future__ import annotations

import pytest

from slurm import requeue
from slurm.ending import Ending, note_ending, read_ending
from slurm.errors import ClusterError
from slurm.job import Job, Payload, write_payload, write_private
from slurm.queue import parse_fields
from slurm.requeue import ask_patiently, count_deaths, decide

LIMITS = Payload({}, {}, max_requeues=5, max_deaths=2, threads=1)
TIMEOUT = "reached its time limit"
UNSAVED = "reached its time limit before it had saved (raise signal_s)"
RUNNING = {"JobState": "RUNNING", "Restarts": "1", "Requeue": "1"}
PREEMPTED = {"StartTime": "2026-01-01T11:00:00", "PreemptTime": "2026-01-01T12:00:00"}


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


@pytest.mark.parametrize(
    ("code", "changes", "deaths", "outcome", "reason"),
    [
        (0, {}, 0, "done", "finished"),
        (1, {}, 0, "failed", "left with exit code 1"),
        (2, {"JobState": "CANCELLED"}, 0, "failed", "left with exit code 2"),
        (137, {}, 3, "failed", "was killed by SIGKILL, died 3 times without saving in between (max_deaths)"),
        (143, {"JobState": "TIMEOUT"}, 1, "failed", UNSAVED),
        (75, {"JobState": "TIMEOUT"}, 0, "left", TIMEOUT),
        (143, {"JobState": "CANCELLED"}, 9, "left", "was cancelled"),
        (75, {"Restarts": "5"}, 0, "left", "was requeued 5 times already (max_requeues)"),
        (75, {"JobState": "PREEMPTED"}, 0, "left", "was preempted"),
        (75, {"JobState": "COMPLETING", "RunTime": "00:03:00", "TimeLimit": "01:00:00"}, 0, "left", "was cancelled"),
        (75, {"JobState": "COMPLETING", "RunTime": "1-00:00:05", "TimeLimit": "1-00:00:00"}, 0, "left", TIMEOUT),
        (143, {"JobState": "COMPLETING", "RunTime": "01:00:05", "TimeLimit": "01:00:00"}, 1, "failed", UNSAVED),
        (76, {}, 1, "back", "lost a rank (exit code 76)"),
        (75, {}, 0, "back", "saved and left before its end"),
        (75, PREEMPTED, 0, "back", "was preempted, and had saved"),
        (137, PREEMPTED, 1, "back", "was killed by SIGKILL"),
    ],
)
def test_what_is_said_of_an_end(code, changes, deaths, outcome, reason):
    decision = decide(code, RUNNING | changes, deaths, LIMITS)
    assert (decision.outcome, decision.reason) == (outcome, reason)


@pytest.mark.parametrize(
    ("preempted_at", "counts"), [("None", False), ("2026-01-01T10:00:00", False), ("2026-01-01T12:00:00", True)]
)
def test_only_a_preemption_of_the_present_start_counts(preempted_at, counts):
    fields = RUNNING | {"StartTime": "2026-01-01T11:00:00", "PreemptTime": preempted_at}
    assert decide(75, fields, 0, LIMITS).preempted is counts


def test_ending_is_read_as_it_was_noted(tmp_path):
    assert read_ending(tmp_path) is None
    ending = Ending("7_1", 137, "failed", "was killed by SIGKILL", 3)
    note_ending(tmp_path, ending)
    assert read_ending(tmp_path) == ending
    assert (tmp_path / "ended.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "ended.json").write_text('{"job_id"')
    assert read_ending(tmp_path) is None


def test_controller_that_is_away_is_asked_again_and_a_refusal_is_final(monkeypatch):
    answers = ["Unable to contact slurm controller (connect failure)", "`scontrol` did not answer within 60 s", None]
    asked = []

    def ask(*words):
        asked.append(words)
        said = answers[len(asked) - 1]
        if said is not None:
            raise ClusterError(said)
        return "JobState=RUNNING"

    monkeypatch.setattr(requeue, "ask", ask)
    monkeypatch.setattr(requeue.time, "sleep", lambda seconds: None)
    assert ask_patiently("scontrol", "show", "job", "7") == "JobState=RUNNING"
    assert len(asked) == 3
    answers.append("Invalid job id specified")
    with pytest.raises(ClusterError, match="Invalid job id"):
        ask_patiently("scontrol", "requeue", "7")
    assert len(asked) == 4


def test_patience_with_a_controller_ends(monkeypatch):
    def ask(*words):
        raise ClusterError("Unable to contact slurm controller")

    monkeypatch.setattr(requeue, "ask", ask)
    with pytest.raises(ClusterError):
        ask_patiently("scontrol", "requeue", "7", patience_s=-1)


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """Ends start number 2 of job 7_3 with srun's code; returns its exit code and what was asked of scontrol."""
    job, payload = Job("a", tmp_path / "a", ""), tmp_path / "payload.json"
    job.folder.mkdir()
    write_payload(payload, Payload({3: job}, {}, max_requeues=5, max_deaths=2, threads=1))
    for name, value in (("ARRAY_JOB_ID", "7"), ("ARRAY_TASK_ID", "3"), ("JOB_ID", "9"), ("RESTART_COUNT", "2")):
        monkeypatch.setenv(f"SLURM_{name}", value)

    def end(srun_code, fields="JobState=RUNNING Restarts=2"):
        asked = []
        monkeypatch.setattr(requeue, "ask", lambda *words: asked.append((words, read_ending(job.folder))) or fields)
        return requeue.main(str(payload), srun_code), asked

    return end


@pytest.mark.parametrize("srun_code", [0, 1, 137])
def test_job_that_saved_is_put_back_once_its_ending_is_noted(ended, tmp_path, srun_code):
    """Whatever happened to its ranks while they left."""
    write_private(tmp_path / "7_3.saved", "2")
    code, ((shown, _), (put_back, noted)) = ended(srun_code)
    assert code == 75 and shown[:4] == ("scontrol", "show", "job", "7_3")
    assert put_back == ("scontrol", "requeue", "7_3") and (noted.job_id, noted.outcome) == ("7_3", "back")


@pytest.mark.parametrize("earlier", ["1", None])
def test_finished_job_stays_finished_whatever_an_earlier_start_has_saved(ended, tmp_path, earlier):
    if earlier is not None:
        write_private(tmp_path / "7_3.saved", earlier)
    code, asked = ended(0)
    assert code == 0 and len(asked) == 1 and read_ending(tmp_path / "a").outcome == "done"


def test_preemptions_are_counted_over_all_starts(ended, tmp_path):
    preempted = "JobState=RUNNING Restarts=2 StartTime=2026-01-01T11:00:00 PreemptTime=2026-01-01T12:00:00"
    write_private(tmp_path / "7_3.saved", "2")
    for fields in (preempted, "JobState=RUNNING Restarts=2", preempted):
        ended(0, fields)
    assert read_ending(tmp_path / "a").preemptions == 2
