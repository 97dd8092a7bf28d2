"""Which fields of a record the readers of a run rely on, and of which type they must be.

Every record is checked once, when it is read (`RunFolder.read_metrics`), so that what reads records needs no checks of
its own. Only what a reader cannot do without is required: a run of an earlier version may lack the other fields. A
field that is not listed here may have any value, except a number of an iteration such as `policy/loss`.

What counts as a number in a file of a run is decided here, by `is_number` and `finite`.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

_MOST = 2**31 - 1  # the tables store whole numbers in 32 bits


class _Type(NamedTuple):
    words: str
    holds: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that fits the tables; a bool is not a number."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float) and math.isfinite(value)


def finite(value: Any) -> float | None:
    """Return a number as a float, or None for what is not a number (`is_number`)."""
    return float(value) if is_number(value) else None


def finite_ones(values: Iterable[Any]) -> list[float]:
    """Return the numbers among some values, in their order."""
    return [number for value in values if (number := finite(value)) is not None]


_WHOLE = _Type(f"a whole number from 0 to {_MOST}", lambda v: type(v) is int and 0 <= v <= _MOST)
_NUMBER = _Type("a number", is_number)
_NUMBER_OR_NULL = _Type("a number or null", lambda v: v is None or is_number(v))  # null: it was not finite
_SHARE = _Type("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)
_SHARE_OR_NULL = _Type("a number from 0 to 1, or null", lambda v: v is None or _SHARE.holds(v))
_SECONDS_OR_NULL = _Type("seconds or null", lambda v: v is None or (is_number(v) and 0 <= v <= _MOST))
_TEXT = _Type("a string", lambda v: isinstance(v, str))
_TEXTS = _Type("a list of strings", lambda v: isinstance(v, list) and all(isinstance(item, str) for item in v))
_OBJECT = _Type("an object", lambda v: isinstance(v, dict))

_Fields = Mapping[str, _Type]
_RATE: _Fields = {"n": _WHOLE, "successes": _WHOLE, "success": _SHARE, "low": _SHARE, "high": _SHARE}
_REQUIRED: Mapping[str, _Fields] = {
    "train": {"iteration": _WHOLE},
    "eval": {
        "iteration": _WHOLE, "split": _TEXT, "decoding": _TEXT, "panel": _TEXT, "panel_sha256": _TEXT, **_RATE,
    },
    "warm_start": {"step": _WHOLE},
}  # fmt: skip
_OPTIONAL: Mapping[str, _Fields] = {
    "train": {"alarms": _TEXTS, "rollout/success": _SHARE_OR_NULL, "time/total": _SECONDS_OR_NULL},
    "eval": {
        "temperature": _NUMBER, "score": _NUMBER_OR_NULL, "metrics": _OBJECT, "failed_turns": _WHOLE,
        "env_errors": _WHOLE, "by_type": _OBJECT, "time": _SECONDS_OR_NULL,
    },
    "warm_start": {"time": _SECONDS_OR_NULL},
}  # fmt: skip


def fault_of(record: Mapping[str, Any]) -> str:
    """Return what is wrong with a record, as `<field>: expected <type>, got <value>`; empty if it can be used."""
    kind = record.get("kind")
    if not isinstance(kind, str):
        return _fault("kind", _TEXT, record)
    for name, wanted in _REQUIRED.get(kind, {}).items():
        if name not in record or not wanted.holds(record[name]):
            return _fault(name, wanted, record)
    optional = {"iteration": _WHOLE, **_OPTIONAL.get(kind, {})}
    for name, value in record.items():
        if (expected := optional.get(name, _NUMBER_OR_NULL if "/" in name else None)) and not expected.holds(value):
            return _fault(name, expected, record)
    return _fault_of_types(record.get("by_type", {})) if kind == "eval" else ""


def _fault_of_types(by_type: Mapping[str, Any]) -> str:
    for task_type, rate in by_type.items():
        if not isinstance(rate, dict):
            return _fault(task_type, _OBJECT, by_type, "by_type")
        for name, wanted in _RATE.items():
            if name not in rate or not wanted.holds(rate[name]):
                return _fault(name, wanted, rate, f"by_type.{task_type}")
    return ""


def _fault(name: str, wanted: _Type, values: Mapping[str, Any], parent: str = "") -> str:
    place = f"{parent}.{name}" if parent else name
    got = reprlib.repr(values[name]) if name in values else "no value"
    return f"{place!r:.80}: expected {wanted.words}, got {got}"
