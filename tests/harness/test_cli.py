"""What the command line answers where the words after `harness` do not fit."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

import harness.cli
from harness.errors import EXIT_SAVED, DataError, TrainingError, UnreachableError
from slurm.errors import ClusterError

AT_LEAST_0 = "must be greater than or equal to 0"


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command that must be refused; returns what it says."""

    def answer(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["harness", *words])
        with pytest.raises(SystemExit) as left:
            harness.cli.main()
        said = capsys.readouterr()
        assert left.value.code == 2 and not said.out
        return said.err

    return answer


def test_without_a_command_the_help_is_shown_and_no_error(answer, monkeypatch, capsys) -> None:
    said = answer()
    monkeypatch.setattr(sys, "argv", ["harness", "--help"])
    with pytest.raises(SystemExit):
        harness.cli.main()
    assert said == capsys.readouterr().out


def test_the_version_is_one_line_and_that_of_the_package(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["harness", "--version"])
    with pytest.raises(SystemExit) as left:
        harness.cli.main()
    said = capsys.readouterr()
    assert (said.out, said.err, left.value.code) == (f"{harness.__version__}\n", "", 0)
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert f'version = "{harness.__version__}"' in pyproject.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("trian", "No such command 'trian'. Did you mean 'train'? Try `harness --help`."),
        ("weights fech vgg19", "No such command 'fech'. Did you mean 'fetch'? Try `harness weights --help`."),
        ("train", "Missing argument 'recipe': A recipe's file, or its name in sweeps/recipes. Try `harness train --he"),
        ("pack photos", "Missing option '--out': Folder for the shards and their sidecar. Try `harness pack --help`."),
        ("status --runs", "Option '--runs' requires an argument. Try `harness --help`."),
        ("sweep demo --cluster", "Option '--cluster' requires an argument. Try `harness --help`."),
        ("status s --watch=yes", "Option '--watch' does not take a value. Try `harness --help`."),
        ("status s seed=1", "too many arguments (seed=1); leave them out. Try `harness status --help`."),
        ("pack a --out b --til 3", "no such option: --til; did you mean --tile? Try `harness pack --help`."),
        ("sweep demo --detatch", "no such option: --detatch; did you mean --detach? Try `harness sweep --help`."),
        ("train r.yaml --lr 1", "no such option: --lr; keys are changed as KEY=VALUE without dashes, as in seed=1. "),
        ("sweep demo --set a=1", "no such option: --set; keys are changed as KEY=VALUE without dashes, as in seed=1. "),
        ("status -w", "no such option: -w; its options are --watch, --runs. Try `harness status --help`."),
        ("degrade a b --kernel x", "--kernel: 'x' is not one of 'matlab-bicubic', 'pil-bicubic', 'cv2-cubic', "),
        ("train =3", "recipe '=3': is neither a file nor one of: "),
        ("train demo seed", "override 'seed': expected key=value; write for example seed=1."),
        ("sweep demo sede=1", "demo: unknown key 'sede'; did you mean 'seed'?"),
    ],
)
def test_wrong_words_are_answered_in_one_line(answer, words: str, sentence: str) -> None:
    said = answer(*words.split())
    assert said.startswith(f"error: {sentence}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("pack a --out b --tile x", "--tile: must be a whole number, got 'x'. Try `harness pack --help`."),
        ("upscale a b --noise x", "--noise: must be a number, got 'x'. Try `harness upscale --help`."),
        ("synth --out a --seed -1", f"--seed: {AT_LEAST_0}, got '-1'. Try `harness synth --help`."),
        ("pack a --out b --seed -1", f"--seed: {AT_LEAST_0}, got '-1'. Try `harness pack --help`."),
        ("index a --seed -1", f"--seed: {AT_LEAST_0}, got '-1'. Try `harness index --help`."),
        ("upscale a b --seed -1", f"--seed: {AT_LEAST_0}, got '-1'. Try `harness upscale --help`."),
        ("board --port 99999", "--port: must be less than or equal to 65535, got '99999'. Try `harness board --help`."),
    ],
)
def test_a_wrong_value_is_answered_in_one_line_that_begins_with_its_option(answer, words: str, sentence: str) -> None:
    said = answer(*words.split())
    option = sentence.split(":")[0]
    assert said.startswith(f"error: {option}: ") and said.count("\n") == 1
    assert words.split()[-1] in said and said.endswith(f"Try `harness {words.split()[0]} --help`.\n")
    if tuple(map(int, version("typer").split(".")[:2])) >= (0, 29):  # older ones have words of their own
        assert said == f"error: {sentence}\n"


