"""The page: complete for a whole run, honest for a partial one, and harmless whatever text a run holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from empg import __version__
from empg.record.errors import RunFolderError
from empg.record.runfolder import RunFolder
from empg.report.markup import embed_json
from empg.report.page import build_page, render_page
from tests.record.made_runs import eval_record
from tests.report.axe import serious

MakeRun = Callable[..., RunFolder]
HOSTILE = "</script></style><script>document.title='owned'</script><img src=x onerror='document.title=1'>&amp;{{7*7}}"


class Reader(HTMLParser):
    """The elements of a page with their attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._silent = False
        self.feed(html)
        self.text = re.sub(r"[ \n]+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)


def read(run: RunFolder) -> Reader:
    return Reader(build_page(run).read_text(encoding="utf-8"))


def empty(tmp_path: Path, recipe: str = "name: toy\nseed: 3\niterations: 5\n") -> RunFolder:
    return RunFolder.create(tmp_path / "run", recipe)


@pytest.fixture
def hostile_run(make_run: MakeRun) -> RunFolder:
    """A run whose every text, from the recipe's name to a task's type, tries to become markup."""
    run = make_run("hostile", iterations=2, every=2, keep_episodes=())
    run.recipe_path.write_text(json.dumps({"name": HOSTILE, "iterations": 2, "note": HOSTILE}))
    rate = {"n": 1, "successes": 1, "success": 1.0, "low": 0.2, "high": 1.0}
    run.append_metrics({"kind": "run", "version": HOSTILE, "command": HOSTILE, "seed": HOSTILE, "started": HOSTILE})
    run.append_metrics(
        {
            "kind": "eval",
            "iteration": 2,
            "split": HOSTILE,
            "decoding": HOSTILE,
            "panel": HOSTILE,
            "panel_sha256": HOSTILE,
            **rate,
            "by_type": {HOSTILE: rate},
        }
    )
    run.append_metrics({"kind": "train", "iteration": 3, "alarms": [HOSTILE]})
    run.write_episodes(
        2,
        {
            "iteration": [2],
            "episode": [0],
            "group": [0],
            "task_index": [0],
            "turn": [0],
            "success": [False],
            **{
                name: [HOSTILE]
                for name in ("task_id", "task_type", "split", "task", "observation", "thought", "action", "end")
            },
        },
    )
    return run


# --- what the page says --------------------------------------------------------------------------------------------


def test_a_whole_run_tells_what_was_gained_and_how_it_was_made(finished_run: RunFolder) -> None:
    text = read(finished_run).text
    evaluations = [r for r in finished_run.read_metrics() if r["kind"] == "eval" and r["split"] == "valid_seen"]
    before, after = evaluations[0], evaluations[-1]
    points = after["successes"] - before["successes"]  # of 100 tasks
    assert f"{before['successes']}% → {after['successes']}%" in text
    assert f"after 40 iterations {after['successes']} of 100 ({100 * after['low']:.1f} to" in text
    assert f"+{points} points on the same tasks" in text
    assert "p < 0.001" in text
    assert "empg train recipes/demo.yaml seed=0" in text
    assert after["panel_sha256"][:12] in text
    assert "finished, 40 iterations" in text
    assert "zeta: 0.1" in text
    for name in ("Success by task type", "pick_two", "Steps and their credit", "A sample: six training episodes"):
        assert name in text


def test_alarms_are_told_once_with_their_times(finished_run: RunFolder) -> None:
    text = read(finished_run).text
    assert text.count("valid actions fall") == 1
    assert "(2 iterations, 17 to 18)" in text
    assert "3 steps dropped: non-finite entropy or log-probability (iteration 18)" in text


def test_alarms_that_differ_in_their_numbers_are_one_kind(tmp_path: Path) -> None:
    run = empty(tmp_path)
    for iteration, dropped in ((1, "3 steps dropped: x"), (2, "1,204 steps dropped: x"), (4, "2.5% of the episodes")):
        run.append_metrics({"kind": "train", "iteration": iteration, "alarms": [dropped]})
    text = read(run).text
    assert "1,204 steps dropped: x (2 iterations, 1 to 2)" in text
    assert "2.5% of the episodes (iteration 4)" in text


def test_the_page_names_the_version_that_wrote_it_beside_that_of_the_run(tmp_path: Path) -> None:
    run = empty(tmp_path)
    run.append_metrics({"kind": "run", "version": "0.0.7", "seed": 0})
    text = build_page(run).read_text(encoding="utf-8")
    assert f'<meta name="generator" content="empg {__version__}">' in text
    assert f"Generated by empg {__version__} from" in text
    assert text.count("0.0.7") == 1


@pytest.mark.parametrize(
    ("tokens", "written"), [(999, "999"), (1000, "1 k"), (123_456, "123 k"), (999_999, "1 M"), (2.5e9, "2.5 G")]
)
def test_a_large_number_has_three_digits(tokens: float, written: str, tmp_path: Path) -> None:
    run = empty(tmp_path)
    run.append_metrics({"kind": "train", "iteration": 1, "alarms": [], "tokens/sampled": tokens})
    assert re.search(rf"tokens written\s+{re.escape(written)}\s", read(run).text)


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    run = empty(tmp_path)
    text = read(run).text
    assert "iteration 0 of 5" in text
    assert "No panel has been evaluated yet." in text
    run.append_metrics(
        {
            "kind": "run",
            "version": "0.1.0",
            "command": "empg train",
            "seed": 3,
            "python": "3.11",
            "gpu": "NVIDIA H100 80GB HBM3",
            "started": "2026-01-05T09:30:00+00:00",
        }
    )
    assert "2026-01-05 09:30:00 UTC" in read(run).text
    assert "NVIDIA H100 80GB HBM3" in read(run).text


def test_a_run_killed_in_its_warm_start_shows_the_warm_start(tmp_path: Path) -> None:
    run = empty(tmp_path)
    for step in (1, 2, 3):
        run.append_metrics({"kind": "warm_start", "step": step, "loss": 3.0 / step, "token_accuracy": 0.1 * step})
    with run.metrics_path.open("ab") as file:
        file.write(b'{"kind":"warm_start","st')
    text = read(run).text
    assert "Warm start: loss" in text
    assert "metrics.jsonl line 4 is incomplete" in text
    assert "Steps and their credit" not in text


def test_one_evaluation_is_not_called_an_improvement(make_run: MakeRun) -> None:
    run = make_run(iterations=4, every=4, keep_episodes=())
    run.rewind(0)
    text = read(run).text
    assert "before training; evaluated once." in text
    assert "points" not in text


def test_the_page_of_an_evaluated_model_is_not_that_of_a_run(make_run: MakeRun) -> None:
    run = make_run(iterations=4, every=4, keep_episodes=())
    run.rewind(0)
    alone = [json.dumps(record) for record in run.read_metrics() if record["kind"] == "eval"]
    run.metrics_path.write_text("".join(f"{line}\n" for line in alone))
    values = run.recipe_values()
    run.replace_recipe(json.dumps({**values, "policy": {"model": "openai:http://h/v1#gpt-x"}}))
    text = read(run).text
    assert "openai:http://h/v1#gpt-x" in text
    assert "before training" not in text
    assert "iteration 0 of" not in text


def test_a_damaged_recipe_is_a_problem_that_the_page_shows(tmp_path: Path) -> None:
    for damage in ("name: [", "name: \x00"):
        run = RunFolder(tmp_path)
        run.recipe_path.write_text(damage)
        assert "recipe.yaml cannot be read" in read(run).text


def test_a_record_that_lacks_a_number_is_an_error_that_names_it(tmp_path: Path) -> None:
    run = empty(tmp_path)
    run.append_metrics({"kind": "run"})
    run.append_metrics({"kind": "eval", "iteration": 1})
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl line 2: 'split': expected a string, got no value"):
        build_page(run)
    assert not run.report.exists()


def test_the_same_run_makes_the_same_page(finished_run: RunFolder) -> None:
    assert render_page(finished_run) == render_page(finished_run)


# --- what the page does not do -------------------------------------------------------------------------------------


def test_it_asks_for_nothing_from_elsewhere(finished_run: RunFolder) -> None:
    page = read(finished_run)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form")
        assert not {"src", "href", "style"} & set(attributes), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    policies = [a.get("content") or "" for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policies[0]


def test_hostile_text_makes_no_element(hostile_run: RunFolder) -> None:
    page = read(hostile_run)
    assert [tag for tag, _ in page.elements if tag in ("script", "style", "img")] == ["style", *["script"] * 4]
    assert page.text.count("<img src=x") >= 8
    assert "{{7*7}}" in page.text


@pytest.mark.parametrize("text", ["</script>", "<!--", "a & b"])
def test_embedded_json_cannot_end_its_element(text: str) -> None:
    embedded = embed_json({"text": text})
    assert not re.search(r"[<>&]", embedded)
    assert json.loads(embedded) == {"text": text}


def test_control_characters_are_shown_in_the_page_and_in_its_data(make_run: MakeRun) -> None:
    run = make_run(iterations=1, every=1, keep_episodes=())
    run.recipe_path.write_text('name: "a\\u202eb"\niterations: 1\nnote: c\u2066d\n', encoding="utf-8")
    page = read(run)
    assert "a⟦U+202E⟧b" in page.text
    assert "c⟦U+2066⟧d" in page.text
    assert json.loads(embed_json({"steps": [{"thought": "\u200fe\ud800\u2028"}]})) == {
        "steps": [{"thought": "⟦U+200F⟧e⟦U+D800⟧⟦U+2028⟧"}]
    }


# --- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture
def visit(browser: Any) -> Any:
    """Opens a run's page from its file; a message on the console or a request to elsewhere fails the test."""
    opened: list[tuple[Any, list[str]]] = []

    def go(run: RunFolder, width: int = 1280, scheme: str = "light") -> Any:
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith("file:") else messages.append(request.url))
        opened.append((page, messages))
        page.goto(build_page(run).absolute().as_uri())
        return page

    yield go
    for page, messages in opened:
        page.context.close()
        assert messages == []


INK = """canvas => {
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = new Set();
  for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > 200) seen.add(pixels.slice(i, i + 3).join());
  return seen.size;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_is_drawn(visit: Any, finished_run: RunFolder, scheme: str) -> None:
    page = visit(finished_run, scheme=scheme)
    figures = page.query_selector_all("figure[data-chart]")
    assert len(figures) >= 15
    for figure in figures:
        canvas = figure.query_selector("canvas")
        assert canvas is not None
        assert canvas.evaluate(INK) > 2  # more than the axis and the grid
        assert "–" not in figure.query_selector(".key ul").inner_text()


@pytest.mark.slow
def test_pointing_at_a_curve_reads_it(visit: Any, finished_run: RunFolder) -> None:
    page = visit(finished_run)
    figure = page.query_selector("figure[data-chart]")
    assert figure.query_selector(".at").inner_text() == "iteration 40"
    figure.query_selector(".plot").hover(position={"x": 60, "y": 100})
    page.wait_for_function("document.querySelector('.at').textContent === 'iteration 0'")
    first = next(r for r in finished_run.read_metrics() if r["kind"] == "eval")
    assert f"{first['split']}, sampled {first['successes']}%" in figure.query_selector(".key").inner_text()


@pytest.mark.slow
def test_an_older_number_in_the_key_names_its_iteration(visit: Any, finished_run: RunFolder) -> None:
    figure = visit(finished_run).locator("figure[data-chart]").first
    figure.locator(".plot").focus()
    evaluations = [r for r in finished_run.read_metrics() if r["kind"] == "eval" and r["split"] == "valid_seen"]
    before, after = (e["successes"] for e in evaluations[-2:])
    key = figure.locator(".key")
    assert f"valid_seen, sampled {after}%\n" in key.inner_text()
    figure.locator(".plot").press("ArrowLeft")
    assert figure.locator(".at").inner_text() == "iteration 39"
    assert f"valid_seen, sampled {before}% (iteration 30)" in key.inner_text()


@pytest.mark.slow
def test_a_screen_reader_gets_both_edges_of_a_band(visit: Any, finished_run: RunFolder) -> None:
    train = [r for r in finished_run.read_metrics() if r["kind"] == "train"]
    labels = visit(finished_run).locator(".plot").evaluate_all("all => all.map(p => p.getAttribute('aria-label'))")
    [label] = [label for label in labels if label.startswith("Step entropy (nats) by iteration.")]
    numbers = re.search(r"5% to 95%: (\S+) to (\S+) first, (\S+) to (\S+) last;", label)
    assert numbers is not None
    wanted = [train[place][f"entropy/step_{edge}"] for place in (0, -1) for edge in ("p05", "p95")]
    assert list(map(float, numbers.groups())) == pytest.approx(wanted, rel=5e-3)


@pytest.mark.slow
def test_eight_panels_are_told_apart_by_colour_and_dashes(visit: Any, tmp_path: Path) -> None:
    run = empty(tmp_path)
    for i in range(8):
        run.append_metrics(eval_record(0, split=f"split-{i}"))
    page = visit(run)
    drawn = """all => all.map(mark => {
      const style = getComputedStyle(mark);
      return [style.color, style.backgroundImage === 'none' ? style.backgroundColor : style.backgroundImage].join();
    })"""
    marks = page.locator(".key .mark").evaluate_all(drawn)
    assert len(set(marks)) == 8
    palette = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--series-0')")
    red, green, blue = (int(palette[i : i + 2], 16) for i in (1, 3, 5))
    assert not [mark for mark in marks if mark.startswith(f"rgb({red}, {green}, {blue})")]


@pytest.mark.slow
def test_the_step_view_shows_the_credit_of_the_chosen_episode(visit: Any, finished_run: RunFolder) -> None:
    page = visit(finished_run)
    buttons = page.query_selector_all(".episodes button")
    assert len(buttons) == 6
    page.select_option("#steps select", label="1")
    page.query_selector_all(".episodes button")[1].click()
    assert page.eval_on_selector_all(".episodes button", "b => b.map(x => x.getAttribute('aria-pressed'))")[:2] == [
        "false",
        "true",
    ]
    steps = page.query_selector_all("#steps .step")
    assert len(page.query_selector_all(".strip .column")) == len(steps)
    numbers = [gauge.inner_text().split() for gauge in steps[-1].query_selector_all(".gauge")]
    assert [n[0] for n in numbers] == ["H", "g", "f", "A"]
    assert numbers[2][1] == "0.00"  # no step follows the last one
    assert len(finished_run.read_episodes(1)["turn"]) > len(steps)


@pytest.mark.slow
def test_base_advantages_that_differ_between_steps_are_a_range(visit: Any, make_run: MakeRun) -> None:
    run = make_run(iterations=1, every=1, keep_episodes=(1,))
    rows = run.read_episodes(1)
    for base, text in ((lambda turn: 0.5, "+0.50"), (lambda turn: -0.5 if turn else 0.5, "\u22120.50 to +0.50")):
        run.write_episodes(1, {**rows, "advantage_outcome": [base(turn) for turn in rows["turn"]]})
        assert visit(run).inner_text(".episode-head p").endswith(f"outcome advantage {text}")


@pytest.mark.slow
def test_hostile_text_is_shown_as_text(visit: Any, hostile_run: RunFolder) -> None:
    page = visit(hostile_run)
    assert page.title().startswith("</script>")
    assert page.query_selector("img") is None
    for part in (".observation", ".thought", ".action", ".episode-head h3", ".key"):
        assert "<img src=x onerror" in page.inner_text(f"#steps {part}" if part != ".key" else ".key")


@pytest.mark.slow
@pytest.mark.parametrize("which", ["finished", "hostile", "empty"])
def test_a_phone_does_not_scroll_sideways(
    visit: Any, finished_run: RunFolder, hostile_run: RunFolder, tmp_path: Path, which: str
) -> None:
    run = {"finished": finished_run, "hostile": hostile_run, "empty": empty(tmp_path)}[which]
    page = visit(run, width=360)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for figure in page.query_selector_all("figure[data-chart]"):
        box = figure.query_selector("canvas").bounding_box()
        assert box["x"] + box["width"] <= 360


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit: Any, finished_run: RunFolder, scheme: str) -> None:
    assert serious(visit(finished_run, scheme=scheme)) == []


@pytest.mark.slow
def test_the_page_is_small_and_is_painted_within_a_second(visit: Any, finished_run: RunFolder) -> None:
    paint = """() => new Promise((done) => new PerformanceObserver((list) => {
      const first = list.getEntriesByName("first-contentful-paint")[0];
      if (first) done(first.startTime);
    }).observe({ type: "paint", buffered: true }))"""
    times = [visit(finished_run).evaluate(paint) for _ in range(3)]
    assert min(times) < 1_000  # milliseconds
    assert finished_run.report.stat().st_size < 15e6
