"""Success before and after training on every panel, with intervals, and paired task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from empg.record.records import EvalRecord, Record, SuccessNumbers, eval_records, own_evaluations
from empg.record.runfolder import RunFolder
from empg.record.statistics import Comparison, Paired, compare_evaluations
from empg.report.curves import panels


@dataclass(frozen=True)
class Rate:
    """A success rate with its 95% Wilson interval."""

    successes: int
    n: int
    success: float
    low: float
    high: float

    @classmethod
    def of(cls, record: SuccessNumbers) -> Rate:
        """Make a rate from an evaluation record, or from one of its task types."""
        return cls(record["successes"], record["n"], record["success"], record["low"], record["high"])


@dataclass(frozen=True)
class TypeOutcome:
    """One task type of a panel; `before` and `paired` are None if there is only one evaluation."""

    name: str
    before: Rate | None
    after: Rate
    paired: Paired | None


@dataclass(frozen=True)
class PanelOutcome:
    """One panel and decoding: the first and the last evaluation of the run."""

    split: str
    decoding: str
    temperature: float | None  # None in a run of an earlier version
    panel: str
    sha256: str
    first: int  # iteration
    last: int
    before: Rate | None
    after: Rate
    paired: Paired | None
    unpaired_because: str  # empty if paired, or if there is only one evaluation
    types: list[TypeOutcome]


def outcomes(run: RunFolder, records: Sequence[Record], recipe: Mapping[str, Any] | None = None) -> list[PanelOutcome]:
    """Return the outcome of every evaluated split and decoding, in the order of the first evaluations.

    The evaluations are those of `by_panel`.
    """
    return [_outcome(run, evaluations) for evaluations in by_panel(records, recipe)]


def by_panel(records: Sequence[Record], recipe: Mapping[str, Any] | None = None) -> list[list[EvalRecord]]:
    """Return the evaluations of every evaluated split and decoding, in the order of the first evaluations.

    With the recipe of the run, the evaluations with its settings count (`own_evaluations`); a split or decoding without
    any is shown with those that it has.
    """
    evaluations = eval_records(records)
    own = own_evaluations(records, recipe) if recipe else evaluations
    return [_of(panel, own) or _of(panel, evaluations) for panel in panels(evaluations)]


def _of(panel: tuple[str, str], evaluations: Sequence[EvalRecord]) -> list[EvalRecord]:
    return [r for r in evaluations if (r["split"], r["decoding"]) == panel]


def before_and_after(evaluations: Sequence[EvalRecord]) -> tuple[EvalRecord, EvalRecord]:
    """Return the evaluations of the first and the last iteration, for one split and decoding; the same if only one.

    `empg evaluate` may have added evaluations: of an earlier checkpoint, another panel, or another temperature. Both
    evaluations are always on the same panel. An evaluation that has an earlier one, at the same temperature, is
    preferred to one that has none. Among equals, the last one written counts.
    """
    end = max(r["iteration"] for r in evaluations)
    newest = list(reversed(evaluations))
    pairs = [
        (first, last)
        for last in newest if last["iteration"] == end
        for first in newest if first["panel_sha256"] == last["panel_sha256"]
    ]  # fmt: skip

    def worth(pair: tuple[EvalRecord, EvalRecord]) -> tuple[bool, bool, int]:
        first, last = pair
        return first["iteration"] < end, first.get("temperature") == last.get("temperature"), -first["iteration"]

    return max(pairs, key=worth)


def _outcome(run: RunFolder, evaluations: Sequence[EvalRecord]) -> PanelOutcome:
    first, last = before_and_after(evaluations)
    twice = first["iteration"] != last["iteration"]
    comparison, reason = _compare(run, first, last) if twice else (None, "")
    by_type = comparison.by_type if comparison else {}
    types_before, types_after = first.get("by_type", {}), last.get("by_type", {})
    types = [
        TypeOutcome(
            name=name,
            before=Rate.of(types_before[name]) if twice and name in types_before else None,
            after=Rate.of(rate),
            paired=by_type.get(name),
        )
        for name, rate in sorted(types_after.items())
    ]
    return PanelOutcome(
        split=last["split"],
        decoding=last["decoding"],
        temperature=last.get("temperature"),
        panel=last["panel"],
        sha256=last["panel_sha256"],
        first=first["iteration"],
        last=last["iteration"],
        before=Rate.of(first) if twice else None,
        after=Rate.of(last),
        paired=comparison.overall if comparison else None,
        unpaired_because=reason,
        types=types,
    )


def _compare(run: RunFolder, first: EvalRecord, last: EvalRecord) -> tuple[Comparison | None, str]:
    try:
        result = compare_evaluations(run, first, run, last)
    except ValueError as error:  # the page is still useful without the evaluation files
        return None, str(error)
    if result.apart:  # A is before training, B after
        return None, f"the evaluation settings differ: {'; '.join(result.apart)}"
    return result, ""
