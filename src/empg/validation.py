"""What pydantic found wrong, as lines that a user can act on: the key, the nearest valid one, the value that was given.

Recipes, and the options of environments wherever they are given, are checked with this one wording.
"""

from __future__ import annotations

import datetime
import difflib
import math
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from empg.errors import UserError
from empg.yaml_text import MAX_DEPTH

LARGEST = 1e15  # numbers enter float32 arithmetic, where sums of their squares must stay below 3e38
MAX_TEXT = 10_000  # characters

Settings = TypeVar("Settings")
Item = TypeVar("Item", bound=Hashable)


class OptionError(UserError):
    """Options of a section are unknown or wrong. `lines` has one line per problem; each names its key."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


class InnerValueError(UserError):
    """A value inside a list or a mapping is wrong. `path` has the keys and places that lead to it."""

    def __init__(self, problem: str, path: tuple[str, ...]) -> None:
        super().__init__(problem)
        self.path = path


class Checked(BaseModel):
    """A section of settings: immutable, without unknown keys. Text and numbers are bounded, whatever the field."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        wanted = _alternatives(cls.model_fields[name].annotation)
        # To pydantic, true is 1.
        if isinstance(value, bool) and bool not in wanted and (int in wanted or float in wanted):
            raise UserError(f"expected {'an integer' if int in wanted else 'a number'}, got {value}")
        if not (isinstance(value, dict) and valid_keys(cls, [name])):  # a section checks its own values
            check_plain(value)
        return value

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        if isinstance(value, float) and abs(value) > LARGEST:
            raise UserError(f"expected a number of at most {LARGEST:g}, got {value:g}")
        return value


def check_plain(value: Any, path: tuple[str, ...] = ()) -> None:
    """Check that plain data has no text, number or depth that no setting needs, and can be read back from a recipe.

    Paths, names and messages are made of these texts, and a number of thousands of digits cannot even be printed. A
    recipe is recorded as JSON values, which have no infinite numbers and no dates.

    Args:
        value: the data.
        path: where it stands in the value of a field. The value itself may be a date: its field has that type then.

    Raises:
        InnerValueError: a part of the data is wrong.
        UserError: it is nested too deeply.
    """
    if len(path) > MAX_DEPTH:
        raise UserError(f"expected at most {MAX_DEPTH} levels of nesting")
    if problem := _text_problem(value) if isinstance(value, str) else _problem(value, inside=bool(path)):
        raise InnerValueError(problem, path)
    if isinstance(value, dict):
        for key, part in value.items():
            check_plain(part, (*path, f"{key:.80}"))
    elif isinstance(value, list | tuple | set | frozenset):
        for place, part in enumerate(value):
            check_plain(part, (*path, str(place)))


def _problem(value: Any, *, inside: bool) -> str:
    """Return what is wrong with a value itself, without its parts; empty if nothing is."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return f"expected an integer below 2^63, got one of {value.bit_length()} bits"
    if isinstance(value, dict):
        problems = (
            _text_problem(key) if isinstance(key, str) else f"expected text keys, got {key!r:.80}" for key in value
        )
        return next(filter(None, problems), "")
    if inside and isinstance(value, float) and not math.isfinite(value):
        return f"expected a finite number, got {value}"
    if inside and isinstance(value, datetime.date | datetime.time | bytes | set | frozenset):
        return f"expected a text, a number, a list or a mapping, got a {type(value).__name__}; put a text in quotes"
    return ""


def _text_problem(text: str) -> str:
    if len(text) > MAX_TEXT:
        return f"expected at most {MAX_TEXT:,} characters, got {len(text):,}"
    hidden = (c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t")
    return next((f"the control character U+{ord(c):04X} is not allowed here; remove it" for c in hidden), "")


def repeated(values: Iterable[Item]) -> list[Item]:
    """Return the values that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


def _without_repeated(values: list[Item]) -> list[Item]:
    if twice := repeated(values):
        raise UserError(f"{twice[0]!r:.80} occurs twice; remove one")
    return values


Distinct = Annotated[list[Item], AfterValidator(_without_repeated)]
"""A list whose values differ."""


# What is expected where pydantic finds a mistake of a type, with its context: a recipe has texts, lists and mappings.
_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "date_from_datetime_parsing": "a date such as 2026-01-31",
    "date_type": "a date such as 2026-01-31",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_type": "an integer",
    "less_than": "a number below {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "a mapping",
    "path_type": "a path",
    "string_too_short": "{min_length} or more characters",
    "string_type": "a text",
    "too_long": "at most {max_length} values",
    "too_short": "{min_length} or more values",
    "tuple_type": "a list",
}


def explained(
    error: ValidationError, model: type[BaseModel], within: str = "", beside: Sequence[str] = ()
) -> list[str]:
    """One line per problem.

    Args:
        error: what validating `model` raised.
        model: the model, whose fields name the valid keys.
        within: the path of the key that holds the model, e.g. `environment.options`; empty for a model of its own.
        beside: further names that are valid beside the fields of the model.
    """
    found: dict[tuple[str, ...], list[Any]] = {}  # the mistakes in each value: one per alternative that it could be
    for item in error.errors():
        found.setdefault(_path(model, item["loc"]), []).append(item)
    return [line for path, items in found.items() for line in _lines(items, path, model, within, beside)]


