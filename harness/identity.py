"""What of a configuration decides the result: the keys of phases, and what may differ in a folder begun before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.config import RunConfig
from harness.data.config import SourceConfig
from harness.errors import InputError

KEY_VERSION = 1
"""Raised where the same configuration trains something else than before: another default, or a mended mistake."""

# Keys that change how a run is watched or stored, never what it learns.
HARMLESS_KEYS = ("name", "validation", "checkpoint", "log_every", "trackers", "watch", "cuda_graphs")
_HARMLESS_DATA_KEYS = ("read_threads", "cache_gb")


def result_keys(config: RunConfig) -> dict[str, Any]:
    """The part of the configuration that decides the weights, phases left out.

    What has its default is left out too: a key that a later version adds changes no phase that does without it.
    """
    values = config.model_dump(mode="json", exclude={*HARMLESS_KEYS, "phases"}, exclude_defaults=True)
    for key in _HARMLESS_DATA_KEYS:
        values["data"].pop(key, None)
    return values


def phase_keys(config: RunConfig, fingerprint_of: Callable[[str], str]) -> list[str]:
    """A key per phase: NAME-HASH of everything that decides its result, its parent's key included.

    `fingerprint_of` maps the path of a dataset (or of a weights file) to the hash of its content, so that moving data
    changes no key. A phase without a discriminator does not depend on the discriminator's configuration.
    """
    keys: list[str] = []
    for number, phase in enumerate(config.phases):
        values = {**result_keys(config), "version": KEY_VERSION}
        del values["data"]["sources"]
        values["sources"] = [_source_identity(source, fingerprint_of) for source in config.sources(number)]
        values["phase"] = phase.model_dump(mode="json", exclude={"sources"}, exclude_defaults=True)
        values["parent"] = keys[-1] if keys else None
        if number or config.init_from is None:
            values["init_from"] = None
        else:
            values["init_from"] = fingerprint_of(config.init_from)
        if not any(p.adversarial for p in config.phases[: number + 1]):
            values["discriminator"] = values["init_discriminator_from"] = None
        elif config.init_discriminator_from is not None:
            values["init_discriminator_from"] = fingerprint_of(config.init_discriminator_from)
        text = json.dumps(values, sort_keys=True)
        keys.append(f"{phase.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}")
    return keys


def _source_identity(source: SourceConfig, fingerprint_of: Callable[[str], str]) -> dict[str, Any]:
    return {**source.model_dump(mode="json", exclude_defaults=True), "path": fingerprint_of(source.path)}


def check_same_result(
    stored: RunConfig, given: RunConfig, where: Path, named_by_content: bool = False, num_begun: int | None = None
) -> list[str]:
    """The harmless differences between a stored configuration and the given one, one line each.

    Args:
        named_by_content: the folder's name stands for what its weights to start from hold, wherever they lie.
        num_begun: phases of which something has been trained; later ones may differ. None: all.

    Raises:
        InputError: a difference would change the result; the sentence shows the first ones.
    """
    num_begun = len(stored.phases) if num_begun is None else num_begun
    old, new = stored.model_dump(mode="json"), given.model_dump(mode="json")
    differences = list(_differences(old, new, ""))
    moved = {"init_from", "init_discriminator_from"} if named_by_content else set()
    harmless = {path for path, _ in differences if _is_harmless(path) or path in moved or _is_ahead(path, num_begun)}
    grave = [line for path, line in differences if path not in harmless]
    if grave:
        shown = "; ".join(grave[:3])
        raise InputError(
            f"{where}: was started with another configuration ({shown}); give another --out, or undo the change."
        )
    return [line for _, line in differences]


def _is_harmless(path: str) -> bool:
    """Where a dataset lies is harmless, too: what it holds is guarded by its fingerprint."""
    is_source_path = ".sources." in f".{path}" and path.endswith(".path")
    is_watching = path.split(".")[0] in HARMLESS_KEYS or path in {f"data.{key}" for key in _HARMLESS_DATA_KEYS}
    return is_watching or is_source_path


def _is_ahead(path: str, num_begun: int) -> bool:
    """Whether a key is of a phase of which nothing has been trained."""
    first, *rest = path.split(".")
    return first == "phases" and len(rest) > 1 and int(rest[0]) >= num_begun


def _differences(old: Any, new: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(key, old.get(key), new.get(key)) for key in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(old, new))]
    else:
        return [] if old == new else [(path, f"{path}: {old} -> {new}")]
    return [d for key, a, b in pairs for d in _differences(a, b, f"{path}.{key}" if path else key)]
