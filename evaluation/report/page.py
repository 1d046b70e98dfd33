"""The report's page: what stands in it, and how it becomes one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from evaluation.report.grid import Grid
from harness.files import whole


@dataclass(frozen=True)
class Section:
    """One section: its anchor, its title, and the template that shows it."""

    anchor: str
    title: str
    template: str = "grids.html.j2"
    intro: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()
    content: Any = None
    """What the section's own template shows besides."""


@dataclass(frozen=True)
class Page:
    """Everything that the page shows; all texts are escaped on the way out."""

    name: str
    subtitle: str
    written: str
    code_version: str
    sections: Sequence[Section]
    sentences: Sequence[str] = ()
    warnings: Sequence[str] = field(default_factory=tuple)


def render(page: Page) -> str:
    """The page as HTML: styles inline, images as data URIs, no script, nothing fetched."""
    return _environment().get_template("report.html.j2").render(page=page)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("evaluation.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(page: Page, path: Path) -> None:
    """Writes the page so that a reader sees the old or the new one, never half of it."""
    with whole(path) as part:
        part.write_text(render(page), encoding="utf-8")
