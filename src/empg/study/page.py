"""The page of one or more studies in Markdown, with its figures: made from the results alone."""

from __future__ import annotations

import html
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from empg.errors import UserError
from empg.plain_text import visible
from empg.record.aggregate import RESAMPLES, Estimate
from empg.record.durable import require_output, write_file
from empg.record.statistics import in_points
from empg.report.forest import Group
from empg.report.svg import SMOOTHED, draw_lines
from empg.study.learning import Learning, learning_rows
from empg.study.overview import compared_rows, overview
from empg.study.pooled import LEAST_SEEDS, pooled_rows
from empg.study.results import Results, read_results
from empg.study.tables import (
    Beside,
    Panels,
    Row,
    before_training,
    curves,
    success_rows,
    type_rows,
    variant_curves,
)


def write_page(folders: Sequence[Path], out: Path, say: Callable[[str], object] = str) -> list[Path]:
    """Write the page of the studies whose results are in `folders`, and return it with its figures.

    `say` gets a line when a study begins.

    Raises:
        UserError: a folder has no results, runs cannot be compared, or a file cannot be written.
    """
    studies = [read_results(folder) for folder in folders]
    names = Counter(results.study.name for results in studies)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(f"two studies have the name {twice[0]!r}, after which figures are named: rename one of them")
    require_output(out)
    command = shlex.join(["empg", "results", *map(str, folders), "--out", str(out)])
    lines = [
        "# Results of studies",
        "",
        f"Written by `{command}` from the files in these folders; do not edit.",
        "",
        "Success is that of the evaluation after the last iteration. Brackets are 95% intervals from "
        f"{RESAMPLES:,} bootstrap draws of seeds and of tasks within their type. IQM is the interquartile mean over "
        "the success rates of each seed and task type. Differences are paired by seed and task. The probability of "
        "improvement is that of a run over a run of the base. Differences of the success during training are paired by "
        "seed, with Student's t interval.",
    ]
    figures: list[Path] = []
    compared: list[Group] = []
    body: list[str] = []
    for results in studies:
        say(f"{results.study.name}: tables and figures of {len(results.runs)} runs")
        body += _study(results, out, figures, compared)
    lines += overview(compared, out, figures) + body + _pooled(studies)
    write_file(out, "\n".join(lines) + "\n")
    return [out, *figures]


def _study(results: Results, out: Path, figures: list[Path], compared: list[Group]) -> list[str]:
    study = results.study
    lines = ["", f"## {study.name}", "", *_origin(results), "", "| variant | overrides |", "|---|---|"]
    lines += [f"| {name} | {_code(overrides)} |" for name, overrides in study.variants.items()]
    if study.overrides:
        lines += ["", f"All runs: {_code(study.overrides)}."]
    panels: dict[str, Panels] = {recipe: results.panels(recipe) for recipe in results.recipes}
    for recipe, shown in panels.items():
        for panel in shown:
            lines += _panel(results, recipe, panel, out, figures)
        rows = success_rows(results, {recipe: shown})
        compared += compared_rows(results, recipe, rows)
        if len(shown) > 1:
            lines += ["", f"### {recipe}: all panels", "", *_success(results, rows)]
        lines += _learning(results, recipe)
        lines += _variants(results, recipe, out, figures)
    if len(panels) > 1:
        lines += ["", "### All recipes", "", *_success(results, success_rows(results, panels))]
    return lines


def _origin(results: Results) -> list[str]:
    study = results.study
    failures = results.failures
    known = {run.key.name for run in results.runs} | set(failures)
    missing = [key.name for key in study.keys if key.name not in known]
    origins = [run.origin for run in results.runs]

    seeds = f"{len(study.seeds)} seed{'' if len(study.seeds) == 1 else 's'}"

    def seen(field: str, absent: str = "unknown") -> str:
        return _text(", ".join(sorted({str(origin.get(field) or absent) for origin in origins})))

    lines = [
        f"- command: `{_plain(shlex.join(['empg', 'study', str(results.folder / 'study.yaml')]))}`",
        f"- runs: {len(results.runs)} of {len(study.keys)} ({seeds})"
        + (f"; missing: {', '.join(missing)}" if missing else ""),
        *(f"- failed, and in no table: {name} ({_text(why)})" for name, why in failures.items()),
        f"- commit: {seen('commit')}; empg {seen('version')}, torch {seen('torch')}, Python {seen('python')}",
        f"- processor: {seen('processor')}",
        *([f"- GPU: {seen('gpu', 'none')}"] if any(origin.get("gpu") for origin in origins) else []),
    ]
    digests = {
        (run.key.recipe, r["split"], r["panel"], r["panel_sha256"], r.get("temperature", "unknown")): None
        for run in results.runs
        for panel in results.panels(run.key.recipe)
        for r in run.evaluations(*panel)
    }
    lines += [
        f"- panel of {recipe}, {_text(split)}: {_text(name)}, sha256 {_text(sha[:12])}, temperature {temperature}"
        for recipe, split, name, sha, temperature in digests
    ]
    lines += [
        f"- in no table: {recipe}, {_text(split)} ({_text(decoding)}), on which {count} of its "
        f"{len(results.of_recipe(recipe))} runs were evaluated"
        for recipe in results.recipes
        for (split, decoding), count in results.partial_panels(recipe).items()
    ]
    return lines


