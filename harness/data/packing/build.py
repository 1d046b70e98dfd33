"""Planned shards to a dataset: workers write groups of images, finished groups are joined, the sidecar comes last."""

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

from harness.data import sidecar
from harness.data.packing import survey
from harness.data.packing.layout import Group, Options
from harness.data.packing.survey import Skipped, SourceImage
from harness.data.packing.write_group import is_written, write_group
from harness.data.shards import Dataset
from harness.data.sidecar import Sample
from harness.data.store import LocalStore
from harness.data.tar import END_OF_ARCHIVE
from harness.data.workers import Run
from harness.errors import DataError, InputError
from harness.files import write_text, written_to

Progress = Callable[[int, int], None]

BUILDING = ".building"
"""The folder in which a pack that is not finished lies."""


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


class Builder:
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
        self.building = out / BUILDING
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
        content = LocalStore(self.out).read(sidecar.DESCRIPTION_NAME)
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
        except (OSError, ValueError, KeyError):
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
            remove_if_new(self.out, existed=bool(list(self.out.iterdir())))
            raise DataError(nothing_usable([self.out], skipped, self.options.tile_px))
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


def remove_if_new(out: Path, existed: bool) -> None:
    """Removes an empty output folder, unless it was there before."""
    if not existed and out.exists() and not any(out.iterdir()):
        out.rmdir()


def nothing_usable(sources: Sequence[Path], skipped: list[Skipped], tile_px: int) -> str:
    """The sentence for sources of which no image can be packed."""
    where = ", ".join(map(str, sources))
    if not skipped:
        return f"{where}: holds no files; give a folder of images or of class folders."
    first = skipped[0]
    return (
        f"{where}: none of the {len(skipped)} files can be packed (the first: {first.path}: {first.reason}); "
        f"give images of at least {tile_px or survey.SMALLEST_PX} px, or a smaller --tile."
    )
