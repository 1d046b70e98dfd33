"""The data that a command makes before it trains: what is looked at first, when it is drawn, where it lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import harness.cli
from harness.config import load_run_config
from harness.errors import InputError
from slurm.errors import ClusterError
from sweeps import dataset
from sweeps.config import CATALOG, find_recipe, load_sweep
from sweeps.dataset import pack_own, provide, provide_embedded
from sweeps.grid import expand
from sweeps.run import run_sweep

QUIET = Console(quiet=True)
_really_pack = dataset._pack


@pytest.fixture(autouse=True)
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty working folder; what would have been drawn or packed there."""
    monkeypatch.chdir(tmp_path)
    made: list[str] = []
    monkeypatch.setattr(dataset, "make_embedded", lambda console: made.append("embedded"))
    monkeypatch.setattr(dataset, "_pack", lambda images, out, *more: made.append(f"{images} -> {out}"))
    return made


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        ([], {"cluster": "nix"}, "there is no cluster profile 'nix'"),
        ([], {"detach": True}, "--detach needs a SLURM cluster"),
        (["sede=1"], {}, "unknown key 'sede'; did you mean 'seed'?"),
        (["axes.0.per_class.classes=[sae]"], {}, "the data has no class 'sae'"),
        (["axes.0.per_class.classes=[sea]"], {"data": Path("photos")}, "the data has no class 'sea'; it has ['lake']"),
    ],
)
def test_mistake_is_found_before_anything_is_drawn_or_packed(
    made: list[str], overrides: list[str], options: dict[str, object], message: str
) -> None:
    Path("photos", "lake").mkdir(parents=True)
    Path("photos", "lake", "0.png").touch()
    with pytest.raises((InputError, ClusterError)) as error:
        run_sweep("demo", overrides=overrides, console=QUIET, **{"cluster": "local", **options})  # type: ignore[arg-type]
    assert message in str(error.value)
    assert made == [] and not Path("runs").exists()


def test_embedded_dataset_is_drawn_where_it_is_named_and_missing(made: list[str]) -> None:
    config = load_run_config(find_recipe("demo"))
    other = load_run_config(find_recipe("demo"), ["data.sources.0.path=elsewhere"])
    provide_embedded([other], QUIET)
    assert made == []
    provide_embedded([other, config], QUIET)
    assert provide("demo", ["axes.0.per_class.classes=[sea]"], None, QUIET) == []
    assert made == ["embedded"] * 2
    dataset.EMBEDDED.mkdir(parents=True)
    (dataset.EMBEDDED / "dataset.json").touch()
    provide_embedded([config], QUIET)
    assert made == ["embedded"] * 2


def test_one_run_draws_its_dataset_as_a_sweep_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(console: Console) -> None:
        raise InterruptedError("drawing")

    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(dataset, "make_embedded", draw)
    with pytest.raises(InterruptedError, match="drawing"):
        harness.cli.train("demo", out=tmp_path / "run")


def test_own_images_are_packed_beside_what_the_user_packed_of_them(
    made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("photos/lake", "data/photos"):
        Path(folder).mkdir(parents=True)
    Path("photos", "lake", "0.png").touch()
    Path("data", "photos", "dataset.json").touch()
    changes = provide("demo", [], Path("photos"), QUIET)
    assert made == ["photos -> data/photos-96px"]
    sweep = load_sweep("demo", changes)
    assert (sweep.name, sweep.data) == ("demo-photos", "data/photos-96px")
    monkeypatch.setattr(dataset, "classes_of_own", lambda folder: ["lake"])
    assert load_sweep("demo", provide("demo", [], Path("data/photos"), QUIET)).data == "data/photos"
    assert len(made) == 1, "a packed dataset is taken as it is"


@pytest.mark.parametrize("sweep", sorted(path.stem for path in CATALOG.glob("*.yaml")))
def test_tiles_of_own_images_hold_the_largest_patch_of_the_sweep(
    made: list[str], monkeypatch: pytest.MonkeyPatch, sweep: str
) -> None:
    Path("photos/lake").mkdir(parents=True)
    Path("photos/lake/0.png").touch()
    tiles_px: list[int] = []
    monkeypatch.setattr(dataset, "_pack", lambda images, out, console, tile_px, *more: tiles_px.append(tile_px))
    given = load_sweep(sweep, provide(sweep, [], Path("photos"), QUIET))
    patches_px = [run.config.data.patch_px for run in expand(given, lambda path: ["lake"])]
    assert tiles_px == [max(dataset.TILE_PX, *patches_px)]
    assert given.data == f"data/photos-{tiles_px[0]}px"


@pytest.mark.parametrize(("sweep", "folder"), [("demo", "𠮷 'a' \"b\""), ("2024-01", "01"), ("a", "# b: c")])
def test_name_of_an_own_dataset_may_be_any(monkeypatch: pytest.MonkeyPatch, sweep: str, folder: str) -> None:
    Path(folder).mkdir()
    Path(folder, "dataset.json").touch()
    monkeypatch.setattr(dataset, "classes_of_own", lambda folder: ["lake"])
    changes = [f"name={sweep}"]
    assert load_sweep("demo", changes + provide("demo", changes, Path(folder), QUIET)).data == folder


def test_changed_images_are_refused_with_what_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_pack", _really_pack)
    monkeypatch.setattr("harness.data.pack.num_workers", lambda wanted: 1)
    for number in range(12):
        Path("photos/lake").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((96, 96, 3), number, np.uint8)).save(f"photos/lake/{number}.png")
    assert pack_own(Path("photos"), QUIET) == pack_own(Path("photos"), QUIET) == Path("data/photos-96px")
    Path("photos/lake/3.png").unlink()
    with pytest.raises(InputError) as error:
        pack_own(Path("photos"), QUIET)
    assert str(error.value) == (
        "data/photos-96px: holds another dataset; rename your folder of images, or remove that folder first."
    )
