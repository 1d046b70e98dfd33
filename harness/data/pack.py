"""Images to shards: tiles for training, whole images for val and test, in tar files that stock `webdataset` reads.

The work is cut into groups of some images. Workers write groups, the parent joins finished groups into shards. What a
group or a shard holds depends on the images and the options alone, so the bytes do not depend on the number of
workers, and a killed pack goes on after its finished groups and shards.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from harness.data import images, sidecar, survey
from harness.data.sidecar import Sample
from harness.data.survey import Skipped, SourceImage
from harness.data.tar import END_OF_ARCHIVE, write_member
from harness.data.workers import Run, pool
from harness.errors import DataError, InputError

Codec = Literal["npy", "png"]
Progress = Callable[[int, int], None]
T = TypeVar("T")

_BUILDING = ".building"
_GROUP_BYTES = 16 << 20
_PNG_SHARE = 0.6
"""Guessed size of a PNG relative to its pixels; it only steers the size of shards."""


@dataclass(frozen=True)
class Options:
    """What decides the bytes of a pack, besides the images."""

    codec: Codec = "npy"
    tile_px: int = 192
    shard_mb: int = 256
    val: float | int = 0.05
    test: float | int = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.codec not in ("npy", "png"):
            raise InputError(f"codec '{self.codec}' is unknown; choose npy (raw, fastest) or png (smaller).")
        if self.tile_px and self.tile_px < survey.SMALLEST_PX:
            raise InputError(f"--tile {self.tile_px} is too small; give at least {survey.SMALLEST_PX}, or 0 for none.")
        if self.shard_mb < 1:
            raise InputError(f"--shard-mb {self.shard_mb} is too small; give at least 1.")


@dataclass(frozen=True)
class PackSummary:
    """What a pack wrote."""

    path: Path
    fingerprint: str
    num_images: int
    num_samples: int
    num_shards: int
    num_bytes: int
    counts: dict[str, dict[str, dict[str, int]]]
    skipped: list[Skipped]


@dataclass(frozen=True)
class _Group:
    """A stretch of a shard, written by one worker."""

    name: str
    images: tuple[SourceImage, ...]


def pack(
    sources: Sequence[Path],
    out: Path,
    *,
    codec: Codec = "npy",
    tile_px: int = 192,
    workers: int | None = None,
    shard_mb: int = 256,
    val: float | int = 0.05,
    test: float | int = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
) -> PackSummary:
    """Packs folders of images into `out`.

    Args:
        sources: folders of images, or of class folders.
        codec: `npy` (raw tiles, fastest) or `png`.
        tile_px: edge of the training tiles, evenly spaced so that they cover the image; 0 keeps whole images.
        workers: processes; None takes all cores.
        val, test: images a class for validation and test: a count (int) or a share (float below 1).
        progress: called with (images done, images in all).

    Raises:
        InputError, DataError: wrong options, nothing to pack, or an `out` that holds something else.
    """
    options = Options(codec, tile_px, shard_mb, val, test, seed)
    workers = workers or len(os.sched_getaffinity(0))
    files = survey.find_files(sources)
    existed = out.exists()
    _check_writable(out)
    with pool(workers, len(files)) as run:
        try:
            found, skipped = _survey(files, options, run)
        except InputError:
            _remove_if_new(out, existed)
            raise
        if not found:
            _remove_if_new(out, existed)
            raise DataError(_nothing(sources, skipped, tile_px))
        shards = _plan(found, options)
        return _Builder(out, shards, options, found, skipped).run(run, progress)


def _survey(files: list[tuple[str, str, str]], options: Options, run: Run) -> tuple[list[SourceImage], list[Skipped]]:
    """Usable images with splits. Held-out ones are decoded here, so that a damaged one leaves no gap in its split."""
    smallest_px = options.tile_px or survey.SMALLEST_PX
    judged = sorted(run(partial(_judge, smallest_px=smallest_px), files), key=lambda pair: pair[0])
    found, skipped = survey.without_duplicates(item for _, item in judged)
    sound: set[str] = set()
    while True:
        assigned = survey.with_splits(found, options.val, options.test, options.seed)
        unsure = [image for image in assigned if image.split != "train" and image.path not in sound]
        results = list(run(_try_decoding, unsure))
        bad = {item.path: item for item in (result for _, result in results) if item is not None}
        if not bad:
            return assigned, sorted(skipped, key=lambda item: item.path)
        sound |= {image.path for image in unsure} - set(bad)
        skipped += bad.values()
        found = [image for image in found if image.path not in bad]


def _judge(file: tuple[str, str, str], smallest_px: int) -> tuple[str, SourceImage | Skipped]:
    return file[1], survey.judge(file, smallest_px)


def _try_decoding(image: SourceImage) -> tuple[str, Skipped | None]:
    return image.path, survey.try_decoding(image)


def _plan(found: list[SourceImage], options: Options) -> list[tuple[str, list[_Group]]]:
    """(shard file, its groups), in the order of the images; a shard holds one split."""
    shards: list[tuple[str, list[_Group]]] = []
    for split in ("train", "val", "test"):
        chosen = [image for image in found if image.split == split]
        shard_bytes = options.shard_mb << 20
        pieces = _runs(chosen, min(_GROUP_BYTES, shard_bytes), partial(_guess_bytes, options))
        groups = [_Group("", tuple(piece)) for piece in pieces]
        parts = _runs(groups, shard_bytes, lambda g: sum(_guess_bytes(options, i) for i in g.images))
        for number, part in enumerate(parts):
            name = f"{split}-{number:06d}"
            named = [replace(group, name=f"{name}-{place:04d}") for place, group in enumerate(part)]
            shards.append((f"{name}.tar", named))
    return shards


def _runs(items: Sequence[T], bound: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    run: list[T] = []
    total = 0
    for item in items:
        if run and total + size(item) > bound:
            yield run
            run, total = [], 0
        run.append(item)
        total += size(item)
    if run:
        yield run


def _guess_bytes(options: Options, image: SourceImage) -> int:
    share = 1.0 if options.codec == "npy" else _PNG_SHARE
    places = tile_places(image.height, image.width, options.tile_px if image.split == "train" else 0)
    return sum(int(height * width * 3 * share) + 2560 for _, _, height, width in places)


def tile_places(height: int, width: int, tile_px: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of the tiles of an image: as few as cover it, evenly spaced; 0 is the whole image."""
    if tile_px == 0:
        return [(0, 0, height, width)]
    return [(top, left, tile_px, tile_px) for top in _starts(height, tile_px) for left in _starts(width, tile_px)]


