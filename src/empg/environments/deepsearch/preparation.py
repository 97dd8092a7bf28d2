"""Estimate what indexing a corpus takes, from the size of the corpus and a sample of it."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from empg.environments.analysis import analyze
from empg.environments.deepsearch.opened_files import COMPRESSED, PARQUET, opened
from empg.environments.deepsearch.options import LOCAL, DeepSearchOptions, Searching
from empg.environments.deepsearch.record_files import MAX_LINE
from empg.environments.deepsearch.retrieval.stored import documents_folder
from empg.environments.deepsearch.retrievers import Corpus, open_encoder
from empg.environments.deepsearch.sources import searched_corpus
from empg.environments.deepsearch.world import Document
from empg.environments.preparation import Preparation

_SAMPLE = 2_000  # documents that are indexed to measure the rate
_STORING = 40e-6  # seconds per document to store it and its title
_SMALL = 5_000  # documents; indexing so few is not worth a word, except with an encoder
_BASE = 200 << 20  # bytes of a process that indexes
_WORD = 40  # bytes per word, while bm25s builds an index: 4.6 GB for a million passages of 100 words
_ENCODING = 1 << 30  # bytes of the activations of an encoder


def estimate(options: DeepSearchOptions) -> Preparation | None:
    """Estimate the time, memory and disk space of the index; None if it is built already or is small.

    Raises:
        UserError: the corpus or the encoder cannot be read.
    """
    how = options.searching
    corpus = searched_corpus(options) if how.retriever in LOCAL else None
    if corpus is None:
        return None
    folder = how.cache or corpus.folder
    if folder is not None and _is_built(how.retriever, folder, corpus):
        return None
    sample = list(islice(corpus.documents(), _SAMPLE))
    count = corpus.size or (len(sample) if corpus.file is None else _documents(corpus.file, sample))
    if not sample or (count <= _SMALL and how.retriever != "dense"):
        return None
    made = _dense(how, corpus, folder, sample, count) if how.retriever == "dense" else _lexical(how, sample, count)
    if made is None:
        return None
    what, seconds, memory, disk = made
    stored = sum(len(document.text.encode()) + 50 for document in sample) * count // max(1, len(sample))
    questions = None if options.data is None else options.data.model_copy(update={"corpus": None})
    # Questions and experts do not depend on the search, and a server is asked only when something is searched.
    tasks = {"retriever": "http://127.0.0.1:9", "encoder": None, "faiss": None, "index": None, "cache": None}
    return Preparation(
        f"index of {'about ' if corpus.size is None else ''}{count:,} passages, {what}",
        folder,
        seconds + _STORING * count,
        _BASE + memory + 40 * count,
        0 if folder is None else disk + stored + 24 * count,
        {**options.model_dump(), **tasks, "data": None if questions is None else questions.model_dump()},
    )


def _is_built(retriever: str, folder: Path, corpus: Corpus) -> bool:
    """Return whether a lexical index is in the folder; `_dense` looks for its own folders."""
    if retriever == "bm25":
        from empg.environments.deepsearch.retrieval.bm25 import bm25_folder

        return bm25_folder(folder, corpus.fingerprint()).is_dir()
    if retriever == "tantivy":
        from empg.environments.deepsearch.retrieval.tantivy_index import tantivy_folder

        return tantivy_folder(folder, corpus.fingerprint()).is_dir()
    return False


Cost = tuple[str, float, int, int]
"""What is built, and its seconds, bytes of memory and bytes on disk."""


def _lexical(how: Searching, sample: Sequence[Document], count: int) -> Cost:
    begun = time.perf_counter()
    if how.retriever == "bm25":
        from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever

        BM25Retriever.build(sample)
    else:
        from empg.environments.deepsearch.retrieval.tantivy_index import TantivyRetriever

        TantivyRetriever.build(sample)
    rate = len(sample) / (time.perf_counter() - begun)
    terms = [analyze(f"{document.title}\n{document.text}") for document in sample]
    words = sum(map(len, terms)) * count // len(sample)
    pairs = sum(len(set(own)) for own in terms) * count // len(sample)
    memory, disk = (_WORD * words, 8 * pairs) if how.retriever == "bm25" else (128 << 20, 2 * words)
    return f"{how.retriever}: {rate:,.0f} passages per second, measured on {len(sample):,}", count / rate, memory, disk


def _dense(how: Searching, corpus: Corpus, folder: Path | None, sample: Sequence[Document], count: int) -> Cost | None:
    from empg.environments.deepsearch.retrieval.dense import BATCH, document_text, faiss_folder, vectors_folder

    encoder = open_encoder(how)
    weights = sum(file.stat().st_size for file in how.encoder.folder.glob("*.safetensors")) if how.encoder else 0
    graph = 4 * encoder.dimensions * count if how.faiss is not None else 0  # at most, without the links of HNSW
    faiss = f", and the faiss index {how.faiss}, whose time is not included" if how.faiss is not None else ""
    if how.index is not None:
        if folder is not None and documents_folder(folder, corpus.fingerprint()).is_dir():
            return None
        return f"published as {how.index.name}", 0.0, weights, 0
    if folder is not None and vectors_folder(folder, corpus.fingerprint(), encoder).is_dir():
        if how.faiss is None or faiss_folder(folder, corpus.fingerprint(), encoder, how.faiss).is_dir():
            return None
        return f"whose vectors are there{faiss}", 0.0, graph, graph
    texts = [document_text(document) for document in sample[:BATCH]]
    encoder.documents(texts[:4])
    begun = time.perf_counter()
    encoder.documents(texts)
    rate = len(texts) / (time.perf_counter() - begun)
    vectors = 2 * encoder.dimensions * count
    memory = weights + _ENCODING + graph + (vectors if folder is None else 0)
    what = f"dense: {rate:,.1f} passages per second, measured on {len(texts)}{faiss}"
    return what, count / rate, memory, vectors + graph


def _documents(file: Path, sample: Sequence[Document]) -> int:
    """Return the number of documents of a corpus, exact for Parquet and for small files, else estimated.

    A plain file has as many records as lines of the mean length of the first ones. An array may be one line, and a
    compressed file has no lines, so there the size of the sample, compressed in the same way, stands for theirs.
    """
    if len(sample) < _SAMPLE:
        return len(sample)
    with file.open("rb") as raw:
        head = raw.read(len(PARQUET))
    if head == PARQUET:
        from pyarrow import parquet

        return int(parquet.read_metadata(file).num_rows)
    with opened(file) as text:
        start = text.read(1_024).lstrip()[:1]
    is_compressed = head.startswith(tuple(COMPRESSED))
    if start != b"[" and not is_compressed:
        with file.open("rb") as raw:
            lengths = [len(raw.readline(MAX_LINE)) for _ in range(_SAMPLE)]
        return os.path.getsize(file) * len(lengths) // sum(lengths)
    records = "".join(json.dumps({"id": d.id, "title": d.title, "text": d.text}) for d in sample).encode()
    size = len(zlib.compress(records)) if is_compressed else len(records)
    return os.path.getsize(file) * len(sample) // size
