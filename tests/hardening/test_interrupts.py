"""Ctrl-C in a command, and two commands on one folder: nothing half-written, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import harness.__main__
from harness.data.inspect import inspect

START = [sys.executable, "-m", "harness"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(*words: object) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a terminal starts it."""
    return subprocess.Popen(
        [*START, *map(str, words)],
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(process: subprocess.Popen[str], once: Callable[[], bool]) -> str:
    """Ctrl-C (to the whole group) once something is true; returns what was said, when nobody of the group is left."""
    until = time.monotonic() + 60
    while not once():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    while alive(process.pid):
        assert time.monotonic() < until, "a worker outlived its command"
        time.sleep(0.05)
    return out + err


def alive(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(stat.parent.name)
    return found


def images(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.png") if not path.name.startswith(".")]


@pytest.mark.parametrize("name", ["synth", "degrade", "upscale"])
def test_interrupted_images_are_whole_or_absent(name: str, tmp_path: Path, many: Path) -> None:
    out = tmp_path / "out"
    words = {
        "synth": ["synth", "--out", out, "--images-per-class", 500, "--size", 256, "--workers", 2],
        "degrade": ["degrade", many, out, "--scale", 2],
        "upscale": ["upscale", many, out, "--method", "bicubic", "--scale", 8],
    }[name]
    process = start(*words)
    said = interrupt(process, lambda: out.exists() and len(images(out)) > 3)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    for path in images(out):
        Image.open(path).load()


@pytest.fixture(scope="session")
def many(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough images that a command does not end before it is interrupted."""
    root = tmp_path_factory.mktemp("many")
    large = Image.open(photos / "hill" / "0.png").resize((256, 256))
    for i in range(400):
        large.save(root / f"{i:03d}.png", compress_level=0)
    return root


def test_an_interrupt_while_the_program_is_loaded_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "harness.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "harness.cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as left:
        harness.__main__.main()
    assert left.value.code == 130


def test_an_interrupted_pack_is_no_dataset_and_goes_on(tmp_path: Path, many: Path) -> None:
    # Different content: equal images would be packed once.
    for i, path in enumerate(sorted(many.iterdir())):
        target = tmp_path / "in" / "all" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (96, 96), (i % 256, i // 256, 7)).save(target)
    words = ["pack", tmp_path / "in", "--out", tmp_path / "out", "--tile", 48, "--workers", 2]
    process = start(*words)
    said = interrupt(process, lambda: any(tmp_path.glob("out*")) or any(tmp_path.glob(".out*")))
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "dataset.json").exists()
    again = start(*words)
    assert again.wait(60) == 0
    assert not inspect(str(tmp_path / "out"), True).problems


def long_recipe(recipe: Path, folder: Path) -> Path:
    values = json.loads(recipe.read_text())
    values["phases"][0]["iterations"] = 1_000_000
    values["checkpoint"] = {"every": 50}
    path = folder / "long.yaml"
    path.write_text(json.dumps({**values, "name": "long"}))
    return path


def steps(run: Path) -> int:
    try:
        return int(json.loads((run / "status.json").read_text())["step"])
    except (OSError, ValueError, KeyError):
        return 0


def test_an_interrupted_run_is_saved_and_goes_on(tmp_path: Path, recipe: Path) -> None:
    run = tmp_path / "run"
    process = start("train", long_recipe(recipe, tmp_path), "--out", run)
    said = interrupt(process, lambda: steps(run) > 0)
    assert process.returncode == 75, said
    assert "Traceback" not in said
    assert "the same command goes on" in said
    state = json.loads((run / "status.json").read_text())
    assert state["state"] == "saved"
    newest = max((run / "checkpoints").glob("step_*"))
    assert json.loads((newest / "manifest.json").read_text())["step"] == state["step"]
    assert not list(run.rglob("*.tmp"))


@pytest.mark.slow
def test_two_commands_train_one_folder_one_after_the_other(tmp_path: Path, recipe: Path) -> None:
    words = ["train", recipe, "phases.0.iterations=300", "log_every=10", "--out", tmp_path / "run"]
    codes = sorted(process.wait(60) for process in [start(*words), start(*words)])
    assert codes[0] == 0 and codes[1] in (0, 2), codes
    rows = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(10, 310, 10))


def test_two_packs_of_one_folder_make_one_dataset(tmp_path: Path, photos: Path) -> None:
    words = ["pack", photos, "--out", tmp_path / "out", "--tile", 48, "--workers", 1]
    said = [(*process.communicate(timeout=60), process.returncode) for process in [start(*words), start(*words)]]
    assert {code for _, _, code in said} <= {0, 2} and any(code == 0 for _, _, code in said), said
    assert not any("Traceback" in err for _, err, _ in said)
    assert not inspect(str(tmp_path / "out"), True).problems


def test_two_synths_of_one_folder_draw_the_same_whole_images(tmp_path: Path) -> None:
    words = ["synth", "--out", tmp_path / "out", "--images-per-class", 3, "--size", 64, "--workers", 1]
    said = [(*process.communicate(timeout=60), process.returncode) for process in [start(*words), start(*words)]]
    assert [code for _, _, code in said] == [0, 0], said
    found = images(tmp_path / "out")
    assert len(found) == 18
    for path in found:
        Image.open(path).load()
