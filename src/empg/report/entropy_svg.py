"""The figures of `empg entropy`: gradients and changes of entropy by tenths of the steps, in order of step entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from empg.report.svg import Line, draw_lines

_X = "tenth of the steps, by step entropy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenth:
    """Means over a tenth of the steps.

    Attributes:
        place: 1 for the steps of the lowest entropy, 10 for the highest; fewer tenths if there are fewer steps.
        means: by the name of the value.
    """

    place: int
    means: dict[str, float]


def tenths(by: str, values: dict[str, Sequence[float]]) -> list[Tenth]:
    """Cut steps into ten parts in ascending order of one of their values, and average all values of each part."""
    order = sorted(range(len(values[by])), key=lambda index: values[by][index])
    edges = [len(order) * part // 10 for part in range(11)]
    parts = [order[low:high] for low, high in pairwise(edges) if low < high]
    return [
        Tenth(place=place, means={name: fmean(column[index] for index in part) for name, column in values.items()})
        for place, part in enumerate(parts, 1)
    ]


def draw_coupling(parts: Sequence[Tenth], path: Path, note: str) -> Path:
    """Draw the gradients of steps, each as a share of its largest tenth, and write them as one SVG.

    Args:
        parts: with the means `expected`, `logits` and `parameters` of `run.coupling.StepGradient`.
        path: path of the SVG.
        note: line below the plot.

    Raises:
        UserError: the figure cannot be written.
    """
    # The first two have the same unit and one scale, so that they can be compared.
    top = max((max(part.means["expected"], part.means["logits"]) for part in parts), default=0.0)
    steepest = max((part.means["parameters"] for part in parts), default=0.0)
    shown = [
        ("(1 - exp(-H2)) / T^2: Proposition 1", "expected", top),
        ("squared gradient by the logits", "logits", top),
        ("gradient by the parameters", "parameters", steepest),
    ]
    lines = [
        Line(label, smooth={part.place: part.means[name] / scale if scale else 0.0 for part in parts})
        for label, name, scale in shown
    ]
    return draw_lines(lines, path, title="Gradients of steps, share of the largest", note=note, x_label=_X, first=1)


def draw_entropy_change(parts: Sequence[Tenth], path: Path, note: str) -> Path:
    """Draw the entropy (nats) of the same steps before and after learning, and write them as one SVG.

    Args:
        parts: with the means `before` and `after`.
        path: path of the SVG.
        note: line below the plot.

    Raises:
        UserError: the figure cannot be written.
    """
    top = max((max(part.means.values()) for part in parts), default=0.0) or 1.0
    lines = [Line(name, smooth={part.place: part.means[name] / top for part in parts}) for name in ("before", "after")]
    labels = {share / 4: f"{top * share / 4:.2f}" for share in range(5)}
    title = "Step entropy before and after learning (nats)"
    return draw_lines(lines, path, title=title, note=note, x_label=_X, first=1, y_labels=labels)
