"""Ways to search and to open pages, by the name that a recipe gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from empg.environments.deepsearch.actions import folded
from empg.environments.deepsearch.corpus import must_exist, open_titles, read_corpus
from empg.environments.deepsearch.indexing import IndexingBar
from empg.environments.deepsearch.retrieval.stored import Progress, fingerprint_files
from empg.environments.deepsearch.world import Document, Library, Retriever

if TYPE_CHECKING:
    from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever
    from empg.environments.deepsearch.retrieval.dense import DenseRetriever
    from empg.environments.deepsearch.retrieval.tantivy_index import TantivyRetriever

LOCAL = ("bm25", "tantivy", "dense")


@dataclass(frozen=True)
class Corpus:
    """Documents that can be read whenever an index of them is made; `fingerprint` changes with them."""

    documents: Callable[[], Iterable[Document]]
    fingerprint: Callable[[], str]


def corpus_file(path: Path) -> Corpus:
    """The documents of a file of JSON lines; see `corpus.read_corpus`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    must_exist(path)
    return Corpus(partial(read_corpus, path), partial(fingerprint_files, path))


def index_folder(path: Path) -> Path:
    """Where the index of a corpus file is kept unless said otherwise: beside it."""
    return path.parent / "empg-index"


class Titles:
    """The library of documents in memory: of several with one title, the first."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._pages: dict[str, Document] = {}
        for document in documents:
            self._pages.setdefault(folded(document.title), document)

    def open(self, name: str) -> Document | None:
        """The page of that title, without regard to case and spaces."""
        return self._pages.get(folded(name))


def open_search(
    name: str, corpus: Corpus | None, encoder: Path | None = None, cache: Path | None = None
) -> tuple[Retriever, Library | None]:
    """A way to search, and the pages that go with it.

    Args:
        name: "bm25", "tantivy" or "dense" over `corpus`; the address of a server that answers `/retrieve`; or a
            search provider of the web ("serper", "tavily", "brave", "searxng").
        corpus: None for the last two. A server's pages are those that a search listed, with a corpus those of it.
        encoder: of "dense": the folder of a sentence-embedding model.
        cache: a folder that keeps indices and what other machines answered, for corpora that do not fit into memory;
            None indexes in memory and asks every time.

    Raises:
        ValueError: there is no such retriever, or something it needs is not given; the message names it.
        FileNotFoundError: the encoder's folder holds no model, or the corpus is not there.
        ImportError: the retriever's package is not installed.
    """
    if name.startswith(("http://", "https://")):
        from empg.environments.deepsearch.retrieval.served import ServedRetriever

        return ServedRetriever(name, cache), None if corpus is None else Titles(list(corpus.documents()))
    if name not in LOCAL:
        return _web(name, cache)
    if corpus is None:
        raise ValueError(f"retriever={name!r} searches a corpus: give data.corpus")
    if name == "dense" and encoder is None:
        raise ValueError("retriever='dense' needs encoder: the folder of a sentence-embedding model")
    if cache is None:
        documents = list(corpus.documents())
        return _in_memory(name, documents, encoder), Titles(documents)
    return _on_disk(name, corpus, encoder, cache)


def _web(name: str, cache: Path | None) -> tuple[Retriever, Library]:
    from empg.environments.deepsearch.retrieval.pages import WebLibrary
    from empg.environments.deepsearch.retrieval.web import PROVIDERS, WebSearch

    if name not in PROVIDERS:
        raise ValueError(f"retriever={name!r}: one of {', '.join((*LOCAL, *PROVIDERS))}, or the address of a server")
    return WebSearch(name, cache), WebLibrary(cache)


def _in_memory(name: str, documents: Sequence[Document], encoder: Path | None) -> Retriever:
    if name == "bm25":
        from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever

        return BM25Retriever.build(documents)
    if name == "tantivy":
        from empg.environments.deepsearch.retrieval.tantivy_index import TantivyRetriever

        return TantivyRetriever.build(documents)
    from empg.environments.deepsearch.retrieval.dense import DenseRetriever
    from empg.environments.deepsearch.retrieval.encoder import HuggingFaceEncoder

    assert encoder is not None
    return DenseRetriever.build(documents, HuggingFaceEncoder(encoder))


def _on_disk(name: str, corpus: Corpus, encoder: Path | None, cache: Path) -> tuple[Retriever, Library]:
    """The index and the titles of a corpus, made at first use with a progress bar, and mapped from then on."""
    fingerprint = corpus.fingerprint()
    with IndexingBar("Indexing the corpus (once)") as bar:
        index = _mapped(name, corpus, fingerprint, encoder, cache, bar.show)
    with IndexingBar("Indexing its titles (once)", len(index.documents)) as bar:
        return index, open_titles(index.documents, fingerprint, cache, bar.show)


def _mapped(
    name: str, corpus: Corpus, fingerprint: str, encoder: Path | None, cache: Path, progress: Progress
) -> BM25Retriever | TantivyRetriever | DenseRetriever:
    if name == "bm25":
        from empg.environments.deepsearch.retrieval.bm25 import open_bm25

        return open_bm25(corpus.documents, fingerprint, cache, progress)
    if name == "tantivy":
        from empg.environments.deepsearch.retrieval.tantivy_index import open_tantivy

        return open_tantivy(corpus.documents, fingerprint, cache, progress)
    from empg.environments.deepsearch.retrieval.dense import open_dense
    from empg.environments.deepsearch.retrieval.encoder import HuggingFaceEncoder

    assert encoder is not None
    return open_dense(corpus.documents, fingerprint, HuggingFaceEncoder(encoder), cache, progress=progress)
