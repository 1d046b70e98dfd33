"""`harness sweep` and its companions from the outside: exit codes, what is printed, what is left behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console

from harness.errors import EXIT_DONE, EXIT_FAILURE, EXIT_SAVED, EXIT_WRONG_INPUT, InputError
from harness.process import process_start
from slurm.errors import ClusterError
from slurm.profile import ClusterProfile
from sweeps import apply, control, run
from sweeps.apply import left_runs, store
from sweeps.cluster import Submitted
from sweeps.control import cancel_sweep, find_sweep_folder
from sweeps.evaluate import Evaluation, find_evaluation, models_of
from sweeps.follow import print_status
from sweeps.layout import RunsFolder, SweepFolder
from sweeps.lock import claim
from sweeps.logs import NewestLogs, _added, find_logs, read_logs
from sweeps.owner import Owner, this_machine, this_process
from sweeps.plan import read_plan
from sweeps.run import plan_sweep, preflight_sweep, resume_sweep, run_sweep
from sweeps.status import Row, RunState, SweepStatus


class Printed(Console):
    """A console that is no terminal, and what it printed."""

    def __init__(self) -> None:
        super().__init__(file=io.StringIO(), width=160)

    @property
    def text(self) -> str:
        return self.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np
    from PIL import Image

    from harness.data.pack import pack

    folder = tmp_path_factory.mktemp("images")
    source = np.random.default_rng(0)
    for name in ("hill", "lake"):
        (folder / name).mkdir()
        for i in range(4):
            Image.fromarray(source.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    out = tmp_path_factory.mktemp("packed") / "photos"
    pack([folder], out, tile_px=48, val=1, test=1, workers=1)
    return out


@pytest.fixture
def sweep_file(tmp_path: Path, recipe: dict[str, Any], photos: Path) -> Path:
    axis = {"name": "class", "per_class": {"phases": ["adversarial"]}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "base": recipe, "axes": [axis], "data": str(photos)}))
    return path


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Evaluation]:
    """The evaluations that were asked for; nothing is measured."""
    asked: list[Evaluation] = []
    monkeypatch.setattr(run, "evaluate_here", lambda evaluation, console, cluster: asked.append(evaluation))
    return asked


@pytest.fixture(autouse=True)
def fake_trainer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    here = str(Path(__file__).parent)
    monkeypatch.setattr(apply, "TRAIN_TARGET", "fake_trainer:main")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
    return lambda **plan: monkeypatch.setenv("FAKE_TRAINER", json.dumps(plan))


def test_sweep_trains_evaluates_and_is_done(sweep_file: Path, tmp_path: Path, evaluated: list[Evaluation]) -> None:
    console = Printed()
    code = run_sweep(sweep_file, cluster="local", runs_dir=tmp_path / "runs", console=console)
    assert code == EXIT_DONE, console.text
    assert "3 runs, 4 phases: 250 iterations instead of 450; sharing phases saves 200 (44.4%)." in console.text
    assert "100% of 250 iterations; 3 done" in console.text
    (evaluation,) = evaluated
    assert evaluation.config.pool == "general", "the general model was trained on both classes, but is scored on none"
    models = evaluation.models
    assert [(model.name, model.kind, model.own_class) for model in models] == [
        ("hill", "checkpoint", "hill"),
        ("lake", "checkpoint", "lake"),
        ("general", "checkpoint", "general"),
        ("nearest", "method", None),
        ("bicubic", "method", None),
    ]
    assert (Path(str(models[0].path)) / "generator.safetensors").read_bytes() == b"weights"
    assert models == models_of(evaluation.plan, evaluation.folder, evaluation.config)


def test_dry_run_on_no_cluster_is_refused(sweep_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="there is no cluster profile 'nix'"):
        run_sweep(sweep_file, dry_run=True, cluster="nix", runs_dir=tmp_path / "runs", console=Printed())


def test_dry_run_prints_the_plan_and_writes_nothing(sweep_file: Path, tmp_path: Path) -> None:
    console = Printed()
    assert run_sweep(sweep_file, dry_run=True, runs_dir=tmp_path / "runs", console=console) == EXIT_DONE
    assert not (tmp_path / "runs").exists()
    assert all(name in console.text for name in ("hill", "lake", "general", "pretrain-", "44.4%"))


def test_dry_run_names_what_is_missing_instead_of_changes_that_nobody_can_know(
    sweep_file: Path, tmp_path: Path
) -> None:
    console = Printed()
    before = plan_sweep(sweep_file, ["axes=[]"], tmp_path)
    store(before.sweep, before.plan, before.folder)
    changes = ["axes=[]", "data=nowhere"]
    assert run_sweep(sweep_file, dry_run=True, overrides=changes, runs_dir=tmp_path, console=console) == EXIT_DONE
    assert "note: nowhere: no such file or folder; mend the path" in console.text
    assert "changed:" not in console.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=nowhere"], "nowhere"),
        (["data.sources.0.split=tset"], "split"),
        (["phases.0.batch_size=0"], "phases.0.batch_size"),
        (["scale=3"], "scale"),
        (["data.patch_px=30"], "not a multiple of scale"),
        (["axes.0.per_class.phases=[finetune]"], "names the phase 'finetune'"),
        (["evaluate.metrics=[pnsr]"], "evaluate.metrics"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(
    sweep_file: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(InputError) as error:
        run_sweep(sweep_file, cluster="local", overrides=overrides, runs_dir=tmp_path / "runs", console=Printed())
    assert message in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_data_that_are_missing_are_refused_without_the_preflight_too(sweep_file: Path, tmp_path: Path) -> None:
    """The keys of their phases would be provisional."""
    changes = ["axes=[]", "data=nowhere"]
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        run_sweep(
            sweep_file,
            cluster="local",
            overrides=changes,
            runs_dir=tmp_path / "runs",
            check=False,
            console=Printed(),
        )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("own", "most"), [([], 7), (["max_parallel=3"], 3)])
def test_most_jobs_at_once_are_the_sweeps_or_else_the_profiles(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: list[str], most: int
) -> None:
    given: list[ClusterProfile] = []
    monkeypatch.setattr(run, "load_profile", lambda name: ClusterProfile(name="test", max_parallel=7))
    monkeypatch.setattr(run, "_on_this_machine", lambda planned, profile, *_: given.append(profile) or EXIT_DONE)
    run_sweep(sweep_file, runs_dir=tmp_path / "runs", overrides=own, check=False, console=Printed())
    assert [profile.max_parallel for profile in given] == [most]


def test_preflight_alone_prints_every_reason(sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reasons(*overrides: str) -> tuple[int, list[str]]:
        console = Printed()
        code = preflight_sweep(
            sweep_file, cluster="local", overrides=overrides, runs_dir=tmp_path / "runs", console=console
        )
        return code, console.text.splitlines()

    monkeypatch.setattr("sweeps.run.note_of_gpus", lambda _: "GPUs stay idle.")
    code, lines = reasons()
    assert code == EXIT_DONE and lines[0] == "note: GPUs stay idle."
    assert lines[2] == "checkpoints and weights of what is left to train take 0.0 GiB of disk at the most"
    monkeypatch.setattr("sweeps.run.note_of_gpus", lambda _: None)
    code, lines = reasons("axes=[]", "data.sources.0.classes=[sea]", "phases.1.sources=[{path: nowhere}]")
    assert code == EXIT_WRONG_INPUT
    assert len(lines) == 2 and "nowhere" in "".join(lines) and "sea" in "".join(lines)


def test_failed_run_is_told_and_resumed_with_the_stored_configuration(
    sweep_file: Path, tmp_path: Path, evaluated: list[Evaluation], fake_trainer: Callable[..., None]
) -> None:
    fake_trainer(pretrain="fail")
    console, runs = Printed(), tmp_path / "runs"
    code = run_sweep(sweep_file, cluster="local", runs_dir=runs, overrides=["seed=3"], console=console)
    assert code == EXIT_FAILURE
    assert "failed: hill (pretrain): TrainingError: the loss is not finite" in console.text
    assert not evaluated, "nothing was trained, so there is nothing to evaluate"
    sweep_file.unlink()
    fake_trainer(pretrain="0")
    folder = find_sweep_folder(runs)
    assert resume_sweep(folder, cluster="local", console=Printed()) == EXIT_DONE
    configs = [
        yaml.safe_load((runs / "phases" / key / "run.yaml").read_text()) for key in read_plan(folder.plan).phases
    ]
    assert {values["config"]["seed"] for values in configs} == {3}


def test_status_of_all_sweeps_and_of_one(sweep_file: Path, tmp_path: Path, evaluated: list[Evaluation]) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(InputError, match="holds no sweep"):
        print_status(runs, None, watch=False, console=Printed())
    run_sweep(sweep_file, cluster="local", runs_dir=runs, console=Printed())
    for name in (None, "mine", str(sweep_file)):
        console = Printed()
        assert print_status(runs, name, watch=False, console=console) == EXIT_DONE
        assert "hill" in console.text and "CPU-minutes: " in console.text
    for wrong, said in (("other", "it has: mine"), ("mime", r"did you mean 'mine'\?")):
        with pytest.raises(InputError, match=f"has no sweep '{wrong}'; {said}"):
            print_status(runs, wrong, watch=False, console=Printed())
    assert print_status(runs, "mine", watch=True, console=Printed()) == EXIT_DONE


def test_sweep_mends_a_plan_that_cannot_be_read_and_status_shows_the_others(
    sweep_file: Path, tmp_path: Path, evaluated: list[Evaluation], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    for name in ("a", "b"):
        run_sweep(sweep_file, overrides=[f"name={name}"], cluster="local", runs_dir=runs, console=Printed())
    (runs / "a" / "plan.json").write_text("")  # as a crash of the machine leaves it
    console = Printed()
    assert print_status(runs, None, watch=False, console=console) == EXIT_WRONG_INPUT
    assert "100%" in console.text, "b can be shown"
    assert "run `harness sweep` again" in capsys.readouterr().err
    code = run_sweep(sweep_file, overrides=["name=a"], cluster="local", runs_dir=runs, console=Printed())
    assert code == EXIT_DONE and print_status(runs, None, watch=False, console=Printed()) == EXIT_DONE


def test_edited_file_reports_what_is_new_and_gone(
    sweep_file: Path, tmp_path: Path, evaluated: list[Evaluation]
) -> None:
    runs = tmp_path / "runs"
    run_sweep(sweep_file, cluster="local", runs_dir=runs, console=Printed())
    console = Printed()
    only = ["axes.0.per_class.classes=[lake]", "axes.0.per_class.general=null"]
    assert run_sweep(sweep_file, cluster="local", runs_dir=runs, overrides=only, console=console) == EXIT_DONE
    assert "gone: hill, general" in console.text
    assert os.listdir(runs / "mine" / "models") == ["lake"]
    console = Printed()
    run_sweep(sweep_file, cluster="local", runs_dir=runs, overrides=[*only, "phases.1.iterations=9"], console=console)
    assert "changed: lake\nphases that left the file are left alone" in console.text, "they may be training still"


def test_evaluation_is_found_by_name_and_by_an_edited_file(
    sweep_file: Path, tmp_path: Path, evaluated: list[Evaluation]
) -> None:
    runs = tmp_path / "runs"
    run_sweep(sweep_file, cluster="local", runs_dir=runs, console=Printed())
    assert find_evaluation("mine", [], runs).config == evaluated[0].config
    assert find_evaluation("mine", ["evaluate.max_images=3"], runs).config.max_images == 3
    values = yaml.safe_load(sweep_file.read_text())
    sweep_file.write_text(yaml.safe_dump({**values, "evaluate": {"max_images": 4}}))
    assert find_evaluation(str(sweep_file), [], runs).config.max_images == 4
    assert find_evaluation("evaluate.max_images=5", ["title=T"], runs).config.max_images == 5
    for wrong, overrides in (("other", []), (str(sweep_file), ["name=other"])):
        with pytest.raises(InputError, match="has no sweep 'other'"):
            find_evaluation(wrong, overrides, runs)
    for override in ("seed=1", "max_parallel=2", "name=mine", "evaluat.max_images=3"):
        with pytest.raises(InputError, match=f"override '{override}': here only evaluate, title can be"):
            find_evaluation("mine", [override], runs)


def test_logs_are_those_of_the_newest_phase_that_began(
    sweep_file: Path, tmp_path: Path, evaluated: list[Evaluation], fake_trainer: Callable[..., None]
) -> None:
    runs = tmp_path / "runs"
    fake_trainer(adversarial="refuse")
    run_sweep(sweep_file, cluster="local", runs_dir=runs, console=Printed())
    folder = RunsFolder(runs).sweep("mine")
    assert "error: no such data" in "".join(read_logs(find_logs(folder, "hill"), follow=False))
    assert "no such data" not in "".join(read_logs(find_logs(folder, "hill", "pretrain"), follow=False))
    with pytest.raises(InputError, match=r"has no run 'hil'; did you mean 'hill'\?"):
        find_logs(folder, "hil")
    with pytest.raises(InputError, match="its phases are pretrain, adversarial"):
        find_logs(folder, "hill", "finetune")


def test_followed_log_gives_what_is_added(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\n")
    lines = read_logs(lambda: [path], follow=True, poll_s=0.01)
    assert next(lines) == "one\n"
    with path.open("a") as file:
        file.write("two\n")
    assert next(lines) == "two\n"


def test_followed_log_goes_over_to_the_next_submission(tmp_path: Path) -> None:
    first, second = tmp_path / "1_log.out", tmp_path / "2_log.out"
    first.write_text("one\n")
    second.write_text("two\n")
    found: list[Path] = [first]

    def find() -> list[Path]:
        if not found:
            raise InputError("no log yet")
        return list(found)

    lines = read_logs(find, follow=True, poll_s=0.01)
    assert next(lines) == "one\n"
    found.clear()  # the next job waits
    with first.open("a") as file:
        file.write("the end\n")
    assert next(lines) == "the end\n"
    found.append(second)
    assert next(lines) == "two\n"
    with second.open("a") as file:
        file.write("three\n")
    assert next(lines) == "three\n"
    with pytest.raises(InputError, match="no log yet"):
        list(read_logs(NewestLogs([tmp_path], "hill"), follow=True))


def test_newest_log_is_never_that_of_a_phase_before_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = {"pretrain": [Path("1_log.out")], "adversarial": []}
    submissions = {name: SimpleNamespace(log_files=lambda rank, name=name: logs[name]) for name in logs}
    monkeypatch.setattr("sweeps.logs.read_submission", lambda place: submissions[place.name])
    find = NewestLogs([tmp_path / name for name in logs], "hill")
    assert find() == [tmp_path / "pretrain" / "metrics.jsonl", Path("1_log.out")]
    logs["adversarial"] = [Path("2_log.out")]
    assert find()[1] == Path("2_log.out")
    logs["adversarial"] = []  # submitted again, and waiting
    with pytest.raises(InputError, match="has no log yet"):
        find()


def test_phase_that_waits_for_its_next_start_shows_what_it_has_trained(tmp_path: Path) -> None:
    for name in ("pretrain", "adversarial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").touch()
    assert NewestLogs([tmp_path / "pretrain", tmp_path / "adversarial"], "hill")() == [
        tmp_path / "adversarial" / "metrics.jsonl"
    ]


def test_log_tells_the_losses_of_each_step_once_it_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = read_logs(lambda: [path, tmp_path / "out"], follow=True, poll_s=0.01)
    (tmp_path / "out").write_text("it has begun\n")
    assert next(lines) == "it has begun\n", "there are no metrics yet"
    row = {"step": 1200, "phase": "pretrain", "loss/l1": 0.0450829, "sr/std": 0.2, "val/psnr": 24.573554}
    path.write_text(json.dumps(row) + '\n{"step": 1300, "pha')
    shown = "step 1,200  pretrain  loss/l1 0.04508  val/psnr 24.57\n"
    assert next(lines) == shown
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "step": 1300, "d/loss": 1}) + "\n")
    assert next(lines) == "step 1,300  pretrain  loss/l1 0.04508  val/psnr 24.57  d/loss 1\n"
    path.write_text("")
    assert "".join(read_logs(lambda: [path, tmp_path / "out"], follow=False)) == "it has begun\n"


def test_followed_log_goes_on_where_a_run_went_back_to_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n')
    shown, place = _added(path, 0)
    assert shown.count("step") == 3
    path.write_text('{"step": 1}\n')
    shown, place = _added(path, place)
    assert shown == ""
    path.write_text('{"step": 1}\n{"step": 2}\n')
    assert _added(path, place)[0].startswith("step 2")


def _sweep_in_a_process(sweep_file: Path, runs: Path) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from sweeps import apply, run; apply.TRAIN_TARGET = 'fake_trainer:main';"
        "run.evaluate_here = lambda evaluation, console, cluster: None;"
        "sys.exit(run.run_sweep(sys.argv[1], cluster='local', runs_dir=sys.argv[2], check=False))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(sweep_file), str(runs)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _wait_for_training(folder: SweepFolder, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while not list((folder.runs.root / "phases").glob("*/starts.txt")):
        assert time.monotonic() < deadline and process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["ctrl-c", pytest.param("cancel", marks=pytest.mark.slow)])
def test_stopped_sweep_leaves_with_75_and_goes_on_when_called_again(
    sweep_file: Path,
    tmp_path: Path,
    evaluated: list[Evaluation],
    fake_trainer: Callable[..., None],
    how: str,
) -> None:
    fake_trainer(pretrain="60")
    folder = RunsFolder(tmp_path / "runs").sweep("mine")
    process = _sweep_in_a_process(sweep_file, folder.runs.root)
    _wait_for_training(folder, process)
    if how == "ctrl-c":
        process.send_signal(signal.SIGINT)
    else:
        cancel_sweep(folder, [], Printed())
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75, output.decode()
    assert "the same command goes on from here" in output.decode()
    fake_trainer(pretrain="0")
    assert run_sweep(sweep_file, cluster="local", runs_dir=folder.runs.root, console=Printed()) == EXIT_DONE


@pytest.mark.parametrize(
    ("states", "reported", "code"),
    [
        (["done", "done"], True, EXIT_DONE),
        (["done", "done"], False, EXIT_FAILURE),
        (["done", "saved"], True, EXIT_SAVED),
        (["waiting", "saved"], False, EXIT_SAVED),
        (["failed", "saved"], True, EXIT_FAILURE),
    ],
)
def test_sweep_that_has_not_failed_and_is_not_done_is_to_be_run_again(
    states: list[RunState], reported: bool, code: int
) -> None:
    """As where its runs were cancelled from elsewhere."""
    rows = [Row(f"run{place}", {}, state, "pretrain", 0, 100, 0) for place, state in enumerate(states)]
    assert run._outcome(SweepStatus("s", rows, 0, 200, {}), reported, Printed()) == code


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize(("executor", "where"), [("slurm", "follow_sweep"), ("local", "evaluate_here")])
def test_interrupted_sweep_leaves_as_one_to_be_run_again_whatever_it_was_at(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Any, where: str, interruption: Any
) -> None:
    """SystemExit is what rich raises where nobody reads the output any more."""
    planned = plan_sweep(sweep_file, [], tmp_path / "runs")
    store(planned.sweep, planned.plan, planned.folder)
    for key in planned.plan.phases:
        place = planned.folder.runs.phase(key)
        (place / "generator.safetensors").touch()
        (place / "status.json").write_text('{"state": "done"}')

    def interrupted(*_: Any, **__: Any) -> None:
        raise interruption

    monkeypatch.setattr(run, "load_profile", lambda name: ClusterProfile(name="test", executor=executor))
    monkeypatch.setattr(run, "submit_plan", lambda *_, **__: Submitted((), None, {}))
    monkeypatch.setattr(run, where, interrupted)
    console = Printed()
    assert run_sweep(sweep_file, runs_dir=tmp_path / "runs", check=False, console=console) == EXIT_SAVED
    is_told = executor == "slurm" and isinstance(interruption, KeyboardInterrupt)
    assert ("no longer following; the jobs go on" in console.text) == is_told


def test_what_left_the_file_in_an_earlier_edit_can_still_be_cancelled(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = plan_sweep(sweep_file, [], tmp_path / "runs")
    store(before.sweep, before.plan, before.folder)
    phases = {run.name: run.phases for run in before.plan.runs}
    values = yaml.safe_load(sweep_file.read_text())
    sweep_file.write_text(yaml.safe_dump({**values, "axes": []}))
    for _ in range(2):  # the second time, the last plan knows nothing of it any more
        after = plan_sweep(sweep_file, [], tmp_path / "runs")
        store(after.sweep, after.plan, after.folder)
    (still,) = after.plan.runs
    assert left_runs(after.folder, after.plan) == {n: [keys[-1]] for n, keys in phases.items() if keys != still.phases}
    cancelled: list[str] = []
    monkeypatch.setattr(control, "cancel_phases", lambda folder, keys, console: cancelled.extend(keys))
    cancel_sweep(after.folder, ["lake"], Printed())
    assert cancelled == [phases["lake"][-1]], "the first phase is the only run's too"
    cancel_sweep(after.folder, [], Printed())
    assert set(cancelled) == {key for keys in phases.values() for key in keys}
    store(before.sweep, before.plan, before.folder)
    assert not left_runs(before.folder, before.plan), "it is back in the file"


def test_process_that_trains_a_phase_of_another_sweep_too_is_stopped_with_its_own_sweep(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for overrides in (["name=other", "axes=[]", "phases.1.iterations=51"], []):
        planned = plan_sweep(sweep_file, overrides, tmp_path / "runs")
        store(planned.sweep, planned.plan, planned.folder)
        for key in planned.plan.phases:
            claim(planned.folder.runs.phase(key))
    stopped: list[Owner] = []
    monkeypatch.setattr(control, "_stop_process", stopped.append)
    console = Printed()
    cancel_sweep(planned.folder, [], console)
    assert stopped == [this_process()] and "another sweep needs it" in console.text


def test_cancelling_where_nothing_is_at_work_promises_nothing(sweep_file: Path, tmp_path: Path) -> None:
    planned, console = plan_sweep(sweep_file, [], tmp_path / "runs"), Printed()
    store(planned.sweep, planned.plan, planned.folder)
    cancel_sweep(planned.folder, [], console)
    assert console.text == "cancelled 0 phases\n"


def test_one_run_of_a_process_cannot_be_cancelled_alone(sweep_file: Path, tmp_path: Path) -> None:
    planned = plan_sweep(sweep_file, [], tmp_path / "runs")
    store(planned.sweep, planned.plan, planned.folder)
    for key in planned.plan.phases:
        claim(planned.folder.runs.phase(key))
    with pytest.raises(InputError, match="cancel the whole sweep instead"):
        cancel_sweep(planned.folder, ["hill"], Printed())
    with pytest.raises(InputError, match="has no run 'hil'"):
        cancel_sweep(planned.folder, ["hil"], Printed())


def test_only_the_very_process_that_trains_is_stopped_and_only_on_its_own_machine() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        control._stop_process(Owner(this_machine(), child.pid, "an earlier start of this number"))
        with pytest.raises(InputError, match="is on another machine; run `harness cancel` on far"):
            control._stop_process(Owner("far/boot/pid", child.pid, str(process_start(child.pid))))
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.1)
        control._stop_process(Owner(this_machine(), child.pid, str(process_start(child.pid))))
        assert child.wait(10) == -signal.SIGTERM
