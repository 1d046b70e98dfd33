"""What would fail later, found before anything is started; every reason at once, each in one sentence."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.config import RunConfig
from harness.errors import InputError
from slurm.profile import ClusterProfile
from sweeps.layout import SweepFolder
from sweeps.plan import Plan

_BYTES_A_GB = 1 << 30


def preflight(plan: Plan, folder: SweepFolder, profile: ClusterProfile) -> list[str]:
    """Every reason why the plan cannot run on this cluster; empty where there is none."""
    reasons = [*plan.missing.values()]
    reasons += _classes(plan)
    reasons += _batches(plan, profile)
    reasons += _run_folder(folder)
    return list(dict.fromkeys(reasons))


def _classes(plan: Plan) -> Iterator[str]:
    """Sources that would give no sample."""
    from harness.data.shards import Dataset

    asked = set()
    opened: dict[str, Dataset] = {}
    for config in plan.configs.values():
        for source in config.sources(len(config.phases) - 1):
            if source in asked or source.path in plan.missing:
                continue
            asked.add(source)
            try:
                dataset = opened.setdefault(source.path, Dataset.open(source.path))
                count = len(dataset.select(source.split, source.classes, source.fraction, source.fraction_seed))
            except InputError as error:
                yield str(error)
                continue
            if not count:
                which = f"classes {list(source.classes)}" if source.classes else f"split '{source.split}'"
                yield f"{source.path}: has no image in {which}; it has the classes {dataset.classes}."


def _batches(plan: Plan, profile: ClusterProfile) -> Iterator[str]:
    for key, phase in plan.phases.items():
        accumulate = plan.configs[key].phases[-1].accumulate
        shares = profile.world_size * accumulate
        if phase.batch_size % shares:
            micro = f" in {accumulate} parts each" if accumulate > 1 else ""
            yield (
                f"phase '{phase.name}': batch_size {phase.batch_size} cannot be shared by {profile.world_size} "
                f"ranks{micro}; make it a multiple of {shares}, or change the cluster profile '{profile.name}'."
            )


def _run_folder(folder: SweepFolder) -> Iterator[str]:
    place = folder.path.absolute()
    existing = next(parent for parent in [place, *place.parents] if parent.exists())
    if not existing.is_dir():
        yield f"{existing}: is a file where a folder is needed; give another --runs folder."
        return
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        yield f"{existing}: cannot be written ({error.strerror}); give another --runs folder."


def free_gb(place: Path) -> float:
    """Free space where `place` is or would be, in GiB."""
    place = place.absolute()
    existing = next(parent for parent in [place, *place.parents] if parent.exists())
    return shutil.disk_usage(existing).free / _BYTES_A_GB


def total_files(config: RunConfig) -> int:
    return config.checkpoint.keep + 1


__all__ = ["os", "preflight"]
