"""All steps of one iteration at once: who got which credit, which entropies rule the normalisation, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from empg.record.fields import finite, finite_ones
from empg.report.curves import Chart, Series
from empg.report.markup import short
from empg.report.turns import Row, fault

BINS = 40  # of the histogram of H
EXTREMES = 10  # steps in each table
MAX_POINTS = 6_000  # of the scatter plot; more are thinned evenly
MAX_KINDS = 14  # of steps; the rest is one row


def batch_charts(steps: Sequence[Row], link: str | None) -> list[Chart]:
    """Return the charts of an iteration.

    `link` is the address of a step with fields `episode` and `turn`; None where a click cannot open one.
    """
    rows = [s for s in steps if finite(s["entropy"]) is not None]
    return [c for c in (_scatter(rows, link), _histogram(rows, link), _positions(rows)) if c is not None]


def extremes(steps: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the steps with the largest |A|, and those with the smallest and the largest H, which set Hn to 0 and 1."""
    counted = [s for s in steps if finite(s["advantage"]) is not None and finite(s["entropy"]) is not None]
    by_entropy = sorted(counted, key=lambda s: s["entropy"])
    return {
        "largest |A|": sorted(counted, key=lambda s: -abs(s["advantage"]))[:EXTREMES],
        "smallest H": by_entropy[:3],
        "largest H": by_entropy[::-1][:EXTREMES],
    }


def kinds_of_steps(steps: Sequence[Row]) -> list[dict[str, Any]]:
    """Return, for each kind of step, its share of the steps and of the sum of |A| times tokens, and its entropies.

    A kind is the first word of the action, or the fault of the turn. The sum weights a step as a token-level loss does;
    it is the gradient's size if all tokens had score vectors of the same length. `entropy` has the lower quartile, the
    median and the upper quartile of H, nats.
    """
    kinds: dict[str, list[Row]] = {}
    for step in steps:
        if finite(step["advantage"]) is None:
            continue
        words = (step["action"] or "").split(maxsplit=1)
        kind = fault(step) or (short(words[0].partition("[")[0], 30) if words else "no action")
        kinds.setdefault(kind, []).append(step)
    ranked = sorted(kinds.items(), key=lambda item: (-_weight(item[1]), item[0]))
    if len(ranked) > MAX_KINDS:
        rest = [step for _, found in ranked[MAX_KINDS:] for step in found]
        ranked = [*ranked[:MAX_KINDS], ("all other kinds", rest)]
    steps_in_all = sum(len(found) for _, found in ranked) or 1
    weight_in_all = sum(_weight(found) for _, found in ranked) or 1.0
    return [
        {
            "kind": kind,
            "steps": len(found),
            "share_of_steps": len(found) / steps_in_all,
            "share": _weight(found) / weight_in_all,
            "entropy": _quartiles(finite_ones(s["entropy"] for s in found)),
        }
        for kind, found in ranked
    ]


def _weight(steps: Sequence[Row]) -> float:
    return float(sum(abs(s["advantage"]) * (s["num_action_tokens"] or 0) for s in steps))


def _quartiles(values: Sequence[float]) -> list[float | None]:
    return [float(q) for q in np.quantile(values, [0.25, 0.5, 0.75])] if values else [None] * 3


def _scatter(rows: Sequence[Row], link: str | None) -> Chart | None:
    counted = sorted((s for s in rows if finite(s["advantage"]) is not None), key=lambda s: s["entropy"])
    if not counted:
        return None
    every = -(-len(counted) // MAX_POINTS)
    drawn = counted[::every]
    values = [s["advantage"] for s in drawn]
    won = [bool(s["success"]) for s in drawn]
    of = "step" if every == 1 else f"{every} steps"
    return Chart(
        "Step entropy and final advantage",
        f"One dot per {of} that count{'s' if every == 1 else ''}"
        + (". Click a dot, or choose it with the arrow keys and Enter, to open its step" if link else ""),
        "",
        [
            Series("A, episode won", "points", [v if w else None for v, w in zip(values, won, strict=True)], colour=1),
            Series("A, episode lost", "rings", [None if w else v for v, w in zip(values, won, strict=True)], colour=2),
        ],
        "H (nats)",
        [s["entropy"] for s in drawn],
        bottom=None,
        links=_links(link, drawn),
    )


def _histogram(rows: Sequence[Row], link: str | None) -> Chart | None:
    counted = sorted((s for s in rows if finite(s["advantage"]) is not None), key=lambda s: s["entropy"])
    if not counted:
        return None
    least, most = counted[0], counted[-1]
    bins = BINS if least["entropy"] < most["entropy"] else 1
    try:
        counts, edges = np.histogram([s["entropy"] for s in counted], bins=bins)
    except ValueError:  # too small or too large a range for the bins
        return None
    middles = [float(m) for m in edges[1:] / 2 + edges[:-1] / 2]  # the sum of two large ones is not finite
    ends = [float(n) if i in (0, bins - 1) else None for i, n in enumerate(counts)]
    inner = [None if i in (0, bins - 1) else float(n) for i, n in enumerate(counts)]
    ends_of_x = _links(link, [least, most])
    click = ". Click the first and the last bar" if bins > 1 else ". Click the bar"
    return Chart(
        "Histogram of step entropy",
        f"Steps that count: {_normalisation(counted)}" + (click if link else ""),
        "",
        [Series("steps", "bars", inner), Series("with the min or the max", "bars", ends, colour=2)],
        "H (nats)",
        middles,
        links=[*ends_of_x[:1], *[""] * (bins - 2), *ends_of_x[1:]][:bins] if link else [],
    )


def _links(link: str | None, steps: Sequence[Row]) -> list[str]:
    return [link.format(episode=s["episode"], turn=s["turn"]) for s in steps] if link else []


def _normalisation(steps: Sequence[Row]) -> str:
    """Return which entropies the recorded Hn comes from; `steps` ascend in H."""
    least, most = steps[0]["entropy"], steps[-1]["entropy"]
    ends = f"min {least:.4g} and max {most:.4g} nats"
    normalised = [(s["entropy"], hn) for s in steps if (hn := finite(s.get("entropy_normalised"))) is not None]
    zeros, ones = [h for h, hn in normalised if hn <= 0], [h for h, hn in normalised if hn > 1 - 1e-6]
    if not zeros or not ones:
        return ends
    if [hn for _, hn in normalised] != sorted(hn for _, hn in normalised):
        return f"{ends}; the rule of the run normalises another entropy"
    if (zeros[-1], ones[0]) == (least, most):
        return f"{ends} set Hn = 0 and Hn = 1"
    return f"{ends}; Hn is 0 up to {zeros[-1]:.4g} and 1 from {ones[0]:.4g}"


def _positions(rows: Sequence[Row]) -> Chart | None:
    if not rows:
        return None
    entropies: dict[tuple[bool, int], list[float]] = {}
    for step in rows:
        entropies.setdefault((bool(step["success"]), step["turn"]), []).append(step["entropy"])
    turns = sorted({turn for _, turn in entropies})
    series = []
    for colour, (name, success) in enumerate((("won", True), ("lost", False)), 1):
        at = [entropies.get((success, turn), []) for turn in turns]
        low, middle, high = (list(column) for column in zip(*map(_quartiles, at), strict=True))
        if any(at):
            series.append(Series(f"{name}, middle half", "band", [], low, high, colour))
            series.append(Series(f"{name}, median", "line", middle, colour=colour))
    return Chart(
        "Entropy by step position",
        "Where in an episode the agent is uncertain. All steps, also those that do not count",
        "nats",
        series,
        "step",
        [t + 1 for t in turns],
    )
