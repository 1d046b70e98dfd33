"""What is handed to SLURM, without a cluster: the sbatch text, and what must not be in it."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import slurm.launch as launch
from slurm.adopt import adopt
from slurm.batches import Batch
from slurm.errors import ClusterError
from slurm.job import Job, read_payload
from slurm.profile import ClusterProfile
from slurm.queue import QueuedJob
from slurm.submission import read_submission

GOLDEN = Path(__file__).parent / "golden_sbatch.sh"
SECRET = "hunter2-$(touch /tmp/never)"


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """An sbatch and an scontrol that note what they were given."""
    tools = tmp_path / "tools"
    tools.mkdir()
    programs = {
        "sbatch": f'echo "$@" >> {tools}/argv; echo "Submitted batch job $(wc -l < {tools}/argv)"',
        "scontrol": "echo MaxArraySize = 1001",
        "srun": ":",
    }
    for name, body in programs.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return tools / "argv"


def full_profile(**more):
    values = {
        "name": "site", "executor": "slurm", "partition": "gpu", "account": "lab", "qos": "normal",
        "constraint": "a100&ib", "nodes": 2, "gpus_per_node": 4, "cpus_per_task": 8, "memory_gb": 120,
        "time_min": 240, "signal_s": 120, "max_parallel": 3, "setup": ["module load cuda/12"],
        "environment": {"WANDB_API_KEY": SECRET}, "container": ["apptainer", "exec", "--nv", "my image.sif"],
        "python": "/opt/env/bin/python", "options": {"mail-type": "END", "exclusive": True},
    }  # fmt: skip
    return ClusterProfile.model_validate(values | more)


def test_sbatch_text_equals_the_golden_file(monkeypatch):
    monkeypatch.setattr(launch.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    monkeypatch.setattr(sys, "executable", "/home/me/my env/bin/python")
    own, payload = Path("/runs/my sweep/slurm/one"), Path("/runs/my sweep/slurm/one/payload_0.json")
    batch = Batch({place: Job(f"run{place}", own, "") for place in (0, 1, 2, 5)}, (), 0)
    profile = full_profile()
    executor = launch.make_executor(profile, own, payload, "sweep", "aftercorr:17", batch, hold=False)
    text = executor._make_submission_file_text(launch.task_command(profile, payload), "")
    assert text == GOLDEN.read_text()
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_gpus_of_a_type_switched_off_options_and_names_reach_sbatch_as_they_are_meant(sbatch, tmp_path):
    profile = full_profile(gpu_type="a100", options={"exclusive": False, "mail-type": "END"})
    launch.submit([Job("run-a", tmp_path / "a", "")], profile, tmp_path / "slurm", label="sweep", hold=True)
    said = (tmp_path / "a" / "sbatch.sh").read_text()
    assert "#SBATCH --gpus-per-node=a100:4\n" in said and "#SBATCH --hold\n" in said
    assert "#SBATCH --job-name=run-a\n" in said, "the label is for arrays"
    assert "exclusive" not in said and "#SBATCH --mail-type=END\n" in said


def test_no_secret_reaches_the_sbatch_file_or_a_command_line(sbatch, tmp_path):
    jobs = [Job(name, tmp_path / name, f"argument {name}") for name in "ab"]
    submissions = launch.submit(jobs, full_profile(), tmp_path / "slurm")
    texts = [p.read_text() for p in tmp_path.rglob("*") if p.is_file() and not p.name.startswith("payload")]
    assert len(texts) > 4
    assert not [text for text in texts if "hunter2" in text]
    payload = read_payload(next(Path(submissions["a"].folder).glob("payload_0.json")))
    assert payload.environment == {"WANDB_API_KEY": SECRET}


HOSTILE = "a b'$(touch pwned)`touch pwned`;touch pwned\"&& touch pwned #"


def test_no_value_is_run_by_the_shell_that_reads_the_sbatch_file(sbatch, tmp_path, monkeypatch):
    """Every value that a profile, a folder or a job's name can hold, in a script that a real shell then runs."""
    python = tmp_path / "tools" / "python"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/requeue\n')
    (tmp_path / "tools" / "srun").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/srun\n')
    for tool in ("python", "srun"):
        (tmp_path / "tools" / tool).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    profile = full_profile(
        container=[HOSTILE], python=HOSTILE, options={"comment": HOSTILE}, environment={"A": HOSTILE}, setup=[]
    )
    folder = tmp_path / HOSTILE.replace("/", "")
    submission = launch.submit([Job(HOSTILE, tmp_path / "job", HOSTILE)], profile, folder, label=HOSTILE)[HOSTILE]
    here = tmp_path / "here"
    here.mkdir()
    subprocess.run(["bash", str(tmp_path / "job" / "sbatch.sh")], cwd=here, check=True, timeout=30)
    assert list(here.iterdir()) == [], "a value was run"
    payload = str(Path(submission.folder) / "payload_0.json")
    assert (tmp_path / "srun").read_text().splitlines()[-6:] == [HOSTILE, HOSTILE, "-u", "-m", "slurm.task", payload]
    assert (tmp_path / "requeue").read_text().splitlines() == ["-m", "slurm.requeue", payload, "0"]