def _starts(length: int, tile_px: int) -> list[int]:
    count = math.ceil(length / tile_px)
    return [0] if count == 1 else [place * (length - tile_px) // (count - 1) for place in range(count)]


class _Builder:
    """Writes the planned shards into `out`, going on after whatever an earlier, killed pack finished."""

    def __init__(
        self,
        out: Path,
        shards: list[tuple[str, list[_Group]]],
        options: Options,
        found: list[SourceImage],
        skipped: list[Skipped],
    ) -> None:
        self.out, self.shards, self.options, self.found, self.skipped = out, shards, options, found, skipped
        self.building = out / _BUILDING
        plan = [[name, [[g.name, [_identity(i) for i in g.images]] for g in groups]] for name, groups in shards]
        text = json.dumps([asdict(options), plan], sort_keys=True)
        self.plan_hash = hashlib.sha256(text.encode()).hexdigest()

    def run(self, run: Run, progress: Progress | None) -> PackSummary:
        done = self._finished_before()
        if done is not None:
            return done
        self._start()
        todo = [(name, groups) for name, groups in self.shards if not self._record_of(name).exists()]
        waiting = {group.name: (name, groups) for name, groups in todo for group in groups}
        jobs = [g for _, groups in todo for g in groups if not (self.building / f"{g.name}.json").exists()]
        num_done = len(self.found) - sum(len(g.images) for g in jobs)
        if progress:
            progress(num_done, len(self.found))
        ready = set(waiting) - {group.name for group in jobs}
        for name, groups in todo:
            self._join_if_ready(name, groups, ready)
        for group_name, count in run(partial(_write_group, self.building, self.options), jobs):
            ready.add(group_name)
            num_done += count
            self._join_if_ready(*waiting[group_name], ready)
            if progress:
                progress(num_done, len(self.found))
        return self._finish()

    def _finished_before(self) -> PackSummary | None:
        """The summary of an equal pack that is complete already."""
        if not (self.out / sidecar.DESCRIPTION_NAME).exists():
            return None
        content = (self.out / sidecar.DESCRIPTION_NAME).read_bytes()
        description = sidecar.read_description(content, str(self.out / sidecar.DESCRIPTION_NAME))
        if description.options.get("plan") != self.plan_hash:
            raise InputError(f"{self.out}: holds another dataset; give another --out, or remove that folder first.")
        shutil.rmtree(self.building, ignore_errors=True)
        bad = [Skipped(**item) for item in description.options["skipped"]]
        return self._summary(description, bad)

    def _start(self) -> None:
        plan_file = self.building / "plan"
        if plan_file.exists() and plan_file.read_text() == self.plan_hash:
            return
        if self.building.exists():  # an unfinished pack of other images or options: its pieces are of no use
            shutil.rmtree(self.building)
        self.building.mkdir()
        plan_file.write_text(self.plan_hash)

    def _record_of(self, shard: str) -> Path:
        return self.building / f"{shard}.json"

    def _join_if_ready(self, shard: str, groups: list[_Group], ready: set[str]) -> None:
        """Joins the groups of a shard once all are written; its record appears last."""
        if self._record_of(shard).exists() or not all(group.name in ready for group in groups):
            return
        samples: list[dict[str, Any]] = []
        bad: list[dict[str, str]] = []
        part = self.building / f"{shard}.part"
        with part.open("wb") as file:
            for group in groups:
                record = json.loads((self.building / f"{group.name}.json").read_text())
                start = file.tell()
                samples += [
                    {**sample, "shard": shard, "offset": sample["offset"] + start} for sample in record["samples"]
                ]
                bad += record["skipped"]
                with (self.building / f"{group.name}.part").open("rb") as piece:
                    shutil.copyfileobj(piece, file, 4 << 20)
            file.write(END_OF_ARCHIVE)
            size = file.tell()
        os.replace(part, self.building / shard)
        _write_whole(self._record_of(shard), json.dumps({"samples": samples, "skipped": bad, "bytes": size}))
        for group in groups:
            (self.building / f"{group.name}.part").unlink()
            (self.building / f"{group.name}.json").unlink()

    def _finish(self) -> PackSummary:
        """Moves the shards out and writes the sidecar, `dataset.json` last: before it there is no dataset."""
        samples: list[Sample] = []
        shards: dict[str, int] = {}
        bad: list[Skipped] = []
        for name, _ in sorted(self.shards):
            record = json.loads(self._record_of(name).read_text())
            bad += [Skipped(**item) for item in record["skipped"]]
            if record["samples"]:
                samples += [Sample(**values) for values in record["samples"]]
                shards[name] = record["bytes"]
        skipped = sorted([*self.skipped, *bad], key=lambda item: item.path)
        if not any(sample.split == "train" for sample in samples):
            shutil.rmtree(self.building)
            _remove_if_new(self.out, existed=bool(list(self.out.iterdir())))
            raise DataError(_nothing([self.out], skipped, self.options.tile_px))
        for name in shards:
            if (self.building / name).exists():
                os.replace(self.building / name, self.out / name)
        options = {**asdict(self.options), "plan": self.plan_hash, "skipped": [asdict(item) for item in skipped]}
        codec, tile_px = self.options.codec, self.options.tile_px
        description = sidecar.write_sidecar(self.out, samples, shards, codec, tile_px, options)
        shutil.rmtree(self.building)
        return self._summary(description, skipped)

    def _summary(self, description: sidecar.Description, skipped: list[Skipped]) -> PackSummary:
        return PackSummary(
            path=self.out,
            fingerprint=description.fingerprint,
            num_images=sum(cell["images"] for row in description.counts.values() for cell in row.values()),
            num_samples=description.num_samples,
            num_shards=len(description.shards),
            num_bytes=sum(description.shards.values()),
            counts=description.counts,
            skipped=skipped,
        )


def _identity(image: SourceImage) -> dict[str, Any]:
    """What decides an image's samples: all but where its file lies."""
    return {name: value for name, value in asdict(image).items() if name != "path"}


def _write_group(building: Path, options: Options, group: _Group) -> tuple[str, int]:
    """Writes the tiles of some images as a piece of a tar, and the record of it last. Runs in a worker."""
    samples: list[dict[str, Any]] = []
    skipped: list[Skipped] = []
    part = building / f"{group.name}.part"
    with part.open("wb") as file:
        for image in group.images:
            bad = None
            try:
                pixels_HWC = images.decode(Path(image.path).read_bytes(), image.path)
            except DataError as error:
                bad = Skipped(image.path, str(error).removeprefix(f"{image.path}: "))
            except OSError as error:
                bad = Skipped(image.path, f"cannot be read ({error.strerror})")
            if bad is not None:
                skipped.append(bad)
                continue
            tile_px = options.tile_px if image.split == "train" else 0
            for place in tile_places(pixels_HWC.shape[0], pixels_HWC.shape[1], tile_px):
                samples.append(dict(vars(_write_sample(file, pixels_HWC, image, place, options.codec))))
    record = {"samples": samples, "skipped": [asdict(item) for item in skipped]}
    _write_whole(building / f"{group.name}.json", json.dumps(record))
    return group.name, len(group.images)


def _write_sample(
    file: Any, pixels_HWC: np.ndarray, image: SourceImage, place: tuple[int, int, int, int], codec: Codec
) -> Sample:
    top, left, height, width = place
    tile_HWC = np.ascontiguousarray(pixels_HWC[top : top + height, left : left + width])
    key = sample_key(image, top, left)
    header = b""
    if codec == "npy":
        header = npy_header(tile_HWC.shape)
        content = header + tile_HWC.tobytes()
    else:
        content = images.encode_png(tile_HWC)
    offset = write_member(file, f"{key}.{codec}", content)
    about = {
        "class": image.class_name,
        "source": image.source,
        "source_sha256": image.digest,
        "split": image.split,
        "top": top,
        "left": left,
        "height": height,
        "width": width,
        "grey": image.grey,
    }
    write_member(file, f"{key}.json", json.dumps(about, ensure_ascii=True).encode())
    return Sample(
        key=key,
        class_name=image.class_name,
        split=image.split,
        source=image.source,
        source_hash=int(image.digest[:16], 16),
        shard="",
        extension=codec,
        offset=offset,
        length=len(content),
        header=len(header),
        height=height,
        width=width,
        crc32=zlib.crc32(content),
        grey=image.grey,
    )


def sample_key(image: SourceImage, top: int, left: int) -> str:
    """`CLASS/STEM-CONTENT-TOPxLEFT`: unique, and without a dot, which ends a key in WebDataset."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(image.source).stem)[:40]
    return f"{image.class_name}/{stem}-{image.digest[:10]}-{top}x{left}"


def npy_header(shape: tuple[int, ...]) -> bytes:
    """The header of a uint8 .npy file of this shape."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".tmp")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _check_writable(out: Path) -> None:
    """Creates the output folder.

    Raises:
        InputError: it cannot be written, or holds files that are no dataset.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); give another --out.") from None
    names = {path.name for path in out.iterdir()}
    if names and _BUILDING not in names and sidecar.DESCRIPTION_NAME not in names:
        raise InputError(f"{out}: holds files that are no dataset; give a new or empty folder as --out.")


def _remove_if_new(out: Path, existed: bool) -> None:
    if not existed and out.exists() and not any(out.iterdir()):
        out.rmdir()


def _nothing(sources: Sequence[Path], skipped: list[Skipped], tile_px: int) -> str:
    where = ", ".join(map(str, sources))
    if not skipped:
        return f"{where}: holds no files; give a folder of images or of class folders."
    first = skipped[0]
    return (
        f"{where}: none of the {len(skipped)} files can be packed (the first: {first.path}: {first.reason}); "
        f"give images of at least {tile_px or survey.SMALLEST_PX} px."
    )
