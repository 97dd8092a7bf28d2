"""Results as lines of text: what `empg evaluate`, `empg compare`, `empg credit` and `empg entropy` print."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from empg.record.aggregate import Estimate
from empg.record.records import EvalRecord
from empg.record.statistics import Comparison, Paired, in_points
from empg.report.before_after import Rate
from empg.run.alignment import AlignmentReport
from empg.run.coupling import EntropyMeasurements
from empg.run.display import aligned, rate
from empg.run.evaluate_model import ModelEvaluation


def evaluation_lines(records: Sequence[EvalRecord]) -> Iterator[str]:
    """Yield a table of the success on each panel and task type, and what went wrong outside the policy."""
    rows = [("success (95% Wilson)", "episodes", "success")]
    for record in records:
        rows.append((f"{record['split']} ({record['decoding']})", str(record["n"]), rate(Rate.of(record))))
        rows += [(f"  {name}", "", f"{100 * mean:.1f}%") for name, mean in record["metrics"].items()]
        rows += [(f"  {kind}", str(part["n"]), rate(Rate.of(part))) for kind, part in sorted(record["by_type"].items())]
        rows.append((f"  panel {record['panel']}, sha256 {record['panel_sha256'][:12]}", "", ""))
    yield from aligned(rows)
    for record in records:
        yield from _failures(record)


def model_lines(evaluation: ModelEvaluation, prices: tuple[float, float] | None) -> Iterator[str]:
    """Yield a table of one panel by task type, with the expert and a random policy beside the model, and the cost.

    `prices` are per million prompt and completion tokens.
    """
    record, others = evaluation.record, evaluation.baselines
    columns = [record, *others.values()]
    rows = [("success (95% Wilson)", "episodes", "model", *others)]
    rows.append((f"{record['split']} ({record['decoding']})", str(record["n"]), *(rate(Rate.of(r)) for r in columns)))
    for kind in sorted(record["by_type"]):
        parts = [r["by_type"].get(kind) for r in columns]  # the baselines know the type of every task
        shown = ("-" if part is None else rate(Rate.of(part)) for part in parts)
        rows.append((f"  {kind}", str(record["by_type"][kind]["n"]), *shown))
    rows.append(("  mean score", "", *(f"{100 * r['score']:.1f}" for r in columns)))
    rows += [
        (f"  {name}", "", *(f"{100 * r['metrics'].get(name, 0.0):.1f}%" for r in columns)) for name in record["metrics"]
    ]
    yield from aligned(rows)
    yield f"panel {record['panel']}, sha256 {record['panel_sha256'][:12]}"
    for column in columns:
        yield from _failures(column)
    usage = evaluation.usage
    if usage is None:
        return
    cost = ""
    if prices is not None:
        cost = f", cost {(usage.prompt_tokens * prices[0] + usage.completion_tokens * prices[1]) / 1e6:.2f}"
    tokens = f"{usage.prompt_tokens:,} prompt and {usage.completion_tokens:,} completion tokens"
    yield f"{usage.requests:,} requests, {tokens}{cost}"
    if usage.unmetered:
        yield f"{usage.unmetered:,} replies came without token counts and are not in these sums"


def _failures(record: EvalRecord) -> Iterator[str]:
    failed, broken = record["failed_turns"], record["env_errors"]
    if failed or broken:
        failures = f"{failed} turns hit an unavailable external service"
        errors = f"{broken} episodes ended in an environment error and count as failures"
        yield f"{record['split']} ({record['decoding']}): {failures}; {errors}"


def comparison_lines(run_a: object, run_b: object, result: Comparison) -> Iterator[str]:
    """Yield two runs on one panel: what was compared, a table by task type, and settings that differ."""
    yield f"A: {run_a} at iteration {result.iteration_a}"
    yield f"B: {run_b} at iteration {result.iteration_b}"
    yield f"panel: {result.panel} ({result.decoding}), sha256 {result.panel_sha256[:12]}"
    heading = ("", "tasks", "A", "B", "B - A, points (95%)", "only A / only B", "McNemar p")
    parts = [_paired_row(f"  {kind}", paired) for kind, paired in result.by_type.items()]
    yield from aligned([heading, _paired_row(result.split, result.overall), *parts])
    if result.apart:
        settings = "; ".join(result.apart)
        yield f"warning: evaluation settings differ, so the difference is not due to the policies alone: {settings}"


def alignment_lines(found: AlignmentReport) -> Iterator[str]:
    """Yield two tables: the alignment of each rule, and that of the outcome advantage by tenth of step entropy."""
    yield f"{found.steps:,} steps of {found.groups:,} groups; the worth of {found.known:,} is known"
    reference = f"of {found.reference}"
    rows: list[tuple[str, ...]] = [("rule", "alignment (95%)", f"{reference} (95%)", f"{reference}, where known (95%)")]
    rows += [
        (r.label, _estimate(r.alignment, ".3f"), *(_estimate(ratio, ".2f") for ratio in (r.ratio, r.ratio_known)))
        for r in found.rules
    ]
    yield from aligned(rows)
    rows = [
        ("tenth of the steps", "H, nats", "worth known", "of won episodes", "alignment of the outcome advantage (95%)")
    ]
    for place, part in enumerate(found.tenths, 1):
        shares = (f"{100 * share:.0f}%" for share in (part.known, part.won))
        rows.append((str(place), f"{part.entropy:.3f}", *shares, _estimate(part.alignment, ".2f")))
    yield from aligned(rows)
    yield from (f"warning: {problem}" for problem in found.problems)


def _estimate(estimate: Estimate, form: str) -> str:
    if math.isnan(estimate.value):
        return "unknown"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def entropy_lines(measured: EntropyMeasurements) -> Iterator[str]:
    """Yield two tables by tenth of step entropy: the gradients of the trained policy, and what training changed."""
    rows: list[tuple[str, ...]] = [
        ("tenth of the steps", "H, nats", "(1 - exp(-H2)) / T^2", "|d/d logits|^2", "|d/d parameters|")
    ]
    for part in measured.gradient_tenths:
        means = [f"{part.means[name]:.3f}" for name in ("entropy", "expected", "logits")]
        rows.append((str(part.place), *means, f"{part.means['parameters']:.2f}"))
    where = f"{measured.split}, {measured.checkpoint}, temperature T = {measured.temperature:g}"
    yield f"gradients of {len(measured.gradients)} steps in {measured.tasks} tasks of {where}; tenths by H"
    yield from aligned(rows)
    rows = [("tenth of the steps", "H before", "H after", "change, nats")]
    for part in measured.change_tenths:
        before, after = part.means["before"], part.means["after"]
        rows.append((str(part.place), f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"))
    yield f"entropy of {len(measured.before)} steps before learning, and of the same steps under {measured.checkpoint}"
    yield from aligned(rows)


def _paired_row(name: str, paired: Paired) -> tuple[str, ...]:
    return (
        name,
        str(paired.n),
        f"{100 * paired.success_a:.1f}%",
        f"{100 * paired.success_b:.1f}%",
        in_points(paired.difference, paired.low, paired.high),
        f"{paired.only_a} / {paired.only_b}",
        f"{paired.p_value:.3g}",
    )
