"""Several environments at once: `gymnasium.make_vec` plays the same episodes in this process and in others."""

from __future__ import annotations

import copy
import multiprocessing
from typing import Any

import gymnasium
import pytest
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory

from empg.environments import registry
from empg.environments.text_space import SHARED_BYTES, AnyText

OWN: dict[str, tuple[dict[str, Any], str]] = {
    "empg/ALFWorld-v1": ({"rooms": "small"}, "look"),
    "empg/WebShop-v1": ({"products": 50}, "search[mug]"),
    "empg/DeepSearch-v1": ({}, "search[river]"),
}


def play(vector: Any, action: str) -> list[Any]:
    """Two episodes side by side: what is observed at their start and after each of two turns."""
    try:
        seen, _ = vector.reset(seed=5)
        turns = [seen]
        for _ in range(2):
            seen, rewards, terminated, truncated, info = vector.step((action, "nonsense"))
            turns.append(seen)
            assert rewards.shape == terminated.shape == truncated.shape == (2,)
            assert len(info["task_id"]) == 2
        return turns
    finally:
        vector.close()


@pytest.mark.parametrize("id_", OWN)
def test_vectors_of_environments(id_: str) -> None:
    registry.find(id_)
    options, action = OWN[id_]
    here = play(gymnasium.make_vec(id_, num_envs=2, vectorization_mode="sync", **options), action)
    assert len({text for turn in here for text in turn}) > 2
    assert play(gymnasium.make_vec(id_, num_envs=2, vectorization_mode="async", **options), action) == here


def test_a_vector_in_spawned_processes_and_without_copies() -> None:
    id_ = "empg/ALFWorld-v1"
    registry.find(id_)
    here = play(gymnasium.make_vec(id_, num_envs=2, vectorization_mode="sync", rooms="small"), "look")
    spawned = {"context": "spawn", "copy": False}
    vector = gymnasium.make_vec(id_, num_envs=2, vectorization_mode="async", vector_kwargs=spawned, rooms="small")
    last = play(vector, "look")[-1]
    assert tuple(last) == here[-1]
    assert (last[0], last[-1], last[:1], len(last)) == (here[-1][0], here[-1][1], here[-1][:1], 2)


def test_any_text_passes_through_shared_memory() -> None:
    space = AnyText(10_000_000)
    memory: Any = create_shared_memory(space, n=2, ctx=multiprocessing)
    write: Any = write_to_shared_memory  # typed for arrays
    texts = read_from_shared_memory(space, memory, n=2)
    assert tuple(texts) == ("", "")
    for text in ("a mug", "冰箱 \U0001f44d\n\0", "", "\ud800", "x" * SHARED_BYTES):
        write(space, 1, text, memory)
        assert tuple(texts) == copy.deepcopy(texts) == ("", text)
    with pytest.raises(ValueError, match="too long for shared memory: expected at most 1,048,576 bytes, got 1,048,577"):
        write(space, 0, "x" * (SHARED_BYTES + 1), memory)
