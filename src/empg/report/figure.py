"""Static SVG figures for a README or a paper, readable on light and dark pages: one style for all of them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment

from empg.record.durable import write_file
from empg.report.markup import templates

WIDTH = 760
_TITLE_LETTERS = 76  # that fit above the figure


def write_figure(template: str, path: Path, *, title: str, height: int, **values: Any) -> Path:
    """Write a figure, atomically.

    Args:
        template: a file of `assets/` that extends `figure.svg.j2`.
        path: path of the SVG.
        title: title above the figure.
        height: pixels.
        values: what else the template needs. Texts are escaped, and their control characters shown.

    Raises:
        UserError: the figure cannot be written.
    """
    heading = shortened(title, _TITLE_LETTERS)
    drawn = _templates().get_template(template)
    write_file(path, drawn.render(title=title, heading=heading, width=WIDTH, height=height, **values))
    return path


def shortened(text: str, letters: int) -> str:
    """Return a text of at most so many letters, whose end is an ellipsis if it was longer."""
    return text if len(text) <= letters else text[: letters - 1] + "…"


@functools.cache
def _templates() -> Environment:
    return templates("assets")
