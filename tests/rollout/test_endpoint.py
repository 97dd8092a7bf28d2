"""Chat models over a real connection: completions, servers that fail in every way, limits, and the key."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from empg.errors import UserError
from empg.policy.decode import Sampling
from empg.rollout.endpoint import MAX_TEXT, Completion, ContextFullError, Endpoint, EndpointError, split_name
from empg.web.client import RequestPolicy
from empg.web.errors import ServiceError
from tests.rollout.chat_server import chat_server, completion
from tests.web.servers import Reply, ScriptedServer, dead_url, scripted

QUICK = RequestPolicy(timeout=1.0, attempts=3, backoff=0.01, max_bytes=1 << 20, failure_threshold=1 << 30)
KEY = "k-secret-123"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Lamp 0 is lit."}]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CHAT_KEY", KEY)


def endpoint_at(server: ScriptedServer, **sampling: Any) -> Endpoint:
    return Endpoint(f"openai:{server.url}/v1#toy/model-1", Sampling(**sampling), "CHAT_KEY", QUICK)


def sent(server: ScriptedServer, number: int = 0) -> dict[str, Any]:
    return json.loads(server.seen[number].body)


def test_the_request_and_the_reply() -> None:
    with scripted(Reply(completion("press 0"))) as server:
        reply = endpoint_at(server, temperature=0.7, max_turn_tokens=32)(MESSAGES)
    assert reply == Completion("press 0", "", 10, 5, metered=True)
    [seen] = server.seen
    assert (seen.method, seen.path, seen.headers["authorization"]) == ("POST", "/v1/chat/completions", f"Bearer {KEY}")
    settings = {"temperature": 0.7, "top_p": 1.0, "max_tokens": 32}
    assert sent(server) == {"model": "toy/model-1", "messages": MESSAGES, **settings}


def test_arguments_of_the_chat_template_are_sent_if_there_are_any() -> None:
    with scripted(Reply(completion("x"))) as server:
        for arguments in ({"enable_thinking": False}, {}):
            Endpoint(f"openai:{server.url}/v1#m", Sampling(), None, QUICK, template_arguments=arguments)(MESSAGES)
    assert [sent(server, n).get("chat_template_kwargs") for n in (0, 1)] == [{"enable_thinking": False}, None]


def test_half_an_emoji_in_a_message_is_sent_as_a_question_mark() -> None:
    with scripted(Reply(completion("x"))) as server:
        endpoint_at(server)([{"role": "user", "content": "look\ud83d 😀"}])
    assert sent(server)["messages"] == [{"role": "user", "content": "look? 😀"}]
    assert server.seen[0].headers["content-type"] == "application/json"


def test_greedy_decoding_is_temperature_0() -> None:
    with scripted(Reply(completion("press 0"))) as server:
        endpoint_at(server, greedy=True, top_p=0.5)(MESSAGES)
        endpoint_at(server, top_p=0.5)(MESSAGES)
    assert [(sent(server, n)["temperature"], sent(server, n).get("top_p")) for n in (0, 1)] == [(0.0, None), (1.0, 0.5)]


def test_without_a_variable_no_key_is_sent() -> None:
    with scripted(Reply(completion("x"))) as server:
        Endpoint(f"openai:{server.url}#m", Sampling(), None, QUICK)(MESSAGES)
    assert "authorization" not in server.seen[0].headers


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        (completion(None), Completion("", "", 10, 5, metered=True)),  # refused, or cut while it reasoned
        (completion("a", reasoning_content="why"), Completion("a", "why", 10, 5, metered=True)),
        (completion("a", reasoning="why"), Completion("a", "why", 10, 5, metered=True)),
        (completion("look\ud83d", reasoning="\ude00 why"), Completion("look?", "? why", 10, 5, metered=True)),
        (completion("a" * (MAX_TEXT + 1)), Completion("a" * MAX_TEXT, "", 10, 5, metered=True)),
        (
            b'{"choices": [{"message": {"content": "cut he"}, "finish_reason": "length"}]}',
            Completion("cut he", "", 0, 0, metered=False),
        ),
        (
            b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": -1, "completion_tokens": "9"}}',
            Completion("a", "", 0, 0, metered=False),
        ),
    ],
)
def test_completions(body: bytes, reply: Completion) -> None:
    with scripted(Reply(body)) as server:
        assert endpoint_at(server)(MESSAGES) == reply


@pytest.mark.parametrize(
    "failed",
    [
        Reply(status=429, headers=(("Retry-After", "0"),)),
        Reply(status=500),
        Reply(status=503),
        Reply(completion("late"), wait=2.0),  # beyond the deadline
        Reply(completion("torn"), broken=True),
        Reply(b"<html>overloaded</html>"),  # status 200
        Reply(b'{"choices": []}'),
        Reply(b'{"error": {"message": "overloaded"}}'),
        Reply(b"[" * 100_000),
    ],
)
def test_a_failure_that_passes_is_retried(failed: Reply) -> None:
    with scripted(failed, Reply(completion("press 0"))) as server:
        assert endpoint_at(server)(MESSAGES).text == "press 0"
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("reply", "requests", "message"),
    [
        (Reply(status=503), 3, r"answered 503 \(3 attempts\)"),
        (Reply(wait=5.0), 3, r"did not answer within 1 s \(3 attempts\)"),
        (Reply(b"no JSON"), 3, "did not return a chat completion: the response is not JSON. Check the address"),
        (Reply(b'{"choices": []}'), 3, "it has no choices with a message"),
        (Reply(b'{"choices": [{"message": {"content": ["x"]}}]}'), 3, "the content is not text"),
        (Reply(b"[1]"), 3, "it has no choices with a message"),
        (Reply(b" " * (2 << 20)), 1, "sent more than 1,048,576 bytes"),
        (Reply(b"{}", status=401), 1, "answered 401. Check the API key and --key-variable"),
        (Reply(b'{"error": {"message": "no such model\\n"}}', status=404), 1, "answered 404: no such model$"),
        (Reply(b'{"detail": "bad"}', status=422), 1, "answered 422: bad$"),
        (Reply(b"\xff", status=400), 1, "answered 400$"),
        (Reply(b'{"error": {"message": "bad \\ud83d"}}', status=400), 1, r"answered 400: bad \?$"),
        (Reply(b'{"error": {"message": "no context: bad window size", "type": "server_error"}}', status=500), 3, "500"),
        (Reply(b"[" * 100_000, status=500), 3, r"answered 500 \(3 attempts\)"),
        (Reply(b"\x1f", status=500, headers=(("Content-Encoding", "gzip"),)), 3, r"answered 500 \(3 attempts\)"),
        (Reply(b'{"error": {"message": "context length exceeded"}}', status=429), 3, r"answered 429 \(3 attempts\)"),
    ],
)
def test_a_failure_that_stays_is_one_line(reply: Reply, requests: int, message: str) -> None:
    with scripted(reply) as server, pytest.raises((EndpointError, ServiceError), match=message) as raised:
        endpoint_at(server)(MESSAGES)
    assert len(server.seen) == requests
    assert "\n" not in str(raised.value)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(ServiceError, match="cannot be reached"):
        Endpoint(f"openai:{dead_url()}/v1#m", Sampling(), None, QUICK)(MESSAGES)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"}),
        (400, {"message": "the request exceeds the available context window"}),
        (413, {"message": "context length exceeded"}),
        (400, {"message": "request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it"}),
        (400, {"message": "Prompt is too long: 210000 tokens > 200000 maximum"}),
        (422, {"message": "Too many tokens: 5000"}),
        (400, {"message": "no", "type": "exceed_context_size_error", "code": 400}),
        (400, {"message": "no", "type": "invalid_request_error", "code": "context_length_exceeded"}),
        (500, {"message": "Context size has been exceeded.", "type": "server_error", "code": 500}),
        (500, {"message": "no", "type": "exceed_context_size_error"}),
    ],
)
def test_a_conversation_that_is_too_long_is_not_a_failure_of_the_server(status: int, error: dict[str, Any]) -> None:
    for body in ({"error": error}, error):
        with scripted(Reply(json.dumps(body).encode(), status=status)) as server, pytest.raises(ContextFullError):
            endpoint_at(server)(MESSAGES)
        assert len(server.seen) == 1


def test_models_with_another_name_for_the_limit() -> None:
    refusal = b'{"error": {"message": "Unsupported parameter: use \'max_completion_tokens\' instead of max_tokens."}}'
    with scripted(Reply(refusal, status=400), Reply(completion("x"))) as server:
        endpoint = endpoint_at(server, max_turn_tokens=32)
        assert [endpoint(MESSAGES).text for _ in range(2)] == ["x", "x"]
    limits = [{key: value for key, value in sent(server, n).items() if key.startswith("max")} for n in range(3)]
    assert limits == [{"max_tokens": 32}, {"max_completion_tokens": 32}, {"max_completion_tokens": 32}]


def test_a_model_that_takes_no_top_p_is_asked_without_it_if_it_would_change_nothing() -> None:
    refusal = Reply(b'{"error": {"message": "`temperature` and `top_p` cannot both be specified"}}', status=400)
    with scripted(refusal, Reply(completion("x"))) as server:
        endpoint = endpoint_at(server)
        assert [endpoint(MESSAGES).text for _ in range(2)] == ["x", "x"]
    assert ["top_p" in sent(server, n) for n in range(3)] == [True, False, False]
    with scripted(refusal) as server, pytest.raises(EndpointError, match="cannot both be specified"):
        endpoint_at(server, top_p=0.9)(MESSAGES)


def test_requests_in_flight_when_the_name_of_the_limit_changes_are_sent_again() -> None:
    refusal = b'{"error": {"message": "use max_completion_tokens instead"}}'
    together = threading.Barrier(4, timeout=20)

    def answer(asked: dict[str, Any]) -> str | tuple[int, bytes]:
        if "max_tokens" not in asked:
            return "x"
        together.wait()
        return 400, refusal

    with chat_server(answer) as server, ThreadPoolExecutor(4) as threads:
        endpoint = Endpoint(f"openai:{server.url}/v1#m", Sampling(max_turn_tokens=32))
        assert [reply.text for reply in threads.map(endpoint, [MESSAGES] * 4)] == ["x"] * 4


def test_a_key_across_the_end_of_a_long_message_is_not_shown() -> None:
    body = json.dumps({"error": {"message": "x" * 195 + KEY}}).encode()
    with scripted(Reply(body, status=400)) as server, pytest.raises(EndpointError) as raised:
        endpoint_at(server)(MESSAGES)
    assert KEY[:4] not in str(raised.value)


def test_the_key_is_never_shown() -> None:
    body = json.dumps({"error": {"message": f"invalid header: Bearer {KEY}"}}).encode()
    with scripted(Reply(body, status=400)) as server, pytest.raises(EndpointError) as raised:
        endpoint_at(server)(MESSAGES)
    assert str(raised.value).endswith("answered 400: invalid header: Bearer [key]")


def test_a_key_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAT_KEY")
    with pytest.raises(UserError, match="CHAT_KEY is not set: the endpoint needs an API key"):
        Endpoint("openai:https://host.example/v1#m", Sampling(), "CHAT_KEY")


@pytest.mark.parametrize(
    ("name", "url", "model"),
    [
        ("openai:https://host.example/v1#m", "https://host.example/v1/chat/completions", "m"),
        ("openai:http://localhost:8000/v1/#org/m", "http://localhost:8000/v1/chat/completions", "org/m"),
        ("openai:http://h/v1/chat/completions#m#2", "http://h/v1/chat/completions", "m#2"),
    ],
)
def test_names(name: str, url: str, model: str) -> None:
    assert split_name(name) == (url, model)


@pytest.mark.parametrize(
    "name",
    [
        "openai:",
        "openai:m",
        "openai:https://h/v1",
        "openai:https://h/v1# ",
        "openai:ftp://h#m",
        "openai:https://#m",
        "openai:https://user:secret@h/v1#m",
        "openai:https://h/v1?key=secret#m",
        "openai:https://h:port/v1#m",
    ],
)
def test_names_that_are_wrong_are_not_repeated_in_the_message(name: str) -> None:
    with pytest.raises(UserError, match="invalid model name: expected openai:https://HOST/v1#MODEL") as raised:
        split_name(name)
    assert "secret" not in str(raised.value)
