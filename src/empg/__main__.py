"""The command `empg`. It starts without the packages of the commands, so that a missing extra is one line."""

from __future__ import annotations

import io
import signal
import sys
from typing import NoReturn

from empg.extras import missing_extra


def main() -> None:
    """Run the command line; exit with code 1 and one line if an extra is not installed."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a character that the terminal cannot show becomes a question mark
    try:
        from empg.cli import app
    except ModuleNotFoundError as error:
        _exit(None, error)
    except KeyboardInterrupt:  # later ones are caught by typer, which exits with the same code
        sys.exit(128 + signal.SIGINT)
    try:
        app()
    except ModuleNotFoundError as error:
        _exit(next((word for word in sys.argv[1:] if not word.startswith("-")), None), error)


def _exit(command: str | None, error: ModuleNotFoundError) -> NoReturn:
    line = missing_extra(command, error)
    if line is None:
        raise error
    sys.exit(line)


if __name__ == "__main__":
    main()
