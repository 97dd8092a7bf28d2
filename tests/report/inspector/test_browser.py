"""The inspector in a real browser (headless Chromium)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from empg.credit import MODULATIONS, ModulationInputs, StepTable
from empg.record.runfolder import RunFolder
from tests.report.inspector.test_app import PAGES

pytestmark = pytest.mark.slow
RULES = ("centred", "clarity", "empg", "gtpo", "scaling")
CHANGES = [{}, {"k": 3.0, "k_future": 0.4, "zeta": 0.7, "alpha_1": 0.3, "alpha_2": 1.5}]


def batch(seed: int) -> dict[str, list[Any]]:
    """Steps as the page gets them: some do not count, and one episode has a single step."""
    draw = np.random.default_rng(seed)
    lengths = [1, *draw.integers(1, 12, size=23).tolist()]
    episode = np.repeat(np.arange(24), lengths)
    n, won = len(episode), draw.random(24) < 0.5
    return {
        "episode": episode.tolist(),
        "turn": [t for length in lengths for t in range(length)],
        "group": (episode // 8).tolist(),
        "entropy": draw.exponential(0.4, n).tolist(),
        "base": np.repeat(draw.normal(0, 1, 24), lengths).tolist(),
        "process": np.where(draw.random(n) < 0.2, -0.5, 0.0).tolist(),
        "reward": won.astype(float)[episode].tolist(),
        "counted": (draw.random(n) < 0.9).tolist(),
    }


def in_python(steps: dict[str, list[Any]], rule: str, changes: dict[str, float]) -> Any:
    keep = torch.tensor(steps["counted"])
    names = ("entropy", "base", "process", "episode")
    entropy, base, process, episode = (torch.tensor(steps[name])[keep] for name in names)
    table = StepTable(entropy=entropy, episode=episode, advantage=base, process_reward=process)
    rewards, groups = torch.zeros(24), torch.arange(24) // 8
    rewards[torch.tensor(steps["episode"])] = torch.tensor(steps["reward"])
    known = MODULATIONS[rule].options
    options = known(**{f.name: changes[f.name] for f in fields(known) if f.name in changes})
    return MODULATIONS[rule](ModulationInputs(steps=table, rewards=rewards, groups=groups), options)


@pytest.mark.parametrize("rule", RULES)
def test_the_page_computes_the_credit_of_the_package(
    rule: str, browser: Any, recorded: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    page.goto(inspect(recorded))
    defaults = page.evaluate("r => import('/static/inspector/credit.js').then(m => m.RULES[r].options)", rule)
    assert defaults == {f.name: f.default for f in fields(MODULATIONS[rule].options)}
    for seed, changes in enumerate(CHANGES):
        steps = batch(seed)
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
    axe = Path(os.environ.get("AXE", "node_modules/axe-core/axe.min.js"))
    if not axe.is_file():
        pytest.skip("axe-core is not here: npm install --no-save axe-core, or set AXE to axe.min.js")
    page = browser.new_page(color_scheme=scheme)
    page.goto(inspect(recorded) + page_)
    page.evaluate(axe.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
    assert serious == []
    page.close()
