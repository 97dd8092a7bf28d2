"""Files that survive a power failure: each is complete or absent, and the order of writing is kept."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from empg.errors import UserError


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk.

    Some network file systems cannot do this for a folder; they are left to their own rules.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def settle(partial: Path, path: Path) -> None:
    """Give a written file, or a folder whose files are on the disk, its final name.

    After a power failure the name stands for the complete content or, if it is new, does not exist.
    """
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)
    sync(path.parent.parent)  # the folder itself may be new


def require_room(folder: Path, size: int) -> None:
    """Raise an `OSError` unless a file of `size` bytes can be written into a folder."""
    with TemporaryFile(dir=folder) as file:
        file.write(bytes(size))
        file.flush()


def write_whole(path: Path, data: bytes) -> None:
    """Write a complete file or none; any failure is an `OSError`."""
    if not path.name:  # such as `.` or `/`
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        settle(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def require_output(path: Path) -> None:
    """Make sure that `write_file` can write a file, before the work for it; its folder is created.

    Raises:
        UserError: it cannot be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        require_room(path.parent, 0)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def write_file(path: Path, content: str | bytes) -> None:
    """Write a complete file or none; its folder is created. A character of a text that UTF-8 lacks is replaced.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.encode("utf-8", "replace") if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
