"""What the commands for weights and upscaling show on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.screen import complain, say
from harness.upscale import Listener, Options, Summary, upscale
from harness.weights import Status, folders

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[int, int], None]
_PARTS = 1000
"""An image counts as so many parts in the bar, so that it moves within one large image."""


def show_weights(console: Console, statuses: list[Status], verified: bool = False) -> bool:
    """Prints the table of pretrained networks; returns whether all are there and nothing is wrong with them."""
    from rich.table import Table

    table = Table("name", "used for", title="Pretrained networks", title_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("bytes", justify="right")
    table.add_column("sha256", overflow="fold", min_width=16)
    table.add_column("here")
    for status in statuses:
        row = status.weights
        size = f"{row.size_bytes:,}"
        table.add_row(row.name, row.used_for, row.file_name, size, row.sha256, _presence(status, verified))
    console.print(table)
    for status in statuses:
        if status.path is not None:
            say(console, status.problem or f"{status.weights.name}: {status.path}")
    looked_up = ", then ".join(str(folder) for folder in folders())
    say(console, f"looked up in {looked_up}; `harness weights fetch NAME` downloads what is missing")
    return all(status.path is not None and status.problem is None for status in statuses)


def _presence(status: Status, verified: bool) -> str:
    if status.path is None:
        return "missing"
    if status.problem is not None:
        return "wrong"
    return "verified" if verified else "yes"


def upscale_shown(inputs: list[str], out: Path, options: Options, console: Console, progress: Progress) -> Summary:
    """`upscale`, with one bar over all images and their tiles, events as they come, and a last line that counts."""
    at = [0, 1]

    def images(done: int, total: int, _: Path) -> None:
        at[:] = [done, total]
        progress(done * _PARTS, total * _PARTS)

    def tiles(done: int, total: int) -> None:
        progress(at[0] * _PARTS + done * _PARTS // total, at[1] * _PARTS)

    listener = Listener(
        images, tiles, lambda message: say(console, message), lambda message: complain(f"error: {message}")
    )
    summary = upscale(inputs, out, options, listener)
    failed = f", {len(summary.failures)} failed" if summary.failures else ""
    say(console, f"{out}: {len(summary.written)} images written{failed}")
    return summary
