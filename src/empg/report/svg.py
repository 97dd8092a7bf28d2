"""Draw success over iterations as a static SVG for a README or a paper: several runs, or means of runs with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from empg.errors import UserError
from empg.record.fields import finite
from empg.record.records import EvalRecord, Record, own_evaluations, train_records
from empg.record.runfolder import RunFolder
from empg.report.before_after import Rate
from empg.report.curves import pen
from empg.report.figure import shortened, write_figure
from empg.report.names import names_of
from empg.report.overlay import but_the_seed

SMOOTHED = 5  # iterations in the running mean
PERCENT: Mapping[float, str] = {share / 100: f"{share}%" for share in (0, 25, 50, 75, 100)}

_DECODING = "sampled"  # what is drawn, if there is any, unless another decoding is chosen
_HEIGHT = 448
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 738, 92, 368  # the edges of the plot
_INSET = 14  # pixels left of the first iteration and right of the last, for the dots of evaluations there
_APART = 6  # pixels between the dots of runs at the same iteration; less if they would not have room
_RADIUS = 4.5  # of a dot, pixels
_LEGEND_TOP, _LEGEND_ROW = 54.0, 18  # pixels; there is space for two rows
_LEGEND_LETTER = 7.2  # average width of a letter in the legend, in pixels
_LEGEND_LETTERS = 88  # that fit into one row


@dataclass(frozen=True)
class Mark:
    """An evaluation: its success with an interval. `tooltip` is shown over its dot."""

    value: float
    low: float
    high: float
    tooltip: str


@dataclass(frozen=True)
class Line:
    """One curve of a figure, by iteration; what is empty is not drawn.

    `raw` is a thin line, `smooth` a thick one, `band` an area from low to high, `marks` are dots with intervals.
    """

    label: str
    raw: dict[int, float] = field(default_factory=dict)
    smooth: dict[int, float] = field(default_factory=dict)
    band: dict[int, tuple[float, float]] = field(default_factory=dict)
    marks: dict[int, Mark] = field(default_factory=dict)


@dataclass(frozen=True)
class _Dot:
    """A mark in pixels."""

    x: float
    y: float
    low: float
    high: float
    tooltip: str


@dataclass(frozen=True)
class _Curve:
    """A line in pixels; the lines and the band are SVG point lists."""

    label: str
    colour: int
    dashes: int
    legend_x: float
    legend_y: float
    raw: str
    smooth: str
    band: str
    dots: list[_Dot]
    lone: str  # the point of lines that have only one, which would show nothing


def draw_curve(
    runs: Sequence[RunFolder],
    path: Path,
    *,
    split: str | None = None,
    decoding: str = _DECODING,
    labels: Sequence[str] | None = None,
    title: str = "Success during training",
) -> Path:
    """Draw the learning curves of some runs and write them as one SVG, readable on light and dark pages.

    A thin line is the success of the training episodes, a thick line its running mean over `SMOOTHED` iterations. Dots
    are evaluations of one panel with 95% Wilson intervals.

    Args:
        runs: at least one; usually the same recipe under several seeds.
        path: path of the SVG, which is written atomically.
        split: the split whose evaluations are drawn; None uses the first that was evaluated.
        decoding: `sampled` or `greedy`.
        labels: one per run; None uses the seeds if the runs differ in nothing else, or else the folders.
        title: title above the plot.

    Raises:
        UserError: no runs, a run that is named twice, a wrong number of labels, a split or decoding without
            evaluations, or runs without anything to draw yet.
        UserError: a run's metrics.jsonl or recipe.yaml is damaged, or the figure cannot be written.
    """
    if not runs or (labels is not None and len(labels) != len(runs)):
        raise UserError(f"wrong number of labels: expected one per run, got {len(runs)} runs and labels={labels!r}")
    names_of(runs)  # which are not named twice
    told = [run.read_metrics() for run in runs]
    recipes = [run.recipe_values() for run in runs]
    names = _labels(runs, told, recipes) if labels is None else list(labels)
    own = [own_evaluations(records, recipe) for recipe, records in zip(recipes, told, strict=True)]
    split, evaluations = _evaluations(own, split, decoding)
    lines = [_line(*parts) for parts in zip(names, map(_train, told), evaluations, strict=True)]
    if not any(line.raw or line.marks for line in lines):
        where = ", ".join(str(run.path) for run in runs)
        wanted = f"no evaluation with the settings of its recipe on {split} ({decoding})"
        raise UserError(f"nothing to draw: no training iterations and {wanted} in {where}")
    tasks = sorted({f"{record['n']} tasks" for run in evaluations for record in run.values()})
    panel = ", ".join([f"{split} ({decoding})", *tasks]) if tasks else ""
    notes = [f"lines: training episodes, mean over {SMOOTHED} iterations"] if any(line.raw for line in lines) else []
    notes += [f"dots: {panel}, 95% interval"] if panel else []
    return draw_lines(lines, path, title=title, note=" · ".join(notes))


def draw_lines(
    lines: Sequence[Line],
    path: Path,
    *,
    title: str,
    note: str,
    x_label: str = "iteration",
    first: int = 0,
    y_labels: Mapping[float, str] = PERCENT,
) -> Path:
    """Draw values from 0 to 1 over whole numbers and write them as one SVG, with a note below the plot.

    Args:
        lines: success over iterations, or other shares.
        path: path of the SVG, which is written atomically.
        title: title above the plot.
        note: line below the plot.
        x_label: what the whole numbers are.
        first: the smallest of them.
        y_labels: labels of the vertical axis by their value.

    Raises:
        UserError: the figure cannot be written.
    """
    iterations = [i for line in lines for by in (line.raw, line.smooth, line.marks) for i in by]
    last = max([1, *iterations])
    curves = _curves(lines, last)
    # A legend of more rows moves the plot down.
    lower = max(0.0, max((curve.legend_y for curve in curves), default=0.0) - _LEGEND_TOP - _LEGEND_ROW)
    return write_figure(
        "curve.svg.j2",
        path,
        title=title,
        height=_HEIGHT + round(lower),
        lower=round(lower),
        left=_LEFT,
        right=_RIGHT,
        top=_TOP,
        bottom=_BOTTOM,
        radius=_RADIUS,
        note=note,
        curves=curves,
        y_ticks=[(_y(value), label) for value, label in y_labels.items()],
        x_ticks=[(_x(place, last), place) for place in _ticks(last) if place >= first],
        x_label=x_label,
    )


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of each value and its neighbours, `window` (odd) in total; fewer at the ends."""
    half = window // 2
    spans = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(span) / len(span) for span in spans]


