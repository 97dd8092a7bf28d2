"""A corpus in a file of JSON lines: `{"id", "contents"}` as Search-R1 has it, or `{"id", "title", "text"}`.

It is read line by line, and indexed once into a folder of the cache: documents, an index and a table of titles, all
memory-mapped, so that twenty million passages are opened in milliseconds and shared by every process that searches
them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from empg.environments.deepsearch.actions import folded
from empg.environments.deepsearch.retrieval.query import clean_text
from empg.environments.deepsearch.retrieval.stored import Progress
from empg.environments.deepsearch.world import Document
from empg.environments.publishing import publish
from empg.errors import MissingFileError, UserError

_log = logging.getLogger(__name__)
_MAX_TITLE = 500  # characters; a first line that is longer is text
_MAX_PAGE = 100_000  # characters of all passages of a title


@dataclass(slots=True)
class CorpusReport:
    """What became of a corpus's lines; `examples` has the number of the first line of each complaint."""

    kept: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, int] = field(default_factory=dict)

    def complain(self, complaint: str, line: int) -> None:
        """Count a malformed line."""
        self.malformed[complaint] += 1
        self.examples.setdefault(complaint, line)

    def summary(self) -> str:
        """One line for a person."""
        parts = [f"{self.kept:,} documents"]
        for complaint, count in sorted(self.malformed.items()):
            parts.append(f"{count:,} malformed ({complaint}; first: line {self.examples[complaint]})")
        return "; ".join(parts)


def read_corpus(path: Path, report: CorpusReport | None = None) -> Iterator[Document]:
    """Stream the documents of a file; lines that are none are left out and counted.

    `report` is filled on the way; without one, what was left out is a warning in the log.

    Raises:
        MissingFileError: there is no such file; the message says what it should hold.
        UserError: at the end, no line was a document.
    """
    must_exist(path)
    return _read(path, CorpusReport() if report is None else report, warn=report is None)


def must_exist(path: Path) -> None:
    """Refuse to go on without a corpus.

    Raises:
        MissingFileError: there is no such file; the message says what it should hold.
    """
    if not path.is_file():
        raise MissingFileError(f'{path} is not there; a corpus is a file of lines {{"id": ..., "contents": ...}}')


def _read(path: Path, report: CorpusReport, warn: bool) -> Iterator[Document]:
    before = report.kept
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                document = _document(line, number)
            except ValueError as error:
                report.complain(str(error), number)
                continue
            report.kept += 1
            yield document
    if report.kept == before:
        raise UserError(f"{path} has no usable document: {report.summary()}")
    if warn and report.malformed:
        _log.warning("%s: %s", path, report.summary())


def _document(line: bytes, number: int) -> Document:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError("not JSON") from None
    if not isinstance(record, dict):
        raise UserError("not an object")
    name = record.get("id", number)
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise UserError("id is no text")
    title, text = record.get("title"), record.get("text")
    if text is None:
        text = record.get("contents")
    if not isinstance(text, str):
        raise UserError("neither text nor contents")
    if title is None:
        title, text = _cut_title(text)
    if not isinstance(title, str):
        raise UserError("title is no text")
    if not title.strip() and not text.strip():
        raise UserError("empty")
    return Document(clean_text(str(name)), clean_text(" ".join(title.split())), clean_text(text))


def _cut_title(contents: str) -> tuple[str, str]:
    """Search-R1's contents: the title in quotation marks on the first line, then the text."""
    first, newline, rest = contents.partition("\n")
    if newline and len(first) <= _MAX_TITLE:
        title = first.strip()
        quoted = len(title) > 1 and title.startswith('"') and title.endswith('"')
        return title[1:-1] if quoted else title, rest  # one pair only: the title may have its own
    return "", contents


class StoredTitles:
    """Whole pages by title, over documents on disk: a sorted table of hashes, memory-mapped. Implements `Library`.

    Of several documents with one title (the passages of a long page), all together are the page.
    """

    def __init__(self, folder: Path, documents: Sequence[Document]) -> None:
        self._hashes: npt.NDArray[np.uint64] = np.load(folder / "hashes.npy", mmap_mode="r")
        self._rows: npt.NDArray[np.int64] = np.load(folder / "rows.npy", mmap_mode="r")
        self._documents = documents

    def open(self, name: str) -> Document | None:
        """The page of that title, without regard to case and spaces."""
        return joined(self._named(folded(name)))

    def _named(self, wanted: str) -> Iterator[Document]:
        place = int(np.searchsorted(self._hashes, _hash(wanted)))
        while place < len(self._hashes) and self._hashes[place] == _hash(wanted):
            document = self._documents[int(self._rows[place])]
            if folded(document.title) == wanted:  # another title may have the same hash
                yield document
            place += 1


class Titles:
    """The same over documents in memory. Implements `Library`."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._pages: dict[str, list[Document]] = {}
        for document in documents:
            self._pages.setdefault(folded(document.title), []).append(document)

    def open(self, name: str) -> Document | None:
        """The page of that title, without regard to case and spaces."""
        return joined(self._pages.get(folded(name), ()))


def joined(passages: Iterable[Document]) -> Document | None:
    """The passages of one title as one page, under the id of the first, up to `_MAX_PAGE` characters; None of none."""
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


def open_titles(
    documents: Sequence[Document], fingerprint: str, cache: Path, progress: Progress | None = None
) -> StoredTitles:
    """The table of a corpus's titles, made on first use. The arguments are those of `open_bm25`."""
    folder = cache / f"titles-{fingerprint}"
    if not folder.is_dir():

        def write(work: Path) -> None:
            hashes = np.empty(len(documents), dtype=np.uint64)
            for row in range(len(documents)):
                hashes[row] = _hash(folded(documents[row].title))
                if progress is not None:
                    progress(row + 1)
            order = np.argsort(hashes, kind="stable")  # of one title, the first document stays first
            np.save(work / "hashes.npy", hashes[order])
            np.save(work / "rows.npy", order.astype(np.int64))

        publish(folder, write)
    return StoredTitles(folder, documents)


def _hash(title: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(title.encode("utf-8", "replace"), digest_size=8).digest(), "big"))
