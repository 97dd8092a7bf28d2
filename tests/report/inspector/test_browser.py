"""The inspector's pages in a real browser (headless Chromium)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from empg.record.runfolder import RunFolder
from tests.report.axe import serious
from tests.report.inspector.test_app import PAGES

pytestmark = pytest.mark.slow


def test_a_dot_of_the_batch_opens_its_step(browser: Any, finished_run: RunFolder, inspect: Callable[..., str]) -> None:
    page = browser.new_page()
    page.goto(inspect(finished_run) + "/batch?iteration=20")
    page.wait_for_selector("figure canvas")
    box = page.locator("figure[data-chart='0'] .u-over").bounding_box()
    largest = max(finished_run.read_episodes(20)["entropy"])  # its dot is 2% of the axis from the right edge
    left = box["x"] + box["width"] * (1 - 0.02 / 1.04)
    for top in np.arange(box["y"] + 1, box["y"] + box["height"], 8):
        page.mouse.click(left, top)
        page.wait_for_timeout(30)
        if "/episode" in page.url:
            break
    page.wait_for_url("**/episode?**#step-*")
    assert f"{largest:.3f}" in page.locator("li:target .credit td").first.inner_text()
    page.close()


def test_the_last_bar_of_the_histogram_opens_the_step_with_the_largest_entropy(
    browser: Any, finished_run: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    page.goto(inspect(finished_run) + "/batch?iteration=20")
    page.wait_for_selector("figure canvas")
    box = page.locator("figure[data-chart='1'] .u-over").bounding_box()
    page.mouse.click(box["x"] + box["width"] * (1 - 0.02 / 1.04), box["y"] + box["height"] / 2)
    page.wait_for_url("**/episode?**")
    assert (
        f"{max(finished_run.read_episodes(20)['entropy']):.3f}"
        in page.locator("li:target .credit td").first.inner_text()
    )
    page.close()


def test_the_dots_of_the_batch_follow_the_sliders(
    browser: Any, finished_run: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    page.add_init_script("document.addEventListener('new-charts', (e) => { window.dots = e.detail[0]; })")
    page.goto(inspect(finished_run) + "/batch?iteration=20&rule=none")
    page.wait_for_function("window.dots")
    shown = page.evaluate("dots.series[0].values.map((v, i) => v ?? dots.series[1].values[i])")
    steps = zip(*(finished_run.read_episodes(20)[c] for c in ("entropy", "advantage_outcome")), strict=True)
    assert shown == pytest.approx([advantage for _, advantage in sorted(steps)])
    page.close()


@pytest.mark.parametrize("page_", PAGES)
def test_no_text_of_a_run_runs_and_pages_fit_a_phone(
    page_: str, browser: Any, recorded: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740})
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(inspect(recorded) + page_)
    page.wait_for_timeout(200)
    assert complaints == []
    assert "owned" not in page.title()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page_", PAGES)
def test_axe_finds_nothing_serious(
    page_: str, scheme: str, browser: Any, recorded: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto(inspect(recorded) + page_)
    assert serious(page) == []
    page.close()


def test_axe_finds_what_is_wrong(browser: Any) -> None:
    page = browser.new_page()
    page.set_content("<html lang=en><title>t</title><main><h1>t</h1><img src='x.png'></main>")
    assert [rule for rule, _ in serious(page)] == ["image-alt"]
    page.close()


def test_the_keyboard_reaches_the_content_and_moves_a_slider(
    browser: Any, finished_run: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    page.goto(inspect(finished_run) + "/batch?iteration=20")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    focused = "document.activeElement.getAttribute('aria-label')"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate(focused) == "k":
            break
    assert page.evaluate(focused) == "k"
    page.keyboard.press("ArrowRight")
    assert "k=1.01" in page.evaluate("location.search")  # page.url learns of it later
    page.close()


def test_the_arrow_keys_read_a_curve_and_enter_opens_a_dot(
    browser: Any, finished_run: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    address = inspect(finished_run)
    page.goto(address + "/curves")
    figure = page.locator("figure").first
    figure.locator(".plot").focus()
    for key, at in (
        ("ArrowRight", 40),
        ("ArrowLeft", 39),
        ("ArrowLeft", 38),
        ("Home", 0),
        ("ArrowLeft", 0),
        ("End", 40),
    ):
        page.keyboard.press(key)
        assert figure.locator(".at").inner_text() == f"iteration {at}"
    assert figure.locator(".key").get_attribute("aria-live") == "polite"
    page.goto(address + "/batch?iteration=20")
    page.locator("figure .plot").first.focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_url("**/episode?**")
    least = min(finished_run.read_episodes(20)["entropy"])
    assert page.locator("li:target .credit td").first.inner_text() == f"{least:.3f}"
    page.close()


ORANGE = """canvas => {
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let found = 0;
  for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > 99 && pixels[i] > pixels[i + 2] + 99) found += 1;
  return found;
}"""  # the rings of lost episodes, pixels


def same_entropies(run: RunFolder) -> list[float]:
    """Give all steps of the first iteration one entropy, and each its own advantage, which is returned."""
    rows = run.read_episodes(1)
    advantages = [0.1 + 0.1 * i for i in range(len(rows["turn"]))]
    run.write_episodes(1, {**rows, "entropy": [0.5] * len(advantages), "advantage": advantages})
    return advantages


def test_the_key_shows_the_dot_that_enter_or_a_click_opens(
    browser: Any, recorded: RunFolder, inspect: Callable[..., str]
) -> None:
    advantages = same_entropies(recorded)
    page = browser.new_page()
    address = inspect(recorded) + "/batch?iteration=1"
    # The page recomputes the credit of this run, so the dots are read from what it draws.
    page.add_init_script("document.addEventListener('new-charts', (e) => { window.dots = e.detail[0]; })")
    page.goto(address)
    page.wait_for_function("window.dots")
    figure = page.locator("figure[data-chart='0']")
    reading = re.compile(r"A, episode (?:won|lost) ([+\-\d.]+)")

    def read() -> float:
        [text] = reading.findall(figure.locator(".key").inner_text())
        return float(text)

    figure.locator(".plot").focus()
    page.keyboard.press("Home")
    for place in range(len(advantages)):
        drawn = page.evaluate(f"dots.series[0].values[{place}] ?? dots.series[1].values[{place}]")
        assert read() == pytest.approx(drawn, rel=5e-3)
        page.keyboard.press("ArrowRight")
    over = figure.locator(".u-over")
    box = over.bounding_box()
    for share in (0.1, 0.5, 0.9):
        over.hover(position={"x": box["width"] / 2, "y": box["height"] * share})
        pointed = read()
        page.keyboard.press("Enter")
        page.wait_for_url("**/episode?**")
        step = page.locator("li:target [data-term=A]").inner_text().replace("\u2212", "-")
        assert float(step) == pytest.approx(pointed, rel=5e-3)
        page.goto(address)
        figure.locator(".plot").focus()
    page.close()


def test_steps_of_one_entropy_are_dots_and_a_bar_that_opens_a_step(
    browser: Any, recorded: RunFolder, inspect: Callable[..., str]
) -> None:
    same_entropies(recorded)
    page = browser.new_page()
    page.goto(inspect(recorded) + "/batch?iteration=1")
    page.wait_for_selector("figure canvas")
    dots = page.locator("figure[data-chart='0'] canvas").evaluate(ORANGE)
    assert dots > 20
    box = page.locator("figure[data-chart='1'] .u-over").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2 + 20, box["y"] + box["height"] / 2)
    page.wait_for_url("**/episode?**")
    page.close()


def test_the_keyboard_opens_the_entropies_of_tokens_as_a_list(
    browser: Any, recorded: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    page.goto(inspect(recorded) + "/episode?iteration=1&episode=0")
    lists = page.locator(".token-list")
    assert lists.locator("li").count() == 0
    lists.nth(1).locator("summary").press("Enter")
    lists.locator("li").first.wait_for()
    assert lists.locator("li").all_inner_texts() == ['"#1 " 0.000 nats', '"#2 " 0.500 nats']
    assert serious(page) == []
    page.close()


def test_the_entropy_of_a_step_in_a_group_is_read_and_is_shown_on_focus(
    browser: Any, recorded: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    page.goto(inspect(recorded) + "/group?iteration=1&group=0")
    link = page.get_by_role("link", name="episode 1, step 1: A +0.900, H 0.150 nats")
    link.evaluate("link => link.focus({ focusVisible: true })")
    shown = link.evaluate("link => getComputedStyle(link, '::after').content")
    assert "H 0.150 nats" in shown
    page.close()


def test_right_to_left_text_runs_from_right_to_left_and_long_texts_are_cut(
    browser: Any, recorded: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    address = inspect(recorded)
    page.goto(address + "/episode?iteration=1&episode=2")
    directions = page.locator(".observation").evaluate_all("all => all.map(p => getComputedStyle(p).direction)")
    assert directions == ["rtl", "ltr", "ltr"]
    tokens = page.locator(".tokens summary").first.inner_text()
    scale = "the darkest shade is 0.500 nats, the largest of the episode"
    assert tokens == f"the first 4,000 of 5,000 tokens by entropy, at most 0.100 nats; {scale}"
    page.goto(address + "/episode?iteration=1&episode=1")
    assert page.locator(".observation").nth(2).inner_text().endswith("(80,000 more characters)")
    page.close()
