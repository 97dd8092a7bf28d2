"""Errors that the user can fix, printed as one line. Any other exception is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something that the user can fix: a recipe, a file, an argument, a missing package, a full disk.

    The message is one line: what is wrong, what was expected, what to do.
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder does not exist; the message names it and says where to get it."""


class MissingExtraError(UserError, ImportError):
    """A package that this feature needs is not installed; the message gives the command that installs it."""


class RecipeError(UserError):
    """A recipe cannot be used; the message names the file, the key and the fix."""


@contextmanager
def failures_as(line: Callable[[Exception], str | None]) -> Iterator[None]:
    """Turn what other code raises into a `UserError`; `line` returns its message, or None for an error that stays."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (message := line(error)) is None:
            raise
        raise UserError(message) from error


def message_of(error: BaseException | str, limit: int = 200) -> str:
    """Return the message of another library's error on one line, of at most `limit` characters."""
    return " ".join(str(error).split())[:limit]


def described(error: BaseException) -> str:
    """Return the class and the message of another library's error on one line, of at most 300 characters."""
    return message_of(f"{type(error).__name__}: {error}", 300)
