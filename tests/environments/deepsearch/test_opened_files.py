"""Files are read compressed and with a byte order mark; a format that is not read is named at once."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import sqlite3
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import ipc, parquet

from empg.environments.deepsearch.corpus import read_corpus
from empg.environments.deepsearch.datasets import documents_of, load_questions
from empg.environments.deepsearch.retrievers import corpus_file
from empg.environments.deepsearch.world import Document
from empg.errors import UserError

HARBOUR: dict[str, object] = {"id": "7", "title": "Harbour", "text": 'Ships, "big" ones,\nlie here — née.'}
MILL: dict[str, object] = {"id": "8", "title": "Mill", "text": "It turns."}
LINES = "".join(json.dumps(record) + "\n" for record in (HARBOUR, MILL)).encode()


def zstd(data: bytes) -> bytes:
    packed: bytes = pyarrow.compress(data, "zstd", asbytes=True)
    return packed


def table(delimiter: str, *columns: str) -> bytes:
    rows = [[f'"{str(record[name]).replace(chr(34), 2 * chr(34))}"' for name in columns] for record in (HARBOUR, MILL)]
    return "".join(delimiter.join(row) + "\n" for row in [columns, *rows]).encode()


def as_parquet(*records: dict[str, object]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(records)), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("wiki-18.jsonl", LINES),
        ("wiki-18.jsonl.gz", gzip.compress(LINES)),
        ("members.jsonl.gz", gzip.compress(LINES[:50]) + gzip.compress(LINES[50:])),  # bgzip and pigz write members
        ("wiki-18.jsonl.zst", zstd(LINES)),
        ("frames.jsonl.zst", zstd(LINES[:50]) + zstd(LINES[50:])),
        ("no-suffix", gzip.compress(LINES)),
        ("unpacked-by-a-browser.jsonl.gz", LINES),
        ("corpus.json", json.dumps([HARBOUR, MILL]).encode()),
        ("corpus.json.gz", gzip.compress(json.dumps([HARBOUR, MILL], indent=2).encode())),
        ("corpus.jsonl", LINES.replace(b'"id"', b'"_id"')),  # BEIR
        ("psgs_w100.tsv", table("\t", "id", "text", "title")),
        ("psgs_w100.tsv.gz", gzip.compress(table("\t", "id", "text", "title"))),
        ("quoted.tsv", table("\t", "id", "text", "title").replace(b"id\ttext\ttitle", b'"id"\t"text"\t"title"')),
        ("pages.csv", table(",", "title", "text", "id")),
        ("pages.parquet", as_parquet({**HARBOUR, "emb": [0.5]}, {**MILL, "emb": [0.5]})),
    ],
)
def test_a_corpus_of_each_format_gives_the_same_documents(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    expected = [Document(str(r["id"]), str(r["title"]), str(r["text"])) for r in (HARBOUR, MILL)]
    assert list(read_corpus(tmp_path / name)) == expected


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
@pytest.mark.parametrize(
    "text", [LINES.decode(), json.dumps([HARBOUR, MILL]), "id,title,text\n7,Harbour,Ships\n", "text\tid\nShips\t7\n"]
)
def test_a_byte_order_mark_before_a_corpus_is_skipped(
    text: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    (tmp_path / "corpus").write_bytes(pack(("\ufeff" + text).encode()))
    assert next(document.id for document in read_corpus(tmp_path / "corpus")) == "7"


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
@pytest.mark.parametrize(
    "text",
    [
        '{"question": "Who?", "golden_answers": ["Né"]}',
        '[{"question": "Who?", "golden_answers": ["Né"]}]',
        "question,answer\nWho?,Né",
        "Who?\tNé",
    ],
)
def test_a_byte_order_mark_before_questions_is_skipped(
    text: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    (tmp_path / "questions").write_bytes(pack(("\ufeff" + text).encode()))
    [question] = load_questions(tmp_path / "questions")
    assert (question.text, question.answers) == ("Who?", ("Né",))


def as_zip(data: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("corpus.jsonl", data)
    return sink.getvalue()


def as_tar(data: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        entry = tarfile.TarInfo("corpus.jsonl")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


def as_sqlite(data: bytes) -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table pages (text)")
        return connection.serialize() if hasattr(connection, "serialize") else b"SQLite format 3\0" + bytes(99)


def as_arrow(data: bytes) -> bytes:
    sink = io.BytesIO()
    rows = pyarrow.Table.from_pylist([HARBOUR])
    with ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (bz2.compress, "a bzip2 file. Decompress it with bunzip2"),
        (lzma.compress, "an xz file. Decompress it with unxz"),
        (lambda data: b"7z\xbc\xaf\x27\x1c" + data, "a 7z archive. Unpack it"),
        (as_zip, "a ZIP archive. Unpack it"),
        (as_tar, "a tar archive. Unpack it"),
        (lambda data: gzip.compress(as_tar(data)), "a tar archive inside gzip. Unpack it"),
        (lambda data: gzip.compress(gzip.compress(data)), "a compressed file inside gzip. Decompress it"),
        (lambda data: gzip.compress(as_parquet(HARBOUR)), "Parquet inside gzip. Decompress it"),
        (as_sqlite, "an SQLite database. Export its table as CSV"),
        (as_arrow, "an Arrow stream. Write it as Parquet"),
        (lambda data: data.decode().encode("utf-16"), "a UTF-16 file. Convert it with iconv"),
        (lambda data: b"<!DOCTYPE html><html>" + data, "an HTML or XML file. Download the data itself"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer. Download the file"),
        (lambda data: bytes(range(256)), "binary data. Convert it"),
    ],
)
@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.gz", "corpus"])
def test_a_format_that_is_not_read_is_named(
    make: Callable[[bytes], bytes], named: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(make(LINES))
    for read in (read_corpus, corpus_file, lambda path: list(load_questions(path))):
        with pytest.raises(ValueError, match=rf"{name}: unsupported format: expected JSON lines, .*, got {named}"):
            read(path)


@pytest.mark.parametrize(
    ("start", "name", "message"),
    [
        (bz2.compress(LINES), "wiki.jsonl.bz2", "got a bzip2 file"),
        (b"\0\1\2", "wiki.index", "got binary data"),
        (
            b"Anarchism is a political\nphilosophy.\n" * 50,
            "wiki.txt",
            "The first line of CSV or TSV must name the columns",
        ),
        (b'{"pages": [' + b" " * 5_000, "wiki.json", "line 1 is longer than 64 MiB: expected one record per line"),
        (b"no record\n" * 5_000, "wiki.jsonl", r"0 documents; 1,000 malformed \(not JSON; first: row 1\)"),
    ],
)
def test_a_huge_file_that_is_not_a_corpus_is_rejected_quickly(
    start: bytes, name: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(start)
    os.truncate(path, 50 << 30)  # sparse: zeros that take no disk
    begun = time.monotonic()
    with pytest.raises(ValueError, match=message):
        list(read_corpus(path))
    assert time.monotonic() - begun < 5  # about 0.1 s


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_truncated_download_is_an_error_at_its_end(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "wiki-18.jsonl.gz"
    path.write_bytes(pack(LINES * 2_000)[:-20])
    with pytest.raises(ValueError, match=r"wiki-18\.jsonl\.gz: the file cannot be read \(.*\); download it again"):
        list(read_corpus(path))


def test_a_line_of_any_length_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "' + b"x" * (70 << 20)))
    with pytest.raises(ValueError, match="line 1 is longer than 64 MiB"):
        list(read_corpus(path))


@pytest.mark.parametrize("load", [load_questions, documents_of, read_corpus])
def test_the_error_for_a_folder_says_to_name_a_file_in_it(load: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{tmp_path} is a folder: expected a file\. Name a file in it$") as caught:
        load(tmp_path)
    assert not isinstance(caught.value, FileNotFoundError)
