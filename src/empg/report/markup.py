"""How text of a run enters a page: escaped, and with its control characters shown instead of obeyed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from empg.plain_text import visible
from empg.record.fields import finite, finite_ones


def templates(folder: str) -> Environment:
    """Return the templates of a folder below this package: they escape all texts, and show their control characters."""
    return Environment(
        loader=PackageLoader("empg.report", folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def embed_json(data: Any) -> Markup:
    """Return JSON that is safe inside a `<script>` element: without `<`, `>` and `&` it cannot end the element."""
    text = json.dumps(encodable(data), allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def encodable(value: Any) -> Any:
    """Return plain data that JSON can hold: control characters are shown, and a number that is not finite is None.

    A run may record such a number, and a sum or a mean of large numbers may be one.
    """
    if isinstance(value, dict):
        return {key: encodable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [encodable(part) for part in value]
    return finite(value) if isinstance(value, float) else shown(value)


def shown(value: Any) -> Any:
    """Return plain data with the control characters of its texts shown; our own markup stays."""
    if isinstance(value, dict):
        return {key: shown(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [shown(part) for part in value]
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def extent(values: Iterable[Any]) -> list[float]:
    """Return the smallest and the largest of the finite numbers; one number if they are equal, none without any."""
    found = finite_ones(values)
    return sorted({min(found), max(found)}) if found else []


def short(text: str | None, limit: int) -> str:
    """Return at most `limit` characters of a text, and how many more there are."""
    text = text or ""
    left = len(text) - limit
    return text if left <= 0 else f"{text[:limit]} … ({left:,} more characters)"
