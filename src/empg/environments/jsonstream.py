"""Streaming readers for large JSON files: array items, object members or JSON lines, one record at a time."""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from empg.errors import UserError

_CHUNK = 1 << 20  # bytes
_MAX_RECORD = 1 << 26  # characters; a longer record means that the file is damaged
_SPACE = " \t\r\n"
_SEPARATORS = f"{_SPACE},"
_REST_OF_NUMBER = re.compile(r"[0-9.eE+-]*\Z")

Progress = Callable[[int], None]  # receives the number of bytes read so far


def stream_items(path: Path, progress: Progress | None = None) -> Iterator[Any]:
    """Yield the items of a JSON array, or the lines of a JSON-lines file.

    Raises:
        UserError: the file is damaged or truncated, or continues after the array; the message gives the last complete
            item.
    """
    with path.open("rb") as file:
        yield from read_items(file, path, progress)


def read_items(
    file: BinaryIO, path: Path, progress: Progress | None = None, *, inside_object: bool = False
) -> Iterator[Any]:
    """Yield what `stream_items` yields, from a file that is open at the start of the array; `path` names it in errors.

    With `inside_object` the array is a member of an object, and the rest of that object is not read.

    Raises:
        UserError: see `stream_items`.
    """
    reader = _Reader(file, path, progress)
    is_array = reader.peek() == "["
    if is_array:
        reader.skip()
    ends = ("", "]") if is_array else ("",)
    while reader.peek() not in ends:
        yield reader.value()
    if is_array and reader.peek() == "":
        raise UserError(f"{path}: the file is truncated after item {reader.values}; download it again")
    if is_array and not inside_object:
        reader.end("array")


def stream_members(path: Path, progress: Progress | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the (key, value) members of a JSON object, in order.

    Raises:
        UserError: the file is not a JSON object, is damaged or truncated, or continues after the object.
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
        reader.end("object")


class _Reader:
    """A text window that moves through the file one JSON value at a time."""

    def __init__(self, file: BinaryIO, path: Path, progress: Progress | None) -> None:
        self._file, self._path, self._progress = file, path, progress
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()  # without the byte order mark of Windows programs
        self._text, self._at, self._ended, self._undecodable = "", 0, False, False
        self._decoder = json.JSONDecoder()
        self.values = 0

    def peek(self, separators: str = _SEPARATORS) -> str:
        """Return the next character that is not a separator, or "" at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in separators:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Skip the character that `peek` returned."""
        self._at += 1

    def end(self, what: str) -> None:
        """Skip the bracket that `peek` returned, and make sure that only white space follows."""
        self.skip()
        if self.peek(_SPACE) != "":
            problem = f"the file continues after its {what}, which ends after value {self.values}"
            raise UserError(f"{self._path}: {problem}: expected one {what}; download it again")

    def value(self) -> Any:
        """Return the next value."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except (json.JSONDecodeError, RecursionError) as error:
                # Either the window ends inside the value, or the file is damaged here.
                if len(self._text) - self._at < _MAX_RECORD and self._more():
                    continue
                problem = f"the file is not valid JSON after value {self.values} ({error})"
                raise UserError(f"{self._path}: {problem}; download it again") from None
            except ValueError:  # Python does not convert longer integers
                limit = f"{sys.get_int_max_str_digits():,}"
                problem = f"the file has an integer of more than {limit} digits after value {self.values}"
                raise UserError(f"{self._path}: {problem}; download it again") from None
            length = end - self._at
            if isinstance(value, int | float) and _REST_OF_NUMBER.match(self._text, end) and self._more():
                continue  # the window may have ended inside the number
            self._at += length
            self.values += 1
            return value

    def _more(self) -> bool:
        """Read on. Return False at the end of the file."""
        if self._undecodable:
            raise UserError(f"{self._path}: the file is not UTF-8 after value {self.values}; download it again")
        if self._ended:
            return False
        # The window doubles, so that a long value is parsed only a few times.
        chunk = self._file.read(max(_CHUNK, len(self._text) - self._at))
        self._ended = not chunk
        try:
            text = self._utf8.decode(chunk, final=self._ended)
        except UnicodeDecodeError as error:
            # The values before it are read first, so that the message gives its place.
            text = error.object[: error.start].decode("utf-8")
            self._undecodable, self._ended = True, False
        if self._progress is not None:
            self._progress(self._file.tell())
        self._text, self._at = self._text[self._at :] + text, 0
        return not self._ended
