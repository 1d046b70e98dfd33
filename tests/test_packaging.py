"""What an installed wheel holds: all that the four folders hold, read from pyproject.toml without building one."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
FOLDERS = ("harness", "slurm", "sweeps", "evaluation")


def table(name: str) -> str:
    """The lines of one of pyproject.toml's tables."""
    return PROJECT.split(f"[{name}]\n")[1].split("\n[")[0]


def data_patterns() -> list[str]:
    """Patterns of files that are packed beside the modules, from the project's folder."""
    lines = re.findall(r'^"?([\w.]+)"? = \[(.*)\]$', table("tool.setuptools.package-data"), re.M)
    return [f"{package.replace('.', '/')}/{glob}" for package, globs in lines for glob in re.findall(r'"(.*?)"', globs)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_of_the_project_is_in_its_wheel(folder: str) -> None:
    assert f'"{folder}*"' in table("tool.setuptools.packages.find")
    files = [path for path in (ROOT / folder).rglob("[!.]*") if path.is_file() and "__pycache__" not in path.parts]
    for path in files:
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".py":
            assert (path.parent / "__init__.py").exists(), f"{name}: its folder is no package, and would be left out"
        else:
            assert any(fnmatch(name, pattern) for pattern in data_patterns()), f"{name}: add it to package-data"
    assert files


def test_no_test_is_in_the_wheel() -> None:
    assert not any(path.name.startswith("test_") for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
