"""Recorded episodes survive a write and a read, and can be replayed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.cli import app
from empg.environments.base import Decision
from empg.environments.registry import find
from empg.environments.webshop import WebShopEnv, recording
from empg.environments.webshop.recording import Recording
from empg.errors import UserError
from empg.learner.warm_start import warm_start
from empg.policy.decode import Decoder, Sampling
from empg.policy.load import load_policy
from empg.recipe import Recipe, parse_recipe
from empg.rollout.collector import Collector, Request
from empg.rollout.demonstrations import corpus, recorded_plays
from empg.rollout.env_pool import LocalEnvPool
from empg.system.workers import Workers
from tests.environments.webshop.shops import expert_actions, write_official
from tests.environments.webshop.test_site import Served, task_of
from tests.system.test_appending import full_disk

RULES: dict[str, bool | int | str] = {
    "max_steps": 15,
    "nouns": "lexicon",
    "results_per_page": 10,
    "stop_at_last_page": False,
    "reach_bracketed_values": False,
}


def shop_for(environment: WebShopEnv, task: int, actions: Sequence[str] = ()) -> Recording:
    turns = [Decision(thought="", action=action) for action in actions or expert_actions(environment, task)]
    environment.reset(options={"task": task})
    for turn in turns:
        environment.step(turn["action"])
    return recording.record(environment, task, turns)


def test_a_recording_can_be_read_and_replayed(tmp_path: Path) -> None:
    environment, path = WebShopEnv("train", products=200, max_steps=8), tmp_path / "new" / "shopping.jsonl"
    made = [shop_for(environment, 2), shop_for(environment, 5), shop_for(environment, 9, ["search[red]"] * 8)]
    recording.require_writable(path)
    recording.append(path, made[:1])
    recording.append(path, made[1:])
    assert list(recording.read(path)) == [(f"{path}, line {n}", one) for n, one in enumerate(made, start=1)]
    plays = recorded_plays(environment, path, "react")
    assert [[turn.action for turn in play] for play in plays] == [[t["action"] for t in one.turns] for one in made]
    assert [(one.ended, one.score) for one in made] == [("bought", 1.0), ("bought", 1.0), ("out of steps", 0.0)]
    assert not any(turn.corrupted for play in plays for turn in play)
    assert plays[0][0].observation == environment.reset(options={"task": 2})[0]
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # a byte order mark, as Windows programs write it
    assert [one for _, one in recording.read(marked)] == made


def test_recordings_that_a_full_disk_rejected_can_be_appended_again(tmp_path: Path) -> None:
    path = tmp_path / "shopping.jsonl"
    turns = (Decision(thought="", action="search[a]"),)
    made = [Recording("abc", f"B0-{n}", "train", n, RULES, turns, "bought", 1.0) for n in range(3)]
    recording.append(path, made[:1])
    size = path.stat().st_size
    for most in (size + size // 2, 2 * size + size // 2):  # bytes: the first or the second new line is cut
        with full_disk(most), pytest.raises(OSError, match="File too large"):
            recording.append(path, made[1:])
    recording.append(path, made[1:])
    assert [one for _, one in recording.read(path)] == made


def test_a_long_visit_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "shopping.jsonl"
    turns = (Decision(thought="x" * 9_000, action="y" * 9_000),) * 1_500  # a line of 27 MB
    made = Recording("abc", "B0-1", "train", 7, {**RULES, "max_steps": 1_500}, turns, "out of steps", 0.0)
    recording.append(path, [made])
    assert [one for _, one in recording.read(path)] == [made]


def test_a_line_has_the_documented_fields(tmp_path: Path) -> None:
    path = tmp_path / "shopping.jsonl"
    turns = (Decision(thought="", action="search[café]"), Decision(thought="why", action="click[Buy Now]"))
    recording.append(path, [Recording("abc", "B0-1", "train", 7, RULES, turns, "bought", 0.5)])
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "format": "empg-webshop-episode-2",
        "catalogue": "abc",
        "task_id": "B0-1",
        "split": "train",
        "task": 7,
        "rules": RULES,
        "turns": [{"thought": "", "action": "search[café]"}, {"thought": "why", "action": "click[Buy Now]"}],
        "ended": "bought",
        "score": 0.5,
    }


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": "other"}, "format: expected 'empg-webshop-episode-2', got 'other'"),
        ({"turns": []}, r"turns: expected a list of 1 to 1,000,000 turns, got \[\]"),
        ({"turns": [{"thought": ""}]}, "action"),
        ({"turns": [{"thought": "", "action": 5}]}, "action: expected a text of at most 10,000 characters, got 5"),
        ({"turns": [{"thought": "", "action": "x" * 20_000}]}, "action: expected a text of .* got 'xxx"),
        ({"score": 2}, "score: expected a number from 0 to 1, got 2"),
        ({"task": "one"}, "task: expected a whole number from 0, got 'one'"),
        ({"task": -1}, "task: expected a whole number from 0, got -1"),
        ({"split": None}, "split: expected a text of at most 10,000 characters, got None"),
        ({"rules": [1]}, r"rules: expected texts, numbers and booleans by name, got \[1\]"),
        (
            {"rules": {"max_steps": None}},
            "rules: expected texts, .* by name, got {'max_steps': None}",
        ),
        ({"ended": "somehow"}, "ended: expected one of bought, out of steps"),
    ],
)
def test_the_error_for_a_malformed_line_names_the_line(tmp_path: Path, change: dict, complaint: str) -> None:
    path = tmp_path / "shopping.jsonl"
    turns = (Decision(thought="", action="search[a]"),)
    recording.append(path, [Recording("abc", "B0-1", "train", 7, RULES, turns, "bought", 1.0)])
    good = path.read_text()
    path.write_text(f"{good}\n{json.dumps({**json.loads(good), **change})}\n")
    with pytest.raises(ValueError, match=rf"shopping\.jsonl, line 3: .*{complaint}"):
        list(recording.read(path))
    path.write_text("not json\n")
    with pytest.raises(ValueError, match="line 1"):
        list(recording.read(path))
    path.write_bytes(b'{"format": "\xff"}')
    with pytest.raises(ValueError, match=r"line 1: not a recorded episode \(it is not JSON\)"):
        list(recording.read(path))


def test_a_recording_from_another_shop_is_rejected() -> None:
    environment = WebShopEnv("train")
    own = shop_for(environment, 2)
    for other, complaint in (
        (WebShopEnv("train", products=200), "another catalogue"),
        (WebShopEnv("dev"), "split train, not dev"),
        (WebShopEnv("train", split_scheme="verl-agent"), "goals or split scheme differ"),
        (WebShopEnv("train", results_per_page=3), r"other rules: results_per_page=10 \(here 3\)$"),
        (WebShopEnv("train", max_steps=20), r"other rules: max_steps=15 \(here 20\)$"),
        (WebShopEnv("train", stop_at_last_page=True), r"stop_at_last_page=False \(here True\)$"),
    ):
        with pytest.raises(ValueError, match=complaint):
            recording.require_fitting(own, other)
    for alike in (WebShopEnv("train", observation="text_rich", reward="binary", show_chosen_options=True),
                  WebShopEnv("train", reach_bracketed_values=True)):  # fmt: skip
        recording.require_fitting(own, alike)


def test_a_recorded_click_on_a_bracketed_value_needs_the_same_rule(tmp_path: Path) -> None:
    data = write_official(tmp_path)
    official = WebShopEnv("train", data=data, split_scheme="verl-agent")
    task = task_of(official, "B000RUGRUG")
    way = ["search[rug]", "click[B000RUGRUG]", "click[plain [2 pack]]", "click[Buy Now]"]
    made = shop_for(official.with_reachable_values(), task, way)
    recording.require_fitting(made, official.with_reachable_values())
    with pytest.raises(ValueError, match=r"reach_bracketed_values=True \(here False\)"):
        recording.require_fitting(made, official)
    recording.require_fitting(shop_for(official.with_reachable_values(), task, [*way[:2], way[3]]), official)


def test_the_error_for_a_deviating_replay_names_the_line(tmp_path: Path) -> None:
    environment, path = WebShopEnv("train", products=200), tmp_path / "shopping.jsonl"
    own = shop_for(environment, 2)
    for changed, complaint in (
        (replace(own, turns=own.turns[:-1]), "line 2: the recording ends before the episode does"),
        (
            replace(own, turns=(*own.turns, *own.turns)),
            r"line 2: the episode ended after \d+ turns but",
        ),
        (replace(own, score=0.25), r"line 2: score 1\.000 here, 0\.250 when recorded"),
        (replace(own, split="dev"), "line 2: the recording of .* is of split dev, not train"),
        (
            replace(own, turns=(Decision(thought="", action="search[a</action>]"),)),
            r"line 2: .* cannot be expressed",
        ),
    ):
        path.unlink(missing_ok=True)
        recording.append(path, [own, changed])
        with pytest.raises(ValueError, match=rf"^{path}, {complaint}") as raised:
            recorded_plays(environment, path, "react")
        assert "\n" not in str(raised.value)


def test_an_unwritable_recordings_file_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^recordings cannot be written to {tmp_path}: "):
        recording.require_writable(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"recordings cannot be written to .*/file/inside: "):
        recording.require_writable(tmp_path / "file" / "inside")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--record", "x.jsonl"], "--record and --port need --web"),
        (["--port", "8000"], "--record and --port need --web"),
        (["--web", "--task", "3"], "--web cannot be combined with --task or --expert"),
        (["--web", "--expert"], "--web cannot be combined with --task or --expert"),
        (["--web", "--record", "."], "recordings cannot be written to .: Is a directory"),
    ],
)
def test_a_setup_that_cannot_be_recorded_is_an_error_before_serving(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(app, ["play", "webshop", "products=50", *arguments])
    assert result.exit_code in (1, 2)
    assert complaint in " ".join(result.stderr.replace("│", " ").split())


def play_session(site: Served, task: int, actions: list[str]) -> None:
    """Send the requests of a person who plays these actions in the browser."""
    page = site.start(task)
    for action in actions:
        words = action.partition("[")[2].removesuffix("]")
        site.post(f"{page}/act", **({"query": words} if action.startswith("search") else {"action": action}))


def tiny_recipe(recordings: Path, **warm: Any) -> Recipe:
    return parse_recipe({
        "environment": {"id": "webshop"},
        "policy": {
            "tiny": {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate_size": 64,
                     "vocab_size": 512},
            "device": "cpu",
        },
        "warm_start": {"episodes_per_step": 1, "lr": 1e-2, "noise": 0.0, "recordings": str(recordings), **warm},
        "rollout": {"max_episode_tokens": 2048},
    })  # fmt: skip


@pytest.mark.slow
def test_a_policy_learns_from_a_recorded_browser_session(tmp_path: Path) -> None:
    """A policy learns an action from a session over HTTP: to buy without looking, which the expert never does."""
    path = tmp_path / "episodes.jsonl"
    environment = WebShopEnv("train", products=30, results_per_page=1, stop_at_last_page=True)
    site = Served(environment, path)
    actions = ["search[hurry]", "click[Back to Search]", "search[any old thing]", *expert_actions(environment, 0)]
    try:
        play_session(site, 0, actions)
    finally:
        site.stop()
    recipe = tiny_recipe(path, episodes=120)
    texts = corpus(environment, find("webshop").prompt, "react", 10, (0,))
    policy = load_policy(recipe.policy, texts, 0)
    agent = Agent(find("webshop").prompt, recipe.agent, ChatFormat(policy.tokenizer))
    warm_start(policy, agent, environment, recipe, Workers(), lambda record: None)
    decoder = Decoder(policy, 1, 2048, Sampling(greedy=True, max_turn_tokens=64))
    (episode,) = Collector(decoder, agent, LocalEnvPool(environment.clone), "train", 2048).collect(
        [Request(0, 0, (0,))]
    )
    assert [turn.action.lower() for turn in episode.turns[:3]] == [action.lower() for action in actions[:3]]
