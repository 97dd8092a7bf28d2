"""The retrieval server and its client: the exact protocol, and servers that send invalid data."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever, open_bm25
from empg.environments.deepsearch.retrieval.contents import join_contents, split_contents
from empg.environments.deepsearch.retrieval.query import MAX_HITS
from empg.environments.deepsearch.retrieval.served import ServedRetriever, read_answer
from empg.environments.deepsearch.retrieval.server import MAX_BODY, MAX_QUERIES, retriever_app, serve
from empg.environments.deepsearch.world import Document, Hit
from empg.web.cache import DiskCache
from empg.web.client import RequestPolicy
from empg.web.endpoints import server_key
from empg.web.errors import ServiceError
from tests.environments.deepsearch.people import people
from tests.web.servers import Reply, running, scripted

QUICK = RequestPolicy(timeout=0.5, attempts=3, backoff=0.01, longest_wait=1.0)


def result(*lists: Sequence[tuple[str, str, float]]) -> bytes:
    answer = [[{"document": {"id": i, "contents": c}, "score": s} for i, c, s in entries] for entries in lists]
    return json.dumps({"result": answer}).encode()


ONE = result([("d1", '"A Fox"\nRed.', 1.5)])


@pytest.fixture(scope="module")
def corpus() -> list[Document]:
    return [*people(300)[0], Document("odd", 'The "Quoted"', 'First line.\nSecond "line" — naïve\u2028.')]


@pytest.fixture(scope="module")
def server(corpus: list[Document]) -> Iterator[str]:
    with running(retriever_app(BM25Retriever.build(corpus))) as url:
        yield url


# ---- parity --------------------------------------------------------------------------------------------------------


def test_served_hits_equal_those_in_memory_and_mapped(corpus: list[Document], server: str, tmp_path: Path) -> None:
    queries = [query for query, _ in people(300)[1]] + ["quoted naïve line", "", "no such wordzz", "x" * 5_000]
    in_memory = BM25Retriever.build(corpus).search(queries, 5)
    assert ServedRetriever(server).search(queries, 5) == in_memory
    assert open_bm25(corpus, "0", tmp_path).search(queries, 5) == in_memory


def test_an_address_may_end_in_retrieve(server: str) -> None:
    assert ServedRetriever(f"{server}/retrieve").search(["quoted"], 1) == ServedRetriever(server).search(["quoted"], 1)
    with pytest.raises(ValueError, match="invalid retrieval server URL: expected http://HOST:PORT"):
        ServedRetriever("localhost:8000")


def test_the_protocol_is_that_of_search_r1(server: str) -> None:
    asked = {"queries": ["quoted naïve"], "topk": 1, "return_scores": True}
    answered = httpx.post(f"{server}/retrieve", json=asked).json()
    [[entry]] = answered["result"]
    assert set(answered) == {"result"}
    assert entry["document"] == {"id": "odd", "contents": '"The "Quoted""\nFirst line.\nSecond "line" — naïve\u2028.'}
    assert entry["score"] > 0
    bare = httpx.post(f"{server}/retrieve", json={"queries": ["quoted"], "topk": 1}).json()
    assert bare == {"result": [[entry["document"]]]}
    assert len(httpx.post(f"{server}/retrieve", json={"queries": ["painter"]}).json()["result"][0]) == 3
    assert len(httpx.post(f"{server}/retrieve", json={"queries": ["painter"], "topk": None}).json()["result"][0]) == 3


def test_contents_are_split_into_title_and_text() -> None:
    assert join_contents(Document("1", "A\nB", "c\nd")) == '"A B"\nc\nd'
    assert split_contents('"A B"\nc\nd') == ("A B", "c\nd")
    assert split_contents('A "B"\nc') == ('A "B"', "c")
    assert split_contents("A\n") == ("A", "")
    assert split_contents('"A"') == ("A", "")  # the title of an empty page
    assert split_contents("One line of text.") == ("", "One line of text.")
    assert split_contents('"') == ("", '"')
    assert split_contents("") == ("", "")


# ---- invalid requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{", "body is not JSON"),
        (b"[" * 100_000, "body is not JSON"),
        (b"[]", "body is not a JSON object"),
        (b"{}", "queries must be a list of strings"),
        (b'{"queries": "fox"}', "queries must be a list of strings"),
        (b'{"queries": null}', "queries must be a list of strings"),
        (b'{"queries": ["fox", 1]}', "queries must be a list of strings"),
        (json.dumps({"queries": ["a"] * (MAX_QUERIES + 1)}).encode(), "queries must have at most 4,096 items"),
        (b'{"queries": ["a"], "topk": -1}', "topk must be an integer from 1 to 100"),
        (b'{"queries": ["a"], "topk": "many"}', "topk must be an integer from 1 to 100"),
        (b'{"queries": ["a"], "topk": 1.5}', "topk must be an integer from 1 to 100"),
        (json.dumps({"queries": ["a"], "topk": MAX_HITS + 1}).encode(), "topk must be an integer from 1 to 100"),
        (b'{"queries": ["a"], "return_scores": "perhaps"}', "return_scores must be true or false"),
    ],
)
def test_invalid_requests_get_422(server: str, body: bytes, detail: str) -> None:
    answer = httpx.post(f"{server}/retrieve", content=body)
    assert (answer.status_code, answer.json()) == (422, {"detail": detail})


def test_the_requests_of_search_r1_are_supported(server: str) -> None:
    """A batch of 512 questions in groups of 5 is one request with arbitrary query texts."""

    def ask(**body: Any) -> Any:
        answer = httpx.post(f"{server}/retrieve", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    assert len(ask(queries=["painter"] * 2_560, topk=3, return_scores=True)) == 2_560
    assert ask(queries=[], topk=3, return_scores=True) == []  # no episode of the batch searches in this turn
    assert ask(queries=["", " "], topk=3, return_scores=True) == [[], []]
    short, long = ask(queries=["painter", "painter " * 3_000], topk=1)
    assert short == long
    for default in (None, 0, "0"):
        assert len(ask(queries=["painter"], topk=default)[0]) == 3
    for two in ("2", 2.0, 2):
        assert len(ask(queries=["painter"], topk=two)[0]) == 2
    for flag in (True, 1, "true", "yes", "1"):
        assert set(ask(queries=["painter"], return_scores=flag)[0][0]) == {"document", "score"}
    for no in (False, 0, "false", None):
        assert set(ask(queries=["painter"], return_scores=no)[0][0]) == {"id", "contents"}


def test_health_and_other_requests(server: str) -> None:
    answer = httpx.post(f"{server}/retrieve", content=b"x" * (MAX_BODY + 1))
    assert (answer.status_code, answer.json()) == (413, {"detail": "body must have at most 16,777,216 bytes"})
    assert httpx.get(f"{server}/retrieve").status_code == 405
    assert httpx.get(f"{server}/health").json() == {"status": "ok"}
    # A lone surrogate is valid JSON.
    assert httpx.post(f"{server}/retrieve", content=b'{"queries": ["\\ud800"]}').json() == {"result": [[]]}


class _Failing:
    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        raise ServiceError("the provider is down")


def test_a_failing_retriever_gives_502() -> None:
    with running(retriever_app(_Failing())) as url:
        answer = httpx.post(f"{url}/retrieve", json={"queries": ["fox"]})
        assert (answer.status_code, answer.json()) == (502, {"detail": "the provider is down"})
        with pytest.raises(ServiceError, match=r"^127\.0\.0\.1:\d+ answered 502 \(3 attempts\)$"):
            ServedRetriever(url, request_policy=QUICK).search(["fox"], 1)


def test_serve_reports_its_address_and_stops(corpus: list[Document]) -> None:
    program = (
        "from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever\n"
        "from empg.environments.deepsearch.retrieval.server import serve\n"
        "from empg.environments.deepsearch.world import Document\n"
        "serve(BM25Retriever.build([Document('1', 'Fox', 'red')]), port=0, ready=lambda url: print(url, flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        [[hit]] = ServedRetriever(url).search(["fox"], 3)
        process.terminate()
    assert hit.document == Document("1", "Fox", "red")
    assert callable(serve)


# ---- servers that send invalid data --------------------------------------------------------------------------------


def _hit(**changes: Any) -> bytes:
    entry = {"document": {"id": "1", "contents": '"T"\ntext'}, "score": 1.0} | changes
    return json.dumps({"result": [[entry]]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", ONE[:-3], b"null", b"[]", b"{}", b'{"result": null}', b'{"result": []}',
        b'{"result": [[], []]}', b'{"result": [{}]}', b'{"result": [[1]]}',
        b'{"result": [[{}]]}', b"[" * 200_000, b'{"result":' * 50_000,
        b'{"result": [[{"id": "1"}]]}', b'{"result": [[{"contents": 5}]]}',
        _hit(document=None), _hit(document={"id": "1"}), _hit(document={"contents": 5}), _hit(score=None),
        _hit(score="1"), _hit(score=True), _hit(document={"id": [], "contents": "x"}),
        _hit(score=float("nan")), _hit(score=float("inf")), _hit(score=10**400),
        b'{"result": [[{"document": {"contents": "x"}, "score": ' + b"9" * 5_000 + b"}]]}",
        b"\xff\xfe\x00", b'{"result": [[{"document": {"id": "1", "contents": "\xff"}, "score": 1}]]}',
    ],
)  # fmt: skip
def test_invalid_responses_are_errors_of_one_line(body: bytes) -> None:
    with scripted(Reply(body)) as script, pytest.raises(ServiceError) as caught:
        ServedRetriever(script.url, request_policy=QUICK).search(["fox"], 1)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert len(message) < 200
    assert len(script.seen) == 1


def test_extra_hits_are_cut() -> None:
    body = result([(f"d{number}", "x" * 200_000, 1.0) for number in range(5)])
    with scripted(Reply(body)) as script:
        [hits] = ServedRetriever(script.url, request_policy=QUICK).search(["fox"], 2)
    assert [hit.document.id for hit in hits] == ["d0", "d1"]
    assert all(len(hit.document.title) <= 100_000 for hit in hits)


def test_lone_surrogates_become_encodable_text() -> None:
    [[hit]] = read_answer({"result": [[{"document": {"id": 7, "contents": '"\ud800"\n\udfff'}, "score": 1}]]}, 1, 1)
    assert hit == Hit(Document("7", "?", "?"), 1.0)


def test_documents_without_scores_and_bare_ones_are_read() -> None:
    """These are the formats of Search-R1's web servers, and of its corpus servers without `return_scores`."""
    texts = [{"contents": '"A"\na'}, {"id": "b", "contents": '"B"\nb'}]
    for entries in ([{"document": text} for text in texts], texts):
        [hits] = read_answer({"result": [entries]}, 1, 5)
        assert hits == [Hit(Document("A", "A", "a"), 1.0), Hit(Document("b", "B", "b"), 0.5)]


