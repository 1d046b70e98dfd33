"""Writes docs/reference.md: every key of a recipe, from the configuration models themselves.

`python -m harness.reference docs/reference.md` writes the page; a test compares it with what is written now.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from harness.config import RunConfig
from harness.mistakes import is_section

HEADER = """# Every key of a recipe

Generated from the configuration models by `python -m harness.reference docs/reference.md`; do not edit it by hand. A
recipe is a YAML file with these keys; [recipes.md](recipes.md) describes the finished ones. On the command line a key
is written with dots, and a place in a list as a number from 0 (`N` below): `phases.1.iterations=5000`. A key that is
not listed here is refused. Where a default is "required", the key must be given; `null` is YAML's word for nothing.

"""
_WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null", Any: "anything"}


def reference() -> str:
    """The page as Markdown."""
    places: dict[type[BaseModel], list[str]] = {}
    _find_places("", RunConfig, places)
    return HEADER + "\n".join(_section(paths, model) for model, paths in places.items())


def _find_places(path: str, model: type[BaseModel], places: dict[type[BaseModel], list[str]]) -> None:
    """Adds the model and all models below it, with the dotted paths where they stand; below the first one only."""
    known = places.setdefault(model, [])
    known.append(path)
    if len(known) > 1:
        return
    for name, field in model.model_fields.items():
        in_list = ".N" if _is_list(field.annotation) else ""
        for below in _sections_of(field.annotation):
            _find_places(f"{path}.{name}{in_list}".lstrip("."), below, places)


def _sections_of(annotation: Any) -> list[type[BaseModel]]:
    if is_section(annotation):
        return [annotation]
    return [model for part in get_args(annotation) for model in _sections_of(part)]


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(get_origin(part) is tuple for part in get_args(annotation))


def _section(paths: list[str], model: type[BaseModel]) -> str:
    notes = _attribute_docstrings(model)
    said = inspect.cleandoc(model.__dict__.get("__doc__") or "")
    blocks = [f"## {_heading(paths, model)}", *([said] if said else [])]
    lines = ["| key | what | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        what = _type(field.annotation) + _bounds(field.metadata)
        note = notes.get(name, "")
        lines.append(f"| `{name}` | {what} | {_default(field, note)} | {note} |")
    return "\n\n".join([*blocks, "\n".join(lines)]) + "\n"


def _heading(paths: list[str], model: type[BaseModel]) -> str:
    if not paths[0]:
        return "The recipe"
    return ", ".join(f"`{path}`" for path in paths) + _alternative(model)


def _alternative(model: type[BaseModel]) -> str:
    field = model.model_fields.get("name")
    if field is None or get_origin(field.annotation) is not Literal:
        return ""
    return " with name " + " or ".join(f"`{word}`" for word in get_args(field.annotation))


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in parts)
    if origin in (Union, types.UnionType):
        return _union(parts)
    if origin is tuple and parts[-1] is Ellipsis:
        return f"list of {_type(parts[0])}"
    if origin is tuple:
        return "list [" + "; ".join(_type(part) for part in parts) + "]"
    if origin is dict:
        return f"mapping of {_type(parts[0])} to {_type(parts[1])}"
    if is_section(annotation):
        return "section" + _alternative(annotation)
    return _WORDS[annotation]


def _union(parts: tuple[Any, ...]) -> str:
    """Sections that differ in their name are told by the names alone."""
    names = [name for part in parts if part is not type(None) for name in _section_names(part)]
    if names:
        text = "section with name " + ", ".join(f"`{name}`" for name in names)
    else:
        text = " or ".join(_type(part) for part in parts if part is not type(None))
    return text + (" or null" if type(None) in parts else "")


def _section_names(annotation: Any) -> list[str]:
    names = [_field_names(model) for model in _sections_of(annotation)]
    return [str(name) for group in names for name in group]


def _field_names(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("name")
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


def _bounds(metadata: list[Any]) -> str:
    """What pydantic checks beside the type, such as `, at least 0`."""
    words = {"gt": "above {}", "ge": "at least {}", "lt": "below {}", "le": "at most {}", "min_length": "{} or more"}
    found = [text.format(getattr(m, key)) for m in metadata for key, text in words.items() if hasattr(m, key)]
    found += [f"matching `{m.pattern}`" for m in metadata if getattr(m, "pattern", None)]
    return "".join(f", {text}" for text in found)


def _default(field: FieldInfo, note: str) -> str:
    """The default; some depend on another key and are filled in by a validator, then the meaning tells them."""
    if field.is_required():
        return "see meaning" if "unless given" in note else "required"
    value = field.get_default(call_default_factory=True)
    assert value is not PydanticUndefined
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    """A default as a recipe writes it; of a section only the name, or {} where all its own defaults stand."""
    if isinstance(value, BaseModel):
        name = getattr(value, "name", None)
        return f"{{name: {name}}}" if name else "{}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_yaml(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the string literal below it, of the model and of the models that it extends."""
    notes: dict[str, str] = {}
    for cls in reversed([cls for cls in model.__mro__ if issubclass(cls, BaseModel) and cls is not BaseModel]):
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:]):
            text = _text(below)
            if text and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                notes[field.target.id] = " ".join(text.split()).replace("|", "\\|")
    return notes


def _text(node: ast.stmt) -> str | None:
    value = node.value if isinstance(node, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