def _panel(results: Results, recipe: str, panel: tuple[str, str], out: Path, figures: list[Path]) -> list[str]:
    split, decoding = panel
    figure = out.parent / "figures" / f"{results.study.name}-{recipe}-{split}-{decoding}.svg"
    lined = f"lines: training, {SMOOTHED} iterations, 95% over seeds"
    note = f"{lined} · dots: {split} ({decoding}), 95% over seeds and tasks"
    title = f"{results.study.name}: {recipe}"
    figures.append(draw_lines(curves(results, recipe, split, decoding), figure, title=title, note=note))
    lines = ["", f"### {recipe}: {split} ({decoding})", ""]
    before = before_training(results, recipe, [panel])
    if before is not None:
        lines += [f"Before RL: {_percent(before)}.", ""]
    lines += _success(results, success_rows(results, {recipe: [panel]}))
    lines += ["", f"![Success during training](figures/{figure.name})", "", *_unknown(results, recipe)]
    base = results.study.base
    lines += [f"| task type | variant | mean | difference to {base} (points) |", "|---|---|---|---|"]
    for kind, rows in type_rows(results, recipe, [panel]).items():
        lines += [
            f"| {_text(kind)} | {row.variant} | {_percent(row.mean)} | {_over_seeds(row.beside, row.seeds)} |"
            for row in rows
        ]
    return lines


def _success(results: Results, rows: Iterable[Row]) -> list[str]:
    heading = ["variant", "seeds", "mean", "IQM", *_differences(results), "probability of improvement"]
    cells = []
    for row in rows:
        own = (row.variant, str(row.seeds), _percent(row.mean), _percent(row.iqm))
        cells.append([*own, *_beside(results, row), _chance(row.improvement)])
    return _table(heading, cells)


def _differences(results: Results) -> list[str]:
    return [f"difference to {name} (points)" for name in results.study.references]


def _beside(results: Results, row: Row | Learning) -> list[str]:
    """Return a cell per reference."""
    return [_over_seeds(row.beside.get(name), row.seeds) for name in results.study.references]


def _over_seeds(found: Beside | None, seeds: int) -> str:
    """Return a difference; it says of how many seeds it is, if not of all `seeds`."""
    if found is None:
        return ""
    of_both = f" ({found.seeds} seed{'s' if found.seeds > 1 else ''} of both)"
    return _points(found.difference) + (of_both if found.seeds != seeds else "")


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def _learning(results: Results, recipe: str) -> list[str]:
    target = f"{100 * results.study.target:g}%"
    lines = [
        "",
        f"### {recipe}: success during training",
        "",
        "The success of the training episodes, averaged over all iterations: a variant that learns sooner has more of "
        f"it. It reaches {target} when the mean of the last {SMOOTHED} iterations does.",
        "",
        *_unknown(results, recipe),
    ]
    rows = []
    for row in learning_rows(results, recipe):
        least = "at most " if row.median == SMOOTHED else ""  # a mean of so many iterations cannot be reached earlier
        median = "more" if row.median is None else f"{least}{row.median:g}"
        reached = f"{row.reached} of {row.seeds}"
        mean = "unknown" if row.mean is None else f"{100 * row.mean:.1f}%"
        rows.append([row.variant, str(row.seeds), mean, *_beside(results, row), reached, median])
    heading = ["variant", "seeds", "mean", *_differences(results), f"runs that reach {target}", "median iterations"]
    return [*lines, *_table(heading, rows)]


def _unknown(results: Results, recipe: str) -> list[str]:
    """Return a paragraph that names the iterations whose training success is not known, if there are any."""
    missing = {run.key.name: run.unknown_rollouts for run in results.of_recipe(recipe) if run.unknown_rollouts}
    if not missing:
        return []
    counts = ", ".join(f"{count} of {name}" for name, count in missing.items())
    return [f"Iterations whose training success is not known are left out: {counts}.", ""]


def _variants(results: Results, recipe: str, out: Path, figures: list[Path]) -> list[str]:
    """Draw each variant alone, for the page of its algorithm, and return the links."""
    links = []
    for variant in results.study.variants:
        runs = results.of(recipe, variant)
        if not runs:
            continue
        figure = out.parent / "figures" / f"{results.study.name}-{recipe}-{variant}.svg"
        lined = f"line: training, mean of {SMOOTHED} iterations and {len(runs)} seeds, 95% over seeds"
        note = f"{lined} · dots: evaluations, 95% over seeds and tasks"
        title = f"{results.study.name}: {recipe}, {variant}"
        figures.append(draw_lines(variant_curves(results, recipe, variant), figure, title=title, note=note))
        links.append(f"[{variant}](figures/{figure.name})")
    return ["", f"### {recipe}: curves of single variants", "", f"{', '.join(links)}."]


def _pooled(studies: Sequence[Results]) -> list[str]:
    rows = pooled_rows(studies)
    if not rows:
        return []
    heading = ["recipe", "variant", "beside", "seeds", "difference (points)", "probability of improvement"]
    heading += ["during training (points)", "studies"]
    cells = [
        [
            *(row.recipe, row.variant, row.base, str(row.seeds)),
            *(_points(row.difference), _chance(row.improvement), _over_seeds(row.learning, row.seeds)),
            ", ".join(row.studies),
        ]
        for row in rows
    ]
    return [
        "",
        "## Over all studies",
        "",
        "Pairs of variants that have more seeds in common over these studies than in any one of them, and at least "
        f"{LEAST_SEEDS}, on all panels of the recipe.",
        "",
        *_table(heading, cells),
    ]


def _chance(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f}% [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _points(estimate: Estimate) -> str:
    return in_points(estimate.value, estimate.low, estimate.high)


def _code(overrides: Iterable[str]) -> str:
    return " ".join(f"`{_plain(override)}`" for override in overrides) or "none"


def _text(value: str) -> str:
    """Escape text of a file for Markdown: nothing in it is HTML, code, a link, an image, or the end of a cell."""
    return html.escape(_plain(re.sub(r"[\\*\[\]]", r"\\\g<0>", value)), quote=False)


def _plain(value: str) -> str:
    return " ".join(visible(value).split()).replace("|", "\\|").replace("`", "'")
