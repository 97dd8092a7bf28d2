"""The web site of the shop over plain HTTP: pages, escaping, rejected requests, recordings."""

from __future__ import annotations

import html
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import uvicorn

from empg.environments.webshop import WebShopEnv, recording
from empg.environments.webshop import site as site_module
from empg.environments.webshop.pages import BUTTONS
from empg.environments.webshop.site import MAX_FORM, MAX_QUERY, make_app
from empg.errors import UserError
from empg.rollout.demonstrations import recorded_plays
from tests.environments.commands import admissible
from tests.environments.webshop.shops import RECORDS, record, values, write_official


class Served:
    """A running site: its address, the environment it serves, and the file of its recordings."""

    def __init__(self, environment: WebShopEnv, record_to: Path) -> None:
        self.environment, self.record_to = environment, record_to
        config = uvicorn.Config(
            make_app(environment, record_to), port=0, log_level="warning", lifespan="off", ws="none"
        )
        self._socket = config.bind_socket()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def get(self, path: str, host: str | None = None) -> tuple[int, str]:
        headers = {"Host": host} if host else {}
        return self._ask(urllib.request.Request(self.url + path, headers=headers))

    def post(self, path: str, **fields: str) -> tuple[int, str]:
        return self._ask(urllib.request.Request(self.url + path, urlencode(fields).encode()))

    def start(self, task: int) -> str:
        """Start an episode and return the path of its page."""
        with urllib.request.urlopen(f"{self.url}/start", urlencode({"task": task}).encode()) as answer:
            return answer.geturl().removeprefix(self.url)

    def _ask(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    environment = WebShopEnv("train", data=write_official(tmp_path / "data"), split_scheme="verl-agent", max_steps=8)
    site = Served(environment, tmp_path / "episodes.jsonl")
    yield site
    site.stop()


def task_of(environment: WebShopEnv, asin: str) -> int:
    return next(i for i in range(environment.num_tasks) if environment.task_id(i).startswith(asin))


def commands(page: str) -> list[str]:
    return [html.unescape(found) for found in re.findall(r'name="action" value="([^"]*)"', page)]


def test_the_site_has_the_commands_and_the_score_of_the_text_environment(served: Served) -> None:
    environment = served.environment
    task = task_of(environment, "B000TABLE1")
    page = served.start(task)
    _, info = environment.reset(options={"task": task})
    for action in ("search[table]", "click[B000TABLE1]", "click[54 inch]", "click[Features]", "click[< Prev]"):
        _, _, _, _, info = environment.step(action)
        fields = {"query": "table"} if action.startswith("search") else {"action": action}
        status, text = served.post(f"{page}/act", **fields)
        assert status == 200
        assert sorted(command.lower() for command in commands(text)) == sorted(admissible(info))
        assert info["task"] in text
    _, text = served.post(f"{page}/act", action="click[Buy Now]")
    _, reward, _, _, _ = environment.step("click[Buy Now]")
    assert f'id="score">{reward}<' in text
    ((_, made),) = recording.read(served.record_to)
    recording.require_fitting(made, environment)
    assert (made.task, made.score, len(made.turns)) == (task, reward, 6)
    assert all(turn["thought"] == "" for turn in made.turns)


def test_markup_in_product_text_is_escaped(served: Served) -> None:
    page = served.start(task_of(served.environment, "B000SCRIPT"))
    _, results = served.post(f"{page}/act", query="lip gloss")
    _, item = served.post(f"{page}/act", action="click[B000SCRIPT]")
    _, features = served.post(f"{page}/act", action="click[Features]")
    for text in (results, item, features):
        assert "<script" not in text
        assert "<img" not in text
        assert "<b>" not in text
        assert "<i>" not in text
        assert "&lt;b&gt;long lasting&lt;/b&gt; lip gloss" in text  # the instruction
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;Sons&#34; Lip Gloss" in item
    assert "cruelty free &lt;img src=x&gt;" in features


def test_the_security_headers_block_scripts_and_loads(served: Served) -> None:
    with urllib.request.urlopen(served.url) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    with urllib.request.urlopen(f"{served.url}/static/shop.css") as answer:
        assert answer.headers["Content-Type"].startswith("text/css")


def test_other_host_names_are_rejected(served: Served) -> None:
    assert served.get("/", host="evil.example")[0] == 400
    assert served.get("/", host="localhost")[0] == 200


def test_stale_buttons_and_brackets_are_handled(served: Served) -> None:
    page = served.start(0)
    _, text = served.post(f"{page}/act", action="click[Buy Now]")
    assert "This button is no longer on the page." in text
    assert "no longer on the page" not in served.get(page)[1]
    _, text = served.post(f"{page}/act", query="a table] or [stool")
    assert "total results: " in text


def test_a_search_that_is_too_long_costs_no_step(served: Served) -> None:
    page = served.start(0)
    for length in (MAX_QUERY + 1, 1_200):
        _, text = served.post(f"{page}/act", query="x" * length)
        assert f"The search is too long: enter at most {MAX_QUERY} characters." in text
        assert "8 steps left" in text
    assert f'maxlength="{MAX_QUERY}"' in served.get(page)[1]
    _, text = served.post(f"{page}/act", query="x" * MAX_QUERY)
    assert "total results: " in text
    _, text = served.post(f"{page}/act", action="search[]")
    assert "This is not a valid search." in text


def test_every_visible_value_can_be_clicked_and_recorded(tmp_path: Path) -> None:
    hostile = ["plain [2 pack]", "search", "White / Grey", "one\u00a0size", "two\nlines", "]", "[x"]
    products = [record("B1", "Mug", customization_options={"Style": values(*hostile, "")}), *RECORDS]
    environment = WebShopEnv(data=write_official(tmp_path, products), split_scheme="verl-agent", max_steps=40)
    site = Served(environment, tmp_path / "episodes.jsonl")
    try:
        page = site.start(0)
        site.post(f"{page}/act", query="mug")
        _, text = site.post(f"{page}/act", action="click[B1]")
        shown = [command for command in commands(text) if command.lower()[6:-1] not in BUTTONS]
        shown.append("click[search]")  # as an option value; the search bar has its own button
        assert len(shown) == len(hostile)
        for command in shown:
            _, text = site.post(f"{page}/act", action=command)
            (pressed,) = re.findall(r'value="([^"]*)" aria-pressed="true"', text)
            assert html.unescape(pressed) == command
        site.post(f"{page}/act", action="click[Buy Now]")
    finally:
        site.stop()
    (play,) = recorded_plays(environment.with_reachable_values(), site.record_to, "react")
    assert len(play) == 3 + len(shown)
    with pytest.raises(ValueError, match=r"line 1: .* reach_bracketed_values=True"):
        recorded_plays(environment, site.record_to, "react")


def test_an_episode_that_cannot_be_written_is_kept(served: Served) -> None:
    served.record_to.unlink()
    served.record_to.mkdir()
    task = task_of(served.environment, "B000TABLE1")
    ends = []
    for _ in range(2):
        page = served.start(task)
        served.post(f"{page}/act", query="table")
        served.post(f"{page}/act", action="click[B000TABLE1]")
        ends.append(served.post(f"{page}/act", action="click[Buy Now]"))
        if served.record_to.is_dir():
            served.record_to.rmdir()
    assert [status for status, _ in ends] == [200, 200]
    assert ["This episode is not recorded yet: Is a directory." in text for _, text in ends] == [True, False]
    assert all('id="score"' in text for _, text in ends)
    assert len(list(recording.read(served.record_to))) == 2


def test_startup_errors_are_one_line(tmp_path: Path) -> None:
    environment = WebShopEnv(products=50)
    with pytest.raises(UserError, match=f"^recordings cannot be written to {tmp_path}: Is a directory$"):
        make_app(environment, tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"^cannot serve at 127\.0\.0\.1:{port} \(Address already in use\)"):
            site_module.serve(environment, port)


def test_the_step_limit_ends_the_episode(served: Served) -> None:
    page = served.start(0)
    for _ in range(8):
        _, text = served.post(f"{page}/act", query="table")
    assert "Step limit reached" in text
    assert "total results" not in text
    _, text = served.post(f"{page}/act", query="table")
    assert "Step limit reached" in text
    ((_, made),) = recording.read(served.record_to)
    assert (made.ended, made.score, len(made.turns)) == ("out of steps", 0.0, 8)


def test_invalid_requests_get_a_response(served: Served) -> None:
    for task in ("-1", "99999", "x", "²", "9" * 400):
        status, text = served.post("/start", task=task)
        assert status == 400
        assert "Unknown task: enter a number from 0 to" in text
    assert served.post("/start", task="0", junk="x" * MAX_FORM)[0] == 413
    status, text = served.post("/start", **{f"field{number}": "x" for number in range(30)})
    assert (status, text) == (400, "The form has too many fields.")
    assert served.get("/s/unknown")[0] == 404
    assert served.post("/s/unknown/act", action="click[Buy Now]")[0] == 200  # redirected to the home page
    assert served.get("/nowhere")[0] == 404
    assert served.get("/static/../site.py")[0] == 404


def test_the_least_recently_used_session_is_dropped(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "SESSIONS_KEPT", 2)
    first, second = served.start(0), served.start(0)
    assert served.get(first)[0] == 200
    third = served.start(0)
    assert [served.get(page)[0] for page in (first, second, third)] == [200, 404, 200]


@pytest.mark.slow
def test_serving_reports_its_address_and_stops_when_interrupted() -> None:
    program = (
        "from empg.environments.webshop import WebShopEnv\n"
        "from empg.environments.webshop.site import serve\n"
        "serve(WebShopEnv(products=50), port=0, ready=lambda url: print(url, flush=True))"
    )
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert run.stdout is not None
    with run.stdout, urllib.request.urlopen(run.stdout.readline().strip()) as answer:
        assert b"WebShop" in answer.read()
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=20) in (0, 130, -signal.SIGINT, 1)
