"""What trains: versions, and a hash of the project's own files, which may be edited between two starts of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import harness

_SHOWN_DIGITS = 8


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The versions of this project and of torch, and `code`: the hash of the package's files at the first call."""
    return {"harness": harness.__version__, "code": code_of(Path(harness.__file__).parent), "torch": torch.__version__}


def code_of(package: Path) -> str:
    """A hash of every Python file in a package's folder, 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def told(found: Mapping[str, Any]) -> str:
    """`harness 0.1.0 (code 1a2b3c4d), torch 2.8.0`; of an older checkpoint without what it does not say."""
    code = f" (code {str(found['code'])[:_SHOWN_DIGITS]})" if "code" in found else ""
    return f"harness {found.get('harness', 'of an unknown version')}{code}, torch {found.get('torch', 'unknown')}"


def trained_by(manifest: Mapping[str, Any]) -> list[str]:
    """Every version that trained up to a checkpoint, in their order, the phases before included."""
    return list(manifest.get("trained_by") or [told(manifest.get("versions") or {})])
