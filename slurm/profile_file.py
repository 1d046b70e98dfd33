"""Where cluster profiles lie, and reading one from its YAML file."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from slurm.errors import ClusterError
from slurm.profile import ClusterProfile

BUILT_IN_FOLDER = Path(__file__).parent / "clusters"


def load_profile(name_or_path: str | Path) -> ClusterProfile:
    """Reads a profile: a path to a YAML file, the name of a built-in or of the user's own one, or `auto`.

    `auto` is `slurm` where a SLURM controller answers, else `local`.

    Raises:
        ClusterError: there is no such profile, or it has a mistake; the sentence names the file and the key.
    """
    name = str(name_or_path)
    if name == "auto":
        name = "slurm" if slurm_answers() else "local"
    path = Path(name) if "/" in name or name.endswith((".yaml", ".yml")) else _find(name)
    values = _read(path)
    if not isinstance(values, dict):
        raise ClusterError(f"{path}: expected keys and values; write for example `executor: slurm`.")
    try:
        return _fill_machine(ClusterProfile.model_validate({"name": path.stem, **values, **_site_defaults(values)}))
    except ValidationError as error:
        raise ClusterError(f"{path}: {_sentence(error)}") from None


def _site_defaults(values: dict[str, Any]) -> dict[str, str]:
    """What the profile leaves to the site and a site or user has told sbatch by its own variables (SBATCH_ACCOUNT)."""
    if values.get("executor") != "slurm":
        return {}
    told = {key: os.environ.get(f"SBATCH_{key.upper()}") for key in ("account", "partition", "qos", "constraint")}
    return {key: value for key, value in told.items() if value and values.get(key) is None}


def _fill_machine(profile: ClusterProfile) -> ClusterProfile:
    """Shares this machine's cores out over the jobs that run at once here, where the profile does not say otherwise."""
    if profile.executor == "slurm" or "cpus_per_task" in profile.model_fields_set:
        return profile
    ranks = profile.max_parallel * profile.ranks_per_node
    return profile.model_copy(update={"cpus_per_task": max(1, _num_cores() // ranks)})


def _num_cores() -> int:
    """Cores that this process may use; not every system can tell those from all it has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slurm_answers() -> bool:
    """Whether sbatch is here and a controller answers within some seconds."""
    if not shutil.which("sbatch") or not shutil.which("sinfo"):
        return False
    try:
        return subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def user_folder() -> Path:
    """Where the user's own profiles lie."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "harness" / "clusters"


def profile_names() -> list[str]:
    """Every profile that can be named, the user's own ones included."""
    return sorted({path.stem for folder in (user_folder(), BUILT_IN_FOLDER) for path in folder.glob("*.yaml")})


def _find(name: str) -> Path:
    for folder in (user_folder(), BUILT_IN_FOLDER):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = [*profile_names(), "auto"]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(known)}, or the path of a YAML file."
    raise ClusterError(f"there is no cluster profile '{name}'; {hint}")


class _KeyTwice(yaml.composer.ComposerError):
    """A mapping has the same key twice, of which YAML's reader would drop one."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key that stands twice."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        mapping = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in mapping.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _KeyTwice(None, None, f"'{key.value}' is a key", key.start_mark)
                seen.add(key.value)
        return mapping


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ClusterError(f"{path}: no such file; give the path of a cluster profile.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"{path}: cannot be read ({error}); give a readable YAML file.") from None
    except _KeyTwice as error:
        assert error.problem_mark is not None
        where = f"line {error.problem_mark.line + 1}"
        raise ClusterError(f"{path}: {error.problem} at {where} for the second time; leave one of them out.") from None
    except (yaml.YAMLError, ValueError, AttributeError, TypeError, RecursionError) as error:  # e.g. impossible dates
        raise ClusterError(f"{path}: is not valid YAML{_line(error)}; mend the indentation or quoting.") from None


def _line(error: Exception) -> str:
    """The line where a text ceases to be YAML; not the parser's reason, which can quote what may be a secret."""
    place = getattr(error, "problem_mark", None)
    return f" at line {place.line + 1}" if place else ""


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the whole"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, list(ClusterProfile.model_fields), n=1, cutoff=0.5)
        return f"unknown key '{key}'; " + (f"did you mean '{near[0]}'?" if near else "remove it.")
    message = first["msg"].removeprefix("Value error, ")
    # The values of `environment` may be secrets: a mistake there is told without the value.
    shown = "" if key.startswith("environment") or first["type"] == "value_error" else f", got {first['input']!r}"
    return f"key '{key}': {message[:1].lower() + message[1:]}{shown}."