@pytest.mark.parametrize("words", [["train", ""], ["status", "--runs", ""], ["sweep", "demo", "--data="]])
def test_empty_word_is_not_taken_for_this_folder_or_for_everything(answer, words: list[str]) -> None:
    before = words[-1] or words[-2]
    assert answer(*words).startswith(f"error: nothing stands after `{before}`, as where a variable is not set; ")


def test_user_without_a_home_is_told_to_set_one(answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    for name in ("HOME", "TORCH_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HARNESS_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    said = "error: HOME is not set and the system knows no home of this user; set HOME.\n"
    assert answer("weights", "list") == said == answer("preflight", "demo")


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (DataError("x: is torn; pack it anew."), 2, "error: x: is torn; pack it anew.\n"),
        (UnreachableError("s3://x: does not answer."), 1, "error: s3://x: does not answer.\n"),
        (ClusterError("sbatch failed; ask."), 2, "error: sbatch failed; ask.\n"),
        (TrainingError("the loss is NaN; lower the rate."), 1, "error: the loss is NaN; lower the rate.\n"),
        (OSError(errno.ENOSPC, "No space left", "f"), 1, "error: f: No space left; free space or mend its rights.\n"),
        (MemoryError(), 1, "error: out of memory; ask for a smaller network or image, or use a larger machine.\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_code_tells_what_kind_of_trouble_it_was(monkeypatch, capsys, error, code: int, sentence: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("sweeps.follow.print_status", fail)
    monkeypatch.setattr(sys, "argv", ["harness", "status"])
    with pytest.raises(SystemExit) as left:
        harness.cli.main()
    assert left.value.code == code and capsys.readouterr().err == sentence


@pytest.mark.parametrize("words", ["--help", "weights list", "logs run"])
def test_a_command_whose_reader_has_left_ends_without_a_word(monkeypatch, capsys, words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr("sweeps.control.find_sweep_folder", lambda *_: None)
    monkeypatch.setattr("sweeps.logs.find_logs", lambda *_: None)
    monkeypatch.setattr("sweeps.logs.read_logs", lambda *_: ["step 1\n"])
    monkeypatch.setattr(sys, "argv", ["harness", *words.split()])
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # typer puts others in the place of both
    with open(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as left:
            harness.cli.main()
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), writer)  # what is still in the buffer
    assert left.value.code == 1 and capsys.readouterr().err == ""


def test_a_training_stopped_before_it_has_begun_leaves_as_one_to_be_run_again(monkeypatch, tmp_path) -> None:
    from harness.train import job

    monkeypatch.setattr(job, "train_recipe", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(
        sys, "argv", ["harness", "train", "demo", f"data.sources=[{{path: {tmp_path}}}]", f"--out={tmp_path}/run"]
    )
    with pytest.raises(SystemExit) as left:
        harness.cli.main()
    assert left.value.code == EXIT_SAVED


def test_an_export_shows_that_it_goes_on(monkeypatch) -> None:
    shown = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr("harness.cli_tools.make_console", lambda: shown)
    monkeypatch.setattr("harness.export.export", lambda run, format, out: time.sleep(0.1) or out)
    monkeypatch.setattr(sys, "argv", ["harness", "export", "runs/one", "--format", "onnx", "--out", "one.onnx"])
    with pytest.raises(SystemExit) as left:
        harness.cli.main()
    assert left.value.code == 0
    assert "exporting runs/one" in shown.file.getvalue() and "one.onnx" in shown.file.getvalue()


def test_one_of_a_kind_is_told_in_the_singular(monkeypatch, tmp_path, capsys) -> None:
    def told(words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["harness", *words.split()])
        with pytest.raises(SystemExit) as left:
            harness.cli.main()
        assert left.value.code == 0
        return capsys.readouterr().out

    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "in" / "one.png")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    assert "set: 1 image as 1 sample in 1 shard, 1 file skipped\n" in told("pack in --out set --tile 40 --workers 1")
    assert "set: 1 sample in 1 shard " in told("inspect set")
    assert told("degrade in lr").endswith("lr: 1 image\n")
    assert told("upscale in/one.png large --method nearest --scale 2") == "large: 1 image written\n"
