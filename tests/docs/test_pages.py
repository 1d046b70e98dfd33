"""The pages agree with each other, with the code, and with what the code says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from pages import PAGES, ROOT, prose

from harness.reference import reference


def links() -> list[tuple[Path, str]]:
    return [(page, target) for page in PAGES for target in re.findall(r"\]\(([^)\s]+)\)", prose(page))]


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub names them in links."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "target"), links(), ids=lambda value: getattr(value, "name", str(value)))
def test_a_link_leads_to_a_file_and_its_heading(page: Path, target: str) -> None:
    if "://" in target:
        return
    file, _, anchor = target.partition("#")
    there = (page.parent / file).resolve() if file else page
    assert there.exists(), f"{page.name} links to {file}, which does not exist"
    assert there.is_relative_to(ROOT)
    assert not anchor or anchor in anchors(there), f"{there.name} has no heading for #{anchor}"


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(page.parent / target).resolve() for page, target in links() if page.name == "README.md"}
    assert {page.resolve() for page in PAGES if page.parent.name == "docs"} <= linked


def test_the_reference_of_keys_is_what_the_models_say_now() -> None:
    stored = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert stored == reference(), "run: python -m harness.reference docs/reference.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_row_of_a_table_has_as_many_cells_as_its_head(page: Path) -> None:
    rows = [line for line in prose(page).splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    head = 0
    for row, count, after in zip(rows, cells, [*rows[1:], ""]):
        head = count if re.fullmatch(r"[|:\- ]+", after) else head
        assert count == head, row


def strings_of_the_code() -> str:
    """All string literals of the project, joined as the compiler joins neighbours; values in messages become {}."""
    texts = []
    for folder in ("harness", "slurm", "sweeps", "evaluation"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values]
                    texts.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def test_messages_that_troubleshooting_explains_are_said_by_the_code() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    assert len(quoted) > 10
    said = strings_of_the_code()
    assert [text for text in quoted if text not in said] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_in_dots_on_a_page_are_keys_of_a_recipe_sweep_or_profile(page: Path) -> None:
    known = {"data", "watch", "checkpoint", "validation"}
    from evaluation.config import EvaluateConfig
    from harness.config import RunConfig

    for section, key in re.findall(r"`(\w+)\.(\w+)[^`/]*`", prose(page)):
        if section in known:
            model = RunConfig.model_fields[section].annotation
            assert key in model.model_fields, f"{section} has no key {key}"  # type: ignore[union-attr]
        elif section == "evaluate":
            assert key in EvaluateConfig.model_fields, f"evaluate has no key {key}"
