"""The jobs of a cluster that measure a sweep's scores between them, and waiting for them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.config import EvaluateConfig
from evaluation.model import Model
from evaluation.shares import CACHE_FOLDER, RUN_SHARE_TARGET, finished_mark, write_shares
from slurm.errors import ClusterError
from slurm.job import Job
from slurm.launch import submit
from slurm.profile import ClusterProfile
from sweeps.layout import SweepFolder, create_private
from sweeps.lock import alone
from sweeps.owner import Owner
from sweeps.queues import Queues, cancel_jobs
from sweeps.state import last_error_line, submitted_job

if TYPE_CHECKING:
    from evaluation.scores.collect import Remaining

_AFTER_TRAINING = "shares"
_NOW = "shares-now"
_ASK_EVERY_S = 2.0


def queue_name(sweep: str) -> str:
    """A name for the queue, which knows no other letters than ASCII's."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", sweep).strip("-") or "sweep"


def share_jobs(
    folder: SweepFolder,
    models: list[Model],
    config: EvaluateConfig,
    num_shares: int,
    label: str,
    after: tuple[str, ...] = (),
) -> list[Job]:
    """Writes the shares of an evaluation that waits for `after`; one share is none: the gathering job measures it."""
    if num_shares < 2:
        return []
    return _jobs(folder.evaluation / _AFTER_TRAINING, folder, models, config, num_shares, label, after)


def evaluation_jobs(folder: SweepFolder, queues: Queues) -> list[Owner]:
    """Every job in the queue that evaluates the sweep: the shares, then the one that gathers."""
    shares = [share for name in (_AFTER_TRAINING, _NOW) for share in _share_folders(folder.evaluation / name)]
    found = (submitted_job(place, queues) for place in (*shares, folder.evaluation))
    return [owner for owner in found if owner is not None]


def evaluation_error(folder: SweepFolder) -> str:
    """The last words of the gathering job, or of the first share that left any."""
    places = (folder.evaluation, *_share_folders(folder.evaluation / _AFTER_TRAINING))
    return next((line for line in map(last_error_line, places) if line), "")


def measure_on_cluster(
    folder: SweepFolder,
    models: list[Model],
    config: EvaluateConfig,
    profile: ClusterProfile,
    progress: Callable[[int, int], None],
    ask_every_s: float = _ASK_EVERY_S,
) -> None:
    """Submits an evaluation's shares and waits until all have left the queue; those of an earlier call are replaced.

    Raises:
        InputError: as the evaluation itself. ClusterError: sbatch refused, or a share left before its end.
    """
    from evaluation.scores.collect import Remaining

    remaining = Remaining(models, config, folder.report / CACHE_FOLDER)
    if not remaining.total:
        return
    place = folder.evaluation / _NOW
    queues = Queues(ask_every_s)
    earlier = _in_queue(place, queues)  # before the new ones leave their notes in the same folders
    num_shares = min(profile.max_parallel, len(models))
    label = queue_name(folder.name) + "-evaluate-now"
    jobs = _jobs(place, folder, models, config, num_shares, label, ())
    with alone(folder.runs.phases):
        submit(jobs, profile, folder.jobs, label=label)
    cancel_jobs(earlier)  # only now: had sbatch refused, nothing else would measure
    _wait(jobs, remaining, progress, queues, ask_every_s)


def _wait(
    jobs: list[Job],
    remaining: Remaining,
    progress: Callable[[int, int], None],
    queues: Queues,
    ask_every_s: float,
) -> None:
    while any(submitted_job(job.folder, queues) is not None for job in jobs):
        progress(remaining.total - remaining.count(), remaining.total)
        time.sleep(ask_every_s)
    progress(remaining.total - remaining.count(), remaining.total)
    lost = [job for job in jobs if not finished_mark(Path(job.argument)).exists()]
    if lost:
        said = last_error_line(lost[0].folder) or "it said nothing"
        raise ClusterError(
            f"{len(lost)} of {len(jobs)} jobs of the evaluation left before their end ({said}); "
            "run the same command again: it continues."
        )


def _jobs(
    place: Path,
    folder: SweepFolder,
    models: list[Model],
    config: EvaluateConfig,
    num_shares: int,
    label: str,
    after: tuple[str, ...],
) -> list[Job]:
    create_private(place)
    absolute = [Model(m.name, m.kind, m.path and str(Path(m.path).absolute()), m.axes, m.own_class) for m in models]
    files = write_shares(absolute, config, folder.report, num_shares, place.absolute())
    return [
        Job(f"{label}-{number}", file.parent, str(file), after, after_failure=True, target=RUN_SHARE_TARGET)
        for number, file in enumerate(files)
    ]


def _share_folders(place: Path) -> list[Path]:
    return sorted(place.glob("share_*")) if place.is_dir() else []


def _in_queue(place: Path, queues: Queues) -> list[Owner]:
    found = (submitted_job(share, queues) for share in _share_folders(place))
    return [owner for owner in found if owner is not None]
