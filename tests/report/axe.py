"""axe-core, the accessibility checker, in a page of the browser."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "axe_core"


@cache
def _source() -> str:
    return (FOLDER / "axe.min.js").read_text(encoding="utf-8")


def serious(page: Any) -> list[tuple[str, str]]:
    """The rules that a page breaks with serious or critical impact, each with one element that breaks it."""
    page.evaluate(_source())
    found = page.evaluate("axe.run()")["violations"]
    return [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
