"""The retrieval server and its client: the exact protocol, and servers that stall, fail or send invalid data."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from email.utils import formatdate
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
from empg.web.errors import ServiceError
from tests.environments.deepsearch.people import people
from tests.web.servers import Reply, dead_url, running, scripted

QUICK = RequestPolicy(timeout=0.5, attempts=3, backoff=0.01, longest_wait=1.0)


def result(*lists: Sequence[tuple[str, str, float]]) -> bytes:
    answer = [[{"document": {"id": i, "contents": c}, "score": s} for i, c, s in entries] for entries in lists]
    return json.dumps({"result": answer}).encode()


ONE = result([("d1", '"A Fox"\nRed.', 1.5)])
# Without a time stamp, which would give the tests of each process other ids.
GZIPPED = gzip.compress(ONE, mtime=0)
TWO_MEMBERS = gzip.compress(ONE[:9], mtime=0) + gzip.compress(ONE[9:], mtime=0) + b"\0" * 9


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
    assert httpx.post(f"{server}/retrieve", content=b"x" * (MAX_BODY + 1)).status_code == 413
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


# ---- servers that fail ---------------------------------------------------------------------------------------------


def test_an_unreachable_port_is_an_error_quickly() -> None:
    begun = time.monotonic()
    with pytest.raises(ServiceError, match=r"^127\.0\.0\.1:\d+ cannot be reached \(3 attempts\)$"):
        ServedRetriever(dead_url(), request_policy=QUICK).search(["fox"], 1)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    "stall",
    [Reply(ONE, wait=30), Reply(ONE, drip=0.05), Reply(ONE, drip=0.4)],
    ids=["silent", "a byte at intervals", "a byte rarely"],
)
def test_a_stalling_server_is_an_error_at_the_deadline(stall: Reply) -> None:
    begun = time.monotonic()
    with (
        scripted(stall) as script,
        pytest.raises(ServiceError, match=r"did not answer within 0\.3 s \(2 attempts\)$"),
    ):
        ServedRetriever(script.url, request_policy=RequestPolicy(timeout=0.3, attempts=2, backoff=0.01)).search(
            ["fox"], 1
        )
    assert time.monotonic() - begun < 20
    assert len(script.seen) == 2


def test_endless_headers_are_an_error_at_the_deadline() -> None:
    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not done.wait(0.05):
                connection.sendall(b"a")

    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        begun = time.monotonic()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ServiceError, match=r"did not answer within 0\.4 s \(1 attempt\)"):
            ServedRetriever(url, request_policy=RequestPolicy(timeout=0.4, attempts=1)).search(["fox"], 1)
        assert time.monotonic() - begun < 20
        done.set()


@pytest.mark.parametrize(
    "failing", [Reply(status=500), Reply(status=503), Reply(ONE, broken=True)], ids=["500", "503", "broken off"]
)
def test_transient_failures_are_retried(failing: Reply) -> None:
    with scripted(failing, failing, Reply(ONE)) as script:
        [[hit]] = ServedRetriever(script.url, request_policy=QUICK).search(["fox"], 1)
    assert hit == Hit(Document("d1", "A Fox", "Red."), 1.5)
    assert len(script.seen) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 301, 204])
def test_permanent_failures_are_not_retried(status: int) -> None:
    with (
        scripted(Reply(status=status), Reply(ONE)) as script,
        pytest.raises(ServiceError, match=rf"(answered|refused the request \(){status}|{status}"),
    ):
        ServedRetriever(script.url, request_policy=QUICK).search(["fox"], 1)
    assert len(script.seen) == 1


def test_a_short_retry_after_is_respected() -> None:
    busy = Reply(status=429, headers=(("Retry-After", "1"),))
    begun = time.monotonic()
    with scripted(busy, Reply(ONE)) as script:
        ServedRetriever(script.url, request_policy=QUICK).search(["fox"], 1)
    assert time.monotonic() - begun >= 1

    begun = time.monotonic()
    for later in ("3600", formatdate(time.time() + 3600, usegmt=True)):
        with (
            scripted(Reply(status=429, headers=(("Retry-After", later),)), Reply(ONE)) as script,
            pytest.raises(ServiceError, match=r"answered 429 \(1 attempt\)"),
        ):
            ServedRetriever(script.url, request_policy=QUICK).search(["fox"], 1)
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("later", ["soon", "-5", "9" * 400, ""])
def test_an_invalid_retry_after_is_ignored(later: str) -> None:
    with scripted(Reply(status=503, headers=(("Retry-After", later),)), Reply(ONE)) as script:
        assert ServedRetriever(script.url, request_policy=QUICK).search(["fox"], 1)


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


def test_a_body_that_is_too_long_is_an_error() -> None:
    with scripted(Reply(b" " * 2_000)) as script, pytest.raises(ServiceError, match=r"sent more than 1,000 bytes"):
        ServedRetriever(script.url, request_policy=RequestPolicy(max_bytes=1_000)).search(["fox"], 1)


def packed(body: bytes, encoding: str) -> Reply:
    return Reply(body, headers=(("Content-Encoding", encoding),))


def test_the_decompressed_size_is_limited() -> None:
    empty = gzip.compress(b"", mtime=0)
    for bomb in (gzip.compress(b" " * 20_000_000, mtime=0), gzip.compress(b" " * 900) * 2, empty * 1_000):
        with (
            scripted(packed(bomb, "gzip")) as script,
            pytest.raises(ServiceError, match=r"sent more than 1,000 bytes"),
        ):
            ServedRetriever(script.url, request_policy=RequestPolicy(max_bytes=1_000)).search(["fox"], 1)
        assert script.seen[0].headers["accept-encoding"] == "gzip"


def test_other_and_repeated_encodings_are_rejected() -> None:
    """Half a kilobyte that would decompress to a gigabyte takes no more time and memory than other requests."""
    inner = zlib.compressobj(9, zlib.DEFLATED, 31)
    once = b"".join(inner.compress(b" " * (1 << 20)) for _ in range(256)) + inner.flush()
    bomb = gzip.compress(once, mtime=0)
    tracemalloc.start()
    begun = time.monotonic()
    for encoding in ("gzip, gzip", "gzip,deflate", "deflate", "br", "zstd", "gzip, identity", "nonsense"):
        with (
            scripted(packed(bomb, encoding)) as script,
            pytest.raises(ServiceError, match=r"^the response cannot be unpacked$"),
        ):
            ServedRetriever(script.url, request_policy=RequestPolicy(max_bytes=1_000)).search(["fox"], 1)
        assert len(script.seen) == 1
    assert time.monotonic() - begun < 10
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 << 20


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip"])
@pytest.mark.parametrize("body", [GZIPPED, TWO_MEMBERS])
def test_compressed_responses_are_read(encoding: str, body: bytes) -> None:
    with scripted(packed(body, encoding)) as script:
        assert ServedRetriever(script.url, request_policy=QUICK).search(["fox"], 1)[0][0].document.text == "Red."


@pytest.mark.parametrize("body", [b"not gzip", GZIPPED[:-9], GZIPPED[:5]])
def test_damaged_compression_is_an_error(body: bytes) -> None:
    with scripted(packed(body, "gzip")) as script, pytest.raises(ServiceError, match="cannot be unpacked"):
        ServedRetriever(script.url, request_policy=QUICK).search(["fox"], 1)


def test_the_circuit_opens_after_consecutive_failures_then_allows_one_request() -> None:
    request_policy = replace(QUICK, failure_threshold=4, cool_down=0.4)
    with scripted(Reply(status=503)) as script:
        retriever = ServedRetriever(script.url, request_policy=request_policy)
        with pytest.raises(ServiceError, match=r"answered 503 \(3 attempts\)"):
            retriever.search(["fox"], 1)
        with pytest.raises(ServiceError, match=r"answered 503 \(1 attempt\)"):  # the fourth failure in a row
            retriever.search(["fox"], 1)
        for _ in range(50):
            with pytest.raises(ServiceError, match="circuit open after 4 consecutive failures"):
                retriever.search(["fox"], 1)
        assert len(script.seen) == 4
        time.sleep(0.45)
        with pytest.raises(ServiceError, match=r"answered 503 \(1 attempt\)"):
            retriever.search(["fox"], 1)
        with pytest.raises(ServiceError, match="circuit open"):
            retriever.search(["fox"], 1)
        assert len(script.seen) == 5
        script.replies[:] = [Reply(ONE)]
        time.sleep(0.45)
        assert retriever.search(["fox"], 1)[0]
        script.replies[:] = [Reply(status=503), Reply(ONE)]
        assert retriever.search(["hare"], 1)[0]  # a success resets the failure count
        assert len(script.seen) == 8


def test_a_stalled_server_does_not_stop_a_run() -> None:
    with scripted(Reply(ONE, wait=30)) as script:
        retriever = ServedRetriever(script.url, request_policy=RequestPolicy(timeout=0.2, attempts=3, backoff=0.01))
        begun = time.monotonic()
        for number in range(64):
            with pytest.raises(ServiceError):
                retriever.search([f"fox {number}"], 1)
        assert time.monotonic() - begun < 10  # each alone would take 0.6


def test_lone_surrogates_become_encodable_text() -> None:
    [[hit]] = read_answer({"result": [[{"document": {"id": 7, "contents": '"\ud800"\n\udfff'}, "score": 1}]]}, 1, 1)
    assert hit == Hit(Document("7", "?", "?"), 1.0)


def test_documents_without_scores_and_bare_ones_are_read() -> None:
    """These are the formats of Search-R1's web servers, and of its corpus servers without `return_scores`."""
    texts = [{"contents": '"A"\na'}, {"id": "b", "contents": '"B"\nb'}]
    for entries in ([{"document": text} for text in texts], texts):
        [hits] = read_answer({"result": [entries]}, 1, 5)
        assert hits == [Hit(Document("A", "A", "a"), 1.0), Hit(Document("b", "B", "b"), 0.5)]


