"""Ways to search and to open pages, by the name that a recipe gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from empg.environments.deepsearch.corpus import Titles, corpus_records, open_titles, read_corpus
from empg.environments.deepsearch.options import LOCAL, Searching
from empg.environments.deepsearch.retrieval.stored import FORMAT, open_documents
from empg.environments.deepsearch.world import Document, Library, Retriever
from empg.environments.progress_bar import IndexingBars, Stage
from empg.environments.publishing import fingerprint_files
from empg.errors import MissingExtraError, UserError

if TYPE_CHECKING:
    from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever
    from empg.environments.deepsearch.retrieval.dense import DenseRetriever
    from empg.environments.deepsearch.retrieval.encoder import HuggingFaceEncoder
    from empg.environments.deepsearch.retrieval.tantivy_index import TantivyRetriever


@dataclass(frozen=True)
class Corpus:
    """Documents that can be read whenever an index of them is made.

    Attributes:
        documents: gives them.
        fingerprint: changes with them.
        size: how many they are, where that is known before they are read.
        folder: where their index is kept unless said otherwise; None keeps it in memory.
        file: the file that they are read from line by line, if there is one.
    """

    documents: Callable[[], Iterable[Document]]
    fingerprint: Callable[[], str]
    size: int | None = None
    folder: Path | None = None
    file: Path | None = None


def corpus_file(path: Path) -> Corpus:
    """Return the documents of a file, see `corpus.read_corpus`; their index is kept beside it.

    Raises:
        MissingFileError: there is no such file.
        UserError: its format is not read.
    """
    corpus_records(path)  # checks the file before anything else is built or shown
    fingerprint = partial(fingerprint_files, FORMAT, path)
    return Corpus(partial(read_corpus, path), fingerprint, folder=path.parent / "empg-index", file=path)


def open_search(how: Searching, corpus: Corpus | None) -> tuple[Retriever, Library | None]:
    """Return a retriever, and the pages that go with it.

    Args:
        how: says which.
        corpus: what a local retriever searches. Of a server it gives the pages; without one, pages are those that a
            search listed. Of the web it is not asked.

    Raises:
        UserError: there is no such retriever, or something it needs is not given; the message names it.
        MissingFileError: the folder of the encoder has no model, or the corpus does not exist.
        MissingExtraError: the retriever's package is not installed.
    """
    if how.retriever.startswith(("http://", "https://")):
        from empg.environments.deepsearch.retrieval.served import REQUEST_POLICY, ServedRetriever

        served = ServedRetriever(how.retriever, how.cache, how.requests.over(REQUEST_POLICY))
        return served, None if corpus is None else _pages(corpus, how.cache or corpus.folder)
    if how.retriever not in LOCAL:
        return _web(how)
    if corpus is None:
        raise UserError(f"retriever={how.retriever!r} searches a corpus: give data.corpus")
    if how.faiss is not None and find_spec("faiss") is None:
        raise MissingExtraError("faiss is not installed: pip install 'empg[dense]'")
    with _extra("tantivy"):
        folder = how.cache or corpus.folder
        if folder is None:
            documents = list(corpus.documents())
            return _in_memory(how, documents), Titles(documents)
        return _on_disk(how, corpus, folder)


def _web(how: Searching) -> tuple[Retriever, Library]:
    from empg.environments.deepsearch.retrieval.web import PROVIDERS, REQUEST_POLICY, WebSearch

    if how.retriever not in PROVIDERS:
        known = ", ".join((*LOCAL, *PROVIDERS))
        raise UserError(f"retriever: expected one of {known}, or the address of a server, got {how.retriever!r:.80}")
    with _extra("web", "trafilatura"):
        from empg.environments.deepsearch.retrieval.page_reader import PAGE_REQUEST_POLICY, WebLibrary
    search = WebSearch(how.retriever, how.cache, how.requests.over(REQUEST_POLICY))
    return search, WebLibrary(how.cache, how.requests.over(PAGE_REQUEST_POLICY))


@contextmanager
def _extra(name: str, package: str = "") -> Iterator[None]:
    """Turn a failed import into an error that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != (package or name):
            raise
        raise MissingExtraError(f"{error.name} is not installed: pip install 'empg[{name}]'") from None


def _in_memory(how: Searching, documents: Sequence[Document]) -> Retriever:
    if how.retriever == "bm25":
        from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever

        return BM25Retriever.build(documents)
    if how.retriever == "tantivy":
        from empg.environments.deepsearch.retrieval.tantivy_index import TantivyRetriever

        return TantivyRetriever.build(documents)
    if how.index is not None:
        return _published(how, documents)
    from empg.environments.deepsearch.retrieval.dense import DenseRetriever

    with IndexingBars("Encoding the corpus") as bars:
        return DenseRetriever.build(documents, open_encoder(how), how.faiss, bars.stage)


def _on_disk(how: Searching, corpus: Corpus, folder: Path) -> tuple[Retriever, Library]:
    """Return the index and the titles of a corpus, built at first use with progress bars, later mapped."""
    fingerprint = corpus.fingerprint()
    with IndexingBars(f"Indexing the corpus (once) into {folder}") as bars:
        documents = open_documents(corpus.documents, fingerprint, folder, bars.stage, corpus.size)
        index = _mapped(how, documents, fingerprint, folder, bars.stage)
        return index, open_titles(documents, fingerprint, folder, bars.stage)


def _pages(corpus: Corpus, folder: Path | None) -> Library:
    """Return the pages of a corpus that is searched elsewhere."""
    if folder is None:
        return Titles(list(corpus.documents()))
    fingerprint = corpus.fingerprint()
    with IndexingBars(f"Storing the corpus (once) into {folder}") as bars:
        documents = open_documents(corpus.documents, fingerprint, folder, bars.stage, corpus.size)
        return open_titles(documents, fingerprint, folder, bars.stage)


def _mapped(
    how: Searching, documents: Sequence[Document], fingerprint: str, folder: Path, stage: Stage
) -> BM25Retriever | TantivyRetriever | DenseRetriever:
    if how.retriever == "bm25":
        from empg.environments.deepsearch.retrieval.bm25 import open_bm25

        return open_bm25(documents, fingerprint, folder, stage)
    if how.retriever == "tantivy":
        from empg.environments.deepsearch.retrieval.tantivy_index import open_tantivy

        return open_tantivy(documents, fingerprint, folder, stage)
    if how.index is not None:
        return _published(how, documents)
    from empg.environments.deepsearch.retrieval.dense import open_dense

    return open_dense(documents, fingerprint, open_encoder(how), folder, how.faiss, stage)


def _published(how: Searching, documents: Sequence[Document]) -> DenseRetriever:
    from empg.environments.deepsearch.retrieval.published import open_published

    assert how.index is not None
    return open_published(documents, open_encoder(how), how.index)


def open_encoder(how: Searching) -> HuggingFaceEncoder:
    """Return the encoder of `dense`."""
    from empg.environments.deepsearch.retrieval.encoder import HuggingFaceEncoder

    said = how.encoder
    assert said is not None  # validated by `Searching`
    return HuggingFaceEncoder(
        said.folder,
        query_prefix=said.query_prefix,
        document_prefix=said.document_prefix,
        pooling=said.pooling,
        max_tokens=said.max_tokens,
        device=said.device,
    )
