"""An inspector on a free port, and runs for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn

from empg.record.runfolder import RunFolder
from empg.report.inspector.app import make_app

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202e{{7*7}}"
RIGHT_TO_LEFT = "\u05e9\u05dc\u05d5\u05dd go to shelf 1"


class Inspections:
    """Inspectors that serve until `stop`."""

    def __init__(self) -> None:
        self._servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def __call__(self, *runs: RunFolder, port: int = 0) -> str:
        """Serve runs; return the address."""
        server = uvicorn.Server(uvicorn.Config(make_app(runs), port=port, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            thread.join(0.01)
        self._servers.append((server, thread))
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        """Stop all of them."""
        while self._servers:
            server, thread = self._servers.pop()
            server.should_exit = True
            with suppress(RuntimeError):
                thread.join(5)


@pytest.fixture
def inspect() -> Iterator[Inspections]:
    """Serves runs until the end of the test."""
    inspections = Inspections()
    yield inspections
    inspections.stop()


@pytest.fixture
def recorded(make_run: Callable[..., RunFolder]) -> RunFolder:
    """A run of one iteration whose every text tries to become markup, with steps that do not count."""
    run = make_run("recorded", iterations=1, every=1, keep_episodes=())
    rows = [step(episode, turn) for episode in range(4) for turn in range(3)]
    rows[4] |= {"entropy": float("nan"), "advantage": None, "dropped": True}
    rows[5] |= {"observation": "x" * 100_000, "text": "y" * 100_000, "valid": False, "action": ""}
    rows[6] |= {"observation": RIGHT_TO_LEFT, "action_ids": [1] * 5_000, "token_entropies": [0.1] * 5_000}
    run.write_episodes(1, {name: [row[name] for row in rows] for name in rows[0]})
    return run


def step(episode: int, turn: int) -> dict[str, Any]:
    texts = ("task_id", "task_type", "split", "task", "observation", "text", "thought", "action", "end")
    place = {"iteration": 1, "episode": episode, "group": episode // 2, "task_index": 0, "turn": turn}
    return {
        **place,
        **dict.fromkeys(texts, HOSTILE),
        "action_ids": [1, 2],
        "token_entropies": [0.0, 0.5],
        "valid": turn != 2,
        "rejected": False,
        "reward": float(episode % 2 and turn == 2),
        "process_reward": -0.1 * (turn == 2),
        "entropy": 0.1 + 0.3 * turn + 0.05 * episode,
        "advantage_outcome": 1.0 if episode % 2 else -1.0,
        "advantage": 0.9 if episode % 2 else -0.9,
        "num_action_tokens": 2,
        "dropped": False,
        "success": bool(episode % 2),
        "score": 0.0,
    }
