"""The charts of the page over iterations, made from a run's records, as plain data for the page's script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from empg.record.fields import finite
from empg.record.records import (
    EvalRecord,
    Record,
    TrainRecord,
    own_evaluations,
    train_records,
    warm_start_records,
)
from empg.report.turns import END_NAMES

Values = list[float | None]
COLOURS = 6  # size of the page's palette without grey
DASHES = 3  # patterns of lines


@dataclass
class Series:
    """One series of a chart.

    `kind` is `line`, `band` (an area from `low` to `high`), `whiskers` (dots, a thin line and intervals from `low` to
    `high`), `points` (dots alone), `rings` (the same, not filled), `bars`, or `stack` (areas on top of one another, in
    order). `colour` is an index into the page's palette; 0 is grey. `dashes` is the pattern of the line, 0 to 2; 0 is
    solid.
    """

    label: str
    kind: str
    values: Values = field(default_factory=list)
    low: Values = field(default_factory=list)
    high: Values = field(default_factory=list)
    colour: int = 1
    dashes: int = 0


@dataclass
class Chart:
    """One small plot; all its series share `x`, which ascends.

    `unit` is `percent`, `seconds` or another word, shown unchanged. `links` are addresses that a click on a dot opens,
    one per x; empty if there are none.
    """

    title: str
    note: str
    unit: str
    series: list[Series]
    x_label: str = "iteration"
    x: Sequence[float] = field(default_factory=list)
    bottom: float | None = 0.0  # where the y axis starts; None: at the smallest value
    top: float | None = None
    links: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Line:
    """A metric drawn as a line, or as a part of a stack."""

    key: str
    label: str
    colour: int = 1
    kind: str = "line"


@dataclass(frozen=True)
class _Band:
    """The area between two metrics."""

    low: str
    high: str
    label: str
    colour: int = 1


@dataclass(frozen=True)
class _Spec:
    """What a chart shows: series of the records, and the other fields as in `Chart`."""

    title: str
    drawn: Sequence[_Line | _Band]
    note: str = ""
    unit: str = ""
    bottom: float | None = 0.0
    top: float | None = None


_TRAIN = (
    _Spec("Reward", [_Line("rollout/reward", "reward")], "Mean over training episodes", bottom=None),
    _Spec(
        "Step entropy",
        [
            _Band("entropy/step_p05", "entropy/step_p95", "5% to 95%"),
            _Line("entropy/step_p50", "median"),
            _Line("entropy/step_max", "largest", 0),
        ],
        "Mean token entropy of a step: high where the agent was uncertain",
        "nats",
    ),
    _Spec(
        "Spread of gradient scaling",
        [
            _Band("credit/scale_min", "credit/scale_max", "smallest to largest"),
            _Line("credit/scale_std", "standard deviation", 2),
        ],
        "g, the weight of a step by its confidence; mean 1. A narrow band means that EMPG changes little",
    ),
    _Spec(
        "Zero-variance groups",
        [_Line("credit/zero_variance_groups", "groups")],
        "Groups whose rewards are all equal, so that the outcome advantage is 0",
        "percent",
        top=1.0,
    ),
    _Spec(
        "Size of the advantage",
        [_Line("credit/advantage_abs_mean", "|A|")],
        "Mean absolute final advantage over steps",
    ),
    _Spec(
        "KL",
        [_Line("policy/kl_old", "to the sampling policy"), _Line("policy/kl_reference", "to the reference", 2)],
        "To the sampling policy and to the reference policy",
        "nats per token",
        bottom=None,
    ),
    _Spec("Gradient norm", [_Line("policy/grad_norm", "norm")], "Before clipping"),
    _Spec(
        "Clipped tokens",
        [
            _Line("policy/clip_low", "below"),
            _Line("policy/clip_high", "above", 2),
            _Line("policy/dual_clip", "dual clip", 3),
        ],
        "Share of tokens without gradient because of a clip bound",
        "percent",
    ),
    _Spec("Turns per episode", [_Line("rollout/turns", "turns")], unit="turns"),
    _Spec("Tokens per turn", [_Line("rollout/turn_tokens", "tokens")], "Written by the agent", "tokens"),
    _Spec(
        "Valid actions",
        [_Line("rollout/valid_actions", "valid")],
        "Turns that could be parsed and whose action the environment accepted",
        "percent",
        bottom=None,
        top=1.0,
    ),
    _Spec(
        "End reasons of episodes",
        # The last one, which is not the agent's doing, is grey.
        [
            _Line(f"rollout/end/{end}", name, place % len(END_NAMES), "stack")
            for place, (end, name) in enumerate(END_NAMES.items(), 1)
        ],
        "Training episodes",
        "percent",
        top=1.0,
    ),
    _Spec(
        "Time per iteration",
        [
            _Line("time/rollout", "rollout", 1, "stack"),
            _Line("time/credit", "credit", 3, "stack"),
            _Line("time/update", "update", 2, "stack"),
        ],
        "By phase",
        "seconds",
    ),
    _Spec(
        "Loss",
        [_Line("policy/loss", "loss")],
        "Clipped surrogate with KL and entropy terms; not expected to decrease",
        bottom=None,
    ),
    _Spec("Learning rate", [_Line("policy/lr", "rate")]),
    _Spec(
        "Sampler mismatch",
        [_Line("policy/mismatch", "mismatch")],
        "Mean difference of log-probabilities between sampling and training",
        "nats",
    ),
)
_WARM_START = (
    _Spec("Warm start: loss", [_Line("loss", "loss")], "Cross-entropy of the expert's tokens", "nats per token"),
    _Spec(
        "Warm start: accuracy",
        [_Line("token_accuracy", "tokens")],
        "Share of expert tokens with a probability above one half",
        "percent",
        top=1.0,
    ),
)


def charts(records: Sequence[Record], recipe: Mapping[str, Any] | None = None) -> list[Chart]:
    """Return all charts for which the records have numbers, the most important first.

    With the recipe of the run, the evaluations in them are those with its settings (`own_evaluations`).
    """
    train, warm = train_records(records), warm_start_records(records)
    made = [_success(train, own_evaluations(records, recipe)), *(_chart(spec, train, "iteration") for spec in _TRAIN)]
    made += [_chart(spec, train, "iteration") for spec in _further_statistics(train)]
    made += [_chart(spec, warm, "step") for spec in _WARM_START]
    return [chart for chart in made if chart.series]


def pen(place: int) -> tuple[int, int]:
    """Return the colour and the dashes of one of many series, numbered from 0; the 19th is drawn as the first."""
    return place % COLOURS + 1, place // COLOURS % DASHES


def unit_of(metric: str) -> str:
    """Return the unit of a field of the `train` records, as `Chart` has it; empty if it has none."""
    return _UNITS.get(metric) or next((unit for part, unit in _UNITS_OF_PARTS if metric.startswith(part)), "")


def _keys(item: _Line | _Band) -> tuple[str, ...]:
    return (item.key,) if isinstance(item, _Line) else (item.low, item.high)


_UNITS = {key: spec.unit for spec in _TRAIN for item in spec.drawn for key in _keys(item)} | {
    "rollout/success": "percent",
    "rollout/failed_turns": "percent",
    "rollout/episode_tokens": "tokens",
    "policy/entropy": "nats per token",
}
_UNITS_OF_PARTS = (("entropy/", "nats"), ("time/", "seconds"), ("tokens/", "tokens"), ("rollout/end/", "percent"))


def _further_statistics(train: Sequence[TrainRecord]) -> list[_Spec]:
    """Specify one chart under its own name for each statistic of the update that no chart above draws."""
    drawn = {item.key for spec in _TRAIN for item in spec.drawn if isinstance(item, _Line)}
    keys = dict.fromkeys(key for record in train for key in record if key.startswith("policy/") and key not in drawn)
    return [_Spec(key, [_Line(key, key.removeprefix("policy/"))], unit=unit_of(key), bottom=None) for key in keys]


def _success(train: Sequence[TrainRecord], evaluations: Sequence[EvalRecord]) -> Chart:
    x = sorted({r["iteration"] for r in train} | {r["iteration"] for r in evaluations})
    chart = Chart("Success", "Panels with 95% Wilson intervals, and training episodes", "percent", [], x=x, top=1.0)
    rollouts = {r["iteration"]: finite(r.get("rollout/success")) for r in train}
    if any(value is not None for value in rollouts.values()):
        chart.series.append(Series("training episodes", "line", [rollouts.get(i) for i in x], colour=0))
    for place, (split, decoding) in enumerate(panels(evaluations)):
        by_iteration: dict[int, Mapping[str, object]] = {
            r["iteration"]: r for r in evaluations if (r["split"], r["decoding"]) == (split, decoding)
        }
        success, low, high = (
            [finite(by_iteration.get(i, {}).get(key)) for i in x] for key in ("success", "low", "high")
        )
        chart.series.append(Series(f"{split}, {decoding}", "whiskers", success, low, high, *pen(place)))
    return chart


def panels(evaluations: Sequence[EvalRecord]) -> list[tuple[str, str]]:
    """Return the evaluated (split, decoding) pairs, in the order of their first evaluation."""
    return list(dict.fromkeys((r["split"], r["decoding"]) for r in evaluations))


def _chart(spec: _Spec, records: Sequence[Mapping[str, Any]], x_label: str) -> Chart:
    latest = {r[x_label]: r for r in records}  # a restarted warm start writes its steps again
    records = [latest[x] for x in sorted(latest)]
    x = [r[x_label] for r in records]
    chart = Chart(spec.title, spec.note, spec.unit, [], x_label, x, spec.bottom, spec.top)
    for item in spec.drawn:
        if isinstance(item, _Band):
            low, high = _column(records, item.low), _column(records, item.high)
            if _any(low) and _any(high):
                chart.series.append(Series(item.label, "band", [], low, high, item.colour))
        else:
            values = _column(records, item.key)
            # An end reason that did not occur, or an unused KL, would only clutter the legend.
            if any(values) or (len(spec.drawn) == 1 and _any(values)):
                chart.series.append(Series(item.label, item.kind, values, colour=item.colour))
    return chart


def _column(records: Sequence[Mapping[str, Any]], key: str) -> Values:
    return [finite(r.get(key)) for r in records]


def _any(values: Values) -> bool:
    return any(value is not None for value in values)
