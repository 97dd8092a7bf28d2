"""The curves of several runs over one another: one line per run, or one band per recipe over its seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from empg.record.fields import finite
from empg.record.records import EvalRecord
from empg.report.curves import Chart, Series, pen, unit_of

MAIN = (
    "rollout/success", "rollout/reward", "entropy/step_p50", "credit/scale_std", "credit/advantage_abs_mean",
    "policy/kl_old", "policy/grad_norm", "rollout/turns", "rollout/valid_actions", "credit/zero_variance_groups",
)  # fmt: skip
"""The metrics that are shown first."""

_MAX_TYPES = 24  # task types with curves
Records = Sequence[Mapping[str, Any]]


def evaluation_curves(evaluations: Sequence[EvalRecord], by_type: bool) -> list[dict[str, Any]]:
    """Return the success rates of the evaluations as records, one metric per split and decoding, and per task type."""
    found = []
    for record in evaluations:
        metric = f"{record.get('split')}, {record.get('decoding')}: success"
        rates = {metric: record.get("success")}
        types = record.get("by_type") if by_type else None
        if isinstance(types, dict):
            known = [(name, types[name]) for name in sorted(types) if isinstance(types[name], dict)][:_MAX_TYPES]
            rates |= {f"{metric}, {name}": rate.get("success") for name, rate in known}
        found.append({"iteration": record["iteration"], **rates})
    return found


def training_curves_by_type(episodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the success rates of training episodes as records, one metric per task type."""
    outcomes: dict[int, dict[str, list[bool]]] = {}
    for e in episodes:
        outcomes.setdefault(e["iteration"], {}).setdefault(e["task_type"], []).append(bool(e["success"]))
    return [
        {
            "iteration": iteration,
            **{f"kept training episodes: success, {name}": sum(won) / len(won)
               for name, won in sorted(types.items())[:_MAX_TYPES]},
        }
        for iteration, types in sorted(outcomes.items())
    ]  # fmt: skip


def overlay(
    runs: Sequence[tuple[str, Mapping[str, Any], Records]],
    metrics: Sequence[str],
    *,
    smooth: int = 1,
    bands: bool = False,
) -> list[Chart]:
    """Return one chart per metric that any run has.

    Args:
        runs: for each run its name, its recipe, and its records: an `iteration` and numbers by the name of a metric.
            The last record of an iteration that has a metric counts.
        metrics: names of fields of the records.
        smooth: iterations in the running mean; 1 draws the values.
        bands: draw runs whose recipes differ only in `seed` and `name` as their mean and the area from the lowest to
            the highest.
    """
    places = {finite(r.get("iteration")) for _, _, records in runs for r in records}
    x = sorted(int(place) for place in places if place is not None)
    return [chart for metric in metrics if (chart := _chart(runs, metric, x, smooth, bands)).series]


def _chart(
    runs: Sequence[tuple[str, Mapping[str, Any], Records]], metric: str, x: list[int], smooth: int, bands: bool
) -> Chart:
    unit = "percent" if ": success" in metric else unit_of(metric)
    chart = Chart(metric, "", unit, [], x=list(x), bottom=None)
    teams: dict[str, list[tuple[str, list[float | None]]]] = {}
    for place, (name, recipe, records) in enumerate(runs):
        team = teams.setdefault((but_the_seed(recipe) if bands else "") or str(place), [])
        values = _smoothed(records, metric, x, smooth)
        if any(v is not None for v in values):
            team.append((name, values))
    for place, team in enumerate(teams.values()):  # also those without this metric: a run looks the same in all charts
        if not team:
            continue
        colour, dashes = pen(place)
        if len(team) == 1:
            chart.series.append(Series(team[0][0], "line", team[0][1], colour=colour, dashes=dashes))
            continue
        columns = [[v for v in at if v is not None] for at in zip(*(values for _, values in team), strict=True)]
        label = f"{team[0][0]} and {len(team) - 1} more"
        low, high = ([f(c) if c else None for c in columns] for f in (min, max))
        chart.series.append(Series(f"{label}: lowest to highest", "band", [], low, high, colour, dashes))
        means = [_mean(c) for c in columns]
        chart.series.append(Series(f"{label}: mean", "line", means, colour=colour, dashes=dashes))
    return chart


def _smoothed(records: Records, metric: str, x: Sequence[int], smooth: int) -> list[float | None]:
    latest = {r["iteration"]: finite(r[metric]) for r in records if metric in r}
    values = [latest.get(i) for i in x]
    result: list[float | None] = []
    for place, value in enumerate(values):
        window = [v for v in values[max(0, place - smooth + 1) : place + 1] if v is not None]
        result.append(_mean(window) if value is not None else None)
    return result


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean; None without values, or if their sum is too large for a number."""
    return finite(sum(values) / len(values)) if values else None


def but_the_seed(recipe: Mapping[str, Any]) -> str:
    """Return what runs of one recipe have in common; empty for a recipe that has, or of which is known, nothing else.

    A study names each of its runs differently.
    """
    rest = {k: v for k, v in recipe.items() if k not in ("name", "seed")}
    return json.dumps(_sorted(rest), default=str) if rest else ""


def _sorted(value: Any) -> Any:
    """Return plain data in which keys are in the order of their texts: YAML has keys of several types."""
    if isinstance(value, dict):
        return [[str(key), _sorted(value[key])] for key in sorted(value, key=str)]
    return [_sorted(part) for part in value] if isinstance(value, list) else value
