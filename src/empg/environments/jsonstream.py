"""Huge JSON files, one record at a time: the items of an array, the members of an object, or JSON lines."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from empg.errors import UserError

_CHUNK = 1 << 20  # bytes
_MAX_RECORD = 1 << 26  # characters; a longer record is a damaged file
_SEPARATORS = " \t\r\n,"

Progress = Callable[[int], None]  # told the number of bytes read so far


def stream_items(path: Path, progress: Progress | None = None, *, start: int = 0) -> Iterator[Any]:
    """The items of a JSON array, or the lines of a JSON-lines file, from byte `start` on.

    Raises:
        UserError: the file is damaged or ends early; the message says after which item.
    """
    with path.open("rb") as file:
        file.seek(start)
        reader = _Reader(file, path, progress)
        is_array = reader.peek() == "["
        if is_array:
            reader.skip()
        while reader.peek() not in ("", "]"):
            yield reader.value()
        if is_array and reader.peek() == "":
            raise UserError(f"{path}: the file ends after item {reader.values}; it was cut, get it again")


def stream_members(path: Path, progress: Progress | None = None) -> Iterator[tuple[str, Any]]:
    """The members of a JSON object, in order.

    Raises:
        UserError: the file is no JSON object, is damaged or ends early.
    """
    with path.open("rb") as file:
        reader = _Reader(file, path, progress)
        if reader.peek() != "{":
            raise UserError(f"{path}: a JSON object was expected")
        reader.skip()
        while reader.peek() not in ("", "}"):
            key = reader.value()
            if not isinstance(key, str) or reader.peek() != ":":
                raise UserError(f"{path}: damaged after value {reader.values}; get it again")
            reader.skip()
            yield key, reader.value()
        if reader.peek() == "":
            raise UserError(f"{path}: the file ends after value {reader.values}; it was cut, get it again")


class _Reader:
    """A window on the file that moves on value by value."""

    def __init__(self, file: BinaryIO, path: Path, progress: Progress | None) -> None:
        self._file, self._path, self._progress = file, path, progress
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._ended = "", 0, False
        self._decoder = json.JSONDecoder()
        self.values = 0

    def peek(self) -> str:
        """The next character that is no separator, or "" at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SEPARATORS:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Pass over the character that was peeked at."""
        self._at += 1

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._text, self._at)
            except (json.JSONDecodeError, RecursionError) as error:
                # Either the window ends inside the value, or the file is broken here.
                if len(self._text) - self._at < _MAX_RECORD and self._more():
                    continue
                where = f"after value {self.values}"
                raise UserError(f"{self._path}: cannot be read {where} ({error}); get it again") from None
            self.values += 1
            return value

    def _more(self) -> bool:
        if self._ended:
            return False
        chunk = self._file.read(max(_CHUNK, len(self._text) - self._at))  # doubling: a long value is retried seldom
        self._ended = not chunk
        try:
            text = self._utf8.decode(chunk, final=self._ended)
        except UnicodeDecodeError:
            raise UserError(f"{self._path}: not UTF-8 after value {self.values}; get it again") from None
        if self._progress is not None:
            self._progress(self._file.tell())
        self._text, self._at = self._text[self._at :] + text, 0
        return not self._ended
