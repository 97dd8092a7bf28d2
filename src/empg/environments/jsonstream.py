"""Streaming readers for large JSON files: array items, object members or JSON lines, one record at a time."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from empg.errors import UserError

_CHUNK = 1 << 20  # bytes
_MAX_RECORD = 1 << 26  # characters; a longer record means that the file is damaged
_SEPARATORS = " \t\r\n,"

Progress = Callable[[int], None]  # receives the number of bytes read so far


def stream_items(path: Path, progress: Progress | None = None) -> Iterator[Any]:
    """Yield the items of a JSON array, or the lines of a JSON-lines file.

    Raises:
        UserError: the file is damaged or truncated; the message gives the last complete item.
    """
    with path.open("rb") as file:
        yield from read_items(file, path, progress)


def read_items(file: BinaryIO, path: Path, progress: Progress | None = None) -> Iterator[Any]:
    """Yield what `stream_items` yields, from a file that is open at the start of the array; `path` names it in errors.

    Raises:
        UserError: see `stream_items`.
    """
    reader = _Reader(file, path, progress)
    is_array = reader.peek() == "["
    if is_array:
        reader.skip()
    while reader.peek() not in ("", "]"):
        yield reader.value()
    if is_array and reader.peek() == "":
        raise UserError(f"{path}: the file is truncated after item {reader.values}; download it again")


def stream_members(path: Path, progress: Progress | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the (key, value) members of a JSON object, in order.

    Raises:
        UserError: the file is not a JSON object, is damaged or is truncated.
    """
    with path.open("rb") as file:
        reader = _Reader(file, path, progress)
        if reader.peek() != "{":
            raise UserError(f"{path}: the file must be a JSON object")
        reader.skip()
        while reader.peek() not in ("", "}"):
            key = reader.value()
            if not isinstance(key, str) or reader.peek() != ":":
                raise UserError(f"{path}: the file is damaged after value {reader.values}; download it again")
            reader.skip()
            yield key, reader.value()
        if reader.peek() == "":
            raise UserError(f"{path}: the file is truncated after value {reader.values}; download it again")


class _Reader:
    """A text window that moves through the file one JSON value at a time."""

    def __init__(self, file: BinaryIO, path: Path, progress: Progress | None) -> None:
        self._file, self._path, self._progress = file, path, progress
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()  # without the byte order mark of Windows programs
        self._text, self._at, self._ended = "", 0, False
        self._decoder = json.JSONDecoder()
        self.values = 0

    def peek(self) -> str:
        """Return the next character that is not a separator, or "" at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SEPARATORS:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Skip the character that `peek` returned."""
        self._at += 1

    def value(self) -> Any:
        """Return the next value."""
        self.peek()
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._text, self._at)
            except (json.JSONDecodeError, RecursionError) as error:
                # Either the window ends inside the value, or the file is damaged here.
                if len(self._text) - self._at < _MAX_RECORD and self._more():
                    continue
                problem = f"the file is not valid JSON after value {self.values} ({error})"
                raise UserError(f"{self._path}: {problem}; download it again") from None
            self.values += 1
            return value

    def _more(self) -> bool:
        if self._ended:
            return False
        # The window doubles, so that a long value is parsed only a few times.
        chunk = self._file.read(max(_CHUNK, len(self._text) - self._at))
        self._ended = not chunk
        try:
            text = self._utf8.decode(chunk, final=self._ended)
        except UnicodeDecodeError:
            raise UserError(
                f"{self._path}: the file is not UTF-8 after value {self.values}; download it again"
            ) from None
        if self._progress is not None:
            self._progress(self._file.tell())
        self._text, self._at = self._text[self._at :] + text, 0
        return not self._ended