@pytest.mark.parametrize("without", [{}, {"id": None}])
def test_passages_without_ids_get_distinct_ids(without: dict[str, None]) -> None:
    entries = [{"document": {"contents": f'"T"\n{number}'} | without, "score": 1} for number in range(3)]
    [hits] = read_answer({"result": [entries]}, 1, 5)
    assert [hit.document.id for hit in hits] == ["T", "T #2", "T #3"]


def test_a_long_first_line_belongs_to_the_text() -> None:
    assert split_contents("word " * 200 + "\nmore") == ("", "word " * 200 + "\nmore")


@pytest.mark.parametrize(("contents", "name"), [('"T"\nx', "T"), ("One  line.", "One line."), ("\nx", "x")])
def test_the_title_or_the_beginning_of_the_text_replaces_a_missing_id(contents: str, name: str) -> None:
    [[hit]] = read_answer({"result": [[{"document": {"contents": contents}, "score": 1}]]}, 1, 1)
    assert hit.document.id == name


# ---- cache ---------------------------------------------------------------------------------------------------------


def test_responses_are_cached_by_url_query_and_count(tmp_path: Path) -> None:
    answers = Reply(result([("d1", "x", 1.0)])), Reply(result([("d2", "x", 1.0)])), Reply(result([("d3", "x", 1.0)]))
    with scripted(*answers) as script:
        retriever = ServedRetriever(script.url, tmp_path, QUICK)
        [[first]] = retriever.search(["fox"], 1)
        assert retriever.search([" fox\n", "fox"], 1) == [[first], [first]]
        assert retriever.search(["fox"], 2)[0][0].document.id == "d2"
        assert retriever.search(["hare"], 1)[0][0].document.id == "d3"
        assert len(script.seen) == 3
        asked = json.loads(script.seen[0].body)
        assert asked == {"queries": ["fox"], "topk": 1, "return_scores": True}
        url = script.url
    # The server has stopped, but another process finds the response in the cache.
    program = (
        "import sys; from pathlib import Path;"
        "from empg.environments.deepsearch.retrieval.served import ServedRetriever;"
        "print(ServedRetriever(sys.argv[1], Path(sys.argv[2])).search(['fox'], 1))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program, url, str(tmp_path)], capture_output=True, check=True, text=True
    ).stdout
    assert printed.strip() == repr([[first]])


