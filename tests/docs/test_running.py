"""The quickstart is followed to the letter, and every command that a page gives is run: as printed, or with stand-ins
for what is large or far away.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pages import ROOT, Block, blocks
from PIL import Image
from test_commands import fenced_commands, inline_commands

import harness.cli

# Printed command -> what is run for it in the prepared folder: None: as printed; a dict: words to replace.
RUN: dict[str, dict[str, str] | str | None] = {
    # README
    "harness --help": None,
    "harness sweep demo --dry-run": None,
    "harness preflight demo": "harness preflight demo --cluster local data.patch_px=32",
    "harness train demo --out runs/one": (
        "harness train demo --out runs/one phases.0.iterations=1 phases.1.iterations=1 phases.2.iterations=1"
        " data.sources.0.path=data/photos data.patch_px=32 validation.every=1"
    ),
    "harness status --watch": None,
    "harness upscale photo.png out.png --checkpoint runs/demo/models/general": None,
    "harness score --sr theirs --hr truth --crop-border 4": None,
    # data
    "harness pack photos/ --out data/photos --tile 192": {"data/photos": "packed/photos"},
    "harness pack photos --out data/photos": {"data/photos": "packed/again"},
    "harness pack photos --out data/photos --tile 192": {"data/photos": "packed/once-more"},
    "harness pack FOLDER --out data/NAME": {"FOLDER": "photos", "data/NAME": "packed/named"},
    "harness pack DIV2K_train_HR --out data/div2k --tile 480 --test 0 --val 16": {"16": "1"},
    "harness pack DIV2K_valid_HR --out data/div2k-valid --tile 0 --test 99 --val 0": {"99": "2"},
    "harness pack DIV2K_train_HR Flickr2K_HR --out data/df2k --tile 256 --test 0 --val 10": {"10": "1"},
    "harness pack Flickr2K_HR --out data/flickr2k-256 --tile 256 --test 0 --val 0.01": None,
    "harness pack ffhq512 --out data/ffhq512 --tile 0 --test 10000 --val 10000": {"10000": "1"},
    "harness index DIR": {"DIR": "foreign"},
    "harness degrade HR_DIR OUT_DIR --scale 4 --kernel NAME": {"HR_DIR": "truth", "OUT_DIR": "lr", "NAME": "cv2-cubic"},
    # evaluation
    "harness score --sr DIR --hr DIR [--color y|rgb] [--crop-border N] [--metrics psnr,ssim,...] [--json FILE]": (
        "harness score --sr theirs --hr truth --color rgb --crop-border 4 --metrics psnr,ssim --json scores.json"
    ),
    "harness evaluate --cluster NAME": {"NAME": "local"},
    # sweeps, troubleshooting
    "harness sweep FILE": "harness sweep my-sweep.yaml --dry-run",
    "harness sweep FILE --dry-run": {"FILE": "my-sweep.yaml"},
    "harness sweep FILE max_parallel=4 evaluate.max_images=10 seed=3": (
        "harness sweep my-sweep.yaml max_parallel=4 evaluate.max_images=10 seed=3 --dry-run"
    ),
    "harness sweep --retry-failed": "harness sweep my-sweep.yaml --retry-failed --cluster local",
    "harness preflight FILE --cluster NAME": {"FILE": "my-sweep.yaml", "NAME": "local"},
    "harness preflight SWEEP --cluster NAME": {"SWEEP": "my-sweep.yaml", "NAME": "local"},
    "harness preflight demo --cluster local": "harness preflight demo --cluster local data.patch_px=32",
    "harness status": None,
    "harness status [SWEEP] [--watch]": "harness status my-sweep --watch",
    "harness logs RUN --follow": "harness logs all",
    "harness logs RUN [--sweep NAME] [--phase NAME] [--follow]": "harness logs all --sweep my-sweep --phase pretrain",
    "harness cancel [SWEEP] [--run RUN]": "harness cancel my-sweep --run all",
    "harness resume [SWEEP]": "harness resume my-sweep",
    "harness resume NAME": "harness resume my-sweep --cluster local",
    # upscaling, weights
    "harness upscale photo.jpg photo_x4.png --checkpoint runs/my-run": None,
    "harness upscale photos/ large/ --checkpoint runs/my-run": {"photos/": "truth/"},
    'harness upscale "photos/**/*.png" large/ --checkpoint RealESRGAN_x4plus.pth': {"photos/**/*.png": "truth/*.png"},
    "harness upscale photos/ bicubic/ --method bicubic --scale 4": {"photos/": "truth/"},
    "harness upscale photo.png samples/ --checkpoint runs/my-run --samples 4 --noise 0.02": {"4": "2"},
    "harness export runs/my-rrdb --format basicsr --out my-model.pth": {"runs/my-rrdb": "runs/rrdb"},
    "harness export runs/my-run --format onnx --out my-model.onnx": None,
    "harness weights list": None,
}
# What is not run here, and why.
ELSEWHERE = {
    "make": "test_every_target_of_make_is_made_of_commands_that_exist; `make sweep` itself under the mark slow",
    "harness synth": "the quickstart is followed word for word by test_worked_examples",
    "harness pack photos --out data/photos --tile 48": "the quickstart",
    "harness inspect": "the quickstart",
    "harness train my-recipe.yaml": "the quickstart",
    "harness upscale photos/sea": "the quickstart",
    "harness sweep my-sweep.yaml": "the quickstart",
    "harness status my-sweep": "the quickstart",
    "harness compare": "test_a_comparison_that_has_nothing_to_resample_says_so",
    "harness board": "serves until it is interrupted",
    "harness bench": "takes minutes and makes figures; what it measures has tests of its own",
    "harness weights fetch": "needs a network; tests/harness/test_weights.py fetches from a server of its own",
    "harness weights verify": "ends with 1 where a network is missing; tests/harness/test_weights.py",
    "harness train sweeps/recipes/srgan.yaml": "needs VGG19; tests/harness/recipes trains its phases",
    "python -m slurm.devcluster": "needs root; tests/slurm starts and stops it",
}


def printed() -> list[str]:
    """Every command of every page, each once; single words such as `harness pack` in a sentence are mentions."""
    fenced = [line if "[" in line else shlex.join(shlex.split(line, comments=True)) for _, line in fenced_commands()]
    inline = [line for _, line in inline_commands() if len(line.split()) > 2 or line in RUN]
    return sorted({line.replace("'", '"') if "**" in line else line for line in [*fenced, *inline]})


def is_elsewhere(line: str) -> bool:
    return any(line == known or line.startswith(f"{known} ") for known in ELSEWHERE)


@pytest.mark.parametrize("line", printed())
def test_it_is_decided_how_each_printed_command_is_run(line: str) -> None:
    mention = " / " in line or line in {"harness upscale --checkpoint", "harness inspect --verify"}
    assert line in RUN or is_elsewhere(line) or mention, f"say in RUN or ELSEWHERE how `{line}` is run"


def test_nothing_is_decided_about_commands_that_no_page_prints() -> None:
    assert [line for line in RUN if line not in printed() and line not in single_words()] == []


def single_words() -> set[str]:
    return {line for _, line in inline_commands()} | {"harness --help", "harness status"}


@pytest.fixture(scope="module")
def followed_quickstart(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The folder in which the quickstart was followed to the letter; `last.txt` is what its last command said."""
    folder = tmp_path_factory.mktemp("quickstart")
    said = ""
    for block in _steps_by_hand(ROOT / "docs" / "quickstart.md"):
        if block.language == "yaml":
            name = block.text.splitlines()[0].removeprefix("# ")
            (folder / name).write_text(block.text, encoding="utf-8")
        for line in block.text.splitlines() if block.language == "sh" else []:
            made = subprocess.run(
                line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
            )
            assert made.returncode == 0, f"{line}\n{made.stdout}\n{made.stderr}"
            said = made.stdout
    (folder / "last.txt").write_text(said, encoding="utf-8")
    return folder


