from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from slurm.errors import ClusterError
from slurm.job import Job, Payload, read_payload, write_payload, write_private


@pytest.fixture
def payload_file(tmp_path):
    path = tmp_path / "payload.json"
    job = Job("a", Path("/runs/a"), "run file.yaml", target="module:function")
    write_payload(path, Payload({4: job}, {"A": "b; c"}, 9, 3, 2))
    return path


def test_a_payload_is_read_as_it_was_written(payload_file):
    payload = read_payload(payload_file)
    assert payload.jobs[4] == Job("a", Path("/runs/a"), "run file.yaml", target="module:function")
    assert (payload.environment, payload.max_requeues, payload.max_deaths, payload.threads) == ({"A": "b; c"}, 9, 3, 2)
    assert payload_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_payload_that_others_may_write_is_not_run(payload_file, mode):
    payload_file.chmod(mode)
    with pytest.raises(ClusterError, match="others may write it"):
        read_payload(payload_file)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_a_payload_of_another_user_is_not_run(payload_file):
    os.chown(payload_file, 12345, -1)
    with pytest.raises(ClusterError, match="belongs to user 12345"):
        read_payload(payload_file)


def test_a_link_to_a_payload_is_not_run(payload_file, tmp_path):
    (tmp_path / "link.json").symlink_to(payload_file)
    with pytest.raises(ClusterError, match="cannot be opened"):
        read_payload(tmp_path / "link.json")


def test_a_damaged_payload_is_one_sentence(payload_file):
    payload_file.write_text(json.dumps({"jobs": []}))
    with pytest.raises(ClusterError, match="submit again"):
        read_payload(payload_file)


def test_a_payload_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """A crash of the machine that submits must not leave a job in the queue without what it is to do."""
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *words, name=name, real=real: (done.append(name), real(*words)))
    write_payload(tmp_path / "payload.json", Payload({}, {}, 9, 3, 2))
    assert done == ["fsync", "replace"]


def test_a_full_disk_is_told_with_the_name_of_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")  # as of a write, which names no file

    write_private(tmp_path / "note", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        write_private(tmp_path / "note", "new")
    assert raised.value.filename == str(tmp_path / "note") and raised.value.errno == errno.ENOSPC
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
