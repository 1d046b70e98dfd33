"""What is said where the words after `harness` do not fit a command."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from harness.errors import InputError


def refuse_empty(words: Sequence[str]) -> None:
    """Raises InputError for a word without a letter, which would mean this folder, or everything."""
    for before, word in zip(["harness", *words], words):
        if not word or (word.startswith("--") and word.endswith("=")):
            after = word or before
            raise InputError(f"nothing stands after `{after}`, as where a variable is not set; give a value or a name.")


def wrong_usage(error: Any) -> str:
    """The parser's complaint in one sentence, and where to read on; the help where no command was given."""
    said = str(error.format_message())
    if said.startswith("Usage:"):
        return said
    path = error.ctx.command_path if error.ctx else "harness"
    return f"error: {_sentence(error, said)} Try `{path} --help`."


def _sentence(error: Any, said: str) -> str:
    kind = type(error).__name__
    if kind == "NoSuchOption":
        return _no_such_option(error)
    if kind == "MissingParameter" and getattr(error.param, "help", None):
        return f"{said.removesuffix('.')}: {error.param.help}"
    if kind == "BadParameter" and error.param:
        return f"{error.param.opts[0]}: {_wrong_value(error)}."
    if said.startswith("Got unexpected extra argument"):
        return f"too many arguments {said[said.index('(', said.index(')')) :]}; leave them out."
    return said if said.endswith((".", "?")) else f"{said}."


def _no_such_option(error: Any) -> str:
    known = [name for each in error.ctx.command.params for name in each.opts if name.startswith("--")]
    near = difflib.get_close_matches(error.option_name, [*known, "--help"], n=1, cutoff=0.8)
    if near:
        mend = f"did you mean {near[0]}?"
    elif any(each.name == "overrides" for each in error.ctx.command.params):
        mend = "keys are changed as KEY=VALUE without dashes, as in seed=1."
    else:
        mend = f"its options are {', '.join(known)}." if known else "leave it out."
    return f"no such option: {error.option_name}; {mend}"


def _wrong_value(error: Any) -> str:
    """Of what kind a value must be: in pydantic's words, which typer asks from 0.29 on, or in its own."""
    if not hasattr(error.__cause__, "errors"):
        return str(error.message).rstrip(".")
    from pydantic import BaseModel

    from harness.mistakes import told

    return told(BaseModel, {}, error.__cause__.errors()).rstrip(".")
