"""Errors of a run folder, and how an error of the operating system becomes one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from empg.errors import UserError


class RunFolderError(UserError):
    """A run folder cannot be created, read or written; the message names the file or line and says what to do."""


@contextmanager
def os_errors_as(failure: str) -> Iterator[None]:
    """Turn an error of the operating system into a `RunFolderError` that says what failed, and why."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"{failure}: {error.strerror or error}") from None
