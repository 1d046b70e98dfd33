"""Each option of each command reaches what does the work, under its own name, and its exit code comes back."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main

import harness.cli
from evaluation.metrics import METRICS, NOISE_METRICS
from harness.upscale import Options

P = Path
PACKED = SimpleNamespace(path="out", num_images=1, num_samples=1, num_shards=1, skipped=[])
SOUND = SimpleNamespace(problems=[], failures=[], skipped=[], num_images=1, written=[])
TORN = SimpleNamespace(problems=["torn"], failures=["torn"], skipped=[], num_images=1, written=[])
FOLDER = ("folder of", P("r"), "s")

# Words after `harness` -> the function that does the work, what it must be given (beside consoles and progress bars),
# what it returns, and the exit code that this makes.
COMMANDS: dict[str, tuple[str, list[Any], dict[str, Any], Any, int]] = {
    "synth --out o --images-per-class 3 --size 50 --seed 7 --workers 2": (
        "harness.data.synth.write_dataset", [P("o"), 3, 50, 7, 2], {}, 18, 0,
    ),
    "pack a b --out o --codec png --tile 64 --workers 2 --shard-mb 9 --val 3 --test 0.5 --seed 7": (
        "harness.data.pack.pack", [[P("a"), P("b")], P("o")],
        {"codec": "png", "tile_px": 64, "workers": 2, "shard_mb": 9, "val": 3.0, "test": 0.5, "seed": 7}, PACKED, 0,
    ),
    "index d --val 3 --test 0.5 --seed 7": (
        "harness.data.index.index", [P("d")], {"val": 3.0, "test": 0.5, "seed": 7}, PACKED, 0,
    ),
    "inspect d --verify": ("harness.data.inspect.inspect", ["d", True], {}, TORN, 2),
    "inspect d --html page.html": ("harness.data.contact_sheet.write_contact_sheet", ["d", P("page.html")], {}, "p", 0),
    "degrade h l --scale 2 --kernel area": (
        "harness.data.folders.degrade_folder", [P("h"), P("l"), 2, "area"], {}, SOUND, 0,
    ),
    "train demo seed=3 --out o": ("harness.train.job.train_recipe", ["config of demo ['seed=3']", P("o")], {}, 75, 75),
    "sweep f seed=3 --cluster c --data d --runs r": (
        "sweeps.run.run_sweep", ["f"],
        {"cluster": "c", "overrides": ["seed=3"], "data": P("d"), "runs_dir": P("r"), "detach": False, "dry_run": False,
         "retry_failed": False, "check": True, "cancel_gone": False}, 75, 75,
    ),
    **{
        f"sweep f {option}": ("sweeps.run.run_sweep", ["f"], {name: value}, 1, 1)
        for option, name, value in (
            ("--dry-run", "dry_run", True),
            ("--detach", "detach", True),
            ("--retry-failed", "retry_failed", True),
            ("--no-preflight", "check", False),
            ("--cancel-gone", "cancel_gone", True),
        )
    },
    "preflight f seed=3 --cluster c --runs r": (
        "sweeps.run.preflight_sweep", ["f"], {"cluster": "c", "overrides": ["seed=3"], "runs_dir": P("r")}, 2, 2,
    ),
    "status s --watch --runs r": ("sweeps.follow.print_status", [P("r"), "s"], {"watch": True}, 2, 2),
    "status": ("sweeps.follow.print_status", [P("runs"), None], {"watch": False}, 0, 0),
    "cancel s --run a --run b --runs r": ("sweeps.control.cancel_sweep", [FOLDER, ["a", "b"]], {}, 0, 0),
    "resume s --cluster c --detach --runs r": (
        "sweeps.run.resume_sweep", [FOLDER], {"cluster": "c", "detach": True}, 75, 75,
    ),
    "logs a --sweep s --phase p --runs r": ("sweeps.logs.find_logs", [FOLDER, "a", "p"], {}, "logs", 0),
    "logs a --sweep s --follow --runs r": ("sweeps.logs.read_logs", ["logs", True], {}, ["line"], 0),
    "evaluate s evaluate.max_images=2 --cluster c --runs r": (
        "sweeps.evaluate.evaluate_here", [("evaluation of", "s", ["evaluate.max_images=2"], P("r"))], {"cluster": "c"},
        None, 0,
    ),
    "report s title=x --runs r": (
        "sweeps.evaluate.report_here", [("evaluation of", "s", ["title=x"], P("r"))], {}, None, 0,
    ),
    "compare a b --metric ssim --sweep s --runs r": (
        "sweeps.compare.compare_here", [("evaluation of", "s", [], P("r")), "a", "b", "ssim"], {}, None, 0,
    ),
    "score --sr s --hr h --color rgb --crop-border 4 --metrics 'psnr, mse'": (
        "evaluation.scores.score_folder.score_folders", [P("s"), P("h"), "rgb", 4, ("psnr", "mse")], {}, "scores", 1,
    ),
    "score --sr s --hr h --metrics psnr,mse --metrics ssim": (
        "evaluation.scores.score_folder.score_folders", [P("s"), P("h"), "y", 0, ("psnr", "mse", "ssim")], {},
        "scores", 1,
    ),
    "score --sr s --hr h --json f": ("evaluation.scores.score_folder.write_json", ["scores", P("f")], {}, None, 1),
    "board s --port 7000 --runs r": ("sweeps.board.serve", [FOLDER, 7000], {}, 1, 1),
    "upscale a b out --checkpoint c --scale 2 --tile 64 --device cpu --precision bf16 --samples 3 --noise 0.5 --seed 7"
    " --format tif": (
        "harness.terminal.upscale_shown",
        [["a", "b"], P("out"), Options(P("c"), None, 2, 64, "cpu", "bf16", 3, 0.5, 7, "tif")], {}, TORN, 1,
    ),
    "upscale a out --method nearest --scale 3": (
        "harness.terminal.upscale_shown", [["a"], P("out"), Options(method="nearest", scale=3)], {}, SOUND, 0,
    ),
    "export r --format onnx --out o": ("harness.export.export", [P("r"), "onnx", P("o")], {}, "o", 0),
    "weights verify vgg16": ("harness.weights.verify", [["vgg16"]], {}, ["torn"], 1),
    "weights verify": ("harness.weights.verify", [None], {}, [], 0),
    "weights fetch vgg16": ("harness.weights.fetch", ["vgg16"], {}, "file", 0),
    "bench step demo seed=3 --json f --batch-size 4 --steps 5 --ranks 3": (
        "sweeps.bench.command.run_bench", ["step", ("ask", ["demo"], ["seed=3"], 4, 5, 3), P("f")], {}, None, 0,
    ),
    "smoke a b --out o": ("sweeps.smoke.run_smoke", [["a", "b"], P("o")], {}, 1, 1),
}  # fmt: skip

# What stands around the work of a command, and what it gives here.
AROUND: dict[str, Any] = {
    "harness.data.inspect.inspect": lambda *_: SOUND,
    "harness.data.inspect.print_summary": lambda *_: None,
    "harness.config.load_run_config": lambda recipe, overrides: f"config of {recipe} {overrides}",
    "sweeps.config.find_recipe": lambda name: name,
    "sweeps.dataset.provide_embedded": lambda *_: None,
    "sweeps.control.find_sweep_folder": lambda runs, name: ("folder of", runs, name),
    "sweeps.evaluate.find_evaluation": lambda name, overrides, runs: ("evaluation of", name, overrides, runs),
    "sweeps.logs.find_logs": lambda *_: "logs",
    "sweeps.logs.read_logs": lambda *_: [],
    "sweeps.bench.command.Ask": lambda *asked: ("ask", *asked),
    "evaluation.scores.score_folder.score_folders": lambda *_: "scores",
    "evaluation.scores.score_folder.print_scores": lambda *_: None,
    "evaluation.scores.score_folder.is_anything_measured": lambda _: False,
    "harness.terminal.show_weights": lambda console, statuses, verified: verified and not statuses,
}


def is_given(value: Any) -> bool:
    """Not a console or a progress bar, which every command makes for itself."""
    return not callable(value) and type(value).__name__ != "Console"


def put(monkeypatch: pytest.MonkeyPatch, place: str, value: Any) -> None:
    module, name = place.rsplit(".", 1)
    monkeypatch.setattr(importlib.import_module(module), name, value)


@pytest.mark.parametrize("words", COMMANDS)
def test_options_reach_what_does_the_work(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, args, kwargs, result, code = COMMANDS[words]
    calls: list[tuple[list[Any], dict[str, Any]]] = []

    def work(*given: Any, **named: Any) -> Any:
        calls.append(([each for each in given if is_given(each)], named))
        return result

    monkeypatch.delenv("HARNESS_RUNS", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    for around, value in AROUND.items():
        put(monkeypatch, around, value)
    put(monkeypatch, place, work)
    monkeypatch.setattr(sys, "argv", ["harness", *shlex.split(words)])
    with pytest.raises(SystemExit) as left:
        harness.cli.main()
    assert len(calls) == 1 and left.value.code == code
    assert calls[0][0] == args
    assert {name: calls[0][1][name] for name in kwargs} == kwargs


def test_all_networks_are_fetched_where_all_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.weights import TABLE

    names: list[str] = []
    put(monkeypatch, "harness.weights.fetch", lambda name, progress: names.append(name))
    monkeypatch.setattr(sys, "argv", ["harness", "weights", "fetch", "all"])
    with pytest.raises(SystemExit):
        harness.cli.main()
    assert names == list(TABLE)


def options(command: Any, path: str = "") -> set[tuple[str, str]]:
    """(command, option) of everything that the command line takes."""
    if hasattr(command, "commands"):
        return set().union(*(options(below, f"{path} {name}".strip()) for name, below in command.commands.items()))
    return {(path, each.opts[0]) for each in command.params if each.opts[0].startswith("--")} - {(path, "--help")}


def test_no_option_of_any_command_is_forgotten_here() -> None:
    asked = {(path, option.replace("--no-", "--")) for path, option in options(typer.main.get_command(harness.cli.app))}
    tried = {
        (path, word.replace("--no-", "--"))
        for words in COMMANDS
        for path in (words.split(" --")[0].split()[0],)
        for word in shlex.split(words)
        if word.startswith("--")
    }
    assert asked - tried == set()


def test_help_of_score_names_what_it_measures() -> None:
    command: Any = typer.main.get_command(harness.cli.app)
    told = next(each.help for each in command.commands["score"].params if each.name == "metrics")
    named = told.removeprefix("Some of ").removesuffix(", with commas between, or given several times.").split(", ")
    assert named == [name for name in METRICS if name not in NOISE_METRICS]
