"""How a recipe says what is searched and how: every option reaches its place, and a wrong one is named in a line."""

from __future__ import annotations

import builtins
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from empg.environments.deepsearch import DeepSearchEnv, sources
from empg.environments.deepsearch.options import DeepSearchOptions, Searching
from empg.environments.deepsearch.retrieval.dense import FaissIndex
from empg.environments.deepsearch.retrieval.stored import StoredDocuments
from empg.environments.deepsearch.retrievers import corpus_file, open_search
from empg.web.cache import DiskCache
from empg.web.errors import ServiceError
from empg.web.options import Requests
from tests.environments.deepsearch.encoders import Hashing
from tests.environments.deepsearch.smallworld import DOCUMENTS
from tests.web.servers import Reply, scripted


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"id": d.id, "title": d.title, "text": d.text}) for d in DOCUMENTS))
    return path


# ---- wrong ones -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retriever": 5}, "retriever: expected a text, got 5"),
        ({"pages": "many"}, "pages: expected an integer, got 'many'"),
        ({"pages": True}, "pages: expected an integer, got True"),
        ({"kinds": 5}, "kinds: expected a list, got 5"),
        ({"kinds": "1-hop"}, "kinds: expected a list, got '1-hop'"),
        ({"kinds": []}, "kinds: expected at least one entry, got an empty list"),
        ({"kinds": [["1-hop"]]}, "kinds.0: expected a text, got ['1-hop']"),
        ({"cache": 5}, "cache: expected a path, got 5"),
        ({"seed": [1]}, "seed: expected an integer, got [1]"),
        ({"wording": ["plain"]}, "wording: expected 'varied' or 'plain', got ['plain']"),
        ({"world": ["countries"]}, "world: expected 'encyclopaedia' or 'countries', got ['countries']"),
        ({"metric": ["em"]}, "metric: expected 'em', 'f1', 'cover_em', 'sub_em' or 'judge', got ['em']"),
        (
            {"metric": "judge", "judge": {"url": "http://x", "model": ["m"]}},
            "judge.model: expected a text, got ['m']",
        ),
        ({"metric": "judge", "judge": {"url": 5, "model": "m"}}, "judge.url: expected a text, got 5"),
        (
            {"metric": "judge", "judge": {"url": "http://x", "model": "m", "max_tokens": "9"}},
            "judge.max_tokens: expected an integer, got '9'",
        ),
        (
            {"metric": "judge", "judge": {"url": "http://x", "model": "m", "timeout": 0}},
            "judge.timeout: expected a number above 0, got 0",
        ),
        ({"requests": 5}, "requests: expected a mapping, got 5"),
        ({"requests": {"retries": 5}}, "unknown key 'requests.retries'; valid keys: per_second, timeout, attempts"),
        ({"requests": {"timeout": "1"}}, "requests.timeout: expected a number, got '1'"),
        ({"requests": {"per_second": 0}}, "requests.per_second: expected a number above 0, got 0"),
        ({"requests": {"attempts": 0}}, "requests.attempts: expected at least 1, got 0"),
        ({"encoder": 5}, "encoder: expected a mapping, got 5"),
        ({"encoder": {"pooling": "mean"}}, "encoder.folder: is required, but not given"),
        ({"encoder": {"folder": "x", "prefix": "y"}}, "unknown key 'encoder.prefix'; did you mean 'query_prefix'?"),
        (
            {"encoder": {"folder": "x", "pooling": "max"}},
            "encoder.pooling: expected 'mean' or 'cls', got 'max'",
        ),
        (
            {"encoder": {"folder": "x", "query_prefix": 1}},
            "encoder.query_prefix: expected a text, got 1",
        ),
        (
            {"encoder": {"folder": "x", "max_tokens": 0}},
            "encoder.max_tokens: expected at least 1, got 0",
        ),
        ({"requests": {"timeout": float("inf")}}, "requests.timeout: expected a finite number, got inf"),
        ({"results": True}, "results: expected an integer, got True"),
        ({"retriever": ""}, "retriever: expected 1 or more characters, got ''"),
        ({"cache": ""}, "cache: expected a path, got an empty text"),
        ({"sources": 5}, "unknown key 'sources'; "),
        ({"data": {"questions": {"a\nb": 3}}}, "data.questions: a b must be a file or a list of files"),
        ({"metric": "judge", "judge": {"url": "http://x"}}, "judge.model: is required, but not given"),
        ({"faiss": "Flat"}, "faiss='Flat' is for retriever='dense', this is 'bm25'"),
        ({"index": "e5_Flat.index"}, "index='e5_Flat.index' is for retriever='dense', this is 'bm25'"),
        ({"encoder": "e5"}, "encoder='e5' is for retriever='dense', this is 'bm25'"),
        ({"retriever": "tantivy", "encoder": "e5"}, "encoder='e5' is for retriever='dense', this is 'tantivy'"),
        (
            {"retriever": "dense", "encoder": "e5", "faiss": "Flat", "index": "e5_Flat.index"},
            "faiss='Flat' builds an index, but index=e5_Flat.index is one: leave out one",
        ),
        ({"retriever": "dense"}, "retriever='dense' needs encoder"),
        ({"retriever": "x" * 1_000}, "one of bm25, tantivy, dense"),
    ],
)
def test_a_wrong_option_is_an_error_of_one_line_that_names_it(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        DeepSearchEnv(**options)
    assert "\n" not in str(caught.value)


# ---- requests -------------------------------------------------------------------------------------------------------


def _searched(url: str, **requests: float) -> str:
    environment = DeepSearchEnv(retriever=url, requests=requests)
    environment.reset(options={"task": 0})
    return environment.step("search[x]")[0]


def test_time_out_and_attempts_reach_the_server_that_is_asked() -> None:
    with scripted(Reply(wait=30)) as stalled:
        assert "did not answer within 0.2 s (1 attempt)" in _searched(stalled.url, timeout=0.2, attempts=1)
        assert len(stalled.seen) == 1
    with scripted(Reply(status=503)) as busy:
        assert "answered 503 (2 attempts)" in _searched(busy.url, attempts=2)
        assert len(busy.seen) == 2


def test_and_providers_and_pages_and_the_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(Reply(status=503)) as busy:
        monkeypatch.setenv("SEARXNG_URL", busy.url)
        search, pages = open_search(Searching(retriever="searxng", requests=Requests(attempts=1)), None)
        with pytest.raises(ServiceError, match=r"answered 503 \(1 attempt\)"):
            search.search(["x"], 1)
        assert vars(vars(pages)["_http"])["request_policy"].attempts == 1
        assert not vars(vars(pages)["_http"])["request_policy"].allow_private
        judge = {"url": busy.url, "model": "m", "key_variable": None, "attempts": 1}
        source = sources.open_source(DeepSearchOptions(metric="judge", judge=judge))
        with pytest.raises(ServiceError, match=r"answered 503 \(1 attempt\)"):
            source.score(source.questions["train"][0], "x")
        assert len(busy.seen) == 2


# ---- dense ----------------------------------------------------------------------------------------------------------


def test_all_that_an_encoder_takes_reaches_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As E5 needs it: else its vectors are those of another task."""
    said: dict[str, Any] = {
        "query_prefix": "query: ", "document_prefix": "passage: ", "pooling": "cls", "max_tokens": 9, "device": "cpu"
    }  # fmt: skip
    given = []

    def encoder(folder: Path, **how: Any) -> None:
        given.append((folder, how))
        raise ValueError("seen")

    monkeypatch.setattr("empg.environments.deepsearch.retrieval.encoder.HuggingFaceEncoder", encoder)
    for cache in (None, str(tmp_path / "cache")):
        with pytest.raises(ValueError, match="seen"):
            DeepSearchEnv(retriever="dense", encoder={"folder": "e5", **said}, cache=cache)
    assert given == [(Path("e5"), said)] * 2


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # faiss's bindings, at import
@pytest.mark.parametrize("cached", [False, True])
def test_faiss_serves_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cached: bool) -> None:
    pytest.importorskip("faiss")
    made: list[str] = []
    make = FaissIndex.make

    def noted(vectors: Any, factory: str, done: Any) -> FaissIndex:
        made.append(factory)
        return make(vectors, factory, done)

    monkeypatch.setattr(FaissIndex, "make", noted)
    monkeypatch.setattr("empg.environments.deepsearch.retrievers.open_encoder", lambda how: Hashing())
    environment = DeepSearchEnv(
        pages=60, retriever="dense", encoder=f"model-{cached}", faiss="HNSW8", cache=str(tmp_path) if cached else None
    )
    environment.reset(options={"task": 0})
    hop = environment.question.hops[0]
    assert hop.title in environment.step(f"search[{hop.title}]")[0]
    assert made == ["HNSW8"]


# ---- packages that are not there ------------------------------------------------------------------------------------


def _without(monkeypatch: pytest.MonkeyPatch, package: str, module: str) -> None:
    real: Callable[..., Any] = builtins.__import__

    def importing(name: str, *more: Any, **others: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *more, **others)

    monkeypatch.delitem(sys.modules, f"empg.environments.deepsearch.retrieval.{module}", raising=False)
    monkeypatch.setattr(builtins, "__import__", importing)


@pytest.mark.parametrize(
    ("package", "module", "retriever", "extra"),
    [("trafilatura", "page_reader", "searxng", "web"), ("tantivy", "tantivy_index", "tantivy", "tantivy")],
)
def test_a_package_that_is_not_there_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, package: str, module: str, retriever: str, extra: str, corpus: Path
) -> None:
    monkeypatch.setenv("SEARXNG_URL", "http://127.0.0.1:9")
    _without(monkeypatch, package, module)
    with pytest.raises(ImportError, match=re.escape(f"{package} is not installed: pip install 'empg[{extra}]'")):
        open_search(Searching(retriever=retriever), corpus_file(corpus))


def test_so_is_faiss_before_anything_is_encoded(monkeypatch: pytest.MonkeyPatch, corpus: Path) -> None:
    monkeypatch.setattr("empg.environments.deepsearch.retrievers.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=re.escape("faiss is not installed: pip install 'empg[dense]'")):
        open_search(Searching(retriever="dense", encoder={"folder": "nowhere"}, faiss="Flat"), corpus_file(corpus))


# ---- what is kept ---------------------------------------------------------------------------------------------------


def test_the_pages_of_a_served_corpus_are_mapped_and_not_held(corpus: Path) -> None:
    with scripted(Reply(b'{"result": [[]]}')) as server:
        for _ in range(2):
            _, library = open_search(Searching(retriever=server.url), corpus_file(corpus))
            assert library is not None
            page = library.open("dunmere")
            assert page is not None
            assert page.text == DOCUMENTS[3].text
            assert isinstance(vars(library)["_documents"], StoredDocuments)
    assert len(list(corpus.parent.glob("empg-index/documents-*"))) == 1


def test_what_is_kept_can_be_read_by_whom_the_umask_says(corpus: Path, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        open_search(Searching(), corpus_file(corpus))
        DiskCache(tmp_path / "cache").put(1, "a")
    finally:
        os.umask(before)
    made = [*(tmp_path / "empg-index").rglob("*"), *(tmp_path / "cache").rglob("*")]
    assert len(made) > 6
    for path in made:
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


# ---- progress -------------------------------------------------------------------------------------------------------


def test_the_bar_of_a_small_corpus_shows_all_of_it(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_search(Searching(), corpus_file(corpus))
    assert capsys.readouterr().err.count("5/5") == 3  # documents, words and titles
    open_search(Searching(), corpus_file(corpus))
    assert capsys.readouterr().err == ""
