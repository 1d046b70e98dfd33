"""What the commands for weights and upscaling show on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.screen import complain, counted, say
from harness.upscale import Listener, Options, Summary, upscale
from harness.weights import Status, folders

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[int, int], None]
_WIDE = 160
"""Columns of a terminal from which on the table of networks needs no second line for anything but `used for`."""
_PARTS = 1000
"""An image counts as so many parts in the bar, so that it moves within one large image."""


def show_weights(console: Console, statuses: list[Status], verified: bool = False) -> bool:
    """Prints the table of pretrained networks; returns whether all are there and nothing is wrong with them.

    Where they were verified, what is missing or wrong is an error, told as one.
    """
    from rich.table import Table

    wide = console.width >= _WIDE
    table = Table(title="Pretrained networks", title_justify="left", show_lines=not wide)
    table.add_column("name", no_wrap=True)
    table.add_column("here", no_wrap=True)
    table.add_column("used for", max_width=None if wide else 15)
    for title in ("file", "bytes", "sha256") if wide else ("file, bytes, sha256",):
        table.add_column(title, overflow="fold", justify="right" if title == "bytes" else "left")
    for status in statuses:
        row = status.weights
        facts = (row.file_name, f"{row.size_bytes:,}", row.sha256)
        table.add_row(row.name, _presence(status, verified), row.used_for, *(facts if wide else ["\n".join(facts)]))
    console.print(table)
    for status in statuses:
        if status.path is not None:
            say(console, status.problem or f"{status.weights.name}: {status.path}")
    looked_up = ", then ".join(str(folder) for folder in folders())
    say(console, f"looked up in {looked_up}; `harness weights fetch NAME` downloads what is missing")
    lacking = [status.weights.name for status in statuses if status.path is None or status.problem is not None]
    if lacking and verified:
        wrong = f"{', '.join(lacking)}: missing or not the published file"
        complain(f"error: {wrong}; run `harness weights fetch {' '.join(lacking)}` where there is a network.")
    return not lacking


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
    say(console, f"{out}: {counted(len(summary.written), 'image')} written{failed}")
    return summary
