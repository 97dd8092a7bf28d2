"""Stream the records of JSON, CSV, TSV and Parquet files with their row numbers; unreadable records give a reason."""

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

MAX_LISTED = 200_000  # characters of a list in a table cell
_HEAD = 4_096  # bytes used to detect the file format
_DATA = re.compile(rb'\{\s*"Data"\s*:\s*(?=\[)')


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Placeholder for a record that cannot be read."""

    reason: str


def read_records(path: Path) -> Iterator[tuple[int, Any]]:
    """Stream the records of a JSON array, JSON lines, CSV, TSV or Parquet. The format is detected from the first bytes.

    An object that starts with the array "Data", as in TriviaQA's files, is read as that array. Rows count from 1: items
    of an array or of Parquet, lines of any other file. A table without a header has the columns question and answer.
    Cells that contain a list are parsed as lists.

    Raises:
        UserError: the file is damaged as a whole, or is a single JSON object.
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
            problem = f"{path}: expected a list of records, got one JSON object"
            raise UserError(f"{problem}. Convert the list inside it to JSON lines (jq -c '.LIST[]')")
        return _lines(path)
    return _table(path, "\t" if b"\t" in start.split(b"\n", 1)[0] else ",")


def _array(path: Path, start: int) -> Iterator[tuple[int, Any]]:
    try:
        yield from enumerate(stream_items(path, start=start), 1)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: the file is not UTF-8 ({error.reason}); download it again") from None


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
        raise UserError(f"{path}: the file is damaged after row {row} ({error}); download it again") from None


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
            record = Unreadable("not JSON")
        yield row, record


def _table(path: Path, delimiter: str) -> Iterator[tuple[int, Any]]:
    """Stream a CSV or TSV table. Without a header the columns are question and answer."""
    reader = csv.reader(_open(path), delimiter=delimiter)
    names: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
            if cells is None:
                return
            "".join(cells).encode()
        except csv.Error as error:
            yield reader.line_num, Unreadable(f"not {'TSV' if delimiter == chr(9) else 'CSV'} ({error})")
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
            yield reader.line_num, Unreadable(f"wrong number of columns: expected {len(names)}")
        else:
            yield reader.line_num, dict(zip(names, map(listed, cells), strict=True))


def _open(path: Path) -> Iterable[str]:
    """Yield lines. Bytes that are not UTF-8 become lone surrogates, which then fail to encode."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield from file


def listed(cell: str) -> Any:
    """Parse a list in a cell, in JSON or Python notation. Any other text is returned unchanged."""
    text = cell.strip()
    if not text.startswith("[") or not text.endswith("]") or len(text) > MAX_LISTED:
        return cell
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about invalid escape sequences
                found = ast.literal_eval(text)  # parses literals only, executes nothing
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return cell
    return found if isinstance(found, list) else cell
