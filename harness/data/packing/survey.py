"""Which images a pack will hold: found, hashed, judged by their headers and given a split, before any is written."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.data import images
from harness.data.packing.split import SPLITS, assign_splits
from harness.errors import DataError, InputError, UnreachableError
from harness.files import BROKEN

SMALLEST_PX = 16


@dataclass(frozen=True)
class SourceImage:
    """An image file that will be packed."""

    path: str
    class_name: str
    source: str
    """Path below the source folder, as stored."""
    digest: str
    """First 32 hex digits of the file's sha256."""
    height: int
    width: int
    grey: bool
    split: str = "train"


@dataclass(frozen=True)
class Skipped:
    """A file that was found and will not be packed, and why."""

    path: str
    reason: str


def find_files(sources: Sequence[Path]) -> list[tuple[str, str, str]]:
    """(class, path, source name) of every file below the given folders, sorted.

    The first folder level below a source is the class; files directly in a source belong to a class named after it.

    Raises:
        InputError: a source is no folder, a folder cannot be listed, or two folders of different names would become
            one class.
    """
    found = set()
    folders: dict[str, str] = {}
    for source in sources:
        if not source.is_dir():
            raise InputError(f"{source}: is not a folder; give a folder of images or of class folders.")
        name_of_source = source.resolve().name
        for path in files_below(source):
            below = path.relative_to(source)
            top = below.parts[0] if len(below.parts) > 1 else name_of_source
            name_of_class = class_name_of(top)
            if folders.setdefault(name_of_class, top) != top:
                raise InputError(
                    f"{source}: the folders '{folders[name_of_class]}' and '{top}' would both be the class "
                    f"'{name_of_class}'; rename one."
                )
            found.add((name_of_class, str(path), storable(f"{name_of_source}/{below}")))
    return sorted(found)


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Everything below a folder that is no folder, sorted. Links are followed, but not in circles.

    Args:
        above: the real folders that were passed on the way to this one.

    Raises:
        InputError: a folder cannot be listed (to leave it out would make another dataset).
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_symlink(), _is_folder(entry)) for entry in entries)
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); mend its rights, or take it out.") from None
    passed = (*above, folder.resolve())
    for name, is_link, is_folder in found:
        path = folder / name
        if not is_folder:
            yield path
        elif not (is_link and any(real.is_relative_to(path.resolve()) for real in passed)):
            yield from files_below(path, passed)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry) if entry.is_symlink() else entry.is_dir()  # which raises where links go in circles


def class_name_of(folder: str) -> str:
    """A folder's name as a class name: letters of any script, digits, `-` and `_`, at most 40 bytes of UTF-8."""
    kept = re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFC", folder))
    return kept.encode("utf-8", "replace")[:40].decode("utf-8", "ignore") or "_"


def storable(name: str) -> str:
    """A name that the sidecar can hold: bytes that are no UTF-8 (Python's lone surrogates) become `\\udcXX`."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def judge(file: tuple[str, str, str], smallest_px: int) -> SourceImage | Skipped:
    """Reads a file, hashes it and looks at its header; raises as `content_of`."""
    class_name, path, source = file
    content = content_of(path)
    if isinstance(content, Skipped):
        return content
    try:
        header = images.read_header(content, path)
    except DataError as error:
        return Skipped(path, _reason(error, path))
    if min(header.height, header.width) < smallest_px:
        size = f"{header.width} x {header.height} px"
        return Skipped(path, f"{size} is smaller than {smallest_px} px")
    return SourceImage(path, class_name, source, digest_of(content), header.height, header.width, header.grey)


def content_of(path: str) -> bytes | Skipped:
    """A file's content, or why the file is skipped.

    Raises:
        UnreachableError: the disk fails (to leave out the file for that would make another dataset).
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would wait for somebody who writes to it
            return Skipped(path, "is no regular file")
        return Path(path).read_bytes()
    except OSError as error:
        if error.errno in BROKEN:
            raise UnreachableError(
                f"{path}: cannot be read ({error.strerror}); try again once the disk answers, or take the file out."
            ) from None
        return Skipped(path, f"cannot be read ({error.strerror})")


def digest_of(content: bytes) -> str:
    """What tells an image's content from another's."""
    return hashlib.sha256(content).hexdigest()[:32]


def try_decoding(image: SourceImage) -> Skipped | None:
    """None if the image decodes."""
    decoded = decode(image)
    return decoded if isinstance(decoded, Skipped) else None


def decode(image: SourceImage) -> np.ndarray | Skipped:
    """The image as uint8, H x W x 3, or why it is skipped.

    Raises:
        DataError: the disk fails (UnreachableError), or the file was changed since it was surveyed.
    """
    content = content_of(image.path)
    if isinstance(content, Skipped):
        return content
    if digest_of(content) != image.digest:
        raise DataError(f"{image.path}: was changed while the images were packed; pack them again.")
    try:
        return images.decode(content, image.path)
    except DataError as error:
        return Skipped(image.path, _reason(error, image.path))


def without_duplicates(judged: Iterable[SourceImage | Skipped]) -> tuple[list[SourceImage], list[Skipped]]:
    """Each content once per class: the first by path stays, the others are listed."""
    kept: dict[tuple[str, str], SourceImage] = {}
    skipped: list[Skipped] = []
    for item in judged:
        if isinstance(item, Skipped):
            skipped.append(item)
        elif (item.class_name, item.digest) in kept:
            skipped.append(Skipped(item.path, f"same content as {kept[item.class_name, item.digest].path}"))
        else:
            kept[item.class_name, item.digest] = item
    return list(kept.values()), skipped


def with_splits(found: list[SourceImage], val: float | int, test: float | int, seed: int) -> list[SourceImage]:
    """The images with their splits, ordered by split and then by content, so that every shard mixes the classes."""
    names = assign_splits([(image.class_name, image.digest) for image in found], val, test, seed)
    split_images = [replace(image, split=name) for image, name in zip(found, names)]
    return sorted(split_images, key=lambda image: (SPLITS.index(image.split), image.digest, image.class_name))


def _reason(error: DataError, path: str) -> str:
    return str(error).removeprefix(f"{path}: ")
