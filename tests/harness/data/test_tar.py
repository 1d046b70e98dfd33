"""A tar is listed to its end or refused: no sample of a damaged one is silently left out, none is read wrongly."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from harness.data.tar import END_OF_ARCHIVE, list_members, write_member
from harness.errors import DataError


@pytest.fixture
def tar(tmp_path) -> Path:
    """A tar of six members of 700 bytes, each of which takes a header of 512 and two blocks."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(6):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = 700
            archive.addfile(info, io.BytesIO(bytes([number]) * 700))
    return tmp_path / "a.tar"


def names(path: Path) -> list[str]:
    return [member.name for member in list_members(path)]


def test_members_of_any_length_are_written_so_that_tarfile_reads_them(tmp_path):
    contents = {f"{length}.npy": bytes([length % 251]) * length for length in (0, 1, 511, 512, 513, 1024)}
    with (tmp_path / "a.tar").open("wb") as file:
        offsets = [write_member(file, name, content) for name, content in contents.items()]
        file.write(END_OF_ARCHIVE)
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert {info.name: archive.extractfile(info).read() for info in archive} == contents
        assert [info.offset_data for info in archive] == offsets


def test_members_are_those_that_tarfile_reads(tar):
    content = tar.read_bytes()
    with tarfile.open(tar) as archive:
        expected = [(info.name, archive.extractfile(info).read()) for info in archive]
    assert [(m.name, content[m.offset : m.offset + m.length]) for m in list_members(tar)] == expected


@pytest.mark.parametrize("where", [3 * 1536, 3 * 1536 + 100, 3 * 1536 + 512, 3 * 1536 + 1300, 6 * 1536])
def test_a_tar_that_is_cut_off_anywhere_is_refused(tar, where):
    tar.write_bytes(tar.read_bytes()[:where])
    with pytest.raises(DataError, match=r"a\.tar: (is cut off|is not a sound tar \(unexpected end of data\))"):
        names(tar)


def test_a_damaged_header_between_two_members_is_no_end(tar):
    content = bytearray(tar.read_bytes())
    content[3 * 1536 + 5] ^= 1
    tar.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar: is cut off or damaged behind byte 4608; copy or pack it again"):
        names(tar)


def test_of_joined_tars_it_is_not_the_first_alone_that_counts(tar):
    tar.write_bytes(tar.read_bytes() * 2)
    with pytest.raises(DataError, match=r"a\.tar: goes on behind its end \(joined tars\?\); give each"):
        names(tar)


def test_a_single_block_of_zeros_ends_a_tar_as_well(tar):
    tar.write_bytes(tar.read_bytes()[: 6 * 1536 + 512])
    assert len(names(tar)) == 6


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar writes the files that are tested")
@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_members_without_their_holes_are_refused_since_a_range_of_them_is_something_else(tmp_path, form):
    with (tmp_path / "x.npy").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    made = subprocess.run(["tar", "-C", tmp_path, f"--format={form}", "-Scf", tmp_path / "a.tar", "x.npy"])
    with tarfile.open(tmp_path / "a.tar") as archive:
        if made.returncode or not archive.next().issparse():
            pytest.skip("this tar or file system keeps no holes")
    with pytest.raises(DataError, match=r"a\.tar: member 'x\.npy' is stored without its holes; write the tar without"):
        names(tmp_path / "a.tar")


def test_what_is_no_readable_file_is_named(tmp_path):
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "link.tar").symlink_to(tmp_path / "absent")
    for name in ("folder.tar", "link.tar"):
        with pytest.raises(DataError, match=rf"{name}: cannot be read \(.*\); copy it again, or take it out"):
            names(tmp_path / name)
