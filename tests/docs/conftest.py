"""Lets the tests here import `pages`, and gives them the project's own commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pages import ROOT, Block, blocks


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """An environment whose `harness` is the one of the Python that runs the tests."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
    }


@pytest.fixture(scope="session")
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
