"""Published indexes of faiss: flat ones are mapped, HNSW ones are opened by faiss, and unfit ones are one line."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from empg.environments.deepsearch.options import Searching
from empg.environments.deepsearch.retrieval import published
from empg.environments.deepsearch.retrieval.dense import DenseRetriever, ExactIndex, document_text
from empg.environments.deepsearch.retrieval.published import open_published
from empg.environments.deepsearch.retrievers import Corpus, open_search
from empg.environments.deepsearch.world import Document
from tests.environments.deepsearch.encoders import Hashing
from tests.environments.deepsearch.people import people

CORPUS, ASKED = people(300)
QUERIES = [query for query, _ in ASKED[:40]]

pytestmark = pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # faiss's bindings, at import


def publish(file: Path, factory: str = "Flat", *, metric: str = "METRIC_INNER_PRODUCT", shift: int = 0) -> Path:
    """Write an index as Search-R1's `index_builder.py` does."""
    faiss = pytest.importorskip("faiss")
    vectors = np.roll(Hashing().documents([document_text(document) for document in CORPUS]), shift, axis=0)
    index = faiss.index_factory(vectors.shape[1], factory, getattr(faiss, metric))
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(file))
    return file


def test_a_flat_index_is_searched_as_a_memory_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish(tmp_path / "e5_Flat.index")
    monkeypatch.setattr(published, "find_spec", lambda name: None)  # it needs no faiss
    retriever = open_published(CORPUS, Hashing(), file)
    index = vars(retriever)["_index"]
    assert isinstance(index, ExactIndex)
    assert isinstance(vars(index)["_vectors"], np.memmap)
    own = DenseRetriever.build(CORPUS, Hashing())
    for hits, expected in zip(retriever.search(QUERIES, 3), own.search(QUERIES, 3), strict=True):
        assert hits[0].document == expected[0].document
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-3)


def test_an_hnsw_index_is_opened_by_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish(tmp_path / "e5_HNSW64.index", "HNSW64")
    retriever, own = open_published(CORPUS, Hashing(), file), DenseRetriever.build(CORPUS, Hashing())
    pairs = zip(retriever.search(QUERIES, 1), own.search(QUERIES, 1), strict=True)
    assert sum(found.document == expected.document for [found], [expected] in pairs) >= 38
    monkeypatch.setattr(published, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="faiss is not installed: pip install"):
        open_published(CORPUS, Hashing(), file)


@pytest.mark.parametrize("cached", [False, True])
def test_a_recipe_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool) -> None:
    monkeypatch.setattr("empg.environments.deepsearch.retrievers.open_encoder", lambda how: Hashing())
    how = Searching(
        retriever="dense", encoder={"folder": "e5"}, index=publish(tmp_path / "e5_Flat.index"),
        cache=tmp_path / "cache" if cached else None,
    )  # fmt: skip
    retriever, library = open_search(how, Corpus(lambda: CORPUS, lambda: "0"))
    query, title = ASKED[0]
    assert library is not None
    assert library.open(title) is not None
    assert len(retriever.search([query], 3)[0]) == 3
    assert not list((tmp_path / "cache").glob("vectors-*"))


class Wide(Hashing):
    dimensions = 768


@pytest.mark.parametrize("factory", ["Flat", "HNSW8"])
def test_an_index_that_does_not_fit_is_one_line(tmp_path: Path, factory: str) -> None:
    file = publish(tmp_path / "e5.index", factory)
    with pytest.raises(ValueError, match=r"e5\.index has 300 vectors, but the corpus has 299 passages$"):
        open_published(CORPUS[:-1], Hashing(), file)
    with pytest.raises(ValueError, match=r"e5\.index has 64 dimensions, but encoder has 768$"):
        open_published(CORPUS, Wide(), file)
    with pytest.raises(FileNotFoundError, match=r"index=.*nowhere not found"):
        open_published(CORPUS, Hashing(), tmp_path / "nowhere")
    with pytest.raises(ValueError, match=rf"^{tmp_path} is a folder: expected a file"):
        open_published(CORPUS, Hashing(), tmp_path)
    shifted = publish(tmp_path / "shifted.index", factory, shift=1)
    with pytest.raises(ValueError, match=r"does not fit: only \d of 8 sampled passages are nearest to their own"):
        open_published(CORPUS, Hashing(), shifted)
    other = publish(tmp_path / "l2.index", factory, metric="METRIC_L2")
    with pytest.raises(ValueError, match=r"l2\.index: unsupported (metric: expected inner product|file: expected a)"):
        open_published(CORPUS, Hashing(), other)


def test_another_kind_of_index_is_named(tmp_path: Path) -> None:
    file = publish(tmp_path / "ivf.index", "IVF4,Flat")
    with pytest.raises(ValueError, match=r"expected a flat or an HNSW index of faiss, got b'IwFl'"):
        open_published(CORPUS, Hashing(), file)
    file.write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"expected a flat or an HNSW index of faiss, got b'\\x93NUM'"):
        open_published(CORPUS, Hashing(), file)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected a flat or an HNSW index of faiss, got b''"):
        open_published(CORPUS, Hashing(), file)


@pytest.mark.parametrize("factory", ["Flat", "HNSW8"])
@pytest.mark.parametrize("kept", [4, 20, 44, 60, 0.3, 0.9, -1])
def test_a_truncated_index_is_one_line(tmp_path: Path, factory: str, kept: float) -> None:
    file = publish(tmp_path / "e5.index", factory)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"e5\.index is damaged.*(or download it again|Download or build it again)$"):
        open_published(CORPUS, Hashing(), file)


def test_a_count_that_contradicts_the_header_is_one_line(tmp_path: Path) -> None:
    file = publish(tmp_path / "e5.index")
    content = bytearray(file.read_bytes())
    content[37:45] = struct.pack("<Q", 1 << 60)
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        open_published(CORPUS, Hashing(), file)


def test_few_or_equal_passages_fit(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    corpus = [Document(str(row), "same", "text") for row in range(3)]
    vectors = Hashing().documents([document_text(document) for document in corpus])
    index = faiss.index_factory(64, "Flat", faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "e5.index"))
    assert len(open_published(corpus, Hashing(), tmp_path / "e5.index").search(["same"], 5)[0]) == 3
