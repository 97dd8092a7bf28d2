"""Measure every local retriever on a large corpus: time and memory to index, disk, and latency with 1 and 8 clients.

python benchmarks/retrieval_scale.py [--passages 1000000] [--queries 100] [--retrievers bm25 tantivy dense SQfp16]

The corpus is synthetic: passages of 100 words (the length of Search-R1's) with Zipf frequencies; queries are 3 to 9
words of one passage. `dense` is exact search; any other name is a factory string of faiss. Their encoder adds a fixed
random vector per word, so the time to index is that of the index; a real encoder takes hours (see `empg doctor`).
Each part runs in its own process, so that memory is measured separately. Clients are threads of that process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from empg.environments.deepsearch.corpus import read_corpus
from empg.environments.deepsearch.retrieval.dense import Vectors, open_dense
from empg.environments.deepsearch.retrieval.stored import open_documents
from empg.environments.deepsearch.world import Document, Retriever

WORDS, HITS = 100, 3
DIMENSIONS = 384
HEADER = (
    "| retriever | index, wall / processor (s) | peak (GB) | disk (GB) | peak of a search (GB) | "
    "1 client, median / p95 (processor) (ms) | 8 clients |"
)


class WordVectors:
    """Encodes a text as the sum of random vectors of its words."""

    name = "word-vectors"
    dimensions = DIMENSIONS

    def __init__(self) -> None:
        self._vectors = np.random.default_rng(0).standard_normal((100_000, DIMENSIONS)).astype(np.float32)

    def documents(self, texts: Sequence[str]) -> Vectors:
        """Encode documents."""
        rows = [[zlib.crc32(word.encode()) % len(self._vectors) for word in text.split()] for text in texts]
        sums = np.stack([self._vectors[row].sum(axis=0) for row in rows])
        return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), dtype=np.float32)

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Encode queries."""
        return self.documents(texts)


def make_corpus(passages: int, path: Path) -> None:
    rng, numbers = random.Random(0), np.random.default_rng(0)
    words = ["".join(rng.choices("abcdefghijklmnoprstuvw", k=rng.randint(3, 9))) for _ in range(50_000)]
    frequency = 1 / np.arange(1, len(words) + 1)
    bounds = np.cumsum(frequency / frequency.sum())
    with path.open("w", encoding="utf-8") as file:
        for first in range(0, passages, 10_000):
            drawn = np.searchsorted(bounds, numbers.random((min(10_000, passages - first), WORDS)))
            for row, own in enumerate(np.minimum(drawn, len(words) - 1).tolist(), first):
                text = " ".join([words[word] for word in own])
                file.write(json.dumps({"id": str(row), "title": f"{words[own[0]]} {row}", "text": text}) + "\n")


def questions(documents: Sequence[Document], count: int) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.sample(rng.choice(documents).text.split(), rng.randint(3, 9))) for _ in range(count)]


def open_retriever(name: str, documents: Sequence[Document], folder: Path) -> Retriever:
    if name == "bm25":
        from empg.environments.deepsearch.retrieval.bm25 import open_bm25

        return open_bm25(documents, "benchmark", folder)
    if name == "tantivy":
        from empg.environments.deepsearch.retrieval.tantivy_index import open_tantivy

        return open_tantivy(documents, "benchmark", folder)
    return open_dense(documents, "benchmark", WordVectors(), folder, None if name == "dense" else name)


def stored(folder: Path) -> Sequence[Document]:
    return open_documents(lambda: read_corpus(folder / "corpus.jsonl"), "benchmark", folder / "index")


def peak() -> float:
    """The peak of this process's memory in GB; that of mapped files counts while they are mapped."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e9


def build(name: str, folder: Path) -> None:
    begun = time.perf_counter()
    documents = stored(folder)
    if name != "documents":
        open_retriever(name, documents, folder / "index")
    print(json.dumps({"wall": time.perf_counter() - begun, "cpu": time.process_time(), "peak": peak()}))


def ask(name: str, folder: Path, count: int) -> None:
    documents = stored(folder)
    retriever = open_retriever(name, documents, folder / "index")
    queries = questions(documents, count)
    for query in queries[:5]:
        retriever.search([query], HITS)

    def timed(query: str) -> float:
        begun = time.perf_counter()
        retriever.search([query], HITS)
        return 1_000 * (time.perf_counter() - begun)

    found: dict[str, float] = {}
    for clients in (1, 8):
        begun = time.process_time()
        with ThreadPoolExecutor(clients) as pool:
            times = list(pool.map(timed, queries))
        found[f"{clients} median"], found[f"{clients} p95"] = np.percentile(times, [50, 95])
        found[f"{clients} cpu"] = 1_000 * (time.process_time() - begun) / count
    print(json.dumps({**found, "peak": peak()}))


def size(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e9


def rows(names: Sequence[str], folder: Path, count: int) -> Iterator[str]:
    def run(part: str, name: str) -> dict[str, float]:
        command = [sys.executable, __file__, "--part", part, "--retrievers", name, "--folder", str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "--queries", str(count)], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        return {key: float(value) for key, value in json.loads(done.stdout).items()}

    before = size(folder / "index")
    for name in ("documents", *names):
        made = run("build", name)
        after = size(folder / "index")
        row = f"| `{name}` | {made['wall']:.0f} / {made['cpu']:.0f} | {made['peak']:.1f} | {after - before:.2f} |"
        before = after
        if name == "documents":
            yield f"{row} | | |"
            continue
        asked = run("ask", name)
        cells = [f"{asked[f'{n} median']:.1f} / {asked[f'{n} p95']:.1f} ({asked[f'{n} cpu']:.1f})" for n in (1, 8)]
        yield f"{row} {asked['peak']:.1f} | {cells[0]} | {cells[1]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--retrievers", nargs="+", default=["bm25", "tantivy", "dense", "SQfp16"])
    parser.add_argument("--folder", type=Path, help="folder to keep the corpus and the indexes in")
    parser.add_argument("--part", choices=("build", "ask"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part == "build":
        build(arguments.retrievers[0], arguments.folder)
    elif arguments.part == "ask":
        ask(arguments.retrievers[0], arguments.folder, arguments.queries)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            folder = arguments.folder or Path(scratch)
            (folder / "index").mkdir(parents=True, exist_ok=True)
            if not (folder / "corpus.jsonl").is_file():
                make_corpus(arguments.passages, folder / "corpus.jsonl")
            print(HEADER, flush=True)
            for row in rows(arguments.retrievers, folder, arguments.queries):
                print(row, flush=True)


if __name__ == "__main__":
    main()
