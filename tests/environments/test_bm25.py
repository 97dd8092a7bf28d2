"""BM25: hand-computed scores, the lengths that Lucene stores, saved indexes, and the scores of the real Anserini."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from empg.environments.analysis import TermCollector
from empg.environments.bm25 import BM25Index, stored_length
from tests.environments.facts import ANSERINI


def index_of(*texts: str) -> BM25Index:
    collector = TermCollector()
    for text in texts:
        collector.add(text)
    return BM25Index.build(collector)


def test_scores_are_bm25_with_anserinis_constants() -> None:
    scores = index_of("mug mug tea", "mug pot", "pan pan pan pan").scores("mug tea")

    def bm25(frequency: int, holding: int, length: int) -> float:
        rarity = math.log(1 + (3 - holding + 0.5) / (holding + 0.5))
        return rarity * frequency / (frequency + 0.9 * (1 - 0.4 + 0.4 * length / 3))

    assert scores == pytest.approx([bm25(2, 2, 3) + bm25(1, 1, 3), bm25(1, 2, 2), 0], rel=1e-6)


def test_a_repeated_query_word_counts_each_time() -> None:
    index = index_of("mug", "pot", "pan")
    assert index.scores("mug pot pot").tolist() == pytest.approx(
        [math.log(1 + 2.5 / 1.5) / 1.9 * times for times in (1, 2, 0)]
    )


def test_documents_without_terms_count_neither_in_the_average_nor_in_the_rarity() -> None:
    few, many = index_of("mug mug", "pot"), index_of("mug mug", "", "pot", "the of")
    assert few.scores("mug").tolist() == many.scores("mug")[[0, 2]].tolist()


@pytest.mark.parametrize("texts", [[""], ["", "the"], []])
def test_an_index_without_terms_finds_nothing(texts: list[str], tmp_path: Path) -> None:
    index_of(*texts).save(tmp_path / "index")
    for index in (index_of(*texts), BM25Index.open(tmp_path / "index")):
        assert index.scores("mug the").tolist() == [0] * len(texts)


def test_a_saved_index_gives_the_same_scores(tmp_path: Path) -> None:
    index = index_of(*(f"mug number {i % 7} {'tea ' * (i % 3)}" for i in range(200)), "", "\ud800 é")
    index.save(tmp_path / "index")
    mapped = BM25Index.open(tmp_path / "index")
    for query in ("mug", "tea number 3", "5 tea é", "nothing", ""):
        assert mapped.scores(query).tolist() == index.scores(query).tolist()


def test_stored_lengths_are_those_of_lucene() -> None:
    lengths = np.asarray([int(length) for length in ANSERINI["lengths"]])
    assert stored_length(lengths).tolist() == list(ANSERINI["lengths"].values())
    assert stored_length(np.asarray([0, 23, 39, 40, 41, 42, 55, 56, 59, 60])).tolist() == [
        0, 23, 39, 40, 40, 42, 54, 56, 56, 60,
    ]  # fmt: skip


def test_scores_are_those_of_anserini_to_the_last_bit() -> None:
    rows = {name: row for row, name in enumerate(ANSERINI["documents"])}
    index = index_of(*ANSERINI["documents"].values())
    for query, hits in ANSERINI["hits"].items():
        scores = index.scores(query)
        assert [scores[rows[name]] for name, _ in hits] == [np.float32(score) for _, score in hits], query
