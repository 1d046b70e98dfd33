"""The score table survives a round through its files, and a cell without a number says why."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pyarrow
import pytest

from evaluation.model import Model, baseline
from evaluation.scores.table import SCORES_FILE, SET_KEYS, ScoreTable
from harness.errors import InputError


@pytest.fixture
def table() -> ScoreTable:
    keys = {"model_kind": "method", "checkpoint_sha": "x", "dataset_fingerprint": "d", "source_hash": "s"}
    keys |= {"condition": "sea", "split": "test", "image_class": "sea"}
    rows = [
        {**keys, "model": model, "image": image, "psnr": psnr}
        for model, image, psnr in [("bicubic", "a", 30.0), ("bicubic", "b", 32.0), ("net", "a", math.nan)]
    ]
    return ScoreTable(
        images=pd.DataFrame(rows),
        sets=pd.DataFrame(columns=list(SET_KEYS)),
        missing={("net", "sea", "psnr"): "the output of image 'a' is not finite"},
        models=[baseline("bicubic"), Model("net", "checkpoint", "runs/net", {"data": "5%"}, "sea")],
        conditions=["sea"],
        notes=["net: an older checkpoint"],
    )


def test_a_saved_table_loads_equal(table: ScoreTable, tmp_path: Path) -> None:
    table.save(tmp_path)
    loaded = ScoreTable.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.images, table.images)
    assert list(loaded.sets.columns) == list(table.sets.columns)
    assert (loaded.missing, loaded.models, loaded.conditions, loaded.notes) == (
        table.missing,
        table.models,
        table.conditions,
        table.notes,
    )


def test_a_cell_is_the_mean_over_its_images_and_missing_is_nan(table: ScoreTable) -> None:
    assert table.mean("bicubic", "sea", "psnr") == 31.0
    assert math.isnan(table.mean("net", "sea", "psnr"))
    assert table.metrics == ("psnr",)


def test_a_folder_without_a_table_is_refused_in_one_sentence(table: ScoreTable, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no score table"):
        ScoreTable.load(tmp_path)
    table.save(tmp_path)
    (tmp_path / SCORES_FILE).write_bytes(b"torn")
    with pytest.raises(InputError, match="holds no score table"):
        ScoreTable.load(tmp_path)


def test_a_table_with_what_arrow_does_not_know_is_refused_as_well(
    table: ScoreTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage can make a type of it that the format has and Arrow has not; its error is no ValueError."""
    table.save(tmp_path)

    def read_parquet(path: Path) -> None:
        raise pyarrow.ArrowNotImplementedError("Integers with more than 64 bits not implemented")

    monkeypatch.setattr(pd, "read_parquet", read_parquet)
    with pytest.raises(InputError, match=r"holds no score table \(Integers with more than 64 bits"):
        ScoreTable.load(tmp_path)
