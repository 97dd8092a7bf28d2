"""A page in a real browser, while its run trains and its server stops and starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from empg.record.runfolder import RunFolder
from tests.report.inspector.served import Inspections

pytestmark = pytest.mark.slow


def until(page: Any, check: Callable[[], bool]) -> None:
    """Let the page's clock run until something holds, for at most ten seconds."""
    end = time.monotonic() + 10
    while not check():
        assert time.monotonic() < end
        page.clock.run_for(6_000)
        page.wait_for_timeout(50)


def test_the_curves_follow_a_run_and_recover_when_the_server_was_gone(
    browser: Any, make_run: Callable[..., RunFolder], inspect: Inspections
) -> None:
    run = make_run("growing", iterations=2, every=2, keep_episodes=())
    address = inspect(run)
    page = browser.new_page()
    page.clock.install()
    page.goto(address + "/curves?smooth=2")
    latest, status = page.locator("figure .at").first, page.locator("[data-live]")
    assert latest.inner_text() == "iteration 2"
    titles = page.locator("figure h2").all_inner_texts()
    assert "entropy/step_p50 (nats)" in titles
    assert "rollout/success" in titles  # the axis has percent
    opened = page.evaluate("performance.timeOrigin")
    run.append_metrics({"kind": "train", "iteration": 3, "rollout/success": 1.0})
    until(page, lambda: latest.inner_text() == "iteration 3")
    assert "numbers of" in status.inner_text()
    inspect.stop()
    until(page, lambda: status.inner_text() == "The server does not answer. Trying again.")
    run.append_metrics({"kind": "train", "iteration": 4, "rollout/success": 0.5})
    inspect(run, port=int(address.rpartition(":")[2]))
    until(page, lambda: latest.inner_text() == "iteration 4")
    assert "numbers of" in status.inner_text()
    assert page.url.endswith("/curves?smooth=2")
    assert page.evaluate("performance.timeOrigin") == opened  # it was never loaded again
    page.close()


def test_a_page_that_was_opened_before_the_first_iteration_gets_its_curves(
    browser: Any, make_run: Callable[..., RunFolder], inspect: Inspections
) -> None:
    run = make_run("new", iterations=0, keep_episodes=())
    run.metrics_path.write_bytes(b"")
    page = browser.new_page()
    page.clock.install()
    page.goto(inspect(run) + "/curves")
    assert "No iteration has finished yet." in page.inner_text("main")
    run.append_metrics({"kind": "train", "iteration": 1, "rollout/success": 1.0})
    until(page, lambda: page.locator("figure canvas").count() == 1)
    page.close()
