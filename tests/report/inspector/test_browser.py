"""The inspector in a real browser (headless Chromium)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch

from empg.credit import MODULATIONS, ModulationInputs, StepTable
from empg.record.runfolder import RunFolder
from tests.report.axe import serious
from tests.report.inspector.served import Inspections
from tests.report.inspector.test_app import PAGES

pytestmark = pytest.mark.slow
NUMBERS = {"k": 3.0, "k_future": 0.4, "zeta": 0.7, "alpha_1": 0.3, "alpha_2": 1.5, "beta_1": 0.6, "beta_2": 0.9}
CHANGES: list[dict[str, Any]] = [
    {},
    NUMBERS,
    {**NUMBERS, "normalisation": "quantile", "q": 0.11, "clarity": "won", "zeta_schedule": "linear"},
    {"normalisation": "quantile", "q": 0.49, "clarity": "potential"},
]


def batch(seed: int, spread: float = 0.4) -> dict[str, Any]:
    """Steps as the page gets them: some do not count, one episode has a single step. `spread` is that of H, nats."""
    draw = np.random.default_rng(seed)
    lengths = [1, *draw.integers(1, 12, size=23).tolist()]
    episode = np.repeat(np.arange(24), lengths)
    n, won = len(episode), draw.random(24) < 0.5
    return {
        "episode": episode.tolist(),
        "turn": [t for length in lengths for t in range(length)],
        "group": (episode // 8).tolist(),
        "entropy": (6.0 - spread + draw.exponential(spread, n)).tolist(),
        "base": np.repeat(draw.normal(0, 1, 24), lengths).tolist(),
        "process": np.where(draw.random(n) < 0.2, -0.5, 0.0).tolist(),
        "reward": won.astype(float)[episode].tolist(),
        "counted": (draw.random(n) < 0.9).tolist(),
        "finished": 0.4,
    }


def in_python(steps: dict[str, Any], rule: str, changes: dict[str, Any]) -> Any:
    keep = torch.tensor(steps["counted"])
    names = ("entropy", "base", "process", "episode")
    entropy, base, process, episode = (torch.tensor(steps[name])[keep] for name in names)
    table = StepTable(entropy=entropy, episode=episode, advantage=base, process_reward=process)
    rewards, groups = torch.zeros(24), torch.arange(24) // 8
    rewards[torch.tensor(steps["episode"])] = torch.tensor(steps["reward"])
    inputs = ModulationInputs(steps=table, rewards=rewards, groups=groups, finished=steps["finished"])
    return MODULATIONS[rule](inputs, MODULATIONS[rule].options(**changes))


@pytest.mark.parametrize("rule", MODULATIONS)
def test_the_page_computes_the_credit_of_the_package(
    rule: str, browser: Any, recorded: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    page.goto(inspect(recorded))
    defaults = page.evaluate("r => import('/static/inspector/credit.js').then(m => m.RULES[r].options)", rule)
    # An option that the page does not know is one that `test_what_cannot_be_recomputed...` is about.
    assert defaults.items() <= {f.name: f.default for f in fields(MODULATIONS[rule].options)}.items()
    for seed, others in enumerate(CHANGES):
        steps, changes = batch(seed), {name: value for name, value in others.items() if name in defaults}
        script = "([s, r, o]) => import('/static/inspector/credit.js').then(m => m.recompute(s, r, o))"
        found = page.evaluate(script, [steps, rule, changes])
        wanted = in_python(steps, rule, changes)
        pairs = {"advantage": "advantage", "scale": "scale", "clarity": "clarity", "normalised": "normalised_entropy"}
        for ours, theirs in pairs.items():
            values = [v for v, counted in zip(found[ours], steps["counted"], strict=True) if counted]
            expected = getattr(wanted, theirs)
            if expected is None:
                assert set(values) == {None}
            else:
                np.testing.assert_allclose(values, expected.numpy(), rtol=1e-6, atol=1e-6)
        uncounted = [v for v, counted in zip(found["advantage"], steps["counted"], strict=True) if not counted]
        assert set(uncounted) == {None}
    page.close()


@pytest.mark.parametrize("rule", ["empg", "empg_variant", "gtpo", "scaling"])
def test_entropies_that_hardly_differ_are_rounded_as_the_package_does(
    rule: str, browser: Any, recorded: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    page.goto(inspect(recorded))
    steps = batch(3, spread=1e-4)
    script = "([s, r]) => import('/static/inspector/credit.js').then(m => m.recompute(s, r, {}))"
    found = [a for a in page.evaluate(script, [steps, rule])["advantage"] if a is not None]
    np.testing.assert_allclose(found, in_python(steps, rule, {}).advantage.numpy(), rtol=1e-6, atol=1e-6)
    page.close()


def test_the_page_offers_the_names_that_the_options_have(
    browser: Any, recorded: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    page.goto(inspect(recorded))
    offered = page.evaluate("import('/static/inspector/credit.js').then(m => m.CHOICES)")
    hints = get_type_hints(MODULATIONS["empg_variant"].options)
    names = {name: list(get_args(hint)) for name, hint in hints.items() if get_origin(hint) is Literal}
    del offered["entropy"]  # the next test
    assert offered.items() <= names.items()
    page.close()


def test_the_entropy_of_actions_takes_the_place_of_the_step_entropy(
    browser: Any, recorded: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    page.goto(inspect(recorded))
    steps = batch(7)
    action = np.random.default_rng(8).exponential(0.2, len(steps["entropy"])).tolist()
    script = "import('/static/inspector/credit.js').then(m => m."
    found = page.evaluate(
        f"([s, r, o]) => {script}recompute(s, r, o))",
        [{**steps, "action_entropy": action}, "empg_variant", {"entropy": "action", "normalisation": "quantile"}],
    )
    wanted = in_python({**steps, "entropy": action}, "empg_variant", {"normalisation": "quantile"})
    ours = [a for a in found["advantage"] if a is not None]
    np.testing.assert_allclose(ours, wanted.advantage.numpy(), rtol=1e-6, atol=1e-6)
    offers = f"s => {script}optionsOf('empg_variant', s)).then(o => o.entropy ?? null)"
    assert page.evaluate(offers, {"action_entropy": action}) == "turn"
    assert page.evaluate(offers, {"action_entropy": None}) is None
    page.close()


def test_a_variant_is_chosen_in_the_form_and_kept_in_the_address(
    browser: Any, finished_run: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    page.goto(inspect(finished_run) + "/episode?run=0&iteration=20&episode=3")
    summary, form = page.locator("#what-if [role=status]"), page.locator("#what-if .sliders")
    page.get_by_label("rule").select_option("empg_variant")
    assert "recorded A: none" in summary.inner_text()  # with its defaults it is the run's rule
    form.get_by_label("normalisation").select_option("quantile")
    form.get_by_label("clarity").select_option("potential")
    changed = summary.inner_text()
    assert "recorded A: none" not in changed
    page.reload()
    assert summary.inner_text() == changed
    assert form.get_by_label("normalisation").input_value() == "quantile"
    page.get_by_label("rule").select_option("grpo_s")
    assert form.locator("input").evaluate_all("all => all.map(i => i.name)") == ["beta_1", "beta_2"]
    page.close()


OTHER_RULE = "{name: another}"
OTHER_OPTION = "{name: empg_variant, zeta: 0.4, over: some tokens}"


@pytest.mark.parametrize(
    ("modulation", "reason"),
    [
        (OTHER_RULE, "This page cannot recompute the rule another."),
        (OTHER_OPTION, "It does not know over: some tokens."),
        ("[]", "The recipe of the run does not name a rule."),
    ],
)
def test_what_cannot_be_recomputed_is_shown_as_recorded_and_why(
    modulation: str, reason: str, browser: Any, make_run: Callable[..., RunFolder], inspect: Callable[..., str]
) -> None:
    run = make_run("other", iterations=1, every=1, keep_episodes=(1,))
    run.recipe_path.write_text(f"iterations: 1\ncredit: {{modulation: {modulation}}}\n")
    page = browser.new_page()
    page.goto(inspect(run) + "/episode?run=0&iteration=1&episode=3")
    summary, shown = page.locator("#what-if [role=status]"), page.locator("[data-term=A]")
    columns = run.read_episodes(1)
    recorded = [a for a, e in zip(columns["advantage"], columns["episode"], strict=True) if e == 3]
    assert reason in summary.inner_text()
    assert [float(text.replace("\u2212", "-")) for text in shown.all_inner_texts()] == pytest.approx(recorded, abs=6e-4)
    page.get_by_label("rule").select_option("empg")  # the rule that wrote these numbers
    assert "recorded A: none" in summary.inner_text()
    page.get_by_role("button", name="As recorded").click()
    assert reason in summary.inner_text()
    page.close()


def test_an_option_that_changes_nothing_does_not_hinder(
    browser: Any, make_run: Callable[..., RunFolder], inspect: Callable[..., str]
) -> None:
    run = make_run("other", iterations=1, every=1, keep_episodes=(1,))
    run.recipe_path.write_text("credit: {modulation: {name: empg_variant, over: all tokens}}\n")
    page = browser.new_page()
    page.goto(inspect(run) + "/batch?iteration=1")
    assert page.get_by_label("rule").input_value() == "empg_variant"
    assert "cannot recompute" not in page.locator("#what-if [role=status]").inner_text()
    page.close()


def test_sliders_change_the_credit_and_the_address(
    browser: Any, finished_run: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(inspect(finished_run) + "/episode?run=0&iteration=20&episode=3")
    summary, advantage = page.locator("#what-if [role=status]"), page.locator("[data-term=A]").first
    assert "Largest change from the recorded A: none" in summary.inner_text()
    before = advantage.inner_text()
    page.get_by_role("slider", name="k", exact=True).fill("3")
    assert advantage.inner_text() != before
    assert "k=3" in page.url
    page.get_by_label("show the base algorithm beside it").check()
    page.reload()  # a link is enough
    assert page.get_by_label("show the base algorithm beside it").is_checked()
    assert "Largest change from the recorded A: none" not in summary.inner_text()
    page.get_by_label("rule").select_option("")
    assert "0 have another sign" in summary.inner_text()
    page.get_by_role("button", name="As recorded").click()
    assert advantage.inner_text() == before
    assert errors == []
    page.close()


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
    assert f"{largest:.3f}" in page.locator("li:target .credit td").first.inner_text()
    assert "#step-" in page.url
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
    page.keyboard.press("ArrowRight")
    assert "k=1.01" in page.url
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
    assert tokens == "the first 4,000 of 5,000 tokens by entropy, at most 0.100 nats"
    page.goto(address + "/episode?iteration=1&episode=1")
    assert page.locator(".observation").nth(2).inner_text().endswith("(80,000 more characters)")
    page.close()


# --- a run that trains ---------------------------------------------------------------------------------------------


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
