"""Locks between processes. The operating system releases them when a process ends, even by kill -9."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from empg.errors import UserError

if TYPE_CHECKING:
    from filelock import BaseFileLock


def acquire(path: Path, *, wait: float) -> BaseFileLock | None:
    """Take the lock file `path`, whose folder exists; None if another process holds it for `wait` seconds.

    Raises:
        UserError: it cannot be created.
    """
    from filelock import FileLock, Timeout  # not needed to read a run

    lock = FileLock(path, timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        return None
    except NotImplementedError:
        raise UserError(f"cannot lock {path}: the file system has no locks; use a folder on another one") from None
    except OSError as error:
        raise UserError(f"cannot create {path}: {error.strerror or error}") from None
    return lock


@contextmanager
def locked(path: Path, *, wait: float, busy: str) -> Iterator[None]:
    """Hold the lock file `path`, whose folder exists, during the block.

    Raises:
        UserError: another process holds it for `wait` seconds (the message is `busy`), or it cannot be created.
    """
    lock = acquire(path, wait=wait)
    if lock is None:
        raise UserError(busy)
    try:
        yield
    finally:
        lock.release()
