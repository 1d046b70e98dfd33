"""What the command line answers where the words after `harness` do not fit."""

from __future__ import annotations

import subprocess
import sys

import pytest


def harness(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "harness", *words], capture_output=True, text=True, check=False)


def test_without_a_command_the_help_is_shown_and_no_error() -> None:
    done = harness()
    assert done.returncode == 2
    assert done.stderr == harness("--help").stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("trian", "error: No such command 'trian'. Did you mean 'train'? Try `harness --help`."),
        ("train", "error: Missing argument 'recipe'. Try `harness train --help`."),
        ("pack a --out b --til 3", "error: No such option: --til (Possible options: --out, --tile, --val) Try "),
        ("train r.yaml --lr 1", "error: no such option: --lr; keys are changed as KEY=VALUE without dashes, as in "),
        ("sweep demo --set a=1", "error: no such option: --set; keys are changed as KEY=VALUE without dashes, as in "),
        ("status --runs", "error: Option '--runs' requires an argument. Try `harness --help`."),
        ("sweep demo --cluster", "error: Option '--cluster' requires an argument. Try `harness --help`."),
        ("weights fech vgg19", "error: No such command 'fech'. Did you mean 'fetch'? Try `harness weights --help`."),
    ],
)
def test_wrong_words_are_answered_in_one_line(words: str, sentence: str) -> None:
    done = harness(*words.split())
    assert done.returncode == 2
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