def test_only_missing_queries_are_sent_and_failures_are_not_cached(tmp_path: Path) -> None:
    with scripted(Reply(b"{"), Reply(ONE), Reply(result([], [("d9", "x", 2.0)]))) as script:
        retriever = ServedRetriever(script.url, tmp_path, QUICK)
        with pytest.raises(ServiceError):
            retriever.search(["fox"], 1)
        retriever.search(["fox"], 1)
        found = retriever.search(["hare", "fox", "owl"], 1)
        assert [[hit.document.id for hit in hits] for hits in found] == [[], ["d1"], ["d9"]]
        assert json.loads(script.seen[-1].body)["queries"] == ["hare", "owl"]
        assert retriever.search(["hare"], 1) == [[]]  # an empty result is also cached
        assert len(script.seen) == 3


def test_a_cached_response_of_another_form_is_ignored(tmp_path: Path) -> None:
    with scripted(Reply(ONE)) as script:
        retriever = ServedRetriever(script.url, tmp_path, QUICK)
        DiskCache(tmp_path).put([["only", "three", "parts"]], server_key(f"{script.url}/retrieve"), "fox", 1)
        assert retriever.search(["fox"], 1)[0][0].document.id == "d1"


def test_the_address_of_a_server_is_completed_and_its_password_is_not_stored(tmp_path: Path) -> None:
    with scripted(Reply(ONE)) as script:
        host = script.url.removeprefix("http://")
        for address in (f"http://me:s3cret@{host}/retrieve/?key=t0ken", f"http://me:s3cret@{host}?key=t0ken"):
            assert ServedRetriever(address, tmp_path, QUICK).search(["fox"], 1)[0][0].document.id == "d1"
        assert [seen.path for seen in script.seen] == ["/retrieve?key=t0ken"]  # the second is the same address
        assert script.seen[0].headers["authorization"].startswith("Basic ")
    [stored] = tmp_path.rglob("*.json")
    assert not any(secret in stored.read_text() for secret in ("s3cret", "t0ken"))


def test_a_response_that_cannot_be_cached_is_returned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    with scripted(Reply(ONE)) as script:
        assert ServedRetriever(script.url, tmp_path / "file", QUICK).search(["fox"], 1)[0][0].document.id == "d1"
    assert "response not cached" in caplog.text


def test_threads_share_a_client_and_its_cache(tmp_path: Path, server: str) -> None:
    retriever = ServedRetriever(server, tmp_path)
    queries = [query for query, _ in people(300)[1][:20]]
    expected = ServedRetriever(server).search(queries, 3)
    found: list[Any] = [None] * 4

    def ask(number: int) -> None:
        found[number] = [retriever.search([query], 3)[0] for query in queries]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
