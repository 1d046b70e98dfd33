"""Commands whose output has no place: a full disk, a folder that cannot be written, names of every kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Harness = Callable[..., "object"]


def command(name: str, out: Path, photos: Path, packed: Path, recipe: Path, generator: Path) -> list[object]:
    """A command that writes to `out`."""
    return {
        "synth": ["synth", "--out", out, "--images-per-class", 3, "--size", 96, "--workers", 1],
        "pack": ["pack", photos, "--out", out, "--tile", 48, "--workers", 1],
        "inspect": ["inspect", packed, "--html", out / "page.html"],
        "degrade": ["degrade", photos, out, "--scale", 2],
        "train": ["train", recipe, "--out", out],
        "sweep": ["sweep", recipe, "--runs", out, "--cluster", "local"],
        "upscale": ["upscale", photos, out, "--method", "bicubic", "--scale", 4],
        "export": ["export", generator, "--format", "safetensors", "--out", out / "g.safetensors"],
        "score": ["score", "--sr", photos, "--hr", photos, "--json", out / "scores.json"],
    }[name]


ALL = ["synth", "pack", "inspect", "degrade", "train", "sweep", "upscale", "export", "score"]


@pytest.mark.parametrize("name", ALL)
def test_a_folder_that_cannot_be_written_is_one_sentence(
    name: str, harness: Harness, tmp_path: Path, photos: Path, packed: Path, recipe: Path, generator: Path
) -> None:
    """Below a regular file nobody can write, not even root."""
    (tmp_path / "file").write_text("content")
    said = harness(*command(name, tmp_path / "file" / "out", photos, packed, recipe, generator))
    assert said.code in (1, 2)
    assert "Traceback" not in said.err + said.out
    assert "file" in said.err
    assert (tmp_path / "file").read_text() == "content"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ALL)
def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_written(
    name: str, harness: Harness, full_disk: Path, photos: Path, packed: Path, recipe: Path, generator: Path
) -> None:
    (full_disk / "filler").write_bytes(bytes(64 << 10))
    said = harness(*command(name, full_disk / "out", photos, packed, recipe, generator))
    assert said.code in (1, 2), said.out + said.err
    assert "Traceback" not in said.err + said.out
    assert said.err.strip()
    for path in full_disk.rglob("*"):
        check_whole(path)


def check_whole(path: Path) -> None:
    """What stands under its own name is readable to its end; hidden and .part files are nobody's result."""
    if path.suffix == ".png":
        Image.open(path).load()
    if path.suffix == ".json" and not path.name.startswith("."):
        json.loads(path.read_text())
    assert path.name not in ("index.parquet", "page.html", "g.safetensors", "generator.safetensors")


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
