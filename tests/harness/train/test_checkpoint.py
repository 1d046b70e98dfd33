"""A checkpoint is whole or absent, a damaged one is found, and the one before it is used."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from harness.errors import CheckpointError
from harness.train import checkpoint, durable
from harness.train.checkpoint import (
    Snapshot,
    checkpoint_folders,
    newest_good,
    read_checkpoint,
    read_newest,
    remove_old,
    step_folder,
    write_checkpoint,
)
from harness.train.durable import safetensors_pieces
from harness.train.writer import CheckpointWriter, HostCopier

WHOLE_STATE = {
    "phase": 0,
    "phase_state": {"optimizers": {"generator": {}}, "augment": {}},
    "meter": {"sums": {}, "counts": {}},
    "rollbacks": 0,
}


def snapshot(step: int) -> Snapshot:
    weights = {name: {"w": torch.full((3, 2), float(step))} for name in ("generator", "generator_ema")}
    training = {**WHOLE_STATE, "optimizers": {"generator": {"state": {0: {"step": torch.tensor(1.0)}}}}}
    return Snapshot(step, weights, training, {"config": {}, "phase": "pretrain", "dataset_fingerprint": "f"})


def test_what_is_written_is_read_back(tmp_path):
    path = write_checkpoint(tmp_path, snapshot(12))
    assert path.name == "step_000000012"
    read = read_checkpoint(path)
    assert read.step == 12
    assert torch.equal(read.weights["generator"]["w"], snapshot(12).weights["generator"]["w"])
    assert read.training["phase"] == 0


@pytest.mark.parametrize("name", ["generator.safetensors", "training_state.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, name, damage):
    good, bad = write_checkpoint(tmp_path, snapshot(1)), write_checkpoint(tmp_path, snapshot(2))
    content = bytearray((bad / name).read_bytes())
    if damage == "remove":
        (bad / name).unlink()
    elif damage == "cut":
        (bad / name).write_bytes(content[: len(content) // 2])
    else:
        content[0 if name == "manifest.json" else len(content) // 2] ^= 0xFF
        (bad / name).write_bytes(content)
    said: list[str] = []
    assert newest_good(tmp_path, said.append) == good
    assert len(said) == 1 and "step_000000002" in said[0]
    with pytest.raises(CheckpointError):
        read_checkpoint(bad)


def test_a_kill_at_any_moment_of_a_write_leaves_the_one_before(tmp_path, monkeypatch):
    """Every system call of a write is, in turn, the last one that happens."""
    write_checkpoint(tmp_path, snapshot(1))
    calls = 0

    class Killed(BaseException):
        pass

    def count(function, limit):
        def counted(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > limit:
                raise Killed
            return function(*args, **kwargs)

        return counted

    limit = 0
    while True:
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.shutil, "rmtree", lambda *a, **k: None)  # a killed process cleans nothing
            patch.setattr(durable.os, "fsync", count(os.fsync, limit))
            patch.setattr(checkpoint.os, "replace", count(os.replace, limit))
            try:
                write_checkpoint(tmp_path, snapshot(2))
                break
            except Killed:
                assert read_checkpoint(newest_good(tmp_path)).step in (1, 2)
        limit += 1
        for left in tmp_path.glob(".step_*"):
            for file in left.iterdir():
                file.unlink()
            left.rmdir()
    assert limit >= 4
    assert read_checkpoint(newest_good(tmp_path)).step == 2


def test_all_is_on_the_disk_before_the_name_and_the_name_before_older_ones_go(tmp_path, monkeypatch):
    """As a machine that loses its power leaves it: a name may reach the disk before what it names."""
    write_checkpoint(tmp_path, snapshot(1))
    done: list[tuple[str, str]] = []

    def noted(function, name):
        def call(what, *args, **kwargs):
            path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else str(what)
            done.append((name, Path(path).name))
            return function(what, *args, **kwargs)

        return call

    monkeypatch.setattr(os, "fsync", noted(os.fsync, "fsync"))
    monkeypatch.setattr(os, "replace", noted(os.replace, "replace"))
    writer = CheckpointWriter(tmp_path, keep=1)
    writer.start(snapshot(2))
    writer.wait()
    renamed, removed = (i for i, (name, _) in enumerate(done) if name == "replace")
    temporary = done[renamed][1]
    files = ["generator.safetensors", "generator_ema.safetensors", "training_state.pt", "manifest.json"]
    assert done[:renamed] == [("fsync", name) for name in (*files, temporary)]
    assert done[renamed + 1 : removed] == [("fsync", tmp_path.name)]
    assert done[removed] == ("replace", "step_000000001")


def test_a_file_reaches_the_disk_with_its_last_byte(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size) or fsync(number))
    durable.write_durably(tmp_path / "file", lambda file: file.write(b"a few bytes"))
    assert synced == [len(b"a few bytes")]


def test_a_kill_while_an_old_one_is_removed_leaves_nothing_that_looks_like_one(tmp_path, monkeypatch):
    for step in (1, 2):
        write_checkpoint(tmp_path, snapshot(step))
    seen: list[str] = []
    real = shutil.rmtree

    def look(path, *args, **kwargs):
        seen.append(Path(path).name)
        real(path, *args, **kwargs)

    monkeypatch.setattr(checkpoint.shutil, "rmtree", look)
    remove_old(tmp_path, keep=1, newest=2)
    assert seen and all(name.startswith(".") for name in seen)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000002"]


def test_a_full_disk_keeps_the_older_checkpoints_and_the_run(tmp_path, monkeypatch):
    writer = CheckpointWriter(tmp_path, keep=2)
    writer.start(snapshot(1))
    writer.wait()

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "fsync", no_space)
        writer.start(snapshot(2))
        writer.wait()
    assert writer.failed is not None and writer.failed.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == ["step_000000001"]
    writer.start(snapshot(3))
    writer.wait()
    assert writer.failed is None and newest_good(tmp_path) == step_folder(tmp_path, 3)


def test_a_file_system_that_cannot_sync_folders_gets_checkpoints(tmp_path, monkeypatch):
    fsync = os.fsync

    def of_files_alone(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_alone)
    written = write_checkpoint(tmp_path, snapshot(1))
    assert newest_good(tmp_path) == written


def test_older_checkpoints_are_removed_only_after_the_new_one_is_there(tmp_path):
    for step in range(1, 5):
        write_checkpoint(tmp_path, snapshot(step))
        remove_old(tmp_path, keep=2, newest=step)
        assert [int(p.name[5:]) for p in checkpoint_folders(tmp_path)] == [step, step - 1][:step]


def test_a_bad_checkpoint_ahead_of_the_run_never_counts_as_kept(tmp_path):
    """A run that went back behind it would lose what it writes, and with it all."""
    for step in (200, 300):
        write_checkpoint(tmp_path, snapshot(step))
    (step_folder(tmp_path, 300) / "generator.safetensors").write_bytes(b"torn")
    assert newest_good(tmp_path) == step_folder(tmp_path, 200)
    writer = CheckpointWriter(tmp_path, keep=1)
    writer.start(snapshot(250))
    writer.wait()
    assert checkpoint_folders(tmp_path) == [newest_good(tmp_path)] == [step_folder(tmp_path, 250)]


def test_a_users_copy_of_a_checkpoint_is_neither_continued_from_nor_removed(tmp_path):
    write_checkpoint(tmp_path, snapshot(1))
    copied = tmp_path / "step_best"
    shutil.copytree(step_folder(tmp_path, 1), copied)
    write_checkpoint(tmp_path, snapshot(2))
    remove_old(tmp_path, keep=1, newest=2)
    assert newest_good(tmp_path) == step_folder(tmp_path, 2) and copied.is_dir()
    assert checkpoint_folders(tmp_path) == [step_folder(tmp_path, 2)]


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    path = write_checkpoint(tmp_path, snapshot(1))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../etc/passwd"] = "0" * 64
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_training_state_with_code_in_it_is_refused(tmp_path):
    """Only plain data is loaded, even where checksum and manifest are right."""
    import hashlib
    import pickle

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    path = write_checkpoint(tmp_path, snapshot(1))
    (path / "training_state.pt").write_bytes(pickle.dumps(Evil()))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["training_state.pt"] = hashlib.sha256((path / "training_state.pt").read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_host_copies_reuse_their_memory_and_keep_values(tmp_path: Path):
    copier = HostCopier()
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": [torch.ones(2), 5], ("x", "y"): "text"}
    first = copier.copy(state)
    address = first["a"].data_ptr()
    state["a"] += 1
    assert torch.equal(first["a"], torch.arange(6.0).reshape(2, 3))
    second = copier.copy(state)
    assert second["a"].data_ptr() == address and torch.equal(second["a"], state["a"])
    assert second["b"][1] == 5 and second[("x", "y")] == "text"


def test_reserved_buffers_are_those_that_the_copy_fills():
    copier = HostCopier()
    states = {"weights": {"generator": {"w": torch.ones(3, 2)}}, "training": {"phase_state": {"m": [torch.ones(4)]}}}
    copier.reserve(states)
    reserved = {name: buffer.data_ptr() for name, buffer in copier._buffers.items()}
    weights = copier.copy(states["weights"], "weights")
    training = copier.copy({"phase": 0, **states["training"]}, "training")
    assert torch.equal(weights["generator"]["w"], torch.ones(3, 2))
    assert torch.equal(training["phase_state"]["m"][0], torch.ones(4))
    assert {name: buffer.data_ptr() for name, buffer in copier._buffers.items()} == reserved


def test_metrics_are_made_durable_before_the_checkpoint_that_relies_on_them(tmp_path):
    def look():
        seen.append(list(tmp_path.glob("step_*")))

    seen: list[list[Path]] = []
    writer = CheckpointWriter(tmp_path, keep=2, before=look)
    writer.start(snapshot(1))
    writer.wait()
    assert seen == [[]] and writer.failed is None


@pytest.mark.parametrize("metadata", [None, {"harness": '{"name": "é\n"}'}])
def test_safetensors_files_are_those_of_their_own_package(metadata):
    types = [torch.float64, torch.int64, torch.float32, torch.int32, torch.bfloat16, torch.float16, torch.int16]
    weights = {f"{i}.w": torch.arange(6).reshape(2, 3).to(kind) for i, kind in enumerate(types)}
    weights |= {"scalar": torch.tensor(5), "flags": torch.tensor([True, False]), "bytes": torch.ones(3).byte()}
    weights |= {"nhwc": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), "none": torch.empty(0)}
    expected = safetensors.torch.save({name: value.contiguous() for name, value in weights.items()}, metadata)
    assert b"".join(bytes(piece) for piece in safetensors_pieces(weights, metadata)) == expected


@pytest.mark.parametrize("lacking", ["phase_state", "phase_state/augment", "meter/sums", "rollbacks"])
def test_a_state_that_lacks_something_falls_back_to_the_one_before(tmp_path, lacking):
    weights = {"generator": {"w": torch.ones(1)}, "generator_ema": {"w": torch.ones(1)}}
    facts = {"config": {}}
    write_checkpoint(tmp_path, Snapshot(1, weights, WHOLE_STATE, facts))
    state = copy.deepcopy(WHOLE_STATE)
    *parents, last = lacking.split("/")
    inner = state[parents[0]] if parents else state
    del inner[last]
    write_checkpoint(tmp_path, Snapshot(2, weights, state, facts))
    said: list[str] = []
    read = read_newest(tmp_path, said.append)
    assert read is not None and read.step == 1
    assert len(said) == 1 and f"step_000000002/training_state.pt: lacks '{lacking}" in said[0]


@pytest.mark.parametrize("damage", ["torn", "lacking"])
def test_a_checkpoint_that_is_no_use_is_written_anew_at_its_step(tmp_path, damage):
    weights = {"generator": {"w": torch.ones(1)}, "generator_ema": {"w": torch.ones(1)}}
    training = WHOLE_STATE if damage == "torn" else {**WHOLE_STATE, "meter": {}}
    path = write_checkpoint(tmp_path, Snapshot(2, weights, training, {"config": {}}))
    if damage == "torn":
        (path / "generator.safetensors").write_bytes(b"torn")
    assert read_newest(tmp_path) is None
    write_checkpoint(tmp_path, Snapshot(2, weights, WHOLE_STATE, {"config": {}}))
    assert read_newest(tmp_path) is not None


def test_weights_in_channels_last_are_not_all_copied_to_be_written():
    weights = {f"{i}.w": torch.randn(8, 8, 3, 3).to(memory_format=torch.channels_last) for i in range(3)}
    made: list[tuple[int, ...]] = []
    real = torch.Tensor.contiguous

    class Watched(torch.Tensor):
        def contiguous(self, *args, **kwargs):
            made.append(tuple(self.shape))
            return real(self, *args, **kwargs)

    pieces = safetensors_pieces({name: value.as_subclass(Watched) for name, value in weights.items()})
    next(pieces), next(pieces)
    assert made == []
    for number, _ in enumerate(pieces, 1):
        assert len(made) == number