# --- series -------------------------------------------------------------------------------------------------


def _train(records: Sequence[Record]) -> dict[int, float]:
    """Return the success of the training episodes by iteration."""
    found = {r["iteration"]: finite(r.get("rollout/success")) for r in train_records(records)}
    return {i: success for i, success in sorted(found.items()) if success is not None}


def _evaluations(
    own: Sequence[Sequence[EvalRecord]], split: str | None, decoding: str
) -> tuple[str, list[dict[int, EvalRecord]]]:
    """Return a split, the first that was evaluated if it is None, and each run's own evaluations of it by iteration.

    Raises:
        UserError: no run has such an evaluation, although the split or a decoding was chosen, or there are others.
    """
    everything = [record for run in own for record in run]
    first = next((r["split"] for r in everything if r["decoding"] == decoding), "any split")
    drawn = first if split is None else split
    found = [{r["iteration"]: r for r in run if (r["split"], r["decoding"]) == (drawn, decoding)} for run in own]
    if not any(found) and (split is not None or decoding != _DECODING or everything):
        known = ", ".join(dict.fromkeys(f"{r['split']} ({r['decoding']})" for r in everything))
        raise UserError(
            f"no run has an evaluation with the settings of its recipe on {drawn} ({decoding}); "
            + (f"choose another split or decoding: {known}" if known else "run empg evaluate first")
        )
    return drawn, found


def _labels(
    runs: Sequence[RunFolder], told: Sequence[Sequence[Record]], recipes: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return the seeds of runs of one recipe; the names of the folders if a run has none, or two have the same."""
    if len(set(map(but_the_seed, recipes))) > 1:
        return names_of(runs)
    begun = [next((r for r in records if r.get("kind") == "run"), {}) for records in told]
    seeds = [f"seed {record['seed']}" for record in begun if record.get("seed") is not None]
    return seeds if len(set(seeds)) == len(runs) else names_of(runs)


def _line(name: str, rollouts: dict[int, float], played: dict[int, EvalRecord]) -> Line:
    smooth = dict(zip(rollouts, running_mean(list(rollouts.values()), SMOOTHED), strict=True))
    return Line(name, rollouts, smooth, marks={i: _mark(name, i, Rate.of(record)) for i, record in played.items()})


def _mark(name: str, iteration: int, rate: Rate) -> Mark:
    tooltip = (
        f"{name}, iteration {iteration}: {rate.successes} of {rate.n} "
        f"({100 * rate.success:.1f}%, 95% interval {100 * rate.low:.1f} to {100 * rate.high:.1f}%)"
    )
    return Mark(rate.success, rate.low, rate.high, tooltip)


# --- positions ---------------------------------------------------------------------------------------------


def _x(iteration: int, last: int) -> float:
    return round(_LEFT + _INSET + (_RIGHT - _LEFT - 2 * _INSET) * iteration / last, 1)


def _y(share: float) -> float:
    return round(_BOTTOM - (_BOTTOM - _TOP) * share, 1)


def _points(values: dict[int, float], last: int) -> str:
    return " ".join(f"{_x(i, last)},{_y(value)}" for i, value in values.items())


def _ticks(last: int) -> range:
    """Return at most nine round iteration numbers, starting at 0."""
    steps = (size * 10**power for power in range(9) for size in (1, 2, 5))
    return range(0, last + 1, next(step for step in steps if last / step <= 8))


def _curves(lines: Sequence[Line], last: int) -> list[_Curve]:
    curves: list[_Curve] = []
    legend_x, legend_y = float(_LEFT), _LEGEND_TOP
    apart = min(_APART, 2 * (_INSET - _RADIUS) / max(1, len(lines) - 1))
    for place, line in enumerate(lines):
        shift = apart * (place - (len(lines) - 1) / 2)
        dots = [
            _Dot(round(_x(i, last) + shift, 1), _y(mark.value), _y(mark.low), _y(mark.high), mark.tooltip)
            for i, mark in sorted(line.marks.items())
        ]
        label = shortened(line.label, _LEGEND_LETTERS)
        room = 34 + _LEGEND_LETTER * len(label)
        if legend_x + room > _RIGHT and legend_x > _LEFT:
            legend_x, legend_y = float(_LEFT), legend_y + _LEGEND_ROW
        upper = _points({i: high for i, (_, high) in line.band.items()}, last)
        lower = _points({i: low for i, (low, _) in reversed(line.band.items())}, last)
        raw, smooth, band = _points(line.raw, last), _points(line.smooth, last), f"{upper} {lower}".strip()
        lone = (smooth or raw) if len(line.smooth or line.raw) == 1 else ""
        place_of = (round(legend_x, 1), legend_y)
        curves.append(_Curve(label, *pen(place), *place_of, raw, smooth, band, dots, lone))
        legend_x += room
    return curves
