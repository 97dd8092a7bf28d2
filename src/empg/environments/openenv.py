"""Serve an environment by the OpenEnv protocol (version 0.10), without OpenEnv: `reset`, `step`, `state`, and tasks.

A session is a WebSocket at `/ws` with an environment of its own. Messages are JSON:

    {"type": "reset", "data": {"split": "train", "index": 3}}      all fields are optional
    {"type": "step", "data": {"command": "look"}}
    {"type": "state"}
    {"type": "close"}

The answer to the first two is `{"type": "observation", "data": {"observation": {...}, "reward": 0.0, "done": false}}`,
to the third a state. An error has a message and a code; the session continues. HTTP routes list splits and tasks.

All sessions are stepped in one thread, one after the other: environments share caches, and Python runs one at a time.
A route that asks no environment, such as `/health`, does not wait for this thread.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import empg
from empg.environments.base import TextEnvironment
from empg.environments.openenv_messages import (
    SCHEMA,
    RequestError,
    ResetData,
    StateData,
    StepData,
    error_message,
    integer,
    observed,
    read_message,
)
from empg.environments.options import concerns_split
from empg.environments.panels import panel_order
from empg.environments.registry import Maker, find
from empg.errors import MissingExtraError, UserError
from empg.web.serving import BodyTooLargeError, read_body, serve_app, web_app

MAX_MESSAGE = 1 << 20  # bytes of a message or a body
MAX_LISTED = 1_000  # tasks in one answer
_MAX_REASON = 300  # characters of an exception that are sent


@dataclass(slots=True)
class _Split:
    """One split: how its environments are made, one of them for questions about tasks, and the order of its tasks."""

    maker: Maker
    probe: TextEnvironment
    order: Sequence[int]


@dataclass(slots=True)
class _Session:
    """One client's episode. The methods run in the thread of the environments."""

    splits: dict[str, _Split]
    state: StateData = field(default_factory=StateData)
    environment: TextEnvironment | None = None
    over: bool = True

    def reset(self, data: ResetData) -> dict[str, Any]:
        """Start an episode."""
        name = data.split or next(iter(self.splits))
        if name not in self.splits:
            raise RequestError(f"unknown split {name!r:.80}: expected one of {', '.join(self.splits)}")
        split = self.splits[name]
        count = len(split.order)
        index = random.Random(data.seed).randrange(count) if data.index is None else data.index
        if not 0 <= index < count:
            raise RequestError(f"index {index} does not exist: expected 0 to {count - 1} in {name}")
        if self.environment is None or self.state.split != name:
            self.close()
            self.environment = split.maker()
        self.over = True  # should the reset fail
        text, info = self.environment.reset(options={"task": split.order[index]})
        self.over = False
        self.state = StateData(episode_id=data.episode_id, split=name, index=index, task_id=info["task_id"])
        return observed(text, None, info, done=False, truncated=False)

    def step(self, data: StepData) -> dict[str, Any]:
        """Give a command."""
        if self.environment is None or self.over:
            raise RequestError("there is no episode, or it is over: send reset")
        text, reward, terminated, truncated, info = self.environment.step(data.command)
        self.state.step_count += 1
        self.over = terminated or truncated
        return observed(text, float(reward), info, done=self.over, truncated=truncated)

    def close(self) -> None:
        """Release the environment."""
        if self.environment is not None:
            self.environment.close()
            self.environment = None
        self.state, self.over = StateData(), True


