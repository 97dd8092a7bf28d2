"""Environments behind one door: in place or in processes, the answers are the same, and failures are answers too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import pytest

from empg.environments.base import Info
from empg.recipe import EnvironmentSection
from empg.rollout import env_pool as env_pool_module
from empg.rollout.env_pool import EnvPool, LocalEnvPool, Outcome, ProcessEnvPool, make_env_pool
from tests.lamps import Lamps

FATES = ("press:2", "win:2", "lose:1", "raise:1", "raise:0", "die:1", "endless")
MAKE = partial(Lamps, *FATES, max_steps=3)


@pytest.fixture
def processes() -> Iterator[ProcessEnvPool]:
    pool = ProcessEnvPool(MAKE, 2)
    yield pool
    pool.close()


def play(pool: EnvPool) -> list[list[Outcome]]:
    slots, tasks = [4, 0, 3, 1, 2], [0, 1, 2, 3, 4]
    answers = [pool.reset(slots, tasks)]
    answers.append(pool.step([1, 4, 0], ["press 0", "press 0", ""]))
    answers.append(pool.step([4, 3, 0], ["press 2", "x", "look"]))
    answers.append(pool.reset([1], [6]))  # a slot that failed is used again
    answers.append(pool.step([1], ["press 3"]))
    return answers


def kill(pool: ProcessEnvPool, number: int) -> None:
    victim = pool._processes[number].process
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(timeout=10)


def test_processes_answer_as_this_process_does(processes: ProcessEnvPool) -> None:
    local = play(LocalEnvPool(MAKE))
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


def test_a_process_that_dies_is_an_answer_that_says_so(processes: ProcessEnvPool) -> None:
    assert [o.error for o in processes.reset([0, 1, 2], [5, 6, 6])] == [None] * 3
    outcomes = processes.step([0, 1, 2], ["x", "x", "x"])  # slot 0's world ends its process, where slot 2 lives too
    ended = "the environment's process ended"
    assert [o.error for o in outcomes] == [ended, None, ended]
    assert [o.error for o in processes.step([0, 1], ["x", "x"])] == [ended, None]


def test_a_process_that_is_killed_is_an_answer_that_says_so(processes: ProcessEnvPool) -> None:
    processes.reset([0, 1], [6, 6])
    kill(processes, 1)
    assert [o.error for o in processes.step([0, 1], ["x", "x"])] == [None, "the environment's process ended"]


def test_a_killed_process_is_started_again_for_the_next_episode(processes: ProcessEnvPool) -> None:
    ended = "the environment's process ended"
    processes.reset([0, 1, 3, 5], [6, 6, 6, 6])  # 1, 3 and 5 share a process
    kill(processes, 1)
    assert [o.error for o in processes.step([0, 1], ["x", "x"])] == [None, ended]
    again = processes.reset([1], [0])
    assert again == LocalEnvPool(MAKE).reset([1], [0])
    answers = processes.step([0, 1, 3], ["x", "press 0", "x"])
    assert [o.error for o in answers] == [None, None, ended]  # 3 was playing in the process that was killed
    assert answers[1].info is not None
    assert answers[1].info["valid"]
    kill(processes, 1)  # it dies between two episodes: nothing is lost but what is playing
    assert [o.error for o in processes.reset([5], [6])] == [None]
    assert [o.error for o in processes.step([1, 5], ["x", "x"])] == [ended, None]


def test_a_world_that_kills_its_process_at_once_does_so_every_time(processes: ProcessEnvPool) -> None:
    for _ in range(2):
        assert [o.error for o in processes.reset([0], [5])] == [None]
        assert [o.error for o in processes.step([0], ["x"])] == ["the environment's process ended"]
    assert [o.error for o in processes.reset([0], [6])] == [None]


class Unreadable(Exception):
    """What can be pickled, but not read again, like many an exception with arguments of its own."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


class Odd(Lamps):
    """Tasks 0 and 1 return what cannot leave a process."""

    def __len__(self) -> int:  # an environment that is falsy is one all the same
        return 0

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:  # type: ignore[override]
        observation, reward, terminated, truncated, info = super().step(action)
        brought = {0: lambda: None, 1: Unreadable("a", "b")}.get(self.task)
        info["brought"] = brought  # type: ignore[typeddict-unknown-key]
        return observation, reward, terminated, truncated, info


