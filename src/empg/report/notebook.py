"""Charts as figures for notebooks and files: the charts of the report and of the inspector, drawn by uPlot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from empg.errors import UserError
from empg.record.durable import write_file
from empg.record.loading import LoadedRun
from empg.record.records import train_records
from empg.report.batch import batch_charts
from empg.report.curves import Chart
from empg.report.names import names_of
from empg.report.overlay import MAIN, overlay
from empg.report.page import render_charts


@dataclass(frozen=True)
class Figure:
    """Some charts as one self-contained page. A notebook shows it in a frame of its own."""

    title: str
    charts: list[Chart]

    def html(self) -> str:
        """Return the page."""
        return render_charts(self.title, [asdict(chart) for chart in self.charts])

    def save(self, path: str | Path) -> Path:
        """Write the page as a complete file or none; its folder is created.

        Raises:
            UserError: the file cannot be written.
        """
        path = Path(path)
        write_file(path, self.html())
        return path

    def _repr_html_(self) -> str:
        height = 60 + 380 * -(-len(self.charts) // 2)
        return (
            f'<iframe sandbox="allow-scripts" width="100%" height="{height}" frameborder="0" '
            f'srcdoc="{escape(self.html(), quote=True)}"></iframe>'
        )


def plot_batch(run: LoadedRun, iteration: int) -> Figure:
    """Draw the steps of an iteration: H against A, the histogram of H, and H by position in the episode.

    Raises:
        UserError: the run has no kept episodes of this iteration, or they cannot be read.
    """
    loaded = LoadedRun(run.folder)
    steps = loaded.steps_of(iteration).to_pylist()
    if not steps and iteration in run.folder.episode_iterations() and loaded.problems:
        raise UserError(loaded.problems[0])
    if not steps:
        raise UserError(f"{run.folder.path} has no episodes of iteration {iteration}; choose another iteration")
    return Figure(f"{names_of([run.folder])[0]}, iteration {iteration}", batch_charts(steps, None))


def plot_curves(
    runs: Sequence[LoadedRun], metrics: Sequence[str] = MAIN, *, smooth: int = 1, bands: bool = False
) -> Figure:
    """Draw metrics over iterations, all runs over one another.

    Args:
        runs: the runs.
        metrics: fields of the `train` records.
        smooth: iterations in the running mean.
        bands: draw runs that differ in their seed only as a mean and a band.

    Raises:
        UserError: no run has any of these metrics, a run cannot be read or is named twice, or `smooth` is below 1.
    """
    if smooth < 1:
        raise UserError(f"smooth: expected a number of iterations, at least 1, got {smooth}")
    folders = [run.folder for run in runs]
    loaded = [
        (name, folder.recipe_values(), train_records(folder.read_metrics()))
        for name, folder in zip(names_of(folders), folders, strict=True)
    ]
    charts = overlay(loaded, metrics, smooth=smooth, bands=bands)
    if not charts:
        raise UserError(f"metrics: no run has any of {', '.join(metrics)}; docs/runs.md lists the fields")
    return Figure("Curves", charts)
