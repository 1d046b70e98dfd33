"""Looks from a compute node at what a sweep will read and write. Run there by the preflight: `python -m slurm.probe`.

Its arguments are paths to read, then `--`, then files in the folders to write to; it prints a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

MARK = "harness-probe "


def look(reads: list[str], written: list[str]) -> dict[str, list[str]]:
    """Which of the paths cannot be read here, and which folders cannot be written or are not the same folder here."""
    return {
        "unread": [path for path in reads if not os.access(path, os.R_OK)],
        "unwritten": [path for path in written if not (os.path.exists(path) and os.access(Path(path).parent, os.W_OK))],
    }


if __name__ == "__main__":
    middle = sys.argv.index("--")
    print(MARK + json.dumps(look(sys.argv[1:middle], sys.argv[middle + 1 :])), flush=True)
