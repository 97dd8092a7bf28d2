"""The OpenEnv protocol: messages and errors, sessions and their limits, splits and tasks, and who may connect."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from typer.testing import CliRunner

from empg.cli import app
from empg.environments.base import PromptSpec
from empg.environments.openenv import MAX_LISTED, OpenEnvServer, make_server
from empg.environments.openenv_messages import MAX_COMMAND, observed
from empg.environments.options import EnvironmentOptions
from empg.environments.panels import make_panel
from empg.environments.registry import Maker, make
from empg.environments.spec import EnvironmentSpec
from empg.errors import UserError
from tests.lamps import Lamps

FATES = ("press:2", "lose:1", "endless", "raise:1", "raise:0", "win:2")


class LampRoom(Lamps):
    """Lamps as the registry makes them."""

    closed = 0

    def __init__(self, split: str = "train", **options: Any) -> None:
        super().__init__(*FATES)
        self.split = split

    def close(self) -> None:
        LampRoom.closed += 1


SPEC = EnvironmentSpec(
    id="lamps",
    entry_point=f"{__name__}:LampRoom",
    options=EnvironmentOptions,
    prompt=PromptSpec("", ""),
    panels=("valid",),
)


def lamps(**limits: Any) -> OpenEnvServer:
    return OpenEnvServer({split: Maker(SPEC, split) for split in ("train", "valid")}, ["valid"], "lamps", **limits)


@contextmanager
def client_of(server: OpenEnvServer, host: str = "localhost") -> Iterator[TestClient]:
    with TestClient(server.app("127.0.0.1"), base_url=f"http://{host}") as client:
        yield client


Ask = Callable[..., dict[str, Any]]


@contextmanager
def session(client: TestClient) -> Iterator[Ask]:
    with client.websocket_connect("ws://localhost/ws") as socket:

        def ask(kind: str, **data: Any) -> dict[str, Any]:
            socket.send_text(json.dumps({"type": kind, "data": data} if kind in ("reset", "step") else {"type": kind}))
            return json.loads(socket.receive_text())

        ask.socket = socket  # type: ignore[attr-defined]
        yield ask


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with client_of(lamps()) as made:
        yield made


def error(answer: dict[str, Any]) -> tuple[str, str]:
    assert answer["type"] == "error", answer
    return answer["data"]["code"], answer["data"]["message"]


def test_an_episode(client: TestClient) -> None:
    with session(client) as ask:
        assert ask("state")["data"] == {
            "episode_id": None, "step_count": 0, "split": None, "index": None, "task_id": None,
        }  # fmt: skip
        began = ask("reset", split="train", index=0, episode_id="e1")
        observation = began["data"]["observation"]
        assert (began["type"], began["data"]["reward"], began["data"]["done"]) == ("observation", None, False)
        assert (observation["text"], observation["task"], observation["task_id"]) == (
            "Lamp 0 is lit.", "press lamps", "0-press:2",
        )  # fmt: skip
        assert observation["admissible"] == [f"press {lamp}" for lamp in range(5)]
        first = ask("step", command="press 0")["data"]
        assert (first["reward"], first["done"], first["observation"]["text"]) == (0.0, False, "Lamp 2 is lit.")
        assert not ask("step", command="dance")["data"]["observation"]["valid"]
        last = ask("step", command="press 2")["data"]
        assert (last["reward"], last["done"], last["observation"]["won"], last["observation"]["score"]) == (
            1.0, True, True, 1.0,
        )  # fmt: skip
        assert ask("state")["data"] == {
            "episode_id": "e1", "step_count": 3, "split": "train", "index": 0, "task_id": "0-press:2",
        }  # fmt: skip
        assert error(ask("step", command="press 2"))[1] == "there is no episode, or it is over: send reset"
        assert ask("reset", index=1)["data"]["done"] is False


def test_the_step_limit_is_the_end_and_is_told_apart(client: TestClient) -> None:
    with session(client) as ask:
        ask("reset", split="train", index=2)
        ends = [ask("step", command="press 0")["data"] for _ in range(6)]
    assert [end["done"] for end in ends] == [False] * 5 + [True]
    assert [end["observation"]["truncated"] for end in ends] == [False] * 5 + [True]


def test_a_seed_draws_a_task(client: TestClient) -> None:
    with session(client) as ask:
        drawn = [ask("reset", seed=3)["data"]["observation"]["task_id"] for _ in range(2)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("", "INVALID_JSON", "the message is not JSON"),
        ("{", "INVALID_JSON", "the message is not JSON"),
        ("[" * 100_000, "INVALID_JSON", "the message is not JSON"),
        ("[]", "VALIDATION_ERROR", "expected an object with a type"),
        ('{"type": 3}', "VALIDATION_ERROR", "expected an object with a type"),
        ('{"type": "dance"}', "UNKNOWN_TYPE", "unknown message type 'dance': expected reset, step, state or close"),
        ('{"type": "step"}', "VALIDATION_ERROR", "command: Field required"),
        ('{"type": "step", "data": []}', "VALIDATION_ERROR", "data: Input should be"),
        ('{"type": "step", "data": {"command": 3}}', "VALIDATION_ERROR", "command: Input should be a valid string"),
        (
            json.dumps({"type": "step", "data": {"command": "x" * (MAX_COMMAND + 1)}}),
            "VALIDATION_ERROR",
            "command: String should have at most 10000 characters",
        ),
        ('{"type": "step", "data": {"command": "look"}}', "EXECUTION_ERROR", "there is no episode, or it is over"),
        ('{"type": "reset", "data": {"seed": -1}}', "VALIDATION_ERROR", "seed: Input should be greater"),
        ('{"type": "reset", "data": {"index": true}}', "VALIDATION_ERROR", "index: Input should be a valid integer"),
        ('{"type": "reset", "data": {"index": 6}}', "EXECUTION_ERROR", "index 6 does not exist: expected 0 to 5 in tr"),
        ('{"type": "reset", "data": {"index": -1}}', "EXECUTION_ERROR", "index -1 does not exist"),
        ('{"type": "reset", "data": {"split": "x"}}', "EXECUTION_ERROR", "unknown split 'x': expected one of train, v"),
    ],
    ids=str,
)
def test_a_wrong_message_is_an_error_and_the_session_continues(
    text: str, code: str, message: str, client: TestClient
) -> None:
    with session(client) as ask:
        ask.socket.send_text(text)  # type: ignore[attr-defined]
        found = error(json.loads(ask.socket.receive_text()))  # type: ignore[attr-defined]
        assert found[0] == code
        assert found[1].startswith(message)
        assert ask("reset", split="train", index=0)["type"] == "observation"


def test_bytes_are_not_a_message(client: TestClient) -> None:
    with session(client) as ask:
        ask.socket.send_bytes(b"{}")  # type: ignore[attr-defined]
        assert error(json.loads(ask.socket.receive_text()))[0] == "INVALID_JSON"  # type: ignore[attr-defined]


def test_an_environment_that_raises_is_one_line_and_the_session_continues(client: TestClient) -> None:
    with session(client) as ask:
        ask("reset", split="train", index=3)
        found = error(ask("step", command="press 0"))
        assert found == ("EXECUTION_ERROR", "RuntimeError: the lamps went out at turn 1")
        assert error(ask("reset", split="train", index=4))[1] == "RuntimeError: the lamps went out at turn 0"
        assert error(ask("step", command="press 0"))[1] == "there is no episode, or it is over: send reset"
        assert ask("reset", split="train", index=0)["type"] == "observation"


def test_sessions_are_independent_and_limited() -> None:
    with client_of(lamps(sessions=2)) as client:
        with session(client) as one, session(client) as other:
            one("reset", split="train", index=0)
            other("reset", split="train", index=0)
            one("step", command="press 0")
            assert other("step", command="press 3")["data"]["observation"]["text"] == "Lamp 0 is lit."
            assert one("state")["data"]["step_count"] == 1
            with client.websocket_connect("ws://localhost/ws") as third:
                assert error(json.loads(third.receive_text())) == ("CAPACITY_REACHED", "all 2 sessions are in use")
                with pytest.raises(WebSocketDisconnect):
                    third.receive_text()
        with session(client) as again:
            assert again("reset", index=0)["type"] == "observation"


def test_a_session_that_is_idle_ends_and_its_environment_is_closed() -> None:
    with client_of(lamps(sessions=1, idle=0.2)) as client:
        with session(client) as ask:
            ask("reset", split="train", index=0)
            closed = LampRoom.closed
            assert error(json.loads(ask.socket.receive_text())) == (  # type: ignore[attr-defined]
                "SESSION_ERROR", "no message for 0.2 s",
            )  # fmt: skip
            with pytest.raises(WebSocketDisconnect):
                ask.socket.receive_text()  # type: ignore[attr-defined]
        assert LampRoom.closed == closed + 1
        with session(client) as ask:
            assert ask("reset", split="train", index=0)["type"] == "observation"


@pytest.mark.parametrize("leave", ["close", "disconnect"])
def test_a_session_that_is_left_frees_its_place(leave: str) -> None:
    with client_of(lamps(sessions=1)) as client:
        for _ in range(3):
            with client.websocket_connect("ws://localhost/ws") as socket:
                socket.send_text('{"type": "reset", "data": {"index": 0}}')
                answer = json.loads(socket.receive_text())
                assert answer["type"] == "observation", answer
                if leave == "close":
                    socket.send_text('{"type": "close"}')
                    with pytest.raises(WebSocketDisconnect):
                        socket.receive_text()
            time.sleep(0.05)


def test_splits_and_tasks(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "healthy"}
    assert client.get("/list_environments").json() == ["lamps"]
    assert client.get("/lamps/splits").json() == [
        {"name": "train", "type": "train"}, {"name": "valid", "type": "validation"},
    ]  # fmt: skip
    assert client.post("/LAMPS/num_tasks", json={"split": "train"}).json() == {"num_tasks": 6}
    one = client.post("/lamps/task", json={"split": "train", "index": 2}).json()
    assert one == {"task": {"id": "2-endless", "split": "train", "index": 2}}
    part = client.post("/lamps/task_range", json={"split": "train", "start": -2}).json()
    assert [task["index"] for task in part["tasks"]] == [4, 5]
    assert len(client.post("/lamps/tasks", json={"split": "train"}).json()["tasks"]) == 6
    assert set(client.get("/schema").json()) == {"action", "observation", "state"}
    assert client.get("/metadata").json()["name"] == "lamps"


def test_what_asks_no_environment_is_answered_during_a_slow_step(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, released, slept = threading.Event(), threading.Event(), []

    def step(self: LampRoom, action: str) -> Any:
        begun.set()
        slept.append(not released.wait(2.0))  # seconds; without an end, a server that waits for the step would hang
        return Lamps.step(self, action)

    monkeypatch.setattr(LampRoom, "step", step)
    with client_of(lamps()) as client, session(client) as ask:
        ask("reset", split="train", index=0)
        ask.socket.send_text('{"type": "step", "data": {"command": "press 0"}}')  # type: ignore[attr-defined]
        assert begun.wait(10.0)
        for path in ("/health", "/metadata", "/schema", "/list_environments", "/lamps/splits"):
            assert client.get(path).status_code == 200
        for path in ("/lamps/num_tasks", "/lamps/tasks"):
            assert client.post(path, json={"split": "train"}).status_code == 200
        released.set()
        assert json.loads(ask.socket.receive_text())["type"] == "observation"  # type: ignore[attr-defined]
    assert slept == [False]


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        ("/other/num_tasks", b'{"split": "train"}', 404, "unknown environment 'other'"),
        ("/lamps/num_tasks", b"{}", 400, "unknown split None: expected one of train, valid"),
        ("/lamps/num_tasks", b"[]", 400, "unknown split None: expected one of train, valid"),
        ("/lamps/num_tasks", b"{", 400, "the body is not JSON"),
        ("/lamps/num_tasks", b" " * (2 << 20), 400, "the body has more than 1,048,576 bytes"),
        ("/lamps/task", b'{"split": "train", "index": 6}', 400, "index: expected 0 to 5, got 6"),
        ("/lamps/task", b'{"split": "train"}', 400, "index: expected 0 to 5, got None"),
        ("/lamps/task_range", b'{"split": "train", "stop": "x"}', 400, "stop: expected a whole number"),
    ],
)
def test_wrong_questions_about_tasks(path: str, body: bytes, status: int, detail: str, client: TestClient) -> None:
    answer = client.post(path, content=body)
    assert (answer.status_code, answer.json()) == (status, {"detail": detail})


def test_a_task_that_cannot_be_read_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def task_id(self: LampRoom, index: int) -> str:
        if index == 1:
            raise UserError("lamp-1.json is damaged; get it again")
        return f"{index}"

    monkeypatch.setattr(LampRoom, "task_id", task_id)
    with client_of(lamps()) as client:
        answers = [client.post("/lamps/task", json={"split": "train", "index": index}) for index in (0, 1)]
    assert [answer.status_code for answer in answers] == [200, 400]
    assert answers[1].json() == {"detail": "lamp-1.json is damaged; get it again"}


def test_an_evaluated_split_has_the_order_of_its_panel() -> None:
    server = make_server("alfworld", [], {"rooms": "small"}, None, 4, 60.0)
    panel = make_panel(make("alfworld", "valid_seen", {"rooms": "small"}), 3, "p")
    with client_of(server) as client:
        assert [split["name"] for split in client.get("/alfworld/splits").json()] == [
            "train", "valid_seen", "valid_unseen",
        ]  # fmt: skip
        answers = [client.post("/alfworld/task", json={"split": "valid_seen", "index": n}).json() for n in range(3)]
        ids = [answer["task"]["id"] for answer in answers]
        assert ids == list(panel.task_ids)
        with session(client) as ask:
            played = [ask("reset", split="valid_seen", index=n)["data"]["observation"]["task_id"] for n in range(3)]
        assert played == ids
        assert client.post("/alfworld/num_tasks", json={"split": "train"}).json() == {"num_tasks": 100_000}
        assert len(client.post("/alfworld/tasks", json={"split": "train"}).json()["tasks"]) == MAX_LISTED


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"host": "127.0.0.1:8000"}, True),
        ({"origin": "http://localhost"}, True),
        ({"host": "evil.example"}, False),
        ({"origin": "https://evil.example"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
    ],
)
def test_who_may_open_a_session(headers: dict[str, str], allowed: bool, client: TestClient) -> None:
    if allowed:
        with client.websocket_connect("ws://localhost/ws", headers=headers) as socket:
            socket.send_text('{"type": "state"}')
            assert json.loads(socket.receive_text())["type"] == "state"
    else:
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("ws://localhost/ws", headers=headers):
            pass


def test_without_websockets_the_extra_is_named_before_an_environment_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("empg.environments.openenv.find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["serve-environment", "alfworld", "games=/nowhere"])
    assert (done.exit_code, done.stderr) == (
        1, "empg: websockets is not installed: pip install 'empg[openenv]'\n",
    )  # fmt: skip


def test_unknown_names_are_errors_at_the_start() -> None:
    with pytest.raises(UserError, match="split: expected one of train"):
        make_server("alfworld", ["none"], {}, None, 1, 1.0)
    with pytest.raises(UserError, match="unknown environment 'alfwold'; did you mean 'alfworld'"):
        make_server("alfwold", [], {}, None, 1, 1.0)
    with pytest.raises(UserError, match="room"):
        make_server("alfworld", [], {"room": "small"}, None, 1, 1.0)


def test_an_environment_without_the_usual_splits_needs_split() -> None:
    scheme = {"split_scheme": "verl-agent", "products": 50}
    with pytest.raises(UserError, match=r"^split: expected one of test, train, got 'dev'\. .* with --split$"):
        make_server("webshop", [], scheme, None, 1, 1.0)
    with pytest.raises(UserError, match=r"'dev'$"):  # it was named
        make_server("webshop", ["dev"], scheme, None, 1, 1.0)
    with pytest.raises(UserError, match=r"got 'big'$"):  # the options are wrong
        make_server("alfworld", [], {"rooms": "big"}, None, 1, 1.0)


def test_measures_of_numpy_are_sent_as_numbers_and_nan_as_null() -> None:
    info: Any = {"task": "t", "task_id": "0", "task_type": "t", "admissible": None, "valid": True, "won": False}
    info |= {"score": 0.5, "metrics": {"f1": np.float32(0.5), "unknown": float("nan")}}
    sent = json.dumps(observed("text", 0.0, info, done=False, truncated=False), allow_nan=False)
    assert json.loads(sent)["observation"]["metadata"] == {"f1": 0.5, "unknown": None}


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), np.float32("nan")])
def test_a_reward_or_score_that_is_not_finite_is_an_error_and_no_broken_json(
    wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    info: Any = {"task": "t", "task_id": "0", "task_type": "t", "admissible": None, "valid": True, "won": False}
    with pytest.raises(UserError, match=r"^score: expected a finite number from the environment, got "):
        observed("text", 0.0, info | {"score": wrong}, done=False, truncated=False)

    def step(self: LampRoom, action: str) -> Any:
        text, _, *rest = Lamps.step(self, action)
        return text, wrong, *rest

    monkeypatch.setattr(LampRoom, "step", step)
    with client_of(lamps()) as client, session(client) as ask:
        ask("reset", split="train", index=0)
        code, message = error(ask("step", command="press 0"))
        assert code == "EXECUTION_ERROR"
        assert message.startswith("UserError: reward: expected a finite number from the environment, got ")
        assert ask("reset", split="train", index=0)["type"] == "observation"
