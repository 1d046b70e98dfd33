"""Every command on a page is one that the project has: names, options, values and files."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pages import PAGES, ROOT, blocks, prose

from harness.cli import app

# What a reader puts his own value in the place of; each stands for something that the parser can check.
PLACEHOLDERS = {"N": "4", "PX": "96", "NAME": "matlab-bicubic", "RECIPE.yaml": "my.yaml"}


def fenced_commands() -> list[tuple[str, str]]:
    """(place, command line) of every line of a shell block, comments and continuations resolved."""
    found = []
    for page in PAGES:
        for block in blocks(page):
            if block.language not in ("", "sh"):
                continue
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.split("#")[0].strip():
                    found.append((f"{page.name}:{block.line}", line.strip()))
    return [(place, line) for place, line in found if line.split()[0] in KNOWN]


def inline_commands() -> list[tuple[str, str]]:
    """(page, command line) of every `harness ...` or `make ...` in running text."""
    spans = [(page.name, span) for page in PAGES for span in re.findall(r"`((?:harness|make) [^`]+)`", prose(page))]
    return sorted({(page, " ".join(span.split())) for page, span in spans})


def check_harness(words: list[str]) -> None:
    """Parses the words as the command line would, and runs nothing."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        if not words or words[0] == "--help":
            return
        assert words[0] in command.commands, f"there is no command '{words[0]}'"
        command, words = command.commands[words[0]], words[1:]
    try:
        command.make_context(command.name, [PLACEHOLDERS.get(word, word) for word in words])
    except Exception as error:
        assert not hasattr(error, "format_message"), error.format_message()  # type: ignore[attr-defined]
        raise


def check_options(line: str) -> None:
    """Of a synopsis or a fragment: the command and each option that it names exist."""
    words = line.split()[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no command '{words[0]}'"
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    known.add("--help")
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", line):
        assert option in known, f"{option} is no option; there are {sorted(known)}"


def check_make(words: list[str]) -> None:
    """The targets are in the Makefile, and so is each variable."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, assigned, value = word.partition("=")
        if assigned:
            assert f"$({name})" in makefile or f"$(if $({name})" in makefile, f"the Makefile does not use {name}"
            assert not value.startswith("sweeps/") or (ROOT / value).exists(), f"there is no {value}"
        else:
            assert re.search(rf"^{re.escape(word)}:", makefile, re.M), f"make has no target {word}"


def check_python(words: list[str]) -> None:
    assert words[0] == "-m"
    assert (ROOT / Path(*words[1].split("."))).with_suffix(".py").exists()


KNOWN = {"harness", "make", "python"}


@pytest.mark.parametrize(("place", "line"), fenced_commands())
def test_fenced_command_is_one_that_the_command_line_takes(place: str, line: str) -> None:
    if "[--" in line:
        check_options(line) if line.startswith("harness") else check_python(shlex.split(line)[1:])
        return
    words = shlex.split(line, comments=True)
    {"harness": check_harness, "make": check_make, "python": check_python}[words[0]](words[1:])
    for word in words[1:]:
        assert not word.startswith("sweeps/") or (ROOT / word).exists(), f"there is no {word}"


@pytest.mark.parametrize(("page", "line"), inline_commands())
def test_command_in_running_text_names_commands_and_options_that_exist(page: str, line: str) -> None:
    if line.startswith("make"):
        check_make(shlex.split(line)[1:])
    else:
        check_options(re.sub(r" / \w+|, \w+", "", line))


@pytest.mark.parametrize(
    "line", ["harness pack photos", "harness upscal a b", "harness inspect --verfy x", "harness bench data --json"]
)
def test_a_wrong_command_would_be_found(line: str) -> None:
    with pytest.raises(AssertionError):
        check_harness(shlex.split(line)[1:])


def test_a_wrong_target_would_be_found() -> None:
    with pytest.raises(AssertionError):
        check_make(["swep"])


def test_no_summary_in_the_help_is_cut_off(environment: dict[str, str]) -> None:
    harness = [sys.executable, "-m", "harness"]
    narrow = {**environment, "COLUMNS": "80"}
    for group in ([], ["weights"]):
        shown = subprocess.run([*harness, *group, "--help"], env=narrow, capture_output=True, text=True, check=True)
        assert "Commands:" in shown.stdout
        assert "..." not in shown.stdout.split("Commands:")[1]