def _steps_by_hand(page: Path) -> list[Block]:
    start = page.read_text(encoding="utf-8").split("## The same steps one by one")[0].count("\n")
    return [block for block in blocks(page) if block.line > start]


def test_the_quickstart_works_word_for_word(followed_quickstart: Path) -> None:
    assert "done" in (followed_quickstart / "last.txt").read_text(), "the last command shows the sweep's rows"
    _check_what_it_made(followed_quickstart)


def _check_what_it_made(folder: Path) -> None:
    """Every file that the page promises is there, and means what the page says."""
    run = folder / "runs" / "my-run"
    for name in ("config.yaml", "metrics.jsonl", "samples", "checkpoints", "generator.safetensors"):
        assert (run / name).exists()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
    assert "seed: 1" in (run / "config.yaml").read_text()
    assert len(list((folder / "large").glob("*.png"))) == 4
    report = (folder / "runs" / "my-sweep" / "report" / "report.html").read_text(encoding="utf-8")
    assert "Is half of the data enough?" in report


@pytest.fixture(scope="module")
def world(
    followed_quickstart: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """What the quickstart leaves, and the files that the other pages speak of."""
    folder = tmp_path_factory.mktemp("world") / "work"
    shutil.copytree(followed_quickstart, folder, symlinks=True)
    shutil.rmtree(folder / "photos")
    rng = np.random.default_rng(0)
    sets = {"photos/sea": 3, "photos/lake": 3, "truth": 2, "theirs": 2}
    sizes = {"DIV2K_train_HR": 480, "DIV2K_valid_HR": 60, "Flickr2K_HR": 260, "ffhq512": 60}
    for name, count in {**sets, **dict.fromkeys(sizes, 4)}.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            edge = sizes.get(name, 200 if name.startswith("photos") else 48)
            small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
            small.resize((edge, edge), Image.Resampling.BICUBIC).save(folder / name / f"{number}.png")
    for name in ("photo.png", "photo.jpg"):
        Image.open(folder / "truth" / "0.png").save(folder / name)
    shutil.copytree(folder / "data" / "photos", folder / "foreign")
    for sidecar in ("index.parquet", "dataset.json"):
        (folder / "foreign" / sidecar).unlink()
    shutil.copytree(folder / "data" / "photos", folder / "data" / "demo")
    (folder / "runs" / "demo" / "models").mkdir(parents=True)
    (folder / "runs" / "demo" / "models" / "general").symlink_to(folder / "runs" / "my-run")
    write_esrgan(folder / "RealESRGAN_x4plus.pth")
    rrdb = "generator={name: rrdb, num_blocks: 1, num_channels: 8, growth: 4}"
    train = [sys.executable, "-m", "harness", "train", "my-recipe.yaml", rrdb, "phases.0.iterations=1", "--out"]
    subprocess.run([*train, "runs/rrdb"], cwd=folder, env=environment, check=True)
    yield folder


def write_esrgan(file: Path) -> None:
    """A small network under the names that BasicSR gives an RRDBNet."""
    import torch

    from harness.models.build import build_generator
    from harness.models.config import RRDBConfig
    from harness.models.foreign import to_foreign

    config = RRDBConfig(name="rrdb", num_blocks=1, num_channels=8, growth=4)
    torch.save({"params_ema": to_foreign(config, build_generator(config, 4).state_dict(), "basicsr-rrdb")}, file)


def words_of(line: str) -> list[str]:
    instead = RUN[line]
    words = shlex.split(instead if isinstance(instead, str) else line)
    return [instead.get(word, word) for word in words] if isinstance(instead, dict) else words


@pytest.mark.parametrize("line", RUN)
def test_printed_command_runs(
    line: str, world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setattr(sys, "argv", words_of(line))
    with pytest.raises(SystemExit) as left:
        harness.cli.main()
    said = capfd.readouterr()
    assert left.value.code in (0, None), said.out + said.err


def test_the_page_on_upscaling_gives_the_same_pixels_from_python(
    world: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [block] = [block for block in blocks(ROOT / "docs" / "upscaling.md") if block.language == "python"]
    subprocess.run([sys.executable, "-c", block.text], cwd=world, env=environment, check=True)
    monkeypatch.chdir(world)
    command = "harness upscale photo.png by_command.png --checkpoint runs/my-run"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit):
        harness.cli.main()
    by_command, from_python = (np.asarray(Image.open(f"{name}.png")) for name in ("by_command", "from_python"))
    assert from_python.shape == (192, 192, 3)
    assert np.array_equal(from_python, by_command)


def test_a_comparison_that_has_nothing_to_resample_says_so(
    world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setattr(sys, "argv", ["harness", "compare", "all", "half", "--sweep", "my-sweep"])
    with pytest.raises(SystemExit) as left:
        harness.cli.main()
    assert left.value.code == 2
    assert "no class has two images that both all and half were scored on by psnr" in capfd.readouterr().err


@pytest.mark.parametrize("target", ["install", "lint", "test", "test-all", "test-slurm", "smoke", "bench", "sweep"])
def test_every_target_of_make_is_made_of_commands_that_exist(target: str) -> None:
    made = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commands = [line for line in made.splitlines() if line.startswith(".venv/bin/harness ")]
    for line in commands:
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patch, pytest.raises(SystemExit) as left:
            patch.setattr(sys, "argv", [*line.split()[:2], "--help"])
            harness.cli.main()
        assert left.value.code in (0, None)
    assert bool(commands) == (target in {"smoke", "bench", "sweep"})


def test_make_without_a_target_tells_every_target_and_installs_nothing() -> None:
    plain, asked = (
        subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True) for words in ([], ["help"])
    )
    assert plain.returncode == 0 and plain.stdout == asked.stdout
    targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert [name for name in targets if f"make {name} " not in plain.stdout] == ["help"]


@pytest.mark.slow
def test_the_demo_runs_from_make_to_the_report_on_own_photographs(world: Path, tmp_path: Path) -> None:
    bin_folder = Path(sys.executable).parent
    few = [f"phases.{number}.iterations=2" for number in range(3)]
    command = ["make", "-o", "install", "sweep", f"BIN={bin_folder}", f"RUNS={tmp_path / 'runs'}"]
    arguments = [f"DATA={world / 'photos'}", "CLUSTER=local", f"ARGS={' '.join(few)}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    made = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    assert (tmp_path / "runs" / "demo-photos" / "report" / "report.html").exists()
