"""Which jobs go into one sbatch call: arrays, and what each waits for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slurm.job import Job, check_jobs


@dataclass(frozen=True)
class Batch:
    """The jobs of one sbatch call: an array by its places, or a single job at place 0."""

    jobs: dict[int, Job]
    after: tuple[str, ...] = ()
    """Every place waits for all of these jobs."""
    aligned_with: int | None = None
    """Each place waits for the same place of this batch (SLURM's aftercorr)."""
    after_failure: bool = False
    """Whether those it waits for need only have ended (SLURM's afterany)."""

    @property
    def is_array(self) -> bool:
        return len(self.jobs) > 1 or self.aligned_with is not None


def plan_batches(jobs: Sequence[Job], max_array_size: int, submitted: Mapping[str, str] | None = None) -> list[Batch]:
    """Packs jobs of one shape into as few sbatch calls as their order allows; a batch comes after what it waits for.

    Jobs that wait for the same ones share an array. Where most jobs have a parent of their own, the array is aligned
    with the parents' array instead, place by place.

    Args:
        max_array_size: SLURM's MaxArraySize; places go from 0 to one less.
        submitted: jobs that are in the queue already, and may be waited for.

    Raises:
        ClusterError: two jobs share a name, or one waits for something unknown.
    """
    check_jobs(jobs, list(submitted or ()))
    batches: list[Batch] = []
    home: dict[str, tuple[int, int]] = {}
    for level in _levels(jobs):
        for batch in _pack_level(level, home, max_array_size):
            home.update({job.name: (len(batches), place) for place, job in batch.jobs.items()})
            batches.append(batch)
    return batches


def most_at_once(jobs: Sequence[Job]) -> int:
    """How many of these jobs could run at the same time, if nothing but their order held them back.

    Exact where each waits for one other at most; jobs that wait for several count as if they ran after all the rest.
    """
    names = {job.name for job in jobs}
    width: dict[str, int] = {}
    gathering = 0
    for level in reversed(_levels(jobs)):
        parents = {job.name: [name for name in set(job.after) if name in names] for job in level}
        gathering = max(gathering, sum(len(found) > 1 for found in parents.values()))
        for name, found in parents.items():
            own = max(1, width.pop(name, 0))
            if len(found) < 2:
                parent = found[0] if found else ""
                width[parent] = width.get(parent, 0) + own
    return max(width.get("", 0), gathering)


def _levels(jobs: Sequence[Job]) -> list[list[Job]]:
    depth: dict[str, int] = {}
    waiting = list(jobs)
    names = {job.name for job in jobs}
    while waiting:
        later = []
        for job in waiting:
            parents = [name for name in job.after if name in names]
            if all(name in depth for name in parents):
                depth[job.name] = 1 + max((depth[name] for name in parents), default=-1)
            else:
                later.append(job)
        waiting = later
    levels: list[list[Job]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for job in jobs:
        levels[depth[job.name]].append(job)
    return levels


def _pack_level(jobs: list[Job], home: dict[str, tuple[int, int]], max_array_size: int) -> list[Batch]:
    aligned: list[Batch] = []
    rest: dict[tuple[tuple[str, ...], bool], list[Job]] = {}
    only_children: dict[int, dict[str, list[Job]]] = {}
    for job in jobs:
        if len(job.after) == 1 and job.after[0] in home and not job.after_failure:
            batch, _ = home[job.after[0]]
            only_children.setdefault(batch, {}).setdefault(job.after[0], []).append(job)
        else:
            rest.setdefault((tuple(sorted(set(job.after))), job.after_failure), []).append(job)
    for batch, families in only_children.items():
        if max(len(family) for family in families.values()) < len(families):
            aligned += _align(batch, families, home)
        else:
            rest.update({((parent,), False): family for parent, family in families.items()})
    return aligned + [
        Batch(dict(enumerate(group[start : start + max_array_size])), after, after_failure=after_failure)
        for (after, after_failure), group in rest.items()
        for start in range(0, len(group), max_array_size)
    ]


def _align(batch: int, families: dict[str, list[Job]], home: dict[str, tuple[int, int]]) -> list[Batch]:
    """The first child of every parent in one array, the second ones in the next, each at its parent's place."""
    rounds = max(len(family) for family in families.values())
    return [
        Batch({home[parent][1]: family[n] for parent, family in families.items() if n < len(family)}, (), batch)
        for n in range(rounds)
    ]


def array_text(places: Sequence[int], max_parallel: int) -> str:
    """The value of sbatch's --array, for example `0-3,7%2`."""
    runs: list[list[int]] = []
    for place in sorted(places):
        if runs and place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    text = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"{text}%{min(len(places), max_parallel)}"


def dependency_text(
    batch: Batch,
    batches: Sequence[Batch],
    batch_ids: Mapping[int, str],
    ids: Mapping[str, str],
    one_by_one: bool = False,
) -> str:
    """The value of sbatch's --dependency, empty for none.

    Args:
        one_by_one: it also waits for the end of the last batch that has been submitted.
        batch_ids: SLURM's id of each batch that has been submitted.
        ids: SLURM's id of each job by its name, those submitted earlier included.
    """
    own = _own_dependency(batch, batches, batch_ids, ids)
    before = f"afterany:{batch_ids[max(batch_ids)]}" if one_by_one and batch_ids else ""
    return ",".join(part for part in (own, before) if part)


def _own_dependency(
    batch: Batch, batches: Sequence[Batch], batch_ids: Mapping[int, str], ids: Mapping[str, str]
) -> str:
    if batch.aligned_with is not None:
        return f"aftercorr:{batch_ids[batch.aligned_with]}"
    if not batch.after:
        return ""
    left = set(batch.after)
    words = []
    for number, batch_id in batch_ids.items():
        names = {job.name for job in batches[number].jobs.values()}
        if names <= left:  # the whole array by its own id: a thousand places would make a very long line
            words.append(batch_id)
            left -= names
    words += [ids[name] for name in batch.after if name in left]
    return ":".join(["afterany" if batch.after_failure else "afterok", *words])
