"""Images to shards: tiles for training, whole images for val and test, in tar files that stock `webdataset` reads.

The work is cut into groups of some images. Workers write groups, the parent joins finished groups into shards. What a
group or a shard holds depends on the images and the options alone, so the bytes do not depend on the number of
workers, and a killed pack goes on after its finished groups and shards.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.alone import alone_in
from harness.data import sidecar, survey
from harness.data.layout import Codec, Group, Options, plan_shards
from harness.data.shards import Dataset
from harness.data.sidecar import Sample
from harness.data.split import count_or_share
from harness.data.survey import Skipped, SourceImage
from harness.data.tar import END_OF_ARCHIVE
from harness.data.workers import Run, num_workers, pool
from harness.data.write_group import is_written, write_group
from harness.errors import DataError, InputError
from harness.files import write_text, written_to

Progress = Callable[[int, int], None]

_BUILDING = ".building"
_JUDGED_AT_ONCE = 32
"""Files that a worker is given to read and hash; images to decode are given one by one."""


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
        val, test: images a class for validation and test: a count or a share (below 1).
        progress: called with (images done, images in all).

    Raises:
        InputError, DataError: wrong options, nothing to pack, or an `out` that holds something else.
        TrainingError: a worker was killed.
    """
    options = Options(codec, tile_px, shard_mb, count_or_share(val, "--val"), count_or_share(test, "--test"), seed)
    workers = num_workers(workers)
    files = survey.find_files(sources)
    sidecar.check_number_of_classes({class_name for class_name, _, _ in files})
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
        shards = plan_shards(found, options)
        with alone_in(out, lock=None):
            return _Builder(out, shards, options, found, skipped).run(run, progress)


def _survey(files: list[tuple[str, str, str]], options: Options, run: Run) -> tuple[list[SourceImage], list[Skipped]]:
    """Usable images with splits. Held-out ones are decoded here, so that a damaged one leaves no gap in its split."""
    smallest_px = options.tile_px or survey.SMALLEST_PX
    judged = sorted(
        run(partial(_judge, smallest_px=smallest_px), files, chunk=_JUDGED_AT_ONCE), key=lambda pair: pair[0]
    )
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


def _judge(file: tuple[str, str, str], smallest_px: int) -> tuple[tuple[str, str, str], SourceImage | Skipped]:
    return file, survey.judge(file, smallest_px)


def _try_decoding(image: SourceImage) -> tuple[str, Skipped | None]:
    return image.path, survey.try_decoding(image)


class _Builder:
    """Writes the planned shards into `out`, going on after whatever an earlier, killed pack finished."""

    def __init__(
        self,
        out: Path,
        shards: list[tuple[str, list[Group]]],
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
        todo = [(name, groups) for name, groups in self.shards if not self._is_joined(name)]
        waiting = {group.name: (name, groups) for name, groups in todo for group in groups}
        jobs = [g for _, groups in todo for g in groups if not is_written(self.building, g)]
        num_done = len(self.found) - sum(len(g.images) for g in jobs)
        if progress:
            progress(num_done, len(self.found))
        ready = set(waiting) - {group.name for group in jobs}
        for name, groups in todo:
            self._join_if_ready(name, groups, ready)
        for group_name, count in run(partial(write_group, self.building, self.options), jobs):
            ready.add(group_name)
            num_done += count
            self._join_if_ready(*waiting[group_name], ready)
            if progress:
                progress(num_done, len(self.found))
        return self._finish()

    def _finished_before(self) -> PackSummary | None:
        """The summary of an equal pack that is complete already; one of which something was lost is begun anew.

        Raises:
            InputError: another dataset lies there.
        """
        if not (self.out / sidecar.DESCRIPTION_NAME).exists():
            return None
        content = (self.out / sidecar.DESCRIPTION_NAME).read_bytes()
        description: sidecar.Description | None = None
        with contextlib.suppress(DataError):  # of another version, say
            description = sidecar.read_description(content, str(self.out / sidecar.DESCRIPTION_NAME))
        if description is None or description.options.get("plan") != self.plan_hash:
            raise InputError(f"{self.out}: holds another dataset; give another --out, or remove that folder first.")
        try:
            Dataset.open(self.out)
        except DataError:
            (self.out / sidecar.DESCRIPTION_NAME).unlink()
            return None
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
        write_text(plan_file, self.plan_hash)

    def _record_of(self, shard: str) -> Path:
        return self.building / f"{shard}.json"

    def _is_joined(self, shard: str) -> bool:
        """Whether an earlier pack joined the shard; it may have moved it out already."""
        try:
            size = json.loads(self._record_of(shard).read_text())["bytes"]
        except (OSError, ValueError):
            return False
        places = (self.building / shard, self.out / shard)
        return any(path.is_file() and path.stat().st_size == size for path in places)

    def _join_if_ready(self, shard: str, groups: list[Group], ready: set[str]) -> None:
        """Joins the groups of a shard once all are written; its record appears last, with the shard on the disk."""
        if not all(group.name in ready for group in groups):
            return
        samples: list[dict[str, Any]] = []
        bad: list[dict[str, str]] = []
        part = self.building / f"{shard}.part"
        with written_to(part) as file:
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
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.building / shard)
        write_text(self._record_of(shard), json.dumps({"samples": samples, "skipped": bad, "bytes": size}))
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
        f"give images of at least {tile_px or survey.SMALLEST_PX} px, or a smaller --tile."
    )
