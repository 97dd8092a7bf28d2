"""BM25: hand-computed scores, the order of equal scores, hostile queries, atomic index folders, and parity."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empg.environments.analysis import analyze
from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever, open_bm25
from empg.environments.deepsearch.retrieval.query import MAX_HITS, MAX_QUERY, clean_query
from empg.environments.deepsearch.retrieval.ranking import best_rows
from empg.environments.deepsearch.retrieval.stored import fingerprint_documents, open_documents
from empg.environments.deepsearch.world import Document, Retriever
from tests import ROOT
from tests.environments.deepsearch.people import people


def docs(*texts: str) -> list[Document]:
    return [Document(f"d{number}", "", text) for number, text in enumerate(texts)]


def ids(retriever: Retriever, query: str, k: int = 10) -> list[str]:
    return [hit.document.id for hit in retriever.search([query], k)[0]]


# ---- scores and order ----------------------------------------------------------------------------------------------


def test_scores_are_bm25_with_anserinis_constants() -> None:
    retriever = BM25Retriever.build(docs("mug mug tea", "mug pot", "pan pan pan pan"))

    def bm25(frequency: int, holding: int, length: int) -> float:
        rarity = math.log(1 + (3 - holding + 0.5) / (holding + 0.5))
        return rarity * frequency / (frequency + 0.9 * (1 - 0.4 + 0.4 * length / 3))

    [hits] = retriever.search(["mug tea"], 5)
    assert [hit.document.id for hit in hits] == ["d0", "d1"]  # d2 shares no word with the query
    assert [hit.score for hit in hits] == pytest.approx([bm25(2, 2, 3) + bm25(1, 1, 3), bm25(1, 2, 2)], rel=1e-6)


def test_building_writes_nothing_into_the_log_of_others(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        BM25Retriever.build(docs("mug", "pot"))
    assert [record for record in caplog.records if record.name == "bm25s"] == []


def test_the_title_is_searched_with_the_text() -> None:
    retriever = BM25Retriever.build([Document("1", "Lake Orvel", "A lake."), Document("2", "Mount Sard", "A peak.")])
    assert ids(retriever, "orvel") == ["1"]
    assert ids(retriever, "Where is Mount Sard?") == ["2"]


def test_equal_scores_are_in_corpus_order() -> None:
    retriever = BM25Retriever.build(docs(*["red fox"] * 900, "red"))
    assert ids(retriever, "fox", 4) == ["d0", "d1", "d2", "d3"]
    assert ids(retriever, "red", 3) == ["d900", "d0", "d1"]


def test_queries_are_independent() -> None:
    retriever = BM25Retriever.build(docs("fox", "hare"))
    together = retriever.search(["fox", "none of it", "hare", "fox"], 3)
    assert together == [retriever.search([query], 3)[0] for query in ("fox", "none of it", "hare", "fox")]
    assert [len(hits) for hits in together] == [1, 0, 1, 1]
    assert retriever.search([], 3) == []


@given(st.lists(st.sampled_from([0.0, 0.5, 0.5, 1.25, 2.0, 3.5]), min_size=1, max_size=3_000), st.integers(1, MAX_HITS))
@settings(max_examples=60)
def test_best_rows_agree_with_a_full_sort(values: list[float], k: int) -> None:
    scores = np.asarray(values, dtype=np.float32)
    expected = sorted((row for row in range(len(values)) if values[row] > 0), key=lambda row: (-values[row], row))
    assert best_rows(scores, k) == expected[:k]
    everything = sorted(range(len(values)), key=lambda row: (-values[row], row))
    assert best_rows(scores, k, above=-np.inf) == everything[:k]


# ---- hostile queries and documents ---------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", " \n", "the of and", "\0", "(((", "\ud800\udfff", "a" * 5_000, "zzz", "foxes2"])
def test_queries_without_known_words_find_nothing(query: str) -> None:
    assert ids(BM25Retriever.build(docs("a red fox", "the hare")), query) == []


@given(st.text(max_size=50) | st.text(st.characters(categories=["Cs", "Cc", "L"]), max_size=50))
@settings(max_examples=200)
def test_any_text_is_a_valid_query(text: str) -> None:
    hits = BM25Retriever.build(docs("a red fox", "the hare")).search([text], 3)[0]
    assert len(hits) <= 2
    clean_query(text).encode()


def test_a_query_is_cut() -> None:
    retriever = BM25Retriever.build(docs("fox", "hare"))
    assert ids(retriever, "fox " * (MAX_QUERY // 4) + "hare") == ["d0"]
    assert len(clean_query("ab " * 10_000)) <= MAX_QUERY


def test_documents_may_be_empty_or_have_invalid_characters() -> None:
    corpus = [Document("1", "", ""), Document("2", "\ud800", "a\0b\ud83d fox")]
    assert ids(BM25Retriever.build(corpus), "fox") == ["2"]
    assert ids(BM25Retriever.build(corpus[:1]), "fox") == []


def test_an_empty_corpus_and_an_invalid_count_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the corpus is empty"):
        BM25Retriever.build([])
    with pytest.raises(ValueError, match="the corpus is empty"):
        open_bm25([], "0", tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    for count in (0, -1, MAX_HITS + 1):
        with pytest.raises(ValueError, match="invalid number of hits: expected 1 to 100"):
            BM25Retriever.build(docs("a fox")).search(["fox"], count)


# ---- parity --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus() -> list[Document]:
    return people(1_200)[0]


@pytest.fixture(scope="module")
def asked() -> list[tuple[str, str]]:
    return people(1_200)[1]


def test_scores_agree_with_bm25s(corpus: list[Document], asked: list[tuple[str, str]]) -> None:
    terms = [analyze(f"{document.title}\n{document.text}") for document in corpus]
    reference = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    reference.index(terms, show_progress=False)
    retriever = BM25Retriever.build(corpus)
    for query, _ in asked[:100]:
        known = [term for term in analyze(query) if term in reference.vocab_dict]
        np.testing.assert_array_equal(retriever.scores(query), reference.get_scores(known))


def test_mapped_hits_agree_with_those_in_memory(
    corpus: list[Document], asked: list[tuple[str, str]], tmp_path: Path
) -> None:
    mapped = open_bm25(open_documents(lambda: iter(corpus), "0", tmp_path), "0", tmp_path)
    in_memory = BM25Retriever.build(corpus)
    queries = [query for query, _ in asked[:200]]
    assert mapped.search(queries, 10) == in_memory.search(queries, 10)
    assert list(mapped.documents) == corpus


def test_the_gold_page_is_found(corpus: list[Document], asked: list[tuple[str, str]]) -> None:
    assert recall(BM25Retriever.build(corpus), asked) >= 0.99


def recall(retriever: Retriever, asked: Sequence[tuple[str, str]], k: int = 3) -> float:
    """Return the share of queries with the gold page among the first `k` hits."""
    found = retriever.search([query for query, _ in asked], k)
    return sum(
        any(hit.document.title == gold for hit in hits) for hits, (_, gold) in zip(found, asked, strict=True)
    ) / len(asked)


def test_tantivy_finds_the_gold_page_as_often(
    corpus: list[Document], asked: list[tuple[str, str]], tmp_path: Path
) -> None:
    tantivy_index = pytest.importorskip("empg.environments.deepsearch.retrieval.tantivy_index")
    in_memory = tantivy_index.TantivyRetriever.build(corpus)
    assert abs(recall(in_memory, asked) - recall(BM25Retriever.build(corpus), asked)) <= 0.01
    mapped = tantivy_index.open_tantivy(corpus, "0", tmp_path)
    queries = [query for query, _ in asked[:100]]
    assert mapped.search(queries, 5) == in_memory.search(queries, 5)


@pytest.mark.parametrize("query", ['"fox', "fox AND (", "text:fox^2 -hare", "fo*", "\ud800 fox", "[a TO z] fox", ""])
def test_tantivy_does_not_parse_queries(query: str) -> None:
    tantivy_index = pytest.importorskip("empg.environments.deepsearch.retrieval.tantivy_index")
    retriever = tantivy_index.TantivyRetriever.build(docs("a red fox", "the dog"))
    assert ids(retriever, query) == (["d0"] if "fox" in query else [])


def test_equal_scores_of_tantivy_are_in_corpus_order() -> None:
    tantivy_index = pytest.importorskip("empg.environments.deepsearch.retrieval.tantivy_index")
    retriever = tantivy_index.TantivyRetriever.build(docs(*["red fox"] * 500, "red"))
    assert ids(retriever, "fox", 3) == ["d0", "d1", "d2"]
    assert ids(retriever, "red", 3) == ["d500", "d0", "d1"]


# ---- folders -------------------------------------------------------------------------------------------------------


def test_an_index_is_built_once_per_corpus(tmp_path: Path) -> None:
    first, second = docs("a fox"), docs("a fox", "a hare")
    made: list[int] = []
    for corpus in (first, first, second, first):
        stage = lambda name, total: made.append  # noqa: E731
        retriever = open_bm25(corpus, fingerprint_documents(corpus), tmp_path, stage)
        assert ids(retriever, "hare") == [document.id for document in corpus[1:]]
    assert made == [1, 1, 2]  # progress of the first index and of the second; reopening reports none
    assert len(list(tmp_path.iterdir())) == 2


def test_processes_that_index_at_once_share_one_index(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(_index_and_search, [tmp_path] * 2)
    assert found[0] == found[1] == ["p7"]
    assert [path.name for path in tmp_path.iterdir()] == ["bm25-0"]


def _index_and_search(cache: Path) -> list[str]:
    corpus, asked = people(200)
    return ids(open_bm25(corpus, "0", cache), asked[7][0], 1)


def test_hits_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    program = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); from tests.environments.deepsearch.people import people;"
        "from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever;"
        "c, a = people(100); r = BM25Retriever.build(c);"
        "print(json.dumps([[h.document.id, h.score] for hits in r.search([q for q, _ in a], 5) for h in hits]))"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", program, str(ROOT)],
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}, capture_output=True, check=True, text=True,
        ).stdout
        for seed in ("0", "1")
    ]  # fmt: skip
    assert printed[0] == printed[1]
    assert len(json.loads(printed[0])) > 100
