"""What would fail later, found before anything is started; every reason at once, each in one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from evaluation.config import EvaluateConfig
from harness.config import PhaseConfig, RunConfig, pretrained_networks
from harness.errors import DataError, InputError
from harness.weights import find
from slurm.preflight import cluster_reasons
from slurm.profile import ClusterProfile
from sweeps import networks
from sweeps.layout import SweepFolder, read_rows
from sweeps.plan import Plan

_BYTES_A_GB = 1 << 30
_BYTES_A_NUMBER = 4


def preflight(plan: Plan, folder: SweepFolder, profile: ClusterProfile) -> list[str]:
    """Every reason why what the plan has yet to train cannot run on this cluster; empty where there is none."""
    plan = replace(plan, configs=_unfinished(plan, folder))
    configs = plan.configs.values()
    reasons = [*plan.missing.values(), *_sources(plan), *_weights(configs), *_batches(plan, profile)]
    reasons += networks.misfits(configs, plan.missing)
    need_gb = 0.0 if reasons else estimated_gb(plan)
    save_s = measured_save_s(plan, folder)
    reads = list(paths_to_read(plan))
    jobs = len(plan.configs)
    reasons += cluster_reasons(profile, folder.path, num_jobs=jobs, save_s=save_s, need_gb=need_gb, reads=reads)
    return list(dict.fromkeys(reasons))


def _unfinished(plan: Plan, folder: SweepFolder) -> dict[str, RunConfig]:
    """The configurations of the phases that have no result yet: those that have may not even fit this cluster."""
    results = {key: folder.runs.phase(key) / "generator.safetensors" for key in plan.configs}
    return {key: config for key, config in plan.configs.items() if not results[key].exists()}


def evaluation_reasons(evaluate: EvaluateConfig, plan: Plan) -> list[str]:
    """What the evaluation would refuse after the last training: its dataset, a class of it, a published table.

    A measure whose network is missing is no reason: its column says so.
    """
    from evaluation.report.published import load_published
    from evaluation.scores.images import DatasetImages, conditions_of

    reasons = []
    path = evaluate.dataset or str(plan.data)
    try:
        if path not in plan.missing:
            conditions_of(evaluate, DatasetImages(path))
    except InputError as error:
        if evaluate.dataset is not None:
            reasons.append(f"the evaluation: {error} Or evaluate.dataset=null takes the training data.")
        elif not isinstance(error, DataError):  # damaged training data is a reason of the trainings
            reasons.append(f"the evaluation: {error}")
    try:
        if evaluate.report.reference is not None:
            load_published(evaluate.report.reference)
    except InputError as error:
        reasons.append(f"the evaluation: {error}")
    return reasons


def paths_to_read(plan: Plan) -> Iterator[Path]:
    """Files of this file system that the plan's jobs will read, each once: data, weights, starting points."""
    found: dict[Path, None] = {}
    for config in plan.configs.values():
        sources = [Path(s.path) for s in config.sources(len(config.phases) - 1) if "://" not in s.path]
        starts = [Path(path) for path in (config.init_from, config.init_discriminator_from) if path is not None]
        found |= dict.fromkeys(path for path in [*sources, *starts] if path.exists())
        for name in pretrained_networks(config, _last_phase(config)):
            with contextlib.suppress(InputError):  # _weights tells
                found[find(name)] = None
    for path in found:
        yield from _files_of(path)


def _files_of(path: Path) -> Iterator[Path]:
    """A file, or of a dataset its sidecar and one of its shards: a folder's name says little about what is in it."""
    shards = sorted(path.glob("*.tar"))[:1] if path.is_dir() else []
    known = [path / name for name in ("dataset.json", "index.parquet") if (path / name).exists()]
    yield from [*known, *shards] or [path]


def _last_phase(config: RunConfig) -> PhaseConfig:
    """The phase that a phase's configuration is for."""
    return config.phases[-1]


def _sources(plan: Plan) -> Iterator[str]:
    """Sources without a sample, samples smaller than a patch, images that cannot be validated on."""
    from harness.train.fit import check_sources

    asked: set[object] = set()
    unfit: set[str] = set()
    for config in plan.configs.values():
        sources = config.sources(len(config.phases) - 1)
        paths = {source.path for source in sources}
        wanted = (sources, config.data.patch_px, config.scale, config.validation.max_images)
        if wanted in asked or paths & (unfit | plan.missing.keys()):
            continue
        asked.add(wanted)
        try:
            check_sources(config, sources)
        except InputError as error:
            yield str(error)
            if isinstance(error, DataError):  # other parts of the same data would be told the same
                unfit |= paths


def _weights(configs: Iterable[RunConfig]) -> Iterator[str]:
    """Pretrained networks that a loss or a discriminator needs and that are nowhere."""
    needed = dict.fromkeys(name for config in configs for name in pretrained_networks(config, _last_phase(config)))
    for name in needed:
        try:
            find(name)
        except InputError as error:
            yield str(error)


def _batches(plan: Plan, profile: ClusterProfile) -> Iterator[str]:
    """Batches that the ranks cannot share, each size once."""
    ranks = profile.world_size
    unfit: dict[tuple[str, int, int], list[str]] = {}
    for key, config in plan.configs.items():
        phase = _last_phase(config)
        if phase.batch_size % (ranks * phase.accumulate):
            unfit.setdefault((phase.name, phase.batch_size, phase.accumulate), []).append(key)
    for (name, batch_size, accumulate), keys in unfit.items():
        parts = f" in {accumulate} parts each" if accumulate > 1 else ""
        which = keys[0] if len(keys) == 1 else f"{len(keys):,} of them"
        yield (
            f"phase '{name}' ({which}): batch_size {batch_size} cannot be shared by {ranks} ranks{parts};"
            f" make it a multiple of {ranks * accumulate}, or change the cluster profile '{profile.name}'."
        )


def room_to_come_gb(plan: Plan, folder: SweepFolder) -> float:
    """`estimated_gb` of what has yet to be trained."""
    return estimated_gb(replace(plan, configs=_unfinished(plan, folder)))


def estimated_gb(plan: Plan) -> float:
    """Space that the phases need at the most, in GiB: their checkpoints, one being written, and the result."""
    configs = plan.configs.values()
    total = 0
    for config, (generator, discriminator) in zip(configs, networks.sizes(configs)):
        # weights, Adam's two moments, and for the generator its average
        checkpoint = _BYTES_A_NUMBER * (4 * generator + 3 * discriminator)
        total += checkpoint * (config.checkpoint.keep + 1) + _BYTES_A_NUMBER * generator
    return total / _BYTES_A_GB


def measured_save_s(plan: Plan, folder: SweepFolder) -> float | None:
    """The longest time from a stop signal to the end that any of these phases has taken, or that a save has."""
    longest: float | None = None
    for key in plan.phases:
        received: float | None = None
        for row in read_rows(folder.runs.phase(key) / "events.jsonl"):
            if row.get("event") == "signal":
                received = row.get("received_at")
            elif row.get("event") == "stop" and received is not None:
                longest = max(longest or 0.0, float(row["time"]) - received)
            elif row.get("event") == "checkpoint":
                longest = max(longest or 0.0, float(row.get("save_s") or 0.0))
    return longest
