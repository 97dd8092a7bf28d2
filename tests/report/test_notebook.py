"""Figures for notebooks and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import empg.record
import empg.report
from empg.errors import UserError
from empg.record.runfolder import RunFolder
from empg.report.curves import Chart, Series


def test_a_figure_is_a_page_that_loads_nothing(finished_run: RunFolder, tmp_path: Path) -> None:
    run = empg.record.load(finished_run)
    text = empg.report.plot_batch(run, 20).save(tmp_path / "batch.html").read_text(encoding="utf-8")
    assert "default-src &#39;none&#39;" in text
    assert "Histogram of step entropy" in text
    assert "http:" not in text.replace("http://www.w3.org", "")
    assert "Click" not in text.split('id="report-data"')[1]
    assert "<iframe sandbox=" in empg.report.plot_curves([run], ["rollout/success"])._repr_html_()


def test_runs_of_one_name_are_told_apart(make_run: Callable[..., RunFolder]) -> None:
    runs = [empg.record.load(make_run(name, iterations=1, keep_episodes=())) for name in ("a/x/demo", "b/x/demo")]
    [chart] = empg.report.plot_curves(runs, ["rollout/success"]).charts
    assert [series.label for series in chart.series] == ["a/x/demo", "b/x/demo"]


def test_what_is_not_in_the_run_is_an_error(finished_run: RunFolder, tmp_path: Path) -> None:
    run = empg.record.load(finished_run)
    with pytest.raises(UserError, match="no episodes of iteration 3"):
        empg.report.plot_batch(run, 3)
    with pytest.raises(UserError, match="no run has any of nonsense"):
        empg.report.plot_curves([run], ["nonsense"])
    with pytest.raises(UserError, match="smooth: expected a number of iterations, at least 1, got 0"):
        empg.report.plot_curves([run], smooth=0)
    with pytest.raises(UserError, match="is named 2 times"):
        empg.report.plot_curves([run, run])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        empg.report.plot_batch(run, 20).save(tmp_path / "file" / "x.html")


def test_a_damaged_file_is_named(make_run: Callable[..., RunFolder]) -> None:
    folder = make_run("damaged", iterations=1, keep_episodes=(1,))
    folder.episodes_path(1).write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"cannot read .*iter-000001\.parquet"):
        empg.report.plot_batch(empg.record.load(folder), 1)


def test_a_figure_draws_its_charts(browser: Any, finished_run: RunFolder, tmp_path: Path) -> None:
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(empg.report.plot_batch(empg.record.load(finished_run), 20).save(tmp_path / "f.html").as_uri())
    assert page.locator("figure canvas").count() == 3
    assert errors == []
    page.close()


def test_a_chart_with_many_numbers_does_not_stop_the_charts_after_it(browser: Any, tmp_path: Path) -> None:
    def chart(numbers: int) -> Chart:
        values: list[float | None] = [float(i % 7) for i in range(numbers)]
        return Chart("Many", "", "", [Series("s", "line", values)], x=list(range(numbers)))

    page = browser.new_page()
    page.goto(empg.report.Figure("Many", [chart(300_000), chart(3)]).save(tmp_path / "f.html").as_uri())
    assert page.locator("figure canvas").count() == 2
    page.close()