class OpenEnvServer:
    """The state of a server: its splits, and how many sessions are open.

    Args:
        makers: a maker per split. The first split is played where a client names none.
        evaluated: the splits whose tasks are in the order of panels, so that tasks 0 to n - 1 are the panel of n tasks.
        name: name of the environment.
        sessions: most sessions at once.
        idle: seconds after which a session without a message ends.

    Raises:
        UserError: an environment cannot be made.
    """

    def __init__(
        self, makers: dict[str, Maker], evaluated: Sequence[str], name: str, sessions: int = 64, idle: float = 600.0
    ) -> None:
        self.name, self._sessions, self._idle = name, sessions, idle
        self._splits: dict[str, _Split] = {}
        self._open = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="environments")
        for split, maker in makers.items():
            probe = self._thread.submit(maker).result()  # some environments belong to the thread that made them
            order = panel_order(probe.num_tasks) if split in evaluated else range(probe.num_tasks)
            self._splits[split] = _Split(maker, probe, order)

    def app(self, host: str) -> Starlette:
        """Return the web application for the address `host`."""
        routes = [
            WebSocketRoute("/ws", self._session),
            Route("/health", self._answer(lambda body: {"status": "healthy"})),
            Route("/metadata", self._answer(lambda body: self._metadata())),
            Route("/schema", self._answer(lambda body: SCHEMA)),
            Route("/list_environments", self._answer(lambda body: [self.name])),
            Route("/{name}/splits", self._answer(lambda body: self._split_list())),
            Route("/{name}/num_tasks", self._answer(self._num_tasks), methods=["POST"]),
            Route("/{name}/tasks", self._answer(self._tasks), methods=["POST"]),
            Route("/{name}/task_range", self._answer(self._tasks), methods=["POST"]),
            Route("/{name}/task", self._answer(self._task, waits=True), methods=["POST"]),
        ]
        return web_app(routes, host)

    # --- sessions ----------------------------------------------------------------------------------------------------

    async def _session(self, websocket: WebSocket) -> None:
        await websocket.accept()
        if self._open >= self._sessions:
            message = f"all {self._sessions} sessions are in use"
            await _send(websocket, error_message(message, "CAPACITY_REACHED", max_sessions=self._sessions))
            await websocket.close()
            return
        self._open += 1
        session = _Session(self._splits)
        try:
            await self._converse(websocket, session)
        except asyncio.TimeoutError:
            with suppress(WebSocketDisconnect, RuntimeError):
                await _send(websocket, error_message(f"no message for {self._idle:g} s", "SESSION_ERROR"))
        except (WebSocketDisconnect, RuntimeError):  # RuntimeError: the client left while it was answered
            pass
        finally:
            self._open -= 1
            await asyncio.shield(self._run(session.close))
            with suppress(WebSocketDisconnect, RuntimeError):
                await websocket.close()

    async def _converse(self, websocket: WebSocket, session: _Session) -> None:
        while True:
            received = await asyncio.wait_for(websocket.receive(), self._idle)
            if received["type"] == "websocket.disconnect":
                return
            try:
                kind, data = read_message(received.get("text"))
                if kind == "close":
                    return
                answer = await self._answered(session, kind, data)
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, first["loc"])) or "data"
                answer = error_message(f"{place}: {first['msg']}", "VALIDATION_ERROR")
            except RequestError as error:
                answer = error_message(str(error), error.code)
            except Exception as error:  # of the environment; the session continues
                reason = " ".join(str(error).split())[:_MAX_REASON]
                answer = error_message(f"{type(error).__name__}: {reason}", "EXECUTION_ERROR")
            await _send(websocket, answer)

    async def _answered(self, session: _Session, kind: str, data: Any) -> dict[str, Any]:
        if kind == "state":
            return {"type": "state", "data": session.state.model_dump()}
        if kind == "reset":
            reset = ResetData.model_validate(data)
            return {"type": "observation", "data": await self._run(session.reset, reset)}
        if kind == "step":
            step = StepData.model_validate(data)
            return {"type": "observation", "data": await self._run(session.step, step)}
        raise RequestError(f"unknown message type {kind!r:.80}: expected reset, step, state or close", "UNKNOWN_TYPE")

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in the thread of the environments."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    # --- tasks -------------------------------------------------------------------------------------------------------

    def _answer(self, function: Callable[[Any], Any], *, waits: bool = False) -> Callable[[Request], Any]:
        """Return a handler that answers with JSON; a request that cannot be answered gets `{"detail": ...}`.

        A function that asks an environment `waits` for their thread, perhaps for a whole step. The others must not: a
        `/health` that is late makes the server look dead.
        """

        async def handle(request: Request) -> JSONResponse:
            name = request.path_params.get("name", self.name)
            if name.lower() != self.name.lower():
                return JSONResponse({"detail": f"unknown environment {name!r:.80}"}, 404)
            try:
                body = await _body(request) if request.method == "POST" else None
                return JSONResponse(await self._run(function, body) if waits else function(body))
            except (RequestError, UserError) as error:  # the request is wrong, or the file of a task
                return JSONResponse({"detail": str(error)}, 400)

        return handle

    def _metadata(self) -> dict[str, Any]:
        return {"name": self.name, "description": f"{self.name}, served by empg", "version": empg.__version__}

    def _split_list(self) -> list[dict[str, str]]:
        kinds = {"train": "train", "test": "test"}
        return [{"name": name, "type": kinds.get(name, "validation")} for name in self._splits]

    def _num_tasks(self, body: Any) -> dict[str, int]:
        return {"num_tasks": len(self._named(body).order)}

    def _tasks(self, body: Any) -> dict[str, Any]:
        """List the tasks of a range, at most `MAX_LISTED`; only `task` computes the id."""
        split = self._named(body)
        bounds = slice(integer(body, "start"), integer(body, "stop"))
        listed = range(len(split.order))[bounds][:MAX_LISTED]
        return {"tasks": [{"split": split.maker.split, "index": index} for index in listed], "env_name": self.name}

    def _task(self, body: Any) -> dict[str, Any]:
        split, index = self._named(body), integer(body, "index")
        if index is None or not 0 <= index < len(split.order):
            raise RequestError(f"index: expected 0 to {len(split.order) - 1}, got {index}")
        task_id = split.probe.task_id(split.order[index])
        return {"task": {"id": task_id, "split": split.maker.split, "index": index}}

    def _named(self, body: Any) -> _Split:
        name = body.get("split") if isinstance(body, dict) else None
        if not isinstance(name, str) or name not in self._splits:
            raise RequestError(f"unknown split {name!r:.80}: expected one of {', '.join(self._splits)}")
        return self._splits[name]


