"""Commands whose output has no place: a full disk, a folder that cannot be written, names of every kind."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness import cli
from sweeps.bench import command as bench

Harness = Callable[..., Any]
FORMATS = ("basicsr", "esrgan-old", "safetensors", "onnx")


@dataclass(frozen=True)
class Inputs:
    photos: Path
    packed: Path
    recipe: Path
    generator: Path
    few_layers: Path
    weights: str


@pytest.fixture
def inputs(
    photos: Path,
    packed: Path,
    recipe: Path,
    generator: Path,
    few_layers: Path,
    toy_weights: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Inputs:
    monkeypatch.setitem(bench._MEASURE, "data", lambda recipes, console: [{"what": "x" * 5000}])
    return Inputs(photos, packed, recipe, generator, few_layers, toy_weights)


def prepared(name: str, out: Path, inputs: Inputs) -> None:
    """What a command needs in `out` beforehand: `index` writes beside the shards that it reads."""
    if name == "index":
        out.mkdir(parents=True)
        for shard in inputs.packed.glob("*.tar"):
            shutil.copy(shard, out)


def command(name: str, out: Path, inputs: Inputs) -> list[object]:
    """A command that writes to `out`."""
    photos, exported = inputs.photos, ["export", inputs.generator, "--format"]
    return {
        "synth": ["synth", "--out", out, "--images-per-class", 3, "--size", 96, "--workers", 1],
        "pack": ["pack", photos, "--out", out, "--tile", 48, "--workers", 1],
        "index": ["index", out],
        "inspect": ["inspect", inputs.packed, "--html", out / "page.html"],
        "degrade": ["degrade", photos, out, "--scale", 2],
        "train": ["train", inputs.recipe, "--out", out],
        "sweep": ["sweep", inputs.recipe, "--runs", out, "--cluster", "local"],
        "upscale": ["upscale", photos, out, "--method", "bicubic", "--scale", 4],
        "export basicsr": [*exported, "basicsr", "--out", out / "g.pth"],
        "export esrgan-old": [*exported, "esrgan-old", "--out", out / "g.pth"],
        "export safetensors": [*exported, "safetensors", "--out", out / "g.safetensors"],
        "export onnx": ["export", inputs.few_layers, "--format", "onnx", "--out", out / "g.onnx"],
        "score": ["score", "--sr", photos, "--hr", photos, "--json", out / "scores.json"],
        "bench": ["bench", "data", "--json", out / "figures.json"],
        "weights fetch": ["weights", "fetch", inputs.weights],
    }[name]


ANEW = ["inspect", "index", "degrade", "upscale", "score", "bench", *(f"export {format}" for format in FORMATS)]
"""Commands that write again what they wrote before; the others keep it, or go on from it."""
ALL = ["synth", "pack", "train", "sweep", "weights fetch", *ANEW]
NO_FILES = {"status", "cancel", "resume", "logs", "preflight", "compare", "board"}
"""Commands that print, or tell others what to do."""
ELSEWHERE = {"evaluate", "report", "smoke"}
"""Commands that write through `sweep`'s and `train`'s functions, and what tests of their own folder cover."""


def test_every_command_is_looked_at_here() -> None:
    known = {str(c.name or c.callback.__name__) for c in cli.app.registered_commands if c.callback}
    assert known == {name.split()[0] for name in ALL} - {"weights"} | NO_FILES | ELSEWHERE


@pytest.mark.parametrize("name", [name for name in ALL if name != "index"])
def test_a_folder_that_cannot_be_written_is_one_sentence(
    name: str, harness: Harness, tmp_path: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below a regular file nobody can write, not even root."""
    (tmp_path / "file").write_text("content")
    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path / "file" / "out"))
    said = harness(*command(name, tmp_path / "file" / "out", inputs))
    check_refusal(said, 1 if name == "upscale" else 2)  # there each image is reported, and the others go on
    assert "file" in said.err
    assert (tmp_path / "file").read_text() == "content"
    assert {path.name for path in tmp_path.iterdir()} == before


def test_shards_in_a_folder_that_cannot_be_written_are_not_indexed(
    harness: Harness, disk: Path, inputs: Inputs
) -> None:
    prepared("index", disk / "out", inputs)
    names = {path.name for path in (disk / "out").iterdir()}
    read_only(disk)
    check_refusal(harness("index", disk / "out"), 2)
    assert {path.name for path in (disk / "out").iterdir()} == names


def read_only(disk: Path) -> None:
    """Makes a mounted file system one that even root cannot write to."""
    import subprocess

    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


