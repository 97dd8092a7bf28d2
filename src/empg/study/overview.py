"""One figure of all differences of all studies of a page: what helped, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from empg.report.forest import LIMIT, Compared, Difference, Group, draw_differences
from empg.study.results import Results
from empg.study.tables import Row


def compared_rows(results: Results, recipe: str, rows: Sequence[Row]) -> list[Group]:
    """Return the variants of a study that have a difference to its base or its control, as rows of the figure.

    `rows` are those of a recipe on all its panels.
    """
    study = results.study
    name = study.name if len(results.recipes) == 1 else f"{study.name}, {recipe}"
    found = [
        Compared(row.variant, [_difference(row, reference) for reference in study.references])
        for row in rows
        if row.variant != study.base and row.beside
    ]
    return [Group(f"{name}: beside {' and '.join(study.references)}", found)] if found else []


def overview(groups: Sequence[Group], out: Path, figures: list[Path]) -> list[str]:
    """Draw the figure into `figures/` beside the page `out`, add it to `figures`, and return its line of the page."""
    if not groups:
        return []
    controlled = any(one is not None for group in groups for row in group.rows for one in row.beside[1:])
    figure = draw_differences(
        groups,
        out.parent / "figures" / "differences.svg",
        title="Success after training: differences in points",
        note=f"marks: mean over seeds and panels · bars: 95% interval · arrows: beyond {100 * LIMIT:.0f} points",
        series=["to the base", "to the control"] if controlled else ["to the base"],
    )
    figures.append(figure)
    return ["", f"![All differences with their intervals](figures/{figure.name})"]


def _difference(row: Row, reference: str) -> Difference | None:
    beside = row.beside.get(reference)
    if beside is None:
        return None
    seeds = f"{beside.seeds} seed{'' if beside.seeds == 1 else 's'}"
    estimate = beside.difference
    return Difference(estimate.value, estimate.low, estimate.high, f"{row.variant} to {reference}, {seeds}")