def test_passages_without_ids_get_distinct_ids() -> None:
    entries = [{"document": {"contents": f'"T"\n{number}'}, "score": 1} for number in range(3)]
    [hits] = read_answer({"result": [entries]}, 1, 5)
    assert [hit.document.id for hit in hits] == ["T", "T #2", "T #3"]


def test_a_long_first_line_belongs_to_the_text() -> None:
    assert split_contents("word " * 200 + "\nmore") == ("", "word " * 200 + "\nmore")


@pytest.mark.parametrize(("contents", "name"), [('"T"\nx', "T"), ("One  line.", "One line."), ("\nx", "x")])
def test_the_title_or_the_beginning_of_the_text_replaces_a_missing_id(contents: str, name: str) -> None:
    [[hit]] = read_answer({"result": [[{"document": {"contents": contents}, "score": 1}]]}, 1, 1)
    assert hit.document.id == name


# ---- cache and rate ------------------------------------------------------------------------------------------------


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


def test_a_damaged_cache_file_is_ignored(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    cache.put({"a": 1}, "url", "fox", 1)
    assert cache.get("url", "fox", 1) == {"a": 1}
    assert cache.get("url", "fox", 2) is None
    [file] = tmp_path.rglob("*.json")
    for damage in (b"", b"{", b"[]", b"\xff", b'{"key": ["other"], "value": 1}', b"[" * 100_000):
        file.write_bytes(damage)
        assert cache.get("url", "fox", 1) is None
    with scripted(Reply(ONE)) as script:
        retriever = ServedRetriever(script.url, tmp_path, QUICK)
        DiskCache(tmp_path).put([["only", "three", "parts"]], f"{script.url}/retrieve", "fox", 1)
        assert retriever.search(["fox"], 1)[0][0].document.id == "d1"


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


def test_the_request_rate_is_limited() -> None:
    with scripted(Reply(ONE)) as script:
        retriever = ServedRetriever(script.url, request_policy=RequestPolicy(per_second=20))
        begun = time.monotonic()
        for number in range(5):
            retriever.search([f"fox {number}"], 1)
        assert time.monotonic() - begun >= 0.2


@pytest.mark.parametrize(
    "wrong", [{"timeout": 0}, {"attempts": 0}, {"backoff": -1}, {"per_second": 0}, {"failure_threshold": 0}]
)
def test_an_invalid_request_policy_is_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"positive|must not be negative"):
        RequestPolicy(**wrong)
