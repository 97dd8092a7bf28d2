"""Draw differences with their intervals as a static SVG: a forest plot, one row per variant in groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from empg.record.statistics import in_points
from empg.report.figure import shortened, write_figure

LIMIT = 0.2  # a difference beyond it, in either direction, is an arrow at the edge of the plot; its numbers are written
_LABELS, _LEFT, _RIGHT = 24, 216, 508  # the labels, the edges of the plot
_COLUMNS = (524, 642)  # the numbers of the two series
_TOP, _ROW, _GAP, _BELOW = 84, 22, 14, 66  # pixels
_LETTERS = 26  # of a label; the rest is in its tooltip


@dataclass(frozen=True)
class Difference:
    """A difference from -1 to 1 and its interval. `name` begins the tooltip of its mark."""

    value: float
    low: float
    high: float
    name: str


@dataclass(frozen=True)
class Compared:
    """A row: a variant beside one or two others, in the order of the series; None where it is not compared."""

    label: str
    beside: Sequence[Difference | None]


@dataclass(frozen=True)
class Group:
    """Rows below a heading."""

    title: str
    rows: Sequence[Compared]


@dataclass(frozen=True)
class _Mark:
    """A difference in pixels. `left` and `right` say where its bar leaves the plot."""

    series: int
    x: float
    y: float
    low: float
    high: float
    inside: bool
    left: bool
    right: bool
    text: str
    text_x: int
    text_y: float
    tooltip: str


def draw_differences(groups: Sequence[Group], path: Path, *, title: str, note: str, series: Sequence[str]) -> Path:
    """Draw differences in points and write them as one SVG.

    Args:
        groups: at least one row in total.
        path: path of the SVG, which is written atomically.
        title: title above the plot.
        note: line below the plot.
        series: one or two names: what the rows are compared with.

    Raises:
        UserError: the figure cannot be written.
    """
    every = [one for group in groups for row in group.rows for one in row.beside if one is not None]
    low = max(-LIMIT, min([-0.01, *(one.low for one in every)]))
    high = min(LIMIT, max([0.01, *(one.high for one in every)]))
    headings, labels, marks = [], [], []
    y = float(_TOP)
    for group in groups:
        headings.append((y, group.title))
        for row in group.rows:
            y += _ROW
            cut = shortened(row.label, _LETTERS)
            labels.append((y, cut, row.label))
            marks += _marks(row, y, low, high)
        y += _ROW + _GAP
    bottom = round(y - _GAP - _ROW / 2)
    return write_figure(
        "forest.svg.j2",
        path,
        title=title,
        height=bottom + _BELOW,
        left=_LABELS,
        edges=(_LEFT, _RIGHT),
        top=_TOP + _ROW // 2 - 4,
        bottom=bottom,
        zero=_x(0.0, low, high),
        ticks=[(_x(points / 100, low, high), f"{points:+d}" if points else "0") for points in _ticks(low, high)],
        series=list(zip(series, _COLUMNS, strict=False)),
        headings=headings,
        labels=labels,
        marks=marks,
        note=note,
    )


def _marks(row: Compared, y: float, low: float, high: float) -> list[_Mark]:
    """Return the marks of a row; two lie above one another."""
    there = [(place, one) for place, one in enumerate(row.beside) if one is not None]
    shifts = (0.0,) if len(there) == 1 else (-3.5, 3.5)
    marks = []
    for (place, one), shift in zip(there, shifts, strict=False):
        text = in_points(one.value, one.low, one.high)
        marks.append(
            _Mark(
                series=place + 1,
                x=_x(one.value, low, high),
                y=y + shift,
                low=_x(max(one.low, low), low, high),
                high=_x(min(one.high, high), low, high),
                inside=low <= one.value <= high,
                left=one.low < low,
                right=one.high > high,
                text=text,
                text_x=_COLUMNS[place],
                text_y=y + 4,
                tooltip=f"{one.name}: {text} points",
            )
        )
    return marks


def _x(value: float, low: float, high: float) -> float:
    return round(_LEFT + (_RIGHT - _LEFT) * (value - low) / (high - low), 1)


def _ticks(low: float, high: float) -> range:
    """Return round numbers of points between the two, with 0 among them."""
    step = next(size for size in (1, 2, 5, 10) if 100 * (high - low) / size <= 8)
    return range(math.ceil(100 * low / step) * step, math.floor(100 * high / step) * step + 1, step)
