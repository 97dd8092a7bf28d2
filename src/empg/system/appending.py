"""Files of lines that only grow: an append writes all of its lines or, as far as the disk allows, none."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def append_lines(path: Path, lines: bytes) -> None:
    """Append complete lines to a file, which is created if needed, and wait until they are on the disk.

    An incomplete last line, left by a kill, is removed first. After an error the file is as before, so the same lines
    can be appended again. Processes that append to one file at the same time must take turns.

    Raises:
        OSError: the lines cannot be written (for example, the disk is full).
    """
    # Unbuffered: a buffer keeps what could not be written and writes it again when the file is closed.
    with path.open("ab+", buffering=0) as file:
        end = _drop_torn_line(file)
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise


def _drop_torn_line(file: BinaryIO) -> int:
    """Truncate a file to its last newline and return its size."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return end
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return end
    file.seek(0)
    return file.truncate(file.read().rfind(b"\n") + 1)
