"""Demonstrations: the same for the same key, corrupted turns marked, tokens as in a rollout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.environments.base import Decision, Info, RecordedEpisode
from empg.environments.registry import find
from empg.policy.model import Policy
from empg.recipe import AgentSection
from empg.rollout.demonstrations import (
    Demonstrated,
    Recordings,
    as_episode,
    corpus,
    demonstrate,
    recorded_plays,
    recording_files,
)
from tests.lamps import Lamps, Presser

WORLD = Lamps("press:3", "press:2", "endless", max_steps=20)


@pytest.fixture(params=["merged", "per_turn"])
def agent(request: pytest.FixtureRequest, policy: Policy) -> Agent:
    return Agent(find("alfworld").prompt, AgentSection(history=request.param), ChatFormat(policy.tokenizer))


def spoken(turns: list[Demonstrated]) -> list[tuple[str, bool]]:
    return [(turn.action, turn.corrupted) for turn in turns]


def test_without_noise_the_expert_wins() -> None:
    turns = demonstrate(WORLD, 0, 0.0, (0,))
    assert spoken(turns) == [("press 0", False), ("press 2", False), ("press 4", False)]
    assert [turn.observation for turn in turns] == ["Lamp 0 is lit.", "Lamp 2 is lit.", "Lamp 4 is lit."]
    assert [turn.thought for turn in turns] == ["0 is lit.", "2 is lit.", "4 is lit."]


def test_the_same_key_is_the_same_play_and_another_key_another() -> None:
    plays = [spoken(demonstrate(WORLD, 2, 0.5, key)) for key in ((0, 1), (0, 1), (0, 2))]
    assert plays[0] == plays[1] != plays[2]


def test_slips_are_as_frequent_as_asked_and_random() -> None:
    turns = [turn for key in range(50) for turn in demonstrate(WORLD, 2, 0.3, (key,))]
    slips = [turn.action for turn in turns if turn.corrupted]
    assert 0.25 < len(slips) / len(turns) < 0.35
    assert len(set(slips)) == 5


def test_slips_are_not_imitated_and_the_way_back_is(agent: Agent) -> None:
    turns = demonstrate(WORLD, 2, 0.4, (3,))
    episode, imitate = as_episode(turns, agent, 10_000)
    assert imitate == [not turn.corrupted for turn in turns]
    assert {True, False} == set(imitate)
    assert [turn.action for turn in episode.turns] == [turn.action for turn in turns]  # slips are read, not learned


def test_its_tokens_are_those_that_a_rollout_would_have_read_and_written(agent: Agent) -> None:
    turns = demonstrate(WORLD, 0, 0.0, (0,))
    episode, _ = as_episode(turns, agent, 10_000)
    dialogue = agent.dialogue()
    for turn, shown in zip(episode.turns, turns, strict=True):
        assert turn.prompt_ids == dialogue.read(shown.observation, shown.info).ids
        parsed = agent.parse(turn.action_ids)
        assert (parsed.thought, parsed.action) == (shown.thought, shown.action)
        assert turn.action_ids[-1] == agent.chat.end_of_turn
        dialogue.wrote(turn.action_ids, turn.action)


def test_a_play_is_cut_before_it_passes_the_limit(agent: Agent) -> None:
    turns = demonstrate(WORLD, 2, 0.0, (0,))

    def tokens(limit: int) -> int:
        episode, imitate = as_episode(turns, agent, limit)
        assert len(imitate) == len(episode.turns)
        sizes = [len(turn.prompt_ids) + len(turn.action_ids) for turn in episode.turns]
        if agent.section.history == "per_turn":
            assert all(size <= limit for size in sizes)
            return len(sizes)
        assert sum(sizes) <= limit
        return len(sizes)

    assert tokens(10) == 0
    assert 0 < tokens(150) <= tokens(10_000) == 20


def test_a_corpus_is_what_is_read_and_written() -> None:
    texts = corpus(WORLD, find("alfworld").prompt, "react", 3, (0,))
    assert "Lamp 0 is lit. Task: press lamps." in texts
    assert any(text.endswith("</think><action>press 0</action>") for text in texts)
    assert texts == corpus(WORLD, find("alfworld").prompt, "react", 3, (0,))


def test_a_third_of_the_slips_insist_and_half_of_the_rest_belong_to_another_moment() -> None:
    slips, insisted, misjudged = 0, 0, []
    for key in range(150):
        turns = demonstrate(WORLD, 0, 0.3, (key,))
        for before, turn in pairwise(turns):
            if turn.corrupted:
                slips += 1
                if (turn.thought, turn.action) == (before.thought, before.action):
                    insisted += 1
                elif turn.thought[0] not in turn.observation:
                    misjudged.append((turn.thought, turn.action))
    assert set(misjudged) <= {(f"{n} is lit.", f"press {n}") for n in (0, 2, 4)}
    assert 0.3 < insisted / slips < 0.6  # another moment may be the one before
    assert 0.3 < len(misjudged) / (slips - insisted) < 0.7


def test_no_slip_ends_an_episode() -> None:
    """Where every command ends it, the expert's own does."""
    world = Lamps("win:1", "lose:2")
    for task, length in ((0, 1), (1, 2)):
        for key in range(20):
            turns = demonstrate(world, task, 0.9, (key,))
            assert len(turns) == length
            assert not turns[-1].corrupted


class Refusing(Lamps):
    """Lamps that refuse every second press."""

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:  # type: ignore[override]
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "valid": self.turns % 2 == 0}


