"""Documents on disk and the fingerprints that name index folders. Folders are written once and memory-mapped.

A folder is named by the fingerprint of its source. A changed corpus therefore gets a new folder, and an index that
another process has mapped is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from empg.environments.deepsearch.world import Document
from empg.environments.publishing import publish
from empg.errors import UserError

Progress = Callable[[int], None]  # receives the number of finished documents

FORMAT = 3  # increase it when the content of a folder or the analysis of text changes


def fingerprint_documents(documents: Iterable[Document]) -> str:
    """Return a fingerprint of the content and order of documents: 16 hexadecimal digits."""
    digest = hashlib.sha256(f"{FORMAT}".encode())
    for document in documents:
        digest.update(_as_line(document))
    return digest.hexdigest()[:16]


def fingerprint_files(*files: Path) -> str:
    """Return a fingerprint of the names, sizes and times of files, for corpora that are too large to read twice.

    Raises:
        FileNotFoundError: a file is missing.
    """
    parts = [f"{FORMAT}"]
    for file in files:
        stat = file.stat()
        parts.append(f"{file.name}/{stat.st_size}/{stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def store_documents(
    documents: Iterable[Document], folder: Path, progress: Progress | None = None
) -> Iterator[Document]:
    """Yield documents and write each of them to the folder; `StoredDocuments(folder)` reads them back.

    Raises:
        UserError: the corpus is empty.
    """
    starts = [0]
    with (folder / "documents.jsonl").open("wb") as file:
        for document in documents:
            line = _as_line(document)
            file.write(line)
            starts.append(starts[-1] + len(line))
            yield document
            if progress is not None:
                progress(len(starts) - 1)
    if len(starts) == 1:
        raise UserError("the corpus is empty: there is nothing to search")
    np.save(folder / "starts.npy", np.asarray(starts, dtype=np.int64))


def open_documents(
    documents: Callable[[], Iterable[Document]], fingerprint: str, cache: Path, progress: Progress | None = None
) -> StoredDocuments:
    """Open the documents of a corpus that has no local index. They are stored on first use and then memory-mapped.

    The arguments are those of `bm25.open_bm25`.

    Raises:
        UserError: the corpus is empty.
    """
    folder = cache / f"documents-{fingerprint}"
    if not folder.is_dir():

        def write(work: Path) -> None:
            for _ in store_documents(documents(), work, progress):
                pass

        publish(folder, write)
    return StoredDocuments(folder)


class StoredDocuments(Sequence[Document]):
    """The memory-mapped documents of a folder, parsed on access."""

    def __init__(self, folder: Path) -> None:
        self._starts: npt.NDArray[np.int64] = np.load(folder / "starts.npy", mmap_mode="r")
        with (folder / "documents.jsonl").open("rb") as file:
            self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, row: int) -> Document: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Document]: ...
    def __getitem__(self, row: int | slice) -> Document | Sequence[Document]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        if row < 0:
            row += len(self)
        if not 0 <= row < len(self):
            raise IndexError(f"document index out of range: expected 0 to {len(self) - 1}, got {row}")
        name, title, text = json.loads(self._lines[self._starts[row] : self._starts[row + 1]])
        return Document(name, title, text)


def _as_line(document: Document) -> bytes:
    parts = (document.id, document.title, document.text)
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
