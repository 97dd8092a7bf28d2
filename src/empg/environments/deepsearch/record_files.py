"""Stream the records of JSON, CSV, TSV and Parquet files with their row numbers; unreadable records give a reason."""

from __future__ import annotations

import ast
import csv
import json
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from empg.environments.deepsearch.opened_files import PARQUET, READ, opened, plain_name
from empg.environments.jsonstream import read_items
from empg.errors import UserError

MAX_LISTED = 200_000  # characters of a list in a table cell
MAX_LINE = 1 << 26  # bytes; a longer line means that a file does not have one record per line
_HEAD = 4_096  # bytes used to detect the file format
_TAB = "\t"
_DATA = re.compile(rb'\{\s*"Data"\s*:\s*(?=\[)')

Records = Iterator[tuple[int, Any]]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Placeholder for a record that cannot be read."""

    reason: str


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of tables.

    Attributes:
        header: names, in lower case; the first line of a table is a header if it has one of them.
        without_header: the columns of a table without a header; if there are none, a header is required.
        lists: whether cells that contain a list are parsed.
        wanted: the columns of a Parquet file that are read, if it has one of them; None reads all.
    """

    header: frozenset[str]
    without_header: tuple[str, ...] = ()
    lists: bool = False
    wanted: frozenset[str] | None = None


def read_records(path: Path, columns: Columns) -> Records:
    """Stream the records of a JSON array, JSON lines, CSV, TSV or Parquet. The format is detected from the first bytes.

    Text may be compressed with gzip or zstd, and may start with a byte order mark. An object that starts with the array
    "Data", as in TriviaQA's files, is read as that array. Rows count from 1: items of an array or of Parquet, lines of
    any other file.

    Raises:
        UserError: the format is not read, or the file is a single JSON object; during the iteration, the file is
            damaged as a whole.
    """
    with opened(path) as file:
        head = file.read(_HEAD)
    start = head.lstrip()
    first = start.split(b"\n", 1)[0].strip()
    suffix = plain_name(path).suffix.lower()
    if head.startswith(PARQUET):
        return _parquet(path, columns.wanted)
    if suffix not in (".csv", ".tsv") and start.startswith(b"["):
        return _streamed(path, partial(_items, path, len(head) - len(start)))
    if suffix in (".json", ".jsonl", ".ndjson") or start.startswith(b"{"):
        data = _DATA.match(start)
        if data is not None:
            return _streamed(path, partial(_items, path, len(head) - len(start) + data.end(), inside_object=True))
        if first == b"{":
            problem = f"{path}: expected a list of records, got one JSON object"
            raise UserError(f"{problem}. Convert the list inside it to JSON lines (jq -c '.LIST[]')")
        return _streamed(path, partial(_lines, path))
    delimiter = _TAB if b"\t" in first else ","
    if not columns.without_header and not _is_header(first.decode("utf-8", "replace").split(delimiter), columns):
        needed = " or ".join(sorted(columns.header))
        problem = f"{path}: unsupported format: expected {READ}"
        raise UserError(f"{problem}. The first line of CSV or TSV must name the columns, one of them {needed}")
    return _streamed(path, partial(_table, path, delimiter, columns))


def _streamed(path: Path, read: Callable[[BinaryIO], Records]) -> Records:
    with opened(path) as file:
        yield from read(file)


def _items(path: Path, start: int, file: BinaryIO, *, inside_object: bool = False) -> Records:
    file.read(start)
    return enumerate(read_items(file, path, inside_object=inside_object), 1)


def _parquet(path: Path, wanted: frozenset[str] | None) -> Records:
    import pyarrow
    from pyarrow import parquet

    row = 0
    try:
        # Read piece by piece: by default a whole row group is held, which can be a gigabyte of passages.
        with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            names = [name for name in file.schema_arrow.names if wanted is not None and name in wanted]
            for batch in file.iter_batches(1_024, columns=names or None):
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: the file is damaged after row {row} ({error}); download it again") from None


def _lines(path: Path, file: BinaryIO) -> Records:
    for row, line in enumerate(_bounded(path, file), 1):
        if not line.strip():
            continue
        record: Any
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            record = Unreadable("not UTF-8")
        except (ValueError, RecursionError):
            record = Unreadable("not JSON")
        yield row, record


def _table(path: Path, delimiter: str, columns: Columns, file: BinaryIO) -> Records:
    """Stream a CSV or TSV table. Bytes that are not UTF-8 become lone surrogates, which then fail to encode.

    A quote that is not closed, or closed in a later row, would make one cell of all rows in between. Such a record
    costs its first line alone: in TSV, where quotes are often plain text, it is split at its tabs; in CSV it is not
    readable.
    """
    lines = _Lines(line.decode("utf-8", "surrogateescape") for line in _bounded(path, file))
    # A page of a corpus may exceed the limit of 131,072 characters per cell, which Python keeps for the whole process
    # and checks at each row. It is only ever raised, so that nobody else's file becomes unreadable.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        lines.record.clear()
        try:
            cells = next(reader, None)
            if cells is None:
                return
            if delimiter == _TAB and lines.has_rows_of(len(names or cells)):
                raise csv.Error("a quote is closed in a later row")
        except csv.Error as error:
            number, line = lines.give_back_all_but_the_first()
            if delimiter != _TAB:
                yield number, Unreadable(f"not CSV ({error})")
                continue
            cells = line.rstrip("\r\n").split(_TAB)
        number = lines.record[-1][0]
        try:
            "".join(cells).encode()
        except UnicodeEncodeError:
            yield number, Unreadable("not UTF-8")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if names is None:
            has_header = _is_header(cells, columns)
            names = [cell.strip() for cell in cells] if has_header else list(columns.without_header)
            if has_header:
                continue
        if len(cells) != len(names):
            yield number, Unreadable(f"wrong number of columns: expected {len(names)}")
        else:
            values: Iterable[Any] = map(listed, cells) if columns.lists else cells
            yield number, dict(zip(names, values, strict=True))


class _Lines(Iterator[str]):
    """The lines of a table; `record` are those of the current record with their numbers, and can be given back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.record: list[tuple[int, str]] = []
        self._numbered = enumerate(lines, 1)
        self._waiting: deque[tuple[int, str]] = deque()

    def __next__(self) -> str:
        self.record.append(self._waiting.popleft() if self._waiting else next(self._numbered))
        return self.record[-1][1]

    def has_rows_of(self, columns: int) -> bool:
        """Return whether the record has several lines, each of which would be a row of so many columns by itself."""
        return len(self.record) > 1 and all(line.count(_TAB) + 1 == columns for _, line in self.record)

    def give_back_all_but_the_first(self) -> tuple[int, str]:
        """Let the later lines of the record be read again, and return its first line with its number."""
        self._waiting.extendleft(reversed(self.record[1:]))
        del self.record[1:]
        return self.record[0]


def _is_header(cells: Iterable[str], columns: Columns) -> bool:
    """Return whether the first row of a table is a header."""
    return any(cell.strip(' "').lower() in columns.header for cell in cells)


def _bounded(path: Path, file: BinaryIO) -> Iterator[bytes]:
    for row, line in enumerate(iter(partial(file.readline, MAX_LINE + 1), b""), 1):
        if len(line) > MAX_LINE:
            raise UserError(f"{path}: line {row} is longer than {MAX_LINE >> 20} MiB: expected one record per line")
        yield line


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
