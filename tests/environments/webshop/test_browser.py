"""The shop in a real browser (headless Chromium): purchases by mouse, by keyboard, and on a phone-sized screen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from empg.environments.webshop import WebShopEnv, recording
from tests.environments.webshop.shops import expert_actions, write_official
from tests.environments.webshop.test_site import Served, task_of

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    site = Served(WebShopEnv("train"), tmp_path / "episodes.jsonl")
    yield site
    site.stop()


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[Served]:
    environment = WebShopEnv("train", data=write_official(tmp_path / "data"), split_scheme="verl-agent")
    site = Served(environment, tmp_path / "episodes.jsonl")
    yield site
    site.stop()


def follow(page, actions: list[str]) -> None:
    """Perform the commands with the mouse."""
    for action in actions:
        words = action.partition("[")[2].removesuffix("]")
        if action.startswith("search"):
            page.get_by_role("textbox", name="Search").fill(words)
            button = page.get_by_role("button", name="Search")
        else:
            button = page.locator(f'button[value="click[{words}]"]')
        with page.expect_navigation():
            button.click()


def start_session(page, served: Served, task: int) -> None:
    page.goto(served.url)
    page.get_by_label("Task").fill(str(task))
    with page.expect_navigation():
        page.get_by_role("button", name="Start").click()


def test_buying_the_right_product_scores_1_and_is_recorded(browser, served: Served) -> None:
    task = 4
    actions = expert_actions(served.environment, task)
    page = browser.new_page()
    start_session(page, served, task)
    assert page.locator("#instruction").inner_text() == served.environment.goal.instruction
    follow(page, actions)
    assert page.locator("#score").inner_text() == "1.0"
    ((_, made),) = recording.read(served.record_to)
    assert [turn["action"] for turn in made.turns] == actions
    assert made.score == 1.0
    page.close()


def test_a_wrong_option_has_the_score_of_the_text_engine(browser, served: Served) -> None:
    environment = served.environment
    task = next(i for i in range(50) if len(environment._goal(i).options) == 2)
    actions = expert_actions(environment, task)
    name, wanted = environment.goal.options[0]
    assert name is not None
    values = environment.shop.product(environment.state).options[name]
    wrong = next(value for value in values if value != wanted)
    changed = [f"click[{wrong}]" if action == f"click[{wanted}]" else action for action in actions]
    environment.reset(options={"task": task})
    for action in changed:
        _, reward, _, _, _ = environment.step(action)
    page = browser.new_page()
    start_session(page, served, task)
    follow(page, changed[:-1])
    assert page.get_by_role("button", name=wrong, exact=True).get_attribute("aria-pressed") == "true"
    follow(page, changed[-1:])
    assert 0 < reward < 1
    assert page.locator("#score").inner_text() == str(reward)
    page.close()


def test_a_purchase_works_with_the_keyboard_only(browser, served: Served) -> None:
    page = browser.new_page()
    start_session(page, served, 0)

    def press_enter() -> None:
        with page.expect_navigation():
            page.keyboard.press("Enter")

    page.keyboard.type(served.environment._goal(0).query)  # the search field has the focus
    press_enter()
    for _ in range(3):  # Back to Search, Next >, the first result
        page.keyboard.press("Tab")
    press_enter()
    for _ in range(page.get_by_role("button").count()):  # Buy Now is the last
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Buy Now"
    press_enter()
    assert 0 <= float(page.locator("#score").inner_text()) <= 1
    page.close()


def test_the_pages_fit_a_phone_screen(browser, hostile: Served) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 640})
    start_session(page, hostile, task_of(hostile.environment, "B000TABLE1"))
    for action in (
        "search[console table]",
        "click[B000TABLE1]",
        "click[Description]",
        "click[< Prev]",
        "click[Buy Now]",
    ):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        heights = page.locator("button").evaluate_all("all => all.map(b => b.getBoundingClientRect().height)")
        assert min(heights, default=44) >= 44  # large enough for a finger
        follow(page, [action])
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def test_markup_in_product_text_is_shown_as_text(browser, hostile: Served) -> None:
    page = browser.new_page()
    messages: list[str] = []

    def dismiss(dialog: Any) -> None:
        messages.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    start_session(page, hostile, task_of(hostile.environment, "B000SCRIPT"))
    follow(page, ["search[lip gloss]"])
    assert '<script>alert(1)</script> & "Sons" Lip Gloss' in page.locator("ol.results").inner_text()
    follow(page, ["click[B000SCRIPT]"])
    assert page.locator("h1").inner_text() == '<script>alert(1)</script> & "Sons" Lip Gloss'
    assert page.title() == '<script>alert(1)</script> & "Sons" Lip Gloss'
    follow(page, ["click[nude <i>]", "click[Features]"])
    assert "cruelty free <img src=x>" in page.locator("ul").inner_text()
    assert page.locator("script, img, main b, main i").count() == 0
    assert messages == []
    page.close()


def test_the_back_button_and_reloading_change_nothing(browser, served: Served) -> None:
    page = browser.new_page()
    start_session(page, served, 0)
    follow(page, ["search[table]"])
    left = page.locator("header").inner_text()
    page.reload()
    assert page.locator("header").inner_text() == left
    page.close()
