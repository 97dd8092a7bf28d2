"""Recorded episodes: what is written is what is read, and what is read can be played again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from empg.environments.base import Decision
from empg.environments.webshop import WebShopEnv, recording
from empg.environments.webshop.recording import Recording


def shop_for(environment: WebShopEnv, task: int) -> Recording:
    observation, info = environment.reset(options={"task": task})
    expert, turns, terminated = environment.expert(), [], False
    while not terminated:
        turns.append(Decision(thought="", action=expert.act(observation, info)["action"]))
        observation, _, terminated, _, info = environment.step(turns[-1]["action"])
    return recording.record(environment, task, turns)


def test_a_recording_comes_back_and_plays_again(tmp_path: Path) -> None:
    environment, path = WebShopEnv("train", products=200), tmp_path / "new" / "shopping.jsonl"
    made = [shop_for(environment, task) for task in (2, 5)]
    for one in made:
        recording.append(path, one)
    read = list(recording.read(path))
    assert read == made
    for one in read:
        recording.require_fitting(one, environment)
        observation, info = environment.reset(options={"task": one.task})
        player, terminated = one.expert(), False
        while not terminated:
            observation, reward, terminated, _, info = environment.step(player.act(observation, info)["action"])
        assert reward == one.score == 1.0


def test_the_line_is_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "shopping.jsonl"
    turns = (Decision(thought="", action="search[café]"), Decision(thought="why", action="click[Buy Now]"))
    recording.append(path, Recording("abc", "B0-1", "train", 7, turns, 0.5))
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "format": "empg-webshop-episode-1",
        "catalogue": "abc",
        "task_id": "B0-1",
        "split": "train",
        "task": 7,
        "turns": [{"thought": "", "action": "search[café]"}, {"thought": "why", "action": "click[Buy Now]"}],
        "score": 0.5,
    }


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": "other"}, "format is 'other'"),
        ({"turns": []}, "turns"),
        ({"turns": [{"thought": ""}]}, "action"),
        ({"turns": [{"thought": "", "action": 5}]}, "a text is needed"),
        ({"turns": [{"thought": "", "action": "x" * 20_000}]}, "a text is needed"),
        ({"score": 2}, "score"),
        ({"task": "one"}, "task"),
        ({"task": -1}, "task"),
        ({"split": None}, "a text is needed"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: dict, complaint: str) -> None:
    path = tmp_path / "shopping.jsonl"
    recording.append(path, Recording("abc", "B0-1", "train", 7, (Decision(thought="", action="search[a]"),), 1.0))
    good = path.read_text()
    path.write_text(f"{good}\n{json.dumps({**json.loads(good), **change})}\n")
    with pytest.raises(ValueError, match=rf"shopping\.jsonl, line 3: .*{complaint}"):
        list(recording.read(path))
    path.write_text("not json\n")
    with pytest.raises(ValueError, match="line 1"):
        list(recording.read(path))


def test_a_recording_from_elsewhere_is_refused() -> None:
    environment = WebShopEnv("train")
    own = shop_for(environment, 2)
    for other, complaint in (
        (WebShopEnv("train", products=200), "another catalogue"),
        (WebShopEnv("dev"), "split train, not dev"),
        (WebShopEnv("train", split_scheme="verl-agent"), "goals or split scheme differ"),
    ):
        with pytest.raises(ValueError, match=complaint):
            recording.require_fitting(own, other)
    player = Recording("", "", "", 0, (), 0.0).expert()
    with pytest.raises(ValueError, match="ends before the episode"):
        player.act("", environment.reset(options={"task": 0})[1])
