"""A corpus file is read with malformed lines, indexed once, shared by processes, searched, and opened by title."""

from __future__ import annotations

import csv
import json
import logging
import os
from pathlib import Path

import pytest

from empg.environments.deepsearch.corpus import CorpusReport, Titles, read_corpus
from empg.environments.deepsearch.options import Searching
from empg.environments.deepsearch.retrievers import corpus_file, open_search
from empg.environments.deepsearch.world import Document


def _write(path: Path, *records: object) -> Path:
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def test_both_document_formats_are_read(tmp_path: Path) -> None:
    corpus = _write(
        tmp_path / "c.jsonl",
        {"id": "7", "contents": '"Harbour"\nShips lie here.\nMany.'},
        {"id": 8, "title": "  Old\n Mill ", "text": "It turns."},
        {"contents": "No title at all."},
        {"id": "9", "text": None, "contents": '"Quay"\nA wall.'},
    )
    assert list(read_corpus(corpus)) == [
        Document("7", "Harbour", "Ships lie here.\nMany."),
        Document("8", "Old Mill", "It turns."),
        Document("3", "", "No title at all."),  # named by its line
        Document("9", "Quay", "A wall."),
    ]


@pytest.mark.parametrize(
    ("first", "title"),
    [
        ('"Harbour"', "Harbour"),
        ("Harbour", "Harbour"),
        ('""Heroes" (album)"', '"Heroes" (album)'),
        ('"Say "Hi""', 'Say "Hi"'),
        ('Say "Hi"', 'Say "Hi"'),
        ('"', '"'),
    ],
)
def test_a_title_keeps_its_own_quotation_marks(tmp_path: Path, first: str, title: str) -> None:
    [document] = read_corpus(_write(tmp_path / "c.jsonl", {"id": "1", "contents": f"{first}\nText."}))
    assert document == Document("1", title, "Text.")


def test_a_page_in_a_table_may_be_longer_than_pythons_limit_of_a_cell(tmp_path: Path) -> None:
    before = csv.field_size_limit(131_072)
    page = "word " * 30_000
    corpus = _write(tmp_path / "c.csv", f"id,title,text\n1,A,{page}\n2,B,b\n")
    try:
        assert [(d.title, len(d.text) > 140_000) for d in read_corpus(corpus)] == [("A", True), ("B", False)]
        csv.field_size_limit(1 << 30)
        list(read_corpus(corpus))
        assert csv.field_size_limit() == 1 << 30  # what another reader in this process needs stays
    finally:
        csv.field_size_limit(before)


def test_a_long_first_line_belongs_to_the_text(tmp_path: Path) -> None:
    [document] = read_corpus(_write(tmp_path / "c.jsonl", {"id": "1", "contents": "word " * 200 + "\nmore"}))
    assert document.title == ""
    assert document.text.endswith("more")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json}\n", "not JSON"),
        ("[1, 2]\n", "not an object"),
        ('{"id": "1"}\n', "text or contents must be a string"),
        ('{"id": true, "text": "x"}\n', "id must be a string or an integer"),
        ('{"id": "1", "title": 3, "text": "x"}\n', "title must be a string"),
        ('{"id": "1", "text": "  "}\n', "empty"),
        ("[" * 100_000 + "\n", "not JSON"),
    ],
)
def test_malformed_lines_are_counted_with_their_position(tmp_path: Path, line: str, reason: str) -> None:
    corpus = _write(tmp_path / "c.jsonl", {"id": "1", "text": "good"}, "\n", line, line)
    report = CorpusReport()
    assert len(list(read_corpus(corpus, report))) == 1
    assert report.summary() == f"1 documents; 2 malformed ({reason}; first: row 3)"


def test_invalid_bytes_affect_only_their_line(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"id": "1", "text": "\xff\xfe"}\n{"id": "2", "text": "half \\ud800 pair"}\n')
    report = CorpusReport()
    assert [d.text for d in read_corpus(path, report)] == ["half ? pair"]
    assert report.skipped.counts == {"not UTF-8": 1}


def test_a_missing_or_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"c\.jsonl: corpus not found: expected a file with lines"):
        read_corpus(tmp_path / "c.jsonl")
    with pytest.raises(ValueError, match=r"c\.jsonl: no usable document found: 0 documents; 1 malformed"):
        list(read_corpus(_write(tmp_path / "c.jsonl", "x\n")))


TOWNS = [{"id": str(n), "title": f"Town {n}", "text": f"The mayor of town {n} is person {n * n}."} for n in range(50)]


@pytest.mark.parametrize("retriever", ["bm25", "tantivy"])
def test_a_corpus_is_indexed_once_searched_and_opened_by_title(tmp_path: Path, retriever: str) -> None:
    path = _write(tmp_path / "towns.jsonl", *TOWNS, {"id": "again", "title": "Town 7", "text": "A second passage."})
    search, library = open_search(Searching(retriever=retriever), corpus_file(path))
    [[hit]] = search.search(["mayor of town 33"], 1)
    assert hit.document.title == "Town 33"
    assert library is not None
    page = library.open(" town   7 ")
    assert page is not None
    assert page == Document(
        "7", "Town 7", "The mayor of town 7 is person 49.\nA second passage."
    )  # all passages with this title
    assert library.open("Town 99") is None
    made = sorted((f, f.stat().st_mtime_ns) for f in (tmp_path / "empg-index").rglob("*") if f.is_file())
    again, _ = open_search(Searching(retriever=retriever), corpus_file(path))
    assert again.search(["mayor of town 33"], 1) == [[hit]]
    assert made == sorted((f, f.stat().st_mtime_ns) for f in (tmp_path / "empg-index").rglob("*") if f.is_file())


def test_the_length_of_a_page_is_limited() -> None:
    many = [Document(str(number), "Town", "x" * 30_000) for number in range(1_000)]
    page = Titles(many).open("town")
    assert page is not None
    assert 100_000 <= len(page.text) <= 131_000


def test_a_changed_file_is_indexed_again(tmp_path: Path) -> None:
    path = _write(tmp_path / "c.jsonl", *TOWNS)
    open_search(Searching(cache=tmp_path / "cache"), corpus_file(path))
    _write(path, {"id": "new", "title": "Newport", "text": "The mayor is new."})
    os.utime(path, ns=(1, 1))
    search, _ = open_search(Searching(cache=tmp_path / "cache"), corpus_file(path))
    assert [hit.document.id for hit in search.search(["mayor"], 5)[0]] == ["new"]


def test_skipped_lines_are_logged_as_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        list(read_corpus(_write(tmp_path / "c.jsonl", *TOWNS, "broken\n")))
    assert "c.jsonl: 50 documents; 1 malformed (not JSON; first: row 51)" in caplog.text


def test_progress_is_shown_only_while_indexing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _write(tmp_path / "c.jsonl", *TOWNS)
    open_search(Searching(retriever="bm25"), corpus_file(path))
    assert "Indexing the corpus (once)" in capsys.readouterr().err
    open_search(Searching(retriever="bm25"), corpus_file(path))
    assert capsys.readouterr().err == ""