def test_nothing_that_is_written_is_a_pickle(sbatch, tmp_path):
    launch.submit([Job("a", tmp_path / "a", "")], full_profile(), tmp_path / "slurm")
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "tools" not in path.parts]
    assert {path.suffix for path in files} <= {".json", ".sh", ".txt"}
    assert not [path for path in files if path.read_bytes().startswith(b"\x80")]


def test_folders_are_0700_and_files_0600(sbatch, tmp_path):
    launch.submit([Job("a", tmp_path / "a", "")], full_profile(), tmp_path / "slurm")
    for path in [*(tmp_path / "a").rglob("*"), *(tmp_path / "slurm").rglob("*"), tmp_path / "a", tmp_path / "slurm"]:
        if not path.is_symlink():
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_arrays_dependencies_and_notes(sbatch, tmp_path):
    jobs = [Job(f"p{i}", tmp_path / f"p{i}", str(i)) for i in range(3)]
    jobs += [Job(f"c{i}", tmp_path / f"c{i}", str(i), (f"p{i}",)) for i in range(3)]
    jobs += [Job("report", tmp_path / "report", "", tuple(f"c{i}" for i in range(3)))]
    submissions = launch.submit(jobs, full_profile(), tmp_path / "slurm", label="sweep")
    assert {name: s.job_id for name, s in submissions.items()} == {
        "p0": "1_0", "p1": "1_1", "p2": "1_2", "c0": "2_0", "c1": "2_1", "c2": "2_2", "report": "3"
    }  # fmt: skip
    texts = [(tmp_path / name / "sbatch.sh").read_text() for name in ("p0", "c2", "report")]
    assert "#SBATCH --array=0-2%3" in texts[0] and "--dependency" not in texts[0]
    assert "#SBATCH --dependency=aftercorr:1\n" in texts[1]
    assert "#SBATCH --dependency=afterok:2\n" in texts[2] and "--array" not in texts[2]
    assert read_submission(tmp_path / "c2") == submissions["c2"]


