"""Which folder may import which, read from the source itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "harness": {"harness"},
    "slurm": {"slurm"},
    "evaluation": {"evaluation", "harness"},
    "sweeps": {"sweeps", "evaluation", "harness", "slurm"},
}
COMPOSITION_ROOTS = {ROOT / "harness" / name for name in ("cli.py", "cli_data.py", "cli_scores.py", "cli_tools.py")}
# Modules that a command's --help, a recipe or a sweep file is read with: they answer before torch could be imported.
TORCH_FREE = [
    "harness.cli",
    "harness.config",
    "harness.reference",
    "evaluation.config",
    "sweeps.config",
    "slurm.profile",
]


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported module, those inside functions and strings of `import_module` included, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write whole names, not relative imports"
            yield node.module or "", node.lineno
        elif isinstance(node, ast.Call) and _called(node) == "import_module":
            yield from ((str(word.value), node.lineno) for word in node.args[:1] if isinstance(word, ast.Constant))


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def forbidden(folder: str, source: str) -> list[tuple[str, int]]:
    others = set(MAY_IMPORT) - MAY_IMPORT[folder]
    return [(name, line) for name, line in imports(ast.parse(source)) if name.split(".")[0] in {*others, "tests"}]


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_lies_below_it(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*.py") if path not in COMPOSITION_ROOTS]
    assert files
    wrong = {str(path): found for path in files if (found := forbidden(folder, path.read_text(encoding="utf-8")))}
    assert not wrong


def test_the_command_line_imports_upwards_only_inside_its_commands() -> None:
    for path in COMPOSITION_ROOTS:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module_level = ast.Module([n for n in tree.body if not isinstance(n, ast.FunctionDef)], [])
        names = {name.split(".")[0] for name, _ in imports(module_level)}
        assert not names & {"sweeps", "evaluation", "slurm", "torch"}


@pytest.mark.parametrize(
    "source", ["import sweeps.run", "def f():\n    from evaluation import x", "import_module('slurm.job')"]
)
def test_an_import_upwards_would_be_found(source: str) -> None:
    assert forbidden("harness", source)


@pytest.mark.parametrize("module", TORCH_FREE)
def test_configuration_is_read_without_torch(module: str) -> None:
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        path = _file(name)
        if path is not None:
            todo += [found for found, _ in _at_module_level(path)]
    assert not {"torch", "torchvision", "lpips"} & {name.split(".")[0] for name in seen}
    assert "pydantic" in seen or module == "harness.cli"


def _file(name: str) -> Path | None:
    if name.split(".")[0] not in MAY_IMPORT:
        return None
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"


def _at_module_level(path: Path) -> Iterator[tuple[str, int]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = [
        node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not _for_types(node)
    ]
    return imports(ast.Module(body, []))


def _for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
