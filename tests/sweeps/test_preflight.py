"""Preflight: every reason at once, each naming what to mend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.config import EvaluateConfig, ReportConfig
from harness.config import RunConfig
from harness.errors import InputError
from slurm.profile import ClusterProfile
from sweeps.config import SweepConfig, dump_sweep
from sweeps.grid import expand
from sweeps.layout import RunsFolder, SweepFolder
from sweeps.plan import Identify, Plan, make_plan
from sweeps.preflight import estimated_gb, evaluation_reasons, measured_save_s, preflight, room_to_come_gb
from sweeps.run import dataset_classes, refuse, run_sweep

SweepOf = Callable[..., SweepConfig]
LOCAL = ClusterProfile()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed dataset of two classes."""
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


def planned(sweep: SweepConfig) -> Plan:
    return make_plan(sweep.name, expand(sweep, dataset_classes), Identify())


def test_plan_that_can_run_has_no_reason(sweep_of: SweepOf, sweep_folder: SweepFolder, photos: Path) -> None:
    axis = {"name": "class", "per_class": {"phases": ["adversarial"]}}
    plan = planned(sweep_of(axis, data=str(photos)))
    assert [run.name for run in plan.runs] == ["hill", "lake", "general"]
    assert preflight(plan, sweep_folder, LOCAL) == []
    assert not sweep_folder.runs.root.exists(), "the preflight left something behind"


