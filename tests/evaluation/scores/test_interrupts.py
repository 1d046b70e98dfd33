"""A full disk, a folder that cannot be written, Ctrl-C and a killed process: nothing half-written, and it goes on."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from evaluation.config import EvaluateConfig
from evaluation.model import baseline
from evaluation.report.write import write_report
from evaluation.scores import parallel
from evaluation.scores.collect import evaluate, plan
from evaluation.scores.table import ScoreTable
from evaluation.scores.work import Unit, Worker, all_units
from harness.data.pack import pack
from harness.errors import EXIT_SAVED, InputError

MODELS = [baseline("nearest"), baseline("bicubic")]


@pytest.fixture
def packed(write_images, tmp_path: Path) -> str:
    write_images(tmp_path / "photos" / "sea", 6, 4.0)
    write_images(tmp_path / "photos" / "sand", 6, 9.0)
    pack([tmp_path / "photos"], tmp_path / "set", tile_px=24, workers=1, val=0, test=5)
    return str(tmp_path / "set")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, left_kib: int) -> None:
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(b"\0" * (free.f_bavail * free.f_frsize - left_kib * 1024))


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".part" in path.name or path.name == ".writable"]


def config_of(packed: str) -> EvaluateConfig:
    return EvaluateConfig(dataset=packed, scale=4, report={"num_strips": 1, "resamples": 100})


@pytest.mark.parametrize("left_kib", [0, 4, 12, 24])
def test_a_full_disk_loses_no_finished_cell_and_a_rerun_ends_as_if_nothing_had_been(
    left_kib: int, disk: Path, packed: str, tmp_path: Path
) -> None:
    config, out = config_of(packed), disk / "report"
    fill(disk, left_kib)
    with pytest.raises(OSError) as full:
        evaluate(MODELS, config, out)
    assert full.value.errno == errno.ENOSPC and str(full.value.filename).startswith(str(out))
    assert not half_written(disk)
    kept = list(out.rglob("*.json"))
    assert all(json.loads(path.read_text()) is not None for path in kept)
    assert (left_kib == 0) == (not kept)
    (disk / "filler").unlink()
    again = evaluate(MODELS, config, out)
    fresh = evaluate(MODELS, config, tmp_path / "fresh")
    pd.testing.assert_frame_equal(again.images, fresh.images)
    pd.testing.assert_frame_equal(ScoreTable.load(out).images, fresh.images)


def test_a_full_disk_leaves_the_report_that_was_there(disk: Path, packed: str) -> None:
    config, out = config_of(packed), disk / "report"
    table = evaluate(MODELS, config, out)
    write_report("first", table, config, [], out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    fill(disk, 0)
    with pytest.raises(OSError) as full:
        write_report("second", table, config, [], out)
    assert full.value.errno == errno.ENOSPC
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (disk / "filler").unlink()
    fill(disk, len((out / "report.html").read_bytes()) // 2048)
    with pytest.raises(OSError):
        write_report("second", table, config, [], out)
    assert (out / "report.html").read_bytes() == before[out / "report.html"] and not half_written(out)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(packed: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")

    def no_model(*_: object) -> None:
        raise AssertionError("a model was opened")

    with pytest.raises(InputError, match="file/report: cannot be written"):
        evaluate(MODELS, config_of(packed), tmp_path / "file" / "report", opener=no_model)  # type: ignore[arg-type]


SCRIPT = """
import sys, time
from pathlib import Path
from evaluation.scores import upsamplers
from evaluation.scores.collect import evaluate
from evaluation.config import EvaluateConfig
from evaluation.model import baseline
from harness.errors import TrainingError

if __name__ == "__main__":
    config = EvaluateConfig(dataset=sys.argv[1], scale=4, workers=2)
    try:
        evaluate([baseline("nearest"), baseline("bicubic")], config, Path(sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit(130)
    except TrainingError as error:
        print(error)
        sys.exit(1)
else:  # in a process of the pool: time enough to be stopped in the middle
    batch = upsamplers.MethodUpsampler.batch

    def slowly(self, *arguments):
        (Path(sys.argv[2]) / "begun").touch()
        time.sleep(0.5)
        return batch(self, *arguments)

    upsamplers.MethodUpsampler.batch = slowly
"""


@pytest.mark.parametrize("how", ["ctrl-c", "kill of one process"])
def test_a_stopped_evaluation_on_two_processes_ends_at_once_and_goes_on(how: str, packed: str, tmp_path: Path) -> None:
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, script, packed, out]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until = time.monotonic() + 60
    while not (out / "begun").exists():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)
    if how == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)
    else:
        os.kill(worker_of(process.pid), signal.SIGKILL)
    said, complained = process.communicate(timeout=30)
    assert process.returncode == (130 if how == "ctrl-c" else 1), complained
    assert "Traceback" not in complained
    assert ("run it again with fewer workers" in said) == (how != "ctrl-c")
    assert not half_written(out) and not (out / "scores.parquet").exists()
    table = evaluate(MODELS, config_of(packed), out)
    pd.testing.assert_frame_equal(table.images, evaluate(MODELS, config_of(packed), tmp_path / "fresh").images)


def test_a_process_listens_to_sigterm_from_its_first_unit_on(packed: str, tmp_path: Path, monkeypatch) -> None:
    """Before, the pool would print the exit's traceback, and there is nothing to clean up."""
    job, source = plan(MODELS, config_of(packed))
    monkeypatch.setattr(parallel, "_WORKER", None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        parallel._start(
            job, source.path, str(tmp_path / "cache"), torch.get_num_threads(), multiprocessing.Value("i", 0)
        )
        assert signal.getsignal(signal.SIGTERM) == before
        begun: list[Unit] = []
        monkeypatch.setattr(Worker, "run", lambda self, unit: (begun.append(unit), signal.raise_signal(signal.SIGTERM)))
        for unit in all_units(job):
            with pytest.raises(SystemExit) as left:
                parallel._run(unit)
            assert left.value.code == EXIT_SAVED
        assert len(begun) == 1 < len(all_units(job))
    finally:
        signal.signal(signal.SIGTERM, before)


def worker_of(parent: int) -> int:
    """A process of the pool: a child that was spawned, other than the one that tracks shared memory."""
    for line in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if b"spawn_main" in Path(f"/proc/{line}/cmdline").read_bytes():
            return int(line)
    raise AssertionError("no worker")
