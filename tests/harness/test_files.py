"""Files are whole where they are there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.files import whole


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_appears_when_it_is_whole(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "new" / "a.txt"
    with whole(path, sync) as part:
        part.write_text("new")
        assert part.suffix == ".txt" and not path.exists()
    assert path.read_text() == "new" and os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError(), OSError(errno.ENOSPC, "full")])
def test_what_goes_wrong_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), whole(path) as part:
        part.write_text("ne")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ESTALE])
def test_a_full_or_lost_disk_is_no_mistake_of_the_users_and_names_the_file(tmp_path: Path, number: int) -> None:
    with pytest.raises(OSError, match="trouble") as caught, whole(tmp_path / "a"):
        raise OSError(number, "trouble")
    assert caught.value.filename == str(tmp_path / "a") and not isinstance(caught.value, InputError)


def test_a_place_that_cannot_be_written_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a", tmp_path, tmp_path / ("x" * 300), Path("/proc/a")):
        with pytest.raises(InputError, match="cannot be written"), whole(path) as part:
            part.write_text("")


def test_long_names_and_several_files_at_once_work(tmp_path: Path) -> None:
    first, second = tmp_path / ("山" * 80 + "1.txt"), tmp_path / ("山" * 80 + "2.txt")
    with whole(first) as one, whole(second) as two:
        one.write_text("1")
        two.write_text("2")
    assert (first.read_text(), second.read_text()) == ("1", "2")
