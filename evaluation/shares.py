"""An evaluation cut into the jobs of a cluster: a file for each share, and what a job does with it.

Imports no torch before a job measures.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.config import EvaluateConfig
from evaluation.model import Model
from harness.errors import EXIT_DONE, EXIT_FAILURE, InputError
from harness.schema import parse

RUN_SHARE_TARGET = "evaluation.shares:run_share"
CACHE_FOLDER = "cache"


def write_shares(
    models: Sequence[Model], config: EvaluateConfig, out_dir: Path, num_shares: int, folder: Path
) -> list[Path]:
    """Writes one file per job into `folder`; `run_share` takes its path. `evaluate` then gathers into `out_dir`."""
    files = []
    shared: dict[str, Any] = {"models": [m.as_dict() for m in models], "config": config.model_dump(mode="json")}
    shared |= {"out_dir": str(out_dir.absolute()), "num_shares": num_shares}
    for share in range(num_shares):
        file = folder / f"share_{share:03d}" / "share.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        finished_mark(file).unlink(missing_ok=True)
        file.write_text(json.dumps({**shared, "share": share}, indent=1))
        files.append(file)
    return files


def finished_mark(share_file: Path) -> Path:
    """What rank 0 leaves beside the share's file when it has measured its part."""
    return share_file.with_name("finished")


def run_share(share_file: str) -> int:
    """Measures one share of an evaluation (a job's entry); ranks divide it further. Returns the exit code.

    May be called again after a death at any point: what was measured is in the cache.
    """
    from evaluation.scores.collect import measure_share

    content = json.loads(Path(share_file).read_text())
    models = [Model(**values) for values in content["models"]]
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    first, step = content["share"] * ranks + rank, content["num_shares"] * ranks
    try:
        config = parse(EvaluateConfig, content["config"], share_file)
        failures = measure_share(models, config, Path(content["out_dir"]) / CACHE_FOLDER, first, step)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except OSError as error:  # a full disk: what was measured is kept
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr, flush=True)
        return EXIT_FAILURE
    for name, reason in failures.items():
        print(f"{name}: {reason}", flush=True)
    if rank == 0:
        finished_mark(Path(share_file)).touch()
    return EXIT_DONE
