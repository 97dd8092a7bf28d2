"""The lines of `metrics.jsonl`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_line(record: Mapping[str, Any]) -> bytes:
    """Return a record as one line of JSON.

    JSON has no NaN: numbers that are not finite are written as null and their keys listed under `nonfinite`.
    """
    nonfinite: list[str] = []
    clean = _finite(dict(record), "", nonfinite)
    if nonfinite:
        clean["nonfinite"] = nonfinite
    return json.dumps(clean, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _finite(value: Any, key: str, nonfinite: list[str]) -> Any:
    """Return the value as plain JSON; add the names of numbers that are not finite to `nonfinite`."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v, f"{key}/{k}" if key else str(k), nonfinite) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v, f"{key}/{i}", nonfinite) for i, v in enumerate(value)]
    if hasattr(value, "item"):  # a NumPy or torch scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite.append(key)
        return None
    return value