def test_what_cannot_leave_its_process_is_the_failure_of_one_slot() -> None:
    pool = ProcessEnvPool(partial(Odd, "endless", "endless", "endless"), 1)
    pool.reset([0, 1, 2], [0, 1, 2])
    for _ in range(2):
        lost, unread, fine = pool.step([0, 1, 2], ["x"] * 3)
        for outcome in (lost, unread):
            assert (outcome.error or "").startswith("what the environment returned cannot leave its process: ")
        assert fine.error is None
    pool.close()


class Quitting(Lamps):
    """Ends the program in task 0, and cannot be closed."""

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:  # type: ignore[override]
        if self.task == 0:
            sys.exit(0)
        return super().step(action)

    def close(self) -> None:
        raise RuntimeError("the socket is gone")


def test_an_environment_that_ends_the_program_ends_its_episode() -> None:
    pool = LocalEnvPool(partial(Quitting, "endless", "endless"))
    pool.reset([0, 1], [0, 1])
    assert [outcome.error for outcome in pool.step([0, 1], ["look", "look"])] == ["SystemExit: 0", None]
    with pytest.warns(RuntimeWarning, match="cannot be closed: RuntimeError: the socket is gone") as warned:
        pool.close()
    assert len(warned) == 2  # of each


def test_an_interrupt_reaches_the_processes_without_a_word() -> None:
    """Ctrl-C is sent to every process of a terminal, also to those that are still starting."""
    script = (
        "import functools, os, signal, time\n"
        "from empg.rollout.env_pool import ProcessEnvPool\n"
        "from tests.lamps import Lamps\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, lambda *_: None)\n"
        "    pool = ProcessEnvPool(functools.partial(Lamps, 'endless'), 2)\n"
        "    for _ in range(20):\n"
        "        os.killpg(os.getpgrp(), signal.SIGINT)\n"
        "        time.sleep(0.1)\n"
        "    print([process.process.exitcode for process in pool._processes])\n"
        "    print([outcome.error for outcome in pool.reset([0, 1], [0, 0])])\n"
        "    pool.close()\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, start_new_session=True)
    assert (done.stdout, done.stderr) == ("[None, None]\n" * 2, "")


def test_an_environment_without_length_is_made_once_per_slot() -> None:
    made = iter([Odd("endless"), Odd("endless")])
    pool = LocalEnvPool(lambda: next(made))
    for _ in range(3):
        assert [outcome.error for outcome in pool.reset([0, 1], [0, 0])] == [None, None]


def test_closing_ends_the_processes() -> None:
    pool = ProcessEnvPool(MAKE, 1)
    pool.reset([0], [6])
    began = time.monotonic()
    pool.close()
    assert not pool._processes[0].process.is_alive()
    assert time.monotonic() - began < 5


def test_options_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown key 'environment\.options\.roms'; did you mean 'rooms'\?"):
        EnvironmentSection(options={"roms": 3})


class TestKept:
    SECTION = EnvironmentSection(options={"rooms": "small"}, workers=1)

    @pytest.fixture(autouse=True)
    def nothing_stays(self) -> Iterator[None]:
        yield
        while env_pool_module._kept:
            env_pool_module._kept.pop().end()

    def started(self, split: str = "train", task: int = 0) -> tuple[EnvPool, str, int | None]:
        pool = make_env_pool(self.SECTION.maker(split), self.SECTION.workers)
        assert isinstance(pool, ProcessEnvPool)
        return pool, pool.reset([0], [task])[0].observation, pool._processes[0].process.pid

    def test_processes_serve_the_next_rollout_of_a_split_and_end_with_that_of_another(self) -> None:
        pool, first, process = self.started()
        pool.close()
        pool, again, same = self.started()
        assert (again, same) == (first, process)
        _, _, beside = self.started()  # while the others are in use
        assert beside != process
        pool.close()
        other, _, _ = self.started("valid_seen")
        assert isinstance(pool, ProcessEnvPool)
        assert not pool._processes[0].process.is_alive()
        other.close()

    def test_another_number_of_processes_is_started_anew(self) -> None:
        maker = self.SECTION.maker("train")
        counts = []
        for processes in (1, 2, 2):
            pool = make_env_pool(maker, processes)
            assert isinstance(pool, ProcessEnvPool)
            counts.append(pool.processes)
            pool.close()
        assert counts == [1, 2, 2]

    def test_processes_whose_answers_nobody_took_are_not_used_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pool, _, process = self.started()

        def interrupted(self: object) -> list[Outcome]:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(env_pool_module._EnvProcess, "receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.step([0], ["look"])
        pool.close()
        last, _, other = self.started(task=1)
        assert other != process
        last.close()