def serve_environment(
    id_: str,
    splits: Sequence[str],
    options: dict[str, Any],
    *,
    max_steps: int | None = None,
    sessions: int = 64,
    idle: float = 600.0,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a registered environment until Ctrl-C.

    Args:
        id_: see `registry.find`.
        splits: the splits that are served; none means train and those that are evaluated.
        options: options of the environment.
        max_steps: turns per episode; None takes the environment's own limit.
        sessions: most sessions at once.
        idle: seconds after which a session without a message ends.
        host: "0.0.0.0" accepts connections from other machines, without authentication.
        port: 0 picks any free port.
        ready: receives the address as soon as the server accepts connections.

    Raises:
        UserError: the environment, a split or an option does not exist, or the port is in use.
        MissingExtraError: the package that accepts WebSockets is not installed.
    """
    if find_spec("websockets") is None:  # uvicorn would find out after the environments are made
        raise MissingExtraError("websockets is not installed: pip install 'empg[openenv]'")
    server = make_server(id_, splits, options, max_steps, sessions, idle)
    serve_app(server.app(host), host, port, ready, MAX_MESSAGE)


def make_server(
    id_: str, splits: Sequence[str], options: dict[str, Any], max_steps: int | None, sessions: int, idle: float
) -> OpenEnvServer:
    """Return the server of a registered environment; without `splits`, train and those that are evaluated.

    Raises:
        UserError: the environment, a split or an option does not exist.
    """
    spec = find(id_)
    names = list(dict.fromkeys(splits or ("train", *spec.panels)))
    makers = {name: Maker(spec, name, options, max_steps) for name in names}
    evaluated = [name for name in names if name != "train"]
    try:
        return OpenEnvServer(makers, evaluated, id_.replace("/", "-"), sessions, idle)
    except UserError as error:
        if splits or not concerns_split(error):
            raise
        raise UserError(f"{error}. Name the splits to serve with --split") from None


async def _send(websocket: WebSocket, answer: dict[str, Any]) -> None:
    await websocket.send_text(json.dumps(answer))


async def _body(request: Request) -> Any:
    """Return the JSON of a request."""
    try:
        return json.loads(await read_body(request, MAX_MESSAGE))
    except BodyTooLargeError as error:
        raise RequestError(str(error)) from None
    except (ValueError, RecursionError):
        raise RequestError("the body is not JSON") from None
