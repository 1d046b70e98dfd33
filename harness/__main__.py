"""The program `harness`, also as `python -m harness`: nothing is imported before Ctrl-C is answered quietly."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs a command; see `harness.cli`."""
    try:
        from harness.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