def test_a_turn_that_is_not_valid_is_not_imitated() -> None:
    turns = demonstrate(Refusing("press:3"), 0, 0.0, (0,))
    assert spoken(turns) == [("press 0", True), ("press 2", False), ("press 4", True)]


class Quitter(Presser):
    """Presses as it should, and could give up at any time but the first."""

    satisfied = False

    def conclude(self, observation: str, info: Info) -> Decision | None:
        return None if observation == "Lamp 1 is lit." else {"thought": "Enough.", "action": "give up"}


class Tiring(Lamps):
    """Lamps that one may give up."""

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:  # type: ignore[override]
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or action == "give up", truncated, info

    def expert(self) -> Quitter:
        return Quitter()


def test_haste_ends_an_episode_before_its_time_and_is_imitated() -> None:
    world = Tiring("press:3", "press:3")
    plays = [demonstrate(world, 1, 0.0, (key,), early_stop=0.3) for key in range(300)]  # lamps 3, 0 and 2
    quits = [play for play in plays if play[-1].action == "give up"]
    assert all((play[-1].thought, play[-1].corrupted) == ("Enough.", False) for play in quits)
    assert all(turn.action != "give up" for play in plays for turn in play[:-1])
    assert len(quits) / len(plays) == pytest.approx(1 - 0.7**3, abs=0.08)
    assert [len(play) for play in plays if play not in quits] == [3] * (len(plays) - len(quits))


def test_haste_waits_for_a_turn_that_can_end_an_episode() -> None:
    world = Tiring("press:1", "press:1", "press:2")  # task 2 begins with lamp 1
    plays = [demonstrate(world, 2, 0.0, (key,), early_stop=0.9) for key in range(30)]
    assert {len(play) for play in plays} == {2}
    assert sum(play[-1].action == "give up" for play in plays) > 20


class Content(Quitter):
    """Thinks that it is done when it has given up."""

    def __init__(self) -> None:
        self.satisfied = False

    def conclude(self, observation: str, info: Info) -> Decision | None:
        decision = super().conclude(observation, info)
        self.satisfied = decision is not None
        return decision


class Endless(Lamps):
    """Lamps that do not care for who gives up."""

    def expert(self) -> Content:
        return Content()


def test_a_play_ends_where_the_expert_thinks_that_it_is_done() -> None:
    plays = [demonstrate(Endless("press:3", "press:3"), 1, 0.0, (key,), early_stop=0.3) for key in range(100)]
    assert {play[-1].action for play in plays if len(play) < 3} == {"give up"}
    assert all(turn.action != "give up" for play in plays for turn in play[:-1])


def test_without_haste_a_play_is_what_it_was() -> None:
    assert demonstrate(Tiring("press:3"), 0, 0.4, (5,)) == demonstrate(Lamps("press:3"), 0, 0.4, (5,))


def test_haste_of_an_expert_that_knows_none_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"warm_start\.early_stop: the expert of this environment cannot stop early"):
        demonstrate(WORLD, 0, 0.0, (0,), early_stop=0.1)


class Kept(Lamps):
    """Lamps of which records are kept: a line is `task action action ...`."""

    def recordings(self, file: Path) -> Iterator[RecordedEpisode]:
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            task, *presses = line.split()
            turns = tuple(Decision(thought="", action=f"press {lamp}") for lamp in presses)
            yield RecordedEpisode(f"{file}, line {number}", int(task), turns, 1.0)


def test_what_people_did_is_played_again_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text("1 3 0")
    (tmp_path / "a.jsonl").write_text("0 4 0 2 4\n1 3 0\n")
    (tmp_path / "notes.txt").write_text("no recording")
    plays = recorded_plays(Kept("press:3", "press:2"), tmp_path, "react")
    assert [[turn.action[-1] for turn in play] for play in plays] == [["4", "0", "2", "4"], ["3", "0"], ["3", "0"]]
    assert [turn.observation for turn in plays[1]] == ["Lamp 3 is lit.", "Lamp 0 is lit."]
    assert not any(turn.corrupted for play in plays for turn in play)  # mistakes are imitated as well


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("0 0 2", "a.jsonl, line 1: the recording ends before the episode does"),
        ("0 0 2 4 0", "a.jsonl, line 1: the episode ended after 3 turns but the recording continues"),
        ("2 0 0 0", r"a.jsonl, line 1: score 0\.000 here, 1\.000 when recorded"),
        ("", "has no recorded episode"),
    ],
)
def test_a_recording_that_does_not_fit_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(ValueError, match=complaint) as raised:
        recorded_plays(Kept("press:3", "press:2", "lose:3"), tmp_path, "react")
    assert "\n" not in str(raised.value)


def test_recordings_that_are_not_there_or_of_another_world_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(ValueError, match=rf"^warm_start\.recordings={path} is neither a file nor a folder with"):
            recording_files(path)
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(ValueError, match=r"^warm_start\.recordings: this environment has no recordings"):
        recorded_plays(WORLD, tmp_path, "react")


@pytest.mark.parametrize(("count", "steps", "workers"), [(1, 5, 2), (3, 5, 2), (10, 5, 2), (23, 5, 2), (0, 3, 1)])
def test_recordings_are_seen_equally_often_and_all_of_them(count: int, steps: int, workers: int) -> None:
    plays = [[Demonstrated(str(number), {}, "", "", corrupted=False)] for number in range(count)]
    recordings = Recordings(plays, steps, workers)
    shares = [recordings.share(step, rank) for step in range(steps) for rank in range(workers)]
    assert len({len(share) for share in shares}) == 1
    seen = Counter(play[0].observation for share in shares for play in share)
    assert len(seen) == count
    assert max(seen.values(), default=0) - min(seen.values(), default=0) <= 1
