"""Files of records, whatever form they have, read one by one with their rows; what cannot be read says why."""

from __future__ import annotations

import ast
import csv
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empg.environments.jsonstream import stream_items
from empg.errors import UserError

MAX_LISTED = 200_000  # characters of a list that is written into a cell
_HEAD = 4_096  # bytes that show what kind of file it is
_DATA = re.compile(rb'\{\s*"Data"\s*:\s*(?=\[)')


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands where a record cannot be read."""

    why: str


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Stream the records of a JSON array, JSON lines, CSV, TSV or Parquet; what it is shows in its first bytes.

    An object that begins with the array "Data", as TriviaQA's files do, is read as that array. Rows count from 1: items
    of an array or of Parquet, lines of any other file. A table without a line of names has the columns question and
    answer; cells that hold a list are read as one.

    Raises:
        UserError: the file is damaged beyond the one record, or is a single JSON object.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PAR1"):
        return _parquet(path)
    if path.suffix.lower() not in (".csv", ".tsv") and start.startswith(b"["):
        return _array(path, len(head) - len(start))
    if path.suffix.lower() in (".json", ".jsonl", ".ndjson") or start.startswith(b"{"):
        data = _DATA.match(start)
        if data is not None:
            return _array(path, len(head) - len(start) + data.end())
        if start.split(b"\n", 1)[0].strip() == b"{":
            raise UserError(f"{path} is one JSON object: write the list inside it as JSON lines (jq -c '.LIST[]')")
        return _lines(path)
    return _table(path, "\t" if b"\t" in start.split(b"\n", 1)[0] else ",")


def _array(path: Path, start: int) -> Iterator[tuple[int, Any]]:
    try:
        yield from enumerate(stream_items(path, start=start), 1)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error.reason}; get it again") from None


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet

    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(1_024):
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read after row {row} ({error}); get it again") from None


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    for row, line in enumerate(_open(path), 1):
        if not line.strip():
            continue
        record: Any
        try:
            line.encode()
            record = json.loads(line)
        except UnicodeEncodeError:
            record = Unreadable("not UTF-8")
        except (ValueError, RecursionError):
            record = Unreadable("no JSON")
        yield row, record


def _table(path: Path, delimiter: str) -> Iterator[tuple[int, Any]]:
    """CSV or TSV, with a line of names, or question and answers without."""
    reader = csv.reader(_open(path), delimiter=delimiter)
    names: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
            if cells is None:
                return
            "".join(cells).encode()
        except csv.Error as error:
            yield reader.line_num, Unreadable(f"no {'TSV' if delimiter == chr(9) else 'CSV'} ({error})")
            continue
        except UnicodeEncodeError:
            yield reader.line_num, Unreadable("not UTF-8")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if names is None:
            has_names = any(cell.strip().lower() == "question" for cell in cells)
            names = [cell.strip() for cell in cells] if has_names else ["question", "answer"]
            if has_names:
                continue
        if len(cells) != len(names):
            yield reader.line_num, Unreadable(f"{len(names)} columns were expected")
        else:
            yield reader.line_num, dict(zip(names, map(listed, cells), strict=True))


def _open(path: Path) -> Iterable[str]:
    """Lines; bytes that are not UTF-8 become halves of surrogate pairs, which then do not encode."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield from file


def listed(cell: str) -> Any:
    """A list that is written into a cell, as JSON or as Python prints it; any other text as it is."""
    text = cell.strip()
    if not text.startswith("[") or not text.endswith("]") or len(text) > MAX_LISTED:
        return cell
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd escapes
                found = ast.literal_eval(text)  # reads literals, runs nothing
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return cell
    return found if isinstance(found, list) else cell
