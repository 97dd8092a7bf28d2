"""Environments behind one door: in place or in processes, the answers are the same, and failures are answers too."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest
from worlds import Lamps

from empg.recipe import EnvironmentSection
from empg.rollout import worlds as worlds_module
from empg.rollout.worlds import LocalWorlds, Outcome, ProcessWorlds, Worlds, make_environment, make_worlds

FATES = ("press:2", "win:2", "lose:1", "raise:1", "raise:0", "die:1", "endless")
MAKE = partial(Lamps, *FATES, max_steps=3)


@pytest.fixture
def processes() -> Iterator[ProcessWorlds]:
    worlds = ProcessWorlds(MAKE, 2)
    yield worlds
    worlds.close()


def play(worlds: Worlds) -> list[list[Outcome]]:
    slots, tasks = [4, 0, 3, 1, 2], [0, 1, 2, 3, 4]
    answers = [worlds.reset(slots, tasks)]
    answers.append(worlds.step([1, 4, 0], ["press 0", "press 0", ""]))
    answers.append(worlds.step([4, 3, 0], ["press 2", "x", "look"]))
    answers.append(worlds.reset([1], [6]))  # a slot that failed is used again
    answers.append(worlds.step([1], ["press 3"]))
    return answers


def kill(worlds: ProcessWorlds, number: int) -> None:
    victim = worlds._processes[number].process
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(timeout=10)


def test_processes_answer_as_this_process_does(processes: ProcessWorlds) -> None:
    local = play(LocalWorlds(MAKE))
    assert play(processes) == local
    assert [outcome.error for outcome in local[0]] == [
        None,
        None,
        None,
        None,
        "RuntimeError: the lamps went out at turn 0",
    ]
    assert [outcome.error for outcome in local[1]] == ["RuntimeError: the lamps went out at turn 1", None, None]
    assert [(outcome.reward, outcome.terminated) for outcome in local[2]] == [(1.0, True), (0.0, True), (1.0, True)]
    assert local[4][0].error is None


def test_a_process_that_dies_is_an_answer_that_says_so(processes: ProcessWorlds) -> None:
    assert [o.error for o in processes.reset([0, 1, 2], [5, 6, 6])] == [None] * 3
    outcomes = processes.step([0, 1, 2], ["x", "x", "x"])  # slot 0's world ends its process, where slot 2 lives too
    ended = "the environment's process ended"
    assert [o.error for o in outcomes] == [ended, None, ended]
    assert [o.error for o in processes.step([0, 1], ["x", "x"])] == [ended, None]


def test_a_process_that_is_killed_is_an_answer_that_says_so(processes: ProcessWorlds) -> None:
    processes.reset([0, 1], [6, 6])
    kill(processes, 1)
    assert [o.error for o in processes.step([0, 1], ["x", "x"])] == [None, "the environment's process ended"]


def test_a_killed_process_is_started_again_for_the_next_episode(processes: ProcessWorlds) -> None:
    ended = "the environment's process ended"
    processes.reset([0, 1, 3, 5], [6, 6, 6, 6])  # 1, 3 and 5 share a process
    kill(processes, 1)
    assert [o.error for o in processes.step([0, 1], ["x", "x"])] == [None, ended]
    again = processes.reset([1], [0])
    assert again == LocalWorlds(MAKE).reset([1], [0])
    answers = processes.step([0, 1, 3], ["x", "press 0", "x"])
    assert [o.error for o in answers] == [None, None, ended]  # 3 was playing in the process that was killed
    assert answers[1].info is not None
    assert answers[1].info["valid"]
    kill(processes, 1)  # it dies between two episodes: nothing is lost but what is playing
    assert [o.error for o in processes.reset([5], [6])] == [None]
    assert [o.error for o in processes.step([1, 5], ["x", "x"])] == [ended, None]


def test_a_world_that_kills_its_process_at_once_does_so_every_time(processes: ProcessWorlds) -> None:
    for _ in range(2):
        assert [o.error for o in processes.reset([0], [5])] == [None]
        assert [o.error for o in processes.step([0], ["x"])] == ["the environment's process ended"]
    assert [o.error for o in processes.reset([0], [6])] == [None]


def test_closing_ends_the_processes() -> None:
    worlds = ProcessWorlds(MAKE, 1)
    worlds.reset([0], [6])
    began = time.monotonic()
    worlds.close()
    assert not worlds._processes[0].process.is_alive()
    assert time.monotonic() - began < 5


def test_options_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"environment\.options: .*roms"):
        make_environment(EnvironmentSection(options={"roms": 3}), "train")


class TestKept:
    SECTION = EnvironmentSection(options={"rooms": "small"}, workers=1)

    @pytest.fixture(autouse=True)
    def nothing_stays(self) -> Iterator[None]:
        yield
        while worlds_module._kept:
            worlds_module._kept.pop().end()

    def started(self, split: str = "train", task: int = 0) -> tuple[Worlds, str, int | None]:
        worlds = make_worlds(self.SECTION, split)
        assert isinstance(worlds, ProcessWorlds)
        return worlds, worlds.reset([0], [task])[0].observation, worlds._processes[0].process.pid

    def test_processes_serve_the_next_rollout_of_a_split_and_end_with_that_of_another(self) -> None:
        worlds, first, process = self.started()
        worlds.close()
        worlds, again, same = self.started()
        assert (again, same) == (first, process)
        _, _, beside = self.started()  # while the others are in use
        assert beside != process
        worlds.close()
        other, _, _ = self.started("valid_seen")
        assert isinstance(worlds, ProcessWorlds)
        assert not worlds._processes[0].process.is_alive()
        other.close()

    def test_processes_whose_answers_nobody_took_are_not_used_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        worlds, _, process = self.started()

        def interrupted(self: object) -> list[Outcome]:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(worlds_module._WorldProcess, "receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                worlds.step([0], ["look"])
        worlds.close()
        last, _, other = self.started(task=1)
        assert other != process
        last.close()
