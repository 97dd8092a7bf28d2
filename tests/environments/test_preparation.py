"""Estimates of what indexing takes, against what it takes."""

from __future__ import annotations

import gzip
import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from empg.environments.deepsearch.options import DeepSearchOptions
from empg.environments.deepsearch.sources import open_source
from empg.environments.preparation import Preparation
from empg.environments.registry import find, make, preparation
from empg.environments.webshop.spec import WebShopOptions
from tests.environments.deepsearch.encoders import Hashing
from tests.environments.webshop.shops import write_official


def estimate(**options: Any) -> Preparation | None:
    return preparation(find("deepsearch"), DeepSearchOptions(**options))


@pytest.fixture(autouse=True)
def _hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("retrievers", "preparation"):
        monkeypatch.setattr(f"empg.environments.deepsearch.{place}.open_encoder", lambda how: Hashing())


@pytest.mark.parametrize("retriever", ["bm25", "tantivy", "dense"])
def test_time_and_disk_are_foreseen_roughly(tmp_path: Path, retriever: str, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, questions = tmp_path / "corpus.jsonl", tmp_path / "q.jsonl"
    lines = [
        json.dumps({"id": str(n), "title": f"Page {n}", "text": " ".join(f"word{n * k % 5_003}" for k in range(30))})
        for n in range(6_000)
    ]
    corpus.write_text("\n".join(lines))
    questions.write_text(json.dumps({"question": "Who?", "golden_answers": ["she"]}))
    options: dict[str, Any] = {
        "retriever": retriever, "data": {"questions": {"train": str(questions)}, "corpus": str(corpus)},
        "encoder": "e5" if retriever == "dense" else None,
    }  # fmt: skip
    found = estimate(**options)
    assert found is not None
    assert re.match(r"index of about [56],\d{3} passages, ", found.what)
    assert f"{retriever}: " in found.what
    begun = time.process_time()
    open_source(DeepSearchOptions(**options))
    assert found.folder == tmp_path / "empg-index"
    # The estimate is in seconds of this machine, which may be shared.
    assert 1 / 5 < found.seconds / (time.process_time() - begun) < 50
    used = sum(file.stat().st_size for file in found.folder.rglob("*") if file.is_file())
    assert 1 / 3 < found.disk / used < 3
    assert estimate(**options) is None  # it is built
    if retriever != "dense":
        monkeypatch.setattr("empg.environments.deepsearch.corpus._read", None)
        assert estimate(**options) is None  # no document is read to find this out


@pytest.mark.parametrize("name", ["array.json", "lines.jsonl", "lines.jsonl.gz", "array.json.gz", "corpus.parquet"])
def test_every_format_of_a_corpus_is_counted_about_right(tmp_path: Path, name: str) -> None:
    corpus, questions = tmp_path / name, tmp_path / "q.jsonl"
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(3_000)]
    records = [
        {"id": str(n), "title": f"Page {n}", "text": " ".join(rng.choices(words, k=rng.randint(20, 60)))}
        for n in range(12_000)
    ]
    if name.endswith(".parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(records), corpus)
    else:
        text = json.dumps(records) if name.startswith("array") else "\n".join(map(json.dumps, records))
        corpus.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    questions.write_text(json.dumps({"question": "Who?", "golden_answers": ["she"]}))
    found = estimate(data={"questions": {"train": str(questions)}, "corpus": str(corpus)})
    assert found is not None
    counted = re.match(r"index of about ([\d,]+) passages, ", found.what)
    assert counted is not None
    assert 10_500 < int(counted[1].replace(",", "")) < 13_500


def test_a_small_corpus_and_a_server_need_no_word(tmp_path: Path) -> None:
    assert estimate() is None
    assert estimate(retriever="http://127.0.0.1:9") is None
    in_memory = estimate(retriever="dense", encoder="e5", pages=100)
    assert in_memory is not None
    assert (in_memory.folder, in_memory.disk) == (None, 0)
    assert estimate(retriever="dense", encoder="e5", pages=100, cache=tmp_path) is not None


def test_the_tasks_can_be_opened_without_the_index(tmp_path: Path) -> None:
    found = estimate(pages=6_000, cache=tmp_path)
    assert found is not None
    assert found.tasks is not None
    quick = make("deepsearch", "train", found.tasks)
    assert list(tmp_path.iterdir()) == []
    assert quick.task_id(7) == make("deepsearch", "train", {"pages": 6_000}).task_id(7)


def test_the_catalogue_of_webshop_is_estimated_from_its_size(tmp_path: Path) -> None:
    spec = find("webshop")
    large = preparation(spec, WebShopOptions(products=1_000_000, cache=tmp_path))
    assert large is not None
    assert large.seconds == pytest.approx(290)
    assert (large.disk, large.tasks) == (880_000_000, None)
    assert preparation(spec, WebShopOptions(products=20_000)) is None
    files = write_official(tmp_path)
    assert preparation(spec, WebShopOptions(data=files)) is None
    records = json.loads(files.read_text())
    files.write_text(json.dumps([records[0] | {"asin": f"B{n:09}"} for n in range(30_000)]))
    official = preparation(spec, WebShopOptions(data=files))
    assert official is not None
    assert 24_000 < official.disk / 880 < 33_000
    few = preparation(spec, WebShopOptions(data=files, products=100))
    assert few is None
