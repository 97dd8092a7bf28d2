"""YAML from users, read with bounds: the values that people mean, and one line for everything else.

PyYAML follows YAML 1.1 and trusts its input. A repeated key silently replaces the first, `016` is fourteen, `1e-6` is a
text, and aliases can expand a few lines to gigabytes. Recipes, overrides and options of environments are read here.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from empg.errors import UserError, message_of

MAX_CHARS = 1 << 20
MAX_DEPTH = 50  # levels of nesting
MAX_VALUES = 100_000  # with every alias counted as often as it is used
MAX_DIGITS = 100  # of an integer; Python refuses to print more than 4,300


class _Loader(yaml.SafeLoader):
    """SafeLoader that rejects repeated keys and reads `016` as sixteen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; a key may occur once."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen and name != "<<":
                line = key.start_mark.line + 1
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} occurs twice (line {line})")
            seen.add(name)
        return super().construct_mapping(node, deep)


# Octal and sexagesimal integers of YAML 1.1 (016 is 14, 1:30 is 90) surprise everyone: only decimal, hex and binary.
_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:int"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(rf"{_INTEGER.pattern}\Z"), list("-+0123456789"))


# Numbers with an exponent but without a point or a sign of the exponent: texts in YAML 1.1, numbers in YAML 1.2.
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+\Z")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    if len(text) > MAX_DIGITS:
        raise ValueError(f"expected an integer of at most {MAX_DIGITS} digits, got {len(text):,}")
    base = {"0b": 2, "0x": 16}.get(text.lstrip("+-")[:2], 10)
    return int(text, base)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


_BREAKS = frozenset("\x85\u2028\u2029")  # line breaks of YAML 1.1, which PyYAML writes as they are and reads as \n


class _Dumper(yaml.SafeDumper):
    """SafeDumper that puts quotation marks around a text which `read_yaml` would read as a number."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(rf"{_INTEGER.pattern}\Z"), list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def write_yaml(value: Any, *, in_one_line: bool = False) -> str:
    """Return plain values as YAML, in their order; `read_yaml` gives them back."""
    width = 10_000 if in_one_line else 80

    def written(unicode: bool) -> str:
        return yaml.dump(
            value, Dumper=_Dumper, sort_keys=False, allow_unicode=unicode, default_flow_style=in_one_line, width=width
        )

    text = written(True)
    return text if _BREAKS.isdisjoint(text) else written(False)


def read_yaml(text: str, source: str) -> Any:
    """Read a YAML text.

    Args:
        text: the text.
        source: what is read, for the error message, e.g. the name of a file.

    Raises:
        UserError: the text is not YAML, a key occurs twice, or a bound of this module is exceeded.
    """
    if len(text) > MAX_CHARS:
        raise UserError(f"{source} is too long: expected at most {MAX_CHARS:,} characters, got {len(text):,}")
    try:
        _check_size(text, source)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, 0, [MAX_VALUES], source)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not valid YAML: {_problem(error)}") from None
    except UserError:
        raise
    # A wrong value under an explicit tag, such as `!!bool maybe`, raises whatever its constructor runs into.
    except (ValueError, OverflowError, RecursionError, LookupError, AttributeError, TypeError) as error:
        raise UserError(f"{source} has a value that cannot be read: {message_of(error, 300)}") from None


def _check_size(text: str, source: str) -> None:
    """Reject deep nesting and too many values before they are parsed: PyYAML is slow, and recurses once per level."""
    depth = values = 0
    for event in yaml.parse(text, Loader=_Loader):
        values += isinstance(event, yaml.NodeEvent)
        if values > MAX_VALUES:
            raise UserError(f"{source} is too large: expected at most {MAX_VALUES:,} values")
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            if depth > MAX_DEPTH:
                raise UserError(f"{source} is nested too deeply: expected at most {MAX_DEPTH} levels")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1


def _count(node: yaml.Node, depth: int, left: list[int], source: str) -> None:
    """Count the values of a document with its aliases expanded; an alias may also refer to itself."""
    left[0] -= 1
    if left[0] < 0 or depth > MAX_DEPTH:
        raise UserError(f"{source} is too large with its aliases expanded: expected at most {MAX_VALUES:,} values")
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _count(child, depth + 1, left, source)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _count(key, depth + 1, left, source)
            _count(value, depth + 1, left, source)


def _problem(error: yaml.YAMLError) -> str:
    """Return what PyYAML objects to and where, without the name that it gives the text and the picture of the place."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return message_of(error, 300)
    context = getattr(error, "context", None)
    return f"{f'{context}, ' if context else ''}{problem} (line {mark.line + 1}, column {mark.column + 1})"
