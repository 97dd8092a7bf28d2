"""Documents on disk: read back as a sequence, named by the content or the files that they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from empg.environments.deepsearch.retrieval.stored import fingerprint_documents, open_documents
from empg.environments.deepsearch.world import Document


def test_stored_documents_are_a_sequence(tmp_path: Path) -> None:
    texts = ("a", 'line\nbreak \u2028 and "quotes"', "Ünïcode")
    corpus = [Document(f"d{number}", "", text) for number, text in enumerate(texts)]
    stored = open_documents(lambda: corpus, "0", tmp_path)
    assert len(stored) == 3
    assert list(stored) == corpus
    assert stored[-1] == corpus[2]
    assert stored[1:] == corpus[1:]
    for row in (3, -4):
        with pytest.raises(IndexError, match="document index out of range"):
            stored[row]


def test_an_empty_corpus_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the corpus is empty"):
        open_documents(list, "0", tmp_path)


def test_fingerprints_depend_on_content_and_order() -> None:
    one, two = Document("1", "a", "b"), Document("2", "a", "b")
    prints = [fingerprint_documents(corpus) for corpus in ([one], [two], [one, two], [two, one], [])]
    assert len(set(prints)) == 5
    assert fingerprint_documents(iter([one, two])) == prints[2]
