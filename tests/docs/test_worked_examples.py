"""docs/extending.md, followed to the letter."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT, blocks

EXTENDING = ROOT / "docs" / "extending.md"

# Builds both additions from a recipe, and trains the generator with the loss for some steps on two images.
TRY = """
import torch
from harness.config import RunConfig
from harness.losses.build import build_losses
from harness.models.build import build_generator
from harness.schema import parse

torch.manual_seed(0)
choice = {"name": "plain", "skip": "bicubic", "start_as_skip": True, "num_layers": 2, "num_channels": 8}
phase = {"name": "pretrain", "iterations": 1, "batch_size": 1, "losses": [{"name": "gradient", "weight": 0.1}]}
phase["generator_optimizer"] = {"learning_rate": 1e-4}
data = {"sources": [{"path": "data/photos"}], "patch_px": 32}
config = parse(RunConfig, {"name": "mine", "data": data, "generator": choice, "phases": [phase]}, "recipe.yaml")
generator = build_generator(config.generator, config.scale)
terms = build_losses(config.phases[0].losses, "cpu")
hr = torch.rand(2, 3, 32, 24)
lr_image = torch.nn.functional.avg_pool2d(hr, 4)
optimizer = torch.optim.Adam(generator.parameters(), 1e-2)
losses = []
for _ in range(30):
    loss = terms(generator(lr_image), hr)["gradient"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
error = generator(lr_image).detach() - hr
by_hand = sum((error.roll(-1, d) - error).narrow(d, 0, error.shape[d] - 1).abs().mean() for d in (2, 3))
assert abs(terms(generator(lr_image), hr)["gradient"].item() - by_hand.item()) < 1e-5
assert losses[-1] < 0.97 * losses[0], losses
print("trained")
"""


def diffs() -> list[tuple[str, list[str]]]:
    """(file, lines of one hunk) of every diff on the page."""
    hunks: list[tuple[str, list[str]]] = []
    for block in blocks(EXTENDING):
        if block.language != "diff":
            continue
        file = ""
        for line in block.text.splitlines():
            if line.startswith("--- "):
                file = line[4:]
                hunks.append((file, []))
            elif line == "@@":
                hunks.append((file, []))
            else:
                hunks[-1][1].append(line)
    return hunks


def apply(hunk: list[str], file: Path) -> None:
    """Replaces the lines of context and '-' by those of context and '+'; they must stand in the file exactly once."""
    old = "".join(line[1:] + "\n" for line in hunk if not line.startswith("+"))
    new = "".join(line[1:] + "\n" for line in hunk if not line.startswith("-"))
    if not old:
        assert not file.exists()
        file.write_text(new, encoding="utf-8")
        return
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{file.name} does not hold once:\n{old}"
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """A copy of the code with everything applied that the page adds."""
    shutil.copytree(ROOT / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    for file, hunk in diffs():
        apply(hunk, tmp_path / file)
    return tmp_path


def test_each_worked_example_adds_fewer_than_forty_lines() -> None:
    sections = EXTENDING.read_text(encoding="utf-8").split("\n## ")[1:3]
    for section in sections:
        added = [line for text in re.findall(r"```diff\n(.*?)```", section, re.S) for line in text.splitlines()]
        assert 10 < sum(line.startswith("+") for line in added) < 40


def test_the_added_loss_and_generator_train_and_are_in_the_reference(extended: Path) -> None:
    environment = {"PYTHONPATH": str(extended), "OMP_NUM_THREADS": "1", "PATH": ""}
    run = [sys.executable, "-c", TRY]
    done = subprocess.run(run, cwd=extended, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "trained\n", done.stderr
    page = extended / "reference.md"
    subprocess.run([sys.executable, "-m", "harness.reference", page], cwd=extended, env=environment, check=True)
    assert "`generator` with name `plain`" in page.read_text(encoding="utf-8")
    assert "`phases.N.losses.N` with name `gradient`" in page.read_text(encoding="utf-8")


def test_what_the_page_adds_keeps_to_the_house_style(extended: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", extended)
    files = sorted({file for file, _ in diffs()})
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, *files]
        done = subprocess.run(ruff, cwd=extended, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
