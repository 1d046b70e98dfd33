"""Which code measured: the version and, in a clone, the commit."""

from __future__ import annotations

from pathlib import Path

from harness import __version__


def code_version() -> str:
    """`0.1.0`, or `0.1.0+1a2b3c4d5e` where the package lies in a git clone."""
    commit = _commit(Path(__file__).resolve().parents[2] / ".git")
    return f"{__version__}+{commit[:10]}" if commit else __version__


def _commit(git: Path) -> str | None:
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).exists():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
    except OSError:
        return None
