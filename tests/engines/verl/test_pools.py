"""The environments of many episodes at once: in this process, or in the processes that a recipe names."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import psutil
import pytest

from empg.engines.verl import pools
from empg.engines.verl.pools import episode_pool
from empg.recipe import EnvironmentSection
from tests.lamps import Lamps

MAKE = partial(Lamps, *["win:1", "win:2", "endless"] * 4)


@pytest.fixture
def nothing_stays() -> Iterator[None]:
    yield
    while pools._kept:
        for process in pools._kept.pop()[1]:
            process.pool.close()


def test_the_first_environment_of_a_kind_starts_alone() -> None:
    reads: list[str] = []
    together = threading.Barrier(6)

    @lru_cache(1)
    def data() -> str:
        time.sleep(0.05)
        reads.append("read")
        return "win:1"

    def make() -> Lamps:
        return Lamps(data())

    def start(_: int) -> str | None:
        together.wait()
        return episode_pool(make, 0).reset([0], [0])[0].error

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(start, range(6))) == [None] * 6
    assert reads == ["read"]


@pytest.mark.usefixtures("nothing_stays")
def test_episodes_share_the_processes_of_the_recipe() -> None:
    together = threading.Barrier(12)
    before = set(psutil.Process().children())

    def play(task: int) -> tuple[list[bool], int]:
        pool = episode_pool(MAKE, 2)
        together.wait()  # all are lent a slot
        pool.reset([0], [task])
        together.wait()
        ended = [pool.step([0], ["look"])[0].terminated for _ in range(2 if task % 3 else 1)]
        started = sum("spawn_main" in " ".join(child.cmdline()) for child in set(psutil.Process().children()) - before)
        together.wait()
        pool.close()
        return ended, started

    with ThreadPoolExecutor(12) as threads:
        first, second = (list(threads.map(play, range(12))) for _ in range(2))
    assert first == second == [([[True], [False, True], [False, False]][task % 3], 2) for task in range(12)]
    assert sorted(len(process.pool._processes[0].playing) for process in pools._kept[0][1]) == [6, 6]


@pytest.mark.usefixtures("nothing_stays")
def test_another_split_has_processes_of_its_own() -> None:
    section = EnvironmentSection(options={"rooms": "small"})
    for split in ("train", "valid_seen", "train"):
        episode_pool(section.maker(split), 1).close()
    assert [make for make, _ in pools._kept] == [section.maker("train"), section.maker("valid_seen")]
