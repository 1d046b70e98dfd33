"""Damaged or hostile files: a dataset, a shard, a checkpoint, weights, a score table.

The answer is one sentence (`InputError` and its kind) or the right content, never anything else, and nothing appears
outside the folder that a command writes to.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from evaluation.model import Model
from evaluation.scores.checkpoints import find_weights
from evaluation.scores.table import IMAGE_KEYS, SET_KEYS, ScoreTable
from harness.config import RunConfig
from harness.data import sidecar
from harness.data.index import index
from harness.data.pack import pack
from harness.data.shards import Dataset
from harness.errors import CheckpointError, InputError
from harness.models.build import build_generator
from harness.models.foreign import read_foreign_weights
from harness.networks import open_network
from harness.train.checkpoint import Snapshot, newest_good, read_checkpoint, write_checkpoint, write_weights
from harness.train.start import EXPORTED, load_generator

QUICK = settings(
    deadline=None, max_examples=int(os.environ.get("FUZZ_EXAMPLES", 40)), suppress_health_check=list(HealthCheck)
)
ODD = [
    None,
    True,
    -1,
    0,
    1,
    2**70,
    1.5,
    "",
    "..",
    "../../x",
    "/etc/passwd",
    "a\0b",
    [],
    {},
    [1],
    {"a": 1},
    [[]],
    "x" * 999,
]
CONFIG = {
    "data": {"sources": [{"path": "x"}], "patch_px": 32},
    "generator": {"name": "srcnn", "num_channels": [4, 4]},
    "phases": [
        {
            "name": "a",
            "iterations": 1,
            "batch_size": 1,
            "losses": [{"name": "l1"}],
            "generator_optimizer": {"learning_rate": 1.0},
        }
    ],
}

Damage = tuple[str, float, int]
DAMAGES = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "zero", "swap"]), st.floats(0, 1, exclude_max=True), st.integers(1, 255)
)


def damage(content: bytes, how: Damage) -> bytes:
    """The content with one fault at a place given as a share of its length."""
    kind, share, value = how
    at = int(share * len(content))
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ value]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "insert":
        return content[:at] + bytes([value] * (value % 7 + 1)) + content[at:]
    if kind == "zero":
        return content[:at] + bytes(min(value, len(content) - at)) + content[at + value :]
    return content[at:] + content[:at]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield path
    for key, item in items:
        yield from places(item, (*path, key))


def replaced(values: Any, share: float, new: Any) -> Any:
    """Nested values with something odd in one place."""
    all_places = list(places(values))
    place = all_places[int(share * len(all_places))]
    result = copy.deepcopy(values)
    if not place:
        return new
    node = result
    for part in place[:-1]:
        node = node[part]
    node[place[-1]] = new
    return result


@contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """A copy of a folder inside a folder of its own, in which nothing else may appear."""
    with tempfile.TemporaryDirectory() as temporary:
        inside = Path(temporary) / "inside"
        shutil.copytree(folder, inside)
        yield inside
        assert [path.name for path in Path(temporary).iterdir()] == ["inside"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for name in ("hill", "lake"):
        (root / name).mkdir()
        for i in range(4):
            Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def packed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "set"
    pack([photos], out, tile_px=16, workers=1, val=1, test=1)
    return out


def contents(folder: Path) -> dict[str, np.ndarray]:
    """Every sample of a dataset by its key."""
    dataset = Dataset.open(str(folder))
    return {dataset.key(i): dataset.read(i) for i in range(dataset.num_samples)}


def check_dataset(folder: Path, right: dict[str, np.ndarray]) -> None:
    try:
        found = contents(folder)
    except InputError as error:
        assert str(error)
        return
    assert found.keys() == right.keys()
    assert all(np.array_equal(found[key], right[key]) for key in right)


@given(file=st.integers(0, 4), how=DAMAGES)
@QUICK
def test_a_damaged_dataset_is_refused_or_read_right(packed: Path, file: int, how: Damage) -> None:
    right = contents(packed)
    with copied(packed) as folder:
        path = sorted(path for path in folder.iterdir() if not path.name.startswith("."))[file]
        path.write_bytes(damage(path.read_bytes(), how))
        check_dataset(folder, right)


@given(share=st.floats(0, 1, exclude_max=True), new=st.sampled_from(ODD))
@QUICK
def test_a_description_with_anything_in_it_is_refused_or_harmless(packed: Path, share: float, new: Any) -> None:
    right = contents(packed)
    with copied(packed) as folder:
        path = folder / sidecar.DESCRIPTION_NAME
        path.write_text(json.dumps(replaced(json.loads(path.read_text()), share, new)))
        check_dataset(folder, right)


@given(
    column=st.sampled_from(["offset", "length", "header", "height", "width", "crc32"]),
    row=st.integers(0, 5),
    value=st.sampled_from([-(2**31), -1, 0, 1, 7, 100, 2**15 - 1, 2**31 - 1, 2**63 - 1, None]),
)
@QUICK
def test_an_index_that_lies_is_refused_or_read_from_inside_its_shard(
    packed: Path, column: str, row: int, value: int | None
) -> None:
    """The checksums are made to fit, as somebody who means harm would."""
    field = sidecar.SCHEMA.field(column)
    with copied(packed) as folder:
        table = pq.read_table(folder / sidecar.INDEX_NAME).cast(sidecar.SCHEMA)
        values = table.column(column).to_pylist()
        try:
            lies = pa.array([value if i == row else old for i, old in enumerate(values)], field.type)
        except (pa.ArrowException, OverflowError):
            return
        table = table.set_column(table.schema.get_field_index(column), field, lies)
        sidecar.write_index(table, folder / sidecar.INDEX_NAME)
        path = folder / sidecar.DESCRIPTION_NAME
        sums = {
            "index_sha256": hashlib.sha256((folder / sidecar.INDEX_NAME).read_bytes()).hexdigest(),
            "fingerprint": sidecar.fingerprint_of(table),
        }
        path.write_text(json.dumps({**json.loads(path.read_text()), **sums}))
        try:
            found = contents(folder)
        except InputError:
            return
        assert values[row] == value or all(image.dtype == np.uint8 for image in found.values())


@given(how=DAMAGES)
@QUICK
def test_a_damaged_shard_of_others_is_indexed_right_or_refused(packed: Path, how: Damage) -> None:
    with copied(packed) as folder:
        (folder / sidecar.INDEX_NAME).unlink()
        (folder / sidecar.DESCRIPTION_NAME).unlink()
        shard = next(folder.glob("train-*.tar"))
        shard.write_bytes(damage(shard.read_bytes(), how))
        before = {path.name for path in folder.iterdir()}
        try:
            index(folder)
        except InputError as error:
            assert str(error)
            assert {path.name for path in folder.iterdir()} == before
            return
        for image in contents(folder).values():
            assert image.dtype == np.uint8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = RunConfig.model_validate(CONFIG)
    weights = build_generator(config.generator, config.scale).state_dict()
    facts = {"phase": "a", "config": config.model_dump(mode="json"), "dataset_fingerprint": "f"}
    run = tmp_path_factory.mktemp("run")
    all_weights = {"generator": weights, "generator_ema": weights, "discriminator": {"a": torch.ones(3)}}
    snapshot = Snapshot(5, all_weights, {"phase": 0}, facts)
    write_checkpoint(run / "checkpoints", snapshot)
    metadata = {"harness": json.dumps({"step": 5, "config": facts["config"]})}
    write_weights(run / EXPORTED, weights, metadata)
    return run


def equal_weights(module: torch.nn.Module, right: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), right.state_dict().values()))


def refused(read: Callable[[], Any]) -> Any:
    """What is read, or None where it was refused in one sentence."""
    try:
        return read()
    except InputError as error:
        assert str(error) and "\n" not in str(error)
        return None


CHECKPOINT_FILES = [
    "manifest.json",
    "training_state.pt",
    "generator.safetensors",
    "generator_ema.safetensors",
    "discriminator.safetensors",
]


def test_every_file_of_a_checkpoint_is_damaged_here(checkpoint: Path) -> None:
    found = {path.name for path in (checkpoint / "checkpoints" / "step_000000005").iterdir()}
    assert found == set(CHECKPOINT_FILES)


@given(name=st.sampled_from(CHECKPOINT_FILES), how=DAMAGES)
@QUICK
def test_a_damaged_checkpoint_is_refused_or_the_same(checkpoint: Path, name: str, how: Damage) -> None:
    right, _ = load_generator(checkpoint / "checkpoints" / "step_000000005")
    with copied(checkpoint / "checkpoints") as folder:
        path = folder / "step_000000005" / name
        path.write_bytes(damage(path.read_bytes(), how))
        newest_good(folder)
        found = refused(lambda: load_generator(path.parent))
        assert found is None or equal_weights(found[0], right)
        refused(lambda: read_checkpoint(path.parent))


@given(share=st.floats(0, 1, exclude_max=True), new=st.sampled_from(ODD))
@QUICK
def test_a_manifest_with_anything_in_it_is_refused_or_harmless(checkpoint: Path, share: float, new: Any) -> None:
    with copied(checkpoint / "checkpoints") as folder:
        path = folder / "step_000000005" / "manifest.json"
        path.write_text(json.dumps(replaced(json.loads(path.read_text()), share, new)))
        newest_good(folder)
        refused(lambda: load_generator(path.parent))
        refused(lambda: read_checkpoint(path.parent))


@given(name=st.sampled_from(CHECKPOINT_FILES[1:]), how=DAMAGES)
@QUICK
def test_a_hostile_checkpoint_with_fitting_checksums_is_refused_or_read(
    checkpoint: Path, name: str, how: Damage
) -> None:
    with copied(checkpoint / "checkpoints") as folder:
        path = folder / "step_000000005" / name
        path.write_bytes(damage(path.read_bytes(), how))
        manifest = json.loads((path.parent / "manifest.json").read_text())
        manifest["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (path.parent / "manifest.json").write_text(json.dumps(manifest))
        refused(lambda: load_generator(path.parent))
        refused(lambda: read_checkpoint(path.parent))


def crafted(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header, which says that it has any length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def one(**facts: object) -> dict[str, Any]:
    return {"layers.0.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **facts}}


CRAFTED = {
    "nothing": b"",
    "no header": crafted(b""),
    "cut header": crafted(one())[:20],
    "endless header": crafted(b"{}", length=2**63),
    "large header": crafted(b"{}", length=2**40),
    "no JSON": crafted(b"{{{{"),
    "deep": crafted(b'{"a":' + b"[" * 100_000),
    "other type": crafted(one(dtype="X9"), bytes(4)),
    "negative": crafted(one(shape=[-1]), bytes(4)),
    "overflow": crafted(one(shape=[2**62, 4]), bytes(4)),
    "beyond its end": crafted(one(shape=[100], data_offsets=[0, 400]), bytes(4)),
    "backwards": crafted(one(data_offsets=[4, 0]), bytes(4)),
    "overlapping": crafted({**one(), "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "other values": crafted(one(dtype="I64", data_offsets=[0, 8]), bytes(8)),
    "a name with a nul": crafted({"a\0b": one()["layers.0.weight"]}, bytes(4)),
    "deep metadata": crafted({"__metadata__": {"harness": "[" * 100_000}, **one()}, bytes(4)),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_safetensors_file_is_refused_as_a_generator(name: str, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    path.write_bytes(CRAFTED[name])
    for read in (load_generator, open_network, as_a_column):
        with pytest.raises(InputError) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def as_a_column(path: Path) -> object:
    """As a model of a matrix."""
    return find_weights(Model(name="x", kind="checkpoint", path=str(path)), latest=False)


DEEP = "[" * 100_000
JSON_TEXTS = [DEEP, '{"a": ' + DEEP, "NaN", "1e999", "9" * 5000, '"\\ud800"', "", "\0", "nul", "{}", "[]", "[1]", "{"]


@pytest.mark.parametrize("text", JSON_TEXTS, ids=lambda text: text[:8])
def test_json_that_its_reader_stumbles_over_is_refused(text: str, packed: Path, checkpoint: Path, scores: Path) -> None:
    with copied(packed) as folder:
        (folder / sidecar.DESCRIPTION_NAME).write_text(text)
        with pytest.raises(InputError):
            Dataset.open(str(folder))
    with copied(checkpoint / "checkpoints") as folder:
        step = folder / "step_000000005"
        (step / "manifest.json").write_text(text)
        assert newest_good(folder) is None
        for read in (load_generator, read_checkpoint):
            with pytest.raises(InputError):
                read(step)
    for file in ("missing.json", "models.json"):
        with copied(scores) as folder:
            (folder / file).write_text(text)
            check_table(folder)


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_in_a_checkpoint_is_never_run(zipped: bool, checkpoint: Path, tmp_path: Path) -> None:
    """The checksums are made to fit, as somebody who means harm would."""
    mark = tmp_path / "was here"
    with copied(checkpoint / "checkpoints") as folder:
        path = folder / "step_000000005" / "training_state.pt"
        torch.save({"phase": 0, "x": Evil(mark)}, path, _use_new_zipfile_serialization=zipped)
        manifest = json.loads((path.parent / "manifest.json").read_text())
        manifest["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (path.parent / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError):
            read_checkpoint(path.parent)
    torch.save({"params": Evil(mark)}, tmp_path / "other.pth", _use_new_zipfile_serialization=zipped)
    for read in (read_foreign_weights, open_network):
        with pytest.raises(InputError):
            read(tmp_path / "other.pth")
    assert not mark.exists()
    torch.load(tmp_path / "other.pth", weights_only=False)
    assert mark.exists()  # it would have been run


@given(how=DAMAGES)
@QUICK
def test_a_damaged_export_is_refused_or_a_generator(checkpoint: Path, how: Damage) -> None:
    with copied(checkpoint) as folder:
        path = folder / EXPORTED
        path.write_bytes(damage(path.read_bytes(), how))
        refused(lambda: load_generator(path))


@pytest.mark.parametrize("metadata", ["", "x", "[]", "{}", '{"config": 3}', '{"config": {"scale": 3}}', "null"])
def test_an_export_with_a_strange_configuration_is_refused(tmp_path: Path, metadata: str) -> None:
    write_weights(tmp_path / "g.safetensors", {"a": torch.zeros(1)}, {"harness": metadata})
    with pytest.raises(InputError):
        load_generator(tmp_path / "g.safetensors")


@given(how=DAMAGES)
@QUICK
def test_a_damaged_weights_file_of_others_is_refused_or_read(checkpoint: Path, how: Damage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "other.pth"
        torch.save({"params": {"a": torch.arange(6.0)}}, path)
        path.write_bytes(damage(path.read_bytes(), how))
        try:
            found = read_foreign_weights(path)
        except CheckpointError as error:
            assert str(error)
        else:
            assert isinstance(found, dict)


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    row: dict[str, Any] = dict.fromkeys(IMAGE_KEYS, "x") | {"height": 8, "width": 8, "psnr": 20.0}
    one_set = dict(zip(SET_KEYS, ["x", "x", "fid", 1.0, 0.1, 4, ""]))
    folder = tmp_path_factory.mktemp("scores")
    table = ScoreTable(
        pd.DataFrame([row, {**row, "image": "y", "psnr": 30.0}]),
        pd.DataFrame([one_set]),
        {("x", "x", "kid"): "few images"},
        [Model(name="x", kind="folder", path="images")],
        ["x"],
    )
    table.save(folder)
    return folder


def check_table(folder: Path) -> None:
    table = refused(lambda: ScoreTable.load(folder))
    if table is not None:
        assert all(isinstance(model, Model) for model in table.models)
        for metric in table.metrics:
            assert isinstance(table.mean("x", "x", metric), float)


@given(file=st.sampled_from(["scores.parquet", "set_scores.parquet", "missing.json", "models.json"]), how=DAMAGES)
@QUICK
def test_a_damaged_score_table_is_refused_or_read(scores: Path, file: str, how: Damage) -> None:
    with copied(scores) as folder:
        (folder / file).write_bytes(damage((folder / file).read_bytes(), how))
        check_table(folder)


@given(
    file=st.sampled_from(["missing.json", "models.json"]),
    share=st.floats(0, 1, exclude_max=True),
    new=st.sampled_from(ODD),
)
@QUICK
def test_a_score_table_with_anything_in_it_is_refused_or_read(scores: Path, file: str, share: float, new: Any) -> None:
    with copied(scores) as folder:
        (folder / file).write_text(json.dumps(replaced(json.loads((folder / file).read_text()), share, new)))
        check_table(folder)


@pytest.mark.parametrize("column", ["model", "condition", "image", "metric", "value"])
def test_a_score_table_without_a_column_is_refused(scores: Path, column: str) -> None:
    with copied(scores) as folder:
        for file in ("scores.parquet", "set_scores.parquet"):
            table = pd.read_parquet(folder / file)
            table.drop(columns=[column], errors="ignore").to_parquet(folder / file)
        with pytest.raises(InputError):
            ScoreTable.load(folder)
