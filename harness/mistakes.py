"""A configuration that does not fit its model, as one sentence: which key, what is wrong, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

# What a wrong type of value should have been; everything else is said by pydantic well enough.
_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list, as in [a, b]",
    "tuple": "a list, as in [a, b]",
    "dict": "keys and values, as in {key: value}",
    "model": "keys and values, as in {key: value}",
}


def sentence(cls: type[BaseModel], values: Any, error: ErrorDetails) -> str:
    """The first mistake of `values` against the model `cls`, without the name of the file it came from."""
    key = _path(values, error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'; {_hint(cls, key.split('.'))}"
    if error["type"] == "missing":
        return f"key '{key}' is missing; add it."
    if error["type"] == "union_tag_not_found":
        return f"key '{key}.name' is missing; add it."
    if error["type"] == "union_tag_invalid":
        tag, allowed = error["ctx"]["tag"], error["ctx"]["expected_tags"]
        return f"key '{key}.name': there is no '{tag}'; choose one of {allowed}."
    message, given = _message(error), error.get("input")
    shown = "" if isinstance(given, (dict, list)) or error["type"] == "value_error" else f", got {given!r}"
    end = "" if message.endswith("?") and not shown else "."
    where = f"key '{key}': " if key else ""
    return f"{where}{message[:1].lower() + message[1:]}{shown}{end}"


def _message(error: ErrorDetails) -> str:
    kind, _, reason = error["type"].partition("_")
    if kind in _WANTED and reason in ("parsing", "type", "from_float", "attributes_type"):
        return f"must be {_WANTED[kind]}"
    return error["msg"].removeprefix("Value error, ").replace("Input should ", "must ", 1)


def _path(values: Any, place: tuple[int | str, ...]) -> str:
    """The dotted key of a place, as an override spells it: without the names of the alternatives taken on the way."""
    node, parts = values, []
    for part in place:
        if isinstance(node, Mapping) and part not in node and part == node.get("name"):
            continue
        parts.append(str(part))
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            node = None
    return ".".join(parts)


def _hint(cls: type[BaseModel], key: list[str]) -> str:
    """The nearest key of the same section; else one of nearly that name elsewhere, with its whole path."""
    *section, wrong = ["N" if part.isdecimal() else part for part in key]
    places = list(_places(cls, (), ()))
    beside = [path[-1] for path in places if list(path[:-1]) == section]
    if near := difflib.get_close_matches(wrong, sorted({*beside}), n=1, cutoff=0.5):
        return f"did you mean '{near[0]}'?"
    if near := difflib.get_close_matches(wrong, sorted({path[-1] for path in places}), n=1, cutoff=0.8):
        return f"did you mean '{'.'.join(next(path for path in places if path[-1] == near[0]))}'?"
    return "remove it."


def _places(annotation: Any, path: tuple[str, ...], above: tuple[type[BaseModel], ...]) -> Iterator[tuple[str, ...]]:
    """Every key below an annotation as its path, places in lists written as N."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation in above:
            return
        for name, field in annotation.model_fields.items():
            yield (*path, name)
            yield from _places(field.annotation, (*path, name), (*above, annotation))
    else:
        inside = (*path, "N") if get_origin(annotation) in (list, tuple) else path
        for part in getattr(annotation, "__args__", ()):
            yield from _places(part, inside, above)
