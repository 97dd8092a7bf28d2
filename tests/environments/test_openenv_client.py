"""OpenEnv's own client against `empg serve-environment`, on real sockets (`make test-openenv`)."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from empg.environments.base import ANSWER, SEARCH
from empg.environments.panels import panel_order
from empg.environments.registry import make

core = pytest.importorskip("openenv.core", reason="OpenEnv is not installed: make test-openenv runs these tests")
websockets = pytest.importorskip("websockets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SMALL = ("alfworld", "rooms=small", "max_steps=8")
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "alfworld": ("valid_seen", {"rooms": "small"}),
    "webshop": ("dev", {"products": 200}),
    "deepsearch": ("valid_id", {}),
}


class Served:
    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "empg", "serve-environment", *arguments, "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[0]

    def memory(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 2**20


@contextmanager
def served(*arguments: str) -> Iterator[Served]:
    server = Served(*arguments)
    try:
        yield server
    finally:
        server.process.terminate()
        _, written = server.process.communicate(timeout=30)
        assert not re.search("Traceback|Error", written), written


def client(server: Served) -> Any:
    return core.GenericEnvClient(base_url=server.url, message_timeout_s=60)


def choose(observation: dict[str, Any], rng: random.Random) -> str:
    commands = [command for command in observation["admissible"] or [] if command not in (SEARCH, ANSWER)]
    return rng.choice([*commands, "search[red mug]"])


async def play(server: Served, split: str, index: int) -> list[tuple[str, str, float | None, bool]]:
    """Play at random; returns the commands and what was observed."""
    rng, played = random.Random(index), []
    async with client(server) as environment:
        result = await environment.reset(split=split, index=index)
        played.append(("", result.observation["text"], result.reward, result.done))
        while not result.done:
            command = choose(result.observation, rng)
            result = await environment.step({"command": command})
            played.append((command, result.observation["text"], result.reward, result.done))
        state = await environment.state()
        assert (state["step_count"], state["split"], state["index"]) == (len(played) - 1, split, index)
    return played


@pytest.mark.parametrize("id_", OPTIONS)
def test_64_sessions_play_what_the_environment_plays(id_: str) -> None:
    split, options = OPTIONS[id_]
    arguments = [f"{key}={value}" for key, value in options.items()]
    with served(id_, *arguments, "max_steps=8", "--split", split) as server:

        async def all_at_once() -> list[Any]:
            return await asyncio.gather(*(play(server, split, index) for index in range(64)))

        sessions = asyncio.run(all_at_once())
    environment = make(id_, split, options, 8)
    order = panel_order(environment.num_tasks)
    for index, played in enumerate(sessions):
        text, _ = environment.reset(options={"task": order[index]})
        assert played[0] == ("", text, None, False)
        for command, observed, reward, done in played[1:]:
            outcome = environment.step(command)
            assert (observed, reward, done) == (outcome[0], outcome[1], outcome[2] or outcome[3])


def test_the_blocking_client_and_its_errors() -> None:
    with served(*SMALL) as server, client(server).sync() as environment:
        with pytest.raises(RuntimeError, match="there is no episode, or it is over: send reset"):
            environment.step({"command": "look"})
        with pytest.raises(RuntimeError, match="command: Field required"):
            environment.step({"message": "look"})
        assert environment.reset(seed=1).observation["task_id"] == environment.reset(seed=1).observation["task_id"]
        assert environment.step({"command": "look"}).reward == 0.0


def test_sessions_beyond_the_limit_are_refused_and_idle_ones_make_room() -> None:
    with served(*SMALL, "--sessions", "2", "--idle", "1") as server:

        async def crowd() -> None:
            first, second, third = (client(server) for _ in range(3))
            await first.reset()
            await second.reset()
            with pytest.raises(RuntimeError, match=r"all 2 sessions are in use \(code: CAPACITY_REACHED\)"):
                await third.reset()
            await asyncio.sleep(2.0)
            async with client(server) as fourth:
                assert (await fourth.reset()).done is False
            for one in (first, second, third):
                await one.close()

        asyncio.run(crowd())


def test_memory_is_bounded() -> None:
    with served(*SMALL) as server:

        async def rounds(count: int) -> None:
            for start in range(count):
                await asyncio.gather(*(play(server, "train", (start * 16 + n) % 300) for n in range(16)))

        asyncio.run(rounds(20))  # 320 sessions: the caches are full
        before = server.memory()
        asyncio.run(rounds(20))
        assert server.memory() < before + 20


def test_a_message_that_is_too_large_ends_its_session_only() -> None:
    with served(*SMALL) as server:

        async def huge() -> None:
            async with websockets.connect(server.url.replace("http", "ws") + "/ws") as one:
                await one.send("x" * (2 << 20))
                with pytest.raises(websockets.exceptions.ConnectionClosed):
                    await one.recv()
            async with client(server) as other:
                assert (await other.reset()).done is False

        asyncio.run(huge())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 101),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_pages_of_other_sites_cannot_connect(headers: dict[str, str], status: int) -> None:
    with served(*SMALL) as server:
        port = int(server.url.rpartition(":")[2])
        opening = {
            "Host": f"127.0.0.1:{port}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
            **headers,
        }
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            lines = "".join(f"{name}: {value}\r\n" for name, value in opening.items())
            connection.sendall(f"GET /ws HTTP/1.1\r\n{lines}\r\n".encode())
            assert connection.recv(1000).startswith(f"HTTP/1.1 {status}".encode())


def test_clients_that_vanish_leave_no_session() -> None:
    with served(*SMALL, "--sessions", "3") as server:

        async def vanish() -> None:
            for _ in range(5):
                sockets = [await websockets.connect(server.url.replace("http", "ws") + "/ws") for _ in range(3)]
                for one in sockets:
                    await one.send('{"type": "reset"}')
                    one.transport.abort()
                deadline = time.monotonic() + 5
                while True:
                    try:
                        async with client(server) as other:
                            await other.reset()
                        break
                    except RuntimeError:
                        assert time.monotonic() < deadline
                        await asyncio.sleep(0.05)

        asyncio.run(vanish())
