"""A corpus file: read with its faults, indexed once, opened by every process, searched and read by title."""

from __future__ import annotations

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


def test_both_forms_of_a_document_are_read(tmp_path: Path) -> None:
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
def test_a_title_keeps_the_quotation_marks_that_are_its_own(tmp_path: Path, first: str, title: str) -> None:
    [document] = read_corpus(_write(tmp_path / "c.jsonl", {"id": "1", "contents": f"{first}\nText."}))
    assert document == Document("1", title, "Text.")


def test_a_long_first_line_is_text_and_no_title(tmp_path: Path) -> None:
    [document] = read_corpus(_write(tmp_path / "c.jsonl", {"id": "1", "contents": "word " * 200 + "\nmore"}))
    assert document.title == ""
    assert document.text.endswith("more")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{not json}\n", "not JSON"),
        ("[1, 2]\n", "not an object"),
        ('{"id": "1"}\n', "neither text nor contents"),
        ('{"id": true, "text": "x"}\n', "id is no text"),
        ('{"id": "1", "title": 3, "text": "x"}\n', "title is no text"),
        ('{"id": "1", "text": "  "}\n', "empty"),
        ("[" * 100_000 + "\n", "not JSON"),
    ],
)
def test_a_line_that_is_no_document_is_counted_with_its_place(tmp_path: Path, line: str, complaint: str) -> None:
    corpus = _write(tmp_path / "c.jsonl", {"id": "1", "text": "good"}, "\n", line, line)
    report = CorpusReport()
    assert len(list(read_corpus(corpus, report))) == 1
    assert report.summary() == f"1 documents; 2 malformed ({complaint}; first: line 3)"


def test_bytes_that_are_no_text_do_not_stop_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"id": "1", "text": "\xff\xfe"}\n{"id": "2", "text": "half \\ud800 pair"}\n')
    report = CorpusReport()
    assert [d.text for d in read_corpus(path, report)] == ["half ? pair"]
    assert report.malformed == {"not JSON": 1}


def test_a_file_that_is_missing_or_holds_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"c\.jsonl is not there; a corpus is a file of lines"):
        read_corpus(tmp_path / "c.jsonl")
    with pytest.raises(ValueError, match=r"c\.jsonl has no usable document: 0 documents; 1 malformed"):
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
    assert page == Document("7", "Town 7", "The mayor of town 7 is person 49.\nA second passage.")  # all of that title
    assert library.open("Town 99") is None
    made = sorted((f, f.stat().st_mtime_ns) for f in (tmp_path / "empg-index").rglob("*") if f.is_file())
    again, _ = open_search(Searching(retriever=retriever), corpus_file(path))
    assert again.search(["mayor of town 33"], 1) == [[hit]]
    assert made == sorted((f, f.stat().st_mtime_ns) for f in (tmp_path / "empg-index").rglob("*") if f.is_file())


def test_a_page_of_very_many_passages_is_bounded() -> None:
    many = [Document(str(number), "Town", "x" * 30_000) for number in range(1_000)]
    page = Titles(many).open("town")
    assert page is not None
    assert 100_000 <= len(page.text) <= 131_000


def test_a_changed_file_is_indexed_anew(tmp_path: Path) -> None:
    path = _write(tmp_path / "c.jsonl", *TOWNS)
    open_search(Searching(cache=tmp_path / "cache"), corpus_file(path))
    _write(path, {"id": "new", "title": "Newport", "text": "The mayor is new."})
    os.utime(path, ns=(1, 1))
    search, _ = open_search(Searching(cache=tmp_path / "cache"), corpus_file(path))
    assert [hit.document.id for hit in search.search(["mayor"], 5)[0]] == ["new"]


def test_what_was_left_out_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        list(read_corpus(_write(tmp_path / "c.jsonl", *TOWNS, "broken\n")))
    assert "c.jsonl: 50 documents; 1 malformed (not JSON; first: line 51)" in caplog.text


def test_indexing_shows_its_progress_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _write(tmp_path / "c.jsonl", *TOWNS)
    open_search(Searching(retriever="bm25"), corpus_file(path))
    assert "Indexing the corpus (once)" in capsys.readouterr().err
    open_search(Searching(retriever="bm25"), corpus_file(path))
    assert capsys.readouterr().err == ""
