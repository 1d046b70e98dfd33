"""Makes a plan real: writes what is missing, claims what nobody trains yet, and says what has left the file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import yaml

from harness.config import RunConfig
from harness.errors import InputError
from slurm.job import Job
from sweeps.config import SweepConfig, dump_sweep
from sweeps.layout import RunsFolder, SweepFolder, create_private, link_model, read_json, write_atomically
from sweeps.lock import Claim, claim
from sweeps.owner import JobAlive, Owner
from sweeps.paths import absolute_within, with_absolute_paths
from sweeps.plan import Plan, plan_json, read_plan
from sweeps.state import PhaseState, blocked, needed, phase_state, unless_ended

RUN_FILE = "run.yaml"
TRAIN_TARGET = "harness.train.job:main"
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class Changes:
    """How the runs of a sweep differ from those of its last plan, by name."""

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """The same name, other phases: it will be trained anew from the first phase that differs."""
    gone: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@dataclass
class Claims:
    """What one attempt to take the missing phases gave."""

    mine: dict[str, Claim] = field(default_factory=dict)
    others: dict[str, Owner] = field(default_factory=dict)
    """Phases that somebody else is training, or waits to."""


def compare(old: Plan | None, new: Plan) -> Changes:
    """What re-applying an edited sweep file would change."""
    before = {run.name: run.phases for run in old.runs} if old else {}
    after = {run.name: run.phases for run in new.runs}
    return Changes(
        new=tuple(name for name in after if name not in before),
        changed=tuple(name for name in after if name in before and after[name] != before[name]),
        gone=tuple(name for name in before if name not in after),
        kept=tuple(name for name in after if before.get(name) == after[name]),
    )


def last_plan(folder: SweepFolder) -> Plan | None:
    """The plan that the sweep's folder holds; None where there is none, or none that this version can read."""
    try:
        return read_plan(folder.plan)
    except InputError:  # `harness sweep` is what mends it
        return None


def left_runs(folder: SweepFolder, plan: Plan) -> dict[str, list[str]]:
    """Run -> its phases that earlier plans of a sweep had and `plan` has not: some may still be training."""
    noted = (read_json(folder.left) or {}).get("runs", {})
    before = last_plan(folder)
    found: dict[str, list[str]] = {}
    for name, keys in [*noted.items(), *((run.name, run.phases) for run in (before.runs if before else ()))]:
        left = [key for key in keys if key not in plan.phases]
        if left:
            found[name] = list(dict.fromkeys([*found.get(name, ()), *left]))
    return found


def store(sweep: SweepConfig, plan: Plan, folder: SweepFolder) -> None:
    """Writes the sweep, its plan, the run file of every phase, and the links with readable names.

    Run files of finished phases are left as they are; those of others may change in how the run is watched. All
    folders can be entered by their owner alone.
    """
    for place in (folder.runs.root, folder.runs.phases, folder.path, folder.models):
        create_private(place)
    for key, config in plan.configs.items():
        if not (folder.runs.phase(key) / "generator.safetensors").exists():
            _write_run_file(folder.runs, plan, key, config)
    write_atomically(folder.sweep, dump_sweep(with_absolute_paths(sweep)))
    # Before the plan that names them is replaced.
    write_atomically(folder.left, json.dumps({"runs": left_runs(folder, plan)}))
    write_atomically(folder.plan, plan_json(plan))
    _link_models(plan, folder)


def _link_models(plan: Plan, folder: SweepFolder) -> None:
    names = {run.name for run in plan.runs}
    for link in folder.models.iterdir():
        if link.is_symlink() and link.name not in names:
            link.unlink()
    for run in plan.runs:
        link_model(folder, run.name, run.phases[-1])


def _write_run_file(runs: RunsFolder, plan: Plan, key: str, config: RunConfig) -> None:
    phase = plan.phases[key]
    place = runs.phase(key)
    values = {
        "config": absolute_within(config.model_dump(mode="json")),
        "out": str(place.absolute()),
        "phase": phase.number,
        "parent": str(runs.phase(phase.parent).absolute()) if phase.parent else None,
    }
    text = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    create_private(place)
    path = place / RUN_FILE
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)


def pending(plan: Plan, states: dict[str, PhaseState], *, retry_failed: bool = False) -> list[str]:
    """Keys of the phases that have to be trained, parents before children.

    Finished ones are skipped, as are removed ones that nothing needs any more, and those that somebody has are left
    alone. Failed ones, and what depends on them, only come with `retry_failed`.
    """
    ahead = needed(plan, states)
    wanted = {"missing", "saved", "failed"} if retry_failed else {"missing", "saved"}
    out_of_reach = set() if retry_failed else blocked(plan, states)
    return [key for key in plan.phases if key in ahead and states[key].state in wanted and key not in out_of_reach]


def claim_phases(runs: RunsFolder, keys: Iterable[str], job_alive: JobAlive) -> Claims:
    """Claims each phase for this process, or finds out who is in the way.

    A phase that was finished between planning and claiming is given back at once.
    """
    claims = Claims()
    for key in keys:
        folder = runs.phase(key)
        result = claim(folder, job_alive=unless_ended(folder, job_alive))
        if isinstance(result, Owner):
            claims.others[key] = result
        elif phase_state(folder, job_alive).state == "done":
            result.release()
        else:
            claims.mine[key] = result
    return claims


def jobs_for(runs: RunsFolder, plan: Plan, keys: Iterable[str], finished: set[str]) -> list[Job]:
    """One job per phase; it waits for its parent unless that is finished."""
    return [
        Job(
            name=key,
            folder=runs.phase(key).absolute(),
            argument=str((runs.phase(key) / RUN_FILE).absolute()),
            after=tuple(parent for parent in [plan.phases[key].parent] if parent and parent not in finished),
            target=TRAIN_TARGET,
        )
        for key in keys
    ]


def ready(plan: Plan, keys: Iterable[str], states: dict[str, PhaseState], also: Iterable[str] = ()) -> list[str]:
    """Those of `keys` whose parents are finished, among `keys` themselves, or in `also`."""
    reachable = {key for key, state in states.items() if state.state == "done"} | set(also)
    kept = []
    for key in keys:
        parent = plan.phases[key].parent
        if parent is None or parent in reachable:
            reachable.add(key)
            kept.append(key)
    return kept
