"""How commands report errors and list environments: the typer classes of the command line."""

from __future__ import annotations

import errno
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from empg.errors import UserError
from empg.plain_text import visible

MAX_MESSAGE = 2_000  # characters of an error message
_REASON = 200  # characters at the end of one, where the reason stands
_OF_A_FILE = {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


class Commands(TyperGroup):
    """The command group. Prints a `UserError` as one line on standard error; other exceptions keep their traceback.

    The only other exceptions that are printed are those of a file: what its user may do, or what the disk can hold.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit with code 1 after a `UserError`."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            message = str(error)
        except OSError as error:
            if error.errno not in _OF_A_FILE or error.filename is None:
                raise
            message = f"{error.strerror}: {error.filename}"  # whichever argument it was
        for line in shortened(visible(message)).split("\n"):
            typer.echo(f"empg: {line}", err=True)
        raise typer.Exit(1)


class EnvironmentCommand(TyperCommand):
    """A command whose help ends with the registered environments. They are looked up only for the help."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the registered environments below the options."""
        from empg.environments.registry import known_ids

        with formatter.section("Registered environments"):
            formatter.write_text(", ".join(known_ids()))


def shortened(message: str) -> str:
    """Return a message cut to `MAX_MESSAGE` characters. What is left out stands before the reason at its end."""
    left = len(message) - MAX_MESSAGE
    if left <= 0:
        return message
    return f"{message[: MAX_MESSAGE - _REASON]} ... ({left:,} more characters) ... {message[-_REASON:]}"
