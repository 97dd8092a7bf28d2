"""Draw success over iterations as a static SVG for a README or a paper, with several runs overlaid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from empg.errors import UserError
from empg.record.durable import write_whole
from empg.record.records import EvalRecord, Record, eval_records, train_records
from empg.record.runfolder import RunFolder, RunFolderError
from empg.report.before_after import Rate
from empg.report.curves import number

SMOOTHED = 5  # iterations in the running mean
COLOURS = 6  # size of the palette; further runs reuse the colours

_TEMPLATE = Path(__file__).parent / "assets" / "curve.svg.j2"
_WIDTH, _HEIGHT = 760, 448
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 738, 92, 368  # the edges of the plot
_APART = 6  # pixels between the dots of runs at the same iteration
_LEGEND_LETTER = 7.2  # average width of a letter in the legend, in pixels


@dataclass(frozen=True)
class Dot:
    """An evaluation in pixels: its position, and the ends of its Wilson interval. `says` is the tooltip."""

    x: float
    y: float
    low: float
    high: float
    says: str


@dataclass(frozen=True)
class Curve:
    """One run in pixels; the lines are SVG point lists, empty where the run has no training rollouts."""

    label: str
    colour: int
    legend_x: float
    legend_y: float
    raw: str
    smooth: str
    dots: list[Dot]


def draw_curve(
    runs: Sequence[RunFolder],
    path: Path,
    *,
    split: str | None = None,
    decoding: str = "sampled",
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
        labels: one per run; None uses the seeds.
        title: title above the plot.

    Raises:
        UserError: no runs, a wrong number of labels, or runs without anything to draw yet.
        RunFolderError: a run's metrics.jsonl is damaged, or the figure cannot be written.
    """
    if not runs or (labels is not None and len(labels) != len(runs)):
        raise UserError(f"wrong number of labels: expected one per run, got {len(runs)} runs and labels={labels!r}")
    told = [run.read_metrics() for run in runs]
    names = [_label(*named) for named in zip(runs, told, strict=True)] if labels is None else list(labels)
    try:
        svg = _render(told, names, split or _first_split(told), decoding, title)
    except ValueError as error:
        raise UserError(f"{error} in {', '.join(str(run.path) for run in runs)}") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, svg.encode("utf-8", "replace"))
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of each value and its neighbours, `window` (odd) in total; fewer at the ends."""
    half = window // 2
    spans = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(span) / len(span) for span in spans]


def _render(told: Sequence[Sequence[Record]], names: Sequence[str], split: str, decoding: str, title: str) -> str:
    train = [_train(records) for records in told]
    evaluations = [_evaluations(records, split, decoding) for records in told]
    iterations = [i for run in train for i in run] + [i for run in evaluations for i in run]
    if not iterations:
        raise UserError(f"nothing to draw: no training iterations and no evaluation of {split} ({decoding})")
    last = max(1, *iterations)
    tasks = sorted({f"{record['n']} tasks" for run in evaluations for record in run.values()})
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_RIGHT,
        top=_TOP,
        bottom=_BOTTOM,
        smoothed=SMOOTHED,
        rollouts=any(train),
        panel=", ".join([f"{split} ({decoding})", *tasks]) if tasks else "",
        curves=_curves(names, train, evaluations, last),
        y_ticks=[(_y(share / 100), f"{share}%") for share in (0, 25, 50, 75, 100)],
        x_ticks=[(_x(iteration, last), iteration) for iteration in _ticks(last)],
    )


# --- series -------------------------------------------------------------------------------------------------


def _train(records: Sequence[Record]) -> dict[int, float]:
    """Return the success of the training episodes by iteration."""
    found = {r["iteration"]: number(r.get("rollout/success")) for r in train_records(records)}
    return {i: success for i, success in sorted(found.items()) if success is not None}


def _first_split(told: Sequence[Sequence[Record]]) -> str:
    return next((r["split"] for records in told for r in eval_records(records)), "any split")


def _evaluations(records: Sequence[Record], split: str, decoding: str) -> dict[int, EvalRecord]:
    """Return the evaluations of one split by iteration, all on the panel of the last evaluation."""
    found = [r for r in eval_records(records) if (r["split"], r["decoding"]) == (split, decoding)]
    return {r["iteration"]: r for r in found if r["panel_sha256"] == found[-1]["panel_sha256"]}


def _label(run: RunFolder, records: Sequence[Record]) -> str:
    seeds = [r["seed"] for r in records if r.get("kind") == "run" and r.get("seed") is not None]
    return f"seed {seeds[0]}" if seeds else run.path.name


def _curves(
    names: Sequence[str], train: Sequence[dict[int, float]], evaluations: Sequence[dict[int, EvalRecord]], last: int
) -> list[Curve]:
    curves: list[Curve] = []
    legend_x, legend_y = float(_LEFT), 54.0
    for place, (name, rollouts, played) in enumerate(zip(names, train, evaluations, strict=True)):
        shift = _APART * (place - (len(names) - 1) / 2)
        smooth = dict(zip(rollouts, running_mean(list(rollouts.values()), SMOOTHED), strict=True))
        dots = [_dot(name, i, Rate.of(record), _x(i, last) + shift) for i, record in sorted(played.items())]
        raw, mean = _points(rollouts, last), _points(smooth, last)
        room = 34 + _LEGEND_LETTER * len(name)
        if legend_x + room > _RIGHT and legend_x > _LEFT:
            legend_x, legend_y = float(_LEFT), legend_y + 18
        curves.append(Curve(name, place % COLOURS + 1, round(legend_x, 1), legend_y, raw, mean, dots))
        legend_x += room
    return curves


def _dot(name: str, iteration: int, rate: Rate, x: float) -> Dot:
    says = (
        f"{name}, iteration {iteration}: {rate.successes} of {rate.n} "
        f"({100 * rate.success:.1f}%, 95% interval {100 * rate.low:.1f} to {100 * rate.high:.1f}%)"
    )
    return Dot(round(x, 1), _y(rate.success), _y(rate.low), _y(rate.high), says)


# --- positions ---------------------------------------------------------------------------------------------


def _x(iteration: int, last: int) -> float:
    inset = 14  # space for the dots of the first and the last evaluation
    return round(_LEFT + inset + (_RIGHT - _LEFT - 2 * inset) * iteration / last, 1)


def _y(share: float) -> float:
    return round(_BOTTOM - (_BOTTOM - _TOP) * share, 1)


def _points(values: dict[int, float], last: int) -> str:
    return " ".join(f"{_x(i, last)},{_y(value)}" for i, value in values.items())


def _ticks(last: int) -> range:
    """Return at most nine round iteration numbers, starting at 0."""
    steps = (size * 10**power for power in range(9) for size in (1, 2, 5))
    return range(0, last + 1, next(step for step in steps if last / step <= 8))