def read_settings(model: type[Settings], given: Mapping[str, Any], within: str) -> Settings:
    """Check the options that stand beside the `name` of a section, and fill in the others.

    Args:
        model: the dataclass of the options. Each has a default, and `__post_init__` raises a ValueError that begins
            with the name of an option that is out of range.
        given: the values.
        within: the path of the section in a recipe, for the messages.

    Raises:
        OptionError: an option is unknown, or has a wrong value.
    """
    options = {str(key): value for key, value in given.items()}
    hints = get_type_hints(model)
    valid = list(hints)
    if unknown := [key for key in options if key not in valid]:
        raise OptionError([f"unknown key {f'{within}.{key}'!r:.80}{hint(key, ['name', *valid])}" for key in unknown])
    if wrong := [key for key, value in options.items() if isinstance(value, bool) and hints[key] in (int, float)]:
        raise OptionError([f"{within}.{key}: expected a number, got {options[key]}" for key in wrong])
    try:
        return TypeAdapter(model).validate_python(options)
    except ValidationError as error:
        raise OptionError([_setting_line(item, within) for item in error.errors()]) from None


def _setting_line(item: Any, within: str) -> str:
    if item["type"] == "value_error":  # raised by the dataclass; the message begins with the name of the option
        return f"{within}.{item['ctx']['error']}"
    return f"{within}.{'.'.join(map(str, item['loc']))}: {_mistake([item])}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the name that the user probably meant, in any case, or None if none is similar."""
    folded = {one.casefold(): one for one in known}
    found = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: a question with the nearest known one, or nothing."""
    meant = nearest(str(name), known)
    return f"; did you mean {meant!r}?" if meant is not None else ""


def valid_keys(model: type[BaseModel], path: Sequence[str] = ()) -> list[str]:
    """The keys that `model` takes below `path` (e.g. `["policy", "tiny"]`); none where the path ends in a value."""
    for part in path:
        inner = _section(model.model_fields[part].annotation) if part in model.model_fields else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _path(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[str, ...]:
    """Return the keys and places that lead to a mistake, without the names that pydantic gives to alternatives.

    For `bool | Literal["auto"]` these are `bool` and `literal['auto']`; both mean the same value of a recipe.
    """
    path: list[str] = []
    within: type[BaseModel] | None = model
    parts = iter(map(str, loc))
    for part in parts:
        path.append(part)
        field = within.model_fields.get(part) if within is not None else None
        within = _section(field.annotation) if field is not None else None
        if field is not None and within is None and len(_alternatives(field.annotation)) > 1:
            next(parts, None)
    return tuple(path)


def _alternatives(annotation: Any) -> list[Any]:
    """Return what a value may be, beside null."""
    union = get_origin(annotation) in (Union, UnionType)
    return [part for part in get_args(annotation) if part is not type(None)] if union else [annotation]


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a field that is a section, else None."""
    return next((p for p in _alternatives(annotation) if isinstance(p, type) and issubclass(p, BaseModel)), None)


def _lines(
    items: Sequence[Any], path: Sequence[str], model: type[BaseModel], within: str, beside: Sequence[str]
) -> list[str]:
    item = items[0]
    problem = item["ctx"]["error"] if item["type"] == "value_error" else None  # raised by a validator
    if isinstance(problem, OptionError):  # its lines name their keys themselves
        return problem.lines
    name = ".".join([*([within] if within else []), *path])
    if isinstance(problem, InnerValueError):
        name = ".".join([name, *problem.path])[:400]
    if problem is not None:
        lines = [f"{name}: {problem}" if name else str(problem)]
    elif item["type"] == "extra_forbidden":
        known = [*valid_keys(model, path[:-1]), *(beside if len(path) == 1 else ())]
        lines = [f"unknown key {name!r:.80}{hint(path[-1], known)}"]
    elif item["type"] == "missing":
        lines = [f"{name}: is required, but not given"]
    else:
        lines = [f"{name}: {_mistake(items)}"]
    return [" ".join(line.split()) for line in lines]


def _mistake(items: Sequence[Any]) -> str:
    """Say what is expected of a value, and what was given."""
    return f"expected {' or '.join(map(_expected, items))}, got {items[0]['input']!r:.80}"


def _expected(item: Any) -> str:
    if item["type"] not in _EXPECTED:
        return str(item["msg"]).removeprefix("Input should be ")
    bounds = {key: f"{value:g}" if isinstance(value, float) else value for key, value in item.get("ctx", {}).items()}
    return _EXPECTED[item["type"]].format(**bounds)


def hint(key: str, known: Sequence[str]) -> str:
    """Return the end of the message on an unknown key: the key that was probably meant, or all valid ones."""
    valid = f"; valid keys: {', '.join(known)}" if known else "; there are no keys here"
    return did_you_mean(key, known) or valid
