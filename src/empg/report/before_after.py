"""What training did to success: before and after on every panel, with intervals, and paired task by task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from empg.record.records import EvalRecord, Record, SuccessNumbers, eval_records
from empg.record.runfolder import RunFolder
from empg.record.statistics import Comparison, Paired, compare_evaluations
from empg.report.curves import panels


@dataclass(frozen=True)
class Rate:
    """A success rate with its Wilson interval (95 %)."""

    successes: int
    n: int
    success: float
    low: float
    high: float

    @classmethod
    def of(cls, record: SuccessNumbers) -> Rate:
        """From an evaluation's record, or from one of its task types."""
        return cls(record["successes"], record["n"], record["success"], record["low"], record["high"])


@dataclass(frozen=True)
class TypeOutcome:
    """One task type of a panel; `before` and `paired` are None where there is only one evaluation."""

    name: str
    before: Rate | None
    after: Rate
    paired: Paired | None


@dataclass(frozen=True)
class PanelOutcome:
    """One panel under one decoding: the first evaluation of the run and the last."""

    split: str
    decoding: str
    temperature: float
    panel: str
    sha256: str
    first: int  # iteration
    last: int
    before: Rate | None
    after: Rate
    paired: Paired | None
    unpaired_because: str  # empty when paired, or when there is nothing to pair
    types: list[TypeOutcome]


def outcomes(run: RunFolder, records: Sequence[Record]) -> list[PanelOutcome]:
    """Every split and decoding that the run was evaluated on, in the order of the first evaluations."""
    evaluations = eval_records(records)
    return [
        _outcome(run, [r for r in evaluations if (r["split"], r["decoding"]) == panel]) for panel in panels(evaluations)
    ]


def before_and_after(evaluations: Sequence[EvalRecord]) -> tuple[EvalRecord, EvalRecord]:
    """Of one split's evaluations under one decoding the first and the last iteration's, the same record if only one.

    `empg evaluate` may have played again: a checkpoint of the past, another panel, another temperature. One panel is
    never set against another; an evaluation that was played before too, and at the same temperature, goes before one
    that was not; and then what was written last counts.
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
    types = [
        TypeOutcome(
            name=name,
            before=Rate.of(first["by_type"][name]) if twice and name in first["by_type"] else None,
            after=Rate.of(rate),
            paired=by_type.get(name),
        )
        for name, rate in sorted(last["by_type"].items())
    ]
    return PanelOutcome(
        split=last["split"],
        decoding=last["decoding"],
        temperature=last["temperature"],
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
    except ValueError as error:  # the page is still worth drawing without the evaluations' files
        return None, str(error)
    if result.apart:  # A is what the run began from, B what it came to
        return None, f"the two were not played alike: {'; '.join(result.apart)}"
    return result, ""
