"""Fixtures with the small hand-written source, and the same source with an unreachable search server."""

from __future__ import annotations

import pytest

from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever
from empg.environments.deepsearch.sources import Source
from tests.environments.deepsearch.smallworld import BARE, BRIDGE, COMPARISON, DOCUMENTS, Failing, Pages, exact


@pytest.fixture(scope="session")
def source() -> Source:
    return Source({"train": [BRIDGE, COMPARISON], "test": [BARE]}, BM25Retriever.build(DOCUMENTS), Pages(), exact)


@pytest.fixture
def dead(source: Source) -> Source:
    return Source(source.questions, Failing(), source.library, exact)
