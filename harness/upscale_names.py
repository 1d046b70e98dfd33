"""Which image files `harness upscale` reads, and under which names it writes what they become."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.data.packing.survey import files_below
from harness.errors import InputError
from harness.images import SUFFIXES

Format = Literal["png", "jpg", "webp", "tif", "same"]


@dataclass(frozen=True)
class Job:
    """An input file and the file that it becomes (with several samples: the stem of their names)."""

    source: Path
    target: Path


def plan_jobs(inputs: list[str], out: Path, format: Format) -> list[Job]:
    """Which files become which.

    Raises:
        InputError: an input does not exist, holds no image or cannot be listed, or an output would overwrite an input.
    """
    found = [(path, relative) for text in inputs for path, relative in _expand(text)]
    sources = dict(found)  # each file once
    one_file = len(sources) == 1 and out.suffix.lower() in SUFFIXES and not out.is_dir()
    if one_file:
        jobs = [Job(next(iter(sources)), out)]
    else:
        if out.is_file():
            raise InputError(f"{out}: is a file, but {len(sources)} images are to be written; give a folder.")
        jobs = [Job(path, out / name) for path, name in _target_names(sources, format)]
    overwritten = {job.source.resolve() for job in jobs} & {job.target.resolve() for job in jobs}
    if overwritten:
        raise InputError(f"{overwritten.pop()}: would be overwritten by an output; write to another folder.")
    return jobs


def _expand(text: str) -> Iterator[tuple[Path, Path]]:
    """The files that an argument stands for, each with its path below the folder that was given."""
    path = Path(text)
    if path.is_dir():
        files = [p for p in files_below(path) if p.suffix.lower() in SUFFIXES and p.is_file()]
        found = [(file, file.relative_to(path)) for file in files]
    elif path.exists():
        found = [(path, Path(path.name))]
    else:
        matches = sorted(Path(match) for match in glob.glob(text, recursive=True))
        found = [(match, Path(match.name)) for match in matches if match.is_file()]
    if not found:
        raise InputError(f"{text}: no image there; give a file, a folder with images or a quoted pattern.")
    yield from found


def _target_names(sources: dict[Path, Path], format: Format) -> Iterator[tuple[Path, Path]]:
    """Each source's name below the output folder; of files that would share one, those that change their format keep
    the old suffix in it, or get a number."""
    plain = {source: relative.with_suffix(_suffix(relative, format)) for source, relative in sources.items()}
    shared = {name for name, count in Counter(plain.values()).items() if count > 1}
    taken: set[Path] = set()
    for source, relative in sources.items():
        suffix, name = _suffix(relative, format), plain[source]
        if name in shared and name != relative:
            name = relative.with_name(f"{relative.name}{suffix}")
        number = 2
        while name in taken:
            name = relative.with_name(f"{relative.stem}_{number}{suffix}")
            number += 1
        taken.add(name)
        yield source, name


def _suffix(relative: Path, format: Format) -> str:
    return relative.suffix if format == "same" else f".{format}"
