"""The command line: searching in a terminal, and serving a corpus to other machines."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from empg.cli import app
from empg.environments.deepsearch.options import EncoderOptions, Searching
from empg.environments.deepsearch.retrieval.served import ServedRetriever
from empg.environments.options import read_options
from tests.environments.deepsearch.smallworld import DOCUMENTS

EMPG = str(Path(sys.executable).with_name("empg"))


def played(*options: str, typed: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [EMPG, "play", "deepsearch", *options]
    done = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == code, done.stderr
    return done


def test_play_supports_search_open_and_answer() -> None:
    typed = "search[Marsh Cup]\n?\nopen[Marsh Cup (award 2)]\nopen[Nowhere]\nanswer[nothing]\n"
    done = played("pages=200", "snippet_words=5", "--split", "train", "--task", "0", typed=typed)
    assert "1. " in done.stdout
    assert "  search[<your query>]\n" in done.stdout
    assert "There is no such page." in done.stdout
    assert re.search(r"failed after 4 steps\nright answer: [^\n]+\n\Z", done.stdout)


def test_play_shows_the_expert() -> None:
    done = played("--split", "valid_ood", "--task", "1", "--expert")
    assert "> search[" in done.stdout
    assert "> open[" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("solved after")


def test_play_errors_are_one_line(tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text(
        json.dumps({"id": "b1", "question": "On which river is Dunmere?", "golden_answers": ["Lorrow"]})
    )
    corpus = write_corpus(tmp_path)
    data = f"data={{questions: {{dev: {questions}}}, corpus: {corpus}}}"
    done = played(data, "--split", "dev", "--task", "0", "--expert", code=1)
    assert done.stderr.splitlines()[-1].startswith("empg: question b1 of q has no gold chain")
    done = played("seed=[1]", code=1)
    assert done.stderr == "empg: seed: expected an integer, got [1]\n"


# ---- serving --------------------------------------------------------------------------------------------------------


def write_corpus(folder: Path) -> Path:
    path = folder / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"id": d.id, "contents": f'"{d.title}"\n{d.text}'}) for d in DOCUMENTS))
    return path


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Run the command and yield the address that it prints."""
    process = subprocess.Popen(
        [EMPG, "serve-retriever", *arguments, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.endswith("(press Ctrl-C to stop)\n"), process.communicate()[1]
        yield line.split()[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130, -signal.SIGINT)
        assert "Traceback" not in process.communicate()[1]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("retriever", ["bm25", "tantivy"])
def test_a_corpus_is_served(retriever: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    corpus = write_corpus(tmp_path)
    with serving(str(corpus), "--retriever", retriever) as url:
        body = {"queries": ["Dunmere Lorrow"] * 600, "topk": 1, "return_scores": True}
        answered = httpx.post(f"{url}/retrieve", json=body, timeout=60).json()["result"]
        assert len(answered) == 600
        assert answered[0][0]["document"]["contents"] == f'"Dunmere"\n{DOCUMENTS[3].text}'
        [[hit]] = ServedRetriever(url).search(["Dunmere Lorrow"], 1)
        assert hit.document == DOCUMENTS[3]
    assert list((tmp_path / "empg-index").iterdir())


def test_serve_errors_are_one_line(tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path))
    for arguments, message in (
        ([str(tmp_path / "no.jsonl")], "corpus not found: expected a file with lines"),
        ([corpus, "--retriever", "dense"], "retriever='dense' needs encoder"),
        (
            [corpus, "--retriever", "dense", "--encoder", str(tmp_path)],
            "is not the folder of a sentence-embedding model: config.json not found",
        ),
        ([corpus, "--faiss", "Flat"], "faiss='Flat' is for retriever='dense'"),
        ([corpus, "--encoder", str(tmp_path)], f"encoder='{tmp_path}' is for retriever='dense'"),
    ):
        done = subprocess.run([EMPG, "serve-retriever", *arguments], capture_output=True, text=True, timeout=100)
        assert done.returncode == 1, arguments
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--query-prefix", "--document-prefix", "--pooling", "--device"])
def test_an_option_of_the_encoder_needs_an_encoder(option: str) -> None:
    refused = CliRunner().invoke(app, ["serve-retriever", "corpus.jsonl", option, "mean"])
    assert refused.exit_code == 2
    assert f"{option} needs --encoder" in refused.output


def test_what_the_encoder_expects_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "empg.environments.deepsearch.served_corpus.serve_corpus",
        lambda corpus, searching, *_, **__: asked.append(searching),
    )
    e5 = ["--encoder", "e5", "--query-prefix", "query: ", "--pooling", "mean"]
    assert CliRunner().invoke(app, ["serve-retriever", "corpus.jsonl", "--retriever", "dense", *e5]).exit_code == 0
    encoder = read_options(Searching, asked[0]).encoder
    assert encoder == EncoderOptions(folder=Path("e5"), query_prefix="query: ", pooling="mean")


def test_the_help_names_every_format_of_a_corpus() -> None:
    said = " ".join(CliRunner().invoke(app, ["serve-retriever", "--help"]).output.split())
    assert "JSON lines, a JSON array, CSV, TSV or Parquet" in said