def test_every_reason_is_given_at_once(
    sweep_of: SweepOf, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    features = {"name": "features", "network": "vgg19", "layers": {"conv5_4": 1.0}, "distance": "l1"}
    phase = {"losses": [features], "batch_size": 6, "sources": [{"path": str(tmp_path / "nowhere")}]}
    changes = {f"phases.1.{key}": value for key, value in phase.items()}
    changes["data.sources"] = [{"path": str(photos), "classes": ["sea"]}]
    (tmp_path / "file").write_text("")
    folder = RunsFolder(tmp_path / "file").sweep("s")
    reasons = preflight(planned(sweep_of(set=changes)), folder, ClusterProfile(tasks_per_node=4))
    text = "\n".join(reasons)
    assert len(reasons) == 5
    assert "nowhere" in text and "run `harness pack`" in text
    assert "has no class 'sea'" in text and "hill, lake" in text
    assert "vgg19" in text and "harness weights fetch" in text
    assert "batch_size 6 cannot be shared by 4 ranks; make it a multiple of 4" in text
    assert "is a file where a folder is needed" in text
    with pytest.raises(InputError, match="5 reasons not to start"):
        refuse(reasons)


def test_what_the_evaluation_lacks_is_told_before_the_first_training(
    sweep_of: SweepOf, photos: Path, tmp_path: Path
) -> None:
    plan = planned(sweep_of(data=str(photos)))
    missing = str(tmp_path / "nowhere")
    told = {
        f"the evaluation: {missing}: is not a packed dataset": EvaluateConfig(dataset=missing),
        f"the evaluation: {photos}: has no class 'lkae'": EvaluateConfig(classes=("lkae",)),
        "the evaluation: report.reference 'nix': no such": EvaluateConfig(report=ReportConfig(reference="nix")),
    }
    for start, config in told.items():
        (reason,) = evaluation_reasons(config, plan)
        assert reason.startswith(start)
        assert ("evaluate.dataset=null" in reason) == (config.dataset is not None)
    assert evaluation_reasons(EvaluateConfig(classes=("lake",)), plan) == []
    assert evaluation_reasons(EvaluateConfig(metrics=("fid",)), plan) == []


def test_training_data_that_lack_are_no_reason_of_the_evaluation_too(sweep_of: SweepOf, tmp_path: Path) -> None:
    plan = planned(sweep_of(data=str(tmp_path / "nowhere")))
    assert plan.missing and evaluation_reasons(EvaluateConfig(), plan) == []


def test_sweep_is_refused_for_what_its_evaluation_lacks(sweep_of: SweepOf, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(dump_sweep(sweep_of(data=str(photos))))
    with pytest.raises(InputError, match="the evaluation: nowhere: is not a packed dataset"):
        run_sweep(file, cluster="local", overrides=["evaluate.dataset=nowhere"], runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_runs_that_lack_the_same_ranks_give_one_reason(
    sweep_of: SweepOf, sweep_folder: SweepFolder, photos: Path
) -> None:
    seeds = {"name": "seed", "key": "seed", "values": [0, 1, 2]}
    plan = planned(sweep_of(seeds, data=str(photos), set={"phases.0.batch_size": 6}))
    (reason,) = preflight(plan, sweep_folder, ClusterProfile(tasks_per_node=4))
    assert "phase 'pretrain' (3 of them): batch_size 6 cannot be shared by 4 ranks; make it a multiple of 4" in reason


def test_phase_that_is_finished_is_asked_for_nothing(
    sweep_of: SweepOf, sweep_folder: SweepFolder, photos: Path, finish: Callable[[str], None]
) -> None:
    plan = planned(sweep_of(data=str(photos), set={"phases.0.batch_size": 6}))
    finish(next(iter(plan.phases)))
    assert preflight(plan, sweep_folder, ClusterProfile(tasks_per_node=4)) == []


def test_micro_batches_have_to_fit_too(sweep_of: SweepOf, sweep_folder: SweepFolder, photos: Path) -> None:
    plan = planned(sweep_of(data=str(photos), set={"phases.0.accumulate": 4}))
    (reason,) = preflight(plan, sweep_folder, ClusterProfile(tasks_per_node=2))
    assert "phase 'pretrain'" in reason and "2 ranks in 4 parts each" in reason


def test_damaged_sidecar_is_refused(sweep_of: SweepOf, sweep_folder: SweepFolder, photos: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(photos, copy)
    (copy / "index.parquet").write_bytes((copy / "index.parquet").read_bytes()[:-1] + b"x")
    (reason,) = preflight(planned(sweep_of(data=str(copy))), sweep_folder, LOCAL)
    assert "index.parquet" in reason and "does not match" in reason


def test_what_a_later_phase_lacks_is_told_before_the_first(
    sweep_of: SweepOf, sweep_folder: SweepFolder, photos: Path, tmp_path: Path
) -> None:
    """Each of these would otherwise be told when that phase's job begins, days later."""
    from safetensors.torch import save_file
    from torch import zeros

    save_file({"other": zeros(1)}, str(tmp_path / "other.safetensors"))
    changes = {"phases.1.train_last": 99, "init_discriminator_from": str(tmp_path / "other.safetensors")}
    (reason,) = preflight(planned(sweep_of(data=str(photos), set=changes)), sweep_folder, LOCAL)
    assert reason.startswith("phase 'adversarial': train_last: 99 was given, but the generator has")
    changes["phases.1.train_last"] = 1
    (reason,) = preflight(planned(sweep_of(data=str(photos), set=changes)), sweep_folder, LOCAL)
    assert reason.startswith("phase 'adversarial': ") and "the weights are of another architecture" in reason
    changes["init_discriminator_from"] = str(tmp_path / "none")
    (reason,) = preflight(planned(sweep_of(data=str(photos), set=changes)), sweep_folder, LOCAL)
    assert str(tmp_path / "none") in reason, "told once"


def test_patches_larger_than_the_samples_are_told_before_the_first_phase(
    sweep_of: SweepOf, sweep_folder: SweepFolder, photos: Path
) -> None:
    (reason,) = preflight(planned(sweep_of(data=str(photos), set={"data.patch_px": 64})), sweep_folder, LOCAL)
    assert "smaller than the patch of 64 px" in reason


def test_full_disk_is_refused_with_the_space_that_is_needed(
    sweep_of: SweepOf, sweep_folder: SweepFolder, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.preflight.estimated_gb", lambda plan: 1e9)
    (reason,) = preflight(planned(sweep_of(data=str(photos))), sweep_folder, LOCAL)
    assert "1000000000.0" in reason


def test_estimated_space_is_what_the_checkpoints_of_a_phase_take(
    sweep_of: SweepOf, photos: Path, recipe: dict[str, Any]
) -> None:
    """Counted by hand from the two networks' state dicts."""
    from harness.models.build import build_discriminator, build_generator

    config = RunConfig.model_validate(recipe)
    generator = sum(p.numel() for p in build_generator(config.generator, 4).parameters())
    assert config.discriminator is not None
    discriminator = sum(p.numel() for p in build_discriminator(config.discriminator, 32).parameters())
    plan = planned(sweep_of(data=str(photos)))
    pretrain = 4 * (4 * generator) * 3 + 4 * generator
    adversarial = 4 * (4 * generator + 3 * discriminator) * 3 + 4 * generator
    assert estimated_gb(plan) * 2**30 == pytest.approx(pretrain + adversarial)


def test_finished_phases_need_no_more_space(
    sweep_of: SweepOf, sweep_folder: SweepFolder, photos: Path, finish: Callable[[str], None]
) -> None:
    plan = planned(sweep_of(data=str(photos)))
    assert room_to_come_gb(plan, sweep_folder) == estimated_gb(plan)
    for key in plan.phases:
        finish(key)
    assert room_to_come_gb(plan, sweep_folder) == 0


def test_save_time_is_the_longest_from_signal_to_stop(
    sweep_of: SweepOf, sweep_folder: SweepFolder, photos: Path
) -> None:
    plan = planned(sweep_of(data=str(photos)))
    assert measured_save_s(plan, sweep_folder) is None
    rows = [
        {"time": 5.0, "event": "checkpoint", "save_s": 0.5},
        {"time": 10.1, "event": "signal", "received_at": 10.0},
        {"time": 12.5, "event": "stop"},
    ]
    folder = sweep_folder.runs.phase(next(iter(plan.phases)))
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert measured_save_s(plan, sweep_folder) == 2.5
    later = [{"time": 20.0, "event": "signal", "received_at": 20.0}, {"time": 21.0, "event": "stop"}]
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, rows + later)))
    assert measured_save_s(plan, sweep_folder) == 2.5, "the longest, not the last"