@pytest.mark.parametrize("name", ALL)
def test_a_read_only_file_system_is_one_sentence(
    name: str, harness: Harness, disk: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(name, disk / "out", inputs)
    before = contents(disk)
    read_only(disk)
    monkeypatch.setenv("HARNESS_WEIGHTS", str(disk / "out"))
    said = harness(*command(name, disk / "out", inputs))
    check_refusal(said, 1 if name == "upscale" else 2)
    assert "ead-only" in said.err
    assert contents(disk) == before


@pytest.mark.parametrize("name", ALL)
def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_written(
    name: str, harness: Harness, disk: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(name, disk / "out", inputs)
    fill(disk)
    monkeypatch.setenv("HARNESS_WEIGHTS", str(disk / "out"))
    said = harness(*command(name, disk / "out", inputs))
    check_refusal(said, 2 if name == "sweep" else 1)  # its preflight asks for room before anything runs
    for path in disk.rglob("*"):
        check_whole(path)
    if name not in ("pack", "weights fetch", "train", "sweep"):  # those go on from what they have
        assert not [path for path in disk.rglob("*") if ".part" in path.name or ".tmp" in path.name]


@pytest.mark.parametrize("name", ANEW)
def test_a_full_disk_leaves_what_an_earlier_command_wrote(
    name: str, harness: Harness, disk: Path, inputs: Inputs
) -> None:
    prepared(name, disk / "out", inputs)
    assert harness(*command(name, disk / "out", inputs)).code == 0
    before = contents(disk)
    fill(disk)
    check_refusal(harness(*command(name, disk / "out", inputs)), 1)
    (disk / "filler").unlink()
    assert contents(disk) == before


@pytest.mark.parametrize("name", [name for name in ANEW if name != "export onnx"])
def test_an_interrupt_before_the_end_leaves_what_an_earlier_command_wrote(
    name: str, harness: Harness, tmp_path: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes at the latest moment: all is written, and nothing has its name."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    prepared(name, out, inputs)
    assert harness(*command(name, out, inputs)).code == 0
    before = contents(out)
    monkeypatch.setattr(os, "replace", interrupt)
    said = harness(*command(name, out, inputs))
    assert said.code == 130 and "Traceback" not in said.err
    assert contents(out) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fill(disk: Path) -> None:
    """Leaves no room for another block."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for block_bytes in (1 << 20, 1 << 12):
            while True:
                try:
                    file.write(bytes(block_bytes))
                except OSError:
                    break


def check_refusal(said: Any, code: int) -> None:
    """One sentence a line (a command over many files has one for each), and the right exit code."""
    assert said.code == code, said.out + said.err
    assert "Traceback" not in said.err + said.out
    assert said.err.strip() and all(line.startswith("error: ") for line in said.err.strip().splitlines()), said.err


def check_whole(path: Path) -> None:
    """What stands under its own name is readable to its end; hidden and .part files are nobody's result."""
    if path.name.startswith("."):
        return
    if path.suffix == ".png":
        Image.open(path).load()
    if path.suffix == ".json":
        json.loads(path.read_text())
    if path.suffix == ".tar":
        with tarfile.open(path) as shard:
            assert shard.getmembers()
    assert path.suffix not in (".parquet", ".html", ".safetensors", ".pth", ".onnx")


CLASSES = {
    "two words": "two_words",
    "Šumava 山": "Šumava_山",
    'it\'s "quoted"': "it_s_quoted_",
    "-x": "-x",
    "%d;$(touch boom)&": "_d_touch_boom_",
    "a\nb": "a_b",
    "[a-z]*?": "_a-z_",
    "...": "_",
    "x" * 200: "x" * 40,
    "山" * 60: "山" * 13,
}


@pytest.mark.parametrize("name", CLASSES)
def test_names_of_any_kind_are_packed_shown_and_degraded(
    name: str, harness: Harness, tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the name of a class, of a file, and of every folder on the way."""
    monkeypatch.chdir(tmp_path)
    source = tmp_path / name / "in"
    shutil.copytree(photos / "hill", source / name)
    (source / name / "0.png").rename(source / name / f"{name}.png")
    out = tmp_path / name / "packed"
    said = harness("pack", source, "--out", out, "--tile", 48, "--workers", 1, "--val", 1, "--test", 1)
    assert said.code == 0, said.err
    counts = json.loads((out / "dataset.json").read_text())["counts"]
    assert list(counts["train"]) == [CLASSES[name]]
    said = harness("inspect", out, "--verify", "--html", tmp_path / name / "page.html")
    assert said.code == 0, said.out + said.err
    page = (tmp_path / name / "page.html").read_text(encoding="utf-8")
    assert "$(touch boom)&<" not in page
    said = harness("degrade", source, tmp_path / name / "small", "--scale", 2)
    assert said.code == 0, said.err
    assert (tmp_path / name / "small" / name / f"{name}.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
    assert not Path("boom").exists()


@pytest.mark.parametrize("name", ["a/b", "../up", "/etc", "", ".", "phases", "a\nb", "it's", "x" * 300])
def test_a_sweep_cannot_be_named_like_a_path(name: str, harness: Harness, tmp_path: Path, recipe: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps({"name": name, "base": json.loads(recipe.read_text())}))
    said = harness("sweep", file, "--runs", tmp_path / "runs", "--cluster", "local")
    assert said.code == 2
    assert "cannot name a folder" in said.err or "leaves no letter or digit" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


@pytest.mark.parametrize(("first", "second"), [("a b", "a_b"), ("x" * 41, "x" * 42), ("!", "?")])
def test_classes_that_would_become_one_are_refused(
    first: str, second: str, harness: Harness, tmp_path: Path, photos: Path
) -> None:
    for name, source in ((first, "hill"), (second, "lake")):
        shutil.copytree(photos / source, tmp_path / "in" / name)
    said = harness("pack", tmp_path / "in", "--out", tmp_path / "out")
    assert said.code == 2
    assert "would both be the class" in said.err
    assert not (tmp_path / "out").exists()