def test_jobs_whose_submitter_was_killed_before_their_notes_are_noted_later(sbatch, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    jobs, profile, folder = [Job(name, tmp_path / name, "") for name in "ab"], full_profile(), tmp_path / "slurm"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(launch, "_note_batch", killed)
        launch.submit(jobs, profile, folder)
    script = sbatch.read_text().split()[-1]
    queued = [QueuedJob(f"1_{place}", "PENDING", "None", "", 0, "", "", script) for place in (0, 1)]
    queued.append(QueuedJob("2", "PENDING", "None", "", 0, "", "", "/home/me/other.sh"))
    assert adopt(folder, profile, queued) == ["a", "b"]
    assert [read_submission(job.folder).job_id for job in jobs] == ["1_0", "1_1"]
    launch.submit(jobs[:1], profile, folder)
    queued.append(QueuedJob("2", "PENDING", "None", "", 0, "", "", sbatch.read_text().split()[-1]))
    assert adopt(folder, profile, queued) == [], "what has its notes, or is noted for another job, stays as it is"
    assert read_submission(jobs[0].folder).job_id == "2"
    launch.submit(jobs, profile, folder)
    replaced = QueuedJob("3_0", "PENDING", "None", "", 0, "", "", sbatch.read_text().split()[-1])
    launch.submit(jobs, profile, folder)
    assert adopt(folder, profile, [replaced]) == [], "it had its note"


def test_job_that_waits_for_some_of_an_array_names_their_places(sbatch, tmp_path):
    jobs = [*(Job(f"p{i}", tmp_path / f"p{i}", "") for i in range(3)), Job("child", tmp_path / "c", "", ("p1",))]
    launch.submit(jobs, full_profile(max_parallel=9), tmp_path / "slurm")
    assert "#SBATCH --dependency=afterok:1_1\n" in (tmp_path / "c" / "sbatch.sh").read_text()


@pytest.mark.parametrize(("max_parallel", "waits"), [(3, True), (4, False)])
def test_arrays_take_turns_where_together_they_would_be_too_many(sbatch, tmp_path, max_parallel, waits):
    parents = [Job(f"p{i}", tmp_path / f"p{i}", "") for i in range(2)]
    children = [Job(f"c{i}", tmp_path / f"c{i}", "", (f"p{i % 2}",)) for i in range(4)]
    launch.submit([*parents, *children], full_profile(max_parallel=max_parallel), tmp_path / "slurm")
    assert (",afterany:2\n" in (tmp_path / "c3" / "sbatch.sh").read_text()) is waits


def test_cluster_without_job_arrays_gets_single_jobs(sbatch, tmp_path):
    (sbatch.parent / "scontrol").write_text("#!/bin/sh\necho MaxArraySize = 0\n")
    jobs = [Job("parent", tmp_path / "p", ""), *(Job(f"run{n}", tmp_path / str(n), "", ("parent",)) for n in (1, 2))]
    submissions = launch.submit(jobs, ClusterProfile(executor="slurm"), tmp_path / "slurm")
    assert [submission.job_id for submission in submissions.values()] == ["1", "2", "3"]
    scripts = [Path(line.split()[-1]).read_text() for line in sbatch.read_text().splitlines()]
    assert not any("--array" in text for text in scripts)


def test_jobs_submitted_earlier_can_be_waited_for(sbatch, tmp_path):
    job = Job("child", tmp_path / "child", "", ("parent",))
    launch.submit([job], full_profile(), tmp_path / "slurm", submitted={"parent": "99_4"})
    assert "#SBATCH --dependency=afterok:99_4\n" in (tmp_path / "child" / "sbatch.sh").read_text()


def test_a_job_does_not_inherit_the_place_of_the_rank_that_submits_it(sbatch, tmp_path, monkeypatch):
    (sbatch.parent / "sbatch").write_text(f"#!/bin/sh\nenv > {tmp_path}/env; echo Submitted batch job 1\n")
    for name in ("RANK", "MASTER_PORT", "SLURM_JOB_ID", "SUBMITIT_EXECUTOR", "HARNESS_SUPERVISED", "KEPT"):
        monkeypatch.setenv(name, "5")
    launch.submit([Job("a", tmp_path / "a", "")], full_profile(slurm_conf="my.conf"), tmp_path / "slurm")
    seen = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert not {"RANK", "MASTER_PORT", "SLURM_JOB_ID", "SUBMITIT_EXECUTOR", "HARNESS_SUPERVISED"} & seen.keys()
    assert seen["KEPT"] == "5" and seen["SLURM_CONF"] == str(Path("my.conf").absolute())


def test_what_the_users_shell_tells_sbatch_does_not_overrule_the_profile(sbatch, tmp_path, monkeypatch):
    """sbatch takes its variables before the file: a limit, a partition, or that the job may not be requeued."""
    (sbatch.parent / "sbatch").write_text(f"#!/bin/sh\nenv > {tmp_path}/env; echo Submitted batch job 1\n")
    for name in ("TIMELIMIT", "PARTITION", "NO_REQUEUE", "EXPORT"):
        monkeypatch.setenv(f"SBATCH_{name}", "1")
    launch.submit([Job("a", tmp_path / "a", "")], full_profile(), tmp_path / "slurm")
    assert "SBATCH_" not in (tmp_path / "env").read_text()


def test_job_id_is_the_one_that_sbatch_itself_tells(sbatch, tmp_path):
    """A site's own sbatch may tell of other jobs before and after."""
    said = "Your job 12 of last week used 3 h\nSubmitted batch job 7\nafter job 5 in the queue"
    (sbatch.parent / "sbatch").write_text(f"#!/bin/sh\necho '{said}'\n")
    submission = launch.submit([Job("a", tmp_path / "a", "")], full_profile(), tmp_path / "slurm")["a"]
    assert submission.job_id == "7"


def test_job_whose_rank_died_is_looked_at_whatever_the_setup_says(sbatch, tmp_path, monkeypatch):
    (sbatch.parent / "srun").write_text("#!/bin/sh\nexit 137\n")
    python = sbatch.parent / "python"
    python.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/requeue\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    profile = ClusterProfile(executor="slurm", setup=["set -euo pipefail"])
    launch.submit([Job("a", tmp_path / "a", "")], profile, tmp_path / "slurm")
    subprocess.run(["bash", str(tmp_path / "a" / "sbatch.sh")], check=False, timeout=30)
    assert (tmp_path / "requeue").read_text().endswith(" 137\n")


@pytest.mark.parametrize(
    ("container", "runs"), [([], "/opt/env/bin/python"), (["apptainer", "exec", "my.sif"], sys.executable)]
)
def test_the_node_s_own_python_decides_whether_a_job_comes_back(sbatch, tmp_path, container, runs):
    launch.submit([Job("a", tmp_path / "a", "")], full_profile(container=container), tmp_path / "slurm")
    assert f"exec {shlex.quote(runs)} -m slurm.requeue" in (tmp_path / "a" / "sbatch.sh").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_sbatch_is_delivered_once_the_notes_are_written(sbatch, tmp_path, number):
    """The signal reaches sbatch as well, as Ctrl-C in a terminal does."""
    kill = f"kill -{number.value} $PPID; kill -{number.value} $$"
    (sbatch.parent / "sbatch").write_text(f"#!/bin/bash\n{kill}; sleep 0.1; echo Submitted batch job 7\n")
    jobs = [Job(name, tmp_path / name, "") for name in "abc"]

    def stop(number, frame):
        noted = [read_submission(job.folder) for job in jobs]
        assert [note and note.job_id for note in noted] == ["7_0", "7_1", "7_2"]
        raise KeyboardInterrupt

    before = signal.signal(number, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            launch.submit(jobs, full_profile(), tmp_path / "slurm")
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_outside_the_main_thread_jobs_are_submitted_too(sbatch, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(launch.submit, [Job("a", tmp_path / "a", "")], full_profile(), tmp_path / "slurm").result()
    assert read_submission(tmp_path / "a") is not None


def test_what_sbatch_says_is_in_the_error(sbatch, tmp_path):
    (sbatch.parent / "sbatch").write_text("#!/bin/sh\necho 'Invalid account' >&2; exit 1\n")
    with pytest.raises(ClusterError, match="Invalid account"):
        launch.submit([Job("a", tmp_path / "a", "")], full_profile(), tmp_path / "slurm")


def test_a_percent_sign_in_the_folder_is_refused(tmp_path):
    with pytest.raises(ClusterError, match="SLURM replaces '%'"):
        launch.submit([Job("a", tmp_path / "a", "")], full_profile(), tmp_path / "50%j")


def test_a_line_break_in_a_name_is_refused(tmp_path):
    with pytest.raises(ClusterError, match="control character"):
        launch.submit([Job("a", tmp_path / "a", "")], full_profile(), tmp_path / "s", label="x\n#SBATCH --uid=0")


def test_every_word_of_the_rank_command_is_quoted():
    command = launch.task_command(full_profile(python="/my env/$HOME/python"), Path("/a b/`x`.json"))
    words = [
        "apptainer",
        "exec",
        "--nv",
        "my image.sif",
        "/my env/$HOME/python",
        "-u",
        "-m",
        "slurm.task",
        "/a b/`x`.json",
    ]
    assert shlex.split(command) == words
    shown = subprocess.run(["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == words
