"""Compare searches in one process: our BM25 (in memory and memory-mapped), bm25s and tantivy, on the same queries.

python benchmarks/retrieval.py [--sizes 2000 20000 100000] [--queries 200]

Queries are sent one by one, as by an agent. Ratios are relative to our BM25 in memory: 2.0 is twice the time or memory.
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from empg.environments.analysis import analyze
from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever, open_bm25
from empg.environments.deepsearch.retrieval.tantivy_index import TantivyRetriever
from empg.environments.deepsearch.world import Document

HITS = 5
Search = Callable[[str], object]


@dataclass(frozen=True)
class Measured:
    """Measurements of one retriever on one corpus."""

    index_s: float
    median_ms: float
    p95_ms: float
    added_mb: float  # resident memory added by the index


def make_corpus(size: int, queries: int) -> tuple[list[Document], list[str]]:
    """Make pages of 20 to 60 words with Zipf frequencies, and questions of 3 to 9 words taken from single pages."""
    rng, numbers = random.Random(0), np.random.default_rng(0)
    vocabulary = ["".join(rng.choices("abcdefghijklmnoprstuvw", k=rng.randint(3, 9))) for _ in range(30_000)]
    frequency = 1 / np.arange(1, len(vocabulary) + 1)
    drawn = numbers.choice(len(vocabulary), size=(size, 60), p=frequency / frequency.sum())
    documents: list[Document] = []
    for row in drawn:
        words = [vocabulary[word] for word in row[: rng.randint(20, 60)]]
        documents.append(Document(str(len(documents)), " ".join(words[:3]), " ".join(words[3:])))
    asked = [" ".join(rng.sample(rng.choice(documents).text.split(), rng.randint(3, 9))) for _ in range(queries)]
    return documents, asked


def ours(documents: list[Document]) -> Search:
    retriever = BM25Retriever.build(documents)
    return lambda query: retriever.search([query], HITS)


def ours_mapped(documents: list[Document]) -> Search:
    retriever = open_bm25(documents, "benchmark", Path(tempfile.mkdtemp()))
    return lambda query: retriever.search([query], HITS)


def plain_bm25s(documents: list[Document]) -> Search:
    index = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    index.index([analyze(f"{document.title}\n{document.text}") for document in documents], show_progress=False)
    return lambda query: index.retrieve([analyze(query)], corpus=documents, k=HITS, show_progress=False)


def tantivy_bm25(documents: list[Document]) -> Search:
    retriever = TantivyRetriever.build(documents)
    return lambda query: retriever.search([query], HITS)


def measure(make: Callable[[list[Document]], Search], documents: list[Document], queries: list[str]) -> Measured:
    gc.collect()
    process = psutil.Process()
    before, begun = process.memory_info().rss, time.perf_counter()
    search = make(documents)
    indexed = time.perf_counter() - begun
    gc.collect()
    added = process.memory_info().rss - before
    for query in queries[:10]:
        search(query)
    times = []
    for query in queries:
        begun = time.perf_counter()
        search(query)
        times.append(1_000 * (time.perf_counter() - begun))
    return Measured(indexed, float(np.median(times)), float(np.percentile(times, 95)), added / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 20_000, 100_000])
    parser.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    makers = {"ours, in memory": ours, "ours, mapped": ours_mapped, "bm25s": plain_bm25s, "tantivy": tantivy_bm25}
    for word in {word for document in make_corpus(2_000, 1)[0] for word in document.text.split()}:
        analyze(word)  # warm up the stemmer, so that all retrievers start equal
    table = Table(title=f"{arguments.queries} queries, top {HITS}", title_justify="left")
    for column in ("pages", "", "index s", "median ms", "p95 ms", "added MB", "median ratio", "p95 ratio"):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=column == "")
    for size in arguments.sizes:
        documents, queries = make_corpus(size, arguments.queries)
        base: Measured | None = None
        for name, make in makers.items():
            found = measure(make, documents, queries)
            base = base or found
            table.add_row(
                f"{size:,}", name, f"{found.index_s:.2f}", f"{found.median_ms:.3f}", f"{found.p95_ms:.3f}",
                f"{found.added_mb:.0f}", f"{found.median_ms / base.median_ms:.1f}", f"{found.p95_ms / base.p95_ms:.1f}",
            )  # fmt: skip
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main()
