"""Read a corpus: records with `id` and `contents` (Search-R1's format), or with `id`, `title` and `text`.

The file is read record by record and indexed once into a cache folder: documents, an index and a table of titles, all
memory-mapped. Twenty million passages are then opened in milliseconds and shared by all processes that search them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from empg.environments.deepsearch.actions import folded
from empg.environments.deepsearch.opened_files import require_file
from empg.environments.deepsearch.record_files import Columns, Records, Unreadable, read_records
from empg.environments.deepsearch.retrieval.contents import split_contents
from empg.environments.deepsearch.world import Document
from empg.environments.progress_bar import Stage, no_bars
from empg.environments.publishing import build_once
from empg.environments.skipped import GIVE_UP, Skipped
from empg.errors import UserError
from empg.web.text import clean_text

_log = logging.getLogger(__name__)
_IDS = ("id", "_id", "docid")  # `_id` in BEIR
_COLUMNS = Columns(header=frozenset(("text", "contents")), wanted=frozenset((*_IDS, "title", "text", "contents")))
_MAX_PAGE = 100_000  # characters of all passages of one title


@dataclass(slots=True)
class CorpusReport:
    """Counts of the records of a corpus."""

    kept: int = 0
    skipped: Skipped = field(default_factory=Skipped)

    def summary(self) -> str:
        """Return a one-line summary."""
        return "; ".join([f"{self.kept:,} documents", *self.skipped.parts()])


def read_corpus(path: Path, report: CorpusReport | None = None) -> Iterator[Document]:
    """Stream the documents of a file in a format of `read_records`. Malformed records are skipped and counted.

    `report` is updated during the iteration. Without a report, skipped records are logged as a warning.

    Raises:
        MissingFileError: the file does not exist; the message describes its format.
        UserError: the path is a folder, or the format is not read; or, during the iteration, the file is damaged or
            the first `GIVE_UP` records are all malformed.
    """
    return _read(path, corpus_records(path), CorpusReport() if report is None else report, warn=report is None)


def corpus_records(path: Path) -> Records:
    """Open the records of a corpus file and check its format, which takes no time, whatever the size of the file.

    Raises:
        MissingFileError: the file does not exist; the message describes its format.
        UserError: the path is a folder, or the format is not read.
    """
    require_file(path, f'{path}: corpus not found: expected a file with lines {{"id": ..., "contents": ...}}')
    return read_records(path, _COLUMNS)


def _read(path: Path, records: Records, report: CorpusReport, warn: bool) -> Iterator[Document]:
    before = report.kept
    for number, (row, record) in enumerate(records, 1):
        try:
            document = _document(record, row)
        except ValueError as error:
            report.skipped.add(str(error), f"row {row}")
            if report.kept == before and number == GIVE_UP:
                break
            continue
        report.kept += 1
        yield document
    if report.kept == before:
        raise UserError(f"{path}: no usable document found: {report.summary()}")
    if warn and report.skipped.counts:
        _log.warning("%s: %s", path, report.summary())


def _document(record: Any, row: int) -> Document:
    if isinstance(record, Unreadable):
        raise UserError(record.reason)
    if not isinstance(record, dict):
        raise UserError("not an object")
    name = next((record[key] for key in _IDS if record.get(key) is not None), row)
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise UserError("id must be a string or an integer")
    title, text = record.get("title"), record.get("text")
    if text is None:
        text = record.get("contents")
    if not isinstance(text, str):
        raise UserError("text or contents must be a string")
    if title is None:
        title, text = split_contents(text)
    if not isinstance(title, str):
        raise UserError("title must be a string")
    if not title.strip() and not text.strip():
        raise UserError("empty")
    return Document(clean_text(str(name)), clean_text(" ".join(title.split())), clean_text(text))


class StoredTitles:
    """Opens whole pages by title from documents on disk, with a memory-mapped sorted table of hashes.

    Implements `Library`. All documents with one title (the passages of a long page) form one page.
    """

    def __init__(self, folder: Path, documents: Sequence[Document]) -> None:
        self._hashes: npt.NDArray[np.uint64] = np.load(folder / "hashes.npy", mmap_mode="r")
        self._rows: npt.NDArray[np.int64] = np.load(folder / "rows.npy", mmap_mode="r")
        self._documents = documents

    def open(self, name: str) -> Document | None:
        """Return the page with this title, without regard to case and spaces."""
        return joined(self._named(folded(name)))

    def _named(self, wanted: str) -> Iterator[Document]:
        place = int(np.searchsorted(self._hashes, _hash(wanted)))
        while place < len(self._hashes) and self._hashes[place] == _hash(wanted):
            document = self._documents[int(self._rows[place])]
            if folded(document.title) == wanted:  # another title may have the same hash
                yield document
            place += 1


class Titles:
    """Opens whole pages by title from documents in memory. Implements `Library`."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._pages: dict[str, list[Document]] = {}
        for document in documents:
            self._pages.setdefault(folded(document.title), []).append(document)

    def open(self, name: str) -> Document | None:
        """Return the page with this title, without regard to case and spaces."""
        return joined(self._pages.get(folded(name), ()))


def joined(passages: Iterable[Document]) -> Document | None:
    """Join the passages of one title to a page of up to `_MAX_PAGE` characters with the first id; None if empty."""
    first: Document | None = None
    texts: list[str] = []
    left = _MAX_PAGE
    for passage in passages:
        first = first or passage
        texts.append(passage.text)
        left -= len(passage.text)
        if left <= 0:
            break
    return first if first is None or len(texts) == 1 else Document(first.id, first.title, "\n".join(texts))


def open_titles(documents: Sequence[Document], fingerprint: str, cache: Path, stage: Stage = no_bars) -> StoredTitles:
    """Open the table of a corpus's titles, which is built on first use. The arguments are those of `open_bm25`."""
    folder = cache / f"titles-{fingerprint}"

    def write(work: Path) -> None:
        hashes = np.empty(len(documents), dtype=np.uint64)
        done = stage("titles", len(documents))
        for row in range(len(documents)):
            hashes[row] = _hash(folded(documents[row].title))
            done(row + 1)
        order = np.argsort(hashes, kind="stable")  # documents of one title keep their order
        np.save(work / "hashes.npy", hashes[order])
        np.save(work / "rows.npy", order.astype(np.int64))

    build_once(folder, write)
    return StoredTitles(folder, documents)


def _hash(title: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(title.encode("utf-8", "replace"), digest_size=8).digest(), "big"))
