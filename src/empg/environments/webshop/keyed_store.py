"""Disk-backed lookup of the values of a large JSON object by key. The official attributes file has 178 MB."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from empg.environments.jsonstream import Progress, stream_members
from empg.errors import UserError


class KeyedStore:
    """A lookup table that is read once from a file. Values are in a scratch file; memory contains only their offsets.

    Args:
        path: a file with one JSON object.
        keep: selects the keys to keep; they must consist of ASCII letters and digits.
        width: length of the longest kept key, in bytes.
        progress: receives the number of bytes read.

    Raises:
        UserError: the file is not a JSON object, is damaged or is truncated, or the disk of temporary files is full.
    """

    def __init__(self, path: Path, keep: Callable[[str], bool], width: int, progress: Progress | None = None) -> None:
        try:
            self._scratch = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise _unwritable(error) from error
        keys, starts = bytearray(), array("q", [0])
        try:
            for key, value in stream_members(path, progress):
                if keep(key):
                    text = json.dumps(value).encode()
                    self._write(text)
                    keys += key.encode().ljust(width, b"\0")
                    starts.append(starts[-1] + len(text))
            self._write(b"", flush=True)
        except BaseException:
            with suppress(OSError):  # a full disk fails again when the rest of the buffer is written
                self.close()
            raise
        names = np.frombuffer(bytes(keys), dtype=f"S{width}")
        self._order = np.argsort(names, kind="stable")
        self._names, self._starts = names[self._order], starts

    def __enter__(self) -> KeyedStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self, text: bytes, *, flush: bool = False) -> None:
        try:
            self._scratch.write(text)
            if flush:
                self._scratch.flush()
        except OSError as error:
            raise _unwritable(error) from error

    def get(self, key: str) -> Any:
        """Return the value of a kept key (the last one if the key is repeated), or None if the key is missing."""
        name = np.bytes_(key.encode())
        place = int(np.searchsorted(self._names, name, side="right")) - 1
        if place < 0 or self._names[place] != name:
            return None
        number = int(self._order[place])
        self._scratch.seek(self._starts[number])
        return json.loads(self._scratch.read(self._starts[number + 1] - self._starts[number]))

    def close(self) -> None:
        """Close and delete the scratch file."""
        self._scratch.close()


def _unwritable(error: OSError) -> UserError:
    return UserError(
        f"cannot write a temporary file: {error.strerror or error}. Free disk space, or set TMPDIR to a folder on "
        "another disk"
    )
