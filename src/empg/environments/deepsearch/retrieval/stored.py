"""Documents on disk. Each corpus is stored once, for all its indexes, and memory-mapped.

A folder is named by the fingerprint of its source. A changed corpus therefore gets a new folder, and an index that
another process has mapped is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from empg.environments.deepsearch.world import Document
from empg.environments.progress_bar import Stage, no_bars
from empg.environments.publishing import build_once
from empg.errors import UserError

FORMAT = 3  # increase it when the content of a folder or the analysis of text changes


def fingerprint_documents(documents: Iterable[Document]) -> str:
    """Return a fingerprint of the content and order of documents: 16 hexadecimal digits."""
    digest = hashlib.sha256(f"{FORMAT}".encode())
    for document in documents:
        digest.update(_as_line(document))
    return digest.hexdigest()[:16]


def open_documents(
    documents: Callable[[], Iterable[Document]],
    fingerprint: str,
    cache: Path,
    stage: Stage = no_bars,
    size: int | None = None,
) -> StoredDocuments:
    """Open the documents of a corpus. They are stored on first use and then memory-mapped.

    Args:
        documents: returns the corpus; called only if it is not stored yet.
        fingerprint: fingerprint of the corpus (`fingerprint_files` with `FORMAT`, `fingerprint_documents`).
        cache: the folder that contains the indexes.
        stage: receives the number of stored documents.
        size: the number of documents, if it is known.

    Raises:
        UserError: the corpus is empty, or see `build_once`.
    """
    folder = documents_folder(cache, fingerprint)
    build_once(folder, lambda work: _store(documents(), work, stage, size))
    return StoredDocuments(folder)


def documents_folder(cache: Path, fingerprint: str) -> Path:
    """Return the folder of the documents of a corpus."""
    return cache / f"documents-{fingerprint}"


def _store(documents: Iterable[Document], folder: Path, stage: Stage, size: int | None) -> None:
    starts = array("q", [0])  # 8 bytes per document
    done = stage("documents", size)
    with (folder / "documents.jsonl").open("wb") as file:
        for document in documents:
            line = _as_line(document)
            file.write(line)
            starts.append(starts[-1] + len(line))
            done(len(starts) - 1)
    if len(starts) == 1:
        raise UserError("the corpus is empty: there is nothing to search")
    np.save(folder / "starts.npy", np.frombuffer(starts, dtype=np.int64))


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
