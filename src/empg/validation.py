"""What pydantic found wrong, as lines that a user can act on: the key, the nearest valid one, the value that was given.

Recipes, and the options of environments wherever they are given, are checked with this one wording.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from empg.errors import UserError


class OptionError(UserError):
    """Options do not fit an environment. `lines` has one line per problem; each names its key."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


# Where pydantic speaks of Python: a recipe has lists and mappings.
_WORDS = {
    "tuple_type": "Input should be a valid list",
    "model_type": "Input should be a valid dictionary",
    "path_type": "Input should be a path",
}


def explained(error: ValidationError, model: type[BaseModel], within: str = "") -> list[str]:
    """One line per problem.

    Args:
        error: what validating `model` raised.
        model: the model, whose fields name the valid keys.
        within: the path of the key that holds the model, e.g. `environment.options`; empty for a model of its own.
    """
    return [line for item in error.errors() for line in _lines(item, model, within)]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the name that the user probably meant, or None if none is similar."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def valid_keys(model: type[BaseModel], path: Sequence[str] = ()) -> list[str]:
    """The keys that `model` takes below `path` (e.g. `["policy", "tiny"]`); none where the path ends in a value."""
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        parts = (annotation, *getattr(annotation, "__args__", ()))
        inner = next((p for p in parts if isinstance(p, type) and issubclass(p, BaseModel)), None)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _lines(item: Any, model: type[BaseModel], within: str) -> list[str]:
    path = [str(part) for part in item["loc"]]
    name = ".".join([*([within] if within else []), *path])
    if item["type"] == "value_error":  # raised by a validator: values that do not go together
        problem = item["ctx"]["error"]
        if isinstance(problem, OptionError):  # its lines name their keys themselves
            return problem.lines
        lines = [f"{name}: {problem}" if name else str(problem)]
    elif item["type"] == "extra_forbidden":
        lines = [f"unknown key {name!r}{hint(path[-1], valid_keys(model, path[:-1]))}"]
    elif item["type"] == "missing":
        lines = [f"{name}: is required, but not given"]
    else:
        said = _WORDS.get(item["type"], item["msg"])
        lines = [f"{name}: {said} (got {item['input']!r:.80})"]
    return [" ".join(line.split()) for line in lines]


def hint(key: str, known: Sequence[str]) -> str:
    """Return the end of the message on an unknown key: the key that was probably meant, or all valid ones."""
    meant = nearest(key, known)
    if meant is not None:
        return f"; did you mean {meant!r}?"
    return f"; valid keys: {', '.join(known)}" if known else "; there are no keys here"
