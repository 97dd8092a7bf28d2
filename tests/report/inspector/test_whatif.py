"""The credit that a page recomputes, in a real browser: the numbers of the package, and the form."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch

from empg.credit import MODULATIONS, ModulationInputs, StepTable
from empg.record.runfolder import RunFolder

pytestmark = pytest.mark.slow
NUMBERS = {"k": 3.0, "k_future": 0.4, "zeta": 0.7, "alpha_1": 0.3, "alpha_2": 1.5, "beta_1": 0.6, "beta_2": 0.9}
CHANGES: list[dict[str, Any]] = [
    {},
    NUMBERS,
    {**NUMBERS, "normalisation": "quantile", "q": 0.11, "clarity": "won", "zeta_schedule": "linear"},
    {"normalisation": "quantile", "q": 0.49, "clarity": "potential"},
    {"clarity": "won_end", "zeta": 1.0},
    {**NUMBERS, "scaling": "uncertain", "centring": "gradient"},
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


def test_a_constant_between_the_steps_of_its_slider_is_shown_as_it_is(
    browser: Any, finished_run: RunFolder, inspect: Callable[..., str]
) -> None:
    page = browser.new_page()
    page.goto(inspect(finished_run) + "/batch?iteration=20&zeta=0.025")
    assert "zeta=0.025" in page.evaluate("location.search")  # page.url learns of it later
    slider = page.get_by_role("slider", name="ζ", exact=True)
    assert slider.evaluate("input => input.nextElementSibling.textContent") == "0.025"
    assert slider.get_attribute("aria-valuetext") == "0.025"
    slider.press("ArrowRight")
    shown = slider.evaluate("input => input.nextElementSibling.textContent")
    assert f"zeta={float(shown):g}&" in page.evaluate("location.search") + "&"
    page.close()


@pytest.mark.parametrize(("name", "value", "kept"), [("q", 5, "0.05"), ("q", 0.49, "0.49"), ("k", 51, "1.00")])
def test_a_constant_of_an_address_that_the_rule_refuses_is_its_default(
    name: str, value: float, kept: str, browser: Any, finished_run: RunFolder, inspect: Callable[..., str]
) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected a number from") if float(kept) != value else nullcontext():
        MODULATIONS["empg_variant"].options(**{name: value}, normalisation="quantile", scaling="uncertain")
    page = browser.new_page()
    variant = "rule=empg_variant&normalisation=quantile&scaling=uncertain"
    page.goto(inspect(finished_run) + f"/batch?iteration=20&{variant}&{name}={value}")
    slider = page.get_by_role("slider", name=name, exact=True)
    assert slider.evaluate("input => input.nextElementSibling.textContent") == kept
    assert "NaN" not in page.inner_text("main")
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
    assert "k=3" in page.evaluate("location.search")
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
